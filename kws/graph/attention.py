"""Softmax attention as it stands in a .tflite: what several variants look for.

Three dense layers of one source (Q, K, V; a set for each head), Q.K^T, softmax, P.V,
and the output's dense layer. P is a block's map: how much of which token it mixes. In a
causal network K and V are each token's window of them (kws.graph.windows).
"""

from __future__ import annotations

from kws.errors import KwsError
from kws.graph import operators, products, windows
from kws.graph.nodes import Graph, Node
from kws.graph.products import Found, Part
from kws.shape import Shape

KINDS = {
    "X": "inputs of the block",
    "Q": "queries",
    "K": "keys",
    "P": "softmax outputs",
    "O": "outputs of what mixes tokens",
}


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes.

    Q and K share those of Q.K^T.
    """
    return {
        "X": 3.0 * shape.inner,
        "Q": shape.tokens / 2.0,
        "K": shape.tokens / 2.0,
        "P": float(shape.head_dim),
        "O": float(shape.dim),
    }


def factors(shape: Shape) -> dict[str, float]:
    """What is folded into a tensor of a kind, beside what papers mean by it."""
    return {"Q": shape.head_dim**-0.5}


def mixes(graph: Graph, softmax: Node) -> list[Node]:
    """The products P.V of a map, in the order in which they run.

    Raises:
        KwsError: something else reads it.
    """
    found = graph.consumers(softmax.output)
    if not found or any(
        node.kind != "BATCH_MATMUL" or node.input(0) is not softmax.output
        for node in found
    ):
        raise products.unknown(softmax)
    return found


def _of_windows(graph: Graph, softmax: Node) -> bool:
    """Whether each row of it is of a token's own window."""
    scores = graph.producer(softmax.input(0))
    return (
        scores is not None
        and scores.kind == "BATCH_MATMUL"
        and windows.gathered(graph, scores.input(1))
    )


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The blocks that compare tokens, heads together, in the graph's order.

    Args:
        graph: After `passes.prepare`.
        shape: Its sizes: a softmax of other rows (of a read-out, say) is passed over,
            and, where tokens see windows, one that doesn't.

    Raises:
        KwsError: a softmax that isn't between such products, or other heads.
    """
    blocks: dict[int, list[Part]] = {}
    heads: dict[int, int] = {}
    lasts: dict[int, Node] = {}
    every = [node for node in graph.nodes if node.kind == "SOFTMAX"]
    windowed = [softmax for softmax in every if _of_windows(graph, softmax)]
    for softmax in windowed or every:
        if not windowed and softmax.output.shape[-2] != shape.tokens:
            continue
        scores = products.above(graph, softmax.input(0), "BATCH_MATMUL")
        # Blocks further on may use the map again.
        mix = mixes(graph, softmax)[0]
        dense = [
            products.above(graph, tensor, "FULLY_CONNECTED")
            for tensor in (scores.input(0), scores.input(1), mix.input(1))
        ]
        source = dense[0].input(0)
        if any(node.input(0) is not source for node in dense):
            raise products.unknown(softmax)
        parts = blocks.setdefault(id(source), [])
        parts += [
            *(Part("X", "qkv", node) for node in dense),
            Part("Q", "scores", scores),
            Part("K", "keys", scores, side=1),
            Part("P", "mix", mix),
        ]
        # Heads side by side in one product are as many.
        rows = operators.row_count(softmax.output)
        heads[id(source)] = heads.get(id(source), 0) + rows // shape.tokens
        last = products.below(graph, mix.output)
        if lasts.setdefault(id(source), last) is not last:
            raise products.unknown(last)
    if any(count != shape.heads for count in heads.values()):
        raise KwsError(
            "The model's attention is not the recipe's. Expected "
            f"{shape.heads} heads in every block. Received: {list(heads.values())}",
            "kws convert RUN",
        )
    return [
        Found((*parts, Part("O", "out", lasts[source])), lasts[source])
        for source, parts in blocks.items()
    ]
