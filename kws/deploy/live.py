"""Follow a board, or this machine, as it listens: `kws monitor` and `kws listen`.

All of it goes through kws.deploy.monitor.Monitor: a serial port, an emulator, and the
same C on this machine say the same lines.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import command, flash, host, run, runners, serial_port
from kws.deploy.boards import Board
from kws.deploy.failures import BoardError
from kws.deploy.monitor import Monitor
from kws.deploy.runners import Ask
from kws.errors import CheckFailed, KwsError, MissingExtra, quoted
from kws.paths import FIRMWARE

BEAT_S = 1.0  # of audio, that a heartbeat tells of
SILENT_S = 6.0  # a heartbeat comes every second
REPLY_S = 6.0  # a command is answered between two model runs
FOREIGN = ("other", "broken", "gap")  # messages of what is no line of kws
PAD_S = 1.0
BLOCK = 1600  # 0.1 s from the microphone
MAX_BLOCKS = 50


class Done(Exception):
    """As much as was asked for has been heard."""


class Printer:
    """Shows messages; ends after some seconds of the board's audio.

    Of a board that was up before, the first beat stands for a second; what was heard
    before a board starts again counts too.

    Args:
        show: Prints one message.
        seconds: Of audio; None: for ever.
    """

    def __init__(
        self, show: Callable[[dict[str, Any]], None], seconds: float | None = None
    ) -> None:
        self.show = show
        self.left = math.inf if seconds is None else seconds
        self._at = math.inf  # the last beat's time; inf: none since the start

    def __call__(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self.show(message)
            if message["kind"] == "boot":
                self._at = math.inf
            elif message["kind"] == "beat":
                now = message["time_s"]
                self.left -= now - self._at if now >= self._at else min(now, BEAT_S)
                self._at = now
                if round(self.left, 3) <= 0:  # the board counts milliseconds
                    raise Done


def serial(
    bundle: Bundle,
    board: Board,
    name: str,
    port: str | None,
    ask: Ask | None,
    show: Printer,
    send: Sequence[str] = (),
    options: str = "",
) -> None:
    """Follow a real board until it is unplugged, or Ctrl-C.

    Args:
        bundle: What it should run.
        board: The board.
        name: The run's name, for hints.
        port: Its serial port; None finds it.
        ask: Asks which one of several; None: nobody is there to ask.
        show: Gets the messages.
        send: Commands (kws.deploy.command), sent once the board has said something.
        options: What else was typed that `kws flash` takes too, for hints.

    Raises:
        KwsError: no port; the board is silent, or not the one that is meant.
    """
    sending = _Sending(commands(bundle, send), send)
    names = {"board": board.name, "run": name, "options": options}
    found = serial_port.find(board, name, port, ask, options)
    folder = flash.flashed_folder(bundle, board)
    following = Monitor(
        lambda cycles: 1000 * cycles / board.clock_hz,
        bundle.hash[: flash.HASH_DIGITS],
        folder / "main.elf",
        **names,
    )
    understood = time.monotonic()
    with (
        serial_port.Port(found, board, name, options) as opened,
        contextlib.suppress(Done),
    ):
        try:
            for data in opened.read(sending.patience):
                messages = following.feed(data)
                show(messages + sending.take(messages))
                now = time.monotonic()
                if any(message["kind"] not in FOREIGN for message in messages):
                    understood = now
                elif now - understood > sending.patience():
                    cause = f"{found}: in {SILENT_S:g} s no line that kws knows"
                    raise BoardError("silent", cause, **names)
                if sending.quiet_s >= show.left:  # no beat tells the time any more
                    break
                if following.known and (line := sending.line(messages)) is not None:
                    opened.write(line)
        except BoardError as error:
            if error.key == "silent" and sending.asked:
                cause = f"{found}: no reply to {sending.owed}"
                raise BoardError("silent", cause, **names) from error
            if error.key == "silent" and flash.interrupted(folder):
                cause = f"it is silent, and {folder / flash.MARKER} is still there"
                raise BoardError("interrupted", cause, **names) from error
            raise
    sending.check(name, board)


def commands(bundle: Bundle, send: Sequence[str]) -> list[str]:
    """The lines that the board is sent.

    Raises:
        KwsError: no such command, word or value, or none that a board obeys.
    """
    rearm = bundle.recipe.detector.rearm
    return [command.line(text, i, bundle.labels, rearm) for i, text in enumerate(send)]


class _Sending:
    """Commands on their way to a board, and how long its silence is to be borne.

    Args:
        lines: As it reads them; the place of each is its sequence number.
        send: As they were typed.
    """

    def __init__(self, lines: Sequence[str], send: Sequence[str]) -> None:
        self.waiting = list(enumerate(lines))
        self.send = send
        self.asked: dict[int, float] = {}  # sequence -> when it was sent
        self.refused: list[str] = []  # commands that were not obeyed, and the answer
        self.quiet: float | None = None  # when it said that it says words alone now

    def all_at_once(self) -> list[str]:
        """The lines, for a board that keeps them until it has time for each."""
        lines, self.waiting = [line for _, line in self.waiting], []
        self.asked = dict.fromkeys(range(len(lines)), math.inf)
        return lines

    def take(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Enter replies. Returns a message for each reply that won't come any more."""
        for message in messages:
            number = message.get("to")
            if message["kind"] == "reply" and number in self.asked:
                del self.asked[number]
                verb, *rest = self.send[number].split()
                status = message.get("status")
                if status != "ok":
                    self.refused.append(f"{self.send[number]!r}: {status}")
                elif verb == "verbosity":
                    self.quiet = time.monotonic() if rest == ["level=0"] else None
        now = time.monotonic()
        lost = [i for i, sent in self.asked.items() if now - sent > REPLY_S]
        for number in lost:
            del self.asked[number]
            self.refused.append(f"{self.send[number]!r}: no reply")
        return [{"kind": "unanswered", "command": self.send[i]} for i in lost]

    def line(self, messages: list[dict[str, Any]]) -> str | None:
        """What to send now. One at a time, as a board has room for one; a lost reply
        stops nothing."""
        free = any(m["kind"] in ("reply", "boot", "beat") for m in messages)
        if not (self.waiting and free):
            return None
        number, line = self.waiting.pop(0)
        self.asked[number] = time.monotonic()
        return line

    def patience(self) -> float:
        """Seconds without a sign: for ever only where the board said that it would say
        words alone, and owes no reply."""
        done = self.quiet is not None and not self.waiting and not self.asked
        return math.inf if done else SILENT_S

    @property
    def quiet_s(self) -> float:
        """Seconds since it agreed to say words alone; 0 where it says more."""
        return 0.0 if self.quiet is None else time.monotonic() - self.quiet

    def check(self, name: str, board: Board) -> None:
        """Refuse to call it a success where a command was not obeyed.

        Args:
            name: The run's, for the hint.
            board: The board.

        Raises:
            CheckFailed: the answers.
        """
        open_still = [*self.asked, *(number for number, _ in self.waiting)]
        missed = [f"{self.send[i]!r}: no reply in time" for i in open_still]
        if found := [*self.refused, *missed]:
            raise CheckFailed(
                f"The board did not obey. Expected ok. Received: {'; '.join(found)}",
                f"kws monitor {quoted(name)} --board {board.name} --send query   "
                "(tells what holds; docs/firmware.md has the answers)",
            )

    @property
    def owed(self) -> str:
        """The commands without a reply."""
        return ", ".join(repr(self.send[i]) for i in self.asked)


def emulated(
    bundle: Bundle,
    board: Board,
    name: str,
    audio: np.ndarray | None,
    show: Printer,
    send: Sequence[str] = (),
) -> None:
    """Build for an emulated board, let it hear `audio`, follow it to the end.

    Raises:
        KwsError: a tool is missing; the model can't be built; the board failed.
    """
    error = runners.get(board.runner).missing()
    if error is not None:
        raise error
    sending = _Sending(commands(bundle, send), send)
    lines = sending.all_at_once()
    image = flash.emit_and_build(bundle, board, flash.output_folder(bundle, board))
    expected = bundle.hash[: flash.HASH_DIGITS]
    following = Monitor(
        lambda cost: 1000 * cost / board.instructions_per_second,
        expected,
        image.elf,
        board=board.name,
        run=name,
    )
    heard = flash.padded(audio, PAD_S)

    def tell(data: bytes) -> None:
        messages = following.feed(data)
        sending.take(messages)
        show(messages)

    with contextlib.suppress(Done):
        listened = run.listen(
            image.elf,
            board,
            heard,
            expected,
            on_text=tell,
            commands=lines,
        )
        if listened.problems:
            raise CheckFailed(
                "The run is not a success: " + "; ".join(listened.problems),
                f"kws flash {quoted(name)} --board {board.name}   (tells what to "
                "change)",
            )
    sending.check(name, board)


def on_host(
    bundle: Bundle, name: str, blocks: Iterator[np.ndarray], show: Printer
) -> None:
    """Run the firmware's own loop on this machine.

    Args:
        bundle: A converted bundle.
        name: The run's name, for hints.
        blocks: int16 [samples], 16 kHz, one after another.
        show: Gets the messages.

    Raises:
        KwsError: the model can't be emitted or compiled; the self-test fails.
    """
    expected, _ = host.selftest_run(bundle)
    app, extra = FIRMWARE / "app", host.HOST / "listen_host.c"
    board = host.HOST / "silent_board.c"
    library = host.build(
        host.sources(bundle, expected),
        more=(app / "listen.c", app / "command.c", app / "print.c", extra, board),
    )
    following = Monitor(
        lambda nanoseconds: nanoseconds / 1e6,
        bundle.hash[: flash.HASH_DIGITS],
        board="host",
        run=name,
    )
    header = extra.with_suffix(".h")
    with (
        host.opened(library, len(bundle.labels), header) as copy,
        contextlib.suppress(Done),
    ):
        ffi, lib = copy.ffi, copy.lib
        pointer = ffi.new("const char **")

        def tell() -> None:
            count = lib.kws_listen_text(pointer)
            show(following.feed(ffi.unpack(pointer[0], count) if count else b""))

        lib.kws_listen_start()
        tell()
        for block in blocks:
            pcm = np.ascontiguousarray(block, np.int16)
            for at in range(0, len(pcm), BLOCK):
                part = pcm[at : at + BLOCK]
                lib.kws_listen_feed(ffi.cast("int16_t *", part.ctypes.data), len(part))
                tell()
        lib.kws_listen_end()
        tell()


def portaudio(hint: str) -> Any:
    """The module sounddevice.

    Args:
        hint: The command that does without it.

    Raises:
        KwsError: it is missing, or its library is.
    """
    try:
        import sounddevice
    except ImportError:
        raise MissingExtra("sounddevice", "listen", "Listening here") from None
    except OSError as error:
        raise KwsError(
            f"The audio library can't be loaded.\nCaused by: {error}",
            f"apt-get install libportaudio2   (or, without a microphone: {hint})",
        ) from None
    return sounddevice


def _next(arrived: queue.Queue[np.ndarray], hint: str) -> np.ndarray:
    """The next block. One that was unplugged sends none, and says nothing of it."""
    try:
        return arrived.get(timeout=SILENT_S)
    except queue.Empty:
        raise KwsError(
            f"The microphone gives no sound any more: nothing in {SILENT_S:g} s. "
            "It may be unplugged, or another program took it.",
            f"{hint}   (or plug the microphone in again)",
        ) from None


@contextlib.contextmanager
def microphone(
    hint: str = "kws listen RUN --audio recording.wav",
) -> Iterator[Iterator[np.ndarray]]:
    """Blocks of samples from this machine's microphone, until the context ends.

    Where sound was lost comes an empty block. How much blocks that were not taken in
    time held, and how often PortAudio lost some, is said at the end on stderr.

    Args:
        hint: The command that does without it.

    Raises:
        KwsError: sounddevice, its library or a microphone is missing.
    """
    sounddevice = portaudio(hint)
    arrived: queue.Queue[np.ndarray] = queue.Queue(MAX_BLOCKS)
    lost = overflows = 0
    gap = False

    def take(data: Any, frames: int, time: Any, status: Any) -> None:
        # A block that finds no room is lost; the next beat's time then lags behind.
        nonlocal lost, overflows, gap
        if status.input_overflow:
            overflows += 1
            gap = True
        try:
            if gap:
                arrived.put_nowait(np.zeros(0, np.int16))
            arrived.put_nowait(np.frombuffer(data, np.int16).copy())
            gap = False
        except queue.Full:
            lost += frames
            gap = True

    try:
        stream = sounddevice.RawInputStream(
            samplerate=run.SAMPLE_RATE,
            blocksize=BLOCK,
            channels=1,
            dtype="int16",
            callback=take,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise KwsError(
            f"There is no microphone that gives 16 kHz mono here.\nCaused by: {error}",
            hint,
        ) from None
    try:
        with stream:
            yield (_next(arrived, hint) for _ in itertools.count())
    finally:  # Ctrl-C ends it too
        if lost:
            seconds = lost / run.SAMPLE_RATE
            print(f"{seconds:.1f} s of sound were lost: too slow here", file=sys.stderr)
        if overflows:
            print(
                f"PortAudio lost sound {overflows} times (input overflow), nobody "
                "knows how much",
                file=sys.stderr,
            )
