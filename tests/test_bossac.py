"""kws flash --tool bossac: the real bossac at a model of a board with its bootloader.

Debian's bossac knows no nRF52840, so what runs everywhere is an Arduino Zero's chip
behind the same commands; where Arduino's own bossac is installed, the Nano's as well.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import samba_board
import small_elf
import wire as wires
from click.testing import CliRunner
from samba_board import SAMD21, ZERO
from toolbox import need_compiler, skip_or_fail

from kws import bundle as bundles
from kws.cli import cli
from kws.deploy import boards, elf, flash, pace, serial_port
from kws.deploy.failures import BoardError
from kws.deploy.runners import Found, Job, bossac

if serial_port.missing() is not None:  # pragma: no cover
    skip_or_fail("pyserial is not installed (pip install -e '.[flash]')")

import serial  # noqa: E402

NANO = boards.load("nano33ble")
JOB = Job(run="runs/tiny")
CODE, MODEL = bytes(range(256)) * 40, b"weights!" * 64
CHIP = "ATSAMD21x18"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bossac, "LOOK_S", 0.1)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = small_elf.write(tmp_path / "main.elf", CODE, MODEL)
    elf.seal(path, elf.read(path))
    return path


@pytest.fixture(params=["samd21", "nrf52840"])
def ways(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[boards.Board, dict[str, Any]]:
    """A board, and its model's arguments."""
    own = [path for path in bossac.programs() if b"nRF52840" in path.read_bytes()]
    if request.param == "samd21":  # of which Arduino's erases from 0x2000 on alone
        others = [path for path in bossac.programs() if path not in own]
        if not others:
            skip_or_fail("bossac is not installed (apt-get install bossa-cli)")
        monkeypatch.setattr(bossac, "programs", lambda: others)
        return zero(), {"version": ZERO, "words": SAMD21}
    if not own:
        pytest.skip("Arduino's own bossac is not installed (arduino:mbed_nano)")
    return NANO, {}


def zero() -> boards.Board:
    """The Nano with another chip behind the same bootloader."""
    table = NANO.options_of("bossac") | {"device": CHIP}
    return dataclasses.replace(NANO, tools={**NANO.tools, "bossac": table})


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a model where serial ports are looked for."""

    def plug(**options: Any) -> samba_board.Board:
        made = samba_board.Board(**options)
        monkeypatch.setattr(serial_port, "ports", made.ports)
        return made

    return plug


def fails(image: Path, board: boards.Board, job: Job = JOB) -> BoardError:
    with pytest.raises(BoardError) as caught:
        bossac.program(image, board, job)
    return caught.value


@pytest.mark.parametrize("state", ["application", "bootloader"])
def test_the_image_is_behind_the_bootloader_and_starts(
    state: str, ways: Any, plugged: Any, image: Path
) -> None:
    board, options = ways
    order: list[str] = []
    with plugged(**options) as model:
        model.state = state
        job = dataclasses.replace(
            JOB, before_start=lambda: order.append(f"{model.told}")
        )
        done = bossac.program(image, board, job)
        model._thread.join(10)
    assert model.faults == []
    flat = CODE + MODEL + image.read_bytes()[84 + len(CODE) + len(MODEL) :][:4]
    assert bytes(model.flash[0x10000 : 0x10000 + len(flat)]) == flat
    assert (done.what, done.bytes) == ("everything", len(flat))
    # A sketch is touched, a bootloader that waits is not; then in this order.
    touched = ["touch"] if state == "application" else []
    assert order == [f"{touched}"]
    assert model.told[: len(touched) + 1] == [*touched, "erase 0x0"]
    assert model.told[-1] == "start"
    writes = [text for text in model.told if text.startswith("write")]
    assert model.told == [*touched, "erase 0x0", *writes, "start"]
    assert len(writes) == len(set(writes))


@pytest.mark.parametrize("late", ["V", "wI"])  # for the chip they ask by w or by I
def test_an_answer_that_came_too_late_is_asked_for_again(
    late: str, ways: Any, plugged: Any, image: Path
) -> None:
    """bossac waits a tenth of a second: little, where either side is busy."""
    board, options = ways
    with plugged(**options, late_to=late) as model:
        model.state = "bootloader"
        done = bossac.program(image, board, JOB)
        model._thread.join(10)
    assert model.late_to != late
    assert done.what == "everything"
    assert (model.told[0], model.told[-1], model.faults) == ("erase 0x0", "start", [])
    assert len(set(model.told)) == len(model.told)


@pytest.mark.parametrize(
    ("options", "key", "cause"),
    [
        ({"silent": True}, "no-bootloader", "No device found on"),
        ({"deaf_to": "Y"}, "bossac-failed", "SAM-BA operation failed"),
        ({"unplugged_after": 1}, "bossac-failed", "disappeared"),
    ],
)
def test_what_goes_wrong_at_the_board(
    options: dict[str, Any], key: str, cause: str, ways: Any, plugged: Any, image: Path
) -> None:
    board, of_chip = ways
    with plugged(**{**of_chip, **options}) as model:
        model.state = "bootloader"
        error = fails(image, board)
    assert (error.key, model.faults) == (key, [])
    assert cause in error.message
    assert "start" not in model.told
    assert model.told.count("erase 0x0") == (0 if model.silent else 1)


def test_a_bootloader_that_goes_while_it_is_spoken_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tcdrain then says so by an error of its own, which is no OSError."""

    def gone(_: serial.Serial) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    monkeypatch.setattr(serial.Serial, "flush", gone)
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    bossac._complete(os.ttyname(theirs))
    assert os.read(ours, 4096) == bossac.FILLER
    os.close(ours)
    os.close(theirs)


def test_no_bossac_is_left_where_this_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `kill`: one that waits for its port would be waited for, for ever."""
    tool = tmp_path / "bossac"
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 20\n")
    tool.chmod(0o755)

    def stopped() -> list[Any]:
        if (tmp_path / "pid").exists():
            raise SystemExit(143)
        return []

    monkeypatch.setattr(bossac, "GONE_LOOKS", 100)
    monkeypatch.setattr(serial_port, "ports", stopped)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        bossac._run([str(tool)], "/dev/ttyACM0", {})
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_another_chip_is_not_written(ways: Any, plugged: Any, image: Path) -> None:
    board, options = ways
    options = options | {"identity": "nRF52832", "words": SAMD21 | {0x41002018: 1}}
    with plugged(**options) as model:
        model.state = "bootloader"
        error = fails(image, board)
    assert (error.key, model.told) == ("wrong-target", [])


def test_an_image_that_would_lie_elsewhere_is_refused(
    plugged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked at 0: its vectors would point into the bootloader."""
    monkeypatch.setattr(small_elf, "FLASH", 0)
    path = small_elf.write(tmp_path / "zero.elf", CODE, MODEL)
    with plugged() as model:
        error = fails(path, NANO)
    assert error.key == "not-linked"
    assert "begins at 0x0, and the bootloader starts 0x10000" in error.message
    assert (model.state, model.told) == ("application", [])
    # What board.toml builds is linked to there, and leaves flash to its end.
    options = NANO.options_of("bossac")
    assert options["start"] == NANO.flash_origin
    assert NANO.flash_origin + NANO.flash_bytes == 1 << 20


def test_a_bossac_that_does_not_know_the_chip_touches_nothing(
    plugged: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's, which would ask by reading what an nRF52840 lacks; Arduino's is taken
    from Arduino's folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    other = folder / "bossac"
    other.write_bytes(b"#!/bin/sh\n# knows an ATSAMD21x18\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    with plugged() as model:
        error = fails(image, NANO)
    assert error.key == "no-bossac"
    assert f"nRF52840-QIAA is unknown to {other}" in error.message
    assert (model.state, model.told) == ("application", [])
    for version in ("1.9.1-arduino1", "1.9.1-arduino2"):
        tool = tmp_path / ".arduino15/packages/arduino/tools/bossac" / version
        tool.mkdir(parents=True)
        (tool / "bossac").write_bytes(b"\x7fELF nRF52840-QIAA")
    assert bossac._knowing("nRF52840-QIAA", {}).parent == tool


def port(name: str, ids: str) -> tuple[Found, str]:
    return Found(name, "UART"), ids


@pytest.mark.parametrize(
    ("found", "probe", "key"),
    [
        ([], None, "no-bootloader"),
        ([port("/dev/ttyACM0", "2e8a:000c")], None, "no-bootloader"),
        # Named, but no Arduino: a Debug Probe that carries the text, say.
        ([port("/dev/ttyACM0", "2e8a:000c")], "/dev/ttyACM0", "no-bootloader"),
        ([port("/dev/ttyACM1", "2341:805a")], "/dev/ttyACM0", "no-bootloader"),
        (
            [port("/dev/ttyACM0", "2341:805a"), port("/dev/ttyACM1", "2341:005a")],
            None,
            "several-probes",
        ),
        ([port("/dev/not-there", "2341:805a")], None, "port-absent"),
    ],
)
def test_which_port(
    found: list[Any],
    probe: str | None,
    key: str,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bossac, "_knowing", lambda *_: Path("bossac"))
    monkeypatch.setattr(serial_port, "ports", lambda: found)
    error = fails(image, NANO, dataclasses.replace(JOB, probe=probe))
    assert error.key == key
    if key == "no-bootloader":
        assert "twice, quickly" in error.hint
        assert all(port.id in error.message for port, _ in found)


def test_a_person_chooses_the_board_and_a_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "by-id"
    link.symlink_to("/dev/ttyACM1")
    found = [port("/dev/ttyACM0", "2341:805a"), port("/dev/ttyACM1", "2341:005a")]
    monkeypatch.setattr(serial_port, "ports", lambda: found)
    asks = dataclasses.replace(JOB, ask=lambda question, listed: 1)
    named = dataclasses.replace(JOB, probe=str(link))
    for job in (asks, named):
        assert bossac._bootloader(NANO, job, {}) == "/dev/ttyACM1"


def test_a_sketch_that_does_not_stop(
    plugged: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bossac, "STARTS_S", 0.3)
    monkeypatch.setattr(bossac, "_knowing", lambda *_: Path("bossac"))
    model = plugged()  # its thread does not run: the sketch hangs
    error = fails(image, NANO)
    model._unplug()
    assert error.key == "no-bootloader"
    assert "touched at 1200 baud" in error.message


def test_from_the_touch_to_the_selftest_with_an_interruption(
    ways: Any,
    plugged: Any,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text comes by another port, which is open before the firmware starts."""
    monkeypatch.chdir(tmp_path)  # what is noted of a shipped run
    board, options = ways
    bundle = bundles.load("kwt-tiny")
    built = SimpleNamespace(elf=image)
    monkeypatch.setattr(flash, "emit_and_build", lambda *_, **__: built)
    monkeypatch.setattr(flash.emission, "selftest_cost", lambda *_: (None, None))
    ours, theirs = os.openpty()
    hello = (
        f"kws boot name=kwt-tiny hash={bundle.hash[:16]} schema=1\nkws selftest ok\n"
    )

    def program() -> flash.Flashed:
        port = os.ttyname(theirs)
        return flash.program(bundle, board, tmp_path, JOB, "bossac", port=port)

    with (
        plugged(**options, unplugged_after=1),
        pytest.raises(BoardError, match="incom"),
    ):
        program()
    assert json.loads((tmp_path / flash.MARKER).read_text())["board"] == board.name
    with plugged(**options) as model:
        model.on_start = lambda: os.write(ours, hello.encode())
        done = program()
    assert not flash.interrupted(tmp_path)
    assert done.programmed is not None
    assert done.programmed.what == "everything"
    assert (model.faults, model.told[0]) == ([], "touch")
    os.close(ours)
    os.close(theirs)


def test_what_comes_next_follows_the_board(
    ways: Any, plugged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_compiler()
    board, options = ways
    monkeypatch.setattr(boards, "load", lambda _: board)
    monkeypatch.setattr(pace, "measure", lambda *_: None)
    with wires.opened(bundles.load("kwt-tiny")) as wire, plugged(**options) as model:
        model.on_start = wire.boots
        line = ["flash", "kwt-tiny", "--board", board.name, "--tool", "bossac"]
        line += ["--out", str(tmp_path), "--port", wire.port]
        done = CliRunner().invoke(cli, line, catch_exceptions=False)
        assert done.exit_code == 0 and "self-test ok" in done.stdout
        following = done.stderr.rpartition("Next: ")[2].strip()
        assert following == f"kws monitor kwt-tiny --board {board.name} --port " + (
            wire.port
        )
        assert "skipped 75 %" in wire.follow(following)
    assert model.faults == []


def test_the_text_is_not_looked_for_at_the_bootloader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = port("/dev/ttyUSB0", "0403:6001")
    found = [port("/dev/ttyACM0", "2341:005a"), adapter]
    monkeypatch.setattr(serial_port, "ports", lambda: found)
    assert serial_port.find(NANO, "runs/tiny", None, None) == "/dev/ttyUSB0"
