"""TFLM's int8 operators on a batch of clips at once, bit for bit, in numpy.

Tensors are int8 arrays (B, *shape), shape as in the graph. Multipliers, tables and
clamps are kws.graph.quantized_math's; sums of products go through float BLAS where they
are exact in it. tests/test_simulate_int8.py holds every operator against the pinned
`tflite-micro`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kws.graph import operators as graph_operators
from kws.graph import passes
from kws.graph import quantized_math as qm
from kws.graph.nodes import Node

Array = np.ndarray


def prepare(node: Node) -> Callable[..., Array]:
    """The function of a node: its inputs that are no constants, in order, -> output.

    Raises:
        KwsError: an operator that the graph's passes leave and this doesn't know.
    """
    if node.kind in graph_operators.VIEWS:
        return lambda x: x.reshape(len(x), *node.output.shape)
    if node.kind not in OPERATORS:
        raise graph_operators.refuse(node, "the simulator does not have it")
    return OPERATORS[node.kind](node)


# ---- fixed point -----------------------------------------------------------------


def high_multiply(a: Array, b: Array | int) -> Array:
    """round(a * b / 2**31), halves up."""
    return (a * b + (1 << 30)) >> 31


def divide_by_power(value: Array, exponent: Array | int) -> Array:
    """round(value / 2**exponent), halves away from zero."""
    half = np.left_shift(1, exponent, dtype=np.int64) >> 1
    return (value + half - ((value < 0) & (half > 0))) >> exponent


def requantize(value: Array, multiplier: Array | int, shift: Array | int) -> Array:
    """TFLM's MultiplyByQuantizedMultiplier (rounds twice). int64, a new array."""
    left, right = np.maximum(shift, 0), np.maximum(-np.asarray(shift), 0)
    out = value * (np.asarray(multiplier, np.int64) << left)
    out += 1 << 30
    out >>= 31
    # Halves go away from zero: half a step is added, and less by one where the value is
    # negative and something is shifted out, because >> rounds down.
    half = np.left_shift(1, right, dtype=np.int64) >> 1
    negative = out >> 63
    negative &= -(half > 0).astype(np.int64)
    out += half
    out += negative
    out >>= right
    return out


def _finish(value: Array, zero_point: int, low: int, high: int) -> Array:
    return np.clip(value + zero_point, low, high).astype(np.int8)


def _shift_left(value: Array, exponent: int) -> Array:
    return np.clip(value << exponent, qm.INT32_MIN, qm.INT32_MAX)


def one_over_one_plus(a: Array) -> Array:
    """1 / (1 + a) for a in [0, 1), both Q0.31: gemmlowp's Newton-Raphson."""
    half_denominator = (a + qm.INT32_MAX + 1) // 2
    x = 1515870810 + high_multiply(half_denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - high_multiply(half_denominator, x)
        x = x + _shift_left(high_multiply(x, error), 2)
    return _shift_left(x, 1)


def exact_product(left: Array, right: Array, largest: int) -> Array:
    """An integer matrix product through BLAS, as int64.

    Args:
        left: Integers.
        right: Integers.
        largest: Bound of every partial sum; decides float32 or float64.
    """
    kind = np.float32 if largest < 1 << 24 else np.float64
    assert largest < 1 << 53
    return (left.astype(kind) @ right.astype(kind)).astype(np.int64)


# ---- matrix products -------------------------------------------------------------


def _weights(node: Node) -> tuple[Array, Array, Array, Array]:
    """Weights [out, in], folded bias, multipliers and shifts per output."""
    weights = node.input(1)
    assert weights.data is not None and weights.quantization is not None
    matrix = graph_operators.weight_matrix(node)
    bias = node.inputs[2].data if len(node.inputs) > 2 and node.inputs[2] else None
    folded = qm.fold_bias(
        matrix, None if bias is None else bias.reshape(-1), node.input(0).zero_point
    )
    rule = (
        qm.fully_connected_multipliers
        if node.kind == "FULLY_CONNECTED"
        else qm.conv_multipliers
    )
    pairs = rule(node.input(0).scale, weights.quantization.scales, node.output.scale)
    multiplier, shift = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    return matrix, folded.astype(np.int64), multiplier, shift


def _fully_connected(node: Node) -> Callable[..., Array]:
    matrix, folded, multiplier, shift = _weights(node)
    depth = matrix.shape[1]
    zero_point, (low, high) = node.output.zero_point, _clamp(node)
    transposed = np.ascontiguousarray(matrix.T)

    def run(x: Array) -> Array:
        rows = x.reshape(-1, depth)
        sums = exact_product(rows, transposed, depth * 128 * 128) + folded
        out = _finish(requantize(sums, multiplier, shift), zero_point, low, high)
        return out.reshape(len(x), *node.output.shape)

    return run


def _image(node: Node) -> Callable[[Array], Array]:
    """Of a convolution: its input, padded so that every window lies inside."""
    height, width = graph_operators.conv_reach(node)
    _, rows, columns, _ = node.output.shape
    above, left = graph_operators.conv_padding(node)
    source = node.input(0)
    _, tall, wide, depth = source.shape
    bottom = max((rows - 1) * node.options["StrideH"] + height, tall + above)
    right = max((columns - 1) * node.options["StrideW"] + width, wide + left)

    def run(x: Array) -> Array:
        padded = np.full((len(x), bottom, right, depth), source.zero_point, np.int8)
        padded[:, above : above + tall, left : left + wide] = x.reshape(
            -1, tall, wide, depth
        )
        return padded

    return run


def _conv_2d(node: Node) -> Callable[..., Array]:
    matrix, folded, multiplier, shift = _weights(node)
    _, rows, columns, outputs = node.output.shape
    steps = (node.options["StrideH"], node.options["StrideW"])
    spread = graph_operators.conv_dilation(node)
    image = _image(node)
    zero_point, (low, high) = node.output.zero_point, _clamp(node)

    def run(x: Array) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(
            image(x), graph_operators.conv_reach(node), axis=(1, 2)
        )[:, : rows * steps[0] : steps[0], : columns * steps[1] : steps[1]]
        windows = windows[..., :: spread[0], :: spread[1]]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, matrix.shape[1])
        sums = exact_product(patches, matrix.T, matrix.shape[1] * 128 * 128) + folded
        out = _finish(requantize(sums, multiplier, shift), zero_point, low, high)
        return out.reshape(len(x), 1, rows, columns, outputs)

    return run


def _depthwise_conv_2d(node: Node) -> Callable[..., Array]:
    matrix, folded, multiplier, shift = _weights(node)
    width = node.input(1).shape[2]
    _, rows, columns, channels = node.output.shape
    down, across = node.options["StrideH"], node.options["StrideW"]
    spread = graph_operators.conv_dilation(node)
    image = _image(node)
    zero_point, (low, high) = node.output.zero_point, _clamp(node)

    def run(x: Array) -> Array:
        padded = image(x)
        sums = np.tile(folded, (len(x), rows, columns, 1))
        for tap, weights in enumerate(matrix.T.astype(np.int64)):
            top, left = divmod(tap, width)
            seen = padded[:, top * spread[0] :, left * spread[1] :]
            sums += weights * seen[:, ::down, ::across][:, :rows, :columns]
        out = _finish(requantize(sums, multiplier, shift), zero_point, low, high)
        return out.reshape(len(x), 1, rows, columns, channels)

    return run


def _batch_matmul(node: Node) -> Callable[..., Array]:
    a, b, y = node.input(0), node.input(1), node.output
    multiplier, shift = qm.batch_matmul_multiplier(a.scale, b.scale, y.scale)
    adjoint = (node.options["AdjX"], node.options["AdjY"])
    depth = a.shape[-2 if adjoint[0] else -1]

    def run(left: Array, right: Array) -> Array:
        left = left.astype(np.int16) - np.int16(a.zero_point)
        right = right.astype(np.int16) - np.int16(b.zero_point)
        if adjoint[0]:
            left = left.swapaxes(-1, -2)
        if adjoint[1]:
            right = right.swapaxes(-1, -2)
        sums = exact_product(left, right, depth * 255 * 255)
        return _finish(requantize(sums, multiplier, shift), y.zero_point, -128, 127)

    return run


# ---- elements and rows -----------------------------------------------------------


def _clamp(node: Node) -> tuple[int, int]:
    return qm.calculate_activation_range(
        passes.activation(node), node.output.scale, node.output.zero_point
    )


def _two_inputs(
    node: Node, function: Callable[[Array, Array], Array]
) -> Callable[..., Array]:
    """A function of two int8 elements, as a table of all 65,536 pairs.

    Args:
        node: Its shapes; constants are put back in their places.
        function: int64 arrays that broadcast -> int8.

    Returns:
        Inputs that are no constants -> output; broadcasts behind the batch.
    """
    rank = len(node.output.shape)
    sides = (node.input(0), node.input(1))
    every = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int64)
    table = function(every[:, None], every[None, :]).reshape(-1)
    constants = [
        None if t.data is None else _bits(t.data.reshape(1, *_padded(t.shape, rank)))
        for t in sides
    ]

    def run(*inputs: Array) -> Array:
        # The same tensor on both sides comes once.
        given = iter(inputs if len(inputs) > 1 else inputs * 2)
        first, second = (
            _bits(next(given).reshape(-1, *_padded(tensor.shape, rank)))
            if constant is None
            else constant
            for constant, tensor in zip(constants, sides, strict=True)
        )
        out = table[(first << 8) | second]
        return out.reshape(len(out), *node.output.shape)

    return run


def _bits(values: Array) -> Array:
    """int8 as the index of its bit pattern."""
    return np.ascontiguousarray(values).view(np.uint8).astype(np.uint16)


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _add(node: Node) -> Callable[..., Array]:
    x1, x2, y = (passes.quantization(t) for t in _three(node))
    prepare_ = qm.add_parameters if node.kind == "ADD" else qm.sub_parameters
    p = prepare_(x1, x2, y, passes.activation(node))
    every = np.arange(-128, 128, dtype=np.int64)
    left = qm.ADD_LEFT_SHIFT
    scaled1 = requantize((every - p.x1_zero_point) << left, p.x1_multiplier, p.x1_shift)
    scaled2 = requantize((every - p.x2_zero_point) << left, p.x2_multiplier, p.x2_shift)
    if p.subtract:
        scaled2 = -scaled2

    def run(a: Array, b: Array) -> Array:
        total = scaled1[a + 128] + scaled2[b + 128]
        out = requantize(total, p.output_multiplier, p.output_shift)
        return _finish(out, p.output_zero_point, p.activation_min, p.activation_max)

    return _two_inputs(node, run)


def _squared_difference(node: Node) -> Callable[..., Array]:
    x1, x2, y = (passes.quantization(t) for t in _three(node))
    p = qm.squared_difference_parameters(x1, x2, y)
    every = np.arange(-128, 128, dtype=np.int64)
    left = qm.SQUARED_DIFFERENCE_LEFT_SHIFT
    scaled1 = requantize((every - p.x1_zero_point) << left, p.x1_multiplier, p.x1_shift)
    scaled2 = requantize((every - p.x2_zero_point) << left, p.x2_multiplier, p.x2_shift)

    def run(a: Array, b: Array) -> Array:
        change = scaled1[a + 128] - scaled2[b + 128]
        out = requantize(change * change, p.output_multiplier, p.output_shift)
        return _finish(out, p.output_zero_point, -128, 127)

    return _two_inputs(node, run)


def _mul(node: Node) -> Callable[..., Array]:
    x1, x2, y = (passes.quantization(t) for t in _three(node))
    p = qm.mul_parameters(x1, x2, y, passes.activation(node))

    def run(a: Array, b: Array) -> Array:
        product = (a - p.x1_zero_point) * (b - p.x2_zero_point)
        out = requantize(product, p.output_multiplier, p.output_shift)
        return _finish(out, p.output_zero_point, p.activation_min, p.activation_max)

    return _two_inputs(node, run)


def _three(node: Node) -> tuple:
    return (node.input(0), node.input(1), node.output)


def _table(node: Node) -> Callable[..., Array]:
    identity = list(range(-128, 128))
    table = np.roll(np.array(passes.element_table(node, [identity]), np.int8), 128)
    return lambda x: table[np.ascontiguousarray(x).view(np.uint8)]


def _softmax(node: Node) -> Callable[..., Array]:
    exps_of = np.array(
        qm.softmax_exp_table(node.options["Beta"], node.input(0).scale), np.int64
    )

    def run(x: Array) -> Array:
        wide = x.astype(np.int16)
        exps = exps_of[wide.max(axis=-1, keepdims=True) - wide]
        total = divide_by_power(exps, 12).sum(axis=-1, keepdims=True)
        # frexp's exponent is the bit length of a whole number below 2**53.
        headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
        reciprocal = one_over_one_plus((total << headroom) - (1 << 31))
        out = divide_by_power(high_multiply(exps, reciprocal), 12 - headroom + 31 - 8)
        return _finish(out, -128, -128, 127)

    return run


def _mean(node: Node) -> Callable[..., Array]:
    outer, count, inner = graph_operators.mean_split(node)
    x, y = passes.quantization(node.input(0)), passes.quantization(node.output)
    p = qm.mean_parameters(x, y, count)

    def run(values: Array) -> Array:
        shaped = values.reshape(len(values), outer, count, inner)
        sums = shaped.sum(axis=2, dtype=np.int64) - p.input_zero_point * count
        out = requantize(sums, p.multiplier, p.shift)
        done = _finish(out, p.output_zero_point, -128, 127)
        return done.reshape(len(values), *node.output.shape)

    return run


# ---- moving values ---------------------------------------------------------------


def _strided_slice(node: Node) -> Callable[..., Array]:
    index = (slice(None), *graph_operators.slice_of(node))
    return lambda x: x[index].reshape(len(x), *node.output.shape)


def _transpose(node: Node) -> Callable[..., Array]:
    order = [0, *(axis + 1 for axis in graph_operators.constant_ints(node, 1))]
    return lambda x: np.ascontiguousarray(x.transpose(order))


def _pad(node: Node) -> Callable[..., Array]:
    pads = [(0, 0), *graph_operators.pads_of(node)]
    fill = node.output.zero_point
    return lambda x: np.pad(x, pads, constant_values=fill)


def _gather(node: Node) -> Callable[..., Array]:
    size = node.output.shape[-2]

    def run(x: Array) -> Array:
        seen = np.lib.stride_tricks.sliding_window_view(x, size, axis=2)
        return np.moveaxis(seen, -1, 3)

    return run


def _concatenation(node: Node) -> Callable[..., Array]:
    axis = node.options["Axis"] % len(node.output.shape) + 1
    constants = [tensor.data if tensor else None for tensor in node.inputs]

    def run(*inputs: Array) -> Array:
        given = iter(inputs)
        seen: dict[int, Array] = {}
        parts = []
        for tensor, constant in zip(node.inputs, constants, strict=True):
            if constant is not None:
                batch = len(inputs[0])
                parts.append(np.broadcast_to(constant, (batch, *constant.shape)))
            else:
                if id(tensor) not in seen:
                    seen[id(tensor)] = next(given)
                parts.append(seen[id(tensor)])
        return np.concatenate(parts, axis=axis)

    return run


OPERATORS: dict[str, Callable[[Node], Callable[..., Array]]] = {
    "FULLY_CONNECTED": _fully_connected,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "BATCH_MATMUL": _batch_matmul,
    "SOFTMAX": _softmax,
    "ADD": _add,
    "SUB": _add,
    "MUL": _mul,
    "SQUARED_DIFFERENCE": _squared_difference,
    "MEAN": _mean,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
    "PAD": _pad,
    "GATHER": _gather,
    "CONCATENATION": _concatenation,
} | dict.fromkeys(
    ("TANH", "LOGISTIC", "HARD_SWISH", "RELU", "RELU6", "RSQRT", "QUANTIZE", "TABLE"),
    _table,
)
