"""What can't be built or factorised is refused here, before TensorFlow is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from kws import attention
from kws import recipe as recipes
from kws.errors import KwsError
from kws.recipe import TRANSFORMER, Model, Recipe
from kws.shape import check_clip_seconds
from kws.thresholds import Thresholds

NORMS = ("dyt", "layer", "batch")
SHARES = ("none", "blocks", "attention", "mlp", "factor")
# Families of convolutional networks -> keys of [model] that they read.
BASELINES = {
    "ds-cnn": ("family", "dim", "layers", "cepstra"),
    "bc-resnet": ("family", "dim"),
    "sparknet": ("family", "dim"),
}
CHOICES = {
    "family": (TRANSFORMER, *BASELINES),
    "stem": ("conv", "patch"),
    "norm": NORMS,
    "norm_position": ("pre", "post"),
    "activation": ("relu", "hard_swish", "gelu", "gelu_tanh"),
    "share": SHARES,
    "readout": ("mean", "pool"),
}
OPTIMIZERS = ("adamw", "muon")
# Lowest and highest value of what a training is told in numbers.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "task": {"silence_percent": (0, 1000), "unknown_percent": (0, 100_000)},
    "augment": {
        "variants": (1, 1000),
        "shift_ms": (0, 1000),
        "speed": (0, 0.5),
        "gain_db": (0, 60),
        "noise_probability": (0, 1),
        "snr_db": (-60, 100),
        "roll_frames": (0, 100),
        "mel_warp": (0, 0.5),
        "filter_db": (0, 60),
        "mix_style": (0, 1),
        "splice_percent": (0, 1000),
        "ambient_percent": (0, 50),
        "time_masks": (0, 10),
        "time_mask_frames": (0, 1000),
        "mel_masks": (0, 10),
        "mel_mask_bins": (0, 80),
        "hold_steps": (0, 255),
    },
    "train": {
        "epochs": (1, 1_000_000),
        "batch_size": (1, 65_536),
        "learning_rate": (1e-9, 1),
        "warmup": (0, 1),
        "weight_decay": (0, 10),
        "label_smoothing": (0, 0.3),
        "mixup": (0, 10),
        "between": (0, 100),
        "logit_adjustment": (0, 1),
        "ema": (0, 0.999999),
        "distill_weight": (0, 1),
        "distill_temperature": (0.1, 100),
        "seed": (0, 2**31 - 1),
    },
    "quantize": {
        "epochs": (0, 1_000_000),
        "learning_rate": (1e-9, 1),
        "calibration_clips": (1, 1_000_000),
        "delta_penalty": (0, 1000),
    },
}


def check(recipe: Recipe) -> None:
    """Refuse sections that nothing can be built or trained of, before anything is.

    Raises:
        KwsError: naming the key, what is expected and what was received.

    Example:
        >>> from kws import recipe as recipes
        >>> check(recipes.load("kwt-tiny"))
    """
    check_clip_seconds(recipe.task.clip_seconds)
    _check_training(recipe)
    _check_model(recipe)
    _check_quantize(recipe)


def _check_training(recipe: Recipe) -> None:
    for section, ranges in RANGES.items():
        for key, (lowest, highest) in ranges.items():
            value = getattr(getattr(recipe, section), key)
            numbers = value if isinstance(value, tuple) else (value,)
            # Written so that nan is refused, too.
            if not all(lowest <= number <= highest for number in numbers):
                raise KwsError(
                    f"Bad [{section}] {key}: expected {lowest:g} to {highest:g}. "
                    f"Received: {value}",
                    "Compare the recipe with a preset in kws/recipes/.",
                )
    if recipe.train.optimizer not in OPTIMIZERS:
        raise KwsError(
            f"Bad [train] optimizer: expected one of {', '.join(OPTIMIZERS)}. "
            f"Received: {recipe.train.optimizer!r}",
            '[train] optimizer = "adamw"',
        )
    snr_db = recipe.augment.snr_db
    if len(snr_db) != 2 or snr_db[0] > snr_db[1]:
        raise KwsError(
            "Bad [augment] snr_db: expected the lowest and the highest. "
            f"Received: {snr_db}",
            "[augment] snr_db = [0.0, 30.0]",
        )


def _check_model(recipe: Recipe) -> None:
    model, features = recipe.model, recipe.features

    def refuse(key: str, expected: str) -> None:
        raise KwsError(
            f"Bad [model] {key}: expected {expected}. "
            f"Received: {key}={getattr(model, key)!r}",
            "Compare the recipe with a preset in kws/recipes/.",
        )

    for key, allowed in CHOICES.items():
        if getattr(model, key) not in allowed:
            refuse(key, "one of " + ", ".join(allowed))
    for key in ("dim", "layers", "heads", "head_dim", "mlp_dim"):
        if not 1 <= getattr(model, key) <= 4096:
            refuse(key, "1 to 4096")
    if model.family != TRANSFORMER:
        _check_baseline(recipe, refuse)
        return
    if (
        model.mlp_fold < 1
        or model.dim % model.mlp_fold
        or model.mlp_dim % model.mlp_fold
    ):
        refuse("mlp_fold", f"a divisor of dim {model.dim} and mlp_dim {model.mlp_dim}")
    largest = min(model.dim, model.mlp_dim) // model.mlp_fold
    if not 0 <= model.mlp_rank <= largest:
        refuse("mlp_rank", f"0 (full) to {largest}")
    if not 1 <= model.groups <= model.layers:
        refuse("groups", f"1 to {model.layers}, the number of layers")
    if model.share != "none" and model.norm == "batch" and model.norm_position == "pre":
        refuse("share", "none with norm batch: its statistics are folded into kernels")
    if len(model.stem_stride) != 2 or not all(1 <= s <= 16 for s in model.stem_stride):
        refuse("stem_stride", "two strides of 1 to 16 (frames, mel bins)")
    if not 1 <= model.stem_channels <= 1024:
        refuse("stem_channels", "1 to 1024")
    if not 0 <= model.stem_second_channels <= 1024:
        refuse("stem_second_channels", "0 (no second convolution) to 1024")
    if not 1 <= model.patch_frames <= features.frames:
        refuse("patch_frames", f"1 to {features.frames} frames")
    if not 0 <= model.cepstra <= features.mel_bins:
        refuse("cepstra", f"0 to {features.mel_bins}, the number of mel bins")
    if not 0.0 <= model.dropout < 1.0:
        refuse("dropout", "0 to less than 1")
    if len(model.variants) != model.layers:
        refuse("attention", f"a variant, or a list of {model.layers}: one a block")
    given: set[str] = set()
    for index, variant in enumerate(model.variants):
        if variant == attention.NONE:
            continue
        part = attention.graph(variant)
        misfit = part.misfit(model)
        if misfit is not None:
            refuse(*misfit)
        for name in part.TAKES:
            if name not in given:
                givers = [
                    n for n in attention.names() if name in attention.graph(n).GIVES
                ]
                refuse(
                    "attention",
                    f"{' or '.join(givers)} somewhere in front of block {index}, "
                    f"which takes the {name} of a block before it ({variant})",
                )
        given.update(part.GIVES)
    if model.share in ("blocks", "attention", "factor"):
        for index, variant in enumerate(model.variants):
            if variant != model.variants[index % model.groups]:
                refuse(
                    "share",
                    f"none or mlp, since blocks {index % model.groups} and {index} "
                    "mix their tokens in different ways",
                )
    if not 0 <= model.token_kernel <= 31 or model.token_kernel == 1:
        refuse("token_kernel", "0 (none), or 2 to 31 tokens")
    if not 1 <= model.queries <= 64:
        refuse("queries", "1 to 64")
    if not 1 <= model.readout_dim <= 4096:
        refuse("readout_dim", "1 to 4096")
    pooled = model.readout == "pool"
    if (pooled or model.token_kernel) and model.norm_position != "pre":
        refuse("norm_position", "pre, with a token_kernel or the read-out pool")
    if (pooled or model.causal or model.token_kernel) and model.class_token:
        refuse("class_token", "false: the read-out sees all tokens")
    if model.causal:
        if model.stem != "conv" or model.positions:
            refuse("causal", "false with patches or positions: no place in a stream")
        if model.norm == "layer":
            refuse("norm", "dyt or batch in a causal network")
        if model.mlp_fold > 1:
            refuse("mlp_fold", "1 in a causal network: a step has whole tokens")
        seeing = [
            variant
            for variant in model.variants
            if variant != attention.NONE and not attention.graph(variant).CAUSAL
        ]
        if seeing:
            able = [n for n in attention.names() if attention.graph(n).CAUSAL]
            refuse(
                "attention",
                f"{', '.join(able)} or {attention.NONE} where causal: {seeing[0]} "
                "attention sees the clip",
            )


def _check_baseline(recipe: Recipe, refuse: Callable[[str, str], None]) -> None:
    model, features = recipe.model, recipe.features
    usual = Model()
    for key in dataclasses.asdict(usual):
        if key in BASELINES[model.family]:
            continue
        if getattr(model, key) != getattr(usual, key):
            refuse(
                key,
                f"{getattr(usual, key)!r}, since a {model.family} has no such thing",
            )
    if not 0 <= model.cepstra <= features.mel_bins:
        refuse("cepstra", f"0 to {features.mel_bins}, the number of mel bins")
    if model.family == "bc-resnet" and (model.dim % 2 or features.mel_bins % 8):
        refuse("dim", "an even number, and mel_bins a multiple of 8")


def _check_quantize(recipe: Recipe) -> None:
    quantize = recipe.quantize
    if quantize.delta_thresholds:
        thresholds_of(quantize.delta_thresholds, recipe.model)
    if quantize.delta_penalty and not quantize.delta_thresholds:
        raise KwsError(
            "A penalty on what is transmitted needs thresholds. "
            f"Received: delta_penalty={quantize.delta_penalty}, delta_thresholds=''",
            '[quantize] delta_thresholds = "X=6,P=2"',
        )
    if quantize.delta_penalty and recipe.model.causal:
        raise KwsError(
            "A penalty on what is transmitted is for networks on clips. "
            f"Received: delta_penalty={quantize.delta_penalty}, causal = true",
            "[quantize] delta_penalty = 0.0",
        )


def thresholds_of(text: str, model: Model) -> Thresholds:
    """Thresholds of a recipe, `X=6,P=2,3.X=4` in int8 steps.

    Raises:
        KwsError: no such text, or a number that is not whole.
    """
    thresholds = Thresholds.parse(text, attention.slots(model))
    values = thresholds.values
    if (values != np.floor(values)).any() or (values > 255).any():
        raise KwsError(
            "Thresholds of a recipe are whole int8 steps, 0 to 255. "
            f"Received: delta_thresholds={text!r}",
            '[quantize] delta_thresholds = "X=6,P=2"',
        )
    return thresholds


def check_beginning(source: Recipe, target: Recipe) -> None:
    """Refuse to begin a training from a network of another shape.

    Only its MLPs may be wider: they are pruned to the new network's mlp_dim.

    Args:
        source: The recipe of the trained network.
        target: That of the new one.

    Raises:
        KwsError: another `[model]`, or features that mean something else.
    """
    same = ("frames", "floor")
    left, right = (
        {
            f"[{section}] {key}": value
            for section, table in recipes.to_dict(recipe).items()
            if section in ("model", "features")
            for key, value in table.items()
            if key not in same and (section, key) != ("model", "dropout")
        }
        for recipe in (source, target)
    )
    other = [key for key, value in right.items() if left[key] != value]
    if _prunes(source.model, target.model):
        other.remove("[model] mlp_dim")
    if other:
        key = other[0]
        raise KwsError(
            "A training can only begin from a network of the same shape. Expected "
            f"{key} = {left[key]!r}, as {source.name} has it. Received: {right[key]!r}",
            f"Leave --preset and --recipe out, or take {source.name}'s: base = "
            "in the recipe.",
        )
    if source.model.positions and source.features.frames != target.features.frames:
        raise KwsError(
            "A network with positions has one for every token. Expected [features] "
            f"frames = {source.features.frames}. Received: {target.features.frames}",
            "Begin from a network without positions, kwt-stream-tiny for one.",
        )


def _prunes(source: Model, target: Model) -> bool:
    """Whether MLPs get narrower whose hidden units stand for themselves."""
    alone = not target.mlp_rank and target.mlp_fold == 1
    return alone and target.mlp_dim < source.mlp_dim


def check_source(source: Model, target: Model) -> None:
    """Refuse a factorisation that there is none of.

    Args:
        source: The trained network's.
        target: The factorised one's.

    Raises:
        KwsError: blocks of other variants than softmax, or over windows; a wider head,
            groups without anything shared.
    """
    others = sorted(set(target.variants) - {"softmax"})
    if others and source != target:
        raise KwsError(
            "Only softmax attention can be factorised. "
            f"Received: blocks of {', '.join(others)}",
            "Train a network of lower rank from the start: [model] head_dim, mlp_rank.",
        )
    if target.causal and source != target:
        # V's bias would move to the output; rows of 0 before a stream have none.
        raise KwsError(
            "Attention over all tokens of a clip can be factorised, that over windows "
            "of a stream can't. Received: causal = true",
            "Train a network of lower rank from the start: [model] head_dim, mlp_rank.",
        )
    if target.head_dim > source.head_dim:
        raise KwsError(
            "Attention can't be factorised to a higher rank than it has. Expected "
            f"--head-dim 1 to {source.head_dim}. Received: {target.head_dim}",
            f"--head-dim {source.head_dim // 2 or 1}",
        )
    if target.share == "none" and target.groups != source.groups:
        raise KwsError(
            "Groups of blocks need something that they share. "
            f"Received: --groups {target.groups} without --share",
            f"--share blocks --groups {target.groups}",
        )
