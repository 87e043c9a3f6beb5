"""Sizes and multiply-accumulates of a network by formula, from its recipe alone: what
the counts of its graph (kws/graph/cost.py) are compared with.

T tokens, d wide, H heads of h, an MLP m wide, in two factors of rank r each or in none.
"""

from __future__ import annotations

from kws.recipe import Recipe
from kws.shape import Shape


def columns(shape: Shape, kind: str) -> int:
    """Width of one layer's tensor of a kind, all heads together."""
    widths = {"X": shape.dim, "P": shape.heads * shape.tokens}
    widths |= {"M": shape.dim, "H": shape.mlp_dim}
    return widths.get(kind, shape.inner)


def mhsa_macs(shape: Shape) -> dict[str, int]:
    """One layer's MHSA, dense, by role: 4 T d H h + 2 T^2 H h."""
    return {
        "qkv": 3 * shape.tokens * shape.dim * shape.inner,
        "scores": shape.tokens**2 * shape.inner,
        "mix": shape.tokens**2 * shape.inner,
        "out": shape.tokens * shape.inner * shape.dim,
    }


def mlp_macs(shape: Shape) -> dict[str, int]:
    """One layer's MLP, dense, by role: 2 T d m, or 2 T r (d + m)."""
    matrix = shape.dim * shape.mlp_dim
    if shape.mlp_rank:
        matrix = (shape.dim + shape.mlp_dim) * shape.mlp_rank
    return dict.fromkeys(("expand", "contract"), shape.tokens * matrix)


def stem_macs(recipe: Recipe) -> int:
    """Before the first block: 5 x 5 and 3 x 3 convolutions, or patches."""
    model, features = recipe.model, recipe.features
    if model.stem != "conv":
        rows = features.frames // model.patch_frames
        return rows * model.patch_frames * features.mel_bins * model.dim
    rows = -(-features.frames // model.stem_stride[0])
    bins = -(-features.mel_bins // model.stem_stride[1])
    channels = model.stem_channels
    macs = rows * bins * 25 * channels
    if model.stem_second_channels:
        rows, bins = -(-rows // 2), -(-bins // 2)
        macs += rows * bins * 9 * channels * model.stem_second_channels
        channels = model.stem_second_channels
    return macs + rows * bins * channels * model.dim


def macs(recipe: Recipe, shape: Shape) -> int:
    """The whole network, dense, with every row of every layer."""
    block = sum(mhsa_macs(shape).values()) + sum(mlp_macs(shape).values())
    return stem_macs(recipe) + shape.layers * block + shape.dim * shape.labels
