"""Log-mel features, computed by the same C as on the board (DESIGN D1, D7)."""

from kws.features.binding import FeatureStream, extract
from kws.features.tables import c_source, spec_hash, tables

__all__ = ["FeatureStream", "c_source", "extract", "spec_hash", "tables"]
