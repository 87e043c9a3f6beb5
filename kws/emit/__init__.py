"""Write a bundle as C: everything that firmware/include/kws_model.h declares.

    native.py    the network as C; calls.py has a function for each operator
    tflm.py      the .tflite with TensorFlow Lite Micro to run it
    step_model.py  a step of a stream as a .tflite, for that
    selftest.py  a synthetic clip, and the logits that it must give
    library.py   one folder for Arduino, PlatformIO and Zephyr
    common.py    what the engines share: checks, tables of the loop
    c_text.py    literals, arrays and structs as C

Nothing is run here: what a run has to tell (the self-test's logits, TFLM's arena) is
given (kws.deploy.emission measures it).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.bundle import Bundle
from kws.emit import common, native, selftest, step_model, tflm
from kws.emit.common import FEATURES, MODEL, SELFTEST, Sources
from kws.errors import KwsError, quoted
from kws.graph.cost import Count

ENGINES = ("native", "tflm")
FILES = (MODEL, FEATURES, SELFTEST)


@dataclass(frozen=True)
class Emitted:
    """What was written.

    Args:
        files: What a firmware is built from, and with tflm the model itself.
        arena_bytes: The model's static working memory.
        weights_bytes: The model's constant data.
        dense: What one inference costs with nothing skipped.
    """

    files: tuple[Path, ...]
    arena_bytes: int
    weights_bytes: int
    dense: Count


def emit(
    bundle: Bundle,
    out_dir: Path,
    logits: np.ndarray,
    core: str = "portable",
    engine: str = "native",
    arena_bytes: int = 0,
    stream: bool = False,
) -> Emitted:
    """Write the bundle's C files for one core into a folder.

    Args:
        bundle: With a model.tflite.
        out_dir: Made if needed; of what is in it only the engines' files are replaced.
        logits: int8 [labels]: what the self-test's clip must give.
        core: `portable`, `dsp` (Cortex-M4, M7, M33) or `mve` (M55, M85).
        engine: `native`, or `tflm` (TensorFlow Lite Micro).
        arena_bytes: For `tflm`: the smallest arena in which it runs the model.
        stream: For `tflm`: a step of a stream instead of the clip, dense.

    Raises:
        KwsError: the model has operators or shapes that the engine doesn't run, it
            doesn't fit the recipe's features or labels, core or engine is unknown, or
            the folder is a run's.
    """
    if (out_dir / "bundle.json").is_file():
        raise KwsError(
            "The folder is a run's: emitted files would replace its model.tflite. "
            f"Expected another folder. Received: {str(out_dir)!r}",
            f"--out {quoted(out_dir / 'model')}",
        )
    sources = engine_sources(bundle, core, engine, arena_bytes, stream)
    clip = selftest.clip(bundle.recipe.features.clip_samples)
    texts = {**sources.texts, SELFTEST: selftest.source(logits, clip)}
    files = {name: text.encode("ascii") for name, text in texts.items()}
    files |= sources.binaries
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir) as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            # The network goes first and comes last: whatever ends this in between, no
            # folder holds one model's network with another's tables.
            (out_dir / MODEL).unlink(missing_ok=True)
            for name in (*FILES, *tflm.FILES):
                if name not in files:  # another engine's, which would be built along
                    (out_dir / name).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name == MODEL):
                (Path(folder) / name).replace(out_dir / name)
    except OSError as error:
        raise KwsError(
            f"The C files can't be written: {error.strerror}. Received: {out_dir}",
            "Name another folder with --out.",
        ) from None
    network = sources.network
    return Emitted(
        tuple(out_dir / name for name in sorted(files)),
        network.arena_bytes,
        network.weights_bytes,
        network.dense,
    )


def engine_sources(
    bundle: Bundle,
    core: str,
    engine: str,
    arena_bytes: int = 0,
    stream: bool = False,
) -> Sources:
    """The files of one of `ENGINES`, but for the self-test.

    Raises:
        KwsError: no such engine, or what it can't do with the bundle.
    """
    check_target(core, engine)
    if engine == "native":
        return native.sources(bundle, core)
    step = None
    if stream:
        step = step_model.build(bundle.model_bytes(), str(bundle.model_path))
    return tflm.sources(bundle, core, arena_bytes, step)


def check_target(core: str, engine: str = "native") -> None:
    """Raises KwsError where there is no such core or engine."""
    common.check_core(core)
    if engine not in ENGINES:
        raise KwsError(
            f"No such engine. Expected one of {', '.join(ENGINES)}. "
            f"Received: {engine!r}",
            "kws emit RUN --engine native --out DIR",
        )


__all__ = [
    "ENGINES",
    "FILES",
    "Emitted",
    "Sources",
    "check_target",
    "common",
    "emit",
    "engine_sources",
    "native",
    "selftest",
    "tflm",
]
