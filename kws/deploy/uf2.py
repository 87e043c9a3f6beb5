"""UF2: the file that a board's boot ROM takes when it is copied onto its USB drive.

512-byte blocks, each with its flash address and 256 bytes of content, so that the
operating system may write them in any order (https://github.com/microsoft/uf2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from kws.bundle import write_atomic
from kws.deploy import elf
from kws.deploy.elf import Segment
from kws.errors import KwsError

RP2040 = 0xE48BFF56  # the family ids that their boot ROMs look for
RP2350 = 0xE48BFF59  # ... for secure code on its Arm cores
PAGE = 256
BLOCK = 512
MAX_BLOCKS = 1 << 16  # 16 MB, all that these chips can address
BOOT2_BYTES = 256
DEFINITION_BYTES = 4096  # of flash, in which the RP2350 looks for an image's definition
# The smallest one for Arm (RP2350 datasheet, 5.9.5.1).
DEFINITION = struct.pack(
    "<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0x00000000, 0xAB123579
)
_MAGIC = (0x0A324655, 0x9E5D5157)
_MAGIC_END = 0x0AB16F30
_FAMILY_PRESENT = 0x2000
_HEADER = struct.Struct("<8I")


@dataclass(frozen=True)
class Uf2:
    """The content of a UF2 file.

    Args:
        family: Family id of its blocks.
        pages: (flash address, 256 bytes), in the file's order.
    """

    family: int
    pages: tuple[tuple[int, bytes], ...]


def encode(segments: tuple[Segment, ...], family: int = RP2040) -> bytes:
    """The UF2 file of an image. Gaps within a page are 0xff, as in erased flash.

    Args:
        segments: What has to be in flash (kws.deploy.elf).
        family: Of the chip.

    Raises:
        KwsError: nothing to write, or more than fits the address space.

    Example:
        >>> len(encode((Segment(0x10000000, bytes(300)),)))
        1024
    """
    pages: dict[int, bytearray] = {}
    for segment in segments:
        for offset, byte in enumerate(segment.data):
            address = segment.address + offset
            page = pages.setdefault(address & -PAGE, bytearray(b"\xff" * PAGE))
            page[address % PAGE] = byte
    if not 1 <= len(pages) <= MAX_BLOCKS:
        raise KwsError(
            f"An image for UF2 has 1 to {MAX_BLOCKS} pages of {PAGE} bytes. "
            f"Received: {len(pages)}",
            "kws build RUN --board pico",
        )
    blocks = []
    for number, address in enumerate(sorted(pages)):
        header = _HEADER.pack(
            *_MAGIC, _FAMILY_PRESENT, address, PAGE, number, len(pages), family
        )
        body = header + bytes(pages[address])
        blocks.append(body.ljust(BLOCK - 4, b"\0") + struct.pack("<I", _MAGIC_END))
    return b"".join(blocks)


def decode(data: bytes, name: str = "the file") -> Uf2:
    """Read a UF2 file.

    Raises:
        KwsError: not UF2, damaged, incomplete, or for several families.
    """
    if not data or len(data) % BLOCK or len(data) > MAX_BLOCKS * BLOCK:
        raise _bad(name, f"{len(data)} bytes")
    total = len(data) // BLOCK
    families, pages = set(), []
    for number in range(total):
        block = data[number * BLOCK : (number + 1) * BLOCK]
        *magic, flags, address, size, index, count, family = _HEADER.unpack_from(block)
        (end,) = struct.unpack_from("<I", block, BLOCK - 4)
        if tuple(magic) != _MAGIC or end != _MAGIC_END or flags != _FAMILY_PRESENT:
            raise _bad(name, f"block {number} is not one")
        if (size, index, count) != (PAGE, number, total) or address % PAGE:
            raise _bad(name, f"block {number} of {count} has {size} bytes")
        families.add(family)
        pages.append((address, block[_HEADER.size : _HEADER.size + PAGE]))
    if len(families) != 1:
        raise _bad(name, f"{len(families)} families")
    return Uf2(families.pop(), tuple(pages))


def boot2_checksum(code: bytes) -> int:
    """The CRC-32 that the RP2040's boot ROM expects behind its second stage.

    Args:
        code: The first 252 bytes of flash.
    """
    crc = 0xFFFFFFFF
    for byte in code:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


def write(image: Path, out: Path, family: int = RP2040) -> Path:
    """Write an image as UF2.

    Args:
        image: ELF, linked for the chip.
        out: The .uf2 file.
        family: Of the chip. Of RP2040 and RP2350 it is checked that their boot ROM
            would start the image.

    Raises:
        KwsError: not an ELF image, or one that the chip would refuse.
    """
    content = elf.read(image)
    flash = min((segment.address for segment in content.segments), default=0)
    if family == RP2040:
        _check_boot2(content.content(flash, BOOT2_BYTES), image)
    elif family == RP2350:
        _check_definition(content.content(flash, DEFINITION_BYTES), image)
    write_atomic(out, encode(content.segments, family))
    return out


def _check_boot2(boot2: bytes, image: Path) -> None:
    (stored,) = struct.unpack("<I", boot2[-4:])
    expected = boot2_checksum(boot2[:-4])
    if stored != expected:
        raise KwsError(
            "The image's boot stage has a wrong checksum: the chip would not start it. "
            f"Expected {expected:#010x}. Received: {stored:#010x} in {image}",
            "Write the expected value into the last word of "
            "firmware/boards/pico/boot.S",
        )


def _check_definition(start: bytes, image: Path) -> None:
    if any(start.startswith(DEFINITION, at) for at in range(0, len(start), 4)):
        return
    raise KwsError(
        "The image does not say what it is: the chip would not start it. Expected an "
        f"image definition within its first {DEFINITION_BYTES} bytes. "
        f"Received: none in {image}",
        "Compare the board's start with firmware/boards/pico2/boot.S",
    )


def _bad(name: str, what: str) -> KwsError:
    return KwsError(
        f"Not a UF2 file, or a damaged one. Received: {name} ({what})",
        "Build it again: kws build RUN --board pico",
    )
