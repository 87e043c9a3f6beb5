"""The page that listens (`kws emit --format web`, `kws live`): compiled and joined.

The firmware's C and the emitted model become WebAssembly by zig's clang, without a
library and without an import, so that a browser computes the board's bits (DESIGN D1).
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from kws import bundle as bundles
from kws.bundle import Bundle
from kws.deploy import host, toolchain
from kws.deploy.profile import Profile
from kws.emit import SELFTEST, native, selftest, web
from kws.errors import KwsError, MissingExtra
from kws.paths import FIRMWARE, user_cache
from kws.recipe import decision_ms

FLAGS = (
    *("-target", "wasm32-freestanding", "-msimd128", "-std=c11", "-O3"),
    *("-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-s"),
    *("-fno-sanitize=all", "-fno-stack-protector", "-DKWS_CORE_PORTABLE=1"),
    # zig puts the stack first in memory: one that is too deep traps there.
    *("-Wl,--no-entry", "-Wl,-z,stack-size=65536"),
)
STRING = FIRMWARE / "boards" / "common"
INCLUDES = (
    STRING / "include",
    *(FIRMWARE / name for name in ("include", "src", "host")),
)


def module(bundle: Bundle) -> bytes:
    """The bundle as WebAssembly; its exports are firmware/host/web_host.h.

    Raises:
        KwsError: zig is not installed, or the model can't be emitted.

    Example:
        >>> from kws import bundle
        >>> module(bundle.load("kwt-tiny"))[:4]
        b'\\x00asm'
    """
    zig = next((t for t in toolchain.available() if t.name == "zig"), None)
    if zig is None:
        raise MissingExtra("ziglang", "zig", "WebAssembly")
    logits, _ = host.selftest_run(bundle)
    codes = selftest.clip(bundle.recipe.features.clip_samples)
    texts = native.sources(bundle, "portable", tunable=True).texts
    texts[SELFTEST] = selftest.source(logits, codes)
    files = [
        *sorted((FIRMWARE / "src").glob("*.c")),
        FIRMWARE / "host" / "web_host.c",
        STRING / "string.c",
    ]
    digest = hashlib.sha256(repr((zig.version, FLAGS)).encode())
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    headers = [path for folder in INCLUDES for path in sorted(folder.glob("*.h"))]
    for path in [*files, *headers]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    target = user_cache() / "web" / f"{digest.hexdigest()[:32]}.wasm"
    if not target.is_file():
        _compile(target, zig.command, texts, files)
    return target.read_bytes()


def _compile(
    target: Path, zig: tuple[str, ...], texts: dict[str, str], files: list[Path]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="ascii")
        made = folder / target.name
        command = [*zig, *FLAGS, *(f"-I{path}" for path in INCLUDES)]
        command += [str(folder / file) for file in texts] + [str(p) for p in files]
        run = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            raise KwsError(
                f"The emitted C does not compile to WebAssembly: {run.stderr[-2000:]}",
                "Check the compiler with kws doctor.",
            )
        made.replace(target)


def facts(measured: Profile, bundle: Bundle) -> dict[str, str]:
    """What a profile tells of the board, for the page.

    Args:
        measured: From `kws.deploy.profile`, of the bundle.
        bundle: Says how often the model decides.
    """
    decisions = 1000 / decision_ms(bundle.recipe)
    frames = bundle.recipe.features.sample_rate / bundle.recipe.features.hop
    each, unit = measured.cost, measured.unit
    found = {f"{unit} a decision, {measured.board}": f"{each:,}"}
    if measured.feature_cost is not None:
        total = each * decisions + measured.feature_cost * frames
        found[f"{unit} a second, features and model"] = f"{total / 1e6:,.1f} million"
    if measured.energy is not None:
        power = measured.energy.inference_uj * decisions / 1000
        found["power of the core alone, an estimate"] = f"{power:.2f} mW"
    return found


def emit(bundle: Bundle, out: Path) -> Path:
    """Write the page into a file of its own, to open or to send.

    Raises:
        KwsError: see `module`; or the file is no .html or can't be written.
    """
    bundles.check_page(out)
    text = web.page(bundle, module(bundle))
    try:
        bundles.write_atomic(out, text.encode())
    except OSError as error:
        raise KwsError(
            f"The page can't be written: {error.strerror}. Received: {out}",
            "Name another file with --out.",
        ) from None
    return out
