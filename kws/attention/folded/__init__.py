"""Softmax attention over sub-tokens that share narrower weights."""
