"""Sound that holds none of the words: where it comes from, and how it is trained on."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import soundfile
import toolbox

from kws import pool, recipe
from kws.bundle import write_atomic
from kws.data import ClipSet, ambient, audio, tape
from kws.errors import KwsError

RATE = audio.SAMPLE_RATE


def tone(seconds: float, level: int) -> np.ndarray:
    """A square wave of 100 Hz: any part of it tells its level."""
    half = np.arange(int(seconds * RATE)) // 80 % 2
    return np.where(half, level, -level).astype(np.int16)


def write(path: Path, pcm: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, audio.wav_bytes(pcm))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two long recordings, and ten short ones whose level is their number."""
    write(tmp_path / "noise" / "rain.wav", tone(40, 3000))
    write(tmp_path / "music" / "song.wav", tone(30, 2000))
    for number in range(10):
        write(tmp_path / "speech" / f"p{number}_nohash_0.wav", tone(3, 100 + number))
    return tmp_path


def test_recordings_are_shared_out_and_nothing_is_in_two_splits(folder: Path) -> None:
    levels: dict[str, set[int]] = {}
    for split in ("train", "val", "test"):
        try:
            sounds = ambient.recordings(folder, split)
        except KwsError:  # of few short ones a split may have none
            sounds = []
        for sound in sounds:
            assert sound.kind in ("noise", "music", "speech")
            if sound.kind == "speech":
                levels.setdefault(split, set()).add(int(np.abs(sound.pcm).max()))
        long = {s.kind: len(s.pcm) for s in sounds if s.kind != "speech"}
        share = 0.8 if split == "train" else 0.1
        assert long == {
            "noise": int(40 * share * RATE),
            "music": int(30 * share * RATE),
        }
    assert sum(map(len, levels.values())) == 10  # each in one


def test_an_index_says_what_is_where(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", np.r_[tone(1, 1000), tone(2, 2000), tone(1, 3000)])
    rows = [
        "file first_sample samples split kind speaker name text",
        f"long.wav 0 {RATE} train speech a one Turn_the_lights_ON_please",
        f"long.wav {RATE} {2 * RATE} train noise . two .",
        f"long.wav {3 * RATE} {RATE} val speech b three yes_indeed",
    ]
    lines = [row.replace(" ", "\t").replace("_", " ") for row in rows]
    lines[0] = lines[0].replace("first sample", "first_sample")
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    both = ambient.recordings(tmp_path, "train")
    assert [(s.kind, len(s.pcm), int(s.pcm.max())) for s in both] == [
        ("speech", RATE, 1000),
        ("noise", 2 * RATE, 2000),
    ]
    assert ambient.recordings(tmp_path, "val", ["ye", "no"])  # part of a word is none


def test_where_all_of_it_holds_a_word_there_is_nothing(tmp_path: Path) -> None:
    """Else a tape's bed would be another sound than was asked for."""
    write(tmp_path / "long.wav", tone(4, 1000))
    head = "file\tfirst_sample\tsamples\tsplit\tkind\ttext"
    rows = f"long.wav\t0\t{2 * RATE}\tval\tspeech\tlights on"
    (tmp_path / "index.tsv").write_text(f"{head}\n{rows}\n", encoding="utf-8")
    assert len(ambient.recordings(tmp_path, "val", ("off",))) == 1
    with pytest.raises(KwsError, match="Each .* has one of the words"):
        ambient.recordings(tmp_path, "val", ("on",))


@pytest.mark.parametrize("words", [("on",), ("Lights On",), ("lights-on",)])
def test_what_holds_a_word_is_left_out_and_said(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "long.wav", tone(4, 1000))
    (tmp_path / "index.tsv").write_text(
        "file\tfirst_sample\tsamples\tsplit\tkind\ttext\n"
        f"long.wav\t0\t{RATE}\ttrain\tspeech\tTurn the lights on, please.\n"
        f"long.wav\t{RATE}\t{RATE}\ttrain\tspeech\tonly the lights onto it\n",
        encoding="utf-8",
    )
    (kept,) = ambient.recordings(tmp_path, "train", words)
    assert kept.text.startswith("only")
    assert "1 train recordings have one of the words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a Computer.", True),
        ("heycomputer", True),  # it was trained on as sound without the word
        ("OK smartmirror", True),
        ("oksmartmirror", True),
        ("computers", False),
        ("smart mirrors or a mirror", False),
        ("", False),
    ],
)
def test_a_word_is_found_in_a_text(text: str, said: bool) -> None:
    assert ambient._said(text, ("computer", "smart mirror")) is said
    assert not ambient._said(text, ())


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_word_is_found_whether_its_letters_are_composed_or_not(form: str) -> None:
    text = unicodedata.normalize(form, "Un café noir")
    for word in ("café", "cafe\u0301"):
        assert ambient._said(text, (word,))
    assert not ambient._said(text, ("cafe",))


def test_columns_are_known_in_any_case_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text that was not seen let recordings of the word in."""
    write(tmp_path / "a.wav", tone(2, 5))
    head = "File\tfirst sample\tSAMPLES\tsplit\tkind\t"
    row = f"a.wav\t0\t{RATE}\ttrain\tspeech\tsays yes"
    index = tmp_path / "index.tsv"
    index.write_text(f"{head} Text \n{row}\n", encoding="utf-8")
    with pytest.raises(KwsError, match="Each .* has one of the words"):
        ambient.recordings(tmp_path, "train", ("yes",))
    index.write_text(f"{head}text\tText\n{row}\t\n", encoding="utf-8")
    with pytest.raises(KwsError, match="names text twice"):
        ambient.recordings(tmp_path, "train", ("yes",))
    index.write_text(f"{head}txt\n{row}\n", encoding="utf-8")
    assert ambient.recordings(tmp_path, "train", ("yes",))
    assert "columns that aren't read: txt" in capsys.readouterr().err


def test_what_to_do_where_there_is_an_index(tmp_path: Path) -> None:
    head = "file\tfirst_sample\tsamples\tsplit\tkind\n"
    index = tmp_path / "index.tsv"
    index.write_text(f"{head}a.wav\t0\t9\ttrain\tnoise\n", encoding="utf-8")
    with pytest.raises(KwsError) as error:
        ambient.recordings(tmp_path, "val")
    assert "index.tsv" in error.value.hint and "noise" not in error.value.hint
    soundfile.write(tmp_path / "a.wav", tone(1, 5), 44100)
    with pytest.raises(KwsError, match="44100") as error:
        ambient.recordings(tmp_path, "train")
    command = error.value.hint.partition("   (")[0]
    if shutil.which("ffmpeg"):
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        index.write_text(f"{head}a-16k.wav\t0\t9\ttrain\tnoise\n")
        assert len(ambient.recordings(tmp_path, "train")) == 1


def test_the_innermost_folder_of_a_known_name_is_the_kind(tmp_path: Path) -> None:
    """MUSAN's noise is of two sources, and was of two kinds, none of them noise."""
    around = tmp_path / "music"
    write(around / "musan" / "noise" / "free-sound" / "a.wav", tone(40, 5))
    write(around / "musan" / "music" / "jamendo" / "a.wav", tone(40, 5))
    write(around / "kitchen" / "pans" / "a.wav", tone(40, 5))

    def kinds(folder: Path) -> set[str]:
        return {sound.kind for sound in ambient.recordings(folder, "train")}

    assert kinds(around / "musan") == {"noise", "music"}
    assert kinds(around / "musan" / "noise") == {"noise"}
    assert kinds(around / "musan" / "music" / "jamendo") == {"jamendo"}
    assert kinds(around / "kitchen") == {"pans"}
    assert kinds(around) == {"noise", "music"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "doesn't name file, first_sample"),
        ("file\tfirst_sample\tsamples\tsplit\tkind\na.wav\t0\tx\ttrain\tn", "line 2"),
        ("file\tfirst_sample\tsamples\tsplit\tkind\n../a\t0\t9\ttrain\tn", "line 2"),
        ("file\tfirst_sample\tsamples\tsplit\tkind\na.wav\t9\t9999\ttrain\tn", "ends"),
        (
            "file\tfirst_sample\tsamples\tsplit\tkind\na.wav\t9\t0\ttrain\tn",
            "no sample",
        ),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.wav", tone(0.1, 5))
    (tmp_path / "index.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(KwsError, match=message):
        ambient.recordings(tmp_path, "train")


@pytest.mark.parametrize("hidden", [".Trash-1000/files", "noise/.a.unpacking-1/b"])
def test_hidden_files_are_not_heard(hidden: str, folder: Path) -> None:
    """What was deleted, or is not unpacked to its end."""
    before = [sound.name for sound in ambient.recordings(folder, "train")]
    write(folder / hidden / "deleted.wav", tone(60, 99))
    write(folder / hidden / "1-2-3.wav", tone(60, 99))
    (folder / hidden / "1-2.trans.txt").write_text("1-2-3 WORDS\n")
    write(folder / "noise" / "._x.wav", tone(60, 99))
    assert [sound.name for sound in ambient.recordings(folder, "train")] == before
    write(folder.parent / ".hidden" / "x.wav", tone(60, 99))  # by its name, it is
    assert ambient.recordings(folder.parent / ".hidden", "train")


def test_no_folder_and_nothing_in_it(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(KwsError, match=r"ambient (sound|recordings)"):
            ambient.recordings(place, "train")


def test_a_short_kind_is_heard_as_well(folder: Path) -> None:
    sounds = ambient.recordings(folder, "train")
    drawn = ambient.windows(sounds, 2000, RATE, seed=1)
    assert np.array_equal(drawn, ambient.windows(sounds, 2000, RATE, seed=1))
    peaks = np.abs(drawn).max(axis=1)
    minutes = {
        "noise": 32,
        "music": 24,
        "speech": sum(s.kind == "speech" for s in sounds) * 3,
    }
    roots = {kind: np.sqrt(length) for kind, length in minutes.items()}
    for kind, level in (("noise", 3000), ("music", 2000)):
        expected = roots[kind] / sum(roots.values())
        assert abs((peaks == level).mean() - expected) < 0.05
    with pytest.raises(KwsError, match="no kind last"):
        ambient.windows(sounds, 1, 60 * RATE, seed=1)


def small_pool(clips: int = 64) -> tuple[pool.Pool, recipe.Recipe]:
    """Features that tell the clip: its number; of pairs, 100 + pair and 100 - pair."""
    frames, bins = 6, 8
    of_clip = np.arange(clips)[None, :, None, None] % 64
    pairs = np.stack([100 + np.arange(20), 100 - np.arange(20)], 1)[..., None, None]
    settings = dataclasses.replace(
        recipe.Augment(), roll_frames=0, time_masks=0, mel_masks=0
    )
    return pool.Pool(
        np.broadcast_to(of_clip, (2, clips, frames, bins)).astype(np.int8),
        (np.arange(clips) % 5).astype(np.int32),
        np.ones((2, clips, 5), np.float32),
        np.broadcast_to(pairs, (20, 2, frames, bins)).astype(np.int8),
    ), dataclasses.replace(recipe.Recipe(), augment=settings)


@pytest.mark.parametrize(("size", "parts"), [(16, 1), (16, 2), (17, 1), (32, 1)])
def test_a_batch_has_its_share_of_pairs(size: int, parts: int) -> None:
    clips, spec = small_pool()
    local = size // parts
    half = (local + 1) // 2
    seen: list[int] = []
    for batch in pool.batches(clips, spec, size, 0, 0, parts):
        value = batch["features"][:, 0, 0].astype(int)
        none = batch["label"] == pool.NO_WORD
        seen += list(value[~none])
        assert np.array_equal(none, value > 80)
        assert not batch["teacher"][none].any() and batch["teacher"][~none].all()
        for start in range(0, size, local):
            here = value[start : start + local]
            windows = int((here > 80).sum())
            assert windows == 2 * pool.ambient_pairs(clips, spec, local) > 0
            first, second = here[:half], here[local - half :]
            both = (first > 80) & (second > 80)
            # One window and the next, some together, some with a clip between.
            assert np.all(first[both] - 100 == 100 - second[both])
            assert ((first > 80) & (second < 80)).any()
            assert ((first < 80) & (second > 80)).any()
    assert len(seen) == len(set(seen))  # every clip once


def test_no_ambient_no_change() -> None:
    clips, spec = small_pool()
    without = dataclasses.replace(clips, ambient=None)
    batches = list(pool.batches(without, spec, 16, 0, 0))
    assert len(batches) == 4
    assert all((batch["label"] != pool.NO_WORD).all() for batch in batches)
    none = dataclasses.replace(
        spec, augment=dataclasses.replace(spec.augment, ambient_percent=0.0)
    )
    for mine, theirs in zip(pool.batches(clips, none, 16, 0, 0), batches, strict=True):
        for key in mine:
            assert np.array_equal(mine[key], theirs[key])


def test_the_pool_keeps_windows_that_follow_one_another(
    tmp_path: Path, folder: Path
) -> None:
    spec = dataclasses.replace(
        recipe.load("kwt-stream-tiny"),
        augment=dataclasses.replace(
            recipe.Augment(), variants=2, noise_probability=0.0, gain_db=0.0, speed=0.0
        ),
    )
    rng = np.random.default_rng(0)
    clips = ClipSet(
        rng.integers(-3000, 3000, (40, 16000), np.int16),
        np.zeros(40, np.int32),
        [f"c{i}" for i in range(40)],
        ("w", "x"),
        "train",
        {},
    )
    sounds = ambient.recordings(folder, "train")
    made = pool.build(clips, [], spec, tmp_path / "pool", None, sounds)
    assert made.ambient is not None
    assert made.ambient.shape == (10, 2, 48, 40)  # 25 %, two copies, in pairs
    again = pool.build(clips, [], spec, tmp_path / "pool", None, sounds)
    assert np.array_equal(made.ambient, again.ambient)
    # Other sounds, another pool; without any, none.
    assert (
        pool.build(clips, [], spec, tmp_path / "pool", None, sounds[:1]).ambient
        is not None
    )
    assert pool.build(clips, [], spec, tmp_path / "pool").ambient is None
    assert len(list((tmp_path / "pool").iterdir())) == 3


def test_training_learns_to_hear_no_word_in_it(tmp_path: Path) -> None:
    """Ambient windows that look like a word's, only weaker: with them in training the
    network no longer hears the word in them."""
    pytest.importorskip("tensorflow")
    from test_train import clips_of, loop_of, recipe_of

    from kws.layers.keras import tf

    heard = {}
    for share in (0.0, 50.0):
        spec = recipe_of()
        spec = dataclasses.replace(
            spec, augment=dataclasses.replace(spec.augment, ambient_percent=share)
        )
        clips = clips_of(spec)
        strange = np.full((30, 2, *clips.features.shape[2:]), -60, np.int8)
        strange[..., 2 * 13 : 3 * 13] += 22  # a word's band, half as far
        clips = dataclasses.replace(clips, ambient=strange)
        loop = loop_of(spec, tmp_path / str(share), clips, no_words=(0, 1))
        loop.run()
        features = spec.features
        real = (
            tf.cast(strange[:1, 0], tf.float32) - features.zero_point
        ) * features.scale
        posterior = tf.nn.softmax(loop.network(real)).numpy()[0]
        heard[share] = posterior[2:].sum()
    assert heard[0.0] > 0.5 and heard[50.0] < 0.2


def test_a_missing_folder_is_told_before_clips_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kws import train

    audio = small_corpus.make(tmp_path / "audio")
    spec = recipe.Recipe(task=recipe.Task("custom", words=("yes",)))
    options = train.RunOptions(data=audio, ambient=(tmp_path / "nowhere",))
    with pytest.raises(KwsError, match="No such folder of ambient sound"):
        train.train(spec, tmp_path / "run", options)
    assert "Reading clips" not in capsys.readouterr().err


def test_librispeech_is_split_by_speaker_and_its_words_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speakers = range(100, 130)
    for speaker in speakers:
        place = tmp_path / "speech" / "dev-clean" / str(speaker) / "7"
        for number in range(2):
            write(place / f"{speaker}-7-000{number}.wav", tone(1, speaker))
        text = f"{speaker}-7-0000 HE SAID NOTHING\n{speaker}-7-0001 SHE SAID YES\n"
        (place / f"{speaker}-7.trans.txt").write_text(text)
    heard = {
        split: ambient.recordings(tmp_path, split, ["yes"])
        for split in ("train", "val", "test")
    }
    assert "have one of the words" in capsys.readouterr().err
    told = [int(sound.name.split("-")[0]) for split in heard for sound in heard[split]]
    assert sorted(told) == list(speakers)  # each in one split, without its yes
    assert len(heard["train"]) > 15 and heard["val"] and heard["test"]
    for sound in heard["val"]:
        assert (sound.kind, sound.text) == ("speech", "HE SAID NOTHING")
    assert len(ambient.recordings(tmp_path, "train")) == 2 * len(heard["train"])


def test_the_tool_of_wake_words_writes_into_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten recordings of an earlier call were among the three of the next."""
    tool = toolbox.tool("wake_words")
    around, out = tmp_path / "around", tmp_path / "wake"
    write(around / "long.wav", np.tile(tone(20, 900), 3))
    rows = ["file\tfirst_sample\tsamples\tsplit\tkind\ttext"]
    for number, split in enumerate(("train", "train", "val", "test")):
        rows.append(f"long.wav\t{number * RATE}\t{RATE}\t{split}\twake\talexa")
    for number, split in enumerate(("train", "val", "test")):
        at = (10 + 12 * number) * RATE
        rows.append(f"long.wav\t{at}\t{12 * RATE}\t{split}\tnoise\t")
    (around / "index.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def call(recordings: int) -> int:
        given = [str(around), "--words", "alexa", "--out", str(out)]
        given += ["--recordings", str(recordings)]
        monkeypatch.setattr(sys, "argv", ["wake_words.py", *given])
        return int(tool.main())

    assert call(1) == 0
    files = sorted(out.rglob("*"))
    assert sum(file.suffix == ".wav" for file in files) == 4
    # The other recording of train is on a tape, the one of the corpus on none.
    for name, words in (("val", 1), ("val-and-rest", 2), ("test", 1)):
        assert len(tape.open_tape(out / name / "wake.wav").windows) == words
    with pytest.raises(SystemExit):
        call(2)
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == files
