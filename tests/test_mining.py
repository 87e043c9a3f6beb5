"""Hard negatives: what a run takes for words in ambient sound becomes clips."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import toolbox
from click.testing import CliRunner

from kws import bundle as bundles
from kws import data, mining
from kws.bundle import Bundle, write_atomic
from kws.cli import data as verb
from kws.data import audio
from kws.deploy import host as listening
from kws.engines import host
from kws.errors import KwsError
from kws.recipe import Q15_ONE, UNKNOWN, Task

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load("kwt-tiny")


@pytest.fixture(scope="module")
def ambient(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ambient")
    for number, kind in enumerate(("music", "noise")):
        (folder / kind).mkdir()
        pcm = small_corpus.glides(50, 6 + number)
        write_atomic(folder / kind / "tones.wav", audio.wav_bytes(pcm))
    return folder


@pytest.fixture(scope="module")
def mined(bundle, ambient, tmp_path_factory) -> tuple[Path, mining.Round]:
    out = tmp_path_factory.mktemp("mined") / "out"
    done, rounds = mining.mine(bundle, [ambient], out)
    assert rounds == [done]
    return out, done


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def training_part(ambient: Path, kind: str) -> np.ndarray:
    pcm = audio.read(ambient / kind / "tones.wav").pcm
    return pcm[: int(0.8 * len(pcm))]


def test_clips_are_what_the_detector_took_for_words(bundle, ambient, mined):
    out, done = mined
    record = json.loads((out / mining.RECORD).read_text())
    starts: dict[str, list[int]] = {"music": [], "noise": []}
    for file, start, name, _ in record["clips"]:
        kind = file.split("/")[0]
        part = training_part(ambient, kind)
        assert start + RATE <= len(part) + RATE // 2  # nothing of val or test
        expected = np.zeros(RATE, np.int16)
        seconds = part[start : start + RATE]
        expected[: len(seconds)] = seconds
        assert np.array_equal(audio.read(out / name).pcm, expected)
        starts[kind].append(start)
    assert all(np.diff(sorted(places)).min() >= RATE // 2 for places in starts.values())
    alarms = 0
    for kind, places in starts.items():
        events = host.detect(bundle, training_part(ambient, kind))
        alarms += len(events)
        assert done.kinds[kind]["false_alarms"] == len(events)
        for event in events:  # each is in a clip, by most of its second
            begin = (event.time_s - 1.16) * RATE
            assert np.abs(np.array(places) - begin).min() <= RATE // 2
    assert done.false_alarms == alarms > 2
    assert done.taken == len(record["clips"]) == done.heard + done.nearly
    assert done.nearly > 0 and done.heard >= alarms / 2
    assert sum(done.words.values()) == done.taken


def test_the_same_round_is_not_heard_again_and_another_folder_gets_the_same(
    bundle, ambient, mined, tmp_path, monkeypatch
):
    out, done = mined
    mining.mine(bundle, [ambient], tmp_path / "again")
    assert tree(tmp_path / "again") == tree(out)
    monkeypatch.setattr(mining, "_peaks", None)  # would fail if it were called
    assert mining.mine(bundle, [ambient], out) == (done, [done])


def test_stopped_it_goes_on_after_the_last_whole_recording(
    bundle, ambient, mined, tmp_path, monkeypatch
):
    listen, heard = mining._peaks, []

    def stopping(*given):
        heard.append(hashlib.sha256(given[2].tobytes()).hexdigest())
        if len(heard) == 2:
            raise KeyboardInterrupt
        return listen(*given)

    monkeypatch.setattr(mining, "_peaks", stopping)
    with pytest.raises(KeyboardInterrupt):
        mining.mine(bundle, [ambient], tmp_path / "out")
    done, _ = mining.mine(bundle, [ambient], tmp_path / "out")
    assert len(heard) == 3 and heard[1] == heard[2] != heard[0]
    assert done == mined[1] and tree(tmp_path / "out") == tree(mined[0])


def test_stopped_while_it_writes_clips_it_goes_on(
    bundle, ambient, mined, tmp_path, monkeypatch
):
    write, out = mining.write_atomic, tmp_path / "out"

    def stopping(path, data):
        if path.suffix == ".wav" and any(out.glob("false_alarm/*")):
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(mining, "write_atomic", stopping)
    with pytest.raises(KeyboardInterrupt):
        mining.mine(bundle, [ambient], out)
    assert len(list(out.glob("false_alarm/*.wav"))) == 1
    monkeypatch.setattr(mining, "write_atomic", write)
    monkeypatch.setattr(mining, "_peaks", None)  # nothing is heard again
    done, _ = mining.mine(bundle, [ambient], out)
    assert done == mined[1] and tree(out) == tree(mined[0])


def test_clips_of_a_round_that_was_stopped_are_no_other_rounds(
    bundle, ambient, tmp_path, monkeypatch
):
    write, out = mining.write_atomic, tmp_path / "out"

    def stopping(path, data):
        if path.suffix == ".wav" and len(list(out.glob("false_alarm/*"))) == 3:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(mining, "write_atomic", stopping)
    with pytest.raises(KeyboardInterrupt):
        mining.mine(bundle, [ambient], out)
    monkeypatch.setattr(mining, "write_atomic", write)
    own = out / "false_alarm" / "door_nohash_0.wav"
    shutil.copy(next((out / "false_alarm").iterdir()), own)
    assert len(list((out / "false_alarm").iterdir())) == 4
    mining.mine(bundle, [ambient], out, most=1)  # another command
    clips = json.loads((out / mining.RECORD).read_text())["clips"]
    names = sorted([Path(name).name for _, _, name, _ in clips] + [own.name])
    assert sorted(p.name for p in (out / "false_alarm").iterdir()) == names
    assert len(clips) == 1


@pytest.mark.parametrize("kept", ["[" * 100_000, "[]", '{"false_alarms": "1"}'])
def test_what_was_heard_before_and_cant_be_read_is_heard_again(
    bundle, ambient, mined, tmp_path, kept
):
    out = tmp_path / "out"
    place = mining._partial(out, bundle, 0.5)
    place.mkdir(parents=True)
    pcm = training_part(ambient, "noise")
    file = place / f"{hashlib.sha256(pcm.tobytes()).hexdigest()}.json"
    file.write_text(kept)
    assert mining.mine(bundle, [ambient], out)[0] == mined[1]


def test_another_run_adds_a_round_and_takes_nothing_twice(bundle, ambient, tmp_path):
    out = tmp_path / "out"
    first, _ = mining.mine(bundle, [ambient], out, most=5)
    assert first.taken == 5
    detector = dataclasses.replace(bundle.recipe.detector, threshold=0.75)
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    other = dataclasses.replace(bundle, recipe=recipe)
    second, rounds = mining.mine(other, [ambient], out)
    assert rounds == [first, second] and second.known >= 4 and second.taken > 0
    clips = json.loads((out / mining.RECORD).read_text())["clips"]
    assert len(clips) == len({name for _, _, name, _ in clips}) == 5 + second.taken
    assert len(list((out / "false_alarm").iterdir())) == len(clips)


def test_what_is_known_is_told_by_its_sound_not_by_its_name(
    bundle, ambient, mined, tmp_path
):
    """Folders come in another order, or beside another one; and two have files of one
    name."""
    out = tmp_path / "out"
    shutil.copytree(mined[0], out)
    more, other = tmp_path / "more", tmp_path / "other"
    for folder in (more, other):
        (folder / "noise").mkdir(parents=True)
        quiet = np.zeros(RATE * 30, np.int16)
        write_atomic(folder / "noise" / "quiet.wav", audio.wav_bytes(quiet))
    beside, _ = mining.mine(bundle, [more, ambient], out)
    assert beside.taken == 0 and beside.known == mined[1].taken
    # In the place of a recording, one that sounds the same a tenth of a second later.
    later = np.append(np.zeros(RATE // 10, np.int16), small_corpus.glides(50, 7))
    write_atomic(other / "noise" / "tones.wav", audio.wav_bytes(later))
    renamed, _ = mining.mine(bundle, [other], out)
    assert renamed.taken > 0 and renamed.known == 0


def test_false_alarms_are_the_boards(bundle):
    """Its refractory time: the decisions of 384 ms, of 160 each, are three."""
    detector = dataclasses.replace(
        bundle.recipe.detector, threshold=0.3, rearm=0.3, smoothing=1, refractory_ms=384
    )
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    other = dataclasses.replace(bundle, recipe=recipe)
    pcm = small_corpus.glides(40, 6)
    level = np.full(len(bundle.labels), round(0.3 * Q15_ONE))
    with listening.opened(listening.library(bundle), len(bundle.labels)) as copy:
        sums = copy.sums(copy.decide(pcm)[0], 1)
        two, three = (len(copy.hear(sums, 1, n, level, level)[0]) for n in (2, 3))
        found = mining._peaks(other, copy, pcm, 0.5)
    assert found["false_alarms"] == three < two


def test_a_training_takes_them_all_as_unknown_words(mined, tmp_path):
    corpus = tmp_path / "corpus"
    small_corpus.make(corpus)
    task = Task("custom", words=("yes", "no"))
    plain = data.load("train", task, corpus)
    both = data.load("train", task, corpus, also=(mined[0],))
    hard = [name.startswith("false_alarm/") for name in both.names]
    assert sum(hard) == mined[1].taken
    assert {both.labels[i] for i in both.label[hard]} == {UNKNOWN}
    # What is drawn beside them stays what it was.
    assert [n for n, h in zip(both.names, hard, strict=True) if not h] == plain.names
    for split in ("val", "test"):
        names = data.load(split, task, corpus, also=(mined[0],)).names
        assert not any(name.startswith("false_alarm/") for name in names)


def test_the_verb_reports_rounds(bundle, ambient, mined, tmp_path, monkeypatch):
    out, done = mined
    arguments = ["mine", "kwt-tiny", "--ambient", str(ambient), "--out", str(out)]
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    assert f"{done.false_alarms}" in result.stdout
    monkeypatch.chdir(tmp_path)
    words = data.labels(bundle.recipe.task)[2:]
    monkeypatch.setenv("KWS_DATA", str(small_corpus.make(tmp_path / "a", words)))
    said = toolbox.begins_to_train(result.stdout.rpartition("Next: ")[2])
    assert f"\n{out}\n" in said
    result = CliRunner().invoke(
        verb.command, [*arguments, "--json"], catch_exceptions=False
    )
    table = json.loads(result.stdout)
    assert table["round"] == dataclasses.asdict(done) and len(table["rounds"]) == 1
    refused = CliRunner().invoke(verb.command, ["mine", "kwt-tiny", "--out", "x"])
    assert isinstance(refused.exception, KwsError)


def test_a_round_of_next_to_nothing_is_reported(tmp_path):
    """It was written, and then its rate was divided by no hours."""
    write_atomic(tmp_path / "a.wav", audio.wav_bytes(np.zeros(20, np.int16)))
    index = "file\tfirst_sample\tsamples\tsplit\tkind\na.wav\t0\t20\ttrain\tnoise\n"
    (tmp_path / "index.tsv").write_text(index)
    arguments = ["mine", "kwt-tiny", "--ambient", str(tmp_path)]
    arguments += ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    assert "noise: 0.00 h, 0 false alarms, 0 clips taken" in result.stdout


def test_clips_are_as_long_as_the_runs(bundle, ambient, tmp_path):
    task = dataclasses.replace(bundle.recipe.task, clip_seconds=1.5)
    recipe = dataclasses.replace(bundle.recipe, task=task)
    longer = dataclasses.replace(bundle, recipe=recipe)
    mining.mine(longer, [ambient], tmp_path / "out", most=3)
    record = json.loads((tmp_path / "out" / mining.RECORD).read_text())
    assert len(record["clips"]) == 3
    for file, start, name, _ in record["clips"]:
        part = training_part(ambient, file.split("/")[0])
        clip = audio.read(tmp_path / "out" / name).pcm
        assert len(clip) == 24000 and np.array_equal(clip, part[start:][:24000])


@pytest.mark.parametrize("near, most", [(0.0, 5), (1.5, 5), (0.5, 0)])
def test_a_share_and_a_limit_out_of_range_are_refused(bundle, tmp_path, near, most):
    with pytest.raises(KwsError, match="share of the threshold"):
        mining.mine(bundle, [tmp_path], tmp_path / "out", near, most)


@pytest.mark.parametrize("record", [None, "[]", '{"version": 1, "rounds": [1]}'])
def test_a_folder_in_use_is_left_alone(bundle, ambient, tmp_path, record):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    if record is not None:
        (tmp_path / "mine" / mining.RECORD).write_text(record)
    with pytest.raises(KwsError, match="in use"):
        mining.mine(bundle, [ambient], tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "keep"


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table["clips"][0].__setitem__(1, "5"),
        lambda table: table["clips"][0].__setitem__(1, -5),
        lambda table: table["clips"][0].__setitem__(3, ["a"]),
        lambda table: table["rounds"][0].update(hours="1"),
        lambda table: table["rounds"][0].update(kinds=[1]),
        lambda table: table["rounds"][0]["kinds"]["noise"].update(hours=10**400),
        lambda table: table["rounds"][0]["words"].update(yes=None),
        None,
    ],
)
def test_a_broken_record_is_no_record(bundle, ambient, mined, tmp_path, change):
    out = tmp_path / "out"
    shutil.copytree(mined[0], out)
    table = json.loads((out / mining.RECORD).read_text())
    if change is not None:
        change(table)
    text = "[" * 100_000 if change is None else json.dumps(table)
    (out / mining.RECORD).write_text(text)
    with pytest.raises(KwsError, match="in use") as error:
        mining.mine(bundle, [ambient], out, near=0.6)
    assert error.value.hint.startswith("kws data mine ... --out")
