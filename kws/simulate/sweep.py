"""Choose thresholds: from one global setting to one per layer and tensor kind.

Four stages, each of which only asks for points (kws/simulate/points.py):

1. Ladders. For every layer and kind, thresholds at fixed quantiles of the change from
   row to row: the same quantile holds a like share of elements everywhere.
2. Grid: all layers and kinds of attention at one quantile; the MLP's with them; and
   one kind alone.
3. Greedy refinement, near each of some targets of MACs, and of instructions on each
   board: every layer's and kind's rung is moved up and down by one, alone, in place.
   What a move saves, and how far it moves the outputs: the mean Kullback-Leibler
   divergence from the dense network's labels, which needs no labels and, unlike
   accuracy, is smooth. The best moves for a common price are taken together; a few
   sizes of step are simulated, and the best of them is where the next round starts.
4. Measurement, on each board, of the points that may be on its front.

On a core a tensor that sends much is dearer encoded than dense. So what stage 2 costs
is measured, instructions are guessed from that (kws.simulate.instructions.Guide), and
near a target of instructions only those kinds stay encoded, layer by layer, that are
worth it.

With tapes (kws/simulate/stream.py) thresholds of a network for streams are chosen on
them: cuts, divergence and what is transmitted are those of streams, moves are tried on
an excerpt, and every point on all clips is judged on all tapes, too.

Everything is deterministic, so that a sweep that was stopped is resumed by running it
again, and several that share a study go the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws.data.audio import SAMPLE_RATE
from kws.graph.products import MLP_KINDS
from kws.recipe import decision_ms
from kws.simulate import instructions
from kws.simulate.instructions import Guide
from kws.simulate.points import Job, Points
from kws.simulate.simulator import Simulator
from kws.simulate.stream import Hearing
from kws.thresholds import Slots, Thresholds

if TYPE_CHECKING:
    from kws.simulate.measure import AnySimulator, Clips

# Shares of row-to-row changes that a threshold is larger than. From one to the next
# about a quarter fewer elements are transmitted.
QUANTILES = tuple(round(1 - 0.75 ** (k + 1), 4) for k in range(15))
SINGLE_QUANTILES = (3, 7, 11)  # of one kind alone, by index
LADDER_CLIPS = 64
MIDDLE = 7  # quantile at which clips differ well in what they send
VERSION = 4  # of journals
# Thresholds in int8 steps, for what has one row in a clip and never changes there.
ONE_ROW = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 29, 38, 50)
FAULTS = "faults"  # misses and false alarms on tapes: the fewer the better


@dataclass(frozen=True)
class Settings:
    """How much to simulate.

    Args:
        move_clips: Clips for the single moves of stage 3; the others take all clips.
        rounds: Rounds of moves near each target.
        targets: Cuts of MHSA's MACs to refine near.
        steps: How many moves are taken together; each is tried.
        boards: Boards to measure on.
        board_clips: Clips to measure each point on.
        board_targets: Shares of the largest cut of instructions to refine near.
    """

    move_clips: int = 256
    rounds: int = 3
    targets: tuple[float, ...] = (0.70, 0.80, 0.86, 0.91)
    steps: tuple[int, ...] = (4, 8, 16, 32)
    boards: tuple[str, ...] = ()
    board_clips: int = 4
    board_targets: tuple[float, ...] = (0.5, 0.8, 1.0, 1.1)


INSTRUCTIONS = ("instructions", "instructions_max", "instructions_per_second")
Point = dict[str, Any]
Asked = list[tuple[str, np.ndarray, "np.ndarray | None"]]
"""(stage, rungs, rungs of the setting that it is a move of)"""
Search = Generator[Asked, list[Point], None]
"""Asks for points, and is sent them."""


class Sweep:
    """One sweep of one network on one set of clips.

    Args:
        simulator: The network.
        clips: Validation clips.
        points: Makes points.
        settings: How much to simulate.
        report: Called with (stage, done, total, share) as points are done: of the
            stage so many of so many, of the sweep that share, which never falls.
    """

    def __init__(
        self,
        simulator: AnySimulator,
        clips: Clips,
        points: Points,
        settings: Settings | None = None,
        report: Callable[[str, int, int, float], None] | None = None,
    ) -> None:
        self.simulator = simulator
        self.slots: Slots = simulator.slots
        # What is searched: a network for streams may have no MHSA.
        self.cut = "mhsa_mac_cut" if simulator.counted.dense_macs() else "mac_cut"
        self.tapes = points.heard is not None
        self.clips = clips
        self.points = points
        self.settings = settings or Settings()
        self.report = report or (lambda *at: None)
        self.plan: list[tuple[str, float]] = []
        self.passed = 0  # stages of the plan
        self.ladder, self.height, self.places = self._ladder()
        self.found: dict[str, Point] = {}  # all points on all clips, by key
        self.guides: dict[str, Guide] = {}
        if self.settings.boards:
            self.fingerprint = instructions.fingerprint()
            if not self.tapes:
                points.measured = self._clips_to_measure

    def cut_of(self, point: Point) -> float:
        """What a point saves of the work that is searched."""
        return float(point["tape"]["mac_cut"] if self.tapes else point[self.cut])

    def _ladder(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Thresholds by rung.

        Returns:
            float [rungs, slots], rung 0 dense (negative), each higher than the one
            before; the highest rung int [slots]; which rung each quantile is: int
            [quantiles, slots].
        """
        changes = self.simulator.changes(self.clips.features[:LADDER_CLIPS], QUANTILES)
        if self.tapes:
            changes = self._one_row(changes)
        ladder = np.full((len(QUANTILES) + 1, len(self.slots)), -1.0)
        height = np.zeros(len(self.slots), int)
        places = np.zeros(changes.shape, int)
        for slot in range(len(self.slots)):
            # Four digits: what is printed and stored is what was simulated.
            values = [float(f"{v:.4g}") for v in changes[:, slot]]
            rungs = sorted(set(values))  # int8 thresholds are often equal
            height[slot] = len(rungs)
            ladder[1 : len(rungs) + 1, slot] = rungs
            places[:, slot] = [rungs.index(v) + 1 for v in values]
        return ladder, height, places

    def _one_row(self, changes: np.ndarray) -> np.ndarray:
        """The changes, with thresholds for what only a stream changes."""
        assert not isinstance(self.simulator, Simulator)
        rows = {product.slot: product.rows for product in self.simulator.products.every}
        places = np.linspace(0, len(ONE_ROW) - 1, len(QUANTILES)).round().astype(int)
        for place, slot in enumerate(self.slots):
            if rows[slot] == 1:
                steps = np.array(ONE_ROW)[places]
                changes[:, place] = steps * self.simulator.scales[place]
        return changes

    def thresholds(self, rungs: np.ndarray) -> Thresholds:
        """The thresholds of a setting, int [slots]."""
        return Thresholds(
            self.slots, np.take_along_axis(self.ladder, rungs[None], axis=0)[0]
        )

    def _clips_to_measure(self) -> np.ndarray:
        run = self.simulator.run(
            self.clips.features, self.thresholds(self.places[MIDDLE])
        )
        return instructions.representative(run, self.settings.board_clips)

    # ---- asking for points -------------------------------------------------------

    def simulate(self, stage: str, asked: Asked) -> list[Point]:
        """Simulate settings, or read them from the journal; in order.

        Moves take the first `move_clips` clips, the others all of them.
        """
        jobs = []
        few = self.settings.move_clips
        for _, rungs, near in asked:
            clips = None if near is None or few >= len(self.clips) else few
            name: int | str = clips or "all"
            if self.tapes and near is not None:
                name = "excerpt"
            jobs.append(
                Job(
                    key=f"{name}:{_hex(rungs)}",
                    rungs=tuple(map(int, rungs.flat)),
                    thresholds=self.thresholds(rungs).values,
                    clips=clips,
                    near=None if near is None else self.thresholds(near).values,
                )
            )
        tables = self._make(stage, jobs)
        out = []
        for (stage_, rungs, near), table in zip(asked, tables, strict=True):
            item = {"stage": stage_, "rungs": rungs, **table}
            if near is None:
                item = self.found.setdefault(table["key"], item)
            out.append(item)
        return out

    def measure(self, stage: str, wanted: dict[str, list[Point]]) -> None:
        """Count instructions of points on boards, or read them from the journal.

        Args:
            stage: Its name.
            wanted: Board -> points from `simulate`; they get instructions{board}.
        """
        jobs, items = [], []
        for board, points in wanted.items():
            for item in points:
                if board in item.get("instructions", {}):
                    continue
                what = "excerpt" if self.tapes else self.settings.board_clips
                name = f"{board}*{what}/{self.fingerprint}"
                jobs.append(
                    Job(
                        key=f"{name}:{_hex(item['rungs'])}",
                        rungs=tuple(map(int, item["rungs"].flat)),
                        thresholds=self.thresholds(item["rungs"]).values,
                        board=board,
                    )
                )
                items.append(item)
        tables = self._make(stage, jobs)
        for job, item, table in zip(jobs, items, tables, strict=True):
            for name in INSTRUCTIONS:
                if name in table:
                    item.setdefault(name, {})[job.board] = table[name]
            item.setdefault("measured", {})[job.board] = table["layer_sent"]

    def _shares(self, layer_sent: dict[str, list[float | None]]) -> np.ndarray:
        return instructions.shares_of(layer_sent, self.slots)

    def _make(self, stage: str, jobs: list[Job]) -> list[dict[str, Any]]:
        """The jobs' tables; tells how far the stage and the sweep are."""
        names = [name for name, _ in self.plan]
        if stage in names[self.passed :]:  # some may have been left out
            self.passed = names.index(stage, self.passed) + 1
        work = [weight for _, weight in self.plan] or [1.0]
        before, here = sum(work[: self.passed - 1]), work[self.passed - 1]

        def report(done: int, total: int) -> None:
            share = (before + here * done / total) / sum(work)
            self.report(stage, done, total, share)

        return self.points.make(jobs, report)

    def _planned(self, grid: int) -> list[tuple[str, float]]:
        """The stages to come, each with its work in points on all clips, roughly.

        Fewer rounds than planned may do; then the share of work done jumps ahead.
        """
        settings, boards = self.settings, len(self.settings.boards)
        searches = len(settings.targets) + boards * len(settings.board_targets)
        few = min(1.0, settings.move_clips / len(self.clips))
        if self.points.heard is not None:
            whole = sum(tape.hours for _, tape, _ in self.points.heard.recordings)
            excerpt = len(self.points.heard.excerpt) / SAMPLE_RATE / 3600
            few = min(1.0, excerpt / whole)
        moves = len(self.slots) * few  # half: on shared prefixes
        rounds = [
            ("moves", searches * moves),
            ("refined", searches * len(settings.steps)),
        ]
        measured = [("on boards", float(boards * grid))] if boards else []
        worth = [("worth it", grid / 2)] * boards
        return [
            ("grid", float(grid)),
            *measured,
            *worth,
            *rounds * settings.rounds,
            *measured,
        ]

    # ---- stages ------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All stages.

        Returns:
            Stable keys of `kws sweep --json`: task, split, n, points, pareto.
        """
        boards = self.settings.boards
        dense = np.zeros(len(self.slots), int)
        asked: Asked = [("dense", dense, None)]
        attention = ~self.slots.of(MLP_KINDS)
        asked += [("global", np.where(attention, r, 0), None) for r in self.places]
        asked += [("with MLP", rungs, None) for rungs in self.places[1::3]]
        for kind, quantile in itertools.product(self.slots.kinds, SINGLE_QUANTILES):
            single = np.where(self.slots.of([kind]), self.places[quantile], 0)
            asked.append(("single", single, None))
        self.plan = self._planned(len(asked))
        self.simulate("grid", asked)
        grid = list(self.found.values())
        self.measure("on boards", dict.fromkeys(boards, grid))
        for board in boards:
            self.guides[board] = self._guide(board)

        searches: list[Search] = []
        for target in self.settings.targets:
            every = np.ones(len(self.slots), bool)
            movable = every if self.tapes else attention
            searches.append(self._refine(grid, target, self.cut_of, movable))
        for board in boards:
            searches += self._instruction_searches(grid, board)
        self._together(searches)
        self.measure("on boards", {board: self._candidates(board) for board in boards})
        return self.table()

    def _together(self, searches: Sequence[Search]) -> None:
        """Run searches side by side: what all ask for is made together."""
        asked = [(search, next(search, None)) for search in searches]
        while asked := [(search, wants) for search, wants in asked if wants]:
            every = [item for _, wants in asked for item in wants]
            stage = "moves" if every[0][2] is not None else "refined"
            points = iter(self.simulate(stage, every))
            answers = [(s, list(itertools.islice(points, len(w)))) for s, w in asked]
            asked = [(search, _send(search, answer)) for search, answer in answers]

    def _guide(self, board: str) -> Guide:
        known = [p for p in self.found.values() if board in p.get("instructions", {})]
        return Guide(
            self.slots,
            known[0]["instructions"][board],
            [p["rungs"] > 0 for p in known],
            [self._shares(p["measured"][board]) for p in known],
            [p["instructions"][board] for p in known],
        )

    def _guess(self, board: str, item: Point) -> float:
        """Share of the dense network's instructions that a point saves, guessed."""
        guide = self.guides[board]
        guessed = guide(item["rungs"] > 0, self._shares(item["layer_sent"]))
        return 1.0 - guessed / guide.dense

    def _instruction_searches(self, grid: list[Point], board: str) -> list[Search]:
        """Searches near targets of instructions, from what is worth encoding."""
        guide = self.guides[board]
        starts: dict[bytes, np.ndarray] = {}
        for item in grid:
            shares = self._shares(item["layer_sent"])
            worth = guide.worthwhile(item["rungs"] > 0, shares)
            rungs = np.where(worth, item["rungs"], 0)
            starts.setdefault(rungs.tobytes(), rungs)
        points = self.simulate(
            "worth it", [("worth", r, None) for r in starts.values()]
        )
        points += grid
        # The largest cut that is not paid for with a broken network.
        dense = grid[0]["accuracy"]
        most = max(
            self._guess(board, p) for p in points if p["accuracy"] >= dense - 0.05
        )
        if most <= 0.0:
            return []
        every = np.ones(len(self.slots), bool)
        return [
            self._refine(points, share * most, lambda p: self._guess(board, p), every)
            for share in self.settings.board_targets
        ]

    def _refine(
        self,
        points: list[Point],
        target: float,
        cut: Callable[[Point], float],
        movable: np.ndarray,
    ) -> Search:
        """Better points near a target, by moves of single rungs.

        Args:
            points: To start from.
            target: Share of MACs or instructions to save.
            cut: What a point saves of them.
            movable: bool [slots]: those that may be moved.
        """

        def price(item: Point) -> float:
            """Divergence, with what is missing to the target on top."""
            short = max(0.0, target - cut(item)) / max(target, 0.05)
            return float(item["divergence"]) * (1 + 20 * short)

        allowed = [p for p in points if cut(p) >= 0.96 * target]
        if not allowed:
            allowed = [max(points, key=cut)]
        best = min(allowed, key=price)
        for _ in range(self.settings.rounds):
            found = yield from self._moved(best, target, cut, movable)
            better = min(
                (p for p in found if cut(p) >= 0.994 * target), key=price, default=None
            )
            done = cut(best) >= 0.994 * target
            if better is None or (done and price(better) >= price(best)):
                break
            best = better

    def _moved(
        self,
        start: Point,
        target: float,
        cut: Callable[[Point], float],
        movable: np.ndarray,
    ) -> Generator[Asked, list[Point], list[Point]]:
        """One round of moves around a point, and the best of them taken together."""
        rungs = start["rungs"]
        moves: list[Move] = []
        settings = [rungs]
        for slot in np.flatnonzero(movable).tolist():
            now, top = rungs[slot], self.height[slot]
            # What is not encoded may be, halfway: the lowest rungs cost the most.
            steps = (-1, 1) if now else (int(self.places[MIDDLE, slot]),)
            if now > 1:
                steps = (*steps, -now)
            for step in steps:
                if 0 <= now + step <= top:
                    moved = rungs.copy()
                    moved[slot] += step
                    moves.append((slot, step))
                    settings.append(moved)
        base, *tables = yield [("moves", moved, rungs) for moved in settings]
        gain = np.array([cut(table) - cut(base) for table in tables])
        harm = np.array([t["divergence"] - base["divergence"] for t in tables])
        needed = target - cut(start)
        unique: dict[bytes, np.ndarray] = {}
        for size in self.settings.steps:
            taken = take_moves(moves, gain, harm, needed, size)
            moved = rungs.copy()
            for slot, step in taken:
                moved[slot] += step
            if taken:
                unique.setdefault(moved.tobytes(), moved)
        if not unique:
            return []
        return (yield [("refined", moved, None) for moved in unique.values()])

    def _candidates(self, board: str) -> list[Point]:
        """Points that may be on a front: of MACs, or of instructions as guessed."""
        points = list(self.found.values())
        guesses = {id(p): self._guess(board, p) for p in points}
        worths = ("accuracy", "divergence", *((FAULTS,) if self.tapes else ()))
        chosen = {
            index
            for worth in worths
            for index in pareto(points, lambda p: guesses[id(p)], worth)
        }
        for worth in worths[::2]:
            chosen |= set(pareto(points, self.cut_of, worth))
        chosen |= set(pareto(points, lambda p: float(p["mac_cut"])))
        return [points[index] for index in sorted(chosen)]

    def table(self) -> dict[str, Any]:
        """Everything found, the Pareto fronts by index."""
        hidden = ("rungs", "key", "measured", "task", "split", "n", "features")
        out = []
        for item in self.found.values():
            row = {key: value for key, value in item.items() if key not in hidden}
            if not isinstance(self.simulator, Simulator):
                steps = self.simulator.steps(self.thresholds(item["rungs"]))
                row["steps"] = steps.to_steps()
            row.setdefault("instructions", {})
            out.append(row)
        return {
            "task": self.clips.task,
            "split": self.clips.split,
            "features": self.clips.kind,
            "engine": "float" if isinstance(self.simulator, Simulator) else "int8",
            "n": len(self.clips),
            "labels": list(self.simulator.bundle.labels),
            "points": out,
            "pareto": pareto(out, lambda p: float(p[self.cut])),
            "pareto_model": pareto(out, lambda p: float(p["mac_cut"])),
            "boards": {board: self._on_board(board, out) for board in self.guides},
            **({"on_tapes": self._on_tapes(out)} if self.tapes else {}),
        }

    def _on_tapes(self, points: list[Point]) -> dict[str, Any]:
        """What points were judged on, and those that no other beats in what is heard
        (`faults`: misses and false alarms) or in accuracy, and in MACs a second."""
        heard = self.points.heard
        assert heard is not None
        detector = self.simulator.bundle.recipe.detector
        return {
            "tapes": [
                {
                    "name": Path(name).name,
                    "kind": tape.kind,
                    "hours": tape.hours,
                    "words": len(windows),
                }
                for name, tape, windows in heard.recordings
            ],
            "hours": points[0]["tape"]["hours"],
            "words": points[0]["tape"]["words"],
            "excerpt_seconds": len(heard.excerpt) / SAMPLE_RATE,
            "decisions_per_second": 1000 / decision_ms(self.simulator.bundle.recipe),
            "detector": dataclasses.asdict(detector),
            "pareto": pareto(points, self.cut_of),
            "pareto_faults": pareto(points, self.cut_of, FAULTS),
        }

    def _on_board(self, board: str, points: list[Point]) -> dict[str, Any]:
        measured = [i for i, p in enumerate(points) if board in p["instructions"]]
        front = pareto(
            [points[i] for i in measured], lambda p: -float(p["instructions"][board])
        )
        on_tapes: dict[str, Any] = {}
        if self.tapes:
            faults = pareto(
                [points[i] for i in measured],
                lambda p: -float(p["instructions"][board]),
                FAULTS,
            )
            on_tapes = {"pareto_faults": [measured[i] for i in faults]}
        return {
            "clips": min(self.settings.board_clips, len(self.clips)),
            **on_tapes,
            "dense": points[0]["instructions"][board],
            "measured": len(measured),
            "guide_error": round(self.guides[board].error, 5),
            "pareto": [measured[i] for i in front],
        }


def _send(search: Search, points: list[Point]) -> Asked | None:
    try:
        return search.send(points)
    except StopIteration:
        return None


def _hex(rungs: np.ndarray) -> str:
    return "".join(f"{r:x}" for r in rungs.flat)


Move = tuple[int, int]
"""(slot, rungs up or down)"""


def take_moves(
    moves: Sequence[Move], gain: np.ndarray, harm: np.ndarray, needed: float, size: int
) -> list[Move]:
    """At most `size` moves that together gain what is needed.

    For a price, each slot has one best move; those whose harm less price
    times gain is lowest are taken. The price is searched for by bisection, since what
    the moves gain together grows with it.

    Args:
        moves: One slot each, several of the same.
        gain: Work saved by each, as a share; negative where it spends some.
        harm: Divergence added by each; negative where it mends.
        needed: Share of work to save together; negative: that may be spent.
        size: How many to take at most.

    Example:
        >>> take_moves([(0, 1), (7, 1)], np.array([0.1, 0.1]), np.array([1, 2.0]),
        ...            needed=0.1, size=1)
        [(0, 1)]
    """

    def best(price: float) -> list[int]:
        worth = harm - price * gain
        chosen: dict[int, int] = {}
        for index in np.argsort(worth, kind="stable"):
            slot = moves[index][0]
            if worth[index] < 0 and slot not in chosen and len(chosen) < size:
                chosen[slot] = int(index)
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


def pareto(
    points: Sequence[Point],
    cut: Callable[[Point], float],
    worth: str = "accuracy",
) -> list[int]:
    """Indices of the points that no other beats in both worth and cut, by cut.

    Of points with equal worth and cut, the one with the least divergence stays.

    Args:
        points: From `Sweep.simulate`.
        cut: What a point saves; the more the better.
        worth: `accuracy`; or `divergence` or `faults`, the less the better.
    """

    def value(point: Point) -> float:
        if worth == FAULTS:
            return -float(point["tape"]["missed"] + point["tape"]["false_alarms"])
        return -float(point[worth]) if worth == "divergence" else float(point[worth])

    order = sorted(
        range(len(points)),
        key=lambda i: (-cut(points[i]), -value(points[i]), points[i]["divergence"]),
    )
    front, best = [], -np.inf
    for index in order:
        if value(points[index]) > best:
            best = value(points[index])
            front.append(index)
    return front[::-1]


def network_file(simulator: AnySimulator) -> Path:
    """The file of the network that is swept."""
    bundle = simulator.bundle
    float_ = isinstance(simulator, Simulator)
    return bundle.weights_path if float_ else bundle.model_path


def identity(
    simulator: AnySimulator, clips: Clips, heard: Hearing | None = None
) -> str:
    """Hash of what a point depends on besides its thresholds."""
    digest = hashlib.sha256(network_file(simulator).read_bytes())
    facts = [clips.fingerprint, clips.kind, QUANTILES, LADDER_CLIPS, VERSION]
    facts += [simulator.slots.by_layer]
    if heard is not None:  # the detector decides what is heard
        detector = dataclasses.asdict(simulator.bundle.recipe.detector)
        facts += [heard.fingerprint, detector, ONE_ROW]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


TAPE = ("missed", "false_alarms", "macs_per_second")


def csv(table: dict[str, Any]) -> str:
    """The points as comma-separated values, one line each, with a header."""
    names = ("accuracy", "divergence", "mhsa_mac_cut", "mac_cut", "mhsa_mac_cut_rows")
    boards = list(table["boards"])
    head = ["point", "stage", "pareto", *names, "macs_mean", "macs_p95"]
    head += [f"instructions_{board}" for board in boards]
    head += [*(TAPE if "on_tapes" in table else ()), "thresholds"]
    lines = [",".join(head)]
    front = set(table["pareto"])
    for index, item in enumerate(table["points"]):
        cells = [str(index), item["stage"], str(int(index in front))]
        cells += [f"{item[name]:.6g}" for name in names]
        cells += [f"{item['macs'][name]:.0f}" for name in ("mean", "p95")]
        cells += [str(item["instructions"].get(board, "")) for board in boards]
        if "on_tapes" in table:
            cells += [f"{item['tape'][name]:.6g}" for name in TAPE]
        cells.append(" ".join(f"{k}={v:g}" for k, v in item["thresholds"].items()))
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"
