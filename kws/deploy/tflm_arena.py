"""How large an arena TensorFlow Lite Micro needs, measured on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from kws.errors import KwsError, need

MEASURE_S = 300
MOST_BYTES = 1 << 26  # no board has as much RAM

# One process for each arena: in one that is too small, TFLM's interpreter may read past
# its end and take the process with it. What it used, it says on stderr.
_MEASURE = """
import sys
from tflite_micro.python.tflite_micro import runtime
model = sys.stdin.buffer.read()
interpreter = runtime.Interpreter.from_bytes(model, arena_size=int(sys.argv[1]))
interpreter.invoke()
interpreter.print_allocations()
"""


def measure(model: bytes) -> int:
    """An arena in which TFLM runs a model on this machine, as small as it goes.

    Args:
        model: A .tflite.

    Raises:
        KwsError: `tflite-micro` is not installed, or refuses the model.
    """
    need("tflite_micro", "The engine 'tflm'")
    end = time.monotonic() + MEASURE_S
    run = _run_in(MOST_BYTES, model, end)
    total = re.search(rb"Arena allocation total (\d+) bytes", run.stderr)
    if run.returncode != 0 or total is None:
        told = run.stderr.decode(errors="replace").strip().splitlines()
        raise KwsError(
            "TensorFlow Lite Micro does not run the model. Received: "
            f"{told[-1] if told else f'exit status {run.returncode}'}",
            "--engine native",
        )
    size = int(total[1])
    # Planning the arena takes memory too, which is given back: a little more, then.
    while _run_in(size, model, end).returncode != 0:
        size += -(-size // 64)
    return size


def _run_in(size: int, model: bytes, end: float) -> subprocess.CompletedProcess[bytes]:
    """Run a model once in an arena of `size` bytes."""
    try:
        return subprocess.run(
            [sys.executable, "-c", _MEASURE, str(size)],
            input=model,
            capture_output=True,
            timeout=max(0.0, end - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KwsError(
            f"TensorFlow Lite Micro did not run the model in {MEASURE_S} s",
            "Try again with less running beside it.",
        ) from None
