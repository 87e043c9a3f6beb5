/* Kernels with Helium (MVE integer): Cortex-M55, M85. See kws_kernels.h.
 *
 * Products work on one row and four columns: VMLADAVA sums 16 products at a time into
 * a general register, and four such sums are requantised as one vector. Rows are read
 * as they are; zero points are corrected by row sums.
 */
#include "kernels_internal.h"

#if defined(KWS_CORE_MVE)

#include <arm_mve.h>

#define LANES 4

/* ---- Requantisation ---------------------------------------------------------------
 */

/* TFLM's MultiplyByQuantizedMultiplier on four lanes, each with its own shift.
 * VRSHL rounds halves up; TFLM rounds them away from zero: negative values that will be
 * shifted are first moved down by one. */
static inline int32x4_t requantize(int32x4_t value, int32x4_t multiplier,
                                   int32x4_t shift) {
  const int32x4_t zero = vdupq_n_s32(0);
  const int32x4_t left = vmaxq_s32(shift, zero);
  const int32x4_t right = vminq_s32(shift, zero);
  const int32x4_t product = vqrdmulhq_s32(vshlq_s32(value, left), multiplier);
  const int32x4_t away = vshrq_n_s32(vandq_s32(product, right), 31);
  return vrshlq_s32(vaddq_s32(product, away), right);
}

/* The same with one multiplier and shift for all lanes. */
static inline int32x4_t requantize_all(int32x4_t value, int32_t multiplier,
                                       int32_t shift) {
  if (shift >= 0) return vqrdmulhq_n_s32(vshlq_r_s32(value, shift), multiplier);
  const int32x4_t product = vqrdmulhq_n_s32(value, multiplier);
  return vrshlq_n_s32(vaddq_s32(product, vshrq_n_s32(product, 31)), shift);
}

static inline int32x4_t clamp(int32x4_t value, int32_t low, int32_t high) {
  return vminq_s32(vmaxq_s32(value, vdupq_n_s32(low)), vdupq_n_s32(high));
}

/* ---- Four dot products --------------------------------------------------------------
 */

/* Lane i: sum_k x[k] * rows[i * stride + k]. Rows from `count` (1..4) on repeat the
 * last. */
static inline int32x4_t dot_4(const int8_t *x, const int8_t *rows, int32_t stride,
                              int32_t count, int32_t n) {
  const int8_t *row0 = rows;
  const int8_t *row1 = count > 1 ? row0 + stride : row0;
  const int8_t *row2 = count > 2 ? row1 + stride : row1;
  const int8_t *row3 = count > 3 ? row2 + stride : row2;
  int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
  int32_t k = n;
  for (; k >= 16; k -= 16) {
    const int8x16_t values = vld1q_s8(x);
    sum0 = vmladavaq_s8(sum0, values, vld1q_s8(row0));
    sum1 = vmladavaq_s8(sum1, values, vld1q_s8(row1));
    sum2 = vmladavaq_s8(sum2, values, vld1q_s8(row2));
    sum3 = vmladavaq_s8(sum3, values, vld1q_s8(row3));
    x += 16;
    row0 += 16;
    row1 += 16;
    row2 += 16;
    row3 += 16;
  }
  if (k > 0) {
    const mve_pred16_t rest = vctp8q((uint32_t)k);
    const int8x16_t values = vld1q_z_s8(x, rest);
    sum0 = vmladavaq_s8(sum0, values, vld1q_z_s8(row0, rest));
    sum1 = vmladavaq_s8(sum1, values, vld1q_z_s8(row1, rest));
    sum2 = vmladavaq_s8(sum2, values, vld1q_z_s8(row2, rest));
    sum3 = vmladavaq_s8(sum3, values, vld1q_z_s8(row3, rest));
  }
  int32x4_t sums = vdupq_n_s32(sum0);
  sums = vsetq_lane_s32(sum1, sums, 1);
  sums = vsetq_lane_s32(sum2, sums, 2);
  return vsetq_lane_s32(sum3, sums, 3);
}

static int32_t row_sum(const int8_t *x, int32_t n) {
  int32_t sum = 0;
  for (; n > 0; n -= 16, x += 16) {
    sum = vaddvaq_s8(sum, vld1q_z_s8(x, vctp8q((uint32_t)n)));
  }
  return sum;
}

/* ---- FULLY_CONNECTED
 * ------------------------------------------------------------------ */

static inline int32x4_t fully_connected_4(const kws_fully_connected_t *p,
                                          const int8_t *x, int32_t output,
                                          mve_pred16_t lanes) {
  const int32_t inputs = p->inputs;
  const int32x4_t sums = dot_4(x, p->weights + output * inputs, inputs,
                               kws_min(p->outputs - output, LANES), inputs);
  const int32x4_t value =
      requantize(vaddq_s32(sums, vldrwq_z_s32(p->bias + output, lanes)),
                 vldrwq_z_s32(p->multiplier + output, lanes),
                 vldrbq_z_s32(p->shift + output, lanes));
  return clamp(vaddq_n_s32(value, p->output_zero_point), p->activation_min,
               p->activation_max);
}

void kws_fully_connected_s8(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, void *scratch) {
  (void)scratch;
  const int32_t outputs = p->outputs;
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t o = 0; o < outputs; o += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(outputs - o));
      vstrbq_p_s32(y + o, fully_connected_4(p, x, o, lanes), lanes);
    }
    x += p->inputs;
    y += outputs;
  }
}

void kws_fully_connected_transposed_s8(const kws_fully_connected_t *p, const int8_t *x,
                                       int32_t rows, int8_t *y, int32_t y_stride,
                                       void *scratch) {
  (void)scratch;
  const int32_t outputs = p->outputs;
  const uint32x4_t offsets = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)y_stride);
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t o = 0; o < outputs; o += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(outputs - o));
      vstrbq_scatter_offset_p_s32(y + o * y_stride + r, offsets,
                                  fully_connected_4(p, x, o, lanes), lanes);
    }
    x += p->inputs;
  }
}

/* ---- BATCH_MATMUL
 * ----------------------------------------------------------------------- */

/* One row of a against n rows of b. sum (a - za) * (b - zb) is
 * sum a * b - za * sum b - zb * sum a + inner * za * zb. */
static void row_product(const kws_batch_matmul_t *p, const int8_t *a, const int8_t *b,
                        int32_t b_stride, const int32_t *b_sums, int32_t n,
                        int32_t inner, int8_t *y) {
  const int32_t constant =
      p->b_zero_point * (inner * p->a_zero_point - row_sum(a, inner));
  for (int32_t i = 0; i < n; i += LANES) {
    const int32_t count = kws_min(n - i, LANES);
    const mve_pred16_t lanes = vctp32q((uint32_t)count);
    int32x4_t value = dot_4(a, b, b_stride, count, inner);
    value = vmlaq_n_s32(value, vldrwq_z_s32(b_sums + i, lanes), -p->a_zero_point);
    value = requantize_all(vaddq_n_s32(value, constant), p->multiplier, p->shift);
    value = clamp(vaddq_n_s32(value, p->output_zero_point), p->activation_min,
                  p->activation_max);
    vstrbq_p_s32(y + i, value, lanes);
    b += LANES * b_stride;
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch) {
  (void)scratch;
  int32_t b_sums[LANES];
  for (int32_t c = 0; c < n; c += LANES) {
    const int32_t count = kws_min(n - c, LANES);
    const int8_t *b = b_rows + c * b_stride;
    for (int32_t i = 0; i < count; ++i) b_sums[i] = row_sum(b + i * b_stride, inner);
    for (int32_t r = 0; r < m; ++r) {
      row_product(p, a + r * a_stride, b, b_stride, b_sums, count, inner,
                  y + r * y_stride + c);
    }
  }
}

/* ---- SOFTMAX
 * ------------------------------------------------------------------------------ */

void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y) {
  int8_t largest = INT8_MIN;
  for (int32_t c = 0; c < columns; c += 16) {
    const mve_pred16_t lanes = vctp8q((uint32_t)(columns - c));
    largest = vmaxvq_p_s8(largest, vld1q_z_s8(x + c, lanes), lanes);
  }
  uint32_t sum = 0;
  for (int32_t c = 0; c < columns; c += LANES) {
    const mve_pred16_t lanes = vctp32q((uint32_t)(columns - c));
    const int32x4_t steps = vsubq_s32(vdupq_n_s32(largest), vldrbq_z_s32(x + c, lanes));
    const int32x4_t exponentials = vldrwq_gather_shifted_offset_z_s32(
        p->exp_table, vreinterpretq_u32_s32(steps), lanes);
    sum = vaddvaq_p_u32(sum, vreinterpretq_u32_s32(vrshrq_n_s32(exponentials, 12)),
                        lanes);
  }
  int32_t exponent;
  const int32_t reciprocal = kws_softmax_reciprocal(sum, &exponent);
  for (int32_t c = 0; c < columns; c += LANES) {
    const mve_pred16_t lanes = vctp32q((uint32_t)(columns - c));
    const int32x4_t steps = vsubq_s32(vdupq_n_s32(largest), vldrbq_z_s32(x + c, lanes));
    int32x4_t value = vldrwq_gather_shifted_offset_z_s32(
        p->exp_table, vreinterpretq_u32_s32(steps), lanes);
    value = vrshlq_n_s32(vqrdmulhq_n_s32(value, reciprocal), -exponent);
    value =
        vminq_s32(vaddq_n_s32(value, KWS_SOFTMAX_ZERO_POINT), vdupq_n_s32(INT8_MAX));
    vstrbq_p_s32(y + c, value, lanes);
  }
}

/* ---- Attention
 * ------------------------------------------------------------------------------ */

/* scratch: sums of K's rows [heads, tokens], sums of VT's rows [width], a score row. */

void kws_attention_prepare(const kws_attention_t *p, int8_t *k, int8_t *v_transposed,
                           void *scratch) {
  const int32_t tokens = p->tokens;
  const int32_t width = p->heads * p->head_dim;
  int32_t *sums = scratch;
  for (int32_t column = 0; column < width; column += p->head_dim) {
    for (int32_t t = 0; t < tokens; ++t) {
      *sums++ = row_sum(k + t * width + column, p->head_dim);
    }
  }
  for (int32_t d = 0; d < width; ++d) {
    *sums++ = row_sum(v_transposed + d * KWS_ATTENTION_V_STRIDE(tokens), tokens);
  }
}

void kws_attention_rows_s8(const kws_attention_t *p, const int8_t *q, int32_t rows,
                           const int8_t *k, const int8_t *v_transposed, int8_t *out,
                           void *scratch) {
  const int32_t tokens = p->tokens;
  const int32_t head_dim = p->head_dim;
  const int32_t width = p->heads * head_dim;
  const int32_t stride = KWS_ATTENTION_V_STRIDE(tokens);
  const int32_t *k_sums = scratch;
  const int32_t *v_sums = k_sums + p->heads * tokens;
  int8_t *scores = (int8_t *)scratch + 4 * (p->heads * tokens + width);
  for (int32_t r = 0; r < rows; ++r) {
    const int32_t *head_sums = k_sums;
    for (int32_t column = 0; column < width; column += head_dim) {
      row_product(&p->scores, q + column, k + column, width, head_sums, tokens,
                  head_dim, scores);
      if (p->score_table) kws_table_s8(p->score_table, scores, tokens, scores);
      kws_softmax_row(&p->softmax, scores, tokens, scores);
      row_product(&p->values, scores, v_transposed + column * stride, stride,
                  v_sums + column, head_dim, tokens, out + column);
      head_sums += tokens;
    }
    q += width;
    out += width;
  }
}

/* ---- Element-wise
 * ------------------------------------------------------------------------------ */

#define ADD_LEFT_SHIFT                20
#define SQUARED_DIFFERENCE_LEFT_SHIFT 7

/* Four elements, or one for all lanes. */
static inline int32x4_t load(const int8_t *x, int32_t column, int32_t step,
                             mve_pred16_t lanes) {
  return step != 0 ? vldrbq_z_s32(x + column, lanes) : vdupq_n_s32(*x);
}

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(shape->columns - c));
      int32x4_t value1 = load(x1, c, shape->x1_column_step, lanes);
      int32x4_t value2 = load(x2, c, shape->x2_column_step, lanes);
      value1 = vshlq_n_s32(vsubq_n_s32(value1, p->x1_zero_point), ADD_LEFT_SHIFT);
      value2 = vshlq_n_s32(vsubq_n_s32(value2, p->x2_zero_point), ADD_LEFT_SHIFT);
      value1 = requantize_all(value1, p->x1_multiplier, p->x1_shift);
      value2 = requantize_all(value2, p->x2_multiplier, p->x2_shift);
      int32x4_t value =
          p->subtract ? vsubq_s32(value1, value2) : vaddq_s32(value1, value2);
      value = requantize_all(value, p->output_multiplier, p->output_shift);
      value = clamp(vaddq_n_s32(value, p->output_zero_point), p->activation_min,
                    p->activation_max);
      vstrbq_p_s32(y + c, value, lanes);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
    y += shape->columns;
  }
}

void kws_squared_difference_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                               const int8_t *x1, const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(shape->columns - c));
      int32x4_t value1 = load(x1, c, shape->x1_column_step, lanes);
      int32x4_t value2 = load(x2, c, shape->x2_column_step, lanes);
      value1 = vshlq_n_s32(vsubq_n_s32(value1, p->x1_zero_point),
                           SQUARED_DIFFERENCE_LEFT_SHIFT);
      value2 = vshlq_n_s32(vsubq_n_s32(value2, p->x2_zero_point),
                           SQUARED_DIFFERENCE_LEFT_SHIFT);
      value1 = requantize_all(value1, p->x1_multiplier, p->x1_shift);
      value2 = requantize_all(value2, p->x2_multiplier, p->x2_shift);
      int32x4_t value = vsubq_s32(value1, value2);
      value = requantize_all(vmulq_s32(value, value), p->output_multiplier,
                             p->output_shift);
      value = clamp(vaddq_n_s32(value, p->output_zero_point), INT8_MIN, INT8_MAX);
      vstrbq_p_s32(y + c, value, lanes);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
    y += shape->columns;
  }
}

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  for (int32_t r = 0; r < shape->rows; ++r) {
    for (int32_t c = 0; c < shape->columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(shape->columns - c));
      int32x4_t value1 = load(x1, c, shape->x1_column_step, lanes);
      int32x4_t value2 = load(x2, c, shape->x2_column_step, lanes);
      value1 = vsubq_n_s32(value1, p->x1_zero_point);
      value2 = vsubq_n_s32(value2, p->x2_zero_point);
      int32x4_t value = requantize_all(vmulq_s32(value1, value2), p->output_multiplier,
                                       p->output_shift);
      value = clamp(vaddq_n_s32(value, p->output_zero_point), p->activation_min,
                    p->activation_max);
      vstrbq_p_s32(y + c, value, lanes);
    }
    x1 += shape->x1_row_step;
    x2 += shape->x2_row_step;
    y += shape->columns;
  }
}

void kws_table_s8(const int8_t *table, const int8_t *x, int32_t n, int8_t *y) {
  const uint8x16_t half = vdupq_n_u8(128);
  for (; n > 0; n -= 16, x += 16, y += 16) {
    const mve_pred16_t lanes = vctp8q((uint32_t)n);
    const uint8x16_t index = veorq_u8(vreinterpretq_u8_s8(vld1q_z_s8(x, lanes)), half);
    vstrbq_p_s8(y, vldrbq_gather_offset_z_s8(table, index, lanes), lanes);
  }
}

#endif
