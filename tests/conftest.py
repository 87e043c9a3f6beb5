"""Skips that are failures where KWS_REQUIRE_TOOLS=1; see toolbox.py for the others."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

if os.environ.get("KWS_REQUIRE_TOOLS") == "1":

    def _import(name: str, *_: Any, **__: Any) -> Any:
        return importlib.import_module(name)

    # A package that tools/setup.sh installs and that can't be imported is a fault.
    pytest.importorskip = _import  # type: ignore[assignment]
