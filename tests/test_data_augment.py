"""Augmentation: deterministic, within its bounds, and never odd on silence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import small_corpus

from kws import features
from kws.data import splice
from kws.data.augment import (
    augment,
    augment_many,
    hold,
    mix_style,
    spec_augment,
    vary_spectrum,
)
from kws.recipe import Augment, Features
from kws.simulate.delta import encode

NONE = Augment(shift_ms=0, speed=0, gain_db=0, noise_probability=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def noises() -> list[np.ndarray]:
    made = rng(5).integers(-3000, 3000, (2, 40000)).astype(np.int16)
    return list(made)


def test_nothing_asked_nothing_changed(noises):
    clip = small_corpus.tone(440)
    out = augment(clip, rng(), NONE, noises)
    assert np.array_equal(out, clip) and out is not clip


def test_shift_moves_the_sound_and_leaves_zeros(noises):
    clip = np.zeros(16000, np.int16)
    clip[8000] = 20000
    where = []
    for seed in range(200):
        out = augment(clip, rng(seed), replace(NONE, shift_ms=100), noises)
        where.append(int(np.argmax(out)) - 8000)
    assert -1601 <= min(where) < -1200 and 1200 < max(where) <= 1601


@pytest.mark.parametrize("seed", range(5))
def test_speed_moves_the_pitch(seed, noises):
    clip = small_corpus.tone(1000)
    out = augment(clip, rng(seed), replace(NONE, speed=0.15), noises)
    speed = 1 + (2 * rng(seed).random(7)[1] - 1) * 0.15
    middle = out[4000:12000].astype(float) * np.hanning(8000)
    peak = np.argmax(np.abs(np.fft.rfft(middle))) * 2  # Hz a bin
    assert abs(peak - 1000 * speed) <= 3


def test_gain_stays_in_its_range_and_never_wraps(noises):
    clip = small_corpus.tone(500, level=30000)
    levels = []
    for seed in range(100):
        out = augment(clip, rng(seed), replace(NONE, gain_db=10), noises)
        assert np.all(
            np.sign(out[np.abs(out) > 100]) == np.sign(clip)[np.abs(out) > 100]
        )
        levels.append(float(np.abs(out.astype(int)).max()))
    assert 30000 * 10**-0.5 - 1 <= min(levels) < 12000 and max(levels) >= 32767


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_comes_at_the_ratio_asked_for(snr, noises):
    clip = small_corpus.tone(500)
    settings = replace(NONE, noise_probability=1, snr_db=(snr, snr))
    added = augment(clip, rng(3), settings, noises).astype(float) - clip
    ratio = 10 * np.log10(np.mean(clip.astype(float) ** 2) / np.mean(added**2))
    assert abs(ratio - snr) < 0.1


def test_noise_comes_as_often_as_asked_for(noises):
    clip = small_corpus.tone(500)
    settings = replace(NONE, noise_probability=0.3, snr_db=(0, 0))
    mixed = [not np.array_equal(augment(clip, rng(s), settings, noises), clip)
             for s in range(400)]  # fmt: skip
    assert 0.22 < np.mean(mixed) < 0.38


def test_digital_silence_stays_silent(noises):
    out = augment(
        np.zeros(16000, np.int16), rng(), Augment(noise_probability=1), noises
    )
    assert not out.any()


def test_without_noises_nothing_is_mixed():
    clip = small_corpus.tone(440)
    out = augment(clip, rng(), replace(NONE, noise_probability=1), [])
    assert np.array_equal(out, clip)


def test_many_is_the_same_on_any_number_of_processes(noises):
    clips = np.stack([small_corpus.tone(300 + i) for i in range(37)])
    one = augment_many(clips, 7, Augment(), noises, processes=1)
    assert np.array_equal(one, augment_many(clips, 7, Augment(), noises, processes=3))
    assert not np.array_equal(one, augment_many(clips, 8, Augment(), noises, 1))
    assert augment_many(clips[:0], 7, Augment(), noises).shape == (0, 16000)


def test_a_clip_does_not_depend_on_its_neighbours(noises):
    clips = np.stack([small_corpus.tone(300 + i) for i in range(4)])
    whole = augment_many(clips, 7, Augment(), noises, 1)
    assert np.array_equal(whole[:2], augment_many(clips[:2], 7, Augment(), noises, 1))


def test_spec_augment_hides_bands_with_the_mean():
    features = rng().integers(-90, 90, (200, 98, 40)).astype(np.int8)
    before = features.copy()
    settings = Augment(time_masks=1, time_mask_frames=20, mel_masks=1, mel_mask_bins=6)
    out = spec_augment(features, rng(1), settings)
    assert np.array_equal(features, before) and out.dtype == np.int8
    fill = np.rint(features.mean(axis=(1, 2), dtype=np.float32)).astype(np.int8)
    changed = out != features
    assert np.all(
        out[changed] == np.broadcast_to(fill[:, None, None], out.shape)[changed]
    )
    held = np.broadcast_to(fill[:, None, None], out.shape) == out
    rows, columns = held.all(axis=2).sum(axis=1), held.all(axis=1).sum(axis=1)
    assert rows.max() == 20 and rows.min() == 0
    assert columns.max() == 6 and columns.min() == 0
    assert len(set(rows)) > 10


def test_spec_augment_without_masks_changes_nothing():
    features = rng().integers(-90, 90, (3, 98, 40)).astype(np.int8)
    out = spec_augment(features, rng(), Augment(time_masks=0, mel_masks=0))
    assert np.array_equal(out, features)


def test_nothing_asked_the_spectrum_stays():
    made = rng().integers(-90, 90, (3, 98, 40)).astype(np.int8)
    source = rng(1)
    assert vary_spectrum(made, source, Augment(), Features()) is made
    assert source.random() == rng(1).random()  # nothing was drawn


def test_a_filter_is_one_line_over_the_bins_within_its_gain():
    spec = Features()
    made = np.zeros((300, 98, 40), np.int8)
    out = vary_spectrum(made, rng(), Augment(filter_db=6), spec)
    assert np.all(out == out[:, :1])  # the same in every frame
    decibels = out[:, 0].astype(float) * spec.scale / np.log(10) * 20 / spec.power
    assert 5.5 < decibels.max() <= 6.2 and -6.2 <= decibels.min() < -5.5
    bends = np.abs(np.diff(out[:, 0].astype(int), 2))
    assert (bends > 2).sum(axis=1).max() <= 4  # straight but at two points


def test_a_filter_in_decibels_is_a_gain_of_the_samples():
    """A flat response of g dB moves the features as samples g dB louder do."""
    spec = Features()
    clip = rng(3).integers(-3000, 3000, 16000).astype(np.int16)
    quiet, loud = features.extract(np.stack([clip, 2 * clip]), spec)
    steps = np.log(10) * spec.power / 20 / spec.scale
    assert abs((loud.astype(float) - quiet).mean() - 20 * np.log10(2) * steps) < 0.1


@pytest.mark.parametrize("most", [0.1, 0.2])
def test_a_warp_moves_the_pitch_by_its_share(most):
    spec = Features()
    tone = features.extract(small_corpus.tone(1500)[None], spec)
    out = vary_spectrum(tone.repeat(300, 0), rng(), Augment(mel_warp=most), spec)
    played = [
        features.extract(small_corpus.tone(1500 * (1 + share))[None], spec)[0, 50]
        for share in (-most, 0, most)
    ]
    low, middle, high = (int(np.argmax(frame)) for frame in played)
    peaks = out[:, 50].argmax(axis=1)
    assert abs(peaks.min() - low) <= 1 and abs(peaks.max() - high) <= 1
    assert low < middle < high and len(set(peaks)) >= high - low


def test_no_style_is_mixed_where_none_is_asked_for():
    made = rng().integers(-90, 90, (3, 48, 40)).astype(np.int8)
    source = rng(1)
    assert mix_style(made, source, Augment()) is made
    assert source.random() == rng(1).random()  # nothing was drawn


def test_a_mixed_style_lies_between_two_clips_and_the_shape_stays():
    """Three clips, far apart in mean and deviation: nothing is clipped."""
    shape = np.sign(rng(2).standard_normal((1, 48, 40)))
    means, widths = np.array([-60, 0, 60]), np.array([20, 40, 60])
    made = np.rint(means[:, None, None] + widths[:, None, None] * shape)
    settings = Augment(mix_style=1.0)
    moved = set()
    for seed in range(30):
        out = mix_style(made.astype(np.int8), rng(seed), settings).astype(float)
        assert np.array_equal(out, mix_style(made.astype(np.int8), rng(seed), settings))
        for own, clip in enumerate(out):
            bins = [np.corrcoef(clip[:, b], made[own, :, b])[0, 1] for b in range(40)]
            assert min(bins) > 0.99
            # Mean and deviation go the same way, towards one other clip.
            way = (clip.mean(0) - made[own].mean(0)).mean() / 60
            wider = (clip.std(0) / made[own].std(0)).mean() * widths[own]
            assert wider - widths[own] == pytest.approx(20 * way, abs=2.0)
            moved.add(round(way))
    assert moved == {-2, -1, 0, 1, 2}


def test_a_share_of_clips_has_its_style_mixed():
    made = rng(3).integers(-90, 90, (2000, 8, 4)).astype(np.int8)
    out = mix_style(made, rng(4), Augment(mix_style=0.3))
    assert 0.2 < np.any(out != made, axis=(1, 2)).mean() < 0.3


def word(low: int, high: int, hz: float) -> np.ndarray:
    clip = np.zeros(16000, np.int16)
    clip[low:high] = small_corpus.tone(hz)[low:high]
    return clip


def test_held_clips_are_what_a_delta_encoding_holds() -> None:
    """Of each clip, with one threshold of those that may be drawn."""
    features = rng(3).integers(-128, 128, (60, 20, 8)).astype(np.int8)
    settings = Augment(hold_steps=90)
    held = hold(features, rng(1), settings)
    assert np.array_equal(held, hold(features, rng(1), settings))
    found = []
    for clip, mine in zip(features, held, strict=True):
        (limit, *_) = [
            limit
            for limit in range(91)
            if np.array_equal(encode(clip[None], limit).held[0], mine)
        ]
        found.append(limit)
    assert 8 <= found.count(0) <= 30 and max(found) > 75  # 3 of 10, and evenly
    assert hold(features, rng(1), Augment()) is features


def test_splices_are_made_of_the_words_and_stay_in_the_second():
    clips = np.stack([word(4000, 9000, 500), word(6000, 12000, 2000)])
    made = splice.splice(clips, 300, seed=1)
    assert np.array_equal(made, splice.splice(clips, 300, seed=1))
    assert made.shape == (300, 16000) and made.dtype == np.int16
    spectrum = np.abs(np.fft.rfft(made.astype(float), axis=1))
    has_low, has_high = spectrum[:, 500] > 1e5, spectrum[:, 2000] > 1e5
    both = has_low & has_high
    # One of three joins two clips, and one of two of these joins different ones.
    assert 25 < both.sum() < 80 and (has_low | has_high).mean() > 0.95
    assert np.abs(np.diff(made[0].astype(int))).max() < 32767  # no jump at a cut
    starts = (made != 0).argmax(axis=1)
    assert starts.min() < 1000 and starts.max() > 10000


def test_splices_of_silence_are_silent():
    made = splice.splice(np.zeros((2, 16000), np.int16), 20, seed=1)
    assert not made.any()


def test_kept_splices_are_even_over_the_labels_as_far_as_they_go():
    heard = np.array([1] * 50 + [2] * 3 + [3] * 20 + [0] * 40)
    kept = splice.choose(heard, 4, 30, silence=0)
    assert np.bincount(heard[kept], minlength=4).tolist() == [0, 14, 3, 13]
    assert len(splice.choose(heard, 4, 500, silence=None)) == 113
