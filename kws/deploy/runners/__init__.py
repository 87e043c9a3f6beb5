"""Runners: one module for each way to put an image on a board and hear from it.

A runner is a module of this folder with

    def missing() -> KwsError | None
        What keeps it from working on this machine, or None.
    def run(image: Path, board: Board, arguments: dict[str, str], folder: Path,
            timeout_s: float) -> Outcome
        Run the image in `folder` (files named in `arguments` lie there) to its end,
        or stop it: timeout_s is processor time for an emulator, else wall time.

A board names its runner in board.toml; this folder's listing is the registry.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from kws.errors import KwsError


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        exit_code: The firmware's (kws_board.h); None if it had to be stopped.
        text: Everything that it printed.
        wall_s: Seconds it took here.
    """

    exit_code: int | None
    text: str
    wall_s: float


def names() -> list[str]:
    """The runners, by name."""
    return sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem[0] != "_"
    )


def get(name: str) -> ModuleType:
    """The runner's module.

    Raises:
        KwsError: no such runner.
    """
    if name not in names():
        raise KwsError(
            f"No such runner. Expected one of {', '.join(names())}. Received: {name!r}",
            "Mend `runner` in board.toml, or add kws/deploy/runners/<name>.py",
        )
    return importlib.import_module(f"kws.deploy.runners.{name}")
