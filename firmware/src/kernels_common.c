/* Kernels that are the same plain C on every core. See kws_kernels.h. */
#include "kernels_internal.h"

#include <string.h>

/* ---- CONV_2D ---- */

/* A few bytes, 1 or more. */
static inline void copy_bytes(const int8_t *x, int32_t n, int8_t *restrict y) {
#if defined(KWS_CORE_MVE)
  __asm volatile(
      "  dlstp.8 lr, %[n]\n"
      "1:\n"
      "  vldrb.8 q0, [%[x]], #16\n"
      "  vstrb.8 q0, [%[y]], #16\n"
      "  letp lr, 1b\n"
      : [x] "+&r"(x), [y] "+&r"(y)
      : [n] "r"(n)
      : "lr", "q0", "memory");
#else
  for (int32_t i = 0; i < n; ++i) y[i] = x[i];
#endif
}

/* One patch [filter_height, filter_width, channels], the padding filled. */
static void gather_patch(const kws_conv_2d_t *p, const int8_t *x, int32_t top,
                         int32_t left, int8_t *restrict patch) {
  const int32_t channels = p->input_channels;
  const int32_t row_bytes = p->input_width * channels;
  const int32_t taps = p->filter_width;
  const int32_t reach = (taps - 1) * p->dilation_width;
  const int8_t padding = p->input_zero_point;
  const int whole_rows =
      p->dilation_width == 1 && left >= 0 && left + reach < p->input_width;
  const int32_t patch_row = taps * channels;
  for (int32_t fy = 0; fy < p->filter_height; ++fy, top += p->dilation_height) {
    const int8_t *row = x + top * row_bytes + left * channels;
    if (top < 0 || top >= p->input_height) {
      for (int32_t i = 0; i < patch_row; ++i) *patch++ = padding;
    } else if (whole_rows) {
      copy_bytes(row, patch_row, patch);
      patch += patch_row;
    } else {
      for (int32_t fx = 0; fx < taps; ++fx) {
        const int32_t column = left + fx * p->dilation_width;
        const int inside = column >= 0 && column < p->input_width;
        const int8_t *pixel = row + fx * p->dilation_width * channels;
        for (int32_t c = 0; c < channels; ++c) *patch++ = inside ? pixel[c] : padding;
      }
    }
  }
}

/* The same where the patch lies within the image: vectors or words at a time. Words may
 * read up to 3 bytes too much at rows' ends, and write as much behind the patch. */
static void gather_inside(const kws_conv_2d_t *p, const int8_t *x, int32_t top,
                          int32_t left, int8_t *restrict patch) {
  const int32_t channels = p->input_channels;
  const int32_t row_bytes = p->input_width * channels;
  const int32_t patch_row = p->filter_width * channels;
  const int8_t *row = x + top * row_bytes + left * channels;
  for (int32_t fy = 0; fy < p->filter_height; ++fy, row += row_bytes) {
#if defined(KWS_CORE_MVE)
    copy_bytes(row, patch_row, patch);
#else
    for (int32_t i = 0; i < patch_row; i += 4) {
#if defined(__ARM_FEATURE_UNALIGNED)
      memcpy(patch + i, row + i, 4);
#else
      memcpy(__builtin_assume_aligned(patch + i, 4),
             __builtin_assume_aligned(row + i, 4), 4);
#endif
    }
#endif
    patch += patch_row;
  }
}

/* `quick` is a constant: the loop of bytes pays nothing for the other. */
static inline __attribute__((always_inline)) void convolve(const kws_conv_2d_t *p,
                                                           const int8_t *x, int32_t row,
                                                           int32_t left, int8_t *y,
                                                           void *scratch, int quick) {
  const int32_t inputs = p->product.inputs;
  int8_t *patches = scratch;
  void *product_scratch = patches + KWS_ROUND_UP(KWS_CONV_2D_BLOCK * inputs, 4);
  const int32_t width = p->output_width;
  const int32_t channels = p->input_channels;
  const int32_t lowest = p->input_height - p->filter_height;
  const int32_t farthest = p->input_width - p->filter_width;
  const int32_t row_bytes = p->input_width * channels;
  const int32_t row_words = KWS_ROUND_UP(p->filter_width * channels, 4);
  int32_t column = 0;
  while (left > 0) {
    const int32_t count = kws_min(left, KWS_CONV_2D_BLOCK);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t top = row * p->stride_height - p->pad_top;
      const int32_t start = column * p->stride_width - p->pad_left;
      if (quick && top >= 0 && top <= lowest && start >= 0 && start <= farthest &&
          (top < lowest || start * channels + row_words <= row_bytes)) {
        gather_inside(p, x, top, start, patches + i * inputs);
      } else {
        gather_patch(p, x, top, start, patches + i * inputs);
      }
      if (++column == width) {
        column = 0;
        ++row;
      }
    }
    kws_fully_connected_s8(&p->product, patches, count, y, product_scratch);
    y += count * (int32_t)p->product.outputs;
    left -= count;
  }
}

void kws_conv_2d_s8(const kws_conv_2d_t *p, const int8_t *x, int32_t first_row,
                    int32_t rows, int8_t *y, void *scratch) {
  const int32_t left = rows * p->output_width;
  int quick = p->dilation_height == 1 && p->dilation_width == 1;
#if defined(__ARM_FEATURE_UNALIGNED)
  /* The next row must have what is read too much of one. */
  quick = quick && p->input_width * p->input_channels >= 3;
#else
  quick = quick &&
          (((uintptr_t)x | (uintptr_t)scratch | (uintptr_t)p->input_channels) & 3) == 0;
#endif
  if (quick) {
    convolve(p, x, first_row, left, y, scratch, 1);
  } else {
    convolve(p, x, first_row, left, y, scratch, 0);
  }
}

/* ---- DEPTHWISE_CONV_2D ---- */

/* Where the taps of a window read that lies in the image. Not inline, nor is the next:
 * they would take the loop's registers. */
static __attribute__((noinline)) void point_inside(const kws_depthwise_conv_2d_t *p,
                                                   const int8_t *pixel,
                                                   const int8_t **taps) {
  const int32_t channels = p->taps.outputs;
  const int32_t gap = (p->input_width - p->filter_width) * channels;
  const int8_t **const end = taps + p->taps.inputs;
  /* Where rows of the window follow each other, they are one. */
  const int32_t run = gap != 0 ? p->filter_width : p->taps.inputs;
  while (taps < end) {
    for (const int8_t **const row_end = taps + run; taps < row_end; pixel += channels) {
      *taps++ = pixel;
    }
    pixel += gap;
  }
}

/* The same of any window, dilated ones too: at its pixels, or at the padding. */
static __attribute__((noinline)) void point_anywhere(const kws_depthwise_conv_2d_t *p,
                                                     const int8_t *x, int32_t top,
                                                     int32_t left,
                                                     const int8_t *padding,
                                                     const int8_t **taps) {
  const int32_t width = p->input_width;
  const int32_t bottom = top + p->filter_height * p->dilation_height;
  const int32_t right = left + p->filter_width * p->dilation_width;
  for (int32_t row = top; row < bottom; row += p->dilation_height) {
    const int inside = row >= 0 && row < p->input_height;
    for (int32_t column = left; column < right; column += p->dilation_width) {
      *taps++ = inside && column >= 0 && column < width
                    ? x + (row * width + column) * p->taps.outputs
                    : padding;
    }
  }
}

void kws_depthwise_conv_2d_s8(const kws_depthwise_conv_2d_t *p, const int8_t *x,
                              int32_t first_row, int32_t rows, int8_t *y,
                              void *scratch) {
  const int32_t channels = p->taps.outputs;
  const int8_t **taps = scratch;
  int8_t *padding = (int8_t *)(taps + p->taps.inputs);
  const int close = p->dilation_height == 1 && p->dilation_width == 1;
  int filled = 0;
  for (int32_t row = first_row; row < first_row + rows; ++row) {
    const int32_t top = row * p->stride_height - p->pad_top;
    const int tall = close && top >= 0 && top + p->filter_height <= p->input_height;
    int32_t left = -p->pad_left;
    for (int32_t column = 0; column < p->output_width; ++column) {
      if (tall && left >= 0 && left + p->filter_width <= p->input_width) {
        point_inside(p, x + (top * p->input_width + left) * channels, taps);
      } else {
        if (!filled) {
          for (int32_t c = 0; c < channels; ++c) padding[c] = p->input_zero_point;
          filled = 1;
        }
        point_anywhere(p, x, top, left, padding, taps);
      }
      kws_depthwise_pixel(&p->taps, taps, y);
      left += p->stride_width;
      y += channels;
    }
  }
}

/* ---- Copies ---- */

void kws_transpose_s8(const int8_t *x, int32_t rows, int32_t columns, int8_t *y,
                      int32_t y_stride) {
  for (int32_t c = 0; c < columns; ++c) {
    for (int32_t r = 0; r < rows; ++r) y[c * y_stride + r] = x[r * columns + c];
  }
}

void kws_copy_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int8_t *y,
                      int32_t y_stride) {
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t c = 0; c < columns; ++c) y[c] = x[c];
    x += columns;
    y += y_stride;
  }
}

/* ---- SOFTMAX ---- */

/* 1 / (1 + a) for a in [0, 1), both Q0.31: gemmlowp's three Newton-Raphson steps. */
static int32_t one_over_one_plus(int32_t a) {
  const int32_t half_denominator = (int32_t)(((uint32_t)a + 0x80000000u) >> 1);
  int32_t x = 1515870810 + kws_high_multiply(-1010580540, half_denominator);
  for (int i = 0; i < 3; ++i) {
    const int32_t error = (1 << 29) - kws_high_multiply(half_denominator, x);
    /* x is positive here, and the step far below the point of saturation. */
    x += kws_high_multiply(error, x) * 4;
  }
  return x >= (1 << 30) ? INT32_MAX : x * 2;
}

int32_t kws_softmax_reciprocal(uint32_t sum, int32_t *exponent) {
  const int32_t headroom = __builtin_clz(sum);
  *exponent = 12 - headroom + 31 - 8;
  return one_over_one_plus((int32_t)((sum << headroom) - 0x80000000u));
}

#if defined(KWS_CORE_PORTABLE)
void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y) {
  int32_t largest = INT8_MIN;
  for (int32_t c = 0; c < columns; ++c) largest = x[c] > largest ? x[c] : largest;
  /* Walked backwards: the exponential of `value` is from_zero[-value]. */
  const int32_t *from_zero = p->exp_table + largest;
  /* Q12.19, below 2^28. */
  uint32_t sum = 0;
  for (int32_t c = 0; c < columns; ++c) {
    sum += ((uint32_t)from_zero[-x[c]] + 2048u) >> 12;
  }
  int32_t exponent;
  const int32_t reciprocal = kws_softmax_reciprocal(sum, &exponent);
#if defined(__ARM_ARCH_6M__)
  for (int32_t c = 0; c < columns; ++c) {
    const int32_t product = kws_high_multiply(from_zero[-x[c]], reciprocal);
    const int32_t value =
        kws_rounding_shift_right(product, exponent) + KWS_SOFTMAX_ZERO_POINT;
    y[c] = (int8_t)kws_min(value, INT8_MAX);
  }
#else
  /* Nothing is negative, so TFLM's two roundings are one: floor((floor((a + r1) / 2^31)
   * + r2) / 2^e) = floor((a + r1 + r2 * 2^31) / 2^(31 + e)). The exponent is 23 at
   * least: the row's largest element alone makes the sum 2^19. */
  const uint64_t rounding = 0x40000000u + (UINT64_C(0x40000000) << exponent);
  const int32_t shift = exponent - 1;
  for (int32_t c = 0; c < columns; ++c) {
    const uint64_t product =
        rounding + (uint64_t)(uint32_t)from_zero[-x[c]] * (uint32_t)reciprocal;
    const int32_t value =
        (int32_t)((uint32_t)(product >> 32) >> shift) + KWS_SOFTMAX_ZERO_POINT;
    y[c] = (int8_t)kws_min(value, INT8_MAX);
  }
#endif
}
#endif

void kws_softmax_s8(const kws_softmax_t *p, const int8_t *x, int32_t rows,
                    int32_t columns, int8_t *y) {
  for (int32_t r = 0; r < rows; ++r) {
    kws_softmax_row(p, x + r * columns, columns, y + r * columns);
  }
}

/* ---- Element-wise ---- */

#if !defined(KWS_CORE_MVE) /* kernels_mve.c has its own */

#define ADD_LEFT_SHIFT                20
#define SQUARED_DIFFERENCE_LEFT_SHIFT 7

/* An int8 input of ADD, moved to the common scale. TFLM shifts it left by 20 and
 * multiplies: (value << 20) * multiplier / 2^31 = value * multiplier / 2^11, which two
 * 32-bit products give exactly. The input of larger scale has multiplier 1/2 and no
 * shift: exact too. */
typedef struct {
  int32_t zero_point;
  int32_t high, low; /* multiplier = high * 2^11 + low */
  int32_t shift;     /* right */
} addend_t;

static inline addend_t addend(int32_t zero_point, int32_t multiplier, int32_t shift) {
  const addend_t result = {zero_point, multiplier >> 11, multiplier & 0x7ff, -shift};
  return result;
}

static inline int32_t scale_addend(const addend_t *a, int32_t x) {
  const int32_t value = x - a->zero_point;
  const int32_t product = value * a->high + ((value * a->low + 0x400) >> 11);
  return kws_rounding_shift_right(product, a->shift);
}

/* One input of ADD's common case, below. */
typedef struct {
  const int8_t *x;
  int32_t row_step, column_step;
  int32_t sign;
} operand_t;

/* A row where `unit` has multiplier 1/2 and no shift, and all other shifts are to the
 * right. */
static inline __attribute__((always_inline)) void add_row(
    const kws_add_t *p, const addend_t *scaled, const int8_t *x, int32_t x_step,
    int32_t sign, const int8_t *unit, int32_t unit_step, int32_t unit_factor,
    int32_t unit_constant, int32_t n, int8_t *y) {
  const int32_t zero_point = scaled->zero_point, high = scaled->high, low = scaled->low;
  const int32_t right = scaled->shift, half = 1 << (right - 1);
  const int32_t multiplier = p->output_multiplier, output_right = -p->output_shift;
  const int32_t output_half = 1 << (output_right - 1);
  const int32_t output_zero_point = p->output_zero_point;
  const int32_t smallest = p->activation_min, largest = p->activation_max;
  for (const int8_t *end = y + n; y < end; x += x_step, unit += unit_step) {
    const int32_t value = *x - zero_point;
    int32_t term = value * high + ((value * low + 0x400) >> 11);
    term = (term + (term >> 31) + half) >> right;
    const int32_t sum = *unit * unit_factor + unit_constant + sign * term;
    const int32_t result =
        kws_requantize_small(sum, multiplier, output_half, output_right) +
        output_zero_point;
    *y++ = (int8_t)kws_clamp(result, smallest, largest);
  }
}

static void add_common(const kws_add_t *p, const kws_broadcast_t *s,
                       const addend_t *scaled, operand_t x, operand_t unit,
                       int32_t unit_zero_point, int8_t *y) {
  const int32_t factor = unit.sign * (1 << (ADD_LEFT_SHIFT - 1));
  const int32_t constant = -unit_zero_point * factor;
  for (int32_t r = 0; r < s->rows; ++r) {
    if (x.column_step == 1 && unit.column_step == 1) {
      add_row(p, scaled, x.x, 1, x.sign, unit.x, 1, factor, constant, s->columns, y);
    } else {
      add_row(p, scaled, x.x, x.column_step, x.sign, unit.x, unit.column_step, factor,
              constant, s->columns, y);
    }
    x.x += x.row_step;
    unit.x += unit.row_step;
    y += s->columns;
  }
}

/* Saturated to int8; the shift comes with the saturation where there is one. */
static inline int8_t finish_linear(int32_t value) {
#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)
  int32_t result;
  __asm("ssat %0, #8, %1, asr %2" : "=r"(result) : "r"(value), "I"(KWS_LINEAR_SHIFT));
  return (int8_t)result;
#else
  return (int8_t)kws_clamp(value >> KWS_LINEAR_SHIFT, INT8_MIN, INT8_MAX);
#endif
}

/* A row; steps are constants, and one may be 0. */
static inline __attribute__((always_inline)) void add_linear_row(
    const kws_add_t *p, const int8_t *x1, int32_t step1, const int8_t *x2,
    int32_t step2, int32_t n, int8_t *y) {
  const int32_t factor1 = p->x1_factor, factor2 = p->x2_factor;
  int32_t start = p->offset;
  if (step1 == 0) start += *x1 * factor1;
  if (step2 == 0) start += *x2 * factor2;
  for (int32_t i = 0; i < n; ++i) {
    int32_t value = start;
    if (step1 != 0) value += x1[i] * factor1;
    if (step2 != 0) value += x2[i] * factor2;
    y[i] = finish_linear(value);
  }
}

void kws_add_linear_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                       const int8_t *x1, const int8_t *x2, int8_t *y) {
  const kws_broadcast_t s = kws_flatten(shape);
  for (int32_t r = 0; r < s.rows; ++r) {
    if (s.x1_column_step == 0) {
      add_linear_row(p, x1, 0, x2, 1, s.columns, y);
    } else if (s.x2_column_step == 0) {
      add_linear_row(p, x1, 1, x2, 0, s.columns, y);
    } else {
      add_linear_row(p, x1, 1, x2, 1, s.columns, y);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

void kws_add_any_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y) {
  /* Copies: a store to y might change what p points to, for all the compiler knows. */
  const kws_add_t q = *p;
  const kws_broadcast_t s = kws_flatten(shape);
  const addend_t a1 = addend(q.x1_zero_point, q.x1_multiplier, q.x1_shift);
  const addend_t a2 = addend(q.x2_zero_point, q.x2_multiplier, q.x2_shift);
  const int32_t sign = q.subtract ? -1 : 1;
  const operand_t o1 = {x1, s.x1_row_step, s.x1_column_step, 1};
  const operand_t o2 = {x2, s.x2_row_step, s.x2_column_step, sign};
  if (q.output_shift < 0 && kws_is_unit(q.x1_multiplier, q.x1_shift) && a2.shift > 0) {
    add_common(&q, &s, &a2, o2, o1, q.x1_zero_point, y);
    return;
  }
  if (q.output_shift < 0 && kws_is_unit(q.x2_multiplier, q.x2_shift) && a1.shift > 0) {
    add_common(&q, &s, &a1, o1, o2, q.x2_zero_point, y);
    return;
  }
  for (int32_t r = 0; r < s.rows; ++r) {
    const int8_t *at1 = x1 + r * s.x1_row_step;
    const int8_t *at2 = x2 + r * s.x2_row_step;
    for (int32_t c = 0; c < s.columns; ++c) {
      const int32_t sum = scale_addend(&a1, *at1) + sign * scale_addend(&a2, *at2);
      at1 += s.x1_column_step;
      at2 += s.x2_column_step;
      const int32_t value =
          kws_requantize_down(sum, q.output_multiplier, -q.output_shift) +
          q.output_zero_point;
      *y++ = (int8_t)kws_clamp(value, q.activation_min, q.activation_max);
    }
  }
}

void kws_squared_difference_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                               const int8_t *x1, const int8_t *x2, int8_t *y) {
  const kws_add_t q = *p;
  const kws_broadcast_t s = *shape;
  for (int32_t r = 0; r < s.rows; ++r) {
    for (int32_t c = 0; c < s.columns; ++c) {
      const int32_t value1 =
          x1[r * s.x1_row_step + c * s.x1_column_step] - q.x1_zero_point;
      const int32_t value2 =
          x2[r * s.x2_row_step + c * s.x2_column_step] - q.x2_zero_point;
      const int32_t difference =
          kws_requantize_down(value1 * (1 << SQUARED_DIFFERENCE_LEFT_SHIFT),
                              q.x1_multiplier, -q.x1_shift) -
          kws_requantize_down(value2 * (1 << SQUARED_DIFFERENCE_LEFT_SHIFT),
                              q.x2_multiplier, -q.x2_shift);
      const int32_t value =
          kws_requantize(difference * difference, q.output_multiplier, q.output_shift) +
          q.output_zero_point;
      *y++ = (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
    }
  }
}

/* `down` promises a shift to the right. */
static inline __attribute__((always_inline)) void mul_row(
    const kws_mul_t *p, int down, const int8_t *x1, int32_t x1_step, const int8_t *x2,
    int32_t x2_step, int32_t n, int8_t *y) {
  const int32_t zero_point1 = p->x1_zero_point, zero_point2 = p->x2_zero_point;
  const int32_t multiplier = p->output_multiplier, zero_point = p->output_zero_point;
  const int32_t shift = p->output_shift, right = -shift;
  const int32_t half = down ? 1 << (right - 1) : 0;
  const int32_t smallest = p->activation_min, largest = p->activation_max;
  for (const int8_t *end = y + n; y < end; x1 += x1_step, x2 += x2_step) {
    const int32_t product = (*x1 - zero_point1) * (*x2 - zero_point2);
    int32_t value = down ? kws_requantize_small(product, multiplier, half, right)
                         : kws_requantize(product, multiplier, shift);
    value += zero_point;
    *y++ = (int8_t)kws_clamp(value, smallest, largest);
  }
}

void kws_mul_any_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y) {
  const kws_mul_t q = *p;
  const kws_broadcast_t s = kws_flatten(shape);
  for (int32_t r = 0; r < s.rows; ++r) {
    if (q.output_shift >= 0) {
      mul_row(&q, 0, x1, s.x1_column_step, x2, s.x2_column_step, s.columns, y);
    } else if (s.x1_column_step == 1 && s.x2_column_step == 1) {
      mul_row(&q, 1, x1, 1, x2, 1, s.columns, y);
    } else {
      mul_row(&q, 1, x1, s.x1_column_step, x2, s.x2_column_step, s.columns, y);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

void kws_table_s8(const int8_t *table, const int8_t *x, int32_t n, int8_t *y) {
  table += 128;
  for (; n >= 4; n -= 4, x += 4, y += 4) {
    const int8_t value0 = table[x[0]];
    const int8_t value1 = table[x[1]];
    const int8_t value2 = table[x[2]];
    const int8_t value3 = table[x[3]];
    y[0] = value0;
    y[1] = value1;
    y[2] = value2;
    y[3] = value3;
  }
  for (; n > 0; --n) *y++ = table[*x++];
}

#endif

/* ---- MEAN ---- */

static int8_t finish_mean(const kws_mean_t *p, int32_t sum) {
  const int32_t value =
      kws_requantize(sum - p->input_zero_point * p->count, p->multiplier, p->shift) +
      p->output_zero_point;
  return (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
}

void kws_mean_columns_s8(const kws_mean_t *p, const int8_t *x, int32_t rows,
                         int8_t *y) {
  for (int32_t r = 0; r < rows; ++r) {
    y[r] = finish_mean(p, kws_sum_s8(x, p->count));
    x += p->count;
  }
}

void kws_mean_rows_s8(const kws_mean_t *p, const int8_t *x, int32_t columns, int8_t *y,
                      void *scratch) {
  int32_t *sums = scratch;
  kws_sum_rows_s8(x, p->count, columns, sums);
  for (int32_t c = 0; c < columns; ++c) y[c] = finish_mean(p, sums[c]);
}

/* ---- Linear attention on a stream ---- */

void kws_linear_attention_step_s8(const kws_linear_attention_t *p, const int8_t *key,
                                  const int8_t *oldest_key, const int8_t *value,
                                  const int8_t *oldest_value, const int8_t *query,
                                  void *sums, int8_t *y, void *scratch) {
  const int32_t width = p->width, padded = KWS_ROUND_UP(width, 4);
  int32_t *z = sums;
  uint32_t *values = scratch;
  kws_linear_term_t *const moving = (kws_linear_term_t *)(values + padded);
  kws_linear_term_t *const asking = moving + width;
  /* Where values are those of the token that leaves, equal keys change nothing. */
  int32_t differ = 0;
  const int32_t value_zero_point = p->state.b_zero_point;
  for (int32_t c = 0; c < width; ++c) {
    const int32_t newest = value[c], oldest = oldest_value[c];
    differ |= newest ^ oldest;
    values[c] = kws_pack_pair(newest - value_zero_point, oldest - value_zero_point);
  }
  for (int32_t c = width; c < padded; ++c) values[c] = 0;
  const int32_t key_zero_point = p->state.a_zero_point;
  const int32_t query_zero_point = p->mix.a_zero_point;
  kws_linear_term_t *moves = moving, *asks = asking;
  int32_t weight = 0;
  for (int32_t i = 0; i < width; ++i) {
    const int32_t newest = key[i] - key_zero_point;
    const int32_t oldest = oldest_key[i] - key_zero_point;
    if ((newest | oldest) != 0 && (differ | (newest ^ oldest)) != 0) {
      z[i] += newest - oldest;
      moves->value = (int32_t)kws_pack_pair(newest, -oldest);
      moves->offset = 4 * i;
      ++moves;
    }
    const int32_t asked = query[i] - query_zero_point;
    if (asked != 0) {
      const int32_t mean = kws_requantize(z[i], p->mean.multiplier, p->mean.shift) +
                           p->mean.output_zero_point;
      weight += asked * (kws_clamp(mean, INT8_MIN, INT8_MAX) - p->weigh.b_zero_point);
      asks->value = asked;
      asks->offset = 4 * i;
      ++asks;
    }
  }
  kws_linear_columns(p, moving, (int32_t)(moves - moving), asking,
                     (int32_t)(asks - asking), values, z + width, y);
  weight = kws_requantize(weight, p->weigh.multiplier, p->weigh.shift) +
           p->weigh.output_zero_point;
  const int8_t inverse = p->inverse[kws_clamp(weight, INT8_MIN, INT8_MAX) + 128];
  const kws_broadcast_t shape = {1, width, width, 1, 0, 0};
  kws_mul_s8(&p->scale, &shape, y, &inverse, y);
}
