/* Log-mel features. The interface is described in kws_features.h; features_dsp.c and
 * features_mve.c hold what fast cores do their own way, with the same bits.
 *
 * Fixed point, without block exponents: a full-scale sample enters the FFT as 2^27, so
 * that the error of 16-bit audio is far above the arithmetic's. Each stage halves. The
 * Hann window sums to at most 240, and to 120 over the even samples, so nothing can
 * overflow: after s radix-4 stages a complex value is at most
 * min(4^s, 120) * sqrt(2) * 2^27 / 2^s < 2^30.6, and a bin of the spectrum at most
 * 240 * 2^27 / 2^4 = 0.94 * 2^31.
 *
 * Products are summed in 64 bits and the high word is kept: on a core with a
 * 32 x 32 -> 64 multiply-accumulate (SMULL, SMLAL) that costs no shift.
 */
#include "features_internal.h"

#define MAX_BINS (KWS_FEATURES_MAX_FFT / 2 + 1)

/* Two samples times the window, as a complex value at half of 2^27 full scale (the
 * first stage's halving); zero beyond the window. */
static inline kws_complex_t windowed_pair(const kws_feature_spec_t *spec,
                                          const int16_t *samples, size_t pair,
                                          const int32_t *hann) {
  kws_complex_t out = {0, 0};
  if (pair < spec->window / 2U) {
    out.re = kws_windowed(samples[2 * pair], hann[0]);
    out.im = kws_windowed(samples[2 * pair + 1], hann[1]);
  }
  return out;
}

/* 4-point DFT of a, b, c, d to out[0], out[stride], ... in complex values. */
static inline void butterfly4(int32_t *out, size_t stride, kws_complex_t a,
                              kws_complex_t b, kws_complex_t c, kws_complex_t d) {
  const kws_complex_t even_sum = {a.re + c.re, a.im + c.im};
  const kws_complex_t even_difference = {a.re - c.re, a.im - c.im};
  const kws_complex_t odd_sum = {b.re + d.re, b.im + d.im};
  const kws_complex_t odd_difference = {b.re - d.re, b.im - d.im};
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
 * stage, of radix 4, whose blocks come in digit-reversed order. */
static void first_stage_radix4(const kws_feature_spec_t *spec, const int16_t *samples,
                               int32_t *buffer) {
  const size_t blocks = spec->fft_size / 8U;
  const int32_t *hann = spec->windows;
  for (size_t block = 0; block < blocks; block++, buffer += 8, hann += 8) {
    const size_t n = spec->order[block];
    butterfly4(buffer, 1, windowed_pair(spec, samples, n, hann),
               windowed_pair(spec, samples, n + blocks, hann + 2),
               windowed_pair(spec, samples, n + 2 * blocks, hann + 4),
               windowed_pair(spec, samples, n + 3 * blocks, hann + 6));
  }
}

/* The same of radix 2, for FFTs whose number of points is no power of 4. */
static void first_stage_radix2(const kws_feature_spec_t *spec, const int16_t *samples,
                               int32_t *buffer) {
  const size_t blocks = spec->fft_size / 4U;
  const int32_t *hann = spec->windows;
  for (size_t block = 0; block < blocks; block++, buffer += 4, hann += 4) {
    const size_t n = spec->order[block];
    const kws_complex_t a = windowed_pair(spec, samples, n, hann);
    const kws_complex_t b = windowed_pair(spec, samples, n + blocks, hann + 2);
    buffer[0] = a.re + b.re;
    buffer[1] = a.im + b.im;
    buffer[2] = a.re - b.re;
    buffer[3] = a.im - b.im;
  }
}

/* One radix-4 stage in place, which halves: blocks of 4 * quarter complex values.
 * Returns the next stage's twiddles. */
KWS_ALWAYS_INLINE const int32_t *radix4_stage(int32_t *buffer, size_t points,
                                              size_t quarter, const int32_t *twiddles) {
#if defined(__ARM_ARCH_6M__)
  static const uint8_t places[3] = {6, 0, 3};
  for (size_t i = 0; i < 3; i++) {
    kws_m0_turns(buffer + 2 * quarter * (i + 1) + 2, twiddles + 9 + places[i],
                 (int32_t)(points / quarter / 4), (int32_t)(32 * quarter),
                 (int32_t)quarter - 1);
  }
  for (int32_t *a = buffer; a < buffer + 2 * points; a += 8 * quarter) {
    for (size_t i = 1; i < 4; i++) {
      int32_t *const value = a + 2 * i * quarter;
      const kws_complex_t turned = kws_turn_by_0(value);
      value[0] = turned.re;
      value[1] = turned.im;
    }
    kws_m0_butterflies(a, (int32_t)(8 * quarter));
  }
#else
  for (size_t start = 0; start < points; start += 4 * quarter) {
    int32_t *a = buffer + 2 * start;
    const int32_t *const end = a + 2 * quarter;
    const kws_complex_t first = {a[0] >> 1, a[1] >> 1};
    butterfly4(a, quarter, first, kws_turn_by_0(a + 2 * quarter),
               kws_turn_by_0(a + 4 * quarter), kws_turn_by_0(a + 6 * quarter));
    const int32_t *w = twiddles + 9;
    for (a += 2; a < end; a += 2, w += 9) {
      const kws_complex_t half = {a[0] >> 1, a[1] >> 1};
      butterfly4(a, quarter, half, kws_turn(a + 2 * quarter, w + 6, 1),
                 kws_turn(a + 4 * quarter, w, 1), kws_turn(a + 6 * quarter, w + 3, 1));
    }
  }
#endif
  return twiddles + 9 * quarter;
}

/* Complex FFT of the windowed frame. */
static void fft(const kws_feature_spec_t *spec, const int16_t *samples,
                int32_t *buffer) {
  const int32_t *w = spec->twiddles;
#if !defined(KWS_FEATURES_FAST)
  if (spec->fft_size == 512) { /* the usual size: strides known to the compiler */
    first_stage_radix4(spec, samples, buffer);
    w = radix4_stage(buffer, 256, 4, w);
    w = radix4_stage(buffer, 256, 16, w);
    radix4_stage(buffer, 256, 64, w);
    return;
  }
#endif
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

#if !defined(KWS_FEATURES_FAST)

void kws_features_power(const kws_feature_spec_t *spec, int32_t *buffer) {
  const size_t points = spec->fft_size / 2;
  const int32_t *w = spec->split;
  const int32_t dc_r = buffer[0], dc_i = buffer[1];
  kws_features_store_power(buffer, dc_r + dc_i, 0);
  kws_features_store_power(buffer + 2 * points, dc_r - dc_i, 0);
#if defined(__ARM_ARCH_6M__)
  kws_m0_powers(buffer + 2, buffer + 2 * (points - 1), w + 2, buffer + points);
#else
  for (size_t k = 1; k < points / 2; k++) {
    int32_t *a = buffer + 2 * k;
    int32_t *b = buffer + 2 * (points - k);
    const int32_t even_r = (a[0] + b[0]) >> 1;
    const int32_t even_i = (a[1] - b[1]) >> 1;
    const int32_t odd[2] = {a[0] - b[0], a[1] + b[1]};
    const kws_complex_t turned = kws_turn(odd, w + 2 * k, 0);
    kws_features_store_power(a, even_r + turned.im, even_i - turned.re);
    kws_features_store_power(b, even_r - turned.im, even_i + turned.re);
  }
#endif
  kws_features_store_power(buffer + points, buffer[points], buffer[points + 1]);
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
      (exponent << KWS_FEATURES_LOG2_BITS) + (base << 8) + ((step * fraction) >> 8);
  const int64_t product = (int64_t)kws_long_product(log2, spec->log_multiplier);
  const int32_t scaled =
      (int32_t)((product + spec->log_offset) >> KWS_FEATURES_LOG_SHIFT);
  if (scaled < INT8_MIN) {
    return INT8_MIN;
  }
  return (int8_t)(scaled > INT8_MAX ? INT8_MAX : scaled);
}

/* The sums of one segment's bins. */
#if defined(__ARM_ARCH_6M__)
#define add_bins kws_m0_segment
#else
static inline void add_bins(const uint32_t *bins, const uint32_t *end,
                            const uint32_t *weight, kws_segment_t *sum) {
  for (; bins < end; bins += 2) {
    const uint32_t low = bins[0], high = bins[1], w = *weight++;
    sum->total += ((uint64_t)high << 32) | low;
    sum->rising += kws_long_product(high, w) + (kws_long_product(low, w) >> 32);
  }
}
#endif

/* Mel triangles of peak 1 that meet at their feet: between two centres the falling
 * weight is 1 minus the rising one, so each bin is multiplied once. */
void kws_features_mel(const kws_feature_spec_t *spec, const uint32_t *bins,
                      int8_t *out) {
  const uint32_t *weight = spec->mel_weights;
  uint64_t previous_rising = 0;
  bins += 2 * (size_t)spec->first_bin;
  for (size_t segment = 0; segment <= spec->mel_bins; segment++) {
    const size_t count = spec->segment_bins[segment];
    kws_segment_t sum = {0, 0};
    if (count > 0) add_bins(bins, bins + 2 * count, weight, &sum);
    bins += 2 * count;
    weight += count;
    if (segment > 0) {
      out[segment - 1] = log_int8(previous_rising + (sum.total - sum.rising), spec);
    }
    previous_rising = sum.rising;
  }
}

#endif

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

/* From the power spectrum to the magnitudes, times 2^16. */
static void take_roots(const kws_feature_spec_t *spec, uint32_t *bins) {
  for (const uint32_t *end = bins + spec->fft_size + 2; bins < end; bins += 2) {
    const uint64_t power = ((uint64_t)bins[1] << 32) | bins[0];
    const uint32_t magnitude = square_root(power, spec->sqrt_table);
    bins[0] = magnitude << 16;
    bins[1] = magnitude >> 16;
  }
}

static __attribute__((noinline)) void raise_to_floor(const kws_feature_spec_t *spec,
                                                     int8_t *out) {
  for (size_t bin = 0; bin < spec->mel_bins; bin++) {
    if (out[bin] < spec->floor) out[bin] = spec->floor;
  }
}

void kws_features_frame(const kws_feature_spec_t *spec, const int16_t *samples,
                        int8_t *out) {
  _Alignas(8) int32_t buffer[2 * MAX_BINS];
  uint32_t *const bins = (uint32_t *)buffer;
#if defined(KWS_FEATURES_FAST)
  if (spec->fft_size == 512 && spec->window == 480) {
    kws_features_fft_512(spec, samples, buffer);
  } else {
    fft(spec, samples, buffer);
  }
#else
  fft(spec, samples, buffer);
#endif
  kws_features_power(spec, buffer);
  if (spec->power == 1) take_roots(spec, bins);
  kws_features_mel(spec, bins, out);
  if (spec->floor > INT8_MIN) raise_to_floor(spec, out);
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
