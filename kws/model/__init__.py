"""The Keyword Transformer: stem, N blocks, head, built from a recipe.

Example:
    >>> import numpy as np
    >>> from kws import model, recipe
    >>> net = model.build(recipe.load("kwt-tiny"), labels=12)
    >>> net(np.zeros((5, 98, 40), np.float32)).shape  # [clips, frames, mel bins]
    TensorShape([5, 12])
"""

from kws.model.network import build, copy_weights, fold, restore

__all__ = ["build", "copy_weights", "fold", "restore"]
