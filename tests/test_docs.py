"""What is written is so: examples run, and files that are named are there."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from toolbox import need_compiler, need_espeak, tool

import kws

PACKAGE = Path(kws.__file__).parent
ROOT = PACKAGE.parent
PATH = re.compile(
    r"(?<![\w/.-])(?:kws|firmware|tests|tools|docs|datasets)/[\w/.-]+"
    r"\.(?:cc?|h|ino|json|md|png|py|sh|toml)\b"
)
NEEDS = {
    "kws.data.synth": need_espeak,
    "kws.deploy.build": need_compiler,
    "kws.deploy.serve": lambda: need_compiler("zig"),
    "kws.deploy.web": lambda: need_compiler("zig"),
}


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


def test_a_file_that_is_named_is_there() -> None:
    """In the docs and in comments of what is shipped, where files were moved since."""
    texts = [ROOT / "README.md"]
    for folder in ("docs", "datasets", "firmware", "kws", "tools"):
        for kind in ("*.md", "*.py", "*.c", "*.h", "*.cc", "*.sh"):
            texts += sorted((ROOT / folder).rglob(kind))
    named = [(path, name) for path in texts for name in PATH.findall(path.read_text())]
    assert len(named) > 100
    absent = [(str(path), name) for path, name in named if not (ROOT / name).is_file()]
    assert absent == []


def test_each_promise_names_tests_that_are_there() -> None:
    """docs/reliability.md: the file is one, and each word of -k is in a test's name."""
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    commands = re.findall(r"`pytest ([^`]+)`", page)
    assert len(commands) >= 12
    for command in commands:
        parts = shlex.split(command)
        tests = ""
        for i, part in enumerate(parts):
            if part == "-k":
                words = re.findall(r"\w+", parts[i + 1])
                absent = [w for w in words if w != "or" and not _named(w, tests)]
                assert absent == [], command
            elif parts[i - 1] != "-k":
                tests = (ROOT / part).read_text("utf-8")


def _named(word: str, tests: str) -> bool:
    return re.search(rf"def test_\w*{word}", tests) is not None


def test_the_page_of_the_recipe_says_what_its_docstrings_say() -> None:
    made = tool("recipe_docs")
    assert made.PAGE.read_text("utf-8") == made.page(), "python tools/recipe_docs.py"
    assert "| `head_dim` | `48` |" in made.page()


def test_a_table_is_whole() -> None:
    """A row behind an empty line is text with bars in it, not part of the table."""
    loose = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        lines = ["", *text.split("\n"), ""]
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            begins = line.startswith("|") and not before.startswith("|")
            if begins and not re.fullmatch(r"\|[-:| ]+\|", after):
                loose.append(f"{page.name}: {line}")
    assert loose == []
