"""The RP2350's resets, clocks, pads, UART, converter, DMA and watchdog as far as the
firmware uses them (RP2350 datasheet: 7.5, 8.1, 9.7, 12.1, 12.4, 12.6, 12.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

from board_models.machine import Asleep, Machine, arm
from kws.deploy import uf2
from kws.deploy.boards import BOARDS, Board

HEADER = BOARDS / "pico2" / "rp2350.h"
UNCACHED = 0x14000000  # flash, past its cache
DMA_IRQ, UART_IRQ = 10, 33
CRYSTAL_HZ, RING_HZ = 12_000_000, 11_000_000
ISOLATED = 1 << 8  # of a pad
FIFO = 32
TX, RX = 1 << 5, 1 << 4 | 1 << 6  # of UARTIMSC
PATIENCE = 200  # reads of a flag, after which what is waited for has happened
# Blocks that do nothing while they are in reset -> their bit.
RESETS = {"ADC_": 0, "DMA_": 2, "IO_BANK0_": 6, "PADS_BANK0_": 9, "PLL_SYS_": 14}
RESETS |= {"PLL_USB_": 15, "UART0_": 26}
MICROSECONDS = 10_000  # of a half-buffer


class WatchdogReset(Exception):
    """It was not fed."""


class Rp2350(Machine):
    """As its boot ROM leaves it, with a voltage at ADC0.

    Args:
        image: Its ELF file, whose definition the boot ROM would have looked for.
        raw: uint16 samples of 12 bits at 64 kHz; when they are through, the firmware
            sleeps for good.
        crystal: Whether it starts.
    """

    CPU = arm.UC_CPU_ARM_CORTEX_M33

    def __init__(
        self,
        image: Path,
        board: Board,
        raw: np.ndarray | None = None,
        crystal: bool = True,
    ) -> None:
        uf2.write(image, image.with_suffix(".checked.uf2"), uf2.RP2350)
        super().__init__(image, board, HEADER)
        # Its code runs where start-up copies it to.
        with image.open("rb") as file:
            for segment in ELFFile(file).iter_segments("PT_LOAD"):
                if segment["p_vaddr"] != segment["p_paddr"]:
                    self._let_in(segment["p_vaddr"], segment.data())
        self.raw = np.zeros(0, np.uint16) if raw is None else raw
        self.crystal = crystal
        self.outgoing = bytearray()
        self.incoming = b""
        self.waits = 0
        self.stalls = 0  # how often the firmware has waited for the port in a loop
        self.asleep_hz: set[int] = set()  # clk_sys while it slept
        self.awake_hz: set[int] = set()  # ... in interrupts
        self.left_us = 0  # until the watchdog resets
        self.interrupts = 0  # DMA_INTS0
        self.values["RESETS_RESET"] = 0x1FFFFFFF
        self.values["CLOCKS_CLK_SYS_DIV"] = 1 << 16
        self.values["QMI_M0_TIMING"] = 0x40000202  # a delay, and a divider of 2
        for name in self.addresses:
            if name.startswith("PADS_BANK0_GPIO") and "_" not in name[11:]:
                self.values[name] = 0x116
            for prefix, bit in RESETS.items():
                if name.startswith(prefix):
                    self.on_write[name] = self._out_of_reset(name, bit)
        self.on_read["RESETS_RESET_DONE"] = lambda: ~self.values["RESETS_RESET"]
        self.on_read["XOSC_STATUS"] = lambda: int(self._crystal()) << 31
        self.on_read["CLOCKS_CLK_REF_SELECTED"] = self._reference
        self.on_read["CLOCKS_CLK_SYS_SELECTED"] = self._system
        self.on_write["CLOCKS_CLK_SYS_CTRL"] = self._switch
        for pll in ("PLL_SYS", "PLL_USB"):
            self.on_read[f"{pll}_CS"] = lambda pll=pll: int(self._locked(pll)) << 31
            self.values[f"{pll}_PWR"] = 0x2D
        self.on_write["UART0_UARTDR"] = self._byte
        self.on_read["UART0_UARTDR"] = self._fetched
        self.on_read["UART0_UARTFR"] = self._uart
        self.on_read["ADC_CS"] = lambda: self.values.get("ADC_CS", 0) | 1 << 8
        self.on_read["DMA_INTS0"] = lambda: self.interrupts
        self.on_write["DMA_INTS0"] = self._forget
        self.on_write["DMA_CH0_CTRL_TRIG"] = self._begin
        self.on_write["WATCHDOG_LOAD"] = self._feed

    def memory(self) -> Iterable[tuple[int, int]]:
        yield from super().memory()
        yield UNCACHED, self.board.flash_bytes

    def _out_of_reset(self, name: str, bit: int) -> Callable[[int], None]:
        def check(value: int) -> None:
            reset = self.values["RESETS_RESET"] >> bit & 1
            assert not reset, f"{name} was written while its block is in reset"

        return check

    # --- clocks -----------------------------------------------------------------------

    def _crystal(self) -> bool:
        return self.crystal and self.values.get("XOSC_CTRL", 0) >> 12 == 0xFAB

    def _locked(self, pll: str) -> bool:
        off = 1 << 0 | 1 << 5  # PD, VCOPD
        return self._crystal() and not self.values[f"{pll}_PWR"] & off

    def _pll_hz(self, pll: str) -> int:
        assert self._locked(pll)
        assert not self.values[f"{pll}_PWR"] & 1 << 3, "its dividers have no power"
        assert self.values[f"{pll}_CS"] & 0x3F == 1  # REFDIV
        vco = CRYSTAL_HZ * self.values[f"{pll}_FBDIV_INT"]
        assert 750e6 <= vco <= 1600e6
        dividers = self.values[f"{pll}_PRIM"]
        first, second = dividers >> 16 & 7, dividers >> 12 & 7
        assert first >= second, "more power than the other way round"
        return vco // (first * second)

    def _reference(self) -> int:
        return 1 << (self.values.get("CLOCKS_CLK_REF_CTRL", 0) & 3)

    def _system(self) -> int:
        return 1 << (self.values.get("CLOCKS_CLK_SYS_CTRL", 0) & 1)

    def _reference_hz(self) -> int:
        return CRYSTAL_HZ if self._reference() == 1 << 2 else RING_HZ

    def system_hz(self) -> int:
        """clk_sys, as it is now."""
        control = self.values.get("CLOCKS_CLK_SYS_CTRL", 0)
        if not control & 1:
            return self._reference_hz()
        assert control >> 5 & 7 == 0  # the PLL
        return self._pll_hz("PLL_SYS") // (self.values["CLOCKS_CLK_SYS_DIV"] >> 16)

    def _switch(self, value: int) -> None:
        if value & 1:
            assert self._pll_hz("PLL_SYS") == self.board.clock_hz
            divider = self.values["QMI_M0_TIMING"] & 0xFF
            assert self.board.clock_hz / divider < 33e6, "too fast for flash"
            assert self.values["QMI_M0_TIMING"] & ~0xFF == 0x40000200  # as it was

    # --- the serial port --------------------------------------------------------------

    def _baud(self) -> float:
        control = self.values["CLOCKS_CLK_PERI_CTRL"]
        assert control & 1 << 11
        source = control >> 5 & 7
        hertz = {0: self.system_hz, 4: lambda: CRYSTAL_HZ}[source]()
        assert self.system_hz() >= 3 / 5 * hertz, "the UART's registers are too slow"
        return (
            hertz
            * 4
            / (64 * self.values["UART0_UARTIBRD"] + self.values["UART0_UARTFBRD"])
        )

    def _byte(self, value: int) -> None:
        assert len(self.outgoing) < FIFO, "a byte was written to a full FIFO"
        assert self.values["IO_BANK0_GPIO0_CTRL"] == 2
        assert not self.values["PADS_BANK0_GPIO0"] & ISOLATED
        assert self.values["UART0_UARTCR"] & (1 << 8 | 1) == 1 << 8 | 1
        assert self.values["UART0_UARTLCR_H"] == 0x70  # 8N1, FIFO
        self.outgoing.append(value)
        self.waits = 0

    def _transmit(self) -> None:
        assert abs(self._baud() / 115200 - 1) < 0.01
        self.text += self.outgoing
        self.outgoing.clear()

    def _uart(self) -> int:
        self.waits += 1
        if self.waits > PATIENCE and self.outgoing:
            self._transmit()
            self.stalls += 1
        full = 1 << 5 if len(self.outgoing) >= FIFO else 0
        return (
            full | (1 << 3 if self.outgoing else 0) | (0 if self.incoming else 1 << 4)
        )

    def receive(self, data: bytes) -> None:
        """Bytes come in, as many as the FIFO takes."""
        assert len(self.incoming) + len(data) <= FIFO
        self.incoming += data

    def _fetched(self) -> int:
        assert not self.values["PADS_BANK0_GPIO1"] & ISOLATED
        assert self.values["IO_BANK0_GPIO1_CTRL"] == 2
        byte, self.incoming = self.incoming[0], self.incoming[1:]
        return byte

    # --- the converter and its DMA ----------------------------------------------------

    def _forget(self, value: int) -> None:
        self.interrupts &= ~value

    def _begin(self, value: int) -> None:
        assert value & 1
        assert value >> 2 & 3 == 1  # halfwords
        assert not value & 1 << 4  # from one address
        assert value & 1 << 6  # to the next
        assert value >> 17 & 0x3F == 48  # when the converter has one
        assert value >> 13 & 0xF == 1  # then channel 1
        source = self.values["DMA_CH0_READ_ADDR"]
        assert source == self.addresses["ADC_FIFO"]

    def _chain(self) -> None:
        """Channel 1 sends channel 0 to the next address of a ring."""
        control = self.values["DMA_CH1_AL1_CTRL"]
        assert control & 1
        assert control >> 2 & 3 == 2  # words
        assert control >> 13 & 0xF == 1  # to itself: to none
        assert control >> 17 & 0x3F == 63
        assert self.values["DMA_CH1_TRANS_COUNT"] == 1
        target = self.values["DMA_CH1_WRITE_ADDR"]
        assert target == self.addresses["DMA_CH0_AL2_WRITE_ADDR_TRIG"]
        at = self.values["DMA_CH1_READ_ADDR"]
        (self.values["DMA_CH0_WRITE_ADDR"],) = self.words(at, 1)
        assert control & 1 << 4  # the address goes on ...
        ring = 1 << (control >> 8 & 0xF)  # ... and wraps
        self.values["DMA_CH1_READ_ADDR"] = at & -ring | at + 4 & ring - 1

    def _converts(self) -> bool:
        running = self.values.get("ADC_CS", 0) & (1 << 3 | 1) == 1 << 3 | 1
        if not running or not self.values.get("DMA_CH0_CTRL_TRIG", 0) & 1:
            return False
        assert self.values["CLOCKS_CLK_ADC_CTRL"] == 1 << 11
        divider = (self.values["ADC_DIV"] >> 8) + 1
        assert self._pll_hz("PLL_USB") == 48_000_000 == divider * 64_000
        assert self.values["PADS_BANK0_GPIO26"] == 1 << 7  # analog
        assert self.values["ADC_FCS"] == 1 << 24 | 1 << 3 | 1
        return True

    def half(self) -> None:
        """A half-buffer is filled, and the next one begun."""
        count = self.values["DMA_CH0_TRANS_COUNT"]
        data, self.raw = self.raw[:count], self.raw[count:]
        at = self.values["DMA_CH0_WRITE_ADDR"]
        self.core.mem_write(at, data.astype("<u2").tobytes())
        self._chain()
        quiet = self.values["DMA_CH1_AL1_CTRL"] & 1 << 23
        ended = 1 if quiet else 3  # channels that tell of their end
        self.interrupts |= ended & self.values["DMA_INTE0"]
        if self.interrupts:
            self.pending.add(DMA_IRQ)

    # --- time -------------------------------------------------------------------------

    def _feed(self, value: int) -> None:
        self.left_us = value

    def stands_still(self) -> None:
        """A half-buffer's time passes without one."""
        if not self.values.get("WATCHDOG_CTRL", 0) & 1 << 30:
            return
        assert self.values["TICKS_WATCHDOG_CTRL"] == 1
        assert self.values["TICKS_WATCHDOG_CYCLES"] * 1_000_000 == CRYSTAL_HZ
        self.left_us -= MICROSECONDS
        if self.left_us <= 0:
            raise WatchdogReset

    def _interrupts(self) -> None:
        if self._wanted() and not self._masked():
            self.awake_hz.add(self.system_hz())
        super()._interrupts()

    def idle(self) -> None:
        if self.values["RESETS_RESET"] & 1 << RESETS["UART0_"]:
            raise Asleep
        self.asleep_hz.add(self.system_hz())
        if self.incoming and self.values.get("UART0_UARTIMSC", 0) & RX:
            self.pending.add(UART_IRQ)
            return
        if self.outgoing:
            self._transmit()
            if self.values["UART0_UARTIMSC"] & TX:
                self.pending.add(UART_IRQ)
                return
        if not self._converts():
            raise Asleep
        if len(self.raw) < self.values["DMA_CH0_TRANS_COUNT"]:
            raise Asleep
        self.stands_still()
        self.half()
