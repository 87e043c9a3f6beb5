"""Blocks that aren't softmax attention, in whole networks and on every core.

What every variant has in common is tested in test_attention.py.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="variants are Keras layers")

import sample_models
import test_stream
import toolbox

from kws import attention, engines, recipe
from kws.bundle import Bundle
from kws.deploy import emission, host
from kws.engines import common, qemu
from kws.errors import KwsError
from kws.graph import cost, passes, reader, stream
from kws.model import network as networks
from kws.shape import shape_of
from kws.simulate.counts import summary
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Thresholds

# Networks with each variant below or above softmax attention.
MIXED: dict[str, dict[str, Any]] = {
    "conv": {"attention": ("conv", "softmax"), "conv_kernel": 7},
    "reuse": {"attention": ("softmax", "reuse")},
    "reuse, two heads": {
        "attention": ("softmax", "reuse", "reuse"),
        "layers": 3,
        "heads": 2,
        "head_dim": 12,
    },
}


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-variants-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def sample(name: str) -> Bundle:
    """A small converted network with random weights."""
    spec = sample_models.recipe(frames=40, **{"layers": 2} | MIXED[name])
    return sample_models.bundle(folder() / name, spec, sample_models.network(spec))


def sounds(bundle: Bundle, count: int = 3) -> np.ndarray:
    """int16 [count, samples]: noise that grows and fades."""
    rng = np.random.default_rng(4)
    samples = bundle.recipe.features.clip_samples
    loudness = 2000 * (1 + np.sin(np.linspace(0, 9, samples))) + 50
    return (rng.normal(0, 1, (count, samples)) * loudness).astype(np.int16)


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
@pytest.mark.parametrize("step", [None, 3])
def test_boards_compute_what_tflm_and_the_simulator_do(
    name: str, board: str, step: int | None
) -> None:
    """Dense as TFLM does; with thresholds as the simulator, counts included."""
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle = sample(name)
    pcm = sounds(bundle)
    simulator = IntegerSimulator(bundle)
    if step is None:
        expected = engines.get("tflm").logits(bundle, pcm)
        np.testing.assert_array_equal(qemu.logits(bundle, pcm, 1, board), expected)
        return
    steps = Thresholds(simulator.slots, np.full(len(simulator.slots), step))
    run = simulator.run(common.features(bundle, pcm), simulator.thresholds(steps))
    path = folder() / f"{name}-{step}"
    shutil.copytree(bundle.path, path, dirs_exist_ok=True)
    bundle = dataclasses.replace(bundle, path=path, thresholds=steps.to_steps())
    logits, sent = qemu.counted(bundle, pcm, 1, board)
    np.testing.assert_array_equal(logits, run.logits)
    # Heads have tensors of their own; what several products read counts once.
    found: dict[Any, dict[str, np.ndarray]] = {slot: {} for slot in simulator.slots}
    for product, column in zip(emission.products(bundle), sent.T, strict=True):
        found[product.slot][product.tensor.name] = column
    for place, slot in enumerate(simulator.slots):
        total = sum(found[slot].values())
        np.testing.assert_array_equal(total, run.counts.sent[:, place])


@pytest.mark.parametrize("name", MIXED)
def test_what_thresholds_cut_is_summed_up(name: str) -> None:
    bundle = sample(name)
    simulator = IntegerSimulator(bundle)
    inputs = common.features(bundle, sounds(bundle))
    for step, bound in ((-1, 0.0), (8, 0.05)):
        steps = Thresholds(simulator.slots, np.full(len(simulator.slots), step))
        run = simulator.run(inputs, simulator.thresholds(steps))
        table = summary(run.network, run.counts)
        cuts = [table["mac_cut_rows"], table["mhsa_mac_cut_rows"]]
        assert all(cut == 0 if step < 0 else cut > bound for cut in cuts)
        assert all(cut >= bound for cut in table["layer_cut"])


def dense_graph(bundle: Bundle) -> Any:
    graph = reader.read(bundle.model_bytes())
    passes.prepare(graph)
    return graph


# --- convolution blocks ---------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [3, 15])
def test_a_convolution_sees_its_tokens_and_no_others(kernel: int, causal: bool) -> None:
    model = dataclasses.replace(
        recipe.Model(), attention="conv", conv_kernel=kernel, causal=causal, dim=8
    )
    layer = attention.layer("conv")("float", "attention", model)
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (1, 31, 8)).astype(np.float32)
    plain, _ = layer(inputs, {})
    inputs[0, 15] += 1.0
    moved, _ = layer(inputs, {})
    changed = np.flatnonzero(np.abs(moved - plain)[0].max(axis=-1))
    first = 15 if causal else 15 - kernel // 2
    np.testing.assert_array_equal(changed, np.arange(first, first + kernel))


def test_a_convolution_block_costs_what_its_shape_says() -> None:
    bundle = sample("conv")
    shape = shape_of(bundle.recipe, len(bundle.labels))
    found = attention.find_products(
        dense_graph(bundle), bundle.recipe, len(bundle.labels)
    )
    mine = [p for p in found.every if p.layer == 0 and p.role in ("in", "out")]
    assert [p.kind for p in mine] == ["X", "O"]
    assert all(p.elements * p.macs == shape.tokens * shape.dim**2 for p in mine)
    graph = dense_graph(bundle)
    between = [n for n in graph.nodes if n.kind == "DEPTHWISE_CONV_2D"]
    assert cost.total(between).macs == shape.tokens * shape.dim * 7


@pytest.mark.parametrize("kernel", [1, 4, 17])
def test_other_kernels_are_refused(kernel: int) -> None:
    spec = sample_models.recipe(attention="conv", conv_kernel=kernel)
    with pytest.raises(KwsError, match="conv_kernel: expected an odd number, 3 to 15"):
        networks.check(spec)


def test_only_blocks_of_one_kind_share_kernels() -> None:
    shared = {"share": "blocks", "groups": 1, "layers": 2}
    with pytest.raises(KwsError, match="blocks 0 and 1 mix their tokens"):
        networks.check(sample_models.recipe(attention=("conv", "softmax"), **shared))
    spec = sample_models.recipe(frames=40, attention=("conv", "conv"), **shared)
    network = networks.build(spec, 3)
    kernels = {id(network.get_layer(f"block{i}").expand.kernel) for i in (0, 1)}
    assert len(kernels) == 1


@functools.cache
def streamed() -> Bundle:
    spec = test_stream.causal(
        attention=("conv", "none"), token_kernel=0, conv_kernel=5, share="none"
    )
    return sample_models.bundle(folder() / "stream", spec, sample_models.network(spec))


@pytest.fixture
def conv_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of streams, on a network with a convolution block."""
    monkeypatch.setattr(test_stream, "sample", streamed)


@pytest.mark.usefixtures("conv_stream")
def test_a_clip_of_it_is_a_stream_from_a_reset() -> None:
    test_stream.test_a_clip_is_a_stream_from_a_reset()


@pytest.mark.usefixtures("conv_stream")
def test_its_stream_goes_on() -> None:
    test_stream.test_a_stream_goes_on()
    test_stream.test_what_has_not_come_makes_no_difference()


@pytest.mark.usefixtures("conv_stream")
@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_boards_run_its_stream(board: str) -> None:
    test_stream.test_boards_run_the_same_stream(board)


def test_a_stream_keeps_the_rows_that_its_kernel_spans() -> None:
    graph = dense_graph(streamed())
    stream.derive(graph)
    kept = [
        node
        for node in graph.nodes
        if node.kind == "HISTORY"
        and graph.consumers(node.output)[0].kind == "DEPTHWISE_CONV_2D"
    ]
    assert [node.output.elements for node in kept] == [5 * 16]


def test_a_stream_of_it_has_no_thresholds() -> None:
    spec = test_stream.causal(attention="conv", token_kernel=0)
    with pytest.raises(KwsError, match="thresholds are for networks that see a clip"):
        attention.slots(spec.model)
    bundle = dataclasses.replace(
        streamed(),
        recipe=dataclasses.replace(streamed().recipe, model=spec.model),
        thresholds={"M": 2},
    )
    with pytest.raises(KwsError, match="thresholds"):
        host.library(bundle)
