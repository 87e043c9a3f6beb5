"""kws profile: the split adds up, counts are D8's, memory is what the linker wrote."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import sample_models
import soundfile
from click.testing import CliRunner
from fake_model import tone
from toolbox import need_compiler, need_qemu

from kws import bundle as bundles
from kws import features
from kws.cli.profile import command
from kws.deploy import boards, emission, energy, pace, profile
from kws.emit import selftest
from kws.engines import host
from kws.errors import KwsError
from kws.graph.nodes import Node, Tensor
from kws.shape import Shape, shape_of
from kws.simulate.integer import IntegerSimulator
from kws.thresholds import Slot, Thresholds

# Delta in every layer, and X of one of them repeats alone.
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
    shape = shape_of(bundle.recipe, len(bundle.labels))
    mhsa, mlp = by_hand.mhsa_macs(shape), sum(by_hand.mlp_macs(shape).values())
    stem = by_hand.stem_macs(bundle.recipe)
    total = found.total
    assert (found.unit, found.windows) == ("instructions", 2)
    assert total.dense.macs == by_hand.macs(bundle.recipe, shape)
    assert total.cost is not None
    # The marks' own cost is taken off; what is left is how the compiler places calls.
    assert abs(total.cost - found.cost) < 0.005 * found.cost
    names = [layer.total.name for layer in found.layers]
    halves = [f"block{i}.{half}" for i in range(4) for half in ("attention", "mlp")]
    assert names == ["stem", *halves, "head"]
    by_name = {layer.total.name: layer.total for layer in found.layers}
    assert by_name["block1.attention"].dense.macs == sum(mhsa.values())
    assert by_name["block1.mlp"].executed.macs == mlp
    assert by_name["stem"].dense.macs == stem

    # Memory: the linker's figures, and the constants' own sum.
    assert found.fit is not None
    assert sum(found.sections.values()) >= found.fit.flash_bytes
    assert total.weights_bytes == found.weights_bytes
    assert 0 < (found.stack_bytes or 0) <= boards.load(board).stack_bytes

    # Executed: what the same C transmits on this machine for the same (mu-law) audio.
    heard = selftest.mulaw_decode(selftest.mulaw_encode(audio))
    inputs = features.extract(heard, bundle.recipe.features)
    _, sent = host.invoke(bundle, inputs)
    products = emission.products(bundle)
    if not steps:
        assert products == ()
        assert total.executed.macs == total.dense.macs
        assert total.bytes("state") == 0
        return
    means = zip(products, sent.mean(axis=0), strict=True)
    skipping = sum(product.macs * mean for product, mean in means)
    expected = skipping + stem + shape.layers * mlp + shape.dim * shape.labels
    assert total.executed.macs == pytest.approx(expected, abs=len(products))
    assert total.executed.macs < 0.9 * total.dense.macs
    assert total.bytes("weights") < sum(
        part.dense.macs for layer in found.layers for part in layer.operators
    )
    assert total.bytes("state") > 0


def both(
    bundle: bundles.Bundle, count: int
) -> tuple[dict[str, Any], dict[str, Any], dict[Slot, float]]:
    """The same windows through `kws profile` and `kws simulate`, for JSON.

    And what every slot with a threshold transmitted by the C's counters, per product.
    """
    audio = windows(bundle, count)
    inputs = features.extract(audio, bundle.recipe.features)
    simulator = IntegerSimulator(bundle)
    steps = Thresholds.from_dict(bundle.thresholds, simulator.slots)
    simulated = simulator.run(inputs, simulator.thresholds(steps)).cost()
    _, sent = host.invoke(bundle, inputs)
    counted = {
        product.slot: float(mean)
        for product, mean in zip(
            emission.products(bundle), sent.mean(axis=0), strict=True
        )
        if product.slot in steps.encoded
    }
    assert set(counted) == steps.encoded
    return profile.on_host(bundle, audio).as_dict(), simulated, counted


def assert_same_counts(profiled: dict[str, Any], simulated: dict[str, Any]) -> None:
    assert profiled["bytes"] == simulated["bytes"]
    assert profiled["macs_executed"] == round(simulated["macs_rows"]["mean"])
    for key in ("macs_dense", "comparisons", "exponentials"):
        assert profiled[key] == simulated[key]


SETTINGS: list[dict[str, int]] = [
    {},
    dict.fromkeys("XQKPOMH", 1),
    STEPS | {"1.M": 2},
    {"X": 3, "0.Q": 1, "1.K": 2, "2.P": 1, "3.H": 0},
]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("steps", SETTINGS, ids=str)
def test_bytes_are_the_simulator_s(steps: dict[str, int], count: int) -> None:
    """By memory, purpose and direction; and both are the rule's, by hand."""
    bundle = tiny(steps)
    profiled, simulated, sent = both(bundle, count)
    assert_same_counts(profiled, simulated)
    assert bool(steps) == (profiled["bytes"]["ram"]["state"]["write"] > 0)
    expected = kwt_tiny_by_hand(shape_of(bundle.recipe, len(bundle.labels)), sent)
    for name in ("macs", "comparisons"):
        found = profiled["macs_executed" if name == "macs" else name]
        assert found == pytest.approx(expected.pop(name), abs=0.5)
    found = {
        (memory, purpose, direction): number
        for memory, purposes in profiled["bytes"].items()
        for purpose, directions in purposes.items()
        for direction, number in directions.items()
    }
    assert found == pytest.approx(dict(expected), abs=0.5)


@pytest.mark.parametrize("steps", SETTINGS[:2], ids=str)
def test_bytes_are_the_simulator_s_with_heads_and_factors(
    steps: dict[str, int], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow", reason="the sample model is made with it")
    spec = sample_models.recipe(layers=2, heads=2, head_dim=20, mlp_rank=12)
    model = sample_models.network(spec)
    bundle = sample_models.bundle(tmp_path / "run", spec, model)
    profiled, simulated, _ = both(dataclasses.replace(bundle, thresholds=steps), 1)
    assert_same_counts(profiled, simulated)


def kwt_tiny_by_hand(shape: Shape, sent: dict[Slot, float]) -> Counter[Any]:
    """kwt-tiny's counts by the rule in kws/graph/cost.py, operator by operator.

    Args:
        shape: Its sizes.
        sent: What slots with a threshold transmitted; the others are dense.
    """
    count: Counter[Any] = Counter(
        {
            (memory, purpose, direction): 0
            for memory, purpose, directions in (
                ("flash", "weights", ("read",)),
                ("ram", "activations", ("read", "write")),
                ("ram", "state", ("read", "write")),
                ("ram", "scratch", ("read", "write")),
            )
            for direction in directions
        }
    )
    count["macs"] = count["comparisons"] = 0
    tokens, dim, inner = shape.tokens, shape.dim, shape.inner

    def moved(read: float, written: float) -> None:
        count["ram", "activations", "read"] += read
        count["ram", "activations", "write"] += written

    def scratch(bytes_: int) -> None:
        count["ram", "scratch", "read"] += bytes_
        count["ram", "scratch", "write"] += bytes_

    def product(
        rows: int,
        inputs: int,
        outputs: int,
        of: Slot = (-1, ""),
        macs_each: int = 0,
        weights: bool = True,
    ) -> None:
        """A left side [rows, inputs]: what is transmitted of it, and its encoding."""
        elements: float = rows * inputs
        if of in sent:
            elements = sent[of]
            count["comparisons"] += (rows - 1) * inputs
            count["ram", "state", "read"] += rows * inputs + 4 * rows * outputs
            count["ram", "state", "write"] += elements + 4 * rows * outputs
        macs = elements * (macs_each or outputs)
        count["macs"] += macs
        place = ("flash", "weights", "read")
        count[place if weights else ("ram", "activations", "read")] += macs

    def dense_layer(inputs: int, outputs: int, of: Slot = (-1, "")) -> None:
        product(tokens, inputs, outputs, of)
        moved(tokens * inputs, tokens * outputs)

    # 98 frames of 40 bins, strides (2, 4) and (2, 2), 16 and 24 channels.
    for pixels, patch, channels in ((49 * 10, 25, 16), (25 * 5, 9 * 16, 24)):
        product(pixels, patch, channels)
        moved(pixels * patch, pixels * channels)
        scratch(pixels * patch)
    dense_layer(5 * 24, dim)
    for layer in range(shape.layers):
        moved(tokens * dim, tokens * dim)  # norm1, a table
        for _ in "qkv":
            dense_layer(dim, inner, (layer, "X"))
        # Once over keys and values.
        moved(2 * tokens * inner, 0)
        if (layer, "K") in sent:  # what was held is written in place
            count["comparisons"] += (tokens - 1) * inner
            moved(0, tokens * inner - sent[layer, "K"])
        product(tokens, inner, tokens, (layer, "Q"), tokens, weights=False)
        product(tokens, tokens, inner, (layer, "P"), inner, weights=False)
        moved(tokens * inner, tokens * inner)
        scratch(2 * tokens * tokens)  # scores, and then shares
        dense_layer(inner, dim, (layer, "O"))
        moved(2 * tokens * dim, tokens * dim)  # add
        moved(tokens * dim, tokens * dim)  # norm2
        dense_layer(dim, shape.mlp_dim, (layer, "M"))
        dense_layer(shape.mlp_dim, dim, (layer, "H"))
        moved(2 * tokens * dim, tokens * dim)  # add
    moved(tokens * dim, tokens * dim)  # norm
    moved(tokens * dim, dim)  # mean
    product(1, dim, shape.labels)
    moved(dim, shape.labels)
    return count


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


# --- a day, and a cell ----------------------------------------------------------------


def budget(power: boards.Power | None, mah: float | None = 220) -> energy.Budget:
    """64 M instructions a second at 1 cycle each; 16 M of them are used."""
    board = dataclasses.replace(
        boards.load("nrf52840dk"),
        cycles_per_instruction=1.0,
        microphone_instructions=0,
        power=power,
    )
    return energy.Budget(pace.Pace(board, 10, 98, 600_000, 90_000, 10_000), mah)


def test_a_day_and_a_cell_come_from_sourced_figures_alone() -> None:
    known = budget(boards.Power(10.0, "a sheet", 2.0, "another", 3.0))
    assert known.pace.busy == 0.25
    assert known.core_j == pytest.approx(0.01 * 0.25 * 86400)
    assert known.total_j == pytest.approx(0.01 * 0.25 * 86400 + 0.002 * 86400)
    assert known.days == pytest.approx(220 * 3.6 * 3.0 / known.total_j)
    assert "a sheet" in known.text() and "another" in known.text()
    assert "days, the cell's own losses left out" in known.text()


def test_what_no_figure_says_is_not_said() -> None:
    some = budget(boards.Power(10.0, "a sheet", supply_v=3.0))
    assert (some.total_j, some.days) == (None, None)
    assert "no sourced figure of what stays on" in some.text()
    assert "not said; at most 11.0 days" in some.text()
    assert "no supply_v" in budget(boards.Power(10.0, "a sheet")).text()
    none = budget(None)
    assert none.text().count("\n") == 1
    assert "25.0 % of the time awake" in none.text()
    assert "no sourced [power]" in none.text()
    assert not [v for k, v in none.as_dict().items() if k.startswith("energy") and v]
    slow = budget(boards.Power(10.0, "a sheet", 2.0, "another", 3.0))
    slow = dataclasses.replace(slow, pace=dataclasses.replace(slow.pace, frame=10**6))
    assert (slow.core_j, slow.days) == (None, None)
    assert "can't keep up" in slow.text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("asleep_mw = 2.0", "asleep_source"),
        ('asleep_mw = 20.0\nasleep_source = "x"', "asleep_mw <= active_mw"),
        ("supply_v = 0.1", "supply_v"),
    ],
)
def test_a_figure_without_a_source_is_refused(lines: str, message: str) -> None:
    path = boards.BOARDS / "nrf52840dk" / "board.toml"
    text = path.read_text().replace("supply_v = 3.0\n", "") + lines + "\n"
    with pytest.raises(KwsError, match=message):
        boards.from_table(tomllib.loads(text), path)
