"""Name every bad file of a corpus. Reads only; nothing is changed or deleted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data import archives, audio, cut, names, speech_commands
from kws.data.audio import SAMPLE_RATE
from kws.data.splits import some, speaker_of
from kws.errors import KwsError

CLIPPED_SHARE = 0.02
NEAR_SILENT_RMS = 20.0

KINDS = {
    "not_audio": "can't be read as audio",
    "truncated": "ends before its header says, or goes on after it",
    "empty": "holds no samples",
    "not_finite": "holds samples that are no numbers",
    "scale": "its samples are in other units than its format says",
    "cancelled": "its channels cancel each other",
    "wrong_rate": "is not sampled at 16,000 Hz",
    "stereo": "has more than one channel",
    "too_long": "is longer than a second",
    "short_noise": "is too short to be cut in three for the splits (10 s at least)",
    "clipped": f"more than {CLIPPED_SHARE:.0%} of its samples are at full scale",
    "near_silent": f"its root mean square is below {NEAR_SILENT_RMS:g} of 32768",
    "label_name": "a folder whose name is no word (letters and digits, lower case)",
    "label_empty": "a folder of a label without a clip",
    "speaker_name": "is not named <speaker>_nohash_<number>, so its speaker is "
    "unknown to the split rule",
    "duplicate": "the same audio under two labels",
    "stray": "a file that is no recording among the clips",
    "listed_missing": "named in a list of a split, but not there",
    "listed_twice": "named in both lists",
    "listed_unclear": "an entry of a list that may be more than one clip",
    "split_leak": "a speaker who is in more than one split",
    "index": "the archive's index and its audio disagree",
}


@dataclass(frozen=True)
class Fault:
    """One bad file.

    Args:
        kind: A key of `KINDS`.
        path: Path below the folder that was checked.
        detail: What was received.
    """

    kind: str
    path: str
    detail: str


def verify(
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    clip_seconds: float = 1.0,
) -> tuple[int, list[Fault]]:
    """Check every clip of a folder, in either layout.

    Args:
        folder: The corpus.
        progress: Called with (clips done, clips of all).
        clip_seconds: How long a clip may be.

    Returns:
        Number of clips checked, and all faults in order of path.

    Raises:
        KwsError: the folder is not there, or holds nothing that looks like a corpus.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "That is a file." if folder.is_file() else "There is no such folder."
        raise KwsError(
            f"{what} Expected the folder of a corpus. Received: {str(folder)!r}",
            "kws data verify DIR",
        )
    if any(folder.glob("*/index.tsv")):
        checked, faults = _verify_archives(folder, progress)
    else:
        checked, faults = _verify_folder(folder, progress, clip_seconds)
    if not checked and not faults:
        raise KwsError(
            "Nothing to check: expected folders of recordings, or archives with "
            f"index.tsv. Received: {str(folder)!r}",
            'kws data synth --words "yes,no" --out corpus   (makes one)',
        )
    return checked, sorted(faults, key=lambda fault: (fault.path, fault.kind))


def check_clip(
    path: Path, clip_seconds: float = 1.0
) -> tuple[np.ndarray | None, str, str]:
    """Read one clip: (samples or None, kind of fault or '', detail)."""
    size = round(clip_seconds * SAMPLE_RATE)
    try:
        pcm = audio.read(path, convert=False).pcm
    except audio.NotUsable as error:
        return None, error.fault, error.problem
    kind, detail = loudness_fault(pcm)
    if not kind and len(pcm) > size + archives.OVER:
        start, problem = cut.around_the_word(pcm, size)
        first = start / SAMPLE_RATE
        taken = f"{first:.2f} s to {first + clip_seconds:.2f} s is taken"
        where = problem or taken
        return pcm, "too_long", f"{len(pcm) / SAMPLE_RATE:.2f} s: {where}"
    return pcm, kind, detail


def loudness_fault(pcm: np.ndarray) -> tuple[str, str]:
    """`clipped` or `near_silent` with a detail, else two empty strings."""
    wide = pcm.astype(np.int32)
    clipped = float(np.mean(np.abs(wide) >= 32767))
    if clipped > CLIPPED_SHARE:
        return "clipped", f"{clipped:.1%} of the samples"
    rms = float(np.sqrt(np.mean(np.square(wide, dtype=np.float64))))
    if rms < NEAR_SILENT_RMS:
        return "near_silent", f"root mean square {rms:.1f}"
    return "", ""


def _verify_folder(
    folder: Path,
    progress: Callable[[int, int], None] | None,
    clip_seconds: float,
) -> tuple[int, list[Fault]]:
    faults: list[Fault] = []
    labels = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name.lower() not in names.LEFT_BY_SYSTEMS
    ]
    files: list[tuple[Path, str]] = []
    for label in labels:
        if (
            label.name in speech_commands.TEST_FOLDERS
            and (label / "_unknown_").is_dir()
        ):
            checked = [p for p in sorted(label.iterdir()) if p.is_dir()]
            files += [(f, p.name) for p in checked for f in speech_commands.clips_in(p)]
            continue
        name = label.name
        special = name in ("_silence_", "_unknown_", *speech_commands.NOISE_FOLDERS)
        spelled = names.composed(name.replace("_", " "))
        if not special and not names.is_word(spelled):
            faults.append(Fault("label_name", name, repr(name)))
        elif not special and name != name.lower():
            faults.append(Fault("label_name", name, f"expected {name.lower()!r}"))
        clips, others = audio.contents(label)
        faults += [
            Fault("stray", f"{name}/{path.name}", "no recording")
            for path in others
            if not speech_commands.is_left_by_systems(path)
        ]
        if not clips:
            faults.append(Fault("label_empty", name, "no recording"))
        files += [(path, name) for path in clips]
        if not special:
            faults += [
                Fault("speaker_name", f"{name}/{path.name}", path.name)
                for path in clips
                if not re.fullmatch(r"[^_].*_nohash_\d+", path.stem)
            ]
    seen = _Duplicates()
    for number, (path, label_name) in enumerate(files, 1):
        relative = path.relative_to(folder).as_posix()
        if label_name in speech_commands.NOISE_FOLDERS:
            kind, detail = _check_noise(path)
        else:
            samples, kind, detail = check_clip(path, clip_seconds)
            if kind == "near_silent" and label_name == "_silence_":
                kind = ""
            if samples is not None and label_name not in ("_silence_", "_unknown_"):
                faults += seen.add(samples, label_name, relative)
        if kind:
            faults.append(Fault(kind, relative, detail))
        if progress is not None:
            progress(number, len(files))
    return len(files), faults + list(_check_lists(folder))


def _check_noise(path: Path) -> tuple[str, str]:
    try:
        pcm = audio.read(path, convert=False).pcm
    except audio.NotUsable as error:
        return error.fault, error.problem
    if not pcm.any():
        return "near_silent", "nothing but zeros"
    if len(pcm) < 10 * SAMPLE_RATE:
        return "short_noise", f"{len(pcm) / SAMPLE_RATE:.1f} s"
    return "", ""


def _check_lists(folder: Path) -> Iterator[Fault]:
    """Entries that are no clip or several, and speakers in two splits."""
    lists = speech_commands.Corpus(folder, "folder").lists
    if lists is None:
        return
    for split, entry in sorted(lists.missing):
        yield Fault("listed_missing", entry, f"in the list of {split}")
    for name in sorted(lists.twice):
        yield Fault("listed_twice", name, "in the lists of val and test")
    for _, entry, maybe in lists.unclear:
        yield Fault("listed_unclear", entry, some(maybe))
    where: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*_nohash_*")):
        name = path.relative_to(folder).as_posix()
        speaker = speaker_of(name)
        where.setdefault(speaker, {}).setdefault(lists.split.get(name, "train"), name)
    for speaker, splits in sorted(where.items()):
        if len(splits) > 1:
            places = ", ".join(f"{s}: {n}" for s, n in sorted(splits.items()))
            yield Fault(
                "split_leak", next(iter(splits.values())), f"{speaker}, {places}"
            )


def _verify_archives(
    folder: Path, progress: Callable[[int, int], None] | None
) -> tuple[int, list[Fault]]:
    faults: list[Fault] = []
    checked = 0
    seen = _Duplicates()
    for index in sorted(folder.glob("*/index.tsv")):
        split = index.parent.name
        try:
            recordings = archives.read_index(index.parent)
        except KwsError as error:
            faults.append(Fault("index", f"{split}/index.tsv", error.message[:200]))
            continue
        whole = split in speech_commands.NOISE_FOLDERS
        bad: set[Path] = set()
        for number, item in enumerate(recordings, 1):
            checked += 1
            if item.file in bad:
                continue
            try:
                samples = archives.decoded(item.file)
            except KwsError as error:
                bad.add(item.file)
                faults.append(
                    Fault("not_audio", f"{split}/{item.file.name}", error.message[:200])
                )
                continue
            clip = samples[item.start : item.start + item.length]
            name = f"{split}/{item.name}"
            if len(clip) != item.length:
                faults.append(Fault("index", name, f"{len(clip)} of {item.length}"))
                continue
            silence = item.word == "_silence_" or whole
            kind, detail = loudness_fault(clip)
            if kind and not (silence and kind == "near_silent"):
                faults.append(Fault(kind, name, detail))
            if not silence:
                faults += seen.add(clip, item.word, name)
            if progress is not None:
                progress(number, len(recordings))
    return checked, faults


class _Duplicates:
    """Remembers every clip's hash and reports one that comes under another label."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}

    def add(self, samples: np.ndarray, label: str, path: str) -> list[Fault]:
        digest = hashlib.sha256(np.ascontiguousarray(samples).data).digest()
        first = self._first.setdefault(digest, (label, path))
        if first[0] == label:
            return []
        return [Fault("duplicate", path, f"also {first[1]}")]
