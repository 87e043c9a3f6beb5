"""Convolutional networks that the transformer is held against, in the same pipeline.

    ds-cnn     DS-CNN (Zhang et al. 2017) in the shape of MLPerf Tiny's benchmark: a
               10x4 convolution of 49 x 10 cepstra, then 4 separable ones of 3x3
    bc-resnet  BC-ResNet (Kim et al. 2021): residual blocks of a convolution over mel
               bins and, on the bins' mean, one over time, whose result every bin gets
    sparknet   SparkNet's encoder (Svirsky et al. 2024): separable convolutions over
               time, 11, 15, 19 and 29 frames wide

They train, are quantized, converted and counted by the same code as the transformer,
so that what they reach and cost can be compared. Batch norm by channel is behind every
convolution, since it folds into one. What the originals have beside: dropout,
BC-ResNet's batch norm by sub-bands of bins, SparkNet's random gates of features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from kws.layers import (
    Activation,
    BatchNorm,
    Convolution,
    Dense,
    DepthwiseConvolution,
    Kernel,
    KwsLayer,
    Quantizer,
)
from kws.layers.keras import tf
from kws.recipe import Model

SPARKNET_FRAMES = (11, 15, 19, 29)
SPARKNET_OUTPUTS = 32
# Of BC-ResNet's stages: width as a multiple of `dim`, blocks, stride over mel bins.
BC_RESNET_STAGES = ((1.0, 2, 1), (1.5, 2, 2), (2.0, 4, 2), (2.5, 4, 1))


class Step(KwsLayer):
    """A layer with a kernel, batch norm, and an activation where there is one.

    Args:
        linear: A Dense (pointwise) or convolution.
        activation: `relu`, `hard_swish`, or "" for none.

    Shapes: (B, T, F, in) -> (B, T', F', units).
    """

    def __init__(
        self, mode: str, name: str, linear: Kernel, activation: str = ""
    ) -> None:
        super().__init__(mode, name)
        self.linear = linear
        self.norm = BatchNorm(mode, "norm", folded=True)
        self.activation: KwsLayer = (
            Activation(mode, "activation", activation)
            if activation
            else Quantizer(mode, "outputs")
        )

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs
        batch = 1 if self.mode == "export" else -1
        _, frames, bins, channels = inputs.shape
        pointwise = isinstance(self.linear, Dense)
        if pointwise:  # rows of channels: FULLY_CONNECTED, its activation fused
            x = tf.reshape(x, (batch, frames * bins, channels))
        x = self.norm(self.linear(x), training=training)
        x = self.activation(x, training=training)
        if pointwise:
            x = tf.reshape(x, (batch, frames, bins, self.linear.units))
        return x

    def fold(self, source: Step) -> None:
        """Load `source`'s weights (mode `float`), the batch norm folded in."""
        scale, shift = source.norm.fold_terms()
        self.linear.kernel.assign(source.linear.kernel.numpy() * scale)
        self.linear.bias.assign(shift)


def pointwise(mode: str, name: str, units: int, activation: str = "") -> Step:
    """A Step that works on each frame and bin by itself."""
    return Step(mode, name, Dense(mode, "dense", units, mode != "float"), activation)


def convolution(
    mode: str,
    name: str,
    units: int,
    size: tuple[int, int],
    strides: tuple[int, int],
) -> Step:
    """A convolution over frames and bins, with ReLU."""
    linear = Convolution(mode, "conv", units, strides, mode != "float", size)
    return Step(mode, name, linear, "relu")


def depthwise(
    mode: str,
    name: str,
    units: int,
    size: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    activation: str = "",
) -> Step:
    """A depthwise convolution over frames and bins; see DepthwiseConvolution."""
    linear = DepthwiseConvolution(
        mode, "depthwise", units, size, stride, dilation, mode != "float"
    )
    return Step(mode, name, linear, activation)


class Residual(KwsLayer):
    """`relu(a + b)`, or without ReLU; one of them may have one bin for all.

    Shapes: two of (B, T, F, n) or (B, T, 1, n) -> (B, T, F, n).
    """

    def __init__(self, mode: str, name: str, relu: bool = True) -> None:
        super().__init__(mode, name)
        self.relu = relu
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs[0] + inputs[1]
        x = tf.nn.relu(x) if self.relu else x
        return self.outputs_range(x, training=training)


class MeanOfBins(KwsLayer):
    """(B, T, F, n) -> (B, T, 1, n)."""

    def __init__(self, mode: str, name: str) -> None:
        super().__init__(mode, name)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = tf.reduce_mean(inputs, axis=2, keepdims=True)
        return self.outputs_range(x, training=training)


class Rows(KwsLayer):
    """Rows of frames, taken apart to images and back: (B, T, n) -> (B, T, F, m)."""

    def __init__(self, mode: str, name: str, *shape: int) -> None:
        super().__init__(mode, name)
        self.target = shape

    def call(self, inputs: Any) -> Any:
        return tf.reshape(inputs, (1 if self.mode == "export" else -1, *self.target))


class Cepstra(KwsLayer):
    """A dense layer from mel bins to cepstra, which starts as the DCT.

    A convolution can't have it folded in, so it runs.

    Shapes: (B, T, bins) -> (B, T, cepstra).
    """

    def __init__(self, mode: str, name: str, dct: Any) -> None:
        super().__init__(mode, name)
        self.dct = dct
        self.dense = Dense(mode, "dense", dct.shape[1])
        self.outputs_range = Quantizer(mode, "outputs")

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)
        self.dense.kernel.assign(self.dct)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        return self.outputs_range(self.dense(inputs), training=training)

    def fold(self, source: Cepstra) -> None:
        """Load `source`'s weights (mode `float`)."""
        self.dense.fold(source.dense, None)


def ds_cnn(mode: str, model: Model, x: Any) -> Any:
    """DS-CNN: (B, 49, 10) -> (B, 125, 64) with MLPerf Tiny's shape."""
    x = Rows(mode, "image", *x.shape[1:], 1)(x)
    x = convolution(mode, "stem", model.dim, (10, 4), (2, 2))(x)
    for index in range(model.layers):
        x = depthwise(mode, f"depthwise{index}", model.dim, (3, 3), activation="relu")(
            x
        )
        x = pointwise(mode, f"pointwise{index}", model.dim, "relu")(x)
    return x


def bc_resnet(mode: str, model: Model, x: Any) -> Any:
    """BC-ResNet: (B, 98, 40) -> (B, 98, 32) with `dim` 8, which is BC-ResNet-1."""
    x = Rows(mode, "image", *x.shape[1:], 1)(x)
    x = convolution(mode, "stem", 2 * model.dim, (5, 5), (1, 2))(x)
    for stage, (wider, blocks, stride) in enumerate(BC_RESNET_STAGES):
        units, dilation = int(wider * model.dim), 1 << stage
        for index in range(blocks):
            name, y = f"stage{stage}_{index}", x
            if index == 0:
                y = pointwise(mode, f"{name}_in", units, "relu")(y)
            y = depthwise(mode, f"{name}_bins", units, (1, 3), stride)(y)
            z = MeanOfBins(mode, f"{name}_mean")(y)
            z = depthwise(
                mode, f"{name}_time", units, (3, 1), 1, dilation, "hard_swish"
            )(z)
            z = pointwise(mode, f"{name}_out", units)(z)
            if index:  # the first of a stage is of another width
                y = Residual(mode, f"{name}_residual", relu=False)([y, x])
            x = Residual(mode, f"{name}_broadcast")([y, z])
            stride = 1
    bins = x.shape[2]
    x = depthwise(mode, "last_bins", x.shape[3], (5, bins), bins)(x)
    return pointwise(mode, "last", 4 * model.dim, "relu")(x)


def sparknet(mode: str, model: Model, x: Any) -> Any:
    """SparkNet's encoder: (B, 98, 40) -> (B, 98, 32)."""
    frames, bins = x.shape[1:]
    x = Rows(mode, "image", frames, 1, bins)(x)
    for index, size in enumerate(SPARKNET_FRAMES):
        y = depthwise(mode, f"depthwise{index}", x.shape[3], (size, 1))(x)
        if index == 0:
            x = pointwise(mode, f"pointwise{index}", model.dim, "relu")(y)
            continue
        y = pointwise(mode, f"pointwise{index}", model.dim)(y)
        x = pointwise(mode, f"shortcut{index}", model.dim)(x)
        x = Residual(mode, f"residual{index}")([y, x])
    return pointwise(mode, "last", SPARKNET_OUTPUTS, "relu")(x)


BODIES: dict[str, Callable[[str, Model, Any], Any]] = {
    "ds-cnn": ds_cnn,
    "bc-resnet": bc_resnet,
    "sparknet": sparknet,
}


def body(mode: str, model: Model, x: Any) -> Any:
    """All but the head of a network of `model.family`.

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section.
        x: Quantized features (B, frames, mel_bins), or cepstra.

    Returns:
        (B, rows, channels), of which the head takes the mean.
    """
    x = BODIES[model.family](mode, model, x)
    _, frames, bins, channels = x.shape
    return Rows(mode, "rows", frames * bins, channels)(x)


def head_model(model: Model) -> Model:
    """The model section for the head: no norm, since batch norms are in the layers."""
    return dataclasses.replace(model, norm_position="post")
