"""Listen here: the firmware's own C on this machine's microphone, or on a recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kws.cli import _options


@click.command(
    epilog="Examples: kws listen kwt-tiny   |   kws listen runs/tiny --audio x.wav"
)
@_options.bundle
@_options.audio
@_options.seconds
@_options.hop
@_options.json
def command(
    run: str,
    audio: Path | None,
    seconds: float | None,
    hop: int | None,
    as_json: bool,
) -> None:
    """Hear RUN's words as the board would: same C, same output as `kws monitor`."""
    from kws import bundle as bundles
    from kws.deploy import flash, live, monitor

    bundle = bundles.load(run)
    if hop is not None:
        bundle = flash.with_hop(bundle, hop)

    def show(message: dict[str, Any]) -> None:
        click.echo(
            json.dumps(message) if as_json else monitor.text(message, audio is not None)
        )

    printer = live.Printer(show, seconds)
    if audio is not None:
        pcm = flash.padded(flash.read_stream(audio), live.PAD_S)
        live.on_host(bundle, run, iter([pcm]), printer)
        return
    with live.microphone() as blocks:
        live.on_host(bundle, run, blocks, printer)
