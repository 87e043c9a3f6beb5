"""A board with Arduino's bootloader at a pseudo-terminal, as far as bossac sees it.

It speaks SAM-BA with Arduino's extensions (chip erase X, write buffer Y, reset K,
identity I), and is a flash that must be erased before it is written. What it was told
it keeps, and whatever a real one would not have survived is in `faults`. Written after
bossac's own sources (1.9.1) and what its -d prints at a Nano 33 BLE.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import termios
import threading
from dataclasses import dataclass, field
from typing import Any

from kws.deploy.runners import Found

NANO = "Arduino Bootloader (SAM-BA extended) 2.0 [Arduino:IKXYZ]"
ZERO = "v2.0 [Arduino:XYZ] Apr 19 2019 14:38:48"
PAGE, RAM = 4096, 0x20000000
AIRCR, RESET = 0xE000ED0C, 0x05FA0004
# Of an ATSAMD21G18A: initial stack, CPUID, DSU.DID, NVMCTRL.INTFLAG.READY
SAMD21 = {0: 0x20002DDC, 0xE000ED00: 0x410CC601, 0x41002018: 0x10010305}
SAMD21 |= {0x41004014: 1}


@dataclass
class Board:
    """The board; a context manager: its thread answers until the end.

    Args:
        version: What it answers to V; the letters say what it can.
        identity: What it answers to I.
        words: Address -> what w reads there.
        base: Where in flash what bossac calls 0 lies; below is the bootloader.
        silent: It answers nothing.
        unplugged_after: Pages after which its cable is pulled.
        deaf_to: Commands that it does not answer.
        late_to: Commands whose first answer comes too late: not at all.
    """

    version: str = NANO
    identity: str = "nRF52840-QIAA"
    words: dict[int, int] = field(default_factory=dict)
    base: int = 0x10000
    silent: bool = False
    unplugged_after: int | None = None
    deaf_to: str = ""
    late_to: str = ""

    def __post_init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.port = os.ttyname(self.slave)
        self.state = "application"  # bootloader, started, unplugged
        self.flash = bytearray(b"\x5a" * (1 << 20))  # some sketch
        self.bootloader = bytes(self.flash[: self.base])
        self.buffer: dict[int, int] = {}  # RAM, by byte
        self.told: list[str] = []
        self.faults: list[str] = []
        self.pages = 0
        self.source: int | None = None
        self.on_start: Any = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._unplug()
        if bytes(self.flash[: self.base]) != self.bootloader:
            self.faults.append("the bootloader was written over")

    def ports(self) -> list[tuple[Found, str]]:
        """What serial_port.ports says of it."""
        ids = {"application": "2341:805a", "bootloader": "2341:005a"}.get(self.state)
        return [] if ids is None else [(Found(self.port, "Nano 33 BLE"), ids)]

    def _unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            os.close(self.slave)
            self.master = -1

    def _run(self) -> None:
        # bossac waits 0.1 s for an answer, on a machine that may have much to do.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        waiting = b""
        while not self._stop.is_set() and self.state not in ("started", "unplugged"):
            if self.state == "application":
                self._stop.wait(0.02)
                if termios.tcgetattr(self.slave)[5] == termios.B1200:
                    self.told.append("touch")
                    self.state = "bootloader"
                continue
            if not select.select([self.master], [], [], 0.02)[0]:
                continue
            waiting += os.read(self.master, 4096)
            while (length := self._take(waiting)) and self.state == "bootloader":
                waiting = waiting[length:]
        if self.state == "unplugged":
            self._unplug()
        if self.state == "started":
            self.on_start()

    def _answer(self, data: bytes) -> None:
        if not self.silent:
            with contextlib.suppress(OSError):
                os.write(self.master, data)

    def _take(self, waiting: bytes) -> int:
        """Obey one command; returns how long it was, 0 where it is not whole yet."""
        end = waiting.find(b"#")
        if end < 0:
            return 0
        text = waiting[:end].lstrip(b"\x80").decode("ascii", "replace")
        if text == "":  # \x80\x80# lets a serial port find its speed
            return end + 1
        found = re.fullmatch(r"([A-Za-z])([0-9A-Fa-f]*)(?:,([0-9A-Fa-f]*))?", text)
        if found is None:
            self.faults.append(f"no command: {text[:40]!r}")
            return end + 1
        name = found[1]
        first, second = (int(digits or "0", 16) for digits in found.group(2, 3))
        size = second if name == "S" else 0
        data = waiting[end + 1 : end + 1 + size]
        if len(data) < size:
            return 0
        if name in self.late_to:
            self.late_to = self.late_to.replace(name, "")
        elif name not in self.deaf_to:
            self._obey(name, first, second, data)
        return end + 1 + size

    def _obey(self, name: str, first: int, second: int, data: bytes) -> None:
        if name == "N":
            self._answer(b"\n\r")
        elif name == "V":
            self._answer(self.version.encode() + b"\n\r")
        elif name == "I" and "I" in self._can:
            self._answer(self.identity.encode() + b"\n\r")
        elif name == "S":
            self.buffer |= {first + i: byte for i, byte in enumerate(data)}
        elif name == "W" and first == AIRCR:
            if second == RESET:
                self._start()
        elif name == "W":
            word = enumerate(struct.pack("<I", second))
            self.buffer |= {first + i: byte for i, byte in word}
        elif name in "wo":
            word = struct.pack("<I", self.words.get(first, 0))
            self._answer(word if name == "w" else word[:1])
        elif name == "X" and "X" in self._can:
            self.told.append(f"erase {first:#x}")
            self.flash[self.base + first :] = b"\xff" * (
                len(self.flash) - self.base - first
            )
            self._answer(b"X\n\r")
        elif name == "Y" and second == 0 and "Y" in self._can:
            self.source = first
            self._answer(b"Y\n\r")
        elif name == "Y" and "Y" in self._can:
            self._write(first, second)
        elif name == "K" and "K" in self._can:
            self._start()
        else:
            self.faults.append(f"unknown here: {name}{first:x},{second:x}")

    @property
    def _can(self) -> str:
        return self.version.split("[Arduino:")[1].split("]")[0]

    def _write(self, to: int, size: int) -> None:
        self.told.append(f"write {to:#x}")
        at, source = self.base + to, self.source
        places = range(source or 0, (source or 0) + size)
        if source is None or any(place not in self.buffer for place in places):
            self.faults.append(f"written at {to:#x} from what was never sent")
        elif at + size > len(self.flash):
            self.faults.append(f"written beyond flash: {to:#x}")
        elif self.flash[at : at + size] != b"\xff" * size:
            self.faults.append(f"written without erasing: {to:#x}")
        else:
            self.flash[at : at + size] = bytes(self.buffer[place] for place in places)
        self.source = None
        self.pages += 1
        if self.pages == self.unplugged_after:
            self.state = "unplugged"
        else:
            self._answer(b"Y\n\r")

    def _start(self) -> None:
        self.told.append("start")
        self.state = "started"
