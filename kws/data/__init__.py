"""Audio: Speech Commands, corpora in its layout, splits, augmentation, long tapes."""

from kws.data.speech_commands import (
    ClipSet,
    Corpus,
    find_data,
    labels,
    load,
    noise_bank,
    open_corpus,
    overview,
)

__all__ = [
    "ClipSet",
    "Corpus",
    "find_data",
    "labels",
    "load",
    "noise_bank",
    "open_corpus",
    "overview",
]
