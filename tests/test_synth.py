"""Spoken corpora: same seed same files, held-out voices, audible words."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toolbox
from click.testing import CliRunner

from kws import data
from kws.cli import data as verb
from kws.data import audio, near, rooms, splits, synth, tape, voices
from kws.data.verify import verify
from kws.data.voices import common, espeak, flite
from kws.errors import KwsError
from kws.recipe import Task

WORDS = ("yes", "no", "hey robot")
PLAN = synth.Plan(WORDS, clips_per_word=20, unknown=30, seed=3)


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def speaker():
    toolbox.need_espeak()
    return espeak.start()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "corpus"
    assert synth.make(PLAN, out) == 3 * 20 + 30
    return out


def test_the_corpus_passes_verification(corpus):
    clips, faults = verify(corpus)
    assert clips == 90 + 6 and faults == []


def test_it_loads_as_a_custom_task(corpus):
    task = Task("custom", words=WORDS)
    sizes = {}
    for split in ("train", "val", "test"):
        clips = data.load(split, task, corpus)
        count = Counter(clips.labels[i] for i in clips.label)
        sizes[split] = [count[word] for word in WORDS]
        assert count["_silence_"] > 0 and count["_unknown_"] > 0
    assert sizes == {"train": [16] * 3, "val": [2] * 3, "test": [2] * 3}


def test_equal_plans_give_equal_files(corpus, tmp_path):
    synth.make(PLAN, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(corpus)


def test_another_seed_gives_other_voices_and_samples(corpus, tmp_path):
    other = synth.Plan(("yes",), 10, 0, seed=4)
    synth.make(other, tmp_path / "other")
    first = {n: h for n, h in tree(corpus).items() if n.startswith("yes/")}
    second = {n: h for n, h in tree(tmp_path / "other").items() if n.startswith("yes/")}
    assert set(first) != set(second)
    assert not set(first.values()) & set(second.values())


def test_the_lists_are_those_of_the_split_rule(corpus):
    listed = [
        splits.split_of(name)
        for file in ("validation", "testing")
        for name in (corpus / f"{file}_list.txt").read_text().split()
    ]
    assert Counter(listed)["train"] == 0 and len(set(listed)) == 2


def test_every_voice_is_in_one_split_in_every_corpus():
    voices = espeak.of_accents()
    assert len(voices) > 300
    assert len({v.id for v in voices}) == len({v.name for v in voices}) == len(voices)
    share = Counter(v.split for v in voices)
    assert min(share["val"], share["test"]) >= 30
    assert all(splits.split_of(v.id) == v.split for v in voices)


def test_every_voice_says_the_same_each_time():
    first, second = espeak.start(), espeak.start()
    if "library" not in first.version:
        pytest.skip("the command takes a process for each word")
    for voice in espeak.of_accents():
        said = first.say("hey", voice.name, 50, 190)
        assert len(said) > 1600, voice.name
        assert np.array_equal(said, second.say("hey", voice.name, 50, 190)), voice.name


def test_words_differ_from_each_other_and_stand_out_of_the_noise(corpus):
    spectra = {}
    for word in ("yes", "no"):
        files = sorted((corpus / word).glob("*.wav"))
        pcm = np.stack([audio.read(f).pcm for f in files]).astype(float)
        frames = pcm.reshape(len(files), 50, 320)
        loudness = 10 * np.log10(1 + (frames**2).mean(axis=2))
        assert np.median(loudness.max(axis=1) - loudness.min(axis=1)) > 12
        spectra[word] = np.abs(np.fft.rfft(pcm)).mean(axis=0)
    # The s of yes: far more above 4 kHz.
    high = {w: s[4000:].sum() / s[:4000].sum() for w, s in spectra.items()}
    assert high["yes"] > 1.5 * high["no"]


def test_words_are_as_loud_and_as_clean_as_people_s_recordings(corpus):
    """They were 8 dB too quiet, and all in noise: loud people were not heard."""
    clips = [
        audio.read(f).pcm.astype(float) for f in sorted(corpus.glob("*/*_nohash_*"))
    ]
    loud = [20 * np.log10(audio.loudest_second(pcm) / 32768) for pcm in clips]
    assert min(loud) < -30 and max(loud) > -15
    assert min(loud) > -37 and max(loud) < -9
    noise = [
        np.percentile(np.abs(pcm[:15840].reshape(-1, 160)).max(axis=1), 10)
        for pcm in clips
    ]
    assert 0.1 < np.mean(np.array(noise) < 2) < 0.5


def test_unknown_words_never_contain_a_keyword_but_do_its_parts():
    found = synth.unknown_words(("Seven", "hey robot"))
    assert found[:2] == ["hey", "robot"] and "seven" not in found
    assert len(found) > 25


def test_a_corpus_that_is_there_is_not_made_again(corpus):
    before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
    assert synth.make(PLAN, corpus) == 0
    assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*")} == before


def test_a_broken_record_is_no_corpus(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "old")
    (tmp_path / "old" / "corpus.json").write_text("[]")
    with pytest.raises(KwsError, match="in use"):
        synth.make(PLAN, tmp_path / "old")


def test_a_folder_in_use_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    with pytest.raises(KwsError, match="in use"):
        synth.make(PLAN, tmp_path / "mine")
    with pytest.raises(KwsError, match="in use"):  # another plan's corpus
        synth.make(synth.Plan(WORDS, 20, 30, seed=9), corpus)
    assert (tmp_path / "mine" / "file").read_text() == "keep"


@pytest.mark.parametrize(
    "word", ["supercalifragilisticexpialidocious and more of the same", "x" * 60]
)
def test_words_that_do_not_fit_are_refused_and_leave_nothing(word, tmp_path):
    with pytest.raises(KwsError):
        synth.make(synth.Plan((word,), 10, 0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_needs_clips_enough_for_its_splits(tmp_path):
    with pytest.raises(KwsError, match="10 to"):
        synth.make(synth.Plan(("yes",), 9, 0), tmp_path / "out")


def test_a_stream_has_its_words_where_the_truth_says():
    words = ["yes", "no", "hey robot", "yes"]
    pcm, windows = synth.spoken_stream(words, seed=5)
    again, _ = synth.spoken_stream(words, seed=5)
    assert np.array_equal(pcm, again)
    assert [w.word for w in windows] == words
    power = np.square(pcm.astype(float))
    spoken = np.zeros(len(pcm), bool)
    for window in windows:
        assert 0.05 < window.end_s - window.start_s <= 0.95
        spoken[round(window.start_s * 16000) : round(window.end_s * 16000)] = True
    assert power[spoken].mean() > 100 * power[~spoken].mean()
    assert np.abs(pcm.astype(int)).max() < 32767 and (~spoken).mean() > 0.5


def test_the_verb_writes_a_stream_and_its_truth(tmp_path):
    out = tmp_path / "stream.wav"
    arguments = ["synth", "--words", "yes,no", "--stream", str(out), "--json"]
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    read = tape.open_tape(out)
    assert [w.word for w in read.windows] == ["yes", "no"]
    assert [w["word"] for w in report["windows"]] == ["yes", "no"]
    # The same again is the same; nothing else is written over.
    before = tree(tmp_path)
    assert CliRunner().invoke(verb.command, arguments).exit_code == 0
    mine = tmp_path / "mine.tsv"
    mine.write_text("start_s\tend_s\tword\n1\t2\tmy work of an evening\n")
    before |= tree(tmp_path)
    for file, words in ((out, "no"), (mine.with_suffix(".wav"), "yes,no")):
        other = ["synth", "--words", words, "--stream", str(file)]
        refused = CliRunner().invoke(verb.command, other)
        assert isinstance(refused.exception, KwsError), refused.output
        assert f"--stream {file.with_stem(file.stem + '-new')}" in (
            refused.exception.hint
        )
    refused = CliRunner().invoke(verb.command, [*arguments[:-2], str(mine)])
    assert "A tape is a .wav" in str(refused.exception)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("engine", ["flite", "kokoro", "pico", "piper"])
def test_what_gets_a_voice_engine_is_said_in_one_pair_of_brackets(engine):
    hint = voices.get(engine).MEND
    line, bracket, remark = hint.partition("   (")
    assert line.split()[:2] in (["pip", "install"], ["apt-get", "install"])
    assert bracket and "(" not in remark and remark.endswith(")")


def test_the_verb_makes_a_corpus(tmp_path, monkeypatch):
    out = tmp_path / "c"
    base = ["synth", "--words", "up, down", "--clips-per-word", "10", "--unknown", "4"]
    result = CliRunner().invoke(
        verb.command, [*base, "--out", str(out), "--json"], catch_exceptions=False
    )
    assert json.loads(result.stdout)["made"] == 24
    assert len(list((out / "down").glob("*.wav"))) == 10
    monkeypatch.chdir(tmp_path)
    again = CliRunner().invoke(verb.command, [*base, "--out", str(out)])
    said = toolbox.begins_to_train(again.stdout.rpartition("Next: ")[2])
    assert f"\n{out}\n" in said


def test_the_verb_wants_one_of_out_and_stream(tmp_path):
    result = CliRunner().invoke(verb.command, ["synth", "--words", "yes"])
    assert isinstance(result.exception, KwsError)


def test_the_command_speaks_too():
    path = shutil.which("espeak-ng")
    if path is None:
        pytest.skip("no espeak-ng command")
    said = espeak._Command(path).say("yes", "en-us+f3", 50, 160)
    assert said.dtype == np.float32 and 4000 < len(said) < 32000
    assert 0.05 < np.abs(said).max() <= 1.01


def test_without_any_espeak_there_is_one_message(monkeypatch):
    def absent() -> None:
        raise ImportError

    monkeypatch.setattr(espeak, "_Library", absent)
    monkeypatch.setattr(espeak.shutil, "which", lambda _name: None)
    with pytest.raises(KwsError) as error:
        espeak.start()
    assert "espeakng-loader" in error.value.hint


def program(path: Path, voices: str, fault: str) -> str:
    """A synthesizer that tells its voices and its version, and fails at any text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"#!/bin/sh\ncase $1 in -lv) echo {voices};; --version) ;; *) {fault};; esac\n"
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("exec sleep 9", "no end of"), ("echo no >&2; exit 3", "exit code 3 .*no")],
)
def test_a_synthesizer_that_fails_is_named_and_leaves_nothing(
    fault, reason, monkeypatch, tmp_path
):
    path = program(tmp_path / "bin" / "flite", " ".join(flite.PITCH), fault)
    monkeypatch.setattr(flite, "command", lambda: path)
    monkeypatch.setattr(common, "LIMIT_S", 0.5)
    plan = synth.Plan(("up",), 10, 0, voices=("espeak", "flite"))
    with pytest.raises(KwsError, match=f"flite:.*{reason}") as error:
        synth.make(plan, tmp_path / "out")
    assert "--voices espeak" in error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
    broken = espeak._Command(program(tmp_path / "bin" / "espeak-ng", "", fault))
    monkeypatch.setattr(espeak, "start", lambda folder=None: broken)
    with pytest.raises(KwsError, match=f"can't speak.*{reason}") as error:
        synth.make(PLAN, tmp_path / "out")  # fails at the babble
    assert "espeakng-loader" in error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_flite_without_our_voices_is_refused(monkeypatch, tmp_path):
    """It would speak with another voice and say nothing."""
    path = program(tmp_path / "flite", "kal awb_time kal16 awb rms", "exit 0")
    monkeypatch.setattr(flite, "command", lambda: path)
    with pytest.raises(KwsError, match="without slt"):
        flite.start()


def test_flite_is_not_asked_for_letters_that_it_leaves_out(tmp_path):
    both = ("espeak", "flite")
    with pytest.raises(KwsError, match="Received: für") as error:
        synth.make(synth.Plan(("yes", "für"), 10, 0, voices=both), tmp_path / "out")
    assert "--voices espeak" in error.value.hint
    assert synth.make(synth.Plan(("yes", "für"), 10, 0), tmp_path / "out") == 20


def need_flite() -> None:
    if flite.command() is None:
        toolbox.skip_or_fail("flite is not installed")


def test_flite_speaks_half_of_the_training_clips(tmp_path):
    need_flite()
    plan = synth.Plan(("yes", "no"), 40, 20, seed=3, voices=("espeak", "flite"))
    assert synth.make(plan, tmp_path / "both") == 100
    ids = {}
    rng = np.random.default_rng(0)
    training = flite.voices(None, "train", "en", rng)
    for voice, _ in zip(training, range(100), strict=False):
        assert voice.id not in ids and splits.split_of(voice.id) == "train"
        ids[voice.id] = voice
    by_flite = {}
    for split in ("train", "val", "test"):
        clips = data.load(split, Task("custom", words=("yes", "no")), tmp_path / "both")
        names = [n for n in clips.names if n.startswith(("yes/", "no/"))]
        by_flite[split] = [n.split("/")[1].split("_")[0] in ids for n in names]
    assert len(by_flite["train"]) == 64 and sum(by_flite["train"]) == 32
    assert len(by_flite["val"]) == 8 and not any(by_flite["val"] + by_flite["test"])
    record = json.loads((tmp_path / "both" / "corpus.json").read_text())
    assert record["synthesizers"]["flite"].startswith("flite-")
    synth.make(plan, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "both")
    with pytest.raises(KwsError, match="in use"):
        synth.make(synth.Plan(("yes", "no"), 40, 20, seed=3), tmp_path / "both")


def test_flite_heeds_pitch_rate_and_throat():
    need_flite()
    speaker = flite.start()

    def peak(said: np.ndarray, low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(said, 65536))
        hertz = np.arange(len(power)) * 16000 / 65536
        inside = (hertz > low) & (hertz < high)
        return float(hertz[inside][power[inside].argmax()])

    plain = speaker.say("no", "flite:slt*1.0", 50, 190)
    assert plain.dtype == np.float32 and 4000 < len(plain) < 16000
    assert 0.05 < np.abs(plain).max() <= 1.0
    slow = speaker.say("no", "flite:slt*1.0", 50, 120)
    assert len(slow) > 1.3 * len(plain)
    fast = speaker.say("no", "flite:slt*1.2", 50, 190)
    assert len(fast) == pytest.approx(len(plain) / 1.2, rel=0.02)
    high = speaker.say("no", "flite:slt*1.0", 85, 190)
    assert peak(high, 80, 400) > 1.2 * peak(plain, 80, 400)


def test_without_flite_the_others_speak_and_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(flite, "command", lambda: None)
    base = ["synth", "--words", "up", "--clips-per-word", "10", "--unknown", "0"]
    result = CliRunner().invoke(
        verb.command, [*base, "--out", str(tmp_path / "c")], catch_exceptions=False
    )
    assert "apt-get install flite" in result.stderr
    assert "by eSpeak NG" in result.stdout and "Flite" not in result.stdout
    arguments = [*base, "--voices", "espeak,flite", "--out", str(tmp_path / "d")]
    result = CliRunner().invoke(verb.command, arguments)
    assert isinstance(result.exception, KwsError) and "flite" in str(result.exception)
    assert not (tmp_path / "d").exists()


def test_a_word_that_is_over_too_soon_is_said_slower():
    class Hasty:
        version = "none"
        rates: list[int] = []

        def say(self, _text: str, _voice: str, _pitch: int, rate: int) -> np.ndarray:
            self.rates.append(rate)
            return np.ones(60_000 // rate, np.float32)

    rng = np.random.default_rng(1)
    said = synth._utterance(Hasty(), "up", espeak.of_accents()[0], rng)
    assert len(said) >= 800 and len(Hasty.rates) > 1
    assert Hasty.rates == sorted(Hasty.rates, reverse=True)


@pytest.mark.parametrize(
    ("language", "voices", "first"),
    [
        ("de", 1, "de"),
        ("DE", 1, "de"),
        ("es", 2, "es"),
        ("fr", 3, "fr"),
        ("zh", 1, "cmn"),  # Mandarin; Cantonese has other words
        ("pt-br", 1, "pt-br"),
    ],
)
def test_a_language_has_its_own_voices_in_every_split(speaker, language, voices, first):
    accents = espeak.accents(speaker, language)
    assert accents[0] == first and len(accents) == voices
    share = Counter(voice.split for voice in espeak.of_accents(accents))
    assert min(share.values()) >= 5 and share["train"] > 0.75 * sum(share.values())
    for voice in espeak.of_accents(accents):
        assert splits.split_of(voice.id) == voice.split


def test_an_unknown_language_is_named_with_those_there_are(speaker, tmp_path):
    with pytest.raises(KwsError, match="No such language.*de, el, en.*'german'"):
        synth.make(synth.Plan(("ja",), 10, 0, language="german"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "language", "why"),
    [
        ("你好", "en", "does not know the script"),  # "Chinese letter Chinese letter"
        ("こんにちは", "en", "does not know the script"),
        ("今日", "ja", "lets the voice of 'en' say it"),
        ("안녕", "en", "lets the voice of 'ko' say it"),
        ("नमस्ते", "en", "lets the voice of 'hi' say it"),
        ("привет", "en", "spells it"),
        ("مرحبا", "en", "spells it"),
        ("שלום", "de", "voice of"),
        ("สวัสดี", "en", "does not know the script"),
        ("hello", "ru", "lets the voice of 'en' say it"),
        ("hey 你好", "cmn", "lets the voice of 'en' say it"),
        ("tv", "en", "spells it"),
        ("brr", "de", "spells it"),
    ],
)
def test_words_that_a_voice_spells_or_cannot_say_are_refused(
    word, language, why, tmp_path
):
    plan = synth.Plan((word,), 10, 0, language=language)
    with pytest.raises(KwsError, match=f"Received: {word} .*{why}") as error:
        synth.make(plan, tmp_path / "out")
    assert "--language" in error.value.hint
    with pytest.raises(KwsError, match=why):
        synth.spoken_stream([word], language=language)
    assert list(tmp_path.iterdir()) == []


NATIVE = {
    "ar": "مرحبا نعم",
    "cmn": "你好 再见 女儿",
    "cs": "děkuji ano",
    "de": "über licht stopp nein",
    "el": "γεια όχι",
    "en": "yes hey_robot für naïve a 42 o'clock",
    "es": "hola sí luz",
    "fa": "سلام بله",
    "fi": "kyllä ei yö",
    "fr": "oui eau bonjour",
    "he": "שלום כן",
    "hi": "नमस्ते हाँ",
    "ja": "こんにちは はい カメラ",
    "ko": "안녕 네",
    "pl": "cześć światło",
    "ru": "привет свет да",
    "ta": "வணக்கம்",
    "th": "สวัสดี ใช่ ไม่",
    "tr": "hayır ışık",
    "vi": "xin_chào vâng",
}


@pytest.mark.parametrize("language", NATIVE)
def test_words_of_its_language_a_voice_can_say(speaker, language):
    for word in NATIVE[language].split():
        word = word.replace("_", " ")
        assert espeak.cannot_say(speaker, word, language) == "", word


def test_a_corpus_in_another_language(tmp_path):
    plan = synth.Plan(("你好", "再见"), 40, 30, seed=2, language="cmn")
    out = tmp_path / "corpus"
    assert synth.make(plan, out) == 110
    assert verify(out)[1] == []
    words = {folder.name for folder in out.iterdir() if folder.is_dir()}
    # Its unknown words are the numbers of that language, not English.
    assert words >= {"你好", "再见", "_background_noise_", "7", "10"}
    assert all(word.isdecimal() for word in words if word.isascii() and word[0] != "_")
    task = Task("custom", words=plan.words)
    for split, each in (("train", 32), ("val", 4), ("test", 4)):
        clips = data.load(split, task, out)
        count = Counter(clips.labels[i] for i in clips.label)
        assert count["你好"] == count["再见"] == each and count["_unknown_"]
    assert json.loads((out / "corpus.json").read_text())["language"] == "cmn"
    assert synth.make(plan, out) == 0
    with pytest.raises(KwsError, match="in use"):  # the same words by other voices
        synth.make(synth.Plan(plan.words, 40, 30, seed=2, language="yue"), out)


def test_no_other_word_sounds_like_a_keyword(tmp_path):
    """Else the same sound would be a word and no word: fünf is 5, too is two."""
    _, others = synth._language(("fünf",), "de")
    assert "5" not in others and "6" in others
    _, others = synth._language(("too",), "en")
    assert "two" not in others and "nine" in others


def test_a_stream_in_another_language_is_the_language_s_voices(tmp_path):
    out = tmp_path / "stream.wav"
    arguments = ["synth", "--words", "licht,nein", "--language", "de"]
    result = CliRunner().invoke(
        verb.command, [*arguments, "--stream", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert [w.word for w in tape.open_tape(out).windows] == ["licht", "nein"]
    english, _ = synth.spoken_stream(["licht", "nein"])
    assert not np.array_equal(tape.open_tape(out).pcm, english)


def test_flite_speaks_english_alone(tmp_path):
    plan = synth.Plan(("nein",), 10, 0, voices=("espeak", "flite"), language="de")
    with pytest.raises(KwsError, match="Flite speaks English alone"):
        synth.make(plan, tmp_path / "out")


def test_words_that_sound_alike_are_said_too(speaker):
    """And nothing in which a keyword is heard."""

    def ipa(word: str) -> str:
        return speaker.ipa(word, "en-us")

    found = near.alike(["yes", "right"], ipa)
    assert {"yet", "less", "light", "night"} <= set(found)
    assert not {"yes", "right", "write"} & set(found)
    far = [near.distance(ipa("yes"), ipa(word)) for word in ("yes", "yet", "window")]
    assert far[0] == 0 < far[1] < far[2]
    _, others = synth._language(("lights on", "go"), "en")
    assert {"lights", "on", "the lights", "lights are on", "on lights"} <= set(others)
    assert {"goat", "toe"} <= set(others) and "long story" in others
    assert not any("go" in text.split(" ") for text in others)
    assert not any("lights on" in text for text in others)
    assert len(others) == len(set(others))


def test_a_room_dies_away_as_it_says_and_drowns_what_is_far():
    def heard(decay_s: float, distance_m: float) -> np.ndarray:
        ear, mouth = (1.0, 2.0, 1.2), (1.0 + distance_m, 2.0, 1.2)
        room = rooms.Room((6.0, 4.0, 2.6), decay_s, mouth, ear)
        assert room.distance_m == pytest.approx(distance_m)
        return rooms.response(room, np.random.default_rng(3)).astype(float)

    for decay_s in (0.2, 0.7):
        left = np.cumsum(heard(decay_s, 2.0)[::-1] ** 2)[::-1]
        level = 10 * np.log10(left / left[0])
        twenty = int(np.argmax(level < -25) - np.argmax(level < -5))
        assert 3 * twenty / 16000 == pytest.approx(decay_s, rel=0.15)
    shares = [1 / np.sum(heard(0.4, metres) ** 2) for metres in (0.3, 1.0, 3.0)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 5 * shares[2]


def test_rooms_and_microphones_are_drawn_alike_from_alike_seeds():
    said = np.random.default_rng(1).standard_normal(8000, np.float32)
    first, second, third = (
        rooms.heard(said, np.random.default_rng(seed)) for seed in (7, 7, 8)
    )
    assert np.array_equal(first, second) and len(first) > len(said)
    assert len(third) != len(first) or not np.array_equal(third, first)
    gains = [rooms.microphone(np.random.default_rng(seed), 16000) for seed in range(9)]
    for gain in gains:
        inside = gain[300:3000].max()
        assert gain[5] < 0.3 * inside and np.isfinite(gain).all()
    assert np.std([gain[7000] for gain in gains]) > 0.05


def test_a_share_of_the_clips_has_no_room_in_it(monkeypatch):
    """Where there is no room and no noise, nothing is heard after the word."""
    said = np.random.default_rng(1).standard_normal(3200).astype(np.float32)
    silent = [np.zeros(30000, np.float32)]

    def dry(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        pcm = synth._clip(said, silent, rng, 24000).astype(np.float64)
        energy = np.cumsum(np.square(pcm))
        end = int(np.argmax(energy[3200:] - energy[:-3200])) + 3200
        after = min(end + 1600, len(pcm) - 1)  # what the microphone's filter leaves
        return bool(energy[-1] - energy[after] < 1e-6 * energy[-1])

    share = np.mean([dry(seed) for seed in range(100)])
    monkeypatch.setattr(synth, "NO_ROOM", 0.0)
    # Those whose word is at the end, where no room could be heard.
    at_end = np.mean([dry(seed) for seed in range(100)])
    assert at_end < 0.3 and 0.15 < share - at_end < 0.4


def test_what_is_too_long_is_cut_if_it_is_no_keyword():
    class Slow:
        version = "none"

        def say(self, _text: str, _voice: str, _pitch: int, rate: int) -> np.ndarray:
            return np.linspace(0.5, 1, 6_000_000 // rate, dtype=np.float32)

    voice = espeak.of_accents()[0]
    said = synth._utterance(Slow(), "a phrase", voice, np.random.default_rng(1), True)
    assert len(said) == int(0.95 * 16000)
    shorter = synth._utterance(Slow(), "a word", voice, np.random.default_rng(1))
    assert 0.8 * 16000 < len(shorter) < len(said)  # said faster
    rng = np.random.default_rng(1)
    whole = synth._utterance(Slow(), "a word", voice, rng, size=48000)
    assert len(whole) > 1.5 * 16000  # in a longer clip it need not hurry


def test_longer_clips_hold_longer_words(tmp_path: Path) -> None:
    plan = synth.Plan(("smart mirror",), 10, 0, seed=4, clip_seconds=1.5)
    out = tmp_path / "corpus"
    assert synth.make(plan, out) == 10
    for file in (out / "smart_mirror").iterdir():
        assert len(audio.read(file).pcm) == 24000
    assert synth.make(plan, out) == 0  # it is there
    with pytest.raises(KwsError, match="is in use"):
        synth.make(synth.Plan(plan.words, 10, 0, seed=4), out)
