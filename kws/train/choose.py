"""Which epoch of the tuning hears tapes best: misses at a rate of false alarms.

Accuracy on clips says little of hours of sound. So each epoch of the tuning is
converted, and the firmware's C hears the tapes with it, as `kws calibrate` does; the
epoch with the fewest misses stays. What was heard is kept under checkpoints/heard, so
a run that was stopped hears no epoch twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import operating_points
from kws.bundle import Bundle
from kws.data import tape as tapes_of
from kws.errors import CheckFailed, KwsError, quoted
from kws.operating_points import Aim
from kws.train.loop import set_weights

FOLDER = "heard"


def keep_epoch(folder: Path, epoch: int, weights: Sequence[np.ndarray]) -> None:
    """Keep an epoch's averaged weights for `best`.

    Args:
        folder: The run's.
        epoch: Counted from 1.
        weights: In the order of network.weights.
    """
    buffer = io.BytesIO()
    np.savez(buffer, *weights)
    bundles.write_atomic(_weights(folder, epoch), buffer.getvalue())


def check(tapes: Sequence[Path], labels: Sequence[str]) -> None:
    """Raises KwsError for tapes that can't be read, or have no word of `labels`."""
    words = [
        window
        for _, tape in tapes_of.opened(tapes, labels)
        for window in tapes_of.asked_for(tape.windows, labels)
    ]
    if not words:
        raise tapes_of.without_words(tapes, labels)


def best(
    bundle: Bundle,
    tuned: Any,
    history: Sequence[dict[str, Any]],
    tapes: Sequence[Path],
    aim: Aim,
    clips: np.ndarray,
) -> dict[str, Any]:
    """The row of the epoch that comes nearest to an aim; `tuned` gets its weights.

    Args:
        bundle: The run, with the thresholds that it was tuned for.
        tuned: Its network in mode `qat`.
        history: Rows of the tuning's epochs, each kept by `keep_epoch`.
        tapes: Recordings with their truth beside them.
        aim: What is wanted; the false alarms an hour.
        clips: Features int8 [N, frames, mel_bins] to check each conversion on.

    Returns:
        The row, with `misses` and `false_alarms` beside. On a tie the later epoch's.

    Raises:
        KwsError: epochs that were not kept; CheckFailed: no epoch's conversion holds,
            or none reaches the aim.
    """
    place = bundle.path / "checkpoints" / FOLDER
    record = place / "heard.json"
    known = bundles.read_json(record) if record.is_file() else {}
    asked = _asked(bundle, tapes, aim)
    rows: list[dict[str, Any]] = []
    refused: list[CheckFailed] = []
    for row in history:
        path = _weights(bundle.path, row["epoch"])
        if not path.is_file():
            raise KwsError(
                f"Epoch {row['epoch']} of the tuning was not kept, or is gone. "
                f"Expected {path}. Received: {bundle.path}",
                "Type the same command without --tape, then kws calibrate "
                f"{quoted(bundle.path)} --tape {quoted(tapes[0])}   (or train again "
                "with --restart)",
            )
        weights = path.read_bytes()
        key = hashlib.sha256(weights + asked).hexdigest()
        if key not in known:
            _load(tuned, weights)
            try:
                known[key] = _hear(bundle, place, tuned, tapes, aim, clips)
            except CheckFailed as error:
                refused.append(error)
                told = f"epoch {row['epoch']}: not heard, its conversion does not hold"
                print(told, file=sys.stderr, flush=True)
                continue
            bundles.write_atomic(record, json.dumps(known).encode())
        told = f"epoch {row['epoch']}: "
        if known[key] is None:
            told += "no settings reach the aim on the tapes, "
        else:
            misses, alarms = known[key]
            told += f"{misses} missed, {alarms} false alarms on the tapes, "
            rows.append({**row, "misses": misses, "false_alarms": alarms})
        told += f"val {100 * row['val_accuracy']:.2f} %"
        print(told, file=sys.stderr, flush=True)
    if refused and len(refused) == len(history):
        raise refused[-1]
    if not rows:
        raise CheckFailed(
            "No epoch's network reaches the aim on the tapes. Received: --false-alarms "
            f"{aim.false_alarms}",
            "Type the same command with more --false-alarms, or without --tape.",
        )
    chosen = min(rows, key=lambda r: (r["misses"], r["false_alarms"], -r["epoch"]))
    _load(tuned, _weights(bundle.path, chosen["epoch"]).read_bytes())
    return chosen


def _load(tuned: Any, data: bytes) -> None:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        set_weights(tuned, [arrays[f"arr_{i}"] for i in range(len(tuned.weights))])


def _hear(
    bundle: Bundle,
    place: Path,
    tuned: Any,
    tapes: Sequence[Path],
    aim: Aim,
    clips: np.ndarray,
) -> tuple[int, int] | None:
    """Misses and false alarms of the network as it is, at the aim; None: no settings
    reach it."""
    from kws import convert as conversion
    from kws import quantize

    place.mkdir(parents=True, exist_ok=True)
    candidate = dataclasses.replace(bundle, path=place)
    quantize.save_calibration(place, clips)
    candidate = conversion.convert(candidate, tuned, clips)
    with operating_points.listening(
        candidate, tapes_of.opened(tapes, bundle.labels)
    ) as listener:
        try:
            return operating_points.reached(listener, aim)
        except CheckFailed:
            return None


def _weights(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / FOLDER / f"epoch-{epoch:03}.npz"


def _asked(bundle: Bundle, tapes: Sequence[Path], aim: Aim) -> bytes:
    """Differs where other tapes, another aim or other thresholds were given."""
    digest = hashlib.sha256(repr((aim, bundle.thresholds)).encode())
    for name, tape in tapes_of.opened(tapes, bundle.labels):
        digest.update(f"{name} {tape.windows}".encode())
        digest.update(np.ascontiguousarray(tape.pcm).tobytes())
    return digest.digest()
