"""What a second of sound costs: a recording as one stream, step by step (DESIGN D16).

The firmware's C runs it on this machine, with its counters of what was transmitted;
multiply-accumulates follow by the one rule (kws/graph/cost.py). Where an emulated board
is asked for, the same recording runs there, and every instruction is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import build, host, run
from kws.deploy.boards import Board
from kws.emit import native
from kws.emit.common import Network
from kws.errors import CheckFailed, KwsError, quoted
from kws.graph import cost
from kws.recipe import decision_ms

MIN_DECISIONS = 2  # the first one's cost is a clip's


@dataclass(frozen=True)
class Instructions:
    """Of an emulated board.

    Args:
        features, model: Instructions a second of sound.
        loop: The same of kws_poll around both: samples, level meter, detector.
        decision: Of the network, for one decision; mean.
        decision_max: The dearest.
        sleep_share: Of the board's time, with its cycles per instruction; 0 where it
            can't keep up.
        steps: int64 [decisions, 2]: the features' since the decision before, and the
            network's.
    """

    features: int
    model: int
    loop: int
    decision: int
    decision_max: int
    sleep_share: float
    steps: np.ndarray

    @property
    def total(self) -> int:
        """Of features and network, as everywhere; the loop comes on top."""
        return self.features + self.model

    def on(self, board: Board) -> Instructions:
        """The same work on a board with the same core: its clock, and its microphone's
        interrupt, say how long it sleeps."""
        second = self.total + self.loop + run.microphone_per_second(board)
        busy = second / board.instructions_per_second
        return replace(self, sleep_share=max(0.0, 1 - busy))


@dataclass(frozen=True)
class PerSecond:
    """What a recording costs.

    Args:
        seconds: Its length.
        decisions_per_second: Of the network.
        sent: Kind -> share of its elements that was transmitted.
        at_rest: Share of decisions that were the one before, since nothing changed.
        macs_dense: Of a decision, with nothing skipped.
        macs: float64 [decisions], multiply-accumulates executed for each, the first
            left out: it starts from nothing.
        instructions: Where they were counted.
    """

    seconds: float
    decisions_per_second: float
    sent: dict[str, float]
    at_rest: float
    macs_dense: int
    macs: np.ndarray
    instructions: Instructions | None = None

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws profile --audio --json` (DESIGN section 4)."""
        counted = self.instructions
        return {
            "seconds": self.seconds,
            "decisions_per_second": self.decisions_per_second,
            "sent": self.sent,
            "at_rest": self.at_rest,
            "macs_per_decision": {
                "dense": self.macs_dense,
                "mean": float(self.macs.mean()),
                "p95": float(np.percentile(self.macs, 95)),
            },
            "macs_per_second": float(self.macs.mean() * self.decisions_per_second),
            "instructions_per_second": counted
            and {
                "features": counted.features,
                "model": counted.model,
                "total": counted.total,
                "loop": counted.loop,
            },
            "instructions_per_decision": counted
            and {"mean": counted.decision, "max": counted.decision_max},
            "sleep_share": counted and counted.sleep_share,
        }

    def text(self) -> str:
        """For people."""
        rate, mean = self.decisions_per_second, self.macs.mean()
        lines = [
            f"{self.seconds:.1f} s of sound as one stream, {rate:g} decisions a second",
            f"{'MACs':<16}{'dense':>12}{'mean':>12}{'95 %':>12}",
            f"{'  a decision':<16}{self.macs_dense:>12,}{mean:>12,.0f}"
            f"{np.percentile(self.macs, 95):>12,.0f}",
            f"{'  a second':<16}{rate * self.macs_dense:>12,.0f}{rate * mean:>12,.0f}",
        ]
        if self.sent:
            shares = (f"{kind} {100 * part:.1f} %" for kind, part in self.sent.items())
            lines.append("sent: " + ", ".join(shares))
        if self.at_rest:
            lines.append(f"at rest in {100 * self.at_rest:.1f} % of the decisions")
        counted = self.instructions
        if counted is not None:
            lines += [
                f"instructions a second: {counted.total:,} "
                f"(features {counted.features:,}, network {counted.model:,}; the loop "
                f"around them {counted.loop:,} more)",
                f"a decision: {counted.decision:,}, at most {counted.decision_max:,}",
                f"asleep {100 * counted.sleep_share:.0f} % of the time",
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Steps:
    """A recording as one stream, decision by decision. The first one's cost is a
    clip's: it starts from nothing.

    Args:
        found: What the C gave.
        network: That runs here; says which products `found.sent` counts.
        macs_dense: Of a decision, with nothing skipped.
        macs: float64 [decisions], multiply-accumulates executed for each.
        at_rest: bool [decisions]: nothing had changed for so long that nothing ran.
    """

    found: host.Decisions
    network: Network
    macs_dense: int
    macs: np.ndarray
    at_rest: np.ndarray

    def sent(self, chosen: np.ndarray) -> dict[str, float]:
        """Kind -> share of its elements that was transmitted in some decisions.

        Args:
            chosen: bool [decisions].
        """
        return _shares(self.network, self.found.sent[chosen])


def steps(
    pcm: np.ndarray,
    copy: host.Opened,
    here: Network,
    network: Network | None = None,
    whole: Sequence[int] = (),
) -> Steps:
    """Run a recording as one stream on this machine.

    Args:
        pcm: int16 [samples], 16 kHz.
        copy: An opened library.
        here: The network in it.
        network: Whose work is counted; None: that one's.
        whole: Products of a stream that count as not encoded, whatever they skip.

    Raises:
        KwsError: it is too short for two decisions.
    """
    network = network or here
    found = copy.follow(pcm)
    if len(found.sent) < MIN_DECISIONS:
        raise KwsError(
            "The recording is too short for the model to decide twice. Received: "
            f"{len(pcm) / run.SAMPLE_RATE:.1f} s",
            "kws data tape --out tape.wav   (makes a longer one)",
        )
    for place in whole:
        found.sent[:, place] = here.products[place].inputs
    counted = cost.noted(here.transmitted(list(found.sent.T.astype(float))))
    still = _at_rest(here, found.sent)
    macs = np.where(still, 0.0, cost.total(network.nodes, counted).macs)
    return Steps(found, here, cost.whole(network.dense.macs), macs, still)


def on_host(bundle: Bundle, pcm: np.ndarray, core: str = "portable") -> PerSecond:
    """Run a recording as one stream on this machine.

    Args:
        bundle: A converted bundle.
        pcm: int16 [samples], 16 kHz.
        core: Whose network is counted.

    Raises:
        KwsError: it is too short for two decisions.
    """
    here = native.sources(bundle, "portable").network
    network = native.sources(bundle, core).network
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        every = steps(pcm, copy, here, network)
    later = np.arange(len(every.macs)) > 0
    return PerSecond(
        seconds=len(pcm) / run.SAMPLE_RATE,
        decisions_per_second=1000 / decision_ms(bundle.recipe),
        sent=every.sent(later),
        at_rest=float(every.at_rest[later].mean()),
        macs_dense=every.macs_dense,
        macs=every.macs[later],
    )


def _at_rest(network: Network, sent: np.ndarray) -> np.ndarray:
    """bool [decisions]: the features were held for so long that nothing ran."""
    kinds = [product.kind for product in network.products]
    still = np.zeros(len(sent), bool)
    if network.stream is None or "F" not in kinds:
        return still
    count = 0
    for index, moved in enumerate(sent[:, kinds.index("F")]):
        count = 0 if moved else count + 1
        still[index] = count > network.stream.looks_back
    return still


def _shares(network: Network, sent: np.ndarray) -> dict[str, float]:
    """Kind -> share of its elements that was transmitted."""
    mean, whole = dict[str, float](), dict[str, int]()
    for product, column in zip(network.products, sent.T, strict=True):
        kind, step = product.kind, network.stream is not None
        elements = product.inputs if step else product.elements
        mean[kind] = mean.get(kind, 0.0) + float(column.mean())
        whole[kind] = whole.get(kind, 0) + elements
    return {kind: mean[kind] / whole[kind] for kind in mean}


def on_board(
    bundle: Bundle,
    board: Board,
    model_dir: Path,
    out: Path,
    pcm: np.ndarray,
    compiler: str | None = None,
) -> Instructions:
    """Run a recording as one stream on an emulated board, and count.

    Args:
        bundle: A converted bundle.
        board: An emulated one.
        model_dir: The bundle's C for its core.
        out: Folder of the build.
        pcm: int16 [samples], 16 kHz.
        compiler: `gcc`, `zig`, or None for what is installed.

    Raises:
        KwsError: the model cannot be built.
        CheckFailed: the image did not run to its end, with this machine's logits.
    """
    image = build.build(model_dir, board, out, "clips", compiler)
    expected, _ = host.run(bundle, pcm[None, :])
    return counted(bundle, board, image.elf, pcm, expected[0])


def counted(
    bundle: Bundle, board: Board, image: Path, pcm: np.ndarray, expected: np.ndarray
) -> Instructions:
    """The same with an image that is built.

    Args:
        bundle: That is in it.
        board: An emulated one.
        image: ELF of the app `clips`.
        pcm: int16 [samples], 16 kHz.
        expected: int8 [labels], this machine's logits at the end of the recording.

    Raises:
        CheckFailed: the image did not run to its end, with those logits.
    """
    labels = len(bundle.labels)
    result = run.clips(image, board, pcm[None, :], labels, jobs=1)
    if not np.array_equal(expected, result.logits[0]):
        raise CheckFailed(
            f"{board.name} and this machine disagree at the end of the recording: a "
            "fault of kws.",
            f"kws eval {quoted(bundle.path)} --engine host,qemu --board {board.name}",
        )
    features = bundle.recipe.features
    decisions = 1000 / decision_ms(bundle.recipe)
    per_frame, each = result.instructions_per_frame, result.instructions_per_inference
    frames = run.SAMPLE_RATE / features.hop
    front = round(frames * per_frame)
    loop = round(frames * result.loop_instructions_per_frame)
    model = round(decisions * each)
    found = Instructions(
        front,
        model,
        loop,
        each,
        result.instructions_per_inference_max,
        0.0,
        result.steps,
    )
    return found.on(board)
