"""What is written is so: examples run, and files that are named are there."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from toolbox import need_compiler, need_espeak, tool

import kws
from kws.cli import cli

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


COMMANDS = ("next_line", "command")  # functions that make one of words
COMMAND = re.compile(r"(?<![\w/.-])kws((?: [a-z][a-z-]*)+)((?:[^\n`|&;])*)")


def test_an_option_that_is_named_is_there() -> None:
    """In hints, help, docs and pages: of each `kws VERB ... --option`."""
    named = [
        (path, verb, option, known)
        for path, text in _texts()
        for verb, options in _typed(text)
        if options and (known := _options(verb)) is not None
        for option in options
    ]
    assert len(named) > 500
    absent = [(str(path), verb, o) for path, verb, o, known in named if o not in known]
    assert absent == []


def _texts() -> Iterator[tuple[Path, str]]:
    """Pages, and the strings of the package: what is filled in is left out."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for folder in ("kws", "tools", "firmware"):
        for kind in ("*.html", "*.js", "*.md"):
            pages += (ROOT / folder).rglob(kind)
    for path in pages:
        yield path, path.read_text("utf-8").replace("\\\n", " ")
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "") for part in node.values]
                yield path, "".join(p if isinstance(p, str) else "X" for p in parts)
            elif isinstance(node, ast.Call) and _name(node.func) in COMMANDS:
                words = [getattr(word, "value", "X") for word in node.args]
                yield path, " ".join(map(str, words))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value.replace("\\\n", " ")


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Verbs and their options."""
    for match in COMMAND.finditer(text):
        rest = re.split(r"\bkws [a-z]|, or |   \(", match[2])[0]  # a remark follows
        yield match[1], re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest)


def _options(words: str) -> set[str] | None:
    """What a verb takes; None of words that are none."""
    command: click.Command = cli
    for word in words.split():
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            return None
        command = found
    if isinstance(command, click.Group):
        return None
    known = {"--help"}
    for option in command.params:
        known |= {*option.opts, *option.secondary_opts, *getattr(option, "old", ())}
    return known


# Whose argument is a hint, and which; names of values that hold some.
HINTS = {"KwsError": 1, "CheckFailed": 1, "Failure": 1, "no_such": 3}
HINTS |= {"NotUsable": 3, "_not_usable": 3}
HOLDS_HINTS = re.compile(r"(?i)hint|mend$|ways_out|_convert$|^again$")
ENDS = re.compile(
    r"   \(|\n|\)|; |, |(?<!\.)\. |(?<!\.)\.$|$"
)  # of a command in a sentence


def test_a_command_in_a_hint_works_when_it_is_typed() -> None:
    """Each `kws ...` in a hint is a verb with what it needs, and no more. Prose stands
    in a remark behind it, ` ...` for what else was typed (kws/cli/_hints.py)."""
    found, wrong = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for hint in _hints(ast.parse(path.read_text("utf-8"))):
            for start in re.finditer(r"(?<![\w/.-])kws (?=[a-z-])", hint):
                rest = hint[start.start() :]
                end = ENDS.search(rest)
                assert end is not None
                found += 1
                if problem := _untypable(rest[: end.start()]):
                    wrong.append(f"{path.name}: {problem}: {hint}")
    assert found > 150
    assert wrong == []


def _hints(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            place = HINTS.get(_name(node.func), len(node.args))
            for value in node.args[place : place + 1]:
                yield from _strings(value)
            for keyword in node.keywords:
                if keyword.arg == "hint":
                    yield from _strings(keyword.value)
        elif isinstance(node, ast.Assign) and any(
            HOLDS_HINTS.search(_name(target)) for target in node.targets
        ):
            yield from _strings(node.value)


def _strings(node: ast.expr) -> list[str]:
    """What an expression may give; X for what is filled in."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, "value", None) for part in node.values]
        return ["".join(p if isinstance(p, str) else "X" for p in parts)]
    if isinstance(node, ast.IfExp):
        return _strings(node.body) + _strings(node.orelse)
    if isinstance(node, ast.BinOp):
        ends = _strings(node.right) or ["X"]
        return [a + b for a in _strings(node.left) or ["X"] for b in ends]
    if isinstance(node, ast.Dict):
        return [text for value in node.values for text in _strings(value)]
    if isinstance(node, ast.Tuple):
        return [text for value in node.elts for text in _strings(value)]
    return []


def _untypable(typed: str) -> str | None:
    """What is wrong with a command, None if it can be typed."""
    command: click.Command = cli
    words = shlex.split(typed)[1:]
    while isinstance(command, click.Group):
        if words[:1] == ["--help"]:
            return None
        within = click.Context(command)
        found = command.get_command(within, words.pop(0)) if words else None
        if found is None:
            return "no verb"
        command = found
    if "--help" in words:
        return None
    context = click.Context(command)
    given = [word for word in words if word != "..."]
    try:
        values, more, _ = command.make_parser(context).parse_args(given)
    except click.ClickException as error:
        return error.format_message()
    missing = [p.name for p in command.params if p.required and not values.get(p.name)]
    if more or (missing and "..." not in words):
        return f"too much: {more}" if more else f"missing: {missing}"
    return None


def test_prose_behind_a_command_is_found() -> None:
    assert _untypable("kws train writes it") == "too much: ['writes', 'it']"
    assert _untypable("kws train --preset kwt-tiny") == "missing: ['out']"
    assert _untypable("kws convret RUN") == "no verb"
    assert _untypable("kws train --preset kwt-tiny ...") is None
    assert _untypable("kws eval RUN --engine host") is None


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
