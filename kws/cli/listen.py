"""Listen here: the firmware's own C on this machine's microphone, or on a recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="Examples: kws listen kwt-tiny   |   kws listen runs/tiny --file x.wav"
)
@click.argument("run")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="Recording instead of the microphone (WAV, FLAC, MP3 and more).",
)
@click.option("--seconds", type=click.FloatRange(0.1), help="Stop after SECONDS.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(run: str, file: Path | None, seconds: float | None, as_json: bool) -> None:
    """Hear RUN's words as the board would: same C, same output as `kws monitor`."""
    from kws import bundle as bundles
    from kws.deploy import flash, live, monitor

    bundle = bundles.load(run)

    def show(message: dict[str, Any]) -> None:
        click.echo(json.dumps(message) if as_json else monitor.text(message))

    printer = live.Printer(show, seconds)
    if file is not None:
        pcm = flash.padded(flash.read_stream(file), live.PAD_S)
        live.on_host(bundle, run, iter([pcm]), printer)
        return
    with live.microphone() as blocks:
        live.on_host(bundle, run, blocks, printer)
