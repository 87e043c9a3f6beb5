"""Delta thresholds on the int8 network: the arithmetic of the board, on a whole set.

Every operator of model.tflite is computed as TFLM does, for a batch of clips at once;
at threshold 0 the logits equal TFLM's bit for bit. Where a threshold applies, a product
reads what the delta encoding holds instead of the tensor. This is what a delta kernel
must reproduce, counts included; it shares no code with the kernels.

Which product reads which tensor is found from the graph: every SOFTMAX stands between
Q.K^T and P.V, and behind those are the dense layers of Q, K, V and the output. Dense
layers on tokens between an output and the next Q, K, V are the MLP's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from kws.bundle import Bundle
from kws.errors import KwsError
from kws.graph import operators as graph_operators
from kws.graph import passes, reader
from kws.graph.nodes import Graph, Node, Tensor
from kws.simulate import cost, delta, operators
from kws.simulate.cost import KINDS, Counts
from kws.simulate.simulator import WORKERS, Run, Thresholds

BATCH = 16

# Operators between a product and what it belongs to that change no row's contents.
_THROUGH = (*graph_operators.VIEWS, "TRANSPOSE", "TABLE", "MUL")


@dataclass(frozen=True)
class IntegerPrefix:
    """The state in front of every layer under some thresholds.

    Args:
        steps: Those, in int8 steps: [layers, kinds].
        values: Per batch and layer: the tensors that are alive in front of it.
        sent: int64 [N, layers, kinds].
        pairs: int64 [N, layers].
    """

    steps: np.ndarray
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
        >>> run = simulator.run(silence, Thresholds.parse("X=0.3", layers=4))
        >>> run.logits.shape
        (1, 10)
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.shape = cost.shape_of(bundle.recipe, len(bundle.labels))
        graph = reader.read(bundle.model_bytes(), str(bundle.model_path))
        passes.drop_identities(graph)
        passes.fold_tables(graph)
        self.graph = graph
        self.holds, self.scales = find_holds(graph, self.shape)
        self._functions = [operators.prepare(node) for node in graph.nodes]
        self._last_use = _last_uses(graph)
        starts: dict[int, int] = {}
        for place, node in enumerate(graph.nodes):
            for tensor in node.variables:
                hold = self.holds.get((id(node), id(tensor)))
                if hold is not None:
                    starts.setdefault(hold[0], place)
        self._layer_starts = [starts[layer] for layer in range(self.shape.layers)]

    def steps(self, thresholds: Thresholds) -> np.ndarray:
        """Thresholds in int8 steps: int [layers, kinds], -1 where not encoded.

        A real change above the threshold is a change in steps above threshold / scale,
        and so above its whole part. Q's scale holds 1 / sqrt(head_dim).
        """
        real = thresholds.values.copy()
        real[:, KINDS.index("Q")] *= self.shape.head_dim**-0.5
        # A threshold that was made from whole steps must come back as those.
        steps = np.floor(real / self.scales + 1e-6)
        return np.where(real < 0, -1, np.minimum(steps, 255)).astype(int)

    def thresholds(self, steps: np.ndarray) -> Thresholds:
        """The real thresholds that stand for whole int8 steps; the way back."""
        real = np.where(steps < 0, -1.0, steps * self.scales)
        scaled = real[:, KINDS.index("Q")] * self.shape.head_dim**0.5
        real[:, KINDS.index("Q")] = np.where(scaled < 0, -1.0, scaled)
        return Thresholds(real)

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
            same = (steps == prefix.steps).all(axis=1)
            first = int(np.logical_and.accumulate(same)[:-1].sum())

        def work(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            part = slice(number * BATCH, (number + 1) * BATCH)
            if prefix is None or first == 0:
                return self._batch(features[part], steps)
            counter = _Counter(self, steps, len(features[part]))
            counter.sent[:, :first] = prefix.sent[part, :first]
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
        by_kind = np.concatenate(sent)
        return Run(
            logits=np.concatenate(logits),
            counts=Counts(
                sent={kind: by_kind[:, :, k] for k, kind in enumerate(KINDS)},
                pairs=np.concatenate(pairs),
                encoded=thresholds.encoded(),
            ),
            shape=self.shape,
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
            float64 [quantiles, layers, kinds]: quantiles of |x[i] - x[i - 1]| over
            clips, rows and columns, in whole int8 steps, in the units of `Thresholds`.
        """
        dense = np.full(self.scales.shape, -1)
        histogram = np.zeros((*self.scales.shape, 256), np.int64)
        for start in range(0, len(features), BATCH):
            self._batch(features[start : start + BATCH], dense, changes=histogram)
        share = histogram.cumsum(axis=-1) / histogram.sum(axis=-1, keepdims=True)
        return np.array(
            [
                self.thresholds((share < q).sum(axis=-1).clip(0, 255)).values
                for q in quantiles
            ]
        )

    def _batch(
        self,
        features: np.ndarray,
        steps: np.ndarray,
        keep: list[dict[int, np.ndarray]] | None = None,
        changes: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits [B, labels], elements sent [B, layers, kinds], pairs [B, layers]."""
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
                hold = self.holds.get((id(node), id(tensor)))
                if hold is not None:
                    value = counter.hold(*hold, value)
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
        steps: np.ndarray,
        batch: int,
        changes: np.ndarray | None = None,
    ) -> None:
        self.changes = changes
        self.shape = simulator.shape
        self.steps = steps
        layers = simulator.shape.layers
        self.sent = np.zeros((batch, layers, len(KINDS)), np.int64)
        self.pairs = np.zeros((batch, layers), np.int64)
        self.held: dict[tuple[int, str, int], np.ndarray] = {}
        self.query_columns: np.ndarray | None = None

    def hold(self, layer: int, kind: str, tensor: int, value: np.ndarray) -> np.ndarray:
        key = (layer, kind, tensor)
        if key not in self.held:
            rows = value.reshape(len(value), self.shape.tokens, -1)
            if self.changes is not None:
                self._note_changes(self.changes[layer, KINDS.index(kind)], rows)
            limit = int(self.steps[layer, KINDS.index(kind)])
            held, columns = delta.hold(rows, limit, self.shape.dense_rows)
            self.sent[:, layer, KINDS.index(kind)] += columns.sum(axis=-1)
            if kind == "Q":
                self.query_columns = columns
            elif kind == "K":
                assert self.query_columns is not None
                self.pairs[:, layer] += (self.query_columns * columns).sum(axis=-1)
            if kind != "X":  # X is read by several dense layers, the others once
                return held.reshape(value.shape)
            self.held = {key: held.reshape(value.shape)}
        return self.held[key]

    def _note_changes(self, histogram: np.ndarray, rows: np.ndarray) -> None:
        moving = rows[:, self.shape.dense_rows - 1 :].astype(np.int16)
        sizes = np.abs(np.diff(moving, axis=1))
        histogram += np.bincount(sizes.ravel(), minlength=256)


Hold = tuple[int, str, int]
"""(layer, kind, id of the tensor)"""


def find_holds(
    graph: Graph, shape: cost.Shape
) -> tuple[dict[tuple[int, int], Hold], np.ndarray]:
    """Which inputs of which products a threshold applies to.

    Returns:
        (id of the node, id of its input tensor) -> hold, and the tensors' scales,
        float [layers, kinds].

    Raises:
        KwsError: the attention can't be told from the graph.
    """
    holds: dict[tuple[int, int], Hold] = {}
    scales = np.zeros((shape.layers, len(KINDS)))
    layers: dict[int, int] = {}
    outputs: set[int] = set()

    def put(layer: int, kind: str, node: Node, tensor: Tensor) -> None:
        if tensor.elements % shape.tokens or layer >= shape.layers:
            raise _unknown_attention(node)
        holds[id(node), id(tensor)] = (layer, kind, id(tensor))
        scales[layer, KINDS.index(kind)] = tensor.scale

    softmaxes = [node for node in graph.nodes if node.kind == "SOFTMAX"]
    for softmax in softmaxes:
        scores = _above(graph, softmax.input(0), "BATCH_MATMUL")
        mixes = [n for n in graph.consumers(softmax.output) if n.kind == "BATCH_MATMUL"]
        if len(mixes) != 1 or mixes[0].input(0) is not softmax.output:
            raise _unknown_attention(softmax)
        (mix,) = mixes
        dense = [
            _above(graph, tensor, "FULLY_CONNECTED")
            for tensor in (scores.input(0), scores.input(1), mix.input(1))
        ]
        source = dense[0].input(0)
        if any(node.input(0) is not source for node in dense):
            raise _unknown_attention(softmax)
        layer = layers.setdefault(id(source), len(layers))
        for node in dense:
            put(layer, "X", node, source)
        put(layer, "Q", scores, scores.input(0))
        put(layer, "K", scores, scores.input(1))
        put(layer, "P", mix, softmax.output)
        output = _below(graph, mix.output)
        put(layer, "O", output, output.input(0))
        outputs.add(id(output))
    if len(layers) != shape.layers or len(softmaxes) != shape.layers * shape.heads:
        raise KwsError(
            "The model's attention is not the recipe's. Expected "
            f"{shape.layers} layers of {shape.heads} heads. Received: "
            f"{len(layers)} layers, {len(softmaxes)} heads in all",
            "kws convert RUN",
        )
    for layer, nodes in enumerate(_mlps(graph, shape, holds, outputs)):
        # In two factors each, what is encoded meets the first.
        put(layer, "M", nodes[0], nodes[0].input(0))
        put(layer, "H", nodes[len(nodes) // 2], nodes[len(nodes) // 2].input(0))
    return holds, scales


def _mlps(
    graph: Graph,
    shape: cost.Shape,
    holds: dict[tuple[int, int], Hold],
    outputs: set[int],
) -> list[list[Node]]:
    """The dense layers of each layer's MLP, in order: two, or four where factorised.

    They read what an attention's output makes and make the next layer's input, so they
    stand between those two, whatever the order of the file.

    Args:
        graph: The graph.
        shape: The network's sizes.
        holds: Those of the attention.
        outputs: `id` of the dense layers that read an attention's result.
    """
    attention = {node for node, _ in holds}
    found: list[list[Node]] = []
    for node in graph.nodes:
        if id(node) in outputs:
            found.append([])
        elif (
            found
            and node.kind == "FULLY_CONNECTED"
            and id(node) not in attention
            and graph_operators.row_count(node.output) == shape.tokens
        ):
            found[-1].append(node)
    for nodes in found:
        if len(nodes) != (4 if shape.mlp_rank else 2):
            raise KwsError(
                "The model's MLP is not the recipe's. Expected "
                f"{4 if shape.mlp_rank else 2} dense layers behind an attention. "
                f"Received: {len(nodes)}",
                "kws convert RUN",
            )
    return found


def _above(graph: Graph, tensor: Tensor, kind: str) -> Node:
    """The node of a kind that a tensor comes from, through views and tables."""
    node = graph.producer(tensor)
    while node is not None and node.kind in _THROUGH:
        node = graph.producer(node.input(0))
    if node is None or node.kind != kind:
        raise _unknown_attention(node)
    return node


def _below(graph: Graph, tensor: Tensor) -> Node:
    """The dense layer that reads a tensor, through views and a concatenation."""
    while True:
        readers = graph.consumers(tensor)
        if len(readers) != 1:
            raise _unknown_attention(readers[0] if readers else None)
        if readers[0].kind == "FULLY_CONNECTED":
            return readers[0]
        if readers[0].kind not in (*_THROUGH, "CONCATENATION"):
            raise _unknown_attention(readers[0])
        tensor = readers[0].output


def _unknown_attention(node: Node | None) -> KwsError:
    where = "the graph's input" if node is None else f"{node.kind} at {node.name!r}"
    return KwsError(
        "The model's attention can't be told from its graph: expected dense layers, "
        f"Q.K^T, softmax, P.V, a dense layer. Received: {where}",
        "Convert again with kws convert.",
    )


def _last_uses(graph: Graph) -> dict[int, int]:
    """Position of the last node that reads each tensor; the output is kept."""
    last = {id(tensor): -1 for tensor in graph.tensors()}
    for place, node in enumerate(graph.nodes):
        for tensor in node.variables:
            last[id(tensor)] = place
    last[id(graph.output)] = -1
    return last
