"""Build the Keyword Transformer of a recipe; fold a trained one for the board."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kws import attention, layers
from kws import bundle as bundles
from kws.bundle import Bundle
from kws.errors import KwsError, quoted
from kws.layers import (
    UNIT_RANGE,
    Activation,
    Convolution,
    Dense,
    KwsLayer,
    Norm,
    Quantizer,
    SubTokens,
    TokenConvolution,
    pass_on,
    quantized_constant,
)
from kws.layers.keras import tf, tf_keras
from kws.model import baselines, lowrank
from kws.model.check import check
from kws.recipe import TRANSFORMER, Features, Model, Recipe


class PatchStem(KwsLayer):
    """Dense layer over patches of `patch_frames` frames, of their cepstra if asked.

    The DCT is linear, so `folded` modes have it inside the dense layer's kernel:
    log-mel features go in, no cosine transform at run time (DESIGN D7).

    Shapes: (B, frames, mel) -> (B, frames // patch_frames, dim).
    """

    def __init__(self, mode: str, name: str, model: Model, mel_bins: int) -> None:
        super().__init__(mode, name)
        self.frames = model.patch_frames
        self.dct: np.ndarray | None = None
        if model.cepstra:
            self.dct = dct_matrix(mel_bins, model.cepstra)
        self.embed = Dense(mode, "embed", model.dim)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs
        if self.mode == "float" and self.dct is not None:
            x = tf.matmul(x, tf.constant(self.dct))
        if self.frames > 1:
            tokens = x.shape[1] // self.frames
            if x.shape[1] % self.frames:
                x = x[:, : tokens * self.frames]
            rows = 1 if self.mode == "export" else -1
            x = tf.reshape(x, (rows, tokens, self.frames * x.shape[2]))
        return self.outputs_range(self.embed(x), training=training)

    def fold(self, source: PatchStem) -> None:
        kernel, bias = (weight.numpy() for weight in source.embed.weights)
        if source.dct is not None:
            parts = np.split(kernel, self.frames)
            kernel = np.concatenate([source.dct @ part for part in parts])
        self.embed.set_weights([kernel, bias])


class ConvStem(KwsLayer):
    """5x5 convolution, batch norm, ReLU, then a dense layer over all bins and filters.

    Where the recipe asks for it, a second convolution in between: 3x3, stride 2 both
    ways, batch norm, ReLU. It halves the tokens. A causal one ends its last token at
    the last frame.

    Shapes: (B, frames, mel) -> (B, ceil(frames / stride), dim).
    """

    def __init__(self, mode: str, name: str, model: Model) -> None:
        super().__init__(mode, name)
        strides = (model.stem_stride[0], model.stem_stride[1])
        self.convolution = Convolution(
            mode,
            "conv",
            model.stem_channels,
            strides,
            use_bias=mode != "float",
            causal=model.causal,
        )
        self.norm = layers.BatchNorm(mode, "norm", folded=True)
        self.activation = Activation(mode, "activation", "relu")
        self.second: Convolution | None = None
        if model.stem_second_channels:
            self.second = Convolution(
                mode,
                "conv2",
                model.stem_second_channels,
                (2, 2),
                mode != "float",
                3,
                model.causal,
            )
            self.norm2 = layers.BatchNorm(mode, "norm2", folded=True)
            self.activation2 = Activation(mode, "activation2", "relu")
        self.embed = Dense(mode, "embed", model.dim)
        self.outputs_range = Quantizer(mode, "outputs")

    def call(self, inputs: Any, training: Any = False) -> Any:
        rows = 1 if self.mode == "export" else -1
        frames, bins = inputs.shape[1:]
        x = self.convolution(tf.reshape(inputs, (rows, frames, bins, 1)))
        x = self.activation(self.norm(x, training=training), training=training)
        if self.second is not None:
            x = self.norm2(self.second(x), training=training)
            x = self.activation2(x, training=training)
        x = tf.reshape(x, (rows, x.shape[1], x.shape[2] * x.shape[3]))
        return self.outputs_range(self.embed(x), training=training)

    def fold(self, source: ConvStem) -> None:
        scale, shift = source.norm.fold_terms()
        self.convolution.set_weights([source.convolution.kernel.numpy() * scale, shift])
        if self.second is not None and source.second is not None:
            scale, shift = source.norm2.fold_terms()
            kernel = source.second.kernel.numpy()
            self.second.set_weights([kernel * scale, shift])
        self.embed.set_weights(source.embed.get_weights())


class Tokens(KwsLayer):
    """Put the class token in front and add the position table, where asked for.

    In the folded modes the class token is a row of zeros, and the position table's
    first row is token + position.

    Shapes: (B, T, dim) -> (B, T or T + 1, dim).
    """

    def __init__(self, mode: str, name: str, model: Model) -> None:
        super().__init__(mode, name)
        self.class_token = model.class_token
        # A token without positions still needs the table's row 0 once it is folded.
        self.has_table = model.positions or (mode != "float" and model.class_token)
        self.outputs_range = Quantizer(mode, "outputs")

    def build(self, input_shape: Any) -> None:
        _, tokens, dim = input_shape

        def normal() -> Any:
            return tf_keras.initializers.RandomNormal(stddev=0.02)

        if self.class_token:
            tokens += 1
            if self.mode == "float":
                self.token = self.add_weight(
                    name="token", shape=(1, 1, dim), initializer=normal()
                )
        if self.has_table:
            self.table = self.add_weight(
                name="positions", shape=(1, tokens, dim), initializer=normal()
            )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs
        if self.class_token and self.mode == "float":
            token = tf.tile(self.token, (tf.shape(x)[0], 1, 1))
            x = tf.concat([token, x], axis=1)
        elif self.class_token:
            x = tf.pad(x, ((0, 0), (1, 0), (0, 0)))
        if self.has_table:
            x = self.outputs_range(
                x + quantized_constant(self, self.table), training=training
            )
        return x

    def fold(self, source: Tokens) -> None:
        if not self.has_table:
            return
        table = source.table.numpy() if source.has_table else np.zeros(self.table.shape)
        if self.class_token:
            table = table.copy()
            table[:, 0] += source.token.numpy()[:, 0]
        self.table.assign(table)


class Dropout(KwsLayer):
    """Dropout whose choice depends on how often it was called, and on nothing else.

    Keras's draws from a global generator, which a resumed run can't put back.

    Args:
        rate: Share of elements dropped.
    """

    def __init__(self, mode: str, name: str, rate: float) -> None:
        super().__init__(mode, name)
        self.rate = rate

    def build(self, input_shape: Any) -> None:
        self.calls = self.add_weight(
            name="calls",
            shape=(),
            dtype=tf.int32,
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.salt = zlib.crc32(self.calls.name.encode()) & 0x7FFFFFFF
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        if not training:
            return inputs
        self.calls.assign_add(1)
        seed = tf.stack([self.salt, self.calls])
        kept = tf.random.stateless_uniform(tf.shape(inputs), seed) >= self.rate
        return tf.where(kept, inputs / (1.0 - self.rate), tf.zeros_like(inputs))


class TokenMix(KwsLayer):
    """x + a causal depthwise convolution of norm(x) over tokens.

    What lies before the first token is 0, in front of the norm: so a stream that
    begins is a clip.

    Shapes: (B, T, dim) -> (B, T, dim).
    """

    def __init__(self, mode: str, name: str, model: Model) -> None:
        super().__init__(mode, name)
        self.norm = layers.NORMS[model.norm](mode, "norm", folded=True)
        self.convolution = TokenConvolution(mode, "conv", model.dim, model.token_kernel)
        self.outputs_range = Quantizer(mode, "outputs")
        self.residual = Quantizer(mode, "residual")

    def call(self, inputs: Any, training: Any = False) -> Any:
        past = self.convolution.size - 1
        x = tf.pad(inputs, ((0, 0), (past, 0), (0, 0)))
        y = self.convolution(self.norm(x, training=training))
        y = self.outputs_range(y, training=training)
        return self.residual(inputs + y, training=training)

    def fold(self, source: TokenMix) -> None:
        gamma, shift = source.norm.fold_terms()
        kernel = source.convolution.kernel.numpy()
        bias = source.convolution.bias.numpy()
        self.convolution.kernel.assign(kernel * gamma)
        self.convolution.bias.assign(bias + shift * kernel.sum(axis=(0, 1)))
        fold_norm(self.norm, source.norm)


class Block(KwsLayer):
    """One Transformer block: attention and MLP, each with a norm and a residual.

    Pre-norm: x + f(norm(x)). Post-norm: norm(x + f(x)). Where the recipe asks for it, a
    convolution over tokens comes first.

    Args:
        variant: Of the attention (kws/attention), or `none`.
        hands_on: Names of what the blocks behind it take.

    Shapes: (B, T, dim) -> (B, T, dim). Takes what the blocks before it carry, and hands
    it on with what its attention adds: a dict of tensors, empty in most networks.
    """

    def __init__(
        self,
        mode: str,
        name: str,
        model: Model,
        variant: str,
        hands_on: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(mode, name)
        self.hands_on = hands_on
        self.pre = model.norm_position == "pre"
        make_norm = layers.NORMS[model.norm]
        self.mix: TokenMix | None = None
        if model.token_kernel:
            self.mix = TokenMix(mode, "mix", model)
        self.attention: Any = None
        if variant != attention.NONE:
            self.norm1 = make_norm(mode, "norm1", folded=self.pre)
            self.attention = attention.layer(variant)(mode, "attention", model)
            self.residual1 = Quantizer(mode, "residual1")
        self.norm2 = make_norm(mode, "norm2", folded=self.pre)
        fold, rank = model.mlp_fold, model.mlp_rank
        self.mlp_view: SubTokens | None = None
        if fold > 1:
            self.mlp_view = SubTokens(mode, "mlp_view", fold, model.fold_offset)
        self.expand = lowrank.projection(mode, "expand", model.mlp_dim // fold, rank)
        self.activation = Activation(mode, "activation", model.activation)
        self.contract = lowrank.projection(mode, "contract", model.dim // fold, rank)
        self.contract_range = Quantizer(mode, "contract_range")
        self.residual2 = Quantizer(mode, "residual2")
        self.dropout: Dropout | None = None
        if mode == "float" and model.dropout > 0:
            self.dropout = Dropout(mode, "dropout", model.dropout)

    def call(self, inputs: Any, carry: Any, training: Any = False) -> Any:
        x = inputs if self.mix is None else self.mix(inputs, training=training)
        if self.attention is not None:
            y = x
            if self.attention.view is not None:
                y = self.attention.view(y, training=training)
            if self.pre:
                y = self.norm1(y, training=training)
            y, carry = self.attention(y, carry, training=training)
            x = self.residual1(x + self.drop(y, training), training=training)
            if not self.pre:
                x = self.norm1(x, training=training)
        y = x if self.mlp_view is None else self.mlp_view(x, training=training)
        if self.pre:
            y = self.norm2(y, training=training)
        # The MLP's tensors are delta-encoded like the attention's, by the same rule.
        hold = pass_on if self.attention is None else self.attention.hold
        y = self.expand(hold("M", y), training=training)
        y = hold("H", self.activation(y, training=training))
        y = self.contract(y, training=training)
        y = self.contract_range(y, training=training)
        if self.mlp_view is not None:
            y = self.mlp_view.whole(y)
        x = self.residual2(x + self.drop(y, training), training=training)
        carry = {
            name: tensor
            for name, tensor in carry.items()
            if name.partition(".")[0] in self.hands_on
        }
        return x if self.pre else self.norm2(x, training=training), carry

    def modules(self) -> dict[str, tuple[Norm, list[KwsLayer]]]:
        """What may be shared as one: name -> (norm, layers with kernels)."""
        found = {"mlp": (self.norm2, [self.expand, self.contract])}
        if self.attention is not None:
            found["attention"] = (self.norm1, [self.attention])
        if self.mix is not None:
            found["mix"] = (self.mix.norm, [self.mix.convolution])
        return found

    def drop(self, x: Any, training: Any) -> Any:
        return x if self.dropout is None else self.dropout(x, training=training)

    def fold(self, source: Block) -> None:
        if self.mix is not None and source.mix is not None:
            self.mix.fold(source.mix)
        if self.attention is not None:
            self.attention.fold(source.attention, source.norm1 if self.pre else None)
            if self.attention.view is not None:
                self.attention.view.fold(source.attention.view)
            fold_norm(self.norm1, source.norm1)
        self.expand.fold(source.expand, source.norm2 if self.pre else None)
        self.contract.fold(source.contract, None)
        if self.mlp_view is not None and source.mlp_view is not None:
            self.mlp_view.fold(source.mlp_view)
        fold_norm(self.norm2, source.norm2)


class Head(KwsLayer):
    """Pool (class token or mean over tokens) and the dense layer of the logits.

    Shapes: (B, T, dim) -> (B, labels).
    """

    def __init__(self, mode: str, name: str, model: Model, labels: int) -> None:
        super().__init__(mode, name)
        self.class_token = model.class_token
        self.norm: Norm | None = None
        if model.norm_position == "pre":
            self.norm = layers.NORMS[model.norm](mode, "norm", folded=True)
        self.pooled = Quantizer(mode, "pooled")
        self.dense = Dense(mode, "logits", labels)
        self.logits_range = Quantizer(mode, "logits_range")

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = inputs if self.norm is None else self.norm(inputs, training=training)
        if self.class_token:
            x = x[:, 0]
        else:
            x = self.pooled(tf.reduce_mean(x, axis=1), training=training)
        return self.logits_range(self.dense(x), training=training)

    def fold(self, source: Head) -> None:
        self.dense.fold(source.dense, source.norm)
        if self.norm is not None and source.norm is not None:
            fold_norm(self.norm, source.norm)


class PoolHead(KwsLayer):
    """Attention of learned queries over the tokens, a small MLP; beside it the mean of
    linear logits.

    Each query takes a softmax over the tokens and the mean of them that it weighs. What
    is computed for each token (scores, linear logits) is computed once in a stream; the
    rest is small.

    Shapes: (B, T, dim) -> (B, labels).
    """

    def __init__(self, mode: str, name: str, model: Model, labels: int) -> None:
        super().__init__(mode, name)
        self.norm = layers.NORMS[model.norm](mode, "norm", folded=True)
        # A bias would add the same to all tokens, which softmax takes out again.
        self.scores = Dense(mode, "scores", model.queries, use_bias=False)
        self.scores_range = Quantizer(mode, "scores_range")
        self.shares_range = Quantizer(mode, "shares", fixed=UNIT_RANGE)
        self.pooled = Quantizer(mode, "pooled")
        self.expand = Dense(mode, "expand", model.readout_dim)
        self.activation = Activation(mode, "activation", "relu")
        self.dense = Dense(mode, "logits", labels)
        self.dense_range = Quantizer(mode, "dense_range")
        self.linear = Dense(mode, "linear", labels)
        self.linear_range = Quantizer(mode, "linear_range")
        self.mean_range = Quantizer(mode, "mean_range")
        self.logits_range = Quantizer(mode, "logits_range")

    def call(self, inputs: Any, training: Any = False) -> Any:
        rows = 1 if self.mode == "export" else -1
        x = self.norm(inputs, training=training)
        scores = self.scores_range(self.scores(x), training=training)
        shares = tf.nn.softmax(tf.transpose(scores, (0, 2, 1)))
        shares = self.shares_range(shares, training=training)
        pooled = self.pooled(tf.matmul(shares, x), training=training)
        pooled = tf.reshape(pooled, (rows, pooled.shape[1] * pooled.shape[2]))
        y = self.activation(self.expand(pooled), training=training)
        y = self.dense_range(self.dense(y), training=training)
        linear = self.linear_range(self.linear(x), training=training)
        mean = self.mean_range(tf.reduce_mean(linear, axis=1), training=training)
        return self.logits_range(y + mean, training=training)

    def fold(self, source: PoolHead) -> None:
        gamma, shift = source.norm.fold_terms()
        self.scores.kernel.assign(source.scores.kernel.numpy() * gamma[:, None])
        queries = source.scores.units
        kernel, bias = source.expand.kernel.numpy(), source.expand.bias.numpy()
        # A query's shares add up to 1, so that its mean of the shift is the shift.
        bias = bias + np.tile(shift, queries) @ kernel
        self.expand.kernel.assign(kernel * np.tile(gamma, queries)[:, None])
        self.expand.bias.assign(bias)
        self.linear.fold(source.linear, source.norm)
        self.dense.fold(source.dense, None)
        fold_norm(self.norm, source.norm)


def fold_norm(mine: Norm, theirs: Norm) -> None:
    """Load what a norm keeps after folding."""
    if mine.affine:
        gamma, beta = theirs.fold_terms()
        mine.gamma.assign(gamma)
        mine.beta.assign(beta)
    if isinstance(mine, layers.DyT) and isinstance(theirs, layers.DyT):
        mine.alpha.assign(theirs.alpha)


def build(recipe: Recipe, labels: int, mode: str = "float") -> Any:
    """Build the network of a recipe: a transformer, or what it is held against.

    Args:
        recipe: Its `model` and `features` sections are used.
        labels: Number of logits.
        mode: `float`, `folded`, `qat` or `export` (kws/layers). Mode
            `export` must be filled by `copy_weights` before it is called.

    Returns:
        A tf_keras.Model: float32 (B, frames, mel_bins), the real-valued log-mel
        features, to float32 (B, labels) logits. Mode `export`: B = 1.

    Raises:
        KwsError: a shape that can't be built.
    """
    check(recipe)
    model, features = recipe.model, recipe.features
    inputs = tf_keras.Input(
        (features.frames, features.mel_bins),
        batch_size=1 if mode == "export" else None,
        name="features",
    )
    x = Quantizer(mode, "inputs_range", fixed=feature_range(features))(inputs)
    if model.family != TRANSFORMER:
        if model.cepstra:
            dct = dct_matrix(features.mel_bins, model.cepstra)
            x = baselines.Cepstra(mode, "cepstra", dct)(x)
        x = baselines.body(mode, model, x)
        x = Head(mode, "head", baselines.head_model(model), labels)(x)
        return tf_keras.Model(inputs, x, name=model.family)
    if model.stem == "conv":
        x = ConvStem(mode, "stem", model)(x)
    else:
        x = PatchStem(mode, "stem", model, features.mel_bins)(x)
    if model.class_token or model.positions:
        x = Tokens(mode, "tokens", model)(x)
    blocks = [
        Block(mode, f"block{index}", model, variant, hands_on)
        for index, (variant, hands_on) in enumerate(
            zip(model.variants, attention.carried(model.variants), strict=True)
        )
    ]
    lowrank.tie(blocks, model)
    carry: Any = {}
    for block in blocks:
        x, carry = block(x, carry)
    head = PoolHead if model.readout == "pool" else Head
    logits = head(mode, "head", model, labels)(x)
    return tf_keras.Model(inputs, logits, name="kwt")


def fold(source: Any, recipe: Recipe, labels: int, mode: str = "folded") -> Any:
    """A network in mode `folded` or `qat` that computes what `source` computes.

    Args:
        source: A network in mode `float`.

    Returns:
        The new network; its activation ranges still have to be calibrated.
    """
    target = build(recipe, labels, mode)
    for layer in target.layers:
        if hasattr(layer, "fold"):
            layer.fold(source.get_layer(layer.name))
    return target


def copy_weights(source: Any, target: Any) -> None:
    """Copy all variables between networks of modes folded, qat and export."""
    for mine, theirs in zip(target.weights, source.weights, strict=True):
        mine.assign(theirs)


def begin_from(source: Bundle, recipe: Recipe, labels: tuple[str, ...]) -> Any:
    """A network of a recipe that begins with another's weights.

    What it knows of labels that the source has too it keeps; of the others it begins
    anew. Where its MLPs are narrower, they keep the hidden units that matter most.

    Args:
        source: With Keras weights, of an equal `[model]` but for mlp_dim
            (`check_beginning`).
        recipe: The new network's.
        labels: The new network's, in logit order.

    Returns:
        A network in mode `folded`; its activation ranges still have to be calibrated.
    """
    network, theirs = build(recipe, len(labels), "folded"), restore(source, "folded")
    narrower: dict[int, np.ndarray] = {}
    if recipe.model.mlp_dim != source.recipe.model.mlp_dim:
        blocks = [theirs.get_layer(f"block{i}") for i in range(recipe.model.layers)]
        narrower = lowrank.narrower(blocks, recipe.model)
    mine = {id(w): w for w in of_labels(network)}
    for weight, given in zip(network.weights, theirs.weights, strict=True):
        value = narrower.get(id(given), given.numpy())
        if id(weight) not in mine:
            weight.assign(value)
            continue
        known = weight.numpy()
        for place, label in enumerate(labels):
            if label in source.labels:
                known[..., place] = value[..., source.labels.index(label)]
        weight.assign(known)
    return network


def of_labels(network: Any) -> list[Any]:
    """The variables whose last axis is the labels."""
    head = network.get_layer("head")
    ends = [head.dense, head.linear] if isinstance(head, PoolHead) else [head.dense]
    return [weight for end in ends for weight in end.trainable_weights]


def restore(bundle: Bundle, mode: str = "folded") -> Any:
    """The network of a bundle, from its weights.h5, in mode folded, qat or export.

    Raises:
        KwsError: no weights, or weights of another shape.
    """
    path = bundle.weights_path
    if not path.is_file():
        raise KwsError(
            f"The bundle has no Keras weights (it holds a .tflite only). "
            f"Received: {bundle.path}",
            f"kws eval {quoted(bundle.path)} --engine tflite",
        )
    network = build(bundle.recipe, len(bundle.labels), mode)
    try:
        network.load_weights(str(path))
    except (ValueError, OSError, KeyError) as error:
        raise KwsError(
            f"weights.h5 does not fit the recipe's network: {error} Received: {path}",
            f"kws train --recipe {quoted(bundle.path / 'recipe.toml')} --out "
            f"{quoted(f'{bundle.path}-new')}",
        ) from None
    return network


def activation_quantizers(network: Any) -> list[Quantizer]:
    """Every `Quantizer` that a network uses, in a fixed order."""
    return [
        part
        for part in network.submodules
        if isinstance(part, Quantizer) and part.built
    ]


def save_weights(network: Any, bundle: Bundle) -> None:
    """Write weights.h5 by rename.

    HDF5 makes it in memory: where there is no room on a disk, it takes the process with
    it instead of saying so.
    """
    import h5py
    from tf_keras.src.saving.legacy import hdf5_format

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        hdf5_format.save_weights_to_hdf5_group(file, network)
    bundles.write_atomic(bundle.weights_path, buffer.getvalue())


def calibrated(network: Any) -> bool:
    """False where no activation range was ever set (all are tfmot's start, +-6)."""
    ranges = [q.limits() for q in activation_quantizers(network) if q.fixed is None]
    return any(limits != (-6.0, 6.0) for limits in ranges)


def kernels(network: Any) -> set[int]:
    """`id` of the variables that weight decay applies to: kernels, nothing else."""
    return {
        id(part.kernel)
        for part in network.submodules
        if isinstance(part, layers.Kernel)
    }


def feature_range(features: Features) -> tuple[float, float]:
    """Real values of int8 -128 and 127."""
    return (
        features.scale * (-128 - features.zero_point),
        features.scale * (127 - features.zero_point),
    )


def dct_matrix(mel_bins: int, cepstra: int) -> np.ndarray:
    """Orthonormal DCT-II as tf.signal.mfccs_from_log_mel_spectrograms has it.

    Returns:
        float32 (mel_bins, cepstra): `log_mel @ matrix` are the first cepstra.
    """
    n = np.arange(mel_bins)[:, None]
    k = np.arange(cepstra)[None, :]
    matrix = np.cos(math.pi / mel_bins * (n + 0.5) * k) * math.sqrt(2.0 / mel_bins)
    return matrix.astype(np.float32)


def predictor(network: Any, recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    """A function of int8 features [N, frames, mel_bins]: float32 logits [N, labels].

    It computes 256 clips at a time, and is compiled once.
    """
    spec = recipe.features

    @tf.function(autograph=False)
    def run(part: Any) -> Any:
        real = (tf.cast(part, tf.float32) - spec.zero_point) * spec.scale
        return network(real, training=False)

    def predict(int8: np.ndarray) -> np.ndarray:
        size = min(256, len(int8))
        # The last part is filled up: another size would be traced anew.
        padded = np.concatenate([int8, int8[: -len(int8) % size]])
        parts = [run(padded[i : i + size]) for i in range(0, len(padded), size)]
        return np.concatenate([part.numpy() for part in parts])[: len(int8)]

    return predict
