"""Reading corpora: layouts, splits, tasks, and what is drawn by seed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import soundfile
import toolbox

from kws import data, doctor, features, recipe
from kws.data import archives, splits
from kws.data.audio import say, wav_bytes
from kws.data.sources import counted
from kws.data.verify import verify
from kws.errors import KwsError
from kws.model.check import check
from kws.recipe import SILENCE, UNKNOWN, Task
from kws.shape import token_frames, with_clip_seconds

BAD = Path(__file__).parent / "bad_input" / "data"
WORDS = Task("custom", words=("yes", "no"), silence_percent=50, unknown_percent=50)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kws"


@pytest.fixture
def folder(tmp_path, cache):
    return small_corpus.make(tmp_path / "corpus")


@pytest.fixture
def archive(tmp_path, cache):
    """The same layout as the shared archives, with tones."""
    root = tmp_path / "archives"
    for split, speakers in small_corpus.SPEAKERS.items():
        part = root / ("test_v0.02" if split == "test" else split)
        part.mkdir(parents=True)
        lines = []
        for word in ("yes", "no", "up", "down", "left", "right", "on", "stop", "go"):
            clips = [small_corpus.tone(500, 16000 - 10 * i) for i in range(2)]
            at = 0
            for speaker, clip in zip(speakers, clips, strict=False):
                name = f"{word}/{speaker}_nohash_0.wav"
                lines.append(f"{word}\t{name}\t{at}\t{len(clip)}")
                at += len(clip)
            soundfile.write(part / f"{word}.flac", np.concatenate(clips), 16000)
        other = small_corpus.tone(900, 16000)
        soundfile.write(part / "_unknown_.flac", np.tile(other, 2), 16000)
        if split == "test":
            names = ["_unknown_/cat_1_nohash_0.wav.wav", "_unknown_/dog_2_nohash_0.wav"]
            soundfile.write(part / "_silence_.flac", np.zeros(16000, np.int16), 16000)
            lines.append("_silence_\t_silence_/1.wav\t0\t16000")
        else:
            names = ["cat/1_nohash_0.wav", "dog/2_nohash_0.wav"]
        lines += [f"_unknown_\t{n}\t{16000 * i}\t16000" for i, n in enumerate(names)]
        (part / "index.tsv").write_text("\n".join(lines) + "\n")
    (root / "background_noise").mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(-900, 900, 20 * 16000).astype(np.int16)
    soundfile.write(root / "background_noise" / "rain.flac", noise, 16000)
    return root


def shared() -> Path:
    """The shared archives, or skip."""
    root = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    path = Path(os.environ.get("KWS_DATA", root / "speech_commands"))
    if not (path / "test_v0.02" / "index.tsv").is_file():
        pytest.skip(f"no shared audio in {path}")
    return path


def test_labels_are_in_the_order_of_the_contract():
    ten = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    eight = [word for word in ten if word not in ("on", "off")]
    assert data.labels(Task("gsc12")) == (SILENCE, UNKNOWN, *ten)
    assert data.labels(Task("gsc10")) == (SILENCE, UNKNOWN, *eight)
    assert len(data.labels(Task("gsc35"))) == 35
    assert data.labels(Task("custom", words=("b", "a"))) == (SILENCE, UNKNOWN, "b", "a")


@pytest.mark.parametrize(
    "words", [(), ("yes", "yes"), ("../yes",), ("_unknown_",), ("a/b",), ("x" * 41,)]
)
def test_words_that_cannot_be_folders_are_refused(words):
    with pytest.raises(KwsError):
        data.labels(Task("custom", words=words))


def test_an_unknown_task_is_refused():
    with pytest.raises(KwsError, match="gsc12"):
        data.labels(Task("gsc11"))


def test_the_split_rule_on_names_of_the_official_lists():
    split_of = splits.split_of
    assert split_of("right/a69b9b3e_nohash_0.wav") == "val"
    assert split_of("right/439c84f4_nohash_1.wav") == "val"
    assert split_of("right/bb05582b_nohash_3.wav") == "test"
    assert split_of("another/bb05582b_nohash_77.wav") == "test"  # by speaker alone


def test_the_split_rule_gives_the_official_lists():
    """All 20,986 names of the v0.02 lists fall where the lists put them."""
    for split, name in (("val", "validation"), ("test", "testing")):
        path = shared() / f"{name}_list_v0.02.txt"
        if not path.is_file():
            pytest.skip(f"no {path.name}")
        names = path.read_text().split()
        assert len(names) > 9000
        wrong = [n for n in names if splits.split_of(n) != split]
        assert wrong == []


def test_a_folder_is_split_by_the_rule(folder):
    for split, speakers in small_corpus.SPEAKERS.items():
        clips = data.load(split, WORDS, folder)
        words = [name for name in clips.names if name[0] != "_"]
        assert {name.split("/")[1].split("_")[0] for name in words} <= set(speakers)
        count = Counter(clips.labels[i] for i in clips.label)
        n = len(speakers)
        assert count == {"yes": n, "no": n, UNKNOWN: n, SILENCE: n}
        assert clips.pcm.dtype == np.int16 and clips.pcm.shape == (4 * n, 16000)
        assert clips.label.dtype == np.int32


def test_lists_win_over_the_rule(folder):
    (folder / "validation_list.txt").write_text("yes/00000001_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("no/00000003_nohash_0.wav\n")
    corpus = data.open_corpus(folder)
    assert [r.name for r in corpus.recordings("val")] == ["yes/00000001_nohash_0.wav"]
    assert [r.name for r in corpus.recordings("test")] == ["no/00000003_nohash_0.wav"]
    assert len(corpus.recordings("train")) == 4 * 8 - 2


def test_audio_is_what_the_file_holds(folder):
    clips = data.load("train", WORDS, folder)
    row = clips.names.index("no/00000003_nohash_0.wav")
    expected, _ = soundfile.read(folder / clips.names[row], dtype="int16")
    assert np.array_equal(clips.pcm[row], expected)
    assert clips.labels[clips.label[row]] == "no"


def test_short_clips_end_in_zeros():
    made, problem = archives.clip(np.ones(10, np.int16), 16000)
    assert made.tolist() == [1] * 10 + [0] * 15990 and problem is None
    # Less than a hop of the features is no word: cut at the end, without a word.
    made, problem = archives.clip(np.arange(16100, dtype=np.int16), 16000)
    assert made[-1] == 15999 and problem is None


def test_a_word_of_two_words_is_a_folder_with_an_underscore(tmp_path, cache):
    root = small_corpus.make(tmp_path / "c", ("hey_robot", "cat"))
    clips = data.load("train", Task("custom", words=("hey robot",)), root)
    assert clips.labels[2] == "hey robot" and (clips.label == 2).sum() == 4


def test_same_seed_same_draw_other_seed_other_draw(folder):
    first = data.load("train", WORDS, folder, seed=1)
    again = data.load("train", WORDS, folder, seed=1)
    other = data.load("train", WORDS, folder, seed=2)
    assert first.manifest_hash == again.manifest_hash
    assert np.array_equal(first.pcm, again.pcm)
    assert first.manifest_hash != other.manifest_hash
    assert not np.array_equal(first.pcm, other.pcm)


def test_silence_of_one_split_never_overlaps_that_of_another(folder):
    task = Task("custom", words=("yes", "no"), silence_percent=4000)
    places: dict[str, list[tuple[str, int]]] = {}
    for split in ("train", "val", "test"):
        for clip in data.load(split, task, folder).manifest["clips"]:
            if clip.get("noise"):
                places.setdefault(split, []).append((clip["noise"], clip["start"]))
    seconds = 30
    assert max(s for _, s in places["train"]) + 16000 <= 0.8 * seconds * 16000
    assert min(s for _, s in places["val"]) >= 0.8 * seconds * 16000
    assert max(s for _, s in places["val"]) + 16000 <= 0.9 * seconds * 16000
    assert min(s for _, s in places["test"]) >= 0.9 * seconds * 16000


def test_silence_spans_zero_to_loud(folder):
    task = Task("custom", words=("yes", "no"), silence_percent=4000)
    clips = data.load("train", task, folder)
    silence = clips.pcm[clips.label == 0].astype(np.float64)
    rms = np.sqrt((silence**2).mean(axis=1))
    assert len(rms) == 320
    assert 0.01 < (rms == 0).mean() < 0.12
    assert rms.max() > 5000 and 0 < rms[rms > 0].min() < 10
    # As many louder than the geometric middle of the range as quieter.
    assert 0.4 < (rms > 160).mean() < 0.6
    assert np.abs(silence).max() <= 32767


def test_silence_can_be_made_again_from_the_manifest(folder, tmp_path):
    clips = data.load("train", WORDS, folder)
    clips.save(tmp_path / "manifest.json")
    saved = json.loads((tmp_path / "manifest.json").read_text())
    assert saved["sha256"] == clips.manifest_hash
    assert saved["clips"] == clips.manifest["clips"]
    drawn = [(i, c) for i, c in enumerate(saved["clips"]) if c.get("noise")]
    assert drawn
    for row, clip in drawn:
        file = folder / "_background_noise_" / f"{clip['noise']}.wav"
        noise, _ = soundfile.read(file, dtype="int16")
        part = noise[clip["start"] : clip["start"] + 16000] * clip["gain"]
        assert np.array_equal(np.rint(part).astype(np.int16), clips.pcm[row])


def test_limit_takes_the_first_of_a_fixed_shuffle(folder):
    five = data.load("train", WORDS, folder, limit=5)
    three = data.load("train", WORDS, folder, limit=3)
    assert len(five) == 5 and five.names[:3] == three.names
    assert np.array_equal(five.pcm[:3], three.pcm)
    with pytest.raises(KwsError):
        data.load("train", WORDS, folder, limit=0)


def test_noises_of_one_name_are_all_taken(tmp_path):
    """Before: the one that came last, without a word."""
    audio = small_corpus.make(tmp_path / "audio")
    noise = audio / "_background_noise_" / "hiss.wav"
    soundfile.write(noise.with_suffix(".flac"), small_corpus.tone(90, 480000), 16000)
    assert len(data.noise_bank(audio)) == 3


def test_noise_bank_is_the_training_part(folder):
    bank = data.noise_bank(folder)
    assert [len(noise) for noise in bank] == [24 * 16000] * 2
    assert len(data.noise_bank(folder, "val")[0]) == 3 * 16000


def test_archives_load_like_folders_and_are_decoded_once(archive, cache):
    task = Task("custom", words=("yes", "no"), silence_percent=0, unknown_percent=100)
    first = data.load("train", task, archive)
    assert Counter(first.label.tolist()) == {2: 2, 3: 2, 1: 4}
    decoded = {p: p.stat().st_mtime_ns for p in (cache / "decoded").iterdir()}
    assert len(decoded) >= 2 and {path.suffix for path in decoded} == {".npy"}
    assert np.array_equal(data.load("train", task, archive).pcm, first.pcm)
    assert decoded == {p: p.stat().st_mtime_ns for p in (cache / "decoded").iterdir()}
    (archive / "train" / "yes.flac").touch()  # changed: decoded again, same samples
    assert np.array_equal(data.load("train", task, archive).pcm, first.pcm)
    assert len(set((cache / "decoded").iterdir()) - set(decoded)) == 1


def test_a_cached_file_that_was_cut_off_is_decoded_again(archive, cache):
    task = Task("custom", words=("yes",), silence_percent=0, unknown_percent=0)
    first = data.load("train", task, archive)
    for file in (cache / "decoded").glob("yes-*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(data.load("train", task, archive).pcm, first.pcm)


def test_official_test_files_are_taken_whole(archive):
    """gsc10: `on` is neither a word nor unknown; the rest is as given."""
    clips = data.load("test", Task("gsc10"), archive)
    assert Counter(clips.labels[i] for i in clips.label) == (
        dict.fromkeys(data.labels(Task("gsc10"))[2:], 2) | {SILENCE: 1, UNKNOWN: 2}
    )
    assert not any(name.startswith("on/") for name in clips.names)


def test_official_test_files_may_be_twelve_folders(tmp_path, cache):
    words = data.labels(Task("gsc12"))[2:]
    root = small_corpus.make(tmp_path / "c", words)
    for word in words:
        shutil.copytree(root / word, root / "test_v0.02" / word)
    clip = root / "yes" / "00000001_nohash_0.wav"
    for name in ("_unknown_/cat_1_nohash_0.wav.wav", "_silence_/1.wav"):
        (root / "test_v0.02" / name).parent.mkdir()
        shutil.copy(clip, root / "test_v0.02" / name)
    clips = data.load("test", Task("gsc12"), root)
    assert np.bincount(clips.label).tolist() == [1, 1] + [8] * 10
    assert len(data.load("test", Task("gsc10"), root)) == 2 + 8 * 8
    train = data.load("train", Task("gsc12", silence_percent=0), root)
    assert len(train) == 10 * 4


def test_hidden_files_are_not_clips(folder):
    (folder / "yes" / "._00000001_nohash_0.wav").write_bytes(b"not audio")
    (folder / "yes" / "Thumbs.db").write_bytes(b"not audio")
    (folder / ".git").mkdir()
    (folder / "__MACOSX" / "yes").mkdir(parents=True)
    assert len(data.open_corpus(folder).recordings("train")) == 4 * 4


def test_unknown_test_clips_have_the_word_of_their_name(archive):
    task = Task("custom", words=("cat",), silence_percent=100, unknown_percent=100)
    clips = data.load("test", task, archive)
    assert clips.names[0] == "_unknown_/cat_1_nohash_0.wav.wav"
    assert Counter(clips.label.tolist()) == {0: 1, 1: 1, 2: 1}


def test_a_missing_word_is_named(folder, archive):
    with pytest.raises(KwsError, match="maybe"):
        data.load("train", Task("custom", words=("yes", "maybe")), folder)
    with pytest.raises(KwsError, match="off"):  # the fixture has none
        data.load("train", Task("gsc12"), archive)


def test_missing_audio_is_one_message_with_a_hint(tmp_path, monkeypatch):
    with pytest.raises(KwsError, match="--data") as error:
        data.find_data(tmp_path / "nothing")
    assert "kws data" in error.value.hint
    monkeypatch.setenv("KWS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(KwsError, match="KWS_DATA"):
        data.find_data()


def test_kws_data_is_used_and_an_explicit_folder_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("KWS_DATA", str(tmp_path))
    assert data.find_data() == tmp_path
    (tmp_path / "mine").mkdir()
    assert data.find_data(tmp_path / "mine") == tmp_path / "mine"


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(KwsError, match="No clips found"):
        data.open_corpus(tmp_path)


def test_a_file_for_a_corpus_is_told_as_one(tmp_path, monkeypatch):
    """The hint was kws data verify FILE, which found no such folder; kws doctor took it
    for Speech Commands."""
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(KwsError, match="which is a file") as caught:
        data.open_corpus(file)
    assert "verify" not in caught.value.hint
    with pytest.raises(KwsError, match=r"^That is a file\."):
        verify(file)
    for place in (file, tmp_path):
        monkeypatch.setenv("KWS_DATA", str(place))
        assert not doctor._data().ok and doctor._data().hint
    small_corpus.make(tmp_path / "mine")
    monkeypatch.setenv("KWS_DATA", str(tmp_path / "mine"))
    assert doctor._data().ok


@pytest.mark.parametrize("file", sorted(BAD.glob("index_*.tsv")), ids=lambda p: p.stem)
def test_a_broken_index_is_refused(file, tmp_path, cache):
    part = tmp_path / "train"
    part.mkdir()
    shutil.copy(file, part / "index.tsv")
    soundfile.write(part / "yes.flac", small_corpus.tone(400, 400), 16000)
    with pytest.raises(KwsError, match="archive folder is broken"):
        archives.read_clips(archives.read_index(part), 16000)


@pytest.mark.parametrize(
    "name", ["not_audio", "empty", "empty_header_only", "stereo", "wrong_rate"]
)
def test_a_file_that_cannot_be_used_is_named(name, folder):
    shutil.copy(BAD / f"{name}.wav", folder / "yes" / "00000001_nohash_0.wav")
    with pytest.raises(KwsError, match="00000001_nohash_0.wav") as error:
        data.load("train", WORDS, folder)
    assert str(folder) in error.value.hint


def test_the_shared_test_set_is_the_official_one():
    clips = data.load("test", Task("gsc10"), shared())
    assert len(clips) == 4092
    assert np.bincount(clips.label).tolist() == [
        408, 408, 419, 405, 425, 406, 412, 396, 411, 402,
    ]  # fmt: skip
    assert len(data.load("test", Task("gsc12"), shared(), limit=5000)) == 4890


def test_a_word_without_recordings_may_come_from_a_second_folder(
    tmp_path: Path,
) -> None:
    audio = small_corpus.make(tmp_path / "audio", ("yes", "cat"))
    spoken = small_corpus.make(tmp_path / "spoken", ("yes", "on", "dog"))
    task = Task("custom", words=("yes", "on"), unknown_percent=1000.0)
    with pytest.raises(KwsError, match="No clips of on in the train split"):
        data.load("train", task, audio)
    clips = data.load("train", task, audio, also=(spoken,))
    words = [clips.labels[label] for label in clips.label]
    each = len(small_corpus.SPEAKERS["train"])
    assert words.count("on") == each and words.count("yes") == 2 * each
    unknown = [
        name
        for name, word in zip(clips.names, words, strict=True)
        if word == "_unknown_"
    ]
    # The second folder's other words are drawn too: where everything synthetic were a
    # keyword, sounding synthetic would be one.
    assert {name.split("/")[0] for name in unknown} == {"cat", "dog"}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    say.cache_clear()
    return text


def long_clip(seconds: float, *words: tuple[float, float]) -> np.ndarray:
    """Faint noise with tones from .. to."""
    rng = np.random.default_rng(3)
    clip = rng.normal(0, 20, int(seconds * 16000))
    for start, stop in words:
        first, last = int(start * 16000), int(stop * 16000)
        clip[first:last] += small_corpus.tone(440, last - first, 8000)
    return np.rint(clip).astype(np.int16)


def test_of_a_longer_clip_the_second_around_its_word_is_taken(folder, capsys):
    """Recorders wait before and after the word: the first second may hold nothing."""
    clip = long_clip(3, (1.9, 2.4))
    for name in ("00000001", "00000003"):
        (folder / "yes" / f"{name}_nohash_0.wav").write_bytes(wav_bytes(clip))
    say.cache_clear()
    clips = data.load("train", WORDS, folder)
    row = clips.pcm[clips.names.index("yes/00000001_nohash_0.wav")].astype(float)
    energy = np.cumsum(row**2) / np.sum(row**2)
    assert abs(np.searchsorted(energy, 0.5) - 8000) < 500
    loud = np.abs(row) > 4000
    assert loud.sum() > 0.6 * 8000 and not loud[:2000].any() and not loud[-2000:].any()
    text = said(capsys)
    assert "train: longer than a second, the second around the word was taken" in text
    assert "yes 2" in text


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        (long_clip(3, (0.5, 0.9), (1.9, 2.4)), "2 words"),
        (long_clip(3, (0.5, 2.4)), "s of sound without a pause"),
        (long_clip(3), "no word stands out"),
    ],
)
def test_a_longer_clip_that_is_no_one_word_is_refused(clip, why, folder, capsys):
    file = folder / "yes" / "00000001_nohash_0.wav"
    file.write_bytes(wav_bytes(clip))
    with pytest.raises(KwsError, match=why) as error:
        data.load("train", WORDS, folder)
    assert "yes/00000001_nohash_0.wav" in error.value.message
    assert f"kws data import {folder}" in error.value.hint
    # Of another word any second will do; that it is one of several is said.
    file.rename(folder / "cat" / "00000001_nohash_0.wav")
    task = Task("custom", words=("no",), unknown_percent=1000)
    said(capsys)
    data.load("train", task, folder)
    assert "cat 1" in said(capsys)


def by_one_speaker(root: Path, count: int = 30, speaker: str = "anna") -> Path:
    for w, word in enumerate(("yes", "no")):
        (root / word).mkdir(parents=True)
        for n in range(count):
            pcm = small_corpus.tone(300 + 100 * w + n)
            (root / word / f"{speaker}_nohash_{n}.wav").write_bytes(wav_bytes(pcm))
    return root


@pytest.mark.parametrize("speaker", ["anna", "ben", "a69b9b3e", "bb05582b"])
def test_the_recordings_of_one_speaker_are_split_by_clip(
    speaker, tmp_path, cache, capsys
):
    """By the rule they would all be in one split: nothing to train or to test on."""
    root = by_one_speaker(tmp_path / "c", speaker=speaker)
    task = Task("custom", words=("yes", "no"), silence_percent=0)
    say.cache_clear()
    names = {}
    for split in ("train", "val", "test"):
        clips = data.load(split, task, root)
        names[split] = set(clips.names)
        count = Counter(clips.labels[i] for i in clips.label)
        expected = 24 if split == "train" else 3
        assert count["yes"] == count["no"] == expected
    assert len(set.union(*names.values())) == 60
    text = said(capsys)
    assert "split by clip: no (1 speaker), yes (1 speaker)" in text


def test_speakers_are_kept_apart_where_there_are_some(tmp_path, cache, capsys):
    """Six whom the rule puts into train: one each for val and test."""
    speakers = [f"{n:08x}" for n in range(40) if splits.split_of(f"{n:08x}") == "train"]
    clips = [f"yes/{s}_nohash_{n}.wav" for s in speakers[:6] for n in range(5)]
    shared, by_clip = splits.shared_out(clips)
    assert by_clip == "" and Counter(shared.values()) == {"train": 20, "val": 5} | {
        "test": 5
    }
    where = {splits.speaker_of(name): set() for name in clips}
    for name, split in shared.items():
        where[splits.speaker_of(name)].add(split)
    assert all(len(found) == 1 for found in where.values())


def test_a_word_with_too_few_clips_says_why(tmp_path, cache):
    root = by_one_speaker(tmp_path / "c")
    for file in sorted((root / "no").iterdir())[2:]:
        file.unlink()
    task = Task("custom", words=("yes", "no"))
    with pytest.raises(KwsError, match="it has 2 clips; 3 are needed"):
        for split in ("train", "val", "test"):
            data.load(split, task, root)
    for file in (root / "no").iterdir():
        file.unlink()
    with pytest.raises(KwsError, match="the folder no holds no recording"):
        data.load("train", task, root)
    (root / "no").rmdir()
    with pytest.raises(KwsError, match="no folder of that name among yes"):
        data.load("train", task, root)
    (root / "validation_list.txt").write_text("yes/anna_nohash_1.wav\n")
    with pytest.raises(KwsError, match="validation_list.txt put its 30 clips so"):
        data.load("test", Task("custom", words=("yes",)), root)


def test_the_table_counts_what_was_taken(folder, tmp_path):
    also = small_corpus.make(tmp_path / "spoken", ("yes", "no", "dog"))
    loaded = [data.load(s, WORDS, folder, also=(also,)) for s in ("train", "val")]
    table = data.overview(*loaded, WORDS, folder, (also,)).splitlines()
    assert table[0].split() == ["clips", "taken", "train", "val", "test"]
    assert [line.strip() for line in table if line.endswith(("corpus", "spoken"))] == [
        str(folder),
        str(also),
    ]
    yes = [line.split() for line in table if line.startswith("  yes")]
    assert yes == [["yes", "4", "2", "2"]] * 2
    silence = [line.split() for line in table if SILENCE in line]
    assert silence == [[SILENCE, "8", "4", "4"]]  # drawn: of no folder's clips
    # What is left out is said, and what would take it.
    found = re.fullmatch(
        r"Of (\d+) training clips of other words (\d+) are taken, 50 per 100 of words: "
        r"\[task\] unknown_percent = (\d+) takes them all",
        table[-1],
    )
    assert found is not None
    there, taken, percent = map(int, found.groups())
    assert taken == sum(n for (_, of), n in loaded[0].taken.items() if of == UNKNOWN)
    every = replace(WORDS, unknown_percent=percent)
    all_of_them = [data.load(s, every, folder, also=(also,)) for s in ("train", "val")]
    assert all_of_them[0].others == (there, there)
    table = data.overview(*all_of_them, every, folder, (also,))
    assert "other words" not in table
    (folder / "validation_list.txt").write_text("yes/00000001_nohash_0.wav\n")
    table = data.overview(*loaded, WORDS, folder).splitlines()
    assert "No test clips: No clips of yes, no in the test split" in table[-1]


def test_few_recordings_are_taken_as_often_as_is_said(folder, tmp_path):
    """mine:3 are the clips of mine, which a training takes three times."""
    spoken = small_corpus.make(tmp_path / "spoken", ("yes", "no", "dog"))
    weighed = Path(f"{folder}:3")
    for split in ("train", "val", "test"):  # elsewhere it is the folder
        once = data.load(split, WORDS, folder, also=(spoken,))
        again = data.load(split, WORDS, weighed, also=(spoken,))
        assert again.manifest_hash == once.manifest_hash
    once = data.load("train", WORDS, folder, also=(spoken,))
    for named in (weighed, Path(f"{folder}/:3")):  # as a shell completes it
        clips = data.load("train", WORDS, named, also=(spoken,), repeat=True)
        said = [key for key in once.taken if key[1] in WORDS.words]
        assert len(said) == 4
        for place, word in said:
            often = 3 if place == str(folder) else 1
            assert clips.taken[place, word] == often * once.taken[place, word]
        words = sum(clips.taken[key] for key in said)
        for label in (SILENCE, UNKNOWN):  # is drawn for every hundred words
            drawn = sum(n for (_, of), n in clips.taken.items() if of == label)
            assert drawn == words * 50 // 100
        sounds = {
            clips.pcm[row].tobytes()
            for row, name in enumerate(clips.names)
            if name == once.names[0]
        }
        assert once.pcm[0].tobytes() in sounds and len(sounds) <= 2  # of both folders
    validation = data.load("val", WORDS, weighed, also=(spoken,))
    table = data.overview(clips, validation, WORDS, weighed, (spoken,)).splitlines()
    assert f"{folder}  (each training clip 3 times)" in table and str(spoken) in table
    yes = [line.split() for line in table if line.startswith("  yes")]
    assert yes == [["yes", "12", "2", "2"], ["yes", "4", "2", "2"]]


@pytest.mark.parametrize(
    ("named", "also", "hint"),
    [
        ("corpus:0", (), "corpus:8"),
        ("corpus:101", (), "corpus:8"),
        ("corpus", ("corpus",), "corpus:2"),
        ("corpus:3", ("spoken", "./corpus"), "corpus:4"),
    ],
)
def test_a_folder_is_named_once_and_taken_a_hundred_times_at_most(
    folder, tmp_path, monkeypatch, named, also, hint
):
    small_corpus.make(tmp_path / "spoken")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KwsError) as caught:
        data.load("train", WORDS, Path(named), also=tuple(map(Path, also)))
    assert caught.value.hint.endswith(hint)


def test_a_folder_whose_name_ends_in_a_number_is_itself(tmp_path):
    corpus = small_corpus.make(tmp_path / "take:2")
    assert data.open_corpus(corpus).path == corpus
    assert counted(Path(f"{corpus}:4")) == (corpus, 4)


def test_a_suffix_in_capitals_is_a_clip(folder):
    """Windows recorders and cameras write x.WAV."""
    (folder / "yes" / "00000001_nohash_0.wav").rename(
        folder / "yes" / "00000001_nohash_0.WAV"
    )
    assert "yes/00000001_nohash_0.WAV" in data.load("train", WORDS, folder).names


def test_a_flac_among_the_clips_is_one(folder):
    file = folder / "yes" / "00000001_nohash_0.wav"
    pcm, rate = soundfile.read(file, dtype="int16")
    soundfile.write(file.with_suffix(".flac"), pcm, rate)
    file.unlink()
    clips = data.load("train", WORDS, folder)
    assert np.array_equal(
        clips.pcm[clips.names.index("yes/" + file.stem + ".flac")], pcm
    )


@pytest.mark.parametrize(
    ("spelled", "word"),
    [
        ("f\u00fcr", "fu\u0308r"),  # macOS stores letters and marks apart
        ("fu\u0308r", "f\u00fcr"),
        ("Hey Robot", "hey robot"),
        ("hey-robot", "hey robot"),
        ("HEY_ROBOT", "hey robot"),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947",
            "\u0928\u092e\u0938\u094d\u0924\u0947",
        ),
        ("don\u2019t", "don't"),
    ],
)
def test_a_folder_in_another_spelling_is_that_word_s(spelled, word, tmp_path, cache):
    """It was taken for other words: the keyword's own clips were trained as unknown."""
    root = small_corpus.make(tmp_path / "c", (spelled, "cat"))
    task = Task("custom", words=(word,), silence_percent=0, unknown_percent=0)
    clips = data.load("train", task, root)
    assert clips.label.tolist() == [2] * 4


def test_folders_of_one_word_are_one_and_that_is_said(tmp_path, cache, capsys):
    root = small_corpus.make(tmp_path / "c", ("Yes", "yes", "no"))
    say.cache_clear()
    clips = data.load("train", WORDS, root)
    assert (clips.label == 2).sum() == 8
    assert "folders of one word are one: Yes + yes" in said(capsys)


def test_names_without_a_speaker_and_files_that_are_no_clips_are_said(folder, capsys):
    (folder / "yes" / "00000001_nohash_0.wav").rename(folder / "yes" / "take 1.wav")
    (folder / "yes" / "notes.docx").write_text("?")
    say.cache_clear()
    data.load("train", WORDS, folder)
    text = said(capsys)
    assert "1 of 32 names tell no speaker" in text and "yes/take 1.wav" in text
    assert "not read, for they are no audio: yes/notes.docx" in text


def test_silence_without_noise_is_said(folder, capsys):
    """Digital zeros alone teach that silence is what no room has."""
    for file in (folder / "_background_noise_").iterdir():
        file.write_bytes(wav_bytes(np.ones(5 * 16000, np.int16)))
    say.cache_clear()
    data.load("train", WORDS, folder)
    assert "no background noise" not in said(capsys)
    data.load("val", WORDS, folder)
    assert "no background noise that leaves a second for val" in said(capsys)


def test_words_of_one_s_own_beside_the_official_test_files(folder):
    """`kws data fetch` brings test files that have only the official words."""
    words = data.labels(Task("gsc12"))[2:]
    small_corpus.make(folder / "test_v0.02", (*words, UNKNOWN))
    shutil.rmtree(folder / "test_v0.02" / "_background_noise_")
    small_corpus.make(folder / "new", ("hey_robot",))
    shutil.move(folder / "new" / "hey_robot", folder / "hey_robot")
    shutil.rmtree(folder / "new")
    clips = data.load("test", Task("custom", words=("yes", "hey robot")), folder)
    count = Counter(clips.labels[i] for i in clips.label)
    assert count["yes"] == 8 and count["hey robot"] == 2


def test_a_folder_of_recordings_alone_says_what_is_missing(tmp_path, cache):
    root = small_corpus.make(tmp_path / "c", ("yes",))
    with pytest.raises(KwsError, match="holds recordings itself") as error:
        data.open_corpus(root / "yes")
    assert "kws data import" in error.value.hint


def test_a_word_that_takes_longer_than_a_second_has_clips_that_do(
    tmp_path: Path,
) -> None:
    corpus = small_corpus.make(tmp_path / "corpus")
    rng = np.random.default_rng(5)
    for file in (corpus / "yes").iterdir():
        quiet = rng.normal(0, 30, 40000).astype(np.int16)
        quiet[8000:28000] += small_corpus.tone(440, 20000, 9000)  # of 1.25 s
        file.write_bytes(wav_bytes(quiet))
    too_long = {"too_long"}
    assert {fault.kind for fault in verify(corpus)[1]} == too_long
    with pytest.raises(KwsError, match=r"1\.[23] s of sound without a pause"):
        data.load("train", Task("custom", ("yes", "no")), corpus)
    assert verify(corpus, clip_seconds=2.5)[1] == []
    task = Task("custom", ("yes", "no"), clip_seconds=1.5)
    clips = data.load("train", task, corpus)
    assert clips.pcm.shape[1] == task.clip_samples == 24000
    for row in np.flatnonzero(clips.label == clips.labels.index("yes")):
        loud = np.abs(clips.pcm[row].astype(int)) > 1000
        assert loud.sum() > 0.9 * 20000  # the whole word
    silent = clips.pcm[clips.label == 0]
    assert len(silent) and silent[:, 16000:].any()  # filled with noise to its end
    assert clips.manifest["task"]["clip_seconds"] == 1.5
    usual = data.load("train", Task("custom", ("no",)), corpus)
    assert "clip_seconds" not in usual.manifest["task"]  # as it always was


@pytest.mark.parametrize("name", recipe.presets())
def test_every_preset_takes_longer_clips(name: str) -> None:
    made = with_clip_seconds(recipe.load(name), 1.5)
    check(made)
    features.check_length(made.task.clip_samples, made.features)
    missing = made.task.clip_samples - made.features.clip_samples
    step = token_frames(made) if made.model.causal else 1
    assert 0 <= missing < step * made.features.hop
    again = recipe.from_dict(recipe.to_dict(made))
    assert again == made
    with pytest.raises(KwsError, match="clip_seconds"):
        with_clip_seconds(made, 0.5)


def test_own_recordings_and_those_held_out_are_others(tmp_path: Path) -> None:
    """tools/own_voice.py: by person and number; of other words a few are kept."""
    for word in ("yes", "cat"):
        (tmp_path / "people" / word).mkdir(parents=True)
        for name in ("anna", "ben"):
            for number in range(12):
                path = tmp_path / "people" / word / f"{name}_nohash_{number}.wav"
                path.write_bytes(f"{word} {name} {number}".encode())
    toolbox.tool("own_voice").divide(
        tmp_path / "people", ["yes"], own=10, near=3, out=tmp_path / "out"
    )
    for name in ("anna", "ben"):
        for word, own in (("yes", 10), ("cat", 3)):
            found = {
                part: [
                    int(path.read_text().split()[-1])
                    for path in (tmp_path / "out" / name / part / word).iterdir()
                ]
                for part in ("own", "held")
            }
            assert sorted(found["own"]) == list(range(own))
            assert sorted(found["held"]) == [10, 11]
