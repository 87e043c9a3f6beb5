"""Engine `float`: the Keras network in float32, from the bundle's weights."""

from __future__ import annotations

import numpy as np

from kws.bundle import Bundle
from kws.engines import common
from kws.errors import need

INTEGER = False


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> np.ndarray:
    """Float32 logits [N, labels]; see `kws.engines`. The features are the board's."""
    need("tensorflow", "The engine 'float'")
    inputs = common.features(bundle, pcm)
    from kws.model.network import predictor, restore

    result = predictor(restore(bundle), bundle.recipe)(inputs)
    if progress is not None:
        progress(len(result))
    return np.asarray(result, np.float32)
