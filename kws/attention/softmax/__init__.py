"""Scaled dot-product attention with softmax (Vaswani et al. 2017)."""
