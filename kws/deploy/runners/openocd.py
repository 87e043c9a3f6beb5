"""Program a board with OpenOCD, which needs no target pack.

board.toml:

    [openocd]
    config = ["board/st_b-l475e-iot01a.cfg"]      # as after -f
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from kws.deploy import elf
from kws.deploy.boards import Board
from kws.deploy.failures import BoardError
from kws.deploy.runners import Job, Programmed
from kws.errors import KwsError

EXECUTABLE = "openocd"
TIMEOUT_S = 180
# What OpenOCD says (its sources, 0.12) and what that means; the first that is found.
MESSAGES = (
    (r"libusb_error_access|permission denied|insufficient permissions", "permission"),
    (r"unable to find a matching|no j-link device found|open failed", "no-probe"),
    (r"multiple devices found|more than one", "several-probes"),
    (r"approtect|mass erase it", "locked"),
    # Of an STM32 that is not protected it says "RDP level 0" each time.
    (r"device protected|readout protect|rdp level [12]", "protected"),
    (r"unexpected idcode|unexpected: |cannot identify target", "wrong-target"),
    (r"verify failed|checksum mismatch|contents differ", "verify"),
    # An ST-Link whose chip does not answer says the same of its status.
    (r"libusb_error_no_device|error writing usb|"
     r"(?s:programming started.*jtag status contains)", "unplugged"),
    (r"failed erasing|error writing to flash|programming failed", "write"),
    (r"unable to connect to the target|init mode failed|failed to read memory",
     "no-target"),
)  # fmt: skip


def missing() -> KwsError | None:
    """The error that tells how to get OpenOCD, or None where it is installed."""
    if shutil.which(EXECUTABLE) is not None:
        return None
    return BoardError("no-openocd", f"{EXECUTABLE} is not on the PATH")


def command(board: Board, commands: list[str], probe: str | None) -> list[str]:
    """The command line that runs OpenOCD's `commands` on a board."""
    line = [EXECUTABLE]
    for file in board.options_of(EXECUTABLE)["config"]:
        line += ["-f", file]
    if probe is not None:
        line += ["-c", f"adapter serial {{{probe}}}"]
    for text in commands:
        line += ["-c", text]
    return line


def program(image: Path, board: Board, job: Job) -> Programmed:
    """Write all of the image, verify it, start it.

    Only the model can't be written: OpenOCD erases whole sectors, and does not bring
    back what else lay in the first and the last one.

    Raises:
        BoardError: see kws.deploy.failures.
    """
    error = missing()
    if error is not None:
        raise error
    _run(board, ["init", f"program {{{image}}} verify", "shutdown"], job)
    job.before_start()
    _run(board, ["init", "reset run", "shutdown"], job)
    written = sum(len(segment.data) for segment in elf.read(image).segments)
    return Programmed("everything", written, EXECUTABLE)


def _run(board: Board, commands: list[str], job: Job) -> None:
    try:
        result = subprocess.run(
            command(board, commands, job.probe),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        cause = f"no answer in {TIMEOUT_S} s: unable to connect to the target"
        raise explain(cause, board, job) from None
    if result.returncode != 0:
        raise explain(result.stderr, board, job)


def explain(text: str, board: Board, job: Job) -> BoardError:
    """The failure that OpenOCD's messages stand for, in its own words."""
    lines = [line for line in text.splitlines() if re.search(r"error|\*\*", line, re.I)]
    cause = "; ".join(line.removeprefix("Error: ") for line in lines[:3])
    found = (key for pattern, key in MESSAGES if re.search(pattern, text, re.I))
    key = next(found, "write")
    names = {"board": board.name, "part": board.part, "run": job.run}
    return BoardError(key, cause or text[-200:], **names, options=job.options)
