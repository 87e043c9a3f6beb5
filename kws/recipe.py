"""The recipe: every default of the project, read from TOML, checked once.

A recipe is what `kws train` needs to know: the task, the features, the network,
the training, the quantization and the detector. Presets are TOML files in
`kws/recipes/`; a user's file may name a preset as its base and change a few keys:

    base = "kwt-tiny"
    [task]
    words = ["hey robot", "stop"]

Example:
    >>> recipe = load("kwt-tiny")
    >>> recipe.features.mel_bins
    40
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from kws.errors import KwsError

RECIPES = Path(__file__).parent / "recipes"
MAX_BYTES = 1 << 20
MAX_INTEGER = (1 << 63) - 1  # TOML's own; Python reads larger ones

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
Q15_ONE = 32767  # a posterior of 1, as the board counts it
TRANSFORMER = "kwt"  # the family of networks that all [model] keys are for
MAX_SMOOTHING = 16  # KWS_DETECTOR_MAX_SMOOTHING
MAX_REFRACTORY = 65535  # decisions


@dataclass(frozen=True)
class Features:
    """Log-mel features (DESIGN D7); the C under firmware/ computes them.

    The real value of an element is `scale * (q - zero_point)` and stands for
    `ln(max(sum_k mel[m, k] * |X[k]|**power, floor))`, with audio in [-1, 1), a
    periodic Hann window of `window` samples and an FFT of `fft_size`.

    Args:
        sample_rate: Hz. Only 16000 is supported.
        window: Samples in a frame (480 = 30 ms).
        hop: Samples between frames (160 = 10 ms).
        fft_size: A power of two, at least `window`.
        frames: Frames the model sees (98 = 1 s).
        mel_bins: HTK mel triangles, peak 1, between `low_hz` and `high_hz`; 8..80.
        low_hz: Lower edge of the first triangle.
        high_hz: Upper edge of the last triangle.
        power: 2 for the power spectrum, 1 for the magnitude.
        scale: Natural-log units per int8 step.
        zero_point: int8 value of ln = 0.
        floor: int8 value that quieter elements are raised to (-80 with the scale above:
            ln of -6.4, about white noise at -58 dBFS): a quiet room is then constant,
            and costs a network for streams next to nothing. -128: as they are.
    """

    sample_rate: int = 16000
    window: int = 480
    hop: int = 160
    fft_size: int = 512
    frames: int = 98
    mel_bins: int = 40
    low_hz: float = 20.0
    high_hz: float = 7600.0
    power: int = 2
    scale: float = 0.08
    zero_point: int = 0
    floor: int = -128

    @property
    def hop_ms(self) -> float:
        """Milliseconds from a frame to the next."""
        return 1000 * self.hop / self.sample_rate

    @property
    def clip_samples(self) -> int:
        """Samples needed for `frames` frames (16000 - 160 + 160 for 98 frames)."""
        return self.window + (self.frames - 1) * self.hop


@dataclass(frozen=True)
class Task:
    """What is to be heard.

    Args:
        name: `gsc12`, `gsc10`, `gsc35` or `custom`.
        words: The words, in label order, for `custom`. Labels are then
            `_silence_`, `_unknown_`, and the words.
        silence_percent: Silence clips per 100 word clips.
        unknown_percent: Clips of other words per 100 word clips.
        clip_seconds: Length of a clip, 1 to 3 s: more for words that take longer, with
            `[features] frames` to go with it (`kws train --clip-seconds` sets both).
    """

    name: str = "gsc10"
    words: tuple[str, ...] = ()
    silence_percent: float = 12.0
    unknown_percent: float = 25.0
    clip_seconds: float = 1.0

    @property
    def clip_samples(self) -> int:
        """Samples of a clip at 16 kHz."""
        return round(self.clip_seconds * 16000)


@dataclass(frozen=True)
class Model:
    """The network's shape: a Keyword Transformer's, or one that it is held against.

    Args:
        family: `kwt`, the Keyword Transformer; or `ds-cnn`, `bc-resnet`, `sparknet`
            (kws/model/baselines.py), which read `dim` (filters), `layers` and `cepstra`
            of `ds-cnn`, and no other key.
        stem: `patch` (dense over `patch_frames` frames) or `conv` (2-D convolution
            of `stem_channels` 5x5 filters, stride `stem_stride`, then dense).
        stem_channels: Filters of the convolution stem.
        stem_stride: Strides over (frames, mel bins) of the convolution stem.
        stem_second_channels: Filters of a second convolution (3x3, stride 2 both
            ways); 0 = none.
        patch_frames: Frames per token of the `patch` stem.
        cepstra: For the `patch` stem: number of DCT coefficients taken of the
            log-mel frame before the dense layer (folded into it at conversion);
            0 = none.
        dim: Width of a token.
        layers: Transformer blocks.
        heads: Attention heads.
        head_dim: Width of one head: the rank of attention's two products of matrices.
        mlp_dim: Hidden width of the MLP.
        mlp_rank: Rank of the MLP's two matrices, in two factors each; 0 = full.
        share: What blocks share (kws/model/lowrank.py): `none`, `blocks` (all
            kernels), `attention`, `mlp`, or `factor` (the first of each two factors).
        groups: Distinct blocks where they share: block i uses block i % groups'.
        attention: A variant of `kws/attention/` for all blocks, or a list with one
            for each; `none` for a block without (docs/variants.md).
        conv_kernel: Tokens that the depthwise convolution of a `conv` block spans; odd,
            3 to 15.
        window: Tokens that a `softmax` or `performer` block of a causal network looks
            back on, the token itself and those before it; 2 to 255.
        fold: Sub-tokens that a `folded` block takes each token apart into: its weights
            are `fold` times as narrow both ways, and work on as many times the rows.
        mlp_fold: The same for the MLP of every block; 1 = whole tokens.
        fold_offset: Add a learned offset to each sub-token, in folded blocks and MLPs.
        norm: `dyt`, `batch`, `layer` (DESIGN D5).
        norm_position: `pre` or `post`.
        activation: `relu`, `hard_swish`, `gelu` (x * sigmoid(1.702 x)) or `gelu_tanh`
            (of imported weights: the tanh approximation, `gelu` once quantized).
        causal: Every layer sees what is past and nothing that is to come, so that the
            network can run on a stream, each token computed once (docs/streaming.md).
        token_kernel: Tokens that a depthwise convolution in front of each block's
            attention spans, the token itself and those before it; 0 = none.
        readout: `mean` over the tokens (or the class token), or `pool`: learned queries
            over the tokens, then a small MLP, beside the mean of linear logits.
        queries: Learned queries of the `pool` read-out.
        readout_dim: Hidden width of its MLP.
        positions: Learned position table added to the tokens.
        class_token: Classify a learned extra token; otherwise the mean of all.
        dropout: Share of activations dropped in training.
    """

    family: str = TRANSFORMER
    stem: str = "conv"
    stem_channels: int = 16
    stem_stride: tuple[int, ...] = (2, 4)
    stem_second_channels: int = 0
    patch_frames: int = 1
    cepstra: int = 0
    dim: int = 48
    layers: int = 4
    heads: int = 1
    head_dim: int = 48
    mlp_dim: int = 96
    mlp_rank: int = 0
    share: str = "none"
    groups: int = 1
    attention: str | tuple[str, ...] = "softmax"
    conv_kernel: int = 5
    window: int = 24
    fold: int = 2
    mlp_fold: int = 1
    fold_offset: bool = False
    norm: str = "dyt"
    norm_position: str = "pre"
    activation: str = "relu"
    causal: bool = False
    token_kernel: int = 0
    readout: str = "mean"
    queries: int = 4
    readout_dim: int = 48
    positions: bool = False
    class_token: bool = False
    dropout: float = 0.0

    @property
    def variants(self) -> tuple[str, ...]:
        """The attention variant of every block."""
        if isinstance(self.attention, str):
            return (self.attention,) * self.layers
        return self.attention


@dataclass(frozen=True)
class Augment:
    """What happens to a training clip (kws/data/augment.py).

    Args:
        variants: Augmented copies of every clip that one training run draws from.
        shift_ms: Largest time shift, either way.
        speed: Largest change of speed, as a share (0.15 = 0.85x to 1.15x).
        gain_db: Largest change of loudness, either way, in dB.
        noise_probability: Share of clips mixed with background noise.
        snr_db: Lowest and highest signal-to-noise ratio of the mix, in dB.
        roll_frames: Largest shift of a clip's features on each draw, in frames.
        mel_warp: Largest stretch of a clip's frequencies on each draw, as a share.
        filter_db: Largest gain of a random frequency response on each draw, in dB.
        mix_style: Share of clips, on each draw, whose mel bins' means and deviations
            are mixed with another clip's of the batch.
        splice_percent: Clips per 100, cut and joined from others, that the teacher
            alone labels, where one is given (kws/data/splice.py).
        ambient_percent: Windows of ambient sound per 100 of a batch, where there are
            ambient recordings (kws/data/ambient.py); 50 at most.
        time_masks: SpecAugment: number of time masks.
        time_mask_frames: SpecAugment: widest time mask, in frames.
        mel_masks: SpecAugment: number of mel masks.
        mel_mask_bins: SpecAugment: widest mel mask, in bins.
        hold_steps: Largest delta threshold of features, in int8 steps, that clips are
            held with on each draw (docs/streaming.md); 0 = none.
    """

    variants: int = 8
    shift_ms: float = 100.0
    speed: float = 0.15
    gain_db: float = 10.0
    noise_probability: float = 0.8
    snr_db: tuple[float, ...] = (0.0, 30.0)
    roll_frames: int = 3
    mel_warp: float = 0.0
    filter_db: float = 0.0
    mix_style: float = 0.0
    splice_percent: float = 0.0
    ambient_percent: float = 25.0
    time_masks: int = 2
    time_mask_frames: int = 20
    mel_masks: int = 2
    mel_mask_bins: int = 6
    hold_steps: int = 0


@dataclass(frozen=True)
class Train:
    """Float training (warm-up, cosine, label smoothing).

    Args:
        epochs: Passes over the training clips.
        batch_size: Clips per step.
        optimizer: `adamw`; or `muon`, which moves the matrices between hidden layers by
            their directions alone, and the rest as AdamW does (kws/train/optimizer.py).
            The tuning's too.
        learning_rate: Peak, after warm-up.
        warmup: Share of all steps spent warming up.
        weight_decay: Decoupled, as AdamW's, on kernels only.
        label_smoothing: 0..0.3.
        mixup: Beta parameter of mix-up; 0 = off.
        between: Weight of a causal network's loss between two clips, where nothing but
            their words may be heard (kws/model/stream.py).
        logit_adjustment: How much of the labels' frequencies the logits leave out: 0 =
            nothing; 1 = all, so that a rare label is as likely as a frequent one (Menon
            et al. 2021, "Long-tail learning via logit adjustment"); 0..1. Of what is
            clearly one label nothing changes; the rest is less often unknown, which
            most training clips are.
        ema: Decay per step of the exponential moving average of weights; 0 = off.
        distill_weight: Share of the loss taken from the teacher, where one is given.
        distill_temperature: Softmax temperature of the distillation loss.
        seed: Seeds everything.
    """

    epochs: int = 60
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0
    between: float = 0.5
    logit_adjustment: float = 0.0
    ema: float = 0.999
    distill_weight: float = 0.5
    distill_temperature: float = 2.0
    seed: int = 1


@dataclass(frozen=True)
class Quantize:
    """Quantization-aware tuning (DESIGN D6).

    Args:
        epochs: Passes of QAT after float training; 0 = post-training quantization.
        learning_rate: Peak.
        calibration_clips: Clips that set the activation ranges before QAT.
        delta_thresholds: Tune with these delta thresholds in the graph, in int8 steps
            (`X=6,P=2,3.X=4`; kws/model/hold.py); empty: dense.
        delta_penalty: Weight of the expected share of multiply-accumulates that the
            encoded tensors still cause, in the loss.
    """

    epochs: int = 8
    learning_rate: float = 2e-4
    calibration_clips: int = 512
    delta_thresholds: str = ""
    delta_penalty: float = 0.0


@dataclass(frozen=True)
class Detector:
    """From posteriors to events, in C (firmware/include/kws_detector.h).

    Args:
        hop_frames: Feature frames between two decisions of the model (20 = 200 ms);
            1..frames.
        smoothing: Decisions averaged; 1..16.
        threshold: Posterior, above 0 and at most 1, from which on a word is heard.
        word_thresholds: The same for each word, in label order; () = `threshold` for
            all.
        rearm: Posterior below which the word may be heard again; above 0, or that
            would never be, and at most every word's threshold.
        refractory_ms: Shortest time between two events of one word; 0 or more, at
            most 65,535 decisions.
    """

    hop_frames: int = 16
    smoothing: int = 3
    threshold: float = 0.7
    word_thresholds: tuple[float, ...] = ()
    rearm: float = 0.4
    refractory_ms: int = 600


@dataclass(frozen=True)
class Recipe:
    """Everything that `kws train` needs to know. See the sections' docstrings."""

    name: str = "kwt-tiny"
    task: Task = field(default_factory=Task)
    features: Features = field(default_factory=Features)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    train: Train = field(default_factory=Train)
    quantize: Quantize = field(default_factory=Quantize)
    detector: Detector = field(default_factory=Detector)


def presets() -> list[str]:
    """Names of the presets in kws/recipes/."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name_or_path: str | Path, name: str | None = None) -> Recipe:
    """Read a preset by name or a recipe file.

    Args:
        name_or_path: Which.
        name: What to call it where the file says nothing; None: like the file.

    Raises:
        KwsError: no such preset or file, not TOML, an unknown key, a wrong type.
    """
    text = str(name_or_path)
    path = Path(text) if text.endswith(".toml") else RECIPES / f"{text}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(text, presets(), n=1)
        maybe = f" Did you mean {close[0]!r}?" if close else ""
        raise KwsError(
            f"No such recipe.{maybe} Expected a preset ({', '.join(presets())}) or a "
            f".toml file. Received: {text!r}",
            f"kws train --preset {close[0] if close else 'kwt-tiny'} ...",
        )
    if path.stat().st_size > MAX_BYTES:
        raise KwsError(
            f"A recipe has at most {MAX_BYTES:,} bytes. Received: {path}",
            "Compare it with a preset in kws/recipes/.",
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise KwsError(
            f"The recipe is not valid TOML: {error}. Received: {path}",
            "Compare it with a preset in kws/recipes/.",
        ) from None
    base = table.pop("base", None)
    if base is not None and base not in presets():
        close = difflib.get_close_matches(_shown(base).strip("'"), presets(), n=1)
        maybe = f" Did you mean {close[0]!r}?" if close else ""
        raise KwsError(
            f"A recipe's base is a preset.{maybe} Expected one of "
            f"{', '.join(presets())}. Received: base = {_shown(base)} in {path}",
            'Start the recipe with: base = "kwt-tiny"',
        )
    start = load(base) if base is not None else Recipe()
    table.setdefault("name", name or path.stem)
    recipe = from_dict(table, start)
    check_detector(recipe, path)
    return recipe


def decision_ms(recipe: Recipe) -> float:
    """Milliseconds between two decisions of the model."""
    features = recipe.features
    return 1000.0 * recipe.detector.hop_frames * features.hop / features.sample_rate


def refractory_decisions(recipe: Recipe) -> int:
    """Decisions of the detector's refractory time, as the board counts it: rounded up.

    Example:
        >>> refractory_decisions(Recipe())  # 600 ms, of 160 each
        4
    """
    return math.ceil(recipe.detector.refractory_ms / decision_ms(recipe))


def check_detector(recipe: Recipe, path: Path) -> None:
    """Refuse a detector that would hear nothing, or each word once and never again.

    Args:
        recipe: The recipe.
        path: The file to mend, for the hint.

    Raises:
        KwsError: a value that is out of its range.
    """
    detector, frames = recipe.detector, recipe.features.frames
    if recipe.features.sample_rate < 1:
        rate = recipe.features.sample_rate
        raise KwsError(
            f"[features] sample_rate must be 16000. Received: {rate}",
            f"Mend it in {path}.",
        )
    own = detector.word_thresholds or (detector.threshold,)
    # In the board's steps: what rounds to 0 there is 0. NaN is in no range.
    rearm = round(detector.rearm * Q15_ONE) if math.isfinite(detector.rearm) else 0
    problem = ""
    if not 1 <= detector.hop_frames <= frames:
        problem = f"hop_frames must be 1..{frames}. Received: {detector.hop_frames}"
    elif not 1 <= detector.smoothing <= MAX_SMOOTHING:
        problem = (
            f"smoothing must be 1..{MAX_SMOOTHING}. Received: {detector.smoothing}"
        )
    elif rearm < 1 or not all(detector.rearm <= level <= 1.0 for level in own):
        problem = (
            "expected 0 < rearm <= threshold <= 1 for every word (it is armed again "
            f"when its posterior falls below rearm, in steps of 1/{Q15_ONE}). "
            f"Received: rearm={detector.rearm}, thresholds {list(own)}"
        )
    elif not 0 <= detector.refractory_ms <= MAX_REFRACTORY * decision_ms(recipe):
        problem = (
            f"refractory_ms must be 0 or more, and at most {MAX_REFRACTORY} decisions "
            f"of {detector.hop_frames} frames. Received: {detector.refractory_ms}"
        )
    if problem:
        raise KwsError(f"[detector] {problem}", f"Mend it in {path}.")


def from_dict(table: dict[str, Any], base: Recipe | None = None) -> Recipe:
    """Lay a table of sections over `base` (the defaults), checking every key."""
    return _overlay(base or Recipe(), table, "recipe")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain tables, lists and numbers (JSON and TOML friendly)."""
    return dataclasses.asdict(recipe)


def to_toml(recipe: Recipe) -> str:
    """The whole recipe as TOML; `load` reads it back to an equal recipe."""
    return tomli_w.dumps(to_dict(recipe))


def _overlay(instance: Any, table: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(type(instance))
    changes = {}
    for key, value in table.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            maybe = f" Did you mean {close[0]!r}?" if close else ""
            raise KwsError(
                f"Unknown key in [{where}].{maybe} Expected one of "
                f"{', '.join(sorted(hints))}. Received: {key!r}",
                "Compare the recipe with a preset in kws/recipes/.",
            )
        current = getattr(instance, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise _wrong_type(where, key, "a table", value)
            changes[key] = _overlay(current, value, key)
        else:
            changes[key] = _checked(where, key, current, hints[key], value)
    return dataclasses.replace(instance, **changes)


def _checked(where: str, key: str, current: Any, hint: Any, value: Any) -> Any:
    if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise KwsError(
            f"[{where}] {key} is a number out of all range. Expected at most "
            f"{MAX_INTEGER} either way. Received: a whole number of "
            f"{value.bit_length()} bits",
            "Compare the recipe with a preset in kws/recipes/.",
        )
    if isinstance(hint, types.UnionType):  # one for all, or a list
        single, several = typing.get_args(hint)
        if not isinstance(value, (single, list, tuple)):
            expected = f"{single.__name__}, or a list of {single.__name__}"
            raise _wrong_type(where, key, expected, value)
        hint = several if isinstance(value, (list, tuple)) else single
        current = hint() if hint is single else ()
    if isinstance(current, tuple):
        item_type = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(where, key, f"a list of {item_type.__name__}", value)
        try:
            return tuple(
                _checked(where, key, item_type(), item_type, item) for item in value
            )
        except KwsError:  # of one item: the whole list is what was received
            expected = f"a list of {item_type.__name__}"
            raise _wrong_type(where, key, expected, value) from None
    if isinstance(current, bool) != isinstance(value, bool):
        raise _wrong_type(where, key, type(current).__name__, value)
    if isinstance(current, float) and isinstance(value, int):
        return float(value)
    if not isinstance(value, type(current)):
        raise _wrong_type(where, key, type(current).__name__, value)
    return value


def _wrong_type(where: str, key: str, expected: str, value: Any) -> KwsError:
    return KwsError(
        f"Wrong type in [{where}]: {key} must be {expected}. "
        f"Received: {key}={_shown(value)} ({type(value).__name__})",
        "Compare the recipe with a preset in kws/recipes/.",
    )


def _shown(value: Any) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number without end"
