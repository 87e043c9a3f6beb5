"""Where a run's clips are: as given, else as its training was given.

`audio.json` in the run's folder holds the folders of this machine. It is not part of
the bundle: no hash covers it, no firmware and no shipped model has it.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kws.bundle import Bundle, read_json, write_atomic
from kws.errors import KwsError

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = "audio.json"
HINT = "Say where the clips are now: --data DIR"
MOST_TIMES = 100


@dataclass(frozen=True)
class Sources:
    """Folders of clips, as `kws.data.load` takes them.

    Args:
        data: The folder, or FOLDER:N (see `counted`); None looks in the usual places
            (kws.data.find_data).
        also: More folders.
        ambient: Folders of sound without the words (kws/data/ambient.py).
    """

    data: Path | None = None
    also: tuple[Path, ...] = ()
    ambient: tuple[Path, ...] = ()


def counted(folder: Path) -> tuple[Path, int]:
    """A folder of clips as it is named: where it is, and how often a training takes it.

    Few recordings of a person weigh little among many spoken ones: `mine:8` are the
    clips of `mine`, and a training takes each eight times, augmented anew each time.
    Validation and test take each once.

    Raises:
        KwsError: not 1 to 100 times.

    Example:
        >>> counted(Path("corpora/mine:8"))
        (PosixPath('corpora/mine'), 8)
        >>> counted(Path("corpora/mine"))
        (PosixPath('corpora/mine'), 1)
    """
    match = re.fullmatch(r"(.+?)[/\\]?:(\d{1,9})", str(folder))
    if match is None or folder.exists():
        return folder, 1
    times = int(match[2])
    if not 1 <= times <= MOST_TIMES:
        raise KwsError(
            f"FOLDER:N takes each training clip of FOLDER N times. Expected 1 to "
            f"{MOST_TIMES}. Received: {folder}",
            f"{match[1]}:8",
        )
    return Path(match[1]), times


def check_once(folders: Sequence[Path]) -> None:
    """Raises KwsError where a folder is named twice: its clips would count double."""
    seen: dict[Path, int] = {}
    for folder in folders:
        path, times = counted(folder)
        place = path.resolve()
        if place in seen:
            raise KwsError(
                "A folder of clips is named twice. Expected each once, as FOLDER:N "
                f"where its training clips are to be taken N times. Received: {path}",
                f"Name it once: {path}:{seen[place] + times}",
            )
        seen[place] = times


def remember(run: Path, sources: Sources) -> None:
    """Keep in a run's folder where its clips are, for the verbs that come after."""
    path = run / FILE
    if sources == Sources():
        path.unlink(missing_ok=True)  # of a training before
        return
    table = {
        "data": None if sources.data is None else str(sources.data.resolve()),
        "also": [str(folder.resolve()) for folder in sources.also],
        "ambient": [str(folder.resolve()) for folder in sources.ambient],
    }
    write_atomic(path, (json.dumps(table, indent=1) + "\n").encode())


def of_run(
    bundle: Bundle,
    data: Path | None = None,
    also: tuple[Path, ...] = (),
    ambient: tuple[Path, ...] = (),
) -> Sources:
    """Where to look for a run's clips: what is given, else what was remembered.

    Says on stderr where that is, if it was remembered.

    Args:
        bundle: The run.
        data: `--data`; with it nothing is remembered.
        also: `--also`; alone, what is new of it is added to what was remembered.
        ambient: `--ambient`; instead of what was remembered.

    Raises:
        KwsError: a remembered folder is gone, or the file is not ours.
    """
    path = bundle.path / FILE
    if data is not None or bundle.shipped or not path.is_file():
        return Sources(data, also, ambient)
    kept = _read(path)
    around = ambient or kept.ambient
    folders = _folders(Sources(kept.data, kept.also, around))
    for folder in folders:
        if not counted(folder)[0].exists():
            raise KwsError(
                "The clips that this run was trained on are not there any more. "
                f"Expected the folder that {path} names. Received: {str(folder)!r}",
                HINT,
            )
    text = ", ".join(str(folder) for folder in folders)
    print(f"Clips as in its training: {text}", file=sys.stderr)
    known = {counted(place)[0].resolve() for place in folders}
    new = tuple(f for f in also if counted(f)[0].resolve() not in known)
    return Sources(kept.data, kept.also + new, around)


def remembered(bundle: Bundle) -> list[str]:
    """Where a run's clips were, as options of `kws train`; [] if nothing was said."""
    path = bundle.path / FILE
    if bundle.shipped or not path.is_file():
        return []
    kept = _read(path)
    options = [] if kept.data is None else ["--data", str(kept.data)]
    for name, folders in (("--also", kept.also), ("--ambient", kept.ambient)):
        options += [word for folder in folders for word in (name, str(folder))]
    return options


def _folders(sources: Sources) -> list[Path]:
    """All of them."""
    first = () if sources.data is None else (sources.data,)
    return [*first, *sources.also, *sources.ambient]


def _read(path: Path) -> Sources:
    """What was remembered.

    Raises:
        KwsError: the file is not ours.
    """
    table = read_json(path)
    try:
        return Sources(
            None if table["data"] is None else Path(table["data"]),
            tuple(Path(folder) for folder in table["also"]),
            tuple(Path(folder) for folder in table.get("ambient", ())),
        )
    except (KeyError, TypeError):
        raise KwsError(
            f"{FILE} is not where a training's clips are. Received: {path}", HINT
        ) from None
