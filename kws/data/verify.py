"""Name every bad file of a corpus. Reads only; nothing is changed or deleted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data import archives, speech_commands
from kws.data.archives import SAMPLE_RATE
from kws.errors import KwsError

CLIPPED_SHARE = 0.02
NEAR_SILENT_RMS = 20.0
MAX_CLIP_SECONDS = 3.0

KINDS = {
    "not_audio": "can't be read as audio",
    "truncated": "ends before its header says",
    "empty": "holds no samples",
    "wrong_rate": "is not sampled at 16,000 Hz",
    "stereo": "has more than one channel",
    "too_long": f"is longer than {MAX_CLIP_SECONDS:g} s",
    "clipped": f"more than {CLIPPED_SHARE:.0%} of its samples are at full scale",
    "near_silent": f"its root mean square is below {NEAR_SILENT_RMS:g} of 32768",
    "label_name": "a folder whose name is no word (letters and digits, lower case)",
    "label_empty": "a folder of a label without a clip",
    "speaker_name": "is not named <speaker>_nohash_<number>.wav, so its speaker is "
    "unknown to the split rule",
    "duplicate": "the same audio under two labels",
    "stray": "a file that is no .wav among the clips",
    "listed_missing": "named in a list of a split, but not there",
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
    folder: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[int, list[Fault]]:
    """Check every clip of a folder, in either layout.

    Returns:
        Number of clips checked, and all faults in order of path.

    Raises:
        KwsError: the folder is not there, or holds nothing that looks like a corpus.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise KwsError(
            f"No such folder. Expected a corpus. Received: {str(folder)!r}",
            "kws data verify DIR",
        )
    if any(folder.glob("*/index.tsv")):
        checked, faults = _verify_archives(folder, progress)
    else:
        checked, faults = _verify_folder(folder, progress)
    if not checked and not faults:
        raise KwsError(
            "Nothing to check: expected folders of .wav files, or archives with "
            f"index.tsv. Received: {str(folder)!r}",
            'kws data synth --words "yes,no" --out corpus   (makes one)',
        )
    return checked, sorted(faults, key=lambda fault: (fault.path, fault.kind))


def check_wav(path: Path) -> tuple[np.ndarray | None, str, str]:
    """Read one file: (samples or None, kind of fault or '', detail)."""
    size = path.stat().st_size
    if size == 0:
        return None, "empty", "0 bytes"
    short = _riff_shortage(path) if path.suffix == ".wav" else 0
    try:
        import soundfile

        with soundfile.SoundFile(str(path)) as audio:
            rate, channels, frames = audio.samplerate, audio.channels, audio.frames
            if short:
                return None, "truncated", f"{short} bytes are missing"
            if frames == 0:
                return None, "empty", "a header without samples"
            if channels != 1:
                return None, "stereo", f"{channels} channels"
            if rate != SAMPLE_RATE:
                return None, "wrong_rate", f"{rate} Hz"
            if frames > MAX_CLIP_SECONDS * SAMPLE_RATE:
                return None, "too_long", f"{frames / SAMPLE_RATE:.1f} s"
            samples = audio.read(dtype="int16")
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        return None, "truncated" if short else "not_audio", str(error)[:120]
    if len(samples) < frames:
        return None, "truncated", f"{len(samples)} of {frames} samples"
    kind, detail = _loudness(samples)
    return samples, kind, detail


def _loudness(samples: np.ndarray) -> tuple[str, str]:
    wide = samples.astype(np.int32)
    clipped = float(np.mean(np.abs(wide) >= 32767))
    if clipped > CLIPPED_SHARE:
        return "clipped", f"{clipped:.1%} of the samples"
    rms = float(np.sqrt(np.mean(np.square(wide, dtype=np.float64))))
    if rms < NEAR_SILENT_RMS:
        return "near_silent", f"root mean square {rms:.1f}"
    return "", ""


def _riff_shortage(path: Path) -> int:
    """Bytes that the data chunk promises and the file does not have; 0 if none, or
    if this is no RIFF file at all."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return 0
        for _ in range(1000):
            chunk = file.read(8)
            if len(chunk) < 8:
                return 0
            length = int.from_bytes(chunk[4:8], "little")
            if chunk[:4] == b"data":
                return max(0, length - (size - file.tell()))
            file.seek(length + length % 2, 1)
    return 0


def _verify_folder(
    folder: Path, progress: Callable[[int, int], None] | None
) -> tuple[int, list[Fault]]:
    faults: list[Fault] = []
    labels = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]
    files: list[tuple[Path, str]] = []
    for label in labels:
        if (
            label.name in speech_commands.TEST_FOLDERS
            and (label / "_unknown_").is_dir()
        ):
            checked = [p for p in sorted(label.iterdir()) if p.is_dir()]
            files += [(f, p.name) for p in checked for f in sorted(p.glob("*.wav"))]
            continue
        name = label.name
        special = name in ("_silence_", "_unknown_", *speech_commands.NOISE_FOLDERS)
        if not special and not re.fullmatch(r"[^\W_]+([_'-][^\W_]+)*", name):
            faults.append(Fault("label_name", name, repr(name)))
        elif not special and name != name.lower():
            faults.append(Fault("label_name", name, f"expected {name.lower()!r}"))
        clips = []
        for path in sorted(label.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix == ".wav" and path.is_file():
                clips.append(path)
            elif not (special and path.name == "README.md"):
                faults.append(Fault("stray", f"{name}/{path.name}", "not a .wav file"))
        if not clips:
            faults.append(Fault("label_empty", name, "no .wav file"))
        files += [(path, name) for path in clips]
        if not special:
            faults += [
                Fault("speaker_name", f"{name}/{path.name}", path.name)
                for path in clips
                if not re.fullmatch(r"[A-Za-z0-9-]+_nohash_\d+\.wav", path.name)
            ]
    seen = _Duplicates()
    for number, (path, label_name) in enumerate(files, 1):
        relative = path.relative_to(folder).as_posix()
        if label_name in speech_commands.NOISE_FOLDERS:
            kind, detail = _check_noise(path)
        else:
            samples, kind, detail = check_wav(path)
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
        archives.read_audio(path)
    except KwsError as error:
        if path.stat().st_size == 0:
            return "empty", "0 bytes"
        for kind, sign in (
            ("wrong_rate", "16000 Hz"),
            ("stereo", "one channel"),
            ("empty", "no samples"),
        ):
            if sign in error.message:
                return kind, error.message.split(": ", 1)[1].split(". ")[0]
        return "not_audio", error.message.split(": ", 1)[1].split(". ")[0]
    return ("truncated", "bytes are missing") if _riff_shortage(path) else ("", "")


def _check_lists(folder: Path) -> Iterator[Fault]:
    """Lists that name files which are not there, and speakers in two splits."""
    listed = speech_commands._read_lists(folder)
    if listed is None:
        return
    for name, split in sorted(listed.items()):
        if name and (".." in name or not (folder / name).is_file()):
            yield Fault("listed_missing", name, f"in the list of {split}")
    where: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*_nohash_*.wav")):
        name = path.relative_to(folder).as_posix()
        speaker = path.name.split("_nohash_")[0]
        where.setdefault(speaker, {}).setdefault(listed.get(name, "train"), name)
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
            kind, detail = _loudness(clip)
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
