"""A detector on several tapes: figures by kind, and what each fault was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import small_corpus
from click.testing import CliRunner

from kws import bundle as bundles
from kws import tapes
from kws.bundle import Bundle
from kws.cli.eval import command
from kws.data import audio
from kws.data import tape as tapes_of
from kws.data.speech_commands import MISTAKEN
from kws.data.tape import Score, Tape, Window
from kws.engines import host as engine
from kws.errors import KwsError
from kws.intervals import poisson_interval, wilson_interval


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load("kwt-tiny")


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return small_corpus.glides(90, seed=6)


@pytest.fixture(scope="module")
def made(bundle: Bundle, sound: np.ndarray, tmp_path_factory: pytest.TempPathFactory):
    """Two tapes: one whose first event is a word that is said, beside one that is not
    heard; and one of noise. Returns their folder and the words' tape."""
    events = engine.detect(bundle, sound)
    assert len(events) >= 3
    first = events[0]
    silent = next(
        label
        for label in bundle.labels[2:]
        if label not in {event.word for event in events}
    )
    windows = [
        Window(first.word, first.time_s - 0.6, first.time_s - 0.1, 12.0, "said.wav"),
        Window(silent, first.time_s + 5, first.time_s + 5.5, 5.5, "missed.wav"),
        Window("lumos", first.time_s + 9, first.time_s + 9.5),
    ]
    said = [Window("a sentence", 0.0, len(sound) / 16000), *windows]
    folder = tmp_path_factory.mktemp("tapes")
    tape = Tape(sound, windows, said=said)
    tapes_of.save(tape, folder / "words.wav")
    tapes_of.save(Tape(sound[::-1], [], "noise"), folder / "noise.wav")
    return folder, tape


def test_figures_add_up_by_kind(bundle: Bundle, sound: np.ndarray, made) -> None:
    folder, tape = made
    done = CliRunner().invoke(command, ["kwt-tiny", "--tape", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    events = engine.detect(bundle, sound)
    noise = engine.detect(bundle, sound[::-1])
    hours = len(sound) / 16000 / 3600
    alone = tapes_of.score(
        [(e.word, e.time_s) for e in events],
        tapes_of.asked_for(tape.windows, bundle.labels),
        hours,
    )
    other = tapes_of.score([(e.word, e.time_s) for e in noise], [], hours)
    assert other.false_alarms and alone.false_alarms
    alarms = alone.false_alarms + other.false_alarms
    assert table["hours"] == pytest.approx(2 * hours)
    assert (table["words"], table["hits"], table["missed"]) == (2, 1, 1)
    assert table["misses"] == 1 and table["miss_rate"] == 0.5
    assert table["miss_rate_ci95"] == list(wilson_interval(1, 2))
    assert table["false_alarms"] == alarms
    assert table["false_alarms_per_hour"] == pytest.approx(alarms / hours / 2)
    assert table["false_alarms_per_hour_ci95"] == pytest.approx(
        [count / hours / 2 for count in poisson_interval(alarms)]
    )
    kinds = table["kinds"]
    assert list(kinds) == ["noise", "words"]
    assert kinds["noise"]["false_alarms"] == other.false_alarms
    assert kinds["noise"]["hours"] == kinds["words"]["hours"] == hours
    assert kinds["noise"]["miss_rate_ci95"] is None
    assert sum(row["false_alarms"] for row in table["per_word"].values()) == alarms
    assert table["snr_db"] == {
        "5 to 10": {"words": 1, "missed": 1},
        "10 to 15": {"words": 1, "missed": 0},
    }
    assert {event["tape"] for event in table["events"]} == {
        str(folder / "noise.wav"),
        str(folder / "words.wav"),
    }
    assert len(table["events"]) == len(events) + len(noise)


def test_words_are_counted_by_speaker_and_by_loudness(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    """Anna's are heard, Bert's are not; half of either lies where the tape is soft."""
    events = engine.detect(bundle, sound)
    word, time_s = events[0].word, events[0].time_s
    part = sound[: round((time_s + 1) * 16000)]
    quiet = np.rint(part / 8).astype(np.int16)
    silent = next(
        label for label in bundle.labels[2:] if label not in {e.word for e in events}
    )
    windows = [
        Window(word, time_s - 0.6, time_s - 0.1, clip=f"{word}/anna_nohash_0.wav"),
        Window(silent, time_s - 0.6, time_s - 0.1, clip=f"{silent}/bert_nohash_0.wav"),
    ]
    for name, pcm in (("loud", part), ("soft", quiet)):
        tapes_of.save(Tape(pcm, windows, said=windows), tmp_path / f"{name}.wav")
    arguments = ["kwt-tiny", "--tape", str(tmp_path)]
    done = CliRunner().invoke(command, [*arguments, "--json"])
    table = json.loads(done.stdout)
    heard = [{e.word for e in engine.detect(bundle, pcm)} for pcm in (part, quiet)]
    missed_anna = sum(word not in words for words in heard)
    assert table["missed"] == 2 + missed_anna
    assert table["speakers"]["n"] == 2 and table["speakers"]["clips"] == 4
    assert table["speakers"]["hardest"][0] == {
        "speaker": "bert",
        "wrong": 2,
        "clips": 2,
    }
    by_level = table["loudness_dbfs"]
    assert [row["words"] for row in by_level.values()] == [2, 2]
    low, high = (int(step.split(" to ")[0]) for step in by_level)
    assert 10 <= high - low <= 20  # 18 dB apart, in steps of 10
    assert table["snr_db"] == {}  # nobody laid them
    said = CliRunner().invoke(command, arguments).output
    assert "most missed: bert 2 of 2" in said and f"{low} to {low + 10} dBFS" in said


def test_every_fault_is_told_and_every_false_alarm_cut_out(
    bundle: Bundle, sound: np.ndarray, made, tmp_path: Path
) -> None:
    folder, tape = made
    arguments = ["kwt-tiny", "--tape", str(folder / "words.wav"), "--events"]
    arguments += [str(tmp_path / "events.tsv"), "--cut", str(tmp_path / "cut")]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    mine = tmp_path / "truth.tsv"
    mine.write_text("start_s\tend_s\tword\n")
    over = [*arguments[:4], str(mine), *arguments[5:]]
    with pytest.raises(KwsError, match="something else already"):
        CliRunner().invoke(command, over, catch_exceptions=False)
    assert mine.read_text() == "start_s\tend_s\tword\n"
    head, *lines = (tmp_path / "events.tsv").read_text().splitlines()
    rows = [dict(zip(head.split("\t"), x.split("\t"), strict=True)) for x in lines]
    events = {round(e.time_s, 2): e for e in engine.detect(bundle, sound)}
    alarms = [row for row in rows if row["what"] == "false alarm"]
    (miss,) = [row for row in rows if row["what"] == "miss"]
    assert [float(row["time_s"]) for row in rows] == sorted(
        float(row["time_s"]) for row in rows
    )
    for row in alarms:
        event = events[float(row["time_s"])]
        assert (row["word"], row["said"]) == (event.word, "a sentence")
        assert float(row["score"]) == pytest.approx(event.score, abs=1e-4)
        # A second that ends one decision (of the three averaged) before the event.
        clip = audio.read(tmp_path / "cut" / row["cut"]).pcm
        end = round((event.time_s - 0.16) * 16000)
        assert np.array_equal(clip, sound[end - 16000 : end])
    assert len(list((tmp_path / "cut" / "false_alarm").iterdir())) == len(alarms) > 1
    window = tape.windows[1]
    assert (miss["word"], miss["said"], miss["snr_db"]) == (
        window.word,
        "missed.wav",
        "5.5",
    )
    # The highest mean of three posteriors while it could have been heard.
    assert 0 <= float(miss["score"]) < bundle.recipe.detector.threshold


def test_alarms_of_tapes_of_one_name_are_cut_out_beside_each_other(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    """Of one call or of two: the second's replaced the first's."""
    softer = (sound // 2).astype(np.int16)  # the same words at the same times
    both = [(f"{p}/x.wav", Tape(pcm, [])) for p, pcm in (("a", sound), ("b", softer))]
    found = tapes.evaluate(bundle, both, cut=tmp_path / "one").findings
    alone = [tapes.evaluate(bundle, [one], cut=tmp_path / "two") for one in both]
    assert found == [finding for result in alone for finding in result.findings]
    times = [(finding.time_s, finding.word) for finding in found]
    assert len(found) == len({finding.cut for finding in found}) > len(set(times)) > 2
    for folder in (tmp_path / "one", tmp_path / "two"):
        files = {str(file.relative_to(folder)) for file in folder.rglob("*.wav")}
        assert files == {finding.cut for finding in found}
    # The same again is the same files.
    assert tapes.evaluate(bundle, both, cut=tmp_path / "one").findings == found
    assert len(list((tmp_path / "one").rglob("*.wav"))) == len(found)


def test_what_was_cut_out_before_an_error_is_for_training_too(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    """The lists came at the very end."""
    tapes_of.save(Tape(sound, []), tmp_path / "tapes" / "a.wav")
    (tmp_path / "tapes" / "b.wav").write_bytes(b"no sound")
    (tmp_path / "tapes" / "b.tsv").touch()
    arguments = ["kwt-tiny", "--tape", str(tmp_path / "tapes"), "--cut"]
    done = CliRunner().invoke(command, [*arguments, str(tmp_path / "cut")])
    assert isinstance(done.exception, KwsError)
    assert list((tmp_path / "cut").rglob("*.wav"))
    assert sorted(file.name for file in (tmp_path / "cut").glob("*.txt")) == [
        "testing_list.txt",
        "validation_list.txt",
    ]


def test_a_tab_in_a_tapes_name_is_none_of_the_tables(
    sound: np.ndarray, tmp_path: Path
) -> None:
    tapes_of.save(Tape(sound, []), tmp_path / "my\ttape.wav")
    arguments = ["kwt-tiny", "--tape", str(tmp_path), "--cut", str(tmp_path / "cut")]
    arguments += ["--events", str(tmp_path / "e.tsv")]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    head, *lines = (tmp_path / "e.tsv").read_text().splitlines()
    rows = [dict(zip(head.split("\t"), x.split("\t"), strict=True)) for x in lines]
    assert {row["tape"] for row in rows} == {str(tmp_path / "my tape.wav")}
    assert all((tmp_path / "cut" / row["cut"]).is_file() for row in rows)


def test_where_nothing_is_cut_out_that_is_said(tmp_path: Path) -> None:
    tapes_of.save(Tape(np.zeros(32000, np.int16), []), tmp_path / "t.wav")
    arguments = ["kwt-tiny", "--tape", str(tmp_path), "--cut", str(tmp_path / "cut")]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "No false alarm: nothing was cut out" in done.output
    assert "Wrote" not in done.output and not (tmp_path / "cut").exists()


def test_an_alarm_before_the_first_whole_clip_is_cut_out_too(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    """A network for streams may say a word at once, with much smoothing behind it."""
    detector = dataclasses.replace(bundle.recipe.detector, smoothing=16)
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    late = dataclasses.replace(bundle, recipe=recipe)
    event = engine.Event("yes", 0.0, 0.5, 0.9)
    tape = Tape(sound, [])
    found = tapes._alarm(late, "x.wav", tape, event, tmp_path)
    assert not audio.read(tmp_path / found.cut).pcm.any()


def test_what_was_cut_out_is_another_word_to_training(made, tmp_path: Path) -> None:
    """And to training alone: a fifth of it went to validation and test."""
    from kws.data import open_corpus

    folder, _ = made
    for cut in ("cut", "mine"):
        (tmp_path / "mine" / "yes").mkdir(parents=True, exist_ok=True)
        arguments = ["kwt-tiny", "--tape", str(folder), "--cut", str(tmp_path / cut)]
        done = CliRunner().invoke(command, arguments)
        assert done.exit_code == 0
        assert ("yes is there, too" in done.stderr) == (cut == "mine")
    corpus = open_corpus(tmp_path / "cut")
    files = list((tmp_path / "cut" / "false_alarm").iterdir())
    recordings = corpus.recordings("train")
    assert len(recordings) == len(files) > 2
    assert {item.word for item in recordings} == {MISTAKEN}
    assert not corpus.recordings("val") and not corpus.recordings("test")
    # Into a corpus: its own clips are shared out as before.
    assert not list((tmp_path / "mine").glob("*.txt"))


def test_words_that_a_text_holds_are_told_before_they_count_as_false_alarms(
    bundle: Bundle, tmp_path: Path
) -> None:
    said = [Window("he said yes", 0.0, 2.0)]
    tape = Tape(np.zeros(32000, np.int16), [], "speech", said, {"words": ["lumos"]})
    tapes_of.save(tape, tmp_path / "t.wav")
    audio.say.cache_clear()
    done = CliRunner().invoke(command, ["kwt-tiny", "--tape", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "'yes' (1). Heard there, they count as FALSE ALARMS" in done.stderr


def test_what_tapes_need_is_refused_without_them(tmp_path: Path) -> None:
    tape, file = tmp_path / "of" / "none.wav", tmp_path / "file"  # nothing is heard
    file.touch()
    for arguments, message in (
        (["--events", "e.tsv"], "no --tape"),
        (["--cut", "c"], "no --tape"),
        (["--truth", "t.tsv"], "one tape"),
        (["--tape", str(tmp_path)], "without tapes"),
        (["--tape", str(tape), "--events", str(file / "e.tsv")], "Expected a folder"),
        (["--tape", str(tape), "--cut", str(file)], "Expected a folder"),
    ):
        done = CliRunner().invoke(command, ["kwt-tiny", *arguments])
        assert isinstance(done.exception, KwsError)
        assert message in done.exception.message


def test_hints_name_the_users_own_tapes(made, tmp_path: Path) -> None:
    """They said tape.wav and TAPE.wav, and RUN."""
    folder, _ = made

    def refused(*arguments: str) -> KwsError:
        done = CliRunner().invoke(command, ["kwt-tiny", *arguments])
        assert isinstance(done.exception, KwsError)
        return done.exception

    error = refused("--tape", str(folder), "--truth", "my t.tsv")
    assert error.message.endswith("several tapes")
    one = folder / "noise.wav"
    assert error.hint == f"kws eval kwt-tiny --tape {one} --truth 'my t.tsv'"
    for named in ("float", "float,host"):
        error = refused("--tape", str(one), "--tape", str(folder), "--engine", named)
        assert "does not stream" in error.message
        both = f"kws eval kwt-tiny --tape {one} --tape {folder}"
        assert error.hint == f"{both} --engine host"
    # A folder with one tape is one.
    tapes_of.save(Tape(np.zeros(32000, np.int16), []), tmp_path / "one" / "t.wav")
    (tmp_path / "t.tsv").touch()
    arguments = ["--tape", str(tmp_path / "one"), "--truth", str(tmp_path / "t.tsv")]
    assert CliRunner().invoke(command, ["kwt-tiny", *arguments]).exit_code == 0


def test_hours_needed_are_three_point_seven_by_the_rate() -> None:
    assert tapes.hours_needed(0.5) == pytest.approx(7.378, abs=1e-3)
    score = Score(0, 0, 0, tapes.hours_needed(0.5), {})
    assert score.false_alarms_per_hour_ci95[1] == pytest.approx(0.5)
