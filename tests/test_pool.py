"""The training pool on a disk without room for it: told, before it is filled."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_corpus

from kws import data, pool, recipe
from kws.data import ClipSet
from kws.errors import KwsError

SHAPE = (8, 1 << 20)  # 8 MiB
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from kws import pool
from kws.errors import KwsError
{before}
try:
    array = pool._array(Path(sys.argv[1]) / "features.npy", np.int8, {shape}, True)
    array[:] = 1
except KwsError as error:
    print(error.message, error.hint)
"""


def write(folder: Path, before: str = "", wrapper: tuple[str, ...] = ()) -> str:
    """Fill a pool's file in a process of its own; what it says."""
    code = SCRIPT.format(before=before, shape=SHAPE)
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.parametrize(
    "before", ["", "import os; del os.posix_fallocate\n"], ids=["fallocate", "zeros"]
)
def test_a_full_disk_is_one_message(tmp_path: Path, before: str) -> None:
    """Before: SIGBUS, in the middle of hours of augmenting."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux) to mount a disk of its own")
    user = () if os.getuid() == 0 else ("--map-root-user",)
    mount = f"mount -t tmpfs -o size=3m small {tmp_path}"
    wrapper = ("unshare", "--mount", *user, "sh", "-c")
    if subprocess.run([*wrapper, mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk of its own")
    said = write(tmp_path, before, (*wrapper, f'{mount} && exec "$@"', "sh"))
    assert "no room for the training pool" in said
    assert "8,388,608 bytes" in said
    assert "--pool DIR" in said


def test_a_limit_on_files_is_the_same_message(tmp_path: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22,) * 2)"
    said = write(tmp_path, limit)
    assert "no room for the training pool (File too large)" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_keeps_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that is gone on with, where the system can't allocate."""

    def refuse(*arguments: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    path = tmp_path / "features.npy"
    first = pool._array(path, np.int8, (4, 5), True)
    assert not first.any()
    first[:] = 3
    first.flush()
    again = pool._array(path, np.int8, (4, 5), False)
    assert (again == 3).all()


def test_other_errors_are_not_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        pool._array(tmp_path / "features.npy", np.int8, (4, 5), True)
    assert not isinstance(caught.value, KwsError)


def test_a_model_that_sees_less_than_a_second(tmp_path: Path) -> None:
    """Before: numpy's complaint about shapes, after the clips were read."""
    chosen = recipe.load("kwt-stream-tiny")
    assert chosen.features.clip_samples < 16000
    rng = np.random.default_rng(0)
    clips = ClipSet(
        rng.integers(-3000, 3000, (4, 16000), np.int16),
        np.arange(4, dtype=np.int32),
        ["a", "b", "c", "d"],
        ("w", "x", "y", "z"),
        "train",
        {},
    )
    made = pool.build(clips, [], chosen, tmp_path)
    assert made.features.shape == (8, 4, 48, 40)
    assert made.features.any()


def test_two_runs_make_one_pool_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --pool DIR in common: before, each cut the file that the other wrote."""
    audio = small_corpus.make(tmp_path / "audio")
    spec = recipe.Recipe()
    spec = dataclasses.replace(
        spec, augment=dataclasses.replace(spec.augment, variants=1)
    )
    clips = data.load("train", recipe.Task("custom", words=("yes",)), audio)
    first = pool.build(clips, [], spec, tmp_path / "pool")
    (made,) = (tmp_path / "pool").iterdir()
    before = (made / "pool.json").stat().st_mtime_ns
    code = (
        "import sys\nfrom pathlib import Path\nfrom kws.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(made / "lock")]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        future = threads.submit(pool.build, clips, [], spec, tmp_path / "pool")
        said = ""
        while "Waiting" not in said:
            said += capsys.readouterr().err
            time.sleep(0.01)
        assert f"Waiting for process {other.pid}" in said and not future.done()
        other.stdin.close()
        second = future.result()
    assert np.array_equal(second.features, first.features)
    assert (made / "pool.json").stat().st_mtime_ns == before
