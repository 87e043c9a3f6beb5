"""Conversion: trained weights to an int8 .tflite of stock operators, and its check.

The weights are baked onto their int8 grid, the graph of one clip is traced from them
and converted, then refused unless it is int8 throughout and made of operators that
TensorFlow Lite Micro and our kernels have. Then three machines run the same clips:

    keras       the fake-quantized network that was tuned
    tflite      TensorFlow Lite's reference kernels (BUILTIN_REF)
    tflm        TensorFlow Lite Micro on this machine: what the board equals bit for bit

tflite and tflm differ by rounding alone, and so does keras up to a step here and
there; what is larger means that the graph is not the network, and fails. Every operator
is also compared by itself, keras on the very inputs that it had in tflite and in tflm:
there one step is all that rounding explains, and the first operator further apart is
the one at fault.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws import bundle as bundles
from kws.bundle import Bundle
from kws.errors import CheckFailed, KwsError, quoted
from kws.recipe import Features, Recipe

if TYPE_CHECKING:
    from kws.data import Sources

REPORT = "conversion.json"
# Tolerances of the check. From equal inputs, an operator of TFLite or TFLM rounds to
# at most one step beside the network; a wrong weight, scale or operator does not. Over
# a whole run single steps add up, and a steep tanh behind a wide residual makes ten of
# one (DESIGN D3): so at the logits the mean is judged.
OPERATOR_STEPS = 1
MEAN_STEPS = 2.0
SAME_LABEL = 0.985  # or all clips but one: of few, one whose labels tie is more
CHECK_CLIPS = 200
# The comparison operator by operator walks every tensor of two runs: fewer clips.
LAYER_CLIPS = 16
# Steps of a tensor that the .tflite does not have.
NO_TENSOR = 255

# What a training measured with ranges that a calibration replaces.
OF_RANGES = ("val_accuracy_ptq", "val_accuracy_qat", "epoch_qat")

# Operators that hand on their input's values and its quantization.
MOVERS = ("RESHAPE", "PAD", "STRIDED_SLICE", "CONCATENATION")

WAYS_OUT = {
    "GELU": "Use kws.layers.Activation('gelu'): x * sigmoid(1.702 x)",
    "ERF": "Use kws.layers.Activation('gelu'): x * sigmoid(1.702 x)",
    "REDUCE_PROD": "Give every tf.reshape a static shape (batch 1)",
    "SHAPE": "Give every tf.reshape a static shape (batch 1)",
    "SQRT": "Use tf.math.rsqrt",
    "DIV": "Multiply by tf.math.rsqrt or by a constant",
    "POW": "Multiply the tensor by itself",
    "DEQUANTIZE": "Put a Quantizer behind the layer, so that its output has a range",
    "QUANTIZE": "Give both sides of the layer the same Quantizer",
}


@dataclass(frozen=True)
class Operation:
    """One operator of a .tflite: its kind, and its output tensor's name and type."""

    kind: str
    layer: str
    types: tuple[str, ...]


def convert(bundle: Bundle, tuned: Any, clips: np.ndarray) -> Bundle:
    """Convert, check, and write weights, model.tflite and report into the bundle.

    Where the check does not hold, the report is all that is written.

    Args:
        bundle: The bundle; its recipe and labels are used.
        tuned: The network in mode `qat`.
        clips: Features int8 [N, frames, mel_bins] to check on.

    Returns:
        The bundle with metrics["conversion"].

    Raises:
        KwsError: the network can't be deployed: names layer, operator and way out.
        CheckFailed: the three differ by more than rounding does.
    """
    from kws.model import network as networks

    recipe, labels = bundle.recipe, len(bundle.labels)
    for quantizer in networks.activation_quantizers(tuned):
        quantizer.widen()
    exported = networks.build(recipe, labels, "export")
    networks.copy_weights(tuned, exported)
    model = to_tflite(exported, recipe.features)
    report = three_way(tuned, model, recipe, clips)
    summary = {key: value for key, value in report.items() if key != "layers"}
    bundle = dataclasses.replace(
        bundle, metrics=bundle.metrics | {"conversion": summary}
    )
    text = json.dumps(report, indent=1) + "\n"
    bundles.write_atomic(bundle.path / REPORT, text.encode())
    if not report["holds"]:
        raise _refusal(report, bundle.path / REPORT)
    networks.save_weights(tuned, bundle)
    bundles.write_atomic(bundle.model_path, model)
    bundles.save(bundle)
    return bundle


def _refusal(report: dict[str, Any], path: Path) -> CheckFailed:
    faults = [
        f"{row['layer']} ({row['operator'] or 'no such tensor'}) {row['most_steps']}"
        for row in report["layers"]
        if row["most_steps"] > OPERATOR_STEPS
    ]
    hint = f"See the layers in {path}; "
    if faults:
        hint += "a fault of the converter or of kws: please report it."
    else:
        hint += (
            "a longer training (--epochs, --qat-epochs) or more calibration clips "
            "([quantize] calibration_clips) usually help."
        )
    return CheckFailed(
        "The converted model is not the trained network. Expected every operator at "
        f"most {OPERATOR_STEPS} int8 step from the network on the same inputs, logits "
        f"at most {MEAN_STEPS} steps apart on average, and the same label on "
        f"{100 * SAME_LABEL} % of clips, or on all but one. Received: "
        f"{describe(report)}; operators further apart, in steps: "
        f"{', '.join(faults[:5]) or 'none'}",
        hint,
    )


def to_tflite(exported: Any, features: Features) -> bytes:
    """The int8 flatbuffer of a network in mode `export`.

    Raises:
        KwsError: it can't be converted, or not to what the board runs.
    """
    from kws.layers.keras import tf

    shape = (1, features.frames, features.mel_bins)
    function = tf.function(
        lambda x: exported(x, training=False),
        autograph=False,
        input_signature=[tf.TensorSpec(shape, tf.float32, name="features")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    try:
        model = converter.convert()
    except Exception as error:  # the converter's own errors have no common type
        reason = str(error).strip().splitlines()
        raise KwsError(
            "TensorFlow Lite can't convert the network. Received: "
            f"{reason[0] if reason else type(error).__name__}",
            "Use operators that TFLite has as builtins (kws/graph/operators.py).",
        ) from error
    assert_deployable(model, features)
    return model


def operations(model: bytes) -> list[Operation]:
    """The operators of a .tflite in order of execution."""
    import tflite

    codes = {
        code: name
        for name, code in vars(tflite.BuiltinOperator).items()
        if isinstance(code, int)
    }
    types = {
        code: name.lower()
        for name, code in vars(tflite.TensorType).items()
        if isinstance(code, int)
    }
    table = tflite.Model.GetRootAs(model, 0)
    graph = table.Subgraphs(0)
    found = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = table.OperatorCodes(operator.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = codes.get(number, f"operator {number}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {(code.CustomCode() or b'?').decode(errors='replace')}"
        tensors = [graph.Tensors(operator.Outputs(0))]
        tensors += [
            graph.Tensors(operator.Inputs(i))
            for i in range(operator.InputsLength())
            if operator.Inputs(i) >= 0
        ]
        layer = (tensors[0].Name() or b"?").decode(errors="replace").split(";")[0]
        names = tuple(types.get(t.Type(), str(t.Type())) for t in tensors)
        found.append(Operation(kind, layer, names))
    return found


def assert_deployable(model: bytes, features: Features | None = None) -> None:
    """Refuse a .tflite that the board can't run.

    Args:
        model: The flatbuffer (of our converter: it is not checked for damage).
        features: Where given, input scale and zero point have to be exactly these.

    Raises:
        KwsError: a foreign operator, a float tensor, another input.
    """
    import tflite

    from kws.graph.operators import OPERATORS

    for operation in operations(model):
        if operation.kind not in OPERATORS:
            raise KwsError(
                f"Layer {operation.layer} became the operator {operation.kind}, which "
                f"the board has no kernel for. Expected: {', '.join(OPERATORS)}.",
                WAYS_OUT.get(operation.kind, "Build the layer from those operators."),
            )
        foreign = [t for t in operation.types if t not in ("int8", "int32")]
        if foreign:
            raise KwsError(
                f"Layer {operation.layer} ({operation.kind}) is not int8. Expected "
                f"int8 tensors only. Received: {foreign[0]}",
                "Put a Quantizer behind every activation of the layer (kws/layers).",
            )
    if features is None:
        return
    graph = tflite.Model.GetRootAs(model, 0).Subgraphs(0)
    tensor = graph.Tensors(graph.Inputs(0))
    scale = float(tensor.Quantization().Scale(0))
    zero_point = int(tensor.Quantization().ZeroPoint(0))
    expected = (features.scale, features.zero_point)
    if not math.isclose(scale, expected[0], rel_tol=1e-6) or zero_point != expected[1]:
        raise KwsError(
            f"The model's input is not the recipe's features: expected scale and zero "
            f"point {expected}. Received: {(scale, zero_point)}",
            "Convert again: kws convert RUN",
        )


def three_way(
    tuned: Any, model: bytes, recipe: Recipe, clips: np.ndarray
) -> dict[str, Any]:
    """Run the same clips through keras, tflite and tflm, and compare.

    Args:
        tuned: The network in mode `qat`.
        model: Its .tflite.
        recipe: Its features and model sections are used.
        clips: Features int8 [N, frames, mel_bins].

    Returns:
        {clips, tolerance, pairs: {name: {most_steps, mean_steps, equal, same_label}},
        operators, bytes, worst_layer, layers: [{layer, operator, tensor, most_steps,
        apart}], holds}; steps are int8 steps of the tensor at hand.
    """
    from kws.model import network as networks

    clips = clips[:CHECK_CLIPS]
    tflite = TfliteRunner(model)
    runners: dict[str, Any] = {"tflite": tflite, "tflm": TflmRunner(model)}
    scale, zero_point = tflite.output_quantization
    keras = networks.predictor(tuned, recipe)(clips)
    logits = {"keras": np.rint(keras / scale) + zero_point}
    for name, runner in runners.items():
        logits[name] = np.stack([runner.run(clip) for clip in clips])
    pairs = {
        f"{a}-{b}": _compare(logits[a], logits[b])
        for a, b in (("keras", "tflite"), ("tflite", "tflm"), ("keras", "tflm"))
    }
    layers = _layers(tuned, recipe, clips[:LAYER_CLIPS], runners)
    worst = max(layers, key=lambda row: (row["most_steps"], row["apart"]))
    all_but_one = _share(len(clips) - 1, len(clips))
    holds = worst["most_steps"] <= OPERATOR_STEPS and all(
        pair["mean_steps"] <= MEAN_STEPS
        and pair["same_label"] >= min(SAME_LABEL, all_but_one)
        for pair in pairs.values()
    )
    return {
        "clips": len(clips),
        "tolerance": {
            "operator_steps": OPERATOR_STEPS,
            "mean_steps": MEAN_STEPS,
            "same_label": SAME_LABEL,
        },
        "pairs": pairs,
        "operators": dict(collections.Counter(o.kind for o in operations(model))),
        "bytes": len(model),
        "holds": bool(holds),
        "worst_layer": {key: worst[key] for key in ("layer", "most_steps")},
        "layers": layers,
    }


def describe(report: dict[str, Any]) -> str:
    """The report's verdict in one line."""
    return "; ".join(
        f"{name}: {pair['mean_steps']} steps apart on average, the same label on "
        f"{100 * pair['same_label']:.1f} % of {report['clips']}"
        for name, pair in report["pairs"].items()
    )


class TfliteRunner:
    """TensorFlow Lite with its reference kernels, all tensors kept.

    Args:
        model: An int8 flatbuffer of batch 1.
    """

    def __init__(self, model: bytes) -> None:
        from kws.layers.keras import tf

        self.interpreter = tf.lite.Interpreter(
            model_content=model,
            experimental_op_resolver_type=(
                tf.lite.experimental.OpResolverType.BUILTIN_REF
            ),
            experimental_preserve_all_tensors=True,
        )
        self.interpreter.allocate_tensors()
        self._input = self.interpreter.get_input_details()[0]["index"]
        self._output = self.interpreter.get_output_details()[0]

    @property
    def output_quantization(self) -> tuple[float, int]:
        """(scale, zero point) of the logits."""
        scale, zero_point = self._output["quantization"]
        return float(scale), int(zero_point)

    def run(self, clip: np.ndarray) -> np.ndarray:
        """int8 [frames, mel_bins] -> int8 [labels]."""
        self.interpreter.set_tensor(self._input, clip[None])
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self._output["index"])[0]

    def tensor(self, index: int) -> np.ndarray:
        """A tensor's value after `run`."""
        return self.interpreter.get_tensor(index)

    def activations(self) -> list[dict[str, Any]]:
        """Details of the input and the operators' outputs, in order of execution."""
        details = {d["index"]: d for d in self.interpreter.get_tensor_details()}
        outputs = [
            details[int(operator["outputs"][0])] | {"operator": operator["op_name"]}
            for operator in self.interpreter._get_ops_details()
        ]
        return [details[self._input] | {"operator": "INPUT"}, *outputs]


class TflmRunner:
    """TensorFlow Lite Micro on this machine (PyPI tflite-micro), all tensors kept."""

    def __init__(self, model: bytes) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self.interpreter = runtime.Interpreter.from_bytes(
            model,
            arena_size=max(1 << 22, 12 * len(model)),
            intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
        )

    def run(self, clip: np.ndarray) -> np.ndarray:
        """int8 [frames, mel_bins] -> int8 [labels]."""
        self.interpreter.set_input(np.ascontiguousarray(clip[None]), 0)
        self.interpreter.invoke()
        return self.interpreter.get_output(0)[0]

    def tensor(self, index: int) -> np.ndarray:
        """A tensor's value after `run`."""
        return self.interpreter.GetTensor(index, 0)["tensor_data"]


def _compare(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    steps = np.abs(a.astype(np.int32) - b.astype(np.int32))
    return {
        "most_steps": int(steps.max()),
        "mean_steps": round(float(steps.mean()), 4),
        "equal": round(float((steps == 0).mean()), 4),
        "same_label": _share(int((a.argmax(-1) == b.argmax(-1)).sum()), len(a)),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4)


def _layers(
    tuned: Any, recipe: Recipe, clips: np.ndarray, runners: dict[str, Any]
) -> list[dict[str, Any]]:
    """Compare each operator by itself, in tflite and in tflm: see `_forced`.

    Returns:
        Per quantizer, in order: layer, operator and tensor of the .tflite, most_steps
        apart, and the share of elements that are `apart`: the larger one's of the two.
    """
    rows: dict[str, dict[str, Any]] = {}
    activations = runners["tflite"].activations()
    for runner in runners.values():
        values: dict[int, list[np.ndarray]] = {d["index"]: [] for d in activations}
        for clip in clips:
            runner.run(clip)
            for index, kept in values.items():
                kept.append(runner.tensor(index).flatten())
        tensors = {index: np.stack(kept) for index, kept in values.items()}
        for name, match, steps in _forced(tuned, recipe, clips, activations, tensors):
            row = rows.setdefault(name, {"layer": name, "most_steps": 0, "apart": 0.0})
            row["operator"] = match and match["operator"]
            row["tensor"] = match and match["name"].split(";")[0]
            row["most_steps"] = max(row["most_steps"], int(steps.max()))
            row["apart"] = round(max(row["apart"], float((steps > 0).mean())), 4)
    return list(rows.values())


def _forced(
    tuned: Any,
    recipe: Recipe,
    clips: np.ndarray,
    activations: list[dict[str, Any]],
    tensors: dict[int, np.ndarray],
) -> list[tuple[str, dict[str, Any] | None, np.ndarray]]:
    """Run the network on what another machine made of the clips, tensor by tensor.

    Every quantizer's output is replaced by the tensor that stands for it, so each
    operator of the .tflite is compared with the network's on its own inputs: errors do
    not add up on the way, and a wrong one shows where it is.

    Args:
        tuned: The network in mode `qat`.
        recipe: Its features section is used.
        clips: int8 [N, frames, mel_bins].
        activations: See `TfliteRunner.activations`.
        tensors: Index -> int8 [N, elements], what the other machine made.

    Returns:
        Per quantizer, in order: its path, the tensor's details (None where the .tflite
        has none of its scale, zero point and size), and how many int8 steps its
        elements are apart.
    """
    from kws.layers import Quantizer
    from kws.layers.keras import tf

    spec = recipe.features
    real = (clips.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    names = _paths(tuned)
    used: set[int] = set()
    found: list[tuple[str, dict[str, Any] | None, np.ndarray]] = []

    def swap(quantizer: Any, outputs: Any) -> Any:
        scale, zero_point = quantizer.grid()
        own = np.rint(outputs.numpy() / scale) + zero_point
        fitting = []
        for details in _fitting(activations, used, scale, zero_point, own[0].size):
            theirs = tensors[details["index"]].reshape(own.shape)
            fitting.append((details, theirs, np.abs(theirs - own)))
        if not fitting:
            found.append((names[id(quantizer)], None, np.array([NO_TENSOR])))
            return outputs
        # Heads, say, have several of one scale and size: theirs is the closest.
        details, theirs, steps = min(fitting, key=lambda item: item[2].mean())
        used.add(details["index"])
        found.append((names[id(quantizer)], details, steps))
        return tf.constant((theirs - np.float32(zero_point)) * np.float32(scale))

    Quantizer.watcher = swap
    try:
        tuned(tf.constant(real))
    finally:
        Quantizer.watcher = None
    return found


def _fitting(
    activations: list[dict[str, Any]],
    used: set[int],
    scale: float,
    zero_point: int,
    size: int,
) -> list[dict[str, Any]]:
    """Tensors that a quantizer may stand for. One that an operator only moved is taken
    where there is no other."""
    found = [
        details
        for details in activations
        if details["index"] not in used
        and math.isclose(details["quantization"][0], scale, rel_tol=1e-5)
        and details["quantization"][1] == zero_point
        and math.prod(int(n) for n in details["shape"]) == size
    ]
    return [d for d in found if d["operator"] not in MOVERS] or found


def _paths(network: Any) -> dict[int, str]:
    """id -> `block0/attention/head0/scores` of every layer."""
    paths: dict[int, str] = {}

    def walk(layer: Any, prefix: str) -> None:
        path = f"{prefix}{layer.name}"
        paths[id(layer)] = path
        for part in layer._flatten_layers(recursive=False, include_self=False):
            walk(part, path + "/")

    for layer in network.layers:
        walk(layer, "")
    return paths


def check_clips(bundle: Bundle, sources: Sources | None = None) -> np.ndarray:
    """Features to check a conversion on: the run's own, else of training clips.

    Args:
        bundle: The run.
        sources: Take training clips from there.

    Returns:
        int8 [N, frames, mel_bins].
    """
    from kws import data, features, quantize

    recipe, given = bundle.recipe, sources or data.Sources()
    stored = quantize.stored_calibration(bundle.path, recipe)
    if stored is not None and given == data.Sources():
        return stored
    folders = data.of_run(bundle, given.data, given.also)
    clips = data.load(
        "train",
        recipe.task,
        folders.data,
        recipe.train.seed,
        recipe.quantize.calibration_clips,
        folders.also,
        repeat=True,
    )
    return features.of_clips(clips.pcm, recipe.features)


def convert_run(run: Path, sources: Sources | None = None, ptq: bool = False) -> Bundle:
    """Convert a run from its weights.h5.

    Args:
        run: The bundle's folder.
        sources: Folders of clips, where calibration or the check needs some; None:
            those that the run was trained on, else the usual places.
        ptq: Calibrate the activation ranges anew. A bundle whose ranges were never
            set (an imported one) is calibrated whether asked for or not.

    Returns:
        The converted bundle.

    Raises:
        KwsError: no weights, no clips, a shipped run; CheckFailed: the check did not
            hold.
    """
    bundle = bundles.load(str(run), accept_changed=True)
    if bundle.shipped:
        name = bundle.path.name
        raise KwsError(
            "The model is written into the run, and a shipped one stays as it is. "
            f"Expected a run of your own. Received: {name}",
            f"{bundle.copy_command} && kws convert runs/{name}",
        )
    clips = check_clips(bundle, sources)

    from kws import quantize
    from kws.model import network as networks

    folded = networks.restore(bundle)
    anew = ptq or not networks.calibrated(folded)
    if anew:
        quantize.calibrate(folded, bundle.recipe, clips)
        facts = bundle.metrics.get("train", {})
        facts = {key: value for key, value in facts.items() if key not in OF_RANGES}
        metrics = bundle.metrics | ({"train": facts} if facts else {})
        bundle = dataclasses.replace(bundle, metrics=metrics)
    tuned = networks.build(bundle.recipe, len(bundle.labels), "qat")
    networks.copy_weights(folded, tuned)
    bundle = convert(bundle, tuned, clips)
    if anew and bundle.thresholds:
        print(
            "Kept: the delta thresholds, which count in steps of the ranges before. "
            f"Choose them anew: kws sweep {quoted(bundle.path)}",
            file=sys.stderr,
        )
    return bundle
