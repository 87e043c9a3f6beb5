"""The folder of a run while it is trained: whose it is, and who works in it.

results.csv            one line per epoch
tensorboard/           the same as curves (pip install tensorboard to see them)
checkpoints/           the pool and the loops' state; may be deleted after training
checkpoints/run.json   which recipe the state is of
checkpoints/lock       there while a process trains here
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from kws import bundle as bundles
from kws import lock
from kws import recipe as recipes
from kws.errors import KwsError, quoted
from kws.recipe import Recipe

LOCK = "lock"


@contextlib.contextmanager
def locked(out: Path, place: int = 0) -> Iterator[None]:
    """Keep other trainings out of `out`; a dead process keeps nobody out.

    Args:
        out: Folder of the run; made, and removed again where nothing came into it.
        place: Of the worker in its cluster: several may share a folder.

    Raises:
        KwsError: another process trains there.
    """
    if out.exists() and not out.is_dir():
        raise KwsError(
            f"--out must be a folder. Received: {out}", f"--out {quoted(f'{out}-run')}"
        )
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
    """Make `out` ready: new, or holding a run of the same recipe to go on with.

    Raises:
        KwsError: it holds something else.
    """
    state = out / "checkpoints" / "run.json"
    if restart:
        for path in (out / "checkpoints").glob("*"):
            if path.name.startswith(LOCK):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        (out / "results.csv").unlink(missing_ok=True)
    if not (restart or state.is_file()) and (out / "bundle.json").is_file():
        raise KwsError(
            "This folder holds a run, and nothing to go on with. Expected a new one, "
            f"or one of a training that was stopped. Received: {out}",
            f"Another folder (--out {quoted(f'{out}-2')}), or --restart to train it "
            "anew.",
        )
    if state.is_file() and bundles.read_json(state) != _state(recipe, begins_from):
        raise KwsError(
            f"This folder holds a run of another recipe. Expected the same one to go "
            f"on with it. Received: {out}",
            f"Another folder (--out {quoted(f'{out}-2')}), or --restart to train it "
            "anew.",
        )


def claim(recipe: Recipe, out: Path, begins_from: str = "") -> None:
    """Mark `out` as this recipe's, once its clips could be read."""
    text = json.dumps(_state(recipe, begins_from))
    bundles.write_atomic(out / "checkpoints" / "run.json", text.encode())


def _state(recipe: Recipe, begins_from: str) -> dict[str, str]:
    """Equal for trainings that may go on from one another's checkpoints."""
    state = {"recipe": _hash(recipe)}
    return state | {"begins_from": begins_from} if begins_from else state


def _hash(recipe: Recipe) -> str:
    """Of what the checkpoints depend on: not of the run's name."""
    unnamed = dataclasses.replace(recipe, name="")
    return hashlib.sha256(recipes.to_toml(unnamed).encode()).hexdigest()
