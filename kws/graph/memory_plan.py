"""Every tensor's place in one static arena.

A storage is bytes that one tensor or several share: an operator that may write over
an input that nobody reads any more shares that input's. Storages are placed one after
another, each at the lowest offset where nothing that lives at the same time is in its
way: largest first, and in a few other orders, of which the smallest arena wins.
`check` then proves the plan by playing the program through, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kws.graph import operators
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access
from kws.graph.schedule import Schedule, Step

ALIGNMENT = 8


@dataclass(eq=False)
class Storage:
    """Bytes of the arena, in use from node `first` to node `last`, both included.

    Args:
        bytes: Size.
        first: Index of the first node, in order of running, that uses it.
        last: Index of the last one.
        names: What is in it, for comments.
        offset: Its place in the arena, once planned.
    """

    bytes: int
    first: int
    last: int
    names: list[str] = field(default_factory=list)
    offset: int = -1


@dataclass
class Plan:
    """Where everything is.

    Args:
        arena_bytes: Size of the arena.
        storages: All that is in it.
        tensors: id(root) -> storage, for all but the graph's input and output.
        scratch: id(node) -> storage, for nodes that need scratch.
        blocks: id(root) of tensors of which only one block of rows is stored.
    """

    arena_bytes: int = 0
    storages: list[Storage] = field(default_factory=list)
    tensors: dict[int, Storage] = field(default_factory=dict)
    scratch: dict[int, Storage] = field(default_factory=dict)
    blocks: set[int] = field(default_factory=set)


def plan(graph: Graph, program: Schedule) -> Plan:
    """Give every computed tensor and every scratch its offset, and check the result."""
    result = Plan()
    logits = program.root(graph.output)
    index = 0
    for step in program.steps:
        begin, end = index, index + len(step.nodes) - 1
        for position, node in enumerate(step.nodes):
            root = node.output
            needed = operators.operator(node).scratch(node)
            if needed:
                storage = Storage(needed, index, index, [f"scratch of {node.name}"])
                result.scratch[id(node)] = storage
                result.storages.append(storage)
            last = program.spans[id(root)][1]
            size = root.bytes
            if step.rows and last <= end:
                result.blocks.add(id(root))
                size = root.bytes // step.rows * step.block_rows
            if root is not logits:
                shared = _reusable(result, program, step, position, begin)
                if shared is None:
                    shared = Storage(size, index, index)
                    result.storages.append(shared)
                shared.names.append(root.name)
                result.tensors[id(root)] = shared
                _widen(shared, root, result, program)
            index += 1
    result.arena_bytes = place(result.storages)
    check(graph, program, result)
    return result


def _widen(storage: Storage, root: Tensor, result: Plan, program: Schedule) -> None:
    """Extend a storage's life to a tensor's; whole loops where it crosses them."""
    made, last = program.spans[id(root)]
    if id(root) not in result.blocks:
        begin = 0
        for step in program.steps:
            end = begin + len(step.nodes) - 1
            if begin <= made <= end and step.rows:
                made = begin
            if begin <= last <= end and step.rows:
                last = end
            begin = end + 1
    storage.first = min(storage.first, made)
    storage.last = max(storage.last, last)


def _reusable(
    result: Plan, program: Schedule, step: Step, position: int, begin: int
) -> Storage | None:
    """The storage of a tensor that this node's output may overwrite, if any."""
    node = step.nodes[position]
    spec = operators.operator(node)
    if node.kind == "FULLY_CONNECTED_TRANSPOSED":
        return None  # it writes columns, not rows
    inner = id(node.output) in result.blocks
    now = begin + position
    candidates: dict[int, Tensor] = {}
    for other in step.nodes[: position + 1]:
        for tensor in other.variables:
            root = program.root(tensor)
            candidates[id(root)] = root
    for key, root in candidates.items():
        storage = result.tensors.get(key)
        if (
            storage is None
            or program.spans[key][1] > now
            or (key in result.blocks) != inner
            or root.bytes != node.output.bytes
            or root.reserve
            or node.output.reserve
            or any(
                result.tensors.get(other) is storage and program.spans[other][1] > now
                for other in result.tensors
            )
        ):
            continue
        in_place = {id(program.root(node.input(i))) for i in spec.in_place}
        reads = {id(program.root(tensor)) for tensor in node.variables}
        if key in reads and key not in in_place:
            continue
        if key not in reads and (inner or not step.rows):
            continue
        if not _read_by_rows(step, root, program):
            continue
        return storage
    return None


def _read_by_rows(step: Step, root: Tensor, program: Schedule) -> bool:
    """Whether a loop reads a tensor only in the rows that it is at."""
    for node, access in zip(step.nodes, step.access, strict=False):
        for tensor, use in zip(node.inputs, access, strict=True):
            if tensor is None or program.root(tensor) is not root:
                continue
            if use is Access.WHOLE:
                return False
    return True


def place(storages: list[Storage]) -> int:
    """Set every storage's offset; returns the arena's size in bytes."""
    orders: list[Callable[[Storage], tuple[int, ...]]] = [
        lambda s: (-s.bytes, s.first),
        lambda s: (-s.bytes * (s.last - s.first + 1), s.first),
        lambda s: (s.first, -s.bytes),
        lambda s: (s.first - s.last, -s.bytes),
    ]
    best: tuple[int, list[int]] | None = None
    for order in orders:
        placed: list[Storage] = []
        for storage in sorted(storages, key=order):
            storage.offset = _lowest(storage, placed)
            placed.append(storage)
        size = max((s.offset + s.bytes for s in storages), default=0)
        if best is None or size < best[0]:
            best = (size, [s.offset for s in storages])
    assert best is not None
    for storage, offset in zip(storages, best[1], strict=True):
        storage.offset = offset
    return -(-best[0] // ALIGNMENT) * ALIGNMENT


def _lowest(storage: Storage, placed: list[Storage]) -> int:
    taken = sorted(
        (other.offset, other.offset + other.bytes)
        for other in placed
        if other.first <= storage.last and storage.first <= other.last
    )
    offset = 0
    for start, stop in taken:
        if offset + storage.bytes <= start:
            break
        offset = max(offset, -(-stop // ALIGNMENT) * ALIGNMENT)
    return offset


def check(graph: Graph, program: Schedule, result: Plan) -> None:
    """Play the program through and see that every byte read is the one meant.

    Each byte of the arena remembers which tensor's which element it holds. A read of a
    byte that something else has overwritten is a fault of the planner.

    Raises:
        AssertionError: the plan is wrong.
    """
    owner = np.full(result.arena_bytes, -1, np.int64)
    numbers = {id(t): (k + 1) << 32 for k, t in enumerate(graph.tensors())}
    for step in program.steps:
        rows = max(step.rows, 1)
        size = step.block_rows or 1
        for row in range(0, rows, size):
            count = min(size, rows - row)
            for position, node in enumerate(step.nodes):
                _check_node(
                    node,
                    step.access[position] if step.rows else None,
                    (row, count, rows),
                    (program, result, owner, numbers),
                )


def _check_node(
    node: Node,
    access: list[Access] | None,
    block: tuple[int, int, int],
    state: tuple[Schedule, Plan, np.ndarray, dict[int, int]],
) -> None:
    program, result, owner, numbers = state
    row, count, rows = block
    reads: list[tuple[int, int, bool]] = []
    in_place = operators.operator(node).in_place
    for index, tensor in enumerate(node.inputs):
        if tensor is None or id(program.root(tensor)) not in result.tensors:
            continue
        root = program.root(tensor)
        storage = result.tensors[id(root)]
        by_row = access is not None and access[index] is Access.ROW
        width = root.bytes // rows
        first, length = (row * width, count * width) if by_row else (0, root.bytes)
        start = storage.offset + (first if id(root) not in result.blocks else 0)
        number = numbers[id(root)] + first
        expected = np.arange(number, number + length)
        if root.reserve == 0:  # padding of reserved tensors need not be written
            assert (owner[start : start + length] == expected).all(), (
                f"{node.kind} {node.name} reads {root}, which is overwritten"
            )
        reads.append((start, start + length, index in in_place))
    writes = []
    scratch = result.scratch.get(id(node))
    if scratch is not None:
        owner[scratch.offset : scratch.offset + scratch.bytes] = -1
        writes.append((scratch.offset, scratch.offset + scratch.bytes, False))
    storage_out = result.tensors.get(id(node.output))
    if storage_out is not None:
        width = node.output.bytes // rows
        whole = node.kind == "FULLY_CONNECTED_TRANSPOSED" or access is None
        first, length = (
            (0, node.output.bytes) if whole else (row * width, count * width)
        )
        start = storage_out.offset
        start += first if id(node.output) not in result.blocks else 0
        assert start + length <= result.arena_bytes
        number = numbers[id(node.output)] + first
        owner[start : start + length] = np.arange(number, number + length)
        writes.append((start, start + length, True))
    spans = writes + reads
    for i, (start, stop, _) in enumerate(writes):
        for j, (other, end, replaceable) in enumerate(spans):
            if i == j or stop <= other or end <= start:
                continue
            same = writes[i][2] and replaceable and j >= len(writes)
            assert same and start == other, f"{node.name} overwrites what it reads"
