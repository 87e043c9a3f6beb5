"""The int8 simulator: at threshold 0 TFLM bit for bit; above it, the rule itself."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

pytest.importorskip("tflite_micro")
pytest.importorskip("tf_keras")

import networks_for_tests as networks
import sample_models as samples
from by_hand import columns

from kws import attention
from kws import bundle as bundles
from kws.errors import KwsError
from kws.graph import passes, reader
from kws.graph import quantized_math as qm
from kws.simulate import delta, operators
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Slots, Thresholds

KINDS = ("X", "Q", "K", "P", "O", "M", "H")

VARIANTS = ["tiny", "published", "two heads, hard swish", "batch norm, patches"]


@pytest.fixture(scope="module", params=VARIANTS)
def simulator(request, tmp_path_factory):
    """The int8 simulator of an untrained small network."""
    spec = networks.small(request.param)
    folder = tmp_path_factory.mktemp("int8") / "run"
    return IntegerSimulator(samples.bundle(folder, spec, samples.network(spec)))


def of_steps(simulator, steps):
    """Real thresholds that stand for int8 steps, [layers][kinds] or one for all."""
    slots = simulator.slots
    values = np.broadcast_to(steps, (slots.layers, len(KINDS))).reshape(-1)
    return simulator.thresholds(Thresholds(slots, values))


def features(simulator, count=20, seed=1):
    spec = simulator.bundle.recipe.features
    return samples.features(count, (spec.frames, spec.mel_bins), seed)


def test_dense_logits_are_tflms(simulator):
    inputs = features(simulator)
    assert simulator.slots == Slots((KINDS,) * 2) == simulator.counted.slots
    run = simulator.run(inputs, Thresholds.dense(simulator.slots))
    expected = samples.tflm_logits(simulator.bundle.model_bytes(), inputs)
    assert run.logits.dtype == np.int8
    np.testing.assert_array_equal(run.logits, expected)
    assert run.cost()["mhsa_mac_cut"] == 0.0


def test_threshold_zero_changes_no_bit_and_skips_repeats(simulator):
    inputs = features(simulator)
    dense = simulator.run(inputs, Thresholds.dense(simulator.slots))
    zero = simulator.run(inputs, of_steps(simulator, 0))
    np.testing.assert_array_equal(zero.logits, dense.logits)
    assert zero.cost()["mhsa_mac_cut"] > 0.01  # int8 tensors do repeat


def test_holding_everything_leaves_the_dense_rows(simulator):
    slots, shape = simulator.slots, simulator.shape
    everything = Thresholds(slots, np.full(len(slots), 1e9))
    held = simulator.run(features(simulator), everything)
    rows = [shape.dense_rows * columns(shape, kind) for _, kind in slots]
    np.testing.assert_array_equal(held.counts.sent, [rows] * 20)
    np.testing.assert_array_equal(held.counts.pairs, shape.dense_rows**2 * shape.inner)


def test_steps_and_real_thresholds_are_one(simulator):
    steps = np.random.default_rng(0).integers(-1, 256, (2, len(KINDS)))
    thresholds, flat = of_steps(simulator, steps), steps.reshape(-1)
    np.testing.assert_array_equal(simulator.steps(thresholds).values, flat)
    # Rounded down: what is above the real threshold is above the steps, and no more.
    nudged = np.where(flat < 0, -1, thresholds.values * (1 + 1e-3))
    nudged = simulator.steps(Thresholds(simulator.slots, nudged))
    np.testing.assert_array_equal(nudged.values, flat)


def test_a_step_is_the_tensors_scale(simulator):
    """In the units of thresholds: Q's is meant before the 1 / sqrt(head_dim) that is
    folded into its projection. Heads have scales of their own: no head's elements may
    move further from what they are than the threshold."""
    slots, shape = simulator.slots, simulator.shape
    for slot in slots:
        scales = [tensor.scale for tensor in simulator.products.tensors(slot)]
        assert len(scales) == (shape.heads if slot[1] in "QKP" else 1)
        factor = shape.head_dim**0.5 if slot[1] == "Q" else 1.0
        found = simulator.scales[slots.index(slot)]
        assert found == pytest.approx(max(scales) * factor, rel=1e-9)


def test_a_prefix_spares_work_and_changes_nothing(simulator):
    inputs = features(simulator)
    base = np.full((2, len(KINDS)), 3)
    prefix = simulator.prefix(inputs, of_steps(simulator, base))
    for layer in (None, 1, 0):
        steps = base.copy()
        if layer is not None:
            steps[layer] += 2
        thresholds = of_steps(simulator, steps)
        plain = simulator.run(inputs, thresholds)
        spared = simulator.run(inputs, thresholds, prefix=prefix)
        np.testing.assert_array_equal(spared.logits, plain.logits)
        np.testing.assert_array_equal(spared.counts.pairs, plain.counts.pairs)
        np.testing.assert_array_equal(spared.counts.sent, plain.counts.sent)


def test_ladders_are_whole_steps_and_quantiles(simulator):
    inputs = features(simulator)
    ladder = simulator.changes(inputs, (0.5, 0.9))
    slots = simulator.slots
    steps = [simulator.steps(Thresholds(slots, rung)) for rung in ladder]
    assert (steps[1].values >= steps[0].values).all()
    # At the median of the changes, about half and more of a tensor is held.
    for kind in KINDS:
        slot = slots.index((0, kind))
        alone = np.full(len(slots), -1.0)
        alone[slot] = steps[0].values[slot]
        alone = Thresholds(slots, alone)
        run = simulator.run(inputs, simulator.thresholds(alone))
        whole = simulator.shape.tokens * columns(simulator.shape, kind)
        assert run.counts.sent[:, slot].mean() / whole < 0.75


def plain_logits(simulator, clip, steps):
    """One clip, node by node, holding as the definition says: the slow way."""
    graph, shape = simulator.graph, simulator.shape
    values = {id(graph.input): clip.reshape(1, *graph.input.shape)}
    sent = np.zeros((shape.layers, len(KINDS)), int)
    seen = set()
    for node in graph.nodes:
        inputs = []
        for tensor in node.variables:
            value = values[id(tensor)]
            product = simulator.products.at(node, tensor)
            if product is not None:
                layer, kind = product.slot
                column = KINDS.index(kind)
                rows = value.reshape(shape.tokens, -1).copy()
                count = rows.size
                for i, k in itertools.product(range(len(rows)), range(rows.shape[1])):
                    if i < shape.dense_rows:
                        continue
                    if (
                        abs(int(rows[i, k]) - int(rows[i - 1, k]))
                        <= steps[layer, column]
                    ):
                        rows[i, k] = rows[i - 1, k]
                        count -= 1
                if (id(tensor), kind) not in seen:
                    seen.add((id(tensor), kind))
                    sent[layer, column] += count
                value = rows.reshape(value.shape)
            inputs.append(value)
        values[id(node.output)] = operators.prepare(node)(*inputs)
    return values[id(graph.output)].reshape(-1), sent


def test_held_tensors_are_what_products_read(simulator):
    """Against the definition, an element at a time."""
    inputs = features(simulator, count=2, seed=3)
    steps = np.array([[9, 7, 5, 2, 6, 4, 3], [4, 8, 3, 1, 12, 9, 2]])
    run = simulator.run(inputs, of_steps(simulator, steps))
    for index, clip in enumerate(inputs):
        logits, sent = plain_logits(simulator, clip, steps)
        np.testing.assert_array_equal(run.logits[index], logits)
        np.testing.assert_array_equal(run.counts.sent[index], sent.reshape(-1))
    assert 0.05 < run.cost()["mhsa_mac_cut"] < 0.99


# ---- operators -------------------------------------------------------------------


def test_the_arithmetic_is_the_graphs():
    """Vectorised, against kws.graph.quantized_math (which is held against TFLM)."""
    rng = np.random.default_rng(2)
    values = rng.integers(-(2**26), 2**26, 2000)
    for _ in range(20):
        multiplier = int(rng.integers(2**30, 2**31))
        shift = int(rng.integers(-20, 4))
        expected = [
            qm.multiply_by_quantized_multiplier(int(v), multiplier, shift)
            for v in values
        ]
        got = operators.requantize(values, multiplier, shift)
        np.testing.assert_array_equal(got, expected)
    halves = (2 * np.arange(-50, 50) + 1) << 3
    np.testing.assert_array_equal(
        operators.divide_by_power(halves, 4),
        [qm.rounding_divide_by_pot(int(v), 4) for v in halves],
    )
    shares = rng.integers(0, 2**31, 500)
    np.testing.assert_array_equal(
        operators.one_over_one_plus(shares),
        [qm.one_over_one_plus_x(int(v)) for v in shares],
    )


@pytest.mark.parametrize("name", ["BATCH_MATMUL", "FULLY_CONNECTED"])
def test_products_multiply_scales_in_float64(name):
    """TFLM's source says float32 for these; the pinned wheel says float64.

    The two differ in one element of a million, so such elements are looked for.
    """
    rng = np.random.default_rng(3)
    found = 0
    while found < 12:
        a, b, y = (float(np.float32(v)) for v in rng.uniform(0.001, 0.1, 3))
        ours = qm.batch_matmul_multiplier(a, b, y)
        other = qm.quantize_multiplier(float(np.float32(a) * np.float32(b)) / y)
        sums = np.arange(-50_000, 50_000)
        sums = sums[np.abs(sums * a * b / y) < 127]
        apart = sums[
            operators.requantize(sums, *ours) != operators.requantize(sums, *other)
        ]
        if len(apart):
            left, right = vectors_with_product(int(apart[0]))
            expected = operators.requantize(apart[:1], *ours)[0]
            assert product_by_tflm(name, (a, b, y), left, right) == expected
            found += 1


def vectors_with_product(total, size=8):
    """Two int8 vectors whose dot product is `total`."""
    left, right = np.zeros(size, np.int8), np.zeros(size, np.int8)
    sign, rest = (1, total) if total >= 0 else (-1, -total)
    for index in range(size):
        large = min(127, rest // 127)
        left[index], right[index] = (127 * sign, large) if large else (rest * sign, 1)
        rest -= 127 * large if large else rest
    assert rest == 0
    return left, right


def product_by_tflm(name, scales, left, right):
    """One dot product by TFLM's operator."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema
    from tflite_micro.python.tflite_micro import runtime

    model, graph, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 4
    operator = schema.OperatorT()
    if name == "BATCH_MATMUL":
        operator.builtinOptions = schema.BatchMatMulOptionsT()
        operator.builtinOptions.adjY = True
        operator.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
    else:
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    shapes = ((1, len(left)), (1, len(left)), (1, 1))
    graph.tensors = []
    for shape, scale in zip(shapes, scales, strict=True):
        tensor = schema.TensorT()
        tensor.shape, tensor.type = np.array(shape, np.int32), schema.TensorType.INT8
        tensor.name, tensor.buffer = b"t", 0
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
        graph.tensors.append(tensor)
    inputs = [0, 1] if name == "BATCH_MATMUL" else [0, 1, -1]
    operator.inputs, operator.outputs = (
        np.array(inputs, np.int32),
        np.array([2], np.int32),
    )
    graph.operators = [operator]
    graph.inputs, graph.outputs = np.array([0, 1], np.int32), np.array([2], np.int32)
    model.version, model.operatorCodes = 3, [code]
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = runtime.Interpreter.from_bytes(bytes(builder.Output()))
    interpreter.set_input(left[None], 0)
    interpreter.set_input(right[None], 1)
    interpreter.invoke()
    return int(interpreter.get_output(0).reshape(()))


# ---- which product reads which tensor --------------------------------------------


def test_products_are_found_by_structure(simulator):
    shape, slots = simulator.shape, simulator.slots
    assert (simulator.scales > 0).all()
    assert (simulator.scales[slots.of(["P"])] == 1 / 256).all()
    every = simulator.products.every
    for layer in range(shape.layers):
        found = [product.kind for product in every if product.layer == layer]
        per_layer = {kind: found.count(kind) for kind in KINDS}
        assert per_layer["Q"] == per_layer["K"] == per_layer["P"] == shape.heads
        assert per_layer["X"] == 3 * shape.heads
        assert per_layer["O"] == per_layer["M"] == per_layer["H"] == 1
        assert len(found) == sum(per_layer.values())
    assert len({(id(p.node), id(p.tensor)) for p in every}) == len(every)
    for product in every:
        assert simulator.products.at(product.node, product.tensor) is product
        assert product in simulator.products.of(product.node)
        assert product.dense_rows == shape.dense_rows
        # Several heads have a tensor of Q, K and P each.
        share = shape.heads if product.kind in "QKP" else 1
        assert product.elements == shape.tokens * columns(shape, product.kind) // share


def test_another_networks_graph_is_refused(simulator):
    def find(**changes):
        graph = reader.read(simulator.bundle.model_bytes())
        passes.prepare(graph)
        spec = simulator.bundle.recipe
        spec = dataclasses.replace(
            spec, model=dataclasses.replace(spec.model, **changes)
        )
        return attention.find_products(graph, spec, len(simulator.bundle.labels))

    assert len(find().every) == len(simulator.products.every)
    for changes in ({"layers": 3}, {"layers": 1}, {"heads": 5}, {"mlp_rank": 2}):
        with pytest.raises(KwsError, match="not the recipe's") as caught:
            find(**changes)
        assert caught.value.hint


# ---- the whole way ---------------------------------------------------------------


def test_thresholds_go_into_the_bundle(simulator):
    from kws.simulate.measure import keep_thresholds, read_thresholds

    steps = np.array([[3, 2, 2, 1, -1, -1, 5], [4, 2, 0, 1, -1, -1, -1]])
    # A sweep takes hours; what was changed in the run meanwhile is not taken back.
    before = bundles.load(simulator.bundle.path)
    detector = dataclasses.replace(before.recipe.detector, refractory_ms=321)
    recipe = dataclasses.replace(before.recipe, detector=detector)
    bundles.save(dataclasses.replace(before, recipe=recipe))
    assert keep_thresholds(simulator, of_steps(simulator, steps).to_dict())
    bundle = bundles.load(simulator.bundle.path)
    assert bundle.recipe == recipe
    assert bundle.thresholds == {
        "0.X": 3,
        "1.X": 4,
        "Q": 2,
        "0.K": 2,
        "1.K": 0,
        "P": 1,
        "0.H": 5,
    }
    again = IntegerSimulator(bundle)
    found = again.steps(read_thresholds(again, "bundle"))
    np.testing.assert_array_equal(found.values, steps.reshape(-1))
    with pytest.raises(KwsError, match="Bad threshold"):
        read_thresholds(again, "bundles")


def test_thresholds_of_older_bundles_are_read(simulator):
    """As they were written before kinds became the variants': the file is the same."""
    from kws.simulate.measure import read_thresholds

    path = simulator.bundle.path / "bundle.json"
    before = path.read_text()
    table = json.loads(before)
    try:
        table["thresholds"] = {"0.X": 3, "1.X": 4, "Q": 2, "P": 1, "1.K": 0, "0.H": 5}
        path.write_text(json.dumps(table))
        again = IntegerSimulator(bundles.load(path.parent))
    finally:
        path.write_text(before)
    steps = [[3, 2, -1, 1, -1, -1, 5], [4, 2, 0, 1, -1, -1, -1]]
    found = again.steps(read_thresholds(again, "bundle"))
    np.testing.assert_array_equal(found.values, np.reshape(steps, -1))
    assert found.to_steps() == table["thresholds"]


def test_encoding_is_shared_by_both_simulators():
    """One rule: `delta.hold`, whatever the arithmetic."""
    values = np.array([[[0], [3], [4], [9]]], np.int8)
    held, columns = delta.hold(values, 3, dense_rows=1)
    real, same = delta.hold(values.astype(np.float32) / 8, 3 / 8, dense_rows=1)
    np.testing.assert_array_equal(held / 8, real)
    np.testing.assert_array_equal(columns, same)
    assert columns.tolist() == [[3]]
