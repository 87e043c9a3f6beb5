"""Float log-mel features of a whole batch: what the int8 features stand for.

numpy only and fast (under 1 ms a clip), so that a float network can be judged without
the int8 step of its input. As in the published networks (tf.signal) the mel triangles
are straight in mel; the board's and librosa's are straight in Hz, which moves the
logarithm by at most a quarter of an int8 step.
"""

from __future__ import annotations

import math

import numpy as np

from kws.recipe import Features

# As in the published networks: log(max(x, 1e-12)).
FLOOR = 1e-12


def log_mel(pcm: np.ndarray, spec: Features, batch: int = 64) -> np.ndarray:
    """ln(max(sum_k mel[m, k] * |X[k]|**power, 1e-12)) with audio in [-1, 1); where the
    features have a floor, at least that.

    Args:
        pcm: int16 [N, samples], at least `spec.clip_samples`.
        spec: The features.
        batch: Clips at a time.

    Returns:
        float32 [N, frames, mel_bins].
    """
    hann = (
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / spec.window)
    ).astype(np.float32)
    mel = mel_matrix(spec).astype(np.float32)
    first = np.arange(spec.frames) * spec.hop
    index = first[:, None] + np.arange(spec.window)
    floor = FLOOR
    if spec.floor > -128:
        floor = max(floor, math.exp(spec.scale * (spec.floor - spec.zero_point)))
    out = np.empty((len(pcm), spec.frames, spec.mel_bins), np.float32)
    for start in range(0, len(pcm), batch):
        audio = pcm[start : start + batch].astype(np.float32) / np.float32(32768)
        spectrum = np.abs(np.fft.rfft(audio[:, index] * hann, spec.fft_size))
        if spec.power == 2:
            spectrum = spectrum * spectrum
        energy = spectrum.astype(np.float32) @ mel
        out[start : start + batch] = np.log(np.maximum(energy, np.float32(floor)))
    return out


def mel_matrix(spec: Features) -> np.ndarray:
    """HTK mel triangles of peak 1, straight in mel.

    Returns:
        float64 (fft_size // 2 + 1, mel_bins).
    """

    def to_mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = to_mel(np.arange(spec.fft_size // 2 + 1) * spec.sample_rate / spec.fft_size)
    edges = np.linspace(to_mel(spec.low_hz), to_mel(spec.high_hz), spec.mel_bins + 2)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (peak - low)
    falling = (high - bins[:, None]) / (high - peak)
    # tf.signal and the published files leave out bin 0, whatever the lower edge.
    matrix = np.maximum(0.0, np.minimum(rising, falling))
    matrix[0] = 0.0
    return matrix
