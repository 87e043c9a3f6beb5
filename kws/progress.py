"""A progress line on stderr: rewritten on a terminal, now and then one in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


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
        text = f"{self.name}: {share:.0f} %, {left} left{' ' + note if note else ''}"
        print(
            f"\r{text:<78}" if self.terminal else text,
            end="" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )


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
