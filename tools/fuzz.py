#!/usr/bin/env python
"""Run the fuzzing targets (tests/fuzzing) and say how far they have come.

    tools/fuzz.py                              each target for 10 seconds
    tools/fuzz.py --only command elf           some of them
    tools/fuzz.py --rounds 100 --seconds 60    a night's worth; Ctrl-C ends it
    tools/fuzz.py --seconds 0                  the table of what has been run so far

The counts and what the C targets have found are kept in a folder (build/fuzz) from one
call to the next. A crash ends the run with exit code 1 and the input that caused it.
Lines: of what a target in C is for, what gcov counts on all inputs that were kept; of
the functions of the package that a reader enters, what 20 mutants reach.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzzing import c_targets, readers  # noqa: E402
from fuzzing.c_targets import TARGETS  # noqa: E402
from fuzzing.readers import READERS  # noqa: E402

from kws.bundle import write_atomic  # noqa: E402

NAMES = [*TARGETS, *READERS]
Counts = dict[str, tuple[int, float]]  # name -> executions, seconds


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seconds", type=int, default=10, help="for each, in a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    given = parser.parse_args()
    counts = given.work / "counts.json"
    done: Counts = json.loads(counts.read_text()) if counts.exists() else {}
    given.work.mkdir(parents=True, exist_ok=True)
    in_c = [name for name in given.only if name in TARGETS]
    in_python = [name for name in given.only if name in READERS]
    crash = ""
    try:
        for _ in range(given.rounds if given.seconds else 0):
            for name in in_c:
                crash += run_target(name, given.work / name, given.seconds, done)
                write_atomic(counts, json.dumps(done).encode())
            if in_python:
                crash += run_readers(in_python, given.seconds, done)
                write_atomic(counts, json.dumps(done).encode())
            if crash:
                print(crash, file=sys.stderr)
                break
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    table(given.work, done)
    return int(bool(crash))


def run_target(name: str, folder: Path, seconds: int, done: Counts) -> str:
    """One target in C for some seconds. Returns what was said of a crash, or ''."""
    target = TARGETS[name]
    program = c_targets.build(target, folder, "fuzz")
    limit = f"-max_total_time={seconds}"
    ran = c_targets.fuzz(program, folder / "corpus", target, limit)
    count(name, ran.executions, ran.seconds, done)
    return "" if ran.crash is None else f"{ran.crash[1]}\n{name}: {ran.crash[0]}\n"


def run_readers(names: list[str], seconds: int, done: Counts) -> str:
    """Each reader for some seconds, up to a crash; see `run_target`."""
    number = int(time.time())  # each run tries others
    result = read(names, "--seconds", str(seconds), "--seed", str(number))
    for line in result.stdout.splitlines():
        said = json.loads(line)
        count(said["name"], said["executions"], said["seconds"], done)
    return "" if result.returncode == 0 else result.stderr[-6000:]


def count(name: str, executions: int, seconds: float, done: Counts) -> None:
    before = done.get(name, (0, 0.0))
    done[name] = (before[0] + executions, before[1] + seconds)
    print(f"{name}: {done[name][0]:,} executions", file=sys.stderr, flush=True)


def read(names: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Readers in a process of their own, with the memory that it may take."""
    command = [sys.executable, "-W", "ignore", readers.__file__, *names, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(work: Path, done: Counts) -> None:
    print("| target | executions | a second | lines reached |\n|---|---|---|---|")
    python = [name for name in READERS if name in done]
    said = read(python, "--lines").stdout.splitlines() if python else []
    lines = {
        one["name"]: (one["reached"], one["lines"]) for one in map(json.loads, said)
    }
    for name in filter(done.__contains__, NAMES):
        if name in TARGETS:
            corpus = sorted((work / name / "corpus").iterdir())
            inputs = [*corpus, *c_targets.seeds(TARGETS[name])]
            lines[name] = c_targets.coverage(
                TARGETS[name], work / name / "lines", inputs
            )
        about = (TARGETS.get(name) or READERS[name]).about
        executions, seconds = done[name]
        rate = executions / max(seconds, 1)
        reached, known = lines.get(name, (0, 0))  # a reader that crashes has none
        print(
            f"| `{name}`: {about} | {executions:,} | {rate:,.0f} | "
            f"{reached} of {known} |",
            flush=True,
        )
    for what, names in (("in C", TARGETS), ("in Python", READERS)):
        total = sum(done[name][0] for name in names if name in done)
        print(f"| all {what} | {total:,} | | |")


if __name__ == "__main__":
    sys.exit(main())
