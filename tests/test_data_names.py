"""Names, lists and tables as Windows, macOS, spreadsheets and label editors write."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import small_corpus

from kws import data
from kws.data import audio, names, splits, tape
from kws.data.tape import Window
from kws.data.verify import verify
from kws.errors import KwsError
from kws.recipe import Task

CLIP, OTHER = "yes/00000001_nohash_0.wav", "no/00000003_nohash_0.wav"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    audio.say.cache_clear()
    return small_corpus.make(tmp_path / "corpus")


def val_of(folder: Path) -> list[str]:
    return [item.name for item in data.open_corpus(folder).recordings("val")]


LISTS = {
    "windows lines": f"{CLIP}\r\n{OTHER}\r\n".encode(),
    "old mac lines": f"{CLIP}\r{OTHER}\r".encode(),
    "utf-8 with a mark": f"\ufeff{CLIP}\n{OTHER}\n".encode(),
    "utf-16 of notepad": f"{CLIP}\r\n{OTHER}\r\n".encode("utf-16"),
    "utf-16 without a mark": f"{CLIP}\n{OTHER}\n".encode("utf-16-le"),
    "utf-16 big": f"{CLIP}\n{OTHER}\n".encode("utf-16-be"),
    "backslashes": f"{CLIP}\n{OTHER}\n".replace("/", "\\").encode(),
    "dots": f"./{CLIP}\n././{OTHER}\n".encode(),
    "quotes": f'"{CLIP}"\n"{OTHER}"\n'.encode(),
    "a path of another machine": (
        f"C:\\audio\\corpus\\{CLIP}\n/home/me/corpus/{OTHER}\n".encode()
    ),
    "a column of a spreadsheet": f"{CLIP};1;x\n{OTHER};2;y\n".encode(),
    "a column with commas": f"{CLIP},yes\n{OTHER},no\n".encode(),
    "a column with tabs": f"{CLIP}\tyes\n{OTHER}\tno\n".encode(),
    "capitals": f"{CLIP.upper()}\n{OTHER.title()}\n".encode(),
    "another suffix": f"{CLIP[:-4]}.flac\n{OTHER[:-4]}\n".encode(),
    "blanks": f"  {CLIP}  \n\n{OTHER}\t\n\n".encode(),
}


@pytest.mark.parametrize("how", LISTS)
def test_a_list_is_read_however_it_was_written(how, folder):
    """A clip whose entry did not match was trained on instead."""
    (folder / "validation_list.txt").write_bytes(LISTS[how])
    assert val_of(folder) == sorted([CLIP, OTHER])


@pytest.mark.parametrize(
    "name", ["Validation_List.TXT", "validation_list.csv", "validation_list.tsv"]
)
def test_a_list_is_found_in_other_spellings(name, folder):
    (folder / name).write_text(CLIP)
    assert val_of(folder) == [CLIP]


def test_composed_and_apart_are_one_name(tmp_path, folder):
    for form in ("NFC", "NFD"):
        root = small_corpus.make(tmp_path / form, ("cat", "no"))
        word = unicodedata.normalize(form, "für")
        shutil.move(root / "cat", root / word)
        other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "für")
        (root / "validation_list.txt").write_text(f"{other}/00000001_nohash_0.wav\n")
        assert val_of(root) == [f"{word}/00000001_nohash_0.wav"]


def test_a_name_alone_is_a_clip_where_there_is_one(folder):
    (folder / "yes" / "00000001_nohash_0.wav").rename(folder / "yes" / "take_7.wav")
    (folder / "validation_list.txt").write_text("take_7.wav\n")
    assert val_of(folder) == ["yes/take_7.wav"]
    (folder / "validation_list.txt").write_text("00000003_nohash_0.wav\n")
    with pytest.raises(KwsError, match="more than one clip.*cat/.* and 1 more"):
        val_of(folder)
    assert {f.kind for f in verify(folder)[1]} >= {"listed_unclear"}


def test_two_clips_that_differ_in_case_are_told_apart_or_named(folder):
    pcm = audio.wav_bytes(small_corpus.tone(432))
    (folder / "yes" / "00000001_nohash_0.WAV").write_bytes(pcm)
    (folder / "validation_list.txt").write_text(f"{CLIP}\n")
    assert val_of(folder) == [CLIP]
    (folder / "validation_list.txt").write_text("Yes/00000001_nohash_0.Wav\n")
    with pytest.raises(KwsError, match="more than one clip"):
        val_of(folder)


def test_lists_that_contradict_each_other_are_refused(folder):
    (folder / "validation_list.txt").write_text(CLIP)
    (folder / "testing_list.txt").write_text(CLIP.replace("/", "\\"))
    with pytest.raises(KwsError, match="Clips are in validation_list and in testing"):
        val_of(folder)
    assert "listed_twice" in {f.kind for f in verify(folder)[1]}
    (folder / "testing_list.csv").write_text(OTHER)
    with pytest.raises(KwsError, match="two lists of one split"):
        val_of(folder)


def test_a_list_of_which_nothing_is_there_is_refused(folder):
    (folder / "validation_list.txt").write_text("clip,split\nyes/nobody.wav,val\n")
    with pytest.raises(KwsError, match="No entry of validation_list.txt is a clip"):
        val_of(folder)


def test_entries_without_a_clip_are_said(folder, capsys):
    (folder / "validation_list.txt").write_text(f"{CLIP}\nyes/gone.wav\nbird/1.wav\n")
    data.load("train", Task("custom", words=("yes", "no")), folder)
    said = capsys.readouterr().err
    assert "name clips that are not there: yes/gone.wav" in said
    assert "entries of the lists for other folders: 1" in said


TABLES = {
    "as we write it": "start_s\tend_s\tword\n1.5\t2\tyes\n3\t3.25\they robot\n",
    "without a header": "1.5\t2\tyes\n3\t3.25\they robot\n",
    "audacity": "1.500000\t2.000000\tyes\n3.000000\t3.250000\they robot\n",
    "audacity with frequencies": (
        "1.500000\t2.000000\tyes\n\\\t100.0\t4000.0\n3.0\t3.25\they robot\n"
    ),
    "commas": "start,end,label\n1.5,2,yes\n3,3.25,hey robot\n",
    "a german spreadsheet": "Anfang;Ende;Wort\n1,5;2;yes\n3;3,25;hey robot\n",
    "decimal commas and tabs": "1,5\t2,0\tyes\n3,0\t3,25\they robot\n",
    "quotes": '"start","end","word"\n"1,5","2","yes"\n"3","3,25","hey robot"\n',
    "columns in another order": "word,start_s,end_s\nyes,1.5,2\nhey robot,3,3.25\n",
    "raven": (
        "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"
        "1\t1.5\t2\tyes\n2\t3\t3.25\they robot\n"
    ),
    "milliseconds": "start_ms\tend_ms\tword\n1500\t2000\tyes\n3000\t3250\they robot\n",
    "one in milliseconds": "start_s,end_ms,word\n1.5,2000,yes\n3,3250,hey robot\n",
    "durations beside": "start,end,duration,word\n1.5,2,.5,yes\n3,3.25,,hey robot\n",
    "minutes": "0:01.5\t0:02\tyes\n00:00:03\t0:03.25\they robot\n",
    "spaces": "1.5 2 yes\n3 3.25 hey robot\n",
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("how", TABLES)
def test_a_truth_is_read_however_it_was_written(how, newline, tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(TABLES[how].replace("\n", newline).encode())
    assert tape.read_windows(path) == [
        Window("yes", 1.5, 2.0),
        Window("hey robot", 3.0, 3.25),
    ]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_truth_is_read_in_any_encoding(encoding, tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes("start;end;word\n1,5;2;fünf\n".encode(encoding))
    audio.say.cache_clear()
    assert tape.read_windows(path) == [Window("fünf", 1.5, 2.0)]
    # What is a guess is said.
    assert ("Windows-1252" in capsys.readouterr().err) == (encoding == "latin-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5,2,0,yes\n", "decimal commas and commas between"),
        ("1.0\t2.0\t\n", "no word from 1 to 2 s"),
        ("start_sample\tend_sample\tword\n1\t2\tyes\n", "times in seconds"),
        ("1.234,5\t2\tyes\n", "no times in seconds"),
        ("start\tduration\tword\n0.2\t0.5\tyes\n", "start and end were expected"),
        ("1.0\t2.0\tyes\textra\n", "3 fields were expected, not 4"),
        # Before, each of these said that nobody says a word.
        ("hello\n", "3 fields were expected, not 1"),
        ("he came from the start\n", "no times in seconds"),
        ("1m2s 1m3s yes\n", "no times in seconds"),
        ("1m2s 1m3s yes\n1 2 no\n", "no times in seconds"),
        ("hello\n1 2 no\n", "3 fields were expected, not 1"),
        ("\x00\x01\x02", "no text"),
    ],
)
def test_a_truth_that_is_unclear_is_named(text, message, tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(KwsError, match=message):
        tape.read_windows(path)


def test_a_truth_in_another_spelling_is_that_label_s(capsys):
    """Each hit was a false alarm, for the window was left out."""
    labels = ("_silence_", "_unknown_", "yes", "hey robot", "für")
    spelled = ("Yes", " yes", "hey_robot", "HEY-ROBOT", "fu\u0308r", "_unknown_")
    windows = [Window(word, n, n + 0.5) for n, word in enumerate(spelled)]
    audio.say.cache_clear()
    found = tape.asked_for(windows, labels)
    assert [w.word for w in found] == ["yes", "yes", "hey robot", "hey robot", "für"]
    assert capsys.readouterr().err == ""
    assert tape.asked_for([Window("yess", 1, 2), Window("maybe", 3, 4)], labels) == []
    said = capsys.readouterr().err
    assert "'yess' (1, did you mean 'yes'?)" in said and "'maybe' (1)" in said


def test_a_header_alone_says_that_nobody_says_a_word(tmp_path):
    path = tmp_path / "t.tsv"
    for header in ("start_s\tend_s\tword\n", "label;begin [ms];end [ms]\n", "\n"):
        path.write_text(header)
        assert tape.read_windows(path) == []


def test_a_truth_of_another_recording_is_refused(tmp_path):
    path = tmp_path / "t.wav"
    path.write_bytes(audio.wav_bytes(np.zeros(32000, np.int16)))
    (tmp_path / "t.tsv").write_text("0.5\t1\tyes\n1500\t2000\tyes\n")
    with pytest.raises(KwsError, match="goes on after the recording"):
        tape.open_tape(path)


def test_the_truth_beside_a_tape_may_be_a_label_track(tmp_path, capsys):
    path = tmp_path / "t.wav"
    path.write_bytes(audio.wav_bytes(np.zeros(32000, np.int16)))
    (tmp_path / "t.txt").write_text("0.5\t1\tyes\n")
    assert [w.word for w in tape.open_tape(path).windows] == ["yes"]
    (tmp_path / "t.tsv").write_text("0.5\t1\tno\n")
    audio.say.cache_clear()
    assert [w.word for w in tape.open_tape(path).windows] == ["no"]
    assert "taken from t.tsv, not from t.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word",
    ["für", "你好", "привет", "नमस्ते", "สวัสดี", "مرحبا", "می\u200cخواهم", "o'clock", "7"],
)
def test_words_of_all_scripts_are_words(word):
    assert data.labels(Task("custom", words=(word,)))[2] == names.composed(word)


@pytest.mark.parametrize(
    "word", ["a--b", "-a", "a ", "\u0308a", "a_b", "你好，再见", ""]
)
def test_what_is_no_word_is_refused(word):
    assert not names.is_word(word)


def test_a_word_that_is_written_as_its_folder_is_told_as_a_word():
    """The hint was a line of a recipe, whatever was typed."""
    for word, hint in (
        ("hey_robot", "'hey robot'"),
        ("a;b", '--words "yes,hey robot"'),
    ):
        with pytest.raises(KwsError, match="A word may have letters") as caught:
            data.labels(Task("custom", words=("yes", word)))
        assert hint in caught.value.hint


def test_one_word_in_two_spellings_is_named_twice():
    with pytest.raises(KwsError, match="named twice") as caught:
        data.labels(Task("custom", words=("für", "no", "fu\u0308r")))
    assert caught.value.hint == "Name each once: 'für', 'no'"


def test_speakers_are_told_by_their_composed_names():
    one, other = (f"yes/{unicodedata.normalize(f, 'Zoë')}_nohash_1.wav" for f in FORMS)
    assert splits.speaker_of(one) == splits.speaker_of(other)
    assert splits.split_of(one) == splits.split_of(other)


FORMS = ("NFC", "NFD")
