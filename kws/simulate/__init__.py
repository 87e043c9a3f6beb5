"""Delta pruning on paper: what thresholds cost and give, before anything is flashed."""

import os

# Batches run side by side, so that a product must not take every core: with BLAS's own
# threads on top the int8 simulator is three times slower. Read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from kws.simulate.simulator import Run, Simulator  # noqa: E402

__all__ = ["Run", "Simulator"]
