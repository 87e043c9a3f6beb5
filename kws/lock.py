"""One process at a time: a file that is locked while a process is at work.

The system frees the lock of a process that dies, so that what it left keeps nobody out.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kws.errors import KwsError


@contextlib.contextmanager
def locked(path: Path, busy: KwsError | None = None) -> Iterator[None]:
    """Hold the file `path`, made here and removed at the end.

    Args:
        path: The file; its folder is made.
        busy: Raised where another process has it, with that process behind the
            message; None: wait for it, and say so.

    Raises:
        KwsError: `busy`.

    Example:
        >>> with locked(Path("runs/tiny/checkpoints/lock")):
        ...     pass
    """
    file = _take(path, busy)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _take(path: Path, busy: KwsError | None) -> IO[str]:
    import fcntl  # not at the top: not every system has it

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "a process that is just starting"
            if busy is not None:
                file.close()
                raise KwsError(f"{busy.message}, {owner}", busy.hint) from None
            print(f"Waiting for {owner}: {path.parent}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            return file
        # Who had it before may just have removed it: then this is no lock.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        file.close()
