"""The end of each line between a board and this machine: ` #<sequence> <CRC-16>`.

The CRC is CCITT's (polynomial 1021, start ffff), four hex digits, of all before it but
the space. A reader knows by it which lines are whole, and by the sequence, which counts
from 0 to 9999 and round again, how many are missing. firmware/app/print.c is the same.
"""

from __future__ import annotations

import binascii
import re

MODULO = 10_000
FIRST = ("kws boot ", "kws clock ")  # a board's first line, whatever came before
_FRAME = re.compile(r"(.*) #(\d{1,4}) ([0-9A-F]{4})")


def crc16(text: str) -> int:
    """CRC-16 of a text's UTF-8.

    Example:
        >>> hex(crc16("123456789"))
        '0x29b1'
    """
    return binascii.crc_hqx(text.encode("utf-8", "replace"), 0xFFFF)


def framed(text: str, sequence: int) -> str:
    """A line with its frame, without a line's end.

    Example:
        >>> framed("kws query", 5)
        'kws query #5 3F31'
    """
    line = f"{text} #{sequence % MODULO}"
    return f"{line} {crc16(line):04X}"


class Frames:
    """Follows the frames of one board.

    Example:
        >>> frames = Frames()
        >>> frames.take(framed("kws end", 7)), frames.take(framed("kws end", 9))
        (('kws end', 0), ('kws end', 1))
        >>> frames.take("kws end #10 0000"), frames.take("kws end")
        ((None, 0), (None, 0))
    """

    def __init__(self) -> None:
        self.last: int | None = None

    def take(self, line: str) -> tuple[str | None, int]:
        """One line off the wire.

        Returns:
            What it says, without its frame, or None where it is broken; and how many
            lines are missing before it. Of a board that frames no line (an older
            firmware), and of foreign text, all is taken as it is.
        """
        match = _FRAME.fullmatch(line)
        if match is None:
            broken = self.last is not None and line.startswith("kws ")
            return (None if broken else line), 0
        body, sequence, crc = match[1], int(match[2]), match[3]
        if crc != f"{crc16(line[:-5]):04X}":
            return None, 0
        missing = 0
        if self.last is not None and not body.startswith(FIRST):
            missing = (sequence - self.last - 1) % MODULO
            if missing > MODULO // 2:  # it has started again, and its boot line is lost
                missing = sequence
        self.last = sequence
        return body, missing
