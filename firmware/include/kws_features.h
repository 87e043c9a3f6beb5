/* Fixed-point log-mel features (DESIGN D1, D7): one source for board and Python.
 *
 * Integers only. Streaming and clip give the same bits: a frame depends on its own
 * `window` samples and on nothing before it.
 *
 * One frame: periodic Hann window, real FFT, power or magnitude spectrum, mel
 * triangles, natural logarithm, int8:
 *
 *   out[m] = clamp(round(ln(sum_k mel[m][k] * |X[k]|^power) / scale) + zero_point)
 *
 * with samples in [-1, 1); a sum of zero gives -128. The specification's tables are
 * generated on the host (kws/features/tables.py) from the recipe: no libm here.
 */
#ifndef KWS_FEATURES_H
#define KWS_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KWS_FEATURES_MAX_WINDOW   480
#define KWS_FEATURES_MAX_FFT      512
#define KWS_FEATURES_MAX_MEL_BINS 80
#define KWS_FEATURES_LOG_SHIFT    46

/* Stack that kws_features_frame needs, in bytes: 8 for each of the 257 spectrum bins,
 * and a margin for locals and saved registers (-O2: at most 400 on M0+, M4 and M55 with
 * gcc 12, 480 with zig 0.17). It needs no other memory. */
#define KWS_FEATURES_STACK_BYTES (8 * (KWS_FEATURES_MAX_FFT / 2 + 1) + 640)

/* One feature specification. Only kws/features/tables.py fills it, and checks it; the
 * functions below trust it. */
typedef struct kws_feature_spec {
  uint16_t window;         /* samples in a frame, even, 32..480 */
  uint16_t hop;            /* samples between frames, 1..window */
  uint16_t fft_size;       /* 128, 256 or 512, at least window */
  uint8_t power;           /* 2 = power spectrum, 1 = magnitude */
  uint8_t mel_bins;        /* 8..KWS_FEATURES_MAX_MEL_BINS */
  uint16_t first_bin;      /* FFT bin of mel_weights[0] */
  uint32_t log_multiplier; /* out = (log2 in Q23 * log_multiplier + log_offset) */
  int64_t log_offset;      /*       >> KWS_FEATURES_LOG_SHIFT; it holds the rounding */
  int8_t floor;            /* quieter values of out are raised to it */
  const int32_t *windows;  /* fft_size: Q27; for each block of the first stage its 4
                              (256: 2) pairs, 0 beyond the window */
  const uint8_t *order;    /* fft_size / 8 (256: / 4): digits of a block, reversed */
  const int32_t *twiddles; /* cos, sin, -sin (Q31) of each radix-4 stage, in order of
                              use: for k < quarter: 2k, 3k, k */
  const int32_t *split;    /* cos, sin (Q31) of 2 pi k / fft_size, k < fft_size / 4 */
  const uint8_t *segment_bins; /* mel_bins + 1: FFT bins between two mel centres */
  const uint32_t *mel_weights; /* a rising weight (Q32) for each bin of the segments */
  const uint16_t *log_table;   /* 129: log2(1 + i / 128) in Q15 */
  const uint16_t *sqrt_table;  /* 193: sqrt((64 + i) / 256) in Q15 */
} kws_feature_spec_t;

/* Features of one frame.
 *
 * spec:    a generated specification.
 * samples: spec->window samples, 16 kHz, full range of int16 allowed.
 * out:     spec->mel_bins values. Must not overlap samples.
 *
 * Reentrant. No loop depends on the audio.
 * Stack: KWS_FEATURES_STACK_BYTES. */
void kws_features_frame(const kws_feature_spec_t *spec, const int16_t *samples,
                        int8_t *out);

/* Frames in a clip of n samples: 1 + (n - window) / hop, or 0 where n < window. */
size_t kws_features_frame_count(const kws_feature_spec_t *spec, size_t n);

/* Features of a clip: kws_features_frame over its frames.
 *
 * out: kws_features_frame_count(spec, n) * spec->mel_bins values, frame-major. */
void kws_features_clip(const kws_feature_spec_t *spec, const int16_t *samples, size_t n,
                       int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
