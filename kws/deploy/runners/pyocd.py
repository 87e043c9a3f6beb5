"""Program a board with pyOCD's Python API: CMSIS-DAP, ST-Link and J-Link probes.

board.toml:

    [pyocd]
    target = "nrf52840"                           # one of pyOCD's built-in targets
    identity = [0x10000100, 0xffffffff, 0x52840]  # register, mask, value of the part
    unlocked = [0x40022020, 0xff, 0xaa]           # the same, where a lock can be read
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kws.deploy import elf
from kws.deploy.boards import Board
from kws.deploy.elf import Elf
from kws.deploy.failures import BoardError
from kws.deploy.runners import Found, Job, Programmed
from kws.errors import KwsError, quoted

# The model's own sections: where only these differ, the code stays.
MODEL_SECTIONS = (".model", ".seal")
# Of an nRF52: where it says that its debug port stays open, from revision 3 on.
UICR_APPROTECT, ERASED, OPEN = 0x10001208, 0xFFFFFFFF, 0x5A
# What an exception says when the probe is gone, or may not be opened.
GONE = ("no such device", "disconnected", "no_device", "errno 19", "pipe error")
DENIED = ("access denied", "permission", "insufficient", "errno 13", "libusb_error_acc")


def missing() -> KwsError | None:
    """The error that tells how to get pyOCD, or None where it is installed."""
    if importlib.util.find_spec("pyocd") is not None:
        return None
    return BoardError("no-pyocd", "the Python package pyocd can't be imported")


def probes() -> list[Found]:
    """The probes that are connected.

    Raises:
        BoardError: one may not be opened.
    """
    return [Found(probe.unique_id, _title(probe)) for probe in _connected()]


def program(image: Path, board: Board, job: Job) -> Programmed:
    """Write what differs, verify all of it, start it.

    Raises:
        BoardError: see kws.deploy.failures.
    """
    from pyocd.core import exceptions

    probe = _choose(board, job)
    content = elf.read(image)
    with _quiet():
        session = _session(probe, board, job, unlock=False)
        phase = "connect"
        try:
            try:
                unlocked = False
                try:
                    session.open()
                except exceptions.Error:
                    if not (job.unlock and _locked(session)):
                        raise
                    unlocked = True
                    _may_erase(board, job)
                    with contextlib.suppress(exceptions.Error, OSError):
                        session.close()
                    session = _session(probe, board, job, unlock=True)
                    session.open()
                target = session.target
                _check(board, target, job)
                phase = "write"
                # A chip that has just been unlocked is open until its next reset.
                if unlocked:
                    target.halt()
                else:
                    target.reset_and_halt()
                _keep_open(target)
                what, written = _write(content, session, job)
                phase = "verify"
                _verify(content, target, board, job)
                phase = "start"
                job.before_start()
                target.reset()
            except (exceptions.Error, OSError, ValueError) as error:
                # While the probe is open: one that is closed can't ask the chip.
                if phase == "connect" and _locked(session):
                    key = "locked"
                else:
                    key = _kind(error, phase)
                cause = f"{type(error).__name__}: {error}"
                raise _failure(key, cause, board, job) from error
        finally:
            with contextlib.suppress(exceptions.Error, OSError):
                session.close()
    return Programmed(what, written, _title(probe))


def _session(probe: Any, board: Board, job: Job, unlock: bool) -> Any:
    from pyocd.core.session import Session

    options = {
        "target_override": board.options_of("pyocd")["target"],
        "auto_unlock": unlock,
        "connect_mode": "under-reset" if job.everything else "halt",
        "hide_programming_progress": True,
        "no_config": True,
        "resume_on_disconnect": False,
    }
    return Session(probe, auto_open=False, options=options)


def _may_erase(board: Board, job: Job) -> None:
    """Ask before all of a locked chip's flash is erased.

    Raises:
        KwsError: no; or there is a bootloader to lose, and nobody to ask.
    """
    lost = "ALL of its flash"
    if board.bootloader:
        lost += (
            f", {board.bootloader} too: without it nothing starts the firmware "
            f"(docs/boards.md tells how to put it back)"
        )
    hint = (
        f"kws flash {quoted(job.run)} --board {board.name} --unlock   (in a terminal)"
    )
    if job.ask is None:
        if board.bootloader:
            raise KwsError(
                f"The chip is locked. Unlocking erases {lost}. Expected somebody to "
                "say yes. Received: no terminal",
                hint,
            )
        return
    choices = [Found("erase", "Erase and unlock it"), Found("stop", "Leave it alone")]
    if job.ask(f"The chip is locked. Unlocking erases {lost}. And now?", choices) != 0:
        raise KwsError("The chip was left alone: locked, nothing erased", hint)


def _keep_open(target: Any) -> None:
    """Of an nRF52 whose debug port would lock at the next power-up: leave it open.

    pyOCD does so only for a chip that it unlocks itself. A UICR that was written is its
    owner's wish.
    """
    if not getattr(target, "hardened_approtect", False):
        return
    if target.read32(UICR_APPROTECT) == ERASED:
        target.write_uicr(UICR_APPROTECT, OPEN)


def _connected() -> list[Any]:
    from pyocd.core import exceptions
    from pyocd.core.helpers import ConnectHelper

    try:
        with _quiet():
            return list(ConnectHelper.get_all_connected_probes(blocking=False))
    except (exceptions.Error, OSError) as error:
        key = _kind(error, "connect")
        raise BoardError(key, f"{type(error).__name__}: {error}") from error


def _title(probe: Any) -> str:
    return f"{probe.description} {probe.unique_id}"


def _choose(board: Board, job: Job) -> Any:
    """The one probe that is meant."""
    found = _connected()
    wanted = (job.probe or "").lower()
    matching = [probe for probe in found if wanted in probe.unique_id.lower()]
    exact = [probe for probe in matching if probe.unique_id.lower() == wanted]
    matching = exact or matching
    listed = "; ".join(_title(probe) for probe in found) or "none"
    if not matching:
        cause = f"no probe with {job.probe!r} in its id" if wanted else "none"
        raise _failure("no-probe", f"{cause}; connected: {listed}", board, job)
    if len(matching) > 1:
        # A probe that sits on a board knows which chip that is.
        ours = [probe for probe in matching if _sits_on(probe, board)]
        matching = ours if len(ours) == 1 else matching
    if len(matching) == 1:
        return matching[0]
    if job.ask is None:
        raise _failure("several-probes", f"connected: {listed}", board, job)
    choices = [Found(probe.unique_id, _title(probe)) for probe in matching]
    return matching[job.ask("Which debug probe?", choices)]


def _sits_on(probe: Any, board: Board) -> bool:
    info = getattr(probe, "associated_board_info", None)
    target = getattr(info, "target", None) or ""
    return str(target).lower() == str(board.options_of("pyocd")["target"])


def _check(board: Board, target: Any, job: Job) -> None:
    """Is it the right chip, and may it be written?"""
    from pyocd.core import exceptions

    options = board.options_of("pyocd")
    if "identity" in options:
        register, mask, value = options["identity"]
        try:
            word = f"{(found := target.read32(register) & mask):#x}"
        except exceptions.TransferFaultError:
            found, word = None, "nothing"
        if found != value:
            cause = f"register {register:#010x} reads {word}, expected {value:#x}"
            raise _failure("wrong-target", cause, board, job)
    if "unlocked" in options:
        register, mask, value = options["unlocked"]
        found = target.read32(register) & mask
        if found != value:
            cause = f"register {register:#010x} reads {found:#x}, expected {value:#x}"
            raise _failure("protected", cause, board, job)


def _locked(session: Any) -> bool:
    """Whether the chip says that it is locked, as far as it can still be asked."""
    from pyocd.core import exceptions

    ask = getattr(getattr(session, "target", None), "is_locked", None)
    if ask is None:
        return False
    try:
        return bool(ask())
    except (exceptions.Error, OSError, AttributeError, TypeError):
        return False


def _write(content: Elf, session: Any, job: Job) -> tuple[str, int]:
    """Write the segments that differ from what flash holds. Returns what, and bytes."""
    from pyocd.flash.loader import FlashLoader

    ranges = [(segment.address, segment.data) for segment in content.segments]
    what = "everything"
    if not job.everything:
        model = _model_range(content)
        changed = [
            address
            for start, data in ranges
            for address in _differing(session.target, start, data)
        ]
        if not changed:
            return "nothing", 0
        if model and all(address in model for address in changed):
            what = "model"
            ranges = [(model.start, content.content(model.start, len(model)))]
    loader = FlashLoader(
        session,
        progress=job.progress,
        chip_erase="sector",
        smart_flash=not job.everything,
        keep_unwritten=True,
    )
    for address, data in ranges:
        loader.add_data(address, data)
    loader.commit()
    return what, sum(len(data) for _, data in ranges)


def _model_range(content: Elf) -> range | None:
    """Where the model's constants and the seal lie: one piece of flash."""
    model, seal = (content.section(name) for name in MODEL_SECTIONS)
    if model is None or seal is None or model.address + model.size != seal.address:
        return None
    return range(model.address, seal.address + seal.size)


def _differing(target: Any, start: int, data: bytes) -> Iterator[int]:
    """Addresses at which flash differs, at most one for every 256 bytes."""
    found = bytes(target.read_memory_block8(start, len(data)))
    for at in range(0, len(data), 256):
        here, there = data[at : at + 256], found[at : at + 256]
        if here != there:
            pairs = zip(here, there, strict=True)
            differing = [i for i, (a, b) in enumerate(pairs) if a != b]
            yield start + at + differing[0]
            yield start + at + differing[-1]


def _verify(content: Elf, target: Any, board: Board, job: Job) -> None:
    for segment in content.segments:
        for address in _differing(target, segment.address, segment.data):
            raise _failure(
                "verify", f"the first difference is at {address:#010x}", board, job
            )


def _kind(error: Exception, phase: str) -> str:
    """Which failure an exception stands for."""
    from pyocd.core import exceptions

    text = str(error).lower()
    number = getattr(error, "errno", None)
    denied = number in (errno.EACCES, errno.EPERM) or any(w in text for w in DENIED)
    if denied and phase == "connect":  # later on it was open: nothing is denied
        return "permission"
    gone = isinstance(error, exceptions.ProbeDisconnected) or number == errno.ENODEV
    if gone or any(word in text for word in GONE):
        return "unplugged" if phase in ("write", "verify") else "no-probe"
    if isinstance(error, exceptions.FlashFailure) or (
        phase == "write" and isinstance(error, ValueError)
    ):
        return "write"
    if isinstance(error, exceptions.TargetSupportError):
        return "wrong-target"
    if phase in ("write", "verify"):
        return "unplugged"
    return "no-target"


def _failure(key: str, cause: str, board: Board, job: Job) -> BoardError:
    names = {"board": board.name, "part": board.part, "run": job.run}
    return BoardError(key, cause, **names, options=job.options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without pyOCD's own log: what it has to say comes as one message."""
    log = logging.getLogger("pyocd")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
