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

/* ---- Requantisation ---- */

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

/* The same with one multiplier and shift for all lanes, the shift at most 0. */
static inline int32x4_t requantize_down(int32x4_t value, int32_t multiplier,
                                        int32_t shift) {
  const int32x4_t product = vqrdmulhq_n_s32(value, multiplier);
  const int32x4_t away = vandq_s32(vshrq_n_s32(product, 31), vdupq_n_s32(shift >> 31));
  return vrshlq_n_s32(vaddq_s32(product, away), shift);
}

/* The same with any shift. */
static inline int32x4_t requantize_all(int32x4_t value, int32_t multiplier,
                                       int32_t shift) {
  if (shift > 0) return vqrdmulhq_n_s32(vshlq_r_s32(value, shift), multiplier);
  return requantize_down(value, multiplier, shift);
}

static inline int32x4_t clamp(int32x4_t value, int32_t low, int32_t high) {
  return vminq_s32(vmaxq_s32(value, vdupq_n_s32(low)), vdupq_n_s32(high));
}

/* ---- Four dot products ---- */

/* Four rows; where there are fewer, the first again. */
typedef struct {
  const int8_t *row0, *row1, *row2, *row3;
} rows_t;

static inline rows_t rows_4(const int8_t *rows, int32_t stride, int32_t count) {
  const rows_t result = {rows, count > 1 ? rows + stride : rows,
                         count > 2 ? rows + 2 * stride : rows,
                         count > 3 ? rows + 3 * stride : rows};
  return result;
}

/* Lane i: sum_k x[k] * row i [k]. A low-overhead loop with tail predication: 10
 * instructions for 64 MACs, which compilers do not find. */
static inline int32x4_t dot_4(const int8_t *x, rows_t rows, int32_t n) {
  int32_t sum0, sum1, sum2, sum3;
  int32x4_t sums;
  __asm volatile(
      "  dlstp.8 lr, %[n]\n"
      "  mov %[sum0], #0\n"
      "  mov %[sum1], #0\n"
      "  mov %[sum2], #0\n"
      "  mov %[sum3], #0\n"
      "1:\n"
      "  vldrb.8 q0, [%[x]], #16\n"
      "  vldrb.8 q1, [%[row0]], #16\n"
      "  vmladava.s8 %[sum0], q0, q1\n"
      "  vldrb.8 q2, [%[row1]], #16\n"
      "  vmladava.s8 %[sum1], q0, q2\n"
      "  vldrb.8 q1, [%[row2]], #16\n"
      "  vmladava.s8 %[sum2], q0, q1\n"
      "  vldrb.8 q2, [%[row3]], #16\n"
      "  vmladava.s8 %[sum3], q0, q2\n"
      "  letp lr, 1b\n"
      "  vmov %q[sums][2], %q[sums][0], %[sum0], %[sum2]\n"
      "  vmov %q[sums][3], %q[sums][1], %[sum1], %[sum3]\n"
      : [x] "+&r"(x), [row0] "+&r"(rows.row0), [row1] "+&r"(rows.row1),
        [row2] "+&r"(rows.row2), [row3] "+&r"(rows.row3), [sum0] "=&Te"(sum0),
        [sum1] "=&Te"(sum1), [sum2] "=&Te"(sum2), [sum3] "=&Te"(sum3), [sums] "=w"(sums)
      : [n] "r"(n)
      : "lr", "q0", "q1", "q2", "memory");
  return sums;
}

int32_t kws_sum_s8(const int8_t *x, int32_t n) {
  int32_t sum = 0;
  for (; n >= 16; n -= 16, x += 16) sum = vaddvaq_s8(sum, vld1q_s8(x));
  if (n > 0) sum = vaddvaq_s8(sum, vld1q_z_s8(x, vctp8q((uint32_t)n)));
  return sum;
}

void kws_sum_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int32_t *sums) {
  for (int32_t c = 0; c < columns; c += LANES) {
    const mve_pred16_t lanes = vctp32q((uint32_t)(columns - c));
    const int8_t *at = x + c;
    int32x4_t sum = vdupq_n_s32(0);
    for (int32_t r = 0; r < rows; ++r, at += columns) {
      sum = vaddq_s32(sum, vldrbq_z_s32(at, lanes));
    }
    vstrwq_p_s32(sums + c, sum, lanes);
  }
}

/* ---- FULLY_CONNECTED ---- */

/* Rows against 4 * groups outputs from the first on; p is ordinary. Assembly because
 * a group needs all registers but two; around the loop of dot_4 it has 25 instructions.
 *   r0 x, r1 r3 r5 r12 four rows of weights, r2 y, r4 r6 r8 r10 sums, r7 shifts,
 *   r9 biases, r11 multipliers, q3 zero point
 *   on the stack: x, the row's end in y, the next rows of weights, inputs; p, first,
 *   4 * groups, and from one row's end in y to the next row */
void kws_mve_rows(const kws_fully_connected_t *p, const int8_t *x, int8_t *y,
                  int32_t first, int32_t groups, int32_t rows);
_Static_assert(offsetof(kws_fully_connected_t, inputs) == 0 &&
                   offsetof(kws_fully_connected_t, weights) == 4 &&
                   offsetof(kws_fully_connected_t, bias) == 8 &&
                   offsetof(kws_fully_connected_t, shift) == 16 &&
                   offsetof(kws_fully_connected_t, output_zero_point) == 20,
               "the assembly knows where they lie");

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_mve_rows, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_mve_rows\n"
    "  .type kws_mve_rows, %function\n"
    "  .thumb_func\n"
    "kws_mve_rows:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, #36\n"
    "  ldr r4, [sp, #72]\n"
    "  ldrh r10, [r0]\n"
    "  ldrh r5, [r0, #2]\n"
    "  ldrsh r6, [r0, #20]\n"
    "  vdup.32 q3, r6\n"
    "  lsl r4, r4, #2\n"
    "  sub r5, r5, r4\n"
    "  strd r0, r3, [sp, #16]\n"
    "  strd r4, r5, [sp, #24]\n"
    "0:\n"
    "  ldrd r5, r9, [r0, #4]\n"
    "  ldrd r11, r7, [r0, #12]\n"
    "  add r4, r2\n"
    "  mla r5, r3, r10, r5\n"
    "  add r9, r9, r3, lsl #2\n"
    "  add r11, r11, r3, lsl #2\n"
    "  add r7, r3\n"
    "  strd r1, r4, [sp]\n"
    "  strd r5, r10, [sp, #8]\n"
    "1:\n"
    "  ldrd r1, r10, [sp, #8]\n"
    "  ldr r0, [sp]\n"
    "  add r3, r1, r10\n"
    "  add r5, r3, r10\n"
    "  add r12, r5, r10\n"
    "  add r4, r12, r10\n"
    "  str r4, [sp, #8]\n"
    "  dlstp.8 lr, r10\n"
    "  ldrd r4, r6, [r9], #8\n"
    "  ldrd r8, r10, [r9], #8\n"
    "2:\n"
    "  vldrb.8 q0, [r0], #16\n"
    "  vldrb.8 q1, [r1], #16\n"
    "  vmladava.s8 r4, q0, q1\n"
    "  vldrb.8 q2, [r3], #16\n"
    "  vmladava.s8 r6, q0, q2\n"
    "  vldrb.8 q1, [r5], #16\n"
    "  vmladava.s8 r8, q0, q1\n"
    "  vldrb.8 q2, [r12], #16\n"
    "  vmladava.s8 r10, q0, q2\n"
    "  letp lr, 2b\n"
    "  vldrw.32 q1, [r11], #16\n"
    "  vmov q0[2], q0[0], r4, r8\n"
    "  vmov q0[3], q0[1], r6, r10\n"
    "  vqrdmulh.s32 q0, q0, q1\n"
    "  vldrb.s32 q2, [r7], #4\n"
    "  vshr.s32 q1, q0, #31\n" /* halves away from zero: see requantize */
    "  vadd.i32 q0, q0, q1\n"
    "  vrshl.s32 q0, q0, q2\n"
    "  vadd.i32 q0, q0, q3\n"
    "  vqmovnb.s32 q0, q0\n"
    "  vqmovnb.s16 q0, q0\n"
    "  vstrb.32 q0, [r2], #4\n"
    "  ldr r4, [sp, #4]\n"
    "  cmp r2, r4\n"
    "  bne 1b\n"
    "  ldr r4, [sp, #76]\n"
    "  subs r4, #1\n"
    "  str r4, [sp, #76]\n"
    "  ldrd r0, r3, [sp, #16]\n"
    "  ldrd r4, r5, [sp, #24]\n"
    "  ldr r1, [sp]\n"
    "  ldr r10, [sp, #12]\n"
    "  add r2, r5\n" /* no flags */
    "  add r1, r10\n"
    "  bne 0b\n"
    "  add sp, #36\n"
    "  pop {r4-r11, pc}\n"
    "  .size kws_mve_rows, . - kws_mve_rows\n"
    "  .popsection\n");

/* Rows of x against up to 4 outputs; element (r, o) goes to
 * y[r * row_step + o * output_step]. */
static void outputs_4(const kws_fully_connected_t *p, const int8_t *x, int32_t rows,
                      int32_t output, int8_t *y, int32_t row_step,
                      int32_t output_step) {
  const int32_t inputs = p->inputs;
  const int32_t count = kws_min(p->outputs - output, LANES);
  const mve_pred16_t lanes = vctp32q((uint32_t)count);
  const rows_t weights = rows_4(p->weights + output * inputs, inputs, count);
  const int32x4_t bias = vldrwq_z_s32(p->bias + output, lanes);
  const int32x4_t multiplier = vldrwq_z_s32(p->multiplier + output, lanes);
  const int32x4_t shift = vldrbq_z_s32(p->shift + output, lanes);
  const int32x4_t low = vdupq_n_s32(p->activation_min);
  const int32x4_t high = vdupq_n_s32(p->activation_max);
  const int32_t zero_point = p->output_zero_point;
  const uint32x4_t offsets = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)output_step);
  y += output * output_step;
  for (; rows > 0; --rows) {
    int32x4_t value = vaddq_s32(dot_4(x, weights, inputs), bias);
    value = requantize(value, multiplier, shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, zero_point), low), high);
    vstrbq_scatter_offset_p_s32(y, offsets, value, lanes);
    x += inputs;
    y += row_step;
  }
}

static void fully_connected(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step) {
  const int32_t outputs = p->outputs;
  if (!p->ordinary || output_step != 1 || outputs < LANES || rows < 1) {
    for (int32_t o = 0; o < outputs; o += LANES) {
      outputs_4(p, x, rows, o, y, row_step, output_step);
    }
    return;
  }
  kws_mve_rows(p, x, y, 0, outputs / LANES, rows);
  if (outputs % LANES != 0) { /* reaches back over outputs that are done */
    const int32_t last = outputs - LANES;
    kws_mve_rows(p, x, y + last, last, 1, rows);
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

#define CHANNELS 16

/* Channels of a pixel, 16 at a time, as far as shifts are to the right; p has 16 or
 * more. Returns how many are done. Assembly because compilers spill some of the 8
 * vectors.
 *   r0 taps, r4 y, r5 zero point, r6 r7 clamp, r8 the last 16 channels, r9 weights
 *   r10 channel, r11 p, r12 all taps
 *
 * VMULLB takes even lanes, VMULLT odd ones; two taps' products together fit 16 bits (no
 * weight is -128); VMOVLB, VMOVLT halve again. So q0 to q3 have channels 0 4 8 12, then
 * 1 5 9 13 and so on, as VLD4 loads and VQMOVN puts together again: 23 instructions for
 * 32 MACs. The last 16 channels reach back over some that are done. */
int32_t kws_mve_depthwise(const kws_fully_connected_t *p, const int8_t *const *taps,
                          int8_t *y);
_Static_assert(offsetof(kws_fully_connected_t, weights) == 4 &&
                   offsetof(kws_fully_connected_t, shift) == 16 &&
                   offsetof(kws_fully_connected_t, activation_max) == 23,
               "the assembly knows where they lie");

#define TO_SUMS(even, odd, rest) \
  "  vmovlb.s16 " rest ", " even \
  "\n"                           \
  "  vadd.i32 q0, q0, " rest     \
  "\n"                           \
  "  vmovlt.s16 " even ", " even \
  "\n"                           \
  "  vadd.i32 q2, q2, " even     \
  "\n"                           \
  "  vmovlb.s16 " rest ", " odd  \
  "\n"                           \
  "  vadd.i32 q1, q1, " rest     \
  "\n"                           \
  "  vmovlt.s16 " odd ", " odd   \
  "\n"                           \
  "  vadd.i32 q3, q3, " odd "\n"

/* Halves away from zero: see requantize. */
#define AWAY(sums)       \
  "  vshr.s32 q4, " sums \
  ", #31\n"              \
  "  vadd.i32 " sums ", " sums ", q4\n"

__asm("  .syntax unified\n"
      "  .thumb\n"
      "  .pushsection .text.kws_mve_depthwise, \"ax\", %progbits\n"
      "  .align 2\n"
      "  .global kws_mve_depthwise\n"
      "  .type kws_mve_depthwise, %function\n"
      "  .thumb_func\n"
      "kws_mve_depthwise:\n"
      "  push {r3-r11, lr}\n"
      "  vpush {d8-d15}\n"
      "  mov r11, r0\n"
      "  mov r12, r1\n"
      "  mov r4, r2\n"
      "  mov r10, #0\n"
      "  ldrh r8, [r11, #2]\n"
      "  ldr r9, [r11, #4]\n"
      "  ldrsh r5, [r11, #20]\n"
      "  ldrsb r7, [r11, #22]\n"
      "  ldrsb r6, [r11, #23]\n"
      "  sub r8, #16\n"
      "1:\n"
      "  ldr r2, [r11, #8]\n"
      "  ldrh r1, [r11]\n"
      "  mov r0, r12\n"
      "  add r2, r2, r10, lsl #2\n"
      "  lsr r1, #1\n"
      "  vld40.32 {q0, q1, q2, q3}, [r2]\n"
      "  vld41.32 {q0, q1, q2, q3}, [r2]\n"
      "  vld42.32 {q0, q1, q2, q3}, [r2]\n"
      "  vld43.32 {q0, q1, q2, q3}, [r2]\n"
      "  wls lr, r1, 3f\n"
      "2:\n"
      "  ldrd r1, r2, [r0], #8\n"
      "  add r1, r10\n"
      "  add r2, r10\n"
      "  vldrb.8 q4, [r1]\n"
      "  vldrb.8 q5, [r9], #16\n"
      "  vmullb.s8 q6, q4, q5\n"
      "  vldrb.8 q7, [r2]\n"
      "  vmullt.s8 q4, q4, q5\n"
      "  vldrb.8 q5, [r9], #16\n"
      "  vmullb.s8 q7, q7, q5\n"
      "  vadd.i16 q6, q6, q7\n"
      "  vldrb.8 q7, [r2]\n"
      "  vmullt.s8 q7, q7, q5\n"
      "  vadd.i16 q4, q4, q7\n" TO_SUMS("q6", "q4", "q5")
      "  le lr, 2b\n"
      "3:\n"
      "  ldrh r1, [r11]\n"
      "  lsls r1, #31\n"
      "  beq 4f\n"
      "  ldr r1, [r0]\n"
      "  add r1, r10\n"
      "  vldrb.8 q4, [r1]\n"
      "  vldrb.8 q5, [r9], #16\n"
      "  vmullb.s8 q6, q4, q5\n"
      "  vmullt.s8 q4, q4, q5\n" TO_SUMS("q6", "q4", "q5")
      "4:\n"
      "  ldrd r2, r3, [r11, #12]\n"
      "  mvn r1, #127\n"
      "  add r3, r10\n"
      "  vldrb.8 q4, [r3]\n"
      "  vmaxv.s8 r1, q4\n"
      "  tst r1, #128\n"
      "  beq 5f\n"
      "  add r2, r2, r10, lsl #2\n"
      "  vld40.32 {q4, q5, q6, q7}, [r2]\n"
      "  vld41.32 {q4, q5, q6, q7}, [r2]\n"
      "  vld42.32 {q4, q5, q6, q7}, [r2]\n"
      "  vld43.32 {q4, q5, q6, q7}, [r2]\n"
      "  vqrdmulh.s32 q0, q0, q4\n"
      "  vqrdmulh.s32 q1, q1, q5\n"
      "  vqrdmulh.s32 q2, q2, q6\n"
      "  vqrdmulh.s32 q3, q3, q7\n" AWAY("q0") AWAY("q1") AWAY("q2") AWAY("q3")
      "  vldrb.8 q4, [r3]\n"
      "  vmovlb.s8 q5, q4\n"
      "  vmovlt.s8 q4, q4\n"
      "  vmovlb.s16 q6, q5\n"
      "  vmovlb.s16 q7, q4\n"
      "  vrshl.s32 q0, q0, q6\n"
      "  vmovlt.s16 q5, q5\n"
      "  vrshl.s32 q1, q1, q7\n"
      "  vmovlt.s16 q4, q4\n"
      "  vrshl.s32 q2, q2, q5\n"
      "  vrshl.s32 q3, q3, q4\n"
      "  vqmovnb.s32 q0, q0\n"
      "  vqmovnb.s32 q1, q1\n"
      "  vqmovnt.s32 q0, q2\n"
      "  vqmovnt.s32 q1, q3\n"
      "  vqadd.s16 q0, q0, r5\n"
      "  vqadd.s16 q1, q1, r5\n"
      "  vqmovnb.s16 q0, q0\n"
      "  vqmovnt.s16 q0, q1\n"
      "  vdup.8 q2, r7\n"
      "  vdup.8 q3, r6\n"
      "  vmax.s8 q0, q0, q2\n"
      "  vmin.s8 q0, q0, q3\n"
      "  add r1, r4, r10\n"
      "  vstrb.8 q0, [r1]\n"
      "  cmp r10, r8\n"
      "  add r10, #16\n"
      "  beq 5f\n"
      "  cmp r10, r8\n"
      "  it gt\n"
      "  movgt r10, r8\n"
      "  b 1b\n"
      "5:\n"
      "  mov r0, r10\n"
      "  vpop {d8-d15}\n"
      "  pop {r3-r11, pc}\n"
      "  .size kws_mve_depthwise, . - kws_mve_depthwise\n"
      "  .popsection\n");

void kws_depthwise_pixel(const kws_fully_connected_t *p, const int8_t *const *taps,
                         int8_t *y) {
  const int32_t channels = p->outputs;
  int32_t c = channels >= CHANNELS ? kws_mve_depthwise(p, taps, y) : 0;
  int32_t first = c;
  const int8_t *group =
      p->weights + (c + CHANNELS - 1) / CHANNELS * CHANNELS * p->inputs;
  for (; c < channels; ++c) {
    if (c == first + CHANNELS) {
      group += CHANNELS * p->inputs;
      first = kws_min(c, channels - CHANNELS);
    }
    int32_t sum = p->bias[c];
    for (int32_t t = 0; t < p->inputs; ++t) {
      sum += taps[t][c] * group[CHANNELS * t + c - first];
    }
    sum = kws_requantize(sum, p->multiplier[c], p->shift[c]) + p->output_zero_point;
    y[c] = (int8_t)kws_clamp(sum, p->activation_min, p->activation_max);
  }
}

/* ---- BATCH_MATMUL ---- */

/* One row of a against n rows of b. sum (a - za) * (b - zb) is
 * sum a * b - za * sum b - zb * sum a + inner * za * zb. */
static void row_product(const kws_batch_matmul_t *p, const int8_t *a, const int8_t *b,
                        int32_t b_stride, const int32_t *b_sums, int32_t n,
                        int32_t inner, int8_t *y) {
  const int32_t a_zero_point = -p->a_zero_point;
  const int32_t constant =
      p->b_zero_point * (inner * p->a_zero_point - kws_sum_s8(a, inner));
  const int32_t multiplier = p->multiplier;
  const int32_t shift = p->shift;
  const int32_t zero_point = p->output_zero_point;
  const int32x4_t low = vdupq_n_s32(p->activation_min);
  const int32x4_t high = vdupq_n_s32(p->activation_max);
  for (; n >= LANES; n -= LANES) {
    int32x4_t value = dot_4(a, rows_4(b, b_stride, LANES), inner);
    value = vmlaq_n_s32(value, vld1q_s32(b_sums), a_zero_point);
    value = requantize_all(vaddq_n_s32(value, constant), multiplier, shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, zero_point), low), high);
    vstrbq_s32(y, value);
    b += LANES * b_stride;
    b_sums += LANES;
    y += LANES;
  }
  if (n > 0) {
    const mve_pred16_t lanes = vctp32q((uint32_t)n);
    int32x4_t value = dot_4(a, rows_4(b, b_stride, n), inner);
    value = vmlaq_n_s32(value, vldrwq_z_s32(b_sums, lanes), a_zero_point);
    value = requantize_all(vaddq_n_s32(value, constant), multiplier, shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, zero_point), low), high);
    vstrbq_p_s32(y, value, lanes);
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch) {
  /* Of as many rows of b at a time as the scratch has room for sums. */
  int32_t *b_sums = scratch;
  const int32_t room = 2 * KWS_ROUND_UP(inner, 4);
  for (int32_t c = 0; c < n; c += room) {
    const int32_t count = kws_min(n - c, room);
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

/* Lane i: sum_k of row i of a panel times column b of rows step / 8 apart. In the panel
 * 8 elements of each row follow in turn. */
static inline int32x4_t gathered_dot_4(const int16_t *panel, const int8_t *b,
                                       uint16x8_t offsets, int32_t step, int32_t n) {
  int32_t sum0, sum1, sum2, sum3;
  int32x4_t sums;
  __asm volatile(
      "  dlstp.16 lr, %[n]\n"
      "  mov %[sum0], #0\n"
      "  mov %[sum1], #0\n"
      "  mov %[sum2], #0\n"
      "  mov %[sum3], #0\n"
      "1:\n"
      "  vldrb.s16 q0, [%[b], %q[offsets]]\n"
      "  add %[b], %[step]\n"
      "  vldrh.16 q1, [%[panel]], #16\n"
      "  vmladava.s16 %[sum0], q0, q1\n"
      "  vldrh.16 q2, [%[panel]], #16\n"
      "  vmladava.s16 %[sum1], q0, q2\n"
      "  vldrh.16 q1, [%[panel]], #16\n"
      "  vmladava.s16 %[sum2], q0, q1\n"
      "  vldrh.16 q2, [%[panel]], #16\n"
      "  vmladava.s16 %[sum3], q0, q2\n"
      "  letp lr, 1b\n"
      "  vmov %q[sums][2], %q[sums][0], %[sum0], %[sum2]\n"
      "  vmov %q[sums][3], %q[sums][1], %[sum1], %[sum3]\n"
      : [panel] "+&r"(panel), [b] "+&r"(b), [sum0] "=&Te"(sum0), [sum1] "=&Te"(sum1),
        [sum2] "=&Te"(sum2), [sum3] "=&Te"(sum3), [sums] "=w"(sums)
      : [n] "r"(n), [step] "r"(step), [offsets] "w"(offsets)
      : "lr", "q0", "q1", "q2", "memory");
  return sums;
}

/* Lane i: sum_k of a row times column i of four, rows step / 8 apart. */
static inline int32x4_t gathered_columns_4(const int16_t *row, rows_t columns,
                                           uint16x8_t offsets, int32_t step,
                                           int32_t n) {
  int32_t sums[LANES] = {0, 0, 0, 0};
  for (; n > 0; n -= 8, row += 8) {
    const mve_pred16_t rest = vctp16q((uint32_t)n);
    const int16x8_t x = vld1q_s16(row);
    sums[0] = vmladavaq_s16(sums[0], x,
                            vldrbq_gather_offset_z_s16(columns.row0, offsets, rest));
    sums[1] = vmladavaq_s16(sums[1], x,
                            vldrbq_gather_offset_z_s16(columns.row1, offsets, rest));
    sums[2] = vmladavaq_s16(sums[2], x,
                            vldrbq_gather_offset_z_s16(columns.row2, offsets, rest));
    sums[3] = vmladavaq_s16(sums[3], x,
                            vldrbq_gather_offset_z_s16(columns.row3, offsets, rest));
    columns.row0 += step;
    columns.row1 += step;
    columns.row2 += step;
    columns.row3 += step;
  }
  return vld1q_s32(sums);
}

/* x less a zero point, in eights. Returns the sum. */
static int32_t widen_less(const int8_t *x, int32_t n, int32_t zero_point, int32_t apart,
                          int16_t *to) {
  int32_t sum = 0;
  for (; n > 0; n -= 8, x += 8, to += apart) {
    const mve_pred16_t rest = vctp16q((uint32_t)n);
    const int16x8_t wide = vsubq_n_s16(vldrbq_z_s16(x, rest), (int16_t)zero_point);
    vst1q_s16(to, wide);
    sum = vaddvaq_p_s16(sum, wide, rest);
  }
  return sum;
}

/* Four columns of b at a time. */
static void row_by_columns(const kws_batch_matmul_t *p, const int8_t *a,
                           const int8_t *b, int32_t b_stride, int32_t n, int32_t inner,
                           int8_t *y, int16_t *row) {
  const int32_t sum = widen_less(a, inner, p->a_zero_point, 8, row);
  const int32_t correction = -p->b_zero_point * sum;
  const uint16x8_t offsets = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)b_stride);
  const int32x4_t low = vdupq_n_s32(p->activation_min);
  const int32x4_t high = vdupq_n_s32(p->activation_max);
  for (int32_t c = 0; c < n; c += LANES) {
    const rows_t columns = rows_4(b + c, 1, n - c);
    int32x4_t value = gathered_columns_4(row, columns, offsets, 8 * b_stride, inner);
    value = requantize_all(vaddq_n_s32(value, correction), p->multiplier, p->shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, p->output_zero_point), low), high);
    vstrbq_p_s32(y + c, value, vctp32q((uint32_t)(n - c)));
  }
}

/* Four rows of a at a time are widened less their zero point. */
void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch) {
  int16_t *const panel = scratch;
  if (m == 1) {
    row_by_columns(p, a, b, b_stride, n, inner, y, panel);
    return;
  }
  const uint16x8_t column = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)b_stride);
  const uint32x4_t row = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)y_stride);
  const int32_t multiplier = p->multiplier, shift = p->shift;
  const int32_t a_zero_point = p->a_zero_point, zero_point = p->output_zero_point;
  const int32x4_t low = vdupq_n_s32(p->activation_min);
  const int32x4_t high = vdupq_n_s32(p->activation_max);
  for (; m > 0; m -= LANES, a += LANES * a_stride, y += LANES * y_stride) {
    const mve_pred16_t lanes = vctp32q((uint32_t)m);
    int32_t corrections[LANES] = {0, 0, 0, 0};
    for (int32_t r = 0; r < kws_min(m, LANES); ++r) {
      corrections[r] =
          -p->b_zero_point *
          widen_less(a + r * a_stride, inner, a_zero_point, 8 * LANES, panel + 8 * r);
    }
    const int32x4_t correction = vld1q_s32(corrections);
    for (int32_t c = 0; c < n; ++c) {
      int32x4_t value = gathered_dot_4(panel, b + c, column, 8 * b_stride, inner);
      value = requantize_all(vaddq_s32(value, correction), multiplier, shift);
      value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, zero_point), low), high);
      vstrbq_scatter_offset_p_s32(y + c, row, value, lanes);
    }
  }
}

/* ---- Linear attention ---- */

void kws_linear_columns(const kws_linear_attention_t *p,
                        const kws_linear_term_t *moving, int32_t moving_count,
                        const kws_linear_term_t *asking, int32_t asking_count,
                        const uint32_t *values, int32_t *columns, int8_t *mixed) {
  const int32_t width = p->width;
  const int32_t multiplier = p->state.multiplier, shift = p->state.shift;
  /* Less the zero point, as `mix` reads it, so clamped. */
  const int32x4_t low = vdupq_n_s32(INT8_MIN - p->state.output_zero_point);
  const int32x4_t high = vdupq_n_s32(INT8_MAX - p->state.output_zero_point);
  for (int32_t c = 0; c < width; c += LANES, columns += LANES * width) {
    const mve_pred16_t lanes = vctp32q((uint32_t)(width - c));
    const int32x4_t pairs = vreinterpretq_s32_u32(vld1q_u32(values + c));
    const int32x4_t newest = vshrq_n_s32(vshlq_n_s32(pairs, 16), 16);
    const int32x4_t oldest = vshrq_n_s32(pairs, 16);
    const kws_linear_term_t *end = moving + moving_count;
    for (const kws_linear_term_t *term = moving; term < end; ++term) {
      int32_t *row = columns + term->offset;
      const int32x4_t sum = vmlaq_n_s32(vld1q_s32(row), newest, (int16_t)term->value);
      vst1q_s32(row, vmlaq_n_s32(sum, oldest, term->value >> 16));
    }
    int32x4_t asked = vdupq_n_s32(0);
    end = asking + asking_count;
    for (const kws_linear_term_t *term = asking; term < end; ++term) {
      int32x4_t sum = vld1q_s32(columns + term->offset);
      sum = requantize_all(sum, multiplier, shift);
      sum = vminq_s32(vmaxq_s32(sum, low), high);
      asked = vmlaq_n_s32(asked, sum, term->value);
    }
    asked = requantize_all(asked, p->mix.multiplier, p->mix.shift);
    asked = clamp(vaddq_n_s32(asked, p->mix.output_zero_point), INT8_MIN, INT8_MAX);
    vstrbq_p_s32(mixed + c, asked, lanes);
  }
}

/* ---- SOFTMAX ---- */

static inline int32x4_t exponentials(const int32_t *table, int32_t largest,
                                     int32x4_t x) {
  const int32x4_t steps = vsubq_s32(vdupq_n_s32(largest), x);
  return vldrwq_gather_shifted_offset_s32(table, vreinterpretq_u32_s32(steps));
}

void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y) {
  const int32_t *table = p->exp_table;
  const int32_t whole = columns / LANES * LANES;
  const mve_pred16_t rest = vctp32q((uint32_t)(columns - whole));
  int8_t largest = INT8_MIN;
  int32_t c = 0;
  for (; c + 16 <= columns; c += 16) largest = vmaxvq_s8(largest, vld1q_s8(x + c));
  if (c < columns) {
    const mve_pred16_t lanes = vctp8q((uint32_t)(columns - c));
    largest = vmaxvq_p_s8(largest, vld1q_z_s8(x + c, lanes), lanes);
  }
  int32_t sum = 0; /* Q12.19 */
  for (c = 0; c < whole; c += LANES) {
    const int32x4_t value = exponentials(table, largest, vldrbq_s32(x + c));
    sum = vaddvaq_s32(sum, vrshrq_n_s32(value, 12));
  }
  int32x4_t last = vdupq_n_s32(0);
  if (whole < columns) {
    const int32x4_t steps =
        vsubq_s32(vdupq_n_s32(largest), vldrbq_z_s32(x + whole, rest));
    last =
        vldrwq_gather_shifted_offset_z_s32(table, vreinterpretq_u32_s32(steps), rest);
    sum = vaddvaq_s32(sum, vrshrq_n_s32(last, 12));
  }
  int32_t exponent;
  const int32_t reciprocal = kws_softmax_reciprocal((uint32_t)sum, &exponent);
  const int32x4_t high = vdupq_n_s32(INT8_MAX);
  for (c = 0; c < whole; c += LANES) {
    int32x4_t value = exponentials(table, largest, vldrbq_s32(x + c));
    value = vrshlq_n_s32(vqrdmulhq_n_s32(value, reciprocal), -exponent);
    vstrbq_s32(y + c, vminq_s32(vaddq_n_s32(value, KWS_SOFTMAX_ZERO_POINT), high));
  }
  if (whole < columns) {
    last = vrshlq_n_s32(vqrdmulhq_n_s32(last, reciprocal), -exponent);
    last = vminq_s32(vaddq_n_s32(last, KWS_SOFTMAX_ZERO_POINT), high);
    vstrbq_p_s32(y + whole, last, rest);
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

#define ADD_LEFT_SHIFT                20
#define SQUARED_DIFFERENCE_LEFT_SHIFT 7

/* Four elements less the zero point, or one for all lanes. */
static inline int32x4_t load(const int8_t *x, int32_t column, int32_t step,
                             int32_t zero_point, mve_pred16_t lanes) {
  const int32x4_t value = step != 0 ? vldrbq_z_s32(x + column, lanes) : vdupq_n_s32(*x);
  return vsubq_n_s32(value, zero_point);
}

static inline int32x4_t scale_addend(int32x4_t value, int32_t left, int32_t multiplier,
                                     int32_t shift) {
  return requantize_down(vshlq_r_s32(value, left), multiplier, shift);
}

static void add_any(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y) {
  const kws_add_t q = *p;
  const kws_broadcast_t s = *shape;
  const int32_t sign = q.subtract ? -1 : 1;
  for (int32_t r = 0; r < s.rows; ++r) {
    for (int32_t c = 0; c < s.columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(s.columns - c));
      int32x4_t sum = load(x1, c, s.x1_column_step, q.x1_zero_point, lanes);
      int32x4_t other = load(x2, c, s.x2_column_step, q.x2_zero_point, lanes);
      sum = scale_addend(sum, ADD_LEFT_SHIFT, q.x1_multiplier, q.x1_shift);
      other = scale_addend(other, ADD_LEFT_SHIFT, q.x2_multiplier, q.x2_shift);
      sum = vmlaq_n_s32(sum, other, sign);
      sum = requantize_down(sum, q.output_multiplier, q.output_shift);
      sum = clamp(vaddq_n_s32(sum, q.output_zero_point), q.activation_min,
                  q.activation_max);
      vstrbq_p_s32(y + c, sum, lanes);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

/* The last requantisation of ADD and MUL: to the right, no clamp of its own. */
typedef struct {
  int32_t multiplier, shift, zero_point;
} output_t;

/* Eight values, as even and odd lanes, to y. */
static inline __attribute__((always_inline)) void finish_8(output_t o, int32x4_t even,
                                                           int32x4_t odd, int8_t *y,
                                                           int32_t rest) {
  even = vqrdmulhq_n_s32(even, o.multiplier);
  odd = vqrdmulhq_n_s32(odd, o.multiplier);
  even = vrshlq_n_s32(vaddq_s32(even, vshrq_n_s32(even, 31)), o.shift);
  odd = vrshlq_n_s32(vaddq_s32(odd, vshrq_n_s32(odd, 31)), o.shift);
  int16x8_t value = vreinterpretq_s16_s32(even); /* both halves are written */
  value = vqmovntq_s32(vqmovnbq_s32(value, even), odd);
  value = vqaddq_n_s16(value, (int16_t)o.zero_point);
  value = vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(value), value));
  if (rest >= 8) {
    vstrbq_s16(y, value);
  } else {
    vstrbq_p_s16(y, value, vctp16q((uint32_t)rest));
  }
}

static inline __attribute__((always_inline)) int16x8_t load_8(const int8_t *x,
                                                              int32_t rest) {
  return rest >= 8 ? vldrbq_s16(x) : vldrbq_z_s16(x, vctp16q((uint32_t)rest));
}

/* The input of ADD whose scale is not the larger. */
typedef struct {
  int32_t constant; /* -zero point * 2^20 */
  int32_t multiplier, shift;
} scaled_t;

static inline int32x4_t scale(scaled_t s, int32x4_t x) {
  const int32x4_t value = vaddq_n_s32(vshlq_n_s32(x, ADD_LEFT_SHIFT), s.constant);
  const int32x4_t product = vqrdmulhq_n_s32(value, s.multiplier);
  return vrshlq_n_s32(vaddq_s32(product, vshrq_n_s32(product, 31)), s.shift);
}

/* Four elements of ADD: the input `unit` has multiplier 1/2 and no shift, so it is
 * unit * factor + constant. */
static inline int32x4_t add_4(scaled_t s, int32_t sign, int32x4_t x, int32x4_t unit,
                              int32_t factor, int32_t constant) {
  const int32x4_t term = vmlaq_n_s32(vdupq_n_s32(constant), unit, factor);
  return vmlaq_n_s32(term, scale(s, x), sign);
}

/* A row of it; either input may be one value (step 0). */
static void add_row(output_t o, scaled_t s, int32_t sign, const int8_t *x,
                    int32_t x_step, const int8_t *unit, int32_t unit_step,
                    int32_t factor, int32_t constant, int32_t n, int8_t *y) {
  int16x8_t x_value = vdupq_n_s16(*x), unit_value = vdupq_n_s16(*unit);
  for (; n > 0; n -= 8, x += 8 * x_step, unit += 8 * unit_step, y += 8) {
    const mve_pred16_t lanes = vctp16q((uint32_t)n);
    if (x_step) x_value = vldrbq_z_s16(x, lanes);
    if (unit_step) unit_value = vldrbq_z_s16(unit, lanes);
    finish_8(
        o,
        add_4(s, sign, vmovlbq_s16(x_value), vmovlbq_s16(unit_value), factor, constant),
        add_4(s, sign, vmovltq_s16(x_value), vmovltq_s16(unit_value), factor, constant),
        y, n);
  }
}

/* Up to eight elements of ADD as one linear form. Steps are constants, and one may be
 * 0: then `start` has that input. */
static inline __attribute__((always_inline)) void add_linear_8(
    const kws_add_t *p, int32x4_t start, const int8_t *x1, int32_t step1,
    const int8_t *x2, int32_t step2, int32_t rest, int8_t *y) {
  int32x4_t even = start, odd = start;
  if (step1 != 0) {
    const int16x8_t value = load_8(x1, rest);
    even = vmlaq_n_s32(even, vmovlbq_s16(value), p->x1_factor);
    odd = vmlaq_n_s32(odd, vmovltq_s16(value), p->x1_factor);
  }
  if (step2 != 0) {
    const int16x8_t value = load_8(x2, rest);
    even = vmlaq_n_s32(even, vmovlbq_s16(value), p->x2_factor);
    odd = vmlaq_n_s32(odd, vmovltq_s16(value), p->x2_factor);
  }
  even = vshrq_n_s32(even, KWS_LINEAR_SHIFT);
  odd = vshrq_n_s32(odd, KWS_LINEAR_SHIFT);
  int16x8_t value = vreinterpretq_s16_s32(even); /* both halves are written */
  value = vqmovntq_s32(vqmovnbq_s32(value, even), odd);
  value = vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(value), value));
  if (rest >= 8) {
    vstrbq_s16(y, value);
  } else {
    vstrbq_p_s16(y, value, vctp16q((uint32_t)rest));
  }
}

static inline __attribute__((always_inline)) void add_linear_row(
    const kws_add_t *p, const int8_t *x1, int32_t step1, const int8_t *x2,
    int32_t step2, int32_t n, int8_t *y) {
  int32_t constant = p->offset;
  if (step1 == 0) constant += *x1 * p->x1_factor;
  if (step2 == 0) constant += *x2 * p->x2_factor;
  const int32x4_t start = vdupq_n_s32(constant);
  for (; n >= 8; n -= 8, x1 += 8 * step1, x2 += 8 * step2, y += 8) {
    add_linear_8(p, start, x1, step1, x2, step2, 8, y);
  }
  if (n > 0) add_linear_8(p, start, x1, step1, x2, step2, n, y);
}

static void add_linear(const kws_add_t *p, const kws_broadcast_t *s, const int8_t *x1,
                       const int8_t *x2, int8_t *y) {
  const kws_add_t q = *p;
  for (int32_t r = 0; r < s->rows; ++r) {
    if (s->x1_column_step == 0) {
      add_linear_row(&q, x1, 0, x2, 1, s->columns, y);
    } else if (s->x2_column_step == 0) {
      add_linear_row(&q, x1, 1, x2, 0, s->columns, y);
    } else {
      add_linear_row(&q, x1, 1, x2, 1, s->columns, y);
    }
    x1 += s->x1_row_step;
    x2 += s->x2_row_step;
    y += s->columns;
  }
}

/* Does the common path do it? */
static int is_ordinary(int32_t shift, int32_t low, int32_t high) {
  return shift < 0 && low == INT8_MIN && high == INT8_MAX;
}

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  const kws_broadcast_t s = kws_flatten(shape);
  if (p->x1_factor != 0) {
    add_linear(p, &s, x1, x2, y);
    return;
  }
  const output_t o = {p->output_multiplier, p->output_shift, p->output_zero_point};
  const int32_t sign = p->subtract ? -1 : 1;
  const int unit1 = kws_is_unit(p->x1_multiplier, p->x1_shift) && p->x2_shift < 0;
  const int unit2 = kws_is_unit(p->x2_multiplier, p->x2_shift) && p->x1_shift < 0;
  if (!is_ordinary(p->output_shift, p->activation_min, p->activation_max) ||
      !(unit1 || unit2)) {
    add_any(p, &s, x1, x2, y);
    return;
  }
  const scaled_t scaled1 = {-p->x1_zero_point * (1 << ADD_LEFT_SHIFT), p->x1_multiplier,
                            p->x1_shift};
  const scaled_t scaled2 = {-p->x2_zero_point * (1 << ADD_LEFT_SHIFT), p->x2_multiplier,
                            p->x2_shift};
  const int32_t factor1 = 1 << (ADD_LEFT_SHIFT - 1), factor2 = sign * factor1;
  const int32_t constant1 = -p->x1_zero_point * factor1;
  const int32_t constant2 = -p->x2_zero_point * factor2;
  for (int32_t r = 0; r < s.rows; ++r) {
    if (unit1) {
      add_row(o, scaled2, sign, x2, s.x2_column_step, x1, s.x1_column_step, factor1,
              constant1, s.columns, y);
    } else {
      add_row(o, scaled1, 1, x1, s.x1_column_step, x2, s.x2_column_step, factor2,
              constant2, s.columns, y);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

void kws_squared_difference_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                               const int8_t *x1, const int8_t *x2, int8_t *y) {
  const kws_add_t q = *p;
  const kws_broadcast_t s = *shape;
  for (int32_t r = 0; r < s.rows; ++r) {
    for (int32_t c = 0; c < s.columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(s.columns - c));
      int32x4_t value = load(x1, c, s.x1_column_step, q.x1_zero_point, lanes);
      int32x4_t other = load(x2, c, s.x2_column_step, q.x2_zero_point, lanes);
      value = scale_addend(value, SQUARED_DIFFERENCE_LEFT_SHIFT, q.x1_multiplier,
                           q.x1_shift);
      other = scale_addend(other, SQUARED_DIFFERENCE_LEFT_SHIFT, q.x2_multiplier,
                           q.x2_shift);
      value = vsubq_s32(value, other);
      value =
          requantize_all(vmulq_s32(value, value), q.output_multiplier, q.output_shift);
      value = clamp(vaddq_n_s32(value, q.output_zero_point), INT8_MIN, INT8_MAX);
      vstrbq_p_s32(y + c, value, lanes);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

static void mul_any(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                    const int8_t *x2, int8_t *y) {
  const kws_mul_t q = *p;
  const kws_broadcast_t s = *shape;
  for (int32_t r = 0; r < s.rows; ++r) {
    for (int32_t c = 0; c < s.columns; c += LANES) {
      const mve_pred16_t lanes = vctp32q((uint32_t)(s.columns - c));
      const int32x4_t value1 = load(x1, c, s.x1_column_step, q.x1_zero_point, lanes);
      const int32x4_t value2 = load(x2, c, s.x2_column_step, q.x2_zero_point, lanes);
      int32x4_t value = requantize_all(vmulq_s32(value1, value2), q.output_multiplier,
                                       q.output_shift);
      value = clamp(vaddq_n_s32(value, q.output_zero_point), q.activation_min,
                    q.activation_max);
      vstrbq_p_s32(y + c, value, lanes);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

/* Up to eight elements; factor: x2 less its zero point, where it is one value. */
static inline __attribute__((always_inline)) void mul_8(const kws_mul_t *p, output_t o,
                                                        const int8_t *x1,
                                                        const int8_t *x2,
                                                        int16x8_t factor, int scalar,
                                                        int32_t rest, int8_t *y) {
  const int16x8_t value = vsubq_n_s16(load_8(x1, rest), p->x1_zero_point);
  if (!scalar) factor = vsubq_n_s16(load_8(x2, rest), p->x2_zero_point);
  finish_8(o, vmullbq_int_s16(value, factor), vmulltq_int_s16(value, factor), y, rest);
}

static inline __attribute__((always_inline)) void mul_row(const kws_mul_t *p,
                                                          output_t o, const int8_t *x1,
                                                          const int8_t *x2, int scalar,
                                                          int32_t n, int8_t *y) {
  const int16x8_t factor =
      scalar ? vdupq_n_s16((int16_t)(*x2 - p->x2_zero_point)) : vdupq_n_s16(0);
  for (; n >= 8; n -= 8, x1 += 8, y += 8) {
    mul_8(p, o, x1, x2, factor, scalar, 8, y);
    if (!scalar) x2 += 8;
  }
  if (n > 0) mul_8(p, o, x1, x2, factor, scalar, n, y);
}

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  const kws_mul_t q = *p;
  const kws_broadcast_t s = kws_flatten(shape);
  const output_t o = {q.output_multiplier, q.output_shift, q.output_zero_point};
  if (!is_ordinary(q.output_shift, q.activation_min, q.activation_max) ||
      s.x1_column_step == 0) {
    mul_any(p, &s, x1, x2, y);
    return;
  }
  for (int32_t r = 0; r < s.rows; ++r) {
    if (s.x2_column_step) {
      mul_row(&q, o, x1, x2, 0, s.columns, y);
    } else {
      mul_row(&q, o, x1, x2, 1, s.columns, y);
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

void kws_table_s8(const int8_t *table, const int8_t *x, int32_t n, int8_t *y) {
  const uint8x16_t half = vdupq_n_u8(128);
  for (; n >= 16; n -= 16, x += 16, y += 16) {
    const uint8x16_t index = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(x)), half);
    vst1q_s8(y, vldrbq_gather_offset_s8(table, index));
  }
  if (n > 0) {
    const mve_pred16_t lanes = vctp8q((uint32_t)n);
    const uint8x16_t index = veorq_u8(vreinterpretq_u8_s8(vld1q_z_s8(x, lanes)), half);
    vstrbq_p_s8(y, vldrbq_gather_offset_z_s8(table, index, lanes), lanes);
  }
}

#endif
