"""Instructions per row of a product, dense and by delta, against what is transmitted.

QEMU counts executed guest instructions exactly (`-icount`): they are not cycles. Where
the sparse kernel's line meets the dense one's is the crossover of docs/delta.md.

    python tools/bench_delta.py
    python tools/bench_delta.py --board qemu-m4 --compiler gcc --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kernel_support import image  # noqa: E402

from kws.deploy import boards, toolchain  # noqa: E402

NAMES = ("qemu-m0", "qemu-m4", "qemu-m55")


def measure(name: str, compiler: str | None) -> dict[str, dict[str, float]]:
    """Run the benchmark image of one board.

    Returns:
        "64x64", or "48x96 step" of one row a call -> {"dense": instructions per row,
        "0": .., "8": .., "crossover": share of transmitted elements at which both cost
        the same, above 1 where the sparse kernel is always cheaper}.
    """
    board = boards.load(name)
    with tempfile.TemporaryDirectory() as folder:
        elf = image.board([image.C / "delta_bench.c"], board, Path(folder), compiler)
        result = image.run_board(elf, board)
    if result.returncode != 0:
        raise RuntimeError(f"{name} {compiler}: {result.stdout}{result.stderr}")
    table: dict[str, dict[str, float]] = {}
    for line in result.stdout.splitlines():
        inputs, outputs, steps, sent, instructions, rows = map(int, line.split())
        key = "dense" if sent < 0 else str(sent)
        row = table.setdefault(f"{inputs}x{outputs}{' step' * steps}", {})
        row[key] = round(instructions / rows, 1)
    for shape, row in table.items():
        row["crossover"] = crossover(row, int(shape.split("x", 1)[0]))
    return table


def crossover(row: dict[str, float], inputs: int) -> float:
    """Transmitted share at which the sparse kernel costs as much as the dense one."""
    points = sorted((int(key), row[key]) for key in row if key.isdigit())
    for (n0, cost0), (n1, cost1) in zip(points, points[1:], strict=False):
        if cost1 >= row["dense"]:
            at = n0 + (n1 - n0) * max(0.0, row["dense"] - cost0) / (cost1 - cost0)
            return round(at / inputs, 2)
    (n0, cost0), (n1, cost1) = points[-2:]
    slope = (cost1 - cost0) / (n1 - n0)
    return round((n1 + (row["dense"] - cost1) / slope) / inputs, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--board", choices=NAMES)
    parser.add_argument("--compiler", choices=toolchain.NAMES)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in NAMES if arguments.board in (None, name)]
    measured = {name: measure(name, arguments.compiler) for name in names}
    if arguments.json:
        print(json.dumps(measured, indent=1))
        return 0
    for name, table in measured.items():
        for shape, row in table.items():
            print(f"{name} {shape}: dense {row['dense']:,.0f} instructions per row")
            sent = [key for key in row if key.isdigit()]
            print("  transmitted ", *(f"{key:>7}" for key in sent))
            print("  instructions", *(f"{row[key]:7,.0f}" for key in sent))
            print(f"  crossover at {row['crossover']:.0%} transmitted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
