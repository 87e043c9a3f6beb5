"""Untrained int8 networks for tests: ours by recipe, and any function of TensorFlow's.

Weights are random and ranges calibrated on noise, so that logits spread over int8; what
is tested on them is arithmetic and structure, not accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import recipe as recipes
from kws.bundle import Bundle
from kws.recipe import Recipe

LABELS = ("_silence_", "_unknown_", "yes", "no", "up", 'q"uo\\te*/')


def recipe(base: str = "kwt-tiny-dense", frames: int = 98, **model: Any) -> Recipe:
    """A preset with some of its [model] keys changed."""
    preset = recipes.load(base)
    return dataclasses.replace(
        preset,
        features=dataclasses.replace(preset.features, frames=frames),
        model=dataclasses.replace(preset.model, **model),
    )


def features(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """int8 features: half of them like speech's (a bell), half anything."""
    rng = np.random.default_rng(seed)
    bell = np.clip(np.rint(rng.normal(0, 30, (count - count // 2, *shape))), -128, 127)
    flat = rng.integers(-128, 128, (count // 2, *shape))
    return np.concatenate([bell, flat]).astype(np.int8)


def network(spec: Recipe, seed: int = 0) -> bytes:
    """The .tflite of a recipe's network with random weights."""
    return twins(spec, seed)[1]


def twins(spec: Recipe, seed: int = 0) -> tuple[Any, bytes]:
    """The same network as Keras computes it in mode folded, and as a .tflite."""
    from kws.convert import to_tflite
    from kws.model import network as networks
    from kws.quantize import calibrate

    rng = np.random.default_rng(seed)
    source = networks.build(spec, len(LABELS))
    for weight in source.trainable_weights:
        value = weight.numpy()
        fan_in = max(1, int(np.prod(value.shape[:-1])))
        noise = rng.normal(0, 1 / np.sqrt(fan_in), value.shape)
        plain = value.ndim > 1
        weight.assign(noise if plain else value + 0.2 * rng.normal(0, 1, value.shape))
    folded = networks.fold(source, spec, len(LABELS))
    shape = (spec.features.frames, spec.features.mel_bins)
    calibrate(folded, spec, features(32, shape, seed))
    exported = networks.build(spec, len(LABELS), "export")
    networks.copy_weights(folded, exported)
    return folded, to_tflite(exported, spec.features)


def function(
    body: Callable[[Any], Any], shape: tuple[int, ...], seed: int = 0
) -> bytes:
    """The int8 .tflite of a TensorFlow function of one float tensor, calibrated on
    normal noise."""
    from kws.layers.keras import tf

    rng = np.random.default_rng(seed)
    traced = tf.function(body, input_signature=[tf.TensorSpec(shape, tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.normal(0, 1, shape).astype(np.float32)] for _ in range(8)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def bundle(folder: Path, spec: Recipe, model: bytes) -> Bundle:
    """A bundle around a .tflite, saved and loaded again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(model)
    bundles.save(Bundle(folder, spec, LABELS))
    return bundles.load(folder)


def logit_scale(model: bytes) -> float:
    """Of the output's quantization, as TFLM reads it."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    output = interpreter.get_output_details(0)
    return float(output["quantization_parameters"]["scales"][0])


def tflm_logits(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """What TFLM's own interpreter gives: int8 [N, outputs]."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    shape = interpreter.get_input_details(0)["shape"]
    rows = []
    for clip in inputs:
        interpreter.set_input(clip.reshape(shape), 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0).reshape(-1).copy())
    return np.stack(rows)
