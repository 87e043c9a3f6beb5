"""A network on tapes: what its steps cost, by kind of sound, and what it hears.

The firmware's C runs (kws.deploy.host), not a second form of it in numpy: what a step
transmits depends on all that was heard before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.data import tape as tapes
from kws.data.audio import SAMPLE_RATE
from kws.data.tape import Score, Tape, Window
from kws.deploy import build, emission, host, per_second
from kws.deploy.boards import Board
from kws.deploy.per_second import Steps
from kws.emit import native
from kws.errors import KwsError, quoted
from kws.recipe import decision_ms
from kws.thresholds import Slots, Thresholds

ALL = "all"
PIECE_S = 4.0  # of an excerpt


@dataclass(frozen=True)
class Followed:
    """A network on one tape.

    Args:
        name: Of the tape.
        kind: Of its sound.
        windows: Words that could be heard.
        said: All that is known to be said.
        events: (word, seconds) of those that were heard.
        score: Hits, misses, false alarms.
        sounds: str [decisions], what each step heard (kws.data.tape.Tape.sounds).
        steps: What each cost.
        instructions: int64 [decisions, 2], features and network; None: not counted.
    """

    name: str
    kind: str
    windows: list[Window]
    said: list[Window]
    events: list[tuple[str, float]]
    score: Score
    sounds: np.ndarray
    steps: Steps
    instructions: np.ndarray | None = None


def step_samples(bundle: Bundle) -> int:
    """From one decision to the next."""
    return round(decision_ms(bundle.recipe) * SAMPLE_RATE / 1000)


def judged(
    bundle: Bundle, name: str, tape: Tape, steps: Steps, windows: Sequence[Window]
) -> Followed:
    """What the steps of a tape say.

    Args:
        bundle: Gives the labels and the time from one decision to the next.
        name: Of the tape.
        tape: That was heard.
        steps: From `kws.deploy.per_second.steps`.
        windows: Of the network's words (kws.data.tape.asked_for).
    """
    found, size = steps.found, step_samples(bundle)
    events = [
        (bundle.labels[label], time_ms / 1000)
        for label, time_ms in zip(found.heard, found.time_ms.tolist(), strict=True)
        if label >= 0
    ]
    first = round(int(found.time_ms[0]) * SAMPLE_RATE / 1000) - size
    return Followed(
        name,
        tape.kind,
        list(windows),
        tape.said,
        events,
        tapes.score(events, windows, tape.hours),
        tape.sounds(first, size, len(found.heard)),
        steps,
    )


def follow(
    bundle: Bundle,
    recordings: Iterable[tuple[str, Tape]],
    board: Board | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Followed]:
    """Run tapes, each as one stream.

    Args:
        bundle: A converted bundle, with the thresholds that it is to have.
        recordings: Name and tape of each.
        board: An emulated board to count every step's instructions on, too.
        progress: Called with each name before it is heard.

    Raises:
        KwsError: a tape is too short for two decisions.
        CheckFailed: the board's logits are not this machine's.
    """
    network = native.sources(bundle, "portable").network
    done: list[Followed] = []
    with (
        host.opened(host.library(bundle), len(bundle.labels)) as copy,
        tempfile.TemporaryDirectory(prefix="kws-tape-") as folder,
    ):
        image: Path | None = None
        for name, tape in recordings:
            if progress is not None:
                progress(name)
            try:
                steps = per_second.steps(tape.pcm, copy, network)
            except KwsError as error:
                raise KwsError(f"{name}: {error.message}", error.hint) from None
            windows = tapes.asked_for(tape.windows, bundle.labels)
            one = judged(bundle, name, tape, steps, windows)
            if board is not None:
                image = image or _image(bundle, board, Path(folder))
                last = steps.found.logits[-1]
                counted = per_second.counted(bundle, board, image, tape.pcm, last)
                one = dataclasses.replace(one, instructions=counted.steps)
            done.append(one)
    return done


def _image(bundle: Bundle, board: Board, folder: Path) -> Path:
    emission.emit_bundle(bundle, folder / "model", board.core)
    return build.build(folder / "model", board, folder / "out", "clips").elf


def by_sound(bundle: Bundle, heard: Sequence[Followed]) -> dict[str, dict[str, Any]]:
    """What a second costs, for each kind of sound, and for all of it.

    The first decision of each tape is left out: it starts from nothing.

    Args:
        bundle: Gives the time from one decision to the next.
        heard: From `follow`.

    Returns:
        Sound -> hours, at_rest (share of steps in which nothing ran), macs_per_second,
        macs_per_step {mean, p95}, sent {kind: share}; where they were counted
        instructions_per_second {features, model, total} and instructions_per_step
        {mean, p95, max}, both with the features.
    """
    rate = 1000 / decision_ms(bundle.recipe)
    sounds = sorted({sound for one in heard for sound in one.sounds[1:].tolist()})
    return {sound: _cost(heard, sound, rate) for sound in [*sounds, ALL]}


def _cost(heard: Sequence[Followed], sound: str, rate: float) -> dict[str, Any]:
    chosen = []
    for one in heard:
        mine = np.ones(len(one.sounds), bool) if sound == ALL else one.sounds == sound
        mine[0] = False
        chosen.append(mine)
    pairs = list(zip(heard, chosen, strict=True))
    macs = np.concatenate([one.steps.macs[mine] for one, mine in pairs])
    rest = np.concatenate([one.steps.at_rest[mine] for one, mine in pairs])
    count = np.array([mine.sum() for mine in chosen])
    sent: dict[str, float] = {}
    for (one, mine), share in zip(pairs, count / count.sum(), strict=True):
        if share:
            for kind, part in one.steps.sent(mine).items():
                sent[kind] = sent.get(kind, 0.0) + share * part
    table: dict[str, Any] = {
        "hours": len(macs) / rate / 3600,
        "at_rest": float(rest.mean()),
        "macs_per_second": float(rate * macs.mean()),
        "macs_per_step": _spread(macs),
        "sent": sent,
    }
    if all(one.instructions is not None for one in heard):
        counted = [
            one.instructions[mine]
            for one, mine in pairs
            if one.instructions is not None
        ]
        features, model = np.concatenate(counted).T
        every = features + model
        table["instructions_per_second"] = {
            name: float(rate * values.mean())
            for name, values in (
                ("features", features),
                ("model", model),
                ("total", every),
            )
        }
        table["instructions_per_step"] = _spread(every) | {"max": int(every.max())}
    return table


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "p95": float(np.percentile(values, 95))}


def table(bundle: Bundle, heard: Sequence[Followed]) -> dict[str, Any]:
    """Stable keys of `kws simulate --tape --json`: those of `kws.data.tape.figures`,
    of all tapes together and of each; decisions_per_second, macs_per_step_dense, and
    `sounds`, from `by_sound`."""
    return {
        **tapes.figures(tapes.total([one.score for one in heard])),
        "tapes": [
            {"tape": one.name, "kind": one.kind, **tapes.figures(one.score)}
            for one in heard
        ],
        "decisions_per_second": 1000 / decision_ms(bundle.recipe),
        "macs_per_step_dense": heard[0].steps.macs_dense,
        "sounds": by_sound(bundle, heard),
    }


def text(result: dict[str, Any]) -> str:
    """`table` for people."""
    lines = [
        f"{one['tape']} ({one['kind']}): {tapes.describe_figures(one)}"
        for one in result["tapes"]
    ]
    if len(lines) > 1:
        lines.append(f"Together: {tapes.describe_figures(result)}")
    rate, dense = result["decisions_per_second"], result["macs_per_step_dense"]
    lines += [
        f"{rate:g} steps a second, {dense:,} MACs each where nothing is skipped",
        "",
        f"{'':<10}{'':>9}{'at':>6}{'M of MACs':>12}{'MACs a step':>23}",
        f"{'sound':<10}{'minutes':>9}{'rest':>6}{'a second':>12}{'mean':>11}"
        f"{'95 %':>12}",
    ]
    sounds = result["sounds"]
    for name, cost in sounds.items():
        step = cost["macs_per_step"]
        lines.append(
            f"{name:<10}{60 * cost['hours']:>9.2f}{100 * cost['at_rest']:>4.0f} %"
            f"{cost['macs_per_second'] / 1e6:>12.3f}{step['mean']:>11,.0f}"
            f"{step['p95']:>12,.0f}"
        )
    if "instructions_per_second" in sounds[ALL]:
        lines += [
            "",
            f"{'':<10}{'M of instructions a second':>27}{'instructions a step':>35}",
            f"{'sound':<10}{'features':>9}{'network':>9}{'all':>9}{'mean':>11}"
            f"{'95 %':>12}{'most':>12}",
        ]
        for name, cost in sounds.items():
            second, step = (
                cost["instructions_per_second"],
                cost["instructions_per_step"],
            )
            parts = "".join(
                f"{second[key] / 1e6:>9.3f}" for key in ("features", "model", "total")
            )
            lines.append(
                f"{name:<10}{parts}{step['mean']:>11,.0f}{step['p95']:>12,.0f}"
                f"{step['max']:>12,}"
            )
    kinds = list(sounds[ALL]["sent"])
    if kinds:
        lines += ["", f"{'sent, %':<10}" + "".join(f"{kind:>8}" for kind in kinds)]
        lines += [
            f"{name:<10}" + "".join(f"{100 * cost['sent'][k]:>8.1f}" for k in kinds)
            for name, cost in sounds.items()
        ]
    return "\n".join(lines)


# --- thresholds in a sweep ------------------------------------------------------------


@dataclass(frozen=True)
class Hearing:
    """Tapes that thresholds are judged on.

    Args:
        recordings: Name, tape, and its windows of the network's words.
        excerpt: int16 [samples], pieces of them that stand for all.
    """

    recordings: tuple[tuple[str, Tape, list[Window]], ...]
    excerpt: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Hash of the sound and its truth."""
        digest = hashlib.sha256(self.excerpt.tobytes())
        for name, tape, windows in self.recordings:
            facts = [Path(name).name, tape.kind, tape.bed, tape.said == []]
            facts += [[w.word, w.start_s, w.end_s] for w in [*windows, *tape.said]]
            digest.update(json.dumps(facts).encode() + b"\0")
            digest.update(np.ascontiguousarray(tape.pcm).tobytes())
        return digest.hexdigest()


def hearing(
    bundle: Bundle, recordings: Iterable[tuple[str, Tape]], excerpt_s: float
) -> Hearing:
    """Tapes, and an excerpt of them all.

    Args:
        bundle: A network for streams.
        recordings: Name and tape of each.
        excerpt_s: How long it is, in seconds.

    Raises:
        KwsError: not a network for streams; no word of it is said on the tapes.
    """
    if not bundle.recipe.model.causal:
        raise KwsError(
            "Thresholds are chosen on tapes for networks that are made for streams. "
            f"Expected [model] causal = true. Received: {bundle.recipe.name}",
            f"kws sweep {quoted(bundle.path)}   (on clips)",
        )
    every = tuple(
        (name, tape, tapes.asked_for(tape.windows, bundle.labels))
        for name, tape in recordings
    )
    if not any(windows for *_, windows in every):
        raise tapes.without_words([name for name, *_ in every], bundle.labels)
    return Hearing(every, _pieces([tape.pcm for _, tape, _ in every], excerpt_s))


def _pieces(sounds: Sequence[np.ndarray], seconds: float) -> np.ndarray:
    """Pieces of PIECE_S at even distances through all tapes, one after the other."""
    pcm = np.concatenate([np.asarray(sound) for sound in sounds])
    size = int(PIECE_S * SAMPLE_RATE)
    count = max(1, round(seconds / PIECE_S))
    if len(pcm) <= count * size:
        return pcm
    starts = np.linspace(0, len(pcm) - size, count).astype(int)
    return np.concatenate([pcm[start : start + size] for start in starts])


class Judge:
    """Judges thresholds on tapes by the firmware's C on this machine.

    It is compiled once, with every kind encoded and thresholds that may be moved: at 0
    an encoded tensor has the dense one's bits, and what is dense counts as whole.

    Args:
        bundle: A network for streams.
        slots: Its slots.
        heard: The tapes.
    """

    def __init__(self, bundle: Bundle, slots: Slots, heard: Hearing) -> None:
        self.bundle, self.slots, self.heard = bundle, slots, heard
        repeats = Thresholds(slots, np.zeros(len(slots))).to_steps()
        every = dataclasses.replace(bundle, thresholds=repeats)
        self.network = native.sources(every, "portable", tunable_delta=True).network
        self.library = host.build(host.sources(every, tunable_delta=True))
        self._places = [slots.index(product.slot) for product in self.network.products]
        self._dense: tuple[np.ndarray, list[np.ndarray]] | None = None
        self._opened = contextlib.ExitStack()
        self._copy: host.Opened | None = None

    def close(self) -> None:
        """Let go of the library."""
        self._opened.close()
        self._copy = None

    def steps(self, pcm: np.ndarray, thresholds: Thresholds) -> Steps:
        """A stream with these thresholds.

        Args:
            pcm: int16 [samples].
            thresholds: In int8 steps.
        """
        if self._copy is None:
            opened = host.opened(self.library, len(self.bundle.labels))
            self._copy = self._opened.enter_context(opened)
        values = thresholds.values[self._places]
        self._copy.set_thresholds(np.maximum(values, 0).astype(int).tolist())
        whole = tuple(np.flatnonzero(values < 0).tolist())
        return per_second.steps(pcm, self._copy, self.network, whole=whole)

    def tapes(self, thresholds: Thresholds) -> dict[str, Any]:
        """What thresholds do to all tapes.

        Args:
            thresholds: In int8 steps.

        Returns:
            `tape`: figures (kws.data.tape.figures), macs_per_second, mac_cut, sounds
            {sound: macs_per_second}; `divergence`: of the decisions, from the dense
            network's (mean Kullback-Leibler divergence); `layer_sent`.
        """
        _, dense = self._of_dense()
        done, moved = [], []
        for (name, tape, windows), plain in zip(
            self.heard.recordings, dense, strict=True
        ):
            steps = self.steps(tape.pcm, thresholds)
            done.append(judged(self.bundle, name, tape, steps, windows))
            moved.append(divergence(plain, steps.found.logits))
        sounds = by_sound(self.bundle, done)
        rate, whole = 1000 / decision_ms(self.bundle.recipe), done[0].steps.macs_dense
        spent = sounds[ALL]["macs_per_second"]
        return {
            "tape": {
                **tapes.figures(tapes.total([one.score for one in done])),
                "at_rest": sounds[ALL]["at_rest"],
                "macs_per_second": spent,
                "mac_cut": 1 - spent / (rate * whole),
                "sounds": {
                    sound: cost["macs_per_second"] for sound, cost in sounds.items()
                },
            },
            "divergence": float(np.concatenate(moved).mean()),
            "layer_sent": self._sent([one.steps for one in done]),
        }

    def excerpt(self, thresholds: Thresholds) -> dict[str, Any]:
        """The same of the excerpt: mac_cut, divergence and layer_sent."""
        dense, _ = self._of_dense()
        steps = self.steps(self.heard.excerpt, thresholds)
        return {
            "tape": {"mac_cut": float(1 - steps.macs[1:].mean() / steps.macs_dense)},
            "divergence": float(divergence(dense, steps.found.logits).mean()),
            "layer_sent": self._sent([steps]),
        }

    def _of_dense(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The dense network's logits on the excerpt, and on each tape."""
        if self._dense is None:
            nothing = Thresholds.dense(self.slots)

            def logits(pcm: np.ndarray) -> np.ndarray:
                return self.steps(pcm, nothing).found.logits

            every = [logits(tape.pcm) for _, tape, _ in self.heard.recordings]
            self._dense = logits(self.heard.excerpt), every
        return self._dense

    def _sent(self, every: Sequence[Steps]) -> dict[str, list[float | None]]:
        """Kind -> share of elements transmitted in each layer; None: no such kind."""
        sent = np.concatenate([steps.found.sent[1:] for steps in every]).mean(axis=0)
        found: dict[str, list[float | None]] = {
            kind: [None] * self.slots.layers for kind in self.slots.kinds
        }
        for product, count in zip(self.network.products, sent, strict=True):
            layer, kind = product.slot
            found[kind][layer] = round(float(count) / product.inputs, 5)
        return found


def divergence(dense: np.ndarray, pruned: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of the label shares, in nats, per decision.

    Args:
        dense: Logits [N, labels] of the dense network.
        pruned: Logits [N, labels].
    """
    p, q = _log_softmax(dense), _log_softmax(pruned)
    return (np.exp(p) * (p - q)).sum(axis=1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
