"""Does the image fit the part, what fills it, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass

from kws.deploy import boards
from kws.deploy.boards import Board
from kws.deploy.elf import Elf
from kws.errors import KwsError


@dataclass(frozen=True)
class Fit:
    """Flash and RAM of an image against a board's limits, in bytes.

    Args:
        board: The board.
        text: Code and constants.
        data: Initialised variables: in flash and in RAM.
        bss: Zeroed variables.
        stack: Reserved stack.
        largest: (name, bytes, "flash" or "RAM") of the largest symbols.
    """

    board: Board
    text: int
    data: int
    bss: int
    stack: int
    largest: tuple[tuple[str, int, str], ...]

    @property
    def flash_bytes(self) -> int:
        return self.text + self.data

    @property
    def ram_bytes(self) -> int:
        return self.data + self.bss + self.stack

    @property
    def fits(self) -> bool:
        return (
            self.flash_bytes <= self.board.flash_bytes
            and self.ram_bytes <= self.board.ram_bytes
        )

    def table(self) -> str:
        """Two lines for people, one for each memory."""
        rows = (
            ("flash", self.flash_bytes, self.board.flash_bytes),
            ("RAM", self.ram_bytes, self.board.ram_bytes),
        )
        return "\n".join(
            f"{name:<6}{used:>10,} of {limit:>10,} bytes {100 * used / limit:>6.1f} %"
            + (f"   {used - limit:,} too many" if used > limit else "")
            for name, used, limit in rows
        )

    def as_dict(self) -> dict[str, int | bool]:
        """Stable keys for --json."""
        return {
            "fits": self.fits,
            "flash_bytes": self.flash_bytes,
            "flash_limit": self.board.flash_bytes,
            "ram_bytes": self.ram_bytes,
            "ram_limit": self.board.ram_bytes,
            "text_bytes": self.text,
            "data_bytes": self.data,
            "bss_bytes": self.bss,
            "stack_reserved_bytes": self.stack,
        }


class TooLarge(KwsError):
    """An image that its part could not hold; `fit` says by how much."""

    fit: Fit | None = None


def measure(content: Elf, board: Board) -> Fit:
    """Sizes of a linked image."""
    ram = range(board.ram_origin, board.ram_origin + 64 * board.ram_bytes)
    text = data = bss = stack = 0
    for section in content.sections:
        if section.name == ".stack":
            stack += section.size
        elif section.address not in ram:
            text += section.size
        elif section.in_file:
            data += section.size
        else:
            bss += section.size
    largest = tuple(
        (symbol.name, symbol.size, "RAM" if symbol.address in ram else "flash")
        for symbol in content.symbols[:12]
    )
    return Fit(board, text, data, bss, stack, largest)


def check(fit: Fit) -> None:
    """Refuse an image that the real part could not hold.

    Raises:
        TooLarge: with the table, the largest parts, and the way out as the hint.
    """
    if fit.fits:
        return
    short = "flash" if fit.flash_bytes > fit.board.flash_bytes else "RAM"
    largest = ", ".join(
        f"{name} {size:,}" for name, size, where in fit.largest if where == short
    )
    large_enough = []
    for name in boards.names():
        other = boards.load(name)
        if (
            other.flash_bytes >= fit.flash_bytes
            and other.ram_bytes >= fit.ram_bytes
            and other.core == fit.board.core
        ):
            large_enough.append(name)
    elsewhere = f"; it would fit {', '.join(large_enough)}" if large_enough else ""
    error = TooLarge(
        f"The model is too large for the board {fit.board.name}. Expected at most "
        f"{fit.board.flash_bytes:,} bytes of flash and {fit.board.ram_bytes:,} of RAM. "
        f"Received:\n{fit.table()}\nLargest in {short}: {largest}",
        "Use a smaller network (fewer layers, smaller dim or mlp_dim), for example "
        f"kws train --preset kwt-tiny{elsewhere}. All boards: kws boards",
    )
    error.fit = fit
    raise error
