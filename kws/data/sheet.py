"""The contact sheet of an import: one page with waveforms and players, no network."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from kws.data.cut import Piece

PAGE = Path(__file__).with_name("sheet.html")
COLUMNS, HEIGHT = 120, 40
MOST = 400  # of a word and kind on the page


def wave(pcm: np.ndarray) -> str:
    """A waveform as an SVG path: from the lowest to the highest sample of a column.

    Args:
        pcm: int16 [samples].

    Example:
        >>> wave(np.array([-32768, 32767], np.int16)).startswith("M0 40V39M1 ")
        True
    """
    if len(pcm) < COLUMNS:
        pcm = np.repeat(pcm, -(-COLUMNS // max(1, len(pcm))))
    edges = np.linspace(0, len(pcm), COLUMNS + 1).astype(int)[:-1]
    if not len(pcm):
        return ""
    middle = HEIGHT / 2
    # Drawn as high as the frame, but what is hardly there stays low.
    scale = middle / max(3277.0, float(np.abs(pcm.astype(np.int32)).max()))
    low = np.rint(middle - np.minimum.reduceat(pcm, edges) * scale).astype(int)
    high = np.rint(middle - np.maximum.reduceat(pcm, edges) * scale)
    # At least a point: silence is a line.
    high = np.minimum(high.astype(int), low - (low == high))
    return "".join(f"M{x} {low[x]}V{high[x]}" for x in range(COLUMNS))


def page(
    pieces: Sequence[Piece],
    unreadable: dict[Path, str],
    out: Path,
    clip_seconds: float = 1.0,
) -> str:
    """The page of an import, for the folder of the corpus.

    Args:
        pieces: What was taken and what was not.
        unreadable: Recordings that gave nothing, and why.
        out: The corpus; recordings are named by their way from there.
        clip_seconds: Length of a clip.
    """
    words = list(dict.fromkeys(piece.take.word for piece in pieces))
    rows: list[str] = []
    parts: list[str] = []
    for word in words:
        here = [piece for piece in pieces if piece.take.word == word]
        taken = [piece for piece in here if piece.name]
        left = [piece for piece in here if not piece.name]
        recordings = len({piece.take.file for piece in here})
        anchor = f"w{len(rows)}"
        rows.append(
            f'<tr><td><a href="#{anchor}">{_text(word)}</a></td><td>{recordings}</td>'
            f"<td>{len(taken)}</td><td>{len(left) or ''}</td></tr>"
        )
        clips = f"{len(taken)} clip{'s' * (len(taken) != 1)}"
        parts.append(f'<h2 id="{anchor}">{_text(word)}: {clips}</h2>')
        parts.append(_list([_clip(piece) for piece in taken]))
        if left:
            parts.append(f"<h3>Left out: {len(left)}</h3>")
            parts.append(_list([_rest(piece, out) for piece in left]))
    nothing = ""
    if unreadable:
        items = "".join(
            f'<li class="out"><b>{_text(why)}</b><span>{_text(file.name)}</span></li>'
            for file, why in unreadable.items()
        )
        nothing = f'<h2>Not read</h2>\n<ul class="clips">{items}</ul>'
    values = {
        "title": f"Clips in {_text(out.name)}",
        "length": f"{clip_seconds:g} s long",
        "table": "\n".join(rows),
        "unreadable": nothing,
        "words": "\n".join(parts),
    }
    text = PAGE.read_text(encoding="utf-8")
    made = re.sub("@@([a-z]+)@@", lambda match: values[match[1]], text)
    # A file's name need not be text.
    return made.encode(errors="xmlcharrefreplace").decode()


def _list(items: list[str]) -> str:
    more = ""
    if len(items) > MOST:
        more = f'\n<p class="soft">And {len(items) - MOST} more, not shown.</p>'
    return f'<ul class="clips">\n{chr(10).join(items[:MOST])}\n</ul>{more}'


def _clip(piece: Piece) -> str:
    return (
        f"<li>{_drawing(piece)}{_player(piece.name)}<span>{_text(piece.name)}</span>"
        f'<span class="soft">{_where(piece)}</span></li>'
    )


def _rest(piece: Piece, out: Path) -> str:
    way = Path(os.path.relpath(piece.take.file, out.resolve())).as_posix()
    part = f"#t={piece.start_s:.2f},{piece.stop_s:.2f}"
    return (
        f'<li class="out">{_drawing(piece)}{_player(way, part)}<b>'
        f'{_text(piece.problem)}</b><span class="soft">{_where(piece)}</span></li>'
    )


def _drawing(piece: Piece) -> str:
    return (
        f'<svg viewBox="0 0 {COLUMNS} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{piece.wave}"/></svg>'
    )


def _player(way: str, part: str = "") -> str:
    source = quote(way.encode(errors="surrogateescape")) + part
    return f'<audio controls preload="none" src="{source}"></audio>'


def _where(piece: Piece) -> str:
    return f"{_text(piece.take.file.name)}, {piece.start_s:.2f} s"


def _text(text: str) -> str:
    return html.escape(text)
