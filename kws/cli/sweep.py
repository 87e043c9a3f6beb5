"""Search delta thresholds: accuracy against MACs and measured instructions."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

from kws.cli import _options

EPILOG = """\b
Examples:
  kws sweep runs/tiny
  kws sweep runs/tiny --pick "instructions<=4e6"
  kws sweep runs/kwt1 --task gsc10 --engine float --pick "loss<=0.005"
  kws sweep runs/stream --tape tapes --pick "misses<=0.05"
  kws sweep runs/tiny --study /shared/sweep.log    (on every machine that helps)
  kws report runs/tiny/sweep
"""
ON_CLIPS = (0.7, 0.8, 0.86, 0.91)
ON_TAPES = (0.5, 0.6, 0.7, 0.8)


@click.command(epilog=EPILOG)
@_options.bundle
@_options.out("Folder for the results and the journal.  [default: RUN/sweep]")
@_options.split("train", "val", default="val")
@_options.simulator
@_options.task
@_options.features
@_options.limit
@click.option(
    "--move-clips",
    type=click.IntRange(8),
    default=256,
    show_default=True,
    help="Clips for the many points that move one layer's threshold.",
)
@click.option(
    "--targets",
    callback=lambda ctx, option, text: text and _shares(text),
    help="Cuts of MHSA's MACs to refine near; with --tape, of the network's on them.  "
    "[default: 0.7,0.8,0.86,0.91; with --tape 0.5,0.6,0.7,0.8]",
)
@click.option(
    "--rounds",
    type=click.IntRange(0, 50),
    default=3,
    show_default=True,
    help="Rounds of refinement near each target.",
)
@click.option(
    "--boards",
    help="Emulated boards to count instructions on, or none.  [default: "
    "qemu-m4,qemu-m55 for the int8 network, where the tools are installed]",
)
@click.option(
    "--board-clips",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Clips that each point runs on each board.",
)
@_options.tape()
@click.option(
    "--excerpt",
    type=_options.Number(4.0),
    default=24.0,
    show_default=True,
    help="Seconds of the tapes that stand for them: for the many points that move one "
    "threshold, and on each board.",
)
@_options.jobs
@click.option(
    "--study",
    help="Share the work with other sweeps of this run: a file that all machines see, "
    "or a database's address.",
)
@click.option(
    "--pick",
    "condition",
    help="Keep one point: accuracy>=0.95, loss<=0.005, instructions<=4e6, "
    "instructions[qemu-m55]<=2e6, mhsa_mac_cut>=0.8, ...",
)
@_options.data
@_options.also
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    out: Path | None,
    split: str,
    engine: str | None,
    task: str | None,
    kind: str,
    limit: int | None,
    move_clips: int,
    targets: tuple[float, ...] | None,
    rounds: int,
    boards: str | None,
    board_clips: int,
    tape: tuple[Path, ...],
    excerpt: float,
    jobs: int | None,
    study: str | None,
    condition: str | None,
    data: Path | None,
    also: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Search RUN's delta thresholds on validation clips.

    First one setting for all layers, then one per layer and tensor kind; for the int8
    network with instructions measured under QEMU. Can be stopped at any time: the same
    command goes on where it stopped. Writes sweep.json, sweep.csv, report.html, plots
    (PNG) and, with --pick, picked.json (for kws simulate --theta @picked.json); the
    int8 network's picked thresholds also go into RUN, for the firmware.

    With --tape, thresholds of a network for streams are chosen on streams: each is
    judged by misses and false alarms with RUN's detector, as well as on clips, and by
    what a second of the tapes costs.
    """
    from kws import bundle as bundles
    from kws.bundle import write_atomic
    from kws.cli._run import check_clips
    from kws.errors import KwsError, quoted
    from kws.report import sweep as pages
    from kws.simulate import measure
    from kws.simulate.pick import OF_TAPES, parse, pick
    from kws.simulate.points import Journal, Points, Study
    from kws.simulate.sweep import Settings, Sweep, csv, identity, network_file

    if tape and engine == "float":
        raise KwsError(
            "Tapes run through the int8 network's C. Received: --tape with --engine "
            "float",
            f"kws sweep {quoted(run)} --tape {quoted(tape[0])}",
        )
    if tape:
        why = "With --tape single moves and boards take an --excerpt of the tapes."
        _options.heed(ctx, ["--move-clips", "--board-clips"], why)
    else:
        _options.heed(ctx, ["--excerpt"], "An excerpt is one of tapes (--tape).")
    if not rounds:
        why = "Without rounds (--rounds 0) nothing is refined near a target."
        _options.heed(ctx, ["--targets", "--move-clips"], why)
    bundle = bundles.load(run)
    shipped = bundle.shipped
    out = out or pages.folder_of(bundle)
    integer = engine == "int8" or (engine is None and bundle.model_path.is_file())
    measured_on = _boards(boards, integer)
    if not measured_on:
        why = "No instructions are counted, on any board."
        _options.heed(ctx, ["--board-clips"], why)
    if condition is not None:
        name, *_ = parse(condition, measured_on)  # before hours of work
        if name in OF_TAPES and not tape:
            raise KwsError(
                f"The sweep has no tapes: expected some, for {name}. "
                f"Received: --pick {condition} without --tape",
                f'kws sweep {quoted(run)} --tape tapes --pick "{condition}"',
            )
        if shipped and integer:
            raise _shipped(bundle.path)
    folders = check_clips(bundle, task, data, also)
    simulator = measure.make_simulator(bundle, engine)
    kind = measure.feature_kind(simulator, kind)
    heard = _heard(bundle, tape, excerpt) if tape else None
    clips = measure.load_clips(
        bundle, split, folders.data, limit, task, kind, folders.also
    )
    on_clips = measured_on and heard is None
    pcm = _pcm(bundle, split, folders, limit, task) if on_clips else None
    journal = Journal(out / "journal.jsonl", identity(simulator, clips, heard))
    if journal.points:
        click.echo(f"Going on after {len(journal.points)} points", err=True)
    shared = Study(study, journal.identity) if study else None
    bar = _Bar()
    settings = Settings(
        move_clips=move_clips,
        rounds=rounds,
        targets=targets or (ON_TAPES if tape else ON_CLIPS),
        boards=tuple(measured_on),
        board_clips=board_clips,
    )
    count = jobs or os.cpu_count() or 1
    target = f"runs/{bundle.path.name}" if shipped else run
    command = _again(ctx, target, out)
    table = _kept(out, journal.identity, command) if condition is not None else None
    if table is None:
        with Points(
            simulator, clips, journal, count, pcm, study=shared, heard=heard
        ) as points:
            try:
                table = Sweep(simulator, clips, points, settings, bar.report).run()
            except KeyboardInterrupt:
                bar.end()
                click.echo(
                    f"Stopped after {len(journal.points)} points, kept in "
                    f"{journal.path}. The same command goes on.",
                    err=True,
                )
                raise click.Abort from None
        bar.end()
    table["run"], table["target"], table["command"] = run, target, command
    table["identity"] = journal.identity
    network = network_file(simulator).read_bytes()
    table["network"] = hashlib.sha256(network).hexdigest()
    if shipped:
        words = ["cp", "-r", str(_short(bundle.path)), target]
        table["setup"] = shlex.join(words)
    if condition is not None:
        table["picked"] = pick(table, condition)
        picked = json.dumps(table["picked"]["thresholds"], indent=1) + "\n"
        write_atomic(out / "picked.json", picked.encode())
    write_atomic(out / "sweep.json", (json.dumps(table) + "\n").encode())
    write_atomic(out / "sweep.csv", csv(table).encode())
    pages.write(table, out)
    if condition is not None:  # last: a run that can't be written costs no sweep
        measure.keep_thresholds(simulator, table["picked"]["thresholds"])
    if as_json:
        click.echo(json.dumps(table))
        return
    _print(table)
    click.echo(f"Wrote {out}/: sweep.json, sweep.csv, report.html (open it), *.png")


def _kept(out: Path, identity: str, command: str) -> dict[str, Any] | None:
    """The finished sweep in `out`, if it is this one: a number on its page then means
    that point, and picking takes no second look."""
    from kws.errors import KwsError
    from kws.report.sweep import load_sweep

    try:
        table = load_sweep(out)
    except KwsError:  # none, or a broken one: it is made again from the journal
        return None
    same = table.get("identity") == identity and table.get("command") == command
    return table if same else None


def _boards(names: str | None, integer: bool) -> list[str]:
    """Boards to measure on; says once why there are none."""
    from kws.errors import KwsError
    from kws.simulate.instructions import DEFAULT_BOARDS, find_boards

    if names is not None:
        wanted = [] if names == "none" else [n for n in names.split(",") if n]
        if wanted and not integer:
            raise KwsError(
                "Instructions are measured of the int8 network. "
                f"Received: --engine float --boards {names}",
                "--engine int8 (after kws convert RUN), or --boards none",
            )
        return [board.name for board in find_boards(list(dict.fromkeys(wanted)))]
    if not integer:
        return []
    try:
        return [board.name for board in find_boards(DEFAULT_BOARDS)]
    except KwsError as error:
        click.echo(
            f"No instructions are measured. {error.message}\nHint:  {error.hint}",
            err=True,
        )
        return []


def _pcm(bundle: Any, split: str, folders: Any, limit: Any, task: Any) -> Any:
    """The samples of the clips, in the simulator's order."""
    import dataclasses

    from kws import data as audio

    wanted = bundle.recipe.task
    if task is not None:
        wanted = dataclasses.replace(wanted, name=task)
    return audio.load(split, wanted, folders.data, limit=limit, also=folders.also).pcm


def _heard(bundle: Any, paths: tuple[Path, ...], excerpt: float) -> Any:
    """The tapes, read once."""
    from kws.data.tape import files, opened
    from kws.simulate import stream

    bundle.model_bytes()
    return stream.hearing(bundle, opened(files(paths), bundle.labels), excerpt)


def _short(path: Path) -> Path:
    """Relative to where the user is, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _shipped(path: Path) -> Exception:
    from kws.errors import KwsError, quoted

    return KwsError(
        "The picked thresholds are written into the run, and a shipped one stays as "
        f"it is. Expected a run of your own. Received: --pick for {path.name}",
        f"mkdir -p runs && cp -r {quoted(_short(path))} runs/ && kws sweep "
        f"runs/{path.name} --out build/{path.name}/sweep ...   (goes on with what was "
        "kept there)",
    )


def _again(context: click.Context, run: str, out: Path) -> str:
    """The command that was typed, without what doesn't change the points."""
    words = ["kws", "sweep", run]
    given = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        name = option.name or ""
        if name in ("run", "out", "condition", "as_json", "jobs", "study"):
            continue
        if context.get_parameter_source(name) is given:
            value = context.params[name]
            if name == "targets":
                value = ",".join(f"{share:g}" for share in value or ())
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)]
    if out != Path(run) / "sweep":
        words += ["--out", str(out)]
    return shlex.join(words)


def _shares(text: str) -> tuple[float, ...]:
    """`0.8,0.9` -> (0.8, 0.9)."""
    try:
        shares = tuple(float(item) for item in text.split(","))
    except ValueError:
        shares = (-1.0,)
    if not all(0 < share < 1 for share in shares):
        raise click.BadParameter(f"expected shares such as 0.8,0.9, not {text!r}")
    return shares


class _Bar:
    """One progress line for the whole sweep, which names the stage."""

    def __init__(self) -> None:
        self.bar: Any = None

    def report(self, stage: str, done: int, total: int, share: float) -> None:
        from kws.progress import Progress

        here = int(1000 * share)
        if self.bar is None:  # a sweep that goes on starts where it was
            self.bar = Progress("sweep", 1000, start=here)
        self.bar.at(here, f"({stage} {done}/{total})")

    def end(self) -> None:
        if self.bar is not None:
            self.bar.end()


def _print(table: dict[str, Any]) -> None:
    boards = table["boards"]
    click.echo(
        f"{table['task']}, {table['split']}, {table['n']:,} clips: "
        f"{len(table['points'])} points, {len(table['pareto'])} on the front of MACs"
    )
    _print_points(table, table["pareto"])
    if "on_tapes" in table:
        heard = table["on_tapes"]
        click.echo(
            f"tapes, {heard['hours']:.2f} h, {heard['words']} words: the front of MACs "
            "a second against misses and false alarms:"
        )
        _print_points(table, heard["pareto_faults"])
    for board, facts in boards.items():
        click.echo(
            f"{board}: dense {facts['dense']:,} instructions; {facts['measured']} "
            f"points measured on {facts['clips']} clips each; the front:"
        )
        _print_points(table, facts["pareto"])
    if "picked" in table:
        point = table["picked"]
        counts = "".join(
            f", {count:,} instructions on {board}"
            for board, count in point["instructions"].items()
        )
        click.echo(
            f"Picked: accuracy {100 * point['accuracy']:.2f} %, MHSA cut "
            f"{100 * point['mhsa_mac_cut']:.1f} %{counts}"
        )
        if "tape" in point:
            from kws.data.tape import describe_figures

            click.echo(f"on the tapes: {describe_figures(point['tape'])}")


def _print_points(table: dict[str, Any], indices: list[int]) -> None:
    on_tapes = ("missed", "alarms/h", "MACs/s") if "on_tapes" in table else ()
    heads = ("point", "accuracy", "MHSA cut", "model cut", *on_tapes, *table["boards"])
    click.echo("".join(f"{head:>12}" for head in heads) + "  stage")
    for index in indices:
        point = table["points"][index]
        shares = ("accuracy", "mhsa_mac_cut", "mac_cut")
        cells = [str(index), *(f"{100 * point[name]:.2f} %" for name in shares)]
        if on_tapes:
            found = point["tape"]
            cells += [
                f"{100 * found['miss_rate']:.1f} %",
                f"{found['false_alarms_per_hour']:.1f}",
                f"{found['macs_per_second']:,.0f}",
            ]
        for board in table["boards"]:
            count = point["instructions"].get(board)
            cells.append("" if count is None else f"{count:,}")
        click.echo("".join(f"{cell:>12}" for cell in cells) + f"  {point['stage']}")
