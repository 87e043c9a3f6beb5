/* Kernels that are the same plain C on every core. See kws_kernels.h. */
#include "kernels_internal.h"

/* ---- CONV_2D ------------------------------------------------------------------- */

/* One patch [filter_height, filter_width, channels], the padding filled. */
static void gather_patch(const kws_conv_2d_t *p, const int8_t *x, int32_t top,
                         int32_t left, int8_t *patch) {
  const int32_t channels = p->input_channels;
  for (int32_t fy = 0; fy < p->filter_height; ++fy) {
    const int32_t y = top + fy * p->dilation_height;
    const int8_t *row = x + y * (int32_t)p->input_width * channels;
    for (int32_t fx = 0; fx < p->filter_width; ++fx) {
      const int32_t column = left + fx * p->dilation_width;
      if (y < 0 || y >= p->input_height || column < 0 || column >= p->input_width) {
        for (int32_t c = 0; c < channels; ++c) *patch++ = p->input_zero_point;
      } else {
        const int8_t *pixel = row + column * channels;
        for (int32_t c = 0; c < channels; ++c) *patch++ = pixel[c];
      }
    }
  }
}

void kws_conv_2d_s8(const kws_conv_2d_t *p, const int8_t *x, int32_t first_row,
                    int32_t rows, int8_t *y, void *scratch) {
  const int32_t inputs = p->product.inputs;
  int8_t *patches = scratch;
  void *product_scratch = patches + KWS_ROUND_UP(KWS_CONV_2D_BLOCK * inputs, 4);
  const int32_t width = p->output_width;
  int32_t row = first_row;
  int32_t column = 0;
  for (int32_t left = rows * width; left > 0;) {
    const int32_t count = kws_min(left, KWS_CONV_2D_BLOCK);
    for (int32_t i = 0; i < count; ++i) {
      gather_patch(p, x, row * p->stride_height - p->pad_top,
                   column * p->stride_width - p->pad_left, patches + i * inputs);
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

/* ---- Copies ---------------------------------------------------------------------- */

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

/* ---- SOFTMAX ----------------------------------------------------------------------- */

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

#if !defined(KWS_CORE_MVE)
void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y) {
  int32_t largest = INT8_MIN;
  for (int32_t c = 0; c < columns; ++c) largest = x[c] > largest ? x[c] : largest;
  /* Q12.19; up to 4096 columns fit. */
  uint32_t sum = 0;
  for (int32_t c = 0; c < columns; ++c) {
    sum += ((uint32_t)p->exp_table[largest - x[c]] + 2048u) >> 12;
  }
  int32_t exponent;
  const int32_t reciprocal = kws_softmax_reciprocal(sum, &exponent);
  for (int32_t c = 0; c < columns; ++c) {
    const int32_t product = kws_high_multiply(p->exp_table[largest - x[c]], reciprocal);
    const int32_t value =
        kws_rounding_shift_right(product, exponent) + KWS_SOFTMAX_ZERO_POINT;
    y[c] = (int8_t)(value > INT8_MAX ? INT8_MAX : value);
  }
}
#endif

void kws_softmax_s8(const kws_softmax_t *p, const int8_t *x, int32_t rows,
                    int32_t columns, int8_t *y) {
  for (int32_t r = 0; r < rows; ++r) {
    kws_softmax_row(p, x + r * columns, columns, y + r * columns);
  }
}

#if !defined(KWS_CORE_MVE) /* kernels_mve.c has its own */

/* ---- Element-wise -------------------------------------------------------------------- */

#define ADD_LEFT_SHIFT 20
#define SQUARED_DIFFERENCE_LEFT_SHIFT 7

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; ++c) {
      const int32_t value1 = x1[c * shape->x1_column_step] - p->x1_zero_point;
      const int32_t value2 = x2[c * shape->x2_column_step] - p->x2_zero_point;
      const int32_t scaled1 = kws_requantize(value1 * (1 << ADD_LEFT_SHIFT),
                                             p->x1_multiplier, p->x1_shift);
      int32_t scaled2 = kws_requantize(value2 * (1 << ADD_LEFT_SHIFT),
                                       p->x2_multiplier, p->x2_shift);
      if (p->subtract) scaled2 = -scaled2;
      const int32_t value =
          kws_requantize(scaled1 + scaled2, p->output_multiplier, p->output_shift) +
          p->output_zero_point;
      *y++ = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
  }
}

void kws_squared_difference_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                               const int8_t *x1, const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; ++c) {
      const int32_t value1 = x1[c * shape->x1_column_step] - p->x1_zero_point;
      const int32_t value2 = x2[c * shape->x2_column_step] - p->x2_zero_point;
      const int32_t difference =
          kws_requantize(value1 * (1 << SQUARED_DIFFERENCE_LEFT_SHIFT),
                         p->x1_multiplier, p->x1_shift) -
          kws_requantize(value2 * (1 << SQUARED_DIFFERENCE_LEFT_SHIFT),
                         p->x2_multiplier, p->x2_shift);
      const int32_t value = kws_requantize(difference * difference,
                                           p->output_multiplier, p->output_shift) +
                            p->output_zero_point;
      *y++ = (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
  }
}

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; ++c) {
      const int32_t value1 = x1[c * shape->x1_column_step] - p->x1_zero_point;
      const int32_t value2 = x2[c * shape->x2_column_step] - p->x2_zero_point;
      const int32_t value =
          kws_requantize(value1 * value2, p->output_multiplier, p->output_shift) +
          p->output_zero_point;
      *y++ = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
  }
}

void kws_table_s8(const int8_t *table, const int8_t *x, int32_t n, int8_t *y) {
  table += 128;
  for (int32_t i = 0; i < n; ++i) y[i] = table[x[i]];
}

#endif

/* ---- MEAN -------------------------------------------------------------------------------- */

static int8_t finish_mean(const kws_mean_t *p, int32_t sum) {
  const int32_t value = kws_requantize(sum - p->input_zero_point * p->count,
                                       p->multiplier, p->shift) +
                        p->output_zero_point;
  return (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
}

void kws_mean_columns_s8(const kws_mean_t *p, const int8_t *x, int32_t rows, int8_t *y) {
  for (int32_t r = 0; r < rows; ++r) {
    int32_t sum = 0;
    for (int32_t c = 0; c < p->count; ++c) sum += x[c];
    x += p->count;
    y[r] = finish_mean(p, sum);
  }
}

void kws_mean_rows_s8(const kws_mean_t *p, const int8_t *x, int32_t columns, int8_t *y,
                      void *scratch) {
  int32_t *sums = scratch;
  for (int32_t c = 0; c < columns; ++c) sums[c] = 0;
  for (int32_t r = 0; r < p->count; ++r) {
    for (int32_t c = 0; c < columns; ++c) sums[c] += x[c];
    x += columns;
  }
  for (int32_t c = 0; c < columns; ++c) y[c] = finish_mean(p, sums[c]);
}
