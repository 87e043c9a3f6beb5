"""Delta encoding of the MLP (kinds M, H): the C against TFLM and the simulator."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

import by_hand
import numpy as np
import pytest
import sample_models
import toolbox

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")


from kws.bundle import Bundle
from kws.deploy import boards, emission, flash, run
from kws.engines import common, host
from kws.graph.products import MLP_KINDS, Product
from kws.simulate import Run
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Thresholds

# ReLU; GELU as a table between two dense rows and a class token; two factors each.
SPECS = {
    "relu": sample_models.recipe(frames=40, layers=2),
    "gelu": sample_models.recipe(
        "kwt-1", frames=30, layers=2, activation="gelu", mlp_dim=64
    ),
    "factors": sample_models.recipe(frames=40, layers=2, mlp_rank=12),
}
ZERO = {"M": 0, "H": 0}
STEPS = [{"M": 7, "H": 3, "1.H": 12}, {"0.M": 5, "X": 4, "H": 2, "P": 1}]


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-delta-mlp-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def sample(name: str) -> Bundle:
    model = sample_models.network(SPECS[name])
    return sample_models.bundle(folder() / name, SPECS[name], model)


@functools.cache
def simulator(name: str) -> IntegerSimulator:
    return IntegerSimulator(sample(name))


def inputs(name: str) -> np.ndarray:
    """Features that move slowly, as speech's do."""
    spec = SPECS[name].features
    drawn = sample_models.features(4, (spec.frames, spec.mel_bins))
    return np.clip(np.cumsum(drawn // 16, axis=1, dtype=np.int64), -128, 127).astype(
        np.int8
    )


def simulate(name: str, steps: dict[str, int], features: np.ndarray) -> Run:
    whole = Thresholds.from_dict(steps, simulator(name).slots)
    return simulator(name).run(features, simulator(name).thresholds(whole))


def invoke(
    bundle: Bundle, features: np.ndarray
) -> tuple[np.ndarray, list[tuple[Product, np.ndarray]]]:
    """Logits of the emitted C, and what each product that skips transmitted, [N]."""
    logits, sent = host.invoke(bundle, features)
    return logits, list(zip(emission.products(bundle), sent.T, strict=True))


def assert_mlp_counts(
    name: str, products: list[tuple[Product, np.ndarray]], expected: Run
) -> int:
    """Compare what the MLPs transmitted where the C runs all rows; how many those are.

    Of a last layer only the class token's row is run.
    """
    shape, slots = simulator(name).shape, simulator(name).slots
    compared = 0
    for product, sent in products:
        if product.kind in MLP_KINDS:
            whole = shape.tokens * by_hand.columns(shape, product.kind)
            assert product.elements == whole
            place = slots.index(product.slot)
            np.testing.assert_array_equal(sent, expected.counts.sent[:, place])
            compared += 1
    return compared


@pytest.mark.parametrize("name", SPECS)
def test_threshold_0_equals_tflm_and_skips_zeros(name: str) -> None:
    features = inputs(name)
    expected = sample_models.tflm_logits(sample(name).model_bytes(), features)
    assert expected.std() > 3  # not stuck: the comparison means something
    bundle = dataclasses.replace(sample(name), thresholds=ZERO)
    logits, products = invoke(bundle, features)
    np.testing.assert_array_equal(logits, expected)
    run = simulate(name, ZERO, features)
    np.testing.assert_array_equal(run.logits, expected)
    assert assert_mlp_counts(name, products, run) == (2 if name == "gelu" else 4)
    cost = run.cost()
    assert cost["mhsa_mac_cut"] == 0.0
    if name != "gelu":  # ReLU: what was zero and is zero costs nothing
        assert cost["cut"]["contract"] > 0.2
        assert cost["mac_cut"] > 0.02


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_equals_the_simulator(name: str, steps: dict[str, int]) -> None:
    features = inputs(name)
    expected = simulate(name, steps, features)
    dense = sample_models.tflm_logits(sample(name).model_bytes(), features)
    assert (expected.logits != dense).any()
    bundle = dataclasses.replace(sample(name), thresholds=steps)
    logits, products = invoke(bundle, features)
    np.testing.assert_array_equal(logits, expected.logits)
    assert assert_mlp_counts(name, products, expected) >= 2


@pytest.mark.parametrize("board", ["qemu-m4", "qemu-m55"])
def test_boards_equal_the_simulator(board: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle = dataclasses.replace(sample("relu"), thresholds=STEPS[0])
    rng = np.random.default_rng(1)
    samples = bundle.recipe.features.clip_samples
    pcm = np.rint(np.array([[30], [3000]]) * rng.normal(0, 1, (2, samples)))
    pcm = pcm.clip(-32768, 32767).astype(np.int16)
    expected = simulate("relu", STEPS[0], common.features(bundle, pcm))
    target = boards.load(board)
    image = flash.emit_and_build(bundle, target, folder() / board, app="clips")
    result = run.clips(image.elf, target, pcm, len(bundle.labels), jobs=1)
    np.testing.assert_array_equal(result.logits, expected.logits)
    sent = result.sent.sum(axis=1)
    counts = expected.counts.sent[:, simulator("relu").slots.of(MLP_KINDS)].sum(axis=1)
    np.testing.assert_array_equal(sent, counts)


def test_repeats_alone_are_skipped_only_where_that_is_cheaper() -> None:
    """H=0 changes no bit, so Helium, whose dense kernel is faster, runs it dense."""
    zero = dataclasses.replace(sample("relu"), thresholds={"H": 0})
    dense = dataclasses.replace(sample("relu"), thresholds={})
    for core in ("portable", "dsp"):
        assert [row.kind for row in emission.products(zero, core)] == ["H", "H"]
    assert emission.products(zero, "mve") == ()
    # In one layer it changes something, and is done on every core.
    mixed = dataclasses.replace(sample("relu"), thresholds={"H": 0, "1.H": 3})
    assert [row.layer for row in emission.products(mixed, "mve")] == [1]
    names = [f"{folder()}/mve-{k}" for k in range(2)]
    for bundle, name in zip((zero, dense), names, strict=True):
        emission.emit_bundle(bundle, Path(name), "mve")
    texts = [(Path(name) / "kws_model.c").read_text() for name in names]
    zeros, denses = (
        [x for x in t.split("\n") if " Bundle " not in x and ".hash" not in x]
        for t in texts
    )
    assert zeros == denses


def test_holding_everything_leaves_the_dense_rows() -> None:
    for name in SPECS:
        steps = {"M": 255, "H": 255}
        found = simulate(name, steps, inputs(name))
        shape = simulator(name).shape
        assert shape.layers == SPECS[name].model.layers
        for place, (_, kind) in enumerate(simulator(name).slots):
            rows = shape.dense_rows if kind in MLP_KINDS else shape.tokens
            sent = found.counts.sent[:, place]
            whole = rows * by_hand.columns(shape, kind)
            np.testing.assert_array_equal(sent, whole)
        # The whole model is cut, MHSA is not, and second factors stay dense.
        cost = found.cost()
        assert cost["mhsa_mac_cut"] == 0.0
        share = shape.dense_rows / shape.tokens
        first = shape.layers * sum(by_hand.mlp_macs(shape).values())
        if shape.mlp_rank:
            first -= (
                shape.layers
                * shape.tokens
                * shape.mlp_rank
                * (shape.dim + shape.mlp_dim)
            )
        dense = by_hand.macs(SPECS[name], shape)
        assert cost["macs_dense"] == dense
        assert cost["mac_cut"] == pytest.approx((1 - share) * first / dense, rel=1e-9)
