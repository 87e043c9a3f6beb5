"""Every board of the registry: describes itself, builds with each compiler, boots."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import shutil
import struct
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_elf
from click.testing import CliRunner
from fake_model import LABELS, FakeModel, tone
from toolbox import SANITIZE, host_compile, need_compiler, need_qemu

from kws import bundle as bundles
from kws.cli import cli
from kws.deploy import boards, build, elf, fit, flash, pace, run, runners, toolchain
from kws.deploy.boards import BOARDS
from kws.errors import KwsError
from kws.features import extract

FAKE = FakeModel()
CLIPS = np.stack([tone(hertz, 16000) for hertz in (300, 5000, 1500)])
M4 = BOARDS / "qemu-m4" / "board.toml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAKE.write(tmp_path_factory.mktemp("model"))


NAMES = boards.names()
EMULATED = [name for name in NAMES if boards.load(name).runner == "qemu"]
REAL = [name for name in NAMES if name not in EMULATED]
FROM_RAM = ("pico", "pico2")


@pytest.mark.parametrize("name", NAMES)
def test_board_describes_itself(name: str) -> None:
    board = boards.load(name)
    assert set(board.flags) == set(toolchain.NAMES)
    assert board.runner in runners.names()
    assert 1e6 < board.instructions_per_second < 1e9
    assert board.part
    assert board.options  # the table of its runner
    assert bool(board.usb.ids) == (name in REAL)


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", REAL)
def test_a_real_boards_image_fits_and_lies_where_the_part_starts(
    name: str, compiler: str, model: Path, tmp_path: Path
) -> None:
    need_compiler(compiler)
    board = boards.load(name)
    image = build.build(model, board, tmp_path, "main", compiler)
    assert 8_000 < image.fit.flash_bytes < 80_000
    copied = image.fit.text if name not in FROM_RAM else image.fit.flash_bytes
    assert 2 * FAKE.ring_samples < image.fit.ram_bytes < 32_000 + copied
    assert image.fit.stack == board.stack_bytes
    content = elf.read(image.elf)
    assert content.segments[0].address == board.flash_origin
    end = max(segment.address + len(segment.data) for segment in content.segments)
    assert end <= board.flash_origin + board.flash_bytes
    if name not in FROM_RAM:  # tests/test_uf2.py looks at their start
        vectors = struct.unpack("<64I", content.content(board.flash_origin, 256))
        symbols = {symbol.name: symbol.address for symbol in content.symbols}
        ram = range(board.ram_origin, board.ram_origin + board.ram_bytes + 1)
        assert vectors[0] in ram
        assert vectors[1] == symbols["kws_reset_handler"] | 1
        assert set(vectors[16:]) == {symbols["kws_interrupt_handler"] | 1}


def test_the_decimator_keeps_speech_and_stops_what_would_fold(tmp_path: Path) -> None:
    """boards/common/decimate.c on this machine, tone by tone."""
    main = tmp_path / "main.c"
    main.write_text(
        '#include <stdio.h>\n#include "decimate.h"\n'
        "int main(void) {\n"
        "  static decimate_t state;\n"
        "  int16_t block[640];\n"
        "  while (fread(block, 2, 640, stdin) == 640) {\n"
        "    decimate(&state, block, block, 160);\n"
        "    fwrite(block, 2, 160, stdout);\n"
        "  }\n"
        "  return 0;\n"
        "}\n"
    )
    common = BOARDS / "common"
    program = host_compile(
        [main, common / "decimate.c"], tmp_path / "run", *SANITIZE, f"-I{common}"
    )
    time = np.arange(6400) / 64000

    def gain_db(hertz: float, amplitude: float = 20000) -> float:
        wave = np.rint(amplitude * np.sin(2 * np.pi * hertz * time)).astype("<i2")
        out = subprocess.run([program], input=wave.tobytes(), capture_output=True)
        result = np.frombuffer(out.stdout, "<i2").astype(float)
        assert len(result) == 1600
        return float(20 * np.log10(np.std(result[100:]) * 2**0.5 / amplitude + 1e-9))

    assert all(abs(gain_db(hertz)) < 0.15 for hertz in (100, 1000, 3000, 6000))
    assert -2 < gain_db(7000) < -1
    assert all(gain_db(hertz) < -40 for hertz in (9100, 12000, 16000, 24000, 31000))
    # Full scale and a square wave saturate instead of wrapping.
    square = np.where(np.sin(2 * np.pi * 1000 * time) >= 0, 32767, -32768)
    out = subprocess.run(
        [program], input=square.astype("<i2").tobytes(), capture_output=True
    )
    values = np.frombuffer(out.stdout, "<i2")[100:].astype(int)
    assert values.max() == 32767
    assert values.min() == -32768
    assert np.abs(np.diff(values)).max() < 60_000


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", EMULATED)
def test_board_builds_fits_boots_and_computes(
    name: str, compiler: str, model: Path, tmp_path: Path
) -> None:
    need_compiler(compiler)
    need_qemu()
    board = boards.load(name)
    main = build.build(model, board, tmp_path, "main", compiler)
    # Under the size of the tables and the ring, something would be missing.
    assert 8_000 < main.fit.flash_bytes < 80_000
    assert 2 * FAKE.ring_samples < main.fit.ram_bytes < 30_000
    assert main.fit.stack == board.stack_bytes
    stream = np.concatenate([tone(300, 32000), tone(5000, 24000)])
    listened = run.listen(main.elf, board, stream, FAKE.hash)
    assert listened.problems == ()
    words = [event.word for event in listened.transcript.events]
    assert words == list(LABELS[2:])

    clips = build.build(model, board, tmp_path, "clips", compiler)
    result = run.clips(clips.elf, board, CLIPS, labels=4)
    expected = [FAKE.logits(extract(clip, FAKE.features)) for clip in CLIPS]
    assert np.array_equal(result.logits, expected)
    assert result.hash == FAKE.hash
    assert result.instructions_per_frame > 5_000


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", ["qemu-m4", "pico"])  # one for each linker script
def test_constructors_run_before_main(
    name: str, compiler: str, model: Path, tmp_path: Path
) -> None:
    """Of static C++ objects in a linked library (TFLM); by priority, then as linked."""
    need_compiler(compiler)
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "constructed.c").write_text(
        "static volatile int made;\n"
        "__attribute__((constructor)) static void second(void) { made = 2 * made; }\n"
        "__attribute__((constructor(101))) static void first(void) { made = 21; }\n"
        "int how_many(void);\n"
        "int how_many(void) { return made; }\n"
    )
    source = tmp_path / "model" / "kws_model.c"
    text = source.read_text().replace("static volatile int runs;", CONSTRUCTED)
    source.write_text(f"int how_many(void);\n{text}")
    board = boards.load(name)
    image = build.build(tmp_path / "model", board, tmp_path, "main", compiler)
    if name in EMULATED:
        need_qemu()
        listened = run.listen(image.elf, board, tone(300, 16000), FAKE.hash)
        assert listened.problems == ()
    # And they are part of the code, not left wherever the linker has room.
    assert ".init_array" not in {s.name for s in elf.read(image.elf).sections}


CONSTRUCTED = """static volatile int runs;
  if (how_many() != 42) *(volatile uint32_t *)0x90000000u = 1;"""


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize(
    ("memory", "size"), [("ballast", 1_040_000), ("arena", 250_000)]
)
def test_a_model_too_large_for_the_board_is_refused(
    memory: str, size: int, compiler: str, tmp_path: Path
) -> None:
    need_compiler(compiler)
    large = FakeModel(**{memory: size})
    out = tmp_path / "out"
    with pytest.raises(KwsError) as caught:
        build.build(
            large.write(tmp_path / "m"), boards.load("qemu-m4"), out, "main", compiler
        )
    error = caught.value
    assert error.exit_code == 2
    assert "too large for the board qemu-m4" in error.message
    assert "too many" in error.message
    assert f"{memory} {size:,}" in error.message  # the largest part is named
    assert "kws train --preset kwt-tiny" in error.hint
    assert list(out.iterdir()) == []  # nothing half-written


def test_the_flash_is_used_to_its_last_byte(model: Path, tmp_path: Path) -> None:
    """There are no gaps between the sections that nobody counts."""
    need_compiler()
    board = boards.load("qemu-m4")
    size = build.build(model, board, tmp_path).fit.flash_bytes
    exact = dataclasses.replace(board, flash_bytes=size)
    assert build.build(model, exact, tmp_path / "fits").fit.flash_bytes == size
    small = dataclasses.replace(board, flash_bytes=size - 1)
    with pytest.raises(KwsError, match="too large for the board"):
        build.build(model, small, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("compiler", toolchain.NAMES)
def test_both_compilers_warnings_are_errors(compiler: str, tmp_path: Path) -> None:
    need_compiler(compiler)
    FAKE.write(tmp_path)
    with (tmp_path / "kws_model.c").open("a") as file:
        file.write("static int never_used(int a) { return 1; }\n")
    with pytest.raises(KwsError, match="never_used"):
        build.build(tmp_path, boards.load("qemu-m4"), tmp_path / "o", compiler=compiler)


def test_objects_are_cached_by_content(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_compiler()
    monkeypatch.setenv("KWS_CACHE", str(tmp_path / "cache"))
    board = boards.load("qemu-m4")
    first = build.build(model, board, tmp_path / "a").elf.read_bytes()
    old = tmp_path / "cache" / "objects" / "forgotten.o"
    old.write_bytes(b"")
    os.utime(old, (0, 0))

    def inodes() -> dict[Path, int]:
        return {file: file.stat().st_ino for file in tmp_path.glob("cache/*/*.o")}

    objects = inodes()
    assert build.build(model, board, tmp_path / "b").elf.read_bytes() == first
    changed = dataclasses.replace(FAKE, hash="f" * 16).write(tmp_path / "changed")
    build.build(changed, board, tmp_path / "c")
    after = inodes()
    assert old not in after  # unused for too long
    del objects[old]
    assert len(after) == len(objects) + 1  # the model alone was compiled again
    assert all(after[file] == inode for file, inode in objects.items())


@pytest.mark.parametrize("suffix", [".elf", *build.BESIDE])
def test_an_image_that_was_not_built_here_stays(
    model: Path, tmp_path: Path, suffix: str
) -> None:
    """main.elf, .bin and the like of a user's own firmware were replaced."""
    need_compiler()
    board = boards.load("qemu-m4")
    mine = tmp_path / f"main{suffix}"
    mine.write_text("my firmware")
    message = f"did not write main{suffix}, which"
    with pytest.raises(KwsError, match=message) as caught:
        flash.emit_and_build(bundles.load("kwt-tiny"), board, tmp_path)
    assert caught.value.hint == f"--out {tmp_path}-new"
    with pytest.raises(KwsError, match=message):
        build.build(model, board, tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.read_text() == "my firmware"
    mine.unlink()
    build.build(model, board, tmp_path)
    if suffix != ".elf":
        mine.write_text("of an earlier image")
    build.build(model, board, tmp_path)
    build.build(model, board, tmp_path, "clips")


def test_no_model_to_build(tmp_path: Path) -> None:
    need_compiler()
    with pytest.raises(KwsError, match="no generated model"):
        build.build(tmp_path, boards.load("qemu-m4"), tmp_path)


def test_no_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "available", lambda: ())
    with pytest.raises(KwsError, match="no cross compiler") as caught:
        toolchain.find()
    assert caught.value.exit_code == 2
    assert "pip install ziglang" in caught.value.hint
    with pytest.raises(KwsError, match="'zig' is not installed"):
        toolchain.find("zig")
    with pytest.raises(KwsError, match="No such compiler"):
        toolchain.find("tcc")


def test_fit_reads_what_the_linker_wrote(model: Path, tmp_path: Path) -> None:
    need_compiler()
    board = boards.load("qemu-m4")
    image = build.build(model, board, tmp_path)
    symbols = {symbol.name: symbol for symbol in elf.read(image.elf).symbols}
    assert symbols["kws_selftest_clip"].size == 16000
    assert symbols["ring"].size == 2 * FAKE.ring_samples
    assert board.ram_origin <= symbols["ring"].address
    assert " ring\n" in image.map.read_text()
    assert "flash" in image.fit.table()
    assert fit.measure(elf.read(image.elf), board) == image.fit


# What is written over a good image at an offset, or its new length.
NO_IMAGE: dict[str, tuple[int, bytes] | int] = {
    "empty": 0,
    "magic_alone": 4,
    "cut_off": -1,
    "ff": (6, b"\xff" * 99),
    "another_magic": (0, b"MZ"),
    "64_bit": (4, b"\x02"),
    "big_endian": (5, b"\x02"),
    "segment_beyond_the_end": (52 + 16, b"\xff\xff\xff\x7f"),
    "headers_beyond_the_end": (32, b"\xff\xff\xff\x7f"),
    "headers_without_end": (46, b"\0\0\xff\xff"),
    "segments_without_end": (42, b"\0\0\xfe\xff"),
    "no_names": (50, b"\xff\x00"),
}


@pytest.mark.parametrize("fault", NO_IMAGE)
def test_what_is_not_an_image_is_refused(fault: str, tmp_path: Path) -> None:
    file = small_elf.write(tmp_path / "x.elf", b"code", b"model")
    assert [part.name for part in elf.read(file).sections] == [
        ".text",
        ".model",
        ".seal",
    ]
    data, change = bytearray(file.read_bytes()), NO_IMAGE[fault]
    if isinstance(change, int):
        del data[change:]
    else:
        data[change[0] : change[0] + len(change[1])] = change[1]
    file.write_bytes(data)
    with pytest.raises(KwsError, match="Not a 32-bit little-endian ELF"):
        elf.read(file)


def test_a_section_beyond_the_end_is_refused(tmp_path: Path) -> None:
    """Sealing once wrote where such a section says: struct.error, or another byte."""
    file = small_elf.write(tmp_path / "x.elf", b"code", b"model")
    data = bytearray(file.read_bytes())
    seal = data.rindex(struct.pack("<I", small_elf.FLASH + 9))
    struct.pack_into("<I", data, seal + 4, len(data))
    file.write_bytes(data)
    with pytest.raises(KwsError, match="Not a 32-bit little-endian ELF"):
        elf.read(file)


# A change to a good board.toml, and what the refusal says.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "core_unknown": ({"core": "simd"}, "core must be one of"),
    "clock_in_megahertz": ({"clock_hz": 120}, "not in hertz"),
    "stack_larger_than_ram": ({"stack_bytes": 999_424}, "stack_bytes must be"),
    "stack_a_string": ({"stack_bytes": "8K"}, "wrong type"),
    "title_missing": ({"title": None}, "'title' is missing"),
    "memory_missing": ({"memory": None}, "'memory' is missing"),
    "key_misspelt": ({"corre": "dsp"}, "unknown key 'corre'"),
    "flags_empty": ({"flags": {}}, "names no toolchain"),
    "source_missing": ({"sources": ["common/absent.c"]}, "does not exist"),
    "script_missing": ({"linker_script": "common/absent.ld"}, "does not exist"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_board_toml_is_refused(fault: str) -> None:
    change, message = WRONG[fault]
    table = copy.deepcopy(tomllib.loads(M4.read_text()))
    for key, value in change.items():
        if value is None:
            del table[key]
        else:
            table[key] = value
    with pytest.raises(KwsError, match=message) as caught:
        boards.from_table(table, M4)
    assert str(M4) in caught.value.message


def test_an_unknown_board_or_runner_is_told_what_there_is() -> None:
    with pytest.raises(KwsError, match="Did you mean 'qemu-m4'"):
        boards.load("qemu_m4")
    with pytest.raises(KwsError, match="qemu"):
        runners.get("jtag")


# --- can it keep up -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inference", "frame", "hop", "least"),
    [
        (3_000_000, 180_000, 16, 6),
        (40_000_000, 180_000, 16, 74),
        (6_000_000, 500_000, 16, 27),
        (100_000_000, 180_000, 16, None),  # no hop within the window
        (1_000_000, 1_000_000, 16, None),  # features alone are too slow
    ],
)
def test_a_model_that_is_too_slow_is_told_with_the_hop_that_would_do(
    inference: int, frame: int, hop: int, least: int | None
) -> None:
    board = boards.load("pico")  # 125 MHz / 1.4 = 89.3 M instructions a second
    microphone = board.microphone_instructions
    paced = pace.Pace(board, hop, 98, inference, frame - 100, 100)
    each = microphone + frame + inference / hop
    assert paced.busy == pytest.approx(100 * each * 1.4 / 125e6)
    warning = paced.warning("mine")
    assert (warning is None) == (paced.busy * 1.02 <= 1)
    if warning is not None:
        assert "can't keep up" in warning
        command = f"kws flash mine --board pico --hop {least}"
        assert (command in warning) == (least is not None)
        assert ("smaller model" in warning) == (least is None)
    assert paced.least_hop == least
    if least is not None:
        assert pace.Pace(board, least, 98, inference, frame, 0).warning("mine") is None
    # A network for streams has one hop: none is recommended that is then refused.
    stream = dataclasses.replace(paced, causal=True)
    assert stream.least_hop is None
    if warning is not None:
        told = stream.warning("mine") or ""
        assert "--hop" not in told and "kws boards" in told


def test_building_for_a_pico_tells_before_flashing(tmp_path: Path) -> None:
    """kwt-small at its default hop, which the part has no time for."""
    need_compiler()
    need_qemu()
    command = ["build", "kwt-small", "--board", "pico", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    match = re.search(r"kws flash kwt-small --board pico --hop (\d+)", done.output)
    assert "can't keep up" in done.output
    assert match is not None and 25 <= int(match[1]) <= 45
