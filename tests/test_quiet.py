"""TensorFlow starts without its notices, and nothing else is taken out."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toolbox

WORDS = """
import os
from kws import quiet
with quiet._without_notices():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n")
    os.write(2, b"I0000 00:00:1.2 3 cudart_stub.cc:31] Could not find cuda drivers\\n")
    os.write(2, b"E0000 00:00:1.2 3 file.cc:1] a real error\\n")
    os.write(2, b"Traceback, or whatever Python says\\n")
    {end}
os.write(2, b"I0000 afterwards all is as it was\\n")
"""


def stderr_of(code: str, returncode: int = 0, **environment: str) -> list[str]:
    """What another Python says on stderr."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    clean |= {"PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=clean
    )
    assert done.returncode == returncode, done.stderr
    return done.stderr.splitlines()


def test_notices_alone_are_taken_out() -> None:
    said = stderr_of(WORDS.format(end="pass"))
    assert said == [
        "E0000 00:00:1.2 3 file.cc:1] a real error",
        "Traceback, or whatever Python says",
        "I0000 afterwards all is as it was",
    ]


def test_the_last_words_of_a_crash_come_through() -> None:
    said = stderr_of(WORDS.format(end="os.abort()"), returncode=-6)
    assert said[0] == "E0000 00:00:1.2 3 file.cc:1] a real error"


TRACED = """
from kws.layers.keras import tf
for number in range(12):
    @tf.function(autograph=False)
    def run(value):
        return value + 1
    run(tf.constant(number))
tf.get_logger().warning("another warning")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
def test_networks_that_are_built_one_after_another_are_no_warning() -> None:
    said = stderr_of(TRACED)
    assert len(said) == 1 and said[0].endswith("another warning"), said


def test_ctrl_c_while_it_starts_is_no_traceback_of_the_filter() -> None:
    """A terminal sends it to the whole group of processes."""
    code = (
        "import os, signal, time\nos.setsid()\nfrom kws import quiet\n"
        # Who runs the tests in the background may have it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with quiet._without_notices():\n"
        "    try:\n"
        "        time.sleep(1)\n        os.killpg(0, signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        os.write(2, b'Stopped\\n')\n"
    )
    assert stderr_of(code) == ["Stopped"]


def test_tensorflow_starts_in_silence() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        toolbox.skip_or_fail("TensorFlow is not installed")
    code = "from kws.layers.keras import tf; tf.constant(1.0) + 1.0"
    assert stderr_of(code) == []
