"""The Keyword Transformer: stem, N blocks, head, built from a recipe.

Example:
    >>> import numpy as np
    >>> from kws import model, recipe
    >>> net = model.build(recipe.load("kwt-tiny"), labels=12)
    >>> net(np.zeros((5, 98, 40), np.float32)).shape  # [clips, frames, mel bins]
    TensorShape([5, 12])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kws.model.network import build, copy_weights, fold, restore

__all__ = ["build", "copy_weights", "fold", "restore"]


def __getattr__(name: str) -> Any:
    # Not at import: kws.model.check has to do without TensorFlow, which takes seconds.
    if name in __all__:
        from kws.model import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
