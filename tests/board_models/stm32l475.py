"""The STM32L475's clocks, USART1, DMA1 channel 4 and DFSDM filter 0 as far as the
firmware uses them (ST's reference manual RM0351)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from board_models.machine import Asleep, Machine
from kws.deploy.boards import BOARDS, Board

HEADER = BOARDS / "b-l475e-iot01a" / "stm32l475.h"
DMA_IRQ, USART_IRQ = 14, 37
TXE, TC, TXEIE = 1 << 7, 1 << 6, 1 << 7
RXNE, RE, RXNEIE = 1 << 5, 1 << 2, 1 << 5
TCIF, HTIF, TEIF = 1 << 13, 1 << 14, 1 << 15
CCR_EN, CCR_TCIE, CCR_HTIE, CCR_TEIE = 1, 2, 4, 8
PATIENCE = 200  # reads of a flag, after which what is waited for has happened


class Stm32l475(Machine):
    """After reset, with a microphone that plays what it is given.

    Args:
        raw: int32 samples, 24 bits, as the DFSDM filter gives them; when they are
            through, the firmware sleeps for good.
        crystal, pll: Whether they start.
    """

    def __init__(
        self,
        image: Path,
        board: Board,
        raw: np.ndarray | None = None,
        crystal: bool = True,
        pll: bool = True,
    ) -> None:
        super().__init__(image, board, HEADER)
        self.raw = np.zeros(0, np.int32) if raw is None else raw
        self.at_half = 0
        self.flags = 0
        self.overrun = 0
        self.incoming = b""
        self.has_byte = False  # of these, in the receiver's register
        self.sending = 0  # bytes in the data and shift registers
        self.waits = 0
        self.stalls = 0  # how often the firmware has waited for the port in a loop
        self.values["RCC_AHB1SMENR"] = 0x11303  # all clocks run on in sleep
        self.values["RCC_CR"] = 0x63  # MSI on and ready, 4 MHz
        self.on_read["RCC_BDCR"] = lambda: self._ready("RCC_BDCR", 0, 1, crystal)
        self.on_read["RCC_CR"] = lambda: self._ready("RCC_CR", 24, 25, pll)
        self.on_read["RCC_CFGR"] = lambda: self._switched()
        self.on_write["RCC_CR"] = self._clock_control
        self.on_write["RCC_BDCR"] = self._crystal_control
        self.on_write["USART1_TDR"] = self._byte
        self.on_read["USART1_ISR"] = self._usart
        self.on_read["USART1_RDR"] = self._fetched
        self.on_read["DMA1_ISR"] = lambda: self.flags
        self.on_write["DMA1_IFCR"] = self._clear
        self.on_read["DFSDM_DFSDM0_ISR"] = lambda: self.overrun << 3
        self.on_write["DFSDM_DFSDM0_ICR"] = self._clear_overrun

    # --- clocks -----------------------------------------------------------------------

    def _ready(self, name: str, on: int, ready: int, works: bool) -> int:
        value = self.values.get(name, 0)
        return value | (value >> on & int(works)) << ready

    def _switched(self) -> int:
        value = self.values.get("RCC_CFGR", 0)
        return value & ~0xC | (value & 3) << 2

    def _clock_control(self, value: int) -> None:
        if value & 4:  # MSIPLLEN: "must be enabled after LSE is enabled and ready"
            assert self.on_read["RCC_BDCR"]() & 2, "MSI is locked to a dead crystal"

    def _crystal_control(self, value: int) -> None:
        assert self.values.get("RCC_APB1ENR1", 0) & 1 << 28, "PWR has no clock"
        assert self.values.get("PWR_CR1", 0) & 1 << 8, "BDCR is write-protected"

    # --- the serial port --------------------------------------------------------------

    def _byte(self, value: int) -> None:
        assert self.sending < 2, "a byte was written over"
        self.text.append(value)
        self.sending += 1
        self.waits = 0

    def _usart(self) -> int:
        self.waits += 1
        if self.waits > PATIENCE and self.sending:
            self.sending = 0
            self.stalls += 1
        received = RXNE if self.has_byte else 0
        return (TXE if self.sending < 2 else 0) | (0 if self.sending else TC) | received

    def receive(self, data: bytes) -> None:
        """Bytes come in, while the receiver is on."""
        self.incoming += data

    def _fetched(self) -> int:
        byte, self.incoming = self.incoming[0], self.incoming[1:]
        self.has_byte = False
        return byte

    # --- the microphone ---------------------------------------------------------------

    def _clear(self, value: int) -> None:
        channel = (TCIF, HTIF, TEIF)
        if value & 1 << 12:
            value |= sum(channel)
        self.flags &= ~value

    def _clear_overrun(self, value: int) -> None:
        self.overrun &= ~(value >> 3)

    def fail(self) -> None:
        """A bus error: the DMA switches the channel off."""
        self.values["DMA1_CCR4"] &= ~CCR_EN
        self._flag(TEIF, CCR_TEIE)

    def _flag(self, flag: int, enable: int) -> None:
        self.flags |= flag
        if self.values["DMA1_CCR4"] & enable:
            self.pending.add(DMA_IRQ)

    def idle(self) -> None:
        control = self.values.get("USART1_CR1", 0)
        if self.incoming and not self.has_byte and control & RE and control & RXNEIE:
            self.has_byte = True
            self.pending.add(USART_IRQ)
            return
        if self.sending:
            self.sending = 0
            if control & TXEIE:
                self.pending.add(USART_IRQ)
                return
        control = self.values.get("DMA1_CCR4", 0)
        count = self.values.get("DMA1_CNDTR4", 0) // 2
        if not control & CCR_EN or len(self.raw) < count:
            raise Asleep
        self.half()

    def half(self) -> None:
        """A half-buffer is filled."""
        count = self.values["DMA1_CNDTR4"] // 2
        words = (self.raw[:count].astype(np.int64) << 8 | 2) & 0xFFFFFFFF
        self.raw = self.raw[count:]
        address = self.values["DMA1_CMAR4"] + 4 * count * self.at_half
        self.core.mem_write(address, words.astype("<u4").tobytes())
        if self.at_half == 0:
            self._flag(HTIF, CCR_HTIE)
        else:
            self._flag(TCIF, CCR_TCIE)
        self.at_half ^= 1

    def restarted(self) -> None:
        """The DMA counts from the start of its buffer."""
        self.at_half = 0
