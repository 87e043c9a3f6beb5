"""UF2 files: round trip, what is refused, and the Pico's image in an emulator."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_model import LABELS, FakeModel, tone
from toolbox import need_compiler

from kws.deploy import boards, build, command, elf, monitor, toolchain, uf2
from kws.deploy.elf import Segment
from kws.errors import KwsError

SECONDS = 8  # of the emulated chip's time, at most
FAKE = FakeModel()
RP2040 = Path(__file__).parent / "rp2040"
FLASH = 0x10000000
SEGMENTS = (
    Segment(FLASH, bytes(range(256)) * 3 + b"abc"),
    Segment(FLASH + 0x1010, b"later"),
)


def test_round_trip_keeps_every_byte_and_erases_the_gaps() -> None:
    read = uf2.decode(uf2.encode(SEGMENTS))
    assert read.family == uf2.RP2040
    assert [page[0] - FLASH for page in read.pages] == [0, 256, 512, 768, 0x1000]
    pages = dict(read.pages)
    content = b"".join(data for _, data in read.pages[:4])
    assert content == SEGMENTS[0].data + b"\xff" * (1024 - len(SEGMENTS[0].data))
    later = pages[FLASH + 0x1000]
    assert later == b"\xff" * 16 + b"later" + b"\xff" * (256 - 21)


def test_blocks_are_as_the_specification_says() -> None:
    data = uf2.encode(SEGMENTS[:1])
    assert len(data) == 4 * 512
    for number in range(4):
        words = struct.unpack_from("<8I", data, number * 512)
        assert words == (
            0x0A324655,
            0x9E5D5157,
            0x2000,  # the last word is a family id
            FLASH + 256 * number,
            256,
            number,
            4,
            0xE48BFF56,
        )
        assert struct.unpack_from("<I", data, number * 512 + 508) == (0x0AB16F30,)


def _changed(at: int, word: int) -> bytes:
    data = bytearray(uf2.encode(SEGMENTS))
    struct.pack_into("<I", data, at, word)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"UF2\n" * 128,
        uf2.encode(SEGMENTS)[:-1],
        uf2.encode(SEGMENTS)[512:],  # the first block is missing
        uf2.encode(SEGMENTS)[:-512],  # the last
        _changed(0, 0),
        _changed(508, 0),
        _changed(12, FLASH + 1),  # not at the start of a page
        _changed(16, 476),  # more content than the chip takes
        _changed(16, 0xFFFFFFFF),
        _changed(512 + 28, 0xE48BFF57),  # two families
    ],
)
def test_what_is_not_a_whole_uf2_is_refused(data: bytes) -> None:
    with pytest.raises(KwsError, match="Not a UF2 file"):
        uf2.decode(data)


def test_nothing_to_write_is_refused() -> None:
    with pytest.raises(KwsError, match="Received: 0"):
        uf2.encode(())


def test_the_checksum_is_crc32_mpeg2() -> None:
    assert uf2.boot2_checksum(b"123456789") == 0x0376E6E7  # the algorithm's check value


def _image(folder: Path, compiler: str, board: str = "pico") -> Path:
    need_compiler(compiler)
    model = FAKE.write(folder / "model")
    return build.build(model, boards.load(board), folder, "main", compiler).elf


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", ["pico", "pico2"])
def test_the_image_has_what_the_boot_rom_wants(
    name: str, compiler: str, tmp_path: Path
) -> None:
    image, board = _image(tmp_path, compiler, name), boards.load(name)
    family: int = board.tools["uf2"]["family"]
    assert family == (uf2.RP2040 if name == "pico" else uf2.RP2350)
    read = uf2.decode(uf2.write(image, tmp_path / "kws.uf2", family).read_bytes())
    assert read.family == family
    pages = dict(read.pages)
    if name == "pico":
        boot2 = pages[FLASH]
        assert struct.unpack("<I", boot2[252:]) == (uf2.boot2_checksum(boot2[:252]),)
        stack, start = struct.unpack_from("<2I", pages[FLASH + 256])
    else:  # a vector table, and a block that says what this is: a loop of one
        stack, start, *rest = struct.unpack("<64I", pages[FLASH])
        at = rest.index(0xFFFFDED3)
        assert rest[at + 1 : at + 5] == [0x10210142, 0x1FF, 0, 0xAB123579]
        assert 0xFFFFDED3 not in rest[at + 1 :]
    assert board.ram_origin < stack <= board.ram_origin + board.ram_bytes
    assert start & 1  # Thumb
    assert start - 1 in range(FLASH + 256, FLASH + 512)
    # All of the image is there, and nothing else.
    for segment in elf.read(image).segments:
        for address in range(segment.address, segment.address + len(segment.data)):
            at = address - segment.address
            assert pages[address & -256][address % 256] == segment.data[at]


@pytest.mark.parametrize(("name", "at"), [("pico", 0), ("pico2", 69)])
def test_an_image_that_would_not_start_is_refused(
    name: str, at: int, tmp_path: Path
) -> None:
    """A wrong checksum; a definition of something else."""
    image = _image(tmp_path, toolchain.find().name, name)
    data = bytearray(image.read_bytes())
    boot = elf.read(image).section(".boot")
    assert boot is not None
    data[boot.offset + at] ^= 1
    image.write_bytes(data)
    with pytest.raises(KwsError, match="would not start it"):
        uf2.write(image, tmp_path / "kws.uf2", boards.load(name).tools["uf2"]["family"])
    assert not (tmp_path / "kws.uf2").exists()


def _emulator() -> Path:
    """The folder whose node_modules holds rp2040js; skips where there is none."""
    if shutil.which("node") is None:
        pytest.skip("node, which the Pico's emulator runs in, is not installed")
    for folder in (RP2040, Path(os.environ.get("KWS_RP2040JS", "/nowhere"))):
        if (folder / "node_modules" / "rp2040js" / "package.json").is_file():
            return folder
    pytest.skip("rp2040js is not installed: npm ci --prefix tests/rp2040")


def _run(image: Path, audio: np.ndarray, folder: Path, *more: object) -> str:
    """What the image says while it hears the audio in the emulator."""
    emulator = _emulator()
    uf2.write(image, folder / "kws.uf2")
    audio.tofile(folder / "audio.raw")
    script = folder / "run.mjs"  # beside the modules that it imports
    shutil.copy(RP2040 / "run.mjs", script)
    (folder / "node_modules").symlink_to(emulator / "node_modules")
    result = subprocess.run(
        ["node", str(script), "kws.uf2", str(SECONDS), "audio.raw", *map(str, more)],
        cwd=folder,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.decode("utf-8", "replace")


def _words() -> np.ndarray:
    """Settle time, then the stand-in's two words."""
    quiet = np.zeros(9000, np.int16)
    return np.concatenate([quiet, tone(300, 20000), tone(5000, 24000)])


@pytest.mark.parametrize("compiler", toolchain.NAMES)
def test_the_pico_boots_and_hears_words_by_its_adc(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boot stage, start-up, clocks, UART, ADC, DMA, filter: all but the analog part.
    And what the last three take is what board.toml says."""
    image = _image(tmp_path, compiler)
    symbols = {symbol.name: symbol.address for symbol in elf.read(image).symbols}
    monkeypatch.setenv("HANDLER", str(symbols["kws_interrupt_handler"] & ~1))
    text = _run(image, _words(), tmp_path)
    taken = re.search(r"the handler takes (\d+) instructions", text)
    assert taken is not None
    told = boards.load("pico").microphone_instructions
    assert 0.75 < int(taken[1]) / told <= 1
    said = monitor.parse(text)
    assert said.boot["hash"] == FAKE.hash
    assert said.boot["app"] == "main"
    assert said.selftest is True
    assert said.errors == []
    assert said.fault is None
    assert [event.word for event in said.events] == list(LABELS[2:])


def test_a_pico_whose_crystal_does_not_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_CRYSTAL", "1")
    text = _run(_image(tmp_path, toolchain.find().name), _words()[:16], tmp_path)
    assert text.startswith("kws error reason=clock #0 ")


def test_a_pico_whose_converter_stands_still_is_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watchdog is fed by audio; the next boot line says that it was the one."""
    monkeypatch.setenv("STANDS_STILL", "1")
    monkeypatch.setattr(f"{__name__}.SECONDS", 13)
    text = _run(_image(tmp_path, toolchain.find().name), _words(), tmp_path)
    before, after = text.split("reset by the watchdog")
    first, second = monitor.parse(before), monitor.parse(after)
    assert "watchdog" not in first.boot.get("reset", "")
    assert len(first.beats) >= 1
    assert second.boot["reset"] == "watchdog"
    assert second.selftest is True


def test_a_pico_that_is_told_to_restart_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its watchdog: SYSRESETREQ would reset the core alone, and the boot line would
    tell the reason of the reset before."""
    monkeypatch.setenv("SEND", command.line("selftest", 7, LABELS))
    text = _run(_image(tmp_path, toolchain.find().name), _words(), tmp_path)
    before, after = text.split("reset by the watchdog")
    assert monitor.parse(before).replies == [{"to": "7", "status": "ok"}]
    again = monitor.parse(after)
    assert again.boot["reset"] == "software"
    assert again.selftest is True


def test_the_picos_dma_keeps_to_its_buffer_while_the_core_stands_still(
    tmp_path: Path,
) -> None:
    """A debugger stops the core, not the converter: 0.2 s are 20 half-buffers."""
    image = _image(tmp_path, toolchain.find().name)
    (raw,) = [symbol for symbol in elf.read(image).symbols if symbol.name == "raw"]
    text = _run(image, _words(), tmp_path, 1.0, raw.address, raw.size)
    match = re.search(
        r"^halted: (\d+) bytes inside, (\d+) outside$", text, re.MULTILINE
    )
    assert match is not None
    assert int(match[1]) > raw.size // 4
    assert int(match[2]) == 0
    said = monitor.parse(text)  # and it goes on
    assert said.errors == []
    assert [event.word for event in said.events][-1:] == list(LABELS[3:])
