"""What a board's `kws fault` line says, in words and with the lines of the source.

The registers are of the Armv6-M, Armv7-M and Armv8-M manuals; addresses become
functions and lines by the ELF file of the build that the board runs.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kws.deploy import elf
from kws.errors import KwsError

TIMEOUT_S = 30
_EXCEPTIONS = {
    2: "NMI: on an emulated board its watchdog, as the loop hung or no audio came",
    3: "HardFault",
    4: "MemManage fault",
    5: "bus fault",
    6: "usage fault",
    7: "secure fault",
    11: "SVCall, which nobody uses",
    14: "PendSV, which nobody uses",
    15: "SysTick, which nobody expected",
}
# Bits of CFSR and of HFSR -> what happened.
_CFSR = {
    0: "it went to an address that holds no code (IACCVIOL)",
    1: "it read or wrote where the memory protection forbids it (DACCVIOL)",
    3: "the protection forbade unstacking after an exception (MUNSTKERR)",
    4: "the protection forbade stacking for an exception (MSTKERR)",
    5: "the protection forbade saving the FPU's state (MLSPERR)",
    8: "a bus error as it fetched an instruction (IBUSERR)",
    9: "a bus error as it read or wrote (PRECISERR)",
    10: "a bus error some instructions after a write (IMPRECISERR)",
    11: "a bus error as it unstacked after an exception (UNSTKERR)",
    12: "a bus error as it stacked for an exception (STKERR)",
    13: "a bus error as it saved the FPU's state (LSPERR)",
    16: "an undefined instruction (UNDEFINSTR)",
    17: "a jump to an even address, which is no Thumb code (INVSTATE)",
    18: "a return to nowhere (INVPC)",
    19: "a coprocessor that is off or absent: the FPU (NOCP)",
    20: "the stack reached its limit (STKOF)",
    24: "an unaligned access (UNALIGNED)",
    25: "a division by zero (DIVBYZERO)",
}
_HFSR = {
    1: "the vector table could not be read (VECTTBL)",
    31: "a breakpoint without a debugger (DEBUGEVT)",
}
MMARVALID, BFARVALID = 1 << 7, 1 << 15


@dataclass(frozen=True)
class Place:
    """Where an address is in the source.

    Args:
        function: Its name; "" where no symbol covers the address.
        line: `file:line`; "" where it isn't known.
    """

    function: str
    line: str

    def __str__(self) -> str:
        where = f" at {self.line}" if self.line else ""
        return f"{self.function or 'no function of the firmware'}{where}"


def places(image: Path, addresses: tuple[int, ...]) -> tuple[Place, ...]:
    """Function and line of addresses in an image.

    Lines come from arm-none-eabi-addr2line (it is beside arm-none-eabi-gcc); without it
    there are the symbols' names.

    Raises:
        KwsError: the file is no ELF image.
    """
    content = elf.read(image)
    found = [Place(_symbol(content, address), "") for address in addresses]
    tool = shutil.which("arm-none-eabi-addr2line")
    if tool is None:
        return tuple(found)
    command = [
        tool,
        "-f",
        "-e",
        str(image),
        *(f"{address:#x}" for address in addresses),
    ]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return tuple(found)
    for i in range(min(len(found), len(said) // 2)):
        function, line = said[2 * i], said[2 * i + 1].split(" (")[0]
        known = "" if line.startswith("?") else _short(line)
        name = function if function != "??" else found[i].function
        found[i] = Place(name, known)
    return tuple(found)


def _symbol(content: elf.Elf, address: int) -> str:
    for symbol in content.symbols:
        if symbol.address <= address < symbol.address + symbol.size:
            return symbol.name
    return ""


def _short(line: str) -> str:
    """The end of a path, as the source's own folders name it."""
    path, _, number = line.rpartition(":")
    parts = Path(path).parts
    return "/".join(parts[-2:]) + ":" + number


def build_number(image: Path) -> str | None:
    """What the firmware of this file calls its build: its seal, 8 hex digits.

    None: there is no such file, or no seal in it.
    """
    try:
        content = elf.read(image)
    except (KwsError, OSError):
        return None
    seal = content.section(elf.SEAL)
    if seal is None:
        return None
    (crc,) = struct.unpack("<I", content.content(seal.address, elf.SEAL_BYTES))
    return f"{crc:08x}"


def explain(pairs: Mapping[str, str], image: Path | None = None) -> str:
    """The fault line in words.

    Args:
        pairs: Of the line, unchecked: a damaged number is left out.
        image: The ELF file of the build; None, or another build's: no names.

    Example:
        >>> explain({"exception": "6", "pc": "00000102", "cfsr": "02000000"})
        'usage fault: a division by zero (DIVBYZERO); pc 0x00000102'
    """
    exception = _decimal(pairs.get("exception"))
    name = _EXCEPTIONS.get(exception or 0)
    if name is None and exception is not None and exception >= 16:
        name = f"interrupt {exception - 16}, which nobody expected"
    cfsr, hfsr = _hex(pairs.get("cfsr")) or 0, _hex(pairs.get("hfsr")) or 0
    causes = [words for bit, words in _CFSR.items() if cfsr >> bit & 1]
    causes += [words for bit, words in _HFSR.items() if hfsr >> bit & 1]
    if pairs.get("stack") == "overflow":
        causes.insert(0, "the stack is full: stack_bytes in board.toml, or a recursion")
    parts = [": ".join([name or "a fault", *([", ".join(causes)] if causes else [])])]
    for valid, key in ((MMARVALID, "mmfar"), (BFARVALID, "bfar")):
        address = _hex(pairs.get(key))
        if cfsr & valid and address is not None:
            parts.append(f"address {address:#010x}")
    named = _named(pairs, image)
    for key in ("pc", "lr"):
        address = _hex(pairs.get(key))
        if address:
            parts.append(f"{key} {address:#010x}" + named.get(key, ""))
    if image is not None and not _ours(pairs, image):
        parts.append(f"no names: {image} is missing or another build")
    return "; ".join(parts)


def _ours(pairs: Mapping[str, str], image: Path) -> bool:
    """Whether the line comes from this image (only the app main has a number)."""
    return image.is_file() and pairs.get("build") == build_number(image)


def _named(pairs: Mapping[str, str], image: Path | None) -> dict[str, str]:
    """`pc` and `lr` -> what to write behind them; {} without the right image."""
    if image is None or not _ours(pairs, image):
        return {}
    addresses = {key: _hex(pairs.get(key)) for key in ("pc", "lr")}
    # A return address is behind its call: one byte before is in it.
    wanted = {
        key: max(0, (value & ~1) - (2 if key == "lr" else 0))
        for key, value in addresses.items()
        if value
    }
    found = places(image, tuple(wanted.values()))
    return {key: f" in {place}" for key, place in zip(wanted, found, strict=True)}


def _decimal(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _hex(text: str | None) -> int | None:
    if not text or len(text) > 8:
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None
