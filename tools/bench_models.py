"""What whole networks cost on the emulated boards: instructions, arena, flash, RAM.

The weights are random: they don't change what a dense network costs. Every logit is
compared with TFLM's. Instructions are QEMU's exact counts; they are not cycles.

    python tools/bench_models.py             # the table
    python tools/bench_models.py --update    # write the baseline
    python tools/bench_models.py --model kwt-1-relu --board qemu-m4
    python tools/bench_models.py --model kwt-tiny --change head_dim=16 share=blocks
    python tools/bench_models.py --compare   # ours and other networks, side by side
    python tools/bench_models.py --traffic   # weights behind a cache
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sample_models  # noqa: E402

from kws import engines  # noqa: E402
from kws.deploy import boards, build, emission, run, traffic  # noqa: E402
from kws.emit import native  # noqa: E402
from kws.graph import cost, reader  # noqa: E402
from kws.recipe import Recipe  # noqa: E402

BASELINE = ROOT / "tests" / "baselines" / "models.json"
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
    parser.add_argument("--model", choices=MODELS | COMPARED)
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
    pairs = (change.split("=", 1) for change in options.change)
    more = {key: int(v) if v.isdigit() else v for key, v in pairs}
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


if __name__ == "__main__":
    sys.exit(main())
