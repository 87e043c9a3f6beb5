"""What each supported operator means: its options, its shapes, its rows.

One entry per operator in `OPERATORS`. The reader takes the options and the checks
from here, the scheduler the rows. How an operator is emitted is the business of
kws/emit/calls.py, what it costs that of kws/graph/cost.py; a new operator is one entry
in each. An attention variant's own operators bring all of it (kws/attention).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from kws.errors import KwsError
from kws.graph import delta, weight_layout
from kws.graph.emitter import Emitter
from kws.graph.nodes import Node, Tensor

ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}


MAX_WIDTH = 65535  # the kernels' uint16_t fields
MAX_SOFTMAX_COLUMNS = 511  # see kws_softmax_s8
MAX_MATMUL_DEPTH = 16384  # of a sum in 32 bits; see kws_batch_matmul_s8
MAX_MATMUL_COLUMNS = 8192  # see kws_batch_matmul_columns_s8


class Access(Enum):
    """How one step of a loop over rows reads an input."""

    ROW = "row"  # only the rows that it computes
    WHOLE = "whole"  # any of it: must be complete before the loop starts
    PAST = (
        "past"  # of a HISTORY: the rows that it computes, and all that are kept before
    )


@dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        shape: Gives the output's shape, or raises KwsError where the inputs don't fit.
        operands: Fewest and most inputs.
        options_type: The table in TFLite's schema that holds the options.
        options: Names to read from that table.
        defaults: Values where the file has no such table, when not 0.
        rows: Gives each input's `Access` if the operator can be run `rows` rows at a
            time, else None.
        in_place: Inputs that the output may overwrite, where they have its size.
        scratch: Bytes of working memory that the kernel needs beside its operands.
        moves: Values are moved or kept, not changed: quantization must be equal.
        count: What a run costs (kws.graph.cost), of an operator of a variant's own;
            the others' rules are there.
        call: The C that runs it (kws.graph.emitter), of an operator of a variant's own;
            the others' are kws.emit.calls'.
    """

    shape: Callable[[Node], tuple[int, ...]]
    operands: tuple[int, int]
    options_type: str | None = None
    options: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[Node, int], list[Access] | None] = lambda node, rows: None
    in_place: tuple[int, ...] = ()
    scratch: Callable[[Node], int] = lambda node: 0
    moves: bool = False
    count: Callable[[Node, Any], Any] | None = None
    call: Callable[[Emitter, Node], list[str]] | None = None


def check(node: Node) -> None:
    """Raise KwsError unless the node is one that the kernels can run as it stands."""
    spec = OPERATORS[node.kind]
    fewest, most = spec.operands
    if not fewest <= len(node.inputs) <= most or any(
        tensor is None for tensor in node.inputs[:fewest]
    ):
        raise refuse(node, f"expected {fewest} to {most} inputs")
    for tensor in [*node.inputs, node.output]:
        if tensor is None:
            continue
        if tensor.dtype == "int32" and not tensor.is_constant:
            raise refuse(node, f"{tensor} is int32 and not a constant")
        if tensor.dtype == "int8":
            if tensor.quantization is None:
                raise refuse(node, f"{tensor} has no quantization")
            if not all(-128 <= z <= 127 for z in tensor.quantization.zero_points):
                raise refuse(node, f"{tensor} has a zero point outside int8")
            if tensor.quantization.per_channel and not tensor.is_constant:
                raise refuse(node, f"{tensor} is per-channel and not a constant")
    if node.input(0).dtype != "int8" or node.output.dtype != "int8":
        raise refuse(node, "expected int8 in and out")
    expected = spec.shape(node)
    if tuple(expected) != node.output.shape:
        raise refuse(
            node,
            f"expected output shape {list(expected)}, not {list(node.output.shape)}",
        )
    if spec.moves and (
        node.input(0).scale != node.output.scale
        or node.input(0).zero_point != node.output.zero_point
    ):
        raise refuse(node, "expected equal quantization of input and output")


def refuse(node: Node, why: str) -> KwsError:
    """The error for a node that the native engine can't run."""
    inputs = ", ".join("none" if t is None else repr(t) for t in node.inputs)
    return KwsError(
        f"{node.kind} at {node.name!r} does not fit the native engine: {why}. "
        f"Inputs: {inputs}; output: {node.output}.",
        "kws convert RUN   (makes what the engine runs)",
    )


def activation(node: Node) -> str:
    """The fused activation's name; KwsError for one that no kernel has."""
    number = node.options.get("FusedActivationFunction", 0)
    if number not in ACTIVATIONS:
        raise refuse(node, f"fused activation {number} is not one of {ACTIVATIONS}")
    return ACTIVATIONS[number]


def constant_ints(node: Node, index: int) -> list[int]:
    """A shape operand: a short int32 constant, flattened."""
    tensor = node.input(index)
    if tensor.data is None or tensor.dtype != "int32" or tensor.elements > 16:
        raise refuse(node, f"{tensor} must be a short int32 constant")
    return [int(value) for value in tensor.data.reshape(-1)]


def row_count(tensor: Tensor) -> int:
    """Rows of a tensor whose last dimension is one token: all others multiplied."""
    return tensor.elements // (tensor.shape[-1] if tensor.shape else 1)


# --- shapes ---------------------------------------------------------------------


def _weights(node: Node, index: int, rank: int, outputs_axis: int = 0) -> Tensor:
    weights = node.input(index)
    if weights.data is None or weights.dtype != "int8" or len(weights.shape) != rank:
        raise refuse(node, f"weights must be an int8 constant of rank {rank}")
    quantization = weights.quantization
    assert quantization is not None
    if any(quantization.zero_points) or (
        quantization.per_channel and quantization.axis != outputs_axis
    ):
        raise refuse(node, "weights must be symmetric, per tensor or per output")
    if weights.data.min() == -128:
        # Kernels add two products in 16 bits. TFLite's weights are -127..127.
        raise refuse(node, "a weight of -128: expected -127 to 127")
    return weights


def weight_matrix(node: Node) -> np.ndarray:
    """A product's weights as int8 [outputs, inputs of one output].

    The inputs of a convolution's output are a patch, or, where it is depthwise, the
    taps of one channel.
    """
    weights = node.input(1)
    assert weights.data is not None
    if node.kind == "DEPTHWISE_CONV_2D":
        return np.ascontiguousarray(weights.data.reshape(-1, weights.shape[3]).T)
    return weights.data.reshape(weights.shape[0], -1)


def _bias(node: Node, outputs: int) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (
        bias.data is None or bias.dtype != "int32" or bias.elements != outputs
    ):
        raise refuse(node, f"bias must be an int32 constant of {outputs}")


def _fully_connected(node: Node) -> tuple[int, ...]:
    activation(node)
    weights = _weights(node, 1, 2)
    outputs, depth = weights.shape
    _bias(node, outputs)
    if max(outputs, depth) > MAX_WIDTH:
        raise refuse(node, f"more than {MAX_WIDTH} inputs or outputs")
    if node.options["WeightsFormat"] != 0:
        raise refuse(node, "shuffled weights")
    x = node.input(0)
    if x.elements % depth:
        raise refuse(node, f"{x.elements} inputs are no multiple of {depth}")
    if node.options["KeepNumDims"] or (x.shape and x.shape[-1] == depth):
        if not x.shape or x.shape[-1] != depth:
            raise refuse(node, f"the last dimension of {x} is not {depth}")
        kept = (*x.shape[:-1], outputs)
        if node.output.shape == kept:
            return kept
    return (x.elements // depth, outputs)


def _batch_matmul(node: Node) -> tuple[int, ...]:
    left, right = node.input(0), node.input(1)
    if right.dtype != "int8" or min(len(left.shape), len(right.shape)) < 2:
        raise refuse(node, "expected two int8 matrices")
    if left.is_constant or right.is_constant:
        raise refuse(node, "a constant side (use a dense layer)")
    *batch, rows, depth = _matrix(left, node.options["AdjX"])
    *others, depth_right, columns = _matrix(right, node.options["AdjY"])
    if batch != others or depth != depth_right:
        raise refuse(node, "the matrices don't fit each other")
    if depth > MAX_MATMUL_DEPTH:
        raise refuse(node, f"sums of more than {MAX_MATMUL_DEPTH} products")
    if columns > MAX_MATMUL_COLUMNS and not node.options["AdjY"]:
        raise refuse(node, f"more than {MAX_MATMUL_COLUMNS} columns")
    return (*batch, rows, columns)


def _matrix(tensor: Tensor, adjoint: bool) -> list[int]:
    *batch, rows, columns = tensor.shape
    return [*batch, columns, rows] if adjoint else [*batch, rows, columns]


def _conv_2d(node: Node) -> tuple[int, ...]:
    activation(node)
    weights = _weights(node, 1, 4)
    outputs, height, width, depth = weights.shape
    _bias(node, outputs)
    x = node.input(0)
    if len(x.shape) != 4 or x.shape[0] != 1 or x.shape[3] != depth:
        raise refuse(node, f"expected an input of [1, height, width, {depth}]")
    if max(*x.shape, outputs, height * width * depth) > MAX_WIDTH:
        raise refuse(node, f"a dimension or a patch above {MAX_WIDTH}")
    return (1, *_windows(node), outputs)


def _depthwise_conv_2d(node: Node) -> tuple[int, ...]:
    activation(node)
    weights = _weights(node, 1, 4, outputs_axis=3)
    one, height, width, channels = weights.shape
    if node.options["DepthMultiplier"] != 1:
        raise refuse(node, f"depth multiplier {node.options['DepthMultiplier']}, not 1")
    if one != 1:
        raise refuse(node, "expected weights of [1, height, width, channels]")
    _bias(node, channels)
    x = node.input(0)
    if len(x.shape) != 4 or x.shape[0] != 1 or x.shape[3] != channels:
        raise refuse(node, f"expected an input of [1, height, width, {channels}]")
    if max(*x.shape, height * width) > MAX_WIDTH:
        raise refuse(node, f"a dimension or a window above {MAX_WIDTH}")
    return (1, *_windows(node), channels)


def _windows(node: Node) -> tuple[int, int]:
    """Rows and columns of windows that a convolution's input holds."""
    x, (_, height, width, _) = node.input(0), node.input(1).shape
    options = node.options
    if max(height, width) > 255:
        raise refuse(node, "a window larger than 255")
    for name in ("Stride", "Dilation"):
        ends = ("H", "W") if name == "Stride" else ("HFactor", "WFactor")
        if not all(1 <= options[f"{name}{end}"] <= 255 for end in ends):
            raise refuse(node, f"{name.lower()}s outside 1..255")
    if options["Padding"] not in (0, 1):
        raise refuse(node, "padding other than SAME and VALID")
    sizes = []
    for size, reach, stride in zip(
        x.shape[1:3],
        conv_reach(node),
        (options["StrideH"], options["StrideW"]),
        strict=True,
    ):
        if options["Padding"] == 0:
            sizes.append(-(-size // stride))
        else:
            sizes.append((size - reach) // stride + 1)
    if min(sizes) < 1:
        raise refuse(node, "the window is larger than the input")
    return sizes[0], sizes[1]


def conv_dilation(node: Node) -> tuple[int, int]:
    """Rows and columns from one tap of a convolution to the next."""
    return (node.options["DilationHFactor"], node.options["DilationWFactor"])


def conv_reach(node: Node) -> tuple[int, int]:
    """Rows and columns of the input from a window's first tap to its last."""
    down, across = conv_dilation(node)
    _, height, width, _ = node.input(1).shape
    return ((height - 1) * down + 1, (width - 1) * across + 1)


def conv_padding(node: Node) -> tuple[int, int]:
    """Rows above and columns left of a convolution's input, by TFLite's rule."""
    x, reach = node.input(0), conv_reach(node)
    if node.options["Padding"] != 0:
        return (0, 0)
    pads = []
    for axis, stride in ((1, "StrideH"), (2, "StrideW")):
        step = node.options[stride]
        total = (node.output.shape[axis] - 1) * step + reach[axis - 1]
        pads.append(max(total - x.shape[axis], 0) // 2)
    return (pads[0], pads[1])


def _softmax(node: Node) -> tuple[int, ...]:
    output = node.output
    if output.scale != 1 / 256 or output.zero_point != -128:
        raise refuse(node, "the output scale must be 1/256 and its zero point -128")
    beta = node.options["Beta"]
    if not 0 < beta < 1e3:
        raise refuse(node, f"beta is {beta}")
    if not node.input(0).shape:
        raise refuse(node, "a scalar input")
    if node.input(0).shape[-1] > MAX_SOFTMAX_COLUMNS:
        raise refuse(node, f"rows of more than {MAX_SOFTMAX_COLUMNS} elements")
    return node.input(0).shape


def _binary(node: Node) -> tuple[int, ...]:
    activation(node)
    if node.input(1).dtype != "int8":
        raise refuse(node, "expected two int8 inputs")
    try:
        shape = np.broadcast_shapes(node.input(0).shape, node.input(1).shape)
    except ValueError:
        raise refuse(node, "the shapes don't broadcast") from None
    if tuple(shape) == node.output.shape:
        for index in (0, 1):
            broadcast_steps(node, index)
    return tuple(int(dim) for dim in shape)


def broadcast_groups(node: Node) -> int:
    """Groups of rows that a two-input operator works on one by one.

    More than 1 where an input has one row for each group: [T, 1, n] for [T, F, n].
    """
    full = _stripped(node.output.shape)
    if len(full) != 3 or full[1] == 1:
        return 1
    one_row = (full[0], 1, full[2])
    single = [_stripped(node.input(index).shape) == one_row for index in (0, 1)]
    return full[0] if any(single) else 1


def broadcast_steps(node: Node, index: int) -> tuple[int, int]:
    """How an input of a two-input operator is walked: (row step, column step).

    The output is seen as [rows, last dimension]; see kws_broadcast_t. Where there are
    groups of rows, one of them is.

    Raises:
        KwsError: a broadcast of another kind.
    """
    tensor, output = node.input(index), node.output
    shape, full = _stripped(tensor.shape), _stripped(output.shape)
    if broadcast_groups(node) > 1:
        if shape[:1] != full[:1]:
            raise refuse(node, f"{tensor} is not of the groups that the other one has")
        shape, full = _stripped(shape[1:]), full[1:]
    columns = output.shape[-1] if output.shape else 1
    if shape == full:
        return (columns, 1)
    if tensor.elements == 1:
        return (0, 0)
    if shape == (columns,):
        return (0, 1)
    if shape == (*full[:-1], 1):
        return (1, 0)
    raise refuse(node, f"{tensor} is neither whole, a row, a column nor a scalar")


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its leading ones."""
    first = next((i for i, dim in enumerate(shape) if dim > 1), len(shape))
    return shape[first:]


def _unary(node: Node) -> tuple[int, ...]:
    return node.input(0).shape


def mean_axes(node: Node) -> list[int]:
    """The axes that a MEAN averages, ascending."""
    rank = len(node.input(0).shape)
    axes = constant_ints(node, 1)
    if not all(-rank <= axis < rank for axis in axes):
        raise refuse(node, f"axes {axes} of rank {rank}")
    return sorted({axis % rank for axis in axes})


def _mean(node: Node) -> tuple[int, ...]:
    axes = mean_axes(node)
    shape = node.input(0).shape
    real = [axis for axis in axes if shape[axis] > 1]
    if real and math.prod(shape[real[0] : real[-1] + 1]) != math.prod(
        shape[axis] for axis in real
    ):
        raise refuse(node, f"axes {axes} are not side by side")
    if node.options["KeepDims"]:
        return tuple(1 if i in axes else dim for i, dim in enumerate(shape))
    return tuple(dim for i, dim in enumerate(shape) if i not in axes)


def mean_split(node: Node) -> tuple[int, int, int]:
    """A MEAN's input as [outer, count, inner], averaged over count."""
    shape = node.input(0).shape
    real = [axis for axis in mean_axes(node) if shape[axis] > 1]
    if not real:
        return (node.input(0).elements, 1, 1)
    first, last = real[0], real[-1]
    return (
        math.prod(shape[:first]),
        math.prod(shape[first : last + 1]),
        math.prod(shape[last + 1 :]),
    )


def _reshape(node: Node) -> tuple[int, ...]:
    if node.output.elements != node.input(0).elements:
        raise refuse(node, "the numbers of elements differ")
    return node.output.shape


def slice_of(node: Node) -> tuple[slice | int, ...]:
    """A STRIDED_SLICE as a numpy index."""
    begin, end, strides = (constant_ints(node, i) for i in (1, 2, 3))
    shape = node.input(0).shape
    if not len(begin) == len(end) == len(strides) == len(shape):
        raise refuse(node, "begin, end and strides must name every dimension")
    if node.options["EllipsisMask"] or node.options["NewAxisMask"]:
        raise refuse(node, "an ellipsis or a new axis")
    if node.options["Offset"]:
        raise refuse(node, "an end that is an offset")
    if not all(stride >= 1 for stride in strides):
        raise refuse(node, "strides below 1")
    index: list[slice | int] = []
    for i, dim in enumerate(shape):
        if node.options["ShrinkAxisMask"] >> i & 1:
            if not -dim <= begin[i] < dim:
                raise refuse(node, f"index {begin[i]} of {dim}")
            index.append(begin[i] % dim)
            continue
        start = None if node.options["BeginMask"] >> i & 1 else begin[i]
        stop = None if node.options["EndMask"] >> i & 1 else end[i]
        index.append(slice(*slice(start, stop, strides[i]).indices(dim)))
    return tuple(index)


def _strided_slice(node: Node) -> tuple[int, ...]:
    shape: list[int] = []
    for part in slice_of(node):
        if isinstance(part, slice):
            shape.append(len(range(part.start, part.stop, part.step)))
    if 0 in shape:
        raise refuse(node, "an empty slice")
    return tuple(shape)


def _transpose(node: Node) -> tuple[int, ...]:
    shape = node.input(0).shape
    permutation = constant_ints(node, 1)
    if sorted(permutation) != list(range(len(shape))):
        raise refuse(node, f"{permutation} is no permutation")
    return tuple(shape[axis] for axis in permutation)


def windows_of(node: Node) -> int:
    """How many rows a GATHER takes for each row of its output: those from there on.

    The only one that the kernels need: [1, rows, n] -> [1, rows - w + 1, w, n].

    Raises:
        KwsError: another one.
    """
    x, places = node.input(0), node.input(1)
    if len(x.shape) != 3 or node.options["Axis"] != 1 or node.options["BatchDims"]:
        raise refuse(node, "expected windows of the rows of [1, rows, n]")
    if places.data is None or places.dtype != "int32" or len(places.shape) != 2:
        raise refuse(node, f"{places} must be an int32 constant [windows, rows]")
    count, size = places.shape
    expected = np.arange(count)[:, None] + np.arange(size)
    if count + size - 1 != x.shape[1] or not np.array_equal(places.data, expected):
        raise refuse(node, "expected all windows of as many rows, each a row further")
    return size


def _gather(node: Node) -> tuple[int, ...]:
    size = windows_of(node)
    batch, rows, width = node.input(0).shape
    return (batch, rows - size + 1, size, width)


def _concatenation(node: Node) -> tuple[int, ...]:
    if activation(node) != "NONE":
        raise refuse(node, "a fused activation")
    first = node.input(0)
    rank = len(first.shape)
    axis = node.options["Axis"]
    if not -rank <= axis < rank:
        raise refuse(node, f"axis {axis} of rank {rank}")
    axis %= rank
    total = 0
    for tensor in node.inputs:
        if tensor is None or tensor.dtype != "int8" or len(tensor.shape) != rank:
            raise refuse(node, "expected int8 inputs of one rank")
        if any(i != axis and tensor.shape[i] != first.shape[i] for i in range(rank)):
            raise refuse(node, "the shapes differ beside the axis")
        if (tensor.scale, tensor.zero_point) != (
            node.output.scale,
            node.output.zero_point,
        ):
            raise refuse(node, "expected equal quantization of all inputs and output")
        total += tensor.shape[axis]
    return (*first.shape[:axis], total, *first.shape[axis + 1 :])


def pads_of(node: Node) -> list[tuple[int, int]]:
    """A PAD's (before, after) per dimension."""
    flat = constant_ints(node, 1)
    if len(flat) != 2 * len(node.input(0).shape) or min(flat, default=0) < 0:
        raise refuse(node, f"paddings {flat}")
    return list(zip(flat[::2], flat[1::2], strict=True))


def _pad(node: Node) -> tuple[int, ...]:
    pads = pads_of(node)
    shape = node.input(0).shape
    return tuple(a + dim + b for (a, b), dim in zip(pads, shape, strict=True))


# --- rows -----------------------------------------------------------------------


def _rows_last_axis(node: Node, rows: int) -> list[Access] | None:
    """Operators that work within the last dimension (FULLY_CONNECTED, SOFTMAX)."""
    if row_count(node.output) % rows:
        return None
    if "delta" in node.options and row_count(node.output) != rows:
        return None  # it counts token rows
    return [Access.ROW] + [Access.WHOLE] * (len(node.inputs) - 1)


def _rows_transposed(node: Node, rows: int) -> list[Access] | None:
    """Rows in, columns out: run by rows, it is whole only after the last one."""
    if node.input(0).elements // node.input(1).shape[1] != rows:
        return None
    return [Access.ROW] + [Access.WHOLE] * (len(node.inputs) - 1)


def _rows_batch_matmul(node: Node, rows: int) -> list[Access] | None:
    """Rows of the left matrix; the right one is read whole (keys, values)."""
    if node.options["AdjX"] or not node.options["AdjY"]:
        return None
    if node.output.shape[-2] != rows or row_count(node.output) != rows:
        return None
    return [Access.ROW, Access.WHOLE]


def _rows_elementwise(node: Node, rows: int) -> list[Access] | None:
    if row_count(node.output) % rows:
        return None
    if len(node.inputs) > 1 and broadcast_groups(node) > 1:
        return None
    access = []
    for index in range(len(node.inputs)):
        row_step, _ = (1, 1) if len(node.inputs) == 1 else broadcast_steps(node, index)
        access.append(Access.ROW if row_step else Access.WHOLE)
    return access


def _rows_mean(node: Node, rows: int) -> list[Access] | None:
    axes = mean_axes(node)
    last = len(node.input(0).shape) - 1
    if axes == [last] and row_count(node.input(0)) % rows == 0:
        return [Access.ROW, Access.WHOLE]
    return None


def _rows_concatenation(node: Node, rows: int) -> list[Access] | None:
    last = len(node.output.shape) - 1
    if node.options["Axis"] % (last + 1) != last or row_count(node.output) % rows:
        return None
    return [Access.ROW] * len(node.inputs)


def _rows_conv(node: Node, rows: int) -> list[Access] | None:
    """Rows of the output image; the input image is read whole."""
    if node.output.shape[1] != rows or "moved" in node.options:
        return None
    return [Access.WHOLE] * len(node.inputs)


def _rows_history(node: Node, rows: int) -> list[Access] | None:
    """Rows of the step; a ring's don't lie one behind another."""
    kept = history(node)
    return [Access.ROW] if rows == kept.rows and not kept.ring else None


# --- the past -------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """What a HISTORY node keeps of its input, a tensor of rows.

    Its output is the last `past + rows` rows: those of earlier steps, then this step's.
    They lie in order, oldest first; in a ring each step's rows replace the oldest ones
    where they are, so that nothing moves and the order is no reader's business.

    Args:
        rows: That a step adds.
        past: That are kept of earlier steps; of a ring a multiple of `rows`.
        width: Bytes of a row.
        ring: Whether it is one.
    """

    rows: int
    past: int
    width: int
    ring: bool


def history(node: Node) -> History:
    """What a HISTORY node keeps, by its shapes and its options `rows` and `ring`."""
    assert node.kind == "HISTORY" and node.output.reset is not None
    rows, ring = node.options["rows"], node.options["ring"]
    width, rest = divmod(node.input(0).bytes, rows)
    past, more = divmod(node.output.bytes - node.input(0).bytes, width)
    assert past >= 0 and not rest and not more and not (ring and past % rows)
    return History(rows, past, width, ring)


# --- scratch --------------------------------------------------------------------


def _scratch_fully_connected(node: Node) -> int:
    note = delta.note(node)
    if note is not None:
        inputs = node.input(1).shape[1]
        if note.whole_steps:
            return weight_layout.delta_step_scratch_bytes(inputs)
        return weight_layout.delta_fully_connected_scratch_bytes(
            inputs, note.keeps_dense
        )
    return weight_layout.fully_connected_scratch_bytes(node.input(1).shape[1])


def _scratch_conv(node: Node) -> int:
    patch = math.prod(node.input(1).shape[1:])
    if node.options.get("singly"):
        window, height = node.input(0).elements, node.input(1).shape[1]
        return weight_layout.delta_conv_2d_scratch_bytes(window, patch, height)
    return weight_layout.conv_2d_scratch_bytes(patch)


def _scratch_depthwise_conv(node: Node) -> int:
    _, height, width, channels = node.input(1).shape
    return weight_layout.depthwise_conv_2d_scratch_bytes(height * width, channels)


def batch_matmul_scratch(node: Node) -> tuple[int, int]:
    """Offset of the transposed left matrix in the scratch, and its size."""
    *_, rows, depth = _matrix(node.input(0), node.options["AdjX"])
    if node.options["AdjY"]:
        own = weight_layout.batch_matmul_scratch_bytes(depth)
    else:
        own = weight_layout.batch_matmul_columns_scratch_bytes(depth)
    return own, own + (rows * depth if node.options["AdjX"] else 0)


def _scratch_mean(node: Node) -> int:
    inner = mean_split(node)[2]
    return 0 if inner == 1 else weight_layout.mean_rows_scratch_bytes(inner)


_FUSED = ("FusedActivationFunction",)
_WINDOW = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
_EVERY_WINDOW = dict.fromkeys(_WINDOW[1:], 1)
_UNARY: dict[str, Any] = {"rows": _rows_elementwise, "in_place": (0,)}
_TWO: dict[str, Any] = {"rows": _rows_elementwise, "in_place": (0, 1)}

OPERATORS: dict[str, Operator] = {
    "FULLY_CONNECTED": Operator(
        _fully_connected,
        (2, 3),
        "FullyConnectedOptions",
        (*_FUSED, "WeightsFormat", "KeepNumDims"),
        rows=_rows_last_axis,
        scratch=_scratch_fully_connected,
    ),
    "BATCH_MATMUL": Operator(
        _batch_matmul,
        (2, 2),
        "BatchMatMulOptions",
        ("AdjX", "AdjY"),
        rows=_rows_batch_matmul,
        scratch=lambda node: batch_matmul_scratch(node)[1],
    ),
    "CONV_2D": Operator(
        _conv_2d,
        (2, 3),
        "Conv2DOptions",
        (*_FUSED, *_WINDOW),
        _EVERY_WINDOW,
        rows=_rows_conv,
        scratch=_scratch_conv,
    ),
    "DEPTHWISE_CONV_2D": Operator(
        _depthwise_conv_2d,
        (2, 3),
        "DepthwiseConv2DOptions",
        (*_FUSED, *_WINDOW, "DepthMultiplier"),
        {**_EVERY_WINDOW, "DepthMultiplier": 1},
        rows=_rows_conv,
        scratch=_scratch_depthwise_conv,
    ),
    "SOFTMAX": Operator(
        _softmax,
        (1, 1),
        "SoftmaxOptions",
        ("Beta",),
        {"Beta": 1.0},
        rows=_rows_last_axis,
        in_place=(0,),
    ),
    "ADD": Operator(_binary, (2, 2), "AddOptions", _FUSED, **_TWO),
    "SUB": Operator(_binary, (2, 2), "SubOptions", _FUSED, **_TWO),
    "MUL": Operator(_binary, (2, 2), "MulOptions", _FUSED, **_TWO),
    "SQUARED_DIFFERENCE": Operator(_binary, (2, 2), **_TWO),
    "TANH": Operator(_unary, (1, 1), **_UNARY),
    "LOGISTIC": Operator(_unary, (1, 1), **_UNARY),
    "HARD_SWISH": Operator(_unary, (1, 1), **_UNARY),
    "RELU": Operator(_unary, (1, 1), **_UNARY),
    "RELU6": Operator(_unary, (1, 1), **_UNARY),
    "RSQRT": Operator(_unary, (1, 1), **_UNARY),
    "QUANTIZE": Operator(_unary, (1, 1), **_UNARY),
    "MEAN": Operator(
        _mean,
        (2, 2),
        "ReducerOptions",
        ("KeepDims",),
        rows=_rows_mean,
        scratch=_scratch_mean,
    ),
    "RESHAPE": Operator(_reshape, (1, 2), moves=True),
    "EXPAND_DIMS": Operator(_reshape, (1, 2), moves=True),
    "SQUEEZE": Operator(_reshape, (1, 1), moves=True),
    "STRIDED_SLICE": Operator(
        _strided_slice,
        (4, 4),
        "StridedSliceOptions",
        (
            "BeginMask",
            "EndMask",
            "EllipsisMask",
            "NewAxisMask",
            "ShrinkAxisMask",
            "Offset",
        ),
        moves=True,
    ),
    "TRANSPOSE": Operator(_transpose, (2, 2), moves=True),
    "CONCATENATION": Operator(
        _concatenation,
        (1, 64),
        "ConcatenationOptions",
        (*_FUSED, "Axis"),
        rows=_rows_concatenation,
    ),
    "PAD": Operator(_pad, (2, 2), moves=True),
    "GATHER": Operator(
        _gather, (2, 2), "GatherOptions", ("Axis", "BatchDims"), moves=True
    ),
}

VIEWS = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")


def any_shape(node: Node) -> tuple[int, ...]:
    return node.output.shape


# Our own, made by passes: never in a file.
OWN: dict[str, Operator] = {
    "TABLE": Operator(_unary, (1, 1), **_UNARY),
    "FULLY_CONNECTED_TRANSPOSED": Operator(
        any_shape, (2, 3), rows=_rows_transposed, scratch=_scratch_fully_connected
    ),
    "TRANSPOSE_TOKENS": Operator(any_shape, (1, 1)),
    "HISTORY": Operator(any_shape, (1, 1), rows=_rows_history),
    "HOLD": Operator(any_shape, (1, 1)),
}


def operator(node: Node) -> Operator:
    """The entry of a node: TFLite's, ours, or the variant's that put it there."""
    if node.spec is not None:
        spec: Operator = node.spec
        return spec
    return OWN[node.kind] if node.kind in OWN else OPERATORS[node.kind]
