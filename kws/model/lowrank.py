"""Low-rank weights, and weights that several layers share.

Low rank: `x W + b` becomes `(x U) V + b`, U [in, rank], V [rank, out]: FULLY_CONNECTED
twice, with an int8 tensor of `rank` columns between. The MLP's two matrices are
factorised so ([model] mlp_rank). Attention needs no such layer: its matrices are
factors already. Scores are X (W_Q W_K') X', outputs P X (W_V W_O), both of rank
head_dim; a smaller head_dim is their low-rank form, and makes the scores cheaper too.

Sharing ([model] share, groups): block i uses the kernels of block i % groups,

    blocks      all of them                       (block repetition)
    attention   of the attention; the MLP's own   (module sharing)
    mlp         of the MLP; the attention's own   (module sharing)
    factor      of the first factor of each pair: Q of (Q, K), V of (V, O), U of (U, V)
                of the MLP; the second ones own   (factor sharing)

Blocks take turns (0 1 0 1, not 0 0 1 1), so that a repeated block sees another one's
output in between; Takase and Kiyono 2021 (arXiv 2104.06022) call it "cycle".

A shared kernel is one variable of one Keras layer, which the other layers borrow. Own
to each block stay biases, activation ranges and DyT's alpha, which cost little: on the
board a bias depends on the scale of the layer's input, and so differs anyway. A norm's
scale in front of a shared kernel is shared as well: it is folded into that kernel.

Reference: Hernandez et al. 2023, "Sharing Low Rank Conformer Weights for Tiny
Always-On Ambient Speech Recognition Models" (arXiv 2303.08343).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kws import recipe
from kws.layers import Dense, Kernel, KwsLayer, Norm, Quantizer

# Names of the layers that hold the first factor of a pair.
FIRST_FACTORS = ("q", "v", "first")


class LowRank(KwsLayer):
    """`(x @ U) @ V + bias` over the last axis.

    Args:
        units: Output width.
        rank: Width between the factors.

    Shapes: (B, T, in) -> (B, T, units).
    """

    def __init__(self, mode: str, name: str, units: int, rank: int) -> None:
        super().__init__(mode, name)
        self.first = Dense(mode, "first", rank, use_bias=False)
        self.inner_range = Quantizer(mode, "inner")
        self.last = Dense(mode, "last", units)

    def call(self, inputs: Any, training: Any = False) -> Any:
        inner = self.inner_range(self.first(inputs), training=training)
        return self.last(inner)

    def fold(self, source: LowRank, norm: Norm | None) -> None:
        """Load `source`'s weights with the norm in front of it folded in."""
        first, last = source.first.kernel.numpy(), source.last.kernel.numpy()
        bias = source.last.bias.numpy()
        if norm is not None:
            gamma, shift = norm.fold_terms()
            bias = bias + shift @ first @ last
            first = first * gamma[:, None]
        self.first.kernel.assign(first)
        self.last.kernel.assign(last)
        self.last.bias.assign(bias)


def projection(mode: str, name: str, units: int, rank: int) -> Dense | LowRank:
    """A dense layer with a bias, in two factors where `rank` is not 0."""
    return LowRank(mode, name, units, rank) if rank else Dense(mode, name, units)


def group(index: int, model: recipe.Model) -> int:
    """The block whose kernels block `index` uses, where it shares them."""
    return index if model.share == "none" else index % model.groups


def tie(blocks: Sequence[Any], model: recipe.Model) -> None:
    """Let blocks borrow the kernels that the recipe says they share.

    Args:
        blocks: `network.Block`s that were not called yet; they must be called in
            order, since a lender makes its variables at its first call.
    """
    for index, block in enumerate(blocks):
        lender = blocks[group(index, model)]
        if lender is block:
            continue
        for name, (norm, parts) in block.modules().items():
            if model.share not in ("blocks", "factor", name):
                continue
            their_norm, their_parts = lender.modules()[name]
            tied = False
            for mine, theirs in zip(kernels(parts), kernels(their_parts), strict=True):
                if model.share != "factor" or mine.name in FIRST_FACTORS:
                    mine.borrow(theirs)
                    tied = True
            if tied and model.norm_position == "pre":
                norm.borrow(their_norm)


def kernels(layers: Sequence[Any]) -> list[Kernel]:
    """The layers that have a kernel: of these and of all inside them, in order."""
    parts = (part for layer in layers for part in layer._flatten_layers())
    return [part for part in parts if isinstance(part, Kernel)]


# --- factorising a trained network ---------------------------------------------------


def factorise(source: Any, target: Any, model: recipe.Model) -> None:
    """Fill a network with low-rank or shared weights from a trained one.

    By singular value decomposition (SVD), group by group. What several blocks are to
    share as a whole is fitted to the mean of theirs: of the products W_Q W_K' and
    W_V W_O, which don't depend on the basis of a head; of the MLP's matrices once its
    hidden units are in a common order. A shared first factor comes from the SVD of the
    group's matrices side by side. All errors weigh alike; tuning does the rest.

    Args:
        source: A network in mode `folded`, of the same shape but for head_dim (at
            least the target's), mlp_rank, share and groups.
        target: Another one; its weights are set, its activation ranges are not.
        model: The target's.
    """
    for layer in target.layers:
        if not layer.name.startswith("block"):
            layer.set_weights(source.get_layer(layer.name).get_weights())
    mine = [target.get_layer(f"block{i}") for i in range(model.layers)]
    theirs = [source.get_layer(f"block{i}") for i in range(model.layers)]
    for block, other in zip(mine, theirs, strict=True):
        for name in ("norm1", "norm2"):
            norm, given = getattr(block, name), getattr(other, name)
            for key in ("alpha", "gamma", "beta"):
                if getattr(given, key, None) is not None:
                    getattr(norm, key).assign(getattr(given, key))
    for part, fit in (("attention", _fit_attention), ("mlp", _fit_mlp)):
        whole = model.share in ("blocks", part)
        first = model.share == "factor"
        groups: dict[int, list[int]] = {}
        for index in range(model.layers):
            lender = group(index, model) if whole or first else index
            groups.setdefault(lender, []).append(index)
        for members in groups.values():
            fit([mine[i] for i in members], [theirs[i] for i in members], whole)


def factors(
    matrices: list[np.ndarray], rank: int, whole: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A first factor for all matrices, and each one's second: matrix ~ first @ second.

    Args:
        matrices: Each [in, out].
        rank: Columns of the first factor.
        whole: One second factor as well, by the mean of the matrices.

    Returns:
        first [in, rank], and per matrix [rank, out]. Both sides of a factor's column
        are equally large, so that neither is coarse in int8.

    Example:
        >>> first, (second,) = factors([np.outer([1.0, 2.0], [3.0, 4.0])], 1, False)
        >>> np.allclose(first @ second, [[3, 4], [6, 8]])
        True
    """
    count = len(matrices)
    if whole:
        matrices = [np.mean(matrices, axis=0)] * count
    left, sizes, _ = np.linalg.svd(np.hstack(matrices), full_matrices=False)
    left, sizes = left[:, :rank], np.sqrt(sizes[:rank] / np.sqrt(count))
    sizes = np.maximum(sizes, 1e-6)
    return left * sizes, [left.T @ m / sizes[:, None] for m in matrices]


def _fit_attention(mine: Sequence[Any], theirs: Sequence[Any], whole: bool) -> None:
    outputs = [block.attention.output_dense.kernel.numpy() for block in theirs]
    widths = [head.key.units for head in theirs[0].attention.heads]
    starts = np.cumsum([0, *widths])
    same = len(mine) == 1 and widths[0] == mine[0].attention.heads[0].key.units
    fitted: list[list[np.ndarray]] = [[] for _ in mine]
    biases = [block.attention.output_dense.bias.numpy() for block in theirs]
    for number in range(len(widths)):
        ours = [block.attention.heads[number] for block in mine]
        given = [block.attention.heads[number] for block in theirs]
        rows = slice(starts[number], starts[number + 1])
        query = [head.query.kernel.numpy() for head in given]
        keys = [head.key.kernel.numpy() for head in given]
        values = [head.value.kernel.numpy() for head in given]
        outs = [output[rows] for output in outputs]
        rank = ours[0].key.units
        if same:
            new_query, new_keys = query[0], [keys[0].T]
            new_values, new_outs = values[0], outs
        else:
            products = [q @ k.T for q, k in zip(query, keys, strict=True)]
            new_query, new_keys = factors(products, rank, whole)
            products = [v @ o for v, o in zip(values, outs, strict=True)]
            new_values, new_outs = factors(products, rank, whole)
        for i, head in enumerate(ours):
            head.query.kernel.assign(new_query)
            head.key.kernel.assign(new_keys[i].T)
            head.value.kernel.assign(new_values)
            fitted[i].append(new_outs[i])
            if head.query.bias is not None:
                # What the bias adds to the scores: bias . key of every token.
                bias = given[i].query.bias.numpy() @ keys[i].T
                head.query.bias.assign(bias @ np.linalg.pinv(new_keys[i]))
                # Shares sum to 1, so V's bias is a constant of the output.
                biases[i] = biases[i] + given[i].value.bias.numpy() @ outs[i]
                head.value.bias.assign(np.zeros(rank))
    for i, block in enumerate(mine):
        block.attention.output_dense.kernel.assign(np.concatenate(fitted[i]))
        block.attention.output_dense.bias.assign(biases[i])


def _fit_mlp(mine: Sequence[Any], theirs: Sequence[Any], whole: bool) -> None:
    expand = [dense_weights(block.expand) for block in theirs]
    contract = [dense_weights(block.contract) for block in theirs]
    if whole:
        for i in range(1, len(theirs)):
            order = _matching((expand[0], contract[0]), (expand[i], contract[i]))
            expand[i] = (expand[i][0][:, order], expand[i][1][order])
            contract[i] = (contract[i][0][order], contract[i][1])
    for name, weights in (("expand", expand), ("contract", contract)):
        layers = [getattr(block, name) for block in mine]
        kernels_ = [kernel for kernel, _ in weights]
        if isinstance(layers[0], LowRank):
            first, seconds = factors(kernels_, layers[0].first.units, whole)
            for layer, second, (_, bias) in zip(layers, seconds, weights, strict=True):
                layer.first.kernel.assign(first)
                layer.last.kernel.assign(second)
                layer.last.bias.assign(bias)
            continue
        common = np.mean(kernels_, axis=0)
        for layer, (kernel, bias) in zip(layers, weights, strict=True):
            layer.kernel.assign(common if whole else kernel)
            layer.bias.assign(bias)


def narrower(blocks: Sequence[Any], model: recipe.Model) -> dict[int, np.ndarray]:
    """Weights of MLPs that keep `model.mlp_dim` of their hidden units.

    Those are kept that have the largest product of what comes in and what goes out:
    norms of a unit's column of `expand`, with its bias, and of its row of `contract`.
    Blocks that share an MLP keep the same ones. Not for MLPs in two factors.

    Args:
        blocks: All of a trained network's, in mode `folded`.
        model: Of the narrower network: its mlp_dim, share and groups are used.

    Returns:
        id of a variable of `blocks` -> its new value.
    """
    values: dict[int, np.ndarray] = {}
    units: dict[int, np.ndarray] = {}
    for block in blocks:
        expand, contract = block.expand.kernel.numpy(), block.contract.kernel.numpy()
        bias = block.expand.bias.numpy()
        shared = id(block.expand.kernel)
        if shared not in units:
            comes_in = np.linalg.norm(np.vstack([expand, bias]), axis=0)
            matters = comes_in * np.linalg.norm(contract, axis=1)
            best = np.argsort(-matters, kind="stable")[: model.mlp_dim]
            units[shared] = np.sort(best)
        kept = units[shared]
        values[id(block.expand.kernel)] = expand[:, kept]
        values[id(block.expand.bias)] = bias[kept]
        values[id(block.contract.kernel)] = contract[kept]
    return values


def dense_weights(layer: Dense | LowRank) -> tuple[np.ndarray, np.ndarray]:
    """(kernel [in, out], bias [out]) of a projection, its factors multiplied."""
    if isinstance(layer, LowRank):
        product = layer.first.kernel.numpy() @ layer.last.kernel.numpy()
        return product, layer.last.bias.numpy()
    return layer.kernel.numpy(), layer.bias.numpy()


def _matching(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> np.ndarray:
    """Which hidden unit of their MLP goes with each of ours: greedily, the most alike
    first. Each side is (kernel, bias) of `expand` and of `contract`."""
    mine, other = (
        np.vstack([expand, contract.T]) for (expand, _), (contract, _) in (ours, theirs)
    )
    alike = mine.T @ other
    order = np.zeros(alike.shape[0], int)
    for _ in range(len(order)):
        unit, partner = np.unravel_index(np.argmax(alike), alike.shape)
        order[unit] = partner
        alike[unit, :] = alike[:, partner] = -np.inf
    return order
