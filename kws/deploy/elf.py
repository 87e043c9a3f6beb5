"""What sizes and programming need of an ELF image: sections, symbols, segments."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kws.errors import KwsError

# The CRC-32 of everything before it in flash; see boards/common/link.ld.
SEAL = ".seal"
SEAL_BYTES = 4
MAX_ELF_BYTES = 256 * 1024 * 1024
# A damaged header may claim more than anyone wants to wait for.
MAX_SECTIONS = 4096
MAX_SYMBOLS = 200_000


@dataclass(frozen=True)
class Section:
    name: str
    address: int
    size: int
    writable: bool
    in_file: bool  # False: only reserved (.bss, the stack)
    offset: int  # in the file


@dataclass(frozen=True)
class Symbol:
    name: str
    address: int
    size: int


@dataclass(frozen=True)
class Segment:
    """What a programmer writes: bytes and where they are loaded."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Elf:
    """Allocated sections, and symbols that have a size, largest first.

    Args:
        sections: In the file's order.
        symbols: By size.
        segments: By address; together, all that has to be in flash.
    """

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    segments: tuple[Segment, ...]

    def content(self, address: int, size: int) -> bytes:
        """What flash holds at an address once programmed; gaps as erased (0xff)."""
        out = bytearray(b"\xff" * size)
        for segment in self.segments:
            start = max(address, segment.address)
            stop = min(address + size, segment.address + len(segment.data))
            if start < stop:
                at = start - segment.address
                out[start - address : stop - address] = segment.data[
                    at : at + stop - start
                ]
        return bytes(out)

    def before(self, address: int) -> bytes:
        """All that flash holds, in one piece, up to an address."""
        pieces: list[bytes] = []
        for segment in reversed(self.segments):
            data = segment.data[: max(0, address - segment.address)]
            if segment.address + len(data) == address and data:
                pieces.insert(0, data)
                address = segment.address
        return b"".join(pieces)

    def section(self, name: str) -> Section | None:
        """The section of that name."""
        return next((s for s in self.sections if s.name == name), None)


def read(path: Path) -> Elf:
    """Read a little-endian 32-bit ELF file.

    Raises:
        KwsError: not such a file, or damaged.
    """
    if path.stat().st_size > MAX_ELF_BYTES:
        raise _bad(path)
    try:
        return _parse(path.read_bytes())
    except (ELFError, ValueError):
        raise _bad(path) from None


def seal(path: Path, image: Elf) -> None:
    """Write the CRC-32 of all that flash is to hold into the seal of an image with one.

    The firmware compares it at boot (firmware/app/image.c): an image that was not
    programmed to its end does not match.

    Args:
        path: The file.
        image: What `read` found in it.

    Raises:
        KwsError: the parts that the seal covers are missing or apart.
    """
    place = image.section(SEAL)
    if place is None:
        return
    sealed = image.before(place.address)
    rest = sum(len(segment.data) for segment in image.segments) - len(sealed)
    # Nothing else is loaded; but for the vectors of a board that has them elsewhere.
    vectors = image.section(".vectors")
    apart = vectors.size if vectors and len(image.segments) > 1 else 0
    whole = sealed and rest - place.size in (0, apart)
    if place.size < SEAL_BYTES or not place.in_file or not whole:
        raise _bad(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place.offset, zlib.crc32(sealed))
    path.write_bytes(data)


def _parse(data: bytes) -> Elf:
    image = ELFFile(io.BytesIO(data))
    if image.elfclass != 32 or not image.little_endian:
        raise ValueError
    if image.num_sections() > MAX_SECTIONS:
        raise ValueError
    sections: list[Section] = []
    symbols: dict[tuple[str, int], Symbol] = {}
    for part in image.iter_sections():
        kind, flags = part["sh_type"], part["sh_flags"]
        if flags & SH_FLAGS.SHF_ALLOC and part["sh_size"]:
            section = Section(
                name=part.name,
                address=part["sh_addr"],
                size=part["sh_size"],
                writable=bool(flags & SH_FLAGS.SHF_WRITE),
                in_file=kind != "SHT_NOBITS",
                offset=part["sh_offset"],
            )
            if section.in_file and section.offset + section.size > len(data):
                raise ValueError
            sections.append(section)
        if isinstance(part, SymbolTableSection):
            if part.num_symbols() + len(symbols) > MAX_SYMBOLS:
                raise ValueError
            for symbol in part.iter_symbols():
                size, value = symbol["st_size"], symbol["st_value"]
                if size and symbol["st_info"]["type"] in ("STT_OBJECT", "STT_FUNC"):
                    name = symbol.name
                    symbols[name, value] = Symbol(name, value & ~1, size)
    segments, left = [], len(data)
    for segment in image.iter_segments("PT_LOAD"):
        at, size = segment["p_offset"], segment["p_filesz"]
        left -= size
        if at + size > len(data) or left < 0:
            raise ValueError
        if size:
            segments.append(Segment(segment["p_paddr"], data[at : at + size]))
    segments.sort(key=lambda segment: segment.address)
    ordered = sorted(symbols.values(), key=lambda symbol: (-symbol.size, symbol.name))
    return Elf(tuple(sections), tuple(ordered), tuple(segments))


def _bad(path: Path) -> KwsError:
    return KwsError(
        f"Not a 32-bit little-endian ELF image, or a damaged one. Received: {path}",
        "kws build RUN --board qemu-m4",
    )
