"""Low-rank and shared weights: one copy everywhere, one function, the same bits."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import networks_for_tests as networks
import sample_models as samples
import small_corpus
from click.testing import CliRunner

from kws import bundle as bundles
from kws import engines
from kws.bundle import Bundle
from kws.cli.tune import command as tune_command
from kws.emit import native
from kws.errors import KwsError
from kws.graph import reader
from kws.layers.keras import tf, tf_keras
from kws.model import lowrank, network
from kws.model.check import check_beginning, check_source
from kws.recipe import Recipe
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Thresholds

LABELS = len(samples.LABELS)
DIM, HEAD, MLP, RANK, LAYERS = 16, 8, 24, 8, 4
SMALL = {
    "dim": DIM,
    "head_dim": HEAD,
    "mlp_dim": MLP,
    "layers": LAYERS,
    "stem_channels": 4,
}
ATTENTION = 4 * DIM * HEAD
FULL = 2 * DIM * MLP
FACTORS = 2 * RANK * (DIM + MLP)
# [model] keys -> weights of the four blocks' kernels, counted by hand.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "blocks": (
        {"share": "blocks", "groups": 2, "mlp_rank": RANK},
        2 * (ATTENTION + FACTORS),
    ),
    "attention": ({"share": "attention", "groups": 2}, 2 * ATTENTION + 4 * FULL),
    "mlp": (
        {"share": "mlp", "groups": 2, "mlp_rank": RANK},
        4 * ATTENTION + 2 * FACTORS,
    ),
    # Q and V of four matrices; of each pair in the MLP the one that meets the input.
    "factor": (
        {"share": "factor", "groups": 2, "mlp_rank": RANK},
        (2 + 4) * ATTENTION // 2 + (2 + 4) * RANK * (DIM + MLP),
    ),
}


def recipe_of(case: str, **more: Any) -> Recipe:
    return samples.recipe(**SMALL | CASES[case][0] | more)


@cache
def model_of(case: str) -> bytes:
    return samples.network(recipe_of(case))


def bundle_of(case: str, folder: Path) -> Bundle:
    return samples.bundle(folder / "run", recipe_of(case), model_of(case))


def distance(a: Any, b: Any) -> float:
    """Largest difference, as a share of the largest value."""
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("case", CASES)
def test_a_shared_kernel_is_there_once(case: str, tmp_path: Path) -> None:
    """In Keras, in the .tflite, and in flash, in either layout."""
    expected = CASES[case][1]
    net = network.build(recipe_of(case), LABELS)
    blocks = [layer for layer in net.layers if layer.name.startswith("block")]
    kernels = [w for b in blocks for w in b.trainable_weights if len(w.shape) == 2]
    assert sum(int(np.prod(w.shape)) for w in kernels) == expected

    graph = reader.read(model_of(case), "model.tflite")
    outside = {  # stem and logits
        graph.nodes[i].input(1).data.tobytes()
        for i in [k for k, n in enumerate(graph.nodes) if n.kind == "FULLY_CONNECTED"]
        if graph.nodes[i].input(1).shape[0] == LABELS
        or graph.nodes[i].input(1).shape[1] not in (DIM, HEAD, MLP, RANK)
    }
    assert len(outside) == 2
    stored = buffers(model_of(case))
    inside = [data for data in stored if data not in outside]
    assert sum(map(len, inside)) == expected

    for core in ("portable", "dsp"):
        text = native.sources(bundle_of(case, tmp_path), core).texts["kws_model.c"]
        sizes = re.findall(r"int8_t weights_\d+\[(\d+)\]", text)
        extra = sum(map(len, outside)) + 25 * 4  # the stem's convolution
        padding = 2 * 14 if core == "dsp" else 0  # 25 inputs of 4 filters: 28
        assert sum(map(int, sizes)) - extra in range(expected, expected + padding + 1)


def buffers(model: bytes) -> list[bytes]:
    """The contents of the buffers that FULLY_CONNECTED weights lie in, each once."""
    import tflite

    table = tflite.Model.GetRootAs(model, 0)
    graph = table.Subgraphs(0)
    numbers = set()
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = table.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == tflite.BuiltinOperator.FULLY_CONNECTED:
            numbers.add(graph.Tensors(operator.Inputs(1)).Buffer())
    return [table.Buffers(n).DataAsNumpy().tobytes() for n in sorted(numbers)]


@pytest.mark.parametrize(
    "changes",
    [
        {"share": "blocks", "groups": 2, "mlp_rank": 6},
        {"share": "factor", "groups": 1, "mlp_rank": 6, "heads": 2, "head_dim": 4},
        {"share": "attention", "groups": 1, "norm": "layer", "norm_position": "post"},
        {"share": "mlp", "groups": 2, "norm": "batch", "norm_position": "post"},
    ],
    ids=lambda changes: changes["share"],
)
def test_folding_and_storing_change_nothing(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    spec = networks.small("tiny", layers=3, **changes)
    net = networks.awake(spec, 5)
    real = networks.features(spec, 6)[1]
    folded = network.fold(net, spec, 5)
    assert distance(folded(real), net(real)) < 2e-5
    bundle = Bundle(tmp_path, spec, ("a", "b", "c", "d", "e"))
    network.save_weights(folded, bundle)
    np.testing.assert_array_equal(network.restore(bundle)(real), folded(real))


def test_every_use_of_a_shared_kernel_trains_it() -> None:
    spec = networks.small("tiny", layers=2, share="blocks", groups=1)
    net = networks.awake(spec, 5)
    real = networks.features(spec, 4)[1]
    blocks = [net.get_layer(f"block{i}") for i in range(2)]
    kernel = blocks[0].expand.kernel
    assert blocks[1].expand.kernel is kernel
    assert blocks[0].norm2.gamma is blocks[1].norm2.gamma
    assert blocks[0].norm2.alpha is not blocks[1].norm2.alpha
    assert blocks[0].expand.bias is not blocks[1].expand.bias

    def gradient(stopped: int | None) -> np.ndarray:
        layer = None if stopped is None else blocks[stopped].expand
        if layer is not None:
            object.__setattr__(layer, "kernel", tf.constant(kernel))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(real) ** 2)
        if layer is not None:
            object.__setattr__(layer, "kernel", kernel)
        return tape.gradient(loss, kernel).numpy()

    parts = [gradient(0), gradient(1)]
    assert all(np.abs(part).max() > 0 for part in parts)
    assert distance(gradient(None), parts[0] + parts[1]) < 1e-4


@pytest.mark.parametrize("case", ["blocks", "factor"])
def test_the_board_equals_tflm_and_the_simulator(case: str, tmp_path: Path) -> None:
    """Dense against TFLM; with thresholds against the simulator."""
    bundle = bundle_of(case, tmp_path)
    rng = np.random.default_rng(0)
    loud = rng.uniform(100, 8000, (6, 1))
    pcm = np.clip(rng.normal(0, 1, (6, 16000)) * loud, -32768, 32767).astype(np.int16)
    dense = engines.get("tflm").logits(bundle, pcm)
    np.testing.assert_array_equal(engines.get("host").logits(bundle, pcm), dense)

    from kws import features

    simulator = IntegerSimulator(bundle)
    steps = Thresholds(simulator.slots, np.full(len(simulator.slots), 6))
    pruned = dataclasses.replace(bundle, thresholds=steps.to_steps())
    assert set(pruned.thresholds) == set("XQKPOMH")
    bundles.save(pruned)
    run = simulator.run(
        features.extract(pcm, bundle.recipe.features), simulator.thresholds(steps)
    )
    assert not np.array_equal(run.logits, dense)
    np.testing.assert_array_equal(engines.get("host").logits(pruned, pcm), run.logits)
    # Columns for the delta kernels are stored once too.
    graph = reader.read(bundle.model_bytes(), "model.tflite")
    text = native.network_source(graph, "portable", pruned).text
    sizes = [int(size) for size in re.findall(r"int8_t columns_\d+\[(\d+)\]", text)]
    plain = [int(size) for size in re.findall(r"int8_t weights_\d+\[(\d+)\]", text)]
    outside = 100 + DIM * LABELS + 10 * 4 * DIM
    assert sum(sizes) + sum(plain) == CASES[case][1] + outside


# --- factorising ----------------------------------------------------------------------


def trained(**changes: Any) -> tuple[Recipe, Any]:
    """A folded network with random weights, and its recipe."""
    spec = networks.small("tiny", layers=2, **changes)
    return spec, network.fold(networks.awake(spec, 5), spec, 5)


def factorised(spec: Recipe, source: Any, **changes: Any) -> Any:
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, **changes))
    check_source(spec.model, spec.model)
    target = network.build(spec, 5, "folded")
    lowrank.factorise(source, target, spec.model)
    return target


def test_attention_over_windows_is_not_factorised() -> None:
    """Rows of 0 before a stream have no bias that could be moved to the output."""
    model = dataclasses.replace(Recipe().model, causal=True, head_dim=16)
    check_source(model, model)
    with pytest.raises(KwsError, match="over windows of a stream can't") as error:
        check_source(model, dataclasses.replace(model, head_dim=8))
    assert "head_dim" in error.value.hint


def test_full_rank_is_the_same_function() -> None:
    """Also where a head is wider than the rank of its products."""
    spec, source = trained(heads=2, head_dim=16)
    real = networks.features(spec, 6)[1]
    expected = source(real)
    same = factorised(spec, source, head_dim=12, mlp_rank=12, share="factor", groups=2)
    assert distance(same(real), expected) < 1e-3


def test_a_shared_first_factor_is_one() -> None:
    spec, source = trained()
    real = networks.features(spec, 6)[1]
    tied = factorised(spec, source, share="factor", groups=1, mlp_rank=12)
    blocks = [tied.get_layer(f"block{i}") for i in range(2)]
    assert blocks[0].expand.first.kernel is blocks[1].expand.first.kernel
    assert blocks[0].expand.last.kernel is not blocks[1].expand.last.kernel
    # Side by side, matrices of 12 rows have rank 12; those of 16 rows lose something.
    assert distance(tied(real), source(real)) < 0.2


def test_blocks_that_are_alike_share_without_loss() -> None:
    """Also where hidden units are in another order, and heads in another basis."""
    spec, source = trained()
    real = networks.features(spec, 6)[1]
    first, second = (source.get_layer(f"block{i}") for i in range(2))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    order = np.random.default_rng(2).permutation(16)
    ours, theirs = first.attention.heads[0], second.attention.heads[0]
    theirs.query.kernel.assign(ours.query.kernel.numpy() @ turn)
    theirs.query.bias.assign(ours.query.bias.numpy() @ turn)
    theirs.key.kernel.assign(ours.key.kernel.numpy() @ turn)
    theirs.value.kernel.assign(ours.value.kernel.numpy() @ turn)
    out = first.attention.output_dense.kernel.numpy()
    second.attention.output_dense.kernel.assign(turn.T @ out)
    second.expand.kernel.assign(first.expand.kernel.numpy()[:, order])
    second.expand.bias.assign(first.expand.bias.numpy()[order])
    second.contract.kernel.assign(first.contract.kernel.numpy()[order])
    expected = source(real)
    tied = factorised(spec, source, share="blocks", groups=1)
    assert distance(tied(real), expected) < 1e-4


def test_less_rank_loses_more() -> None:
    spec, source = trained()
    real = networks.features(spec, 6)[1]
    expected = source(real)
    for key in ("head_dim", "mlp_rank"):
        losses = [
            distance(factorised(spec, source, **{key: rank})(real), expected)
            for rank in (2, 6, 11)
        ]
        assert losses == sorted(losses, reverse=True), key
        assert losses[0] > 2 * losses[2] > 0, key


@pytest.mark.parametrize("share", ["none", "blocks"])
def test_a_narrower_mlp_keeps_the_units_that_matter(share: str, tmp_path: Path) -> None:
    """Units that do nothing go without a trace; shared blocks keep the same ones."""
    shared = {"share": share, "groups": 1} if share != "none" else {}
    spec, source = trained(**shared)
    dead = [[1, 5, 6, 15], [0, 2, 8, 9]]
    for block, units in zip(("block0", "block1"), dead, strict=True):
        contract = source.get_layer(block).contract
        rows = contract.kernel.numpy()
        rows[dead[0] if shared else units] = 0.0
        contract.kernel.assign(rows)
    labels = tuple("abcde")
    bundle = Bundle(tmp_path, spec, labels)
    network.save_weights(source, bundle)
    narrow = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, mlp_dim=12)
    )
    check_beginning(spec, narrow)
    begun = network.begin_from(bundle, narrow, labels)
    assert begun.get_layer("block1").expand.kernel.shape == (12, 12)
    real = networks.features(spec, 6)[1]
    assert distance(begun(real), source(real)) < 1e-5
    for changes in ({"mlp_dim": 20}, {"mlp_dim": 12, "mlp_rank": 4}):
        model = dataclasses.replace(spec.model, **changes)
        with pytest.raises(KwsError, match="same shape"):
            check_beginning(spec, dataclasses.replace(spec, model=model))


def test_factors_are_the_best_of_their_rank() -> None:
    """Against the error that Eckart and Young give; both sides equally large."""
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(10, 14)) for _ in range(3)]
    first, seconds = lowrank.factors(matrices, 4, whole=False)
    sizes = np.linalg.svd(np.hstack(matrices), compute_uv=False)
    error = sum(
        np.sum((first @ s - m) ** 2) for s, m in zip(seconds, matrices, strict=True)
    )
    assert np.isclose(error, np.sum(sizes[4:] ** 2))
    mean = np.sqrt(np.mean([np.sum(s**2, axis=1) for s in seconds], axis=0))
    assert np.allclose(np.linalg.norm(first, axis=0), mean)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mlp_rank": 13}, "0 (full) to 12"),
        ({"share": "block"}, "one of none, blocks, attention, mlp, factor"),
        ({"share": "blocks", "groups": 3}, "1 to 2, the number of layers"),
        ({"share": "blocks", "norm": "batch"}, "statistics are folded"),
    ],
    ids=lambda x: str(x),
)
def test_a_bad_recipe_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(KwsError) as error:
        network.build(networks.small("tiny", **changes), 5)
    assert expected in error.value.message
    assert "Received" in error.value.message


def test_the_command_factorises_and_tunes(tmp_path: Path) -> None:
    audio = small_corpus.make(tmp_path / "audio")
    spec = networks.small("tiny", layers=2)
    tf_keras.utils.set_random_seed(0)
    source = network.build(spec, 4)
    task = dataclasses.replace(spec.task, name="custom", words=("yes", "no"))
    features = dataclasses.replace(spec.augment, variants=1)
    run = Bundle(
        tmp_path / "run",
        dataclasses.replace(spec, task=task, augment=features),
        ("_silence_", "_unknown_", "yes", "no"),
    )
    network.save_weights(network.fold(source, spec, 4), run)
    bundles.save(run)
    out = tmp_path / "out"
    options = [str(run.path), "--data", str(audio), "--out", str(out), "--json"]
    refused = CliRunner().invoke(tune_command, [*options, "--head-dim", "13"])
    assert isinstance(refused.exception, KwsError)
    assert "1 to 12" in refused.exception.message
    refused = CliRunner().invoke(tune_command, [*options, "--groups", "2"])
    assert isinstance(refused.exception, KwsError)
    assert not out.exists()
    extra = "--head-dim 8 --mlp-rank 6 --share blocks --groups 1"
    more = [*extra.split(), "--epochs", "0", "--no-convert"]
    result = CliRunner().invoke(tune_command, [*options, *more])
    assert result.exception is None, result.exception
    json.loads(result.stdout)
    tuned = bundles.load(str(out), accept_changed=True)
    model = tuned.recipe.model
    assert (model.head_dim, model.mlp_rank, model.share) == (8, 6, "blocks")
    net = network.restore(tuned)
    blocks = [net.get_layer(f"block{i}") for i in range(2)]
    assert blocks[0].expand.first.kernel is blocks[1].expand.first.kernel
