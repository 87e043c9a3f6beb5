"""Instructions per multiply-accumulate of each kernel on each emulated core.

QEMU counts executed guest instructions exactly (`-icount`): they are not cycles.

    python tools/bench_kernels.py            # print the table
    python tools/bench_kernels.py --check    # compare with tests/baselines/kernels.json
    python tools/bench_kernels.py --update   # write tests/baselines/kernels.json
    python tools/bench_kernels.py --board qemu-m4 --compiler gcc   # only that one
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

BASELINE = ROOT / "tests" / "baselines" / "kernels.json"
NAMES = ("qemu-m0", "qemu-m4", "qemu-m33", "qemu-m55")
# Share by which a count may grow before --check fails; another compiler version moves
# counts by a few percent.
TOLERANCE = 0.05


def measure(name: str, compiler: str) -> dict[str, dict[str, float]]:
    """Run the benchmark image of one board.

    Returns:
        kernel -> {"instructions", "units", "per_unit"}.
    """
    board = boards.load(name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        elf = image.board([image.C / "kernel_bench.c"], board, out, compiler)
        result = image.run_board(elf, board)
    if result.returncode != 0:
        raise RuntimeError(f"{name} {compiler}: {result.stdout}{result.stderr}")
    table = {}
    for line in result.stdout.splitlines():
        kernel, instructions, units = line.split()
        table[kernel] = {
            "instructions": int(instructions),
            "units": int(units),
            "per_unit": round(int(instructions) / int(units), 3),
        }
    return table


def measure_all(
    board: str | None = None, compiler: str | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Every board with every compiler on this machine: "board/compiler" -> table."""
    return {
        f"{name}/{tools.name}": measure(name, tools.name)
        for name in NAMES
        for tools in toolchain.available()
        if board in (None, name) and compiler in (None, tools.name)
    }


def regressions(
    measured: dict[str, dict[str, dict[str, float]]],
    baseline: dict[str, dict[str, int]],
) -> list[str]:
    """One line per kernel that got slower than its baseline allows, or has none."""
    problems = []
    for target, table in measured.items():
        for kernel, row in table.items():
            known = baseline.get(target, {}).get(kernel)
            if known is None:
                problems.append(f"{target} {kernel}: not in the baseline")
            elif row["instructions"] > known * (1 + TOLERANCE):
                problems.append(
                    f"{target} {kernel}: {row['instructions']:,} instructions, "
                    f"baseline {known:,} + {TOLERANCE:.0%}"
                )
    return problems


def print_table(measured: dict[str, dict[str, dict[str, float]]]) -> None:
    """Instructions per MAC (or per element) by kernel and core."""
    targets = list(measured)
    print(f"{'instructions per MAC or element':38}", *(f"{t:>12}" for t in targets))
    for kernel in measured[targets[0]]:
        row = (f"{measured[target][kernel]['per_unit']:12.3f}" for target in targets)
        print(f"{kernel:38}", *row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--board", choices=NAMES)
    parser.add_argument("--compiler", choices=toolchain.NAMES)
    arguments = parser.parse_args()
    measured = measure_all(arguments.board, arguments.compiler)
    if not measured:
        parser.error("no cross compiler is installed (kws doctor)")
    print_table(measured)
    if arguments.update:
        counts = json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {}
        for target, table in measured.items():
            counts[target] = {name: row["instructions"] for name, row in table.items()}
        BASELINE.parent.mkdir(exist_ok=True)
        BASELINE.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    if arguments.check:
        problems = regressions(measured, json.loads(BASELINE.read_text("utf-8")))
        print("\n".join(problems) or "No kernel is slower than its baseline.")
        return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
