"""What one inference costs: each layer's instructions, MACs, bytes; flash and RAM."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kws.cli import _options

PLUGGED_IN = ("--probe", "--port")  # of real boards


@click.command(
    epilog="Examples: kws profile kwt-tiny --board qemu-m4   |   "
    "kws profile kwt-tiny --board nrf52840dk --on qemu-m4"
)
@_options.bundle
@_options.board(default="host", show_default=True)
@click.option(
    "--on",
    "measure_on",
    help="Emulated board that counts, in place of a real one that is not at hand.",
)
@_options.probe
@_options.port
@_options.audio
@_options.battery
@click.option("--operators", is_flag=True, help="A line for every operator too.")
@click.option(
    "--bytes",
    "show_bytes",
    is_flag=True,
    help="Bytes a second, weights as the schedule reads them, and two energies.",
)
@_options.out("Folder of the build.")
@_options.compiler
@_options.json
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    board_name: str,
    measure_on: str | None,
    probe: str | None,
    port: str | None,
    audio: Path | None,
    battery: float | None,
    operators: bool,
    show_bytes: bool,
    out: Path | None,
    compiler: str | None,
    as_json: bool,
) -> None:
    """Profile RUN on a board: measured cost by layer, counted MACs and bytes, memory.

    The board host is this machine; --on is an emulated board in place of a real one.
    A recording (--audio) is run window by window, at most 8, for the split over layers,
    and whole, as one stream, for the cost of a second; what delta pruning skips depends
    on it. Without one it is the self-test's synthetic clip.

    Emulated boards count instructions exactly; they are not cycles. Bytes are those
    touched, each operator on its own, without a cache (kws/graph/cost.py); --bytes says
    how often the schedule reads the weights, what a cache in front of external flash
    would leave, and the energy of it beside the board's power times its time.
    """
    from kws import bundle as bundles
    from kws.cli._ask import ask
    from kws.deploy import boards, energy, flash, profile
    from kws.deploy.runners import Job
    from kws.graph import cost

    _check(ctx, board_name, measure_on)
    bundle = bundles.load(run)
    windows, name, sound = None, "self-test clip (synthetic)", None
    if audio is not None:
        sound = flash.read_stream(audio)
        windows = profile.audio_windows(bundle, sound)
        name = audio.name
    if board_name == profile.HOST:
        result = profile.on_host(bundle, windows, name)
        if sound is not None:
            result = profile.as_stream(result, bundle, sound)
    else:
        board = boards.load(board_name)
        folder = out or flash.output_folder(bundle, board)
        click.echo(f"Building for {board.name} in {folder}", err=True)
        result = profile.on_board(
            bundle,
            board,
            folder,
            compiler,
            windows,
            name,
            boards.load(measure_on) if measure_on else None,
            Job(run=run, probe=probe, ask=ask()),
            port,
        )
        if sound is not None:
            counts = boards.load(measure_on) if measure_on else board
            emulated = counts if flash.is_emulated(counts) else None
            result = profile.as_stream(
                result, bundle, sound, emulated, folder, compiler
            )
    budget = energy.Budget(result.pace, battery) if result.pace else None
    if as_json:
        table = result.as_dict() | (budget.as_dict() if budget else {})
        if show_bytes:
            table["traffic"] = result.traffic.as_dict()
        click.echo(json.dumps(table))
        return
    plural = "s" if result.windows > 1 else ""
    click.echo(f"board     {result.board}")
    click.echo(f"model     {result.model}, hash {result.hash}, engine {profile.ENGINE}")
    click.echo(f"audio     {result.windows} window{plural}: {result.audio}")
    click.echo("")
    click.echo(result.table(operators))
    click.echo("")
    click.echo(
        result.traffic.text()
        if show_bytes
        else cost.text(result.total.executed.as_dict())
    )
    click.echo("")
    click.echo(f"inference {result.cost:>12,} {result.unit}, {result.time_ms:.1f} ms")
    click.echo(f"          {result.time_note}")
    if result.feature_cost is not None:
        every = f"every {bundle.recipe.features.hop_ms:g} ms"
        click.echo(f"features  {result.feature_cost:>12,} {result.unit} {every}")
    if result.fit is not None:
        click.echo(result.fit.table())
        for section, size in result.sections.items():
            click.echo(f"  {section:<16}{size:>10,} bytes")
    click.echo(f"weights   {result.weights_bytes:>12,} bytes")
    click.echo(f"arena     {result.arena_bytes:>12,} bytes")
    if result.stack_bytes is not None:
        click.echo(f"stack     {result.stack_bytes:>12,} bytes used")
    if result.per_second is not None:
        click.echo("")
        click.echo(result.per_second.text())
    if result.pace is not None and (warning := result.pace.warning(run)):
        click.echo(warning, err=True)
    if result.energy is not None:
        click.echo(
            f"energy    {result.energy.inference_uj:,.0f} uJ per inference: an "
            f"ESTIMATE, from {result.energy.source}"
        )
    if budget is not None:
        click.echo(budget.text())


def _check(ctx: click.Context, board_name: str, measure_on: str | None) -> None:
    """Refuse what would be left unheeded, before anything is built."""
    from kws.deploy import boards, flash, profile

    if board_name == profile.HOST:
        of_boards = ("--on", *PLUGGED_IN, "--battery", "--out", "--compiler")
        why = "This machine (--board host) is no board: its time is measured."
        _options.heed(ctx, of_boards, why)
        return
    counting = boards.load(measure_on or board_name)
    if flash.is_emulated(counting):
        why = f"{counting.name} is emulated, and counts here."
        _options.heed(ctx, PLUGGED_IN, why)
