"""Delta thresholds on the int8 network: the arithmetic of the board, on a whole set.

Every operator of model.tflite is computed as TFLM does, for a batch of clips at once;
at threshold 0 the logits equal TFLM's bit for bit. Where a threshold applies, a product
reads what the delta encoding holds instead of the tensor. This is what a delta kernel
must reproduce, counts included; it shares no code with the kernels.

Which product reads which tensor is kws/graph/products.py's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from kws import attention
from kws.bundle import Bundle
from kws.graph import passes, reader
from kws.graph.nodes import Graph
from kws.graph.products import Product
from kws.shape import shape_of
from kws.simulate import delta, operators
from kws.simulate.counts import Counts, Network
from kws.simulate.simulator import WORKERS, Run, shared_layers
from kws.thresholds import Slot, Thresholds

BATCH = 16


@dataclass(frozen=True)
class IntegerPrefix:
    """The state in front of every layer under some thresholds.

    Args:
        steps: Those, in int8 steps.
        values: Per batch and layer: the tensors that are alive in front of it.
        sent: int64 [N, slots].
        pairs: int64 [N, layers].
    """

    steps: Thresholds
    values: list[list[dict[int, np.ndarray]]]
    sent: np.ndarray
    pairs: np.ndarray


class IntegerSimulator:
    """A bundle's int8 network with delta thresholds.

    Args:
        bundle: A bundle with a model.tflite.

    Raises:
        KwsError: no model.tflite, one that the native engine doesn't run, or one whose
            attention can't be told from its graph.

    Example:
        >>> from kws import bundle
        >>> simulator = IntegerSimulator(bundle.load("kwt-tiny"))
        >>> silence = np.zeros((1, 98, 40), np.int8)
        >>> held = Thresholds.parse("X=0.3", simulator.slots)
        >>> run = simulator.run(silence, held)
        >>> run.logits.shape
        (1, 10)
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        recipe, labels = bundle.recipe, len(bundle.labels)
        self.shape = shape_of(recipe, labels)
        graph = reader.read(bundle.model_bytes(), str(bundle.model_path))
        passes.prepare(graph)
        self.graph = graph
        self.products = attention.find_products(graph, recipe, labels)
        self.slots = self.products.slots
        self.counted = Network(bundle.model_bytes(), recipe, labels)
        self.readers = Counter((id(p.tensor), p.slot) for p in self.products.every)
        scales = [self.products.scales[slot] for slot in self.slots]
        # Thresholds are meant before what is folded into the tensor.
        self.scales = np.array(scales) / attention.factors(recipe.model, self.shape)
        self._functions = [operators.prepare(node) for node in graph.nodes]
        self._last_use = _last_uses(graph)
        starts: dict[int, int] = {}
        for place, node in enumerate(graph.nodes):
            for product in self.products.of(node):
                starts.setdefault(product.layer, place)
        self._layer_starts = [starts[layer] for layer in range(self.shape.layers)]

    def steps(self, thresholds: Thresholds) -> Thresholds:
        """Thresholds in whole int8 steps.

        A real change above the threshold is a change in steps above threshold / scale,
        and so above its whole part.
        """
        # A threshold that was made from whole steps must come back as those.
        steps = np.floor(thresholds.values / self.scales + 1e-6)
        return Thresholds(
            self.slots, np.where(thresholds.values < 0, -1, np.minimum(steps, 255))
        )

    def thresholds(self, steps: Thresholds) -> Thresholds:
        """The real thresholds that stand for whole int8 steps; the way back."""
        real = np.where(steps.values < 0, -1.0, steps.values * self.scales)
        return Thresholds(self.slots, real)

    def run(
        self,
        features: np.ndarray,
        thresholds: Thresholds,
        progress: Callable[[int], None] | None = None,
        prefix: IntegerPrefix | None = None,
    ) -> Run:
        """Run all clips.

        Args:
            features: int8 [N, frames, mel_bins], as the board computes them.
            thresholds: Real ones; they are rounded down to whole int8 steps.
            progress: Called with the number of clips done.
            prefix: Of the same features: layers whose steps, and whose predecessors',
                are the prefix's are not computed again.

        Returns:
            int8 logits and counts.
        """
        steps = self.steps(thresholds)
        first = 0
        if prefix is not None:
            first = shared_layers(steps, prefix.steps)
            before = self.slots.layer < first

        def work(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            part = slice(number * BATCH, (number + 1) * BATCH)
            if prefix is None or first == 0:
                return self._batch(features[part], steps)
            counter = _Counter(self, steps, len(features[part]))
            counter.sent[:, before] = prefix.sent[part][:, before]
            counter.pairs[:, :first] = prefix.pairs[part, :first]
            return self._resume(dict(prefix.values[number][first]), counter, first)

        logits, sent, pairs, done = [], [], [], 0
        # A batch for each core: products that share cores only wait for each other.
        with threadpool_limits(1), ThreadPoolExecutor(WORKERS) as pool:
            for out in pool.map(work, range(-(-len(features) // BATCH))):
                logits.append(out[0])
                sent.append(out[1])
                pairs.append(out[2])
                done += len(out[0])
                if progress is not None:
                    progress(done)
        return Run(
            logits=np.concatenate(logits),
            counts=Counts(
                np.concatenate(sent), np.concatenate(pairs), thresholds.encoded
            ),
            network=self.counted,
        )

    def prefix(self, features: np.ndarray, thresholds: Thresholds) -> IntegerPrefix:
        """The state in front of every layer, for runs that differ later on."""
        steps = self.steps(thresholds)
        kept: list[list[dict[int, np.ndarray]]] = []
        sent, pairs = [], []
        for start in range(0, len(features), BATCH):
            kept.append([])
            out = self._batch(features[start : start + BATCH], steps, kept[-1])
            sent.append(out[1])
            pairs.append(out[2])
        return IntegerPrefix(steps, kept, np.concatenate(sent), np.concatenate(pairs))

    def changes(self, features: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
        """How much tensors change from row to row in the dense network.

        Args:
            features: int8 [N, frames, mel_bins]; a few dozen clips.
            quantiles: Each 0..1.

        Returns:
            float64 [quantiles, slots]: quantiles of |x[i] - x[i - 1]| over clips, rows
            and columns, in whole int8 steps, in the units of thresholds.
        """
        dense = Thresholds.dense(self.slots)
        histogram = np.zeros((len(self.slots), 256), np.int64)
        for start in range(0, len(features), BATCH):
            self._batch(features[start : start + BATCH], dense, changes=histogram)
        # What has one row in a clip never changes there.
        histogram[:, 0] += histogram.sum(axis=-1) == 0
        share = histogram.cumsum(axis=-1) / histogram.sum(axis=-1, keepdims=True)
        return np.array(
            [(share < q).sum(axis=-1).clip(0, 255) * self.scales for q in quantiles]
        )

    def _batch(
        self,
        features: np.ndarray,
        steps: Thresholds,
        keep: list[dict[int, np.ndarray]] | None = None,
        changes: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits [B, labels], elements sent [B, slots], pairs [B, layers]."""
        shape = (len(features), *self.graph.input.shape)
        values = {id(self.graph.input): features.reshape(shape)}
        counter = _Counter(self, steps, len(features), changes)
        return self._resume(values, counter, -1, keep)

    def _resume(
        self,
        values: dict[int, np.ndarray],
        counter: _Counter,
        layer: int,
        keep: list[dict[int, np.ndarray]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute from the first node of a layer on (-1: from the start)."""
        first = self._layer_starts[layer] if layer >= 0 else 0
        for place in range(first, len(self.graph.nodes)):
            if keep is not None and place in self._layer_starts:
                keep.append(dict(values))
            node = self.graph.nodes[place]
            inputs = []
            for tensor in node.variables:
                value = values[id(tensor)]
                product = self.products.at(node, tensor)
                if product is not None and product.kind:
                    value = counter.hold(product, value)
                inputs.append(value)
            values[id(node.output)] = self._functions[place](*inputs)
            for tensor in node.variables:
                if self._last_use[id(tensor)] == place:
                    del values[id(tensor)]
        logits = values[id(self.graph.output)]
        return logits.reshape(len(logits), -1), counter.sent, counter.pairs


class _Counter:
    """Encodes each tensor once and adds up what was transmitted."""

    def __init__(
        self,
        simulator: IntegerSimulator,
        steps: Thresholds,
        batch: int,
        changes: np.ndarray | None = None,
    ) -> None:
        self.changes = changes
        self.steps = steps
        slots = simulator.slots
        self.sent = np.zeros((batch, len(slots)), np.int64)
        self.pairs = np.zeros((batch, slots.layers), np.int64)
        self.readers = simulator.readers
        # Of what several products of a layer read.
        self.held: dict[tuple[int, Slot], np.ndarray] = {}
        self.query_columns: np.ndarray | None = None

    def hold(self, product: Product, value: np.ndarray) -> np.ndarray:
        key = (id(product.tensor), product.slot)
        if key not in self.held:
            place = self.steps.slots.index(product.slot)
            rows = value.reshape(len(value), product.rows, -1)
            if self.changes is not None:
                self._note_changes(self.changes[place], rows, product.dense_rows)
            limit = int(self.steps.values[place])
            held, columns = delta.hold(rows, limit, product.dense_rows)
            self.sent[:, place] += columns.sum(axis=-1)
            if product.role == "scores":
                self.query_columns = columns
            elif product.role == "keys":
                assert self.query_columns is not None
                pairs = (self.query_columns * columns).sum(axis=-1)
                self.pairs[:, product.layer] += pairs
            if self.readers[key] == 1:
                return held.reshape(value.shape)
            self.held = {key: held.reshape(value.shape)}
        return self.held[key]

    def _note_changes(
        self, histogram: np.ndarray, rows: np.ndarray, dense_rows: int
    ) -> None:
        moving = rows[:, dense_rows - 1 :].astype(np.int16)
        sizes = np.abs(np.diff(moving, axis=1))
        histogram += np.bincount(sizes.ravel(), minlength=256)


def _last_uses(graph: Graph) -> dict[int, int]:
    """Position of the last node that reads each tensor; the output is kept."""
    last = {id(tensor): -1 for tensor in graph.tensors()}
    for place, node in enumerate(graph.nodes):
        for tensor in node.variables:
            last[id(tensor)] = place
    last[id(graph.output)] = -1
    return last
