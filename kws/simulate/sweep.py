"""Choose thresholds: from one global setting to one per layer and tensor kind.

Four stages, each of which only asks for points (thresholds) to be simulated:

1. Ladders. For every layer and kind, thresholds at fixed quantiles of the change from
   row to row: rung r means the same thing (a like share of elements held) everywhere.
2. Global grid: all layers and kinds on one rung.
3. Alone: each layer and kind on each rung, everything else dense. What that saves in
   MACs, and how far it moves the outputs: the mean Kullback-Leibler divergence from the
   dense network's labels, which needs no labels and, unlike accuracy, is smooth.
4. Front: taking divergences as additive, the best rungs at a price per divergence
   are each layer's own choice. One point per price.
5. Greedy: around points of the front, the single moves up and down are simulated in
   place; the best exchanges of MACs for divergence are taken together. Repeated.

Everything is deterministic, so that a sweep that was stopped is resumed by running it
again: points that were simulated before are read from its journal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import write_atomic
from kws.errors import KwsError
from kws.simulate import cost
from kws.simulate.cost import KINDS
from kws.simulate.measure import Clips, point
from kws.simulate.simulator import Run, Simulator, Thresholds

# Shares of row-to-row changes that a rung's threshold is larger than. Rung 0: dense.
QUANTILES = (0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.985, 0.994)
LADDER_CLIPS = 64
PRICES = 16
ROUNDS = 3
MAX_JOURNAL_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """How much to simulate.

    Args:
        alone_clips: Clips for stage 3 and for the moves of stage 5; the others take
            all clips.
        alone_step: Every how many rungs stage 3 tries.
        prices: Points of the front.
        rounds: Rounds of greedy moves around each of the points chosen.
        targets: Cuts of MHSA's MACs that greedy moves start from.
    """

    alone_clips: int = 256
    alone_step: int = 2
    prices: int = PRICES
    rounds: int = ROUNDS
    targets: tuple[float, ...] = (0.85, 0.90)


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
        simulator: Simulator,
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
        self, stage: str, settings: Sequence[np.ndarray], clips: int | None = None
    ) -> list[dict[str, Any]]:
        """Simulate settings, or read them from the journal; in order."""
        tables = []
        for index, rungs in enumerate(settings):
            key = f"{clips or 'all'}:" + "".join(f"{r:x}" for r in rungs.flat)
            if key not in self.journal.points:
                self.journal.add(key, self._simulate(rungs, clips))
            tables.append({"stage": stage, "rungs": rungs, **self.journal.points[key]})
            self.report(stage, index + 1, len(settings))
        return tables

    def _simulate(self, rungs: np.ndarray, clips: int | None) -> dict[str, Any]:
        part = slice(0, clips)
        features = self.clips.features[part]
        thresholds = self.thresholds(rungs)
        run = self.simulator.run(features, thresholds)
        if self._dense_logits is None:
            dense = Thresholds.dense(self.shape.layers)
            self._dense_logits = self.simulator.run(self.clips.features, dense).logits
        divergences = divergence(self._dense_logits[part], run.logits)
        table = {"divergence": float(divergences.mean())}
        if clips is None:
            return table | point(self.clips, thresholds, run)
        return table | cell(run)

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
        alone = self._alone()
        front = self._front(alone)
        points += self.simulate("front", front)
        points += self._greedy(points)
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

    # ---- stage 3 -----------------------------------------------------------------

    def _alone(self) -> dict[tuple[int, str], list[tuple[int, dict[str, Any]]]]:
        """(layer, kind) -> [(rung, table)], rung 0 first."""
        step = self.settings.alone_step
        tried = list(range(1 + (self.top - 1) % step, self.top + 1, step))
        settings = []
        for layer, kind in self.coordinates:
            for rung in tried:
                rungs = np.zeros((self.shape.layers, len(KINDS)), int)
                rungs[layer, KINDS.index(kind)] = rung
                settings.append(rungs)
        clips = min(self.settings.alone_clips, len(self.clips))
        base = self.simulate(
            "alone", [np.zeros((self.shape.layers, len(KINDS)), int)], clips
        )[0]
        tables = iter(self.simulate("alone", settings, clips))
        return {
            place: [(0, base)] + [(rung, next(tables)) for rung in tried]
            for place in self.coordinates
        }

    # ---- stage 4 -----------------------------------------------------------------

    def _front(self, alone: dict[Any, Any]) -> list[np.ndarray]:
        """One setting per price: every layer's cheapest choice of rungs."""
        model = _LayerModel(self.shape, alone)
        low, high = 1e-11, 1e-5  # divergence (nats) per MAC
        found: dict[bytes, np.ndarray] = {}
        for price in np.geomspace(low, high, 400):
            rungs = np.stack([model.best(i, price) for i in range(self.shape.layers)])
            found.setdefault(rungs.tobytes(), rungs)
        every = list(found.values())
        saved = np.array([model.saved(rungs) for rungs in every])
        wanted = 1 - np.geomspace(0.5, 0.04, self.settings.prices)
        picks = {int(np.abs(saved - share).argmin()) for share in wanted}
        return [every[index] for index in sorted(picks)]

    # ---- stage 5 -----------------------------------------------------------------

    def _greedy(self, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Better points near each target, by exchanging MACs for divergence."""
        out: list[dict[str, Any]] = []
        for target in self.settings.targets:
            near = [p for p in points + out if p["mhsa_mac_cut"] >= target]
            if not near:
                continue
            best = min(near, key=lambda p: p["divergence"])
            for _ in range(self.settings.rounds):
                found = self._improve(best, target)
                out += found
                better = min(
                    (p for p in found if p["mhsa_mac_cut"] >= target),
                    key=lambda p: p["divergence"],
                    default=best,
                )
                if better["divergence"] >= best["divergence"]:
                    break
                best = better
        return out

    def _improve(self, start: dict[str, Any], target: float) -> list[dict[str, Any]]:
        """One round of moves around a point, and some of them taken together."""
        clips = min(self.settings.alone_clips, len(self.clips))
        rungs = start["rungs"]
        base = self.simulate("greedy", [rungs], clips)[0]
        moves, settings = [], []
        for (layer, kind), step in itertools.product(self.coordinates, (-1, 1)):
            column = KINDS.index(kind)
            if 0 <= rungs[layer, column] + step <= self.top:
                moved = rungs.copy()
                moved[layer, column] += step
                moves.append((layer, column, step))
                settings.append(moved)
        tables = self.simulate("greedy", settings, clips)
        total = self.shape.mhsa_macs
        gain = np.array([(base["mhsa"] - t["mhsa"]) / total for t in tables])
        harm = np.array([t["divergence"] - base["divergence"] for t in tables])
        candidates = []
        for share in (0.02, 0.05, 0.1, 0.2):
            slack = max(0.0, start["mhsa_mac_cut"] - target)
            candidates.append(_exchange(rungs, moves, gain, harm, share, slack))
        unique = {c.tobytes(): c for c in candidates if not (c == rungs).all()}
        return self.simulate("greedy", list(unique.values()))


class _LayerModel:
    """Divergence and MACs of a layer's rungs, from what each did alone.

    Divergences are added; shares of transmitted elements are each kind's own; products
    of Q.K^T are taken as T^2 d times both shares.
    """

    def __init__(self, shape: cost.Shape, alone: dict[Any, Any]) -> None:
        dense = shape.dense_macs()
        self.total = shape.mhsa_macs
        self.rungs = [rung for rung, _ in next(iter(alone.values()))]
        self.harm = np.zeros((shape.layers, len(KINDS), len(self.rungs)))
        sent = np.ones_like(self.harm)
        for (layer, kind), tables in alone.items():
            column = KINDS.index(kind)
            harm = np.array([max(0.0, table["divergence"]) for _, table in tables])
            # A higher rung never helps: what says so is noise.
            self.harm[layer, column] = np.maximum.accumulate(harm)
            sent[layer, column] = [table["sent"][kind][layer] for _, table in tables]
        x, q, k, p, o = (sent[:, column] for column in range(len(KINDS)))
        self.alone = {
            0: x * dense["qkv"],
            3: p * dense["mix"],
            4: o * dense["out"],
        }
        self.pairs = q[:, :, None] * k[:, None, :] * dense["scores"]

    def best(self, layer: int, price: float) -> np.ndarray:
        """int [5]: the rungs with the least divergence + price * MACs."""
        out = np.zeros(len(KINDS), int)
        for column, macs in self.alone.items():
            place = int((self.harm[layer, column] + price * macs[layer]).argmin())
            out[column] = self.rungs[place]
        both = (
            self.harm[layer, 1][:, None]
            + self.harm[layer, 2][None, :]
            + price * self.pairs[layer]
        )
        query, key = np.unravel_index(int(both.argmin()), both.shape)
        out[1], out[2] = self.rungs[int(query)], self.rungs[int(key)]
        return out

    def saved(self, rungs: np.ndarray) -> float:
        """Share of MHSA's MACs that a setting is expected to cut."""
        places = np.vectorize(self.rungs.index)(rungs)
        spent = 0.0
        for layer, row in enumerate(places):
            spent += sum(
                macs[layer, row[column]] for column, macs in self.alone.items()
            )
            spent += self.pairs[layer, row[1], row[2]]
        return float(1 - spent / self.total)


def _exchange(
    rungs: np.ndarray,
    moves: list[tuple[int, int, int]],
    gain: np.ndarray,
    harm: np.ndarray,
    share: float,
    slack: float,
) -> np.ndarray:
    """Take the moves down that mend most per MAC, paid for by moves up that harm least.

    Args:
        moves: (layer, column, -1 or 1).
        gain: Share of MHSA's MACs that a move saves (negative for a move down).
        harm: Divergence that a move adds.
        share: MACs to exchange, as a share of MHSA's.
        slack: MACs that may be spent without saving any.
    """
    out = rungs.copy()
    touched: set[tuple[int, int]] = set()

    def take(order: Iterable[int], budget: float) -> float:
        done = 0.0
        for index in order:
            layer, column, step = moves[index]
            amount = abs(gain[index])
            if (layer, column) in touched or done + amount > budget:
                continue
            touched.add((layer, column))
            out[layer, column] += step
            done += amount
        return done

    with np.errstate(divide="ignore", invalid="ignore"):
        worth = -harm / np.maximum(np.abs(gain), 1e-9)
    down = [i for i, m in enumerate(moves) if m[2] < 0 and harm[i] < 0]
    spent = take(sorted(down, key=lambda i: -worth[i]), share + slack)
    up = [i for i, m in enumerate(moves) if m[2] > 0 and gain[i] > 0]
    take(sorted(up, key=lambda i: -worth[i]), max(0.0, spent - slack) * 1.1)
    return out


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


def cell(run: Run) -> dict[str, Any]:
    """What stages 3 and 5 need of a point: MACs and shares by layer and kind."""
    spent = cost.macs(run.shape, run.counts)
    mhsa = np.sum([spent[name] for name in cost.PRODUCTS], axis=0).sum(axis=1)
    return {
        "mhsa": float(mhsa.mean()),
        "sent": {
            kind: (
                run.counts.sent[kind].mean(axis=0)
                / (run.shape.tokens * run.shape.columns(kind))
            ).tolist()
            for kind in KINDS
        },
    }


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


def identity(simulator: Simulator, clips: Clips) -> str:
    """Hash of what a point depends on besides its thresholds."""
    digest = hashlib.sha256(simulator.bundle.weights_path.read_bytes())
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
