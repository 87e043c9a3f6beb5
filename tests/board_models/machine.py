"""A Cortex-M with memory, an interrupt controller and registers that a test watches.

The image is the one that would be flashed, every instruction of it is executed (by
Unicorn, QEMU's processor core). What lies behind the registers is a model: each access
comes here by the name that the firmware's headers give the address, and an address that
they don't name is an error. Time passes where the firmware sleeps (WFI): there the
model says what happens next, and interrupts are taken where they are let in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import toolbox

try:
    import unicorn
    from unicorn import arm_const as arm
except ImportError:  # pragma: no cover
    toolbox.skip_or_fail("unicorn is not installed (pip install -e '.[test]')")

from kws.deploy import elf
from kws.deploy.boards import BOARDS, Board

CORE_HEADER = BOARDS / "common" / "cortex_m.h"
PAGE = 0x1000
RETURN = 0x1FFFF000  # where a handler returns to; a core has EXC_RETURN for it
FRAME = (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3)
FRAME += (arm.UC_ARM_REG_R12, arm.UC_ARM_REG_LR, arm.UC_ARM_REG_PC)
# Interrupts are off. (BASEPRI lets in those of a higher priority: none is given here.)
MASKS = (
    arm.UC_ARM_REG_PRIMASK,
    arm.UC_ARM_REG_FAULTMASK,
    arm.UC_ARM_REG_BASEPRI,
)
CPSIE = b"\x62\xb6"  # cpsie i
MSR_PRIMASK = re.compile(rb"[\x80-\x8f]\xf3\x10\x88")  # msr primask, rN


class Asleep(Exception):
    """The firmware sleeps, and nothing will wake it."""


class Machine:
    """A board after reset.

    Args:
        image: Its ELF file.
        board: Whose memory it has.
        header: The registers' names.
    """

    CPU = arm.UC_CPU_ARM_CORTEX_M4

    def __init__(self, image: Path, board: Board, header: Path) -> None:
        self.board = board
        self.names = _names(CORE_HEADER) | _names(header)
        self.core_names = set(_names(CORE_HEADER).values())
        self.addresses = {name: address for address, name in self.names.items()}
        self.values: dict[str, int] = {}
        self.writes: list[tuple[str, int]] = []  # in their order
        self.on_read: dict[str, Callable[[], int]] = {}
        self.on_write: dict[str, Callable[[int], None]] = {}
        self.text = bytearray()
        self.enabled: set[int] = set()
        self.pending: set[int] = set()
        self.sleeps = 0
        self.handling = False  # an interrupt
        self.cycles = 0
        self.on_read["DWT_CYCCNT"] = self._cycles
        content = elf.read(image)
        self.symbols = {symbol.name: symbol.address for symbol in content.symbols}
        self.core = unicorn.Uc(
            unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
        )
        self.core.ctl_set_cpu_model(self.CPU)
        for start, size in self.memory():
            self.core.mem_map(start, -(-size // PAGE) * PAGE)
        self.core.mem_map(RETURN, PAGE)
        for page in sorted({address & ~(PAGE - 1) for address in self.names}):
            self.core.mmio_map(page, PAGE, self._read, page, self._write, page)
        for segment in content.segments:
            self.core.mem_write(segment.address, segment.data)
            self._let_in(segment.address, segment.data)
        for bank in range(3):
            self._nvic(bank)
        stack, start = self.words(self.vectors(), 2)
        self.core.reg_write(arm.UC_ARM_REG_SP, stack)
        self.pc = start
        self.stopped = False
        self.failure: BaseException | None = None

    # --- what a part says of itself ---------------------------------------------------

    def memory(self) -> Iterable[tuple[int, int]]:
        """Address and size of what is memory."""
        board = self.board
        start = board.flash_origin & ~0xFFFFF
        yield start, board.flash_origin + board.flash_bytes - start
        yield board.ram_origin, board.ram_bytes

    def vectors(self) -> int:
        """Where the core starts."""
        return self.board.flash_origin

    def idle(self) -> None:
        """Time passes: make something pending, or raise Asleep."""
        raise Asleep

    # --- for models and tests ---------------------------------------------------------

    def words(self, address: int, count: int) -> list[int]:
        data = bytes(self.core.mem_read(address, 4 * count))
        return [
            int.from_bytes(data[i : i + 4], "little") for i in range(0, 4 * count, 4)
        ]

    def at(self, symbol: str, call: Callable[[], None]) -> None:
        """Call something whenever a function of the firmware starts."""
        address = self.symbols[symbol] & ~1

        def hook(*_: object) -> None:
            self._guard(call)

        self.core.hook_add(unicorn.UC_HOOK_CODE, hook, None, address, address)

    def argument(self, index: int) -> int:
        """Of the function that starts."""
        return int(self.core.reg_read(FRAME[index]))

    def run(self, sleeps: int = 1 << 30) -> None:
        """Until the firmware has slept this often, or for good (raises Asleep)."""
        end = self.sleeps + sleeps
        while self.sleeps < end:
            slept = self._go()
            self._interrupts()
            if slept:
                self.sleeps += 1
                while not self._wanted():
                    self.idle()

    def symbol(self, name: str) -> int:
        return self.symbols[name] & ~1

    def order(self, *names: str) -> list[str]:
        """The writes to these registers, as NAME=value, in their order."""
        return [f"{name}={value:#x}" for name, value in self.writes if name in names]

    # --- the core ---------------------------------------------------------------------

    def _go(self) -> bool:
        """Execute until something stops it; returns whether that was WFI."""
        self.stopped = False
        try:
            self.core.emu_start(self.pc | 1, RETURN)
        except unicorn.UcError as error:
            self._raise()
            pc = self.core.reg_read(arm.UC_ARM_REG_PC)
            raise AssertionError(f"{error} at {pc:#x}") from error
        self._raise()
        self.pc = int(self.core.reg_read(arm.UC_ARM_REG_PC))
        return not self.stopped and self.pc != RETURN

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _interrupts(self) -> None:
        """Take what is pending, one after the other, if the core lets it in."""
        while not self._masked() and self._wanted():
            number = min(self._wanted())
            self.pending.discard(number)
            stack = self.core.reg_read(arm.UC_ARM_REG_SP)
            saved = [self.core.reg_read(register) for register in FRAME[:-1]]
            flags = self.core.reg_read(arm.UC_ARM_REG_XPSR)
            resume = self.pc
            self.core.reg_write(arm.UC_ARM_REG_SP, (stack - 32) & ~7)
            self.core.reg_write(arm.UC_ARM_REG_LR, RETURN | 1)
            (handler,) = self.words(self.values["SCB_VTOR"] + 4 * (16 + number), 1)
            self.pc = handler
            self.handling = True
            while self.pc != RETURN:
                assert not self._go(), "an interrupt's handler sleeps"
            self.handling = False
            for register, value in zip(FRAME[:-1], saved, strict=True):
                self.core.reg_write(register, value)
            self.core.reg_write(arm.UC_ARM_REG_XPSR, flags)
            self.core.reg_write(arm.UC_ARM_REG_SP, stack)
            self.pc = resume

    def _masked(self) -> bool:
        return any(self.core.reg_read(register) for register in MASKS)

    def _wanted(self) -> set[int]:
        return self.pending & self.enabled

    def _let_in(self, start: int, data: bytes) -> None:
        """Stop behind every instruction that may let interrupts in."""
        places = [match.end() for match in re.finditer(re.escape(CPSIE), data)]
        places += [match.end() for match in MSR_PRIMASK.finditer(data)]

        def hook(core: unicorn.Uc, address: int, size: int, _: object) -> None:
            if not self._masked() and self._wanted():
                self.stopped = True
                core.emu_stop()

        for place in places:
            if place % 2 == 0:
                at = start + place
                self.core.hook_add(unicorn.UC_HOOK_CODE, hook, None, at, at)

    # --- registers --------------------------------------------------------------------

    def _cycles(self) -> int:
        self.cycles += 100
        return self.cycles & 0xFFFFFFFF

    def _nvic(self, bank: int) -> None:
        def numbers(value: int) -> set[int]:
            return {32 * bank + bit for bit in range(32) if value >> bit & 1}

        def enable(value: int) -> None:
            self.enabled |= numbers(value)

        def disable(value: int) -> None:
            self.enabled -= numbers(value)

        def forget(value: int) -> None:
            self.pending -= numbers(value)

        self.on_write[f"NVIC_ISER{bank}"] = enable
        self.on_write[f"NVIC_ICER{bank}"] = disable
        self.on_write[f"NVIC_ICPR{bank}"] = forget

    def _guard(self, call: Callable[[], None]) -> None:
        """Exceptions don't pass through the emulator."""
        try:
            call()
        except BaseException as error:
            self.failure = error
            self.core.emu_stop()

    def _name(self, address: int) -> str:
        name = self.names.get(address)
        if name is None:
            pc = self.core.reg_read(arm.UC_ARM_REG_PC)
            pytest.fail(f"no header names {address:#x}, used at {pc:#x}")
        return name

    def _read(self, core: unicorn.Uc, offset: int, size: int, page: int) -> int:
        value = 0

        def read() -> None:
            nonlocal value
            name = self._name(page + offset)
            on_read = self.on_read.get(name)
            value = on_read() if on_read else self.values.get(name, 0)

        self._guard(read)
        return value

    def _write(
        self, core: unicorn.Uc, offset: int, size: int, value: int, page: int
    ) -> None:
        def write() -> None:
            name = self._name(page + offset)
            self.writes.append((name, value))
            self.values[name] = value
            if name in self.on_write:
                self.on_write[name](value)

        self._guard(write)


def _names(header: Path) -> dict[int, str]:
    """Address -> name; NAME(n) is NAME0, NAME1, ..."""
    text = header.read_text()
    names = {
        int(address, 16): name
        for name, address in re.findall(
            r"#define (\w+) +REGISTER\((0x[0-9a-f]+)u\)", text
        )
    }
    for name, address, stride in re.findall(
        r"#define (\w+)\(n\) +REGISTER\((0x[0-9a-f]+)u \+ (0x[0-9a-f]+)u \* \(n\)\)",
        text,
    ):
        for n in range(32):
            names[int(address, 16) + n * int(stride, 16)] = f"{name}{n}"
    return names
