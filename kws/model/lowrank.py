"""Low-rank weights, and weights that several layers share.

Low rank: `x W + b` becomes `(x U) V + b`, U [in, rank], V [rank, out]: FULLY_CONNECTED
twice, with an int8 tensor of `rank` columns between. The MLP's two matrices are
factorised so ([model] mlp_rank). Attention needs no such layer: its matrices are
factors already. Scores are X (W_Q W_K') X', outputs P X (W_V W_O), both of rank
head_dim; a smaller head_dim is their low-rank form, and makes the scores cheaper too.

Sharing ([model] share, groups): block i uses the kernels of block i % groups,

    blocks      all of them                       (block repetition)
    attention   of the attention; the MLP's own   (module sharing)
    mlp         of the MLP; the attention's own   (module sharing)
    factor      of the first factor of each pair: Q of (Q, K), V of (V, O), U of (U, V)
                of the MLP; the second ones own   (factor sharing)

Blocks take turns (0 1 0 1, not 0 0 1 1), so that a repeated block sees another one's
output in between; Takase and Kiyono 2021 (arXiv 2104.06022) call it "cycle".

A shared kernel is one variable of one Keras layer, which the other layers borrow. Own
to each block stay biases, activation ranges and DyT's alpha, which cost little: on the
board a bias depends on the scale of the layer's input, and so differs anyway. A norm's
scale in front of a shared kernel is shared as well: it is folded into that kernel.

Reference: Hernandez et al. 2023, "Sharing Low Rank Conformer Weights for Tiny
Always-On Ambient Speech Recognition Models" (arXiv 2303.08343).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kws import recipe
from kws.model.layers import Dense, Kernel, KwsLayer, Norm, Quantizer

SHARES = ("none", "blocks", "attention", "mlp", "factor")
# Names of the layers that hold the first factor of a pair.
FIRST_FACTORS = ("q", "v", "first")


class LowRank(KwsLayer):
    """`(x @ U) @ V + bias` over the last axis.

    Args:
        units: Output width.
        rank: Width between the factors.

    Shapes: (B, T, in) -> (B, T, units).
    """

    def __init__(self, mode: str, name: str, units: int, rank: int) -> None:
        super().__init__(mode, name)
        self.first = Dense(mode, "first", rank, use_bias=False)
        self.inner_range = Quantizer(mode, "inner")
        self.last = Dense(mode, "last", units)

    def call(self, inputs: Any, training: Any = False) -> Any:
        inner = self.inner_range(self.first(inputs), training=training)
        return self.last(inner)

    def fold(self, source: LowRank, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front of it folded in."""
        first, last = source.first.kernel.numpy(), source.last.kernel.numpy()
        bias = source.last.bias.numpy()
        if norm is not None:
            gamma, shift = norm.fold_terms()
            bias = bias + shift @ first @ last
            first = first * gamma[:, None]
        self.first.kernel.assign(first)
        self.last.kernel.assign(last)
        self.last.bias.assign(bias)


def projection(mode: str, name: str, units: int, rank: int) -> Dense | LowRank:
    """A dense layer with a bias, in two factors where `rank` is not 0."""
    return LowRank(mode, name, units, rank) if rank else Dense(mode, name, units)


def group(index: int, model: recipe.Model) -> int:
    """The block whose kernels block `index` uses, where it shares them."""
    return index if model.share == "none" else index % model.groups


def tie(blocks: Sequence[Any], model: recipe.Model) -> None:
    """Let blocks borrow the kernels that the recipe says they share.

    Args:
        blocks: `network.Block`s that were not called yet; they must be called in
            order, since a lender makes its variables at its first call.
    """
    for index, block in enumerate(blocks):
        lender = blocks[group(index, model)]
        if lender is block:
            continue
        for name, (norm, parts) in block.modules().items():
            if model.share not in ("blocks", "factor", name):
                continue
            their_norm, their_parts = lender.modules()[name]
            tied = False
            for mine, theirs in zip(kernels(parts), kernels(their_parts), strict=True):
                if model.share != "factor" or mine.name in FIRST_FACTORS:
                    mine.borrow(theirs)
                    tied = True
            if tied and model.norm_position == "pre":
                norm.borrow(their_norm)


def kernels(layers: Sequence[Any]) -> list[Kernel]:
    """The layers with a kernel in some layers, those included, in a fixed order."""
    parts = (part for layer in layers for part in layer._flatten_layers())
    return [part for part in parts if isinstance(part, Kernel)]
