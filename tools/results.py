"""docs/results.json and its plots: what the shipped models for clips reach.

Accuracy is the official test files through the firmware's C (`kws eval`), instructions
are QEMU's, on the first hundred of them, flash and RAM the linker's and the run's.
Beside them what others published or what was measured of theirs, with its source; those
are facts, not measured here.

    python tools/results.py            # measure, write docs/results.json, draw
    python tools/results.py --draw     # draw what docs/results.json has
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "results.json"
BOARDS = ("qemu-m4", "qemu-m55", "qemu-m0")
CLIPS = 100  # that instructions are averaged over: what is skipped depends on them
LIMITS = {
    "instructions": (2e5, 2e10),
    "flash_bytes": (4e3, 2e7),
    "ram_bytes": (8e3, 4e6),
}
# Accuracy in percent, instructions on an M4; what is not known is left out.
REFERENCES: list[dict[str, Any]] = [
    {
        "name": "DS-CNN (MLPerf Tiny)",
        "accuracy": 92.2,
        "instructions": 7.70e6,
        "flash_bytes": 107_800,
        "source": "int8, TFLM with CMSIS-NN, same clips; measured before this project",
    },
    {
        "name": "KWT-1 (published)",
        "accuracy": 92.7,
        "instructions": 341e6,
        "ram_bytes": 216 * 1024,
        "source": "gsc12; TFLM with CMSIS-NN; measured before this project",
    },
    {
        "name": "MicroNet-KWS-S",
        "accuracy": 95.3,
        "flash_bytes": 102_000,
        "source": "paper; instructions not published",
    },
    {
        "name": "MicroNet-KWS-M",
        "accuracy": 95.8,
        "flash_bytes": 163_000,
        "source": "paper; instructions not published",
    },
    {
        "name": "MicroNet-KWS-L",
        "accuracy": 96.5,
        "flash_bytes": 612_000,
        "source": "paper; instructions not published",
    },
    {
        "name": "BC-ResNet-1",
        "accuracy": 96.9,
        "flash_bytes": 9_200,
        "source": "paper, float, 9.2 k parameters as bytes; no microcontroller "
        "figures; three times our training data",
    },
    {
        "name": "BC-ResNet-3",
        "accuracy": 98.2,
        "flash_bytes": 54_200,
        "source": "paper, float, 54.2 k parameters as bytes; as above",
    },
]


def kws(*arguments: str) -> dict[str, Any]:
    """One object of `kws ... --json`."""
    command = [str(Path(sys.executable).with_name("kws")), *arguments, "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}: {run.stdout or run.stderr}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def measure(name: str) -> dict[str, Any]:
    """One shipped model: accuracy, and its cost on every board."""
    found = kws("eval", name, "--split", "test", "--engine", "host")
    row: dict[str, Any] = {
        "name": name,
        "task": found["task"],
        "n": found["n"],
        "accuracy": 100 * found["accuracy"],
        "ci95": [100 * end for end in found["ci95"]],
        "mhsa_mac_cut": found["mhsa_mac_cut"],
        "mac_cut": found["mac_cut"],
        "boards": {},
    }
    for board in BOARDS:
        cost = kws("profile", name, "--board", board)
        keys = ("macs_dense", "flash_bytes", "weights_bytes")
        keys += ("ram_bytes", "arena_bytes", "stack_bytes")
        row["boards"][board] = {
            "instructions": instructions(name, board),
            **{key: cost[key] for key in keys},
        }
    return row


def instructions(name: str, board: str) -> int:
    """Of one decision, mean of official clips."""
    from kws import bundle, data
    from kws.deploy import boards, flash, run

    model, target = bundle.load(name), boards.load(board)
    clips = data.load("test", model.recipe.task, limit=CLIPS)
    with tempfile.TemporaryDirectory() as folder:
        image = flash.emit_and_build(model, target, Path(folder), app="clips")
        done = run.clips(image.elf, target, clips.pcm, len(model.labels))
    return done.instructions_per_inference


def draw(rows: list[dict[str, Any]]) -> None:
    """docs/results.png: accuracy against instructions, flash and RAM."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    axes_of = {
        "instructions": "instructions per decision, Cortex-M4",
        "flash_bytes": "flash, bytes (ours: whole firmware; BC-ResNet: parameters)",
        "ram_bytes": "RAM, bytes (ours: everything)",
    }
    figure, all_axes = pyplot.subplots(1, 3, figsize=(16, 6), sharey=True)
    for axes, (key, label) in zip(all_axes, axes_of.items(), strict=True):
        for row in rows:
            x = row["boards"]["qemu-m4"][key]
            low, high = row["ci95"]
            errors = [[row["accuracy"] - low], [high - row["accuracy"]]]
            axes.errorbar(x, row["accuracy"], errors, fmt="o", color="C0", capsize=3)
            # Ours are close to one another: gsc12's name goes below its interval.
            twelve = row["task"] == "gsc12"
            axes.annotate(
                row["name"],
                (x, low if twelve else row["accuracy"]),
                xytext=(0, -10) if twelve else (-8, 0),
                textcoords="offset points",
                fontweight="bold",
                horizontalalignment="center" if twelve else "right",
                verticalalignment="center",
            )
        for other in REFERENCES:
            if key in other:
                axes.plot(other[key], other["accuracy"], "x", color="C1")
                axes.annotate(
                    other["name"],
                    (other[key], other["accuracy"]),
                    xytext=(8, 0),
                    textcoords="offset points",
                    color="C1",
                    verticalalignment="center",
                )
        axes.set_xscale("log")
        axes.set_xlim(*LIMITS[key])
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, which="both")
    all_axes[0].set_ylabel("accuracy on the official test files, %")
    figure.tight_layout()
    figure.savefig(FILE.with_suffix(".png"), dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draw", action="store_true", help="Measure nothing.")
    options = parser.parse_args()
    if not options.draw:
        from kws.bundle import PRETRAINED, load

        names = sorted(path.parent.name for path in PRETRAINED.glob("*/bundle.json"))
        # Networks for streams cost by the second: tools/stream_costs.py.
        names = [name for name in names if not load(name).recipe.model.causal]
        table = {"models": [measure(name) for name in names], "references": REFERENCES}
        FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    draw(json.loads(FILE.read_text("utf-8"))["models"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
