"""The command line: light, helpful, one message for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kws.cli import cli

VERBS = cli.list_commands(None)  # type: ignore[arg-type]


def kws(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-c", "from kws.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_help_is_light() -> None:
    """`kws --help` reads no module that takes long to load."""
    heavy = ("tensorflow", "librosa", "soundfile", "numpy", "cffi")
    code = (
        "import sys\nfrom kws.cli import main\nsys.argv = ['kws', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    command = cli.get_command(None, verb)  # type: ignore[arg-type]
    assert command is not None
    epilog = command.epilog or ""
    nested = getattr(command, "commands", {}).values()
    texts = [epilog, command.help or "", *(part.epilog or "" for part in nested)]
    assert any(f"kws {verb}" in text for text in texts), f"{verb}: no example"


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "no-such-run"),
        ("eval", "kwt-tiny", "--board", "qemu-m4"),
        ("eval", "kwt-tiny", "--truth", "tape.tsv"),
        ("eval", "kwt-tiny", "--tape", "tape.wav", "--engine", "device,int8"),
        ("emit", "no-such-run", "--out", "x"),
        ("flash", "no-such-run", "--board", "qemu-m4", "--audio", "none.wav"),
        ("flash", "no-such-run", "--board", "qemu-m5", "--audio", "none.wav"),
        ("build", "no-such-run", "--board", "qemu-m4"),
        ("train", "--preset", "kwt-tinny", "--out", "x"),
        ("train", "--recipe", "none.toml", "--out", "x"),
        ("train", "--words", "yes", "--data", ".", "--out", "x"),
        ("data", "verify", "no-such-folder"),
        ("data", "synth", "--words", "", "--out", "x"),
        ("simulate", "no-such-run"),
        ("sweep", "no-such-run"),
        ("report", "no-such-run"),
        ("import-kwt", "none.tflite", "--out", "x"),
        ("no-such-verb",),
        ("eval",),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_message_with_a_hint(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = kws(*arguments, PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1
    assert done.stderr.count("Hint:") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_refuses_is_one_message(tmp_path: Path) -> None:
    """A file where a folder has to be: as with no permission, or a full disk."""
    (tmp_path / "file").write_text("")
    done = kws("emit", "kwt-tiny", "--out", str(tmp_path / "file" / "model"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert done.stderr.count("Hint:") == 1


def test_json_mistakes_are_json() -> None:
    done = kws("eval", "no-such-run", "--json")
    assert done.returncode == 2
    table = json.loads(done.stdout)
    assert set(table) == {"error", "hint"}


def test_debug_shows_the_trace() -> None:
    done = kws("--debug", "eval", "no-such-run")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
