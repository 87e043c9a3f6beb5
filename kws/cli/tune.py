"""Tune a run: quantization-aware epochs from its weights, then convert."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="Example: kws tune runs/tiny --out runs/tiny2 --epochs 4")
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
    "--teacher", type=click.Path(path_type=Path), help="A .tflite to distil from."
)
@click.option("--teacher-labels", default="", help="Names of its logits, in order.")
@click.option(
    "--pool",
    type=click.Path(path_type=Path),
    help="Keep augmented clips here, for the next run on the same ones.",
)
@click.option("--seed", type=click.IntRange(0), help="Seeds everything.")
@click.option(
    "--distribute",
    type=click.Choice(["none", "mirrored", "multiworker"]),
    default="none",
    show_default=True,
    help="tf.distribute strategy.",
)
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
    pool: Path | None,
    seed: int | None,
    distribute: str,
    limit: int | None,
    restart: bool,
    no_convert: bool,
    as_json: bool,
) -> None:
    """Tune RUN's weights with quantization in the loop, into --out.

    A tuning that was stopped goes on where it was: type the same command again.
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
    source = bundles.load(run)
    recipe = with_changes(
        source.recipe,
        {
            "quantize": {"epochs": epochs, "learning_rate": learning_rate},
            "train": {"seed": seed},
        },
    )
    tuned = train.tune(
        source,
        recipe,
        out,
        data,
        teacher=teacher,
        teacher_labels=names(teacher_labels) or None,
        pool_folder=pool,
        distribute=distribute,
        restart=restart,
        convert=not no_convert,
        limit=limit,
    )
    show(tuned, as_json)
