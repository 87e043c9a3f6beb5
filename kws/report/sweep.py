"""A sweep as a page and as plots: see each threshold's price and pick one."""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Any

from kws import attention
from kws.bundle import Bundle, read_json, write_atomic
from kws.errors import KwsError, quoted
from kws.graph.cost import DIRECTIONS, PLACES
from kws.report import plots, shell
from kws.report.plots import Axis
from kws.report.shell import Section, term, text

TEMPLATE = Path(__file__).with_name("sweep.html")

# What is drawn: name -> title, path to a point's value, path to its interval, whether
# less is better.
MEASURES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], bool]] = {
    "accuracy": ("Accuracy on clips", ("accuracy",), ("ci95",), False),
    "missed": (
        "Words missed on the tapes",
        ("tape", "miss_rate"),
        ("tape", "miss_rate_ci95"),
        True,
    ),
    "alarms": (
        "False alarms an hour",
        ("tape", "false_alarms_per_hour"),
        ("tape", "false_alarms_per_hour_ci95"),
        True,
    ),
}
OF_TAPE = ("hours", "words", "missed", "miss_rate", "false_alarms") + (
    "false_alarms_per_hour",
    "macs_per_second",
    "mac_cut",
    "at_rest",
)
NUMBERS = ("accuracy", "divergence", "mhsa_mac_cut", "mac_cut", "comparisons")


def axes(table: dict[str, Any]) -> list[Axis]:
    """What a sweep's accuracy can be drawn against, the most useful first."""
    heard = table.get("on_tapes")
    found = [
        Axis(
            f"instructions_{board}",
            f"Instructions per inference on {board} (measured)"
            if heard is None
            else f"Instructions a second of the tapes on {board} (measured)",
            ("instructions" if heard is None else "instructions_per_second", board),
            False,
            tuple(facts["pareto"]),
        )
        for board, facts in table.get("boards", {}).items()
    ]
    if heard is not None:
        found.append(
            Axis(
                "tape_macs",
                "MACs a second of the tapes",
                ("tape", "macs_per_second"),
                False,
                tuple(heard["pareto"]),
            )
        )
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


def measures(table: dict[str, Any]) -> list[str]:
    """What of MEASURES a sweep has."""
    return list(MEASURES) if "on_tapes" in table else ["accuracy"]


def front(points: list[dict[str, Any]], axis: Axis, measure: str) -> tuple[int, ...]:
    """Points that no other beats in a measure and on an axis, the dearest first."""
    if measure == "accuracy":
        return axis.front
    _, path, _, _ = MEASURES[measure]

    def key(index: int) -> tuple[float, float, float]:
        work, point = axis.value(points[index]), points[index]
        assert work is not None
        return (-work if axis.share else work, _at(point, path), point["divergence"])

    known = [i for i, point in enumerate(points) if axis.value(point) is not None]
    chosen: list[int] = []
    for index in sorted(known, key=key):
        if not chosen or key(index)[1] < key(chosen[-1])[1]:
            chosen.append(index)
    return tuple(chosen[::-1])


def _at(point: dict[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = point
    for name in path:
        found = found[name]
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


def of_run(bundle: Bundle) -> dict[str, Any]:
    """The sweep in a run's folder.

    Raises:
        KwsError: as `load_sweep`; or it is of another network.
    """
    folder = folder_of(bundle)
    table = load_sweep(folder)
    files = [path for path in (bundle.model_path, bundle.weights_path)]
    here = {hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
    if table.get("network") not in (None, *here):  # older ones do not say
        raise KwsError(
            "The sweep is of another network: it was trained or converted since. "
            f"Received: {folder}",
            f"rm -r {quoted(folder)} && kws sweep RUN",
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
    heard = table.get("on_tapes")
    if heard is not None:
        if not isinstance(heard, dict) or not all(map(_has_tape, points)):
            return False
        if not all(
            _is_number(heard.get(name)) for name in ("hours", "excerpt_seconds")
        ):
            return False
        fronts += [heard.get("pareto"), heard.get("pareto_faults")]
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


def _has_tape(item: Any) -> bool:
    """What was found on tapes, of a point."""
    found = item.get("tape") if isinstance(item, dict) else None
    return (
        isinstance(found, dict)
        and all(_is_number(found.get(name)) for name in OF_TAPE)
        and all(
            isinstance(found.get(name), list)
            and len(found[name]) == 2
            and all(map(_is_number, found[name]))
            for name in ("miss_rate_ci95", "false_alarms_per_hour_ci95")
        )
        and isinstance(found.get("sounds"), dict)
        and all(map(_is_number, found["sounds"].values()))
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
        and all(
            isinstance(item.get(name, {}), dict)
            and all(
                board in boards and _is_number(value)
                for board, value in item.get(name, {}).items()
            )
            for name in ("instructions", "instructions_per_second")
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
            {
                "title": a.title,
                "path": a.path,
                "share": a.share,
                "fronts": {name: front(points, a, name) for name in measures(table)},
            }
            for a in every
        ],
        "measures": {
            name: dict(
                zip(("title", "path", "interval", "less"), MEASURES[name], strict=True)
            )
            for name in measures(table)
        },
    }
    parts = {
        "delta": term("delta", "delta threshold"),
        "facts": _facts(table),
        "n": text(f"{table.get('n'):,}"),
        "orby": ", or by the tapes" if "on_tapes" in table else "",
        "axes": "".join(
            f'<option value="{i}">{text(axis.title)}</option>'
            for i, axis in enumerate(every)
        ),
        "measures": "".join(
            f'<option value="{name}">{text(MEASURES[name][0])}</option>'
            for name in measures(table)
        ),
        "tables": "".join(
            _front(table, i, axis, name)
            for i, axis in enumerate(every)
            for name in measures(table)
        ),
        "heard": _heard(table),
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
    if "on_tapes" in table:
        found = dense["tape"]
        least, most = (100 * share for share in found["miss_rate_ci95"])
        few, many = found["false_alarms_per_hour_ci95"]
        facts += [
            (
                f"{100 * found['miss_rate']:.1f} %",
                f"missed of {found['words']} words on the tapes (95 %: {least:.1f} to "
                f"{most:.1f})",
            ),
            (
                f"{found['false_alarms_per_hour']:.2f}",
                f"false alarms an hour, of {found['hours']:.2f} h (95 %: {few:.2f} to "
                f"{many:.2f})",
            ),
            (_millions(found["macs_per_second"]), "MACs a second"),
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
    if "on_tapes" in table:
        seconds = table["on_tapes"]["excerpt_seconds"]
        return (
            "Instructions: features and network, counted exactly under QEMU on "
            f"{seconds:.0f} s of the tapes. A dot without a count is not drawn on that "
            "axis."
        )
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


def _heard(table: dict[str, Any]) -> str:
    """What the tapes are, and whose detector heard them."""
    found = table.get("on_tapes")
    if found is None:
        return ""
    kinds = dict.fromkeys(str(tape.get("kind")) for tape in found.get("tapes", []))
    hours = {
        kind: sum(t["hours"] for t in found["tapes"] if str(t.get("kind")) == kind)
        for kind in kinds
    }
    told = ", ".join(f"{kind} {hours[kind]:.2f} h" for kind in kinds)
    return (
        f"<p>Chosen on {term('tape', 'tapes')}: each choice ran through them as one "
        f"stream ({text(told)}), with the run's own detector. Few faults on a short "
        "tape say little: mind the intervals.</p>"
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


def _front(table: dict[str, Any], number: int, axis: Axis, measure: str) -> str:
    """The table of one axis's front, by one measure."""
    points, boards = table["points"], table.get("boards", {})
    on_tapes = "on_tapes" in table
    key = "instructions_per_second" if on_tapes else "instructions"
    names = ["point", "accuracy", "against dense"]
    names += ["missed", "false alarms an hour", "MACs a second"] if on_tapes else []
    names += ["MHSA cut"] * any(p["mhsa_mac_cut"] for p in points)
    names.append("cut on clips" if on_tapes else "model cut")
    names += [f"{board}, a second" if on_tapes else board for board in boards]
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    dense = points[0]["accuracy"]
    rows = []
    chosen = front(points, axis, measure)
    for index in sorted(chosen, key=lambda i: -points[i]["accuracy"]):
        item = points[index]
        cells = [
            f"{100 * item['accuracy']:.2f} %",
            f"{100 * (item['accuracy'] - dense):+.2f}",
        ]
        if on_tapes:
            found = item["tape"]
            cells += [
                f"{found['missed']} = {100 * found['miss_rate']:.1f} %",
                f"{found['false_alarms']} = {found['false_alarms_per_hour']:.2f}",
                _millions(found["macs_per_second"]),
            ]
        if "MHSA cut" in names:
            cells.append(f"{100 * item['mhsa_mac_cut']:.1f} %")
        cells.append(f"{100 * item['mac_cut']:.1f} %")
        for board in boards:
            count = item.get(key, {}).get(board)
            whole = points[0].get(key, {}).get(board)
            cells.append(
                "-"
                if count is None or not whole
                else f"{_millions(count)} ({100 * (count / whole - 1):+.0f} %)"
            )
        body = "".join(f"<td>{text(cell)}</td>" for cell in cells)
        rows.append(
            f'<tr data-point="{index}"><td><button type="button">{index}</button></td>'
            f'{body}</tr><tr class="how"><td colspan="{len(names)}"><div>'
            f"<code>{text(pick_command(table, index))}</code>"
            f"<span>{text(_thresholds(item))}</span></div></td></tr>"
        )
    title = axis.title if not on_tapes else f"{MEASURES[measure][0]}: {axis.title}"
    return (
        f'<div data-axis="{number}" data-measure="{measure}"><h3>{text(title)}</h3>'
        + shell.wide(
            f"<table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>",
            title,
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
