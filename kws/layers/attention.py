"""Scaled dot-product attention with softmax (Vaswani et al. 2017), for its variants.

On the board: FULLY_CONNECTED for Q, K, V and the output, BATCH_MATMUL twice, SOFTMAX,
and CONCATENATION where there are several heads. Every head has its own projections,
so no TRANSPOSE or RESHAPE is needed. In a causal network PAD and GATHER are in front of
the products: each token's window of K and V.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

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


def window_of(model: recipe.Model) -> int:
    """Tokens that each token sees, itself and those before it; 0: all of the clip."""
    return model.window if model.causal else 0


def windows(x: Any, size: int) -> Any:
    """Each token's window: (B, T, n) -> (B, T, size, n), 0 before the first token.

    Example:
        >>> tokens = tf.reshape(tf.range(1, 4), (1, 3, 1))
        >>> windows(tokens, 2).numpy()[0, :, :, 0].tolist()
        [[0, 1], [1, 2], [2, 3]]
    """
    places = np.arange(x.shape[1])[:, None] + np.arange(size)
    padded = tf.pad(x, ((0, 0), (size - 1, 0), (0, 0)))
    return tf.gather(padded, tf.constant(places, tf.int32), axis=1)


class Head(KwsLayer):
    """One head: `softmax(Q K^T / sqrt(head_dim)) V`.

    The scale is folded into Q's kernel in every mode but `float`. Q and K have zero
    point 0.

    In a causal network K and V are those of each token's window. Before the first token
    they are rows of 0, which take their share as others do: nothing is masked, so a
    stream that begins is a clip.

    Args:
        model: The recipe's model section (head_dim, heads; causal, window). An only
            head's output is quantized here; several share the range of their
            concatenation, whose kernel copies without rescaling.
        use_bias: Q and V have a bias: the shift of a norm folded into them. K has
            none where all of its rows are tokens: it would add the same number to a
            whole row of scores, which softmax takes out again. Rows of 0 have none.

    Shapes: (B, T, dim) -> (B, T, head_dim), and its map: (B, T, T), or (B, T, 1,
    window).
    """

    def __init__(
        self, mode: str, name: str, model: recipe.Model, use_bias: bool
    ) -> None:
        super().__init__(mode, name)
        head_dim = model.head_dim
        self.window = window_of(model)
        self.scale = head_dim**-0.5
        self.query = Dense(mode, "q", head_dim, use_bias)
        self.key = Dense(mode, "k", head_dim, use_bias and self.window > 0)
        self.value = Dense(mode, "v", head_dim, use_bias)
        self.query_range = Quantizer(mode, "q_range", symmetric=True)
        self.key_range = Quantizer(mode, "k_range", symmetric=True)
        self.value_range = Quantizer(mode, "v_range")
        self.scores_range = Quantizer(mode, "scores")
        self.shares_range = Quantizer(mode, "shares", fixed=UNIT_RANGE)
        self.outputs_range = Quantizer(mode, "outputs") if model.heads == 1 else None

    def call(self, inputs: Any, training: Any = False, hold: Hold = pass_on) -> Any:
        query = hold("Q", self.query_range(self.query(inputs), training=training))
        key = hold("K", self.key_range(self.key(inputs), training=training))
        value = self.value_range(self.value(inputs), training=training)
        if self.window:
            query = tf.expand_dims(query, 2)  # one row for each token's own window
            key, value = windows(key, self.window), windows(value, self.window)
        scores = tf.matmul(query, key, transpose_b=True)
        if self.mode == "float":
            scores *= self.scale
        scores = self.scores_range(scores, training=training)
        shares = self.shares_range(tf.nn.softmax(scores), training=training)
        outputs = tf.matmul(hold("P", shares), value)
        if self.window:
            outputs = tf.squeeze(outputs, 2)
        if self.outputs_range is not None:
            outputs = self.outputs_range(outputs, training=training)
        return outputs, shares

    def fold(self, source: Head, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front and the scale folded in."""
        fold_projection(self.query, source.query, norm, self.scale)
        fold_projection(self.key, source.key, norm)
        fold_projection(self.value, source.value, norm)


def fold_projection(
    mine: Dense, theirs: Dense, norm: Norm | None, scale: float = 1.0
) -> None:
    """Load a projection's weights (mode `float`: no bias), times `scale`, with the norm
    in front folded in: its shift becomes the bias, where there is one."""
    kernel = theirs.kernel.numpy()
    gamma, shift = norm.fold_terms() if norm else (np.ones(len(kernel)), None)
    mine.kernel.assign(kernel * gamma[:, None] * scale)
    if mine.bias is not None:
        mine.bias.assign(shift @ kernel * scale)


class MultiHead(Mixing):
    """Heads side by side, and an output projection: the base of such variants.

    `make_head` is a head's class: (mode, name, model, use_bias).

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section (heads, head_dim, dim, norm_position; causal,
            window).
    """

    make_head: ClassVar[type[Any]]

    def __init__(self, mode: str, name: str, model: recipe.Model) -> None:
        super().__init__(mode, name)
        use_bias = mode != "float" and model.norm_position == "pre"
        self.heads = [
            self.make_head(mode, f"head{index}", model, use_bias)
            for index in range(model.heads)
        ]
        self.joined_range = Quantizer(mode, "joined") if model.heads > 1 else None
        self.output_dense = Dense(mode, "out", model.dim)
        self.outputs_range = Quantizer(mode, "outputs")

    def project(self, outputs: list[Any], training: Any) -> Any:
        """The heads' outputs (B, T, head_dim) -> (B, T, dim)."""
        joined = outputs[0]
        if self.joined_range is not None:
            joined = self.joined_range(tf.concat(outputs, -1), training=training)
        joined = self.hold("O", joined)
        return self.outputs_range(self.output_dense(joined), training=training)

    def fold(self, source: MultiHead, norm: Norm | None) -> None:
        """Load `source`'s weights (mode `float`); `norm` is the one in front."""
        for mine, theirs in zip(self.heads, source.heads, strict=True):
            mine.fold(theirs, norm)
        self.output_dense.fold(source.output_dense, None)


class SoftmaxAttention(MultiHead):
    """Multi-head self-attention, over all tokens or each token's window of them.

    Shapes: (B, T, dim) -> (B, T, dim). What it is carried, it hands on, with the map of
    each head: (B, T, T), or (B, T, 1, window).
    """

    make_head = Head

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        inputs = self.hold("X", inputs)
        outputs = []
        for index, head in enumerate(self.heads):
            mixed, shares = head(inputs, training=training, hold=self.hold)
            outputs.append(mixed)
            carry = {**carry, f"map.{index}": shares}
        return self.project(outputs, training), carry
