"""What the engines share: clips cut to one window, features, refusals."""

from __future__ import annotations

import numpy as np

from kws.bundle import Bundle
from kws.errors import KwsError


def clip_pcm(bundle: Bundle, pcm: np.ndarray) -> np.ndarray:
    """Check clips and cut them to the window that the model sees.

    Args:
        bundle: Gives the window's length.
        pcm: int16 [N, samples].

    Returns:
        int16 [N, clip_samples]: the start of each clip.

    Raises:
        KwsError: not int16 [N, samples], or too short.
    """
    samples = bundle.recipe.features.clip_samples
    if pcm.ndim != 2 or pcm.dtype != np.int16 or pcm.shape[1] < samples:
        raise KwsError(
            f"Clips must be int16 [N, at least {samples}]. "
            f"Received: {pcm.dtype} {list(pcm.shape)}",
            "Use 16 kHz one-second clips: kws data info DIR",
        )
    if len(pcm) == 0:
        raise KwsError("There are no clips to run.", "kws data info DIR")
    return pcm[:, :samples]


def features(bundle: Bundle, pcm: np.ndarray) -> np.ndarray:
    """int8 features [N, frames, mel_bins] of clips, by the firmware's C."""
    from kws.features import extract

    return extract(clip_pcm(bundle, pcm), bundle.recipe.features)
