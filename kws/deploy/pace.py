"""Can a board keep up with a model: measured before it is flashed.

An emulated board with the same core counts the instructions of a feature frame, of the
loop around it and of a run of the model; the part's clock and its assumed cycles per
instruction (board.toml) make time of them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from kws.bundle import Bundle
from kws.deploy import boards, build, emission, run, runners
from kws.deploy.boards import Board
from kws.errors import quoted


@dataclass(frozen=True)
class Pace:
    """How much of its time a board works.

    Args:
        board: The board.
        hop_frames: Feature frames from one run of the model to the next.
        window_frames: The most that a hop can be: what the model sees.
        inference: Instructions of one run of the model.
        frame: Instructions of one feature frame.
        loop: Instructions of kws_poll around it, a frame: ring, level meter, detector.
        frame_ms: From one feature frame to the next.
        causal: It is a network for streams: a decision with each token, whatever hop
            is asked for.
    """

    board: Board
    hop_frames: int
    window_frames: int
    inference: int
    frame: int
    loop: int
    frame_ms: float = 10.0
    causal: bool = False

    @property
    def instructions_per_second(self) -> float:
        """Of audio: the microphone's interrupt, features, the loop around them, and
        model."""
        frames = 1000 / self.frame_ms
        own = frames * (self.frame + self.loop + self.inference / self.hop_frames)
        return run.microphone_per_second(self.board) + own

    @property
    def loop_per_second(self) -> float:
        """The loop's part of them."""
        return 1000 / self.frame_ms * self.loop

    @property
    def busy(self) -> float:
        """Share of its time that the core works; above 1 it loses audio."""
        return self.instructions_per_second / self.board.instructions_per_second

    @property
    def keeps_up(self) -> bool:
        """With what interrupts and text take besides."""
        return self.busy * run.MARGIN <= 1

    @property
    def least_hop(self) -> int | None:
        """Frames between two runs that the board could keep up with; None: no hop
        would do."""
        if self.causal:
            return None
        each = self.frame + self.loop
        hop = run.hop_for(self.inference, each, self.board, self.frame_ms)
        return hop if hop is not None and hop <= self.window_frames else None

    def warning(self, name: str) -> str | None:
        """What to tell before the board is flashed; None where it keeps up.

        Args:
            name: The run's, for the command that would do.
        """
        if self.keeps_up:
            return None
        board = self.board
        microphone = run.microphone_per_second(board) / 1e6
        told = (
            f"Warning: {board.name} can't keep up with this model: it would work "
            f"{100 * self.busy:.0f} % of the time and lose audio. Every "
            f"{self.frame_ms * self.hop_frames:g} ms come {self.hop_frames} feature "
            f"frames of {self.frame + self.loop:,} instructions, loop included, "
            f"and a run of {self.inference:,}, at {board.clock_hz / 1e6:g} MHz and "
            f"{board.cycles_per_instruction:g} cycles per instruction (assumed), "
            f"beside the microphone's {microphone:.1f} M a second."
        )
        if self.least_hop is None:
            hint = (
                "no hop would do: take a smaller model, or a faster board (kws boards)"
            )
            return f"{told}\nHint:    {hint}"
        again = f"kws flash {quoted(name)} --board {board.name} --hop {self.least_hop}"
        return f"{told}\nHint:    {again}"


def counter(board: Board) -> Board | None:
    """The emulated board that counts instructions for a board's core; None: no runner
    of one is installed."""
    for name in boards.names():
        other = boards.load(name)
        runner = runners.get(other.runner)
        if (
            other.core == board.core
            and hasattr(runner, "run")
            and runner.missing() is None
        ):
            return other
    return None


def measure(bundle: Bundle, board: Board, compiler: str | None = None) -> Pace | None:
    """Run the self-test's clip on an emulated board with the same core.

    Args:
        bundle: A converted bundle.
        board: The board that is to run it.
        compiler: `gcc`, `zig`, or None for what is installed.

    Returns:
        None where there is no emulator for that core.

    Raises:
        KwsError: the model can't be emitted or built.
    """
    emulated = counter(board)
    if emulated is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kws-pace-") as name:
        folder = Path(name)
        emission.emit_bundle(bundle, folder / "model", board.core)
        image = build.build(folder / "model", emulated, folder, "profile", compiler)
        stats = run.to_end(image.elf, emulated).stats
    return Pace(
        board=board,
        hop_frames=bundle.recipe.detector.hop_frames,
        window_frames=bundle.recipe.features.frames,
        inference=stats["instructions_per_inference_max"],
        frame=stats["instructions_per_frame"],
        loop=stats["loop_instructions_per_frame"],
        frame_ms=bundle.recipe.features.hop_ms,
        causal=bundle.recipe.model.causal,
    )
