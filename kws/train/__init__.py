"""Training: float, then quantization-aware, each a resumable loop over the pool.

    run.py          what a run does, step by step: `train`, `tune`, `RunOptions`
    loop.py         one phase: batches, optimizer, checkpoints, results
    choose.py       which epoch of the tuning hears tapes best
    distribute.py   several replicas, several machines
    folder.py       the run's folder: whose it is, one training at a time

Example:
    >>> from pathlib import Path
    >>> from kws import recipe, train
    >>> mine, options = recipe.load("kwt-tiny"), train.RunOptions(data=Path("mywords"))
    >>> train.train(mine, Path("runs/mine"), options)  # doctest: +SKIP
"""

from kws.train.distribute import strategy_of
from kws.train.loop import (
    FLOAT,
    QAT,
    Loop,
    Result,
    Schedule,
    prepare,
    score,
    set_weights,
)
from kws.train.run import RunOptions, train, tune

__all__ = [
    "FLOAT",
    "QAT",
    "Loop",
    "Result",
    "RunOptions",
    "Schedule",
    "prepare",
    "score",
    "set_weights",
    "strategy_of",
    "train",
    "tune",
]
