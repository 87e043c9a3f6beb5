"""The fuzzing targets for a few seconds each; they are described in tests/fuzzing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzzing import c_targets
from fuzzing.c_targets import TARGETS
from toolbox import skip_or_fail

from kws.deploy import boards
from kws.errors import KwsError
from kws.paths import FIRMWARE

pytest.importorskip("hypothesis", reason="it makes the mutants")
from fuzzing import readers  # noqa: E402

SECONDS = 2  # for each target
EXAMPLES = 20  # for each reader


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: targets share objects."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", TARGETS)
def test_the_firmware_survives_a_few_seconds(name: str, built: Path) -> None:
    if c_targets.clang() is None:
        skip_or_fail("there is no clang with libFuzzer")
    target = TARGETS[name]
    program = c_targets.build(target, built / name, "fuzz")
    limit = f"-max_total_time={SECONDS}"
    ran = c_targets.fuzz(program, built / name / "corpus", target, limit)
    assert ran.crash is None, ran.crash[1]
    assert ran.executions > len(c_targets.seeds(target))


# What a slip of the pen would make of the firmware: the seeds alone find it.
FAULTS = {
    "command": ("app/command.c", "length < COMMAND_BYTES - 1", "length < 200"),
    "print": ("app/print.c", '? "?" : text', "? text : text"),
    "detector": ("src/detector.c", "score < spec->rearm[i]", "score < 1"),
    "features": ("src/features.c", "out[bin] < spec->floor", "out[bin] < -127"),
    "loop": ("src/kws.c", "samples_dropped += (uint32_t)(n - kept)", "(void)n"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, built: Path, tmp_path: Path) -> None:
    file, right, wrong = FAULTS[name]
    source = (FIRMWARE / file).read_text()
    assert source.count(right) == 1
    planted = tmp_path / Path(file).name
    planted.write_text(source.replace(right, wrong))
    target = TARGETS[name]
    instead = {FIRMWARE / file: planted}
    program = c_targets.build(target, built / name, "replay", instead)
    assert c_targets.replay(program, c_targets.seeds(target)).returncode != 0


def test_readers_take_or_refuse_whatever_comes(tmp_path: Path) -> None:
    command = [sys.executable, readers.__file__, *readers.READERS]
    result = subprocess.run(
        [*command, "--examples", str(EXAMPLES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-6000:]
    done = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["name"] for one in done] == list(readers.READERS)
    assert all(one["executions"] >= EXAMPLES for one in done)


@pytest.mark.parametrize("name", readers.READERS)
def test_seeds_are_taken(name: str, tmp_path: Path) -> None:
    """A mutant of what is refused says little."""
    one = readers.READERS[name]
    taken = 0
    for place, data in enumerate(one.seeds()):
        folder = tmp_path / str(place)
        folder.mkdir()
        try:
            one.read(data, folder)
        except KwsError:
            continue
        taken += 1
    assert taken > 0


# What once was a crash: reader -> inputs, each refused now, or taken.
_BOARD = (boards.BOARDS / "qemu-m4" / "board.toml").read_bytes()
_HUGE = b"1" + b"0" * 400  # more than any float
_DIGITS, _BITS = (
    b"9" * 5000,
    b"0x" + b"F" * 5000,
)  # more than int() reads; than it prints
_DEEP = b"[" * 100_000
_ZIP = readers._zip_seeds()[0]


def _changed(data: bytes, mark: bytes, behind: int, to: bytes) -> bytes:
    """Data with other bytes so far behind a mark's last place."""
    at = data.rindex(mark) + behind
    return data[:at] + to + data[at + len(to) :]


_INDEX = b"file\tfirst_sample\tsamples\tsplit\tkind\n"
ONCE = {
    "board": [
        b"stack_bytes = " + _DIGITS,
        b"title = " + _DEEP,
        _BOARD.replace(b"sources = [", b'sources = ["' + b"x" * 300 + b'", '),
        _BOARD.replace(b"sources = [", b"sources = [1, "),
        _BOARD.replace(b"[flags]", b"[flags]\nother = 3"),
        _BOARD.replace(b"[flags]", b"[usb]\nids = 3\n[flags]"),
        b"usb = 3\n" + _BOARD,
        b"power = 3\n" + _BOARD,
        re.sub(rb"clock_hz = .*", b"clock_hz = " + _BITS, _BOARD),
        re.sub(rb"title = .*", b"title = " + _BITS, _BOARD),
        re.sub(
            rb"cycles_per_instruction = .*",
            b"cycles_per_instruction = " + _HUGE,
            _BOARD,
        ),
    ],
    "recipe": [
        b"[train]\nepochs = " + _DIGITS,
        b"[train]\nlearning_rate = " + _HUGE,
        b"[train]\nlearning_rate = " + _BITS,
        b"[model]\nstem = " + _BITS,
        b"[model]\nstem_stride = [1, " + _BITS + b"]",
        b"[features]\nsample_rate = 0",
        b"[features]\nhop = " + _HUGE,
        b"base = " + _BITS,
    ],
    "index": [
        b"x" * 300 + b"\tyes/a.wav\t0\t100\n",
        b"yes\tyes/a.wav\t" + _DIGITS + b"\t100\n",
    ],
    "ambient": [
        b"split\tkind\tsamples\tfirst_sample\tfile\ntest\tnoise\t1000\t0\n",
        _INDEX + b"..\t0\t1\ttrain\tnoise\n",
        _INDEX + b"absent.wav\t0\t1\ttrain\tnoise\n",
        _INDEX + b"x" * 300 + b"\t0\t1\ttrain\tnoise\n",
    ],
    "truth": [
        b"\1" + _DEEP,
        b"\0start\tend\tword\n0.5\t1.0\t" + b"x" * 140_000 + b"\n",
    ],
    "tape": [
        _DEEP,
        b'{"kind": "", "made": {}, "said": [['
        + _HUGE
        + b', 1, "yes", ""]], "windows": []}',
    ],
    "page": [
        re.sub(rb"0\.8", _HUGE, readers._page_seeds()[0], count=1),
    ],
    "zip": [
        # Of the name in a local header, which is UTF-8, not the first letter; bzip2's
        # block, which begins with a magic number.
        _ZIP.replace(b"\xc3\xa9", b"\xe9\xa9", 1),
        readers._zip_seeds()[2].replace(b"1AY&SY", b"1AY&SX", 1),
        # Before its beginning; without a name.
        _changed(_ZIP, b"PK\x05\x06", 16, b"\xff\xff\xff\x7f"),
        _changed(_ZIP, b"PK\x01\x02", 28, b"\0\0\0\0\r\0"),
    ],
    "monitor": [
        b"kws end kind=beat\n",
        b"kws reply kind=event status=ok\n",
    ],
}


@pytest.mark.parametrize("name", ONCE)
def test_what_once_was_a_crash(name: str) -> None:
    for data in ONCE[name]:
        readers.once(readers.READERS[name], data)


def test_a_crash_is_told_and_made_small() -> None:
    def read(data: bytes, folder: Path) -> None:
        if b"9999" in data:
            raise ValueError("as int() does")

    faulty = readers.Reader("faulty", "", lambda: [b"a=1\nb=2\nc=3\n"], read)
    with pytest.raises(ValueError) as caught:
        readers.run(faulty, 2000, 1)
    assert "9999" in str(caught.value.__notes__)


def test_what_takes_too_long_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, folder: Path) -> None:
        while True:
            time.sleep(0)

    monkeypatch.setattr(readers, "CPU_S", 0.1)
    before = signal.signal(signal.SIGVTALRM, readers._alarm)
    try:
        with pytest.raises(readers.TooLong):
            readers.once(readers.Reader("slow", "", list, read), b"")
    finally:
        signal.signal(signal.SIGVTALRM, before)
