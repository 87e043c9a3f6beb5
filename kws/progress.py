"""What is said on stderr: progress, as a bar on a terminal and now and then a line in a
log; and messages, with colours on a terminal alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """How far a long job is, and the time left.

    Args:
        name: What is being done.
        total: Steps in all.
        start: Steps already done (not counted in the rate).

    Example:
        >>> bar = Progress("features", 100)
        >>> bar.at(50)
        >>> bar.end()
    """

    LOG_SECONDS = 20.0

    def __init__(self, name: str, total: int, start: int = 0) -> None:
        self.name = name
        self.total = max(1, total)
        self.first = self.done = start
        self.begin = self.shown = time.monotonic()
        self.printed = False
        self.terminal = sys.stderr.isatty()

    def at(self, done: int, note: str = "") -> None:
        """Report that `done` steps are done."""
        self.done = done
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else self.LOG_SECONDS):
            return
        self.shown = now
        self._print(note)

    def restart(self, done: int) -> None:
        """Count the rate from here: what was slow at the start tells nothing of the
        rest."""
        self.first = self.done = done
        self.begin = time.monotonic()

    def end(self, note: str = "") -> None:
        """Finish the line."""
        if self.terminal and self.printed:
            self._print(note)
            print(file=sys.stderr)

    def _print(self, note: str) -> None:
        self.printed = True
        spent = time.monotonic() - self.begin
        rate = (self.done - self.first) / max(spent, 1e-9)
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        share = 100 * self.done / self.total
        told = f"{left} left{' ' + note if note else ''}"
        if self.terminal:
            self._draw(f"{share:.0f} %", told)
        else:
            print(f"{self.name}: {share:.0f} %, {told}", file=sys.stderr, flush=True)

    def _draw(self, share: str, told: str) -> None:
        """One line over the last one: nothing is left hidden where a job fails."""
        from rich.control import Control
        from rich.progress_bar import ProgressBar
        from rich.segment import ControlType
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(4):
            line.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(self.total, self.done, width=24)
        line.add_row(Text(self.name), bar, share, Text(told, "dim"))
        screen = console()
        screen.control(
            Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
        )
        with screen.capture() as drawn:
            screen.print(line)
        screen.file.write(drawn.get().rstrip("\n"))
        screen.file.flush()


def console() -> Console:
    """rich's console on stderr: colours where that is a terminal (NO_COLOR forbids
    them). Imported only now: `kws --help` is light.

    Example:
        >>> console().file is sys.stderr
        True
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(label: str, text: str, style: str) -> None:
    """A message on stderr, its label in colour on a terminal.

    Args:
        label: Such as `Error:`.
        text: Said as it is, however wide: a command in it can be copied.
        style: Of the label, in rich's words.
    """
    if not sys.stderr.isatty():
        print(f"{label} {text}", file=sys.stderr)
        return
    from rich.text import Text

    message = Text.assemble((label, style), " ", text)
    console().print(message, soft_wrap=True)


def counting(name: str) -> Callable[[int, int], None]:
    """A `Progress` for jobs that call back with (done, total); ends at the last one."""
    bar = Progress(name, 1)

    def report(done: int, total: int) -> None:
        bar.total = max(1, total)
        bar.at(done, f"{done}/{total}")
        if done == total:
            bar.end(f"{done}/{total}")

    return report


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s, 14 s."""
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"
