"""Draw everything known of a run, or of a sweep, as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options

# What a sweep's page has nothing of.
OF_RUN = (
    *("--split", "--data", "--also", "--limit", "--clips", "--tape", "--fit"),
    "--battery",
)
EPILOG = """\b
Examples:
  kws report kwt-tiny
  kws report runs/tiny --fit nrf52840dk,pico --clips 0
  kws report kwt-stream-tiny --tape tapes
  kws report runs/tiny/sweep
"""


@click.command(epilog=EPILOG)
@_options.bundle
@_options.out(
    "The page.  [default: report.html in RUN, or in build/ for a shipped one]"
)
@_options.split("train", "val", "test", default="val")
@_options.data
@_options.also
@_options.limit
@click.option(
    "--clips",
    type=click.IntRange(0, 100),
    default=24,
    show_default=True,
    help="Recordings of the hardest clips to put into the page.",
)
@_options.tape()
@_options.fit
@_options.battery
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    out: Path | None,
    split: str,
    data: Path | None,
    also: tuple[Path, ...],
    limit: int | None,
    clips: int,
    tape: tuple[Path, ...],
    fit: tuple[str, ...] | None,
    battery: float | None,
    as_json: bool,
) -> None:
    """Draw everything known of RUN as one page; or of a sweep's folder.

    One file, which needs no network and no other file: training curves, accuracy by
    word and by loudness, the hardest clips to listen to, misses against false alarms,
    what each step costs on tapes (--tape), each layer's cost, flash, RAM, duty cycle
    and battery on each board, delta thresholds. What isn't known is said, with the
    command that makes it. Beside a sweep.json, its plots (PNG), where matplotlib is
    installed.
    """
    from kws import bundle as bundles

    if out is not None:
        bundles.check_page(out)
    if (Path(run) / "sweep.json").is_file() or Path(run).name == "sweep.json":
        _options.heed(ctx, OF_RUN, "The page of a sweep is drawn of its folder alone.")
        _sweep(Path(run), out, as_json)
        return
    if fit == ():
        _options.heed(ctx, ["--battery"], "A battery's life is a board's: --fit none.")
    from kws.report import facts as known
    from kws.report import run as pages

    asked = known.Asked(
        split,
        data,
        also,
        limit,
        fit,
        known.COIN_CELL_MAH if battery is None else battery,
        lambda text: click.echo(text, err=True),
        tape,
    )
    facts = known.gather(run, asked)
    page = pages.write(facts, out or pages.path_of(bundles.load(run)), clips)
    if as_json:
        click.echo(json.dumps({"report": str(page), **facts.as_dict()}))
        return
    for part, reason in facts.missing.items():
        click.echo(f"Not there: {part}. {reason}", err=True)
    click.echo(f"Wrote {page} ({page.stat().st_size / 1000:,.0f} KB). Open it.")


def _sweep(path: Path, out: Path | None, as_json: bool) -> None:
    from kws.report.sweep import load_sweep, write

    table = load_sweep(path)
    files = write(table, path if path.is_dir() else path.parent, out)
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
