"""What goes wrong between this machine and a board, as data: one message each.

docs/flashing.md prints this table; tests/test_flash.py provokes every row and compares
it with the page.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from kws.errors import KwsError, pip_install, quoted

UDEV = "https://github.com/pyocd/pyOCD/tree/main/udev"


@dataclass(frozen=True)
class Failure:
    """One kind of failure.

    Args:
        error: What is wrong; {names} are filled in.
        hint: What to type or do.
        exit_code: 2 where nothing was begun, 1 where something did not work out.
    """

    error: str
    hint: str
    exit_code: int = 1


FAILURES = {
    "no-pyocd": Failure(
        "pyOCD, which programs this board, is not installed",
        pip_install("flash"),
        2,
    ),
    "no-openocd": Failure(
        "OpenOCD is not installed",
        "apt-get install openocd   (macOS: brew install openocd)",
        2,
    ),
    "no-bossac": Failure(
        "No bossac was found that knows this board's chip",
        "arduino-cli core install arduino:mbed_nano   (or, in Arduino's IDE, the board "
        "package Arduino Mbed OS Nano Boards)",
        2,
    ),
    "no-bootloader": Failure(
        "Arduino's bootloader was not found",
        "Press the board's button twice, quickly, until its orange LED pulses; then: "
        "kws flash {run} --board {board} --tool bossac",
        2,
    ),
    "not-linked": Failure(
        "The image is not linked to where Arduino's bootloader starts it",
        "Mend flash_origin in {board}'s board.toml; or, with a debug probe: "
        "kws flash {run} --board {board} --tool pyocd",
        2,
    ),
    "bossac-failed": Failure(
        "bossac failed: flash may hold an incomplete image",
        "Press the board's button twice, quickly, until its orange LED pulses; then: "
        "kws flash {run} --board {board} --tool bossac",
    ),
    "no-probe": Failure(
        "No debug probe was found for {board}",
        "Plug it in, with a cable that carries data; then: kws doctor",
        2,
    ),
    "several-probes": Failure(
        "Several debug probes are connected, and only one can be meant",
        "kws flash {run} --board {board} --probe ID",
        2,
    ),
    "permission": Failure(
        "The debug probe may not be opened by this user",
        f"Install pyOCD's udev rules ({UDEV}), then plug the probe in again",
        2,
    ),
    "no-target": Failure(
        "The debug probe works, but the chip behind it does not answer",
        "Check the board's power and the SWD wires (SWDIO, SWCLK, GND, VTref), hold "
        "its reset button, and try again",
    ),
    "locked": Failure(
        "The chip is locked against reading and writing (APPROTECT)",
        "To erase ALL of its flash and unlock it: "
        "kws flash {run} --board {board} --unlock",
        2,
    ),
    "protected": Failure(
        "The chip is protected against reading (RDP)",
        "ST's STM32CubeProgrammer lifts it (RDP level 0), erasing ALL of its flash; "
        "then: kws flash {run} --board {board}",
        2,
    ),
    "wrong-target": Failure(
        "The chip behind the probe is not the {part} of {board}",
        "kws boards   (lists them; is the right one connected?)",
        2,
    ),
    "unplugged": Failure(
        "The connection was lost in the middle of programming: flash holds an "
        "incomplete image",
        "Plug it in again, then: kws flash {run} --board {board}",
    ),
    "write": Failure(
        "The chip's flash could not be erased or written",
        "Press reset and try again: kws flash {run} --board {board}; if it stays, the "
        "flash may be write-protected or worn",
    ),
    "verify": Failure(
        "What was read back from flash is not what was written",
        "Program it again: kws flash {run} --board {board}; if it stays, try another "
        "cable or supply",
    ),
    "no-drive": Failure(
        "The board's USB drive was not found",
        "Hold BOOTSEL while plugging the board in, then: "
        "kws flash {run} --board {board}",
        2,
    ),
    "drive-write": Failure(
        "The image could not be copied onto the board's USB drive",
        "Hold BOOTSEL while plugging the board in, then: "
        "kws flash {run} --board {board}",
    ),
    "drive-stays": Failure(
        "The board did not accept the image: its USB drive is still there",
        "Is it the chip of {board}? Hold BOOTSEL while plugging it in, and try again",
    ),
    "no-pyserial": Failure(
        "pyserial, which reads the board's serial port, is not installed",
        pip_install("flash"),
        2,
    ),
    "no-port": Failure(
        "No serial port was found for {board}",
        "Plug in the board's USB or a USB-serial adapter (docs/boards.md has the pins)"
        "; or name it: --port /dev/ttyACM0",
    ),
    "several-ports": Failure(
        "Several serial ports could be {board}'s",
        "Name one with --port",
        2,
    ),
    "port-absent": Failure(
        "There is no serial port {port}",
        "kws doctor   (lists those of USB; is the board plugged in?)",
        2,
    ),
    "not-serial": Failure(
        "What was named is no serial port: {port}",
        "kws doctor   (lists those of USB)",
        2,
    ),
    "port-permission": Failure(
        "The serial port may not be opened by this user",
        "sudo usermod -aG dialout $USER   and log in again",
        2,
    ),
    "port-busy": Failure(
        "The serial port can't be opened",
        "Close other programs that use it (a serial monitor, an IDE), then try again",
        2,
    ),
    "port-lost": Failure(
        "The serial port disappeared",
        "Plug the board in again, then: kws monitor {run} --board {board}",
    ),
    "silent": Failure(
        "The board says nothing on its serial port",
        "Press its reset button. If it stays silent: kws flash {run} --board {board}",
    ),
    "interrupted": Failure(
        "The board holds an incomplete image: programming it was interrupted",
        "kws flash {run} --board {board}",
    ),
    "hash": Failure(
        "The board runs another model than this run's",
        "kws flash {run} --board {board}",
    ),
    "other-board": Failure(
        "The board says that it is {said}. Expected {board}",
        "kws monitor {run} --board {said}   (or name {board}'s port with --port)",
    ),
    "protocol": Failure(
        "The board's firmware speaks another version of the protocol than this kws",
        "kws flash {run} --board {board}   (or install the version that built it)",
    ),
    "selftest": Failure(
        "The board's self-test failed: it computes other logits than this machine",
        "kws flash {run} --board {board} --compiler zig   (or gcc: another compiler)",
    ),
    "clock": Failure(
        "A crystal or clock of the board did not start",
        "Unplug the board and plug it in again; if it stays, its supply is too weak or "
        "the part broken",
    ),
    "stack": Failure(
        "The firmware's stack is full",
        "Raise stack_bytes in {board}'s board.toml, then: "
        "kws flash {run} --board {board}",
    ),
    "crashed": Failure(
        "The firmware crashed",
        "kws flash {run} --board {board}, and report the addresses if it stays",
    ),
}


class BoardError(KwsError):
    """A failure of the table.

    Args:
        key: Of FAILURES.
        cause: What exactly happened: the tool's own words.
        values: For the {names} in the texts; one that is missing stays a name.
            `options`: what else was typed that a command in the hint takes too.
    """

    def __init__(self, key: str, cause: str, **values: str) -> None:
        failure = FAILURES[key]
        self.key = key
        filled = {
            name: values.get(name) or name.upper()
            for _, name, _, _ in string.Formatter().parse(failure.error + failure.hint)
            if name
        }
        error = failure.error.format(**filled)
        names = {name: quoted(text) for name, text in filled.items()}
        if options := values.get("options"):
            again = re.sub(r"--board \{\w+\}", r"\g<0> {options}", failure.hint)
            hint = again.format(**names, options=options)
        else:
            hint = failure.hint.format(**names)
        super().__init__(
            f"{error}.\nCaused by: {cause.strip() or 'unknown'}",
            hint,
            failure.exit_code,
        )
