"""A board's serial port: found by USB ids, read in lines."""

from __future__ import annotations

import errno
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

from kws.deploy.boards import Board
from kws.deploy.choice import Ask, Found
from kws.deploy.failures import BoardError
from kws.errors import KwsError, quoted

READ_S = 0.2
WRITE_S = 5.0


def missing() -> KwsError | None:
    """The error that tells how to get pyserial, or None where it is installed."""
    if importlib.util.find_spec("serial") is not None:
        return None
    return BoardError("no-pyserial", "the Python package serial can't be imported")


def ports() -> list[tuple[Found, str]]:
    """USB serial ports, each with its "vendor:product"."""
    from serial.tools import list_ports

    return [
        (Found(port.device, port.description), f"{port.vid:04x}:{port.pid:04x}")
        for port in sorted(list_ports.comports())
        if port.vid is not None and port.pid is not None
    ]


def find(
    board: Board, run: str, wanted: str | None, ask: Ask | None, options: str = ""
) -> str:
    """The port to open.

    Args:
        board: Its USB ids come first; without a match, the only USB port there is.
        run: The run's name, for hints.
        wanted: A port that the user named.
        ask: Asks which one of several; None: nobody is there to ask.
        options: What else was typed, for hints.

    Raises:
        KwsError: none or several, or pyserial is missing.
    """
    error = missing()
    if error is not None:
        raise error
    if wanted is not None:
        return wanted
    # A bootloader's own port goes when the firmware starts, which has none.
    silent = board.options_of("bossac").get("bootloader", ())
    found = [(port, ids) for port, ids in ports() if ids not in silent]
    ours = [port for port, ids in found if ids in board.usb.ids]
    if not ours:
        ours = [port for port, _ in found]
    names = {"board": board.name, "run": run, "options": options}
    if not ours:
        expected = ", ".join(board.usb.ids) or "any USB port"
        raise BoardError("no-port", f"looked for {expected}; found none", **names)
    if len(ours) == 1:
        return ours[0].id
    if ask is None:
        listed = "; ".join(f"{port.id} ({port.title})" for port in ours)
        raise BoardError("several-ports", f"found {listed}", **names)
    return ours[ask("Which serial port?", ours)].id


def not_opened(error: Exception, port: str, **names: str) -> BoardError:
    """The failure that a port which can't be opened stands for."""
    number = getattr(error, "errno", None)
    if number is None and error.__context__ is not None:  # of termios, which has none
        number = next(iter(error.__context__.args), None)
    key = "port-busy"
    if number in (errno.EACCES, errno.EPERM):
        key = "port-permission"
    elif number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        key = "port-absent"
    elif number in (errno.ENOTTY, errno.EISDIR):
        key = "not-serial"
    return BoardError(key, str(error), port=quoted(port), **names)


class Port:
    """An open port; a context manager.

    Args:
        name: As from `find`.
        board: Gives the speed, and its name for messages.
        run: The run's name, for hints.
        options: What else was typed, for hints.

    Raises:
        BoardError: it can't be opened.
    """

    def __init__(self, name: str, board: Board, run: str, options: str = "") -> None:
        import serial

        self.name = name
        self._names = {"board": board.name, "run": run, "options": options}
        try:
            self._serial: Any = serial.Serial(
                name,
                board.usb.baud,
                timeout=READ_S,
                write_timeout=WRITE_S,
                exclusive=True,
            )
        except (serial.SerialException, OSError, ValueError) as error:
            raise not_opened(error, name, **self._names) from error

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        self._serial.close()

    def write(self, line: str) -> None:
        """Send a line.

        Raises:
            BoardError: the port is gone, or takes nothing.
        """
        import serial

        try:
            self._serial.write(line.encode() + b"\n")
        except serial.SerialTimeoutException as error:
            cause = f"{self.name}: it took nothing in {WRITE_S:g} s"
            raise BoardError("silent", cause, **self._names) from error
        except (serial.SerialException, OSError) as error:
            raise BoardError("port-lost", str(error), **self._names) from error

    def read(self, silent_s: Callable[[], float]) -> Iterator[bytes]:
        """What arrives, as it arrives; nothing now and then, for who looks at a clock.

        Args:
            silent_s: Asked how many seconds without a byte are to be borne.

        Raises:
            BoardError: nothing for that long, or the port is gone.
        """
        import serial

        last = time.monotonic()
        while True:
            try:
                data = self._serial.read(max(1, min(4096, self._serial.in_waiting)))
            except (serial.SerialException, OSError) as error:
                raise BoardError("port-lost", str(error), **self._names) from error
            if data:
                last = time.monotonic()
                yield data
            elif time.monotonic() - last > (limit := silent_s()):
                cause = f"{self.name}: nothing in {limit:g} s"
                raise BoardError("silent", cause, **self._names)
            else:
                yield data
