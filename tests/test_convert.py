"""Conversion: int8 throughout, stock operators, and the same on three machines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from networks_for_tests import VARIANTS, awake, features, small  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import convert, layers, quantize  # noqa: E402
from kws.bundle import Bundle  # noqa: E402
from kws.errors import CheckFailed, KwsError  # noqa: E402
from kws.layers.keras import tf, tf_keras  # noqa: E402
from kws.model import network  # noqa: E402

LABELS = ("_silence_", "_unknown_", "yes", "no", "up")


def tuned(spec: Any, clips: np.ndarray) -> Any:
    """A calibrated network in mode qat."""
    folded = network.fold(awake(spec, len(LABELS)), spec, len(LABELS))
    quantize.calibrate(folded, spec, clips)
    net = network.build(spec, len(LABELS), "qat")
    network.copy_weights(folded, net)
    return net


def to_tflite(spec: Any, net: Any) -> bytes:
    exported = network.build(spec, len(LABELS), "export")
    network.copy_weights(net, exported)
    return convert.to_tflite(exported, spec.features)


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_machines_agree(variant: str) -> None:
    """to_tflite itself refuses floats, foreign operators and another input scale."""
    spec = small(variant)
    clips = features(spec, 64)[0]
    net = tuned(spec, clips)
    model = to_tflite(spec, net)
    report = convert.three_way(net, model, spec, clips)
    # Untrained logits lie close together, so a step is a large part of their range.
    for pair in report["pairs"].values():
        assert pair["mean_steps"] < 2.5 and pair["most_steps"] <= 12, report["pairs"]
    assert report["worst_layer"]["most_steps"] <= convert.OPERATOR_STEPS
    # Every activation of the graph was found and compared, but for heads that share
    # the range of their concatenation.
    computed = sum(
        n for op, n in report["operators"].items() if op not in convert.MOVERS
    )
    if spec.model.heads > 1:
        computed -= spec.model.heads * spec.model.layers
    compared = [
        row
        for row in report["layers"]
        if row["operator"] not in ("INPUT", *convert.MOVERS)
    ]
    assert len(compared) >= computed, (report["operators"], compared)
    assert "TRANSPOSE" not in report["operators"]


@pytest.mark.parametrize(
    "blocks",
    [("softmax", "reuse", "softmax", "reuse"), ("conv", "folded"), ("performer",)],
    ids="-".join,
)
def test_every_operator_of_a_variant_is_its_tensor(blocks: tuple[str, ...]) -> None:
    """A map that is reused was looked for a second time, and another's was found."""
    spec = small("tiny", attention=blocks, layers=len(blocks), readout="pool")
    clips = features(spec, 32)[0]
    net = tuned(spec, clips)
    report = convert.three_way(net, to_tflite(spec, net), spec, clips[:8])
    assert report["worst_layer"]["most_steps"] <= convert.OPERATOR_STEPS
    for row in report["layers"]:  # of the block that it stands for
        block = row["layer"].split("/")[0]
        assert block in row["tensor"] or not block.startswith("block"), row


@pytest.mark.parametrize(
    ("count", "others", "holds"),
    [(53, 1, True), (53, 2, False), (200, 3, True), (200, 4, False)],
)
def test_of_few_clips_one_may_have_another_label(
    monkeypatch: pytest.MonkeyPatch, count: int, others: int, holds: bool
) -> None:
    """Of 53 clips one whose two best labels tie is more than 1.5 %: no run of so few
    recordings was sure to be converted."""
    spec = small("tiny", layers=1)
    clips = features(spec, 64)[0]
    net = tuned(spec, clips)
    same = {"mean_steps": 0.3, "same_label": convert._share(count - others, count)}
    row = {"layer": "head", "most_steps": 1, "apart": 0.1}
    monkeypatch.setattr(convert, "_compare", lambda a, b: same)
    monkeypatch.setattr(convert, "_layers", lambda *_: [row])
    clips = np.resize(clips, (count, *clips.shape[1:]))
    assert convert.three_way(net, to_tflite(spec, net), spec, clips)["holds"] == holds


def test_a_graph_that_is_not_the_network_fails_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small("tiny")
    clips = features(spec, 32)[0]
    net = tuned(spec, clips)
    bundle = Bundle(tmp_path / "run", spec, LABELS)
    good = convert.convert(bundle, net, clips)
    assert bundles.load(tmp_path / "run").hash == good.hash
    other = tuned(spec, clips)
    kernel = other.get_layer("head").dense.kernel
    kernel.assign(kernel[:, ::-1])
    wrong = to_tflite(spec, other)
    monkeypatch.setattr(convert, "to_tflite", lambda exported, features: wrong)
    with pytest.raises(CheckFailed) as error:
        convert.convert(bundle, net, clips)
    assert "steps apart" in error.value.message
    assert error.value.exit_code == 1
    assert bundles.load(tmp_path / "run").hash == good.hash


def test_a_layer_that_has_died_converts(tmp_path: Path) -> None:
    """Its outputs are all 0, and tuning has shrunk their range to next to nothing."""
    spec = small("tiny")
    clips = features(spec, 32)[0]
    net = tuned(spec, clips)
    block = net.get_layer("block0")
    block.expand.bias.assign(-50.0 * np.ones_like(block.expand.bias))
    dead = block.activation.outputs_range
    dead._range["max_var"].assign(3e-7)
    made = convert.convert(Bundle(tmp_path / "run", spec, LABELS), net, clips)
    assert made.metrics["conversion"]["holds"]


def one_weight(net: Any) -> str:
    """A single weight of the last block's MLP has the wrong sign."""
    kernel = net.get_layer("block1").contract.kernel
    values = kernel.numpy()
    place = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[place] *= -1  # the channel's scale stays
    kernel.assign(values)
    return "block1/contract_range"


def one_bias(net: Any) -> str:
    """An output of the last attention is off by a tenth of its range."""
    attention = net.get_layer("block1").attention
    low, high = attention.outputs_range.limits()
    bias = attention.output_dense.bias
    values = bias.numpy()
    values[3] += (high - low) / 10
    bias.assign(values)
    return "block1/attention/outputs"


def one_multiplier(net: Any) -> str:
    """A scale, and so two operators' multipliers, is off by a hundredth."""
    quantizer = net.get_layer("block1").activation.outputs_range
    low, high = quantizer.limits()
    quantizer.set_limits(low, high * 1.01)
    return "block1/activation/outputs"


@pytest.mark.parametrize("corrupt", [one_weight, one_bias, one_multiplier])
def test_one_wrong_number_late_in_the_graph_is_named(corrupt: Any) -> None:
    spec = small("tiny")
    clips = features(spec, 16)[0]
    net, other = tuned(spec, clips), tuned(spec, clips)
    layer = corrupt(other)
    report = convert.three_way(net, to_tflite(spec, other), spec, clips)
    assert not report["holds"]
    wrong = [
        row["layer"]
        for row in report["layers"]
        if row["most_steps"] > convert.OPERATOR_STEPS
    ]
    assert wrong[0] == layer
    # What is behind it is as it should be, from the inputs that it had.
    assert len(wrong) <= (2 if corrupt is one_multiplier else 1), wrong
    refusal = convert._refusal(report, Path("conversion.json"))
    assert layer in refusal.message


def test_convert_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """weights.h5 holds all that the conversion needs."""
    spec = small("tiny", layers=1)
    clips = features(spec, 64)[0]
    bundle = convert.convert(
        Bundle(tmp_path / "run", spec, LABELS), tuned(spec, clips), clips
    )
    quantize.save_calibration(bundle.path, clips)
    first = bundle.model_bytes()
    again = convert.convert_run(bundle.path)
    assert again.model_bytes() == first
    bundle.model_path.unlink()
    with pytest.raises(KwsError, match="model.tflite is missing"):
        bundles.load(bundle.path)
    assert convert.convert_run(bundle.path).model_bytes() == first


def test_a_calibration_takes_back_what_was_measured_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`kws convert --ptq` said the accuracy of the tuned ranges, which are no more, and
    kept thresholds in their steps without a word."""
    spec = small("tiny", layers=1)
    clips = features(spec, 64)[0]
    facts = {"val_accuracy_float": 0.9, "val_accuracy_ptq": 0.8, "val_accuracy_qat": 1}
    run = Bundle(tmp_path / "my run", spec, LABELS, {"X": 3}, {"train": facts})
    convert.convert(run, tuned(spec, clips), clips)
    quantize.save_calibration(run.path, clips)
    assert convert.convert_run(run.path).metrics["train"] == facts
    assert not capsys.readouterr().err
    made = convert.convert_run(run.path, ptq=True)
    assert made.metrics["train"] == {"val_accuracy_float": 0.9}
    assert made.thresholds == {"X": 3}
    assert f"Choose them anew: kws sweep '{run.path}'" in capsys.readouterr().err


def test_a_shipped_run_stays_as_it_is() -> None:
    """`kws convert kwt-tiny` wrote another model into the package."""
    before = {p: p.read_bytes() for p in bundles.PRETRAINED.rglob("*") if p.is_file()}
    with pytest.raises(KwsError, match="a shipped one stays as it is") as caught:
        convert.convert_run(Path("kwt-tiny"))
    assert caught.value.hint.startswith("mkdir -p runs && cp -r ")
    assert {path: path.read_bytes() for path in before} == before


def test_a_calibration_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    spec = small("tiny")
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / quantize.CALIBRATION
    np.savez_compressed(path, features=np.zeros((4096, 98, 40), np.int8))
    assert path.stat().st_size < 100_000  # it packs well
    with pytest.raises(KwsError, match="unpacks to 16056448 bytes"):
        quantize.stored_calibration(tmp_path, spec)
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for broken in (bytes(data), b"", b"nothing", array.getvalue()):
        path.write_bytes(broken)
        with pytest.raises(KwsError):
            quantize.stored_calibration(tmp_path, spec)


def test_symmetric_ranges_have_zero_point_zero() -> None:
    quantizer = layers.Quantizer("qat", "q", symmetric=True)
    quantizer.build((1,))
    for low, high in ((-3.0, 1.0), (-1.0, 3.0), (0.0, 0.0)):
        quantizer.set_limits(low, high)
        scale, zero_point = quantizer.grid()
        assert zero_point == 0
        assert -128.001 * scale <= low and high <= 127.001 * scale


class Foreign(tf_keras.layers.Layer):
    """What someone might put into a network: GELU as a TensorFlow operator."""

    def call(self, inputs: Any) -> Any:
        return tf.nn.gelu(inputs)


def test_a_foreign_operator_is_refused_by_name() -> None:
    spec = small("tiny")
    inputs = tf_keras.Input((98, 40), batch_size=1)
    x = layers.Quantizer("export", "in", fixed=network.feature_range(spec.features))(
        inputs
    )
    x = layers.Quantizer("export", "out", fixed=(-1.0, 9.0))(Foreign(name="mine")(x))
    with pytest.raises(KwsError) as error:
        convert.to_tflite(tf_keras.Model(inputs, x, name="kwt"), spec.features)
    assert "mine" in error.value.message and "GELU" in error.value.message
    assert "Activation('gelu')" in error.value.hint
    assert error.value.exit_code == 2


def test_a_float_island_is_refused_by_name() -> None:
    spec = small("tiny")
    inputs = tf_keras.Input((98, 40), batch_size=1)
    x = layers.Quantizer("export", "in", fixed=network.feature_range(spec.features))(
        inputs
    )
    x = tf_keras.layers.Lambda(lambda y: y * y, name="bare")(x)  # no Quantizer behind
    x = layers.Quantizer("export", "out", fixed=(-1.0, 1.0))(x * 0.5)
    with pytest.raises(KwsError) as error:
        convert.to_tflite(tf_keras.Model(inputs, x, name="kwt"), spec.features)
    assert "Quantizer" in error.value.hint
    assert error.value.exit_code == 2
