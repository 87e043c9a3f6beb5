"""Write a bundle as C: everything that firmware/include/kws_model.h declares.

Two engines run the network (DESIGN D4). `native`, here, is the network as C; `tflm` is
the .tflite with an interpreter (kws.deploy.tflm). Native's files:

    kws_model.c           the network: constants, one static arena, kws_model_invoke
    kws_model_features.c  the feature tables (kws.features.tables)
    kws_model_selftest.c  a synthetic clip and the logits that it must give

The self-test's logits come from the native engine: the model is compiled for this
machine, runs the clip, and the result is written down (the same C gives the same bits
on the board, DESIGN D1; so does TFLM, D3).
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kws import __version__
from kws.bundle import Bundle
from kws.deploy import c_text, calls, thresholds
from kws.errors import KwsError
from kws.features import c_source
from kws.graph import memory_plan, operators, passes, reader, schedule, weight_layout
from kws.graph.nodes import Graph, Node

MAX_LABELS = 48  # KWS_MAX_LABELS
MAX_HALF_BUFFER = 320  # KWS_MAX_HALF_BUFFER
Q15_ONE = 32767

ENGINES = ("native", "tflm")
FILES = ("kws_model.c", "kws_model_features.c", "kws_model_selftest.c")


@dataclass(frozen=True)
class Emitted:
    """What was written.

    Args:
        files: What a firmware is built from, and with tflm the model itself.
        arena_bytes: The model's static working memory.
        weights_bytes: The model's constant data.
        macs: Multiply-accumulates of one inference (matrix products).
    """

    files: tuple[Path, ...]
    arena_bytes: int
    weights_bytes: int
    macs: int


@dataclass(frozen=True)
class Operator:
    """One kernel call of kws_model_invoke, which ends with KWS_MARK(index).

    Args:
        index: From 1.
        node: What it computes.
        weights_bytes: Constants that no earlier call uses.
        products: Rows of the model's table of delta products that are its.
    """

    index: int
    node: Node
    weights_bytes: int
    products: range


@dataclass(frozen=True)
class Network:
    """The network as C text, before it is in a file."""

    text: str
    arena_bytes: int
    weights_bytes: int
    macs: int
    products: tuple[calls.Product, ...] = ()
    operators: tuple[Operator, ...] = ()


def emit(
    bundle: Bundle, out_dir: Path, core: str = "portable", engine: str = "native"
) -> Emitted:
    """Write the bundle's C files for one core into a folder.

    Args:
        bundle: With a model.tflite.
        out_dir: Made if needed; of what is in it only the engines' files are replaced.
        core: `portable`, `dsp` (Cortex-M4, M7, M33) or `mve` (M55, M85).
        engine: `native`, or `tflm` (TensorFlow Lite Micro).

    Raises:
        KwsError: the model has operators or shapes that the engine doesn't run, it
            doesn't fit the recipe's features or labels, or core or engine is unknown.

    Example:
        >>> emit(bundle.load("runs/tiny"), Path("out"), "dsp").arena_bytes
        11808
    """
    sources = engine_sources(bundle, core, engine)
    expected = selftest_logits(bundle)
    texts = {**sources.texts, FILES[2]: selftest_source(bundle, expected)}
    files = {name: text.encode("ascii") for name, text in texts.items()}
    files |= sources.binaries
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir) as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            for name in _of_other_engines(files):
                (out_dir / name).unlink(missing_ok=True)
            for name in files:
                (Path(folder) / name).replace(out_dir / name)
    except OSError as error:
        raise KwsError(
            f"The C files can't be written: {error.strerror}. Received: {out_dir}",
            "Name another folder with --out.",
        ) from None
    network = sources.network
    return Emitted(
        tuple(out_dir / name for name in sorted(files)),
        network.arena_bytes,
        network.weights_bytes,
        network.macs,
    )


def _of_other_engines(files: Mapping[str, bytes]) -> list[str]:
    """What another engine may have left, which would be built along."""
    from kws.deploy import tflm

    return [name for name in (*FILES, *tflm.FILES) if name not in files]


@dataclass(frozen=True)
class Sources:
    """A bundle's files but for the self-test: file name -> text, or bytes."""

    texts: dict[str, str]
    network: Network
    binaries: dict[str, bytes] = field(default_factory=dict)


def engine_sources(bundle: Bundle, core: str, engine: str) -> Sources:
    """The files of one of `ENGINES`.

    Raises:
        KwsError: no such engine, or what it can't do with the bundle.
    """
    if engine == "native":
        return model_sources(bundle, core)
    if engine == "tflm":
        from kws.deploy import tflm

        return tflm.model_sources(bundle, core)
    raise KwsError(
        f"No such engine. Expected one of {', '.join(ENGINES)}. Received: {engine!r}",
        "kws emit RUN --engine native --out DIR",
    )


def model_sources(bundle: Bundle, core: str) -> Sources:
    """The network and the feature tables of a bundle."""
    check_core(core)
    data = bundle.model_bytes()
    graph = reader.read(data, str(bundle.model_path))
    check_fit(bundle, graph)
    lines = [_network_head(bundle, core, hashlib.sha256(data).hexdigest())]
    network = network_source(graph, core, thresholds.of_bundle(bundle, core))
    lines.append(network.text)
    lines.append(info_source(bundle, network, graph.output.scale))
    return Sources(
        {FILES[0]: "\n".join(lines), FILES[1]: features_source(bundle)}, network
    )


def products(bundle: Bundle, core: str) -> tuple[calls.Product, ...]:
    """The native engine's table of products that skip, on one core."""
    graph = reader.read(bundle.model_bytes(), str(bundle.model_path))
    return network_source(graph, core, thresholds.of_bundle(bundle, core)).products


def features_source(bundle: Bundle) -> str:
    """kws_model_features.c."""
    return (
        f"/* Generated by kws {__version__}; don't edit. */\n"
        f"{c_source(bundle.recipe.features, 'kws_model_features')}"
    )


def check_core(core: str) -> None:
    """Raises KwsError where there are no kernels for a core of that name."""
    if core not in weight_layout.CORES:
        raise KwsError(
            f"No such core. Expected one of {', '.join(weight_layout.CORES)}. "
            f"Received: {core!r}",
            "kws emit RUN --core dsp",
        )


def check_fit(bundle: Bundle, graph: Graph) -> None:
    """Raises KwsError where a model isn't the recipe's: its input, its labels."""
    features, labels = bundle.recipe.features, bundle.labels
    shape = tuple(dim for dim in graph.input.shape if dim > 1)
    if shape != (features.frames, features.mel_bins):
        raise KwsError(
            f"The model's input does not fit the recipe: expected [{features.frames}, "
            f"{features.mel_bins}] features. Received: {list(graph.input.shape)} in "
            f"{bundle.model_path}",
            f"kws convert {bundle.path}",
        )
    if (np.float32(graph.input.scale), graph.input.zero_point) != (
        np.float32(features.scale),
        features.zero_point,
    ):
        raise KwsError(
            "The model's input quantization is not the features'. Expected scale "
            f"{features.scale} and zero point {features.zero_point}. Received: "
            f"{graph.input.scale} and {graph.input.zero_point}",
            f"kws convert {bundle.path}",
        )
    if graph.output.elements != len(labels) or not 2 <= len(labels) <= MAX_LABELS:
        raise KwsError(
            f"The model's output does not fit the labels: expected 2 to {MAX_LABELS} "
            f"labels, one per logit. Received: {len(labels)} labels, "
            f"{graph.output.elements} logits",
            f"kws convert {bundle.path}",
        )


def _network_head(bundle: Bundle, core: str, model_hash: str) -> str:
    return "\n".join(
        [
            f"/* Generated by kws {__version__}; don't edit.",
            f" * Core: {core}. Bundle {bundle.hash[:16]}, model.tflite SHA-256",
            f" * {model_hash}. */",
            "#include <stddef.h>",
            "#include <string.h>",
            "",
            '#include "kws_delta.h"',
            '#include "kws_features.h"',
            '#include "kws_kernels.h"',
            '#include "kws_model.h"',
            "",
            *layout_assertion(core),
        ]
    )


def layout_assertion(core: str) -> list[str]:
    """C that doesn't compile for a core with another layout of weights."""
    return [
        f"_Static_assert(KWS_WEIGHT_LAYOUT == KWS_LAYOUT_{core.upper()},",
        f'               "emitted for core {core}; emit again for this one");',
        "",
    ]


def network_source(
    graph: Graph, core: str, delta: thresholds.Delta | None = None
) -> Network:
    """The arena, the constants and kws_model_invoke of a graph that has just been read.

    Args:
        graph: From the reader; the passes rewrite it.
        core: The weights' layout.
        delta: Thresholds, where the attention skips what didn't change.
    """
    macs = sum(operators.macs(node) for node in graph.nodes)
    if delta is None:
        passes.run(graph)
    else:
        passes.run(graph, lambda graph: thresholds.mark(graph, delta, core))
        thresholds.check_fused(graph)
    program = schedule.schedule(graph)
    plan = memory_plan.plan(graph, program)
    model = calls.Model(graph, program, plan, core)
    body: list[str] = ["  KWS_MARK(0);"]
    called: list[Operator] = []
    for step in program.steps:
        indent = "  "
        if step.rows:
            block = step.block_rows
            body.append(
                f"  for (int32_t row = 0; row < {step.rows}; row += {block}) {{"
            )
            body.append(
                f"    const int32_t rows = {step.rows} - row < {block} ? "
                f"{step.rows} - row : {block};"
            )
            indent = "    "
        for position, node in enumerate(step.nodes):
            model.begin(step, position)
            shape = "x".join(map(str, node.output.shape)) or "1"
            body.append(
                indent + c_text.comment(f"{node.kind} {shape}: {node.name}", 84)
            )
            constants, first = model.weights_bytes, len(model.products)
            body += [indent + line for line in calls.CALLS[node.kind](model, node)]
            mine = range(first, len(model.products))
            constants = model.weights_bytes - constants
            called.append(Operator(len(called) + 1, node, constants, mine))
            body.append(f"{indent}KWS_MARK({len(called)});")
        if step.rows:
            body.append("  }")
    arena = max(plan.arena_bytes, 1)
    text = "\n".join(
        [
            *model.text,
            f"static _Alignas(16) int8_t arena[{arena}];",
            *model.delta_text(),
            "",
            "void kws_model_invoke(const int8_t *features, int8_t *logits) {",
            *body,
            "}",
            "",
        ]
    )
    return Network(
        text,
        plan.arena_bytes + model.state_bytes,
        model.weights_bytes,
        macs,
        tuple(model.products),
        tuple(called),
    )


def ring_samples(hop: int) -> int:
    """Samples of the audio ring: KWS_MIN_RING_SAMPLES(hop), a power of two.

    Args:
        hop: Samples between two model runs.

    Example:
        >>> ring_samples(16 * 160)
        4096
    """
    return 1 << (hop + 2 * MAX_HALF_BUFFER - 1).bit_length()


def info_source(
    bundle: Bundle, network: Network, logit_scale: float, init: str | None = None
) -> str:
    """kws_model_info, and what it points to.

    Args:
        bundle: Gives the labels, features and detector.
        network: Gives the sizes.
        logit_scale: Of the model's output.
        init: The engine's function that sets it up, if it has one.
    """
    features, detector = bundle.recipe.features, bundle.recipe.detector
    count = len(bundle.labels)
    first_word = 0
    while first_word < count and bundle.labels[first_word].startswith("_"):
        first_word += 1
    decision_ms = 1000.0 * detector.hop_frames * features.hop / features.sample_rate
    if not 1 <= detector.hop_frames <= features.frames:
        raise KwsError(
            f"[detector] hop_frames must be 1..{features.frames}. "
            f"Received: {detector.hop_frames}",
            f"Mend it in {bundle.path / 'recipe.toml'}.",
        )
    if not 1 <= detector.smoothing <= 16:
        raise KwsError(
            f"[detector] smoothing must be 1..16. Received: {detector.smoothing}",
            f"Mend it in {bundle.path / 'recipe.toml'}.",
        )
    words = bundle.labels[first_word:]
    own = detector.word_thresholds or (detector.threshold,) * len(words)
    if len(own) != len(words):
        raise KwsError(
            f"[detector] word_thresholds: expected one for each of {', '.join(words)}. "
            f"Received: {len(own)}",
            f"Mend it in {bundle.path / 'recipe.toml'}.",
        )
    if not all(0.0 <= detector.rearm <= threshold <= 1.0 for threshold in own):
        raise KwsError(
            "[detector] expected 0 <= rearm <= threshold <= 1 for every word. "
            f"Received: rearm={detector.rearm}, thresholds {list(own)}",
            f"Mend it in {bundle.path / 'recipe.toml'}.",
        )
    thresholds_q15 = np.rint(Q15_ONE * np.array([1.0] * first_word + list(own)))
    refractory = max(0, math.ceil(detector.refractory_ms / decision_ms))
    exp_table = np.rint(Q15_ONE * np.exp(-logit_scale * np.arange(256)))
    values = {
        "detector_threshold": thresholds_q15,
        "detector_rearm": np.full(count, round(detector.rearm * Q15_ONE)),
        "detector_exp": exp_table,
    }
    arrays = [c_text.array(k, v.astype(np.uint16)) for k, v in values.items()]
    ring = ring_samples(detector.hop_frames * features.hop)
    labels = "\n".join(f"    {c_text.string(label)}," for label in bundle.labels)
    spec = {
        "label_count": count,
        "first_word": first_word,
        "hop_frames": detector.hop_frames,
        "smoothing": detector.smoothing,
        "refractory": min(refractory, 65535),
        "threshold": "detector_threshold",
        "rearm": "detector_rearm",
        "exp_table": "detector_exp",
    }
    info = {
        "name": c_text.string(bundle.recipe.name),
        "hash": c_text.string(bundle.hash[:16]),
        "labels": "label_names",
        "label_count": count,
        "frames": features.frames,
        "mel_bins": features.mel_bins,
        "arena_bytes": network.arena_bytes,
        "weights_bytes": network.weights_bytes,
        "ring": "ring",
        "ring_samples": ring,
        "window": "window",
        "features": "&kws_model_features",
        "detector": "&detector_spec",
    }
    if network.products:
        info["delta_count"] = len(network.products)
        info["delta"] = "delta_operators"
    if init is not None:
        info["init"] = init
    return "\n".join(
        [
            f"static const char *const label_names[{count}] = {{\n{labels}\n}};\n",
            *arrays,
            c_text.struct("kws_detector_spec_t", "detector_spec", spec),
            "extern const kws_feature_spec_t kws_model_features;",
            f"static int16_t ring[{ring}];",
            f"static int8_t window[{features.frames * features.mel_bins}];",
            "",
            c_text.struct("kws_model_info_t", "kws_model_info", info).removeprefix(
                "static "
            ),
        ]
    )


# --- self-test ------------------------------------------------------------------------


def selftest_clip(samples: int) -> np.ndarray:
    """A synthetic voiced sound with rising pitch and some noise, as mu-law bytes.

    Integers only, so that every machine makes the same clip: three triangle waves, an
    envelope of syllables, and a linear congruential generator.
    """
    t = np.arange(samples, dtype=np.int64)

    def triangle(phase: np.ndarray) -> np.ndarray:
        position = (phase >> 8) & 0xFFFF
        return np.where(position < 0x8000, position, 0xFFFF - position) - 0x4000

    pitch = (120 * t + t * t // 400) * 1048
    formant = (700 * t + t * t // 30) * 1048
    hiss = (2400 * t - t * t // 20) * 1048
    state, noise = 12345, np.empty(samples, np.int64)
    for i in range(samples):
        state = (1103515245 * state + 12345) % 2**31
        noise[i] = (state >> 16) % 8192 - 4096
    envelope = np.abs(triangle(t * 5 * 1048)) >> 4
    wave = 3 * triangle(pitch) + 2 * triangle(formant) + triangle(hiss)
    pcm = ((wave // 6 + noise // 4) * envelope) >> 10
    return mulaw_encode(np.clip(pcm, -32000, 32000).astype(np.int16))


def mulaw_decode(codes: np.ndarray) -> np.ndarray:
    """G.711 mu-law to int16, as firmware/src/selftest.c does it."""
    inverted = ~codes.astype(np.int32) & 0xFF
    exponent = (inverted >> 4) & 7
    magnitude = ((((inverted & 15) << 3) + 0x84) << exponent) - 0x84
    return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16)


def mulaw_encode(pcm: np.ndarray) -> np.ndarray:
    """The nearest mu-law code of every int16 sample."""
    codes = np.arange(256, dtype=np.uint8)
    levels = mulaw_decode(codes).astype(np.int64)
    order = np.argsort(levels, kind="stable")
    ascending = levels[order]
    right = np.clip(np.searchsorted(ascending, pcm), 1, 255)
    low, high = ascending[right - 1], ascending[right]
    nearest = np.where(pcm - low <= high - pcm, right - 1, right)
    return codes[order][nearest]


def selftest_logits(bundle: Bundle) -> np.ndarray:
    """The logits that the self-test's clip gives on this machine."""
    from kws.engines import host

    pcm = mulaw_decode(selftest_clip(bundle.recipe.features.clip_samples))
    return host.logits(bundle, pcm[None, :])[0]


def selftest_source(
    bundle: Bundle, expected: np.ndarray, clip: np.ndarray | None = None
) -> str:
    """kws_model_selftest.c: `clip` (mu-law, the synthetic one) and its logits."""
    if clip is None:
        clip = selftest_clip(bundle.recipe.features.clip_samples)
    return "\n".join(
        [
            f"/* Generated by kws {__version__}; don't edit. */",
            '#include "kws_model.h"',
            "",
            f"const uint32_t kws_selftest_clip_samples = {clip.size};",
            f"const uint8_t kws_selftest_clip[{clip.size}] = {{",
            c_text.numbers(clip.tolist()),
            "};",
            f"const int8_t kws_selftest_logits[{expected.size}] = {{",
            c_text.numbers(expected.tolist()),
            "};",
            "",
        ]
    )
