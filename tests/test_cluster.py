"""Several workers: refused without a cluster, gone on with after one was killed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_corpus
import toolbox

from kws.errors import KwsError
from kws.train import distribute

RECIPE = (
    small_corpus.NETWORK
    + """\
[augment]
variants = 1
noise_probability = 0.0
speed = 0.0
[train]
batch_size = 8
epochs = 12
[quantize]
epochs = 0
"""
)
TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", "TF_CONFIG=''"),
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        (json.dumps({"cluster": TWO}), "'task'"),
        (json.dumps({"cluster": TWO, "task": {"type": "ps", "index": 0}}), "'ps'"),
        (
            json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 2}}),
            "index 2 of 2 workers",
        ),
        (
            json.dumps({"cluster": {}, "task": {"type": "worker", "index": 0}}),
            "'worker'",
        ),
    ],
)
def test_without_a_cluster_multiworker_is_refused(
    config: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow would train alone, and call this worker the chief."""
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(KwsError, match="TF_CONFIG") as caught:
        distribute.check("multiworker")
    assert told in caught.value.message
    # The hint is a command that helps.
    text = caught.value.hint.split("'")[1]
    monkeypatch.setenv("TF_CONFIG", text)
    assert distribute.check("multiworker") == 0


def test_places_in_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind, index, place in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        task = {"type": kind, "index": index}
        table = {"cluster": TWO | {"chief": ["c:1"]}, "task": task}
        monkeypatch.setenv("TF_CONFIG", json.dumps(table))
        assert distribute.check("multiworker") == place
    assert distribute.check("none") == 0
    assert distribute.own_pool(tmp_path / "pool", 0) == tmp_path / "pool"
    assert distribute.own_pool(tmp_path / "pool", 2) == tmp_path / "pool-2"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def rows(run: Path) -> list[list[str]]:
    file = run / "results.csv"
    return list(csv.reader(file.open()))[1:] if file.is_file() else []


def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """Each worker with a folder of its own: the new one finds no checkpoint there."""
    if importlib.util.find_spec("tensorflow") is None:
        toolbox.skip_or_fail("TensorFlow is not installed")
    small_corpus.make(tmp_path / "audio")
    (tmp_path / "my.toml").write_text(RECIPE)
    outs = [tmp_path / "chief", tmp_path / "other"]

    def start() -> list[subprocess.Popen[str]]:
        workers = [f"localhost:{port}" for port in free_ports(2)]
        processes = []
        for index, out in enumerate(outs):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": workers}, "task": task}
            command = "from kws.cli import main; main()"
            options = f"train --recipe my.toml --words yes,no --data audio --out {out}"
            options += " --no-convert --distribute multiworker"
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", command, *options.split()],
                    cwd=tmp_path,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(Path(__file__).parents[1]),
                        "TF_CONFIG": json.dumps(config),
                        "CUDA_VISIBLE_DEVICES": "-1",
                    },
                )
            )
        return processes

    chief, other = start()
    while chief.poll() is None and not rows(outs[0]):
        time.sleep(0.05)
    other.send_signal(signal.SIGKILL)
    said = [process.communicate()[1] for process in (chief, other)]
    before = rows(outs[0])
    assert 0 < len(before) < 12, said
    assert chief.returncode == 1, said[0]
    assert "Traceback" not in said[0]
    assert "Error: The cluster is broken" in said[0]
    assert "Type the same command again on every worker" in said[0]

    chief, other = start()
    said = [process.communicate()[1] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [0, 0], said
    assert len(rows(outs[0])) == 12 and rows(outs[0])[: len(before)] == before
    for text in said:  # neither began again
        assert f"float {len(before)}/12" not in text
        assert f"float {len(before) + 1}/12" in text
    assert (outs[0] / "bundle.json").is_file()
    assert sorted(path.name for path in outs[1].rglob("*.*")) == [
        "features.npy",
        "pool.json",
    ]
    assert "This worker is done" in said[1]
