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

from kws import attention
from kws.errors import KwsError
from kws.graph.products import DENSE_KINDS
from kws.layers import Quantizer, pass_on
from kws.layers.keras import tf
from kws.model.check import thresholds_of
from kws.recipe import Model, Recipe
from kws.shape import Shape, shape_of
from kws.thresholds import Slot, Thresholds


@cache
def _scan(dense_rows: int) -> Any:
    """The encoding as one compiled loop over rows."""

    # Compiled: row by row, TensorFlow's own loop takes several times as long.
    @tf.function(jit_compile=True, reduce_retracing=False, autograph=False)
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
        shape: The network's sizes.
    """

    def __init__(
        self,
        places: list[tuple[str, Quantizer]],
        steps: dict[str, int],
        shape: Shape,
    ) -> None:
        self.places, self.steps, self.shape = places, steps, shape
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
        whole = self.shape.whole_rows(tensor.shape[1])
        held = held_rows(tensor, limit, whole)
        change = tf.abs(tensor[:, whole:] - held[:, whole - 1 : -1])
        # A step function, smoothed: as wide as the threshold itself.
        chance = tf.sigmoid((change - limit) * (4.0 / limit))
        count = tf.reduce_sum(tf.reduce_mean(chance, axis=0))
        self.expected.append((kind, count, int(np.prod(change.shape[1:]))))
        return held


class NetworkHold:
    """Delta thresholds of a whole network in mode `qat`; see `holding`.

    Args:
        network: Mode `qat`.
        thresholds: In int8 steps.
        shape: The network's sizes.
        prices: Per block: MACs that a transmitted element of each kind causes.
    """

    def __init__(
        self,
        network: Any,
        thresholds: Thresholds,
        shape: Shape,
        prices: list[dict[str, float]],
    ) -> None:
        self.prices = prices
        # As a bundle keeps them: {"X": 6, "3.X": 4}.
        self.thresholds = thresholds.to_steps()
        self.attentions = [
            network.get_layer(f"block{layer}").attention
            for layer in range(shape.layers)
        ]
        steps: list[dict[str, int]] = [{} for _ in range(shape.layers)]
        for layer, kind in thresholds.encoded:
            steps[layer][kind] = int(thresholds[layer, kind])
        self.holds = [
            BlockHold(places, mine, shape)
            for places, mine in zip(
                _places(network, self.attentions), steps, strict=True
            )
        ]

    def expected_share(self) -> Any:
        """Share of the encoded products' MACs that the last call would execute.

        A smooth stand-in for the count, of the call of the network that is being
        traced: float32 scalar, 0 to 1.
        """
        parts = [
            (prices[kind], count, whole)
            for prices, hold in zip(self.prices, self.holds, strict=True)
            for kind, count, whole in hold.expected
        ]
        spent = tf.add_n([price * count for price, count, _ in parts])
        return spent / sum(price * whole for price, _, whole in parts)


class StreamHold:
    """Delta thresholds of a causal network in mode `qat`; see `holding`.

    A row is what a step of the stream brings: a token, or the frames of one. What the
    read-out's MLP takes (R) is computed once a decision, and is not held here. What the
    dense layers of a block's mixing half take is held where it calls its hold; the
    others, which other layers may read too, where they are quantized.

    Args:
        network: Mode `qat`.
        thresholds: In int8 steps.
        model: The recipe's.

    Raises:
        KwsError: a norm that keeps nothing held.
    """

    def __init__(self, network: Any, thresholds: Thresholds, model: Model) -> None:
        self.thresholds = thresholds.to_steps()
        places = _stream_places(network, model)
        self.held = [
            (quantizer, _held_by_step(quantizer, rows, int(thresholds[slot])))
            for slot, (quantizer, rows) in places.items()
            if slot in thresholds.encoded
        ]
        mixing = {
            layer: block.attention
            for layer in range(model.layers)
            if (block := network.get_layer(f"block{layer}")).attention is not None
        }
        found = _places(network, [*mixing.values()]) if mixing else []
        self.mixing = [
            (attention, _held_by_kind(places, layer, thresholds))
            for (layer, attention), places in zip(mixing.items(), found, strict=True)
        ]

    def start(self) -> None:
        """Hold, in every call of the network from here on."""
        for quantizer, function in self.held:
            quantizer.hold = function
        for mixing, function in self.mixing:
            mixing.hold = function

    def end(self) -> None:
        """Hold nothing any more."""
        for quantizer, _ in self.held:
            quantizer.hold = None
        for mixing, _ in self.mixing:
            mixing.hold = pass_on


def _held_by_kind(
    places: list[tuple[str, Quantizer]], layer: int, thresholds: Thresholds
) -> Any:
    """The `Hold` of a block's mixing half: what has a threshold there is held."""
    held = {
        kind: _held_by_step(quantizer, 1, int(thresholds[layer, kind]))
        for kind, quantizer in places
        if kind in DENSE_KINDS and (layer, kind) in thresholds.encoded
    }
    return lambda kind, tensor: held.get(kind, lambda same: same)(tensor)


def _held_by_step(quantizer: Quantizer, rows: int, steps: int) -> Any:
    """A function that replaces a quantizer's output, (B, T, ...), by what is held of
    `rows` of T at a time."""

    def hold(values: Any) -> Any:
        _, time, *rest = values.shape
        row = rows * int(np.prod(rest))
        by_step = tf.reshape(values, (-1, time // rows, row))
        limit = (steps + 0.5) * quantizer.step()
        return tf.reshape(held_rows(by_step, limit), (-1, time, *rest))

    return hold


def _stream_places(network: Any, model: Model) -> dict[Slot, tuple[Quantizer, int]]:
    """Slot -> the quantizer that makes its tensor, and the rows of it in a step."""
    if model.norm != "dyt":
        raise KwsError(
            "A network for streams is tuned with thresholds where its norm keeps held "
            f'elements held. Expected norm = "dyt". Received: norm = {model.norm!r}',
            "kws tune RUN --out OUT   (without --theta and --delta)",
        )
    stem = network.get_layer("stem")
    rows = model.stem_stride[0]
    places: dict[Slot, tuple[Quantizer, int]] = {}
    last = stem.activation.outputs_range
    if model.stem_second_channels:
        places[0, "C"] = (last, 2)
        rows *= 2
        last = stem.activation2.outputs_range
    places[0, "F"] = (network.get_layer("inputs_range"), rows)
    places[0, "E"] = (last, 1)
    for layer in range(model.layers):
        block = network.get_layer(f"block{layer}")
        places[layer, "M"] = (block.norm2.squashed, 1)
        places[layer, "H"] = (block.activation.outputs_range, 1)
    return places


def _places(network: Any, attentions: list[Any]) -> list[list[tuple[str, Quantizer]]]:
    """Per block, (kind, quantizer) of every call of its hold, in order.

    The quantizer is the one that made the tensor, in another block where that is
    carried; of a view of it, the one that ran last. Found by running the network once.
    """
    ran: list[tuple[Quantizer, Any]] = []
    found: list[list[tuple[str, Quantizer]]] = []

    def watch(places: list[tuple[str, Quantizer]]) -> Any:
        def hold(kind: str, tensor: Any) -> Any:
            makers = [quantizer for quantizer, made in ran if made is tensor]
            places.append((kind, [ran[-1][0], *makers][-1]))
            return tensor

        return hold

    kept = [attention.hold for attention in attentions]
    Quantizer.watcher = lambda quantizer, made: ran.append((quantizer, made))
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
def holding(
    network: Any, recipe: Recipe, labels: int
) -> Iterator[NetworkHold | StreamHold | None]:
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
    thresholds = thresholds_of(text, recipe.model)
    if recipe.model.causal:
        stream = StreamHold(network, thresholds, recipe.model)
        try:
            stream.start()
            yield stream
        finally:
            stream.end()
        return
    shape = shape_of(recipe, labels)
    hold = NetworkHold(
        network,
        thresholds,
        shape,
        attention.macs_per_element(recipe.model, shape),
    )
    kept = [layer.hold for layer in hold.attentions]
    try:
        for layer, block in zip(hold.attentions, hold.holds, strict=True):
            layer.hold = block
        yield hold
    finally:
        for layer, before in zip(hold.attentions, kept, strict=True):
            layer.hold = before
