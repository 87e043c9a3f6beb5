"""Blocks that aren't softmax attention, in whole networks and on every core.

What every variant has in common is tested in test_attention.py.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="variants are Keras layers")

import networks_for_tests
import sample_models
import small_corpus
import test_stream
import test_stream_delta
import toolbox

from kws import attention, engines, recipe
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.cli.eval import command as eval_command
from kws.cli.train import command as train_command
from kws.deploy import emission
from kws.emit import native, tflm
from kws.engines import common, host, qemu
from kws.errors import KwsError
from kws.graph import cost, memory_plan, passes, reader, schedule, stream
from kws.graph.products import MLP_ROLES
from kws.layers import UNIT_RANGE, DyT
from kws.layers.keras import tf, tf_keras
from kws.model import hold
from kws.model import network as networks
from kws.model import stream as trained
from kws.quantize import calibrate
from kws.shape import shape_of
from kws.simulate.counts import summary
from kws.simulate.integer import IntegerSimulator
from kws.simulate.simulator import Simulator
from kws.thresholds import Thresholds

# Networks with each variant below or above softmax attention.
MIXED: dict[str, dict[str, Any]] = {
    "conv": {"attention": ("conv", "softmax"), "conv_kernel": 7},
    "reuse": {"attention": ("softmax", "reuse")},
    "folded": {"attention": ("folded", "softmax")},
    "everything folded": {"attention": "folded", "mlp_fold": 2, "fold_offset": True},
    "folded by 3, two heads": {
        "attention": ("folded", "conv"),
        "fold": 3,
        "heads": 2,
        "head_dim": 24,
        "mlp_fold": 3,
        "mlp_rank": 8,
    },
    "class token": {
        "attention": ("softmax", "folded", "reuse"),
        "layers": 3,
        "class_token": True,
        "positions": True,
        "norm": "layer",
        "norm_position": "post",
    },
    "reuse, two heads": {
        "attention": ("softmax", "reuse", "reuse"),
        "layers": 3,
        "heads": 2,
        "head_dim": 12,
    },
    "performer": {  # heads as wide as there are tokens: K's columns aren't those
        "attention": "performer",
        "heads": 2,
        "head_dim": 21,
        "class_token": True,
        "positions": True,
        "norm": "layer",
        "norm_position": "post",
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
        if bundle.recipe.model.class_token and slot[0] == simulator.shape.layers - 1:
            continue  # the engine runs only the row that the head reads
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


# --- blocks on a stream ---------------------------------------------------------------

STREAMED: dict[str, dict[str, Any]] = {
    "conv": {"attention": ("conv", "none"), "conv_kernel": 5},
    # Heads that are no multiple of a vector; a window that isn't the clip's tokens.
    "performer": {
        "attention": ("none", "performer"),
        "heads": 2,
        "head_dim": 6,
        "window": 5,
    },
    "softmax": {"attention": ("softmax", "none"), "head_dim": 7, "window": 6},
    # A window longer than the clip; two heads.
    "softmax, long": {
        "attention": "softmax",
        "heads": 2,
        "head_dim": 12,
        "window": 11,
    },
    "all of them": {
        "attention": ("conv", "softmax", "performer", "none"),
        "layers": 4,
        "groups": 4,
        "heads": 2,
        "head_dim": 8,
        "window": 3,
    },
}


@functools.cache
def streamed(name: str) -> Bundle:
    spec = test_stream.causal(token_kernel=0, share="none", **STREAMED[name])
    data = sample_models.network(spec)
    return sample_models.bundle(folder() / f"{name}-stream", spec, data)


@pytest.fixture(params=STREAMED)
def block_stream(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests of streams, on a network with a block that mixes tokens."""
    monkeypatch.setattr(test_stream, "sample", lambda: streamed(request.param))


def test_every_variant_that_is_causal_has_a_stream_here() -> None:
    causal = [name for name in attention.names() if attention.graph(name).CAUSAL]
    streamed = {
        name
        for model in STREAMED.values()
        for name in recipe.Model(**model | {"layers": model.get("layers", 2)}).variants
    }
    assert sorted(streamed - {attention.NONE}) == causal


@pytest.mark.usefixtures("block_stream")
def test_a_clip_of_it_is_a_stream_from_a_reset() -> None:
    test_stream.test_a_clip_is_a_stream_from_a_reset()
    test_stream.test_how_it_is_cut_changes_no_bit(7)


@pytest.mark.usefixtures("block_stream")
def test_its_stream_goes_on() -> None:
    test_stream.test_a_stream_goes_on()
    test_stream.test_what_has_not_come_makes_no_difference()
    test_stream.test_the_step_as_a_tflite_gives_the_streams_logits()


@pytest.mark.usefixtures("block_stream")
@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_boards_run_its_stream(board: str) -> None:
    test_stream.test_boards_run_the_same_stream(board)


def test_a_stream_keeps_the_rows_that_its_kernel_spans() -> None:
    graph = dense_graph(streamed("conv"))
    stream.derive(graph)
    kept = [
        node
        for node in graph.nodes
        if node.kind == "HISTORY"
        and graph.consumers(node.output)[0].kind == "DEPTHWISE_CONV_2D"
    ]
    assert [node.output.elements for node in kept] == [5 * 16]


@pytest.mark.usefixtures("block_stream")
def test_thresholds_of_its_stream_are_every_stream_s_and_its_dense_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is between its dense layers runs dense, on what those were made of."""
    slots = test_stream_delta.slots()
    for layer, variant in enumerate(test_stream.sample().recipe.model.variants):
        mine = set(slots.by_layer[layer]) - {"F", "C", "E", "R"}
        assert mine == {"M", "H"} | (set("XO") if variant != attention.NONE else set())
    repeats, mixed = test_stream_delta.REPEATS, test_stream_delta.MIXED
    monkeypatch.setattr(test_stream_delta, "REPEATS", repeats | {"X": 0, "O": 0})
    test_stream_delta.test_repeats_alone_are_dense_for_ever()
    for seed in (0, 1):
        test_stream_delta.test_a_clip_is_a_stream_from_a_reset(seed)
    mixed = mixed | {"X": 8, "O": 5}
    test_stream_delta.test_a_stream_goes_on_as_held_values_do(mixed)


@pytest.mark.usefixtures("block_stream")
def test_it_rests_once_its_windows_are_of_new_tokens() -> None:
    test_stream_delta.test_rest_does_not_begin_before_the_last_change_has_passed_through()
    test_stream_delta.test_silence_sends_nothing_once_the_past_is_full()


@pytest.mark.usefixtures("block_stream")
@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_boards_run_its_stream_with_thresholds(board: str) -> None:
    mixed = test_stream_delta.MIXED | {"X": 8, "O": 5}
    test_stream_delta.test_boards_run_the_same_stream(board, mixed)


def test_thresholds_inside_softmax_attention_are_refused_on_a_stream() -> None:
    bundle = dataclasses.replace(streamed("softmax"), thresholds={"X": 3, "Q": 3})
    with pytest.raises(KwsError, match=r"KIND one of .*X, O.*Received: 'Q=3'") as error:
        native.sources(bundle, "dsp")
    assert "--theta" in error.value.hint
    # What its dense layers read is held in the clip's form for an interpreter as well.
    held = dataclasses.replace(bundle, thresholds={"X": 3, "O": 3})
    text = tflm.sources(held, "dsp", 1 << 16).texts["kws_model.c"]
    assert text.count("kws_delta_fully_connected_t delta") == 4


def test_a_stream_has_whole_tokens() -> None:
    spec = test_stream.causal(attention="conv", token_kernel=0, mlp_fold=2)
    with pytest.raises(KwsError, match="mlp_fold: expected 1 in a causal network"):
        networks.check(spec)
    for variants in (("softmax", "reuse"), ("folded", "none")):
        spec = test_stream.causal(attention=variants, share="none")
        with pytest.raises(KwsError, match="(reuse|folded) attention sees the clip"):
            networks.check(spec)


# --- map reuse ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [("reuse", "softmax"), ("conv", "reuse"), ("folded", "reuse")]
)
def test_a_block_takes_a_map_that_there_is(given: tuple[str, ...]) -> None:
    spec = sample_models.recipe(layers=2, attention=given)
    place = given.index("reuse")
    with pytest.raises(KwsError, match=rf"softmax somewhere in front of block {place}"):
        networks.check(spec)


def test_a_map_goes_past_blocks_that_make_none() -> None:
    spec = sample_models.recipe(layers=3, attention=("softmax", "conv", "reuse"))
    networks.check(spec)
    assert [sorted(names) for names in attention.carried(spec.model.variants)] == [
        ["map"],
        ["map"],
        [],
    ]


def test_a_block_that_reuses_a_map_makes_none() -> None:
    """Its products are V, P.V and the output: half of attention's."""
    bundle = sample("reuse")
    shape = shape_of(bundle.recipe, len(bundle.labels))
    rows, dim, inner = shape.tokens, shape.dim, shape.inner
    found = attention.find_products(
        dense_graph(bundle), bundle.recipe, len(bundle.labels)
    )
    spent = [
        sum(
            p.elements * p.macs
            for p in found.every
            if p.layer == layer and p.role not in MLP_ROLES
        )
        for layer in (0, 1)
    ]
    assert spent == [4 * rows * dim * inner + 2 * rows**2 * inner, spent[0] // 2]
    network = native.sources(bundle, "dsp").network
    assert network.dense.exponentials == rows**2
    kinds = [node.kind for node in network.nodes]
    assert kinds.count("MAP_SCORES") == kinds.count("SOFTMAX") == 1
    assert kinds.count("MAP_MIX") == 2 and "ATTENTION" not in kinds


def test_a_map_is_kept_in_int8_and_its_bytes_are_counted() -> None:
    bundle = sample("reuse")
    shape = shape_of(bundle.recipe, len(bundle.labels))
    graph = dense_graph(bundle)
    passes.finish(graph, attention.fusions())
    program = schedule.schedule(graph)
    plan = memory_plan.plan(graph, program)
    (softmax,) = [node for node in program.nodes if node.kind == "SOFTMAX"]
    kept = plan.tensors[id(softmax.output)]
    readers = [i for i, n in enumerate(program.nodes) if n.kind == "MAP_MIX"]
    assert kept.bytes == shape.tokens**2
    assert len(readers) == 2 and kept.last >= readers[-1]
    # Written once, and read once by each block.
    for place in readers:
        count = cost.count(program.nodes[place])
        macs = shape.tokens**2 * shape.inner
        assert count.macs == macs
        assert count.bytes[cost.READ] == shape.tokens**2 + macs
    assert cost.count(softmax).bytes[cost.WRITE] == shape.tokens**2


def test_thresholds_of_a_reused_map_are_its_own() -> None:
    """What one block holds of a map is not what the next one does."""
    bundle = sample("reuse")
    simulator = IntegerSimulator(bundle)
    inputs = common.features(bundle, sounds(bundle))
    sent = {}
    for text in ("0.P=0.02", "1.P=0.02", "P=0.02"):
        thresholds = Thresholds.parse(text, simulator.slots)
        run = simulator.run(inputs, thresholds)
        places = [simulator.slots.index((layer, "P")) for layer in (0, 1)]
        sent[text] = run.counts.sent[:, places]
    shape = shape_of(bundle.recipe, len(bundle.labels))
    assert (sent["0.P=0.02"][:, 1] == shape.tokens**2).all()
    assert (sent["1.P=0.02"][:, 0] == shape.tokens**2).all()
    np.testing.assert_array_equal(sent["P=0.02"][:, 0], sent["0.P=0.02"][:, 0])
    assert (sent["P=0.02"] < shape.tokens**2).all()


def test_keys_that_are_held_are_counted_as_they_are_run() -> None:
    """Of a map that is kept: the graph without thresholds, and the emitted one."""
    bundle = sample("reuse")
    simulator = IntegerSimulator(bundle)
    inputs = common.features(bundle, sounds(bundle))
    steps = Thresholds(simulator.slots, np.full(len(simulator.slots), 3))
    run = simulator.run(inputs, simulator.thresholds(steps))
    marked = dataclasses.replace(bundle, thresholds=steps.to_steps())
    network = native.sources(marked, "dsp").network
    sent = host.invoke(marked, inputs)[1].mean(axis=0)
    emitted = cost.total(network.nodes, network.transmitted(list(sent)))
    counted = run.network.count(run.counts)
    assert emitted.as_dict() == counted.as_dict()


# --- folding --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"fold": 1}, "fold"),
        ({"fold": 5}, "fold"),
        ({"fold": 4, "head_dim": 6}, "fold"),
        ({"mlp_fold": 7}, "mlp_fold"),
        ({"mlp_fold": 0}, "mlp_fold"),
        ({"mlp_fold": 2, "mlp_rank": 25}, "mlp_rank"),
    ],
)
def test_folds_have_to_divide_what_they_fold(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(KwsError, match=rf"\[model\] {key}: expected"):
        networks.check(sample_models.recipe(attention="folded", **changes))


def test_a_folded_block_costs_what_its_shape_says() -> None:
    """A quarter of the weights; half of the projections' products, twice the map's."""
    bundle = sample("everything folded")
    shape = shape_of(bundle.recipe, len(bundle.labels))
    rows, dim, inner, hidden = shape.tokens, shape.dim, shape.inner, shape.mlp_dim
    found = attention.find_products(
        dense_graph(bundle), bundle.recipe, len(bundle.labels)
    )
    first = [p for p in found.every if p.layer == 0]
    assert {p.rows for p in first} == {2 * rows}
    by_role: dict[str, int] = {}
    for product in first:
        macs = product.elements * product.macs
        by_role[product.role] = by_role.get(product.role, 0) + macs
    assert by_role == {
        "qkv": 3 * rows * dim * inner // 2,
        "scores": 2 * rows**2 * inner,
        "keys": 0,
        "mix": 2 * rows**2 * inner,
        "out": rows * dim * inner // 2,
        "expand": rows * dim * hidden // 2,
        "contract": rows * dim * hidden // 2,
    }
    dense = [p.node for p in first if p.node.kind == "FULLY_CONNECTED"]
    weights = sum(node.input(1).elements for node in dense)
    assert weights == (4 * dim * inner + 2 * dim * hidden) // 4


def test_taking_tokens_apart_moves_nothing() -> None:
    nodes = native.sources(sample("everything folded"), "dsp").network.nodes
    kinds = {node.kind for node in nodes}
    assert not kinds & {"TRANSPOSE", "STRIDED_SLICE", "CONCATENATION", "PAD"}
    offsets = [n for n in nodes if n.kind == "ADD" and n.input(1).is_constant]
    assert len(offsets) == 4  # in front of attention and MLP of both blocks


def test_an_offset_tells_sub_tokens_apart() -> None:
    model = dataclasses.replace(
        recipe.Model(), attention="folded", dim=8, head_dim=8, fold_offset=True
    )
    layer = attention.layer("folded")("float", "attention", model)
    tokens = np.zeros((1, 3, 8), np.float32)
    rows = layer.view(tokens).numpy()
    assert rows.shape == (1, 6, 4)
    np.testing.assert_array_equal(rows[0, 0], rows[0, 2])
    assert np.abs(rows[0, 0] - rows[0, 1]).max() > 1e-3
    np.testing.assert_array_equal(layer.view.whole(rows), tokens + layer.view.offset)


# --- linear attention -----------------------------------------------------------------


def test_linear_attention_is_attention_by_products_of_features() -> None:
    """Token by token, over a map that the layer never makes."""
    model = dataclasses.replace(
        recipe.Model(), attention="performer", dim=8, head_dim=6, norm_position="post"
    )
    layer = attention.layer("performer")("float", "attention", model)
    inputs = np.random.default_rng(0).normal(0, 1, (1, 11, 8)).astype(np.float32)
    found = layer(inputs, {})[0][0]
    head, out = layer.heads[0], layer.output_dense
    query, key = (
        np.maximum(inputs[0] @ dense.kernel, 0) for dense in (head.query, head.key)
    )
    value = inputs[0] @ head.value.kernel.numpy()
    weights = query @ key.T / 11
    shares = weights / (1 + weights.sum(axis=1, keepdims=True))
    expected = shares @ value @ out.kernel + out.bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_token_that_finds_nothing_takes_nothing() -> None:
    model = dataclasses.replace(
        recipe.Model(), attention="performer", dim=8, head_dim=6
    )
    layer = attention.layer("performer")("float", "attention", model)
    tokens, ones = np.ones((1, 5, 8), np.float32), np.ones((8, 6), np.float32)
    layer(tokens, {})
    for dense in (layer.heads[0].query, layer.heads[0].key):
        dense.kernel.assign(ones)
    assert np.abs(layer(tokens, {})[0]).max() > 0
    layer.heads[0].query.kernel.assign(-ones)
    np.testing.assert_array_equal(layer(tokens, {})[0], np.zeros((1, 5, 8)))


def test_linear_attention_costs_what_its_shape_says() -> None:
    """Two products of head_dim columns a token; nothing of tokens x tokens."""
    bundle = sample("performer")
    shape = shape_of(bundle.recipe, len(bundle.labels))
    rows, dim, inner = shape.tokens, shape.dim, shape.inner
    found = attention.find_products(
        dense_graph(bundle), bundle.recipe, len(bundle.labels)
    )
    by_role: dict[str, int] = {}
    for p in found.every:
        if p.layer == 0 and p.role not in MLP_ROLES:
            by_role[p.role] = by_role.get(p.role, 0) + p.elements * p.macs
    assert by_role == {
        "qkv": 3 * rows * dim * inner,
        "state": rows * inner * shape.head_dim,
        "mix": rows * inner * shape.head_dim,
        "weigh": rows * inner,
        "out": rows * inner * dim,
    }
    network = native.sources(bundle, "dsp").network
    assert network.dense.exponentials == 0
    kinds = [node.kind for node in network.nodes]
    for kind in ("FULLY_CONNECTED_TRANSPOSED", "LINEAR_ATTENTION"):
        assert kinds.count(kind) == shape.layers * shape.heads
    assert not {"TRANSPOSE", "RSQRT", "SOFTMAX"} & set(kinds)


def test_windows_of_linear_attention_see_their_tokens_and_no_others() -> None:
    """A token's sums are those of all tokens, in a clip that ends with it."""
    model = dataclasses.replace(
        recipe.Model(), attention="performer", dim=8, head_dim=6, window=5
    )
    causal = dataclasses.replace(model, causal=True)
    tf_keras.utils.set_random_seed(1)  # a token may have no positive feature at all
    layer = attention.layer("performer")("float", "attention", causal)
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (1, 13, 8)).astype(np.float32)
    found = layer(inputs, {})[0][0]
    for end in (5, 9, 13):
        whole = attention.layer("performer")("float", "attention", model)
        window = inputs[:, end - 5 : end]
        whole(window, {})
        whole.set_weights(layer.get_weights())
        np.testing.assert_allclose(
            whole(window, {})[0][0, -1], found[end - 1], atol=1e-5
        )
    inputs[0, 6] += 1.0
    moved = layer(inputs, {})[0][0]
    changed = np.flatnonzero(np.abs(moved - found).max(axis=-1))
    np.testing.assert_array_equal(changed, np.arange(6, 11))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("variant", ["performer", "softmax"])
def test_attention_over_windows_trains_on_pairs_of_clips(
    variant: str, heads: int
) -> None:
    """A window reaches over the seam, and every weight has a gradient."""
    model = STREAMED[variant] | {"heads": heads}
    spec = test_stream.causal(token_kernel=0, share="none", **model)
    net = test_stream.float_network(spec)
    real = tf.random.stateless_normal((4, test_stream.FRAMES, 40), (1, 2)) - 3
    ends = trained.paired(net, spec)(real[:2], real[2:])
    np.testing.assert_allclose(ends[:2], net(real[:2]), atol=1e-5)
    assert np.abs(ends[2:] - net(real[2:])).max() > 1e-3
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(trained.trained(net, spec)(real, tf.constant(7))[0] ** 2)
    gradients = tape.gradient(loss, net.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_a_step_of_linear_attention_doesn_t_depend_on_its_window() -> None:
    """A token is added and one taken away; K and V of the window are what is kept."""
    bundle = streamed("performer")
    step = native.sources(bundle, "dsp").network
    (first, second) = [n for n in step.nodes if n.kind == "LINEAR_ATTENTION_STEP"]
    assert cost.count(first) == cost.count(second)
    assert cost.count(first).macs == 3 * 6 * 6 + 6
    rings = [t for t in first.variables if t.name.startswith("ring of ")]
    assert [ring.shape for ring in rings] == [(1, 5 + 1, 6)] * 2
    (sums,) = [t for t in first.variables if t.name.startswith("sums of ")]
    assert sums.bytes == 4 * (6 + 6 * 8)


@pytest.mark.parametrize("variant", ["performer", "softmax"])
@pytest.mark.parametrize("window", [1, 256])
def test_other_windows_are_refused(window: int, variant: str) -> None:
    spec = test_stream.causal(attention=variant, window=window)
    with pytest.raises(KwsError, match="window: expected 2 to 255 tokens"):
        networks.check(spec)


# --- softmax attention on a stream ----------------------------------------------------


def windowed(**model: Any) -> recipe.Model:
    """Of a causal network with softmax attention over the last 5 tokens."""
    usual = {"attention": "softmax", "dim": 8, "head_dim": 6, "window": 5}
    return dataclasses.replace(recipe.Model(), causal=True, **usual | model)


def test_windows_of_softmax_attention_are_attention_over_their_tokens() -> None:
    """A full window asks as the last token of a clip of that length does; a token that
    comes before it is full finds rows of 0 in it, which take their share."""
    tf_keras.utils.set_random_seed(1)
    model = windowed(norm_position="post")
    layer = attention.layer("softmax")("float", "attention", model)
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (1, 13, 8)).astype(np.float32)
    found = layer(inputs, {})[0][0]
    whole = attention.layer("softmax")(
        "float", "attention", dataclasses.replace(model, causal=False)
    )
    for end in (5, 9, 13):
        window = inputs[:, end - 5 : end]
        whole(window, {})
        whole.set_weights(layer.get_weights())
        expected = whole(window, {})[0][0, -1]
        np.testing.assert_allclose(expected, found[end - 1], atol=1e-5)
    early = np.concatenate([np.zeros((1, 3, 8), np.float32), inputs[:, :2]], axis=1)
    np.testing.assert_allclose(whole(early, {})[0][0, -1], found[1], atol=1e-5)
    inputs[0, 6] += 1.0
    moved = layer(inputs, {})[0][0]
    changed = np.flatnonzero(np.abs(moved - found).max(axis=-1))
    np.testing.assert_array_equal(changed, np.arange(6, 11))


def test_a_norm_folds_into_windows_with_rows_of_zero_in_them() -> None:
    """Its shift is in K's bias: without, a row of 0 would have another's share."""
    source = attention.layer("softmax")("float", "attention", windowed())
    folded = attention.layer("softmax")("folded", "attention", windowed())
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(0, 2, (2, 9, 8)), tf.float32)
    norm = DyT("float", "norm", folded=True)
    for layer in (source, folded):
        layer(inputs, {})
    norm(inputs)
    norm.beta.assign(rng.normal(0, 2, 8))
    folded.fold(source, norm)
    found, _ = folded(tf.tanh(inputs * norm.alpha), {})
    np.testing.assert_allclose(found, source(norm(inputs), {})[0], atol=1e-5)


def test_a_step_of_softmax_attention_asks_rings() -> None:
    """Nothing moves: a step writes a row of K and of V, and reads the window's."""
    bundle = streamed("softmax, long")
    network = native.sources(bundle, "dsp").network
    steps = [node for node in network.nodes if node.kind == "ATTENTION_STEP"]
    assert len(steps) == 4  # two heads in two blocks
    kinds = [node.kind for node in network.nodes]
    assert kinds.count("SOFTMAX") == 1  # the read-out's
    assert not {"GATHER", "ATTENTION", "TRANSPOSE_TOKENS"} & set(kinds)
    for step in steps:
        assert [ring.shape for ring in step.variables[:2]] == [(1, 11, 12)] * 2
        count = cost.count(step)
        assert (count.macs, count.exponentials) == (2 * 11 * 12, 11)
        assert count.bytes[cost.STATE_READ] == 2 * 11 * 12
    rings = [node for node in network.nodes if node.kind == "HISTORY"]
    mine = [node for node in rings if node.output.shape == (1, 11, 12)]
    assert len(mine) == 8 and all(node.options["ring"] for node in mine)
    assert {cost.count(node).bytes[cost.STATE_WRITE] for node in mine} == {12}
    # As many products as a clip makes for each of its tokens.
    graph = dense_graph(bundle)
    clip = [n for n in graph.nodes if n.kind in ("SOFTMAX", "BATCH_MATMUL")]
    clip = [n for n in clip if n.output.shape[1] == test_stream.TOKENS]
    total = cost.total(clip)
    macs, exponentials = (
        n // test_stream.TOKENS for n in (total.macs, total.exponentials)
    )
    assert macs == sum(cost.count(step).macs for step in steps)
    assert exponentials == sum(cost.count(step).exponentials for step in steps)


RECIPE = """\
base = "kwt-stream-tiny"
[task]
unknown_percent = 50.0
silence_percent = 50.0
[augment]
variants = 2
noise_probability = 0.0
speed = 0.0
[model]
attention = ["softmax", "performer"]
window = 5
heads = 2
head_dim = 6
stem_channels = 4
stem_second_channels = 4
dim = 12
mlp_dim = 16
layers = 2
share = "none"
token_kernel = 0
readout_dim = 8
[train]
batch_size = 4
epochs = 2
learning_rate = 0.01
[quantize]
epochs = 1
delta_thresholds = "F=4,X=9,O=5,M=4"
"""


def test_a_network_with_blocks_over_windows_is_made_end_to_end(tmp_path: Path) -> None:
    """Trained, tuned with its thresholds, converted; the C gives the simulator's logits
    and counts, and without thresholds TFLM's."""
    audio = small_corpus.make(tmp_path / "audio")
    (tmp_path / "my.toml").write_text(RECIPE)
    run = tmp_path / "run"
    options = ["--recipe", str(tmp_path / "my.toml"), "--words", "yes,no", "--json"]
    options += ["--data", str(audio), "--out", str(run)]
    result = CliRunner().invoke(train_command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.strip().splitlines()[-1])["conversion"]["holds"]
    bundle = bundles.load(run)
    assert bundle.thresholds == {"F": 4, "X": 9, "O": 5, "M": 4}
    options = [str(run), "--data", str(audio), "--split", "val", "--json"]
    result = CliRunner().invoke(eval_command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output  # 1 where the simulator says otherwise
    dense = dataclasses.replace(bundle, thresholds={})
    pcm = sounds(bundle)
    np.testing.assert_array_equal(
        engines.get("tflm").logits(dense, pcm), engines.get("host").logits(dense, pcm)
    )


def test_a_read_out_with_as_many_queries_as_tokens_is_no_block() -> None:
    spec = test_stream.causal(
        token_kernel=0, share="none", queries=test_stream.TOKENS, **STREAMED["softmax"]
    )
    graph = reader.read(sample_models.network(spec))
    passes.prepare(graph)
    found = attention.find_products(graph, spec, len(sample_models.LABELS))
    assert found.slots == attention.slots(spec.model)


# --- thresholds on the float network, and in training ---------------------------------


def awake_bundle(path: Path, **model: Any) -> tuple[Any, Bundle, np.ndarray]:
    """A float network, a run with its folded weights, and features for it."""
    spec = networks_for_tests.small("tiny", **model)
    network = networks_for_tests.awake(spec, labels=5)
    folded = networks.fold(network, spec, 5)
    real = networks_for_tests.features(spec, 3)[1]
    bundle = Bundle(path, spec, tuple("abcde"))
    networks.save_weights(folded, bundle)
    return network, bundle, real.numpy()


@pytest.mark.parametrize(
    "model",
    [
        {"attention": "conv"},
        {"attention": ("softmax", "reuse"), "heads": 2, "head_dim": 4},
        {"attention": "folded", "mlp_fold": 2, "fold_offset": True},
        {"attention": "performer"},
    ],
)
def test_the_float_simulator_and_training_hold_the_same(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    network, bundle, real = awake_bundle(tmp_path, **model)
    simulator = Simulator(bundle)
    run = simulator.run(real, Thresholds.dense(simulator.slots))
    np.testing.assert_allclose(run.logits, network(real), atol=2e-5)
    steps = Thresholds(simulator.slots, np.full(len(simulator.slots), 0.3))
    held = simulator.run(real, steps)
    assert np.abs(held.logits - run.logits).max() > 1e-4
    assert (held.counts.sent <= run.network.elements()).all()
    assert (held.counts.sent < run.network.elements()).any(axis=0).all()
    with_q = (simulator.slots.kind == "Q").any()
    assert (held.counts.pairs.sum() > 0) == with_q
    later = simulator.prefix(real, Thresholds.dense(simulator.slots))
    second = Thresholds.parse("1.X=0.2", simulator.slots)
    np.testing.assert_array_equal(
        simulator.run(real, second, prefix=later).logits,
        simulator.run(real, second).logits,
    )
    # In training: thresholds are steps of each tensor's own quantizer.
    steps_each = ",".join(f"{kind}=9" for kind in simulator.slots.kinds)
    tuning = dataclasses.replace(bundle.recipe.quantize, delta_thresholds=steps_each)
    spec = dataclasses.replace(bundle.recipe, quantize=tuning)
    tuned = networks.restore(bundle, "qat")
    calibrate(tuned, spec, networks_for_tests.features(spec, 8)[0])
    plain = tuned(real).numpy()
    with hold.holding(tuned, spec, 5) as held_in_training:
        assert np.abs(tuned(real).numpy() - plain).max() > 1e-4
        for block in held_in_training.holds:
            for kind, quantizer in block.places:
                assert (quantizer.fixed == UNIT_RANGE) == (kind == "P")
        assert 0 < float(held_in_training.expected_share()) < 1
