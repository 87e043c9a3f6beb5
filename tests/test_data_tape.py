"""Long tapes: truth is where the words are, and scoring counts what happened."""

from __future__ import annotations

import hashlib
import json
import math
import os
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
import small_corpus
from click.testing import CliRunner

from kws import intervals
from kws.cli.data import command
from kws.data import audio, tape
from kws.data.ambient import Sound
from kws.data.tape import Window
from kws.errors import KwsError

BAD = Path(__file__).parent / "bad_input" / "data"
LABELS = ("_silence_", "_unknown_", "yes", "no")


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Silence, another word (300 Hz), yes (1 kHz), no (2 kHz), each 0.4..0.6 s."""
    pcm = np.zeros((4, 16000), np.int16)
    for row, hertz in ((1, 300), (2, 1000), (3, 2000)):
        pcm[row, 6400:9600] = small_corpus.tone(hertz, 3200)
    return pcm, np.arange(4, dtype=np.int32)


def test_words_are_where_the_truth_says():
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 60, 1, keywords_per_minute=10)
    assert len(made.pcm) == 60 * 16000 and made.pcm.dtype == np.int16
    assert len(made.windows) == 10
    assert {w.word for w in made.windows} == {"yes", "no"}
    for window in made.windows:
        start, end = int(window.start_s * 16000), int(window.end_s * 16000)
        assert abs(end - start - 3200) < 200
        spectrum = np.abs(np.fft.rfft(made.pcm[start:end].astype(float)))
        peak = np.argmax(spectrum) * 16000 / (end - start)
        assert abs(peak - {"yes": 1000, "no": 2000}[window.word]) < 20
    gaps = np.diff([w.start_s for w in made.windows])
    assert gaps.min() >= 1.0


def test_a_tape_is_made_by_its_seed():
    pcm, label = clips()
    noise = np.random.default_rng(0).integers(-99, 99, 400000).astype(np.int16)
    one, same, other = (
        tape.build(pcm, label, LABELS, [noise], 60, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.pcm, same.pcm) and one.windows == same.windows
    assert one.windows != other.windows
    bed = 32768 * 10 ** (-45 / 20)
    quiet = np.median(np.abs(one.pcm.astype(float)))
    assert 0.3 * bed < quiet < 1.5 * bed


def test_more_words_than_fit_are_refused():
    pcm, label = clips()
    with pytest.raises(KwsError, match="can't hold"):
        tape.build(pcm, label, LABELS, [], 60, keywords_per_minute=50)


def test_a_word_said_in_a_room_goes_on_after_its_end():
    pcm, label = clips()
    dry, wet = (
        tape.build(pcm, label, LABELS, [], 60, 1, 10, 0, (40.0, 40.0), -80.0, room)
        for room in (None, (0.5, 0.6))
    )
    assert [w.start_s for w in dry.windows] == [w.start_s for w in wet.windows]

    def after(made: tape.Tape) -> float:
        """Loudness in the tenth of a second after the words, over that within them."""
        ratios = []
        for window in made.windows:
            start, end = (int(s * 16000) for s in (window.start_s, window.end_s))
            said, rest = (
                np.sqrt(np.mean(part.astype(float) ** 2))
                for part in (made.pcm[start:end], made.pcm[end + 200 : end + 1800])
            )
            ratios.append(rest / said)
        return float(np.mean(ratios))

    assert after(dry) < 0.02 < 0.1 < after(wet) < 1
    again = tape.build(pcm, label, LABELS, [], 60, 1, 10, 0, (40, 40), -80, (0.5, 0.6))
    assert np.array_equal(again.pcm, wet.pcm)


NAMES = ("_silence_/0", "_unknown_/bed_ann.wav", "yes/ann.wav", "no/ben.wav")


def test_a_tape_says_what_was_laid_and_how_loud(tmp_path):
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 60, 1, 10, 8, (5, 9), clip_names=NAMES)
    assert [w.word for w in made.said if w.word != "bed"] == [
        w.word for w in made.windows
    ]
    assert sum(w.word == "bed" for w in made.said) == 8
    bed = np.sqrt(np.mean(made.pcm[: int(made.said[0].start_s * 16000)] ** 2.0))
    for window in made.windows:
        assert (
            window.clip
            == f"{window.word}/{'ann' if window.word == 'yes' else 'ben'}.wav"
        )
        assert window.snr_db is not None and 5 <= window.snr_db <= 9
        said = made.pcm[int(window.start_s * 16000) : int(window.end_s * 16000)]
        over = np.mean(said.astype(float) ** 2) / bed**2 - 1  # less the bed beneath it
        assert 10 * np.log10(over) == pytest.approx(window.snr_db, abs=0.6)
    made.made["seed"] = 1
    tape.save(made, tmp_path / "t.wav")
    read = tape.open_tape(tmp_path / "t.wav")
    assert (read.kind, read.made) == ("words", {"seed": 1})
    assert [(w.snr_db, w.clip) for w in read.windows] == [
        (w.snr_db, w.clip) for w in made.windows
    ]
    first = made.said[0]
    assert read.text_at(first.start_s - 0.5, first.start_s + 0.1) == first.word
    assert read.text_at(0, first.start_s - 0.01) == ""
    # A truth that was edited is taken; what was known of the old one no longer fits.
    tape.write_windows(tmp_path / "t.tsv", [Window("yes", 1, 2)])
    assert tape.open_tape(tmp_path / "t.wav").windows == [Window("yes", 1, 2)]
    (tmp_path / "t.tape.json").write_text('{"kind": "words", "made": {}}')
    with pytest.raises(KwsError, match="can't be read"):
        tape.open_tape(tmp_path / "t.wav")


@pytest.mark.parametrize("named", [NAMES, None])
def test_an_edited_truth_keeps_what_is_known_of_the_words_that_stayed(
    tmp_path, capsys, named
):
    """By count alone, every word got its neighbour's loudness and clip."""
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 60, 1, 10, 8, (5, 9), clip_names=named)
    tape.save(made, tmp_path / "t.wav")
    known = [(w.snr_db, w.clip) for w in made.windows]
    rows = (tmp_path / "t.tsv").read_text().splitlines()
    audio.say.cache_clear()
    assert [(w.snr_db, w.clip) for w in tape.open_tape(tmp_path / "t.wav").windows] == (
        known
    )
    assert not capsys.readouterr().err
    edited = [rows[0], *rows[2:], "59.5\t59.9\tyes"]
    (tmp_path / "t.tsv").write_text("\n".join(edited) + "\n")
    read = tape.open_tape(tmp_path / "t.wav")
    assert [(w.snr_db, w.clip) for w in read.windows] == [*known[1:], (None, "")]
    assert "1 of 10 words of the truth are not as they were laid" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "known",
    [
        '"windows": [[1e999, "x"]], "said": []',
        '"windows": [], "said": [[0, 1e999, "x", ""]]',
        '"windows": [], "said": [[NaN, 1, "x", ""]]',
    ],
)
def test_a_side_file_without_finite_numbers_is_refused(known, tmp_path):
    tape.save(tape.Tape(np.zeros(16000, np.int16), []), tmp_path / "t.wav")
    side = f'{{"kind": "words", "made": {{}}, {known}}}'
    (tmp_path / "t.tape.json").write_text(side)
    with pytest.raises(KwsError, match="(inf|nan) is no number"):
        tape.open_tape(tmp_path / "t.wav")


def test_a_word_that_goes_on_after_the_tape_sounds_to_its_end():
    """Times beyond any float's product ended in an OverflowError."""
    windows = [Window("yes", 0.5, 1e308), Window("no", 1e308, 1e308)]
    made = tape.Tape(np.zeros(16000, np.int16), windows)
    found = made.sounds(0, 4000, 4).tolist()
    assert found == [tape.QUIET, tape.QUIET, tape.WORDS, tape.WORDS]


def test_ambient_recordings_are_a_tape_without_words(tmp_path):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-99, 99, n).astype(np.int16) for n in (24000, 8000))
    sounds = [Sound(a, "speech", "f", "1", "hello you"), Sound(b, "speech", "f", "2")]
    made = tape.of_sounds(sounds)
    assert np.array_equal(made.pcm, np.concatenate([a, b]))
    assert made.kind == "speech" and made.windows == []
    assert made.text_at(1.0, 1.2) == "hello you" and made.text_at(1.6, 1.9) == ""
    assert len(tape.of_sounds(sounds, 0.5).pcm) == 8000
    tape.save(made, tmp_path / "t.wav")
    read = tape.open_tape(tmp_path / "t.wav")
    assert (read.kind, read.windows, read.said) == ("speech", [], made.said)
    with pytest.raises(KwsError, match="one kind of sound") as caught:
        tape.of_sounds([Sound(b, "noise", "f", "1"), Sound(b, "music", "g", "3")])
    assert "--kind music " in caught.value.hint  # one that is there


def told(folder: Path, made: tape.Tape, capsys) -> str:
    """What is said on stderr when a network that knows yes and no hears a tape."""
    tape.save(made, folder / "t.wav")
    audio.say.cache_clear()
    ((name, read),) = tape.opened([folder / "t.wav"], LABELS)
    assert (name, len(read.pcm)) == (str(folder / "t.wav"), len(made.pcm))
    return capsys.readouterr().err


def test_a_tape_without_truth_is_refused_before_another_is_decoded(tmp_path):
    """Ten tapes of an hour were heard, and the eleventh had none."""
    made = tape.Tape(np.zeros(16000, np.int16), [])
    for name in ("a.wav", "z.wav"):
        tape.save(made, tmp_path / name)
    both = [tmp_path / "a.wav", tmp_path / "z.wav"]
    assert len(list(tape.opened(iter(both), LABELS))) == 2
    (tmp_path / "z.tape.json").write_text("{")
    with pytest.raises(KwsError, match="known of the tape can't be read"):
        tape.opened(both, LABELS)
    (tmp_path / "z.tsv").unlink()
    with pytest.raises(KwsError, match="No truth file"):
        tape.opened(both, LABELS)
    both[1].unlink()
    with pytest.raises(KwsError, match="No such recording"):
        tape.opened(both, LABELS)


def test_words_that_the_truth_of_a_tape_leaves_out_are_told(tmp_path, capsys):
    """They counted as false alarms, without a word, where a tape was made for others'
    words."""
    pcm = np.zeros(64000, np.int16)
    texts = [Window("Oh yes, I know", 0, 2), Window("yes or no", 2, 4)]
    made = tape.Tape(pcm, [], "speech", texts, {"split": "test", "words": ["up"]})
    said = told(tmp_path, made, capsys)
    assert "in 2 of the texts" in said and "'yes' (2), 'no' (1)." in said
    command_line = said.strip().partition("Make a tape for these words: ")[2]
    assert command_line == (
        "kws data tape --words yes,no --split test --ambient DIR --kind speech "
        f"--no-words --out {tmp_path / 't-new.wav'}"
    )
    # It works as it is typed.
    sound = ambient(tmp_path / "ambient")
    (sound / "noise").rename(sound / "speech")
    kws_data(*command_line.replace("DIR", str(sound)).split()[2:])
    # Words of the truth, and other words between, are none of that.
    windows = [Window("Yes", 0.5, 1), Window("yes", 3, 3), Window("no", 3.5, 3.9)]
    assert told(tmp_path, tape.Tape(pcm, windows, said=texts), capsys) == ""
    between = [Window("yes", 0.5, 1), Window("bed", 2, 2.5)]
    assert told(tmp_path, tape.Tape(pcm, windows, said=between), capsys) == ""
    between = [Window("bed", 0.5, 1), Window("no", 2, 2.5)]
    said = told(tmp_path, tape.Tape(pcm, windows, said=between), capsys)
    assert "'no' (1)." in said and "words yes,no --split val --out" in said


def test_a_folder_is_all_of_its_tapes_and_an_empty_truth_says_no_word(tmp_path, capsys):
    made = tape.Tape(np.zeros(16000, np.int16), [])
    for name in ("b.wav", "a.wav"):
        tape.save(made, tmp_path / name)
    found = tape.files([tmp_path, tmp_path / "b.wav"])
    # Each once: before, its hours and words counted twice, and intervals came out too
    # narrow.
    assert [path.name for path in found] == ["a.wav", "b.wav"]
    assert "b.wav: named twice, heard once" in capsys.readouterr().err
    (tmp_path / "a.tsv").write_text("")
    (tmp_path / "a.tape.json").unlink()
    assert tape.open_tape(tmp_path / "a.wav").kind == "recording"
    (tmp_path / "empty").mkdir()
    with pytest.raises(KwsError, match="without tapes"):
        tape.files([tmp_path / "empty"])


def test_recordings_in_a_folder_s_folders_are_said_to_be_left_out(tmp_path, capsys):
    for name in ("a.wav", "more/b.wav", "more/c.wav", "d/e/f.mp3", ".kept/g.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d" / "notes.txt").touch()
    assert tape.files([tmp_path]) == [tmp_path / "a.wav"]
    assert capsys.readouterr().err == (
        f"{tmp_path}: 3 recordings in {tmp_path / 'd/e'}, {tmp_path / 'more'} not "
        "read: name such folders with --tape\n"
    )
    with pytest.raises(KwsError, match=r"beside them \(not 1 recording in ") as caught:
        tape.files([tmp_path / "d"])
    assert caught.value.hint == f"--tape {tmp_path / 'd/e'}"
    assert tape.files([tmp_path / "d/e"]) and not capsys.readouterr().err


def test_a_tape_of_keywords_alone_is_said_to_be_one(tmp_path):
    corpus = small_corpus.make(tmp_path / "audio", ("yes", "no"))
    words = ["tape", "--out", str(tmp_path / "a.wav"), "--data", str(corpus)]
    audio.say.cache_clear()
    done = CliRunner().invoke(command, [*words, "--words", "yes,no", "--seconds", "30"])
    assert "No clips of other words for val: keywords alone are laid" in done.stderr


def kws_data(*arguments: object) -> dict:
    done = CliRunner().invoke(command, [*map(str, arguments), "--json"])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def ambient(folder: Path) -> Path:
    """Half a minute each of two kinds: 80, 10 and 10 % for the splits."""
    for kind, seed in (("noise", 1), ("music", 2)):
        rng = np.random.default_rng(seed)
        pcm = rng.integers(-999, 999, 60 * 16000).astype(np.int16)
        (folder / kind).mkdir(parents=True)
        (folder / kind / "long.wav").write_bytes(tape.wav_bytes(pcm))
    return folder


def test_the_command_makes_equal_files_of_equal_options(tmp_path):
    corpus = small_corpus.make(tmp_path / "audio", ("yes", "no", "cat", "dog"))
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        facts = kws_data(
            *("tape", "--out", tmp_path / f"{name}.wav", "--data", corpus),
            *("--words", "yes,no", "--seconds", 60, "--seed", seed),
            *("--keywords-per-minute", 6, "--unknown-per-minute", 4),
            *("--reverberation", "0.2,0.5"),
        )
        assert (facts["kind"], facts["words"], facts["split"]) == ("words", 6, "val")
        made[name] = [
            hashlib.sha256((tmp_path / f"{name}{end}").read_bytes()).hexdigest()
            for end in (".wav", ".tsv", ".tape.json")
        ]
    assert made["a"] == made["b"] and made["a"][0] != made["c"][0]
    read = tape.open_tape(tmp_path / "a.wav")
    assert {w.word for w in read.windows} <= {"yes", "no"}
    assert {w.word for w in read.said} - {"yes", "no"} <= {"cat", "dog"}
    assert {w.clip.split("/")[1][:8] for w in read.windows} <= set(
        small_corpus.SPEAKERS["val"]
    )
    assert read.made["reverberation_s"] == [0.2, 0.5]
    options = ["--words", "yes,no", "--seconds", 60, "--data", corpus]
    (tmp_path / "kitchen.tsv").write_text("1\t2\tan evening's work\n")
    before = [(p, p.stat().st_mtime_ns) for p in sorted(tmp_path.iterdir())]
    for name in ("a", "kitchen"):  # of other options; with a truth by hand
        with pytest.raises(KwsError, match="something else already") as caught:
            kws_data("tape", "--out", tmp_path / f"{name}.wav", *options)
        assert f"--out {tmp_path / name}-new.wav" in caught.value.hint
    assert [(p, p.stat().st_mtime_ns) for p in sorted(tmp_path.iterdir())] == before


def test_what_is_too_short_for_a_bed_is_none_and_not_called_one(tmp_path):
    corpus = small_corpus.make(tmp_path / "audio")
    rng = np.random.default_rng(2)
    for number in range(40):  # a tenth of them for val
        path = tmp_path / "around" / "speech" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio.wav_bytes(rng.integers(-9, 9, 16000).astype(np.int16)))
    words = ["tape", "--data", corpus, "--words", "yes,no", "--seconds", 30, "--out"]
    around = ["--ambient", tmp_path / "around"]
    with pytest.raises(KwsError, match="2 s or more. Received: .* of them shorter"):
        kws_data(*words, tmp_path / "a.wav", *around)
    ambient(tmp_path / "other")
    audio.say.cache_clear()
    line = [*words, tmp_path / "a.wav", *around, "--ambient", tmp_path / "other"]
    done = CliRunner().invoke(command, [str(word) for word in line])
    assert "recordings are shorter than 2 s, and no bed" in done.stderr
    assert tape.open_tape(tmp_path / "a.wav").made["bed"] == "music and noise"


def test_the_command_lays_words_on_ambient_sound_or_takes_it_alone(tmp_path):
    corpus = small_corpus.make(tmp_path / "audio")
    sound = ambient(tmp_path / "ambient")
    facts = kws_data(
        *("tape", "--out", tmp_path / "alone.wav", "--ambient", sound),
        *("--kind", "music", "--no-words"),
    )
    assert facts["kind"] == "music" and facts["words"] == 0
    alone = tape.open_tape(tmp_path / "alone.wav").pcm
    rng = np.random.default_rng(2)
    long = rng.integers(-999, 999, 60 * 16000).astype(np.int16)
    assert np.array_equal(alone, long[int(0.8 * len(long)) : int(0.9 * len(long))])
    kws_data(
        *("tape", "--out", tmp_path / "bed.wav", "--data", corpus, "--seconds", 30),
        *("--words", "yes,no", "--ambient", sound, "--kind", "noise"),
        *("--unknown-per-minute", 0, "--bed-dbfs", -30),
    )
    made = tape.open_tape(tmp_path / "bed.wav")
    before = made.pcm[: int(made.windows[0].start_s * 16000)].astype(float)
    level = 20 * np.log10(np.sqrt(np.mean(before**2)) / 32768)
    assert level == pytest.approx(-30, abs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no-words",), "Expected --ambient"),
        (("--kind", "music"), "Expected --ambient"),
        (("--ambient", "AMBIENT", "--kind", "talk"), "one of music, noise"),
        (("--ambient", "AMBIENT", "--no-words"), "one kind of sound"),
        (("--snr-db", "25,5"), "expected LOW,HIGH"),
        (("--snr-db", "quiet"), "expected LOW,HIGH"),
        (("--snr-db", "-inf,3"), "expected LOW,HIGH"),
        (("--reverberation", "-1,2"), "expected LOW,HIGH within 0.01 to 10"),
        (("--seconds", "nan"), "expected a number"),
        (("--keywords-per-minute", "-3"), "not in the range"),
        (("--keywords-per-minute", "inf"), "expected a number"),
        (("--bed-dbfs", "40"), "not in the range"),
        (("--words", "yes", "--task", "gsc12"), "a task of its own"),
        (
            ("--ambient", "AMBIENT", "--no-words", "--seed", "3", "--snr-db", "1,2"),
            "Received: --seed, --snr-db",
        ),
        (("--out", "tape.mp3"), "A tape is a .wav"),
    ],
)
def test_mistakes_in_making_tapes_are_told(options, message, tmp_path):
    sound = str(ambient(tmp_path / "ambient"))
    options = [sound if option == "AMBIENT" else option for option in options]
    arguments = ["tape", "--out", str(tmp_path / "t.wav"), *options]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code
    assert message in f"{getattr(done.exception, 'message', '')}{done.output}"
    assert not (tmp_path / "t.wav").exists()


def test_a_tape_of_the_shared_speech_knows_what_is_said(tmp_path):
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "ambient"
    folder = Path(os.environ.get("KWS_AMBIENT", folder))
    if not (folder / "index.tsv").is_file():
        pytest.skip(f"no shared ambient sound in {folder}")
    facts = kws_data(
        *("tape", "--out", tmp_path / "speech.wav", "--ambient", folder),
        *("--kind", "speech", "--no-words", "--seconds", 60),
    )
    assert facts["hours"] == pytest.approx(1 / 60)
    assert len(tape.open_tape(tmp_path / "speech.wav").said) > 3


def check_loudness(made: tape.Tape, noise_dbfs: float) -> None:
    """That words are as much louder than the bed as their windows say."""
    bed = 32768 * 10 ** (noise_dbfs / 20)
    for window in made.windows:
        start, end = int(window.start_s * 16000), int(window.end_s * 16000)
        heard = np.mean(made.pcm[start:end].astype(float) ** 2)
        over_db = 10 * np.log10(heard / bed**2 - 1)
        assert window.snr_db == pytest.approx(over_db, abs=0.6)


def test_the_loudness_of_a_word_is_the_one_that_it_was_laid_with():
    """On a loud bed a word can't be 25 dB over it: before, that was told all the same,
    and misses were counted as those of loud words."""
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 60, snr_db=(20.0, 25.0), noise_dbfs=-20.0)
    check_loudness(made, -20)


def test_no_word_is_clipped_on_a_loud_bed(capsys):
    """Speech has peaks: with --bed-dbfs -30 and a root mean square of 9000, 44 % of
    its clips were clipped."""
    pcm, label = clips()
    peaky = pcm.copy()
    peaky[:, 8000:8004] = [[0], [32000], [32000], [-32000]]
    peaky[1:] //= 2
    options = {"seconds": 60, "snr_db": (10.0, 25.0)}
    audio.say.cache_clear()
    made = tape.build(peaky, label, LABELS, [], noise_dbfs=-30.0, **options)
    assert np.abs(made.pcm.astype(int)).max() == 32767
    assert (np.abs(made.pcm.astype(int)) >= 32767).sum() <= len(made.said)
    assert "words are laid softer than was drawn" in capsys.readouterr().err
    check_loudness(made, -30)
    # On a bed that is clipped itself words are still heard, and the loudness is told.
    made = tape.build(peaky, label, LABELS, [], noise_dbfs=-3.0, **options)
    assert all(-40 < window.snr_db < 10 for window in made.windows)
    # As before where nothing was clipped.
    tape.build(peaky, label, LABELS, [], noise_dbfs=-60.0, **options)
    assert "-60 dBFS" not in capsys.readouterr().err


def test_a_bed_of_pieces_of_a_second_is_as_loud_as_was_asked_for():
    """They lay over each other for half a second, and were not faded: 3 dB more."""
    noise = np.random.default_rng(3).normal(0, 300, 16000).astype(np.int16)
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [noise] * 2, 60, 1, 0, 0)
    level = 20 * np.log10(np.sqrt(np.mean(made.pcm.astype(float) ** 2)) / 32768)
    assert level == pytest.approx(-45, abs=0.3)


def test_saving_and_opening_gives_the_same_tape(tmp_path):
    pcm, label = clips()
    made = tape.build(pcm, label, LABELS, [], 30)
    tape.save(made, tmp_path / "t.wav")
    read = tape.open_tape(tmp_path / "t.wav")
    assert np.array_equal(read.pcm, made.pcm)
    assert [w.word for w in read.windows] == [w.word for w in made.windows]
    assert read.windows[0].start_s == pytest.approx(made.windows[0].start_s, abs=1e-4)
    json_truth = tmp_path / "t.json"
    json_truth.write_text('[{"word": "yes", "start_s": 1, "end_s": 1.5}]')
    assert tape.read_windows(json_truth) == [Window("yes", 1.0, 1.5)]


def test_a_word_that_the_truth_has_twice_counts_once(tmp_path, capsys):
    """The second one was a miss."""
    lines = ["start_s\tend_s\tword", "1.0\t1.5\tyes", "2\t2.5\tno"]
    path = tmp_path / "t.tsv"
    path.write_text("\n".join([*lines, "1.00\t1.50\tYes", "2\t2.5\tup"]) + "\n")
    found = tape.read_windows(path)
    assert [w.word.lower() for w in found] == ["yes", "no", "up"]
    assert f"{path}: 1 entry says the same word" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(BAD.glob("truth_*.tsv")), ids=lambda p: p.stem)
def test_broken_truth_is_refused(file):
    with pytest.raises(KwsError, match="broken at entry 1"):
        tape.read_windows(file)


WINDOWS = [Window("yes", 10.0, 10.5), Window("no", 20.0, 20.5), Window("yes", 30, 30.5)]


@pytest.mark.parametrize(
    ("events", "hits", "misses", "false_alarms"),
    [
        ([], 0, 3, 0),
        ([("yes", 10.4), ("no", 21.4), ("yes", 31.5)], 3, 0, 0),
        ([("yes", 9.99)], 0, 3, 1),  # before it was said
        ([("yes", 11.51)], 0, 3, 1),  # too late
        ([("no", 10.4)], 0, 3, 1),  # another word
        ([("yes", 10.2), ("yes", 11.1)], 1, 2, 0),  # a repeat within 1 s
        ([("yes", 10.1), ("yes", 11.4)], 1, 2, 1),  # a second event, later
        ([("maybe", 50.0)], 0, 3, 1),
        ([("yes", 50.0 + 0.9 * k) for k in range(10)], 0, 3, 5),  # stuck: not one
    ],
)
def test_scoring(events, hits, misses, false_alarms):
    score = tape.score(events[::-1], WINDOWS, hours=2.0)
    assert (score.hits, score.misses, score.false_alarms) == (
        hits,
        misses,
        false_alarms,
    )
    assert score.false_alarms_per_hour == false_alarms / 2


def test_a_word_said_twice_in_a_second_can_be_heard_twice():
    windows = [Window("yes", 1.0, 1.3), Window("yes", 1.5, 1.8)]
    score = tape.score([("yes", 1.4), ("yes", 1.9)], windows, 1.0)
    assert (score.hits, score.misses, score.false_alarms) == (2, 0, 0)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [  # Garwood 1936, as tabulated (for example Ulm 1990)
        (0, 0.0, 3.689),
        (1, 0.0253, 5.572),
        (2, 0.2422, 7.225),
        (5, 1.6235, 11.668),
        (10, 4.7954, 18.390),
        (100, 81.364, 121.627),
    ],
)
def test_the_poisson_interval_is_the_tabulated_one(count, low, high):
    assert intervals.poisson_interval(count) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 1000, 20_000])
def test_the_poisson_interval_leaves_a_fortieth_on_either_side(count):
    def at_most(most, mean):
        """P(X <= most), term by term, in sixty digits."""
        term = total = Decimal(1)
        for k in range(1, most + 1):
            term *= mean / k
            total += term
        return total * (-mean).exp()

    with localcontext(prec=60):
        low, high = map(Decimal, intervals.poisson_interval(count))
        assert float(at_most(count, high)) == pytest.approx(0.025, rel=1e-9)
        if count:
            assert float(1 - at_most(count - 1, low)) == pytest.approx(0.025, rel=1e-9)
        else:
            assert low == 0


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [  # found by 200 bisections of the whole sum, as earlier versions did
        (3, 0.6186721228956011, 8.767273069742323),
        (50, 37.110963737461404, 65.91876666433674),
        (999, 938.0040185616904, 1062.9211512248871),
    ],
)
def test_the_poisson_interval_is_that_of_earlier_versions(count, low, high):
    assert intervals.poisson_interval(count) == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize("count", [0, 1, 7, 50, 999])
def test_the_poisson_interval_is_scipys(count):
    stats = pytest.importorskip("scipy.stats")
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
    assert intervals.poisson_interval(count) == pytest.approx((low, high), rel=1e-9)


def test_no_false_alarm_still_has_an_upper_bound():
    score = tape.score([], WINDOWS, hours=2.0)
    assert score.false_alarms_per_hour_ci95 == pytest.approx((0, 3.689 / 2), abs=1e-3)
    assert math.isclose(score.miss_rate, 1.0)
