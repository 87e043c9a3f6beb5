"""Who speaks: one module for each voice engine, a program that turns text into samples.

An engine is a module of this folder with

    TITLE, ENGLISH_ONLY, ASCII_ONLY, IN_PROCESSES, MEND
        Its name for people; whether it speaks English alone; whether it leaves letters
        out that are not ASCII; whether several processes share its work, since it takes
        long and what it says does not depend on what it said before; what to type when
        it is here and fails.

    def missing(folder: Path | None = None) -> KwsError | None
        What keeps it from speaking on this machine, or None. `folder`: files of its
        own that the user has, where it can use such.

    def start(folder: Path | None = None) -> Speaker
        Ready to speak. A new one says the same as every new one before.

    def voices(speaker: Speaker, split: str, language: str, rng) -> Iterator[Voice]
        Its voices of a split (`train`, `val`, `test`), in the order in which a corpus
        takes them; without end where it can make more. A voice has one split for ever.

and, where it can use such a folder,

    def digest(folder: Path | None = None) -> str
        What tells the files that it speaks with from others, without loading it.

This folder's listing is the registry.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from kws.data.splits import split_of
from kws.errors import no_such

ENGLISH = "en"
BASE = "espeak"  # speaks every language, knows sounds; every corpus needs it


class Speaker(Protocol):
    """Something that speaks."""

    version: str

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        """Speak.

        Args:
            text: A word or a few.
            voice: Name of one of the engine's voices.
            pitch: 0 to 99, 50 being the voice's own; not every engine heeds it.
            rate: Words a minute.

        Returns:
            float32 [n], 16 kHz, -1 to 1.

        Raises:
            OSError: the engine failed.
        """
        ...


@runtime_checkable
class Accented(Speaker, Protocol):
    """A speaker some of whose voices have an accent: `kokoro:...@german`."""

    def sounds(self, text: str, voice: str) -> str:
        """What a voice says, in the international phonetic alphabet."""
        ...


@dataclass(frozen=True)
class Voice:
    """A speaker of a corpus.

    Args:
        name: `accent+variant` of eSpeak NG, else the engine, a colon, and how the
            engine calls it: `flite:slt*0.93`.
        id: Eight hex digits that stand for the speaker in file names.
        split: Where the data set's SHA-1 rule puts the id.

    Example:
        >>> Voice("flite:slt*0.93", "0a1b2c3d", "train").engine
        'flite'
    """

    name: str
    id: str
    split: str

    @property
    def engine(self) -> str:
        """Name of the module that speaks with it."""
        engine, colon, _ = self.name.partition(":")
        return engine if colon else BASE

    @property
    def plain(self) -> Voice:
        """The same speaker without an accent."""
        return replace(self, name=self.name.partition("@")[0])


def names() -> list[str]:
    """The engines, by name; eSpeak NG, which every corpus needs, first."""
    here = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))
    return [BASE, *(name for name in here if name not in (BASE, "common"))]


def get(name: str) -> ModuleType:
    """An engine's module.

    Raises:
        KwsError: no such engine.

    Example:
        >>> get("flite").TITLE
        'Flite'
    """
    if name not in names():
        raise no_such(
            "voice engine", name, names(), "kws data synth --voices espeak,flite ..."
        )
    return importlib.import_module(f"kws.data.voices.{name}")


def identity(name: str) -> str:
    """The id of a voice's name.

    Example:
        >>> identity("flite:slt*0.9300")
        '5b7593f9'
    """
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def named(name: str) -> Voice:
    """The voice of a name, in the split where the rule puts it."""
    number = identity(name)
    return Voice(name, number, split_of(number))
