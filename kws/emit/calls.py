"""Each operator's C: its constants, and the call of its kernel.

One function per operator, registered by name in `CALLS`; an attention variant's own
operators bring theirs. A function asks the `Model`
for constants and addresses and returns lines of C. The kernels are
firmware/include/kws_kernels.h; the numbers come from kws.graph.quantized_math, so
nothing is computed here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kws.emit import c_text
from kws.graph import delta, operators, parameters, passes, weight_layout
from kws.graph import quantized_math as qm
from kws.graph.memory_plan import Plan
from kws.graph.nodes import Graph, Node, Tensor
from kws.graph.operators import Access
from kws.graph.products import Product
from kws.graph.schedule import Schedule, Step
from kws.graph.stream import Stream


class Constants:
    """Collects a model's constants, and its products that skip.

    Args:
        core: `portable`, `dsp` or `mve`: the weights' layout.
        tunable: Delta thresholds of a stream lie in memory that may be written.
    """

    def __init__(self, core: str, tunable: bool = False) -> None:
        self.core = core
        self.tunable = tunable
        self.text: list[str] = []
        self.weights_bytes = 0
        self.state_bytes = 0
        self.products: list[Product] = []
        self._sent: list[tuple[str, int]] = []  # C of its counter; elements of a run
        self._counters: dict[str, str] = {}  # symbol -> C type
        self._shared: dict[int, str] = {}  # id(owner) -> counter
        self._symbols: dict[tuple[str, bytes], str] = {}
        self._structs: dict[str, str] = {}
        self._tuned: list[str] = []  # C of the address of each product's threshold

    def constant(self, prefix: str, values: np.ndarray) -> str:
        """The symbol of a constant array; equal arrays are stored once."""
        key = (values.dtype.name, values.tobytes())
        if key not in self._symbols:
            symbol = f"{prefix}_{len(self._symbols)}"
            self._symbols[key] = symbol
            self.text.append(c_text.array(symbol, values))
            self.weights_bytes += values.nbytes
        return self._symbols[key]

    def struct(self, ctype: str, fields: dict[str, object]) -> str:
        """`&symbol` of a constant struct; equal structs are stored once."""
        text = key = c_text.struct(ctype, "@", fields)
        if self.tunable and "threshold" in fields:  # each has one of its own
            text, key = (
                text.removeprefix("static const "),
                f"{len(self._structs)}{text}",
            )
            text = f"static {text}"
        if key not in self._structs:
            symbol = f"{ctype.removeprefix('kws_').removesuffix('_t')}"
            symbol = f"{symbol}_{len(self._structs)}"
            self._structs[key] = symbol
            self.text.append(text.replace("@", symbol, 1))
        return f"&{self._structs[key]}"

    def tune(self, address: str) -> None:
        """Enter where the threshold of the product that comes next is."""
        if self.tunable:
            self._tuned.append(address)

    def threshold(self, value: int) -> str:
        """C of a threshold that is an argument."""
        if not self.tunable:
            return str(value)
        symbol = f"threshold_{len(self._tuned)}"
        self.text.append(f"static uint8_t {symbol} = {value};\n")
        self.tune(f"&{symbol}")
        return symbol

    def counter(self, ctype: str, owner: object | None = None) -> str:
        """The symbol of a counter of transmitted elements; see `Emitter`."""
        if id(owner) not in self._shared or owner is None:
            symbol = f"delta_sent_{len(self._counters)}"
            self._counters[symbol] = ctype
            self._shared[id(owner)] = symbol
        return self._shared[id(owner)]

    def clear_counters(self) -> list[str]:
        """C that starts all counters anew: they count one run."""
        return [f"{name} = ({ctype}){{0}};" for name, ctype in self._counters.items()]

    def count_sent(self, product: Product, counter: str, rows: int) -> None:
        """Enter a product into the table of those that skip; see `Emitter`."""
        self.products.append(dataclasses.replace(product, rows=rows))
        self._sent.append((counter, rows * product.inputs))

    def count_step(self, product: Product, counter: str) -> None:
        """The same, of a product that a step runs on one row."""
        self.products.append(product)
        self._sent.append((counter, product.inputs))

    def delta_text(self) -> list[str]:
        """C of what delta products keep, and of the table of them."""
        if not self.products:
            return []
        count = len(self.products)
        lines = [f"static {c} {name};" for name, c in self._counters.items()]
        if self.state_bytes:
            lines.append(f"static _Alignas(16) int8_t delta_state[{self.state_bytes}];")
        if self.tunable:
            assert len(self._tuned) == count, "a product without a threshold of its own"
            lines += [
                f"uint8_t *const kws_delta_thresholds[{count}] = {{",
                *(f"    {address}," for address in self._tuned),
                "};",
            ]
        return [
            *lines,
            f"static const kws_delta_operator_t delta_operators[{count}] = {{",
            *(
                f"    {{'{p.kind}', {p.layer}, {p.macs}, {elements}, &{sent}}},"
                for p, (sent, elements) in zip(self.products, self._sent, strict=True)
            ),
            "};",
        ]


class Model(Constants):
    """The constants, and where every tensor is.

    Args:
        graph: After the passes.
        program: Its schedule.
        plan: Its memory plan.
        core: `portable`, `dsp` or `mve`: the weights' layout.
        stream: What a run is a step of; None: a run sees the whole clip.
        tunable: See `Constants`.
    """

    def __init__(
        self,
        graph: Graph,
        program: Schedule,
        plan: Plan,
        core: str,
        stream: Stream | None = None,
        tunable: bool = False,
    ) -> None:
        super().__init__(core, tunable)
        self.stream = stream
        self._rests = False
        self.graph = graph
        self.program = program
        self.plan = plan
        self._step_state = 0
        self._step: Step | None = None
        self._access: list[Access] = []
        self._histories = {
            id(node.output): operators.history(node)
            for node in program.nodes
            if node.kind == "HISTORY"
        }

    def begin(self, step: Step, position: int) -> None:
        """Say which node the following addresses are for."""
        if step is not self._step:
            self._step_state = 0
        self._step = step
        self._access = step.access[position] if step.rows else []

    def state(self, size: int) -> str:
        """C for the address of bytes that nothing else writes to during this step."""
        offset = self._step_state
        self._step_state += -(-size // 8) * 8
        self.state_bytes = max(self.state_bytes, self._step_state)
        return _offset("delta_state", offset)

    @property
    def loop_rows(self) -> int:
        assert self._step is not None
        return self._step.rows

    @property
    def first_rows(self) -> tuple[str, str]:
        """C for whether a call is a run's first, and for the first row it computes."""
        return ("row == 0", "row") if self.loop_rows else ("1", "0")

    def call(self, function: str, *arguments: object) -> list[str]:
        """Lines of one call."""
        return c_text.call(function, *arguments)

    def rows(self, total: int) -> str:
        """C for how many rows of `total` the call at hand computes."""
        if not self.loop_rows:
            return str(total)
        factor = total // self.loop_rows
        return "rows" if factor == 1 else f"rows * {factor}"

    def input(self, node: Node, index: int) -> str:
        """C for the address of an input."""
        tensor = node.input(index)
        access = self._access[index] if self._access else Access.WHOLE
        if access is Access.PAST:
            kept = self._histories[id(self.program.root(tensor))]
            return self._address(tensor, kept.rows * kept.width)
        return self._address(tensor, tensor.elements if access is Access.ROW else 0)

    def output(self, node: Node) -> str:
        """C for the address of the output."""
        return self._address(node.output, node.output.elements if self.loop_rows else 0)

    def history(self, node: Node) -> str:
        """C for where a HISTORY's new rows go."""
        kept, base = self._histories[id(node.output)], self._address(node.output, 0)
        if kept.ring:
            slots = kept.past // kept.rows + 1
            return f"{base} + slot_{slots} * {kept.rows * kept.width}"
        to = _offset(base, kept.past * kept.width)
        return f"{to} + row * {kept.width}" if self.loop_rows else to

    def ring_row(self, node: Node, index: int, oldest: bool) -> str:
        """C for the address of a ring's newest or oldest row; see `Emitter`."""
        tensor = self.program.root(node.input(index))
        kept = self._histories[id(tensor)]
        assert kept.ring and kept.rows == 1
        slots = kept.past + 1
        slot = f"slot_{slots}"
        if oldest:
            slot = f"({slot} + 1 == {slots} ? 0 : {slot} + 1)"
        return f"{self._address(tensor, 0)} + {slot} * {kept.width}"

    def moved(self, hold: Node) -> str:
        """The variable of how much a HOLD has transmitted in this run."""
        return f"moved_{self.program.nodes.index(hold)}"

    def rest(self, moved: str) -> list[str]:
        """C that leaves a run where nothing can change any more.

        Args:
            moved: What was transmitted of the features: while they are held, so is,
                step by step, all that looks back on them.
        """
        assert self.stream is not None
        self._rests = True
        logits = self.graph.output.elements
        return [
            f"if ({moved} != 0) {{",
            "  still = 0;",
            f"}} else if (still < {self.stream.looks_back}) {{",
            "  ++still;",
            "} else {",
            f"  memcpy(logits, last_logits, {logits});",
            "  return;",
            "}",
        ]

    def _slots(self) -> list[int]:
        """Sizes of the rings, in steps: rings of one size go round together."""
        rings = [kept for kept in self._histories.values() if kept.ring]
        return sorted({kept.past // kept.rows + 1 for kept in rings})

    def begin_run(self) -> list[str]:
        """C before a run: counters start anew, rows that are kept in order move up.

        On a stream they count from one decision to the next, so the first one's are a
        clip's.
        """
        lines = self.clear_counters()
        if self._steps:
            lines = [f"if (step == 0 || step == {self._steps}) {{"]
            lines += [*(f"  {line}" for line in self.clear_counters()), "}"]
        for node in self.program.nodes:
            kept = self._histories.get(id(node.output))
            if kept is not None and kept.past and not kept.ring:
                base = self._address(node.output, 0)
                moved, size = kept.rows * kept.width, kept.past * kept.width
                lines += c_text.call("memmove", base, f"{base} + {moved}", size)
        return lines

    def end_run(self) -> list[str]:
        """C after a run: the rings go on."""
        lines = [
            f"slot_{n} = (uint16_t)(slot_{n} + 1 == {n} ? 0 : slot_{n} + 1);"
            for n in self._slots()
        ]
        if self._rests:
            size = self.graph.output.elements
            lines += c_text.call("memcpy", "last_logits", "logits", size)
        return lines + ([f"if (step < {self._steps}) ++step;"] if self._steps else [])

    @property
    def _steps(self) -> int:
        """Steps of a stream that are counted: to its first decision, where something
        is skipped; else 0."""
        return self.stream.tokens if self.stream and self.products else 0

    def persistent_text(self) -> list[str]:
        """C of what lives from one step to the next, and of network_reset."""
        if not self.plan.persistent:
            return []
        size = self.plan.persistent_bytes
        rest = [
            "static uint16_t still; /* steps with the same features */",
            f"static int8_t last_logits[{self.graph.output.elements}];",
        ]
        return [
            f"static _Alignas(16) int8_t persistent[{size}];",
            *(f"static uint16_t slot_{n};" for n in self._slots()),
            *(["static uint16_t step; /* since a reset */"] if self._steps else []),
            *(rest if self._rests else []),
            "",
            "static void network_reset(void) {",
            *(
                f"  memset({_offset('persistent', offset)}, {value}, {count});"
                for offset, count, value in self.plan.resets
            ),
            *(f"  slot_{n} = 0;" for n in self._slots()),
            *(["  step = 0;"] if self._steps else []),
            *(["  still = 0;"] if self._rests else []),
            "}",
        ]

    def scratch(self, node: Node) -> str:
        """C for the address of the node's scratch."""
        return _offset("arena", self.plan.scratch[id(node)].offset)

    def _address(self, tensor: Tensor, elements_by_row: int) -> str:
        root = self.program.root(tensor)
        if tensor.data is not None:
            base = self.constant("values", tensor.data)
        elif root is self.graph.input:
            base = "features"
        elif root is self.program.root(self.graph.output):
            base = "logits"
        elif id(root) in self.plan.persistent:
            base = _offset("persistent", self.plan.persistent[id(root)].offset)
        else:
            base = _offset("arena", self.plan.tensors[id(root)].offset)
        if not elements_by_row or id(root) in self.plan.blocks:
            return base
        return f"{base} + row * {elements_by_row // self.loop_rows}"


def _offset(base: str, offset: int) -> str:
    return f"{base} + {offset}" if offset else base


# --- matrix products ----------------------------------------------------------------


def _product(
    model: Model, node: Node, weights: np.ndarray, pairs: list[tuple[int, int]]
) -> dict[str, object]:
    """The fields of a kws_fully_connected_t."""
    return _product_of(model, node, weights, pairs, _dense(model, weights))


def _dense(model: Constants, weights: np.ndarray) -> str:
    """The symbol of weights for the dense kernel."""
    laid_out = np.frombuffer(weight_layout.layout(weights, model.core), np.int8)
    return model.constant("weights", laid_out)


def _columns(model: Constants, weights: np.ndarray) -> str:
    """The symbol of weights for the sparse kernels."""
    return model.constant("columns", weight_layout.delta_layout(weights, model.core))


def _product_of(
    model: Constants,
    node: Node,
    weights: np.ndarray,
    pairs: list[tuple[int, int]],
    symbol: str,
) -> dict[str, object]:
    outputs, inputs = weights.shape
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values = None if bias is None or bias.data is None else bias.data.reshape(-1)
    x, y = node.input(0), node.output
    try:
        folded = qm.fold_bias(weights, values, x.zero_point)
        low, high = qm.calculate_activation_range(
            passes.activation(node), y.scale, y.zero_point
        )
    except ValueError as error:
        raise operators.refuse(node, str(error)) from None
    for multiplier, shift in pairs:
        if not (-31 <= shift <= 30 and 0 <= multiplier < 2**31):
            raise operators.refuse(node, "scales too far apart")
    repeated = pairs * outputs if len(pairs) == 1 else pairs
    return {
        "inputs": inputs,
        "outputs": outputs,
        "weights": symbol,
        "bias": model.constant("bias", folded),
        "multiplier": model.constant(
            "multiplier", np.array([m for m, _ in repeated], np.int32)
        ),
        "shift": model.constant("shift", np.array([s for _, s in repeated], np.int8)),
        "output_zero_point": y.zero_point,
        "activation_min": low,
        "activation_max": high,
        "ordinary": int(qm.is_ordinary(weights, folded, pairs, (low, high))),
    }


def _fully_connected_struct(model: Model, node: Node) -> str:
    weights = node.input(1)
    assert weights.data is not None and weights.quantization is not None
    pairs = qm.fully_connected_multipliers(
        node.input(0).scale, weights.quantization.scales, node.output.scale
    )
    return model.struct(
        "kws_fully_connected_t", _product(model, node, weights.data, pairs)
    )


def _fully_connected(model: Model, node: Node) -> list[str]:
    if "delta" in node.options:
        outputs = node.input(1).shape[0]
        return _delta_fully_connected(model, node, model.output(node), outputs, 1)
    return c_text.call(
        "kws_fully_connected_s8",
        _fully_connected_struct(model, node),
        model.input(node, 0),
        model.rows(operators.row_count(node.output)),
        model.output(node),
        model.scratch(node),
    )


def _fully_connected_transposed(model: Model, node: Node) -> list[str]:
    base = model._address(node.output, 0)
    if "delta" in node.options:
        to = f"{base} + row" if model.loop_rows else base
        return _delta_fully_connected(model, node, to, 1, node.options["stride"])
    return c_text.call(
        "kws_fully_connected_transposed_s8",
        _fully_connected_struct(model, node),
        model.input(node, 0),
        model.rows(node.input(0).elements // node.input(1).shape[1]),
        f"{base} + row" if model.loop_rows else base,
        node.options["stride"],
        model.scratch(node),
    )


def delta_fully_connected_struct(model: Constants, node: Node) -> str:
    """`&symbol` of the kws_delta_fully_connected_t of a node with a note."""
    note = delta.note(node)
    weights = node.input(1)
    assert note is not None
    assert weights.data is not None and weights.quantization is not None
    (threshold,) = note.steps.values()
    pairs = qm.fully_connected_multipliers(
        node.input(0).scale, weights.quantization.scales, node.output.scale
    )
    columns = dense = "NULL"
    if not (note.keeps_dense and note.whole_steps):
        columns = _columns(model, weights.data)
    if note.keeps_dense:
        dense = _dense(model, weights.data)
    return model.struct(
        "kws_delta_fully_connected_t",
        {
            "product": _product_of(model, node, weights.data, pairs, dense),
            "columns": columns,
            "threshold": threshold,
            "dense_rows": note.dense_rows,
        },
    )


def _delta_fully_connected(
    model: Model, node: Node, to: str, row_step: int, output_step: int
) -> list[str]:
    outputs, inputs = node.input(1).shape
    rows = node.input(0).elements // inputs
    struct = delta_fully_connected_struct(model, node)
    sent = model.counter("uint32_t")
    (product,) = node.options["products"]
    note = delta.note(node)
    assert note is not None
    if note.whole_steps:
        model.tune(f"{struct}.threshold")
        model.count_step(product, sent)
        # What is read once for a decision counts once.
        return [f"{sent} = 0;"] * (product.rows == 1) + c_text.call(
            "kws_delta_step_s8",
            struct,
            model.input(node, 0),
            f"step < {note.whole_steps}",
            to,
            model.input(node, 3),
            model.scratch(node),
            f"&{sent}",
        )
    model.count_sent(product, sent, rows)
    return c_text.call(
        "kws_delta_fully_connected_s8",
        struct,
        model.input(node, 0),
        *model.first_rows,
        model.rows(rows),
        to,
        row_step,
        output_step,
        model.state(weight_layout.delta_fully_connected_state_bytes(inputs, outputs)),
        model.scratch(node),
        f"&{sent}",
    )


def _window(node: Node) -> dict[str, object]:
    """The fields that kws_conv_2d_t and kws_depthwise_conv_2d_t have together, beside
    the channels."""
    x, weights, y = node.input(0), node.input(1), node.output
    top, left = operators.conv_padding(node)
    return {
        "input_height": x.shape[1],
        "input_width": x.shape[2],
        "output_height": y.shape[1],
        "output_width": y.shape[2],
        "filter_height": weights.shape[1],
        "filter_width": weights.shape[2],
        "stride_height": node.options["StrideH"],
        "stride_width": node.options["StrideW"],
        "dilation_height": node.options["DilationHFactor"],
        "dilation_width": node.options["DilationWFactor"],
        "pad_top": top,
        "pad_left": left,
        "input_zero_point": x.zero_point,
    }


def _conv_pairs(node: Node) -> list[tuple[int, int]]:
    x, weights, y = node.input(0), node.input(1), node.output
    assert weights.quantization is not None
    return qm.conv_multipliers(x.scale, weights.quantization.scales, y.scale)


def _convolve(model: Model, node: Node, kernel: str, struct: str) -> list[str]:
    return c_text.call(
        kernel,
        struct,
        model.input(node, 0),
        model.first_rows[1],
        model.rows(node.output.shape[1]),
        model.output(node),
        model.scratch(node),
    )


def _conv_2d(model: Model, node: Node) -> list[str]:
    pairs, matrix = _conv_pairs(node), operators.weight_matrix(node)
    singly = node.options.get("singly", False)
    weights = "NULL" if singly else _dense(model, matrix)
    fields: dict[str, object] = {
        **_window(node),
        "input_channels": node.input(0).shape[3],
        "product": _product_of(model, node, matrix, pairs, weights),
    }
    hold = node.options.get("moved")
    if hold is None:
        struct = model.struct("kws_conv_2d_t", fields)
        return _convolve(model, node, "kws_conv_2d_s8", struct)
    note = delta.note(hold)
    assert note is not None
    struct = model.struct(
        "kws_delta_conv_2d_t",
        {
            "conv": fields,
            "columns": _columns(model, matrix) if singly else "NULL",
            "looks_back": node.options["looks_back"],
        },
    )
    return c_text.call(
        "kws_delta_conv_2d_step_s8",
        struct,
        model.input(node, 0),
        model.moved(hold),
        f"step < {note.whole_steps}",
        model.output(node),
        model.input(node, 3),
        model.scratch(node),
    )


def _depthwise_conv_2d(model: Model, node: Node) -> list[str]:
    pairs = _conv_pairs(node)
    matrix = operators.weight_matrix(node)
    laid_out = weight_layout.depthwise_layout(matrix, model.core)
    symbol = model.constant("weights", np.frombuffer(laid_out, np.int8))
    struct = model.struct(
        "kws_depthwise_conv_2d_t",
        {**_window(node), "taps": _product_of(model, node, matrix, pairs, symbol)},
    )
    return _convolve(model, node, "kws_depthwise_conv_2d_s8", struct)


def _batch_matmul(model: Model, node: Node) -> list[str]:
    a, y = node.input(0), node.output
    rows, columns = y.shape[-2:]
    depth = a.shape[-2 if node.options["AdjX"] else -1]
    left_at, _ = operators.batch_matmul_scratch(node)
    scratch = model.plan.scratch[id(node)].offset
    adjoint = node.options["AdjY"]
    struct = model.struct("kws_batch_matmul_t", parameters.batch_matmul(node))
    lines = []
    for batch in range(y.elements // (rows * columns)):
        a_at = _plus(model.input(node, 0), batch * rows * depth)
        b_at = _plus(model.input(node, 1), batch * columns * depth)
        if node.options["AdjX"]:
            to = _offset("arena", scratch + left_at)
            lines += c_text.call("kws_transpose_s8", a_at, depth, rows, to, depth)
            a_at = to
        lines += c_text.call(
            "kws_batch_matmul_s8" if adjoint else "kws_batch_matmul_columns_s8",
            struct,
            a_at,
            depth,
            b_at,
            depth if adjoint else columns,
            model.rows(rows),
            columns,
            depth,
            _plus(model.output(node), batch * rows * columns),
            columns,
            _offset("arena", scratch),
        )
    return lines


def _plus(address: str, offset: int) -> str:
    return f"{address} + {offset}" if offset else address


def _part(address: str, elements: int, parts: int) -> str:
    """Where the part of a tensor begins that `_repeated` is at."""
    return address if parts == 1 else f"{address} + part * {elements // parts}"


def _repeated(parts: int, lines: list[str]) -> list[str]:
    """C that runs once for each part."""
    if parts == 1:
        return lines
    head = f"for (int32_t part = 0; part < {parts}; ++part) {{"
    return [head, *(f"  {line}" for line in lines), "}"]


# --- rows -----------------------------------------------------------------------------


def _transpose_tokens(model: Model, node: Node) -> list[str]:
    x = node.input(0)
    width = node.output.shape[0]
    return c_text.call(
        "kws_transpose_s8",
        model.input(node, 0),
        x.elements // width,
        width,
        model.output(node),
        node.options["stride"],
    )


def _softmax(model: Model, node: Node) -> list[str]:
    columns = node.output.shape[-1]
    return c_text.call(
        "kws_softmax_s8",
        model.struct(
            "kws_softmax_t",
            {
                "exp_table": model.constant(
                    "exp_table", parameters.softmax_exponentials(node)
                )
            },
        ),
        model.input(node, 0),
        model.rows(operators.row_count(node.output)),
        columns,
        model.output(node),
    )


# --- element by element ------------------------------------------------------------


def _two_inputs(kernel: str, ctype: str, prepare: Callable[..., Any]) -> Any:
    def call(model: Model, node: Node) -> list[str]:
        x1, x2 = (passes.quantization(node.input(i)) for i in (0, 1))
        y = passes.quantization(node.output)
        fused = [passes.activation(node)] if "activation" in _names(prepare) else []
        try:
            parameters = prepare(x1, x2, y, *fused)
        except ValueError as error:
            raise operators.refuse(node, str(error)) from None
        # TFLM, too, has no ADD or SUB that shifts its sums left.
        if parameters.output_shift > (0 if kernel == "kws_add_s8" else 30):
            raise operators.refuse(node, "scales too far apart")
        fields = dataclasses.asdict(parameters)
        if kernel == "kws_add_s8":
            fields |= dataclasses.asdict(qm.linear_add(parameters))
        columns = node.output.shape[-1] if node.output.shape else 1
        steps = [operators.broadcast_steps(node, i) for i in (0, 1)]
        groups = operators.broadcast_groups(node)
        shape = ", ".join(
            [
                model.rows(operators.row_count(node.output) // groups),
                str(columns),
                *(str(step) for pair in steps for step in pair),
            ]
        )

        def at(address: str, tensor: Tensor) -> str:
            return _part(address, tensor.elements, groups)

        return _repeated(
            groups,
            c_text.call(
                kernel,
                model.struct(ctype, fields),
                f"&(kws_broadcast_t){{{shape}}}",
                at(model.input(node, 0), node.input(0)),
                at(model.input(node, 1), node.input(1)),
                at(model.output(node), node.output),
            ),
        )

    return call


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return function.__code__.co_varnames[: function.__code__.co_argcount]


def _table(model: Model, node: Node) -> list[str]:
    table = node.options.get("table")
    if table is None:
        table = passes.element_table(node, [list(range(-128, 128))])
    return c_text.call(
        "kws_table_s8",
        model.constant("table", np.array(table, np.int8)),
        model.input(node, 0),
        model.rows(node.output.elements),
        model.output(node),
    )


def _mean(model: Model, node: Node) -> list[str]:
    outer, count, inner = operators.mean_split(node)
    parameters = qm.mean_parameters(
        passes.quantization(node.input(0)), passes.quantization(node.output), count
    )
    if parameters.shift > 30:
        raise operators.refuse(node, "scales too far apart")
    struct = model.struct("kws_mean_t", dataclasses.asdict(parameters))
    x, y = model.input(node, 0), model.output(node)
    if inner == 1:
        return c_text.call("kws_mean_columns_s8", struct, x, model.rows(outer), y)
    return _repeated(
        outer,
        c_text.call(
            "kws_mean_rows_s8",
            struct,
            _part(x, outer * count * inner, outer),
            inner,
            _part(y, outer * inner, outer),
            model.scratch(node),
        ),
    )


# --- moving values -----------------------------------------------------------------


def _copy(
    dims: list[int],
    x: tuple[str, list[int]],
    y: tuple[str, list[int]],
) -> list[str]:
    """Loops that copy element [i, j, ...] from x to y, each with its own steps."""
    (source, x_steps), (target, y_steps) = x, y
    merged: list[list[int]] = []
    for dim, x_step, y_step in zip(dims, x_steps, y_steps, strict=True):
        if dim == 1:
            continue
        if merged and merged[-1][1:] == [dim * x_step, dim * y_step]:
            merged[-1] = [merged[-1][0] * dim, x_step, y_step]
        else:
            merged.append([dim, x_step, y_step])
    inner = 1
    if merged and merged[-1][1:] == [1, 1]:
        inner = merged.pop()[0]
    lines = []
    x_index, y_index = [source], [target]
    for depth, (dim, x_step, y_step) in enumerate(merged):
        name = f"i{depth}"
        lines.append(
            "  " * depth + f"for (int32_t {name} = 0; {name} < {dim}; {name}++) {{"
        )
        x_index.append(f"{name} * {x_step}")
        y_index.append(f"{name} * {y_step}")
    lines.append(
        "  " * len(merged)
        + f"memcpy({' + '.join(y_index)}, {' + '.join(x_index)}, {inner});"
    )
    lines += ["  " * depth + "}" for depth in range(len(merged) - 1, -1, -1)]
    return lines


def _steps(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _transpose(model: Model, node: Node) -> list[str]:
    x_steps = _steps(node.input(0).shape)
    permutation = operators.constant_ints(node, 1)
    return _copy(
        list(node.output.shape),
        (model.input(node, 0), [x_steps[axis] for axis in permutation]),
        (model.output(node), _steps(node.output.shape)),
    )


def _strided_slice(model: Model, node: Node) -> list[str]:
    x = node.input(0)
    start, dims, steps = 0, [], []
    for part, step in zip(operators.slice_of(node), _steps(x.shape), strict=True):
        if isinstance(part, int):
            start += part * step
            continue
        start += part.start * step
        dims.append(len(range(part.start, part.stop, part.step)))
        steps.append(part.step * step)
    return _copy(
        dims,
        (_plus(model.input(node, 0), start), steps),
        (model.output(node), _steps(tuple(dims))),
    )


def _history(model: Model, node: Node) -> list[str]:
    size = node.input(0).elements // node.options["rows"]
    rows = model.rows(node.options["rows"])
    bytes_ = f"{rows} * {size}" if model.loop_rows else node.input(0).elements
    return c_text.call("memcpy", model.history(node), model.input(node, 0), bytes_)


def _hold(model: Model, node: Node) -> list[str]:
    note = delta.note(node)
    assert note is not None
    (product,) = node.options["products"]
    (threshold,) = note.steps.values()
    sent = model.counter("uint32_t")
    model.count_step(product, sent)
    moved = model.moved(node)
    lines = c_text.call(
        f"const int32_t {moved} = kws_delta_hold_s8",
        model.input(node, 0),
        product.inputs,
        model.threshold(threshold),
        f"step < {note.whole_steps}",
        model.output(node),
        model.input(node, 1),
        f"&{sent}",
    )
    if model.program.root(node.input(0)) is model.graph.input:
        lines += model.rest(moved)
    return lines


def _pad(model: Model, node: Node) -> list[str]:
    x, y = node.input(0), node.output
    y_steps = _steps(y.shape)
    before = [pair[0] for pair in operators.pads_of(node)]
    start = sum(pad * step for pad, step in zip(before, y_steps, strict=True))
    out = model.output(node)
    return [
        f"memset({out}, {y.zero_point}, {y.elements});",
        *_copy(
            list(x.shape),
            (model.input(node, 0), _steps(x.shape)),
            (_plus(out, start), y_steps),
        ),
    ]


def _gather(model: Model, node: Node) -> list[str]:
    """Windows that overlap: each begins a row behind the one before."""
    width = node.output.shape[-1]
    return _copy(
        list(node.output.shape),
        (model.input(node, 0), [0, width, width, 1]),
        (model.output(node), _steps(node.output.shape)),
    )


def _concatenation(model: Model, node: Node) -> list[str]:
    axis = node.options["Axis"] % len(node.output.shape)
    y_steps = _steps(node.output.shape)
    lines, start = [], 0
    for index in range(len(node.inputs)):
        part = node.input(index)
        if y_steps[axis] == 1:
            lines += c_text.call(
                "kws_copy_rows_s8",
                model.input(node, index),
                model.rows(operators.row_count(part)),
                part.shape[-1],
                _plus(model.output(node), start),
                node.output.shape[-1],
            )
            start += part.shape[-1]
            continue
        lines += _copy(
            list(part.shape),
            (model.input(node, index), _steps(part.shape)),
            (_plus(model.output(node), start), y_steps),
        )
        start += part.shape[axis] * y_steps[axis]
    return lines


CALLS: dict[str, Callable[[Model, Node], list[str]]] = {
    "FULLY_CONNECTED": _fully_connected,
    "FULLY_CONNECTED_TRANSPOSED": _fully_connected_transposed,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "BATCH_MATMUL": _batch_matmul,
    "TRANSPOSE_TOKENS": _transpose_tokens,
    "SOFTMAX": _softmax,
    "ADD": _two_inputs("kws_add_s8", "kws_add_t", qm.add_parameters),
    "SUB": _two_inputs("kws_add_s8", "kws_add_t", qm.sub_parameters),
    "MUL": _two_inputs("kws_mul_s8", "kws_mul_t", qm.mul_parameters),
    "SQUARED_DIFFERENCE": _two_inputs(
        "kws_squared_difference_s8", "kws_add_t", qm.squared_difference_parameters
    ),
    "TABLE": _table,
    "TANH": _table,
    "LOGISTIC": _table,
    "HARD_SWISH": _table,
    "RELU": _table,
    "RELU6": _table,
    "RSQRT": _table,
    "QUANTIZE": _table,
    "MEAN": _mean,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "PAD": _pad,
    "GATHER": _gather,
    "HISTORY": _history,
    "HOLD": _hold,
    "CONCATENATION": _concatenation,
}


def call(model: Model, node: Node) -> list[str]:
    """The C of a node: of an operator here, or of one that a variant brings."""
    spec = operators.operator(node)
    if spec.call is not None:
        return spec.call(model, node)
    return CALLS[node.kind](model, node)
