"""The firmware's own C as a shared library of this machine (DESIGN D1).

The emitted model, firmware/src and firmware/host are compiled once (cached by the hash
of all that they are made from) and opened as often as wanted, each time as a private
copy: static memory is per library. What it computes is what the board computes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kws
from kws.bundle import Bundle
from kws.deploy import toolchain
from kws.emit import SELFTEST, native, selftest
from kws.errors import KwsError
from kws.paths import FIRMWARE, user_cache

FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
HOST = FIRMWARE / "host"
MAX_EVENTS = 1 << 20
# What the emitted C depends on besides the bundle: folders and files of the package.
_EMITTERS = ("emit", "graph", "attention", "features")
_WORDS = (
    "bundle.py",
    "errors.py",
    "paths.py",
    "recipe.py",
    "shape.py",
    "thresholds.py",
)


class Decisions(NamedTuple):
    """What a stream's decisions were.

    Args:
        logits: int8 [decisions, labels].
        time_ms: uint64 [decisions], the end of what each looked back on.
        sent: uint32 [decisions, products], what each product that skips transmitted
            since the decision before.
        heard: int32 [decisions], the label of the word that was heard, or -1.
    """

    logits: np.ndarray
    time_ms: np.ndarray
    sent: np.ndarray
    heard: np.ndarray


class Opened:
    """A private copy of a library; see `opened`.

    Args:
        ffi, lib: cffi's.
        labels: Logits of the model.
    """

    MIN_HOP = 16  # samples: fewer than from any decision to the next

    def __init__(self, ffi: Any, lib: Any, labels: int) -> None:
        self.ffi, self.lib, self.labels = ffi, lib, labels
        self._tunable = False

    def start(self) -> None:
        """Set up ring, model and detector.

        Raises:
            KwsError: the firmware refuses the model.
        """
        status = self.lib.kws_host_start()
        if status != 0:
            raise KwsError(
                f"The firmware refuses the generated model (status {status}).",
                "Check [detector] and [features] of the bundle's recipe.toml.",
            )

    @property
    def products(self) -> int:
        """How many products skip."""
        return int(self.lib.kws_host_sent(self.ffi.NULL, 0))

    def clips(self, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run clips, each from a reset, through ring, features and model.

        Args:
            pcm: int16 [N, samples].

        Returns:
            int8 [N, labels], the logits; uint32 [N, products], what was transmitted.

        Raises:
            KwsError: the clips are shorter than one window.
        """
        self.start()
        pcm = np.ascontiguousarray(pcm, np.int16)
        out, sent = self._results(len(pcm))
        failed = self.lib.kws_host_logits(
            self._pointer("int16_t *", pcm),
            *pcm.shape,
            self.labels,
            self._pointer("int8_t *", out),
            self._pointer("uint32_t *", sent),
        )
        if failed:
            raise KwsError(
                "A clip is too short for one window of the model. "
                f"Received: {pcm.shape[1]} samples",
                "Use one-second clips at 16 kHz.",
            )
        return out, sent

    def invoke(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the model alone: int8 [N, frames, mel_bins]; see `clips`."""
        features = np.ascontiguousarray(features, np.int8)
        out, sent = self._results(len(features))
        self.lib.kws_host_step(
            self._pointer("int8_t *", features),
            *features.shape[:2],
            self.labels,
            self._pointer("int8_t *", out),
            self._pointer("uint32_t *", sent),
        )
        return out, sent

    def detect(self, pcm: np.ndarray) -> list[tuple[int, int, int, int]]:
        """Stream a recording, int16 [samples].

        Returns:
            Label, start and end of its window in milliseconds, score (Q15), of each
            word heard.
        """
        self.start()
        pcm = np.ascontiguousarray(pcm, np.int16)
        room = min(MAX_EVENTS, len(pcm) // self.MIN_HOP + 1)
        events = self.ffi.new("kws_event_t[]", room)
        count = self.lib.kws_host_detect(
            self._pointer("int16_t *", pcm), len(pcm), events, room
        )
        # As numbers: a kws_event_t would point into memory that ends with `events`.
        return [
            (event.label, event.start_ms, event.time_ms, event.score)
            for event in events[0 : min(count, room)]
        ]

    def decide(self, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stream a recording, int16 [samples], from a reset: the logits of each
        decision and its time; see `follow`."""
        found = self.follow(pcm)
        return found.logits, found.time_ms

    def follow(self, pcm: np.ndarray) -> Decisions:
        """Stream a recording, int16 [samples], from a reset, decision by decision."""
        self.start()
        pcm = np.ascontiguousarray(pcm, np.int16)
        room = len(pcm) // self.MIN_HOP + 1
        found = Decisions(
            np.zeros((room, self.labels), np.int8),
            np.zeros(room, np.uint64),
            np.zeros((room, self.products), np.uint32),
            np.zeros(room, np.int32),
        )
        count = self.lib.kws_host_decide(
            self._pointer("int16_t *", pcm),
            len(pcm),
            self._pointer("int8_t *", found.logits),
            self._pointer("uint64_t *", found.time_ms),
            self._pointer("uint32_t *", found.sent),
            self._pointer("int32_t *", found.heard),
            room,
        )
        return Decisions(*(column[:count].copy() for column in found))

    def sums(self, logits: np.ndarray, smoothing: int) -> tuple[np.ndarray, np.ndarray]:
        """The detector's sums after each decision, with any smoothing.

        Args:
            logits: int8 [decisions, labels], from `decide`.
            smoothing: Decisions averaged.

        Returns:
            uint32 [decisions, labels], the sums of the last posteriors; uint16
            [decisions], the highest smoothed posterior of a word, Q15.
        """
        logits = np.ascontiguousarray(logits, np.int8)
        sums = np.zeros(logits.shape, np.uint32)
        highest = np.zeros(len(logits), np.uint16)
        failed = self.lib.kws_host_sums(
            self._pointer("int8_t *", logits),
            len(logits),
            smoothing,
            self._pointer("uint32_t *", sums),
            self._pointer("uint16_t *", highest),
        )
        if failed:
            raise ValueError(f"no smoothing that the detector has: {smoothing}")
        return sums, highest

    def hear(
        self,
        sums: tuple[np.ndarray, np.ndarray],
        smoothing: int,
        refractory: int,
        threshold: np.ndarray,
        rearm: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the detector hears with any settings. Threads may share this copy.

        Args:
            sums: From `sums`, of the same smoothing.
            smoothing: Decisions averaged.
            refractory: Decisions.
            threshold: uint16 [labels], Q15.
            rearm: uint16 [labels], Q15.

        Returns:
            At which decision (uint32), which label (uint16), its score (uint16, Q15);
            one of each for every word heard.
        """
        rows, highest = sums
        room = len(rows) + 1
        decision = np.empty(room, np.uint32)
        label, score = np.empty(room, np.uint16), np.empty(room, np.uint16)
        threshold = np.ascontiguousarray(threshold, np.uint16)
        rearm = np.ascontiguousarray(rearm, np.uint16)
        count = self.lib.kws_host_hear(
            self._pointer("uint32_t *", rows),
            self._pointer("uint16_t *", highest),
            len(rows),
            smoothing,
            refractory,
            self._pointer("uint16_t *", threshold),
            self._pointer("uint16_t *", rearm),
            self._pointer("uint32_t *", decision),
            self._pointer("uint16_t *", label),
            self._pointer("uint16_t *", score),
            room,
        )
        if count > room:
            raise ValueError("settings that the detector refuses")
        return decision[:count], label[:count], score[:count]

    def set_thresholds(self, steps: Sequence[int]) -> None:
        """Move the delta thresholds of a library that was built for it
        (kws.emit.native.sources, tunable_delta).

        Args:
            steps: 0..255, one for each product, in the order of the model's table.
        """
        if not self._tunable:
            declared = f"extern uint8_t *const kws_delta_thresholds[{self.products}];"
            self.ffi.cdef(declared)
            self._tunable = True
        if len(steps) != self.products:
            raise ValueError(f"{self.products} thresholds expected, not {len(steps)}")
        for i, step in enumerate(steps):
            self.lib.kws_delta_thresholds[i][0] = int(step)

    def _results(self, clips: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.zeros((clips, self.labels), np.int8),
            np.zeros((clips, self.products), np.uint32),
        )

    def _pointer(self, ctype: str, array: np.ndarray) -> Any:
        return self.ffi.cast(ctype, array.ctypes.data)


@contextlib.contextmanager
def opened(library: Path, labels: int, *headers: Path) -> Iterator[Opened]:
    """A private copy of a library, with static memory of its own.

    Args:
        library: From `library` or `build`.
        labels: Logits of its model.
        headers: More headers of firmware/host that it has.
    """
    import cffi

    ffi = cffi.FFI()
    # The loop's event is declared once, in kws.h.
    event = re.search(
        r"typedef struct \{[^}]*\} kws_event_t;",
        (FIRMWARE / "include" / "kws.h").read_text("utf-8"),
    )
    assert event is not None
    ffi.cdef(event[0])
    for header in (HOST / "kws_host.h", *headers):
        lines = header.read_text("utf-8").splitlines()
        ffi.cdef("\n".join(line for line in lines if not line.startswith("#")))
    with tempfile.TemporaryDirectory(prefix="kws-host-") as folder:
        copy = Path(folder) / library.name
        shutil.copyfile(library, copy)
        yield Opened(ffi, ffi.dlopen(str(copy)), labels)


def run(bundle: Bundle, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and what was transmitted, of clips; see `Opened.clips`."""
    with opened(library(bundle), len(bundle.labels)) as copy:
        return copy.clips(pcm)


def selftest_run(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """What the self-test's clip gives: int8 [labels]; uint32 [products]."""
    codes = selftest.clip(bundle.recipe.features.clip_samples)
    logits, sent = run(bundle, selftest.mulaw_decode(codes)[None, :])
    return logits[0], sent[0]


def library(bundle: Bundle) -> Path:
    """The shared library of a bundle, built or found in the cache.

    Raises:
        KwsError: no C compiler, or the model can't be emitted.
    """
    key = hashlib.sha256(
        "\0".join([bundle.hash, bundle.recipe.name, emitter_fingerprint()]).encode()
    )
    target = _target(key, ())
    return target if target.is_file() else _compile(target, sources(bundle), (), ())


def sources(
    bundle: Bundle, expected: np.ndarray | None = None, tunable_delta: bool = False
) -> dict[str, str]:
    """The bundle's C for this machine: file name -> text.

    Args:
        bundle: With a model.tflite.
        expected: int8 [labels], the self-test's logits; zeros where it isn't run.
        tunable_delta: See kws.emit.native.sources.
    """
    if expected is None:
        expected = np.zeros(len(bundle.labels), np.int8)
    codes = selftest.clip(bundle.recipe.features.clip_samples)
    made = native.sources(bundle, "portable", tunable_delta=tunable_delta)
    texts = made.texts
    return {**texts, SELFTEST: selftest.source(expected, codes)}


def emitter_files() -> list[Path]:
    """The code that emits, with all that it is made from."""
    package = Path(kws.__file__).parent
    folders = [sorted((package / name).rglob("*.py")) for name in _EMITTERS]
    return [*(package / name for name in _WORDS), *itertools.chain(*folders)]


@functools.cache
def emitter_fingerprint() -> str:
    """Hash of the code that emits, so that a changed one finds no old library."""
    digest = hashlib.sha256(kws.__version__.encode())
    for path in emitter_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build(
    texts: dict[str, str], flags: tuple[str, ...] = (), more: tuple[Path, ...] = ()
) -> Path:
    """Compile generated C with the firmware's sources for this machine.

    Args:
        texts: File name -> C text of the model.
        flags: More compiler flags.
        more: More sources, beside firmware/src and firmware/host/kws_host.c.

    Raises:
        KwsError: no C compiler, or C that does not compile.
    """
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    target = _target(digest, flags, more)
    return target if target.is_file() else _compile(target, texts, flags, more)


def _target(digest: Any, flags: tuple[str, ...], more: tuple[Path, ...] = ()) -> Path:
    digest.update(repr((_compiler(), FLAGS, flags)).encode())
    headers = sorted(FIRMWARE.glob("include/*.h")) + sorted(FIRMWARE.glob("*/*.h"))
    for path in [*_sources(more), *headers]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return user_cache() / "host" / f"{digest.hexdigest()[:32]}.so"


def _sources(more: tuple[Path, ...]) -> list[Path]:
    return [*sorted((FIRMWARE / "src").glob("*.c")), HOST / "kws_host.c", *more]


def _compiler() -> tuple[str, ...]:
    compiler = toolchain.host()
    if compiler is None:
        raise KwsError(
            "There is no C compiler on this machine. Expected cc, gcc or clang on the "
            "PATH, or the Python package ziglang.",
            toolchain.HOST_HINT,
        )
    return tuple(compiler)


def _compile(
    target: Path, texts: dict[str, str], flags: tuple[str, ...], more: tuple[Path, ...]
) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        written = []
        for name, text in texts.items():
            path = Path(folder) / name
            path.write_text(text, encoding="ascii")
            written.append(path)
        result = Path(folder) / target.name
        command = [
            *_compiler(),
            *FLAGS,
            *flags,
            "-DKWS_CORE_PORTABLE=1",
            f"-I{FIRMWARE / 'include'}",
            f"-I{FIRMWARE / 'src'}",
            f"-I{FIRMWARE / 'app'}",
            *map(str, [*written, *_sources(more)]),
            "-o",
            str(result),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise KwsError(
                f"The emitted C does not compile on this machine: {run.stderr[-2000:]}",
                "Check the compiler with kws doctor.",
            )
        os.replace(result, target)  # noqa: PTH105 (atomic, also onto an existing file)
    return target
