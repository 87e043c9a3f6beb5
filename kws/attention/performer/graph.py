"""Linear attention in the graph: its products, and how their operands are laid out.

FULLY_CONNECTED for Q, K and V; BATCH_MATMUL for S, for phi(Q) S and for phi(Q) z; MEAN
for z; the divisor's inverse, one table; MUL; FULLY_CONNECTED. On the board K is made
transposed, and what a row of Q asks is one operator of kernels that there are.

In a causal network each token asks the sums of its own window: PAD and GATHER in front.
On a stream all of it is one operator, LINEAR_ATTENTION_STEP, and a recurrence: S and z
are kept as sums of 32 bits, a token's product of features and values is added, and that
of the token which leaves the window, whose K and V are kept in rings, taken away. Whole
numbers don't drift: S is the sum that the clip form makes anew, bit for bit, and is
requantised as that is.

Thresholds are for the dense layers. S has no rows that could be held: each token adds
its own product, also one that is like the token before it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from kws.graph import (
    cost,
    operators,
    parameters,
    passes,
    products,
    weight_layout,
    windows,
)
from kws.graph import quantized_math as qm
from kws.graph.cost import Count, Sent
from kws.graph.emitter import Emitter
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access, Operator
from kws.graph.products import Found, Part
from kws.recipe import Model
from kws.shape import Shape

KINDS = {"X": "inputs of the block", "O": "outputs of what mixes tokens"}
CAUSAL = True
TAKES: tuple[str, ...] = ()
GIVES: tuple[str, ...] = ()
MAX_WIDTH = 4095  # of a head: see kws_linear_attention_t


def misfit(model: Model) -> tuple[str, str] | None:
    """The key that it can't be built with, and what is expected of it."""
    return windows.misfit(model)


def macs_per_element(shape: Shape) -> dict[str, float]:
    """Multiply-accumulates that one transmitted element of each kind causes."""
    return {"X": 3.0 * shape.inner, "O": float(shape.dim)}


def factors(shape: Shape) -> dict[str, float]:
    """Nothing is folded into a tensor but what papers mean by it."""
    return {}


# --- products -------------------------------------------------------------------------


def find(graph: Graph, shape: Shape) -> list[Found]:
    """The blocks that sum up their tokens, heads together, in the graph's order.

    Raises:
        KwsError: a sum that isn't between such products.
    """
    blocks: dict[int, list[Part]] = {}
    lasts: dict[int, Node] = {}
    for sums in _sums(graph):
        dense = [
            products.above(graph, tensor, "FULLY_CONNECTED")
            for tensor in (sums.mix.input(0), *sums.state.inputs)
            if tensor is not None
        ]
        source = dense[0].input(0)
        last = products.below(graph, sums.mix.output)
        if (
            any(node.input(0) is not source for node in dense)
            or lasts.setdefault(id(source), last) is not last
        ):
            raise products.unknown(sums.state)
        blocks.setdefault(id(source), []).extend(
            (
                *(Part("X", "qkv", node) for node in dense),
                Part("", "state", sums.state),
                Part("", "mix", sums.mix),
                Part("", "weigh", sums.weigh),
            )
        )
    return [
        Found((*parts, Part("O", "out", lasts[source])), lasts[source])
        for source, parts in blocks.items()
    ]


class _Sums(NamedTuple):
    """The nodes of a head: S and z; phi(Q) S, phi(Q) z, its inverse, their product."""

    state: Node
    mean: Node
    mix: Node
    weigh: Node
    inverse: Node
    scale: Node


def _sums(graph: Graph) -> list[_Sums]:
    """Where tokens are summed up: phi(K)' V and a mean of phi(K), each for phi(Q)."""
    found = []
    for state in graph.nodes:
        if state.kind != "BATCH_MATMUL" or not state.options["AdjX"]:
            continue
        key, value = state.input(0), state.input(1)
        mix = _reader(graph, state.output, "BATCH_MATMUL")
        mean = next((n for n in graph.consumers(key) if n.kind == "MEAN"), None)
        weigh = mean and _reader(graph, mean.output, "BATCH_MATMUL")
        inverse = weigh and _reader(graph, weigh.output, "TABLE")
        scale = mix and _reader(graph, mix.output, "MUL")
        if (
            mean is not None
            and mix is not None
            and weigh is not None
            and inverse is not None
            and scale is not None
            and mix.input(0) is weigh.input(0)
            and mix.input(1) is state.output
            and weigh.input(1) is mean.output
            and len(scale.inputs) == 2
            and _factor(graph, scale, mix) is not _factor(graph, scale, inverse)
            and operators.activation(scale) == "NONE"
            and operators.mean_axes(mean) == [len(key.shape) - 2]
            and all(_one_sum(graph, t) for t in (key, value))
            and len(graph.consumers(key)) == 2
        ):
            found.append(_Sums(state, mean, mix, weigh, inverse, scale))
    return found


def _one_sum(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is rows of all tokens, or of each token's window."""
    every = operators.row_count(tensor) == tensor.shape[-2]
    return every or windows.gathered(graph, tensor)


def _reader(graph: Graph, tensor: Tensor, kind: str) -> Node | None:
    """The one node that reads a tensor, through views, if it is of a kind."""
    readers = graph.consumers(tensor)
    while len(readers) == 1 and readers[0].kind in operators.VIEWS:
        readers = graph.consumers(readers[0].output)
    return readers[0] if len(readers) == 1 and readers[0].kind == kind else None


def _factor(graph: Graph, scale: Node, made: Node) -> Tensor | None:
    """What a MUL reads of what another node has made, through views."""
    for tensor in scale.variables:
        node = graph.producer(tensor)
        while node is not None and node.kind in operators.VIEWS:
            node = graph.producer(node.input(0))
        if node is made:
            return tensor
    return None


def _factors(graph: Graph, sums: _Sums) -> list[Tensor | None]:
    """What the last MUL reads: what was mixed, and its divisor's inverse."""
    return [_factor(graph, sums.scale, made) for made in (sums.mix, sums.inverse)]


# --- fusing ---------------------------------------------------------------------------


def fuse(graph: Graph) -> int:
    """Sums over columns that K's dense layer makes; all that a row of Q asks is one
    operator, on rows like the dense layers around it. Of a stream all of it is one."""
    found = 0
    for sums in _sums(graph):
        key, axis = sums.state.input(0), sums.mean.input(1)
        made = graph.producer(key)
        kept = [windows.history(graph, side) for side in (key, sums.state.input(1))]
        if kept[0] is not None and kept[1] is not None:
            found += _recur(graph, sums, kept[0], kept[1])
            continue
        if made is None or made.kind != "FULLY_CONNECTED":
            continue
        tokens, width = key.shape[-2:]
        made.kind = "FULLY_CONNECTED_TRANSPOSED"
        made.options = {**made.options, "stride": tokens}
        made.output = Tensor(
            f"{key.name} transposed", (1, width, tokens), "int8", key.quantization
        )
        sums.state.inputs[0] = sums.mean.inputs[0] = made.output
        sums.state.options = {**sums.state.options, "AdjX": False}
        sums.mean.spec = WHOLE_MEAN
        sums.mean.inputs[1] = Tensor(
            axis.name, (1,), "int32", data=np.array([2], np.int32)
        )
        # The sums first, so that the scheduler makes them before the queries.
        asked = Node(
            "LINEAR_ATTENTION",
            [sums.state.output, sums.mean.output, sums.mix.input(0)],
            sums.scale.output,
            {
                "sums": sums,
                "factors": _factors(graph, sums),
                "fields": [parameters.batch_matmul(n) for n in (sums.mix, sums.weigh)],
                "products": (
                    *sums.mix.options.get("products", ()),
                    *sums.weigh.options.get("products", ()),
                ),
            },
            QUERIES,
        )
        graph.nodes[graph.nodes.index(sums.scale)] = asked
        passes.drop_unread(graph)
        found += 1
    return found


def _recur(graph: Graph, sums: _Sums, keys: Node, values: Node) -> bool:
    """Put the recurrence in the place of a step that sums up its window anew.

    K and V are kept a row longer, to be taken away, and in rings. No sum leaves 32
    bits, nor 30, which the kernels count on: the reader lets no sum be longer than
    `operators.MAX_MATMUL_DEPTH` products.

    Returns:
        Whether; not where the sums of what lies before the stream aren't 0, or K and V
        are no windows of one width: that runs operator by operator.
    """
    kept = [keys, values]
    past, *others = [operators.history(node) for node in kept]
    window = past.past + 1
    if (
        [past] != others
        or past.rows != 1
        or past.width > MAX_WIDTH
        or keys.output.reset != keys.output.zero_point
    ):
        return False
    assert window <= operators.MAX_MATMUL_DEPTH and 255**2 * window < 1 << 30
    rings = [windows.ring(graph, node, more=1) for node in kept]
    width = rings[0].shape[-1]
    name = f"sums of {sums.state.name}"[:200]
    size = weight_layout.linear_attention_state_bytes(width)
    state = Tensor(name, (size,), "int8", reset=0)
    asked = Node(
        "LINEAR_ATTENTION_STEP",
        [*rings, sums.mix.input(0), state],
        sums.scale.output,
        {
            "sums": sums,
            "fields": {
                "state": parameters.batch_matmul(sums.state),
                "mix": parameters.batch_matmul(sums.mix),
                "weigh": parameters.batch_matmul(sums.weigh),
            },
            "factors": _factors(graph, sums),
        },
        STEP,
    )
    graph.nodes[graph.nodes.index(sums.scale)] = asked
    passes.drop_unread(graph)
    return True


# --- how the fused operators run, what they cost, their C -----------------------------


def _rows(node: Node, rows: int) -> list[Access] | None:
    """Rows of the queries."""
    if operators.row_count(node.output) != rows:
        return None
    return [Access.WHOLE, Access.WHOLE, Access.ROW]


def _scratch(node: Node) -> int:
    """Of the product with S, the larger one; then a divisor for each row."""
    inner = node.input(0).shape[-2]
    own = weight_layout.batch_matmul_columns_scratch_bytes(inner)
    return own + operators.row_count(node.output)


def _count(node: Node, sent: Sent | None) -> Count:
    """As the operators that it stands for; divisors are scratch."""
    inner, columns = node.input(0).shape[-2:]
    rows = operators.row_count(node.output)
    macs = rows * inner * (columns + 1)
    return Count(
        macs=macs,
        bytes={
            # Queries twice, an element of S or z for each product; what is scaled.
            cost.READ: 2 * rows * inner + macs + rows * columns,
            cost.WRITE: 2 * rows * columns,
            cost.SCRATCH_READ: 2 * rows,
            cost.SCRATCH_WRITE: 2 * rows,
        },
    )


def _call(emitter: Emitter, node: Node) -> list[str]:
    sums: _Sums = node.options["sums"]
    mix, weigh = (
        emitter.struct("kws_batch_matmul_t", fields)
        for fields in node.options["fields"]
    )
    first, second = sums.scale.input(0), sums.scale.input(1)
    scale = qm.mul_parameters(
        passes.quantization(first),
        passes.quantization(second),
        passes.quantization(node.output),
    )
    inner, columns = node.input(0).shape[-2:]
    rows = emitter.rows(operators.row_count(node.output))
    state, mean, query = (emitter.input(node, i) for i in range(3))
    out, scratch = emitter.output(node), emitter.scratch(node)
    divisors = f"{scratch} + {weight_layout.batch_matmul_columns_scratch_bytes(inner)}"
    table = np.array(sums.inverse.options["table"], np.int8)
    # Either side of the product may come first.
    sides = {
        id(node.options["factors"][0]): (out, columns, 1),
        id(node.options["factors"][1]): (divisors, 1, 0),
    }
    (x1, *step1), (x2, *step2) = sides[id(first)], sides[id(second)]
    shape = ", ".join(str(n) for n in (rows, columns, *step1, *step2))
    return [
        *emitter.call(
            "kws_batch_matmul_s8",
            weigh,
            query,
            inner,
            mean,
            inner,
            rows,
            1,
            inner,
            divisors,
            1,
            scratch,
        ),
        *emitter.call(
            "kws_table_s8", emitter.constant("table", table), divisors, rows, divisors
        ),
        *emitter.call(
            "kws_batch_matmul_columns_s8",
            mix,
            query,
            inner,
            state,
            columns,
            rows,
            columns,
            inner,
            out,
            columns,
            scratch,
        ),
        *emitter.call(
            "kws_mul_s8",
            emitter.struct("kws_mul_t", dataclasses.asdict(scale)),
            f"&(kws_broadcast_t){{{shape}}}",
            x1,
            x2,
            out,
        ),
    ]


def _step_scratch(node: Node) -> int:
    return weight_layout.linear_attention_scratch_bytes(node.output.shape[-1])


def _step_count(node: Node, sent: Sent | None) -> Count:
    """Two products of features and values, of the token that comes and of the one that
    leaves; then what it asks. Features of 0, which the kernel leaves out, count."""
    width = node.output.shape[-1]
    sums = width * width + width  # S and z
    return Count(
        macs=2 * width * width + sums,
        bytes={
            cost.READ: width,
            cost.WRITE: width,
            cost.STATE_READ: 4 * sums + 4 * width,  # K and V, new and old
            cost.STATE_WRITE: 4 * sums,
        },
    )


def _step_call(emitter: Emitter, node: Node) -> list[str]:
    sums: _Sums = node.options["sums"]
    count = node.input(0).shape[1] - 1  # of a window, not of its ring
    mean = qm.mean_parameters(
        passes.quantization(sums.mean.input(0)),
        passes.quantization(sums.mean.output),
        count,
    )
    mixed, inverse = node.options["factors"]
    scale = qm.mul_parameters(
        passes.quantization(mixed),
        passes.quantization(inverse),
        passes.quantization(node.output),
    )
    table = np.array(sums.inverse.options["table"], np.int8)
    struct = emitter.struct(
        "kws_linear_attention_t",
        {
            "width": node.output.shape[-1],
            **node.options["fields"],
            "mean": dataclasses.asdict(mean),
            "inverse": emitter.constant("table", table),
            "scale": dataclasses.asdict(scale),
        },
    )
    return emitter.call(
        "kws_linear_attention_step_s8",
        struct,
        emitter.ring_row(node, 0, oldest=False),
        emitter.ring_row(node, 0, oldest=True),
        emitter.ring_row(node, 1, oldest=False),
        emitter.ring_row(node, 1, oldest=True),
        emitter.input(node, 2),
        emitter.input(node, 3),
        emitter.output(node),
        emitter.scratch(node),
    )


# Its rows are K's columns, not tokens: no loop over tokens may take it in.
WHOLE_MEAN = dataclasses.replace(operators.OPERATORS["MEAN"], rows=lambda *_: None)
QUERIES = Operator(
    operators.any_shape, (3, 3), rows=_rows, scratch=_scratch, count=_count, call=_call
)
STEP = Operator(
    operators.any_shape,
    (4, 4),
    scratch=_step_scratch,
    count=_step_count,
    call=_step_call,
)
