"""Put a run on a board: build, check the fit, flash, self-test, hear a recording."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="Example: kws flash runs/tiny --board qemu-m4 --audio stream.wav",
)
@click.argument("run")
@click.option("--board", "board_name", required=True, help="A name from `kws boards`.")
@click.option(
    "--audio",
    required=True,
    type=click.Path(path_type=Path),
    help="Recording for the microphone path: 16 kHz, mono (WAV or FLAC).",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the build.")
@click.option("--compiler", help="gcc or zig [default: what is installed, gcc first].")
@click.option(
    "--pace/--no-pace",
    default=True,
    show_default=True,
    help="Audio arrives at the part's assumed speed, or waits for the firmware.",
)
@click.option(
    "--hop",
    type=click.IntRange(1),
    help="Run the model every HOP feature frames of 10 ms [default: the recipe's].",
)
@click.option(
    "--pad",
    "pad_s",
    type=click.FloatRange(0, 60),
    default=1.0,
    show_default=True,
    help="Seconds of silence appended, so that the last word is heard.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    help="Seconds of processor time the run may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    board_name: str,
    audio: Path,
    out: Path | None,
    compiler: str | None,
    pace: bool,
    hop: int | None,
    pad_s: float,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Put RUN on a board and let it hear a recording.

    Exit code 1 on a crash, a lost sample, another model's hash or a failed self-test.
    """
    from kws import bundle as bundles
    from kws.deploy import boards, flash
    from kws.errors import CheckFailed

    board = boards.load(board_name)
    pcm = flash.read_stream(audio)
    bundle = bundles.load(run)
    if hop is not None:
        bundle = flash.with_hop(bundle, hop)
    folder = out or flash.output_folder(bundle, board)
    click.echo(f"Building for {board.name} in {folder}", err=True)
    result = flash.flash(bundle, board, pcm, folder, compiler, pace, pad_s, timeout)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
        for problem in result.problems:
            click.echo(f"Failed: {problem}", err=True)
        ctx.exit(1 if result.problems else 0)
    transcript = result.listened.transcript
    click.echo(f"board     {board.name}: {board.title}")
    click.echo(result.image.fit.table())
    click.echo(f"hash      {transcript.boot.get('hash', 'none')}")
    click.echo(f"self-test {'ok' if transcript.selftest else 'not passed'}")
    for event in transcript.events:
        click.echo(
            f"{event.time_ms / 1000:9.2f} s  {event.word:<16} score {event.score:.2f}"
            f"  (window from {event.start_ms / 1000:.2f} s)"
        )
    if not transcript.events:
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
            result.hint(run, str(audio)),
        )
