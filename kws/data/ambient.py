"""Sound that holds none of the words: folders of speech, noise and music.

A detector listens to such sound all day. It is trained on some (`kws train --ambient`),
and its false alarms an hour are counted on other (`kws eval --tape`).

A folder holds recordings in folders named for what they are (`speech/`, `noise/`,
`music/`, or anything else), or long files with an `index.tsv` whose first line names
its columns:

    file <TAB> first_sample <TAB> samples <TAB> split <TAB> kind
    <TAB> speaker <TAB> name <TAB> text

Of folders in one another, the given one included, the innermost that is named speech,
noise or music says what a recording is; where none is, the outermost within.
Without an index, recordings of half a minute and more are cut in three, 80/10/10 %, for
train, val and test; shorter ones go whole to where the data set's rule puts their name.
What is said in recordings is known where a `.trans.txt` beside them says it, as in
LibriSpeech: those go, all of a speaker's, to where the rule puts the speaker.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data import archives, audio, names
from kws.data.audio import SAMPLE_RATE
from kws.data.splits import SPLITS, split_of
from kws.errors import KwsError, quoted

SHORTEST_BED_S = 2.0
LONG_S = 30  # a recording this long is cut for the splits
SHARE = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
CALLS = ("hey", "hi", "hello", "ok", "okay")  # what comes before a wake word
KINDS = ("speech", "noise", "music")  # what folders within others are known by
_COLUMNS = ("file", "first_sample", "samples", "split", "kind")
_MORE_COLUMNS = ("speaker", "name", "text")


@dataclass(frozen=True)
class Sound:
    """A recording without the words.

    Args:
        pcm: int16 [samples], 16 kHz.
        kind: What it is: speech, noise, music ...
        file: Name of the file that it is of.
        name: Its own name.
        text: What is said in it, where that is known.
    """

    pcm: np.ndarray
    kind: str
    file: str
    name: str
    text: str = ""


def recordings(folder: Path, split: str, words: Sequence[str] = ()) -> list[Sound]:
    """The recordings of a folder's split.

    Args:
        folder: As above.
        split: `train`, `val` or `test`.
        words: Recordings whose text has one of these are left out, which is said.

    Raises:
        KwsError: no recordings, or none without the words; a broken index, a file that
            can't be used.

    Example:
        >>> sounds = recordings(Path("ambient"), "val", ("yes", "no"))  # doctest: +SKIP
    """
    if split not in SPLITS:
        raise KwsError(
            f"No such split. Expected train, val or test. Received: {split!r}",
            "--split val",
        )
    if not folder.is_dir():
        raise KwsError(
            "No such folder of ambient sound. Expected recordings in folders named "
            f"speech, noise, music ... Received: {str(folder)!r}",
            "kws train --help",
        )
    indexed = (folder / "index.tsv").is_file()
    found = _indexed(folder, split) if indexed else _files(folder, split)
    if not found:
        raise KwsError(
            f"No ambient recordings of the split {split}. Expected some in folders "
            f"named speech, noise, music ... Received: {str(folder)!r}",
            f"Give recordings the split {split} in {quoted(folder / 'index.tsv')}, or "
            "remove it: then the files in the folder are taken"
            if indexed
            else "Put recordings of half a minute or more into "
            f"{quoted(folder / 'noise')}",
        )
    kept = [sound for sound in found if not _said(sound.text, words)]
    if not kept:
        raise KwsError(
            "Each of the ambient recordings has one of the words in its text. Expected "
            f"some of the split {split} without. Received: {len(found)} in "
            f"{str(folder)!r}",
            "Leave this folder out, or add recordings that hold none of the words.",
        )
    if len(kept) < len(found):
        audio.say(
            f"{folder}: {len(found) - len(kept)} {split} recordings have one of the "
            "words in their text and are left out"
        )
    return kept


def joined(sounds: Sequence[Sound]) -> dict[str, np.ndarray]:
    """The recordings of each kind one after another: kind -> int16 [samples].

    Example:
        >>> rain = Sound(np.zeros(3, np.int16), "noise", "rain.wav", "rain")
        >>> {kind: len(pcm) for kind, pcm in joined([rain, rain]).items()}
        {'noise': 6}
    """
    kinds = sorted({sound.kind for sound in sounds})
    return {
        kind: np.concatenate([s.pcm for s in sounds if s.kind == kind])
        for kind in kinds
    }


def lasting(sounds: Sequence[Sound], seconds: float = SHORTEST_BED_S) -> list[Sound]:
    """Those of files that are long enough for a bed.

    Args:
        sounds: From `recordings`.
        seconds: The shortest that is taken.
    """
    samples: dict[tuple[str, str], int] = {}
    for sound in sounds:
        key = sound.kind, sound.file
        samples[key] = samples.get(key, 0) + len(sound.pcm)
    least = seconds * SAMPLE_RATE
    return [sound for sound in sounds if samples[sound.kind, sound.file] >= least]


def beds(sounds: Sequence[Sound], seconds: float = SHORTEST_BED_S) -> list[np.ndarray]:
    """What words are mixed with: the recordings of each file, one after another.

    Args:
        sounds: From `recordings`.
        seconds: The shortest that is taken.

    Returns:
        int16 arrays.
    """
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for sound in lasting(sounds, seconds):
        parts.setdefault((sound.kind, sound.file), []).append(sound.pcm)
    return [np.concatenate(pieces) for pieces in parts.values()]


def windows(
    sounds: Sequence[Sound], count: int, samples: int, seed: int | list[int]
) -> np.ndarray:
    """Windows drawn anywhere in the recordings.

    A kind is drawn by the square root of its length: what there is little of is heard
    as well.

    Args:
        sounds: From `recordings`.
        count: How many windows.
        samples: Length of each.
        seed: Of the draw.

    Returns:
        int16 [count, samples].
    """
    rng = np.random.default_rng(seed)
    kinds = [pcm for pcm in joined(sounds).values() if len(pcm) >= samples]
    if not kinds:
        raise KwsError(
            f"The ambient recordings of no kind last {samples / SAMPLE_RATE:g} s. "
            f"Received: {sum(len(s.pcm) for s in sounds) / SAMPLE_RATE:.1f} s in all",
            "Add recordings, or leave --ambient out.",
        )
    weights = np.sqrt([len(pcm) for pcm in kinds])
    which = rng.choice(len(kinds), size=count, p=weights / weights.sum())
    where = rng.random(count)
    out = np.empty((count, samples), np.int16)
    for row, kind, at in zip(out, which, where, strict=True):
        start = int(at * (len(kinds[kind]) - samples + 1))
        row[:] = kinds[kind][start : start + samples]
    return out


def fingerprint(recordings: Sequence[np.ndarray], kinds: Sequence[str] = ()) -> str:
    """SHA-256 of recordings in their order, and of what each is.

    Args:
        recordings: int16 [samples] each.
        kinds: Of each: noise, speech ...; () for none.

    Example:
        >>> quiet, loud = np.zeros(2, np.int16), np.ones(2, np.int16)
        >>> fingerprint([quiet, loud]) == fingerprint([loud, quiet])
        False
    """
    digest = hashlib.sha256(" ".join(kinds).encode())
    for pcm in recordings:
        digest.update(f" {len(pcm)} ".encode())
        digest.update(np.ascontiguousarray(pcm).data)
    return digest.hexdigest()


def overview(sounds: Sequence[Sound]) -> str:
    """One line: minutes of each kind."""
    return ", ".join(
        f"{kind} {len(pcm) / SAMPLE_RATE / 60:.1f} min"
        for kind, pcm in joined(sounds).items()
    )


def words_in(text: str, words: Sequence[str]) -> list[str]:
    """Those of the words that are in a text.

    Example:
        >>> words_in("Hey computer, no!", ("computer", "no", "yes"))
        ['computer', 'no']
    """
    if not _said(text, words):
        return []  # as most texts
    return [word for word in words if _said(text, (word,))]


def _said(text: str, words: Sequence[str]) -> bool:
    """Whether one of the words is in a text; written as one with what people are called
    by, too: *heycomputer*, *smartmirror*."""
    whole = _spoken(text)
    for word in map(_spoken, words):
        glued = word.replace(" ", "")
        as_one = {glued, *(call + glued for call in CALLS)}
        if word in whole or not as_one.isdisjoint(whole.split()):
            return True
    return False


def _spoken(text: str) -> str:
    """A text's words with spaces around each, so that a phrase is found in it."""
    found = re.findall(r"[^\W_]+", names.composed(text))
    return f" {' '.join(names.key(word) for word in found)} "


def _indexed(folder: Path, split: str) -> list[Sound]:
    path = folder / "index.tsv"
    header, *lines = names.read_text(path).splitlines() or [""]
    columns = [names.key(name) for name in header.split("\t")]
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise _broken(path, f"its first line doesn't name {', '.join(missing)}")
    known = (*_COLUMNS, *_MORE_COLUMNS)
    if twice := [name for name in known if columns.count(name) > 1]:
        raise _broken(path, f"its first line names {', '.join(twice)} twice")
    if others := [name for name in columns if name and name not in known]:
        audio.say(f"{path}: columns that aren't read: {', '.join(others)}")
    out = []
    for number, line in enumerate(lines, 2):
        fields = dict(zip(columns, line.split("\t"), strict=False))
        numbers = [fields.get(name, "") for name in ("first_sample", "samples")]
        if (
            not all(text.isdecimal() and len(text) < 13 for text in numbers)
            or fields.get("split") not in SPLITS
            or not fields.get("kind")
            or not re.fullmatch(r"[\w.-]{1,60}", fields.get("file", ""))
        ):
            raise _broken(path, f"line {number} can't be read: {line[:80]!r}")
        if not int(numbers[1]):
            raise _broken(path, f"line {number} is of no samples: {line[:80]!r}")
        if fields["split"] != split:
            continue
        if not (folder / fields["file"]).is_file():
            raise _broken(path, f"line {number}: there is no {fields['file']}")
        first, length = map(int, numbers)
        samples = _decoded(folder / fields["file"])[first : first + length]
        if len(samples) != length:
            raise _broken(path, f"{fields['file']} ends before line {number}'s samples")
        out.append(
            Sound(
                samples,
                fields["kind"],
                fields["file"],
                fields.get("name", ""),
                fields.get("text", ""),
            )
        )
    return out


def _decoded(file: Path) -> np.ndarray:
    try:
        return archives.decoded(file)
    except audio.NotUsable as error:
        if error.fault in ("wrong_rate", "stereo"):
            error.hint = (
                f"ffmpeg -i {quoted(file)} -ac 1 -ar {SAMPLE_RATE} -sample_fmt s16 "
                f"{quoted(file.with_name(f'{file.stem}-16k.wav'))}   (and name that in "
                f"index.tsv, by samples of {SAMPLE_RATE} Hz)"
            )
        raise


def _files(folder: Path, split: str) -> list[Sound]:
    out = []
    low, high = SHARE[split]
    texts = _transcripts(folder)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        # Hidden: what was deleted, or is being unpacked.
        if any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file() or not audio.is_audio(path):
            continue
        text = texts.get((path.parent, path.stem))
        if text is not None:
            speaker = path.stem.partition("-")[0]
            if split_of(f"{speaker}_nohash_0.wav") != split:
                continue
        samples = audio.read(path).pcm
        if text is not None:
            pass  # whole
        elif len(samples) >= LONG_S * SAMPLE_RATE:
            samples = samples[int(low * len(samples)) : int(high * len(samples))]
        elif split_of(path.name) != split:
            continue
        kind = _kind(folder, relative)
        out.append(Sound(samples, kind, str(relative), path.stem, text or ""))
    return out


def _kind(folder: Path, relative: Path) -> str:
    within = relative.parts[:-1]
    own = folder.resolve().name
    known = [name for name in (own, *within) if name in KINDS]
    return known[-1] if known else (*within, own)[0]


def _transcripts(folder: Path) -> dict[tuple[Path, str], str]:
    """LibriSpeech's: folder and name of a recording -> what is said in it."""
    found = {}
    for path in folder.rglob("*.trans.txt"):
        for line in names.read_text(path).splitlines():
            name, _, text = line.partition(" ")
            found[path.parent, name] = text
    return found


def _broken(path: Path, problem: str) -> KwsError:
    return KwsError(
        f"The index of ambient sound is broken: {problem}. Received: {path}",
        "Its columns: file, first_sample, samples, split, kind, speaker, name, text.",
    )
