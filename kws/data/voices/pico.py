"""SVOX Pico: two small speakers of English, by PyPI's `ttspico`.

They get other throats by being played slower or faster (`pico:en-GB*0.93`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kws.data.voices import Speaker, Voice, common
from kws.errors import KwsError, pip_install

TITLE = "Pico"
ENGLISH_ONLY = ASCII_ONLY = True
MEND = f"{pip_install('pico')}   (or: --voices espeak)"
SPEAKERS = ("en-US", "en-GB")
RATE = 160  # words a minute at its own speed, about
VOLUME = 60  # percent: at 100 it clips


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


class Pico:
    """An engine for each utterance, so that none depends on those before."""

    def __init__(self) -> None:
        import ttspico

        self._module: Any = ttspico
        self.version = f"ttspico {importlib.metadata.version('ttspico')}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        name, factor = common.of_throat(voice)
        # Only letters, digits, apostrophes, hyphens and spaces are words: no markup.
        marked = (
            f'<volume level="{VOLUME}"><pitch level="{75 + pitch // 2}">'
            f'<speed level="{min(max(100 * rate // RATE, 20), 500)}">'
            f"{text}</speed></pitch></volume>"
        )
        try:
            data = self._module.TtsEngine(name).speak(marked)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        if not data:
            raise OSError("no audio")
        return common.played(
            common.to_16k(np.frombuffer(data, np.int16), 16000), factor
        )
