"""Run a whole test set with delta thresholds: accuracy, and what was transmitted.

The network itself is the one of kws/model, run in mode `folded`; its attention hands
every tensor that a threshold applies to (X, Q, K, P, O) to the encoding and goes on
with what that holds, as does the block with its MLP's (M, H). So every variant of norm,
stem, activation and number of heads is simulated by the code that trains it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle, read_json
from kws.errors import KwsError
from kws.simulate import cost, delta
from kws.simulate.cost import KINDS, Counts, Shape

# Small enough for a batch's activations to stay in the cache.
BATCH = 32
WORKERS = os.cpu_count() or 1


class Thresholds:
    """One real threshold per layer and tensor kind; negative: dense, not encoded.

    In units of the tensor itself. Q is meant before the 1 / sqrt(head_dim) that is
    folded into its projection, as in the papers.

    Args:
        values: float [layers, kinds], columns in the order of `KINDS`.

    Example:
        >>> Thresholds.parse("X=0.3,P=0.005,3.X=0.25", layers=12)["X", 3]
        0.25
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        if self.values.ndim != 2 or self.values.shape[1] != len(KINDS):
            raise ValueError(
                f"Expected [layers, {len(KINDS)}]. Received: {self.values.shape}"
            )

    @classmethod
    def dense(cls, layers: int) -> Thresholds:
        """No tensor encoded."""
        return cls(np.full((layers, len(KINDS)), -1.0))

    @classmethod
    def read(cls, text: str, layers: int) -> Thresholds:
        """`parse`, or with `@FILE` a JSON table such as {"X": 0.3, "3.X": 0.25}.

        Raises:
            KwsError: see `parse`; no such file, not such a table.
        """
        if not text.startswith("@"):
            return cls.parse(text, layers)
        path = Path(text[1:])
        if not path.is_file():
            raise KwsError(
                f"No such file of thresholds. Received: {str(path)!r}",
                'kws sweep RUN --pick "loss<=0.005"   (writes picked.json)',
            )
        table = read_json(path)
        if not isinstance(table, dict):
            raise _bad_threshold(str(table)[:80], layers)
        return cls.from_dict(table, layers)

    @classmethod
    def parse(cls, text: str, layers: int) -> Thresholds:
        """Read `X=0.3,P=0.005,3.X=0.25`: kinds for all layers, then single layers.

        Raises:
            KwsError: not of that form, no such kind or layer, not a number from 0.
        """
        pairs: dict[str, float] = {}
        for item in filter(None, text.replace(" ", "").split(",")):
            match = re.fullmatch(r"((?:\d+\.)?[A-Za-z]+)=([0-9.eE+-]+)", item)
            try:
                if match is None:
                    raise ValueError
                pairs[match[1]] = float(match[2])
            except ValueError:
                raise _bad_threshold(item, layers) from None
        return cls.from_dict(pairs, layers)

    @classmethod
    def from_dict(cls, table: Mapping[str, float], layers: int) -> Thresholds:
        """Read {"X": 0.3, "3.X": 0.25}; a single layer's overrides the kind's.

        Raises:
            KwsError: no such kind or layer, not a number from 0.
        """
        out = cls.dense(layers)
        rows = {str(layer): layer for layer in range(layers)}
        for key, value in sorted(table.items(), key=lambda item: "." in item[0]):
            layer, _, kind = key.rpartition(".")
            known = kind in KINDS and (layer in rows or not layer)
            # JSON's whole numbers may be larger than any float.
            real = isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max
            if not known or not real:
                raise _bad_threshold(f"{key}={value}"[:80], layers)
            out.values[rows.get(layer, slice(None)), KINDS.index(kind)] = value
        return out

    def to_dict(self) -> dict[str, float]:
        """The shortest table that `from_dict` reads back."""
        table: dict[str, float] = {}
        for column, kind in enumerate(KINDS):
            values = self.values[:, column]
            if (values == values[0]).all():
                if values[0] >= 0:
                    table[kind] = float(values[0])
                continue
            for layer, value in enumerate(values):
                if value >= 0:
                    table[f"{layer}.{kind}"] = float(value)
        return table

    def __getitem__(self, key: tuple[str, int]) -> float:
        kind, layer = key
        return float(self.values[layer, KINDS.index(kind)])

    def encoded(self) -> tuple[frozenset[str], ...]:
        """Per layer, the kinds that are encoded."""
        return tuple(
            frozenset(kind for kind, v in zip(KINDS, row, strict=True) if v >= 0)
            for row in self.values
        )


def _bad_threshold(item: str, layers: int) -> KwsError:
    return KwsError(
        f"Bad threshold. Expected KIND=NUMBER or LAYER.KIND=NUMBER with KIND one of "
        f"{', '.join(KINDS)}, LAYER 0 to {layers - 1} and NUMBER at least 0. "
        f"Received: {item!r}",
        "--theta X=0.3,Q=0.3,K=0.3,P=0.005,O=0.05   (or M=0.3 for the MLP's input)",
    )


@dataclass(frozen=True)
class Run:
    """One pass over a set of clips.

    Args:
        logits: float32 [N, labels].
        counts: What was transmitted.
        shape: The network's sizes.
    """

    logits: np.ndarray
    counts: Counts
    shape: Shape

    def cost(self) -> dict[str, object]:
        """See `kws.simulate.cost.summary`."""
        return cost.summary(self.shape, self.counts)


@dataclass(frozen=True)
class Prefix:
    """Every layer's input under some thresholds.

    Args:
        thresholds: Those.
        inputs: Per layer float32 [N, T, dim].
        sent: int64 [N, layers, kinds].
        pairs: int64 [N, layers].
    """

    thresholds: Thresholds
    inputs: list[np.ndarray]
    sent: np.ndarray
    pairs: np.ndarray


class Simulator:
    """A bundle's float network with delta thresholds.

    Args:
        bundle: A bundle with Keras weights (trained or imported).

    Raises:
        KwsError: no Keras weights, or another attention than softmax.

    Example:
        >>> from kws import bundle
        >>> simulator = Simulator(bundle.load("kwt-tiny"))
        >>> silence = simulator.features(np.zeros((1, 16000), np.int16))
        >>> run = simulator.run(silence, Thresholds.parse("X=0.3", layers=4))
        >>> run.logits.shape
        (1, 10)
    """

    def __init__(self, bundle: Bundle) -> None:
        from kws import model

        self.bundle = bundle
        self.shape = cost.shape_of(bundle.recipe, len(bundle.labels))
        self.network = model.restore(bundle, "folded")
        self._trace()

    def features(self, pcm: np.ndarray) -> np.ndarray:
        """Float log-mel features: int16 [N, 16000] -> float32 [N, frames, mel_bins]."""
        from kws.simulate.log_mel import log_mel

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
            same = (thresholds.values == prefix.thresholds.values).all(axis=1)
            # The last layer's input is the deepest that a prefix keeps.
            first = int(np.logical_and.accumulate(same)[:-1].sum())
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
        by_kind, by_layer = np.concatenate(sent), np.concatenate(pairs)
        if prefix is not None:
            by_kind = np.concatenate([prefix.sent[:, :first], by_kind], axis=1)
            by_layer = np.concatenate([prefix.pairs[:, :first], by_layer], axis=1)
        return Run(
            logits=np.concatenate(logits),
            counts=Counts(
                sent={kind: by_kind[:, :, k] for k, kind in enumerate(KINDS)},
                pairs=by_layer,
                encoded=thresholds.encoded(),
            ),
            shape=self.shape,
        )

    def prefix(self, features: np.ndarray, thresholds: Thresholds) -> Prefix:
        """Every layer's input with some thresholds, for runs that differ later on."""
        limits = self._limits(thresholds)
        inputs: list[list[np.ndarray]] = [[] for _ in self._blocks]
        sent, pairs = [], []
        for start in range(0, len(features), BATCH):
            tokens = self._start(features[start : start + BATCH])
            counts = []
            for layer, block in enumerate(self._blocks):
                inputs[layer].append(tokens.numpy())
                tokens, *count = block(tokens, limits[layer])
                counts.append(count)
            sent.append(np.stack([c[0].numpy() for c in counts], axis=1))
            pairs.append(np.stack([c[1].numpy() for c in counts], axis=1))
        return Prefix(
            thresholds=thresholds,
            inputs=[np.concatenate(parts) for parts in inputs],
            sent=np.concatenate(sent),
            pairs=np.concatenate(pairs),
        )

    def _limits(self, thresholds: Thresholds) -> np.ndarray:
        limits = thresholds.values.copy()
        # The network folds the scale into Q.
        limits[:, KINDS.index("Q")] *= self.shape.head_dim**-0.5
        return limits

    def _batches(
        self,
        features: np.ndarray,
        thresholds: Thresholds,
        prefix: Prefix | None,
        first: int,
    ) -> Iterator[tuple[Any, np.ndarray, int]]:
        """(what goes in, limits, layer that it goes into; -1: features)."""
        limits = self._limits(thresholds)
        for start in range(0, len(features), BATCH):
            part = slice(start, start + BATCH)
            if prefix is None or first == 0:
                yield features[part], limits, -1
            else:
                yield prefix.inputs[first][part], limits, first

    def _finish(
        self, inputs: np.ndarray, limits: np.ndarray, first: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = self._start(inputs) if first < 0 else inputs
        sent, pairs = [], []
        for layer in range(max(first, 0), self.shape.layers):
            tokens, count, pair = self._blocks[layer](tokens, limits[layer])
            sent.append(count.numpy())
            pairs.append(pair.numpy())
        logits = self._end(tokens).numpy()
        return logits, np.stack(sent, axis=1), np.stack(pairs, axis=1)

    def changes(self, features: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
        """How much tensors change from row to row in the dense network.

        Args:
            features: float32 [N, frames, mel_bins]; a few dozen clips.
            quantiles: Each 0..1.

        Returns:
            float64 [quantiles, layers, kinds]: quantiles of |x[i] - x[i - 1]| over
            clips, rows and columns, in the units of `Thresholds`.
        """
        from kws.attention.softmax import dense

        found: list[dict[str, list[np.ndarray]]] = []
        blocks = self._layers

        def watch(layer: dict[str, list[np.ndarray]]) -> Any:
            def hold(kind: str, tensor: Any) -> Any:
                rows = tensor.numpy()[:, self.shape.dense_rows - 1 :]
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
                block.attention.hold = dense
        out = np.array(
            [
                [np.quantile(np.concatenate(layer[kind]), quantiles) for kind in KINDS]
                for layer in found
            ]
        ).transpose(2, 0, 1)
        out[:, :, KINDS.index("Q")] *= self.shape.head_dim**0.5
        return out

    def _trace(self) -> None:
        """Make TensorFlow functions of the stem, every block, and the head.

        A block is (tokens [B, T, dim], limits [kinds]) -> tokens, transmitted elements
        int64 [B, kinds], pairs int64 [B].
        """
        from kws.attention.softmax import dense
        from kws.model.keras import tf

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

        def block(layer: Any) -> Any:
            def run(tokens: Any, limits: Any) -> Any:
                hold = _Hold(limits, self.shape.dense_rows)
                try:
                    layer.attention.hold = hold
                    tokens = layer(tokens, training=False)
                finally:
                    layer.attention.hold = dense
                return tokens, tf.stack([hold.sent[k] for k in KINDS], 1), hold.pairs

            tokens = tf.TensorSpec(
                (None, self.shape.tokens, self.shape.dim), tf.float32
            )
            limits = tf.TensorSpec((len(KINDS),), tf.float64)
            return tf.function(run, input_signature=[tokens, limits])

        spec = self.bundle.recipe.features
        features = tf.TensorSpec((None, spec.frames, spec.mel_bins), tf.float32)
        tokens = tf.TensorSpec((None, self.shape.tokens, self.shape.dim), tf.float32)
        head = self.network.get_layer("head")
        self._start = tf.function(start, input_signature=[features])
        self._blocks = [block(layer) for layer in self._layers]
        self._end = tf.function(
            lambda x: head(x, training=False), input_signature=[tokens]
        )


class _Hold:
    """The `Hold` of one layer: encodes, and adds up what was transmitted.

    Args:
        limits: float64 [kinds] tensor, thresholds in the order of `KINDS`; < 0: dense.
        dense_rows: Rows at the start that are transmitted whole.
    """

    def __init__(self, limits: Any, dense_rows: int) -> None:
        self.limits = limits
        self.dense_rows = dense_rows
        self.sent: dict[str, Any] = {}
        self.pairs: Any = 0
        self.query_columns: Any = None

    def __call__(self, kind: str, tensor: Any) -> Any:
        from kws.model.keras import tf

        held, columns = tf.numpy_function(
            self.encode,
            (tensor, self.limits[KINDS.index(kind)]),
            (tensor.dtype, tf.int64),
            stateful=False,
        )
        held.set_shape(tensor.shape)
        columns.set_shape((None, tensor.shape[-1]))
        self.sent[kind] = self.sent.get(kind, 0) + tf.reduce_sum(columns, axis=-1)
        if kind == "Q":
            self.query_columns = columns
        elif kind == "K":
            self.pairs += tf.reduce_sum(self.query_columns * columns, axis=-1)
        return held

    def encode(self, values: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
        return delta.hold(values, float(limit), self.dense_rows)
