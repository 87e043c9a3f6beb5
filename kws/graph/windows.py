"""Windows of a causal network: a token and those before it, in the graph.

In the clip's form each token's window of a tensor is gathered (PAD, GATHER; rows of 0
lie before the first token). Of a stream's step it is a HISTORY (kws.graph.stream), or,
where what reads it asks for no order, the ring that `ring` makes of one.
"""

from __future__ import annotations

from kws.graph import operators
from kws.graph.nodes import Graph, Node, Tensor
from kws.recipe import Model

SIZES = (2, 255)  # tokens


def misfit(model: Model) -> tuple[str, str] | None:
    """The key that a block can't be built with in a causal network, and what is
    expected of it."""
    if model.causal and not SIZES[0] <= model.window <= SIZES[1]:
        return "window", f"{SIZES[0]} to {SIZES[1]} tokens"
    return None


def gathered(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is each token's window of something, of a clip."""
    node = graph.producer(tensor)
    return node is not None and node.kind == "GATHER"


def history(graph: Graph, tensor: Tensor) -> Node | None:
    """The HISTORY that the window of a stream's step is, if a tensor is one."""
    node = graph.producer(tensor)
    while node is not None and node.kind in operators.VIEWS:
        node = graph.producer(node.input(0))
    return node if node is not None and node.kind == "HISTORY" else None


def ring(graph: Graph, node: Node, more: int = 0) -> Tensor:
    """Put a ring in the place of a HISTORY with one row a step.

    Args:
        graph: Of a step.
        node: The HISTORY; its readers have to be given the ring instead.
        more: Rows that it keeps beyond the window's, older ones.

    Returns:
        The ring: (1, window + more, width).
    """
    kept, old = operators.history(node), node.output
    assert kept.rows == 1
    made = Tensor(
        f"ring of {node.input(0).name}"[:200],
        (1, kept.past + 1 + more, kept.width),
        "int8",
        old.quantization,
        reset=old.reset,
    )
    turning = Node("HISTORY", [node.input(0)], made, {"rows": 1, "ring": True})
    graph.nodes[graph.nodes.index(node)] = turning
    return made
