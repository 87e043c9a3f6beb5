"""Runners: one module for each way to put an image on a board.

A runner is a module of this folder with

    def missing() -> KwsError | None
        What keeps it from working on this machine, or None.

An emulator also has

    def run(image: Path, board: Board, arguments: dict[str, str], folder: Path,
            timeout_s: float, on_text: Callable[[bytes], None] | None = None) -> Outcome
        Run the image in `folder` (files named in `arguments` lie there) to its end,
        or stop it: timeout_s is processor time. Text is handed to on_text as it comes.

and a tool for real boards

    def program(image: Path, board: Board, job: Job) -> Programmed
        Write the image, verify it, call job.before_start, start it. Where what takes
        the image starts it as well, before_start is called before that.

A board names its runner in board.toml; this folder's listing is the registry.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from kws.deploy.boards import runner_names
from kws.deploy.choice import Ask as Ask
from kws.deploy.choice import Found as Found
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


@dataclass(frozen=True)
class Job:
    """What a real board's runner needs to know besides image and board.

    Args:
        run: The run's name, for hints.
        probe: Its id, or a part of it (of a drive or port: its name); None: the only
            one.
        ask: Asks which one of several; None: nobody is there to ask.
        unlock: Erase a locked chip to unlock it.
        everything: Don't trust what is in flash: write all of it.
        progress: Called with 0..1 while writing.
        before_start: Called before the image runs.
        options: What else was typed that `kws monitor` takes too, for hints.
    """

    run: str
    probe: str | None = None
    ask: Ask | None = None
    unlock: bool = False
    everything: bool = False
    progress: Callable[[float], None] = lambda share: None
    before_start: Callable[[], None] = lambda: None
    options: str = ""


@dataclass(frozen=True)
class Programmed:
    """What was written.

    Args:
        what: `everything`, `model` (weights, tables and thresholds only) or `nothing`,
            where flash held the image already.
        bytes: Written.
        probe: By which probe or drive.
    """

    what: str
    bytes: int
    probe: str


def names() -> list[str]:
    """The runners, by name."""
    return runner_names()


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
