"""Where the user's TensorFlow Lite Micro is: headers and a static library, in TFLM_DIR.

No package registry carries TFLM's C++ library, and this project neither downloads nor
builds it: the user does, as upstream documents.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kws.deploy.boards import Board
from kws.errors import KwsError

VARIABLE = "TFLM_DIR"
ARCHIVE = "libtensorflow-microlite.a"
HEADER = "tensorflow/lite/micro/micro_interpreter.h"
HINT = f"export {VARIABLE}=/path/to/tflite-micro   (docs/tflm-engine.md)"

# Folders of headers, in upstream's checkout and in the tree that its tool
# create_tflm_tree.py makes.
_DOWNLOADS = "tensorflow/lite/micro/tools/make/downloads"
INCLUDES = tuple(
    f"{folder}{name}"
    for folder in ("", f"{_DOWNLOADS}/", "third_party/")
    for name in ("", "flatbuffers/include", "gemmlowp", "ruy", "kissfft")
)
# What upstream's headers ask for by name -> whose it is.
NEEDED = {
    HEADER: "TFLM",
    "flatbuffers/flatbuffers.h": "flatbuffers",
    "fixedpoint/fixedpoint.h": "gemmlowp",
    "ruy/profiler/instrumentation.h": "ruy",
}
ARCHIVES = (f"gen/*/lib/{ARCHIVE}", f"lib/*/{ARCHIVE}", f"lib/{ARCHIVE}", ARCHIVE)

# As upstream builds the library: its structs depend on the first one.
FLAGS = (
    "-std=c++17",
    "-DTF_LITE_STATIC_MEMORY",
    "-DTF_LITE_DISABLE_X86_NEON",
    "-fno-rtti",
    "-fno-exceptions",
    "-fno-threadsafe-statics",
)
# BUILD_TYPE=release leaves the messages out, and the function that prints them.
PRINTS = b"_Z11MicroPrintfPKcz"
STRIPPED = "-DTF_LITE_STRIP_ERROR_STRINGS"


@dataclass(frozen=True)
class Library:
    """A TFLM for one core.

    Args:
        archive: The static library.
        includes: Folders of headers.
    """

    archive: Path
    includes: tuple[Path, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """What is compiled against it must be compiled as it was."""
        tells = PRINTS in self.archive.read_bytes()
        return FLAGS if tells else (*FLAGS, STRIPPED)

    @property
    def stamp(self) -> str:
        """Changes when the library or its headers are made anew."""
        files = [self.archive, *(path / HEADER for path in self.includes)]
        known = [(path, path.stat()) for path in files if path.is_file()]
        return repr([(str(p), s.st_size, s.st_mtime_ns) for p, s in known])


def find(board: Board) -> Library:
    """The user's library for a board's core.

    Raises:
        KwsError: TFLM_DIR is not set, or lacks headers or a library for the core.

    Example:
        >>> from kws.deploy import boards
        >>> find(boards.load("qemu-m4")).archive.name  # doctest: +SKIP
        'libtensorflow-microlite.a'
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise KwsError(
            "The engine tflm needs TensorFlow Lite Micro, which is in no package "
            f"registry. Expected its folder in {VARIABLE}. Received: not set",
            HINT,
        )
    root = Path(named).expanduser().resolve()
    includes = tuple(root / name for name in INCLUDES if (root / name).is_dir())
    missing = [
        f"{name} ({owner})"
        for name, owner in NEEDED.items()
        if not any((folder / name).is_file() for folder in includes)
    ]
    if missing:
        raise KwsError(
            f"{VARIABLE} lacks headers. Expected {', '.join(missing)}. "
            f"Received: {root}",
            HINT,
        )
    return Library(_archive(root, board), includes)


def _archive(root: Path, board: Board) -> Path:
    found = sorted({path for pattern in ARCHIVES for path in root.glob(pattern)})
    cores = _core_names(board.flags["gcc"])
    pattern = re.compile(rf"(?<![\w+-])({'|'.join(map(re.escape, cores))})(?![\w+-])")
    # Upstream's folders are named TARGET_CORE_BUILD[_KERNELS]_COMPILER.
    matching = [
        path
        for path in found
        if pattern.search(path.relative_to(root).as_posix().replace("_", " "))
    ]
    if not matching and [root / "lib" / ARCHIVE] == found:
        matching = found
    if not matching:
        names = [str(path.relative_to(root)) for path in found]
        raise KwsError(
            f"{VARIABLE} holds no {ARCHIVE} for {board.name}. Expected one whose "
            f"folder names {' or '.join(cores)} (or lib/{ARCHIVE} alone). Received: "
            f"{', '.join(names) or 'none'} in {root}",
            HINT,
        )

    # Of several: optimised kernels, then one that tells errors, then a fast one.
    def merit(path: Path) -> tuple[object, ...]:
        name = str(path.relative_to(root))
        release = "release" in name
        tells = not release or "with_logs" in name
        return "cmsis_nn" in name, tells, release, "debug" not in name, name

    return max(matching, key=merit)


def _core_names(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Upstream's TARGET_ARCH for a board's compiler flags."""
    given = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    cpu, _, _ = given.get("-mcpu", "").partition("+")
    hard = given.get("-mfloat-abi") == "hard"
    if cpu in ("cortex-m4", "cortex-m7"):
        return (f"{cpu}+fp",) if hard else (cpu,)
    if cpu in ("cortex-m0", "cortex-m0plus"):
        return ("cortex-m0", "cortex-m0plus")
    return (cpu,)
