"""TensorFlow Lite Micro's integer arithmetic, exactly, in Python integers.

Everything that TFLM computes when it prepares an operator (multipliers, shifts,
clamps) or that can be computed before run time (softmax exponentials, the tables of
unary operators) is here, with TFLM's own rounding and with its own mixture of float32
and float64. The C kernels (firmware/include/kws_kernels.h) take the results as
constants; tests/test_kernels.py holds both against the pinned `tflite-micro`.

Scales are Python floats that hold float32 values, as a .tflite stores them.

Sources: tflite-micro's `kernels/internal/common.h`, `quantization_util.cc`,
`reference/integer_ops/*.h`, and gemmlowp's `fixedpoint.h`.

Example:
    >>> quantize_multiplier(0.75)
    (1610612736, 0)
    >>> multiply_by_quantized_multiplier(100, *quantize_multiplier(0.75))
    75
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

INT8_MIN, INT8_MAX = -128, 127
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
LARGEST_SUM = 2**30
# What the quickest kernels ask of a product: kws_fully_connected_t's `ordinary`.
ORDINARY_SUM = 2**23
ORDINARY_SHIFTS = range(-22, 0)

# Left shift of the inputs of ADD and SUB, and of SQUARED_DIFFERENCE.
ADD_LEFT_SHIFT = 20
SQUARED_DIFFERENCE_LEFT_SHIFT = 7
# ADD and SUB as one linear form (kws_kernels.h), and how far from the nearest factors
# ones are looked for.
LINEAR_SHIFT = 23
LINEAR_REACH = 3


# ---- gemmlowp's fixed point --------------------------------------------------


def _wrap32(value: int) -> int:
    """Two's complement wrap, what the C++ does where it overflows."""
    return (value + 2**31) % 2**32 - 2**31


def saturating_rounding_doubling_high_mul(a: int, b: int) -> int:
    """round(a * b / 2**31), halves up; saturates where a = b = -2**31."""
    if a == b == INT32_MIN:
        return INT32_MAX
    return (a * b + (1 << 30)) >> 31


def rounding_divide_by_pot(value: int, exponent: int) -> int:
    """round(value / 2**exponent), halves away from zero."""
    if exponent == 0:
        return value
    return (value + (1 << (exponent - 1)) - (value < 0)) >> exponent


def _saturating_shift_left(value: int, exponent: int) -> int:
    threshold = (1 << (31 - exponent)) - 1
    if value > threshold:
        return INT32_MAX
    if value < -threshold:
        return INT32_MIN
    return value << exponent


def _exp_between_minus_quarter_and_zero(a: int) -> int:
    """exp(a) for a in [-1/4, 0), Q0.31: a Taylor expansion around -1/8."""
    mul = saturating_rounding_doubling_high_mul
    x = a + (1 << 28)
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4_over_4 = rounding_divide_by_pot(mul(x2, x2), 2)
    tail = rounding_divide_by_pot(mul(x4_over_4 + x3, 715827883) + x2, 1)
    return _wrap32(1895147668 + mul(1895147668, x + tail))


# exp(-2**e) in Q0.31 for e = -2 .. 4.
_EXP_OF_MINUS_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)


def exp_on_negative_values(a: int, integer_bits: int) -> int:
    """exp(a) in Q0.31 for a <= 0 in Q(integer_bits); gemmlowp's, bit for bit."""
    if a == 0:
        return INT32_MAX
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    a_mod = (a & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_zero(
        _saturating_shift_left(a_mod, integer_bits)
    )
    remainder = a_mod - a
    for exponent, multiplier in _EXP_OF_MINUS_POWERS:
        if integer_bits > exponent and remainder & (1 << (fractional_bits + exponent)):
            result = saturating_rounding_doubling_high_mul(result, multiplier)
    return result


def _reciprocal_of_half_denominator(a: int) -> int:
    """Newton-Raphson, Q2.29: 2 / (1 + a) for a in (0, 1), Q0.31."""
    mul = saturating_rounding_doubling_high_mul
    total = a + INT32_MAX
    half_denominator = (total + (1 if total >= 0 else -1)) // 2
    x = 1515870810 + mul(half_denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - mul(half_denominator, x)
        x += _saturating_shift_left(mul(x, error), 2)
    return x


def one_over_one_plus_x(a: int) -> int:
    """1 / (1 + a) for a in (0, 1); both Q0.31."""
    return _saturating_shift_left(_reciprocal_of_half_denominator(a), 1)


def _one_minus_x_over_one_plus_x(a: int) -> int:
    return _saturating_shift_left(_reciprocal_of_half_denominator(a) - (1 << 29), 2)


def tanh_fixed_point(a: int, integer_bits: int) -> int:
    """tanh(a), Q(integer_bits) to Q0.31."""
    if a == 0:
        return 0
    negative = a if a < 0 else -a
    exp = exp_on_negative_values(negative, integer_bits + 1)
    result = _one_minus_x_over_one_plus_x(exp)
    return -result if a < 0 else result


def logistic_fixed_point(a: int, integer_bits: int) -> int:
    """1 / (1 + exp(-a)), Q(integer_bits) to Q0.31."""
    if a == 0:
        return 1 << 30
    positive = one_over_one_plus_x(exp_on_negative_values(-abs(a), integer_bits))
    return positive if a > 0 else INT32_MAX - positive


# ---- Multipliers ---------------------------------------------------------------


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A real multiplier as (Q0.31 multiplier in [2**30, 2**31) or 0, shift).

    Args:
        real: At least 0; float64 (TFLM's `QuantizeMultiplier`).

    Returns:
        multiplier, shift with real ~ multiplier / 2**31 * 2**shift.

    Raises:
        ValueError: negative, infinite or not a number.
    """
    if not math.isfinite(real) or real < 0:
        raise ValueError(f"A multiplier must be at least 0. Received: {real}")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return multiplier, shift


def multiply_by_quantized_multiplier(value: int, multiplier: int, shift: int) -> int:
    """TFLM's requantisation: rounds twice (high multiply, then the shift)."""
    left, right = (shift, 0) if shift > 0 else (0, -shift)
    product = saturating_rounding_doubling_high_mul(_wrap32(value << left), multiplier)
    return rounding_divide_by_pot(product, right)


def _float32_product(a: float, b: float) -> float:
    return float(np.float32(a) * np.float32(b))


def _float32_quotient(a: float, b: float) -> float:
    return float(np.float32(a) / np.float32(b))


def fully_connected_multipliers(
    input_scale: float, weight_scales: Sequence[float], output_scale: float
) -> list[tuple[int, int]]:
    """(multiplier, shift) per weight scale of FULLY_CONNECTED: float64."""
    return conv_multipliers(input_scale, weight_scales, output_scale)


def conv_multipliers(
    input_scale: float, weight_scales: Sequence[float], output_scale: float
) -> list[tuple[int, int]]:
    """(multiplier, shift) per weight scale of CONV_2D and DEPTHWISE_CONV_2D:
    float64."""
    return [
        quantize_multiplier(float(input_scale) * float(scale) / float(output_scale))
        for scale in weight_scales
    ]


def batch_matmul_multiplier(
    a_scale: float, b_scale: float, output_scale: float
) -> tuple[int, int]:
    """(multiplier, shift) of BATCH_MATMUL: float64.

    TFLM's source of 2026-08 multiplies the scales in float32, the pinned wheel in
    float64: one element in a million tells (tests/test_simulate_int8.py asks for it).
    """
    return quantize_multiplier(float(a_scale) * float(b_scale) / float(output_scale))


def fold_bias(
    weights: np.ndarray, bias: np.ndarray | None, input_zero_point: int
) -> np.ndarray:
    """bias[o] - input_zero_point * sum_i weights[o, i], checked to fit.

    The kernels' fast paths need every sum to stay below 2**30 in magnitude: half of
    what 32 bits hold, and hundreds of times what trained networks reach.

    Args:
        weights: int8 [outputs, inputs].
        bias: int32 [outputs], or None for zeros.
        input_zero_point: -128..127.

    Returns:
        int32 [outputs].

    Raises:
        ValueError: some input could bring a sum to 2**30.
    """
    wide = weights.astype(np.int64)
    offset = (
        np.zeros(wide.shape[0], np.int64) if bias is None else bias.astype(np.int64)
    )
    folded = offset - input_zero_point * wide.sum(axis=1)
    low, high = _sums(wide, folded)
    if low <= -LARGEST_SUM or high >= LARGEST_SUM:
        raise ValueError(
            "An accumulator could overflow: biases or rows are too large. Expected "
            f"sums below {LARGEST_SUM}. Received: {low} to {high}"
        )
    return folded.astype(np.int32)


def _sums(weights: np.ndarray, folded: np.ndarray) -> tuple[int, int]:
    """The least and the largest sum that any int8 input could bring."""
    wide, start = weights.astype(np.int64), folded.astype(np.int64)
    low = start + np.where(wide > 0, wide * INT8_MIN, wide * INT8_MAX).sum(axis=1)
    high = start + np.where(wide > 0, wide * INT8_MAX, wide * INT8_MIN).sum(axis=1)
    return int(low.min()), int(high.max())


def is_ordinary(
    weights: np.ndarray,
    folded: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    clamp: tuple[int, int],
) -> bool:
    """Whether a product may take the kernels' quickest path, as trained ones may.

    Args:
        weights: int8 [outputs, inputs].
        folded: int32 [outputs], of `fold_bias`.
        pairs: (multiplier, shift) of each output, or of all.
        clamp: activation_min, activation_max.
    """
    low, high = _sums(weights, folded)
    return (
        clamp == (INT8_MIN, INT8_MAX)
        and all(shift in ORDINARY_SHIFTS for _, shift in pairs)
        and low > -ORDINARY_SUM
        and high < ORDINARY_SUM
    )


def calculate_activation_range(
    activation: str, scale: float, zero_point: int
) -> tuple[int, int]:
    """The int8 clamp of a fused activation.

    Args:
        activation: `none`, `relu`, `relu6` or `relu_n1_to_1`.
        scale: Of the output.
        zero_point: Of the output.

    Returns:
        activation_min, activation_max.

    Raises:
        ValueError: another activation; an end of it that 32 bits don't hold.
    """

    def quantize(value: float) -> int:
        if abs(value) / scale > INT32_MAX:
            raise ValueError(f"{activation} ends too many steps of {scale} away")
        return zero_point + _round_away(_float32_quotient(value, scale))

    low, high = INT8_MIN, INT8_MAX
    if activation == "relu":
        low = max(low, quantize(0.0))
    elif activation == "relu6":
        low, high = max(low, quantize(0.0)), min(high, quantize(6.0))
    elif activation == "relu_n1_to_1":
        low, high = max(low, quantize(-1.0)), min(high, quantize(1.0))
    elif activation != "none":
        raise ValueError(
            "An activation must be none, relu, relu6 or relu_n1_to_1. "
            f"Received: {activation!r}"
        )
    return low, high


def _round_away(value: float) -> int:
    """C's round(): halves away from zero."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


# ---- Two inputs ------------------------------------------------------------------


@dataclass(frozen=True)
class AddParameters:
    """The fields of kws_add_t (ADD, SUB, SQUARED_DIFFERENCE), in its order, but for
    those of LinearAdd."""

    x1_zero_point: int
    x2_zero_point: int
    output_zero_point: int
    x1_shift: int
    x2_shift: int
    output_shift: int
    x1_multiplier: int
    x2_multiplier: int
    output_multiplier: int
    subtract: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True)
class LinearAdd:
    """The last fields of kws_add_t: an ADD or SUB as one linear form; zeros: none."""

    x1_factor: int = 0
    x2_factor: int = 0
    offset: int = 0


@dataclass(frozen=True)
class MulParameters:
    """The fields of kws_mul_t, in its order."""

    x1_zero_point: int
    x2_zero_point: int
    output_zero_point: int
    output_shift: int
    output_multiplier: int
    activation_min: int
    activation_max: int


Quantization = tuple[float, int]
"""(scale, zero point) of an int8 tensor."""


def add_parameters(
    x1: Quantization, x2: Quantization, y: Quantization, activation: str = "none"
) -> AddParameters:
    """ADD: all in float64."""
    twice_max = 2.0 * max(x1[0], x2[0])
    return _add_parameters(
        (x1, x2, y),
        (x1[0] / twice_max, x2[0] / twice_max),
        twice_max / ((1 << ADD_LEFT_SHIFT) * float(y[0])),
        subtract=0,
        clamp=calculate_activation_range(activation, *y),
    )


def sub_parameters(
    x1: Quantization, x2: Quantization, y: Quantization, activation: str = "none"
) -> AddParameters:
    """SUB: unlike ADD, TFLM computes its multipliers in float32."""
    twice_max = _float32_product(2.0, max(x1[0], x2[0]))
    return _add_parameters(
        (x1, x2, y),
        (_float32_quotient(x1[0], twice_max), _float32_quotient(x2[0], twice_max)),
        _float32_quotient(twice_max, _float32_product(1 << ADD_LEFT_SHIFT, y[0])),
        subtract=1,
        clamp=calculate_activation_range(activation, *y),
    )


def squared_difference_parameters(
    x1: Quantization, x2: Quantization, y: Quantization
) -> AddParameters:
    """SQUARED_DIFFERENCE: float64, the divisor float32, no fused activation."""
    twice_max = 2.0 * max(x1[0], x2[0])
    divisor = _float32_product(1 << (2 * SQUARED_DIFFERENCE_LEFT_SHIFT), y[0])
    return _add_parameters(
        (x1, x2, y),
        (x1[0] / twice_max, x2[0] / twice_max),
        twice_max * twice_max / divisor,
        subtract=1,
        clamp=(INT8_MIN, INT8_MAX),
    )


def _add_parameters(
    quantizations: tuple[Quantization, Quantization, Quantization],
    input_multipliers: tuple[float, float],
    output_multiplier: float,
    subtract: int,
    clamp: tuple[int, int],
) -> AddParameters:
    x1, x2, y = quantizations
    multiplier1, shift1 = quantize_multiplier(input_multipliers[0])
    multiplier2, shift2 = quantize_multiplier(input_multipliers[1])
    multiplier, shift = quantize_multiplier(output_multiplier)
    return AddParameters(
        x1_zero_point=x1[1],
        x2_zero_point=x2[1],
        output_zero_point=y[1],
        x1_shift=shift1,
        x2_shift=shift2,
        output_shift=shift,
        x1_multiplier=multiplier1,
        x2_multiplier=multiplier2,
        output_multiplier=multiplier,
        subtract=subtract,
        activation_min=clamp[0],
        activation_max=clamp[1],
    )


def mul_parameters(
    x1: Quantization, x2: Quantization, y: Quantization, activation: str = "none"
) -> MulParameters:
    """MUL: float64."""
    multiplier, shift = quantize_multiplier(float(x1[0]) * float(x2[0]) / float(y[0]))
    low, high = calculate_activation_range(activation, *y)
    return MulParameters(x1[1], x2[1], y[1], shift, multiplier, low, high)


def _clamp(value: int, low: int = INT8_MIN, high: int = INT8_MAX) -> int:
    return min(max(value, low), high)


def add(p: AddParameters, x1: int, x2: int) -> int:
    """One element of ADD or SUB."""
    scaled1 = multiply_by_quantized_multiplier(
        (x1 - p.x1_zero_point) << ADD_LEFT_SHIFT, p.x1_multiplier, p.x1_shift
    )
    scaled2 = multiply_by_quantized_multiplier(
        (x2 - p.x2_zero_point) << ADD_LEFT_SHIFT, p.x2_multiplier, p.x2_shift
    )
    total = scaled1 - scaled2 if p.subtract else scaled1 + scaled2
    value = multiply_by_quantized_multiplier(total, p.output_multiplier, p.output_shift)
    return _clamp(value + p.output_zero_point, p.activation_min, p.activation_max)


def _every_add(p: AddParameters) -> np.ndarray:
    """int64 [256, 256]: `add` of all pairs of inputs."""
    values = range(INT8_MIN, INT8_MAX + 1)
    scaled1, scaled2 = (
        np.array(
            [
                multiply_by_quantized_multiplier(
                    (x - zero_point) << ADD_LEFT_SHIFT, multiplier, shift
                )
                for x in values
            ]
        )
        for zero_point, multiplier, shift in (
            (p.x1_zero_point, p.x1_multiplier, p.x1_shift),
            (p.x2_zero_point, p.x2_multiplier, p.x2_shift),
        )
    )
    total = scaled1[:, None] + (-scaled2 if p.subtract else scaled2)
    product = (total * p.output_multiplier + (1 << 30)) >> 31
    if p.output_shift < 0:
        half = 1 << (-p.output_shift - 1)
        product = (product + half - (product < 0)) >> -p.output_shift
    return np.clip(product + p.output_zero_point, p.activation_min, p.activation_max)


@functools.lru_cache(maxsize=1024)
def linear_add(p: AddParameters) -> LinearAdd:
    """Factors with which an ADD or SUB is one linear form, for each of the 65,536 pairs
    of inputs; tried are those nearest to the real ones first.

    Returns:
        None but zeros where no such factors were found (TFLM's roundings are not one),
        or where another clamp than int8's own is fused.
    """
    if (p.activation_min, p.activation_max) != (INT8_MIN, INT8_MAX):
        return LinearAdd()
    y = _every_add(p)
    x = np.arange(INT8_MIN, INT8_MAX + 1)
    # Of what is saturated, only one side is asked for.
    least = np.where(y > INT8_MIN, y << LINEAR_SHIFT, -(2**40))
    most = np.where(y < INT8_MAX, ((y + 1) << LINEAR_SHIFT) - 1, 2**40)
    one = math.ldexp(p.output_multiplier, p.output_shift + ADD_LEFT_SHIFT - 62)
    near1, near2 = (
        round(math.ldexp(one * multiplier, shift + LINEAR_SHIFT))
        for multiplier, shift in (
            (p.x1_multiplier, p.x1_shift),
            (-p.x2_multiplier if p.subtract else p.x2_multiplier, p.x2_shift),
        )
    )
    reach = range(-LINEAR_REACH, LINEAR_REACH + 1)
    for step1, step2 in sorted(
        itertools.product(reach, reach), key=lambda steps: max(map(abs, steps))
    ):
        factors = near1 + step1, near2 + step2
        if 0 in factors or max(map(abs, factors)) >= 1 << 24:
            continue
        values = factors[0] * x[:, None] + factors[1] * x
        low, high = int((least - values).max()), int((most - values).min())
        offset = (low + high) // 2
        if (
            low <= high
            and int(values.min()) + offset >= INT32_MIN
            and int(values.max()) + offset <= INT32_MAX
        ):
            return LinearAdd(*factors, offset)
    return LinearAdd()


def squared_difference(p: AddParameters, x1: int, x2: int) -> int:
    """One element of SQUARED_DIFFERENCE."""
    left = SQUARED_DIFFERENCE_LEFT_SHIFT
    difference = multiply_by_quantized_multiplier(
        (x1 - p.x1_zero_point) << left, p.x1_multiplier, p.x1_shift
    ) - multiply_by_quantized_multiplier(
        (x2 - p.x2_zero_point) << left, p.x2_multiplier, p.x2_shift
    )
    value = multiply_by_quantized_multiplier(
        difference * difference, p.output_multiplier, p.output_shift
    )
    return _clamp(value + p.output_zero_point)


def mul(p: MulParameters, x1: int, x2: int) -> int:
    """One element of MUL."""
    value = multiply_by_quantized_multiplier(
        (x1 - p.x1_zero_point) * (x2 - p.x2_zero_point),
        p.output_multiplier,
        p.output_shift,
    )
    return _clamp(value + p.output_zero_point, p.activation_min, p.activation_max)


# ---- SOFTMAX and MEAN --------------------------------------------------------------


def softmax_exp_table(beta: float, scale: float) -> list[int]:
    """exp(-d * beta * scale), Q0.31, for a difference of d = 0..255 int8 steps.

    0 stands beyond TFLM's `diff_min`, where it leaves the element out: the sum and
    the output are the same.
    """
    integer_bits = 5
    real = min(float(beta) * float(scale) * (1 << (31 - integer_bits)), 2.0**31 - 1.0)
    multiplier, left_shift = quantize_multiplier(real)
    if real <= 1.0 or left_shift < 0:
        raise ValueError(
            "SOFTMAX's input scale is too small for TFLM (beta * scale must be above "
            f"2**-26). Received: beta={beta}, scale={scale}"
        )
    diff_min = -calculate_input_radius(integer_bits, left_shift)
    table = []
    for difference in range(256):
        if -difference < diff_min:
            table.append(0)
            continue
        rescaled = saturating_rounding_doubling_high_mul(
            _wrap32(-difference << left_shift), multiplier
        )
        table.append(exp_on_negative_values(rescaled, integer_bits))
    return table


def calculate_input_radius(integer_bits: int, left_shift: int) -> int:
    """Largest |input| whose rescaled value fits Q(integer_bits)."""
    return math.floor(
        ((1 << integer_bits) - 1) * float(1 << (31 - integer_bits)) / 2.0**left_shift
    )


def softmax(exp_table: Sequence[int], row: Sequence[int]) -> list[int]:
    """One row of SOFTMAX, as the C kernel does it."""
    largest = max(row)
    exps = [exp_table[largest - value] for value in row]
    total = sum(rounding_divide_by_pot(exp, 12) for exp in exps)
    headroom = 32 - total.bit_length()
    reciprocal = one_over_one_plus_x((total << headroom) - 2**31)
    exponent = 12 - headroom + 31 - 8
    return [
        _clamp(
            rounding_divide_by_pot(
                saturating_rounding_doubling_high_mul(reciprocal, exp), exponent
            )
            + INT8_MIN
        )
        for exp in exps
    ]


@dataclass(frozen=True)
class MeanParameters:
    """The fields of kws_mean_t, in its order."""

    count: int
    input_zero_point: int
    output_zero_point: int
    multiplier: int
    shift: int


def mean_parameters(x: Quantization, y: Quantization, count: int) -> MeanParameters:
    """MEAN over `count` elements: 1 / count goes into the multiplier, truncated."""
    multiplier, shift = quantize_multiplier(float(x[0]) / float(y[0]))
    count_shift = min(count.bit_length() - 1, 32, 31 + shift)
    return MeanParameters(
        count=count,
        input_zero_point=x[1],
        output_zero_point=y[1],
        multiplier=(multiplier << count_shift) // count,
        shift=shift - count_shift,
    )


# ---- Unary operators as tables -----------------------------------------------

Table = list[int]
"""256 int8 values; index = input + 128."""


def _table(function: Callable[[int], int]) -> Table:
    return [function(value) for value in range(INT8_MIN, INT8_MAX + 1)]


def compose_tables(*tables: Sequence[int]) -> Table:
    """The chain first, second, ... as one table.

    Example:
        >>> compose_tables([0] * 256, list(range(-128, 128)))[:3]
        [0, 0, 0]
    """
    result = list(range(INT8_MIN, INT8_MAX + 1))
    for table in tables:
        result = [table[value + 128] for value in result]
    return result


def _saturating_curve(
    x: Quantization, function: Callable[[int], int], fraction_bits: int, offset: int
) -> Table:
    """TANH and LOGISTIC: Q4.27 in, rails beyond the input's radius."""
    integer_bits = 4
    fraction, left_shift = math.frexp(float(x[0]) * (1 << (31 - integer_bits)))
    multiplier = math.floor(fraction * 2**31 + 0.5)
    radius = calculate_input_radius(integer_bits, left_shift)

    def element(value: int) -> int:
        value -= x[1]
        if value <= -radius:
            return INT8_MIN
        if value >= radius:
            return INT8_MAX
        rescaled = _wrap32(
            multiply_by_quantized_multiplier(value, multiplier, left_shift)
        )
        result = function(rescaled)
        return _clamp(rounding_divide_by_pot(result, 31 - fraction_bits) + offset)

    return _table(element)


def tanh_table(x: Quantization) -> Table:
    """TANH; output scale 1/128, zero point 0."""
    return _saturating_curve(x, lambda a: tanh_fixed_point(a, 4), 7, 0)


def logistic_table(x: Quantization) -> Table:
    """LOGISTIC; output scale 1/256, zero point -128."""
    return _saturating_curve(x, lambda a: logistic_fixed_point(a, 4), 8, -128)


def _inverse_square_root(value: int) -> tuple[int, int]:
    """1 / sqrt(value) as (multiplier, TFLM shift); gemmlowp-style Newton, 5 rounds."""
    if value <= 1:
        return INT32_MAX, 0
    mul = saturating_rounding_doubling_high_mul
    right_shift = 11
    while value >= 1 << 29:
        value //= 4
        right_shift += 1
    pairs = (32 - value.bit_length() - 1) // 2 - 1
    right_shift -= pairs
    value <<= 2 * pairs
    x_input = value >> 1
    half_input = rounding_divide_by_pot(x_input, 1)
    half_three = (1 << 28) + (1 << 27)
    x = 1 << 28
    for _ in range(5):
        # Q9 * ... back to Q3: three and six integer bits more to shift out.
        cube = _saturating_shift_left(mul(mul(x, x), x), 6)
        x = _saturating_shift_left(mul(half_three, x) - mul(half_input, cube), 3)
    x = mul(x, 1518500250)
    if right_shift < 0:
        x <<= -right_shift
        right_shift = 0
    return x, -right_shift


def rsqrt_table(x: Quantization, y: Quantization) -> Table:
    """RSQRT. TFLM refuses inputs below the zero point; here they give 127 too."""
    precision = 20
    scale = _float32_product(float(np.sqrt(np.float32(x[0]))), y[0])
    multiplier, shift = quantize_multiplier(1.0 / scale)

    def element(value: int) -> int:
        value -= x[1]
        if value <= 0:
            return INT8_MAX
        root_multiplier, root_shift = _inverse_square_root(value)
        data = multiply_by_quantized_multiplier(
            1, root_multiplier, root_shift + precision
        )
        result = multiply_by_quantized_multiplier(data, multiplier, shift - precision)
        return _clamp(result + y[1])

    return _table(element)


def _wrap16(value: int) -> int:
    return (value + 2**15) % 2**16 - 2**15


def _high_mul_16(a: int, b: int) -> int:
    if a == b == -(2**15):
        return 2**15 - 1
    return (a * b + (1 << 14)) >> 15


def _downscale_multiplier(multiplier: int) -> int:
    if multiplier >= INT32_MAX - (1 << 15):
        return 2**15 - 1
    return (multiplier + (1 << 15)) >> 16


def hard_swish_table(x: Quantization, y: Quantization) -> Table:
    """HARD_SWISH in TFLM's 16-bit fixed point."""
    hires_scale = _float32_product(1.0 / 128.0, x[0])
    output_multiplier, output_exponent = quantize_multiplier(
        _float32_quotient(hires_scale, y[0])
    )
    relu_multiplier, relu_exponent = quantize_multiplier(
        _float32_quotient(hires_scale, _float32_quotient(3.0, 32768.0))
    )
    if output_exponent > 0:
        raise ValueError(
            "HARD_SWISH's output scale is too small for TFLM. "
            f"Received: input scale {x[0]}, output scale {y[0]}"
        )
    output_multiplier = _downscale_multiplier(output_multiplier)
    relu_multiplier = _downscale_multiplier(relu_multiplier)

    def saturate(value: int) -> int:
        return _clamp(value, -(2**15), 2**15 - 1)

    def element(value: int) -> int:
        hires = _wrap16(_wrap16(value - x[1]) << 7)
        preshift = _high_mul_16(hires, output_multiplier)
        relu = hires
        if relu_exponent > 0:
            relu = saturate(relu << (relu_exponent - 1))
        relu = _high_mul_16(relu, relu_multiplier)
        if relu_exponent > 0:
            relu = saturate(relu << 1)
        if relu_exponent < 0:
            relu = rounding_divide_by_pot(relu, -relu_exponent)
        relu = (relu + (1 << 15)) >> 1
        product = relu * preshift
        result = abs(product) >> 15
        result = result if product >= 0 else -result
        result = rounding_divide_by_pot(result, -output_exponent)
        return _clamp(_wrap16(result + y[1]))

    return _table(element)


def requantize_table(x: Quantization, y: Quantization) -> Table:
    """QUANTIZE, int8 to int8."""
    multiplier, shift = quantize_multiplier(float(x[0]) / float(y[0]))
    return _table(
        lambda value: _clamp(
            multiply_by_quantized_multiplier(value - x[1], multiplier, shift) + y[1]
        )
    )


def relu_table(x: Quantization, y: Quantization) -> Table:
    """RELU as an operator of its own (a fused one is a clamp)."""
    multiplier, shift = quantize_multiplier(_float32_quotient(x[0], y[0]))
    low = max(INT8_MIN, y[1])
    return _table(
        lambda value: _clamp(
            multiply_by_quantized_multiplier(value - x[1], multiplier, shift) + y[1],
            low,
        )
    )


def relu6_table(x: Quantization) -> Table:
    """RELU6 as an operator of its own: TFLM only clamps, the scales must be equal."""
    six = min(INT8_MAX, x[1] + _round_away(_float32_quotient(6.0, x[0])))
    return _table(lambda value: _clamp(value, x[1], six))
