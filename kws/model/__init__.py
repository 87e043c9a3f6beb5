"""The Keyword Transformer: stem, N blocks, head, built from a recipe.

Example:
    >>> from kws import model, recipe
    >>> net = model.build(recipe.load("kwt-tiny"), labels=12)
    >>> net(features).shape          # features: float32 [B, 98, 40]
    TensorShape([B, 12])
"""

from kws.model.network import build, copy_weights, fold, restore

__all__ = ["build", "copy_weights", "fold", "restore"]
