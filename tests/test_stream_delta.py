"""Delta in time (DESIGN D16): what is held, and sums, live from step to step."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

import sample_models
import test_stream
import toolbox
from test_stream import FRAMES, LONG, TOKENS

from kws import attention
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.cli.profile import command
from kws.deploy import boards, emission, flash, host, per_second, run
from kws.emit import native, tflm
from kws.engines import host as engine
from kws.errors import KwsError
from kws.graph import cost
from kws.graph.nodes import Product
from kws.recipe import decision_ms
from kws.simulate import delta, measure
from kws.simulate.integer import IntegerSimulator
from kws.simulate.simulator import Run
from kws.thresholds import Slot, Slots, Thresholds

STEP = 4  # frames
KINDS = ("F", "C", "E", "M", "H", "R")
REPEATS = dict.fromkeys(KINDS, 0)
MIXED = {"F": 5, "C": 3, "E": 12, "M": 9, "H": 4, "1.H": 2, "R": 3}


def with_thresholds(steps: dict[str, int]) -> Bundle:
    return dataclasses.replace(test_stream.sample(), thresholds=steps)


def slots() -> Slots:
    return attention.slots(test_stream.sample().recipe.model)


def random_thresholds(seed: int) -> dict[str, int]:
    """Some slots encoded, some not; few repeats only."""
    rng = np.random.default_rng(seed)
    values = np.where(
        rng.random(len(slots())) < 0.2, -1, rng.integers(0, 30, len(slots()))
    )
    return Thresholds(slots(), values).to_steps()


def drifting(frames: int, seed: int = 5) -> np.ndarray:
    """int8 [frames, 40]: quiet stretches, steady noise, jumps."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.choice([0, 2, 30], frames // 16 + 1), 16)[:frames, None]
    level = np.repeat(rng.normal(0, 40, (frames // 16 + 1, 40)), 16, axis=0)[:frames]
    return np.clip(level + loud * rng.normal(0, 1, (frames, 40)), -128, 127).astype(
        np.int8
    )


def simulated(bundle: Bundle, clips: np.ndarray) -> Run:
    simulator = IntegerSimulator(bundle)
    steps = Thresholds.from_dict(bundle.thresholds, simulator.slots)
    return simulator.run(clips, simulator.thresholds(steps))


def sent_by_slot(bundle: Bundle, sent: np.ndarray) -> dict[Slot, np.ndarray]:
    """What was transmitted of each slot's tensors; several products may read one, and
    each encodes it for itself."""
    found: dict[Slot, dict[int, np.ndarray]] = {}
    for product, column in zip(emission.products(bundle), sent.T, strict=True):
        tensors = found.setdefault(product.slot, {})
        known = tensors.setdefault(id(product.tensor), column)
        np.testing.assert_array_equal(column, known)
    return {slot: sum(tensors.values()) for slot, tensors in found.items()}


class Held:
    """The rule in numpy, over a whole stream: what each kind's reference is.

    Args:
        steps: Thresholds.
    """

    def __init__(self, steps: dict[str, int]) -> None:
        self.steps = Thresholds.from_dict(steps, slots())
        self.references: dict[int, np.ndarray] = {}  # each product encodes for itself

    def __call__(self, product: Product, rows: np.ndarray) -> np.ndarray:
        threshold = int(self.steps[product.slot])
        if threshold < 0:
            return rows
        before = self.references.get(id(product.node))
        if before is None:  # the first row is transmitted whole
            held = delta.encode(rows[None], threshold).held[0]
        else:
            both = np.concatenate([before[None], rows])
            held = delta.encode(both[None], threshold).held[0, 1:]
        self.references[id(product.node)] = held[-1]
        assert np.abs(held.astype(int) - rows).max() <= threshold  # no drift
        return held


def test_kinds_are_the_blocks_with_the_stem_s_and_the_read_out_s() -> None:
    assert slots().by_layer == (("F", "C", "E", "M", "H"), ("M", "H", "R"))
    assert set(slots().kinds) <= set(attention.kind_names())
    mean = test_stream.causal(readout="mean", token_kernel=0).model
    assert attention.slots(mean).by_layer[-1] == ("M", "H")


def test_repeats_alone_are_dense_for_ever() -> None:
    """Threshold 0, 400 steps, each ring round 50 times: no bit differs."""
    features = drifting(400 * STEP)
    steps = np.split(features, 400)
    dense = test_stream.decisions(steps)
    held, sent = test_stream.counted_decisions(steps, with_thresholds(REPEATS))
    np.testing.assert_array_equal(held, dense)
    later = sent[TOKENS:]
    assert later.min() == 0  # something was skipped
    assert (later.max(axis=0) > 0).all()  # and something not


@pytest.mark.parametrize("seed", range(6))
def test_a_clip_is_a_stream_from_a_reset(seed: int) -> None:
    """The simulator along the clip's rows, the C from step to step: bits and counts."""
    bundle = with_thresholds(random_thresholds(seed))
    clips = np.stack([drifting(FRAMES, 10 * seed + clip) for clip in range(6)])
    clips[-1] = sample_models.features(2, clips.shape[1:], seed)[1]
    expected = simulated(bundle, clips)
    logits, sent = engine.invoke(bundle, clips)
    np.testing.assert_array_equal(logits, expected.logits)
    encoded = [
        slots().index(slot) for slot in slots() if slot in expected.counts.encoded
    ]
    found = sent_by_slot(bundle, sent)
    assert set(found) == set(expected.counts.encoded)
    in_order = np.stack([found[tuple(slots())[place]] for place in encoded], axis=1)
    np.testing.assert_array_equal(in_order, expected.counts.sent[:, encoded])


# Drawn in the test: the network behind it, made while tests are collected, would start
# TensorFlow before test_train can ask for two devices.
@pytest.mark.parametrize("steps", [REPEATS, MIXED, None], ids=["repeats", "mixed", "7"])
def test_a_stream_goes_on_as_held_values_do(steps: dict[str, int] | None) -> None:
    """Every decision of a long stream against the rule in numpy, no state kept."""
    if steps is None:
        steps = random_thresholds(7)
    features = drifting(2 * LONG)
    pieces = np.split(features, len(features) // STEP)
    found = test_stream.decisions(pieces, with_thresholds(steps))[TOKENS - 1 :]
    expected = test_stream.expected_decisions(features, Held(steps))
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1, 3, 7, 33, LONG])
def test_how_it_is_cut_changes_nothing(size: int) -> None:
    bundle, features = with_thresholds(MIXED), test_stream.long_features()
    pieces = [features[at : at + size] for at in range(0, LONG, size)]
    whole = test_stream.counted_decisions(np.split(features, LONG // STEP), bundle)
    logits, sent = test_stream.counted_decisions(pieces, bundle)
    np.testing.assert_array_equal(logits[-1], whole[0][-1])
    np.testing.assert_array_equal(sent[-1], whole[1][-1])


def test_a_reset_forgets() -> None:
    """The same clip after anything gives its first decision, and its counts, again."""
    bundle = with_thresholds(MIXED)
    clips = np.stack([drifting(FRAMES, seed) for seed in (1, 2, 3, 1)])
    logits, sent = engine.invoke(bundle, clips)
    np.testing.assert_array_equal(logits[3], logits[0])
    np.testing.assert_array_equal(sent[3], sent[0])
    assert (sent[1] != sent[0]).any()


def test_silence_sends_nothing_once_the_past_is_full() -> None:
    """What the stem, the token convolutions and the read-out look back on."""
    features = np.full((8 * FRAMES, 40), -100, np.int8)
    features[: 2 * FRAMES] = drifting(2 * FRAMES)
    pieces = np.split(features, len(features) // STEP)
    for steps in (REPEATS, MIXED):
        bundle = with_thresholds(steps)
        _, sent = test_stream.counted_decisions(pieces, bundle)
        step = native.sources(bundle, "portable").network.stream
        assert step is not None
        looks_back = step.looks_back + 1
        assert sent[2 * TOKENS : 2 * TOKENS + 2].any()
        assert not sent[2 * TOKENS + looks_back :].any()


def test_rest_does_not_begin_before_the_last_change_has_passed_through() -> None:
    """Whatever is held on the way: sound, then nothing, and no bit differs."""
    rested = {kinds: with_thresholds(dict.fromkeys(kinds, 0)) for kinds in ("F", "FC")}
    streams = [native.sources(b, "portable").network.stream for b in rested.values()]
    assert len({step.looks_back for step in streams if step is not None}) == 1
    calm = 4 * TOKENS * STEP
    pieces = []
    for seed in range(8):
        pieces += [test_stream.long_features(seed, FRAMES), np.zeros((calm, 40))]
    features = np.concatenate(pieces).astype(np.int8)
    steps = np.split(features, len(features) // STEP)
    dense = test_stream.decisions(steps)
    for bundle in rested.values():
        np.testing.assert_array_equal(test_stream.decisions(steps, bundle), dense)


@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-m55"])
@pytest.mark.parametrize("steps", [REPEATS, MIXED], ids=["repeats", "mixed"])
def test_boards_run_the_same_stream(board: str, steps: dict[str, int]) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle, target = with_thresholds(steps), boards.load(board)
    samples = bundle.recipe.features.clip_samples
    rng = np.random.default_rng(2)
    # Several windows long, loud, then faint; the last decision of each is compared.
    loud = np.repeat([900, 30, 300], samples)
    pcm = (loud * rng.normal(0, 1, (2, 3 * samples))).astype(np.int16)
    name = f"delta-{board}-{len(steps)}"
    image = flash.emit_and_build(
        bundle, target, test_stream.folder() / name, app="clips"
    )
    result = run.clips(image.elf, target, pcm, len(bundle.labels), jobs=1)
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        logits, sent = copy.clips(pcm)
    np.testing.assert_array_equal(result.logits, logits)
    np.testing.assert_array_equal(result.sent, sent)


def test_what_a_step_costs() -> None:
    """By the one rule: an element that is sent costs its column; all are compared."""
    bundle = with_thresholds(MIXED)
    network = native.sources(bundle, "dsp").network
    dense = cost.total(network.nodes)
    none = cost.total(network.nodes, network.transmitted([0] * len(network.products)))
    skipped = sum(p.inputs * p.macs for p in network.products)
    assert dense.macs - none.macs == skipped > 0
    assert none.comparisons == sum(p.inputs for p in network.products)
    assert (
        network.arena_bytes
        > native.sources(test_stream.sample(), "dsp").network.arena_bytes
    )


def test_an_interpreter_runs_what_dense_layers_read() -> None:
    """In the clip's form; features and convolutions it can't hold by itself."""
    texts = tflm.sources(with_thresholds(REPEATS | {"M": 4}), "dsp", 1 << 16).texts
    assert texts["kws_model.c"].count("kws_delta_fully_connected_t delta") > 3
    for kind in ("F", "C"):
        with pytest.raises(KwsError, match=f"threshold of {kind}"):
            tflm.sources(with_thresholds({kind: 1}), "dsp", 1 << 16)


def test_a_float_network_for_streams_has_no_thresholds() -> None:
    with pytest.raises(KwsError, match="simulated on its int8 form"):
        measure.make_simulator(test_stream.sample(), "float")


def test_a_recording_is_counted_as_one_stream() -> None:
    """MACs by the rule, steps at rest for nothing; a quiet end costs less."""
    bundle = with_thresholds(REPEATS)
    second = bundle.recipe.features.sample_rate
    rng = np.random.default_rng(4)
    loud = rng.normal(0, 900, 3 * second).astype(np.int16)
    quiet = np.concatenate([loud, np.zeros(9 * second, np.int16)])
    busy, calm = (per_second.on_host(bundle, pcm) for pcm in (loud, quiet))
    assert busy.seconds == 3.0 and calm.seconds == 12.0
    assert busy.at_rest == 0 and 0.4 < calm.at_rest < 0.75
    assert 0 < calm.macs.mean() < busy.macs.mean() <= busy.macs_dense
    assert calm.macs.min() == 0
    assert set(busy.sent) == set(KINDS)
    assert all(calm.sent[kind] < share <= 1 for kind, share in busy.sent.items())
    table = busy.as_dict()
    assert table["macs_per_second"] == pytest.approx(
        busy.macs.mean() * busy.decisions_per_second
    )
    with pytest.raises(KwsError, match="too short for the model to decide twice"):
        per_second.on_host(bundle, loud[: second // 2])


VARIANTS: dict[str, dict[str, Any]] = {
    "low rank": {"mlp_rank": 6},
    "mean": {"readout": "mean"},
    "no mixing, batch norm": {"token_kernel": 0, "norm": "batch", "share": "none"},
    "one convolution": {"stem_second_channels": 0, "stem_stride": (4, 4)},
    "steps of two frames": {"stem_stride": (1, 4)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_networks_for_streams(name: str, tmp_path: Path) -> None:
    spec = test_stream.causal(**VARIANTS[name])
    step = spec.model.stem_stride[0] * (2 if spec.model.stem_second_channels else 1)
    detector = dataclasses.replace(spec.detector, hop_frames=step)
    spec = dataclasses.replace(spec, detector=detector)
    made = sample_models.bundle(tmp_path / "run", spec, sample_models.network(spec))
    kinds = attention.slots(spec.model).kinds
    steps = {kind: value for kind, value in MIXED.items() if kind in kinds}
    clips = np.stack([drifting(FRAMES, seed) for seed in range(4)])
    for thresholds in ({}, dict.fromkeys(kinds, 0), steps):
        bundle = dataclasses.replace(made, thresholds=thresholds)
        expected = simulated(bundle, clips)
        logits, sent = engine.invoke(bundle, clips)
        np.testing.assert_array_equal(logits, expected.logits)
        if thresholds:
            np.testing.assert_array_equal(sent, expected.counts.sent)


def test_the_command_profiles_a_recording(tmp_path: Path) -> None:
    """DESIGN section 4's keys, instructions counted on an emulated board."""
    toolbox.need_qemu()
    toolbox.need_compiler()
    source = with_thresholds(MIXED)
    folder = tmp_path / "run"
    shutil.copytree(source.path, folder)
    bundles.save(dataclasses.replace(source, path=folder))
    noise = np.random.default_rng(1).normal(0, 500, 16000 * 3).astype(np.int16)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    arguments = [str(folder), "--audio", str(tmp_path / "noise.wav"), "--json"]
    arguments += ["--board", "qemu-m4", "--out", str(tmp_path / "build")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    spent = table["instructions_per_second"]
    assert spent["total"] == spent["features"] + spent["model"] > 0
    rate = table["decisions_per_second"]
    assert table["seconds"] == 3.0 and rate == 1000 / decision_ms(source.recipe)
    assert 0 < table["sleep_share"] < 1
    each = table["instructions_per_decision"]
    assert spent["model"] == round(rate * each["mean"]) and each["mean"] <= each["max"]
    assert 0 < table["macs_executed"] < table["macs_dense"]
    # In place of a real board: its clock, and its microphone's interrupt as well.
    arguments[-4:] = ["--board", "b-l475e-iot01a", "--on", "qemu-m4"]
    arguments += ["--out", str(tmp_path / "other")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    table, part = json.loads(result.stdout), boards.load("b-l475e-iot01a")
    spent = table["instructions_per_second"]
    second = spent["total"] + spent["loop"] + 100 * part.microphone_instructions
    asleep = 1 - second * part.cycles_per_instruction / part.clock_hz
    assert table["sleep_share"] == pytest.approx(asleep)
