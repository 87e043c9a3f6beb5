"""A hand-written stand-in for an emitted model: real C, real features, trivial logits.

The loop, the detector and the boards are tested with it, apart from any network: its
logits are means of two halves of the log-mel frames, so a low tone is the word "low"
and a high tone the word "high". It sees a window, or it keeps a `memory` from frame to
frame. `decisions` is the same arithmetic in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws import features
from kws.emit.common import ring_samples
from kws.features.tables import c_source
from kws.recipe import Detector, Features

LABELS = ("_silence_", "_unknown_", "low", 'high "pitch"\\é')
LOGIT_SCALE = 0.1
THRESHOLD, SLOWNESS = 4, 8  # of a memory


@dataclass(frozen=True)
class FakeModel:
    """What to generate.

    Args:
        hash: What the firmware says at boot.
        detector: Detector settings.
        features: Feature settings.
        memory: Instead of a window it keeps, from frame to frame, what a network with
            delta encoding in time does: references, and sums of what moved them.
        keeps_after_reset: The fault of a kws_model_reset that clears nothing.
        spin: Loop turns wasted in every decision (about 3 instructions each).
        crash_at: Decision (from 1, the self-test's included) that writes to
            crash_address; 0 = never.
        hang_at: Decision that never ends; 0 = never.
        recurse_at: Decision that overflows the stack; 0 = never.
        expected_shift: Added to the self-test's expectation, to make it wrong.
        ballast: Bytes of constants, to fill the flash.
        arena: Bytes of variables, to fill the RAM.
    """

    hash: str = "0123456789abcdef"
    detector: Detector = Detector(
        hop_frames=16, smoothing=2, threshold=0.8, rearm=0.4, refractory_ms=600
    )
    features: Features = Features()
    memory: bool = False
    keeps_after_reset: bool = False
    spin: int = 0
    crash_at: int = 0
    crash_address: int = 0x90000000
    hang_at: int = 0
    recurse_at: int = 0
    expected_shift: int = 0
    ballast: int = 16
    arena: int = 16

    def write(self, folder: Path) -> Path:
        """Write kws_model.c into `folder` (made if missing) and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kws_model.c").write_text(self.source())
        return folder

    @property
    def ring_samples(self) -> int:
        """Of the audio ring; see kws.emit.common.ring_samples."""
        return ring_samples(self.detector.hop_frames * self.features.hop)

    @property
    def first_frames(self) -> int:
        """Frames before the first decision; a memory's is soon after a reset."""
        return 40 if self.memory else self.features.frames

    def decisions(self, frames: np.ndarray) -> dict[int, np.ndarray]:
        """The model in Python, from a reset on.

        Args:
            frames: int8 [N, mel_bins].

        Returns:
            For each decision: how many frames it has seen -> int8 logits [4].
        """
        due = range(self.first_frames, len(frames) + 1, self.detector.hop_frames)
        wide = frames.astype(np.int64)
        half = self.features.mel_bins // 2
        if not self.memory:
            windows = {end: wide[end - self.features.frames : end] for end in due}
            return {
                end: _logits(
                    window[:, :half].sum() // (half * len(window)),
                    window[:, -half:].sum() // (half * len(window)),
                )
                for end, window in windows.items()
            }
        held = np.zeros(self.features.mel_bins, np.int64)
        low = high = 0
        found = {}
        for count, frame in enumerate(wide, 1):
            held = np.where(np.abs(frame - held) > THRESHOLD, frame, held)
            low += (int(held[:half].sum()) - low) // SLOWNESS
            high += (int(held[-half:].sum()) - high) // SLOWNESS
            if count in due:
                found[count] = _logits(low // half, high // half)
        return found

    def logits(self, frames: np.ndarray) -> np.ndarray:
        """The last decision's int8 logits [4]; see `decisions`."""
        return list(self.decisions(frames).values())[-1]

    def selftest_clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes (uint8) and the decoded samples (int16) of a one-second low tone."""
        samples = tone(300, self.features.clip_samples)
        levels = mulaw_levels()
        codes = np.abs(levels[:, None] - samples[None, :].astype(int)).argmin(axis=0)
        return codes.astype(np.uint8), levels[codes].astype(np.int16)

    def source(self) -> str:
        spec, detector = self.features, self.detector
        # A window of a hop that is too large would not compile: kws_init has to refuse.
        step = min(detector.hop_frames, spec.frames)
        codes, samples = self.selftest_clip()
        expected = self.logits(features.extract(samples, spec))
        expected = expected + self.expected_shift
        q15 = f"{round(detector.threshold * 32767)}"
        rearm = f"{round(detector.rearm * 32767)}"
        exp_table = np.rint(32767 * np.exp(-LOGIT_SCALE * np.arange(256))).astype(int)
        hop_ms = detector.hop_frames * spec.hop / spec.sample_rate * 1000
        return f"""\
/* Written by tests/fake_model.py. */
#include "kws_model.h"
#include "kws_window.h"

{c_source(spec, "fake_features")}

enum {{ FRAMES = {spec.frames}, BINS = {spec.mel_bins}, HALF = BINS / 2 }};

static const char *const labels[] = {{{", ".join(map(_c_string, LABELS))}}};
static const uint16_t threshold[] = {{{", ".join([q15] * len(LABELS))}}};
static const uint16_t rearm[] = {{{", ".join([rearm] * len(LABELS))}}};
static const uint16_t exp_table[256] = {{{", ".join(map(str, exp_table))}}};
static const uint8_t ballast[{self.ballast}] = {{1}};
static uint8_t arena[{self.arena}];
static int16_t ring[{self.ring_samples}];
static uint16_t history[{detector.smoothing * len(LABELS)}];

static const kws_detector_spec_t detector = {{
    .label_count = {len(LABELS)},
    .first_word = 2,
    .smoothing = {detector.smoothing},
    .refractory = {-(-detector.refractory_ms // int(hop_ms))},
    .threshold = threshold,
    .rearm = rearm,
    .exp_table = exp_table,
    .history = history,
}};

const kws_model_info_t kws_model_info = {{
    .name = "fake",
    .hash = "{self.hash}",
    .labels = labels,
    .label_count = {len(LABELS)},
    .mel_bins = BINS,
    .frames = FRAMES,
    .first_frames = {self.first_frames},
    .step_frames = {detector.hop_frames},
    .arena_bytes = sizeof arena,
    .weights_bytes = sizeof ballast,
    .ring = ring,
    .ring_samples = {self.ring_samples},
    .features = &fake_features,
    .detector = &detector,
}};

static int8_t clamp(int32_t value) {{
  return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}}

/* Rounds towards minus infinity, as Python's // does. */
static int32_t divide(int32_t sum, int32_t by) {{
  return sum >= 0 ? sum / by : -((-sum + by - 1) / by);
}}

#if {self.recurse_at}
__attribute__((noinline)) static int32_t recurse(volatile int32_t depth) {{
  volatile int32_t local[32] = {{depth}};
  return depth < 0 ? 0 : local[0] + recurse(depth + 1);
}}
#endif

static void decide(int32_t low, int32_t high, int8_t *logits) {{
  static volatile int runs;
  runs++;
#if {self.crash_at}
  if (runs == {self.crash_at}) *(volatile uint32_t *){self.crash_address:#x}u = 1;
#endif
#if {self.hang_at}
  while (runs == {self.hang_at}) {{
  }}
#endif
#if {self.recurse_at}
  if (runs == {self.recurse_at}) arena[1] = (uint8_t)recurse(0);
#endif
  for (volatile uint32_t left = {self.spin}u; left > 0; left--) {{
  }}
  *(volatile uint8_t *)&arena[0] = *(const volatile uint8_t *)&ballast[0];
  logits[0] = -40;
  logits[1] = -30;
  logits[2] = clamp(low - high);
  logits[3] = clamp(high - low);
}}

{self._memory() if self.memory else WINDOW.replace("STEP", str(step))}

const uint8_t kws_selftest_clip[] = {{{", ".join(map(str, codes))}}};
const uint32_t kws_selftest_clip_samples = sizeof kws_selftest_clip;
const int8_t kws_selftest_logits[] = {{{", ".join(map(str, expected))}}};
"""

    def _memory(self) -> str:
        """C of kws_model_reset and kws_model_step where the model keeps a memory."""
        return f"""
static struct {{
  int8_t held[BINS];
  int32_t held_low, held_high, low, high;
  uint32_t frames;
}} memory;

void kws_model_reset(void) {{
#if {int(not self.keeps_after_reset)}
  memset(&memory, 0, sizeof memory);
#endif
  memory.frames = 0;
}}

void kws_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits) {{
  for (; n > 0; n--, new_frames += BINS) {{
    for (int m = 0; m < BINS; m++) {{
      const int32_t delta = new_frames[m] - memory.held[m];
      if (delta <= {THRESHOLD} && delta >= -{THRESHOLD}) continue;
      memory.held[m] = new_frames[m];
      if (m < HALF) memory.held_low += delta;
      if (m >= BINS - HALF) memory.held_high += delta;
    }}
    memory.low += divide(memory.held_low - memory.low, {SLOWNESS});
    memory.high += divide(memory.held_high - memory.high, {SLOWNESS});
    memory.frames++;
    if (memory.frames < {self.first_frames}) continue;
    if ((memory.frames - {self.first_frames}) % {self.detector.hop_frames}) continue;
    decide(divide(memory.low, HALF), divide(memory.high, HALF), logits);
  }}
}}
"""


WINDOW = """
static int8_t frames[FRAMES * BINS];
static uint16_t count;
static const kws_window_t window = {frames, &count, FRAMES, STEP, BINS};

void kws_model_reset(void) {
  kws_window_reset(&window);
}

void kws_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits) {
  while (kws_window_fill(&window, &new_frames, &n)) {
    int32_t low = 0, high = 0;
    for (int t = 0; t < FRAMES; t++) {
      for (int m = 0; m < HALF; m++) {
        low += frames[t * BINS + m];
        high += frames[t * BINS + BINS - HALF + m];
      }
    }
    decide(divide(low, FRAMES * HALF), divide(high, FRAMES * HALF), logits);
  }
}
"""


def _logits(low: int, high: int) -> np.ndarray:
    values = (-40, -30, low - high, high - low)
    return np.clip(values, -128, 127).astype(np.int8)


def _c_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def mulaw_levels() -> np.ndarray:
    """int [256]: the sample that each G.711 mu-law code stands for."""
    inverted = ~np.arange(256) & 0xFF
    exponent, mantissa = (inverted >> 4) & 7, inverted & 15
    magnitude = ((mantissa * 8 + 0x84) << exponent) - 0x84
    return np.where(inverted & 0x80, -magnitude, magnitude)


def tone(hertz: float, samples: int, amplitude: float = 8000.0) -> np.ndarray:
    """int16 sine with a little seeded noise."""
    rng = np.random.default_rng(1)
    wave = amplitude * np.sin(2 * np.pi * hertz / 16000 * np.arange(samples))
    return np.rint(wave + rng.normal(0, 20, samples)).astype(np.int16)
