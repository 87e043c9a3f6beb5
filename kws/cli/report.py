"""Draw a sweep as one HTML page: see each threshold's price and pick one."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(epilog="Example: kws report runs/tiny/sweep --out sweep.html")
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The page.  [default: report.html beside sweep.json]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(sweep: Path, out: Path | None, as_json: bool) -> None:
    """Write the page of SWEEP, a folder that kws sweep filled.

    One file, which needs no network and no other file: accuracy against
    multiply-accumulates, every point's thresholds, and the command that uses them.
    """
    from kws.bundle import write_atomic
    from kws.report import load_sweep, page

    table = load_sweep(sweep)
    folder = sweep if sweep.is_dir() else sweep.parent
    out = out or folder / "report.html"
    write_atomic(out, page(table).encode())
    if as_json:
        click.echo(json.dumps({"report": str(out), "points": len(table["points"])}))
    else:
        click.echo(f"Wrote {out}: {len(table['points'])} points. Open it in a browser.")
