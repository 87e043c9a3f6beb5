"""Networks on tapes: what simulate says of each kind of sound is what the C does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_corpus
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

import test_stream
import toolbox

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
from kws.recipe import decision_ms

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
    recipe = dataclasses.replace(found.recipe, detector=detector)
    bundles.save(dataclasses.replace(found, recipe=recipe, thresholds=THETA))
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
    error = refused(*run, folder, "--limit", 4, "--split", "val", "--engine", "float")
    assert "--split, --limit, --engine float" in error.message
    assert "Expected --tape" in refused(*run[:2], "--board", "qemu-m4").message
    assert "runner = 'qemu'" in refused(*run, folder, "--board", "pico").message


def test_text_has_a_row_for_each_sound(bundle: Bundle, folder: Path) -> None:
    text = invoke("simulate", bundle.path, "--theta", "H=0.3", "--tape", folder)
    heads = [line.split()[0] for line in text.splitlines() if line]
    for sound in ("noise", "silence", "words", "all"):
        assert heads.count(sound) == 2  # what it costs, what it sends
    assert "Together:" in text and "every" not in text
    assert native.sources(bundle, "portable").network.stream is not None
