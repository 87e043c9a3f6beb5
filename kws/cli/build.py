"""Build the firmware of a run for a board: .elf, .bin, .hex, .uf2; what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options


@click.command(epilog="Example: kws build runs/tiny --board qemu-m4")
@_options.bundle
@_options.board(required=True)
@_options.out("Folder of the build.")
@click.option(
    "--app",
    type=click.Choice(["main", "clips"]),
    default="main",
    show_default=True,
    help="main listens; clips evaluates clips in an emulator.",
)
@_options.engine
@_options.step
@_options.compiler
@_options.json
def command(
    run: str,
    board_name: str,
    out: Path | None,
    app: str,
    engine: str,
    stream: bool,
    compiler: str | None,
    as_json: bool,
) -> None:
    """Emit RUN as C and build the firmware for a board, in every format it takes.

    A model that the real part could not hold is refused (exit code 2).
    """
    from kws import bundle as bundles
    from kws.deploy import boards, emission, flash, formats, pace
    from kws.errors import quoted

    board = boards.load(board_name)
    bundle = bundles.load(run)
    emission.check_step(
        bundle,
        stream,
        engine,
        lambda run: f"kws build {quoted(run)} --board {board_name}",
    )
    folder = out or flash.output_folder(bundle, board)
    click.echo(f"Building for {board.name} in {folder}", err=True)
    image = flash.emit_and_build(bundle, board, folder, app, compiler, engine, stream)
    if app == "main" and engine == "native":
        paced = pace.measure(bundle, board, compiler)
        if paced and (warning := paced.warning(run)):
            click.echo(warning, err=True)
    files = formats.write(image.elf, board)
    if as_json:
        table = {
            "board": board.name,
            "app": app,
            "engine": engine,
            **{file.path.suffix[1:]: str(file.path) for file in files},
            "file_bytes": {file.path.suffix[1:]: file.bytes for file in files},
            "map": str(image.map),
            "compiler": image.compiler,
            "hash": bundle.hash[: flash.HASH_DIGITS],
            **image.fit.as_dict(),
        }
        click.echo(json.dumps(table))
        return
    click.echo(f"built     with {image.compiler}")
    for file in files:
        click.echo(f"{file.path}  {file.bytes:,} bytes, {file.note}")
    click.echo(image.fit.table())
    click.echo(
        "largest   " + ", ".join(f"{n} {s:,}" for n, s, _ in image.fit.largest[:5])
    )
