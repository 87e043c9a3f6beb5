"""Every n-th operation of a verb fails, and what it leaves is whole, or refused.

A sample of n; all of them, and train and convert, with KWS_TORTURE=all (an hour).
"""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toolbox import need_compiler, need_qemu, skip_or_fail, tool

from kws import bundle as bundles
from kws import emit
from kws.emit import native
from kws.errors import KwsError

TOOL = Path(__file__).parents[1] / "tools" / "torture.py"
ALL = os.environ.get("KWS_TORTURE") == "all"
VERBS = ("emit", "build", "flash", *(("library",) if ALL else ()))

if sys.platform != "linux":
    pytest.skip("files fail by LD_PRELOAD", allow_module_level=True)
if importlib.util.find_spec("pyocd") is None:  # pragma: no cover
    skip_or_fail("pyOCD is not installed (pip install -e '.[flash]')")


torture = tool("torture")


def run(
    *arguments: str, sample: int = 1, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The tool; with `cache`, as on a machine that has compiled nothing yet."""
    some = () if ALL else ("--sample", str(sample))
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments, *some],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ({"KWS_CACHE": str(cache)} if cache else {}),
    )


@pytest.mark.parametrize(
    ("how", "sample"), [((), 2), (("--kill",), 1)], ids=["failed", "killed"]
)
def test_what_an_operation_leaves_that_failed(
    how: tuple[str, ...], sample: int, tmp_path: Path
) -> None:
    need_compiler()
    need_qemu()  # what a board takes is measured there before it is flashed
    result = run(*VERBS, *how, sample=sample, cache=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" 0 faults") == len(VERBS)


@pytest.mark.skipif(not ALL, reason="minutes: with KWS_TORTURE=all")
@pytest.mark.parametrize("how", [(), ("--kill",)], ids=["failed", "killed"])
@pytest.mark.parametrize("verb", ["convert", "train"])
def test_what_a_training_leaves_that_failed(verb: str, how: tuple[str, ...]) -> None:
    result = run(verb, *how)
    assert result.returncode == 0, result.stdout + result.stderr


_FILES = """
import os, sys
sys.path.insert(0, sys.argv[1])
from torture import Shim
from pathlib import Path
shim, folder = Shim(Path(os.environ["LD_PRELOAD"])), sys.argv[2]
shim.prefix(folder)
for n in range(5):
    shim.arm(n, False)
    try:
        with open("/dev/null", "rb") as other:
            other.read()  # is none of its
        with open(folder + "/a", "wb", buffering=0) as file:
            file.write(b"0123")
            os.fsync(file.fileno())
        os.replace(folder + "/a", folder + "/b")
        error = 0
    except OSError as failure:
        error = failure.errno
    count = shim.lib.torture_disarm()
    known = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    print(count, shim.lib.torture_name().decode(), error, known)
    for path in Path(folder).iterdir():
        path.unlink()
"""


def test_the_nth_operation_fails_and_no_other(tmp_path: Path) -> None:
    library, folder = tmp_path / "torture.so", tmp_path / "files"
    folder.mkdir()
    torture.compile_shim(library)
    result = subprocess.run(
        [sys.executable, "-c", _FILES, str(TOOL.parent), str(folder)],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == [
        "4  0 {'b': b'0123'}",
        "1 open for writing 28 {}",
        "2 write 28 {'a': b'01'}",
        "3 fsync 5 {'a': b'0123'}",
        "4 rename 5 {'a': b'0123'}",
    ], result.stderr


_RECORDING = """
import sys
sys.path.insert(0, sys.argv[1])
import os
from pathlib import Path
import numpy as np
from torture import Shim
from kws.data import audio
from kws.errors import KwsError
audio.MAX_HELD_BYTES = int(sys.argv[3])
shim, path = Shim(Path(os.environ["LD_PRELOAD"])), Path(sys.argv[2])
path.write_bytes(audio.wav_bytes(np.arange(16000, dtype=np.int16)))
shim.prefix(str(path))
n, name = 0, "none"
while name:
    shim.arm(n := n + 1, False)
    try:
        said = str(LOOK)
    except (KwsError, OSError) as error:
        said = type(error).__name__
    shim.lib.torture_disarm()
    name = shim.lib.torture_name().decode()
    print(name, said)
"""


@pytest.mark.parametrize(
    ("look", "most", "length"),
    [
        ("len(audio.read(path).pcm)", 1 << 28, "16000"),
        ("len(audio.read(path).pcm)", 0, "16000"),  # as of one that is too large
        ("audio.seconds(path)", 0, "1.0"),
    ],
)
def test_a_recording_is_read_as_it_is_or_not_at_all(
    look: str, most: int, length: str, tmp_path: Path
) -> None:
    """libsndfile takes what it can't read of a header for zeros."""
    library = tmp_path / "torture.so"
    torture.compile_shim(library)
    code, path = _RECORDING.replace("LOOK", look), tmp_path / "a.wav"
    result = subprocess.run(
        [sys.executable, "-c", code, str(TOOL.parent), str(path), str(most)],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    *failed, whole = result.stdout.splitlines()
    assert whole == f" {length}", result.stderr
    refused = {"0.0"} if length == "1.0" else {"NotUsable", "OSError"}
    assert {line.split()[-1] for line in failed} <= refused, failed
    assert len(failed) >= 3


def test_an_emission_that_ends_anywhere_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (bundles.load(name) for name in (torture.OTHER, torture.MODEL))
    made = {model.path: native.sources(model, "portable") for model in (old, new)}
    monkeypatch.setattr(emit, "engine_sources", lambda model, *_: made[model.path])
    honest = Path.replace

    def written(model: bundles.Bundle) -> dict[str, bytes]:
        emit.emit(model, tmp_path, np.zeros(len(model.labels), np.int8))
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    whole = written(new)
    for n in range(len(emit.FILES)):
        written(old)
        done: list[Path] = []

        def fails(
            path: Path, target: Path, done: list[Path] = done, n: int = n
        ) -> Path:
            if len(done) == n:
                raise OSError(errno.EIO, "Input/output error")
            done.append(target)
            return honest(path, target)

        with monkeypatch.context() as failing:
            failing.setattr(Path, "replace", fails)
            with pytest.raises(KwsError, match="can't be written"):
                written(new)
        assert not (tmp_path / "kws_model.c").exists()
        assert written(new) == whole


def test_faults_are_seen() -> None:
    """A mixture of two models, half a flash that nobody knows of, an error's trace."""
    old = {"out/kws_model.c": "a", "out/kws_model_features.c": "a"}
    new = {"out/kws_model.c": "b", "out/kws_model_features.c": "b"}
    mixed = {**old, "out/kws_model.c": "b"}
    emit = torture.SCENARIOS["emit"].whole
    assert emit(old, mixed, new) == "files of two models"
    assert {emit(old, left, new) for left in (old, new, {})} == {""}
    flash = torture.SCENARIOS["flash"].whole
    was, done = {"chip": "0", "marked": "False"}, {"chip": "2", "marked": "False"}
    assert flash(was, {"chip": "1", "marked": "False"}, done) == "half flashed"
    assert flash(was, {"chip": "1", "marked": "True"}, done) == ""
    for code, text in ((torture.UNSEEN, "Traceback ..."), (2, "Error: no hint")):
        assert torture.judge(torture.Ended(code, text, 1, "write"), False)
    assert not torture.judge(torture.Ended(137, "", 1, "write"), True)
