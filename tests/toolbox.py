"""Tools that a test needs: it skips where one is missing, or fails in CI.

KWS_REQUIRE_TOOLS=1 (tools/test.sh sets it) turns every such skip into a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from kws.cli import cli
from kws.data.voices import espeak
from kws.deploy import toolchain
from kws.deploy.runners import qemu
from kws.errors import KwsError
from kws.paths import FIRMWARE
from kws.train import distribute

HOST_FLAGS = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def skip_or_fail(reason: str) -> NoReturn:
    if os.environ.get("KWS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{reason} (KWS_REQUIRE_TOOLS=1)")
    pytest.skip(reason, allow_module_level=True)


def typed(line: str, verb: str, module: Any, name: str, stand_in: Any) -> Result:
    """Type a printed `kws VERB`, where `module.name` is another meanwhile."""
    kws, *words = shlex.split(line)
    assert (kws, words[0]) == ("kws", verb)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, stand_in)
        return CliRunner().invoke(cli, words)


@contextlib.contextmanager
def full_disk(most: int) -> Iterator[None]:
    """As where a quota ends: this process may write files of `most` bytes alone."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


class _Begins(Exception):
    """All that a training needs was found."""


def begins_to_train(line: str) -> str:
    """Type a printed `kws train`, up to where TensorFlow would be loaded: its options,
    recipe, network, folders, and clips in every split are right then.

    Returns:
        What it said.
    """

    def begin(_: str) -> NoReturn:
        raise _Begins

    done = typed(line, "train", distribute, "strategy_of", begin)
    assert isinstance(done.exception, _Begins), (line, done.output, done.exception)
    assert "No test clips" not in done.stderr
    return done.stderr


def tool(name: str) -> ModuleType:
    """tools/NAME.py as a module."""
    path = Path(__file__).parents[1] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def need_espeak() -> None:
    try:
        espeak.start()
    except KwsError as error:
        skip_or_fail(str(error))


def need_qemu() -> None:
    if qemu.missing() is not None:
        skip_or_fail("qemu-system-arm is not installed")


def need_portaudio() -> None:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        skip_or_fail(str(error))


def need_compiler(name: str | None = None) -> None:
    names = [tools.name for tools in toolchain.available()]
    if not names or name not in (None, *names):
        skip_or_fail(f"the cross compiler {name or ''} is not installed")


def host_compile(sources: list[Path], out: Path, *flags: str) -> Path:
    """Compile firmware C on this machine, warnings being errors. Returns `out`."""
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail("there is no C compiler (cc)")
    command = [str(compiler), *HOST_FLAGS, *flags, f"-I{FIRMWARE / 'include'}"]
    command += [*map(str, sources), "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return out
