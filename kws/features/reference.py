"""The float reference of the features, by librosa: for tests and exploration only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kws.errors import MissingExtra
from kws.recipe import Features


def mel_spectrum(pcm: NDArray[np.int16], spec: Features) -> NDArray[np.float64]:
    """sum_k mel[m, k] * |X[k]|**power in float64, before the logarithm.

    Args:
        pcm: int16 [samples], at least `spec.window`.
        spec: The features.

    Returns:
        float64 [frames, mel_bins], frames = 1 + (samples - window) // hop.

    Raises:
        MissingExtra: librosa is not installed.
    """
    try:
        import librosa
    except ImportError:
        raise MissingExtra("librosa", "test", "The float reference") from None
    # librosa centres a short window in its FFT frame; padding the audio by the same
    # amount lines the frames up (a shift within the FFT only turns the phase).
    margin = spec.fft_size - spec.window
    audio = np.pad(pcm.astype(np.float64) / 32768, (margin // 2, margin - margin // 2))
    spectrum = np.abs(
        librosa.stft(
            audio,
            n_fft=spec.fft_size,
            hop_length=spec.hop,
            win_length=spec.window,
            window="hann",
            center=False,
            dtype=np.complex128,
        )
    )
    mel = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.fft_size,
        n_mels=spec.mel_bins,
        fmin=spec.low_hz,
        fmax=spec.high_hz,
        htk=True,
        norm=None,
        dtype=np.float64,
    )
    return (mel @ spectrum**spec.power).T


def extract(pcm: NDArray[np.int16], spec: Features) -> NDArray[np.int8]:
    """What `kws.features.extract` should give for one clip, by librosa in float64.

    Args:
        pcm: int16 [samples].
        spec: The features.

    Returns:
        int8 [frames, mel_bins].
    """
    energy = mel_spectrum(pcm, spec)
    with np.errstate(divide="ignore"):
        steps = np.rint(np.log(energy) / spec.scale) + spec.zero_point
    return np.clip(steps, spec.floor, 127).astype(np.int8)
