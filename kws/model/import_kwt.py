"""Import a published Keyword Transformer: a float .tflite becomes a bundle of ours.

The file is one graph from samples to logits: a spectrum by two matrices, mel,
logarithm, cosine transform, dense layer, class token and positions, N post-norm blocks
with tanh-approximated GELU, dense layer. Its operators have to be exactly those, in
that order, and every constant has to have the shape that its neighbours ask for; the
front end has to be the one of our features. Then its weights go into our network, and
both are run on the same clips: the import counts only where the logits agree.

The file may be broken, foreign or hostile: every length and index is checked before it
is used, and TensorFlow Lite sees the file only after its structure has been read here.

Source of the file: github.com/ARM-software/keyword-transformer, Berg et al. 2021.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import recipe as recipes
from kws.bundle import Bundle
from kws.data.speech_commands import labels
from kws.errors import CheckFailed, KwsError, quoted
from kws.graph.reader import DAMAGE
from kws.recipe import Features, Recipe, Task

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 20_000
MAX_RANK = 6
LABELS = labels(Task("gsc12"))
TOLERANCE = 1e-3
CHECK_CLIPS = 8


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Operators that only lay data out anew.
LAYOUT = {"RESHAPE", "TRANSPOSE", "STRIDED_SLICE", "GATHER"}
FRONT_END = _names(
    "MUL FULLY_CONNECTED MUL FULLY_CONNECTED MUL ADD SQRT FULLY_CONNECTED MAXIMUM LOG "
    "FULLY_CONNECTED SUB MUL"
)
EMBEDDING = _names("FULLY_CONNECTED CONCATENATION ADD")
ATTENTION = _names(
    "FULLY_CONNECTED FULLY_CONNECTED FULLY_CONNECTED MUL SOFTMAX FULLY_CONNECTED "
    "FULLY_CONNECTED FULLY_CONNECTED ADD"
)
LAYER_NORM = _names("MEAN SQUARED_DIFFERENCE MEAN ADD RSQRT MUL MUL MUL SUB ADD")
MLP = _names("FULLY_CONNECTED POW MUL ADD MUL TANH ADD MUL MUL FULLY_CONNECTED ADD")
HEAD = _names("FULLY_CONNECTED")

_HINT = (
    "Fetch models_data_v2_12_labels/kwt1/tflite_non_stream/non_stream.tflite from "
    "github.com/ARM-software/keyword-transformer"
)


@dataclass(frozen=True)
class Operator:
    """One operator: its name, and per input the constant, or None where computed."""

    name: str
    constants: tuple[np.ndarray | None, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class BlockWeights:
    """Weights of one block; kernels are (in, out)."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
    norm1: tuple[np.ndarray, np.ndarray]
    expand: np.ndarray
    expand_bias: np.ndarray
    contract: np.ndarray
    contract_bias: np.ndarray
    norm2: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """Weights of the whole file; kernels are (in, out)."""

    embed: np.ndarray
    embed_bias: np.ndarray
    token: np.ndarray
    positions: np.ndarray
    blocks: tuple[BlockWeights, ...]
    logits: np.ndarray
    logits_bias: np.ndarray


def import_kwt(file: Path, out: Path, data: bytes | None = None) -> Bundle:
    """Read `file`, check it against our network, and write the bundle `out`.

    Args:
        file: A float .tflite of the published KWT-1 shape, any number of layers.
        out: Folder of the new bundle; must not hold anything yet.
        data: The file's bytes, where they have been read already.

    Returns:
        The bundle: recipe, weights.h5 (float; not converted yet), labels, and under
        metrics["import"] the source's SHA-256 and the largest difference of logits.

    Raises:
        KwsError: not such a file, or `out` is in use.
        CheckFailed: our network's logits differ from the file's.
    """
    again = f"kws import-kwt {quoted(file)} --out {quoted(f'{out}-new')}"
    if (out / "bundle.json").exists():
        raise KwsError(
            f"There is a bundle already. Expected a new folder. Received: {out}",
            again,
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KwsError(
            "There is something else already. Expected a new or empty folder. "
            f"Received: {str(out)!r}",
            again,
        )
    if data is None:
        data = _read_file(file)
    weights = read_weights(data, str(file))
    recipe = dataclasses.replace(recipe_of(weights), name=out.resolve().name)
    network = build(weights, recipe)
    difference = logit_difference(data, network, recipe)
    if not difference < TOLERANCE:
        raise CheckFailed(
            f"The imported network is not the file's: expected logits within "
            f"{TOLERANCE}. Received: a difference of {difference:.2g} in {file}",
            _HINT,
        )
    bundle = Bundle(
        path=out,
        recipe=recipe,
        labels=LABELS,
        metrics={
            "import": {
                "sha256": hashlib.sha256(data).hexdigest(),
                "logit_difference": difference,
                "clips": CHECK_CLIPS,
            }
        },
    )
    save(bundle, network)
    return bundle


def _read_file(file: Path) -> bytes:
    if not file.is_file():
        raise KwsError(f"No such file. Expected a .tflite. Received: {file}", _HINT)
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise KwsError(
            f"The file is larger than {MAX_FILE_BYTES} bytes. "
            f"Received: {size} bytes in {file}",
            _HINT,
        )
    return file.read_bytes()


def read_operators(data: bytes, source: str) -> list[Operator]:
    """All operators of a .tflite, with their float32 constants.

    Raises:
        KwsError: not a .tflite, or one that contradicts itself.
    """
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise KwsError(
            "Not a TensorFlow Lite model: expected a flatbuffer with the identifier "
            f"TFL3. Received: {len(data)} bytes in {source}",
            _HINT,
        )
    try:
        return _operators(data)
    except DAMAGE as error:
        raise KwsError(
            f"The .tflite is broken: its structure leads outside the file "
            f"({type(error).__name__}). Received: {source}",
            "Copy the file again.",
        ) from None


def _operators(data: bytes) -> list[Operator]:
    import tflite

    names = {
        value: name
        for name, value in vars(tflite.BuiltinOperator).items()
        if isinstance(value, int)
    }
    model = tflite.Model.GetRootAs(data, 0)
    left = 4 * len(data)

    def count(length: int) -> range:
        # All together: vectors that share their bytes could ask for hours.
        nonlocal left
        if not 0 <= length <= min(MAX_ITEMS, left):
            raise IndexError(length)
        left -= length
        return range(length)

    if model.SubgraphsLength() != 1:
        raise ValueError("expected one subgraph")
    graph = model.Subgraphs(0)
    codes = []
    for i in count(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        codes.append(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
    buffers = len(count(model.BuffersLength()))
    constants: list[np.ndarray | None] = []
    for i in count(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        if not 0 <= tensor.Buffer() < buffers:
            raise IndexError(tensor.Buffer())
        stored = model.Buffers(tensor.Buffer())
        length = stored.DataLength()
        if tensor.Type() != tflite.TensorType.FLOAT32 or length == 0:
            constants.append(None)
            continue
        if tensor.ShapeLength() > MAX_RANK:
            raise ValueError("rank")
        shape = tuple(int(tensor.Shape(j)) for j in range(tensor.ShapeLength()))
        raw = stored.DataAsNumpy()
        if len(raw) != length or min(shape, default=1) < 1:
            raise ValueError("shape")
        # No copy: buffers may share bytes. reshape raises where it doesn't fit them.
        constants.append(np.frombuffer(raw, "<f4").reshape(shape))
    operators = []
    for i in count(graph.OperatorsLength()):
        stored = graph.Operators(i)
        inputs = tuple(int(stored.Inputs(j)) for j in count(stored.InputsLength()))
        outputs = tuple(int(stored.Outputs(j)) for j in count(stored.OutputsLength()))
        if not all(-1 <= index < len(constants) for index in inputs + outputs):
            raise IndexError("tensor index")
        number = codes[stored.OpcodeIndex()]
        operators.append(
            Operator(
                names.get(number, f"operator {number}"),
                tuple(None if k < 0 else constants[k] for k in inputs),
                inputs,
                outputs,
            )
        )
    return operators


class _Cursor:
    """Walks the operators in order; every step names what it expects."""

    def __init__(self, operators: list[Operator], source: str) -> None:
        self.operators = operators
        self.source = source
        self.place = 0

    def refuse(self, expected: str, received: str) -> KwsError:
        return KwsError(
            f"Not a published Keyword Transformer with one head: expected {expected} "
            f"as operator {self.place}. Received: {received} in {self.source}",
            _HINT,
        )

    def take(self, *names: str) -> list[Operator]:
        """The next operators, which have to be called `names`."""
        taken = []
        for name in names:
            if self.place >= len(self.operators):
                raise self.refuse(name, "the end of the graph")
            operator = self.operators[self.place]
            if operator.name != name:
                raise self.refuse(name, operator.name)
            taken.append(operator)
            self.place += 1
        return taken

    def constant(self, operator: Operator, *shape: int | None) -> np.ndarray:
        """The one float constant of an operator that has this shape (None: any)."""
        fitting = [
            array
            for array in operator.constants
            if array is not None
            and len(array.shape) == len(shape)
            and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
        ]
        wanted = " x ".join("?" if n is None else str(n) for n in shape) or "scalar"
        if len(fitting) != 1:
            shapes = [a.shape for a in operator.constants if a is not None]
            raise self.refuse(
                f"{operator.name} with one constant of {wanted}", f"{shapes}"
            )
        if not np.isfinite(fitting[0]).all():
            raise self.refuse(f"finite {operator.name} constants", "NaN or infinity")
        return fitting[0]

    def scalar(self, operator: Operator, expected: float) -> None:
        """Check that an operator's scalar constant is what the formula says."""
        received = float(self.constant(operator).reshape(()))
        if abs(received - expected) > 1e-6 * max(1.0, abs(expected)):
            raise self.refuse(f"{operator.name} by {expected}", f"{received}")


def read_weights(data: bytes, source: str = "model.tflite") -> Weights:
    """Read and check the weights.

    Raises:
        KwsError: another structure, or a front end that is not ours.
    """
    operators = [op for op in read_operators(data, source) if op.name not in LAYOUT]
    cursor = _Cursor(operators, source)
    cepstra = _check_front_end(cursor)
    dense, concatenate, add = cursor.take(*EMBEDDING)
    embed = cursor.constant(dense, None, cepstra)
    dim = embed.shape[0]
    embed_bias = cursor.constant(dense, dim)
    token = cursor.constant(concatenate, 1, 1, dim)
    frames = recipes.load("kwt-1").features.frames
    positions = cursor.constant(add, 1, frames + 1, dim)
    blocks: list[BlockWeights] = []
    while cursor.place + len(HEAD) < len(operators):
        hidden = len(blocks[0].expand_bias) if blocks else None
        blocks.append(_read_block(cursor, dim, hidden))
    if not blocks:
        raise cursor.refuse("at least one block", "none")
    (head,) = cursor.take(*HEAD)
    return Weights(
        embed=embed.T,
        embed_bias=embed_bias,
        token=token,
        positions=positions,
        blocks=tuple(blocks),
        logits=cursor.constant(head, len(LABELS), dim).T,
        logits_bias=cursor.constant(head, len(LABELS)),
    )


def _check_front_end(cursor: _Cursor) -> int:
    """Compare the file's front end with our features; the number of cepstra."""
    from kws.features.log_mel import FLOOR, mel_matrix
    from kws.model.network import dct_matrix

    spec = recipes.load("kwt-1").features
    window, cosine, _, sine, _, _, _, mel, floor, _, dct, shift, scale = cursor.take(
        *FRONT_END
    )
    n = np.arange(spec.window)
    expected_mel = mel_matrix(spec).T
    bins = int(np.flatnonzero(expected_mel.any(axis=0))[-1]) + 1
    angle = 2 * np.pi * np.arange(bins)[:, None] * n / spec.fft_size
    cepstra = cursor.constant(dct, None, spec.mel_bins).shape[0]
    for operator, expected in (
        (window, 0.5 - 0.5 * np.cos(2 * np.pi * n / spec.window)),
        (cosine, np.cos(angle)),
        (sine, -np.sin(angle)),
        (mel, expected_mel[:, :bins]),
        (dct, dct_matrix(spec.mel_bins, cepstra).T),
        (scale, np.ones(cepstra)),
    ):
        received = cursor.constant(operator, *expected.shape)
        if (
            min(np.abs(received - expected).max(), np.abs(received + expected).max())
            > 1e-4
        ):  # the sine's sign is squared away
            raise cursor.refuse(
                "the front end of the preset kwt-1", f"another {operator.name} matrix"
            )
    cursor.scalar(floor, FLOOR)
    cursor.scalar(shift, 0.0)
    return cepstra


def _read_block(cursor: _Cursor, dim: int, hidden: int | None) -> BlockWeights:
    query, key, scores, scaling, _, value, mixed, output, _ = cursor.take(*ATTENTION)
    if scores.inputs[0] not in query.outputs or value.inputs[0] != query.inputs[0]:
        raise cursor.refuse("Q, K, Q.K^T, softmax, V", "another order")
    if any(array is not None for op in (scores, mixed) for array in op.constants):
        raise cursor.refuse("two products of activations", "constants")
    cursor.scalar(scaling, dim**-0.5)
    norm1 = _read_norm(cursor, dim)
    (expand, power, cubic, _, stretch, _, one, half, _, contract, _) = cursor.take(*MLP)
    for operator, expected in (
        (power, 3.0),
        (cubic, 0.044715),
        (stretch, (2 / np.pi) ** 0.5),
        (one, 1.0),
        (half, 0.5),
    ):
        cursor.scalar(operator, expected)
    hidden = cursor.constant(expand, hidden, dim).shape[0]
    return BlockWeights(
        query=cursor.constant(query, dim, dim).T,
        key=cursor.constant(key, dim, dim).T,
        value=cursor.constant(value, dim, dim).T,
        output=cursor.constant(output, dim, dim).T,
        output_bias=cursor.constant(output, dim),
        norm1=norm1,
        expand=cursor.constant(expand, hidden, dim).T,
        expand_bias=cursor.constant(expand, hidden),
        contract=cursor.constant(contract, dim, hidden).T,
        contract_bias=cursor.constant(contract, dim),
        norm2=_read_norm(cursor, dim),
    )


def _read_norm(cursor: _Cursor, dim: int) -> tuple[np.ndarray, np.ndarray]:
    _, _, _, epsilon, _, gamma, _, _, beta, _ = cursor.take(*LAYER_NORM)
    cursor.scalar(epsilon, 1e-6)
    return cursor.constant(gamma, dim), cursor.constant(beta, dim)


def recipe_of(weights: Weights) -> Recipe:
    """The preset kwt-1 with the sizes and the GELU of the file, for task gsc12."""
    base = recipes.load("kwt-1")
    cepstra, dim = weights.embed.shape
    model = dataclasses.replace(
        base.model,
        cepstra=cepstra,
        dim=dim,
        head_dim=dim,
        heads=1,
        layers=len(weights.blocks),
        mlp_dim=weights.blocks[0].expand.shape[1],
        activation="gelu_tanh",
    )
    task = dataclasses.replace(base.task, name="gsc12", words=())
    return dataclasses.replace(base, model=model, task=task)


def build(weights: Weights, recipe: Recipe) -> Any:
    """Our network (mode `float`) with the file's weights."""
    from kws import model

    network = model.build(recipe, len(LABELS), mode="float")
    network.get_layer("stem").embed.set_weights([weights.embed, weights.embed_bias])
    tokens = network.get_layer("tokens")
    tokens.token.assign(weights.token)
    tokens.table.assign(weights.positions)
    for index, block in enumerate(weights.blocks):
        ours = network.get_layer(f"block{index}")
        head = ours.attention.heads[0]
        head.query.set_weights([block.query])
        head.key.set_weights([block.key])
        head.value.set_weights([block.value])
        ours.attention.output_dense.set_weights([block.output, block.output_bias])
        ours.expand.set_weights([block.expand, block.expand_bias])
        ours.contract.set_weights([block.contract, block.contract_bias])
        for norm, (gamma, beta) in (
            (ours.norm1, block.norm1),
            (ours.norm2, block.norm2),
        ):
            norm.gamma.assign(gamma)
            norm.beta.assign(beta)
    network.get_layer("head").dense.set_weights([weights.logits, weights.logits_bias])
    return network


def check_clips(spec: Features, clips: int = CHECK_CLIPS) -> np.ndarray:
    """Made-up clips to compare logits on: chirps in noise, from loud to silent.

    Returns:
        int16 [clips, 16000].
    """
    rng = np.random.default_rng(1)
    time = np.arange(spec.sample_rate) / spec.sample_rate
    out = []
    for index in range(clips):
        low, high = rng.uniform(100, 3000, 2)
        tone = np.sin(2 * np.pi * (low + (high - low) * time / 2) * time)
        noise = rng.normal(0, 0.1, len(time))
        level = 20000 * 10.0 ** (-3 * index / max(1, clips - 1))
        out.append(level * np.clip((tone * np.sin(np.pi * time) + noise) / 2, -1, 1))
    return np.rint(np.array(out)).astype(np.int16)


def logit_difference(data: bytes, network: Any, recipe: Recipe) -> float:
    """Largest |difference| of logits, file against network, over `check_clips`.

    Raises:
        KwsError: TensorFlow Lite can't run the file.
    """
    from kws.features.log_mel import log_mel

    pcm = check_clips(recipe.features)
    ours = network(log_mel(pcm, recipe.features), training=False).numpy()
    return float(np.abs(ours - file_logits(data, pcm)).max())


def file_logits(data: bytes, pcm: np.ndarray) -> np.ndarray:
    """What the file itself gives, by TensorFlow Lite.

    Args:
        data: The .tflite.
        pcm: int16 [N, 16000].

    Returns:
        float32 [N, labels].

    Raises:
        KwsError: TensorFlow Lite can't run the file.
    """
    from kws.layers.keras import tf

    try:
        interpreter = tf.lite.Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        result = interpreter.get_output_details()[0]["index"]
        out = []
        for clip in pcm:
            interpreter.set_tensor(source, clip[None].astype(np.float32) / 32768)
            interpreter.invoke()
            out.append(interpreter.get_tensor(result)[0].copy())
    except (ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise KwsError(f"TensorFlow Lite can't run the file: {reason}", _HINT) from None
    return np.array(out)


def save(bundle: Bundle, network: Any) -> None:
    """Write the bundle into a new folder, whole or not at all."""
    from kws import model

    folded = model.fold(network, bundle.recipe, len(bundle.labels))
    bundle.path.mkdir(parents=True, exist_ok=True)
    partial = bundle.path / ".weights.partial.h5"
    try:
        folded.save_weights(str(partial), save_format="h5")
        partial.replace(bundle.weights_path)
        bundles.save(bundle)
    except BaseException:
        bundle.weights_path.unlink(missing_ok=True)  # or the next import is refused
        raise
    finally:
        partial.unlink(missing_ok=True)
