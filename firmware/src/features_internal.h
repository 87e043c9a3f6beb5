/* What the files of the features share: the steps of a frame, which fast cores do their
 * own way (features_dsp.c, features_mve.c), and the arithmetic of the plain C. All give
 * the same bits. */
#ifndef KWS_FEATURES_INTERNAL_H
#define KWS_FEATURES_INTERNAL_H

#include "kws_core.h"
#include "kws_features.h"

#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#if defined(KWS_CORE_MVE)
#define KWS_FEATURES_FAST 1
#define KWS_FEATURES_MVE  1
#elif defined(KWS_CORE_DSP)
#define KWS_FEATURES_FAST 1
#define KWS_FEATURES_DSP  1
#endif
#endif

/* ---- Steps of a frame ---- */

#if defined(KWS_FEATURES_FAST)
/* Complex FFT of the windowed frame, for the usual window of 480 samples in 512 points.
 * `buffer` takes 256 complex values. */
void kws_features_fft_512(const kws_feature_spec_t *spec, const int16_t *samples,
                          int32_t *buffer);
#endif

/* Power spectrum of the real signal from the complex FFT of its pairs, in place:
 * fft_size / 2 + 1 bins of 64 bits, low word first. */
void kws_features_power(const kws_feature_spec_t *spec, int32_t *buffer);

/* Mel bank, logarithm and int8 of the spectrum's bins, as above. The triangles have
 * peak 1 and meet at their feet: between two centres the falling weight is 1 minus the
 * rising one, so each bin is multiplied once. */
void kws_features_mel(const kws_feature_spec_t *spec, const uint32_t *bins,
                      int8_t *out);

/* Of a segment of the mel bank: all bins, and times their rising weights. */
typedef struct {
  uint64_t rising, total;
} kws_segment_t;

#if defined(__ARM_ARCH_6M__)
/* kws_turn of small values: `count` twiddles, 9 words apart, for values that follow one
 * another; each for as many of them as there are blocks, `step` bytes apart. */
void kws_m0_turns(int32_t *values, const int32_t *twiddles, int32_t blocks,
                  int32_t step, int32_t count);

/* 4-point DFTs in place, the first of the four values halved: the values of one are
 * `step` bytes apart, and as many follow one another. */
void kws_m0_butterflies(int32_t *values, int32_t step);

/* Bins k, up to `end`, and points - k of the power spectrum, from the complex FFT's. */
void kws_m0_powers(int32_t *bins, int32_t *mirrored, const int32_t *twiddles,
                   const int32_t *end);

/* At least one bin. */
void kws_m0_segment(const uint32_t *bins, const uint32_t *end, const uint32_t *weights,
                    kws_segment_t *sums);
#endif

/* ---- Arithmetic ---- */

/* log2 is kept in Q23. */
#define KWS_FEATURES_LOG2_BITS 23

/* Where the compiler must see constant arguments. */
#define KWS_ALWAYS_INLINE static inline __attribute__((always_inline))

_Static_assert((-1 >> 1) == -1, "right shift of negative values must be arithmetic");

/* A core without a 32 x 32 -> 64 multiplication (a test asks for it on the PC): four
 * products of halves, in 32 bits. The sums are the same, to the last bit. */
#if defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_8M_BASE__) || \
    defined(KWS_FEATURES_HALVES)
#define KWS_HALVES 1
#else
#define KWS_HALVES 0
#endif

typedef struct {
  int32_t re, im;
} kws_complex_t;

/* value = 2^16 * high + low, both signed: -2^15 <= low < 2^15, |high| <= 2^15. */
typedef struct {
  int32_t high, low;
} kws_halves_t;

static inline kws_halves_t kws_halves(int32_t value) {
  const kws_halves_t out = {((value >> 15) + 1) >> 1, (int16_t)value};
  return out;
}

/* high + floor((cross_v + cross_w + floor(low / 2^16)) / 2^16). Where the sum need not
 * fit, the cross products are shifted one by one and their carry is added. */
static inline int32_t kws_add_halves(int32_t high, int32_t cross_v, int32_t cross_w,
                                     int32_t low, int fits) {
  cross_v += low >> 16;
  if (fits) return high + ((cross_v + cross_w) >> 16);
  return high + (cross_v >> 16) + (cross_w >> 16) +
         (((cross_v & 0xffff) + (cross_w & 0xffff)) >> 16);
}

/* value * (cosine - i sine) / 2, where `w` is cosine, sine in Q31. `small` promises
 * that |value| is below 2^29.5: then |cross_v| is below 2^15 * 2^15 * sqrt(2),
 * |cross_w| below 2^13.5 * 2^15 * sqrt(2), and their sum fits. The sum of the low
 * halves does, since in no table the cosine's and the sine's are both -2^15. */
KWS_ALWAYS_INLINE kws_complex_t kws_turn(const int32_t *value, const int32_t *w,
                                         int small) {
#if KWS_HALVES
  const kws_halves_t re = kws_halves(value[0]), im = kws_halves(value[1]);
  const kws_halves_t c = kws_halves(w[0]), s = kws_halves(w[1]);
  const kws_complex_t out = {
      kws_add_halves(
          re.high * c.high + im.high * s.high, re.low * c.high + im.low * s.high,
          re.high * c.low + im.high * s.low, re.low * c.low + im.low * s.low, small),
      kws_add_halves(
          im.high * c.high - re.high * s.high, im.low * c.high - re.low * s.high,
          im.high * c.low - re.high * s.low, im.low * c.low - re.low * s.low, small)};
#else
  (void)small;
  const kws_complex_t out = {
      (int32_t)(((int64_t)value[0] * w[0] + (int64_t)value[1] * w[1]) >> 32),
      (int32_t)(((int64_t)value[1] * w[0] + (int64_t)value[0] * -w[1]) >> 32)};
#endif
  return out;
}

/* The same by the cosine and sine of 0, which are 2^31 - 1 and 0. */
static inline kws_complex_t kws_turn_by_0(const int32_t *value) {
  const kws_complex_t out = {(value[0] - (value[0] > 0)) >> 1,
                             (value[1] - (value[1] > 0)) >> 1};
  return out;
}

/* re^2 + im^2, below 2^62. */
static inline uint64_t kws_power_of(int32_t re, int32_t im) {
#if KWS_HALVES
  const kws_halves_t r = kws_halves(re), i = kws_halves(im);
  const uint32_t low = (uint32_t)(r.low * r.low) + (uint32_t)(i.low * i.low);
  const int32_t middle = r.high * r.low + i.high * i.low; /* twice 2^16 of it */
  const uint32_t high = (uint32_t)(r.high * r.high + i.high * i.high);
  const uint32_t sum = ((uint32_t)middle << 17) + low;
  return ((uint64_t)(high + (uint32_t)(middle >> 15) + (sum < low)) << 32) | sum;
#else
  return (uint64_t)((int64_t)re * re + (int64_t)im * im);
#endif
}

/* a * b */
static inline uint64_t kws_long_product(uint32_t a, uint32_t b) {
#if KWS_HALVES
  const uint32_t a_low = a & 0xffff, a_high = a >> 16, b_low = b & 0xffff,
                 b_high = b >> 16;
  const uint32_t low = a_low * b_low;
  const uint32_t middle = a_high * b_low + (low >> 16);
  const uint32_t other = a_low * b_high + (middle & 0xffff);
  const uint32_t high = a_high * b_high + (middle >> 16) + (other >> 16);
  return ((uint64_t)high << 32) | (other << 16) | (low & 0xffff);
#else
  return (uint64_t)a * b;
#endif
}

/* sample * window / 2^16: the window is positive and below 2^31. */
static inline int32_t kws_windowed(int32_t sample, int32_t window) {
#if KWS_HALVES
  return sample * (window >> 16) + ((sample * (window & 0xffff)) >> 16);
#else
  return (int32_t)(((int64_t)(sample * 65536) * window) >> 32);
#endif
}

/* The power as an unsigned 64-bit number: low word, high word. */
static inline void kws_features_store_power(int32_t *slot, int32_t re, int32_t im) {
  const uint64_t power = kws_power_of(re, im);
  slot[0] = (int32_t)power;
  slot[1] = (int32_t)(power >> 32);
}

#if defined(KWS_FEATURES_FAST)

/* log_offset for log2 of a 64-bit value as a fraction of 2^64, whose exponent is minus
 * the number of leading zeros. */
static inline uint64_t kws_features_fraction_offset(const kws_feature_spec_t *spec) {
  return (uint64_t)spec->log_offset +
         ((uint64_t)63 << KWS_FEATURES_LOG2_BITS) * spec->log_multiplier;
}

#endif

#endif
