"""pyOCD's API with a chip behind it that is only memory: probes, session, loader.

The one mock of the project: no probe and no chip can be had in a test. It stands in for
what kws/deploy/runners/pyocd.py calls, and raises pyOCD's own exceptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pyocd.core import exceptions
from pyocd.core.helpers import ConnectHelper


@dataclass
class Chip:
    """Flash from `start`, registers, and what goes wrong when.

    Args:
        fail: Name of a step (open, read32, commit, verify) -> what to raise or do.
    """

    start: int = 0
    flash: bytearray = field(default_factory=lambda: bytearray(b"\xff" * 0x40000))
    registers: dict[int, int] = field(default_factory=lambda: {0x10000100: 0x52840})
    fail: dict[str, Callable[[], None]] = field(default_factory=dict)
    locked: bool = False
    hardened_approtect: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    written: list[tuple[int, int]] = field(default_factory=list)
    resets: int = 0
    halts: int = 0
    committed: bool = False
    closed: bool = False

    def step(self, name: str) -> None:
        if name in self.fail:
            self.fail[name]()

    # What the runner calls of pyocd's target.
    def read32(self, address: int) -> int:
        self.step("read32")
        return self.registers[address]

    def read_memory_block8(self, address: int, size: int) -> list[int]:
        if self.committed:
            self.step("verify")
        at = address - self.start
        return list(self.flash[at : at + size])

    def reset_and_halt(self) -> None:
        self.step("halt")

    def halt(self) -> None:
        self.halts += 1

    def write_uicr(self, address: int, value: int) -> None:
        self.registers[address] = value

    def reset(self) -> None:
        self.resets += 1

    def is_locked(self) -> bool:
        if self.closed:
            raise exceptions.ProbeError("the probe is not open")
        return self.locked


def probe(number: int, target: str | None = None) -> SimpleNamespace:
    info = SimpleNamespace(target=target) if target else None
    return SimpleNamespace(
        unique_id=f"ABC{number:04}", description="Fake", associated_board_info=info
    )


def connect(
    monkeypatch: pytest.MonkeyPatch, chip: Chip, probes: list[Any] | None = None
) -> None:
    """Let pyOCD find these probes (one, by default), with this chip behind any."""
    found = [probe(1)] if probes is None else probes

    def all_probes(blocking: bool = True) -> list[Any]:
        assert not blocking  # or a command would wait for ever
        chip.step("list")
        return found

    class Session:
        def __init__(self, probe: Any, auto_open: bool, options: dict[str, Any]):
            self.target = chip
            chip.options = options
            chip.closed = False

        def open(self) -> None:
            if chip.locked and not chip.options["auto_unlock"]:
                raise exceptions.DebugError("no cores were discovered")
            if chip.locked:  # erased, and open until its next reset

                def lock_again() -> None:
                    raise exceptions.TransferError("No ACK received")

                chip.flash[:] = b"\xff" * len(chip.flash)
                chip.locked = False
                chip.fail["halt"] = lock_again
            chip.step("open")

        def close(self) -> None:
            chip.closed = True
            chip.step("close")

    class Loader:
        def __init__(self, session: Any, progress: Any, **options: Any):
            assert options["chip_erase"] == "sector"  # never more than is needed
            assert options["keep_unwritten"]
            self.progress = progress
            self.chunks: list[tuple[int, bytes]] = []

        def add_data(self, address: int, data: bytes) -> None:
            self.chunks.append((address, bytes(data)))

        def commit(self) -> None:
            for address, data in self.chunks:
                half = len(data) // 2
                at = address - chip.start
                chip.flash[at : at + half] = data[:half]
                self.progress(0.5)
                chip.step("commit")
                chip.flash[at : at + len(data)] = data
                chip.written.append((address, len(data)))
            chip.committed = True
            self.progress(1.0)

    monkeypatch.setattr(
        ConnectHelper, "get_all_connected_probes", staticmethod(all_probes)
    )
    monkeypatch.setattr("pyocd.core.session.Session", Session)
    monkeypatch.setattr("pyocd.flash.loader.FlashLoader", Loader)
