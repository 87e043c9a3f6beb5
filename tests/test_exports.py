"""The library for Arduino, PlatformIO and Zephyr: metadata, sources, examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import toolbox
from click.testing import CliRunner
from kernel_support import image

from kws import bundle as bundles
from kws.cli.emit import command
from kws.deploy import boards, emit, library, toolchain
from kws.deploy.boards import FIRMWARE
from kws.errors import KwsError

STRICT = ("-Wall", "-Wextra", "-Werror")
HARD = ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
M33 = "cortex_m33+dsp+fp_armv8d16sp"
# Parts -> the kernels that fit, flags of each compiler.
PARTS = {
    "cortex-m0plus": ("portable", ["-mfloat-abi=soft"], "cortex_m0plus", "eabi"),
    "cortex-m4": ("dsp", HARD, "cortex_m4+vfp4d16sp", "eabihf"),
    "cortex-m7": ("dsp", ["-mfpu=fpv5-d16", HARD[1]], "cortex_m7", "eabihf"),
    "cortex-m33": ("dsp", ["-mfpu=fpv5-sp-d16", HARD[1]], M33, "eabihf"),
    "cortex-m55": ("mve", HARD[1:], "cortex_m55+mve_fp", "eabihf"),
}
# Options of a core that a part may lack: gcc's and zig's flag -> the kernels that fit.
WITHOUT = {
    "cortex-m3": ("portable", "cortex-m3", "cortex_m3"),
    "cortex-m33+nodsp": ("portable", "cortex-m33+nodsp", "cortex_m33-dsp"),
    "cortex-m55+nomve": ("dsp", "cortex-m55+nomve", "cortex_m55-mve"),
}
# What Arduino (-Os), PlatformIO and Zephyr, and whoever debugs (-O0) compile with.
LEVELS = ("-O0", "-Os", "-O2", "-O3")

# What the examples use of Arduino's core and its PDM library, and of Zephyr:
# declarations only, so that a compiler can check the examples without either.
ARDUINO = """
#pragma once
#include <stddef.h>
#include <stdint.h>
struct Print {
  void begin(unsigned long);
  size_t print(const char *);
  size_t println(const char *);
  size_t println(double, int = 2);
};
extern Print Serial;
void delay(unsigned long);
struct PDMClass {
  int begin(int channels, int rate);
  int read(void *buffer, size_t size);
  void onReceive(void (*)(void));
};
extern PDMClass PDM;
"""
ZEPHYR = """
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
struct device { const char *name; };
struct k_mem_slab { int unused; };
struct k_sem { int unused; };
typedef struct { int64_t ticks; } k_timeout_t;
#define K_FOREVER ((k_timeout_t){-1})
#define ARG_UNUSED(x) (void)(x)
#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align) \
  static struct k_mem_slab name; _Static_assert((size) % (align) == 0, "align")
#define K_SEM_DEFINE(name, first, limit) struct k_sem name
#define K_THREAD_DEFINE(name, stack, entry, p1, p2, p3, prio, options, delay) \
  void (*const name)(void *, void *, void *) = entry
#define DT_NODELABEL(label) label
extern const struct device dmic_device;
#define DEVICE_DT_GET(node) (&dmic_device)
bool device_is_ready(const struct device *);
int k_sem_take(struct k_sem *, k_timeout_t);
void k_sem_give(struct k_sem *);
int32_t k_msleep(int32_t);
void k_mem_slab_free(struct k_mem_slab *, void *);
void printk(const char *, ...);
struct pcm_stream_cfg {
  uint32_t pcm_rate; uint8_t pcm_width; uint16_t block_size;
  struct k_mem_slab *mem_slab;
};
struct dmic_cfg {
  struct {
    uint32_t min_pdm_clk_freq, max_pdm_clk_freq; uint8_t min_pdm_clk_dc, max_pdm_clk_dc;
  } io;
  struct pcm_stream_cfg *streams;
  struct { uint32_t req_chan_map_lo; uint8_t req_num_chan, req_num_streams; } channel;
};
enum { DMIC_TRIGGER_START, PDM_CHAN_LEFT };
uint32_t dmic_build_channel_map(uint8_t channel, uint8_t pdm, int side);
int dmic_configure(const struct device *, struct dmic_cfg *);
int dmic_trigger(const struct device *, int);
int dmic_read(const struct device *, uint8_t, void **, size_t *, int32_t);
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kwt-tiny as a library."""
    folder = tmp_path_factory.mktemp("exports") / "kws-tiny"
    library.export(bundles.load("kwt-tiny"), folder)
    return folder


def properties(folder: Path) -> dict[str, str]:
    lines = (folder / "library.properties").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def compiles(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def host_compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        toolbox.skip_or_fail(f"there is no {name}")
    return str(found)


def test_arduino_metadata(exported: Path) -> None:
    """Arduino's library specification 1.5, rev. 2.2, and arduino-lint's patterns."""
    found = properties(exported)
    required = "name version author maintainer sentence paragraph category url"
    assert set(required.split()) | {"architectures"} <= set(found)
    assert all(found.values())
    assert re.fullmatch(r"[a-zA-Z0-9][\w .-]{0,62}", found["name"])
    assert "arduino" not in found["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version"])
    assert found["category"] == "Signal Input/Output"  # of the specification's list
    assert found["url"].startswith("https://")
    for header in found["includes"].split(","):
        assert (exported / "src" / header).is_file()
    # The flat layout: every source in src/, a sketch in a folder of its name.
    assert not [path for path in (exported / "src").iterdir() if path.is_dir()]
    assert (exported / "examples" / "listen" / "listen.ino").is_file()


def test_platformio_metadata(exported: Path) -> None:
    """PlatformIO's library.json: name, version and description are required."""
    found = json.loads((exported / "library.json").read_text("utf-8"))
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", found["name"])
    assert len(found["name"]) <= 50
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version"])
    assert 0 < len(found["description"]) <= 255
    assert found["license"] == "Apache-2.0" and (exported / "LICENSE").is_file()
    assert (exported / found["build"]["srcDir"] / found["headers"][0]).is_file()
    for example in found["examples"]:
        for name in example["files"]:
            assert (exported / example["base"] / name).is_file()


def test_zephyr_metadata(exported: Path) -> None:
    """Zephyr's zephyr/module.yml: name, build.cmake, build.kconfig, samples."""
    text = (exported / "zephyr" / "module.yml").read_text()
    name, build, cmake, kconfig, samples, sample = text.splitlines()
    assert re.fullmatch(r"name: [a-z0-9_]+", name)
    assert (build, samples) == ("build:", "samples:")
    assert (exported / cmake.removeprefix("  cmake: ") / "CMakeLists.txt").is_file()
    options = (exported / kconfig.removeprefix("  kconfig: ")).read_text("utf-8")
    assert options.startswith("config KWS\n\tbool ")
    assert (exported / sample.removeprefix("  - ") / "listen" / "prj.conf").is_file()
    assert "if(CONFIG_KWS)" in (exported / "CMakeLists.txt").read_text()
    assert "CONFIG_KWS=y" in (exported / "samples/listen/prj.conf").read_text()


def test_nothing_is_left_to_fill_in(exported: Path) -> None:
    readme = (exported / "README.md").read_text("utf-8")
    assert all(f"## {name}" in readme for name in ("Arduino", "PlatformIO", "Zephyr"))
    for path in exported.rglob("*"):
        if path.is_file() and path.parent.name != "src":
            assert not re.search(r"@[A-Z_]+@", path.read_text("utf-8")), path


def test_the_library_passes_its_self_test_here(exported: Path, tmp_path: Path) -> None:
    """A program of its own with the library's sources and nothing else."""
    program, target = tmp_path / "main.c", tmp_path / "main"
    program.write_text(
        "#include <kws.h>\nint main(void) { return (int)kws_selftest(); }\n"
    )
    source = exported / "src"
    compiler = [host_compiler("cc"), *STRICT, "-std=gnu11", "-O1", f"-I{source}"]
    compiles(*compiler, program, *sorted(source.glob("*.c")), "-o", target)
    assert subprocess.run([target], check=False).returncode == 0


def compiler_for(part: str, name: str) -> list[str]:
    """A cross compiler's command for a part."""
    toolbox.need_compiler(name)
    tools = toolchain.find(name)
    command = [*tools.command, *STRICT, "-std=gnu11", *toolchain.EXTRA_FLAGS[name]]
    if part in PARTS:
        _, flags, zig_cpu, abi = PARTS[part]
        gcc_cpu = part
    else:
        _, gcc_cpu, zig_cpu = WITHOUT[part]
        flags, abi = ["-mfloat-abi=soft"], "eabi"
    if name == "gcc":
        return [*command, "-mthumb", f"-mcpu={gcc_cpu}", *flags]
    # zig has no C library: the firmware's own <string.h>.
    command += ["-target", f"thumb-freestanding-{abi}", f"-mcpu={zig_cpu}"]
    return [*command, f"-I{FIRMWARE / 'boards' / 'common' / 'include'}"]


def objects_of(
    folder: Path, part: str, compiler: str, level: str, out: Path
) -> list[Path]:
    """The library's sources, compiled for a part."""
    command = [*compiler_for(part, compiler), level, "-c", f"-I{folder / 'src'}"]
    sources = sorted((folder / "src").glob("*.c"))
    assert len(sources) >= 10
    objects = [out / f"{source.stem}.o" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        compiles(*command, source, "-o", target)
    return objects


def kernels_in(objects: list[Path]) -> set[str]:
    """The cores whose model has got in: of a core's file, the others leave nothing."""
    found = set()
    for core in boards.CORES:
        (model,) = [path for path in objects if path.stem == f"kws_model_{core}"]
        if b"kws_model_info\0" in model.read_bytes():
            found.add(core)
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_sources_become_objects_for_each_core(
    part: str, compiler: str, level: str, exported: Path, tmp_path: Path
) -> None:
    """Objects, not syntax: assembly is looked at by the assembler alone, and the
    registers that it takes are given at each level in another way."""
    objects = objects_of(exported, part, compiler, level, tmp_path)
    assert kernels_in(objects) == {PARTS[part][0]}


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("part", WITHOUT)
def test_a_core_that_lacks_the_instructions_gets_kernels_without_them(
    part: str, compiler: str, exported: Path, tmp_path: Path
) -> None:
    objects = objects_of(exported, part, compiler, "-Os", tmp_path)
    assert kernels_in(objects) == {WITHOUT[part][0]}


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize(
    ("board", "part"),
    [
        ("qemu-m0", "cortex-m0plus"),
        ("qemu-m4", "cortex-m4"),
        ("qemu-m55", "cortex-m55"),
    ],
)
def test_the_library_passes_its_self_test_on_emulated_cores(
    board: str, part: str, compiler: str, exported: Path, tmp_path: Path
) -> None:
    """As Arduino builds it (-Os): the logits are those of this machine."""
    toolbox.need_qemu()
    program = tmp_path / "main.c"
    program.write_text(
        '#include <kws.h>\n#include "semihosting.h"\n'
        "_Noreturn void kws_board_exit(int code);\n"
        "void kws_board_exit(int code) { semihosting_exit(code); }\n"
        "void kws_board_write(const char *text);\n"
        "void kws_board_write(const char *text) { semihosting_write0(text); }\n"
        "int main(void) {\n"
        '  if (kws_selftest() == KWS_OK) semihosting_write0("passed");\n'
        "  return 0;\n}\n"
    )
    objects = objects_of(exported, part, compiler, "-Os", tmp_path)
    common = boards.BOARDS / "common"
    runtime = [common / name for name in ("cortex_m.c", "string.c", "semihosting.c")]
    command = [*compiler_for(part, compiler), "-O2", "-ffreestanding", f"-I{common}"]
    command += [f"-I{exported / 'src'}", f"-I{FIRMWARE / 'include'}", "-c"]
    for source in (program, *runtime):
        objects.append(tmp_path / f"{source.stem}.o")
        compiles(*command, source, "-o", objects[-1])
    target = boards.load(board)
    linked = image.link(objects, target, tmp_path, toolchain.find(compiler))
    done = image.run_board(linked, target)
    assert (done.returncode, done.stdout) == (0, "passed"), done.stderr


@pytest.mark.parametrize(
    ("core", "part", "says"),
    [
        ("dsp", "cortex-m0plus", "for this one: kws emit RUN --core portable"),
        ("mve", "cortex-m4", "for this one: kws emit RUN --core dsp"),
        ("portable", "cortex-m55", "for this one: kws emit RUN --core mve"),
    ],
)
def test_a_model_for_another_core_names_the_command(
    core: str, part: str, says: str, tmp_path: Path
) -> None:
    """The plain C of `kws emit`; and the core chosen by hand, on one without it."""
    text = emit.model_sources(bundles.load("kwt-tiny"), core).texts[emit.FILES[0]]
    source = tmp_path / "kws_model.c"
    source.write_text(text, "ascii")
    command = [*compiler_for(part, "gcc"), f"-I{FIRMWARE / 'include'}", "-fsyntax-only"]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"emitted for core {core}; {says}" in done.stderr
    by_hand = [*command, f"-DKWS_CORE_{core.upper()}=1", source]
    done = subprocess.run(by_hand, capture_output=True, text=True)
    assert (done.returncode == 0) == (core == "portable")
    if core != "portable":
        assert f'#error "KWS_CORE_{core.upper()}, but no' in done.stderr


def test_the_sketch_is_cpp_that_compiles(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "PDM.h").write_text(ARDUINO)
    sketch = exported / "examples" / "listen" / "listen.ino"
    compiler = [host_compiler("c++"), *STRICT, "-std=gnu++17", f"-I{tmp_path}"]
    target = tmp_path / "listen.o"
    compiles(
        *compiler, f"-I{exported / 'src'}", "-x", "c++", "-c", sketch, "-o", target
    )
    # The linker must find C's names.
    symbols = subprocess.run(
        ["nm", target], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"kws_init", "kws_push", "kws_poll", "kws_model_info"} <= set(symbols)


@pytest.mark.parametrize("header", ["kws.h", "kws_model.h", "kws_delta.h"])
def test_headers_serve_cpp_alone(exported: Path, tmp_path: Path, header: str) -> None:
    source = tmp_path / "one.cc"
    source.write_text(f"#include <{header}>\n")
    compiler = [host_compiler("c++"), *STRICT, "-std=c++17", "-fsyntax-only"]
    compiles(*compiler, f"-I{exported / 'src'}", source)


def test_the_zephyr_sample_compiles(exported: Path, tmp_path: Path) -> None:
    for name in ("kernel.h", "audio/dmic.h", "sys/printk.h"):
        path = tmp_path / "zephyr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#include <all.h>\n")
    (tmp_path / "all.h").write_text(ZEPHYR)
    compiler = [host_compiler("cc"), *STRICT, "-std=gnu11", "-fsyntax-only"]
    compiler += [f"-I{tmp_path}", f"-I{exported / 'src'}"]
    compiles(*compiler, exported / "samples/listen/src/main.c")


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    bundle = bundles.load("kwt-tiny")
    library.export(bundle, tmp_path / "lib")
    (tmp_path / "lib" / "src" / "old.c").write_text("")
    emitted = library.export(bundle, tmp_path / "lib")
    assert tmp_path / "lib" / "src" / "kws_model_dsp.c" in emitted.files
    assert tmp_path / "lib" / "src" / "kws_model.c" not in emitted.files
    assert not (tmp_path / "lib" / "src" / "old.c").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lib"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(KwsError, match="holds something else"):
        library.export(bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kwt-tiny", "kws-kwt-tiny"),
        ('a"b\\c*/ @NAME@', "kws-a-b-c-name"),
        ("Ünï", "kws-n"),
        ("--", "kws-model"),
        ("x" * 99, f"kws-{'x' * 36}"),
    ],
)
def test_names_that_every_tool_takes(name: str, expected: str) -> None:
    assert library.name_of(name) == expected


def test_words_of_any_label() -> None:
    labels = ("_silence_", 'q"uo\\te*/', "hey robot", "line\nbreak", "x" * 80)
    assert library.words_of(labels) == f"q?uo?te??, hey robot, line?break, {'x' * 16}"
    many = tuple(f"w{i}" for i in range(20))
    assert library.words_of(many).endswith("w7 and 12 more")


def test_command_line(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        command,
        ["kwt-tiny", "--format", "library", "--out", str(tmp_path / "lib"), "--json"],
    )
    assert run.exit_code == 0, run.output
    table = json.loads(run.output)
    assert (table["format"], table["core"]) == ("library", "any")
    assert str(tmp_path / "lib" / "library.json") in table["files"]
    both = ["--format", "library", "--engine", "tflm", "--out", str(tmp_path / "x")]
    run = CliRunner().invoke(command, ["kwt-tiny", *both])
    assert isinstance(run.exception, KwsError)
    core = ["--format", "library", "--core", "dsp", "--out", str(tmp_path / "x")]
    run = CliRunner().invoke(command, ["kwt-tiny", *core])
    assert isinstance(run.exception, KwsError)
    assert "Received: --engine native --core dsp" in run.exception.message
