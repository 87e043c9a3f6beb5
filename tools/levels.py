#!/usr/bin/env python
"""Accuracy against the level of speech: the table of docs/results.md.

    tools/levels.py --data speech_commands             the shipped models, all clips
    tools/levels.py runs/mine --data DIR --limit 500   another, the first 500 clips

Each clip of words or unknown of the validation set is made as loud as the column says:
the root mean square of its loudest 0.2 s, in dB of full scale (a sine of full scale has
-3). What is louder than int16 is clipped, what is quieter than one step is lost, as a
microphone's samples are. The network decides from a reset, int8, by the firmware's C.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import bundle as bundles  # noqa: E402
from kws.data import ClipSet, load  # noqa: E402
from kws.evaluate import evaluate_clips  # noqa: E402
from kws.recipe import SILENCE  # noqa: E402

LEVELS = (-70, -60, -50, -40, -30, -20, -10)
MODELS = ("kwt-tiny", "kwt-small", "kwt-stream-tiny", "kwt-stream-small")
LOUDEST = 3200  # samples


def level_db(pcm: np.ndarray) -> np.ndarray:
    """Of each clip, in dB of full scale; -inf of one that is zeros.

    Args:
        pcm: int16 [N, samples].
    """
    energy = np.cumsum(np.pad((pcm / 32768.0) ** 2, ((0, 0), (1, 0))), axis=1)
    loudest = (energy[:, LOUDEST:] - energy[:, :-LOUDEST]).max(axis=1) / LOUDEST
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(np.maximum(loudest, 0)))


def at_level(pcm: np.ndarray, db: float) -> np.ndarray:
    """The clips, each at this level, as int16.

    Args:
        pcm: int16 [N, samples], none of them zeros.
        db: Their level, see `level_db`.
    """
    factor = 10 ** ((db - level_db(pcm)) / 20)
    scaled = np.rint(pcm * factor[:, None])
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def spoken(clips: ClipSet) -> ClipSet:
    """Without what is silence by its label, or by its samples."""
    keep = np.isfinite(level_db(clips.pcm))
    if SILENCE in clips.labels:
        keep &= clips.label != clips.labels.index(SILENCE)
    names = [name for name, kept in zip(clips.names, keep, strict=True) if kept]
    return dataclasses.replace(
        clips, pcm=clips.pcm[keep], label=clips.label[keep], names=names
    )


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    print("| | " + " | ".join(f"{db}" for db in LEVELS) + " | as they are |")
    print("|---" * (len(LEVELS) + 2) + "|")
    for name in given.models:
        bundle = bundles.load(name)
        clips = spoken(load("val", bundle.recipe.task, given.data, limit=given.limit))
        found = [
            evaluate_clips(bundle, dataclasses.replace(clips, pcm=pcm)).accuracy
            for pcm in (*(at_level(clips.pcm, db) for db in LEVELS), clips.pcm)
        ]
        row = " | ".join(f"{100 * share:.1f}" for share in found)
        print(f"| `{name}` ({len(clips):,} clips) | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
