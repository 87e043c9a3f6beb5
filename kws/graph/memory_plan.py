"""Every tensor's place in two static areas: the arena, and what outlives a step.

A storage is bytes that one tensor or several share: an operator that may write over
an input that nobody reads any more shares that input's. Storages are placed one after
another, each at the lowest offset where nothing that lives at the same time is in its
way: largest first, and in a few other orders, of which the smallest arena wins.

What is kept from one step of a stream to the next (`Tensor.reset`: rows of the past,
references and sums of delta encodings) has a place of its own in the persistent area.
`check` then proves the plan by playing the program through, byte by byte, for as many
steps as it takes every ring to come round twice.
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
        persistent_bytes: Size of the persistent area.
        persistent: id(tensor) -> storage there, of what is kept from step to step.
        resets: (offset, bytes, value): what kws_model_reset sets there.
    """

    arena_bytes: int = 0
    storages: list[Storage] = field(default_factory=list)
    tensors: dict[int, Storage] = field(default_factory=dict)
    scratch: dict[int, Storage] = field(default_factory=dict)
    blocks: set[int] = field(default_factory=set)
    persistent_bytes: int = 0
    persistent: dict[int, Storage] = field(default_factory=dict)
    resets: list[tuple[int, int, int]] = field(default_factory=list)


def plan(graph: Graph, program: Schedule) -> Plan:
    """Give every computed tensor and every scratch its offset, and check the result."""
    result = Plan()
    _keep(program, result)
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
            if root is not logits and id(root) not in result.persistent:
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


def _keep(program: Schedule, result: Plan) -> None:
    """Place what is kept from step to step: each tensor for itself, for ever."""
    last = len(program.nodes) - 1
    for node in program.nodes:
        for tensor in [*node.variables, node.output]:
            root = program.root(tensor)
            if root.reset is None or id(root) in result.persistent:
                continue
            storage = Storage(root.bytes, 0, last, [root.name], result.persistent_bytes)
            result.persistent[id(root)] = storage
            result.resets.append((storage.offset, storage.bytes, root.reset))
            result.persistent_bytes += -(-root.bytes // ALIGNMENT) * ALIGNMENT


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

    Each byte of both areas remembers which tensor's which element it holds, and of
    which step's row, or of which version of a state. A read of a byte that holds
    something else is a fault of the planner. Before each step the arena holds nothing;
    after a reset the persistent area holds what `resets` sets. A stream is played until
    every ring has come round twice, then reset and played again.

    Raises:
        AssertionError: the plan is wrong.
    """
    for storage in result.persistent.values():
        end = storage.offset + storage.bytes
        assert storage.offset >= 0 and end <= result.persistent_bytes, storage.names
    memory = _Memory(graph, program, result)
    if not result.persistent:
        memory.play()
        return
    longest = max((h.past // h.rows for h in memory.histories.values()), default=0)
    for _ in range(2):
        memory.reset()
        for _ in range(2 * (longest + 1) + 1):
            memory.play()


class _Memory:
    """Both areas, each byte the number of the element that it holds; -1: of none.

    Args:
        graph: Gives the tensors.
        program: What is played.
        result: The plan.
    """

    def __init__(self, graph: Graph, program: Schedule, result: Plan) -> None:
        self.program = program
        self.plan = result
        self.arena = np.full(result.arena_bytes, -1, np.int64)
        self.persistent = np.full(result.persistent_bytes, -1, np.int64)
        self.histories = {
            id(node.output): operators.history(node)
            for node in program.nodes
            if node.kind == "HISTORY"
        }
        roots = [program.root(t) for node in program.nodes for t in node.variables]
        self.states = {
            id(root): root
            for root in roots
            if root.reset is not None and id(root) not in self.histories
        }
        tensors = [*graph.tensors(), *self.states.values()]
        self.numbers = {id(t): (k + 1) << 32 for k, t in enumerate(tensors)}
        self.versions = dict.fromkeys(self.states, 0)
        self.step = 0

    def area(self, root: Tensor) -> tuple[np.ndarray, Storage] | None:
        """Where a tensor lies; None for constants and the caller's."""
        if id(root) in self.plan.persistent:
            return self.persistent, self.plan.persistent[id(root)]
        if id(root) in self.plan.tensors:
            return self.arena, self.plan.tensors[id(root)]
        return None

    def reset(self) -> None:
        """What kws_model_reset does: rows before the stream, states before any."""
        self.step = 0
        self.versions = dict.fromkeys(self.states, 0)
        self.persistent[:] = -1
        for offset, size, _ in self.plan.resets:
            self.persistent[offset : offset + size] = 0
        for key, storage in self.plan.persistent.items():
            part = self.persistent[storage.offset : storage.offset + storage.bytes]
            known = part == 0
            if key in self.states:
                part[known] = self._version(key)[known]
                continue
            rows = storage.bytes // self.histories[key].width
            ids = np.full(storage.bytes, -1, np.int64)
            ids[: rows * self.histories[key].width] = self._rows(key, -rows, rows)
            part[known] = ids[known]

    def play(self) -> None:
        """One step of the stream."""
        self.arena[:] = -1
        for key, kept in self.histories.items():
            if not kept.ring and key in self.plan.persistent:
                start = self.plan.persistent[key].offset
                length, moved = kept.past * kept.width, kept.rows * kept.width
                part = self.persistent[start : start + moved + length]
                part[:length] = part[moved : moved + length].copy()
        for step in self.program.steps:
            rows = max(step.rows, 1)
            size = step.block_rows or 1
            for row in range(0, rows, size):
                count = min(size, rows - row)
                for position, node in enumerate(step.nodes):
                    access = step.access[position] if step.rows else None
                    self._run(node, access, (row, count, rows))
        self.step += 1

    def _rows(self, key: int, first: int, count: int) -> np.ndarray:
        """Numbers of a history's rows; row 0 is the first of the stream."""
        kept = self.histories[key]
        before = kept.past + kept.rows  # the earliest that a reset defines: row -before
        start = self.numbers[key] + (first + before) * kept.width
        return np.arange(start, start + count * kept.width)

    def _version(self, key: int) -> np.ndarray:
        """Numbers of a state's bytes as its last writer left them."""
        size = self.states[key].bytes
        start = self.numbers[key] + self.versions[key] * size
        return np.arange(start, start + size)

    def _slot(self, key: int, storage: Storage, step: int) -> int:
        """Where a ring keeps the rows of a step."""
        size = self.histories[key].rows * self.histories[key].width
        return storage.offset + step % max(1, storage.bytes // size) * size

    def _read_history(
        self, key: int, area: tuple[np.ndarray, Storage], block: tuple[int, int] | None
    ) -> list[tuple[int, np.ndarray]]:
        """Offsets, and the rows that must be there.

        Args:
            key: id of the history.
            area: Where it lies.
            block: First row and rows that a loop is at; None: all of it is read.
        """
        kept, (_, storage) = self.histories[key], area
        now = self.step * kept.rows
        if kept.ring:
            steps = range(self.step - kept.past // kept.rows, self.step + 1)
            return [
                (
                    self._slot(key, storage, step),
                    self._rows(key, step * kept.rows, kept.rows),
                )
                for step in steps
            ]
        first, count = block or (0, kept.rows)
        ids = self._rows(key, now - kept.past + first, kept.past + count)
        return [(storage.offset + first * kept.width, ids)]

    def _reads(
        self, node: Node, index: int, access: Access, block: tuple[int, int, int]
    ) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]] | None:
        """The area of an input, and offsets and numbers of what is read of it."""
        tensor = node.inputs[index]
        if tensor is None:
            return None
        root = self.program.root(tensor)
        area = self.area(root)
        if area is None:
            return None
        row, count, rows = block
        if id(root) in self.histories:
            part = (row, count) if access is Access.PAST else None
            return area[0], self._read_history(id(root), area, part)
        start = area[1].offset
        if id(root) in self.states:
            return area[0], [(start, self._version(id(root)))]
        width = root.bytes // rows
        by_row = access is Access.ROW
        first, length = (row * width, count * width) if by_row else (0, root.bytes)
        start += first if id(root) not in self.plan.blocks else 0
        number = self.numbers[id(root)] + first
        return area[0], [(start, np.arange(number, number + length))]

    def _writes(
        self, node: Node, whole: bool, block: tuple[int, int, int]
    ) -> tuple[np.ndarray, int, np.ndarray] | None:
        """The area of the output, and offset and numbers of what is written."""
        area = self.area(node.output)
        if area is None:
            return None
        row, count, rows = block
        key, start = id(node.output), area[1].offset
        if key in self.histories:
            kept = self.histories[key]
            first, length = (0, kept.rows) if whole else (row, count)
            ids = self._rows(key, self.step * kept.rows + first, length)
            if kept.ring:
                return area[0], self._slot(key, area[1], self.step), ids
            return area[0], start + (kept.past + first) * kept.width, ids
        width = node.output.bytes // rows
        first, length = (
            (0, node.output.bytes) if whole else (row * width, count * width)
        )
        start += first if key not in self.plan.blocks else 0
        number = self.numbers[key] + first
        return area[0], start, np.arange(number, number + length)

    def _run(
        self, node: Node, access: list[Access] | None, block: tuple[int, int, int]
    ) -> None:
        """One call: what it reads is what is meant, and it overwrites none of that."""
        reads: list[tuple[np.ndarray, int, int, bool]] = []
        in_place = operators.operator(node).in_place
        for index, tensor in enumerate(node.inputs):
            use = access[index] if access is not None else Access.WHOLE
            found = self._reads(node, index, use, block)
            if tensor is None or found is None:
                continue
            area, parts = found
            for start, ids in parts:
                stop = start + len(ids)
                if tensor.reserve == 0:  # padding of reserved ones need not be written
                    assert np.array_equal(area[start:stop], ids), (
                        f"{node.kind} {node.name} reads {self.program.root(tensor)}, "
                        "which is overwritten, or of another step"
                    )
                if id(self.program.root(tensor)) not in self.states:
                    reads.append((area, start, stop, index in in_place))
        writes: list[tuple[np.ndarray, int, int, bool]] = []
        scratch = self.plan.scratch.get(id(node))
        if scratch is not None:
            stop = scratch.offset + scratch.bytes
            self.arena[scratch.offset : stop] = -1
            writes.append((self.arena, scratch.offset, stop, False))
        whole = node.kind == "FULLY_CONNECTED_TRANSPOSED" or access is None
        written = self._writes(node, whole, block)
        if written is not None:
            area, start, ids = written
            assert start + len(ids) <= len(area)
            area[start : start + len(ids)] = ids
            writes.append((area, start, start + len(ids), True))
        for root in map(self.program.root, node.variables):
            place = self.area(root)
            if id(root) in self.states and place is not None:
                self.versions[id(root)] += 1
                area, storage = place
                stop = storage.offset + root.bytes
                area[storage.offset : stop] = self._version(id(root))
                writes.append((area, storage.offset, stop, False))
        spans = writes + reads
        for i, (area, start, stop, replaces) in enumerate(writes):
            for j, (other_area, other, end, replaceable) in enumerate(spans):
                if i == j or other_area is not area or stop <= other or end <= start:
                    continue
                same = replaces and replaceable and j >= len(writes)
                assert same and start == other, f"{node.name} overwrites what it reads"
