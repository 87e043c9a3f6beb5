"""The firmware's register headers against the vendors' SVD files."""

from __future__ import annotations

import importlib.util
import os
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from functools import cache
from pathlib import Path

import pytest
from toolbox import skip_or_fail

from kws.deploy import boards
from kws.deploy.boards import BOARDS

HEADERS = {
    match.group(1): path
    for path in sorted(BOARDS.rglob("*.h"))
    if (match := re.search(r"^ \* SVD: (\S+)$", path.read_text(), re.MULTILINE))
}
# A register, several registers at a stride, one bit, a field, a value in its field, an
# interrupt. All that a header may define besides its include guard.
FORMS = {
    "register": r"(\w+) REGISTER\((0x[0-9a-f]+)u\)",
    "registers": r"(\w+)\(n\) REGISTER\((0x[0-9a-f]+)u \+ (0x[0-9a-f]+)u \* \(n\)\)",
    "field": r"(\w+)\(value\) \(\(uint32_t\)\(value\) << (\d+)\)",
    "value": r"(\w+) \((\w+?)u << (\d+)\)",
    "interrupt": r"(\w+)_IRQ (\d+)",
}

# What pyOCD's SVD files are too old for -> the register's address (nRF52840 Product
# Specification v1.8, chapter "Debug and trace", APPROTECT).
NEWER = {"APPROTECT_DISABLE": 0x40000558}


class Svd:
    """What an SVD file says, by the names that our headers use (upper case)."""

    def __init__(self, text: bytes) -> None:
        self.registers: dict[str, int] = {}
        self.strides: dict[str, tuple[int, int]] = {}
        self.fields: dict[str, tuple[int, int]] = {}
        self.values: dict[str, int] = {}
        self.interrupts: dict[str, int] = {}
        peripherals = ElementTree.fromstring(text).find("peripherals")
        assert peripherals is not None
        by_name = {_text(item, "name"): item for item in peripherals}
        for name, peripheral in by_name.items():
            for interrupt in peripheral.findall("interrupt"):
                self.interrupts[_text(interrupt, "name").upper()] = int(
                    _text(interrupt, "value"), 0
                )
            registers = peripheral.find("registers")
            if registers is None and "derivedFrom" in peripheral.attrib:
                registers = by_name[peripheral.attrib["derivedFrom"]].find("registers")
            if registers is not None:
                base = int(_text(peripheral, "baseAddress"), 0)
                self._read(registers, name.upper(), base)

    def _read(self, group: ElementTree.Element, prefix: str, base: int) -> None:
        for item in group:
            if item.tag not in ("register", "cluster"):
                continue
            address = base + int(_text(item, "addressOffset"), 0)
            name = f"{prefix}_{_text(item, 'name')}".upper()
            if item.tag == "cluster":
                self._read(item, name, address)
                continue
            if "%S" in name:
                name = name.replace("[%S]", "").replace("%S", "")
                self.strides[name] = (
                    address,
                    int(item.findtext("dimIncrement", "0"), 0),
                )
            self.registers[name] = address
            for field in item.findall("fields/field"):
                self._read_field(field, name)

    def _read_field(self, field: ElementTree.Element, register: str) -> None:
        name = f"{register}_{_text(field, 'name')}".upper()
        if field.find("bitRange") is not None:
            high, low = map(int, _text(field, "bitRange").strip("[]").split(":"))
        elif field.find("lsb") is not None:
            high, low = int(_text(field, "msb")), int(_text(field, "lsb"))
        else:
            low = int(_text(field, "bitOffset"))
            high = low + int(_text(field, "bitWidth")) - 1
        self.fields[name] = (low, high - low + 1)
        for value in field.findall("enumeratedValues/enumeratedValue"):
            self.values[f"{name}_{_text(value, 'name')}".upper()] = (
                int(_text(value, "value"), 0) << low
            )


def _text(item: ElementTree.Element, tag: str) -> str:
    text = item.findtext(tag)
    assert text is not None, f"<{tag}> is missing"
    return text.strip()


@cache
def load(name: str) -> Svd:
    """The SVD of that name: from pyOCD's package, or from the folder KWS_SVD."""
    folder = os.environ.get("KWS_SVD")
    if folder and (Path(folder) / name).is_file():
        return Svd((Path(folder) / name).read_bytes())
    spec = importlib.util.find_spec("pyocd")
    if spec is None or spec.origin is None:
        skip_or_fail("pyocd, which carries SVD files, is not installed")
    assert spec is not None and spec.origin is not None
    with zipfile.ZipFile(
        Path(spec.origin).parent / "debug" / "svd" / "svd_data.zip"
    ) as archive:
        if name not in archive.namelist():
            pytest.skip(f"pyOCD carries no {name}; KWS_SVD can name a folder with it")
        return Svd(archive.read(name))


def problem(line: str, svd: Svd) -> str | None:
    """What is wrong with one #define, or None."""
    text = " ".join(line.removeprefix("#define").split())
    for form, pattern in FORMS.items():
        match = re.fullmatch(pattern, text)
        if match is None:
            continue
        name, numbers = match.group(1), [int(n, 0) for n in match.groups()[1:]]
        expected: object
        received: object
        if form == "register":
            known = NEWER.get(name)
            expected, received = svd.registers.get(name, known), numbers[0]
        elif form == "registers":
            expected, received = svd.strides.get(name), tuple(numbers)
        elif form == "interrupt":
            expected, received = svd.interrupts.get(name), numbers[0]
        elif form == "field":
            offset, width = svd.fields.get(name, (None, 0))
            expected, received = offset, numbers[0]
            if width == 1:
                return f"{name} is one bit: write (1u << {offset})"
        elif name in svd.values:
            expected, received = svd.values[name], numbers[0] << numbers[1]
        else:
            expected, received = svd.fields.get(name), (numbers[1], numbers[0])
        if expected is None:
            return f"{name} is not in the SVD"
        return None if expected == received else f"{name}: {expected}, not {received}"
    return f"not a form that can be checked: {text}"


def defines(text: str) -> list[str]:
    """The #define lines without the include guard; continuation lines are joined."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^#define\s.*$", joined, re.MULTILINE)
    return [line for line in lines if not re.fullmatch(r"#define \w+_H", line)]


@pytest.mark.parametrize("name", HEADERS)
def test_every_address_field_and_value_is_the_vendors(name: str) -> None:
    svd = load(name)
    lines = defines(HEADERS[name].read_text())
    assert len(lines) > 30
    assert [found for line in lines if (found := problem(line, svd))] == []


@pytest.mark.parametrize("name", HEADERS)
def test_values_written_to_fields_fit_them(name: str) -> None:
    svd = load(name)
    checked = 0
    for board in map(boards.load, boards.names()):
        sources = [BOARDS / source for source in board.sources]
        for source in [*sources, *board.folder.glob("*.c")]:
            for field, value in re.findall(
                r"\b([A-Z]\w+)\((\d+)\)", source.read_text()
            ):
                if field in svd.fields:
                    checked += 1
                    assert int(value) < 1 << svd.fields[field][1], (field, value)
    if name != "nrf52840.svd":  # there every value has a name
        assert checked > 5


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("#define PDM_GAINL REGISTER(0x4001d51cu)", "PDM_GAINL: "),
        ("#define PDM_GAINQ REGISTER(0x4001d518u)", "not in the SVD"),
        ("#define PDM_INTENSET_END (1u << 1)", r"PDM_INTENSET_END: \(2, 1\)"),
        ("#define PDM_MODE_EDGE_LEFTRISING (0u << 1)", "LEFTRISING: 2, not 0"),
        ("#define P0_PIN_CNF(n) REGISTER(0x50000700u + 0x8u * (n))", "P0_PIN_CNF: "),
        ("#define PDM_IRQ 28", "PDM: 29, not 28"),
        ("#define PDM_ENABLE_ENABLE(value) ((uint32_t)(value) << 0)", "one bit"),
        ("#define ANYTHING 0x40000000u", "not a form"),
    ],
)
def test_a_wrong_line_is_found(line: str, reason: str) -> None:
    found = problem(line, load("nrf52840.svd"))
    assert found is not None
    assert re.search(reason, found)


def test_boards_take_addresses_from_these_headers_only() -> None:
    """No peripheral's address is written anywhere else in the C of a real board."""
    seen = 0
    for board in map(boards.load, boards.names()):
        if board.runner == "qemu":
            continue
        sources = [BOARDS / source for source in board.sources]
        for source in [*sources, *board.folder.glob("*.c")]:
            if source.name == "cortex_m.c":  # the core, not the vendor's part
                continue
            text = source.read_text()
            assert not re.search(r"0x[45de][0-9a-f]{7}", text, re.IGNORECASE), source
            assert "volatile uint32_t *)" not in text, source
            seen += 1
    assert seen >= 8
