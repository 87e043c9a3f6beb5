"""Tune a run: quantization-aware epochs from its weights, then convert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli import _options

if TYPE_CHECKING:
    from kws.bundle import Bundle
    from kws.train import RunOptions

OF_EPOCHS = ("--learning-rate", "--delta-penalty", "--teacher", "--clean-teacher")
EPILOG = """\b
Examples:
  kws tune runs/tiny --out runs/tiny2 --qat-epochs 4
  kws tune runs/tiny --out runs/tiny3 --delta --teacher self
  kws tune runs/tiny --out runs/tiny4 --head-dim 16 --mlp-rank 16 \\
      --share blocks --groups 2 --teacher self --qat-epochs 30 --learning-rate 1e-3
"""


@click.command(epilog=EPILOG)
@_options.bundle
@_options.out("Folder of the tuned run (RUN stays as it is).", required=True)
@_options.qat_epochs("--epochs")
@click.option("--learning-rate", type=float, help="Peak of the QAT epochs.")
@click.option("--delta", is_flag=True, help="Tune with RUN's delta thresholds.")
@_options.theta
@click.option(
    "--delta-penalty",
    type=_options.Number(0.0),
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
@_options.seed()
@_options.run
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    out: Path,
    qat_epochs: int | None,
    learning_rate: float | None,
    delta: bool,
    theta: str | None,
    delta_penalty: float | None,
    head_dim: int | None,
    mlp_rank: int | None,
    share: str | None,
    groups: int | None,
    seed: int | None,
    options: RunOptions,
    as_json: bool,
) -> None:
    """Tune RUN's weights with quantization in the loop, into --out.

    A tuning that was stopped goes on where it was: type the same command again. With
    --tape, validation tapes choose its epoch and then the detector, as in kws train.

    With --delta or --theta the network is tuned as it will run with those thresholds,
    and the tuned run keeps them (docs/delta.md). With --head-dim, --mlp-rank, --share
    or --groups RUN's weights are first factorised (docs/low_rank.md); --teacher self
    then distils from RUN as it was.
    """
    from kws import bundle as bundles
    from kws import data, train
    from kws.cli._run import show, with_changes
    from kws.errors import KwsError, quoted

    if learning_rate is not None and not 0.0 < learning_rate < 1.0:
        raise KwsError(
            f"--learning-rate must lie between 0 and 1. Received: {learning_rate}",
            "--learning-rate 2e-4",
        )
    if delta and theta:
        raise KwsError(
            "Give --delta (RUN's own thresholds) or --theta, not both. "
            f"Received: --delta --theta {theta}",
            f"kws tune {quoted(run)} --out {quoted(out)} --delta",
        )
    own = Path("self") in options.teacher
    if own and len(options.teacher) + len(options.clean_teacher) > 1:
        others = [one for one in options.teacher if one != Path("self")]
        others += options.clean_teacher
        raise KwsError(
            "--teacher self teaches alone: it hears each batch as it is trained on. "
            f"Received: beside it {', '.join(map(str, others))}",
            f"kws tune {quoted(run)} --out {quoted(out)} --teacher self",
        )
    source = bundles.load(run)
    recipe = source.recipe
    if recipe.name == source.path.resolve().name:  # not a name of its own
        recipe = dataclasses.replace(recipe, name=out.resolve().name)
    recipe = with_changes(
        recipe,
        {
            "quantize": {
                "epochs": qat_epochs,
                "learning_rate": learning_rate,
                "delta_thresholds": _steps(source, "bundle" if delta else theta),
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
    if not recipe.quantize.epochs:
        why = "Without epochs (--qat-epochs 0) nothing is tuned: ranges are calibrated."
        _options.heed(ctx, OF_EPOCHS, why)
    clips = data.of_run(source, options.data, options.also, options.ambient)
    options = dataclasses.replace(
        options,
        data=clips.data,
        also=clips.also,
        ambient=clips.ambient,
        teacher=() if own else options.teacher,
    )
    show(train.tune(source, recipe, out, options, self_distill=own), as_json)


def _steps(source: Bundle, theta: str | None) -> str | None:
    """`--theta` in whole int8 steps of RUN's tensors, as a recipe has them.

    Raises:
        KwsError: no thresholds, or none that RUN's int8 network has.
    """
    from kws.errors import KwsError, quoted
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
            f'kws sweep {quoted(source.path)} --pick "loss<=0.02"',
        )
    return ",".join(f"{key}={value}" for key, value in table.items())
