"""A hand-written stand-in for an emitted model: real C, real features, trivial logits.

The loop, the detector and the boards are tested with it, apart from any network: its
logits are means of two halves of the log-mel window, so a low tone is the word "low"
and a high tone the word "high". `logits` is the same arithmetic in Python.
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


@dataclass(frozen=True)
class FakeModel:
    """What to generate.

    Args:
        hash: What the firmware says at boot.
        detector: Detector settings.
        features: Feature settings.
        spin: Loop turns wasted in every model run (about 3 instructions each).
        crash_at: Model run (from 1, the self-test's included) that reads a bad address;
            0 = never.
        recurse_at: Model run that overflows the stack; 0 = never.
        expected_shift: Added to the self-test's expectation, to make it wrong.
        ballast: Bytes of constants, to fill the flash.
        arena: Bytes of variables, to fill the RAM.
        clip_seconds: Length of the self-test clip.
    """

    hash: str = "0123456789abcdef"
    detector: Detector = Detector(
        hop_frames=16, smoothing=2, threshold=0.8, rearm=0.4, refractory_ms=600
    )
    features: Features = Features()
    spin: int = 0
    crash_at: int = 0
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

    def logits(self, window: np.ndarray) -> np.ndarray:
        """The model in Python: int8 [frames, mel_bins] -> int8 [4]."""
        bins = self.features.mel_bins
        half = window.shape[0] * (bins // 2)
        low = int(window[:, : bins // 2].astype(np.int64).sum())
        high = int(window[:, bins - bins // 2 :].astype(np.int64).sum())
        low, high = (int(np.floor_divide(value, half)) for value in (low, high))
        values = (-40, -30, low - high, high - low)
        return np.clip(values, -128, 127).astype(np.int8)

    def selftest_clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes (uint8) and the decoded samples (int16) of a one-second low tone."""
        samples = tone(300, self.features.clip_samples)
        levels = mulaw_levels()
        codes = np.abs(levels[:, None] - samples[None, :].astype(int)).argmin(axis=0)
        return codes.astype(np.uint8), levels[codes].astype(np.int16)

    def source(self) -> str:
        spec, detector = self.features, self.detector
        codes, samples = self.selftest_clip()
        expected = self.logits(features.extract(samples, spec)[: spec.frames])
        expected = expected + self.expected_shift
        q15 = f"{round(detector.threshold * 32767)}"
        rearm = f"{round(detector.rearm * 32767)}"
        exp_table = np.rint(32767 * np.exp(-LOGIT_SCALE * np.arange(256))).astype(int)
        hop_ms = detector.hop_frames * spec.hop / spec.sample_rate * 1000
        return f"""\
/* Written by tests/fake_model.py. */
#include "kws_model.h"

{c_source(spec, "fake_features")}

enum {{ FRAMES = {spec.frames}, BINS = {spec.mel_bins}, HALF = BINS / 2 }};

static const char *const labels[] = {{{", ".join(map(_c_string, LABELS))}}};
static const uint16_t threshold[] = {{{", ".join([q15] * len(LABELS))}}};
static const uint16_t rearm[] = {{{", ".join([rearm] * len(LABELS))}}};
static const uint16_t exp_table[256] = {{{", ".join(map(str, exp_table))}}};
static const uint8_t ballast[{self.ballast}] = {{1}};
static uint8_t arena[{self.arena}];
static int16_t ring[{self.ring_samples}];
static int8_t window[FRAMES * BINS];

static const kws_detector_spec_t detector = {{
    .label_count = {len(LABELS)},
    .first_word = 2,
    .hop_frames = {detector.hop_frames},
    .smoothing = {detector.smoothing},
    .refractory = {-(-detector.refractory_ms // int(hop_ms))},
    .threshold = threshold,
    .rearm = rearm,
    .exp_table = exp_table,
}};

const kws_model_info_t kws_model_info = {{
    .name = "fake",
    .hash = "{self.hash}",
    .labels = labels,
    .label_count = {len(LABELS)},
    .frames = FRAMES,
    .mel_bins = BINS,
    .arena_bytes = sizeof arena,
    .weights_bytes = sizeof ballast,
    .ring = ring,
    .ring_samples = {self.ring_samples},
    .window = window,
    .features = &fake_features,
    .detector = &detector,
}};

static int8_t clamp(int32_t value) {{
  return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}}

/* Rounds towards minus infinity, as Python's // does. */
static int32_t mean(int32_t sum) {{
  const int32_t count = FRAMES * HALF;
  return sum >= 0 ? sum / count : -((-sum + count - 1) / count);
}}

#if {self.recurse_at}
__attribute__((noinline)) static int32_t recurse(volatile int32_t depth) {{
  volatile int32_t local[32] = {{depth}};
  return depth < 0 ? 0 : local[0] + recurse(depth + 1);
}}
#endif

void kws_model_invoke(const int8_t *features, int8_t *logits) {{
  static volatile int runs;
  runs++;
#if {self.crash_at}
  if (runs == {self.crash_at}) *(volatile uint32_t *)0x90000000u = 1;
#endif
#if {self.recurse_at}
  if (runs == {self.recurse_at}) arena[1] = (uint8_t)recurse(0);
#endif
  for (volatile uint32_t left = {self.spin}u; left > 0; left--) {{
  }}
  int32_t low = 0, high = 0;
  for (int t = 0; t < FRAMES; t++) {{
    for (int m = 0; m < HALF; m++) {{
      low += features[t * BINS + m];
      high += features[t * BINS + BINS - HALF + m];
    }}
  }}
  low = mean(low);
  high = mean(high);
  *(volatile uint8_t *)&arena[0] = *(const volatile uint8_t *)&ballast[0];
  logits[0] = -40;
  logits[1] = -30;
  logits[2] = clamp(low - high);
  logits[3] = clamp(high - low);
}}

const uint8_t kws_selftest_clip[] = {{{", ".join(map(str, codes))}}};
const uint32_t kws_selftest_clip_samples = sizeof kws_selftest_clip;
const int8_t kws_selftest_logits[] = {{{", ".join(map(str, expected))}}};
"""


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
