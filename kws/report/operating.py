"""A run's operating points as one HTML page: misses against false alarms an hour."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from kws.bundle import write_atomic
from kws.errors import KwsError
from kws.intervals import poisson_interval, wilson_interval
from kws.tapes import describe_figures

TEMPLATE = Path(__file__).with_name("operating.html")
PAGE = "operating_points.html"


def write(table: dict[str, Any], out: Path) -> Path:
    """Write the page.

    Args:
        table: From kws.operating_points.
        out: The file.
    """
    write_atomic(out, page(table).encode())
    return out


def page(table: dict[str, Any]) -> str:
    """The page of a calibration: HTML that needs no other file.

    Args:
        table: From kws.operating_points.

    Raises:
        KwsError: a table that kws calibrate did not write.
    """
    try:
        parts = _parts(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KwsError(
            f"The table of operating points is broken: {error!r}.",
            "kws calibrate RUN --tape tapes   (makes it again)",
        ) from None
    # In one pass: what is put in may look like a place itself.
    return re.sub(
        "@@([a-z]+)@@",
        lambda match: parts[match[1]],
        TEMPLATE.read_text(encoding="utf-8"),
    )


def _parts(table: dict[str, Any]) -> dict[str, str]:
    hours = float(table["hours"])
    said = {str(word): int(count) for word, count in table["said"].items()}
    words = list(said)
    series: list[tuple[str, int, int | None]] = [
        ("all words", int(table["words"]), None)
    ]
    series += [(word, said[word], i) for i, word in enumerate(words)]
    data = {
        "hours": hours,
        "command": str(table["command"]),
        "wanted": table["aim"]["false_alarms"],
        "series": [
            {
                "name": name,
                "said": count,
                "points": _dots(table["curve"], hours, count, place),
                "before": _marked(table["before"], hours, count, name, place),
                "after": _marked(table["after"], hours, count, name, place),
            }
            for name, count, place in series
            if count
        ],
    }
    rows = "".join(
        f"<tr><td>{html.escape(text)}</td><td>{html.escape(describe_figures(f))}</td></tr>"
        for text, f in (
            ("before", table["before"]),
            ("after", table["after"]),
            ("expected of other sound", table["held_out"]),
            *(
                (f"after, {kind}", figures)
                for kind, figures in table["after"]["kinds"].items()
            ),
        )
    )
    tapes = "".join(
        f"<tr><td>{html.escape(str(t['name']))}</td><td>{html.escape(str(t['kind']))}"
        f"</td><td>{float(t['hours']):.3f}</td><td>{int(t['words'])}</td></tr>"
        for t in table["tapes"]
    )
    own = "".join(
        f"<tr><td>{html.escape(word)}</td><td>{said[word]}</td>"
        f"<td>{float(after['threshold']):.4f}</td>"
        f"<td>{int(table['before']['per_word'][word]['misses'])}</td>"
        f"<td>{int(after['misses'])}</td>"
        f"<td>{int(table['before']['per_word'][word]['false_alarms'])}</td>"
        f"<td>{int(after['false_alarms'])}</td></tr>"
        for word, after in table["after"]["per_word"].items()
    )
    detector = table["after"]["detector"]
    return {
        "title": f"Misses and false alarms of {html.escape(str(table['run']))}",
        "figures": rows,
        "tapes": tapes,
        "words": own,
        "detector": html.escape(
            ", ".join(
                f"{key} {detector[key]}"
                for key in ("hop_frames", "smoothing", "rearm", "refractory_ms")
            )
        ),
        "common": html.escape(str(table["why_common"] or "none do")),
        # Nothing in the data may end the script element.
        "data": json.dumps(data).replace("<", "\\u003c"),
    }


def _dots(
    curve: list[dict[str, Any]], hours: float, said: int, place: int | None
) -> list[dict[str, Any]]:
    """The points of a curve, of one word or of all; none twice."""
    dots: dict[tuple[int, int], dict[str, Any]] = {}
    for point in curve:
        misses, alarms = (
            sum(point[key]) if place is None else int(point[key][place])
            for key in ("misses", "false_alarms")
        )
        shares = _shares(misses, alarms, hours, said)
        # Of thresholds that do as well the highest.
        dots[misses, alarms] = {"threshold": float(point["threshold"]), **shares}
    return list(dots.values())


def _marked(
    figures: dict[str, Any], hours: float, said: int, name: str, place: int | None
) -> dict[str, Any]:
    """Where the settings before, or after, are."""
    if place is None:
        return _shares(figures["missed"], figures["false_alarms"], hours, said)
    word = figures["per_word"][name]
    return {
        "threshold": float(word["threshold"]),
        **_shares(word["misses"], word["false_alarms"], hours, said),
    }


def _shares(misses: int, alarms: int, hours: float, said: int) -> dict[str, Any]:
    low, high = poisson_interval(alarms)
    return {
        "misses": misses,
        "missed": round(misses / said, 5),
        "missed_ci95": [round(x, 5) for x in wilson_interval(misses, said)],
        "alarms": alarms,
        "rate": round(alarms / hours, 5),
        "rate_ci95": [round(low / hours, 5), round(high / hours, 5)],
    }
