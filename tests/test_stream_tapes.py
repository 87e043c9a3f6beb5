"""Networks on tapes: what simulate says of each kind of sound is what the C does."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
import small_corpus
import soundfile
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

import test_stream
import test_stream_delta
import test_sweep
import toolbox

from kws import attention
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.cli import cli
from kws.cli.data import tape as tape_command
from kws.data import tape as tapes
from kws.data.audio import SAMPLE_RATE, wav_bytes
from kws.data.tape import Tape, Window
from kws.deploy import boards, emission, host, per_second
from kws.emit import native
from kws.errors import KwsError
from kws.features import extract
from kws.recipe import decision_ms
from kws.report import facts
from kws.report import run as pages
from kws.report import tape as tape_part
from kws.simulate import instructions, stream
from kws.simulate import sweep as sweeps
from kws.thresholds import Thresholds

ARROW_RIGHT = "\ue014"  # WebDriver's code
WORDS = ("yes", "no", "up", "go")
THETA = {"F": 5, "C": 3, "E": 12, "M": 9, "H": 4, "R": 3}


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> KwsError:
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert isinstance(done.exception, KwsError), done.output
    return done.exception


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With thresholds, and a detector that hears something of an untrained network."""
    path = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(test_stream.sample().path, path)
    found = bundles.load(path)
    detector = dataclasses.replace(
        found.recipe.detector,
        smoothing=1,
        threshold=0.405,
        rearm=0.395,
        refractory_ms=400,
    )
    task = dataclasses.replace(found.recipe.task, name="custom", words=WORDS)
    recipe = dataclasses.replace(found.recipe, detector=detector, task=task)
    labels = ("_silence_", "_unknown_", *WORDS)
    found = dataclasses.replace(found, labels=labels, recipe=recipe, thresholds=THETA)
    bundles.save(found)
    return bundles.load(path)


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tape with words that are heard and missed, which begins and ends with digital
    silence, and one of noise."""
    made = tmp_path_factory.mktemp("tapes")
    quiet = np.zeros(4 * SAMPLE_RATE, np.int16)
    pcm = np.concatenate([quiet, small_corpus.glides(12, seed=6), quiet])
    events = _events(bundle, pcm)
    word, time_s = events[len(events) // 2]
    other = next(name for name in ("no", "up") if name != word)
    windows = [Window(word, time_s - 0.4, time_s - 0.1), Window(other, 9.0, 9.5)]
    windows.sort(key=lambda window: window.start_s)
    said = [*windows, Window("bed", 12.0, 12.5)]
    tapes.save(Tape(pcm, windows, said=said), made / "words.wav")
    hiss = np.random.default_rng(0).normal(0, 2000, 5 * SAMPLE_RATE)
    tapes.save(Tape(hiss.astype(np.int16), [], "noise"), made / "noise.wav")
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus.make(tmp_path_factory.mktemp("clips") / "tones", WORDS)


def _events(bundle: Bundle, pcm: np.ndarray) -> list[tuple[str, float]]:
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        return [
            (bundle.labels[label], time_ms / 1000)
            for label, _, time_ms, _ in copy.detect(pcm)
        ]


@pytest.fixture(scope="module")
def said(bundle: Bundle, folder: Path) -> dict:
    """What `kws simulate --tape` says, as JSON."""
    run = ("simulate", bundle.path, "--theta", "bundle", "--tape", folder, "--json")
    return json.loads(invoke(*run))


def test_the_sound_of_each_step_is_what_the_tape_says() -> None:
    rng = np.random.default_rng(0)
    loud = rng.normal(0, 500, SAMPLE_RATE).astype(np.int16)
    quiet = rng.normal(0, 32.768, SAMPLE_RATE).astype(np.int16)  # -60 dBFS
    tape = Tape(
        np.concatenate([quiet, loud, loud]),
        [Window("yes", 1.25, 1.5)],
        said=[Window("yes", 1.25, 1.5), Window("bed", 2.0, 2.01)],
    )
    found = tape.sounds(0, 1600, 32)  # the last two are behind its end
    expected = ["silence"] * 10 + ["noise"] * 2 + ["words"] * 3 + ["noise"] * 5
    expected += ["words"] + ["noise"] * 9 + ["silence"] * 2
    assert found.tolist() == expected
    # The bed of a made tape, a tape of one kind, a recording that nobody knows.
    for kind, made, sound in (
        ("words", {"bed": "speech"}, "speech"),
        ("music", {}, "music"),
        ("recording", {}, "other"),
    ):
        made_of = dataclasses.replace(tape, windows=[], said=[], kind=kind, made=made)
        assert set(made_of.sounds(0, 1600, 30)[10:]) == {sound}


def test_a_made_tape_says_what_its_bed_is(tmp_path: Path) -> None:
    corpus = small_corpus.make(tmp_path / "corpus", ("yes", "no", "cat"))
    around = tmp_path / "around" / "music"
    around.mkdir(parents=True)
    pcm = small_corpus.glides(40, seed=1)
    (around / "song.wav").write_bytes(wav_bytes(pcm))
    for more, bed in (((), "noise"), (("--ambient", tmp_path / "around"), "music")):
        out = tmp_path / f"{bed}.wav"
        words = ("--out", out, "--data", corpus, "--words", "yes,no", "--seconds", 20)
        done = CliRunner().invoke(tape_command, [*map(str, (*words, *more))])
        assert done.exit_code == 0, done.output
        assert tapes.open_tape(out).bed == bed


def test_simulate_on_tapes_hears_what_eval_hears(
    bundle: Bundle, folder: Path, said: dict
) -> None:
    assert said["steps"] == THETA
    together = [0, 0]
    for one in said["tapes"]:
        tape = tapes.open_tape(Path(one["tape"]))
        score = tapes.score(_events(bundle, tape.pcm), tape.windows, tape.hours)
        assert one | tapes.figures(score) == one
        together[0] += score.misses
        together[1] += score.false_alarms
    assert [one["kind"] for one in said["tapes"]] == ["noise", "words"]
    assert [said["missed"], said["false_alarms"]] == together
    assert said["words"] == 2 and said["missed"] == 1 and said["false_alarms"] > 0


def test_what_a_second_costs_by_sound_adds_up_to_the_profile(
    bundle: Bundle, folder: Path, said: dict
) -> None:
    """By sound, and all of it, against the same C run by `kws profile --audio`."""
    sounds = said["sounds"]
    assert list(sounds) == ["noise", "silence", "words", "all"]
    rate = 1000 / decision_ms(bundle.recipe)
    assert said["decisions_per_second"] == rate
    alone = [
        per_second.on_host(bundle, tapes.open_tape(folder / name).pcm)
        for name in ("noise.wav", "words.wav")
    ]
    macs = np.concatenate([one.macs for one in alone])
    assert said["macs_per_step_dense"] == alone[0].macs_dense
    assert sounds["all"]["macs_per_second"] == pytest.approx(rate * macs.mean())
    assert sounds["all"]["macs_per_step"]["p95"] == pytest.approx(
        np.percentile(macs, 95)
    )
    parts = [sounds[name] for name in sounds if name != "all"]
    hours = np.array([part["hours"] for part in parts])
    for value, expected in (
        (lambda part: part["macs_per_second"], sounds["all"]["macs_per_second"]),
        (lambda part: part["at_rest"], sounds["all"]["at_rest"]),
        (lambda part: part["sent"]["H"], sounds["all"]["sent"]["H"]),
    ):
        found = np.array([value(part) for part in parts])
        assert (found * hours).sum() / hours.sum() == pytest.approx(expected)
    assert hours.sum() == pytest.approx(sounds["all"]["hours"])
    # Digital silence is at rest as soon as nothing looks back on sound.
    assert sounds["silence"]["at_rest"] > 0.3 > sounds["noise"]["at_rest"]
    assert (
        sounds["silence"]["macs_per_second"] < 0.5 * sounds["noise"]["macs_per_second"]
    )
    assert all(0 <= share <= 1 for part in parts for share in part["sent"].values())


def test_instructions_of_every_step_are_the_board_s(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    toolbox.need_compiler()
    toolbox.need_qemu()
    tape = folder / "words.wav"
    run = ("simulate", bundle.path, "--theta", "bundle", "--tape", tape)
    said = json.loads(invoke(*run, "--board", "qemu-m4", "--json"))["sounds"]
    board, pcm = boards.load("qemu-m4"), tapes.open_tape(tape).pcm
    emission.emit_bundle(bundle, tmp_path / "model", board.core)
    counted = per_second.on_board(
        bundle, board, tmp_path / "model", tmp_path / "out", pcm
    )
    decisions = len(per_second.on_host(bundle, pcm).macs) + 1
    assert counted.steps.shape == (decisions, 2)
    features, model = counted.steps[:, 0], counted.steps[:, 1]
    assert model.mean() == pytest.approx(counted.decision, rel=1e-3)
    assert model.max() == pytest.approx(counted.decision_max, abs=4)
    rate = 1000 / decision_ms(bundle.recipe)
    assert rate * features[1:].mean() == pytest.approx(counted.features, rel=0.01)
    found = said["all"]["instructions_per_second"]
    assert found["model"] == pytest.approx(rate * model[1:].mean())
    assert found["total"] == pytest.approx(found["features"] + found["model"])
    every = (features + model)[1:]
    assert said["all"]["instructions_per_step"] == {
        "mean": pytest.approx(every.mean()),
        "p95": pytest.approx(np.percentile(every, 95)),
        "max": every.max(),
    }
    silence, words = (
        said[name]["instructions_per_second"] for name in ("silence", "words")
    )
    assert silence["model"] < 0.7 * words["model"]


def test_a_network_that_sees_the_whole_second_runs_on_tapes_too(folder: Path) -> None:
    said = json.loads(
        invoke("simulate", "kwt-tiny", "--theta", "H=0.5", "--tape", folder, "--json")
    )
    assert said["decisions_per_second"] == 6.25
    assert said["sounds"]["all"]["at_rest"] == 0
    assert 0 < said["sounds"]["all"]["sent"]["H"] < 1


def test_what_is_not_a_tape_or_not_about_tapes_is_refused(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    run = ("simulate", bundle.path, "--tape")
    alone = tmp_path / "alone.wav"
    alone.write_bytes((folder / "noise.wav").read_bytes())
    error = refused(*run, alone)
    assert "No truth file" in error.message and "alone.tsv" in error.message
    tapes.save(Tape(np.zeros(8000, np.int16), [], "noise"), tmp_path / "short.wav")
    error = refused(*run, tmp_path / "short.wav")
    assert "short.wav: The recording is too short" in error.message
    tapes.save(Tape(np.zeros(0, np.int16), [], "noise"), tmp_path / "empty.wav")
    refused(*run, tmp_path / "empty.wav")
    (tmp_path / "nothing").mkdir()
    assert "without tapes" in refused(*run, tmp_path / "nothing").message
    assert "KIND one of F" in refused(*run, folder, "--theta", "X=1").message
    error = refused(*run, folder, "--limit", 4, "--split", "val")
    assert "Received: --split, --limit" in error.message
    error = refused(*run, folder, "--engine", "float")
    assert "Received: --engine" in error.message
    assert "Expected --tape" in refused(*run[:2], "--board", "qemu-m4").message
    assert "runner = 'qemu'" in refused(*run, folder, "--board", "pico").message


def test_text_has_a_row_for_each_sound(bundle: Bundle, folder: Path) -> None:
    text = invoke("simulate", bundle.path, "--theta", "H=0.3", "--tape", folder)
    heads = [line.split()[0] for line in text.splitlines() if line]
    for sound in ("noise", "silence", "words", "all"):
        assert heads.count(sound) == 2  # what it costs, what it sends
    assert "Together:" in text and "every" not in text
    assert native.sources(bundle, "portable").network.stream is not None


# ---- sweeps --------------------------------------------------------------------------


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of a few points."""
    for name, value in test_sweep.COARSE.items():
        monkeypatch.setattr(sweeps, name, value)


def heard_by(bundle: Bundle, folder: Path, seconds: float = 4.0) -> stream.Hearing:
    files = tapes.files([folder])
    opened = [(str(path), tapes.open_tape(path)) for path in files]
    return stream.hearing(bundle, opened, seconds)


@pytest.mark.parametrize("seed", [1, 2])
def test_moved_thresholds_are_those_that_are_compiled(
    bundle: Bundle, folder: Path, seed: int
) -> None:
    """One library with thresholds in memory, against one for each setting: the same
    bits, counts and work, where some tensors are dense as well."""
    steps = test_stream_delta.random_thresholds(seed)
    slots = attention.slots(bundle.recipe.model)
    judge = stream.Judge(bundle, slots, heard_by(bundle, folder))
    pcm = judge.heard.recordings[1][1].pcm
    judge.steps(pcm, Thresholds.from_dict({"F": 200}, slots))  # leaves no trace
    found = judge.steps(pcm, Thresholds.from_dict(steps, slots))
    judge.close()
    own = dataclasses.replace(bundle, thresholds=steps)
    network = native.sources(own, "portable").network
    with host.opened(host.library(own), len(own.labels)) as copy:
        expected = per_second.steps(pcm, copy, network)
    np.testing.assert_array_equal(found.found.logits, expected.found.logits)
    np.testing.assert_array_equal(found.found.heard, expected.found.heard)
    np.testing.assert_array_equal(found.at_rest, expected.at_rest)
    np.testing.assert_allclose(found.macs[1:], expected.macs[1:])
    encoded = [
        place
        for place, product in enumerate(judge.network.products)
        if Thresholds.from_dict(steps, slots)[product.slot] >= 0
    ]
    np.testing.assert_array_equal(found.found.sent[:, encoded], expected.found.sent)


def test_an_excerpt_is_pieces_of_all_tapes(bundle: Bundle, folder: Path) -> None:
    whole = np.concatenate(
        [tapes.open_tape(folder / f"{n}.wav").pcm for n in ("noise", "words")]
    )
    pcm = heard_by(bundle, folder, 12.0).excerpt
    size = 4 * SAMPLE_RATE
    starts = [0, (len(whole) - size) // 2, len(whole) - size]
    pieces = [whole[start : start + size] for start in starts]
    np.testing.assert_array_equal(pcm, np.concatenate(pieces))
    np.testing.assert_array_equal(heard_by(bundle, folder, 60.0).excerpt, whole)


@pytest.fixture
def swept(
    bundle: Bundle, folder: Path, corpus: Path, tmp_path: Path, coarse: None
) -> tuple[tuple[object, ...], dict]:
    """A sweep's words, and what it says."""
    run = Path(shutil.copytree(bundle.path, tmp_path / "own"))
    words = ("sweep", run, "--tape", folder, "--data", corpus, "--limit", 4)
    words += ("--targets", 0.6, "--rounds", 1, "--excerpt", 4, "--jobs", 1)
    words += ("--boards", "none")
    return words, json.loads(invoke(*words, "--json"))


def test_a_sweep_judges_every_point_on_the_tapes(
    bundle: Bundle, folder: Path, swept: tuple[tuple[object, ...], dict]
) -> None:
    words, table = swept
    run = Path(str(words[1]))
    points, heard = table["points"], table["on_tapes"]
    assert heard["words"] == 2 and [t["kind"] for t in heard["tapes"]] == [
        "noise",
        "words",
    ]
    assert any(p["steps"].get("1.R", p["steps"].get("R", 0)) > 0 for p in points)
    for point in (points[0], points[heard["pareto_faults"][0]]):
        theta = ",".join(f"{k}={v!r}" for k, v in point["thresholds"].items())
        said = json.loads(
            invoke("simulate", run, "--tape", folder, "--json", "--theta", theta)
        )
        assert said["steps"] == point["steps"]
        for key in ("missed", "false_alarms", "hours", "words"):
            assert point["tape"][key] == said[key]
        cost = said["sounds"]["all"]["macs_per_second"]
        assert point["tape"]["macs_per_second"] == pytest.approx(cost)
        clips = ("simulate", run, "--split", "val", "--limit", 4, "--data", words[5])
        on_clips = json.loads(invoke(*clips, "--theta", theta, "--json"))
        assert point["accuracy"] == on_clips["accuracy"]
    assert points[0]["divergence"] == 0 == points[0]["tape"]["mac_cut"]
    front = [points[i] for i in heard["pareto_faults"]]
    faults = [p["tape"]["missed"] + p["tape"]["false_alarms"] for p in front]
    cuts = [p["tape"]["mac_cut"] for p in front]
    assert faults == sorted(set(faults)) and cuts == sorted(set(cuts))
    assert cuts[-1] > 0.4 and any(p["stage"] == "refined" for p in points)


def test_a_sweep_on_tapes_goes_on_and_is_picked_from(
    folder: Path, tmp_path: Path, swept: tuple[tuple[object, ...], dict]
) -> None:
    words, table = swept
    run = Path(str(words[1]))
    journal = run / "sweep" / "journal.jsonl"
    made = journal.read_text()
    lines = made.splitlines()
    journal.write_text("\n".join(lines[: len(lines) // 2]) + "\n" + lines[-1][:7])
    assert json.loads(invoke(*words, "--json"))["points"] == table["points"]
    assert sorted(journal.read_text().splitlines()) == sorted(lines)
    # The page, its measures, and what it offers.
    page = (run / "sweep" / "report.html").read_text()
    assert (
        page.count('data-measure="missed"') == page.count('data-measure="alarms"') > 1
    )
    assert "Words missed on the tapes" in page and "with the run's own" in page
    most = max(point["tape"]["miss_rate"] for point in table["points"])
    told = invoke(*words, "--pick", f"misses<={most}")
    assert "on the tapes: 0.01 h, 2 words" in told and "alarms/h" in told
    best = max(table["points"], key=lambda p: p["tape"]["mac_cut"])
    assert bundles.load(run).thresholds == best["steps"]
    assert "missed" in (run / "sweep" / "sweep.csv").read_text().splitlines()[0]
    (said,) = invoke("report", run / "sweep").splitlines()[:1]
    assert f"{len(table['points'])} points" in said
    # With another detector other words are heard: the journal is not its.
    recipe = run / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace("threshold = 0.405", "threshold = 0.6")
    )
    manifest = json.loads((run / "bundle.json").read_text())
    manifest["files"].pop("recipe.toml")
    (run / "bundle.json").write_text(json.dumps(manifest))
    assert "another run, clips or settings" in refused(*words).message
    # A page must not take what nobody wrote.
    broken = json.loads((run / "sweep" / "sweep.json").read_text())
    broken["points"][1]["tape"]["miss_rate"] = "<b>"
    (run / "sweep" / "sweep.json").write_text(json.dumps(broken))
    assert "Not a sweep" in refused("report", run / "sweep").message


def test_sweeps_on_tapes_refuse_what_they_cannot_do(
    bundle: Bundle, folder: Path, corpus: Path
) -> None:
    words = ("sweep", bundle.path, "--data", corpus, "--boards", "none")
    error = refused("sweep", "kwt-tiny", *words[2:], "--tape", folder)
    assert "causal = true" in error.message
    assert (
        "No word of the network's"
        in refused(*words, "--tape", folder / "noise.wav").message
    )
    assert (
        "--engine float"
        in refused(*words, "--tape", folder, "--engine", "float").message
    )
    assert "has no tapes" in refused(*words, "--pick", "misses<=0.1").message


def test_instructions_of_a_point_are_those_of_the_excerpt(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    toolbox.need_compiler()
    toolbox.need_qemu()
    slots = attention.slots(bundle.recipe.model)
    judge = stream.Judge(bundle, slots, heard_by(bundle, folder))
    steps = Thresholds.from_dict(THETA, slots)
    found = instructions.measure_stream(judge, steps, "qemu-m4")
    board = boards.load("qemu-m4")
    emission.emit_bundle(bundle, tmp_path / "model", board.core)
    counted = per_second.on_board(
        bundle, board, tmp_path / "model", tmp_path / "out", judge.heard.excerpt
    )
    model = counted.steps[1:, 1]
    assert found["instructions"] == round(model.mean())
    assert found["instructions_max"] == model.max()
    rate = 1000 / decision_ms(bundle.recipe)
    total = rate * counted.steps[1:].sum(axis=1).mean()
    assert found["instructions_per_second"] == round(total)
    assert found["layer_sent"] == judge.excerpt(steps)["layer_sent"]
    judge.close()


# ---- the report ----------------------------------------------------------------------


def drawn(bundle: Bundle, folder: Path, corpus: Path, out: Path) -> tuple[dict, dict]:
    """What `kws report --tape` says, and what its page draws."""
    words = ("report", bundle.path, "--tape", folder, "--out", out, "--data", corpus)
    said = json.loads(invoke(*words, "--fit", "none", "--clips", 1, "--json"))
    (data,) = re.findall(r'id="tape-data">(.*?)</script>', out.read_text())
    return said, json.loads(data)


def test_the_report_draws_what_every_step_of_a_tape_took(
    bundle: Bundle, folder: Path, corpus: Path, said: dict, tmp_path: Path
) -> None:
    toolbox.need_compiler()
    toolbox.need_qemu()
    out = tmp_path / "page.html"
    reported, data = drawn(bundle, folder, corpus, out)
    assert reported["tapes"]["sounds"] == said["sounds"]
    noise, words = data["tapes"]
    tape = tapes.open_tape(folder / "words.wav")
    # 20 s are drawn whole; the first decision starts from nothing.
    board = boards.load("qemu-m4")
    emission.emit_bundle(bundle, tmp_path / "model", board.core)
    counted = per_second.on_board(
        bundle, board, tmp_path / "model", tmp_path / "out", tape.pcm
    )
    assert data["unit"] == "instructions" and words["start"] == 0
    assert words["cost"] == counted.steps[1:].T.tolist()
    assert len(words["times"]) == len(words["sounds"]) == len(counted.steps) - 1
    assert data["dense"] > data["rate"] * counted.steps[1:, 1].mean()
    spec = bundle.recipe.features
    features = np.frombuffer(base64.b64decode(words["features"]), np.int8)
    expected = extract(tape.pcm, spec)
    assert words["frames"] == list(expected.shape)
    np.testing.assert_array_equal(features.reshape(expected.shape), expected)
    # Words and events are those that eval counts.
    states = [word["state"] for word in words["words"]]
    assert sorted(states) == ["heard", "missed", "other"]
    events = _events(bundle, tape.pcm)
    judged = tapes.judge(events, tape.windows)
    hits = [event for event in words["events"] if event["hit"]]
    assert len(hits) == len(judged.hits) == 1
    assert len(words["events"]) - 1 == len(judged.false_alarms)
    assert noise["words"] == [] and len(noise["cost"][0]) > 0
    page = out.read_text()
    assert "counted exactly" in page and page.count('class="tape"') == 2
    sounds = re.findall(r'base64,([^"]+)" aria-label="Excerpt of', page)
    pcm, _ = soundfile.read(io.BytesIO(base64.b64decode(sounds[1])), dtype="int16")
    np.testing.assert_array_equal(pcm, tape.pcm)
    _can_be_read(out, tmp_path)


def test_an_excerpt_s_steps_are_the_tape_s(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut anywhere, with what leads to it: a dense network decides as on the tape."""
    monkeypatch.setattr(tape_part, "EXCERPT_S", 4.0)
    dense = dataclasses.replace(bundle, thresholds={})
    tape = tapes.open_tape(folder / "words.wav")
    (one,) = stream.follow(dense, [("words", tape)])
    excerpt, cut = tape_part._excerpt(dense, tape, one, stream.step_samples(dense))
    assert excerpt.start_s > 0  # where words are
    assert len(excerpt.pcm) == 4 * SAMPLE_RATE and 45 < excerpt.chosen.sum() <= 50
    assert {window.word for window in cut.said} >= {w.word for w in tape.windows}
    (again,) = stream.follow(dense, [("cut", cut)])
    np.testing.assert_array_equal(
        again.steps.found.logits[-len(excerpt.cost) :],
        one.steps.found.logits[excerpt.chosen],
    )
    np.testing.assert_array_equal(excerpt.cost[:, 1], one.steps.macs[excerpt.chosen])


def _can_be_read(page: Path, folder: Path) -> None:
    with browsers.opened(folder, folder / "none.wav") as browser:
        for width in (1280, 360):
            for scheme in ("light", "dark"):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                browser.command("Emulation.setEmulatedMedia", features=features)
                size = {"width": width, "height": 900, "deviceScaleFactor": 1}
                browser.command(
                    "Emulation.setDeviceMetricsOverride", **size, mobile=False
                )
                browser.driver.get(page.as_uri())
                wide = browser.run("return document.documentElement.scrollWidth")
                assert wide <= width
                assert browser.run(browsers.CONTRAST) == []
                assert browser.complaints() == []
        # The spectrogram has light and dark; keys go from step to step.
        shades = browser.run(
            "const canvas = document.querySelectorAll('#tapes canvas')[1];"
            "const all = canvas.getContext('2d').getImageData(0, 0, canvas.width,"
            " canvas.height).data; const seen = new Set();"
            "for (let i = 0; i < all.length; i += 4) seen.add(all[i]); return seen.size"
        )
        assert shades > 20
        svg = browser.driver.find_elements("css selector", "#tapes .stage svg")[1]
        told = browser.driver.find_elements("css selector", "#tapes .told")[1]
        average = told.text
        assert "on average" in average
        svg.send_keys(ARROW_RIGHT)
        first = told.text
        assert "a second (features" in first and first != average
        svg.send_keys(ARROW_RIGHT)
        assert told.text != first


def test_a_page_without_tapes_says_how_to_have_them(tmp_path: Path) -> None:
    text = pages.page(facts.Facts("my run", bundles.load("kwt-tiny"), facts.Asked()))
    assert "kws report &#x27;my run&#x27; --tape tapes/words.wav" in text
    error = refused(
        "report", "kwt-tiny", "--fit", "none", "--tape", tmp_path / "no.wav"
    )
    assert "No such recording" in error.message
