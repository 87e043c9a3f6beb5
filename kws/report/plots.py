"""A sweep as pictures (PNG): accuracy against MACs and against instructions."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours: told apart by everybody.
GRID, REFINED, CHOSEN = "#8a8f98", "#d55e00", "#0072b2"
POINTS_BELOW = 0.10  # of accuracy below the dense network that is shown


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against.

    Args:
        name: File name and key.
        title: Of the axis.
        path: Keys to a point's value.
        share: It is a share that is saved (0..1, the more the better), not a count.
        front: Indices of the points that no other beats.
    """

    name: str
    title: str
    path: tuple[str, ...]
    share: bool
    front: tuple[int, ...]

    def value(self, point: dict[str, Any]) -> float | None:
        """A point's value; None where it was not measured."""
        at: Any = point
        for key in self.path:
            at = at.get(key) if isinstance(at, dict) else None
        return None if at is None else float(at)


def png(table: dict[str, Any], axis: Axis, chosen: int | None) -> bytes:
    """One plot.

    Args:
        table: Of a sweep.
        axis: What accuracy is drawn against.
        chosen: The point that was picked.

    Returns:
        A PNG of 1280 x 880 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    points, dense = table["points"], table["points"][0]
    scale = 100.0 if axis.share else 1e-6
    floor = 100 * (dense["accuracy"] - POINTS_BELOW)

    def place(index: int) -> tuple[float, float]:
        x = axis.value(points[index])
        assert x is not None
        return scale * x, 100 * float(points[index]["accuracy"])

    known = [i for i, point in enumerate(points) if axis.value(point) is not None]
    shown = [i for i in known if place(i)[1] >= floor]
    figure = Figure(figsize=(8, 5.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    low, high = (100 * value for value in dense["ci95"])
    plot.axhspan(
        low, high, color="#2f7d4f", alpha=0.12, lw=0, label="95 % interval of dense"
    )
    for refined, colour, name in (
        (False, GRID, "one setting for all layers"),
        (True, REFINED, "one per layer and tensor"),
    ):
        some = [
            place(i)
            for i in shown
            if i and (points[i]["stage"] in ("refined", "worth")) == refined
        ]
        if some:
            x, y = zip(*some, strict=True)
            plot.scatter(x, y, s=18, color=colour, label=name)
    front = sorted(place(i) for i in axis.front if i in shown)
    if front:
        plot.plot(
            *zip(*front, strict=True), color="#1d1d1b", lw=1.2, label="Pareto front"
        )
    plot.scatter(
        *place(0), s=90, marker="D", color="#1d1d1b", label="dense: nothing skipped"
    )
    if chosen in shown:
        plot.scatter(
            *place(chosen),
            s=170,
            facecolors="none",
            edgecolors=CHOSEN,
            linewidths=2.5,
            label=f"chosen: point {chosen}",
        )
    lowest = min(place(i)[1] for i in shown)
    plot.set_ylim(
        lowest - 0.5, min(100.0, max(high, *(place(i)[1] for i in shown)) + 1)
    )
    plot.set_xlabel(
        axis.title + (" (%)  more is better" if axis.share else ", millions")
    )
    plot.set_ylabel(f"right, % of {table.get('n'):,} {table.get('split')} clips")
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plot.set_title(f"{table.get('run', '')}, {table.get('task')}", loc="left")
    plot.grid(color="#dddcd5", lw=0.6)
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(loc="lower left" if axis.share else "lower right", frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
