"""The page of a run: what it says is measured, it can be read anywhere, every command
on it works as it stands; and runs beside each other."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re
import shlex
import shutil
import types
from collections.abc import Iterator
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
import small_corpus
import soundfile
import toolbox
from browser import Browser
from click.testing import CliRunner

from kws import bundle as bundles
from kws import data, operating_points, recipe
from kws.cli import cli
from kws.data import Sources, audio, sheet
from kws.data.speech_commands import COMMANDS
from kws.deploy import pace
from kws.deploy.boards import load as board
from kws.deploy.runners import qemu
from kws.errors import KwsError
from kws.report import compare, facts, run, shell
from kws.shape import with_clip_seconds
from kws.train.loop import COLUMNS, write_results

WORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go")
BOARDS = "qemu-m4,pico"


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with curves that remembers its clips, tones in place of words."""
    folder = tmp_path_factory.mktemp("runs") / "my run"
    shutil.copytree(bundles.PRETRAINED / "kwt-stream-tiny", folder)
    corpus = small_corpus.make(folder.parent / "tones", (*WORDS, "cat", "bird"))
    data.remember(folder, Sources(corpus))
    row = dict.fromkeys(COLUMNS, 0.5)
    rows = [row | {"phase": "float", "epoch": i, "val_accuracy": i / 4} for i in (1, 2)]
    write_results(folder, "float", rows)
    write_results(folder, "qat", [row | {"phase": "qat", "epoch": 1}])
    return folder


@pytest.fixture(scope="module")
def said(own: Path) -> dict:
    """What `kws report` says of it; the page is in the run."""
    toolbox.need_compiler()
    toolbox.need_qemu()
    return json.loads(invoke("report", own, "--fit", BOARDS, "--clips", 3, "--json"))


def clips_of(own: Path) -> data.ClipSet:
    bundle = bundles.load(own)
    return data.load("val", bundle.recipe.task, data.of_run(bundle).data)


def commands(text: str) -> list[str]:
    found = re.findall(r'<div class="command"><code>([^<]+)</code>', text)
    return [html.unescape(line) for line in found]


def test_what_the_page_says_is_measured(own: Path, said: dict) -> None:
    text = Path(said["report"]).read_text()
    evaluated = json.loads(invoke("eval", own, "--split", "val", "--json"))
    for key in ("accuracy", "n", "confusion", "recall"):
        assert said["evaluation"][key] == evaluated[key]
    assert f"<b>{100 * evaluated['accuracy']:.2f} %</b>" in text
    loud = said["by_loudness"]
    assert sum(row["n"] for row in loud) == 2 * len(WORDS)
    assert sum(row["right"] for row in loud) <= evaluated["n"]
    out = own / "build" / "qemu-m4"
    told = json.loads(
        invoke("profile", own, "--board", "qemu-m4", "--out", out, "--json")
    )
    assert said["cost"] == {key: told[key] for key in said["cost"]}
    assert [row["board"] for row in said["boards"]] == BOARDS.split(",")
    for row in said["boards"]:
        assert row["fits"] and row["flash_limit"] == board(row["board"]).flash_bytes
        assert 0 < row["duty_cycle"] < 1
    assert set(said["missing"]) == {"operating", "sweep"}
    assert not [why for why in said["missing"].values() if "RUN" in why]  # can be typed
    assert "kws calibrate" in text and "kws sweep" in text


def test_a_board_is_told_too_slow_where_kws_flash_warns() -> None:
    """Between the limit and the margin the page said that it keeps up."""
    part = board("pico")
    for inference, slow in ((9_900_000, False), (10_100_000, True)):
        paced = pace.Pace(part, 16, 98, inference, 100_000, 1_000)
        assert (paced.warning("mine") is not None) is slow and paced.busy < 1
        size = types.SimpleNamespace(fits=True, flash_bytes=1, ram_bytes=1)
        where = facts.OnBoard(part, size, paced)  # type: ignore[arg-type]
        asked = types.SimpleNamespace(battery_mah=220)
        page = run._board(types.SimpleNamespace(run="mine", asked=asked), where)  # type: ignore[arg-type]
        assert ("too slow" in page) is slow and ("and keeps up</p>" in page) is not slow


def test_the_hardest_clips_are_in_the_page_bit_for_bit(own: Path, said: dict) -> None:
    text = Path(said["report"]).read_text()
    sounds = re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)
    assert len(sounds) == text.count("<audio") == 3
    clips = clips_of(own)
    names = re.findall(r'<span class="file">([^<]+)</span>', text)
    for sound, name in zip(sounds, names, strict=True):
        pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), dtype="int16")
        place = clips.names.index(html.unescape(name))
        assert rate == 16000 and (pcm == clips.pcm[place]).all()
        assert sheet.wave(clips.pcm[place]) in text


def test_the_page_asks_nothing_of_a_network(said: dict) -> None:
    text = Path(said["report"]).read_text()
    assert "default-src 'none'" in text and "@@" not in text
    assert not re.search(r"url\(|@import|fetch\(|<link|<iframe", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg"
    }


def test_every_command_on_the_page_works(
    own: Path,
    said: dict,
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it stands; what takes hours is only made shorter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KWS_DATA", raising=False)
    shorter = {
        "data": ["--seconds", "60", "--keywords-per-minute", "20"],
        "sweep": ["--limit", "4", "--rounds", "0", "--jobs", "1"],
        "report": ["--fit", "none", "--clips", "0"],
    }
    shorter["sweep"] += ["--boards", "none"]
    lines = commands(Path(said["report"]).read_text())
    verbs = [shlex.split(line)[1] for line in lines]
    assert verbs == ["data", "calibrate", "report", "flash", "flash", "sweep"]
    for line, verb in zip(lines, verbs, strict=True):
        name, *words = shlex.split(line)
        assert name == "kws"
        done = CliRunner().invoke(cli, [*words, *shorter.get(verb, ())])
        if verb == "flash" and board(words[-1]).runner != qemu.__name__.split(".")[-1]:
            assert isinstance(done.exception, KwsError)  # no such board is plugged in
            assert (own / "build" / words[-1] / "main.elf").is_file()
            continue
        assert done.exit_code == 0, (line, done.output, done.exception)
    # What they made is on the page from now on, and its commands work too.
    (again,) = re.findall(r"Next: (kws report .*)", invoke("calibrate", *_tape(own)))
    invoke(*shlex.split(again)[1:], "--fit", "none", "--clips", "0")
    text = (own / "report.html").read_text()
    assert 'id="operating-data"' in text and 'id="sweep-data"' in text
    # Those that the page makes of what is chosen there.
    open_page(browser, said)
    shown = (
        'return [...document.querySelectorAll("#%s code")].map((c) => c.textContent)'
    )
    browser.run(
        'const move = document.getElementById("move"); move.value = 0;'
        'move.dispatchEvent(new Event("input"))'
    )
    (calibrate,) = browser.run(shown % "take")
    row = 'const row = [...document.querySelectorAll("tr[data-point]")].at(-1);'
    point = browser.run(
        f'{row} row.querySelector("button").click(); return row.dataset.point'
    )
    chosen = [calibrate, *browser.run(shown % "detail")]
    assert [shlex.split(line)[1] for line in chosen] == [
        "calibrate",
        "sweep",
        "simulate",
        "flash",
    ]
    assert chosen[1].endswith(f" --pick point={point}")
    for line in [line for line in chosen if line not in lines]:
        invoke(*shlex.split(line)[1:])


def _tape(own: Path) -> tuple[object, ...]:
    return own, "--tape", "tapes/words.wav", "--false-alarms", 600


def test_what_is_not_there_is_said(own: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(own, tmp_path / "copy"))
    gone = tmp_path / "gone"
    data.remember(copy, Sources(gone))
    (copy / "results.csv").write_text("phase,epoch\nfloat,<b>\n")
    invoke("report", copy, "--fit", "none")
    text = (copy / "report.html").read_text()
    assert "are not there any more" in text and str(gone) in text
    assert "<audio" not in text and "has no epochs in it" in text
    done = CliRunner().invoke(cli, ["report", str(copy), "--data", str(gone)])
    assert isinstance(done.exception, KwsError)  # it was asked for by name


def test_a_tape_that_is_not_there_is_refused_before_clips_are_heard(own: Path) -> None:
    said: list[str] = []
    asked = facts.Asked(limit=1, boards=(), say=said.append, tapes=(own / "nope.wav",))
    with pytest.raises(KwsError, match="No such recording"):
        facts.gather(str(own), asked)
    assert not said


def test_curves_that_are_not_there_come_with_the_training_that_makes_them(
    own: Path, tmp_path: Path
) -> None:
    """A whole command to copy, with the recipe and the clips of the run."""
    copy = Path(shutil.copytree(own, tmp_path / "my copy"))
    (copy / "results.csv").unlink()
    for name in (str(copy), "kwt-tiny"):
        bundle = bundles.load(name)
        with pytest.raises(KwsError, match="no training curves") as none:
            facts.curves(bundle)
        missing = {"curves": f"{none.value.message}\nHint: {none.value.hint}"}
        text = run.page(facts.Facts(name, bundle, facts.Asked(), missing=missing))
        (line,) = [c for c in commands(text) if c.startswith("kws train")]
        with (
            cli.get_command(None, "train").make_context(  # type: ignore[union-attr]
                "train", shlex.split(line)[2:]
            ) as typed
        ):
            options = typed.params
        assert recipe.load(options["recipe_file"]).model == bundle.recipe.model
        assert not options["out"].exists()
        clips = [] if bundle.shipped else [data.of_run(bundle).data]
        assert [options["data"]] == (clips or [None])


def test_what_a_shipped_run_lacks_is_made_in_a_copy() -> None:
    """kws calibrate refuses a shipped run, so no hint may send anybody there."""
    found = facts.gather("kwt-tiny", facts.Asked(limit=1, boards=()))
    assert "cp -r" in found.missing["operating"]
    assert "kws calibrate runs/kwt-tiny " in found.missing["operating"]


def test_a_broken_table_of_operating_points_is_said_in_its_place(
    tmp_path: Path,
) -> None:
    """The whole page failed for it, after all was measured."""
    run_ = Path(shutil.copytree(bundles.PRETRAINED / "kwt-tiny", tmp_path / "mine"))
    table = {"schema": operating_points.SCHEMA, "hours": 0}
    (run_ / operating_points.FILE).write_text(json.dumps(table))
    found = facts.gather(str(run_), facts.Asked(limit=1, boards=()))
    assert found.operating is None
    assert "is broken: ValueError('no hours: 0.0')" in found.missing["operating"]
    assert f"kws calibrate {run_} --tape tapes" in found.missing["operating"]
    assert "no hours: 0.0" in run.page(found)


def test_the_tape_has_clips_as_long_as_the_runs(own: Path, tmp_path: Path) -> None:
    bundle = bundles.load(own)
    recipe = with_clip_seconds(bundle.recipe, 1.5)
    longer = dataclasses.replace(bundle, path=tmp_path, recipe=recipe)  # no points yet
    found = facts.Facts(str(own), longer, facts.Asked(), sources=data.of_run(bundle))
    (line,) = [c for c in commands(run.page(found)) if c.startswith("kws data tape")]
    assert line.endswith("--clip-seconds 1.5")


def test_names_are_text_whatever_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = bundles.load("kwt-tiny")
    text = run.page(
        facts.Facts("<img>", bundle, facts.Asked(), missing={"heard": "<u>\nHint: <s>"})
    )
    assert "<img>" not in text and "<u>" not in text and "<s>" not in text
    assert "&lt;img&gt;" in text and "&lt;s&gt;" in text


@pytest.mark.parametrize(
    "table", [{"train": "<b>", "operating_point": 1}, {"train": {"parameters": 1e999}}]
)
def test_metrics_that_are_none_are_left_out(own: Path, table: dict) -> None:
    bundle = dataclasses.replace(bundles.load(own), metrics=table)
    text = run.page(facts.Facts("r", bundle, facts.Asked()))
    assert "<b></b>" not in text and "inf" not in re.sub(
        r"<script.*?/script>", "", text
    )


def test_terms_are_explained_where_they_stand(said: dict) -> None:
    text = Path(said["report"]).read_text()
    used = set(re.findall(r'popovertarget="term-([a-z]+)"', text))
    assert len(used) > 10
    for name in used:
        assert text.count(f'id="term-{name}"') == 1
    assert used <= set(shell.TERMS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    with browsers.opened(folder, folder / "none.wav") as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read(
    browser: Browser, said: dict, width: int, scheme: str
) -> None:
    open_page(browser, said, width, scheme)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # A table that is wider than the screen scrolls in itself: nothing else sticks out.
    assert (
        browser.run(
            "return [...document.querySelectorAll('main *')].filter((part) =>"
            " part.getBoundingClientRect().right > innerWidth + 1"
            " && !part.closest('.wide, svg')).map((part) => part.outerHTML)"
        )
        == []
    )
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert red < 64 if scheme == "dark" else red > 192
    curves = browser.run(
        "return document.querySelectorAll('#training polyline').length"
    )
    assert curves == 3
    assert browser.run(browsers.CONTRAST) == []
    assert browser.complaints() == []


def open_page(
    browser: Browser, said: dict, width: int = 1280, scheme: str = "light"
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.command("Emulation.setEmulatedMedia", features=features)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.command("Emulation.setDeviceMetricsOverride", **size)
    browser.driver.get(Path(said["report"]).as_uri())


def test_keys_reach_a_term_a_table_and_a_button(browser: Browser, said: dict) -> None:
    open_page(browser, said)
    reached = []
    for _ in range(60):
        browser.tab()
        reached.append(
            browser.run("return document.activeElement.getAttribute('class')")
        )
    assert {"term", "wide"} <= set(reached)
    term = browser.driver.find_element("css selector", "[popovertarget=term-recall]")
    meaning = browser.part("term-recall")
    assert not meaning.is_displayed()
    term.send_keys("\n")
    assert meaning.is_displayed() and meaning.text == shell.TERMS["recall"]
    assert browser.run("return getComputedStyle(arguments[0]).position", meaning)
    button = browser.driver.find_element("css selector", "#boards .copy")
    line = button.find_element("xpath", "..").find_element("tag name", "code").text
    button.send_keys("\n")
    told = browser.wait_for("told", bool)
    assert told in ("Copied", "Marked")
    if told == "Marked":  # a page without a clipboard
        assert browser.run("return getSelection().toString()") == line
    assert line in commands(Path(said["report"]).read_text())


def test_runs_beside_each_other(own: Path, tmp_path: Path) -> None:
    toolbox.need_qemu()
    other = Path(shutil.copytree(own, tmp_path / "other"))
    recipe = other / "recipe.toml"
    text = recipe.read_text().replace("refractory_ms = ", "refractory_ms = 1")
    recipe.write_text(text)
    manifest = json.loads((other / "bundle.json").read_text())
    manifest["files"].pop("recipe.toml")
    (other / "bundle.json").write_text(json.dumps(manifest))
    told = json.loads(invoke("compare", own, other, "--fit", "none", "--json"))
    a, b = (bundles.load(each).recipe.detector.refractory_ms for each in (own, other))
    assert told["recipe_changes"] == {"detector.refractory_ms": [a, b]}
    (pair,) = told["paired"]
    assert (pair["only_first"], pair["only_second"], pair["p"]) == (0, 0, 1.0)
    assert pair["n"] == told["runs"][0]["evaluation"]["n"]
    first, second = (each["evaluation"]["accuracy"] for each in told["runs"])
    assert first == second
    with pytest.raises(KwsError, match="two runs"):
        CliRunner().invoke(cli, ["compare", str(own)], catch_exceptions=False)


def test_each_two_of_three_runs_are_compared(tmp_path: Path) -> None:
    """Whatever the first was asked; and what is no run is told before any is heard."""
    corpus = small_corpus.make(tmp_path / "tones", (*COMMANDS, "cat", "bird"))
    runs = ("kwt-small-gsc12", "kwt-nano", "kwt-stream-tiny")
    given = ("--data", corpus, "--limit", 20, "--fit", "none")
    said = invoke("compare", *runs, *given)
    assert f"{runs[2]} against {runs[1]}, clip by clip (20)" in said
    assert said.count("clip by clip (") == 1
    left_out = f"{runs[0]} and {runs[1]}; {runs[0]} and {runs[2]}"
    assert f"not asked about the same ones: {left_out}\n" in said
    words = [str(word) for word in ("compare", *runs[1:], "nosuch", *given)]
    refused = CliRunner().invoke(cli, words)
    assert isinstance(refused.exception, KwsError)
    assert "nosuch" in str(refused.exception) and "Hearing" not in refused.stderr


def test_figures_on_tapes_have_their_hours_and_intervals(tmp_path: Path) -> None:
    def known(name: str, **changed: object) -> facts.Facts:
        bundle = bundles.load(name)
        point = bundle.metrics["operating_point"] | changed
        bundle = dataclasses.replace(bundle, metrics={"operating_point": point})
        return facts.Facts(name, bundle, facts.Asked())

    tiny, nano = known("kwt-stream-tiny"), known("kwt-nano")
    rows = compare.rows([tiny, nano, facts.Facts("x", tiny.bundle, facts.Asked())])
    names = [name for name, _ in rows]
    at = names.index("hours of tapes")
    block = {name + str(i): cells[0] for i, (name, cells) in enumerate(rows[at:])}
    after = bundles.load("kwt-stream-tiny").metrics["operating_point"]["after"]
    low, high = after["false_alarms_per_hour_ci95"]
    assert block["hours of tapes0"] == "2.45"
    assert block["words missed on them1"] == "16.46 %"
    assert block["  95 %2"] == "13.41 to 20.04"
    assert block["false alarms an hour3"] == "5.72"
    assert block["  95 %4"] == f"{low:.2f} to {high:.2f}"
    assert compare.about_tapes([tiny, nano]) is None
    aim = {"false_alarms": 2.0, "max_misses": None}
    other = known("kwt-nano", aim=aim)
    assert "as aims differ" in str(compare.about_tapes([tiny, nano, other]))
    other = known("kwt-nano", aim=aim, tapes=[])
    assert "as tapes and aims differ" in str(compare.about_tapes([tiny, other]))
    broken = known("kwt-nano", after={"miss_rate_ci95": ["a", 1], "hours_ci95": [1]})
    assert not broken.point_ci95


def test_a_pair_is_told_apart_by_clips_that_one_alone_hears(own: Path) -> None:
    """Against the binomial distribution, and with the run that is better named."""
    assert compare.sign_test(5, 5) == 1.0
    assert compare.sign_test(1, 9) == pytest.approx(2 * 11 / 1024)
    better = compare.Paired("a", "b", 100, 1, 9)
    assert "b is better" in better.text() and better.p < 0.05
    assert "can't be told apart" in compare.Paired("a", "b", 100, 3, 5).text()
    # Twenty clips of one person are one voice.
    one_voice = compare.Paired("a", "b", 100, 1, 20, 1, 1)
    assert one_voice.p < 0.05 and one_voice.p_speakers == 1.0
    assert "can't be told apart" in one_voice.text()
    assert "b is better" in compare.Paired("a", "b", 100, 1, 20, 1, 12).text()
    # More clips for the one, more people for the other: nobody's.
    crossed = compare.Paired("a", "b", 100, 40, 12, 1, 12)
    assert "can't be told apart" in crossed.text()


def test_loudness_is_that_of_the_loudest_part() -> None:
    pcm = np.zeros((2, 16000), np.int16)
    pcm[0, 9000:13000] = small_corpus.tone(400, 4000, 16384 * 2**0.5)
    quiet, silent = audio.loudness(pcm)
    assert quiet == pytest.approx(-6.02, abs=0.1) and silent == -100
