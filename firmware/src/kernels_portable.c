/* Matrix products and attention in plain C, but for one loop on a Cortex-M0+: that and
 * the host. See kws_kernels.h.
 *
 * Products take one row and four outputs at a time: each element of the row is loaded
 * once for four weights.
 */
#include "kernels_internal.h"

#if defined(KWS_CORE_PORTABLE)

/* ---- Sums of products ---- */

#if defined(__ARM_ARCH_6M__)

/* sums[o] = sum over n of x[i] * rows[o * stride + i], for 4 * fours outputs. Assembly
 * because compilers don't keep sums in the high registers: 29 instructions for 8 MACs.
 *   r0 x's end, r1 -n..-1, r2 of x, r3 product, r4-r7 ends of rows, r8-r11 sums,
 *   r12 stride, lr fours; on the stack: -n, saved registers, fours, sums */
void kws_m0_sums(const int8_t *x, int32_t n, const int8_t *rows, int32_t stride,
                 int32_t fours, int32_t *sums);

#define ONE_BY_FOUR        \
  "  ldrsb r2, [r0, r1]\n" \
  "  ldrsb r3, [r4, r1]\n" \
  "  muls r3, r2, r3\n"    \
  "  add r8, r3\n"         \
  "  ldrsb r3, [r5, r1]\n" \
  "  muls r3, r2, r3\n"    \
  "  add r9, r3\n"         \
  "  ldrsb r3, [r6, r1]\n" \
  "  muls r3, r2, r3\n"    \
  "  add r10, r3\n"        \
  "  ldrsb r3, [r7, r1]\n" \
  "  muls r3, r2, r3\n"    \
  "  add r11, r3\n"        \
  "  adds r1, #1\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_sums, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_sums\n"
    "  .type kws_m0_sums, %function\n"
    "  .thumb_func\n"
    "kws_m0_sums:\n"
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  adds r0, r0, r1\n"
    "  adds r7, r2, r1\n"
    "  subs r7, r7, r3\n"
    "  mov r12, r3\n"
    "  ldr r4, [sp, #36]\n"
    "  mov lr, r4\n"
    "  rsbs r1, r1, #0\n"
    "  push {r1}\n"
    "1:\n"
    "  mov r2, r12\n"
    "  adds r4, r7, r2\n"
    "  adds r5, r4, r2\n"
    "  adds r6, r5, r2\n"
    "  adds r7, r6, r2\n"
    "  movs r3, #0\n"
    "  mov r8, r3\n"
    "  mov r9, r3\n"
    "  mov r10, r3\n"
    "  mov r11, r3\n"
    "  ldr r1, [sp, #0]\n"
    "  lsls r3, r1, #31\n"
    "  bne 3f\n" /* odd: one less */
    "2:\n" ONE_BY_FOUR "3:\n" ONE_BY_FOUR
    "  bne 2b\n"
    "  ldr r3, [sp, #44]\n"
    "  mov r1, r8\n"
    "  mov r2, r9\n"
    "  mov r4, r10\n"
    "  mov r5, r11\n"
    "  stmia r3!, {r1, r2, r4, r5}\n"
    "  str r3, [sp, #44]\n"
    "  mov r1, lr\n"
    "  subs r1, #1\n"
    "  mov lr, r1\n"
    "  bne 1b\n"
    "  pop {r3-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "  .size kws_m0_sums, . - kws_m0_sums\n"
    "  .popsection\n");

#else

static void kws_m0_sums(const int8_t *x, int32_t n, const int8_t *rows, int32_t stride,
                        int32_t fours, int32_t *sums) {
  for (; fours > 0; --fours, rows += 4 * stride, sums += 4) {
    int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    for (int32_t i = 0; i < n; ++i) {
      sum0 += x[i] * rows[i];
      sum1 += x[i] * rows[stride + i];
      sum2 += x[i] * rows[2 * stride + i];
      sum3 += x[i] * rows[3 * stride + i];
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
  }
}

#endif

/* Outputs whose sums are taken before they are finished. */
#define BLOCK 16

/* sums[o] of `count` outputs. The last four reach back over some that are done. */
static void sum_rows(const int8_t *x, int32_t n, const int8_t *rows, int32_t stride,
                     int32_t count, int32_t *sums) {
  if (count >= 4) {
    kws_m0_sums(x, n, rows, stride, count / 4, sums);
    if (count % 4 == 0) return;
    count -= 4;
    kws_m0_sums(x, n, rows + count * stride, stride, 1, sums + count);
    return;
  }
  for (int32_t o = 0; o < count; ++o, rows += stride) {
    int32_t sum = 0;
    for (int32_t i = 0; i < n; ++i) sum += x[i] * rows[i];
    sums[o] = sum;
  }
}

/* round(a * b / 2^31), halves up, for b >= 0. On an M0+ it takes four products, or two
 * where a has 16 bits, as most sums do. */
static inline int32_t high_multiply(int32_t a, int32_t b) {
#if defined(__ARM_ARCH_6M__)
  if (a == (int16_t)a) {
    return (a * (b >> 16) + ((a * (b & 0xffff)) >> 16) + 0x4000) >> 15;
  }
#endif
  return kws_high_multiply(a, b);
}

/* TFLM's requantisation, saturated, where the shift is to the right and the sum below
 * 2^30 in magnitude. rounding = 2 * zero point + 1: the second rounding's half comes
 * last. */
static inline int8_t finish_sum(int32_t sum, int32_t multiplier, int32_t shift,
                                int32_t rounding) {
  const int32_t product = high_multiply(sum, multiplier);
  const int32_t value = (((product + (product >> 31)) >> (-shift - 1)) + rounding) >> 1;
  return (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
}

/* ---- FULLY_CONNECTED ---- */

static int8_t finish_output(const kws_fully_connected_t *p, int32_t output,
                            int32_t accumulator) {
  const int32_t value = kws_requantize(accumulator + p->bias[output],
                                       p->multiplier[output], p->shift[output]) +
                        p->output_zero_point;
  return (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
}

#if defined(__ARM_ARCH_6M__)

/* Assembly because compilers spill half of it.
 *   r0 sums, r1 biases, r2 multipliers, r3 shifts, r4 sum, r5-r7 of a product,
 *   r8 y, r9 its step, r10 rounding, r11 2^14, r12 the sums' end */
__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_finish, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_finish\n"
    "  .type kws_m0_finish, %function\n"
    "  .thumb_func\n"
    "kws_m0_finish:\n"
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  add r4, sp, #36\n"
    "  ldmia r4!, {r5, r6}\n"
    "  lsls r5, r5, #2\n"
    "  adds r5, r5, r0\n"
    "  mov r12, r5\n"
    "  mov r10, r6\n"
    "  ldmia r4!, {r5, r6}\n"
    "  mov r8, r5\n"
    "  mov r9, r6\n"
    "  movs r5, #1\n"
    "  lsls r5, r5, #14\n"
    "  mov r11, r5\n"
    "1:\n"
    "  ldmia r0!, {r4}\n"
    "  ldmia r1!, {r5}\n"
    "  adds r4, r4, r5\n"
    "  ldmia r2!, {r5}\n"
    "  sxth r6, r4\n"
    "  cmp r6, r4\n"
    "  bne 4f\n"
    /* 16 bits: both products of the multiplier's halves fit */
    "  uxth r6, r5\n"
    "  asrs r5, r5, #16\n"
    "  muls r6, r4, r6\n"
    "  muls r5, r4, r5\n"
    "  asrs r6, r6, #16\n"
    "  adds r5, r5, r6\n"
    "  add r5, r11\n"
    "  asrs r5, r5, #15\n"
    "2:\n"
    "  asrs r6, r5, #31\n"
    "  adds r5, r5, r6\n"
    "  movs r6, #0\n"
    "  ldrsb r6, [r3, r6]\n"
    "  adds r3, #1\n"
    "  mvns r6, r6\n"
    "  asrs r5, r6\n"
    "  add r5, r10\n"
    "  asrs r5, r5, #1\n"
    "  sxtb r6, r5\n"
    "  cmp r6, r5\n"
    "  bne 5f\n"
    "3:\n"
    "  mov r7, r8\n"
    "  strb r6, [r7]\n"
    "  add r8, r9\n"
    "  cmp r0, r12\n"
    "  bne 1b\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    /* More than 16 bits. With h and l for upper and lower halves,
     *   2 * ah * bh + (ah * bl + al * bh + al * bl / 2^16 + 2^14) / 2^15,
     * less 2^30 before the last shift, for the sign bit's sake, and 2^15 more after. */
    "4:\n"
    "  mov lr, r3\n"
    "  uxth r6, r4\n"
    "  asrs r4, r4, #16\n"
    "  uxth r7, r5\n"
    "  lsrs r5, r5, #16\n"
    "  mov r3, r6\n"
    "  muls r3, r7, r3\n"
    "  muls r6, r5, r6\n"
    "  muls r7, r4, r7\n"
    "  muls r5, r4, r5\n"
    "  lsrs r3, r3, #16\n"
    "  adds r6, r6, r3\n"
    "  adds r6, r6, r7\n"
    "  add r6, r11\n"
    "  movs r3, #1\n"
    "  lsls r4, r3, #30\n"
    "  subs r6, r6, r4\n"
    "  asrs r6, r6, #15\n"
    "  lsls r5, r5, #1\n"
    "  adds r5, r5, r6\n"
    "  lsls r3, r3, #15\n"
    "  adds r5, r5, r3\n"
    "  mov r3, lr\n"
    "  b 2b\n"
    "5:\n"
    "  movs r6, #127\n"
    "  asrs r5, r5, #31\n"
    "  eors r6, r5\n"
    "  b 3b\n"
    "  .size kws_m0_finish, . - kws_m0_finish\n"
    "  .popsection\n");

#else

static void kws_m0_finish(const int32_t *sums, const int32_t *bias,
                          const int32_t *multiplier, const int8_t *shift, int32_t count,
                          int32_t rounding, int8_t *y, int32_t y_step) {
  for (int32_t i = 0; i < count; ++i) {
    y[i * y_step] = finish_sum(sums[i] + bias[i], multiplier[i], shift[i], rounding);
  }
}

#endif

/* Outputs first .. first + count - 1, each y_step from the one before. */
static void finish_outputs(const kws_fully_connected_t *p, int32_t first, int32_t count,
                           const int32_t *sums, int8_t *y, int32_t y_step) {
  if (p->ordinary) {
    kws_m0_finish(sums, p->bias + first, p->multiplier + first, p->shift + first, count,
                  2 * p->output_zero_point + 1, y, y_step);
  } else {
    for (int32_t i = 0; i < count; ++i) {
      y[i * y_step] = finish_output(p, first + i, sums[i]);
    }
  }
}

/* Element (r, o) goes to y[r * row_step + o * output_step]. */
static void fully_connected(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step) {
  const int32_t inputs = p->inputs;
  const int32_t outputs = p->outputs;
  int32_t sums[BLOCK];
  for (; rows > 0; --rows, x += inputs, y += row_step) {
    for (int32_t o = 0; o < outputs; o += BLOCK) {
      const int32_t count = kws_min(outputs - o, BLOCK);
      sum_rows(x, inputs, p->weights + o * inputs, inputs, count, sums);
      finish_outputs(p, o, count, sums, y + o * output_step, output_step);
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
  int32_t sums[BLOCK];
  for (int32_t first = 0; first < p->outputs; first += BLOCK) {
    const int32_t count = kws_min(p->outputs - first, BLOCK);
    for (int32_t c = first; c < first + count; ++c) {
      const int8_t *const *tap = taps;
      int32_t sum = 0;
      weights_end += inputs;
      /* Counted up to 0: one register is counter and index. */
      for (int32_t i = -inputs; i != 0; ++i) sum += (*tap++)[c] * weights_end[i];
      sums[c - first] = sum;
    }
    finish_outputs(p, first, count, sums, y + first, 1);
  }
}

/* ---- BATCH_MATMUL ---- */

static int8_t finish_product(const kws_batch_matmul_t *p, int32_t accumulator) {
  const int32_t value =
      kws_requantize(accumulator, p->multiplier, p->shift) + p->output_zero_point;
  return (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
}

/* One row of a against n rows of b. sum (a - za) * (b - zb) is
 * sum a * b - za * sum b - zb * sum a + inner * za * zb. */
static void row_product(const kws_batch_matmul_t *p, const int8_t *a, const int8_t *b,
                        int32_t b_stride, const int32_t *b_sums, int32_t n,
                        int32_t inner, int8_t *y) {
  const int32_t zero_point = p->a_zero_point;
  const int32_t constant =
      p->b_zero_point * (inner * zero_point - kws_sum_s8(a, inner));
  const int32_t multiplier = p->multiplier, shift = p->shift;
  const int32_t rounding = 2 * p->output_zero_point + 1;
  /* 2^14 products of 255 * 255 stay below 2^30. */
  const int common =
      shift < 0 && p->activation_min == INT8_MIN && p->activation_max == INT8_MAX;
  int32_t sums[BLOCK];
  for (; n > 0; n -= BLOCK, b += BLOCK * b_stride) {
    const int32_t count = kws_min(n, BLOCK);
    sum_rows(a, inner, b, b_stride, count, sums);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t sum = sums[i] + constant - zero_point * *b_sums++;
      *y++ = common ? finish_sum(sum, multiplier, shift, rounding)
                    : finish_product(p, sum);
    }
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch) {
  (void)scratch;
  int32_t b_sums[BLOCK];
  for (int32_t c = 0; c < n; c += BLOCK) {
    const int32_t count = kws_min(n - c, BLOCK);
    const int8_t *b = b_rows + c * b_stride;
    for (int32_t i = 0; i < count; ++i) {
      b_sums[i] = p->a_zero_point == 0 ? 0 : kws_sum_s8(b + i * b_stride, inner);
    }
    for (int32_t r = 0; r < m; ++r) {
      row_product(p, a + r * a_stride, b, b_stride, b_sums, count, inner,
                  y + r * y_stride + c);
    }
  }
}

#if defined(__ARM_ARCH_6M__)

/* As a delta encoding's products: what is added for each element of a row of `a` is its
 * difference to the zero point. A block of columns at a time, flipped. */

enum { CHANGES = 16 };

/* n rows of 16 columns, of which `count` are there. */
static void flip_columns(const int8_t *b, int32_t b_stride, int32_t n, int32_t count,
                         int8_t *to) {
  const int words = count == BLOCK && (((uintptr_t)b | (uint32_t)b_stride) & 3) == 0;
  for (; n > 0; --n, b += b_stride, to += BLOCK) {
    if (words) {
      const uint32_t *from = __builtin_assume_aligned(b, 4);
      uint32_t *flipped = __builtin_assume_aligned(to, 4);
      for (int32_t i = 0; i < BLOCK / 4; ++i) flipped[i] = from[i] ^ 0x80808080u;
    } else {
      for (int32_t i = 0; i < BLOCK; ++i) {
        to[i] = (int8_t)((i < count ? (uint8_t)b[i] : 0u) ^ KWS_DELTA_FLIP);
      }
    }
  }
}

/* sums += a row of `a` less its zero point, times the columns. Returns the sum of that.
 */
static int32_t add_row(const int8_t *a, int32_t zero_point, int32_t inner,
                       const int8_t *columns, int32_t *sums) {
  kws_delta_change_t list[CHANGES + 1];
  int32_t all = 0;
  for (int32_t i = 0; i < inner;) {
    kws_delta_change_t *at = list;
    int32_t size = 0, sum = 0;
    for (; i < inner && at < list + CHANGES; ++i) {
      const int32_t delta = a[i] - zero_point;
      const int32_t larger = size + (delta < 0 ? -delta : delta);
      if (larger > 255) break;
      if (delta == 0) continue;
      *at++ = (kws_delta_change_t){(int32_t)(intptr_t)(columns + i * BLOCK), delta};
      size = larger;
      sum += delta;
    }
    at->delta = 0;
    if (at == list) continue;
    kws_m0_add_changes(sums, list, BLOCK, (uint32_t)(-128 * sum) * 0x10001u);
    all += sum;
  }
  return all;
}

void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch) {
  const int32_t multiplier = p->multiplier, shift = p->shift;
  const int32_t rounding = 2 * p->output_zero_point + 1;
  /* 2^14 products of 255 * 255 stay below 2^30. */
  const int common =
      shift < 0 && p->activation_min == INT8_MIN && p->activation_max == INT8_MAX;
  for (int32_t c = 0; c < n; c += BLOCK) {
    const int32_t count = kws_min(n - c, BLOCK);
    flip_columns(b + c, b_stride, inner, count, scratch);
    for (int32_t r = 0; r < m; ++r) {
      int32_t sums[BLOCK] = {0};
      const int32_t total =
          add_row(a + r * a_stride, p->a_zero_point, inner, scratch, sums);
      const int32_t constant = -p->b_zero_point * total;
      int8_t *to = y + r * y_stride + c;
      for (int32_t i = 0; i < count; ++i) {
        const int32_t sum = sums[i] + constant;
        to[i] = common ? finish_sum(sum, multiplier, shift, rounding)
                       : finish_product(p, sum);
      }
    }
  }
}

#else

/* A block of columns at a time is laid as rows. */
void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch) {
  int32_t b_sums[BLOCK];
  for (int32_t c = 0; c < n; c += BLOCK) {
    const int32_t count = kws_min(n - c, BLOCK);
    int8_t *to = scratch;
    for (int32_t i = 0; i < count; ++i) {
      const int8_t *from = b + c + i;
      int32_t sum = 0;
      for (const int8_t *end = to + inner; to < end; from += b_stride) {
        sum += *to++ = *from;
      }
      b_sums[i] = sum;
    }
    for (int32_t r = 0; r < m; ++r) {
      row_product(p, a + r * a_stride, scratch, inner, b_sums, count, inner,
                  y + r * y_stride + c);
    }
  }
}

#endif

/* ---- Linear attention ---- */

/* Rows of four columns of S. `down` promises a shift to the right. */
static inline __attribute__((always_inline)) void ask_columns(
    const kws_batch_matmul_t *p, int down, const kws_linear_term_t *asking,
    const kws_linear_term_t *end, const int32_t *columns, int32_t *asked) {
  const int32_t multiplier = p->multiplier, shift = p->shift, right = -shift;
  const int32_t half = down ? 1 << (right - 1) : 0;
  /* Less the zero point, as `mix` reads it, so clamped. */
  const int32_t low = INT8_MIN - p->output_zero_point;
  const int32_t high = INT8_MAX - p->output_zero_point;
  for (; asking < end; ++asking) {
    const int32_t *row = columns + asking->offset;
    const int32_t query = asking->value;
    for (int32_t c = 0; c < 4; ++c) {
      const int32_t value = down ? kws_requantize_small(row[c], multiplier, half, right)
                                 : kws_requantize(row[c], multiplier, shift);
      asked[c] += query * kws_clamp(value, low, high);
    }
  }
}

void kws_linear_columns(const kws_linear_attention_t *p,
                        const kws_linear_term_t *moving, int32_t moving_count,
                        const kws_linear_term_t *asking, int32_t asking_count,
                        const uint32_t *values, int32_t *columns, int8_t *mixed) {
  const int32_t width = p->width;
  for (int32_t c = 0; c < width; c += 4, columns += 4 * width) {
    int32_t newest[4], oldest[4], asked[4] = {0, 0, 0, 0};
    for (int32_t i = 0; i < 4; ++i) {
      newest[i] = (int16_t)values[c + i];
      oldest[i] = (int32_t)values[c + i] >> 16;
    }
    const kws_linear_term_t *end = moving + moving_count;
    for (const kws_linear_term_t *term = moving; term < end; ++term) {
      int32_t *row = columns + term->offset;
      const int32_t key = (int16_t)term->value, leaving = term->value >> 16;
      for (int32_t i = 0; i < 4; ++i) row[i] += key * newest[i] + leaving * oldest[i];
    }
    end = asking + asking_count;
    if (p->state.shift < 0) {
      ask_columns(&p->state, 1, asking, end, columns, asked);
    } else {
      ask_columns(&p->state, 0, asking, end, columns, asked);
    }
    const int32_t part = kws_min(width - c, 4);
    for (int32_t i = 0; i < part; ++i) mixed[c + i] = finish_product(&p->mix, asked[i]);
  }
}

/* ---- Attention ---- */

/* scratch: sums of K's rows [heads, tokens], sums of VT's rows [width], a score row. */

void kws_attention_prepare(const kws_attention_t *p, int8_t *k, int8_t *v_transposed,
                           void *scratch) {
  const int32_t tokens = p->tokens;
  const int32_t width = p->heads * p->head_dim;
  int32_t *sums = scratch;
  for (int32_t column = 0; column < width; column += p->head_dim) {
    for (int32_t t = 0; t < tokens; ++t) {
      *sums++ = kws_sum_s8(k + t * width + column, p->head_dim);
    }
  }
  for (int32_t d = 0; d < width; ++d) {
    *sums++ = kws_sum_s8(v_transposed + d * KWS_ATTENTION_V_STRIDE(tokens), tokens);
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

/* ---- Element-wise ---- */

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  if (p->x1_factor != 0) {
    kws_add_linear_s8(p, shape, x1, x2, y);
  } else {
    kws_add_any_s8(p, shape, x1, x2, y);
  }
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

void kws_sum_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int32_t *sums) {
  const int32_t n = rows * columns;
  for (int32_t c = 0; c < columns; ++c) {
    int32_t sum = 0;
    for (const int8_t *at = x + c, *end = x + n; at < end; at += columns) sum += *at;
    sums[c] = sum;
  }
}

#endif
