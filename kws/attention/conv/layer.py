"""A block without attention: pointwise, depthwise over time, pointwise.

The lowest blocks of a speech transformer look at what is near; a convolution does that
with no tokens x tokens matrix, and, where it is causal, with `conv_kernel - 1` rows as
all that it keeps of the past.

On the board: FULLY_CONNECTED, DEPTHWISE_CONV_2D, FULLY_CONNECTED.

Reference: Botros et al. 2023, "Practical Conformer" (arXiv 2304.00171): blocks of
convolution alone below, attention above.
"""

from __future__ import annotations

from typing import Any

from kws import recipe
from kws.layers import Dense, Mixing, Norm, Quantizer, TokenConvolution
from kws.layers.keras import tf


class Attention(Mixing):
    """`out(activation(depthwise(in(x))))`.

    What lies beside the clip is 0 behind the first pointwise layer: so a stream that
    begins is a clip.

    Args:
        mode: float, folded, qat or export.
        model: The recipe's model section (dim, conv_kernel, activation, causal).

    Shapes: (B, T, dim) -> (B, T, dim). What it is carried, it hands on.
    """

    def __init__(self, mode: str, name: str, model: recipe.Model) -> None:
        super().__init__(mode, name)
        self.input_dense = Dense(mode, "in", model.dim)
        self.input_range = Quantizer(mode, "in_range")
        self.convolution = TokenConvolution(
            mode,
            "conv",
            model.dim,
            model.conv_kernel,
            centred=not model.causal,
            activation=model.activation,
        )
        self.output_dense = Dense(mode, "out", model.dim)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        x = self.input_dense(self.hold("X", inputs))
        x = self.input_range(x, training=training)
        if not self.convolution.centred:
            x = tf.pad(x, ((0, 0), (self.convolution.size - 1, 0), (0, 0)))
        x = self.hold("O", self.convolution(x, training=training))
        return self.outputs_range(self.output_dense(x), training=training), carry

    def fold(self, source: Attention, norm: Norm | None) -> None:
        """Load `source`'s weights (mode `float`); `norm` is the one in front."""
        self.input_dense.fold(source.input_dense, norm)
        self.convolution.kernel.assign(source.convolution.kernel)
        self.convolution.bias.assign(source.convolution.bias)
        self.output_dense.fold(source.output_dense, None)
