"""Runs beside each other: accuracy, cost, and what differs in their recipes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(
    epilog="Examples: kws compare kwt-tiny kwt-small   |   "
    "kws compare runs/a runs/b --fit none --json"
)
@_options.bundles
@_options.split("train", "val", "test", default="val")
@_options.data
@_options.also
@_options.limit
@_options.fit
@_options.battery
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    runs: tuple[str, ...],
    split: str,
    data: Path | None,
    also: tuple[Path, ...],
    limit: int | None,
    fit: tuple[str, ...] | None,
    battery: float | None,
    as_json: bool,
) -> None:
    """Set runs side by side: what they reach, what they cost, what differs in their
    recipes.

    Each is heard on the clips of its own task, from where its training had them. Runs
    that are asked about the same clips are compared clip by clip, too: two accuracies
    whose intervals overlap may still be told apart by that.
    """
    from kws import bundle as bundles
    from kws.errors import KwsError, quoted
    from kws.report import compare
    from kws.report import facts as known

    if len(runs) < 2:
        beside = "kwt-tiny" if runs[0] != "kwt-tiny" else "kwt-small"
        raise KwsError(
            f"Expected two runs at least. Received: {runs[0]}",
            f"kws compare {quoted(runs[0])} {quoted(beside)}   (alone: kws report "
            f"{quoted(runs[0])})",
        )
    if fit == ():
        _options.heed(ctx, ["--battery"], "A battery's life is a board's: --fit none.")
    asked = known.Asked(
        split,
        data,
        also,
        limit,
        fit,
        battery or known.COIN_CELL_MAH,
        lambda text: click.echo(text, err=True),
    )
    for run in runs:
        bundles.load(run)  # what is no run is told before the first is measured
    found = []
    for run in runs:
        click.echo(f"{run}:", err=True)
        found.append(known.gather(run, asked))
    changes = compare.changes(found)
    both = [(a, b, compare.paired(a, b)) for a, b in itertools.combinations(found, 2)]
    pairs = [pair for _, _, pair in both if pair is not None]
    if as_json:
        table = {
            "runs": [facts.as_dict() for facts in found],
            "recipe_changes": changes,
            "paired": [pair.as_dict() for pair in pairs],
        }
        click.echo(json.dumps(table))
        return
    rows = compare.rows(found)
    if changes:
        differing = [
            (key, [_text(value) for value in values]) for key, values in changes.items()
        ]
        rows += [("", ["" for _ in runs]), ("recipe", ["" for _ in runs]), *differing]
    _print(("", runs), rows)
    click.echo("")
    for pair in pairs:
        click.echo(pair.text())
    unpaired = [f"{a.run} and {b.run}" for a, b, pair in both if pair is None]
    if unpaired:
        click.echo(
            "Not compared clip by clip, as they were not asked about the same ones: "
            f"{'; '.join(unpaired)}"
        )
    if (remark := compare.about_tapes(found)) is not None:
        click.echo(remark)
    for facts in found:
        if (why := facts.missing.get("heard")) is not None:
            click.echo(f"{facts.run} was not heard: {why}", err=True)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _print(
    head: tuple[str, tuple[str, ...]], rows: list[tuple[str, list[str]]]
) -> None:
    """Columns as wide as they need; a run's column ends at its right."""
    table = [(head[0], list(head[1])), *rows]
    first = max(len(name) for name, _ in table)
    widths = [
        max(map(len, column)) for column in zip(*(c for _, c in table), strict=True)
    ]
    for name, cells in table:
        line = "".join(
            f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
        )
        click.echo(f"{name:<{first}}{line}".rstrip())
