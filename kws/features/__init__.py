"""Log-mel features, computed by the same C as on the board (DESIGN D1, D7)."""

from kws.features.binding import FeatureStream, check_length, extract, of_clips
from kws.features.tables import c_source, spec_hash, tables

__all__ = [
    "FeatureStream",
    "c_source",
    "check_length",
    "extract",
    "of_clips",
    "spec_hash",
    "tables",
]
