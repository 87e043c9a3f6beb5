"""Which clip is in which split: the published rule, lists, and few speakers."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kws.bundle import write_atomic
from kws.data import names
from kws.errors import KwsError

SPLITS = ("train", "val", "test")
LIST_FILES = {"val": "validation_list", "test": "testing_list"}
LIST_SUFFIXES = (".txt", ".csv", ".tsv")
# A word said by fewer people is split by clip, where the rule does not share it out.
FEW_SPEAKERS = 5

_MAX_WAVS_PER_CLASS = 2**27 - 1  # of the published rule


def speaker_of(name: str) -> str:
    """The speaker in a file's name: what comes before `_nohash_`, else all of it."""
    base = names.composed(name.rsplit("/", 1)[-1])
    return base.split("_nohash_", 1)[0]


def _percent(text: str) -> float:
    """0 to 100, evenly, a function of the text: of the data set's published rule."""
    # Not security. Names on disk need not be text.
    digest = hashlib.sha1(
        text.encode(errors="surrogateescape"), usedforsecurity=False
    ).hexdigest()
    return (int(digest, 16) % (_MAX_WAVS_PER_CLASS + 1)) * (100.0 / _MAX_WAVS_PER_CLASS)


def split_of(name: str, val_percent: float = 10.0, test_percent: float = 10.0) -> str:
    """The split of a file by the data set's published rule.

    SHA-1 over the file name up to `_nohash_` (the speaker), so that all recordings of
    one speaker fall into one split, whatever is added later.

    Example:
        >>> split_of("right/a69b9b3e_nohash_0.wav")
        'val'
    """
    percent = _percent(speaker_of(name))
    if percent < val_percent:
        return "val"
    return "test" if percent < val_percent + test_percent else "train"


def shared_out(clips: list[str]) -> tuple[dict[str, str], str]:
    """The splits of one word's clips, and '' or why they are split by clip.

    By the published rule where that leaves clips in every split and half of them in
    train. Else a tenth of the speakers, in an order drawn by hash, are val, and a tenth
    are test; with few speakers a tenth each of the clips.

    Args:
        clips: Their names, none twice.

    Example:
        >>> shared_out([f"yes/anna_nohash_{n}.wav" for n in range(20)])[1]
        '1 speaker'
    """
    splits = {name: split_of(name) for name in clips}
    if len(clips) < len(SPLITS) or _is_fair(splits):
        return splits, ""
    speakers = {speaker_of(name) for name in clips}
    if len(speakers) >= FEW_SPEAKERS:
        splits = _ranked({name: speaker_of(name) for name in clips})
        if _is_fair(splits):
            return splits, ""
    count = f"{len(speakers)} speaker{'s' * (len(speakers) > 1)}"
    return _ranked({name: name for name in clips}), count


def _is_fair(splits: dict[str, str]) -> bool:
    share = Counter(splits.values())
    return len(share) == len(SPLITS) and 2 * share["train"] >= len(splits)


def _ranked(part_of: dict[str, str]) -> dict[str, str]:
    """A tenth of the parts, one at least, each to val and test."""
    order = sorted(set(part_of.values()), key=lambda part: (_percent(part), part))
    tenth = max(1, round(len(order) / 10))
    place = {part: number // tenth for number, part in enumerate(order)}
    return {
        name: {0: "val", 1: "test"}.get(place[part], "train")
        for name, part in part_of.items()
    }


@dataclass(frozen=True)
class Lists:
    """validation_list.txt and testing_list.txt, compared with the clips that there are.

    Args:
        files: split -> name of its list, of those that are there.
        split: Name of a clip -> its split.
        missing: (split, entry) of clips that are not there, though their folder is.
        elsewhere: Entries of folders that are not there.
        unclear: (split, entry, clips that it may be).
        twice: Clips that are in both lists.
    """

    files: dict[str, str]
    split: dict[str, str]
    missing: list[tuple[str, str]]
    elsewhere: int
    unclear: list[tuple[str, str, list[str]]]
    twice: list[str]

    def check(self, folder: Path) -> None:
        """Raise where it can't be told which clip is in which split."""
        hint = "A line for each clip, such as: yes/anna_nohash_0.wav"
        if self.twice:
            raise KwsError(
                f"Clips are in validation_list and in testing_list. "
                f"Expected each in one. Received: {some(self.twice)} in {folder}",
                "Take them out of one of the lists.",
            )
        if self.unclear:
            split, line, maybe = self.unclear[0]
            raise KwsError(
                f"An entry of {self.files[split]} may be more than one clip: "
                f"{line!r} is {some(maybe)}. Expected one. Received: {folder}",
                hint,
            )
        for split, file in self.files.items():
            absent = [line for s, line in self.missing if s == split]
            if absent and split not in self.split.values():
                raise KwsError(
                    f"No entry of {file} is a clip that is there. Expected "
                    f"word/file.wav. Received: {absent[0]!r} in {folder / file}",
                    hint,
                )

    def notes(self) -> list[str]:
        """What in the lists could not be used."""
        notes = []
        if self.missing:
            lines = [line for _, line in self.missing]
            notes.append(f"the lists name clips that are not there: {some(lines)}")
        if self.elsewhere:
            notes.append(f"entries of the lists for other folders: {self.elsewhere}")
        return notes


def read_lists(folder: Path, clips: Sequence[str]) -> Lists | None:
    """Read the lists of a folder; None where there are none.

    Entries are matched with clips by `word/file`, then by the same without case, marks
    apart, or suffix, then by the file alone; whatever folders come before.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        for split, stem in LIST_FILES.items():
            if file.stem.lower() == stem and file.suffix.lower() in LIST_SUFFIXES:
                if split in found:
                    raise KwsError(
                        f"There are two lists of one split. Expected one. Received: "
                        f"{found[split].name} and {file.name} in {folder}",
                        "Take one of them away.",
                    )
                found[split] = file
    if not found:
        return None
    exact, lookup = set(clips), None
    words = {_loose(word) for word in {name.split("/", 1)[0] for name in clips}}
    out = Lists({s: f.name for s, f in found.items()}, {}, [], 0, [], [])
    elsewhere = 0
    for split, file in found.items():
        for line in names.read_text(file).splitlines():
            if not line.strip():
                continue
            if line in exact:  # as it should be, and quick
                maybe, word = {line}, ""
            else:
                lookup = lookup or _lookup(clips)
                maybe, word = _clips_of(line, lookup)
            if len(maybe) > 1:
                out.unclear.append((split, names.entry(line), sorted(maybe)))
            elif maybe:
                (name,) = maybe
                if out.split.setdefault(name, split) != split:
                    out.twice.append(name)
            elif not word or _loose(word) in words:
                out.missing.append((split, names.entry(line)))
            else:
                elsewhere += 1
    return replace(out, elsewhere=elsewhere)


def all_for_training(folder: Path) -> None:
    """Write empty lists: no clip of the folder is of validation or test, whatever the
    rule says of its name."""
    for stem in LIST_FILES.values():
        write_atomic(folder / f"{stem}.txt", b"")


def _lookup(clips: Sequence[str]) -> dict[str, set[str]]:
    """What may stand for a clip -> the clips that it may be."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in clips:
        word, base = name.split("/", 1)
        stem = base.rsplit(".", 1)[0]
        for text in (name, base, _loose(word, stem), _loose("", stem)):
            found[text].add(name)
    return found


def _loose(*parts: str) -> str:
    return "\0".join(names.key(part) for part in parts)


def _clips_of(line: str, lookup: dict[str, set[str]]) -> tuple[set[str], str]:
    """The clips that a line may mean, and the folder that it names."""
    word = ""
    for text in (line, *re.split(r"[\t;,]", line)[:1]):
        entry = names.entry(text)
        *folders, base = entry.split("/")
        word = folders[-1] if folders else ""
        if ".." in folders:
            return set(), ""
        stem = base.rsplit(".", 1)[0]
        for key in (
            (f"{word}/{base}", _loose(word, stem))
            if word
            else (
                base,
                _loose("", stem),
            )
        ):
            if key in lookup:
                return lookup[key], word
    return set(), word


def some(items: Sequence[str], count: int = 3) -> str:
    """The first of a list, and how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more
