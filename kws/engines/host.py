"""Engine `host`: the firmware's own C, compiled for this machine.

The emitted model and firmware/src are built into a shared library (cached by the hash
of all that it is made from) and fed through the always-on loop: kws_push, kws_poll,
kws_last_logits. What comes out is what the board computes, bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import Bundle
from kws.deploy import emit, toolchain
from kws.deploy.boards import FIRMWARE
from kws.deploy.build import cache_dir
from kws.engines import common
from kws.errors import KwsError

FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
INTEGER = True
MAX_EVENTS = 1 << 20

_DECLARATIONS = """
typedef struct {
  uint16_t label;
  uint16_t score;
  uint32_t start_ms;
  uint32_t time_ms;
} kws_event_t;
int kws_host_start(void);
int kws_host_logits(const int16_t *pcm, size_t clips, size_t samples, size_t labels,
                    int8_t *out, uint32_t *sent);
size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room);
size_t kws_host_sent(uint32_t *sent, size_t room);
int kws_selftest(void);
void kws_model_invoke(const int8_t *features, int8_t *logits);
"""

# What the library adds to the firmware: loops over clips and over a stream.
_GLUE = """
#include <string.h>
#include "kws.h"
#include "kws_model.h"

int kws_host_start(void);
int kws_host_logits(const int16_t *pcm, size_t clips, size_t samples, size_t labels,
                    int8_t *out, uint32_t *sent);
size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room);

size_t kws_host_sent(uint32_t *sent, size_t room);

int kws_host_start(void) { return (int)kws_init(); }

/* What each product with delta thresholds transmitted in the last run; how many
 * products there are. */
size_t kws_host_sent(uint32_t *sent, size_t room) {
  const size_t count = kws_model_info.delta_count;
  for (size_t i = 0; i < count && i < room; i++) {
    *sent++ = *kws_model_info.delta[i].sent;
  }
  return count;
}

/* The logits of the model's last run on each clip, and what each product with delta
 * thresholds transmitted in it; 0, or 1 if a clip gave none. */
int kws_host_logits(const int16_t *pcm, size_t clips, size_t samples, size_t labels,
                    int8_t *out, uint32_t *sent) {
  kws_event_t event;
  for (size_t clip = 0; clip < clips; clip++) {
    kws_reset();
    for (size_t done = 0; done < samples;) {
      done += kws_push(pcm + clip * samples + done, samples - done);
      while (kws_poll(&event)) {
      }
    }
    const int8_t *logits = kws_last_logits();
    if (logits == NULL) return 1;
    memcpy(out + clip * labels, logits, labels);
    sent += kws_host_sent(sent, kws_model_info.delta_count);
  }
  return 0;
}

/* Stream on; the events heard, at most `room`. */
size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room) {
  size_t count = 0;
  kws_event_t event;
  for (size_t done = 0; done < samples;) {
    const size_t left = samples - done;
    done += kws_push(pcm + done, left < 160 ? left : 160);
    while (kws_poll(&event)) {
      if (count < room) events[count++] = event;
    }
  }
  return count;
}
"""


@dataclass(frozen=True)
class Event:
    """A word that the firmware heard.

    Args:
        word: The label.
        start_s: Start of the window that fired, in seconds of the stream.
        time_s: End of that window.
        score: Smoothed posterior, 0..1.
    """

    word: str
    start_s: float
    time_s: float
    score: float


def logits(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> np.ndarray:
    """int8 logits [N, labels]; see `kws.engines`. `jobs` threads, each its own copy."""
    return counted(bundle, pcm, jobs, board, progress)[0]


def counted(
    bundle: Bundle,
    pcm: np.ndarray,
    jobs: int = 2,
    board: str | None = None,
    progress: common.Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`logits`, and what was transmitted: uint32 [N, products], as in `products`."""
    clips = common.clip_pcm(bundle, pcm)
    path = library(bundle)
    parts = np.array_split(clips, -(-len(clips) // common.CHUNK))
    done, results = 0, []
    with tempfile.TemporaryDirectory() as folder:
        # Static memory is per library: every thread takes a copy from the shelf.
        shelf: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        for i in range(max(1, min(jobs, len(parts)))):
            copy = Path(folder) / f"{i}{path.suffix}"
            shutil.copyfile(path, copy)
            shelf.put(load(copy))

        def work(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            opened = shelf.get()
            try:
                return _run(bundle, opened, part)
            finally:
                shelf.put(opened)

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            for result in pool.map(work, parts):
                results.append(result)
                done += len(result[0])
                if progress is not None:
                    progress(done)
    rows, sent = zip(*results, strict=True)
    return np.concatenate(rows), np.concatenate(sent)


def _run(
    bundle: Bundle, opened: tuple[Any, Any], clips: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    ffi, lib = opened
    out = np.zeros((len(clips), len(bundle.labels)), np.int8)
    count = lib.kws_host_sent(ffi.NULL, 0)
    sent = np.zeros((len(clips), count), np.uint32)
    _start(lib)
    clips = np.ascontiguousarray(clips)
    failed = lib.kws_host_logits(
        ffi.cast("int16_t *", clips.ctypes.data),
        *clips.shape,
        len(bundle.labels),
        ffi.cast("int8_t *", out.ctypes.data),
        ffi.cast("uint32_t *", sent.ctypes.data),
    )
    if failed:
        raise KwsError(
            "A clip is too short for one window of the model. "
            f"Received: {clips.shape[1]} samples",
            "Use one-second clips at 16 kHz.",
        )
    return out, sent


def invoke(bundle: Bundle, features: np.ndarray) -> np.ndarray:
    """Run the model alone: int8 [N, frames, mel_bins] -> int8 [N, labels]."""
    ffi, lib = load(library(bundle))
    out = np.zeros((len(features), len(bundle.labels)), np.int8)
    for row, logits_row in zip(np.ascontiguousarray(features), out, strict=True):
        lib.kws_model_invoke(
            ffi.cast("int8_t *", row.ctypes.data),
            ffi.cast("int8_t *", logits_row.ctypes.data),
        )
    return out


@dataclass(frozen=True)
class Product:
    """A product that skips what its delta encoding holds, and what it transmitted.

    Args:
        layer: Of the network.
        kind: Of its input, one of cost.KINDS.
        macs: Multiply-accumulates per transmitted element; 0 for K, which is only held.
        elements: Of its input in one run.
        sent: int64 [N]: of those, transmitted in each run.
    """

    layer: int
    kind: str
    macs: int
    elements: int
    sent: np.ndarray


def products(bundle: Bundle, sent: np.ndarray, core: str = "portable") -> list[Product]:
    """What the columns of `counted`'s counts are: the model's table of products.

    Args:
        bundle: That was counted.
        sent: uint32 [N, products].
        core: That it was emitted for.
    """
    return [
        Product(row.layer, row.kind, row.macs, row.elements, column)
        for row, column in zip(
            emit.products(bundle, core), sent.T.astype(np.int64), strict=True
        )
    ]


def invoke_counted(
    bundle: Bundle, features: np.ndarray
) -> tuple[np.ndarray, list[Product]]:
    """`invoke`, and what each product with delta thresholds transmitted.

    Args:
        bundle: With a model.tflite.
        features: int8 [N, frames, mel_bins], N at least 1.

    Returns:
        int8 logits [N, labels]; the model's table of products, in its order.
    """
    ffi, lib = load(library(bundle))
    out = np.zeros((len(features), len(bundle.labels)), np.int8)
    count = lib.kws_host_sent(ffi.NULL, 0)
    sent = np.zeros((len(features), count), np.uint32)
    rows = np.ascontiguousarray(features)
    for row, logits_row, found in zip(rows, out, sent, strict=True):
        lib.kws_model_invoke(
            ffi.cast("int8_t *", row.ctypes.data),
            ffi.cast("int8_t *", logits_row.ctypes.data),
        )
        lib.kws_host_sent(ffi.cast("uint32_t *", found.ctypes.data), count)
    return out, products(bundle, sent)


def detect(bundle: Bundle, pcm: np.ndarray) -> list[Event]:
    """Stream a recording of any length through the firmware; the words it hears.

    Args:
        bundle: With a model.tflite.
        pcm: int16 [samples], 16 kHz.
    """
    pcm = np.ascontiguousarray(pcm, np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = library(bundle)
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        ffi, lib = load(copy)
        _start(lib)
        room = min(MAX_EVENTS, len(pcm) // bundle.recipe.features.hop + 1)
        events = ffi.new("kws_event_t[]", room)
        count = lib.kws_host_detect(
            ffi.cast("int16_t *", pcm.ctypes.data), len(pcm), events, room
        )
        return [
            Event(
                bundle.labels[event.label],
                event.start_ms / 1000,
                event.time_ms / 1000,
                event.score / emit.Q15_ONE,
            )
            for event in events[0:count]
        ]


def _start(lib: Any) -> None:
    status = lib.kws_host_start()
    if status != 0:
        raise KwsError(
            f"The firmware refuses the generated model (status {status}).",
            "Check [detector] and [features] of the bundle's recipe.toml.",
        )


def load(path: Path) -> tuple[Any, Any]:
    """Open a library; returns (ffi, lib). Two copies have two sets of static memory."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    return ffi, ffi.dlopen(str(path))


def library(bundle: Bundle) -> Path:
    """The shared library of a bundle, built or found in the cache.

    Raises:
        KwsError: no C compiler, or the model can't be emitted.
    """
    placeholder = np.zeros(len(bundle.labels), np.int8)
    texts = dict(emit.model_sources(bundle, "portable").texts)
    texts[emit.FILES[2]] = emit.selftest_source(bundle, placeholder)
    return build(texts)


def build(texts: dict[str, str], flags: tuple[str, ...] = ()) -> Path:
    """Compile generated C with the firmware's sources for this machine.

    Args:
        texts: File name -> C text of the model.
        flags: More compiler flags.
    """
    compiler = toolchain.host()
    if compiler is None:
        raise KwsError(
            "There is no C compiler on this machine. Expected cc, gcc or clang on the "
            "PATH, or the Python package ziglang.",
            toolchain.HOST_HINT,
        )
    sources = sorted((FIRMWARE / "src").glob("*.c"))
    headers = sorted(FIRMWARE.glob("include/*.h")) + sorted(FIRMWARE.glob("src/*.h"))
    digest = hashlib.sha256(repr((compiler, FLAGS, flags, _GLUE)).encode())
    for path in sources + headers:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    target = cache_dir() / "host" / f"{digest.hexdigest()[:32]}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        written = []
        for name, text in {**texts, "kws_host.c": _GLUE}.items():
            path = Path(folder) / name
            path.write_text(text, encoding="ascii")
            written.append(path)
        result = Path(folder) / target.name
        command = [
            *compiler,
            *FLAGS,
            *flags,
            "-DKWS_CORE_PORTABLE=1",
            f"-I{FIRMWARE / 'include'}",
            f"-I{FIRMWARE / 'src'}",
            *map(str, [*written, *sources]),
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
