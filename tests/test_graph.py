"""The .tflite reader on good and bad files, the passes, the memory plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sample_models
from kernel_support import tflm

from kws import attention
from kws.errors import KwsError
from kws.graph import cost, memory_plan, operators, passes, reader, schedule
from kws.graph.memory_plan import Plan
from kws.graph.nodes import Graph, Node, Quantization, Tensor
from kws.graph.operators import Access, Operator
from kws.graph.schedule import Schedule

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return sample_models.network(sample_models.recipe(layers=1, frames=26))


def rewrite(graph: Graph) -> dict[str, int]:
    """Every pass, as the native engine applies them; how often each matched."""
    return passes.prepare(graph) | passes.finish(graph, attention.fusions())


def test_reads_the_whole_graph(tiny: bytes) -> None:
    graph = reader.read(tiny)
    assert graph.input.shape == (1, 26, 40)
    assert graph.output.shape == (1, len(sample_models.LABELS))
    kinds = [node.kind for node in graph.nodes]
    assert kinds.count("BATCH_MATMUL") == 2
    assert kinds.count("SOFTMAX") == 1
    dense = next(node for node in graph.nodes if node.kind == "FULLY_CONNECTED")
    weights = dense.input(1)
    assert weights.data is not None and weights.data.dtype == np.int8
    assert weights.quantization is not None
    assert len(weights.quantization.scales) == weights.shape[0]


def test_counts_multiply_accumulates(tiny: bytes) -> None:
    graph = reader.read(tiny)
    before = cost.total(graph.nodes).macs
    convolution = 13 * 10 * 16 * 25
    dense = 13 * (160 * 48 + 4 * 48 * 48 + 2 * 48 * 96)
    attention = 2 * 13 * 13 * 48
    assert before == convolution + dense + attention + 48 * len(sample_models.LABELS)
    rewrite(graph)
    assert cost.total(graph.nodes).macs == before


def test_what_pads_rows_is_not_counted() -> None:
    """K with thresholds and V without are padded to different widths."""
    tokens = Tensor("k", (1, 25, 32), "int8")
    for stride in (28, 32):
        padded = Tensor("k transposed", (32, stride), "int8")
        node = Node("TRANSPOSE_TOKENS", [tokens], padded, {"stride": stride})
        assert cost.count(node).bytes == {cost.READ: 800, cost.WRITE: 800}


def test_attention_and_tables_are_fused(tiny: bytes) -> None:
    graph = reader.read(tiny)
    found = rewrite(graph)
    kinds = {node.kind for node in graph.nodes}
    assert found["fuse"] == 1
    assert {"ATTENTION", "TABLE", "FULLY_CONNECTED_TRANSPOSED"} <= kinds
    assert not kinds & {"BATCH_MATMUL", "SOFTMAX", "TANH", "MUL"}


def test_fusions_of_one_name_are_added_up(tiny: bytes) -> None:
    """Every attention variant's pass is called `fuse`."""

    def fuse(graph: Graph) -> int:
        return 10

    graph = reader.read(tiny)
    passes.prepare(graph)
    assert passes.finish(graph, [*attention.fusions(), fuse])["fuse"] == 11


def test_hidden_layer_of_the_mlp_never_exists_whole(tiny: bytes) -> None:
    graph = reader.read(tiny)
    rewrite(graph)
    program = schedule.schedule(graph)
    plan = memory_plan.plan(graph, program)
    hidden = [n.output for n in program.nodes if n.output.shape == (1, 26 // 2, 96)]
    assert hidden
    for tensor in hidden:
        assert id(tensor) in plan.blocks
        assert plan.tensors[id(tensor)].bytes == schedule.BLOCK_ROWS * 96


# --- bad files ---


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Not a TensorFlow Lite model"),
        (b"this is a text file, not a model", "Not a TensorFlow Lite model"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 64, "broken"),
        (b"\xff\xff\xff\x7fTFL3" + b"\0" * 64, "broken"),
    ],
    ids=["empty", "text", "zeros", "offset_outside"],
)
def test_what_is_no_model_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(KwsError) as caught:
        reader.read(data, "some/model.tflite")
    assert words in caught.value.message
    assert "some/model.tflite" in caught.value.message
    assert caught.value.exit_code == 2


def test_truncated_anywhere_is_refused_or_whole(tiny: bytes) -> None:
    for size in range(0, len(tiny) - 64, len(tiny) // 60):
        with pytest.raises(KwsError):
            reader.read(tiny[:size])


def test_mangled_files_give_a_message_or_a_sound_graph(tiny: bytes) -> None:
    """Flipped bits may give a valid other network, but never another exception, and
    what is accepted can be scheduled and planned."""
    rng = np.random.default_rng(1)
    whole = np.frombuffer(tiny, np.uint8)
    refused = 0
    for round_ in range(200):
        data = whole.copy()
        # Structure, not weights: the schema's tables lie near the end.
        low = 0 if round_ % 2 else len(data) * 2 // 3
        places = rng.integers(low, len(data), 1 + round_ % 8)
        data[places] = rng.integers(0, 256, len(places))
        try:
            graph = reader.read(data.tobytes())
            rewrite(graph)
        except KwsError:
            refused += 1
            continue
        program = schedule.schedule(graph)
        memory_plan.plan(graph, program)
    assert 20 < refused < 200


def test_one_tensor_many_times_asks_for_no_hours() -> None:
    """A vector of half a megabyte that 20,000 tensors share: read once or twice, it
    is refused; read for each, it would take half an hour and a terabyte."""
    import flatbuffers
    import tflite

    channels = 1 << 16
    builder = flatbuffers.Builder(1 << 20)
    scales = builder.CreateNumpyVector(np.ones(channels, np.float32))
    zeros = builder.CreateNumpyVector(np.zeros(channels, np.int64))
    shape = builder.CreateNumpyVector(np.array([channels], np.int32))
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scales)
    tflite.QuantizationParametersAddZeroPoint(builder, zeros)
    quantization = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, tflite.TensorType.INT8)
    tflite.TensorAddQuantization(builder, quantization)
    tensor = tflite.TensorEnd(builder)

    def vector(*offsets: int) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in offsets:
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    tensors = vector(*[tensor] * reader.MAX_TENSORS)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    subgraphs = vector(tflite.SubGraphEnd(builder))
    tflite.BufferStart(builder)
    buffers = vector(tflite.BufferEnd(builder))
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    with pytest.raises(KwsError, match="scales of tensor"):
        reader.read(bytes(builder.Output()))


def test_an_operator_on_constants_only_is_refused() -> None:
    model = tflm.Model()
    constant = model.tensor((2, 4), 0.1, data=np.ones((2, 4), np.int8))
    x, y = model.tensor((2, 4), 0.1), model.tensor((2, 4), 1 / 128)
    model.operator("TANH", [constant], y, None)
    with pytest.raises(KwsError, match="constants only"):
        reader.read(model.to_bytes([x], [y]))


def test_float_and_foreign_operators_are_all_listed(tmp_path: Path) -> None:
    from kws.layers.keras import tf

    traced = tf.function(
        lambda x: tf.math.ceil(tf.math.erf(x)) + tf.sin(x),
        input_signature=[tf.TensorSpec((1, 4), tf.float32)],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    with pytest.raises(KwsError) as caught:
        reader.read(converter.convert())
    message = caught.value.message
    assert "CEIL" in message and "SIN" in message and "Erf" in message
    assert "ADD on float32" in message
    assert "FULLY_CONNECTED" in message  # what is supported is named
    assert caught.value.hint


@pytest.mark.parametrize("columns", [511, 512])
def test_a_softmax_that_tflm_does_not_define_is_refused(columns: int) -> None:
    """Of 512 elements that are alike, the last shift would be of 32 bits."""
    model = tflm.Model()
    x = model.tensor((2, columns), 0.1)
    y = model.tensor((2, columns), 1 / 256, -128)
    options = tflm.schema.SoftmaxOptionsT()
    options.beta = 1.0
    model.operator("SOFTMAX", [x], y, options)
    data = model.to_bytes([x], [y])
    if columns == 511:
        assert reader.read(data).nodes[0].kind == "SOFTMAX"
        return
    with pytest.raises(KwsError, match="rows of more than 511"):
        reader.read(data)


@pytest.mark.parametrize("depth", [16384, 16385])
def test_a_matrix_product_that_could_overflow_is_refused(depth: int) -> None:
    model = tflm.Model()
    x = model.tensor((1, 2, depth), 0.1)
    y = model.tensor((1, 2, 2), 1.0)
    options = tflm.schema.BatchMatMulOptionsT()
    options.adjY = True
    model.operator("BATCH_MATMUL", [x, x], y, options)
    data = model.to_bytes([x], [y])
    if depth == 16384:
        assert reader.read(data).nodes[0].kind == "BATCH_MATMUL"
        return
    with pytest.raises(KwsError, match="sums of more than 16384"):
        reader.read(data)


@pytest.mark.parametrize("columns", [8192, 8193])
def test_a_matrix_product_of_too_many_columns_is_refused(columns: int) -> None:
    model = tflm.Model()
    x = model.tensor((1, 2, columns), 0.1)
    square, y = model.tensor((1, 2, 2), 1.0), model.tensor((1, 2, columns), 1.0)
    transposed = tflm.schema.BatchMatMulOptionsT()
    transposed.adjY = True
    model.operator("BATCH_MATMUL", [x, x], square, transposed)
    plain = tflm.schema.BatchMatMulOptionsT()
    model.operator("BATCH_MATMUL", [square, x], y, plain)
    data = model.to_bytes([x], [y])
    if columns == 8192:
        assert reader.read(data).nodes[1].kind == "BATCH_MATMUL"
        return
    with pytest.raises(KwsError, match="more than 8192 columns"):
        reader.read(data)


def test_a_weight_that_tflite_does_not_have_is_refused() -> None:
    model = tflm.Model()
    x, y = model.tensor((1, 2), 0.1), model.tensor((1, 3), 1.0)
    w = model.tensor((3, 2), 0.1, data=np.full((3, 2), -128, np.int8))
    options = tflm.schema.FullyConnectedOptionsT()
    model.operator("FULLY_CONNECTED", [x, w, -1], y, options)
    with pytest.raises(KwsError, match="FULLY_CONNECTED.*a weight of -128"):
        reader.read(model.to_bytes([x], [y]))


def test_dynamic_shape_is_refused() -> None:
    from kws.layers.keras import tf

    traced = tf.function(
        lambda x: tf.nn.relu(x),
        input_signature=[tf.TensorSpec((None, 4), tf.float32)],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    with pytest.raises(KwsError, match="no fixed shape"):
        reader.read(converter.convert())


# --- memory plan ---


def test_placed_storages_never_overlap_while_both_live() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        storages = []
        for _ in range(int(rng.integers(1, 40))):
            first = int(rng.integers(0, 30))
            last = first + int(rng.integers(0, 10))
            size = int(rng.integers(1, 5000))
            storages.append(memory_plan.Storage(size, first, last))
        arena = memory_plan.place(storages)
        for i, one in enumerate(storages):
            assert one.offset % memory_plan.ALIGNMENT == 0
            assert one.offset >= 0
            assert one.offset + one.bytes <= arena
            for other in storages[:i]:
                apart_in_time = one.last < other.first or other.last < one.first
                apart = (
                    one.offset + one.bytes <= other.offset
                    or other.offset + other.bytes <= one.offset
                )
                assert apart_in_time or apart
        busiest = max(
            sum(s.bytes for s in storages if s.first <= now <= s.last)
            for now in range(40)
        )
        assert busiest <= arena <= 2 * busiest + 40 * memory_plan.ALIGNMENT


def test_the_check_finds_a_wrong_plan(tiny: bytes) -> None:
    graph = reader.read(tiny)
    rewrite(graph)
    program = schedule.schedule(graph)
    plan = memory_plan.plan(graph, program)
    caught = 0
    for storage in plan.storages:
        right = storage.offset
        for other in plan.storages:
            together = other.first <= storage.last and storage.first <= other.last
            if other is storage or not together:
                continue
            storage.offset = min(other.offset, plan.arena_bytes - storage.bytes)
            try:
                memory_plan.check(graph, program, plan)
            except AssertionError:
                caught += 1
            storage.offset = right
    memory_plan.check(graph, program, plan)
    assert caught > len(plan.storages)


def test_kwt_1_needs_less_than_24_kilobytes() -> None:
    """The published shape, GELU and all: TFLM's arena for it is 257 KB."""
    spec = sample_models.recipe("kwt-1")
    graph = reader.read(sample_models.network(spec))
    rewrite(graph)
    attention = [node.output.shape for node in graph.nodes if node.kind == "ATTENTION"]
    # 12 layers, 99 tokens, one head of 64; of the last, the class token is read alone.
    assert attention == [(1, 99, 64)] * 11 + [(1, 1, 64)]
    program = schedule.schedule(graph)
    assert memory_plan.plan(graph, program).arena_bytes <= 24 * 1024


# --- what outlives a step ---


def tensor(name: str, *shape: int, reset: int | None = None) -> Tensor:
    return Tensor(name, shape, "int8", Quantization((0.1,), (0,)), reset=reset)


def mean_of_rows(x: Tensor, name: str) -> Node:
    axis = Tensor("axis", (1,), "int32", data=np.array([1], np.int32))
    out = tensor(name, 1, x.shape[-1])
    return Node("MEAN", [x, axis], out, {"KeepDims": False})


def history(x: Tensor, past: int, ring: bool, reset: int = 0) -> Node:
    rows, width = (1, *x.shape)[-2:]
    out = tensor(f"{x.name}'s past", 1, past + rows, width, reset=reset)
    return Node("HISTORY", [x], out, {"rows": rows, "ring": ring})


@pytest.fixture
def own_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what a streaming pass will make."""

    def like_input(node: Node) -> tuple[int, ...]:
        return node.output.shape

    def by_row(node: Node, rows: int) -> list[Access] | None:
        return [Access.PAST] if operators.row_count(node.output) == rows else None

    # Row i of its output needs the kept rows before row i, and row i.
    monkeypatch.setitem(
        operators.OWN, "CAUSAL", Operator(like_input, (1, 1), rows=by_row)
    )
    # Takes its last row and what it kept of the step before.
    monkeypatch.setitem(operators.OWN, "HOLD", Operator(like_input, (2, 2)))


def streaming_graph() -> Graph:
    """Two rows a step; rows of a convolution, a ring of tokens, a held reference."""
    x, logits = tensor("x", 1, 2, 8), tensor("logits", 1, 8)
    rows = Node("TABLE", [x], tensor("rows", 1, 2, 8), {"table": [0] * 256})
    window = history(rows.output, 3, ring=False, reset=-5)
    token = mean_of_rows(window.output, "token")
    held = tensor("reference", 40, reset=0)
    hold = Node("HOLD", [token.output, held], tensor("held", 1, 8))
    ring = history(hold.output, 4, ring=True, reset=7)
    pooled = mean_of_rows(ring.output, "pooled")
    add = Node("ADD", [pooled.output, token.output], logits)
    return Graph([rows, window, token, hold, ring, pooled, add], x, logits)


def planned(graph: Graph) -> tuple[Graph, Schedule, Plan]:
    program = schedule.schedule(graph)
    return graph, program, memory_plan.plan(graph, program)


def persistent(plan: Plan, name: str) -> tuple[int, memory_plan.Storage]:
    return next((k, s) for k, s in plan.persistent.items() if name in s.names)


@pytest.mark.usefixtures("own_operators")
def test_what_is_kept_has_a_place_of_its_own() -> None:
    _, _, plan = planned(streaming_graph())
    sizes = {storage.names[0]: storage.bytes for storage in plan.persistent.values()}
    assert sizes == {"rows's past": 5 * 8, "reference": 40, "held's past": 5 * 8}
    assert plan.persistent_bytes == 120
    values = {offset: (size, value) for offset, size, value in plan.resets}
    for name, value in (("rows's past", -5), ("reference", 0), ("held's past", 7)):
        _, storage = persistent(plan, name)
        assert values[storage.offset] == (storage.bytes, value)
    # Nothing of it is in the arena, nor was it counted there.
    assert not set(plan.persistent) & set(plan.tensors)
    assert plan.arena_bytes <= 64


@pytest.mark.usefixtures("own_operators")
def test_a_graph_that_keeps_nothing_has_no_persistent_area(tiny: bytes) -> None:
    graph = reader.read(tiny)
    rewrite(graph)
    _, _, plan = planned(graph)
    assert (plan.persistent_bytes, plan.persistent, plan.resets) == (0, {}, [])


def in_the_arena(plan: Plan, name: str) -> None:
    """A persistent tensor is placed among those that live within a step."""
    key, storage = persistent(plan, name)
    storage.offset = plan.arena_bytes
    plan.arena_bytes += storage.bytes
    plan.tensors[key] = plan.persistent.pop(key)


def on_another(plan: Plan, name: str) -> None:
    _, storage = persistent(plan, name)
    other = next(s for s in plan.persistent.values() if s is not storage)
    storage.offset = other.offset


def not_reset(plan: Plan, name: str) -> None:
    _, storage = persistent(plan, name)
    plan.resets = [fill for fill in plan.resets if fill[0] != storage.offset]


def reset_in_part(plan: Plan, name: str) -> None:
    _, storage = persistent(plan, name)
    plan.resets = [
        (at, size - 1 if at == storage.offset else size, value)
        for at, size, value in plan.resets
    ]


def outside(plan: Plan, name: str) -> None:
    persistent(plan, name)[1].offset = plan.persistent_bytes - 8


@pytest.mark.usefixtures("own_operators")
@pytest.mark.parametrize("name", ["rows's past", "held's past", "reference"])
@pytest.mark.parametrize(
    "spoil",
    [in_the_arena, on_another, not_reset, reset_in_part, outside],
    ids=lambda spoil: spoil.__name__,
)
def test_the_check_plays_several_steps_and_finds_what_is_wrong(
    spoil: Callable[[Plan, str], None], name: str
) -> None:
    graph, program, plan = planned(streaming_graph())
    spoil(plan, name)
    with pytest.raises(AssertionError):
        memory_plan.check(graph, program, plan)


@pytest.mark.usefixtures("own_operators")
def test_a_row_of_the_past_that_was_overwritten_is_found() -> None:
    """A ring of four slots where five rows are read: the newest lies on the oldest."""
    graph, program, plan = planned(streaming_graph())
    persistent(plan, "held's past")[1].bytes -= 8
    with pytest.raises(AssertionError, match="which is overwritten"):
        memory_plan.check(graph, program, plan)


@pytest.mark.usefixtures("own_operators")
def test_the_arena_is_not_read_across_steps() -> None:
    """In one step each row is read before it is made anew: what is left of the step
    before would do, if the arena kept it."""
    graph, program, plan = planned(streaming_graph())
    kinds = [step.nodes[0].kind for step in program.steps]
    step = program.steps.pop(kinds.index("TABLE"))
    program.steps.append(step)
    with pytest.raises(AssertionError, match="of another step"):
        memory_plan.check(graph, program, plan)


def causal_graph(rows: int, past: int) -> Graph:
    x = tensor("x", 1, rows, 8)
    made = Node("TABLE", [x], tensor("rows", 1, rows, 8), {"table": [0] * 256})
    kept = history(made.output, past, ring=False)
    causal = Node("CAUSAL", [kept.output], tensor("causal", 1, rows, 2))
    pooled = mean_of_rows(causal.output, "logits")
    return Graph([made, kept, causal, pooled], x, pooled.output)


@pytest.mark.usefixtures("own_operators")
def test_rows_of_the_past_are_read_within_a_loop() -> None:
    """Access.PAST: a loop makes rows, keeps them and reads those before them."""
    graph = causal_graph(30, 4)
    program = schedule.schedule(graph)
    step = schedule._step(graph.nodes[:3], 30, program)
    assert step is not None
    assert step.access[1:] == [[Access.ROW], [Access.PAST]]
    program.steps = [step, schedule.Step(graph.nodes[3:])]
    plan = memory_plan.plan(graph, program)
    # What is made exists for one block only; the past is all there.
    made, kept = (node.output for node in step.nodes[:2])
    assert plan.tensors[id(made)].bytes == schedule.BLOCK_ROWS * 8
    assert plan.persistent[id(kept)].bytes == (4 + 30) * 8
    # A reader that comes before this step's rows are there finds the last step's.
    step.nodes[1:3] = step.nodes[2:0:-1]
    step.access[1:3] = step.access[2:0:-1]
    with pytest.raises(AssertionError, match="of another step"):
        memory_plan.check(graph, program, plan)


@pytest.mark.usefixtures("own_operators")
def test_random_streams_are_planned_and_proved() -> None:
    rng = np.random.default_rng(4)
    rings = loops = 0
    for _ in range(40):
        rows, width = int(rng.integers(1, 30)), int(rng.integers(1, 20))
        x = tensor("x", 1, rows, width)
        nodes, now = [], x
        for number in range(int(rng.integers(1, 7))):
            ring = now.shape[-2] == 1 and rng.random() < 0.5
            past = int(rng.integers(1, 12))
            out = tensor(f"t{number}", *now.shape)
            made = Node("TABLE", [now], out, {"table": [0] * 256})
            kept = history(out, past, ring)
            nodes += [made, kept]
            if ring or rng.random() < 0.3:
                pooled = mean_of_rows(kept.output, f"p{number}")
                state = tensor(f"s{number}", int(rng.integers(1, 50)), reset=1)
                now = tensor(f"h{number}", 1, 1, width)
                nodes += [pooled, Node("HOLD", [pooled.output, state], now)]
                rings += ring
            else:
                now = tensor(f"c{number}", *now.shape)
                nodes.append(Node("CAUSAL", [kept.output], now))
        logits = tensor("logits", *now.shape)
        nodes.append(Node("TABLE", [now], logits, {"table": [0] * 256}))
        graph, program, plan = planned(Graph(nodes, x, logits))
        loops += any(step.rows for step in program.steps)
        for storage in plan.persistent.values():
            right = storage.offset
            for other in plan.persistent.values():
                if other is storage:
                    continue
                storage.offset = other.offset
                with pytest.raises(AssertionError):
                    memory_plan.check(graph, program, plan)
            storage.offset = right
        memory_plan.check(graph, program, plan)
    assert min(rings, loops) > 10
