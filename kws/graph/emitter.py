"""What an operator's C may ask for as it is emitted: `kws.emit.calls.Model` gives it.

An attention variant emits calls of kernels of its own without knowing who writes the
file (kws/attention/<name>/graph.py).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from kws.graph.nodes import Node, Product


class Emitter(Protocol):
    """A model's constants, counters, and where every tensor is."""

    core: str

    def constant(self, prefix: str, values: np.ndarray) -> str:
        """The symbol of a constant array; equal arrays are stored once."""

    def struct(self, ctype: str, fields: dict[str, object]) -> str:
        """`&symbol` of a constant struct; equal structs are stored once."""

    def counter(self, ctype: str, owner: object | None = None) -> str:
        """The symbol of a counter of transmitted elements.

        Args:
            ctype: Its C type.
            owner: Several nodes that share a counter name the same object.
        """

    def count_sent(self, product: Product, counter: str, rows: int) -> None:
        """Enter a product into the table of those that skip.

        Args:
            product: The product.
            counter: C of its count of transmitted elements.
            rows: Rows that are run.
        """

    def rows(self, total: int) -> str:
        """C for how many rows of `total` the call at hand computes."""

    @property
    def first_rows(self) -> tuple[str, str]:
        """C for whether a call is a run's first, and for the first row it computes."""

    def input(self, node: Node, index: int) -> str:
        """C for the address of an input."""

    def ring_row(self, node: Node, index: int, oldest: bool) -> str:
        """C for the address of a ring's row, of the step at hand or the oldest.

        Args:
            node: Reads it.
            index: Of its inputs: a HISTORY's output, with one row a step.
            oldest: Which.
        """

    def output(self, node: Node) -> str:
        """C for the address of the output."""

    def scratch(self, node: Node) -> str:
        """C for the address of the node's scratch."""

    def call(self, function: str, *arguments: object) -> list[str]:
        """Lines of one call."""
