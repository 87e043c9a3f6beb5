"""Make a run of the published KWT-1 (float .tflite)."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(
    epilog="Example: kws import-kwt kwt1/non_stream.tflite --out runs/kwt1",
)
@click.argument("file", type=_options.PATH)
@_options.out("Folder of the run.", required=True)
@_options.json
def command(file: Path, out: Path, as_json: bool) -> None:
    """Make a run of the published Keyword Transformer FILE.

    Its weights go into our network, and the logits of both are compared before
    anything is written.
    """
    from kws.cli._run import next_line
    from kws.model.import_kwt import TOLERANCE, import_kwt

    click.echo(f"Reading {file}", err=True)
    bundle = import_kwt(file, out)
    facts = bundle.metrics["import"]
    if as_json:
        table = {
            "run": str(out),
            "task": bundle.recipe.task.name,
            "labels": list(bundle.labels),
            "layers": bundle.recipe.model.layers,
            "logit_difference": facts["logit_difference"],
            "clips": facts["clips"],
            "sha256": facts["sha256"],
        }
        click.echo(json.dumps(table))
        return
    click.echo(
        f"Logits agree with the file's within {facts['logit_difference']:.1e} on "
        f"{facts['clips']} clips (allowed: {TOLERANCE:.0e})."
    )
    click.echo(f"Wrote {out}")
    click.echo(next_line("kws", "simulate", out, "--theta", "X=0.3,Q=0.3,K=0.3"))
