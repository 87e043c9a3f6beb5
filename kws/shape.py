"""The sizes of a recipe's network: what rows there are and how wide they are.

Costs don't follow from here: kws/graph/cost.py counts them on the network's graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kws.errors import KwsError
from kws.recipe import Recipe

SHORTEST_CLIP_S, LONGEST_CLIP_S = 1.0, 3.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Args:
        tokens: Rows, the class token included.
        dim: Width of a token.
        heads: Attention heads.
        head_dim: Width of a head.
        mlp_dim: Hidden width of the MLP.
        mlp_rank: Rank of the MLP's matrices, in two factors each; 0 = full.
        layers: Blocks.
        dense_rows: Rows at the start of every tensor that a delta encoding sends whole.
        labels: Logits.
        fold: Sub-tokens of a token where blocks fold them.
        mlp_fold: And where MLPs do.
    """

    tokens: int
    dim: int
    heads: int
    head_dim: int
    mlp_dim: int
    mlp_rank: int
    layers: int
    dense_rows: int
    labels: int
    fold: int = 1
    mlp_fold: int = 1

    @property
    def sub_tokens(self) -> Shape:
        """The sizes that a folded block's attention has."""
        return replace(
            self,
            tokens=self.tokens * self.fold,
            dim=self.dim // self.fold,
            head_dim=self.head_dim // self.fold,
            dense_rows=self.dense_rows * self.fold,
        )

    def whole_rows(self, rows: int) -> int:
        """Rows at the start of a tensor of `rows` that a delta encoding sends whole."""
        return self.dense_rows * max(1, rows // self.tokens)

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim


def shape_of(recipe: Recipe, labels: int) -> Shape:
    """The sizes of a recipe's network.

    Example:
        >>> from kws import recipe
        >>> shape_of(recipe.load("kwt-1"), labels=12).tokens
        99
    """
    model, features = recipe.model, recipe.features
    if model.stem == "conv":
        tokens = -(-features.frames // model.stem_stride[0])
        if model.stem_second_channels:
            tokens = -(-tokens // 2)
    else:
        tokens = features.frames // model.patch_frames
    return Shape(
        tokens=tokens + model.class_token,
        dim=model.dim,
        heads=model.heads,
        head_dim=model.head_dim,
        mlp_dim=model.mlp_dim,
        mlp_rank=model.mlp_rank,
        layers=model.layers,
        # Row 0 has nothing in front of it; a row behind a class token nothing like it.
        dense_rows=2 if model.class_token else 1,
        labels=labels,
        fold=model.fold,
        mlp_fold=model.mlp_fold,
    )


def token_frames(recipe: Recipe) -> int:
    """Frames from a token to the next.

    Example:
        >>> from kws import recipe
        >>> token_frames(recipe.load("kwt-stream-tiny"))
        2
    """
    model = recipe.model
    if model.stem != "conv":
        return model.patch_frames
    return model.stem_stride[0] * (2 if model.stem_second_channels else 1)


def with_clip_seconds(recipe: Recipe, seconds: float) -> Recipe:
    """The recipe for clips of another length: as many frames as such a clip has.

    Args:
        recipe: The recipe.
        seconds: Length of a clip, 1 to 3 s.

    Returns:
        It with `[task] clip_seconds` and `[features] frames`; of a causal network whole
        tokens.

    Raises:
        KwsError: no such length.

    Example:
        >>> from kws import recipe
        >>> with_clip_seconds(recipe.load("kwt-stream-tiny"), 1.5).features.frames
        74
    """
    check_clip_seconds(seconds)
    task, spec = replace(recipe.task, clip_seconds=seconds), recipe.features
    frames = (task.clip_samples - spec.window) // spec.hop + 1
    if recipe.model.causal:
        frames -= frames % token_frames(recipe)
    return replace(recipe, task=task, features=replace(spec, frames=frames))


def check_clip_seconds(seconds: float) -> None:
    """Raises KwsError where clips can't be so long."""
    if not SHORTEST_CLIP_S <= seconds <= LONGEST_CLIP_S:
        raise KwsError(
            f"Bad [task] clip_seconds. Expected {SHORTEST_CLIP_S:g} to "
            f"{LONGEST_CLIP_S:g}. Received: {seconds:g}",
            "--clip-seconds 1.5",
        )
