"""Reading audio: what people have is scaled and told; the rest is refused."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import soundfile

from kws import data
from kws.data import audio, tape
from kws.data.verify import KINDS, verify
from kws.deploy import flash
from kws.errors import KwsError
from kws.recipe import Task

TONE = small_corpus.tone(500, 32000, 9000)


def write(path: Path, rate: int = 16000, **how: str) -> Path:
    """The tone at any rate, as float in -1..1 where the format has that."""
    time = np.arange(2 * rate) / rate
    real = 9000 / 32768 * np.sin(2 * np.pi * 500 * time)
    soundfile.write(path, real, rate, **how)
    return path


def loudness(pcm: np.ndarray) -> float:
    return float(np.sqrt(np.mean(pcm.astype(float) ** 2)))


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_is_as_loud_as_sixteen_bits(subtype, tmp_path):
    """libsndfile casts float to int16 without a scale: a file of zeros and ones."""
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE / 32768, 16000, subtype)
    assert np.array_equal(flash.read_stream(path), TONE)
    (tmp_path / "x.tsv").write_text("0.1\t0.5\tyes\n")
    assert np.array_equal(tape.open_tape(path).pcm, TONE)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_24", "PCM_32"])
def test_a_corpus_of_any_width_trains_on_the_same_samples(
    subtype, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = small_corpus.make(tmp_path / "corpus")
    task = Task("custom", words=("yes", "no"))
    before = data.load("train", task, root)
    for file in root.rglob("*.wav"):
        pcm, rate = soundfile.read(file, dtype="int16")
        soundfile.write(file, pcm / 32768, rate, subtype)
    audio.say.cache_clear()
    after = data.load("train", task, root)
    assert np.array_equal(after.pcm, before.pcm)
    noises = [np.abs(noise).max() for noise in data.noise_bank(root)]
    assert min(noises) > 1000
    said = capsys.readouterr().err
    assert "train: converted from 16,000 Hz mono" in said and said.rstrip().endswith(
        ": 10"
    )
    assert verify(root)[1] == []


FORMATS = {
    "u8.wav": {"subtype": "PCM_U8"},
    "s24.wav": {"subtype": "PCM_24"},
    "s32.wav": {"subtype": "PCM_32"},
    "f32.wav": {"subtype": "FLOAT"},
    "f64.wav": {"subtype": "DOUBLE"},
    "mu.wav": {"subtype": "ULAW"},
    "a.wav": {"subtype": "ALAW"},
    "adpcm.wav": {"subtype": "IMA_ADPCM"},
    "gsm.wav": {"subtype": "GSM610"},
    "x.flac": {},
    "x.ogg": {},
    "x.opus": {"format": "OGG", "subtype": "OPUS"},
    "x.mp3": {},
    "x.aiff": {"subtype": "FLOAT"},
    "x.au": {"subtype": "FLOAT"},
    "x.caf": {"subtype": "FLOAT"},
    "x.w64": {"subtype": "DOUBLE"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_its_level(name, tmp_path):
    pcm = audio.read(write(tmp_path / name, **FORMATS[name])).pcm
    assert pcm.dtype == np.int16 and abs(len(pcm) - 32000) < 800
    assert loudness(pcm) == pytest.approx(loudness(TONE), rel=0.06)


@pytest.mark.parametrize("name", FORMATS)
def test_a_length_is_read_without_the_sound(name, tmp_path, monkeypatch):
    """And what is too large to be held is decoded from the file, alike."""
    path = write(tmp_path / name, **FORMATS[name])
    read, seconds = audio.read(path), soundfile.info(path).duration
    monkeypatch.setattr(audio, "MAX_HELD_BYTES", 0)
    monkeypatch.setattr(audio, "MAX_HEADER_BYTES", 0)
    monkeypatch.delattr(Path, "read_bytes")
    assert audio.seconds(path) == seconds
    assert np.array_equal(audio.read(path).pcm, read.pcm)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_every_rate_is_resampled_and_told(rate, tmp_path, capsys):
    path = write(tmp_path / f"r{rate}.wav", rate, subtype="FLOAT")
    pcm = audio.samples(path)
    assert abs(len(pcm) - 32000) <= 1
    middle = pcm[1000:31000].astype(float)
    expected = TONE[1000:31000].astype(float)
    assert np.abs(middle - expected).max() < 0.01 * 9000  # in phase too
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{path.name}: converted {rate:,} Hz mono float to 16 kHz mono"


def test_long_files_are_resampled_in_blocks_as_in_one_piece(tmp_path):
    soxr = pytest.importorskip("soxr")
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (3 * audio.BLOCK + 77, 2)).astype(np.float32)
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise, 44100, "FLOAT")
    sound = audio.read(path)
    whole = soxr.resample(noise.mean(axis=1), 44100, 16000)
    assert sound.source == "44,100 Hz stereo float"
    assert len(sound.pcm) == len(whole)
    assert np.abs(sound.pcm - 32768 * whole).max() <= 1


def test_what_is_16_khz_mono_16_bits_is_taken_as_it_is(tmp_path, capsys):
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE, 16000)
    assert np.array_equal(audio.samples(path), TONE)
    assert capsys.readouterr().err == ""


def test_channels_are_averaged_and_such_as_cancel_each_other_are_refused(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([TONE, TONE // 2], axis=1), 16000)
    assert loudness(audio.read(path).pcm) == pytest.approx(loudness(TONE) * 0.75, 1e-3)
    soundfile.write(path, np.stack([TONE, -TONE], axis=1), 16000)
    with pytest.raises(audio.NotUsable, match="cancel") as error:
        audio.read(path)
    assert error.value.fault in KINDS


def test_m4a_is_read_where_ffmpeg_is(tmp_path):
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed")
    wav, path = write(tmp_path / "x.wav", 44100), tmp_path / "x.m4a"
    subprocess.run([ffmpeg, "-v", "error", "-i", str(wav), str(path)], check=True)
    sound = audio.read(path)
    assert sound.source == "44,100 Hz mono m4a"
    assert loudness(sound.pcm) == pytest.approx(loudness(TONE), rel=0.06)
    assert len(sound.pcm) == pytest.approx(32000, abs=2000)


def test_without_ffmpeg_m4a_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "x.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    with pytest.raises(audio.NotUsable, match="ffmpeg") as error:
        audio.read(path)
    assert error.value.hint == "apt-get install ffmpeg"


def test_a_text_never_reaches_ffmpeg(tmp_path):
    """As a playlist or a script of ffmpeg's it could name any other file."""
    secret = write(tmp_path / "other.wav")
    for text in ("ffconcat version 1.0\nfile {}\n", "#EXTM3U\n{}\n"):
        path = tmp_path / "x.m4a"
        path.write_text(text.format(secret))
        with pytest.raises(audio.NotUsable, match="can't be read as audio"):
            audio.read(path)


def wav(pcm: np.ndarray, length: int | None = None, riff: int | None = None) -> bytes:
    """A WAV file whose header may say another length."""
    made = bytearray(audio.wav_bytes(pcm))
    for place, value in ((4, riff), (40, length)):
        if value is not None:
            made[place : place + 4] = struct.pack("<I", value)
    return bytes(made)


def scaled(path: Path, samples: np.ndarray, subtype: str = "FLOAT") -> None:
    soundfile.write(path, samples, 16000, subtype)


def with_nan(path: Path) -> None:
    samples = TONE / 32768
    samples[7000] = np.nan
    scaled(path, samples)


FAULTS = {
    "not_finite": (with_nan, "no numbers"),
    "scale of int16 as float": (lambda p: scaled(p, TONE * 1.0), "within -1..1"),
    "scale too loud": (lambda p: scaled(p, TONE / 6000), "within -1..1"),
    "scale twice": (lambda p: scaled(p, TONE / 32768**2), "scaled down twice"),
    "scale of int16 as int32": (
        lambda p: scaled(p, TONE.astype(np.int32), "PCM_32"),
        "16-bit samples were saved as 32-bit",
    ),
    "truncated": (
        lambda p: p.write_bytes(wav(TONE)[:-9000]),
        "9000 bytes are missing",
    ),
    "truncated header": (
        lambda p: p.write_bytes(wav(TONE, 0, 0)),
        "was not ended properly",
    ),
    "empty": (lambda p: p.write_bytes(b""), "0 bytes"),
    "empty header": (lambda p: p.write_bytes(wav(TONE[:0])), "holds no samples"),
    "not_audio": (lambda p: p.write_text("hello"), "can't be read as audio"),
    "not_audio absurd": (
        lambda p: p.write_bytes(wav(TONE).replace(b"\x80>\0\0", b"\xff\xff\xff\x7f")),
        "its header says 2147483647 Hz",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_believed_is_refused(name, tmp_path):
    make, expected = FAULTS[name]
    path = tmp_path / "x.wav"
    make(path)
    with pytest.raises(audio.NotUsable, match=expected) as error:
        flash.read_stream(path)
    assert error.value.fault == name.split()[0] and error.value.fault in KINDS
    assert str(path) in error.value.message and error.value.hint


@pytest.mark.parametrize("name", ["x.flac", "x.mp3", "x.aiff", "x.au", "x.ogg"])
def test_a_file_that_breaks_off_is_refused(name, tmp_path):
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(audio.NotUsable) as error:
        audio.read(path)
    assert error.value.fault in ("truncated", "not_audio", "empty")


def test_what_a_pipe_wrote_is_read_to_its_end(tmp_path):
    """`arecord | ...` can't know the length and writes the largest."""
    path = tmp_path / "x.wav"
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        path.write_bytes(wav(TONE, length, 0xFFFFFFFF))
        assert np.array_equal(audio.read(path).pcm, TONE)


def test_a_few_overshoots_are_cut_and_told(tmp_path):
    samples = TONE / 32768
    samples[[100, 200, 300]] = 1.3, -1.1, 1.01
    scaled(tmp_path / "x.wav", samples)
    sound = audio.read(tmp_path / "x.wav")
    assert sound.pcm[[100, 200, 300]].tolist() == [32767, -32768, 32767]
    assert "3 samples cut at full scale" in sound.source


def test_a_length_that_only_the_header_has_takes_no_memory(tmp_path):
    """A FLAC file of 2**36 - 1 samples, it says."""
    path = write(tmp_path / "x.flac")
    made = bytearray(path.read_bytes())
    made[21] |= 0x0F  # STREAMINFO: the upper bits of the number of samples
    made[22:26] = b"\xff" * 4
    path.write_bytes(made)
    with pytest.raises(audio.NotUsable, match="at most 4 h"):
        audio.read(path)


def test_samples_without_a_header_are_no_audio(tmp_path):
    for name in ("x.raw", "x.RAW", "x.vox", "x.gsm"):
        (tmp_path / name).write_bytes(TONE.tobytes())
        with pytest.raises(audio.NotUsable, match="can't be read as audio"):
            audio.read(tmp_path / name)


def test_a_missing_file_is_one_message(tmp_path):
    with pytest.raises(KwsError, match="no such file"):
        audio.read(tmp_path / "x.wav")


def test_an_error_comes_home_from_another_process(tmp_path):
    import pickle

    with pytest.raises(audio.NotUsable) as error:
        audio.read(tmp_path / "x.wav")
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.fault, again.message) == (error.value.fault, error.value.message)


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are text")
def test_a_name_that_is_no_text_is_read_and_can_be_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = small_corpus.make(tmp_path / "corpus")
    odd = os.fsdecode(b"gr\xfc\xdfe_nohash_0.wav")
    shutil.move(root / "yes" / "00000001_nohash_0.wav", root / "yes" / odd)
    names = [n for split in ("train", "val", "test") for n in names_of(split, root)]
    assert f"yes/{odd}" in names
    (root / "no" / odd).write_bytes(b"not audio")
    for arguments in (["verify", str(root)], ["info", str(root)]):
        run = subprocess.run(
            [sys.executable, "-c", "from kws.cli import main; main()", "data"]
            + arguments,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        assert b"Traceback" not in run.stderr, run.stderr.decode(errors="replace")
        assert run.returncode == (1 if arguments[0] == "verify" else 0)


def names_of(split: str, root: Path) -> list[str]:
    return data.load(split, Task("custom", words=("yes",)), root).names
