#!/usr/bin/env python
"""Run the fuzzing targets (tests/fuzzing) and say how far they have come.

    tools/fuzz.py                              each target for 10 seconds
    tools/fuzz.py --only command elf           some of them
    tools/fuzz.py --rounds 100 --seconds 60    a night's worth; Ctrl-C ends it
    tools/fuzz.py --seconds 0                  the table of what has been run so far

The counts and what the C targets have found are kept in a folder (build/fuzz) from one
call to the next. A crash ends the run with exit code 1 and the input that caused it.
Lines: of what a target in C is for, what gcov counts on all inputs that were kept; of
the functions of the package that a reader enters, what 150 mutants reach.
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
    crashed = False
    try:
        for _ in range(given.rounds if given.seconds else 0):
            for name in given.only:
                crash = run(name, given.work / name, given.seconds, done)
                counts.write_text(json.dumps(done))
                if crash:
                    print(f"{crash}\n{name} has crashed", file=sys.stderr)
                    crashed = True
            if crashed:
                break
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    table(given.work, done)
    return int(crashed)


def run(name: str, folder: Path, seconds: int, done: Counts) -> str:
    """One target for some seconds. Returns what was said of a crash, or ''."""
    executions, took = done.get(name, (0, 0.0))
    crash = ""
    if name in TARGETS:
        target = TARGETS[name]
        program = c_targets.build(target, folder, "fuzz")
        limit = f"-max_total_time={seconds}"
        ran = c_targets.fuzz(program, folder / "corpus", target, limit)
        if ran.crash is not None:
            crash = f"{ran.crash[1]}\n{ran.crash[0]}"
        new = (ran.executions, ran.seconds)
    else:
        number = int(time.time())  # each run tries others
        result = reader(name, "--seconds", str(seconds), "--seed", str(number))
        if result.returncode != 0:
            crash = result.stderr[-6000:]
        said = json.loads(result.stdout) if result.stdout else {}
        new = (said.get("executions", 0), said.get("seconds", 0.0))
    done[name] = (executions + new[0], took + new[1])
    print(f"{name}: {done[name][0]:,} executions", file=sys.stderr, flush=True)
    return crash


def reader(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", readers.__file__, name, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(work: Path, done: Counts) -> None:
    print("| target | executions | a second | lines reached |\n|---|---|---|---|")
    for name in filter(done.__contains__, NAMES):
        executions, seconds = done[name]
        if name in TARGETS:
            about, corpus = TARGETS[name].about, work / name / "corpus"
            inputs = [*sorted(corpus.iterdir()), *c_targets.seeds(TARGETS[name])]
            lines = c_targets.coverage(TARGETS[name], work / name / "lines", inputs)
        else:
            about, found = (
                READERS[name].about,
                json.loads(reader(name, "--lines").stdout),
            )
            lines = found["reached"], found["lines"]
        rate = executions / max(seconds, 1)
        print(
            f"| `{name}`: {about} | {executions:,} | {rate:,.0f} | "
            f"{lines[0]} of {lines[1]} |",
            flush=True,
        )
    for what, names in (("in C", TARGETS), ("in Python", READERS)):
        total = sum(done[name][0] for name in names if name in done)
        print(f"| all {what} | {total:,} | | |")


if __name__ == "__main__":
    sys.exit(main())
