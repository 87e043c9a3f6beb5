"""95 % intervals: of a share (accuracy) and of a count (false alarms)."""

from __future__ import annotations

import math
from collections.abc import Callable


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Example:
        >>> [round(x, 4) for x in wilson_interval(94, 100)]
        [0.8752, 0.9722]
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"expected 0 <= hits <= n, n >= 1. Received: {hits}, {n}")
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if hits == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if hits == n else min(1.0, (centre + spread) / scale)
    return (low, high)


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Garwood) interval for the mean of a Poisson count.

    Example:
        >>> [round(x, 3) for x in poisson_interval(0)]
        [0.0, 3.689]
    """
    if count < 0:
        raise ValueError(f"count must be at least 0. Received: {count}")
    tail = (1 - confidence) / 2
    # P(X >= count | low) = tail and P(X <= count | high) = tail, by bisection.
    low = 0.0
    if count:
        low = _bisect(lambda mean: 1 - _poisson_cdf(count - 1, mean) - tail, count)
    high = _bisect(lambda mean: tail - _poisson_cdf(count, mean), count)
    return low, high


def _poisson_cdf(count: int, mean: float) -> float:
    """P(X <= count), summed in logarithms: no overflow at any mean."""
    if mean <= 0:
        return 1.0
    log_mean = math.log(mean)
    terms = [k * log_mean - mean - math.lgamma(k + 1) for k in range(count + 1)]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _bisect(rising: Callable[[float], float], count: int) -> float:
    low, high = 0.0, count + 12 * math.sqrt(count + 1) + 12
    for _ in range(200):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
