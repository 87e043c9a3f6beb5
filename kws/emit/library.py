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
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from kws import __version__, emit
from kws.bundle import Bundle
from kws.emit import common, native
from kws.errors import KwsError, quoted
from kws.graph.weight_layout import CORES
from kws.paths import FIRMWARE, LICENSE

TEMPLATES = FIRMWARE / "library"
TABLE = ".kws-files.json"  # what was written, by name and SHA-256
MAX_TABLE_BYTES = 1 << 20
# The ports of this project's own boards are not a library's business.
LEFT_OUT = ("kws_board.h",)
MAX_NAME = 40  # PlatformIO takes 50 characters, Arduino 63
MAX_WORDS = 8  # in a description, of which PlatformIO takes 255 characters
MAX_WORD = 16


def export(bundle: Bundle, out_dir: Path, logits: np.ndarray) -> emit.Emitted:
    """Write the library.

    Args:
        bundle: With a model.tflite.
        out_dir: A new or empty folder, or an earlier export in which nothing was
            changed since, which is replaced.
        logits: int8 [labels]: what the self-test's clip must give.

    Returns:
        The files; sizes and costs on the core where they are largest.

    Raises:
        KwsError: the model can't be emitted, or the folder holds something else or
            something of yours.
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
    """Raises KwsError where a folder holds something else than an earlier export, or
    one that somebody has changed since."""
    if not out_dir.exists():
        return
    inside = _files(out_dir) if out_dir.is_dir() else {}
    if out_dir.is_dir() and not inside:
        return
    known = _written(out_dir)
    changed = sorted(
        name
        for name, path in inside.items()
        if name not in known or _sha256(path) != known[name]
    )
    if not known or changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        what = f", changed by hand: {', '.join(changed[:3])}{more}" if known else ""
        raise KwsError(
            "The folder holds something else. Expected a new or empty one, or an "
            f"earlier export that was not changed. Received: {str(out_dir)!r}{what}",
            f"kws emit RUN --format library --out {quoted(f'{out_dir}-new')}",
        )


def _files(folder: Path) -> dict[str, Path]:
    """Name -> file, but for those that tools hide there (.pio, .git)."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _written(folder: Path) -> dict[str, str]:
    """What an export says that it wrote; empty where there is none."""
    try:
        file = folder / TABLE
        if file.stat().st_size > MAX_TABLE_BYTES:
            return {}
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    table = {name: _sha256(path) for name, path in _files(folder).items()}
    (folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", "utf-8")
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
