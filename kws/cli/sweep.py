"""Search delta thresholds: accuracy against multiply-accumulates, as a Pareto front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

EPILOG = """\b
Examples:
  kws sweep runs/tiny
  kws sweep runs/kwt1 --task gsc10 --pick "loss<=0.005"
  kws report runs/kwt1/sweep
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results and the journal.  [default: RUN/sweep]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val"]),
    default="val",
    show_default=True,
    help="Thresholds are never chosen on the test set.",
)
@click.option(
    "--engine",
    type=click.Choice(["int8", "float"]),
    help="The int8 network, bit for bit, or the float one.  [default: int8 where the "
    "run has been converted]",
)
@click.option("--task", help="Clips of another task, e.g. gsc10 for a gsc12 network.")
@click.option(
    "--features",
    "kind",
    type=click.Choice(["board", "float"]),
    default="board",
    show_default=True,
    help="int8 features as the board computes them, or unquantized ones.",
)
@click.option(
    "--limit", type=click.IntRange(1), help="The first N clips of a fixed shuffle."
)
@click.option(
    "--move-clips",
    type=click.IntRange(8),
    default=256,
    show_default=True,
    help="Clips for the many points that move one layer's threshold.",
)
@click.option(
    "--targets",
    default="0.7,0.8,0.86,0.91",
    show_default=True,
    callback=lambda ctx, option, text: _shares(text),
    help="Cuts of MHSA's MACs to refine near.",
)
@click.option(
    "--rounds",
    type=click.IntRange(0, 50),
    default=3,
    show_default=True,
    help="Rounds of refinement near each target.",
)
@click.option(
    "--pick", "condition", help="Keep one point: accuracy>=0.95, loss<=0.005, ..."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of Speech Commands."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run: str,
    out: Path | None,
    split: str,
    engine: str | None,
    task: str | None,
    kind: str,
    limit: int | None,
    move_clips: int,
    targets: tuple[float, ...],
    rounds: int,
    condition: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Search RUN's delta thresholds on validation clips.

    First one setting for all layers, then one per layer and tensor kind. Can be
    stopped at any time: the same command goes on where it stopped. Writes sweep.json,
    sweep.csv and, with --pick, picked.json (for kws simulate --theta @picked.json);
    the int8 network's picked thresholds also go into RUN, for the firmware.
    """
    from kws import bundle as bundles
    from kws.bundle import write_atomic
    from kws.simulate import measure
    from kws.simulate.pick import pick
    from kws.simulate.sweep import Journal, Settings, Sweep, csv, identity

    bundle = bundles.load(run)
    out = out or bundle.path / "sweep"
    simulator = measure.make_simulator(bundle, engine)
    kind = measure.feature_kind(simulator, kind)
    clips = measure.load_clips(bundle, split, data, limit, task, kind)
    journal = Journal(out / "journal.jsonl", identity(simulator, clips))
    if journal.points:
        click.echo(f"Going on after {len(journal.points)} points", err=True)
    bars = _Bars()
    settings = Settings(move_clips=move_clips, rounds=rounds, targets=targets)
    table = Sweep(simulator, clips, journal, settings, bars.report).run()
    bars.end()
    table["run"] = run
    if condition is not None:
        table["picked"] = pick(table, condition)
        picked = json.dumps(table["picked"]["thresholds"], indent=1) + "\n"
        write_atomic(out / "picked.json", picked.encode())
        measure.keep_thresholds(simulator, table["picked"]["thresholds"])
    write_atomic(out / "sweep.json", (json.dumps(table) + "\n").encode())
    write_atomic(out / "sweep.csv", csv(table).encode())
    if as_json:
        click.echo(json.dumps(table))
        return
    _print(table)
    click.echo(f"Wrote {out}/sweep.json and sweep.csv. Next: kws report {out}")


def _shares(text: str) -> tuple[float, ...]:
    """`0.8,0.9` -> (0.8, 0.9)."""
    try:
        shares = tuple(float(item) for item in text.split(","))
    except ValueError:
        shares = (-1.0,)
    if not all(0 < share < 1 for share in shares):
        raise click.BadParameter(f"expected shares such as 0.8,0.9, not {text!r}")
    return shares


class _Bars:
    """One progress line per stage."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: Any = None

    def report(self, stage: str, done: int, total: int) -> None:
        from kws.progress import Progress

        if stage != self.stage or done == 1:
            self.end()
            self.stage, self.bar = stage, Progress(f"sweep: {stage}", total)
        self.bar.at(done, f"{done}/{total}")

    def end(self) -> None:
        if self.bar is not None:
            self.bar.end()


def _print(table: dict[str, Any]) -> None:
    click.echo(
        f"{table['task']}, {table['split']}, {table['n']:,} clips: "
        f"{len(table['points'])} points, {len(table['pareto'])} on the front"
    )
    click.echo(
        f"{'accuracy':>9} {'MHSA cut':>9} {'model cut':>9} {'by rows':>9}  stage"
    )
    for index in table["pareto"]:
        point = table["points"][index]
        shares = ("accuracy", "mhsa_mac_cut", "mac_cut", "mhsa_mac_cut_rows")
        columns = " ".join(f"{100 * point[name]:>7.2f} %" for name in shares)
        click.echo(f"{columns}  {point['stage']}")
    if "picked" in table:
        point = table["picked"]
        click.echo(
            f"Picked: accuracy {100 * point['accuracy']:.2f} %, MHSA cut "
            f"{100 * point['mhsa_mac_cut']:.1f} %"
        )
