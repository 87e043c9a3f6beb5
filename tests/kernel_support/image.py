"""Small images around the kernels: compiled for the host or for an emulated board."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from kws.deploy import toolchain
from kws.deploy.boards import BOARDS, Board
from kws.deploy.runners import qemu
from kws.paths import FIRMWARE

C = Path(__file__).resolve().parents[1] / "c"
KERNELS = sorted((FIRMWARE / "src").glob("kernels_*.c"))
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def _check(command: Sequence[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr[:4000]}")


def host(
    sources: Sequence[Path], core: str, out: Path, flags: Sequence[str] = SANITIZE
) -> Path:
    """Compile `sources` and the kernels for this machine; returns the program.

    Args:
        sources: C files with a main.
        core: `portable` or `dsp` (whose instructions are emulated in C).
        out: The folder of the program.
        flags: Added to the compiler's; AddressSanitizer and UBSan by default.
    """
    program = out / f"host_{core}"
    _check(
        [
            *("cc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags),
            *(f"-DKWS_CORE_{core.upper()}", f"-I{FIRMWARE / 'include'}", f"-I{C}"),
            *map(str, [*sources, *KERNELS]),
            *("-o", str(program)),
        ],
        out,
    )
    return program


def board(
    sources: Sequence[Path], target: Board, out: Path, compiler: str | None = None
) -> Path:
    """Compile `sources` and the kernels for an emulated board, with memory to spare."""
    tools = toolchain.find(compiler)
    flags = [
        *target.flags[tools.name],
        *toolchain.COMMON_FLAGS,
        *toolchain.EXTRA_FLAGS[tools.name],
        f"-DKWS_CORE_{target.core.upper()}=1",
    ]
    common = BOARDS / "common"
    includes = [common / "include", FIRMWARE / "include", C, common, target.folder]
    runtime = [common / name for name in ("cortex_m.c", "string.c", "semihosting.c")]
    objects = []
    for source in [*sources, *KERNELS, *runtime]:
        target_object = out / f"{source.stem}.o"
        _check(
            [
                *tools.command,
                *flags,
                *(f"-I{include}" for include in includes),
                *("-c", str(source), "-o", str(target_object)),
            ],
            out,
        )
        objects.append(target_object)
    return link(objects, target, out, tools)


def link(
    objects: Sequence[Path], target: Board, out: Path, tools: toolchain.Toolchain
) -> Path:
    """Link objects for an emulated board, with memory to spare."""
    common = BOARDS / "common"
    boot = target.boot_origin
    flash, flash_bytes = target.flash_origin, 2 << 20
    if boot is None:
        boot, flash, flash_bytes = flash, flash + 256, flash_bytes - 256
    (out / "memory.ld").write_text(
        "MEMORY\n{\n"
        f"  BOOT (rx) : ORIGIN = {boot:#x}, LENGTH = 256\n"
        f"  FLASH (rx) : ORIGIN = {flash:#x}, LENGTH = {flash_bytes:#x}\n"
        f"  RAM (rwx) : ORIGIN = {target.ram_origin:#x}, LENGTH = 0x80000\n"
        "}\n"
        f"kws_stack_size = {target.stack_bytes};\n"
    )
    image = out / f"{target.name}.elf"
    _check(
        [
            *tools.command,
            *target.flags[tools.name],
            *map(str, objects),
            *("-T", str(common / "link.ld"), "-Wl,--gc-sections"),
            *toolchain.LINK_FLAGS[tools.name],
            *("-o", str(image)),
        ],
        out,
    )
    return image


def run_host(program: Path) -> subprocess.CompletedProcess[str]:
    """Run a host program."""
    return subprocess.run([str(program)], capture_output=True, text=True, timeout=120)


def run_board(image: Path, target: Board) -> subprocess.CompletedProcess[str]:
    """Run an image under QEMU; what it prints through semihosting is stdout."""
    return subprocess.run(
        qemu.command(image, target, {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
