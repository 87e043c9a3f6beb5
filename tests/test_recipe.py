"""The recipe: read once, checked at the boundary, written back equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws import recipe
from kws.errors import KwsError


@pytest.mark.parametrize("name", recipe.presets())
def test_every_preset_loads_and_survives_a_round_trip(
    name: str, tmp_path: Path
) -> None:
    loaded = recipe.load(name)
    path = tmp_path / "copy.toml"
    path.write_text(recipe.to_toml(loaded))
    assert recipe.load(path) == loaded
    assert recipe.from_dict(recipe.to_dict(loaded)) == loaded


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
