"""The wheel: it holds what an installed kws needs and nothing else, and works alone."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import toolbox
from click.testing import CliRunner

from kws import bundle
from kws.cli import cli
from kws.deploy import emission

ROOT = Path(__file__).resolve().parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.splitlines()
# What lies about in a checkout that is worked in, and is no part of a release.
STRAY = (
    f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/kws/gone.py",
    "firmware/app/room.wav",
    "firmware/src/kws.o",
    "kws/pretrained/kwt-tiny/checkpoints/run.json",
    "kws/pretrained/kwt-tiny/room.wav",
    "kws/recipes/notes.txt",
    "kws-library/src/kws.c",
    "kws_library/kws.py",
)

Command = Callable[..., subprocess.CompletedProcess[str]]


def outside() -> dict[str, str]:
    """This environment without what would lead back to the checkout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "KWS_DATA")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def pip(folder: Path, *arguments: str) -> None:
    """pip, for the virtual environment `folder`, which has none of its own."""
    python = str(folder / "bin" / "python")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *arguments],
        cwd=folder,
        env={**outside(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search(r"No matching distribution|NewConnectionError", done.stderr):
        toolbox.skip_or_fail(f"pip can't get a package: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two wheels: of a checkout that is worked in, and of the sdist of a clean one."""
    if not TRACKED:
        toolbox.skip_or_fail("this is not a git checkout, so what belongs is unknown")
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    for name in TRACKED:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    builder = folder / "builder"
    venv.create(builder)
    pip(builder, "install", "-q", *requires["requires"])
    build = "import sys; from setuptools.build_meta import *; build_sdist(sys.argv[1])"
    subprocess.run(
        [builder / "bin" / "python", "-c", build, folder],
        cwd=checkout,
        env=outside(),
        check=True,
        capture_output=True,
    )
    (sdist,) = folder.glob("kws-*.tar.gz")
    for name in STRAY:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("")
    made = []
    for source, name in ((checkout, "from-checkout"), (sdist, "from-sdist")):
        options = ("-q", "--no-deps", "--no-build-isolation", "-w", str(folder / name))
        pip(builder, "wheel", *options, str(source))
        made += (folder / name).iterdir()
    return made[0], made[1]


@pytest.fixture(scope="module")
def room(
    wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Command]:
    """A folder with no repository near, and how to run what the wheel put there."""
    folder = tmp_path_factory.mktemp("room")
    environment = folder / "environment"
    venv.create(environment)
    pip(environment, "install", "-q", str(wheels[0]))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        programs = environment / "bin"
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [programs / arguments[0], *arguments[1:]],
            cwd=folder,
            env={**outside(), "PATH": path, "KWS_CACHE": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )

    return folder, run


def names(wheel: Path) -> set[str]:
    listed = zipfile.ZipFile(wheel).namelist()
    return {name for name in listed if ".dist-info/" not in name}


@pytest.mark.parametrize("which", [0, 1], ids=["checkout", "sdist"])
def test_a_wheel_holds_what_is_needed_and_nothing_else(
    wheels: tuple[Path, Path], which: int
) -> None:
    carried = {
        f"kws/_files/{name}": name
        for name in TRACKED
        if name.startswith(("firmware/", "datasets/")) or name == "LICENSE"
    }
    expected = carried | {name: name for name in TRACKED if name.startswith("kws/")}
    # A file of a new kind: name it in setup.py, or in pyproject.toml's package-data.
    assert names(wheels[which]) == {*expected, "kws/features/_native.abi3.so"}
    with zipfile.ZipFile(wheels[which]) as archive:
        for inside, name in expected.items():
            assert archive.read(inside) == (ROOT / name).read_bytes(), name


def test_one_wheel_serves_every_python(wheels: tuple[Path, Path]) -> None:
    for wheel in wheels:
        assert re.fullmatch(r"kws-[\d.]+-cp311-abi3-[a-z0-9_]+\.whl", wheel.name)


def test_an_installed_kws_is_not_the_checkout_s(room: tuple[Path, Command]) -> None:
    folder, run = room
    code = "import kws, kws.paths; print(kws.__file__, kws.paths.CHECKOUT)"
    place, checkout = run("python", "-c", code).stdout.split()
    assert Path(place).is_relative_to(folder / "environment")
    assert checkout == "None"


def test_an_installed_kws_says_how_to_get_an_extra(room: tuple[Path, Command]) -> None:
    """And what it says works: pip finds the kws that is installed, not another one."""
    folder, run = room
    done = run("kws", "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0
    assert all(check["ok"] for check in checks.values() if check["required"])
    assert checks["pyserial"]["hint"] == "pip install 'kws[flash]'"
    assert checks["tensorflow"]["hint"] == "pip install 'kws[train]'"
    pip(folder / "environment", "install", "-q", "kws[synth]")
    code = "import espeakng_loader, kws.paths; assert kws.paths.CHECKOUT is None"
    assert run("python", "-c", code).returncode == 0


def test_an_installed_kws_knows_boards_and_data_sets(
    room: tuple[Path, Command],
) -> None:
    _, run = room
    boards = json.loads(run("kws", "boards", "--json").stdout)
    shown = {board["name"] for board in boards["boards"]}
    assert shown == {
        Path(name).parts[2] for name in TRACKED if name.endswith("/board.toml")
    }
    fetch = run("kws", "data", "fetch", "--version", "v9")
    assert fetch.returncode == 2
    assert "v0.01 or v0.02" in fetch.stderr


def test_an_installed_kws_hears_a_tape_on_this_pc(room: tuple[Path, Command]) -> None:
    folder, run = room
    pip(folder / "environment", "install", "-q", "kws[synth]")
    words = "yes,stop,no,go"
    done = run("kws", "data", "synth", "--words", words, "--stream", "tape.wav")
    assert done.returncode == 0, done.stderr
    arguments = ("eval", "kwt-tiny", "--tape", str(folder / "tape.wav"), "--json")
    done = run("kws", *arguments)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["words"] == 4
    assert facts["false_alarms"] == 0
    here = CliRunner().invoke(cli, arguments)
    assert facts == json.loads(here.stdout)


def test_an_installed_kws_writes_the_library_that_a_checkout_writes(
    room: tuple[Path, Command],
) -> None:
    folder, run = room
    done = run("kws", "emit", "kwt-tiny", "--format", "library", "--out", "library")
    assert done.returncode == 0, done.stderr
    here = emission.export_library(bundle.load("kwt-tiny"), folder / "here")
    files = [path.relative_to(folder / "here") for path in here.files]
    assert Path("LICENSE") in files and Path("src/kws.c") in files
    there = [p for p in (folder / "library").rglob("*") if p.is_file()]
    assert len(there) == len(files)
    different = filecmp.cmpfiles(
        folder / "here", folder / "library", [str(f) for f in files], shallow=False
    )[1:]
    assert different == ([], [])


def test_an_installed_kws_runs_its_demo(room: tuple[Path, Command]) -> None:
    toolbox.need_qemu()
    toolbox.need_compiler()
    folder, run = room
    pip(folder / "environment", "install", "-q", "kws[synth]")
    before = {path for path in (folder / "environment").rglob("*")}
    done = run("kws", "demo", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hits"] >= 7
    # An installed package may be another user's: nothing is written into it.
    made = {path for path in (folder / "environment").rglob("*")} - before
    assert not {path for path in made if "__pycache__" not in path.parts}
