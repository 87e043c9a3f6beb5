"""Attention variants: one module each, found by listing this folder (DESIGN D13).

A variant is a module with a class `Attention(KwsLayer)`:

    Attention(mode: str, name: str, model: kws.recipe.Model)
    call(inputs (B, T, dim), training) -> (B, T, dim), before the residual
    fold(source: Attention, norm: Norm | None)   load folded weights from a `float` twin

and, where the board needs to know, a docstring that says which operators it becomes.
`fold` assigns kernel and bias one by one: blocks may share kernels, and a borrowed one
is not among its layer's weights (kws/model/lowrank.py).
`tests/test_model.py` runs every variant found here through the same contract.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from kws.errors import no_such


def names() -> list[str]:
    """The variants in this folder."""
    return sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if not path.stem.startswith("_")
    )


def find(name: str) -> Any:
    """The `Attention` class of the variant `name`.

    Raises:
        KwsError: no such module.
    """
    if name not in names():
        raise no_such(
            "attention variant",
            name,
            names(),
            'Set [model] attention = "softmax" in the recipe.',
        )
    return importlib.import_module(f"kws.attention.{name}").Attention
