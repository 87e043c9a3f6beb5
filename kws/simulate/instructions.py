"""Instructions of one inference on a board: measured, and guessed in between.

What is reported is measured: the firmware with the thresholds at hand is built (they
are constants of its C; a third of a second, as only the model's file changes) and runs
a few clips under QEMU, which counts instructions exactly.

A search asks for far more settings than that. It is guided by a `Guide`: what was
measured so far, as a linear function of which tensors are encoded and how much of them
is transmitted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import boards, build, host, run, runners, toolchain
from kws.deploy.boards import Board
from kws.emit import SELFTEST, native, selftest
from kws.errors import CheckFailed, KwsError
from kws.paths import FIRMWARE
from kws.recipe import decision_ms
from kws.simulate.integer import IntegerSimulator
from kws.simulate.simulator import Run
from kws.simulate.stream import Judge
from kws.thresholds import Slots, Thresholds

DEFAULT_BOARDS = ("qemu-m4", "qemu-m55")
ATTENTION = ("Q", "K", "P")  # kinds whose products are one kernel


def find_boards(names: Sequence[str]) -> list[Board]:
    """Boards to measure on, by name.

    Raises:
        KwsError: no such board, one without an emulator, or a tool is missing.
    """
    found = []
    for name in names:
        board = boards.load(name)
        if board.runner != "qemu":
            raise KwsError(
                "Instructions are counted in an emulator. Expected boards with "
                f"runner = 'qemu'. Received: {name} ({board.runner})",
                f"--boards {','.join(DEFAULT_BOARDS)}",
            )
        error = runners.get(board.runner).missing()
        if error is not None:
            raise error
        found.append(board)
    if found:
        toolchain.find()
    return found


def fingerprint() -> str:
    """Eight hex digits of what a count depends on besides model and clips."""
    digest = hashlib.sha256(toolchain.find().version.encode())
    digest.update(host.emitter_fingerprint().encode())
    for path in sorted(FIRMWARE.rglob("*")):
        if path.suffix in (".c", ".h", ".S", ".ld", ".toml"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def with_thresholds(simulator: IntegerSimulator, thresholds: Thresholds) -> Bundle:
    """The bundle with other thresholds, in memory."""
    steps = simulator.steps(thresholds).to_steps()
    return dataclasses.replace(simulator.bundle, thresholds=steps)


def measure(
    simulator: IntegerSimulator,
    thresholds: Thresholds,
    board: str,
    pcm: np.ndarray,
    features: np.ndarray,
) -> dict[str, Any]:
    """Build the firmware with these thresholds and count what it executes.

    Args:
        simulator: Of the bundle.
        thresholds: In the simulator's units.
        board: Name of an emulated board.
        pcm: int16 [N, samples], the clips to run.
        features: int8 [N, frames, mel_bins] of the same clips.

    Returns:
        instructions: Of one inference, features not included, mean over the clips.
        instructions_max: The most expensive clip.
        layer_sent: See `layer_sent`, on these clips.

    Raises:
        KwsError: the model does not fit the board, or a tool is missing.
        CheckFailed: the firmware's logits are not the simulator's.
    """
    bundle = with_thresholds(simulator, thresholds)
    samples = pcm[:, : bundle.recipe.features.clip_samples]
    result = _run(bundle, boards.load(board), samples)
    simulated = simulator.run(features, thresholds)
    if not np.array_equal(simulated.logits, result.logits):
        raise CheckFailed(
            f"The firmware on {board} and the int8 simulator disagree. Expected equal "
            f"logits on {len(pcm)} clips. Received: other ones, with thresholds "
            f"{bundle.thresholds}",
            "Please report it, with the run's folder.",
        )
    return {
        "instructions": result.instructions_per_inference,
        "instructions_max": result.instructions_per_inference_max,
        "layer_sent": layer_sent(simulated),
    }


def _run(bundle: Bundle, board: Board, pcm: np.ndarray) -> run.ClipsResult:
    """Build the firmware of a bundle, and put clips through it."""
    texts = dict(native.sources(bundle, board.core).texts)
    # The app `clips` runs no self-test.
    placeholder = np.zeros(len(bundle.labels), np.int8)
    codes = selftest.clip(bundle.recipe.features.clip_samples)
    texts[SELFTEST] = selftest.source(placeholder, codes)
    with tempfile.TemporaryDirectory(prefix="kws-sweep-") as name:
        folder = Path(name)
        (folder / "model").mkdir()
        for file, text in texts.items():
            (folder / "model" / file).write_text(text, encoding="ascii")
        image = build.build(folder / "model", board, folder, "clips")
        return run.clips(image.elf, board, pcm, len(bundle.labels), jobs=1)


def measure_stream(judge: Judge, steps: Thresholds, board: str) -> dict[str, Any]:
    """The same of a stream: the excerpt of the tapes that a sweep judges on.

    Args:
        judge: Of the bundle and the tapes.
        steps: Thresholds in int8 steps.
        board: Name of an emulated board.

    Returns:
        instructions, instructions_max: Of a decision, features not included; mean and
        the dearest. The first is left out.
        instructions_per_second: Features and network.
        layer_sent: As `Judge.excerpt` has it.

    Raises:
        KwsError: the model does not fit the board, or a tool is missing.
        CheckFailed: the firmware's logits are not this machine's.
    """
    pcm, bundle = judge.heard.excerpt, judge.bundle
    changed = dataclasses.replace(bundle, thresholds=steps.to_steps())
    result = _run(changed, boards.load(board), pcm[None, :])
    if not np.array_equal(result.logits[0], judge.steps(pcm, steps).found.logits[-1]):
        raise CheckFailed(
            f"The firmware on {board} and this machine disagree. Expected equal logits "
            "at the end of the tapes' excerpt. Received: other ones, with thresholds "
            f"{changed.thresholds}",
            "Please report it, with the run's folder.",
        )
    features, model = result.steps[1:].T
    rate = 1000 / decision_ms(bundle.recipe)
    return {
        "instructions": round(float(model.mean())),
        "instructions_max": int(model.max()),
        "instructions_per_second": round(float(rate * (features + model).mean())),
        "layer_sent": judge.excerpt(steps)["layer_sent"],
    }


def layer_sent(run: Run) -> dict[str, list[float | None]]:
    """Kind -> share of elements transmitted in each layer, mean over clips.

    None for layers that have no such kind.
    """
    slots = run.network.slots
    shares = run.counts.sent.mean(axis=0) / run.network.elements()
    table: dict[str, list[float | None]] = {
        kind: [None] * slots.layers for kind in slots.kinds
    }
    for (layer, kind), share in zip(slots, shares, strict=True):
        table[kind][layer] = round(float(share), 5)
    return table


def shares_of(table: dict[str, list[float | None]], slots: Slots) -> np.ndarray:
    """`layer_sent` as float [slots]."""
    return np.array([table[kind][layer] for layer, kind in slots], np.float64)


def representative(run: Run, count: int) -> np.ndarray:
    """Clips whose costs are at even quantiles of all clips', int [count], ascending.

    A mean over few clips is then close to that over all of them.

    Args:
        run: With thresholds that some clips profit from more than others.
        count: How many; fewer where there are no more.
    """
    each = run.network.count(run.counts, mhsa=bool(run.network.dense_macs())).macs
    order = np.argsort(np.broadcast_to(each, len(run.logits)), kind="stable")
    count = min(count, len(order))
    return np.sort(order[((np.arange(count) + 0.5) / count * len(order)).astype(int)])


class Guide:
    """Instructions as a linear function of what is encoded and transmitted.

    Per tensor kind: a price for each layer that encodes it, and one for the share that
    is transmitted; and a price for each layer whose Q.K^T and P.V run sparse.

    Args:
        slots: The network's.
        dense: What the dense network takes.
        settings: What is encoded, bool [slots], of each measurement.
        shares: Transmitted shares, [slots] each; see `layer_sent`.
        instructions: What was measured.

    `error` is the root mean square of what it guesses wrong, as a share of dense.

    Example:
        >>> slots = Slots((("X", "M"),))  # one layer
        >>> x = slots.of(["X"])
        >>> guide = Guide(slots, 8e6, [x, x], [0.2 * x, 0.4 * x], [7.0e6, 7.2e6])
        >>> round(guide(x, 0.3 * x), -5)
        7100000.0
    """

    def __init__(
        self,
        slots: Slots,
        dense: float,
        settings: Sequence[np.ndarray],
        shares: Sequence[np.ndarray],
        instructions: Sequence[float],
    ) -> None:
        self.slots = slots
        pairs = zip(settings, shares, strict=True)
        rows = np.array([self._terms(*pair).sum(axis=0) for pair in pairs])
        target = np.asarray(instructions, np.float64) - dense
        scale = np.abs(rows).max(axis=0)
        scale[scale == 0] = 1.0
        # With a hint of a penalty: there may be fewer measurements than prices.
        penalty = 1e-3 * np.eye(len(scale))
        solution = np.linalg.lstsq(
            np.concatenate([rows / scale, penalty]),
            np.concatenate([target, np.zeros(len(scale))]),
            rcond=None,
        )[0]
        self.dense = dense
        self.prices = solution / scale
        self.error = float(np.sqrt(np.mean((rows @ self.prices - target) ** 2)) / dense)

    def __call__(self, encoded: np.ndarray, shares: np.ndarray) -> float:
        """Instructions of a setting."""
        return self.dense + float((self._terms(encoded, shares) @ self.prices).sum())

    def worthwhile(self, encoded: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Per layer, the encoded kinds that are worth it: bool [slots]."""
        layer = self.slots.layer
        best, least = encoded.copy(), np.full(self.slots.layers, np.inf)
        for keep in itertools.product((False, True), repeat=len(self.slots.kinds)):
            kept = [k for k, yes in zip(self.slots.kinds, keep, strict=True) if yes]
            tried = encoded & self.slots.of(kept)
            spent = self._terms(tried, shares) @ self.prices
            for index in np.flatnonzero(spent < least - 1e-9):
                best[layer == index] = tried[layer == index]
                least[index] = spent[index]
        return best

    def _terms(self, encoded: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """What prices apply to, by layer: [layers, 2 * kinds + 1]."""
        slots, kinds = self.slots, self.slots.kinds
        out = np.zeros((slots.layers, 2 * len(kinds) + 1))
        for place, (layer, kind) in enumerate(slots):
            column = kinds.index(kind)
            out[layer, column] = encoded[place]
            out[layer, len(kinds) + column] = encoded[place] * shares[place]
            if kind in ATTENTION and encoded[place]:
                out[layer, -1] = 1.0
        return out
