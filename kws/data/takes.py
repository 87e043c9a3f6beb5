"""Recordings of any rate, format and length become a corpus: cut, centred, levelled.

A take is one recording of a word, said once or many times with pauses between. Its
folder's name is the word. What was taken, and what was not and why, is on a page with
waveforms and players, beside the clips.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kws.data import audio, cut, names, sheet
from kws.data.audio import SAMPLE_RATE
from kws.data.cut import Piece, Span, Take
from kws.data.speech_commands import NOISE_FOLDERS, clips_in, is_left_by_systems
from kws.data.splits import some
from kws.data.verify import CLIPPED_SHARE
from kws.errors import KwsError, quoted
from kws.recipe import UNKNOWN

VERSION = 1
RECORD, SHEET = "import.json", "contact_sheet.html"
NOISE = NOISE_FOLDERS[0]
MAX_TAKE_S = 3600.0
LEVEL_DB = -22.0  # root mean square of a word, of full scale
PEAK = 0.89  # of full scale, at most
MAX_GAIN_DB = 36.0  # a word that needs more was hardly recorded
LOUDER_DB = 6.0  # than the room: less is no word to learn from
QUIETER_DB = 15.0  # than the other words of a take: a breath, a chair
SHORTER = 0.4  # of their length: a key, a part of the word
CLICK = "a click, too short for a word"
PHRASE_PAUSE_S = 0.45  # sets phrases of several words apart
_ROOM = 800  # samples: what is shorter does not tell how the room sounds
_FADE = 80  # samples, between a word's surroundings and the room's sound


@dataclass
class Imported:
    """What an import gave.

    Args:
        out: The corpus.
        made: Clips and noises written; 0 where the corpus was there.
        speakers: Name -> how it was found.
        pieces: Of all takes, in order.
        unreadable: File -> why.
        strays: Files that are no recordings.
        converted: What recordings were (`44,100 Hz stereo m4a`) -> how many.
    """

    out: Path
    made: int
    speakers: dict[str, str]
    pieces: list[Piece] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)

    @property
    def words(self) -> dict[str, dict[str, int]]:
        """word -> recordings, clips, left_out."""
        table: dict[str, dict[str, int]] = {}
        takes: dict[str, set[Path]] = {}
        for piece in self.pieces:
            word = piece.take.word
            row = table.setdefault(word, {"recordings": 0, "clips": 0, "left_out": 0})
            row["clips" if piece.name else "left_out"] += 1
            takes.setdefault(word, set()).add(piece.take.file)
        for word, files in takes.items():
            table[word]["recordings"] = len(files)
        return table


def find(
    folders: Sequence[Path], speaker: str | None = None
) -> tuple[list[Take], dict[str, str], list[Path]]:
    """The takes in folders, who speaks, and files that are none.

    Each folder holds a folder for every word, or is one itself. Within a word's folder
    the recordings lie side by side, or in a folder for every speaker.

    Args:
        folders: Where to look.
        speaker: Who speaks in all of them; None: whom a file's name tells
            (`<speaker>_nohash_<n>`), else the speaker's folder, else the folder that
            holds the word's.

    Returns:
        Takes in order; speaker -> how the name was found; files left aside.

    Raises:
        KwsError: no such folder, none with recordings, or one whose name is no word.
    """
    takes: list[Take] = []
    strays: list[Path] = []
    speakers: dict[str, str] = {}
    spelled: dict[str, str] = {}

    def add(file: Path, word: str, folder: Path) -> None:
        who, how = _speaker(file, folder, speaker)
        if word != NOISE:  # in which nobody speaks
            speakers.setdefault(who, how)
        takes.append(Take(file, spelled.setdefault(names.key(word), word), who))

    for folder in folders:
        if not folder.is_dir():
            what = "That is a file." if folder.is_file() else "There is no such folder."
            raise KwsError(
                f"{what} Expected a folder for each word, with recordings of it. "
                f"Received: {str(folder)!r}",
                "kws data import recordings --out corpus   (recordings/yes/take.m4a)",
            )
        folder = folder.resolve()
        inside = [path for path in _listed(folder) if path.is_dir()]
        people = [path for path in inside if _holds_words(path)]
        if people:
            raise KwsError(
                "These are folders of people, each with folders of words. Expected "
                f"people's folders themselves. Received: {str(folder)!r} with "
                f"{people[0].name}/{NOISE}",
                shlex.join(["kws", "data", "import", *map(str, inside)])
                + " --out corpus",
            )
        words = [path for path in inside if any(_recordings(path))]
        if clips_in(folder) and words:
            raise KwsError(
                f"The folder holds recordings itself, and folders of recordings. "
                f"Expected either a word's folder or one of words. Received: "
                f"{str(folder)!r} with {clips_in(folder)[0].name} and "
                f"{words[0].name}",
                "Put the recordings into the folder of the word that they say.",
            )
        for place in words or [folder]:
            word = _word(place)
            strays += _strays(place)
            for file in _recordings(place):
                if len(file.relative_to(place).parts) > 2:
                    strays.append(file)
                else:
                    add(file, word, place)
        strays += _strays(folder)
    if not takes:
        raise KwsError(
            "No recordings found. Expected a folder for each word, with recordings of "
            f"it. Received: {', '.join(str(folder) for folder in folders)}",
            "kws data import recordings --out corpus   (recordings/yes/take.m4a)",
        )
    return takes, speakers, list(dict.fromkeys(strays))


def make(
    folders: Sequence[Path],
    out: Path,
    speaker: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    clip_seconds: float = 1.0,
) -> Imported:
    """Import folders of takes into a corpus in the Speech Commands layout.

    Equal recordings and options give equal files. An import that is there already is
    left as it is; one of other recordings is made anew, unless somebody changed it.

    Args:
        folders: As for `find`.
        out: A folder that is absent, empty, or holds an import.
        speaker: As for `find`.
        progress: Called with (recordings done, recordings of all).
        clip_seconds: Length of a clip.

    Raises:
        KwsError: nothing to import, or a folder that holds something else.
    """
    out = Path(out)
    place = out.resolve()  # a link stays one: its folder is written
    takes, speakers, strays = find(folders, speaker)
    for folder in folders:
        if place.is_relative_to(folder.resolve()):
            raise KwsError(
                "The corpus can't be inside what is imported. Expected another folder "
                f"for --out. Received: {str(out)!r} in {str(folder)!r}",
                f"kws data import {quoted(folder)} --out "
                f"{quoted(f'{folder.resolve()}-corpus')}",
            )
    sources = [
        {
            "file": os.path.relpath(take.file, place.parent),
            "word": take.word,
            "speaker": take.speaker,
            "sha256": _hash(take.file),
        }
        for take in takes
    ]
    size = round(clip_seconds * SAMPLE_RATE)
    kept = {"version": VERSION, "sources": sources, "clip_seconds": clip_seconds}
    done = Imported(out, 0, speakers, strays=strays)
    if _is_in_use(out):
        record = _record(out)
        record.setdefault("clip_seconds", 1.0)
        if {key: record.get(key) for key in kept} == kept:
            done.pieces = [Piece(takes[i], *rest) for i, *rest in record["pieces"]]
            done.unreadable = {takes[i].file: why for i, why in record["unreadable"]}
            return done
        _check_untouched(out, record)
    place.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        _make(takes, done, building, progress, size)
        done.made = len(list(building.glob("*/*.wav")))
        if not done.made:
            raise _nothing(done)
        (building / SHEET).write_text(
            sheet.page(done.pieces, done.unreadable, out, clip_seconds),
            encoding="utf-8",
        )
        files = {
            path.relative_to(building).as_posix(): _hash(path)
            for path in sorted(building.rglob("*"))
            if path.is_file()
        }
        numbers = {take.file: number for number, take in enumerate(takes)}
        text = {
            **kept,
            "pieces": [
                [numbers[p.take.file], p.start_s, p.stop_s, p.name, p.problem]
                for p in done.pieces
            ],
            "unreadable": [
                [numbers[file], why] for file, why in done.unreadable.items()
            ],
            "files": files,
        }
        (building / RECORD).write_text(json.dumps(text, indent=1) + "\n")
        building.chmod(0o755)
        _put(building, place)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return done


def pieces_of(
    take: Take, pcm: np.ndarray, size: int = SAMPLE_RATE
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Cut a take: every stretch of sound with the clip that it gives.

    A recording no longer than a clip is one clip as it is, moved so that its sound is
    in the middle; unless that is but a click. In a longer one, pauses set the words
    apart.

    Args:
        take: What it is.
        pcm: int16 [samples] at 16 kHz.
        size: Samples of a clip.

    Yields:
        The piece, and int16 [size]; empty where the piece has a problem.
    """
    # Between the words of a phrase people wait longer than within a word.
    phrase = " " in take.word or "-" in take.word
    found = cut.words(pcm, PHRASE_PAUSE_S if phrase else cut.PAUSE_S)
    if len(pcm) <= size:
        if clicks := _nothing_but_clicks(pcm, found):
            for span in clicks:
                yield _left(take, pcm, span, CLICK)
            return
        if not found.spans:  # cut so tightly that there is no pause in it
            found = cut.Found([Span(0, len(pcm), 0.0)], [], (0, 0), 0.0)
        first, last = found.spans[0].start, found.spans[-1].stop
        whole = Span(first, last, loudness(pcm[first:last]))
        yield _taken(take, pcm, whole, found, (0, len(pcm)), size)
        return
    if not found.spans:
        problem = f"no word stands out: {found.contrast_db:.0f} dB over the noise"
        yield _left(take, pcm, Span(0, len(pcm), 0.0), problem)
        return
    # Most of a take is the word; of two sounds, the louder one is.
    usual = _upper([span.level_db for span in found.spans])
    long = _upper([span.seconds for span in found.spans])
    sounds = sorted([*found.spans, *found.clicks], key=lambda span: span.start)
    for place, span in enumerate(sounds):
        before = sounds[place - 1].stop if place else 0
        after = sounds[place + 1].start if place + 1 < len(sounds) else len(pcm)
        low = (before + span.start) // 2 if place else 0
        high = (span.stop + after) // 2 if place + 1 < len(sounds) else len(pcm)
        problem = ""
        if span in found.clicks:
            problem = CLICK
        elif span.seconds > cut.longest_s(size):
            problem = (
                f"{span.seconds:.1f} s of sound without a pause; a clip is "
                f"{size / SAMPLE_RATE:g} s"
            )
        elif span.level_db < usual - QUIETER_DB:
            problem = (
                f"{usual - span.level_db:.0f} dB quieter than the other words of the "
                "recording"
            )
        elif span.seconds < SHORTER * long:
            problem = (
                f"{span.seconds:.2f} s, much shorter than the other words of the "
                "recording"
            )
        if problem:
            yield _left(take, pcm, span, problem)
        else:
            yield _taken(take, pcm, span, found, (low, high), size)


def _nothing_but_clicks(pcm: np.ndarray, found: cut.Found) -> list[Span]:
    """The clicks of a recording that is too short for a word, or too quiet but for
    them. In a word that was cut tightly a burst may stand out, too."""
    if found.spans:
        return []
    if len(pcm) < cut.SHORTEST_S * SAMPLE_RATE:
        return [Span(0, len(pcm), 0.0)]
    rest = pcm.copy()
    for span in found.clicks:
        rest[span.start : span.stop] = 0
    return found.clicks if loudness(rest) < LEVEL_DB - MAX_GAIN_DB else []


def _upper(values: list[float]) -> float:
    """The upper quartile, of two the larger."""
    return float(np.percentile(values, 75, method="higher"))


def _left(
    take: Take, pcm: np.ndarray, span: Span, problem: str
) -> tuple[Piece, np.ndarray]:
    edge = SAMPLE_RATE // 5
    seen = pcm[max(0, span.start - edge) : span.stop + edge]
    return (
        Piece(
            take,
            span.start / SAMPLE_RATE,
            span.stop / SAMPLE_RATE,
            problem=problem,
            wave=sheet.wave(seen[: 5 * SAMPLE_RATE]),
        ),
        pcm[:0],
    )


def _taken(
    take: Take,
    pcm: np.ndarray,
    span: Span,
    found: cut.Found,
    inside: tuple[int, int],
    size: int,
) -> tuple[Piece, np.ndarray]:
    """The clip around a span, out of what lies inside."""
    low, high = inside
    word = pcm[span.start : span.stop].astype(np.float64) / 32768
    level = loudness(pcm[span.start : span.stop])
    clipped = float((np.abs(word) >= 32767 / 32768).mean()) if len(word) else 0.0
    room = pcm[found.quiet[0] : found.quiet[1]]
    over = level - loudness(room) if len(room) >= _ROOM else np.inf
    problem = ""
    if level < LEVEL_DB - MAX_GAIN_DB:
        problem = f"too quiet: {level:.0f} dB of full scale"
    elif clipped > CLIPPED_SHARE:
        problem = f"clipped: {clipped:.0%} of its samples are at full scale"
    elif over < LOUDER_DB:
        problem = f"hardly louder than the room: {over:.0f} dB"
    if problem:
        return _left(take, pcm, span, problem)
    start = (span.start + span.stop) // 2 - size // 2
    first, last = max(start, low), min(start + size, high)
    gain = min(10 ** ((LEVEL_DB - level) / 20), PEAK / max(np.abs(word).max(), 1e-9))
    made = _room(room, size)
    said = pcm[first:last].astype(np.float64)
    ramp = np.ones(len(said))
    fade = min(_FADE, len(said) // 2)
    if first > start and fade:
        ramp[:fade] = np.linspace(0, 1, fade)
    if last < start + size and fade:
        ramp[-fade:] = np.linspace(1, 0, fade)
    part = slice(first - start, last - start)
    made[part] = said * ramp + made[part] * (1 - ramp)
    made = np.clip(np.rint(made * gain), -32768, 32767).astype(np.int16)
    piece = Piece(
        take,
        span.start / SAMPLE_RATE,
        span.stop / SAMPLE_RATE,
        name="?",
        wave=sheet.wave(made),
    )
    return piece, made


def loudness(pcm: np.ndarray) -> float:
    """Root mean square, dB of full scale."""
    if not len(pcm):
        return -100.0
    power = float(np.mean(np.square(pcm.astype(np.float64) / 32768)))
    return 10 * float(np.log10(max(power, 1e-10)))


def _room(quiet: np.ndarray, size: int) -> np.ndarray:
    """The room's own sound for `size` samples; zeros where there is too little."""
    if len(quiet) < _ROOM:
        return np.zeros(size)
    there_and_back = np.concatenate([quiet, quiet[::-1]]).astype(np.float64)
    return np.resize(there_and_back, size)


def _make(
    takes: list[Take],
    done: Imported,
    out: Path,
    progress: Callable[[int, int], None] | None,
    size: int,
) -> None:
    numbers: Counter[tuple[str, str]] = Counter()
    heard: dict[str, str] = {}
    for place, take in enumerate(takes, 1):
        try:
            sound = audio.read(take.file, MAX_TAKE_S)
        except audio.NotUsable as error:
            done.unreadable[take.file] = error.problem
            continue
        finally:
            if progress is not None:
                progress(place, len(takes))
        if sound.source:
            done.converted[sound.source] += 1
        if take.word == NOISE and len(sound.pcm) < SAMPLE_RATE:
            done.unreadable[take.file] = "noise of less than a second is of no use"
        elif take.word == NOISE:
            _write(out / NOISE / f"{plain(take.file.stem)}.wav", sound.pcm)
        cuts = pieces_of(take, sound.pcm, size) if take.word != NOISE else ()
        for piece, pcm in cuts:
            if piece.problem:
                done.pieces.append(piece)
                continue
            digest = hashlib.sha256(pcm.tobytes()).hexdigest()
            if digest in heard:
                same = f"the same as {heard[digest]}"
                done.pieces.append(replace(piece, name="", problem=same))
                continue
            number = numbers[take.word, take.speaker]
            numbers[take.word, take.speaker] += 1
            name = f"{folder_name(take.word)}/{take.speaker}_nohash_{number}.wav"
            heard[digest] = name
            _write(out / name, pcm)
            done.pieces.append(replace(piece, name=name))


def folder_name(word: str) -> str:
    """The folder of a word in the corpus: lower case, `_` for a space."""
    return word if word.startswith("_") else word.lower().replace(" ", "_")


def _write(file: Path, pcm: np.ndarray) -> None:
    file.parent.mkdir(exist_ok=True)
    stem, number = file.stem, 1
    while file.exists():  # two noises of one name
        number += 1
        file = file.with_name(f"{stem}_{number}.wav")
    file.write_bytes(audio.wav_bytes(pcm))


def _word(folder: Path) -> str:
    """The word that a folder's name is."""
    name = folder.name
    if name in NOISE_FOLDERS:
        return NOISE
    if name == UNKNOWN:
        return UNKNOWN
    word = names.composed(name.replace("_", " ")).lower()
    if name.startswith("_") or not names.is_word(word):
        raise KwsError(
            "A folder's name is the word that its recordings say. Expected letters and "
            f"digits, with spaces, _, - or ' between them, or {NOISE} or {UNKNOWN}. "
            f"Received: {str(folder)!r}",
            "Rename it to the word, such as: hey_robot",
        )
    return word


def _speaker(file: Path, folder: Path, given: str | None) -> tuple[str, str]:
    """(name, how it was found) of the speaker of a recording in a word's folder."""
    if given is not None:
        return named(given), "given by --speaker"
    told = re.fullmatch(r"([^_].*)_nohash_\d+", file.stem)
    if told is not None:
        return plain(told[1]), "from the names of the recordings"
    if file.parent != folder:
        return plain(file.parent.name), "from the folder within the word's"
    return plain(folder.parent.name), "from the folder that holds the words'"


def named(text: str) -> str:
    """`plain` of a speaker's name that somebody chose.

    Raises:
        KwsError: nothing of it can stand in a file's name: all such were one person.
    """
    if not any(letter.isalnum() for letter in text):
        raise KwsError(
            "A speaker's name stands in the files' names. Expected a letter or a digit "
            f"in it. Received: {text!r}",
            "Choose another name, such as: anna",
        )
    return plain(text)


def plain(text: str) -> str:
    """A speaker's name as a part of a file's name: letters, digits and hyphens."""
    text = names.composed(text)
    made = "".join(letter if letter.isalnum() else "-" for letter in text)
    return re.sub(r"-+", "-", made).strip("-") or "somebody"


def _holds_words(folder: Path) -> bool:
    """Whether a folder is somebody's, with folders of words, and no word's with folders
    of speakers: nobody is called _background_noise_."""
    return folder.name not in NOISE_FOLDERS and any(
        path.is_dir() and (path.name in NOISE_FOLDERS or path.name == UNKNOWN)
        for path in _listed(folder)
    )


def _strays(folder: Path) -> list[Path]:
    """Files of a folder that are no recordings."""
    others = audio.contents(folder)[1]
    return [f for f in others if f.is_file() and not is_left_by_systems(f)]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, without what systems put there."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and path.name.lower() not in names.LEFT_BY_SYSTEMS
    ]


def _recordings(folder: Path) -> Iterator[Path]:
    """All recordings below a folder, in order."""
    for path in _listed(folder):
        if path.is_dir():
            yield from _recordings(path)
        elif audio.is_audio(path):
            yield path


def _is_in_use(out: Path) -> bool:
    return out.is_file() or (out.is_dir() and any(out.iterdir()))


def _record(out: Path) -> dict[str, Any]:
    """What import.json says; empty where there is none."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record.get("files"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _check_untouched(out: Path, record: dict[str, Any]) -> None:
    """Raise where a folder is no import, or was changed since."""
    there = {
        path.relative_to(out).as_posix(): path
        for path in out.rglob("*")
        if path.is_file()
        and path.name != RECORD
        and not path.name.startswith(".")
        and path.name.lower() not in names.LEFT_BY_SYSTEMS
    }
    files = record.get("files", {})
    changed = sorted(
        name
        for name in {*there, *files}
        if name not in files or name not in there or _hash(there[name]) != files[name]
    )
    if not files or changed:
        what = f", changed by hand: {some(changed)}" if files else ""
        raise KwsError(
            "The folder to write to is in use. Expected a new or empty folder, or an "
            f"import that was not changed. Received: {str(out)!r}{what}",
            f"kws data import ... --out {quoted(f'{out}-new')}",
        )


def _put(building: Path, out: Path) -> None:
    """Rename the finished folder into its place."""
    if out.is_dir():
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            out.replace(old)
            building.replace(out)
        except BaseException:
            if out.exists():
                old.rmdir()
            else:
                old.replace(out)
            raise
        shutil.rmtree(old)
    else:
        building.replace(out)


def _nothing(done: Imported) -> KwsError:
    reasons = [f"{file.name}: {why}" for file, why in done.unreadable.items()]
    reasons += [f"{p.take.file.name}: {p.problem}" for p in done.pieces if p.problem]
    return KwsError(
        "No clip could be taken from these recordings. Expected words with pauses "
        f"between them. Received: {some(list(dict.fromkeys(reasons)), 5)}",
        "Say a word, wait half a second, say it again; nearer to the microphone.",
        exit_code=1,
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
