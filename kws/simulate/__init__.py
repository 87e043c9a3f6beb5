"""Delta pruning on paper: what thresholds cost and give, before anything is flashed."""

from kws.simulate.cost import KINDS
from kws.simulate.simulator import Run, Simulator, Thresholds

__all__ = ["KINDS", "Run", "Simulator", "Thresholds"]
