"""SVOX Pico: two small speakers of English, by PyPI's `ttspico`.

They get other throats by being played slower or faster (`pico:en-GB*0.93`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.data.voices import Speaker, Voice, common
from kws.errors import KwsError, pip_install

TITLE = "Pico"
ENGLISH_ONLY = ASCII_ONLY = True
IN_PROCESSES = False
MEND = pip_install("pico", "or: --voices espeak")
SPEAKERS = ("en-US", "en-GB")
RATE = 160  # words a minute at its own speed, about
VOLUME = 60  # percent: at 100 it clips
ATTEMPTS = 3


def missing(folder: Path | None = None) -> KwsError | None:
    if importlib.util.find_spec("ttspico") is None:
        return KwsError(
            "Expected the Python package ttspico. Received: none",
            MEND,
        )
    return None


def start(folder: Path | None = None) -> Pico:
    """Pico.

    Raises:
        KwsError: it is not installed.
    """
    if (error := missing()) is not None:
        raise error
    return Pico()


def voices(
    speaker: Speaker, split: str, language: str, rng: np.random.Generator
) -> Iterator[Voice]:
    return common.throats("pico", SPEAKERS, split)


# Speaks its second argument by its first into the standard output, int16 at 16 kHz.
_SCRIPT = """
import sys, ttspico
engine = ttspico.TtsEngine(sys.argv[1])
sys.stdout.buffer.write(engine.speak(sys.argv[2]) or b"")
"""


class Pico:
    """A process for each utterance: none depends on those before, and the library's
    memory faults (it ends the process now and then) are an utterance's failure."""

    def __init__(self) -> None:
        self.version = f"ttspico {importlib.metadata.version('ttspico')}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        name, factor = common.of_throat(voice)
        # Only letters, digits, apostrophes, hyphens and spaces are words: no markup.
        marked = (
            f'<volume level="{VOLUME}"><pitch level="{75 + pitch // 2}">'
            f'<speed level="{min(max(100 * rate // RATE, 20), 500)}">'
            f"{text}</speed></pitch></volume>"
        )
        for _ in range(ATTEMPTS):
            done = common.run([sys.executable, "-c", _SCRIPT, name, marked])
            if done.returncode == 0 and done.stdout:
                break
        else:
            raise common.no_audio(done)
        data = done.stdout[: len(done.stdout) // 2 * 2]
        return common.played(
            common.to_16k(np.frombuffer(data, np.int16), 16000), factor
        )
