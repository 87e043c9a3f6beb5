"""The contract of attention variants: every folder of kws/attention, the same tests.

Shape, gradient, fold, conversion, cost, delta encoding, emission, and equal logits of
the host's C, TFLM and the simulator (the contract is in kws/attention/__init__.py).
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
from networks_for_tests import awake, features, small

from kws import attention, recipe
from kws.bundle import Bundle
from kws.deploy import emission
from kws.emit import native
from kws.engines import host
from kws.errors import KwsError
from kws.graph import cost, passes, reader
from kws.graph.products import MLP_KINDS, MLP_ROLES
from kws.layers import DyT, pass_on
from kws.layers.keras import tf
from kws.model import network as networks
from kws.shape import shape_of
from kws.simulate.counts import Network
from kws.simulate.integer import IntegerSimulator
from kws.simulate.simulator import Simulator
from kws.thresholds import Thresholds

NAMES = attention.names()


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-attention-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def giver(taken: str) -> str:
    """A variant that adds what another takes to the carry."""
    return next(name for name in NAMES if taken in attention.graph(name).GIVES)


def two_blocks(name: str) -> tuple[str, ...]:
    """Blocks of a variant; the first of another where it takes something of it."""
    takes = attention.graph(name).TAKES
    return (giver(takes[0]) if takes else name, name)


@functools.cache
def sample(name: str) -> Bundle:
    """A small converted network of one variant, with random weights."""
    spec = sample_models.recipe(frames=40, layers=2, attention=two_blocks(name))
    return sample_models.bundle(folder() / name, spec, sample_models.network(spec))


def clips(name: str) -> np.ndarray:
    """Features of which half move slowly, as speech's do."""
    spec = sample(name).recipe.features
    out = sample_models.features(4, (spec.frames, spec.mel_bins))
    out[::2] = np.clip(np.cumsum(out[::2] // 16, axis=1, dtype=np.int64), -128, 127)
    return out


def layer(name: str, mode: str) -> Any:
    spec = dataclasses.replace(small("tiny").model, attention=name, heads=2)
    return attention.layer(name)(mode, "attention", spec)


def tokens() -> Any:
    width = small("tiny").model.dim
    values = np.random.default_rng(0).normal(size=(2, 9, width))
    return tf.constant(values, tf.float32)


def seen(source: Any) -> Any:
    """The tokens as a layer sees them."""
    return tokens() if source.view is None else source.view(tokens())


def carry(name: str) -> dict[str, Any]:
    """What a block of a variant takes of the blocks before it."""
    takes = attention.graph(name).TAKES
    if not takes:
        return {}
    given = layer(giver(takes[0]), "float")(tokens(), {})[1]
    assert {key.partition(".")[0] for key in given} >= set(takes)
    return given


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_shape_and_every_weight_has_a_gradient(name: str) -> None:
    source, given = layer(name, "float"), carry(name)
    with tf.GradientTape() as tape:
        outputs, handed_on = source(seen(source), given, training=True)
        loss = tf.reduce_sum(outputs * outputs)
    assert outputs.shape == tokens().shape
    assert all(handed_on[key] is given[key] for key in given)
    added = {key.partition(".")[0] for key in handed_on if key not in given}
    assert added == set(attention.graph(name).GIVES)
    gradients = tape.gradient(loss, source.trainable_weights)
    assert source.trainable_weights
    for weight, gradient in zip(source.trainable_weights, gradients, strict=True):
        assert gradient is not None, f"{weight.name} has no gradient"


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_folds_into_it(name: str) -> None:
    source, given = layer(name, "float"), carry(name)
    inputs = seen(source)
    source(inputs, given)
    folded = layer(name, "folded")
    folded(inputs, given)
    norm = DyT("float", "norm", folded=True)
    norm(inputs)
    width = inputs.shape[-1]
    norm.gamma.assign(np.linspace(0.5, 1.5, width))
    norm.beta.assign(np.linspace(-0.2, 0.2, width))
    folded.fold(source, norm)
    found, _ = folded(tf.tanh(inputs * norm.alpha), given)
    expected, _ = source(norm(inputs), given)
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_hands_every_kind_to_the_encoding(name: str) -> None:
    """In the order of KINDS, as often as it has such tensors; and goes on with it."""
    source, given = layer(name, "folded"), carry(name)
    inputs = seen(source)
    plain, _ = source(inputs, given)
    called: list[str] = []

    def zero(kind: str, tensor: Any) -> Any:
        called.append(kind)
        return tf.zeros_like(tensor)

    source.hold = zero
    held, _ = source(inputs, given)
    kinds = list(attention.graph(name).KINDS)
    assert list(dict.fromkeys(called)) == kinds
    assert np.abs(plain - held).max() > 1e-4
    source.hold = pass_on
    np.testing.assert_array_equal(source(inputs, given)[0], plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_network_folds(name: str) -> None:
    spec = small("tiny", attention=two_blocks(name))
    net = awake(spec, labels=5)
    real = features(spec, 4)[1]
    expected = net(real).numpy()
    found = networks.fold(net, spec, 5)(real).numpy()
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_tflm_the_host_s_c_and_the_simulator_agree(name: str) -> None:
    inputs = clips(name)
    expected = sample_models.tflm_logits(sample(name).model_bytes(), inputs)
    assert expected.std() > 3  # not stuck: the comparison means something
    np.testing.assert_array_equal(host.invoke(sample(name), inputs)[0], expected)
    simulator = IntegerSimulator(sample(name))
    run = simulator.run(inputs, Thresholds.dense(simulator.slots))
    np.testing.assert_array_equal(run.logits, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [0, 4])
def test_delta_encoding_is_the_simulator_s(name: str, step: int) -> None:
    """Every kind of every layer encoded: logits, and what was transmitted."""
    simulator, inputs = IntegerSimulator(sample(name)), clips(name)
    steps = Thresholds(simulator.slots, np.full(len(simulator.slots), step))
    expected = simulator.run(inputs, simulator.thresholds(steps))
    bundle = dataclasses.replace(sample(name), thresholds=steps.to_steps())
    logits, sent = host.invoke(bundle, inputs)
    np.testing.assert_array_equal(logits, expected.logits)
    dense = sample_models.tflm_logits(sample(name).model_bytes(), inputs)
    assert (logits == dense).all() == (step == 0)
    table = emission.products(bundle)
    assert {product.slot for product in table} == set(simulator.slots)
    for product, column in zip(table, sent.T, strict=True):
        slot = simulator.slots.index(product.slot)
        # Heads have tensors of their own; here there is one.
        np.testing.assert_array_equal(column, expected.counts.sent[:, slot])
        assert (column < product.elements).any()


@pytest.mark.parametrize("name", NAMES)
def test_fusing_keeps_the_multiply_accumulates(name: str) -> None:
    bundle = sample(name)
    graph = reader.read(bundle.model_bytes())
    before = cost.total(graph.nodes)
    network = Network(bundle.model_bytes(), bundle.recipe, len(bundle.labels))
    assert network.dense.macs == before.macs > 0
    assert network.dense.exponentials == before.exponentials
    emitted = native.sources(bundle, "dsp").network
    assert emitted.dense.macs == before.macs  # no class token: all rows are run


@pytest.mark.parametrize("name", NAMES)
def test_declared_prices_are_the_graph_s(name: str) -> None:
    """macs_per_element, which training uses, against the converted network."""
    bundle = sample(name)
    network = Network(bundle.model_bytes(), bundle.recipe, len(bundle.labels))
    prices = attention.macs_per_element(
        bundle.recipe.model, shape_of(bundle.recipe, len(bundle.labels))
    )
    priced = {False: 0.0, True: 0.0}
    for (layer_, kind), elements in zip(network.slots, network.elements(), strict=True):
        priced[kind in MLP_KINDS] += prices[layer_][kind] * elements
    held = dict.fromkeys(priced, 0)  # MACs of what thresholds are for
    for product in network.products.every:
        if product.kind:
            held[product.role in MLP_ROLES] += product.elements * product.macs
    assert priced == held


@pytest.mark.parametrize("name", NAMES)
def test_its_graph_half_needs_no_tensorflow(name: str) -> None:
    import subprocess
    import sys

    script = (
        f"import sys; from kws import attention; attention.graph({name!r}); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- one for each block, and what blocks hand on --------------------------------------


def test_a_list_of_one_variant_is_that_variant(tmp_path: Path) -> None:
    spec = sample_models.recipe(frames=40, layers=2)
    listed = recipe.from_dict({"model": {"attention": ["softmax", "softmax"]}}, spec)
    assert listed.model.variants == spec.model.variants
    path = tmp_path / f"{listed.name}.toml"
    path.write_text(recipe.to_toml(listed))
    assert recipe.load(path) == listed
    assert sample_models.network(listed) == sample_models.network(spec)


@pytest.mark.parametrize("given", [["softmax"], ["softmax", "softmx"], "softmx"])
def test_bad_lists_are_refused(given: Any) -> None:
    spec = sample_models.recipe(frames=40, layers=2)
    bad = recipe.from_dict({"model": {"attention": given}}, spec)
    with pytest.raises(KwsError, match="Received"):
        networks.check(bad)
    with pytest.raises(KwsError, match="must be"):
        recipe.from_dict({"model": {"attention": 3}}, spec)


def test_blocks_hand_on_what_they_carry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A variant whose block adds what the block before it has carried."""
    softmax = attention.layer("softmax")

    class Carrying(softmax):  # type: ignore[misc, valid-type]
        def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
            outputs, _ = super().call(inputs, carry, training=training)
            mine = outputs + carry["before"] if carry else outputs
            return mine, {"before": outputs}

    spec = small("tiny")
    plain = awake(spec, labels=5)
    counted_on = sample_bytes(spec, 5)  # what is added has no quantizer
    monkeypatch.setattr(attention, "layer", lambda name: Carrying)
    monkeypatch.setattr(
        attention, "carried", lambda variants: [frozenset({"before"})] * len(variants)
    )
    carrying = networks.build(spec, 5)
    carrying.set_weights(plain.get_weights())
    real = features(spec, 3)[1]
    assert np.abs(carrying(real) - plain(real)).max() > 1e-4

    # The float simulator takes it along, also from the middle of the network.
    folded = networks.fold(carrying, spec, 5)
    bundle = Bundle(tmp_path / "run", spec, tuple("abcde"))
    networks.save_weights(folded, bundle)
    (tmp_path / "run" / "model.tflite").write_bytes(counted_on)
    simulator = Simulator(bundle)
    inputs = real.numpy()
    dense = Thresholds.dense(simulator.slots)
    run = simulator.run(inputs, dense)
    np.testing.assert_allclose(run.logits, carrying(real), atol=2e-5)
    later = Thresholds.parse("1.X=0.2", simulator.slots)
    prefix = simulator.prefix(inputs, dense)
    np.testing.assert_array_equal(
        simulator.run(inputs, later, prefix=prefix).logits,
        simulator.run(inputs, later).logits,
    )


def sample_bytes(spec: Any, labels: int) -> bytes:
    """A .tflite of a recipe's network for what is counted; weights don't matter."""
    from kws.convert import to_tflite

    source = networks.build(spec, labels)
    exported = networks.build(spec, labels, "export")
    networks.copy_weights(networks.fold(source, spec, labels), exported)
    return to_tflite(exported, spec.features)


def test_products_have_a_layer_a_kind_and_a_role() -> None:
    bundle = sample("softmax")
    graph = reader.read(bundle.model_bytes())
    passes.prepare(graph)
    found = attention.find_products(graph, bundle.recipe, len(bundle.labels))
    shape = shape_of(bundle.recipe, len(bundle.labels))
    first = [p for p in found.every if p.layer == 0]
    roles = [p.role for p in first]
    assert roles == ["qkv"] * 3 + ["scores", "keys", "mix", "out", *MLP_ROLES]
    by_kind = {p.kind: p for p in first}
    assert by_kind["P"].inputs == shape.tokens * shape.heads
    assert by_kind["P"].macs == shape.head_dim
    assert by_kind["Q"].macs == shape.tokens
    assert by_kind["K"].macs == 0
    assert by_kind["H"].elements == shape.tokens * shape.mlp_dim
