"""What whole networks cost on the emulated boards: instructions, arena, flash, RAM.

The weights are random: they don't change what a dense network costs. Every logit is
compared with TFLM's. Instructions are QEMU's exact counts; they are not cycles.

    python tools/bench_models.py             # the table
    python tools/bench_models.py --update    # write the baseline
    python tools/bench_models.py --model kwt-1-relu --board qemu-m4
    python tools/bench_models.py --model kwt-tiny --change head_dim=16 share=blocks
    python tools/bench_models.py --change layers=2 'attention=["conv", "none"]'
    python tools/bench_models.py --shipped [--update]   # what comes with the package
    python tools/bench_models.py --compare   # ours and other networks, side by side
    python tools/bench_models.py --traffic   # weights behind a cache
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sample_models  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import engines  # noqa: E402
from kws.deploy import boards, build, emission, flash, host, run, traffic  # noqa: E402
from kws.emit import native, selftest  # noqa: E402
from kws.graph import cost, reader  # noqa: E402
from kws.recipe import Recipe  # noqa: E402

BASELINE = ROOT / "tests" / "baselines" / "models.json"
SHIPPED_BASELINE = ROOT / "tests" / "baselines" / "shipped.json"
SHIPPED = tuple(sorted(p.name for p in bundles.PRETRAINED.iterdir() if p.is_dir()))
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "kwt-tiny": ("kwt-tiny", {}),
    "kwt-tiny-dense": ("kwt-tiny-dense", {}),
    "kwt-1-relu": ("kwt-1", {"activation": "relu"}),
    "kwt-1": ("kwt-1", {}),
    "kwt-stream-tiny": ("kwt-stream-tiny", {"frames": 48}),
}
# What is compared beside kwt-tiny (kws/model/baselines.py); no baselines of these.
COMPARED: dict[str, tuple[str, dict[str, Any]]] = {
    "sparknet-16": ("sparknet-16", {}),
    "sparknet-32": ("sparknet-32", {}),
    "bc-resnet-1": ("bc-resnet-1", {}),
    "ds-cnn": ("ds-cnn", {"frames": 49}),
}
# What is read behind a cache: sharing, rank, and other networks.
TRAFFIC: list[tuple[str, dict[str, Any]]] = [
    ("kwt-tiny", {"share": "none"}),
    ("kwt-tiny", {}),
    ("kwt-tiny", {"groups": 1}),
    ("kwt-tiny", {"groups": 1, "head_dim": 16, "mlp_dim": 48}),
    *((model, {}) for model in COMPARED),
]
BOARDS = ("qemu-m0", "qemu-m4", "qemu-m55")
# Share by which a figure may grow before `regressions` names it.
TOLERANCE = 0.02
CLIPS = 2


@functools.cache
def sample(model: str, more: tuple[tuple[str, Any], ...]) -> tuple[Recipe, bytes]:
    """A network's recipe, and its .tflite with random weights."""
    preset, changes = (MODELS | COMPARED)[model]
    spec = sample_models.recipe(preset, **changes | dict(more))
    return spec, sample_models.network(spec)


def measure(
    model: str, board_names: tuple[str, ...], more: dict[str, Any] | None = None
) -> dict[str, dict[str, int]]:
    """One network on some boards.

    Args:
        model: One of MODELS or COMPARED.
        board_names: Boards.
        more: Further changes of the recipe's [model] section.

    Returns:
        board -> {instructions, arena_bytes, weights_bytes, flash_bytes, ram_bytes,
        stack_bytes}; instructions of a step, where the network is for streams.

    Raises:
        AssertionError: a board's logits are not TFLM's.
    """
    spec, data = sample(model, tuple((more or {}).items()))
    rng = np.random.default_rng(0)
    loudness = rng.uniform(100, 8000, (CLIPS, 1))
    samples = (CLIPS, spec.features.clip_samples)
    pcm = np.clip(rng.normal(0, 1, samples) * loudness, -32768, 32767)
    clips = pcm.astype(np.int16)
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = sample_models.bundle(Path(folder) / "run", spec, data)
        expected = engines.get("tflm").logits(bundle, clips)
        for name in board_names:
            board, out = boards.load(name), Path(folder) / name
            emitted = emission.emit_bundle(bundle, out / "model", board.core)
            image = build.build(out / "model", board, out, "clips")
            result = run.clips(image.elf, board, clips, len(bundle.labels))
            assert np.array_equal(result.logits, expected), f"{model} on {name}"
            main = build.build(out / "model", board, out, "main")
            table[name] = {
                "instructions": result.instructions_per_inference,
                "arena_bytes": emitted.arena_bytes,
                "weights_bytes": emitted.weights_bytes,
                "flash_bytes": main.fit.flash_bytes,
                "ram_bytes": main.fit.ram_bytes,
                "stack_bytes": result.stack_bytes,
            }
    return table


def sound() -> np.ndarray:
    """int16 [4 s]: the self-test's clip, the same 36 dB below, silence, the clip again;
    made of integers, so it is the same everywhere."""
    clip = selftest.mulaw_decode(selftest.clip(run.SAMPLE_RATE))
    return np.concatenate([clip, clip >> 6, np.zeros_like(clip), clip])


def measure_shipped(model: str, board_name: str) -> dict[str, int]:
    """A shipped model as it is, thresholds included, on one board.

    Returns:
        flash_bytes, ram_bytes of the whole firmware; arena_bytes, weights_bytes; of an
        emulated board also the instructions of a feature frame, and of a decision on
        `sound`, mean and dearest, and stack_bytes.

    Raises:
        AssertionError: the board's logits are not this machine's.
    """
    bundle, board = bundles.load(model), boards.load(board_name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        emitted = emission.emit_bundle(bundle, out / "model", board.core)
        main = build.build(out / "model", board, out, "main")
        figures = {
            "flash_bytes": main.fit.flash_bytes,
            "ram_bytes": main.fit.ram_bytes,
            "arena_bytes": emitted.arena_bytes,
            "weights_bytes": emitted.weights_bytes,
        }
        if not flash.is_emulated(board):
            return figures
        image = build.build(out / "model", board, out, "clips")
        pcm = sound()[None, :]
        result = run.clips(image.elf, board, pcm, len(bundle.labels), jobs=1)
        expected, _ = host.run(bundle, pcm)
        assert np.array_equal(result.logits, expected), f"{model} on {board_name}"
        return figures | {
            "instructions_per_frame": result.instructions_per_frame,
            "instructions": result.instructions_per_inference,
            "instructions_max": result.instructions_per_inference_max,
            "stack_bytes": result.stack_bytes,
        }


def changed(text: str) -> tuple[str, Any]:
    """A change of the command line: KEY=VALUE, as a recipe has it; text needs no
    quotes.

    Raises:
        ValueError: neither.

    Example:
        >>> changed("head_dim=16"), changed("share=blocks")
        (('head_dim', 16), ('share', 'blocks'))
        >>> changed('attention=["conv", "softmax"]')
        ('attention', ('conv', 'softmax'))
    """
    key, equals, text = text.partition("=")
    if not equals:
        raise ValueError(f"--change {key}: expected KEY=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if not text.isidentifier():
            raise ValueError(f"--change {key}={text}: no value of a recipe") from None
        value = text
    return key, tuple(value) if isinstance(value, list) else value


def regressions(
    model: str, measured: dict[str, dict[str, int]], baseline: dict[str, Any]
) -> list[str]:
    """One line per figure that grew by more than TOLERANCE, or has no baseline."""
    problems = []
    for board, figures in measured.items():
        for key, value in figures.items():
            known = baseline.get(model, {}).get(board, {}).get(key)
            if known is None:
                problems.append(f"{model} {board} {key}: not in the baseline")
            elif value > known * (1 + TOLERANCE):
                problems.append(f"{model} {board} {key}: {value:,}, was {known:,}")
    return problems


def comparison(models: list[str]) -> list[str]:
    """A table of networks: instructions on each core, sizes on an M4."""
    lines = [
        "| | parameters | MACs, M | M4 | M55 | M0+ | weights, B | arena, B | RAM, B |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        table = measure(model, BOARDS)
        graph = reader.read(sample(model, ())[1])
        weights = {
            id(tensor): tensor.elements
            for node in graph.nodes
            for tensor in node.inputs
            if tensor is not None and tensor.is_constant and tensor.dtype == "int8"
        }
        m4 = table["qemu-m4"]
        names = ("qemu-m4", "qemu-m55", "qemu-m0")
        spent = [table[name]["instructions"] / 1e6 for name in names]
        cells = [
            f"`{model}`",
            f"{sum(weights.values()):,}",
            f"{cost.total(graph.nodes).macs / 1e6:.3f}",
            *(f"{millions:.2f}" for millions in spent),
            *(f"{m4[f'{key}_bytes']:,}" for key in ("weights", "arena", "ram")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def traffic_of(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A table of what networks read of their weights on an M0+, for a decision.

    Args:
        rows: Model, and further changes of the recipe's [model] section.
    """
    external = boards.load("pico").external
    assert external is not None
    lines = [
        f"| | constants, B | loaded, B | from behind {external.cache_bytes:,} B "
        "| uJ: MACs | RAM | flash, all on chip | weights external |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, more in rows:
        graph = reader.read(sample(model, tuple(more.items()))[1])
        network = native.network_source(graph, "portable")
        read = cost.readings(network.steps, "portable")
        found = traffic.of(network.dense, read, 0, 1.0, external)
        parts = found.parts_uj
        name = ", ".join([f"`{model}`", *(f"{k} {v}" for k, v in more.items())])
        cells = [
            name,
            f"{found.weights_bytes:,}",
            f"{found.loaded:,}",
            f"{found.fetched:,}",
            *(f"{parts[key]:.1f}" for key in ("macs", "ram", "flash", "external")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=[*MODELS, *SHIPPED, *COMPARED])
    parser.add_argument("--shipped", action="store_true")
    parser.add_argument("--board", choices=boards.names())
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--traffic", action="store_true")
    parser.add_argument("--change", nargs="+", metavar="KEY=VALUE", default=[])
    options = parser.parse_args()
    if options.update and options.change:
        parser.error("--update writes the shipped models' figures: leave --change out")
    if options.traffic:
        print("\n".join(traffic_of(TRAFFIC)))
        return 0
    if options.compare:
        chosen_models = [options.model] if options.model else ["kwt-tiny", *COMPARED]
        print("\n".join(comparison(chosen_models)))
        return 0
    try:
        more = dict(changed(change) for change in options.change)
    except ValueError as error:
        parser.error(str(error))
    if options.shipped:
        return _shipped(options.model, options.board, options.update)
    if options.model not in (None, *MODELS):
        parser.error(f"{options.model} is a shipped model: say --shipped")
    chosen = (options.board,) if options.board else BOARDS
    known = json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {}
    for model in (options.model,) if options.model else MODELS:
        for board, figures in measure(model, chosen, more).items():
            print(f"{model} on {board}: logits equal TFLM's on {CLIPS} clips")
            for key, value in figures.items():
                print(f"  {key:<16} {value:>12,}")
            known.setdefault(model, {})[board] = figures
    if options.update:
        BASELINE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


def _shipped(model: str | None, board: str | None, update: bool) -> int:
    path = SHIPPED_BASELINE
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in (model,) if model else SHIPPED:
        for where in (board,) if board else boards.names():
            figures = measure_shipped(name, where)
            print(f"{name} on {where}: " + ", ".join(
                f"{key} {value:,}" for key, value in figures.items()
            ), flush=True)  # fmt: skip
            known.setdefault(name, {})[where] = figures
            if update:
                path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
