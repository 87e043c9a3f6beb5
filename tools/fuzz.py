#!/usr/bin/env python
"""Run the fuzzing targets (tests/fuzzing) and say how far they have come.

    tools/fuzz.py                              each target for 10 seconds
    tools/fuzz.py --only command loop          some of them
    tools/fuzz.py --rounds 100 --seconds 60    a night's worth; Ctrl-C ends it
    tools/fuzz.py --seconds 0                  the table of what has been run so far

What was found, the corpus and the counts are kept in a folder (build/fuzz) from one call
to the next. A crash ends the run with exit code 1: the input that caused it is named.
Lines are those that gcov counts in what a target is for, on all inputs that were kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzzing import c_targets  # noqa: E402
from fuzzing.c_targets import TARGETS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=10, help="for each, in a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--no-table", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    counts = given.work / "counts.json"
    done = json.loads(counts.read_text()) if counts.exists() else {}
    failed = False
    try:
        for _ in range(given.rounds if given.seconds else 0):
            for name in given.only:
                failed |= run(name, given.work / name, given.seconds, done)
                counts.write_text(json.dumps(done))
            if failed:
                break
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    if not given.no_table:
        table(given.work, done)
    return int(failed)


def run(name: str, folder: Path, seconds: int, done: dict[str, list[float]]) -> bool:
    """One target for some seconds; whether it has crashed."""
    target = TARGETS[name]
    program = c_targets.build(target, folder, "fuzz")
    limit = f"-max_total_time={seconds}"
    ran = c_targets.fuzz(program, folder / "corpus", target, limit)
    before = done.get(name, [0, 0.0])
    done[name] = [before[0] + ran.executions, before[1] + ran.seconds]
    print(f"{name}: {done[name][0]:,} executions", file=sys.stderr, flush=True)
    if ran.crash is not None:
        print(f"{ran.crash[1]}\n{name} has crashed on {ran.crash[0]}", file=sys.stderr)
    return ran.crash is not None


def table(work: Path, done: dict[str, list[float]]) -> None:
    print("| target | executions | a second | lines reached |\n|---|---|---|---|")
    for name, (executions, seconds) in done.items():
        target, corpus = TARGETS[name], sorted((work / name / "corpus").iterdir())
        reached, lines = c_targets.coverage(target, work / name / "lines", corpus)
        print(
            f"| `{name}`: {target.about} | {int(executions):,} | "
            f"{executions / max(seconds, 1):,.0f} | {reached} of {lines} |"
        )
    total = sum(int(executions) for executions, _ in done.values())
    print(f"| all | {total:,} | | |")


if __name__ == "__main__":
    sys.exit(main())
