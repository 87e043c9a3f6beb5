"""What a board says: lines of `kws <kind> key=value ...`, read without trust."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields

SCHEMA_VERSION = 1
MAX_LINE = 1024
MAX_EVENTS = 100_000
MAX_ROWS = 4096
_VALUE = r"(?:\"((?:[^\"\\]|\\.)*)\"|([^\"\\ ]+))"
_PAIR = re.compile(rf" ([a-z_]+)(?:={_VALUE})?")
_LINE = re.compile(rf"kws ([a-z]+)((?: [a-z_]+(?:={_VALUE})?)*)")


@dataclass(frozen=True)
class Event:
    """A word that was heard.

    Args:
        word: The label.
        start_ms: Start of the model's window that fired, since the stream's start.
        time_ms: End of that window: when the word was reported.
        score: Smoothed posterior, 0..1.
    """

    word: str
    start_ms: int
    time_ms: int
    score: float


@dataclass(frozen=True)
class Beat:
    """Once in a second of audio: how the board is doing.

    Args:
        hash: First digits of the model's hash.
        schema: Version of this protocol.
        time_ms: Audio since the start, dropped samples included.
        peak: Largest magnitude of a sample since the last beat, 0..32768.
        overruns: Samples dropped since the start.
        inferences: Model runs since the start.
        frame_cost: Of a feature frame: instructions, cycles or nanoseconds.
        cost: Of a model run, mean since the last beat; 0 if there was none.
        macs: Multiply-accumulates of the delta products in the last model run.
        macs_dense: What they would be if nothing were skipped; 0: no delta products.
    """

    hash: str
    schema: int
    time_ms: int
    peak: int
    overruns: int
    inferences: int
    frame_cost: int
    cost: int
    macs: int
    macs_dense: int

    @property
    def level_db(self) -> float:
        """Peak level in dB of full scale, at least -90.3 (one step)."""
        return 20 * math.log10(max(1, self.peak) / 32768)

    @property
    def skipped(self) -> float | None:
        """Share of the delta products' work that was skipped; None without any."""
        return 1 - self.macs / self.macs_dense if self.macs_dense else None


@dataclass
class Transcript:
    """All that a run of the firmware printed.

    Args:
        boot: Pairs of the boot line (name, hash, schema, app, ...); {} if none came.
        selftest: True, False, or None where the firmware said nothing.
        events: Words heard.
        beats: Heartbeats.
        stats: Counters of the last stats line.
        clips: Clips done (app `clips`).
        operators: Operator's mark -> what it cost in all runs (app `profile`).
        sent: Row of the table of delta products -> elements transmitted (`profile`).
        fault: Pairs of the fault line, if a fault handler ran.
        errors: Reasons of `kws error` lines.
        ended: The firmware reached its regular end.
        other: Lines that are not of the protocol.
    """

    boot: dict[str, str] = field(default_factory=dict)
    selftest: bool | None = None
    events: list[Event] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)
    clips: int | None = None
    operators: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    fault: dict[str, str] | None = None
    errors: list[str] = field(default_factory=list)
    ended: bool = False
    other: list[str] = field(default_factory=list)


_BEAT_NUMBERS = tuple(f.name for f in fields(Beat) if f.name != "hash")


def parse_line(line: str) -> tuple[str, dict[str, str]] | None:
    """Kind and pairs of one line; a key without value stands for "". None if foreign.

    Example:
        >>> parse_line('kws event word="hey robot" start_ms=120 score=0.930')
        ('event', {'word': 'hey robot', 'start_ms': '120', 'score': '0.930'})
    """
    if len(line) > MAX_LINE:
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    pairs = {
        key: re.sub(r"\\(.)", r"\1", quoted) or plain
        for key, quoted, plain in _PAIR.findall(match.group(2))
    }
    return match.group(1), pairs


def parse(text: str) -> Transcript:
    """Read a whole run. A damaged line is kept in `other`, never raised on."""
    transcript = Transcript()
    for line in text.splitlines():
        parsed = parse_line(line.strip())
        try:
            if parsed is None or not _take(transcript, *parsed):
                raise ValueError
        except (KeyError, ValueError):
            if line.strip() and len(transcript.other) < MAX_EVENTS:
                transcript.other.append(line[:MAX_LINE])
    return transcript


def _take(transcript: Transcript, kind: str, pairs: dict[str, str]) -> bool:
    """Enter one line. Returns False if its kind is unknown; raises on bad values."""
    if kind == "boot":
        transcript.boot = pairs
    elif kind == "selftest":
        transcript.selftest = "ok" in pairs and "failed" not in pairs
    elif kind == "event":
        event = Event(
            word=pairs["word"],
            start_ms=int(pairs["start_ms"]),
            time_ms=int(pairs["time_ms"]),
            score=float(pairs["score"]),
        )
        if len(transcript.events) < MAX_EVENTS:
            transcript.events.append(event)
    elif kind == "beat":
        beat = Beat(pairs["hash"], *(int(pairs[key]) for key in _BEAT_NUMBERS))
        if min(beat.time_ms, beat.peak, beat.macs, beat.macs_dense) < 0:
            return False
        if len(transcript.beats) < MAX_EVENTS:
            transcript.beats.append(beat)
    elif kind == "stats":
        transcript.stats = {key: int(value) for key, value in pairs.items()}
    elif kind == "clips":
        transcript.clips = int(pairs["count"])
    elif kind in ("operator", "sent"):
        values = transcript.operators if kind == "operator" else transcript.sent
        if len(values) < MAX_ROWS:
            values[int(pairs["index"])] = int(pairs.get("cost", pairs.get("count", "")))
    elif kind == "fault":
        transcript.fault = pairs
    elif kind == "error":
        transcript.errors.append(pairs.get("reason", "unknown"))
    elif kind == "end":
        transcript.ended = True
    else:
        return False
    return True
