"""Distillation: the logits of a .tflite teacher on the training pool."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kws import data
from kws.errors import KwsError
from kws.progress import Progress
from kws.recipe import Recipe, Task

MAX_TEACHER_BYTES = 1 << 30
THREADS = 2


class Teacher:
    """A .tflite classifier that takes samples or our features.

    Args:
        path: The .tflite: float or int8; input 16,000 samples in [-1, 1), or the
            recipe's features (frames x mel_bins); one output, a logit per label.
        recipe: The student's recipe.
        labels: The student's labels.
        teacher_labels: Names of the teacher's logits in order. None: the student's
            own where the count is equal, else gsc12's where there are 12.

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
        blob = read(path)
        self.recipe = recipe
        self.interpreters = [_interpreter(blob, path) for _ in range(THREADS)]
        self.input = self.interpreters[0].get_input_details()[0]
        self.output = self.interpreters[0].get_output_details()[0]
        inputs = math.prod(int(size) for size in self.input["shape"])
        spec = recipe.features
        self.takes_audio = inputs == spec.sample_rate
        if not self.takes_audio and inputs != spec.frames * spec.mel_bins:
            raise KwsError(
                f"The teacher's input fits neither audio ({spec.sample_rate} samples) "
                f"nor the recipe's features ({spec.frames} x {spec.mel_bins}). "
                f"Received: {list(self.input['shape'])} in {path}",
                "Use a teacher trained with the same [features], or one on audio.",
            )
        count = math.prod(int(size) for size in self.output["shape"])
        self.columns = _columns(count, labels, teacher_labels, path)
        names = ",".join(labels) + "|" + ",".join(teacher_labels or ())
        self.key = hashlib.sha256(blob + names.encode()).hexdigest()

    def logits(self, pcm: np.ndarray, features: np.ndarray, bar: Progress) -> Any:
        """Logits of a chunk of clips, in the order of the student's labels.

        Args:
            pcm: int16 [N, 16000].
            features: int8 [N, frames, mel_bins] of the same clips.
            bar: Told as clips are done.

        Returns:
            float32 [N, labels].
        """
        start = bar.done
        out = np.empty((len(pcm), len(self.columns)), np.float32)

        def work(worker: int) -> None:
            interpreter = self.interpreters[worker]
            for row in range(worker, len(pcm), THREADS):
                out[row] = self._one(interpreter, pcm[row], features[row])
                if worker == 0:
                    bar.at(start + row)

        with ThreadPoolExecutor(THREADS) as threads:  # invoke() releases the lock
            list(threads.map(work, range(THREADS)))
        return out

    def _one(self, interpreter: Any, pcm: np.ndarray, features: np.ndarray) -> Any:
        spec = self.recipe.features
        if self.takes_audio:
            real = pcm.astype(np.float32) / 32768.0
        else:
            real = spec.scale * (features.astype(np.float32) - spec.zero_point)
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
        return out[self.columns]


def read(path: Path) -> bytes:
    if not path.is_file() or not 8 < path.stat().st_size <= MAX_TEACHER_BYTES:
        raise KwsError(
            f"The teacher is not a .tflite file of at most 1 GB. Received: {path}",
            "kws train --preset kwt-tiny --teacher model.tflite --out runs/student",
        )
    blob = path.read_bytes()
    if blob[4:8] != b"TFL3":
        raise KwsError(
            f"The teacher is not a .tflite file (no TFL3 mark). Received: {path}",
            "Convert it first (tf.lite.TFLiteConverter).",
        )
    return blob


def _interpreter(blob: bytes, path: Path) -> Any:
    from kws.model.keras import tf

    try:
        interpreter = tf.lite.Interpreter(model_content=blob, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise KwsError(
            f"TensorFlow Lite can't run the teacher: {error}. Received: {path}",
            "Check the file with another TFLite tool.",
        ) from None
    if len(interpreter.get_input_details()) != 1:
        raise KwsError(
            f"The teacher needs more than one input. Received: {path}",
            "Use a model that takes one clip and keeps no state outside.",
        )
    return interpreter


def _columns(
    count: int,
    labels: tuple[str, ...],
    teacher_labels: tuple[str, ...] | None,
    path: Path,
) -> list[int]:
    """Where each of the student's labels is among the teacher's logits."""
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
        raise KwsError(
            f"The teacher does not know {', '.join(missing)}. Expected a teacher of "
            f"every label of the task. Received: {', '.join(teacher_labels)}",
            "Leave --teacher out, or name its logits: --teacher-labels name1,...",
        )
    return [teacher_labels.index(label) for label in labels]
