"""Attention by the map of a block before it."""
