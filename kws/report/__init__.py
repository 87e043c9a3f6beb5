"""The sweep as one HTML page: nothing to install, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from kws.bundle import read_json
from kws.errors import KwsError

PAGE = Path(__file__).with_name("page.html")

# What can be drawn across: key of a point, name, and whether it is a share.
AXES = (
    ("mhsa_mac_cut", "MHSA's MACs cut (Q·Kᵀ by pairs, as the papers count)", True),
    ("mhsa_mac_cut_rows", "MHSA's MACs cut (Q·Kᵀ by rows, as a Cortex-M runs)", True),
    ("mac_cut", "The whole model's MACs cut (by pairs)", True),
    ("mac_cut_rows", "The whole model's MACs cut (by rows)", True),
    ("macs.mean", "MACs per inference, mean", False),
    ("macs.p95", "MACs per inference, 95 % of clips below", False),
)
NUMBERS = ("accuracy", "divergence", "mhsa_mac_cut", "mac_cut", "comparisons")


def load_sweep(path: Path) -> dict[str, Any]:
    """Read sweep.json (or the folder that it is in) and check what the page needs.

    Raises:
        KwsError: no such file, or not one that kws sweep wrote.
    """
    file = path / "sweep.json" if path.is_dir() else path
    if not file.is_file():
        raise KwsError(
            f"No sweep here. Expected a folder with sweep.json. Received: {path}",
            "kws sweep RUN",
        )
    table = read_json(file)
    points = table.get("points") if isinstance(table, dict) else None
    pareto = table.get("pareto") if isinstance(table, dict) else None
    if (
        not isinstance(points, list)
        or not points
        or not all(_is_point(item) for item in points)
        or not isinstance(pareto, list)
        or not pareto
        or not all(isinstance(i, int) and 0 <= i < len(points) for i in pareto)
    ):
        raise KwsError(
            f"Not a sweep: expected points and pareto. Received: {file}",
            "kws sweep RUN",
        )
    return table


def _is_point(item: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and math.isfinite(value)

    return (
        isinstance(item, dict)
        and all(number(item.get(name)) for name in NUMBERS)
        and isinstance(item.get("ci95"), list)
        and len(item["ci95"]) == 2
        and all(number(value) for value in item["ci95"])
        and isinstance(item.get("macs"), dict)
        and isinstance(item.get("layer_cut"), list)
        and all(number(value) for value in item["layer_cut"])
        and isinstance(item.get("thresholds"), dict)
        and all(number(value) for value in item["thresholds"].values())
    )


def page(table: dict[str, Any]) -> str:
    """The page of a sweep.

    Args:
        table: From `load_sweep`.

    Returns:
        HTML that needs no other file.
    """
    points = table["points"]
    run = str(table.get("run", "RUN"))
    picked = table.get("picked")
    data = {
        "run": run,
        "features": table.get("features", "board"),
        "points": points,
        "pareto": table["pareto"],
        "picked": points.index(picked) if picked in points else None,
        "axes": [{"key": k, "name": n, "share": share} for k, n, share in AXES],
    }
    dense = points[0]
    low, high = dense["ci95"]
    parts = {
        "title": f"Delta thresholds of {html.escape(run)}",
        "subtitle": html.escape(
            f"{table.get('task')}, {table.get('split')} split, {table.get('n')} clips; "
            f"dense: {100 * dense['accuracy']:.2f} % right "
            f"(95 %: {100 * low:.2f} to {100 * high:.2f}), "
            f"{dense['macs']['mean'] / 1e6:.1f} M multiply-accumulates"
        ),
        "n": html.escape(str(table.get("n"))),
        "axes": "".join(
            f'<option value="{i}">{html.escape(name)}</option>'
            for i, (_, name, _) in enumerate(AXES)
        ),
        "table": _table(points, table["pareto"]),
        # Nothing in the data may end the script element.
        "data": json.dumps(data).replace("<", "\\u003c"),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"@@{name}@@", value)
    return text


def _table(points: list[dict[str, Any]], pareto: list[int]) -> str:
    boards = sorted({board for p in points for board in p.get("instructions", {})})
    names = ["accuracy", "loss", "MHSA cut", "by rows", "model cut", "by rows", "MACs"]
    names += [f"instructions {board}" for board in boards]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    dense = points[0]["accuracy"]
    rows = []
    for index in pareto:
        item = points[index]
        cells = [
            f"{100 * item['accuracy']:.2f} %",
            f"{100 * (dense - item['accuracy']):.2f}",
            *(
                f"{100 * item[name]:.1f} %" if name in item else ""
                for name in (
                    "mhsa_mac_cut",
                    "mhsa_mac_cut_rows",
                    "mac_cut",
                    "mac_cut_rows",
                )
            ),
            f"{item['macs']['mean'] / 1e6:.2f} M",
            *(f"{item.get('instructions', {}).get(board, '')}" for board in boards),
        ]
        body = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr data-point="{index}">{body}</tr>')
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
