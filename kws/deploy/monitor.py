"""What a board says: lines of `kws <kind> key=value ...`, read without trust.

Each ends with a sequence number and a CRC (kws/deploy/frame.py): broken lines are
dropped with a word, and missing ones are told.

`parse` reads a whole run; `Monitor` follows one as it happens.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from kws.deploy import fault
from kws.deploy.failures import BoardError
from kws.deploy.frame import Frames

SCHEMA_VERSION = 1
MAX_LINE = 1024
MAX_EVENTS = 100_000
MAX_ROWS = 4096
MAX_DIGITS = 20  # of a 64-bit number
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
        stack: Deepest use of the stack so far, in bytes; None: an older firmware.
        stack_size: Its size; 0 where there is none (this machine).
        microphone: What its samples say of it, a key of MICROPHONE; None: an older
            firmware.
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
    stack: int | None = None
    stack_size: int | None = None
    microphone: str | None = None

    @property
    def level_db(self) -> float:
        """Peak level in dB of full scale, at least -90.3 (one step)."""
        return 20 * math.log10(max(1, self.peak) / 32768)

    @property
    def skipped(self) -> float | None:
        """Share of the delta products' work that was skipped in the last decision;
        None without any, and of the first: a stream counts that one from its start."""
        if not self.macs_dense or self.inferences < 2:
            return None
        return 1 - self.macs / self.macs_dense


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
        other: Lines that are not of the protocol, and broken ones.
        boots: Boot lines.
        replies: Pairs of what commands were answered.
        state: Pairs of the last answer to `query`.
        thresholds: Word -> threshold, as that answer said.
        decisions: Words that the model was for, where it was told to say so.
        broken: How many were broken on their way.
        missing: How many didn't arrive, by the sequence of those that did.
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
    boots: int = 0
    replies: list[dict[str, str]] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    broken: int = 0
    missing: int = 0

    @property
    def hash(self) -> str | None:
        """The model's: of the boot line, else of a board's that was up already."""
        beat = self.beats[-1].hash if self.beats else None
        return self.boot.get("hash", beat)


_BEAT_NUMBERS = tuple(
    f.name for f in fields(Beat) if f.name != "hash" and f.default is MISSING
)
_BEAT_MORE = ("stack", "stack_size")  # from version 0.2 on


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


def _printable(line: str) -> str:
    """A line that a terminal may show: a board could steer it by escape sequences."""
    line = line.strip()
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else "?" for char in line)


def _number(text: str) -> int:
    """What the firmware's print_u64 writes; nothing longer fits into a float."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise ValueError
    return int(text)


def _score(text: str) -> float:
    score = float(text)
    if not 0 <= score <= 1:  # NaN is refused too
        raise ValueError
    return score


def parse(text: str) -> Transcript:
    """Read a whole run. A damaged line is kept in `other`, never raised on."""
    transcript = Transcript()
    frames = Frames()
    for raw in re.split(r"[\r\n]", text):
        body, missing = frames.take(raw.strip())
        transcript.missing += missing
        transcript.broken += body is None
        line = _printable(raw if body is None else body)
        parsed = None if body is None else parse_line(line)
        try:
            if parsed is None or not _take(transcript, *parsed):
                raise ValueError
        except (KeyError, ValueError):
            if line and len(transcript.other) < MAX_EVENTS:
                transcript.other.append(line[:MAX_LINE])
    return transcript


def _take(transcript: Transcript, kind: str, pairs: dict[str, str]) -> bool:
    """Enter one line. Returns False if its kind is unknown; raises on bad values."""
    if kind == "boot":
        transcript.boot = pairs
        transcript.boots += 1
    elif kind == "selftest":
        transcript.selftest = "ok" in pairs and "failed" not in pairs
    elif kind == "event":
        event = Event(
            word=pairs["word"],
            start_ms=_number(pairs["start_ms"]),
            time_ms=_number(pairs["time_ms"]),
            score=_score(pairs["score"]),
        )
        if len(transcript.events) < MAX_EVENTS:
            transcript.events.append(event)
    elif kind == "beat":
        numbers: dict[str, Any] = {key: _number(pairs[key]) for key in _BEAT_NUMBERS}
        numbers |= {key: _number(pairs[key]) for key in _BEAT_MORE if key in pairs}
        beat = Beat(hash=pairs["hash"], microphone=pairs.get("mic"), **numbers)
        if len(transcript.beats) < MAX_EVENTS:
            transcript.beats.append(beat)
    elif kind == "stats":
        transcript.stats = {key: _number(value) for key, value in pairs.items()}
    elif kind == "clips":
        transcript.clips = _number(pairs["count"])
    elif kind in ("operator", "sent"):
        values = transcript.operators if kind == "operator" else transcript.sent
        if len(values) < MAX_ROWS:
            value = pairs.get("cost", pairs.get("count", ""))
            values[_number(pairs["index"])] = _number(value)
    elif kind == "fault":
        transcript.fault = pairs
    elif kind == "error":
        transcript.errors.append(pairs.get("reason", "unknown"))
    elif kind == "end":
        transcript.ended = True
    elif kind == "threshold":
        if len(transcript.thresholds) < MAX_ROWS:
            transcript.thresholds[pairs["word"]] = _score(pairs["value"])
    elif kind == "decision":
        _score(pairs["score"])
        if len(transcript.decisions) < MAX_EVENTS:
            transcript.decisions.append(pairs["word"])
    elif kind == "reply":
        if len(transcript.replies) < MAX_ROWS:
            transcript.replies.append(pairs)
    elif kind == "state":
        transcript.state = pairs
    elif kind not in ("clock", "tflm"):
        return False
    return True


class Monitor:
    """Follows a board: bytes in, messages out.

    Args:
        cost_ms: Turns the board's cost (instructions, cycles, ns) into milliseconds.
        expected_hash: Hash of the model that it has to run; None: any.
        image: ELF file of the build that it should run, for what a fault means.
        names: `board` and `run`, for messages.

    Example:
        >>> monitor = Monitor(lambda cost: cost / 64000)
        >>> monitor.feed(b"kws event word=yes start_ms=0 time_ms=1000 score=0.93\\n")
        [{'kind': 'event', 'word': 'yes', 'start_s': 0.0, 'time_s': 1.0, 'score': 0.93}]
    """

    def __init__(
        self,
        cost_ms: Callable[[int], float],
        expected_hash: str | None = None,
        image: Path | None = None,
        **names: str,
    ) -> None:
        self.cost_ms = cost_ms
        self.expected_hash = expected_hash
        self.image = image
        self.names = names
        self.known = False  # the board has named the model that is expected
        self.passed = False  # and has said that its self-test passed
        self.ended = False
        self._frames = Frames()
        self._line = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Messages of the lines that are complete now, in order.

        A line longer than MAX_LINE is dropped, whatever its length.

        Raises:
            BoardError: the board tells a failure, or is not the one that is meant.
        """
        messages = []
        for piece in data.splitlines(keepends=True):
            if len(self._line) + len(piece) > MAX_LINE + 2:
                self._too_long = True
                self._line.clear()
            else:
                self._line += piece
            if not piece.endswith((b"\n", b"\r")):
                continue
            raw = self._line.decode("utf-8", "replace").strip()
            dropped, self._too_long = self._too_long, False
            self._line.clear()
            if not raw or dropped:
                continue
            body, missing = self._frames.take(raw)
            if missing:
                messages.append({"kind": "gap", "lines": missing})
            if body is None:
                broken = _printable(raw)[:MAX_LINE]
                messages.append({"kind": "broken", "text": broken})
            else:
                messages.append(self._message(_printable(body)))
        return messages

    def _message(self, line: str) -> dict[str, Any]:
        transcript = Transcript()
        parsed = parse_line(line)
        if parsed is not None and parsed[0] in ("boot", "beat", "state"):
            self._check(parsed[1])  # first: another version may have other keys
        try:
            if parsed is None or not _take(transcript, *parsed):
                raise ValueError
        except (KeyError, ValueError):
            return {"kind": "other", "text": line[:MAX_LINE]}
        kind, pairs = parsed
        if kind == "event":
            event = transcript.events[0]
            return {
                "kind": kind,
                "word": event.word,
                "start_s": event.start_ms / 1000,
                "time_s": event.time_ms / 1000,
                "score": event.score,
            }
        if kind == "beat":
            beat = transcript.beats[0]
            return {
                "kind": kind,
                "time_s": beat.time_ms / 1000,
                "level_db": round(beat.level_db, 1),
                "inference_ms": round(self.cost_ms(beat.cost), 2),
                "cost": beat.cost,
                "skipped": None if beat.skipped is None else round(beat.skipped, 4),
                "overruns": beat.overruns,
                "inferences": beat.inferences,
                "hash": beat.hash,
                "stack": beat.stack,
                "stack_size": beat.stack_size,
                "microphone": beat.microphone,
            }
        if kind == "selftest":
            if transcript.selftest is not True:
                raise BoardError("selftest", line, **self.names)
            self.passed = True
            return {"kind": kind, "ok": True}
        if kind == "fault":
            told = f"{fault.explain(pairs, self.image)} (it says: {line})"
            raise BoardError("crashed", told, **self.names)
        if kind == "error":
            reason = transcript.errors[0]
            key = {"image": "interrupted", "clock": "clock", "stack": "stack"}.get(
                reason, "crashed"
            )
            raise BoardError(key, f"it says: {line}", **self.names)
        if kind == "end":
            self.ended = True
        values = {key: _value(key, pairs[key]) for key in pairs}
        return values | {"kind": kind}  # whatever the line says of a `kind`

    def _check(self, pairs: dict[str, str]) -> None:
        """Refuse another protocol, another board and another model."""
        schema, received = pairs.get("schema"), pairs.get("hash", "none")
        if schema is None:
            return  # a damaged line; the next beat says it again
        if schema != str(SCHEMA_VERSION):
            cause = f"version {schema}, expected {SCHEMA_VERSION}"
            raise BoardError("protocol", cause, **self.names)
        # Its clock is another one, and so would be each time that is shown. Beats don't
        # tell, nor older firmware, nor this machine.
        said, board = pairs.get("board"), self.names.get("board")
        if said and board and said != board:
            cause = f"board={said} clock_hz={pairs.get('clock_hz')}"
            raise BoardError("other-board", cause, **self.names, said=said)
        if self.expected_hash is not None and received != self.expected_hash:
            cause = f"hash {received}, expected {self.expected_hash}"
            raise BoardError("hash", cause, **self.names)
        self.known = True


def _value(key: str, text: str) -> str | int:
    """A number where it is one; a hash of digits stays text."""
    if key not in ("hash", "name", "version", "build"):
        with contextlib.suppress(ValueError):
            return _number(text)
    return text


STACK_WARNING = 0.9


def _stack(message: dict[str, Any]) -> str:
    """A word where the stack is nearly full."""
    used, size = message.get("stack"), message.get("stack_size")
    if not used or not size or used < STACK_WARNING * size:
        return ""
    return f"  stack {used:,} of {size:,} bytes: raise stack_bytes in board.toml"


# What the firmware's test of the microphone found (kws.h) -> what to do.
MICROPHONE = {
    "ok": "",
    "none": "no sample has come: its clock or the DMA (docs/boards.md)",
    "zeros": "nothing but zeros: data line, supply or select pin, or it is stuck",
    "stuck": "one value only: the data line is stuck high or low, or a wrong pin",
    "offset": "a constant voltage takes the range: its coupling or bias, a wrong pin",
    "quiet": "less than its own noise: supply, or raise the gain (BOARD_GAIN)",
    "clipping": "too loud: lower the gain (BOARD_GAIN), or go further away",
}
# Of a recording there are no wires to look at, and silence is as good as any sound.
RECORDING = {
    "stuck": "the recording has one value only here",
    "offset": "the recording has a constant offset here",
    "clipping": "the recording is too loud here",
}


def _microphone(message: dict[str, Any], recording: bool) -> str:
    """What is wrong with the sound, and what to do."""
    found = message.get("microphone") or "ok"
    if recording:
        told = RECORDING.get(found)
        return f"  {found.upper()}: {told}" if told else ""
    told = MICROPHONE.get(found, found)
    return f"  MICROPHONE {found}: {told}" if told else ""


METER_DB = 60
METER_CELLS = 20


def meter(level_db: float) -> str:
    """A bar from -60 dB of full scale to 0.

    Example:
        >>> meter(-30)
        '[##########          ]'
    """
    full = max(0.0, min(1.0, 1 + level_db / METER_DB))
    cells = round(METER_CELLS * full)
    return "[" + "#" * cells + " " * (METER_CELLS - cells) + "]"


_RESETS = {
    "power": "switched on",
    "pin": "reset by its button or the probe",
    "watchdog": "RESET BY ITS WATCHDOG: it hung, crashed, or got no audio",
    "software": "restarted by its program",
    "lockup": "RESET AFTER A FAULT within a fault handler",
    "wake": "woken from deep sleep",
}


def _started(message: dict[str, Any]) -> str:
    """Which firmware, and why it started, as far as the boot line says."""
    parts = []
    if "version" in message:
        parts.append(f"firmware {message['version']} build {message.get('build')}")
    if "reset" in message:
        parts.append(_RESETS.get(message["reset"], f"reset={message['reset']}"))
    return "".join(f", {part}" for part in parts)


def text(message: dict[str, Any], recording: bool = False) -> str:
    """A message for people, one line.

    Args:
        message: From `Monitor.feed`.
        recording: What is heard comes from a file: no microphone is to blame.
    """
    kind = message["kind"]
    if kind == "event":
        return (
            f"{message['time_s']:9.2f} s  {message['word']:<16} "
            f"score {message['score']:.2f}"
        )
    if kind == "beat":
        skipped = message["skipped"]
        work = "" if skipped is None else f"  skipped {100 * skipped:.0f} %"
        return (
            f"{message['time_s']:9.2f} s  {meter(message['level_db'])} "
            f"{message['level_db']:6.1f} dB  inference "
            f"{message['inference_ms']:.1f} ms{work}  lost {message['overruns']:,}"
            f"{_stack(message)}{_microphone(message, recording)}"
        )
    if kind == "boot":
        return f"model {message.get('name')}, hash {message.get('hash')}" + _started(
            message
        )
    if kind == "selftest":
        return "self-test ok"
    if kind == "other":
        return f"? {message['text']}"
    if kind == "broken":
        return f"broken on its way, dropped: {message['text']}"
    if kind == "gap":
        return f"{message['lines']} line(s) missing here"
    if kind == "unanswered":
        return f"no reply to {message['command']!r}: lost on its way; send it again"
    pairs = (f"{key}={value}" for key, value in message.items() if key != "kind")
    return f"{kind} {' '.join(pairs)}".rstrip()
