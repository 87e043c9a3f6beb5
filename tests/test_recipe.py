"""The recipe: read once, checked at the boundary, written back equal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kws import recipe
from kws.errors import KwsError
from kws.model.check import RANGES, check


@pytest.mark.parametrize("name", recipe.presets())
def test_every_preset_loads_and_survives_a_round_trip(
    name: str, tmp_path: Path
) -> None:
    loaded = recipe.load(name)
    path = tmp_path / "copy.toml"
    path.write_text(recipe.to_toml(loaded))
    assert recipe.load(path) == loaded
    assert recipe.from_dict(recipe.to_dict(loaded)) == loaded


@pytest.mark.parametrize(
    "word", ['say "yes"', "C:\\yes", "yes\nno", "\x7f", "ja, größer"]
)
def test_any_word_survives_a_round_trip(word: str, tmp_path: Path) -> None:
    task = recipe.Task("custom", (word,))
    written = dataclasses.replace(recipe.load("kwt-tiny"), task=task)
    path = tmp_path / "copy.toml"
    path.write_text(recipe.to_toml(written), encoding="utf-8")
    assert recipe.load(path) == written


def test_a_recipe_changes_its_base_in_a_few_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "kwt-tiny"\n[task]\nwords = ["hey robot"]\n')
    mine, base = recipe.load(path), recipe.load("kwt-tiny")
    assert mine.task.words == ("hey robot",)
    assert mine.model == base.model
    assert mine.name == "mine"


def test_attention_is_one_variant_or_one_for_each_block(tmp_path: Path) -> None:
    """A list survives TOML; a string means all blocks, however many there are."""
    base = recipe.load("kwt-tiny")
    layers = base.model.layers
    assert base.model.variants == ("softmax",) * layers
    path = tmp_path / "mine.toml"
    names = ", ".join(['"softmax"'] * layers)
    path.write_text(f'base = "kwt-tiny"\n[model]\nattention = [{names}]\n')
    mine = recipe.load(path)
    assert mine.model.attention == mine.model.variants == ("softmax",) * layers
    path.write_text(recipe.to_toml(mine))
    assert recipe.load(path) == mine
    assert recipe.from_dict(recipe.to_dict(mine)) == mine
    # And back to one for all.
    again = recipe.from_dict({"model": {"attention": "softmax"}}, mine)
    assert again.model == base.model


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model]\ndimm = 3\n", "Did you mean 'dim'"),
        ("[model]\ndim = 'wide'\n", "dim must be int"),
        ("[model]\ndim = true\n", "dim must be int"),
        ("[model]\nstem_stride = 2\n", "a list of int"),
        ("[model]\nstem_stride = [2, 'two']\n", r"a list of int. .*=\[2, 'two'\]"),
        ("[model]\nattention = 3\n", "attention must be str, or a list of str"),
        ("[model]\nattention = ['softmax', 3]\n", "attention must be a list of str"),
        ("[model]\nattention = [['softmax']]\n", "attention must be a list of str"),
        ("model = 3\n", "must be a table"),
        ("[model\n", "not valid TOML"),
        ("base = 'kwt-tinny'\n", "Did you mean 'kwt-tiny'"),
    ],
)
def test_a_mistake_is_named(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(KwsError, match=told) as caught:
        recipe.load(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("rearm = 0.0", "0 < rearm"),
        ("rearm = 0.00001", "steps of 1/32767"),  # rounds to 0 on the board
        ("rearm = -0.1", "0 < rearm"),
        ("rearm = nan", "rearm=nan"),
        ("rearm = inf", "rearm=inf"),
        ("rearm = 0.5\nthreshold = 0.4", "rearm <= threshold"),
        ("rearm = 0.0\nthreshold = 0.0", "0 < rearm"),
        ("threshold = 1.01", "threshold <= 1"),
        ("threshold = nan", "nan"),
        ("word_thresholds = [0.9, nan]", "nan"),
        ("word_thresholds = [0.9, 0.1]", "rearm <= threshold"),
        ("smoothing = 0", "smoothing must be 1..16"),
        ("smoothing = 17", "smoothing must be 1..16"),
        ("hop_frames = 0", "hop_frames must be 1..98"),
        ("hop_frames = 99", "hop_frames must be 1..98"),
        ("refractory_ms = -1", "refractory_ms must be 0 or more"),
        ("refractory_ms = 10485761", "at most 65535 decisions"),
        (f"refractory_ms = {10**400}", "out of all range"),
    ],
)
def test_a_detector_that_can_t_work_is_refused_when_it_is_read(
    lines: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "deaf.toml"
    path.write_text(f"[detector]\n{lines}\n")
    with pytest.raises(KwsError, match=told) as caught:
        recipe.load(path)
    assert "Received: " in caught.value.message
    assert str(path) in caught.value.hint or told == "out of all range"


@pytest.mark.parametrize(
    "lines",
    [
        "rearm = 0.00002\nthreshold = 0.00002",
        "rearm = 1\nthreshold = 1",
        "smoothing = 1\nhop_frames = 1\nrefractory_ms = 0",
        "smoothing = 16\nhop_frames = 98",
        "refractory_ms = 10485600",
    ],
)
def test_the_edges_of_a_detector_are_accepted(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f"[detector]\n{lines}\n")
    recipe.load(path)


def test_a_recipe_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.toml"
    path.write_text(f'base = "{path}"\n')
    with pytest.raises(KwsError, match="base"):
        recipe.load(path)


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 100_000, "#" * (1 << 20) + "\n"], ids=["deep", "large"]
)
def test_a_stranger_s_recipe_is_bounded(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(KwsError, match="not valid TOML|at most"):
        recipe.load(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("train", "label_smoothing", 5.0, "0 to 0.3"),
        ("train", "learning_rate", -1.0, "1e-09 to 1"),
        ("train", "learning_rate", float("nan"), "1e-09 to 1"),
        ("train", "epochs", 0, "1 to 1e"),
        ("train", "ema", 1.0, "0 to 0.999999"),
        ("train", "logit_adjustment", 2.0, "0 to 1"),
        ("augment", "ambient_percent", 80.0, "0 to 50"),
        ("augment", "speed", 1.5, "0 to 0.5"),
        ("augment", "snr_db", (30.0, 0.0), "the lowest and the highest"),
        ("augment", "snr_db", (10.0,), "the lowest and the highest"),
        ("task", "silence_percent", -1.0, "0 to 1000"),
        ("quantize", "calibration_clips", 0, "1 to 1e"),
    ],
)
def test_a_number_that_nothing_can_be_trained_with_is_refused(
    section: str, key: str, value: object, expected: str
) -> None:
    good = recipe.load("kwt-tiny")
    part = dataclasses.replace(getattr(good, section), **{key: value})
    with pytest.raises(KwsError, match=rf"\[{section}\] {key}: expected {expected}"):
        check(dataclasses.replace(good, **{section: part}))


def test_every_number_of_a_training_has_its_range() -> None:
    for section, ranges in RANGES.items():
        table = dataclasses.asdict(getattr(recipe.Recipe(), section))
        kinds = (int, float, tuple)
        numbers = {
            key
            for key, value in table.items()
            if isinstance(value, kinds) and not isinstance(value, bool)
        }
        assert numbers - {"clip_seconds", "words"} == set(ranges)
