"""What this machine may tell a board (firmware/app/command.h), in people's words.

`kws monitor --send "threshold word=yes value=0.85"` becomes the line
`kws threshold label=2 value=850 #0 ....`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kws.deploy import frame
from kws.emit.common import Q15_ONE, first_word
from kws.errors import KwsError, quoted

# Verb -> its keys.
VERBS = {
    "query": (),
    "verbosity": ("level",),
    "threshold": ("word", "value"),
    "gain": ("value",),
    "selftest": (),
}
RANGES = {
    "verbosity": range(3),  # firmware/app/command.h
    "gain": range(1, 101),  # firmware/boards/common/live.c
}
EXAMPLES = (
    "query",
    "verbosity level=2",
    "threshold word=yes value=0.85",
    "gain value=10",
    "selftest",
)


def line(text: str, sequence: int, labels: Sequence[str], rearm: float = 0.0) -> str:
    """A command as the board reads it, without a line's end.

    Args:
        text: As in EXAMPLES.
        sequence: Its number; the board's reply names it.
        labels: The model's, for `word`.
        rearm: Of the detector, below which the board takes no threshold.

    Raises:
        KwsError: no such command, key, word or value, or one that the board would
            refuse or round.

    Example:
        >>> line("threshold word=yes value=0.85", 7, ["silence", "unknown", "yes"])
        'kws threshold label=2 value=850 #7 368F'
    """
    first = first_word(labels)
    try:
        verb, *rest = shlex.split(text)
        pairs = dict(part.split("=", 1) for part in rest)
        keys = VERBS[verb]
        if set(pairs) != set(keys) or len(rest) != len(keys):
            raise ValueError
        numbers = {}
        for key in keys:
            if key == "word":
                numbers["label"] = first + list(labels[first:]).index(pairs[key])
            elif verb == "threshold":
                numbers[key] = _thousandths(float(pairs[key]), rearm, text, pairs)
            else:
                numbers[key] = _whole(int(pairs[key]), verb, key, text)
    except (KeyError, ValueError):
        raise KwsError(
            f"No such command for a board. Expected one like "
            f"{'; '.join(EXAMPLES)}; the words are {', '.join(labels[first:])}. "
            f"Received: {text!r}",
            'kws monitor RUN --board BOARD --send "query"',
        ) from None
    told = [f"kws {verb}", *(f"{key}={value}" for key, value in numbers.items())]
    return frame.framed(" ".join(told), sequence)


def _thousandths(share: float, rearm: float, text: str, pairs: dict[str, str]) -> int:
    """What the board takes for a threshold."""
    if not 0 <= share <= 1:
        raise ValueError
    # The board compares both in steps of 1/32767 (firmware/app/command.c).
    lowest = round(rearm * Q15_ONE)
    least = next(n for n in range(1001) if (n * Q15_ONE + 500) // 1000 >= lowest)
    if round(share, 3) == share and round(1000 * share) >= least:
        return round(1000 * share)
    most = 999 if share < 1 else 1000  # at 1 a word is hardly ever heard
    near = max(least, min(most, round(1000 * share))) / 1000
    better = ["threshold", f"word={pairs['word']}", f"value={near:g}"]
    raise _refused(
        "The board keeps a threshold in thousandths, and takes none below rearm. "
        f"Expected {least / 1000:g} to 1, with three decimals at most",
        text,
        shlex.join(better),
    )


def _whole(value: int, verb: str, key: str, text: str) -> int:
    """What the board takes for a key: whole numbers alone."""
    known = RANGES[verb]
    if value in known:
        return value
    near = min(max(value, known.start), known.stop - 1)
    expected = f"The board knows no such {verb}. Expected {known.start} to {known[-1]}"
    raise _refused(expected, text, f"{verb} {key}={near}")


def _refused(expected: str, text: str, better: str) -> KwsError:
    return KwsError(
        f"{expected}. Received: {text!r}", f"kws monitor ... --send {quoted(better)}"
    )
