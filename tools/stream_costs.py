"""What a second of sound costs a run, by kind of sound, on every emulated core.

QEMU counts executed instructions exactly (`-icount`), features included; they are not
cycles. Noise is made here; speech and words are of the validation split, which chose
nothing that is counted.

    python tools/stream_costs.py kwt-stream-tiny --ambient FOLDER
    python tools/stream_costs.py runs/mine --board qemu-m4 --json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import bundle as bundles  # noqa: E402
from kws import data  # noqa: E402
from kws.bundle import Bundle  # noqa: E402
from kws.data import ambient, tape  # noqa: E402
from kws.data.audio import SAMPLE_RATE  # noqa: E402
from kws.deploy import boards, emission, per_second  # noqa: E402

NAMES = ("qemu-m4", "qemu-m55", "qemu-m0")
SECONDS = 20


def sounds(bundle: Bundle, folder: Path | None) -> dict[str, np.ndarray]:
    """Name -> int16 [samples] of each kind of sound."""
    rng = np.random.default_rng(0)
    count = SECONDS * SAMPLE_RATE

    def noise(dbfs: float) -> np.ndarray:
        loud = rng.normal(0, 32768 * 10 ** (dbfs / 20), count)
        return np.clip(np.rint(loud), -32768, 32767).astype(np.int16)

    made = {
        "digital silence": np.zeros(count, np.int16),
        "white noise, -60 dBFS": noise(-60),
        "white noise, -45 dBFS": noise(-45),
    }
    if folder is not None:
        words = [label for label in bundle.labels if not label.startswith("_")]
        speech = ambient.joined(ambient.recordings(folder, "val", words))["speech"]
        made["speech"] = np.array(speech[:count])
    clips = data.load("val", bundle.recipe.task)
    made["words in noise"] = tape.build(
        clips.pcm,
        clips.label,
        clips.labels,
        data.noise_bank(None, "val"),
        seconds=SECONDS,
        seed=3,
    ).pcm
    return made


def measure(bundle: Bundle, board: str, pcm: np.ndarray) -> dict[str, float]:
    """Instructions a second, and of a step; the share of the MACs that is left."""
    chosen = boards.load(board)
    found = per_second.on_host(bundle, pcm, chosen.core)
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model", Path(folder) / "out"
        emission.emit_bundle(bundle, model, chosen.core)
        counted = per_second.on_board(bundle, chosen, model, out, pcm)
    return {
        **{
            name: getattr(counted, name)
            for name in (
                "features",
                "model",
                "total",
                "loop",
                "decision",
                "decision_max",
            )
        },
        "macs_left": float(found.macs.mean()) / found.macs_dense,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--ambient", type=Path, help="folder of ambient sound")
    parser.add_argument("--board", action="append", choices=NAMES)
    parser.add_argument("--dense", action="store_true", help="without its thresholds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = bundles.load(options.run)
    if options.dense:
        bundle = dataclasses.replace(bundle, thresholds={})
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, pcm in sounds(bundle, options.ambient).items():
        for board in options.board or NAMES:
            row = measure(bundle, board, pcm)
            table.setdefault(name, {})[board] = row
            if not options.json:
                print(
                    f"{name:<24}{board:<10}{row['total'] / 1e6:7.2f} M a second "
                    f"(features {row['features'] / 1e6:.2f}; the loop "
                    f"{row['loop'] / 1e6:.2f} more), "
                    f"{row['decision']:,} a step, at most {row['decision_max']:,}; "
                    f"{100 * row['macs_left']:.0f} % of MACs",
                    flush=True,
                )
    if options.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
