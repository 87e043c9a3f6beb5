"""`kws profile`: what one inference costs, layer by layer, on a board or here.

Costs are measured: instructions where an emulator counts them, cycles by a real board's
counter, nanoseconds on this machine. Multiply-accumulates and bytes are counted by
DESIGN D8's rules (kws/simulate/cost.py), executed ones from what the delta products
transmitted. Energy is an estimate, from the figures in board.toml.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import build, elf, emit, flash, monitor, run, runners, serial_port
from kws.deploy.boards import Board
from kws.deploy.fit import Fit
from kws.deploy.monitor import Monitor, Transcript
from kws.deploy.runners import Job
from kws.errors import CheckFailed, KwsError
from kws.graph import delta, operators
from kws.graph.nodes import Node

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
        macs_dense: Multiply-accumulates if nothing were skipped.
        macs_executed: Those that were needed, mean over the windows.
        bytes_weights, bytes_activations, bytes_state: Touched, by D8's rule.
        weights_bytes: Constants that it brings into the image.
    """

    name: str
    kind: str
    cost: int | None
    macs_dense: int
    macs_executed: int
    bytes_weights: int
    bytes_activations: int
    bytes_state: int
    weights_bytes: int


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

    @property
    def total(self) -> Part:
        """All layers together; its cost is the sum of the split."""
        return _sum("total", [layer.total for layer in self.layers])

    def as_dict(self) -> dict[str, Any]:
        """Stable keys of `kws profile --json` (DESIGN section 4)."""
        total = self.total

        def row(part: Part) -> dict[str, Any]:
            table = asdict(part)
            table[self.unit] = table.pop("cost")
            return table

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
            "macs_dense": total.macs_dense,
            "macs_executed": total.macs_executed,
            "bytes_weights": total.bytes_weights,
            "bytes_activations": total.bytes_activations,
            "bytes_state": total.bytes_state,
            "flash_bytes": self.fit.flash_bytes if self.fit else None,
            "weights_bytes": self.weights_bytes,
            "ram_bytes": self.fit.ram_bytes if self.fit else None,
            "arena_bytes": self.arena_bytes,
            "stack_bytes": self.stack_bytes,
            "sections": self.sections,
            "energy_estimate": asdict(self.energy) if self.energy else None,
            "audio": self.audio,
            "windows": self.windows,
            "layers": [
                {**row(layer.total), "operators": [row(p) for p in layer.operators]}
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
        ]

        def line(part: Part, name: str) -> str:
            cost = "" if part.cost is None else f"{part.cost:,}"
            share = "" if part.cost is None else f"{100 * part.cost / split:.1f} %"
            return (
                f"{name:<{width}}{cost:>13}{share:>8}{part.macs_dense:>13,}"
                f"{part.macs_executed:>13,}{part.bytes_weights:>12,}"
                f"{part.bytes_activations:>10,}{part.bytes_state:>10,}"
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
    sources = emit.model_sources(bundle, board.core)
    network = sources.network
    if len(network.operators) > MAX_OPERATORS:
        raise KwsError(
            f"The network has too many operators for the profiling firmware. Expected "
            f"at most {MAX_OPERATORS}. Received: {len(network.operators)}",
            "kws eval RUN --engine qemu gives the total.",
        )
    codes = emit.selftest_clip(bundle.recipe.features.clip_samples)[None, :]
    if audio is not None:
        spare = board.flash_bytes - image.fit.flash_bytes - SPARE_FLASH
        room = spare // audio.shape[1] + 1  # the firmware holds one clip already
        codes = emit.mulaw_encode(audio[: max(1, min(MAX_WINDOWS, room))])
    expected = _logits(bundle, codes)
    model_dir = out / "profile" / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    texts = dict(sources.texts)
    texts[emit.FILES[2]] = emit.selftest_source(bundle, expected, codes.reshape(-1))
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
            f"kws profile {bundle.path} --board {board.name} --out DIR",
        )
    unit = "instructions" if flash.is_emulated(target) else "cycles"
    cost = exact.stats["instructions_per_inference"]
    feature_cost = exact.stats["instructions_per_frame"]
    cycles_each = board.cycles_per_instruction if unit == "instructions" else 1.0
    costs = {i: round(value / windows) for i, value in split.operators.items()}
    sent = [split.sent.get(i, 0) / windows for i in range(len(network.products))]
    return Profile(
        board=board.name,
        model=bundle.recipe.name,
        hash=bundle.hash[: flash.HASH_DIGITS],
        unit=unit,
        cost=cost,
        feature_cost=feature_cost,
        windows=windows,
        audio=audio_name,
        layers=_layers(network, costs, sent),
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
    )


def _on_real(image: Path, board: Board, job: Job, port: str | None) -> Transcript:
    """Program the profiling image, and read what it says to its end."""
    name = serial_port.find(board, job.run, port, job.ask)
    with serial_port.Port(name, board, job.run) as opened:
        runners.get(board.runner).program(image, board, job)
        following = Monitor(float, board=board.name, run=job.run)
        said = bytearray()
        for data in opened.read(PROFILE_S):
            said += data
            following.feed(data)
            if following.ended or len(said) > run.MAX_BOOT_BYTES:
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


_HOST_MARKS = """
#define _POSIX_C_SOURCE 200112L
#include <stdint.h>
#include <time.h>
#include "kws_model.h"
uint64_t *kws_profile_spent(void);
static uint64_t spent[512], last;
uint64_t *kws_profile_spent(void) { return spent; }
static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}
void kws_profile_mark(uint16_t operator_done) {
  if (operator_done < 512) spent[operator_done] += now() - last;
  last = now();
}
"""


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
    from kws.engines import device

    if audio is None:
        clip = emit.selftest_clip(bundle.recipe.features.clip_samples)
        audio = emit.mulaw_decode(clip)[None, :]
    inputs = features.extract(audio[:MAX_WINDOWS], bundle.recipe.features)
    inputs = np.ascontiguousarray(inputs)
    sources = emit.model_sources(bundle, "portable")
    texts = dict(sources.texts)
    texts[emit.FILES[2]] = emit.selftest_source(
        bundle, np.zeros(len(bundle.labels), np.int8)
    )
    texts["kws_profile_host.c"] = _HOST_MARKS
    library = device.build(texts, ("-DKWS_PROFILE",))
    count = len(sources.network.operators)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / library.name  # its own static memory
        copy.write_bytes(library.read_bytes())
        ffi, lib = device.load(copy)
        ffi.cdef("uint64_t *kws_profile_spent(void);")
        spent = lib.kws_profile_spent()
        out = np.zeros(len(bundle.labels), np.int8)
        best: list[int] = []
        for _ in range(HOST_RUNS):
            ffi.memmove(spent, bytes(8 * 512), 8 * 512)
            for window in inputs:
                lib.kws_model_invoke(
                    ffi.cast("int8_t *", window.ctypes.data),
                    ffi.cast("int8_t *", out.ctypes.data),
                )
            once = [int(spent[i]) for i in range(1, count + 1)]
            best = min(best or once, once, key=sum)
    _, products = device.invoke_counted(bundle, inputs)
    costs = {i + 1: round(value / len(inputs)) for i, value in enumerate(best)}
    total = round(sum(best) / len(inputs))
    return Profile(
        board=HOST,
        model=bundle.recipe.name,
        hash=bundle.hash[: flash.HASH_DIGITS],
        unit="ns",
        cost=total,
        feature_cost=None,
        windows=len(inputs),
        audio=audio_name,
        layers=_layers(sources.network, costs, [p.sent.mean() for p in products]),
        arena_bytes=sources.network.arena_bytes,
        weights_bytes=sources.network.weights_bytes,
        fit=None,
        sections={},
        stack_bytes=None,
        time_ms=total / 1e6,
        time_note="measured on this machine, portable kernels, the best of "
        f"{HOST_RUNS} runs",
        energy=None,
    )


def _logits(bundle: Bundle, codes: np.ndarray) -> np.ndarray:
    """What the last window gives on this machine: int8 [labels]."""
    from kws.engines import device

    return device.logits(bundle, emit.mulaw_decode(codes[-1:]))[0]


# --- counting -------------------------------------------------------------------


def _layers(
    network: emit.Network, costs: dict[int, int], sent: list[float]
) -> tuple[Layer, ...]:
    """Operators with their counts, gathered into layers in the order of first use."""
    layers: dict[str, list[Part]] = {}
    for operator in network.operators:
        layer, name = names(operator.node)
        part = _part(operator, f"{layer}.{name}" if name else layer, sent)
        layers.setdefault(layer, []).append(part(costs.get(operator.index)))
    return tuple(
        Layer(_sum(name, parts), tuple(parts)) for name, parts in layers.items()
    )


_TRAILING = re.compile(r"_?\d+$")
# Of a block's own operators, those of its attention half; the rest is its MLP.
_ATTENTION_HALF = ("attention", "norm1", "add", "residual1")


def names(node: Node) -> tuple[str, str]:
    """Layer and operator as people call them, from the tensor's path in the file.

    Example:
        >>> names(node)  # kwt/block0/attention/head0/q/MatMul;kwt/...  # doctest: +SKIP
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


def _part(operator: emit.Operator, name: str, sent: list[float]) -> Any:
    """A function from the cost to the Part of an operator."""
    node = operator.node
    dense = operators.macs(node)
    executed = float(dense)
    state = 0.0
    if len(operator.products):
        rows, products = _delta_products(node)
        executed = 0.0
        for (per_element, inputs, outputs, encoded), row in zip(
            products, operator.products, strict=True
        ):
            executed += per_element * sent[row]
            if encoded:
                state += rows * (inputs + 8 * outputs) + sent[row]
    weights, activations = _traffic(node, round(executed))

    def with_cost(cost: int | None) -> Part:
        return Part(
            name=name,
            kind=node.kind,
            cost=cost,
            macs_dense=dense,
            macs_executed=round(executed),
            bytes_weights=weights,
            bytes_activations=activations,
            bytes_state=round(state),
            weights_bytes=operator.weights_bytes,
        )

    return with_cost


def _delta_products(node: Node) -> tuple[int, list[tuple[int, int, int, bool]]]:
    """Rows of a delta operator; for each of its products, in the table's order, MACs
    per transmitted element, inputs and outputs of a row, whether it is encoded.
    """
    if node.kind.startswith("FULLY_CONNECTED"):
        note = delta.note(node)
        assert note is not None
        outputs, inputs = node.input(1).shape
        rows = node.input(0).elements // inputs
        return rows, [(outputs, inputs, outputs, delta.encoded(note))]
    steps: dict[str, int] = {}
    for note in node.options["delta"]:
        steps |= note.steps if note else {}
    heads, head_dim = node.options["heads"], node.options["head_dim"]
    tokens, width = node.options["tokens"], heads * head_dim
    if node.kind == "ATTENTION_PREPARE":
        return tokens, [(0, 0, 0, False)]  # K is only held; cost.py counts no state
    return node.output.elements // width, [
        (tokens, width, heads * tokens, steps.get("Q", -1) >= 0),
        (head_dim, heads * tokens, width, steps.get("P", -1) >= 0),
    ]


def _traffic(node: Node, executed: int) -> tuple[int, int]:
    """Bytes of weights and of activations touched, by the rule of cost.py."""
    if node.kind in ("FULLY_CONNECTED", "FULLY_CONNECTED_TRANSPOSED", "CONV_2D"):
        weights = node.input(1)
        outputs = weights.shape[0]
        inputs = weights.elements // outputs
        if node.kind == "CONV_2D":
            rows = node.output.elements // outputs
        else:
            rows = node.input(0).elements // inputs
        return executed, rows * (inputs + outputs)
    if node.kind == "BATCH_MATMUL":
        columns = node.output.shape[-1]
        rows = node.output.elements // columns
        depth = operators.macs(node) // node.output.elements
        return 0, executed + rows * (depth + columns)
    if node.kind == "ATTENTION":
        options = node.options
        width = options["heads"] * options["head_dim"]
        rows = node.output.elements // width
        return 0, executed + 2 * rows * (width + options["heads"] * options["tokens"])
    if node.kind == "ATTENTION_PREPARE":
        return 0, sum(tensor.bytes for tensor in node.variables)
    return 0, sum(tensor.bytes for tensor in node.variables) + node.output.bytes


def _sum(name: str, parts: list[Part]) -> Part:
    cost = None
    if all(part.cost is not None for part in parts):
        cost = sum(part.cost or 0 for part in parts)
    return Part(
        name=name,
        kind="",
        cost=cost,
        macs_dense=sum(part.macs_dense for part in parts),
        macs_executed=sum(part.macs_executed for part in parts),
        bytes_weights=sum(part.bytes_weights for part in parts),
        bytes_activations=sum(part.bytes_activations for part in parts),
        bytes_state=sum(part.bytes_state for part in parts),
        weights_bytes=sum(part.weights_bytes for part in parts),
    )
