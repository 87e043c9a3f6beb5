"""Read a .tflite into a typed graph. The file may be broken, foreign or hostile.

Reading is done with the flatbuffers schema's own Python classes (PyPI `tflite`), no
TensorFlow. Every length is bounded before it is looped over, every index is checked
before it is used, and whatever else goes wrong inside a mangled file is turned into
one `KwsError`. After `read` returns, all shapes agree with each other: later stages
run without checks (DESIGN D12).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from kws.errors import KwsError
from kws.graph import operators
from kws.graph.nodes import Graph, Node, Quantization, Tensor

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TENSORS = 20_000
MAX_OPERATORS = 4_000
MAX_RANK = 6
MAX_ELEMENTS = 1 << 24
MAX_NAME = 200

_CONVERT = "kws convert RUN   (keeps to the supported operators)"


# The flatbuffers runtime has no verifier: a wrong offset shows as any of these.
DAMAGE = (
    struct.error,
    ValueError,
    IndexError,
    TypeError,
    OverflowError,
    AttributeError,
    AssertionError,
    MemoryError,
)


class _Broken(Exception):
    """The file contradicts itself; told to the user by `read`."""


def read(data: bytes, source: str = "model.tflite") -> Graph:
    """Parse and check a whole int8 model.

    Args:
        data: The file's bytes.
        source: What to call it in messages.

    Returns:
        The graph as stored: no pass has run.

    Raises:
        KwsError: not a .tflite, truncated, inconsistent, too large, or with operators,
            types or shapes that the native engine doesn't run. All unsupported
            operators are listed in one message.

    Example:
        >>> from kws import bundle
        >>> read(bundle.load("kwt-tiny").model_bytes()).output.shape
        (1, 10)
    """
    if len(data) > MAX_FILE_BYTES:
        raise KwsError(
            f"The model is larger than {MAX_FILE_BYTES} bytes. "
            f"Received: {len(data)} bytes in {source}",
            "Train a smaller network: kws train --preset kwt-tiny --out runs/tiny",
        )
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise KwsError(
            "Not a TensorFlow Lite model: expected a flatbuffer with the identifier "
            f"TFL3. Received: {len(data)} bytes in {source}",
            "kws convert RUN   (makes one of a run)",
        )
    try:
        return _Reader(data).graph()
    except _Broken as error:
        raise KwsError(
            f"The .tflite is broken or not supported: {error} Received: {source}",
            _CONVERT,
        ) from None
    except KwsError as error:
        raise KwsError(f"{error.message} Received: {source}", error.hint) from None
    except DAMAGE as error:
        raise KwsError(
            f"The .tflite is broken: its structure leads outside the file "
            f"({type(error).__name__}). Received: {source}",
            "Copy the file again, or convert again: kws convert RUN",
        ) from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        import tflite

        self.left = 4 * len(data)
        self.schema = tflite
        self.model = tflite.Model.GetRootAs(data, 0)
        self.kinds = _enum_names(tflite.BuiltinOperator)
        self.types = {
            value: name.lower()
            for value, name in _enum_names(tflite.TensorType).items()
        }

    def graph(self) -> Graph:
        model = self.model
        if model.Version() != 3:
            raise _Broken(f"schema version is {model.Version()}, expected 3.")
        subgraphs = self.count(model.SubgraphsLength(), 64, "subgraphs")
        if subgraphs != 1:
            raise _Broken(
                f"expected one subgraph (no control flow), found {subgraphs}."
            )
        subgraph = model.Subgraphs(0)
        codes = self.operator_codes()
        tensors = self.tensors(subgraph)
        nodes = self.nodes(subgraph, codes, tensors)
        inputs = self.indices(subgraph.InputsLength(), subgraph.Inputs, tensors)
        outputs = self.indices(subgraph.OutputsLength(), subgraph.Outputs, tensors)
        if len(inputs) != 1 or len(outputs) != 1:
            raise _Broken(
                f"expected one input and one output, found {len(inputs)} and "
                f"{len(outputs)}."
            )
        source, result = inputs[0], outputs[0]
        assert source is not None and result is not None
        return _checked(Graph(nodes, source, result))

    def count(self, length: int, limit: int, what: str) -> int:
        """A length, checked. All of them together stay within the file, read a few
        times over: vectors that share their bytes could ask for hours and terabytes."""
        most = min(limit, self.left)
        if not 0 <= length <= most:
            raise _Broken(f"{length} {what}, more than {most}.")
        self.left -= length
        return length

    def operator_codes(self) -> list[str]:
        codes = []
        length = self.model.OperatorCodesLength()
        for i in range(self.count(length, MAX_OPERATORS, "operator codes")):
            code = self.model.OperatorCodes(i)
            # Files from before schema 3a keep small codes in the deprecated byte.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            kind = self.kinds.get(number, f"operator {number}")
            if kind == "CUSTOM":
                kind = f"CUSTOM {_text(code.CustomCode())!r}"
            codes.append(kind)
        return codes

    def tensors(self, subgraph: Any) -> list[Tensor]:
        buffers = self.count(self.model.BuffersLength(), 2 * MAX_TENSORS, "buffers")
        arrays: dict[tuple[int, str, tuple[int, ...]], np.ndarray] = {}
        tensors = []
        for i in range(self.count(subgraph.TensorsLength(), MAX_TENSORS, "tensors")):
            stored = subgraph.Tensors(i)
            name = _text(stored.Name()) or f"tensor {i}"
            rank = self.count(stored.ShapeLength(), MAX_RANK, f"dimensions of {name}")
            shape = tuple(int(stored.Shape(j)) for j in range(rank))
            signature = stored.ShapeSignatureLength()
            dynamic = [
                stored.ShapeSignature(j) for j in range(self.count(signature, 8, name))
            ]
            if any(dim < 1 for dim in shape) or any(dim < 0 for dim in dynamic):
                raise _Broken(f"{name} has no fixed shape ({list(shape)}).")
            if math.prod(shape) > MAX_ELEMENTS:
                raise _Broken(f"{name} has more than {MAX_ELEMENTS} elements.")
            dtype = self.types.get(stored.Type(), f"type {stored.Type()}")
            if stored.IsVariable() or stored.Sparsity() is not None:
                raise _Broken(f"{name} is a variable or sparse tensor.")
            if not 0 <= stored.Buffer() < buffers:
                raise _Broken(f"{name} names buffer {stored.Buffer()} of {buffers}.")
            tensor = Tensor(name, shape, dtype, self.quantization(stored, name, shape))
            if dtype in ("int8", "int32"):
                key = (stored.Buffer(), dtype, shape)
                if key not in arrays:
                    array = self.array(stored.Buffer(), tensor)
                    if array is not None:
                        arrays[key] = array
                tensor.data = arrays.get(key)
            tensors.append(tensor)
        return tensors

    def array(self, index: int, tensor: Tensor) -> np.ndarray | None:
        """The constant in a buffer; tensors on one buffer share one array."""
        buffer = self.model.Buffers(index)
        if buffer.Offset() > 1:
            raise _Broken(f"{tensor.name} is stored outside the flatbuffer.")
        length = self.count(
            buffer.DataLength(), MAX_FILE_BYTES, f"bytes in the buffer of {tensor.name}"
        )
        if length == 0:
            return None
        if length != tensor.bytes:
            raise _Broken(
                f"{tensor.name} needs {tensor.bytes} bytes and its buffer has {length}."
            )
        stored = np.asarray(buffer.DataAsNumpy(), dtype=np.uint8)
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        return (
            np.frombuffer(stored.tobytes(), dtype)
            .astype(tensor.dtype)
            .reshape(tensor.shape)
        )

    def quantization(
        self, stored: Any, name: str, shape: tuple[int, ...]
    ) -> Quantization | None:
        table = stored.Quantization()
        if table is None or table.ScaleLength() == 0:
            return None
        if table.DetailsType() != 0:
            raise _Broken(f"{name} has a custom quantization.")
        length = self.count(table.ScaleLength(), MAX_ELEMENTS, f"scales of {name}")
        scales = tuple(float(table.Scale(i)) for i in range(length))
        zeros = self.count(table.ZeroPointLength(), MAX_ELEMENTS, "zero points")
        zero_points = tuple(int(table.ZeroPoint(i)) for i in range(zeros))
        zero_points = zero_points or (0,) * length
        axis = table.QuantizedDimension()
        if not all(math.isfinite(scale) and scale > 0 for scale in scales):
            raise _Broken(f"{name} has a scale that is not a positive number.")
        if len(zero_points) != length:
            raise _Broken(f"{name} has {length} scales and {zeros} zero points.")
        if length > 1 and not (0 <= axis < len(shape) and shape[axis] == length):
            raise _Broken(f"{name} has {length} scales along axis {axis} of {shape}.")
        return Quantization(scales, zero_points, axis if length > 1 else 0)

    def indices(
        self, length: int, get: Callable[[int], int], tensors: list[Tensor]
    ) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for i in range(self.count(length, 64, "operands")):
            index = get(i)
            if not -1 <= index < len(tensors):
                raise _Broken(f"tensor index {index} of {len(tensors)}.")
            found.append(None if index == -1 else tensors[index])
        return found

    def nodes(
        self, subgraph: Any, codes: list[str], tensors: list[Tensor]
    ) -> list[Node]:
        nodes = []
        unsupported = []
        length = subgraph.OperatorsLength()
        for i in range(self.count(length, MAX_OPERATORS, "operators")):
            stored = subgraph.Operators(i)
            if not 0 <= stored.OpcodeIndex() < len(codes):
                raise _Broken(f"operator {i} has code {stored.OpcodeIndex()}.")
            kind = codes[stored.OpcodeIndex()]
            inputs = self.indices(stored.InputsLength(), stored.Inputs, tensors)
            outputs = self.indices(stored.OutputsLength(), stored.Outputs, tensors)
            where = outputs[0].name if outputs and outputs[0] else f"operator {i}"
            if kind not in operators.OPERATORS:
                unsupported.append(f"{kind} at {where!r}")
                continue
            floats = sorted(
                {t.dtype for t in inputs + outputs if t is not None} - {"int8", "int32"}
            )
            if floats:
                unsupported.append(f"{kind} on {', '.join(floats)} at {where!r}")
                continue
            if len(outputs) != 1 or outputs[0] is None:
                raise _Broken(f"{kind} at {where!r} has {len(outputs)} outputs.")
            nodes.append(Node(kind, inputs, outputs[0], self.options(stored, kind)))
        if unsupported:
            raise KwsError(
                f"{len(unsupported)} operators can't be run by the native engine: "
                f"{'; '.join(unsupported[:50])}. Expected int8 and only: "
                f"{', '.join(sorted(operators.OPERATORS))}.",
                "kws convert RUN   (int8; GELU as x * sigmoid(1.702 x); or replace "
                "those layers)",
            )
        return nodes

    def options(self, stored: Any, kind: str) -> dict[str, Any]:
        spec = operators.OPERATORS[kind]
        if spec.options_type is None or stored.BuiltinOptionsType() == 0:
            return dict.fromkeys(spec.options, 0) | spec.defaults
        expected = getattr(self.schema.BuiltinOptions, spec.options_type)
        table = stored.BuiltinOptions()
        if stored.BuiltinOptionsType() != expected or table is None:
            raise _Broken(f"{kind} has options of another operator.")
        options = getattr(self.schema, spec.options_type)()
        options.Init(table.Bytes, table.Pos)
        return {name: getattr(options, name)() for name in spec.options}


def _checked(graph: Graph) -> Graph:
    """Order, types, quantization and shapes of the whole graph."""
    known = {id(graph.input)}
    if graph.input.is_constant:
        raise _Broken("the input is a constant.")
    for node in graph.nodes:
        for tensor in node.variables:
            if id(tensor) not in known:
                raise _Broken(f"{node.kind} at {node.name!r} reads {tensor} too early.")
        if not node.variables:
            raise _Broken(f"{node.kind} at {node.name!r} reads constants only.")
        if id(node.output) in known or node.output.is_constant:
            raise _Broken(f"{node.output} is computed twice.")
        operators.check(node)
        known.add(id(node.output))
    if id(graph.output) not in known or graph.output is graph.input:
        raise _Broken("nothing computes the output.")
    for tensor in (graph.input, graph.output):
        if tensor.dtype != "int8":
            raise _Broken(f"{tensor} is {tensor.dtype}, expected int8.")
    return graph


def _enum_names(enum: type) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enum).items()
        if isinstance(value, int) and not name.startswith("_")
    }


def _text(value: bytes | None) -> str:
    """A name from the file, printable and short: it goes to terminals and into C."""
    text = (value or b"")[:MAX_NAME].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)
