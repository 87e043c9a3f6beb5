/* Log-mel features. The interface is described in kws_features.h.
 *
 * Fixed point, without block exponents: a full-scale sample enters the FFT as 2^27, so
 * that the error of 16-bit audio is far above the arithmetic's. Each stage halves. The
 * Hann window sums to at most 240, and to 120 over the even samples, so nothing can
 * overflow: after s radix-4 stages a complex value is at most
 * min(4^s, 120) * sqrt(2) * 2^27 / 2^s < 2^30.6, and a bin of the spectrum at most
 * 240 * 2^27 / 2^4 = 0.94 * 2^31.
 *
 * Written for a 32-bit core with a 32 x 32 -> 64 multiply-accumulate (SMULL, SMLAL):
 * products are summed in 64 bits and the high word is kept, which costs no shift.
 */
#include "kws_features.h"

/* Where the compiler must see constant arguments. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define MAX_BINS      (KWS_FEATURES_MAX_FFT / 2 + 1)

/* log2 of the spectrum's values is kept in Q23. */
#define LOG_FRACTION_BITS 23

_Static_assert((-1 >> 1) == -1, "right shift of negative values must be arithmetic");

static inline int32_t high_word(int64_t value) {
  return (int32_t)(value >> 32);
}

/* (a * b + c * d) / 2 of Q31 numbers. */
static inline int32_t multiply_add(int32_t a, int32_t b, int32_t c, int32_t d) {
  return high_word((int64_t)a * b + (int64_t)c * d);
}

typedef struct {
  int32_t re, im;
} complex_t;

/* value * (cosine - i sine) / 2, where `w` is cosine, sine in Q31. */
static inline complex_t turn(const int32_t *value, const int32_t *w) {
  const complex_t out = {multiply_add(value[0], w[0], value[1], w[1]),
                         multiply_add(value[1], w[0], value[0], -w[1])};
  return out;
}

/* Two samples times the window, as a complex value at half of 2^27 full scale (the
 * first stage's halving); zero beyond the window. */
static inline complex_t windowed_pair(const kws_feature_spec_t *spec,
                                      const int16_t *samples, size_t pair) {
  complex_t out = {0, 0};
  if (pair < spec->window / 2U) {
    out.re = high_word((int64_t)(samples[2 * pair] * 65536) * spec->hann[2 * pair]);
    out.im =
        high_word((int64_t)(samples[2 * pair + 1] * 65536) * spec->hann[2 * pair + 1]);
  }
  return out;
}

/* 4-point DFT of a, b, c, d to out[0], out[stride], ... in complex values. */
static inline void butterfly4(int32_t *out, size_t stride, complex_t a, complex_t b,
                              complex_t c, complex_t d) {
  const complex_t even_sum = {a.re + c.re, a.im + c.im};
  const complex_t even_difference = {a.re - c.re, a.im - c.im};
  const complex_t odd_sum = {b.re + d.re, b.im + d.im};
  const complex_t odd_difference = {b.re - d.re, b.im - d.im};
  out[0] = even_sum.re + odd_sum.re;
  out[1] = even_sum.im + odd_sum.im;
  out[2 * stride] = even_difference.re + odd_difference.im;
  out[2 * stride + 1] = even_difference.im - odd_difference.re;
  out[4 * stride] = even_sum.re - odd_sum.re;
  out[4 * stride + 1] = even_sum.im - odd_sum.im;
  out[6 * stride] = even_difference.re - odd_difference.im;
  out[6 * stride + 1] = even_difference.im + odd_difference.re;
}

/* Window the samples, take pairs of them as complex values, and do the FFT's first
 * stage, of radix 4, storing its blocks in digit-reversed order. */
static void first_stage_radix4(const kws_feature_spec_t *spec, const int16_t *samples,
                               int32_t *buffer) {
  const size_t blocks = spec->fft_size / 8U;
  for (size_t n = 0; n < blocks; n++) {
    butterfly4(buffer + 8 * (size_t)spec->order[n], 1, windowed_pair(spec, samples, n),
               windowed_pair(spec, samples, n + blocks),
               windowed_pair(spec, samples, n + 2 * blocks),
               windowed_pair(spec, samples, n + 3 * blocks));
  }
}

/* The same of radix 2, for FFTs whose number of points is no power of 4. */
static void first_stage_radix2(const kws_feature_spec_t *spec, const int16_t *samples,
                               int32_t *buffer) {
  const size_t blocks = spec->fft_size / 4U;
  for (size_t n = 0; n < blocks; n++) {
    const complex_t a = windowed_pair(spec, samples, n);
    const complex_t b = windowed_pair(spec, samples, n + blocks);
    int32_t *out = buffer + 4 * (size_t)spec->order[n];
    out[0] = a.re + b.re;
    out[1] = a.im + b.im;
    out[2] = a.re - b.re;
    out[3] = a.im - b.im;
  }
}

/* One radix-4 stage in place, which halves: blocks of 4 * quarter complex values.
 * Returns the next stage's twiddles. */
ALWAYS_INLINE const int32_t *radix4_stage(int32_t *buffer, size_t points,
                                          size_t quarter, const int32_t *twiddles) {
  for (size_t start = 0; start < points; start += 4 * quarter) {
    int32_t *a = buffer + 2 * start;
    const int32_t *w = twiddles;
    for (const int32_t *end = a + 2 * quarter; a < end; a += 2, w += 6) {
      const complex_t half = {a[0] >> 1, a[1] >> 1};
      butterfly4(a, quarter, half, turn(a + 2 * quarter, w),
                 turn(a + 4 * quarter, w + 2), turn(a + 6 * quarter, w + 4));
    }
  }
  return twiddles + 6 * quarter;
}

/* Complex FFT of the windowed frame. */
static void fft(const kws_feature_spec_t *spec, const int16_t *samples,
                int32_t *buffer) {
  const int32_t *w = spec->twiddles;
  if (spec->fft_size == 512) { /* the usual size: strides known to the compiler */
    first_stage_radix4(spec, samples, buffer);
    w = radix4_stage(buffer, 256, 4, w);
    w = radix4_stage(buffer, 256, 16, w);
    radix4_stage(buffer, 256, 64, w);
    return;
  }
  const size_t points = spec->fft_size / 2U;
  size_t quarter = points == 128 ? 2 : 4;
  if (quarter == 2) {
    first_stage_radix2(spec, samples, buffer);
  } else {
    first_stage_radix4(spec, samples, buffer);
  }
  for (; quarter < points; quarter *= 4) {
    w = radix4_stage(buffer, points, quarter, w);
  }
}

/* sqrt(value) to 1 part in 2^15, for value < 2^62. */
static inline uint32_t square_root(uint64_t value, const uint16_t *table) {
  const uint32_t high = (uint32_t)(value >> 32);
  uint32_t zeros; /* leading zeros, made even */
  uint32_t mantissa;
  if (high != 0) {
    zeros = (uint32_t)__builtin_clz(high) & ~1U;
    mantissa = (uint32_t)((value << zeros) >> 32);
  } else {
    const uint32_t low = (uint32_t)value;
    if (low == 0) {
      return 0;
    }
    zeros = (uint32_t)__builtin_clz(low) & ~1U;
    mantissa = low << zeros;
    zeros += 32;
  }
  const uint32_t index = (mantissa >> 24) - 64;
  const uint32_t fraction = (mantissa >> 8) & 0xFFFF;
  const uint32_t base = table[index];
  const uint32_t root = (base << 16) + (table[index + 1] - base) * fraction;
  return root >> (zeros / 2 - 1);
}

/* Store |re + i im| ** power as an unsigned 64-bit number: low word, high word. */
static inline void store_spectrum(uint32_t *slot, int32_t re, int32_t im,
                                  const kws_feature_spec_t *spec) {
  const uint64_t power = (uint64_t)((int64_t)re * re + (int64_t)im * im);
  if (spec->power == 2) {
    slot[0] = (uint32_t)power;
    slot[1] = (uint32_t)(power >> 32);
  } else {
    const uint32_t magnitude = square_root(power, spec->sqrt_table);
    slot[0] = magnitude << 16;
    slot[1] = magnitude >> 16;
  }
}

/* Spectrum of the real signal from the complex FFT of its pairs, in place:
 * points + 1 bins. */
static void split_spectrum(const kws_feature_spec_t *spec, int32_t *buffer) {
  const size_t points = spec->fft_size / 2;
  const int32_t *w = spec->split;
  uint32_t *bins = (uint32_t *)buffer;
  const int32_t dc_r = buffer[0], dc_i = buffer[1];
  store_spectrum(bins, dc_r + dc_i, 0, spec);
  store_spectrum(bins + 2 * points, dc_r - dc_i, 0, spec);
  for (size_t k = 1; k < points / 2; k++) {
    int32_t *a = buffer + 2 * k;
    int32_t *b = buffer + 2 * (points - k);
    const int32_t cosine = w[2 * k], sine = w[2 * k + 1];
    const int32_t even_r = (a[0] + b[0]) >> 1;
    const int32_t even_i = (a[1] - b[1]) >> 1;
    const int32_t odd_r = a[0] - b[0];
    const int32_t odd_i = a[1] + b[1];
    const int32_t turned_r = multiply_add(cosine, odd_i, -sine, odd_r);
    const int32_t turned_i = multiply_add(cosine, odd_r, sine, odd_i);
    store_spectrum((uint32_t *)a, even_r + turned_r, even_i - turned_i, spec);
    store_spectrum((uint32_t *)b, even_r - turned_r, even_i + turned_i, spec);
  }
  store_spectrum(bins + points, buffer[points], buffer[points + 1], spec);
}

/* round(ln(value) / scale) + zero_point, clamped. */
static inline int8_t log_int8(uint64_t value, const kws_feature_spec_t *spec) {
  const uint32_t high = (uint32_t)(value >> 32);
  uint32_t mantissa, exponent;
  if (high != 0) {
    const uint32_t zeros = (uint32_t)__builtin_clz(high);
    mantissa = (uint32_t)((value << zeros) >> 32);
    exponent = 63 - zeros;
  } else {
    const uint32_t low = (uint32_t)value;
    if (low == 0) {
      return INT8_MIN;
    }
    const uint32_t zeros = (uint32_t)__builtin_clz(low);
    mantissa = low << zeros;
    exponent = 31 - zeros;
  }
  const uint32_t index = (mantissa >> 24) - 128;
  const uint32_t fraction = (mantissa >> 8) & 0xFFFF;
  const uint32_t base = spec->log_table[index];
  const uint32_t step = spec->log_table[index + 1] - base;
  const uint32_t log2 =
      (exponent << LOG_FRACTION_BITS) + (base << 8) + ((step * fraction) >> 8);
  const int64_t product = (int64_t)((uint64_t)log2 * spec->log_multiplier);
  const int32_t scaled =
      (int32_t)((product + spec->log_offset) >> KWS_FEATURES_LOG_SHIFT);
  if (scaled < INT8_MIN) {
    return INT8_MIN;
  }
  return (int8_t)(scaled > INT8_MAX ? INT8_MAX : scaled);
}

/* Mel triangles of peak 1 that meet at their feet: between two centres the falling
 * weight is 1 minus the rising one, so each bin is multiplied once. */
static void mel_log(const kws_feature_spec_t *spec, const uint32_t *bins, int8_t *out) {
  const uint32_t *weight = spec->mel_weights;
  uint64_t previous_rising = 0;
  bins += 2 * (size_t)spec->first_bin;
  for (size_t segment = 0; segment <= spec->mel_bins; segment++) {
    uint64_t rising = 0, total = 0;
    for (size_t left = spec->segment_bins[segment]; left > 0; left--) {
      const uint32_t low = bins[0], high = bins[1], w = *weight++;
      bins += 2;
      total += ((uint64_t)high << 32) | low;
      rising += (uint64_t)high * w + (((uint64_t)low * w) >> 32);
    }
    if (segment > 0) {
      out[segment - 1] = log_int8(previous_rising + (total - rising), spec);
    }
    previous_rising = rising;
  }
}

void kws_features_frame(const kws_feature_spec_t *spec, const int16_t *samples,
                        int8_t *out) {
  int32_t buffer[2 * MAX_BINS];
  fft(spec, samples, buffer);
  split_spectrum(spec, buffer);
  mel_log(spec, (const uint32_t *)buffer, out);
}

size_t kws_features_frame_count(const kws_feature_spec_t *spec, size_t n) {
  return n < spec->window ? 0 : 1 + (n - spec->window) / spec->hop;
}

void kws_features_clip(const kws_feature_spec_t *spec, const int16_t *samples, size_t n,
                       int8_t *out) {
  const size_t frames = kws_features_frame_count(spec, n);
  for (size_t frame = 0; frame < frames; frame++) {
    kws_features_frame(spec, samples + frame * spec->hop, out + frame * spec->mel_bins);
  }
}
