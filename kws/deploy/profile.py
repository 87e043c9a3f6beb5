"""`kws profile`: what one inference costs, layer by layer, on a board or here.

Costs are measured: instructions where an emulator counts them, cycles by a real board's
counter, nanoseconds on this machine. Multiply-accumulates and bytes are counted by the
one rule (kws/graph/cost.py), executed ones from what the products that skip
transmitted. Energy is an estimate, from the figures in board.toml.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import (
    build,
    elf,
    flash,
    host,
    monitor,
    per_second,
    run,
    runners,
    serial_port,
    traffic,
)
from kws.deploy.boards import Board
from kws.deploy.fit import Fit
from kws.deploy.monitor import Monitor, Transcript
from kws.deploy.pace import Pace
from kws.deploy.per_second import PerSecond
from kws.deploy.runners import Job
from kws.deploy.traffic import Traffic
from kws.emit import SELFTEST, native, selftest
from kws.emit.common import Network
from kws.errors import CheckFailed, KwsError, quoted
from kws.graph import cost as counting
from kws.graph.cost import PURPOSES, Count
from kws.graph.nodes import Node
from kws.recipe import decision_ms

HOST = "host"
ENGINE = "native"
MAX_OPERATORS = 511  # firmware/app/profile.c
MAX_WINDOWS = 8
SPARE_FLASH = 4096  # the profiling image is a little larger than the firmware
HOST_RUNS = 20
PROFILE_S = 60.0  # a real board's silence while it works on the windows


@dataclass(frozen=True)
class Part:
    """A layer, an operator, or the whole network: one inference's cost.

    Args:
        name: `block0.attention` (layer) or `block0.attention.q` (operator).
        kind: The operator's kind; "" for a layer.
        cost: In the profile's unit; None where it was not measured apart.
        dense: Counted as if nothing were skipped.
        executed: Counted as it ran, mean over the windows.
        weights_bytes: Constants that it brings into the image.
        skips: Of an operator, whether it has thresholds.
    """

    name: str
    kind: str
    cost: int | None
    dense: Count
    executed: Count
    weights_bytes: int
    skips: bool = False

    def bytes(self, purpose: str) -> int:
        """Touched for one purpose, as it ran."""
        return counting.whole(self.executed.total(purpose=purpose))

    def as_dict(self, unit: str) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            unit: self.cost,
            "macs_dense": counting.whole(self.dense.macs),
            "macs_executed": counting.whole(self.executed.macs),
            **{f"bytes_{purpose}": self.bytes(purpose) for purpose in PURPOSES},
            "weights_bytes": self.weights_bytes,
        }


@dataclass(frozen=True)
class Layer:
    """A layer and the operators that it is made of."""

    total: Part
    operators: tuple[Part, ...]


@dataclass(frozen=True)
class Energy:
    """An estimate, from the board's figures and not from a measurement.

    Args:
        inference_uj: Microjoules of one inference and the features of one hop, of the
            core alone: what sleep, crystal and microphone take is not known here.
        source: Where the figures are from.
    """

    inference_uj: float
    source: str


@dataclass(frozen=True)
class Profile:
    """The result for every kind of board; what a board can't tell is None.

    Args:
        board: Its name, or `host`.
        model: Name of the recipe.
        hash: First digits of the bundle's hash.
        unit: `instructions`, `cycles` or `ns`: of every cost.
        cost: Of one inference, mean over the windows, without any profiling in it.
        feature_cost: Of one feature frame.
        windows: Windows that were run.
        audio: What they were: a file's name, or the self-test's clip.
        layers: In order.
        arena_bytes, weights_bytes: Of the network.
        fit: Flash and RAM of the firmware against the part.
        sections: Section of the image -> bytes.
        stack_bytes: Deepest use.
        time_ms: One inference; measured, or from assumed cycles per instruction.
        time_note: Which of the two.
        energy: The estimate, where board.toml has figures.
        traffic: Bytes that the network moves.
        per_second: Of a recording, as one stream.
        pace: How much of its time the board works; None on this machine.
    """

    board: str
    model: str
    hash: str
    unit: str
    cost: int
    feature_cost: int | None
    windows: int
    audio: str
    layers: tuple[Layer, ...]
    arena_bytes: int
    weights_bytes: int
    fit: Fit | None
    sections: dict[str, int]
    stack_bytes: int | None
    time_ms: float
    time_note: str
    energy: Energy | None
    traffic: Traffic
    per_second: PerSecond | None = None
    pace: Pace | None = None

    @property
    def total(self) -> Part:
        """All layers together; its cost is the sum of the split."""
        return _sum("total", [layer.total for layer in self.layers])

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws profile --json` (DESIGN section 4)."""
        total = self.total
        counted = total.executed.as_dict()
        return {
            "board": self.board,
            "engine": ENGINE,
            "model": self.model,
            "hash": self.hash,
            "unit": self.unit,
            "instructions": self.cost if self.unit == "instructions" else None,
            "cycles": self.cost if self.unit == "cycles" else None,
            "instructions_per_frame": (
                self.feature_cost if self.unit == "instructions" else None
            ),
            "time_ms": self.time_ms,
            "time_note": self.time_note,
            "macs_dense": counting.whole(total.dense.macs),
            "macs_executed": counted["macs"],
            "comparisons": counted["comparisons"],
            "exponentials": counted["exponentials"],
            **{f"bytes_{purpose}": total.bytes(purpose) for purpose in PURPOSES},
            "bytes": counted["bytes"],
            "flash_bytes": self.fit.flash_bytes if self.fit else None,
            "weights_bytes": self.weights_bytes,
            "ram_bytes": self.fit.ram_bytes if self.fit else None,
            "arena_bytes": self.arena_bytes,
            "stack_bytes": self.stack_bytes,
            "sections": self.sections,
            "energy_estimate": asdict(self.energy) if self.energy else None,
            "audio": self.audio,
            "windows": self.windows,
            **(self.per_second.as_dict() if self.per_second else {}),
            "layers": [
                {
                    **layer.total.as_dict(self.unit),
                    "operators": [part.as_dict(self.unit) for part in layer.operators],
                }
                for layer in self.layers
            ],
        }

    def table(self, by_operator: bool = False) -> str:
        """For people: a line for each layer, and for each operator if asked."""
        total = self.total
        split = total.cost or 1
        width = 40 if by_operator else 20
        lines = [
            f"{'layer':<{width}}{self.unit:>13}{'':>8}{'MACs dense':>13}"
            f"{'executed':>13}{'weights B':>12}{'activ. B':>10}{'state B':>10}"
            f"{'scratch B':>11}"
        ]

        def line(part: Part, name: str) -> str:
            cost = "" if part.cost is None else f"{part.cost:,}"
            share = "" if part.cost is None else f"{100 * part.cost / split:.1f} %"
            return (
                f"{name:<{width}}{cost:>13}{share:>8}"
                f"{counting.whole(part.dense.macs):>13,}"
                f"{counting.whole(part.executed.macs):>13,}"
                f"{part.bytes('weights'):>12,}{part.bytes('activations'):>10,}"
                f"{part.bytes('state'):>10,}{part.bytes('scratch'):>11,}"
            )

        for layer in self.layers:
            lines.append(line(layer.total, layer.total.name))
            if by_operator:
                for part in layer.operators:
                    short = part.name.removeprefix(layer.total.name + ".")
                    kind = part.kind.lower().replace("_", " ")
                    name = short if short == kind else f"{short} ({kind})"
                    lines.append(line(part, f"  {name}"[: width - 1]))
        lines.append(line(total, "total"))
        return "\n".join(lines)


def audio_windows(bundle: Bundle, pcm: np.ndarray) -> np.ndarray:
    """A recording cut into the model's windows, int16 [N, clip_samples].

    Raises:
        KwsError: it is shorter than one window.
    """
    samples = bundle.recipe.features.clip_samples
    count = len(pcm) // samples
    if count == 0:
        raise KwsError(
            f"The recording is shorter than the model's window. Expected at least "
            f"{samples} samples at 16 kHz. Received: {len(pcm)}",
            "Leave --audio away to run the self-test's clip.",
        )
    return pcm[: count * samples].reshape(count, samples)


def on_board(
    bundle: Bundle,
    board: Board,
    out: Path,
    compiler: str | None = None,
    audio: np.ndarray | None = None,
    audio_name: str = "self-test clip (synthetic)",
    measure_on: Board | None = None,
    job: Job | None = None,
    port: str | None = None,
) -> Profile:
    """Build the firmware, run it on the board, and split the cost over its layers.

    Args:
        bundle: A converted bundle.
        board: The board.
        out: Folder of the build.
        compiler: `gcc`, `zig`, or None for what is installed.
        audio: int16 [N, clip_samples]: windows to run, at most MAX_WINDOWS and as many
            as fit into the flash; None takes the self-test's clip.
        audio_name: What to call it.
        measure_on: An emulated board with the same core, which counts instructions in
            place of a board that is not at hand.
        job: Which probe, on a real board.
        port: Serial port of a real board; None finds it.

    Raises:
        KwsError: a tool is missing, or the model cannot be emitted, built or held.
        CheckFailed: the image did not run to its end with the right logits.
    """
    target = measure_on or board
    if target.core != board.core or (measure_on and not flash.is_emulated(target)):
        raise KwsError(
            f"Expected an emulated board with the core {board.core!r} of {board.name}. "
            f"Received: {target.name} with {target.core!r}",
            "kws boards",
        )
    error = runners.get(target.runner).missing()
    if error is not None:
        raise error
    image = flash.emit_and_build(bundle, board, out, "main", compiler)
    sources = native.sources(bundle, board.core)
    network = sources.network
    if len(network.operators) > MAX_OPERATORS:
        raise KwsError(
            f"The network has too many operators for the profiling firmware. Expected "
            f"at most {MAX_OPERATORS}. Received: {len(network.operators)}",
            "kws eval RUN --engine qemu   (gives the total)",
        )
    codes = selftest.clip(bundle.recipe.features.clip_samples)[None, :]
    if audio is not None:
        spare = board.flash_bytes - image.fit.flash_bytes - SPARE_FLASH
        room = spare // audio.shape[1] + 1  # the firmware holds one clip already
        codes = selftest.mulaw_encode(audio[: max(1, min(MAX_WINDOWS, room))])
    # What the last window gives on this machine.
    pcm = selftest.mulaw_decode(codes[-1:])
    expected = host.run(bundle, pcm)[0][0]
    model_dir = out / "profile" / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    texts = dict(sources.texts)
    texts[SELFTEST] = selftest.source(expected, codes.reshape(-1))
    for name, text in texts.items():
        (model_dir / name).write_text(text, encoding="ascii")

    def measured(kind: str, defines: tuple[str, ...]) -> Transcript:
        folder = out / "profile" / kind
        linked = build.build(model_dir, target, folder, "profile", compiler, defines)
        if flash.is_emulated(target):
            return run.to_end(linked.elf, target)
        return _on_real(linked.elf, target, job or Job(bundle.path.name), port)

    exact = measured("total", ())
    split = measured("layers", ("-DKWS_PROFILE",))
    windows = len(codes)
    if exact.stats.get("inferences") != windows or len(split.operators) != len(
        network.operators
    ):
        raise CheckFailed(
            f"The profiling firmware on {target.name} ran "
            f"{exact.stats.get('inferences')} of {windows} windows and told the cost "
            f"of {len(split.operators)} of {len(network.operators)} operators",
            f"kws profile {quoted(bundle.path)} --board {board.name} --out DIR",
        )
    unit = "instructions" if flash.is_emulated(target) else "cycles"
    cost = exact.stats["instructions_per_inference"]
    feature_cost = exact.stats["instructions_per_frame"]
    loop_cost = exact.stats["loop_instructions_per_frame"]
    cycles_each = board.cycles_per_instruction if unit == "instructions" else 1.0
    # A network for streams runs once a token, and decides at the window's end.
    runs = windows * (network.stream.tokens if network.stream else 1)
    costs = {i: round(value / runs) for i, value in split.operators.items()}
    sent = [split.sent.get(i, 0) / windows for i in range(len(network.products))]
    layers = _layers(network, costs, sent)
    return Profile(
        board=board.name,
        model=bundle.recipe.name,
        hash=bundle.hash[: flash.HASH_DIGITS],
        unit=unit,
        cost=cost,
        feature_cost=feature_cost,
        windows=windows,
        audio=audio_name,
        layers=layers,
        arena_bytes=network.arena_bytes,
        weights_bytes=network.weights_bytes,
        fit=image.fit,
        sections={s.name: s.size for s in elf.read(image.elf).sections},
        stack_bytes=exact.stats.get("stack"),
        time_ms=1000 * cost * cycles_each / board.clock_hz,
        time_note=(
            f"counted on {target.name}, assuming {cycles_each:g} cycles per "
            f"instruction at {board.clock_hz / 1e6:g} MHz"
            if unit == "instructions"
            else f"measured, at {board.clock_hz / 1e6:g} MHz"
        ),
        energy=_energy(bundle, board, cycles_each * cost, cycles_each * feature_cost),
        traffic=_traffic(
            bundle, network, layers, board.core, board, cycles_each * cost
        ),
        pace=Pace(
            board=board,
            hop_frames=bundle.recipe.detector.hop_frames,
            window_frames=bundle.recipe.features.frames,
            inference=round(cost * cycles_each / board.cycles_per_instruction),
            frame=round(feature_cost * cycles_each / board.cycles_per_instruction),
            loop=round(loop_cost * cycles_each / board.cycles_per_instruction),
            frame_ms=bundle.recipe.features.hop_ms,
            causal=bundle.recipe.model.causal,
        ),
    )


def as_stream(
    result: Profile,
    bundle: Bundle,
    pcm: np.ndarray,
    board: Board | None = None,
    out: Path | None = None,
    compiler: str | None = None,
) -> Profile:
    """A profile with what a second of a recording costs.

    Args:
        result: Of the bundle.
        bundle: A converted bundle.
        pcm: int16 [samples], the whole recording.
        board: An emulated board, which counts instructions; None: none does.
        out: The folder that `on_board` has built in.
        compiler: `gcc`, `zig`, or None for what is installed.

    Raises:
        KwsError: the recording is too short, or the model cannot be built.
        CheckFailed: the board did not run to its end, with this machine's logits.
    """
    found = per_second.on_host(bundle, pcm, board.core if board else "portable")
    if board is not None and out is not None:
        folder = out / "profile" / "stream"
        counted = per_second.on_board(
            bundle, board, out / "model", folder, pcm, compiler
        )
        part = result.pace.board if result.pace else board
        found = replace(found, instructions=counted.on(part))
    return replace(result, per_second=found)


def _on_real(image: Path, board: Board, job: Job, port: str | None) -> Transcript:
    """Program the profiling image, and read what it says to its end."""
    name = serial_port.find(board, job.run, port, job.ask)
    with serial_port.Port(name, board, job.run) as opened:
        runners.get(board.runner).program(image, board, job)
        following = Monitor(float, board=board.name, run=job.run)
        said = bytearray()
        end = time.monotonic() + PROFILE_S  # whatever chatters there
        for data in opened.read(lambda: PROFILE_S):
            said += data
            following.feed(data)
            if following.ended or len(said) > run.MAX_BOOT_BYTES:
                break
            if time.monotonic() > end:
                break
    return monitor.parse(said.decode("utf-8", "replace"))


def _energy(
    bundle: Bundle, board: Board, cycles: float, feature_cycles: float
) -> Energy | None:
    """Active power times time; None without a figure."""
    power = board.power
    if power is None:
        return None
    frames = bundle.recipe.detector.hop_frames
    active_s = (cycles + frames * feature_cycles) / board.clock_hz
    return Energy(1000 * power.active_mw * active_s, power.source)


def _traffic(
    bundle: Bundle,
    network: Network,
    layers: tuple[Layer, ...],
    core: str,
    board: Board | None = None,
    cycles: float = 0.0,
) -> Traffic:
    """Bytes that the network moves, and both figures of its energy.

    Args:
        bundle: It.
        network: Its C.
        layers: Counted as they ran.
        core: Whose kernels they are.
        board: A board, and the cycles that a decision takes it; None: this machine.
    """
    executed = _sum("total", [layer.total for layer in layers]).executed
    skipping = [
        operator.executed.total(purpose="weights")
        for layer in layers
        for operator in layer.operators
        if operator.skips
    ]
    power = board.power if board else None
    measured = None
    if board is not None and power is not None:
        measured = 1000 * power.active_mw * cycles / board.clock_hz
    return traffic.of(
        executed,
        counting.readings(network.steps, core),
        counting.whole(sum(skipping)),
        1000 / decision_ms(bundle.recipe),
        board.external if board else None,
        measured,
    )


def on_host(
    bundle: Bundle,
    audio: np.ndarray | None = None,
    audio_name: str = "self-test clip (synthetic)",
) -> Profile:
    """The same C on this machine: nanoseconds, no flash, RAM or stack.

    Args:
        bundle: A converted bundle.
        audio: int16 [N, clip_samples], of which MAX_WINDOWS are run; None takes the
            self-test's clip.
        audio_name: What to call it.
    """
    from kws import features

    if audio is None:
        clip = selftest.clip(bundle.recipe.features.clip_samples)
        audio = selftest.mulaw_decode(clip)[None, :]
    inputs = features.extract(audio[:MAX_WINDOWS], bundle.recipe.features)
    extra = host.HOST / "profile_host.c"
    library = host.build(host.sources(bundle), ("-DKWS_PROFILE",), (extra,))
    network = native.sources(bundle, "portable").network
    count = len(network.operators)
    header = extra.with_suffix(".h")
    with host.opened(library, len(bundle.labels), header) as copy:
        best: list[int] = []
        for _ in range(HOST_RUNS):
            copy.lib.kws_profile_reset()
            _, sent = copy.invoke(inputs)
            spent = copy.lib.kws_profile_spent()
            once = [int(spent[i]) for i in range(1, count + 1)]
            best = min(best or once, once, key=sum)
    runs = len(inputs) * (network.stream.tokens if network.stream else 1)
    costs = {i + 1: round(value / runs) for i, value in enumerate(best)}
    total = round(sum(best) / runs)
    layers = _layers(network, costs, list(sent.mean(axis=0)))
    return Profile(
        board=HOST,
        model=bundle.recipe.name,
        hash=bundle.hash[: flash.HASH_DIGITS],
        unit="ns",
        cost=total,
        feature_cost=None,
        windows=len(inputs),
        audio=audio_name,
        layers=layers,
        arena_bytes=network.arena_bytes,
        weights_bytes=network.weights_bytes,
        fit=None,
        sections={},
        stack_bytes=None,
        time_ms=total / 1e6,
        time_note="measured on this machine, portable kernels, the best of "
        f"{HOST_RUNS} runs",
        energy=None,
        traffic=_traffic(bundle, network, layers, "portable"),
    )


# --- counting -------------------------------------------------------------------


def _layers(
    network: Network, costs: dict[int, int], sent: list[float]
) -> tuple[Layer, ...]:
    """Operators with their counts, gathered into layers in the order of first use."""
    layers: dict[str, list[Part]] = {}
    counted = network.transmitted(network.per_run(sent))
    for operator in network.operators:
        layer, name = names(operator.node)
        part = Part(
            name=f"{layer}.{name}" if name else layer,
            kind=operator.node.kind,
            cost=costs.get(operator.index),
            dense=counting.count(operator.node),
            executed=counting.count(operator.node, counted),
            weights_bytes=operator.weights_bytes,
            skips=counting.skips(operator.node),
        )
        layers.setdefault(layer, []).append(part)
    return tuple(
        Layer(_sum(name, parts), tuple(parts)) for name, parts in layers.items()
    )


_TRAILING = re.compile(r"_?\d+$")
# Of a block's own operators, those of its attention half; the rest is its MLP.
_ATTENTION_HALF = ("attention", "view", "norm1", "add", "residual1")


def names(node: Node) -> tuple[str, str]:
    """Layer and operator as people call them, from the tensor's path in the file.

    Example:
        >>> from types import SimpleNamespace
        >>> path = "kwt/block0/attention/head0/q/MatMul;kwt/block0/norm1/mul"
        >>> names(SimpleNamespace(name=path, kind="FULLY_CONNECTED"))
        ('block0.attention', 'head0.q')
    """
    fused = node.name.removeprefix("state of ").split(";")
    # Of fused operators, the one that has weights and not its activation.
    first = next((text for text in fused if "/activation" not in text), fused[0])
    path = [segment for segment in first.split(" ")[0].split("/") if segment]
    if len(path) > 1:
        path = path[1:]  # the network's own name
    if not path:
        return "?", node.kind.lower()
    head, rest = path[0], path[1:]
    if re.fullmatch(r"block\d+", head) and rest:
        half = "attention" if rest[0] in _ATTENTION_HALF else "mlp"
        if rest[0] == half:
            rest = rest[1:]
        head = f"{head}.{half}"
    if len(rest) > 1:
        rest = rest[:-1]  # the operator's name in TensorFlow says less than its kind
    elif rest and node.kind not in ("ADD", "SUB", "MUL"):
        rest = [_TRAILING.sub("", rest[0]).lower()]
    return head, ".".join(rest)


def _sum(name: str, parts: list[Part]) -> Part:
    cost = None
    if all(part.cost is not None for part in parts):
        cost = sum(part.cost or 0 for part in parts)
    return Part(
        name=name,
        kind="",
        cost=cost,
        dense=sum((part.dense for part in parts), Count()),
        executed=sum((part.executed for part in parts), Count()),
        weights_bytes=sum(part.weights_bytes for part in parts),
    )
