"""Engine `host`: the firmware's own C, compiled for this machine.

Clips are fed through the always-on loop: kws_push, kws_poll, kws_last_logits. What
comes out is what the board computes, bit for bit (kws.deploy.host).
"""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kws.bundle import Bundle
from kws.deploy import host
from kws.engines import common
from kws.recipe import Q15_ONE

INTEGER = True


@dataclass(frozen=True)
class Event:
    """A word that the firmware heard.

    Args:
        word: The label.
        start_s: Start of the window that fired, in seconds of the stream.
        time_s: End of that window.
        score: Smoothed posterior, 0..1.
    """

    word: str
    start_s: float
    time_s: float
    score: float


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """int8 logits [N, labels]; see `kws.engines`. `jobs` threads, each its own copy.

    Args:
        before: int16 [N, samples]: what the stream heard before each clip; None: the
            clip comes after a reset.
    """
    return counted(bundle, pcm, jobs, board, progress, before)[0]


def counted(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
    before: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`logits`, and what was transmitted: uint32 [N, products]."""
    clips = common.clip_pcm(bundle, pcm)
    if before is not None:
        clips = np.concatenate([before, clips], axis=1)
    path = host.library(bundle)
    parts = np.array_split(clips, -(-len(clips) // common.CHUNK))
    done, results = 0, []
    with contextlib.ExitStack() as stack:
        # Static memory is per library: every thread takes a copy from the shelf.
        shelf: queue.SimpleQueue[host.Opened] = queue.SimpleQueue()
        for _ in range(max(1, min(jobs, len(parts)))):
            shelf.put(stack.enter_context(host.opened(path, len(bundle.labels))))

        def work(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            copy = shelf.get()
            try:
                return copy.clips(part)
            finally:
                shelf.put(copy)

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            for result in pool.map(work, parts):
                results.append(result)
                done += len(result[0])
                if progress is not None:
                    progress(done)
    rows, sent = zip(*results, strict=True)
    return np.concatenate(rows), np.concatenate(sent)


def invoke(bundle: Bundle, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the model alone, without the loop.

    Args:
        bundle: With a model.tflite.
        features: int8 [N, frames, mel_bins], N at least 1.

    Returns:
        int8 logits [N, labels]; uint32 [N, products], what each product that skips
        transmitted.
    """
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        return copy.invoke(features)


def detect(bundle: Bundle, pcm: np.ndarray) -> list[Event]:
    """Stream a recording of any length through the firmware; the words it hears.

    Args:
        bundle: With a model.tflite.
        pcm: int16 [samples], 16 kHz.
    """
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        return [
            Event(
                bundle.labels[label], start_ms / 1000, time_ms / 1000, score / Q15_ONE
            )
            for label, start_ms, time_ms, score in copy.detect(pcm)
        ]
