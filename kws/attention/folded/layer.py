"""Folding attention: tokens taken apart into sub-tokens, which share the weights.

Each token becomes `fold` rows of dim / fold columns. Projections are `fold` times as
narrow both ways: fold * fold times fewer weights, and `fold` times fewer
multiply-accumulates, since there are `fold` times the rows. The map is over as many
rows, and costs `fold` times as much. So it pays where there are few, wide tokens.

On the board: as softmax attention; taking tokens apart is a view.

Reference: Li et al. 2023, "Folding Attention" (arXiv 2309.07988). The offset is ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from kws import recipe
from kws.layers import SubTokens
from kws.layers.attention import SoftmaxAttention


class Attention(SoftmaxAttention):
    """Softmax attention over sub-tokens, with heads and an output of a `fold`-th width.

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section (fold, fold_offset, and SoftmaxAttention's).

    Shapes: (B, fold * T, dim / fold), its `view`'s, -> (B, T, dim). What it is carried,
    it hands on.
    """

    view: SubTokens

    def __init__(self, mode: str, name: str, model: recipe.Model) -> None:
        narrow = dataclasses.replace(
            model, dim=model.dim // model.fold, head_dim=model.head_dim // model.fold
        )
        super().__init__(mode, name, narrow)
        self.view = SubTokens(mode, "view", model.fold, model.fold_offset)

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        outputs, _ = super().call(inputs, carry, training=training)
        return self.view.whole(outputs), carry
