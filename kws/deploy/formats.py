"""An image in the formats that programmers take: .bin, .hex, .uf2 beside the .elf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kws.bundle import write_atomic
from kws.deploy import elf, uf2
from kws.deploy.boards import Board
from kws.deploy.elf import Segment

RECORD = 16  # bytes of content in a line of Intel HEX
MAX_GAP = 4096  # what a .bin fills with 0xff, at most


@dataclass(frozen=True)
class Written:
    """One file of an image.

    Args:
        path: The file.
        bytes: Its size.
        note: What a programmer has to know: where it is loaded.
    """

    path: Path
    bytes: int
    note: str


def write(image: Path, board: Board) -> tuple[Written, ...]:
    """Write an ELF image's .bin, .hex and, where the board takes it, .uf2 beside it.

    Args:
        image: The ELF file, which is the first of the answer.
        board: Its board.

    Returns:
        What lies there now. There is no .bin where the parts of the image are far apart
        (an emulated board's vectors).

    Raises:
        KwsError: not an ELF image.
    """
    segments = elf.read(image).segments
    start = segments[0].address
    made = [Written(image, image.stat().st_size, "with symbols, for a debug probe")]
    flat = binary(segments)
    if flat is not None:
        path = image.with_suffix(".bin")
        write_atomic(path, flat)
        made.append(Written(path, len(flat), f"loaded at {start:#010x}"))
    path = image.with_suffix(".hex")
    text = intel_hex(segments).encode("ascii")
    write_atomic(path, text)
    made.append(Written(path, len(text), "Intel HEX, with its addresses"))
    if "uf2" in board.tools:
        path = uf2.write(image, image.with_suffix(".uf2"), board.tools["uf2"]["family"])
        size = path.stat().st_size
        made.append(Written(path, size, "to be copied onto the board's USB drive"))
    return tuple(made)


def binary(segments: tuple[Segment, ...]) -> bytes | None:
    """All that flash holds, from the first address on; None where parts are far apart.

    Example:
        >>> binary((Segment(0, b"ab"), Segment(4, b"c")))
        b'ab\\xff\\xffc'
    """
    out = bytearray()
    start = segments[0].address
    for segment in segments:
        gap = segment.address - start - len(out)
        if not 0 <= gap <= MAX_GAP:
            return None
        out += b"\xff" * gap + segment.data
    return bytes(out)


def intel_hex(segments: tuple[Segment, ...]) -> str:
    """The segments as Intel HEX, 32-bit addresses.

    Example:
        >>> print(intel_hex((Segment(0x10000, b"ab"),)), end="")
        :020000040001F9
        :0200000061623B
        :00000001FF
    """
    lines, upper = [], -1
    for segment in segments:
        at = 0
        while at < len(segment.data):
            address = segment.address + at
            # A record stays within its 64 KB.
            room = min(RECORD, 0x10000 - (address & 0xFFFF))
            data = segment.data[at : at + room]
            if address >> 16 != upper:
                upper = address >> 16
                lines.append(_record(0, 4, upper.to_bytes(2, "big")))
            lines.append(_record(address & 0xFFFF, 0, data))
            at += len(data)
    lines.append(_record(0, 1, b""))
    return "\n".join(lines) + "\n"


def _record(address: int, kind: int, data: bytes) -> str:
    body = bytes([len(data)]) + address.to_bytes(2, "big") + bytes([kind]) + data
    return f":{(body + bytes([-sum(body) & 0xFF])).hex().upper()}"
