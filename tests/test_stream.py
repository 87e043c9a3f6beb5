"""Streaming as a pass: a clip is a stream from a reset, and a stream goes on."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

import sample_models
import toolbox

from kws import attention, evaluate, recipe
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.cli import emit as emit_command
from kws.cli.eval import command as eval_command
from kws.data import ClipSet
from kws.deploy import boards, flash, host, run
from kws.emit import native, step_model
from kws.engines import common
from kws.errors import KwsError
from kws.features import extract
from kws.graph import cost, passes, reader, stream
from kws.graph.nodes import Graph, Node, Product
from kws.layers.keras import tf
from kws.model import network as networks
from kws.model import stream as trained
from kws.paths import FIRMWARE
from kws.simulate import operators

FRAMES, TOKENS = 32, 8
LONG = 5 * FRAMES  # every ring comes round five times


def causal(**model: Any) -> recipe.Recipe:
    """kwt-stream-tiny, small, of 8 tokens of 4 frames."""
    spec = sample_models.recipe("kwt-stream-tiny", FRAMES)
    shape = {"dim": 16, "mlp_dim": 24, "layers": 2, "groups": 2, "queries": 3}
    shape |= {"stem_stride": (2, 4), "readout_dim": 12}
    return dataclasses.replace(
        spec,
        model=dataclasses.replace(spec.model, **(shape | model)),
        detector=dataclasses.replace(spec.detector, hop_frames=4),
        quantize=dataclasses.replace(spec.quantize, delta_thresholds=""),
    )


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-stream-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def sample() -> Bundle:
    spec = causal()
    return sample_models.bundle(folder() / "run", spec, sample_models.network(spec))


def long_features(seed: int = 3, frames: int = LONG) -> np.ndarray:
    """int8 [frames, mel_bins]: something that moves, loud and quiet."""
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.normal(0, 9, (frames, 1)), axis=0)
    return np.clip(rng.normal(0, 25, (frames, 40)) + drift, -128, 127).astype(np.int8)


def decisions(pieces: list[np.ndarray], bundle: Bundle | None = None) -> np.ndarray:
    """Logits of the C after each step of 4 frames, from a reset: int8 [N, labels]."""
    return counted_decisions(pieces, bundle)[0]


def counted_decisions(
    pieces: list[np.ndarray], bundle: Bundle | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same, and what each product that skips transmitted: uint32 [N, products]."""
    bundle = bundle or sample()
    out, sent = [], []
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        copy.ffi.cdef(
            "void kws_model_reset(void);"
            "void kws_model_step(const int8_t *frames, uint32_t n, int8_t *logits);"
        )
        logits = np.full(len(bundle.labels), 99, np.int8)
        copy.lib.kws_model_reset()
        for piece in pieces:
            part = np.ascontiguousarray(piece)
            copy.lib.kws_model_step(
                copy.ffi.cast("int8_t *", part.ctypes.data),
                len(part),
                copy.ffi.cast("int8_t *", logits.ctypes.data),
            )
            out.append(logits.copy())
            counts = copy.ffi.new("uint32_t[]", max(1, copy.products))
            copy.lib.kws_host_sent(counts, copy.products)
            sent.append(np.array(list(counts)[: copy.products], np.uint32))
    return np.stack(out), np.stack(sent)


def pass_on(product: Product, rows: np.ndarray) -> np.ndarray:
    """No delta encoding."""
    return rows


def expected_decisions(
    features: np.ndarray,
    hold: Callable[[Product, np.ndarray], np.ndarray] = pass_on,
) -> np.ndarray:
    """The same from the clip's graph, stretched over the whole recording, in numpy.

    All tokens at once, with the padding of the clip form in front; then the read-out on
    each window of TOKENS of them.

    Args:
        features: int8 [frames, mel_bins], whole windows.
        hold: What a delta encoding makes of a product's input, int8 [rows, inputs]: the
            rows of all tokens, or of one decision after the other.
    """
    graph = reader.read(sample().model_bytes())
    passes.prepare(graph)
    found = attention.find_products(graph, sample().recipe, len(sample().labels))

    def inputs_of(node: Node, values: dict[int, np.ndarray]) -> list[np.ndarray]:
        taken = []
        for tensor in node.variables:
            value, product = values[id(tensor)], found.at(node, tensor)
            if product is not None and product.kind:
                rows = value.reshape(-1, product.inputs)
                value = hold(product, rows).reshape(value.shape)
            taken.append(value)
        return taken

    made = stream._Derivation(reader_copy())
    made.run()
    times = {node.output.name: made.time.get(id(node.output)) for node in made.nodes}
    longer = len(features) // FRAMES
    values: dict[int, np.ndarray] = {}
    graph.input.shape = (1, len(features), 40)
    values[id(graph.input)] = features.reshape(1, 1, len(features), 40)
    later: list[Any] = []
    for node in graph.nodes:
        time = times.get(node.output.name)
        if time is None or any(id(t) not in values for t in node.variables):
            later.append(node)
            continue
        shape = list(node.output.shape)
        shape[time.axis] = time.rows * longer + time.pad
        node.output.shape = tuple(shape)
        inputs = inputs_of(node, values)
        values[id(node.output)] = operators.prepare(node)(*inputs)
    out = []
    for end in range(TOKENS, TOKENS * longer + 1):
        now = dict(values)
        for node in later:
            for tensor in node.variables:
                time = times.get(tensor.name)
                if time is not None and id(tensor) in values:
                    axis = time.axis + 1  # behind the batch
                    window = range(end - TOKENS, end)
                    tensor.shape = tuple(
                        TOKENS if i == time.axis else n
                        for i, n in enumerate(tensor.shape)
                    )
                    now[id(tensor)] = np.take(values[id(tensor)], window, axis)
        for node in later:
            inputs = inputs_of(node, now)
            now[id(node.output)] = operators.prepare(node)(*inputs)
        out.append(now[id(graph.output)].reshape(-1))
    return np.stack(out)


def reader_copy() -> Graph:
    graph = reader.read(sample().model_bytes())
    passes.prepare(graph)
    return graph


def test_a_clip_is_a_stream_from_a_reset() -> None:
    """TFLM runs the clip, the C the stream: the same bits, by features and by sound."""
    bundle = sample()
    clips = np.stack([long_features(seed)[:FRAMES] for seed in range(12)])
    expected = sample_models.tflm_logits(bundle.model_bytes(), clips)
    assert expected.std() > 3  # not stuck: the comparison means something
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        np.testing.assert_array_equal(copy.invoke(clips)[0], expected)
        rng = np.random.default_rng(1)
        samples = bundle.recipe.features.clip_samples
        pcm = rng.normal(0, 800, (4, samples)).astype(np.int16)
        heard = sample_models.tflm_logits(
            bundle.model_bytes(), common.features(bundle, pcm)
        )
        np.testing.assert_array_equal(copy.clips(pcm)[0], heard)


def test_a_stream_goes_on() -> None:
    """Each token once: every later decision is that of all tokens computed at once."""
    features = long_features()
    steps = np.split(features, LONG // 4)
    found = decisions(steps)[TOKENS - 1 :]
    expected = expected_decisions(features)
    assert len(found) == len(expected) == LONG // 4 - TOKENS + 1
    np.testing.assert_array_equal(found, expected)
    # What came before is heard: not a cold start's logits.
    cold = sample_models.tflm_logits(sample().model_bytes(), features[None, -FRAMES:])
    assert (found[-1] != cold[0]).any()


@pytest.mark.parametrize("size", [1, 3, 4, 7, 33, LONG])
def test_how_it_is_cut_changes_no_bit(size: int) -> None:
    features = long_features()
    pieces = [features[at : at + size] for at in range(0, LONG, size)]
    np.testing.assert_array_equal(
        decisions(pieces)[-1], decisions(np.split(features, LONG // 4))[-1]
    )


def test_what_has_not_come_makes_no_difference() -> None:
    """Frames behind a decision are poisoned, one side and the other."""
    features = long_features()
    steps = np.split(features, LONG // 4)
    whole = decisions(steps)
    for poison in (-128, 127):
        for end in (TOKENS, TOKENS + 5):
            spoiled = [*steps[:end], *(np.full_like(s, poison) for s in steps[end:])]
            np.testing.assert_array_equal(decisions(spoiled)[:end], whole[:end])


@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_boards_run_the_same_stream(board: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle, target = sample(), boards.load(board)
    samples = bundle.recipe.features.clip_samples
    rng = np.random.default_rng(2)
    # Several windows long: the last decision of each is compared.
    pcm = rng.normal(0, 900, (2, 3 * samples)).astype(np.int16)
    image = flash.emit_and_build(bundle, target, folder() / board, app="clips")
    result = run.clips(image.elf, target, pcm, len(bundle.labels), jobs=1)
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        expected, _ = copy.clips(pcm)
    np.testing.assert_array_equal(result.logits, expected)


def test_a_step_costs_one_token_and_the_read_out() -> None:
    bundle = sample()
    clip = cost.total(reader_copy().nodes)
    step = native.sources(bundle, "dsp").network
    assert step.stream == stream.Stream(4, FRAMES, TOKENS, 2 + 2 * 4 + TOKENS - 1)
    graph = reader_copy()
    readout = [n for n in graph.nodes if n.output.elements // n.output.shape[-1] <= 3]
    once = cost.total(readout).macs
    assert step.dense.macs == (clip.macs - once) // TOKENS + once
    assert 0 < step.dense.total(purpose="state") < 4000


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"causal": False}, "padded on both sides"),
        ({"readout": "mean", "causal": True, "token_kernel": 0}, None),
    ],
)
def test_what_can_and_can_t_stream(changes: dict[str, Any], why: str | None) -> None:
    spec = causal(**changes)
    graph = reader.read(sample_models.network(spec))
    passes.prepare(graph)
    if why is None:
        assert stream.derive(graph).tokens == TOKENS
        return
    with pytest.raises(KwsError, match=f"can't run on a stream.*{why}"):
        stream.derive(graph)


def test_attention_in_a_block_is_refused_by_name() -> None:
    spec = sample_models.recipe("kwt-tiny", FRAMES, layers=1, groups=1)
    graph = reader.read(sample_models.network(spec))
    passes.prepare(graph)
    with pytest.raises(KwsError, match="can't run on a stream: CONV_2D"):
        stream.derive(graph)
    with pytest.raises(KwsError, match="attention sees the clip"):
        networks.check(causal(attention="folded"))


def test_frames_have_to_be_whole_steps() -> None:
    graph = reader_copy()
    graph.input.shape = (1, 34, 40)
    with pytest.raises(KwsError, match="whole steps of 4 frames") as error:
        stream.derive(graph)
    assert error.value.hint == "[features] frames = 32"


# --- training for it ------------------------------------------------------------------


def float_network(spec: recipe.Recipe) -> Any:
    return networks.build(spec, 5)


def test_pairs_are_two_clips_one_after_the_other() -> None:
    spec = causal()
    net = float_network(spec)
    rng = np.random.default_rng(0)
    real = tf.constant(rng.normal(-3, 2, (4, FRAMES, 40)), tf.float32)
    logits = trained.paired(net, spec)(real[:2], real[2:])
    np.testing.assert_allclose(logits[:2], net(real[:2]), atol=1e-5)  # a cold start
    assert np.abs(logits[2:] - net(real[2:])).max() > 1e-3  # not after another clip
    again = trained.paired(net, spec)(real[1:2], real[3:])
    np.testing.assert_allclose(again[1], logits[3], atol=1e-5)


@pytest.mark.parametrize("size", [4, 5])
def test_a_training_batch_gives_one_decision_a_clip(size: int) -> None:
    spec = causal()
    net = float_network(spec)
    real = tf.random.stateless_normal((size, FRAMES, 40), (1, 2)) - 3
    forward = trained.trained(net, spec)
    ends, between = forward(real, tf.constant(7))
    assert ends.shape == (size, 5) and between.shape == ((size + 1) // 2, 5)
    for first, again in zip((ends, between), forward(real, 7), strict=True):
        np.testing.assert_array_equal(first, again)
    drawn = [forward(real, step) for step in range(40)]
    late, later = ({tuple(both[i].numpy()[0]) for both in drawn} for i in (0, 1))
    assert len(late) == trained.LATE_TOKENS
    assert len(later) == TOKENS - trained.LATE_TOKENS and not late & later
    # The second clips' decisions come up to 3 tokens early, and are no others.
    half = (size + 1) // 2
    early = {tuple(both[0].numpy()[half]) for both in drawn}
    run = trained.paired(net, spec)
    for before in range(trained.EARLY_TOKENS):
        warm = run(real[:half], real[size - half :], early=before, training=True)
        near = [np.allclose(row, warm[3 * half - size], atol=1e-5) for row in early]
        assert sum(near) == 1
    assert len(early) == trained.EARLY_TOKENS


def test_each_clip_is_judged_cold_and_after_the_one_before() -> None:
    spec = causal()
    net = float_network(spec)
    clips = np.stack([long_features(seed)[:FRAMES] for seed in range(7)])
    logits = trained.predictor(net, spec)(clips)
    features = spec.features
    real = (clips.astype(np.float32) - features.zero_point) * features.scale
    np.testing.assert_allclose(logits[:7], net(real), atol=1e-4)
    pairs = trained.paired(net, spec)(np.roll(real, 1, axis=0), real)
    np.testing.assert_allclose(logits[7:], pairs[7:], atol=1e-4)


@pytest.mark.parametrize(
    ("after", "steps"), [("silence", 0), ("word", 0), ("silence", 1), ("word", 3)]
)
def test_clips_are_judged_as_a_stream_hears_them(after: str, steps: int) -> None:
    """kws eval --after, --late: a stream from a reset, at the clip's end or some
    steps later, in silence."""
    bundle = sample()
    rng = np.random.default_rng(9)
    samples = bundle.recipe.features.clip_samples
    pcm = rng.integers(-9000, 9000, (5, samples + 700), np.int16)
    clips = ClipSet(
        pcm,
        np.arange(5, dtype=np.int32),
        list("abcde"),
        sample_models.LABELS,
        "val",
        {},
    )
    late_ms = steps * 4 * bundle.recipe.features.hop // 16
    result = evaluate.evaluate_clips(bundle, clips, after=after, late_ms=late_ms)
    step = 4 * bundle.recipe.features.hop
    size = pcm.shape[1] // step * step
    before = np.zeros((5, size), np.int16)
    if after == "word":
        before = np.roll(pcm, 1, axis=0)[:, -size:]
    for row in range(5):
        silence = np.zeros(steps * step, np.int16)
        heard = np.concatenate([pcm[row], silence])[: samples + len(silence)]
        stream = np.concatenate([before[row], heard])
        features = extract(stream, bundle.recipe.features)
        assert np.array_equal(decisions([features])[-1], result.logits[row])
    assert (result.logits != evaluate.evaluate_clips(bundle, clips).logits).any()
    assert result.as_dict()["after"] == after
    assert result.as_dict()["late_ms"] == late_ms
    if steps:
        with pytest.raises(KwsError, match="Expected --after silence or word"):
            evaluate.evaluate_clips(bundle, clips, late_ms=late_ms)
        with pytest.raises(KwsError, match=f"every {late_ms // steps} ms"):
            evaluate.evaluate_clips(bundle, clips, after=after, late_ms=late_ms + 1)


@pytest.mark.parametrize("late", ["100", "-7", "5000"])
def test_hints_of_late_work_as_they_are_typed(late: str) -> None:
    """They named the package's folder, steps that the network doesn't have, or streams
    for one that is none."""

    def refused(run: str, *more: str) -> KwsError:
        done = CliRunner().invoke(eval_command, [run, "--late", late, *more])
        assert isinstance(done.exception, KwsError)
        return done.exception

    assert refused("kwt-tiny").hint == "kws eval kwt-tiny"
    error = refused("kwt-stream-tiny")
    nearest = {"100": 80, "-7": 40, "5000": 1000}[late]
    hint = f"kws eval kwt-stream-tiny --after silence --late {nearest}"
    assert "Expected --after silence or word" in error.message and error.hint == hint
    bundle = bundles.load("kwt-stream-tiny")
    evaluate.check_after(bundle, "host", "silence", nearest)
    error = refused("kwt-stream-tiny", "--after", "word")
    assert error.hint == hint.replace("silence", "word")


def test_what_comes_before_a_clip_is_for_networks_for_streams() -> None:
    clips = ClipSet(
        np.zeros((1, 16000), np.int16),
        np.zeros(1, np.int32),
        ["a"],
        sample_models.LABELS,
        "val",
        {},
    )
    for bundle, engine in ((sample(), "tflm"), (bundles.load("kwt-tiny"), "host")):
        named = dataclasses.replace(clips, labels=bundle.labels)
        with pytest.raises(KwsError, match="networks for streams"):
            evaluate.evaluate_clips(bundle, named, engine, after="word")


# --- the step for an interpreter -----------------------------------------------------


def interpreted(model: bytes, features: np.ndarray, frames: int) -> np.ndarray:
    """TFLM's logits after each step, on this machine; then again, from a reset."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    shape = interpreter.get_input_details(0)["shape"]
    rounds = []
    for _ in range(2):
        out = []
        for piece in np.split(features, len(features) // frames):
            interpreter.set_input(piece.reshape(shape), 0)
            interpreter.invoke()
            out.append(interpreter.get_output(0).reshape(-1).copy())
        interpreter.reset()
        rounds.append(np.stack(out))
    np.testing.assert_array_equal(*rounds)
    return rounds[0]


def test_the_step_as_a_tflite_gives_the_streams_logits() -> None:
    """Every decision, rings gone round five times; and a reset forgets all of it."""
    model = step_model.build(sample().model_bytes())
    features = long_features()
    found = interpreted(model.data, features, model.stream.step_frames)
    expected = decisions(np.split(features, len(features) // 4))
    assert len(np.unique(expected, axis=0)) > LONG // 8
    np.testing.assert_array_equal(found, expected)


def test_the_step_of_a_shipped_network_is_its_dense_stream() -> None:
    bundle = dataclasses.replace(bundles.load("kwt-stream-tiny"), thresholds={})
    model = step_model.build(bundle.model_bytes())
    assert model.stream == stream.Stream(2, 48, 24, 42)
    assert model.kinds.count("VAR_HANDLE") == model.variables == 9
    features = long_features(frames=80)
    expected = decisions(np.split(features, 40), bundle)
    np.testing.assert_array_equal(interpreted(model.data, features, 2), expected)


def test_a_step_is_emitted_as_a_firmware_of_its_own(tmp_path: Path) -> None:
    """kws emit --engine tflm --step: what it writes, and that the C compiles."""
    arguments = ["kwt-stream-tiny", "--out", str(tmp_path), "--core", "portable"]
    result = CliRunner().invoke(
        emit_command.command, [*arguments, "--engine", "tflm", "--step"]
    )
    assert result.exit_code == 0, result.exception
    bundle = bundles.load("kwt-stream-tiny")
    written = (tmp_path / "model.tflite").read_bytes()
    assert written == step_model.build(bundle.model_bytes()).data
    text = (tmp_path / "kws_model.c").read_text()
    assert ".variables = 9" in text and ".inputs = 80" in text
    assert "AddVarHandle" in (tmp_path / "kws_operators.cc").read_text()
    engine = FIRMWARE / "engines" / "tflm"
    flags = ("-c", "-DKWS_CORE_PORTABLE=1", f"-I{engine}", f"-I{tmp_path}")
    toolbox.host_compile([tmp_path / "kws_model.c"], tmp_path / "model.o", *flags)
    refused = CliRunner().invoke(emit_command.command, [*arguments, "--step"])
    assert isinstance(refused.exception, KwsError)
    assert "--engine tflm with --step" in refused.exception.message
    arguments[0] = "kwt-tiny"  # hears whole clips
    refused = CliRunner().invoke(
        emit_command.command, [*arguments, "--engine", "tflm", "--step"]
    )
    assert isinstance(refused.exception, KwsError)
    assert "causal = true" in refused.exception.message
    assert refused.exception.hint.startswith("kws emit kwt-stream-tiny --out")


def test_a_step_whose_past_is_not_the_zero_point_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Variables start as that: another start would give other logits."""
    found = stream._Derivation._mapped

    def moved(self: Any, node: Node, time: Any) -> Any:
        time = found(self, node, time)
        return dataclasses.replace(time, value=time.value + 1) if time.pad else time

    monkeypatch.setattr(stream._Derivation, "_mapped", moved)
    with pytest.raises(KwsError, match="starts as its zero point"):
        step_model.build(sample().model_bytes())
