"""Kernel cases: random int8 operators, TFLM's answers, and the C that checks them.

A case is C text: constants, and a function that calls the kernel and compares. The
same cases run on the host under sanitizers and on QEMU's Cortex-M cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel_support import tflm
from kernel_support.tflm import schema
from kws.graph import quantized_math as qm
from kws.graph import weight_layout

Quantization = tuple[float, int]


@dataclass(frozen=True)
class Case:
    """A kernel call and what it must give, as C.

    Args:
        name: A C identifier.
        constants: Definitions of the case's arrays and structs.
        call: Statements that fill `<name>_out`.
    """

    name: str
    constants: str
    call: str


def c_array(name: str, values: Any, kind: str = "int8_t", aligned: bool = False) -> str:
    """A constant array definition."""
    flat = np.asarray(values).ravel().tolist() or [0]
    # INT32_MIN has no literal in C: its digits are too large before the minus.
    items = ["INT32_MIN" if v == -(2**31) else str(int(v)) for v in flat]
    lines = [", ".join(items[i : i + 20]) for i in range(0, len(items), 20)]
    attribute = " __attribute__((aligned(4)))" if aligned else ""
    body = ",\n  ".join(lines)
    return f"static const {kind} {name}[{len(flat)}]{attribute} = {{\n  {body}}};\n"


def c_weights(name: str, weights: np.ndarray) -> str:
    """The matrix in the layout of the core that compiles it."""
    dsp = np.frombuffer(weight_layout.layout(weights, "dsp"), np.int8)
    plain = np.frombuffer(weight_layout.layout(weights, "portable"), np.int8)
    return (
        "#if KWS_WEIGHT_LAYOUT == KWS_LAYOUT_DSP\n"
        + c_array(name, dsp, aligned=True)
        + "#else\n"
        + c_array(name, plain, aligned=True)
        + "#endif\n"
    )


def c_depthwise_weights(name: str, weights: np.ndarray) -> str:
    """The same of a DEPTHWISE_CONV_2D; every core has its own layout."""
    text = ""
    for core in weight_layout.CORES:
        data = np.frombuffer(weight_layout.depthwise_layout(weights, core), np.int8)
        text += f"#if KWS_WEIGHT_LAYOUT == KWS_LAYOUT_{core.upper()}\n"
        text += c_array(name, data, aligned=True) + "#endif\n"
    return text


def c_struct(kind: str, name: str, *parameters: Any) -> str:
    """A constant struct from dataclasses whose fields are the struct's, in order."""
    fields = [item for part in parameters for item in dataclasses.asdict(part).items()]
    body = ", ".join(f".{key} = {value}" for key, value in fields)
    return f"static const {kind} {name} = {{{body}}};\n"


def c_output(name: str, expected: np.ndarray, scratch: str = "4") -> str:
    """The expected result, room for the kernel's, and its scratch."""
    return (
        c_array(f"{name}_expected", expected)
        + f"static int8_t {name}_out[{max(1, expected.size)}];\n"
        + f"static int32_t {name}_scratch[(({scratch}) + 3) / 4];\n"
    )


# ---- Random material ---------------------------------------------


def _scale(rng: np.random.Generator, low: float = 1e-3, high: float = 0.2) -> float:
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _zero_point(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))]))


def _quantization(rng: np.random.Generator) -> Quantization:
    return _scale(rng), _zero_point(rng)


def _int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    kind = rng.integers(0, 4)
    if kind == 0:
        return rng.choice(np.array([-128, -127, 0, 127], np.int8), shape)
    if kind == 1:
        values = rng.normal(0, 20, shape).round().clip(-128, 127)
        return values.astype(np.int8)
    return rng.integers(-128, 128, shape).astype(np.int8)


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.maximum(_int8(rng, *shape), -127).astype(np.int8)


def _activation(rng: np.random.Generator) -> str:
    return str(rng.choice(["none", "none", "relu", "relu6", "relu_n1_to_1"]))


def _output_scale(rng: np.random.Generator, real: np.ndarray) -> float:
    """A scale that spreads the real values over int8, now and then far off."""
    spread = float(np.abs(real).max()) or 1.0
    factor = rng.choice([1.0, 1.0, 1.0, 0.02, 30.0])
    return float(np.float32(spread * factor / 127))


# ---- Matrix products ---------------------------------------------


def _product_struct(
    name: str,
    weights: np.ndarray,
    bias: np.ndarray | None,
    input_zero_point: int,
    multipliers: list[tuple[int, int]],
    output: Quantization,
    activation: str,
    lay_out: Callable[[str, np.ndarray], str] = c_weights,
) -> tuple[str, str]:
    """Arrays, and the fields of a kws_fully_connected_t."""
    outputs, inputs = weights.shape
    if len(multipliers) == 1:
        multipliers = multipliers * outputs
    low, high = qm.calculate_activation_range(activation, *output)
    folded = qm.fold_bias(weights, bias, input_zero_point)
    ordinary = qm.is_ordinary(weights, folded, multipliers, (low, high))
    arrays = (
        lay_out(f"{name}_weights", weights)
        + c_array(f"{name}_bias", folded, "int32_t")
        + c_array(f"{name}_multiplier", [m for m, _ in multipliers], "int32_t")
        + c_array(f"{name}_shift", [s for _, s in multipliers])
    )
    fields = (
        f"{{.inputs = {inputs}, .outputs = {outputs}, .weights = {name}_weights, "
        f".bias = {name}_bias, .multiplier = {name}_multiplier, "
        f".shift = {name}_shift, .output_zero_point = {output[1]}, "
        f".activation_min = {low}, .activation_max = {high}, "
        f".ordinary = {int(ordinary)}}}"
    )
    return arrays, fields


def _weights_and_bias(
    rng: np.random.Generator, outputs: int, inputs: int, per_channel: bool
) -> tuple[np.ndarray, list[float], np.ndarray | None]:
    scales = [_scale(rng) for _ in range(outputs if per_channel else 1)]
    bias = None
    if rng.random() < 0.8:
        bias = rng.integers(-20000, 20000, outputs).astype(np.int32)
    return _weights(rng, outputs, inputs), scales, bias


def fully_connected(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int] | None = None,
    extreme: bool = False,
) -> Case:
    """FULLY_CONNECTED, plain and transposed; shape = rows, inputs, outputs.

    extreme: weights and inputs at their ends, so that sums are as large as they get.
    """
    rows, inputs, outputs = shape or (
        int(rng.integers(1, 9)),
        int(rng.choice([1, 3, 4, 16, 25, 33, 48, 64, 100, int(rng.integers(1, 140))])),
        int(rng.integers(1, 20)),
    )
    x_scale, x_zero = _quantization(rng)
    weights, scales, bias = _weights_and_bias(rng, outputs, inputs, rng.random() < 0.6)
    x = _int8(rng, rows, inputs)
    if extreme:
        x = np.where(x < 0, -128, 127).astype(np.int8)
        signs = np.sign(x[0]) * rng.choice([-1, 1], (outputs, 1))
        weights[:] = 127 * np.where(rng.random(weights.shape) < 0.02, -signs, signs)
    accumulators = (x.astype(np.int64) - x_zero) @ weights.T.astype(np.int64)
    real = (accumulators + (0 if bias is None else bias)) * x_scale * np.array(scales)
    y = _output_scale(rng, real), _zero_point(rng)
    activation = _activation(rng)

    model = tflm.Model()
    x_index = model.tensor(x.shape, x_scale, x_zero)
    operands = [x_index, model.tensor(weights.shape, scales, data=weights)]
    if bias is None:
        operands.append(-1)
    else:
        bias_scales = np.float32(x_scale) * np.array(scales, np.float32)
        operands.append(model.tensor(bias.shape, bias_scales, data=bias))
    y_index = model.tensor((rows, outputs), *y)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = tflm.ACTIVATIONS[activation]
    model.operator("FULLY_CONNECTED", operands, y_index, options)
    expected = model.run({x_index: x}, y_index)

    multipliers = qm.fully_connected_multipliers(x_scale, scales, y[0])
    arrays, fields = _product_struct(
        name, weights, bias, x_zero, multipliers, y, activation
    )
    scratch = f"KWS_FULLY_CONNECTED_SCRATCH_BYTES({inputs})"
    transposed = bool(rng.random() < 0.3)
    if transposed:
        expected = expected.T
        call = (
            f"kws_fully_connected_transposed_s8(&{name}, {name}_x, {rows}, "
            f"{name}_out, {rows}, {name}_scratch);"
        )
    else:
        call = (
            f"kws_fully_connected_s8(&{name}, {name}_x, {rows}, {name}_out, "
            f"{name}_scratch);"
        )
    constants = (
        arrays
        + c_array(f"{name}_x", x)
        + f"static const kws_fully_connected_t {name} = {fields};\n"
        + c_output(name, np.ascontiguousarray(expected), scratch)
    )
    return Case(name, constants, call)


def _output_size(
    size: int, taps: int, step: int, same: bool, spread: int = 1
) -> tuple[int, int]:
    """Windows along one side of an image, and the padding before the first."""
    reach = (taps - 1) * spread + 1
    if not same:
        return (size - reach) // step + 1, 0
    out = -(-size // step)
    return out, max(0, (out - 1) * step + reach - size) // 2


def conv_2d(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int, int, int] | None = None,
) -> Case:
    """CONV_2D, per channel; half its output rows at a time.

    shape = height, width, channels, filter height, filter width.
    """
    height, width, channels, filter_height, filter_width = shape or (
        int(rng.integers(5, 13)),
        int(rng.integers(5, 13)),
        int(rng.choice([1, 1, 2, 3])),
        int(rng.integers(1, 6)),
        int(rng.integers(1, 6)),
    )
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    dilation = (1, 1)
    if stride == (1, 1) and filter_height < 4 and filter_width < 4:
        dilation = (2, 1)
    same = bool(rng.random() < 0.7) or dilation != (1, 1)
    outputs = int(rng.integers(1, 9))
    x_scale, x_zero = _quantization(rng)
    inputs = filter_height * filter_width * channels
    weights, scales, bias = _weights_and_bias(rng, outputs, inputs, True)
    filters = weights.reshape(outputs, filter_height, filter_width, channels)
    x = _int8(rng, 1, height, width, channels)
    out_height, pad_top = _output_size(
        height, filter_height, stride[0], same, dilation[0]
    )
    out_width, pad_left = _output_size(
        width, filter_width, stride[1], same, dilation[1]
    )
    spread = np.sqrt(inputs) * 60 * 60 * x_scale * max(scales)
    y = float(np.float32(spread / 40)), _zero_point(rng)
    activation = _activation(rng)
    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = stride
    options.dilationHFactor, options.dilationWFactor = dilation
    options.fusedActivationFunction = tflm.ACTIVATIONS[activation]
    out = (1, out_height, out_width, outputs)
    expected = _convolution(
        "CONV_2D", (x, x_scale, x_zero), (filters, scales, 0), bias, (out, *y), options
    )
    multipliers = qm.conv_multipliers(x_scale, scales, y[0])
    arrays, fields = _product_struct(
        name, weights, bias, x_zero, multipliers, y, activation
    )
    constants = (
        arrays
        + c_array(f"{name}_x", x)
        + f"static const kws_conv_2d_t {name} = {{.input_height = {height}, "
        f".input_width = {width}, .input_channels = {channels}, "
        f".output_height = {out_height}, .output_width = {out_width}, "
        f".filter_height = {filter_height}, .filter_width = {filter_width}, "
        f".stride_height = {stride[0]}, .stride_width = {stride[1]}, "
        f".dilation_height = {dilation[0]}, .dilation_width = {dilation[1]}, "
        f".pad_top = {pad_top}, .pad_left = {pad_left}, "
        f".input_zero_point = {x_zero}, .product = {fields}}};\n"
        + c_output(name, expected, f"KWS_CONV_2D_SCRATCH_BYTES({inputs})")
    )
    call = _in_two_parts("kws_conv_2d_s8", name, out_height, out_width * outputs)
    return Case(name, constants, call)


def _convolution(
    kind: str,
    x: tuple[np.ndarray, float, int],
    filters: tuple[np.ndarray, list[float], int],
    bias: np.ndarray | None,
    y: tuple[tuple[int, ...], float, int],
    options: Any,
) -> np.ndarray:
    """TFLM's answer for a convolution.

    Args:
        kind: Of it.
        x: Values, scale, zero point.
        filters: Values, scales, and their axis.
        bias: Per output, or None.
        y: Shape, scale, zero point.
        options: The schema's.
    """
    model = tflm.Model()
    x_index = model.tensor(x[0].shape, *x[1:])
    values, scales, axis = filters
    operands = [x_index, model.tensor(values.shape, scales, axis=axis, data=values)]
    if bias is not None:
        bias_scales = np.float32(x[1]) * np.array(scales, np.float32)
        operands.append(model.tensor(bias.shape, bias_scales, data=bias))
    y_index = model.tensor(*y)
    model.operator(kind, operands, y_index, options)
    return model.run({x_index: x[0]}, y_index)


def _in_two_parts(kernel: str, name: str, rows: int, row: int) -> str:
    """Calls of a convolution for half of its output rows, then the others."""
    half = rows // 2
    return (
        f"{kernel}(&{name}, {name}_x, 0, {half}, {name}_out, {name}_scratch);\n"
        f"  {kernel}(&{name}, {name}_x, {half}, {rows - half}, "
        f"{name}_out + {half * row}, {name}_scratch);"
    )


def depthwise_conv_2d(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int, int, int] | None = None,
) -> Case:
    """DEPTHWISE_CONV_2D, per channel or per tensor; half its output rows at a time.

    Half of them are tokens of a stream: windows of width 1 that give one row or a few.

    shape = height, width, channels, filter height, filter width, all of it VALID.
    """
    stride, same, dilation = (1, 1), False, (1, 1)
    if shape is None and rng.random() < 0.5:
        taps = int(rng.choice([3, 4, 5, 15]))
        channels = int(rng.choice([32, 40, 48, int(rng.integers(1, 50))]))
        shape = (taps + int(rng.choice([0, 0, 2])), 1, channels, taps, 1)
    elif shape is None:
        shape = (
            *(int(v) for v in rng.integers(3, 8, 2)),
            int(rng.choice([1, 3, 4, 16, 19, 32, int(rng.integers(1, 50))])),
            *(int(v) for v in rng.integers(1, 6, 2)),
        )
        stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        if rng.random() < 0.4:
            dilation = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        reach = [(n - 1) * d for n, d in zip(shape[3:], dilation, strict=True)]
        same = bool(rng.random() < 0.6) or max(reach) >= min(shape[:2])
    height, width, channels, filter_height, filter_width = shape
    taps = filter_height * filter_width
    x_scale, x_zero = _quantization(rng)
    weights, scales, bias = _weights_and_bias(rng, channels, taps, rng.random() < 0.8)
    scales = [max(scale, 0.03) for scale in scales]  # near enough to each other
    filters = np.ascontiguousarray(weights.T).reshape(
        1, filter_height, filter_width, channels
    )
    x = _int8(rng, 1, height, width, channels)
    if rng.random() < 0.15:
        # The largest sums that there are, which 16 bits hold of two taps.
        x[:], weights[:], filters[:] = -128, -127, -127
    out_height, pad_top = _output_size(
        height, filter_height, stride[0], same, dilation[0]
    )
    out_width, pad_left = _output_size(
        width, filter_width, stride[1], same, dilation[1]
    )
    spread = np.sqrt(taps) * 60 * 60 * x_scale * max(scales)
    # Now and then so far off that a shift is to the left.
    factor = 1e-5 if rng.random() < 0.1 else 1 / 30
    y = float(np.float32(spread * factor)), int(rng.integers(-128, 100))
    activation = "none" if rng.random() < 0.6 else _activation(rng)
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = stride
    options.dilationHFactor, options.dilationWFactor = dilation
    options.depthMultiplier = 1
    options.fusedActivationFunction = tflm.ACTIVATIONS[activation]
    out = (1, out_height, out_width, channels)
    expected = _convolution(
        "DEPTHWISE_CONV_2D",
        (x, x_scale, x_zero),
        (filters, scales, 3),
        bias,
        (out, *y),
        options,
    )
    multipliers = qm.conv_multipliers(x_scale, scales, y[0])
    arrays, fields = _product_struct(
        name, weights, bias, x_zero, multipliers, y, activation, c_depthwise_weights
    )
    scratch = f"KWS_DEPTHWISE_CONV_2D_SCRATCH_BYTES({taps}, {channels})"
    constants = (
        arrays
        + c_array(f"{name}_x", x)
        + f"static const kws_depthwise_conv_2d_t {name} = {{"
        f".input_height = {height}, .input_width = {width}, "
        f".output_height = {out_height}, .output_width = {out_width}, "
        f".filter_height = {filter_height}, .filter_width = {filter_width}, "
        f".stride_height = {stride[0]}, .stride_width = {stride[1]}, "
        f".dilation_height = {dilation[0]}, .dilation_width = {dilation[1]}, "
        f".pad_top = {pad_top}, .pad_left = {pad_left}, "
        f".input_zero_point = {x_zero}, .taps = {fields}}};\n"
        + c_output(name, expected, scratch).replace(
            "static int32_t", "static _Alignas(8) int32_t"
        )
    )
    call = _in_two_parts(
        "kws_depthwise_conv_2d_s8", name, out_height, out_width * channels
    )
    return Case(name, constants, call)


def _product_parameters(
    a: Quantization, b: Quantization, y: Quantization
) -> dict[str, int]:
    multiplier, shift = qm.batch_matmul_multiplier(a[0], b[0], y[0])
    return {
        "a_zero_point": a[1],
        "b_zero_point": b[1],
        "multiplier": multiplier,
        "shift": shift,
        "activation_min": -128,
        "activation_max": 127,
        "output_zero_point": y[1],
    }


def _fields(parameters: dict[str, Any]) -> str:
    body = ", ".join(f".{key} = {value}" for key, value in parameters.items())
    return f"{{{body}}}"


def batch_matmul(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int] | None = None,
    rows: bool = False,
) -> Case:
    """BATCH_MATMUL with each adjoint; shape = m, n, inner, b's inner axis first, or
    where `rows` last."""
    m, n, inner = shape or (int(v) for v in rng.integers(1, (8, 12, 70)))
    a_q, b_q = _quantization(rng), _quantization(rng)
    a, b = _int8(rng, m, inner), _int8(rng, n, inner)
    real = (a.astype(np.int64) - a_q[1]) @ (b.T.astype(np.int64) - b_q[1])
    y = _output_scale(rng, real * a_q[0] * b_q[0]), _zero_point(rng)
    options = schema.BatchMatMulOptionsT()
    options.adjX, options.adjY = bool(rng.random() < 0.3), bool(rng.random() < 0.6)
    if shape:
        options.adjX, options.adjY = False, rows
    expected = tflm.operator(
        "BATCH_MATMUL",
        [
            (np.ascontiguousarray(a.T if options.adjX else a)[None], *a_q),
            (np.ascontiguousarray(b if options.adjY else b.T)[None], *b_q),
        ],
        ((1, m, n), *y),
        options,
    )
    fields = _fields(_product_parameters(a_q, b_q, y))
    kernel = "batch_matmul" if options.adjY else "batch_matmul_columns"
    scratch = f"KWS_{kernel.upper()}_SCRATCH_BYTES({inner})"
    constants = (
        c_array(f"{name}_a", a)
        + c_array(f"{name}_b", b if options.adjY else b.T)
        + f"static const kws_batch_matmul_t {name} = {fields};\n"
        + c_output(name, expected, scratch)
    )
    call = (
        f"kws_{kernel}_s8(&{name}, {name}_a, {inner}, {name}_b, "
        f"{inner if options.adjY else n}, {m}, {n}, {inner}, {name}_out, {n}, "
        f"{name}_scratch);"
    )
    return Case(name, constants, call)


# ---- Attention ---------------------------------------------


def attention(
    rng: np.random.Generator, name: str, shape: tuple[int, int, int] | None = None
) -> Case:
    """Q.K^T, sometimes a MUL by a constant, SOFTMAX, P.V; shape = tokens, heads, dim.

    The kernel is called for a first row and then the rest, in place over Q.
    """
    tokens, heads, head_dim = shape or (
        int(rng.integers(1, 20)),
        int(rng.choice([1, 1, 2, 3])),
        4 * int(rng.integers(1, 9)),
    )
    width = heads * head_dim
    quantizations = [_quantization(rng) for _ in range(3)]
    q, k, v = (_int8(rng, tokens, width) for _ in range(3))
    (q_q, k_q, v_q) = quantizations
    real = (q.astype(np.int64) - q_q[1]) @ (k.T.astype(np.int64) - k_q[1])
    spread = np.abs(real).max() * q_q[0] * k_q[0] or 1.0
    score = float(np.float32(spread / 100)), _zero_point(rng)
    scaled = bool(rng.random() < 0.4)
    # Bring the softmax's input to a range of about +-6.
    wanted = float(np.float32(6 / 127))
    p_q = (1 / 256, -128)
    out_q = float(np.float32(v_q[0] * rng.uniform(0.5, 1.5))), _zero_point(rng)
    softmax_q = (wanted, _zero_point(rng)) if scaled else (score[0], score[1])
    constant = int(rng.integers(20, 127))
    constant_q = (float(np.float32(6 / spread / constant)), 0)

    expected = np.empty((tokens, width), np.int8)
    for head in range(heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        model = tflm.Model()
        indices = [
            model.tensor((1, tokens, head_dim), *quantization)
            for quantization in quantizations
        ]
        transposed = schema.BatchMatMulOptionsT()
        transposed.adjY = True
        s = model.operator(
            "BATCH_MATMUL",
            indices[:2],
            model.tensor((1, tokens, tokens), *score),
            transposed,
        )
        if scaled:
            scalar = np.array([constant], np.int8)
            s = model.operator(
                "MUL",
                [s, model.tensor((1,), *constant_q, data=scalar)],
                model.tensor((1, tokens, tokens), *softmax_q),
                schema.MulOptionsT(),
            )
        softmax = schema.SoftmaxOptionsT()
        softmax.beta = 1.0
        p = model.operator(
            "SOFTMAX", [s], model.tensor((1, tokens, tokens), *p_q), softmax
        )
        o = model.operator(
            "BATCH_MATMUL",
            [p, indices[2]],
            model.tensor((1, tokens, head_dim), *out_q),
            schema.BatchMatMulOptionsT(),
        )
        values = [np.ascontiguousarray(t[:, columns]) for t in (q, k, v)]
        expected[:, columns] = model.run(
            dict(zip(indices, values, strict=True)), o
        ).reshape(tokens, head_dim)

    v_stride = weight_layout.attention_v_stride(tokens)
    k_buffer = np.full(weight_layout.attention_k_bytes(tokens, width), 77, np.int8)
    k_buffer[: k.size] = k.ravel()
    v_buffer = np.full((width, v_stride), -99, np.int8)
    v_buffer[:, :tokens] = v.T
    table = "NULL"
    constants = ""
    if scaled:
        parameters = qm.mul_parameters(score, constant_q, softmax_q)
        constants += c_array(
            f"{name}_table", [qm.mul(parameters, x, constant) for x in range(-128, 128)]
        )
        table = f"{name}_table"
    exp_table = qm.softmax_exp_table(1.0, softmax_q[0])
    constants += (
        c_array(f"{name}_exp", exp_table, "int32_t")
        + f"static const kws_attention_t {name} = {{.tokens = {tokens}, "
        f".heads = {heads}, .head_dim = {head_dim}, "
        f".scores = {_fields(_product_parameters(q_q, k_q, score))}, "
        f".score_table = {table}, .softmax = {{.exp_table = {name}_exp}}, "
        f".values = {_fields(_product_parameters(p_q, v_q, out_q))}}};\n"
        + c_array(f"{name}_q", q)
        + c_array(f"{name}_k", k_buffer, aligned=True).replace("const ", "")
        + c_array(f"{name}_v", v_buffer, aligned=True).replace("const ", "")
        + c_output(
            name,
            expected,
            f"KWS_ATTENTION_SCRATCH_BYTES({tokens}, {heads}, {head_dim})",
        )
    )
    call = (
        f"for (size_t i = 0; i < sizeof {name}_q; ++i) {name}_out[i] = {name}_q[i];\n"
        f"  kws_attention_prepare(&{name}, {name}_k, {name}_v, {name}_scratch);\n"
        f"  kws_attention_rows_s8(&{name}, {name}_out, 1, {name}_k, {name}_v, "
        f"{name}_out, {name}_scratch);\n"
        f"  kws_attention_rows_s8(&{name}, {name}_out + {width}, {tokens - 1}, "
        f"{name}_k, {name}_v, {name}_out + {width}, {name}_scratch);"
    )
    return Case(name, constants, call)


# ---- Linear attention ---------------------------------------------


def linear_attention(
    rng: np.random.Generator, name: str, shape: tuple[int, int, int] | None = None
) -> Case:
    """Tokens of a stream, one after the other; shape = tokens, window, width.

    TFLM sums up each token's window anew; the kernel adds and takes away.
    """
    tokens, window, width = shape or (
        int(rng.integers(1, 14)),
        int(rng.integers(2, 7)),
        int(rng.integers(1, 22)),
    )
    k_q, v_q, q_q = (_quantization(rng) for _ in range(3))
    k, v, q = (_int8(rng, tokens, width) for _ in range(3))
    for values, (_, zero) in ((k, k_q), (q, q_q)):  # as a rectifier leaves them
        values[rng.random(values.shape) < 0.4] = zero
    if rng.random() < 0.3:
        v[:], k[:] = v[0], k[0]  # nothing changes once the window is full

    def windows(values: np.ndarray, zero: int) -> np.ndarray:
        padded = np.pad(values, ((window, 0), (0, 0)), constant_values=zero)
        return np.stack([padded[t + 1 : t + 1 + window] for t in range(tokens)])

    k_seen, v_seen = windows(k, k_q[1]), windows(v, v_q[1])
    k_real = (k_seen.astype(np.int64) - k_q[1]) * k_q[0]
    v_real = (v_seen.astype(np.int64) - v_q[1]) * v_q[0]
    q_real = ((q.astype(np.int64) - q_q[1]) * q_q[0])[:, None]
    state, mean = k_real.swapaxes(1, 2) @ v_real, k_real.mean(axis=1, keepdims=True)
    weighed = q_real @ mean.swapaxes(1, 2)
    s_q, z_q, m_q, w_q = (
        (_output_scale(rng, real), _zero_point(rng))
        for real in (state, mean, q_real @ state, weighed)
    )
    model = tflm.Model()
    inputs = [
        model.tensor((tokens, window, width), *k_q),
        model.tensor((tokens, window, width), *v_q),
        model.tensor((tokens, 1, width), *q_q),
    ]
    given = dict(zip(inputs, (k_seen, v_seen, q[:, None]), strict=True))

    def product(a: int, b: int, rows: int, columns: int, to: Quantization) -> int:
        options = schema.BatchMatMulOptionsT()
        options.adjX, options.adjY = a == inputs[0], columns == 1 and b != inputs[1]
        out = model.tensor((tokens, rows, columns), *to)
        return model.operator("BATCH_MATMUL", [a, b], out, options)

    s = product(inputs[0], inputs[1], width, width, s_q)
    mixed = product(inputs[2], s, 1, width, m_q)
    averaging = schema.ReducerOptionsT()
    averaging.keepDims = True
    axis = model.tensor((1,), data=np.array([1], np.int32))
    z = model.tensor((tokens, 1, width), *z_q)
    model.operator("MEAN", [inputs[0], axis], z, averaging)
    weight = product(inputs[2], z, 1, 1, w_q)
    weights = model.run(given, weight).reshape(tokens, 1)
    mixes = model.run(given, mixed).reshape(tokens, width)
    table, inverse_q, y_q = _int8(rng, 256), _quantization(rng), _zero_point(rng)
    inverses = table[weights.astype(int) + 128]
    real = (mixes - float(m_q[1])) * (inverses - float(inverse_q[1]))
    y = _output_scale(rng, real * m_q[0] * inverse_q[0]), y_q
    expected = tflm.operator(
        "MUL",
        [(mixes, *m_q), (inverses, *inverse_q)],
        ((tokens, width), *y),
        schema.MulOptionsT(),
    )
    parts = {
        "state": _product_parameters(k_q, v_q, s_q),
        "mean": dataclasses.asdict(qm.mean_parameters(k_q, z_q, window)),
        "mix": _product_parameters(q_q, s_q, m_q),
        "weigh": _product_parameters(q_q, z_q, w_q),
        "scale": dataclasses.asdict(qm.mul_parameters(m_q, inverse_q, y, "none")),
    }
    fields = ", ".join(f".{key} = {_fields(part)}" for key, part in parts.items())
    padded = [
        np.pad(values, ((window, 0), (0, 0)), constant_values=zero)
        for values, zero in ((k, k_q[1]), (v, v_q[1]))
    ]
    constants = (
        c_array(f"{name}_k", padded[0])
        + c_array(f"{name}_v", padded[1])
        + c_array(f"{name}_q", q)
        + c_array(f"{name}_table", table)
        + f"static const kws_linear_attention_t {name} = {{.width = {width}, "
        f".inverse = {name}_table, {fields}}};\n" + f"static int32_t {name}_sums"
        f"[KWS_LINEAR_ATTENTION_STATE_BYTES({width}) / 4];\n"
        + c_output(name, expected, f"KWS_LINEAR_ATTENTION_SCRATCH_BYTES({width})")
    )
    call = (
        f"for (int t = 0; t < {tokens}; ++t) {{\n"
        f"    const int oldest = t * {width}, newest = oldest + {window * width};\n"
        f"    kws_linear_attention_step_s8(&{name}, {name}_k + newest, "
        f"{name}_k + oldest, {name}_v + newest, {name}_v + oldest, {name}_q + oldest, "
        f"{name}_sums, "
        f"{name}_out + oldest, {name}_scratch);\n  }}"
    )
    return Case(name, constants, call)


# ---- The rest ---------------------------------------------


def softmax(rng: np.random.Generator, name: str) -> Case:
    """SOFTMAX over rows, in place."""
    rows, columns = int(rng.integers(1, 5)), int(rng.choice([1, 2, 12, 99, 200]))
    scale = _scale(rng, 1e-3, 4.0)
    beta = float(rng.choice([1.0, 1.0, 0.5]))
    x = _int8(rng, rows, columns)
    options = schema.SoftmaxOptionsT()
    options.beta = beta
    expected = tflm.operator(
        "SOFTMAX", [(x, scale, _zero_point(rng))], (x.shape, 1 / 256, -128), options
    )
    table = qm.softmax_exp_table(beta, scale)
    constants = (
        c_array(f"{name}_exp", table, "int32_t")
        + f"static const kws_softmax_t {name} = {{.exp_table = {name}_exp}};\n"
        + c_array(f"{name}_x", x)
        + c_output(name, expected)
    )
    call = (
        f"for (size_t i = 0; i < sizeof {name}_x; ++i) {name}_out[i] = {name}_x[i];\n"
        f"  kws_softmax_s8(&{name}, {name}_out, {rows}, {columns}, {name}_out);\n"
        f"  (void){name}_scratch;"
    )
    return Case(name, constants, call)


def _linear_scales(
    rng: np.random.Generator, prepare: Callable[..., qm.AddParameters]
) -> list[qm.Quantization]:
    """Of an ADD or SUB that has a linear form: x1, x2, y."""
    while True:
        made = [
            (float(np.float32(rng.uniform(*scales))), int(rng.integers(-40, 40)))
            for scales in ((0.02, 0.1), (0.02, 0.1), (0.07, 0.2))
        ]
        if qm.linear_add(prepare(*made)).x1_factor != 0:
            return made


def binary(rng: np.random.Generator, name: str, linear: bool = False) -> Case:
    """ADD, SUB, MUL or SQUARED_DIFFERENCE, with every broadcast of a matrix.

    Args:
        linear: An ADD or SUB as its linear form.
    """
    kinds = ["ADD", "SUB"] if linear else ["ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"]
    kind = str(rng.choice(kinds))
    rows, columns = int(rng.integers(2, 9)), int(rng.integers(2, 40))
    shapes = {
        (rows, columns): (columns, 1),
        (1, columns): (0, 1),
        (rows, 1): (1, 0),
        (1, 1): (0, 0),
    }
    small = list(shapes)[int(rng.integers(0, 4))]
    first_small = bool(rng.random() < 0.3)
    shape1 = small if first_small else (rows, columns)
    shape2 = (rows, columns) if first_small else small
    x1_q, x2_q = _quantization(rng), _quantization(rng)
    x1, x2 = _int8(rng, *shape1), _int8(rng, *shape2)
    real1 = (x1.astype(np.int64) - x1_q[1]) * x1_q[0]
    real2 = (x2.astype(np.int64) - x2_q[1]) * x2_q[0]
    activation = _activation(rng)
    real: np.ndarray
    if kind == "MUL":
        real, options = real1 * real2, schema.MulOptionsT()
        prepare: Callable[..., Any] = qm.mul_parameters
        struct, function = "kws_mul_t", "kws_mul_s8"
    elif kind == "SQUARED_DIFFERENCE":
        real, options = (real1 - real2) ** 2, schema.SquaredDifferenceOptionsT()
        prepare = qm.squared_difference_parameters
        struct, function = "kws_add_t", "kws_squared_difference_s8"
        activation = "none"
    else:
        real = real1 + real2 if kind == "ADD" else real1 - real2
        options = schema.AddOptionsT() if kind == "ADD" else schema.SubOptionsT()
        prepare = qm.add_parameters if kind == "ADD" else qm.sub_parameters
        struct, function = "kws_add_t", "kws_add_s8"
    y = _output_scale(rng, real), _zero_point(rng)
    if kind in ("ADD", "SUB"):
        # TFLM asks for an output multiplier below 1.
        y = max(y[0], float(np.float32(max(x1_q[0], x2_q[0]) * 2 / 2**19))), y[1]
    if linear:
        (x1_q, x2_q, y), activation = _linear_scales(rng, prepare), "none"
    if activation != "none":
        options.fusedActivationFunction = tflm.ACTIVATIONS[activation]
        parameters = prepare(x1_q, x2_q, y, activation)
    else:
        parameters = prepare(x1_q, x2_q, y)
    expected = tflm.operator(
        kind, [(x1, *x1_q), (x2, *x2_q)], ((rows, columns), *y), options
    )
    steps1, steps2 = shapes[shape1], shapes[shape2]
    more = [qm.linear_add(parameters)] if linear else []
    constants = (
        c_struct(struct, name, parameters, *more)
        + f"static const kws_broadcast_t {name}_shape = {{{rows}, {columns}, "
        f"{steps1[0]}, {steps1[1]}, {steps2[0]}, {steps2[1]}}};\n"
        + c_array(f"{name}_x1", x1)
        + c_array(f"{name}_x2", x2)
        + c_output(name, expected)
    )
    call = (
        f"{function}(&{name}, &{name}_shape, {name}_x1, {name}_x2, {name}_out);\n"
        f"  (void){name}_scratch;"
    )
    return Case(name, constants, call)


def mean(rng: np.random.Generator, name: str) -> Case:
    """MEAN over tokens or over the last axis."""
    rows, columns = int(rng.integers(1, 110)), int(rng.integers(1, 30))
    over_rows = bool(rng.random() < 0.5)
    x_q = _quantization(rng)
    y_q = float(np.float32(x_q[0] * rng.uniform(0.05, 3))), _zero_point(rng)
    x = _int8(rng, 1, rows, columns)
    options = schema.ReducerOptionsT()
    options.keepDims = bool(rng.random() < 0.5)
    left = (1, columns) if over_rows else (1, rows)
    if options.keepDims:
        left = (1, 1, columns) if over_rows else (1, rows, 1)
    axes = np.array([1 if over_rows else 2], np.int32)
    expected = tflm.operator("MEAN", [(x, *x_q)], (left, *y_q), options, [axes])
    count = rows if over_rows else columns
    constants = (
        c_struct("kws_mean_t", name, qm.mean_parameters(x_q, y_q, count))
        + c_array(f"{name}_x", x)
        + c_output(name, expected, f"KWS_MEAN_ROWS_SCRATCH_BYTES({columns})")
    )
    if over_rows:
        call = (
            f"kws_mean_rows_s8(&{name}, {name}_x, {columns}, {name}_out, "
            f"{name}_scratch);"
        )
    else:
        call = (
            f"kws_mean_columns_s8(&{name}, {name}_x, {rows}, {name}_out);\n"
            f"  (void){name}_scratch;"
        )
    return Case(name, constants, call)


def concatenation(rng: np.random.Generator, name: str) -> Case:
    """CONCATENATION of two parts along the last axis."""
    rows, left, right = (int(v) for v in rng.integers(1, (6, 20, 20)))
    quantization = _quantization(rng)
    parts = _int8(rng, rows, left), _int8(rng, rows, right)
    options = schema.ConcatenationOptionsT()
    options.axis = 1
    expected = tflm.operator(
        "CONCATENATION",
        [(part, *quantization) for part in parts],
        ((rows, left + right), *quantization),
        options,
    )
    constants = (
        c_array(f"{name}_x1", parts[0])
        + c_array(f"{name}_x2", parts[1])
        + c_output(name, expected)
    )
    stride = left + right
    call = (
        f"kws_copy_rows_s8({name}_x1, {rows}, {left}, {name}_out, {stride});\n"
        f"  kws_copy_rows_s8({name}_x2, {rows}, {right}, {name}_out + {left}, "
        f"{stride});\n"
        f"  (void){name}_scratch;"
    )
    return Case(name, constants, call)


UNARY = ("TANH", "LOGISTIC", "HARD_SWISH", "RSQRT", "QUANTIZE", "RELU", "RELU6")


def unary_table(
    rng: np.random.Generator, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A unary operator on every int8 value that it takes.

    Returns:
        inputs int8 [n], TFLM's outputs int8 [n], our table int8 [256].
    """
    x_q = _scale(rng, 1e-3, 0.5), _zero_point(rng)
    y_q = _quantization(rng)
    options: Any = None
    if kind == "TANH":
        y_q, table = (1 / 128, 0), qm.tanh_table(x_q)
    elif kind == "LOGISTIC":
        y_q, table = (1 / 256, -128), qm.logistic_table(x_q)
    elif kind == "HARD_SWISH":
        # TFLM asks that input scale / 128 is below the output's.
        y_q = max(y_q[0], float(np.float32(x_q[0] / 100))), y_q[1]
        table = qm.hard_swish_table(x_q, y_q)
        options = schema.HardSwishOptionsT()
    elif kind == "RSQRT":
        x_q = x_q[0], int(rng.integers(-128, 100))
        y_q = float(np.float32(rng.uniform(0.01, 0.3) / np.sqrt(x_q[0]))), y_q[1]
        table = qm.rsqrt_table(x_q, y_q)
    elif kind == "QUANTIZE":
        table, options = qm.requantize_table(x_q, y_q), schema.QuantizeOptionsT()
    elif kind == "RELU":
        table = qm.relu_table(x_q, y_q)
    elif kind == "RELU6":
        x_q = float(np.float32(rng.uniform(0.05, 0.5))), int(rng.integers(-128, 0))
        y_q, table = x_q, qm.relu6_table(x_q)
    else:
        raise ValueError(kind)
    low = x_q[1] if kind == "RSQRT" else -128
    values = np.arange(low, 128).astype(np.int8)[None]
    expected = tflm.operator(kind, [(values, *x_q)], (values.shape, *y_q), options)
    return values[0], expected[0], np.array(table, np.int8)


def table(rng: np.random.Generator, name: str) -> Case:
    """kws_table_s8 on a TANH."""
    values, expected, entries = unary_table(rng, "TANH")
    constants = (
        c_array(f"{name}_table", entries)
        + c_array(f"{name}_x", values)
        + c_output(name, expected)
    )
    call = (
        f"kws_table_s8({name}_table, {name}_x, {len(values)}, {name}_out);\n"
        f"  (void){name}_scratch;"
    )
    return Case(name, constants, call)


MAKERS: dict[str, Callable[[np.random.Generator, str], Case]] = {
    "fully_connected": fully_connected,
    "conv_2d": conv_2d,
    "batch_matmul": batch_matmul,
    "attention": attention,
    "softmax": softmax,
    "binary": binary,
    "mean": mean,
    "concatenation": concatenation,
    "table": table,
    "depthwise_conv_2d": depthwise_conv_2d,
    "linear_attention": linear_attention,
}


def make(counts: dict[str, int], seed: int) -> list[Case]:
    """Random cases, `counts[kernel]` of each, reproducible by seed."""
    rng = np.random.default_rng(seed)
    return [
        MAKERS[kernel](rng, f"{kernel}_{index}")
        for kernel, count in counts.items()
        for index in range(count)
    ]


def c_source(cases: Iterable[Case], title: str) -> str:
    """A C file that defines `int kernel_cases(void)`: the number of failed cases."""
    parts = [
        f"/* {title}\n * Expected results made by TFLM, tflite-micro "
        f"{tflm.VERSION}. */\n"
        "/* clang-format off */\n"
        '#include "kernel_check.h"\n\n'
    ]
    calls = []
    for case in cases:
        parts.append(case.constants)
        parts.append(f"static void {case.name}_run(void) {{\n  {case.call}\n}}\n\n")
        calls.append(
            f'  {case.name}_run();\n  failed += kernel_check("{case.name}", '
            f"{case.name}_out, {case.name}_expected, sizeof {case.name}_expected);\n"
        )
    parts.append("int kernel_cases(void) {\n  int failed = 0;\n" + "".join(calls))
    parts.append("  return failed;\n}\n")
    return "".join(parts)
