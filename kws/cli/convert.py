"""Convert a run's weights to an int8 .tflite, and check it against TFLite and TFLM."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="Example: kws convert runs/tiny")
@click.argument("run")
@click.option(
    "--ptq",
    is_flag=True,
    help="Calibrate the ranges anew (post-training quantization); needs audio.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of audio.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, ptq: bool, data: Path | None, as_json: bool) -> None:
    """Write model.tflite into RUN from its weights.h5.

    Its activation ranges are those of the quantization-aware tuning, unless --ptq.
    A run without ranges (an imported one) is calibrated first.
    """
    from kws.cli.train import show
    from kws.convert import convert_run

    show(convert_run(Path(run), data, ptq), as_json)
