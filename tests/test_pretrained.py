"""The shipped bundles: loadable, heard alike by every engine, as good as they say."""

from __future__ import annotations

import dataclasses
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
LEAST = {
    "kwt-nano": 0.963,
    "kwt-small": 0.973,
    "kwt-small-gsc12": 0.954,
    "kwt-stream-small": 0.956,
    "kwt-stream-tiny": 0.947,
    "kwt-tiny": 0.955,
}


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


def check_engines(bundle: bundles.Bundle, pcm: np.ndarray, m0_clips: int) -> None:
    """TFLM runs the network dense, and so does the PC's C; with its thresholds, if it
    has any, the PC's C (against the simulator: kws.evaluate.spared) and the boards."""
    dense = dataclasses.replace(bundle, thresholds={})
    expected = engines.get("tflm").logits(dense, pcm)
    assert np.array_equal(engines.get("host").logits(dense, pcm), expected)
    if bundle.thresholds:
        expected = engines.get("host").logits(bundle, pcm)
    for board, count in (("m4", len(pcm)), ("m55", len(pcm)), ("m0", m0_clips)):
        logits = engines.get("qemu").logits(bundle, pcm[:count], board=f"qemu-{board}")
        assert np.array_equal(logits, expected[:count]), board


@pytest.mark.parametrize("name", NAMES)
def test_noise_gives_the_same_logits_everywhere(name: str) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    bundle = bundles.load(name)
    rng = np.random.default_rng(0)
    loudness = 10 ** rng.uniform(0, 4, (12, 1))
    noise = np.clip(rng.normal(0, 1, (12, 16000)) * loudness, -32768, 32767)
    check_engines(bundle, noise.astype(np.int16), 12)


@pytest.mark.parametrize("name", NAMES)
def test_official_clips_give_the_same_logits_everywhere(name: str) -> None:
    """500 clips on TFLM, the PC's C, M4 and M55; 20 on M0 (README's table)."""
    bundle = bundles.load(name)
    clips = official(bundle, limit=500)
    toolbox.need_qemu()
    toolbox.need_compiler()
    check_engines(bundle, clips.pcm, 20)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_is_as_good_as_it_says(name: str) -> None:
    bundle = bundles.load(name)
    clips = official(bundle)
    host = evaluate_clips(bundle, clips, "host")
    reference = evaluate_clips(bundle, clips, "tflite")
    assert host.accuracy >= LEAST[name]
    same = host.logits.argmax(axis=1) == reference.logits.argmax(axis=1)
    # The reference kernels know no thresholds.
    assert same.mean() >= (0.96 if any(bundle.thresholds.values()) else 0.985)
    assert reference.accuracy >= host.accuracy - 0.01


@pytest.mark.parametrize("name", ["kwt-tiny", "kwt-stream-tiny"])
def test_words_are_heard_whether_loud_or_quiet(name: str) -> None:
    """-70 to -10 dB of full scale is the table of docs/results.md; here, where most are
    heard, on words that a voice speaks."""
    toolbox.need_espeak()
    toolbox.need_compiler()
    from kws.cli.demo import SPOKEN
    from kws.data import synth

    levels = toolbox.tool("levels")
    bundle = bundles.load(name)
    stream, windows = synth.spoken_stream(list(SPOKEN), 1, "test")
    middles = [round(8000 * (one.start_s + one.end_s)) for one in windows]
    pcm = np.stack([stream[middle - 8000 : middle + 8000] for middle in middles])
    said = [bundle.labels.index(word) for word in SPOKEN]
    for db in (-40, -30, -20, -10):
        clips = levels.at_level(pcm, db)
        assert levels.level_db(clips) == pytest.approx(db, abs=1.5)  # it may clip
        heard = engines.get("host").logits(bundle, clips).argmax(axis=1)
        assert np.sum(heard == said) >= len(said) - 1, db
    # And the levels are levels: what is lost in the last bit is not heard.
    faint = levels.at_level(pcm, -95)
    heard = engines.get("host").logits(bundle, faint).argmax(axis=1)
    assert np.sum(heard == said) < len(said) // 2
    sine = np.rint(32767 * np.sin(np.arange(16000) / 7))[None].astype(np.int16)
    assert levels.level_db(sine) == pytest.approx(-3.01, abs=0.02)


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
