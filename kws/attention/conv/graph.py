"""A convolution block in the graph: its products.

FULLY_CONNECTED, DEPTHWISE_CONV_2D, FULLY_CONNECTED, which run as they are. Thresholds
are for the two dense layers. The convolution between them runs dense: with a few taps
an element, it costs less than comparing does.
"""

from __future__ import annotations

from kws.graph import operators, products
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.products import Found, Part
from kws.recipe import Model
from kws.shape import Shape

KINDS = {"X": "inputs of the block", "O": "outputs of what mixes tokens"}
CAUSAL = True
TAKES: tuple[str, ...] = ()
GIVES: tuple[str, ...] = ()


def misfit(model: Model) -> tuple[str, str] | None:
    """The key that it can't be built with, and what is expected of it."""
    if not 3 <= model.conv_kernel <= 15 or model.conv_kernel % 2 == 0:
        return "conv_kernel", "an odd number, 3 to 15"
    return None


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes."""
    return {"X": float(shape.dim), "O": float(shape.dim)}


def factors(shape: Shape) -> dict[str, float]:
    """Nothing is folded into a tensor but what papers mean by it."""
    return {}


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The dense layers around every convolution over tokens, in the graph's order.

    A depthwise convolution between others (of a stem, or `token_kernel`'s, which a
    residual follows) is not one of these.
    """
    found = []
    for node in graph.nodes:
        if node.kind != "DEPTHWISE_CONV_2D":
            continue
        first = graph.producer(node.input(0))
        while first is not None and first.kind in (*operators.VIEWS, "PAD"):
            first = graph.producer(first.input(0))
        last = _reader(graph, node.output)
        if _is_dense(first, shape) and _is_dense(last, shape):
            assert first is not None and last is not None
            found.append(Found((Part("X", "in", first), Part("O", "out", last)), last))
    return found


def _reader(graph: Graph, tensor: Tensor) -> Node | None:
    """The one node that reads a tensor, through views and tables."""
    readers = graph.consumers(tensor)
    while len(readers) == 1 and readers[0].kind in products.THROUGH:
        readers = graph.consumers(readers[0].output)
    return readers[0] if len(readers) == 1 else None


def _is_dense(node: Node | None, shape: Shape) -> bool:
    return (
        node is not None
        and node.kind == "FULLY_CONNECTED"
        and operators.row_count(node.output) == shape.tokens
    )


def fuse(graph: Graph) -> int:
    """Nothing: the operators run as they are."""
    return 0
