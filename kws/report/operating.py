"""A run's operating points: misses against false alarms an hour."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kws.errors import KwsError
from kws.intervals import poisson_interval, wilson_interval
from kws.report import shell
from kws.report.shell import term, text

TEMPLATE = Path(__file__).with_name("operating.html")
MOST = 1_000_000  # of a count: weeks of tape that is heard as words throughout


def body(table: dict[str, Any]) -> str:
    """The part of a run's page.

    Args:
        table: From kws.operating_points.

    Raises:
        KwsError: a table that kws calibrate did not write.
    """
    try:
        parts = _parts(table)
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
    ) as error:
        raise KwsError(
            f"The table of operating points is broken: {error!r}.",
            "kws calibrate RUN --tape tapes   (makes it again)",
        ) from None
    return shell.fill(TEMPLATE.read_text(encoding="utf-8"), parts)


def _parts(table: dict[str, Any]) -> dict[str, str]:
    hours = float(table["hours"])
    if not 0 < hours < math.inf:
        raise ValueError(f"no hours: {hours}")
    if not shell.is_command(table["command"], "kws", "calibrate"):
        raise ValueError(f"no command of kws calibrate: {table['command']!r}")
    said = {str(word): _count(count) for word, count in table["said"].items()}
    words = list(said)
    series: list[tuple[str, int, int | None]] = [
        ("all words", _count(table["words"]), None)
    ]
    series += [(word, said[word], i) for i, word in enumerate(words)]
    data = {
        "hours": hours,
        "command": table["command"],
        "wanted": table["aim"]["false_alarms"],
        "series": [
            {
                "name": name,
                "said": count,
                "points": _dots(table["curve"], hours, count, place),
                "before": _marked(table["before"], hours, count, name, place),
                "after": _marked(table["after"], hours, count, name, place),
            }
            for name, count, place in series
            if count
        ],
    }
    json.dumps(data, allow_nan=False)  # a browser reads no NaN
    settings = [
        ("before", table["before"]),
        ("after", table["after"]),
        ("expected of other sound", table["held_out"]),
        *((f"after, {kind}", found) for kind, found in table["after"]["kinds"].items()),
    ]
    before = table["before"]["per_word"]
    detector = table["after"]["detector"]
    kinds = ("hop_frames", "smoothing", "rearm", "refractory_ms")
    return {
        "misses": term("missed", "misses"),
        "interval": term("interval", "95 % intervals"),
        "figures": shell.table(
            ("settings", *shell.fault_heads()),
            [(text(name), *shell.faults(figures)) for name, figures in settings],
            "In figures",
        ),
        "tapes": shell.table(
            (term("tape", "tape"), "kind", "hours", "words"),
            [
                (
                    text(tape["name"]),
                    text(tape["kind"]),
                    f"{float(tape['hours']):.3f}",
                    str(int(tape["words"])),
                )
                for tape in table["tapes"]
            ],
            "Tapes",
        ),
        "words": shell.table(
            (
                "word",
                "said",
                "threshold",
                "missed before",
                "after",
                "false alarms before",
                "after",
            ),
            [
                (
                    text(word),
                    str(said[word]),
                    f"{float(after['threshold']):.4f}",
                    *(
                        str(int(where[key]))
                        for key in ("misses", "false_alarms")
                        for where in (before[word], after)
                    ),
                )
                for word, after in table["after"]["per_word"].items()
            ],
            "Words",
        ),
        "detector": text(", ".join(f"{key} {detector[key]}" for key in kinds)),
        "common": text(table["why_common"] or "none do"),
        "data": shell.data("operating-data", data),
    }


def _dots(
    curve: list[dict[str, Any]], hours: float, said: int, place: int | None
) -> list[dict[str, Any]]:
    """The points of a curve, of one word or of all; none twice."""
    dots: dict[tuple[int, int], dict[str, Any]] = {}
    for point in curve:
        misses, alarms = (
            sum(map(_count, point[key])) if place is None else point[key][place]
            for key in ("misses", "false_alarms")
        )
        shares = _shares(misses, alarms, hours, said)
        # Of thresholds that do as well the highest.
        dots[misses, alarms] = {"threshold": float(point["threshold"]), **shares}
    return list(dots.values())


def _marked(
    figures: dict[str, Any], hours: float, said: int, name: str, place: int | None
) -> dict[str, Any]:
    """Where the settings before, or after, are."""
    if place is None:
        return _shares(figures["missed"], figures["false_alarms"], hours, said)
    word = figures["per_word"][name]
    return {
        "threshold": float(word["threshold"]),
        **_shares(word["misses"], word["false_alarms"], hours, said),
    }


def _shares(misses: int, alarms: int, hours: float, said: int) -> dict[str, Any]:
    low, high = poisson_interval(_count(alarms))
    return {
        "misses": misses,
        "missed": round(misses / said, 5),
        "missed_ci95": [round(x, 5) for x in wilson_interval(_count(misses), said)],
        "alarms": alarms,
        "rate": round(alarms / hours, 5),
        "rate_ci95": [round(low / hours, 5), round(high / hours, 5)],
    }


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"no count: {value!r:.40}")
    return value
