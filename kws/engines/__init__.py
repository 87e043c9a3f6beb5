"""Engines: one module for each way to run a bundle's network on clips.

An engine is a module of this folder with

    def logits(bundle, pcm, jobs=2, board=None, progress=None) -> np.ndarray

        bundle    kws.bundle.Bundle
        pcm       int16 [N, samples], 16 kHz; each clip at least one window long
        jobs      threads, processes or emulators side by side
        board     board name, for engines that run on one
        progress  called with the number of clips done so far
        returns   [N, labels] in the order of bundle.labels: int8, the network's own
                  quantized logits, from every engine that runs model.tflite;
                  float32 from `float`

and the constant INTEGER, True where the logits are int8. All integer engines but
`tflite` give the same bits (DESIGN D3). An engine that runs the bundle's delta
thresholds also has `counted`, of the same arguments: the logits, and uint32
[N, products], what each product with thresholds transmitted. The others run dense.

The folder's listing is the registry; the tests in tests/test_engines.py run over it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from kws.errors import no_such

OLD_NAMES = {"device": "host", "int8": "tflite"}


def names() -> list[str]:
    """The engines, by name."""
    return sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "common")
    )


def canonical(name: str) -> str:
    """An engine's name, where an old one may be given.

    Raises:
        KwsError: no such engine.

    Example:
        >>> canonical("int8")
        'tflite'
    """
    name = OLD_NAMES.get(name, name)
    if name not in names():
        raise no_such("engine", name, names(), "kws eval RUN --engine host")
    return name


def get(name: str) -> ModuleType:
    """An engine's module.

    Raises:
        KwsError: no such engine.
    """
    return importlib.import_module(f"kws.engines.{canonical(name)}")
