"""The main job, end to end: speak a corpus, train, convert, flash, and be heard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

SPOKEN = ("yes", "stop", "no", "go", "no", "yes", "go", "stop")
CLIPS_PER_WORD = 700
UNKNOWN_CLIPS = 1600
# A demo that trained for minutes on synthetic voices may miss one word of eight.
LEAST_HEARD = 7


@click.command(epilog="Example: kws demo --out runs/demo")
@click.option(
    "--out",
    default=Path("runs/demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the corpus, the run and the stream.",
)
@click.option("--board", "board_name", default="qemu-m4", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, out: Path, board_name: str, as_json: bool) -> None:
    """Train on voices made here and let an emulated board hear the words.

    Nothing is downloaded and no recording is needed: eSpeak NG speaks the corpus. What
    was already done is not done again.
    """
    from kws import evaluate, train
    from kws import recipe as recipes
    from kws.data import synth, tape
    from kws.deploy import boards, flash
    from kws.progress import Progress

    begin = time.monotonic()

    def step(number: int, text: str) -> None:
        spent = time.monotonic() - begin
        click.echo(f"[{number}/5] {text}   ({spent:.0f} s so far)", err=True)

    recipe = recipes.load("demo")
    board = boards.load(board_name)
    corpus, run, stream = out / "corpus", out / "run", out / "stream.wav"

    plan = synth.Plan(recipe.task.words, CLIPS_PER_WORD, UNKNOWN_CLIPS)
    step(1, f"Speaking a corpus of {', '.join(plan.words)} into {corpus}")
    bar = Progress("clips", 1)

    def spoken(done: int, total: int) -> None:
        bar.total = total
        bar.at(done)

    synth.make(plan, corpus, spoken)
    bar.end()

    step(2, f"Training, quantization-aware tuning and conversion into {run}")
    bundle = train.train(recipe, run, corpus)

    step(3, "Accuracy of the firmware's C on voices that were not trained on")
    accuracy = evaluate.evaluate(bundle, engine="device", split="test", audio=corpus)
    click.echo(evaluate.describe(accuracy), err=True)

    step(4, f"Speaking a test stream: {' '.join(SPOKEN)}")
    windows = synth.write_stream(stream, list(SPOKEN))

    step(5, f"Building the firmware for {board.name} and letting it hear {stream}")
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
            accuracy=accuracy.accuracy,
            seconds=round(time.monotonic() - begin, 1),
        )
        click.echo(json.dumps(table))
    else:
        _show(result, windows, score, time.monotonic() - begin)
    for problem in result.problems:
        click.echo(f"Failed: {problem}", err=True)
    ctx.exit(0 if passed else 1)


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
