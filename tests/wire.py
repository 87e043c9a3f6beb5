"""A board's serial port, by a pseudo-terminal: what it says at boot, and then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import toolbox

from kws.bundle import Bundle
from kws.deploy import serial_port

BEAT = (
    "kws beat hash={} schema=1 time_ms=2000 peak=16384 overruns=0 inferences=7 "
    "frame_cost=30000 cost=640000 macs=250 macs_dense=1000\n"
)
EVENT = "kws event word=yes start_ms=120 time_ms=1120 score=0.930\n"


class Wire:
    """The board's end of it.

    Args:
        bundle: What the board runs.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.hash = bundle.hash[:16]
        self.ours, self.theirs = os.openpty()
        self.port = os.ttyname(self.theirs)

    def boots(self) -> None:
        text = f"kws boot name=kwt-tiny hash={self.hash} schema=1 app=main\n"
        os.write(self.ours, f"\0garbage\n{text}kws selftest ok\n".encode())

    def follow(self, line: str) -> str:
        """Type a printed `kws monitor`: the board beats and hears a word, and then
        somebody types Ctrl-C. Returns what it showed."""
        beat = BEAT.format(self.hash)

        class Port(serial_port.Port):
            def read(_, silent_s: Callable[[], float]) -> Iterator[bytes]:
                os.write(self.ours, f"{beat}{EVENT}{beat}".encode())
                beats = 0
                for data in super().read(silent_s):
                    yield data
                    beats += data.count(b"macs_dense")
                    if beats == 2:
                        raise KeyboardInterrupt

        done = toolbox.typed(line, "monitor", serial_port, "Port", Port)
        assert (done.exit_code, done.stderr.strip()) == (1, "Aborted!"), done.output
        return done.stdout


@contextlib.contextmanager
def opened(bundle: Bundle) -> Iterator[Wire]:
    """A wire to a board that runs a bundle."""
    wire = Wire(bundle)
    try:
        yield wire
    finally:
        os.close(wire.ours)
        os.close(wire.theirs)
