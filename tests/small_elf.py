"""A tiny ELF32 image by hand, for programmers and the seal; no compiler needed."""

from __future__ import annotations

import struct
from pathlib import Path

FLASH = 0x10000


def write(path: Path, code: bytes, model: bytes, seal: bytes = b"\0\0\0\0") -> Path:
    """.text, .model and .seal, one behind the other at FLASH, in one segment."""
    content = {".text": code, ".model": model, ".seal": seal}
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*content, ".names"))
    data_at = 52 + 32
    body, headers, at = b"", [bytes(40)], FLASH
    for name, data in content.items():
        place = names.index(name.encode() + b"\0")
        header = (place, 1, 2, at, data_at + len(body), len(data), 0, 0, 4, 0)
        headers.append(struct.pack("<10I", *header))
        body += data
        at += len(data)
    names_at = data_at + len(body)
    place = names.index(b".names\0")
    header = (place, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    headers.append(struct.pack("<10I", *header))
    start = b"\x7fELF\x01\x01\x01" + bytes(9)
    start += struct.pack("<HHIIII", 2, 40, 1, FLASH, 52, names_at + len(names))
    start += struct.pack("<IHHHHHH", 0, 52, 32, 1, 40, len(headers), len(headers) - 1)
    size = len(body)
    segment = struct.pack("<8I", 1, data_at, FLASH, FLASH, size, size, 5, 4)
    path.write_bytes(start + segment + body + names + b"".join(headers))
    return path
