"""Quantization: calibrate the activations' ranges; tune with them (kws/train/run.py).

Weights are int8 per output channel, activations int8 per tensor, with ranges fixed
where TFLite's kernels fix them. Calibration alone is post-training quantization;
quantization-aware tuning goes on from there.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws.errors import KwsError
from kws.recipe import Recipe

BATCH = 64
STORED_CLIPS = 256
CALIBRATION = "calibration.npz"


def calibrate(network: Any, recipe: Recipe, clips: np.ndarray) -> int:
    """Set every activation's range to what `clips` show.

    The extremes of each batch of 64 clips are averaged over batches, as the moving
    average of the tuning does: single outliers don't widen the range.

    Args:
        network: Mode `folded`; its ranges are set in place.
        recipe: Its features section is used.
        clips: Features int8 [N, frames, mel_bins].

    Returns:
        Number of clips used.
    """
    from kws.layers import LayerNorm, Quantizer
    from kws.layers.keras import tf
    from kws.model.network import activation_quantizers

    spec = recipe.features
    Quantizer.observing = True
    try:
        for first in range(0, len(clips), BATCH):
            part = clips[first : first + BATCH].astype(np.float32)
            network(tf.constant((part - spec.zero_point) * np.float32(spec.scale)))
    finally:
        Quantizer.observing = False
    for quantizer in activation_quantizers(network):
        quantizer.end_calibration()
    for part in network.submodules:
        if isinstance(part, LayerNorm):
            part.end_calibration()
    return len(clips)


def save_calibration(run: Path, clips: np.ndarray) -> None:
    """Keep some of the calibration features: a later `kws convert` checks on them."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=clips[:STORED_CLIPS])
    bundles.write_atomic(run / "checkpoints" / CALIBRATION, buffer.getvalue())


def stored_calibration(run: Path, recipe: Recipe) -> np.ndarray | None:
    """The features that `save_calibration` kept, or None.

    Raises:
        KwsError: the file is not what `save_calibration` writes.
    """
    path = run / "checkpoints" / CALIBRATION
    if not path.is_file():
        return None
    shape = (recipe.features.frames, recipe.features.mel_bins)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            size = arrays.zip.getinfo("features.npy").file_size
            if size > STORED_CLIPS * math.prod(shape) + 4096:  # and numpy's header
                raise ValueError(f"it unpacks to {size} bytes")
            clips = arrays["features"]
    except (
        TypeError,
        KeyError,
        ValueError,
        MemoryError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise KwsError(
            f"The stored calibration can't be read: {error}. Received: {path}",
            f"Delete {path}, or convert with --data DIR",
        ) from None
    if clips.dtype != np.int8 or clips.shape[1:] != shape or not len(clips):
        return None
    return clips
