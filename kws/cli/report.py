"""Draw a sweep, or what kws calibrate found, as one HTML page: see prices, pick one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(
    epilog="Examples: kws report runs/tiny/sweep --out sweep.html   |   "
    "kws report runs/tiny"
)
@click.argument("sweep", type=_options.PATH)
@_options.out("The page.  [default: report.html or operating_points.html, beside it]")
@_options.json
def command(sweep: Path, out: Path | None, as_json: bool) -> None:
    """Write the page of SWEEP: a folder that kws sweep filled, or a run that kws
    calibrate chose a detector for (misses against false alarms an hour).

    One file, which needs no network and no other file: of a sweep accuracy against
    instructions and multiply-accumulates, every point's thresholds, and the command
    that takes them. Beside sweep.json, the same as plots (PNG), where matplotlib is
    installed.
    """
    from kws import operating_points
    from kws.report import load_sweep, operating, write

    if _has_operating_points(sweep):
        found = operating_points.load(sweep)
        folder = sweep if sweep.is_dir() else sweep.parent
        page = operating.write(found, out or folder / operating.PAGE)
        if as_json:
            facts = {"report": str(page), "plots": [], "points": len(found["curve"])}
            click.echo(json.dumps(facts))
        else:
            click.echo(f"Wrote {page}: {len(found['curve'])} points. Open it.")
        return
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


def _has_operating_points(path: Path) -> bool:
    """A run of kws calibrate's and no sweep."""
    from kws.operating_points import FILE

    if path.is_dir():
        return (path / FILE).is_file() and not (path / "sweep.json").is_file()
    return path.name == FILE
