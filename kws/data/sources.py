"""Where a run's clips are: as given, else as its training was given.

`audio.json` in the run's folder holds the folders of this machine. It is not part of
the bundle: no hash covers it, no firmware and no shipped model has it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from kws.bundle import Bundle, read_json, write_atomic
from kws.errors import KwsError

FILE = "audio.json"
HINT = "Say where the clips are now: --data DIR"


@dataclass(frozen=True)
class Sources:
    """Folders of clips, as `kws.data.load` takes them.

    Args:
        data: The folder; None looks in the usual places (kws.data.find_data).
        also: More folders.
        ambient: Folders of sound without the words (kws/data/ambient.py).
    """

    data: Path | None = None
    also: tuple[Path, ...] = ()
    ambient: tuple[Path, ...] = ()


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
        also: `--also`; alone, it is added to what was remembered.
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
        if not folder.exists():
            raise KwsError(
                "The clips that this run was trained on are not there any more. "
                f"Expected the folder that {path} names. Received: {str(folder)!r}",
                HINT,
            )
    text = ", ".join(str(folder) for folder in folders)
    print(f"Clips as in its training: {text}", file=sys.stderr)
    return Sources(kept.data, kept.also + also, around)


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
