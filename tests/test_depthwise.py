"""DEPTHWISE_CONV_2D from the .tflite to every core, in whole networks; its refusals.

The kernels by themselves are in test_kernels.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_models
import toolbox
from kernel_support import tflm

from kws import engines
from kws.bundle import Bundle
from kws.deploy import host
from kws.emit import c_text, calls
from kws.emit import tflm as tflm_engine
from kws.errors import KwsError
from kws.graph import cost, operators, reader, weight_layout
from kws.simulate import operators as simulated

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

FRAMES, BINS = 26, 40


def _random(*shape: int) -> Any:
    from kws.layers.keras import tf

    rng = np.random.default_rng(sum(shape))
    fan_in = int(np.prod(shape[:-1]))
    return tf.constant(rng.normal(0, fan_in**-0.5, shape).astype(np.float32))


def tokens(x: Any) -> Any:
    """A streaming transformer's: causal convolutions over tokens, with residuals."""
    from kws.layers.keras import tf

    y = tf.matmul(x, _random(BINS, 48))
    for taps in (5, 3):
        past = tf.pad(tf.tanh(y), [[0, 0], [taps - 1, 0], [0, 0]])
        mixed = tf.nn.depthwise_conv2d(
            past[:, :, None, :], 1.5 * _random(taps, 1, 48, 1), [1, 1, 1, 1], "VALID"
        )
        y = y + tf.reshape(mixed, [1, FRAMES, 48]) + _random(48)
    return tf.matmul(y[:, -1], _random(48, len(sample_models.LABELS)))


def image_of_features(x: Any) -> Any:
    """A DS-CNN: 3 x 3, SAME, as it is and halving, an uneven number of channels."""
    from kws.layers.keras import tf

    y = tf.nn.relu(tf.nn.conv2d(x[..., None], _random(5, 5, 1, 21), [2, 4], "SAME"))
    for stride, activation in ((1, tf.nn.relu), (2, tf.nn.relu6)):
        y = tf.nn.depthwise_conv2d(
            y, 3.0 * _random(3, 3, 21, 1), [1, stride, stride, 1], "SAME"
        )
        y = activation(y + 0.3 * _random(21))
        y = tf.nn.conv2d(y, _random(1, 1, 21, 21), 1, "SAME")
    y = tf.reduce_mean(y, [1, 2])
    return tf.matmul(y, 4.0 * _random(21, len(sample_models.LABELS)))


BODIES = (tokens, image_of_features)


class Sample:
    """A network's bundle, features for it, and TFLM's logits of them."""

    def __init__(self, body: Callable[[Any], Any], folder: Path) -> None:
        model = sample_models.function(body, (1, FRAMES, BINS))
        self.graph = reader.read(model)
        x, spec = self.graph.input, sample_models.recipe(frames=FRAMES)
        fitted = dataclasses.replace(
            spec.features, scale=x.scale, zero_point=x.zero_point
        )
        spec = dataclasses.replace(spec, features=fitted)
        self.bundle: Bundle = sample_models.bundle(folder, spec, model)
        self.inputs = sample_models.features(8, (FRAMES, BINS))
        self.expected = sample_models.tflm_logits(model, self.inputs)


@pytest.fixture(scope="module", params=BODIES, ids=lambda body: body.__name__)
def sample(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Sample:
    made = Sample(request.param, tmp_path_factory.mktemp("depthwise") / "run")
    kinds = [node.kind for node in made.graph.nodes]
    assert kinds.count("DEPTHWISE_CONV_2D") == 2
    assert made.expected.std() > 3  # not stuck: the comparisons mean something
    return made


def test_the_host_s_c_is_tflm(sample: Sample) -> None:
    labels = len(sample.bundle.labels)
    with host.opened(host.library(sample.bundle), labels) as opened:
        logits, _ = opened.invoke(sample.inputs)
    np.testing.assert_array_equal(logits, sample.expected)


@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_emulated_boards_are_tflm(sample: Sample, board: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    rng = np.random.default_rng(4)
    pcm = (rng.normal(0, 1, (3, 16000)) * [[30], [900], [9000]]).astype(np.int16)
    expected = engines.get("tflm").logits(sample.bundle, pcm)
    assert len(np.unique(expected)) > 6
    logits = engines.get("qemu").logits(sample.bundle, pcm, jobs=1, board=board)
    np.testing.assert_array_equal(logits, expected)


def test_the_simulator_is_tflm(sample: Sample) -> None:
    graph = sample.graph
    shape = (len(sample.inputs), *graph.input.shape)
    values = {id(graph.input): sample.inputs.reshape(shape)}
    for node in graph.nodes:
        inputs = [values[id(tensor)] for tensor in node.variables]
        values[id(node.output)] = simulated.prepare(node)(*inputs)
    logits = values[id(graph.output)].reshape(sample.expected.shape)
    np.testing.assert_array_equal(logits, sample.expected)


def test_each_output_costs_its_taps(sample: Sample) -> None:
    for node in sample.graph.nodes:
        if node.kind != "DEPTHWISE_CONV_2D":
            continue
        counted, elements = cost.count(node), node.output.elements
        _, height, width, channels = node.input(1).shape
        assert counted.macs == elements * height * width
        assert counted.total("flash", "weights", "read") == counted.macs
        assert counted.total("ram", "activations", "read") == counted.macs
        assert counted.total("ram", "activations", "write") == elements
        assert counted.total("ram", "scratch") == 0
        assert elements % channels == 0


# --- what a file may hold -------------------------------------------------------------


def model_bytes(
    channels: int = 4,
    weights: np.ndarray | None = None,
    axis: int = 3,
    out: tuple[int, ...] = (1, 4, 3, 4),
    **options: int,
) -> bytes:
    """One DEPTHWISE_CONV_2D on [1, 6, 3, channels], a window of 3 x 1."""
    if weights is None:
        weights = np.ones((1, 3, 1, 4), np.int8)
    model = tflm.Model()
    x = model.tensor((1, 6, 3, channels), 0.1)
    scales = [0.1] * weights.shape[axis]
    w = model.tensor(weights.shape, scales, axis=axis, data=weights)
    y = model.tensor(out, 0.1)
    table = tflm.schema.DepthwiseConv2DOptionsT()
    table.strideH = table.strideW = table.depthMultiplier = 1
    table.dilationHFactor = table.dilationWFactor = 1
    table.padding = tflm.schema.Padding.VALID
    for name, value in options.items():
        setattr(table, name, value)
    model.operator("DEPTHWISE_CONV_2D", [x, w], y, table)
    return model.to_bytes([x], [y])


def test_a_plain_one_is_read() -> None:
    (node,) = reader.read(model_bytes()).nodes
    assert node.options["DepthMultiplier"] == 1
    matrix = operators.weight_matrix(node)
    assert matrix.shape == (4, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dilationHFactor": 0}, "dilations outside 1..255"),
        ({"depthMultiplier": 2}, "depth multiplier 2, not 1"),
        ({"depthMultiplier": 0}, "depth multiplier 0, not 1"),
        ({"strideW": 0}, "strides outside 1..255"),
        ({"padding": 7}, "padding other than SAME and VALID"),
        ({"fusedActivationFunction": 4}, "fused activation 4"),
        ({"channels": 5}, r"expected an input of \[1, height, width, 4\]"),
        ({"weights": np.ones((2, 3, 1, 4), np.int8)}, r"weights of \[1, height"),
        ({"weights": np.full((1, 3, 1, 4), -128, np.int8)}, "a weight of -128"),
        ({"weights": np.ones((1, 7, 1, 4), np.int8)}, "window is larger"),
        ({"axis": 1}, "per tensor or per output"),
        ({"out": (1, 6, 3, 4)}, "expected output shape"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_no_kernel_runs_is_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(KwsError, match=words) as caught:
        reader.read(model_bytes(**changes))
    assert "DEPTHWISE_CONV_2D" in caught.value.message


def test_every_operator_is_known_everywhere() -> None:
    """Whatever the reader takes can be emitted, simulated, and named to TFLM."""
    every = set(operators.OPERATORS)
    run = every - set(operators.VIEWS)
    assert run <= set(calls.CALLS)
    assert run <= set(simulated.OPERATORS)
    assert every <= set(tflm_engine.METHODS)


# --- how weights lie ------------------------------------------------------------------


def test_layouts_of_each_core() -> None:
    weights = np.arange(1, 16, dtype=np.int8).reshape(5, 3)  # 5 channels of 3 taps
    assert weight_layout.depthwise_layout(weights, "portable") == weights.tobytes()
    pairs = np.frombuffer(weight_layout.depthwise_layout(weights, "dsp"), "<i2")
    assert pairs.tolist() == [
        *(1, 2, 4, 5, 7, 8, 10, 11),  # two taps of channels 0 to 3
        *(3, 9, 6, 12),  # the third, of channels 0, 2, 1, 3
        *(13, 14, 0, 0, 0, 0, 0, 0),
        *(15, 0, 0, 0),
    ]
    sixteen = np.frombuffer(weight_layout.depthwise_layout(weights, "mve"), np.int8)
    assert sixteen.reshape(3, 16)[:, :5].tolist() == weights.T.tolist()
    assert not sixteen.reshape(3, 16)[:, 5:].any()
    wide = np.arange(20, dtype=np.int8)[:, None]
    back = np.frombuffer(weight_layout.depthwise_layout(wide, "mve"), np.int8)
    assert back.tolist() == [*range(16), *range(4, 20)]


@pytest.mark.parametrize("size", [1, 8, 15, 16, 100])
def test_weights_of_any_size_are_aligned(size: int) -> None:
    """dsp kernels read words: a dense layer of 2 outputs has but 8 bytes."""
    text = c_text.array("weights", np.zeros(size, np.int8))
    assert f"_Alignas({16 if size >= 16 else 4}) const int8_t weights" in text
