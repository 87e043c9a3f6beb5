"""kws build's files: each says the same of what flash is to hold."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_model import FakeModel
from toolbox import need_compiler, skip_or_fail

from kws.cli import cli
from kws.deploy import boards, build, elf, formats, uf2
from kws.deploy.elf import Segment

FAKE = FakeModel()


def read_hex(text: str) -> dict[int, int]:
    """Address -> byte, by the format's definition."""
    found: dict[int, int] = {}
    base, ended = 0, False
    for line in text.splitlines():
        assert line[0] == ":" and not ended
        record = bytes.fromhex(line[1:])
        assert sum(record) % 256 == 0
        count, address, kind = record[0], int.from_bytes(record[1:3], "big"), record[3]
        data = record[4:-1]
        assert len(data) == count
        if kind in (2, 4):  # the older form is objcopy's where it is enough
            base = int.from_bytes(data, "big") << (16 if kind == 4 else 4)
        elif kind == 0:
            assert address + count <= 0x10000
            for i, byte in enumerate(data):
                assert base + address + i not in found
                found[base + address + i] = byte
        else:
            assert (kind, count) == (1, 0)
            ended = True
    assert ended
    return found


def test_what_lies_beside_an_image_is_of_that_image(tmp_path: Path) -> None:
    """Or goes: a build that ends before its last file leaves none of the one before."""
    need_compiler()
    board = boards.load("pico")
    image = build.build(FAKE.write(tmp_path / "model"), board, tmp_path).elf
    names = {file.path.name for file in formats.write(image, board)} | {"main.map"}
    assert {path.name for path in tmp_path.glob("main.*")} == names
    other = FakeModel(expected_shift=1).write(tmp_path / "other")
    build.build(other, board, tmp_path)
    left = {path.name for path in tmp_path.glob("main.*")}
    assert left == {"main.elf", "main.map"}


@pytest.mark.parametrize("name", boards.names())
def test_every_format_holds_the_image(name: str, tmp_path: Path) -> None:
    need_compiler()
    board = boards.load(name)
    image = build.build(FAKE.write(tmp_path / "model"), board, tmp_path).elf
    files = {file.path.suffix: file for file in formats.write(image, board)}
    assert set(files) >= {".elf", ".hex"}
    assert (".uf2" in files) == (name in ("pico", "pico2"))
    assert (".bin" in files) == (name != "qemu-m55")  # its vectors lie elsewhere
    segments = elf.read(image).segments
    wanted = {s.address + i: byte for s in segments for i, byte in enumerate(s.data)}
    assert read_hex(files[".hex"].path.read_text()) == wanted
    assert all(file.bytes == file.path.stat().st_size for file in files.values())
    if ".bin" in files:
        flat = files[".bin"].path.read_bytes()
        start = min(wanted)
        assert f"{start:#010x}" in files[".bin"].note
        assert all(flat[at - start] == byte for at, byte in wanted.items())
        assert len(flat) == max(wanted) - start + 1
    if ".uf2" in files:
        pages = dict(uf2.decode(files[".uf2"].path.read_bytes()).pages)
        assert all(pages[at & -256][at % 256] == byte for at, byte in wanted.items())


def test_objcopy_says_the_same(tmp_path: Path) -> None:
    objcopy = shutil.which("arm-none-eabi-objcopy")
    if objcopy is None:
        skip_or_fail("arm-none-eabi-objcopy is not installed")
    board = boards.load("nano33ble")
    image = build.build(FAKE.write(tmp_path / "model"), board, tmp_path).elf
    formats.write(image, board)
    for kind, suffix in (("binary", ".bin"), ("ihex", ".hex")):
        out = tmp_path / f"objcopy{suffix}"
        subprocess.run([objcopy, "-O", kind, str(image), str(out)], check=True)
        ours = image.with_suffix(suffix)
        if kind == "binary":
            assert ours.read_bytes() == out.read_bytes()
        else:
            text = [line for line in out.read_text().splitlines() if line[7:9] != "05"]
            kept = [line for line in text if line[7:9] != "03"]  # where it starts
            assert read_hex(ours.read_text()) == read_hex("\n".join(kept))


def test_a_record_ends_with_its_64_kilobytes() -> None:
    data = bytes(range(40))
    found = read_hex(formats.intel_hex((Segment(0x1FFF0 + 8, data),)))
    assert found == {0x1FFF8 + i: byte for i, byte in enumerate(data)}
    assert formats.binary((Segment(0, b"a"), Segment(0x10000, b"b"))) is None


def test_kws_build_names_its_files(tmp_path: Path) -> None:
    need_compiler()
    command = ["build", "kwt-tiny", "--board", "pico", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli, [*command, "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    for kind in ("elf", "bin", "hex", "uf2"):
        assert Path(table[kind]).stat().st_size == table["file_bytes"][kind] > 10_000
    shown = CliRunner().invoke(cli, command).output
    assert "main.uf2" in shown and "USB drive" in shown
