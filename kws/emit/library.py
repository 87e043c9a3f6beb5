"""A bundle as a library for a firmware of the user's own.

One folder that is an Arduino library (library.properties), a PlatformIO library
(library.json) and a Zephyr module (zephyr/module.yml): the emitted model and the
firmware's sources in one flat src/, an example for each, a README. The folder's
templates are firmware/library; `@NAME@` and the like are filled in.

It serves every core: the model is in it once for each layout of weights, and the
compiler, which knows the core, takes the one that its kernels read (kws_kernels.h).
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from kws import __version__, emit
from kws.bundle import Bundle
from kws.emit import common, native
from kws.errors import KwsError
from kws.graph.weight_layout import CORES
from kws.paths import FIRMWARE, LICENSE

TEMPLATES = FIRMWARE / "library"
MARK = "library.properties"  # what an earlier export is known by
# The ports of this project's own boards are not a library's business.
LEFT_OUT = ("kws_board.h",)
MAX_NAME = 40  # PlatformIO takes 50 characters, Arduino 63
MAX_WORDS = 8  # in a description, of which PlatformIO takes 255 characters
MAX_WORD = 16


def export(bundle: Bundle, out_dir: Path, logits: np.ndarray) -> emit.Emitted:
    """Write the library.

    Args:
        bundle: With a model.tflite.
        out_dir: A new or empty folder, or an earlier export, which is replaced.
        logits: int8 [labels]: what the self-test's clip must give.

    Returns:
        The files; sizes and costs on the core where they are largest.

    Raises:
        KwsError: the model can't be emitted, or the folder holds something else.
    """
    check_folder(out_dir)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out_dir.parent, prefix=f".{out_dir.name}."
        ) as name:
            made = Path(name) / "library"
            result = _write(bundle, made, logits)
            if out_dir.exists():
                out_dir.replace(Path(name) / "before")
            made.replace(out_dir)
    except OSError as error:
        raise KwsError(
            f"The library can't be written: {error.strerror}. Received: {out_dir}",
            "Name another folder with --out.",
        ) from None
    files = tuple(path for path in sorted(out_dir.rglob("*")) if path.is_file())
    return dataclasses.replace(result, files=files)


def check_folder(out_dir: Path) -> None:
    """Raises KwsError where a folder holds something else than an earlier export."""
    occupied = out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir()))
    if occupied and not _is_export(out_dir):
        raise KwsError(
            "The folder holds something else. Expected a new or empty one, or an "
            f"earlier export. Received: {out_dir}",
            "kws emit RUN --format library --out kws-library",
        )


def _is_export(folder: Path) -> bool:
    mark = folder / MARK
    return mark.is_file() and "Made by kws emit" in mark.read_text("utf-8", "replace")


def _write(bundle: Bundle, folder: Path, logits: np.ndarray) -> emit.Emitted:
    source = folder / "src"
    result = emit.emit(bundle, source, logits)
    (source / common.MODEL).unlink()
    for core in CORES:
        made = native.sources(bundle, core)
        only = f'#include "kws_kernels.h"\n\n#if defined(KWS_CORE_{core.upper()})\n'
        text = f"{only}{made.texts[common.MODEL]}\n#endif\n"
        (source / f"{Path(common.MODEL).stem}_{core}.c").write_text(text, "ascii")
        result = dataclasses.replace(
            result,
            arena_bytes=max(result.arena_bytes, made.network.arena_bytes),
            weights_bytes=max(result.weights_bytes, made.network.weights_bytes),
        )
    firmware = [*FIRMWARE.glob("src/*.[ch]"), *FIRMWARE.glob("include/*.h")]
    for path in firmware:
        if path.name not in LEFT_OUT:
            shutil.copyfile(path, source / path.name)
    shutil.copyfile(LICENSE, folder / "LICENSE")
    values = _values(bundle, result)
    for path in sorted(TEMPLATES.rglob("*")):
        if path.is_dir():
            continue
        text = path.read_text("utf-8")
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        target = folder / path.relative_to(TEMPLATES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    return result


def _values(bundle: Bundle, result: emit.Emitted) -> dict[str, str]:
    features, detector = bundle.recipe.features, bundle.recipe.detector
    ring = 2 * common.ring_samples(detector.hop_frames * features.hop)
    window = features.frames * features.mel_bins
    name = name_of(bundle.recipe.name)
    return {
        "NAME": name,
        "MODULE": name.replace("-", "_"),
        "VERSION": __version__,
        "RECIPE": name.removeprefix("kws-"),
        "WORDS": words_of(bundle.labels),
        "HASH": bundle.hash[:16],
        "WEIGHTS": f"{result.weights_bytes:,}",
        "MEMORY": f"{result.arena_bytes + ring + window:,}",
    }


def name_of(recipe: str) -> str:
    """A name that Arduino, PlatformIO and Zephyr take.

    Example:
        >>> name_of("My spotter (v2)")
        'kws-my-spotter-v2'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.lower().removeprefix("kws-")).strip("-")
    return f"kws-{slug or 'model'}"[:MAX_NAME].rstrip("-")


def words_of(labels: tuple[str, ...]) -> str:
    """The words for a description: plain characters, and not too many.

    Example:
        >>> words_of(("_silence_", "yes", "no"))
        'yes, no'
    """
    words = [
        re.sub(r"[^\w' -]", "?", label)[:MAX_WORD]
        for label in labels
        if not label.startswith("_")
    ]
    more = len(words) - MAX_WORDS
    return ", ".join(words[:MAX_WORDS]) + (f" and {more} more" if more > 0 else "")
