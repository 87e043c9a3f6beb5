"""What holds for every test: random weights are the same in every run, and skips are
failures where KWS_REQUIRE_TOOLS=1 (see toolbox.py for the others)."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _same_weights_in_every_run() -> None:
    """Keras draws its first weights from a generator that every process starts anew."""
    keras = sys.modules.get("tf_keras")
    if keras is not None:
        keras.utils.set_random_seed(1)


if os.environ.get("KWS_REQUIRE_TOOLS") == "1":

    def _import(name: str, *_: Any, **__: Any) -> Any:
        return importlib.import_module(name)

    # A package that tools/setup.sh installs and that can't be imported is a fault.
    pytest.importorskip = _import  # type: ignore[assignment]
