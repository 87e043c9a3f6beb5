"""Run a whole test set with delta thresholds: accuracy, and what was transmitted.

The network itself is the one of kws/model, run in mode `folded`; its attention hands
every tensor that a threshold applies to (softmax attention's X, Q, K, P, O) to the
encoding and goes on with what that holds, as does the block with its MLP's (M, H). So
every variant of norm,
stem, activation and number of heads is simulated by the code that trains it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from kws import attention
from kws.bundle import Bundle
from kws.shape import Shape, shape_of
from kws.simulate import delta
from kws.simulate.counts import Counts, Network, summary
from kws.thresholds import Thresholds

# Small enough for a batch's activations to stay in the cache.
BATCH = 32
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    """One pass over a set of clips.

    Args:
        logits: float32 or int8 [N, labels].
        counts: What was transmitted.
        network: What it is counted on.
    """

    logits: np.ndarray
    counts: Counts
    network: Network

    def cost(self) -> dict[str, object]:
        """See `kws.simulate.counts.summary`."""
        return summary(self.network, self.counts)


@dataclass(frozen=True)
class Prefix:
    """Every layer's input under some thresholds.

    Args:
        thresholds: Those.
        inputs: Per layer float32 [N, T, dim], and what the layers before carry.
        sent: Per layer int64 [N, kinds].
        pairs: int64 [N, layers].
    """

    thresholds: Thresholds
    inputs: list[tuple[np.ndarray, dict[str, np.ndarray]]]
    sent: list[np.ndarray]
    pairs: np.ndarray


class Simulator:
    """A bundle's float network with delta thresholds.

    Args:
        bundle: A bundle with Keras weights (trained or imported).

    Raises:
        KwsError: no Keras weights.

    Example:
        >>> from kws import bundle
        >>> simulator = Simulator(bundle.load("kwt-tiny"))
        >>> silence = simulator.features(np.zeros((1, 16000), np.int16))
        >>> held = Thresholds.parse("X=0.3", simulator.slots)
        >>> run = simulator.run(silence, held)
        >>> run.logits.shape
        (1, 10)
    """

    def __init__(self, bundle: Bundle) -> None:
        from kws import model

        self.bundle = bundle
        recipe, labels = bundle.recipe, len(bundle.labels)
        self.shape = shape_of(recipe, labels)
        self.slots = attention.slots(recipe.model)
        self.folded = attention.factors(recipe.model, self.shape)
        self.network = model.restore(bundle, "folded")
        self.counted = Network(self._converted(), recipe, labels)
        self._trace()

    def _converted(self) -> bytes:
        """A .tflite of the network: what costs are counted on."""
        from kws import convert, model

        if self.bundle.model_path.is_file():
            return self.bundle.model_bytes()
        exported = model.build(self.bundle.recipe, len(self.bundle.labels), "export")
        model.copy_weights(self.network, exported)
        return convert.to_tflite(exported, self.bundle.recipe.features)

    def features(self, pcm: np.ndarray) -> np.ndarray:
        """Float log-mel features: int16 [N, 16000] -> float32 [N, frames, mel_bins]."""
        from kws.features.log_mel import log_mel

        return log_mel(pcm, self.bundle.recipe.features)

    def run(
        self,
        features: np.ndarray,
        thresholds: Thresholds,
        progress: Callable[[int], None] | None = None,
        prefix: Prefix | None = None,
    ) -> Run:
        """Run all clips.

        Args:
            features: float32 [N, frames, mel_bins].
            thresholds: Of as many layers as the network has.
            progress: Called with the number of clips done.
            prefix: Of the same features: layers whose thresholds, and whose
                predecessors', are the prefix's are not computed again.

        Returns:
            Logits and counts.
        """
        first = 0
        if prefix is not None:
            # The last layer's input is the deepest that a prefix keeps.
            first = shared_layers(thresholds, prefix.thresholds)
        batches = self._batches(features, thresholds, prefix, first)
        logits, sent, pairs, done = [], [], [], 0
        with ThreadPoolExecutor(WORKERS) as pool:
            for out in pool.map(lambda batch: self._finish(*batch), batches):
                logits.append(out[0])
                sent.append(out[1])
                pairs.append(out[2])
                done += len(logits[-1])
                if progress is not None:
                    progress(done)
        by_slot, by_layer = np.concatenate(sent), np.concatenate(pairs)
        if prefix is not None:
            by_slot = np.concatenate([*prefix.sent[:first], by_slot], axis=1)
            by_layer = np.concatenate([prefix.pairs[:, :first], by_layer], axis=1)
        return Run(
            logits=np.concatenate(logits),
            counts=Counts(by_slot, by_layer, thresholds.encoded),
            network=self.counted,
        )

    def prefix(self, features: np.ndarray, thresholds: Thresholds) -> Prefix:
        """Every layer's input with some thresholds, for runs that differ later on."""
        limits = self._limits(thresholds)
        layers = range(self.shape.layers)
        inputs: list[list[Any]] = [[] for _ in layers]
        sent: list[list[np.ndarray]] = [[] for _ in layers]
        pairs: list[list[np.ndarray]] = [[] for _ in layers]
        for start in range(0, len(features), BATCH):
            tokens = self._start(features[start : start + BATCH])
            carry: dict[str, Any] = {}
            for layer, block in enumerate(self._blocks):
                held = {name: tensor.numpy() for name, tensor in carry.items()}
                inputs[layer].append((tokens.numpy(), held))
                tokens, carry, count, pair = block(tokens, carry, limits[layer])
                sent[layer].append(count.numpy())
                pairs[layer].append(pair.numpy())
        return Prefix(
            thresholds=thresholds,
            inputs=[
                (
                    np.concatenate([tokens for tokens, _ in parts]),
                    {
                        name: np.concatenate([carry[name] for _, carry in parts])
                        for name in parts[0][1]
                    },
                )
                for parts in inputs
            ],
            sent=[np.concatenate(parts) for parts in sent],
            pairs=np.stack([np.concatenate(parts) for parts in pairs], axis=1),
        )

    def _limits(self, thresholds: Thresholds) -> list[np.ndarray]:
        """Per layer float64 [kinds], in the units of the network's own tensors."""
        limits = thresholds.values * self.folded
        return [limits[self.slots.layer == layer] for layer in range(self.shape.layers)]

    def _batches(
        self,
        features: np.ndarray,
        thresholds: Thresholds,
        prefix: Prefix | None,
        first: int,
    ) -> Iterator[tuple[Any, Any, list[np.ndarray], int]]:
        """(what goes in, what is carried, limits, the layer; -1: features)."""
        limits = self._limits(thresholds)
        for start in range(0, len(features), BATCH):
            part = slice(start, start + BATCH)
            if prefix is None or first == 0:
                yield features[part], {}, limits, -1
            else:
                tokens, carry = prefix.inputs[first]
                held = {name: tensor[part] for name, tensor in carry.items()}
                yield tokens[part], held, limits, first

    def _finish(
        self, inputs: np.ndarray, carry: Any, limits: list[np.ndarray], first: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = self._start(inputs) if first < 0 else inputs
        sent, pairs = [], []
        for layer in range(max(first, 0), self.shape.layers):
            tokens, carry, count, pair = self._blocks[layer](
                tokens, carry, limits[layer]
            )
            sent.append(count.numpy())
            pairs.append(pair.numpy())
        logits = self._end(tokens).numpy()
        return logits, np.concatenate(sent, axis=1), np.stack(pairs, axis=1)

    def changes(self, features: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
        """How much tensors change from row to row in the dense network.

        Args:
            features: float32 [N, frames, mel_bins]; a few dozen clips.
            quantiles: Each 0..1.

        Returns:
            float64 [quantiles, slots]: quantiles of |x[i] - x[i - 1]| over clips, rows
            and columns, in the units of thresholds.
        """
        from kws.layers import pass_on

        found: list[dict[str, list[np.ndarray]]] = []
        blocks = self._layers

        def watch(layer: dict[str, list[np.ndarray]]) -> Any:
            def hold(kind: str, tensor: Any) -> Any:
                whole = self.shape.whole_rows(tensor.shape[1])
                rows = tensor.numpy()[:, whole - 1 :]
                layer.setdefault(kind, []).append(np.abs(np.diff(rows, axis=1)).ravel())
                return tensor

            return hold

        try:
            for block in blocks:
                found.append({})
                block.attention.hold = watch(found[-1])
            self.network(features, training=False)
        finally:
            for block in blocks:
                block.attention.hold = pass_on
        out = np.array(
            [
                np.quantile(np.concatenate(found[layer][kind]), quantiles)
                for layer, kind in self.slots
            ]
        )
        return out.T / self.folded

    def _trace(self) -> None:
        """Make TensorFlow functions of the stem, every block, and the head.

        A block is (tokens [B, T, dim], carry, limits [kinds]) -> tokens, carry,
        transmitted elements int64 [B, kinds], pairs int64 [B].
        """
        from kws.layers import pass_on
        from kws.layers.keras import tf

        every = self.network.layers
        names = [layer.name for layer in every]
        front = every[1 : names.index("block0")]
        self._layers = [
            self.network.get_layer(f"block{index}")
            for index in range(self.shape.layers)
        ]

        def start(features: Any) -> Any:
            for layer in front:
                features = layer(features, training=False)
            return features

        def block(layer: Any, kinds: tuple[str, ...], carry: Any) -> Any:
            def run(tokens: Any, carry: Any, limits: Any) -> Any:
                hold = _Hold(limits, kinds, self.shape)
                try:
                    layer.attention.hold = hold
                    tokens, carry = layer(tokens, carry, training=False)
                finally:
                    layer.attention.hold = pass_on
                sent = tf.stack([hold.sent[kind] for kind in kinds], 1)
                pairs = tf.zeros_like(sent[:, 0]) if hold.pairs is None else hold.pairs
                return tokens, carry, sent, pairs

            tokens = tf.TensorSpec(
                (None, self.shape.tokens, self.shape.dim), tf.float32
            )
            limits = tf.TensorSpec((len(kinds),), tf.float64)
            return tf.function(run, [tokens, carry, limits], autograph=False)

        spec = self.bundle.recipe.features
        features = tf.TensorSpec((None, spec.frames, spec.mel_bins), tf.float32)
        tokens = tf.TensorSpec((None, self.shape.tokens, self.shape.dim), tf.float32)
        head = self.network.get_layer("head")
        self._start = tf.function(start, [features], autograph=False)
        self._blocks = [
            block(layer, kinds, carry)
            for layer, kinds, carry in zip(
                self._layers, self.slots.by_layer, self._carried(), strict=True
            )
        ]
        self._end = tf.function(
            lambda x: head(x, training=False), [tokens], autograph=False
        )

    def _carried(self) -> list[dict[str, Any]]:
        """Per layer, the specifications of what the layers before it carry."""
        from kws.layers.keras import tf

        tokens = tf.zeros((1, self.shape.tokens, self.shape.dim))
        carry: dict[str, Any] = {}
        found = []
        for layer in self._layers:
            found.append(
                {
                    name: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)
                    for name, tensor in carry.items()
                }
            )
            tokens, carry = layer(tokens, carry, training=False)
        return found


def shared_layers(first: Thresholds, second: Thresholds) -> int:
    """Layers from the start with equal thresholds, the last one left out."""
    slots = first.slots
    differ = slots.layer[first.values != second.values]
    return min([*differ.tolist(), slots.layers - 1])


class _Hold:
    """The `Hold` of one layer: encodes, and adds up what was transmitted.

    Args:
        limits: float64 [kinds] tensor, thresholds; < 0: dense.
        kinds: The layer's, in order.
        shape: The network's sizes.
    """

    def __init__(self, limits: Any, kinds: tuple[str, ...], shape: Shape) -> None:
        self.limits = limits
        self.kinds = kinds
        self.shape = shape
        self.sent: dict[str, Any] = {}
        self.pairs: Any = None  # of Q.K^T, where there is one
        self.query_columns: Any = None

    def __call__(self, kind: str, tensor: Any) -> Any:
        from kws.layers.keras import tf

        held, columns = tf.numpy_function(
            self.encode,
            (tensor, self.limits[self.kinds.index(kind)]),
            (tensor.dtype, tf.int64),
            stateful=False,
        )
        held.set_shape(tensor.shape)
        columns.set_shape((None, tensor.shape[-1]))
        self.sent[kind] = self.sent.get(kind, 0) + tf.reduce_sum(columns, axis=-1)
        if kind == "Q":
            self.query_columns = columns
        elif kind == "K":
            pairs = tf.reduce_sum(self.query_columns * columns, axis=-1)
            self.pairs = pairs if self.pairs is None else self.pairs + pairs
        return held

    def encode(self, values: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
        whole = self.shape.whole_rows(values.shape[1])
        return delta.hold(values, float(limit), whole)
