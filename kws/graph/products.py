"""Which product reads which tensor: every product of a network that may be skipped.

A `Product` (kws/graph/nodes.py) is one matrix product of a block, seen from the input
that a delta encoding may hold (DESIGN D2). They are found once, in the graph as it was
converted, before anything is fused; what is emitted, counted, simulated and profiled is
this list.

Attention variants find their own (kws/attention/<name>/graph.py); the MLP's dense
layers, which stand between a block's attention and the next, are found here, as is what
else there is of a causal network. There, of what mixes tokens only the dense layers are
products that may be skipped: what is between them runs dense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kws.errors import KwsError
from kws.graph import delta, operators, weight_layout
from kws.graph.nodes import Graph, Node, Product, Tensor
from kws.recipe import Model
from kws.shape import Shape
from kws.thresholds import Slot, Slots, Thresholds

MLP_KINDS = {"M": "inputs of the MLP", "H": "hidden layer of the MLP"}
MLP_ROLES = ("expand", "contract")
MLP = tuple(zip(MLP_KINDS, MLP_ROLES, strict=True))
DENSE_KINDS = ("X", "O")  # of a variant's kinds, those that only dense layers read
# Of a network for streams. The stem's slots are the first block's, the read-out's the
# last one's.
STEM_KINDS = {
    "F": "features",
    "C": "inputs of the stem's second convolution",
    "E": "inputs of the stem's dense layer",
}
READOUT_KINDS = {"R": "pooled tokens of the read-out"}
CONVOLUTIONS = ("conv", "conv2")  # roles of F and C
EMBED, READOUT = "embed", "readout"
STREAM_ROLES = (*CONVOLUTIONS, EMBED, READOUT)  # beside the MLP's


@dataclass(frozen=True)
class Part:
    """A product as a variant finds it, before its layer is known.

    Args:
        kind: Of its input; "" where it has no threshold.
        role: What it is in its block.
        node: A FULLY_CONNECTED or BATCH_MATMUL.
        side: Which input of the node: 0, or 1 for a right side that is only held.
    """

    kind: str
    role: str
    node: Node
    side: int = 0


@dataclass(frozen=True)
class Found:
    """The mixing half of a block (attention, or what stands for it) in a graph.

    Args:
        parts: Its products, in the order in which they run.
        last: The dense layer that ends it; the MLP's come behind.
        fold: Rows that each token is in its products.
    """

    parts: tuple[Part, ...]
    last: Node
    fold: int = 1


Finder = Callable[[Graph, Shape], list[Found]]
"""Finds all blocks of one variant, in the graph's order."""


class Products:
    """All products of a network.

    Args:
        every: Layer by layer, in the order in which they run.
        slots: The network's.
        stream: Whether what is held lives from step to step of a stream.

    `scales` has the step of each slot: the largest of its tensors' (heads have scales
    of their own), so that a threshold in steps is none's further than meant.
    """

    def __init__(
        self, every: Sequence[Product], slots: Slots, stream: bool = False
    ) -> None:
        self.every = tuple(every)
        self.slots = slots
        self.stream = stream
        self._at = {(id(p.node), id(p.tensor)): p for p in self.every}
        self.scales: dict[Slot, float] = {}
        for product in self.every:
            if product.kind:
                scale = max(product.tensor.scale, self.scales.get(product.slot, 0.0))
                self.scales[product.slot] = scale

    def at(self, node: Node, tensor: Tensor) -> Product | None:
        """The product that reads a tensor at a node; None where nothing is held."""
        return self._at.get((id(node), id(tensor)))

    def of(self, node: Node) -> tuple[Product, ...]:
        """The products of a node, in the order of its inputs."""
        found = [self.at(node, tensor) for tensor in node.variables]
        return tuple(product for product in found if product is not None)

    def tensors(self, slot: Slot) -> list[Tensor]:
        """The tensors of a slot, each once (several heads have one each)."""
        seen: dict[int, Tensor] = {}
        for product in self.every:
            if product.slot == slot:
                seen.setdefault(id(product.tensor), product.tensor)
        return list(seen.values())


def find(
    graph: Graph,
    shape: Shape,
    variants: Sequence[str],
    finders: dict[str, Finder],
    slots: Slots,
) -> Products:
    """Find every product, and leave it at its node (options["products"]).

    Args:
        graph: After `passes.drop_identities` and `passes.fold_tables`.
        shape: The network's sizes.
        variants: The attention variant of every block.
        finders: Variant -> what finds its blocks.
        slots: The network's.

    Raises:
        KwsError: the network can't be told from the graph.
    """
    mixing = _halves(graph, shape, variants, finders)
    every: list[Product] = []
    for layer, (half, dense) in enumerate(
        zip(mixing, _mlps(graph, shape, mixing), strict=True)
    ):
        rows = shape.tokens * half.fold
        every += [_product(layer, part, shape, rows) for part in half.parts]
        factors = len(dense) // 2
        for i, node in enumerate(dense):
            kind, role = MLP[i // factors]
            # In two factors each, what is encoded meets the first.
            part = Part(kind if i % factors == 0 else "", role, node)
            rows = shape.tokens * shape.mlp_fold
            every.append(_product(layer, part, shape, rows))
    return _noted(graph, Products(every, slots))


def _halves(
    graph: Graph, shape: Shape, variants: Sequence[str], finders: dict[str, Finder]
) -> list[Found]:
    """The mixing half of each block that has one.

    Raises:
        KwsError: other blocks than the recipe's.
    """
    blocks = {name: finders[name](graph, shape) for name in dict.fromkeys(variants)}
    for name, found in blocks.items():
        if len(found) != list(variants).count(name):
            raise KwsError(
                "The model's attention is not the recipe's. Expected "
                f"{list(variants).count(name)} blocks of {name} attention. "
                f"Received: {len(found)}",
                "kws convert RUN",
            )
    return [blocks[name].pop(0) for name in variants]


def stream_slots(model: Model, mixing: Sequence[Sequence[str]]) -> Slots:
    """What a causal network has thresholds for.

    Args:
        model: Of its recipe.
        mixing: Of each block, the kinds of its mixing half; those of dense layers have
            thresholds.

    Example:
        >>> from kws import recipe
        >>> model = recipe.load("kwt-stream-tiny").model
        >>> stream_slots(model, ["", "", "XQKPO", ""]).by_layer
        (('F', 'C', 'E', 'M', 'H'), ('M', 'H'), ('X', 'O', 'M', 'H'), ('M', 'H', 'R'))
    """
    blocks = [
        (*(kind for kind in kinds if kind in DENSE_KINDS), *MLP_KINDS)
        for kinds in mixing
    ]
    stem = [kind for kind in STEM_KINDS if kind != "C" or model.stem_second_channels]
    blocks[0] = (*stem, *blocks[0])
    if model.readout == "pool":
        blocks[-1] = (*blocks[-1], *READOUT_KINDS)
    return Slots(tuple(blocks))


def find_stream(
    graph: Graph,
    shape: Shape,
    variants: dict[int, str],
    finders: dict[str, Finder],
    slots: Slots,
) -> Products:
    """Find every product of a causal network that is held from step to step.

    Dense layers over tokens come in this order, whatever else stands between: the
    stem's, each block's MLP, the read-out's. Those of what mixes tokens are its
    variant's to find; its other products are none of these.

    Args:
        graph: See `find`.
        shape: The network's sizes.
        variants: Layer -> variant, of the blocks that have one.
        finders: See `find`.
        slots: The network's.
    """
    halves = _halves(graph, shape, list(variants.values()), finders)
    mixing = dict(zip(variants, halves, strict=True))
    own = {id(part.node) for found in halves for part in found.parts}
    dense = [
        node
        for node in graph.nodes
        if node.kind == "FULLY_CONNECTED" and id(node) not in own
    ]
    tokens = [n for n in dense if operators.row_count(n.output) == shape.tokens]
    factors = 2 if shape.mlp_rank else 1
    needed = 1 + shape.layers * len(MLP) * factors
    if len(tokens) < needed:
        raise KwsError(
            "The model's blocks are not the recipe's. Expected at least "
            f"{needed} dense layers over {shape.tokens} tokens. Received: "
            f"{len(tokens)}",
            "kws convert RUN",
        )
    every = _convolved(graph, shape)
    every.append(_product(0, Part("E", EMBED, tokens[0]), shape))
    mlps = iter(tokens[1:needed])
    for layer in range(shape.layers):
        if layer in mixing:
            every += [
                _product(layer, part, shape)
                for part in mixing[layer].parts
                if part.kind in DENSE_KINDS
            ]
        for kind, role in MLP:
            for factor in range(factors):
                part = Part("" if factor else kind, role, next(mlps))
                every.append(_product(layer, part, shape))
    if (shape.layers - 1, "R") in slots:
        # Of the layers that see one row, the first; its logits come behind.
        readout = next(n for n in dense if operators.row_count(n.output) == 1)
        part = Part("R", READOUT, readout)
        every.append(_product(shape.layers - 1, part, shape, rows=1))
    return _noted(graph, Products(every, slots, stream=True))


def _convolved(graph: Graph, shape: Shape) -> list[Product]:
    """What the stem's convolutions read, in front of the padding: only held, as many
    rows at a time as make a token. The convolution behind has it as options["held"].

    An element is in several windows, those at the edges in fewer: `macs` is the mean; 0
    where windows are too small for every core to skip single elements.
    """
    found = []
    source = graph.input
    convolutions = [node for node in graph.nodes if node.kind == "CONV_2D"]
    for kind, role, node in zip("FC", CONVOLUTIONS, convolutions, strict=False):
        (reader,) = graph.consumers(source)
        if reader.kind not in (*operators.VIEWS, "PAD"):
            raise unknown(reader)
        window = operators.weight_matrix(node).shape[1]
        product = _product(0, Part(kind, role, reader), shape)
        if window >= weight_layout.DELTA_CONV_2D_COUNTED:
            macs = round(node.output.elements * window / source.elements)
            product = dataclasses.replace(product, macs=macs)
        node.options = {**node.options, "held": product}
        found.append(product)
        source = node.output
    return found


def _noted(graph: Graph, products: Products) -> Products:
    """Leave each node's products at it."""
    for node in graph.nodes:
        mine = products.of(node)
        if mine:
            node.options = {**node.options, "products": mine}
    return products


def _product(layer: int, part: Part, shape: Shape, rows: int | None = None) -> Product:
    node, tensor = part.node, part.node.input(part.side)
    rows = rows or shape.tokens
    if tensor.elements % rows:
        raise unknown(node)
    inputs = tensor.elements // rows
    if part.side or part.role in CONVOLUTIONS:
        outputs, macs = 0, 0
    elif node.kind == "BATCH_MATMUL":
        outputs = node.output.elements // rows
        macs = node.output.shape[-1]
    else:
        outputs = macs = node.input(1).shape[0]
    return Product(
        layer,
        part.kind,
        part.role,
        rows,
        inputs,
        outputs,
        macs,
        shape.whole_rows(rows),
        node,
        tensor,
    )


def _mlps(graph: Graph, shape: Shape, mixing: Sequence[Found]) -> list[list[Node]]:
    """The dense layers of each block's MLP, in order: two, or four where factorised.

    They read what a block's attention makes and make the next block's input, so they
    stand between those two, whatever the order of the file.
    """
    own = {id(part.node) for found in mixing for part in found.parts}
    lasts = {id(found.last) for found in mixing}
    expected = 4 if shape.mlp_rank else 2
    blocks: list[list[Node]] = []
    for node in graph.nodes:
        if id(node) in lasts:
            blocks.append([])
        elif (
            blocks
            and node.kind == "FULLY_CONNECTED"
            and id(node) not in own
            and operators.row_count(node.output) == shape.tokens * shape.mlp_fold
        ):
            blocks[-1].append(node)
    for nodes in blocks:
        if len(nodes) != expected:
            raise KwsError(
                "The model's MLP is not the recipe's. Expected "
                f"{expected} dense layers behind an attention. Received: {len(nodes)}",
                "kws convert RUN",
            )
    return blocks


# --- thresholds -----------------------------------------------------------------------


def on_core(thresholds: Thresholds, products: Products, core: str) -> Thresholds:
    """Thresholds as a core runs them.

    At threshold 0 a dense layer skips repeats only, which changes no bit: on a core
    whose dense kernel is faster, such a tensor counts as not encoded. Not so on a
    stream, where silence is one long repeat.

    Args:
        thresholds: In int8 steps.
        products: Of the network.
        core: `portable`, `dsp` or `mve`.
    """
    if products.stream or core not in weight_layout.DELTA_KEEPS_DENSE:
        return thresholds
    others = {p.slot for p in products.every if p.node.kind != "FULLY_CONNECTED"}
    repeats = [
        value == 0 and slot not in others
        for slot, value in zip(thresholds.slots, thresholds.values, strict=True)
    ]
    return Thresholds(thresholds.slots, np.where(repeats, -1, thresholds.values))


def mark(graph: Graph, thresholds: Thresholds, products: Products, core: str) -> None:
    """Leave a note at every product that reads an encoded tensor.

    Args:
        graph: After `passes.drop_identities` and `passes.fold_tables`.
        thresholds: In int8 steps.
        products: Of the graph.
        core: `portable`, `dsp` or `mve`.

    Raises:
        KwsError: a product has a form that the delta kernels don't run.
    """
    chosen = on_core(thresholds, products, core)
    for node in graph.nodes:
        mine = products.of(node)
        steps = {p.kind: int(chosen[p.slot]) for p in mine if p.kind}
        if max(steps.values(), default=-1) >= 0:
            item = delta.Note(
                mine[0].layer,
                steps,
                mine[0].dense_rows,
                core in weight_layout.DELTA_KEEPS_DENSE,
                weight_layout.DELTA_CONV_2D_INPUTS.get(core, 0),
            )
            node.options = {**node.options, "delta": item}
            _check(node, item, mine[0].rows)


def _check(node: Node, item: delta.Note, tokens: int) -> None:
    if node.kind == "FULLY_CONNECTED":
        fits = operators.row_count(node.output) == tokens
    elif node.kind != "BATCH_MATMUL":
        fits = True  # it only reads what is held
    else:
        fits = (
            node.output.shape[-2] == tokens
            and operators.row_count(node.output) == tokens
            and not node.options["AdjX"]
            and bool(node.options["AdjY"]) == ("K" in item.steps)
        )
    if not fits:
        raise operators.refuse(node, "the delta kernels take one row per token")


def check_fused(graph: Graph) -> None:
    """See that no product with a note was left as it was.

    Raises:
        KwsError: it was, since attention could not be fused.
    """
    for node in graph.nodes:
        if node.kind == "BATCH_MATMUL" and delta.encoded(delta.note(node)):
            raise operators.refuse(node, "delta thresholds need fused attention")


# --- for variants' finders ------------------------------------------------------------

# Operators between a product and what it belongs to that change no row's contents, and
# those that make windows of what is above it.
THROUGH = (*operators.VIEWS, "TRANSPOSE", "TABLE", "MUL")
WINDOWS = ("PAD", "GATHER")


def above(graph: Graph, tensor: Tensor, kind: str) -> Node:
    """The node of a kind that a tensor comes from, through views, tables and windows.

    Raises:
        KwsError: it comes from something else.
    """
    node = graph.producer(tensor)
    while node is not None and node.kind in (*THROUGH, *WINDOWS):
        node = graph.producer(node.input(0))
    if node is None or node.kind != kind:
        raise unknown(node)
    return node


def below(graph: Graph, tensor: Tensor) -> Node:
    """The dense layer that reads a tensor, through views and a concatenation.

    Raises:
        KwsError: something else reads it.
    """
    while True:
        readers = graph.consumers(tensor)
        if len(readers) != 1:
            raise unknown(readers[0] if readers else None)
        if readers[0].kind == "FULLY_CONNECTED":
            return readers[0]
        if readers[0].kind not in (*THROUGH, "CONCATENATION"):
            raise unknown(readers[0])
        tensor = readers[0].output


def unknown(node: Node | None) -> KwsError:
    """The error for a graph whose attention can't be told, at a node."""
    where = "the graph's input" if node is None else f"{node.kind} at {node.name!r}"
    return KwsError(
        "The model's attention can't be told from its graph: expected dense layers, "
        f"Q.K^T, softmax, P.V, a dense layer. Received: {where}",
        "kws convert RUN",
    )
