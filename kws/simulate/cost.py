"""What one inference costs, counted by one rule per kernel (DESIGN D8).

Multiply-accumulates (MACs), T tokens, d wide, H heads of h, by what was transmitted:

    projections   nnz(X) * 3 H h        every transmitted element times a row of weights
    Q.K^T, pairs  |nz(Q) and nz(K)|     both elements transmitted (the papers' rule)
    Q.K^T, rows   nnz(Q) * T            a transmitted element times K's column: what a
                                        Cortex-M can run
    P.V           nnz(P) * h
    output        nnz(O) * d
    MLP, in       nnz(M) * m            m: its hidden width
    MLP, out      nnz(H) * d

Rows that are sent whole count whole. The dense network is the same with everything
transmitted: 4 T d H h + 2 T^2 H h per layer for MHSA (the first five; what papers
report), 2 T d m for the MLP. The whole model adds stem and head, dense, and has every
row of every layer (that only row 0 of the last layer is read where there is a class
token is not used). The cosine transform is folded into the stem. Of an MLP's matrix in
two factors of rank r, what is transmitted meets the first (r instead of m or d); the
second is dense.

Beside them, per inference:

    subtractions, comparisons   one of each per element of every row that is encoded
    additions                   2 T^2 per head, for Q.K^T from pairs: left and upper
                                neighbour
    exponentials                T^2 per head

Bytes touched by the products above, int8 values and int32 accumulators, no cache, each
operator on its own: one of n inputs and m outputs over one row reads n inputs, the m
weights of every transmitted input, and writes m outputs; the state of a delta operator
is its n references (read; written where transmitted) and its m accumulators (read and
written). The right-hand side of Q.K^T and P.V is an activation, not a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kws.errors import KwsError
from kws.recipe import Recipe

# Tensor kinds of D2: inputs, queries, keys, softmax outputs, attention outputs; and the
# MLP's: its inputs and its hidden layer.
ATTENTION_KINDS = ("X", "Q", "K", "P", "O")
MLP_KINDS = ("M", "H")
KINDS = ATTENTION_KINDS + MLP_KINDS
PRODUCTS = ("qkv", "scores", "mix", "out")
MLP_PRODUCTS = ("expand", "contract")


@dataclass(frozen=True)
class Shape:
    """The sizes that costs follow from.

    Args:
        tokens: Rows, the class token included.
        dim: Width of a token.
        heads: Attention heads.
        head_dim: Width of a head.
        mlp_dim: Hidden width of the MLP.
        mlp_rank: Rank of the MLP's matrices, in two factors each; 0 = full.
        layers: Blocks.
        dense_rows: Rows at the start of every tensor that are sent whole.
        stem_macs: MACs before the first block, the cosine transform folded in.
        stem_bytes: Activations that the stem's products read and write.
        labels: Logits.
    """

    tokens: int
    dim: int
    heads: int
    head_dim: int
    mlp_dim: int
    mlp_rank: int
    layers: int
    dense_rows: int
    stem_macs: int
    stem_bytes: int
    labels: int

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    def dense_macs(self) -> dict[str, int]:
        """MACs of one layer's MHSA, dense, by product.

        Example:
            >>> from kws import recipe
            >>> kwt_1 = shape_of(recipe.load("kwt-1"), labels=12)
            >>> sum(kwt_1.dense_macs().values())
            2876544
        """
        return {
            "qkv": 3 * self.tokens * self.dim * self.inner,
            "scores": self.tokens**2 * self.inner,
            "mix": self.tokens**2 * self.inner,
            "out": self.tokens * self.inner * self.dim,
        }

    def dense_mlp_macs(self) -> dict[str, int]:
        """MACs of one layer's MLP, dense, by product."""
        matrix = self.dim * self.mlp_dim
        if self.mlp_rank:
            matrix = (self.dim + self.mlp_dim) * self.mlp_rank
        return dict.fromkeys(MLP_PRODUCTS, self.tokens * matrix)

    @property
    def mlp_macs(self) -> int:
        """MACs of one layer's MLP."""
        return sum(self.dense_mlp_macs().values())

    @property
    def mhsa_macs(self) -> int:
        """MACs of MHSA in all layers, dense."""
        return self.layers * sum(self.dense_macs().values())

    @property
    def fixed_macs(self) -> int:
        """MACs of stem and head, which no threshold applies to."""
        return self.stem_macs + self.dim * self.labels

    @property
    def other_macs(self) -> int:
        """MACs of everything that is not MHSA, dense."""
        return self.fixed_macs + self.layers * self.mlp_macs

    @property
    def macs(self) -> int:
        """MACs of the whole model, dense."""
        return self.mhsa_macs + self.other_macs

    def columns(self, kind: str) -> int:
        """Width of one layer's tensor of a kind, all heads together."""
        widths = {"X": self.dim, "P": self.heads * self.tokens}
        widths |= {"M": self.dim, "H": self.mlp_dim}
        return widths.get(kind, self.inner)


def shape_of(recipe: Recipe, labels: int) -> Shape:
    """The sizes of a recipe's network.

    Raises:
        KwsError: an attention variant that is not softmax attention.
    """
    model, features = recipe.model, recipe.features
    if model.attention != "softmax":
        raise KwsError(
            "Delta thresholds are simulated for softmax attention only. "
            f"Received: attention={model.attention!r}",
            "kws train --preset kwt-tiny",
        )
    if model.stem == "conv":
        rows = -(-features.frames // model.stem_stride[0])
        bins = -(-features.mel_bins // model.stem_stride[1])
        taps = 25 * model.stem_channels
        pixels, width = rows * bins, model.stem_channels
        stem, stem_bytes = pixels * taps, pixels * (25 + width)
        if model.stem_second_channels:
            rows, bins = -(-rows // 2), -(-bins // 2)
            pixels, taps = rows * bins, 9 * width
            width = model.stem_second_channels
            stem += pixels * taps * width
            stem_bytes += pixels * (taps + width)
        stem += pixels * width * model.dim
        stem_bytes += pixels * width + rows * model.dim
    else:
        rows = features.frames // model.patch_frames
        patch = model.patch_frames * features.mel_bins
        stem = rows * patch * model.dim
        stem_bytes = rows * (patch + model.dim)
    return Shape(
        tokens=rows + model.class_token,
        dim=model.dim,
        heads=model.heads,
        head_dim=model.head_dim,
        mlp_dim=model.mlp_dim,
        mlp_rank=model.mlp_rank,
        layers=model.layers,
        # Row 0 has nothing in front of it; a row behind a class token nothing like it.
        dense_rows=2 if model.class_token else 1,
        stem_macs=stem,
        stem_bytes=stem_bytes,
        labels=labels,
    )


@dataclass
class Counts:
    """What was transmitted, per clip and layer; filled by the simulator.

    Args:
        sent: Kind -> int64 [N, layers], elements.
        pairs: int64 [N, layers], products of Q.K^T with both elements transmitted.
        encoded: Kinds that are delta-encoded, per layer; the others run dense.
    """

    sent: dict[str, np.ndarray]
    pairs: np.ndarray
    encoded: tuple[frozenset[str], ...] = field(default_factory=tuple)


def macs(shape: Shape, counts: Counts) -> dict[str, np.ndarray]:
    """MACs, int64 [N, layers]: qkv, scores (pairs), scores_rows, mix, out, expand and
    contract."""
    sent, rank = counts.sent, shape.mlp_rank
    second = shape.tokens * rank  # transmitted to an MLP's second factor, if any
    return {
        "qkv": sent["X"] * 3 * shape.inner,
        "scores": counts.pairs,
        "scores_rows": sent["Q"] * shape.tokens,
        "mix": sent["P"] * shape.head_dim,
        "out": sent["O"] * shape.dim,
        "expand": sent["M"] * (rank or shape.mlp_dim) + second * shape.mlp_dim,
        "contract": sent["H"] * (rank or shape.dim) + second * shape.dim,
    }


def overhead(shape: Shape, counts: Counts) -> dict[str, int]:
    """Operations of one inference beside the MACs; the same for every clip."""
    elements = sum(
        (shape.tokens - shape.dense_rows) * shape.columns(kind)
        for kinds in counts.encoded
        for kind in kinds
    )
    squares = shape.heads * shape.tokens**2
    pairs = sum("Q" in kinds and "K" in kinds for kinds in counts.encoded)
    return {
        "subtractions": elements,
        "comparisons": elements,
        "additions": 2 * squares * pairs,
        "exponentials": squares * shape.layers,
    }


def traffic(
    shape: Shape, counts: Counts, kinds: tuple[str, ...] = ATTENTION_KINDS
) -> dict[str, np.ndarray]:
    """Bytes touched, int64 [N]: weights, activations, state.

    Args:
        shape: The network's sizes.
        counts: What was transmitted.
        kinds: MHSA alone; with `KINDS` the whole model. Q.K^T is counted by rows: what
            a Cortex-M runs.
    """
    tokens, inner, rank = shape.tokens, shape.inner, shape.mlp_rank
    # kind of the left side -> (inputs per row, outputs per row, bytes read per
    # transmitted element, whether those are weights)
    linear = {
        "X": (shape.dim, 3 * inner, 3 * inner, True),
        "Q": (inner, shape.heads * tokens, tokens, False),
        "P": (shape.heads * tokens, inner, shape.head_dim, False),
        "O": (inner, shape.dim, shape.dim, True),
        "M": (shape.dim, rank or shape.mlp_dim, rank or shape.mlp_dim, True),
        "H": (shape.mlp_dim, rank or shape.dim, rank or shape.dim, True),
    }
    clips = len(counts.pairs)
    weights = np.zeros(clips, np.int64)
    activations = np.zeros(clips, np.int64)
    state = np.zeros(clips, np.int64)
    for layer in range(shape.layers):
        for kind in linear.keys() & set(kinds):
            inputs, outputs, per_element, is_weights = linear[kind]
            sent = counts.sent[kind][:, layer]
            (weights if is_weights else activations)[:] += sent * per_element
            activations += tokens * (inputs + outputs)
            if kind in counts.encoded[layer]:
                state += tokens * (inputs + 8 * outputs) + sent
    if kinds == KINDS:
        both = shape.dim + shape.mlp_dim
        weights += shape.fixed_macs + shape.layers * tokens * rank * both
        activations += shape.stem_bytes + shape.dim + shape.labels
        if rank:
            activations += shape.layers * tokens * (2 * rank + both)
    return {"weights": weights, "activations": activations, "state": state}


def summary(shape: Shape, counts: Counts) -> dict[str, object]:
    """Everything counted, for JSON: means over clips and 95th percentiles.

    Returns:
        mhsa_mac_cut and mac_cut (0..1, mean, Q.K^T by pairs), the same by rows,
        cut by product, macs of MHSA and of the whole model with percentile, overhead,
        bytes of both.
    """
    spent = macs(shape, counts)
    dense = shape.dense_macs() | shape.dense_mlp_macs()
    rest = shape.fixed_macs + np.sum(
        [spent[name] for name in MLP_PRODUCTS], axis=0
    ).sum(axis=1)
    table: dict[str, object] = {}
    for suffix, scores in (("", "scores"), ("_rows", "scores_rows")):
        names = ("qkv", scores, "mix", "out")
        mhsa = np.sum([spent[name] for name in names], axis=0).sum(axis=1)
        whole = mhsa + rest
        table[f"mhsa_mac_cut{suffix}"] = _cut(mhsa, shape.mhsa_macs)
        table[f"mac_cut{suffix}"] = _cut(whole, shape.macs)
        table[f"mhsa_macs{suffix}"] = _spread(mhsa)
        table[f"macs{suffix}"] = _spread(whole)
    table["mhsa_macs_dense"] = shape.mhsa_macs
    table["macs_dense"] = shape.macs
    table["cut"] = {
        name: _cut(spent[name].sum(axis=1), shape.layers * dense[name.split("_")[0]])
        for name in spent
    }
    table["layer_cut"] = [
        _cut(
            np.sum([spent[name][:, layer] for name in PRODUCTS], axis=0),
            sum(shape.dense_macs().values()),
        )
        for layer in range(shape.layers)
    ]
    table["sent"] = {
        kind: float(counts.sent[kind].mean() / (shape.tokens * shape.columns(kind)))
        for kind in KINDS
    }
    table |= overhead(shape, counts)
    for prefix, kinds in (("mhsa_bytes", ATTENTION_KINDS), ("bytes", KINDS)):
        for name, bytes_ in traffic(shape, counts, kinds).items():
            table[f"{prefix}_{name}"] = _spread(bytes_)
    return table


def _cut(spent: np.ndarray, dense: int) -> float:
    return float(1.0 - spent.mean() / dense)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "p95": float(np.percentile(values, 95)),
    }
