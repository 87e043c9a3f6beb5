"""List the boards, their limits, and what is missing here to run them."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command(epilog="Example: kws boards --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the boards: every folder of firmware/boards/ with a board.toml."""
    from kws.deploy import boards, runners, toolchain

    compilers = [tools.name for tools in toolchain.available()]
    rows: list[dict[str, Any]] = []
    for name in boards.names():
        board = boards.load(name)
        error = runners.get(board.runner).missing()
        rows.append(
            {
                "name": board.name,
                "title": board.title,
                "core": board.core,
                "flash_bytes": board.flash_bytes,
                "ram_bytes": board.ram_bytes,
                "clock_hz": board.clock_hz,
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
            f"{row['name']:<10} {row['title']:<42} {row['core']:<9}"
            f"flash {row['flash_bytes'] // 1024:>5} KB  "
            f"RAM {row['ram_bytes'] // 1024:>4} KB  "
            f"{'ready' if row['ready'] else 'not ready: kws doctor'}"
        )
