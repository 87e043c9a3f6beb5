"""The nRF52840's PDM block, UART and clock as far as the firmware uses them (nRF52840
Product Specification v1.8, chapters PDM, UARTE, CLOCK)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from board_models.machine import Asleep, Machine
from kws.deploy.boards import BOARDS, Board

HEADER = BOARDS / "common" / "nrf52840.h"
PDM_IRQ, UARTE_IRQ = 29, 2
STARTED, END = "PDM_EVENTS_STARTED", "PDM_EVENTS_END"
ENDTX = "UARTE0_EVENTS_ENDTX"
DISCONNECTED = 1 << 31
PATIENCE = 200  # reads of an event, after which a transfer that is waited for has ended


class Nrf52840(Machine):
    """After reset, with a microphone that plays what it is given.

    Args:
        audio: int16 samples, as the PDM block gives them; when they are through, the
            firmware sleeps for good.
        events: In which order STARTED of a buffer and END of the one before it come:
            each that stands alone is an interrupt of its own.
        crystal: Whether it starts.
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
        self.outgoing: bytes | None = None
        self.incoming = b""
        self.waits = 0
        self.stalls = 0  # how often the firmware has waited for the port in a loop
        self.values["UICR_APPROTECT"] = 0xFFFFFF5A
        for line in ("RTS", "TXD", "CTS", "RXD"):
            self.values[f"UARTE0_PSEL_{line}"] = 0xFFFFFFFF
        self.on_read["CLOCK_HFCLKSTAT"] = lambda: 0x10001 if crystal else 0x10000
        self.on_write["PDM_TASKS_START"] = self._start
        self.count, self.counting = 7, True  # of TIMER1, as a bootloader left it
        self.on_write["TIMER1_TASKS_CLEAR"] = self._clear
        self.on_write["TIMER1_TASKS_START"] = lambda value: self._timer(True)
        self.on_write["TIMER1_TASKS_STOP"] = lambda value: self._timer(False)
        self.on_write["TIMER1_TASKS_CAPTURE0"] = self._capture
        self.on_write["UARTE0_TASKS_STARTTX"] = self._send
        self.on_read[ENDTX] = self._waited_for

    # --- the serial port --------------------------------------------------------------

    def _send(self, value: int) -> None:
        assert self.values["UARTE0_ENABLE"] == 8
        assert self.outgoing is None, "a transfer was started during another"
        start, count = self.values["UARTE0_TXD_PTR"], self.values["UARTE0_TXD_MAXCNT"]
        assert start >= self.board.ram_origin, "EasyDMA reads RAM only"
        self.outgoing = bytes(self.core.mem_read(start, count))
        self.waits = 0

    def _transmit(self) -> bool:
        """The transfer ends, if there is one and nothing holds it up."""
        flow_control = self.values["UARTE0_CONFIG"] & 1
        held_up = flow_control and not self.values["UARTE0_PSEL_CTS"] & DISCONNECTED
        if self.outgoing is None or held_up:
            return False
        self.text += self.outgoing
        self.outgoing = None
        self.values[ENDTX] = 1
        if self.values.get("UARTE0_INTENSET", 0) & 1 << 8:
            self.pending.add(UARTE_IRQ)
        return True

    def _waited_for(self) -> int:
        self.waits += 1
        if self.waits > PATIENCE and self._transmit():
            self.stalls += 1
        return self.values.get(ENDTX, 0)

    def receive(self, data: bytes) -> None:
        """Bytes come in, each a transfer of its own; what is not fetched is lost."""
        self.incoming += data

    def _take_in(self) -> bool:
        """The next byte, if there is one and the receiver runs."""
        running = (
            self.values.get("UARTE0_TASKS_STARTRX")
            and self.values["UARTE0_SHORTS"] & 1 << 5
        )
        if not self.incoming or not running:
            return False
        assert self.values["UARTE0_RXD_MAXCNT"] == 1
        byte, self.incoming = self.incoming[:1], self.incoming[1:]
        self.core.mem_write(self.values["UARTE0_RXD_PTR"], byte)
        self.values["UARTE0_EVENTS_ENDRX"] = 1
        if self.values["UARTE0_INTENSET"] & 1 << 4:
            self.pending.add(UARTE_IRQ)
        return True

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

    def _clear(self, value: int) -> None:
        self.count = 0

    def _timer(self, counting: bool) -> None:
        self.counting = counting

    def _capture(self, value: int) -> None:
        self.values["TIMER1_CC0"] = self.count

    def _counts(self, name: str) -> bool:
        """Whether the PPI sends this event to TIMER1, and that counts."""
        task = self.addresses.get("TIMER1_TASKS_COUNT")
        return (
            self.counting
            and self.values.get("PPI_CHENSET", 0) & 1 == 1
            and self.values["PPI_CH_EEP"] == self.addresses.get(name)
            and self.values["PPI_CH_TEP"] == task
            and self.values["TIMER1_MODE"] == 2
            and self.values["TIMER1_BITMODE"] == 3
        )

    def _raise_events(self, names: tuple[str, ...]) -> None:
        wanted = {STARTED: 1, END: 4}
        for name in names:
            self.values[name] = 1
            self.count += self._counts(name)
            if self.values.get("PDM_INTENSET", 0) & wanted[name]:
                self.pending.add(PDM_IRQ)

    def idle(self) -> None:
        if self._take_in() or self._transmit():
            return
        if not self.coming:
            address, count = self.buffer
            if len(self.audio) < count or count == 0:
                raise Asleep
            self._fill()
            self.coming = list(self.events)
        self._raise_events(self.coming.pop(0))

    def _fill(self) -> None:
        address, count = self.buffer
        assert address % 4 == 0, "EasyDMA takes words"
        self.core.mem_write(address, self.audio[:count].astype("<i2").tobytes())
        self.audio = self.audio[count:]
        self._take_over()

    def half(self) -> None:
        """A half-buffer is filled, and the next one begun."""
        self._fill()
        self._raise_events((END, STARTED))
