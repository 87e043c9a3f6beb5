"""Spoken words, firmware, and an emulated board that hears them; trained if asked."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli import _options

if TYPE_CHECKING:
    from kws.bundle import Bundle

SPOKEN = ("yes", "stop", "no", "go", "no", "yes", "go", "stop")
SHIPPED = "kwt-tiny"
CLIPS_PER_WORD = 1100
UNKNOWN_CLIPS = 2400
# Of eight synthetic words a demo may miss one: trained for minutes, or on people.
LEAST_HEARD = 7


@click.command(epilog="Example: kws demo --train --out runs/demo")
@click.option("--train", "with_training", is_flag=True, help="Train a model first.")
@_options.out(
    "Folder of the stream, and of the corpus and the run with --train.",
    default=Path("runs/demo"),
    show_default=True,
)
@_options.board(default="qemu-m4", show_default=True)
@_options.json
@click.pass_context
def command(
    ctx: click.Context, with_training: bool, out: Path, board_name: str, as_json: bool
) -> None:
    """Let an emulated board hear eight spoken words.

    The board runs kwt-tiny, which comes with the package; with --train a model that is
    trained here, in minutes, on a corpus that eSpeak NG speaks. Nothing is downloaded
    and no recording is needed. What was already done is not done again.
    """
    from kws import bundle as bundles
    from kws import evaluate
    from kws.data import synth, tape
    from kws.deploy import boards, flash
    from kws.errors import KwsError

    board = boards.load(board_name)
    if not flash.is_emulated(board):
        # Before a training, which is minutes.
        raise KwsError(
            "The demo's board hears a recording, in an emulator. Expected an emulated "
            f"board. Received: {board.name}, a real one",
            "kws demo --board qemu-m4 ...   (a real one: kws flash kwt-tiny --board "
            f"{board.name})",
        )
    begin = time.monotonic()
    steps = itertools.count(1)
    last = 5 if with_training else 2

    def step(text: str) -> None:
        spent = time.monotonic() - begin
        click.echo(f"[{next(steps)}/{last}] {text}   ({spent:.0f} s so far)", err=True)

    stream = out / "stream.wav"
    accuracy = None
    if with_training:
        bundle = _train(out, step)
        step("Accuracy of the firmware's C on voices that were not trained on")
        accuracy = evaluate.evaluate(
            bundle, engine="host", split="test", audio=out / "corpus"
        )
        click.echo(evaluate.describe(accuracy), err=True)
    else:
        bundle = bundles.load(SHIPPED)

    step(f"Speaking a test stream: {' '.join(SPOKEN)}")
    windows = synth.write_stream(stream, list(SPOKEN))

    step(f"Building the firmware for {board.name} and letting it hear {stream}")
    pcm = flash.read_stream(stream)
    result = flash.flash(bundle, board, pcm, flash.output_folder(bundle, board))
    events = result.listened.transcript.events
    score = tape.score(
        [(event.word, event.time_ms / 1000) for event in events],
        windows,
        len(pcm) / 16000 / 3600,
    )
    heard_all = score.hits >= LEAST_HEARD and not score.false_alarms
    passed = heard_all and not result.problems
    if as_json:
        table: dict[str, Any] = result.as_dict()
        table.update(
            said=[[window.word, window.start_s] for window in windows],
            hits=score.hits,
            misses=score.misses,
            false_alarms=score.false_alarms,
            accuracy=None if accuracy is None else accuracy.accuracy,
            seconds=round(time.monotonic() - begin, 1),
        )
        click.echo(json.dumps(table))
    else:
        _show(result, windows, score, time.monotonic() - begin)
        _offer(out / "run" if with_training else Path(SHIPPED))
    for problem in result.problems:
        click.echo(f"Failed: {problem}", err=True)
    ctx.exit(0 if passed else 1)


def _offer(run: Path) -> None:
    """The page in the browser, which the user can speak to."""
    from kws.cli._run import next_line
    from kws.deploy import toolchain
    from kws.errors import pip_install

    click.echo("Now you: a page in the browser hears you, with the same C.", err=True)
    if not any(found.name == "zig" for found in toolchain.available()):
        click.echo(f"It needs a compiler first: {pip_install('zig')}", err=True)
    click.echo(next_line("kws", "live", run), err=True)


def _train(out: Path, step: Callable[[str], None]) -> Bundle:
    """Speak a corpus into `out` and train on it."""
    from kws import recipe as recipes
    from kws import train
    from kws.data import synth
    from kws.progress import counting

    recipe = recipes.load("demo")
    corpus, run = out / "corpus", out / "run"
    plan = synth.Plan(recipe.task.words, CLIPS_PER_WORD, UNKNOWN_CLIPS)
    step(f"Speaking a corpus of {', '.join(plan.words)} into {corpus}")
    synth.make(plan, corpus, counting("clips"))
    step(f"Training, quantization-aware tuning and conversion into {run}")
    return train.train(recipe, run, train.RunOptions(data=corpus))


def _show(result: Any, windows: list[Any], score: Any, seconds: float) -> None:
    """Print what was said beside what the board heard."""
    lines = [(window.start_s, f"said   {window.word}") for window in windows]
    lines += [
        (event.time_ms / 1000, f"           heard  {event.word}  ({event.score:.2f})")
        for event in result.listened.transcript.events
    ]
    for time_s, text in sorted(lines):
        click.echo(f"{time_s:8.2f} s  {text}")
    stats = result.listened.transcript.stats
    click.echo(
        f"{score.hits} of {score.hits + score.misses} words heard, "
        f"{score.false_alarms} false alarms, {stats.get('overruns', 0)} samples lost; "
        f"{stats.get('instructions_per_inference', 0):,} instructions an inference on "
        f"{result.board.name}; {seconds:.0f} s"
    )
