"""Write a run as C for a core, or as a library for Arduino, PlatformIO, Zephyr."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(epilog="Example: kws emit runs/tiny --out build/model --core dsp")
@click.argument("run")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option(
    "--core",
    type=click.Choice(["portable", "dsp", "mve"]),
    help="portable: any; dsp: Cortex-M4, M7, M33; mve: M55, M85 [default: dsp; a "
    "library serves them all].",
)
@click.option(
    "--engine",
    type=click.Choice(["native", "tflm"]),
    default="native",
    show_default=True,
    help="native: the network as C; tflm: for TensorFlow Lite Micro.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["c", "library"]),
    default="c",
    show_default=True,
    help="library: for Arduino, PlatformIO and Zephyr, sources and examples included.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run: str, out: Path, core: str | None, engine: str, form: str, as_json: bool
) -> None:
    """Write RUN's network as C that defines what firmware/include/kws_model.h asks.

    With --engine tflm also the plain .tflite and model_data.cc, model_data.h, for a
    firmware of your own that has TensorFlow Lite Micro.
    """
    from kws import bundle as bundles
    from kws.deploy import library
    from kws.deploy.emit import emit
    from kws.errors import KwsError

    if form == "library" and (engine != "native" or core is not None):
        raise KwsError(
            "A library holds the network as C, for every core: the compiler chooses. "
            "Expected --engine native and no --core. "
            f"Received: --engine {engine} --core {core}",
            f"kws emit {run} --format library --out {out}",
        )
    bundle = bundles.load(run)
    if form == "library":
        result, core = library.export(bundle, out), "any"
    else:
        core = core or "dsp"
        result = emit(bundle, out, core, engine)
    if as_json:
        table = {
            "core": core,
            "engine": engine,
            "format": form,
            "hash": bundle.hash[:16],
            "files": [str(path) for path in result.files],
            "arena_bytes": result.arena_bytes,
            "weights_bytes": result.weights_bytes,
            "macs": result.macs,
        }
        click.echo(json.dumps(table))
        return
    for path in result.files:
        click.echo(str(path))
    click.echo(
        f"core {core}: {result.macs:,} multiply-accumulates, arena "
        f"{result.arena_bytes:,} bytes, constants {result.weights_bytes:,} bytes"
    )
