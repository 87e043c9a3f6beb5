"""`kws flash`: emit, build, check the fit, program, verify, compare hash and self-test.

An emulated board then hears a recording. While a real board is programmed, a marker
lies in the build's folder: where it is still there at the next start, programming was
interrupted, and everything is written again. Where the build is elsewhere (`--out`), a
note in its usual folder says where, for who asks later what the board holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle, read_json, write_atomic
from kws.deploy import build, emission, monitor, run, runners, serial_port
from kws.deploy.boards import Board
from kws.deploy.build import Image
from kws.deploy.failures import BoardError
from kws.deploy.runners import Job, Programmed
from kws.errors import KwsError, quoted
from kws.graph import cost
from kws.graph.cost import Count
from kws.recipe import Features

HASH_DIGITS = 16
MAX_AUDIO_S = 3600
MARKER = "programming.json"
NOTE = "flashed.json"
BOOT_S = 10.0  # until a board has named its model and its self-test has passed


@dataclass(frozen=True)
class Flashed:
    """What `kws flash` found; `problems` is empty where all checks passed.

    Args:
        board: The board.
        image: What runs on it.
        features: Of the model.
        expected_hash: What the board has to say at boot.
        listened: What it said.
        dense: What one run costs with nothing skipped (kws.graph.cost).
        executed: The same as it runs, on the self-test's clip.
        programmed: What was written; None on an emulator.
        causal: It is a network for streams, which decides with each token.
    """

    board: Board
    image: Image
    features: Features
    expected_hash: str
    listened: run.Listened
    dense: Count
    executed: Count
    programmed: Programmed | None = None
    causal: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        return self.listened.problems

    @property
    def hint(self) -> str:
        """What to type where the run had problems; ` ...` is what was typed."""
        transcript, longer_s = self.listened.transcript, self.listened.longer_s
        if longer_s is not None:
            return f"Give it longer: kws flash ... --timeout {math.ceil(longer_s)}"
        if not transcript.stats.get("overruns"):
            again = "kws flash ... --out /tmp/kws-build"
            return f"Build and run it again, elsewhere: {again}"
        hop = run.least_hop(transcript, self.board, self.features)
        if hop is not None and hop <= self.features.frames and not self.causal:
            every = f"{hop * self.features.hop_ms:g} ms"
            return (
                f"Run the model less often, every {every}: kws flash ... --hop {hop}"
                "   (--keep as well: RUN's from then on)"
            )
        return (
            "This network is too slow for this board in real time: take a smaller one, "
            "or a faster board (kws boards); to let the audio wait for it: "
            "kws flash ... --no-pace"
        )

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws flash --json` (DESIGN section 4)."""
        transcript = self.listened.transcript
        stats = transcript.stats
        return {
            "board": self.board.name,
            "built": True,
            "compiler": self.image.compiler,
            **self.image.fit.as_dict(),
            "macs_dense": cost.whole(self.dense.macs),
            "macs_executed": cost.whole(self.executed.macs),
            "bytes": self.executed.as_dict()["bytes"],
            "hash": transcript.hash,
            "expected_hash": self.expected_hash,
            "selftest": transcript.selftest,
            "events": [
                {
                    "word": event.word,
                    "start_s": event.start_ms / 1000,
                    "time_s": event.time_ms / 1000,
                    "score": event.score,
                }
                for event in transcript.events
            ],
            "samples": stats.get("samples"),
            "overruns": stats.get("overruns"),
            "inferences": stats.get("inferences"),
            "instructions_per_inference": stats.get("instructions_per_inference"),
            "instructions_per_frame": stats.get("instructions_per_frame"),
            "stack_bytes": stats.get("stack"),
            "problems": list(self.problems),
            "programmed": (
                dataclasses.asdict(self.programmed) if self.programmed else None
            ),
        }


def with_hop(bundle: Bundle, hop_frames: int) -> Bundle:
    """The bundle with another detector.hop_frames (so with another hash), in memory.

    Raises:
        KwsError: more frames than the model's window has; a network for streams, which
            has one hop alone.
    """
    frames, own = bundle.recipe.features.frames, bundle.recipe.detector.hop_frames
    if bundle.recipe.model.causal and hop_frames != own:
        raise KwsError(
            "A network for streams decides with each token, and no other hop can be "
            f"chosen. Expected no --hop, or --hop {own}. Received: --hop {hop_frames}",
            f"Leave --hop away, or: --hop {own}",
        )
    if not 1 <= hop_frames <= frames:
        raise KwsError(
            f"The model runs every 1 to {frames} feature frames (its window). "
            f"Received: {hop_frames}",
            f"--hop {frames}",
        )
    detector = dataclasses.replace(bundle.recipe.detector, hop_frames=hop_frames)
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    return dataclasses.replace(bundle, recipe=recipe)


def output_folder(bundle: Bundle, board: Board) -> Path:
    """Where the build goes by default: in the run, or here for a shipped preset."""
    if bundle.shipped:
        return Path("build") / bundle.path.name / board.name
    return bundle.path / "build" / board.name


def emit_and_build(
    bundle: Bundle,
    board: Board,
    out: Path,
    app: str = "main",
    compiler: str | None = None,
    engine: str = "native",
    stream: bool = False,
) -> Image:
    """The bundle's model as C in out/model, and the firmware around it in `out`.

    Raises:
        KwsError: the model cannot be emitted, built, or does not fit the board.
    """
    model_dir = out / "model"
    build.check_folder(out, app)  # before a file of the model is written
    emission.emit_bundle(bundle, model_dir, board.core, engine, stream)
    return build.build(model_dir, board, out, app, compiler)


def read_stream(path: Path) -> np.ndarray:
    """A recording of any format as int16 [samples] at 16 kHz.

    Raises:
        KwsError: missing, not usable, longer than an hour.
    """
    from kws.data import audio

    if not path.is_file():
        raise KwsError(
            f"There is no such recording. Received: {path}",
            'kws data synth --words "yes,no" --stream stream.wav   (speaks one)',
        )
    return audio.samples(path, MAX_AUDIO_S)


def flash(
    bundle: Bundle,
    board: Board,
    audio: np.ndarray | None,
    out: Path,
    compiler: str | None = None,
    pace: bool = True,
    pad_s: float = 1.0,
    timeout_s: float | None = None,
    engine: str = "native",
) -> Flashed:
    """Put the bundle on an emulated board and let it hear `audio`.

    Args:
        bundle: A converted bundle.
        board: The board.
        audio: int16 [samples], 16 kHz; None: only the silence of `pad_s`.
        out: Folder of the build.
        compiler: `gcc`, `zig`, or None for what is installed.
        pace: See kws.deploy.run.listen.
        pad_s: Silence appended, so that the last word passes through the window.
        timeout_s: Limit of the run; see kws.deploy.run.listen.
        engine: `native` or `tflm`.

    Raises:
        KwsError: a tool is missing, or the model cannot be emitted, built or held.
    """
    error = runners.get(board.runner).missing()
    if error is not None:
        raise error
    image = emit_and_build(bundle, board, out, "main", compiler, engine)
    expected = bundle.hash[:HASH_DIGITS]
    heard = padded(audio, pad_s)
    listened = run.listen(image.elf, board, heard, expected, pace, timeout_s)
    features = bundle.recipe.features
    dense, executed = emission.selftest_cost(bundle, board.core, engine)
    return Flashed(
        board,
        image,
        features,
        expected,
        listened,
        dense,
        executed,
        causal=bundle.recipe.model.causal,
    )


def padded(audio: np.ndarray | None, pad_s: float) -> np.ndarray:
    """A recording with silence behind it, so that its last word is heard."""
    pad = np.zeros(round(pad_s * run.SAMPLE_RATE), np.int16)
    return pad if audio is None else np.concatenate([audio, pad])


def flashed_folder(bundle: Bundle, board: Board) -> Path:
    """The folder that the board was programmed from last: of `kws flash --out`, where
    that was typed, else the usual one.

    Raises:
        KwsError: the note of it is not ours.
    """
    usual = output_folder(bundle, board)
    note = usual / NOTE
    if not note.is_file():
        return usual
    table = read_json(note)
    try:
        return Path(table["folder"])
    except (KeyError, TypeError):
        raise KwsError(
            "What says where the board's build is can't be read. Expected a folder's "
            f"name. Received: {note}",
            f"rm {quoted(note)}   (then what a crash means is looked up in {usual})",
        ) from None


def _note_folder(bundle: Bundle, board: Board, out: Path) -> None:
    """Keep for `flashed_folder` where the build is."""
    note = output_folder(bundle, board) / NOTE
    try:
        if out.resolve() == note.parent.resolve():
            note.unlink(missing_ok=True)
        else:
            write_atomic(note, (json.dumps({"folder": str(out.resolve())})).encode())
    except OSError as error:
        print(
            f"Not noted for kws monitor, {note} can't be written ({error.strerror}): "
            f"{out} holds the build",
            file=sys.stderr,
        )


def is_emulated(board: Board) -> bool:
    """Whether the board is a program on this machine."""
    return hasattr(runners.get(board.runner), "run")


def tool_of(board: Board, tool: str | None) -> str:
    """The runner that programs the board: its own, or another that it has a table for.

    Raises:
        KwsError: it has none for that tool.
    """
    if tool is None or tool in board.tools:
        return tool or board.runner
    raise KwsError(
        f"The board {board.name} can't be programmed with {tool!r}. Expected one of "
        f"{', '.join(sorted(board.tools))}. Received: {tool!r}",
        f"kws flash RUN --board {board.name} --tool {board.runner}",
    )


def interrupted(out: Path) -> bool:
    """Whether programming from this folder was begun and did not come to its end."""
    return (out / MARKER).is_file()


def program(
    bundle: Bundle,
    board: Board,
    out: Path,
    job: Job,
    tool: str | None = None,
    compiler: str | None = None,
    port: str | None = None,
    engine: str = "native",
) -> Flashed:
    """Put the bundle on a real board, verify it, compare hash and self-test at boot.

    Args:
        bundle: A converted bundle.
        board: The board.
        out: Folder of the build.
        job: Which probe, whom to ask.
        tool: See `tool_of`.
        compiler: `gcc`, `zig`, or None for what is installed.
        port: Serial port; None finds it.
        engine: `native` or `tflm`.

    Raises:
        KwsError: see kws.deploy.failures; or the model cannot be built or held.
    """
    name = tool_of(board, tool)
    if job.unlock and name != "pyocd":
        raise KwsError(
            "Only pyOCD unlocks a chip. Expected --tool pyocd, or no --unlock. "
            f"Received: --unlock with {name}",
            f"kws flash {quoted(job.run)} --board {board.name} --tool pyocd --unlock",
        )
    runner = runners.get(name)
    error = runner.missing()
    if error is not None:
        raise error
    image = emit_and_build(bundle, board, out, "main", compiler, engine)
    expected = bundle.hash[:HASH_DIGITS]
    last = flashed_folder(bundle, board)
    before = interrupted(out) or interrupted(last)
    if before:
        job = dataclasses.replace(job, everything=True)
    marker = {"board": board.name, "hash": expected}
    problem: KwsError | None = None
    with contextlib.ExitStack() as stack:
        opened: list[serial_port.Port] = []

        def starts() -> None:
            """Listen before the board starts: it says hello once."""
            nonlocal problem
            try:
                more = job.options
                name = serial_port.find(board, job.run, port, job.ask, more)
                opened.append(
                    stack.enter_context(serial_port.Port(name, board, job.run, more))
                )
            except KwsError as error:
                problem = error

        _note_folder(bundle, board, out)
        write_atomic(out / MARKER, json.dumps(marker).encode())
        try:
            programmed = runner.program(
                image.elf, board, dataclasses.replace(job, before_start=starts)
            )
        except BoardError as failure:
            if failure.exit_code == 2 and not before:  # nothing was begun
                (out / MARKER).unlink(missing_ok=True)
                _note_folder(bundle, board, last)
            raise
        for folder in (out, last):
            (folder / MARKER).unlink(missing_ok=True)  # flash is whole
        if problem is not None:
            raise KwsError(
                "The board was programmed; what it says at boot could not be read. "
                f"{problem.message}",
                problem.hint,
                exit_code=1,
            )
        said = _boot(opened[0], board, job, expected, image.elf)
    listened = run.Listened(monitor.parse(said), (), 0.0)
    features = bundle.recipe.features
    counted = emission.selftest_cost(bundle, board.core, engine)
    return Flashed(board, image, features, expected, listened, *counted, programmed)


def _boot(
    port: serial_port.Port, board: Board, job: Job, expected: str, image: Path
) -> str:
    """What a board says until it has named its model and its self-test has passed."""
    names = {"board": board.name, "run": job.run, "options": job.options}
    following = monitor.Monitor(float, expected, image, **names)
    said = bytearray()
    end = time.monotonic() + BOOT_S  # whatever chatters there
    for data in port.read(lambda: BOOT_S):
        said += data
        following.feed(data)
        if following.known and following.passed:
            break
        if time.monotonic() > end or len(said) > run.MAX_BOOT_BYTES:
            break
    if not (following.known and following.passed):
        missing = "the self-test" if following.known else "its model"
        cause = f"{len(said)} bytes, and none of them tells of {missing}"
        raise BoardError("silent", cause, **names)
    return said.decode("utf-8", "replace")
