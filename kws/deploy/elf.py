"""The little of ELF32 that sizes need: sections and symbols."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from kws.errors import KwsError

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


@dataclass(frozen=True)
class Symbol:
    name: str
    address: int
    size: int


@dataclass(frozen=True)
class Elf:
    """Allocated sections, and symbols that have a size, largest first."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]


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
    ordered = sorted(symbols.values(), key=lambda symbol: (-symbol.size, symbol.name))
    return Elf(tuple(sections), tuple(ordered))


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace")


def _bad(path: Path) -> KwsError:
    return KwsError(
        f"Not a 32-bit little-endian ELF image, or a damaged one. Received: {path}",
        "kws build RUN --board qemu-m4",
    )
