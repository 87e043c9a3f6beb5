"""Hard negatives by listening: what a run takes for words in sound that holds none.

The firmware's C runs over ambient recordings of training; the windows in which it heard
a word, or nearly did, become clips of another word, which the next training takes
(`--also`). Every call with another run is a round; what is there is not taken twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle, write_atomic
from kws.data import ambient
from kws.data.ambient import Sound
from kws.data.audio import SAMPLE_RATE, wav_bytes
from kws.data.speech_commands import MISTAKEN
from kws.data.splits import all_for_training
from kws.deploy import host
from kws.emit.common import first_word, word_thresholds
from kws.errors import KwsError, quoted
from kws.recipe import Q15_ONE, decision_ms, refractory_decisions

RECORD = "mined.json"
VERSION = 2
APART = SAMPLE_RATE // 2  # samples from one clip of a recording to the next, at least
MAX_CLIPS = 100_000
_NAME = re.compile(r"[0-9a-f]{12}_nohash_0\.wav")  # see _name
DIGITS = 16  # of a recording's hash
FITS = 1 << 40  # no count, time or score of a record is as large
# What files may raise that somebody else wrote.
_UNREADABLE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
)


@dataclass(frozen=True)
class Find:
    """A window, as long as a clip, that sounds like a word.

    Args:
        kind: Of the recording.
        file: Name of the recording.
        sound: Of its samples, the first digits of their SHA-256: what tells it from
            others, wherever it lies.
        start: First sample.
        word: What it sounds like.
        score: Smoothed posterior over the word's threshold: 1 and more was heard.
    """

    kind: str
    file: str
    sound: str
    start: int
    word: str
    score: float


@dataclass(frozen=True)
class Round:
    """What one run heard.

    Args:
        run: Its name.
        hash: Its bundle's.
        near: Share of the threshold from which on a second is near a word.
        most: Clips that were to be taken at most.
        sound: SHA-256 of the recordings.
        hours: Of the recordings.
        false_alarms: Words heard by the detector, refractory time and all.
        heard: Seconds at or over a word's threshold.
        nearly: Seconds below it, but near.
        known: Of both, those that an earlier round had taken.
        taken: Clips written.
        kinds: Of each kind of sound: hours, false alarms, taken.
        words: Clips taken for each word.
    """

    run: str
    hash: str
    near: float
    most: int
    sound: str
    hours: float
    false_alarms: int
    heard: int
    nearly: int
    known: int
    taken: int
    kinds: dict[str, dict[str, float]]
    words: dict[str, int]


@dataclass
class _Record:
    """A folder's rounds, and of each clip: recording, first sample, name, sound."""

    rounds: list[Round] = field(default_factory=list)
    clips: list[tuple[str, int, str, str]] = field(default_factory=list)

    def write(self, out: Path) -> None:
        table = {"version": VERSION, **asdict(self)}
        write_atomic(out / RECORD, (json.dumps(table, indent=1) + "\n").encode())


def mine(
    bundle: Bundle,
    folders: Sequence[Path],
    out: Path,
    near: float = 0.5,
    most: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Round, list[Round]]:
    """Listen to ambient recordings of training, and cut out what sounds like a word.

    Stopped, the same call goes on after the last whole recording, or makes the clips
    again.

    Args:
        bundle: The run that listens.
        folders: Of ambient sound (kws.data.ambient); only its training split is heard.
        out: Folder of the clips: absent, empty, or of earlier rounds.
        near: Share of a word's threshold from which on a second is taken.
        most: Clips to take in this round at most, those of the highest scores.
        progress: Called with (seconds heard, seconds of all).

    Returns:
        This round, and all of the folder's, in order.

    Raises:
        KwsError: no recordings, a folder in use, `near` not within 0 and 1.
    """
    if not 0 < near <= 1 or not 0 < most <= MAX_CLIPS:
        raise KwsError(
            "Expected a share of the threshold above 0 and at most 1, and 1 to "
            f"{MAX_CLIPS} clips. Received: {near:g} and {most}",
            "kws data mine ... --nearly 0.5 --most 2000",
        )
    record = _read(out)
    first = first_word(bundle.labels)
    words = bundle.labels[first:]
    recordings = _recordings(folders, words)
    digests = [hashlib.sha256(sound.pcm.tobytes()).hexdigest() for sound in recordings]
    sound = hashlib.sha256("".join(digests).encode()).hexdigest()
    rounds = record.rounds
    for old in rounds:
        if (old.hash, old.near, old.most, old.sound) == (
            bundle.hash,
            near,
            most,
            sound,
        ):
            return old, rounds
    finds, alarms = _listen(bundle, recordings, digests, out, near, progress)
    known: dict[str, list[int]] = {}
    for _, start, _, heard in record.clips:
        known.setdefault(heard, []).append(start)
    places = {heard: np.array(starts) for heard, starts in known.items()}
    fresh = [
        find
        for find in finds
        if find.sound not in places
        or abs(places[find.sound] - find.start).min() >= APART
    ]
    fresh.sort(key=lambda find: (-find.score, find.kind, find.file, find.start))
    taken = fresh[:most]
    # Before the first clip: the folder is known as one of rounds, should this one stop.
    record.write(out)
    _remove_unlisted(out, record)
    by_file = {recording.file: recording.pcm for recording in recordings}
    for find in taken:
        clip = _cut(by_file[find.file], find.start, bundle.recipe.task.clip_samples)
        write_atomic(out / _name(find), wav_bytes(clip))
    seconds = {
        kind: len(pcm) / SAMPLE_RATE for kind, pcm in ambient.joined(recordings).items()
    }
    kinds = {
        kind: {
            "hours": round(length / 3600, 6),
            "false_alarms": sum(
                count
                for recording, count in zip(recordings, alarms, strict=True)
                if recording.kind == kind
            ),
            "taken": sum(find.kind == kind for find in taken),
        }
        for kind, length in seconds.items()
    }
    done = Round(
        bundle.recipe.name,
        bundle.hash,
        near,
        most,
        sound,
        round(sum(seconds.values()) / 3600, 6),
        sum(alarms),
        sum(find.score >= 1 for find in finds),
        sum(find.score < 1 for find in finds),
        len(finds) - len(fresh),
        len(taken),
        kinds,
        {word: sum(find.word == word for find in taken) for word in words},
    )
    rounds.append(done)
    record.clips += [(find.file, find.start, _name(find), find.sound) for find in taken]
    # All of it is for training, whatever the data set's rule says of the names.
    all_for_training(out)
    record.write(out)
    shutil.rmtree(_partial(out, bundle, near), ignore_errors=True)
    return done, rounds


def _recordings(folders: Sequence[Path], words: Sequence[str]) -> list[Sound]:
    """The training recordings, those of a file as one; no two of one name."""
    out: dict[tuple[str, str], list[Sound]] = {}
    for number, folder in enumerate(folders):
        for sound in ambient.recordings(folder, "train", words):
            name = sound.file if len(folders) == 1 else f"{number}/{sound.file}"
            out.setdefault((sound.kind, name), []).append(sound)
    joined = []
    for (kind, name), sounds in out.items():
        pcm = np.concatenate([sound.pcm for sound in sounds])
        joined.append(Sound(pcm, kind, f"{kind}/{name}", name))
    return joined


def _listen(
    bundle: Bundle,
    recordings: Sequence[Sound],
    digests: Sequence[str],
    out: Path,
    near: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Find], list[int]]:
    """What sounds like a word, and false alarms, of each recording."""
    folder = _partial(out, bundle, near)
    finds: list[Find] = []
    alarms = []
    heard = 0
    seconds = [len(sound.pcm) // SAMPLE_RATE for sound in recordings]
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        for sound, digest, length in zip(recordings, digests, seconds, strict=True):
            file = folder / f"{digest}.json"
            row = _kept(file)
            if row is None:
                row = _peaks(bundle, copy, sound.pcm, near)
                write_atomic(file, json.dumps(row).encode())
            alarms.append(row["false_alarms"])
            finds += [
                Find(sound.kind, sound.file, digest[:DIGITS], start, word, score)
                for start, word, score in row["peaks"]
            ]
            heard += length
            if progress is not None:
                progress(heard, sum(seconds))
    return finds, alarms


def _kept(file: Path) -> dict[str, Any] | None:
    """What was heard of a recording before; None where that can't be read."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        _check((), [row["false_alarms"], *(at for at, _, _ in row["peaks"])])
        _check([word for _, word, _ in row["peaks"]], (), [s for *_, s in row["peaks"]])
    except _UNREADABLE:
        return None
    return dict(row)


def _peaks(
    bundle: Bundle, copy: host.Opened, pcm: np.ndarray, near: float
) -> dict[str, Any]:
    """Seconds of a recording that sound like a word, none nearer than APART."""
    recipe = bundle.recipe
    detector = recipe.detector
    first = first_word(bundle.labels)
    own = np.array(word_thresholds(bundle))
    logits, time_ms = copy.decide(pcm)
    sums = copy.sums(logits, detector.smoothing)
    step_ms = decision_ms(recipe)
    threshold = np.rint(Q15_ONE * np.array([1.0] * first + list(own)))
    events = copy.hear(
        sums,
        detector.smoothing,
        refractory_decisions(recipe),
        threshold,
        np.full(len(bundle.labels), round(detector.rearm * Q15_ONE)),
    )
    scores = sums[0][:, first:] / detector.smoothing / Q15_ONE / own
    best = scores.argmax(axis=1)
    highest = scores[np.arange(len(scores)), best]
    # The decision in the middle of those that were averaged.
    late = (detector.smoothing // 2) * step_ms * SAMPLE_RATE // 1000
    starts = (
        time_ms.astype(np.int64) * SAMPLE_RATE // 1000 - late - recipe.task.clip_samples
    )
    taken: list[int] = []
    free = highest >= near
    for place in np.argsort(-highest, kind="stable"):
        if free[place]:
            taken.append(int(place))
            free &= abs(starts - starts[place]) >= APART
    return {
        "false_alarms": len(events[0]),
        "peaks": [
            [
                int(max(0, starts[place])),
                bundle.labels[first + int(best[place])],
                round(float(highest[place]), 5),
            ]
            for place in sorted(taken)
        ],
    }


def _cut(pcm: np.ndarray, start: int, samples: int) -> np.ndarray:
    clip = np.zeros(samples, np.int16)
    part = pcm[start : start + samples]
    clip[: len(part)] = part
    return clip


def _name(find: Find) -> str:
    """One name a clip, which the data set's rule takes for a speaker's."""
    where = f"{find.sound} {find.file} {find.start}"
    where = hashlib.sha256(where.encode()).hexdigest()[:12]
    return f"{MISTAKEN}/{where}_nohash_0.wav"


def _remove_unlisted(out: Path, record: _Record) -> None:
    """Clips of a round that was stopped while it wrote them: no round has them, and
    this one may be another run's. Files of other names are somebody else's."""
    listed = {name for _, _, name, _ in record.clips}
    for path in sorted((out / MISTAKEN).glob("*.wav")):
        name = f"{MISTAKEN}/{path.name}"
        if _NAME.fullmatch(path.name) and name not in listed:
            path.unlink()


def _partial(out: Path, bundle: Bundle, near: float) -> Path:
    return out / f".listening-{bundle.hash[:12]}-{near:g}"


def _read(out: Path) -> _Record:
    """The rounds of a folder; none where it is new."""
    begun = out.is_dir() and any(
        not path.name.startswith(".listening-") for path in out.iterdir()
    )
    if not begun and not out.is_file():
        return _Record()
    try:
        table = json.loads((out / RECORD).read_text(encoding="utf-8"))
        if table["version"] != VERSION:
            raise ValueError
        rounds = [_round(row) for row in table["rounds"]]
        clips = [(file, at, name, sound) for file, at, name, sound in table["clips"]]
        for file, at, name, sound in clips:
            _check([file, name, sound], [at])
    except _UNREADABLE:
        raise KwsError(
            "The folder to write to is in use. Expected a new one, or one of earlier "
            f"rounds. Received: {str(out)!r}",
            f"kws data mine ... --out {quoted(f'{out}-new')}",
        ) from None
    return _Record(rounds, clips)


def _round(row: dict[str, Any]) -> Round:
    done = Round(**row)
    _check(
        [done.run, done.hash, done.sound],
        [done.most, done.false_alarms, done.heard, done.nearly, done.known, done.taken],
        [done.near, done.hours],
    )
    for facts in done.kinds.values():
        _check((), [facts["false_alarms"], facts["taken"]], [facts["hours"]])
    _check((), list(done.words.values()))
    return done


def _check(
    texts: Sequence[Any], counts: Sequence[Any], numbers: Sequence[Any] = ()
) -> None:
    """Raise ValueError unless these are texts, whole numbers and numbers of 0 or more
    that fit."""
    if (
        not all(type(text) is str for text in texts)
        or not all(type(count) is int for count in counts)
        or not all(type(number) in (int, float) for number in numbers)
        or not all(0 <= number < FITS for number in (*counts, *numbers))
    ):
        raise ValueError
