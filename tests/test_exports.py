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
from kws.deploy import boards, emission, toolchain
from kws.emit import common, library, native
from kws.errors import KwsError
from kws.paths import FIRMWARE

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

# What the examples use of Arduino's core and its PDM library, and of Zephyr, as far as
# they can see it: neither can be had here. They print what they are asked.
ARDUINO = """
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
struct Print {
  void begin(unsigned long) {}
  size_t print(const char *text) { return (size_t)printf("%s", text); }
  size_t println(const char *text) { return (size_t)printf("%s\\n", text); }
  size_t println(double x, int digits = 2) {
    return (size_t)printf("%.*f\\n", digits, x);
  }
};
static Print Serial;
static inline void delay(unsigned long) {}
/* As ArduinoCore-mbed's: what the callback leaves of a block stops it for good. */
struct PDMClass {
  int left = 0;
  void (*callback)(void) = nullptr;
  int begin(int channels, int rate) {
    printf("begin %d %d\\n", channels, rate);
    return 1;
  }
  void setGain(int gain) { printf("gain %d\\n", gain); }
  void onReceive(void (*function)(void)) { callback = function; }
  int read(void *buffer, size_t size) {
    const int bytes = left < (int)size ? left : (int)size;
    memset(buffer, 0, (size_t)bytes);
    left -= bytes;
    return bytes;
  }
};
static PDMClass PDM;
"""
SKETCH = """
#include "PDM.h"
#include "listen.ino"
int main() {
  setup();
  for (int block = 0; block < 3 && PDM.left == 0; block++) {
    PDM.left = 1200; /* of another core than the nRF's, whose blocks are 512 */
    PDM.callback();
  }
  loop();
  kws_stats_t stats;
  kws_stats(&stats);
  printf("samples %u\\n", (unsigned)stats.samples);
}
"""
# Threads are threads. The microphone is Zephyr's dmic_nrfx_pdm.c as an application sees
# it: out of blocks it stops, and a START is heeded only where it has stopped.
ZEPHYR = """
#pragma once
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
struct device { const char *name; };
struct k_mem_slab { int unused; };
typedef struct { int64_t ticks; } k_timeout_t;
#define K_FOREVER ((k_timeout_t){-1})
#define ARG_UNUSED(x) (void)(x)
#define BUILD_ASSERT(condition, text) _Static_assert(condition, text)
#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align) \\
  static struct k_mem_slab name; _Static_assert((size) % (align) == 0, "align")
struct k_sem { sem_t sem; };
#define K_SEM_DEFINE(name, first, limit) struct k_sem name
#define K_THREAD_DEFINE(name, stack, entry, p1, p2, p3, prio, options, delay) \\
  static void *run_##name(void *unused) { \\
    entry(p1, p2, p3); \\
    return unused; \\
  } \\
  __attribute__((constructor)) static void start_##name(void) { \\
    pthread_t thread; \\
    pthread_create(&thread, NULL, run_##name, NULL); \\
  } \\
  _Static_assert(prio < 0, "cooperative: not held up by the network")
#define DT_NODELABEL(label) label
#define DT_REG_ADDR(node) 0x4001d000
#define DT_NODE_HAS_COMPAT(node, compatible) HAS_##compatible
#define DT_ENUM_IDX(node, property) CLOCK_SOURCE
static const struct device dmic_device = {"microphone"};
#define DEVICE_DT_GET(node) (&dmic_device)
static inline bool device_is_ready(const struct device *d) { return d != NULL; }
/* Zero in a static semaphore is what sem_init makes of it. */
static inline int k_sem_take(struct k_sem *s, k_timeout_t t) {
  (void)t;
  return sem_wait(&s->sem);
}
static inline void k_sem_give(struct k_sem *s) { sem_post(&s->sem); }
static inline int32_t k_msleep(int32_t ms) { return usleep((useconds_t)ms * 100); }
#define printk printf
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
enum { DMIC_TRIGGER_STOP, DMIC_TRIGGER_START, PDM_CHAN_LEFT };
static inline uint32_t dmic_build_channel_map(uint8_t channel, uint8_t pdm, int side) {
  return (uint32_t)(channel + pdm + side);
}
static bool active;
static inline int dmic_configure(const struct device *d, struct dmic_cfg *config) {
  (void)d;
  printf("configure %u\\n", (unsigned)config->streams[0].pcm_rate);
  return 0;
}
static inline int dmic_trigger(const struct device *d, int what) {
  (void)d;
  if (what == DMIC_TRIGGER_START && !active) printf("start\\n");
  active = what == DMIC_TRIGGER_START;
  return 0;
}
#include <kws.h>
static inline int dmic_read(const struct device *d, uint8_t stream, void **block,
                            size_t *bytes, int32_t ms) {
  (void)d;
  (void)stream;
  (void)ms;
  static int16_t samples[160];
  static int blocks;
  if (blocks == 30) {
    kws_stats_t stats;
    kws_stats(&stats);
    printf("samples %u\\n", (unsigned)(stats.samples + stats.overruns));
    fflush(stdout);
    _exit(0);
  }
  if (!active) return -11; /* after a second without a block */
  if (++blocks == 10) active = false; /* found no free one for the next */
  *block = samples;
  *bytes = sizeof samples;
  return 0;
}
static inline void k_mem_slab_free(struct k_mem_slab *slab, void *block) {
  if (slab == NULL || block == NULL) abort();
}
"""
NRF_PDM = """
typedef struct { int unused; } NRF_PDM_Type;
static inline void nrf_pdm_gain_set(NRF_PDM_Type *registers, uint8_t l, uint8_t r) {
  printf("gain %#lx %#x %#x\\n", (unsigned long)(uintptr_t)registers, l, r);
}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kwt-tiny as a library."""
    folder = tmp_path_factory.mktemp("exports") / "kws-tiny"
    emission.export_library(bundles.load("kwt-tiny"), folder)
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


BIG = "-mbig-endian"


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        (["-mcpu=cortex-m4", "-mthumb"], "DSP"),
        (["-mcpu=cortex-r5"], "DSP"),
        # They have __ARM_FEATURE_DSP, but not all that it means from Armv7 on.
        (["-mcpu=arm926ej-s"], "PORTABLE"),
        (["-mcpu=arm1176jzf-s"], "PORTABLE"),
        # The others' words are little-endian.
        (["-mcpu=cortex-r5", BIG], "PORTABLE"),
        (["-mcpu=cortex-m7", "-mthumb", BIG, "-DKWS_CORE_DSP=1"], None),
        (["-mcpu=cortex-m0plus", "-mthumb", BIG], None),
        (["-mcpu=cortex-m0", "-U__SIZEOF_INT__", "-D__SIZEOF_INT__=2"], None),
    ],
)
def test_cores_that_are_none_of_ours(
    flags: list[str], core: str | None, tmp_path: Path
) -> None:
    """What would not assemble, or run with other logits, isn't taken."""
    toolbox.need_compiler("gcc")
    source = tmp_path / "core.c"
    source.write_text('#include "kws_core.h"\n')
    command = ["arm-none-eabi-gcc", *flags, f"-I{FIRMWARE / 'include'}", "-dM", "-E"]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert (done.returncode == 0) == (core is not None), done.stderr
    assert re.findall(r"#define KWS_CORE_(?!H)(\w+)", done.stdout) == [core] or not core


def test_sources_pass_a_project_s_own_warnings(exported: Path, tmp_path: Path) -> None:
    """Of a project that compiles what it is given as strictly as its own."""
    strict = ["-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Wcast-qual"]
    strict += ["-Wcast-align", "-Wmissing-prototypes", "-Wstrict-prototypes"]
    command = [host_compiler("cc"), *STRICT, *strict, "-std=c11", "-fsyntax-only"]
    compiles(*command, *sorted((exported / "src").glob("*.c")))


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize(
    ("board", "part"),
    [
        ("qemu-m0", "cortex-m0plus"),
        ("qemu-m4", "cortex-m4"),
        ("qemu-m33", "cortex-m33"),
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
        "uint32_t kws_board_stack_used(void);\n"
        "int main(void) {\n"
        '  if (kws_selftest() == KWS_OK) semihosting_write0("passed");\n'
        "  const int deep = kws_board_stack_used() > KWS_STACK_BYTES;\n"
        '  if (deep) semihosting_write0(", too deep");\n'
        "  return 0;\n}\n"
    )
    objects = objects_of(exported, part, compiler, "-Os", tmp_path)
    ports = boards.BOARDS / "common"
    runtime = [ports / name for name in ("cortex_m.c", "string.c", "semihosting.c")]
    command = [*compiler_for(part, compiler), "-O2", "-ffreestanding", f"-I{ports}"]
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
    text = native.sources(bundles.load("kwt-tiny"), core).texts[common.MODEL]
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


def host_library(exported: Path, folder: Path) -> list[Path]:
    """The library's objects for this machine."""
    source = exported / "src"
    objects = []
    for path in sorted(source.glob("*.c")):
        objects.append(folder / f"{path.stem}.o")
        command = [host_compiler("cc"), "-std=gnu11", "-O1", f"-I{source}"]
        compiles(*command, "-c", path, "-o", objects[-1])
    return objects


@pytest.mark.parametrize(
    ("part", "gain"),
    [("ARDUINO_ARCH_NRF52840", ["gain 80"]), ("ARDUINO_ARCH_RP2040", [])],
)
def test_the_sketch_hears_everything_at_its_gain(
    part: str, gain: list[str], exported: Path, tmp_path: Path
) -> None:
    """+20 dB where the unit is known; before the start; each block to its end."""
    (tmp_path / "PDM.h").write_text(ARDUINO)
    main = tmp_path / "main.cc"
    main.write_text(SKETCH)
    compiler = [host_compiler("c++"), *STRICT, "-std=gnu++17", f"-I{tmp_path}"]
    compiler += [f"-I{exported / 'src'}", f"-I{exported / 'examples' / 'listen'}"]
    target = tmp_path / "listen"
    objects = host_library(exported, tmp_path)
    compiles(*compiler, f"-D{part}", main, *objects, "-o", target)
    said = subprocess.run([target], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [*gain, "begin 1 16000", "samples 1800"]


@pytest.mark.parametrize("header", ["kws.h", "kws_model.h", "kws_delta.h"])
def test_headers_serve_cpp_alone(exported: Path, tmp_path: Path, header: str) -> None:
    source = tmp_path / "one.cc"
    source.write_text(f"#include <{header}>\n")
    compiler = [host_compiler("c++"), *STRICT, "-std=c++17", "-fsyntax-only"]
    compiles(*compiler, f"-I{exported / 'src'}", source)


def zephyr_sample(exported: Path, folder: Path, *flags: str) -> list[str | Path]:
    """A command that compiles the Zephyr sample here."""
    for name in ("zephyr/kernel.h", "zephyr/audio/dmic.h", "zephyr/sys/printk.h"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#include <all.h>\n")
    (folder / "all.h").write_text(ZEPHYR)
    (folder / "hal").mkdir()
    (folder / "hal" / "nrf_pdm.h").write_text(NRF_PDM)
    compiler = [host_compiler("cc"), *STRICT, "-std=gnu11", "-pthread", *flags]
    compiler += [f"-I{folder}", f"-I{exported / 'src'}"]
    return [*compiler, exported / "samples/listen/src/main.c"]


@pytest.mark.parametrize(
    ("is_nrf", "gain"), [(1, ["gain 0x4001d000 0x50 0x50"]), (0, [])]
)
def test_the_zephyr_sample_sets_the_gain_and_starts_again(
    is_nrf: int, gain: list[str], exported: Path, tmp_path: Path
) -> None:
    """After 10 of 30 blocks the driver stops, as it does where the slab runs out."""
    objects = host_library(exported, tmp_path)
    flags = (f"-DHAS_nordic_nrf_pdm={is_nrf}", "-DCLOCK_SOURCE=1")
    target = tmp_path / "listen"
    compiles(*zephyr_sample(exported, tmp_path, *flags), *objects, "-o", target)
    said = subprocess.run(
        [target], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    again = "audio was lost: the microphone is started again"
    expected = ["configure 16000", *gain, "start", again, "start", "samples 4800"]
    assert said.splitlines() == expected


def test_the_zephyr_sample_wants_the_crystal(exported: Path, tmp_path: Path) -> None:
    flags = ("-DHAS_nordic_nrf_pdm=1", "-DCLOCK_SOURCE=0", "-fsyntax-only")
    command = zephyr_sample(exported, tmp_path, *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'clock-source = \\"PCLK32M_HFXO\\" in an overlay' in done.stderr
    overlay = exported / "samples/listen/boards/nrf52840dk_nrf52840.overlay"
    assert 'clock-source = "PCLK32M_HFXO"' in overlay.read_text()
    lists = (exported / "samples/listen/CMakeLists.txt").read_text()
    assert "find_package(Zephyr 3.5.0 " in lists
    assert "Zephyr 3.5 or later" in (exported / "README.md").read_text("utf-8")


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    bundle = bundles.load("kwt-tiny")
    lib = tmp_path / "lib"
    emission.export_library(bundle, lib)
    (lib / ".pio").mkdir()
    (lib / ".pio" / "cache").touch()  # a tool's, which makes it again
    emitted = emission.export_library(bundle, lib)
    assert lib / "src" / "kws_model_dsp.c" in emitted.files
    assert lib / "src" / "kws_model.c" not in emitted.files
    assert [path.name for path in tmp_path.iterdir()] == ["lib"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(KwsError, match="holds something else"):
        emission.export_library(bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_was_changed_in_an_export_stays(tmp_path: Path) -> None:
    """A second export took a user's sketch and own sources away."""
    bundle = bundles.load("kwt-tiny")
    lib = tmp_path / "my lib"
    emission.export_library(bundle, lib)
    (sketch,) = lib.rglob("*.ino")
    before = sketch.read_bytes()
    for path, content in ((sketch, b"// mine"), (lib / "src" / "mine.c", b"int x;")):
        path.write_bytes(content)
        name = path.relative_to(lib).as_posix()
        with pytest.raises(KwsError, match=f"changed by hand: {name}$") as caught:
            emission.export_library(bundle, lib)
        assert caught.value.hint.endswith(f"--out '{lib}-new'")
        assert path.read_bytes() == content
        sketch.write_bytes(before)
    (lib / "src" / "mine.c").unlink()
    emission.export_library(bundle, lib)
    for broken in ("[" * 100_000, "[]", "{"):  # of an earlier version there is none
        (lib / library.TABLE).write_text(broken)
        with pytest.raises(KwsError, match="holds something else"):
            emission.export_library(bundle, lib)


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
