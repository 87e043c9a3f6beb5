"""Follow a board: words, level, inference time, skipped work, lost audio, heartbeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kws.cli import _options


@click.command(
    epilog="Examples: kws monitor runs/tiny --board nrf52840dk   |   "
    "kws monitor kwt-tiny --board qemu-m4 --audio stream.wav",
)
@_options.bundle
@_options.board(required=True)
@_options.port
@_options.audio
@_options.seconds
@_options.hop
@click.option(
    "--send",
    multiple=True,
    metavar="COMMAND",
    help="query; verbosity level=0..2; threshold word=WORD value=0..1; gain value=N; "
    "selftest. May be given several times.",
)
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    board_name: str,
    port: str | None,
    audio: Path | None,
    seconds: float | None,
    hop: int | None,
    send: tuple[str, ...],
    as_json: bool,
) -> None:
    """Follow RUN on a board until it ends, or Ctrl-C.

    An emulated board hears a recording (--audio). A board that runs another model or
    speaks another version of the protocol is refused, and so is one that falls silent.
    Exit code 1 where it didn't obey what it was sent.
    """
    from kws import bundle as bundles
    from kws.deploy import boards, flash, live, monitor
    from kws.errors import quoted

    board = boards.load(board_name)
    emulated = flash.is_emulated(board)
    if emulated:
        _options.heed(ctx, ["--port"], f"{board.name} is emulated, and has no port.")
    else:
        why = f"{board.name} is a real board, which hears with its own microphone."
        _options.heed(ctx, ["--audio"], why)
    bundle = bundles.load(run)
    if hop is not None:
        bundle = flash.with_hop(bundle, hop)

    def show(message: dict[str, Any]) -> None:
        click.echo(json.dumps(message) if as_json else monitor.text(message, emulated))

    emit = live.Printer(show, seconds)
    if emulated:
        pcm = None
        if audio is None:
            click.echo(
                f"No recording was given: it hears {live.PAD_S:g} s of silence. To let "
                f"it hear one: kws monitor {quoted(run)} --board {board.name} "
                "--audio tape.wav",
                err=True,
            )
        else:
            pcm = flash.read_stream(audio)
        live.emulated(bundle, board, run, pcm, emit, send)
        return
    from kws.cli._ask import ask

    options = _options.typed(ctx, "--port", "--hop")
    live.serial(bundle, board, run, port, ask(), emit, send, options)
