"""Other words that a keyword is taken for: words that sound alike, and phrases.

The nearest of some twelve hundred common English words, by the edits that turn one row
of sounds into the other, and what is said around parts of a phrase: *the lights*,
*lights are on*. Never a phrase with the whole keyword in it (*turn the lights on*): a
moment later a window of that holds *lights on* alone, and would be word and no word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from kws.data import names

EACH = 8  # words that sound like each keyword
# What a sound becomes another for: within its kind less than across.
_SAME_KIND, _OTHER_KIND, _MORE_OR_LESS = 0.7, 1.2, 1.0
_VOWELS = frozenset("aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏᵻ")
_SHADES = re.compile(r"[ˈˌːˑ.ʲʰˠ̃\u0329\u032f\s'-]")
BEFORE = ("the", "some", "please")
BETWEEN = ("are", "and the")
AFTER = ("again", "is", "there")


@cache
def common_words() -> tuple[str, ...]:
    """Common words of English."""
    text = (Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def distance(one: str, other: str) -> float:
    """How far two rows of sounds are from each other (Levenshtein's edits, weighted).

    Args:
        one: In the international phonetic alphabet; stress and length don't count.
        other: Likewise.

    Returns:
        0 for the same sounds, about 1 for each that is another.

    Example:
        >>> distance("jˈɛs", "jˈɛt"), distance("ɡˈoʊ", "ɡoʊ")
        (0.7, 0.0)
    """
    one, other = _SHADES.sub("", one), _SHADES.sub("", other)
    row = [place * _MORE_OR_LESS for place in range(len(other) + 1)]
    for number, sound in enumerate(one, 1):
        before, row[0] = row[0], number * _MORE_OR_LESS
        for place, heard in enumerate(other, 1):
            same_kind = (sound in _VOWELS) == (heard in _VOWELS)
            change = _SAME_KIND if same_kind else _OTHER_KIND
            best = min(
                before + (0.0 if sound == heard else change),
                row[place] + _MORE_OR_LESS,
                row[place - 1] + _MORE_OR_LESS,
            )
            before, row[place] = row[place], best
    return round(row[-1], 6)


def alike(
    words: Sequence[str], ipa: Callable[[str], str], count: int = EACH
) -> list[str]:
    """Common English words that sound like each keyword, but not the same as any.

    Args:
        words: The keywords.
        ipa: How a word sounds, in the international phonetic alphabet.
        count: How many for each.

    Returns:
        Without doubles; those of the first keyword first, nearest first.
    """
    sounds = {word: ipa(word) for word in common_words()}
    spoken = [ipa(word) for word in words]
    parts = {names.key(part) for word in words for part in word.split(" ")}
    own = parts | {names.key(word) for word in words}
    others = [
        word
        for word, sound in sounds.items()
        if word not in own and all(distance(sound, key) > 0 for key in spoken)
    ]
    found: list[str] = []
    for key in spoken:
        far = np.array([distance(sounds[word], key) for word in others])
        order = np.argsort(far, kind="stable")[:count]
        found += [others[place] for place in order]
    return list(dict.fromkeys(found))


def phrases(words: Sequence[str]) -> list[str]:
    """English phrases with parts of keywords of several words, none with all of one.

    Example:
        >>> phrases(["lights on"])[:4]
        ['the lights', 'some lights', 'please lights', 'on lights']
    """
    found = []
    for word in words:
        parts = word.split(" ")
        if len(parts) < 2:
            continue
        head, last = " ".join(parts[:-1]), parts[-1]
        found += [f"{before} {head}" for before in BEFORE]
        found.append(f"{last} {head}")
        found += [f"{head} {between} {last}" for between in BETWEEN]
        found += [f"{last} {after}" for after in AFTER]
    return [text for text in dict.fromkeys(found) if names.is_word(text)]


def pieces(sentences: Sequence[str], length: int = 2) -> list[str]:
    """Pieces of running speech, so many words each.

    Example:
        >>> pieces(["he told me a long story"])
        ['he told', 'me a', 'long story']
    """
    found = []
    for sentence in sentences:
        parts = sentence.split(" ")
        found += [
            " ".join(parts[place : place + length])
            for place in range(0, len(parts), length)
        ]
    return [text for text in dict.fromkeys(found) if names.is_word(text)]
