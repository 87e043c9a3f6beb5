"""What this machine may tell a board (firmware/app/command.h), in people's words.

`kws monitor --send "threshold word=yes value=0.85"` becomes the line
`kws threshold label=2 value=850 #0 ....`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kws.deploy import frame
from kws.errors import KwsError

# Verb -> its keys.
VERBS = {
    "query": (),
    "verbosity": ("level",),
    "threshold": ("word", "value"),
    "gain": ("value",),
    "selftest": (),
}
EXAMPLES = (
    "query",
    "verbosity level=2",
    "threshold word=yes value=0.85",
    "gain value=10",
    "selftest",
)


def line(text: str, sequence: int, labels: Sequence[str]) -> str:
    """A command as the board reads it, without a line's end.

    Args:
        text: As in EXAMPLES.
        sequence: Its number; the board's reply names it.
        labels: The model's, for `word`.

    Raises:
        KwsError: no such command, key, word or value.

    Example:
        >>> line("threshold word=yes value=0.85", 7, ["silence", "unknown", "yes"])
        'kws threshold label=2 value=850 #7 368F'
    """
    try:
        verb, *rest = shlex.split(text)
        pairs = dict(part.split("=", 1) for part in rest)
        keys = VERBS[verb]
        if set(pairs) != set(keys) or len(rest) != len(keys):
            raise ValueError
        numbers = {key: _value(verb, key, pairs[key], labels) for key in keys}
    except (KeyError, ValueError):
        raise KwsError(
            f"No such command for a board. Expected one like "
            f"{'; '.join(EXAMPLES)}; the words are {', '.join(labels)}. "
            f"Received: {text!r}",
            'kws monitor RUN --board BOARD --send "query"',
        ) from None
    told = [f"kws {verb}", *(f"{key}={value}" for key, value in numbers.items())]
    told[1:] = [part.replace("word=", "label=") for part in told[1:]]
    return frame.framed(" ".join(told), sequence)


def _value(verb: str, key: str, text: str, labels: Sequence[str]) -> int:
    """What the board takes for a key: whole numbers alone."""
    if key == "word":
        return list(labels).index(text)
    if verb == "threshold":
        share = float(text)
        if not 0 <= share <= 1:
            raise ValueError
        return round(1000 * share)
    value = int(text)
    if not 0 <= value <= 999_999:
        raise ValueError
    return value
