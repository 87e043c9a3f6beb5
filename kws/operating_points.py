"""Where a detector works: misses against false alarms an hour, and the settings for it.

The firmware's C runs once over tapes; each decision's logits are kept. The same C
detector (firmware/src/detector.c) then hears them with thousands of settings, and the
ones with the fewest misses at a wanted rate of false alarms are taken. Neither weights
nor model.tflite change.

The search is small and the same every time:

1. Smoothing, refractory time and re-arm level, one after another until none helps,
   each judged with the best one threshold for all words.
2. Then a threshold for each word that is said often enough; the false alarms are shared
   out among the words so that the fewest are missed.
3. Both are chosen once more on one half of the tapes and counted on the other: what is
   to be expected of new sound. Thresholds for single words are kept only where they do
   better there too.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws.bundle import Bundle, read_json, write_atomic
from kws.data import tape as tapes_of
from kws.data.tape import Score, Tape, Window
from kws.deploy import host
from kws.errors import CheckFailed, KwsError, quoted
from kws.recipe import (
    MAX_SMOOTHING,
    Q15_ONE,
    Detector,
    decision_ms,
    refractory_decisions,
)

FILE = "operating_points.json"
SCHEMA = 1
FALSE_ALARMS = 0.5  # an hour, where nothing else is asked for
ROUNDING = 1e-9  # 0.29 x 100 is less than 29 in floating point, and 29 is meant
FEWEST = 20  # times that a word is said: fewer say nothing of a threshold of its own
SMOOTHINGS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, MAX_SMOOTHING)
# A longer one would count well on tapes where words are seldom said twice, and be deaf
# to a person who says a word again.
LONGEST_REFRACTORY_MS = 1000.0
REARMS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # shares of the lowest threshold
# Thresholds lie evenly in the logit of the posterior: fine near 1, where posteriors
# crowd.
LOWEST_LOGIT, HIGHEST_LOGIT = -1.5, 9.0
COARSE, FINE = 0.1, 0.02
# A word's own threshold stays this near the others', in logits: what a tape says of one
# word alone is little.
NEAR = 0.5


@dataclass(frozen=True)
class Settings:
    """What is tried; see kws_detector_spec_t.

    Args:
        smoothing: Decisions averaged.
        refractory: Decisions.
        rearm: Q15.
        thresholds: Q15, one for each word.
    """

    smoothing: int
    refractory: int
    rearm: int
    thresholds: tuple[int, ...]

    @staticmethod
    def of(bundle: Bundle) -> Settings:
        """A bundle's own."""
        detector = bundle.recipe.detector
        words = _words(bundle)
        own = detector.word_thresholds or (detector.threshold,) * len(words)
        return Settings(
            detector.smoothing,
            refractory_decisions(bundle.recipe),
            round(detector.rearm * Q15_ONE),
            tuple(round(level * Q15_ONE) for level in own),
        )

    def detector(self, bundle: Bundle) -> Detector:
        """As the bundle's recipe has it; the hop stays."""
        levels = [_rounded(level) for level in self.thresholds]
        alike = len(set(levels)) == 1
        return dataclasses.replace(
            bundle.recipe.detector,
            smoothing=self.smoothing,
            refractory_ms=int(self.refractory * decision_ms(bundle.recipe)),
            rearm=_rounded(self.rearm),
            threshold=levels[0] if alike else _rounded(_middle(self.thresholds)),
            word_thresholds=() if alike else tuple(levels),
        )


@dataclass(frozen=True)
class Decisions:
    """What the network said on one tape.

    Args:
        name: Of the tape.
        kind: Of its sound.
        hours: Its length.
        windows: Words that could be heard.
        logits: int8 [decisions, labels].
        time_s: float [decisions], the end of what each looked back on.
    """

    name: str
    kind: str
    hours: float
    windows: list[Window]
    logits: np.ndarray
    time_s: np.ndarray


@dataclass(frozen=True)
class Counts:
    """Misses and false alarms with some settings.

    Args:
        misses: int [words].
        false_alarms: int [words].
    """

    misses: np.ndarray
    false_alarms: np.ndarray

    @property
    def total(self) -> tuple[int, int]:
        """Misses, false alarms."""
        return int(self.misses.sum()), int(self.false_alarms.sum())


class Listener:
    """A bundle's detector over stored decisions; from `listening`."""

    def __init__(
        self, bundle: Bundle, opened: host.Opened, recordings: Sequence[Decisions]
    ) -> None:
        self.bundle, self.opened, self.recordings = bundle, opened, recordings
        self.words = _words(bundle)
        self.hours = sum(recording.hours for recording in recordings)
        self.tried = 0
        said = [w.word for recording in recordings for w in recording.windows]
        self.said = np.array([said.count(word) for word in self.words])
        self._sums: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._counts: dict[Settings, Counts] = {}

    def halves(self) -> tuple[Listener, Listener]:
        """The same with each tape's first half and with its second: as many words on
        both sides, where it has words."""
        parts: tuple[list[Decisions], list[Decisions]] = ([], [])
        for recording in self.recordings:
            windows, count = recording.windows, len(recording.logits)
            at, half = count // 2, len(windows) // 2
            if half:
                middle_s = (windows[half - 1].end_s + windows[half].start_s) / 2
                at = int(np.searchsorted(recording.time_s, middle_s))
            for part, rows, inside in (
                (parts[0], slice(0, at), windows[:half]),
                (parts[1], slice(at, count), windows[half:]),
            ):
                share = len(recording.logits[rows]) / max(1, count)
                part.append(
                    dataclasses.replace(
                        recording,
                        hours=recording.hours * share,
                        windows=inside,
                        logits=recording.logits[rows],
                        time_s=recording.time_s[rows],
                    )
                )
        first, second = (Listener(self.bundle, self.opened, part) for part in parts)
        return first, second

    def scores(self, settings: Settings) -> list[Score]:
        """Of each tape."""
        return [
            tapes_of.score(events, recording.windows, recording.hours)
            for recording, events in zip(
                self.recordings, self._events(settings), strict=True
            )
        ]

    def count(self, settings: Settings) -> Counts:
        """Of all tapes together, by word."""
        if settings not in self._counts:
            place = {word: i for i, word in enumerate(self.words)}
            misses = np.zeros(len(self.words), int)
            alarms = np.zeros(len(self.words), int)
            every = zip(self.recordings, self._events(settings), strict=True)
            for recording, events in every:
                judged = tapes_of.judge(events, recording.windows)
                for i in judged.misses:
                    misses[place[recording.windows[i].word]] += 1
                for i in judged.false_alarms:
                    alarms[place[events[i][0]]] += 1
            self._counts[settings] = Counts(misses, alarms)
            self.tried += 1
        return self._counts[settings]

    def _events(self, settings: Settings) -> Iterator[list[tuple[str, float]]]:
        labels = self.bundle.labels
        first = len(labels) - len(self.words)
        threshold = np.array([Q15_ONE] * first + list(settings.thresholds))
        rearm = np.full(len(labels), settings.rearm)
        if settings.smoothing not in self._sums:
            self._sums[settings.smoothing] = [
                self.opened.sums(recording.logits, settings.smoothing)
                for recording in self.recordings
            ]
        for recording, sums in zip(
            self.recordings, self._sums[settings.smoothing], strict=True
        ):
            decision, label, _ = self.opened.hear(
                sums, settings.smoothing, settings.refractory, threshold, rearm
            )
            times = recording.time_s[decision].tolist()
            yield [
                (labels[i], time_s)
                for i, time_s in zip(label.tolist(), times, strict=True)
            ]


@dataclass(frozen=True)
class Aim:
    """What is wanted: one of the two.

    Args:
        false_alarms: The most an hour.
        max_misses: The largest share of words.
    """

    false_alarms: float | None = None
    max_misses: float | None = None

    def best(self, points: Sequence[tuple[int, int]], listener: Listener) -> int | None:
        """Which of (misses, false alarms) is nearest to the aim; None: none reaches it.

        The fewest misses at the wanted rate, or the fewest false alarms at the wanted
        share of misses; of points that do as well, the one in the middle.
        """
        if self.false_alarms is not None:
            most = self.false_alarms * listener.hours * (1 + ROUNDING)
            good = [i for i, (_, alarms) in enumerate(points) if alarms <= most]
            best = min((points[i] for i in good), default=None)
        else:
            assert self.max_misses is not None
            share = self.max_misses * int(listener.said.sum()) * (1 + ROUNDING)
            good = [i for i, (misses, _) in enumerate(points) if misses <= share]
            best = min((points[i] for i in good), key=lambda p: p[::-1], default=None)
        alike = [i for i in good if points[i] == best]
        return alike[len(alike) // 2] if alike else None

    def cost(self, point: tuple[int, int], listener: Listener) -> tuple[float, int]:
        """To compare settings: the smaller, the nearer to the aim."""
        misses, alarms = point
        if self.best([point], listener) is None:
            return math.inf, misses + alarms
        return (misses, alarms) if self.false_alarms is not None else (alarms, misses)


@contextmanager
def listening(
    bundle: Bundle,
    recordings: Iterable[tuple[str, Tape]],
    progress: Callable[[str], None] | None = None,
) -> Iterator[Listener]:
    """Run the firmware's C over tapes and keep each decision's logits.

    Args:
        bundle: With a model.tflite.
        recordings: Name and tape of each.
        progress: Called with each name before it is heard.

    Raises:
        KwsError: no tape has a word of the bundle's.
    """
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        done = []
        for name, tape in recordings:
            if progress is not None:
                progress(name)
            windows = tapes_of.asked_for(tape.windows, bundle.labels)
            logits, time_ms = copy.decide(tape.pcm)
            done.append(
                Decisions(
                    name, tape.kind, tape.hours, windows, logits, time_ms / 1000.0
                )
            )
        if not any(recording.windows for recording in done):
            raise tapes_of.without_words([r.name for r in done], bundle.labels)
        yield Listener(bundle, copy, done)


def calibrate(
    bundle: Bundle,
    tapes: Sequence[Path],
    aim: Aim,
    command: str,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Search on tapes, and write what was found into the run.

    Args:
        bundle: A run of one's own, with a model.tflite.
        tapes: Recordings with their truth beside them.
        aim: What is wanted.
        command: What was typed.
        progress: Called with a line for each step.

    Returns:
        See `report`.

    Raises:
        KwsError: a shipped run, one that was changed meanwhile, or no word of its on
            the tapes; CheckFailed: no settings reach the aim.
    """
    check_own(bundle)
    since = bundle.hash
    say = progress or (lambda line: None)
    with listening(
        bundle,
        tapes_of.opened(tapes, bundle.labels),
        lambda name: say(f"Hearing {name}"),
    ) as listener:
        found = search(listener, aim)
        table = report(listener, aim, found, command)
        say(f"{listener.tried:,} settings tried")
    keep(bundle, table, since)
    return table


@dataclass(frozen=True)
class Found:
    """What the search found.

    Args:
        settings: The best.
        curve: (threshold in Q15, counts) with one threshold for all words and the
            found smoothing, refractory time and re-arm share.
        held_out: Misses and false alarms on each half of the tapes, added, with
            settings that were chosen on the other half.
        own: Words that got a threshold of their own.
        why_common: Why the others, or all, share one.
    """

    settings: Settings
    curve: list[tuple[int, Counts]]
    held_out: tuple[int, int]
    own: tuple[str, ...]
    why_common: str


def search(listener: Listener, aim: Aim) -> Found:
    """The settings nearest to an aim; see the module.

    Args:
        listener: From `listening`.
        aim: What is wanted.

    Raises:
        CheckFailed: no settings reach the aim.
    """
    shape, curve, chosen = _common(listener, aim)
    common = _settings(shape, [curve[chosen][0]] * len(listener.words))
    often = [i for i, said in enumerate(listener.said) if said >= FEWEST]
    held_out, own_held_out = _on_the_other_half(listener, aim, often)
    settings = _per_word(listener, aim, shape, curve, chosen, often)
    # Better in one count and worse in none, on sound that they were not chosen on.
    better = own_held_out != held_out and all(
        own <= common for own, common in zip(own_held_out, held_out, strict=True)
    )
    if better and settings != common:
        own = tuple(listener.words[i] for i in often)
        rest = len(listener.words) - len(own)
        why = f"{rest} words are said less than {FEWEST} times" if rest else ""
        return Found(settings, curve, own_held_out, own, why)
    if not often:
        why = f"none is said {FEWEST} times"
    elif better:
        why = "on all of the tapes together, one for each does no better"
    else:
        why = "chosen on half of the tapes, one for each does no better on the rest"
    return Found(common, curve, held_out, (), why)


def reached(listener: Listener, aim: Aim) -> tuple[int, int]:
    """Misses and false alarms of the best one threshold for all words: what `search`
    begins with, to compare networks by.

    Raises:
        CheckFailed: no settings reach the aim.
    """
    _, curve, chosen = _common(listener, aim)
    return curve[chosen][1].total


def _common(
    listener: Listener, aim: Aim
) -> tuple[dict[str, Any], list[tuple[int, Counts]], int]:
    """The best shape, its curve, and which point of that is the best."""
    shape = _shape(listener, aim)
    curve = sweep(listener, **shape, step=FINE)
    chosen = aim.best([counts.total for _, counts in curve], listener)
    if chosen is None:
        misses, alarms = (min(c.total[i] for _, c in curve) for i in range(2))
        if aim.false_alarms is None:
            raise CheckFailed(
                f"No settings reach the aim: of {int(listener.said.sum())} words at "
                f"least {misses} are missed. Received: --max-misses {aim.max_misses}",
                "Train longer or on more like these tapes; or allow more misses.",
            )
        raise CheckFailed(
            f"No settings reach the aim: in {listener.hours:.2f} hours of tape there "
            f"are at least {alarms} false alarms. Received: --false-alarms "
            f"{aim.false_alarms:g}",
            "kws train ... --ambient DIR   (train with such sound; or allow more false "
            "alarms)",
        )
    return shape, curve, chosen


def _shape(listener: Listener, aim: Aim) -> dict[str, Any]:
    """Smoothing, refractory time and re-arm share, by coordinate descent."""
    ms = decision_ms(listener.bundle.recipe)
    most = max(1, int(LONGEST_REFRACTORY_MS / ms))
    start = Settings.of(listener.bundle)
    axes = {
        "smoothing": SMOOTHINGS,
        "refractory": tuple(sorted({0, *range(1, most, max(1, most // 6)), most})),
        "rearm": REARMS,
    }
    shape = {
        "smoothing": start.smoothing,
        "refractory": min(start.refractory, most),
        "rearm": 0.5,
    }

    def cost(shape: dict[str, Any]) -> tuple[float, int]:
        points = [c.total for _, c in sweep(listener, **shape, step=COARSE)]
        best = aim.best(points, listener)
        return (math.inf, 0) if best is None else aim.cost(points[best], listener)

    best = cost(shape)
    moved = True
    while moved:
        moved = False
        for name, values in axes.items():
            for value in values:
                candidate = {**shape, name: value}
                now = cost(candidate)
                if now < best:
                    shape, best, moved = candidate, now, True
    return shape


def _on_the_other_half(
    listener: Listener, aim: Aim, often: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Misses and false alarms on halves that the settings were not chosen on: with one
    threshold, and with one for each word."""
    halves = listener.halves()
    common, own = [0, 0], [0, 0]
    for chosen_on, other in (halves, halves[::-1]):
        shape = _shape(chosen_on, aim)
        curve = sweep(chosen_on, **shape, step=FINE)
        best = aim.best([counts.total for _, counts in curve], chosen_on)
        if best is None:  # this half is the harder one: as near as it gets
            best = 0 if aim.false_alarms is None else len(curve) - 1
        one = _settings(shape, [curve[best][0]] * len(listener.words))
        each = _per_word(chosen_on, aim, shape, curve, best, often)
        for sums, settings in ((common, one), (own, each)):
            for i, count in enumerate(other.count(settings).total):
                sums[i] += count
    return (common[0], common[1]), (own[0], own[1])


def sweep(
    listener: Listener, smoothing: int, refractory: int, rearm: float, step: float
) -> list[tuple[int, Counts]]:
    """One threshold for all words, from low to high, until nothing is heard.

    Args:
        listener: From `listening`.
        smoothing: Decisions averaged.
        refractory: Decisions.
        rearm: Share of the threshold.
        step: Between two thresholds, in logits of the posterior.

    Returns:
        (threshold in Q15, counts).
    """
    shape = {"smoothing": smoothing, "refractory": refractory, "rearm": rearm}
    curve = []
    for level in _levels(step):
        counts = listener.count(_settings(shape, [level] * len(listener.words)))
        curve.append((level, counts))
        if counts.total == (int(listener.said.sum()), 0):
            break
    return curve


def _levels(step: float) -> list[int]:
    logits = np.arange(LOWEST_LOGIT, HIGHEST_LOGIT + step / 2, step)
    return np.unique(np.rint(Q15_ONE / (1 + np.exp(-logits))).astype(int)).tolist()


def _settings(shape: dict[str, Any], thresholds: Sequence[int]) -> Settings:
    rearm = max(1, int(shape["rearm"] * min(thresholds)))
    return Settings(
        shape["smoothing"], shape["refractory"], rearm, tuple(map(int, thresholds))
    )


def _per_word(
    listener: Listener,
    aim: Aim,
    shape: dict[str, Any],
    curve: list[tuple[int, Counts]],
    chosen: int,
    own: Sequence[int],
) -> Settings:
    """Thresholds for words of their own; the others share the common one.

    Words hardly hinder each other (one event a decision), so that each word's counts
    are read from the curve; a table over false alarms then shares them out for the
    fewest misses. What comes out is heard once more by the real detector, with fewer
    false alarms allowed where it hears too many.
    """
    levels = [level for level, _ in curve]
    middle = _logit(levels[chosen])
    near = [i for i, level in enumerate(levels) if abs(_logit(level) - middle) <= NEAR]
    choices: list[list[int]] = [
        near if word in own else [chosen] for word in range(len(listener.words))
    ]
    table = _shared(curve, choices)
    common = _settings(shape, [levels[chosen]] * len(listener.words))
    best, best_cost = common, aim.cost(listener.count(common).total, listener)
    # From the most false alarms on down; a handful of tries where words do interact.
    points = [(misses, alarms) for alarms, (misses, _) in sorted(table.items())]
    for _ in range(8):
        at = aim.best(points, listener)
        if at is None:
            break
        _, alarms = points.pop(at)
        places = table[alarms][1]
        candidate = _settings(shape, [levels[place] for place in places])
        cost = aim.cost(listener.count(candidate).total, listener)
        if cost < best_cost:
            best, best_cost = candidate, cost
    return best


def _shared(
    curve: list[tuple[int, Counts]], choices: list[list[int]]
) -> dict[int, tuple[int, list[int]]]:
    """For each number of false alarms: the fewest misses, and each word's place on the
    curve for it. Of places that do as well, the one in the middle."""
    table: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for word, places in enumerate(choices):
        # Of one word: places with the same counts are one choice, their middle.
        alike: dict[tuple[int, int], list[int]] = {}
        for place in places:
            counts = curve[place][1]
            key = (int(counts.false_alarms[word]), int(counts.misses[word]))
            alike.setdefault(key, []).append(place)
        longer: dict[int, tuple[int, list[int]]] = {}
        for alarms, (misses, before) in table.items():
            for (more_alarms, more_misses), group in sorted(alike.items()):
                key_, total = alarms + more_alarms, misses + more_misses
                if key_ not in longer or total < longer[key_][0]:
                    longer[key_] = (total, [*before, group[len(group) // 2]])
        table = longer
    return table


def report(listener: Listener, aim: Aim, found: Found, command: str) -> dict[str, Any]:
    """All that was found, as operating_points.json has it.

    Args:
        listener: From `listening`.
        aim: What was wanted.
        found: From `search`.
        command: What was typed.
    """
    bundle = listener.bundle
    before, after = Settings.of(bundle), found.settings
    misses, alarms = found.held_out
    words = int(listener.said.sum())
    held_out = Score(words - misses, misses, alarms, listener.hours, {})
    return {
        "schema": SCHEMA,
        "run": bundle.recipe.name,
        "command": command,
        "aim": dataclasses.asdict(aim),
        "tapes": [
            {
                "name": Path(r.name).name,  # no folder of this machine in a bundle
                "kind": r.kind,
                "hours": r.hours,
                "words": len(r.windows),
            }
            for r in listener.recordings
        ],
        "hours": listener.hours,
        "words": words,
        "said": dict(zip(listener.words, listener.said.tolist(), strict=True)),
        "before": _point(listener, before),
        "after": _point(listener, after),
        "held_out": tapes_of.figures(held_out),
        "own_thresholds": list(found.own),
        "why_common": found.why_common,
        "smoothing": after.smoothing,
        "curve": [
            {
                "threshold": _rounded(level),
                "misses": counts.misses.tolist(),
                "false_alarms": counts.false_alarms.tolist(),
            }
            for level, counts in _thinned(found.curve)
        ],
    }


def _thinned(curve: list[tuple[int, Counts]]) -> list[tuple[int, Counts]]:
    """Of thresholds next to each other with equal counts, the one in the middle."""
    groups: list[list[tuple[int, Counts]]] = []
    for level, counts in curve:
        last = groups[-1][0][1] if groups else None
        if (
            last is not None
            and np.array_equal(last.misses, counts.misses)
            and np.array_equal(last.false_alarms, counts.false_alarms)
        ):
            groups[-1].append((level, counts))
        else:
            groups.append([(level, counts)])
    return [group[len(group) // 2] for group in groups]


def _point(listener: Listener, settings: Settings) -> dict[str, Any]:
    scores = listener.scores(settings)
    kinds = dict.fromkeys(recording.kind for recording in listener.recordings)
    every = list(zip(listener.recordings, scores, strict=True))
    score = tapes_of.total(scores)
    return {
        **tapes_of.figures(score),
        "detector": dataclasses.asdict(settings.detector(listener.bundle)),
        "kinds": {
            kind: tapes_of.figures(
                tapes_of.total([s for r, s in every if r.kind == kind])
            )
            for kind in kinds
        },
        "per_word": {
            word: {
                "threshold": _rounded(level),
                "misses": score.per_word.get(word, (0, 0, 0))[1],
                "false_alarms": score.per_word.get(word, (0, 0, 0))[2],
            }
            for word, level in zip(listener.words, settings.thresholds, strict=True)
        },
    }


def keep(bundle: Bundle, table: dict[str, Any], since: str) -> Bundle:
    """Write what was found into a run: its detector, and operating_points.json.

    Args:
        bundle: The run. Its model stays; its hash changes, since another detector is
            another firmware.
        table: From `report`.
        since: The run's hash as it was heard.

    Returns:
        The run as it is now.

    Raises:
        KwsError: a shipped run, or one that was changed since.
    """
    check_own(bundle)
    again = f"kws calibrate {quoted(bundle.path)} ..."
    bundle = bundles.unchanged(bundle, since, again)
    chosen = {**table["after"]["detector"]}
    chosen["word_thresholds"] = tuple(chosen["word_thresholds"])
    recipe = dataclasses.replace(bundle.recipe, detector=Detector(**chosen))
    kept = {
        name: {
            key: table[name][key] for key in tapes_of.figures(Score(0, 0, 0, 1.0, {}))
        }
        for name in ("before", "after", "held_out")
    }
    changed = dataclasses.replace(bundle, recipe=recipe)
    summary = {"aim": table["aim"], "tapes": table["tapes"], **kept}
    summary["hash"] = changed.hash
    metrics = {**bundle.metrics, "operating_point": summary}
    changed = dataclasses.replace(changed, metrics=metrics)
    bundles.save(changed)
    table = {**table, "network": network_hash(changed)}
    write_atomic(bundle.path / FILE, (json.dumps(table) + "\n").encode())
    return changed


def network_hash(bundle: Bundle) -> str:
    """SHA-256 of what decides, whatever the detector makes of it: model, features, hop
    and delta thresholds."""
    hop = Detector(hop_frames=bundle.recipe.detector.hop_frames)
    recipe = dataclasses.replace(bundle.recipe, detector=hop)
    model = bundle.model_bytes()
    return bundles.board_hash(model, recipe, bundle.labels, bundle.thresholds)


def check_own(bundle: Bundle) -> None:
    """Raises KwsError for a run that came with the package."""
    if bundle.shipped:
        name = bundle.path.name
        raise KwsError(
            "The settings are written into the run, and a shipped one stays as it is. "
            f"Expected a run of your own. Received: {name}",
            f"{bundle.copy_command} && kws calibrate runs/{name} ...",
        )


def of_run(bundle: Bundle) -> dict[str, Any]:
    """A run's operating_points.json.

    Raises:
        KwsError: none, one that kws calibrate did not write, or one of another network.
    """
    table = load(bundle.path)
    # Older ones do not say.
    if bundle.model_path.is_file() and table.get("network") not in (
        None,
        network_hash(bundle),
    ):
        raise KwsError(
            f"{FILE} is of another network: it was trained, converted or given another "
            f"hop or other delta thresholds since. Received: {bundle.path}",
            "kws calibrate RUN --tape tapes",
        )
    return table


def load(path: Path) -> dict[str, Any]:
    """operating_points.json, or that of the folder that it is in.

    Raises:
        KwsError: no such file, or not one that kws calibrate wrote.
    """
    file = path / FILE if path.is_dir() else path
    hint = "kws calibrate RUN --tape tapes"
    if not file.is_file():
        raise KwsError(
            f"No operating points here. Expected a run with {FILE}. Received: {path}",
            hint,
        )
    table = read_json(file)
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise KwsError(
            f"Not a table of operating points of this version. Received: {file}", hint
        )
    return table


def _logit(level: int) -> float:
    share = min(max(level / Q15_ONE, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))


def _words(bundle: Bundle) -> list[str]:
    return [label for label in bundle.labels if not label.startswith("_")]


def _rounded(level: int) -> float:
    """A Q15 number as a recipe has it: five digits give it back."""
    return round(level / Q15_ONE, 5)


def _middle(levels: Sequence[int]) -> int:
    return sorted(levels)[len(levels) // 2]
