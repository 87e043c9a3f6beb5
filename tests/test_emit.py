"""The emitted C: equal to TFLM bit for bit, under sanitizers; refusals; bundles."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest
import sample_models
import toolbox
from click.testing import CliRunner

from kws import bundle as bundles
from kws import emit
from kws.cli.emit import command
from kws.deploy import emission, host
from kws.emit import c_text, common, native, selftest
from kws.errors import KwsError
from kws.features import c_source
from kws.graph import reader
from kws.graph.nodes import Graph, Node, Quantization, Tensor
from kws.paths import FIRMWARE
from kws.recipe import Features

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

# Reads features from stdin, writes logits to stdout, one model run each.
DRIVER = """
#include <stdio.h>
int main(void) {
  static int8_t in[INPUTS], out[OUTPUTS];
  while (fread(in, 1, INPUTS, stdin) == INPUTS) {
    network(in, out);
    fwrite(out, 1, OUTPUTS, stdout);
  }
  return 0;
}
"""

HEAD = """
#include <stddef.h>
#include <string.h>
#include "kws_kernels.h"
#include "kws_model.h"
"""


FLAGS = [*toolbox.SANITIZE, "-DKWS_CORE_PORTABLE=1", f"-I{FIRMWARE / 'src'}"]


@functools.cache
def sanitized_kernels() -> list[Path]:
    """The kernels' objects, compiled once for all tests here."""
    folder = Path(tempfile.mkdtemp(prefix="kws-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [
        toolbox.host_compile([source], folder / f"{source.stem}.o", "-c", *FLAGS)
        for source in sorted((FIRMWARE / "src").glob("kernels_*.c"))
    ]


def run_sanitized(model: bytes, inputs: np.ndarray, folder: Path) -> np.ndarray:
    """Logits of the emitted C, compiled with ASan and UBSan."""
    graph = reader.read(model)
    outputs = graph.output.elements
    text = native.network_source(graph, "portable").text
    found = run_driver(text, DRIVER, inputs, inputs[0].size, folder, outputs)
    return found.reshape(len(inputs), outputs)


def run_driver(
    text: str,
    driver: str,
    inputs: np.ndarray,
    size: int,
    folder: Path,
    outputs: int = 4,
) -> np.ndarray:
    """int8: what a driver around a network says to int8 inputs, `size` for each run."""
    folder.mkdir(exist_ok=True)
    (folder / "model.c").write_text(HEAD + text + driver, encoding="ascii")
    program = toolbox.host_compile(
        [folder / "model.c", *sanitized_kernels()],
        folder / "run",
        *FLAGS,
        f"-DINPUTS={size}",
        f"-DOUTPUTS={outputs}",
        f"-DSTEPS={STEPS}",
    )
    run = subprocess.run(
        [program], input=inputs.tobytes(), capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr.decode()
    return np.frombuffer(run.stdout, np.int8)


def assert_equals_tflm(model: bytes, shape: tuple[int, ...], folder: Path) -> None:
    inputs = sample_models.features(8, shape)
    expected = sample_models.tflm_logits(model, inputs)
    assert expected.std() > 3  # not stuck: the comparison means something
    np.testing.assert_array_equal(run_sanitized(model, inputs, folder), expected)


RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 1, "frames": 50},
    "two_heads_hard_swish": {
        "layers": 1,
        "frames": 40,
        "heads": 2,
        "head_dim": 20,
        "activation": "hard_swish",
        "norm": "batch",
    },
    "kwt1_relu": {"base": "kwt-1", "layers": 2, "frames": 30, "activation": "relu"},
    "kwt1_gelu": {"base": "kwt-1", "layers": 1, "frames": 22},
}


@pytest.mark.parametrize("name", RECIPES)
def test_our_networks_equal_tflm(name: str, tmp_path: Path) -> None:
    spec = sample_models.recipe(**RECIPES[name])
    shape = (spec.features.frames, spec.features.mel_bins)
    assert_equals_tflm(sample_models.network(spec), shape, tmp_path)


def _weights(*shape: int) -> Any:
    from kws.layers.keras import tf

    rng = np.random.default_rng(sum(shape))
    fan_in = int(np.prod(shape[:-1]))
    return tf.constant(rng.normal(0, fan_in**-0.5, shape).astype(np.float32))


def heads_by_transpose(x: Any) -> Any:
    """Two heads side by side in one dense layer, as Keras' own attention has them."""
    from kws.layers.keras import tf

    def split(y: Any) -> Any:
        return tf.transpose(tf.reshape(y, [1, 11, 2, 8]), [0, 2, 1, 3])

    q, k, v = (split(tf.matmul(x, _weights(12, 16) * s)) for s in (2.0, 1.5, 1.0))
    scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / 2.0)
    mixed = tf.transpose(tf.matmul(scores, v), [0, 2, 1, 3])
    return tf.matmul(tf.reshape(mixed, [1, 11 * 16]), _weights(176, 5))


def attention_that_cannot_be_fused(x: Any) -> Any:
    """Keys that are also values: the in-place kernel must not be used."""
    from kws.layers.keras import tf

    q, k = tf.matmul(x, _weights(12, 8)), tf.matmul(x, _weights(12, 8) * 2.0)
    scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
    return tf.matmul(tf.reshape(tf.matmul(scores, k), [1, 88]), _weights(88, 5))


def adjoint_products(x: Any) -> Any:
    """BATCH_MATMUL with each side transposed, as map-free attention would have."""
    from kws.layers.keras import tf

    a, b = tf.matmul(x, _weights(12, 6)), tf.matmul(x, _weights(12, 7))
    mixed = tf.matmul(a, b, transpose_a=True)  # 6 x 7
    again = tf.matmul(tf.matmul(a, mixed), b, transpose_b=True)  # 11 x 11
    return tf.matmul(tf.reshape(again, [1, 121]), _weights(121, 5))


def shapes_and_slices(x: Any) -> Any:
    """PAD, CONCATENATION on both axes, STRIDED_SLICE with strides, MEAN, TRANSPOSE."""
    from kws.layers.keras import tf

    padded = tf.pad(tf.matmul(x, _weights(12, 8)), [[0, 0], [2, 1], [0, 0]])
    part = padded[:, 1:12:2, :]
    wide = tf.concat([part, part * 1.0, padded[:, 2:8]], axis=2)
    long = tf.concat([wide[:, :3], wide[:, 2:]], axis=1)
    turned = tf.transpose(long, [0, 2, 1])
    both = tf.reduce_mean(turned, axis=2) + tf.reduce_mean(long, axis=1)
    return tf.matmul(both, _weights(24, 5))


def norm_and_class_token(x: Any) -> Any:
    """LayerNorm's statistics by row, a table of one tensor, one token kept."""
    from kws.layers.keras import tf

    y = tf.matmul(x, _weights(12, 16)) + _weights(11, 16)
    centred = y - tf.reduce_mean(y, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    y = centred * tf.math.rsqrt(variance + 1e-3)
    y = tf.matmul(y * tf.sigmoid(1.702 * y), _weights(16, 24))
    y = tf.nn.relu6(y) - tf.tanh(y)
    return tf.matmul(y[:, 4], _weights(24, 5))


def windows_of_rows(x: Any) -> Any:
    """GATHER: each row with the three before it, and products of what it finds."""
    from kws.layers.keras import tf

    def windows(rows: Any) -> Any:
        places = (np.arange(11)[:, None] + np.arange(4)).astype(np.int32)
        return tf.gather(tf.pad(rows, [[0, 0], [3, 0], [0, 0]]), places, axis=1)

    y = tf.matmul(x, _weights(12, 6))
    seen, other = windows(y), windows(tf.matmul(x, _weights(12, 6) * 1.5))
    found = tf.matmul(tf.expand_dims(y, 2), tf.matmul(seen, other, transpose_a=True))
    means = tf.reduce_mean(seen, axis=2, keepdims=True)
    return tf.matmul(tf.reshape(found + means, [1, 66]), _weights(66, 5))


FUNCTIONS: tuple[Callable[[Any], Any], ...] = (
    heads_by_transpose,
    attention_that_cannot_be_fused,
    adjoint_products,
    shapes_and_slices,
    norm_and_class_token,
    windows_of_rows,
)


@pytest.mark.parametrize("body", FUNCTIONS, ids=lambda body: body.__name__)
def test_other_graphs_equal_tflm(body: Callable[[Any], Any], tmp_path: Path) -> None:
    model = sample_models.function(body, (1, 11, 12))
    assert_equals_tflm(model, (11, 12), tmp_path)


def between(kind: str, x: float, y: float, activation: str = "none") -> str:
    """The C of an operator between these scales."""
    tflm = pytest.importorskip("kernel_support.tflm", reason="needs tflite-micro")
    model, schema = tflm.Model(), tflm.schema
    first = model.tensor((1, 2, 2), x)
    inputs = [first, model.tensor((1, 2, 2), x)]
    product = schema.BatchMatMulOptionsT()
    model.operator("BATCH_MATMUL", [first, first], inputs[1], product)
    names = {"MEAN": "Reducer", "SQUARED_DIFFERENCE": "SquaredDifference"}
    name = names.get(kind, kind.title())
    options = getattr(schema, f"{name}OptionsT")()
    if kind == "MEAN":
        inputs[0] = inputs[1]
        inputs[1] = model.tensor((1,), data=np.array([1], np.int32))
        options.keepDims = True
    elif activation != "none":
        options.fusedActivationFunction = tflm.ACTIVATIONS[activation]
    out = model.tensor((1, 1, 2) if kind == "MEAN" else (1, 2, 2), y)
    model.operator(kind, inputs, out, options)
    graph = reader.read(model.to_bytes([first], [out]))
    return native.network_source(graph, "portable").text


@pytest.mark.parametrize(
    ("kind", "x", "just", "too_far"),
    [
        ("ADD", 0.5, 2.0**-19, 2.0**-20),
        ("SUB", 0.5, 2.0**-19, 2.0**-20),
        ("MUL", 1.0, 2.0**-29, 2.0**-30),
        ("SQUARED_DIFFERENCE", 1.0, 2.0**-41, 2.0**-42),
        ("MEAN", 1.0, 2.0**-30, 2.0**-31),
    ],
)
def test_scales_that_no_shift_bridges_are_refused(
    kind: str, x: float, just: float, too_far: float
) -> None:
    """The kernels would shift by more bits than there are, or by less than none."""
    assert "shift = " in between(kind, x, just)
    with pytest.raises(KwsError, match=f"{kind} .*scales too far apart"):
        between(kind, x, too_far)


def test_an_activation_that_ends_too_far_away_is_refused() -> None:
    with pytest.raises(KwsError, match="ADD .*relu6 ends too many steps"):
        between("ADD", 1e-39, 1e-39, "relu6")


def test_other_gathers_are_refused() -> None:
    def every_second(x: Any) -> Any:
        from kws.layers.keras import tf

        places = (np.arange(4)[:, None] * 2 + np.arange(5)).astype(np.int32)
        seen = tf.gather(x, places, axis=1)
        return tf.matmul(tf.reshape(seen, [1, 240]), _weights(240, 5))

    model = sample_models.function(every_second, (1, 11, 12))
    with pytest.raises(KwsError, match=r"GATHER .* each a row further"):
        reader.read(model)


# --- what a network keeps from step to step ---

STREAM_DRIVER = """
#include <stdio.h>
int main(void) {
  static int8_t in[INPUTS], out[OUTPUTS];
  for (;;) {
    network_reset();
    for (int step = 0; step < STEPS; step++) {
      if (fread(in, 1, INPUTS, stdin) != INPUTS) return 0;
      network(in, out);
      fwrite(out, 1, OUTPUTS, stdout);
    }
  }
}
"""
STEPS = 23  # of a stream


def _tensor(
    name: str, shape: tuple[int, ...], scale: float, zero_point: int = 0, **more: Any
) -> Tensor:
    return Tensor(name, shape, "int8", Quantization((scale,), (zero_point,)), **more)


def _constant(name: str, shape: tuple[int, ...]) -> Tensor:
    rng = np.random.default_rng(len(name))
    data = rng.integers(-127, 128, shape).astype(np.int8)
    return _tensor(name, shape, 0.02, data=data)


def _keep(x: Tensor, past: int, ring: bool, reset: int) -> Node:
    rows, width = x.shape[-2:]
    out = _tensor("past", (1, past + rows, width), x.scale, x.zero_point, reset=reset)
    return Node("HISTORY", [x], out, {"rows": rows, "ring": ring})


def _head(tokens: Tensor) -> list[Node]:
    axis = Tensor("axis", (1,), "int32", data=np.array([1], np.int32))
    width = tokens.shape[-1]
    mean = _tensor("mean", (1, width), tokens.scale / 2, 2)
    options = {"FusedActivationFunction": 0, "WeightsFormat": 0, "KeepNumDims": False}
    logits = _tensor("logits", (1, 4), 0.3, -3)
    return [
        Node("MEAN", [tokens, axis], mean, {"KeepDims": False}),
        Node(
            "FULLY_CONNECTED", [mean, _constant("dense", (4, width))], logits, options
        ),
    ]


def convolution_and_ring(streaming: bool) -> Graph:
    """A token from 5 rows, 2 of them new; the mean of the last 5 tokens."""
    x = _tensor("x", (1, 2 if streaming else 13, 8), 0.05, 3)
    nodes = [_keep(x, 3, ring=False, reset=3)] if streaming else []
    rows = nodes[-1].output if nodes else x
    count = 1 if streaming else 5
    image = _tensor("image", (1, rows.shape[1], 8, 1), 0.05, 3)
    convolved = _tensor("convolved", (1, count, 3, 3), 0.3, -5)
    tokens = _tensor("tokens", (1, count, 9), 0.3, -5)
    strides = {"StrideH": 2, "StrideW": 2, "DilationHFactor": 1, "DilationWFactor": 1}
    nodes += [
        Node("RESHAPE", [rows], image),
        Node(
            "CONV_2D",
            [image, _constant("filter", (3, 5, 3, 1))],
            convolved,
            {"FusedActivationFunction": 0, "Padding": 1, **strides},
        ),
        Node("RESHAPE", [convolved], tokens),
    ]
    if streaming:
        nodes.append(_keep(tokens, 4, ring=True, reset=9))
    nodes += _head(nodes[-1].output)
    return Graph(nodes, x, nodes[-1].output)


def rows_kept_in_a_loop(streaming: bool) -> Graph:
    """30 rows a step, kept as a loop makes them; the mean of the last 34."""
    x = _tensor("x", (1, 30 if streaming else 34, 8), 0.05, 3)
    table = [(37 * i) % 256 - 128 for i in range(256)]
    made = Node("TABLE", [x], _tensor("made", x.shape, 0.05), {"table": table})
    nodes = [made]
    if streaming:
        nodes.append(_keep(made.output, 4, ring=False, reset=table[128 + 3]))
    nodes += _head(nodes[-1].output)
    return Graph(nodes, x, nodes[-1].output)


@pytest.mark.parametrize(
    ("network", "rows", "window", "whole_from"),
    [(convolution_and_ring, 2, 13, 4), (rows_kept_in_a_loop, 30, 34, 0)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_stream_equals_its_windows(
    network: Callable[[bool], Graph],
    rows: int,
    window: int,
    whole_from: int,
    tmp_path: Path,
) -> None:
    """Each step's logits are those of the same network on the rows so far, bit for
    bit, past several turns of the ring; and a reset forgets the stream before it."""
    rng = np.random.default_rng(5)
    streams = rng.integers(-128, 128, (2, STEPS, rows, 8)).astype(np.int8)
    streams = np.concatenate([streams, streams[:1]])  # the first one again
    text = native.network_source(network(True), "portable").text
    assert ("for (int32_t row" in text) == (network is rows_kept_in_a_loop)
    said = run_driver(text, STREAM_DRIVER, streams, rows * 8, tmp_path)
    said = said.reshape(3, STEPS, 4)
    assert said.std() > 3
    np.testing.assert_array_equal(said[2], said[0])

    padding = np.full((2, window, 8), 3, np.int8)
    whole = np.concatenate([padding, streams[:2].reshape(2, -1, 8)], axis=1)
    windows = np.stack(
        [whole[:, rows * (i + 1) :][:, :window] for i in range(STEPS)], axis=1
    )
    text = native.network_source(network(False), "portable").text
    assert "persistent" not in text and "network_reset" not in text
    expected = run_driver(text, DRIVER, windows, window * 8, tmp_path)
    expected = expected.reshape(2, STEPS, 4)
    np.testing.assert_array_equal(said[:2, whole_from:], expected[:, whole_from:])


# --- the whole bundle ---


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = sample_models.recipe(layers=1, frames=50)
    folder = tmp_path_factory.mktemp("bundle")
    return sample_models.bundle(folder, spec, sample_models.network(spec))


@pytest.mark.parametrize("core", ["portable", "dsp", "mve"])
def test_emitting_twice_gives_the_same_files(
    bundle: Any, core: str, tmp_path: Path
) -> None:
    first = emission.emit_bundle(bundle, tmp_path / "a", core)
    second = emission.emit_bundle(bundle, tmp_path / "b", core)
    assert [p.read_bytes() for p in first.files] == [
        p.read_bytes() for p in second.files
    ]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(emit.FILES)
    text = first.files[0].read_text()
    assert bundle.hash[:16] in text
    assert max(map(len, text.split("\n"))) <= 100


def test_the_self_test_passes_where_the_clip_was_run(
    bundle: Any, tmp_path: Path
) -> None:
    emitted = emission.emit_bundle(bundle, tmp_path, "portable")
    main = tmp_path / "main_test.c"
    main.write_text(
        '#include <stdio.h>\n#include "kws.h"\n#include "kws_model.h"\n'
        "int main(void) {\n"
        "  for (int i = 0; i < kws_model_info.label_count; i++)\n"
        "    puts(kws_model_info.labels[i]);\n"
        "  return (int)kws_selftest();\n}\n"
    )
    sources = [*emitted.files, main, *sorted((FIRMWARE / "src").glob("*.c"))]
    program = toolbox.host_compile(
        sources,
        tmp_path / "selftest",
        *FLAGS,
    )
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert tuple(run.stdout.splitlines()) == sample_models.LABELS


def test_shared_weights_are_emitted_once() -> None:
    from kws.layers.keras import tf

    shared = _weights(12, 12)

    def body(x: Any) -> Any:
        y = tf.nn.relu(tf.matmul(x, shared))
        y = tf.nn.relu(tf.matmul(y, shared))
        return tf.matmul(tf.reduce_mean(y, 1), _weights(12, 5))

    graph = reader.read(sample_models.function(body, (1, 11, 12)))
    text = native.network_source(graph, "portable").text
    assert text.count("[144] = {") == 1
    assert text.count("kws_fully_connected_s8(") == 3


def test_command_line(bundle: Any, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        command,
        [str(bundle.path), "--out", str(tmp_path / "c"), "--core", "mve", "--json"],
    )
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["core"] == "mve" and table["arena_bytes"] > 0
    assert all(Path(path).is_file() for path in table["files"])


def test_refusals(bundle: Any, tmp_path: Path) -> None:
    recipe = bundle.recipe
    narrow = dataclasses.replace(
        recipe, features=dataclasses.replace(recipe.features, mel_bins=32)
    )
    loud = dataclasses.replace(
        recipe, features=dataclasses.replace(recipe.features, scale=0.1)
    )
    nervous = dataclasses.replace(
        recipe, detector=dataclasses.replace(recipe.detector, rearm=0.99)
    )
    short = dataclasses.replace(
        recipe, detector=dataclasses.replace(recipe.detector, word_thresholds=(0.5,))
    )
    logits = np.zeros(len(bundle.labels), np.int8)
    for change, words in [
        ({"recipe": short}, "one for each of"),
        ({"recipe": narrow}, "input does not fit"),
        ({"recipe": loud}, "input quantization"),
        ({"recipe": nervous}, "rearm"),
        ({"labels": bundle.labels[:3]}, "does not fit the labels"),
        ({"thresholds": {"blk0/X": 2}}, "Bad threshold"),
    ]:
        changed = dataclasses.replace(bundle, **change)
        with pytest.raises(KwsError, match=words):
            emission.emit_bundle(changed, tmp_path / "out")
        for engine in emit.ENGINES:
            with pytest.raises(KwsError, match=words):
                emit.emit(changed, tmp_path / "out", logits, "dsp", engine)
    with pytest.raises(KwsError, match="No such core"):
        emit.emit(bundle, tmp_path / "out", logits, "m7")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_refused_before_anything_runs(
    bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Any) -> None:
        pytest.fail("the self-test's clip was run")

    monkeypatch.setattr(host, "selftest_run", run)
    with pytest.raises(KwsError, match="No such core"):
        emission.emit_bundle(bundle, tmp_path / "out", "m7")
    with pytest.raises(KwsError, match="No such engine"):
        emission.emit_bundle(bundle, tmp_path / "out", "dsp", "tensorrt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(KwsError, match="holds something else"):
        emission.export_library(bundle, tmp_path / "mine")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", emit.ENGINES)
def test_files_that_were_not_emitted_stay(
    bundle: Any, tmp_path: Path, engine: str
) -> None:
    """A model.tflite and C of the user's own names were replaced, or removed."""
    logits = np.zeros(len(bundle.labels), np.int8)
    foreign = ("kws_model.c", "kws_operators.cc", "model.tflite")
    for name in foreign:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("/* mine */")
        with pytest.raises(KwsError, match=f"did not write {name}, which"):
            emission.emit_bundle(bundle, folder, "dsp", engine)
        with pytest.raises(KwsError, match=f"did not write {name}, which") as caught:
            emit.emit(bundle, folder, logits, "dsp", engine, 1 << 16)
        assert caught.value.hint == f"--out {folder}-new"
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "/* mine */"
    # What either engine emitted goes, also where it was stopped before its network.
    for before in emit.ENGINES:
        for left in ((), ("kws_model.c",), ("kws_model.c", "model_data.cc")):
            folder = tmp_path / f"{before}{len(left)}"
            emit.emit(bundle, folder, logits, "dsp", before, 1 << 16)
            for name in left:
                (folder / name).unlink(missing_ok=True)
            made = emit.emit(bundle, folder, logits, "dsp", engine, 1 << 16)
            assert sorted(folder.iterdir()) == sorted(made.files)


@pytest.mark.parametrize("engine", emit.ENGINES)
def test_emitting_runs_nothing(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a process nor C in this one: what a run tells is given."""

    def refused(*_: Any, **__: Any) -> None:
        pytest.fail("something was run")

    monkeypatch.setattr(subprocess, "Popen", refused)  # and so subprocess.run
    monkeypatch.setattr(cffi.FFI, "dlopen", refused)
    bundle = bundles.load("kwt-tiny")
    logits = np.arange(len(bundle.labels), dtype=np.int8) - 3
    arena = 40_000 if engine == "tflm" else 0
    emitted = emit.emit(bundle, tmp_path, logits, "dsp", engine, arena)
    assert {tmp_path / name for name in emit.FILES} <= set(emitted.files)
    text = (tmp_path / emit.SELFTEST).read_text()
    table = text.split("kws_selftest_logits[")[1].split("{")[1].split("}")[0]
    assert [int(number) for number in table.split(",")[:-1]] == logits.tolist()
    if engine == "tflm":  # a tenth more than what was measured
        assert 44_000 <= emitted.arena_bytes <= 44_016
    with pytest.raises(pytest.fail.Exception, match="something was run"):
        host.selftest_run(bundle)


LISTING = """
import dataclasses, sys, tempfile
from pathlib import Path
import numpy as np
from kws import bundle, emit
run = dataclasses.replace(bundle.load("kwt-tiny"), thresholds={})
with tempfile.TemporaryDirectory() as folder:
    for core in ("portable", "dsp", "mve"):
        emit.emit(run, Path(folder), np.zeros(len(run.labels), np.int8), core)
for name, module in sorted(sys.modules.items()):
    print(name, getattr(module, "__file__", None))
"""


def test_emitting_loads_nothing_that_runs() -> None:
    """Arrows run down (DESIGN D19). What is loaded is in the caches' fingerprint."""
    run = subprocess.run(
        [sys.executable, "-c", LISTING], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert {"kws.emit.native", "kws.graph.products"} <= set(loaded)
    above = ("simulate", "engines", "deploy", "model", "layers", "train", "evaluate")
    for name in (*(f"kws.{part}" for part in above), "tensorflow", "tf_keras"):
        assert name not in loaded
    own = {Path(p) for name, p in loaded.items() if name.startswith("kws.")}
    assert own <= set(host.emitter_files())


@pytest.mark.parametrize(
    ("hop", "hop_frames", "decisions"), [(160, 16, 4), (200, 1, 48), (8, 1, 1200)]
)
def test_600_ms_of_refractory_time_in_decisions(
    hop: int, hop_frames: int, decisions: int
) -> None:
    bundle = bundles.load("kwt-tiny")
    recipe = dataclasses.replace(
        bundle.recipe,
        features=dataclasses.replace(bundle.recipe.features, hop=hop),
        detector=dataclasses.replace(
            bundle.recipe.detector, hop_frames=hop_frames, refractory_ms=600
        ),
    )
    network = native.sources(bundle, "portable").network
    bundle = dataclasses.replace(bundle, recipe=recipe)
    text = common.info_source(bundle, network, 0.1)
    assert f"  .refractory = {decisions},\n" in text


def test_every_word_may_have_its_own_threshold(bundle: Any, tmp_path: Path) -> None:
    own = tuple(0.5 + 0.1 * i for i in range(len(bundle.labels) - 2))
    detector = dataclasses.replace(bundle.recipe.detector, word_thresholds=own)
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    emission.emit_bundle(dataclasses.replace(bundle, recipe=recipe), tmp_path)
    text = (tmp_path / "kws_model.c").read_text()
    table = text.split("detector_threshold[")[1].split("{")[1].split("}")[0]
    numbers = [int(number) for number in table.split(",") if number.strip()]
    assert numbers == [32767, 32767, *(round(32767 * share) for share in own)]


# --- small parts ---


@pytest.mark.parametrize(
    "text", ['"', "a\\", "??/", "*/ evil(); /*", "\n", "jä", "/", "%s", "\0"]
)
def test_no_text_breaks_out_of_c(text: str, tmp_path: Path) -> None:
    source = tmp_path / "text.c"
    source.write_text(
        "#include <stdio.h>\n"
        f"{c_text.comment(text)}\n"
        f"static const char text[] = {c_text.string(text)};\n"
        "int main(void) { fwrite(text, 1, sizeof text - 1, stdout); return 0; }\n"
    )
    program = toolbox.host_compile([source], tmp_path / "text", "-Wtrigraphs")
    run = subprocess.run([program], capture_output=True, check=True)
    assert run.stdout == text.encode()


def test_mulaw_is_the_nearest_code() -> None:
    pcm = np.arange(-32768, 32768, 7).astype(np.int16)
    levels = selftest.mulaw_decode(np.arange(256, dtype=np.uint8)).astype(np.int64)
    decoded = selftest.mulaw_decode(selftest.mulaw_encode(pcm))
    error = np.abs(decoded.astype(np.int64) - pcm)
    best = np.abs(levels[None, :] - pcm[:, None].astype(np.int64)).min(axis=1)
    np.testing.assert_array_equal(error, best)


def test_the_self_test_clip_is_loud_and_varied() -> None:
    pcm = selftest.mulaw_decode(selftest.clip(16000)).astype(np.int64)
    assert np.abs(pcm).max() > 8000
    loudness = [np.abs(part).mean() for part in np.array_split(pcm, 100)]
    assert max(loudness) > 4 * min(loudness)


def test_feature_tables_are_declared_as_the_model_expects() -> None:
    text = c_source(Features(), "kws_model_features")
    assert "const kws_feature_spec_t kws_model_features" in text
