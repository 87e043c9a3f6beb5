"""Copy the image as UF2 onto the USB drive that the board's boot ROM shows.

board.toml:

    [uf2]
    family = 0xe48bff56     # of the chip
    volume = "RPI-RP2"      # the drive's name
"""

from __future__ import annotations

import os
import re
import string
import time
from pathlib import Path

from kws.deploy import elf, uf2
from kws.deploy.boards import Board
from kws.deploy.failures import BoardError
from kws.deploy.runners import Found, Job, Programmed
from kws.errors import KwsError

INFO = "INFO_UF2.TXT"
LEAVES_S = 15.0


def missing() -> KwsError | None:
    """Nothing is needed but the board."""
    return None


def roots() -> list[Path]:
    """Folders under which drives are mounted on Linux, macOS and Windows."""
    folders = [Path("/media"), Path("/run/media"), Path("/Volumes"), Path("/mnt")]
    found = [path for folder in folders for path in (folder, *_children(folder))]
    if os.name == "nt":
        found += [Path(f"{letter}:/") for letter in string.ascii_uppercase]
    return found


def drives(volume: str) -> list[Path]:
    """Mounted drives of a boot ROM: they have its INFO_UF2.TXT. Of several boards, all
    but the first are mounted with a number behind their name.
    """
    places = {path for root in roots() for path in (root, *_children(root))}
    named = re.compile(rf"{re.escape(volume)} ?\d{{0,2}}")
    return sorted(
        path
        for path in places
        if _is_boot_rom(path) and (os.name == "nt" or named.fullmatch(path.name))
    )


def _is_boot_rom(drive: Path) -> bool:
    """False too where it can't be read: another user's drive, or one that is gone but
    still mounted (pathlib's is_file raises there, before Python 3.14).
    """
    return os.path.isfile(drive / INFO)  # noqa: PTH113


def _children(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if os.path.isdir(path)]  # noqa: PTH112
    except OSError:
        return []


def program(image: Path, board: Board, job: Job) -> Programmed:
    """Write <image>.uf2, copy it, and wait until the board has restarted.

    Raises:
        BoardError: see kws.deploy.failures.
    """
    names = {"board": board.name, "run": job.run, "options": job.options}
    options = board.options_of("uf2")
    file = uf2.write(image, image.with_suffix(".uf2"), options["family"])
    found = drives(options["volume"])
    wanted = job.probe
    if wanted is not None:
        exact = [path for path in found if wanted in (str(path), path.name)]
        found = exact or [path for path in found if wanted in str(path)]
    if not found:
        raise BoardError(
            "no-drive", f"no drive {options['volume']!r} with an {INFO} is mounted",
            **names,
        )  # fmt: skip
    drive = found[0]
    if len(found) > 1:
        listed = "; ".join(map(str, found))
        if job.ask is None:
            raise BoardError("several-probes", f"drives: {listed}", **names)
        choices = [Found(str(path), "USB drive") for path in found]
        drive = found[job.ask("Which USB drive?", choices)]
    job.before_start()  # the boot ROM starts the image as soon as it is whole
    data = file.read_bytes()
    handed_over = False
    try:
        with (drive / file.name).open("wb") as out:
            for at in range(0, len(data), 64 * 1024):
                out.write(data[at : at + 64 * 1024])
                job.progress(at / len(data))
            out.flush()
            handed_over = True
            os.fsync(out.fileno())
    except OSError as error:
        # The drive may go as soon as the last block has arrived: that is success.
        if not handed_over or _is_boot_rom(drive):
            raise BoardError("drive-write", str(error), **names) from error
    deadline = time.monotonic() + LEAVES_S
    while _is_boot_rom(drive):
        if time.monotonic() > deadline:
            raise BoardError("drive-stays", f"{drive} after {LEAVES_S:.0f} s", **names)
        time.sleep(0.1)
    job.progress(1.0)
    content = elf.read(image)
    written = sum(len(segment.data) for segment in content.segments)
    return Programmed("everything", written, str(drive))
