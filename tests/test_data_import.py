"""`kws data import`: takes of any kind become clips, and a page shows which."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from pathlib import Path

import browser
import numpy as np
import pytest
import small_corpus
import soundfile
import toolbox
from click.testing import CliRunner

from kws import data
from kws.cli import cli
from kws.cli import data as verb
from kws.data import audio, synth, takes
from kws.data.verify import verify
from kws.data.voices import espeak
from kws.errors import KwsError
from kws.recipe import Task

RATE = 16000


@pytest.fixture(scope="module")
def speaker():
    toolbox.need_espeak()
    return espeak.start()


def said(speaker, word: str, pitch: int = 50, voice: int = 3) -> np.ndarray:
    """A word by a synthesizer, root mean square 0.05."""
    name = espeak.of_accents()[voice]
    sound = synth._trim(synth._say(speaker, word, name, pitch, 150))
    return sound * (0.05 / np.sqrt(np.mean(sound**2)))


def take(*sounds: np.ndarray, noise_db: float = -45.0, pause: float = 0.6):
    """Sounds with pauses between, in pink noise; and where they are, in seconds."""
    rng = np.random.Generator(np.random.PCG64(5))
    parts, places, at = [np.zeros(RATE // 2)], [], RATE // 2
    for sound in sounds:
        places.append((at / RATE, (at + len(sound)) / RATE))
        parts += [sound, np.zeros(int(rng.uniform(pause, 2 * pause) * RATE))]
        at += len(sound) + len(parts[-1])
    whole = np.concatenate(parts)
    noise = synth._pink(rng, len(whole)) * 10 ** (noise_db / 20)
    return whole + noise, places


def resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return soxr.resample(sound, RATE, rate)


def write(path: Path, sound: np.ndarray, rate: int = RATE, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **how)
    return path


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("noise_db", [-70, -50, -38])
@pytest.mark.parametrize("word", ["stop", "hey robot", "six"])
def test_a_take_of_ten_repetitions_is_ten_clips(word, noise_db, speaker, tmp_path):
    sounds = [said(speaker, word, 40 + 2 * n) for n in range(10)]
    whole, places = take(*sounds, noise_db=noise_db)
    stereo = np.stack([resampled(whole, 44100)] * 2, axis=1)
    root = tmp_path / "anna"
    write(root / word / "take 1.wav", stereo, 44100, subtype="FLOAT")
    done = takes.make([root], tmp_path / "out")
    assert done.made == 10 and done.words[word]["left_out"] == 0
    assert done.converted == {"44,100 Hz stereo float": 1}
    for piece, (start, stop) in zip(done.pieces, places, strict=True):
        assert abs(piece.start_s - start) < 0.2 and abs(piece.stop_s - stop) < 0.2
        pcm = audio.read(tmp_path / "out" / piece.name).pcm.astype(float)
        assert len(pcm) == RATE
        loud = np.flatnonzero(np.abs(pcm) > 0.2 * np.abs(pcm).max())
        assert loud[0] > 2000 and loud[-1] < 14000  # whole, and in the middle
        # With the former resampler of voices one *six* lay 27 samples nearer.
        assert abs((loud[0] + loud[-1]) / 2 - 8000) < 1750
        first, last = loud[0], loud[-1]
        level = 10 * np.log10(np.mean((pcm[first:last] / 32768) ** 2))
        assert -27 < level < -15 and np.abs(pcm).max() < 30000
    assert verify(tmp_path / "out")[1] == []


def test_recordings_of_all_kinds_make_one_corpus_that_trains(
    speaker, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    formats = {
        "a.flac": (48000, {}),
        "b.mp3": (44100, {}),
        "c.ogg": (22050, {}),
        "d.WAV": (8000, {"format": "WAV", "subtype": "ULAW"}),
        "e.aiff": (96000, {"subtype": "PCM_24"}),
    }
    for person, voice in (("anna", 3), ("ben", 11)):
        for word in ("stop", "left"):
            for n, (name, (rate, how)) in enumerate(formats.items()):
                sounds = [said(speaker, word, 40 + n, voice) for _ in range(2)]
                sound = resampled(take(*sounds)[0], rate)
                write(tmp_path / person / word / name, sound, rate, **how)
    hum = np.random.default_rng(0).normal(0, 0.05, 12 * 44100)
    write(tmp_path / "anna" / "background_noise" / "kitchen.ogg", hum, 44100)
    out = tmp_path / "corpus"
    done = takes.make([tmp_path / "anna", tmp_path / "ben"], out)
    assert done.speakers == dict.fromkeys(
        ("anna", "ben"), "from the folder that holds the words'"
    )
    assert {w: row["clips"] for w, row in done.words.items()} == {
        "left": 20,
        "stop": 20,
    }
    assert done.made == 41 and verify(out)[1] == []
    names = {path.name.split("_nohash_")[0] for path in (out / "stop").iterdir()}
    assert names == {"anna", "ben"}
    task = Task("custom", words=("stop", "left"))
    for split, each in (("train", 16), ("val", 2), ("test", 2)):
        clips = data.load(split, task, out)
        count = Counter(clips.labels[i] for i in clips.label)
        assert count["stop"] == count["left"] == each
    assert len(data.noise_bank(out)[0]) > 9 * RATE


def test_nobody_speaks_in_a_noise(speaker, tmp_path):
    """Of a corpus that was imported anew, its folder was told as a speaker."""
    file = tmp_path / "corpus" / "stop" / "anna_nohash_0.wav"
    write(file, take(said(speaker, "stop"))[0])
    noise = np.random.default_rng(0).normal(0, 0.05, 12 * RATE)
    write(tmp_path / "corpus" / "_background_noise_" / "kitchen.wav", noise)
    done = takes.make([tmp_path / "corpus"], tmp_path / "out")
    assert list(done.speakers) == ["anna"]


def test_what_is_left_out_says_why(speaker, tmp_path):
    rng = np.random.default_rng(1)
    word = said(speaker, "stop")
    sentence = said(speaker, "this is a long sentence for sure")
    click = rng.normal(0, 0.3, 300)
    sounds = (word, word * 1.1, sentence, click, word * 0.9, word * 0.1)
    whole, _ = take(*sounds, noise_db=-70)
    root = tmp_path / "anna"
    write(root / "stop" / "1.wav", whole)
    write(root / "stop" / "2.wav", rng.normal(0, 0.01, 3 * RATE))
    write(root / "stop" / "3.wav", np.clip(take(word)[0] * 60, -1, 1))
    shutil.copy(root / "stop" / "1.wav", root / "stop" / "4.wav")
    write(root / "stop" / "5.wav", take(word)[0] * 1e-3, subtype="FLOAT")
    (root / "stop" / "6.wav").write_bytes(b"not audio")
    (root / "stop" / "notes.docx").write_bytes(b"?")
    done = takes.make([root], tmp_path / "out")
    problems = [(p.take.file.name, p.problem) for p in done.pieces if p.problem]
    expected = [
        ("1.wav", "s of sound without a pause"),
        ("1.wav", "a click, too short"),
        ("1.wav", "quieter than the other words"),
        ("2.wav", "no word stands out"),
        ("3.wav", "clipped: "),
        *[("4.wav", f"the same as stop/anna_nohash_{n}.wav") for n in range(3)],
        ("4.wav", "s of sound without a pause"),
        ("4.wav", "a click, too short"),
        ("4.wav", "quieter than the other words"),
        ("5.wav", "too quiet: "),
    ]
    assert len(problems) == len(expected)
    for name, why in expected:
        found = [p for p in problems if p[0] == name and why in p[1]]
        assert found, (name, why, problems)
    assert [f.name for f in done.unreadable] == ["6.wav"]
    assert [f.name for f in done.strays] == ["notes.docx"]
    page = (tmp_path / "out" / takes.SHEET).read_text()
    for _, why in problems:
        assert why in page
    assert "Every clip is 1 s long" in page
    assert done.words["stop"]["clips"] == 3


def test_of_two_sounds_the_longer_and_louder_is_the_word(tmp_path):
    """A breath or a key beside one word is half of the sounds of its recording."""
    tone = small_corpus.tone(500, 9000, 9000) / 32768
    write(tmp_path / "a" / "stop" / "1.wav", take(tone, tone * 0.1, noise_db=-80)[0])
    write(tmp_path / "a" / "stop" / "2.wav", take(tone[:2500], tone, noise_db=-80)[0])
    done = takes.make([tmp_path / "a"], tmp_path / "out")
    problems = [piece.problem for piece in done.pieces]
    assert ["quieter" in p or "shorter" in p for p in problems] == [
        *(False, True),
        *(True, False),
    ]


def test_the_words_of_a_phrase_stay_together(tmp_path):
    tone = small_corpus.tone(500, 3500, 9000) / 32768
    phrase = np.concatenate([tone, np.zeros(5800), tone])  # 0.36 s between
    for word in ("hey robot", "robot"):
        root = tmp_path / word
        write(root / word.replace(" ", "_") / "1.wav", take(phrase, phrase)[0])
        done = takes.make([root], tmp_path / f"{word}-out")
        assert done.words[word]["clips"] == (2 if " " in word else 4)


def test_an_import_is_deterministic_and_not_made_again(speaker, tmp_path):
    root = tmp_path / "anna"
    write(root / "stop" / "1.wav", take(*[said(speaker, "stop")] * 2)[0])
    out = tmp_path / "out"
    assert takes.make([root], out).made == 2
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = takes.make([root], out)
    assert again.made == 0 and again.words == {
        "stop": {"recordings": 1, "clips": 2, "left_out": 0}
    }
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    kept = tree(out)
    shutil.rmtree(out)
    takes.make([root], out)
    assert tree(out) == kept


def test_new_recordings_are_taken_up_but_nothing_of_yours_is_overwritten(
    speaker, tmp_path
):
    root, out = tmp_path / "anna", tmp_path / "out"
    write(root / "stop" / "1.wav", take(said(speaker, "stop"))[0])
    takes.make([root], out)
    write(root / "stop" / "2.wav", take(said(speaker, "stop", 60))[0])
    assert takes.make([root], out).made == 2
    assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []
    # A clip that somebody took out stays out, and the folder stays as it is.
    (out / "stop" / "anna_nohash_0.wav").unlink()
    kept = tree(out)
    assert takes.make([root], out).made == 0
    write(root / "stop" / "3.wav", take(said(speaker, "stop", 40))[0])
    with pytest.raises(KwsError, match="changed by hand: stop/anna_nohash_0.wav"):
        takes.make([root], out)
    assert tree(out) == kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    with pytest.raises(KwsError, match="in use"):
        takes.make([root], tmp_path / "mine")
    with pytest.raises(KwsError, match="in use"):
        takes.make([root], tmp_path / "mine" / "file")
    assert tree(tmp_path / "mine") == tree(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "keep"


def test_a_link_to_a_folder_is_written_through(tmp_path):
    """After all the work: Is a directory; and a hidden folder stayed."""
    root, real, link = tmp_path / "anna", tmp_path / "on" / "real", tmp_path / "link"
    write(root / "stop" / "1.wav", small_corpus.tone(500, 6000, 9000))
    real.mkdir(parents=True)
    link.symlink_to(real)
    assert takes.make([root], link).made == 1
    write(root / "stop" / "2.wav", small_corpus.tone(700, 6000, 9000))
    assert takes.make([root], link).made == 2
    assert takes.make([root], real).made == 0
    assert link.is_symlink() and len(list(real.glob("stop/*.wav"))) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anna", "link", "on"]
    assert list(real.parent.iterdir()) == [real]
    # Where it can't be put in place, nothing else is left.
    (tmp_path / "building").mkdir()
    with pytest.raises(OSError, match="directory"):
        takes._put(tmp_path / "building", link)
    assert len(list(tmp_path.iterdir())) == 4 and len(list(real.iterdir())) == 3


def test_a_short_recording_is_one_clip_with_its_sound_in_the_middle(tmp_path):
    tone = np.zeros(12000)
    tone[:5000] = small_corpus.tone(500, 5000, 9000) / 32768
    root = tmp_path / "anna"
    write(root / "stop" / "1.wav", tone)
    write(root / "stop" / "2.wav", tone[1000:4000])  # cut tightly: no pause in it
    done = takes.make([root], tmp_path / "out")
    assert done.made == 2
    for piece in done.pieces:
        pcm = audio.read(tmp_path / "out" / piece.name).pcm.astype(float)
        energy = np.cumsum(pcm**2) / np.sum(pcm**2)
        assert abs(np.searchsorted(energy, 0.5) - 8000) < 400


def test_a_click_is_no_word_however_short_its_recording_is(tmp_path):
    """One of a single sample became a clip."""
    rng = np.random.default_rng(0)
    click, root = rng.normal(0, 0.2, 160), tmp_path / "anna"
    write(root / "stop" / "1.wav", click[:1])
    write(root / "stop" / "2.wav", click)
    write(root / "stop" / "3.wav", np.concatenate([np.zeros(6000), click] * 2))
    write(root / "stop" / "4.wav", small_corpus.tone(500, 6000, 9000))
    # A tightly cut word with a burst before it.
    word = small_corpus.tone(500, 6000, 3000) / 32768
    write(root / "stop" / "5.wav", np.concatenate([rng.normal(0, 0.4, 300), word]))
    done = takes.make([root], tmp_path / "out")
    assert [(p.take.file.name, p.problem) for p in done.pieces] == [
        ("1.wav", "a click, too short for a word"),
        ("2.wav", "a click, too short for a word"),
        ("3.wav", "a click, too short for a word"),
        ("3.wav", "a click, too short for a word"),
        ("4.wav", ""),
        ("5.wav", ""),
    ]
    assert done.made == 2


def test_the_room_goes_on_where_the_neighbours_were(tmp_path):
    """A clip beside digital zeros, or with the next word's beginning, teaches those."""
    rng = np.random.default_rng(2)
    tone = small_corpus.tone(500, 5000, 9000) / 32768
    pause = np.zeros(6000)
    whole = np.concatenate([pause, *[tone, pause] * 4]) + rng.normal(0, 1e-3, 50000)
    write(tmp_path / "anna" / "stop" / "1.wav", whole)
    done = takes.make([tmp_path / "anna"], tmp_path / "out")
    assert done.made == 4
    for piece in done.pieces:
        pcm = audio.read(tmp_path / "out" / piece.name).pcm.astype(float)
        loud = np.abs(pcm) > 0.3 * np.abs(pcm).max()
        assert (
            not loud[:4500].any() and not loud[-4500:].any() and loud[6000:10000].any()
        )
        frames = np.sqrt(np.mean(pcm.reshape(-1, 400) ** 2, axis=1))
        assert frames[:10].min() / np.median(frames[:10]) > 0.4


def test_who_speaks_is_told_by_name_by_folder_or_by_option(tmp_path):
    tone = small_corpus.tone(500, 6000, 9000)
    root = tmp_path / "words"
    for n, name in enumerate(
        ("yes/cleo_nohash_4.wav", "yes/dan/x.wav", "yes/plain.wav")
    ):
        write(root / name, tone + n)
    _, who, _ = takes.find([root])
    assert who == {
        "cleo": "from the names of the recordings",
        "dan": "from the folder within the word's",
        "words": "from the folder that holds the words'",
    }
    _, who, _ = takes.find([root], "Zoë B_1")
    assert who == {"Zoë-B-1": "given by --speaker"}
    done = takes.make([root], tmp_path / "out", "Zoë B_1")
    assert {p.name for p in done.pieces} == {
        f"yes/Zoë-B-1_nohash_{n}.wav" for n in range(3)
    }
    assert verify(tmp_path / "out")[1] == []
    # A word's folder by itself; the same word in two spellings.
    write(tmp_path / "Yes" / "x.wav", tone + 7)
    found, _, _ = takes.find([root, tmp_path / "Yes"])
    assert {t.word for t in found} == {"yes"}


def test_what_cannot_be_imported_is_refused_and_leaves_nothing(tmp_path):
    tone = small_corpus.tone(500, 6000, 9000)
    root = tmp_path / "words"
    with pytest.raises(KwsError, match="no such folder"):
        takes.find([root])
    (root / "yes").mkdir(parents=True)
    with pytest.raises(KwsError, match="No recordings found"):
        takes.find([root])
    write(root / "yes" / "x.wav", tone)
    with pytest.raises(KwsError, match="That is a file"):
        takes.find([root / "yes" / "x.wav"])
    with pytest.raises(KwsError, match="inside what is imported") as error:
        takes.make([root], root / "corpus")
    assert "kws data import" in error.value.hint
    write(root / "loose.wav", tone)
    with pytest.raises(KwsError, match="loose.wav and yes"):
        takes.find([root])
    (root / "loose.wav").unlink()
    (root / "yes").rename(root / "(yes)")
    with pytest.raises(KwsError, match="name is the word"):
        takes.find([root])
    (root / "(yes)").rename(root / "_silence_")
    with pytest.raises(KwsError, match="_background_noise_ or _unknown_"):
        takes.find([root])
    (root / "_silence_").rename(root / "yes")
    write(root / "yes" / "x.wav", np.zeros(3 * RATE))
    with pytest.raises(KwsError, match="No clip could be taken") as error:
        takes.make([root], tmp_path / "out")
    assert error.value.exit_code == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["words"]


def test_a_folder_of_peoples_folders_is_no_folder_of_words(tmp_path):
    tone = small_corpus.tone(500, 6000, 9000)
    for name in (
        "anna b/yes/1.wav",
        "anna b/_background_noise_/1.wav",
        "ben/yes/1.wav",
    ):
        write(tmp_path / name, tone)
    with pytest.raises(KwsError, match="folders of people") as told:
        takes.find([tmp_path])
    named = shlex.split(told.value.hint)[3:-2]
    assert named == [str(tmp_path / name) for name in ("anna b", "ben")]
    found = takes.find([Path(name) for name in named])[0]
    assert {take.word for take in found} == {"yes", takes.NOISE}


@pytest.fixture
def imported(tmp_path):
    """A corpus with odd names, and something left out."""
    tone = small_corpus.tone(500, 6000, 9000) / 32768
    root = tmp_path / "re cord"
    for word in ("yes", "für"):
        for n in range(3):
            write(root / word / f"<b>{n} & #.wav", take(tone * (1 + n / 9))[0])
    write(root / "yes" / "still.wav", np.zeros(2 * RATE))
    if os.name != "nt":
        odd = root / "yes" / os.fsdecode(b"gr\xfc\xdfe.wav")
        shutil.copy(root / "yes" / "still.wav", odd)
    out = tmp_path / "corpus"
    return out, takes.make([root], out)


def test_the_page_needs_nothing_but_itself_and_the_audio(imported):
    out, done = imported
    page = (out / takes.SHEET).read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "@import" not in page
    assert page.count("<svg") == page.count("<audio") == len(done.pieces) == 8
    for source in re.findall(r'src="([^"]+)"', page):
        way = urllib.parse.unquote(source.split("#t=")[0], errors="surrogateescape")
        assert (out / way).is_file(), way
    assert "&lt;b&gt;0 &amp; #.wav" in page and "<b>0" not in page
    assert "prefers-color-scheme: dark" in page and "viewport" in page


def test_the_page_fits_a_phone(imported, tmp_path):
    chromium = browser.chromium()
    out, _ = imported
    measure = (
        "<script>onload = () => document.title = 'wide '"
        " + document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    )
    frame = tmp_path / "phone.html"
    page = (out / takes.SHEET).read_text(encoding="utf-8").replace("</body>", measure)
    (out / "phone.html").write_text(page, encoding="utf-8")
    frame.write_text("")
    run = subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"),
            *("--virtual-time-budget=2000", "--dump-dom"),
            (out / "phone.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>wide (\d+) of (\d+)", run.stdout)
    assert found, run.stderr[-500:]
    assert int(found[1]) <= int(found[2]) <= 500


def test_the_verb_tells_words_speakers_and_what_is_missing(
    speaker, tmp_path, monkeypatch
):
    root, out = tmp_path / "anna", tmp_path / "out"
    words = [said(speaker, "stop", pitch) for pitch in (30, 45, 55, 70)]
    write(root / "stop" / "1.wav", resampled(take(*words)[0], 48000), 48000)
    arguments = ["import", str(root), "--out", str(out)]
    audio.say.cache_clear()
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "speaker anna, from the folder that holds the words'" in result.stderr
    assert "converted 48,000 Hz mono 16-bit to 16 kHz mono: 1" in result.stderr
    # Four are few: spoken ones are put beside them, and they are taken eight times.
    monkeypatch.chdir(tmp_path)
    speaks, trains = result.stdout.rpartition("Next: ")[2].strip().split(" && ")
    shorter = ["--clips-per-word", "10", "--unknown", "10", "--voices", "espeak"]
    spoken = CliRunner().invoke(cli, [*shlex.split(speaks)[1:], *shorter])
    assert spoken.exit_code == 0, spoken.output
    table = toolbox.begins_to_train(trains).splitlines()
    own = table.index(f"{out}  (each training clip 8 times)")
    assert table[own + 1].split() == ["stop", "16", "1", "1"]
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "already in" in result.stdout
    (root / "stop" / "2.wav").write_bytes(b"not audio")
    result = CliRunner().invoke(
        verb.command, [*arguments, "--json"], catch_exceptions=False
    )
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and report["made"] == 4
    assert report["words"] == {"stop": {"recordings": 1, "clips": 4, "left_out": 0}}
    assert list(report["unreadable"]) == [str(root / "stop" / "2.wav")]
    run = subprocess.run(
        [sys.executable, "-c", "from kws.cli import main; main()", "data", "import"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and "Missing argument" in run.stderr
