"""The little of ELF32 that sizes and programming need: sections, symbols, segments."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from kws.errors import KwsError

# The CRC-32 of everything before it in flash; see boards/common/link.ld.
SEAL = ".seal"
PT_LOAD = 1

SHF_WRITE, SHF_ALLOC = 1, 2
SHT_SYMTAB, SHT_NOBITS = 2, 8
STT_OBJECT, STT_FUNC = 1, 2
MAX_ELF_BYTES = 256 * 1024 * 1024


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
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01":
        raise _bad(path)
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError):
        raise _bad(path) from None


def seal(path: Path) -> None:
    """Write the CRC-32 of all that flash is to hold into the seal of an image with one.

    The firmware compares it at boot (firmware/app/image.c): an image that was not
    programmed to its end does not match.
    """
    image = read(path)
    place = image.section(SEAL)
    if place is None:
        return
    sealed = image.before(place.address)
    rest = sum(len(segment.data) for segment in image.segments) - len(sealed)
    # Nothing else is loaded; but for the vectors of a board that has them elsewhere.
    vectors = image.section(".vectors")
    apart = vectors.size if vectors and len(image.segments) > 1 else 0
    if not sealed or rest - place.size not in (0, apart):
        raise _bad(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place.offset, zlib.crc32(sealed))
    path.write_bytes(data)


def _parse(data: bytes) -> Elf:
    (table,) = struct.unpack_from("<I", data, 32)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 46)
    headers = [
        struct.unpack_from("<10I", data, table + i * entry_size) for i in range(count)
    ]
    names_at = headers[names_index][4]
    sections, symbols = [], {}
    for name, kind, flags, address, offset, size, link, *_rest in headers:
        if flags & SHF_ALLOC and size:
            sections.append(
                Section(
                    name=_text(data, names_at + name),
                    address=address,
                    size=size,
                    writable=bool(flags & SHF_WRITE),
                    in_file=kind != SHT_NOBITS,
                    offset=offset,
                )
            )
        if kind == SHT_SYMTAB:
            strings_at = headers[link][4]
            for at in range(offset, offset + size, 16):
                s_name, value, s_size, info, _, _ = struct.unpack_from(
                    "<IIIBBH", data, at
                )
                if s_size and info & 15 in (STT_OBJECT, STT_FUNC):
                    text = _text(data, strings_at + s_name)
                    symbols[text, value] = Symbol(text, value & ~1, s_size)
    (program_table,) = struct.unpack_from("<I", data, 28)
    program_size, program_count = struct.unpack_from("<HH", data, 42)
    segments = []
    for i in range(program_count):
        kind, at, _, address, size, *_rest = struct.unpack_from(
            "<8I", data, program_table + i * program_size
        )
        if kind == PT_LOAD and size:
            if at + size > len(data):
                raise ValueError
            segments.append(Segment(address, data[at : at + size]))
    segments.sort(key=lambda segment: segment.address)
    ordered = sorted(symbols.values(), key=lambda symbol: (-symbol.size, symbol.name))
    return Elf(tuple(sections), tuple(ordered), tuple(segments))


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace")


def _bad(path: Path) -> KwsError:
    return KwsError(
        f"Not a 32-bit little-endian ELF image, or a damaged one. Received: {path}",
        "kws build RUN --board qemu-m4",
    )
