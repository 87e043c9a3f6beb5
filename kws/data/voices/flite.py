"""Flite: a few speakers of English, from recordings of people.

They get other throats by being played slower or faster (`flite:slt*0.93`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.data.voices import Speaker, Voice, common
from kws.errors import KwsError

TITLE = "Flite"
ENGLISH_ONLY = ASCII_ONLY = True
IN_PROCESSES = False
MEND = "apt-get install --reinstall flite   (or: --voices espeak)"
# Flite's speakers and the mean of their pitch in Hz: two men, a woman, and a man whose
# voice is cut from pairs of phones.
PITCH = {"rms": 100.0, "awb": 130.0, "slt": 175.0, "kal16": 105.0}
RATE = 190  # words a minute at which Flite's durations are left as they are


def command() -> str | None:
    """Where the `flite` command is, if it is."""
    return shutil.which("flite")


def missing(folder: Path | None = None) -> KwsError | None:
    if command() is None:
        return KwsError(
            "Expected the command flite. Received: none in PATH",
            "apt-get install flite   (or: --voices espeak)",
        )
    return None


def start(folder: Path | None = None) -> Flite:
    """Flite.

    Raises:
        KwsError: there is none, or it was built without the voices of PITCH.
    """
    if (error := missing()) is not None:
        raise error
    return Flite(command() or "flite")


def voices(
    speaker: Speaker, split: str, language: str, rng: np.random.Generator
) -> Iterator[Voice]:
    return common.throats("flite", list(PITCH), split)


class Flite:
    """The `flite` command, a process for every utterance."""

    def __init__(self, command: str) -> None:
        self._command = command
        # Where a voice is missing, flite speaks with its default one and says nothing.
        there = common.run([command, "-lv"]).stdout.decode(errors="replace").split()
        if lacking := [name for name in PITCH if name not in there]:
            raise KwsError(
                f"This flite lacks voices. Expected {', '.join(PITCH)}. "
                f"Received: {command} without {', '.join(lacking)}",
                "apt-get install flite   (or: --voices espeak)",
            )
        run = common.run([command, "--version"])
        words = (run.stdout or run.stderr).decode(errors="replace").split()
        found = [word for word in words if word.startswith("flite-")]
        self.version = found[0] if found else "unknown"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        name, factor = common.of_throat(voice)
        hertz = PITCH[name] * 2 ** ((pitch - 50) / 70)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "said.wav"
            run = common.run(
                [self._command, "-voice", name]
                + ["--setf", f"int_f0_target_mean={hertz:.1f}"]
                + ["--setf", f"duration_stretch={RATE / rate:.3f}"]
                + ["-t", text, "-o", str(out)]
            )
            data = out.read_bytes() if out.is_file() else b""
        if run.returncode != 0 or len(data) < 46:
            raise common.no_audio(run)
        return common.played(common.samples_of(data), factor)
