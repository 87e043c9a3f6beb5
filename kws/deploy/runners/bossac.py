"""Program a board through Arduino's bootloader, by bossac: no debug probe is needed.

A sketch of Arduino's starts the bootloader where its USB serial port is opened at 1200
baud and closed. This firmware has no USB: two quick presses of the button do it.
The bootloader stays and starts what lies behind it, so the image is linked to there.

board.toml:

    [bossac]
    device = "nRF52840-QIAA"                # what the bootloader calls its chip
    start = 0x10000                         # of the image; bossac counts from here
    application = ["2341:805a"]             # USB ids of a sketch
    bootloader = ["2341:005a"]              # and of the bootloader
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from kws.bundle import write_atomic
from kws.deploy import elf, formats, serial_port
from kws.deploy.boards import Board
from kws.deploy.failures import BoardError
from kws.deploy.runners import Found, Job, Programmed
from kws.errors import KwsError

EXECUTABLE = "bossac"
TIMEOUT_S = 180
TRIES = 3
# What SAM-BA takes no notice of (it begins bossac's greeting), longer than what is
# transferred before the erase.
FILLER = b"\x80" * 256 + b"#"
LOOK_S, GONE_LOOKS = 0.5, 4  # how often, and how long the port may be away
STARTS_S = 10.0  # from a touch until the bootloader's port is there
TOUCH_BAUD = 1200
# Where Arduino's IDE and arduino-cli put their own; Debian's, 1.9.1, knows no nRF52840.
PLACES = ("~/.arduino15", "~/Library/Arduino15", "~/AppData/Local/Arduino15")
# What bossac says before it has written anything (its sources, 1.9.1).
MESSAGES = {
    "No device found on": "no-bootloader",
    "Device unsupported": "wrong-target",
}
BEGINS = "Erase flash"  # and what it says when that is over


def missing() -> KwsError | None:
    """The error that tells how to get bossac and pyserial; None where they are there.

    Whether bossac knows the board's chip is looked at in `program`.
    """
    error = serial_port.missing()
    if error is not None:
        return error
    if programs():
        return None
    return BoardError(
        "no-bossac", f"{EXECUTABLE} is neither on the PATH nor in Arduino's folders"
    )


def programs() -> list[Path]:
    """Each bossac of this machine: that on the PATH, and Arduino's, newest first."""
    name = EXECUTABLE + (".exe" if os.name == "nt" else "")
    found = [Path(path)] if (path := shutil.which(EXECUTABLE)) else []
    for place in PLACES:
        folder = Path(place).expanduser() / "packages/arduino/tools" / EXECUTABLE
        found += sorted(folder.glob(f"*/{name}"), reverse=True)
    return found


def knowing(device: str) -> list[Path]:
    """Those of `programs` that know a chip: its name is in them."""
    return [path for path in programs() if device.encode() in path.read_bytes()]


def program(image: Path, board: Board, job: Job) -> Programmed:
    """Start the bootloader, let bossac write all of the image and start it.

    bossac reads nothing back: the bootloader can't. The firmware's own seal is looked
    at when it starts, before anything else.

    Raises:
        BoardError: see kws.deploy.failures.
    """
    names = {
        "board": board.name,
        "part": board.part,
        "run": job.run,
        "options": job.options,
    }
    options = board.options_of(EXECUTABLE)
    content = elf.read(image)
    start, begins = options["start"], content.segments[0].address
    data = formats.binary(content.segments)
    if begins != start or data is None:
        cause = f"it begins at {begins:#x}, and the bootloader starts {start:#x}"
        raise BoardError("not-linked", cause, **names)
    tool = _knowing(options["device"], names)
    port = _bootloader(board, job, names)
    flat = image.with_suffix(".bin")
    write_atomic(flat, data)
    job.before_start()  # bossac starts it as soon as it is whole
    said = _write(command(tool, port, flat), port, names)
    device = re.search(r"^Device\s*: (.*?)\s*$", said, re.MULTILINE)
    if device is None or device[1] != options["device"]:
        cause = f"it wrote to another chip: {device[1] if device else said[-200:]}"
        raise BoardError("bossac-failed", cause, **names)
    job.progress(1.0)
    return Programmed("everything", len(data), f"{EXECUTABLE} {port}")


def command(tool: Path, port: str, flat: Path) -> list[str]:
    """The command line, as Arduino's own platform.txt has it."""
    return [str(tool), "-d", f"--port={port}", "-U", "-i", "-e", "-w", str(flat), "-R"]


def _knowing(device: str, names: dict[str, str]) -> Path:
    """The first bossac that knows a chip: it has its name in it.

    Another would ask the chip what it is by reading addresses that it lacks.
    """
    if found := knowing(device):
        return found[0]
    listed = ", ".join(map(str, programs()))
    raise BoardError("no-bossac", f"{device} is unknown to {listed or 'none'}", **names)


def _bootloader(board: Board, job: Job, names: dict[str, str]) -> str:
    """The port at which the bootloader listens; a sketch is made to start it."""
    options = board.options_of(EXECUTABLE)
    port, ids = _choose(board, job, names)
    if ids in options["bootloader"]:
        return port
    before = serial_port.ports()
    _touch(port, names)
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        for found in serial_port.ports():  # the name may be another, or the same
            if found[1] in options["bootloader"] and found not in before:
                return found[0].id
        time.sleep(0.1)
    cause = f"{port} was touched at {TOUCH_BAUD} baud; no bootloader in {STARTS_S:g} s"
    raise BoardError("no-bootloader", cause, **names)


def _choose(board: Board, job: Job, names: dict[str, str]) -> tuple[str, str]:
    """The board's own USB serial port and its "vendor:product"."""
    options = board.options_of(EXECUTABLE)
    found = serial_port.ports()
    listed = "; ".join(f"{port.id} {port.title} {ids}" for port, ids in found) or "none"
    ours = [
        (port, ids)
        for port, ids in found
        if ids in options["bootloader"] or ids in options["application"]
    ]
    if job.probe is not None:
        named = os.path.realpath(job.probe)  # /dev/serial/by-id/... is a link
        ours = [(port, ids) for port, ids in ours if port.id in (job.probe, named)]
    if not ours:
        wanted = f"{job.probe} is none" if job.probe is not None else "found none"
        cause = f"{wanted}; serial ports: {listed}"
        raise BoardError("no-bootloader", cause, **names)
    if len(ours) > 1 and job.ask is None:
        raise BoardError("several-probes", f"serial ports: {listed}", **names)
    place = 0
    if len(ours) > 1 and job.ask is not None:
        choices = [Found(port.id, port.title) for port, _ in ours]
        place = job.ask("Which board?", choices)
    return ours[place][0].id, ours[place][1]


def _touch(port: str, names: dict[str, str]) -> None:
    """Open the port at 1200 baud and close it: a sketch then starts the bootloader."""
    import serial

    touched = serial.Serial()
    touched.port, touched.baudrate, touched.dtr = port, TOUCH_BAUD, False
    try:
        touched.open()
        touched.close()
    except (serial.SerialException, OSError, ValueError) as error:
        raise serial_port.not_opened(error, port, **names) from error


def _write(line: list[str], port: str, names: dict[str, str]) -> str:
    """What bossac says. It waits a tenth of a second for most answers, which a busy PC
    may miss: where it got none, and has written nothing, it is run again."""
    for tries in reversed(range(TRIES)):
        code, said, error = _run(line, port, names)
        if code == 0:
            break
        failure = explain(error or said[-200:], names)
        if tries == 0 or BEGINS in said or failure.key == "wrong-target":
            raise failure
        time.sleep(LOOK_S)
        _complete(port)
    return said


def _complete(port: str) -> None:
    """Give a bootloader what it may be waiting for: one whose first answer was late is
    spoken to as if it were at a UART, and left in the middle of a transfer."""
    import serial

    with (
        contextlib.suppress(serial.SerialException, OSError),
        serial.Serial(port, write_timeout=1) as opened,
    ):
        opened.write(FILLER)  # closing waits until it is sent; flush could for ever


def _run(line: list[str], port: str, names: dict[str, str]) -> tuple[int, str, str]:
    """bossac's exit code and what it says. It waits for ever where its port goes, so
    that is watched."""
    end, gone = time.monotonic() + TIMEOUT_S, 0
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace"
    ) as running:
        try:
            while True:
                try:
                    said, error = running.communicate(timeout=LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    there = any(found.id == port for found, _ in serial_port.ports())
                    gone = 0 if there else gone + 1
                    if gone < GONE_LOOKS and time.monotonic() < end:
                        continue
                cause = f"{port} disappeared" if gone else f"no end in {TIMEOUT_S} s"
                raise BoardError("bossac-failed", cause, **names)
        finally:
            running.kill()  # also where this is stopped; nothing, where it has ended
    return running.returncode, said, error


def explain(said: str, names: dict[str, str]) -> BoardError:
    """The failure that bossac's last words stand for."""
    cause = " ".join(said.split())
    found = (key for text, key in MESSAGES.items() if text in cause)
    return BoardError(next(found, "bossac-failed"), cause, **names)
