"""The shipped bundles: loadable, heard alike by every engine, as good as they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toolbox

from kws import bundle as bundles
from kws import data, engines
from kws.bundle import PRETRAINED
from kws.errors import KwsError
from kws.evaluate import evaluate_clips

NAMES = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())
# Accuracy on the official test files that README states, less a tenth of a point.
LEAST = {"kwt-small": 0.973, "kwt-small-gsc12": 0.954, "kwt-tiny": 0.955}


def official(bundle: bundles.Bundle, limit: int | None = None) -> data.ClipSet:
    try:
        return data.load("test", bundle.recipe.task, None, limit=limit)
    except KwsError as error:
        pytest.skip(f"no Speech Commands test files here: {error.message}")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_is_complete(name: str) -> None:
    bundle = bundles.load(name)
    assert bundle.recipe.name == name
    # Nothing of the machine that it was trained on, audio.json least of all.
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "bundle.json",
        "metrics.json",
        "model.tflite",
        "recipe.toml",
        "weights.h5",
    ]
    assert bundle.weights_path.is_file()
    # What the board says at boot, as it was when the figures were measured.
    written = json.loads((bundle.path / "bundle.json").read_text())
    assert bundle.hash == written["hash"]
    assert bundle.metrics["conversion"]["holds"]


@pytest.mark.parametrize("name", NAMES)
def test_noise_gives_the_same_logits_everywhere(name: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle = bundles.load(name)
    rng = np.random.default_rng(0)
    loudness = 10 ** rng.uniform(0, 4, (12, 1))
    noise = np.clip(rng.normal(0, 1, (12, 16000)) * loudness, -32768, 32767)
    pcm = noise.astype(np.int16)
    expected = engines.get("tflm").logits(bundle, pcm)
    assert np.array_equal(engines.get("host").logits(bundle, pcm), expected)
    for board in ("qemu-m0", "qemu-m4", "qemu-m55"):
        logits = engines.get("qemu").logits(bundle, pcm, board=board)
        assert np.array_equal(logits, expected), board


@pytest.mark.parametrize("name", NAMES)
def test_official_clips_give_the_same_logits_everywhere(name: str) -> None:
    """500 clips on TFLM, the PC's C, M4 and M55; 20 on M0 (README's table)."""
    bundle = bundles.load(name)
    clips = official(bundle, limit=500)
    toolbox.need_qemu()
    toolbox.need_compiler()
    expected = engines.get("tflm").logits(bundle, clips.pcm)
    assert np.array_equal(engines.get("host").logits(bundle, clips.pcm), expected)
    for board, count in (("qemu-m4", 500), ("qemu-m55", 500), ("qemu-m0", 20)):
        logits = engines.get("qemu").logits(bundle, clips.pcm[:count], board=board)
        assert np.array_equal(logits, expected[:count]), board


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_is_as_good_as_it_says(name: str) -> None:
    bundle = bundles.load(name)
    clips = official(bundle)
    host = evaluate_clips(bundle, clips, "host")
    reference = evaluate_clips(bundle, clips, "tflite")
    assert host.accuracy >= LEAST[name]
    same = host.logits.argmax(axis=1) == reference.logits.argmax(axis=1)
    assert same.mean() >= 0.985


def test_the_demo_hears_spoken_words_without_training(tmp_path: Path) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    from click.testing import CliRunner

    from kws.cli.demo import command

    options = ["--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout.strip().splitlines()[-1])
    assert table["hits"] >= 7 and table["false_alarms"] == 0
    assert table["hits"] + table["misses"] == len(table["said"]) == 8
