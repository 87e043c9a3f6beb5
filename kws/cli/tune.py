"""Tune a run: quantization-aware epochs from its weights, then convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kws.cli import _options

EPILOG = """\b
Examples:
  kws tune runs/tiny --out runs/tiny2 --epochs 4
  kws tune runs/tiny --out runs/tiny3 --delta --teacher self
  kws tune runs/tiny --out runs/tiny4 --head-dim 16 --mlp-rank 16 \\
      --share blocks --groups 2 --teacher self --epochs 30 --learning-rate 1e-3
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the tuned run (RUN stays as it is).",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of audio.")
@click.option("--epochs", type=click.IntRange(0), help="QAT epochs; 0 = PTQ.")
@click.option("--learning-rate", type=float, help="Peak of the QAT epochs.")
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help="A .tflite to distil from; or self: RUN, as it is without thresholds.",
)
@click.option("--teacher-labels", default="", help="Names of its logits, in order.")
@_options.also
@_options.pool
@click.option("--delta", is_flag=True, help="Tune with RUN's delta thresholds.")
@click.option(
    "--theta",
    help="Tune with these delta thresholds, as kws simulate takes them (also @FILE).",
)
@click.option(
    "--delta-penalty",
    type=click.FloatRange(0.0),
    help="Weight in the loss of what is still transmitted, e.g. 1.",
)
@click.option(
    "--head-dim", type=click.IntRange(1), help="Factorise: rank of RUN's attention."
)
@click.option(
    "--mlp-rank", type=click.IntRange(1), help="Factorise: rank of RUN's MLPs."
)
@click.option(
    "--share",
    type=click.Choice(["blocks", "attention", "mlp", "factor"]),
    help="Let RUN's blocks share weights (docs/low_rank.md).",
)
@click.option("--groups", type=click.IntRange(1), help="Distinct blocks, with --share.")
@click.option("--seed", type=click.IntRange(0), help="Seeds everything.")
@_options.distribute
@click.option("--limit", type=click.IntRange(1), help="First N clips of each split.")
@click.option("--restart", is_flag=True, help="Forget what --out holds.")
@click.option("--no-convert", is_flag=True, help="Stop before model.tflite.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run: str,
    out: Path,
    data: Path | None,
    epochs: int | None,
    learning_rate: float | None,
    teacher: Path | None,
    teacher_labels: str,
    also: tuple[Path, ...],
    pool: Path | None,
    delta: bool,
    theta: str | None,
    delta_penalty: float | None,
    head_dim: int | None,
    mlp_rank: int | None,
    share: str | None,
    groups: int | None,
    seed: int | None,
    distribute: str,
    limit: int | None,
    restart: bool,
    no_convert: bool,
    as_json: bool,
) -> None:
    """Tune RUN's weights with quantization in the loop, into --out.

    A tuning that was stopped goes on where it was: type the same command again.

    With --delta or --theta the network is tuned as it will run with those thresholds,
    and the tuned run keeps them (docs/delta.md). With --head-dim, --mlp-rank, --share
    or --groups RUN's weights are first factorised (docs/low_rank.md); --teacher self
    then distils from RUN as it was.
    """
    from kws import bundle as bundles
    from kws import train
    from kws.cli.train import names, show, with_changes
    from kws.errors import KwsError

    if learning_rate is not None and not 0.0 < learning_rate < 1.0:
        raise KwsError(
            f"--learning-rate must lie between 0 and 1. Received: {learning_rate}",
            "--learning-rate 2e-4",
        )
    if delta and theta:
        raise KwsError(
            "Give --delta (RUN's own thresholds) or --theta, not both. "
            f"Received: --delta --theta {theta}",
            f"kws tune {run} --out {out} --delta",
        )
    own = teacher == Path("self")
    source = bundles.load(run)
    recipe = with_changes(
        source.recipe,
        {
            "quantize": {
                "epochs": epochs,
                "learning_rate": learning_rate,
                "delta_thresholds": steps(source, "bundle" if delta else theta),
                "delta_penalty": delta_penalty,
            },
            "train": {"seed": seed},
            "model": {
                "head_dim": head_dim,
                "mlp_rank": mlp_rank,
                "share": share,
                "groups": groups,
            },
        },
    )
    tuned = train.tune(
        source,
        recipe,
        out,
        data,
        teacher=None if own else teacher,
        self_distill=own,
        teacher_labels=names(teacher_labels) or None,
        pool_folder=pool,
        also=also,
        distribute=distribute,
        restart=restart,
        convert=not no_convert,
        limit=limit,
    )
    show(tuned, as_json)


def steps(source: Any, theta: str | None) -> str | None:
    """`--theta` in whole int8 steps of RUN's tensors, as a recipe has them.

    Raises:
        KwsError: no thresholds, or none that RUN's int8 network has.
    """
    from kws.errors import KwsError
    from kws.simulate import measure
    from kws.simulate.integer import IntegerSimulator

    if theta is None:
        return None
    simulator = IntegerSimulator(source)
    thresholds = measure.read_thresholds(simulator, theta)
    table = simulator.steps(thresholds).to_steps()
    if not table:
        raise KwsError(
            "No thresholds to tune with. Expected some in the run, or --theta. "
            f"Received: {source.path}",
            f'kws sweep {source.path} --pick "loss<=0.02"',
        )
    return ",".join(f"{key}={value}" for key, value in table.items())
