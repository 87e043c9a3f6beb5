/* What the kernel files share: TFLM's requantisation, and a softmax row. */
#ifndef KWS_KERNELS_INTERNAL_H
#define KWS_KERNELS_INTERNAL_H

#include "kws_delta.h"
#include "kws_kernels.h"

/* Zero point of SOFTMAX's output, fixed by TFLite. */
#define KWS_SOFTMAX_ZERO_POINT (-128)

static inline int32_t kws_min(int32_t a, int32_t b) {
  return a < b ? a : b;
}

static inline int32_t kws_clamp(int32_t value, int32_t low, int32_t high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

/* round(a * b / 2^31), halves up. TFLM saturates one case, a = b = -2^31: multipliers
 * are never negative, so it cannot come. */
static inline int32_t kws_high_multiply(int32_t a, int32_t b) {
#if defined(__ARM_ARCH_6M__)
  /* No 32x32->64 multiply: four 16-bit products, for b >= 0. */
  const uint32_t a_low = (uint32_t)a & 0xffffu;
  const int32_t a_high = a >> 16;
  const uint32_t b_low = (uint32_t)b & 0xffffu;
  const int32_t b_high = b >> 16;
  const uint32_t low = a_low * b_low;
  const uint32_t middle1 = a_low * (uint32_t)b_high; /* below 2^31 */
  const int32_t middle2 = a_high * (int32_t)b_low;   /* |.| below 2^31 */
  int32_t high = a_high * b_high + (int32_t)(middle1 >> 16) + (middle2 >> 16);
  const uint32_t part =
      (low >> 16) + (middle1 & 0xffffu) + ((uint32_t)middle2 & 0xffffu);
  uint32_t bottom = (part << 16) | (low & 0xffffu);
  high += (int32_t)(part >> 16);
  const uint32_t rounded = bottom + 0x40000000u;
  high += rounded < bottom;
  bottom = rounded;
  return (int32_t)(((uint32_t)high << 1) | (bottom >> 31));
#else
  return (int32_t)(((int64_t)a * b + 0x40000000) >> 31);
#endif
}

/* round(value / 2^exponent), halves away from zero; value above -2^31, which every
 * result of kws_high_multiply is. */
static inline int32_t kws_rounding_shift_right(int32_t value, int32_t exponent) {
  if (exponent == 0) return value;
  return (((value + (value >> 31)) >> (exponent - 1)) + 1) >> 1;
}

/* TFLM's MultiplyByQuantizedMultiplier: rounds twice. */
static inline int32_t kws_requantize(int32_t value, int32_t multiplier, int32_t shift) {
  if (shift > 0) {
    return kws_high_multiply((int32_t)((uint32_t)value << shift), multiplier);
  }
  return kws_rounding_shift_right(kws_high_multiply(value, multiplier), -shift);
}

/* The same where there is only a right shift. */
static inline int32_t kws_requantize_down(int32_t value, int32_t multiplier,
                                          int32_t right) {
  return kws_rounding_shift_right(kws_high_multiply(value, multiplier), right);
}

/* The same for |value| below 2^30, right >= 1 and half = 2^(right - 1). */
static inline int32_t kws_requantize_small(int32_t value, int32_t multiplier,
                                           int32_t half, int32_t right) {
#if defined(__ARM_ARCH_6M__)
  /* Three products, rounded down, are 0 to 3 less than the first rounding. Where that
   * makes no difference to the second, nearly always, they are enough. */
  const int32_t high = value >> 15, upper = multiplier >> 16;
  const int32_t least = high * upper + ((high * (multiplier & 0xffff)) >> 16) +
                        (((value & 0x7fff) * upper) >> 15) + (value >> 31) + half;
  const int32_t result = least >> right;
  if (result == (least + 3) >> right) return result;
#endif
  const int32_t product = kws_high_multiply(value, multiplier);
  return (product + (product >> 31) + half) >> right;
}

#if defined(KWS_CORE_DSP)

/* a + round(b * c / 2^32), halves up. With b doubled and a = the half that a shift
 * behind it rounds by, kws_requantize_small but for the sign. */
static inline int32_t kws_multiply_high_add(int32_t a, int32_t b, int32_t c) {
#if defined(__ARM_FEATURE_DSP)
  int32_t result;
  __asm("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(b), "r"(c), "r"(a));
  return result;
#else
  return a + (int32_t)(((int64_t)b * c + INT64_C(0x80000000)) >> 32);
#endif
}

/* Saturated to int8. */
static inline int32_t kws_saturate(int32_t value) {
#if defined(__ARM_FEATURE_DSP)
  int32_t result;
  __asm("ssat %0, #8, %1" : "=r"(result) : "r"(value));
  return result;
#else
  return kws_clamp(value, INT8_MIN, INT8_MAX);
#endif
}

#endif

#if defined(__ARM_ARCH_6M__)
/* TFLM's requantisation of sums[i] + bias[i], count of them, which are below 2^23 in
 * magnitude, for shifts to the right, saturated; rounding = 2 * zero point + 1. */
void kws_m0_finish(const int32_t *sums, const int32_t *bias, const int32_t *multiplier,
                   const int8_t *shift, int32_t count, int32_t rounding, int8_t *y,
                   int32_t y_step);

/* sums[c] += what the list adds, which ends with a change of 0; columns is a multiple
 * of 8. Rows of weights have 128 added (KWS_DELTA_FLIP): `start` takes away what that
 * makes, -128 times the sum of the changes, in both 16-bit halves; sizes of changes add
 * up to 255 at most. Changes list[].offset, an address, to that behind the columns. */
void kws_m0_add_changes(int32_t *sums, kws_delta_change_t *list, int32_t columns,
                        uint32_t start);
#endif

/* One pixel of DEPTHWISE_CONV_2D: tap i of channel c reads taps[i][c]. */
void kws_depthwise_pixel(const kws_fully_connected_t *p, const int8_t *const *taps,
                         int8_t *y);

/* What a feature of linear attention does to its row of S: `moving` adds to it,
 * `asking` sums it up. */
typedef struct {
  int32_t value;  /* moving: its newest key, and in the upper half its oldest one's
                   * negative, less their zero point; asking: the query less its own */
  int32_t offset; /* of the row in a block of S, 4 * feature */
} kws_linear_term_t;

/* S moves, and is asked: mixed [width] is what `mix` makes of it.
 *   values  newest, and in the upper half oldest, less their zero point; up to a
 * multiple of 4 columns, 0 behind the last columns S */
void kws_linear_columns(const kws_linear_attention_t *p,
                        const kws_linear_term_t *moving, int32_t moving_count,
                        const kws_linear_term_t *asking, int32_t asking_count,
                        const uint32_t *values, int32_t *columns, int8_t *mixed);

/* Two values of 16 bits, the first in the lower half. */
static inline uint32_t kws_pack_pair(int32_t low, int32_t high) {
  return ((uint32_t)low & 0xffffu) | ((uint32_t)high << 16);
}

/* SOFTMAX's division. `sum` is the row's sum of exponentials, Q12.19, above 0; an
 * element is then round(exponential * reciprocal / 2^31 / 2^exponent) - 128. */
int32_t kws_softmax_reciprocal(uint32_t sum, int32_t *exponent);

/* SOFTMAX of one row; y may be x. */
void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y);

/* Is the input of ADD that of the larger scale: times 1/2 and no shift? */
static inline int kws_is_unit(int32_t multiplier, int32_t shift) {
  return multiplier == 1 << 30 && shift == 0;
}

/* Where both inputs have y's shape, the rows are one long row. */
static inline kws_broadcast_t kws_flatten(const kws_broadcast_t *shape) {
  kws_broadcast_t s = *shape;
  if (s.x1_column_step == 1 && s.x2_column_step == 1 && s.x1_row_step == s.columns &&
      s.x2_row_step == s.columns) {
    s.columns *= s.rows;
    s.rows = 1;
  }
  return s;
}

/* ADD where x1_factor isn't 0, in plain C; not for Helium. */
void kws_add_linear_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                       const int8_t *x1, const int8_t *x2, int8_t *y);

/* ADD and MUL of any parameters, in plain C; not for Helium. */
void kws_add_any_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y);
void kws_mul_any_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y);

/* The sum of n elements. */
int32_t kws_sum_s8(const int8_t *x, int32_t n);

/* The sum of each column of x [rows, columns]. */
void kws_sum_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int32_t *sums);

#endif
