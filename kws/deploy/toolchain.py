"""Compilers, the system's or clang in the PyPI package ziglang: for Cortex-M
(arm-none-eabi-gcc), and for this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from kws.errors import KwsError

HOST_HINT = "apt-get install gcc libc6-dev   (or, without root: pip install ziglang)"
HINT = "apt-get install gcc-arm-none-eabi   (or, without root: pip install ziglang)"

# What each compiler needs besides the board's own flags.
COMMON_FLAGS = [
    "-std=c11",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
]
EXTRA_FLAGS = {
    # A loop in memcpy must not become a call of memcpy.
    "gcc": ["-fno-tree-loop-distribute-patterns"],
    "zig": ["-fno-builtin", "-fno-sanitize=all", "-fno-stack-protector"],
}
# zig adds compiler-rt by itself, unless it is told -nostdlib.
LINK_FLAGS = {
    "gcc": ["-nostdlib", "-nostartfiles", "-lgcc"],
    "zig": [],
}
NAMES = ("gcc", "zig")


@dataclass(frozen=True)
class Toolchain:
    """A C compiler for Cortex-M.

    Args:
        name: `gcc` or `zig`; key of a board's [flags].
        command: How to call it.
        version: Its first line about itself; part of the build cache's key.
    """

    name: str
    command: tuple[str, ...]
    version: str


@functools.cache
def available() -> tuple[Toolchain, ...]:
    """The compilers on this machine, the preferred one first."""
    found = []
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is not None:
        version = _first_line((gcc, "--version"))
        if version is not None:
            found.append(Toolchain("gcc", (gcc,), version))
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        version = _first_line((*zig, "version"))
        if version is not None:
            found.append(Toolchain("zig", (*zig, "cc"), f"zig {version}"))
    return tuple(found)


def find(name: str | None = None) -> Toolchain:
    """The compiler of that name, or the preferred one.

    Raises:
        KwsError: it is not installed.
    """
    if name is not None and name not in NAMES:
        raise KwsError(
            f"No such compiler. Expected one of {', '.join(NAMES)}. Received: {name!r}",
            "kws doctor",
        )
    for toolchain in available():
        if name in (None, toolchain.name):
            return toolchain
    looked_for = {
        "gcc": "arm-none-eabi-gcc on the PATH",
        "zig": "the Python package ziglang",
        None: "arm-none-eabi-gcc on the PATH, or the Python package ziglang",
    }[name]
    raise KwsError(
        f"There is no cross compiler for Cortex-M. Expected {looked_for}. "
        "Received: neither is installed"
        if name is None
        else f"The compiler {name!r} is not installed. Expected {looked_for}. "
        f"Received: {', '.join(t.name for t in available()) or 'none'}",
        HINT,
    )


def host() -> tuple[str, ...] | None:
    """The C compiler for this machine: $CC, cc, gcc, clang, or zig; None: there is
    none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    return None


def _first_line(command: tuple[str, ...]) -> str | None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip().split("\n")[0]
