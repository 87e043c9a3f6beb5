"""How weights lie in flash for each core's kernels, and how much scratch kernels need.

Scratch sizes do not depend on the core, so that one memory plan serves all; they are
the KWS_..._SCRATCH_BYTES macros of firmware/include/kws_kernels.h, which
tests/test_kernels.py compares with these.

Example:
    >>> len(layout(np.ones((3, 5), np.int8), "portable"))
    15
    >>> len(layout(np.ones((3, 5), np.int8), "dsp"))
    32
"""

from __future__ import annotations

import numpy as np

CORES = ("portable", "dsp", "mve")

# Rows of patches that CONV_2D gathers at a time (KWS_CONV_2D_BLOCK).
CONV_2D_BLOCK = 12

# Rows between two choices of a delta product's kernel (KWS_DELTA_BLOCK).
DELTA_BLOCK = 6

# Cores whose dense layers with thresholds keep weights for the dense kernel too; on a
# stream for that alone, and a row is computed dense or not at all. Helium is cheaper
# dense from 16 % transmitted (docs/delta.md). The others have less flash: with
# thresholds they keep the sparse kernels' weights alone.
DELTA_KEEPS_DENSE = ("mve",)

# Convolutions of a stream skip single elements where a window has this many inputs at
# least. Smaller windows don't pay for it, nor does Helium (measured, docs/delta.md):
# they only skip steps in which nothing moved.
DELTA_CONV_2D_INPUTS = {"portable": 16, "dsp": 64}
# What is counted as skipped, on every core: what all but Helium skip.
DELTA_CONV_2D_COUNTED = max(DELTA_CONV_2D_INPUTS.values())


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def layout(weights: np.ndarray, core: str) -> bytes:
    """The bytes of a FULLY_CONNECTED (or flattened CONV_2D) weight matrix in flash.

    Args:
        weights: int8 [outputs, inputs], from -127 up.
        core: `portable` and `mve` keep rows as they are. `dsp` pads with zeros to an
            even number of outputs and a multiple of 4 inputs, and mixes two rows in
            16 bits, row 0 + 256 * row 1: inputs 0, 2, 1, 3 of each four, as SXTB16
            gives their activations.

    Returns:
        The bytes; 4-byte alignment is up to the emitter.

    Raises:
        ValueError: another core, or not an int8 matrix.
    """
    if weights.ndim != 2 or weights.dtype != np.int8:
        raise ValueError(
            "Weights must be an int8 matrix [outputs, inputs]. "
            f"Received: shape={weights.shape}, dtype={weights.dtype}"
        )
    if core not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}. Received: {core!r}")
    if core != "dsp":
        return np.ascontiguousarray(weights).tobytes()
    outputs, inputs = weights.shape
    padded = np.zeros((round_up(outputs, 2), round_up(inputs, 4)), np.int8)
    padded[:outputs, :inputs] = weights
    fours = padded.reshape(padded.shape[0] // 2, 2, -1, 4)[..., [0, 2, 1, 3]]
    mixed = fours[:, 0].astype(np.int32) + 256 * fours[:, 1].astype(np.int32)
    return mixed.astype("<i2").tobytes()


def depthwise_layout(weights: np.ndarray, core: str) -> bytes:
    """The bytes of a DEPTHWISE_CONV_2D's weights in flash.

    Args:
        weights: int8 [channels, taps], from -127 up.
        core: `portable` keeps the channels as they are. `mve` takes 16 channels at a
            time, one tap of all of them after another; the last 16 reach back over
            channels that were there before. `dsp` takes 4 channels, two taps at a
            time, as 16-bit pairs: one word for each channel; a tap that is left over
            comes as channels 0 and 2, then 1 and 3. Where there are fewer channels,
            they are padded with zeros.

    Returns:
        The bytes; 4-byte alignment is up to the emitter.
    """
    if core == "portable":
        return np.ascontiguousarray(weights).tobytes()
    channels, taps = weights.shape
    size = {"dsp": 4, "mve": 16}[core]
    padded = np.zeros((round_up(channels, size), taps), np.int8)
    padded[:channels] = weights
    groups = padded.reshape(-1, size, taps).transpose(0, 2, 1)
    if core == "mve":
        if channels > size:
            groups[-1] = weights[-size:].T
        return np.ascontiguousarray(groups).tobytes()
    even = taps // 2 * 2
    pairs = groups[:, :even].reshape(len(groups), even // 2, 2, size)
    parts = [pairs.transpose(0, 1, 3, 2).reshape(len(groups), -1)]
    if taps % 2:
        parts.append(groups[:, -1, [0, 2, 1, 3]])
    return np.concatenate(parts, axis=1).astype("<i2").tobytes()


def delta_columns(count: int) -> int:
    """KWS_DELTA_COLUMNS: the padded width of a matrix read by its inputs' rows."""
    return round_up(count, 8)


def delta_stride(count: int) -> int:
    """KWS_DELTA_STRIDE: from row to row of such a matrix."""
    return round_up(count, 4)


def delta_layout(weights: np.ndarray, core: str) -> np.ndarray:
    """Weights as the delta kernels read them.

    Args:
        weights: int8 [outputs, inputs].
        core: All but `mve` have every byte XOR 128 (KWS_DELTA_FLIP).

    Returns:
        int8 [inputs * delta_stride(outputs) + rest], rows padded with zeros; behind the
        last one what is missing to delta_columns(outputs).
    """
    outputs, inputs = weights.shape
    stride = delta_stride(outputs)
    out = np.zeros(inputs * stride + delta_columns(outputs) - stride, np.int8)
    out[: inputs * stride].reshape(inputs, stride)[:, :outputs] = weights.T
    return out if core == "mve" else out ^ np.int8(-128)


def delta_list_bytes(inputs: int) -> int:
    """KWS_DELTA_LIST_BYTES."""
    return 8 * (inputs + 1)


def delta_fully_connected_state_bytes(inputs: int, outputs: int) -> int:
    """KWS_DELTA_FULLY_CONNECTED_STATE_BYTES."""
    return 16 + 16 * delta_columns(outputs) + 2 * round_up(inputs, 4)


def delta_fully_connected_scratch_bytes(inputs: int, dense: bool) -> int:
    """KWS_DELTA_FULLY_CONNECTED_(DENSE_)SCRATCH_BYTES."""
    if not dense:
        return delta_list_bytes(inputs)
    return round_up(DELTA_BLOCK * inputs, 4) + fully_connected_scratch_bytes(inputs)


def delta_step_state_bytes(inputs: int, outputs: int, dense: bool) -> int:
    """KWS_DELTA_STEP_(DENSE_)STATE_BYTES."""
    sums = 0 if dense else 4 * delta_columns(outputs)
    return round_up(inputs, 4) + round_up(outputs, 4) + sums


def delta_step_scratch_bytes(inputs: int) -> int:
    """KWS_DELTA_STEP_SCRATCH_BYTES: a list, or what the dense kernel needs."""
    return delta_list_bytes(round_up(inputs, 4))


def delta_conv_2d_state_bytes(positions: int, outputs: int, window: int) -> int:
    """KWS_DELTA_CONV_2D_(COLUMNS_)STATE_BYTES; window 0: without columns."""
    sums = 4 * positions * delta_columns(outputs) if window else 0
    return 4 + round_up(positions * outputs, 4) + sums + round_up(window, 4)


def delta_conv_2d_scratch_bytes(window: int, patch: int, height: int) -> int:
    """KWS_DELTA_CONV_2D_SCRATCH_BYTES."""
    return delta_list_bytes(window) + delta_list_bytes(patch) + 4 * height


def delta_batch_matmul_state_bytes(inner: int, columns: int) -> int:
    """KWS_DELTA_BATCH_MATMUL_STATE_BYTES."""
    return 8 + 4 * delta_columns(columns) + round_up(inner, 4) + delta_list_bytes(inner)


def delta_attention_state_bytes(tokens: int, heads: int, head_dim: int) -> int:
    """KWS_DELTA_ATTENTION_STATE_BYTES."""
    columns, head_columns = delta_columns(tokens), delta_columns(head_dim)
    return (
        heads * (5 * columns + 5 * head_columns + 8)
        + columns
        + delta_list_bytes(max(tokens, head_dim))
    )


def fully_connected_scratch_bytes(inputs: int) -> int:
    """KWS_FULLY_CONNECTED_SCRATCH_BYTES."""
    return 8 * round_up(inputs, 4)


def conv_2d_scratch_bytes(inputs: int) -> int:
    """KWS_CONV_2D_SCRATCH_BYTES; inputs = filter height * width * channels."""
    return round_up(CONV_2D_BLOCK * inputs, 4) + fully_connected_scratch_bytes(inputs)


def depthwise_conv_2d_scratch_bytes(taps: int, channels: int) -> int:
    """KWS_DEPTHWISE_CONV_2D_SCRATCH_BYTES; taps = filter height * width."""
    return 8 * taps + round_up(channels, 4)


def batch_matmul_scratch_bytes(inner: int) -> int:
    """KWS_BATCH_MATMUL_SCRATCH_BYTES."""
    return 8 * round_up(inner, 4)


def batch_matmul_columns_scratch_bytes(inner: int) -> int:
    """KWS_BATCH_MATMUL_COLUMNS_SCRATCH_BYTES."""
    return 16 * round_up(inner, 8)


def attention_v_stride(tokens: int) -> int:
    """KWS_ATTENTION_V_STRIDE: bytes between rows of the transposed V."""
    return round_up(tokens, 4)


def attention_k_bytes(tokens: int, width: int) -> int:
    """KWS_ATTENTION_K_BYTES: the buffer of K; width = heads * head_dim."""
    return round_up(tokens, 2) * width


def attention_scratch_bytes(tokens: int, heads: int, head_dim: int) -> int:
    """KWS_ATTENTION_SCRATCH_BYTES."""
    columns = round_up(tokens, 4)
    width = heads * head_dim
    return (
        4 * tokens * heads
        + 4 * width
        + 9 * columns
        + 6 * head_dim
        + 2 * max(columns, width)
    )


def linear_attention_state_bytes(width: int) -> int:
    """KWS_LINEAR_ATTENTION_STATE_BYTES: z, and S in blocks of four columns."""
    return 4 * width * (1 + round_up(width, 4))


def linear_attention_scratch_bytes(width: int) -> int:
    """KWS_LINEAR_ATTENTION_SCRATCH_BYTES."""
    return 16 * width + 4 * round_up(width, 4)


def mean_rows_scratch_bytes(columns: int) -> int:
    """KWS_MEAN_ROWS_SCRATCH_BYTES."""
    return 4 * columns
