"""The import of TensorFlow, without what it says at every start.

It writes notices about oneDNN and about CUDA that is not there before any setting of
its log takes effect, from C++, past Python's own stderr. So they are taken out of the
stream while it starts, by another process: were this one to crash, its last words
would come through. Everything else is passed on. TF_CPP_MIN_LOG_LEVEL=0 shows all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A CUDA that fails where there is an NVIDIA driver is no notice.
CUDA = r"|[EW]0000 .*(cuInit|cuda|cuDNN|cuFFT|cuBLAS|computation_placer)"
NOTICES = r"WARNING: All log messages before absl::InitializeLog|I0000 "
FILTER = """
import re, sys
notice = re.compile(sys.argv[1])
for line in sys.stdin:
    if not notice.match(line):
        sys.stderr.write(line)
        sys.stderr.flush()
"""


def tensorflow() -> Any:
    """The module, imported; its devices are found.

    Example:
        >>> tf = tensorflow()
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # what tf.keras is (DESIGN D6)
    loud = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if loud else _without_notices():
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")  # CUDA is looked for only now
    if not loud:
        # Networks that are built one after the other are no single one, traced anew.
        logging.getLogger("tensorflow").addFilter(
            lambda record: "triggered tf.function retracing" not in record.getMessage()
        )
    return tf


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    pattern = NOTICES
    if not Path("/proc/driver/nvidia").exists():
        pattern += CUDA
    sys.stderr.flush()
    kept = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", FILTER, pattern]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=kept,
        process_group=0,  # Ctrl-C is for this process: that one ends with its input
    ) as process:
        assert process.stdin is not None
        os.dup2(process.stdin.fileno(), 2)
        process.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
