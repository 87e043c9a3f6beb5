"""Fields of the kernels' structs (firmware/include/kws_kernels.h), from nodes."""

from __future__ import annotations

import numpy as np

from kws.graph import operators
from kws.graph import quantized_math as qm
from kws.graph.nodes import Node


def batch_matmul(node: Node) -> dict[str, object]:
    """kws_batch_matmul_t.

    Raises:
        KwsError: scales that no shift bridges.
    """
    a, b, y = node.input(0), node.input(1), node.output
    multiplier, shift = qm.batch_matmul_multiplier(a.scale, b.scale, y.scale)
    if not -31 <= shift <= 30:
        raise operators.refuse(node, "scales too far apart")
    return {
        "a_zero_point": a.zero_point,
        "b_zero_point": b.zero_point,
        "multiplier": multiplier,
        "shift": shift,
        "activation_min": -128,
        "activation_max": 127,
        "output_zero_point": y.zero_point,
    }


def softmax_exponentials(node: Node) -> np.ndarray:
    """The table of a kws_softmax_t, int32 [256].

    Raises:
        KwsError: a beta or scale that the table can't hold.
    """
    try:
        table = qm.softmax_exp_table(node.options["Beta"], node.input(0).scale)
    except ValueError as error:
        raise operators.refuse(node, str(error)) from None
    return np.array(table, np.int32)
