"""A detector on long tapes: misses, false alarms an hour, and what each of them was.

Every share comes with Wilson's 95 % interval, every rate with Poisson's and with the
hours that it was counted in (DESIGN D18).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import engines
from kws.bundle import Bundle, check_folder, write_atomic
from kws.data import tape as tapes
from kws.data.audio import LOUDEST_S, SAMPLE_RATE, loudness, say, wav_bytes
from kws.data.speakers import BySpeaker, by_speaker
from kws.data.speech_commands import MISTAKEN
from kws.data.splits import LIST_FILES, all_for_training
from kws.data.tape import Score, Tape, Window
from kws.deploy import host
from kws.engines.host import Event
from kws.errors import KwsError, quoted
from kws.intervals import poisson_interval
from kws.recipe import Q15_ONE, decision_ms

FALSE_ALARM, MISS = "false alarm", "miss"
COLUMNS = ("tape", "kind", "what", "time_s", "word", "score", "snr_db", "said", "cut")
SNR_STEP = 5  # dB: misses are counted in steps of loudness over the bed
DBFS_STEP = 10  # and of loudness as it is on the tape


@dataclass(frozen=True)
class Finding:
    """A false alarm or a miss.

    Args:
        what: Which of them.
        tape: Name of the tape.
        kind: Of the tape's sound.
        time_s: When it was heard; of a miss, where the word starts.
        word: What was heard, or should have been.
        score: Smoothed posterior; of a miss the highest while it could have been heard.
        snr_db: How much louder than the bed the missed word was; None: not known.
        said: What is known to be said there; of a miss, the clip.
        cut: File that the false alarm was cut out to; empty: none.
    """

    what: str
    tape: str
    kind: str
    time_s: float
    word: str
    score: float
    snr_db: float | None = None
    said: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Heard:
    """A detector on one tape.

    Args:
        name: Of the tape.
        kind: Of its sound.
        score: Hits, misses, false alarms.
        events: All that was heard.
        windows: Words that could be heard.
        dbfs: How loud each of them is on the tape, its loudest 0.2 s in dB of full
            scale, with what lies under it.
        missed: Indices of those that were not.
        findings: False alarms and misses, in order of time; empty where nobody asked.
    """

    name: str
    kind: str
    score: Score
    events: list[Event]
    windows: list[Window]
    dbfs: list[float]
    missed: list[int]
    findings: list[Finding]


@dataclass(frozen=True)
class TapeResult:
    """A detector on tapes."""

    tapes: list[Heard]

    @property
    def score(self) -> Score:
        """All tapes together."""
        return tapes.total([heard.score for heard in self.tapes])

    @property
    def findings(self) -> list[Finding]:
        return [finding for heard in self.tapes for finding in heard.findings]

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws eval --tape --json` (DESIGN section 4)."""
        score = self.score
        several = len(self.tapes) > 1
        over = [[window.snr_db for window in heard.windows] for heard in self.tapes]
        return {
            **tapes.figures(score),
            "hits": score.hits,
            "misses": score.misses,
            "kinds": {
                kind: tapes.figures(
                    tapes.total([h.score for h in self.tapes if h.kind == kind])
                )
                for kind in dict.fromkeys(heard.kind for heard in self.tapes)
            },
            "per_word": {
                word: {"hits": h, "misses": m, "false_alarms": f}
                for word, (h, m, f) in score.per_word.items()
            },
            "speakers": None if self.speakers is None else self.speakers.as_dict(),
            "snr_db": self._by_step(SNR_STEP, over),
            "loudness_dbfs": self._by_step(
                DBFS_STEP, [heard.dbfs for heard in self.tapes]
            ),
            "events": [
                {
                    **({"tape": heard.name} if several else {}),
                    "word": event.word,
                    "time_s": event.time_s,
                    "score": round(event.score, 4),
                }
                for heard in self.tapes
                for event in heard.events
            ],
        }

    @property
    def speakers(self) -> BySpeaker | None:
        """Words heard by who says them, where the tapes tell their clips."""
        clips = [window.clip for heard in self.tapes for window in heard.windows]
        heard = [
            np.isin(np.arange(len(heard.windows)), heard.missed, invert=True)
            for heard in self.tapes
        ]
        return by_speaker(clips, np.concatenate(heard)) if clips else None

    def _by_step(
        self, step: int, levels: Sequence[Sequence[float | None]]
    ) -> dict[str, dict[str, int]]:
        """Misses by a level of each tape's windows, in steps of so many dB."""
        table: dict[int, list[int]] = {}
        for heard, of_windows in zip(self.tapes, levels, strict=True):
            missed = set(heard.missed)
            for place, level in enumerate(of_windows):
                if level is not None:
                    row = table.setdefault(math.floor(level / step) * step, [0, 0])
                    row[0] += 1
                    row[1] += place in missed
        return {
            f"{low} to {low + step}": {"words": said, "missed": missed}
            for low, (said, missed) in sorted(table.items())
        }


def hours_needed(per_hour: float) -> float:
    """Hours without a single false alarm that say, with 97.5 % confidence, that there
    are no more than so many an hour.

    Example:
        >>> round(hours_needed(0.5), 1)
        7.4
    """
    return poisson_interval(0)[1] / per_hour


def evaluate(
    bundle: Bundle,
    recordings: Iterable[tuple[str, Tape]],
    engine: str = "host",
    findings: bool = False,
    cut: Path | None = None,
) -> TapeResult:
    """Stream tapes through the firmware and score what it hears.

    Args:
        bundle: The run.
        recordings: Name and tape of each. Windows of words that are none of the
            bundle's are left out (kws.data.tape.asked_for).
        engine: One that can stream (`host`).
        findings: Tell what each false alarm and each miss was.
        cut: Folder to cut each false alarm out to, a clip each, all for training.

    Raises:
        KwsError: the engine does not stream.
    """
    check_engine(engine, "kws eval RUN --tape TAPE.wav")
    module = engines.get(engine)
    done = []
    for name, tape in recordings:
        events = module.detect(bundle, tape.pcm)
        windows = tapes.asked_for(tape.windows, bundle.labels)
        plain = [(event.word, event.time_s) for event in events]
        judged = tapes.judge(plain, windows)
        found: list[Finding] = []
        if findings or cut is not None:
            alarms = [events[i] for i in judged.false_alarms]
            if cut is not None and alarms:
                _for_training(cut)
            found = [_alarm(bundle, name, tape, event, cut) for event in alarms]
            missed = [windows[i] for i in judged.misses]
            found += _misses(bundle, name, tape, missed)
        done.append(
            Heard(
                name,
                tape.kind,
                tapes.score(plain, windows, tape.hours),
                events,
                windows,
                _loudness(tape.pcm, windows),
                judged.misses,
                sorted(found, key=lambda finding: finding.time_s),
            )
        )
    return TapeResult(done)


def check_engine(engine: str, command: str) -> None:
    """Raises KwsError where an engine can't stream; the hint is a command with another.

    Args:
        engine: Its name.
        command: As it was typed, without --engine.
    """
    if not hasattr(engines.get(engine), "detect"):
        able = [
            name for name in engines.names() if hasattr(engines.get(name), "detect")
        ]
        raise KwsError(
            f"This engine does not stream. Expected {', '.join(able)}. "
            f"Received: {engine!r}",
            f"{command} --engine {able[0]}",
        )


def _loudness(pcm: np.ndarray, windows: Sequence[Window]) -> list[float]:
    """Of each window, in dB of full scale."""
    least, found = round(LOUDEST_S * SAMPLE_RATE), []
    for window in windows:
        start, end = (round(t * SAMPLE_RATE) for t in (window.start_s, window.end_s))
        part = pcm[start : max(end, start + least)]
        part = np.pad(part, (0, max(0, least - len(part))))  # at the tape's end
        found.append(round(float(loudness(part[None])[0]), 1))
    return found


def _for_training(cut: Path) -> None:
    """All that is cut out is for training; the clips of others stay where they are.

    Before the first clip is there: whatever ends this, none is of another split."""
    inside = sorted(cut.iterdir()) if cut.is_dir() else []
    if any(path.stem.lower() in LIST_FILES.values() for path in inside):
        return  # what they don't name is for training
    others = [p.name for p in inside if p.is_dir() and p.name != MISTAKEN]
    if others := [name for name in others if not name.startswith(".")]:
        say(
            f"{cut}: {others[0]} is there, too, so what is cut out is shared out to "
            "training, validation and test like the rest: a new folder for --cut would "
            "be for training alone"
        )
    else:
        all_for_training(cut)


def _alarm(
    bundle: Bundle,
    name: str,
    tape: Tape,
    event: Event,
    cut: Path | None,
) -> Finding:
    """What a false alarm was; cut out, where a folder is given."""
    # The decision in the middle of those that were averaged.
    recipe, size = bundle.recipe, bundle.recipe.task.clip_samples
    late_s = (recipe.detector.smoothing // 2) * decision_ms(recipe) / 1000
    end = max(0, round((event.time_s - late_s) * SAMPLE_RATE))
    file = ""
    if cut is not None:
        clip = np.zeros(size, np.int16)
        part = tape.pcm[max(0, end - size) : end]
        clip[len(clip) - len(part) :] = part
        # One name a false alarm, which the data set's rule takes for a speaker's. Part
        # of it is the sound's: another tape of that name writes over none.
        said = event.word.replace(" ", "-")
        at, digest = round(event.time_s * 1000), hashlib.sha256(clip.tobytes())
        where = f"{_cell(Path(name).stem)}-{at:08d}-{said}-{digest.hexdigest()[:8]}"
        file = f"{MISTAKEN}/{where}_nohash_0.wav"
        write_atomic(cut / file, wav_bytes(clip))
    said = tape.text_at((end - size) / SAMPLE_RATE, end / SAMPLE_RATE)
    return Finding(
        FALSE_ALARM,
        name,
        tape.kind,
        event.time_s,
        event.word,
        event.score,
        said=said,
        cut=file,
    )


def _misses(
    bundle: Bundle, name: str, tape: Tape, missed: Sequence[Window]
) -> list[Finding]:
    """What each missed word was, and how near it came."""
    if not missed:
        return []
    smoothing = bundle.recipe.detector.smoothing
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        logits, time_ms = copy.decide(tape.pcm)
        sums = copy.sums(logits, smoothing)[0]
    found = []
    for window in missed:
        begin, end = window.start_s * 1000, (window.end_s + tapes.TOLERANCE_S) * 1000
        rows = sums[(time_ms >= begin) & (time_ms <= end)]
        best = int(rows[:, bundle.labels.index(window.word)].max(initial=0))
        found.append(
            Finding(
                MISS,
                name,
                tape.kind,
                window.start_s,
                window.word,
                best / smoothing / Q15_ONE,
                window.snr_db,
                window.clip,
            )
        )
    return found


def check_findings(path: Path) -> None:
    """Raises KwsError where something else is there than findings: a truth, say; or a
    file where their folder should be."""
    head, other = "\t".join(COLUMNS).encode() + b"\n", f"{path.stem}-events"
    if path.is_dir() or (path.exists() and path.read_bytes()[: len(head)] != head):
        raise KwsError(
            "There is something else already. Expected a new name, or what --events "
            f"wrote before. Received: --events {str(path)!r}",
            f"kws eval RUN ... --events {quoted(path.with_stem(other))}",
        )
    check_folder(path.parent, path, "--events")


def _cell(text: str) -> str:
    """Without tabs and ends of lines, which names of files may have."""
    return " ".join(text.splitlines()).replace("\t", " ")


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Every false alarm and miss, a line each (TSV)."""
    lines = ["\t".join(COLUMNS)]
    for finding in findings:
        cells = (
            _cell(finding.tape),
            finding.kind,
            finding.what,
            f"{finding.time_s:.2f}",
            finding.word,
            f"{finding.score:.4f}",
            "" if finding.snr_db is None else f"{finding.snr_db:.1f}",
            _cell(finding.said),
            finding.cut,
        )
        lines.append("\t".join(cells))
    write_atomic(path, ("\n".join(lines) + "\n").encode())
