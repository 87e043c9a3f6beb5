"""Whole networks on the emulated boards: equal to TFLM, no dearer than they were."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import toolbox


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """tools/bench_models.py."""
    toolbox.need_qemu()
    toolbox.need_compiler("gcc")  # whose counts the baseline holds
    path = Path(__file__).parents[1] / "tools" / "bench_models.py"
    spec = importlib.util.spec_from_file_location("bench_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_regression_is_named(bench: ModuleType) -> None:
    baseline = {"m": {"qemu-m4": {"instructions": 100}}}
    slower = {"qemu-m4": {"instructions": 103, "arena_bytes": 1}}
    assert bench.regressions("m", slower, baseline) == [
        "m qemu-m4 instructions: 103, was 100",
        "m qemu-m4 arena_bytes: not in the baseline",
    ]
