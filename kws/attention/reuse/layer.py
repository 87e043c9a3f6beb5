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
from kws.layers import (
    UNIT_RANGE,
    Dense,
    Hold,
    KwsLayer,
    Mixing,
    Norm,
    Quantizer,
    pass_on,
)
from kws.layers.keras import tf


class Head(KwsLayer):
    """One head: `map V`.

    Args:
        head_dim: Width of V.
        use_bias: V has a bias: the shift of a norm folded into it.
        alone: The only head: its output is quantized here (kws/attention/softmax).

    Shapes: (B, T, dim) and a map (B, T, T) -> (B, T, head_dim).
    """

    def __init__(
        self, mode: str, name: str, head_dim: int, use_bias: bool, alone: bool
    ) -> None:
        super().__init__(mode, name)
        self.value = Dense(mode, "v", head_dim, use_bias)
        self.value_range = Quantizer(mode, "v_range")
        self.shares_range = Quantizer(mode, "shares", fixed=UNIT_RANGE)
        self.outputs_range = Quantizer(mode, "outputs") if alone else None

    def call(
        self, inputs: Any, shares: Any, training: Any = False, hold: Hold = pass_on
    ) -> Any:
        value = self.value_range(self.value(inputs), training=training)
        if self.mode != "export":  # it is on its int8 grid already
            shares = self.shares_range(shares, training=training)
        outputs = tf.matmul(hold("P", shares), value)
        if self.outputs_range is None:
            return outputs
        return self.outputs_range(outputs, training=training)

    def fold(self, source: Head, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front folded in."""
        kernel = source.value.kernel.numpy()
        if norm is not None:
            gamma, shift = norm.fold_terms()
            self.value.bias.assign(shift @ kernel)
            kernel = kernel * gamma[:, None]
        self.value.kernel.assign(kernel)


class Attention(Mixing):
    """Multi-head attention by carried maps, with an output projection.

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section (heads, head_dim, dim, norm_position).

    Shapes: (B, T, dim) -> (B, T, dim). Takes `map.0`, `map.1`, ..., one of each head,
    and hands on what it is carried.
    """

    def __init__(self, mode: str, name: str, model: recipe.Model) -> None:
        super().__init__(mode, name)
        use_bias = mode != "float" and model.norm_position == "pre"
        self.heads = [
            Head(mode, f"head{index}", model.head_dim, use_bias, model.heads == 1)
            for index in range(model.heads)
        ]
        self.joined_range = Quantizer(mode, "joined") if model.heads > 1 else None
        self.output_dense = Dense(mode, "out", model.dim)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        hold = self.hold
        inputs = hold("X", inputs)
        outputs = [
            head(inputs, carry[f"map.{index}"], training=training, hold=hold)
            for index, head in enumerate(self.heads)
        ]
        joined = outputs[0]
        if self.joined_range is not None:
            joined = self.joined_range(tf.concat(outputs, -1), training=training)
        joined = hold("O", joined)
        outputs = self.outputs_range(self.output_dense(joined), training=training)
        return outputs, carry

    def fold(self, source: Attention, norm: Norm | None) -> None:
        """Load `source`'s weights (mode `float`); `norm` is the one in front."""
        for mine, theirs in zip(self.heads, source.heads, strict=True):
            mine.fold(theirs, norm)
        self.output_dense.fold(source.output_dense, None)
