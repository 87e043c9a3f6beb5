"""The examples in kws' docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from toolbox import need_compiler, need_espeak

import kws

PACKAGE = Path(kws.__file__).parent
NEEDS = {"kws.deploy.build": need_compiler, "kws.data.synth": need_espeak}


def modules() -> list[str]:
    """Those with an example; found by reading, as importing all takes long."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text("utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules())
def test_the_examples_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NEEDS.get(name, lambda: None)()
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0
    assert done.attempted > 0
