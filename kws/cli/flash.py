"""Put a run on a board: build, check the fit, flash, self-test, hear a recording."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from kws.cli import _options

OF_EMULATED = ("--audio", "--pace", "--pad", "--timeout")
OF_REAL = ("--probe", "--port", "--tool", "--unlock")


@click.command(
    epilog="Examples: kws flash runs/tiny --board nrf52840dk   |   "
    "kws flash runs/tiny --board qemu-m4 --audio stream.wav",
)
@_options.bundle
@_options.board(required=True)
@_options.audio
@_options.probe
@_options.port
@click.option(
    "--tool", help="Program with another tool that board.toml has a table for."
)
@click.option(
    "--unlock",
    is_flag=True,
    help="Erase ALL of a locked chip's flash, a bootloader too, to unlock it.",
)
@_options.out("Folder of the build.")
@_options.engine
@_options.compiler
@click.option(
    "--pace/--no-pace",
    default=True,
    show_default=True,
    help="Audio arrives at the part's assumed speed, or waits for the firmware.",
)
@_options.hop
@_options.keep
@click.option(
    "--pad",
    "pad_s",
    type=_options.Number(0, 60),
    default=1.0,
    show_default=True,
    help="Seconds of silence appended, so that the last word is heard.",
)
@click.option(
    "--timeout",
    type=_options.Number(1),
    help="Seconds of processor time the run may take.",
)
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    board_name: str,
    audio: Path | None,
    probe: str | None,
    port: str | None,
    tool: str | None,
    unlock: bool,
    out: Path | None,
    engine: str,
    compiler: str | None,
    pace: bool,
    hop: int | None,
    keep: bool,
    pad_s: float,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Put RUN on a board: build, check the fit, program, verify, self-test.

    An emulated board then hears a recording; a real one is followed with `kws monitor`.
    Exit code 1 on a crash, a lost sample, another model's hash or a failed self-test.
    """
    from kws import bundle as bundles
    from kws.cli._run import next_line
    from kws.deploy import boards, flash
    from kws.deploy.runners import Job
    from kws.errors import CheckFailed
    from kws.graph import cost

    board = boards.load(board_name)
    emulated = flash.is_emulated(board)
    if emulated:
        _options.heed(ctx, OF_REAL, f"{board.name} is emulated: nothing is programmed.")
    else:
        why = f"{board.name} is a real board, which hears with its own microphone."
        _options.heed(ctx, OF_EMULATED, why)
    pcm = flash.read_stream(audio) if audio is not None else None
    bundle = bundles.load(run)
    since = bundle.hash
    if hop is not None:
        bundle = flash.with_hop(bundle, hop)
    if keep:
        _check_keeps(bundle, hop)
    folder = out or flash.output_folder(bundle, board)
    click.echo(f"Building for {board.name} in {folder}", err=True)
    if emulated:
        result = flash.flash(
            bundle, board, pcm, folder, compiler, pace, pad_s, timeout, engine
        )
    else:
        job = Job(
            run=run,
            probe=probe,
            unlock=unlock,
            options=_options.typed(ctx, "--port", "--hop"),
        )
        result = _program(bundle, board, folder, engine, compiler, port, tool, job)
    if keep and hop is not None and not result.problems:
        now = bundles.unchanged(bundle, since, "kws flash RUN ...")
        bundles.save(flash.with_hop(now, hop))
        click.echo(f"{bundle.path} now runs every {hop} frames", err=True)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
        for problem in result.problems:
            click.echo(f"Failed: {problem}", err=True)
        ctx.exit(1 if result.problems else 0)
    transcript = result.listened.transcript
    click.echo(f"board     {board.name}: {board.title}")
    click.echo(result.image.fit.table())
    click.echo(
        f"MACs      {result.dense.macs:,} dense, {cost.whole(result.executed.macs):,} "
        "executed on the self-test's clip"
    )
    click.echo(cost.text(result.executed.as_dict()))
    if result.programmed is not None:
        done = result.programmed
        click.echo(f"wrote     {done.what}, {done.bytes:,} bytes, by {done.probe}")
    click.echo(f"hash      {transcript.hash or 'none'}")
    click.echo(f"self-test {'ok' if transcript.selftest else 'not passed'}")
    for event in transcript.events:
        click.echo(
            f"{event.time_ms / 1000:9.2f} s  {event.word:<16} score {event.score:.2f}"
            f"  (window from {event.start_ms / 1000:.2f} s)"
        )
    if result.programmed is not None:
        words: list[object] = ["kws", "monitor", run, "--board", board.name]
        for option, value in (("--port", port), ("--hop", None if keep else hop)):
            words += [option, value] if value is not None else []
        click.echo(next_line(*words), err=True)
        return
    if not transcript.events and audio is not None:
        click.echo("          no word was heard")
    stats = transcript.stats
    if stats:
        click.echo(
            f"{stats.get('samples', 0):,} samples, {stats.get('overruns', 0):,} lost, "
            f"{stats.get('inferences', 0):,} inferences of "
            f"{stats.get('instructions_per_inference', 0):,} instructions, "
            f"{stats.get('instructions_per_frame', 0):,} per feature frame, "
            f"stack {stats.get('stack', 0):,} bytes"
        )
    if result.problems:
        raise CheckFailed(
            "The run is not a success: " + "; ".join(result.problems),
            result.hint,
        )


def _check_keeps(bundle: Any, hop: int | None) -> None:
    from kws.errors import KwsError

    if hop is None:
        raise click.UsageError("--keep keeps the --hop that is given with it.")
    if bundle.shipped:
        name = bundle.path.name
        raise KwsError(
            "A shipped run stays as it is. Expected one of your own with --keep. "
            f"Received: {name}",
            f"{bundle.copy_command} && kws flash runs/{name} ...",
        )


def _program(
    bundle: Any,
    board: Any,
    folder: Path,
    engine: str,
    compiler: str | None,
    port: str | None,
    tool: str | None,
    job: Any,
) -> Any:
    """Program a real board; tell how far it is on stderr."""
    from kws.cli._ask import ask
    from kws.deploy import flash, pace

    before = flash.flashed_folder(bundle, board)
    if flash.interrupted(folder) or flash.interrupted(before):
        click.echo(
            f"The last programming of {board.name} from here was interrupted: "
            "everything is written again.",
            err=True,
        )
    if engine == "native":
        paced = pace.measure(bundle, board, compiler)
        if paced and (warning := paced.warning(job.run)):
            click.echo(warning, err=True)
    last = -1

    def progress(share: float) -> None:
        nonlocal last
        percent = int(100 * share)
        if percent // 10 != last // 10:
            click.echo(f"writing   {percent} %", err=True)
            last = percent

    job = dataclasses.replace(job, ask=ask(), progress=progress)
    return flash.program(bundle, board, folder, job, tool, compiler, port, engine)
