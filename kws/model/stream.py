"""A causal network on more than one clip: how it is trained, and judged, for streams.

A word that is heard in a stream comes after something. A network that has only seen
clips from a cold start loses accuracy there, so it is trained on pairs of clips, one
after the other, and asked for a decision about the end of each: at the first one's up
to a little later, when the next clip has begun; at the second one's from a little
before, so that what it says of a word lasts. Between the two nobody knows what is heard
yet, or still: nothing, or a word of either, and no other.

A causal stem ends its last token at the last frame, so in front of the second clip go
as many frames as bring its tokens to the same places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kws.layers.keras import tf
from kws.recipe import Recipe
from kws.shape import shape_of, token_frames

LATE_TOKENS = 4  # the decision at the first clip's end comes up to 3 tokens late,
EARLY_TOKENS = 4  # and that at the second one's up to 3 tokens early
BATCH = 256


def tokens(network: Any, real: Any, training: Any = False) -> Any:
    """Everything in front of the head: (B, frames, mel_bins) -> (B, tokens, dim)."""
    x = real
    carry: dict[str, Any] = {}
    for layer in network.layers[1:]:
        if layer.name.startswith("block"):
            x, carry = layer(x, carry, training=training)
        elif layer.name != "head":
            x = layer(x, training=training)
    return x


def seam(recipe: Recipe) -> int:
    """Frames between two clips so that the second's tokens lie as in a clip.

    Example:
        >>> from kws import recipe
        >>> seam(recipe.load("kwt-stream-tiny"))
        0
    """
    return -recipe.features.frames % token_frames(recipe)


def paired(network: Any, recipe: Recipe) -> Callable[..., Any]:
    """A function of pairs of clips, one after the other.

    Args:
        network: Causal, in any mode but `export`.
        recipe: Its recipe.

    Returns:
        (first, second, late, early, training): real features (B, frames, mel_bins)
        each; how many tokens after the first's end it is decided (or a list of
        several), and how many before its end the second is; logits (B, labels) for
        each, and those of the second clips: in one tensor.
    """
    between = seam(recipe)
    head = network.get_layer("head")
    window = shape_of(recipe, 2).tokens

    def run(
        first: Any, second: Any, late: Any = 0, early: Any = 0, training: Any = False
    ) -> Any:
        edge = tf.repeat(second[:, :1], between, axis=1)
        x = tokens(network, tf.concat([first, edge, second], 1), training)
        starts = [*(late if isinstance(late, list) else [late])]
        starts.append(x.shape[1] - window - early)
        ends = []
        for start in starts:
            seen = x[:, start : start + window]
            seen.set_shape((None, window, x.shape[-1]))
            ends.append(head(seen, training=training))
        return tf.concat(ends, 0)

    return run


def trained(network: Any, recipe: Recipe) -> Callable[[Any, Any], tuple[Any, Any]]:
    """What stands for the network in a training step.

    Returns:
        (real, step): features (B, frames, mel_bins), and the number of the step, which
        the moments of the decisions are drawn from; logits (B, labels), and those
        between two clips ((B + 1) // 2, labels), or None where the recipe doesn't ask
        for them. The first half of the batch comes before the second; of an odd one the
        last clip is heard twice, and counts once.
    """
    run = paired(network, recipe)
    window = shape_of(recipe, 2).tokens
    asks = recipe.train.between > 0 and window > LATE_TOKENS

    def forward(real: Any, step: Any) -> tuple[Any, Any]:
        size = tf.shape(real)[0]
        half = (size + 1) // 2

        def moment(salt: int, first: int, end: int) -> Any:
            seed = (recipe.train.seed + salt, step)
            return tf.random.stateless_uniform((), seed, first, end, tf.int32)

        late = [moment(0, 0, LATE_TOKENS)]
        if asks:
            late.append(moment(1000, LATE_TOKENS, window))
        early = moment(2000, 0, min(EARLY_TOKENS, window))
        logits = run(real[:half], real[size - half :], late, early, training=True)
        ends = tf.concat(
            [logits[:half], logits[tf.shape(logits)[0] - size + half :]], 0
        )
        return ends, logits[half : 2 * half] if asks else None

    return forward


def predictor(network: Any, recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    """A function of int8 features [N, frames, mel_bins]: float32 logits [2 N, labels].

    Each clip from a cold start, then each after the one before it (the first after the
    last).
    """
    spec, run = recipe.features, paired(network, recipe)

    @tf.function(autograph=False)
    def part(first: Any, second: Any) -> Any:
        real = [
            (tf.cast(clips, tf.float32) - spec.zero_point) * spec.scale
            for clips in (first, second)
        ]
        return run(*real)

    def predict(int8: np.ndarray) -> np.ndarray:
        size = min(BATCH, len(int8))
        # Filled up: another size would be traced anew.
        at = np.concatenate([np.arange(len(int8)), np.arange(-len(int8) % size)])
        cold, warm = [], []
        for start in range(0, len(at), size):
            here = at[start : start + size]
            # The second of a pair is the clip at hand; the first, that before it.
            logits = part(int8[here - 1], int8[here]).numpy()
            cold.append(logits[:size])
            warm.append(logits[size:])
        # Cold: of the clips one before, so put back in their places.
        first = np.roll(np.concatenate(cold)[: len(int8)], -1, axis=0)
        return np.concatenate([first, np.concatenate(warm)[: len(int8)]])

    return predict
