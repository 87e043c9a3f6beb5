/* Matrix products and attention in plain C: Cortex-M0+ and the host.
 * See kws_kernels.h. */
#include "kernels_internal.h"

#if defined(KWS_CORE_PORTABLE)

/* ---- FULLY_CONNECTED ---- */

static int8_t finish_output(const kws_fully_connected_t *p, int32_t output,
                            int32_t accumulator) {
  const int32_t value = kws_requantize(accumulator + p->bias[output],
                                       p->multiplier[output], p->shift[output]) +
                        p->output_zero_point;
  return (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
}

/* Element (r, o) goes to y[r * row_step + o * output_step]. Blocks of 2 rows by 2
 * outputs: every byte loaded is used twice. */
static void fully_connected(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step) {
  const int32_t inputs = p->inputs;
  const int32_t outputs = p->outputs;
  for (int32_t r = 0; r < rows; r += 2) {
    const int8_t *x0 = x + r * inputs;
    const int8_t *x1 = r + 1 < rows ? x0 + inputs : x0;
    int8_t *y0 = y + r * row_step;
    int8_t *y1 = r + 1 < rows ? y0 + row_step : y0;
    for (int32_t o = 0; o < outputs; o += 2) {
      const int8_t *w0 = p->weights + o * inputs;
      const int8_t *w1 = o + 1 < outputs ? w0 + inputs : w0;
      int32_t a00 = 0, a01 = 0, a10 = 0, a11 = 0;
      for (int32_t i = 0; i < inputs; ++i) {
        a00 += x0[i] * w0[i];
        a01 += x0[i] * w1[i];
        a10 += x1[i] * w0[i];
        a11 += x1[i] * w1[i];
      }
      /* Where a block sticks out, its second half repeats its first. */
      const int32_t o1 = o + 1 < outputs ? o + 1 : o;
      y0[o * output_step] = finish_output(p, o, a00);
      y0[o1 * output_step] = finish_output(p, o1, a01);
      y1[o * output_step] = finish_output(p, o, a10);
      y1[o1 * output_step] = finish_output(p, o1, a11);
    }
  }
}

void kws_fully_connected_s8(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, void *scratch) {
  (void)scratch;
  fully_connected(p, x, rows, y, p->outputs, 1);
}

void kws_fully_connected_transposed_s8(const kws_fully_connected_t *p, const int8_t *x,
                                       int32_t rows, int8_t *y, int32_t y_stride,
                                       void *scratch) {
  (void)scratch;
  fully_connected(p, x, rows, y, 1, y_stride);
}

/* ---- DEPTHWISE_CONV_2D ---- */

void kws_depthwise_pixel(const kws_fully_connected_t *p, const int8_t *const *taps,
                         int8_t *y) {
  const int32_t inputs = p->inputs;
  const int8_t *weights_end = p->weights;
  for (int32_t c = 0; c < p->outputs; ++c) {
    const int8_t *const *tap = taps;
    int32_t sum = 0;
    weights_end += inputs;
    /* Counted up to 0: one register is counter and index. */
    for (int32_t i = -inputs; i != 0; ++i) sum += (*tap++)[c] * weights_end[i];
    y[c] = finish_output(p, c, sum);
  }
}

/* ---- BATCH_MATMUL ---- */

/* x - zero_point as 16 bits; returns the sum. */
static int32_t widen(const int8_t *x, int32_t n, int32_t zero_point, int16_t *wide) {
  int32_t sum = 0;
  for (int32_t i = 0; i < n; ++i) {
    wide[i] = (int16_t)(x[i] - zero_point);
    sum += wide[i];
  }
  return sum;
}

static int8_t finish_product(const kws_batch_matmul_t *p, int32_t accumulator) {
  const int32_t value =
      kws_requantize(accumulator, p->multiplier, p->shift) + p->output_zero_point;
  return (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
}

/* One row of a, widened, against all rows of b, two at a time. sum_k a * (b - zb) is
 * sum_k a * b - zb * sum_k a. */
static void row_product(const kws_batch_matmul_t *p, const int16_t *wide, int32_t sum,
                        const int8_t *b, int32_t b_stride, int32_t n, int32_t inner,
                        int8_t *y) {
  const int32_t correction = -p->b_zero_point * sum;
  for (int32_t i = 0; i < n; i += 2) {
    /* Where one row is left, it is taken twice. */
    const int32_t next = i + 1 < n;
    const int8_t *b0 = b + i * b_stride;
    const int8_t *b1 = b0 + next * b_stride;
    int32_t sum0 = correction, sum1 = correction;
    for (int32_t k = 0; k < inner; ++k) {
      sum0 += wide[k] * b0[k];
      sum1 += wide[k] * b1[k];
    }
    y[i] = finish_product(p, sum0);
    y[i + next] = finish_product(p, sum1);
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch) {
  int16_t *wide = scratch;
  for (int32_t r = 0; r < m; ++r) {
    const int32_t sum = widen(a + r * a_stride, inner, p->a_zero_point, wide);
    row_product(p, wide, sum, b_rows, b_stride, n, inner, y + r * y_stride);
  }
}

void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch) {
  int16_t *wide = scratch;
  for (int32_t r = 0; r < m; ++r, a += a_stride, y += y_stride) {
    const int32_t sum = widen(a, inner, p->a_zero_point, wide);
    for (int32_t c = 0; c < n; c += 2) {
      /* Where one column is left, it is taken twice. */
      const int32_t next = c + 1 < n;
      const int8_t *row = b + c;
      int32_t sum0 = -p->b_zero_point * sum, sum1 = sum0;
      for (int32_t k = 0; k < inner; ++k, row += b_stride) {
        sum0 += wide[k] * row[0];
        sum1 += wide[k] * row[next];
      }
      y[c] = finish_product(p, sum0);
      y[c + next] = finish_product(p, sum1);
    }
  }
}

/* ---- Attention ---- */

void kws_attention_prepare(const kws_attention_t *p, int8_t *k, int8_t *v_transposed,
                           void *scratch) {
  /* Rows are read as they are. */
  (void)p;
  (void)k;
  (void)v_transposed;
  (void)scratch;
}

void kws_attention_rows_s8(const kws_attention_t *p, const int8_t *q, int32_t rows,
                           const int8_t *k, const int8_t *v_transposed, int8_t *out,
                           void *scratch) {
  const int32_t tokens = p->tokens;
  const int32_t head_dim = p->head_dim;
  const int32_t width = p->heads * head_dim;
  const int32_t v_stride = KWS_ATTENTION_V_STRIDE(tokens);
  int16_t *wide = scratch; /* a row of Q, then a row of P */
  int8_t *scores = (int8_t *)(wide + (v_stride > head_dim ? v_stride : head_dim));
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t column = 0; column < width; column += head_dim) {
      int32_t sum = widen(q + column, head_dim, p->scores.a_zero_point, wide);
      row_product(&p->scores, wide, sum, k + column, width, tokens, head_dim, scores);
      if (p->score_table) kws_table_s8(p->score_table, scores, tokens, scores);
      kws_softmax_row(&p->softmax, scores, tokens, scores);
      sum = widen(scores, tokens, p->values.a_zero_point, wide);
      row_product(&p->values, wide, sum, v_transposed + column * v_stride, v_stride,
                  head_dim, tokens, out + column);
    }
    q += width;
    out += width;
  }
}

/* ---- Element-wise ---- */

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  kws_add_any_s8(p, shape, x1, x2, y);
}

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  kws_mul_any_s8(p, shape, x1, x2, y);
}

/* ---- Sums ---- */

int32_t kws_sum_s8(const int8_t *x, int32_t n) {
  int32_t sum = 0;
  for (const int8_t *end = x + n; x < end; ++x) sum += *x;
  return sum;
}

#endif
