"""What the engines share: clips cut to one window, features, work in processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.errors import KwsError

CHUNK = 64  # clips between two reports of progress
FEW = 2 * CHUNK  # up to this many clips aren't worth starting processes

Progress = Callable[[int], None]


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
            "Use 16 kHz clips of [task] clip_seconds: kws data info DIR",
        )
    if len(pcm) == 0:
        raise KwsError("There are no clips to run.", "kws data info DIR")
    return pcm[:, :samples]


def features(bundle: Bundle, pcm: np.ndarray) -> np.ndarray:
    """int8 features [N, frames, mel_bins] of clips, by the firmware's C."""
    from kws.features import extract

    return extract(clip_pcm(bundle, pcm), bundle.recipe.features)


def run_interpreter(
    start: Callable[[bytes], Callable[[np.ndarray], np.ndarray]],
    model: bytes,
    inputs: np.ndarray,
    jobs: int,
    progress: Progress | None,
) -> np.ndarray:
    """Run an interpreter clip by clip, in several processes where that pays.

    Args:
        start: Module-level function: the .tflite -> (one clip's features -> logits).
        model: The .tflite.
        inputs: int8 [N, frames, mel_bins].
        jobs: Processes.
        progress: Called with the clips done so far.
    """
    parts = np.array_split(inputs, -(-len(inputs) // CHUNK))
    done, results = 0, []
    source: Iterator[np.ndarray]
    pool = None
    if jobs < 2 or len(inputs) <= FEW:
        _start_worker(start, model)
        source = map(_work, parts)
    else:
        # spawn, not fork: TensorFlow's threads don't survive a fork.
        pool = ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), _start_worker, (start, model)
        )
        source = pool.map(_work, parts)
    try:
        for part in source:
            results.append(part)
            done += len(part)
            if progress is not None:
                progress(done)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return np.concatenate(results)


_invoke: Callable[[np.ndarray], np.ndarray] | None = None


def _start_worker(start: Any, model: bytes) -> None:
    global _invoke
    _invoke = start(model)


def _work(part: np.ndarray) -> np.ndarray:
    assert _invoke is not None
    return np.stack([_invoke(clip) for clip in part])
