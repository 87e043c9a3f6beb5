"""kws profile: the split adds up, counts are D8's, memory is what the linker wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from fake_model import tone
from toolbox import need_compiler, need_qemu

from kws import bundle as bundles
from kws import features
from kws.cli.profile import command
from kws.deploy import boards, emit, profile
from kws.engines import device
from kws.errors import KwsError
from kws.graph.nodes import Node, Tensor
from kws.simulate import cost

# Delta in every layer, and K of one of them not encoded.
STEPS = {"X": 2, "Q": 1, "K": 1, "P": 1, "O": 2, "2.X": 0}


def tiny(thresholds: dict[str, int]) -> bundles.Bundle:
    return dataclasses.replace(bundles.load("kwt-tiny"), thresholds=thresholds)


def windows(bundle: bundles.Bundle, count: int) -> np.ndarray:
    stream = tone(700, count * bundle.recipe.features.clip_samples)
    return profile.audio_windows(bundle, stream)


@pytest.mark.parametrize(
    ("board", "on", "steps"),
    [("qemu-m55", None, {}), ("nrf52840dk", "qemu-m4", STEPS)],
)
def test_layers_add_up_to_the_exact_total(
    board: str, on: str | None, steps: dict[str, int], tmp_path: Path
) -> None:
    need_compiler()
    need_qemu()
    bundle = tiny(steps)
    audio = windows(bundle, 2)
    found = profile.on_board(
        bundle,
        boards.load(board),
        tmp_path,
        audio=audio,
        measure_on=boards.load(on) if on else None,
    )
    # Energy is an estimate of real parts, in proportion to the time.
    power = boards.load(board).power
    assert (found.energy is None) == (power is None)
    if found.energy is not None and power is not None:
        assert found.energy.inference_uj > power.active_mw * found.time_ms
        energy = found.as_dict()["energy_estimate"]
        assert energy.keys() == {"inference_uj", "source"}  # nobody knows a mean
        assert energy["source"] == power.source
    shape = cost.shape_of(bundle.recipe, len(bundle.labels))
    total = found.total
    assert (found.unit, found.windows) == ("instructions", 2)
    assert total.macs_dense == shape.macs
    assert total.cost is not None
    # The marks' own cost is taken off; what is left is how the compiler places calls.
    assert abs(total.cost - found.cost) < 0.005 * found.cost
    names = [layer.total.name for layer in found.layers]
    halves = [f"block{i}.{half}" for i in range(4) for half in ("attention", "mlp")]
    assert names == ["stem", *halves, "head"]
    by_name = {layer.total.name: layer.total for layer in found.layers}
    assert by_name["block1.attention"].macs_dense == sum(shape.dense_macs().values())
    assert by_name["block1.mlp"].macs_executed == shape.mlp_macs
    assert by_name["stem"].macs_dense == shape.stem_macs

    # Memory: the linker's figures, and the constants' own sum.
    assert found.fit is not None
    assert sum(found.sections.values()) >= found.fit.flash_bytes
    assert total.weights_bytes == found.weights_bytes
    assert 0 < (found.stack_bytes or 0) <= boards.load(board).stack_bytes

    # Executed: what the same C transmits on this machine for the same (mu-law) audio.
    heard = emit.mulaw_decode(emit.mulaw_encode(audio))
    inputs = features.extract(heard, bundle.recipe.features)
    _, products = device.invoke_counted(bundle, inputs)
    if not steps:
        assert products == []
        assert total.macs_executed == total.macs_dense
        assert total.bytes_state == 0
        return
    sent = sum(product.macs * product.sent.mean() for product in products)
    expected = sent + shape.other_macs
    assert total.macs_executed == pytest.approx(expected, abs=len(products))
    assert total.macs_executed < 0.9 * total.macs_dense
    assert total.bytes_weights < sum(
        part.macs_dense for layer in found.layers for part in layer.operators
    )
    assert total.bytes_state > 0


def test_bytes_are_the_simulator_s() -> None:
    """State, weights and activations of the attention, against kws/simulate/cost.py."""
    bundle = tiny({"X": 1, "Q": 1, "K": 1, "P": 1, "O": 1})
    shape = cost.shape_of(bundle.recipe, len(bundle.labels))
    audio = windows(bundle, 1)
    found = profile.on_host(bundle, audio)
    inputs = features.extract(audio, bundle.recipe.features)
    _, products = device.invoke_counted(bundle, inputs)
    sent = {kind: np.zeros((1, shape.layers), np.int64) for kind in cost.KINDS}
    for product in products:
        # X is read by three products (q, k, v): each counts it, D8 counts it once.
        sent[product.kind][0, product.layer] = product.sent[0]
    counts = cost.Counts(
        sent,
        np.zeros((1, shape.layers), np.int64),
        (frozenset(cost.KINDS),) * shape.layers,
    )
    expected = cost.traffic(shape, counts)
    parts = [
        part
        for layer in found.layers
        if layer.total.name.endswith(".attention")
        for part in layer.operators
        if part.kind.startswith("FULLY_CONNECTED") or part.kind == "ATTENTION"
    ]
    assert sum(part.bytes_weights for part in parts) == expected["weights"][0]
    # Three separate projections read X and keep its references three times.
    again = 2 * shape.layers * shape.tokens * shape.dim
    activations = sum(part.bytes_activations for part in parts)
    assert activations == expected["activations"][0] + again
    state = sum(part.bytes_state for part in parts)
    assert state == expected["state"][0] + again + 2 * sent["X"].sum()


def test_on_this_machine(tmp_path: Path) -> None:
    audio = tmp_path / "audio.wav"
    soundfile.write(audio, tone(700, 40000), 16000)
    arguments = ["kwt-tiny", "--audio", str(audio)]
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    keys = (
        "board engine instructions macs_dense macs_executed bytes_weights "
        "bytes_activations bytes_state flash_bytes weights_bytes ram_bytes arena_bytes "
        "stack_bytes layers"
    )
    assert set(keys.split()) <= set(table)
    assert (table["board"], table["unit"], table["instructions"]) == (
        "host",
        "ns",
        None,
    )
    assert table["windows"] == 2
    assert sum(layer["ns"] for layer in table["layers"]) == pytest.approx(
        table["time_ms"] * 1e6, rel=1e-3
    )
    parts = [part for layer in table["layers"] for part in layer["operators"]]
    assert sum(part["macs_dense"] for part in parts) == table["macs_dense"]
    text = CliRunner().invoke(command, [*arguments, "--operators"]).stdout
    assert "block3.attention" in text
    assert "  head0.q (fully connected)" in text
    assert "2 windows: audio.wav" in text


def test_another_core_can_t_count_for_a_board(tmp_path: Path) -> None:
    with pytest.raises(KwsError, match="core 'dsp' of nrf52840dk.*'mve'"):
        profile.on_board(
            tiny({}),
            boards.load("nrf52840dk"),
            tmp_path,
            measure_on=boards.load("qemu-m55"),
        )


def test_a_recording_shorter_than_the_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KwsError, match="shorter than the model's window"):
        profile.audio_windows(tiny({}), np.zeros(15919, np.int16))


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("FULLY_CONNECTED", "kwt/block2/attention/out/MatMul;kwt/x/add", "out"),
        ("ATTENTION", "kwt/block2/attention/head0/MatMul_1", "head0"),
        ("ADD", "kwt/block2/add", "add"),
        ("ADD", "kwt/block2/add_1", "mlp add_1"),
        ("TABLE", "kwt/block2/norm2/Tanh", "mlp norm2"),
        ("MEAN", "kwt/head/Mean", "head mean"),
        ("CONV_2D", "kwt/stem/activation/Relu;kwt/stem/conv/Conv2D", "stem conv"),
        ("ADD", "", "? add"),
        ("ADD", "x", "x "),
    ],
)
def test_names_are_peoples(kind: str, path: str, expected: str) -> None:
    layer, name = profile.names(Node(kind, [], Tensor(path, (1,), "int8")))
    if " " not in expected:
        assert (layer, name) == ("block2.attention", expected)
    elif expected.startswith("mlp"):
        assert (layer, name) == ("block2.mlp", expected.removeprefix("mlp "))
    else:
        assert f"{layer} {name}" == expected
