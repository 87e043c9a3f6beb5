"""Options that several verbs share: one name, one type, one help each."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)

# eval, simulate, sweep
limit = click.option(
    "--limit", type=click.IntRange(1), help="The first N clips of a fixed shuffle."
)
data = click.option("--data", type=PATH, help="Folder of Speech Commands.")

# simulate, sweep
simulator = click.option(
    "--engine",
    type=click.Choice(["int8", "float"]),
    help="The int8 network, bit for bit, or the float one.  [default: int8 where the "
    "run has been converted]",
)
features = click.option(
    "--features",
    "kind",
    type=click.Choice(["board", "float"]),
    default="board",
    show_default=True,
    help="int8 features as the board computes them, or unquantized ones.",
)

# train, tune
also = click.option(
    "--also",
    type=PATH,
    multiple=True,
    help="Another folder of clips, from `kws data synth` say; may be repeated.",
)
pool = click.option(
    "--pool",
    type=PATH,
    help="Keep augmented clips here, for the next run on the same ones.",
)
distribute = click.option(
    "--distribute",
    type=click.Choice(["none", "mirrored", "multiworker"]),
    default="none",
    show_default=True,
    help="tf.distribute strategy.",
)

# build, flash
engine = click.option(
    "--engine",
    type=click.Choice(["native", "tflm"]),
    default="native",
    show_default=True,
    help="tflm: TensorFlow Lite Micro, from TFLM_DIR (docs/tflm-engine.md).",
)
