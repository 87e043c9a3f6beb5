"""Run an image on its board: listen to a stream, or put clips through the model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.deploy import fault, monitor, runners
from kws.deploy.boards import Board
from kws.deploy.monitor import Transcript
from kws.deploy.runners import Outcome
from kws.errors import CheckFailed, KwsError
from kws.recipe import Features

SAMPLE_RATE = 16000
MAX_BOOT_BYTES = 64 * 1024
HALF_BUFFERS_PER_SECOND = 100  # 160 samples each, boards/common/emulated.c
MARGIN = 1.02  # what interrupts and text take besides
EXIT_FAULT = 20  # kws_board.h
EXIT_REASONS = {
    10: "the firmware refused the generated model (shapes or tables out of range)",
    11: "the self-test failed: the canned clip did not give the expected logits",
    12: "the firmware could not use its input",
    13: "flash does not hold the whole image: programming was interrupted",
    14: "a clock of the board did not start",
    15: "the stack is full: raise stack_bytes in board.toml",
    EXIT_FAULT: "the firmware crashed",
}


@dataclass(frozen=True)
class Listened:
    """One run of a stream through the microphone path.

    Args:
        transcript: What the board said.
        problems: Why the run is not a success, one sentence each; () if it is.
        wall_s: Seconds it took here.
        longer_s: Where it did not end in time, a limit that may do; else None.
    """

    transcript: Transcript
    problems: tuple[str, ...]
    wall_s: float
    longer_s: float | None = None


def listen(
    image: Path,
    board: Board,
    pcm: np.ndarray,
    expected_hash: str,
    pace: bool = True,
    timeout_s: float | None = None,
    on_text: Callable[[bytes], None] | None = None,
    commands: Sequence[str] = (),
) -> Listened:
    """Boot, self-test, stream `pcm` through the microphone path, collect the events.

    Args:
        image: ELF of the app `main`.
        board: Its board.
        pcm: int16 [samples], 16 kHz.
        expected_hash: 16 hex digits that the board must say at boot.
        pace: Audio arrives as fast as on the part, at its clock: a model that is too
            slow drops samples. False: audio waits for the firmware.
        timeout_s: Limit of the run (an emulator's processor time); None sets one by
            the length of the stream.
        on_text: Called with what the board says, as it comes.
        commands: Lines that it is sent as it begins to listen.

    Raises:
        KwsError: the runner's tool is missing.
    """
    usual_s = 120 + 20 * len(pcm) / SAMPLE_RATE
    if timeout_s is None:
        timeout_s = usual_s
    half_buffer = board.instructions_per_second / HALF_BUFFERS_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="kws-run-") as name:
        folder = Path(name)
        (folder / "audio.raw").write_bytes(pcm.astype("<i2").tobytes())
        arguments = {"audio": "audio.raw", "pace": str(int(half_buffer) if pace else 0)}
        if commands:
            text = "".join(f"{line}\n" for line in commands)
            (folder / "commands.txt").write_text(text, "utf-8")
            arguments["commands"] = "commands.txt"
        runner = runners.get(board.runner)
        outcome = runner.run(image, board, arguments, folder, timeout_s, on_text)
    transcript = monitor.parse(outcome.text)
    problems = _ending_problems(outcome, transcript, image)
    problems += _stream_problems(transcript, board, len(pcm), expected_hash)
    longer_s = None
    if outcome.exit_code is None:
        longer_s = usual_s if timeout_s < usual_s else 4 * timeout_s
    return Listened(transcript, tuple(problems), outcome.wall_s, longer_s)


def least_hop(transcript: Transcript, board: Board, features: Features) -> int | None:
    """Feature frames between two model runs that the board could keep up with.

    None where no hop would do (features alone are too slow), or nothing was measured.
    """
    stats = transcript.stats
    model = stats.get("instructions_per_inference_max", 0)
    if model <= 0:
        return None
    frame = stats.get("instructions_per_frame", 0)
    frame += stats.get("loop_instructions_per_frame", 0)
    return hop_for(model, frame, board, features.hop_ms)


def hop_for(inference: int, frame: int, board: Board, frame_ms: float) -> int | None:
    """Feature frames between two model runs that a board keeps up with; None: no hop.

    Args:
        inference: Instructions of one run of the model.
        frame: Instructions of one feature frame and the loop around it.
        board: Its clock and cycles per instruction.
        frame_ms: From one feature frame to the next.
    """
    free = board.instructions_per_second / MARGIN - microphone_per_second(board)
    spare = free * frame_ms / 1000 - frame
    if spare <= 0:
        return None
    return max(1, math.ceil(inference / spare))


def microphone_per_second(board: Board) -> int:
    """Instructions that the microphone's interrupt takes of each second."""
    return HALF_BUFFERS_PER_SECOND * board.microphone_instructions


def _ending_problems(
    outcome: Outcome, transcript: Transcript, image: Path
) -> list[str]:
    """How the run ended, where that was not its regular end."""
    if outcome.exit_code is None:
        return [f"the firmware did not end in time ({outcome.wall_s:.0f} s)"]
    if outcome.exit_code == 0 and transcript.ended:
        return []
    reason = EXIT_REASONS.get(
        outcome.exit_code, "the firmware ended without saying `kws end`"
    )
    details = [f"exit code {outcome.exit_code}"]
    if transcript.fault is not None:
        details.append(fault.explain(transcript.fault, image))
    details += transcript.errors
    if outcome.exit_code not in EXIT_REASONS:
        details += transcript.other[-3:]
    return [f"{reason} ({', '.join(details)})"]


def _stream_problems(
    transcript: Transcript, board: Board, samples: int, expected_hash: str
) -> list[str]:
    problems = []
    received = transcript.hash
    if transcript.boot.get("schema") not in (None, str(monitor.SCHEMA_VERSION)):
        problems.append(
            f"the firmware speaks protocol version {transcript.boot['schema']}, "
            f"expected {monitor.SCHEMA_VERSION}"
        )
    if received != expected_hash:
        problems.append(
            f"the board runs another model: expected hash {expected_hash}, "
            f"received {received or 'none'}"
        )
    stats = transcript.stats
    if not transcript.ended or not stats:
        return problems
    if transcript.selftest is not True:
        problems.append("the firmware did not say that its self-test passed")
    overruns = stats.get("overruns", 0)
    if overruns:
        slowest = stats.get("instructions_per_inference_max", 0)
        problems.append(
            f"{overruns:,} of {samples:,} samples were lost, because the firmware was "
            f"busy: one model run takes up to "
            f"{1000 * slowest / board.instructions_per_second:.0f} ms at "
            f"{board.clock_hz / 1e6:.0f} MHz and "
            f"{board.cycles_per_instruction:g} cycles per instruction (assumed)"
        )
    elif stats.get("samples") != samples:
        problems.append(
            f"the firmware took {stats.get('samples')} samples of {samples}"
        )
    return problems


def to_end(image: Path, board: Board, timeout_s: float = 120) -> Transcript:
    """Run an image that needs no input (app `profile`).

    Raises:
        CheckFailed: it crashed, refused, or did not end.
    """
    runner = runners.get(board.runner)
    with tempfile.TemporaryDirectory(prefix="kws-run-") as name:
        outcome = runner.run(image, board, {}, Path(name), timeout_s)
    transcript = monitor.parse(outcome.text)
    problems = _ending_problems(outcome, transcript, image)
    if problems:
        raise CheckFailed(
            f"The firmware on {board.name} did not finish: {problems[0]}",
            f"Emit and build again: kws flash RUN --board {board.name}",
        )
    return transcript


@dataclass(frozen=True)
class ClipsResult:
    """Logits of many clips, and what they cost.

    Args:
        logits: int8 [N, labels].
        hash: What the firmware said at boot.
        instructions_per_inference: Mean over the clips.
        instructions_per_inference_max: The most expensive clip.
        instructions_per_frame: Mean over all feature frames.
        loop_instructions_per_frame: The same of kws_poll around features and network.
        stack_bytes: Deepest use of the stack.
        sent: uint32 [N, products]: elements that each product with delta thresholds
            transmitted, in the order of the model's table; no columns without.
        steps: int64 [decisions, 2]: of every decision, instructions of the features
            since the one before, and of the network.
    """

    logits: np.ndarray
    hash: str
    instructions_per_inference: int
    instructions_per_inference_max: int
    instructions_per_frame: int
    loop_instructions_per_frame: int
    stack_bytes: int
    sent: np.ndarray
    steps: np.ndarray


def clips(
    image: Path,
    board: Board,
    pcm: np.ndarray,
    labels: int,
    jobs: int = 2,
    timeout_s: float = 3600,
) -> ClipsResult:
    """Put clips through ring, features and model of the app `clips`.

    Args:
        image: ELF of the app `clips`.
        board: Its board.
        pcm: int16 [N, samples]; one model run each.
        labels: Number of labels that the model gives.
        jobs: Emulators side by side.

    Raises:
        KwsError: the runner's tool is missing.
        CheckFailed: the firmware crashed, refused, or gave too few logits.
    """
    if pcm.ndim != 2 or len(pcm) == 0:
        raise KwsError(
            f"Expected clips as [N, samples], N at least 1. Received: {pcm.shape}",
            "kws eval RUN --engine qemu --limit 20",
        )
    runner = runners.get(board.runner)
    with tempfile.TemporaryDirectory(prefix="kws-run-") as name:

        def one(
            part: tuple[int, np.ndarray],
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Transcript]:
            index, some = part
            folder = Path(name) / str(index)
            folder.mkdir()
            (folder / "clips.raw").write_bytes(some.astype("<i2").tobytes())
            arguments = {
                "clips": "clips.raw",
                "samples": str(some.shape[1]),
                "logits": "logits.raw",
                "sent": "sent.raw",
                "steps": "steps.raw",
            }
            outcome = runner.run(image, board, arguments, folder, timeout_s)
            transcript = monitor.parse(outcome.text)
            problems = _ending_problems(outcome, transcript, image)
            if not problems and transcript.clips != len(some):
                problems = [f"{transcript.clips} of {len(some)} clips were done"]
            out = folder / "logits.raw"
            data = out.read_bytes() if out.is_file() else b""
            if not problems and len(data) != len(some) * labels:
                problems = [
                    f"{len(some) * labels} logits were expected, {len(data)} came"
                ]
            if problems:
                raise CheckFailed(
                    f"The firmware on {board.name} did not finish: {problems[0]}",
                    "Emit and build again: kws flash RUN --board " + board.name,
                )
            counts = np.fromfile(folder / "sent.raw", "<u4")
            steps = np.fromfile(folder / "steps.raw", "<u4").astype(np.int64)
            return (
                np.frombuffer(data, np.int8).reshape(len(some), labels),
                counts.reshape(len(some), -1),
                steps.reshape(-1, 2),
                transcript,
            )

        parts = [some for some in np.array_split(pcm, max(1, jobs)) if len(some)]
        with ThreadPoolExecutor(len(parts)) as pool:
            results = list(pool.map(one, enumerate(parts)))
    counts = np.array([transcript.stats["inferences"] for *_, transcript in results])

    def values(key: str) -> np.ndarray:
        return np.array([transcript.stats[key] for *_, transcript in results])

    def mean(key: str) -> int:
        return round(float(np.average(values(key), weights=counts)))

    return ClipsResult(
        logits=np.concatenate([logits for logits, *_ in results]),
        sent=np.concatenate([sent for _, sent, *_ in results]),
        steps=np.concatenate([steps for _, _, steps, _ in results]),
        hash=results[0][3].hash or "",
        instructions_per_inference=mean("instructions_per_inference"),
        instructions_per_inference_max=int(
            values("instructions_per_inference_max").max()
        ),
        instructions_per_frame=mean("instructions_per_frame"),
        loop_instructions_per_frame=mean("loop_instructions_per_frame"),
        stack_bytes=int(values("stack").max()),
    )
