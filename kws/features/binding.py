"""firmware/src/features.c, called from Python.

The extension module `kws.features._native` is built when the package is installed; the
tables of kws.features.tables are handed over at run time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws.errors import KwsError, pip_install
from kws.features import tables as feature_tables
from kws.recipe import Features

# Clips that one call into C takes: long enough to hide the call, short enough for
# several threads to share a small batch.
_CLIPS_PER_CALL = 64


def extract(
    pcm: NDArray[np.int16], spec: Features, threads: int = 1
) -> NDArray[np.int8]:
    """Log-mel features of whole clips.

    Args:
        pcm: int16 mono samples at 16 kHz, [samples] or [N, samples].
        spec: The features; at least `spec.window` samples are needed.
        threads: Threads that share the clips (the C runs without the GIL), 1..64.

    Returns:
        int8, [frames, mel_bins] or [N, frames, mel_bins], where
        frames = 1 + (samples - window) // hop.

    Raises:
        KwsError: not int16, another number of dimensions, a clip that is too short.

    Example:
        >>> extract(np.zeros(16000, np.int16), Features()).shape
        (98, 40)
    """
    pcm = _checked(pcm, (1, 2), "[samples] or [clips, samples]")
    if not isinstance(threads, int) or not 1 <= threads <= 64:
        raise KwsError(
            f"threads must be 1..64. Received: threads={threads!r}",
            "Leave threads away to use one.",
        )
    native = _native_spec(spec)
    clips = pcm[None, :] if pcm.ndim == 1 else pcm
    samples = clips.shape[1]
    if samples < spec.window:
        raise KwsError(
            f"Too little audio: expected at least one window of {spec.window} samples. "
            f"Received: {samples} samples",
            "Pad the clip with zeros, or look for damaged files: kws data verify DIR",
        )
    frames = 1 + (samples - spec.window) // spec.hop
    out = np.empty((len(clips), frames, spec.mel_bins), np.int8)

    def work(start: int) -> None:
        for index in range(start, min(start + _CLIPS_PER_CALL, len(clips))):
            native.clip(clips[index], out[index])

    starts = range(0, len(clips), _CLIPS_PER_CALL)
    if threads == 1 or len(starts) <= 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return out[0] if pcm.ndim == 1 else out


def of_clips(pcm: NDArray[np.int16], spec: Features) -> NDArray[np.int8]:
    """Features of clips for a model that sees `spec.frames` frames.

    Args:
        pcm: int16 [N, samples], of which the first `spec.clip_samples` count.
        spec: The features.

    Returns:
        int8 [N, spec.frames, mel_bins].

    Raises:
        KwsError: clips shorter than what the model sees.

    Example:
        >>> of_clips(np.zeros((2, 16000), np.int16), Features(frames=96)).shape
        (2, 96, 40)
    """
    pcm = _checked(pcm, (2,), "[clips, samples]")
    check_length(pcm.shape[1], spec)
    return extract(pcm[:, : spec.clip_samples], spec)


def check_length(samples: int, spec: Features) -> None:
    """Raises KwsError where clips of `samples` are shorter than what the model sees."""
    if samples < spec.clip_samples:
        raise KwsError(
            f"[features] frames = {spec.frames} are {spec.clip_samples} samples. "
            f"Received: clips of {samples} samples",
            f"[features] frames of {(samples - spec.window) // spec.hop + 1} at most; "
            "or longer clips: --clip-seconds 1.5",
        )


class FeatureStream:
    """Features of audio that arrives in pieces of any length.

    Frame by frame the bits are those of `extract` over the whole audio.

    Args:
        spec: The features.

    Example:
        >>> stream = FeatureStream(Features())
        >>> [len(stream.push(np.zeros(400, np.int16))) for _ in range(3)]
        [0, 3, 2]
    """

    def __init__(self, spec: Features) -> None:
        self.spec = spec
        self._native = _native_spec(spec)
        self._pending = np.empty(0, np.int16)

    def push(self, pcm: NDArray[np.int16]) -> NDArray[np.int8]:
        """Take samples, int16 [n], n >= 0; return the frames they complete.

        Returns:
            int8 [frames, mel_bins]; frames may be 0.

        Raises:
            KwsError: not int16 or not one-dimensional.
        """
        pcm = _checked(pcm, (1,), "[samples]")
        audio = np.concatenate([self._pending, pcm])
        frames = 0
        if len(audio) >= self.spec.window:
            frames = 1 + (len(audio) - self.spec.window) // self.spec.hop
        out = np.empty((frames, self.spec.mel_bins), np.int8)
        if frames:
            self._native.clip(audio, out)
        self._pending = audio[frames * self.spec.hop :].copy()
        return out

    def reset(self) -> None:
        """Forget the samples that have not filled a frame yet."""
        self._pending = np.empty(0, np.int16)


class _NativeSpec:
    """A kws_feature_spec_t whose pointers point into the tables it holds."""

    def __init__(self, spec: Features) -> None:
        values = feature_tables.tables(spec)
        self._ffi, self._lib = _extension()
        self._keep_alive: list[Any] = [values]
        self._spec = self._ffi.new("kws_feature_spec_t *")
        fields = self._ffi.typeof("kws_feature_spec_t").fields
        if {name for name, _ in fields} != set(vars(values)):
            raise KwsError(
                "The feature extension is of another version than kws. "
                f"Received: {self._lib}",
                pip_install(),
            )
        for name, kind in fields:
            value = getattr(values, name)
            if kind.type.kind == "pointer":
                value = self._ffi.from_buffer(kind.type.item.cname + "[]", value)
                self._keep_alive.append(value)
            setattr(self._spec, name, value)

    def clip(self, samples: NDArray[np.int16], out: NDArray[np.int8]) -> None:
        """Features of contiguous samples into contiguous `out`, without the GIL."""
        self._lib.kws_features_clip(
            self._spec,
            self._ffi.from_buffer("int16_t[]", samples),
            samples.size,
            self._ffi.from_buffer("int8_t[]", out),
        )


@lru_cache(maxsize=32)
def _native_spec(spec: Features) -> _NativeSpec:
    return _NativeSpec(spec)


def _extension() -> tuple[Any, Any]:
    try:
        from kws.features import _native  # type: ignore[attr-defined]
    except ImportError as error:
        raise KwsError(
            "The feature extension is not built: a C compiler makes it when the "
            f"package is installed. Received: {error}",
            pip_install(),
        ) from None
    return _native.ffi, _native.lib


def _checked(
    pcm: NDArray[np.int16], dimensions: tuple[int, ...], expected: str
) -> NDArray[np.int16]:
    if (
        not isinstance(pcm, np.ndarray)
        or pcm.dtype != np.int16
        or pcm.ndim not in dimensions
    ):
        received = (
            f"{pcm.dtype} {list(pcm.shape)}"
            if isinstance(pcm, np.ndarray)
            else type(pcm).__name__
        )
        raise KwsError(
            f"Audio must be a NumPy array of int16, {expected}. Received: {received}",
            "Read a file with kws.data.audio.samples(path).",
        )
    return np.ascontiguousarray(pcm)
