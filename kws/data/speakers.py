"""Who is heard and who is not: a share of clips, by the people who speak.

Clips of one person go right or wrong together. Many clips of few people tell less than
their number says: of the official test files' 3,276 clips of eight words, three in five
are 53 people's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kws.data.splits import speaker_of
from kws.intervals import clustered_interval

HARDEST = 5  # speakers named
FEWEST_WRONG = 2  # of each of them: one clip may be anybody's


@dataclass(frozen=True)
class BySpeaker:
    """A share of clips by speaker.

    Args:
        speakers: How many names tell one.
        clips: Theirs.
        ci95: Interval of the share of all clips that are right, as speakers vary; None:
            too few of them.
        hardest: (speaker, wrong, clips), the most wrong first.
    """

    speakers: int
    clips: int
    ci95: tuple[float, float] | None
    hardest: tuple[tuple[str, int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n": self.speakers,
            "clips": self.clips,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "hardest": [
                {"speaker": name, "wrong": wrong, "clips": clips}
                for name, wrong, clips in self.hardest
            ],
        }

    def text(self, missed: bool = False) -> str:
        """For people; `missed`: as a share of words that are missed."""
        told = f"By speaker ({self.speakers:,}, whose clips go wrong together): "
        if self.ci95 is None:
            told += "too few to tell how they vary"
        else:
            low, high = (100 * share for share in self.ci95)
            if missed:
                low, high = 100 - high, 100 - low
            told += f"95 %: {low:.1f} to {high:.1f}" + " missed" * missed
        worst = [f"{name} {wrong} of {n}" for name, wrong, n in self.hardest]
        how = "missed" if missed else "wrong"
        return told + (f"; most {how}: {', '.join(worst)}" if worst else "")


def by_speaker(names: Sequence[str], right: np.ndarray) -> BySpeaker | None:
    """Clips by their speakers; None where no two clips are known to be of one.

    Args:
        names: Of the clips, `<speaker>_nohash_<n>.wav`; any other counts as a speaker
            of its own, without a name.
        right: bool [N].

    Example:
        >>> names = [f"yes/anna_nohash_{n}.wav" for n in range(3)] + ["yes/b.wav"]
        >>> print(by_speaker(names, np.array([True, False, False, True])).text())
        By speaker (1, whose clips go wrong together): too few to tell how they vary; \
most wrong: anna 2 of 3
    """
    clips = places(names)
    known = {who for who, rows in clips.items() if "_nohash_" in names[rows[0]]}
    if all(len(clips[who]) < 2 for who in known):
        return None
    hits = {who: int(np.count_nonzero(right[rows])) for who, rows in clips.items()}
    sizes = {who: len(rows) for who, rows in clips.items()}
    wrong = [(who, sizes[who] - hits[who], sizes[who]) for who in known]
    wrong.sort(key=lambda row: (-row[1], row[2], row[0]))
    return BySpeaker(
        len(known),
        sum(sizes[who] for who in known),
        clustered_interval(list(hits.values()), list(sizes.values())),
        tuple(row for row in wrong[:HARDEST] if row[1] >= FEWEST_WRONG),
    )


def places(names: Sequence[str]) -> dict[str, list[int]]:
    """Speaker -> which of the clips are theirs; clips that name none are alone.

    Example:
        >>> places(["no/anna_nohash_0.wav", "no/b.wav", "yes/anna_nohash_1.wav"])
        {'anna': [0, 2], 'no/b.wav': [1]}
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        who = speaker_of(name) if "_nohash_" in name else name or f"clip {i}"
        found.setdefault(who, []).append(i)
    return found
