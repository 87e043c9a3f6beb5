"""Several replicas and several machines: tf.distribute, and who is who in a cluster.

The workers of a cluster run the same command. They share every step of training, so
one that is killed ends it for all; started again, all go on from the chief's last
checkpoint (docs/training.md).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from kws.errors import KwsError

STRATEGIES = ("none", "mirrored", "multiworker")
EXAMPLE = json.dumps(
    {
        "cluster": {"worker": ["first.example:2222", "second.example:2222"]},
        "task": {"type": "worker", "index": 0},
    }
)


def check(name: str) -> int:
    """This process's place in the cluster, before TensorFlow is loaded.

    Returns:
        0 for the chief, which writes the run (the only worker, but for
        `multiworker`); then the others.

    Raises:
        KwsError: no such strategy; `multiworker` without a cluster in TF_CONFIG, which
            TensorFlow would train alone.
    """
    if name not in STRATEGIES:
        raise KwsError(
            f"No such strategy. Expected {', '.join(STRATEGIES)}. Received: {name!r}",
            "--distribute mirrored",
        )
    if name != "multiworker":
        return 0
    text = os.environ.get("TF_CONFIG", "")
    try:
        table = json.loads(text)
        cluster, task = table["cluster"], table["task"]
        workers = [*cluster.get("chief", []), *cluster["worker"]]
        place = int(task["index"])
        if task["type"] == "worker":
            place += len(cluster.get("chief", []))
        elif task["type"] != "chief":
            raise ValueError(f"task type {task['type']!r}")
        if not all(isinstance(worker, str) for worker in workers):
            raise ValueError("an address that is no text")
        if not 0 <= place < len(workers):
            raise ValueError(f"index {task['index']} of {len(workers)} workers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f": {error}" if text else ""
        raise KwsError(
            "--distribute multiworker needs the cluster's workers, and which of them "
            f"this is, in the variable TF_CONFIG. Received: TF_CONFIG={text!r}{why}",
            f"export TF_CONFIG='{EXAMPLE}'   (on each machine with its own index)",
        ) from None
    return place


def strategy_of(name: str) -> Any:
    """The tf.distribute strategy of `--distribute`.

    `multiworker` reads the cluster from TF_CONFIG and waits for the other workers.

    Raises:
        KwsError: see `check`; or TensorFlow can't join the cluster.
    """
    check(name)
    from kws.layers.keras import tf

    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise KwsError(
            "This worker can't join its cluster. Expected the addresses of TF_CONFIG "
            f"to be reachable and free. Received: {first_line(error)}",
            "https://www.tensorflow.org/guide/distributed_training#TF_CONFIG",
        ) from None


def is_chief(strategy: Any) -> bool:
    """True on the worker that writes files (the only one, but for multiworker)."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or (
        "chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0
    )


def own_pool(folder: Path, place: int) -> Path:
    """Folder of this worker's pool: workers may share --out, but not a file."""
    return folder.with_name(f"{folder.name}-{place}") if place else folder


def from_chief(strategy: Any, data: bytes) -> bytes:
    """What the chief has, on every worker: `data` of the others is not looked at."""
    if not _clustered(strategy):
        return data
    mine = data if is_chief(strategy) else b""
    size = int(_first(strategy, np.array([len(mine)], np.int32))[0])
    words = np.zeros(-(-size // 4), np.int32)
    if mine:
        words.view(np.uint8)[:size] = np.frombuffer(mine, np.uint8)
    return _first(strategy, words).tobytes()[:size] if size else b""


def wait_for_chief(strategy: Any) -> None:
    """Let no worker leave before the chief has written the run; the chief itself needs
    nobody any more."""
    try:
        from_chief(strategy, b"")
    except Exception as error:
        if not is_chief(strategy) or lost(error) is None:
            raise


def _clustered(strategy: Any) -> bool:
    resolver = strategy.cluster_resolver
    return resolver is not None and bool(resolver.task_type)


def _first(strategy: Any, values: np.ndarray) -> np.ndarray:
    """The chief's int32 values, on every worker: a sum to which no other adds."""
    from kws.layers.keras import tf

    given = tf.constant(values)

    @tf.function(autograph=False)
    def total() -> Any:
        def part() -> Any:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return given * tf.cast(number == 0, given.dtype)

        return strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(part), axis=None
        )

    return np.asarray(total().numpy())


def first_line(error: BaseException) -> str:
    """An error of TensorFlow's, short enough for a message."""
    lines = re.sub(r"^\{\{.*?\}\}", "", str(error)).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def lost(error: BaseException) -> KwsError | None:
    """The message where a worker of the cluster is gone; None for other errors."""
    from kws.layers.keras import tf

    kinds = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.FailedPreconditionError,
    )
    if not isinstance(error, kinds):
        return None
    return KwsError(
        "The cluster is broken: another worker ended, or can't be reached. Expected "
        f"all workers of TF_CONFIG until the end. Received: {first_line(error)}",
        "Type the same command again on every worker: the training goes on after the "
        "last whole epoch.",
        exit_code=1,
    )
