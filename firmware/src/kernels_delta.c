/* Products over token rows that skip what did not change. See kws_delta.h. */
#include "kws_delta.h"

#include <string.h>

#include "kernels_internal.h"

#if defined(KWS_CORE_MVE)
#include <arm_mve.h>
#endif

/* ---- What a row transmits ---- */

/* Kernels with 16-bit sums take elements in groups: changes whose sizes add up to 255
 * at most, times weights of 128 at most, stay below 2^15. */
#if defined(KWS_CORE_MVE) || (defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)) || \
    defined(__ARM_ARCH_6M__)
#define LARGEST_GROUP 255
#else
#define LARGEST_GROUP INT32_MAX
#endif

/* A row on its way through the encoding. Element i is multiplied with the row of
 * weights at rows + i * stride. */
typedef struct {
  const int8_t *x;
  int8_t *held; /* moves to x where they differ by more than the threshold; aligned */
  int32_t n;
  int32_t threshold;
  const int8_t *rows;
  int32_t stride;
  kws_delta_change_t *list;
  int32_t at;    /* next element to look at */
  int32_t count; /* elements that changed so far */
  int32_t total; /* sum of all changes so far */
} row_t;

/* Changes that are added at a time. */
typedef struct {
  kws_delta_change_t *end; /* of the list */
  int32_t size;            /* sum of |changes| */
  int32_t sum;             /* of changes */
} group_t;

/* Lists element i. */
static inline void put(const row_t *row, group_t *group, int32_t i, int32_t delta) {
#if (defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)) || defined(__ARM_ARCH_6M__)
  const int32_t offset = (int32_t)(intptr_t)(row->rows + i * row->stride);
#else
  const int32_t offset = i * row->stride;
#endif
  *group->end++ = (kws_delta_change_t){offset, delta};
  group->sum += delta;
}

#if !defined(__ARM_ARCH_6M__) /* which has an encode of its own */

/* Elements from row->at up to `end`, one by one. Returns 0 where the group is full. */
static int encode_each(row_t *row, group_t *group, int32_t end) {
  for (; row->at < end; ++row->at) {
    const int32_t i = row->at;
    const int32_t delta = row->x[i] - row->held[i];
    const int32_t size = delta < 0 ? -delta : delta;
    if (size <= row->threshold) continue;
    if (size > LARGEST_GROUP - group->size) return 0;
    row->held[i] = row->x[i];
    put(row, group, i, delta);
    group->size += size;
  }
  return 1;
}

#if defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

/* By how much |x - held| of four bytes is above the threshold, 0 where held: the
 * difference saturates, so difference + threshold, 0..126, is in 0..2 * threshold only
 * there. */
static inline uint32_t excess_bytes(uint32_t x, uint32_t held, uint32_t thresholds,
                                    uint32_t twice) {
  uint32_t result;
  __asm(
      "qsub8 %0, %1, %2\n"
      "  uadd8 %0, %0, %3\n"
      "  uqsub8 %0, %0, %4\n"
      : "=&r"(result)
      : "r"(x), "r"(held), "r"(thresholds), "r"(twice)
      : "cc");
  return result;
}

/* x where the excess is above 0, else held. */
static inline uint32_t select_bytes(uint32_t x, uint32_t held, uint32_t excess) {
  uint32_t result;
  __asm(
      "usub8 %0, %3, %4\n"
      "  sel %0, %2, %1\n"
      : "=&r"(result)
      : "r"(x), "r"(held), "r"(0), "r"(excess)
      : "cc");
  return result;
}

/* Whole words of a row, and the group that they are listed in. */
typedef struct {
  const int8_t *x;        /* 0: moves to `end`, or to what no longer fits the group */
  const int8_t *end;      /* 4 */
  int8_t *held;           /* 8 */
  kws_delta_change_t *at; /* 12: where the next change is listed */
  uint32_t size;          /* 16 */
  int32_t sum;            /* 20 */
  uint32_t thresholds;    /* 24: in each byte */
  uint32_t twice;         /* 28 */
  int32_t stride;         /* 32 */
  uint32_t base;          /* 36: row of weights of x[i]: base + (x + i + 4) * stride */
} scan_t;

/* Encodes them; x < end. In assembly because compilers run out of registers:
 *   r0 x, r1 end, r2 held, r3 at, r4 size, r5 sum, r6 thresholds, r7 twice, r8 stride,
 *   r9 other, r10 four now, then after, r11 before, r12 excess, lr other, then address
 * See excess_bytes and select_bytes. Sizes are those of bytes without a sign, from
 * which USADA8 adds up four. */
void kws_dsp_scan(scan_t *scan);
_Static_assert(offsetof(scan_t, at) == 12 && offsetof(scan_t, base) == 36,
               "the assembly knows where they lie");

/* Lists a byte of `after` where it is not `before`'s. */
#define PUT_BYTE(mask, rotation) \
  "  tst r12, #" mask            \
  "\n"                           \
  "  beq 4f\n"                   \
  "  sxtb.w r9, r11" rotation    \
  "\n"                           \
  "  rsb r9, r9, #0\n"           \
  "  sxtab r9, r9, r10" rotation \
  "\n"                           \
  "  strd lr, r9, [r3], #8\n"    \
  "  add r5, r9\n"               \
  "4:\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_scan, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_scan\n"
    "  .type kws_dsp_scan, %function\n"
    "  .thumb_func\n"
    "kws_dsp_scan:\n"
    "  push {r0, r4-r11, lr}\n"
    "  ldm.w r0, {r0-r9}\n"
    "  push {r9}\n"
    "1:\n"
    "  ldr r10, [r0], #4\n"
    "  ldr r11, [r2], #4\n"
    "  qsub8 r12, r10, r11\n"
    "  uadd8 r12, r12, r6\n"
    "  uqsub8 r12, r12, r7\n"
    "  cmp r12, #0\n"
    "  bne 3f\n"
    "2:\n"
    "  cmp r0, r1\n"
    "  bne 1b\n"
    "  b 6f\n"
    "3:\n"
    "  mov lr, #0\n"
    "  usub8 lr, lr, r12\n"
    "  sel r10, r11, r10\n"
    "  eor lr, r10, #0x80808080\n"
    "  eor r9, r11, #0x80808080\n"
    "  usada8 lr, lr, r9, r4\n"
    "  cmp lr, #255\n"
    "  bhi 5f\n"
    "  mov r4, lr\n"
    "  str r10, [r2, #-4]\n"
    "  ldr r9, [sp]\n"
    "  mla lr, r0, r8, r9\n" PUT_BYTE("0xff", "") "  add lr, r8\n"
    PUT_BYTE("0xff00", ", ror #8") "  add lr, r8\n"
    PUT_BYTE("0xff0000", ", ror #16") "  add lr, r8\n"
    PUT_BYTE("0xff000000", ", ror #24")
    "  b 2b\n"
    "5:\n"
    "  sub r0, #4\n"
    "6:\n"
    "  ldr r12, [sp, #4]\n"
    "  str r0, [r12]\n"
    "  str r3, [r12, #12]\n"
    "  strd r4, r5, [r12, #16]\n"
    "  add sp, #4\n"
    "  pop {r0, r4-r11, pc}\n"
    "  .size kws_dsp_scan, . - kws_dsp_scan\n"
    "  .popsection\n");
_Static_assert(LARGEST_GROUP == 255, "the assembly knows it");

/* Four at a time. */
static int encode_most(row_t *row, group_t *group) {
  const int32_t at = row->at & ~3;
  const uint32_t thresholds = (uint32_t)row->threshold * 0x01010101u;
  const uint32_t first = (uint32_t)(uintptr_t)row->x + 4;
  const uint32_t rows = (uint32_t)(uintptr_t)row->rows;
  scan_t scan = {
      .x = row->x + at,
      .end = row->x + (row->n & ~3),
      .held = row->held + at,
      .at = group->end,
      .size = (uint32_t)group->size,
      .sum = group->sum,
      .thresholds = thresholds,
      .twice = 2 * thresholds,
      .stride = row->stride,
      .base = rows - first * (uint32_t)row->stride,
  };
  if (row->threshold >= INT8_MAX || scan.x >= scan.end) return 1;
  kws_dsp_scan(&scan);
  row->at = (int32_t)(scan.x - row->x);
  *group = (group_t){scan.at, (int32_t)scan.size, scan.sum};
  if (scan.x == scan.end) return 1;
  /* Four that don't fit even alone: as many of them as do. */
  if (scan.at == row->list) encode_each(row, group, row->at + 4);
  return 0;
}

#elif defined(KWS_CORE_MVE)

/* Sixteen at a time. */
static int encode_most(row_t *row, group_t *group) {
  int32_t i = row->at & ~15;
  const int32_t stride = row->stride;
  kws_delta_change_t *at = group->end;
  uint32_t size = (uint32_t)group->size;
  int32_t sum = group->sum;
  int more = 1;
  for (; i < row->n; i += 16) {
    const mve_pred16_t lanes = vctp8q((uint32_t)(row->n - i));
    const int8x16_t now = vldrbq_z_s8(row->x + i, lanes);
    const int8x16_t before = vldrbq_z_s8(row->held + i, lanes);
    const uint8x16_t sizes = vreinterpretq_u8_s8(vabdq_s8(now, before));
    const mve_pred16_t moved = vcmphiq_m_n_u8(sizes, (uint8_t)row->threshold, lanes);
    uint32_t changed = moved;
    if (changed == 0) continue;
    const uint32_t larger = vaddvaq_p_u8(size, sizes, moved);
    if (larger > LARGEST_GROUP) {
      more = 0;
      break;
    }
    size = larger;
    int8_t old[16];
    vst1q_s8(old, before);
    vstrbq_p_s8(row->held + i, now, moved);
    for (; changed != 0; changed &= changed - 1) {
      const int32_t lane = __builtin_ctz(changed);
      const int32_t delta = row->x[i + lane] - old[lane];
      *at++ = (kws_delta_change_t){(i + lane) * stride, delta};
      sum += delta;
    }
  }
  row->at = i;
  *group = (group_t){at, (int32_t)size, sum};
  if (!more && at == row->list) encode_each(row, group, kws_min(i + 16, row->n));
  return more;
}

#else

static int encode_most(row_t *row, group_t *group) {
  (void)row;
  (void)group;
  return 1;
}

#endif
#endif

/* The next group of a row. Returns 0 when it was the last. */
#if defined(__ARM_ARCH_6M__)
static int encode(row_t *row, group_t *group) {
  const int8_t *const x = row->x;
  int8_t *const held = row->held;
  const int32_t n = row->n, threshold = row->threshold;
  kws_delta_change_t *at = row->list;
  int32_t i = row->at, size = 0, sum = 0;
  for (; i < n; ++i) {
    const int32_t value = x[i];
    const int32_t delta = value - held[i];
    const int32_t one = delta < 0 ? -delta : delta;
    if (one <= threshold) continue;
    if (one > LARGEST_GROUP - size) break;
    held[i] = (int8_t)value;
    at->offset = (int32_t)(intptr_t)(row->rows + i * row->stride);
    at->delta = delta;
    ++at;
    size += one;
    sum += delta;
  }
  row->at = i;
  row->count += (int32_t)(at - row->list);
  row->total += sum;
  *group = (group_t){at, size, sum};
  return i < n;
}
#else
static int encode(row_t *row, group_t *group) {
  *group = (group_t){row->list, 0, 0};
  const int done = encode_most(row, group) && encode_each(row, group, row->n);
  row->count += (int32_t)(group->end - row->list);
  row->total += group->sum;
  return !done;
}
#endif

/* The same without a list, from the row held before to a row of its own, which may be
 * where that is. Returns the number of changes. */
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
#elif defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)
  const uint32_t thresholds = (uint32_t)threshold * 0x01010101u;
  for (; threshold < INT8_MAX && i + 4 <= n; i += 4) {
    uint32_t now, old;
    memcpy(&now, x + i, sizeof now);
    memcpy(&old, before + i, sizeof old);
    uint32_t excess = excess_bytes(now, old, thresholds, 2 * thresholds);
    if (excess != 0) {
      old = select_bytes(now, old, excess);
      excess |= (excess & 0x7f7f7f7fu) + 0x7f7f7f7fu; /* bit 7 where not 0 */
      count += (int32_t)((((excess >> 7) & 0x01010101u) * 0x01010101u) >> 24);
    }
    memcpy(after + i, &old, sizeof old);
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

/* sums[c] += what the list adds, which ends with a change of 0; columns is a multiple
 * of 8. Changes list[].offset, an address, to that behind the columns.
 *
 * One MLA makes two products: two weights as unsigned 16-bit lanes of a word times a
 * change. `start` takes away what the 128 that are added to each weight make, so a
 * lane ends as a sum of signed products, below 2^15 (LARGEST_GROUP); what the lower
 * borrows from the upper is given back at the end. A word of four weights as it is
 * adds up the even columns' lanes and 2^8 times the odd ones', which are taken away at
 * the end: all modulo 2^32, and only odd weights are taken out. In assembly because it
 * takes all registers:
 *   r0 list, r1 address, r2 r3 weights, r12, lr change; words and odd lanes of 16
 *   columns: r4 r5, r6 r7, r8 r9, r10 r11 */
void kws_dsp_add_changes(int32_t *sums, kws_delta_change_t *list, int32_t columns,
                         uint32_t start);

#define FOUR_COLUMNS(weights, words, odd)    \
  "  mla " words ", " weights ", lr, " words \
  "\n"                                       \
  "  uxtb16 r12, " weights                   \
  ", ror #8\n"                               \
  "  mla " odd ", r12, lr, " odd "\n"
#define EIGHT_COLUMNS(words0, odd0, words1, odd1)              \
  "  ldrd r2, r3, [r1], #8\n" FOUR_COLUMNS("r2", words0, odd0) \
      FOUR_COLUMNS("r3", words1, odd1)
#define NEXT_CHANGE           \
  "  str r1, [r0, #-8]\n"     \
  "  ldrd r1, lr, [r0], #8\n" \
  "  cmp lr, #0\n"
#define LANES(lanes, low, high)      \
  "  sxtah " low ", " low ", " lanes \
  "\n"                               \
  "  add " lanes                     \
  ", #0x8000\n"                      \
  "  add " high ", " high ", " lanes ", asr #16\n"
#define FOUR_SUMS(words, odd)                              \
  "  sub " words ", " words ", " odd                       \
  ", lsl #8\n"                                             \
  "  ldm r0, {r1, r2, r3, r12}\n" LANES(words, "r1", "r3") \
      LANES(odd, "r2", "r12") "  stm r0!, {r1, r2, r3, r12}\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_add_changes, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_add_changes\n"
    "  .type kws_dsp_add_changes, %function\n"
    "  .thumb_func\n"
    "kws_dsp_add_changes:\n"
    "  push {r0-r11, lr}\n" /* sums, list, columns, start */
    "1:\n"
    "  ldr r2, [sp, #8]\n"
    "  subs r2, #16\n"
    "  blt 4f\n"
    "  str r2, [sp, #8]\n"
    "  ldr r0, [sp, #4]\n"
    "  ldr r5, [sp, #12]\n"
    "  add r4, r5, r5, lsl #8\n"
    "  mov r6, r4\n"
    "  mov r7, r5\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r4\n"
    "  mov r11, r5\n"
    "  ldrd r1, lr, [r0], #8\n"
    "2:\n" EIGHT_COLUMNS("r4", "r5", "r6", "r7") EIGHT_COLUMNS("r8", "r9", "r10", "r11")
        NEXT_CHANGE
    "  bne 2b\n"
    "  ldr r0, [sp, #0]\n" FOUR_SUMS("r4", "r5") FOUR_SUMS("r6", "r7")
        FOUR_SUMS("r8", "r9") FOUR_SUMS("r10", "r11")
    "  str r0, [sp, #0]\n"
    "  b 1b\n"
    "4:\n"
    "  adds r2, #8\n"
    "  blt 6f\n"
    "  ldr r0, [sp, #4]\n"
    "  ldr r5, [sp, #12]\n"
    "  add r4, r5, r5, lsl #8\n"
    "  mov r6, r4\n"
    "  mov r7, r5\n"
    "  ldrd r1, lr, [r0], #8\n"
    "5:\n" EIGHT_COLUMNS("r4", "r5", "r6", "r7") NEXT_CHANGE
    "  bne 5b\n"
    "  ldr r0, [sp, #0]\n" FOUR_SUMS("r4", "r5") FOUR_SUMS("r6", "r7")
    "6:\n"
    "  pop {r0-r11, pc}\n"
    "  .size kws_dsp_add_changes, . - kws_dsp_add_changes\n"
    "  .popsection\n");

static inline __attribute__((always_inline)) void add_changes(int32_t *sums,
                                                              const int8_t *rows,
                                                              int32_t columns,
                                                              kws_delta_change_t *list,
                                                              const group_t *group) {
  (void)rows; /* the list has addresses */
  if (group->end == list) return;
  *group->end = (kws_delta_change_t){0, 0};
  kws_dsp_add_changes(sums, list, columns, (uint32_t)(-128 * group->sum) * 0x10001u);
}

#elif defined(KWS_CORE_MVE)

/* One element times eight columns. */
#define MULTIPLY_8(sum, at)    \
  "  vldrb.s16 q7, [%[row]" at \
  "]\n"                        \
  "  vmla.s16 %q[" sum "], q7, %[delta]\n"

/* Sums of eight columns lie as four even ones, then four odd ones. */
static inline void add_8(int32_t *sums, int16x8_t added) {
  vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), vmovlbq_s16(added)));
  vst1q_s32(sums + 4, vaddq_s32(vld1q_s32(sums + 4), vmovltq_s16(added)));
}

/* sums[c] += what the list adds; columns is a multiple of 8. In 16 bits, which
 * LARGEST_GROUP makes safe. Low-overhead loops that compilers don't find. */
static inline __attribute__((always_inline)) void add_changes(int32_t *sums,
                                                              const int8_t *rows,
                                                              int32_t columns,
                                                              kws_delta_change_t *list,
                                                              const group_t *group) {
  const int32_t count = (int32_t)(group->end - list);
  if (count == 0) return;
  for (; columns >= 32; columns -= 32, rows += 32, sums += 32) {
    const kws_delta_change_t *at = list;
    int32_t row, delta;
    int16x8_t sum0, sum1, sum2, sum3;
    __asm volatile(
        "  vmov.i32 %q[sum0], #0\n"
        "  vmov.i32 %q[sum1], #0\n"
        "  vmov.i32 %q[sum2], #0\n"
        "  vmov.i32 %q[sum3], #0\n"
        "  dls lr, %[count]\n"
        "1:\n"
        "  ldrd %[row], %[delta], [%[at]], #8\n"
        "  add %[row], %[rows]\n" MULTIPLY_8("sum0", "") MULTIPLY_8("sum1", ", #8")
            MULTIPLY_8("sum2", ", #16") MULTIPLY_8("sum3", ", #24") "  le lr, 1b\n"
        : [at] "+&r"(at), [row] "=&l"(row), [delta] "=&r"(delta), [sum0] "=&w"(sum0),
          [sum1] "=&w"(sum1), [sum2] "=&w"(sum2), [sum3] "=&w"(sum3)
        : [rows] "r"(rows), [count] "r"(count)
        : "lr", "q7", "memory");
    add_8(sums, sum0);
    add_8(sums + 8, sum1);
    add_8(sums + 16, sum2);
    add_8(sums + 24, sum3);
  }
  for (; columns > 0; columns -= 8, rows += 8, sums += 8) {
    const kws_delta_change_t *at = list;
    int32_t row, delta;
    int16x8_t sum0;
    __asm volatile(
        "  vmov.i32 %q[sum0], #0\n"
        "  dls lr, %[count]\n"
        "1:\n"
        "  ldrd %[row], %[delta], [%[at]], #8\n"
        "  add %[row], %[rows]\n" MULTIPLY_8("sum0", "") "  le lr, 1b\n"
        : [at] "+&r"(at), [row] "=&l"(row), [delta] "=&r"(delta), [sum0] "=&w"(sum0)
        : [rows] "r"(rows), [count] "r"(count)
        : "lr", "q7", "memory");
    add_8(sums, sum0);
  }
}

#elif defined(__ARM_ARCH_6M__)

/* kws_m0_add_changes, the twin of kws_dsp_add_changes: one MULS makes two products, and
 * a word of four weights needs only its odd bytes taken out. Times a change, the word
 * as it is adds up the even columns' lanes and 2^8 times the odd ones', which are taken
 * away at the end: all modulo 2^32.
 *   r0 list, r1 address, r2 r3 weights, r4 change, r5 mask; words and odd lanes of 16
 *   columns: r6 r7, r8 r9, r10 r11, r12 lr; on the stack: r8-r11, then the arguments */
#define FOUR_COLUMNS(words, odd) \
  "  ldmia r1!, {r2}\n"          \
  "  lsrs r3, r2, #8\n"          \
  "  ands r3, r5\n"              \
  "  muls r2, r4, r2\n"          \
  "  muls r3, r4, r3\n"          \
  "  add " words                 \
  ", r2\n"                       \
  "  add " odd ", r3\n"
#define NEXT_CHANGE      \
  "  stmia r0!, {r1}\n"  \
  "  adds r0, #4\n"      \
  "  ldr r4, [r0, #4]\n" \
  "  cmp r4, #0\n"
#define FOUR_SUMS(words, odd)                                                     \
  "  mov r1, " words                                                              \
  "\n"                                                                            \
  "  mov r4, " odd                                                                \
  "\n"                                                                            \
  "  lsls r2, r4, #8\n"                                                           \
  "  subs r3, r1, r2\n"                                                           \
  "  sxth r1, r3\n"                                                               \
  "  subs r3, r3, r1\n"                                                           \
  "  asrs r3, r3, #16\n"                                                          \
  "  sxth r2, r4\n"                                                               \
  "  subs r4, r4, r2\n"                                                           \
  "  asrs r4, r4, #16\n" ADD_SUM("r1", "0") ADD_SUM("r2", "4") ADD_SUM("r3", "8") \
      ADD_SUM("r4", "12") "  stmia r0!, {r1, r2, r3, r4}\n"
#define ADD_SUM(to, at) \
  "  ldr r5, [r0, #" at \
  "]\n"                 \
  "  adds " to ", " to ", r5\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_add_changes, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_add_changes\n"
    "  .type kws_m0_add_changes, %function\n"
    "  .thumb_func\n"
    "kws_m0_add_changes:\n"
    "  push {r0-r7, lr}\n" /* sums, list, columns, start */
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "1:\n"
    "  movs r5, #255\n"
    "  lsls r0, r5, #16\n"
    "  orrs r5, r0\n"
    "  ldr r7, [sp, #28]\n"
    "  lsls r6, r7, #8\n"
    "  adds r6, r6, r7\n"
    "  mov r8, r6\n"
    "  mov r9, r7\n"
    "  ldr r0, [sp, #20]\n"
    "  ldr r4, [r0, #4]\n"
    "  ldr r2, [sp, #24]\n"
    "  subs r2, #16\n"
    "  blt 4f\n"
    "  str r2, [sp, #24]\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  mov r12, r6\n"
    "  mov lr, r7\n"
    "2:\n"
    "  ldr r1, [r0]\n" FOUR_COLUMNS("r6", "r7") FOUR_COLUMNS("r8", "r9")
        FOUR_COLUMNS("r10", "r11") FOUR_COLUMNS("r12", "lr") NEXT_CHANGE
    "  bne 2b\n"
    "  ldr r0, [sp, #16]\n" FOUR_SUMS("r6", "r7") FOUR_SUMS("r8", "r9")
        FOUR_SUMS("r10", "r11") FOUR_SUMS("r12", "lr")
    "  str r0, [sp, #16]\n"
    "  b 1b\n"
    "4:\n"
    "  adds r2, #8\n"
    "  blt 6f\n"
    "5:\n"
    "  ldr r1, [r0]\n" FOUR_COLUMNS("r6", "r7") FOUR_COLUMNS("r8", "r9") NEXT_CHANGE
    "  bne 5b\n"
    "  ldr r0, [sp, #16]\n" FOUR_SUMS("r6", "r7") FOUR_SUMS("r8", "r9")
    "6:\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r0-r7, pc}\n"
    "  .size kws_m0_add_changes, . - kws_m0_add_changes\n"
    "  .popsection\n");

static inline void add_changes(int32_t *sums, const int8_t *rows, int32_t columns,
                               kws_delta_change_t *list, const group_t *group) {
  (void)rows; /* the list has addresses */
  if (group->end == list) return;
  *group->end = (kws_delta_change_t){0, 0};
  kws_m0_add_changes(sums, list, columns, (uint32_t)(-128 * group->sum) * 0x10001u);
}

#else

/* A weight as it is meant. */
static inline int32_t unflip(int8_t weight) {
  return (int8_t)((uint8_t)weight ^ KWS_DELTA_FLIP);
}

/* sums[c] += what the list adds, two changes at a time. */
static inline __attribute__((always_inline)) void add_changes(int32_t *restrict sums,
                                                              const int8_t *rows,
                                                              int32_t columns,
                                                              kws_delta_change_t *list,
                                                              const group_t *group) {
  if ((group->end - list) & 1) {
    *group->end = (kws_delta_change_t){group->end[-1].offset, 0};
  }
  for (; list < group->end; list += 2) {
    const int8_t *row0 = rows + list[0].offset;
    const int8_t *row1 = rows + list[1].offset;
    const int32_t delta0 = list[0].delta, delta1 = list[1].delta;
    for (int32_t c = 0; c < columns; ++c) {
      sums[c] += delta0 * unflip(row0[c]) + delta1 * unflip(row1[c]);
    }
  }
}

#endif

/* Encodes a row and adds what changed. Returns the number of changes. */
static int32_t encode_and_add(row_t *row, int32_t *sums, int32_t columns) {
  int more;
  do {
    group_t group;
    more = encode(row, &group);
    add_changes(sums, row->rows, columns, row->list, &group);
  } while (more);
  return row->count;
}

/* ---- Requantisation ---- */

/* How a row of sums becomes int8: one multiplier and shift for all outputs, or for each
 * its own; then `quant` may have them as prepare_finish laid them. */
typedef struct {
  const int32_t *multiplier;
  const int8_t *shift;
  int32_t each;         /* outputs have their own */
  const int32_t *quant; /* NULL: not laid */
  int32_t zero_point;
  int32_t low, high; /* clamp */
  int32_t common;    /* shifts are all in -22..-1, the clamp is int8's own */
} finish_t;

/* Where the sum of a column lies. */
static inline int32_t place(int32_t column) {
#if defined(KWS_CORE_MVE)
  return (column & ~7) + 4 * (column & 1) + ((column >> 1) & 3);
#else
  return column;
#endif
}

static int32_t is_common(const int8_t *shift, int32_t n, int32_t low, int32_t high) {
  int32_t common = low == INT8_MIN && high == INT8_MAX;
  for (int32_t i = 0; i < n; ++i) {
    if (shift[i] >= 0 || shift[i] < -22) common = 0;
  }
  return common;
}

/* Any shifts and clamp. */
static void finish_any(const finish_t *f, const int32_t *sums, int32_t correction,
                       int32_t n, int8_t *y, int32_t step) {
  for (int32_t i = 0; i < n; ++i, y += step) {
    const int32_t at = f->each ? i : 0;
    const int32_t value =
        kws_requantize(sums[place(i)] + correction, f->multiplier[at], f->shift[at]) +
        f->zero_point;
    *y = (int8_t)kws_clamp(value, f->low, f->high);
  }
}

#if defined(KWS_CORE_MVE)

#define QUANT_WORDS 2

/* Multipliers and shifts of eight outputs lie as their sums do. */
static void prepare_finish(const kws_fully_connected_t *p, int32_t *quant) {
  for (int32_t o = 0; o < p->outputs; ++o) {
    int32_t *block = quant + (o & ~7) * QUANT_WORDS + (place(o) & 7);
    block[0] = p->multiplier[o];
    block[8] = p->shift[o];
  }
}

/* VRSHL rounds halves up; TFLM rounds them away from zero. */
static inline int32x4_t round_shift(int32x4_t value, int32x4_t shift) {
  return vrshlq_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), shift);
}

/* Eight outputs, of which `rest` are stored. */
static inline __attribute__((always_inline)) void store_8(int32x4_t even, int32x4_t odd,
                                                          int32_t zero_point,
                                                          uint16x8_t offsets, int8_t *y,
                                                          int32_t step, int32_t rest) {
  int16x8_t value = vreinterpretq_s16_s32(even); /* both halves are written */
  value = vqmovntq_s32(vqmovnbq_s32(value, even), odd);
  value = vqaddq_n_s16(value, (int16_t)zero_point);
  value = vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(value), value));
  if (step == 1 && rest >= 8) {
    vstrbq_s16(y, value);
  } else if (step == 1) {
    vstrbq_p_s16(y, value, vctp16q((uint32_t)rest));
  } else if (rest >= 8) {
    vstrbq_scatter_offset_s16(y, offsets, value);
  } else {
    vstrbq_scatter_offset_p_s16(y, offsets, value, vctp16q((uint32_t)rest));
  }
}

static inline __attribute__((always_inline)) void finish_each_8(
    const finish_t *f, const int32_t *sums, const int32_t *quant, uint16x8_t offsets,
    int8_t *y, int32_t step, int32_t rest) {
  int32x4_t even = vqrdmulhq_s32(vld1q_s32(sums), vld1q_s32(quant));
  int32x4_t odd = vqrdmulhq_s32(vld1q_s32(sums + 4), vld1q_s32(quant + 4));
  even = round_shift(even, vld1q_s32(quant + 8));
  odd = round_shift(odd, vld1q_s32(quant + 12));
  store_8(even, odd, f->zero_point, offsets, y, step, rest);
}

static inline __attribute__((always_inline)) void finish_each(const finish_t *f,
                                                              const int32_t *sums,
                                                              int32_t n, int8_t *y,
                                                              int32_t step) {
  const int32_t *quant = f->quant;
  const uint16x8_t offsets = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)step);
  for (; n >= 8; n -= 8, sums += 8, quant += 8 * QUANT_WORDS, y += 8 * step) {
    finish_each_8(f, sums, quant, offsets, y, step, 8);
  }
  if (n > 0) finish_each_8(f, sums, quant, offsets, y, step, n);
}

/* The same from multipliers and shifts as they are in flash; returns how many outputs
 * that was. */
static int32_t finish_plain(const finish_t *f, const int32_t *sums, int32_t n,
                            int8_t *y) {
  int32_t o = 0;
  for (; o + 8 <= n; o += 8) {
    const int32x4x2_t multiplier = vld2q_s32(f->multiplier + o);
    const int16x8_t shift = vldrbq_s16(f->shift + o);
    int32x4_t even = vqrdmulhq_s32(vld1q_s32(sums + o), multiplier.val[0]);
    int32x4_t odd = vqrdmulhq_s32(vld1q_s32(sums + o + 4), multiplier.val[1]);
    even = round_shift(even, vmovlbq_s16(shift));
    odd = round_shift(odd, vmovltq_s16(shift));
    store_8(even, odd, f->zero_point, vdupq_n_u16(0), y + o, 1, 8);
  }
  return o;
}

static inline __attribute__((always_inline)) void finish_all_8(const finish_t *f,
                                                               const int32_t *sums,
                                                               int32_t correction,
                                                               int8_t *y,
                                                               int32_t rest) {
  const int32_t multiplier = *f->multiplier, shift = *f->shift;
  int32x4_t even = vaddq_n_s32(vld1q_s32(sums), correction);
  int32x4_t odd = vaddq_n_s32(vld1q_s32(sums + 4), correction);
  even = vqrdmulhq_n_s32(even, multiplier);
  odd = vqrdmulhq_n_s32(odd, multiplier);
  even = vrshlq_n_s32(vaddq_s32(even, vshrq_n_s32(even, 31)), shift);
  odd = vrshlq_n_s32(vaddq_s32(odd, vshrq_n_s32(odd, 31)), shift);
  store_8(even, odd, f->zero_point, vdupq_n_u16(0), y, 1, rest);
}

static void finish_all(const finish_t *f, const int32_t *sums, int32_t correction,
                       int32_t n, int8_t *y) {
  for (; n >= 8; n -= 8, sums += 8, y += 8) finish_all_8(f, sums, correction, y, 8);
  if (n > 0) finish_all_8(f, sums, correction, y, n);
}

#elif defined(KWS_CORE_DSP) && defined(__ARM_FEATURE_DSP)

#define QUANT_WORDS 3

/* Multiplier, half + zero point, right shift of every output. */
static void prepare_finish(const kws_fully_connected_t *p, int32_t *quant) {
  for (int32_t o = 0; o < p->outputs; ++o, quant += QUANT_WORDS) {
    const int32_t right = kws_clamp(-p->shift[o], 1, 22);
    quant[0] = p->multiplier[o];
    quant[1] = (2 * p->output_zero_point + 1) * (1 << (right - 1));
    quant[2] = right;
  }
}

/* TFLM's two roundings and the zero point, of twice a sum: the first rounding is
 * SMMLAR's, the second adds a half, which it carries, less one where negative.
 *
 * The statements below take most of the registers. For them to compile at every level
 * of optimisation, with and without a frame pointer (r7), an operand that is read and
 * written shares no statement with one that is only read ("+r" then needs no early
 * clobber, for which gcc may want a second register), or each has its own by name. */
#define FINISH(sum, multiplier, rounding, right, result, address) \
  "  smmlar " result ", " sum ", " multiplier ", " rounding       \
  "\n"                                                            \
  "  add " result ", " result ", " sum                            \
  ", asr #31\n"                                                   \
  "  asr " result ", " result ", " right                          \
  "\n"                                                            \
  "  ssat " result ", #8, " result                                \
  "\n"                                                            \
  "  strb " result ", " address "\n"
#define FINISH_EACH(sum, address)    \
  "  ldm %[quant]!, {r8, r9, r10}\n" \
  "  lsl " sum ", #1\n" FINISH(sum, "r8", "r9", "r10", "r8", address)

static void finish_each(const finish_t *f, const int32_t *sums, int32_t n, int8_t *y,
                        int32_t step) {
  const int32_t *quant = f->quant;
  if (step == 1) {
    for (; n >= 4; n -= 4) {
      __asm volatile("  ldm %[sums]!, {r2, r3, r4, r5}\n" FINISH_EACH(
                         "r2", "[%[y]], #1") FINISH_EACH("r3", "[%[y]], #1")
                         FINISH_EACH("r4", "[%[y]], #1") FINISH_EACH("r5", "[%[y]], #1")
                     : [sums] "+r"(sums), [quant] "+r"(quant), [y] "+r"(y)
                     :
                     : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "memory");
    }
  }
  for (; n > 0; --n, y += step) {
    __asm volatile("  ldr r2, [%[sums]], #4\n" FINISH_EACH("r2", "[%[y]]")
                   : [sums] "+r"(sums), [quant] "+r"(quant), [y] "+r"(y)
                   :
                   : "r2", "r8", "r9", "r10", "memory");
  }
}

/* The same from multipliers and shifts as they are in flash; returns how many outputs
 * that was. Four at a time, whose shifts are one word: r10 has the right shift - 1 of
 * the next in its low byte. The second rounding's half comes last, doubled and with the
 * zero point. */
#define FINISH_PLAIN(sum, multiplier)             \
  "  lsl " sum                                    \
  ", #1\n"                                        \
  "  smmulr " multiplier ", " sum ", " multiplier \
  "\n"                                            \
  "  add " multiplier ", " multiplier ", " sum    \
  ", asr #31\n"                                   \
  "  asr " multiplier                             \
  ", r10\n"                                       \
  "  add " multiplier                             \
  ", %[half]\n"                                   \
  "  ssat " multiplier ", #8, " multiplier        \
  ", asr #1\n"                                    \
  "  strb " multiplier ", [%[y]], #1\n"
#define FINISH_TWO_PLAIN                               \
  "  ldm %[sums]!, {r2, r3}\n"                         \
  "  ldrd r8, r9, [%[multiplier]], #8\n" FINISH_PLAIN( \
      "r2", "r8") "  lsr r10, #8\n" FINISH_PLAIN("r3", "r9")

static int32_t finish_plain(const finish_t *f, const int32_t *sums, int32_t n,
                            int8_t *y) {
  const int32_t *multiplier = f->multiplier;
  const int8_t *shift = f->shift;
  const int32_t half = 2 * f->zero_point + 1;
  for (const int8_t *end = y + (n & ~3); y < end;) {
    __asm volatile(
        "  ldr r10, [%[shift]], #4\n"
        "  mvn r10, r10\n" FINISH_TWO_PLAIN "  lsr r10, #8\n" FINISH_TWO_PLAIN
        : [sums] "+r"(sums), [multiplier] "+r"(multiplier), [shift] "+r"(shift),
          [y] "+r"(y)
        : [half] "r"(half)
        : "r2", "r3", "r8", "r9", "r10", "memory");
  }
  return n & ~3;
}

#define FINISH_ALL(sum)                                \
  "  add " sum ", %[twice], " sum ", lsl #1\n" FINISH( \
      sum, "%[multiplier]", "%[rounding]", "%[right]", "r6", "[%[y]], #1")

static void finish_all(const finish_t *f, const int32_t *sums, int32_t correction,
                       int32_t n, int8_t *y) {
  const int32_t shift = -*f->shift;
  register const int32_t *from __asm("r0") = sums;
  register int8_t *to __asm("r1") = y;
  register int32_t twice __asm("r8") = 2 * correction;
  register int32_t multiplier __asm("r9") = *f->multiplier;
  register int32_t rounding __asm("r10") = (2 * f->zero_point + 1) * (1 << (shift - 1));
  register int32_t right __asm("r12") = shift;
  for (; n >= 4; n -= 4) {
    __asm volatile("  ldm %[sums]!, {r2, r3, r4, r5}\n" FINISH_ALL("r2")
                       FINISH_ALL("r3") FINISH_ALL("r4") FINISH_ALL("r5")
                   : [sums] "+r"(from), [y] "+r"(to)
                   : [twice] "r"(twice), [multiplier] "r"(multiplier),
                     [rounding] "r"(rounding), [right] "r"(right)
                   : "r2", "r3", "r4", "r5", "r6", "memory");
  }
  finish_any(f, from, correction, n, to, 1);
}

#else

#define QUANT_WORDS 1 /* not used */

static void prepare_finish(const kws_fully_connected_t *p, int32_t *quant) {
  (void)p;
  (void)quant;
}

static void finish_each(const finish_t *f, const int32_t *sums, int32_t n, int8_t *y,
                        int32_t step) {
  finish_any(f, sums, 0, n, y, step);
}

#if !defined(__ARM_ARCH_6M__)
static int32_t finish_plain(const finish_t *f, const int32_t *sums, int32_t n,
                            int8_t *y) {
  finish_any(f, sums, 0, n, y, 1);
  return n;
}
#endif

static void finish_all(const finish_t *f, const int32_t *sums, int32_t correction,
                       int32_t n, int8_t *y) {
  finish_any(f, sums, correction, n, y, 1);
}

#endif

/* y[o * step] from a dense layer's sums. */
static void finish_outputs(const finish_t *f, const int32_t *sums, int32_t n, int8_t *y,
                           int32_t step) {
  if (!f->common) {
    finish_any(f, sums, 0, n, y, step);
  } else if (step == 1) {
    finish_each(f, sums, n, y, 1);
  } else {
    finish_each(f, sums, n, y, step);
  }
}

/* y[i] from a product's sums. */
static void finish_product(const finish_t *f, const int32_t *sums, int32_t correction,
                           int32_t n, int8_t *y) {
  if (f->common) {
    finish_all(f, sums, correction, n, y);
  } else {
    finish_any(f, sums, correction, n, y, 1);
  }
}

/* ---- FULLY_CONNECTED ---- */

/* Share of transmitted elements, in 64ths, above which the dense kernel is cheaper:
 *   python tools/bench_delta.py --compiler gcc
 * (64x64; a dense kernel's rows in blocks, changes of 16 steps). */
#if defined(KWS_CORE_MVE)
#define CROSSOVER 10
#elif defined(KWS_CORE_DSP)
#define CROSSOVER 28
#else
#define CROSSOVER 24
#endif

/* What a dense layer keeps from row to row. */
typedef struct {
  int32_t *sums;
  int32_t *quant; /* for finish_each */
  int8_t *held;
  int8_t *summed;  /* the held row that the sums are of, while they are behind */
  int32_t *behind; /* rows were done by the dense kernel since */
  int32_t *recent; /* transmitted elements of the last block, in 64ths */
  int32_t *common; /* of finish_t */
} dense_layer_t;

static dense_layer_t dense_layer_of(const kws_delta_fully_connected_t *p, void *state) {
  int32_t *words = state;
  int32_t *sums = words + 4;
  int32_t *quant = sums + KWS_DELTA_COLUMNS(p->product.outputs);
  int8_t *held = (int8_t *)(quant + 3 * KWS_DELTA_COLUMNS(p->product.outputs));
  return (dense_layer_t){
      sums,  quant,     held,     held + KWS_ROUND_UP(p->product.inputs, 4),
      words, words + 1, words + 2};
}

/* A block by the dense kernel; rows of y lie as output_step says. Returns what was
 * transmitted. */
static int32_t dense_block(const kws_delta_fully_connected_t *p, const dense_layer_t *s,
                           const int8_t *x, int32_t row, int32_t rows, int8_t *y,
                           int32_t output_step, void *scratch) {
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
    kws_fully_connected_transposed_s8(&p->product, block, rows, y, output_step, rest);
  }
  return sent;
}

/* The outputs of a row where nothing changed. */
static void copy_outputs(const int8_t *from, int32_t n, int32_t step, int8_t *to) {
  if (step == 1) {
    memcpy(to, from, (size_t)n);
  } else {
    for (int32_t o = 0; o < n; ++o) to[o * step] = from[o * step];
  }
}

/* A block row by row, from what changed. Returns what was transmitted. */
static int32_t sparse_block(const kws_delta_fully_connected_t *p,
                            const dense_layer_t *s, const int8_t *x, int32_t row,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step, kws_delta_change_t *list) {
  const kws_fully_connected_t *product = &p->product;
  const int32_t inputs = product->inputs;
  const int32_t outputs = product->outputs;
  const int32_t columns = KWS_DELTA_COLUMNS(outputs);
  const finish_t finish = {product->multiplier,
                           product->shift,
                           1,
                           s->quant,
                           product->output_zero_point,
                           product->activation_min,
                           product->activation_max,
                           *s->common};
  const row_t first = {.n = inputs,
                       .rows = p->columns,
                       .stride = KWS_DELTA_STRIDE(outputs),
                       .list = list};
  int32_t sent = 0;
  if (*s->behind) {
    row_t change = first;
    change.x = s->held;
    change.held = s->summed;
    encode_and_add(&change, s->sums, columns);
    *s->behind = 0;
  }
  for (int32_t r = 0; r < rows; ++r, x += inputs, y += row_step) {
    const int32_t whole = row + r < p->dense_rows;
    row_t change = first;
    change.x = x;
    change.held = s->held;
    change.threshold = whole ? 0 : p->threshold;
    const int32_t count = encode_and_add(&change, s->sums, columns);
    sent += whole ? inputs : count;
    if (count == 0 && r > 0) {
      copy_outputs(y - row_step, outputs, output_step, y);
    } else {
      finish_outputs(&finish, s->sums, outputs, y, output_step);
    }
  }
  return sent;
}

void kws_delta_fully_connected_s8(const kws_delta_fully_connected_t *p, const int8_t *x,
                                  int reset, int32_t first_row, int32_t rows, int8_t *y,
                                  int32_t row_step, int32_t output_step, void *state,
                                  void *scratch, uint32_t *sent) {
  const kws_fully_connected_t *product = &p->product;
  const int32_t inputs = product->inputs;
  const int32_t outputs = product->outputs;
  const dense_layer_t layer = dense_layer_of(p, state);
  if (reset) {
    *layer.behind = 0;
    *layer.recent = 64; /* the first rows are transmitted whole */
    memset(layer.held, 0, (size_t)inputs);
    memset(layer.sums, 0, 4 * (size_t)KWS_DELTA_COLUMNS(outputs));
    for (int32_t o = 0; o < outputs; ++o) layer.sums[place(o)] = product->bias[o];
    prepare_finish(product, layer.quant);
    *layer.common = is_common(product->shift, outputs, product->activation_min,
                              product->activation_max);
  }
  const int32_t end = first_row + rows;
  for (int32_t row = first_row; row < end; row += KWS_DELTA_BLOCK) {
    const int32_t block = kws_min(end - row, KWS_DELTA_BLOCK);
    int32_t count;
    if (product->weights != NULL && *layer.recent > CROSSOVER) {
      count = dense_block(p, &layer, x, row, block, y, output_step, scratch);
    } else {
      count = sparse_block(p, &layer, x, row, block, y, row_step, output_step, scratch);
    }
    *sent += (uint32_t)count;
    *layer.recent = 64 * count / (block * inputs);
    x += block * inputs;
    y += block * row_step;
  }
}

/* ---- FULLY_CONNECTED on a stream ---- */

/* On an M0+ kws_m0_finish adds the biases; elsewhere sums begin with them. */
#if defined(__ARM_ARCH_6M__)
#define BIAS_FIRST 0
#else
#define BIAS_FIRST 1
#endif

static void start_sums(const kws_fully_connected_t *p, int32_t *sums) {
  memset(sums, 0, 4 * (size_t)KWS_DELTA_COLUMNS(p->outputs));
  for (int32_t o = 0; BIAS_FIRST && o < p->outputs; ++o) sums[place(o)] = p->bias[o];
}

/* The outputs from the sums. */
static void stream_finish(const kws_fully_connected_t *p, const int32_t *sums,
                          int8_t *y) {
  int32_t o = 0;
#if defined(__ARM_ARCH_6M__)
  if (p->ordinary) {
    kws_m0_finish(sums, p->bias, p->multiplier, p->shift, p->outputs,
                  2 * p->output_zero_point + 1, y, 1);
    return;
  }
#else
  const finish_t finish = {.multiplier = p->multiplier,
                           .shift = p->shift,
                           .each = 1,
                           .zero_point = p->output_zero_point,
                           .low = p->activation_min,
                           .high = p->activation_max};
  if (p->ordinary) o = finish_plain(&finish, sums, p->outputs, y);
#endif
  for (; o < p->outputs; ++o) {
    const int32_t sum = sums[place(o)] + (BIAS_FIRST ? 0 : p->bias[o]);
    const int32_t value =
        kws_requantize(sum, p->multiplier[o], p->shift[o]) + p->output_zero_point;
    y[o] = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
  }
}

void kws_delta_step_s8(const kws_delta_fully_connected_t *p, const int8_t *x, int reset,
                       int8_t *y, void *state, void *scratch, uint32_t *sent) {
  const kws_fully_connected_t *product = &p->product;
  const int32_t inputs = product->inputs;
  const int32_t threshold = reset ? 0 : p->threshold;
  int8_t *held = state;
  int8_t *outputs = held + KWS_ROUND_UP(inputs, 4); /* of the last step */
  int32_t count;
  if (reset) memset(held, 0, (size_t)inputs);
  if (p->columns == NULL) {
    count = hold(x, held, held, inputs, threshold);
    if (count > 0 || reset) {
      kws_fully_connected_s8(product, held, 1, outputs, scratch);
    }
  } else {
    int32_t *sums = (int32_t *)(outputs + KWS_ROUND_UP(product->outputs, 4));
    row_t row = {.x = x,
                 .held = held,
                 .n = inputs,
                 .threshold = threshold,
                 .rows = p->columns,
                 .stride = KWS_DELTA_STRIDE(product->outputs),
                 .list = scratch};
    if (reset) start_sums(product, sums);
    count = encode_and_add(&row, sums, KWS_DELTA_COLUMNS(product->outputs));
    if (count > 0 || reset) stream_finish(product, sums, outputs);
  }
  *sent += (uint32_t)(reset ? inputs : count);
  memcpy(y, outputs, (size_t)product->outputs);
}

int32_t kws_delta_hold_s8(const int8_t *x, int32_t n, int32_t threshold, int reset,
                          int8_t *y, int8_t *held, uint32_t *sent) {
  if (reset) memcpy(held, x, (size_t)n);
  const int32_t count = reset ? n : hold(x, held, held, n, threshold);
  *sent += (uint32_t)count;
  memcpy(y, held, (size_t)n);
  return count;
}

/* ---- CONV_2D on a stream ---- */

/* What it keeps from step to step. */
typedef struct {
  int32_t *still;  /* steps in which nothing moved, the last ones */
  int8_t *outputs; /* of the last step */
  int32_t *sums;   /* of each position */
  int8_t *window;  /* that they are of */
} stream_conv_t;

static stream_conv_t stream_conv_of(const kws_conv_2d_t *p, void *state) {
  const int32_t positions = p->output_height * p->output_width;
  int32_t *still = state;
  int8_t *outputs = (int8_t *)(still + 1);
  int32_t *sums =
      (int32_t *)(outputs + KWS_ROUND_UP(positions * p->product.outputs, 4));
  return (stream_conv_t){
      still, outputs, sums,
      (int8_t *)(sums + positions * KWS_DELTA_COLUMNS(p->product.outputs))};
}

/* Lists where two windows of n bytes differ, in order, and an end; before becomes x. */
static void differences(const int8_t *x, int8_t *before, int32_t n,
                        kws_delta_change_t *list) {
  row_t row = {.x = x, .held = before, .n = n, .stride = 1, .list = list};
  int more;
  do {
    group_t group;
    more = encode(&row, &group);
    row.list = group.end;
  } while (more);
  *row.list = (kws_delta_change_t){n, 0};
}

/* Changes of a window on their way to the sums of one position. */
typedef struct {
  const kws_delta_conv_2d_t *p;
  int32_t *sums;
  kws_delta_change_t *list;
  group_t group;
} position_t;

static void add_position(position_t *to) {
  const int32_t columns = KWS_DELTA_COLUMNS(to->p->conv.product.outputs);
  add_changes(to->sums, to->p->columns, columns, to->list, &to->group);
  to->group = (group_t){to->list, 0, 0};
}

/* Adds the changes from `at` up to an offset: element `tap` of the patch is that at
 * offset 0. Returns how many. */
static int32_t add_segment(position_t *to, const kws_delta_change_t *at, int32_t end,
                           int32_t tap) {
  const kws_delta_change_t *const first = at;
  const row_t row = {.rows = to->p->columns,
                     .stride = KWS_DELTA_STRIDE(to->p->conv.product.outputs)};
  group_t group = to->group; /* a copy, for registers */
  for (; at->offset < end; ++at) {
    const int32_t size = at->delta < 0 ? -at->delta : at->delta;
    if (size > LARGEST_GROUP - group.size) {
      to->group = group;
      add_position(to);
      group = to->group;
    }
    put(&row, &group, at->offset + tap, at->delta);
    group.size += size;
  }
  to->group = group;
  return (int32_t)(at - first);
}

/* All positions, from where the window differs from the one before. */
static void sparse_conv(const kws_delta_conv_2d_t *p, const stream_conv_t *s,
                        const int8_t *x, int reset, void *scratch) {
  const kws_conv_2d_t *conv = &p->conv;
  const int32_t window = conv->input_height * conv->input_width * conv->input_channels;
  const int32_t outputs = conv->product.outputs;
  const int32_t segment = conv->filter_width * conv->input_channels;
  const int32_t pitch = conv->input_width * conv->input_channels;
  kws_delta_change_t *changes = scratch, *list = changes + window + 1;
  int32_t *next = (int32_t *)(list + conv->product.inputs + 1); /* in each row */
  position_t to = {p, s->sums, list, {list, 0, 0}};
  int8_t *y = s->outputs;
  if (reset) memset(s->window, 0, (size_t)window);
  differences(x, s->window, window, changes);
  for (int32_t v = 0; v < conv->output_height; ++v) {
    const int32_t top = v * conv->stride_height * pitch;
    for (int32_t r = 0, i = 0; r < conv->filter_height; ++r) {
      while (changes[i].offset < top + r * pitch) ++i;
      next[r] = i;
    }
    for (int32_t h = 0; h < conv->output_width; ++h) {
      int32_t at = top + h * conv->stride_width * conv->input_channels;
      int32_t count = reset;
      if (reset) start_sums(&conv->product, to.sums);
      for (int32_t r = 0; r < conv->filter_height; ++r, at += pitch) {
        while (changes[next[r]].offset < at) ++next[r];
        count += add_segment(&to, changes + next[r], at + segment, r * segment - at);
      }
      add_position(&to);
      if (count > 0) stream_finish(&conv->product, to.sums, y);
      to.sums += KWS_DELTA_COLUMNS(outputs);
      y += outputs;
    }
  }
}

void kws_delta_conv_2d_step_s8(const kws_delta_conv_2d_t *p, const int8_t *x,
                               int32_t moved, int reset, int8_t *y, void *state,
                               void *scratch) {
  const kws_conv_2d_t *conv = &p->conv;
  const stream_conv_t s = stream_conv_of(conv, state);
  const size_t size =
      (size_t)(conv->output_height * conv->output_width * conv->product.outputs);
  *s.still = reset || moved > 0 ? 0 : kws_min(*s.still + 1, p->looks_back);
  if (*s.still < p->looks_back) {
    if (p->columns != NULL) {
      sparse_conv(p, &s, x, reset, scratch);
    } else {
      kws_conv_2d_s8(conv, x, 0, conv->output_height, s.outputs, scratch);
    }
  }
  memcpy(y, s.outputs, size);
}

/* ---- Attention ---- */

void kws_delta_flip(int8_t *x, int32_t n) {
  if (KWS_DELTA_FLIP == 0) return;
  x = __builtin_assume_aligned(x, 4);
  for (const int8_t *end = x + n; x < end; x += 4) {
    uint32_t word;
    memcpy(&word, __builtin_assume_aligned(x, 4), sizeof word);
    word ^= KWS_DELTA_FLIP * 0x01010101u;
    memcpy(__builtin_assume_aligned(x, 4), &word, sizeof word);
  }
}

void kws_delta_attention_prepare(const kws_delta_attention_t *p, int8_t *k_transposed,
                                 int8_t *v, kws_delta_attention_sent_t *sent) {
  const int32_t tokens = p->attention.tokens;
  const int32_t stride = KWS_DELTA_COLUMNS(tokens);
  const int32_t width = p->attention.heads * p->attention.head_dim;
  const int32_t threshold = p->key_threshold;
  const int32_t dense_rows = threshold < 0 ? tokens : kws_min(p->dense_rows, tokens);
  int32_t count = dense_rows * width, column = 0;
#if defined(KWS_CORE_MVE)
  const uint16x8_t rows = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)stride);
  const uint16_t limit = (uint16_t)(threshold < 0 ? 0 : threshold);
  for (; column + 8 <= width; column += 8) {
    int8_t *element = k_transposed + column * stride;
    int16x8_t held = vldrbq_gather_offset_s16(element + dense_rows - 1, rows);
    for (int32_t t = dense_rows; t < tokens; ++t) {
      const int16x8_t now = vldrbq_gather_offset_s16(element + t, rows);
      const uint16x8_t size = vreinterpretq_u16_s16(vabdq_s16(now, held));
      const mve_pred16_t moved = vcmphiq_n_u16(size, limit);
      held = vpselq_s16(now, held, moved);
      count = (int32_t)vaddvaq_p_u16((uint32_t)count, vdupq_n_u16(1), moved);
      vstrbq_scatter_offset_s16(element + t, rows, held);
    }
    for (int32_t i = 0; i < 8; ++i) {
      memset(element + i * stride + tokens, 0, (size_t)(stride - tokens));
    }
  }
#endif
  for (; column < width; ++column) {
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
  kws_delta_flip(k_transposed, width * stride);
  if (v != NULL) kws_delta_flip(v, tokens * width);
  sent->key += (uint32_t)count;
}

/* Columns of V that are added at a time: may reach into what follows V; the sums of
 * those columns are not used. */
#define V_COLUMNS(head_dim) KWS_ROUND_UP(head_dim, 8)

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
  row_t change = {.x = x,
                  .held = state->held,
                  .n = inputs,
                  .threshold = dense ? 0 : threshold,
                  .rows = rows,
                  .stride = stride,
                  .list = list};
  const int32_t count = encode_and_add(&change, state->sums, columns);
  *state->total += change.total;
  finish_product(finish, state->sums, -b_zero_point * *state->total, outputs, y);
  return (uint32_t)(dense ? inputs : count);
}

static finish_t finish_of_product(const kws_batch_matmul_t *p) {
  const int32_t low = p->activation_min, high = p->activation_max;
  return (finish_t){
      &p->multiplier,       &p->shift, 0,    NULL,
      p->output_zero_point, low,       high, is_common(&p->shift, 1, low, high)};
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
                                 int reset, int32_t first_row, int32_t rows,
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
  for (int32_t row = first_row; row < first_row + rows; ++row) {
    const int32_t dense = row < p->dense_rows;
    for (int32_t head = 0; head < a->heads; ++head) {
      const int32_t column = head * head_dim;
      int32_t *words = (int32_t *)(heads + head * head_bytes);
      const product_t query = {words + 2, words,
                               (int8_t *)(words + 2 + token_columns + head_columns)};
      const product_t share = {words + 2 + token_columns, words + 1,
                               query.held + head_columns};
      if (reset && row == first_row) {
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
