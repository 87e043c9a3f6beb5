"""Attention variants: one folder each, found by listing this one (DESIGN D13, D19).

A variant is all that is special about how a block mixes its tokens. Its folder has

    layer.py   the Keras layer, a class `Attention(kws.layers.Mixing)`:

        Attention(mode: str, name: str, model: kws.recipe.Model)
        view   None, or a layer that shows it the tokens in another shape, which stands
            in front of the norm in front of it: (B, T, dim) -> (B, rows, width)
        call(inputs (B, T, dim) or its view's, carry, training)
                -> (outputs (B, T, dim), carry)
            before the residual; `carry` is a dict of tensors that blocks hand on to
            the blocks behind them (an attention map to use again, say): "name", or
            "name.0", "name.1" where there are several
        fold(source: Attention, norm: Norm | None)
            load folded weights from a `float` twin. Assigns kernel and bias one by
            one: blocks may share kernels, and a borrowed one is not among its layer's
            weights (kws/model/lowrank.py)
        hold   replaces a tensor by what its delta encoding holds: (kind, tensor) ->
            tensor. Called once for each tensor of each kind, in KINDS' order

    graph.py   the same in the .tflite's graph, without TensorFlow:

        KINDS             kind -> what it is, of tensors that may be delta-encoded
        CAUSAL            whether it has a form that sees nothing of what is to come,
                          for networks for streams ([model] causal)
        TAKES, GIVES      names of what it needs of the carry, and adds to it
        misfit            Model -> (key, what is expected of it) where it can't be built
                          with a recipe, else None
        macs_per_element  Shape -> MACs that a transmitted element of each kind causes
        factors           Shape -> factor that a kind's tensor holds beside what
                          thresholds mean by it
        find              Graph, Shape -> its blocks' products (kws.graph.products)
        fuse              Graph -> how many; puts operators of its own into the graph
                          (of a clip, or of a stream's step: kws.graph.stream), which
                          bring how they run by rows, what they cost and their C
                          (kws.graph.operators.Operator)

tests/test_attention.py runs every variant found here through the same contract.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from kws.errors import KwsError, no_such
from kws.graph import products
from kws.graph.products import MLP_KINDS, Products
from kws.recipe import TRANSFORMER, Model, Recipe
from kws.shape import Shape, shape_of
from kws.thresholds import Slots

if TYPE_CHECKING:
    from kws.graph.nodes import Graph
    from kws.graph.passes import Pass


NONE = "none"  # of a block without attention


def names() -> list[str]:
    """The variants: folders with a layer.py."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/layer.py"))


def layer(name: str) -> Any:
    """The `Attention` class of a variant; loads TensorFlow.

    Raises:
        KwsError: no such variant.
    """
    return _module(name, "layer").Attention


def graph(name: str) -> ModuleType:
    """A variant's graph.py.

    Raises:
        KwsError: no such variant.
    """
    return _module(name, "graph")


def _module(name: str, half: str) -> ModuleType:
    if name == NONE:
        raise KwsError(
            "Delta thresholds are for networks with attention in every block, and for "
            'causal ones. Received: attention = "none", causal = false',
            "Leave the thresholds out: the network runs dense.",
        )
    if name not in names():
        raise no_such(
            "attention variant",
            name,
            names(),
            'Set [model] attention = "softmax" in the recipe.',
        )
    return importlib.import_module(f"kws.attention.{name}.{half}")


def carried(variants: Sequence[str]) -> list[frozenset[str]]:
    """Per block, the names of what it hands on that a block behind it takes.

    Example:
        >>> [sorted(names) for names in carried(["softmax", "reuse", "conv"])]
        [['map'], [], []]
    """
    out: list[frozenset[str]] = []
    wanted: frozenset[str] = frozenset()
    for name in reversed(variants):
        out.insert(0, wanted)
        if name != NONE:
            wanted |= set(graph(name).TAKES)
    return out


def slots(model: Model) -> Slots:
    """What a network has delta thresholds for, block by block.

    Raises:
        KwsError: a network that has none.

    Example:
        >>> from kws import recipe
        >>> slots(recipe.load("kwt-tiny").model).by_layer[0]
        ('X', 'Q', 'K', 'P', 'O', 'M', 'H')
    """
    if model.family != TRANSFORMER:
        raise KwsError(
            "Delta thresholds are for transformers. "
            f'Received: [model] family = "{model.family}"',
            "Leave the thresholds out: the network runs dense.",
        )
    if model.causal:
        kinds = [() if v == NONE else tuple(graph(v).KINDS) for v in model.variants]
        return products.stream_slots(model, kinds)
    return Slots(tuple((*graph(name).KINDS, *MLP_KINDS) for name in model.variants))


def kind_names() -> dict[str, str]:
    """Every kind of every variant, and what it is."""
    kinds: dict[str, str] = {}
    for name in names():
        kinds |= graph(name).KINDS
    return kinds | MLP_KINDS | products.STEM_KINDS | products.READOUT_KINDS


def macs_per_element(model: Model, shape: Shape) -> list[dict[str, float]]:
    """Per block: MACs that one transmitted element of each kind causes."""
    mlp = {
        "M": float(shape.mlp_rank or shape.mlp_dim // shape.mlp_fold),
        "H": float(shape.mlp_rank or shape.dim // shape.mlp_fold),
    }
    if model.causal:
        other = {
            "F": 0.0,  # held, and its convolution runs
            "C": 9 / 4 * model.stem_second_channels,  # windows that an element is in
            "E": float(shape.dim),
            "R": float(model.readout_dim),
        }
        own = {v: graph(v).macs_per_element(shape) for v in {*model.variants} - {NONE}}
        return [
            {kind: (mlp | other | own.get(v, {}))[kind] for kind in kinds}
            for v, kinds in zip(model.variants, slots(model).by_layer, strict=True)
        ]
    return [graph(name).macs_per_element(shape) | mlp for name in model.variants]


def factors(model: Model, shape: Shape) -> np.ndarray:
    """float [slots]: the factors that tensors hold beside what thresholds mean."""
    if model.causal:
        return np.ones(len(slots(model)))
    return np.array(
        [
            graph(model.variants[layer]).factors(shape).get(kind, 1.0)
            for layer, kind in slots(model)
        ]
    )


def find_products(network: Graph, recipe: Recipe, labels: int) -> Products:
    """Every product of a network that may be skipped; see kws.graph.products.find.

    Args:
        network: After `passes.prepare`.
        recipe: Of the network.
        labels: Number of logits.

    Raises:
        KwsError: the network can't be told from the graph.
    """
    if recipe.model.causal:
        variants = {i: v for i, v in enumerate(recipe.model.variants) if v != NONE}
        return products.find_stream(
            network,
            shape_of(recipe, labels),
            variants,
            {name: graph(name).find for name in variants.values()},
            slots(recipe.model),
        )
    return products.find(
        network,
        shape_of(recipe, labels),
        recipe.model.variants,
        {name: graph(name).find for name in recipe.model.variants},
        slots(recipe.model),
    )


def fusions() -> list[Pass]:
    """The fusing passes of all variants."""
    return [graph(name).fuse for name in names()]
