"""Choose thresholds: from one global setting to one per layer and tensor kind.

Three stages, each of which only asks for points (thresholds) to be simulated:

1. Ladders. For every layer and kind, thresholds at fixed quantiles of the change from
   row to row: rung r means the same thing (a like share of elements held) everywhere.
2. Global grid: all layers and kinds on one rung.
3. Greedy refinement, near each of some targets of MACs: every layer's and kind's rung
   is moved up and down by one, alone, in place. What a move saves in MACs, and how far
   it moves the outputs: the mean Kullback-Leibler divergence from the dense network's
   labels, which needs no labels and, unlike accuracy, is smooth. The best moves for a
   common price of MACs are taken together; a few sizes of step are simulated, and the
   best of them is where the next round starts.

Everything is deterministic, so that a sweep that was stopped is resumed by running it
again: points that were simulated before are read from its journal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws.bundle import write_atomic
from kws.errors import KwsError
from kws.simulate import cost
from kws.simulate.cost import KINDS
from kws.simulate.measure import Clips, point
from kws.simulate.simulator import Run, Simulator, Thresholds

if TYPE_CHECKING:
    from kws.simulate.measure import AnySimulator

# Shares of row-to-row changes that a rung's threshold is larger than. Rung 0: dense.
# From rung to rung about a quarter fewer elements are transmitted.
QUANTILES = tuple(round(1 - 0.75 ** (k + 1), 4) for k in range(15))
LADDER_CLIPS = 64
MAX_JOURNAL_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """How much to simulate.

    Args:
        move_clips: Clips for the single moves of stage 3; the others take all clips.
        rounds: Rounds of moves near each target.
        targets: Cuts of MHSA's MACs to refine near.
        steps: How many moves are taken together; each is tried.
    """

    move_clips: int = 256
    rounds: int = 3
    targets: tuple[float, ...] = (0.70, 0.80, 0.86, 0.91)
    steps: tuple[int, ...] = (4, 8, 16, 32)


class Journal:
    """Points simulated so far, a JSON line each, appended as they come.

    Args:
        path: The file; made where there is none.
        identity: Hash of everything a point depends on but its thresholds.

    Raises:
        KwsError: the journal is of another run, other clips or other settings.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.points: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._read(identity)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, (json.dumps({"identity": identity}) + "\n").encode())

    def _read(self, identity: str) -> None:
        if self.path.stat().st_size > MAX_JOURNAL_BYTES:
            raise self._refuse(f"more than {MAX_JOURNAL_BYTES} bytes")
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        whole = []
        for number, line in enumerate(lines[:-1]):
            try:
                table = json.loads(line)
            except ValueError:
                table = None
            if not isinstance(table, dict):
                raise self._refuse(f"a broken line {number + 1}")
            if number == 0:
                if table.get("identity") != identity:
                    raise self._refuse("a journal of another run, clips or settings")
            elif "key" in table:
                self.points[str(table["key"])] = table
            whole.append(line)
        if lines[-1]:  # the sweep was stopped in the middle of a line
            write_atomic(self.path, ("\n".join(whole) + "\n").encode())

    def _refuse(self, received: str) -> KwsError:
        return KwsError(
            f"Can't resume the sweep: expected the journal of this run on these clips. "
            f"Received: {received} in {self.path}",
            f"rm {self.path}   (starts again), or name another folder with --out",
        )

    def add(self, key: str, table: dict[str, Any]) -> None:
        """Keep one point."""
        table = {"key": key, **table}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(table) + "\n")
        self.points[key] = table


class Sweep:
    """One sweep of one network on one set of clips.

    Args:
        simulator: The network.
        clips: Validation clips.
        journal: Where simulated points are kept.
        settings: How much to simulate.
        report: Called with (stage, done, total) as points are done.
    """

    def __init__(
        self,
        simulator: AnySimulator,
        clips: Clips,
        journal: Journal,
        settings: Settings | None = None,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.simulator = simulator
        self.shape = simulator.shape
        self.clips = clips
        self.journal = journal
        self.settings = settings or Settings()
        self.report = report or (lambda stage, done, total: None)
        self.ladder = self._ladder()
        self._dense_logits: np.ndarray | None = None
        self.top = len(QUANTILES)
        self.coordinates = list(itertools.product(range(self.shape.layers), KINDS))

    def _ladder(self) -> np.ndarray:
        """float [rungs + 1, layers, 5]; rung 0 is dense (negative)."""
        changes = self.simulator.changes(self.clips.features[:LADDER_CLIPS], QUANTILES)
        # Four digits: what is printed and stored is what was simulated.
        rounded = np.array([float(f"{v:.4g}") for v in changes.ravel()])
        dense = np.full((1, self.shape.layers, len(KINDS)), -1.0)
        return np.concatenate([dense, rounded.reshape(changes.shape)])

    def thresholds(self, rungs: np.ndarray) -> Thresholds:
        """Thresholds of a setting: int [layers, 5] -> float [layers, 5]."""
        return Thresholds(np.take_along_axis(self.ladder, rungs[None], axis=0)[0])

    def simulate(
        self,
        stage: str,
        settings: Sequence[np.ndarray],
        clips: int | None = None,
        near: np.ndarray | None = None,
    ) -> list[dict[str, Any]]:
        """Simulate settings, or read them from the journal; in order.

        Args:
            stage: Its name.
            settings: Each int [layers, 5], rungs.
            clips: The first so many; all where None.
            near: A setting that the others share their first layers with: those are
                computed once.
        """
        tables: list[dict[str, Any]] = []
        prefix = None
        for index, rungs in enumerate(settings):
            key = f"{clips or 'all'}:" + "".join(f"{r:x}" for r in rungs.flat)
            if key not in self.journal.points:
                if near is not None and prefix is None:
                    features = self.clips.features[:clips]
                    prefix = self.simulator.prefix(features, self.thresholds(near))
                self.journal.add(key, self._simulate(rungs, clips, prefix))
            tables.append({"stage": stage, "rungs": rungs, **self.journal.points[key]})
            self.report(stage, index + 1, len(settings))
        return tables

    def _simulate(
        self, rungs: np.ndarray, clips: int | None, prefix: Any = None
    ) -> dict[str, Any]:
        thresholds = self.thresholds(rungs)
        features = self.clips.features[:clips]
        run = self.simulator.run(features, thresholds, prefix=prefix)
        if self._dense_logits is None:
            dense = Thresholds.dense(self.shape.layers)
            self._dense_logits = self.simulator.run(self.clips.features, dense).logits
        divergences = divergence(self._dense_logits[:clips], run.logits)
        table = {"divergence": float(divergences.mean())}
        if clips is None:
            return table | point(self.clips, thresholds, run)
        return table | {"mhsa": mhsa_macs(run)}

    def run(self) -> dict[str, Any]:
        """All stages.

        Returns:
            Stable keys of `kws sweep --json`: task, split, n, points, pareto.
        """
        shape = (self.shape.layers, len(KINDS))
        points = self.simulate("dense", [np.zeros(shape, int)])
        points += self.simulate(
            "global", [np.full(shape, rung) for rung in range(1, self.top + 1)]
        )
        for target in self.settings.targets:
            points += self._refine(points, target)
        return self.table(points)

    def table(self, points: list[dict[str, Any]]) -> dict[str, Any]:
        """Points without duplicates, and the Pareto front by index."""
        unique: dict[str, dict[str, Any]] = {}
        for item in points:
            unique.setdefault(item["key"], item)
        out = [
            {key: value for key, value in item.items() if key not in ("rungs", "key")}
            for item in unique.values()
        ]
        return {
            "task": self.clips.task,
            "split": self.clips.split,
            "features": self.clips.kind,
            "n": len(self.clips),
            "labels": list(self.simulator.bundle.labels),
            "points": out,
            "pareto": pareto(out),
        }

    def _refine(
        self, points: list[dict[str, Any]], target: float
    ) -> list[dict[str, Any]]:
        """Better points near a target, by moves of single rungs."""

        def price(item: dict[str, Any]) -> float:
            """Divergence, with what is missing to the target on top."""
            short = max(0.0, target - item["mhsa_mac_cut"])
            return float(item["divergence"]) * (1 + 20 * short)

        allowed = [p for p in points if p["mhsa_mac_cut"] >= target - 0.03]
        if not allowed:
            return []
        out: list[dict[str, Any]] = []
        best = min(allowed, key=price)
        for _ in range(self.settings.rounds):
            found = self._moved(best, target)
            out += found
            better = min(
                (p for p in found if p["mhsa_mac_cut"] >= target - 0.005),
                key=price,
                default=None,
            )
            done = best["mhsa_mac_cut"] >= target - 0.005
            if better is None or (done and price(better) >= price(best)):
                break
            best = better
        return out

    def _moved(self, start: dict[str, Any], target: float) -> list[dict[str, Any]]:
        """One round of moves around a point, and the best of them taken together."""
        clips = min(self.settings.move_clips, len(self.clips))
        rungs = start["rungs"]
        base = self.simulate("moves", [rungs], clips)[0]
        moves, settings = [], []
        for (layer, kind), step in itertools.product(self.coordinates, (-1, 1)):
            column = KINDS.index(kind)
            if 0 <= rungs[layer, column] + step <= self.top:
                moved = rungs.copy()
                moved[layer, column] += step
                moves.append((layer, column, step))
                settings.append(moved)
        tables = self.simulate("moves", settings, clips, near=rungs)
        gain = np.array([base["mhsa"] - t["mhsa"] for t in tables])
        gain /= self.shape.mhsa_macs
        harm = np.array([t["divergence"] - base["divergence"] for t in tables])
        needed = target - start["mhsa_mac_cut"]
        unique: dict[bytes, np.ndarray] = {}
        for size in self.settings.steps:
            taken = take_moves(moves, gain, harm, needed, size)
            moved = rungs.copy()
            for layer, column, step in taken:
                moved[layer, column] += step
            if taken:
                unique.setdefault(moved.tobytes(), moved)
        return self.simulate("refined", list(unique.values()))


Move = tuple[int, int, int]
"""(layer, column, -1 or 1)"""


def take_moves(
    moves: Sequence[Move], gain: np.ndarray, harm: np.ndarray, needed: float, size: int
) -> list[Move]:
    """The best `size` moves that together gain what is needed.

    For a price, each layer and kind has one best move; those whose harm less price
    times gain is lowest are taken. The price is searched for by bisection, since what
    the moves gain together grows with it.

    Args:
        moves: One layer and kind each, at most one up and one down.
        gain: MACs saved by each, as a share; negative where it spends some.
        harm: Divergence added by each; negative where it mends.
        needed: Share of MACs to save together; negative: that may be spent.
        size: How many to take at most.

    Example:
        >>> take_moves([(0, 0, 1), (1, 0, 1)], np.array([0.1, 0.1]), np.array([1, 2.0]),
        ...            needed=0.1, size=1)
        [(0, 0, 1)]
    """

    def best(price: float) -> list[int]:
        worth = harm - price * gain
        chosen: dict[tuple[int, int], int] = {}
        for index in np.argsort(worth, kind="stable"):
            place = moves[index][:2]
            if worth[index] < 0 and place not in chosen and len(chosen) < size:
                chosen[place] = int(index)
        return list(chosen.values())

    scale = float(np.abs(harm).max() / max(np.abs(gain).max(), 1e-12)) or 1.0
    low, high = 0.0, 1e4 * scale
    for _ in range(60):
        middle = (low + high) / 2
        if gain[best(middle)].sum() >= needed:
            high = middle
        else:
            low = middle
    return [moves[index] for index in best(high)]


def divergence(dense: np.ndarray, pruned: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of the label shares, in nats, per clip.

    Args:
        dense: Logits [N, labels] of the dense network.
        pruned: Logits [N, labels].
    """
    p, q = _log_softmax(dense), _log_softmax(pruned)
    return (np.exp(p) * (p - q)).sum(axis=1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def mhsa_macs(run: Run) -> float:
    """Mean MACs of MHSA, Q.K^T by pairs."""
    spent = cost.macs(run.shape, run.counts)
    mhsa = np.sum([spent[name] for name in cost.PRODUCTS], axis=0)
    return float(mhsa.sum(axis=1).mean())


def pareto(points: Sequence[dict[str, Any]]) -> list[int]:
    """Indices of the points that no other beats in both accuracy and MACs, by cut.

    Of points with equal accuracy and cut, the one with the least divergence stays.
    """
    order = sorted(
        range(len(points)),
        key=lambda i: (
            -points[i]["mhsa_mac_cut"],
            -points[i]["accuracy"],
            points[i]["divergence"],
        ),
    )
    front, best = [], -1.0
    for index in order:
        if points[index]["accuracy"] > best:
            best = points[index]["accuracy"]
            front.append(index)
    return front[::-1]


def identity(simulator: AnySimulator, clips: Clips) -> str:
    """Hash of what a point depends on besides its thresholds."""
    path = simulator.bundle.weights_path
    if not isinstance(simulator, Simulator):
        path = simulator.bundle.model_path
    digest = hashlib.sha256(path.read_bytes())
    facts = [clips.manifest_hash, clips.kind, QUANTILES, LADDER_CLIPS]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def csv(table: dict[str, Any]) -> str:
    """The points as comma-separated values, one line each, with a header."""
    names = ("accuracy", "divergence", "mhsa_mac_cut", "mac_cut", "mhsa_mac_cut_rows")
    lines = ["stage,pareto," + ",".join(names) + ",macs_mean,macs_p95,thresholds"]
    front = set(table["pareto"])
    for index, item in enumerate(table["points"]):
        values = ",".join(f"{item[name]:.6g}" for name in names)
        thresholds = " ".join(f"{k}={v:g}" for k, v in item["thresholds"].items())
        lines.append(
            f"{item['stage']},{int(index in front)},{values},"
            f"{item['macs']['mean']:.0f},{item['macs']['p95']:.0f},{thresholds}"
        )
    return "\n".join(lines) + "\n"
