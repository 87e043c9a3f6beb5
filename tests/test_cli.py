"""The command line: light, helpful, one message for every mistake."""

from __future__ import annotations

import ast
import collections
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import small_corpus
from click.testing import CliRunner

import kws as kws_package
from kws import bundle as bundles
from kws import cli as cli_package
from kws.cli import _options, cli
from kws.cli._hints import as_typed
from kws.data.audio import wav_bytes
from kws.deploy import boards
from kws.errors import KwsError

VERBS = cli.list_commands(None)  # type: ignore[arg-type]


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb, and the verbs of `kws data`."""
    for verb in VERBS:
        command = cli.get_command(None, verb)  # type: ignore[arg-type]
        assert command is not None
        yield verb, command
        for name, part in getattr(command, "commands", {}).items():
            yield f"{verb} {name}", part


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
    heavy = ("tensorflow", "librosa", "soundfile", "numpy", "cffi", "rich")
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


def test_a_number_is_neither_nan_nor_infinite() -> None:
    """Before: a stack trace, or NaN in what is printed as JSON."""
    every = [option for _, command in commands() for option in command.params]
    ranges = [o for o in every if isinstance(o.type, click.FloatRange)]
    assert len(ranges) > 10
    assert [o.name for o in ranges if not isinstance(o.type, _options.Number)] == []
    for text in ("nan", "inf", "-inf"):
        with pytest.raises(click.BadParameter):
            _options.Number(0).convert(text, None, None)
    assert _options.Number(0).convert("2.5", None, None) == 2.5


def test_a_shared_option_is_one_option() -> None:
    """One name, one type, one help: a word of the command line means one thing."""
    found: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
    for verb, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                kind = option.type.to_info_dict() | {"multiple": option.multiple}
                # What differs on purpose: which file --out is, which clips there are.
                text = "" if option.opts[0] == "--out" else str(option.help)
                kind.pop("choices" if option.opts[0] == "--split" else "", None)
                key = json.dumps([option.name, kind, text], default=str)
                found[option.opts[0]].setdefault(key, []).append(verb)
    several = {name: list(kinds.values()) for name, kinds in found.items()}
    # kws eval's engines, a simulator's and the firmware's are three things still
    # ("Words" in docs/README.md).
    assert len(several.pop("--engine")) == 3
    # Folders of ambient sound; and what is fetched into one.
    assert len(several.pop("--ambient")) == 2
    assert {name: verbs for name, verbs in several.items() if len(verbs) > 1} == {}


@pytest.mark.parametrize("verb", ["", *(name for name, _ in commands())])
def test_h_is_help(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # click keeps a command's help option from its first use, and a test that calls the
    # command without the group above it gets one without -h.
    for _, command in [("", cli), *commands()]:
        monkeypatch.setattr(command, "_help_option", None)
    short, long = (
        CliRunner().invoke(cli, [*verb.split(), option]) for option in ("-h", "--help")
    )
    assert short.exit_code == 0
    assert short.output == long.output
    assert "-h, --help" in short.output


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (["trian", "--out", "x"], "Did you mean kws train?", "kws train --help"),
        (["data", "fech"], "Did you mean kws data fetch?", "kws data fetch --help"),
        (["xyzzy"], "No such verb. Expected one of boards,", "kws --help"),
        (["--debog"], "Did you mean --debug?", "kws --help"),
        (["train", "--ot", "x"], "Did you mean --out?", "kws train --help"),
        (
            ["data", "synth", "--word", "x"],
            "Did you mean --words?",
            "kws data synth --help",
        ),
        (["train"], "Missing option '--out'", "kws train --help"),
        (["eval"], "Missing argument 'RUN'", "kws eval --help"),
        (["flash", "kwt-tiny"], "'--board'. Expected one of b-l4", "kws flash --help"),
        (
            ["emit", "kwt-tiny", "--out", "x", "--core", "m4"],
            "'dsp'",
            "kws emit --help",
        ),
        (["train", "--out", "x", "--words", ","], "names with commas", "train --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_typo_is_told_with_its_way_out(
    arguments: list[str], told: str, hint: str
) -> None:
    done = kws(*arguments)
    assert done.returncode == 2
    error, way_out = done.stderr.splitlines()
    assert error.startswith("Error: ") and told in error
    assert way_out.startswith("Hint:  kws") and way_out.endswith(hint)


@pytest.mark.parametrize(
    ("verb", "old", "name"),
    [
        ("listen", "--file", "audio"),
        ("flash", "--file", "audio"),
        ("tune", "--epochs", "qat_epochs"),
        ("data info", "--data", "data"),
    ],
)
def test_an_old_name_works_and_is_not_shown(verb: str, old: str, name: str) -> None:
    command = dict(commands())[verb]
    with command.make_context(verb, [old, "7"], resilient_parsing=True) as context:
        assert str(context.params[name]) == "7"
        assert f"{old} " not in command.get_help(context)


# A look at names and paths finds these: nobody waits for TensorFlow to hear of them.
EARLY: list[list[str]] = [
    ["train", "--out", "x", "--preset", "kwt-tinny"],
    ["train", "--out", "x", "--recipe", "none.toml"],
    ["train", "--out", "x", "--recipe", "wrong.toml"],
    ["train", "--out", "x", "--task", "gsc11"],
    ["train", "--out", "x", "--task", "gsc10", "--words", "yes"],
    ["train", "--out", "x", "--words", "yes,maybe", "--data", "audio"],
    ["train", "--out", "x", "--data", "nowhere"],
    ["train", "--out", "x", "--words", "yes", "--data", "audio", "--also", "nowhere"],
    ["train", "--out", "x", "--data", "audio", "--teacher", "none.tflite"],
    ["train", "--out", "x", "--data", "audio", "--distribute", "multiworker"],
    ["train", "--out", "wrong.toml", "--words", "yes", "--data", "audio"],
    ["tune", "no-such-run", "--out", "x"],
    ["tune", "kwt-tiny", "--out", "x", "--head-dim", "500"],
    ["tune", "kwt-tiny", "--out", "x", "--theta", "Z=1"],
    ["tune", "kwt-tiny", "--out", "x", "--data", "nowhere"],
    ["convert", "no-such-run"],
    ["convert", "kwt-tiny", "--data", "nowhere"],
    ["eval", "kwt-tiny", "--engine", "flaot"],
    ["eval", "kwt-tiny", "--engine", "float", "--data", "nowhere"],
    ["eval", "kwt-tiny", "--engine", "float,qemu", "--board", "qemu-m5"],
    ["eval", "kwt-tiny", "--tape", "tape.wav", "--limit", "5"],
    ["data", "synth", "--words", "yes", "--stream", "x.wav", "--voices", "flite"],
    ["data", "synth", "--words", "ja", "--language", "de", "--out", "x"]
    + ["--kokoro-dir", "nowhere"],
    ["simulate", "kwt-tiny", "--engine", "float", "--theta", "Z=1"],
    ["simulate", "kwt-tiny", "--engine", "float", "--task", "gsc11"],
    ["simulate", "kwt-tiny", "--engine", "float", "--data", "nowhere"],
    ["sweep", "kwt-tiny", "--engine", "float", "--task", "gsc11"],
    ["sweep", "kwt-tiny", "--engine", "float", "--pick", "speed>=1"],
    ["flash", "kwt-tiny", "--board", "pico", "--no-pace"],
    ["demo", "--train", "--board", "qemu-m5"],
    ["import-kwt", "none.tflite", "--out", "x"],
]


# Typed, what of it changes nothing, and what else was typed.
UNHEEDED = [
    ("data fetch --ambient musan", "--version v0.01"),
    ("data fetch --archive a.tgz", "--url http://x/y"),
    ("data fetch --sha256 0 --part test --archive a.tgz", "--url http://x/y"),
    (
        "data synth --words 'hey robot' --stream x.wav",
        "--clip-seconds 1.5 --clips-per-word 20 --unknown 3",
    ),
    ("data synth --words no --stream x.wav --seed 2", "--voices flite"),
    ("data record go --out x --terminal", "--phone --http-port 90 --no-browser"),
    ("data record go no --out x --near-takes 0", "--near so,to"),
    ("data tape --out x.wav --ambient x --no-words", "--seed 3 --snr-db 1.0,2.0"),
    ("data tape --out x.wav --task gsc35", "--unknown-per-minute 5.0"),
    ("data info x", "--data y"),
    ("eval kwt-tiny --tape x.wav", "--limit 5 --after word --jobs 2"),
    ("eval kwt-tiny --engine float", "--jobs 2"),
    ("simulate kwt-stream-tiny --tape x.wav", "--features float"),
    ("simulate kwt-stream-tiny --tape x.wav", "--engine float"),
    ("sweep kwt-tiny", "--excerpt 5.0"),
    ("sweep kwt-tiny --boards none", "--board-clips 5"),
    ("sweep kwt-tiny --rounds 0", "--move-clips 9 --targets 0.5"),
    ("sweep kwt-stream-tiny --tape x.wav", "--move-clips 9 --board-clips 5"),
    ("profile kwt-tiny", "--on qemu-m4 --battery 220.0 --out x --compiler zig"),
    ("profile kwt-tiny --board qemu-m4", "--probe 5 --port x"),
    ("profile kwt-tiny --board pico --on qemu-m0", "--probe 5"),
    ("report sweep", "--split test --clips 3 --tape x.wav --fit none"),
    ("report kwt-tiny --fit none", "--battery 220.0"),
    ("compare kwt-tiny kwt-small --fit none", "--battery 220.0"),
    ("flash kwt-tiny --board qemu-m4", "--probe 5 --port x --tool pyocd --unlock"),
    ("flash kwt-tiny --board pico", "--audio x.wav --no-pace --pad 2.0 --timeout 9.0"),
    ("monitor kwt-tiny --board qemu-m4", "--port x"),
    ("monitor kwt-tiny --board pico", "--audio x.wav"),
    ("tune kwt-tiny --out x --qat-epochs 0", "--learning-rate 0.01 --teacher self"),
    ("tune kwt-tiny --out x --teacher self", "--teacher-labels a,b"),
    ("train --out x", "--teacher-labels a,b"),
    ("train --out x --teacher kwt-small", "--teacher-labels a,b"),
]


@pytest.mark.parametrize(("typed", "unheeded"), UNHEEDED)
def test_an_option_that_changes_nothing_is_refused_before_any_work(
    typed: str, unheeded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.json").touch()
    done = CliRunner().invoke(cli, shlex.split(f"{typed} {unheeded}"))
    assert isinstance(done.exception, KwsError), done.output
    names = [word for word in shlex.split(unheeded) if word.startswith("--")]
    assert done.exception.message.endswith(f"Received: {', '.join(names)}")
    verb, *options = done.exception.hint.split(" --")
    first, *others = f"kws {typed}".split(" --")
    assert verb == first and sorted(options) == sorted(others)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_an_option_that_says_the_default_is_none_too_many() -> None:
    typed = ["flash", "kwt-tiny", "--board", "pico", "--pace", "--pad", "1", "--hop"]
    done = CliRunner().invoke(cli, [*typed, "1000"])
    assert "The model runs every 1 to" in str(done.exception)  # what is wrong


def test_a_hint_says_none_again() -> None:
    """`--fit none` is no names, and none is how they are typed."""
    verb = cli.get_command(None, "compare")  # type: ignore[arg-type]
    assert verb is not None
    words = ["kwt-tiny", "kwt-small", "--fit", "none"]
    with verb.make_context("compare", words) as context:
        assert _options.given(context) == ["--fit", "none"]


def test_the_demo_s_board_is_an_emulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["demo", "--train", "--board", "pico"])
    assert isinstance(done.exception, KwsError), done.output
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_cannot_be_is_refused_before_clips_are_read(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"  # of a training with --no-convert
    bundles.save(dataclasses.replace(bundles.load("kwt-tiny"), path=run))
    for words, says in (
        (["kwt-tiny", "--engine", "host,qemu", "--board", "pico"], "emulated board"),
        (["kwt-tiny", "--late", "40"], "networks for streams"),
        (["kwt-stream-tiny", "--late", "40"], "--after silence or word"),
        (["kwt-tiny", "--after", "word"], "networks for streams"),
        (["kwt-stream-tiny", "--after", "word", "--engine", "host,tflm"], "host"),
        (["kwt-stream-tiny", "--after", "word", "--late", "7"], "Decisions come"),
        ([str(run)], "no model.tflite yet"),
    ):
        words += ["--data", str(tmp_path / "nowhere")]
        done = CliRunner().invoke(cli, ["eval", *words])
        assert isinstance(done.exception, KwsError), done.output
        assert says in str(done.exception)


def test_mistakes_are_told_before_tensorflow_is_loaded(tmp_path: Path) -> None:
    small_corpus.make(tmp_path / "audio")
    (tmp_path / "wrong.toml").write_text("[model]\nnorm = 'rms'\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    code = (
        "import json, os, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] == 'tensorflow':\n"
        "            print('TensorFlow!'); sys.stdout.flush(); os._exit(9)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from kws.cli import main\n"
        "for sys.argv[1:] in json.loads(sys.argv[1]):\n"
        "    print(*sys.argv[1:], flush=True)\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert end.code == 2, end.code\n"
        "    else:\n        raise AssertionError\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("TF_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(EARLY)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr.count("Error:") == done.stderr.count("Hint:") == len(EARLY)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "no-such-run"),
        ("eval", "kwt-tiny", "--board", "qemu-m4"),
        ("eval", "kwt-tiny", "--truth", "tape.tsv"),
        ("eval", "kwt-tiny", "--tape", "tape.wav", "--engine", "host,tflite"),
        ("eval", "kwt-tiny", "--events", "events.tsv"),
        ("calibrate", "kwt-tiny", "--tape", "none.wav"),
        ("calibrate", "no-such-run", "--tape", "none.wav"),
        ("calibrate", "kwt-tiny"),
        ("data", "tape", "--out", "tape.mp3"),
        ("data", "tape", "--out", "tape.wav", "--no-words"),
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


@pytest.mark.parametrize("arguments", [[], ["data"]], ids=" ".join)
def test_a_command_alone_is_answered_by_its_help(arguments: list[str]) -> None:
    done = kws(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"Usage: {' '.join(['kws', *arguments])} ")
    assert "Error" not in done.stderr and "\nVerbs:\n" in done.stderr
    assert "..." not in done.stderr.rpartition("\nVerbs:\n")[2]  # whole sentences


def test_a_path_in_a_hint_is_quoted() -> None:
    """Hints are typed, and a run may be called "my run"."""
    command = (
        r"(?<![\w-])(?:kws [a-z-]+ (?:[a-z]+ )?|cp -r |rm |ls |-i |"
        r"--(?:out|data|also|tape|recipe|logdir) )"
    )
    found, bare = 0, []
    for path in sorted(Path(kws_package.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = ast.unparse(node).partition("Received: ")[0]
                found += len(re.findall(command + r"\{quoted\(", text))
                bare += [
                    f"{path.name}: {text}"
                    for name in re.findall(command + r"\{([^{}]+)\}", text)
                    if not name.startswith(("quoted(", "self.identity"))  # a study
                ]
    assert found > 50
    assert bare == []


@pytest.mark.parametrize(
    ("typed", "hint", "filled"),
    [
        (
            "train --out 'my run' --preset x --words 'hey robot,no' --also a --also b",
            "kws train --preset kwt-tiny ...",
            "kws train --preset kwt-tiny --words 'hey robot,no' --out 'my run' "
            "--also a --also b",
        ),
        (
            "monitor kwt-tiny --board pico",
            'kws monitor RUN --board BOARD --send "query"',
            'kws monitor kwt-tiny --board pico --send "query"',
        ),
        (
            "flash kwt-tiny --board qemu-m4 --keep --no-pace",
            "cp -r kwt-tiny runs/ && kws flash runs/kwt-tiny ...   (a copy)",
            "cp -r kwt-tiny runs/ && kws flash runs/kwt-tiny --board qemu-m4 --no-pace "
            "--keep   (a copy)",
        ),
        (
            "data import anna ben --out x",
            "kws data import ... --out x-new",
            "kws data import anna ben --out x-new",
        ),
        ("eval", "kws eval RUN --engine host", "kws eval RUN --engine host"),
        ("--debug eval runs/a --engine x", "kws convert RUN", "kws convert runs/a"),
        ("nonsense", "kws sweep RUN ...", "kws sweep RUN ..."),
    ],
)
def test_a_hint_is_filled_in_with_what_was_typed(
    typed: str, hint: str, filled: str
) -> None:
    """No RUN, BOARD or ... is left for the reader where the command line had it."""
    assert as_typed(hint, cli, shlex.split(typed)) == filled


def test_hints_are_shown_filled_in() -> None:
    done = kws("monitor", "kwt-tiny", "--board", "nrf52840dk", "--send", "shout")
    assert done.returncode == 2
    assert done.stderr.endswith(
        'Hint:  kws monitor kwt-tiny --board nrf52840dk --send "query"\n'
    )


def test_a_training_that_is_stopped_tells_how_to_go_on() -> None:
    @click.command()
    @_options.run
    def stopped(options: object) -> None:
        raise KeyboardInterrupt

    told = CliRunner().invoke(stopped, [])
    assert told.exit_code == 130
    assert "The same command goes on" in told.stderr
    told = CliRunner().invoke(stopped, ["--restart"])
    assert "The same command without --restart goes on" in told.stderr


def test_what_the_system_refuses_is_one_message(tmp_path: Path) -> None:
    """A file where a folder has to be: as with no permission, or a full disk."""
    (tmp_path / "file").write_text("")
    done = kws("emit", "kwt-tiny", "--out", str(tmp_path / "file" / "model"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert done.stderr.count("Hint:") == 1


@pytest.mark.parametrize(
    "typed",
    [
        "emit run --out run",
        "emit run --format web --out run/model.tflite",
        "report run --fit none --clips 0 --out run/recipe.toml",
        "tune run --out run",
        "eval run --tape tape.wav --events tape.tsv",
        "eval run --tape . --events tape.wav",
        "eval run --tape tape.wav --truth said.txt --events said.txt",
        "data import words --out words",
    ],
)
def test_nothing_is_written_over_what_is_read(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kws emit run --out run` once took the run's network away."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundles.PRETRAINED / "kwt-tiny", "run")
    Path("words/yes").mkdir(parents=True)
    for name in ("tape.wav", "words/yes/anna_nohash_0.wav"):
        Path(name).write_bytes(wav_bytes(small_corpus.tone(440, 16000, 4000)))
    for name in ("tape.tsv", "said.txt"):
        Path(name).write_text("start_s\tend_s\tword\n0.1\t0.9\tyes\n")
    there = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = CliRunner().invoke(cli, shlex.split(typed))
    assert isinstance(done.exception, KwsError), done.output
    now = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert now == there


def test_json_mistakes_are_json() -> None:
    done = kws("eval", "no-such-run", "--json")
    assert done.returncode == 2
    table = json.loads(done.stdout)
    assert set(table) == {"error", "hint"}


def test_debug_shows_the_trace() -> None:
    done = kws("--debug", "eval", "no-such-run")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("kws sim", ["simulate"]),
        ("kws flash kwt-st", ["kwt-stream-small", "kwt-stream-tiny"]),
        ("kws flash kwt-tiny --board nr", ["nrf52840dk"]),
        (
            "kws report kwt-tiny --fit pico,qemu-m4,q",
            [f"pico,qemu-m4,{name}" for name in boards.names() if name[0] == "q"],
        ),
        (
            "kws train --preset kwt-stream-s",
            ["kwt-stream-small", "kwt-stream-small-spoken", "kwt-stream-spoken"],
        ),
        ("kws eval ru", ["runs/mine"]),
        ("kws compare kwt-tiny runs/", ["runs/mine"]),
        ("kws trian --ou", []),  # no message where a shell asks
    ],
)
def test_a_shell_completes(typed: str, offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "bundle.json").touch()
    (tmp_path / "runs" / "none").mkdir()
    asked = {
        "_KWS_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    code = (
        f"import os, sys\nos.chdir({str(tmp_path)!r})\nfrom kws.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | asked,
    )
    lines = filter(None, done.stdout.splitlines())
    found = [line.removeprefix("plain,") for line in lines]
    assert done.stderr == ""
    assert found == offered


def on_a_terminal(code: str, **environment: str) -> str:
    """What a program writes where stderr is one."""
    pty = pytest.importorskip("pty")
    mine, its = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code],
        stderr=its,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(its)
    said = b""
    try:
        while data := os.read(mine, 4096):
            said += data
    except OSError:  # the other end is closed, and all was read
        pass
    os.close(mine)
    return said.decode()


BAR = (
    "from kws.progress import Progress\nbar = Progress('a [b]', 100)\n"
    "bar.shown -= 100\nbar.at(50, 'loss 0.5')\nbar.end()"
)
BAD = "import sys\nsys.argv = ['kws', 'eval', 'none']\nfrom kws.cli import main\nmain()"


def test_colours_and_bars_are_for_terminals() -> None:
    plain = subprocess.run(
        [sys.executable, "-c", f"{BAR}\n{BAD}"], capture_output=True, text=True
    ).stderr
    assert "\x1b" not in plain and "\r" not in plain
    assert "a [b]: 50 %, " in plain and "left loss 0.5\n" in plain
    assert "Error: There is no run here" in plain and "\nHint:  kws train" in plain
    drawn = on_a_terminal(f"{BAR}\n{BAD}")
    assert "\x1b[1;31mError:\x1b[0m There is no run here" in drawn
    assert "a [b]" in drawn and "50 %" in drawn and "\u2501" in drawn
    assert "\x1b[?25l" not in drawn  # no cursor is hidden that a crash would not show
    modest = on_a_terminal(BAD, NO_COLOR="1")
    assert "\x1b[1;31m" not in modest and "\x1b[31m" not in modest
    assert "There is no run here" in modest


def nexts() -> Iterator[tuple[str, str]]:
    """Every call of `next_line` in the verbs: (file, its arguments as written)."""
    for path in sorted(Path(cli_package.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == (
                "next_line"
            ):
                yield path.name, ast.unparse(node)


def test_what_comes_next_is_said_by_one_hand_and_run_by_a_test() -> None:
    """Quoted as a shell wants it; none has a place for the reader to fill in."""
    for path in sorted(Path(cli_package.__file__).parent.glob("*.py")):
        if path.name != "_run.py":
            said = re.findall(r"Next: .*", path.read_text("utf-8"))
            # data record's and import's are several commands.
            assert set(said) <= {'Next: {following}")'}, path
    # Run by test_train (train, convert, data record), test_report_run (calibrate),
    # below (data tape), test_live (demo), test_flash and test_bossac (flash) and
    # test_import_kwt; up to where TensorFlow begins by test_data_download,
    # test_data_import, test_synth and test_mining (data).
    assert collections.Counter(name for name, _ in nexts()) == {
        "_run.py": 3,
        "calibrate.py": 1,
        "data.py": 4,
        "demo.py": 1,
        "flash.py": 1,
        "import_kwt.py": 1,
    }


def test_the_next_line_of_a_tape_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("yes", "no", "up", "down", "left", "right", "stop", "go", "cat", "bird")
    corpus = small_corpus.make(tmp_path / "tones", words)
    line = "kws data tape --out 'my tapes/a.wav' --seconds 8 --keywords-per-minute 20"
    for _ in range(2):
        options = ["--data", str(corpus)] if "data tape" in line else []
        arguments = [*shlex.split(line)[1:], *options]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        line = done.stdout.rpartition("Next: ")[2]
    assert "words: " in done.stdout
