"""What several voice engines need: running programs, rates, throats."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from kws.data.audio import SAMPLE_RATE
from kws.data.voices import Voice, named

LIMIT_S = 30  # a program that takes longer for a few words will not end at all
THROATS = (0.85, 1.2)  # how fast a speaker is played to get another throat


def throats(engine: str, speakers: Sequence[str], split: str) -> Iterator[Voice]:
    """Voices without end of an engine with few speakers: each speaker with one throat
    after another, spread evenly over THROATS by the golden ratio. All are training's:
    a speaker with another throat is no stranger.

    Example:
        >>> [voice.name for voice in itertools.islice(throats("a", ["b"], "train"), 2)]
        ['a:b*0.8500', 'a:b*0.9326']
    """
    low, high = THROATS
    for number in itertools.count() if split == "train" else ():
        factor = low + (high - low) * (number * 0.6180339887 % 1)
        for speaker in speakers:
            voice = named(f"{engine}:{speaker}*{factor:.4f}")
            if voice.split == "train":
                yield voice


def of_throat(name: str) -> tuple[str, float]:
    """Speaker and factor of a voice's name.

    Example:
        >>> of_throat("flite:slt*0.93")
        ('slt', 0.93)
    """
    speaker, factor = name.partition(":")[2].split("*")
    return speaker, float(factor)


def played(said: np.ndarray, factor: float) -> np.ndarray:
    """Samples played `factor` times as fast: shorter, higher, a smaller throat."""
    return np.asarray(soxr.resample(said, SAMPLE_RATE * factor, SAMPLE_RATE))


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """int16 samples, or float ones within -1 to 1, of any rate: float32 at 16 kHz."""
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / np.float32(32768)
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), dtype=np.float32)


def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a synthesizer to its end.

    Raises:
        OSError: it can't be started, or does not end.
    """
    try:
        return subprocess.run(
            command, capture_output=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"no end of {command[0]} within {LIMIT_S} s") from None


def no_audio(done: subprocess.CompletedProcess[bytes]) -> OSError:
    """What to raise when a program ended without audio."""
    said = done.stderr.decode(errors="replace").strip()[:200]
    return OSError(f"exit code {done.returncode} and no audio. {said}".rstrip())


def samples_of(data: bytes) -> np.ndarray:
    """A piped WAV: 44 bytes of header, whose lengths are not to be believed."""
    even = len(data[44:]) // 2 * 2
    samples = np.frombuffer(data[44 : 44 + even], dtype="<i2")
    return to_16k(samples.astype(np.int16), int.from_bytes(data[24:28], "little"))


def onnx_session(model: Path | bytes) -> Any:
    """A network in onnxruntime, on one thread: equal calls give equal samples.

    Raises:
        OSError: it is no network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common base
        raise OSError(f"onnxruntime can't read the model: {error}") from None


def inferred(session: Any, *values: np.ndarray) -> np.ndarray:
    """The first output of a session, flat, for its inputs in their order.

    Raises:
        OSError: it fails, or takes other inputs.
    """
    takes = [value.name for value in session.get_inputs()]
    try:
        out = session.run(None, dict(zip(takes, values, strict=True)))[0]
    except Exception as error:  # its exceptions have no common base
        raise OSError(f"the model fails: {error}") from None
    return np.asarray(out, dtype=np.float32).ravel()
