"""The .tflite reader on good and bad files, the passes, the memory plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_models
from kernel_support import tflm

from kws.errors import KwsError
from kws.graph import memory_plan, operators, passes, reader, schedule

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return sample_models.network(sample_models.recipe(layers=1, frames=26))


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
    before = sum(operators.macs(node) for node in graph.nodes)
    convolution = 13 * 10 * 16 * 25
    dense = 13 * (160 * 48 + 4 * 48 * 48 + 2 * 48 * 96)
    attention = 2 * 13 * 13 * 48
    assert before == convolution + dense + attention + 48 * len(sample_models.LABELS)
    passes.run(graph)
    assert sum(operators.macs(node) for node in graph.nodes) == before


def test_attention_and_tables_are_fused(tiny: bytes) -> None:
    graph = reader.read(tiny)
    found = passes.run(graph)
    kinds = {node.kind for node in graph.nodes}
    assert found["fuse_attention"] == 1
    assert {"ATTENTION", "TABLE", "FULLY_CONNECTED_TRANSPOSED"} <= kinds
    assert not kinds & {"BATCH_MATMUL", "SOFTMAX", "TANH", "MUL"}


def test_hidden_layer_of_the_mlp_never_exists_whole(tiny: bytes) -> None:
    graph = reader.read(tiny)
    passes.run(graph)
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
            passes.run(graph)
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
    from kws.model.keras import tf

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


def test_dynamic_shape_is_refused() -> None:
    from kws.model.keras import tf

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
    passes.run(graph)
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
    passes.run(graph)
    attention = [node.output.shape for node in graph.nodes if node.kind == "ATTENTION"]
    # 12 layers, 99 tokens, one head of 64; of the last, the class token is read alone.
    assert attention == [(1, 99, 64)] * 11 + [(1, 1, 64)]
    program = schedule.schedule(graph)
    assert memory_plan.plan(graph, program).arena_bytes <= 24 * 1024
