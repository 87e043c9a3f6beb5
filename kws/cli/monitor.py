"""Follow a board: words, level, inference time, skipped work, lost audio, heartbeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="Examples: kws monitor runs/tiny --board nrf52840dk   |   "
    "kws monitor kwt-tiny --board qemu-m4 --audio stream.wav",
)
@click.argument("run")
@click.option("--board", "board_name", required=True, help="A name from `kws boards`.")
@click.option("--port", help="Serial port, where several could be the board's.")
@click.option(
    "--audio",
    type=click.Path(path_type=Path),
    help="Recording that an emulated board hears (WAV, FLAC, MP3 and more).",
)
@click.option(
    "--seconds", type=click.FloatRange(0.1), help="Stop after SECONDS of its audio."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(
    run: str,
    board_name: str,
    port: str | None,
    audio: Path | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Follow RUN on a board until it ends, or Ctrl-C.

    A board that runs another model or speaks another version of the protocol is
    refused, and so is one that falls silent.
    """
    from kws import bundle as bundles
    from kws.deploy import boards, flash, live

    board = boards.load(board_name)
    bundle = bundles.load(run)
    emit = live.Printer(_print_json if as_json else _print, seconds)
    if flash.is_emulated(board):
        if port is not None:
            raise click.UsageError("--port: real boards only.")
        pcm = None if audio is None else flash.read_stream(audio)
        live.emulated(bundle, board, run, pcm, emit)
        return
    if audio is not None:
        raise click.UsageError("--audio is for emulated boards: this one has ears.")
    from kws.cli._ask import ask

    live.serial(bundle, board, run, port, ask(), emit)


def _print_json(message: dict[str, Any]) -> None:
    click.echo(json.dumps(message))


def _print(message: dict[str, Any]) -> None:
    from kws.deploy import monitor

    click.echo(monitor.text(message))
