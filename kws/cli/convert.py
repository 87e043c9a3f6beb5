"""Convert a run's weights to an int8 .tflite, and check it against TFLite and TFLM."""

from __future__ import annotations

from pathlib import Path

import click

from kws.cli import _options


@click.command(epilog="Example: kws convert runs/tiny")
@_options.bundle
@click.option(
    "--ptq",
    is_flag=True,
    help="Calibrate the ranges anew (post-training quantization); needs audio.",
)
@_options.data
@_options.also
@_options.json
def command(
    run: str, ptq: bool, data: Path | None, also: tuple[Path, ...], as_json: bool
) -> None:
    """Write model.tflite into RUN from its weights.h5.

    Its activation ranges are those of the quantization-aware tuning, unless --ptq.
    A run without ranges (an imported one) is calibrated first.
    """
    from kws.cli._run import show
    from kws.convert import convert_run
    from kws.data import Sources

    show(convert_run(Path(run), Sources(data, also), ptq), as_json)
