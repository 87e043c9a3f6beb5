"""Run an image under qemu-system-arm, with exact instruction counts (-icount).

board.toml: [qemu] machine = "mps2-an386".
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kws.deploy.boards import Board
from kws.deploy.runners import Outcome
from kws.errors import KwsError

EXECUTABLE = "qemu-system-arm"
MAX_BYTES = 64 * 1024 * 1024
# A busy machine gives QEMU less than all of its time; the limit is on processor time.
WALL_PER_CPU = 20


def missing() -> KwsError | None:
    """The error that tells how to get QEMU, or None where it is installed."""
    if shutil.which(EXECUTABLE) is not None:
        return None
    return KwsError(
        f"The emulator is not installed. Expected {EXECUTABLE} on the PATH. "
        "Received: not found",
        "apt-get install qemu-system-arm   (macOS: brew install qemu)",
    )


def command(image: Path, board: Board, arguments: dict[str, str]) -> list[str]:
    """The command line. Virtual time is 256 ns an instruction and jumps over sleep."""
    semihosting = "enable=on,target=native,chardev=semihosting,arg=kws"
    for name, value in arguments.items():
        # A comma separates QEMU's options; doubled it stands for itself.
        semihosting += ",arg=" + f"{name}={value}".replace(",", ",,")
    return [
        EXECUTABLE,
        "-machine",
        board.options["machine"],
        "-kernel",
        str(image.resolve()),
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "null",
        "-icount",
        "shift=8,sleep=off",
        "-chardev",
        "stdio,id=semihosting",
        "-semihosting-config",
        semihosting,
    ]


def run(
    image: Path,
    board: Board,
    arguments: dict[str, str],
    folder: Path,
    timeout_s: float,
    on_text: Callable[[bytes], None] | None = None,
) -> Outcome:
    """Run the image; files that `arguments` name are looked for in `folder`.

    Args:
        on_text: Called with what the firmware prints, as it comes; what it raises ends
            the run.

    Raises:
        KwsError: QEMU is missing.
    """
    error = missing()
    if error is not None:
        raise error
    start = time.monotonic()
    text = bytearray()
    with subprocess.Popen(
        command(image, board, arguments),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        _limit(process.pid, timeout_s)
        # A busy machine gives it less than all of its time: a second limit, by clock.
        timer = threading.Timer(WALL_PER_CPU * timeout_s, process.kill)
        timer.start()
        code: int | None
        try:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 65536):
                text += data[: max(0, MAX_BYTES - len(text))]
                if on_text is not None:
                    on_text(data)
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()  # does nothing once it has ended
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        code = None
    return Outcome(code, text.decode("utf-8", "replace"), time.monotonic() - start)


def _limit(pid: int, seconds: float) -> None:
    """Limit processor time, where the system can (Linux), and the size of files."""
    if not hasattr(resource, "prlimit"):
        return
    with contextlib.suppress(OSError):  # it has ended already
        cpu = max(1, math.ceil(seconds))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))
        resource.prlimit(pid, resource.RLIMIT_CPU, (cpu, cpu + 1))
