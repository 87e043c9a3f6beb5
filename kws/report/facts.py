"""Everything known of a run: read from its folder, and measured where that can be.

What can't be had (no clips here, no emulator, not calibrated) is kept as the reason
why, for the page to say.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import data as datasets
from kws import operating_points
from kws.bundle import Bundle
from kws.data import ClipSet, Sources
from kws.data import tape as tapes
from kws.data.audio import loudness
from kws.deploy import boards as registry
from kws.deploy import energy, fit, flash, host, pace, profile
from kws.deploy.boards import Board
from kws.deploy.fit import Fit
from kws.deploy.pace import Pace
from kws.deploy.profile import Profile
from kws.errors import KwsError, quoted
from kws.evaluate import Evaluation, evaluate_clips
from kws.intervals import wilson_interval
from kws.recipe import Q15_ONE, SILENCE, UNKNOWN
from kws.report import operating, tape
from kws.report import sweep as sweeps
from kws.report.tape import OnTapes

MAX_RESULTS_BYTES = 16 << 20
MOST = 1e15  # of a figure: JSON's numbers have no bound of their own
STEP_DB = 6
FEWEST = 10  # clips: fewer say nothing of a loudness
NO_WORDS = (SILENCE, UNKNOWN)
COUNTING_BOARD = "qemu-m4"
COIN_CELL_MAH = 220.0  # a CR2032


@dataclass(frozen=True)
class Asked:
    """What a report is made of.

    Args:
        split: Clips of `train`, `val` or `test`.
        data, also: Where clips are; None: where the training's were.
        limit: The first N clips of a fixed shuffle.
        boards: Names; None: all.
        battery_mah: The cell that its life is told of.
        say: Called with what is done next.
        tapes: Recordings with their truth, or folders of them.
    """

    split: str = "val"
    data: Path | None = None
    also: tuple[Path, ...] = ()
    limit: int | None = None
    boards: tuple[str, ...] | None = None
    battery_mah: float = COIN_CELL_MAH
    say: Callable[[str], None] = print
    tapes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Heard:
    """An evaluation with its clips.

    Args:
        clips: The clips.
        evaluation: What the firmware's C made of them.
        posteriors: float [N, labels], the board's, 0..1.
    """

    clips: ClipSet
    evaluation: Evaluation
    posteriors: np.ndarray

    @property
    def heard(self) -> np.ndarray:
        """int [N], the label of each."""
        return self.evaluation.logits.argmax(axis=1)

    def hardest(self, most: int) -> list[int]:
        """Clips that were heard as something else, the surest mistakes first."""
        rows = np.arange(len(self.clips))
        logits = self.evaluation.logits.astype(int)
        lead = logits.max(axis=1) - logits[rows, self.clips.label]
        wrong = np.flatnonzero(self.heard != self.clips.label)
        return wrong[np.argsort(-lead[wrong], kind="stable")][:most].tolist()

    def by_loudness(self) -> list[dict[str, Any]]:
        """Accuracy of the words' clips by their loudness, the quietest first:
        {low_db, high_db, n, right, accuracy, ci95}; None where a step has no end.

        The quietest and the loudest steps hold at least FEWEST clips.
        """
        words = [i for i, name in enumerate(self.clips.labels) if name not in NO_WORDS]
        chosen = np.isin(self.clips.label, words)
        if not chosen.any():
            return []
        right = (self.heard == self.clips.label)[chosen]
        level = np.floor(loudness(self.clips.pcm[chosen]) / STEP_DB).astype(int)
        ordered = np.sort(level)
        least = ordered[min(FEWEST, len(level)) - 1]
        most = max(least, ordered[-min(FEWEST, len(level))])
        level = level.clip(least, most)
        table = []
        for step in np.unique(level).tolist():
            here = right[level == step]
            table.append(
                {
                    "low_db": None if step == least else step * STEP_DB,
                    "high_db": None if step == most else (step + 1) * STEP_DB,
                    "n": len(here),
                    "right": int(here.sum()),
                    "accuracy": float(here.mean()),
                    "ci95": list(wilson_interval(int(here.sum()), len(here))),
                }
            )
        return table


@dataclass(frozen=True)
class OnBoard:
    """A run on a board.

    Args:
        board: The board.
        fit: Flash and RAM; None: it could not be built.
        pace: How much of its time it works; None: no emulator of its core.
        why: What is not known, and why.
    """

    board: Board
    fit: Fit | None
    pace: Pace | None
    why: str = ""

    def as_dict(self, battery_mah: float) -> dict[str, Any]:
        """For JSON."""
        table: dict[str, Any] = {"board": self.board.name}
        if self.fit is not None:
            table |= self.fit.as_dict()
        if self.pace is not None:
            table |= energy.Budget(self.pace, battery_mah).as_dict()
        return table | ({"why": self.why} if self.why else {})


@dataclass(frozen=True)
class Facts:
    """Everything known of a run.

    Args:
        run: As it was typed.
        bundle: The run.
        asked: What the report is made of.
        heard: Its clips and what it made of them.
        cost: Of one decision, layer by layer.
        on_boards: Where it fits.
        curves: A row for each epoch.
        operating: From kws calibrate.
        tapes: What was heard on tapes.
        sweep: From kws sweep.
        sources: Where its clips are.
        missing: Part -> why it isn't there.
    """

    run: str
    bundle: Bundle
    asked: Asked
    heard: Heard | None = None
    cost: Profile | None = None
    on_boards: tuple[OnBoard, ...] = ()
    curves: tuple[dict[str, Any], ...] = ()
    operating: dict[str, Any] | None = None
    tapes: OnTapes | None = None
    sweep: dict[str, Any] | None = None
    sources: Sources = field(default_factory=Sources)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> dict[str, float]:
        """The figures that training noted."""
        return _figures(self.bundle.metrics.get("train"))

    @property
    def point(self) -> dict[str, float]:
        """The figures of the operating point that was chosen."""
        return _figures(self.calibrated.get("after"))

    @property
    def point_ci95(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of them, by the figure's name."""
        after = self.calibrated.get("after")
        pairs = {}
        for key, value in after.items() if isinstance(after, dict) else ():
            if isinstance(value, list) and str(key).endswith("_ci95"):
                both = _figures(dict(enumerate(value)))
                if len(both) == len(value) == 2:
                    pairs[str(key).removesuffix("_ci95")] = (both["0"], both["1"])
        return pairs

    @property
    def calibrated(self) -> dict[str, Any]:
        """What kws calibrate noted: on which `tapes`, for which `aim`."""
        found = self._operating_point
        return found if isinstance(found, dict) else {}

    @property
    def _operating_point(self) -> Any:
        """What kws calibrate noted, if the run is still what it was then."""
        found, bundle = self.bundle.metrics.get("operating_point"), self.bundle
        if not isinstance(found, dict) or not bundle.model_path.is_file():
            return found
        return found if found.get("hash") in (None, bundle.hash) else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: no sound, no curves."""
        bundle = self.bundle
        table: dict[str, Any] = {
            "run": self.run,
            "name": bundle.recipe.name,
            "task": bundle.recipe.task.name,
            "labels": list(bundle.labels),
            "hash": bundle.hash if bundle.model_path.is_file() else None,
            "train": bundle.metrics.get("train"),
            "evaluation": None,
            "by_loudness": None,
            "cost": None,
            "boards": [b.as_dict(self.asked.battery_mah) for b in self.on_boards],
            "operating_point": self._operating_point,
            "tapes": None if self.tapes is None else self.tapes.table,
            "sweep_points": None if self.sweep is None else len(self.sweep["points"]),
            "missing": self.missing,
        }
        if self.heard is not None:
            table["evaluation"] = self.heard.evaluation.as_dict()
            table["by_loudness"] = self.heard.by_loudness()
        if self.cost is not None:
            table["cost"] = self.cost.as_dict()
        return table


def gather(run: str, asked: Asked) -> Facts:
    """Read and measure what can be known of a run.

    Args:
        run: Folder or shipped name.
        asked: What is wanted.

    Raises:
        KwsError: not a run; or what was asked for by name (clips, boards) isn't there.
    """
    bundle = bundles.load(run)
    chosen = asked.boards if asked.boards is not None else registry.names()
    boards = [registry.load(name) for name in chosen]
    missing: dict[str, str] = {}
    found: dict[str, Any] = {}
    tapes.check(tapes.files(asked.tapes))  # before clips are heard

    def take(part: str, read: Callable[[], Any], given: bool = False) -> None:
        try:
            found[part] = read()
        except KwsError as error:
            if given:
                raise
            hint = re.sub(r"\bRUN\b", lambda _: quoted(run), error.hint)
            missing[part] = f"{error.message}\nHint: {hint}"

    take("curves", lambda: curves(bundle))
    take("operating", lambda: _operating(bundle))
    take("sweep", lambda: sweeps.of_run(bundle))
    given = asked.data is not None or bool(asked.also)
    take("sources", lambda: datasets.of_run(bundle, asked.data, asked.also), given)
    if "sources" in found:
        take("heard", lambda: hear(bundle, found["sources"], asked), given)
    else:
        missing["heard"] = missing.pop("sources")
    if asked.tapes:
        counting = _counting(boards)
        take(
            "tapes",
            lambda: tape.measure(bundle, asked.tapes, counting, asked.say),
            given=True,
        )
    take("cost", lambda: _cost(bundle, boards, asked.say))
    if bundle.model_path.is_file():
        found["on_boards"] = _on_boards(bundle, boards, found.get("cost"), asked.say)
    return Facts(run, bundle, asked, missing=missing, **found)


def _operating(bundle: Bundle) -> dict[str, Any]:
    """Its operating points; a shipped run is copied first to get some."""
    try:
        table = operating_points.of_run(bundle)
        operating.body(table)  # a broken one is said before anything is measured
        return table
    except KwsError as error:
        if not bundle.shipped:
            raise
        own = f"runs/{bundle.path.name}"
        raise KwsError(
            error.message,
            f"{bundle.copy_command} && kws calibrate {quoted(own)} --tape tapes",
        ) from None


def _figures(table: Any) -> dict[str, float]:
    """Of a table that anybody may have written, the numbers."""
    if not isinstance(table, dict):
        return {}
    return {
        str(key): value
        for key, value in table.items()
        if isinstance(value, (int, float)) and abs(value) < MOST
    }


def curves(bundle: Bundle) -> tuple[dict[str, Any], ...]:
    """results.csv: phase (text), and numbers; what is no number is left out.

    Raises:
        KwsError: there is none, or it is no table of epochs.
    """
    path = bundle.path / "results.csv"
    # A training writes it, a line for each epoch.
    new = f"runs/{bundle.path.name}" if bundle.shipped else f"{bundle.path}-new"
    hint = shlex.join(
        ["kws", "train", "--recipe", str(bundle.path / "recipe.toml"), "--out", new]
        + datasets.remembered(bundle)
    )
    if not path.is_file():
        raise KwsError(f"There are no training curves: no {path.name} in the run", hint)
    if path.stat().st_size > MAX_RESULTS_BYTES:
        raise KwsError(f"{path.name} is larger than {MAX_RESULTS_BYTES:,} bytes", hint)
    rows = []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for line in csv.DictReader(file):
            row: dict[str, Any] = {"phase": str(line.get("phase"))}
            for key in ("epoch", "train_loss", "val_loss", "val_accuracy"):
                try:
                    number = float(line.get(key) or "nan")
                except ValueError:
                    number = float("nan")
                if np.isfinite(number):
                    row[key] = number
            rows.append(row)
    if not any("val_accuracy" in row for row in rows):
        raise KwsError(f"{path.name} has no epochs in it", hint)
    return tuple(rows)


def hear(bundle: Bundle, folders: Sources, asked: Asked) -> Heard:
    """The firmware's C on the clips of a split.

    Raises:
        KwsError: there are no clips, no compiler, or the run was not converted.
    """
    bundle.model_bytes()
    clips = datasets.load(
        asked.split,
        bundle.recipe.task,
        folders.data,
        limit=asked.limit,
        also=folders.also,
    )
    asked.say(f"Hearing {len(clips):,} clips ({asked.split})")
    found = evaluate_clips(bundle, clips, jobs=os.cpu_count() or 1)
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        sums, _ = copy.sums(found.logits, 1)
    return Heard(clips, found, sums / Q15_ONE)


def _cost(
    bundle: Bundle, boards: list[Board], say: Callable[[str], None]
) -> Profile | None:
    """Instructions by layer where an emulator of one of the cores is installed; else
    this machine's time."""
    bundle.model_bytes()
    emulated = _counting(boards)
    if emulated is None:
        say("Timing each layer on this machine")
        return profile.on_host(bundle)
    say(f"Counting each layer's instructions on {emulated.name}")
    folder = flash.output_folder(bundle, emulated)
    try:
        return profile.on_board(bundle, emulated, folder)
    except fit.TooLarge:
        say(f"It doesn't fit {emulated.name}: timing each layer on this machine")
        return profile.on_host(bundle)


def _counting(boards: list[Board]) -> Board | None:
    """The emulated board that counts, of the cores that are asked for; None: there is
    no emulator of one."""
    cores = {board.core for board in boards}
    counting = registry.load(COUNTING_BOARD)
    if (not cores or counting.core in cores) and pace.counter(counting) is not None:
        return counting
    counters = [pace.counter(board) for board in boards]
    return next((board for board in counters if board is not None), None)


def _on_boards(
    bundle: Bundle,
    boards: list[Board],
    cost: Profile | None,
    say: Callable[[str], None],
) -> tuple[OnBoard, ...]:
    paces: dict[str, Pace | None] = {}
    if cost is not None and cost.pace is not None:
        paces[cost.pace.board.core] = cost.pace
    found = []
    for board in boards:
        size, why = None, ""
        say(f"Building for {board.name}")
        try:
            folder = flash.output_folder(bundle, board)
            size = flash.emit_and_build(bundle, board, folder).fit
        except fit.TooLarge as error:
            size, why = error.fit, error.message.split("\n")[-1]
        except KwsError as error:
            why = error.message
        if board.core not in paces:
            try:
                paces[board.core] = pace.measure(bundle, board)
            except KwsError as error:
                paces[board.core], why = None, why or error.message
        common = paces[board.core]
        own = None if common is None else dataclasses.replace(common, board=board)
        found.append(OnBoard(board, size, own, why))
    return tuple(found)
