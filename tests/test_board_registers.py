"""Real boards' firmware on models of their registers: what an order of events, a clock
that does not start or a bootloader's leftovers do to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from board_models.machine import Asleep
from board_models.nrf52840 import END, STARTED, Nrf52840
from elftools.elf.elffile import ELFFile
from fake_model import LABELS, FakeModel, tone
from toolbox import need_compiler

from kws.deploy import boards, build, monitor, toolchain
from kws.deploy.boards import BOARDS

NRF = ("nano33ble", "nrf52840dk")
HALF = 160


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The firmware of each board, with a stand-in for the model."""
    need_compiler()
    folder = tmp_path_factory.mktemp("images")
    model = FakeModel().write(folder / "model")
    return {
        name: build.build(model, boards.load(name), folder / name).elf for name in NRF
    }


def words() -> np.ndarray:
    """Silence while the microphone settles, then the stand-in's two words."""
    return np.concatenate(
        [np.zeros(6400, np.int16), tone(300, 20000), tone(5000, 24000)]
    )


@pytest.mark.parametrize(
    "events",
    [((END, STARTED),), ((END,), (STARTED,)), ((STARTED,), (END,))],
    ids=["together", "end_first", "started_first"],
)
@pytest.mark.parametrize("name", NRF)
def test_nrf_halves_are_whole_in_any_order_of_events(
    name: str, events: tuple[tuple[str, ...], ...], images: dict[str, Path]
) -> None:
    """Every half-buffer that is handed over is the next one, and complete."""
    rng = np.random.default_rng(1)
    audio = rng.integers(-3000, 3000, 1000 * HALF).astype(np.int16)
    chip = Nrf52840(images[name], boards.load(name), audio, events)
    heard: list[np.ndarray] = []

    def half_buffer() -> None:
        data = chip.core.mem_read(chip.argument(0), 2 * HALF)
        heard.append(np.frombuffer(bytes(data), "<i2"))

    chip.at("live_half_buffer", half_buffer)
    with pytest.raises(Asleep):
        chip.run()
    whole = audio.reshape(-1, HALF)
    wrong = sum(not np.array_equal(a, b) for a, b in zip(heard, whole, strict=False))
    assert (len(heard), wrong) == (1000, 0)


@pytest.mark.parametrize("uicr", [0xFFFFFF5A, 0xFFFFFF00, 0xFFFFFFFF])
@pytest.mark.parametrize("name", NRF)
def test_nrf_keeps_the_debug_port_as_its_owner_wants_it(
    name: str, uicr: int, images: dict[str, Path]
) -> None:
    """Revision 3 locks it after each reset unless the firmware says what UICR says."""
    chip = Nrf52840(images[name], boards.load(name))
    chip.values["UICR_APPROTECT"] = uicr
    with pytest.raises(Asleep):
        chip.run()
    assert chip.order("APPROTECT_DISABLE") == [f"APPROTECT_DISABLE={uicr:#x}"]
    first = next(w for w, _ in chip.writes if w not in chip.core_names)
    assert first == "APPROTECT_DISABLE"  # whatever comes next may hang


@pytest.mark.parametrize("compiler", toolchain.NAMES)
def test_nrf_easydma_gets_whole_words(compiler: str, tmp_path: Path) -> None:
    """An array of int16 alone may lie at any even address."""
    need_compiler(compiler)
    target = boards.load("nrf52840dk")
    tools, out = toolchain.find(compiler), tmp_path / "nrf52840.o"
    common, include = BOARDS / "common", BOARDS.parent / "include"
    command = [*tools.command, *target.flags[compiler], *toolchain.COMMON_FLAGS]
    command += [*toolchain.EXTRA_FLAGS[compiler], f"-I{common}/include"]
    command += [f"-I{include}", f"-I{common}", f"-I{target.folder}"]
    command += ["-c", str(common / "nrf52840.c"), "-o", str(out)]
    subprocess.run(command, check=True)
    with out.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".bss.halves")
        assert section["sh_addralign"] >= 4


@pytest.mark.parametrize("name", NRF)
def test_nrf_hears_words(name: str, images: dict[str, Path]) -> None:
    chip = Nrf52840(images[name], boards.load(name), words())
    with pytest.raises(Asleep):
        chip.run()
    said = monitor.parse(chip.text.decode())
    assert said.selftest is True
    assert said.errors == []
    assert [event.word for event in said.events] == list(LABELS[2:])
