/* Products over token rows that skip what did not change. See kws_delta.h. */
#include "kws_delta.h"

#include <string.h>

#include "kernels_internal.h"

#if defined(KWS_CORE_MVE)
#include <arm_mve.h>
#endif

/* ---- Encoding ---- */

/* What one row transmits. */
typedef struct {
  int32_t sent;  /* elements, by the rule of counting */
  int32_t pairs; /* entries of the list: elements that changed, two by two */
  int32_t sum;   /* of all changes */
} change_t;

/* Adds a change to the list; the row of its element lies at `offset`. */
static inline void append(kws_delta_pair_t *list, int32_t count, int32_t offset,
                          int32_t delta) {
  list[count >> 1].offset[count & 1] = offset;
  list[count >> 1].delta[count & 1] = (int16_t)delta;
}

static change_t close_list(kws_delta_pair_t *list, int32_t count, int32_t sum) {
  if (count & 1) append(list, count, list[count >> 1].offset[0], 0);
  return (change_t){count, (count + 1) >> 1, sum};
}

#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* Four times held or x: x where they differ by more than the threshold, 1..126. The
 * difference saturates, so d + threshold is in 0..2 * threshold only where held. */
static inline uint32_t select_bytes(uint32_t x, uint32_t held, uint32_t thresholds,
                                    uint32_t twice) {
  uint32_t result;
  __asm(
      "qsub8 %0, %1, %2\n"
      "uadd8 %0, %0, %3\n"
      "usub8 %0, %4, %0\n"
      "sel %0, %2, %1\n"
      : "=&r"(result)
      : "r"(x), "r"(held), "r"(thresholds), "r"(twice)
      : "cc");
  return result;
}

#endif

/* Moves `held` to x where they differ by more than the threshold, and lists the
 * changes; the row of element i lies at i * stride. */
static change_t encode(const int8_t *x, int8_t *held, int32_t n, int32_t threshold,
                       int32_t stride, kws_delta_pair_t *list) {
  int32_t count = 0, sum = 0, i = 0;
#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)
  const uint32_t thresholds = (uint32_t)threshold * 0x01010101u;
  for (; threshold < INT8_MAX && i + 4 <= n; i += 4) {
    uint32_t now, before;
    memcpy(&now, x + i, sizeof now);
    memcpy(&before, __builtin_assume_aligned(held + i, 4), sizeof before);
    const uint32_t after = select_bytes(now, before, thresholds, 2 * thresholds);
    if (after == before) continue;
    memcpy(__builtin_assume_aligned(held + i, 4), &after, sizeof after);
    for (int32_t byte = 0; byte < 4; ++byte) {
      const int32_t delta =
          (int8_t)(after >> (8 * byte)) - (int8_t)(before >> (8 * byte));
      if (delta == 0) continue;
      append(list, count++, (i + byte) * stride, delta);
      sum += delta;
    }
  }
#elif defined(KWS_CORE_MVE)
  for (; threshold < INT8_MAX && i < n; i += 16) {
    const mve_pred16_t lanes = vctp8q((uint32_t)(n - i));
    const int8x16_t now = vldrbq_z_s8(x + i, lanes);
    const int8x16_t before = vldrbq_z_s8(held + i, lanes);
    const int8x16_t size = vqabsq_s8(vqsubq_s8(now, before));
    uint32_t changed = vcmpgtq_m_n_s8(size, (int8_t)threshold, lanes);
    if (changed == 0) continue;
    int16_t deltas[16];
    for (int32_t half = 0; half < 16 && i + half < n; half += 8) {
      const mve_pred16_t some = vctp16q((uint32_t)(n - i - half));
      vst1q_s16(deltas + half, vsubq_s16(vldrbq_z_s16(x + i + half, some),
                                         vldrbq_z_s16(held + i + half, some)));
    }
    vstrbq_p_s8(held + i, now, (mve_pred16_t)changed);
    for (; changed != 0; changed &= changed - 1) {
      const int32_t lane = __builtin_ctz(changed);
      append(list, count++, (i + lane) * stride, deltas[lane]);
      sum += deltas[lane];
    }
  }
#endif
  for (; i < n; ++i) {
    const int32_t delta = x[i] - held[i];
    if (delta > threshold || delta < -threshold) {
      held[i] = x[i];
      append(list, count++, i * stride, delta);
      sum += delta;
    }
  }
  return close_list(list, count, sum);
}

/* One row of an operator: the first ones are transmitted whole. */
static change_t encode_row(const int8_t *x, int8_t *held, int32_t n, int32_t threshold,
                           int32_t dense, int32_t stride, kws_delta_pair_t *list) {
  change_t change = encode(x, held, n, dense ? 0 : threshold, stride, list);
  if (dense) change.sent = n;
  return change;
}

/* ---- Adding what changed ---- */

#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* sums[c] += what the list adds; columns is a multiple of 4, the list not empty. Two
 * elements times four columns in 15 instructions, in assembly because compilers don't
 * load a whole entry at once. */
static void add_changes(int32_t *sums, const int8_t *rows, int32_t columns,
                        const kws_delta_pair_t *list, int32_t pairs) {
  const kws_delta_pair_t *const end = list + pairs;
  for (; columns > 0; columns -= 4, rows += 4, sums += 4) {
    int32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    const kws_delta_pair_t *at = list;
    __asm volatile(
        "1:\n"
        "  ldm %[at]!, {r4, r5, r6}\n"
        "  ldr r4, [%[rows], r4]\n"
        "  ldr r5, [%[rows], r5]\n"
        "  pkhbt r8, r4, r5, lsl #16\n"
        "  pkhtb r4, r5, r4, asr #16\n"
        "  sxtb16 r5, r8\n"
        "  smlad %[sum0], r5, r6, %[sum0]\n"
        "  sxtb16 r5, r8, ror #8\n"
        "  smlad %[sum1], r5, r6, %[sum1]\n"
        "  sxtb16 r5, r4\n"
        "  smlad %[sum2], r5, r6, %[sum2]\n"
        "  sxtb16 r5, r4, ror #8\n"
        "  smlad %[sum3], r5, r6, %[sum3]\n"
        "  cmp %[at], %[end]\n"
        "  bne 1b\n"
        : [at] "+&r"(at), [sum0] "+&r"(sum0), [sum1] "+&r"(sum1), [sum2] "+&r"(sum2),
          [sum3] "+&r"(sum3)
        : [rows] "r"(rows), [end] "r"(end)
        : "r4", "r5", "r6", "r8", "cc", "memory");
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
  }
}

#elif defined(KWS_CORE_MVE)

/* sums[0..7] += added, where `lanes` says. */
static inline void add_8(int32_t *sums, int16x8_t added) {
  int32x4x2_t both = vld2q_s32(sums);
  both.val[0] = vaddq_s32(both.val[0], vmovlbq_s16(added));
  both.val[1] = vaddq_s32(both.val[1], vmovltq_s16(added));
  vst2q_s32(sums, both);
}

/* What fits into 16 bits: all |delta| together are at most 255, and no weight is beyond
 * 128. Columns is a multiple of 8. */
static void add_group(int32_t *sums, const int8_t *rows, int32_t columns,
                      const kws_delta_pair_t *list, const kws_delta_pair_t *end) {
  for (; columns >= 32; columns -= 32, rows += 32, sums += 32) {
    int16x8_t sum0 = vdupq_n_s16(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (const kws_delta_pair_t *at = list; at < end; ++at) {
      for (int i = 0; i < 2; ++i) {
        const int8_t *row = rows + at->offset[i];
        const int16_t delta = at->delta[i];
        sum0 = vmlaq_n_s16(sum0, vldrbq_s16(row), delta);
        sum1 = vmlaq_n_s16(sum1, vldrbq_s16(row + 8), delta);
        sum2 = vmlaq_n_s16(sum2, vldrbq_s16(row + 16), delta);
        sum3 = vmlaq_n_s16(sum3, vldrbq_s16(row + 24), delta);
      }
    }
    add_8(sums, sum0);
    add_8(sums + 8, sum1);
    add_8(sums + 16, sum2);
    add_8(sums + 24, sum3);
  }
  for (; columns > 0; columns -= 8, rows += 8, sums += 8) {
    int16x8_t sum = vdupq_n_s16(0);
    for (const kws_delta_pair_t *at = list; at < end; ++at) {
      sum = vmlaq_n_s16(sum, vldrbq_s16(rows + at->offset[0]), at->delta[0]);
      sum = vmlaq_n_s16(sum, vldrbq_s16(rows + at->offset[1]), at->delta[1]);
    }
    add_8(sums, sum);
  }
}

static inline int32_t size_of(const kws_delta_pair_t *pair) {
  const int32_t a = pair->delta[0], b = pair->delta[1];
  return (a < 0 ? -a : a) + (b < 0 ? -b : b);
}

/* sums[c] += what the list adds; columns is a multiple of 8. */
static void add_changes(int32_t *sums, const int8_t *rows, int32_t columns,
                        const kws_delta_pair_t *list, int32_t pairs) {
  enum { LARGEST_SIZE = 255 };
  const kws_delta_pair_t *const end = list + pairs;
  while (list < end) {
    const kws_delta_pair_t *stop = list + 1;
    int32_t size = size_of(list);
    if (size > LARGEST_SIZE) {
      for (int i = 0; i < 2; ++i) {
        const kws_delta_pair_t one = {{list->offset[i], list->offset[i]},
                                      {list->delta[i], 0}};
        add_group(sums, rows, columns, &one, &one + 1);
      }
    } else {
      for (; stop < end; ++stop) {
        size += size_of(stop);
        if (size > LARGEST_SIZE) break;
      }
      add_group(sums, rows, columns, list, stop);
    }
    list = stop;
  }
}

#else

/* sums[c] += what the list adds. */
static void add_changes(int32_t *restrict sums, const int8_t *rows, int32_t columns,
                        const kws_delta_pair_t *list, int32_t pairs) {
  for (; pairs > 0; --pairs, ++list) {
    const int8_t *row0 = rows + list->offset[0];
    const int8_t *row1 = rows + list->offset[1];
    const int32_t delta0 = list->delta[0], delta1 = list->delta[1];
    for (int32_t c = 0; c < columns; ++c) {
      sums[c] += delta0 * row0[c] + delta1 * row1[c];
    }
  }
}

#endif

/* ---- FULLY_CONNECTED ---- */

static void finish_outputs(const kws_fully_connected_t *p, const int32_t *sums,
                           int8_t *y, int32_t step) {
  for (int32_t o = 0; o < p->outputs; ++o, y += step) {
    const int32_t value =
        kws_requantize(sums[o], p->multiplier[o], p->shift[o]) + p->output_zero_point;
    *y = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
  }
}

void kws_delta_fully_connected_s8(const kws_delta_fully_connected_t *p, const int8_t *x,
                                  int32_t first_row, int32_t rows, int8_t *y,
                                  int32_t row_step, int32_t output_step, void *state,
                                  void *scratch, uint32_t *sent) {
  const int32_t inputs = p->product.inputs;
  const int32_t outputs = p->product.outputs;
  const int32_t columns = KWS_DELTA_COLUMNS(outputs);
  int32_t *sums = state;
  int8_t *held = (int8_t *)(sums + columns);
  if (first_row == 0) {
    *sent = 0;
    memset(held, 0, (size_t)inputs);
    memset(sums, 0, 4 * (size_t)columns);
    memcpy(sums, p->product.bias, 4 * (size_t)outputs);
  }
  for (int32_t row = first_row; row < first_row + rows; ++row) {
    const change_t change = encode_row(x, held, inputs, p->threshold,
                                       row < p->dense_rows, columns, scratch);
    *sent += (uint32_t)change.sent;
    if (change.pairs > 0) {
      add_changes(sums, p->columns, columns, scratch, change.pairs);
    }
    finish_outputs(&p->product, sums, y, output_step);
    x += inputs;
    y += row_step;
  }
}

/* ---- Attention ---- */

void kws_delta_attention_prepare(const kws_delta_attention_t *p, int8_t *k_transposed,
                                 kws_delta_attention_sent_t *sent) {
  const int32_t tokens = p->attention.tokens;
  const int32_t stride = KWS_DELTA_COLUMNS(tokens);
  const int32_t width = p->attention.heads * p->attention.head_dim;
  const int32_t threshold = p->key_threshold;
  const int32_t dense_rows = threshold < 0 ? tokens : kws_min(p->dense_rows, tokens);
  int32_t count = dense_rows * width;
  for (int32_t column = 0; column < width; ++column) {
    int8_t *element = k_transposed + column * stride;
    int32_t held = element[dense_rows - 1];
    for (int32_t t = dense_rows; t < tokens; ++t) {
      const int32_t delta = element[t] - held;
      if (delta > threshold || delta < -threshold) {
        held = element[t];
        ++count;
      } else {
        element[t] = (int8_t)held;
      }
    }
    memset(element + tokens, 0, (size_t)(stride - tokens));
  }
  sent->key = (uint32_t)count;
}

/* Columns of V that are added at a time; Helium takes eight, which may reach into what
 * follows V: the sums of those columns are not used. */
#if defined(KWS_CORE_MVE)
#define V_COLUMNS(head_dim) KWS_ROUND_UP(head_dim, 8)
#else
#define V_COLUMNS(head_dim) KWS_ROUND_UP(head_dim, 4)
#endif

/* What a product of one head keeps: its sums are those of the held row less its zero
 * point, whose sum is `total`. */
typedef struct {
  int32_t *sums;
  int32_t *total;
  int8_t *held;
} product_t;

static void start(const product_t *state, int32_t inputs, int32_t columns,
                  int32_t zero_point) {
  memset(state->held, zero_point, (size_t)inputs);
  memset(state->sums, 0, 4 * (size_t)columns);
  *state->total = 0;
}

/* One row of a product: encode, add, requantise. */
static int32_t product_row(const kws_batch_matmul_t *p, const product_t *state,
                           const int8_t *x, int32_t inputs, int32_t threshold,
                           int32_t dense, const int8_t *rows, int32_t stride,
                           int32_t columns, int32_t outputs, kws_delta_pair_t *list,
                           int8_t *y) {
  const change_t change =
      encode_row(x, state->held, inputs, threshold, dense, stride, list);
  if (change.pairs > 0) add_changes(state->sums, rows, columns, list, change.pairs);
  *state->total += change.sum;
  const int32_t correction = -p->b_zero_point * *state->total;
  for (int32_t o = 0; o < outputs; ++o) {
    const int32_t value =
        kws_requantize(state->sums[o] + correction, p->multiplier, p->shift) +
        p->output_zero_point;
    y[o] = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
  }
  return change.sent;
}

void kws_delta_attention_rows_s8(const kws_delta_attention_t *p, const int8_t *q,
                                 int32_t first_row, int32_t rows,
                                 const int8_t *k_transposed, const int8_t *v,
                                 int8_t *out, void *state,
                                 kws_delta_attention_sent_t *sent) {
  const kws_attention_t *a = &p->attention;
  const int32_t tokens = a->tokens;
  const int32_t head_dim = a->head_dim;
  const int32_t width = a->heads * head_dim;
  const int32_t token_columns = KWS_DELTA_COLUMNS(tokens);
  const int32_t head_columns = KWS_DELTA_COLUMNS(head_dim);
  const int32_t head_bytes = 5 * (token_columns + head_columns) + 8;
  int8_t *const heads = state;
  kws_delta_pair_t *list = (kws_delta_pair_t *)(heads + a->heads * head_bytes);
  int8_t *scores =
      (int8_t *)list + KWS_DELTA_LIST_BYTES(tokens > head_dim ? tokens : head_dim);
  if (first_row == 0) sent->query = sent->share = 0;
  for (int32_t row = first_row; row < first_row + rows; ++row) {
    const int32_t dense = row < p->dense_rows;
    for (int32_t head = 0; head < a->heads; ++head) {
      const int32_t column = head * head_dim;
      int32_t *words = (int32_t *)(heads + head * head_bytes);
      const product_t query = {words + 2, words,
                               (int8_t *)(words + 2 + token_columns + head_columns)};
      const product_t share = {words + 2 + token_columns, words + 1,
                               query.held + head_columns};
      if (row == 0) {
        start(&query, head_dim, token_columns, a->scores.a_zero_point);
        start(&share, tokens, head_columns, a->values.a_zero_point);
      }
      sent->query += (uint32_t)product_row(
          &a->scores, &query, q + column, head_dim, p->query_threshold, dense,
          k_transposed + column * token_columns, token_columns, token_columns, tokens,
          list, scores);
      if (a->score_table) kws_table_s8(a->score_table, scores, tokens, scores);
      kws_softmax_row(&a->softmax, scores, tokens, scores);
      sent->share += (uint32_t)product_row(
          &a->values, &share, scores, tokens, p->share_threshold, dense, v + column,
          width, V_COLUMNS(head_dim), head_dim, list, out + column);
    }
    q += width;
    out += width;
  }
}
