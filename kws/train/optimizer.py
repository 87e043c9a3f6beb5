"""What moves the weights: AdamW, or Muon for the matrices between hidden layers.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")
takes of a matrix's momentum the directions alone: all of its singular values become 1,
so that rare directions move as fast as frequent ones. A small network, which never fits
all that it is shown, gets further in the same epochs (docs/results.md).
"""

from __future__ import annotations

import math
from typing import Any

from kws.layers.keras import tf, tf_keras
from kws.model import network as networks
from kws.recipe import Recipe

MOMENTUM = 0.95
# A quintic whose fixed point is near 1 for all singular values, not exact: Jordan's.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Root mean square of an update, so that one learning rate does for both: AdamW's is
# usually 0.2 to 0.4 (Liu et al. 2025, "Muon is scalable for LLM training").
RMS = 0.4
LEAST = 8  # rows and columns: of less there are no directions to speak of


def make(network: Any, recipe: Recipe, learning_rate: float, steps: int) -> Any:
    """The optimizer of one phase, built for a network's weights.

    Args:
        network: In any mode that is trained.
        recipe: Its `train` section is used.
        learning_rate: Peak, after the warm-up.
        steps: Of the whole phase: a linear warm-up, then half a cosine to 0.

    Returns:
        A tf_keras optimizer; kernels alone decay.
    """
    settings = recipe.train
    options = {
        "weight_decay": settings.weight_decay,
        # The legacy optimizers' epsilon lets a parameter that hardly gets a gradient
        # take full steps on noise.
        "epsilon": 1e-7,
        "jit_compile": False,
    }
    schedule = WarmupCosine(learning_rate, settings.warmup, steps)
    if settings.optimizer == "muon":
        optimizer = Muon(schedule, hidden_matrices(network), **options)
    else:
        optimizer = tf_keras.optimizers.AdamW(schedule, **options)
    kernels = networks.kernels(network)
    optimizer.exclude_from_weight_decay(
        var_list=[w for w in network.trainable_weights if id(w) not in kernels]
    )
    optimizer.build(network.trainable_weights)
    return optimizer


def hidden_matrices(network: Any) -> list[Any]:
    """The kernels that are matrices between hidden layers, convolutions' among them.

    Neither those of the labels, nor depthwise ones, nor what has fewer than LEAST rows
    or columns.
    """
    kernels = networks.kernels(network)
    labels = {id(weight) for weight in networks.of_labels(network)}
    found = []
    for weight in network.trainable_weights:
        if id(weight) in kernels and id(weight) not in labels:
            rows, columns = math.prod(weight.shape[:-1]), weight.shape[-1]
            if min(rows, columns) >= LEAST:
                found.append(weight)
    return found


class WarmupCosine(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to the peak, then half a cosine to 0.

    Args:
        peak: The learning rate after the warm-up.
        warmup: Share of all steps.
        steps: All.
    """

    def __init__(self, peak: float, warmup: float, steps: int) -> None:
        self.peak = peak
        self.warmup = max(1.0, warmup * steps)
        self.decay = max(1.0, steps - self.warmup)

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        done = tf.clip_by_value((step - self.warmup) / self.decay, 0.0, 1.0)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * done))
        rising = tf.minimum(1.0, (step + 1.0) / self.warmup)
        return self.peak * rising * cosine


class Muon(tf_keras.optimizers.AdamW):
    """AdamW, but for some variables Muon, with AdamW's first moments as its momentum.

    Args:
        learning_rate: A number or a schedule.
        matrices: The variables that Muon moves, each (..., columns).
        options: AdamW's.
    """

    def __init__(self, learning_rate: Any, matrices: list[Any], **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.matrices = {self._var_key(matrix) for matrix in matrices}

    def update_step(self, gradient: Any, variable: Any) -> None:
        key = self._var_key(variable)
        if key not in self.matrices:
            super().update_step(gradient, variable)
            return
        momentum = self._momentums[self._index_dict[key]]
        momentum.assign(MOMENTUM * momentum + gradient)
        ahead = gradient + MOMENTUM * momentum  # Nesterov's
        flat = tf.reshape(ahead, (-1, variable.shape[-1]))
        rate = tf.cast(self.learning_rate, variable.dtype)
        size = RMS * math.sqrt(max(flat.shape))
        variable.assign_sub(rate * size * tf.reshape(orthogonal(flat), variable.shape))


def orthogonal(matrix: Any) -> Any:
    """Nearly the nearest matrix whose singular values are 1 (some 0.7 to 1.2).

    Example:
        >>> import numpy as np
        >>> values = np.linalg.svd(orthogonal(tf.constant([[3.0, 1.0], [0.0, 2.0]])))[1]
        >>> bool(np.all((values > 0.6) & (values < 1.3)))
        True
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = tf.transpose(matrix) if tall else matrix
    x /= tf.norm(x) + 1e-7
    for _ in range(ITERATIONS):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * square + c * tf.matmul(square, square), x)
    return tf.transpose(x) if tall else x
