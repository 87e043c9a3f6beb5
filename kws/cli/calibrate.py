"""Choose a run's detector on tapes: fewest misses at a rate of false alarms."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from kws.cli import _options

EPILOG = """\b
Examples:
  kws calibrate runs/tiny --tape tapes --false-alarms 0.5
  kws calibrate runs/tiny --tape words.wav --tape speech.wav --max-misses 0.05
"""


@click.command(epilog=EPILOG)
@_options.bundle
@_options.tape(required=True)
@_options.false_alarms
@click.option(
    "--max-misses",
    type=_options.Number(0.0, 1.0),
    help="Instead: the largest share of words missed, 0.05 say; then the fewest false "
    "alarms are taken.",
)
@_options.json
def command(
    run: str,
    tape: tuple[Path, ...],
    false_alarms: float | None,
    max_misses: float | None,
    as_json: bool,
) -> None:
    """Choose RUN's threshold, smoothing, re-arm level and refractory time on tapes.

    The board's C runs once over the tapes; the same detector then hears the decisions
    with thousands of settings. What is chosen goes into RUN: neither training nor
    conversion is needed, but the firmware has to be built again. RUN also gets
    operating_points.json, misses against false alarms an hour, for kws report.

    Take tapes of validation sound, and measure on others: kws eval RUN --tape.
    """
    from kws import bundle as bundles
    from kws import operating_points
    from kws.cli._run import next_line
    from kws.data.tape import files
    from kws.errors import KwsError, quoted

    if false_alarms is not None and max_misses is not None:
        raise KwsError(
            "Expected one aim. Received: --false-alarms and --max-misses",
            f"kws calibrate {quoted(run)} --tape {quoted(tape[0])} --false-alarms "
            f"{false_alarms:g}",
        )
    if max_misses is None and false_alarms is None:
        false_alarms = operating_points.FALSE_ALARMS
    bundle = bundles.load(run)
    operating_points.check_own(bundle)
    aim = operating_points.Aim(false_alarms, max_misses)
    paths = files(tape)
    words = ["kws", "calibrate", run]
    for path in tape:
        words += ["--tape", str(path)]

    table = operating_points.calibrate(
        bundle,
        paths,
        aim,
        shlex.join(words),
        lambda line: click.echo(line, err=True),
    )
    if as_json:
        shown = {key: value for key, value in table.items() if key != "curve"}
        click.echo(json.dumps(shown))
    else:
        _print(table)
        click.echo(
            f"Wrote {bundle.path}: [detector] of recipe.toml, {operating_points.FILE}"
        )
        click.echo("Measure it on tapes that it was not chosen on (kws eval --tape).")
    _warn(table)
    if not as_json:
        click.echo(next_line("kws", "report", run))


def _print(table: dict[str, Any]) -> None:
    from kws.data.tape import describe_figures

    for name, text in (
        ("before", "before"),
        ("after", "after"),
        ("held_out", "expected of other sound"),
    ):
        click.echo(f"{text + ':':<24} {describe_figures(table[name])}")
    for kind, figures in table["after"]["kinds"].items():
        click.echo(f"  {kind + ':':<22} {describe_figures(figures)}")
    detector = table["after"]["detector"]
    click.echo(
        f"smoothing {detector['smoothing']} decisions, refractory "
        f"{detector['refractory_ms']} ms, re-arm {detector['rearm']}, threshold "
        f"{detector['threshold']}"
    )
    if table["own_thresholds"]:
        own = table["after"]["per_word"]
        click.echo(
            "thresholds of their own: "
            + ", ".join(f"{w} {own[w]['threshold']}" for w in table["own_thresholds"])
        )
    if table["why_common"]:
        which = "the other" if table["own_thresholds"] else "all"
        click.echo(f"one threshold for {which} words: {table['why_common']}")


def _warn(table: dict[str, Any]) -> None:
    """Say what the tapes can't tell."""
    from kws.intervals import poisson_interval
    from kws.tapes import hours_needed

    wanted, hours = table["aim"]["false_alarms"], table["hours"]
    if wanted is None:
        return
    if wanted * hours < poisson_interval(0)[1]:
        needed = (
            f"{hours_needed(wanted):.1f} h without one would say so."
            if wanted
            else "No length of tape says none."
        )
        click.echo(
            f"The tapes are too short to state {wanted:g} false alarms an hour: none "
            f"in {hours:.2f} h still allows {poisson_interval(0)[1] / hours:.2f} "
            f"(95 %). {needed}",
            err=True,
        )
    if table["after"]["missed"] == table["words"]:
        click.echo("With these settings every word is missed.", err=True)
