"""Every board of the registry: describes itself, builds with each compiler, boots."""

from __future__ import annotations

import copy
import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import LABELS, FakeModel, tone
from toolbox import need_compiler, need_qemu

from kws.deploy import boards, build, elf, fit, run, runners, toolchain
from kws.deploy.boards import BOARDS
from kws.errors import KwsError
from kws.features import extract

FAKE = FakeModel()
CLIPS = np.stack([tone(hertz, 16000) for hertz in (300, 5000, 1500)])
M4 = BOARDS / "qemu-m4" / "board.toml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAKE.write(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", boards.names())
def test_board_describes_itself(name: str) -> None:
    board = boards.load(name)
    assert set(board.flags) == set(toolchain.NAMES)
    assert board.runner in runners.names()
    assert 1e6 < board.instructions_per_second < 1e9


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", boards.names())
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
    assert result.instructions_per_frame > 10_000


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


def test_both_compilers_warnings_are_errors(tmp_path: Path) -> None:
    need_compiler()
    FAKE.write(tmp_path)
    with (tmp_path / "kws_model.c").open("a") as file:
        file.write("static int never_used(int a) { return 1; }\n")
    for tools in toolchain.available():
        with pytest.raises(KwsError, match="never_used"):
            build.build(
                tmp_path, boards.load("qemu-m4"), tmp_path / "o", compiler=tools.name
            )


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
    assert fit.measure(image.elf, board) == image.fit


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + b"\xff" * 99]
)
def test_fit_refuses_what_is_not_an_image(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.elf"
    file.write_bytes(content)
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
