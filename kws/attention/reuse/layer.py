"""Attention by the map of a block before it: own values, no queries, no keys.

In a deep transformer the maps of neighbouring blocks are much alike, the upper ones
most. A block that takes the map of the nearest softmax block before it leaves out the
projections of Q and K, their product, and the softmax: half of attention's
multiply-accumulates, and all of its exponentials.

On the board: FULLY_CONNECTED for V and the output, BATCH_MATMUL, and CONCATENATION
where there are several heads.

Reference: Shim, Choi and Sung 2023, "Exploring Attention Map Reuse for Efficient
Transformer Neural Networks" (arXiv 2301.12444); Xiao et al. 2019.
"""

from __future__ import annotations

from typing import Any

from kws import recipe
from kws.layers import Dense, Hold, KwsLayer, Norm, Quantizer, pass_on
from kws.layers.attention import MultiHead, fold_projection
from kws.layers.keras import tf


class Head(KwsLayer):
    """One head: `map V`.

    Args:
        model: The recipe's model section (head_dim, heads). An only head's output is
            quantized here (kws/layers/attention.py).
        use_bias: V has a bias: the shift of a norm folded into it.

    Shapes: (B, T, dim) and a map (B, T, T), on its grid already -> (B, T, head_dim).
    """

    def __init__(
        self, mode: str, name: str, model: recipe.Model, use_bias: bool
    ) -> None:
        super().__init__(mode, name)
        self.value = Dense(mode, "v", model.head_dim, use_bias)
        self.value_range = Quantizer(mode, "v_range")
        self.outputs_range = Quantizer(mode, "outputs") if model.heads == 1 else None

    def call(
        self, inputs: Any, shares: Any, training: Any = False, hold: Hold = pass_on
    ) -> Any:
        value = self.value_range(self.value(inputs), training=training)
        outputs = tf.matmul(hold("P", shares), value)
        if self.outputs_range is None:
            return outputs
        return self.outputs_range(outputs, training=training)

    def fold(self, source: Head, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front folded in."""
        fold_projection(self.value, source.value, norm)


class Attention(MultiHead):
    """Multi-head attention by carried maps.

    Shapes: (B, T, dim) -> (B, T, dim). Takes `map.0`, `map.1`, ..., one of each head,
    and hands on what it is carried.
    """

    make_head = Head

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        inputs = self.hold("X", inputs)
        outputs = [
            head(inputs, carry[f"map.{index}"], training=training, hold=self.hold)
            for index, head in enumerate(self.heads)
        ]
        return self.project(outputs, training), carry
