"""The one import of TensorFlow and Keras 2 (DESIGN D6).

tfmot works with Keras 2 only, and what `tf.keras` is depends on import order: so
every module of ours takes `tf` and `tf_keras` from here.
"""

from __future__ import annotations

import os
import warnings

from kws.errors import MissingExtra
from kws.quiet import tensorflow

# oneDNN trains about three times as fast and, on one machine with its number of
# threads, adds in the same order every time (tests/test_train.py trains twice).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

try:
    tf = tensorflow()
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quantizers
except ImportError as error:
    raise MissingExtra(
        error.name or "tensorflow", "train", "Training and conversion"
    ) from error

# TensorFlow 2.21 still has it, and its successor on PyPI has other kernels.
warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")

__all__ = ["quantizers", "tf", "tf_keras"]
