"""From a network on clips to one step of it on a stream (DESIGN D15).

The .tflite is the clip form: 96 frames in, a decision out. Where its layers see what is
past and nothing that is to come, the same decision comes from computing each token once
and keeping what later tokens need. `derive` finds that form in the graph: for each
tensor, which of its axes is time and how many rows of it a step adds; for each operator
that looks back, a HISTORY of its input; and it refuses, by name, what sees the whole
clip or the future. Bits don't change: a clip is a stream from a reset.

    PAD in time, CONV       rows of the past instead of the padding; before the first
                            frame they hold what the padding holds
    PAD in time, GATHER     the same of each token's window of tokens
    softmax, mean over all  a ring of the last tokens, in no order: sums and softmax
    tokens (the read-out)   don't ask for one
    a delta encoding        what is held, and sums, live from step to step
    everything else         row by row, on the rows of the step

Elsewhere: sonos/tract's `pulse` derives such a form from any graph, by axis and delay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kws.errors import KwsError
from kws.graph import delta, operators, weight_layout
from kws.graph.nodes import Graph, Node, Tensor

POINTWISE = (
    "TABLE",
    "TANH",
    "LOGISTIC",
    "HARD_SWISH",
    "RELU",
    "RELU6",
    "RSQRT",
    "QUANTIZE",
)
TWO_SIDED = ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE")
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# What may weigh the tokens of the whole clip against one another, once.
OVER_TOKENS = ("MEAN", "TRANSPOSE", "SOFTMAX", "BATCH_MATMUL")


@dataclass(frozen=True)
class Time:
    """Where time is in a tensor of the clip form.

    Args:
        axis: The dimension that is time.
        rows: Of it, in the clip, without padding.
        frames: Feature frames that one row stands for.
        pad: Rows of padding in front.
        value: What they hold.
    """

    axis: int
    rows: int
    frames: int
    pad: int = 0
    value: int = 0


@dataclass(frozen=True)
class Stream:
    """What a derived step is.

    Args:
        step_frames: New feature frames that it takes.
        clip_frames: Frames of a clip: the first decision comes with so many.
        tokens: Steps in a clip.
        looks_back: Steps after which all that is kept is of new frames: where they have
            not changed for so long, nothing changes any more.
    """

    step_frames: int
    clip_frames: int
    tokens: int
    looks_back: int


def derive(graph: Graph) -> Stream:
    """Turn a graph of the clip into one of a step, in place.

    Args:
        graph: After `passes.prepare`: input [1, frames, mel_bins].

    Raises:
        KwsError: an operator sees what is to come, or the whole clip where later ones
            need its tokens; or frames and strides don't fit.
    """
    return _Derivation(graph).run()


class _Derivation:
    """One derivation: the facts of every tensor, and the nodes of the step.

    Args:
        graph: Of the clip.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.time: dict[int, Time] = {}  # tensors with rows that a step adds to
        self.whole: dict[int, Node] = {}  # whole clips, and what made them so
        self.rings: dict[int, Tensor] = {}
        self.nodes: list[Node] = []
        self.holds: dict[int, Node] = {}  # in front of which node
        self.step_frames = 0

    def run(self) -> Stream:
        """See `derive`."""
        source = self.graph.input
        if len(source.shape) != 3 or source.shape[0] != 1:
            raise KwsError(
                "A stream's network takes [1, frames, mel_bins] features. "
                f"Received: {source}",
                "kws convert RUN",
            )
        frames = source.shape[1]
        self.step_frames = self._stride()
        if frames % self.step_frames:
            raise KwsError(
                f"A clip has to be whole steps of {self.step_frames} frames. "
                f"Received: {frames} frames",
                f"[features] frames = {frames - frames % self.step_frames}",
            )
        self.time[id(source)] = Time(1, frames, 1)
        for node in self.graph.nodes:
            self._node(node)
        if id(self.graph.output) in self.time:
            raise KwsError(
                "The network decides for every token, not for the clip. Expected a "
                f"read-out over tokens. Received: {self.graph.output}",
                'readout = "pool" in the recipe',
            )
        source.shape = (1, self.step_frames, source.shape[2])
        tokens = frames // self.step_frames
        for node in self.nodes:
            self._shrink(node)
        self.graph.nodes = [n for node in self.nodes for n in self._kept(node, tokens)]
        return Stream(self.step_frames, frames, tokens, self._looks_back())

    def _looks_back(self) -> int:
        """Steps along the longest way from features to decision, holds included."""
        before: dict[int, int] = {}
        for node in self.graph.nodes:
            steps = max((before.get(id(t), 0) for t in node.variables), default=0)
            steps += _steps_back(node)
            before[id(node.output)] = steps
        return max(before.values())

    def _stride(self) -> int:
        """Frames that one token stands for: the strides in time, multiplied."""
        strides = [
            node.options["StrideH"]
            for node in self.graph.nodes
            if node.kind in CONVOLUTIONS
        ]
        return math.prod(strides)

    def _node(self, node: Node) -> None:
        times = [
            None if t is None or t.is_constant else self.time.get(id(t))
            for t in node.inputs
        ]
        if not any(times):
            self._timeless(node)
        elif node.kind in operators.VIEWS:
            self._view(node, times[0])
        elif node.kind == "PAD":
            self._pad(node, times[0])
        elif node.kind in POINTWISE:
            self._keep(node, self._mapped(node, times[0]))
        elif node.kind in TWO_SIDED:
            self._two_sided(node, times)
        elif node.kind == "FULLY_CONNECTED":
            self._fully_connected(node, times[0])
        elif node.kind in CONVOLUTIONS:
            self._convolution(node, times[0])
        elif node.kind == "GATHER":
            self._windows(node, times[0])
        elif self._apart(node, times):
            self._keep(node, times[0])
        elif node.kind in OVER_TOKENS:
            self._over_tokens(node, times)
        else:
            raise self._refuse(node, "has no form for streams")

    def _refuse(self, node: Node, why: str) -> KwsError:
        return KwsError(
            f"The network can't run on a stream: {node.kind} at {node.name!r} {why}.",
            "Train a causal network: "
            "kws train --preset kwt-stream-tiny --out runs/stream",
        )

    def _rows(self, time: Time) -> int:
        """New rows in a step."""
        return self.step_frames // time.frames

    def _keep(self, node: Node, time: Time | None) -> None:
        assert time is not None
        self.time[id(node.output)] = time
        self.nodes.append(node)

    def _timeless(self, node: Node) -> None:
        """Of nothing that changes with time, or of the whole clip."""
        spread = [self.whole[id(t)] for t in node.variables if id(t) in self.whole]
        if spread and node.kind not in (*OVER_TOKENS, *operators.VIEWS, *POINTWISE):
            raise self._refuse(
                node,
                f"needs each token of what {spread[0].kind} at {spread[0].name!r} "
                "makes of the whole clip",
            )
        contracted = node.kind in ("BATCH_MATMUL", "MEAN")
        if spread and not contracted:
            self.whole[id(node.output)] = spread[0]
        self.nodes.append(node)

    def _view(self, node: Node, time: Time | None) -> None:
        assert time is not None
        before, after = node.input(0).shape, node.output.shape
        front = math.prod(before[: time.axis])
        rows = time.rows + time.pad
        for axis, size in enumerate(after):
            if size == rows and math.prod(after[:axis]) == front:
                self._keep(node, replace(time, axis=axis))
                return
        raise self._refuse(node, "takes time apart")

    def _pad(self, node: Node, time: Time | None) -> None:
        assert time is not None
        pads = operators.pads_of(node)
        before, behind = pads[time.axis]
        if behind or (before and time.pad):
            raise self._refuse(node, "pads what is to come")
        if before:
            pads[time.axis] = (0, 0)
            time = replace(time, pad=before, value=node.output.zero_point)
        flat = np.array(pads, np.int32)
        constant = node.input(1)
        node.inputs[1] = Tensor(constant.name, flat.shape, "int32", None, flat)
        if not flat.any():
            node.kind, node.inputs, node.options = "RESHAPE", [node.input(0)], {}
        self._keep(node, time)

    def _mapped(self, node: Node, time: Time | None) -> Time:
        """What an element-wise function makes of the padding."""
        from kws.graph import passes

        assert time is not None
        if not time.pad:
            return time
        table = node.options.get("table")
        if table is None:
            identity = list(range(-128, 128))
            constants = [t.data for t in node.inputs if t is not None]
            sides = [identity if c is None else int(c.flat[0]) for c in constants]
            table = passes.element_table(node, sides)
        return replace(time, value=int(table[time.value + 128]))

    def _two_sided(self, node: Node, times: list[Time | None]) -> None:
        known = [time for time in times if time is not None]
        others = [t for t, time in zip(node.inputs, times, strict=True) if time is None]
        if len(known) == 1 and all(t is not None and t.elements == 1 for t in others):
            self._keep(node, self._mapped(node, known[0]))
            return
        if any(time.pad or time != known[0] for time in known):
            raise self._refuse(node, "adds tensors of different times")
        for tensor, time in zip(node.inputs, times, strict=True):
            assert tensor is not None
            own = tensor.elements not in (1, tensor.shape[-1] if tensor.shape else 1)
            if time is None and own:
                raise self._refuse(node, "has a value of its own for every moment")
        self._keep(node, known[0])

    def _fully_connected(self, node: Node, time: Time | None) -> None:
        assert time is not None
        x, y = node.input(0), node.output
        if time.pad or time.axis >= len(x.shape) - 1:
            raise self._refuse(node, "sees the whole clip")
        # [1, rows, n] may become [rows, m].
        axis = time.axis - (len(x.shape) - len(y.shape))
        if axis < 0 or y.shape[axis] != time.rows:
            raise self._refuse(node, "sees the whole clip")
        self._keep(node, replace(time, axis=axis))

    def _convolution(self, node: Node, time: Time | None) -> None:
        assert time is not None
        shape = node.input(1).shape
        height, stride = shape[1], node.options["StrideH"]
        if time.axis != 1:
            raise self._refuse(node, "doesn't slide over time")
        if operators.conv_dilation(node) != (1, 1):
            raise self._refuse(node, "leaves out rows of the past (dilation)")
        if node.options["Padding"] != 1 and height > 1:  # SAME
            raise self._refuse(node, "is padded on both sides: it sees what is to come")
        if height - stride != time.pad:
            raise self._refuse(
                node,
                f"spans {height} rows and moves by {stride}: expected "
                f"{height - stride} rows of padding in front, not {time.pad}",
            )
        if self._rows(time) % stride:
            raise self._refuse(node, f"moves by {stride} rows, more than a step adds")
        if time.pad:
            node.inputs[0] = self._history(
                node.input(0), time, self._rows(time), time.pad, time.value, ring=False
            )
        rows = (time.rows + time.pad - height) // stride + 1
        self._keep(node, Time(1, rows, time.frames * stride))

    def _windows(self, node: Node, time: Time | None) -> None:
        """Each token's window: of a step, the rows that are kept, and the new one."""
        assert time is not None
        past = operators.windows_of(node) - 1
        if time.axis != 1:
            raise self._refuse(node, "doesn't slide over time")
        if past != time.pad:
            raise self._refuse(
                node,
                f"spans {past + 1} rows: expected {past} rows of padding in front, not "
                f"{time.pad}",
            )
        if self._rows(time) != 1:
            raise self._refuse(node, "has several windows in a step")
        x = node.input(0)
        kept = self._history(x, time, 1, past, time.value, ring=False)
        node.kind, node.inputs, node.options = "RESHAPE", [kept], {}
        self._keep(node, replace(time, pad=0, value=0))

    def _apart(self, node: Node, times: list[Time | None]) -> bool:
        """Whether a node makes something of each token by itself."""
        time, rank = times[0], len(node.input(0).shape)
        if time is None or time.pad:
            return False
        alike = all(t == time for t in times)
        if node.kind == "BATCH_MATMUL":
            return alike and time.axis < rank - 2
        if node.kind == "CONCATENATION":
            return alike and time.axis != node.options["Axis"] % rank
        if node.kind == "MEAN":
            kept = bool(node.options["KeepDims"])
            return kept and time.axis not in operators.mean_axes(node)
        return node.kind == "SOFTMAX" and time.axis < rank - 1

    def _over_tokens(self, node: Node, times: list[Time | None]) -> None:
        """The read-out: it takes the last tokens of the clip's length, in a ring."""
        for index, time in enumerate(times):
            if time is None:
                continue
            tensor = node.input(index)
            if time.pad or time.frames != self.step_frames:
                raise self._refuse(node, "sees the whole clip, and not by tokens")
            if id(tensor) not in self.rings:
                self.rings[id(tensor)] = self._history(
                    tensor, time, 1, time.rows - 1, tensor.zero_point, ring=True
                )
            node.inputs[index] = self.rings[id(tensor)]
        if node.kind not in ("BATCH_MATMUL", "MEAN"):
            self.whole[id(node.output)] = node
        elif node.kind == "MEAN":
            time = times[0]
            assert time is not None
            if time.axis not in operators.mean_axes(node):
                raise self._refuse(node, "averages each token of the whole clip")
        elif not self._contracts(node, times):
            raise self._refuse(node, "compares each token with the whole clip")
        self.nodes.append(node)

    def _contracts(self, node: Node, times: list[Time | None]) -> bool:
        """Whether a product adds over the tokens."""
        for index, time in enumerate(times):
            if time is None:
                continue
            adjoint = node.options["AdjX" if index == 0 else "AdjY"]
            rank = len(node.input(index).shape)
            inner = rank - 1 if (index == 0) != adjoint else rank - 2
            if time.axis != inner:
                return False
        return True

    def _history(
        self, tensor: Tensor, time: Time, rows: int, past: int, value: int, ring: bool
    ) -> Tensor:
        """The last rows of a tensor: `past` of earlier steps, and this step's."""
        shape = list(tensor.shape)
        shape[time.axis] = past + rows
        kept = Tensor(
            f"past of {tensor.name}"[:200],
            tuple(shape),
            "int8",
            tensor.quantization,
            reset=value,
        )
        self.nodes.append(Node("HISTORY", [tensor], kept, {"rows": rows, "ring": ring}))
        return kept

    def _shrink(self, node: Node) -> None:
        """Give a node's output the rows of a step."""
        time = self.time.get(id(node.output))
        if time is None:
            return
        shape = list(node.output.shape)
        shape[time.axis] = self._rows(time)
        node.output.shape = tuple(shape)

    def _kept(self, node: Node, tokens: int) -> list[Node]:
        """A node, with what its delta encoding keeps from step to step.

        A row of the clip is a step of the stream, and the first is transmitted whole. A
        clip has one decision: what is read for it is transmitted whole until then.
        """
        note = delta.note(node)
        if note is None:
            self._convolve_held(node)
            return [node]
        whole = 1 if id(node.output) in self.time else tokens
        note = replace(note, dense_rows=0, whole_steps=whole)
        x = node.input(0)
        if node.kind == "FULLY_CONNECTED":
            outputs, inputs = node.input(1).shape
            size = weight_layout.delta_step_state_bytes(
                inputs, outputs, note.keeps_dense
            )
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            node.inputs = [*node.inputs[:2], bias, _state(node.output, size)]
            node.options = {**node.options, "delta": note}
            return [node]
        held = Tensor(f"held {x.name}"[:200], x.shape, "int8", x.quantization)
        state = _state(x, weight_layout.round_up(x.elements, 4))
        options = {"delta": note, "products": node.options.pop("products")}
        del node.options["delta"]
        node.inputs[0] = held
        hold = Node("HOLD", [x, state], held, options)
        options["products"] = tuple(
            replace(product, node=hold) for product in options["products"]
        )
        self.holds[id(node)] = hold
        return [hold, node]

    def _convolve_held(self, node: Node) -> None:
        """Let a convolution of what is held skip what has not moved."""
        held = node.options.get("held")
        hold = None if held is None else self.holds.get(id(held.node))
        if held is None or hold is None:
            return
        outputs, patch = operators.weight_matrix(node).shape
        note = delta.note(hold)
        assert note is not None
        singly = 0 < note.window <= patch
        size = weight_layout.delta_conv_2d_state_bytes(
            node.output.elements // outputs,
            outputs,
            node.input(0).elements if singly else 0,
        )
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        node.inputs = [*node.inputs[:2], bias, _state(node.output, size)]
        (product,) = hold.options["products"]
        made = [n for n in self.nodes if n.output is node.input(0)]
        looks_back = 1 + sum(_steps_back(n) for n in made)
        node.options = {
            **node.options,
            "held": product,
            "moved": hold,
            "singly": singly,
            "looks_back": looks_back,
        }


def _steps_back(node: Node) -> int:
    """Steps that a node looks back on beside the present one."""
    if node.kind != "HISTORY":
        return 0
    kept = operators.history(node)
    return -(-kept.past // kept.rows)


def _state(owner: Tensor, size: int) -> Tensor:
    """What is kept for a tensor's encoding."""
    return Tensor(f"state of {owner.name}"[:200], (size,), "int8", reset=0)
