"""Linear attention: tokens are summed up once, and each asks the sum.

Softmax attention compares each token with each other one. Where the comparison is a
product of features, phi(q) . phi(k), sums change places:

    S = sum over tokens of phi(k) v',  z = sum of phi(k),  y = phi(q) S / phi(q) . z

so there is no tokens x tokens map and no exponential: 2 tokens * head_dim * head_dim
multiply-accumulates a head, where softmax attention has 2 tokens * tokens * head_dim.

phi(x) = relu(W x), as many features as a head is wide: W is a part of the projection in
front, and the rectifier is fused into it. Means stand for the sums; the number of
tokens, by which S would still have to be divided, is folded into V.

In a causal network a token's sums are of the last `window` tokens, itself included;
what lies before the clip is 0, so a stream that begins is a clip. In the clip form each
token's window is gathered (PAD, GATHER) and summed up for itself; on a stream that is a
recurrence (graph.py).

On the board: FULLY_CONNECTED for Q, K, V and the output, BATCH_MATMUL three times,
MEAN, MUL, CONCATENATION where there are several heads, and ADD, RSQRT, MUL for the
divisor, which become one table.

Reference: Choromanski et al. 2021, "Rethinking Attention with Performers" (arXiv
2009.14794), with the rectifier as kernel; Botros et al. 2023, "Practical Conformer"
(arXiv 2304.00171). The divisor 1 + phi(q) . z is ours: lingvo's adds 0.001 to the
features, less than one of their int8 steps. A token that finds nothing thus takes
nothing, and the divisor's inverse has a range that int8 can hold.
"""

from __future__ import annotations

from typing import Any

from kws import recipe
from kws.layers import Dense, KwsLayer, Norm, Quantizer
from kws.layers.attention import MultiHead, fold_projection, window_of, windows
from kws.layers.keras import tf


class Head(KwsLayer):
    """One head: `phi(Q) S / (1 + phi(Q) z)`, S and z means over the tokens, or over
    each token's window of them.

    Args:
        model: The recipe's model section (head_dim, heads; causal, window). An only
            head's output is quantized here (kws/layers/attention.py).
        use_bias: Q, K and V have a bias: the shift of a norm folded into them.

    Shapes: (B, T, dim) -> (B, T, head_dim).
    """

    def __init__(
        self, mode: str, name: str, model: recipe.Model, use_bias: bool
    ) -> None:
        super().__init__(mode, name)
        head_dim = model.head_dim
        self.window = window_of(model)
        self.query = Dense(mode, "q", head_dim, use_bias)
        self.key = Dense(mode, "k", head_dim, use_bias)
        self.value = Dense(mode, "v", head_dim, use_bias)
        self.query_range = Quantizer(mode, "q_range")
        self.key_range = Quantizer(mode, "k_range")
        self.value_range = Quantizer(mode, "v_range")
        self.state_range = Quantizer(mode, "state")
        self.normalizer_range = Quantizer(mode, "normalizer")
        self.mixed_range = Quantizer(mode, "mixed")
        self.weight_range = Quantizer(mode, "weight")
        self.divisor_range = Quantizer(mode, "divisor")
        self.root_range = Quantizer(mode, "root")
        self.inverse_range = Quantizer(mode, "inverse")
        self.outputs_range = Quantizer(mode, "outputs") if model.heads == 1 else None

    def build(self, input_shape: Any) -> None:
        self.tokens = int(input_shape[1])
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        query = tf.nn.relu(self.query(inputs))
        query = self.query_range(query, training=training)
        key = self.key_range(tf.nn.relu(self.key(inputs)), training=training)
        value = self.value_range(self.value(inputs), training=training)
        if self.window:
            query = tf.expand_dims(query, 2)  # one row for each token's own sums
            key, value = windows(key, self.window), windows(value, self.window)
        state = tf.matmul(key, value, transpose_a=True)
        if self.mode == "float":
            state *= 1.0 / (self.window or self.tokens)
        state = self.state_range(state, training=training)
        tokens_axis = 2 if self.window else 1
        normalizer = tf.reduce_mean(key, axis=tokens_axis, keepdims=True)
        normalizer = self.normalizer_range(normalizer, training=training)
        mixed = self.mixed_range(tf.matmul(query, state), training=training)
        weight = tf.matmul(query, normalizer, transpose_b=True)
        weight = self.weight_range(weight, training=training)
        inverse = self.inverse(weight, training)
        if self.window:
            mixed, inverse = tf.squeeze(mixed, 2), tf.squeeze(inverse, 2)
        outputs = mixed * inverse
        if self.outputs_range is None:
            return outputs
        return self.outputs_range(outputs, training=training)

    def inverse(self, weight: Any, training: Any) -> Any:
        """1 / (1 + weight), of operators that TFLM has in int8."""
        divisor = self.divisor_range(weight + 1.0, training=training)
        root = self.root_range(tf.math.rsqrt(divisor), training=training)
        return self.inverse_range(root * root, training=training)

    def fold(self, source: Head, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front and 1 / tokens folded in,
        or 1 / window."""
        fold_projection(self.query, source.query, norm)
        fold_projection(self.key, source.key, norm)
        count = source.window or source.tokens
        fold_projection(self.value, source.value, norm, 1.0 / count)


class Attention(MultiHead):
    """Multi-head linear attention.

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section (heads, head_dim, dim, norm_position; causal,
            window).

    Shapes: (B, T, dim) -> (B, T, dim). What it is carried, it hands on.
    """

    make_head = Head

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        inputs = self.hold("X", inputs)
        outputs = [head(inputs, training=training) for head in self.heads]
        return self.project(outputs, training), carry
