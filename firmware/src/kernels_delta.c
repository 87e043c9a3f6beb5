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
  int32_t count; /* elements that changed: length of the list, made even */
  int32_t sum;   /* of all changes */
} change_t;

#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* Four times held or x: x where they differ by more than the threshold, 0..126. The
 * difference saturates, so difference + threshold is in 0..2 * threshold only where
 * held. */
static inline uint32_t select_bytes(uint32_t x, uint32_t held, uint32_t thresholds,
                                    uint32_t twice) {
  uint32_t result;
  __asm(
      "qsub8 %0, %1, %2\n"
      "  uadd8 %0, %0, %3\n"
      "  usub8 %0, %4, %0\n"
      "  sel %0, %2, %1\n"
      : "=&r"(result)
      : "r"(x), "r"(held), "r"(thresholds), "r"(twice)
      : "cc");
  return result;
}

#endif

/* Moves `held` to x where they differ by more than the threshold, and lists the
 * changes; the row of element i lies at i * stride. `held` is 4-byte aligned. */
static change_t encode(const int8_t *x, int8_t *held, int32_t n, int32_t threshold,
                       int32_t stride, kws_delta_change_t *list) {
  kws_delta_change_t *at = list;
  int32_t sum = 0, i = 0;
#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)
  const uint32_t thresholds = (uint32_t)threshold * 0x01010101u;
  for (; threshold < INT8_MAX && i + 4 <= n; i += 4) {
    uint32_t now, before;
    memcpy(&now, x + i, sizeof now);
    memcpy(&before, __builtin_assume_aligned(held + i, 4), sizeof before);
    const uint32_t after = select_bytes(now, before, thresholds, 2 * thresholds);
    if (after == before) continue;
    memcpy(__builtin_assume_aligned(held + i, 4), &after, sizeof after);
    int32_t offset = i * stride;
#pragma GCC unroll 4
    for (int32_t bit = 0; bit < 32; bit += 8, offset += stride) {
      const int32_t delta = (int8_t)(after >> bit) - (int8_t)(before >> bit);
      if (delta == 0) continue;
      *at++ = (kws_delta_change_t){offset, delta};
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
    int8_t old[16];
    vst1q_s8(old, before);
    vstrbq_p_s8(held + i, now, (mve_pred16_t)changed);
    for (; changed != 0; changed &= changed - 1) {
      const int32_t lane = __builtin_ctz(changed);
      const int32_t delta = x[i + lane] - old[lane];
      *at++ = (kws_delta_change_t){(i + lane) * stride, delta};
      sum += delta;
    }
  }
#endif
  for (; i < n; ++i) {
    const int32_t delta = x[i] - held[i];
    if (delta > threshold || delta < -threshold) {
      held[i] = x[i];
      *at++ = (kws_delta_change_t){i * stride, delta};
      sum += delta;
    }
  }
  const int32_t count = (int32_t)(at - list);
  if (count & 1) *at = (kws_delta_change_t){at[-1].offset, 0};
  return (change_t){count, count + (count & 1), sum};
}

/* One row of an operator: the first ones are transmitted whole. */
static change_t encode_row(const int8_t *x, int8_t *held, int32_t n, int32_t threshold,
                           int32_t dense, int32_t stride, kws_delta_change_t *list) {
  change_t change = encode(x, held, n, dense ? 0 : threshold, stride, list);
  if (dense) change.sent = n;
  return change;
}

/* The same without a list, from the row held before to a row of its own. Returns the
 * number of changes. */
static int32_t hold(const int8_t *x, const int8_t *before, int8_t *after, int32_t n,
                    int32_t threshold) {
  int32_t count = 0, i = 0;
#if defined(KWS_CORE_MVE)
  for (; threshold < INT8_MAX && i < n; i += 16) {
    const mve_pred16_t lanes = vctp8q((uint32_t)(n - i));
    const int8x16_t now = vldrbq_z_s8(x + i, lanes);
    const int8x16_t old = vldrbq_z_s8(before + i, lanes);
    const int8x16_t size = vqabsq_s8(vqsubq_s8(now, old));
    const mve_pred16_t changed = vcmpgtq_m_n_s8(size, (int8_t)threshold, lanes);
    vstrbq_p_s8(after + i, vpselq_s8(now, old, changed), lanes);
    count = vaddvaq_p_s8(count, vdupq_n_s8(1), changed);
  }
#endif
  for (; i < n; ++i) {
    const int32_t delta = x[i] - before[i];
    const int32_t moves = delta > threshold || delta < -threshold;
    after[i] = moves ? x[i] : before[i];
    count += moves;
  }
  return count;
}

/* ---- Adding what changed ---- */

#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* Two elements times four columns. */
#define TWO_TIMES_FOUR                                                  \
  "  ldm %[at]!, {r3, r4, r5, r6}\n" /* offset, delta, offset, delta */ \
  "  ldr r3, [%[rows], r3]\n"                                           \
  "  ldr r5, [%[rows], r5]\n"                                           \
  "  pkhbt r4, r4, r6, lsl #16\n"                                       \
  "  pkhbt r6, r3, r5, lsl #16\n"                                       \
  "  pkhtb r5, r5, r3, asr #16\n"                                       \
  "  sxtb16 r3, r6\n"                                                   \
  "  smlad %[sum0], r3, r4, %[sum0]\n"                                  \
  "  sxtb16 r3, r6, ror #8\n"                                           \
  "  smlad %[sum1], r3, r4, %[sum1]\n"                                  \
  "  sxtb16 r3, r5\n"                                                   \
  "  smlad %[sum2], r3, r4, %[sum2]\n"                                  \
  "  sxtb16 r3, r5, ror #8\n"                                           \
  "  smlad %[sum3], r3, r4, %[sum3]\n"

/* sums[c] += what the list adds; columns is a multiple of 4. In assembly because
 * compilers don't load two entries at once. */
static void add_changes(int32_t *sums, const int8_t *rows, int32_t columns,
                        const kws_delta_change_t *list, int32_t count) {
  const kws_delta_change_t *const end = list + count;
  if (count == 0) return;
  for (; columns > 0; columns -= 4, rows += 4, sums += 4) {
    int32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    const kws_delta_change_t *at = list;
    __asm volatile(
        "  tst %[count], #2\n"
        "  bne 2f\n"
        "1:\n" TWO_TIMES_FOUR "2:\n" TWO_TIMES_FOUR
        "  cmp %[at], %[end]\n"
        "  bne 1b\n"
        : [at] "+&r"(at), [sum0] "+&r"(sum0), [sum1] "+&r"(sum1), [sum2] "+&r"(sum2),
          [sum3] "+&r"(sum3)
        : [rows] "r"(rows), [end] "r"(end), [count] "r"(count)
        : "r3", "r4", "r5", "r6", "cc", "memory");
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
  }
}

#elif defined(KWS_CORE_MVE)

/* sums[0..7] += the 16-bit lanes of `added`, by way of q4 to q7. */
#define ADD_8(added)                 \
  "  vmovlb.s16 q4, " added          \
  "\n"                               \
  "  vmovlt.s16 q5, " added          \
  "\n"                               \
  "  vld20.32 {q6, q7}, [%[sums]]\n" \
  "  vld21.32 {q6, q7}, [%[sums]]\n" \
  "  vadd.i32 q4, q4, q6\n"          \
  "  vadd.i32 q5, q5, q7\n"          \
  "  vst20.32 {q4, q5}, [%[sums]]\n" \
  "  vst21.32 {q4, q5}, [%[sums]]!\n"

/* One element times eight columns. */
#define MULTIPLY_8(sum, at)    \
  "  vldrb.s16 q4, [%[row]" at \
  "]\n"                        \
  "  vmla.s16 " sum ", q4, %[delta]\n"

/* A list that fits into 16 bits: all |delta| together are at most 255, and no weight is
 * beyond 128. Columns is a multiple of 8. In assembly because compilers spill around
 * the pairs of vectors. */
static void add_group(int32_t *sums, const int8_t *rows, int32_t columns,
                      const kws_delta_change_t *list, int32_t count) {
  for (; columns >= 32; columns -= 32, rows += 32) {
    const kws_delta_change_t *at = list;
    int32_t row, delta;
    __asm volatile(
        "  vmov.i32 q0, #0\n"
        "  vmov.i32 q1, #0\n"
        "  vmov.i32 q2, #0\n"
        "  vmov.i32 q3, #0\n"
        "  dls lr, %[count]\n"
        "1:\n"
        "  ldrd %[row], %[delta], [%[at]], #8\n"
        "  add %[row], %[rows]\n" MULTIPLY_8("q0", "") MULTIPLY_8("q1", ", #8")
            MULTIPLY_8("q2", ", #16")
                MULTIPLY_8("q3", ", #24") "  le lr, 1b\n" ADD_8("q0") ADD_8("q1")
                    ADD_8("q2") ADD_8("q3")
        : [at] "+&r"(at), [sums] "+&r"(sums), [row] "=&l"(row), [delta] "=&r"(delta)
        : [rows] "r"(rows), [count] "r"(count)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory");
  }
  for (; columns > 0; columns -= 8, rows += 8) {
    const kws_delta_change_t *at = list;
    int32_t row, delta;
    __asm volatile(
        "  vmov.i32 q0, #0\n"
        "  dls lr, %[count]\n"
        "1:\n"
        "  ldrd %[row], %[delta], [%[at]], #8\n"
        "  add %[row], %[rows]\n" MULTIPLY_8("q0", "") "  le lr, 1b\n" ADD_8("q0")
        : [at] "+&r"(at), [sums] "+&r"(sums), [row] "=&l"(row), [delta] "=&r"(delta)
        : [rows] "r"(rows), [count] "r"(count)
        : "lr", "q0", "q4", "q5", "q6", "q7", "memory");
  }
}

/* sums[c] += what the list adds; columns is a multiple of 8. */
static void add_changes(int32_t *sums, const int8_t *rows, int32_t columns,
                        const kws_delta_change_t *list, int32_t count) {
  enum { LARGEST_SIZE = 255 };
  const kws_delta_change_t *const end = list + count;
  while (list < end) {
    const kws_delta_change_t *stop = list;
    for (int32_t size = 0; stop < end; ++stop) {
      size += stop->delta < 0 ? -stop->delta : stop->delta;
      if (size > LARGEST_SIZE) break;
    }
    add_group(sums, rows, columns, list, (int32_t)(stop - list));
    list = stop;
  }
}

#else

/* sums[c] += what the list adds. */
static void add_changes(int32_t *restrict sums, const int8_t *rows, int32_t columns,
                        const kws_delta_change_t *list, int32_t count) {
  for (; count > 0; count -= 2, list += 2) {
    const int8_t *row0 = rows + list[0].offset;
    const int8_t *row1 = rows + list[1].offset;
    const int32_t delta0 = list[0].delta, delta1 = list[1].delta;
    for (int32_t c = 0; c < columns; ++c) {
      sums[c] += delta0 * row0[c] + delta1 * row1[c];
    }
  }
}

#endif

/* ---- Requantisation ---- */

/* How a row of sums becomes int8. `each` promises a multiplier and a shift for every
 * output; otherwise there is one of both. */
typedef struct {
  const int32_t *multiplier;
  const int8_t *shift;
  int32_t zero_point;
  int32_t low, high; /* clamp */
  int32_t common;    /* shifts are all in -22..-1, the clamp is int8's own */
} finish_t;

static finish_t finish_of(const int32_t *multiplier, const int8_t *shift, int32_t n,
                          int32_t zero_point, int32_t low, int32_t high) {
  finish_t finish = {multiplier, shift, zero_point, low, high, 0};
  finish.common = low == INT8_MIN && high == INT8_MAX;
  for (int32_t i = 0; i < n; ++i) {
    if (shift[i] >= 0 || shift[i] < -22) finish.common = 0;
  }
  return finish;
}

/* Any shifts and clamp. */
static void finish_any(const finish_t *f, int32_t each, const int32_t *sums,
                       int32_t correction, int32_t n, int8_t *y, int32_t step) {
  for (int32_t i = 0; i < n; ++i, y += step) {
    const int32_t at = each ? i : 0;
    const int32_t value =
        kws_requantize(sums[i] + correction, f->multiplier[at], f->shift[at]) +
        f->zero_point;
    *y = (int8_t)kws_clamp(value, f->low, f->high);
  }
}

#if defined(KWS_CORE_MVE)

/* VRSHL rounds halves up; TFLM rounds them away from zero. */
static inline __attribute__((always_inline)) void finish_common(
    const finish_t *f, int32_t each, const int32_t *sums, int32_t correction, int32_t n,
    int8_t *y, int32_t step) {
  const int32_t *multipliers = f->multiplier;
  const int8_t *shifts = f->shift;
  const int32_t zero_point = f->zero_point;
  const uint32x4_t offsets = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
  int32x4_t multiplier = vdupq_n_s32(*multipliers), shift = vdupq_n_s32(*shifts);
  const int32x4_t low = vdupq_n_s32(INT8_MIN), high = vdupq_n_s32(INT8_MAX);
  for (; n > 0; n -= 4, sums += 4, y += 4 * step) {
    const mve_pred16_t lanes = vctp32q((uint32_t)n);
    if (each) {
      multiplier = vldrwq_z_s32(multipliers, lanes);
      shift = vldrbq_z_s32(shifts, lanes);
      multipliers += 4;
      shifts += 4;
    }
    int32x4_t value = vaddq_n_s32(vldrwq_z_s32(sums, lanes), correction);
    value = vqrdmulhq_s32(value, multiplier);
    value = vrshlq_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, zero_point), low), high);
    if (step == 1) {
      vstrbq_p_s32(y, value, lanes);
    } else {
      vstrbq_scatter_offset_p_s32(y, offsets, value, lanes);
    }
  }
}

#elif defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* TFLM's two roundings and the zero point, as kernels_dsp.c has them. */
static inline __attribute__((always_inline)) void finish_common(
    const finish_t *f, int32_t each, const int32_t *sums, int32_t correction, int32_t n,
    int8_t *y, int32_t step) {
  const int32_t *multipliers = f->multiplier;
  const int8_t *shifts = f->shift;
  const int32_t twice = 2 * f->zero_point + 1;
  int32_t multiplier = *multipliers, right = -*shifts;
  int32_t rounding = twice * (1 << (right - 1));
  for (const int32_t *end = sums + n; sums < end; y += step) {
    int32_t value = *sums++ + correction, low;
    if (each) {
      multiplier = *multipliers++;
      right = -*shifts++;
      rounding = twice * (1 << (right - 1));
    }
    __asm(
        "smull %[low], %[value], %[value], %[multiplier]\n"
        "  lsls %[low], %[low], #1\n"
        "  adc %[value], %[value], %[value]\n"
        "  add %[value], %[value], %[low], lsr #31\n"
        "  add %[value], %[value], %[value], asr #31\n"
        "  add %[value], %[value], %[rounding]\n"
        "  asr %[value], %[value], %[right]\n"
        "  ssat %[value], #8, %[value]\n"
        : [value] "+&r"(value), [low] "=&r"(low)
        : [multiplier] "r"(multiplier), [rounding] "r"(rounding), [right] "r"(right)
        : "cc");
    *y = (int8_t)value;
  }
}

#else

static inline void finish_common(const finish_t *f, int32_t each, const int32_t *sums,
                                 int32_t correction, int32_t n, int8_t *y,
                                 int32_t step) {
  finish_any(f, each, sums, correction, n, y, step);
}

#endif

/* y[o * step] from a dense layer's sums. */
static void finish_outputs(const finish_t *f, const int32_t *sums, int32_t n, int8_t *y,
                           int32_t step) {
  if (!f->common) {
    finish_any(f, 1, sums, 0, n, y, step);
  } else if (step == 1) {
    finish_common(f, 1, sums, 0, n, y, 1);
  } else {
    finish_common(f, 1, sums, 0, n, y, step);
  }
}

/* y[i] from a product's sums. */
static void finish_product(const finish_t *f, const int32_t *sums, int32_t correction,
                           int32_t n, int8_t *y) {
  if (f->common) {
    finish_common(f, 0, sums, correction, n, y, 1);
  } else {
    finish_any(f, 0, sums, correction, n, y, 1);
  }
}

/* ---- FULLY_CONNECTED ---- */

/* Share of transmitted elements, in 64ths, above which the dense kernel is cheaper:
 *   python tools/bench_delta.py --compiler gcc
 * (64x64; a dense kernel's rows in blocks, changes of 16 steps). */
#if defined(KWS_CORE_MVE)
#define CROSSOVER 7
#elif defined(KWS_CORE_DSP)
#define CROSSOVER 22
#else
#define CROSSOVER 37
#endif

/* What a dense layer keeps from row to row. */
typedef struct {
  int32_t *sums;
  int8_t *held;
  int8_t *summed;  /* the held row that the sums are of, while they are behind */
  int32_t *behind; /* rows were done by the dense kernel since */
  int32_t *recent; /* transmitted elements of the last block, in 64ths */
} dense_layer_t;

static dense_layer_t dense_layer_of(const kws_delta_fully_connected_t *p, void *state) {
  int32_t *words = state;
  int32_t *sums = words + 2;
  int8_t *held = (int8_t *)(sums + KWS_DELTA_COLUMNS(p->product.outputs));
  return (dense_layer_t){sums, held, held + KWS_ROUND_UP(p->product.inputs, 4), words,
                         words + 1};
}

/* A block by the dense kernel. Returns what was transmitted. */
static int32_t dense_block(const kws_delta_fully_connected_t *p, const dense_layer_t *s,
                           const int8_t *x, int32_t row, int32_t rows, int8_t *y,
                           int32_t row_step, int32_t output_step, void *scratch) {
  const int32_t inputs = p->product.inputs;
  int8_t *block = scratch;
  void *rest = block + KWS_ROUND_UP(KWS_DELTA_BLOCK * inputs, 4);
  int32_t sent = 0;
  if (!*s->behind) memcpy(s->summed, s->held, (size_t)inputs);
  *s->behind = 1;
  const int8_t *before = s->held;
  int8_t *after = block;
  for (int32_t r = 0; r < rows; ++r, x += inputs, after += inputs) {
    const int32_t whole = row + r < p->dense_rows;
    const int32_t count = hold(x, before, after, inputs, whole ? 0 : p->threshold);
    sent += whole ? inputs : count;
    before = after;
  }
  memcpy(s->held, before, (size_t)inputs);
  if (output_step == 1) {
    kws_fully_connected_s8(&p->product, block, rows, y, rest);
  } else {
    (void)row_step; /* 1 */
    kws_fully_connected_transposed_s8(&p->product, block, rows, y, output_step, rest);
  }
  return sent;
}

/* A block row by row, from what changed. Returns what was transmitted. */
static int32_t sparse_block(const kws_delta_fully_connected_t *p,
                            const dense_layer_t *s, const int8_t *x, int32_t row,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step, kws_delta_change_t *list) {
  const int32_t inputs = p->product.inputs;
  const int32_t columns = KWS_DELTA_COLUMNS(p->product.outputs);
  const kws_fully_connected_t *product = &p->product;
  const finish_t finish = finish_of(product->multiplier, product->shift,
                                    product->outputs, product->output_zero_point,
                                    product->activation_min, product->activation_max);
  int32_t sent = 0;
  if (*s->behind) {
    const change_t change = encode(s->held, s->summed, inputs, 0, columns, list);
    add_changes(s->sums, p->columns, columns, list, change.count);
    *s->behind = 0;
  }
  for (int32_t r = 0; r < rows; ++r) {
    const change_t change = encode_row(x, s->held, inputs, p->threshold,
                                       row + r < p->dense_rows, columns, list);
    sent += change.sent;
    add_changes(s->sums, p->columns, columns, list, change.count);
    finish_outputs(&finish, s->sums, product->outputs, y, output_step);
    x += inputs;
    y += row_step;
  }
  return sent;
}

void kws_delta_fully_connected_s8(const kws_delta_fully_connected_t *p, const int8_t *x,
                                  int32_t first_row, int32_t rows, int8_t *y,
                                  int32_t row_step, int32_t output_step, void *state,
                                  void *scratch, uint32_t *sent) {
  const kws_fully_connected_t *product = &p->product;
  const int32_t inputs = product->inputs;
  const int32_t outputs = product->outputs;
  const dense_layer_t layer = dense_layer_of(p, state);
  if (first_row == 0) {
    *sent = 0;
    *layer.behind = 0;
    *layer.recent = 64; /* the first rows are transmitted whole */
    memset(layer.held, 0, (size_t)inputs);
    memset(layer.sums, 0, 4 * (size_t)KWS_DELTA_COLUMNS(outputs));
    memcpy(layer.sums, product->bias, 4 * (size_t)outputs);
  }
  const int32_t end = first_row + rows;
  for (int32_t row = first_row; row < end; row += KWS_DELTA_BLOCK) {
    const int32_t block = kws_min(end - row, KWS_DELTA_BLOCK);
    int32_t count;
    if (product->weights != NULL && *layer.recent > CROSSOVER) {
      count = dense_block(p, &layer, x, row, block, y, row_step, output_step, scratch);
    } else {
      count = sparse_block(p, &layer, x, row, block, y, row_step, output_step, scratch);
    }
    *sent += (uint32_t)count;
    *layer.recent = 64 * count / (block * inputs);
    x += block * inputs;
    y += block * row_step;
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

/* One row of a product: encode, add, requantise. Returns what was transmitted. */
static uint32_t product_row(const finish_t *finish, int32_t b_zero_point,
                            const product_t *state, const int8_t *x, int32_t inputs,
                            int32_t threshold, int32_t dense, const int8_t *rows,
                            int32_t stride, int32_t columns, int32_t outputs,
                            kws_delta_change_t *list, int8_t *y) {
  const change_t change =
      encode_row(x, state->held, inputs, threshold, dense, stride, list);
  add_changes(state->sums, rows, columns, list, change.count);
  *state->total += change.sum;
  finish_product(finish, state->sums, -b_zero_point * *state->total, outputs, y);
  return (uint32_t)change.sent;
}

static finish_t finish_of_product(const kws_batch_matmul_t *p) {
  return finish_of(&p->multiplier, &p->shift, 1, p->output_zero_point,
                   p->activation_min, p->activation_max);
}

void kws_delta_batch_matmul_s8(const kws_delta_batch_matmul_t *p, const int8_t *a,
                               const int8_t *b, int8_t *y, void *state,
                               uint32_t *sent) {
  int32_t *words = state;
  int8_t *held = (int8_t *)(words + 2 + KWS_DELTA_COLUMNS(p->columns));
  const product_t product = {words + 2, words, held};
  kws_delta_change_t *list = (kws_delta_change_t *)(held + KWS_ROUND_UP(p->inner, 4));
  const finish_t finish = finish_of_product(&p->product);
  start(&product, p->inner, KWS_DELTA_COLUMNS(p->columns), p->product.a_zero_point);
  for (int32_t row = 0; row < p->rows; ++row) {
    *sent += product_row(&finish, p->product.b_zero_point, &product, a, p->inner,
                         p->threshold, row < p->dense_rows, b, p->stride,
                         V_COLUMNS(p->columns), p->columns, list, y);
    a += p->inner;
    y += p->columns;
  }
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
  kws_delta_change_t *list = (kws_delta_change_t *)(heads + a->heads * head_bytes);
  int8_t *scores =
      (int8_t *)list + KWS_DELTA_LIST_BYTES(tokens > head_dim ? tokens : head_dim);
  const finish_t score_finish = finish_of_product(&a->scores);
  const finish_t value_finish = finish_of_product(&a->values);
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
      sent->query += product_row(&score_finish, a->scores.b_zero_point, &query,
                                 q + column, head_dim, p->query_threshold, dense,
                                 k_transposed + column * token_columns, token_columns,
                                 token_columns, tokens, list, scores);
      if (a->score_table) kws_table_s8(a->score_table, scores, tokens, scores);
      kws_softmax_row(&a->softmax, scores, tokens, scores);
      sent->share += product_row(&value_finish, a->values.b_zero_point, &share, scores,
                                 tokens, p->share_threshold, dense, v + column, width,
                                 V_COLUMNS(head_dim), head_dim, list, out + column);
    }
    q += width;
    out += width;
  }
}
