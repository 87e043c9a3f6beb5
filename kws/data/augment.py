"""Augmentation of audio and features, in numpy, deterministic by seed."""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import multiprocessing

import numpy as np

from kws.data.audio import SAMPLE_RATE
from kws.features.tables import mel_centres_hz
from kws.recipe import Augment, Features

WARPS = 33  # frequency warps that `vary_spectrum` chooses from
HELD = 0.7  # share of clips that `hold` acts on
FILTER_POINTS = 4  # of a random frequency response, over the mel axis
MIX_STYLE_BETA = 0.3  # of a clip's share: mostly its own style or mostly another's


def augment(
    pcm: np.ndarray,
    rng: np.random.Generator,
    settings: Augment,
    noises: list[np.ndarray],
) -> np.ndarray:
    """One augmented copy of a clip: speed and time shift, noise, gain, in that order.

    Speed and shift are one cubic (Catmull-Rom) interpolation; what comes from outside
    the clip is zero. Noise is a random segment of a random recording, scaled to a
    signal-to-noise ratio drawn evenly in dB from `settings.snr_db` (both taken as the
    root mean square over the whole clip). A clip of digital zero, or noise of
    digital zero, has no ratio and is left unmixed. The same number of random values
    is drawn whatever happens.

    Args:
        pcm: int16 [samples].
        rng: Source of all randomness.
        settings: The recipe's [augment].
        noises: int16 arrays at least as long as the clip; may be empty.

    Returns:
        int16 [samples], a new array.
    """
    draw = rng.random(7)
    shift = (2 * draw[0] - 1) * settings.shift_ms * SAMPLE_RATE / 1000
    speed = 1 + (2 * draw[1] - 1) * settings.speed
    signal = _warp(np.asarray(pcm), float(speed), float(shift))
    low, high = settings.snr_db
    snr = low + draw[3] * (high - low)
    gain = 10 ** ((2 * draw[6] - 1) * settings.gain_db / 20)
    if noises and draw[2] < settings.noise_probability:
        noise = noises[int(draw[4] * len(noises))]
        start = int(draw[5] * (len(noise) - len(signal) + 1))
        segment = noise[start : start + len(signal)].astype(np.float32)
        # Not a dot product: BLAS adds in another order on another number of cores.
        power, noise_power = np.square(signal).sum(), np.square(segment).sum()
        if power > 0 and noise_power > 0:
            segment *= np.float32(np.sqrt(power / noise_power) * 10 ** (-snr / 20))
            signal += segment
    signal *= np.float32(gain)
    np.rint(signal, out=signal)
    np.clip(signal, -32768, 32767, out=signal)
    return signal.astype(np.int16)


def augment_many(
    pcm: np.ndarray,
    seed: int,
    settings: Augment,
    noises: list[np.ndarray],
    processes: int = 2,
) -> np.ndarray:
    """`augment` for every clip; clip i has its own generator, seeded (seed, i), so
    the result does not depend on `processes`.

    Args:
        pcm: int16 [N, samples].
        seed: Any non-negative integer; another seed gives other copies.
        settings: The recipe's [augment].
        noises: As for `augment`.
        processes: Copies of this process to share the work. They are forked, touch
            nothing but numpy, and write into shared memory. (Threads are slower than
            one: the interpreter's lock changes hands at every small operation.)

    Returns:
        int16 [N, samples].

    Raises:
        RuntimeError: a forked process died.
    """
    shared = mmap.mmap(-1, max(1, pcm.nbytes))
    out = np.frombuffer(shared, dtype=np.int16, count=pcm.size).reshape(pcm.shape)

    def work(first: int) -> None:
        for i in range(first, len(pcm), processes):
            rng = np.random.Generator(np.random.PCG64([seed, i]))
            out[i] = augment(pcm[i], rng, settings, noises)

    if processes <= 1:
        processes = 1
        work(0)
        return out
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(k,)) for k in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("A process that augments clips died (out of memory?).")
    return out


def vary_spectrum(
    features: np.ndarray,
    rng: np.random.Generator,
    settings: Augment,
    spec: Features,
) -> np.ndarray:
    """Another throat and another microphone: frequencies stretched, bands filtered.

    The frequency axis is stretched by a factor drawn from 1 - `mel_warp` to 1 +
    `mel_warp` (vocal tract length perturbation), then a frequency response is added
    that goes in straight lines between `FILTER_POINTS` gains of -`filter_db` to
    `filter_db`, evenly spaced over the mel axis. With both at 0 nothing is drawn.

    Args:
        features: int8 [B, frames, mel bins].
        rng: Source of all randomness.
        settings: The recipe's [augment].
        spec: The recipe's [features]: steps per dB and the bins' frequencies.

    Returns:
        int8 [B, frames, mel bins]; the same array where both are 0.

    Reference: Jaitly & Hinton 2013 (vocal tract length perturbation); Nam et al. 2022,
    arXiv:2110.03282 (FilterAugment).
    """
    batch, _, bins = features.shape
    if settings.mel_warp <= 0 and settings.filter_db <= 0:
        return features
    real = features.astype(np.float32)
    if settings.mel_warp > 0:
        warps = _mel_warps(spec, settings.mel_warp)
        real = real @ warps[rng.integers(0, len(warps), size=batch)]
    if settings.filter_db > 0:
        gains = rng.uniform(-1, 1, size=(batch, FILTER_POINTS)) * settings.filter_db
        steps = gains * (math.log(10) * spec.power / 20 / spec.scale)
        real += (steps @ _hats(FILTER_POINTS, bins)).astype(np.float32)[:, None, :]
    return np.clip(np.rint(real), -128, 127).astype(np.int8)


@functools.lru_cache(maxsize=8)
def _mel_warps(spec: Features, most: float) -> np.ndarray:
    """float32 [WARPS, bins, bins]: features @ one of them have their axis stretched."""
    centres = mel_centres_hz(spec)[1:-1]
    where = np.arange(len(centres))
    warps = []
    for factor in np.linspace(1 - most, 1 + most, WARPS):
        # Beyond the ends the outermost bin is repeated.
        at = np.interp(centres / factor, centres, where)
        below = np.minimum(at.astype(int), len(centres) - 2)
        part = at - below
        warp = np.zeros((len(centres), len(centres)), np.float32)
        warp[below, where] += 1 - part
        warp[below + 1, where] += part
        warps.append(warp)
    return np.stack(warps)


@functools.lru_cache(maxsize=8)
def _hats(points: int, bins: int) -> np.ndarray:
    """float64 [points, bins]: straight lines between `points` values over the bins."""
    at = np.linspace(0, points - 1, bins)
    return np.maximum(0, 1 - np.abs(at[None, :] - np.arange(points)[:, None]))


def mix_style(
    features: np.ndarray, rng: np.random.Generator, settings: Augment
) -> np.ndarray:
    """Each mel bin's mean and deviation over time, mixed with another clip's.

    They are what a microphone, a room and a noise floor leave in every frame, and what
    tells a synthesizer's clip from a recording. Where some labels come from one of
    them alone, a network otherwise learns to hear that instead of the word.

    Args:
        features: int8 [B, frames, mel bins].
        rng: Source of all randomness.
        settings: The recipe's [augment]: `mix_style` is the share of clips.

    Returns:
        int8 [B, frames, mel bins]; the same array where `mix_style` is 0.

    Reference: Zhou et al. 2021, arXiv:2104.02008 (MixStyle); Kim et al. 2022,
    arXiv:2206.12513 (a device shows in the statistics of frequencies); Morocutti et al.
    2023, arXiv:2305.07499 (Freq-MixStyle against unseen devices).
    """
    if settings.mix_style <= 0:
        return features
    batch = len(features)
    other = rng.permutation(batch)
    share = rng.beta(MIX_STYLE_BETA, MIX_STYLE_BETA, size=batch)
    share = np.where(rng.random(batch) < settings.mix_style, share, 1.0)
    own = share.astype(np.float32)[:, None, None]
    real = features.astype(np.float32)
    mean = real.mean(axis=1, keepdims=True)
    deviation = real.std(axis=1, keepdims=True) + np.float32(1)
    real -= mean
    real *= own + (1 - own) * deviation[other] / deviation
    real += own * mean + (1 - own) * mean[other]
    return np.clip(np.rint(real), -128, 127).astype(np.int8)


def spec_augment(
    features: np.ndarray, rng: np.random.Generator, settings: Augment
) -> np.ndarray:
    """SpecAugment: bands of frames and of mel bins set to the clip's mean.

    The mean of the clip, not the smallest value: a masked band then carries no
    loudness of its own, and the activations' range does not widen for the tuning of
    the quantizers.

    Args:
        features: int8 [B, frames, mel bins].
        rng: Source of all randomness.
        settings: The recipe's [augment].

    Returns:
        int8 [B, frames, mel bins], a new array.

    Reference: Park et al. 2019, arXiv:1904.08779.
    """
    batch, frames, bins = features.shape
    hide_time = _bands(
        rng, batch, frames, settings.time_masks, settings.time_mask_frames
    )
    hide_mel = _bands(rng, batch, bins, settings.mel_masks, settings.mel_mask_bins)
    mean = features.mean(axis=(1, 2), dtype=np.float32)
    fill = np.rint(mean).astype(features.dtype)[:, None, None]
    return np.where(hide_time[:, :, None] | hide_mel[:, None, :], fill, features)


def hold(
    features: np.ndarray, rng: np.random.Generator, settings: Augment
) -> np.ndarray:
    """Features as a delta encoding holds them, so that a network is used to it.

    An element moves where it differs from what is held by more than a threshold, drawn
    for each clip from 0 to `hold_steps`; some clips (3 of 10) are left as they are.

    Args:
        features: int8 [B, frames, mel bins].
        rng: Source of all randomness.
        settings: The recipe's [augment].

    Returns:
        int8 [B, frames, mel bins]; the same array where `hold_steps` is 0.
    """
    if settings.hold_steps < 1:
        return features
    batch = len(features)
    limit = rng.integers(0, settings.hold_steps + 1, size=(batch, 1))
    limit = np.where(rng.random((batch, 1)) < HELD, limit, 0).astype(np.int16)
    rows = features.astype(np.int16).transpose(1, 0, 2)
    for before, row in itertools.pairwise(rows):
        np.copyto(row, before, where=np.abs(row - before) <= limit)
    return rows.transpose(1, 0, 2).astype(np.int8)


def _bands(
    rng: np.random.Generator, batch: int, size: int, masks: int, widest: int
) -> np.ndarray:
    """bool [batch, size]: `masks` bands of 0..widest positions each."""
    width = rng.integers(0, min(widest, size) + 1, size=(batch, masks, 1))
    start = (rng.random((batch, masks, 1)) * (size - width + 1)).astype(np.int64)
    position = np.arange(size)
    inside = (position >= start) & (position < start + width)
    return np.any(inside, axis=1)


def _warp(pcm: np.ndarray, speed: float, shift: float) -> np.ndarray:
    """Play at `speed` about the middle, `shift` samples later: float32."""
    size = len(pcm)
    if speed == 1 and shift == 0:
        return pcm.astype(np.float32)
    padded = np.zeros(size + 4, dtype=np.float32)
    padded[2:-2] = pcm
    position = (np.arange(size) - (size / 2 + shift)) * speed + size / 2
    whole = np.floor(position)
    t = (position - whole).astype(np.float32)
    # Clamped positions fall on the zeros of the padding and the clip's ends.
    at = np.clip(whole.astype(np.int64) + 2, 1, size + 1)
    inside = (whole >= -1) & (whole < size)
    p0, p1, p2, p3 = (padded[at + k] for k in (-1, 0, 1, 2))
    cubic = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    cubic *= inside
    return cubic
