"""Real boards' firmware on models of their registers: what an order of events, a clock
that does not start or a bootloader's leftovers do to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_models.machine import Asleep, Machine, arm, unicorn
from board_models.nrf52840 import DISCONNECTED, END, STARTED, Nrf52840
from board_models.rp2350 import ISOLATED, Rp2350, WatchdogReset
from board_models.stm32l475 import Stm32l475
from elftools.elf.elffile import ELFFile
from fake_model import LABELS, FakeModel, tone
from toolbox import need_compiler

from kws.deploy import boards, build, command, frame, monitor, toolchain
from kws.deploy.boards import BOARDS

NRF = ("nano33ble", "nrf52840dk")
STM = "b-l475e-iot01a"
PICO2 = "pico2"
PARTS = (*NRF, STM, PICO2)
HALF = 160
NRF_GAIN, PICO2_GAIN = 10, 16  # board_config.h: times
SETTLE = dict.fromkeys((*NRF, STM), 30) | {PICO2: 50}  # ... half-buffers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The firmware of each board, with a stand-in for the model."""
    need_compiler()
    folder = tmp_path_factory.mktemp("images")
    model = FakeModel().write(folder / "model")
    return {
        name: build.build(model, boards.load(name), folder / name).elf for name in PARTS
    }


def nrf(name: str, images: dict[str, Path], *more: Any, **options: Any) -> Nrf52840:
    return Nrf52840(images[name], boards.load(name), *more, **options)


def stm(images: dict[str, Path], *more: Any, **options: Any) -> Stm32l475:
    return Stm32l475(images[STM], boards.load(STM), *more, **options)


def pico2(images: dict[str, Path], *more: Any, **options: Any) -> Rp2350:
    return Rp2350(images[PICO2], boards.load(PICO2), *more, **options)


def four_times(audio: np.ndarray) -> np.ndarray:
    """At 64 kHz: straight lines between samples."""
    return np.interp(np.arange(4 * len(audio)) / 4, np.arange(len(audio)), audio)


def of_12_bits(audio: np.ndarray) -> np.ndarray:
    """At 64 kHz, as the Pico's converter gives it, around half its supply."""
    return (2048 + np.rint(four_times(audio))).astype(np.uint16)


def part(name: str, image: Path, **options: Any) -> Any:
    """The model of a board, whose microphone gives nothing."""
    kind: Any = {STM: Stm32l475, PICO2: Rp2350}.get(name, Nrf52840)
    return kind(image, boards.load(name), **options)


def quiet(name: str, images: dict[str, Path], seconds: float) -> Any:
    """A board that hears silence for so long."""
    silence = np.zeros(round(16000 * seconds), np.int16)
    if name == STM:
        return stm(images, np.repeat(silence, 4))
    return (
        pico2(images, of_12_bits(silence))
        if name == PICO2
        else nrf(name, images, silence)
    )


def until_asleep(chip: Machine) -> str:
    """Run a chip until nothing happens any more; what it has said."""
    with pytest.raises(Asleep):
        chip.run()
    return chip.text.decode()


def said_last(chip: Machine) -> str | None:
    """The last line, whose frame has to be right."""
    last = chip.text.decode().rstrip().splitlines()[-1]
    return frame.Frames().take(last)[0]


def words() -> np.ndarray:
    """Silence while the microphone settles, then the stand-in's two words."""
    quiet = np.zeros(6400, np.int16)
    return np.concatenate([quiet, tone(300, 20000), tone(5000, 24000)])


def handed_over(chip: Machine) -> list[np.ndarray]:
    """Fills with the half-buffers that go to the ring."""
    heard: list[np.ndarray] = []

    def half_buffer() -> None:
        data = chip.core.mem_read(chip.argument(0), 2 * HALF)
        heard.append(np.frombuffer(bytes(data), "<i2"))

    chip.at("live_half_buffer", half_buffer)
    return heard


def levelled(raw: np.ndarray, shift: int, gain: int, one: int) -> np.ndarray:
    """live_sample: the DC offset off, then the gain, then int16."""
    dc, out = 0, np.empty(len(raw), np.int16)
    for i, value in enumerate(raw.tolist()):
        sample = value - (dc >> shift)
        dc += sample
        scaled = int(sample * gain / one)  # towards zero, as C does
        out[i] = max(-32768, min(32767, scaled))
    return out


# --- the microphone -------------------------------------------------------------------


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
    chip = nrf(name, images, audio, events)
    heard = handed_over(chip)
    until_asleep(chip)
    whole = levelled(audio, 10, NRF_GAIN, 1).reshape(-1, HALF)
    wrong = sum(not np.array_equal(a, b) for a, b in zip(heard, whole, strict=False))
    assert (len(heard), wrong) == (1000, 0)


@pytest.mark.parametrize("name", (*NRF, STM))
def test_a_dc_offset_takes_no_room_from_the_signal(
    name: str, images: dict[str, Path]
) -> None:
    """A tenth of full scale, which the gain alone would bring to the end of int16."""
    hertz, seconds = 1000, 1.2
    rate, full, gain = (64000, 390625, 1) if name == STM else (16000, 32767, NRF_GAIN)
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.6 * 32767 / gain * np.sin(2 * np.pi * hertz * time)
    raw = np.rint(full // 10 + wave).astype(int)
    if name == STM:
        chip: Machine = stm(images, raw)
    else:
        chip = nrf(name, images, raw.astype(np.int16))
    heard = handed_over(chip)
    until_asleep(chip)
    settled = np.concatenate(heard[80:]).astype(float)
    assert abs(settled.mean()) < 100
    assert np.abs(settled).max() < 0.65 * 32767
    # A sine: clipping would add power to its odd multiples.
    spectrum = np.abs(np.fft.rfft(settled * np.hanning(len(settled))))
    bin_of = len(settled) / 16000
    tone_bin, third = (round(k * hertz * bin_of) for k in (1, 3))
    assert spectrum[tone_bin] > 3000 * spectrum[third]


@pytest.mark.parametrize("name", PARTS)
def test_a_board_hears_words(name: str, images: dict[str, Path]) -> None:
    audio = words()
    if name == STM:
        chip: Machine = stm(images, np.rint(12 * four_times(audio)).astype(int))
    elif name == PICO2:
        audio = np.concatenate([np.zeros(3200, np.int16), audio])  # it settles longer
        chip = pico2(images, of_12_bits(audio / PICO2_GAIN))
    else:
        chip = nrf(name, images, np.rint(audio / NRF_GAIN).astype(np.int16))
    said = monitor.parse(until_asleep(chip))
    assert said.selftest is True
    assert said.errors == []
    assert [event.word for event in said.events] == list(LABELS[2:])
    assert all(beat.overruns == 0 for beat in said.beats)
    assert len(said.beats) >= 2


def test_stm32_lost_audio_is_counted_and_the_dma_starts_again(
    images: dict[str, Path],
) -> None:
    rng = np.random.default_rng(1)
    chip = stm(images, rng.integers(-30000, 30000, 300 * 4 * HALF))
    heard = handed_over(chip)
    chip.run(60)
    chip.overrun = 1  # the DFSDM had a sample before the last one was fetched
    chip.run(2)
    assert chip.overrun == 0
    chip.half()
    chip.half()  # both halves, before the interrupt is served
    chip.run(1)
    chip.fail()
    chip.run(1)
    assert chip.values["DMA1_CCR4"] & 1
    assert chip.order("DMA1_CNDTR4")[-1] == f"DMA1_CNDTR4={8 * HALF:#x}"
    chip.restarted()
    before = len(heard)
    text = until_asleep(chip)
    assert len(heard) > before + 100
    assert monitor.parse(text).beats[-1].overruns == (1 + 2 + 2) * HALF


@pytest.mark.parametrize("late", [1, 2, 3, 20])
def test_pico2_lost_audio_is_counted(late: int, images: dict[str, Path]) -> None:
    """Its DMA goes round whether or not an interrupt is served; after two half-buffers
    it is where it was."""
    rng = np.random.default_rng(1)
    chip = pico2(images, rng.integers(1500, 2500, 200 * 4 * HALF).astype(np.uint16))
    heard = handed_over(chip)
    chip.run(100)
    before = len(heard)
    for _ in range(late):  # and the one before waits for its interrupt still
        chip.half()
    chip.run(30)
    assert len(heard) > before + 10
    text = until_asleep(chip)
    assert len(heard) == 200 - late
    assert monitor.parse(text).beats[-1].overruns == late * HALF


@pytest.mark.parametrize("late", [1, 2, 5])
def test_nrf_lost_audio_is_counted(late: int, images: dict[str, Path]) -> None:
    """EasyDMA fills the same half-buffer again; the one before it is whole."""
    rng = np.random.default_rng(1)
    audio = rng.integers(-3000, 3000, 200 * HALF).astype(np.int16)
    chip = nrf("nrf52840dk", images, audio)
    heard = handed_over(chip)
    chip.run(100)
    before = len(heard)
    for _ in range(late):  # and the one before waits for its interrupt still
        chip.half()
    chip.run(30)
    text = until_asleep(chip)
    assert len(heard) == 200 - late
    assert monitor.parse(text).beats[-1].overruns == late * HALF
    # What was lost is what came after the one that was handed over next.
    gone = slice((before + 1) * HALF, (before + 1 + late) * HALF)
    kept = np.delete(audio, np.r_[gone])
    whole = levelled(kept, 10, NRF_GAIN, 1).reshape(-1, HALF)
    assert all(np.array_equal(a, b) for a, b in zip(heard, whole, strict=True))


# --- sleep ----------------------------------------------------------------------------


def test_pico2_sleeps_at_a_lower_clock(images: dict[str, Path]) -> None:
    """And works at its own: the divider is back before an interrupt is let in. The
    serial port's clock stays (its model looks at it for every byte)."""
    chip = quiet(PICO2, images, 1)
    until_asleep(chip)
    assert chip.asleep_hz == {18_750_000}
    assert chip.awake_hz == {150_000_000}


def test_stm32_flash_has_no_clock_in_sleep(images: dict[str, Path]) -> None:
    chip = stm(images)
    until_asleep(chip)
    asleep = chip.values["RCC_AHB1SMENR"]
    assert asleep & 1 << 8 == 0
    assert asleep & (1 << 0 | 1 << 9) == 1 << 0 | 1 << 9  # DMA1 and SRAM1 go on


# --- text -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_text_goes_out_while_the_firmware_works(
    name: str, images: dict[str, Path]
) -> None:
    """In these models the serial port moves while the core sleeps; who waits for it in
    a loop is counted."""
    chip = quiet(name, images, 3)
    text = until_asleep(chip)
    said = monitor.parse(text)
    assert said.selftest is True
    assert len(said.beats) >= 2
    assert text.count("\r\n") == text.count("\n") > 3
    assert chip.stalls == 0


@pytest.mark.parametrize("name", PARTS)
def test_a_stopped_board_has_said_why_and_sleeps(name: str, tmp_path: Path) -> None:
    """The self-test fails: the text is out, and no interrupt is left to wake the core,
    although one is pending."""
    need_compiler()
    board = boards.load(name)
    model = FakeModel(expected_shift=1).write(tmp_path / "model")
    chip = part(name, build.build(model, board, tmp_path).elf)
    chip.on_write["NVIC_ICPR1"] = lambda value: chip.pending.update(range(64))
    with pytest.raises(Asleep):
        chip.run()
    assert said_last(chip) == "kws selftest failed"
    assert chip.pending  # of a part that goes on asking
    assert not chip.enabled


@pytest.mark.parametrize("name", PARTS)
def test_a_fault_is_told_though_no_interrupt_can_run(name: str, tmp_path: Path) -> None:
    """From the fault's handler the ring is emptied by asking."""
    need_compiler()
    board = boards.load(name)
    image = build.build(FakeModel().write(tmp_path / "m"), board, tmp_path).elf
    chip = part(name, image)

    def fault() -> None:
        chip.core.reg_write(arm.UC_ARM_REG_PRIMASK, 1)
        chip.core.reg_write(arm.UC_ARM_REG_PC, chip.symbol("kws_fault_handler") | 1)

    chip.at("kws_selftest", fault)
    text = until_asleep(chip)
    assert "kws boot " in text
    assert "kws fault exception=" in text
    assert monitor.parse(text).fault is not None


# --- start-up -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NRF)
def test_nrf_takes_over_from_a_bootloader(name: str, images: dict[str, Path]) -> None:
    """What Arduino's may leave: an MPU, masked interrupts, a serial port with flow
    control and a receiver, the USB device connected."""
    chip = nrf(name, images, words())
    chip.values.update(
        {
            "MPU_CTRL": 5,
            "UARTE0_ENABLE": 8,
            "UARTE0_CONFIG": 0xF,
            "UARTE0_INTENSET": 0xFFFFFFFF,
            "USBD_ENABLE": 1,
            "USBD_USBPULLUP": 1,
        }
    )
    for line, pin in (("RTS", 5), ("CTS", 7), ("RXD", 8)):
        chip.values[f"UARTE0_PSEL_{line}"] = pin
    chip.enabled = {39, 45}
    chip.pending = {39}
    chip.core.reg_write(arm.UC_ARM_REG_BASEPRI, 0x20)
    chip.core.reg_write(arm.UC_ARM_REG_FAULTMASK, 1)
    chip.core.reg_write(arm.UC_ARM_REG_PRIMASK, 1)
    said = monitor.parse(until_asleep(chip))
    assert said.selftest is True
    assert len(said.beats) >= 2  # so interrupts arrive
    assert chip.writes[0] == ("MPU_CTRL", 0)  # before RAM is written
    assert chip.values["UARTE0_CONFIG"] == 0
    assert chip.values["UARTE0_PSEL_RXD"] == {"nano33ble": 42, "nrf52840dk": 8}[name]
    for line in ("RTS", "CTS"):
        assert chip.values[f"UARTE0_PSEL_{line}"] & DISCONNECTED
    names = [write for write, _ in chip.writes]
    assert names.index("UARTE0_ENABLE") < names.index("UARTE0_PSEL_TXD")
    assert (chip.values["USBD_ENABLE"], chip.values["USBD_USBPULLUP"]) == (0, 0)
    assert not chip.enabled & {39, 45}


def clockless(name: str, images: dict[str, Path]) -> Machine:
    if name == STM:
        return stm(images, pll=False)
    if name == PICO2:
        return pico2(images, crystal=False)
    return nrf(name, images, crystal=False)


@pytest.mark.parametrize("name", PARTS)
def test_a_clock_that_does_not_start_is_told(
    name: str, images: dict[str, Path]
) -> None:
    """The LED flashes in threes, then the serial port says so, as far as it can."""
    chip = clockless(name, images)
    text = until_asleep(chip)
    assert said_last(chip) == "kws error reason=clock"
    assert text.count("\n") == 1
    if name == STM:
        on = [value == 1 << 14 for write, value in chip.writes if write == "GPIOB_BSRR"]
        assert chip.values["USART1_BRR"] == 35  # still at 4 MHz
    elif name == PICO2:
        led = ("SIO_GPIO_OUT_SET", "SIO_GPIO_OUT_CLR")
        on = [write == led[0] for write, value in chip.writes if write in led]
        assert not chip.values["PADS_BANK0_GPIO25"] & ISOLATED
    else:
        lit = "P0_OUTSET" if name == "nano33ble" else "P0_OUTCLR"
        on = [w == lit for w, v in chip.writes if v == 1 << 13 and w[:6] == "P0_OUT"]
    assert on[1:9] == [True, False, True, False, True, False, False, False]
    assert on[-1]


def test_stm32_locks_its_oscillator_to_the_crystal(images: dict[str, Path]) -> None:
    chip = stm(images)
    assert "crystal=none" not in until_asleep(chip)
    assert chip.values["RCC_CR"] & 1 << 2
    order = [name for name, _ in chip.writes if name in ("RCC_BDCR", "RCC_PLLCFGR")]
    assert order == ["RCC_BDCR", "RCC_PLLCFGR"]  # before the PLL runs from it
    # Without one it works on, and says so.
    chip = stm(images, crystal=False)
    text = until_asleep(chip)
    assert re.match(
        r"kws clock crystal=none error_percent=3 #0 \w{4}\r\nkws boot ", text
    )
    assert not chip.values["RCC_CR"] & 1 << 2
    assert "kws selftest ok" in text


def test_the_dc_dc_regulator_is_on_where_its_coil_is(images: dict[str, Path]) -> None:
    for name in NRF:
        chip = nrf(name, images)
        until_asleep(chip)
        has = name == "nrf52840dk"
        assert chip.order("POWER_DCDCEN") == ["POWER_DCDCEN=0x1"] * has
        # An estimate is of what the firmware does, or is not made.
        power = boards.load(name).power
        assert (power is not None and "DC/DC on" in power.source) == has


# --- the debug port, EasyDMA ----------------------------------------------------------


@pytest.mark.parametrize("uicr", [0xFFFFFF5A, 0xFFFFFF00, 0xFFFFFFFF])
@pytest.mark.parametrize("name", NRF)
def test_nrf_keeps_the_debug_port_as_its_owner_wants_it(
    name: str, uicr: int, images: dict[str, Path]
) -> None:
    """Revision 3 locks it after each reset unless the firmware says what UICR says."""
    chip = nrf(name, images)
    chip.values["UICR_APPROTECT"] = uicr
    until_asleep(chip)
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


# --- resets, the stack ----------------------------------------------------------------

RESETS = {
    "nrf52840dk": (
        "POWER_RESETREAS",
        {0: "power", 1: "pin", 2: "watchdog", 4: "software"},
    )
}
RESETS["nrf52840dk"][1].update({8: "lockup", 1 << 16: "wake", 3: "watchdog"})
RESETS[PICO2] = (
    "WATCHDOG_REASON",
    {1: "watchdog", 2: "software", 1 << 16: "power", 1 << 17: "power", 1 << 18: "pin"},
)
RESETS[STM] = (
    "RCC_CSR",
    {
        3 << 26: "power",
        1 << 26: "pin",
        5 << 26: "software",
        9 << 26: "watchdog",
    },
)


@pytest.mark.parametrize(
    ("name", "register", "flags", "word"),
    [
        (name, register, flags, word)
        for name, (register, words) in RESETS.items()
        for flags, word in words.items()
    ],
)
def test_a_board_says_why_it_started(
    name: str, register: str, flags: int, word: str, images: dict[str, Path]
) -> None:
    chip = part(name, images[name])
    if name == PICO2 and flags > 3:
        register = "POWMAN_CHIP_RESET"
    chip.values[register] = flags
    boot = monitor.parse(until_asleep(chip)).boot
    assert boot["reset"] == word
    assert boot["board"] == name
    assert boot["clock_hz"] == str(boards.load(name).clock_hz)
    if name == PICO2:
        return  # its reasons go by themselves
    # The next start's reasons are its own: RMVF, or ones written back.
    cleared = flags | 1 << 23 if name == STM else flags
    assert (register, cleared) in chip.writes


@pytest.mark.parametrize("name", (*NRF, STM))
def test_a_dead_canary_stops_the_board(name: str, images: dict[str, Path]) -> None:
    """This model has no MPU, as a part may have none."""
    chip = quiet(name, images, 4)
    chip.run(150)
    assert chip.values["MPU_RASR"] == 0x16000009  # read-only, no code, 32 bytes
    bottom = chip.board.ram_origin
    assert chip.values["MPU_RBAR"] == bottom | 1 << 4
    assert "reason=stack" not in chip.text.decode()
    chip.core.mem_write(bottom, b"\0\0\0\0")
    text = until_asleep(chip)
    assert "kws error reason=stack" in text
    assert said_last(chip) == "kws error reason=stack"


# --- the watchdog ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_the_watchdog_is_fed_by_audio_alone(name: str, images: dict[str, Path]) -> None:
    """Text wakes the core as well, and DMA errors; neither is audio."""
    chip = quiet(name, images, 2)
    key, meal = "WDT_RR0", 0x6E524635
    if name not in NRF:
        key, meal = {STM: ("IWDG_KR", 0xAAAA), PICO2: ("WATCHDOG_LOAD", 8_000_000)}[
            name
        ]

    def fed() -> int:
        return sum(write == (key, meal) for write in chip.writes)

    heard = handed_over(chip)
    until_asleep(chip)
    settle = len(heard) - SETTLE[name]  # what was thrown away is no audio yet
    first = 0 if name in NRF else 1  # at its start
    assert settle - 3 <= fed() - first <= settle
    if name == STM:
        wanted = ["IWDG_KR=0xcccc", "IWDG_KR=0x5555", "IWDG_PR=0x6", "IWDG_RLR=0x3e7"]
        order = chip.order("IWDG_KR", "IWDG_PR", "IWDG_RLR")
        assert order[:5] == [*wanted, "IWDG_KR=0xaaaa"]
        assert chip.values["DBGMCU_APB1_FZR1"] & 1 << 12
        before = fed()
        for _ in range(5):
            chip.fail()
            until_asleep(chip)
        assert fed() == before
    elif name == PICO2:
        order = chip.order("PSM_WDSEL", "WATCHDOG_LOAD", "WATCHDOG_CTRL")
        assert order[:2] == ["PSM_WDSEL=0x1fffff3", "WATCHDOG_LOAD=0x7a1200"]
        assert order[2] == "WATCHDOG_CTRL=0x47000000"
        with pytest.raises(WatchdogReset):
            for _ in range(800):
                chip.stands_still()
    else:
        order = chip.order("WDT_CONFIG", "WDT_CRV", "WDT_RREN", "WDT_TASKS_START")
        assert order == [
            "WDT_CONFIG=0x1",
            "WDT_CRV=0x3ffff",
            "WDT_RREN=0x1",
            "WDT_TASKS_START=0x1",
        ]
    # It is started once there is a microphone to wait for.
    names = [write for write, _ in chip.writes]
    begins, starts = "PDM_TASKS_START", "WDT_TASKS_START"
    if name == STM:
        begins, starts = "DMA1_CCR4", "IWDG_KR"
    elif name == PICO2:
        begins, starts = "DMA_CH0_CTRL_TRIG", "WATCHDOG_CTRL"
    assert names.index(begins) < names.index(starts)


# --- commands -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_commands_come_in_by_the_serial_port(
    name: str, images: dict[str, Path]
) -> None:
    """Byte by byte, between half-buffers; the gain is told, set, and heard."""
    audio = np.rint(tone(500, 16000 * 2, 50)).astype(np.int16)
    if name == STM:
        chip: Any = stm(images, 12 * np.repeat(audio.astype(int), 4))
    else:
        chip = (
            pico2(images, of_12_bits(audio))
            if name == PICO2
            else nrf(name, images, audio)
        )
    heard = handed_over(chip)
    while len(heard) < 60:
        chip.run(20)
    before = np.abs(np.concatenate(heard[50:])).max()
    told = ["query", "gain value=40", "gain value=101", "gain value=0"]
    sent = [frame.framed(f"kws {text}", i) for i, text in enumerate(told)]
    for line in [*sent, sent[1].replace("40", "41")]:
        data = line.encode() + b"\r\n"
        for at in range(0, len(data), 30):  # what a FIFO takes
            chip.receive(data[at : at + 30])
            chip.run(2)
        arrived = len(heard)
        while len(heard) < arrived + 3:  # the loop looks when audio wakes it
            chip.run(20)
    said = monitor.parse(until_asleep(chip))
    assert [reply["status"] for reply in said.replies] == [
        "ok",
        "ok",
        "range",
        "range",
        "frame",
    ]
    assert said.state["gain"] == str({STM: 12, PICO2: PICO2_GAIN}.get(name, NRF_GAIN))
    after = np.abs(np.concatenate(heard[-10:])).max()
    assert 0.9 < after / before / (40 / int(said.state["gain"])) < 1.1
    assert chip.stalls == 0


@pytest.mark.parametrize("name", PARTS)
def test_the_microphones_interrupt_is_counted_and_lets_bytes_in(
    name: str, images: dict[str, Path]
) -> None:
    """At 115,200 baud a byte takes 87 us; the next one but one is written over it (on
    an RP2350 the 33rd). Two cycles an instruction are more than these cores take. The
    whole interrupt is what board.toml says, before a model is called fast enough."""
    chip = quiet(name, images, 0.6)
    handler = chip.symbol("kws_interrupt_handler")
    longest = count = 0
    most = whole = 0

    def step(core: Any, address: int, *_: object) -> None:
        nonlocal longest, count, most, whole
        if address == handler:
            count = whole = 0
        count, whole = count + chip.handling, whole + chip.handling
        longest, most = max(longest, count), max(most, whole)

    status = {STM: "USART1_ISR", PICO2: "UART0_UARTFR"}.get(name, "UARTE0_EVENTS_ENDRX")
    told = chip.on_read.get(status, lambda: chip.values.get(status, 0))

    def looked_at() -> int:
        nonlocal count
        count = 0
        return int(told())

    chip.on_read[status] = looked_at
    chip.core.hook_add(unicorn.UC_HOOK_CODE, step)
    until_asleep(chip)
    bytes_held = 32 if name == PICO2 else 1
    assert 0 < 2 * longest / chip.board.clock_hz < bytes_held * 10 / 115200
    assert 0.75 < most / chip.board.microphone_instructions <= 1


@pytest.mark.parametrize("name", PARTS)
def test_commands_without_a_pause_wait_for_the_serial_port(
    name: str, images: dict[str, Path]
) -> None:
    """Their answers are longer than they are, and than the buffer for text: what waits
    is the next command, not the loop, which has to take audio out of its ring."""
    chip = quiet(name, images, 4)
    chip.run(200)
    told = "".join(f"{frame.framed('kws query', i)}\n" for i in range(7)).encode()
    for at in range(0, len(told), 30):  # what a FIFO takes
        chip.receive(told[at : at + 30])
        chip.run(1)
    said = monitor.parse(until_asleep(chip))
    assert [reply["to"] for reply in said.replies] == [str(i) for i in range(7)]
    assert chip.stalls == 0


@pytest.mark.parametrize("name", PARTS)
def test_the_selftest_command_resets_the_part(
    name: str, images: dict[str, Path]
) -> None:
    class Reset(Exception):
        pass

    # SYSRESETREQ, or where that resets the core alone, the watchdog's trigger.
    key = 1 << 31 if name == PICO2 else 0x05FA0004

    def reset(value: int) -> None:
        if value & 1 << 30:  # the watchdog starts
            return
        assert value == key
        raise Reset

    chip = quiet(name, images, 1)
    chip.on_write["SCB_AIRCR"] = chip.on_write["WATCHDOG_CTRL"] = reset
    chip.receive(command.line("selftest", 7, LABELS).encode() + b"\n")
    with pytest.raises(Reset):
        chip.run()
    (reply,) = monitor.parse(chip.text.decode()).replies  # out before the reset
    assert reply == {"to": "7", "status": "ok"}
    if name == PICO2:
        assert chip.values["PSM_WDSEL"] == 0x1FFFFF3
