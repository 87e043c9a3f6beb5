"""The delta kernels: equal to TFLM at threshold 0, and to the int8 simulator above it,
bit for bit and count for count."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import by_hand
import numpy as np
import pytest
import sample_models
import toolbox
from kernel_support import image

from kws.bundle import Bundle
from kws.deploy import boards, emission, flash, run, toolchain
from kws.emit import native
from kws.engines import common, host
from kws.errors import KwsError
from kws.graph import reader, weight_layout
from kws.paths import FIRMWARE
from kws.simulate import Run
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Thresholds

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

HEAD = """
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "kws_delta.h"
#include "kws_model.h"
"""

# Reads features from stdin; writes logits to stdout and counts to stderr, for each run.
DRIVER = """
int main(void) {
  static int8_t in[INPUTS], out[OUTPUTS];
  while (fread(in, 1, INPUTS, stdin) == INPUTS) {
    network(in, out);
    fwrite(out, 1, OUTPUTS, stdout);
    for (size_t i = 0; i < sizeof delta_operators / sizeof *delta_operators; i++) {
      const kws_delta_operator_t *product = &delta_operators[i];
      fprintf(stderr, "%d %c %u %u\\n", product->layer, product->kind,
              (unsigned)product->elements, (unsigned)*product->sent);
    }
    fprintf(stderr, "\\n");
  }
  return 0;
}
"""

CHECK = image.C / "delta_check.c"
FLAGS = [*toolbox.SANITIZE, "-DKWS_CORE_PORTABLE=1", f"-I{FIRMWARE / 'src'}"]

# Heads of 20: no multiple of 8, two of them. KWT-1's class token: two dense rows, and
# a last layer of which one row is read.
SPECS = {
    "heads": sample_models.recipe(frames=40, layers=2, heads=2, head_dim=20),
    "class_token": sample_models.recipe("kwt-1", frames=30, layers=2),
}

KINDS = ("X", "Q", "K", "P", "O", "M", "H")
ZERO = dict.fromkeys(KINDS, 0)
STEPS = [
    {"X": 6, "Q": 5, "K": 4, "P": 2, "O": 7},
    {"X": 12, "0.X": 3, "1.K": 9, "1.P": 1},
    {"0.Q": 255, "O": 126, "1.X": 127},
]


@dataclass(frozen=True)
class Row:
    """Of a model's table of products that skip; sent: int64 [runs]."""

    layer: int
    kind: str
    elements: int
    sent: np.ndarray


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-delta-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def sample(name: str) -> Bundle:
    model = sample_models.network(SPECS[name])
    return sample_models.bundle(folder() / name, SPECS[name], model)


@functools.cache
def simulator(name: str) -> IntegerSimulator:
    return IntegerSimulator(sample(name))


@functools.cache
def sanitized_kernels() -> list[Path]:
    return [
        toolbox.host_compile([source], folder() / f"{source.stem}.o", "-c", *FLAGS)
        for source in sorted((FIRMWARE / "src").glob("kernels_*.c"))
    ]


def inputs(name: str) -> np.ndarray:
    """Features of which half move slowly, as speech's do."""
    spec = SPECS[name].features
    out = sample_models.features(6, (spec.frames, spec.mel_bins))
    slow = np.cumsum(out[::2] // 16, axis=1, dtype=np.int64)
    out[::2] = np.clip(slow, -128, 127)
    return out


def simulate(name: str, steps: dict[str, int], features: np.ndarray) -> Run:
    whole = Thresholds.from_dict(steps, simulator(name).slots)
    return simulator(name).run(features, simulator(name).thresholds(whole))


def run_sanitized(
    name: str, steps: dict[str, int], features: np.ndarray
) -> tuple[np.ndarray, list[Row]]:
    """Logits and counts of the emitted C, compiled with ASan and UBSan."""
    bundle = dataclasses.replace(sample(name), thresholds=steps)
    graph = reader.read(bundle.model_bytes())
    network = native.network_source(graph, "portable", bundle)
    source = folder() / "model.c"
    source.write_text(HEAD + network.text + DRIVER, encoding="ascii")
    program = toolbox.host_compile(
        [source, *sanitized_kernels()],
        folder() / "run",
        *FLAGS,
        f"-DINPUTS={features[0].size}",
        f"-DOUTPUTS={graph.output.elements}",
    )
    result = subprocess.run(
        [program], input=features.tobytes(), capture_output=True, check=False
    )
    text = result.stderr.decode()
    assert result.returncode == 0, text
    runs = [part.splitlines() for part in text.strip().split("\n\n")]
    products = []
    for lines in zip(*runs, strict=True):
        layer, kind, elements, _ = lines[0].split()
        sent = np.array([int(line.split()[3]) for line in lines])
        products.append(Row(int(layer), kind, int(elements), sent))
    logits = np.frombuffer(result.stdout, np.int8).reshape(len(features), -1)
    return logits, products


def assert_counts(name: str, products: list[Row], expected: Run) -> int:
    """Compare counts where the emitted C runs all rows; returns how many it did.

    X is encoded by each of its products for itself; heads are products of their own.
    """
    shape, slots = simulator(name).shape, simulator(name).slots
    assert list(slots) == [(i, kind) for i in range(shape.layers) for kind in KINDS]
    compared = 0
    for slot, sent in zip(slots, expected.counts.sent.T, strict=True):
        found = [p for p in products if (p.layer, p.kind) == slot]
        whole = shape.tokens * by_hand.columns(shape, slot[1])
        if slot[1] == "X":
            for product in found:
                assert product.elements == whole
                np.testing.assert_array_equal(product.sent, sent)
            compared += len(found)
        elif (
            slot in expected.counts.encoded and sum(p.elements for p in found) == whole
        ):
            np.testing.assert_array_equal(sum(p.sent for p in found), sent)
            compared += 1
    return compared


@pytest.mark.parametrize("core", ["portable", "dsp"])
def test_kernel_at_extremes_on_the_host(core: str, tmp_path: Path) -> None:
    result = image.run_host(image.host([CHECK], core, tmp_path))
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", ["qemu-m0", "qemu-m4", "qemu-m33", "qemu-m55"])
def test_kernel_at_extremes_on_boards(name: str, compiler: str, tmp_path: Path) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler(compiler)
    board = boards.load(name)
    result = image.run_board(image.board([CHECK], board, tmp_path, compiler), board)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr


@pytest.mark.parametrize("name", SPECS)
def test_threshold_0_equals_tflm(name: str) -> None:
    features = inputs(name)
    expected = sample_models.tflm_logits(sample(name).model_bytes(), features)
    assert expected.std() > 3  # not stuck: the comparison means something
    logits, products = run_sanitized(name, ZERO, features)
    np.testing.assert_array_equal(logits, expected)
    # Something was skipped, or nothing would have been tested.
    assert any((p.sent < p.elements).any() for p in products)
    assert assert_counts(name, products, simulate(name, ZERO, features)) >= 9


@pytest.mark.parametrize("keeps_dense", [False, True])
@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_equals_the_simulator(
    name: str,
    steps: dict[str, int],
    keeps_dense: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = ("portable",) if keeps_dense else ()
    monkeypatch.setattr(weight_layout, "DELTA_KEEPS_DENSE", cores)
    features = inputs(name)
    expected = simulate(name, steps, features)
    dense = sample_models.tflm_logits(sample(name).model_bytes(), features)
    assert (expected.logits != dense).any()
    logits, products = run_sanitized(name, steps, features)
    np.testing.assert_array_equal(logits, expected.logits)
    assert assert_counts(name, products, expected) >= 3


@pytest.mark.parametrize(
    ("board", "level"),
    [(name, "-O2") for name in ("qemu-m0", "qemu-m4", "qemu-m55")]
    + [("qemu-m4", level) for level in ("-O0", "-Os")],
)
@pytest.mark.parametrize("name", SPECS)
def test_boards_equal_the_simulator(
    name: str, board: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At -O2, as boards are built; at the levels that others build a library with."""
    toolbox.need_qemu()
    toolbox.need_compiler()
    flags = [level if f == "-O2" else f for f in toolchain.COMMON_FLAGS]
    monkeypatch.setattr(toolchain, "COMMON_FLAGS", flags)
    bundle = dataclasses.replace(sample(name), thresholds=STEPS[0])
    rng = np.random.default_rng(1)
    samples = bundle.recipe.features.clip_samples
    loudness = np.array([[30], [3000]])
    pcm = np.clip(loudness * rng.normal(0, 1, (2, samples)), -32768, 32767)
    pcm = pcm.astype(np.int16)
    features = common.features(bundle, pcm)
    expected = simulate(name, STEPS[0], features)
    logits, sent = host.invoke(bundle, features)
    np.testing.assert_array_equal(logits, expected.logits)
    products = [
        Row(product.layer, product.kind, product.elements, column)
        for product, column in zip(emission.products(bundle), sent.T, strict=True)
    ]
    assert assert_counts(name, products, expected) >= 6

    target = boards.load(board)
    image = flash.emit_and_build(
        bundle, target, folder() / board / name / level, "clips"
    )
    result = run.clips(image.elf, target, pcm, len(bundle.labels), jobs=1)
    np.testing.assert_array_equal(result.logits, expected.logits)
    np.testing.assert_array_equal(result.sent, sent)


def test_without_thresholds_nothing_changes() -> None:
    name = "heads"
    graph = reader.read(sample(name).model_bytes())
    text = native.network_source(graph, "dsp").text
    assert "delta" not in text
    graph = reader.read(sample(name).model_bytes())
    assert native.network_source(graph, "dsp", sample(name)).text == text
    _, sent = host.invoke(sample(name), inputs(name)[:1])
    assert sent.shape == (1, 0)
    assert emission.products(sample(name)) == ()


@pytest.mark.parametrize("steps", [{"V": 1}, {"2.X": 1}, {"X.1": 1}])
def test_refuses_unknown_tensors(steps: dict[str, int]) -> None:
    bundle = dataclasses.replace(sample("heads"), thresholds=steps)
    with pytest.raises(KwsError, match="Received: '"):
        native.sources(bundle, "portable")


def test_sizes_are_the_header_s() -> None:
    """The KWS_DELTA_..._BYTES macros against kws/graph/weight_layout.py."""
    cases = [(98, 1, 64), (27, 3, 20), (1, 1, 4), (99, 2, 12), (7, 1, 8)]
    prints, expected = [], []
    for tokens, heads, dim in cases:
        prints += [
            f"KWS_DELTA_ATTENTION_STATE_BYTES({tokens}, {heads}, {dim})",
            f"KWS_DELTA_FULLY_CONNECTED_STATE_BYTES({tokens}, {dim})",
            f"KWS_DELTA_FULLY_CONNECTED_SCRATCH_BYTES({tokens})",
            f"KWS_DELTA_FULLY_CONNECTED_DENSE_SCRATCH_BYTES({tokens})",
            f"KWS_DELTA_COLUMNS({tokens})",
            f"KWS_DELTA_STRIDE({tokens})",
            f"KWS_DELTA_STEP_STATE_BYTES({tokens}, {dim})",
            f"KWS_DELTA_STEP_DENSE_STATE_BYTES({tokens}, {dim})",
            f"KWS_DELTA_STEP_SCRATCH_BYTES({tokens})",
            f"KWS_DELTA_CONV_2D_STATE_BYTES({tokens}, {dim})",
            f"KWS_DELTA_CONV_2D_COLUMNS_STATE_BYTES({tokens}, {dim}, 53)",
            f"KWS_DELTA_CONV_2D_SCRATCH_BYTES({tokens}, {dim}, 5)",
        ]
        expected += [
            weight_layout.delta_attention_state_bytes(tokens, heads, dim),
            weight_layout.delta_fully_connected_state_bytes(tokens, dim),
            weight_layout.delta_fully_connected_scratch_bytes(tokens, dense=False),
            weight_layout.delta_fully_connected_scratch_bytes(tokens, dense=True),
            weight_layout.delta_columns(tokens),
            weight_layout.delta_stride(tokens),
            weight_layout.delta_step_state_bytes(tokens, dim, dense=False),
            weight_layout.delta_step_state_bytes(tokens, dim, dense=True),
            weight_layout.delta_step_scratch_bytes(tokens),
            weight_layout.delta_conv_2d_state_bytes(tokens, dim, 0),
            weight_layout.delta_conv_2d_state_bytes(tokens, dim, 53),
            weight_layout.delta_conv_2d_scratch_bytes(tokens, dim, 5),
        ]
    lines = [f'  printf("%d\\n", (int)({text}));' for text in prints]
    source = folder() / "sizes.c"
    source.write_text(f"{HEAD}\nint main(void) {{\n" + "\n".join(lines) + "\n}\n")
    program = toolbox.host_compile([source], folder() / "sizes")
    found = subprocess.run([program], capture_output=True, text=True, check=True)
    assert [int(line) for line in found.stdout.split()] == expected
