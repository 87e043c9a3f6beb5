"""Hours of sound through the firmware's loop, here and on emulated boards.

What comes out has to be the same everywhere, bit for bit, and nothing may be lost or
drift: the audio clock, frames, decisions, events, the sequence of lines, and every
logit are compared with what the number of samples says, and with one another. 20
seconds after the start all counters pass the place where 32 bits end.

The sound is made here, minute by minute: silence, noise and tones from -80 dBFS to full
scale, clicks, clipping, and words by eSpeak NG where it is installed.

    python tools/soak.py                     # 24 h here, 1 h on an M4 and an M0+
    python tools/soak.py --hours 0.1 --guest-hours 0.02 --sanitize
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import bundle as bundles  # noqa: E402
from kws.bundle import Bundle  # noqa: E402
from kws.data import synth  # noqa: E402
from kws.deploy import boards, build, host, monitor, run, runners, toolchain  # noqa: E402
from kws.deploy.boards import Board  # noqa: E402
from kws.deploy.frame import Frames  # noqa: E402
from kws.emit import MODEL, SELFTEST, native, selftest  # noqa: E402
from kws.errors import KwsError  # noqa: E402
from kws.paths import FIRMWARE  # noqa: E402
from kws.recipe import SILENCE, UNKNOWN  # noqa: E402

RATE = 16000
PIECE_S = 5  # of one kind of sound
WRAP_S = 20  # when counters wrap
BOARDS = ("qemu-m4", "qemu-m0")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
C = ROOT / "tests" / "c"
RENAMED = "".join(
    f"#define kws_model_{name} emitted_model_{name}\n" for name in ("reset", "step")
)


# --- sound ----------------------------------------------------------------------------


@functools.cache
def spoken(words: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Each word by some voices, int16; () where nobody speaks here."""
    try:
        pcm, windows = synth.spoken_stream(list(words) * 3, 1, "train", 60.0)
    except KwsError:
        return ()
    return tuple(pcm[int(w.start_s * RATE) : int(w.end_s * RATE)] for w in windows)


def _piece(rng: np.random.Generator, words: tuple[np.ndarray, ...]) -> np.ndarray:
    """PIECE_S seconds of one kind of sound, float, full scale being 32768."""
    count = PIECE_S * RATE
    time_s = np.arange(count) / RATE
    level = 32768 * 10 ** (rng.uniform(-80, 0) / 20)
    kind = rng.choice(("silence", "noise", "tone", "clicks", "square", "speech"))
    if kind == "silence":
        return np.zeros(count)
    if kind == "tone":
        hertz = rng.uniform(50, 7900) * (1 + rng.uniform(0, 1) * time_s / PIECE_S)
        return level * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    if kind == "clicks":
        return 32768.0 * (rng.random(count) < 1e-3) * rng.choice((-1, 1), count)
    if kind == "square":
        return np.where(time_s % rng.uniform(0.0005, 1) < 0.01, 32767.0, -32768.0)
    noise = level * rng.normal(0, 0.3, count)
    if kind == "speech" and words:
        noise /= 30
        for start in range(0, count - RATE, RATE):
            word = words[rng.integers(len(words))][:RATE]
            noise[start : start + len(word)] += rng.uniform(0.3, 4) * word
    return noise


def minutes(words: tuple[str, ...], seed: int = 0) -> Iterator[np.ndarray]:
    """int16 [60 * RATE], without an end; a function of the words and the seed."""
    known = spoken(tuple(w for w in words if w not in (SILENCE, UNKNOWN)))
    for index in itertools.count():
        rng = np.random.default_rng([seed, index])
        pieces = [_piece(rng, known) for _ in range(60 // PIECE_S)]
        pcm = np.rint(np.concatenate(pieces))
        yield np.clip(pcm, -32768, 32767).astype("<i2")


def sound(bundle: Bundle, samples: int) -> Iterator[np.ndarray]:
    """So many samples, in pieces."""
    for pcm in minutes(bundle.labels):
        yield pcm[:samples]
        samples -= len(pcm)
        if samples <= 0:
            return


# --- counters -------------------------------------------------------------------------


@dataclass(frozen=True)
class Wraps:
    """What is added to the counters, once the self-test is over.

    Args:
        samples: To the audio clock: it passes 2^32 samples' low word and 2^32 ms.
        frames, inferences, events: To what the statistics count.
        halves: To a board's half-buffers.
    """

    samples: int
    frames: int
    inferences: int
    events: int
    halves: int

    @classmethod
    def of(cls, bundle: Bundle, wrap_s: float) -> Wraps:
        spec, detector = bundle.recipe.features, bundle.recipe.detector
        # Whole rings, of any model: the samples in it stay where they are.
        before = round(wrap_s * RATE) // 65536 * 65536
        if before == 0:
            raise ValueError("counters wrap after 5 seconds at the earliest")
        frames = before // spec.hop
        return cls(
            2**36 - before,
            2**32 - frames,
            2**32 - frames // detector.hop_frames,
            2**32 - 1,
            2**32 - before // 160,
        )

    def variables(self) -> list[tuple[str, int, int, int]]:
        """Symbol, bytes into it, how much is added, size."""
        stats = {"frames": 16, "inferences": 24, "events": 32}  # kws_stats_t
        beat = {"frames": 0, "inferences": 8}  # of print.c
        return [
            *((n, 0, self.samples % 2**32, 4) for n in ("ring_head", "ring_tail")),
            *((n, 0, self.samples, 8) for n in ("samples_consumed", "next_beat")),
            ("fed_at", 0, self.samples, 8),
            *(("stats", at, getattr(self, n), 8) for n, at in stats.items()),
            *(("last_beat", at, getattr(self, n), 8) for n, at in beat.items()),
            *((n, 0, self.halves, 4) for n in ("halves_arrived", "halves_seen")),
        ]

    def write(self, image: Path, path: Path) -> None:
        """presets.raw for an image: address, how much, size, each in 64 bits."""
        with image.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            found = {s.name.split(".")[0]: s["st_value"] for s in table.iter_symbols()}
        rows = [
            (found[name] + at, add, size)
            for name, at, add, size in self.variables()
            if name in found or not name.startswith("halves")  # boards alone have them
        ]
        path.write_bytes(np.array(rows, "<u8").tobytes())


# --- one run --------------------------------------------------------------------------


@dataclass
class Heard:
    """What a run gave.

    Args:
        where: `host`, or the board.
        samples: That it heard.
        logits: The file with all of them.
        labels: Logits of a decision.
        text: What it printed.
        took_s: Seconds here.
        problems: Why it is no success.
    """

    where: str
    samples: int
    logits: Path
    labels: int
    text: str
    took_s: float
    problems: list[str] = field(default_factory=list)
    events: list[tuple[str, int, int, str]] = field(default_factory=list)
    beats: int = 0
    late_ms: int = 0  # of the beat that was most behind its second
    decisions: int = 0

    def check(self, bundle: Bundle, wraps: Wraps) -> None:
        """Compare what was printed with what the number of samples says."""
        spec, detector = bundle.recipe.features, bundle.recipe.detector
        frames = (self.samples - spec.window) // spec.hop + 1
        step = detector.hop_frames
        self.decisions = (frames - spec.frames) // step + 1
        lines, stats = self._lines(), dict[str, str]()
        begin = wraps.samples // 16
        last = begin
        for kind, pairs in lines:
            if kind == "event":
                start, end = int(pairs["start_ms"]), int(pairs["time_ms"])
                told = (pairs["word"], start - begin, end - begin, pairs["score"])
                self.events.append(told)
            elif kind == "beat":
                self.beats += 1
                now = int(pairs["time_ms"])
                if not 0 <= now - last <= 1500:
                    self.problems.append(f"a beat at {now} ms, the last at {last}")
                last = now
                self.late_ms = max(self.late_ms, (now - begin) % 1000)
                if pairs["overruns"] != "0":
                    self.problems.append(f"{pairs['overruns']} samples lost at {now}")
            elif kind == "stats":
                stats = pairs
            elif kind in ("fault", "error"):
                self.problems.append(f"{kind} {pairs}")
        end = begin + self.samples // 16
        if not 0 <= end - last < 1100 or self.beats != self.samples // RATE:
            self.problems.append(f"{self.beats} beats, the last at {last} of {end} ms")
        expected = {
            "samples": wraps.samples + self.samples,
            "overruns": 0,
            "frames": wraps.frames + frames,
            "inferences": wraps.inferences + self.decisions,
            "events": wraps.events + len(self.events),
        }
        for key, value in expected.items():
            if stats.get(key) != str(value):
                self.problems.append(f"{key}: {stats.get(key)}, expected {value}")
        clip = bundle.recipe.features.clip_samples
        at_boot = ((clip - spec.window) // spec.hop + 1 - spec.frames) // step + 1
        size = (at_boot + self.decisions) * self.labels
        if self.logits.stat().st_size != size:
            self.problems.append(f"{self.logits.stat().st_size} logits of {size}")

    def _lines(self) -> list[tuple[str, dict[str, str]]]:
        frames, lines = Frames(), []
        for line in self.text.splitlines():
            body, missing = frames.take(line)
            parsed = None if body is None else monitor.parse_line(body)
            if parsed is None or missing:
                self.problems.append(f"a line broken or missing at {line[:80]!r}")
            else:
                lines.append(parsed)
        if not lines or lines[-1][0] != "end":
            self.problems.append(f"it did not reach its end: {self.text[-200:]!r}")
        return lines

    def hash(self, size: int | None = None) -> str:
        """SHA-256 of all logits, or of the first ones."""
        digest = hashlib.sha256()
        with self.logits.open("rb") as file:
            left = self.logits.stat().st_size if size is None else size
            while left > 0 and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()


def write_model(bundle: Bundle, core: str, folder: Path) -> None:
    """The emitted C, with tests/c/soak_model.c between it and the loop."""
    folder.mkdir(parents=True)
    logits, _ = host.selftest_run(bundle)
    codes = selftest.clip(bundle.recipe.features.clip_samples)
    texts = {
        **native.sources(bundle, core).texts,
        SELFTEST: selftest.source(logits, codes),
        "soak_model.c": (C / "soak_model.c").read_text("ascii"),
    }
    texts[MODEL] = RENAMED + texts[MODEL]
    for name, text in texts.items():
        (folder / name).write_text(text, "ascii")


def on_host(
    bundle: Bundle, samples: int, folder: Path, wraps: Wraps, sanitize: bool = False
) -> Heard:
    """Through the firmware's C on this machine, as fast as it goes."""
    write_model(bundle, "portable", folder / "model")
    program = folder / "soak"
    app = ("listen.c", "command.c", "print.c")
    includes = ("include", "src", "app", "host", "boards/common")
    sources = [
        *sorted((folder / "model").glob("*.c")),
        *sorted((FIRMWARE / "src").glob("*.c")),
        *(FIRMWARE / "app" / name for name in app),
        FIRMWARE / "host" / "listen_host.c",
        FIRMWARE / "host" / "silent_board.c",
        C / "soak_host.c",
    ]
    fast = "-O1" if sanitize else "-O3"
    command = [*(toolchain.host() or ["cc"]), "-std=c11", fast, "-g", "-no-pie"]
    command += ["-Wall", "-Wextra", "-Werror", "-DKWS_CORE_PORTABLE=1"]
    command += SANITIZE if sanitize else ()
    command += [f"-I{FIRMWARE / name}" for name in includes]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    wraps.write(program, folder / "presets.raw")
    start = time.monotonic()
    out = folder / "text.log"
    with (
        out.open("wb") as text,
        subprocess.Popen(
            [str(program)], cwd=folder, stdin=subprocess.PIPE, stdout=text
        ) as process,
    ):
        assert process.stdin is not None
        for pcm in sound(bundle, samples):
            process.stdin.write(pcm.tobytes())
        process.stdin.close()
    return _done("host", bundle, samples, folder, out.read_text("utf-8"), start, wraps)


def on_board(
    bundle: Bundle, board: Board, samples: int, folder: Path, wraps: Wraps
) -> Heard:
    """Through an emulated board's microphone path, at the part's speed."""
    write_model(bundle, board.core, folder / "model")
    image = build.build(folder / "model", board, folder).elf
    wraps.write(image, folder / "presets.raw")
    audio = folder / "audio.raw"
    with audio.open("wb") as file:
        for pcm in sound(bundle, samples):
            file.write(pcm.tobytes())
    start = time.monotonic()
    half_buffer = board.instructions_per_second / run.HALF_BUFFERS_PER_SECOND
    arguments = {"audio": audio.name, "pace": str(int(half_buffer))}
    limit = 120 + 20 * samples / RATE
    outcome = runners.get(board.runner).run(image, board, arguments, folder, limit)
    audio.unlink()
    return _done(board.name, bundle, samples, folder, outcome.text, start, wraps)


def _done(
    where: str,
    bundle: Bundle,
    samples: int,
    folder: Path,
    text: str,
    start: float,
    wraps: Wraps,
) -> Heard:
    took = time.monotonic() - start
    labels = len(bundle.labels)
    heard = Heard(where, samples, folder / "logits.raw", labels, text, took)
    if not heard.logits.is_file():
        heard.problems.append(f"it decided nothing, and said {text[-300:]!r}")
        heard.logits.touch()
    heard.check(bundle, wraps)
    return heard


def differ(one: Heard, other: Heard) -> list[str]:
    """Where two runs that heard the same differ, over the shorter one."""
    short, long = sorted((one, other), key=lambda heard: heard.samples)
    problems = []
    size = short.logits.stat().st_size
    if short.hash() != long.hash(size):
        a, b = (np.fromfile(x.logits, np.int8, size) for x in (short, long))
        same = len(a) == len(b)
        first = int(np.argmax(a != b)) // short.labels if same else len(b)
        problems.append(f"{one.where}, {other.where}: other logits from row {first} on")
    last = short.samples // 16
    begun = [event for event in long.events if event[2] <= last]
    if short.events != begun:
        problems.append(f"{one.where} and {other.where} heard other words")
    return problems


def exact(bundle: Bundle) -> Iterable[Bundle]:
    """Without delta encodings, and with all of them at threshold 0: the same bits."""
    zero = dict.fromkeys(bundle.thresholds, 0)
    return (dataclasses.replace(bundle, thresholds=t) for t in ({}, zero))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="kwt-stream-tiny")
    parser.add_argument("--hours", type=float, default=24.0, help="here")
    parser.add_argument("--guest-hours", type=float, default=1.0, help="each board")
    parser.add_argument("--exact-hours", type=float, default=1.0, help="thresholds 0")
    parser.add_argument("--board", action="append", choices=boards.names())
    parser.add_argument("--sanitize", action="store_true", help="here")
    options = parser.parse_args()
    bundle = bundles.load(options.run)
    wraps = Wraps.of(bundle, WRAP_S)
    here, there, plain = (
        round(3600 * RATE * hours)
        for hours in (options.hours, options.guest_hours, options.exact_hours)
    )
    problems: list[str] = []

    def show(heard: Heard, what: str) -> Heard:
        problems.extend(f"{what}: {problem}" for problem in heard.problems[:5])
        print(
            f"{what:<22} {heard.samples / RATE / 3600:6.2f} h of sound in "
            f"{heard.took_s:6.0f} s: {heard.decisions:,} decisions, "
            f"{len(heard.events):,} words, {heard.beats:,} beats (late by at most "
            f"{heard.late_ms} ms), SHA-256 {heard.hash()[:16]}, "
            f"{len(heard.problems)} problems",
            flush=True,
        )
        return heard

    with tempfile.TemporaryDirectory(prefix="kws-soak-") as name:
        folder = Path(name)
        first = on_host(bundle, here, folder / "host", wraps, options.sanitize)
        show(first, "host")
        for board in options.board or BOARDS:
            guest = on_board(bundle, boards.load(board), there, folder / board, wraps)
            problems += differ(show(guest, board), first)
        if plain and bundle.thresholds:
            dense, zero = (
                show(on_host(b, plain, folder / what, wraps, options.sanitize), what)
                for b, what in zip(
                    exact(bundle), ("dense", "thresholds 0"), strict=True
                )
            )
            problems += differ(dense, zero)
    for problem in problems:
        print(f"FAILED: {problem}")
    print(json.dumps({"problems": len(problems)}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
