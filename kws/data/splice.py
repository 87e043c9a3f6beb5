"""Splices: new clips cut and joined out of others, for a teacher to label.

A recording of speech is cut inside its word; what is kept is a beginning, an end, or a
beginning with the end of another clip joined to it. Nobody knows what such a clip says,
so it is of use only with a teacher, which says how much of every word it hears: the
student then agrees with the teacher on real voices also between the words and not on
the words alone (Beyer et al. 2022, arXiv:2106.05237, "function matching"). Among the
splices are words that nobody recorded: the end of *one* is often an *on*.
"""

from __future__ import annotations

import numpy as np

FRAME = 160  # samples of the loudness contour: 10 ms
ACTIVE_DB = 25.0  # a frame this far below the clip's loudest is still speech
JOIN = 160  # samples of cross-fade
EDGE = 80  # samples of fade at an end that was cut
MARGIN = 4  # frames kept around the word


def splice(pcm: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cut and join clips at random.

    Args:
        pcm: int16 [N, samples], clips with a word in each.
        count: How many to make.
        seed: Any non-negative integer.

    Returns:
        int16 [count, samples]: a third each of ends, of beginnings, and of a beginning
        with another clip's end at the same loudness, anywhere in the clip.

    Example:
        >>> words = np.zeros((4, 16000), np.int16)
        >>> splice(words, 10, seed=1).shape
        (10, 16000)
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    out = np.zeros((count, pcm.shape[1]), np.int16)
    for row in out:
        first, second = pcm[rng.integers(0, len(pcm), size=2)]
        kind = int(rng.integers(0, 3))
        end = _end(second, rng.random())
        beginning = _beginning(first, rng.random())
        where = rng.random()
        if kind == 0:
            made = _faded(end)
        elif kind == 1:
            made = _faded(beginning)
        else:
            made = _joined(beginning, end)
        made = made[: len(row)]
        at = int(where * (len(row) - len(made) + 1))
        row[at : at + len(made)] = np.clip(np.rint(made), -32768, 32767)
    return out


def _spoken(clip: np.ndarray) -> tuple[int, int]:
    """First frame of the word and the one after its last."""
    whole = clip[: len(clip) // FRAME * FRAME].astype(np.float32)
    power = np.square(whole.reshape(-1, FRAME)).mean(axis=1)
    loudness = 10 * np.log10(power + 1)
    loudest, quiet = np.percentile(loudness, (97, 10))
    active = loudness > max(loudest - ACTIVE_DB, (loudest + quiet) / 2)
    if not active.any():
        return 0, len(active)
    return int(active.argmax()), len(active) - int(active[::-1].argmax())


def _beginning(clip: np.ndarray, share: float) -> np.ndarray:
    first, stop = _spoken(clip)
    cut = first + 3 + int(share * max(1, stop - first - 3))
    return clip[max(0, first - MARGIN) * FRAME : cut * FRAME].astype(np.float32)


def _end(clip: np.ndarray, share: float) -> np.ndarray:
    first, stop = _spoken(clip)
    cut = first + 2 + int(share * max(1, stop - first - 5))
    return clip[cut * FRAME : (stop + MARGIN) * FRAME].astype(np.float32)


def _faded(part: np.ndarray) -> np.ndarray:
    size = min(EDGE, len(part) // 2)
    if size:
        part[:size] *= np.linspace(0, 1, size, dtype=np.float32)
        part[-size:] *= np.linspace(1, 0, size, dtype=np.float32)
    return part


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    size = min(JOIN, len(first), len(second))
    if not size:
        return _faded(first)
    loudness = [float(np.sqrt(np.square(part).mean() + 1)) for part in (first, second)]
    second = second * min(4.0, max(0.25, loudness[0] / loudness[1]))
    fade = np.linspace(0, 1, size, dtype=np.float32)
    middle = first[-size:] * (1 - fade) + second[:size] * fade
    return np.concatenate([first[:-size], middle, second[size:]])


def choose(
    heard: np.ndarray, labels: int, count: int, silence: int | None
) -> np.ndarray:
    """Which splices to keep: as even over what was heard as there are.

    Args:
        heard: int [N], the teacher's label of each.
        labels: How many labels there are.
        count: How many to keep, at most.
        silence: A label to leave out, or None.

    Returns:
        int64 [at most count], in order.

    Example:
        >>> choose(np.array([0, 1, 1, 1, 2, 1]), 3, 4, silence=0)
        array([1, 2, 3, 4])
    """
    places = [np.flatnonzero(heard == k) for k in range(labels) if k != silence]
    places.sort(key=len)
    kept: list[np.ndarray] = []
    for number, place in enumerate(places):
        left = count - sum(map(len, kept))
        kept.append(place[: left // (len(places) - number)])
    return np.sort(np.concatenate(kept))
