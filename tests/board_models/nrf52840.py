"""The nRF52840's PDM block, UART and clock as far as the firmware uses them (nRF52840
Product Specification v1.8, chapters PDM, UARTE, CLOCK)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from board_models.machine import Asleep, Machine
from kws.deploy.boards import BOARDS, Board

HEADER = BOARDS / "common" / "nrf52840.h"
PDM_IRQ = 29
STARTED, END = "PDM_EVENTS_STARTED", "PDM_EVENTS_END"


class Nrf52840(Machine):
    """After reset, with a microphone that plays what it is given.

    Args:
        audio: int16 samples; when they are through, the firmware sleeps for good.
        events: In which order STARTED of a buffer and END of the one before it come:
            each that stands alone is an interrupt of its own.
    """

    def __init__(
        self,
        image: Path,
        board: Board,
        audio: np.ndarray | None = None,
        events: tuple[tuple[str, ...], ...] = ((END, STARTED),),
        crystal: bool = True,
    ) -> None:
        super().__init__(image, board, HEADER)
        self.audio = np.zeros(0, np.int16) if audio is None else audio
        self.events = events
        self.coming: list[tuple[str, ...]] = []
        self.buffer = (0, 0)  # address and samples of the one being filled
        self.cycles = 0
        self.on_read["CLOCK_HFCLKSTAT"] = lambda: 0x10001 if crystal else 0x10000
        self.values["UICR_APPROTECT"] = 0xFFFFFF5A
        self.on_read["DWT_CYCCNT"] = self._cycles
        self.on_write["PDM_TASKS_START"] = self._start
        self.on_write["UART0_TXD"] = self._send
        self.on_read["UART0_EVENTS_TXDRDY"] = lambda: 1

    def _cycles(self) -> int:
        self.cycles += 100
        return self.cycles & 0xFFFFFFFF

    def _send(self, value: int) -> None:
        self.text.append(value)

    # --- the microphone ---------------------------------------------------------------

    def _start(self, value: int) -> None:
        self._take_over()
        self._raise_events((STARTED,))

    def _take_over(self) -> None:
        """The pointer is double-buffered: it counts when a buffer is begun."""
        self.buffer = (
            self.values["PDM_SAMPLE_PTR"],
            self.values["PDM_SAMPLE_MAXCNT"],
        )

    def _raise_events(self, names: tuple[str, ...]) -> None:
        wanted = {STARTED: 1, END: 4}
        for name in names:
            self.values[name] = 1
            if self.values.get("PDM_INTENSET", 0) & wanted[name]:
                self.pending.add(PDM_IRQ)

    def idle(self) -> None:
        if not self.coming:
            address, count = self.buffer
            if len(self.audio) < count or count == 0:
                raise Asleep
            assert address % 4 == 0, "EasyDMA takes words"
            self.core.mem_write(address, self.audio[:count].astype("<i2").tobytes())
            self.audio = self.audio[count:]
            self._take_over()
            self.coming = list(self.events)
        self._raise_events(self.coming.pop(0))
