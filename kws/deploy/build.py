"""Compile and link the firmware for one board, without a C library.

Objects are cached by the hash of everything that they are made from, so building again
compiles only what changed. The cache is kws.paths.user_cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import kws
from kws.bundle import write_atomic
from kws.deploy import elf, fit, tflm_library, toolchain
from kws.deploy.boards import BOARDS, Board
from kws.deploy.tflm_library import Library
from kws.deploy.toolchain import Toolchain
from kws.errors import KwsError, quoted
from kws.paths import FIRMWARE, user_cache

JOBS = 2
TIMEOUT_S = 300
CACHE_DAYS = 30
BOOT_BYTES = 256  # vectors: 48 words, see boards/common/cortex_m.c
_COMPILE_HINTS = (
    "If you changed the file, mend it; if not, look at the compiler: kws doctor",
    "Is C++'s library installed (apt-get install libstdc++-arm-none-eabi-newlib), and "
    f"are {tflm_library.VARIABLE}'s headers those of its library?",
)
TFLM_ENGINE = FIRMWARE / "engines" / "tflm"
APPS = {
    "main": ("main.c", "listen.c", "command.c", "image.c", "print.c"),
    "clips": ("clips.c", "print.c"),
    "profile": ("profile.c", "print.c"),
}
BESIDE = (".map", ".bin", ".hex", ".uf2")
MARK = b"kws_board_init"  # a symbol of each app's, and of no library's
_OVERFLOW = re.compile(r"overflowed by \d+ bytes|will not fit in region")


@dataclass(frozen=True)
class Image:
    """A linked firmware image that fits its board.

    Args:
        elf: The ELF file.
        fit: Its sizes against the board's limits.
        map: Text file of every symbol: address, bytes, name; largest first.
        compiler: Name and version of the compiler.
    """

    elf: Path
    fit: fit.Fit
    map: Path
    compiler: str

    @property
    def text(self) -> int:
        return self.fit.text

    @property
    def data(self) -> int:
        return self.fit.data

    @property
    def bss(self) -> int:
        return self.fit.bss


def build(
    model_dir: Path,
    board: Board,
    out: Path,
    app: str = "main",
    compiler: str | None = None,
    defines: tuple[str, ...] = (),
) -> Image:
    """Build the firmware around the generated model in `model_dir`.

    Args:
        model_dir: Folder whose *.c files define what kws_model.h declares. With *.cc
            files it is an engine tflm's, and the user's library is linked.
        board: See kws.deploy.boards.load.
        out: Receives <app>.elf and <app>.map.
        app: `main` (listen), `clips` (evaluate clips in an emulator) or `profile`.
        compiler: `gcc` or `zig`; None takes what is installed, gcc first.
        defines: Compiler flags such as -DKWS_PROFILE.

    Raises:
        KwsError: no compiler; the model's C does not compile; the image is too large;
            the engine is tflm and TFLM_DIR holds no library for the board; there are
            files of the image's names that this did not write.

    Example:
        >>> from kws import bundle
        >>> from kws.deploy import boards, emission
        >>> board, run = boards.load("qemu-m4"), bundle.load("kwt-tiny")
        >>> emitted = emission.emit_bundle(run, Path("c"), board.core)
        >>> build(Path("c"), board, Path("build")).fit.fits
        True
    """
    check_folder(out, app)
    tools = toolchain.find(compiler)
    if tools.name not in board.flags:
        raise KwsError(
            f"The board {board.name} has no flags for the compiler {tools.name}. "
            f"Expected one of {', '.join(board.flags)}",
            f"Add {tools.name} = [...] to [flags] in {board.folder / 'board.toml'}",
        )
    model_sources = sorted(model_dir.glob("*.c"))
    if not model_sources:
        raise KwsError(
            f"There is no generated model to build. Expected *.c in {model_dir}",
            "kws emit RUN --core dsp --out DIR",
        )
    cpp = sorted(model_dir.glob("*.cc"))
    library = _tflm(board, tools) if cpp else None
    sources = [
        *model_sources,
        *(() if library is None else (*cpp, *sorted(TFLM_ENGINE.glob("*.cc")))),
        *sorted((FIRMWARE / "src").glob("*.c")),
        *(FIRMWARE / "app" / name for name in APPS[app]),
        *(BOARDS / name for name in board.sources),
        *sorted(board.folder.glob("*.c")),
        *sorted(board.folder.glob("*.S")),
    ]
    includes = [
        BOARDS / "common" / "include",
        FIRMWARE / "include",
        FIRMWARE / "src",
        FIRMWARE / "app",
        BOARDS / "common",
        board.folder,
        model_dir,
        *(() if library is None else (TFLM_ENGINE,)),
    ]
    headers = hashlib.sha256()
    for folder in includes:
        for header in sorted(folder.glob("*.h")):
            headers.update(header.name.encode() + b"\0" + header.read_bytes() + b"\0")

    def compiled(source: Path) -> Path:
        return _compile(
            source, tools, board, includes, headers.digest(), defines, library
        )

    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(compiled, sources))
    _forget_unused(objects[0].parent)

    out.mkdir(parents=True, exist_ok=True)
    image = out / f"{app}.elf"
    for suffix in BESIDE:  # of an earlier image: whatever ends this, they go with none
        image.with_suffix(suffix).unlink(missing_ok=True)
    sizes, symbols = _link(objects, tools, board, image, library)
    lines = [
        f"{symbol.address:#010x} {symbol.size:>8} {symbol.name}" for symbol in symbols
    ]
    map_file = image.with_suffix(".map")
    write_atomic(map_file, ("\n".join(lines) + "\n").encode())
    return Image(image, sizes, map_file, tools.version)


def check_folder(out: Path, app: str = "main") -> None:
    """See that a build there replaces nothing but an earlier image of ours.

    Raises:
        KwsError: there are files of an image's names, and the .elf is not ours.
    """
    image = out / f"{app}.elf"
    if image.is_file() and MARK in image.read_bytes():
        return
    paths = (image, *(image.with_suffix(suffix) for suffix in BESIDE))
    foreign = [path.name for path in paths if path.exists() or path.is_symlink()]
    if foreign:
        raise KwsError(
            f"kws did not write {', '.join(foreign)}, which would be replaced or "
            f"removed. Expected another folder. Received: {str(out)!r}",
            f"--out {quoted(f'{out}-new')}",
        )


def _compile(
    source: Path,
    tools: Toolchain,
    board: Board,
    includes: list[Path],
    headers_digest: bytes,
    defines: tuple[str, ...],
    library: Library | None = None,
) -> Path:
    """Compile one file, or find it in the cache. Returns the object."""
    flags = [
        *board.flags[tools.name],
        *toolchain.COMMON_FLAGS,
        *toolchain.EXTRA_FLAGS[tools.name],
        f"-DKWS_CORE_{board.core.upper()}=1",
        *defines,
    ]
    if source.parent.name == "app":  # who it is, for the boot line
        flags += [
            "-Os",  # nothing here is in a hurry
            f'-DKWS_VERSION="{kws.__version__}"',
            f'-DKWS_BOARD="{board.name}"',
            f"-DKWS_CLOCK_HZ={board.clock_hz}",
        ]
    stamp = ""
    if source.suffix == ".cc" and library is not None:
        # The C++ library's headers, not our five functions of <string.h>.
        includes = [path for path in includes if path != BOARDS / "common" / "include"]
        flags = [flag for flag in flags if flag not in ("-std=c11", "-ffreestanding")]
        flags += library.flags
        stamp = library.stamp
    key = hashlib.sha256()
    for part in (tools.version, *flags, source.name, stamp):
        key.update(part.encode() + b"\0")
    key.update(headers_digest)
    key.update(source.read_bytes())
    target = (
        user_cache().resolve() / "objects" / f"{source.stem}-{key.hexdigest()[:32]}.o"
    )
    if target.is_file():
        with contextlib.suppress(OSError):  # a cache that others own, read-only
            os.utime(target)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        raise KwsError(
            f"The build cache cannot be written: {error.strerror}. "
            f"Received: {target.parent}",
            "export KWS_CACHE=/some/folder/that/you/own",
        ) from None
    with scratch as folder:
        temporary = Path(folder) / "object.o"
        command = [*tools.command, *flags]
        command += [f"-I{include}" for include in includes]
        if source.suffix == ".cc" and library is not None:
            command += [f"-isystem{include}" for include in library.includes]
        command += ["-c", str(source), "-o", str(temporary)]
        result = _run(command)
        if result.returncode != 0:
            raise KwsError(
                f"{source.name} does not compile for {board.name} with "
                f"{tools.version}:\n{_first_lines(result.stderr)}",
                _COMPILE_HINTS[source.suffix == ".cc"],
            )
        temporary.replace(target)
    return target


def _tflm(board: Board, tools: Toolchain) -> Library:
    """The user's TFLM for a board."""
    if tools.name != "gcc":
        raise KwsError(
            "The engine tflm is C++, which is built with arm-none-eabi-g++ and its "
            f"standard library. Received: {tools.version}",
            "apt-get install gcc-arm-none-eabi libstdc++-arm-none-eabi-newlib",
        )
    return tflm_library.find(board)


def _forget_unused(cache: Path) -> None:
    """Remove objects that no build has used for a while."""
    for file in cache.glob("*.o"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > CACHE_DAYS * 86400:
                file.unlink()


def _memory_script(board: Board, times: int = 1) -> str:
    """memory.ld: the board's limits, or a multiple of them to see what is missing."""
    boot, flash = board.boot_origin, board.flash_origin
    flash_bytes = board.flash_bytes * times
    if boot is None:
        boot, flash, flash_bytes = flash, flash + BOOT_BYTES, flash_bytes - BOOT_BYTES
    return (
        "MEMORY\n{\n"
        f"  BOOT (rx) : ORIGIN = {boot:#x}, LENGTH = {BOOT_BYTES:#x}\n"
        f"  FLASH (rx) : ORIGIN = {flash:#x}, LENGTH = {flash_bytes:#x}\n"
        f"  RAM (rwx) : ORIGIN = {board.ram_origin:#x}, "
        f"LENGTH = {board.ram_bytes * times:#x}\n"
        "}\n"
        f"kws_stack_size = {board.stack_bytes};\n"
    )


def _link(
    objects: list[Path],
    tools: Toolchain,
    board: Board,
    image: Path,
    library: Library | None = None,
) -> tuple[fit.Fit, tuple[elf.Symbol, ...]]:
    """Link within the part's limits; where that fails, tell by how much and why."""
    script = BOARDS / board.linker_script
    with tempfile.TemporaryDirectory(dir=image.parent) as name:
        folder = Path(name).resolve()
        temporary = folder / "image.elf"

        def link(times: int) -> subprocess.CompletedProcess[str]:
            (folder / "memory.ld").write_text(_memory_script(board, times))
            command = [*tools.command, *board.flags[tools.name]]
            command += [*map(str, objects), "-T", str(script), "-Wl,--gc-sections"]
            if library is not None:
                command += [str(library.archive), "-lm", "-lc"]
            command += [*toolchain.LINK_FLAGS[tools.name], "-o", str(temporary)]
            # lld looks for the included memory.ld in the working folder only.
            return _run(command, folder)

        result = link(1)
        if result.returncode != 0:
            if _OVERFLOW.search(result.stderr) and link(64).returncode == 0:
                fit.check(fit.measure(elf.read(temporary), board))
            _link_failed(result.stderr, board, tools)
        content = elf.read(temporary)
        sizes = fit.measure(content, board)
        fit.check(sizes)
        elf.seal(temporary, content)
        temporary.replace(image)
    return sizes, content.symbols


def _link_failed(stderr: str, board: Board, tools: Toolchain) -> NoReturn:
    raise KwsError(
        f"The firmware does not link for {board.name} with {tools.version}:\n"
        f"{_first_lines(stderr)}",
        "Look at the compiler (kws doctor) or, for a board of your own, at "
        "firmware/boards/README.md.",
    )


def _run(
    command: list[str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KwsError(
            f"The compiler did not finish in {TIMEOUT_S} s. Received: {command[-1]}",
            "Try again with less running beside it.",
        ) from None


def _first_lines(text: str, lines: int = 20) -> str:
    return "\n".join(text.strip().splitlines()[:lines])
