"""Small int8 models, built here and run by TFLM's own interpreter on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite_micro
from tflite_micro.python.tflite_micro import runtime

schema = runtime.schema_fb
VERSION = tflite_micro.__version__

_TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}
ACTIVATIONS = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
    "relu_n1_to_1": schema.ActivationFunctionType.RELU_N1_TO_1,
}


@dataclass
class Tensor:
    """One tensor: its shape, its quantization, its constant data if it has some.

    Args:
        shape: Dimensions.
        scale: float32 scale, or several along `axis`; None for shape operands.
        zero_point: int8 zero point.
        axis: Of several scales.
        data: Constant values, or None for an input or a result.
    """

    shape: Sequence[int]
    scale: float | Sequence[float] | None = None
    zero_point: int = 0
    axis: int = 0
    data: np.ndarray | None = None


@dataclass
class Model:
    """Operators over tensors, in order; run with `run`."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[tuple[str, list[int], int, Any]] = field(default_factory=list)

    def tensor(self, *arguments: Any, **keywords: Any) -> int:
        """Add a Tensor; returns its index."""
        self.tensors.append(Tensor(*arguments, **keywords))
        return len(self.tensors) - 1

    def operator(self, kind: str, inputs: list[int], output: int, options: Any) -> int:
        """Add an operator, e.g. "ADD" with schema.AddOptionsT(); returns `output`."""
        self.operators.append((kind, inputs, output, options))
        return output

    def to_bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The .tflite file."""
        model = schema.ModelT()
        model.version = 3
        model.buffers = [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors = [self._tensor(model, tensor) for tensor in self.tensors]
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        graph.operators = []
        model.operatorCodes = []
        for kind, operands, output, options in self.operators:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = 4 if kind == "FULLY_CONNECTED" else 2
            model.operatorCodes.append(code)
            operator = schema.OperatorT()
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.inputs, operator.outputs = list(operands), [output]
            if options is not None:
                name = type(options).__name__.removesuffix("T")
                operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
                operator.builtinOptions = options
            graph.operators.append(operator)
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def _tensor(model: Any, tensor: Tensor) -> Any:
        packed = schema.TensorT()
        packed.shape = [int(size) for size in tensor.shape]
        packed.type = schema.TensorType.INT8
        if tensor.data is not None:
            packed.type = _TYPES[tensor.data.dtype]
            buffer = schema.BufferT()
            buffer.data = list(tensor.data.tobytes())
            model.buffers.append(buffer)
            packed.buffer = len(model.buffers) - 1
        if tensor.scale is not None:
            scales = np.atleast_1d(np.asarray(tensor.scale, np.float32))
            quantization = schema.QuantizationParametersT()
            quantization.scale = [float(scale) for scale in scales]
            quantization.zeroPoint = [tensor.zero_point] * len(scales)
            quantization.quantizedDimension = tensor.axis
            packed.quantization = quantization
        return packed

    def run(self, inputs: dict[int, np.ndarray], output: int) -> np.ndarray:
        """TFLM's answer.

        Args:
            inputs: int8 values per input tensor.
            output: The tensor asked for.
        """
        model = self.to_bytes(list(inputs), [output])
        interpreter = runtime.Interpreter.from_bytes(model, arena_size=4_000_000)
        for position, (index, values) in enumerate(inputs.items()):
            shape = tuple(self.tensors[index].shape)
            interpreter.set_input(values.astype(np.int8).reshape(shape), position)
        interpreter.invoke()
        return interpreter.get_output(0).copy()


def operator(
    kind: str,
    inputs: Sequence[tuple[np.ndarray, float, int]],
    output: tuple[Sequence[int], float, int],
    options: Any = None,
    constants: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """One operator on int8 inputs.

    Args:
        kind: The operator's name in the schema.
        inputs: (values, scale, zero point) each.
        output: (shape, scale, zero point).
        options: The schema's options object.
        constants: Operands that follow, e.g. MEAN's axes.

    Returns:
        int8 in the output's shape.
    """
    model = Model()
    indices = [model.tensor(values.shape, s, z) for values, s, z in inputs]
    operands = indices + [
        model.tensor(constant.shape, data=constant) for constant in constants
    ]
    result = model.tensor(*output)
    model.operator(kind, operands, result, options)
    return model.run(
        {i: values for i, (values, _, _) in zip(indices, inputs, strict=True)}, result
    )
