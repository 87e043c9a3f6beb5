"""Notes at products that run with delta thresholds (DESIGN D2).

`products.mark` leaves them; the variants' fusing passes, the counts and the emitted C
read them. A graph without notes is emitted as if this were not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from kws.graph.nodes import Node


@dataclass(frozen=True)
class Note:
    """Thresholds of a node, in its options["delta"].

    Args:
        layer: Of the network.
        steps: Tensor kind -> threshold in int8 steps, for those that this node reads;
            -1: not encoded.
        dense_rows: Rows at the start that are transmitted whole.
        keeps_dense: Weights are there for the dense kernel too; on a stream for that
            alone.
        window: Of a convolution: inputs of a window from which on single elements are
            skipped; 0: never.
        whole_steps: Where what is held lives from step to step of a stream: steps
            after a reset that are transmitted whole, at least 1; 0: it lives for a run.
    """

    layer: int
    steps: dict[str, int]
    dense_rows: int
    keeps_dense: bool
    window: int = 0
    whole_steps: int = 0


def note(node: Node) -> Note | None:
    """The note at a node."""
    found: Note | None = node.options.get("delta")
    return found


def encoded(*notes: Note | None) -> bool:
    """Whether any tensor of these notes is encoded."""
    return any(step >= 0 for item in notes if item for step in item.steps.values())
