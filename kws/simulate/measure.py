"""One point of the curve: thresholds -> accuracy and cost, ready for JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws import bundle as bundles
from kws import data as audio
from kws.bundle import Bundle
from kws.errors import KwsError, quoted
from kws.intervals import wilson_interval
from kws.recipe import SILENCE
from kws.simulate.simulator import Run, Simulator
from kws.thresholds import Thresholds

if TYPE_CHECKING:
    from kws.simulate.integer import IntegerSimulator

    AnySimulator = Simulator | IntegerSimulator

FEATURES = ("board", "float", "int8")
ENGINES = ("int8", "float")


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips ready for a simulator.

    Args:
        task: Task whose clips they are.
        split: `train`, `val` or `test`.
        features: float32 or int8 [N, frames, mel_bins].
        label: int [N], index into the bundle's labels.
        spoken: bool [N], everything but silence.
        fingerprint: Equal for equal clips: their names, labels and samples.
        kind: One of `FEATURES`.
    """

    task: str
    split: str
    features: np.ndarray
    label: np.ndarray
    spoken: np.ndarray
    fingerprint: str
    kind: str

    def __len__(self) -> int:
        return len(self.label)


def load_clips(
    bundle: Bundle,
    split: str,
    data: Path | None = None,
    limit: int | None = None,
    task: str | None = None,
    kind: str = "board",
    also: tuple[Path, ...] = (),
) -> Clips:
    """Load clips and compute their features.

    Args:
        bundle: Gives task, labels and features.
        split: `train`, `val` or `test`.
        data: See kws.data.find_data.
        limit: The first N clips of a fixed shuffle.
        task: Another task, all of whose labels the bundle has too (gsc10's clips for
            a network of gsc12, where there are no recordings of on and off).
        kind: `board`: int8 features by the firmware's C, as real numbers; `float`:
            unquantized, as the published networks were trained; `int8`: the board's
            bytes, for the int8 network.
        also: More folders of clips (kws.data.load).

    Raises:
        KwsError: no audio, or labels that the bundle doesn't have.
    """
    wanted = bundle.recipe.task
    if task is not None and task != wanted.name:
        wanted = dataclasses.replace(wanted, name=task)
    clips = audio.load(split, wanted, data, limit=limit, also=also)
    missing = [name for name in clips.labels if name not in bundle.labels]
    if missing:
        raise KwsError(
            f"The run does not know these labels of task {wanted.name}. Expected some "
            f"of {', '.join(bundle.labels)}. Received: {', '.join(missing)}",
            f"Leave out --task (the run's own is {bundle.recipe.task.name}).",
        )
    places = np.array([bundle.labels.index(name) for name in clips.labels])
    label = places[clips.label]
    silence = bundle.labels.index(SILENCE) if SILENCE in bundle.labels else -1
    return Clips(
        task=wanted.name,
        split=split,
        features=features_of(bundle, clips.pcm, kind),
        label=label,
        spoken=label != silence,
        fingerprint=f"{clips.manifest_hash} {clips.audio_hash}",
        kind=kind,
    )


def features_of(bundle: Bundle, pcm: np.ndarray, kind: str) -> np.ndarray:
    """Features of clips: int16 [N, 16000] -> [N, frames, mel], float32 or int8."""
    spec = bundle.recipe.features
    if kind == "float":
        from kws.features.log_mel import log_mel

        return log_mel(pcm, spec)
    from kws.features import of_clips

    steps = of_clips(pcm, spec)
    if kind == "int8":
        return steps
    return (steps.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(
        spec.scale
    )


def point(clips: Clips, thresholds: Thresholds, run: Run) -> dict[str, Any]:
    """Stable keys of `kws simulate --json` (DESIGN section 4).

    Returns:
        thresholds, task, split, n, accuracy, ci95, the same over all clips but silence
        (`spoken`), and everything of kws.simulate.counts.summary.
    """
    right = run.logits.argmax(axis=1) == clips.label
    spoken = right[clips.spoken]
    table: dict[str, Any] = {
        "thresholds": thresholds.to_dict(),
        "task": clips.task,
        "split": clips.split,
        "features": clips.kind,
        "n": len(clips),
        "accuracy": float(right.mean()),
        "ci95": list(wilson_interval(int(right.sum()), len(right))),
    }
    if len(spoken):
        table["spoken"] = {
            "n": len(spoken),
            "accuracy": float(spoken.mean()),
            "ci95": list(wilson_interval(int(spoken.sum()), len(spoken))),
        }
    return table | run.cost()


def make_simulator(bundle: Bundle, engine: str | None) -> AnySimulator:
    """The simulator of an engine: `int8`, `float`, or None for the best there is.

    Raises:
        KwsError: the bundle has no model.tflite, or no Keras weights.
    """
    if engine is None:
        engine = "int8" if bundle.model_path.is_file() else "float"
    if engine == "float":
        if bundle.recipe.model.causal:
            raise KwsError(
                "Thresholds of a network for streams are simulated on its int8 form. "
                "Received: the float one",
                f"kws convert {quoted(bundle.path)}",
            )
        return Simulator(bundle)
    from kws.simulate.integer import IntegerSimulator

    return IntegerSimulator(bundle)


def read_thresholds(simulator: AnySimulator, text: str) -> Thresholds:
    """Thresholds as text or @FILE; `bundle` for those in the bundle (int8 steps).

    Raises:
        KwsError: not such a text; `bundle` for a float network.
    """
    if text != "bundle":
        return Thresholds.read(text, simulator.slots)
    if isinstance(simulator, Simulator):
        raise KwsError(
            "The bundle's thresholds are in int8 steps: expected the int8 network. "
            "Received: --theta bundle --engine float",
            "--theta bundle --engine int8",
        )
    return simulator.thresholds(
        Thresholds.from_dict(simulator.bundle.thresholds, simulator.slots)
    )


def check_keeps(simulator: AnySimulator) -> None:
    """See that `keep_thresholds` will have somewhere to write.

    Raises:
        KwsError: the firmware does not run this network, or it is a shipped one.
    """
    if isinstance(simulator, Simulator):
        raise KwsError(
            "Thresholds are kept for the firmware, which runs the int8 network. "
            "Received: the float one",
            "--engine int8 (after kws convert RUN)",
        )
    path = simulator.bundle.path
    if simulator.bundle.shipped:
        raise KwsError(
            "Thresholds are written into the run, and a shipped one stays as it is. "
            f"Expected a run of your own. Received: {path.name}",
            f"{simulator.bundle.copy_command} && kws simulate runs/{path.name} ...",
        )


def keep_thresholds(simulator: AnySimulator, table: dict[str, float]) -> bool:
    """Write thresholds, in int8 steps, into the run as it is by now: what was changed
    in it meanwhile, its detector say, stays. False for a float network."""
    if isinstance(simulator, Simulator):
        return False
    steps = simulator.steps(Thresholds.from_dict(table, simulator.slots))
    now = bundles.load(simulator.bundle.path)
    bundles.save(dataclasses.replace(now, thresholds=steps.to_steps()))
    return True


def feature_kind(simulator: AnySimulator, kind: str) -> str:
    """What features a simulator takes, where `board` or `float` was asked for.

    Raises:
        KwsError: unquantized features for the int8 network.
    """
    if isinstance(simulator, Simulator):
        return kind
    if kind == "float":
        raise KwsError(
            "The int8 network takes the board's features. Received: --features float",
            "--engine float --features float",
        )
    return "int8"


def simulate(
    simulator: AnySimulator, clips: Clips, thresholds: Thresholds, progress: Any = None
) -> dict[str, Any]:
    """Run clips with thresholds; see `point`."""
    return point(clips, thresholds, simulator.run(clips.features, thresholds, progress))
