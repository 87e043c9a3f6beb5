"""Map reuse in the graph: its products, its operators for a map that is kept, their C.

A map that several blocks read can't be made a few rows at a time and forgotten, as
softmax attention does. It is kept in int8: heads x tokens x tokens bytes of the arena,
from the block that makes it to the last one that takes it. So where a map has several
readers, Q.K^T and each P.V become operators of their own (here), on rows like all
others; where thresholds are given, their delta forms, on the whole map.
"""

from __future__ import annotations

from typing import Any

from kws.graph import (
    attention,
    cost,
    delta,
    operators,
    parameters,
    products,
    weight_layout,
)
from kws.graph.cost import Count, Sent
from kws.graph.emitter import Emitter
from kws.graph.nodes import Graph, Node, Product, Tensor
from kws.graph.operators import Access, Operator
from kws.graph.products import Found, Part
from kws.recipe import Model
from kws.shape import Shape

KINDS = {
    "X": "inputs of the block",
    "P": "softmax outputs",
    "O": "outputs of what mixes tokens",
}
CAUSAL = False
TAKES = ("map",)
GIVES: tuple[str, ...] = ()


def misfit(model: Model) -> tuple[str, str] | None:
    """Any recipe will do that has a map before it."""
    return None


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes."""
    return {
        "X": float(shape.inner),
        "P": float(shape.head_dim),
        "O": float(shape.dim),
    }


def factors(shape: Shape) -> dict[str, float]:
    """Nothing is folded into a tensor but what papers mean by it."""
    return {}


# --- products -------------------------------------------------------------------------


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The blocks that take a map of a block before them, in the graph's order.

    Raises:
        KwsError: a product with a map that isn't of such a block, or other heads.
    """
    blocks: dict[int, list[Part]] = {}
    lasts: dict[int, Node] = {}
    for softmax in _kept(graph):
        for mix in attention.mixes(graph, softmax)[1:]:
            dense = products.above(graph, mix.input(1), "FULLY_CONNECTED")
            key = id(dense.input(0))
            blocks.setdefault(key, []).extend(
                (Part("X", "qkv", dense), Part("P", "mix", mix))
            )
            last = products.below(graph, mix.output)
            if lasts.setdefault(key, last) is not last:
                raise products.unknown(last)
    order = {id(node): place for place, node in enumerate(graph.nodes)}
    return [
        Found((*blocks[key], Part("O", "out", lasts[key])), lasts[key])
        for key in sorted(blocks, key=lambda key: order[id(lasts[key])])
    ]


def _kept(graph: Graph) -> list[Node]:
    """The softmaxes whose results several products read."""
    return [
        node
        for node in graph.nodes
        if node.kind == "SOFTMAX" and len(graph.consumers(node.output)) > 1
    ]


# --- fusing ---------------------------------------------------------------------------


def fuse(graph: Graph) -> int:
    """Give maps that are kept their operators; V's dense layer makes it transposed.

    What can't be: another layout of Q, K or V than our layers make, which then runs as
    it is, without thresholds.
    """
    found = 0
    for softmax in _kept(graph):
        scores = graph.producer(softmax.input(0))
        mixes = attention.mixes(graph, softmax)
        if (
            scores is None
            or scores.kind != "BATCH_MATMUL"
            or scores.options["AdjX"]
            or not scores.options["AdjY"]
            or scores.output.elements != softmax.output.shape[-1] ** 2
            or len(graph.consumers(scores.output)) != 1
            or not _made_alone(graph, scores.input(1))
            or not all(
                _made_alone(graph, mix.input(1)) and not mix.options["AdjY"]
                for mix in mixes
            )
        ):
            continue
        _keep_scores(graph, scores)
        for mix in mixes:
            _keep_mix(graph, mix)
        found += 1
    return found


def _made_alone(graph: Graph, tensor: Tensor) -> bool:
    """Whether a dense layer makes it, for one reader."""
    made = graph.producer(tensor)
    return (
        made is not None
        and made.kind == "FULLY_CONNECTED"
        and len(graph.consumers(tensor)) == 1
        and tensor.shape[-1] % 4 == 0
    )


def _transposed(graph: Graph, tensor: Tensor, stride: int) -> Tensor:
    """A dense layer's result [tokens, width] as [width, stride]."""
    made = graph.producer(tensor)
    assert made is not None
    made.kind = "FULLY_CONNECTED_TRANSPOSED"
    made.options = {**made.options, "stride": stride}
    made.output = Tensor(
        f"{tensor.name} transposed",
        (tensor.shape[-1], stride),
        "int8",
        tensor.quantization,
    )
    return made.output


def _keep_scores(graph: Graph, node: Node) -> None:
    """Q.K^T: keys first, so that the scheduler makes them before the queries."""
    query, key = node.input(0), node.input(1)
    options = _options(node, key.shape[-2], key.shape[-1])
    if "delta" in options:
        stride = weight_layout.delta_columns(options["tokens"])
        key = _transposed(graph, key, stride)
    node.kind, node.options, node.spec = "MAP_SCORES", options, PRODUCT
    node.inputs = [key, query]


def _keep_mix(graph: Graph, node: Node) -> None:
    """P.V."""
    shares, value = node.input(0), node.input(1)
    options = _options(node, value.shape[-2], value.shape[-1])
    if "delta" in options:
        if value.shape[-1] % 8:
            value.reserve = value.elements + 4  # the kernel may read behind it
    else:
        stride = weight_layout.attention_v_stride(options["tokens"])
        value = _transposed(graph, value, stride)
    node.kind, node.options, node.spec = "MAP_MIX", options, PRODUCT
    node.inputs = [value, shares]


def _options(node: Node, tokens: int, width: int) -> dict[str, Any]:
    """Of one of the operators: what it was, and its sizes."""
    options: dict[str, Any] = {
        "tokens": tokens,
        "width": width,
        "products": node.options.get("products", ()),
        # Its numbers don't depend on the order of the inputs any more.
        "fields": parameters.batch_matmul(node),
    }
    if delta.encoded(delta.note(node)):
        options["delta"] = node.options["delta"]
    return options


# --- how the operators run, what they cost, their C -----------------------------------


def _rows(node: Node, rows: int) -> list[Access] | None:
    """Rows of the left side (the last input); a delta form takes all at once."""
    if "delta" in node.options or _run_rows(node) != rows:
        return None
    return [Access.WHOLE, Access.ROW]


def _inner(node: Node) -> int:
    """Products that are added up for one result."""
    tokens, width = node.options["tokens"], node.options["width"]
    return int(width if node.kind == "MAP_SCORES" else tokens)


def _columns(node: Node) -> int:
    """Results of a row."""
    tokens, width = node.options["tokens"], node.options["width"]
    return int(tokens if node.kind == "MAP_SCORES" else width)


def _run_rows(node: Node) -> int:
    """Rows that are run: all of them, or those that a head reads."""
    return node.output.elements // _columns(node)


def _scratch(node: Node) -> int:
    inner = _inner(node)
    if "delta" in node.options:
        return weight_layout.delta_batch_matmul_state_bytes(inner, _columns(node))
    return weight_layout.batch_matmul_scratch_bytes(inner)


def _count(node: Node, sent: Sent | None) -> Count:
    """As of a BATCH_MATMUL; keys that are held are replaced in place."""
    rows, inner, columns = _run_rows(node), _inner(node), _columns(node)
    elements: Any = rows * inner
    total = Count()
    for product in node.options["products"]:
        if product.macs:
            elements, encoding = cost.encoded(product, sent, rows)
            total += encoding
            continue
        held = None if sent is None else sent(product)
        if held is not None:
            total += Count(
                comparisons=max(product.rows - product.dense_rows, 0) * product.inputs,
                bytes={cost.WRITE: product.elements - held},
            )
    return total + Count(
        macs=elements * columns,
        bytes={
            cost.READ: rows * inner + elements * columns,
            cost.WRITE: rows * columns,
        },
    )


def _call(emitter: Emitter, node: Node) -> list[str]:
    if "delta" in node.options:
        return _delta_call(emitter, node)
    options, inner, columns = node.options, _inner(node), _columns(node)
    right = node.input(0)
    return emitter.call(
        "kws_batch_matmul_s8",
        emitter.struct("kws_batch_matmul_t", options["fields"]),
        emitter.input(node, 1),
        inner,
        emitter.input(node, 0),
        right.shape[-1],
        emitter.rows(_run_rows(node)),
        columns,
        inner,
        emitter.output(node),
        columns,
        emitter.scratch(node),
    )


def _delta_call(emitter: Emitter, node: Node) -> list[str]:
    options, inner, columns = node.options, _inner(node), _columns(node)
    note: delta.Note = options["delta"]
    by_kind: dict[str, Product] = {p.kind: p for p in options["products"]}
    right, lines = emitter.input(node, 0), []
    if node.kind == "MAP_SCORES":
        kind, stride = "Q", node.input(0).shape[-1]
        keys = emitter.counter("kws_delta_attention_sent_t", options["fields"])
        if note.steps["K"] >= 0:
            emitter.count_sent(by_kind["K"], f"{keys}.key", options["tokens"])
        sizes = {"tokens": options["tokens"], "heads": 1, "head_dim": inner}
        struct = emitter.struct(
            "kws_delta_attention_t",
            {
                "attention": sizes,
                "key_threshold": note.steps["K"],
                "dense_rows": note.dense_rows,
            },
        )
        lines += emitter.call(
            "kws_delta_attention_prepare", struct, right, "NULL", f"&{keys}"
        )
    else:
        kind, stride = "P", columns
        lines += emitter.call("kws_delta_flip", right, inner * columns)
    sent = emitter.counter("uint32_t")
    emitter.count_sent(by_kind[kind], sent, options["tokens"])
    struct = emitter.struct(
        "kws_delta_batch_matmul_t",
        {
            "product": options["fields"],
            "rows": options["tokens"],
            "inner": inner,
            "columns": columns,
            "stride": stride,
            # Not encoded and encoded with 0 give the same bits.
            "threshold": max(0, note.steps[kind]),
            "dense_rows": note.dense_rows,
        },
    )
    return lines + emitter.call(
        "kws_delta_batch_matmul_s8",
        struct,
        emitter.input(node, 1),
        right,
        emitter.output(node),
        emitter.scratch(node),
        f"&{sent}",
    )


PRODUCT = Operator(
    operators.any_shape, (2, 2), rows=_rows, scratch=_scratch, count=_count, call=_call
)
