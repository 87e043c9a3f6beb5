"""Rewrites of the graph. Each pass finds a pattern and replaces it; bits don't change.

    drop_identities   slices that keep everything become views
    fold_tables       functions of one tensor's elements become one 256-entry table
    fuse              each attention variant's own: its products become its operators
    narrow_rows       tokens that no class token or head reads are not computed

`prepare` runs the first two, `finish` the others; what is between them sees every
product by itself (kws.graph.products). A pass is a function `Graph -> int`: how many
times it matched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kws.graph import delta, operators
from kws.graph import quantized_math as qm
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access

Pass = Callable[[Graph], int]


def prepare(graph: Graph) -> dict[str, int]:
    """Apply what leaves products single; returns how often each pass matched."""
    return _apply(graph, (drop_identities, fold_tables))


def finish(
    graph: Graph, fusions: Sequence[Pass], narrow: bool = True
) -> dict[str, int]:
    """Fuse what variants fuse, and drop rows that nobody reads.

    Args:
        graph: After `prepare`.
        fusions: The variants' passes.
        narrow: Whether to drop rows.
    """
    return _apply(graph, (*fusions, narrow_rows) if narrow else fusions)


def _apply(graph: Graph, passes: Sequence[Pass]) -> dict[str, int]:
    found: dict[str, int] = {}
    for rewrite in passes:
        name = rewrite.__name__
        found[name] = found.get(name, 0) + rewrite(graph)
    return found


def drop_identities(graph: Graph) -> int:
    """A slice that keeps every element in order is a view."""
    found = 0
    for node in graph.nodes:
        same = node.output.elements == node.input(0).elements
        if node.kind == "STRIDED_SLICE" and same:
            node.kind, node.inputs, node.options = "RESHAPE", [node.input(0)], {}
            found += 1
    return found


# --- tables ---------------------------------------------------------------------


def fold_tables(graph: Graph) -> int:
    """Replace functions of one tensor's elements by one look-up table.

    `x * sigmoid(1.702 x)` is such a function, as is a MUL by a scalar, a TANH, or the
    ADD of an epsilon and the RSQRT behind it. Intermediate results with other readers
    become tables of the same source.
    """
    sources: dict[int, tuple[Tensor, list[int]]] = {}
    identity = list(range(-128, 128))
    found = 0
    for node in graph.nodes:
        source = _single_source(node, sources)
        if source is None:
            continue
        sides: list[list[int] | int] = []
        for tensor in node.inputs:
            assert tensor is not None
            if tensor.data is not None:
                sides.append(int(tensor.data.reshape(-1)[0]))
            else:
                sides.append(sources.get(id(tensor), (tensor, identity))[1])
        table = element_table(node, sides)
        sources[id(node.output)] = (source, table)
        node.kind, node.options = "TABLE", {"table": table}
        node.inputs = [source]
        found += 1
    drop_unread(graph)
    return found


def _single_source(
    node: Node, sources: dict[int, tuple[Tensor, list[int]]]
) -> Tensor | None:
    """The one tensor whose elements this node's elements depend on, or None."""
    if not operators.operator(node).in_place or node.kind == "SOFTMAX":
        return None
    found: Tensor | None = None
    for tensor in node.inputs:
        assert tensor is not None
        if tensor.data is not None:
            if tensor.elements != 1:
                return None
            continue
        source = sources[id(tensor)][0] if id(tensor) in sources else tensor
        if found is not None and source is not found:
            return None
        found = source
    if found is None or found.elements != node.output.elements:
        return None
    return found


def element_table(node: Node, sides: list[list[int] | int]) -> list[int]:
    """An element-wise node as a table.

    Args:
        node: The node.
        sides: Each input as 256 values (by the source's value + 128) or one constant.

    Returns:
        256 int8 values.
    """
    x = quantization(node.input(0))
    y = quantization(node.output)
    unary: dict[str, Callable[[], list[int]]] = {
        "TANH": lambda: qm.tanh_table(x),
        "LOGISTIC": lambda: qm.logistic_table(x),
        "HARD_SWISH": lambda: qm.hard_swish_table(x, y),
        "RSQRT": lambda: qm.rsqrt_table(x, y),
        "RELU": lambda: qm.relu_table(x, y),
        "RELU6": lambda: qm.relu6_table(x),
        "QUANTIZE": lambda: qm.requantize_table(x, y),
        "TABLE": lambda: node.options["table"],
    }
    columns = [[side] * 256 if isinstance(side, int) else side for side in sides]
    try:
        if node.kind in unary:
            return qm.compose_tables(columns[0], unary[node.kind]())
        function = _binary(node)
    except ValueError as error:
        raise operators.refuse(node, str(error)) from None
    return [function(a, b) for a, b in zip(*columns, strict=True)]


def _binary(node: Node) -> Callable[[int, int], int]:
    x1, x2 = quantization(node.input(0)), quantization(node.input(1))
    y = quantization(node.output)
    if node.kind == "MUL":
        multiply = qm.mul_parameters(x1, x2, y, activation(node))
        return lambda a, b: qm.mul(multiply, a, b)
    if node.kind == "SQUARED_DIFFERENCE":
        difference = qm.squared_difference_parameters(x1, x2, y)
        return lambda a, b: qm.squared_difference(difference, a, b)
    prepare = qm.add_parameters if node.kind == "ADD" else qm.sub_parameters
    parameters = prepare(x1, x2, y, activation(node))
    return lambda a, b: qm.add(parameters, a, b)


def quantization(tensor: Tensor) -> tuple[float, int]:
    """(scale, zero point), as quantized_math takes it."""
    return (tensor.scale, tensor.zero_point)


def activation(node: Node) -> str:
    """The fused activation by quantized_math's name."""
    return operators.activation(node).lower()


def drop_unread(graph: Graph) -> None:
    """Remove nodes whose results nobody reads."""
    needed = {id(graph.output)}
    kept = []
    for node in reversed(graph.nodes):
        if id(node.output) in needed:
            kept.append(node)
            needed.update(id(tensor) for tensor in node.variables)
    graph.nodes = kept[::-1]


# --- rows that nobody reads --------------------------------------------------------


def narrow_rows(graph: Graph) -> int:
    """Compute only the tokens that the head reads.

    Where a slice keeps some tokens (the class token), whatever leads to it row by row
    is computed for those rows only: most of the last block. Keys and values are read
    whole and stay whole. A delta encoding transmits its first rows whole: where no
    other rows are left, nothing can be skipped, and the product runs dense.
    """
    found = 0
    for node in [node for node in graph.nodes if node.kind == "STRIDED_SLICE"]:
        found += _narrow_one(graph, node)
    for node in graph.nodes:
        note = delta.note(node) if node.kind == "FULLY_CONNECTED" else None
        if note is not None and operators.row_count(node.output) <= note.dense_rows:
            del node.options["delta"]
    return found


def _narrow_one(graph: Graph, last: Node) -> int:
    source = last.input(0)
    total = operators.row_count(source)
    parts = operators.slice_of(last)
    rows = parts[-2] if len(parts) > 1 else None
    if isinstance(rows, int):
        rows = slice(rows, rows + 1, 1)
    if (
        rows is None
        or rows.step != 1
        or source.shape[-2] != total
        or last.output.elements != (rows.stop - rows.start) * source.shape[-1]
        # A delta encoding's row follows from all rows before it.
        or (rows.start > 0 and any("delta" in node.options for node in graph.nodes))
    ):
        return 0
    narrow: set[int] = set()
    access: dict[int, list[Access]] = {}
    for node in reversed(graph.nodes):
        uses = operators.operator(node).rows(node, total)
        readers = graph.consumers(node.output)
        if (
            uses is not None
            and node.kind != "FULLY_CONNECTED_TRANSPOSED"
            and node.output is not graph.output
            and node.output.shape[-2:-1] == (total,)
            and all(
                reader is last
                or (
                    id(reader.output) in narrow
                    and _only_by_row(reader, access[id(reader)], node.output)
                )
                for reader in readers
            )
        ):
            narrow.add(id(node.output))
            access[id(node)] = uses
    nodes = [node for node in graph.nodes if id(node.output) in narrow]
    slices: dict[int, Tensor] = {}
    for node in nodes:
        for index, use in enumerate(access[id(node)]):
            tensor = node.inputs[index]
            if tensor is None or use is not Access.ROW or id(tensor) in narrow:
                continue
            if id(tensor) not in slices:
                slices[id(tensor)] = _sliced(graph, node, tensor, total, rows)
            node.inputs[index] = slices[id(tensor)]
        node.output.shape = _with_rows(node.output.shape, rows)
    if nodes:
        last.kind, last.inputs, last.options = "RESHAPE", [source], {}
    return len(nodes)


def _only_by_row(node: Node, access: list[Access], tensor: Tensor) -> bool:
    return all(
        use is Access.ROW
        for item, use in zip(node.inputs, access, strict=True)
        if item is tensor
    )


def _with_rows(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    return (*shape[:-2], rows.stop - rows.start, shape[-1])


def _sliced(
    graph: Graph, reader: Node, tensor: Tensor, total: int, rows: slice
) -> Tensor:
    """Some rows of a tensor: a smaller constant, or the output of a new slice."""
    width = tensor.elements // total
    shape = (rows.stop - rows.start, width)
    if len(tensor.shape) > 2:
        shape = (*tensor.shape[:-2], *shape)
    name = f"rows of {tensor.name}"
    part = Tensor(name[:200], shape, tensor.dtype, tensor.quantization)
    if tensor.data is not None:
        part.data = tensor.data.reshape(total, width)[rows].reshape(shape)
        return part
    whole = Tensor("", (*shape[:-2], total, width), tensor.dtype, tensor.quantization)
    rank = len(shape)
    bounds = {
        "begin": [0] * (rank - 2) + [rows.start, 0],
        "end": [*shape[:-2], rows.stop, width],
        "strides": [1] * rank,
    }
    constants = [
        Tensor(key, (rank,), "int32", data=np.array(values, np.int32))
        for key, values in bounds.items()
    ]
    masks = ("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis")
    options = {**{f"{mask}Mask": 0 for mask in masks}, "Offset": False}
    at = graph.nodes.index(reader)
    viewed = tensor
    new = []
    if tensor.shape != whole.shape:
        whole.name = f"view of {tensor.name}"[:200]
        new.append(Node("RESHAPE", [tensor], whole))
        viewed = whole
    new.append(Node("STRIDED_SLICE", [viewed, *constants], part, options))
    graph.nodes[at:at] = new
    return part
