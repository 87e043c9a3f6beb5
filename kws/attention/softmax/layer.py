"""Scaled dot-product attention with softmax (Vaswani et al. 2017)."""

from __future__ import annotations

from kws.layers.attention import SoftmaxAttention


class Attention(SoftmaxAttention):
    """See `SoftmaxAttention`; on tokens that are whole."""
