"""Measure a run: accuracy on a split, or misses and false alarms on a long tape."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli import _options

if TYPE_CHECKING:
    from kws.evaluate import Evaluation, TapeResult

EPILOG = """\b
Examples:
  kws eval runs/tiny
  kws eval runs/tiny --engine tflm,host,qemu --limit 500
  kws eval runs/tiny --tape tape.wav
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@_options.split("train", "val", "test", default="test")
@click.option(
    "--engine",
    "engine_names",
    type=_options.NAMES,
    default="host",
    show_default=True,
    help="float: Keras in float32; tflite: its reference kernels; tflm: TensorFlow "
    "Lite Micro's interpreter; host: the firmware's C, on this PC; qemu: the firmware "
    "(on --board, else qemu-m4). Several, with commas, are compared logit by logit.",
)
@_options.board()
@_options.limit
@_options.data
@_options.also
@click.option(
    "--tape",
    type=_options.PATH,
    help="Measure on a long recording instead (WAV, FLAC, MP3 and more).",
)
@click.option(
    "--truth",
    type=_options.PATH,
    help="What is said on the tape: start_s, end_s, word (TSV).  [default: beside it]",
)
@click.option(
    "--after",
    type=click.Choice(["reset", "silence", "word"]),
    default="reset",
    show_default=True,
    help="What a network for streams hears before each clip: nothing, a second of "
    "zeros, or the clip before it.",
)
@_options.jobs
@_options.json
def command(
    run: str,
    split: str,
    engine_names: tuple[str, ...],
    board_name: str | None,
    limit: int | None,
    data: Path | None,
    also: tuple[Path, ...],
    tape: Path | None,
    truth: Path | None,
    after: str,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Measure RUN on the clips of a split, or on a long tape.

    Every figure comes with its task, the number of clips and a 95 % interval.
    """
    from kws import bundle as bundles
    from kws import engines

    names = [engines.canonical(name) for name in engine_names]
    _check(names, board_name, tape, truth)
    bundle = bundles.load(run)
    if tape is not None:
        _tape(bundle, tape, truth, names[0], as_json)
        return
    from kws import data as datasets
    from kws.evaluate import agreement, evaluate_clips

    folders = datasets.of_run(bundle, data, also)
    clips = datasets.load(
        split, bundle.recipe.task, folders.data, limit=limit, also=folders.also
    )
    jobs = jobs or os.cpu_count() or 1
    results = [
        evaluate_clips(bundle, clips, name, board_name, jobs, after) for name in names
    ]
    pairs = [agreement(results[0], other) for other in results[1:]]
    if as_json:
        table = results[0].as_dict()
        if pairs:
            table["engines"] = [result.as_dict() for result in results]
            table["agreement"] = [pair.as_dict() for pair in pairs]
        click.echo(json.dumps(table))
        return
    for result in results:
        _print(result)
    for pair in pairs:
        equal = ""
        if pair.equal is not None:
            equal = (
                f"{100 * pair.equal:.2f} % of the logits equal, at most "
                f"{pair.largest} steps apart; "
            )
        click.echo(
            f"{pair.first} and {pair.second}: {equal}the same label on "
            f"{100 * pair.same_label:.2f} % of {pair.n} clips"
        )


def _check(
    names: list[str], board: str | None, tape: Path | None, truth: Path | None
) -> None:
    """Refuse what would be left unheeded, or fail late."""
    from kws.deploy import boards
    from kws.errors import KwsError

    if board is not None:
        boards.load(board)
    if board is not None and "qemu" not in names:
        raise KwsError(
            f"Only the engine qemu runs on a board. Received: --board {board} "
            f"--engine {','.join(names)}",
            f"kws eval RUN --engine qemu --board {board}",
        )
    if truth is not None and tape is None:
        raise KwsError(
            f"--truth is what is said on a tape. Received: --truth {truth}, no --tape",
            f"kws eval RUN --tape tape.wav --truth {truth}",
        )
    if tape is not None and len(names) > 1:
        raise KwsError(
            f"A tape runs through one engine. Received: --engine {','.join(names)}",
            f"kws eval RUN --tape {tape} --engine {names[0]}",
        )


def _print(result: Evaluation) -> None:
    from kws.evaluate import CUTS, describe

    click.echo(f"{describe(result)}, {result.seconds:.1f} s")
    if result.cost is not None:
        cuts = [100 * result.cost[key] for key in CUTS]
        text = (
            "MACs cut by delta thresholds: {:.1f} % of MHSA's, {:.1f} % of the whole "
            "model's; as this engine runs Q.K^T, by rows, {:.1f} % and {:.1f} %"
        )
        if not result.cost["mhsa_macs_dense"]:  # a network for streams
            text = "MACs cut by delta thresholds: {1:.1f} % of a clip's"
        click.echo(text.format(*cuts))
    width = max(len(label) for label in result.labels)
    heads = "".join(f"{label[:6]:>7}" for label in result.labels)
    click.echo(f"{'':<{width}}  recall{heads}   <- heard")
    for label, row in zip(result.labels, result.confusion, strict=True):
        recall = result.recall[label]
        share = "     -" if recall is None else f"{100 * recall:5.1f}%"
        click.echo(f"{label:<{width}}  {share}" + "".join(f"{n:>7}" for n in row))


def _tape(
    bundle: Any, tape: Path, truth: Path | None, engine: str, as_json: bool
) -> None:
    from kws.data.tape import open_tape
    from kws.evaluate import evaluate_tape

    result: TapeResult = evaluate_tape(bundle, open_tape(tape, truth), engine)
    table = result.as_dict()
    if as_json:
        click.echo(json.dumps({"tape": str(tape), "engine": engine, **table}))
        return
    low, high = table["false_alarms_per_hour_ci95"]
    click.echo(
        f"{tape}: {table['hours']:.3f} h, {table['words']} words: {table['hits']} "
        f"heard, {table['misses']} missed ({100 * table['miss_rate']:.1f} %); "
        f"{table['false_alarms']} false alarms = "
        f"{table['false_alarms_per_hour']:.2f} per hour "
        f"(95 %: {low:.2f} to {high:.2f})"
    )
    for word, counts in table["per_word"].items():
        click.echo(
            f"  {word:<16} {counts['hits']:>4} heard {counts['misses']:>4} missed "
            f"{counts['false_alarms']:>4} false alarms"
        )
