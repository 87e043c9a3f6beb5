"""Convolutional networks in the transformer's pipeline: from recipe to board."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="networks are made with TensorFlow")

import sample_models
import small_corpus
import toolbox

from kws import attention, engines, recipe, train
from kws.bundle import Bundle
from kws.engines import host
from kws.errors import KwsError
from kws.graph import cost, operators, reader, stream
from kws.layers import Kernel
from kws.model import baselines
from kws.model import network as networks
from kws.model.check import BASELINES
from kws.recipe import Recipe
from kws.simulate import operators as simulated

PRESETS = {
    "ds-cnn": "ds-cnn",
    "bc-resnet": "bc-resnet-1",
    "sparknet": "sparknet-16",
}
FAMILIES = list(PRESETS)
STAGES = ((1.0, 1, 1), (1.5, 2, 2))  # of bc-resnet, whose 12 blocks are alike


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kws-baselines-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def sample(family: str) -> tuple[Any, Bundle]:
    """A preset's network with random weights: as Keras has it, and converted."""
    spec = recipe.load(PRESETS[family])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "BC_RESNET_STAGES", STAGES)
        folded, model = sample_models.twins(spec)
    return folded, sample_models.bundle(folder() / family, spec, model)


def inputs(bundle: Bundle, count: int = 6) -> np.ndarray:
    spec = bundle.recipe.features
    return sample_models.features(count, (spec.frames, spec.mel_bins), seed=7)


def test_every_family_is_here() -> None:
    assert set(FAMILIES) == set(BASELINES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_s_c_and_the_simulator_s_operators_are_tflm(family: str) -> None:
    _, bundle = sample(family)
    clips = inputs(bundle)
    expected = sample_models.tflm_logits(bundle.model_bytes(), clips)
    assert expected.std() > 3  # not stuck: the comparisons mean something
    np.testing.assert_array_equal(host.invoke(bundle, clips)[0], expected)
    graph = reader.read(bundle.model_bytes())
    values = {id(graph.input): clips.reshape(-1, *graph.input.shape)}
    for node in graph.nodes:
        given = [values[id(tensor)] for tensor in node.variables]
        values[id(node.output)] = simulated.prepare(node)(*given)
    logits = values[id(graph.output)].reshape(expected.shape)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tflite_is_the_keras_network(family: str) -> None:
    """Strides and dilations that Keras computes in another way than the .tflite."""
    folded, bundle = sample(family)
    clips, spec = inputs(bundle, 12), bundle.recipe.features
    real = (clips.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    expected = folded(real).numpy()
    found = sample_models.tflm_logits(bundle.model_bytes(), clips)
    pair = np.corrcoef(expected.reshape(-1), found.reshape(-1))
    assert pair[0, 1] > 0.97


@pytest.mark.parametrize(
    ("family", "board"),
    [
        ("bc-resnet", "qemu-m0"),
        ("bc-resnet", "qemu-m4"),
        ("bc-resnet", "qemu-m55"),
        ("sparknet", "qemu-m55"),
    ],
)
def test_boards_compute_what_tflm_does(family: str, board: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    _, bundle = sample(family)
    rng = np.random.default_rng(4)
    samples = bundle.recipe.features.clip_samples
    pcm = (rng.normal(0, 1, (2, samples)) * [[300], [9000]]).astype(np.int16)
    expected = engines.get("tflm").logits(bundle, pcm)
    logits = engines.get("qemu").logits(bundle, pcm, jobs=1, board=board)
    np.testing.assert_array_equal(logits, expected)


def test_it_folds() -> None:
    """Batch norm goes into the convolution or dense layer in front of it."""
    spec = recipe.load("sparknet-16")
    source = networks.build(spec, 4)
    rng = np.random.default_rng(0)
    for weight in source.weights:
        if "norm" in weight.name:
            noise = rng.uniform(0.5, 1.5, weight.shape)
            weight.assign(noise.astype(np.float32))
    real = rng.normal(-3, 2, (2, 98, 40)).astype(np.float32)
    expected = source(real).numpy()
    found = networks.fold(source, spec, 4)(real).numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_one_is_trained_tuned_and_converted(tmp_path: Path) -> None:
    """The conversion compares every operator with the network that was tuned."""
    audio = small_corpus.make(tmp_path / "audio")
    spec = recipe.load("sparknet-16")
    spec = recipe.from_dict(
        {
            "task": {"name": "custom", "words": ["yes", "no"]},
            "augment": {"variants": 1},
            "train": {"epochs": 1, "batch_size": 16},
            "quantize": {"epochs": 1, "calibration_clips": 8},
        },
        spec,
    )
    bundle = train.train(spec, tmp_path / "run", train.RunOptions(data=audio))
    assert bundle.metrics["conversion"]["holds"]
    assert bundle.recipe.model.family == "sparknet"


def test_rows_are_added_to_groups_only_where_there_are_groups() -> None:
    sizes = {
        family: {
            operators.broadcast_groups(node)
            for node in reader.read(sample(family)[1].model_bytes()).nodes
            if node.kind == "ADD"
        }
        for family in ("bc-resnet", "sparknet")
    }
    assert sizes == {"bc-resnet": {1, 98}, "sparknet": {1}}


def test_ds_cnn_is_mlperf_tiny_s() -> None:
    """Beside the 49 x 40 x 10 of the DCT: convolution, 4 separable ones, dense."""
    _, bundle = sample("ds-cnn")
    counted = cost.total(reader.read(bundle.model_bytes()).nodes).macs
    labels = len(bundle.labels)
    separable = 4 * 125 * (64 * 9 + 64 * 64)
    mlperf = 125 * 64 * 40 + separable + 64 * labels
    assert counted - 49 * 40 * 10 == mlperf
    assert mlperf + 64 * (12 - labels) == 2_656_768  # with its 12 labels


def test_widths_and_weights_are_the_papers() -> None:
    """Parameters: BC-ResNet-1's 9.2 k; SparkNet's 4.6 k, without its norms."""
    kernels = {
        preset: sum(
            int(np.prod(part.kernel.shape))
            for part in networks.build(recipe.load(preset), 12).submodules
            if isinstance(part, Kernel)
        )
        for preset in ("bc-resnet-1", "sparknet-16")
    }
    # Beside kernels the paper counts norms: scale and shift of each channel, and of
    # each of 5 sub-bands behind a convolution over bins.
    widths = [8] * 2 + [12] * 2 + [16] * 4 + [20] * 4
    norms = 2 * (16 + 8 + 12 + 16 + 20 + 32) + 2 * sum(widths) + 5 * 2 * sum(widths)
    assert round(kernels["bc-resnet-1"] + norms, -2) == 9_200
    assert 4_400 < kernels["sparknet-16"] < 4_600


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_trained_as_kwt_tiny_is(family: str) -> None:
    mine, ours = recipe.load(PRESETS[family]), recipe.load("kwt-tiny")
    assert mine.task == ours.task and mine.train == ours.train
    assert mine.quantize == ours.quantize
    frames = ("roll_frames", "time_mask_frames")  # at the hop that a family has
    ratio = ours.features.hop / mine.features.hop
    for key, value in dataclasses.asdict(ours.augment).items():
        scaled = np.ceil(value * ratio) if key in frames else value
        assert getattr(mine.augment, key) == scaled, key


# --- what a recipe may say ------------------------------------------------------------


def changed(preset: str, **model: Any) -> Recipe:
    return recipe.from_dict({"model": model}, recipe.load(preset))


@pytest.mark.parametrize(
    ("preset", "model", "words"),
    [
        ("kwt-tiny", {"family": "resnet"}, "family: expected one of kwt, ds-cnn"),
        ("ds-cnn", {"heads": 2}, "heads: expected 1, since a ds-cnn has no such thing"),
        ("ds-cnn", {"causal": True}, "causal: expected False"),
        ("ds-cnn", {"cepstra": 41}, "cepstra: expected 0 to 40"),
        ("ds-cnn", {"layers": 0}, "layers: expected 1 to 4096"),
        ("bc-resnet-1", {"layers": 6}, "layers: expected 4, since a bc-resnet"),
        ("bc-resnet-1", {"dim": 7}, "dim: expected an even number"),
        ("sparknet-16", {"cepstra": 10}, "cepstra: expected 0, since a sparknet"),
    ],
)
def test_what_a_family_does_not_read_is_refused(
    preset: str, model: dict[str, Any], words: str
) -> None:
    with pytest.raises(KwsError, match=words):
        networks.check(changed(preset, **model))


@pytest.mark.parametrize(
    ("preset", "convert", "said"),
    [
        ("bc-resnet-1", True, True),
        ("bc-resnet-1", False, False),
        ("ds-cnn", True, False),
    ],
)
def test_what_may_not_convert_is_said_before_it_is_trained(
    preset: str,
    convert: bool,
    said: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = train.RunOptions(data=tmp_path / "nothing", convert=convert)
    with pytest.raises(KwsError):  # no clips: nothing is trained
        train.train(recipe.load(preset), tmp_path / "run", options)
    heard = capsys.readouterr().err
    assert ("may fail the conversion's check" in heard) == said


def test_thresholds_are_for_transformers() -> None:
    with pytest.raises(KwsError, match="thresholds are for transformers"):
        attention.slots(recipe.load("sparknet-16").model)
    spec = recipe.from_dict(
        {"quantize": {"delta_thresholds": "X=3"}}, recipe.load("sparknet-16")
    )
    with pytest.raises(KwsError, match="thresholds are for transformers"):
        networks.check(spec)


def test_it_sees_what_is_to_come_and_so_has_no_form_for_streams() -> None:
    graph = reader.read(sample("bc-resnet")[1].model_bytes())
    with pytest.raises(KwsError, match="can't run on a stream"):
        stream.derive(graph)
