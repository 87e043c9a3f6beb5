"""Who speaks: eSpeak NG and Flite, programs that turn text into samples.

eSpeak NG has hundreds of voices, all from one formant synthesizer; Flite has a few,
from recordings of people and therefore nearer to them. They get other throats by being
played slower or faster (`flite:slt*0.93`).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kws.data.archives import SAMPLE_RATE
from kws.errors import KwsError

NAMES = {"espeak": "eSpeak NG", "flite": "Flite"}
# Flite's speakers and the mean of their pitch in Hz: two men, a woman, and a man whose
# voice is cut from pairs of phones.
FLITE_PITCH = {"rms": 100.0, "awb": 130.0, "slt": 175.0, "kal16": 105.0}
FLITE_RATE = 190  # words a minute at which Flite's durations are left as they are
LIMIT_S = 30  # a program that takes longer for a few words will not end at all


class Speaker(Protocol):
    """Something that speaks."""

    version: str

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        """Speak. pitch 0..99, rate in words a minute; float32 [n], 16 kHz, -1..1.

        Raises:
            OSError: the synthesizer failed.
        """
        ...


def espeak() -> Speaker:
    """eSpeak NG: espeakng-loader's library, else the `espeak-ng` command.

    Raises:
        KwsError: neither is there.
    """
    try:
        return _Library()
    except (ImportError, OSError, AttributeError):
        command = shutil.which("espeak-ng")
        if command:
            return _Command(command)
    raise KwsError(
        "Text can't be spoken: expected the Python package espeakng-loader or the "
        "espeak-ng command. Received: neither.",
        "pip install espeakng-loader   (or: apt-get install espeak-ng)",
    )


class _Library:
    """eSpeak NG through ctypes: samples come back through a callback.

    The library keeps phases and filters in global variables that nothing resets, so
    what it says depends on what it said before. Each instance therefore loads a copy
    of its own, and equal calls on a new instance give equal samples.
    """

    _SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: no thread, no waiting
    _DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
    _UTF8 = 1
    _RATE, _PITCH = 1, 3

    def __init__(self) -> None:
        import espeakng_loader

        with tempfile.TemporaryDirectory() as folder:
            # Another file is another library to the loader; once it is loaded the
            # name is not needed.
            copy = shutil.copy(espeakng_loader.get_library_path(), folder)
            self._lib = ctypes.CDLL(copy)
        data = os.fsencode(espeakng_loader.get_data_path())
        self._rate = self._lib.espeak_Initialize(
            self._SYNCHRONOUS, 0, data, self._DONT_EXIT
        )
        if self._rate <= 0:
            raise OSError("espeak_Initialize failed")
        self._lib.espeak_Info.restype = ctypes.c_char_p
        version = self._lib.espeak_Info(None)
        self.version = f"library {version.decode() if version else 'unknown'}"
        self._chunks: list[bytes] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = kind(self._receive)  # kept: C holds on to it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"no voice {voice}")
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._lib.espeak_SetParameter(self._RATE, rate, 0)
        self._lib.espeak_SetParameter(self._PITCH, pitch, 0)
        self._chunks.clear()
        data = text.encode()
        self._lib.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, self._UTF8, None, None
        )
        samples = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        return _to_16k(samples, self._rate)


class _Command:
    """The espeak-ng command, a process for every utterance."""

    def __init__(self, command: str) -> None:
        self._command = command
        run = _run([command, "--version"])
        self.version = f"command {run.stdout.decode(errors='replace').strip()[:60]}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        run = _run(
            [self._command, "-v", voice, "-p", str(pitch), "-s", str(rate)]
            + ["--stdout", "--", text]
        )
        if run.returncode != 0 or len(run.stdout) < 46:
            raise _no_audio(run)
        return _samples_of(run.stdout)


def _to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Band-limited resampling by cutting the spectrum: float32, -1..1."""
    if rate == SAMPLE_RATE:
        return samples.astype(np.float32) / np.float32(32768)
    step = rate // np.gcd(rate, SAMPLE_RATE)
    size = step * 32
    while size < len(samples) + step:
        size *= 2
    out_size = size * SAMPLE_RATE // rate
    spectrum = np.fft.rfft(samples.astype(np.float32), size)
    out = np.fft.irfft(spectrum[: out_size // 2 + 1], out_size)
    out = out[: len(samples) * SAMPLE_RATE // rate] * (out_size / size / 32768)
    return out.astype(np.float32)


def flite_command() -> str | None:
    """Where the `flite` command is, if it is."""
    return shutil.which("flite")


class Flite:
    """The `flite` command, a process for every utterance.

    Raises:
        KwsError: there is none, or it was built without the voices of FLITE_PITCH.
    """

    def __init__(self) -> None:
        command = flite_command()
        if command is None:
            raise KwsError(
                "Expected the command flite. Received: none in PATH",
                "apt-get install flite   (or: --voices espeak)",
            )
        self._command = command
        # Where a voice is missing, flite speaks with its default one and says nothing.
        there = _run([command, "-lv"]).stdout.decode(errors="replace").split()
        if missing := [name for name in FLITE_PITCH if name not in there]:
            raise KwsError(
                f"This flite lacks voices. Expected {', '.join(FLITE_PITCH)}. "
                f"Received: {command} without {', '.join(missing)}",
                "apt-get install flite   (or: --voices espeak)",
            )
        run = _run([command, "--version"])
        words = (run.stdout or run.stderr).decode(errors="replace").split()
        named = [word for word in words if word.startswith("flite-")]
        self.version = named[0] if named else "unknown"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        """As `Speaker.say`; voice: `flite:NAME*FACTOR`, the factor that of playing."""
        name, factor = voice.removeprefix("flite:").split("*")
        hertz = FLITE_PITCH[name] * 2 ** ((pitch - 50) / 70)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "said.wav"
            run = _run(
                [self._command, "-voice", name]
                + ["--setf", f"int_f0_target_mean={hertz:.1f}"]
                + ["--setf", f"duration_stretch={FLITE_RATE / rate:.3f}"]
                + ["-t", text, "-o", str(out)]
            )
            data = out.read_bytes() if out.is_file() else b""
        if run.returncode != 0 or len(data) < 46:
            raise _no_audio(run)
        said = _samples_of(data)
        at = np.arange(0, len(said) - 1, float(factor))
        return np.interp(at, np.arange(len(said)), said).astype(np.float32)


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a synthesizer to its end.

    Raises:
        OSError: it can't be started, or does not end.
    """
    try:
        return subprocess.run(
            command, capture_output=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"no end of {command[0]} within {LIMIT_S} s") from None


def _no_audio(run: subprocess.CompletedProcess[bytes]) -> OSError:
    said = run.stderr.decode(errors="replace").strip()[:200]
    return OSError(f"exit code {run.returncode} and no audio. {said}".rstrip())


def _samples_of(data: bytes) -> np.ndarray:
    """A piped WAV: 44 bytes of header, whose lengths are not to be believed."""
    even = len(data[44:]) // 2 * 2
    samples = np.frombuffer(data[44 : 44 + even], dtype="<i2")
    return _to_16k(samples, int.from_bytes(data[24:28], "little"))
