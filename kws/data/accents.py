"""Accents: how people whose first language is another say English words.

A synthesizer of English says every word as a dictionary has it; many people who speak
English do not. An accent here is a list of sounds that are put in another's
place, in the international phonetic alphabet as eSpeak NG writes it: mostly those that
the first language lacks. Nobody does all of it, so each speaker keeps some of an
accent's habits, always the same ones.

Rough, and meant to be: a network that is to hear people must not hold on to one way of
saying a word.
"""

from __future__ import annotations

import re

import numpy as np

_VOWEL = "aeiouyøœɐɑɒæɔəɚɛɜɪʊʌᵻˈˌ"
_R_AT_THE_END = f"ɹ(?![{_VOWEL}])"
_Sounds = tuple[tuple[str, str], ...]
ACCENTS: dict[str, _Sounds] = {
    "british": (("ɚ", "ə"), (_R_AT_THE_END, ""), ("ɾ", "t"), ("ɐ", "ə")),
    "chinese": (
        (_R_AT_THE_END, ""),
        ("ɹ", "ɻ"),
        ("ɚ", "ə"),
        ("θ", "s"),
        ("ð", "d"),
        ("v", "w"),
        ("ɪ", "i"),
        ("æ", "ɛ"),
        ("z", "s"),
    ),
    "french": (
        ("ɚ", "œʁ"),
        ("ɹ", "ʁ"),
        ("h", ""),
        ("ɪ", "i"),
        ("θ", "s"),
        ("ð", "z"),
        ("ʌ", "œ"),
        ("ɾ", "t"),
        ("uː", "y"),
        ("ˈ", ""),
    ),
    "german": (
        ("ɚ", "ɐ"),
        (_R_AT_THE_END, "ɐ"),
        ("ɹ", "ʁ"),
        ("w", "v"),
        ("θ", "s"),
        ("ð", "z"),
        ("æ", "ɛ"),
        ("ʌ", "a"),
        ("ɾ", "t"),
        ("ɐ(?=l)", "a"),
    ),
    "hindi": (
        ("ɚ", "əɾ"),
        ("ɹ", "ɾ"),
        ("t(?!ʃ)", "ʈ"),
        ("d(?!ʒ)", "ɖ"),
        ("θ", "t"),
        ("ð", "d"),
        ("[vw]", "ʋ"),
        ("æ", "ɛ"),
        ("ʌ", "ə"),
    ),
    "italian": (
        ("ɚ", "er"),
        ("ɹ", "r"),
        ("[əɐ](?!ʊ)", "a"),
        ("ɪ", "i"),
        ("æ", "ɛ"),
        ("ʌ", "a"),
        ("h", ""),
        ("ɾ", "t"),
        ("ɑː", "a"),
    ),
    "japanese": (
        ("ɚ", "a"),
        (_R_AT_THE_END, "a"),
        ("[ɹl]", "ɾ"),
        ("[əɐ](?!ʊ)", "a"),
        ("θ", "s"),
        ("ð", "z"),
        ("v", "b"),
        ("[ʌæ]", "a"),
        ("ks", "kɯs"),
    ),
    "slavic": (
        ("ɚ", "er"),
        ("ɹ", "r"),
        ("[əɐ](?!ʊ)", "a"),
        ("ɪ", "i"),
        ("w", "v"),
        ("θ", "s"),
        ("ð", "z"),
        ("h", "x"),
        ("æ", "ɛ"),
        ("ʌ", "a"),
        ("ɾ", "t"),
    ),
    "spanish": (
        ("ɚ", "eɾ"),
        ("ɹ", "ɾ"),
        ("[əɐ](?!ʊ)", "a"),
        ("ɪ", "i"),
        ("[ʌæ]", "a"),
        ("ɑː", "a"),
        ("ɔː", "o"),
        ("z", "s"),
        ("v", "b"),
        ("ɛ", "e"),
        ("h", "x"),
    ),
    # Of no country: in a hurry, or with each letter spoken.
    "careful": (("kəm", "kɔm"), ("ɐ(?=l)", "a"), ("ə$", "a"), ("ɾ", "t"), ("ɚ", "əɹ")),
    "hasty": (
        ("ː", ""),
        ("ˌ", ""),
        ("ɹɚ", "ɹ"),
        ("t(?= |$)", "ʔ"),
        ("ɾ", "d"),
        ("ə(?=[lmn])", ""),
    ),
}
KEPT = 0.85  # share of an accent's habits that a speaker has
FLAT = 0.12  # share of speakers who stress no syllable


def accented(ipa: str, accent: str, speaker: int) -> str:
    """A text as somebody with an accent says it.

    Args:
        ipa: What eSpeak NG's English voices say.
        accent: A key of ACCENTS.
        speaker: A number that stands for the speaker, 0 or more: equal ones have the
            same habits.

    Returns:
        What that speaker says.

    Example:
        >>> accented("kəmpjˈuːɾɚ", "german", 1)
        'kəmpjˈuːtɐ'
        >>> accented("smˈɑːɹt mˈɪɹɚ", "spanish", 2)
        'smˈaɾt mˈiɾeɾ'
    """
    rng = np.random.default_rng(speaker)
    for sound, other in ACCENTS[accent]:
        if rng.random() < KEPT:
            ipa = re.sub(sound, other, ipa)
    return ipa.replace("ˈ", "") if rng.random() < FLAT else ipa
