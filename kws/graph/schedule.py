"""From a graph to steps: single calls, and loops over blocks of token rows.

Most operators of a transformer work row by row (a row is a token): dense layers,
residual sums, norms, the MLP, and attention in its queries. A run of such operators
becomes one loop over blocks of `BLOCK_ROWS` rows, so that what passes between them,
the MLP's hidden layer above all, exists for one block only. Which runs to fuse is
chosen so that the largest working set of any step is smallest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kws.graph import operators
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access

# A multiple of what the kernels take at once (2, 3 or 4 rows), and small enough that
# a block of an MLP's hidden layer is a few kilobytes.
BLOCK_ROWS = 12
MAX_LOOP_NODES = 64


@dataclass
class Step:
    """Consecutive nodes: one, called on all rows, or several in a loop over rows.

    Args:
        nodes: In order.
        rows: Rows of the loop; 0 for a plain call.
        access: For a loop, each node's access to its inputs.
    """

    nodes: list[Node]
    rows: int = 0
    access: list[list[Access]] = field(default_factory=list)

    @property
    def block_rows(self) -> int:
        return min(BLOCK_ROWS, self.rows)


@dataclass
class Schedule:
    """The whole program.

    Args:
        steps: In order. Views are not in it: they cost nothing.
        roots: id(tensor) -> the tensor whose storage it is a view of, or itself.
        spans: id(root) -> (index of the node that makes it, index of its last
            reader); the graph's input is made at -1, its output is read at the end.
    """

    steps: list[Step]
    roots: dict[int, Tensor]
    spans: dict[int, tuple[int, int]]

    @property
    def nodes(self) -> list[Node]:
        return [node for step in self.steps for node in step.nodes]

    def root(self, tensor: Tensor) -> Tensor:
        return self.roots.get(id(tensor), tensor)


def schedule(graph: Graph) -> Schedule:
    """Order the nodes and cut them into steps with the smallest peak of live bytes."""
    nodes, roots = ordered(graph)
    program = Schedule([], roots, {})
    program.spans = _spans(graph, nodes, program)
    # best[i]: peak bytes and number of steps for nodes[:i], and its last step.
    best: list[tuple[int, int, int, Step]] = [(0, 0, 0, Step([]))]
    # live[i]: (last reader, tensor) of what lies in the arena when node i starts.
    live: list[list[tuple[int, Tensor]]] = [[] for _ in nodes]
    for node in nodes:
        if node.output.reset is not None:
            continue  # not in the arena
        made, last = program.spans[id(node.output)]
        for index in range(made + 1, min(last + 1, len(nodes))):
            live[index].append((last, node.output))
    possible = [_possible_rows(node) for node in nodes]
    for end in range(1, len(nodes) + 1):
        found = []
        common = possible[end - 1]
        for start in range(end - 1, max(-1, end - 1 - MAX_LOOP_NODES), -1):
            run = nodes[start:end]
            common = common & possible[start]
            if len(run) > 1 and not common:
                break
            for count in sorted(common) if len(run) > 1 else [0]:
                step = _step(run, count, program)
                if step is not None:
                    peak = _peak(live[start], step, start, end, program)
                    before = best[start]
                    found.append((max(before[0], peak), before[1] + 1, start, step))
        best.append(min(found, key=lambda option: option[:3]))
    end = len(nodes)
    while end:
        program.steps.insert(0, best[end][3])
        end = best[end][2]
    return program


def ordered(graph: Graph) -> tuple[list[Node], dict[int, Tensor]]:
    """The nodes that the output needs, each as shortly as possible before its reader.

    A node's first inputs come first, so attention's keys and values (first inputs of
    its nodes) come before its queries, which then fuse with it. Views are left out;
    the second result maps them to what they view.
    """
    producers = {id(node.output): node for node in graph.nodes}
    roots: dict[int, Tensor] = {}
    for node in graph.nodes:
        if node.kind in operators.VIEWS:
            source = node.input(0)
            roots[id(node.output)] = roots.get(id(source), source)
    entered: set[int] = set()
    order: list[Node] = []
    stack: list[tuple[Node, int]] = []

    def enter(tensor: Tensor) -> None:
        node = producers.get(id(tensor))
        if node is not None and id(node) not in entered:
            entered.add(id(node))
            stack.append((node, 0))

    enter(graph.output)
    while stack:
        node, position = stack.pop()
        inputs = node.variables
        if position == len(inputs):
            if node.kind not in operators.VIEWS:
                order.append(node)
            continue
        stack.append((node, position + 1))
        enter(inputs[position])
    return order, roots


def _spans(
    graph: Graph, nodes: list[Node], program: Schedule
) -> dict[int, tuple[int, int]]:
    spans = {id(graph.input): (-1, -1)}
    for index, node in enumerate(nodes):
        for tensor in node.variables:
            root = id(program.root(tensor))
            made = spans[root][0] if root in spans else -1  # a state: nobody makes it
            spans[root] = (made, index)
        spans[id(node.output)] = (index, index)
    root = id(program.root(graph.output))
    spans[root] = (spans[root][0], len(nodes))
    return spans


def _possible_rows(node: Node) -> set[int]:
    """Row counts in which a node can be run block by block."""
    candidates = {operators.row_count(node.output), *node.output.shape[:-1]}
    for tensor in node.variables:
        candidates.update(tensor.shape[:-1])
    return {
        rows
        for rows in candidates
        if rows > 1 and operators.operator(node).rows(node, rows) is not None
    }


def _step(nodes: list[Node], rows: int, program: Schedule) -> Step | None:
    """A loop over `rows` rows; None where a node needs another's result whole."""
    if len(nodes) == 1:
        return Step(nodes)
    access = []
    made: set[int] = set()
    for node in nodes:
        uses = operators.operator(node).rows(node, rows)
        assert uses is not None
        for tensor, use in zip(node.inputs, uses, strict=True):
            if (
                tensor is not None
                and use is Access.WHOLE
                and id(program.root(tensor)) in made
            ):
                return None
        access.append(uses)
        made.add(id(node.output))
    return Step(nodes, rows, access)


def _peak(
    live: list[tuple[int, Tensor]], step: Step, start: int, end: int, program: Schedule
) -> int:
    """Bytes live at the worst moment of a step (an estimate: the plan is exact)."""
    across = sum(tensor.bytes for _, tensor in live)
    dying = [tensor.bytes for last, tensor in live if last < end]
    worst = 0
    for index, node in enumerate(step.nodes):
        last = program.spans[id(node.output)][1]
        if last >= end and node.output.reset is None:
            in_place = step.rows or operators.operator(node).in_place
            if in_place and node.output.bytes in dying:
                dying.remove(node.output.bytes)
            else:
                across += node.output.bytes
        now = operators.operator(node).scratch(node)
        if step.rows:
            for other in step.nodes[: index + 1]:
                last = program.spans[id(other.output)][1]
                if start + index <= last < end and other.output.reset is None:
                    now += other.output.bytes // step.rows * step.block_rows
        worst = max(worst, now)
    return across + worst
