"""Softmax attention in the graph: its products, its fused operator, its C, its cost.

In a .tflite it is three dense layers of one source (Q, K, V; a set for each head),
Q.K^T, softmax, P.V, and the output's dense layer. On the board the middle becomes one
operator that works on a few rows of Q at a time, so that the tokens x tokens matrix
never exists; where thresholds are given, its delta form (firmware/include/kws_delta.h).

In a causal network K and V are each token's window: PAD and GATHER in front. On a
stream a head's middle is one operator, ATTENTION_STEP: the step's row of Q asks the
last rows of K and V, which lie in rings. Neither softmax nor P.V asks for an order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kws.graph import (
    attention,
    cost,
    delta,
    operators,
    parameters,
    passes,
    weight_layout,
    windows,
)
from kws.graph.cost import Count, Sent
from kws.graph.emitter import Emitter
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access, Operator
from kws.graph.products import Found, Product
from kws.recipe import Model
from kws.shape import Shape

KINDS = attention.KINDS
CAUSAL = True
TAKES: tuple[str, ...] = ()
GIVES = ("map",)  # softmax outputs, one of each head


def misfit(model: Model) -> tuple[str, str] | None:
    """The key that it can't be built with, and what is expected of it."""
    return windows.misfit(model)


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes."""
    return attention.macs_per_element(shape)


def factors(shape: Shape) -> dict[str, float]:
    """What is folded into a tensor of a kind, beside what papers mean by it."""
    return attention.factors(shape)


# --- products -------------------------------------------------------------------------


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The attention of every block, heads together, in the graph's order.

    Raises:
        KwsError: a softmax that isn't between such products, or other heads.
    """
    return attention.find(graph, shape)


# --- fusing ---------------------------------------------------------------------------


def fuse(graph: Graph) -> int:
    """Replace BATCH_MATMUL, (TABLE), SOFTMAX, BATCH_MATMUL by attention on rows.

    K and V are rewritten in place by the kernel, so they must have no other reader. V
    is made transposed: by the dense layer that makes it where that is possible. Heads
    side by side in a token (RESHAPE, TRANSPOSE around the products) are one operator.
    Of a stream's step K and V are what is kept, and stay as they are.
    """
    found = 0
    for softmax in [node for node in graph.nodes if node.kind == "SOFTMAX"]:
        if _fuse_one(graph, softmax):
            found += 1
            passes.drop_unread(graph)
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
    kept = [windows.history(graph, side.input(1)) for side in (scores, values)]
    if any(kept):
        return _fuse_step(graph, (scores, table, softmax, values), kept)
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


def _fuse_step(
    graph: Graph,
    nodes: tuple[Node, list[int] | None, Node, Node],
    kept: list[Node | None],
) -> bool:
    """Put one operator in the place of a step's row of Q and its window, in rings.

    Args:
        graph: Of a step.
        nodes: Q.K^T, what its results go through, softmax, P.V.
        kept: The HISTORY of K and of V, where they are one.

    Returns:
        Whether; not where one of them is no window of its own, or of several rows: that
        runs operator by operator.
    """
    scores, table, softmax, values = nodes
    keys, shown = kept
    query, result = scores.input(0), values.output
    if (
        keys is None
        or shown is None
        or keys is shown
        or not scores.options["AdjY"]
        or values.options["AdjY"]
        or operators.history(keys) != operators.history(shown)
        or operators.history(keys).rows != 1
        or query.elements != operators.history(keys).width
        or result.elements != query.elements
        or not all(_read_once(graph, node) for node in (keys, shown))
    ):
        return False
    rings = [windows.ring(graph, node) for node in (keys, shown)]
    _, tokens, width = rings[0].shape
    options = {
        "tokens": tokens,
        "head_dim": width,
        "table": table,
        "exponentials": parameters.softmax_exponentials(softmax),
        # Their numbers don't depend on where K and V lie.
        "scores": parameters.batch_matmul(scores),
        "values": parameters.batch_matmul(values),
    }
    asked = Node("ATTENTION_STEP", [*rings, query], result, options, STEP)
    graph.nodes[graph.nodes.index(values)] = asked
    return True


def _read_once(graph: Graph, node: Node) -> bool:
    """Whether one node reads a result, through views."""
    while len(readers := graph.consumers(node.output)) == 1:
        (node,) = readers
        if node.kind not in operators.VIEWS:
            return True
    return False


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
        # K is only held; Q and P are what is skipped.
        "products": (
            *scores.options.get("products", ()),
            *values.options.get("products", ()),
        ),
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
        Node("ATTENTION_PREPARE", [key, value], state, options, PREPARE),
        # Keys and values first: the scheduler then makes them before the queries.
        Node("ATTENTION", [state, key, value, query], result, options, ROWS),
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


# --- how the fused operator runs, what it costs, its C --------------------------------


def _rows(node: Node, rows: int) -> list[Access] | None:
    """Rows of the queries (the last input)."""
    options = node.options
    total = node.output.elements // (options["heads"] * options["head_dim"])
    if total % rows or ("delta" in options and total != rows):
        return None
    return [Access.WHOLE, Access.WHOLE, Access.WHOLE, Access.ROW]


def _of_kind(node: Node, kind: str) -> Product | None:
    found: tuple[Product, ...] = node.options["products"]
    return next((product for product in found if product.kind == kind), None)


def _count_prepare(node: Node, sent: Sent | None) -> Count:
    """Keys and values are read once; keys that are held are replaced in place.

    Not what pads rows of the transposed one, which differs with and without thresholds.
    """
    options = node.options
    elements = options["tokens"] * options["heads"] * options["head_dim"]
    count = Count(bytes={cost.READ: 2 * elements})
    keys = _of_kind(node, "K")
    found = None if sent is None or keys is None else sent(keys)
    if keys is None or found is None:
        return count
    return count + Count(
        comparisons=max(keys.rows - keys.dense_rows, 0) * keys.inputs,
        bytes={cost.WRITE: keys.elements - found},
    )


def _count_rows(node: Node, sent: Sent | None) -> Count:
    options = node.options
    heads, head_dim, tokens = options["heads"], options["head_dim"], options["tokens"]
    width = heads * head_dim
    rows = node.output.elements // width
    scores = rows * heads * tokens
    query, shares, encoding = rows * width, scores, Count()
    for product in options["products"]:
        if product.kind == "Q":
            query, more = cost.encoded(product, sent, rows)
            encoding += more
        elif product.kind == "P":
            shares, more = cost.encoded(product, sent, rows)
            encoding += more
    macs = query * tokens + shares * head_dim
    return encoding + Count(
        macs=macs,
        exponentials=scores,
        bytes={
            cost.READ: rows * width + macs,  # a key's or value's element for each
            cost.WRITE: rows * width,
            # A row of scores is written, read by softmax, written as shares, and read.
            cost.SCRATCH_READ: 2 * scores,
            cost.SCRATCH_WRITE: 2 * scores,
        },
    )


def _struct(emitter: Emitter, node: Node) -> str:
    options = node.options
    table = options["table"]
    fields: dict[str, object] = {
        "tokens": options["tokens"],
        "heads": options["heads"],
        "head_dim": options["head_dim"],
        "scores": parameters.batch_matmul(options["scores"]),
        "score_table": "NULL"
        if table is None
        else emitter.constant("table", np.array(table, np.int8)),
        "softmax": {
            "exp_table": emitter.constant(
                "exp_table", parameters.softmax_exponentials(options["softmax"])
            )
        },
        "values": parameters.batch_matmul(options["values"]),
    }
    if "delta" not in options:
        return emitter.struct("kws_attention_t", fields)
    steps = _steps(node)
    return emitter.struct(
        "kws_delta_attention_t",
        {
            "attention": fields,
            # Not encoded and encoded with 0 give the same bits.
            "query_threshold": max(0, steps["Q"]),
            "key_threshold": steps["K"],
            "share_threshold": max(0, steps["P"]),
            "dense_rows": max(note.dense_rows for note in options["delta"] if note),
        },
    )


def _steps(node: Node) -> dict[str, int]:
    """Thresholds of Q, K and P of an attention, -1 where not encoded."""
    steps = {"Q": -1, "K": -1, "P": -1}
    for note in node.options["delta"]:
        steps |= note.steps if note else {}
    return steps


def _delta_prepare(emitter: Emitter, node: Node) -> list[str]:
    # An attention's two nodes share their options, and so a counter.
    sent = emitter.counter("kws_delta_attention_sent_t", node.options["softmax"])
    keys = _of_kind(node, "K")
    if keys is not None and _steps(node)["K"] >= 0:
        emitter.count_sent(keys, f"{sent}.key", keys.rows)
    return emitter.call(
        "kws_delta_attention_prepare",
        _struct(emitter, node),
        emitter.input(node, 0),
        emitter.input(node, 1),
        f"&{sent}",
    )


def _delta_rows(emitter: Emitter, node: Node) -> list[str]:
    rows = node.output.elements // (node.options["heads"] * node.options["head_dim"])
    sent = emitter.counter("kws_delta_attention_sent_t", node.options["softmax"])
    for kind, name in (("Q", "query"), ("P", "share")):
        product = _of_kind(node, kind)
        assert product is not None
        emitter.count_sent(product, f"{sent}.{name}", rows)
    return emitter.call(
        "kws_delta_attention_rows_s8",
        _struct(emitter, node),
        emitter.input(node, 3),
        *emitter.first_rows,
        emitter.rows(rows),
        emitter.input(node, 1),
        emitter.input(node, 2),
        emitter.output(node),
        emitter.input(node, 0),
        f"&{sent}",
    )


def _call_prepare(emitter: Emitter, node: Node) -> list[str]:
    if "delta" in node.options:
        return _delta_prepare(emitter, node)
    return emitter.call(
        "kws_attention_prepare",
        _struct(emitter, node),
        emitter.input(node, 0),
        emitter.input(node, 1),
        emitter.output(node),
    )


def _call_rows(emitter: Emitter, node: Node) -> list[str]:
    if "delta" in node.options:
        return _delta_rows(emitter, node)
    width = node.options["heads"] * node.options["head_dim"]
    return emitter.call(
        "kws_attention_rows_s8",
        _struct(emitter, node),
        emitter.input(node, 3),
        emitter.rows(node.output.elements // width),
        emitter.input(node, 1),
        emitter.input(node, 2),
        emitter.output(node),
        emitter.input(node, 0),
    )


def _step_places(node: Node) -> tuple[int, int]:
    """Of the scratch: bytes of scores, and of what the larger product needs behind."""
    tokens, width = node.options["tokens"], node.options["head_dim"]
    return weight_layout.round_up(tokens, 4), max(
        weight_layout.batch_matmul_scratch_bytes(width),
        weight_layout.batch_matmul_columns_scratch_bytes(tokens),
    )


def _step_count(node: Node, sent: Sent | None) -> Count:
    """As of a clip's row; K and V are read where they are kept."""
    tokens, width = node.options["tokens"], node.options["head_dim"]
    macs = 2 * tokens * width
    return Count(
        macs=macs,
        exponentials=tokens,
        bytes={
            cost.READ: width,
            cost.WRITE: width,
            cost.STATE_READ: macs,
            cost.SCRATCH_READ: 2 * tokens,
            cost.SCRATCH_WRITE: 2 * tokens,
        },
    )


def _step_call(emitter: Emitter, node: Node) -> list[str]:
    """A row of scores, in place softmax's shares, and what they make of V."""
    options = node.options
    tokens, width = options["tokens"], options["head_dim"]
    keys, shown, query = (emitter.input(node, i) for i in range(3))
    row = emitter.scratch(node)
    work = f"{row} + {_step_places(node)[0]}"
    scores, values = (
        emitter.struct("kws_batch_matmul_t", options[side])
        for side in ("scores", "values")
    )
    softmax = emitter.struct(
        "kws_softmax_t",
        {"exp_table": emitter.constant("exp_table", options["exponentials"])},
    )
    lines = emitter.call(
        "kws_batch_matmul_s8",
        scores,
        query,
        width,
        keys,
        width,
        1,
        tokens,
        width,
        row,
        tokens,
        work,
    )
    if options["table"] is not None:
        table = emitter.constant("table", np.array(options["table"], np.int8))
        lines += emitter.call("kws_table_s8", table, row, tokens, row)
    return [
        *lines,
        *emitter.call("kws_softmax_s8", softmax, row, 1, tokens, row),
        *emitter.call(
            "kws_batch_matmul_columns_s8",
            values,
            row,
            tokens,
            shown,
            width,
            1,
            width,
            tokens,
            emitter.output(node),
            width,
            work,
        ),
    ]


PREPARE = Operator(
    operators.any_shape, (2, 2), count=_count_prepare, call=_call_prepare
)
ROWS = Operator(
    operators.any_shape,
    (4, 4),
    rows=_rows,
    in_place=(3,),
    count=_count_rows,
    call=_call_rows,
)
STEP = Operator(
    operators.any_shape,
    (3, 3),
    scratch=lambda node: sum(_step_places(node)),
    count=_step_count,
    call=_step_call,
)
