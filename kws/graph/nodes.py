"""The typed graph: tensors, nodes, products of nodes, and nothing else.

A graph is a list of nodes in an order in which every node comes after what it reads.
Passes rewrite the list; the emitter walks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kws.thresholds import Slot


@dataclass(frozen=True)
class Quantization:
    """real = scale * (q - zero_point), per tensor, or per slice along `axis`.

    Args:
        scales: float32 values as stored in the file: one, or one per slice.
        zero_points: As many int values, -128..127 for int8.
        axis: The sliced dimension; 0 and meaningless for a single scale.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantization."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor quantization."""
        return self.zero_points[0]

    @property
    def per_channel(self) -> bool:
        return len(self.scales) > 1


@dataclass(eq=False)
class Tensor:
    """A value: a constant where `data` is set, else something a node computes.

    Where `reset` is set it is kept from one step of a stream to the next. A node that
    makes it adds to it (HISTORY); one that no node makes is a state, which every node
    that takes it reads and rewrites in place.

    Args:
        name: As in the file; for messages and comments only.
        shape: Dimensions, each at least 1.
        dtype: `int8` or `int32`.
        quantization: Absent for shape operands.
        data: The constant's values in `shape`, or None.
        reserve: Bytes to keep for it where a kernel wants more than the elements.
        reset: What kws_model_reset sets each byte of it to, -128..127; None: it lives
            within one step.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = None
    reserve: int = 0
    reset: int | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return max(self.elements * np.dtype(self.dtype).itemsize, self.reserve)

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def scale(self) -> float:
        assert self.quantization is not None
        return self.quantization.scale

    @property
    def zero_point(self) -> int:
        assert self.quantization is not None
        return self.quantization.zero_point

    def __repr__(self) -> str:
        return f"{self.name}[{'x'.join(map(str, self.shape))}]"


@dataclass(eq=False)
class Node:
    """One operator.

    Args:
        kind: TFLite's operator name (`FULLY_CONNECTED`), or one of ours (`TABLE`).
        inputs: Tensors in TFLite's order; None where an optional one is absent.
        output: The one result (no supported operator has more).
        options: The operator's options by TFLite's names, plain Python values.
        spec: The `operators.Operator` of a kind that a variant brings; else None.
    """

    kind: str
    inputs: list[Tensor | None]
    output: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    spec: Any = None

    @property
    def name(self) -> str:
        return self.output.name

    def input(self, index: int) -> Tensor:
        """An input that is there (the reader has checked it)."""
        tensor = self.inputs[index]
        assert tensor is not None
        return tensor

    @property
    def variables(self) -> list[Tensor]:
        """Inputs that some node or the caller computes, each once."""
        seen: dict[int, Tensor] = {}
        for tensor in self.inputs:
            if tensor is not None and not tensor.is_constant:
                seen.setdefault(id(tensor), tensor)
        return list(seen.values())


@dataclass
class Graph:
    """A whole network: one int8 input (the features), one int8 output (the logits)."""

    nodes: list[Node]
    input: Tensor
    output: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor once: the input, then outputs in order; no constants."""
        yield self.input
        for node in self.nodes:
            yield node.output

    def producer(self, tensor: Tensor) -> Node | None:
        """The node that computes a tensor; None for the input and constants."""
        for node in self.nodes:
            if node.output is tensor:
                return node
        return None

    def consumers(self, tensor: Tensor) -> list[Node]:
        """The nodes that read a tensor, in order."""
        return [node for node in self.nodes if any(t is tensor for t in node.inputs)]


@dataclass(frozen=True)
class Product:
    """A product, by the input that may be held.

    Args:
        layer: Block of the network.
        kind: Of that input: X, Q, K, P, O, M, H, or another of the variant's; "" where
            it has no threshold.
        role: What it is in its block: `qkv`, `scores`, `expand`, ...
        rows: Rows of the input in one run.
        inputs: Elements of a row.
        outputs: Results of a row.
        macs: Multiply-accumulates per transmitted element; 0 where it is only held,
            and the other side counts (K in Q.K^T).
        dense_rows: Rows at the start that are transmitted whole.
        node: The product.
        tensor: Its input.
    """

    layer: int
    kind: str
    role: str
    rows: int
    inputs: int
    outputs: int
    macs: int
    dense_rows: int
    node: Node = field(repr=False, compare=False)
    tensor: Tensor = field(repr=False, compare=False)

    @property
    def slot(self) -> Slot:
        """(layer, kind): where its threshold is."""
        return (self.layer, self.kind)

    @property
    def elements(self) -> int:
        """Of its input, in one run."""
        return self.rows * self.inputs
