"""The network: its shapes, its options, and that folding changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import h5py  # noqa: E402
from networks_for_tests import VARIANTS, awake, features, small  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import recipe  # noqa: E402
from kws.errors import KwsError  # noqa: E402
from kws.layers.keras import tf, tf_keras  # noqa: E402
from kws.model import check, network  # noqa: E402


def test_kwt1_has_the_published_number_of_parameters() -> None:
    net = network.build(recipe.load("kwt-1"), labels=12)
    assert sum(np.prod(w.shape) for w in net.trainable_weights) == 607_308


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_changes_nothing(variant: str) -> None:
    spec = small(variant)
    net = awake(spec, labels=5)
    folded = network.fold(net, spec, 5)
    real = features(spec, 6)[1]
    expected = net(real).numpy()
    assert np.abs(folded(real).numpy() - expected).max() < 2e-5 * np.abs(expected).max()
    # Where a norm is followed by a projection, its scale and shift are gone.
    if spec.model.norm_position == "pre":
        names = [w.name.rsplit("/", 1)[-1] for w in folded.weights]
        assert not any(name.startswith(("gamma", "beta")) for name in names)


def test_weights_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 ends the process where a disk is full, so it never sees one."""
    spec = small("tiny", layers=1)
    folded = network.fold(awake(spec, labels=3), spec, 3)
    run = bundles.Bundle(tmp_path, spec, ("a", "b", "c"))
    honest = h5py.File

    def in_memory(name: object, *args: object) -> object:
        assert not isinstance(name, str | Path)
        return honest(name, *args)

    with monkeypatch.context() as patched:
        patched.setattr(h5py, "File", in_memory)
        network.save_weights(folded, run)
    again = network.restore(run)
    for mine, theirs in zip(folded.weights, again.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    before = run.weights_path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        network.save_weights(awake(spec, labels=3), run)
    assert [path.name for path in tmp_path.iterdir()] == [run.weights_path.name]
    assert run.weights_path.read_bytes() == before


def test_dct_is_that_of_tf_signal() -> None:
    log_mel = np.random.default_rng(1).normal(size=(3, 80)).astype(np.float32)
    expected = tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[:, :40]
    assert np.allclose(log_mel @ network.dct_matrix(80, 40), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("attention", "softmx", "Did you mean 'softmax'"),
        ("attention", ("softmax", "softmx"), "Did you mean 'softmax'"),
        ("attention", ("softmax",), "a list of 2: one a block"),
        ("attention", ("softmax",) * 3, "a list of 2: one a block"),
        ("attention", (), "a list of 2: one a block"),
        ("norm", "rms", "dyt, layer, batch"),
        ("stem_stride", (2,), "two strides"),
        ("cepstra", 41, "0 to 40"),
        ("dim", 0, "1 to 4096"),
    ],
)
def test_a_bad_shape_is_refused(key: str, value: object, expected: str) -> None:
    spec = small("tiny")
    spec = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, **{key: value})
    )
    with pytest.raises(KwsError) as error:
        network.build(spec, 5)
    assert expected in error.value.message
    assert "Received" in error.value.message


def test_what_the_check_knows_is_what_there_is() -> None:
    """kws.model.check lists the norms itself, to do without TensorFlow."""
    assert tuple(network.layers.NORMS) == check.NORMS


def test_dropout_depends_on_the_step_alone() -> None:
    """So that a resumed run drops what the uninterrupted one drops."""
    layer = network.Dropout("float", "dropout", 0.5)
    ones = tf.ones((4, 100))
    first, second = layer(ones, training=True), layer(ones, training=True)
    assert np.any(first != second)
    layer.calls.assign(0)
    tf_keras.utils.set_random_seed(99)
    assert np.array_equal(first, layer(ones, training=True))
    assert np.array_equal(ones, layer(ones, training=False))
    assert 0.3 < float(tf.reduce_mean(tf.cast(first == 0, tf.float32))) < 0.7
