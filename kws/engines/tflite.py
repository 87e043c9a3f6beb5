"""Engine `tflite`: TensorFlow Lite's reference kernels (OpResolverType.BUILTIN_REF).

Not bit-exact to TFLM: FULLY_CONNECTED rounds differently now and then (DESIGN D3). The
default interpreter (XNNPACK) differs in more operators and is not used.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import numpy as np

from kws.bundle import Bundle
from kws.engines import common
from kws.errors import need
from kws.graph import reader
from kws.quiet import tensorflow

INTEGER = True


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> np.ndarray:
    """int8 logits [N, labels]; see `kws.engines`."""
    need("tensorflow", "The engine 'tflite'")
    model = bundle.model_bytes()
    reader.read(model, str(bundle.model_path))  # one clear message where it is broken
    inputs = common.features(bundle, pcm)
    return common.run_interpreter(_start, model, inputs, jobs, progress)


def _start(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # TensorFlow announces that its interpreter will move to another package.
    warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
    tf = tensorflow()
    interpreter = tf.lite.Interpreter(
        model_content=model,
        experimental_op_resolver_type=(tf.lite.experimental.OpResolverType.BUILTIN_REF),
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    result = interpreter.get_output_details()[0]

    def invoke(clip: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], clip.reshape(source["shape"]))
        interpreter.invoke()
        return interpreter.get_tensor(result["index"]).reshape(-1)

    return invoke
