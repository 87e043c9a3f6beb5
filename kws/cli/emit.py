"""Write a run as C for a core, as a library, or as one page for a browser."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(epilog="Example: kws emit runs/tiny --out build/model --core dsp")
@_options.bundle
@_options.out("Folder to write; with --format web the page.", required=True)
@click.option(
    "--core",
    type=click.Choice(["portable", "dsp", "mve"]),
    help="portable: any; dsp: Cortex-M4, M7, M33; mve: M55, M85 [default: dsp; a "
    "library serves them all].",
)
@_options.engine
@_options.step
@click.option(
    "--format",
    "form",
    type=click.Choice(["c", "library", "web"]),
    default="c",
    show_default=True,
    help="library: for Arduino, PlatformIO and Zephyr, sources and examples included; "
    "web: the page of kws live in one file, to send to somebody.",
)
@_options.json
def command(
    run: str,
    out: Path,
    core: str | None,
    engine: str,
    stream: bool,
    form: str,
    as_json: bool,
) -> None:
    """Write RUN's network as C that defines what firmware/include/kws_model.h asks.

    With --engine tflm also the plain .tflite and model_data.cc, model_data.h, for a
    firmware of your own that has TensorFlow Lite Micro; with --step as well, of a
    causal network, a step at a time.
    """
    from kws import bundle as bundles
    from kws.deploy import emission, web
    from kws.errors import KwsError, quoted

    if form != "c" and (engine != "native" or core is not None):
        what = {
            "library": "A library holds the network as C, for every core: the compiler "
            "chooses.",
            "web": "A page holds the network as WebAssembly, for a browser.",
        }[form]
        raise KwsError(
            f"{what} Expected --engine native and no --core. "
            f"Received: --engine {engine}{f' --core {core}' if core else ''}",
            f"kws emit {quoted(run)} --format {form} --out {quoted(out)}",
        )
    bundle = bundles.load(run)
    emission.check_step(
        bundle,
        stream,
        engine,
        lambda run: f"kws emit {quoted(run)} --out {quoted(out)}",
    )
    if form == "web":
        page = web.emit(bundle, out)
        size = page.stat().st_size
        if as_json:
            named = {"format": form, "hash": bundle.hash[:16]}
            click.echo(json.dumps({**named, "files": [str(page)], "bytes": size}))
        else:
            click.echo(f"{page} ({size:,} bytes): open it in a browser")
        return
    if form == "library":
        result, core = emission.export_library(bundle, out), "any"
    else:
        core = core or "dsp"
        result = emission.emit_bundle(bundle, out, core, engine, stream)
    if as_json:
        table = {
            "core": core,
            "engine": engine,
            "stream": stream,
            "format": form,
            "hash": bundle.hash[:16],
            "files": [str(path) for path in result.files],
            "arena_bytes": result.arena_bytes,
            "weights_bytes": result.weights_bytes,
            "macs": result.dense.macs,
            "bytes": result.dense.as_dict()["bytes"],
        }
        click.echo(json.dumps(table))
        return
    for path in result.files:
        click.echo(str(path))
    click.echo(
        f"core {core}: {result.dense.macs:,} multiply-accumulates, arena "
        f"{result.arena_bytes:,} bytes, constants {result.weights_bytes:,} bytes"
    )
