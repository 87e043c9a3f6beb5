"""Engine `tflm`: TensorFlow Lite Micro's own interpreter, on this machine.

This is the reference for bit-exactness (DESIGN D3): PyPI `tflite-micro`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kws.bundle import Bundle
from kws.engines import common
from kws.errors import need
from kws.graph import reader

INTEGER = True


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> np.ndarray:
    """int8 logits [N, labels]; see `kws.engines`."""
    need("tflite_micro", "The engine 'tflm'")
    model = bundle.model_bytes()
    # TFLM's host interpreter trusts its input: a broken file would end this process.
    reader.read(model, str(bundle.model_path))
    inputs = common.features(bundle, pcm)
    return common.run_interpreter(_start, model, inputs, jobs, progress)


def _start(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    shape = interpreter.get_input_details(0)["shape"]

    def invoke(clip: np.ndarray) -> np.ndarray:
        interpreter.set_input(clip.reshape(shape), 0)
        interpreter.invoke()
        return interpreter.get_output(0).reshape(-1).copy()

    return invoke
