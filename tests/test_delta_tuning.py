"""Delta-aware tuning: the training graph holds what the int8 network holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tf_keras")

import networks_for_tests as networks
import sample_models as samples
import small_corpus
import test_stream
from click.testing import CliRunner

from kws import attention, pool, train
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.cli.train import command as train_command
from kws.cli.tune import command as tune_command
from kws.convert import to_tflite
from kws.errors import KwsError
from kws.layers.keras import tf, tf_keras
from kws.model import hold
from kws.model import network as model
from kws.model import stream as streams
from kws.model.check import thresholds_of
from kws.quantize import calibrate
from kws.recipe import Recipe
from kws.simulate import delta
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Thresholds

VARIANTS = ["tiny", "published", "two heads, hard swish", "batch norm, patches"]
LABELS = ("_silence_", "_unknown_", "yes", "no")
KINDS = ("X", "Q", "K", "P", "O", "M", "H")


def with_thresholds(spec: Recipe, text: str, penalty: float = 0.0) -> Recipe:
    quantize = dataclasses.replace(
        spec.quantize, delta_thresholds=text, delta_penalty=penalty
    )
    return dataclasses.replace(spec, quantize=quantize)


def qat_network(spec: Recipe) -> Any:
    """A calibrated network in mode `qat` whose weights are random."""
    source = networks.awake(spec, len(LABELS))
    folded = model.fold(source, spec, len(LABELS))
    calibrate(folded, spec, networks.features(spec, 64)[0])
    tuned = model.build(spec, len(LABELS), "qat")
    model.copy_weights(folded, tuned)
    return tuned


def converted(spec: Recipe, tuned: Any, folder: Path) -> Bundle:
    exported = model.build(spec, len(LABELS), "export")
    model.copy_weights(tuned, exported)
    return samples.bundle(folder, spec, to_tflite(exported, spec.features))


def real(spec: Recipe, int8: np.ndarray) -> Any:
    spec_ = spec.features
    return (tf.cast(int8, tf.float32) - spec_.zero_point) * spec_.scale


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """(recipe, network in mode qat, int8 simulator of the same network)."""
    spec = networks.small(request.param)
    tuned = qat_network(spec)
    bundle = converted(spec, tuned, tmp_path_factory.mktemp("delta") / "run")
    return spec, tuned, IntegerSimulator(bundle)


@pytest.fixture
def seen(monkeypatch) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """What the simulator encodes from here on: values, threshold, what is held."""
    found: list[tuple[np.ndarray, int, np.ndarray]] = []
    honest = delta.hold

    def noting(values: Any, limit: Any, dense_rows: int) -> Any:
        held, columns = honest(values, limit, dense_rows)
        found.append((values, limit, held))
        return held, columns

    monkeypatch.setattr(delta, "hold", noting)
    return found


def test_the_graph_holds_what_the_int8_network_holds(pair, seen):
    """The simulator's own tensors, through the graph's encoding: equal to the bit."""
    spec, tuned, simulator = pair
    steps = Thresholds(simulator.slots, np.arange(2 * len(KINDS)) % 4 * 3)
    inputs = networks.features(spec, 12)[0]
    simulator.run(inputs, simulator.thresholds(steps))
    # The encoded tensors of the .tflite, in the order that they are computed in.
    found = {}
    for node in simulator.graph.nodes:
        for tensor in node.variables:
            product = simulator.products.at(node, tensor)
            if product is not None:
                found.setdefault(id(tensor), (*product.slot, tensor))
    tensors = list(found.values())
    shape = simulator.shape
    prices = attention.macs_per_element(spec.model, shape)
    whole = hold.NetworkHold(tuned, steps, shape, prices)
    places = [
        (layer, *place)
        for layer, block in enumerate(whole.holds)
        for place in block.places
    ]
    assert len(seen) == len(places) == len(tensors)
    moved, taken = 0, set()
    for number, (layer, kind, tensor) in enumerate(tensors):
        # Its twin in the graph: the next of this layer and kind.
        twin = next(
            at
            for at, place in enumerate(places)
            if place[:2] == (layer, kind) and at not in taken
        )
        taken.add(twin)
        quantizer = places[twin][2]
        # A step of the graph is a step of the .tflite.
        scale, zero_point = quantizer.grid()
        assert scale == pytest.approx(tensor.scale, rel=1e-5)
        assert float(quantizer.step()) == pytest.approx(scale, rel=1e-5)
        assert zero_point == tensor.zero_point
        values, limit, held = seen[number]
        assert limit == steps[layer, kind]
        single = hold.BlockHold([(kind, quantizer)], {kind: limit}, shape)
        floats = tf.constant((values.astype(np.float32) - zero_point) * scale)
        mine = np.rint(single(kind, floats).numpy() / scale) + zero_point
        np.testing.assert_array_equal(mine, held)
        moved += int((held != values).sum())
    assert moved > 100


def test_so_does_the_graph_of_a_network_for_streams(tmp_path, seen):
    """Its read-out's row is sent whole in a clip, so nothing holds it in training."""
    spec = test_stream.causal()
    tuned = qat_network(spec)
    simulator = IntegerSimulator(converted(spec, tuned, tmp_path / "run"))
    steps = Thresholds.parse("F=9,C=6,E=6,M=3,H=0,R=4", simulator.slots)
    inputs = networks.features(spec, 12)[0]
    simulator.run(inputs, simulator.thresholds(steps))
    places = hold._stream_places(tuned, spec.model)
    moved = 0
    for (values, _, held), product in zip(seen, simulator.products.every, strict=True):
        if product.kind == "R":
            np.testing.assert_array_equal(held, values)
            continue
        quantizer, rows = places[product.slot]
        scale, zero_point = quantizer.grid()
        assert scale == pytest.approx(product.tensor.scale, rel=1e-5)
        by_step = hold._held_by_step(quantizer, rows, int(steps[product.slot]))
        floats = (values.astype(np.float32) - zero_point) * scale
        batch, tokens, width = values.shape
        shape = (batch, tokens * rows, width // rows)
        mine = np.rint(by_step(tf.reshape(floats, shape)) / scale) + zero_point
        np.testing.assert_array_equal(mine.reshape(values.shape), held)
        moved += int((held != values).sum())
    assert moved > 100
    assert set(places) == {slot for slot in simulator.slots if slot[1] != "R"}


def test_so_do_the_blocks_that_mix_their_tokens_there(tmp_path, seen):
    """X and O, where the block hands them to the encoding."""
    spec = test_stream.causal(
        attention=("softmax", "conv", "performer"),
        layers=3,
        share="none",
        token_kernel=0,
        heads=2,
        head_dim=8,
        window=5,
    )
    tuned = qat_network(spec)
    simulator = IntegerSimulator(converted(spec, tuned, tmp_path / "run"))
    steps = Thresholds.parse("X=9,O=6,M=3", simulator.slots)
    simulator.run(networks.features(spec, 12)[0], simulator.thresholds(steps))
    blocks = [tuned.get_layer(f"block{layer}").attention for layer in range(3)]
    places = hold._places(tuned, blocks)
    tensors: dict[int, Any] = {id(p.tensor): p for p in simulator.products.every}
    compared = []
    for (values, _, held), product in zip(seen, tensors.values(), strict=True):
        layer, kind = product.slot
        if kind not in "XO":
            continue
        quantizer = dict(places[layer])[kind]
        scale, zero_point = quantizer.grid()
        assert scale == pytest.approx(product.tensor.scale, rel=1e-5)
        function = hold._held_by_kind(places[layer], layer, steps)
        floats = (values.astype(np.float32) - zero_point) * scale
        mine = np.rint(function(kind, floats) / scale) + zero_point
        np.testing.assert_array_equal(mine.reshape(values.shape), held)
        assert (held != values).any()
        np.testing.assert_array_equal(function("M", floats), floats)
        compared.append(product.slot)
    assert compared == [(layer, kind) for layer in range(3) for kind in "XO"]


@pytest.mark.parametrize("variant", ["none", "softmax"])
def test_a_stream_is_held_from_one_clip_to_the_next(variant):
    """Pairs of clips, as they are trained on: the second goes on from the first."""
    mixing = "" if variant == "none" else ",X=9,O=5"
    spec = with_thresholds(
        test_stream.causal(attention=variant), f"F=9,C=4,E=12,M=9,H=4,R=2{mixing}"
    )
    tuned = qat_network(spec)
    clips = real(spec, networks.features(spec, 4)[0])
    run = streams.paired(tuned, spec)
    plain = run(clips[:2], clips[2:])
    with hold.holding(tuned, spec, len(LABELS)):
        logits = run(clips[:2], clips[2:])
        alone = run(clips[2:], clips[2:])
    assert np.abs(logits - plain).max() > 0
    assert np.abs(logits[2:] - alone[2:]).max() > 0
    np.testing.assert_array_equal(run(clips[:2], clips[2:]), plain)  # let go again


def test_the_whole_network_runs_as_the_int8_network(pair):
    """In float a tensor is a step off here and there, and so is what it holds."""
    spec, tuned, simulator = pair
    spec = with_thresholds(spec, "X=6,Q=5,K=5,P=1,O=4,M=6,H=2")
    inputs = networks.features(spec, 24)[0]
    steps = thresholds_of(spec.quantize.delta_thresholds, spec.model)
    out = simulator.run(inputs, simulator.thresholds(steps))
    quantization = simulator.graph.output
    expected = quantization.scale * (
        out.logits.astype(np.float32) - quantization.zero_point
    )
    dense = tuned(real(spec, inputs)).numpy()
    with hold.holding(tuned, spec, len(LABELS)) as whole:
        logits = tuned(real(spec, inputs)).numpy()
        share = float(whole.expected_share())
    plain = simulator.run(inputs, Thresholds.dense(simulator.slots)).logits
    usual = np.abs(dense / quantization.scale + quantization.zero_point - plain).mean()
    off = np.abs(logits - expected).mean() / quantization.scale
    moved = np.abs(logits - dense).mean() / quantization.scale
    print(f"off {off:.2f} steps, dense {usual:.2f}; moved by {moved:.2f}; {share:.3f}")
    assert off < 3 * usual + 0.5
    # The smooth stand-in is near what the simulator counts for the same tensors.
    shape = simulator.shape
    first, inner = shape.dense_rows, shape.heads * shape.head_dim
    half = shape.tokens / 2  # Q and K share the MACs of Q.K^T
    spent = whole_price = 0.0
    for kind, width, price in (
        ("X", shape.dim, 3 * inner),
        ("Q", inner, half),
        ("K", inner, half),
        ("P", shape.heads * shape.tokens, shape.head_dim),
        ("O", inner, shape.dim),
        ("M", shape.dim, shape.mlp_dim),
        ("H", shape.mlp_dim, shape.dim),
    ):
        sent = out.counts.sent[:, simulator.slots.of([kind])].mean(axis=0).sum()
        spent += price * (sent - 2 * first * width)
        whole_price += price * 2 * (shape.tokens - first) * width
    assert share == pytest.approx(spent / whole_price, abs=0.15)
    # Outside of the block the network is dense again, to the bit.
    np.testing.assert_array_equal(tuned(real(spec, inputs)).numpy(), dense)


def test_threshold_zero_and_none_change_nothing(pair):
    spec, tuned, _ = pair
    inputs = real(spec, networks.features(spec, 8)[0])
    dense = tuned(inputs).numpy()
    for text in ("", "X=0,Q=0,K=0,P=0,O=0,M=0,H=0"):
        with hold.holding(tuned, with_thresholds(spec, text), len(LABELS)):
            np.testing.assert_array_equal(tuned(inputs).numpy(), dense)


def test_gradients_pass_straight_through():
    values = tf.constant(np.random.default_rng(0).normal(size=(3, 9, 4)), tf.float32)
    upstream = tf.constant(np.random.default_rng(1).normal(size=(3, 9, 4)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        held = hold.held_rows(values, 0.7, dense_rows=2)
        loss = tf.reduce_sum(held * upstream)
    expected = delta.encode(values.numpy(), np.float32(0.7), 2).held
    np.testing.assert_array_equal(held.numpy(), expected)
    assert (expected != values.numpy()).any()
    np.testing.assert_array_equal(tape.gradient(loss, values).numpy(), upstream)


def test_every_weight_learns_and_the_penalty_sends_less():
    """Some steps on the penalty alone transmit less; each weight has a gradient."""
    spec = with_thresholds(networks.small("tiny"), "X=8,Q=8,K=8,P=1,O=8", 1.0)
    tuned = qat_network(spec)
    inputs = real(spec, networks.features(spec, 16)[0])
    optimizer = tf_keras.optimizers.Adam(1e-3)
    with hold.holding(tuned, spec, len(LABELS)) as whole:

        @tf.function
        def step(train: bool) -> tuple[Any, list[Any]]:
            with tf.GradientTape() as tape:
                logits = tuned(inputs, training=False)
                share = whole.expected_share()
                loss = share if train else tf.reduce_sum(logits**2)
            return share, tape.gradient(loss, tuned.trainable_weights)

        _, gradients = step(False)
        for weight, gradient in zip(tuned.trainable_weights, gradients, strict=True):
            assert gradient is not None, weight.name
            assert np.abs(gradient.numpy()).max() > 0, weight.name
        before, _ = step(True)
        for _ in range(10):
            share, gradients = step(True)
            pairs = zip(gradients, tuned.trainable_weights, strict=True)
            optimizer.apply_gradients([(g, w) for g, w in pairs if g is not None])
    assert float(share) < float(before) - 0.02


@pytest.mark.parametrize(
    ("text", "penalty", "expected"),
    [
        ("X=1.5", 0.0, "whole int8 steps"),
        ("Z=1", 0.0, "Bad threshold"),
        ("7.X=1", 0.0, "Bad threshold"),
        ("", 1.0, "needs thresholds"),
        ("X=1", -1.0, "delta_penalty"),
    ],
)
def test_bad_settings_are_refused_before_training(tmp_path, text, penalty, expected):
    spec = with_thresholds(networks.small("tiny"), text, penalty)
    with pytest.raises(KwsError, match=expected):
        train.train(spec, tmp_path / "run", train.RunOptions(data=tmp_path))
    assert not (tmp_path / "run").exists()


RECIPE = (
    small_corpus.NETWORK
    + """\
[augment]
variants = 2
noise_probability = 0.0
speed = 0.0
[train]
batch_size = 4
epochs = 2
learning_rate = 0.01
[quantize]
epochs = 1
"""
)


def invoke(command: Any, options: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_the_command_tunes_and_keeps_the_thresholds(tmp_path):
    audio = small_corpus.make(tmp_path / "audio")
    (tmp_path / "my.toml").write_text(RECIPE)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    options = ["--recipe", str(tmp_path / "my.toml"), "--words", "yes,no"]
    options += ["--data", str(audio), "--json"]
    invoke(train_command, [*options, "--out", str(run)])
    options = [str(run), "--data", str(audio), "--json", "--out", str(tuned)]
    with pytest.raises(KwsError, match="No thresholds"):
        invoke(tune_command, [*options, "--delta"])
    chosen = {"X": 6, "Q": 4, "K": 4, "P": 2, "O": 5}
    bundles.save(dataclasses.replace(bundles.load(run), thresholds=chosen))
    with pytest.raises(KwsError, match="not both"):
        invoke(tune_command, [*options, "--delta", "--theta", "X=1"])
    extra = ["--delta", "--teacher", "self", "--delta-penalty", "0.5"]
    with pytest.raises(KwsError, match="teaches alone.*beside it kwt-tiny"):
        invoke(tune_command, [*options, *extra, "--teacher", "kwt-tiny"])
    table = invoke(tune_command, [*options, *extra])
    assert table["conversion"]["holds"]
    loaded = bundles.load(tuned)
    assert loaded.thresholds == chosen
    assert loaded.hash == table["hash"]
    assert loaded.recipe.quantize.delta_penalty == 0.5
    # What it was trained as is what the int8 network gives with these thresholds.
    steps = thresholds_of(loaded.recipe.quantize.delta_thresholds, loaded.recipe.model)
    assert IntegerSimulator(loaded).thresholds(steps).to_dict().keys() == chosen.keys()
    # Other thresholds are another recipe: not mixed into what was begun.
    with pytest.raises(KwsError, match="another recipe"):
        invoke(tune_command, [*options, "--theta", "X=0.5"])


def test_a_killed_tuning_ends_like_one_that_was_not(tmp_path):
    """The encoding and the penalty draw nothing and keep nothing."""
    spec = with_thresholds(networks.small("tiny", layers=1), "X=6,O=5", 0.5)
    settings = dataclasses.replace(spec.train, batch_size=8)
    spec = dataclasses.replace(spec, train=settings)
    int8 = networks.features(spec, 24)[0]
    label = (np.arange(24) % len(LABELS)).astype(np.int32)
    clips = pool.Pool(int8[None], label)
    ends = []
    for name, stops in (("whole", (2,)), ("killed", (1, 2))):
        for stop in stops:
            tuned = qat_network(spec)
            if (name, stop) == ("killed", 2):  # another start: the checkpoint counts
                kernel = tuned.get_layer("head").dense.kernel
                kernel.assign_add(tf.ones_like(kernel))
            with hold.holding(tuned, spec, len(LABELS)) as whole:
                schedule = train.Schedule(train.QAT, 2, 1e-3)
                loop = train.Loop(
                    tuned,
                    spec,
                    schedule,
                    clips,
                    (int8, label),
                    tmp_path / name,
                    train.strategy_of("none"),
                    hold=whole,
                )
                if stop == 1:
                    loop.schedule = dataclasses.replace(schedule, epochs=1)
                result = loop.run()
        ends.append(result)
    for a, b in zip(ends[0].weights, ends[1].weights, strict=True):
        np.testing.assert_array_equal(a, b)
