"""How good a bundle is on the clips of a split (on long tapes: kws/tapes.py).

Every accuracy comes with its task, N and a 95 % interval (DESIGN D10), and with another
one by speaker, where clips' names tell who speaks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import engines
from kws.bundle import Bundle
from kws.data import ClipSet, load
from kws.data.audio import SAMPLE_RATE
from kws.data.speakers import BySpeaker, by_speaker
from kws.deploy import boards
from kws.errors import CheckFailed, KwsError, quoted
from kws.intervals import wilson_interval
from kws.progress import Progress
from kws.recipe import decision_ms
from kws.thresholds import Thresholds

# Shares of multiply-accumulates that delta thresholds spare; `_rows`: Q.K^T as a
# Cortex-M runs it, not as papers count it.
AFTER = {"reset": "a reset", "silence": "a second of silence", "word": "another clip"}
MOST_LATE_MS = 1000
CUTS = ("mhsa_mac_cut", "mac_cut", "mhsa_mac_cut_rows", "mac_cut_rows")


@dataclass(frozen=True)
class Evaluation:
    """One engine on one set of clips.

    Args:
        task: Name of the task.
        split: `train`, `val` or `test`.
        engine: Name of the engine.
        board: The board it ran on, if any.
        labels: Label names.
        confusion: int [labels, labels]: clips by true label and by heard label.
        logits: [N, labels], as the engine gave them.
        seconds: What it took here.
        cost: What delta thresholds spared (kws.simulate.counts.summary); None where the
            engine or the bundle has none, and all is dense.
        after: What the stream heard before each clip: `reset` (nothing), `silence` or
            `word`.
        late_ms: How long after the clip's end the decision came.
        speakers: The same clips by who speaks; None: not known, or nobody twice.
    """

    task: str
    split: str
    engine: str
    board: str | None
    labels: tuple[str, ...]
    confusion: np.ndarray
    logits: np.ndarray
    seconds: float
    cost: dict[str, Any] | None = None
    after: str = "reset"
    late_ms: int = 0
    speakers: BySpeaker | None = None

    @property
    def n(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.n)

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, as if every clip were by itself."""
        return wilson_interval(int(np.trace(self.confusion)), self.n)

    @property
    def recall(self) -> dict[str, float | None]:
        """Share of each label's clips that were heard as it; None without clips."""
        counts = self.confusion.sum(axis=1)
        return {
            label: float(self.confusion[i, i] / counts[i]) if counts[i] else None
            for i, label in enumerate(self.labels)
        }

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws eval --json` (DESIGN section 4)."""
        return {
            "task": self.task,
            "split": self.split,
            "engine": self.engine,
            "board": self.board,
            "after": self.after,
            "late_ms": self.late_ms,
            "n": self.n,
            "accuracy": self.accuracy,
            "ci95": list(self.ci95),
            "speakers": None if self.speakers is None else self.speakers.as_dict(),
            "recall": self.recall,
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
            **{key: self.cost[key] if self.cost else 0.0 for key in CUTS},
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    bundle: Bundle,
    engine: str = "host",
    split: str = "test",
    audio: Path | None = None,
    limit: int | None = None,
    board: str | None = None,
    jobs: int = 2,
) -> Evaluation:
    """Load a split of the bundle's task and run an engine over it.

    Args:
        bundle: The run.
        engine: A name from kws.engines.
        split: `train`, `val` or `test`.
        audio: Where the clips are; None looks in the usual places.
        limit: The first N clips of a fixed shuffle.
        board: For engines that run on one.
        jobs: Processes, threads or emulators side by side.

    Example:
        >>> from kws import bundle
        >>> print(describe(evaluate(bundle.load("kwt-tiny"))))  # doctest: +SKIP
        gsc10, test, host: 95.60 % of 4,092 clips right (95 %: 94.93 to 96.19)
    """
    clips = load(split, bundle.recipe.task, audio, limit=limit)
    return evaluate_clips(bundle, clips, engine, board, jobs)


def describe(result: Evaluation) -> str:
    """One line for people: task, split, engine, accuracy, N, interval."""
    low, high = result.ci95
    where = f" on {result.board}" if result.board else ""
    if result.after != "reset":
        where += f", after {AFTER[result.after]}"
    if result.late_ms:
        where += f", {result.late_ms} ms after the clip's end"
    return (
        f"{result.task}, {result.split}, {result.engine}{where}: "
        f"{100 * result.accuracy:.2f} % of {result.n:,} clips right "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f})"
    )


def evaluate_clips(
    bundle: Bundle,
    clips: ClipSet,
    engine: str = "host",
    board: str | None = None,
    jobs: int = 2,
    after: str = "reset",
    late_ms: int = 0,
) -> Evaluation:
    """Run an engine over clips and count.

    Args:
        bundle: The run.
        clips: From kws.data.load, of the bundle's task.
        engine: A name from kws.engines.
        board: For engines that run on one.
        jobs: Processes, threads or emulators side by side.
        after: What comes before each clip: `reset`; or, for networks for streams on the
            engine host, a second of `silence` (digital zeros), or the clip before it
            (`word`; the first comes after the last).
        late_ms: With something before the clip: how long after its end the decision is
            taken, whole steps of the network; silence (zeros) follows meanwhile.

    Raises:
        KwsError: the clips' labels aren't the bundle's, or the engine can't run.
    """
    if clips.labels != bundle.labels:
        raise KwsError(
            "The clips' labels are not the bundle's. Expected "
            f"{', '.join(bundle.labels)}. Received: {', '.join(clips.labels)}",
            f"Mend [task] in {bundle.path / 'recipe.toml'}, or train again.",
        )
    engine = engines.canonical(engine)
    check_after(bundle, engine, after, late_ms)
    module = engines.get(engine)
    bar = Progress(f"{engine} on {len(clips)} clips", len(clips))
    start = time.monotonic()
    skips = bool(bundle.thresholds) and hasattr(module, "counted") and after == "reset"
    run = module.counted if skips else module.logits
    more = {}
    pcm = clips.pcm
    if after != "reset":
        before = _before(bundle, pcm, after)
        late = late_ms * SAMPLE_RATE // 1000
        # One stream: what comes before the clip grows by what the clip moves back.
        stream = np.pad(np.concatenate([before, pcm], axis=1), ((0, 0), (0, late)))
        more["before"], pcm = np.split(stream, [before.shape[1] + late], axis=1)
    result = run(bundle, pcm, jobs=jobs, board=board, progress=bar.at, **more)
    logits, sent = result if skips else (result, None)
    bar.end()
    seconds = time.monotonic() - start
    used = (board or module.DEFAULT_BOARD) if engine == "qemu" else None
    core = boards.load(used).core if used else "portable"
    cost = None if sent is None else spared(bundle, clips.pcm, logits, sent, core)
    heard = logits.argmax(axis=1)
    return Evaluation(
        task=bundle.recipe.task.name,
        split=clips.split,
        engine=engine,
        board=used,
        labels=bundle.labels,
        confusion=confusion_matrix(clips.label, heard, len(bundle.labels)),
        logits=logits,
        seconds=seconds,
        cost=cost,
        after=after,
        late_ms=late_ms,
        speakers=by_speaker(clips.names, heard == clips.label),
    )


def check_after(
    bundle: Bundle, engine: str, after: str, late_ms: int, run: str = ""
) -> None:
    """Refuse what can't be heard before or behind a clip; see `evaluate_clips`.

    Args:
        bundle: The run.
        engine: As in `evaluate_clips`, like the next two.
        after: What comes before a clip.
        late_ms: How long after it.
        run: As it was typed, for hints.

    Raises:
        KwsError: no network for streams, another engine than host; a decision at no
            step of the network, or without anything before the clip.
    """
    recipe, command = bundle.recipe, f"kws eval {quoted(run or bundle.path)}"
    if after == "reset" and not late_ms:
        return
    if not recipe.model.causal or engine != "host":
        what = f"before a clip ({after})" if after != "reset" else "after a clip"
        raise KwsError(
            f"What comes {what} is heard by networks for streams, on "
            f"the engine host. Received: {recipe.name}, causal = "
            f"{str(recipe.model.causal).lower()}, engine {engine}",
            command,
        )
    step_ms = decision_ms(recipe)
    steps = min(max(1, round(late_ms / step_ms)), int(MOST_LATE_MS / step_ms))
    if after == "reset":
        raise KwsError(
            "A decision after the clip's end is one of a stream, which heard "
            "something before the clip. Expected --after silence or word. "
            f"Received: --late {late_ms} alone",
            f"{command} --after silence --late {steps * step_ms:g}",
        )
    if not 0 <= late_ms <= MOST_LATE_MS or late_ms % step_ms:
        raise KwsError(
            f"Decisions come every {step_ms:g} ms. Expected --late in such steps, to "
            f"{MOST_LATE_MS} ms. Received: {late_ms}",
            f"{command} --after {after} --late {steps * step_ms:g}",
        )


def _before(bundle: Bundle, pcm: np.ndarray, after: str) -> np.ndarray:
    """What a stream hears before each clip: int16 [N, about a second], whole steps of
    the network, so that the last decision is that of the clip."""
    recipe = bundle.recipe
    step = recipe.detector.hop_frames * recipe.features.hop
    size = pcm.shape[1] // step * step
    if after == "silence":
        return np.zeros((len(pcm), size), np.int16)
    return np.roll(pcm, 1, axis=0)[:, pcm.shape[1] - size :]


def spared(
    bundle: Bundle,
    pcm: np.ndarray,
    logits: np.ndarray,
    sent: np.ndarray,
    core: str = "portable",
) -> dict[str, Any]:
    """What a bundle's delta thresholds spare on clips, by kws.graph.cost's rule.

    An engine's counters tell what was transmitted, but not which elements of Q met
    which of K, nor anything of rows that it need not run. The int8 simulator does; it
    is held against the engine's logits and counters, clip by clip.

    Args:
        bundle: With thresholds.
        pcm: int16 [N, samples].
        logits: The engine's, int8 [N, labels].
        sent: The engine's counts, uint32 [N, products].
        core: That the engine's C was emitted for.

    Raises:
        CheckFailed: engine and simulator differ.
    """
    from kws.deploy import emission
    from kws.engines import common
    from kws.graph import products
    from kws.simulate.integer import IntegerSimulator

    simulator = IntegerSimulator(bundle)
    chosen = products.on_core(
        Thresholds.from_dict(bundle.thresholds, simulator.slots),
        simulator.products,
        core,
    )
    bar = Progress(f"counting on {len(pcm)} clips", len(pcm))
    run = simulator.run(
        common.features(bundle, pcm), simulator.thresholds(chosen), bar.at
    )
    bar.end()
    counts, elements = run.counts, run.network.elements()
    same = bool((run.logits == logits).all())
    table = emission.products(bundle, core)
    for product, column in zip(table, sent.T, strict=True):
        slot = simulator.slots.index(product.slot)
        if product.slot in counts.encoded and product.elements == elements[slot]:
            same &= bool((column == counts.sent[:, slot]).all())
    if not same:
        raise CheckFailed(
            "The engine and the int8 simulator differ on these clips, in logits or in "
            "what was transmitted: a fault of kws.",
            f"kws eval {quoted(bundle.path)} --engine tflm,host   (without thresholds)",
        )
    return run.cost()


def confusion_matrix(truth: np.ndarray, heard: np.ndarray, labels: int) -> np.ndarray:
    """int64 [labels, labels]: row = true label, column = heard label."""
    flat = truth.astype(np.int64) * labels + heard
    return np.bincount(flat, minlength=labels * labels).reshape(labels, labels)


@dataclass(frozen=True)
class Agreement:
    """How far the logits of two engines agree.

    Args:
        first: Name of one engine.
        second: Name of the other.
        n: Clips.
        equal: Share of logits that are equal; None beside a float engine.
        largest: Largest difference, in int8 steps; None beside a float engine.
        same_label: Share of clips with the same label.
    """

    first: str
    second: str
    n: int
    equal: float | None
    largest: int | None
    same_label: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "engines": [self.first, self.second],
            "n": self.n,
            "equal_logits": self.equal,
            "largest_difference": self.largest,
            "same_label": self.same_label,
        }


def agreement(first: Evaluation, second: Evaluation) -> Agreement:
    """Compare two evaluations of the same clips."""
    a, b = first.logits, second.logits
    integer = a.dtype == b.dtype == np.int8
    difference = np.abs(a.astype(np.int64) - b.astype(np.int64)) if integer else None
    return Agreement(
        first=_where(first),
        second=_where(second),
        n=len(a),
        equal=float((a == b).mean()) if integer else None,
        largest=None if difference is None else int(difference.max()),
        same_label=float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
    )


def _where(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.engine} ({evaluation.board})"
        if evaluation.board
        else evaluation.engine
    )
