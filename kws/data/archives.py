"""Packed archives of clips, and the cache of what was decoded from them.

An archive folder holds `<class>.flac` or `<class>.opus`, many clips one after
another, and `index.tsv` with a line a clip:

    class <TAB> original path <TAB> first sample <TAB> number of samples

Opus decodes at about 300 times real time, so a first load of all training clips
takes about a minute. The decoded samples are kept as .npy files in the user's cache
and mapped into memory after that.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kws.data import audio, cut, names
from kws.data.audio import SAMPLE_RATE
from kws.errors import KwsError, quoted
from kws.paths import user_cache

MAX_INDEX_BYTES = 64 * 1024 * 1024
MAX_SAMPLES = int(audio.MAX_SECONDS * SAMPLE_RATE)  # in one file
# A clip that is longer by less than a hop of the features holds nothing more.
OVER = 160
SUFFIXES = (".flac", ".opus", ".wav")


@dataclass(frozen=True)
class Recording:
    """Where one clip is.

    Args:
        word: What is said; `_silence_` or `_unknown_` where only that is known.
        name: Its path as the data set names it (`yes/0a7c2a8d_nohash_0.wav`).
        file: The audio file that holds it.
        start: First sample in the file.
        length: Samples; -1 means all of the file.
    """

    word: str
    name: str
    file: Path
    start: int = 0
    length: int = -1


def read_index(folder: Path) -> list[Recording]:
    """Read `index.tsv` of an archive folder.

    The word is the class; for the class `_unknown_` it is taken from the original
    path, in either way that the data set writes it (`cat/<speaker>...` and
    `_unknown_/cat_<speaker>...`).

    Raises:
        KwsError: missing or too large, a broken line, a class without its file.
    """
    path = folder / "index.tsv"
    if not path.is_file():
        raise _broken(folder, "index.tsv is missing")
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise _broken(folder, f"index.tsv is larger than {MAX_INDEX_BYTES} bytes")
    try:
        text = names.read_text(path)
    except KwsError:
        raise _broken(folder, "index.tsv is not text") from None
    files: dict[str, Path] = {}
    recordings = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t")
        if (
            len(fields) != 4
            or not re.fullmatch(r"\w{1,60}", fields[0])  # a file's name
            or not all(text.isdecimal() and len(text) < 13 for text in fields[2:])
            or not 0 < int(fields[3]) <= MAX_SAMPLES
            or int(fields[2]) > MAX_SAMPLES
        ):
            raise _broken(
                folder,
                f"line {number} of index.tsv is not 'class, path, first sample, "
                f"number of samples': {line[:80]!r}",
            )
        label, name = fields[0], fields[1]
        if label not in files:
            found = [folder / f"{label}{suffix}" for suffix in SUFFIXES]
            files[label] = next((file for file in found if file.is_file()), found[0])
            if not files[label].is_file():
                raise _broken(folder, f"index.tsv names {label}, but there is no audio")
        word = label
        if label == "_unknown_":
            first, _, rest = name.partition("/")
            word = rest.split("_", 1)[0] if first == "_unknown_" else first
            word = word if re.fullmatch(r"\w+", word) else label
        recordings.append(
            Recording(word, name, files[label], int(fields[2]), int(fields[3]))
        )
    return recordings


def decoded(file: Path) -> np.ndarray:
    """All samples of a 16 kHz mono file, int16 [samples], through the cache.

    The key is the file's name, size, time of change and its first and last 64 KiB;
    a cached file is complete or absent (written aside, then renamed). Where the cache
    can't be written the samples are returned all the same.

    Raises:
        KwsError: not a usable recording, not 16 kHz, not mono.
    """
    cached = user_cache() / "decoded" / f"{file.stem}-{file_key(file)}.npy"
    if cached.is_file():
        try:
            return np.load(cached, mmap_mode="r")
        except (ValueError, OSError, EOFError):
            cached.unlink(missing_ok=True)  # cut off by a full disk: decode again
    samples = audio.read(file, convert=False).pcm
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cached.parent, suffix=".part")
    except OSError:
        return samples
    try:
        with os.fdopen(handle, "wb") as out:
            np.save(out, samples)
        Path(name).replace(cached)
    except OSError:
        Path(name).unlink(missing_ok=True)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return samples


@dataclass
class Clips:
    """Recordings, each a clip of equal length.

    Args:
        pcm: int16 [N, samples].
        cut: Rows that were longer: the part around the word was taken.
        unclear: row -> why a longer recording is no one word; its loudest part was
            taken.
        converted: What it was (`24-bit`) -> how many.
    """

    pcm: np.ndarray
    cut: list[int] = field(default_factory=list)
    unclear: dict[int, str] = field(default_factory=dict)
    converted: Counter[str] = field(default_factory=Counter)


def clip(samples: np.ndarray, size: int) -> tuple[np.ndarray, str | None]:
    """`size` samples of a recording: int16 [size].

    Shorter ones get zeros at their end, as the official reader does; of longer ones the
    part around the word is taken.

    Returns:
        The part, and None where nothing but zeros was added, '' where the word was cut
        out, else why it is no one word.
    """
    if len(samples) == size:
        return np.asarray(samples), None
    if len(samples) <= size + OVER:
        out = np.zeros(size, dtype=np.int16)
        out[: min(size, len(samples))] = samples[:size]
        return out, None
    start, problem = cut.around_the_word(samples, size)
    return np.asarray(samples[start : start + size]), problem


def read_clips(recordings: list[Recording], size: int, threads: int = 2) -> Clips:
    """The recordings in the order given, each `size` samples.

    Raises:
        KwsError: a file can't be used, or ends before a clip that the index names.
    """
    from concurrent.futures import ThreadPoolExecutor

    packed = sorted({item.file for item in recordings if item.length >= 0})
    out = Clips(np.zeros((len(recordings), size), dtype=np.int16))
    with ThreadPoolExecutor(threads) as pool:  # libsndfile runs without the GIL
        sources = dict(zip(packed, pool.map(decoded, packed), strict=True))

        def fill(row: int) -> tuple[int, str, str | None]:
            item, source = recordings[row], ""
            if item.length < 0:
                sound = audio.read(item.file, convert=False)
                samples, source = sound.pcm, sound.source
            else:
                samples = sources[item.file][item.start : item.start + item.length]
                if len(samples) != item.length:
                    raise _broken(
                        item.file.parent,
                        f"{item.file.name} ends before {item.name}",
                    )
            if item.word == "_silence_":  # any part of it will do
                samples = samples[:size]
            out.pcm[row], problem = clip(samples, size)
            return row, source, problem

        try:
            for row, source, problem in pool.map(
                fill, range(len(recordings)), chunksize=64
            ):
                if source:
                    out.converted[source] += 1
                if problem == "":
                    out.cut.append(row)
                elif problem is not None:
                    out.unclear[row] = problem
        except audio.NotUsable as error:
            if error.fault not in ("wrong_rate", "stereo"):
                corpus = Path(error.path).parents[1]
                error.hint = (
                    f"kws data verify {quoted(corpus)}   (names every bad file)"
                )
            raise
    return out


def file_key(file: Path) -> str:
    """What tells a file from others, and from itself once it has changed: 24 digits."""
    status = file.stat()
    # Float WAV files were once cached as zeros.
    again = " scaled" if file.suffix == ".wav" else ""
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}{again}".encode())
    with file.open("rb") as data:
        digest.update(data.read(1 << 16))
        data.seek(max(0, status.st_size - (1 << 16)))
        digest.update(data.read(1 << 16))
    return digest.hexdigest()[:24]


def _broken(folder: Path, problem: str) -> KwsError:
    return KwsError(
        f"The archive folder is broken: {problem}. Received: {folder}",
        "Copy the folder again, or fetch the data set: kws data fetch",
    )
