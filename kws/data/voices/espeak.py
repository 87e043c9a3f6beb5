"""eSpeak NG: hundreds of voices in over a hundred languages, all of one formant
synthesizer; and what it knows of sounds.

A voice is an accent of a language and a variant of the speaker (`en-us+f3`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kws.data.splits import split_of
from kws.data.voices import ENGLISH, Speaker, Voice, common, identity
from kws.errors import KwsError, no_such

TITLE = "eSpeak NG"
ENGLISH_ONLY = ASCII_ONLY = False
IN_PROCESSES = False
MEND = "pip install --force-reinstall espeakng-loader"
ACCENTS = (
    "en-us",
    "en",  # of Great Britain
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
# Those of eSpeak NG's variants that sound like people; without caleb and Reed, which
# say the same thing differently each time.
_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 adam Alex Alicia Andrea Andy Annie antonio "
    "aunty belinda benjamin boris david Denis Diogo ed edward Gene grandma "
    "grandpa Hugo ian iven Jacky john Lee linda Marco marcelo Mario max Michael michel "
    "Mike pablo paul pedro quincy rob robert sandro shelby steph travis victor "
    "zac"
)
VARIANTS = tuple(_VARIANTS.split())
SPLIT_CYCLE = ("train",) * 8 + ("val", "test")  # shares of speakers
# Alphabets in which a word can be spelled, and letters whose name is their sound.
_ALPHABETS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW")
_VOWELS = frozenset("aeiouyıаеёиоуыэюяіїєәөүұαεηιουω")
_OTHER_LETTERS = {"CJK": "大一", "HIRAGANA": "かま", "KATAKANA": "カマ"}
_UNREADABLE = "\U00012000"  # a letter of cuneiform: no voice reads it


class Linguist(Speaker, Protocol):
    """A speaker that also tells what it would say."""

    def phonemes(self, text: str, voice: str) -> str:
        """What it would say, in eSpeak NG's names of sounds; `(en)` where it takes
        another language's voice."""
        ...

    def ipa(self, text: str, voice: str) -> str:
        """What it would say, in the international phonetic alphabet."""
        ...

    def languages(self) -> list[tuple[str, ...]]:
        """The codes of each language that it speaks, its own first: `("de",)`."""
        ...


def missing(folder: Path | None = None) -> KwsError | None:
    try:
        start()
    except KwsError as error:
        return error
    return None


def start(folder: Path | None = None) -> Linguist:
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


def voices(
    speaker: Linguist, split: str, language: str, rng: np.random.Generator
) -> Iterator[Voice]:
    here = [v for v in of_accents(accents(speaker, language)) if v.split == split]
    return (here[place] for place in rng.permutation(len(here)))


@functools.cache
def of_accents(accents: tuple[str, ...] = ACCENTS) -> tuple[Voice, ...]:
    """All voices of some accents, in a fixed order that mixes accents and variants."""
    found = []
    for accent in accents:
        known = [(identity(f"{accent}+{v}"), f"{accent}+{v}") for v in VARIANTS]
        for number, (own, name) in enumerate(sorted(known)):
            # One accent alone has too few voices for the rule to share them out: there
            # the id is drawn until the rule agrees.
            wanted = SPLIT_CYCLE[number % len(SPLIT_CYCLE)]
            draw = 0
            while accent not in ACCENTS and split_of(own) != wanted:
                draw += 1
                own = identity(f"{name} {draw}")
            found.append(Voice(name, own, split_of(own)))
    return tuple(sorted(found, key=lambda voice: voice.id))


class _Library:
    """eSpeak NG through ctypes: samples come back through a callback.

    The library keeps phases and filters in global variables that nothing resets, so
    what it says depends on what it said before. Each instance therefore loads a copy
    of its own, and equal calls on a new instance give equal samples.
    """

    _IPA = 2
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
        return common.to_16k(samples, self._rate)

    def phonemes(self, text: str, voice: str) -> str:
        return self._phonemes(text, voice, 0)

    def ipa(self, text: str, voice: str) -> str:
        return _own(self._phonemes(text, voice, self._IPA))

    def _phonemes(self, text: str, voice: str, mode: int) -> str:
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"no voice {voice}")
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        buffer = ctypes.create_string_buffer(text.encode())
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = []
        while at.value:
            said = self._lib.espeak_TextToPhonemes(ctypes.byref(at), self._UTF8, mode)
            clauses.append((said or b"").decode(errors="replace"))
        return " ".join(clauses)

    def languages(self) -> list[tuple[str, ...]]:
        self._lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        voices = self._lib.espeak_ListVoices(None)
        found = []
        for voice in _pointers(voices):
            # A byte of priority, the code, a zero, ... and a zero.
            codes, at = [], voice.languages
            while at and ctypes.string_at(at, 1) != b"\0":
                code = ctypes.string_at(at + 1)
                codes.append(code.decode(errors="replace"))
                at += len(code) + 2
            if not (voice.identifier or b"").startswith(b"!v"):  # a variant
                found.append(tuple(codes))
        return found


class _Command:
    """The espeak-ng command, a process for every utterance."""

    def __init__(self, command: str) -> None:
        self._command = command
        run = common.run([command, "--version"])
        self.version = f"command {run.stdout.decode(errors='replace').strip()[:60]}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        run = common.run(
            [self._command, "-v", voice, "-p", str(pitch), "-s", str(rate)]
            + ["--stdout", "--", text]
        )
        if run.returncode != 0 or len(run.stdout) < 46:
            raise common.no_audio(run)
        return common.samples_of(run.stdout)

    def phonemes(self, text: str, voice: str) -> str:
        return self._phonemes(text, voice, "-x")

    def ipa(self, text: str, voice: str) -> str:
        return _own(self._phonemes(text, voice, "--ipa"))

    def _phonemes(self, text: str, voice: str, mode: str) -> str:
        run = common.run([self._command, "-q", mode, "-v", voice, "--", text])
        if run.returncode != 0:
            raise common.no_audio(run)
        return " ".join(run.stdout.decode(errors="replace").split())

    def languages(self) -> list[tuple[str, ...]]:
        # Pty Language Age/Gender VoiceName File Other Languages
        lines = common.run([self._command, "--voices"]).stdout.decode(errors="replace")
        found = []
        for line in lines.splitlines()[1:]:
            others = re.findall(r"\(([\w-]+) \d+\)", line)
            found.append((line.split()[1], *others))
        return found


def accents(speaker: Linguist, language: str) -> tuple[str, ...]:
    """The voices of a language: its own and those of its regions.

    Args:
        speaker: eSpeak NG.
        language: A code, such as `de`, `pt-br` or `cmn`.

    Returns:
        Names of voices: of `es`, those of Spain and of Latin America.

    Raises:
        KwsError: no such language, or one whose dictionary is missing.
    """
    if language == ENGLISH:
        return ACCENTS
    wanted = language.lower().replace("_", "-")
    # The same words in another script: no other voice (en-shaw, cmn-latn-pinyin).
    spoken = [
        codes
        for codes in speaker.languages()
        if codes and not re.search(r"(?i)-(latn|shaw)\b", codes[0])
    ]
    named = [c for c in spoken if any(_within(code, wanted) for code in c)]
    if not named:
        raise no_such(
            "language",
            language,
            sorted({codes[0] for codes in spoken}),
            "kws data synth --language de ...",
        )
    usable = {codes: _usable(speaker, codes) for codes in named}
    found = sorted(
        code
        for codes, code in usable.items()
        if code and (_within(codes[0], wanted) or _within(code, wanted))
    )
    if not found:
        # zh is Mandarin and Cantonese: the one that names it first.
        ranked = sorted((c.index(wanted), usable[c]) for c in named if wanted in c)
        found = [code for _, code in ranked if code][:1]
    if not found:
        raise KwsError(
            f"eSpeak NG knows the language but can't speak it: its dictionary is "
            f"missing. Received: {language}, {speaker.version}",
            "apt-get install espeak-ng   (another version of it)",
        )
    return tuple(found)


def _own(ipa: str) -> str:
    """Without the remarks that another language's voice takes over."""
    return re.sub(r"\([a-z-]+\)", "", ipa).strip()


def _within(code: str, wanted: str) -> bool:
    """Whether a language's code is the wanted one, or that of a region of it."""
    return f"{code}-".lower().startswith(f"{wanted}-")


def _usable(speaker: Linguist, codes: tuple[str, ...]) -> str:
    """The first of a voice's codes that it can be had by; '' where there is none."""
    for code in codes:
        try:
            if speaker.phonemes("a", code):
                return code
        except OSError:
            continue
    return ""


def cannot_say(speaker: Linguist, word: str, voice: str) -> str:
    """Why a voice can't say a word; '' if it can.

    A voice that does not know a script says `Chinese letter`, names letters one by one,
    or lets another language's voice speak: nobody would say the word so.
    """
    for part in re.split(r"[ '-]", word):
        said = speaker.phonemes(part, voice)
        if not _sounds(said):
            return "it says nothing"
        if other := re.search(r"\(([a-z-]+)\)", said):
            return f"it lets the voice of {other[1]!r} say it"
        if not part.isascii():
            letter = _sounds(speaker.phonemes(_UNREADABLE, voice).split("_|")[0])
            if len(letter) > 2 and letter in _sounds(said):
                return "it does not know the script"
        if _unread(speaker, part, voice):
            return "it does not know the script"
        if _spelled(speaker, part, voice, said):
            return "it spells it, letter by letter"
    return ""


def same_sound(speaker: Linguist, one: str, other: str, voice: str) -> bool:
    """Whether two words sound alike."""
    return _sounds(speaker.phonemes(one, voice)) == _sounds(
        speaker.phonemes(other, voice)
    )


def _unread(speaker: Linguist, part: str, voice: str) -> bool:
    """Whether letters of a script without an alphabet all sound alike."""
    for letter in part:
        for script, others in _OTHER_LETTERS.items():
            if unicodedata.name(letter, "").startswith(script) and all(
                same_sound(speaker, letter, other, voice)
                for other in others
                if other != letter
            ):
                return True
    return False


def _spelled(speaker: Linguist, part: str, voice: str, said: str) -> bool:
    if len(part) < 2 or not all(
        unicodedata.name(letter, "").startswith(_ALPHABETS) for letter in part
    ):
        return False
    plain = [unicodedata.normalize("NFD", letter)[0] for letter in part]
    if all(letter.lower() in _VOWELS for letter in plain):
        return False
    return any(
        _sounds("".join(speaker.phonemes(x, voice) for x in letters)) == _sounds(said)
        for letters in (part, plain)
    )


def _sounds(phonemes: str) -> str:
    """Sounds without stress, tone, length, pauses and fine shades of sound."""
    return re.sub(r"[',%=_|:!#;\s\d]", "", phonemes).casefold()


class _Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("unused", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


def _pointers(array: Any) -> Iterator[Any]:
    """What a C array of pointers that ends in a null points to."""
    place = 0
    while array[place]:
        yield array[place].contents
        place += 1
