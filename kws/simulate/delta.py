"""The delta encoding: an element is transmitted only where it has moved enough.

Along the token rows of a tensor, every element keeps the value that was last
transmitted (its reference). A row transmits an element where

    |x - reference| > threshold

and only there does the reference move, so every held element stays within the
threshold of its true value, for ever: errors do not add up from row to row. (To
threshold x[i] - x[i-1] instead would let them drift.) Equal is held: with threshold 0
exactly the repeats are, and the result equals the input bit for bit.

The first rows are transmitted whole: row 0 has no reference, and where row 0 is a
class token, row 1 has nothing to do with it.

Background: Neil et al. 2017, "Delta Networks"; Jelcicova and Verhelst 2022, "Delta
Keyword Transformer" (its rule for the reference is not published; this is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Encoded:
    """A tensor as the far side of the encoding sees it.

    Args:
        held: [B, T, D], the type of the input: the references after each row.
        sent: bool [T, B, D]: what was transmitted (rows first, as it was made).
    """

    held: Array
    sent: Array

    @cached_property
    def columns(self) -> Array:
        """int64 [B, D]: transmitted elements of every column."""
        return self.sent.sum(axis=0, dtype=np.int64)


def encode(values: Array, threshold: float, dense_rows: int = 1) -> Encoded:
    """Delta-encode a batch of tensors along their rows.

    One code path for both arithmetics: float32 values with a real threshold, int8
    values with a whole number of int8 steps.

    Args:
        values: float32 or int8 [B, T, D].
        threshold: At least 0, in the values' own unit; int8 steps must be whole.
        dense_rows: Rows at the start that are transmitted whole; 1..T.

    Returns:
        What was held and what was transmitted.

    Raises:
        ValueError: a shape, type or threshold that is none of the above.

    Example:
        >>> row = np.array([[0.0], [0.3], [0.6], [0.7]], np.float32)[None]
        >>> encode(row, 0.5).held[0, :, 0].tolist()
        [0.0, 0.0, 0.6000000238418579, 0.6000000238418579]
    """
    if values.ndim != 3 or values.dtype not in (np.float32, np.int8):
        raise ValueError(
            "Expected float32 or int8 [B, T, D]. "
            f"Received: shape={values.shape}, dtype={values.dtype}"
        )
    if not threshold >= 0 or (values.dtype == np.int8 and threshold != int(threshold)):
        raise ValueError(
            "Expected a threshold of at least 0, whole for int8. "
            f"Received: threshold={threshold}"
        )
    batch, rows, _ = values.shape
    if not 1 <= dense_rows <= rows:
        raise ValueError(f"Expected 1 to {rows}. Received: dense_rows={dense_rows}")
    # A difference of two int8 needs nine bits.
    wide = np.float32 if values.dtype == np.float32 else np.int16
    source = np.ascontiguousarray(values.transpose(1, 0, 2), dtype=wide)
    limit = wide(threshold)
    sent = np.ones(source.shape, dtype=bool)
    held = source.copy()
    change = np.empty(source.shape[1:], dtype=wide)
    for row in range(dense_rows, rows):
        np.subtract(source[row], held[row - 1], out=change)
        np.abs(change, out=change)
        np.greater(change, limit, out=sent[row])
        np.copyto(held[row], held[row - 1], where=~sent[row])
    return Encoded(
        held=np.ascontiguousarray(held.transpose(1, 0, 2), dtype=values.dtype),
        sent=sent,
    )


def hold(values: Array, threshold: float, dense_rows: int) -> tuple[Array, Array]:
    """`encode`, or everything transmitted where the threshold is negative.

    Returns:
        held [B, T, D]; transmitted elements by column, int64 [B, D].
    """
    if threshold < 0:
        batch, rows, width = values.shape
        return values, np.full((batch, width), rows, np.int64)
    encoded = encode(values, threshold, dense_rows)
    return encoded.held, encoded.columns
