"""kws flash: every failure of docs/flashing.md, programming, interruption, the seal."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_elf
from click.testing import CliRunner
from fake_model import FakeModel
from toolbox import need_compiler, need_qemu, skip_or_fail

if importlib.util.find_spec("pyocd") is None:  # pragma: no cover
    skip_or_fail("pyOCD is not installed (pip install -e '.[flash]')")

import fake_probe
import serial
import wire as wires
from fake_probe import Chip, probe
from pyocd.core import exceptions

from kws import bundle as bundles
from kws.cli import _ask, cli
from kws.cli._hints import as_typed
from kws.deploy import (
    boards,
    build,
    elf,
    fault,
    flash,
    frame,
    monitor,
    pace,
    run,
    serial_port,
    uf2,
)
from kws.deploy.failures import FAILURES, BoardError
from kws.deploy.runners import Found, Job, bossac, openocd, qemu
from kws.deploy.runners import pyocd as runner
from kws.deploy.runners import uf2 as uf2_runner
from kws.errors import CheckFailed, KwsError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "flashing.md"
DK = boards.load("nrf52840dk")
NANO = boards.load("nano33ble")
PICO = boards.load("pico")
JOB = Job(run="runs/tiny")
CODE, MODEL = bytes(range(256)) * 8, b"weights!" * 64


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted of shipped runs is noted below the folder that one is in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small sealed image."""
    path = small_elf.write(tmp_path / "main.elf", CODE, MODEL)
    elf.seal(path, elf.read(path))
    return path


class Provoke:
    """One method for each row of the table; returns what is raised."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, image: Path, folder: Path
    ) -> None:
        self.patch, self.image, self.folder = monkeypatch, image, folder

    def program(
        self,
        fail: dict[str, Callable[[Chip], None]] | None = None,
        probes: list[Any] | None = None,
        **chip: Any,
    ) -> Any:
        """Program the fake chip; returns the error."""
        fake = Chip(**chip)
        for step, action in (fail or {}).items():
            fake.fail[step] = lambda action=action: action(fake)  # type: ignore[misc]
        fake_probe.connect(self.patch, fake, probes)
        with pytest.raises(KwsError) as caught:
            runner.program(self.image, DK, JOB)
        return caught.value

    def says(self, line: str, expected: str | None = None) -> Any:
        """A monitor hears this line; returns the error."""
        following = monitor.Monitor(
            float, expected, board="nrf52840dk", run="runs/tiny"
        )
        with pytest.raises(KwsError) as caught:
            following.feed(line.encode() + b"\n")
        return caught.value

    def without(self, package: str) -> None:
        real = importlib.util.find_spec
        self.patch.setattr(
            importlib.util,
            "find_spec",
            lambda name: None if name == package else real(name),
        )

    def no_pyocd(self) -> Any:
        self.without("pyocd")
        return runner.missing()

    def no_openocd(self) -> Any:
        self.patch.setenv("PATH", str(self.folder))
        return openocd.missing()

    def no_bossac(self) -> Any:
        self.patch.setenv("PATH", str(self.folder))
        self.patch.setenv("HOME", str(self.folder))
        return bossac.missing()

    def bootloader(self, board: boards.Board, tool: str = "") -> Any:
        """A Nano's bootloader at a port, and a bossac that says no more than this."""
        program = self.folder / "bossac"
        program.write_text(f"#!/bin/sh\n# nRF52840-QIAA\n{tool}\nexit 1\n")
        program.chmod(0o755)
        self.patch.setattr(bossac, "programs", lambda: [program])
        ports = [(Found("/dev/ttyACM0", "Nano"), "2341:005a")] if tool else []
        self.patch.setattr(serial_port, "ports", lambda: ports)
        with pytest.raises(KwsError) as caught:
            bossac.program(self.image, board, JOB)
        return caught.value

    def no_bootloader(self) -> Any:
        said = "echo No device found on /dev/ttyACM0 >&2"
        assert self.bootloader(NANO, said).key == "no-bootloader"
        return self.bootloader(NANO)

    def not_linked(self) -> Any:
        table = NANO.options_of("bossac") | {"start": 0x26000}
        tools = {**NANO.tools, "bossac": table}
        return self.bootloader(dataclasses.replace(NANO, tools=tools))

    def bossac_failed(self) -> Any:
        return self.bootloader(NANO, "echo SAM-BA operation failed >&2")

    def no_probe(self) -> Any:
        return self.program(probes=[])

    def several_probes(self) -> Any:
        return self.program(probes=[probe(1), probe(2)])

    def permission(self) -> Any:
        def refuse(chip: Chip) -> None:
            raise exceptions.ProbeError("[Errno 13] Access denied")

        return self.program({"list": refuse})

    def no_target(self) -> Any:
        def silent(chip: Chip) -> None:
            raise exceptions.TransferError("No ACK received")

        return self.program({"open": silent})

    def locked(self) -> Any:
        return self.program(locked=True)

    def protected(self) -> Any:
        registers = {0xE0042000: 0x10076415, 0x40022020: 0xFFEFF8BB}
        fake_probe.connect(self.patch, Chip(registers=registers))
        with pytest.raises(KwsError) as caught:
            runner.program(self.image, boards.load("b-l475e-iot01a"), JOB)
        return caught.value

    def wrong_target(self) -> Any:
        return self.program(registers={0x10000100: 0x52832})

    def unplugged(self) -> Any:
        def unplug(chip: Chip) -> None:
            raise exceptions.ProbeDisconnected("USB device is gone")

        # Closing what is gone fails too, and must not hide the first reason.
        return self.program({"commit": unplug, "close": unplug})

    def write(self) -> Any:
        def fail(chip: Chip) -> None:
            raise exceptions.FlashProgramFailure(
                "flash program page failure", address=0x10400, result_code=1
            )

        return self.program({"commit": fail})

    def verify(self) -> Any:
        def flip(chip: Chip) -> None:
            chip.flash[small_elf.FLASH + 700] ^= 4

        error = self.program({"verify": flip})
        assert hex(small_elf.FLASH + 700)[2:] in error.message  # says where
        return error

    def drive(self) -> Path:
        """A mounted drive of the Pico's boot ROM, and an image that it would take."""
        boot = bytes(252)
        boot += struct.pack("<I", uf2.boot2_checksum(boot))
        small_elf.write(self.image, boot + CODE, MODEL)
        drive = self.folder / "media" / "RPI-RP2"
        drive.mkdir(parents=True)
        (drive / uf2_runner.INFO).write_text("UF2 Bootloader v3.0\n")
        self.patch.setattr(uf2_runner, "roots", lambda: [self.folder / "media"])
        return drive

    def copy(self) -> Any:
        with pytest.raises(KwsError) as caught:
            uf2_runner.program(self.image, PICO, JOB)
        return caught.value

    def no_drive(self) -> Any:
        (self.drive() / uf2_runner.INFO).unlink()
        return self.copy()

    def drive_write(self) -> Any:
        (self.drive() / "main.uf2").mkdir()  # nothing can be written there
        return self.copy()

    def drive_stays(self) -> Any:
        self.patch.setattr(uf2_runner, "LEAVES_S", 0.2)
        self.drive()
        return self.copy()

    def find_port(self, found: list[str]) -> Any:
        ports = [(Found(name, "UART"), "1366:1015") for name in found]
        self.patch.setattr(serial_port, "ports", lambda: ports)
        with pytest.raises(KwsError) as caught:
            serial_port.find(DK, "runs/tiny", None, None)
        return caught.value

    def open_port(self, name: str) -> Any:
        with pytest.raises(KwsError) as caught:
            serial_port.Port(name, DK, "runs/tiny")
        return caught.value

    def no_pyserial(self) -> Any:
        self.without("serial")
        return serial_port.missing()

    def no_port(self) -> Any:
        return self.find_port([])

    def port_absent(self) -> Any:
        assert "no serial port ''." in self.open_port("").message
        return self.open_port(str(self.folder / "absent"))

    def not_serial(self) -> Any:
        file = self.folder / "not_a_port"
        file.write_text("")
        for name in ("/dev/null", str(self.folder)):
            error = self.open_port(name)
            assert (error.key, name in error.message) == ("not-serial", True)
        return self.open_port(str(file))

    def several_ports(self) -> Any:
        return self.find_port(["/dev/ttyACM0", "/dev/ttyACM1"])

    def port_permission(self) -> Any:
        def refuse(*_: Any, **__: Any) -> None:
            raise serial.SerialException(13, "could not open port: Permission denied")

        self.patch.setattr(serial, "Serial", refuse)
        return self.open_port("/dev/ttyACM0")

    def port_busy(self) -> Any:
        ours, port = self.pty()
        error = self.open_port(port.name)  # nobody else may take a part of what arrives
        os.close(ours)
        return error

    def pty(self) -> tuple[int, serial_port.Port]:
        ours, theirs = os.openpty()
        port = serial_port.Port(os.ttyname(theirs), DK, "runs/tiny")
        os.close(theirs)
        return ours, port

    def read(self, port: serial_port.Port) -> Any:
        with pytest.raises(KwsError) as caught, port:
            list(port.read(lambda: 0.3))
        return caught.value

    def port_lost(self) -> Any:
        ours, port = self.pty()
        os.close(ours)
        return self.read(port)

    def silent(self) -> Any:
        ours, port = self.pty()
        error = self.read(port)
        os.close(ours)
        return error

    def interrupted(self) -> Any:
        return self.says("kws error reason=image")

    def clock(self) -> Any:
        return self.says("kws error reason=clock")

    def hash(self) -> Any:
        return self.says("kws boot name=x hash=0123 schema=1", "4567")

    def other_board(self) -> Any:
        identity = "hash=0123 schema=1 board=pico clock_hz=125000000"
        for line in (f"kws boot {identity}", f"kws state {identity}"):
            error = self.says(line, "0123")
        assert error.hint.startswith("kws monitor runs/tiny --board pico  ")
        return error

    def protocol(self) -> Any:
        return self.says("kws beat hash=0123 schema=2 anything=new")

    def selftest(self) -> Any:
        return self.says("kws selftest failed")

    def stack(self) -> Any:
        return self.says("kws error reason=stack")

    def crashed(self) -> Any:
        return self.says("kws fault exception=00000003 pc=00012344")


@pytest.mark.parametrize("key", FAILURES)
def test_every_failure_is_one_message(
    key: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = getattr(Provoke(monkeypatch, image, tmp_path), key.replace("-", "_"))()
    assert isinstance(error, BoardError)
    assert error.key == key
    first, cause = error.message.split("\n")
    assert cause.startswith("Caused by: ")
    assert len(cause) > len("Caused by: ")
    assert error.exit_code == FAILURES[key].exit_code
    # The page says the same, with names in capitals for what is filled in.
    documented, hint = documented_failures()[key]
    for text, page in ((first, documented + "."), (error.hint, hint)):
        pattern = re.escape(page)
        for name in ("BOARD", "RUN", "PART", "SAID", "PORT"):
            pattern = re.sub(rf"\b{name}\b", r"[\\w./-]*", pattern)
        assert re.fullmatch(pattern, text), f"{text!r} is not the page's {page!r}"


def documented_failures() -> dict[str, tuple[str, str]]:
    """The table of docs/flashing.md: failure -> (Error, Hint)."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| (.+?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {key: (error, hint) for key, error, hint in rows if key in FAILURES}


def test_a_hint_keeps_the_port_and_the_hop_that_were_typed() -> None:
    ours, theirs = os.openpty()
    options = f"--port {os.ttyname(theirs)} --hop 8"
    port = serial_port.Port(os.ttyname(theirs), DK, "my run", options)
    os.close(theirs)
    os.close(ours)
    with pytest.raises(BoardError, match="disappeared") as caught, port:
        list(port.read(lambda: 0.3))
    assert f"kws monitor 'my run' --board nrf52840dk {options}" in caught.value.hint


def test_the_page_has_every_failure_and_no_other() -> None:
    table = PAGE.read_text("utf-8").split("## When it fails")[1]
    keys = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert keys == list(FAILURES)
    assert list(documented_failures()) == keys


def test_programming_writes_what_differs(
    image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chip = Chip()
    fake_probe.connect(monkeypatch, chip, [probe(1, "stm32l475xg"), probe(2, DK_NAME)])
    order: list[str] = []
    job = dataclasses.replace(
        JOB,
        progress=lambda share: order.append(f"{share:.1f}"),
        before_start=lambda: order.append(f"start after {chip.resets} resets"),
    )
    # Of two probes, the one that sits on a board with this chip.
    done = runner.program(image, DK, job)
    size = len(CODE) + len(MODEL) + 4
    assert (done.what, done.bytes, done.probe) == ("everything", size, "Fake ABC0002")
    assert order == ["0.5", "1.0", "start after 0 resets"]
    assert chip.resets == 1
    assert not chip.options["auto_unlock"]  # never erases a chip unasked
    start = small_elf.FLASH
    assert chip.flash[start : start + len(CODE)] == CODE

    chip.written.clear()
    assert runner.program(image, DK, JOB).what == "nothing"
    assert chip.written == []

    other = small_elf.write(tmp_path / "other.elf", CODE, MODEL[:-1] + b"?")
    elf.seal(other, elf.read(other))
    done = runner.program(other, DK, JOB)
    assert (done.what, done.bytes) == ("model", len(MODEL) + 4)
    assert chip.written == [(start + len(CODE), len(MODEL) + 4)]

    code = small_elf.write(tmp_path / "code.elf", CODE[:-1] + b"?", MODEL)
    elf.seal(code, elf.read(code))
    assert runner.program(code, DK, JOB).what == "everything"
    chip.written.clear()
    everything = dataclasses.replace(JOB, everything=True, probe="abc0001")
    assert runner.program(code, DK, everything).probe == "Fake ABC0001"
    assert chip.written == [(start, size)]


DK_NAME = str(DK.options["target"])


def test_a_person_is_asked_which_probe(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_probe.connect(monkeypatch, Chip(), [probe(1), probe(2)])
    asked: list[Any] = []

    def ask(question: str, found: Any) -> int:
        asked.append((question, [item.id for item in found]))
        return 1

    done = runner.program(image, DK, dataclasses.replace(JOB, ask=ask))
    assert done.probe == "Fake ABC0002"
    assert asked == [("Which debug probe?", ["ABC0001", "ABC0002"])]
    named = dataclasses.replace(JOB, probe="nothing-like-it")
    with pytest.raises(BoardError, match="nothing-like-it.*ABC0001.*ABC0002"):
        runner.program(image, DK, named)


def test_what_was_written_to_is_not_told_as_denied(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems say so of a probe that went; flash is incomplete then."""
    chip = Chip()

    def refuse() -> None:
        raise PermissionError(13, "Access denied (insufficient permissions)")

    chip.fail["commit"] = refuse
    fake_probe.connect(monkeypatch, chip)
    with pytest.raises(BoardError) as caught:
        runner.program(image, DK, JOB)
    assert (caught.value.key, caught.value.exit_code) == ("unplugged", 1)


def test_a_locked_chip_is_unlocked_only_when_asked(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = Chip(locked=True)
    fake_probe.connect(monkeypatch, chip)
    done = runner.program(image, DK, dataclasses.replace(JOB, unlock=True))
    assert done.what == "everything"
    assert chip.options["auto_unlock"]
    assert chip.halts == 1  # and no reset before the firmware is there
    # One that is not locked is not erased, whatever was said.
    chip = Chip(flash=bytearray(b"\0" * 0x40000))
    fake_probe.connect(monkeypatch, chip)
    runner.program(image, DK, dataclasses.replace(JOB, unlock=True))
    assert not chip.options["auto_unlock"]
    assert chip.flash[:16] == bytes(16)
    # An STM32 answers, and tells by its option bytes.
    discovery = boards.load("b-l475e-iot01a")
    registers = {0xE0042000: 0x10076415, 0x40022020: 0xFFEFF8BB}
    fake_probe.connect(monkeypatch, Chip(registers=registers))
    for job in (JOB, dataclasses.replace(JOB, unlock=True)):
        with pytest.raises(BoardError) as caught:
            runner.program(image, discovery, job)
        assert caught.value.key == "protected"  # also where --unlock is said
    with pytest.raises(KwsError, match="Only pyOCD unlocks") as refused:
        flash.program(bundles.load("kwt-tiny"), discovery, image.parent, job, "openocd")
    assert "--tool pyocd --unlock" in refused.value.hint


@pytest.mark.parametrize("answer", [0, 1, None])
@pytest.mark.parametrize("board", [DK, NANO], ids=lambda board: board.name)
def test_a_person_is_told_what_unlocking_erases(
    board: boards.Board,
    answer: int | None,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arduino's bootloader is among it; where nobody can say yes, it stays."""
    chip = Chip(locked=True)
    fake_probe.connect(monkeypatch, chip)
    asked: list[str] = []

    def ask(question: str, found: Any) -> int:
        asked.append(question)
        assert [item.id for item in found] == ["erase", "stop"]
        assert answer is not None
        return answer

    asks = None if answer is None else ask
    job = dataclasses.replace(JOB, unlock=True, ask=asks)
    if answer == 1 or (answer is None and board is NANO):
        with pytest.raises(KwsError) as caught:
            runner.program(image, board, job)
        assert "--unlock" in caught.value.hint
        assert chip.locked
        assert ("bootloader too" in caught.value.message) == (answer is None)
    else:
        assert runner.program(image, board, job).what == "everything"
    for question in asked:
        assert "erases ALL of its flash" in question
        assert ("Arduino's bootloader too" in question) == (board is NANO)


@pytest.mark.parametrize(("uicr", "after"), [(0xFFFFFFFF, 0x5A), (0xFF00, 0xFF00)])
def test_a_debug_port_that_would_lock_is_left_open(
    uicr: int, after: int, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An nRF52 from revision 3 on, its UICR erased; what was written there stays."""
    registers = {0x10000100: 0x52840, runner.UICR_APPROTECT: uicr}
    chip = Chip(registers=registers, hardened_approtect=True)
    fake_probe.connect(monkeypatch, chip)
    runner.program(image, DK, JOB)
    assert chip.registers[runner.UICR_APPROTECT] == after
    older = Chip(registers=dict(registers))
    older.registers[runner.UICR_APPROTECT] = uicr
    fake_probe.connect(monkeypatch, older)
    runner.program(image, DK, JOB)
    assert older.registers[runner.UICR_APPROTECT] == uicr


def test_the_targets_of_the_boards_are_pyocds() -> None:
    from pyocd.target import TARGET

    options = [boards.load(name).options_of("pyocd") for name in boards.names()]
    targets = {table["target"] for table in options if table}
    assert len(targets) >= 2
    assert targets <= set(TARGET)


# Of each STM32L4, protected or not.
L4 = "Info : RDP level 0 (0xAA)\nInfo : flash size = 1024 KiB\n"
MODE = "Error: jtag status contains invalid mode value - communication failure\n"


# What OpenOCD 0.12 prints; the first three were seen here, the others are its sources'.
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Error: open failed\n** OpenOCD init failed **", "no-probe"),
        ("Error: unable to find a matching CMSIS-DAP device", "no-probe"),
        ("Error: No J-Link device found", "no-probe"),
        ("Error: libusb_open() failed with LIBUSB_ERROR_ACCESS", "permission"),
        ("Error: init mode failed (unable to connect to the target)", "no-target"),
        ("Warn : UNEXPECTED idcode: 0x2ba01477", "wrong-target"),
        ("Error: device protected", "protected"),
        ("Info : RDP level 1 (0xBB)\nError: failed erasing", "protected"),
        (f"{L4}** Programming Failed **", "write"),
        (f"{L4}** Verify Failed **", "verify"),
        (f"{L4}** Programming Started **\n{MODE}** Programming Failed **", "unplugged"),
        (
            f"{MODE}Error: init mode failed (unable to connect to the target)",
            "no-target",
        ),
        ("Warn : nRF52 device has AP lock engaged (see UICR APPROTECT)", "locked"),
        ("** Verify Failed **", "verify"),
        ("Error: error writing USB: LIBUSB_ERROR_NO_DEVICE", "unplugged"),
        ("Error: failed erasing sectors 0 to 3", "write"),
    ],
)
def test_openocds_messages_are_understood(text: str, key: str) -> None:
    error = openocd.explain(text, boards.load("b-l475e-iot01a"), JOB)
    assert error.key == key


def test_openocds_command_line() -> None:
    line = openocd.command(boards.load("b-l475e-iot01a"), ["init"], "066E")
    assert line[:3] == ["openocd", "-f", "board/st_b-l475e-iot01a.cfg"]
    assert line[3:] == ["-c", "adapter serial {066E}", "-c", "init"]


def test_openocd_writes_the_whole_image_and_then_starts_it(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It erases whole sectors: the model alone would take its neighbours with it."""
    said = tmp_path / "said"
    tool = tmp_path / "openocd"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    job = dataclasses.replace(JOB, before_start=lambda: said.open("a").write("start\n"))
    board = boards.load("b-l475e-iot01a")
    for _ in range(2):  # whatever flash holds already
        done = openocd.program(image, board, job)
        assert (done.what, done.bytes) == ("everything", len(CODE) + len(MODEL) + 4)
    first = "-f board/st_b-l475e-iot01a.cfg -c init "
    told = said.read_text().splitlines()
    assert told[:3] == told[3:]
    assert told[:3] == [
        f"{first}-c program {{{image}}} verify -c shutdown",
        "start",
        f"{first}-c reset run -c shutdown",
    ]
    said.unlink()
    tool.write_text("#!/bin/sh\necho '** Verify Failed **' >&2\nexit 1\n")
    with pytest.raises(BoardError) as caught:
        openocd.program(image, board, job)
    assert caught.value.key == "verify"
    assert not said.exists()


def test_uf2_is_copied_and_the_drive_goes(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Provoke(monkeypatch, image, tmp_path).drive()
    seen = []

    def boot_rom(share: float) -> None:
        """The last block has arrived: the drive goes, and the board starts."""
        if (drive / "main.uf2").exists():
            (drive / uf2_runner.INFO).unlink(missing_ok=True)
        seen.append(share)

    job = dataclasses.replace(JOB, progress=boot_rom)
    done = uf2_runner.program(image, PICO, job)
    assert (done.what, done.probe) == ("everything", str(drive))
    copied = uf2.decode((drive / "main.uf2").read_bytes())
    assert copied.family == PICO.options["family"]
    assert seen[-1] == 1.0


def test_a_drive_that_goes_before_it_has_everything_was_unplugged(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Provoke(monkeypatch, image, tmp_path).drive()
    job = dataclasses.replace(JOB, before_start=lambda: shutil.rmtree(drive))
    with pytest.raises(BoardError) as caught:
        uf2_runner.program(image, PICO, job)
    assert caught.value.key == "drive-write"


@pytest.mark.parametrize("name", ["RPI-RP21", "RPI-RP2 1"])  # udisks, macOS
def test_a_second_drive_of_one_name_is_seen(
    name: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mounted with a number behind its name."""
    drive = Provoke(monkeypatch, image, tmp_path).drive()
    second = shutil.copytree(drive, drive.with_name(name))
    shutil.copytree(drive, drive.with_name("RPI-RP2350"))  # another chip's
    with pytest.raises(BoardError) as caught:
        uf2_runner.program(image, PICO, JOB)
    assert caught.value.key == "several-probes"
    assert uf2_runner.drives("RPI-RP2") == [drive, second]
    monkeypatch.setattr(uf2_runner, "LEAVES_S", 0.1)
    for chosen in (drive, second):  # the first one's name begins the other's
        with pytest.raises(BoardError, match=f"{chosen} after"):
            uf2_runner.program(image, PICO, dataclasses.replace(JOB, probe=chosen.name))


def test_drives_that_may_not_be_read_are_passed_over(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Provoke(monkeypatch, image, tmp_path).drive()
    assert uf2_runner.drives("RPI-RP2") == [drive]
    drive.chmod(0)  # another user's
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        assert uf2_runner.drives("RPI-RP2") == []
    finally:
        os.seteuid(user)
        drive.chmod(0o755)


# --- the seal -------------------------------------------------------------------------


def test_the_seal_is_the_crc_of_code_and_model(image: Path) -> None:
    content = elf.read(image)
    place = content.section(".seal")
    assert place is not None
    (crc,) = struct.unpack("<I", content.content(place.address, 4))
    assert crc == zlib.crc32(CODE + MODEL)
    assert content.content(small_elf.FLASH - 2, 4) == b"\xff\xff" + CODE[:2]


def test_an_image_whose_parts_are_apart_is_not_sealed(tmp_path: Path) -> None:
    """What lies between would be anybody's: whatever flash held before."""
    path = small_elf.write(tmp_path / "x.elf", CODE, MODEL)
    data = bytearray(path.read_bytes())
    # The seal four bytes further on than where its segment puts it.
    at = data.rindex(struct.pack("<I", small_elf.FLASH + len(CODE) + len(MODEL)))
    struct.pack_into("<I", data, at, small_elf.FLASH + len(CODE) + len(MODEL) + 4)
    path.write_bytes(data)
    with pytest.raises(KwsError, match="Not a 32-bit"):
        elf.seal(path, elf.read(path))


@pytest.mark.parametrize("name", boards.names())
def test_the_seal_covers_all_that_is_written(name: str, tmp_path: Path) -> None:
    """Vectors, start-up and the variables' first values as well as code and model."""
    need_compiler()
    board = boards.load(name)
    model = FakeModel().write(tmp_path / "model")
    with (model / "kws_model.c").open("a") as file:
        file.write("int initialised = 7; int get(void); int get(void) {")
        file.write(" return initialised++; }\n")
    content = elf.read(build.build(model, board, tmp_path).elf)
    place = content.section(".seal")
    assert place is not None
    first = content.segments[0].address
    if board.boot_origin is not None:  # emulated, its vectors elsewhere
        first = board.flash_origin
    sealed = content.content(first, place.address - first)
    (crc,) = struct.unpack("<I", content.content(place.address, 4))
    assert crc == zlib.crc32(sealed)
    # In one piece: what lies between two parts would be whatever flash held before.
    written = [s for s in content.segments if s.address >= first]
    assert sum(len(segment.data) for segment in written) == len(sealed) + 4


@pytest.mark.parametrize("part", [".vectors", ".text", ".data", ".model"])
def test_the_firmware_refuses_an_incomplete_image(part: str, tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    board = boards.load("qemu-m4")
    built = build.build(FakeModel().write(tmp_path / "model"), board, tmp_path)
    section = elf.read(built.elf).section(part)
    assert section is not None
    data = bytearray(built.elf.read_bytes())
    data[section.offset + section.size - 1] ^= 1
    broken = tmp_path / "broken.elf"
    broken.write_bytes(data)
    outcome = qemu.run(broken, board, {}, tmp_path, 20)
    assert outcome.exit_code == 13
    (line,) = outcome.text.splitlines()  # and not a word more
    assert frame.Frames().take(line) == ("kws error reason=image", 0)
    whole = qemu.run(built.elf, board, {}, tmp_path, 20)
    assert "kws selftest ok" in whole.text


def test_a_person_chooses_by_number() -> None:
    found = [Found("A1", "Probe A1"), Found("B2", "Probe B2")]
    with CliRunner().isolation(input="3\n2\n") as streams:
        assert _ask._ask("Which debug probe?", found) == 1
        shown = streams[1].getvalue().decode()  # stderr: stdout is for results
    assert "1  Probe A1  (A1)" in shown
    assert "2  Probe B2  (B2)" in shown
    assert _ask.ask() is None  # nobody is there in a test


# --- the whole way, but for the wire --------------------------------------------------


def test_from_run_to_selftest_with_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_compiler()
    bundle = bundles.load("kwt-tiny")
    chip = Chip()
    fake_probe.connect(monkeypatch, chip)
    ours, theirs = os.openpty()
    said = ""

    def boots() -> None:
        Chip.reset(chip)
        os.write(ours, said.encode())

    chip.reset = boots  # type: ignore[method-assign]

    def hello(what: Any) -> str:
        return (
            "\x00garbage\nkws boot name=kwt-tiny "
            f"hash={what.hash[:16]} schema=1 app=main\nkws selftest ok\n"
        )

    def program(what: Any) -> flash.Flashed:
        port = os.ttyname(theirs)
        return flash.program(what, DK, tmp_path, JOB, port=port)

    def unplug() -> None:
        raise exceptions.ProbeDisconnected("gone")

    said = hello(bundle)
    chip.fail["commit"] = unplug
    with pytest.raises(BoardError, match="incomplete image"):
        program(bundle)
    assert json.loads((tmp_path / flash.MARKER).read_text())["board"] == DK.name
    assert flash.interrupted(tmp_path)
    # The next start knows, trusts nothing, and ends well.
    del chip.fail["commit"]
    done = program(bundle)
    assert done.programmed is not None
    assert done.programmed.what == "everything"
    assert chip.options["connect_mode"] == "under-reset"
    assert not flash.interrupted(tmp_path)
    table = done.as_dict()
    assert (table["hash"], table["selftest"]) == (bundle.hash[:16], True)
    assert table["programmed"]["bytes"] > 80_000

    # Another threshold is another model, and only the model is written.
    detector = dataclasses.replace(
        bundle.recipe.detector, threshold=0.87, word_thresholds=()
    )
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    other = dataclasses.replace(bundle, recipe=recipe)
    chip.written.clear()
    said = hello(bundle)  # but the board goes on saying the old hash
    with pytest.raises(BoardError, match="another model"):
        program(other)
    ((address, size),) = chip.written
    assert size > bundle.model_path.stat().st_size // 2
    parts = elf.read(tmp_path / "main.elf")
    model = parts.section(".model")
    assert model is not None
    assert (address, size) == (model.address, model.size + 4)
    said = hello(other)
    again = program(other)
    assert again.programmed is not None
    assert again.programmed.what == "nothing"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("way", ["probe", "drive"])
def test_what_comes_next_follows_the_board(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is printed: with the port and the hop where they were given."""
    need_compiler()
    monkeypatch.setattr(pace, "measure", lambda *_: None)
    run = Path(shutil.copytree(bundles.PRETRAINED / "kwt-tiny", tmp_path / "my run"))
    bundle = bundles.load(str(run))
    if way == "probe":
        bundle = flash.with_hop(bundle, 24)
    with wires.opened(bundle) as wire:
        if way == "probe":
            chip = Chip()
            chip.reset = wire.boots  # type: ignore[method-assign]
            fake_probe.connect(monkeypatch, chip)
            typed = [DK.name, "--port", wire.port, "--hop", "24"]
        else:
            drive = tmp_path / "media" / "RPI-RP2"
            drive.mkdir(parents=True)
            (drive / uf2_runner.INFO).write_text("UF2 Bootloader v3.0\n")
            monkeypatch.setattr(uf2_runner, "roots", lambda: [drive.parent])

            def starts(_: int) -> None:
                """The last block has arrived: the drive goes, and the board boots."""
                (drive / uf2_runner.INFO).unlink()
                wire.boots()

            monkeypatch.setattr(uf2_runner.os, "fsync", starts)
            found = [(Found(wire.port, "UART"), PICO.usb.ids[0])]
            monkeypatch.setattr(serial_port, "ports", lambda: found)
            typed = [PICO.name]
        line = ["flash", str(run), "--board", *typed]
        done = CliRunner().invoke(cli, line, catch_exceptions=False)
        assert done.exit_code == 0 and "self-test ok" in done.stdout
        following = done.stderr.rpartition("Next: ")[2].strip()
        assert following == shlex.join(["kws", "monitor", *line[1:]])
        shown = wire.follow(following)
    assert "skipped 75 %" in shown and "yes" in shown


def test_a_build_elsewhere_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the monitor, for what a crash means, and by the next flash, interrupted."""
    need_compiler()
    monkeypatch.setattr(pace, "measure", lambda *_: None)
    run = Path(shutil.copytree(bundles.PRETRAINED / "kwt-tiny", tmp_path / "run"))
    bundle, there = bundles.load(str(run)), tmp_path / "else where"
    usual = flash.output_folder(bundle, DK)
    chip = Chip()
    fake_probe.connect(monkeypatch, chip)

    def unplug() -> None:
        raise exceptions.ProbeDisconnected("gone")

    with wires.opened(bundle) as wire:
        chip.reset = wire.boots  # type: ignore[method-assign]
        line = [str(run), "--board", DK.name, "--port", wire.port]

        def typed(*more: str) -> Any:
            return CliRunner().invoke(cli, ["flash", *line, *more])

        assert typed("--out", str(there)).exit_code == 0
        content = elf.read(there / "main.elf")
        where = next(s for s in content.symbols if s.name == "kws_poll")
        crash = (
            f"kws fault exception=3 pc={where.address:08x} "
            f"build={fault.build_number(there / 'main.elf')}\n"
        )

        def crashed() -> str:
            class Port(serial_port.Port):
                def __init__(port, *arguments: Any) -> None:
                    super().__init__(*arguments)
                    os.write(wire.ours, crash.encode())

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(serial_port, "Port", Port)
                return str(CliRunner().invoke(cli, ["monitor", *line]).exception)

        assert " in kws_poll" in crashed()
        shutil.rmtree(there)
        assert f"{there / 'main.elf'} is missing or another build" in crashed()
        # Interrupted there, and known here; then the note has done its service.
        chip.fail["commit"] = unplug
        again = typed("--out", str(there), "--hop", "24")  # another image
        assert "incomplete image" in str(again.exception)
        del chip.fail["commit"]
        assert flash.flashed_folder(bundle, DK) == there and flash.interrupted(there)
        done = typed()
        assert "interrupted: everything is written again" in done.stderr
        assert "wrote     everything" in done.stdout
        assert flash.flashed_folder(bundle, DK) == usual
        assert not flash.interrupted(there)
        # What was not begun changes nothing of what the board holds.
        fake_probe.connect(monkeypatch, chip, [])
        assert "No debug probe" in str(typed("--out", str(there)).exception)
        assert flash.flashed_folder(bundle, DK) == usual
    (usual / flash.NOTE).write_text("[]")
    with pytest.raises(KwsError, match="can't be read"):
        flash.flashed_folder(bundle, DK)


@pytest.mark.parametrize(
    ("chatter", "missing"),
    [
        (b"another firmware\n", "its model"),
        (b"kws selftest ok\n", "its model"),
        (b"kws beat hash=01ab schema=1\n", "the self-test"),
    ],
)
def test_what_a_board_must_say_at_boot(
    chatter: bytes, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it says: the wait has an end."""
    monkeypatch.setattr(flash, "BOOT_S", 0.05)
    monkeypatch.setattr(flash.run, "MAX_BOOT_BYTES", 1 << 40)
    port: Any = SimpleNamespace(read=lambda silent_s: itertools.repeat(chatter))
    with pytest.raises(BoardError, match=f"none of them tells of {missing}"):
        flash._boot(port, DK, JOB, "01ab", Path("image.elf"))


def test_a_board_that_was_up_already_tells_its_model_by_a_heartbeat() -> None:
    beat = (
        "kws beat hash=01ab schema=1 time_ms=0 peak=0 overruns=0 inferences=0 "
        "frame_cost=0 cost=0 macs=0 macs_dense=0\n"
    )
    lines = [b"hash=01ab schema=1\nkws selftest ok\n", beat.encode(), b"more"]
    port: Any = SimpleNamespace(read=lambda silent_s: iter(lines))
    said = flash._boot(port, DK, JOB, "01ab", Path("image.elf"))
    assert said.endswith("macs_dense=0\n")
    assert monitor.parse(said).hash == "01ab"


def test_a_failure_before_programming_leaves_an_older_interruption_marked(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_probe.connect(monkeypatch, Chip(), [])
    built = SimpleNamespace(elf=image)
    monkeypatch.setattr(flash, "emit_and_build", lambda *_, **__: built)
    for before in (False, True):
        if before:
            (tmp_path / flash.MARKER).write_text("{}")
        with pytest.raises(BoardError, match="No debug probe"):
            flash.program(bundles.load("kwt-tiny"), DK, tmp_path, JOB)
        assert flash.interrupted(tmp_path) == before


def test_a_port_that_is_missing_does_not_undo_the_programming(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_probe.connect(monkeypatch, Chip())
    built = SimpleNamespace(elf=image)
    monkeypatch.setattr(flash, "emit_and_build", lambda *_, **__: built)
    monkeypatch.setattr(serial_port, "ports", lambda: [])
    with pytest.raises(KwsError, match="programmed; .*\n?.*No serial port"):
        flash.program(bundles.load("kwt-tiny"), DK, tmp_path, JOB)
    assert not flash.interrupted(tmp_path)


@pytest.mark.parametrize(
    ("stats", "longer_s", "more"),
    [({}, 140.5, "--timeout 141"), ({}, None, "--out /tmp/kws-build")],
)
def test_the_hint_of_a_run_that_failed_is_what_was_typed_and_more(
    stats: dict[str, int], longer_s: float | None, more: str
) -> None:
    transcript: Any = SimpleNamespace(stats=stats)
    said = run.Listened(transcript, ("it failed",), 1.0, longer_s)
    nothing: Any = None
    done = flash.Flashed(DK, nothing, nothing, "", said, nothing, nothing)
    typed = ["my run", "--board", "qemu-m4", "--audio", "my tape.wav", "--hop", "20"]
    hint = as_typed(done.hint, cli, ["flash", *typed, "--timeout", "1"])
    kept = shlex.join(typed) + (" --timeout 1.0" if longer_s is None else "")
    assert hint.endswith(f": kws flash {kept} {more}")


def test_a_run_that_needs_longer_is_given_longer() -> None:
    """`--timeout` was not named, and what it was run with fell out of the hint."""
    need_compiler()
    need_qemu()
    typed = ["flash", "kwt-tiny", "--board", "qemu-m0", "--pad", "60"]
    done = CliRunner().invoke(cli, [*typed, "--timeout", "1"])
    assert isinstance(done.exception, CheckFailed), done.output
    assert "did not end in time" in done.exception.message
    assert done.exception.hint.endswith("kws flash ... --timeout 1320")


@pytest.mark.parametrize("causal", [False, True])
def test_a_network_that_is_too_slow_gets_a_hop_where_it_can_have_one(
    causal: bool,
) -> None:
    features = bundles.load("kwt-stream-tiny").recipe.features
    slow = 1.5 * DK.instructions_per_second * 0.04  # a decision each 40 ms
    stats = {"overruns": 7, "instructions_per_inference_max": round(slow)}
    transcript: Any = SimpleNamespace(stats=stats)
    said = run.Listened(transcript, ("samples were lost",), 1.0)
    nothing: Any = None
    done = flash.Flashed(
        DK, nothing, features, "", said, nothing, nothing, causal=causal
    )
    hint = done.hint
    assert ("--hop 4" in hint) == (not causal)
    assert ("kws boards" in hint and "--no-pace" in hint) == causal


@pytest.mark.parametrize("verb", ["flash", "monitor", "listen"])
def test_another_hop_of_a_network_for_streams_is_refused_before_the_build(
    verb: str,
) -> None:
    where = [] if verb == "listen" else ["--board", "qemu-m4"]
    done = CliRunner().invoke(cli, [verb, "kwt-stream-tiny", *where, "--hop", "6"])
    assert isinstance(done.exception, KwsError), done.output
    assert "Expected no --hop, or --hop 2. Received: --hop 6" in str(done.exception)
    assert "Building" not in done.output
    bundle = bundles.load("kwt-stream-tiny")
    assert flash.with_hop(bundle, 2) == bundle


def test_a_tool_that_the_board_has_no_table_for() -> None:
    with pytest.raises(KwsError, match="can't be programmed with 'uf2'.*pyocd"):
        flash.tool_of(DK, "uf2")
    assert flash.tool_of(boards.load("b-l475e-iot01a"), "openocd") == "openocd"
