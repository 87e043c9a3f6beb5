"""What a node costs: the one rule for counting (DESIGN D8, D17). Nobody else counts.

Per node of the graph as it runs, after the passes:

    macs          multiply-accumulates of matrix products
    comparisons   of a delta encoding: one, and one subtraction, for each element of
                  every row but those that are transmitted whole (of a stream: the
                  first after a reset, which is not counted)
    exponentials  of softmax
    bytes         by memory (flash, RAM), purpose (weights, activations, state,
                  scratch) and direction (read, write)

A product of n inputs and m outputs over a row, s of whose n are transmitted, executes
s * m MACs. Bytes are those that the operator touches by itself, without a cache:

    weights       flash, one read for each MAC with a constant
    activations   RAM: the n inputs read and m outputs written; keys and values read
                  once for each MAC with them
    state         RAM, of a delta encoding: n references read, s of them written; m
                  32-bit accumulators read and written. Of a stream: rows that are kept
                  for later steps
    scratch       RAM, of the kernel itself: the patches that a convolution gathers,
                  attention's rows of scores and shares

What the kernels' loops and a cache make of the weights' reads is another question,
which `readings`, `loaded` and `fetched` answer from the schedule.

Not counted, since they are a few bytes for each output and the same for every way to
run it: biases, multipliers, tables. A view costs nothing.

What isn't encoded is transmitted whole, so a dense network is the same with everything
transmitted. Counts are numbers, or vectors with one for each clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kws.graph import delta, operators
from kws.graph.nodes import Node
from kws.graph.products import Product
from kws.graph.schedule import Step

Number = Any  # int, float, or a vector: one for each clip

PURPOSES = ("weights", "activations", "state", "scratch")
DIRECTIONS = ("read", "write")

Place = tuple[str, str, str]
"""(memory, purpose, direction)"""

WEIGHTS: Place = ("flash", "weights", "read")
READ: Place = ("ram", "activations", "read")
WRITE: Place = ("ram", "activations", "write")
STATE_READ: Place = ("ram", "state", "read")
STATE_WRITE: Place = ("ram", "state", "write")
SCRATCH_READ: Place = ("ram", "scratch", "read")
SCRATCH_WRITE: Place = ("ram", "scratch", "write")
PLACES = (
    WEIGHTS,
    READ,
    WRITE,
    STATE_READ,
    STATE_WRITE,
    SCRATCH_READ,
    SCRATCH_WRITE,
)

Sent = Callable[[Product], Number | None]
"""Elements of a product's input that were transmitted; None where not encoded."""


@dataclass(frozen=True)
class Count:
    """What something costs.

    Args:
        macs, comparisons, exponentials: Operations.
        bytes: By place; what is not there is 0.

    Example:
        >>> both = Count(macs=6, bytes={WEIGHTS: 6}) + Count(bytes={READ: 2})
        >>> both.macs, both.total(purpose="weights"), both.total()
        (6, 6, 8)
    """

    macs: Number = 0
    comparisons: Number = 0
    exponentials: Number = 0
    bytes: Mapping[Place, Number] = field(default_factory=dict)

    def __add__(self, other: Count) -> Count:
        places = dict.fromkeys([*self.bytes, *other.bytes])
        return Count(
            self.macs + other.macs,
            self.comparisons + other.comparisons,
            self.exponentials + other.exponentials,
            {p: self.bytes.get(p, 0) + other.bytes.get(p, 0) for p in places},
        )

    def total(
        self,
        memory: str | None = None,
        purpose: str | None = None,
        direction: str | None = None,
    ) -> Number:
        """Bytes of all places that have these names."""
        wanted = (memory, purpose, direction)
        parts = [
            number
            for place, number in self.bytes.items()
            if all(want in (None, is_) for want, is_ in zip(wanted, place, strict=True))
        ]
        return sum(parts[1:], parts[0]) if parts else 0

    def as_dict(self) -> dict[str, Any]:
        """{macs, comparisons, exponentials, bytes: {memory: {purpose: {read, write}}}}.

        Means where there is one for each clip, as whole numbers.
        """
        table: dict[str, dict[str, dict[str, int]]] = {}
        for memory, purpose, direction in PLACES:
            number = whole(self.bytes.get((memory, purpose, direction), 0))
            table.setdefault(memory, {}).setdefault(purpose, {})[direction] = number
        return {
            "macs": whole(self.macs),
            "comparisons": whole(self.comparisons),
            "exponentials": whole(self.exponentials),
            "bytes": table,
        }


def whole(number: Number) -> int:
    """The mean of a count, rounded."""
    return round(float(np.mean(number)))


def text(count: dict[str, Any]) -> str:
    """The bytes of a `Count.as_dict` for people: a line for each memory and purpose.

    Example:
        >>> print(text(Count(bytes={WEIGHTS: 1200, WRITE: 34}).as_dict()))
        bytes touched                  read     written
          flash, weights              1,200           0
          RAM, activations                0          34
          RAM, state                      0           0
          RAM, scratch                    0           0
    """
    lines = [f"{'bytes touched':<24}{'read':>11}{'written':>12}"]
    for memory, purposes in count["bytes"].items():
        shown = "RAM" if memory == "ram" else memory
        lines += [
            f"{f'  {shown}, {purpose}':<24}"
            f"{directions.get('read', 0):>11,}{directions.get('write', 0):>12,}"
            for purpose, directions in purposes.items()
        ]
    return "\n".join(lines)


def total(nodes: Iterable[Node], sent: Sent | None = None) -> Count:
    """The counts of nodes, added up; see `count`."""
    result = Count()
    for node in nodes:
        result += count(node, sent)
    return result


def noted(sent: Sent) -> Sent:
    """`sent` for products that the graph's notes encode; None for the others."""

    def of(product: Product) -> Number | None:
        note = delta.note(product.node)
        if note is None or note.steps.get(product.kind, -1) < 0:
            return None
        return sent(product)

    return of


def count(node: Node, sent: Sent | None = None) -> Count:
    """What one run of a node costs.

    Args:
        node: Of a graph after the passes.
        sent: What of each product's input was transmitted; None: everything, dense.
            The products are those that `products.find` has left at the node.
    """
    spec = operators.operator(node)
    if spec.count is not None:
        counted: Count = spec.count(node, sent)
        return counted
    if node.kind in operators.VIEWS:
        return _held(node, sent)
    rule = RULES.get(node.kind, _moved)
    return rule(node, sent)


def encoded(
    product: Product, sent: Sent | None, rows: int | None = None
) -> tuple[Number, Count]:
    """Elements of a product that are transmitted, and what its encoding costs.

    Args:
        product: The product.
        sent: See `count`.
        rows: Rows that are run, where not all are.
    """
    rows = product.rows if rows is None else rows
    found = None if sent is None else sent(product)
    if found is None:
        return rows * product.inputs, Count()
    references, accumulators = rows * product.inputs, 4 * rows * product.outputs
    note = delta.note(product.node)
    whole = 0 if note is not None and note.whole_steps else product.dense_rows
    return found, Count(
        comparisons=max(rows - whole, 0) * product.inputs,
        bytes={
            STATE_READ: references + accumulators,
            STATE_WRITE: found + accumulators,
        },
    )


def _held(node: Node, sent: Sent | None) -> Count:
    """The encoding of what a node reads held, in the clip's graph."""
    result = Count()
    for product in node.options.get("products", ()):
        result += encoded(product, sent)[1]
    return result


def _pad(node: Node, sent: Sent | None) -> Count:
    return _moved(node, sent) + _held(node, sent)


def _hold(node: Node, sent: Sent | None) -> Count:
    """A step's row is compared, and handed on as it is held."""
    result = _moved(node, sent)
    for product in node.options["products"]:
        result += encoded(product, sent, 1)[1]
    return result


def _fully_connected(node: Node, sent: Sent | None) -> Count:
    outputs, inputs = node.input(1).shape
    rows = node.input(0).elements // inputs
    elements: Number = rows * inputs
    encoding = Count()
    for product in node.options.get("products", ()):
        elements, encoding = encoded(product, sent, rows)
    return encoding + Count(
        macs=elements * outputs,
        bytes={
            WEIGHTS: elements * outputs,
            READ: rows * inputs,
            WRITE: rows * outputs,
        },
    )


def _conv_2d(node: Node, sent: Sent | None) -> Count:
    outputs = node.input(1).shape[0]
    patch = node.input(1).elements // outputs
    rows = node.output.elements // outputs
    macs: Number = rows * patch * outputs
    held: Product | None = node.options.get("held")
    found = None if held is None or sent is None else sent(held)
    if held is not None and held.macs and found is not None:
        note = delta.note(held.node)
        step = note is not None and note.whole_steps
        macs = macs * found / (held.inputs if step else held.elements)
    return Count(
        macs=macs,
        bytes={
            WEIGHTS: macs,
            READ: rows * patch,
            WRITE: rows * outputs,
            SCRATCH_WRITE: rows * patch,
            SCRATCH_READ: rows * patch,
        },
    )


def _depthwise_conv_2d(node: Node, sent: Sent | None) -> Count:
    """Every output reads the taps of its own channel where they are."""
    _, height, width, _ = node.input(1).shape
    macs = node.output.elements * height * width
    return Count(
        macs=macs, bytes={WEIGHTS: macs, READ: macs, WRITE: node.output.elements}
    )


def _batch_matmul(node: Node, sent: Sent | None) -> Count:
    """Rows of the left matrix, each MAC with an element of the right one."""
    left, columns = node.input(0), node.output.shape[-1]
    elements: Number = left.elements
    encoding = Count()
    for product in node.options.get("products", ()):
        if product.macs:
            elements, encoding = encoded(product, sent)
    return encoding + Count(
        macs=elements * columns,
        bytes={READ: left.elements + elements * columns, WRITE: node.output.elements},
    )


def _softmax(node: Node, sent: Sent | None) -> Count:
    return _moved(node, sent) + Count(exponentials=node.output.elements)


def _moved(node: Node, sent: Sent | None) -> Count:
    """Every input read, the output written: element by element, or just moved."""
    read = sum(tensor.elements for tensor in node.variables if tensor.reset is None)
    constants = sum(
        tensor.elements
        for tensor in node.inputs
        if tensor is not None and tensor.is_constant and tensor.dtype == "int8"
    )
    places: dict[Place, Number] = {READ: read, WRITE: node.output.elements}
    if constants:
        places[WEIGHTS] = constants
    return Count(bytes=places)


def _transposed(node: Node, sent: Sent | None) -> Count:
    """The output's rows are padded; what pads them is no element."""
    elements = node.input(0).elements
    return Count(bytes={READ: elements, WRITE: elements})


def _history(node: Node, sent: Sent | None) -> Count:
    """A step's rows go to the others; those that are kept in order move up first."""
    kept = operators.history(node)
    moved = 0 if kept.ring else kept.past * kept.width
    added = node.input(0).elements
    return Count(
        bytes={READ: added, STATE_READ: moved, STATE_WRITE: moved + added},
    )


RULES: dict[str, Callable[[Node, Sent | None], Count]] = {
    "FULLY_CONNECTED": _fully_connected,
    "FULLY_CONNECTED_TRANSPOSED": _fully_connected,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "BATCH_MATMUL": _batch_matmul,
    "SOFTMAX": _softmax,
    "HISTORY": _history,
    "HOLD": _hold,
    "PAD": _pad,
    "TRANSPOSE_TOKENS": _transposed,
}


# --- weights, as the schedule reads them ----------------------------------------------

# Rows that a pass of the dense kernels over their weights serves.
ROWS_OF_A_PASS = {"portable": 1, "dsp": 3, "mve": 1}
# Bias, multiplier and shift of an output: each use of a matrix has its own.
OUTPUT_BYTES = 9


@dataclass(frozen=True)
class Reading:
    """A constant that is read from its start to its end, some times in succession.

    Args:
        constant: Which: equal ones are one array in flash, and have one number.
        bytes: Its size.
        times: How often.
        node: What reads it.
        weights: Whether it is weights; otherwise what a product keeps of each output.
    """

    constant: int
    bytes: int
    times: int
    node: Node
    weights: bool = True


def readings(steps: Sequence[Step], core: str) -> list[Reading]:
    """What a run reads of constants, in order, where nothing is skipped.

    A loop over rows reads the weights of all its operators anew for each block of rows;
    a kernel reads them once for the rows that it works on together.

    Args:
        steps: Of a schedule.
        core: `portable`, `dsp` or `mve`.
    """
    numbers: dict[bytes | int, int] = {}
    found = []

    def number(key: bytes | int) -> int:
        return numbers.setdefault(key, len(numbers))

    for step in steps:
        blocks = [(1, 1)]
        if step.rows:
            starts = range(0, step.rows, step.block_rows)
            blocks = [(min(step.block_rows, step.rows - s), step.rows) for s in starts]
        for part, whole in blocks:
            for node in step.nodes:
                for tensor in node.inputs:
                    if tensor is None or tensor.data is None or tensor.dtype != "int8":
                        continue
                    data = tensor.data.tobytes()
                    rows = _rows_served(node, tensor.elements) * part // whole
                    times = _passes(node, rows, core)
                    found.append(Reading(number(data), len(data), times, node))
                    if node.kind not in (*_DENSE, "DEPTHWISE_CONV_2D"):
                        continue
                    outputs = operators.weight_matrix(node).shape[0]
                    own = (number(id(node)), OUTPUT_BYTES * outputs)
                    found.append(Reading(*own, times, node, weights=False))
    return found


def _rows_served(node: Node, elements: int) -> int:
    """How often a node uses each element of a constant."""
    if node.kind in ("FULLY_CONNECTED", "FULLY_CONNECTED_TRANSPOSED"):
        return node.input(0).elements // node.input(1).shape[1]
    if node.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return node.output.elements // node.output.shape[-1]
    return max(1, node.output.elements // elements)


def _passes(node: Node, rows: int, core: str) -> int:
    """Passes over the weights that rows take; a rest goes row by row."""
    together = ROWS_OF_A_PASS[core] if node.kind in _DENSE else 1
    return rows // together + rows % together


_DENSE = ("FULLY_CONNECTED", "FULLY_CONNECTED_TRANSPOSED", "CONV_2D")


def skips(node: Node) -> bool:
    """Whether a node loads the weights of what was transmitted only."""
    return "delta" in node.options or bool(node.options.get("singly"))


def loaded(read: Iterable[Reading]) -> int:
    """Bytes that the core loads."""
    return sum(reading.bytes * reading.times for reading in read)


def fetched(read: Sequence[Reading], cache_bytes: int) -> int:
    """Bytes that come from behind a cache in a run that follows another one.

    The cache keeps what was read last (fully associative, least recently used out).
    Constants are read whole, so that one is there still if it and all that was read
    since fit in together, and none of it if not.

    Example:
        >>> one, two = Reading(0, 60, 3, None), Reading(1, 50, 1, None)
        >>> [fetched([one, two], size) for size in (0, 50, 60, 110)]
        [230, 230, 110, 0]
    """
    recent: dict[int, int] = {}  # constant -> bytes, the last one last
    fetched_bytes = 0
    for _ in range(2):
        fetched_bytes = 0
        for reading in read:
            since, there = reading.bytes, False
            for constant in reversed(recent):
                if constant == reading.constant:
                    there = since <= cache_bytes
                    break
                since += recent[constant]
            misses = 0 if there else 1
            if reading.bytes > cache_bytes:
                misses += reading.times - 1
            fetched_bytes += misses * reading.bytes
            recent.pop(reading.constant, None)
            recent[reading.constant] = reading.bytes
    return fetched_bytes
