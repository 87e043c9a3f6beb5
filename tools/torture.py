"""Make the n-th operation of a verb fail, for every n, and look at what it leaves.

Operations are those on files below the verb's folders (open, read, write, rename,
mkdir, unlink, truncate, allocate; half of a write that fails arrives), whoever does
them: Python, HDF5, TensorFlow; each subprocess; each step of a debug probe; the serial
port. The n-th fails (no room, input/output error; a subprocess does not start), or,
with --kill, is the last that the process does.

Each n is told as it is done, for a run that is ended before its last.

What has to hold, each time: the command says in one message that it failed, or has done
all of it; nothing half is taken for whole afterwards; and the same command again ends
as if nothing had been. It is not typed again where what is left is, byte for byte, what
an earlier n left (most failures while reading): that would be the same attempt.

    python tools/torture.py emit build flash convert     # every n
    python tools/torture.py train --sample 12 --kill

Linux and a C compiler are needed: files fail by tests/c/torture.c, preloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import inspect
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import small_corpus  # noqa: E402

KILLED = 137  # tests/c/torture.c
UNSEEN = 99  # an error that no user should see
MODEL = "kwt-stream-tiny"
OTHER = "kwt-tiny"
WORDS = "yes,no"
RECIPE = (
    small_corpus.NETWORK
    + """\
[augment]
variants = 2
[train]
batch_size = 4
epochs = 2
[quantize]
epochs = 1
"""
)


class Shim:
    """tests/c/torture.c in this process."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        self.lib.torture_disarm.restype = ctypes.c_long
        self.lib.torture_name.restype = ctypes.c_char_p
        self.kill = False

    def arm(self, n: int, kill: bool) -> None:
        self.kill = kill
        self.lib.torture_arm(ctypes.c_long(n), int(kill))

    def prefix(self, path: str) -> None:
        assert self.lib.torture_prefix(os.fsencode(path)) == 0

    def tick(self, name: str) -> bool:
        """Whether an operation that is no file's is the one that fails."""
        if not self.lib.torture_tick(name.encode()):
            return False
        if self.kill:
            os._exit(KILLED)
        return True


@dataclass
class Scenario:
    """One verb, and what it has to leave.

    Args:
        arguments: Of `kws`; FOLDER stands for the folder that it works in.
        prepare: Makes the folder.
        state: What is looked at afterwards: name -> bytes' hash, or a word.
        whole: Given the states without a failure, before it and after it: whether what
            a failure left is no fault. Returns what is wrong, or "".
        connect: Done in the process, before the verb.
    """

    arguments: list[str]
    prepare: Callable[[Path], None]
    state: Callable[[Path], dict[str, str]]
    whole: Callable[[dict[str, str], dict[str, str], dict[str, str]], str]
    connect: Callable[[Path, Shim], None] = lambda folder, shim: None
    prefixes: tuple[str, ...] = ()
    imports: tuple[str, ...] = field(default=("kws.deploy.flash",))


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """Of files: path -> SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def contents(folder: Path) -> str:
    """Of all that a folder and its chip hold, names and bytes: one hash."""
    whole = hashlib.sha256()
    for path in [_chip_file(folder), *sorted(folder.rglob("*"))]:
        kind = "file" if path.is_file() else "folder" if path.is_dir() else "other"
        whole.update(f"{path}\0{kind}\0".encode())
        if kind == "file":
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


# --- the verbs ------------------------------------------------------------------------


def _copy_run(folder: Path) -> None:
    shutil.copytree(ROOT / "kws" / "pretrained" / MODEL, folder / "run")


def _emitted_before(folder: Path) -> None:
    from kws import bundle
    from kws.deploy import emission

    _copy_run(folder)
    emission.emit_bundle(bundle.load(OTHER), folder / "out", "dsp")


def _one_model(was: dict[str, str], left: dict[str, str], done: dict[str, str]) -> str:
    """All of the old one, or all of the new one, or no network at all: no mixture."""
    if left in (was, done) or not any(name.endswith("kws_model.c") for name in left):
        return ""
    return "files of two models"


def _built_before(folder: Path) -> None:
    """Of another model; and a cache in which one object is missing."""
    from kws import bundle
    from kws.deploy import boards, flash, formats
    from kws.paths import user_cache

    _copy_run(folder)
    board = boards.load("pico")
    image = flash.emit_and_build(bundle.load(OTHER), board, folder / "out")
    formats.write(image.elf, board)
    shutil.copytree(user_cache(), folder / "cache", copy_function=os.link)
    for path in (folder / "cache" / "objects").glob("print-*.o"):
        path.unlink()


def _one_image(was: dict[str, str], left: dict[str, str], done: dict[str, str]) -> str:
    """What lies beside an image is of that image."""
    for place in (was, done):
        if left.items() <= place.items():
            return ""
    return "files of two images: " + ", ".join(sorted(left))


def _chip_file(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.chip"


def _flashed_before(folder: Path) -> None:
    _copy_run(folder)
    _chip_file(folder).write_bytes(b"\xff" * 0x40000)


def _flash_state(folder: Path) -> dict[str, str]:
    chip = hashlib.sha256(_chip_file(folder).read_bytes()).hexdigest()
    marked = (folder / "out" / "programming.json").is_file()
    return {"chip": chip, "marked": str(marked)}


def _marked(was: dict[str, str], left: dict[str, str], done: dict[str, str]) -> str:
    """Flash that is neither as before nor whole is known to be so."""
    known = left["marked"] == "True"
    return (
        "" if known or left["chip"] in (was["chip"], done["chip"]) else "half flashed"
    )


def _connect(folder: Path, shim: Shim) -> None:
    """tests/fake_probe.py's probe with a chip that outlives the process, and a serial
    port at which it says hello."""
    import fake_probe
    import pytest
    from pyocd.core import exceptions

    from kws import bundle
    from kws.deploy import flash, run

    ours, theirs = os.openpty()
    port = os.ttyname(theirs)
    hello = f"kws boot name=x hash={bundle.load(folder / 'run').hash[:16]} schema=1\n"

    class Chip(fake_probe.Chip):
        def step(self, name: str) -> None:
            if shim.tick(f"probe: {name}"):
                raise exceptions.TransferError(f"no acknowledge ({name})")

        def reset(self) -> None:
            self.step("reset")
            os.write(ours, f"{hello}kws selftest ok\n".encode())

    file = os.open(_chip_file(folder), os.O_RDWR)
    chip: Any = Chip()
    chip.flash = mmap.mmap(file, 0)
    fake_probe.connect(pytest.MonkeyPatch(), chip)
    honest, flash.BOOT_S = flash.program, 2.0
    assert run is not None

    def program(*args: Any, **named: Any) -> Any:
        given = list(args)
        given[6] = port
        return honest(*given, **named)

    flash.program = program


def _corpus(folder: Path) -> None:
    import small_corpus

    small_corpus.make(folder / "audio")
    (folder / "my.toml").write_text(RECIPE)


def _trained_before(folder: Path) -> None:
    """The run of a training that is done once for all."""
    kept = folder.parent / "trained"
    if not kept.is_dir():
        _corpus(kept)
        line = [text.replace("FOLDER", str(kept)) for text in TRAIN]
        subprocess.run(
            [sys.executable, "-c", "from kws.cli import main; main()", *line],
            check=True,
            capture_output=True,
            env=os.environ | {"LD_PRELOAD": ""},
        )
    shutil.copytree(kept, folder, dirs_exist_ok=True)


def _bundle_state(folder: Path) -> dict[str, str]:
    """The bundle's hash, or that it is refused."""
    from kws import bundle
    from kws.errors import KwsError

    try:
        loaded = bundle.load(folder / "run")
        return {"bundle": loaded.hash}
    except KwsError as error:
        return {"bundle": f"refused: {error.message[:40]}"}


def _refused_or_whole(
    was: dict[str, str], left: dict[str, str], done: dict[str, str]
) -> str:
    if left in (was, done) or left["bundle"].startswith("refused"):
        return ""
    return f"another bundle: {left['bundle'][:16]}"


TRAIN = ["train", "--recipe", "FOLDER/my.toml", "--words", WORDS, "--data"]
TRAIN += ["FOLDER/audio", "--out", "FOLDER/run"]
_KERAS = ("tensorflow", "kws.train", "kws.convert", "kws.model.network")
SCENARIOS = {
    "emit": Scenario(
        ["emit", "FOLDER/run", "--out", "FOLDER/out"],
        _emitted_before,
        lambda folder: hashes(folder, "out/*"),
        _one_model,
    ),
    "library": Scenario(
        ["emit", "FOLDER/run", "--format", "library", "--out", "FOLDER/out"],
        _copy_run,
        lambda folder: hashes(folder, "out/**/*"),
        lambda was, left, done: "" if left in (was, done) else "half a library",
    ),
    "build": Scenario(
        ["build", "FOLDER/run", "--board", "pico", "--out", "FOLDER/out"],
        _built_before,
        lambda folder: hashes(folder, "out/main.*"),
        _one_image,
    ),
    "flash": Scenario(
        ["flash", "FOLDER/run", "--board", "nrf52840dk", "--out", "FOLDER/out"],
        _flashed_before,
        _flash_state,
        _marked,
        _connect,
        ("/dev/pts/",),
    ),
    "convert": Scenario(
        ["convert", "FOLDER/run"],
        _trained_before,
        _bundle_state,
        _refused_or_whole,
        imports=_KERAS,
    ),
    "train": Scenario(TRAIN, _corpus, _bundle_state, _refused_or_whole, imports=_KERAS),
}


def remember() -> None:
    """Compute once what is the same in all attempts, which are forks of this process.

    The files that it is computed from are read each time all the same.
    """
    from kws import bundle
    from kws.deploy import boards, emission, host, pace
    from kws.emit import native

    def once(module: Any, name: str, key: Callable[[Any], Any] = lambda it: it) -> None:
        honest, known = getattr(module, name), dict[Any, Any]()
        called = inspect.signature(honest)

        def remembered(*args: Any, **named: Any) -> Any:
            args[0].model_bytes()
            given = called.bind(*args, **named)
            given.apply_defaults()
            _, *others = given.arguments.values()  # behind the bundle
            at = (args[0].hash, *map(key, others))
            if at not in known:
                known[at] = honest(*args, **named)
            return known[at]

        setattr(module, name, remembered)

    once(native, "sources")
    once(host, "selftest_run")
    once(pace, "measure", lambda it: getattr(it, "name", it))  # a board's
    model = bundle.load(MODEL)
    for core in ("portable", "dsp", "mve"):
        native.sources(model, core)
    emission.selftest_cost(model, "dsp")
    pace.measure(model, boards.load("nrf52840dk"))


# --- one attempt ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Args:
        code: Of the process.
        text: What it printed.
        operations: How many there were, up to its end.
        name: Of the operation that failed; "" where none did.
    """

    code: int
    text: str
    operations: int
    name: str


def attempt(
    scenario: Scenario, shim: Shim, folder: Path, n: int, kill: bool = False
) -> Ended:
    """Run the verb in a process of its own; its n-th operation fails (0: none)."""
    readable, writable = os.pipe()
    out = folder.parent / f"{folder.name}.txt"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        _verb(scenario, shim, folder, n, kill, out, writable)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    table = json.loads(told) if told else {"operations": n, "name": "the last"}
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, out.read_text("utf-8", "replace"), **table)


def _verb(
    scenario: Scenario,
    shim: Shim,
    folder: Path,
    n: int,
    kill: bool,
    out: Path,
    writable: int,
) -> NoReturn:
    code: Any = UNSEEN
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ["LD_PRELOAD"] = ""
        if (folder / "cache").is_dir():
            os.environ["KWS_CACHE"] = str(folder / "cache")
        scenario.connect(folder, shim)
        honest = subprocess.Popen.__init__

        def start(self: Any, *args: Any, **named: Any) -> None:
            if shim.tick("subprocess"):
                raise BlockingIOError(11, "Resource temporarily unavailable")
            honest(self, *args, **named)

        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
        words = [text.replace("FOLDER", str(folder)) for text in scenario.arguments]
        sys.argv = ["kws", *words]
        from kws.cli import main

        shim.arm(n, kill)
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    table = {"operations": shim.lib.torture_disarm()}
    table["name"] = shim.lib.torture_name().decode()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(writable, json.dumps(table).encode())
    os._exit(code if isinstance(code, int) else UNSEEN)


# --- all of them ----------------------------------------------------------------------


def judge(ended: Ended, kill: bool) -> str:
    """What is wrong with how a failed attempt ended, or ""."""
    if kill and ended.code == KILLED:
        return ""
    if ended.code == 0:
        return ""
    if "Traceback" in ended.text or ended.code not in (1, 2):
        return f"exit code {ended.code}, and no message"
    if "Error: " not in ended.text or "Hint: " not in ended.text:
        return "no message"
    return ""


def torture(
    verb: str,
    shim: Shim,
    folder: Path,
    sample: int | None = None,
    kill: bool = False,
    only: tuple[int, ...] = (),
) -> tuple[int, list[str]]:
    """Fail every n-th operation of a verb, or some, spread evenly.

    Returns:
        How many were tried, and what was wrong, which is printed as it is found.
    """
    scenario = SCENARIOS[verb]
    for name in scenario.imports:
        __import__(name)
    if "tensorflow" not in scenario.imports:
        remember()

    def fresh(name: str) -> Path:
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        scenario.prepare(place)
        return place

    shim.prefix(str(folder / "try"))
    for path in scenario.prefixes:
        shim.prefix(path)
    place = fresh("try")
    was = scenario.state(place)
    whole = attempt(scenario, shim, place, 0)
    assert whole.code == 0, whole.text
    done = scenario.state(place)
    numbers = list(range(1, whole.operations + 1))
    if sample is not None and sample < len(numbers):
        step = len(numbers) / sample
        numbers = [numbers[int((i + 0.5) * step)] for i in range(sample)]
    of = whole.operations
    print(f"{verb}: {len(only or numbers)} of {of} operations", flush=True)
    problems = []
    went_on: dict[str, int] = {}  # what was left -> the first n that left it
    for n in only or numbers:
        place = fresh("try")
        ended = attempt(scenario, shim, place, n, kill)
        wrong = judge(ended, kill)
        left = scenario.state(place)
        if not wrong and ended.code == 0 and left != done:
            wrong = "it says that all is well, and it isn't"
        wrong = wrong or scenario.whole(was, left, done)
        what, then = contents(place), "then whole"
        if what in went_on:
            then = f"then as {went_on[what]}"
        elif not wrong:
            again = attempt(scenario, shim, place, 0)
            if again.code != 0 or scenario.state(place) != done:
                wrong = f"a rerun does not go on: {again.text[-300:]}"
            else:
                went_on[what] = n
        if wrong:
            tail = ended.text.strip()[-700:]
            problems.append(f"{verb}, {n} ({ended.name}): {wrong}\n{tail}")
            print(f"FAILED: {problems[-1]}", flush=True)
        else:
            print(f"{verb}, {n} ({ended.name}): {ended.code}, {then}", flush=True)
    return len(only or numbers), problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verbs", nargs="+", choices=[*SCENARIOS])
    parser.add_argument("--sample", type=int, help="so many n, spread evenly")
    parser.add_argument("--only", type=int, nargs="+", default=())
    parser.add_argument("--kill", action="store_true", help="the n-th is the last")
    options = parser.parse_args()
    library = os.environ.get("KWS_TORTURE", "")
    if not library:  # once more, with the library in front of the C library
        with tempfile.TemporaryDirectory(prefix="kws-torture-") as name:
            made = Path(name) / "torture.so"
            compile_shim(made)
            environment = {"KWS_TORTURE": str(made), "LD_PRELOAD": str(made)}
            command = [sys.executable, *sys.argv]
            return subprocess.run(
                command, env=os.environ | environment, check=False
            ).returncode
    shim, failed = Shim(Path(library)), 0
    for verb in options.verbs:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kws-torture-") as name:
            # The verb's files are in it; a verb has a process of its own.
            pid = os.fork()
            if pid == 0:
                tried, problems = torture(
                    verb,
                    shim,
                    Path(name).resolve(),
                    options.sample,
                    options.kill,
                    tuple(options.only),
                )
                took = time.monotonic() - start
                how = "the last" if options.kill else "failed"
                print(
                    f"{verb}: {tried} operations, each in turn {how}: "
                    f"{len(problems)} faults, {took:.0f} s",
                    flush=True,
                )
                os._exit(1 if problems else 0)
            failed += os.waitpid(pid, 0)[1] != 0
    return 1 if failed else 0


def compile_shim(out: Path) -> None:
    """tests/c/torture.c as a library to preload."""
    from kws.deploy import toolchain

    command = [*(toolchain.host() or ["cc"]), "-shared", "-fPIC", "-O1", "-Wall"]
    command += ["-Wextra", "-Werror", str(ROOT / "tests/c/torture.c"), "-ldl"]
    subprocess.run([*command, "-o", str(out)], check=True)


if __name__ == "__main__":
    sys.exit(main())
