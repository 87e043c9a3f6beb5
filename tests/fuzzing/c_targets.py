"""The firmware's C under libFuzzer, the address and undefined-behaviour sanitizers.

A target is tests/fuzzing/c/NAME.c with what it needs of the firmware, and a folder of
seeds. It is built three ways: with clang for libFuzzer; with any compiler around
replay.c, which runs it on files; and like that for gcov, to count the lines reached.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fake_model import FakeModel

from fuzzing import networks
from kws import bundle as bundles
from kws.emit import native
from kws.emit.common import FEATURES, MODEL
from kws.features.tables import c_source
from kws.paths import FIRMWARE
from kws.recipe import Detector, Features

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
MEGABYTES = 512  # of memory, for a target
TIMEOUT_S = 20  # for one input

_FLAGS = ("-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-fno-omit-frame-pointer")
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# libFuzzer is led by the firmware's branches. Those of what checks it byte by byte, and
# what was compared with what, took two thirds of the time and found no line more.
_FUZZ = ("-fsanitize=fuzzer", "-fno-sanitize-coverage=trace-cmp")
_UNSEEN = "-fno-sanitize-coverage=edge,inline-8bit-counters,pc-table,indirect-calls"
# Of what was freed, and of where, less is kept than the default: it is touched anew in
# each execution.
_ASAN = "quarantine_size_mb=1:malloc_context_size=8"
_INCLUDES = (*(FIRMWARE / name for name in ("include", "src", "app")), HERE / "c")
_BOARD = ("app/command.c", "app/print.c", "src/kws.c", "src/detector.c")
_BOARD += ("src/features.c", "host/silent_board.c")

# The smallest of everything: many frames and decisions in each execution.
SMALL = FakeModel(
    features=Features(
        window=64, hop=32, fft_size=128, frames=48, mel_bins=8, low_hz=100.0
    ),
    detector=Detector(
        hop_frames=2, smoothing=2, threshold=0.8, rearm=0.4, refractory_ms=20
    ),
    memory=True,
)
SPECS = (
    Features(),
    SMALL.features,
    Features(window=256, hop=100, fft_size=256, mel_bins=20, power=1, floor=-80),
    Features(window=480, hop=480, fft_size=512, mel_bins=80, low_hz=60, scale=0.05),
)


@dataclass(frozen=True)
class Target:
    """One of them.

    Args:
        name: Of its .c and of its seeds.
        about: What is fuzzed, in a few words.
        firmware: Its sources in firmware/.
        subject: Of all files compiled, those whose lines count as coverage.
        generate: Writes C into a folder.
        max_bytes: Longest input.
    """

    name: str
    about: str
    firmware: tuple[str, ...]
    subject: tuple[str, ...]
    generate: Callable[[Path], list[Path]]
    max_bytes: int = 512


def _nothing(folder: Path) -> list[Path]:
    return []


def _fake(folder: Path) -> list[Path]:
    return [SMALL.write(folder) / "kws_model.c"]


def _specs(folder: Path) -> list[Path]:
    names = [f"features_{i}" for i in range(len(SPECS))]
    texts = [c_source(spec, name) for spec, name in zip(SPECS, names, strict=True)]
    pointers = ", ".join(f"&{name}" for name in names)
    texts.append(
        "extern const kws_feature_spec_t *const fuzz_features[];\n"
        f"const kws_feature_spec_t *const fuzz_features[] = {{{pointers}}};\n"
        f"const unsigned fuzz_features_count = {len(names)};\n"
    )
    path = folder / "fuzz_features.c"
    path.write_text("\n".join(texts))
    return [path]


SHIPPED = ("kwt-tiny", "kwt-stream-tiny")


def _networks(folder: Path) -> list[Path]:
    """Each in a file of its own, its symbols renamed, and a table of them."""
    names = [*networks.RECIPES, *SHIPPED]
    files, rows, declared = [], [], []
    for place, name in enumerate(names):
        if name in SHIPPED:
            bundle = bundles.load(name)
        else:
            bundle = networks.bundle(name, folder / "bundles" / name)
        texts = native.sources(bundle, "portable").texts
        symbols = ("kws_model_info", "kws_model_reset", "kws_model_step")
        symbols += ("kws_model_features",)
        renamed = [f"#define {symbol} {symbol}_{place}" for symbol in symbols]
        path = folder / f"network_{place}.c"
        path.write_text("\n".join([*renamed, texts[FEATURES], texts[MODEL]]))
        files.append(path)
        declared += [
            f"extern const kws_model_info_t kws_model_info_{place};",
            f"void kws_model_reset_{place}(void);",
            f"void kws_model_step_{place}(const int8_t *, uint32_t, int8_t *);",
        ]
        rows.append(
            f"  {{&kws_model_info_{place}, kws_model_reset_{place}, "
            f"kws_model_step_{place}}},"
        )
    table = folder / "fuzz_networks.c"
    table.write_text(
        "\n".join(
            [
                '#include "fuzz_networks.h"',
                *declared,
                "const fuzz_network_t fuzz_networks[] = {",
                *rows,
                "};",
                f"const unsigned fuzz_networks_count = {len(names)};\n",
            ]
        )
    )
    return [*files, table]


TARGETS = {
    target.name: target
    for target in (
        Target(
            "command",
            "serial commands and their frames",
            _BOARD,
            ("command.c",),
            _fake,
            max_bytes=256,  # a command has 80
        ),
        Target(
            "detector",
            "any settings, any logits",
            ("src/detector.c",),
            ("detector.c",),
            _nothing,
        ),
        Target("print", "serial lines out", _BOARD, ("print.c",), _fake),
        Target(
            "features",
            f"{len(SPECS)} specifications, any samples",
            ("src/features.c",),
            ("features.c",),
            _specs,
        ),
        Target(
            "loop",
            "kws.h in any order, pieces of any size",
            ("src/kws.c", "src/detector.c", "src/features.c"),
            ("kws.c", "detector.c"),
            _fake,
            max_bytes=160,
        ),
        Target(
            "network",
            f"emitted C of {len(networks.RECIPES) + len(SHIPPED)} networks, clips and "
            "streams, thresholds",
            tuple(f"src/kernels_{part}.c" for part in ("common", "portable", "delta")),
            ("kernels_common.c", "kernels_portable.c", "kernels_delta.c"),
            _networks,
        ),
    )
}


def source(target: Target) -> Path:
    """The target's own C."""
    return HERE / "c" / f"{target.name}.c"


def seeds(target: Target) -> list[Path]:
    """The inputs that are kept in the repository."""
    return sorted((SEEDS / target.name).iterdir())


@cache
def clang() -> str | None:
    """The compiler with libFuzzer, or None: tools/setup.sh installs it."""
    found = shutil.which("clang")
    if found is None:
        return None
    result = subprocess.run(
        [found, "-fsanitize=fuzzer,address", "-x", "c", "-", "-o", os.devnull],
        input=b"int LLVMFuzzerTestOneInput(void) { return 0; }",
        capture_output=True,
        check=False,
    )
    return found if result.returncode == 0 else None


def build(
    target: Target, folder: Path, way: str, instead: Mapping[Path, Path] | None = None
) -> Path:
    """Compile a target.

    Args:
        target: One of TARGETS.
        folder: For the program; made if missing. Objects lie beside it, for others.
        way: `fuzz` (clang, libFuzzer), `replay` (cc, sanitized) or `gcov` (cc).
        instead: Sources of the firmware -> what is compiled in their place.

    Raises:
        RuntimeError: the compiler's own words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiler, flags = "cc", [*_FLAGS, "-O2", *_SANITIZE]
    parts = [source(target), *(FIRMWARE / name for name in target.firmware)]
    parts += target.generate(folder)
    if way == "fuzz":
        compiler, flags = str(clang()), [*flags, *_FUZZ]
    else:
        parts.append(HERE / "c" / "replay.c")
    if way == "gcov":
        flags = [*_FLAGS, "-O0", "--coverage"]
    flags += [f"-I{path}" for path in _INCLUDES]
    objects = folder / "objects" if way == "gcov" else folder.parent / "objects"
    objects.mkdir(exist_ok=True)
    made = []
    for part in parts:  # targets share most of them
        own = flags if part != source(target) or way != "fuzz" else [*flags, _UNSEEN]
        part = (instead or {}).get(part, part)
        digest = hashlib.sha256("\0".join([compiler, *own]).encode())
        for path in (part, *_headers()):
            digest.update(path.read_bytes())
        made.append(objects / f"{part.stem}-{digest.hexdigest()[:12]}.o")
        if not made[-1].exists():
            _run([compiler, *own, "-c", str(part), "-o", str(made[-1])])
    key = hashlib.sha256("".join(path.name for path in made).encode()).hexdigest()
    program = folder / f"{way}-{key[:12]}"
    if not program.exists():
        _run([compiler, *flags, *map(str, made), "-o", str(program)])
    return program


def _headers() -> list[Path]:
    return sorted(path for folder in _INCLUDES for path in folder.glob("*.h"))


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)


def replay(program: Path, files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """Run a target once on each file."""
    return subprocess.run(
        [str(program), *map(str, files)],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Ran:
    """What a run of libFuzzer did.

    Args:
        executions: How many inputs.
        seconds: How long it took.
        crash: The input that ended it and what was said of it; None: nothing did.
    """

    executions: int
    seconds: float
    crash: tuple[Path, str] | None


def fuzz(program: Path, corpus: Path, target: Target, *limits: str) -> Ran:
    """Run a target under libFuzzer on its seeds and a corpus, which grows.

    Args:
        program: Built the way `fuzz`.
        corpus: A folder; made if missing.
        target: Which.
        limits: libFuzzer's -max_total_time=, -runs=, -seed=.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    kept = program.parent / "crash-"
    command = [str(program), str(corpus), str(SEEDS / target.name), *limits]
    # What the kernel calls the most that a process held is also its parent's before
    # exec: of a large one every target would seem out of memory. So one allocation is
    # limited, not the whole.
    command += [f"-max_len={target.max_bytes}", "-rss_limit_mb=0"]
    command += [f"-malloc_limit_mb={MEGABYTES}"]
    command += [f"-timeout={TIMEOUT_S}", "-print_final_stats=1", "-verbosity=1"]
    command += [f"-artifact_prefix={kept}"]
    result = subprocess.run(
        command,
        env=os.environ | {"ASAN_OPTIONS": _ASAN},
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stderr
    counted = re.search(r"stat::number_of_executed_units: (\d+)", said)
    took = re.search(r"Done \d+ runs in (\d+) second", said)
    crash = None
    if result.returncode != 0:
        found = re.search(r"Test unit written to (\S+)", said)
        crash = (Path(found[1] if found else "?"), said[-6000:])
    return Ran(
        int(counted[1]) if counted else 0, float(took[1]) if took else 0.0, crash
    )


def coverage(target: Target, folder: Path, inputs: Sequence[Path]) -> tuple[int, int]:
    """Lines of the target's subject that inputs reach, and all of them (gcov)."""
    program = build(target, folder, "gcov")
    for part in range(0, len(inputs), 500):
        result = replay(program, inputs[part : part + 500])
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
    reached: dict[tuple[str, int], bool] = {}
    for notes in (folder / "objects").glob("*.gcda"):
        said = subprocess.run(
            ["gcov", "--json-format", "--stdout", str(notes)],
            cwd=folder,
            capture_output=True,
            check=True,
        )
        for text in said.stdout.splitlines():
            for file in json.loads(text)["files"]:
                if Path(file["file"]).name not in target.subject:
                    continue
                if HERE in Path(file["file"]).parents:
                    continue  # the target's own file has the subject's name
                for line in file["lines"]:
                    key = (file["file"], line["line_number"])
                    reached[key] = reached.get(key, False) or line["count"] > 0
    return sum(reached.values()), len(reached)
