"""Long tapes: known words at known times, and how a detector did on them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import write_atomic
from kws.data.archives import SAMPLE_RATE, wav_bytes
from kws.errors import KwsError
from kws.intervals import poisson_interval
from kws.recipe import SILENCE, UNKNOWN

MAX_TSV_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Window:
    """A word that was said: where it starts and ends, in seconds."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Tape:
    """A long recording with truth.

    Args:
        pcm: int16 [n] at 16 kHz.
        windows: Every keyword, in order of time.
    """

    pcm: np.ndarray
    windows: list[Window]

    @property
    def hours(self) -> float:
        return len(self.pcm) / SAMPLE_RATE / 3600


@dataclass(frozen=True)
class Score:
    """How a detector did on a tape.

    Args:
        hits: Windows whose word was heard.
        misses: Windows whose word was not.
        false_alarms: Events that no window explains.
        hours: Length of the tape.
        per_word: word -> (hits, misses, false alarms).
    """

    hits: int
    misses: int
    false_alarms: int
    hours: float
    per_word: dict[str, tuple[int, int, int]]

    @property
    def miss_rate(self) -> float:
        total = self.hits + self.misses
        return self.misses / total if total else 0.0

    @property
    def false_alarms_per_hour(self) -> float:
        return self.false_alarms / self.hours if self.hours else 0.0

    @property
    def false_alarms_per_hour_ci95(self) -> tuple[float, float]:
        """Exact Poisson interval; up to 3.69 / hours where none was seen."""
        low, high = poisson_interval(self.false_alarms)
        return (low / self.hours, high / self.hours) if self.hours else (0.0, math.inf)


def build(
    pcm: np.ndarray,
    label: np.ndarray,
    labels: Sequence[str],
    noises: Sequence[np.ndarray],
    seconds: float = 600.0,
    seed: int = 1,
    keywords_per_minute: float = 4.0,
    unknown_per_minute: float = 12.0,
    snr_db: tuple[float, float] = (5.0, 25.0),
    noise_dbfs: float = -45.0,
) -> Tape:
    """Lay clips at random times, none over another, on a bed of changing noise.

    Args:
        pcm: int16 [N, 16000], as in a ClipSet.
        label: int32 [N].
        labels: Label names; clips of `_silence_` are not used.
        noises: int16 arrays for the bed, 10 to 20 s of one after another with half a
            second of cross-fade; without any the bed is faint white noise.
        seconds: Length of the tape.
        seed: Of everything that is drawn.
        keywords_per_minute: How many keywords.
        unknown_per_minute: How many other words.
        snr_db: Lowest and highest loudness of a word over the bed, in dB.
        noise_dbfs: Loudness of the bed, in dB of full scale.

    Returns:
        The tape; a window spans the part of the clip that holds 98 % of its energy.

    Raises:
        KwsError: more words than seconds, or no clips to lay.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 4]))
    size = int(seconds * SAMPLE_RATE)
    names = np.array([labels[i] for i in label])
    keywords = np.flatnonzero((names != SILENCE) & (names != UNKNOWN))
    others = np.flatnonzero(names == UNKNOWN)
    wanted = round(keywords_per_minute * seconds / 60)
    unwanted = round(unknown_per_minute * seconds / 60) if len(others) else 0
    slots = size // (SAMPLE_RATE * 3 // 2)  # a clip and at least half a second
    if wanted + unwanted > slots or (wanted and not len(keywords)):
        raise KwsError(
            f"The tape can't hold the words: {slots} places in {seconds:g} s, "
            f"{len(keywords)} keyword clips. Received: {wanted} keywords and "
            f"{unwanted} other words",
            "Make a longer tape, or ask for fewer words per minute.",
        )
    tape = _bed(noises, size, noise_dbfs, rng)
    bed_rms = 32768 * 10 ** (noise_dbfs / 20)
    places = np.sort(rng.permutation(slots)[: wanted + unwanted])
    is_keyword = rng.permutation(wanted + unwanted) < wanted
    windows = []
    for place, keyword in zip(places, is_keyword, strict=True):
        pool = keywords if keyword else others
        which = int(pool[int(rng.integers(len(pool)))])
        start = int(place) * SAMPLE_RATE * 3 // 2 + int(
            rng.integers(0, SAMPLE_RATE // 2)
        )
        ratio = 10 ** (rng.uniform(*snr_db) / 20)
        clip = pcm[which].astype(np.float32)
        first, last = _spoken_part(clip)
        loudness = math.sqrt(float(np.mean(clip[first:last] ** 2))) if last else 0.0
        if loudness == 0:
            continue
        gain = min(bed_rms * ratio, 9000.0) / loudness
        end = min(size, start + len(clip))
        tape[start:end] += clip[: end - start] * np.float32(gain)
        if keyword:
            windows.append(
                Window(
                    str(names[which]),
                    (start + first) / SAMPLE_RATE,
                    (start + last) / SAMPLE_RATE,
                )
            )
    return Tape(np.clip(np.rint(tape), -32768, 32767).astype(np.int16), windows)


def score(
    events: Iterable[tuple[str, float]],
    windows: Sequence[Window],
    hours: float,
    tolerance_s: float = 1.0,
    repeat_s: float = 1.0,
) -> Score:
    """Compare events with truth.

    An event hits a window of its word if its time lies in
    [start, end + tolerance_s]; of several such windows the earliest that is not yet
    hit. An event of the same word within `repeat_s` of the last one that counted is
    the same event. Anything else is a false alarm, also a late second event of a
    window.

    Args:
        events: (word, seconds), in any order.
        windows: Truth.
        hours: Length of the recording.
        tolerance_s: How late an event may come.
        repeat_s: How close two events of one word count as one.
    """
    counts: dict[str, list[int]] = {}
    for window in windows:
        counts.setdefault(window.word, [0, 0, 0])
    hit = [False] * len(windows)
    order = sorted(range(len(windows)), key=lambda i: windows[i].start_s)
    last: dict[str, float] = {}
    for word, time_s in sorted(events, key=lambda event: event[1]):
        repeated = word in last and time_s - last[word] <= repeat_s
        open_ = [
            i
            for i in order
            if not hit[i]
            and windows[i].word == word
            and windows[i].start_s <= time_s <= windows[i].end_s + tolerance_s
        ]
        # A repeat may still be the first event of a word said again at once.
        if open_:
            hit[open_[0]] = True
            counts[word][0] += 1
        elif repeated:
            continue  # measured from the event that counted: a stuck detector shows
        else:
            counts.setdefault(word, [0, 0, 0])[2] += 1
        last[word] = time_s
    for i, window in enumerate(windows):
        counts[window.word][1] += not hit[i]
    table = {word: (h, m, f) for word, (h, m, f) in sorted(counts.items())}
    return Score(
        hits=sum(row[0] for row in table.values()),
        misses=sum(row[1] for row in table.values()),
        false_alarms=sum(row[2] for row in table.values()),
        hours=hours,
        per_word=table,
    )


def write_windows(path: Path, windows: Sequence[Window]) -> None:
    """Truth as TSV: start and end in seconds, word."""
    lines = ["start_s\tend_s\tword"]
    lines += [f"{w.start_s:.4f}\t{w.end_s:.4f}\t{w.word}" for w in windows]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def read_windows(path: Path) -> list[Window]:
    """Truth from TSV (as written above) or JSON (a list of objects with word,
    start_s, end_s).

    Raises:
        KwsError: no such file, too large, a broken line.
    """
    hint = "A line per word: start_s <TAB> end_s <TAB> word"
    if not path.is_file() or path.stat().st_size > MAX_TSV_BYTES:
        raise KwsError(
            f"No truth file for the tape. Expected {path.name} (.tsv or .json, at most "
            f"{MAX_TSV_BYTES} bytes). Received: {path}",
            hint,
        )
    windows: list[Window] = []
    try:
        text = path.read_text(encoding="utf-8")
        rows: list[list[Any]]
        if path.suffix == ".json":
            rows = [[r["start_s"], r["end_s"], r["word"]] for r in json.loads(text)]
        else:
            lines = [line for line in text.splitlines() if line.strip()]
            first = 1 if lines and lines[0].startswith("start_s") else 0
            rows = [line.split("\t") for line in lines[first:]]
        for start, end, word in rows:
            window = Window(str(word), float(start), float(end))
            if not (0 <= window.start_s <= window.end_s < math.inf and window.word):
                raise ValueError(f"{start}..{end} {word!r}")
            windows.append(window)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise KwsError(
            f"The truth file is broken at entry {len(windows) + 1}: {error}. "
            f"Received: {path}",
            hint,
        ) from None
    return sorted(windows, key=lambda window: window.start_s)


def save(tape: Tape, path: Path) -> None:
    """Write the tape as .wav, its truth as .tsv beside it."""

    write_atomic(path, wav_bytes(tape.pcm))
    write_windows(path.with_suffix(".tsv"), tape.windows)


def open_tape(path: Path, truth: Path | None = None) -> Tape:
    """Read a recording and its truth (.tsv or .json beside it, or `truth`)."""
    from kws.data.archives import read_audio

    if not path.is_file():
        raise KwsError(
            f"No such recording. Expected a 16 kHz mono .wav or .flac. "
            f"Received: {str(path)!r}",
            'kws data synth --words "yes,no,yes" --stream tape.wav',
        )
    beside = path.with_suffix(".tsv")
    if truth is None and not beside.is_file() and path.with_suffix(".json").is_file():
        beside = path.with_suffix(".json")
    return Tape(
        read_audio(path, 48 * 3600 * SAMPLE_RATE), read_windows(truth or beside)
    )


def _spoken_part(clip: np.ndarray) -> tuple[int, int]:
    """First and last sample of the part with 98 % of the energy."""
    energy = np.cumsum(clip.astype(np.float64) ** 2)
    if not len(energy) or energy[-1] == 0:
        return 0, 0
    first, last = np.searchsorted(energy, [0.01 * energy[-1], 0.99 * energy[-1]])
    return int(first), min(int(last) + 1, len(clip))


def _bed(
    noises: Sequence[np.ndarray], size: int, dbfs: float, rng: np.random.Generator
) -> np.ndarray:
    level = 32768 * 10 ** (dbfs / 20)
    if not noises:
        return (rng.standard_normal(size) * level).astype(np.float32)
    fade = SAMPLE_RATE // 2
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    bed = np.zeros(size + fade, dtype=np.float32)
    position = 0
    while position < size:
        noise = noises[int(rng.integers(len(noises)))]
        length = min(int(rng.uniform(10, 20) * SAMPLE_RATE), len(noise))
        at = int(rng.integers(0, len(noise) - length + 1))
        piece = noise[at : at + length].astype(np.float32)
        piece *= level / max(1.0, math.sqrt(float(np.mean(piece**2))))
        if len(piece) > 2 * fade:
            piece[:fade] *= ramp
            piece[-fade:] *= ramp[::-1]
        end = min(position + len(piece), len(bed))
        bed[position:end] += piece[: end - position]
        position += max(len(piece) - fade, 1)
    return bed[:size]
