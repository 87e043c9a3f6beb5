"""Audio: Speech Commands, corpora in its layout, splits, augmentation, long tapes."""

from kws.data.sources import Sources, of_run, remember, remembered
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
    "Sources",
    "find_data",
    "labels",
    "load",
    "noise_bank",
    "of_run",
    "open_corpus",
    "overview",
    "remember",
    "remembered",
]
