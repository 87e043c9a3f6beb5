"""Delta thresholds in the training graph: the network trains on what is held.

In mode `qat` every tensor that a threshold applies to is replaced by what its delta
encoding holds (kws/simulate/delta.py has the rule; this is the same rule as a graph).
The forward pass is thus that of the board; the gradient passes straight through, as it
does through fake quantization. Thresholds are whole int8 steps of the tensor's own
quantizer, so they mean the same while its range still moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from kws.model.check import steps_of
from kws.model.keras import tf
from kws.model.layers import Quantizer
from kws.recipe import Recipe
from kws.simulate import cost
from kws.simulate.cost import KINDS, Shape
from kws.simulate.simulator import Thresholds


@cache
def _scan(dense_rows: int) -> Any:
    """The encoding as one compiled loop over rows."""

    # Compiled: row by row, TensorFlow's own loop takes several times as long.
    @tf.function(jit_compile=True, reduce_retracing=False)
    def scan(values: Any, limit: Any) -> Any:
        rows = tf.transpose(values, (1, 0, 2))
        held = tf.scan(
            lambda held, row: tf.where(tf.abs(row - held) > limit, row, held),
            rows[dense_rows:],
            initializer=rows[dense_rows - 1],
        )
        return tf.transpose(tf.concat([rows[:dense_rows], held], 0), (1, 0, 2))

    return scan


def held_rows(values: Any, limit: Any, dense_rows: int = 1) -> Any:
    """What the delta encoding holds after each row; the gradient is the identity.

    Args:
        values: float32 (B, T, D).
        limit: float32 scalar; an element moves where it differs by more.
        dense_rows: Rows at the start that are transmitted whole; 1 to T - 1.

    Returns:
        float32 (B, T, D).
    """

    @tf.custom_gradient
    def straight_through(inputs: Any) -> Any:
        # Stopped: the loop's own gradient can't be compiled, and is not asked for.
        rows, bound = tf.stop_gradient(inputs), tf.stop_gradient(limit)
        return _scan(dense_rows)(rows, bound), lambda upstream: upstream

    return straight_through(values)


class BlockHold:
    """The `Hold` of one block in mode `qat`.

    Args:
        places: (kind, the quantizer that makes the tensor) in the order of the calls.
        steps: Kind -> threshold in int8 steps; kinds that are not here pass.
        dense_rows: Rows at the start that are transmitted whole.
    """

    def __init__(
        self,
        places: list[tuple[str, Quantizer]],
        steps: dict[str, int],
        dense_rows: int,
    ) -> None:
        self.places, self.steps, self.dense_rows = places, steps, dense_rows
        # Of the call that is being traced: (kind, elements that are expected to be
        # transmitted per clip, elements that could be held).
        self.expected: list[tuple[str, Any, int]] = []
        self._next = 0

    def __call__(self, kind: str, tensor: Any) -> Any:
        if self._next == len(self.places) or kind == self.places[0][0]:
            self._next, self.expected = 0, []
        expected, quantizer = self.places[self._next]
        self._next += 1
        if kind != expected:
            raise ValueError(f"Expected a call for {expected}. Received: {kind}")
        if kind not in self.steps:
            return tensor
        # Values lie on the int8 grid: half a step keeps rounding out of the comparison.
        limit = (self.steps[kind] + 0.5) * quantizer.step()
        held = held_rows(tensor, limit, self.dense_rows)
        change = tf.abs(
            tensor[:, self.dense_rows :] - held[:, self.dense_rows - 1 : -1]
        )
        # A step function, smoothed: as wide as the threshold itself.
        chance = tf.sigmoid((change - limit) * (4.0 / limit))
        count = tf.reduce_sum(tf.reduce_mean(chance, axis=0))
        self.expected.append((kind, count, int(np.prod(change.shape[1:]))))
        return held


class NetworkHold:
    """Delta thresholds of a whole network in mode `qat`; see `holding`.

    Args:
        network: Mode `qat`.
        steps: int [layers, kinds], columns in the order of KINDS; -1: not encoded.
        shape: The network's sizes.
    """

    def __init__(self, network: Any, steps: np.ndarray, shape: Shape) -> None:
        self.shape = shape
        # As a bundle keeps them: {"X": 6, "3.X": 4}.
        self.thresholds = {
            key: int(step) for key, step in Thresholds(steps).to_dict().items()
        }
        self.attentions = [
            network.get_layer(f"block{layer}").attention
            for layer in range(shape.layers)
        ]
        self.holds = [
            BlockHold(
                places,
                {k: int(s) for k, s in zip(KINDS, row, strict=True) if s >= 0},
                shape.dense_rows,
            )
            for places, row in zip(
                _places(network, self.attentions), steps, strict=True
            )
        ]

    def expected_share(self) -> Any:
        """Share of the encoded products' MACs that the last call would execute.

        A smooth stand-in for the count, of the call of the network that is being
        traced: float32 scalar, 0 to 1.
        """
        prices = _prices(self.shape)
        parts = [part for hold in self.holds for part in hold.expected]
        spent = tf.add_n([prices[kind] * count for kind, count, _ in parts])
        return spent / sum(prices[kind] * whole for kind, _, whole in parts)


def _prices(shape: Shape) -> dict[str, float]:
    """MACs that one transmitted element costs. Q and K share those of Q.K^T."""
    return {
        "X": 3.0 * shape.inner,
        "Q": shape.tokens / 2.0,
        "K": shape.tokens / 2.0,
        "P": float(shape.head_dim),
        "O": float(shape.dim),
        "M": float(shape.mlp_rank or shape.mlp_dim),
        "H": float(shape.mlp_rank or shape.dim),
    }


def _places(network: Any, attentions: list[Any]) -> list[list[tuple[str, Quantizer]]]:
    """Per block, (kind, quantizer) of every call of its hold, in order.

    The quantizer is the one that ran last: found by running the network once.
    """
    last: list[Quantizer] = []
    found: list[list[tuple[str, Quantizer]]] = []

    def watch(places: list[tuple[str, Quantizer]]) -> Any:
        def hold(kind: str, tensor: Any) -> Any:
            places.append((kind, last[-1]))
            return tensor

        return hold

    kept = [attention.hold for attention in attentions]
    Quantizer.watcher = lambda quantizer, _: last.append(quantizer)
    try:
        for attention in attentions:
            found.append([])
            attention.hold = watch(found[-1])
        network(tf.zeros((1, *network.input_shape[1:])), training=False)
    finally:
        Quantizer.watcher = None
        for attention, hold in zip(attentions, kept, strict=True):
            attention.hold = hold
    return found


@contextmanager
def holding(network: Any, recipe: Recipe, labels: int) -> Iterator[NetworkHold | None]:
    """Run `network` with the recipe's delta thresholds, until the block ends.

    Functions that are traced inside keep them. Without thresholds nothing is done.

    Args:
        network: Mode `qat`.
        recipe: Its [quantize] delta_thresholds say which.
        labels: Number of logits.

    Raises:
        KwsError: thresholds that are none, or attention that has no delta encoding.
    """
    text = recipe.quantize.delta_thresholds
    if not text:
        yield None
        return
    shape = cost.shape_of(recipe, labels)
    hold = NetworkHold(network, steps_of(text, shape.layers), shape)
    kept = [attention.hold for attention in hold.attentions]
    try:
        for attention, block in zip(hold.attentions, hold.holds, strict=True):
            attention.hold = block
        yield hold
    finally:
        for attention, before in zip(hold.attentions, kept, strict=True):
            attention.hold = before
