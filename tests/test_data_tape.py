"""Long tapes: truth is where the words are, and scoring counts what happened."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import small_corpus

from kws import intervals
from kws.data import tape
from kws.data.tape import Window
from kws.errors import KwsError

BAD = Path(__file__).parent / "bad_input" / "data"
LABELS = ("_silence_", "_unknown_", "yes", "no")


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Silence, another word (300 Hz), yes (1 kHz), no (2 kHz), each 0.4..0.6 s."""
    pcm = np.zeros((4, 16000), np.int16)
    for row, hertz in ((1, 300), (2, 1000), (3, 2000)):
        pcm[row, 6400:9600] = small_corpus.tone(hertz, 3200)
    return pcm, np.arange(4, dtype=np.int32)


def test_words_are_where_the_truth_says():
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 60, 1, keywords_per_minute=10)
    assert len(made.pcm) == 60 * 16000 and made.pcm.dtype == np.int16
    assert len(made.windows) == 10
    assert {w.word for w in made.windows} == {"yes", "no"}
    for window in made.windows:
        start, end = int(window.start_s * 16000), int(window.end_s * 16000)
        assert abs(end - start - 3200) < 200
        spectrum = np.abs(np.fft.rfft(made.pcm[start:end].astype(float)))
        peak = np.argmax(spectrum) * 16000 / (end - start)
        assert abs(peak - {"yes": 1000, "no": 2000}[window.word]) < 20
    gaps = np.diff([w.start_s for w in made.windows])
    assert gaps.min() >= 1.0


def test_a_tape_is_made_by_its_seed():
    pcm, label = clips()
    noise = np.random.default_rng(0).integers(-99, 99, 400000).astype(np.int16)
    one, same, other = (
        tape.build(pcm, label, LABELS, [noise], 60, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.pcm, same.pcm) and one.windows == same.windows
    assert one.windows != other.windows
    bed = 32768 * 10 ** (-45 / 20)
    quiet = np.median(np.abs(one.pcm.astype(float)))
    assert 0.3 * bed < quiet < 1.5 * bed


def test_more_words_than_fit_are_refused():
    pcm, label = clips()
    with pytest.raises(KwsError, match="can't hold"):
        tape.build(pcm, label, LABELS, [], 60, keywords_per_minute=50)


def test_saving_and_opening_gives_the_same_tape(tmp_path):
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 30)
    tape.save(made, tmp_path / "t.wav")
    read = tape.open_tape(tmp_path / "t.wav")
    assert np.array_equal(read.pcm, made.pcm)
    assert [w.word for w in read.windows] == [w.word for w in made.windows]
    assert read.windows[0].start_s == pytest.approx(made.windows[0].start_s, abs=1e-4)
    json_truth = tmp_path / "t.json"
    json_truth.write_text('[{"word": "yes", "start_s": 1, "end_s": 1.5}]')
    assert tape.read_windows(json_truth) == [Window("yes", 1.0, 1.5)]


@pytest.mark.parametrize("file", sorted(BAD.glob("truth_*.tsv")), ids=lambda p: p.stem)
def test_broken_truth_is_refused(file):
    with pytest.raises(KwsError, match="broken at entry 1"):
        tape.read_windows(file)


WINDOWS = [Window("yes", 10.0, 10.5), Window("no", 20.0, 20.5), Window("yes", 30, 30.5)]


@pytest.mark.parametrize(
    ("events", "hits", "misses", "false_alarms"),
    [
        ([], 0, 3, 0),
        ([("yes", 10.4), ("no", 21.4), ("yes", 31.5)], 3, 0, 0),
        ([("yes", 9.99)], 0, 3, 1),  # before it was said
        ([("yes", 11.51)], 0, 3, 1),  # too late
        ([("no", 10.4)], 0, 3, 1),  # another word
        ([("yes", 10.2), ("yes", 11.1)], 1, 2, 0),  # a repeat within 1 s
        ([("yes", 10.1), ("yes", 11.4)], 1, 2, 1),  # a second event, later
        ([("maybe", 50.0)], 0, 3, 1),
        ([("yes", 50.0 + 0.9 * k) for k in range(10)], 0, 3, 5),  # stuck: not one
    ],
)
def test_scoring(events, hits, misses, false_alarms):
    score = tape.score(events[::-1], WINDOWS, hours=2.0)
    assert (score.hits, score.misses, score.false_alarms) == (
        hits,
        misses,
        false_alarms,
    )
    assert score.false_alarms_per_hour == false_alarms / 2


def test_a_word_said_twice_in_a_second_can_be_heard_twice():
    windows = [Window("yes", 1.0, 1.3), Window("yes", 1.5, 1.8)]
    score = tape.score([("yes", 1.4), ("yes", 1.9)], windows, 1.0)
    assert (score.hits, score.misses, score.false_alarms) == (2, 0, 0)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [  # Garwood 1936, as tabulated (for example Ulm 1990)
        (0, 0.0, 3.689),
        (1, 0.0253, 5.572),
        (2, 0.2422, 7.225),
        (5, 1.6235, 11.668),
        (10, 4.7954, 18.390),
        (100, 81.364, 121.627),
    ],
)
def test_the_poisson_interval_is_the_tabulated_one(count, low, high):
    assert intervals.poisson_interval(count) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("count", [0, 1, 7, 50, 999])
def test_the_poisson_interval_is_scipys(count):
    stats = pytest.importorskip("scipy.stats")
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
    assert intervals.poisson_interval(count) == pytest.approx((low, high), rel=1e-9)


def test_no_false_alarm_still_has_an_upper_bound():
    score = tape.score([], WINDOWS, hours=2.0)
    assert score.false_alarms_per_hour_ci95 == pytest.approx((0, 3.689 / 2), abs=1e-3)
    assert math.isclose(score.miss_rate, 1.0)
