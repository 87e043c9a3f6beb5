"""Run an image under qemu-system-arm, with exact instruction counts (-icount).

board.toml: [qemu] machine = "mps2-an386".
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from kws.deploy.boards import Board
from kws.deploy.runners import Outcome
from kws.errors import KwsError

EXECUTABLE = "qemu-system-arm"
MAX_TEXT = 16 * 1024 * 1024


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
) -> Outcome:
    """Run the image; files that `arguments` name are looked for in `folder`.

    Raises:
        KwsError: QEMU is missing.
    """
    error = missing()
    if error is not None:
        raise error
    start = time.monotonic()
    try:
        result = subprocess.run(
            command(image, board, arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        output, code = result.stdout, result.returncode
    except subprocess.TimeoutExpired as expired:
        output, code = expired.stdout or b"", None
    text = output[:MAX_TEXT].decode("utf-8", "replace")
    return Outcome(code, text, time.monotonic() - start)
