"""The layers of the network, each in four modes, with its quantizers inside.

    float    training: norms keep their scale and shift, attention its scale
    folded   the same function with all of those folded into the next projection
    qat      folded, with fake quantization of every weight and activation
    export   qat with the weights baked in as constants: what the converter reads

`folded`, `qat` and `export` share one set of variables, so one weights file serves
all three. tfmot's quantizers are placed by hand: its `quantize_apply` knows neither
attention nor tied weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from kws.layers.keras import quantizers, tf, tf_keras

MODES = ("float", "folded", "qat", "export")

# Ranges that TFLite's kernels fix: one step is exactly 1/128 or 1/256.
TANH_RANGE = (-1.0, 127.0 / 128.0)
UNIT_RANGE = (0.0, 255.0 / 256.0)
# TFLite's converter takes extremes up to 1e-6 for 0, and puts a range of its own there;
# and what is far below a range that narrow overflows as it is requantised.
NARROWEST = 1e-4
# Steps from 0 to the largest variance.
VARIANCE_STEPS = 255.0


# Replaces a tensor by what its delta encoding holds: (kind, tensor) -> tensor, with
# kind one of those that a block has thresholds for (kws.attention.slots).
Hold = Callable[[str, Any], Any]


def pass_on(kind: str, tensor: Any) -> Any:
    """The `Hold` of a network without delta pruning."""
    return tensor


def value(variable: Any) -> np.ndarray:
    """A variable's value now, also while a graph is being traced."""
    with tf.init_scope():
        return variable.numpy()


def _untracked(layer: Any, name: str, thing: Any) -> None:
    """Set an attribute past Keras, which would count its variables twice."""
    object.__setattr__(layer, name, thing)


class KwsLayer(tf_keras.layers.Layer):
    """A Keras layer that knows its mode.

    Args:
        mode: One of `MODES`.
        name: Name; becomes the prefix of the tensor's name in the .tflite.
    """

    def __init__(self, mode: str, name: str) -> None:
        super().__init__(name=name)
        if mode not in MODES:
            raise ValueError(f"Expected mode in {MODES}. Received: mode={mode!r}")
        self.mode = mode

    def _should_use_autograph(self) -> bool:
        """No: `call` is taken as it stands. Keras would have its source translated for
        conditions on tensors, which no layer here has; that took a third of the time
        of a short training."""
        return False

    @property
    def quantized(self) -> bool:
        """True where activations pass through fake quantization."""
        return self.mode in ("qat", "export")

    def get_config(self) -> dict[str, Any]:
        return {"mode": self.mode, "name": self.name}


class Mixing(KwsLayer):
    """Base of what mixes a block's tokens: the variants' `Attention` (kws/attention).

    `hold` replaces a tensor by what its delta encoding holds. `view` is a layer in
    front of the norm in front of it, which shows it the tokens in another shape; None:
    as they are.
    """

    def __init__(self, mode: str, name: str) -> None:
        super().__init__(mode, name)
        self.hold: Hold = pass_on
        self.view: KwsLayer | None = None


class Quantizer(KwsLayer):
    """Fake quantization of one activation tensor to int8.

    In mode `folded` it passes values through, and records their extremes while
    `Quantizer.observing` is true (calibration).

    Args:
        fixed: (minimum, maximum) where the kernel or the recipe fixes the range;
            otherwise a moving average of the batch's extremes.
        symmetric: Zero point 0 (used for Q and K: no cross terms in their product).
    """

    observing: ClassVar[bool] = False
    # Called with (quantizer, its output) on every eager call, where set; what it
    # returns, if anything, goes on instead.
    watcher: ClassVar[Callable[[Quantizer, Any], Any] | None] = None

    def __init__(
        self,
        mode: str,
        name: str,
        fixed: tuple[float, float] | None = None,
        symmetric: bool = False,
    ) -> None:
        super().__init__(mode, name)
        self.fixed = fixed
        self.symmetric = symmetric
        # What a delta encoding holds of the output goes on instead (kws/model/hold.py).
        self.hold: Callable[[Any], Any] | None = None
        self.observed: list[tuple[float, float]] = []
        self._quantizer = quantizers.MovingAverageQuantizer(
            num_bits=8, per_axis=False, symmetric=symmetric, narrow_range=False
        )
        self._range: dict[str, Any] = {}

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Average the ranges over replicas (tfmot leaves that unsaid)."""
        kwargs.setdefault("aggregation", tf.VariableAggregation.MEAN)
        return super().add_weight(*args, **kwargs)

    def build(self, input_shape: Any) -> None:
        if self.fixed is None and self.mode != "float":
            self._range = self._quantizer.build(input_shape, "range", self)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        outputs = self.quantize(inputs, training)
        if self.hold is not None:
            outputs = self.hold(outputs)
        if Quantizer.watcher is not None and tf.executing_eagerly():
            seen = Quantizer.watcher(self, outputs)
            return outputs if seen is None else seen
        return outputs

    def quantize(self, inputs: Any, training: Any) -> Any:
        if not self.quantized:
            if Quantizer.observing and tf.executing_eagerly():
                self.observe(inputs)
            return inputs
        if self.fixed is not None:
            return tf.quantization.fake_quant_with_min_max_args(
                inputs, min=self.fixed[0], max=self.fixed[1]
            )
        if self.mode == "export":
            low, high = self.limits()
            return tf.quantization.fake_quant_with_min_max_args(
                inputs, min=low, max=high
            )
        return self._quantizer(inputs, bool(training), self._range)

    def observe(self, inputs: Any) -> None:
        """Note the extremes of one calibration batch."""
        array = np.asarray(inputs)
        self.observed.append((float(array.min()), float(array.max())))

    def set_limits(self, low: float, high: float) -> None:
        """Set the range; 0 is always inside, and symmetric ranges have zero point 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low < NARROWEST:
            high = low + NARROWEST
        if self.symmetric:
            high = max(high, -low * 127.0 / 128.0)
            low = -high * 128.0 / 127.0
        self._range["min_var"].assign(low)
        self._range["max_var"].assign(high)

    def widen(self) -> None:
        """Give a range that has shrunk to nothing (a layer whose outputs are all 0) the
        least width that TensorFlow Lite keeps."""
        if self.fixed is None:
            low, high = self.limits()
            if high - low < NARROWEST:
                self.set_limits(low, high)

    def limits(self) -> tuple[float, float]:
        """(minimum, maximum) of the range."""
        if self.fixed is not None:
            return self.fixed
        return float(value(self._range["min_var"])), float(
            value(self._range["max_var"])
        )

    def grid(self) -> tuple[float, int]:
        """(scale, zero point) that the int8 tensor will have."""
        low, high = self.limits()
        scale = (high - low) / 255.0
        return scale, int(np.clip(np.rint(-low / scale), 0, 255)) - 128

    def step(self) -> Any:
        """The scale that the int8 tensor will have, as a tensor of the graph."""
        if self.fixed is not None:
            return tf.constant((self.fixed[1] - self.fixed[0]) / 255.0, tf.float32)
        low, high = self._range["min_var"], self._range["max_var"]
        return tf.stop_gradient((high - low) / 255.0)

    def end_calibration(self) -> None:
        """Take the mean of the batches' extremes as the range."""
        if self.fixed is None and self.observed:
            low, high = np.mean(self.observed, axis=0)
            self.set_limits(float(low), float(high))
        self.observed = []


class Kernel(KwsLayer):
    """Base of the layers with a kernel: per-channel symmetric int8 weights.

    Args:
        units: Output channels.
        use_bias: Add a bias.
    """

    def __init__(self, mode: str, name: str, units: int, use_bias: bool = True) -> None:
        super().__init__(mode, name)
        self.units = units
        self.use_bias = use_bias
        self.kernel: Any = None
        self.bias: Any = None
        self.lender: Kernel | None = None
        self._weight_range: dict[str, Any] = {}
        self._weight_quantizer = quantizers.LastValueQuantizer(
            num_bits=8, per_axis=True, symmetric=True, narrow_range=True
        )

    def borrow(self, lender: Kernel) -> None:
        """Use another layer's kernel instead of an own one; build that layer first."""
        _untracked(self, "lender", lender)

    def make(self, kernel_shape: tuple[int, ...]) -> None:
        if self.lender is not None:
            _untracked(self, "kernel", self.lender.kernel)
        else:
            self.kernel = self.add_weight(
                name="kernel", shape=kernel_shape, initializer="glorot_uniform"
            )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.units,), initializer="zeros"
            )

    def weights_now(self) -> tuple[Any, Any]:
        """(kernel, bias) as this mode sees them."""
        if self.mode == "qat":
            # The range is that of the kernel at hand, always: no state to go stale.
            limit = tf.reduce_max(
                tf.abs(self.kernel), axis=list(range(len(self.kernel.shape) - 1))
            )
            limit = tf.stop_gradient(tf.maximum(limit, 1e-8))
            kernel = self._weight_quantizer(
                self.kernel, False, {"min_var": -limit, "max_var": limit}
            )
            return kernel, self.bias
        if self.mode == "export":
            bias = None if self.bias is None else tf.constant(value(self.bias))
            return tf.constant(self.baked()), bias
        return self.kernel, self.bias

    def baked(self) -> np.ndarray:
        """The kernel on its int8 grid: what the converter will read off exactly."""
        kernel = value(self.kernel)
        limit = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
        step = np.maximum(limit, 1e-8) / 127.0
        return (np.clip(np.rint(kernel / step), -127, 127) * step).astype(np.float32)


class Dense(Kernel):
    """`x @ kernel + bias` over the last axis (FULLY_CONNECTED).

    Shapes: (B, T, in) -> (B, T, units), or (B, in) -> (B, units).
    """

    def build(self, input_shape: Any) -> None:
        self.make((int(input_shape[-1]), self.units))
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        kernel, bias = self.weights_now()
        outputs = tf.matmul(inputs, kernel)
        return outputs if bias is None else outputs + bias

    def fold(self, source: Dense, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front of it folded in."""
        kernel, bias = source.kernel.numpy(), source.bias.numpy()
        if norm is not None:
            gamma, shift = norm.fold_terms()
            kernel, bias = kernel * gamma[:, None], bias + shift @ kernel
        self.kernel.assign(kernel)
        self.bias.assign(bias)


def past_rows(rows: int, size: int, stride: int) -> int:
    """Rows of padding in front of a causal convolution: all of `SAME`'s.

    The last window then ends at the last row, whatever the number of rows.

    Example:
        >>> past_rows(98, size=5, stride=2), past_rows(198, size=5, stride=2)
        (3, 3)
    """
    return (-(-rows // stride) - 1) * stride + size - rows


class Convolution(Kernel):
    """2-D convolution, `SAME` padding (CONV_2D).

    Args:
        size: Of the window: (frames, bins), or one number for both.
        causal: All padding of the first axis, time, is in front (PAD, CONV_2D).

    Shapes: (B, frames, bins, 1) -> (B, frames/stride, bins/stride, units).
    """

    def __init__(
        self,
        mode: str,
        name: str,
        units: int,
        strides: tuple[int, int],
        use_bias: bool,
        size: int | tuple[int, int] = 5,
        causal: bool = False,
    ) -> None:
        super().__init__(mode, name, units, use_bias)
        self.strides = strides
        self.size = (size, size) if isinstance(size, int) else size
        self.causal = causal

    def build(self, input_shape: Any) -> None:
        self.make((*self.size, int(input_shape[-1]), self.units))
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        kernel, bias = self.weights_now()
        padding = "SAME"
        if self.causal:
            padding = "VALID"
            _, frames, bins, _ = inputs.shape
            past = past_rows(frames, self.size[0], self.strides[0])
            beside = max(0, past_rows(bins, self.size[1], self.strides[1]))
            sides = (beside // 2, beside - beside // 2)
            inputs = tf.pad(inputs, ((0, 0), (past, 0), sides, (0, 0)))
        outputs = tf.nn.conv2d(inputs, kernel, self.strides, padding)
        return outputs if bias is None else outputs + bias


class TokenConvolution(Kernel):
    """Depthwise convolution over tokens (DEPTHWISE_CONV_2D).

    Args:
        units: Width of a token.
        size: Tokens that it spans.
        centred: As many of them before the token as behind it, 0 where there are none
            (`SAME` padding). Otherwise the token itself and those before it, of which
            `size - 1` come in front of the inputs.
        activation: What follows, and is quantized with it; "" = nothing.

    Shapes: (B, size - 1 + T, units) -> (B, T, units); centred: (B, T, units) -> the
    same.
    """

    def __init__(
        self,
        mode: str,
        name: str,
        units: int,
        size: int,
        centred: bool = False,
        activation: str = "",
    ) -> None:
        super().__init__(mode, name, units)
        self.size = size
        self.centred = centred
        self.activation: Activation | None = None
        if activation:
            self.activation = Activation(mode, "activation", activation)

    def build(self, input_shape: Any) -> None:
        self.make((self.size, 1, self.units))
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        kernel, bias = self.weights_now()
        rows = 1 if self.mode == "export" else -1
        image = tf.reshape(inputs, (rows, inputs.shape[1], 1, self.units))
        padding = "SAME" if self.centred else "VALID"
        outputs = tf.nn.depthwise_conv2d(
            image, tf.expand_dims(kernel, -1), (1, 1, 1, 1), padding
        )
        outputs += bias
        if self.activation is not None:  # in front of the view, so that ReLU is fused
            outputs = self.activation(outputs, training=training)
        return tf.reshape(outputs, (rows, outputs.shape[1], self.units))


class DepthwiseConvolution(Kernel):
    """Depthwise 2-D convolution, `SAME` padding (DEPTHWISE_CONV_2D).

    TensorFlow has none whose strides differ, nor one with a stride and a dilation; the
    .tflite has. So all modes but `export` pad, and leave out bins of the result.

    Args:
        units: Channels.
        size: Of the window: (frames, bins).
        stride: Over bins.
        dilation: Frames from one tap to the next.
        use_bias: Add a bias.

    Shapes: (B, frames, bins, units) -> (B, frames, ceil(bins / stride), units).
    """

    def __init__(
        self,
        mode: str,
        name: str,
        units: int,
        size: tuple[int, int],
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = True,
    ) -> None:
        super().__init__(mode, name, units, use_bias)
        self.size = size
        self.stride = stride
        self.dilation = dilation

    def build(self, input_shape: Any) -> None:
        self.make((*self.size, self.units))
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        kernel, bias = self.weights_now()
        filters = tf.expand_dims(kernel, -1)
        if self.mode == "export":
            outputs = tf.raw_ops.DepthwiseConv2dNative(
                input=inputs,
                filter=filters,
                strides=(1, 1, self.stride, 1),
                dilations=(1, self.dilation, 1, 1),
                padding="SAME",
            )
        else:
            bins = inputs.shape[2]
            reach = (self.size[0] - 1) * self.dilation
            beside = max(0, past_rows(bins, self.size[1], self.stride))
            pads = [(n // 2, n - n // 2) for n in (reach, beside)]
            outputs = tf.nn.depthwise_conv2d(
                tf.pad(inputs, ((0, 0), *pads, (0, 0))),
                filters,
                (1, 1, 1, 1),
                "VALID",
                dilations=(self.dilation, 1),
            )[:, :, :: self.stride]
        return outputs if bias is None else outputs + bias


class Norm(KwsLayer):
    """Base of the norms: `normalise(x) * gamma + beta`.

    Args:
        folded: The scale and shift are the next projection's business: mode `float`
            keeps them here, the other modes do not have them. A norm that is
            followed by a residual (post-norm) can't be folded.
    """

    def __init__(self, mode: str, name: str, folded: bool) -> None:
        super().__init__(mode, name)
        self.affine = mode == "float" or not folded
        self.gamma: Any = None
        self.beta: Any = None
        self.lender: Norm | None = None
        if self.affine and mode != "float":
            self.scaled = Quantizer(mode, "scaled")
            self.shifted = Quantizer(mode, "shifted")

    def borrow(self, lender: Norm) -> None:
        """Use another norm's scale: what is folded into a shared kernel is shared."""
        _untracked(self, "lender", lender)

    def build(self, input_shape: Any) -> None:
        shape = (int(input_shape[-1]),)
        if self.affine:
            if self.lender is not None:
                _untracked(self, "gamma", self.lender.gamma)
            else:
                self.gamma = self.add_weight(
                    name="gamma", shape=shape, initializer="ones"
                )
            self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        super().build(input_shape)

    def finish(self, normal: Any, training: Any) -> Any:
        if not self.affine:
            return normal
        if self.mode == "float":
            return normal * self.gamma + self.beta
        scaled = self.scaled(normal * constant(self, self.gamma), training=training)
        return self.shifted(scaled + constant(self, self.beta), training=training)

    def fold_terms(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift) per channel for the next projection (mode `float`)."""
        return self.gamma.numpy(), self.beta.numpy()


class DyT(Norm):
    """Dynamic tanh: `tanh(a * x)`, with one learned `a`.

    No statistics over a row, so an element that is held stays held (DESIGN D5).
    On the board: one table of 256 entries.

    Reference: Zhu et al. 2025, "Transformers without Normalization".
    """

    def __init__(self, mode: str, name: str, folded: bool) -> None:
        super().__init__(mode, name, folded)
        self.stretched = Quantizer(mode, "stretched")
        self.squashed = Quantizer(mode, "squashed", fixed=TANH_RANGE)

    def build(self, input_shape: Any) -> None:
        self.alpha = self.add_weight(
            name="alpha", shape=(), initializer=tf_keras.initializers.Constant(0.5)
        )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        stretched = self.stretched(
            inputs * constant(self, self.alpha), training=training
        )
        return self.finish(
            self.squashed(tf.tanh(stretched), training=training), training
        )


class LayerNorm(Norm):
    """Layer normalisation over the last axis, epsilon 1e-6.

    Reference: Ba et al. 2016. Costs a MEAN, SUB, MUL, MEAN, RSQRT, MUL on the board.
    """

    EPSILON = 1e-6

    def __init__(self, mode: str, name: str, folded: bool) -> None:
        super().__init__(mode, name, folded)
        self.mean = Quantizer(mode, "mean")
        self.centred = Quantizer(mode, "centred", symmetric=True)
        self.squared = Quantizer(mode, "squared")
        self.variance = Quantizer(mode, "variance")
        self.inverse = Quantizer(mode, "inverse")
        self.normal = Quantizer(mode, "normal")

    def call(self, inputs: Any, training: Any = False) -> Any:
        mean = tf.reduce_mean(inputs, axis=-1, keepdims=True)
        centred = inputs - self.mean(mean, training=training)
        centred = self.centred(centred, training=training)
        squared = self.squared(centred * centred, training=training)
        variance = tf.reduce_mean(squared, axis=-1, keepdims=True)
        variance = self.variance(variance, training=training)
        if self.mode == "qat":
            # One int8 step: at 0 the kernel gives the largest inverse that there is.
            step = self.variance._range["max_var"] / VARIANCE_STEPS
            variance = tf.maximum(variance, tf.stop_gradient(step))
        elif self.mode != "export":
            # Far below one int8 step, so the exported graph leaves it out.
            variance += self.EPSILON
        inverse = self.inverse(tf.math.rsqrt(variance), training=training)
        return self.finish(self.normal(centred * inverse, training=training), training)

    def end_calibration(self) -> None:
        """Keep the inverse within what one int8 step of the variance gives: a row of
        almost no variance would stretch the range for nothing."""
        step = self.variance.limits()[1] / VARIANCE_STEPS
        low, high = self.inverse.limits()
        self.inverse.set_limits(low, min(high, step**-0.5))


class BatchNorm(Norm):
    """Batch normalisation over all but the last axis; nothing is left once folded.

    Reference: Ioffe and Szegedy 2015.
    """

    EPSILON = 1e-3
    MOMENTUM = 0.99

    def build(self, input_shape: Any) -> None:
        if self.affine:
            shape = (int(input_shape[-1]),)
            # Averaged, where several replicas each have their own batch.
            common: dict[str, Any] = {
                "shape": shape,
                "trainable": False,
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.MEAN,
            }
            self.moving_mean = self.add_weight("mean", initializer="zeros", **common)
            self.moving_variance = self.add_weight(
                "variance", initializer="ones", **common
            )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        if not self.affine:
            return inputs
        if self.mode != "float":  # post-norm: gamma and beta hold the statistics
            return self.finish(inputs, training)
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            axes = list(range(len(inputs.shape) - 1))
            mean, variance = tf.nn.moments(inputs, axes)
            for moving, now in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                moving.assign(moving * self.MOMENTUM + now * (1.0 - self.MOMENTUM))
        scale = self.gamma * tf.math.rsqrt(variance + self.EPSILON)
        return inputs * scale + (self.beta - mean * scale)

    def fold_terms(self) -> tuple[np.ndarray, np.ndarray]:
        deviation = np.sqrt(self.moving_variance.numpy() + self.EPSILON)
        scale = self.gamma.numpy() / deviation
        return scale, self.beta.numpy() - self.moving_mean.numpy() * scale


NORMS = {"dyt": DyT, "layer": LayerNorm, "batch": BatchNorm}


def constant(layer: KwsLayer, variable: Any) -> Any:
    """A variable, or in mode `export` its value."""
    return tf.constant(value(variable)) if layer.mode == "export" else variable


def quantized_constant(layer: KwsLayer, variable: Any) -> Any:
    """A variable as a constant of the .tflite has it, which the converter quantizes to
    its own extremes; as it is in modes without quantization."""
    if not layer.quantized:
        return variable
    if layer.mode == "export":
        table = value(variable)
        low, high = min(float(table.min()), 0.0), max(float(table.max()), 1e-6)
        return tf.quantization.fake_quant_with_min_max_args(
            tf.constant(table), min=low, max=high
        )
    low = tf.minimum(tf.reduce_min(variable), 0.0)
    high = tf.maximum(tf.reduce_max(variable), 1e-6)
    return tf.quantization.fake_quant_with_min_max_vars(
        variable, tf.stop_gradient(low), tf.stop_gradient(high)
    )


class SubTokens(KwsLayer):
    """Tokens taken apart: each becomes `fold` rows of `dim / fold` columns.

    A view: nothing is moved.

    Args:
        fold: Sub-tokens of a token.
        offset: Add a learned offset to each token first, so that what its sub-tokens
            share can tell them apart (ADD of a row).

    Shapes: (B, T, dim) -> (B, fold * T, dim / fold).
    """

    def __init__(self, mode: str, name: str, fold: int, offset: bool) -> None:
        super().__init__(mode, name)
        self.size = fold
        self.with_offset = offset
        self.outputs_range = Quantizer(mode, "outputs") if offset else None

    def build(self, input_shape: Any) -> None:
        if self.with_offset:
            self.offset = self.add_weight(
                name="offset",
                shape=(1, 1, int(input_shape[-1])),
                initializer=tf_keras.initializers.RandomNormal(stddev=0.02),
            )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs
        if self.outputs_range is not None:
            x = x + quantized_constant(self, self.offset)
            x = self.outputs_range(x, training=training)
        _, tokens, dim = inputs.shape
        rows = 1 if self.mode == "export" else -1
        return tf.reshape(x, (rows, self.size * tokens, dim // self.size))

    def whole(self, rows: Any) -> Any:
        """The way back: (B, fold * T, dim / fold) -> (B, T, dim)."""
        batch = 1 if self.mode == "export" else -1
        shape = (batch, rows.shape[1] // self.size, rows.shape[2] * self.size)
        return tf.reshape(rows, shape)

    def fold(self, source: SubTokens) -> None:
        if self.with_offset:
            self.offset.assign(source.offset)


class Activation(KwsLayer):
    """`relu`, `hard_swish`, or `gelu` as x * sigmoid(1.702 x), and its quantizers.

    `gelu_tanh` is the tanh approximation (Hendrycks and Gimpel 2016) that imported
    weights were trained with; once quantized it is `gelu`, which is within 0.021 of it.
    `tf.nn.gelu` is never used in what is converted: TFLM has no GELU operator.
    """

    def __init__(self, mode: str, name: str, kind: str) -> None:
        super().__init__(mode, name)
        self.kind = kind
        if kind != "relu":
            self.inputs_range = Quantizer(mode, "inputs")
        if kind in ("gelu", "gelu_tanh"):
            self.stretched = Quantizer(mode, "stretched")
            self.gate = Quantizer(mode, "gate", fixed=UNIT_RANGE)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, training: Any = False) -> Any:
        if self.kind == "relu":  # fused into the projection in front
            outputs = tf.nn.relu(inputs)
        elif self.kind == "hard_swish":
            x = self.inputs_range(inputs, training=training)
            outputs = x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)
        else:
            x = self.inputs_range(inputs, training=training)
            stretched = self.stretched(x * 1.702, training=training)
            if self.kind == "gelu_tanh" and not self.quantized:
                outputs = tf.nn.gelu(x, approximate=True)
            else:
                gate = self.gate(tf.sigmoid(stretched), training=training)
                outputs = x * gate
        return self.outputs_range(outputs, training=training)
