"""Pick one point of a sweep by a condition such as `accuracy>=0.95`."""

from __future__ import annotations

import re
from typing import Any

from kws.errors import KwsError

QUANTITIES = ("accuracy", "loss", "mhsa_mac_cut", "mac_cut", "macs")


def value(point: dict[str, Any], name: str, dense: float) -> float:
    """A point's figure by name; `loss` is the dense network's accuracy less its own."""
    if name == "loss":
        return dense - float(point["accuracy"])
    if name == "macs":
        return float(point["macs"]["mean"])
    return float(point[name])


def pick(table: dict[str, Any], condition: str) -> dict[str, Any]:
    """The best point that meets a condition.

    Of the points that meet a condition on accuracy or loss, the one with the fewest
    MACs; of those that meet one on MACs, the one whose outputs moved least (which says
    more than the accuracy on a thousand clips).

    Args:
        table: What a sweep returns.
        condition: `NAME>=NUMBER` or `NAME<=NUMBER`, NAME one of `QUANTITIES`.

    Raises:
        KwsError: not such a condition, or no point meets it.

    Example:
        >>> pick(table, "loss<=0.005")["mhsa_mac_cut"]  # doctest: +SKIP
        0.86
    """
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*", condition)
    try:
        if match is None or match[1] not in QUANTITIES:
            raise ValueError
        limit = float(match[3])
    except ValueError:
        raise KwsError(
            f"Bad condition. Expected NAME>=NUMBER or NAME<=NUMBER, NAME one of "
            f"{', '.join(QUANTITIES)}. Received: {condition!r}",
            '--pick "loss<=0.005"',
        ) from None
    name = match[1]
    points = table["points"]
    dense = float(points[0]["accuracy"])
    values = [value(point, name, dense) for point in points]
    sign = 1.0 if match[2] == ">=" else -1.0
    meeting = [
        point
        for point, x in zip(points, values, strict=True)
        if sign * (x - limit) >= -1e-12
    ]
    if not meeting:
        best = max(values) if sign > 0 else min(values)
        raise KwsError(
            f"No point of the sweep meets the condition. Expected {condition.strip()}. "
            f"Received: {name} {best:.6g} at best",
            f'--pick "{name}{match[2]}{best:.4g}"',
        )
    if name in ("accuracy", "loss"):
        return max(meeting, key=lambda p: (p["mhsa_mac_cut"], -p["divergence"]))
    return min(meeting, key=lambda p: p["divergence"])
