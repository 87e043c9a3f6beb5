"""A bundle's delta thresholds, and which products of the graph they apply to.

Which tensor is meant by "K of layer 3" is kws.simulate.integer.find_holds' to say: the
simulator and the emitted C must not disagree on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kws.bundle import Bundle
from kws.graph import delta, operators, weight_layout
from kws.graph.nodes import Graph, Node
from kws.simulate import cost
from kws.simulate.cost import KINDS
from kws.simulate.integer import find_holds
from kws.simulate.simulator import Thresholds


@dataclass(frozen=True)
class Delta:
    """Thresholds of a network.

    Args:
        steps: int [layers, kinds], int8 steps, columns in the order of KINDS; -1 where
            a tensor is not encoded.
        shape: The network's sizes.
    """

    steps: np.ndarray
    shape: cost.Shape


def of_bundle(bundle: Bundle, core: str = "portable") -> Delta | None:
    """What a bundle's `thresholds` say; None where there are none.

    At threshold 0 a dense layer skips repeats only, which changes no bit: on a core
    whose dense kernel is faster, such a tensor counts as not encoded.

    Args:
        bundle: With thresholds, or without.
        core: `portable`, `dsp` or `mve`.

    Raises:
        KwsError: a key that names no tensor kind or layer of the network.
    """
    if not bundle.thresholds:
        return None
    shape = cost.shape_of(bundle.recipe, len(bundle.labels))
    table = Thresholds.from_dict(bundle.thresholds, shape.layers)
    steps = table.values.astype(int)
    if core in weight_layout.DELTA_KEEPS_DENSE:
        dense_layers = np.isin(KINDS, tuple("XOMH"))
        steps[(steps == 0) & dense_layers] = -1
    return Delta(steps, shape)


def mark(graph: Graph, thresholds: Delta, core: str) -> None:
    """Leave a note at every product that reads an encoded tensor.

    Args:
        graph: After `passes.drop_identities` and `passes.fold_tables`.
        thresholds: Of that network.
        core: `portable`, `dsp` or `mve`.

    Raises:
        KwsError: the attention can't be told from the graph, or has a form that the
            delta kernels don't run.
    """
    holds, _ = find_holds(graph, thresholds.shape)
    for node in graph.nodes:
        steps: dict[str, int] = {}
        layer = 0
        for tensor in node.variables:
            if (id(node), id(tensor)) in holds:
                layer, kind, _ = holds[id(node), id(tensor)]
                steps[kind] = int(thresholds.steps[layer, KINDS.index(kind)])
        if max(steps.values(), default=-1) >= 0:
            note = delta.Note(
                layer,
                steps,
                thresholds.shape.dense_rows,
                core in weight_layout.DELTA_KEEPS_DENSE,
            )
            node.options = {**node.options, "delta": note}
            _check(node, thresholds.shape.tokens)


def _check(node: Node, tokens: int) -> None:
    if node.kind == "FULLY_CONNECTED":
        fits = operators.row_count(node.output) == tokens
    else:
        keys = "K" in delta.note(node).steps  # type: ignore[union-attr]
        fits = (
            node.output.shape[-2] == tokens
            and operators.row_count(node.output) == tokens
            and not node.options["AdjX"]
            and bool(node.options["AdjY"]) == keys
        )
    if not fits:
        raise operators.refuse(node, "the delta kernels take one row per token")


def check_fused(graph: Graph) -> None:
    """See that no product with a note was left as it was.

    Raises:
        KwsError: it was, since attention could not be fused.
    """
    for node in graph.nodes:
        if node.kind == "BATCH_MATMUL" and delta.encoded(delta.note(node)):
            raise operators.refuse(node, "delta thresholds need fused attention")
