"""See and hear a run in the browser: sound, scores, events; move its thresholds."""

from __future__ import annotations

import contextlib
import json
import time
import webbrowser

import click

from kws.cli import _options


@click.command(
    epilog="Examples: kws live kwt-tiny   |   kws live runs/tiny --board qemu-m4"
)
@_options.bundle
@_options.http_port
@_options.no_browser
@_options.board()
@_options.json
def command(
    run: str, http_port: int, no_browser: bool, board_name: str | None, as_json: bool
) -> None:
    """Open a page that hears RUN's words, with the board's own C in the browser.

    A microphone, a recording or a board on USB is heard; thresholds are moved with
    sliders, and written into RUN when you press Save. The page is served to this
    machine alone until Ctrl-C. --board counts RUN's instructions on that emulated
    board, and the page shows them (docs/live.md).
    """
    from kws import bundle as bundles
    from kws.deploy import boards, flash, profile, serve

    measured = None
    if board_name is not None:
        board = boards.load(board_name)
        if not flash.is_emulated(board):
            raise click.UsageError(
                f"--board counts in an emulator, and {board.name} is real: kws boards"
            )
        bundle = bundles.load(run)
        click.echo(f"Counting on {board.name}", err=True)
        measured = profile.on_board(bundle, board, flash.output_folder(bundle, board))
    server = serve.Server(run, http_port, measured)
    with server.serving() as address, contextlib.suppress(KeyboardInterrupt):
        if as_json:
            click.echo(json.dumps({"run": run, "address": address}))
        else:
            click.echo(f"{address}   (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(address)
        while True:
            time.sleep(3600)
