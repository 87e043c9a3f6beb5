/* Log-mel features. The interface is described in kws_features.h.
 *
 * Fixed point, without block exponents: a full-scale sample enters the FFT as 2^27,
 * which puts the rounding error of 16-bit audio 2^12 above the arithmetic's. Each stage
 * halves, and the Hann window sums to at most 240, so nothing can overflow:
 * after s radix-4 stages a value is at most min(4^s, 240) * sqrt(2) * 2^27 / 2^s < 2^31.
 *
 * Written for a 32-bit core with a 32 x 32 -> 64 multiply-accumulate (SMULL, SMLAL):
 * products are summed in 64 bits and the high word is kept, which costs no shift.
 */
#include "kws_features.h"

#define MAX_BINS (KWS_FEATURES_MAX_FFT / 2 + 1)

/* log2 of the spectrum's values is kept in Q23. */
#define LOG_FRACTION_BITS 23

_Static_assert((-1 >> 1) == -1, "right shift of negative values must be arithmetic");

static inline int32_t high_word(int64_t value) { return (int32_t)(value >> 32); }

/* A product of Q31 numbers, summed with another, halved: (a * b + c * d) / 2. */
static inline int32_t multiply_add(int32_t a, int32_t b, int32_t c, int32_t d) {
  return high_word((int64_t)a * b + (int64_t)c * d);
}

static inline int32_t multiply_subtract(int32_t a, int32_t b, int32_t c, int32_t d) {
  return high_word((int64_t)a * b - (int64_t)c * d);
}

/* Sample times window, at half of 2^27 full scale: the first stage's halving. */
static inline int32_t windowed(int32_t sample, int32_t hann) {
  return high_word((int64_t)(sample * 65536) * hann);
}

/* Four complex values in, their 4-point DFT out, `stride` complex values apart. */
static inline void butterfly4(int32_t *out, size_t stride, int32_t ar, int32_t ai,
                              int32_t br, int32_t bi, int32_t cr, int32_t ci, int32_t dr,
                              int32_t di) {
  int32_t sum_r = ar + cr, sum_i = ai + ci;
  int32_t difference_r = ar - cr, difference_i = ai - ci;
  int32_t odd_sum_r = br + dr, odd_sum_i = bi + di;
  int32_t odd_difference_r = br - dr, odd_difference_i = bi - di;
  out[0] = sum_r + odd_sum_r;
  out[1] = sum_i + odd_sum_i;
  out[2 * stride] = difference_r + odd_difference_i;
  out[2 * stride + 1] = difference_i - odd_difference_r;
  out[4 * stride] = sum_r - odd_sum_r;
  out[4 * stride + 1] = sum_i - odd_sum_i;
  out[6 * stride] = difference_r - odd_difference_i;
  out[6 * stride + 1] = difference_i + odd_difference_r;
}

/* Window the samples, take pairs of them as complex values, and do the FFT's first
 * stage, storing its blocks in digit-reversed order. Returns the block length. */
static size_t window_and_first_stage(const kws_feature_spec_t *spec, const int16_t *samples,
                                     int32_t *buffer) {
  const size_t points = spec->fft_size / 2;
  const size_t used = spec->window / 2;
  const int32_t *hann = spec->hann;
  /* 256 and 64 points are powers of four; 128 needs one stage of radix 2. */
  const size_t radix = points == 128 ? 2 : 4;
  const size_t blocks = points / radix;
  for (size_t n = 0; n < blocks; n++) {
    int32_t value[8] = {0};
    for (size_t r = 0; r < radix; r++) {
      const size_t index = n + r * blocks;
      if (index < used) {
        value[2 * r] = windowed(samples[2 * index], hann[2 * index]);
        value[2 * r + 1] = windowed(samples[2 * index + 1], hann[2 * index + 1]);
      }
    }
    int32_t *out = buffer + 2 * radix * spec->order[n];
    if (radix == 4) {
      butterfly4(out, 1, value[0], value[1], value[2], value[3], value[4], value[5],
                 value[6], value[7]);
    } else {
      out[0] = value[0] + value[2];
      out[1] = value[1] + value[3];
      out[2] = value[0] - value[2];
      out[3] = value[1] - value[3];
    }
  }
  return radix;
}

/* The remaining radix-4 stages, in place; each halves. */
static void fft_stages(int32_t *buffer, size_t points, size_t quarter, const int32_t *twiddles) {
  for (; quarter < points; quarter *= 4) {
    for (size_t k = 0; k < quarter; k++) {
      const int32_t *w = twiddles + 6 * k;
      for (size_t start = k; start < points; start += 4 * quarter) {
        int32_t *a = buffer + 2 * start;
        const int32_t *b = a + 2 * quarter;
        const int32_t *c = b + 2 * quarter;
        const int32_t *d = c + 2 * quarter;
        const int32_t br = multiply_add(b[0], w[0], b[1], w[1]);
        const int32_t bi = multiply_subtract(b[1], w[0], b[0], w[1]);
        const int32_t cr = multiply_add(c[0], w[2], c[1], w[3]);
        const int32_t ci = multiply_subtract(c[1], w[2], c[0], w[3]);
        const int32_t dr = multiply_add(d[0], w[4], d[1], w[5]);
        const int32_t di = multiply_subtract(d[1], w[4], d[0], w[5]);
        butterfly4(a, quarter, a[0] >> 1, a[1] >> 1, br, bi, cr, ci, dr, di);
      }
    }
    twiddles += 6 * quarter;
  }
}

/* floor(sqrt(value)) to 1 part in 2^15, for value < 2^62. */
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
    const int32_t turned_r = multiply_subtract(cosine, odd_i, sine, odd_r);
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
  const int64_t scaled =
      ((int64_t)log2 * spec->log_multiplier + spec->log_offset) >> spec->log_shift;
  if (scaled < INT8_MIN) {
    return INT8_MIN;
  }
  return scaled > INT8_MAX ? INT8_MAX : (int8_t)scaled;
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

void kws_features_frame(const kws_feature_spec_t *spec, const int16_t *samples, int8_t *out) {
  int32_t buffer[2 * MAX_BINS];
  const size_t quarter = window_and_first_stage(spec, samples, buffer);
  fft_stages(buffer, spec->fft_size / 2, quarter, spec->twiddles);
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
