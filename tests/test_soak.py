"""A short soak: counters wrap, and this machine and a board agree on every logit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toolbox import need_compiler, need_qemu, tool

from kws import bundle as bundles
from kws.deploy import boards

WRAP_S = 6
SAMPLES = 20 * 16000 + 77


soak = tool("soak")
BUNDLE = bundles.load("kwt-stream-tiny")
WRAPS = soak.Wraps.of(BUNDLE, WRAP_S)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """On this machine, under the address and undefined-behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("soak") / "host"
    return soak.on_host(BUNDLE, SAMPLES, folder, WRAPS, sanitize=True)


def test_counters_wrap_here_and_on_a_board_alike(here: Any, tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    assert here.problems == []
    board = boards.load("qemu-m4")
    there = soak.on_board(BUNDLE, board, SAMPLES, tmp_path / "m4", WRAPS)
    assert there.problems == []
    assert soak.differ(here, there) == []
    assert (here.beats, here.decisions) == (20, there.decisions)
    # 32 bits of samples, half-buffers, frames and decisions ended within the run.
    spec, detector = BUNDLE.recipe.features, BUNDLE.recipe.detector
    assert WRAPS.samples % 2**32 + SAMPLES > 2**32
    assert WRAPS.halves + SAMPLES // 160 > 2**32
    assert WRAPS.frames + SAMPLES // spec.hop > 2**32
    assert WRAPS.inferences + here.decisions > 2**32
    assert WRAPS.samples // 16 < 2**32 < (WRAPS.samples + SAMPLES) // 16
    assert detector.hop_frames > 0


def test_what_is_wrong_is_seen(here: Any, tmp_path: Path) -> None:
    def judged(text: str, logits: bytes) -> Any:
        (tmp_path / "logits.raw").write_bytes(logits)
        other = soak.Heard(
            "other", SAMPLES, tmp_path / "logits.raw", here.labels, text, 0.0
        )
        other.check(BUNDLE, WRAPS)
        return other

    logits, text = here.logits.read_bytes(), here.text
    assert judged(text, logits).problems == []
    lines = text.splitlines()
    beats = [i for i, line in enumerate(lines) if line.startswith("kws beat")]
    lost = "\n".join(lines[: beats[3]] + lines[beats[3] + 1 :])
    assert "missing" in judged(lost, logits).problems[0]
    cut = text[: text.rindex("kws end")]
    assert "did not reach its end" in judged(cut, logits).problems[0]
    assert judged(text, logits[:-1]).problems == [
        f"{len(logits) - 1} logits of {len(logits)}"
    ]
    at = 100 * here.labels
    changed = logits[:at] + bytes([logits[at] ^ 1]) + logits[at + 1 :]
    assert soak.differ(here, judged(text, changed)) == [
        "host, other: other logits from row 100 on"
    ]


def test_the_sound_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same again, of any length; silence and full scale are in it."""
    monkeypatch.setattr(soak, "spoken", lambda words: ())
    longer = np.concatenate(list(soak.sound(BUNDLE, 70 * 16000)))
    shorter = np.concatenate(list(soak.sound(BUNDLE, 61 * 16000)))
    assert len(longer) == 70 * 16000
    np.testing.assert_array_equal(longer[: len(shorter)], shorter)
    seconds = np.abs(longer.astype(int)).reshape(70, -1)
    assert (seconds.max(axis=1) == 0).any()
    assert seconds.max() >= 32767


def test_thresholds_of_zero_and_none_are_told_apart() -> None:
    dense, zero = soak.exact(BUNDLE)
    assert dense.thresholds == {}
    assert set(zero.thresholds.values()) == {0}
    assert dataclasses.replace(zero, thresholds=BUNDLE.thresholds) == BUNDLE
