"""A fault on a board: what it says of it, and what the PC makes of that."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel, tone
from toolbox import need_compiler, need_qemu, skip_or_fail

from kws.deploy import boards, build, elf, fault, monitor, run, toolchain
from kws.deploy.failures import BoardError

FAKE = FakeModel()
STREAM = tone(300, 24000)
EMULATED = ("qemu-m0", "qemu-m4", "qemu-m33", "qemu-m55")
# How each core tells a store to the stack's guard: exception, bits of CFSR.
GUARDS = {"qemu-m0": (3, 0), "qemu-m4": (4, 1 << 1 | 1 << 4)}
GUARDS |= {"qemu-m33": (6, 1 << 20), "qemu-m55": (6, 1 << 20)}


def crashed(
    name: str, folder: Path, model: FakeModel, compiler: str | None = None
) -> tuple[run.Listened, build.Image, Path]:
    """Build, run until it crashes; what was heard, the image, the model's source."""
    need_compiler(compiler)
    need_qemu()
    board = boards.load(name)
    source = model.write(folder / "model") / "kws_model.c"
    image = build.build(source.parent, board, folder, "main", compiler)
    return run.listen(image.elf, board, STREAM, FAKE.hash), image, source


@pytest.mark.parametrize("name", EMULATED)
def test_a_bad_store_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    nowhere = 0x0F000000 if name == "qemu-m55" else 0x90000000
    model = dataclasses.replace(FAKE, crash_at=2, crash_address=nowhere)
    listened, image, source = crashed(name, tmp_path, model)
    pairs = listened.transcript.fault
    assert pairs is not None
    assert pairs["build"] == fault.build_number(image.elf)
    assert "stack" not in pairs
    if name != "qemu-m0":  # Armv6-M code: its core could not tell
        assert pairs["exception"] == "5"
        assert int(pairs["cfsr"], 16) & (1 << 9 | 1 << 10)
        assert pairs["bfar"] == f"{nowhere:08x}"
    (problem,) = listened.problems
    assert problem.startswith("the firmware crashed (exit code 20, ")
    (line,) = [
        number
        for number, text in enumerate(source.read_text().splitlines(), 1)
        if f"{nowhere:#x}" in text and "if" in text
    ]
    if shutil.which("arm-none-eabi-addr2line") is None:
        skip_or_fail("arm-none-eabi-addr2line is not installed")
    where = re.search(r"pc 0x[0-9a-f]{8} in (\w+) at model/kws_model\.c:(\d+)", problem)
    assert where is not None, problem
    assert where[1] in ("decide", "kws_model_step")
    assert abs(int(where[2]) - line) <= 1


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", EMULATED)
def test_a_full_stack_is_told_by_its_guard(
    name: str, compiler: str, tmp_path: Path
) -> None:
    """By the MPU or the core's limit, before anything below is written; and where."""
    listened, _, _ = crashed(
        name, tmp_path, dataclasses.replace(FAKE, recurse_at=2), compiler
    )
    pairs = listened.transcript.fault
    assert pairs is not None
    exception, bits = GUARDS[name]
    assert pairs["stack"] == "overflow"
    assert int(pairs["exception"]) == exception
    assert bits == 0 or int(pairs["cfsr"], 16) & bits
    (problem,) = listened.problems
    assert "the stack is full" in problem
    assert re.search(r"lr 0x[0-9a-f]{8} in recurse at ", problem)


@pytest.mark.parametrize("name", EMULATED)
def test_the_watchdog_tells_where_a_loop_hung(name: str, tmp_path: Path) -> None:
    """Its first alarm is the NMI on these machines; on real boards it resets."""
    hangs = dataclasses.replace(FAKE, hang_at=3)
    listened, _, _ = crashed(name, tmp_path, hangs)
    pairs = listened.transcript.fault
    assert pairs is not None
    assert pairs["exception"] == "2"
    (problem,) = listened.problems
    assert "watchdog" in problem
    assert re.search(r"pc 0x[0-9a-f]{8} in (decide|kws_model_step) at model/", problem)


def test_a_beat_tells_the_stacks_deepest_use(tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    board = boards.load("qemu-m4")
    image = build.build(FAKE.write(tmp_path / "m"), board, tmp_path)
    said = run.listen(image.elf, board, STREAM, FAKE.hash).transcript
    used = said.beats[-1].stack
    assert used is not None
    assert 1000 < used <= said.stats["stack"] < board.stack_bytes
    assert said.beats[-1].stack_size == board.stack_bytes
    shallow = monitor.Monitor(float).feed(
        b"kws beat hash=0 schema=1 time_ms=1 peak=1 overruns=0 inferences=0 "
        b"frame_cost=0 cost=0 macs=0 macs_dense=0 stack=4000 stack_size=4096\n"
    )
    assert "raise stack_bytes" in monitor.text(shallow[0])


def test_without_addr2line_there_are_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_compiler()
    board = boards.load("qemu-m4")
    image = build.build(FAKE.write(tmp_path / "m"), board, tmp_path).elf
    (step,) = (s for s in elf.read(image).symbols if s.name == "kws_poll")
    pairs = {
        "exception": "3",
        "pc": f"{step.address + 2:08x}",
        "lr": "fffffff9",
        "build": str(fault.build_number(image)),
    }
    with_lines = fault.explain(pairs, image)
    assert re.search(r"in kws_poll at src/kws\.c:\d+|in \w+ at src/kws", with_lines)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "in kws_poll;" in fault.explain(pairs, image)
    assert "no function of the firmware" in fault.explain(pairs, image)
    # Another build's addresses get no names.
    other = fault.explain(pairs | {"build": "00000000"}, image)
    assert "kws_poll" not in other and "another build" in other
    assert "another build" in fault.explain(pairs, tmp_path / "absent.elf")


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"exception": "3", "cfsr": "00010000"}, "HardFault: an undefined instruction"),
        ({"exception": "4", "cfsr": "00000082", "mmfar": "20000010"}, "0x20000010"),
        ({"exception": "5", "cfsr": "00008200", "bfar": "90000000"}, "0x90000000"),
        ({"exception": "18"}, "interrupt 2, which nobody expected"),
        ({"exception": "2"}, "watchdog"),
        ({"exception": "x", "cfsr": "zz", "pc": "-1", "lr": "9" * 99}, "a fault"),
        ({}, "a fault"),
    ],
)
def test_registers_become_words(pairs: dict[str, str], words: str) -> None:
    told = fault.explain(pairs)
    assert words in told
    assert "address" not in told or "0x" in words  # only where it is valid


def test_a_monitor_ends_with_the_explanation() -> None:
    line = "kws fault exception=6 pc=00000102 lr=00000000 cfsr=02000000 build=00000000"
    with pytest.raises(BoardError, match="division by zero") as caught:
        monitor.Monitor(float).feed(line.encode() + b"\n")
    assert line in caught.value.message


def test_the_boot_line_says_which_firmware_and_why_it_started() -> None:
    line = (
        "kws boot name=x hash=0 schema=1 app=main labels=3 arena=9 weights=8 "
        "version=0.1.0 board=pico clock_hz=125000000 build=00012345 reset=watchdog\n"
    )
    (message,) = monitor.Monitor(float).feed(line.encode())
    assert (message["version"], message["build"]) == ("0.1.0", "00012345")
    shown = monitor.text(message)
    assert "firmware 0.1.0 build 00012345" in shown
    assert "RESET BY ITS WATCHDOG" in shown
    assert np.all([word in monitor._RESETS for word in ("power", "pin", "software")])
