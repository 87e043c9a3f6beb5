"""The detector's C (firmware/src/detector.c), on this machine, against Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from reference_detector import ONE, Model, Settings
from toolbox import host_compile

from kws.paths import FIRMWARE

MAX_SMOOTHING, MAX_LABELS = 16, 48

SILENCE, UNKNOWN, YES, NO = range(4)


class Spec(ctypes.Structure):
    _fields_ = [
        ("label_count", ctypes.c_uint16),
        ("first_word", ctypes.c_uint16),
        ("smoothing", ctypes.c_uint16),
        ("refractory", ctypes.c_uint16),
        ("threshold", ctypes.POINTER(ctypes.c_uint16)),
        ("rearm", ctypes.POINTER(ctypes.c_uint16)),
        ("exp_table", ctypes.POINTER(ctypes.c_uint16)),
        ("history", ctypes.POINTER(ctypes.c_uint16)),
    ]


class State(ctypes.Structure):
    _fields_ = [
        ("sum", ctypes.c_uint32 * MAX_LABELS),
        ("wait", ctypes.c_uint16 * MAX_LABELS),
        ("disarmed", ctypes.c_uint8 * MAX_LABELS),
        ("oldest", ctypes.c_uint16),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("detector")
    size_c = folder / "size.c"
    size_c.write_text(
        '#include "kws_detector.h"\nint state_size(void);\n'
        "int state_size(void) { return (int)sizeof(kws_detector_t); }\n"
    )
    source = FIRMWARE / "src" / "detector.c"
    out = folder / "detector.so"
    library = ctypes.CDLL(
        str(host_compile([source, size_c], out, "-shared", "-fPIC", "-O2"))
    )
    assert library.state_size() == ctypes.sizeof(State)
    library.kws_detector_score.restype = ctypes.c_uint16
    return library


class Detector:
    """The C state machine."""

    def __init__(self, library: ctypes.CDLL, settings: Settings) -> None:
        def array(values: list[float]) -> ctypes.Array:
            q15 = [round(value * ONE) for value in values]
            return (ctypes.c_uint16 * len(q15))(*q15)

        self.library = library
        self.spec = Spec(
            settings.labels,
            settings.first_word,
            settings.smoothing,
            settings.refractory,
            array(settings.threshold),
            array(settings.rearm),
            (ctypes.c_uint16 * 256)(*settings.exponentials.tolist()),
            (ctypes.c_uint16 * (settings.smoothing * settings.labels))(),
        )
        self.state = State()
        library.kws_detector_init(ctypes.byref(self.state), ctypes.byref(self.spec))
        assert library.kws_detector_spec_ok(ctypes.byref(self.spec))

    def step(self, logits: np.ndarray) -> int:
        pointer = logits.astype(np.int8).tobytes()
        return self.library.kws_detector_step(
            ctypes.byref(self.state), ctypes.byref(self.spec), pointer
        )

    def score(self, label: int) -> int:
        return self.library.kws_detector_score(
            ctypes.byref(self.state), ctypes.byref(self.spec), label
        )


def sure_of(label: int, labels: int = 4) -> np.ndarray:
    logits = np.full(labels, -60)
    logits[label] = 60
    return logits


def run(library: ctypes.CDLL, settings: Settings, sequence: list[int]) -> list[int]:
    """Which label is heard at each decision, the model being sure of `sequence`."""
    detector = Detector(library, settings)
    return [detector.step(sure_of(label)) for label in sequence]


def test_silence_and_unknown_are_never_heard(library: ctypes.CDLL) -> None:
    settings = Settings(threshold=[0.0, 0.0, 0.9, 0.9], rearm=[0.0, 0.0, 0.4, 0.4])
    assert run(library, settings, [SILENCE] * 5 + [UNKNOWN] * 5) == [-1] * 10


def test_a_held_word_is_heard_once_and_again_only_after_it_fell(
    library: ctypes.CDLL,
) -> None:
    sequence = [YES, YES, YES, SILENCE, YES, YES]
    assert run(library, Settings(), sequence) == [YES, -1, -1, -1, YES, -1]


def test_a_score_between_rearm_and_threshold_does_not_arm(library: ctypes.CDLL) -> None:
    settings = Settings(smoothing=2, threshold=[0.9] * 4, rearm=[0.4] * 4)
    # Half the window silent: score 0.5, above rearm. Then back up: still the same word.
    sequence = [YES, YES, SILENCE, YES, YES]
    assert run(library, settings, sequence) == [-1, YES, -1, -1, -1]


@pytest.mark.parametrize("refractory", [0, 1, 2, 3, 5])
def test_refractory_is_the_shortest_time_between_two_events(
    library: ctypes.CDLL, refractory: int
) -> None:
    heard = run(library, Settings(refractory=refractory), [YES, SILENCE] * 20)
    events = [index for index, label in enumerate(heard) if label == YES]
    assert len(events) > 1
    gaps = np.diff(events)
    # Even refractory times are met exactly, odd ones at the next "yes".
    assert gaps.tolist() == [max(2, refractory + refractory % 2)] * len(gaps)


def test_one_words_refractory_does_not_block_another(library: ctypes.CDLL) -> None:
    heard = run(library, Settings(refractory=10), [YES, NO, YES, NO])
    assert heard == [YES, NO, -1, -1]


def test_smoothing_averages_and_the_time_before_the_start_counts_as_zero(
    library: ctypes.CDLL,
) -> None:
    settings = Settings(smoothing=4, threshold=[0.7] * 4)
    assert run(library, settings, [YES] * 4) == [-1, -1, YES, -1]


def test_each_word_has_its_own_threshold(library: ctypes.CDLL) -> None:
    logits = np.array([-60, -60, 20, 20])  # 0.5 each
    settings = Settings(threshold=[0.9, 0.9, 0.6, 0.45], rearm=[0.4] * 4)
    assert Detector(library, settings).step(logits) == NO


def test_of_two_words_at_once_the_louder_first_then_the_other(
    library: ctypes.CDLL,
) -> None:
    logits = np.array([-60, -60, 20, 22])
    detector = Detector(library, Settings(threshold=[0.3] * 4, rearm=[0.2] * 4))
    assert [detector.step(logits) for _ in range(3)] == [NO, YES, -1]


def test_equals_the_python_model_on_random_decisions(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    heard_any = 0
    for _ in range(60):
        labels = int(rng.integers(2, MAX_LABELS + 1))
        thresholds = rng.uniform(0.05, 1.0, labels)
        settings = Settings(
            labels=labels,
            first_word=int(rng.integers(0, labels + 1)),
            smoothing=int(rng.integers(1, MAX_SMOOTHING + 1)),
            refractory=int(rng.integers(0, 12)),
            threshold=thresholds.tolist(),
            rearm=(thresholds * rng.uniform(0.1, 1.0)).tolist(),
        )
        detector, model = Detector(library, settings), Model(settings)
        favourite = 0
        for _ in range(200):
            if rng.random() < 0.3:
                favourite = int(rng.integers(labels))
            logits = rng.integers(-128, 128, labels) // 2
            logits[favourite] = 127
            heard, scores = model.step(logits)
            assert detector.step(logits) == heard
            assert [detector.score(label) for label in range(labels)] == scores
            heard_any += heard >= 0
    assert heard_any > 300


def test_extreme_logits_stay_in_range(library: ctypes.CDLL) -> None:
    settings = Settings(labels=MAX_LABELS, threshold=[1.0] * 48, rearm=[0.5] * 48)
    for value in (-128, 0, 127):
        detector = Detector(library, settings)
        detector.step(np.full(MAX_LABELS, value))
        assert detector.score(5) == round(ONE / MAX_LABELS)
    detector = Detector(library, settings)
    logits = np.full(MAX_LABELS, -128)
    logits[7] = 127
    assert detector.step(logits) == 7
    assert detector.score(7) == ONE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_count", 1),
        ("label_count", MAX_LABELS + 1),
        ("first_word", 5),
        ("smoothing", 0),
        ("smoothing", MAX_SMOOTHING + 1),
        ("threshold", None),
        ("rearm", None),
        ("exp_table", None),
        ("history", None),
    ],
)
def test_a_spec_out_of_range_is_refused(
    library: ctypes.CDLL, name: str, value: int | None
) -> None:
    spec = Detector(library, Settings()).spec
    setattr(spec, name, value)
    assert not library.kws_detector_spec_ok(ctypes.byref(spec))


@pytest.mark.parametrize(
    ("threshold", "rearm", "accepted"),
    [
        (1, 1, True),  # Q15 steps: the lowest there is
        (ONE, ONE, True),
        (ONE, 1, True),
        (0, 0, False),
        (ONE, 0, False),  # never armed again: heard once for each boot
        (100, 101, False),  # armed again while it is heard
        (ONE + 1, 1, False),  # no posterior is that high
    ],
)
def test_edges_of_threshold_and_rearm(
    library: ctypes.CDLL, threshold: int, rearm: int, accepted: bool
) -> None:
    spec = Detector(library, Settings()).spec
    spec.threshold[NO], spec.rearm[NO] = threshold, rearm
    assert library.kws_detector_spec_ok(ctypes.byref(spec)) == accepted
    # Of labels that are no words they mean nothing.
    spec.first_word = NO + 1
    assert library.kws_detector_spec_ok(ctypes.byref(spec))


@pytest.mark.parametrize(
    ("threshold", "rearm"), [(1.0, 1.0), (1.0, 1 / ONE), (1 / ONE, 1 / ONE)]
)
@pytest.mark.parametrize("smoothing", [1, MAX_SMOOTHING])
@pytest.mark.parametrize("refractory", [0, 1, 40])
def test_a_word_is_heard_again_at_every_edge_that_is_accepted(
    library: ctypes.CDLL,
    threshold: float,
    rearm: float,
    smoothing: int,
    refractory: int,
) -> None:
    """Once each time that it is said, if its refractory time has passed."""
    settings = Settings(
        smoothing=smoothing,
        refractory=refractory,
        threshold=[threshold] * 4,
        rearm=[rearm] * 4,
    )
    pause = [SILENCE] * max(smoothing, refractory)
    heard = run(library, settings, ([YES] * smoothing + pause) * 3)
    assert heard.count(YES) == 3
    assert set(heard) == {-1, YES}


def test_the_longest_refractory_time_ends(library: ctypes.CDLL) -> None:
    detector = Detector(library, Settings(refractory=65535))
    yes, silence = sure_of(YES), sure_of(SILENCE)
    assert detector.step(yes) == YES
    assert {detector.step(silence) for _ in range(65533)} == {-1}
    assert [detector.step(yes), detector.step(yes)] == [-1, YES]


def test_headers_state_the_limits_that_this_test_uses() -> None:
    header = Path(FIRMWARE / "include" / "kws_detector.h").read_text()
    assert f"#define KWS_DETECTOR_MAX_SMOOTHING {MAX_SMOOTHING}" in header
    assert f"#define KWS_MAX_LABELS {MAX_LABELS}" in header
