"""`kws data verify` names every bad file and changes nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import soundfile
from click.testing import CliRunner

from kws.cli import data as verb
from kws.data.audio import wav_bytes
from kws.data.verify import KINDS, verify
from kws.errors import KwsError

BAD = Path(__file__).parent / "bad_input" / "data"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_corpus.make(tmp_path / "corpus")


def kinds(corpus: Path) -> list[tuple[str, str]]:
    return [(fault.kind, fault.path) for fault in verify(corpus)[1]]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"folder"
        for p in folder.rglob("*")
    }


def test_a_sound_corpus_has_no_faults(corpus):
    assert verify(corpus) == (4 * 8 + 2, [])


@pytest.mark.parametrize("file", sorted(BAD.glob("*.wav")), ids=lambda p: p.stem)
def test_every_bad_file_is_named_after_its_fault(file, corpus):
    shutil.copy(file, corpus / "yes" / "0000000a_nohash_0.wav")
    expected = "empty" if file.stem.startswith("empty") else file.stem
    assert expected in KINDS
    assert kinds(corpus) == [(expected, "yes/0000000a_nohash_0.wav")]


def test_all_faults_at_once_and_nothing_is_lost(corpus):
    names = {}
    for number, file in enumerate(sorted(BAD.glob("*.wav"))):
        names[f"no/{number:08x}_nohash_5.wav"] = file.stem.split("_header")[0]
        shutil.copy(file, corpus / "no" / f"{number:08x}_nohash_5.wav")
    before = snapshot(corpus)
    found = {path: kind for kind, path in kinds(corpus)}
    assert found == names
    assert snapshot(corpus) == before


@pytest.mark.parametrize("name", ["Yes!", "YES2", "yes.old", "1+1"])
def test_a_folder_that_is_no_word_is_named(name, corpus):
    (corpus / name).mkdir()
    shutil.move(corpus / "cat" / "00000001_nohash_0.wav", corpus / name)
    assert kinds(corpus) == [("label_name", name)]


def test_a_folder_without_clips_is_named(corpus):
    (corpus / "bird").mkdir()
    assert kinds(corpus) == [("label_empty", "bird")]


@pytest.mark.parametrize("name", ["anna.wav", "yes_1.wav", "_nohash_1.wav"])
def test_a_file_without_a_speaker_is_named(name, corpus):
    (corpus / "yes" / "00000001_nohash_0.wav").rename(corpus / "yes" / name)
    assert kinds(corpus) == [("speaker_name", f"yes/{name}")]


def test_a_stray_file_is_named(corpus):
    (corpus / "yes" / "notes.txt").write_text("hello")
    assert kinds(corpus) == [("stray", "yes/notes.txt")]


def test_the_same_audio_under_two_labels_is_named(corpus):
    shutil.copy(
        corpus / "no/00000001_nohash_0.wav", corpus / "yes/00000001_nohash_9.wav"
    )
    ((kind, path),) = kinds(corpus)
    assert (kind, path) == ("duplicate", "yes/00000001_nohash_9.wav")
    shutil.copy(
        corpus / "no/00000001_nohash_0.wav", corpus / "no/00000001_nohash_9.wav"
    )
    assert len(kinds(corpus)) == 1  # twice under one label is no mislabelling


def test_a_clip_that_is_too_long_is_named(corpus):
    path = corpus / "yes" / "00000001_nohash_0.wav"
    soundfile.write(path, small_corpus.tone(300, 4 * 16000), 16000, "PCM_16")
    assert kinds(corpus) == [("too_long", "yes/00000001_nohash_0.wav")]


def test_lists_are_checked_too(corpus):
    (corpus / "validation_list.txt").write_text(
        "yes/00000001_nohash_0.wav\nyes/00000099_nohash_0.wav\n../x.wav\n"
    )
    assert sorted(kinds(corpus)) == [
        ("listed_missing", "../x.wav"),
        ("listed_missing", "yes/00000099_nohash_0.wav"),
        ("split_leak", "cat/00000001_nohash_0.wav"),
    ]


def test_bad_noise_is_named(corpus):
    for name in ("not_audio", "stereo", "wrong_rate", "empty"):
        shutil.copy(BAD / f"{name}.wav", corpus / "_background_noise_")
    assert kinds(corpus) == [
        (name, f"_background_noise_/{name}.wav")
        for name in ("empty", "not_audio", "stereo", "wrong_rate")
    ]


def test_archives_are_checked_against_their_index(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    part = tmp_path / "archives" / "train"
    part.mkdir(parents=True)
    shutil.copy(BAD / "index_beyond_end.tsv", part / "index.tsv")
    soundfile.write(part / "yes.flac", small_corpus.tone(300, 400), 16000)
    assert kinds(part.parent) == [("index", "train/yes/b_nohash_0.wav")]
    shutil.copy(BAD / "not_audio.wav", part / "yes.flac")
    assert kinds(part.parent) == [("not_audio", "train/yes.flac")]
    shutil.copy(BAD / "index_negative.tsv", part / "index.tsv")
    assert kinds(part.parent) == [("index", "train/index.tsv")]


def test_nothing_to_check_is_bad_input(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(KwsError) as error:
            verify(folder)
        assert error.value.exit_code == 2


def test_the_verb_answers_with_its_exit_code(corpus):
    clean = CliRunner().invoke(verb.command, ["verify", str(corpus)])
    assert clean.exit_code == 0 and "0 faults" in clean.stdout
    shutil.copy(BAD / "stereo.wav", corpus / "yes" / "0000000a_nohash_0.wav")
    result = CliRunner().invoke(verb.command, ["verify", str(corpus), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["clips"] == 35
    assert [f["kind"] for f in report["faults"]] == ["stereo"]


def test_info_counts_by_word_and_split(corpus):
    result = CliRunner().invoke(verb.command, ["info", str(corpus), "--json"])
    report = json.loads(result.stdout)
    assert report["words"]["yes"] == {"train": 4, "val": 2, "test": 2}
    assert report["hours"]["train"] == round(16 / 3600, 3)
    assert report["noises"] == ["hiss", "rush"]
    table = CliRunner().invoke(verb.command, ["info", str(corpus)])
    assert table.exit_code == 0 and "yes" in table.stdout
    # Lists that contradict themselves are told, not counted as nothing.
    clip = f"yes/{next((corpus / 'yes').glob('*.wav')).name}\n"
    for name in ("validation_list.txt", "testing_list.txt"):
        (corpus / name).write_text(clip)
    refused = CliRunner().invoke(verb.command, ["info", str(corpus)])
    assert isinstance(refused.exception, KwsError)
    assert "in validation_list and in testing_list" in refused.exception.message


def test_recordings_whose_length_nobody_knows_are_told_beside_the_hours(corpus):
    """Of .m4a, which ffmpeg decodes, and of what is broken."""
    clip = next((corpus / "yes").glob("*.wav"))
    clip.rename(clip.with_suffix(".m4a"))
    clip.with_suffix(".m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    result = CliRunner().invoke(verb.command, ["info", str(corpus), "--json"])
    hours = sum(json.loads(result.stdout)["hours"].values())
    assert hours == pytest.approx(31 / 3600, abs=2e-3)
    assert "Not in the hours" in result.stderr
    assert f"length: {clip.with_suffix('.m4a')}\n" in result.stderr


def test_a_clip_whose_word_is_cut_out_is_named_with_its_place(corpus):
    path = corpus / "yes" / "00000001_nohash_0.wav"
    quiet = np.random.default_rng(0).normal(0, 30, 40000).astype(np.int16)
    quiet[28000:34000] += small_corpus.tone(440, 6000, 9000)
    path.write_bytes(wav_bytes(quiet))
    ((kind, detail),) = [(f.kind, f.detail) for f in verify(corpus)[1]]
    assert kind == "too_long" and re.search(
        r"2.50 s: 1.4\d s to 2.4\d s is taken", detail
    )
    result = CliRunner().invoke(verb.command, ["verify", str(corpus)])
    assert f"kws data import {corpus} --out {corpus}-16k" in result.stdout


def test_noise_of_nothing_or_of_a_moment_is_named(corpus):
    noise = corpus / "_background_noise_"
    (noise / "hiss.wav").write_bytes(wav_bytes(np.zeros(20 * 16000, np.int16)))
    (noise / "rush.wav").write_bytes(wav_bytes(np.ones(4 * 16000, np.int16)))
    assert kinds(corpus) == [
        ("near_silent", "_background_noise_/hiss.wav"),
        ("short_noise", "_background_noise_/rush.wav"),
    ]


@pytest.mark.parametrize("name", ["Zoë_nohash_0.wav", "anna_b_nohash_12.flac"])
def test_speakers_have_names_of_any_letters(name, corpus):
    pcm, rate = soundfile.read(corpus / "yes" / "00000001_nohash_0.wav", dtype="int16")
    soundfile.write(corpus / "yes" / name, pcm + 1, rate)
    assert kinds(corpus) == []


@pytest.mark.parametrize("name", ["fu\u0308r", "नमस्ते", "don't", "hey-robot"])
def test_folders_of_words_in_any_spelling_are_words(name, corpus):
    (corpus / "yes").rename(corpus / name)
    assert kinds(corpus) == []
