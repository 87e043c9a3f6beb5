"""Speech Commands and folders laid out like it: splits, tasks, silence, unknown.

Two layouts are read, and told apart by looking:

- the official folder: `word/speaker_nohash_n.wav`, `validation_list.txt`,
  `testing_list.txt`, `_background_noise_/*.wav`;
- archives: folders `train`, `val`, `test_v0.02`, `background_noise` (see archives.py).

The test set is the official "Speech Commands Data Set Test Files" where the folder
has them (`test_v0.02`, `test` or `speech_commands_test_set_v0.02` inside, as archives
or as 12 folders of .wav), else the clips of testing_list.txt, else the SHA-1 rule.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import write_atomic
from kws.data import archives, audio, names
from kws.data.archives import Recording
from kws.data.audio import SAMPLE_RATE
from kws.data.sources import check_once, counted
from kws.data.splits import SPLITS, Lists, read_lists, shared_out, some
from kws.errors import KwsError, quoted
from kws.paths import CHECKOUT, user_cache
from kws.recipe import SILENCE, UNKNOWN, Task

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_OTHER = (
    "backward bed bird cat dog eight five follow forward four happy house learn "
    "marvin nine one seven sheila six three tree two visual wow zero"
)
OTHER_WORDS = tuple(_OTHER.split())
TEST_FOLDERS = ("test_v0.02", "speech_commands_test_set_v0.02", "test")
NOISE_FOLDERS = ("_background_noise_", "background_noise")

# Parts of every noise recording, so that no silence clip of one split overlaps one
# of another.
NOISE_SHARE = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
# Loudness of drawn silence, root mean square in int16 units. Not a gain: recordings
# come at any level (two copies of the official ones differ by 40 dB), and the official
# test files have noise from -95 to -10 dB of full scale.
SILENCE_RMS_LOG10 = (0.3, 4.1)
ZERO_SILENCE_SHARE = 0.05
MANIFEST_VERSION = 1
# Folder of clips that a run took for words (kws data mine, kws eval --cut): unknown
# ones, of which every one is taken.
MISTAKEN = "false_alarm"


@dataclass(frozen=True)
class ClipSet:
    """One split of one task, decoded.

    Args:
        pcm: int16 [N, task.clip_samples].
        label: int32 [N], index into `labels`.
        names: N names: the data set's path of the clip, or
            `_silence_/<noise>@<first sample>` for silence that was drawn.
        labels: Label names in logit order.
        split: `train`, `val` or `test`.
        manifest: What was drawn: task, seed and a record per clip.
        taken: (folder, label) -> clips; the folder of silence that was drawn is ''.
        others: Clips of other words, without false alarms: taken, and there.
    """

    pcm: np.ndarray
    label: np.ndarray
    names: list[str]
    labels: tuple[str, ...]
    split: str
    manifest: dict[str, Any]
    taken: dict[tuple[str, str], int] = field(default_factory=dict)
    others: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest: equal for equal clips, order, gains and labels."""
        text = json.dumps(self.manifest, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def audio_hash(self) -> str:
        """SHA-256 of the decoded samples (lossy codecs may decode differently
        on another machine; the manifest's hash does not change there)."""
        return hashlib.sha256(np.ascontiguousarray(self.pcm).data).hexdigest()

    def save(self, path: Path) -> None:
        """Write the manifest with its hashes as JSON, a clip a line."""
        head = {key: self.manifest[key] for key in self.manifest if key != "clips"}
        head |= {"sha256": self.manifest_hash, "audio_sha256": self.audio_hash}
        clips = ",\n".join(json.dumps(clip) for clip in self.manifest["clips"])
        text = json.dumps(head, indent=1)[:-2] + ',\n "clips": [\n' + clips + "\n]\n}\n"
        write_atomic(path, text.encode())


def labels(task: Task) -> tuple[str, ...]:
    """Label names of a task, in logit order.

    `gsc12`: `_silence_`, `_unknown_` and ten commands; `gsc10`: without on and off;
    `gsc35`: the 35 words alone, in alphabetical order, no silence and no unknown;
    `custom`: `_silence_`, `_unknown_` and the task's words.

    Raises:
        KwsError: no such task, or words that can't be folders.

    Example:
        >>> labels(Task("custom", words=("hey robot",)))
        ('_silence_', '_unknown_', 'hey robot')
    """
    if task.name == "gsc12":
        return (SILENCE, UNKNOWN, *COMMANDS)
    if task.name == "gsc10":
        return (SILENCE, UNKNOWN, *(w for w in COMMANDS if w not in ("on", "off")))
    if task.name == "gsc35":
        return tuple(sorted([*COMMANDS, *OTHER_WORDS]))
    if task.name == "custom":
        return (SILENCE, UNKNOWN, *check_words(task.words))
    raise KwsError(
        f"No such task. Expected gsc12, gsc10, gsc35 or custom. Received: "
        f"{task.name!r}",
        "--task gsc10",
    )


def check_words(words: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The words, letters composed, if each can be a folder's name and none comes twice.

    Raises:
        KwsError: none, one twice, or one with other than letters, digits, spaces,
            hyphens and apostrophes.
    """
    hint = '--words "yes,hey robot"   (in a recipe: words = ["yes", "hey robot"])'
    if not words:
        raise KwsError("A custom task needs at least one word. Received: none", hint)
    spelled = tuple(names.composed(word) for word in words)
    for word in spelled:
        if not names.is_word(word):
            plain = word.replace("_", " ")  # as its folder is called
            raise KwsError(
                "A word may have letters and digits, with single spaces, hyphens or "
                f"apostrophes between them, 40 at most. Received: {word!r}",
                f"Write it with a space: {plain!r}" if names.is_word(plain) else hint,
            )
    once: dict[str, str] = {}
    for word in spelled:
        once.setdefault(names.key(word), word)
    if len(once) != len(spelled):
        raise KwsError(
            f"A word is named twice. Received: {list(words)!r}",
            f"Name each once: {', '.join(map(repr, once.values()))}",
        )
    return spelled


def folder_of(word: str) -> str:
    """The folder that holds a word's clips: `hey robot` -> `hey_robot`.

    Folders are found in other spellings too (kws.data.names.key).
    """
    return word.replace(" ", "_")


def find_data(explicit: Path | None = None) -> Path:
    """The folder of audio: `explicit`, else `KWS_DATA`, else
    `../shared/data/speech_commands` beside the repository, else the user's cache.

    Raises:
        KwsError: nothing there.
    """
    if explicit is not None or os.environ.get("KWS_DATA"):
        usual = os.environ.get("KWS_DATA", "")
        path = Path(usual) if explicit is None else counted(explicit)[0]
        if not path.exists():
            source = "--data" if explicit is not None else "KWS_DATA"
            raise KwsError(
                f"There is no audio where {source} points. Expected a folder in the "
                f"Speech Commands layout. Received: {str(path)!r}",
                "kws data fetch --out DIR   (or make your own: "
                'kws data synth --words "yes,no" --out corpus)',
            )
        return path
    places = [user_cache() / "speech_commands_v0.02"]
    if CHECKOUT is not None:
        places.insert(0, CHECKOUT.parent / "shared" / "data" / "speech_commands")
    for place in places:
        if place.is_dir():
            return place
    raise KwsError(
        "No audio found. Expected a folder in the Speech Commands layout. Received: "
        "no --data, no KWS_DATA, nothing in ../shared/data/speech_commands nor "
        "in the user's cache.",
        "kws data fetch   (2.3 GB; or make your own: "
        'kws data synth --words "yes,no" --out corpus)',
    )


@dataclass(frozen=True)
class Corpus:
    """A folder of audio, opened (see `open_corpus`).

    Args:
        path: The folder.
        layout: `archives` or `folder`.
    """

    path: Path
    layout: str

    def recordings(self, split: str) -> list[Recording]:
        """All clips of a split, with the word each says, in a fixed order.

        Raises:
            KwsError: no such split here, or lists that contradict themselves.
        """
        test_set = self.test_set if split == "test" else None
        if test_set is not None:
            if (test_set / "index.tsv").is_file():
                return archives.read_index(test_set)
            return _test_folder(test_set)
        return self._own(split)

    def _own(self, split: str) -> list[Recording]:
        """The clips of a split, the official test files left aside."""
        if self.layout == "archives":
            return archives.read_index(self.path / split)
        return [item for item in self._all if self._splits[item.name] == split]

    @cached_property
    def test_set(self) -> Path | None:
        """The folder of the official test files, where there is one."""
        folders = [self.path / name for name in TEST_FOLDERS]
        return next((folder for folder in folders if _is_test_set(folder)), None)

    @cached_property
    def _all(self) -> list[Recording]:
        return [
            Recording(folder.name, f"{folder.name}/{file.name}", file)
            for folder, (clips, _) in self._folders.items()
            for file in clips
        ]

    @cached_property
    def _folders(self) -> dict[Path, tuple[list[Path], list[Path]]]:
        """The folder of each word, with its recordings and what else is in it."""
        return {f: audio.contents(f) for f in _word_folders(self.path)}

    @cached_property
    def lists(self) -> Lists | None:
        """What validation_list.txt and testing_list.txt say, where there is one."""
        return read_lists(self.path, [item.name for item in self._all])

    @cached_property
    def _splits(self) -> dict[str, str]:
        """Name of a clip -> its split, for a folder."""
        if self.lists is not None:
            self.lists.check(self.path)
            return {r.name: self.lists.split.get(r.name, "train") for r in self._all}
        out: dict[str, str] = {}
        for splits, _ in self._shared.values():
            out |= splits
        return out

    @cached_property
    def _shared(self) -> dict[str, tuple[dict[str, str], str]]:
        """A word's key -> the splits of its clips without lists, as `shared_out`."""
        return {word: shared_out(clips) for word, clips in self._words.items()}

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        """A word's key -> names of its clips."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder, (clips, _) in self._folders.items():
            here = found[names.key(folder.name)]
            here += [f"{folder.name}/{file.name}" for file in clips]
        return {word: clips for word, clips in found.items() if clips}

    @cached_property
    def notes(self) -> list[str]:
        """What a user should know of how this folder was read: a line each."""
        if self.layout == "archives":
            return []
        notes = []
        if self.lists is not None:
            notes += self.lists.notes()
        else:
            by_clip = [
                f"{word} ({how})"
                for word, (_, how) in sorted(self._shared.items())
                if how
            ]
            if by_clip:
                notes.append(
                    "too few speakers to keep those of validation and test apart from "
                    f"those of training, so split by clip: {some(by_clip)}"
                )
            anonymous = [r.name for r in self._all if "_nohash_" not in r.name]
            if anonymous:
                notes.append(
                    f"{len(anonymous)} of {len(self._all)} names tell no speaker "
                    "(<speaker>_nohash_<number>.wav): each counts as one of its own: "
                    f"{some(anonymous)}"
                )
        spellings = defaultdict(list)
        for folder, (clips, _) in self._folders.items():
            if clips:
                spellings[names.key(folder.name)].append(folder.name)
        several = [" + ".join(s) for s in spellings.values() if len(s) > 1]
        if several:
            notes.append(f"folders of one word are one: {some(several)}")
        strays = [
            f"{folder.name}/{file.name}"
            for folder, (_, others) in self._folders.items()
            for file in others
            if not is_left_by_systems(file)
        ]
        if strays:
            notes.append(f"not read, for they are no audio: {some(strays)}")
        return [f"{self.path}: {note}" for note in notes]

    def why_none(self, word: str, split: str) -> str:
        """Why there is no clip of a word in a split."""
        if self.layout == "archives" or (split == "test" and self.test_set):
            place = self.test_set if split == "test" else self.path / split
            return f"{place} has none"
        clips = self._words.get(names.key(word), [])
        folders = [f for f in self._folders if names.key(f.name) == names.key(word)]
        if not folders:
            there = sorted(f.name for f in self._folders)
            return f"there is no folder of that name among {some(there, 8)}"
        if not clips:
            return f"the folder {folders[0].name} holds no recording"
        where = Counter(self._splits[name] for name in clips)
        said = ", ".join(f"{where[s]} {s}" for s in SPLITS if where[s])
        if self.lists is not None:
            files = " and ".join(sorted(self.lists.files.values()))
            return f"{files} put its {len(clips)} clips so: {said}"
        return (
            f"it has {len(clips)} clips; 3 are needed at least, one for each of train, "
            "val and test"
        )

    def noises(
        self, split: str, shortest: int = SAMPLE_RATE
    ) -> dict[str, tuple[int, np.ndarray]]:
        """Background noise of a split: name -> (first sample, int16 [samples]).

        Every recording is cut in three, 80/10/10 %, for train, val and test; parts of
        less than `shortest` samples are left out.
        """
        low, high = NOISE_SHARE[split]
        out = {}
        for name in NOISE_FOLDERS:
            folder = self.path / name
            if not folder.is_dir():
                continue
            for file in clips_in(folder):
                samples = archives.decoded(file)
                start, end = int(low * len(samples)), int(high * len(samples))
                if end - start >= shortest:
                    # Two of one name: hiss.wav and hiss.flac.
                    noise = file.name if file.stem in out else file.stem
                    out[noise] = (start, samples[start:end])
        return out


def open_corpus(data: Path | None = None) -> Corpus:
    """Find the audio and see what layout it has. A .tar.gz of the official data set
    is unpacked into the user's cache once.

    Raises:
        KwsError: nothing there, or no layout that is known.
    """
    path = find_data(data)
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        from kws.data.download import unpacked

        path = unpacked(path)
    if path.is_dir():
        if any((path / s / "index.tsv").is_file() for s in ("train", *TEST_FOLDERS)):
            return Corpus(path, "archives")
        if any(clips_in(folder) for folder in _word_folders(path)):
            return Corpus(path, "folder")
        if any(_is_test_set(path / name) for name in TEST_FOLDERS):
            return Corpus(path, "folder")
    hint = f"kws data verify {quoted(path)}"
    inside = ""
    if path.is_dir() and clips_in(path):
        inside = ", which holds recordings itself: one folder of them for each word?"
        hint = f"kws data import {quoted(path)} --out CORPUS   (makes such folders)"
    elif path.is_file():
        inside = ", which is a file"
        hint = "Name the folder that holds those folders, or a .tar.gz of them."
    raise KwsError(
        "No clips found. Expected word/speaker_nohash_n.wav folders, or archives with "
        f"index.tsv. Received: {str(path)!r}{inside}",
        hint,
    )


def noise_bank(
    data: Path | None = None, split: str = "train", shortest: int = SAMPLE_RATE
) -> list[np.ndarray]:
    """Background noise to mix with: int16 arrays of at least `shortest` samples.

    Only the training part of each recording, unless another split is asked for.
    """
    noises = open_corpus(data).noises(split, shortest)
    return [np.array(samples) for _, samples in noises.values()]


def load(
    split: str,
    task: Task,
    data: Path | None = None,
    seed: int = 1,
    limit: int | None = None,
    also: tuple[Path, ...] = (),
    repeat: bool = False,
) -> ClipSet:
    """Load one split of a task.

    Word clips are all taken. Of other words `task.unknown_percent` per 100 word clips
    are drawn, of silence `task.silence_percent`, by a seeded PCG64. The official test
    files are taken whole for gsc12 and gsc10 (gsc10: without on and off; their clips
    are never unknown words), without any draw; for gsc35 their unknown clips count
    as the words they are, and their silence is left out.

    Args:
        split: `train`, `val` or `test`.
        task: What is to be heard.
        data: Folder or .tar.gz; None looks in the usual places (`find_data`).
        seed: Of the draws.
        limit: The first N clips of a fixed shuffle.
        also: More folders (spoken by `kws data synth`, say), whose clips are added to
            any split but an official test set: the task's words, and other words as
            unknown ones, drawn but for those that were mistaken for words, which are
            all taken. Silence comes from `data` alone.
        repeat: Take the clips of a folder that is named `mine:8` eight times, as a
            training does; else each once (kws.data.sources.counted).

    Returns:
        The clips, each `task.clip_seconds`: shorter ones end in zeros; of longer ones,
        the part around the word is taken, which is said on stderr, as is all else that
        is cut, converted or left out.

    Raises:
        KwsError: no audio, a word without clips, a file that can't be used, a long clip
            of a word that holds more than the word.

    Example:
        >>> clips = load("test", Task("gsc10"))  # doctest: +SKIP
        >>> len(clips)  # doctest: +SKIP
        4092
    """
    if split not in SPLITS:
        raise KwsError(
            f"No such split. Expected train, val or test. Received: {split!r}",
            "kws eval RUN --split test",
        )
    corpus, *more = _opened(data, also)
    times = [counted(folder)[1] if folder and repeat else 1 for folder in (data, *also)]
    clips, others = _draw(corpus, more, split, task, seed, times)
    if limit is not None:
        if limit < 1:
            raise KwsError(
                f"--limit must be at least 1. Received: {limit}", "--limit 500"
            )
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(clips))
        clips = [clips[i] for i in order[:limit]]
    for opened in (corpus, *more):
        for note in opened.notes:
            audio.say(note)
    spoken = [i for i, clip in enumerate(clips) if clip.recording is not None]
    size = task.clip_samples
    pcm = np.zeros((len(clips), size), dtype=np.int16)
    recordings = [r for c in clips if (r := c.recording) is not None]
    once = {item: row for row, item in enumerate(dict.fromkeys(recordings))}
    read = archives.read_clips(list(once), size)
    pcm[spoken] = read.pcm[[once[item] for item in recordings]]
    of_each = {clip.recording: clip for clip in clips}
    _check_cut([of_each[item] for item in once], read, labels(task), split)
    noises = corpus.noises(split, size) if len(spoken) < len(clips) else {}
    if len(spoken) < len(clips) and not noises:
        audio.say(
            f"{corpus.path}: no background noise that leaves a second for {split} "
            "(10 s at least, in _background_noise_): its silence is digital zeros"
        )
    for row, clip in enumerate(clips):
        if clip.recording is None and clip.gain > 0:
            first, samples = noises[clip.noise]
            start = clip.start - first
            pcm[row] = np.rint(samples[start : start + size] * clip.gain)
    about: dict[str, Any] = {"name": task.name, "labels": list(labels(task))}
    if task.clip_seconds != 1:
        about["clip_seconds"] = task.clip_seconds
    manifest = {
        "version": MANIFEST_VERSION,
        "task": about,
        "split": split,
        "seed": seed,
        "limit": limit,
        "clips": [clip.record() for clip in clips],
    }
    return ClipSet(
        pcm=pcm,
        label=np.array([clip.label for clip in clips], dtype=np.int32),
        names=[clip.name for clip in clips],
        labels=labels(task),
        split=split,
        manifest=manifest,
        taken=_taken(clips, labels(task)),
        others=others,
    )


def _check_cut(
    clips: list[_Clip], read: archives.Clips, label_names: Sequence[str], split: str
) -> None:
    """Say what was cut and converted; refuse what is not one word."""
    bad = [row for row in read.unclear if label_names[clips[row].label] != UNKNOWN]
    if bad:
        shown = [f"{clips[row].name} ({read.unclear[row]})" for row in bad]
        folder = clips[bad[0]].folder
        raise KwsError(
            f"Clips of the {split} split are longer than a second and hold more or "
            f"less than one word. Expected one word each. Received: {some(shown)} in "
            f"{folder}",
            f"kws data import {quoted(folder)} --out {quoted(f'{folder}-cut')}   "
            "(cuts takes into clips)",
        )
    folders = Counter(clips[row].name.split("/")[0] for row in read.cut)
    folders += Counter(clips[row].name.split("/")[0] for row in read.unclear)
    if folders:
        each = [f"{name} {count}" for name, count in sorted(folders.items())]
        audio.say(
            f"{split}: longer than a second, the second around the word was taken: "
            f"{', '.join(each)}"
        )
    for source, count in sorted(read.converted.items()):
        audio.say(f"{split}: converted from {source}: {count}")


def _taken(
    clips: list[_Clip], label_names: Sequence[str]
) -> dict[tuple[str, str], int]:
    return dict(Counter((clip.folder, label_names[clip.label]) for clip in clips))


def overview(
    training: ClipSet,
    validation: ClipSet,
    task: Task,
    data: Path | None = None,
    also: tuple[Path, ...] = (),
) -> str:
    """A table of the clips that were taken, by folder and label, for each split.

    Of the test split it counts what `kws eval` will take; a word without test clips
    is told below the table, and so is what `unknown_percent` leaves out.

    Args:
        training: The clips of `train`.
        validation: The clips of `val`.
        task: What is to be heard.
        data: As for `load`.
        also: As for `load`.
    """
    corpus, *more = _opened(data, also)
    times = {
        str(opened.path): counted(folder)[1]
        for opened, folder in zip((corpus, *more), (data, *also), strict=True)
        if folder is not None
    }
    problem = ""
    try:
        test = _taken(_draw(corpus, more, "test", task, 1)[0], training.labels)
    except KwsError as error:
        test, problem = {}, error.message
    columns = [training.taken, validation.taken, test]
    keys = dict.fromkeys(key for column in columns for key in column)
    place = {label: number for number, label in enumerate(training.labels)}
    lines = [f"{'clips taken':<30}" + "".join(f"{split:>8}" for split in SPLITS)]
    for folder in dict.fromkeys(folder for folder, _ in keys):
        rows = sorted((place[label], label) for f, label in keys if f == folder)
        if folder:
            often = times.get(folder, 1)
            each = f"  (each training clip {often} times)" if often > 1 else ""
            lines.append(folder + each)
        for _, label in rows:
            counts = [column.get((folder, label), 0) for column in columns]
            cells = "".join(f"{n or '-':>8}" for n in counts)
            lines.append(f"  {names.column(label, 28)}{cells}")
    taken, there = training.others
    if 0 < taken < there and training.manifest.get("limit") is None:
        percent = task.unknown_percent
        lines.append(
            f"Of {there:,} training clips of other words {taken:,} are taken, "
            f"{percent:g} per 100 of words: [task] unknown_percent = "
            f"{math.ceil(percent * there / taken)} takes them all"
        )
    if problem:
        lines.append(f"No test clips: {problem}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Clip:
    """One row of a ClipSet before it is read: a recording, or drawn silence."""

    label: int
    recording: Recording | None = None
    noise: str = ""
    start: int = 0
    gain: float = 1.0
    folder: str = ""  # the corpus it is from

    @property
    def name(self) -> str:
        if self.recording is not None:
            return self.recording.name
        return f"{SILENCE}/{self.noise}@{self.start}" if self.noise else f"{SILENCE}/0"

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"name": self.name, "label": self.label}
        if self.recording is None:
            record |= {"noise": self.noise, "start": self.start, "gain": self.gain}
        elif self.recording.length >= 0:
            record |= {"start": self.recording.start, "length": self.recording.length}
        return record


def _opened(data: Path | None, also: tuple[Path, ...]) -> list[Corpus]:
    """The folders, each opened; one that is named twice is refused."""
    check_once([find_data() if data is None else data, *also])
    return [open_corpus(folder) for folder in (data, *also)]


def _draw(
    corpus: Corpus,
    more: list[Corpus],
    split: str,
    task: Task,
    seed: int,
    times: Sequence[int] | None = None,
) -> tuple[list[_Clip], tuple[int, int]]:
    """Choose the clips of a split: words, then unknown, then silence.

    Each folder's as often as `times` says.

    Returns:
        The clips; of other words, without false alarms, how many are taken and there.
    """
    often = times or [1] * (1 + len(more))
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split)]))
    label_names = labels(task)
    index = {names.key(name): label for label, name in enumerate(label_names)}
    left_out = {"on", "off"} if task.name == "gsc10" else set()
    words: list[_Clip] = []
    unknown: list[tuple[str, Recording]] = []
    mistaken: list[tuple[str, Recording]] = []
    silence: list[Recording] = []
    own = [(str(corpus.path), item) for item in corpus.recordings(split)]
    recordings = own + (often[0] - 1) * [r for r in own if r[1].word != SILENCE]
    official = split == "test" and corpus.test_set is not None
    if official and task.name == "custom" and corpus.layout == "folder":
        # The official test files don't have words of one's own; their folders do.
        tested = {names.key(item.word) for _, item in recordings}
        recordings += [
            (str(corpus.path), item)
            for item in corpus._own(split)
            if names.key(item.word) in index.keys() - tested
        ]
    for other, count in zip(more, often[1:], strict=True) if not official else []:
        recordings += count * [
            (str(other.path), item)
            for item in other.recordings(split)
            if item.word != SILENCE
        ]
    for folder, recording in recordings:
        word = names.key(recording.word)
        if recording.word == SILENCE:
            silence.append(recording)
        elif word in index and recording.word != UNKNOWN:
            words.append(_Clip(index[word], recording, folder=folder))
        elif word == MISTAKEN:
            mistaken.append((folder, recording))
        elif word not in left_out:
            unknown.append((folder, recording))
    _check_present(words, label_names, [corpus, *more], split)
    if UNKNOWN not in label_names:  # gsc35: words alone
        return words, (0, 0)
    there = len(unknown)
    whole = official and task.name != "custom"
    if not whole:
        unknown = _take(unknown, round(len(words) * task.unknown_percent / 100), rng)
    others = (len(unknown), there)
    if not whole:
        unknown += mistaken
    label = label_names.index(UNKNOWN)
    clips = words + [_Clip(label, item, folder=folder) for folder, item in unknown]
    wanted = round(len(words) * task.silence_percent / 100)
    label = label_names.index(SILENCE)
    if silence:
        taken = silence if whole else _take(silence, wanted, rng)
        clips += [_Clip(label, item, folder=str(corpus.path)) for item in taken]
        return clips, others
    noises = corpus.noises(split, task.clip_samples) if wanted else {}
    keys = list(noises)
    for _ in range(wanted):
        # Always four draws: what one clip needs doesn't change what the next one gets.
        zero, which, where = rng.random(), rng.random(), rng.random()
        loudness = float(10 ** rng.uniform(*SILENCE_RMS_LOG10))
        if zero < ZERO_SILENCE_SHARE or not keys:
            clips.append(_Clip(label, gain=0.0))
            continue
        noise = keys[int(which * len(keys))]
        first, samples = noises[noise]
        offset = int(where * (len(samples) - task.clip_samples + 1))
        gain = _gain_to(loudness, samples[offset : offset + task.clip_samples])
        clips.append(_Clip(label, None, noise, first + offset, gain))
    return clips, others


def _gain_to(loudness: float, samples: np.ndarray) -> float:
    """The factor that brings samples to a root mean square, short of clipping."""
    wide = samples.astype(np.int64)
    rms, peak = math.sqrt(int(wide @ wide) / len(wide)), int(np.abs(wide).max())
    if peak == 0:
        return 0.0
    return math.floor(1e6 * min(loudness / rms, 32767 / peak)) / 1e6


def _take(items: list[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """`count` of the items, in their order, all where there are fewer."""
    order = rng.permutation(len(items))[:count]
    return [items[i] for i in sorted(order)]


def _check_present(
    words: list[_Clip], label_names: Sequence[str], corpora: list[Corpus], split: str
) -> None:
    have = {label_names[clip.label] for clip in words}
    missing = [name for name in label_names if name not in (SILENCE, UNKNOWN, *have)]
    if missing:
        reasons = [
            f"{word}: {corpus.why_none(word, split)}"
            for word in missing[:3]
            for corpus in corpora
        ]
        raise KwsError(
            f"No clips of {', '.join(missing)} in the {split} split. Expected a folder "
            f"of clips for every word. Received: {corpora[0].path} ("
            f"{'; '.join(reasons)})",
            f"kws data info {quoted(corpora[0].path)}   (lists what there is)",
        )


def clips_in(folder: Path) -> list[Path]:
    """The recordings of a folder, in order of name."""
    return audio.contents(folder)[0]


def is_left_by_systems(file: Path) -> bool:
    """Whether a file that is no recording need not be told of: hidden, a system's own,
    or about the data."""
    name = file.name.lower()
    return name.startswith((".", "readme", "license")) or name in names.LEFT_BY_SYSTEMS


def _word_folders(path: Path) -> list[Path]:
    """Folders of clips: not the noise, not a test set, nothing hidden."""
    return sorted(
        folder
        for folder in path.iterdir()
        if folder.is_dir()
        and folder.name not in NOISE_FOLDERS
        and not folder.name.startswith(".")
        and folder.name.lower() not in names.LEFT_BY_SYSTEMS
        and not (folder.name in TEST_FOLDERS and _is_test_set(folder))
    )


def _is_test_set(folder: Path) -> bool:
    return (folder / "index.tsv").is_file() or (folder / UNKNOWN).is_dir()


def _test_folder(folder: Path) -> list[Recording]:
    """The official test files as 12 folders of .wav."""
    found = []
    for label in _word_folders(folder):
        for file in clips_in(label):
            word = label.name
            if word == UNKNOWN and "_nohash_" in file.name:
                word = file.name.split("_", 1)[0]  # cat_<speaker>_nohash_0.wav.wav
            found.append(Recording(word, f"{label.name}/{file.name}", file))
    return found
