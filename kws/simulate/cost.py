"""What one inference costs, counted by one rule per kernel (DESIGN D8).

Multiply-accumulates (MACs), T tokens, d wide, H heads of h, by what was transmitted:

    projections   nnz(X) * 3 H h        every transmitted element times a row of weights
    Q.K^T, pairs  |nz(Q) and nz(K)|     both elements transmitted (the papers' rule)
    Q.K^T, rows   nnz(Q) * T            a transmitted element times K's column: what a
                                        Cortex-M can run
    P.V           nnz(P) * h
    output        nnz(O) * d

Rows that are sent whole count whole. The dense network is the same with everything
transmitted: 4 T d H h + 2 T^2 H h per layer. The whole model adds stem, MLPs and head,
all dense, every row of every layer (that only row 0 of the last layer is read where
there is a class token is not used). The cosine transform is folded into the stem.

Beside them, per inference:

    subtractions, comparisons   one of each per element of every row that is encoded
    additions                   2 T^2 per head, for Q.K^T from pairs: left and upper
                                neighbour
    exponentials                T^2 per head

Bytes touched, int8 values and int32 accumulators, no cache, each operator on its own:
a linear operator of n inputs and m outputs over one row reads n inputs, the m weights
of every transmitted input, and writes m outputs; the state of a delta operator is its n
references (read; written where transmitted) and its m accumulators (read and written).
The right-hand side of Q.K^T and P.V is an activation, not a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kws.errors import KwsError
from kws.recipe import Recipe

# Tensor kinds of D2: inputs, queries, keys, softmax outputs, attention outputs.
KINDS = ("X", "Q", "K", "P", "O")
PRODUCTS = ("qkv", "scores", "mix", "out")


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
    labels: int

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    def dense_macs(self) -> dict[str, int]:
        """MACs of one layer's MHSA, dense, by product.

        Example:
            >>> sum(kwt_1.dense_macs().values())  # doctest: +SKIP
            2876544
        """
        return {
            "qkv": 3 * self.tokens * self.dim * self.inner,
            "scores": self.tokens**2 * self.inner,
            "mix": self.tokens**2 * self.inner,
            "out": self.tokens * self.inner * self.dim,
        }

    @property
    def mlp_macs(self) -> int:
        """MACs of one layer's MLP."""
        matrix = self.dim * self.mlp_dim
        if self.mlp_rank:
            matrix = (self.dim + self.mlp_dim) * self.mlp_rank
        return 2 * self.tokens * matrix

    @property
    def mhsa_macs(self) -> int:
        """MACs of MHSA in all layers, dense."""
        return self.layers * sum(self.dense_macs().values())

    @property
    def other_macs(self) -> int:
        """MACs of everything that is not MHSA."""
        return self.stem_macs + self.layers * self.mlp_macs + self.dim * self.labels

    @property
    def macs(self) -> int:
        """MACs of the whole model, dense."""
        return self.mhsa_macs + self.other_macs

    def columns(self, kind: str) -> int:
        """Width of one layer's tensor of a kind, all heads together."""
        return {"X": self.dim, "P": self.heads * self.tokens}.get(kind, self.inner)


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
        stem = rows * bins * taps + rows * bins * model.stem_channels * model.dim
    else:
        rows = features.frames // model.patch_frames
        stem = rows * model.patch_frames * features.mel_bins * model.dim
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
    """MACs, int64 [N, layers], of qkv, scores (pairs), scores_rows, mix and out."""
    sent = counts.sent
    return {
        "qkv": sent["X"] * 3 * shape.inner,
        "scores": counts.pairs,
        "scores_rows": sent["Q"] * shape.tokens,
        "mix": sent["P"] * shape.head_dim,
        "out": sent["O"] * shape.dim,
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


def traffic(shape: Shape, counts: Counts) -> dict[str, np.ndarray]:
    """Bytes touched by MHSA, int64 [N]: weights, activations, state.

    Q.K^T is counted by rows: what a Cortex-M runs.
    """
    tokens, inner = shape.tokens, shape.inner
    # kind of the left side -> (inputs per row, outputs per row, bytes read per
    # transmitted element, whether those are weights)
    linear = {
        "X": (shape.dim, 3 * inner, 3 * inner, True),
        "Q": (inner, shape.heads * tokens, tokens, False),
        "P": (shape.heads * tokens, inner, shape.head_dim, False),
        "O": (inner, shape.dim, shape.dim, True),
    }
    clips = len(counts.pairs)
    weights = np.zeros(clips, np.int64)
    activations = np.zeros(clips, np.int64)
    state = np.zeros(clips, np.int64)
    for layer in range(shape.layers):
        for kind, (inputs, outputs, per_element, is_weights) in linear.items():
            sent = counts.sent[kind][:, layer]
            (weights if is_weights else activations)[:] += sent * per_element
            activations += tokens * (inputs + outputs)
            if kind in counts.encoded[layer]:
                state += tokens * (inputs + 8 * outputs) + sent
    return {"weights": weights, "activations": activations, "state": state}


def summary(shape: Shape, counts: Counts) -> dict[str, object]:
    """Everything counted, for JSON: means over clips and 95th percentiles.

    Returns:
        mhsa_mac_cut and mac_cut (0..1, mean, Q.K^T by pairs), the same by rows,
        cut by product, macs of MHSA and of the whole model with percentile, overhead,
        bytes.
    """
    spent = macs(shape, counts)
    dense = shape.dense_macs()
    table: dict[str, object] = {}
    for suffix, scores in (("", "scores"), ("_rows", "scores_rows")):
        names = ("qkv", scores, "mix", "out")
        mhsa = np.sum([spent[name] for name in names], axis=0).sum(axis=1)
        whole = mhsa + shape.other_macs
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
            sum(dense.values()),
        )
        for layer in range(shape.layers)
    ]
    table["sent"] = {
        kind: float(counts.sent[kind].mean() / (shape.tokens * shape.columns(kind)))
        for kind in KINDS
    }
    table |= overhead(shape, counts)
    for name, bytes_ in traffic(shape, counts).items():
        table[f"mhsa_bytes_{name}"] = _spread(bytes_)
    return table


def _cut(spent: np.ndarray, dense: int) -> float:
    return float(1.0 - spent.mean() / dense)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "p95": float(np.percentile(values, 95)),
    }
