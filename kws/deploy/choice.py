"""What a person chooses from: probes, ports, drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """A probe, port or drive to choose from.

    Args:
        id: What the user types.
        title: What it is.
    """

    id: str
    title: str


# Lets a person choose one of several; returns its index.
Ask = Callable[[str, Sequence[Found]], int]
