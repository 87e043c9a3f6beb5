"""Engine tflm: what is emitted for TensorFlow Lite Micro, and, where the user's TFLM is
at hand (TFLM_DIR), the firmware with it.

TFLM's C++ library is in no package registry. Without TFLM_DIR the tests that build with
it skip, in CI too; the .tflite itself is run by TFLM here in any case (PyPI).
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sample_models
import toolbox
from click.testing import CliRunner

from kws import bundle as bundles
from kws import emit, engines
from kws.bundle import Bundle
from kws.cli import build as build_command
from kws.deploy import (
    boards,
    emission,
    flash,
    run,
    runners,
    tflm_arena,
    tflm_library,
)
from kws.emit import tflm
from kws.engines import common, host
from kws.errors import KwsError
from kws.graph import operators, reader
from kws.graph.weight_layout import CORES
from kws.paths import FIRMWARE

STEPS = [
    {"X": 0, "Q": 0, "K": 0, "P": 0, "O": 0},
    {"X": 6, "Q": 5, "K": 4, "P": 2, "O": 7},
    {"0.Q": 9, "1.P": 3},
]
BOARDS = ("qemu-m0", "qemu-m4", "qemu-m55")
SHIPPED = sorted(path.name for path in bundles.PRETRAINED.iterdir() if path.is_dir())
ARENA = 50_000  # where it doesn't matter what was measured


def tiny(steps: dict[str, int] | None = None) -> Bundle:
    return dataclasses.replace(bundles.load("kwt-tiny"), thresholds=steps or {})


def noise(count: int) -> np.ndarray:
    """int16 [count, 16000] at all loudnesses."""
    rng = np.random.default_rng(1)
    loudness = 10 ** rng.uniform(1, 4, (count, 1))
    pcm = rng.normal(0, 1, (count, 16000)) * loudness
    pcm *= np.abs(np.sin(np.linspace(0, 20, 16000)))  # syllables
    return np.clip(pcm, -32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tflm")
    emission.emit_bundle(tiny(), folder, "portable", "tflm")
    return folder


# --- what is emitted -----------------------------------------------------------------


def test_the_files(emitted: Path) -> None:
    names = sorted(path.name for path in emitted.iterdir())
    assert names == sorted([*emit.FILES, *tflm.FILES])
    assert (emitted / "model.tflite").read_bytes() == tiny().model_bytes()
    assert "interpreter" not in (emitted / "kws_model.c").read_text().lower()


def test_the_array_is_the_model(emitted: Path, tmp_path: Path) -> None:
    """model_data.cc, compiled: the same bytes, aligned, with C's names."""
    compiler = shutil.which("c++")
    if compiler is None:
        toolbox.skip_or_fail("there is no C++ compiler (c++)")
    target = tmp_path / "model.so"
    command = [str(compiler), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O0"]
    command += ["-shared", "-fPIC", str(emitted / "model_data.cc"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = ctypes.CDLL(str(target))
    size = ctypes.c_uint.in_dll(opened, "g_model_data_size").value
    data = (ctypes.c_ubyte * size).in_dll(opened, "g_model_data")
    assert bytes(data) == tiny().model_bytes()
    assert ctypes.addressof(data) % 16 == 0


def test_the_resolver_has_the_models_operators_and_no_others(emitted: Path) -> None:
    import tflite

    model = tflite.Model.GetRootAs(tiny().model_bytes(), 0)
    graph = model.Subgraphs(0)
    names = {
        value: name
        for name, value in vars(tflite.BuiltinOperator).items()
        if isinstance(value, int)
    }
    used = {
        names[model.OperatorCodes(graph.Operators(i).OpcodeIndex()).BuiltinCode()]
        for i in range(graph.OperatorsLength())
    }
    text = (emitted / "kws_operators.cc").read_text()
    assert sorted(re.findall(r"resolver->(\w+)\(\)", text)) == sorted(
        tflm.METHODS[name] for name in used
    )
    assert f"MicroMutableOpResolver<{len(used)}>" in text


def test_every_operator_of_the_reader_has_a_method() -> None:
    """Ours that no file has (TABLE, ATTENTION, ...) are none of TFLite's."""
    import tflite

    known = set(operators.OPERATORS) & set(vars(tflite.BuiltinOperator))
    # What a step keeps is in no file that the reader takes.
    kept = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
    assert known | kept == set(tflm.METHODS)
    # TFLM names a method after the operator: AddBatchMatMul for BATCH_MATMUL.
    for kind, method in tflm.METHODS.items():
        assert method.lower() == f"add{kind.replace('_', '').lower()}"


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(KwsError, match="LSTM"):
        tflm.operators_source(["ADD", "LSTM"], set())


@pytest.mark.parametrize("core", ["portable", "dsp", "mve"])
def test_rows_of_products_follow_the_graph(core: str) -> None:
    """One row for each product in the graph's order; one that skips where it should."""
    steps = {"0.X": 3, "1.Q": 2, "2.K": 4, "2.P": 1}
    bundle = tiny(steps)
    text = tflm.sources(bundle, core, ARENA).texts["kws_model.c"]
    kinds = Counter(n.kind for n in reader.read(bundle.model_bytes()).nodes)
    rows = {}
    for kind, name in (("FULLY_CONNECTED", "fully_connected"), ("BATCH_MATMUL",) * 2):
        table = re.search(
            rf"kws_tflm_{name.lower()}_t \w+\[(\d+)\] = {{\n(.*?)\n}};", text, re.S
        )
        assert table is not None
        rows[kind] = table[2].splitlines()
        assert len(rows[kind]) == int(table[1]) == kinds[kind]
    dense, products = rows["FULLY_CONNECTED"], rows["BATCH_MATMUL"]
    # kwt-tiny: the projection, then seven dense layers to a block: Q and K first, V
    # after the scores. Blocks have Q.K^T and P.V.
    assert [i for i, row in enumerate(dense) if "&" in row] == [1, 2, 3]
    assert [i for i, row in enumerate(products) if "&" in row] == [2, 4, 5]
    operators_text = tflm.sources(bundle, core, ARENA).texts["kws_operators.cc"]
    assert "AddFullyConnected(kws_tflm_fully_connected())" in operators_text
    assert "AddBatchMatMul(kws_tflm_batch_matmul())" in operators_text
    assert "AddSoftmax()" in operators_text


def asked_of(bundle: Bundle, core: str) -> set[tuple[int, str]]:
    """Layer and kind of the products that thresholds name and that are encoded on a
    core: with threshold 0, some layers run dense on some. (Native attention runs both
    its products sparse where one is encoded.)"""
    return {
        (product.layer, product.kind)
        for product in emission.products(bundle, core)
        if {product.kind, f"{product.layer}.{product.kind}"} & set(bundle.thresholds)
    }


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("core", CORES)
def test_the_products_that_skip_are_the_native_engines(
    core: str, steps: dict[str, int]
) -> None:
    bundle = tiny(steps)
    native = Counter((p.layer, p.kind) for p in emission.products(bundle, core))
    skips = Counter(
        (p.layer, p.kind) for p in tflm.sources(bundle, core, ARENA).network.products
    )
    assert skips == {
        product: count
        for product, count in native.items()
        if product in asked_of(bundle, core)
    }
    if steps == STEPS[0]:
        assert skips.total() == {"portable": 28, "dsp": 28, "mve": 12}[core]


@pytest.mark.parametrize("steps", [None, STEPS[1]], ids=["stock", "delta"])
def test_the_c_compiles(steps: dict[str, int] | None, tmp_path: Path) -> None:
    emission.emit_bundle(tiny(steps), tmp_path, "portable", "tflm")
    toolbox.host_compile(
        [tmp_path / "kws_model.c"],
        tmp_path / "model.o",
        "-c",
        "-DKWS_CORE_PORTABLE=1",
        f"-I{FIRMWARE / 'engines' / 'tflm'}",
        f"-I{tmp_path}",
    )


def test_changing_the_engine_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    emission.emit_bundle(tiny(), tmp_path, "dsp", "tflm")
    emission.emit_bundle(tiny(), tmp_path, "dsp")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*emit.FILES, "notes.txt"]
    )
    with pytest.raises(KwsError, match="No such engine"):
        emission.emit_bundle(tiny(), tmp_path, "dsp", "tensorrt")


# --- the arena -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_arena_is_measured(name: str) -> None:
    """It runs in what was measured, and not in less: in a process of its own, as the
    interpreter may end the process in less."""
    model = bundles.load(name).model_bytes()
    size = tflm_arena.measure(model)
    end = time.monotonic() + 60
    assert tflm_arena._run_in(size, model, end).returncode == 0
    assert tflm_arena._run_in(size - size // 32, model, end).returncode != 0
    assert 1.1 * size <= tflm.reserved(size) <= 1.1 * size + 16


@pytest.mark.parametrize("engine", emit.ENGINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_can_be_emitted_for_every_engine(
    name: str, engine: str, tmp_path: Path
) -> None:
    bundle = bundles.load(name)
    if engine == "tflm" and {"F", "C"} & set(bundle.thresholds):
        # An interpreter can't hold what its first layers read: said, not left out.
        with pytest.raises(KwsError, match="Received: a threshold of F") as caught:
            emission.emit_bundle(bundle, tmp_path / "refused", "dsp", engine)
        assert "--engine native" in caught.value.hint
        bundle = dataclasses.replace(bundle, thresholds={})
    for core in CORES:
        made = emission.emit_bundle(bundle, tmp_path / core, core, engine)
        assert 5_000 < made.arena_bytes < 200_000, core


def test_room_for_what_skips_is_added() -> None:
    stock = tflm.sources(tiny(), "dsp", ARENA).network
    delta = tflm.sources(tiny(STEPS[1]), "dsp", ARENA).network
    assert delta.arena_bytes > stock.arena_bytes
    assert delta.weights_bytes > stock.weights_bytes == len(tiny().model_bytes())
    assert len(delta.products) > len(stock.products) == 0


def test_a_model_that_tflm_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflm_arena, "_MEASURE", "import sys; sys.exit('no kernel')")
    with pytest.raises(KwsError, match="no kernel") as caught:
        tflm_arena.measure(b"")
    assert caught.value.hint == "--engine native"
    monkeypatch.setattr(tflm_arena, "_MEASURE", "import os; os.abort()")
    with pytest.raises(KwsError, match="exit status -6"):
        tflm_arena.measure(b"")
    monkeypatch.setattr(tflm_arena, "MEASURE_S", 0.001)
    with pytest.raises(KwsError, match="did not run the model in 0.001 s"):
        tflm_arena.measure(b"")


# --- equal logits --------------------------------------------------------------------


def test_the_emitted_tflite_gives_the_native_engines_logits(emitted: Path) -> None:
    """TFLM (PyPI) on the emitted .tflite = the native engine's C, on 24 clips."""
    pcm = noise(24)
    inputs = common.features(tiny(), pcm)
    logits = sample_models.tflm_logits((emitted / "model.tflite").read_bytes(), inputs)
    assert len(np.unique(logits, axis=0)) > 10
    np.testing.assert_array_equal(logits, host.logits(tiny(), pcm))


PRODUCT = """
#include <stdio.h>
#include <string.h>
#include "kws_delta.h"
enum { ROWS = 13, INNER = 20, STRIDE = KWS_ROUND_UP(COLUMNS, 4) };
static int8_t a[ROWS][INNER], y[ROWS][COLUMNS];
static _Alignas(4) int8_t b[INNER * STRIDE + 4], state[
    KWS_DELTA_BATCH_MATMUL_STATE_BYTES(INNER, COLUMNS)];
int main(void) {
  const kws_delta_batch_matmul_t p = {
      .product = {.a_zero_point = -7, .b_zero_point = 5, .multiplier = 1518500250,
                  .shift = -9, .activation_min = -128, .activation_max = 127,
                  .output_zero_point = 3},
      .rows = ROWS, .inner = INNER, .columns = COLUMNS, .stride = STRIDE,
      .threshold = THRESHOLD, .dense_rows = DENSE_ROWS};
  uint32_t sent = 0;
  memset(state, 0x55, sizeof state);
  if (fread(a, 1, sizeof a, stdin) != sizeof a) return 1;
  for (int i = 0; i < INNER; i++) {
    if (fread(b + i * STRIDE, 1, COLUMNS, stdin) != COLUMNS) return 1;
  }
  kws_delta_flip(b, sizeof b);
  kws_delta_batch_matmul_s8(&p, a[0], b, y[0], state, &sent);
  fwrite(y, 1, sizeof y, stdout);
  fwrite(&sent, 1, sizeof sent, stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels' objects, with sanitizers."""
    folder = tmp_path_factory.mktemp("kernels")
    flags = ("-c", *toolbox.SANITIZE, "-DKWS_CORE_PORTABLE=1")
    return [
        toolbox.host_compile([source], folder / f"{source.stem}.o", *flags)
        for source in sorted((FIRMWARE / "src").glob("kernels_*.c"))
    ]


@pytest.mark.parametrize(
    ("columns", "threshold", "dense_rows"), [(16, 0, 1), (21, 4, 2), (7, 40, 1)]
)
def test_the_product_alone(
    columns: int, threshold: int, dense_rows: int, kernels: list[Path], tmp_path: Path
) -> None:
    """kws_delta_batch_matmul_s8 under sanitizers = encoding and product in NumPy."""
    rng = np.random.default_rng(columns)
    moves = rng.integers(-6 - threshold, 7 + threshold, (13, 20))
    a = np.clip(np.cumsum(moves, axis=0), -128, 127)
    b = rng.integers(-128, 128, (20, columns))
    source = tmp_path / "product.c"
    source.write_text(PRODUCT)
    program = toolbox.host_compile(
        [source, *kernels],
        tmp_path / "product",
        *toolbox.SANITIZE,
        "-DKWS_CORE_PORTABLE=1",
        f"-DCOLUMNS={columns}",
        f"-DTHRESHOLD={threshold}",
        f"-DDENSE_ROWS={dense_rows}",
    )
    done = subprocess.run(
        [program],
        input=np.concatenate([a.ravel(), b.ravel()]).astype(np.int8).tobytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    held = np.full(20, -7)
    sent, sums = 0, []
    for i, row in enumerate(a):
        whole = i < dense_rows
        moved = np.abs(row - held) > (0 if whole else threshold)
        held = np.where(moved, row, held)
        sent += 20 if whole else int(moved.sum())
        sums.append((held + 7) @ (b - 5))
    scaled = np.array(sums) * (1518500250 / 2**31) * 2.0**-9
    expected = np.clip(np.rint(scaled) + 3, -128, 127)
    found = np.frombuffer(done.stdout[:-4], np.int8).reshape(13, columns)
    # Two roundings may differ from one by a step; sums that differ would by more.
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.95
    assert len(np.unique(found)) > 20
    assert int.from_bytes(done.stdout[-4:], "little") == sent


# --- the user's TFLM -----------------------------------------------------------------


def test_without_tflm_dir_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    toolbox.need_compiler("gcc")
    monkeypatch.delenv(tflm_library.VARIABLE, raising=False)
    arguments = ["kwt-tiny", "--board", "qemu-m4", "--engine", "tflm"]
    result = CliRunner().invoke(
        build_command.command, [*arguments, "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, KwsError)
    assert "TFLM_DIR. Received: not set" in result.exception.message
    assert "\n" not in result.exception.message
    assert "export TFLM_DIR=" in result.exception.hint


def tree(folder: Path, *archives: str) -> Path:
    """A folder laid out as upstream's checkout after its build; empty files."""
    downloads = "tensorflow/lite/micro/tools/make/downloads"
    for name in (
        tflm_library.HEADER,
        f"{downloads}/flatbuffers/include/flatbuffers/flatbuffers.h",
        f"{downloads}/gemmlowp/fixedpoint/fixedpoint.h",
        f"{downloads}/ruy/ruy/profiler/instrumentation.h",
        *(f"{archive}/{tflm_library.ARCHIVE}" for archive in archives),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


GENERIC = "gen/cortex_m_generic_{}_gcc/lib"


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("qemu-m4", GENERIC.format("cortex-m4+fp_default_cmsis_nn")),
        ("qemu-m0", GENERIC.format("cortex-m0plus_default")),
        ("qemu-m55", GENERIC.format("cortex-m55_release")),
    ],
)
def test_the_library_of_the_boards_core_is_taken(
    board: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "cortex-m4_default cortex-m4+fp_default cortex-m4+fp_default_cmsis_nn"
    names += " cortex-m0plus_default cortex-m55_release cortex-m55+nofp_default"
    root = tree(tmp_path, *(GENERIC.format(name) for name in names.split()))
    monkeypatch.setenv(tflm_library.VARIABLE, str(root))
    found = tflm_library.find(boards.load(board))
    assert found.archive == root / expected / tflm_library.ARCHIVE
    assert root in found.includes


LOGS = b"..._Z11MicroPrintfPKcz..."


@pytest.mark.parametrize(
    ("builds", "expected", "stripped"),
    [
        (["default", "release", "debug"], "default", False),
        (["default", "release", "release_with_logs"], "release_with_logs", False),
        (["release", "debug"], "debug", False),
        (["release"], "release", True),
        (["default", "release_cmsis_nn"], "release_cmsis_nn", True),
    ],
)
def test_a_library_that_tells_errors_is_preferred(
    builds: list[str],
    expected: str,
    stripped: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BUILD_TYPE=release leaves the messages out, MicroPrintf with them: what is built
    against it must do so too, or does not link."""
    folders = [GENERIC.format(f"cortex-m4+fp_{build}") for build in builds]
    root = tree(tmp_path, *folders)
    for folder, build in zip(folders, builds, strict=True):
        tells = "release" not in build or "with_logs" in build
        (root / folder / tflm_library.ARCHIVE).write_bytes(LOGS if tells else b"...")
    monkeypatch.setenv(tflm_library.VARIABLE, str(root))
    found = tflm_library.find(boards.load("qemu-m4"))
    assert f"m4+fp_{expected}_gcc" in str(found.archive)
    assert ("-DTF_LITE_STRIP_ERROR_STRINGS" in found.flags) == stripped
    assert set(tflm_library.FLAGS) <= set(found.flags)


# TFLM's headers, as far as our sources see them, for what can't be had from TFLM itself
# at will: an inference that fails, and every kind of message.
STAND_IN = {
    "debug_log.h": """
#include <cstdarg>
#include <cstddef>
extern "C" void DebugLog(const char *format, va_list args);
extern "C" int DebugVsnprintf(char *, size_t, const char *format, va_list args);
""",
    "micro_log.h": """
#if !defined(TF_LITE_STRIP_ERROR_STRINGS)
void MicroPrintf(const char *format, ...);
#else
namespace tflite {
template <typename... Args>
void Unused(Args &&...) {}
}
#define MicroPrintf(...) tflite::Unused(__VA_ARGS__)
#endif
""",
    "micro_allocator.h": """
#pragma once
#include <cstddef>
#include <cstdint>
namespace tflite {
class MicroAllocator {
 public:
  static MicroAllocator *Create(uint8_t *, size_t) {
    static MicroAllocator only;
    return &only;
  }
};
}
""",
    "micro_resource_variable.h": """
#include <cstdio>
#include "tensorflow/lite/micro/micro_allocator.h"
namespace tflite {
class MicroResourceVariables {
 public:
  static MicroResourceVariables *Create(MicroAllocator *, int count) {
    static MicroResourceVariables only;
    printf("%d variables\\n", count);
    return &only;
  }
};
}
""",
    "micro_interpreter.h": """
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include "tensorflow/lite/micro/micro_allocator.h"
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
enum { kTfLiteInt8 = 9 };
struct TfLiteTensor {
  int type;
  size_t bytes;
  union { int8_t *int8; } data;
};
namespace tflite {
struct Model { int version() const { return 3; } };
class MicroOpResolver {};
class MicroResourceVariables;
extern TfLiteStatus outcome;
class MicroInterpreter {
  int8_t storage[4] = {1, 2, 3, 4};
  TfLiteTensor tensor = {kTfLiteInt8, 4, {storage}};
 public:
  MicroInterpreter(const Model *, const MicroOpResolver &, MicroAllocator *,
                   MicroResourceVariables * = nullptr) {}
  TfLiteStatus Reset() {
    puts("reset");
    return kTfLiteOk;
  }
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteTensor *input(size_t) { return &tensor; }
  TfLiteTensor *output(size_t) { return &tensor; }
  size_t arena_used_bytes() const { return 5000000000u; }
  TfLiteStatus Invoke() { return outcome; }
};
}
""",
    "schema_generated.h": """
#define TFLITE_SCHEMA_VERSION 3
namespace tflite {
inline const Model *GetModel(const void *at) { return static_cast<const Model *>(at); }
}
""",
}
RUN = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "kws_board.h"
#include "kws_model.h"
#include "kws_tflm.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/debug_log.h"
static const unsigned char model[1] = {0};
static uint8_t arena[16];
const kws_tflm_model_t kws_tflm_model = {model, arena, 16, 4, 4, 3, 0, 0, nullptr,
                                         nullptr};
TfLiteStatus tflite::outcome = kTfLiteOk;
static tflite::MicroOpResolver resolver;
const tflite::MicroOpResolver *kws_tflm_operators() { return &resolver; }
extern "C" void kws_say(const char *kind, const char *rest) {
  printf("kws %s %s\\n", kind, rest);
}
extern "C" void kws_board_exit(int code) {
  fflush(stdout);
  _Exit(code);
}
void MicroPrintf(const char *format, ...) {
  va_list args;
  va_start(args, format);
  DebugLog(format, args);
  va_end(args);
}
static void say(const char *format, ...) {
  char text[200];
  va_list args;
  va_start(args, format);
  DebugVsnprintf(text, sizeof text, format, args);
  va_end(args);
  puts(text);
}
int main() {
  say("%lld %d|%llu %u", -5000000000LL, -7, 18446744073709551615ULL, 42u);
  say("%zu %ld %lx %5d %-3u|%s", static_cast<size_t>(9), -8L, 255L, 6, 5u, "end");
  say("%.3f %d|%e %s|%%|%p %c", 1.5, 3, -0.25, "s", reinterpret_cast<void *>(16), 'c');
  say("%*d %.*s %hhu|%lld", 4, 2, 3, "abc", 200, static_cast<long long>(1) << 63);
  int8_t logits[4] = {0};
  kws_tflm_reset(); /* before there is anything */
  if (kws_tflm_init() != 0) return 99;
  kws_tflm_reset();
  kws_tflm_run(logits, logits);
  tflite::outcome = kTfLiteError;
  kws_tflm_run(logits, logits);
  puts("went on");
}
"""


def test_a_failed_inference_stops_and_every_message_is_printed(tmp_path: Path) -> None:
    """interpreter.cc and runtime.cc on this machine: Invoke's status, and numbers of
    every length, each of which takes its argument."""
    compiler = shutil.which("c++")
    if compiler is None:
        toolbox.skip_or_fail("there is no C++ compiler (c++)")
    for name, text in STAND_IN.items():
        folder = "schema" if name == "schema_generated.h" else "micro"
        path = tmp_path / "tensorflow" / "lite" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    source = tmp_path / "run.cc"
    source.write_text(RUN)
    engine, program = FIRMWARE / "engines" / "tflm", tmp_path / "run"
    command = [str(compiler), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1"]
    command += [f"-I{tmp_path}", f"-I{engine}", f"-I{FIRMWARE / 'include'}"]
    command += [str(source), str(engine / "interpreter.cc"), str(engine / "runtime.cc")]
    done = subprocess.run(
        [*command, "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == [
        "-5000000000 -7|18446744073709551615 42",
        "9 -8 ff 6 5|end",
        "1.500000 3|-0.250000 s|%|10 c",
        "2 abc 200|-9223372036854775808",
        "3 variables",
        "kws tflm arena: 705032704 of 16 bytes used",
        "reset",
        "kws error reason=invoke",
    ]
    assert ran.returncode == 10
    # Against a library without messages they go without.
    command += ["-DTF_LITE_STRIP_ERROR_STRINGS", "-fsyntax-only"]
    command.remove(str(source))
    subprocess.run(command, check=True)


def test_one_library_alone_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tflm_library.VARIABLE, str(tree(tmp_path, "lib")))
    found = tflm_library.find(boards.load("qemu-m4"))
    assert found.archive == tmp_path / "lib" / tflm_library.ARCHIVE


def test_an_incomplete_tflm_dir_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tflm_library.VARIABLE, str(tmp_path))
    with pytest.raises(KwsError, match="lacks headers.*flatbuffers"):
        tflm_library.find(boards.load("qemu-m4"))
    tree(tmp_path, GENERIC.format("cortex-m55_default"))
    with pytest.raises(KwsError, match=r"cortex-m4\+fp.*Received: gen/"):
        tflm_library.find(boards.load("qemu-m4"))


def built(board: str, bundle: Bundle, folder: Path, step: bool = False) -> Path:
    """The app `clips` with the user's TFLM (`step`: in its form for streams); skips
    where there is none for the board."""
    if not os.environ.get(tflm_library.VARIABLE):
        pytest.skip("TFLM_DIR is not set: TFLM's C++ library is in no registry")
    toolbox.need_qemu()
    toolbox.need_compiler("gcc")
    target = boards.load(board)
    try:
        tflm_library.find(target)
    except KwsError as error:
        pytest.skip(error.message)
    image = flash.emit_and_build(bundle, target, folder, "clips", "gcc", "tflm", step)
    return image.elf


@pytest.mark.parametrize("steps", [None, *STEPS], ids=str)
@pytest.mark.parametrize("board", BOARDS)
def test_boards_with_tflm_equal_the_native_engine(
    board: str, steps: dict[str, int] | None, tmp_path: Path
) -> None:
    bundle = tiny(steps)
    image = built(board, bundle, tmp_path)
    pcm = noise(24 if board == "qemu-m4" else 4)
    expected = engines.get("host").logits(bundle, pcm)
    result = run.clips(image, boards.load(board), pcm, len(bundle.labels), 1)
    np.testing.assert_array_equal(result.logits, expected)
    if steps:  # what was transmitted, product by product
        _, sent = host.invoke(bundle, common.features(bundle, pcm))
        encoded = asked_of(bundle, boards.load(board).core)
        asked = [
            tuple(column)
            for product, column in zip(emission.products(bundle), sent.T, strict=True)
            if (product.layer, product.kind) in encoded
        ]
        assert len(asked) == result.sent.shape[1] > 0
        assert Counter(asked) == Counter(map(tuple, result.sent.T.tolist()))


@pytest.mark.parametrize("name", ["kwt-stream-tiny", "kwt-stream-small"])
@pytest.mark.parametrize("board", BOARDS)
def test_boards_with_tflm_run_a_stream_in_steps(
    board: str, name: str, tmp_path: Path
) -> None:
    """A clip is a stream from a reset: its logits are the native engine's, dense."""
    bundle = dataclasses.replace(bundles.load(name), thresholds={})
    image = built(board, bundle, tmp_path, step=True)
    pcm = noise(12 if board == "qemu-m4" else 3)
    expected = engines.get("host").logits(bundle, pcm)
    result = run.clips(image, boards.load(board), pcm, len(bundle.labels), 1)
    np.testing.assert_array_equal(result.logits, expected)


def test_an_arena_that_is_too_small_is_found_at_boot(tmp_path: Path) -> None:
    built("qemu-m4", tiny(), tmp_path)
    from kws.deploy import build

    source = tmp_path / "model" / "kws_model.c"
    text = re.sub(r"arena\[\d+\]", "arena[20000]", source.read_text())
    source.write_text(text)
    board = boards.load("qemu-m4")
    image = build.build(source.parent, board, tmp_path, "main", "gcc")
    (tmp_path / "audio.raw").write_bytes(bytes(3200))
    outcome = runners.get("qemu").run(
        image.elf, board, {"audio": "audio.raw", "pace": "0"}, tmp_path, 60
    )
    assert outcome.exit_code == 10
    assert "kws error reason=model" in outcome.text
    assert "cannot be set up in an arena of 20000 bytes" in outcome.text
