"""Small networks with every option somewhere, for the tests of stages 4 and 5."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kws import layers, recipe
from kws.layers.keras import tf, tf_keras
from kws.model import network
from kws.recipe import Recipe

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "published": {
        "stem": "patch",
        "cepstra": 20,
        "norm": "layer",
        "norm_position": "post",
        "activation": "gelu",
        "positions": True,
        "class_token": True,
    },
    "two heads, hard swish": {
        "heads": 2,
        "head_dim": 6,
        "norm": "layer",
        "activation": "hard_swish",
        "positions": True,
    },
    "batch norm, patches": {
        "stem": "patch",
        "patch_frames": 2,
        "norm": "batch",
        "class_token": True,
    },
    "batch norm, post": {"norm": "batch", "norm_position": "post"},
    "tanh, post": {"norm_position": "post"},
}


def small(variant: str, **changes: Any) -> Recipe:
    """The recipe of a variant: 2 blocks, 12 wide."""
    base = recipe.Recipe()
    shape = {"stem_channels": 4, "dim": 12, "head_dim": 12, "mlp_dim": 16, "layers": 2}
    model = dataclasses.replace(base.model, **(shape | VARIANTS[variant] | changes))
    return dataclasses.replace(base, model=model)


def awake(spec: Recipe, labels: int) -> Any:
    """A float network whose scales, shifts and statistics are not 1 and 0."""
    tf_keras.utils.set_random_seed(3)
    net = network.build(spec, labels)
    rng = np.random.default_rng(5)
    for weight in net.weights:
        if weight.name.rsplit("/", 1)[-1].startswith(("gamma", "beta", "mean", "bias")):
            weight.assign_add(rng.normal(0, 0.1, weight.shape).astype(np.float32))
    # Features are some six times larger than what a trained stem lets through.
    kernel = net.get_layer("stem").embed.kernel
    kernel.assign(kernel * 0.15)
    real = features(spec, 8)[1]
    for part in net.submodules:
        if isinstance(part, layers.BatchNorm):
            part.MOMENTUM = 0.5
    for _ in range(5):  # statistics of batch norms that fit what they see
        net(real, training=True)
    return net


def features(spec: Recipe, count: int) -> tuple[np.ndarray, Any]:
    """Something like speech: smooth in time, with loud and quiet parts.

    Returns:
        int8 [count, frames, mel_bins] and the same as real values.
    """
    rng = np.random.default_rng(7)
    shape = (count, spec.features.frames, spec.features.mel_bins)
    drift = np.cumsum(rng.normal(0, 6, (*shape[:2], 1)), axis=1)
    int8 = np.clip(rng.normal(0, 15, shape) + drift - 60, -128, 127).astype(np.int8)
    real = (int8.astype(np.float32) - spec.features.zero_point) * spec.features.scale
    return int8, tf.constant(real, tf.float32)
