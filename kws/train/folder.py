"""The folder of a run while it is trained: whose it is, and who works in it.

results.csv            one line per epoch
tensorboard/           the same as curves (pip install tensorboard to see them)
checkpoints/           the pool and the loops' state; may be deleted after training
checkpoints/run.json   which recipe the state is of, and what it was trained on
checkpoints/lock       there while a process trains here
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kws import bundle as bundles
from kws import lock
from kws import recipe as recipes
from kws.data.splits import some
from kws.errors import KwsError, quoted
from kws.recipe import Recipe

LOCK, STATE = "lock", "run.json"
MATERIAL = "material"
WRITTEN = (
    *("recipe.toml", "bundle.json", "weights.h5", "model.tflite", "metrics.json"),
    *("conversion.json", "results.csv", "tensorboard", "audio.json"),
)
# Of clips and recordings, among which a run would lie.
CORPUS = (
    *("corpus.json", "import.json", "validation_list.txt", "testing_list.txt"),
    *("_background_noise_", ".fetched"),
)


@contextlib.contextmanager
def locked(out: Path, place: int = 0) -> Iterator[None]:
    """Keep other trainings out of `out`; a dead process keeps nobody out.

    Args:
        out: Folder of the run; made, and removed again where nothing came into it.
        place: Of the worker in its cluster: several may share a folder.

    Raises:
        KwsError: another process trains there.
    """
    bundles.check_folder(out, out, "--out")
    path = out / "checkpoints" / (f"{LOCK}-{place}" if place else LOCK)
    busy = KwsError(
        "Another training is at work in this folder. Expected one at a time. "
        f"Received: {out}",
        "Wait for it or stop it; or train into another folder: "
        f"--out {quoted(f'{out}-2')}",
    )
    try:
        with lock.locked(path, busy):
            yield
    finally:
        for folder in (path.parent, out):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only an empty one goes


def start(recipe: Recipe, out: Path, restart: bool, begins_from: str = "") -> None:
    """See that `out` is new, or holds a run of the same recipe to go on with, or one
    that `restart` may forget. Nothing is changed: see `forget`.

    Raises:
        KwsError: it holds something else.
    """
    if not (out / "bundle.json").is_file() and not _state_of(out).is_file():
        _check_free(out)
    if restart:
        return
    kept = _kept(out)
    kept.pop(MATERIAL, None)
    if not kept and (out / "bundle.json").is_file():
        raise KwsError(
            "This folder holds a run, and nothing to go on with. Expected a new one, "
            f"or one of a training that was stopped. Received: {out}",
            f"Another folder (--out {quoted(f'{out}-2')}), or --restart to train it "
            "anew.",
        )
    if kept and kept != _state(recipe, begins_from):
        raise _another(out, "of another recipe")


def forget(out: Path) -> None:
    """Delete what a training goes on with, once nothing can be refused any more."""
    if _state_of(out).is_file():
        bundles.write_atomic(_state_of(out), b"{}")  # still the folder of a run
    for path in (out / "checkpoints").glob("*"):
        if path.name.startswith(LOCK) or path.name == STATE:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    (out / "results.csv").unlink(missing_ok=True)


def _check_free(out: Path) -> None:
    """Refuse a folder of no run where something would be written over, or that is a
    corpus."""
    there = [name for name in (*WRITTEN, *CORPUS) if (out / name).exists()]
    there += [
        f"checkpoints/{path.name}"
        for path in sorted((out / "checkpoints").glob("[!.]*"))
        if not path.name.startswith((LOCK, "pool"))  # of a worker that wrote no run
    ]
    if there:
        raise KwsError(
            "This folder holds something that no training has made. Expected a new "
            f"folder, or a run. Received: {out} with {some(there)}",
            f"--out {quoted(f'{out}-run')}",
        )


def check_material(out: Path, material: Mapping[str, str]) -> None:
    """Refuse checkpoints that were trained on something else: a run would go on, or
    end, as if it had heard what it never did.

    Args:
        out: Folder of the run.
        material: What it is to be trained on now: what -> its hash.

    Raises:
        KwsError: `out` holds checkpoints of other material.
    """
    known = _kept(out).get(MATERIAL)
    # Without a checkpoint nothing was learned yet; older runs did not note it.
    begun = any((out / "checkpoints").glob("*.npz"))
    if not begun or not isinstance(known, dict) or known == material:
        return
    every = dict.fromkeys([*material, *known])
    other = [what for what in every if known.get(what) != material.get(what)]
    raise _another(out, f"that was trained with other {' and '.join(other)}")


def claim(
    recipe: Recipe,
    out: Path,
    begins_from: str = "",
    material: Mapping[str, str] | None = None,
) -> None:
    """Mark `out` as this recipe's and this material's, once its clips could be read."""
    state = _state(recipe, begins_from) | {MATERIAL: dict(material or {})}
    bundles.write_atomic(_state_of(out), json.dumps(state).encode())


def _kept(out: Path) -> dict[str, Any]:
    """What the folder's state is of; empty where there is none.

    Raises:
        KwsError: it can't be read.
    """
    path = _state_of(out)
    found = bundles.read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise _another(out, f"whose {STATE} can't be read")
    return found


def _state_of(out: Path) -> Path:
    return out / "checkpoints" / STATE


def _another(out: Path, what: str) -> KwsError:
    return KwsError(
        f"This folder holds a run {what}. Expected the same to go on with it. "
        f"Received: {out}",
        f"Another folder (--out {quoted(f'{out}-2')}), or --restart to train it anew.",
    )


def _state(recipe: Recipe, begins_from: str) -> dict[str, str]:
    """Equal for trainings that may go on from one another's checkpoints."""
    state = {"recipe": _hash(recipe)}
    return state | {"begins_from": begins_from} if begins_from else state


def _hash(recipe: Recipe) -> str:
    """Of what the checkpoints depend on: not of the run's name."""
    unnamed = dataclasses.replace(recipe, name="")
    return hashlib.sha256(recipes.to_toml(unnamed).encode()).hexdigest()
