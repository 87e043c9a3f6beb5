"""Runs beside each other: what they reach and cost, what their recipes differ in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kws.data.speakers import places
from kws.report.facts import Facts

Row = tuple[str, list[str]]


@dataclass(frozen=True)
class Paired:
    """Two runs on the same clips.

    Args:
        first, second: Names.
        n: Clips.
        only_first: Right by the first alone.
        only_second: Right by the second alone.
        speakers_first, speakers_second: Speakers of whom the one hears more clips, or
            the other; None: not known who speaks.
    """

    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    speakers_first: int | None = None
    speakers_second: int | None = None

    @property
    def p(self) -> float:
        """How likely a split at least as uneven is, were both as good (the sign test,
        that is McNemar's exact one)."""
        return sign_test(self.only_first, self.only_second)

    @property
    def p_speakers(self) -> float | None:
        """The same of speakers: many clips of one are no more than one voice."""
        if self.speakers_first is None or self.speakers_second is None:
            return None
        return sign_test(self.speakers_first, self.speakers_second)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"p": self.p, "p_speakers": self.p_speakers}

    def text(self) -> str:
        """For people."""
        told = (
            f"{self.second} against {self.first}, clip by clip ({self.n:,}): right "
            f"where the other was wrong {self.only_second} to {self.only_first} times "
            f"(p = {self.p:.2g}); "
        )
        second_leads = self.only_second > self.only_first
        sure = self.p < 0.05
        more, fewer = self.speakers_second, self.speakers_first
        if self.p_speakers is not None and more is not None and fewer is not None:
            told += (
                f"better for {more} speakers to {fewer} (p = {self.p_speakers:.2g}); "
            )
            sure &= self.p_speakers < 0.05 and (more > fewer) == second_leads
        if sure:
            return f"{told}{self.second if second_leads else self.first} is better"
        return f"{told}they can't be told apart"


def sign_test(first: int, second: int) -> float:
    """Two-sided probability of a split at least as uneven, of fair coins.

    Example:
        >>> round(sign_test(2, 8), 3), sign_test(0, 0)
        (0.109, 1.0)
    """
    n, k = first + second, min(first, second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


def paired(first: Facts, second: Facts) -> Paired | None:
    """Two runs clip by clip; None where they were not asked about the same ones."""
    a, b = first.heard, second.heard
    if a is None or b is None or a.clips.labels != b.clips.labels:
        return None
    if a.clips.audio_hash != b.clips.audio_hash or a.clips.names != b.clips.names:
        return None
    right, also = a.heard == a.clips.label, b.heard == b.clips.label
    lead = also.astype(int) - right
    more: list[int] | list[None] = [None, None]
    if a.evaluation.speakers is not None:
        leads = [int(lead[rows].sum()) for rows in places(a.clips.names).values()]
        more = [sum(x < 0 for x in leads), sum(x > 0 for x in leads)]
    return Paired(
        first.run,
        second.run,
        len(right),
        int((lead < 0).sum()),
        int((lead > 0).sum()),
        *more,
    )


def changes(runs: Sequence[Facts]) -> dict[str, list[Any]]:
    """Keys of the recipes that are not the same in all: section.key -> values.

    The run's name is left out.
    """
    tables = [_flat(dataclasses.asdict(facts.bundle.recipe)) for facts in runs]
    found = {}
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [table.get(key) for table in tables]
        if key != "name" and any(value != values[0] for value in values):
            found[key] = values
    thresholds = [dict(sorted(facts.bundle.thresholds.items())) for facts in runs]
    if any(table != thresholds[0] for table in thresholds):
        found["delta thresholds"] = [
            ", ".join(f"{key}={value}" for key, value in table.items()) or "none"
            for table in thresholds
        ]
    return found


def _flat(table: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = list(value) if isinstance(value, tuple) else value
    return flat


def rows(runs: Sequence[Facts]) -> list[Row]:
    """What they reach and cost, a line each: (name, a text for each run).

    Where nothing is known of any, there is no line.
    """
    table: list[Row] = []

    def add(name: str, read: Callable[[Facts], str | None]) -> None:
        cells = [read(facts) for facts in runs]
        if any(cells):
            table.append((name, [cell or "-" for cell in cells]))

    add("task", lambda f: f.bundle.recipe.task.name)
    add("labels", lambda f: str(len(f.bundle.labels)))
    add("clips", _clips)
    add("right", lambda f: _percent(f.heard and f.heard.evaluation.accuracy))
    add("  95 %", _interval)
    labels = dict.fromkeys(label for facts in runs for label in facts.bundle.labels)
    for label in labels:
        add(f"  {label}", lambda f, label=label: _recall(f, label))  # type: ignore[misc]
    for key, name in (
        ("val_accuracy_float", "trained: float"),
        ("val_accuracy_qat", "trained: int8"),
    ):
        add(name, lambda f, key=key: _percent(f.trained.get(key)))  # type: ignore[misc]
    add("hours of tapes", lambda f: _number(f.point, "hours"))
    add("words missed on them", lambda f: _percent(f.point.get("miss_rate")))
    add("  95 %", lambda f: _point_interval(f, "miss_rate", 100))
    add("false alarms an hour", lambda f: _number(f.point, "false_alarms_per_hour"))
    add("  95 %", lambda f: _point_interval(f, "false_alarms_per_hour"))
    add("parameters", lambda f: _count(f.trained.get("parameters")))
    add("weights, bytes", lambda f: _count(f.cost and f.cost.weights_bytes))
    add("working memory, bytes", lambda f: _count(f.cost and f.cost.arena_bytes))
    add(
        "MACs a decision, dense",
        lambda f: _count(f.cost and round(f.cost.total.dense.macs)),
    )
    units = {facts.cost.unit: facts.cost.board for facts in runs if facts.cost}
    for unit, board in units.items():
        add(f"{unit} a decision, {board}", lambda f, unit=unit: _cost(f, unit))  # type: ignore[misc]
    add("  a second of sound, with features", _per_second)
    names = dict.fromkeys(w.board.name for facts in runs for w in facts.on_boards)
    for board in names:
        for what, name in (
            ("flash", "flash, bytes"),
            ("ram", "RAM, bytes"),
            ("duty", "awake"),
        ):
            add(f"{board}: {name}", lambda f, b=board, w=what: _board(f, b, w))  # type: ignore[misc]
    return table


def about_tapes(runs: Sequence[Facts]) -> str | None:
    """What to mind where figures of tapes stand side by side; None: nothing."""
    made = [facts.calibrated for facts in runs if facts.point]
    differ = [
        what
        for what, key in (("tapes", "tapes"), ("aims", "aim"))
        if any(each.get(key) != made[0].get(key) for each in made)
    ]
    if not differ:
        return None
    return (
        f"Misses and false alarms can't be compared, as {' and '.join(differ)} differ. "
        "On the same tapes: kws eval RUN --tape DIR"
    )


def _point_interval(facts: Facts, key: str, scale: int = 1) -> str | None:
    if (both := facts.point_ci95.get(key)) is None:
        return None
    low, high = (scale * end for end in both)
    return f"{low:.2f} to {high:.2f}"


def _clips(facts: Facts) -> str | None:
    if facts.heard is None:
        return None
    return f"{facts.heard.evaluation.n:,} {facts.heard.evaluation.split}"


def _interval(facts: Facts) -> str | None:
    if facts.heard is None:
        return None
    low, high = facts.heard.evaluation.ci95
    return f"{100 * low:.2f} to {100 * high:.2f}"


def _recall(facts: Facts, label: str) -> str | None:
    if facts.heard is None:
        return None
    return _percent(facts.heard.evaluation.recall.get(label))


def _number(table: dict[str, Any], key: str) -> str | None:
    value = table.get(key)
    return f"{value:.2f}" if isinstance(value, (int, float)) else None


def _percent(share: Any) -> str | None:
    return f"{100 * share:.2f} %" if isinstance(share, float) else None


def _count(number: Any) -> str | None:
    return f"{number:,}" if isinstance(number, int) else None


def _cost(facts: Facts, unit: str) -> str | None:
    if facts.cost is None or facts.cost.unit != unit:
        return None
    return f"{facts.cost.cost:,}"


def _per_second(facts: Facts) -> str | None:
    if facts.cost is None or facts.cost.pace is None:
        return None
    return f"{round(facts.cost.pace.instructions_per_second):,}"


def _board(facts: Facts, name: str, what: str) -> str | None:
    for where in facts.on_boards:
        if where.board.name != name:
            continue
        if what == "duty":
            return None if where.pace is None else f"{100 * where.pace.busy:.1f} %"
        if where.fit is not None:
            used = getattr(where.fit, f"{what}_bytes")
            limit = getattr(where.board, f"{what}_bytes")
            return f"{used:,}" + ("  too large" if used > limit else "")
    return None
