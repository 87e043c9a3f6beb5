"""Folding attention in the graph: softmax attention with several rows a token.

The operators are those of softmax attention, which fuses them: its pass takes any rows.
Sub-tokens of a token are neighbouring rows of every product, and have nothing to do
with one another: a delta encoding from row to row finds little to hold here.
"""

from __future__ import annotations

import dataclasses

from kws.graph import attention
from kws.graph.nodes import Graph
from kws.graph.products import Found
from kws.recipe import Model
from kws.shape import Shape

KINDS = attention.KINDS
CAUSAL = False
TAKES: tuple[str, ...] = ()
GIVES: tuple[str, ...] = ()


def misfit(model: Model) -> tuple[str, str] | None:
    """The key that it can't be built with, and what is expected of it."""
    if model.fold < 2 or model.dim % model.fold or model.head_dim % model.fold:
        return (
            "fold",
            f"2 or more, a divisor of dim {model.dim} and head_dim {model.head_dim}",
        )
    return None


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes."""
    return attention.macs_per_element(shape.sub_tokens)


def factors(shape: Shape) -> dict[str, float]:
    """What is folded into a tensor of a kind, beside what papers mean by it."""
    return attention.factors(shape.sub_tokens)


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The attention of every block, heads together, in the graph's order.

    Raises:
        KwsError: a softmax that isn't between such products, or other heads.
    """
    return [
        dataclasses.replace(found, fold=shape.fold)
        for found in attention.find(graph, shape.sub_tokens)
    ]


def fuse(graph: Graph) -> int:
    """Nothing: softmax attention's pass does it."""
    return 0
