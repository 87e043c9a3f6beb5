"""Whole networks on the emulated boards: equal to TFLM, no dearer than they were."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import toolbox

from kws.bundle import PRETRAINED
from kws.deploy import boards

PRETRAINED_NAMES = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())
BASELINES = Path(__file__).parent / "baselines"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """tools/bench_models.py."""
    toolbox.need_qemu()
    toolbox.need_compiler("gcc")  # whose counts the baseline holds
    return toolbox.tool("bench_models")


@pytest.mark.parametrize(
    ("model", "board"),
    [
        ("kwt-tiny", "qemu-m4"),
        ("kwt-tiny", "qemu-m55"),
        ("kwt-1-relu", "qemu-m4"),
        ("kwt-stream-tiny", "qemu-m0"),
        ("kwt-stream-tiny", "qemu-m4"),
        ("kwt-stream-tiny", "qemu-m55"),
    ],
)
def test_a_network_costs_what_the_baseline_says(
    bench: ModuleType, model: str, board: str
) -> None:
    measured = bench.measure(model, (board,))  # compares the logits with TFLM's
    baseline = json.loads(bench.BASELINE.read_text("utf-8"))
    assert bench.regressions(model, measured, baseline) == []


@pytest.mark.parametrize(
    ("model", "board"),
    [
        *((name, "qemu-m4") for name in PRETRAINED_NAMES),
        *(("kwt-stream-tiny", name) for name in boards.names() if name != "qemu-m4"),
    ],
)
def test_a_shipped_model_costs_what_the_baseline_says(
    bench: ModuleType, model: str, board: str
) -> None:
    """As it is shipped, delta thresholds included; every board's bytes. The baseline
    has the other pairs too: `python tools/bench_models.py --shipped`."""
    measured = {board: bench.measure_shipped(model, board)}
    baseline = json.loads(bench.SHIPPED_BASELINE.read_text("utf-8"))
    assert bench.regressions(model, measured, baseline) == []


def test_every_shipped_model_has_a_baseline_on_every_board() -> None:
    baseline = json.loads((BASELINES / "shipped.json").read_text("utf-8"))
    assert sorted(baseline) == PRETRAINED_NAMES
    for name, rows in baseline.items():
        assert sorted(rows) == sorted(boards.names()), name


def test_a_regression_is_named(bench: ModuleType) -> None:
    baseline = {"m": {"qemu-m4": {"instructions": 100}}}
    slower = {"qemu-m4": {"instructions": 103, "arena_bytes": 1}}
    assert bench.regressions("m", slower, baseline) == [
        "m qemu-m4 instructions: 103, was 100",
        "m qemu-m4 arena_bytes: not in the baseline",
    ]
