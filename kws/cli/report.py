"""Draw a sweep as one HTML page and as plots: see each threshold's price, pick one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(epilog="Example: kws report runs/tiny/sweep --out sweep.html")
@click.argument("sweep", type=_options.PATH)
@_options.out("The page.  [default: report.html beside sweep.json]")
@_options.json
def command(sweep: Path, out: Path | None, as_json: bool) -> None:
    """Write the page of SWEEP, a folder that kws sweep filled.

    One file, which needs no network and no other file: accuracy against instructions
    and multiply-accumulates, every point's thresholds, and the command that takes
    them. Beside sweep.json, the same as plots (PNG), where matplotlib is installed.
    """
    from kws.report import load_sweep, write

    table = load_sweep(sweep)
    folder = sweep if sweep.is_dir() else sweep.parent
    files = write(table, folder, out)
    if as_json:
        facts = {"report": str(files[0]), "plots": [str(file) for file in files[1:]]}
        click.echo(json.dumps(facts | {"points": len(table["points"])}))
        return
    click.echo(
        f"Wrote {files[0]}: {len(table['points'])} points. Open it in a browser."
    )
    if len(files) == 1:
        click.echo("No plots: pip install matplotlib", err=True)
    for file in files[1:]:
        click.echo(f"Wrote {file}")
