"""Pick one point of a sweep by a condition such as `accuracy>=0.95`."""

from __future__ import annotations

import re
from typing import Any

from kws.errors import KwsError

QUANTITIES = ("accuracy", "loss", "mhsa_mac_cut", "mac_cut", "macs", "instructions")
OF_TAPES = {  # name -> key of what was found on tapes
    "misses": "miss_rate",
    "false_alarms": "false_alarms_per_hour",
    "macs_per_second": "macs_per_second",
}
# What is heard, which is paid for with work.
HEARD = ("accuracy", "loss", "misses", "false_alarms")
_CONDITION = re.compile(
    r"\s*(\w+)\s*(?:\[\s*([\w-]+)\s*\])?\s*(>=|<=|=)\s*([0-9.eE+-]+)\s*"
)


def value(
    point: dict[str, Any], name: str, dense: float, board: str | None = None
) -> float | None:
    """A point's figure by name; None where it was not measured.

    Args:
        point: Of a sweep.
        name: One of `QUANTITIES` or `OF_TAPES`; `loss` is the dense network's accuracy
            less its own.
        dense: The dense network's accuracy.
        board: Whose instructions.
    """
    if name == "loss":
        return dense - float(point["accuracy"])
    if name == "macs":
        return float(point["macs"]["mean"])
    if name == "instructions":
        count = point.get("instructions", {}).get(board)
        return None if count is None else float(count)
    if name in OF_TAPES:
        found = point.get("tape")
        return None if found is None else float(found[OF_TAPES[name]])
    return float(point[name])


def pick(table: dict[str, Any], condition: str) -> dict[str, Any]:
    """The best point that meets a condition.

    Of the points that meet a condition on accuracy, loss, misses or false alarms, the
    one with the fewest MACs; of those that meet one on MACs or instructions, the one
    whose outputs moved least (which says more than the accuracy on a thousand clips).

    Args:
        table: What a sweep returns.
        condition: `NAME>=NUMBER` or `NAME<=NUMBER`, NAME one of `QUANTITIES`, or of
            `OF_TAPES` where the sweep had tapes;
            `instructions[BOARD]` for another board than the sweep's first;
            `point=NUMBER` for that point.

    Raises:
        KwsError: not such a condition, or no point meets it.

    Example:
        >>> names = ("accuracy", "mhsa_mac_cut", "divergence")
        >>> rows = (0.956, 0.0, 0.0), (0.953, 0.71, 0.1), (0.949, 0.86, 0.2)
        >>> table = {"points": [dict(zip(names, row)) for row in rows]}
        >>> pick(table, "loss<=0.005")["mhsa_mac_cut"]
        0.71
    """
    name, board, sign, limit = parse(condition, list(table.get("boards", {})))
    points = table["points"]
    if name == "point":
        if not 0 <= limit < len(points) or limit != int(limit):
            raise KwsError(
                f"No such point. Expected 0 to {len(points) - 1}. "
                f"Received: {condition.strip()}",
                f'--pick "point={table["pareto"][-1]}"',
            )
        return dict(points[int(limit)])
    dense = float(points[0]["accuracy"])
    known = [
        (point, x)
        for point in points
        if (x := value(point, name, dense, board)) is not None
    ]
    if not known:
        raise KwsError(
            f"The sweep has no tapes: expected some, for {name}. Received: "
            f"{condition.strip()}",
            "kws sweep RUN --tape tapes",
        )
    meeting = [point for point, x in known if sign * (x - limit) >= -1e-12]
    if not meeting:
        best = max((x for _, x in known), key=lambda x: sign * x)
        where = f"[{board}]" if board else ""
        raise KwsError(
            f"No point of the sweep meets the condition. Expected {condition.strip()}. "
            f"Received: {name}{where} {best:.8g} at best",
            f'--pick "{name}{where}{">=" if sign > 0 else "<="}{_round(best, sign)}"',
        )
    if name in HEARD:
        if all("tape" in point for point in points):
            return max(meeting, key=lambda p: (p["tape"]["mac_cut"], -p["divergence"]))
        # A network for streams may have no MHSA.
        cut = "mhsa_mac_cut" if any(p["mhsa_mac_cut"] for p in points) else "mac_cut"
        return max(meeting, key=lambda p: (p[cut], -p["divergence"]))
    return min(meeting, key=lambda p: p["divergence"])


def parse(condition: str, boards: list[str]) -> tuple[str, str | None, float, float]:
    """Read a condition: name, board, 1 for >= or -1 for <=, limit.

    Args:
        condition: See `pick`.
        boards: What the sweep measures on; the first where none is named.

    Raises:
        KwsError: not such a condition.
    """
    match = _CONDITION.fullmatch(condition)
    try:
        if match is None or match[1] not in (*QUANTITIES, *OF_TAPES, "point"):
            raise ValueError
        limit = float(match[4])
        if (match[3] == "=") != (match[1] == "point"):
            raise ValueError
        if match[2] is not None and match[1] != "instructions":
            raise ValueError
    except ValueError:
        raise KwsError(
            f"Bad condition. Expected NAME>=NUMBER or NAME<=NUMBER, NAME one of "
            f"{', '.join((*QUANTITIES, *OF_TAPES))} or instructions[BOARD]; or "
            "point=NUMBER. "
            f"Received: {condition!r}",
            '--pick "loss<=0.005"',
        ) from None
    board = None
    if match[1] == "instructions":
        board = match[2] or (boards[0] if boards else None)
        if board not in boards:
            raise KwsError(
                "The sweep has no instructions of such a board. Expected one of "
                f"{', '.join(boards) or 'none: nothing was measured'}. "
                f"Received: {condition!r}",
                f"kws sweep RUN --boards {board or 'qemu-m4'}",
            )
    return match[1], board, -1.0 if match[3] == "<=" else 1.0, limit


def _round(best: float, sign: float) -> str:
    """A limit of few digits that `best` meets."""
    if abs(best) >= 1000:
        return str(int(best) + (sign < 0))
    return f"{best - sign * 5e-5:.4f}"
