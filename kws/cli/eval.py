"""Measure a run: accuracy on a split, or misses and false alarms on a long tape."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli import _options

if TYPE_CHECKING:
    from kws.evaluate import Evaluation

OF_CLIPS = ("--split", "--limit", "--data", "--also", "--after", "--late", "--jobs")

EPILOG = """\b
Examples:
  kws eval runs/tiny
  kws eval runs/tiny --engine tflm,host,qemu --limit 500
  kws eval runs/tiny --tape tape.wav
  kws eval runs/tiny --tape tapes --events events.tsv --cut false_alarms
"""


@click.command(epilog=EPILOG)
@_options.bundle
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
@_options.tape()
@click.option(
    "--events",
    type=_options.PATH,
    help="Write every false alarm and miss on the tapes here (TSV): when, which word, "
    "its score, what was said there if that is known.",
)
@click.option(
    "--cut",
    type=_options.PATH,
    help="Folder to cut each false alarm on the tapes out to, as long as RUN's clips: "
    "to hear it, or to train with it (kws train --also).",
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
@click.option(
    "--late",
    "late_ms",
    type=int,
    default=0,
    show_default=True,
    help="With --after: judge the decision that comes this many ms after the clip's "
    "end, in silence. A stream goes on; a word that ends with its clip is heard then.",
)
@_options.jobs
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    split: str,
    engine_names: tuple[str, ...],
    board_name: str | None,
    limit: int | None,
    data: Path | None,
    also: tuple[Path, ...],
    tape: tuple[Path, ...],
    events: Path | None,
    cut: Path | None,
    truth: Path | None,
    after: str,
    late_ms: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Measure RUN on the clips of a split or, with --tape, on long recordings.

    Every figure comes with its task, the number of clips and a 95 % interval; of tapes,
    with the hours and the kind of sound. Where names tell who speaks, a second interval
    says how far it varies from person to person, and who is heard worst.
    """
    from kws import bundle as bundles
    from kws import engines
    from kws.errors import KwsError, quoted

    names = [engines.canonical(name) for name in engine_names]
    if tape:
        why = "A tape (--tape) is heard as a whole, and from its beginning."
        _options.heed(ctx, OF_CLIPS, why)
    elif set(names) == {"float"}:
        why = "Keras (--engine float) shares the work out by itself."
        _options.heed(ctx, ["--jobs"], why)
    _check(run, names, board_name, tape, truth, events or cut)
    if events is not None and (heard := _overwritten(events, tape, truth)):
        raise KwsError(
            f"--events would be written over what is read. Received: {heard}",
            f"--events {quoted(events.with_name('events.tsv'))}",
        )
    bundle = bundles.load(run)
    if tape:
        _tapes(bundle, tape, truth, names[0], events, cut, as_json)
        return
    from kws import data as datasets
    from kws.evaluate import agreement, check_after, evaluate_clips

    for name in names:
        check_after(bundle, name, after, late_ms, run)
        if engines.get(name).INTEGER:
            bundle.model_bytes()  # refused before clips are read: not converted yet
    folders = datasets.of_run(bundle, data, also)
    clips = datasets.load(
        split, bundle.recipe.task, folders.data, limit=limit, also=folders.also
    )
    jobs = jobs or os.cpu_count() or 1
    results = [
        evaluate_clips(bundle, clips, name, board_name, jobs, after, late_ms)
        for name in names
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
    run: str,
    names: list[str],
    board: str | None,
    tape: tuple[Path, ...],
    truth: Path | None,
    faults: Path | None,
) -> None:
    """Refuse what would be left unheeded, or fail late."""
    from kws.data.tape import files
    from kws.deploy import boards
    from kws.engines import qemu
    from kws.errors import KwsError, quoted

    command = f"kws eval {quoted(run)}"
    if board is not None:
        boards.load(board)
    if board is not None and "qemu" not in names:
        raise KwsError(
            f"Only the engine qemu runs on a board. Received: --board {board} "
            f"--engine {','.join(names)}",
            f"{command} --engine qemu --board {board}",
        )
    if "qemu" in names and not tape:
        qemu.emulated(board)
    if truth is not None and len(found := files(tape)) != 1:
        one = found[0] if found else "tape.wav"
        raise KwsError(
            f"--truth is what is said on one tape. Received: --truth {truth}, "
            f"{'several tapes' if found else 'no --tape'}",
            f"{command} --tape {quoted(one)} --truth {quoted(truth)}",
        )
    if faults is not None and not tape:
        raise KwsError(
            "--events and --cut tell what was heard on tapes. Received: no --tape",
            f"{command} --tape tape.wav --events {quoted(faults)}",
        )
    if not tape:
        return
    from kws import tapes

    command = " ".join([command, *(f"--tape {quoted(path)}" for path in tape)])
    for name in names:
        tapes.check_engine(name, command)
    if len(names) > 1:
        raise KwsError(
            f"A tape runs through one engine. Received: --engine {','.join(names)}",
            f"{command} --engine {names[0]}",
        )


def _overwritten(
    events: Path, tape: tuple[Path, ...], truth: Path | None
) -> Path | None:
    """A tape, or what is said on it, that --events names."""
    from kws.data import tape as tapes

    read = [] if truth is None else [truth]
    for path in tapes.files(tape):
        read.append(path)
        read += [path.with_suffix(end) for end in (*tapes.TRUTHS, tapes.SIDE)]
    names = {path.resolve(): path for path in read}
    return names.get(events.resolve())


def _print(result: Evaluation) -> None:
    from kws.evaluate import CUTS, describe

    click.echo(f"{describe(result)}, {result.seconds:.1f} s")
    if result.speakers is not None:
        click.echo(result.speakers.text())
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


def _tapes(
    bundle: Any,
    paths: tuple[Path, ...],
    truth: Path | None,
    engine: str,
    events: Path | None,
    cut: Path | None,
    as_json: bool,
) -> None:
    from kws import tapes
    from kws.bundle import check_folder
    from kws.data.tape import describe, files, opened

    if events is not None:
        tapes.check_findings(events)
    if cut is not None:
        check_folder(cut, cut, "--cut")
    found = files(paths)
    recordings = opened(found, bundle.labels, truth)
    result = tapes.evaluate(bundle, recordings, engine, events is not None, cut)
    if events is not None:
        tapes.write_findings(events, result.findings)
    table = result.as_dict()
    if as_json:
        names = [str(path) for path in found]
        head = {"tape": names[0] if len(names) == 1 else names, "engine": engine}
        click.echo(json.dumps(head | table))
        return
    for heard in result.tapes:
        click.echo(f"{heard.name} ({heard.kind}): {describe(heard.score)}")
    if len(result.tapes) > 1:
        click.echo(f"Together: {describe(result.score)}")
    if result.speakers is not None:
        click.echo(result.speakers.text(missed=True))
    for word, counts in table["per_word"].items():
        click.echo(
            f"  {word:<16} {counts['hits']:>4} heard {counts['misses']:>4} missed "
            f"{counts['false_alarms']:>4} false alarms"
        )
    for what, steps in (
        ("dB louder", table["snr_db"]),
        ("dBFS", {} if table["snr_db"] else table["loudness_dbfs"]),
    ):
        for step, counts in steps.items():
            click.echo(
                f"  {f'{step} {what}':<20} {counts['missed']:>4} of "
                f"{counts['words']:>4} words missed"
            )
    if events is not None:
        click.echo(f"Wrote {events}")
    if cut is not None:
        some = any(finding.cut for finding in result.findings)
        click.echo(f"Wrote {cut}" if some else "No false alarm: nothing was cut out")
