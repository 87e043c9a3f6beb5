"""Rewrites of the graph. Each pass finds a pattern and replaces it; bits don't change.

    drop_identities   slices that keep everything become views
    fold_tables       functions of one tensor's elements become one 256-entry table
    fuse_attention    Q.K^T, scaling, softmax, P.V become one operator on rows of Q
    narrow_rows       tokens that no class token or head reads are not computed

`run` applies all of them in order. A new pass is a function `Graph -> int` (how many
times it matched) and one line in `PASSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kws.graph import delta, operators, weight_layout
from kws.graph import quantized_math as qm
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access


def run(
    graph: Graph, before_fusion: Callable[[Graph], None] | None = None
) -> dict[str, int]:
    """Apply every pass; returns how often each one matched.

    Args:
        graph: From the reader.
        before_fusion: Called when tables are folded and attention is still single
            products: the graph that the int8 simulator runs.
    """
    found = {}
    for rewrite in PASSES:
        if rewrite is fuse_attention and before_fusion is not None:
            before_fusion(graph)
        found[rewrite.__name__] = rewrite(graph)
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
    _drop_unread(graph)
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


def _drop_unread(graph: Graph) -> None:
    """Remove nodes whose results nobody reads."""
    needed = {id(graph.output)}
    kept = []
    for node in reversed(graph.nodes):
        if id(node.output) in needed:
            kept.append(node)
            needed.update(id(tensor) for tensor in node.variables)
    graph.nodes = kept[::-1]


# --- attention --------------------------------------------------------------------


def fuse_attention(graph: Graph) -> int:
    """Replace BATCH_MATMUL, (TABLE), SOFTMAX, BATCH_MATMUL by attention on rows.

    K and V are rewritten in place by the kernel, so they must have no other reader. V
    is made transposed: by the dense layer that makes it where that is possible. Heads
    side by side in a token (RESHAPE, TRANSPOSE around the products) are one operator.
    """
    found = 0
    for softmax in [node for node in graph.nodes if node.kind == "SOFTMAX"]:
        if _fuse_one(graph, softmax):
            found += 1
            _drop_unread(graph)
    return found


def _fuse_one(graph: Graph, softmax: Node) -> bool:
    before = graph.producer(softmax.input(0))
    table = None
    if before is not None and before.kind == "TABLE" and _sole(graph, before):
        table = before.options["table"]
        before = graph.producer(before.input(0))
    after = graph.consumers(softmax.output)
    if (
        before is None
        or before.kind != "BATCH_MATMUL"
        or not _sole(graph, before)
        or before.options["AdjX"]
        or len(after) != 1
        or after[0].kind != "BATCH_MATMUL"
        or after[0].options["AdjX"]
        or after[0].input(0) is not softmax.output
        or not _sole(graph, softmax)
    ):
        return False
    scores, values = before, after[0]
    query = _tokens(graph, scores.input(0), False)
    key = _tokens(graph, scores.input(1), not scores.options["AdjY"], alone=True)
    value = _tokens(graph, values.input(1), values.options["AdjY"], alone=True)
    result = _untokens(graph, values.output)
    if query is None or key is None or value is None or result is None:
        return False
    rows, columns = scores.output.shape[-2:]
    heads = scores.output.elements // (rows * columns)
    width = query.elements // rows
    head_dim = width // heads
    if (
        len({id(query), id(key), id(value), id(graph.input)}) != 4
        or heads * head_dim != width
        or head_dim % 4
        or key.elements != columns * width
        or value.elements != columns * width
        or values.output.elements != rows * width
    ):
        return False
    _replace_by_attention(
        graph,
        (scores, table, softmax, values),
        (query, key, value, result),
        (columns, heads, head_dim),
    )
    return True


def _sole(graph: Graph, node: Node) -> bool:
    """Whether exactly one node reads this node's result, and the caller doesn't."""
    output = node.output
    return output is not graph.output and len(graph.consumers(output)) == 1


def _tokens(
    graph: Graph, tensor: Tensor, transposed: bool, alone: bool = False
) -> Tensor | None:
    """The tensor [tokens, heads * head_dim] behind a side of attention's products.

    Args:
        graph: The graph.
        tensor: The side: [.., heads, tokens, head_dim].
        transposed: The side is [.., heads, head_dim, tokens] instead.
        alone: Nothing else may read the result or what lies between.
    """
    shape = tensor.shape
    rank = len(shape)
    heads = tensor.elements // (shape[-1] * shape[-2])
    if heads == 1 and not transposed:
        chain = [tensor]
    else:
        producer = graph.producer(tensor)
        if producer is None or producer.kind != "TRANSPOSE":
            return None
        permutation = operators.constant_ints(producer, 1)
        swap = [*range(rank - 2), rank - 1, rank - 2]
        split = {False: [0, 2, 1, 3], True: [0, 2, 3, 1]}[transposed]
        if permutation != (swap if heads == 1 else split):
            return None
        if heads > 1 and (rank != 4 or shape[0] != 1):
            return None
        chain = [tensor, producer.input(0)]
        view = graph.producer(producer.input(0))
        if view is not None and view.kind in operators.VIEWS:
            chain.append(view.input(0))
    if chain[-1].is_constant:
        return None
    if alone:
        for item in chain:
            if item is graph.output or len(graph.consumers(item)) != 1:
                return None
    return chain[-1]


def _untokens(graph: Graph, tensor: Tensor) -> Tensor | None:
    """Where attention's result ends up as [tokens, heads * head_dim]."""
    if tensor.elements == tensor.shape[-1] * tensor.shape[-2]:
        return tensor
    readers = graph.consumers(tensor)
    if (
        tensor is graph.output
        or len(readers) != 1
        or readers[0].kind != "TRANSPOSE"
        or len(tensor.shape) != 4
        or tensor.shape[0] != 1
        or operators.constant_ints(readers[0], 1) != [0, 2, 1, 3]
    ):
        return None
    return readers[0].output


def _replace_by_attention(
    graph: Graph,
    nodes: tuple[Node, list[int] | None, Node, Node],
    ends: tuple[Tensor, Tensor, Tensor, Tensor],
    shape: tuple[int, int, int],
) -> None:
    scores, table, softmax, values = nodes
    query, key, value, result = ends
    tokens, heads, head_dim = shape
    width = heads * head_dim
    options: dict[str, Any] = {
        "tokens": tokens,
        "heads": heads,
        "head_dim": head_dim,
        "table": table,
        "beta": softmax.options["Beta"],
        "scores": scores,
        "softmax": softmax,
        "values": values,
    }
    notes = (delta.note(scores), delta.note(values))
    if delta.encoded(*notes):
        # K by columns and V by rows: what one element of Q or P is multiplied with.
        options["delta"] = notes
        stride = weight_layout.delta_columns(tokens)
        key, extra = _transposed(graph, key, width, stride)
        if head_dim % 8:
            value.reserve = tokens * width + 4  # the kernel may read behind it
        state_bytes = weight_layout.delta_attention_state_bytes(tokens, heads, head_dim)
    else:
        key.reserve = weight_layout.attention_k_bytes(tokens, width)
        stride = weight_layout.attention_v_stride(tokens)
        value, extra = _transposed(graph, value, width, stride)
        state_bytes = weight_layout.attention_scratch_bytes(tokens, heads, head_dim)
    state = Tensor(
        f"state of {result.name}", (state_bytes,), "int8", result.quantization
    )
    at = next(i for i, node in enumerate(graph.nodes) if node.output is result)
    graph.nodes[at : at + 1] = [
        *extra,
        Node("ATTENTION_PREPARE", [key, value], state, options),
        # Keys and values first: the scheduler then makes them before the queries.
        Node("ATTENTION", [state, key, value, query], result, options),
    ]


def _transposed(
    graph: Graph, tensor: Tensor, width: int, stride: int
) -> tuple[Tensor, list[Node]]:
    """A tensor [tokens, width] as [width, stride]: made so where that is possible.

    Returns:
        The transposed tensor, and the node that makes it if it needs one of its own.
    """
    made = graph.producer(tensor)
    out = Tensor(
        f"{tensor.name} transposed", (width, stride), "int8", tensor.quantization
    )
    if made is None or made.kind != "FULLY_CONNECTED":
        return out, [Node("TRANSPOSE_TOKENS", [tensor], out, {"stride": stride})]
    made.kind = "FULLY_CONNECTED_TRANSPOSED"
    made.options = {**made.options, "stride": stride}
    made.output = out
    return out, []


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


PASSES: tuple[Callable[[Graph], int], ...] = (
    drop_identities,
    fold_tables,
    fuse_attention,
    narrow_rows,
)
