"""List the boards, their limits, and what is missing here to run them."""

from __future__ import annotations

import json
from typing import Any

import click

from kws.cli import _options


@click.command(epilog="Example: kws boards --json")
@_options.json
def command(as_json: bool) -> None:
    """List the boards: every folder of firmware/boards/ with a board.toml."""
    from kws.deploy import boards, runners, toolchain
    from kws.errors import KwsError

    compilers = [tools.name for tools in toolchain.available()]
    rows: list[dict[str, Any]] = []
    for name in boards.names():
        board = boards.load(name)
        try:
            error = runners.get(board.runner).missing()
        except KwsError as missing:
            error = missing
        rows.append(
            {
                "name": board.name,
                "title": board.title,
                "part": board.part,
                "core": board.core,
                "flash_bytes": board.flash_bytes,
                "ram_bytes": board.ram_bytes,
                "clock_hz": board.clock_hz,
                "usb": list(board.usb.ids),
                "runner": board.runner,
                "compilers": [tools for tools in compilers if tools in board.flags],
                "ready": error is None and any(t in board.flags for t in compilers),
            }
        )
    if as_json:
        click.echo(json.dumps({"boards": rows}))
        return
    for row in rows:
        click.echo(
            f"{row['name']:<16} {row['title']:<44} {row['part']:<13} "
            f"flash {row['flash_bytes'] // 1024:>5} KB  "
            f"RAM {row['ram_bytes'] // 1024:>4} KB  "
            f"{row['runner']:<6} "
            f"{'ready' if row['ready'] else 'not ready: kws doctor'}"
            + (f"  usb {', '.join(row['usb'])}" if row["usb"] else "")
        )
