"""The boards: every folder of firmware/boards/ with a board.toml (DESIGN D13).

A new board is one new folder; nothing else changes. tests/test_boards.py builds and
boots every board that this registry lists.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kws.errors import KwsError, no_such
from kws.paths import FIRMWARE

BOARDS = FIRMWARE / "boards"
CORES = ("portable", "dsp", "mve")
MAX_NUMBER = 0xFFFFFFFF  # what 32-bit cores address; TOML's may be of any size


def runner_names() -> list[str]:
    """What a board may name as its runner: the modules of kws/deploy/runners."""
    folder = Path(__file__).parent / "runners"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem[0] != "_")


@dataclass(frozen=True)
class Power:
    """[power]: what the part takes, for `kws profile`'s energy estimate.

    Args:
        active_mw: Of the core while it runs at clock_hz from flash, as the firmware
            sets the board up (regulator, cache), in milliwatts.
        source: Where the figure is from, and for what.
        asleep_mw: Of all that stays on while the core sleeps (clocks, microphone,
            serial port, regulator); None: nobody says it of this board.
        asleep_source: Where that is from; "" without.
        supply_v: Volts that both figures hold at, for a battery's life.
    """

    active_mw: float
    source: str
    asleep_mw: float | None = None
    asleep_source: str = ""
    supply_v: float | None = None


@dataclass(frozen=True)
class External:
    """[external]: flash outside the part, which weights could be read from in place.

    Args:
        cache_bytes: Of the cache in front of it.
        source: Where that is from.
    """

    cache_bytes: int
    source: str


@dataclass(frozen=True)
class Usb:
    """[usb]: how the board or its probe is found.

    Args:
        ids: "vendor:product", four hex digits each, of its serial port and its probe.
        baud: Of the serial port.
    """

    ids: tuple[str, ...] = ()
    baud: int = 115200


@dataclass(frozen=True)
class Board:
    """One board.toml, checked.

    Args:
        name: The folder's name.
        folder: The folder.
        title: One line for people.
        part: The microcontroller; of an emulated board, the one whose limits it has.
        runner: Module of kws/deploy/runners/ that puts an image on it.
        core: Kernel variant: `portable`, `dsp` or `mve`.
        clock_hz: Clock of the part.
        cycles_per_instruction: Assumed, for emulators that count instructions.
        microphone_instructions: Of its interrupt, each 10 ms: DC offset, gain, from 64
            to 16 kHz. 0 of an emulated board, whose samples come from a file.
        stack_bytes: Reserved at the start of RAM.
        sources: C files in firmware/boards/ that it shares with others; the C files
            in its own folder come by themselves.
        flash_origin, flash_bytes, ram_origin, ram_bytes: Limits of the real part.
        boot_origin: Where the core looks for its vectors, if not at flash_origin.
        flags: Compiler flags by toolchain name (`gcc`, `zig`).
        tools: The runners' own tables ([qemu] for runner = "qemu"); a second one is
            another tool that can program the board (`kws flash --tool`).
        usb: How to find it.
        linker_script: In firmware/boards/.
        bootloader: What starts the firmware and lies before it in flash; "": nothing.
        power: For the energy estimate, where known.
        external: Of a part whose flash is another chip.
    """

    name: str
    folder: Path
    title: str
    part: str
    runner: str
    core: str
    clock_hz: int
    cycles_per_instruction: float
    stack_bytes: int
    sources: tuple[str, ...]
    flash_origin: int
    flash_bytes: int
    ram_origin: int
    ram_bytes: int
    boot_origin: int | None
    flags: dict[str, tuple[str, ...]]
    tools: dict[str, dict[str, Any]]
    usb: Usb = field(default_factory=Usb)
    linker_script: str = "common/link.ld"
    bootloader: str = ""
    power: Power | None = None
    external: External | None = None
    microphone_instructions: int = 0

    @property
    def options(self) -> Mapping[str, Any]:
        """The runner's own table."""
        return self.options_of(self.runner)

    def options_of(self, tool: str) -> Mapping[str, Any]:
        """The table of a tool that can program this board; {} where it can't."""
        return self.tools.get(tool, {})

    @property
    def instructions_per_second(self) -> float:
        """How fast the part is assumed to run; an emulator paces the audio by it."""
        return self.clock_hz / self.cycles_per_instruction


def names() -> list[str]:
    """The boards, by name."""
    return sorted(path.parent.name for path in BOARDS.glob("*/board.toml"))


def load(name: str) -> Board:
    """Read one board.

    Raises:
        KwsError: no such board, or its board.toml is wrong.

    Example:
        >>> load("qemu-m4").core
        'dsp'
    """
    if name not in names():
        raise no_such("board", name, names(), "kws boards")
    path = BOARDS / name / "board.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"not valid TOML ({error})") from None
    return from_table(table, path)


def from_table(table: dict[str, Any], path: Path) -> Board:
    """Check the table of a board.toml at `path`.

    Raises:
        KwsError: a key is missing, unknown, of a wrong type or out of range.
    """
    memory = _take(table, "memory", dict, path)
    flags = _take(table, "flags", dict, path)
    runner = _take(table, "runner", str, path)
    cycles = _take(table, "cycles_per_instruction", (int, float), path)
    board = Board(
        name=path.parent.name,
        folder=path.parent,
        title=_take(table, "title", str, path),
        part=_take(table, "part", str, path),
        runner=runner,
        core=_take(table, "core", str, path),
        clock_hz=_take(table, "clock_hz", int, path),
        cycles_per_instruction=float(cycles),
        stack_bytes=_take(table, "stack_bytes", int, path),
        sources=_texts(table, "sources", path),
        flash_origin=_take(memory, "flash_origin", int, path),
        flash_bytes=_take(memory, "flash_bytes", int, path),
        ram_origin=_take(memory, "ram_origin", int, path),
        ram_bytes=_take(memory, "ram_bytes", int, path),
        boot_origin=_take(memory, "boot_origin", int, path, None),
        flags={key: _texts(flags, key, path) for key in list(flags)},
        tools={
            name: _take(table, name, dict, path)
            for name in runner_names()
            if name in table
        },
        usb=_usb(_take(table, "usb", dict, path, {}), path),
        linker_script=_take(table, "linker_script", str, path, Board.linker_script),
        bootloader=_take(table, "bootloader", str, path, ""),
        power=_power(_take(table, "power", dict, path, None), path),
        external=_external(_take(table, "external", dict, path, None), path),
        microphone_instructions=_take(table, "microphone_instructions", int, path, 0),
    )
    for leftover in (*table, *memory):
        raise _wrong(path, f"unknown key {leftover!r}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", board.name):
        raise _wrong(path, "the folder's name must be lower case, digits and dashes")
    if board.core not in CORES:
        raise _wrong(
            path, f"core must be one of {', '.join(CORES)}, not {board.core!r}"
        )
    if not (1_000_000 <= board.clock_hz <= 2_000_000_000):
        raise _wrong(path, f"clock_hz = {board.clock_hz} is not in hertz")
    if not 0.3 <= board.cycles_per_instruction <= 20:
        raise _wrong(path, "cycles_per_instruction must be in 0.3..20")
    if not 0 <= board.microphone_instructions < board.clock_hz / 100:
        raise _wrong(path, "microphone_instructions must be what fits in 10 ms")
    if not 1024 <= board.stack_bytes < board.ram_bytes or board.stack_bytes % 8:
        raise _wrong(
            path, "stack_bytes must be a multiple of 8 from 1024 to RAM's size"
        )
    if not board.flags:
        raise _wrong(path, "[flags] names no toolchain")
    for source in (*board.sources, board.linker_script):
        plain = re.fullmatch(r"[\w./-]{1,100}", source)
        if plain is None or not (BOARDS / source).is_file():
            raise _wrong(path, f"source {source!r} does not exist in {BOARDS}")
    return board


def _usb(table: dict[str, Any], path: Path) -> Usb:
    ids = _texts(table, "ids", path) if "ids" in table else ()
    usb = Usb(ids, _take(table, "baud", int, path, Usb.baud))
    for leftover in table:
        raise _wrong(path, f"unknown key {leftover!r} in [usb]")
    for text in usb.ids:
        if not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", text):
            raise _wrong(path, f'[usb] ids are like "1366:1015", not {text!r}')
    if not 1200 <= usb.baud <= 4_000_000:
        raise _wrong(path, f"[usb] baud = {usb.baud} is not in 1200..4000000")
    return usb


def _power(table: dict[str, Any] | None, path: Path) -> Power | None:
    if table is None:
        return None
    active = float(_take(table, "active_mw", (int, float), path))
    source = _take(table, "source", str, path)
    asleep, asleep_source, volts = None, "", None
    if "asleep_mw" in table:
        asleep = float(_take(table, "asleep_mw", (int, float), path))
        asleep_source = _take(table, "asleep_source", str, path)
    if "supply_v" in table:
        volts = float(_take(table, "supply_v", (int, float), path))
    power = Power(active, source, asleep, asleep_source, volts)
    for leftover in table:
        raise _wrong(path, f"unknown key {leftover!r} in [power]")
    if not 0 < power.active_mw <= 10_000:
        raise _wrong(path, "[power] expects 0 < active_mw <= 10000")
    if asleep is not None and not 0 < asleep <= power.active_mw:
        raise _wrong(path, "[power] expects 0 < asleep_mw <= active_mw")
    if volts is not None and not 0.5 <= volts <= 24:
        raise _wrong(path, "[power] expects 0.5 <= supply_v <= 24")
    return power


def _external(table: dict[str, Any] | None, path: Path) -> External | None:
    if table is None:
        return None
    external = External(
        _take(table, "cache_bytes", int, path), _take(table, "source", str, path)
    )
    for leftover in table:
        raise _wrong(path, f"unknown key {leftover!r} in [external]")
    if not 0 <= external.cache_bytes <= 1 << 24:
        raise _wrong(path, "[external] expects 0 <= cache_bytes <= 16777216")
    return external


def _take(table: dict[str, Any], key: str, kind: Any, path: Path, *default: Any) -> Any:
    if key not in table:
        if default:
            return default[0]
        raise _wrong(path, f"key {key!r} is missing")
    value = table.pop(key)
    if isinstance(value, int) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise _wrong(path, f"{key} is a number of {value.bit_length()} bits")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong(path, f"{key} has the wrong type ({type(value).__name__})")
    return value


def _texts(table: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    texts = _take(table, key, list, path)
    if not all(isinstance(text, str) for text in texts):
        raise _wrong(path, f"{key} is no list of texts")
    return tuple(texts)


def _wrong(path: Path, reason: str) -> KwsError:
    return KwsError(
        f"A board's description is wrong: {reason}. Received: {path}",
        f"Compare it with {BOARDS / 'qemu-m4' / 'board.toml'}",
    )
