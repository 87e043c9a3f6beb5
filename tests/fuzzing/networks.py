"""Small int8 networks of every kind that the emitter knows, as bundles.

Their .tflite files are seeds of the reader, and their C is fuzzed. Written anew by

    python tests/fuzzing/networks.py        (needs TensorFlow; half a minute)
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import sample_models  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws.bundle import Bundle  # noqa: E402
from kws.recipe import Recipe  # noqa: E402

FOLDER = Path(__file__).parent / "seeds" / "tflite"


def _recipe(base: str = "kwt-tiny-dense", **model: Any) -> Recipe:
    shape = {"stem_channels": 4, "dim": 8, "head_dim": 8, "mlp_dim": 12, "layers": 1}
    whole = sample_models.recipe(base, 20, **(shape | model))
    features = dataclasses.replace(whole.features, mel_bins=16)
    return dataclasses.replace(whole, features=features)


RECIPES = {
    "clip": _recipe(),
    "published": _recipe(
        stem="patch",
        cepstra=8,
        norm="layer",
        norm_position="post",
        activation="gelu",
        positions=True,
        class_token=True,
    ),
    "heads": _recipe(
        heads=2, head_dim=4, norm="layer", activation="hard_swish", positions=True
    ),
    "variants": _recipe(
        layers=3, attention=("conv", "folded", "softmax"), conv_kernel=3
    ),
    "stream": _recipe("kwt-stream-tiny", groups=1),
}
# In int8 steps; `heads` and `published` are run dense.
THRESHOLDS = {
    "clip": {"X": 4, "Q": 3, "K": 3, "P": 2, "O": 4},
    "variants": {"X": 0, "M": 5, "H": 3},
    "stream": {"F": 16, "C": 4, "E": 4, "M": 16, "H": 4, "R": 2},
}


def bundle(name: str, folder: Path) -> Bundle:
    """One of them, in a folder of its own."""
    model = (FOLDER / f"{name}.tflite").read_bytes()
    made = sample_models.bundle(folder, RECIPES[name], model)
    made = dataclasses.replace(made, thresholds=THRESHOLDS.get(name, {}))
    bundles.save(made)
    return made


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, recipe in RECIPES.items():
        (FOLDER / f"{name}.tflite").write_bytes(sample_models.network(recipe))


if __name__ == "__main__":
    main()
