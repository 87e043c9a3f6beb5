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
from kws.deploy import boards, build, emit, run, runners, toolchain
from kws.deploy.boards import Board
from kws.errors import CheckFailed, KwsError
from kws.graph import weight_layout
from kws.paths import FIRMWARE
from kws.simulate import cost
from kws.simulate.cost import KINDS
from kws.simulate.integer import IntegerSimulator
from kws.simulate.simulator import Run, Thresholds

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
    sources = Path(emit.__file__).parent, Path(weight_layout.__file__).parent, FIRMWARE
    for folder in sources:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".c", ".h", ".S", ".ld", ".toml", ".py"):
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def with_thresholds(simulator: IntegerSimulator, thresholds: Thresholds) -> Bundle:
    """The bundle with other thresholds, in memory."""
    steps = Thresholds(simulator.steps(thresholds)).to_dict()
    whole = {key: int(value) for key, value in steps.items()}
    return dataclasses.replace(simulator.bundle, thresholds=whole)


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
    target = boards.load(board)
    texts = dict(emit.model_sources(bundle, target.core).texts)
    # The app `clips` runs no self-test.
    placeholder = np.zeros(len(bundle.labels), np.int8)
    texts[emit.FILES[2]] = emit.selftest_source(bundle, placeholder)
    with tempfile.TemporaryDirectory(prefix="kws-sweep-") as name:
        folder = Path(name)
        (folder / "model").mkdir()
        for file, text in texts.items():
            (folder / "model" / file).write_text(text, encoding="ascii")
        image = build.build(folder / "model", target, folder, "clips")
        samples = pcm[:, : bundle.recipe.features.clip_samples]
        result = run.clips(image.elf, target, samples, len(bundle.labels), jobs=1)
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


def layer_sent(run: Run) -> dict[str, list[float]]:
    """Kind -> share of elements transmitted in each layer, mean over clips."""
    shape = run.shape
    return {
        kind: [
            round(float(share), 5)
            for share in run.counts.sent[kind].mean(axis=0)
            / (shape.tokens * shape.columns(kind))
        ]
        for kind in KINDS
    }


def representative(run: Run, count: int) -> np.ndarray:
    """Clips whose costs are at even quantiles of all clips', int [count], ascending.

    A mean over few clips is then close to that over all of them.

    Args:
        run: With thresholds that some clips profit from more than others.
        count: How many; fewer where there are no more.
    """
    spent = cost.macs(run.shape, run.counts)
    each = sum(spent[name].sum(axis=1) for name in ("qkv", "scores_rows", "mix", "out"))
    order = np.argsort(each, kind="stable")
    count = min(count, len(order))
    return np.sort(order[((np.arange(count) + 0.5) / count * len(order)).astype(int)])


class Guide:
    """Instructions as a linear function of what is encoded and transmitted.

    Per tensor kind: a price for each layer that encodes it, and one for the share that
    is transmitted; and a price for each layer whose Q.K^T and P.V run sparse.

    Args:
        dense: What the dense network takes.
        settings: Encoded kinds, bool [layers, kinds], of each measurement.
        shares: Transmitted shares, [layers, kinds] each; see `layer_sent`.
        instructions: What was measured.

    `error` is the root mean square of what it guesses wrong, as a share of dense.

    Example:
        >>> x = np.zeros((1, len(KINDS)), bool)  # one layer
        >>> x[0, KINDS.index("X")] = True
        >>> guide = Guide(8e6, [x, x], [0.2 * x, 0.4 * x], [7.0e6, 7.2e6])
        >>> round(guide(x, 0.3 * x), -5)
        7100000.0
    """

    def __init__(
        self,
        dense: float,
        settings: Sequence[np.ndarray],
        shares: Sequence[np.ndarray],
        instructions: Sequence[float],
    ) -> None:
        pairs = zip(settings, shares, strict=True)
        rows = np.array([_terms(*pair).sum(axis=0) for pair in pairs])
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
        return self.dense + float((_terms(encoded, shares) @ self.prices).sum())

    def worthwhile(self, encoded: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Per layer, the encoded kinds that are worth it: bool [layers, kinds]."""
        best, least = encoded.copy(), np.full(len(encoded), np.inf)
        for keep in itertools.product((False, True), repeat=encoded.shape[1]):
            tried = encoded & np.array(keep)
            spent = _terms(tried, shares) @ self.prices
            for layer in np.flatnonzero(spent < least - 1e-9):
                best[layer], least[layer] = tried[layer], spent[layer]
        return best


def _terms(encoded: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What prices apply to, by layer: [layers, 2 * kinds + 1]."""
    attention = [KINDS.index(kind) for kind in ATTENTION]
    sparse = np.any(encoded[:, attention], axis=1, keepdims=True)
    return np.concatenate([encoded, encoded * shares, sparse], axis=1, dtype=np.float64)
