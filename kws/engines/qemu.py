"""Engine `qemu`: the firmware of a board, in an emulator, clip by clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kws.bundle import Bundle
from kws.engines import common
from kws.errors import KwsError

if TYPE_CHECKING:
    from kws.deploy.boards import Board

INTEGER = True
DEFAULT_BOARD = "qemu-m4"
CLIPS_A_RUN = 100


def emulated(board: str | None) -> Board:
    """The board of that name, or the default one.

    Raises:
        KwsError: no such board, a real one, or its emulator is missing.
    """
    from kws.deploy import boards, runners

    target = boards.load(board or DEFAULT_BOARD)
    if target.runner != "qemu":
        raise KwsError(
            "The engine 'qemu' needs an emulated board. "
            f"Received: {target.name}, which runs with {target.runner}",
            f"kws eval RUN --engine qemu --board {DEFAULT_BOARD}",
        )
    error = runners.get(target.runner).missing()
    if error is not None:
        raise error
    return target


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> np.ndarray:
    """int8 logits [N, labels]; see `kws.engines`. `board`: default qemu-m4."""
    return counted(bundle, pcm, jobs, board, progress)[0]


def counted(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`logits`, and what was transmitted: uint32 [N, products], as on this machine."""
    from kws.deploy import flash, run

    clips = common.clip_pcm(bundle, pcm)
    target = emulated(board)
    folder = flash.output_folder(bundle, target)
    image = flash.emit_and_build(bundle, target, folder, app="clips")
    results = []
    for start in range(0, len(clips), CLIPS_A_RUN):
        part = clips[start : start + CLIPS_A_RUN]
        result = run.clips(image.elf, target, part, len(bundle.labels), jobs)
        results.append((result.logits, result.sent))
        if progress is not None:
            progress(start + len(part))
    rows, sent = zip(*results, strict=True)
    return np.concatenate(rows), np.concatenate(sent)
