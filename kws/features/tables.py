"""Tables of the fixed-point features: made once on the host, used by board and PC.

`tables(spec)` computes them with numpy; the Python binding hands them to the C at run
time and `c_source(spec, symbol)` writes them as `const` C. Both come from here, so they
cannot differ. What each table means: firmware/include/kws_features.h.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kws.errors import KwsError
from kws.recipe import Features

MAX_WINDOW = 480
FFT_SIZES = (128, 256, 512)
MIN_MEL_BINS, MAX_MEL_BINS = 8, 80
MIN_SCALE, MAX_SCALE = 0.005, 1.0

# A full-scale sample enters the FFT as 2**27 (firmware/src/features.c).
FULL_SCALE_BITS = 27
# A magnitude is stored 2**16 times its value.
MAGNITUDE_FRACTION_BITS = 16
LOG_FRACTION_BITS = 23
LOG_SHIFT = 46

_ARRAYS = (
    "windows",
    "order",
    "twiddles",
    "split",
    "segment_bins",
    "mel_weights",
    "log_table",
    "sqrt_table",
)
_C_TYPES = {
    "int32": "int32_t",
    "uint32": "uint32_t",
    "uint16": "uint16_t",
    "uint8": "uint8_t",
}


@dataclass(frozen=True)
class Tables:
    """Everything in `kws_feature_spec_t`, with the same names.

    Shapes: windows [fft_size]; order [points / first radix]; twiddles [3 * 3 *
    quarters]; split [2 * points / 2]; segment_bins [mel_bins + 1]; mel_weights [bins
    used]; log_table [129]; sqrt_table [193]; where points = fft_size / 2.
    """

    window: int
    hop: int
    fft_size: int
    power: int
    mel_bins: int
    first_bin: int
    log_multiplier: int
    log_offset: int
    floor: int
    windows: NDArray[np.int32]
    order: NDArray[np.uint8]
    twiddles: NDArray[np.int32]
    split: NDArray[np.int32]
    segment_bins: NDArray[np.uint8]
    mel_weights: NDArray[np.uint32]
    log_table: NDArray[np.uint16]
    sqrt_table: NDArray[np.uint16]

    @property
    def flash_bytes(self) -> int:
        """Bytes of constant data that the board keeps for them."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)


def check(spec: Features) -> None:
    """Refuse a specification that the fixed-point features cannot compute.

    Raises:
        KwsError: a value out of range.
    """

    def require(holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise KwsError(
                f"The features cannot be computed: {key} must be {expected}. "
                f"Received: {key}={getattr(spec, key)!r}",
                "Change [features] in the recipe, or start from a preset: "
                "kws train --preset kwt-tiny --out runs/tiny",
            )

    require(spec.sample_rate == 16000, "sample_rate", "16000")
    require(spec.fft_size in FFT_SIZES, "fft_size", "128, 256 or 512")
    largest = min(MAX_WINDOW, spec.fft_size)
    require(
        32 <= spec.window <= largest and spec.window % 2 == 0,
        "window",
        f"even, 32..{largest} (fft_size={spec.fft_size})",
    )
    require(1 <= spec.hop <= spec.window, "hop", f"1..window ({spec.window})")
    require(1 <= spec.frames <= 1000, "frames", "1..1000")
    require(
        MIN_MEL_BINS <= spec.mel_bins <= MAX_MEL_BINS,
        "mel_bins",
        f"{MIN_MEL_BINS}..{MAX_MEL_BINS}",
    )
    require(spec.power in (1, 2), "power", "1 or 2")
    require(0 <= spec.low_hz < spec.high_hz, "low_hz", f"0..high_hz ({spec.high_hz})")
    require(
        spec.high_hz <= spec.sample_rate / 2, "high_hz", f"<= {spec.sample_rate // 2}"
    )
    require(MIN_SCALE <= spec.scale <= MAX_SCALE, "scale", f"{MIN_SCALE}..{MAX_SCALE}")
    require(-128 <= spec.zero_point <= 127, "zero_point", "-128..127")
    require(-128 <= spec.floor <= 0, "floor", "-128..0")


@lru_cache(maxsize=32)
def tables(spec: Features) -> Tables:
    """Compute the tables of a specification (cached; do not write into the arrays).

    Raises:
        KwsError: a value that the C cannot compute.

    Example:
        >>> tables(Features()).mel_weights.dtype
        dtype('uint32')
    """
    check(spec)
    points = spec.fft_size // 2
    first_radix = 2 if points == 128 else 4
    order = _digit_reversal(points // first_radix)
    first_bin, segment_bins, mel_weights = _mel(spec)
    multiplier, offset = _logarithm(spec, points, first_radix)
    result = Tables(
        window=spec.window,
        hop=spec.hop,
        fft_size=spec.fft_size,
        power=spec.power,
        mel_bins=spec.mel_bins,
        first_bin=first_bin,
        log_multiplier=multiplier,
        log_offset=offset,
        floor=spec.floor,
        windows=_windows(spec, order),
        order=order,
        twiddles=_twiddles(points, first_radix),
        split=_cos_sin(np.arange(points // 2) / spec.fft_size),
        segment_bins=segment_bins,
        mel_weights=mel_weights,
        log_table=np.rint(32768 * np.log2(1 + np.arange(129) / 128)).astype(np.uint16),
        sqrt_table=np.rint(32768 * np.sqrt(np.arange(64, 257) / 256)).astype(np.uint16),
    )
    for name in _ARRAYS:
        getattr(result, name).setflags(write=False)
    return result


def spec_hash(spec: Features) -> str:
    """16 hex digits over all that the C computes with.

    Two specifications with one hash give the same bits.
    """
    values = tables(spec)
    digest = hashlib.sha256()
    for item in dataclasses.fields(Tables):
        value = getattr(values, item.name)
        data = value.tobytes() if isinstance(value, np.ndarray) else str(value).encode()
        digest.update(f"{item.name}:{len(data)}:".encode() + data)
    return digest.hexdigest()[:16]


def c_source(spec: Features, symbol: str) -> str:
    """C text that defines `const kws_feature_spec_t <symbol>` and its tables.

    Args:
        spec: The features.
        symbol: A C identifier; the tables are `static` and named `<symbol>_<table>`.

    Raises:
        KwsError: a symbol that is no C identifier, or a value out of range.

    Example:
        >>> "kws_feature_spec_t my_features" in c_source(Features(), "my_features")
        True
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", symbol):
        raise KwsError(
            f"Not a C identifier. Expected letters, digits and _. Received: {symbol!r}",
            "Use a name such as kws_model_features.",
        )
    values = tables(spec)
    parts = [
        f"/* Feature specification {spec_hash(spec)}: {spec.mel_bins} mel bins, "
        f"power {spec.power}. Generated by kws/features/tables.py. */",
        '#include "kws_features.h"',
        "",
    ]
    for name in _ARRAYS:
        array = getattr(values, name)
        unsigned = array.dtype.kind == "u"
        parts.append(
            f"static const {_C_TYPES[array.dtype.name]} {symbol}_{name}[{array.size}] "
            f"= {{\n{_c_numbers(array, 'U' if unsigned else '')}\n}};\n"
        )
    fields = [
        f"    .{name} = {getattr(values, name)},"
        for name in ("window", "hop", "fft_size", "power", "mel_bins", "first_bin")
    ]
    fields += [
        f"    .log_multiplier = {values.log_multiplier}U,",
        f"    .log_offset = INT64_C({values.log_offset}),",
        f"    .floor = {values.floor},",
    ]
    fields += [f"    .{name} = {symbol}_{name}," for name in _ARRAYS]
    parts += [f"const kws_feature_spec_t {symbol} = {{", *fields, "};", ""]
    return "\n".join(parts)


def _c_numbers(array: NDArray[np.integer], suffix: str) -> str:
    texts = [f"{int(value)}{suffix}" for value in array]
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) + 2 > 88:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return "\n".join([*lines, line])


def _fixed(values: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    scaled = np.rint(np.asarray(values, np.float64) * 2.0**bits)
    # -2**31 is left out as well: C code may then negate.
    return np.clip(scaled, -(2**31) + 1, 2**31 - 1).astype(np.int32)


def _cos_sin(turns: NDArray[np.float64]) -> NDArray[np.int32]:
    """cos and sin of 2 pi turns in Q31, interleaved."""
    angle = 2 * np.pi * turns
    return _fixed(np.stack([np.cos(angle), np.sin(angle)], axis=-1).ravel(), 31)


def _windows(spec: Features, order: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Q27, in the order of use: for each block of the FFT's first stage, the pairs of
    samples that it takes; zero beyond the window."""
    window = np.zeros(spec.fft_size, np.int32)
    window[: spec.window] = _fixed(
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / spec.window),
        FULL_SCALE_BITS,
    )
    blocks = window.reshape(-1, len(order), 2).transpose(1, 0, 2)
    return np.ascontiguousarray(blocks[order]).ravel()


def _digit_reversal(count: int) -> NDArray[np.uint8]:
    """Base-4 digits of 0..count-1 in reverse; `count` is 16 or 64."""
    index = np.arange(count)
    reversed_index = np.zeros_like(index)
    for _ in range(int(math.log(count, 4) + 0.5)):
        reversed_index = 4 * reversed_index + index % 4
        index //= 4
    return reversed_index.astype(np.uint8)


def _twiddles(points: int, first_radix: int) -> NDArray[np.int32]:
    stages = []
    quarter = first_radix
    while quarter < points:
        k = np.arange(quarter)[:, None] * np.array([2, 3, 1])
        cosine, sine = _cos_sin(k.ravel() / (4 * quarter)).reshape(-1, 2).T
        stages.append(np.stack([cosine, sine, -sine], axis=-1).ravel())
        quarter *= 4
    return np.concatenate(stages)


def mel_centres_hz(spec: Features) -> NDArray[np.float64]:
    """Feet and peaks of the HTK mel triangles in Hz, [mel_bins + 2], rising."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    mels = np.linspace(to_mel(spec.low_hz), to_mel(spec.high_hz), spec.mel_bins + 2)
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def _mel(spec: Features) -> tuple[int, NDArray[np.uint8], NDArray[np.uint32]]:
    """First bin, bins between neighbouring centres, rising weight (Q32) of each bin."""
    centres = mel_centres_hz(spec)
    bin_hz = np.arange(spec.fft_size // 2 + 1) * (spec.sample_rate / spec.fft_size)
    used = np.flatnonzero((bin_hz >= centres[0]) & (bin_hz < centres[-1]))
    if used.size == 0:
        raise KwsError(
            f"No FFT bin lies between low_hz and high_hz (bins are {bin_hz[1]:g} Hz "
            f"apart). Received: low_hz={spec.low_hz!r}, high_hz={spec.high_hz!r}",
            "Widen the band in [features] of the recipe.",
        )
    segment = np.searchsorted(centres, bin_hz[used], side="right") - 1
    left, right = centres[segment], centres[segment + 1]
    rising = (bin_hz[used] - left) / (right - left)
    counts = np.bincount(segment, minlength=spec.mel_bins + 1)
    weights = np.clip(np.rint(rising * 2.0**32), 0, 2**32 - 1).astype(np.uint32)
    return int(used[0]), counts.astype(np.uint8), weights


def _logarithm(spec: Features, points: int, first_radix: int) -> tuple[int, int]:
    """Multiplier and offset that turn log2 (Q23) into an int8 feature."""
    stages = 1 + round(math.log(points / first_radix, 4))
    # log2 of the C's number for a spectrum value of 1; each stage halves.
    unit = FULL_SCALE_BITS - stages
    log2_unit = 2 * unit if spec.power == 2 else unit + MAGNITUDE_FRACTION_BITS
    steps_per_octave = math.log(2.0) / spec.scale
    multiplier = round(steps_per_octave * 2.0 ** (LOG_SHIFT - LOG_FRACTION_BITS))
    offset = (
        (spec.zero_point << LOG_SHIFT)
        - multiplier * (log2_unit << LOG_FRACTION_BITS)
        + (1 << (LOG_SHIFT - 1))
    )
    return multiplier, offset
