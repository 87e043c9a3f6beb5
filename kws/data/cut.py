"""Where the words are in a recording: by loudness, against the recording's own noise.

Used to cut takes into clips (`kws data import`), and to find the word in a clip that is
longer than a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data.audio import SAMPLE_RATE

FRAME = 160  # samples of the loudness contour: 10 ms
PAUSE_S = 0.3  # silence between two words; less is a pause within one
SHORTEST_S = 0.1  # less is a click
OVERHANG_S = 0.15  # of a word over its clip: at most its soft edges are lost
CONTRAST_DB = 9.0  # words are at least this much louder than the quiet parts
_BANDS = ((120, 1000), (1000, 3000), (3000, 7500))  # Hz
_RANGE_DB = 60.0  # below the loudest, all is silence
# What is so far above the quiet is a word: noise alone wavers by less, and the echo of
# a word in a quiet room is below a share of its loudness.
_ABOVE_DB, _SHARE = 6.0, 0.3
_SOFT_S = 0.15  # how far a word's soft edges reach


@dataclass(frozen=True)
class Take:
    """A recording to import.

    Args:
        file: Where it is.
        word: What is said in it, as its folder is called; NOISE for background noise.
        speaker: Who says it, as in the names of the clips.
    """

    file: Path
    word: str
    speaker: str


@dataclass(frozen=True)
class Piece:
    """A part of a take that became a clip, or did not.

    Args:
        take: Where it is from.
        start_s: Where it begins in the take.
        stop_s: Where it ends.
        name: Of the clip (`yes/anna_nohash_0.wav`); empty where there is none.
        problem: Why there is none.
        wave: Its waveform, as an SVG path.
    """

    take: Take
    start_s: float
    stop_s: float
    name: str = ""
    problem: str = ""
    wave: str = ""


@dataclass(frozen=True)
class Span:
    """A part of a recording, in samples.

    Args:
        start: First sample.
        stop: One after the last.
        level_db: Its loudness, dB of full scale.
    """

    start: int
    stop: int
    level_db: float

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / SAMPLE_RATE


@dataclass(frozen=True)
class Found:
    """What is in a recording.

    Args:
        spans: Stretches of sound between pauses.
        clicks: Such that are too short for a word.
        quiet: The longest stretch without sound.
        contrast_db: How much louder the loud parts are than the quiet ones.
    """

    spans: list[Span]
    clicks: list[Span]
    quiet: tuple[int, int]
    contrast_db: float


def bands(pcm: np.ndarray) -> np.ndarray:
    """Power of every 10 ms in three bands of speech: float64 [frames, 3], in dB.

    Args:
        pcm: int16 [samples]; full scale is 0 dB, and nothing is below -100.
    """
    count = len(pcm) // FRAME
    out = np.full((count, len(_BANDS)), -100.0)
    window = np.hanning(2 * FRAME)
    padded = np.pad(pcm, (FRAME // 2, 2 * FRAME))
    hertz = np.fft.rfftfreq(2 * FRAME, 1 / SAMPLE_RATE)
    inside = [(hertz >= low) & (hertz < high) for low, high in _BANDS]
    for first in range(0, count, 4096):
        last = min(first + 4096, count)
        at = np.arange(first, last)[:, None] * FRAME + np.arange(2 * FRAME)
        spectrum = np.fft.rfft(padded[at] / 32768 * window)
        power = np.square(np.abs(spectrum)) * (2 / FRAME**2)
        for band, chosen in enumerate(inside):
            here = power[:, chosen].sum(axis=1)
            out[first:last, band] = 10 * np.log10(np.maximum(here, 1e-10))
    return out


def words(pcm: np.ndarray, pause_s: float = PAUSE_S) -> Found:
    """Find the stretches of sound that pauses set apart.

    Every band is compared with its own quiet parts, so that neither hum nor hiss hides
    a word.

    Args:
        pcm: int16 [samples] at 16 kHz.
        pause_s: Silence that sets two words apart, in seconds.

    Example:
        >>> tone = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
        >>> still = np.zeros(8000, np.int16)
        >>> found = words(np.concatenate([still, tone, still]))
        >>> [round(span.start / SAMPLE_RATE, 1) for span in found.spans]
        [0.5]
    """
    levels = bands(pcm)
    found = _stretches(levels, pause_s)
    spans, clicks = [], list(found.clicks)
    for span in found.spans:
        inside = None
        if span.stop - span.start > _frames(1.0):
            # Where the room was not the same all along, compare with what is near.
            inside = _stretches(levels[span.start : span.stop], pause_s)
        if inside is None or not inside.spans:
            spans.append(span)
            continue
        spans += [_moved(part, span.start) for part in inside.spans]
        clicks += [_moved(part, span.start) for part in inside.clicks]
    return Found(
        [_in_samples(span) for span in spans],
        [_in_samples(span) for span in clicks],
        (found.quiet[0] * FRAME, found.quiet[1] * FRAME),
        found.contrast_db,
    )


def _stretches(levels: np.ndarray, pause_s: float) -> Found:
    """`words` of bands' levels, all in frames."""
    if len(levels) < 3:
        return Found([], [], (0, 0), 0.0)
    padded = np.pad(levels, ((1, 1), (0, 0)), mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    live = smooth[levels.max(axis=1) > -95]  # a pad of zeros is not the room
    quiet = np.percentile(live if len(live) > 0.7 * len(smooth) else smooth, 10, axis=0)
    quiet = np.maximum(quiet, smooth.max() - _RANGE_DB)
    above = (smooth - quiet).max(axis=1)
    contrast = float(above.max())
    if contrast < CONTRAST_DB:
        return Found([], [], (0, 0), contrast)
    high = max(_ABOVE_DB, _SHARE * contrast)
    low = high / 2
    merged: list[list[int]] = []
    for start, stop in _runs(above > high):
        if merged and start - merged[-1][1] < _frames(pause_s):
            merged[-1][1] = stop
        else:
            merged.append([start, stop])
    total = 10 * np.log10((10 ** (levels / 10)).sum(axis=1))
    spans: list[Span] = []
    clicks: list[Span] = []
    for place, (start, stop) in enumerate(merged):
        before = merged[place - 1][1] if place else 0
        after = merged[place + 1][0] if place + 1 < len(merged) else len(above)
        first = _reach(above, start, max(before, start - _frames(_SOFT_S)), -1, low)
        last = _reach(above, stop, min(after, stop + _frames(_SOFT_S)), 1, low)
        level = 10 * np.log10(np.mean(10 ** (total[start:stop] / 10)))
        # What a short burst lasts above the threshold is what it lasts.
        kind = clicks if stop - start < _frames(SHORTEST_S) else spans
        kind.append(Span(first, last, float(level)))
    silent = _runs(above <= low)
    longest = max(silent, key=lambda run: run[1] - run[0], default=(0, 0))
    return Found(spans, clicks, longest, contrast)


def _moved(span: Span, frames: int) -> Span:
    return Span(span.start + frames, span.stop + frames, span.level_db)


def _in_samples(span: Span) -> Span:
    return Span(span.start * FRAME, span.stop * FRAME, span.level_db)


def around_the_word(pcm: np.ndarray, size: int) -> tuple[int, str]:
    """Where the one word of a longer recording is.

    Args:
        pcm: int16 [samples], more than `size`.
        size: Samples of a clip.

    Returns:
        First sample of the clip around the word, and '' or why there is no one word;
        the loudest part then.
    """
    found = words(pcm)
    spans = [s for s in found.spans if s.level_db > _loudest(found.spans) - 20]
    if len(spans) == 1 and spans[0].seconds <= longest_s(size):
        return centred(spans[0], len(pcm), size), ""
    power = np.cumsum(np.square(np.append(0, pcm), dtype=np.float64))
    start = int(np.argmax(power[size:] - power[:-size]))
    if not found.spans:
        return start, "no word stands out of the noise"
    if len(spans) > 1:
        return start, f"{len(spans)} words with pauses between"
    return start, f"{spans[0].seconds:.1f} s of sound without a pause"


def centred(span: Span, samples: int, size: int) -> int:
    """First sample of the clip around a span, inside the recording."""
    middle = (span.start + span.stop) // 2
    return max(0, min(middle - size // 2, samples - size))


def longest_s(size: int) -> float:
    """Seconds that the word of a clip of `size` samples lasts, at most."""
    return size / SAMPLE_RATE + OVERHANG_S


def _loudest(spans: list[Span]) -> float:
    return max((span.level_db for span in spans), default=0.0)


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / FRAME)


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    """First and one after the last index of each stretch that is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _reach(contour: np.ndarray, at: int, limit: int, step: int, low: float) -> int:
    """How far beyond `at` the contour stays above `low`."""
    while at != limit and contour[at - 1 if step < 0 else at] > low:
        at += step
    return at
