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
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.errors import KwsError
from kws.paths import user_cache

SAMPLE_RATE = 16000
MAX_INDEX_BYTES = 64 * 1024 * 1024
MAX_SAMPLES = 4 * 3600 * SAMPLE_RATE  # four hours in one file
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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _broken(folder, "index.tsv is not text") from None
    files: dict[str, Path] = {}
    recordings = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t")
        if (
            len(fields) != 4
            or not re.fullmatch(r"\w+", fields[0])
            or not (fields[2].isdecimal() and fields[3].isdecimal())
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
        KwsError: not audio, not 16 kHz, not mono, longer than four hours.
    """
    cached = user_cache() / "decoded" / f"{file.stem}-{_key(file)}.npy"
    if cached.is_file():
        try:
            return np.load(cached, mmap_mode="r")
        except (ValueError, OSError, EOFError):
            cached.unlink(missing_ok=True)  # cut off by a full disk: decode again
    samples = read_audio(file)
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


def read_audio(file: Path, max_samples: int = MAX_SAMPLES) -> np.ndarray:
    """Decode a 16 kHz mono file to int16 [samples].

    Raises:
        KwsError: not audio, empty, another rate, not mono, too long.
    """
    import soundfile

    try:
        with soundfile.SoundFile(str(file)) as audio:
            if audio.samplerate != SAMPLE_RATE:
                problem = f"expected 16000 Hz, received {audio.samplerate} Hz"
            elif audio.channels != 1:
                problem = f"expected one channel, received {audio.channels}"
            elif audio.frames > max_samples:
                problem = f"expected at most {max_samples} samples"
            else:
                samples = audio.read(dtype="int16")
                if len(samples):
                    return samples
                problem = "it holds no samples"
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        problem = f"it can't be read as audio ({error})"
    raise KwsError(
        f"Not a usable recording: {problem}. Received: {file}",
        f"kws data verify {file.parent.parent}",
    )


def clip(samples: np.ndarray, size: int = SAMPLE_RATE) -> np.ndarray:
    """The first `size` samples, zeros after the end: what the official reader does."""
    if len(samples) == size:
        return np.asarray(samples)
    out = np.zeros(size, dtype=np.int16)
    out[: min(size, len(samples))] = samples[:size]
    return out


def read_clips(recordings: list[Recording], threads: int = 2) -> np.ndarray:
    """The recordings as int16 [N, 16000], in the order given.

    Raises:
        KwsError: a file can't be used, or ends before a clip that the index names.
    """
    from concurrent.futures import ThreadPoolExecutor

    packed = sorted({item.file for item in recordings if item.length >= 0})
    out = np.zeros((len(recordings), SAMPLE_RATE), dtype=np.int16)
    with ThreadPoolExecutor(threads) as pool:  # libsndfile runs without the GIL
        sources = dict(zip(packed, pool.map(decoded, packed), strict=True))

        def fill(row: int) -> None:
            item = recordings[row]
            if item.length < 0:
                samples = read_audio(item.file)
            else:
                samples = sources[item.file][item.start : item.start + item.length]
                if len(samples) != item.length:
                    raise _broken(
                        item.file.parent,
                        f"{item.file.name} ends before {item.name}",
                    )
            out[row] = clip(samples)

        for _ in pool.map(fill, range(len(recordings)), chunksize=64):
            pass
    return out


def _key(file: Path) -> str:
    status = file.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
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


def wav_bytes(pcm: np.ndarray) -> bytes:
    """int16 samples as a 16 kHz mono WAV file."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, pcm, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()
