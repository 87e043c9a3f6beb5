"""A sweep as a page and as plots: see each threshold's price and pick one."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Any

from kws import attention
from kws.bundle import Bundle, read_json, write_atomic
from kws.errors import KwsError
from kws.graph.cost import DIRECTIONS, PLACES
from kws.report import plots, shell
from kws.report.plots import Axis
from kws.report.shell import Section, term, text

TEMPLATE = Path(__file__).with_name("sweep.html")

NUMBERS = ("accuracy", "divergence", "mhsa_mac_cut", "mac_cut", "comparisons")


def axes(table: dict[str, Any]) -> list[Axis]:
    """What a sweep's accuracy can be drawn against, the most useful first."""
    found = [
        Axis(
            f"instructions_{board}",
            f"Instructions per inference on {board} (measured)",
            ("instructions", board),
            False,
            tuple(facts["pareto"]),
        )
        for board, facts in table.get("boards", {}).items()
    ]
    if any(point["mhsa_mac_cut"] for point in table["points"]):
        found.append(
            Axis(
                "mhsa_macs",
                "MACs of attention (MHSA) that are cut",
                ("mhsa_mac_cut",),
                True,
                tuple(table["pareto"]),
            )
        )
    found.append(
        Axis(
            "model_macs",
            "MACs of the whole model that are cut",
            ("mac_cut",),
            True,
            tuple(table.get("pareto_model", table["pareto"])),
        )
    )
    return found


def folder_of(bundle: Bundle) -> Path:
    """Where `kws sweep` puts a run's sweep, if it isn't told."""
    shipped = Path("build") / bundle.path.name
    return (shipped if bundle.shipped else bundle.path) / "sweep"


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
    if not isinstance(table, dict) or not _is_sweep(table):
        raise KwsError(
            f"Not a sweep: expected points and pareto. Received: {file}",
            "kws sweep RUN",
        )
    return table


def _is_sweep(table: dict[str, Any]) -> bool:
    points, boards = table.get("points"), table.get("boards", {})
    if not isinstance(points, list) or not points or not isinstance(boards, dict):
        return False
    if not isinstance(table.get("n"), int):
        return False
    if not shell.is_command(_command(table), "kws", "sweep"):
        return False
    if table.get("setup") and not shell.is_command(table["setup"], "cp", "-r"):
        return False
    fronts = [table.get("pareto"), table.get("pareto_model", [0])]
    for board, facts in boards.items():
        if not isinstance(facts, dict) or not _is_number(facts.get("dense")):
            return False
        if facts["dense"] <= 0 or not _measured_dense(points[0], board):
            return False
        fronts.append(facts.get("pareto"))
    return all(_is_point(item, boards) for item in points) and all(
        isinstance(front, list)
        and front
        and all(isinstance(i, int) and 0 <= i < len(points) for i in front)
        for front in fronts
    )


def _command(table: dict[str, Any]) -> Any:
    """What was typed; a number on the page goes on from there."""
    return table.get("command", shlex.join(["kws", "sweep", _run(table)]))


def _run(table: dict[str, Any]) -> str:
    return str(table.get("run", "RUN"))


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max  # JSON's whole numbers have no bound of their own
    return isinstance(value, (int, float)) and -largest <= value <= largest


def _measured_dense(first: Any, board: str) -> bool:
    """Every axis starts at the dense network, point 0."""
    return isinstance(first, dict) and board in (first.get("instructions") or {})


def _is_bytes(found: Any) -> bool:
    """{memory: {purpose: {direction: number}}}, as kws.graph.cost has it."""
    return isinstance(found, dict) and all(
        isinstance(purposes, dict)
        and all(
            isinstance(numbers, dict) and all(map(_is_number, numbers.values()))
            for numbers in purposes.values()
        )
        for purposes in found.values()
    )


def _is_point(item: Any, boards: dict[str, Any]) -> bool:
    return (
        isinstance(item, dict)
        and all(_is_number(item.get(name)) for name in NUMBERS)
        and isinstance(item.get("ci95"), list)
        and len(item["ci95"]) == 2
        and all(_is_number(value) for value in item["ci95"])
        and isinstance(item.get("macs"), dict)
        and all(_is_number(item["macs"].get(name)) for name in ("mean", "p95"))
        and _is_bytes(item.get("bytes", {}))
        and isinstance(item.get("layer_cut"), list)
        and all(_is_number(value) for value in item["layer_cut"])
        and isinstance(item.get("thresholds"), dict)
        and all(_is_number(value) for value in item["thresholds"].values())
        and isinstance(item.get("stage"), str)
        and isinstance(item.get("steps", {}), dict)
        and all(_is_number(value) for value in item.get("steps", {}).values())
        and isinstance(item.get("instructions", {}), dict)
        and all(
            board in boards and _is_number(value)
            for board, value in item.get("instructions", {}).items()
        )
    )


def write(table: dict[str, Any], folder: Path, out: Path | None = None) -> list[Path]:
    """Write the page, and the plots where matplotlib is installed.

    Args:
        table: From `kws sweep` or `load_sweep`.
        folder: Of the plots.
        out: The page; report.html in the folder where None.

    Returns:
        The files, the page first.
    """
    written = [out or folder / "report.html"]
    write_atomic(written[0], page(table).encode())
    if importlib.util.find_spec("matplotlib") is not None:
        for axis in axes(table):
            written.append(folder / f"accuracy_{axis.name}.png")
            write_atomic(written[-1], plots.png(table, axis, chosen_index(table)))
    return written


def chosen_index(table: dict[str, Any]) -> int | None:
    """Which point was picked."""
    picked, points = table.get("picked"), table["points"]
    return points.index(picked) if picked in points else None


def page(table: dict[str, Any]) -> str:
    """The page of a sweep alone.

    Args:
        table: From `load_sweep`.

    Returns:
        HTML that needs no other file.
    """
    part = Section("sweep", "Delta thresholds", body(table))
    return shell.page(f"Delta thresholds for {_run(table)}", "", [part])


def body(table: dict[str, Any]) -> str:
    """The part of a page.

    Args:
        table: From `load_sweep`.
    """
    points = table["points"]
    run = _run(table)
    names = attention.kind_names()
    kinds = [
        kind
        for kind in names
        if any(
            key.rpartition(".")[2] == kind for p in points for key in p["thresholds"]
        )
    ]
    every = axes(table)
    data = {
        "target": shlex.quote(str(table.get("target", run))),
        "setup": _first(table),
        "command": _command(table),
        "integer": table.get("engine") == "int8",
        "points": points,
        "picked": chosen_index(table),
        "kinds": {kind: names[kind] for kind in kinds},
        "axes": [
            {"title": a.title, "path": a.path, "share": a.share, "front": a.front}
            for a in every
        ],
    }
    parts = {
        "delta": term("delta", "delta threshold"),
        "facts": _facts(table),
        "n": text(f"{table.get('n'):,}"),
        "axes": "".join(
            f'<option value="{i}">{text(axis.title)}</option>'
            for i, axis in enumerate(every)
        ),
        "tables": "".join(_front(table, i, axis) for i, axis in enumerate(every)),
        "kinds": text("; ".join(f"{k}: {names[k]}" for k in kinds)),
        "clips": _clips(table),
        "bytes": _bytes(table),
        "setup": _setup(table),
        "data": shell.data("sweep-data", data),
    }
    return shell.fill(TEMPLATE.read_text(encoding="utf-8"), parts)


def _facts(table: dict[str, Any]) -> str:
    """The dense network in a few figures."""
    dense = table["points"][0]
    low, high = dense["ci95"]
    facts = [
        (
            f"{100 * dense['accuracy']:.2f} %",
            f"right, of {table.get('n'):,} {table.get('split')} clips "
            f"of {table.get('task')} (95 %: {100 * low:.1f} to {100 * high:.1f})",
        ),
        (_millions(dense["macs"]["mean"]), "multiply-accumulates (MACs)"),
    ]
    for board, facts_ in table.get("boards", {}).items():
        facts.append((_millions(facts_["dense"]), f"instructions on {board}"))
    return "".join(
        f"<li><b>{text(figure)}</b> {text(name)}</li>" for figure, name in facts
    )


def _bytes(table: dict[str, Any]) -> str:
    """What a run touches, by memory and purpose: dense, and as picked."""
    points, picked = table["points"], chosen_index(table)
    columns = {"dense": points[0].get("bytes")}
    if picked:
        columns[f"point {picked}"] = points[picked].get("bytes")
    shown = {name: found for name, found in columns.items() if found}
    if not shown:
        return ""
    head = "".join(f"<th>{text(name)}, read</th><th>written</th>" for name in shown)
    rows = []
    for memory, purpose in dict.fromkeys(place[:2] for place in PLACES):
        cells = [
            f"<td>{found.get(memory, {}).get(purpose, {}).get(direction, 0):,}</td>"
            for found in shown.values()
            for direction in DIRECTIONS
        ]
        name = f"{'RAM' if memory == 'ram' else memory}, {purpose}"
        rows.append(f"<tr><td>{text(name)}</td>{''.join(cells)}</tr>")
    return (
        "<h3>Bytes touched by one model run</h3><p>Each operator on its own, without a "
        "cache; mean over the clips.</p>"
        + shell.wide(
            f"<table><thead><tr><th>memory, purpose</th>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>",
            "Bytes touched by one model run",
        )
    )


def _clips(table: dict[str, Any]) -> str:
    boards = table.get("boards", {})
    if not boards:
        return "No instructions were measured."
    return "Instructions: mean of one model run, counted exactly under QEMU. " + (
        " ".join(
            text(
                f"{board}: {facts.get('measured')} settings on "
                f"{facts.get('clips')} clips each."
            )
            for board, facts in boards.items()
        )
        + " A dot without a count is not drawn on that axis."
    )


def _first(table: dict[str, Any]) -> str | None:
    """What comes before the commands: a shipped run is copied first."""
    return f"mkdir -p runs && {table['setup']}" if table.get("setup") else None


def _setup(table: dict[str, Any]) -> str:
    first = _first(table)
    return "" if first is None else f" Before the first: <code>{text(first)}</code>"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


def pick_command(table: dict[str, Any], index: int) -> str:
    """What chooses a point: the sweep again, which reads its journal."""
    return f"{_command(table)} --pick point={index}"


def _front(table: dict[str, Any], number: int, axis: Axis) -> str:
    """The table of one axis's front."""
    points, boards = table["points"], table.get("boards", {})
    names = ["point", "accuracy", "against dense", "MHSA cut", "model cut"]
    names += list(boards)
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    dense = points[0]["accuracy"]
    rows = []
    for index in sorted(axis.front, key=lambda i: -points[i]["accuracy"]):
        item = points[index]
        cells = [
            f"{100 * item['accuracy']:.2f} %",
            f"{100 * (item['accuracy'] - dense):+.2f}",
            f"{100 * item['mhsa_mac_cut']:.1f} %",
            f"{100 * item['mac_cut']:.1f} %",
        ]
        for board, facts in boards.items():
            count = item.get("instructions", {}).get(board)
            cells.append(
                "-"
                if count is None
                else f"{_millions(count)} ({100 * (count / facts['dense'] - 1):+.0f} %)"
            )
        body = "".join(f"<td>{text(cell)}</td>" for cell in cells)
        rows.append(
            f'<tr data-point="{index}"><td><button type="button">{index}</button></td>'
            f'{body}</tr><tr class="how"><td colspan="{len(names)}"><div>'
            f"<code>{text(pick_command(table, index))}</code>"
            f"<span>{text(_thresholds(item))}</span></div></td></tr>"
        )
    return (
        f'<div data-axis="{number}"><h3>{text(axis.title)}</h3>'
        + shell.wide(
            f"<table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>",
            axis.title,
        )
        + "</div>"
    )


def _thresholds(item: dict[str, Any]) -> str:
    steps = item.get("steps")
    if not item["thresholds"]:
        return "dense: no thresholds"
    if steps is not None:
        return "int8 steps " + " ".join(f"{k}={v}" for k, v in steps.items())
    return " ".join(f"{k}={v:g}" for k, v in item["thresholds"].items())
