"""Show what delta thresholds cost and give, before anything is flashed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kws.cli import _options

EPILOG = """\b
Examples:
  kws simulate runs/tiny --theta X=0.3,Q=0.3,K=0.3,P=0.005,O=0.05
  kws simulate runs/kwt1 --theta "X=0.3,3.X=0.2" --features float --limit 500
  kws simulate runs/tiny --theta H=0 --split val --keep
  kws simulate kwt-stream-tiny --theta bundle --tape tapes --board qemu-m4
"""
# What is about clips, and would be left unheeded with tapes.
OF_CLIPS = ("--split", "--task", "--features", "--limit", "--data", "--also")


@click.command(epilog=EPILOG)
@_options.bundle
@_options.theta
@_options.split("train", "val", "test", default="test")
@_options.simulator
@_options.task
@_options.features
@_options.limit
@_options.data
@_options.also
@_options.tape()
@_options.board()
@_options.keep
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    theta: str | None,
    split: str,
    engine: str | None,
    task: str | None,
    kind: str,
    limit: int | None,
    data: Path | None,
    also: tuple[Path, ...],
    tape: tuple[Path, ...],
    board_name: str | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Run RUN's network with delta thresholds over a split or, with --tape, over tapes.

    An element is held, and costs nothing, while it is within its threshold of the
    value that was last transmitted. Thresholds are in units of the tensor itself; the
    int8 network rounds them down to whole steps. --theta bundle takes the run's own;
    --keep makes them that, for the firmware.

    Tapes are streams, and the firmware's C runs them on this machine: misses, false
    alarms, and what a second costs by kind of sound. --board counts the instructions of
    every step on an emulated board.
    """
    from kws import attention
    from kws import bundle as bundles
    from kws.cli._run import check_clips
    from kws.progress import Progress
    from kws.simulate import measure
    from kws.thresholds import Thresholds

    theta = theta or ""
    _check(ctx, run, tape, board_name, engine)
    bundle = bundles.load(run)
    if tape:
        _tapes(bundle, theta, tape, board_name, keep, as_json)
        return
    folders = check_clips(bundle, task, data, also)
    if theta != "bundle":
        Thresholds.read(theta, attention.slots(bundle.recipe.model))
    simulator = measure.make_simulator(bundle, engine)
    if keep:
        measure.check_keeps(simulator)
    thresholds = measure.read_thresholds(simulator, theta)
    kind = measure.feature_kind(simulator, kind)
    clips = measure.load_clips(
        bundle, split, folders.data, limit, task, kind, folders.also
    )
    bar = Progress(f"simulate {len(clips)} clips", len(clips))
    table = measure.simulate(simulator, clips, thresholds, bar.at)
    bar.end()
    if keep:
        measure.keep_thresholds(simulator, thresholds.to_dict())
    if as_json:
        click.echo(json.dumps(table))
    else:
        click.echo(text(table))
        if keep:
            click.echo(f"These thresholds are now in {bundle.path}")


def _check(
    ctx: click.Context,
    run: str,
    tape: tuple[Path, ...],
    board: str | None,
    engine: str | None,
) -> None:
    """Refuse what would be left unheeded."""
    from kws.errors import KwsError, quoted

    if not tape:
        if board is not None:
            raise KwsError(
                "Instructions are counted on tapes. Expected --tape. "
                f"Received: --board {board} alone",
                f"kws simulate {quoted(run)} --tape tape.wav --board {board}",
            )
        return
    why = "Tapes (--tape) run through the int8 network's C, and no clips are read."
    _options.heed(ctx, OF_CLIPS, why)
    if engine == "float":
        _options.heed(ctx, ["--engine"], why)


def _tapes(
    bundle: Any,
    theta: str,
    paths: tuple[Path, ...],
    board_name: str | None,
    keep: bool,
    as_json: bool,
) -> None:
    from kws.data.tape import files, opened
    from kws.simulate import instructions, measure, stream
    from kws.simulate.simulator import Simulator

    simulator = measure.make_simulator(bundle, "int8")
    assert not isinstance(simulator, Simulator)
    if keep:
        measure.check_keeps(simulator)
    thresholds = measure.read_thresholds(simulator, theta)
    board = instructions.find_boards([board_name])[0] if board_name else None
    with_them = instructions.with_thresholds(simulator, thresholds)
    recordings = opened(files(paths), bundle.labels)

    def say(name: str) -> None:
        click.echo(f"Hearing {name}", err=True)

    heard = stream.follow(with_them, recordings, board, say)
    table = {
        "thresholds": thresholds.to_dict(),
        "steps": simulator.steps(thresholds).to_steps(),
        "board": board_name,
        **stream.table(bundle, heard),
    }
    if keep:
        measure.keep_thresholds(simulator, thresholds.to_dict())
    if as_json:
        click.echo(json.dumps(table))
        return
    click.echo(stream.text(table))
    if keep:
        click.echo(f"These thresholds are now in {bundle.path}")


def text(table: dict[str, Any]) -> str:
    """The point as a person reads it."""
    from kws.graph import cost
    from kws.graph.cost import PURPOSES

    low, high = table["ci95"]
    lines = [
        f"{table['task']}, {table['split']}: {100 * table['accuracy']:.2f} % of "
        f"{table['n']:,} clips right (95 %: {100 * low:.2f} to {100 * high:.2f})"
    ]
    if "spoken" in table:
        spoken = table["spoken"]
        lines.append(
            f"  without silence: {100 * spoken['accuracy']:.2f} % of {spoken['n']:,}"
        )
    cut = table["cut"]
    rows = [
        ("MHSA, Q.K^T by pairs", "mhsa_macs", "mhsa_macs_dense", "mhsa_mac_cut"),
        (
            "MHSA, Q.K^T by rows",
            "mhsa_macs_rows",
            "mhsa_macs_dense",
            "mhsa_mac_cut_rows",
        ),
        ("whole model, pairs", "macs", "macs_dense", "mac_cut"),
        ("whole model, rows", "macs_rows", "macs_dense", "mac_cut_rows"),
    ]
    if not table["mhsa_macs_dense"]:  # a network for streams: one way to count
        rows = [("whole model, a clip", "macs", "macs_dense", "mac_cut")]
    lines.append(
        f"{'MACs per inference':<22}{'dense':>12}{'mean':>12}{'95 %':>12}    cut"
    )
    lines += [
        f"{name:<22}{table[dense]:>12,}{table[key]['mean']:>12,.0f}"
        f"{table[key]['p95']:>12,.0f}{100 * table[share]:>6.1f} %"
        for name, key, dense, share in rows
    ]
    lines.append(
        "cut by product: "
        + ", ".join(
            f"{name} {100 * cut[key]:.1f} %"
            for name, key in (
                ("Q, K, V", "qkv"),
                ("convolution blocks in", "in"),
                ("Q.K^T by pairs", "scores"),
                ("by rows", "scores_rows"),
                ("P.V", "mix"),
                ("output", "out"),
                ("MLP in", "expand"),
                ("MLP out", "contract"),
                ("stem", "embed"),
                ("read-out", "readout"),
            )
            if key in cut
        )
    )
    lines.append(
        f"beside them: {table['subtractions']:,} subtractions and comparisons, "
        f"{table['additions']:,} additions, {table['exponentials']:,} exponentials"
    )
    lines.append(f"{'bytes touched':<34}{'mean':>12}{'95 %':>12}")
    lines += [
        f"{f'{who}, {name}':<34}{table[key]['mean']:>12,.0f}{table[key]['p95']:>12,.0f}"
        for who, prefix in (("MHSA", "mhsa_bytes"), ("whole model", "bytes"))
        if table["mhsa_macs_dense"] or who != "MHSA"
        for name in PURPOSES
        for key in (f"{prefix}_{name}",)
    ]
    lines.append(cost.text(table))
    return "\n".join(lines)
