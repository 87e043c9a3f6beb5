"""Distillation: the logits of a teacher, or of several, on the training pool.

A teacher is a .tflite or a run. It is tried on clips whose label is known before it
teaches: what it gives may be logits or probabilities, its labels may be in another
order, and its features may not be ours. None of that shows in the student's training,
only in the student.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle, data, features
from kws.data import ClipSet
from kws.errors import KwsError
from kws.intervals import wilson_interval
from kws.progress import Progress
from kws.recipe import SILENCE, UNKNOWN, Features, Recipe, Task

MAX_TEACHER_BYTES = 1 << 30
THREADS = 2
TRIAL_CLIPS = 300
LOGITS, PROBABILITIES, SIGMOIDS = "logits", "probabilities", "sigmoids"
_SMALLEST = 1e-7  # a probability of 0 in float32 is one that was rounded


class Teacher:
    """A .tflite classifier that takes samples or our features, or a run's network.

    Args:
        path: The .tflite: float or int8; input a clip's samples in [-1, 1), or the
            recipe's features (frames x mel_bins, in that order); one output, a logit or
            a probability per label. Or a run, by folder or shipped name: it hears the
            clip by its own features, without delta thresholds.
        recipe: The student's recipe.
        labels: The student's labels.
        teacher_labels: Names of a .tflite's logits in order; a run's are its own. None:
            the student's own where the count is equal, else gsc12's where there are 12.

    Raises:
        KwsError: not such a file, or a label that the teacher does not know.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        labels: tuple[str, ...],
        teacher_labels: tuple[str, ...] | None = None,
    ) -> None:
        blob, run = read(path)
        self.recipe, self.spec = recipe, recipe.features
        if run is not None:
            _check_length(run, recipe)
            self.spec, teacher_labels = run.recipe.features, run.labels
        self.interpreters = [_interpreter(blob, path) for _ in range(THREADS)]
        self.input = self.interpreters[0].get_input_details()[0]
        self.output = self.interpreters[0].get_output_details()[0]
        self.takes_audio = _takes_audio(self.input, recipe, self.spec, path)
        count = math.prod(int(size) for size in self.output["shape"])
        self.columns = _columns(count, labels, teacher_labels, path, run is not None)
        self.labels, self.path = labels, path
        self.gives = LOGITS
        names = ",".join(labels) + "|" + ",".join(teacher_labels or ())
        if run is not None:
            names += f"|{self.spec}"
        self._digest = hashlib.sha256(blob + names.encode())

    @property
    def key(self) -> str:
        """Equal keys, equal logits."""
        digest = self._digest.copy()
        if self.gives != LOGITS:
            digest.update(self.gives.encode())
        return digest.hexdigest()

    def try_on(self, clips: ClipSet) -> None:
        """Find out what the teacher gives, and whether it knows these clips.

        Args:
            clips: Training clips; some hundred of them are tried, as many of each label
                as there are, without silence: a teacher's silence is not ours.

        Raises:
            KwsError: it is no better than chance, or takes one label for another.
        """
        chosen = _evenly(clips)
        if not len(chosen):
            return
        pcm, truth = clips.pcm[chosen], clips.label[chosen]
        bar = Progress("trying the teacher", len(chosen))
        raw = self._run(pcm, features.of_clips(pcm, self.spec), bar)
        bar.end()
        if not np.isfinite(raw).all():
            raise KwsError(
                "The teacher's output is not finite. Expected a number for each label. "
                f"Received: {np.unique(raw[~np.isfinite(raw)])[:3]} from {self.path}",
                "Check the file with another TFLite tool.",
            )
        self.gives = _kind_of(raw, float(self.output["quantization"][0]))
        heard = self._as_logits(raw)[:, self.columns].argmax(axis=1)
        right = int((heard == truth).sum())
        note = ""
        if self.gives != LOGITS:
            note = f"; it gives {self.gives}, of which logits are made"
        print(
            f"The teacher {self.path.name} hears {right} of {len(truth)} training "
            f"clips right "
            f"({100 * right / len(truth):.1f} %){note}",
            file=sys.stderr,
            flush=True,
        )
        self._check_trial(truth, heard)

    def _check_trial(self, truth: np.ndarray, heard: np.ndarray) -> None:
        known = np.unique(truth)
        hint = (
            "Name its outputs in their order: --teacher-labels name1,name2,...   (or "
            "it needs other features or levels than ours)"
        )
        # One answer to everything is no order.
        always = np.bincount(heard).max() > 0.6 * len(heard)
        for label in known if not always else []:
            here = heard[truth == label]
            other = int(np.bincount(here, minlength=len(self.labels)).argmax())
            name = self.labels[other]
            if (
                len(here) >= 10
                and (here == label).mean() < 0.1
                and (here == other).mean() > 0.6
                and name not in (SILENCE, UNKNOWN)
            ):
                raise KwsError(
                    f"The teacher takes {self.labels[label]} for {name}, in "
                    f"{int((here == other).sum())} of {len(here)} clips. Expected its "
                    f"outputs in the order {', '.join(self.labels)}. "
                    f"Received: {self.path}",
                    hint,
                )
        right, tried = int((heard == truth).sum()), len(truth)
        chance = 1 / len(known)
        if (
            len(known) > 1
            and tried >= 20
            and chance >= wilson_interval(right, tried)[0]
        ):
            raise KwsError(
                f"The teacher knows nothing of these clips: it hears {right} of "
                f"{tried} right; guessing gives {100 * chance:.0f} %. Expected a "
                "teacher of these labels, on audio in -1..1 or on the recipe's own "
                f"features (log-mel, frames first). Received: {self.path}",
                hint,
            )

    def logits(self, pcm: np.ndarray, frames: np.ndarray, bar: Progress) -> np.ndarray:
        """Logits of a chunk of clips, in the order of the student's labels.

        Args:
            pcm: int16 [N, samples].
            frames: Features of the same clips by the student's recipe, int8
                [N, frames, mel_bins].
            bar: Told as clips are done.

        Returns:
            float32 [N, labels].
        """
        if not self.takes_audio and self.spec != self.recipe.features:
            frames = features.of_clips(pcm, self.spec)
        return self._as_logits(self._run(pcm, frames, bar))[:, self.columns]

    def _as_logits(self, raw: np.ndarray) -> np.ndarray:
        """The logarithm of probabilities: softmax gives them back."""
        if self.gives == LOGITS:
            return raw
        least = max(_SMALLEST, float(self.output["quantization"][0]) / 2)
        sure = np.log(np.maximum(raw, least))
        if self.gives == SIGMOIDS:
            sure -= np.log(np.maximum(1 - raw, least))
        return sure

    def _run(self, pcm: np.ndarray, frames: np.ndarray, bar: Progress) -> np.ndarray:
        """float32 [N, outputs] as the file gives them."""
        start = bar.done
        count = math.prod(int(size) for size in self.output["shape"])
        out = np.empty((len(pcm), count), np.float32)

        def work(worker: int) -> None:
            interpreter = self.interpreters[worker]
            for row in range(worker, len(pcm), THREADS):
                out[row] = self._one(interpreter, pcm[row], frames[row])
                if worker == 0:
                    bar.at(start + row)

        with ThreadPoolExecutor(THREADS) as threads:  # invoke() releases the lock
            list(threads.map(work, range(THREADS)))
        return out

    def _one(self, interpreter: Any, pcm: np.ndarray, frames: np.ndarray) -> Any:
        spec = self.spec
        if self.takes_audio:
            real = pcm.astype(np.float32) / 32768.0
        else:
            real = spec.scale * (frames.astype(np.float32) - spec.zero_point)
        scale, zero_point = self.input["quantization"]
        if self.input["dtype"] != np.float32:
            limits = np.iinfo(self.input["dtype"])
            real = np.clip(np.rint(real / scale + zero_point), limits.min, limits.max)
        shape = tuple(int(size) for size in self.input["shape"])
        interpreter.set_tensor(
            self.input["index"], real.reshape(shape).astype(self.input["dtype"])
        )
        interpreter.invoke()
        out = interpreter.get_tensor(self.output["index"]).ravel().astype(np.float32)
        scale, zero_point = self.output["quantization"]
        if scale:
            out = scale * (out - zero_point)
        return out


class Teachers:
    """One teacher or several: the mean of their probabilities teaches.

    What each gets wrong is mostly its own (docs/results.md, "Networks for streams").

    Args:
        of_copies: They hear every augmented copy as the student does.
        of_clean: They hear each recording once, as it is, and say the same of all its
            copies. There is one teacher at least, and all are for the same labels.
    """

    def __init__(
        self, of_copies: Sequence[Teacher] = (), of_clean: Sequence[Teacher] = ()
    ) -> None:
        self.of_copies, self.of_clean = tuple(of_copies), tuple(of_clean)

    @property
    def key(self) -> str:
        """Equal keys, equal logits."""
        keys = [member.key for member in self.of_copies]
        keys += [f"clean {member.key}" for member in self.of_clean]
        if len(keys) == 1:
            return keys[0]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()

    def try_on(self, clips: ClipSet) -> None:
        """Each of them; see `Teacher.try_on`."""
        for member in (*self.of_copies, *self.of_clean):
            member.try_on(clips)

    def clean(self, pcm: np.ndarray, frames: np.ndarray, bar: Progress) -> np.ndarray:
        """What those of clean recordings hear: mean probabilities.

        Args:
            pcm: Recordings as they are, int16 [N, samples].
            frames: Features of the same clips by the student's recipe, int8
                [N, frames, mel_bins].
            bar: Told as clips are done.

        Returns:
            float32 [N, labels]; zeros where there are no such teachers.
        """
        return _mean_share(self.of_clean, pcm, frames, bar)

    def logits(
        self,
        pcm: np.ndarray,
        frames: np.ndarray,
        bar: Progress,
        clean: np.ndarray | None = None,
    ) -> np.ndarray:
        """Logits of a chunk of copies, in the order of the student's labels.

        Args:
            pcm: int16 [N, samples].
            frames: Features of the same clips by the student's recipe, int8
                [N, frames, mel_bins].
            bar: Told as clips are done.
            clean: From `clean`, of the recordings that these are copies of. None: they
                are no copies.

        Returns:
            float32 [N, labels]: a single teacher's own, or the logarithm of the mean
            of probabilities.
        """
        if len(self.of_copies) == 1 and not self.of_clean:
            return self.of_copies[0].logits(pcm, frames, bar)
        if clean is None:
            clean = self.clean(pcm, frames, bar)
        mean = len(self.of_clean) * clean
        mean = mean + len(self.of_copies) * _mean_share(
            self.of_copies, pcm, frames, bar
        )
        mean /= len(self.of_copies) + len(self.of_clean)
        sure: np.ndarray = np.log(np.maximum(mean, _SMALLEST))
        return sure


def _mean_share(
    members: Sequence[Teacher], pcm: np.ndarray, frames: np.ndarray, bar: Progress
) -> np.ndarray:
    """Mean probabilities that these teachers give, float32 [N, labels]."""
    total: Any = 0.0
    done = bar.done
    for member in members:
        bar.done = done  # each of them goes over the same clips
        total = total + _softmax(member.logits(pcm, frames, bar))
    if not members:
        return np.zeros((len(pcm), 1), np.float32)
    mean: np.ndarray = total / len(members)
    return mean


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    share: np.ndarray = power / power.sum(axis=1, keepdims=True)
    return share


def _check_length(run: bundle.Bundle, recipe: Recipe) -> None:
    expected, received = recipe.task.clip_samples, run.recipe.task.clip_samples
    if received != expected:
        raise KwsError(
            f"A teacher has to hear clips of the student's length. Expected {expected} "
            f"samples. Received: {received} of {run.recipe.name}",
            f"kws train --clip-seconds {recipe.task.clip_seconds:g} ...   (a teacher "
            "for these clips)",
        )


def _takes_audio(
    taken: dict[str, Any], recipe: Recipe, spec: Features, path: Path
) -> bool:
    """Whether a teacher takes samples, not features; axis by axis."""
    shape = [int(size) for size in taken["shape"]]
    sizes = [size for size in shape if size != 1]
    samples = recipe.task.clip_samples
    if sizes not in ([samples], [spec.frames, spec.mel_bins]):
        order = ""
        if sizes == [spec.mel_bins, spec.frames]:
            order = ": mel bands come first, ours are frames x mel bands"
        raise KwsError(
            f"The teacher's input fits neither audio ({samples} samples) "
            f"nor the recipe's features ({spec.frames} x {spec.mel_bins}){order}. "
            f"Received: {shape} in {path}",
            "Use a teacher trained with the same [features], or one on audio.",
        )
    if taken["dtype"] != np.float32 and not taken["quantization"][0]:
        raise KwsError(
            "The teacher's input is integers without a scale. Expected float32, or "
            f"integers with the scale of their quantization. Received: "
            f"{np.dtype(taken['dtype']).name} in {path}",
            "Convert it with a float32 input (inference_input_type=tf.float32).",
        )
    return sizes == [samples]


def _evenly(clips: ClipSet) -> np.ndarray:
    """Rows of clips to try: as many of each label, silence left out, spread evenly."""
    labels = [k for k, name in enumerate(clips.labels) if name != SILENCE]
    each = max(1, TRIAL_CLIPS // max(1, len(labels)))
    chosen = []
    for label in labels:
        rows = np.flatnonzero(clips.label == label)
        places = np.linspace(0, len(rows) - 1, min(each, len(rows)))
        chosen.append(rows[places.astype(int)])
    return np.sort(np.concatenate(chosen))


def _kind_of(raw: np.ndarray, step: float) -> str:
    """What outputs are: [N, outputs] of real clips, and their step of quantization."""
    slack = 0.01 + raw.shape[1] * step
    if raw.min() < -1e-6 or raw.max() > 1 + slack:
        return LOGITS
    if np.abs(raw.sum(axis=1) - 1).max() <= slack:
        return PROBABILITIES
    return SIGMOIDS


def read(path: Path) -> tuple[bytes, bundle.Bundle | None]:
    """The bytes of a teacher's .tflite, and the run that it is of, if it is a run.

    Raises:
        KwsError: neither a .tflite file nor a run.
    """
    if path.is_dir() or (not path.exists() and (bundle.PRETRAINED / path).is_dir()):
        run = bundle.load(path)
        return run.model_path.read_bytes(), run
    if not path.is_file() or not 8 < path.stat().st_size <= MAX_TEACHER_BYTES:
        raise KwsError(
            "The teacher is neither a .tflite file of at most 1 GB nor a run. "
            f"Received: {path}",
            "kws train --preset kwt-tiny --teacher model.tflite --out runs/student",
        )
    blob = path.read_bytes()
    if blob[4:8] != b"TFL3":
        raise KwsError(
            f"The teacher is not a .tflite file (no TFL3 mark). Received: {path}",
            "Convert it first (tf.lite.TFLiteConverter).",
        )
    return blob, None


def _interpreter(blob: bytes, path: Path) -> Any:
    from kws.layers.keras import tf

    try:
        interpreter = tf.lite.Interpreter(model_content=blob, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise KwsError(
            f"TensorFlow Lite can't run the teacher: {error}. Received: {path}",
            "Check the file with another TFLite tool.",
        ) from None
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(ins) != 1 or len(outs) != 1:
        raise KwsError(
            f"The teacher needs one input and one output. Received: {len(ins)} and "
            f"{len(outs)} in {path}",
            "Use a model that takes one clip and keeps no state outside.",
        )
    return interpreter


def _columns(
    count: int,
    labels: tuple[str, ...],
    teacher_labels: tuple[str, ...] | None,
    path: Path,
    named: bool,
) -> list[int]:
    """Where each of the student's labels is among the teacher's logits; `named`: they
    are a run's, which knows their names."""
    if teacher_labels is None:
        gsc12 = data.labels(Task("gsc12"))
        teacher_labels = gsc12 if count == len(gsc12) != len(labels) else labels
    if len(teacher_labels) != count:
        raise KwsError(
            f"The teacher has {count} logits; expected {len(teacher_labels)} names. "
            f"Received: {', '.join(teacher_labels)} for {path}",
            "--teacher-labels name1,name2,... in the order of its logits",
        )
    missing = [label for label in labels if label not in teacher_labels]
    if missing:
        other = "name its logits: --teacher-labels name1,..."
        if named:
            other = "train one that does: kws train --out runs/teacher ..."
        raise KwsError(
            f"The teacher does not know {', '.join(missing)}. Expected a teacher of "
            "every label of the task. Received: "
            f"{path}, which knows {', '.join(teacher_labels)}",
            f"Leave this teacher out, or {other}",
        )
    return [teacher_labels.index(label) for label in labels]
