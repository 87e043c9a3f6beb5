"""A teacher is tried before it teaches: what it gives, in what order, of what input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import small_corpus  # noqa: E402
from networks_for_tests import small  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import data, evaluate, features, pool  # noqa: E402
from kws import recipe as recipes  # noqa: E402
from kws.data import ClipSet  # noqa: E402
from kws.errors import KwsError  # noqa: E402
from kws.graph import reader  # noqa: E402
from kws.layers.keras import tf  # noqa: E402
from kws.progress import Progress  # noqa: E402
from kws.recipe import Task  # noqa: E402
from kws.shape import with_clip_seconds  # noqa: E402
from kws.teacher import Teacher, Teachers  # noqa: E402

WORDS = ("yes", "no", "cat", "dog")
TASK = Task("custom", words=WORDS, silence_percent=25, unknown_percent=0)
# What small_corpus's tones are, of a word and the four speakers of training.
TONES = 300.0 + 100 * np.arange(len(WORDS))[:, None] + 7 * np.arange(4)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = small_corpus.make(tmp_path / "corpus", (*WORDS, "bird"))
    for word in (*WORDS, "bird"):  # more clips, so that a trial can tell
        for file in sorted((root / word).glob("*_0.wav")):
            for n in range(1, 4):
                (root / word / file.name.replace("_0.", f"_{n}.")).write_bytes(
                    file.read_bytes()
                )
    return data.load("train", TASK, root)


def listener(order: tuple[int, ...] = (0, 1, 2, 3), gain: float = 1.5e-5) -> Any:
    """Audio -> a logit for each label: how much there is of the word's tones."""
    time = np.arange(16000) / 16000
    taps = [
        wave(2 * np.pi * hertz * time)
        for word in order
        for hertz in TONES[word]
        for wave in (np.sin, np.cos)
    ]
    kernel = tf.constant(np.array(taps).T, tf.float32)

    def logits(pcm: Any) -> Any:
        heard = tf.reshape(tf.square(pcm @ kernel), (len(order), -1))
        words = tf.reduce_sum(heard, axis=1) * gain
        return tf.concat([tf.constant([-9.0, -9.0]), words], 0)[None]

    return logits


def teacher_file(path: Path, function: Any, shape: tuple[int, ...]) -> Path:
    module = tf.Module()
    module.f = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32)])
    concrete = module.f.get_concrete_function()
    made = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    path.write_bytes(made.convert())
    return path


def teacher_of(path: Path, function: Any, shape: tuple[int, ...] = (1, 16000)) -> Any:
    return Teacher(
        teacher_file(path, function, shape), small("tiny"), data.labels(TASK)
    )


def given(teacher: Teacher, clips: data.ClipSet) -> np.ndarray:
    bar = Progress("test", len(clips))
    spec = features.extract(clips.pcm, teacher.recipe.features)
    return teacher.logits(clips.pcm, spec, bar)


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def test_logits_are_taken_as_they_are(clips, tmp_path, capsys):
    teacher = teacher_of(tmp_path / "t.tflite", listener())
    key = teacher.key
    raw = given(teacher, clips)
    teacher.try_on(clips)
    assert np.array_equal(given(teacher, clips), raw) and teacher.key == key
    assert "hears 64 of 64 training clips right (100.0 %)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "kind"), [(tf.nn.softmax, "probabilities"), (tf.nn.sigmoid, "sigmoids")]
)
def test_of_probabilities_the_logarithm_teaches(end, kind, clips, tmp_path, capsys):
    """A softmax of probabilities is nearly the same for all labels: it teaches that."""
    logits = teacher_of(tmp_path / "a.tflite", listener(gain=1e-5))
    ended = teacher_of(tmp_path / "b.tflite", lambda x: end(listener(gain=1e-5)(x)))
    key = ended.key
    before = softmax(given(ended, clips))
    assert before.max() < 0.5
    ended.try_on(clips)
    assert ended.key != key  # a pool that was made without the logarithm is another
    assert f"it gives {kind}" in capsys.readouterr().err
    expected = softmax(given(logits, clips))
    assert np.abs(softmax(given(ended, clips)) - expected).max() < 1e-3
    assert np.median(expected.max(axis=1)) > 0.9


def test_probabilities_in_int8_are_recognised(clips, tmp_path):
    module = tf.Module()
    module.f = tf.function(soft, input_signature=[tf.TensorSpec((1, 16000))])
    made = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.f.get_concrete_function()], module
    )
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.representative_dataset = lambda: (
        [row[None].astype(np.float32) / 32768] for row in clips.pcm
    )
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    made.inference_input_type = made.inference_output_type = tf.int8
    (tmp_path / "q.tflite").write_bytes(made.convert())
    teacher = Teacher(tmp_path / "q.tflite", small("tiny"), data.labels(TASK))
    teacher.try_on(clips)
    assert teacher.gives == "probabilities"
    assert np.isfinite(given(teacher, clips)).all()


def soft(pcm: Any) -> Any:
    return tf.nn.softmax(listener(gain=1e-5)(pcm))


def test_the_pool_is_made_of_a_teacher_that_was_tried(clips, tmp_path, capsys):
    teacher = teacher_of(tmp_path / "t.tflite", lambda x: tf.nn.softmax(listener()(x)))
    made = pool.build(clips, [], small("tiny"), tmp_path / "pool", Teachers([teacher]))
    assert made.teacher is not None and made.teacher.min() < -5
    assert "training clips right" in capsys.readouterr().err


def test_a_teacher_that_knows_nothing_is_refused(clips, tmp_path):
    deaf = tf.constant([[0.0, 0.0, 1.0, 0.5, 0.2, 0.1]])
    teacher = teacher_of(tmp_path / "t.tflite", lambda x: deaf + 0 * x[:, :6])
    with pytest.raises(KwsError, match="16 of 64 right; guessing gives 25 %") as error:
        teacher.try_on(clips)
    assert "--teacher-labels" in error.value.hint


def test_a_teacher_of_int16_amplitudes_is_refused(clips, tmp_path):
    """On audio in -1..1 it hears silence: always the same label."""

    def quiet(pcm: Any) -> Any:
        words = listener(gain=1e-14)(pcm)
        return words + tf.constant([[0.0, 10.0, 0.0, 0.0, 0.0, 0.0]])

    teacher = teacher_of(tmp_path / "t.tflite", quiet)
    with pytest.raises(KwsError, match="knows nothing of these clips"):
        teacher.try_on(clips)


def test_labels_in_another_order_are_named(clips, tmp_path):
    """Half of the clips are right: an accuracy of 50 % would not say what is wrong."""
    teacher = teacher_of(tmp_path / "t.tflite", listener((1, 0, 2, 3)))
    with pytest.raises(KwsError, match="takes yes for no, in 16 of 16 clips"):
        teacher.try_on(clips)


def test_mel_bands_first_are_refused(tmp_path):
    spec = small("tiny").features
    shape = (1, spec.mel_bins, spec.frames)

    def upside_down(mel: Any) -> Any:
        return tf.reduce_sum(mel, axis=(1, 2))[:, None] * tf.ones((1, 6))

    with pytest.raises(KwsError, match="mel bands come first") as error:
        teacher_of(tmp_path / "t.tflite", upside_down, shape)
    assert str(list(shape)) in error.value.message
    for other in ((1, spec.frames * spec.mel_bins), (2, 8000), (1, 1)):
        with pytest.raises(KwsError, match="fits neither"):
            teacher_of(
                tmp_path / "t.tflite",
                lambda x: tf.reduce_sum(x) * tf.ones((1, 6)),
                other,
            )
    teacher_of(tmp_path / "t.tflite", upside_down, (1, spec.frames, spec.mel_bins))


def test_a_teacher_with_two_outputs_is_refused(tmp_path):
    with pytest.raises(KwsError, match="one input and one output. Received: 1 and 2"):
        teacher_of(tmp_path / "t.tflite", lambda x: (x[:, :6], x[:, 6:12]))


def test_of_several_teachers_the_mean_of_probabilities_teaches(clips, tmp_path, capsys):
    good = teacher_of(tmp_path / "good.tflite", listener())
    other = teacher_of(tmp_path / "other.tflite", listener((1, 0, 2, 3), gain=1e-6))
    both = Teachers([good, other])
    bar = Progress("test", len(clips))
    spec = features.extract(clips.pcm, good.recipe.features)
    expected = (softmax(given(good, clips)) + softmax(given(other, clips))) / 2
    mean = softmax(both.logits(clips.pcm, spec, bar))
    assert np.abs(mean - expected).max() < 1e-5
    assert len({both.key, good.key, other.key, Teachers([good], [other]).key}) == 4
    assert Teachers([good]).key == good.key  # a pool that is there already
    alone = Teachers([good]).logits(clips.pcm, spec, bar)
    assert np.array_equal(alone, given(good, clips))
    with pytest.raises(KwsError, match=r"takes yes for no.*other\.tflite"):
        both.try_on(clips)
    assert "The teacher good.tflite hears 64 of 64" in capsys.readouterr().err


def test_a_teacher_of_clean_recordings_says_the_same_of_their_copies(clips, tmp_path):
    good = teacher_of(tmp_path / "good.tflite", listener())
    faint = teacher_of(tmp_path / "faint.tflite", listener(gain=1e-6))
    both = Teachers([faint], [good])
    bar = Progress("test", len(clips))
    copies = np.zeros_like(clips.pcm)  # nothing is left of the words
    nothing = features.extract(copies, good.recipe.features)
    frames = features.extract(clips.pcm, good.recipe.features)
    clean = both.clean(clips.pcm, frames, bar)
    assert np.abs(clean - softmax(given(good, clips))).max() < 1e-5
    taught = softmax(both.logits(copies, nothing, bar, clean))
    deaf = softmax(faint.logits(copies, nothing, bar))
    assert np.abs(taught - (clean + deaf) / 2).max() < 1e-5
    words = clips.label >= clips.labels.index(WORDS[0])  # silence is no teacher's
    assert (taught.argmax(axis=1) == clips.label)[words].all()
    assert not (deaf.argmax(axis=1) == clips.label)[words].all()


def test_a_run_teaches_by_its_own_features(tmp_path):
    """kwt-stream-tiny has a frame every 20 ms, kwt-tiny every 10."""
    labels = data.labels(Task("gsc10"))
    student = recipes.load("kwt-tiny")
    teacher = Teacher(Path("kwt-stream-tiny"), student, labels)
    clips = np.random.default_rng(3).integers(-3000, 3000, (3, 16000)).astype(np.int16)
    frames = features.of_clips(clips, student.features)
    heard = teacher.logits(clips, frames, Progress("test", 3))
    run = bundles.load("kwt-stream-tiny")
    held = ClipSet(clips, np.zeros(3, np.int32), list("abc"), labels, "val", {})
    dense = dataclasses.replace(run, thresholds={})
    logits = evaluate.evaluate_clips(dense, held, "tflite").logits
    output = reader.read(run.model_path.read_bytes()).output
    steps = heard / output.scale + output.zero_point - logits
    assert np.abs(steps).max() <= 4  # XNNPACK rounds otherwise here and there
    shorter = with_clip_seconds(student, 1.5)
    with pytest.raises(KwsError, match="Expected 24000 samples. Received: 16000"):
        Teacher(Path("kwt-stream-tiny"), shorter, labels)
    with pytest.raises(KwsError, match="neither a .tflite file .* nor a run"):
        Teacher(tmp_path / "none", student, labels)
    with pytest.raises(KwsError, match="does not know marvin.*kwt-tiny") as caught:
        Teacher(Path("kwt-tiny"), student, (*labels, "marvin"))
    assert "--teacher-labels" not in caught.value.hint  # is refused for a run


def test_the_trial_takes_of_every_label_but_silence(clips):
    from kws import teacher

    chosen = teacher._evenly(clips)
    labels = [clips.labels[i] for i in clips.label[chosen]]
    assert {label: labels.count(label) for label in WORDS} == dict.fromkeys(WORDS, 16)
    assert set(labels) == set(WORDS)
