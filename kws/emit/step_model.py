"""A step of a stream as a stock .tflite, for an interpreter (DESIGN D15).

`kws.graph.stream` derives from the clip's graph what a step computes; here that is
written down again with TFLite's own operators. What is kept from step to step is a
resource variable, as in other streaming models for microcontrollers:

    VAR_HANDLE, READ_VARIABLE    the rows of the past
    CONCATENATION                and those of this step
    STRIDED_SLICE                the last of them
    ASSIGN_VARIABLE              are the next step's past

Until a first assignment, and after a reset, TensorFlow Lite Micro fills a variable with
its zero point, which is what the padding holds. The model is dense: an encoding lives
in kernels, not in the file (DESIGN D2).
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.errors import KwsError, need
from kws.graph import passes, reader, stream
from kws.graph.nodes import Node, Tensor
from kws.graph.stream import Stream

ALIGNMENT = 16  # of constants in the file
SCHEMA = "tensorflow/lite/micro/python/schema_py_generated.py"  # in tflite-micro
_VIEW = "RESHAPE"


@dataclass(frozen=True)
class StepModel:
    """What a step is, as a file.

    Args:
        data: The .tflite: int8 [1, step_frames, mel_bins] -> int8 [1, labels].
        stream: Its sizes.
        kinds: Its operators, by TFLite's names, in order.
        nodes: Of the step's graph, with HISTORY for what the file spells out.
        variables: Resource variables that it has.
        variable_bytes: What they hold.
    """

    data: bytes
    stream: Stream
    kinds: tuple[str, ...]
    nodes: tuple[Node, ...]
    variables: int
    variable_bytes: int


def build(data: bytes, source: str = "model.tflite") -> StepModel:
    """The step form of a clip's model.

    Args:
        data: A .tflite of a causal network.
        source: What to call it in messages.

    Raises:
        KwsError: it isn't a model that the native engine runs, or an operator sees what
            is to come (`kws.graph.stream`); `tflite-micro` is not installed.

    Example:
        >>> from kws import bundle
        >>> build(bundle.load("kwt-stream-tiny").model_bytes()).stream.step_frames
        2
    """
    need("tflite_micro", "The step form for TensorFlow Lite Micro")
    graph = reader.read(data, source)
    clip = list(graph.nodes)
    operands = [list(node.inputs) for node in clip]
    passes.drop_identities(graph)
    steps = stream.derive(graph)
    writer = _Writer(data)
    for node, inputs, stored in zip(clip, operands, writer.stored, strict=True):
        for tensor, index in zip(inputs, stored.inputs, strict=True):
            if tensor is not None:
                writer.known[id(tensor)] = writer.old[index]
        writer.known[id(node.output)] = writer.old[stored.outputs[0]]
        writer.made_by[id(node)] = stored
    for node in graph.nodes:
        writer.node(node)
    packed = writer.packed(graph.input, graph.output)
    return StepModel(
        packed,
        steps,
        tuple(writer.kinds),
        tuple(graph.nodes),
        writer.variables,
        writer.variable_bytes,
    )


@functools.cache
def _schema() -> Any:
    """The schema of PyPI `tflite`, with classes that can be written.

    By its path: `import tflite_micro` would load an interpreter, of no use here.
    """
    package = importlib.util.find_spec("tflite_micro")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / SCHEMA
    spec = importlib.util.spec_from_file_location("kws_tflite_schema", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Writer:
    """A model under construction, from the tables of another.

    Args:
        data: That other, which the reader has checked.
    """

    def __init__(self, data: bytes) -> None:
        self.schema = _schema()
        self.model = self.schema.ModelT.InitFromPackedBuf(data, 0)
        (self.graph,) = self.model.subgraphs
        self.old, self.stored = self.graph.tensors, self.graph.operators
        self.codes = [
            max(code.builtinCode, code.deprecatedBuiltinCode)
            for code in self.model.operatorCodes
        ]
        self.names = {
            value: name
            for name, value in vars(self.schema.BuiltinOperator).items()
            if isinstance(value, int)
        }
        self.known: dict[int, Any] = {}  # id(Tensor) -> its table in the clip's file
        self.made_by: dict[int, Any] = {}  # id(Node) -> its operator there
        self.indices: dict[int, int] = {}  # id(Tensor) -> its index here
        self.buffers: dict[bytes, int] = {}
        self.kinds: list[str] = []
        self.variables = self.variable_bytes = 0
        self.model.buffers, self.graph.tensors, self.graph.operators = [], [], []
        self.model.metadata = self.model.signatureDefs = None
        self.buffers[b""] = self._buffer(b"")

    def node(self, node: Node) -> None:
        """Write a node: as it was, with the shapes of a step, or what it stands for."""
        if node.kind == "HISTORY":
            self._history(node)
            return
        stored = self.made_by[id(node)]
        inputs = [-1 if t is None else self._tensor(t) for t in node.inputs]
        outputs = [self._tensor(node.output)]
        kind = self.names[self.codes[stored.opcodeIndex]]
        if node.kind != _VIEW:
            assert node.kind == kind
            self._operator(kind, inputs, outputs, stored)
            return
        # A view; or padding, or a slice, of which a step has none left.
        shape = np.array(node.output.shape, np.int32)
        inputs = [inputs[0], self._constant(shape)]
        self._operator(_VIEW, inputs, outputs, None, self.schema.ReshapeOptionsT())

    def _history(self, node: Node) -> None:
        new, kept = node.input(0), node.output
        axis = next(i for i, n in enumerate(kept.shape) if n != new.shape[i])
        shape = list(kept.shape)
        shape[axis] -= node.options["rows"]
        schema = self.schema
        assert kept.quantization is not None and kept.reset is not None
        if kept.reset != kept.zero_point:
            raise KwsError(
                "A resource variable starts as its zero point. Expected "
                f"{kept.zero_point} before the first frame. Received: {kept.reset} in "
                f"{kept}",
                "--engine native",
            )
        handle = self._add((), schema.TensorType.RESOURCE)
        handle_options = schema.VarHandleOptionsT()
        handle_options.container = ""
        handle_options.sharedName = str(self.variables)
        self._operator("VAR_HANDLE", [], [handle], None, handle_options)
        table = self.known[id(new)]
        past = self._add(tuple(shape), schema.TensorType.INT8, table)
        options = schema.ReadVariableOptionsT()
        self._operator("READ_VARIABLE", [handle], [past], None, options)
        joined = self._tensor(kept, table)
        concatenation = schema.ConcatenationOptionsT()
        concatenation.axis = axis
        parts = [past, self._tensor(new)]
        self._operator("CONCATENATION", parts, [joined], None, concatenation)
        begin = np.zeros(len(shape), np.int32)
        begin[axis] = node.options["rows"]
        bounds = [
            self._constant(begin),
            self._constant(np.array(kept.shape, np.int32)),
            self._constant(np.ones(len(shape), np.int32)),
        ]
        later = self._add(tuple(shape), schema.TensorType.INT8, table)
        slicing = schema.StridedSliceOptionsT()
        self._operator("STRIDED_SLICE", [joined, *bounds], [later], None, slicing)
        assigning = schema.AssignVariableOptionsT()
        self._operator("ASSIGN_VARIABLE", [handle, later], [], None, assigning)
        self.variables += 1
        self.variable_bytes += int(np.prod(shape))

    def _operator(
        self,
        kind: str,
        inputs: list[int],
        outputs: list[int],
        stored: Any,
        options: Any = None,
    ) -> None:
        made = self.schema.OperatorT()
        made.opcodeIndex = self._code(kind)
        made.inputs = np.array(inputs, np.int32)
        made.outputs = np.array(outputs, np.int32)
        if stored is not None:
            made.builtinOptionsType = stored.builtinOptionsType
            made.builtinOptions = stored.builtinOptions
        else:
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            made.builtinOptions = options
        self.graph.operators.append(made)
        self.kinds.append(kind)

    def _code(self, kind: str) -> int:
        number = getattr(self.schema.BuiltinOperator, kind)
        if number not in self.codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode, code.version = number, 1
            code.deprecatedBuiltinCode = min(number, 127)
            self.codes.append(number)
            self.model.operatorCodes.append(code)
        return self.codes.index(number)

    def _tensor(self, tensor: Tensor, like: Any = None) -> int:
        """The index of a tensor of the step's graph.

        Args:
            tensor: Of it.
            like: The clip's table with its quantization; None: it has one itself.
        """
        if id(tensor) not in self.indices:
            table = like or self.known.get(id(tensor))
            types = self.schema.TensorType
            kind = types.INT8 if tensor.dtype == "int8" else types.INT32
            raw = b""
            if tensor.data is not None:
                stored = tensor.data.dtype.newbyteorder("<")
                raw = tensor.data.astype(stored).tobytes()
            self.indices[id(tensor)] = self._add(tensor.shape, kind, table, raw)
        return self.indices[id(tensor)]

    def _constant(self, values: np.ndarray) -> int:
        raw = values.astype("<i4").tobytes()
        return self._add(values.shape, self.schema.TensorType.INT32, None, raw)

    def _add(
        self,
        shape: tuple[int, ...],
        kind: int,
        like: Any = None,
        raw: bytes = b"",
    ) -> int:
        made = self.schema.TensorT()  # without a name: flash for nothing
        made.type = kind
        made.shape = np.array(shape, np.int32)
        made.hasRank = True
        if like is not None:
            made.quantization = copy.copy(like.quantization)
        if raw not in self.buffers:
            self.buffers[raw] = self._buffer(raw)
        made.buffer = self.buffers[raw]
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def _buffer(self, raw: bytes) -> int:
        made = _aligned(self.schema)()
        made.data = raw or None
        self.model.buffers.append(made)
        return len(self.model.buffers) - 1

    def packed(self, source: Tensor, result: Tensor) -> bytes:
        """The file."""
        import flatbuffers

        self.graph.inputs = np.array([self._tensor(source)], np.int32)
        self.graph.outputs = np.array([self._tensor(result)], np.int32)
        used = sorted({operator.opcodeIndex for operator in self.graph.operators})
        for operator in self.graph.operators:
            operator.opcodeIndex = used.index(operator.opcodeIndex)
        codes = self.model.operatorCodes
        self.model.operatorCodes = [codes[index] for index in used]
        self.model.description = "a step of a stream"
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _aligned(schema: Any) -> Any:
    """BufferT, whose constants are aligned as the schema asks; its own Pack is not."""

    class Aligned(schema.BufferT):
        def Pack(self, builder: Any) -> int:
            data = None
            if self.data is not None:
                builder.StartVector(1, len(self.data), ALIGNMENT)
                for byte in reversed(self.data):
                    builder.PrependByte(byte)
                data = builder.EndVector()
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            end: int = schema.BufferEnd(builder)
            return end

    return Aligned
