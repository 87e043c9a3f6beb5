"""Emit with what only a run can tell: the self-test's logits, TFLM's arena.

kws.emit writes files and runs nothing; what it asks for is measured here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from kws import emit
from kws.bundle import Bundle
from kws.deploy import host, tflm_arena
from kws.emit import Emitted, library, native, step_model
from kws.errors import KwsError
from kws.graph import cost
from kws.graph.cost import Count
from kws.graph.products import Product


def emit_bundle(
    bundle: Bundle,
    out_dir: Path,
    core: str = "portable",
    engine: str = "native",
    stream: bool = False,
) -> Emitted:
    """Write the bundle's C files for one core into a folder; see `kws.emit.emit`.

    `stream` is for the engine tflm: what it runs is dense, whatever the thresholds.

    The self-test's logits are the native engine's on this machine: the same C gives
    the same bits on the board (DESIGN D1), and so does TFLM (D3).

    Example:
        >>> import tempfile
        >>> from kws import bundle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     emitted = emit_bundle(bundle.load("kwt-tiny"), Path(folder), "dsp")
        >>> emitted.dense.macs
        2060400
    """
    emit.check_target(core, engine)  # before time is spent
    emit.check_folder(out_dir)
    model = bundle.model_bytes()
    if stream:
        bundle = dataclasses.replace(bundle, thresholds={})
        model = step_model.build(model, str(bundle.model_path)).data
    logits, _ = host.selftest_run(bundle)
    arena = tflm_arena.measure(model) if engine == "tflm" else 0
    return emit.emit(bundle, out_dir, logits, core, engine, arena, stream)


def check_step(
    bundle: Bundle, step: bool, engine: str, typed: Callable[[object], str]
) -> None:
    """Refuse a step form of an engine that needs none, or of a network that has none.

    Args:
        bundle: The run.
        step: Whether it is asked for.
        engine: `native` or `tflm`.
        typed: What was typed, of a run, for the hint.

    Raises:
        KwsError: as above.
    """
    if not step:
        return
    if not bundle.recipe.model.causal:
        raise KwsError(
            "Only a network for streams has steps. Expected one with [model] causal = "
            f"true for --step. Received: {bundle.recipe.name}",
            f"{typed('kwt-stream-tiny')} --engine tflm --step",
        )
    if engine != "tflm":
        raise KwsError(
            "The native engine runs every causal network as a stream, by itself. "
            f"Expected --engine tflm with --step. Received: --engine {engine}",
            f"{typed(bundle.path)} --engine tflm --step",
        )


def export_library(bundle: Bundle, out_dir: Path) -> Emitted:
    """Write the bundle as a library of the user's own; see `kws.emit.library`."""
    library.check_folder(out_dir)
    return library.export(bundle, out_dir, host.selftest_run(bundle)[0])


def selftest_cost(
    bundle: Bundle, core: str = "portable", engine: str = "native"
) -> tuple[Count, Count]:
    """What one run on the self-test's clip costs, by kws.graph.cost.

    Args:
        bundle: With a model.tflite.
        core: Of the board.
        engine: `native` or `tflm`.

    Returns:
        With nothing skipped; as it runs.
    """
    _, sent = host.selftest_run(bundle)
    network = native.sources(bundle, "portable").network
    # An interpreter runs the whole clip, where a stream's step is a token.
    counts = sent.tolist() if engine == "tflm" else network.per_run(sent.tolist())
    here = network.transmitted(counts)
    there = emit.engine_sources(bundle, core, engine).network
    return there.dense, cost.total(there.nodes, cost.noted(here))


def products(bundle: Bundle, core: str = "portable") -> tuple[Product, ...]:
    """The model's table of products that skip, as the native engine has it."""
    return native.sources(bundle, core).network.products
