/* Matrix products and attention with SMLAD: Cortex-M4, M7, M33. See kws_kernels.h.
 *
 * Products go through a block of 3 rows by 2 columns, or of one row where only one is
 * left. Activations are widened to 16 bits once per row, in the order that SXTB16 gives
 * (bytes 0, 2, then 1, 3), the block's rows interleaved: a "panel". The other operand's
 * rows come in pairs, so that the inner loop walks two pointers:
 *   - weights, two columns mixed in 16 bits (weight_layout.py): w0 + 256 * w1. SMLAD
 *     with such halves sums a0 + 256 * a1, and with their low bytes a0. So one SXTB16
 *     serves four weights: 18 instructions for 24 MACs, or 14 for one row's 16.
 *   - what is known at run time only, four bytes of each row in turn (pack_pair below):
 *     20 instructions for 24 MACs.
 */
#include "kernels_internal.h"

#if defined(KWS_CORE_DSP)

#include <string.h>

#define BLOCK_ROWS    3
#define BLOCK_COLUMNS 2

/* Two signed 16-bit values in a word. */
#define PAIR(value) (((uint32_t)(value) & 0xffffu) | ((uint32_t)(value) << 16))

/* Three rows against pairs of columns, requantised and stored; the common case of
 * products, which the inner loops below run through. It holds where
 *   - every sum is below 2^30 in magnitude (kws/graph/quantized_math.py checks it),
 *     and of weights 2^23: what remains of a1 above,
 *   - every shift is in -22..-1, and
 *   - the clamp is int8's own range. */
typedef struct {
  const int16_t *panel;   /* 0 */
  const int8_t *pair;     /* 4 */
  int32_t pair_bytes;     /* 8: a multiple of 8 */
  int32_t gap;            /* 12: bytes from the end of a pair to the next */
  int32_t pairs;          /* 16: 1.. */
  int8_t *y;              /* 20 */
  int32_t row_step;       /* 24 */
  int32_t column_step;    /* 28 */
  const int32_t *start;   /* 32: dense: biases; product: the rows' corrections */
  union {                 /* 36 */
    const int32_t *array; /* dense */
    int32_t value;        /* product */
  } multiplier;
  union {                /* 40 */
    const int8_t *array; /* dense: TFLM's shifts */
    intptr_t right;      /* product: the right shift */
  } shift;
  int32_t rounding; /* 44: dense: 2 * zero point + 1; product: that, shifted */
} run_t;

#define LARGEST_RIGHT_SHIFT 22

#if defined(__ARM_FEATURE_DSP)

/* low half + byte 0, high half + byte 2. */
static inline uint32_t add_even_bytes(uint32_t halves, uint32_t bytes) {
  uint32_t result;
  __asm("sxtab16 %0, %1, %2" : "=r"(result) : "r"(halves), "r"(bytes));
  return result;
}

static inline uint32_t add_odd_bytes(uint32_t halves, uint32_t bytes) {
  uint32_t result;
  __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(halves), "r"(bytes));
  return result;
}

static inline uint32_t even_bytes(uint32_t bytes) {
  uint32_t result;
  __asm("sxtb16 %0, %1" : "=r"(result) : "r"(bytes));
  return result;
}

static inline uint32_t odd_bytes(uint32_t bytes) {
  uint32_t result;
  __asm("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(bytes));
  return result;
}

/* The lower halves of two words, and the upper ones. */
static inline uint32_t low_halves(uint32_t low, uint32_t high) {
  uint32_t result;
  __asm("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(low), "r"(high));
  return result;
}

static inline uint32_t high_halves(uint32_t low, uint32_t high) {
  uint32_t result;
  __asm("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(high), "r"(low));
  return result;
}

static inline int32_t dual_multiply_add(uint32_t a, uint32_t b, int32_t sum) {
  int32_t result;
  __asm("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

/* Assembly because a block needs all 14 registers, which neither compiler manages.
 *   r0 panel, r1 pair, r2-r7 sums (row 0 column 0, row 0 column 1, row 1 column 0 ...),
 *   r8 r9 a row's 4 values, r10-r12 lr the columns'
 * run_t lies on the stack; the numbers are its offsets. */
_Static_assert(offsetof(run_t, gap) == 12 && offsetof(run_t, start) == 32 &&
                   offsetof(run_t, rounding) == 44,
               "the assembly knows where they lie");
void kws_dsp_dense(const run_t *run);
void kws_dsp_product(const run_t *run);

#define ROW(column0, even0, odd0, column1, even1, odd1) \
  "  ldrd r8, r9, [r0], #8\n"                           \
  "  smlad " column0 ", r8, " even0 ", " column0        \
  "\n"                                                  \
  "  smlad " column0 ", r9, " odd0 ", " column0         \
  "\n"                                                  \
  "  smlad " column1 ", r8, " even1 ", " column1        \
  "\n"                                                  \
  "  smlad " column1 ", r9, " odd1 ", " column1 "\n"
#define ROW_OF_MIXED(column0, both) ROW(column0, "r12", "lr", both, "r10", "r11")
#define GROUP_OF_MIXED                                                   \
  "  ldrd r10, r11, [r1], #8\n"                                          \
  "  sxtb16 r12, r10\n"                                                  \
  "  sxtb16 lr, r11\n" ROW_OF_MIXED("r2", "r3") ROW_OF_MIXED("r4", "r5") \
      ROW_OF_MIXED("r6", "r7")
#define ROW_OF_PAIR(column0, column1) ROW(column0, "r12", "r10", column1, "lr", "r11")
#define GROUP_OF_PAIR                                                           \
  "  ldrd r10, r11, [r1], #8\n"                                                 \
  "  sxtb16 r12, r10\n"                                                         \
  "  sxtb16 r10, r10, ror #8\n"                                                 \
  "  sxtb16 lr, r11\n"                                                          \
  "  sxtb16 r11, r11, ror #8\n" ROW_OF_PAIR("r2", "r3") ROW_OF_PAIR("r4", "r5") \
      ROW_OF_PAIR("r6", "r7")

/* All groups of one pair: a chain of LINKS groups, entered where as many follow as
 * there are, so that no loop turns for less. */
#define SUMS(LINKS_OF_GROUPS) \
  "  ldrd r0, r1, [sp, #0]\n" \
  "  ldr r8, [sp, #8]\n"      \
  "  add r8, r1\n"            \
  "  str r8, [sp, #48]\n"     \
  "  ldr pc, [sp, #52]\n"     \
  "2:\n" LINKS_OF_GROUPS      \
  "  ldr r8, [sp, #48]\n"     \
  "  cmp r1, r8\n"            \
  "  bne 2b\n"

/* r9 multiplier, r10 right shift, r11 rounding with the zero point: TFLM's
 * requantisation of one sum, saturated. SMMLAR is the first rounding, of twice the
 * sum, and adds what the second rounds by; one less where the sum is negative (which
 * makes no difference where the first comes out as 0). */
#define FINISH(sum, address)    \
  "  lsl r1, " sum              \
  ", #1\n"                      \
  "  smmlar r0, r1, r9, r11\n"  \
  "  add r0, r0, r1, asr #31\n" \
  "  asr r0, r0, r10\n"         \
  "  ssat r0, #8, r0\n"         \
  "  strb r0, " address "\n"
#define FINISH_COLUMN(row0, row1, row2) \
  FINISH(row0, "[r8]") FINISH(row1, "[r8, lr]") FINISH(row2, "[r8, lr, lsl #1]")

/* The same of weights, where every column has its own: r10 right shift - 1 in its low
 * byte, r11 2 * zero point + 1. The second rounding's half comes last, doubled and with
 * the zero point. */
#define FINISH_DENSE(twice, multiplier, address) \
  twice "  smmulr r0, r1, " multiplier           \
        "\n"                                     \
        "  add r0, r0, r1, asr #31\n"            \
        "  asr r0, r0, r10\n"                    \
        "  add r0, r11\n"                        \
        "  ssat r0, #8, r0, asr #1\n"            \
        "  strb r0, " address "\n"
#define FINISH_DENSE_COLUMN(row0, row1, row2, multiplier) \
  FINISH_DENSE(row0, multiplier, "[r8]")                  \
  FINISH_DENSE(row1, multiplier, "[r8, lr]")              \
  FINISH_DENSE(row2, multiplier, "[r8, lr, lsl #1]")
#define TWICE(sum) "  lsl r1, " sum ", #1\n"
/* Of the second of two mixed columns. */
#define TWICE_SECOND(both, column0) \
  "  sub r1, " both ", " column0    \
  "\n"                              \
  "  asr r1, r1, #7\n"

#define BEGIN(name, links, eighth_of_link_bytes) \
  "  .syntax unified\n"                          \
  "  .thumb\n"                                   \
  "  .pushsection .text." name                   \
  ", \"ax\", %progbits\n"                        \
  "  .align 2\n"                                 \
  "  .global " name                              \
  "\n"                                           \
  "  .type " name                                \
  ", %function\n"                                \
  "  .thumb_func\n" name                         \
  ":\n"                                          \
  "  push {r3-r11, lr}\n"                        \
  "  sub sp, #56\n"                              \
  "  ldm r0!, {r1-r7}\n"                         \
  "  stm sp, {r1-r7}\n"                          \
  "  add r8, sp, #28\n"                          \
  "  ldm r0, {r1-r5}\n"                          \
  "  stm r8, {r1-r5}\n"                          \
  "  ldr r8, [sp, #8]\n"                         \
  "  rsb r8, r8, #0\n"                           \
  "  and r8, #8 * " links                        \
  " - 8\n"                                       \
  "  mov r9, #" eighth_of_link_bytes             \
  "\n"                                           \
  "  adr.w r10, 2f\n"                            \
  "  mla r8, r8, r9, r10\n"                      \
  "  add r8, #1\n" /* Thumb */                   \
  "  str r8, [sp, #52]\n"                        \
  "1:\n"

/* y, the pair, and round again. r8 is y at the second column. */
#define NEXT_PAIR(name)         \
  "  ldr r9, [sp, #28]\n"       \
  "  add r8, r9\n"              \
  "  str r8, [sp, #20]\n"       \
  "  ldr r8, [sp, #16]\n"       \
  "  subs r8, #1\n"             \
  "  str r8, [sp, #16]\n"       \
  "  bne 1b\n"                  \
  "  add sp, #56\n"             \
  "  pop {r3-r11, pc}\n"        \
  "  .size " name ", . - " name \
  "\n"                          \
  "  .popsection\n"

#define FOUR(group) group group group group

__asm(BEGIN("kws_dsp_dense", "8", "9")
      "  ldr r8, [sp, #32]\n" /* both columns' biases, for all rows */
      "  ldrd r2, r3, [r8], #8\n"
      "  str r8, [sp, #32]\n"
      "  add r3, r2, r3, lsl #8\n"
      "  mov r4, r2\n"
      "  mov r5, r3\n"
      "  mov r6, r2\n"
      "  mov r7, r3\n" SUMS(FOUR(GROUP_OF_MIXED) FOUR(GROUP_OF_MIXED))
      "  str r1, [sp, #4]\n" /* the next pair follows at once */
      "  ldrd r0, r1, [sp, #36]\n"
      "  ldrd r9, r12, [r0], #8\n"
      "  ldrh r10, [r1], #2\n"
      "  strd r0, r1, [sp, #36]\n"
      "  mvn r10, r10\n"
      "  ldr r11, [sp, #44]\n"
      "  ldrd r8, lr, [sp, #20]\n"
      FINISH_DENSE_COLUMN(TWICE("r2"), TWICE("r4"), TWICE("r6"), "r9")
      "  ldr r9, [sp, #28]\n"
      "  add r8, r9\n"
      "  lsr r10, #8\n"
      FINISH_DENSE_COLUMN(TWICE_SECOND("r3", "r2"), TWICE_SECOND("r5", "r4"),
                          TWICE_SECOND("r7", "r6"), "r12")
      NEXT_PAIR("kws_dsp_dense"));

__asm(BEGIN("kws_dsp_product", "4", "10")
      "  ldr r8, [sp, #32]\n" /* the rows' corrections, for both columns */
      "  ldm r8, {r2, r4, r6}\n"
      "  mov r3, r2\n"
      "  mov r5, r4\n"
      "  mov r7, r6\n" SUMS(FOUR(GROUP_OF_PAIR))
      "  ldr r8, [sp, #12]\n"
      "  add r1, r8\n"
      "  str r1, [sp, #4]\n"
      "  ldrd r8, lr, [sp, #20]\n"
      "  ldr r9, [sp, #36]\n"
      "  ldrd r10, r11, [sp, #40]\n" FINISH_COLUMN("r2", "r4", "r6")
      "  ldr r12, [sp, #28]\n"
      "  add r8, r12\n" FINISH_COLUMN("r3", "r5", "r7") NEXT_PAIR("kws_dsp_product"));

/* One row of p->inputs, widened to a panel of its own, against pairs of columns; p is
 * ordinary and has two outputs or more.
 *   r0 panel, r1 weights, r2 sum of column 0, r3 of both, r4-r7 8 inputs, r8-r11 their
 *   weights, r12 the panel's end, lr pairs that are left
 *   on the stack: panel, biases, multipliers, shifts, y, 2 * zero point + 1, where a
 *   pair's code is entered, and where it goes on after an odd group
 * A pair's code is a chain of links of 8 inputs, entered where as many follow as there
 * are: no loop turns for less than ROW_LINKS of them. */
void kws_dsp_row(const kws_fully_connected_t *p, const int16_t *panel, int32_t groups,
                 int8_t *y);
_Static_assert(offsetof(kws_fully_connected_t, outputs) == 2 &&
                   offsetof(kws_fully_connected_t, weights) == 4 &&
                   offsetof(kws_fully_connected_t, bias) == 8 &&
                   offsetof(kws_fully_connected_t, shift) == 16 &&
                   offsetof(kws_fully_connected_t, output_zero_point) == 20,
               "the assembly knows where they lie");

#define ROW_WORD(inputs, weights)    \
  "  smlad r3, " inputs ", " weights \
  ", r3\n"                           \
  "  sxtb16 " weights ", " weights   \
  "\n"                               \
  "  smlad r2, " inputs ", " weights ", r2\n"
#define ROW_LINK                                                        \
  "  ldmia.w r0!, {r4-r7}\n"                                            \
  "  ldmia.w r1!, {r8-r11}\n" ROW_WORD("r4", "r8") ROW_WORD("r5", "r9") \
      ROW_WORD("r6", "r10") ROW_WORD("r7", "r11")
#define ROW_LINK_BYTES "56" /* of code */
/* r9 right shift - 1 in its low byte; see FINISH_CHANNEL. */
#define ROW_FINISH(twice, multiplier)               \
  "  smmulr " multiplier ", " twice ", " multiplier \
  "\n"                                              \
  "  add " multiplier ", " multiplier ", " twice    \
  ", asr #31\n"                                     \
  "  asr " multiplier ", " multiplier               \
  ", r9\n"                                          \
  "  add " multiplier ", " multiplier               \
  ", r8\n"                                          \
  "  ssat " multiplier ", #8, " multiplier          \
  ", asr #1\n"                                      \
  "  strb " multiplier ", [r7], #1\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_row, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_row\n"
    "  .type kws_dsp_row, %function\n"
    "  .thumb_func\n"
    "kws_dsp_row:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, #36\n"
    "  add r12, r1, r2, lsl #3\n"
    "  ldrh lr, [r0, #2]\n"
    "  lsr lr, #1\n"
    "  ldrd r4, r5, [r0, #8]\n"
    "  ldr r6, [r0, #16]\n"
    "  mov r7, r3\n"
    "  ldrsh r8, [r0, #20]\n"
    "  add r8, r8, r8\n"
    "  add r8, #1\n"
    /* r9: after an odd group; the link where (groups / 2) % 8 links remain. */
    "  adr.w r9, 3f\n"
    "  lsrs r10, r2, #1\n"
    "  it eq\n"
    "  adreq.w r9, 4f\n"
    "  rsb r10, r10, #0\n"
    "  and r10, #7\n"
    "  mov r11, #" ROW_LINK_BYTES "\n"
    "  mla r9, r10, r11, r9\n"
    "  add r9, #1\n" /* Thumb */
    "  mov r10, r9\n"
    "  tst r2, #1\n"
    "  it ne\n"
    "  adrne.w r10, 2f + 1\n"
    "  ldr r11, [r0, #4]\n"
    "  mov r0, r1\n"
    "  mov r1, r11\n"
    "  str r8, [sp, #20]\n"
    "  strd r10, r9, [sp, #24]\n"
    "1:\n"
    "  ldrd r2, r3, [r4], #8\n"
    "  stmia.w sp, {r0, r4-r7}\n"
    "  add r3, r2, r3, lsl #8\n"
    "  ldr pc, [sp, #24]\n"
    "2:\n"
    "  ldrd r4, r5, [r0], #8\n"
    "  ldrd r8, r9, [r1], #8\n" ROW_WORD("r4", "r8") ROW_WORD("r5", "r9")
    "  ldr pc, [sp, #28]\n"
    "3:\n" ROW_LINK ROW_LINK ROW_LINK ROW_LINK ROW_LINK ROW_LINK ROW_LINK ROW_LINK
    "  cmp r0, r12\n"
    "  bne 3b\n"
    "4:\n"
    "  ldmia.w sp, {r0, r4-r8}\n"
    "  sub r3, r3, r2\n"
    "  asr r3, r3, #7\n"
    "  lsl r2, r2, #1\n"
    "  ldrd r10, r11, [r5], #8\n"
    "  ldrh r9, [r6], #2\n"
    "  mvn r9, r9\n" ROW_FINISH("r2", "r10")
    "  lsr r9, r9, #8\n" ROW_FINISH("r3", "r11")
    "  subs lr, #1\n"
    "  bne 1b\n"
    "  add sp, #36\n"
    "  pop {r4-r11, pc}\n"
    "  .size kws_dsp_row, . - kws_dsp_row\n"
    "  .popsection\n");

#else /* The same in C, so that the sanitizers see this file on the host. */

static inline uint32_t add_even_bytes(uint32_t halves, uint32_t bytes) {
  const uint32_t low = halves + (uint32_t)(int8_t)bytes;
  const uint32_t high = (halves >> 16) + (uint32_t)(int8_t)(bytes >> 16);
  return (low & 0xffffu) | (high << 16);
}

static inline uint32_t add_odd_bytes(uint32_t halves, uint32_t bytes) {
  return add_even_bytes(halves, (bytes >> 8) | (bytes << 24));
}

static inline uint32_t even_bytes(uint32_t bytes) {
  return add_even_bytes(0, bytes);
}

static inline uint32_t odd_bytes(uint32_t bytes) {
  return add_odd_bytes(0, bytes);
}

static inline uint32_t low_halves(uint32_t low, uint32_t high) {
  return (low & 0xffffu) | (high << 16);
}

static inline uint32_t high_halves(uint32_t low, uint32_t high) {
  return (low >> 16) | (high & 0xffff0000u);
}

static inline int32_t dual_multiply_add(uint32_t a, uint32_t b, int32_t sum) {
  return sum + (int16_t)a * (int16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
}

static int8_t finish_common(int32_t sum, int32_t multiplier, int32_t right,
                            int32_t rounding) {
  const int32_t product = kws_high_multiply(sum, multiplier);
  const int32_t value = (product + (product >> 31) + rounding) >> right;
  return (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
}

static void sum_block(const int16_t *panel, const int8_t *pair, int32_t groups,
                      int32_t *sums);
static void sum_mixed(const int16_t *panel, int32_t rows, const int8_t *pair,
                      int32_t groups, int32_t *sums);

static void run_pairs(const run_t *run, int dense) {
  const int32_t groups = run->pair_bytes / 8;
  const int8_t *pair = run->pair;
  for (int32_t i = 0; i < run->pairs; ++i) {
    int32_t sums[BLOCK_ROWS * BLOCK_COLUMNS];
    if (dense) {
      sum_mixed(run->panel, BLOCK_ROWS, pair, groups, sums);
    } else {
      sum_block(run->panel, pair, groups, sums);
    }
    pair += 8 * groups + run->gap;
    for (int32_t c = 0; c < BLOCK_COLUMNS; ++c) {
      const int32_t column = BLOCK_COLUMNS * i + c;
      const int32_t multiplier =
          dense ? run->multiplier.array[column] : run->multiplier.value;
      const int32_t right =
          dense ? -run->shift.array[column] : (int32_t)run->shift.right;
      const int32_t rounding =
          dense ? run->rounding * (1 << (right - 1)) : run->rounding;
      for (int32_t r = 0; r < BLOCK_ROWS; ++r) {
        const int32_t start = run->start[dense ? column : r];
        run->y[r * run->row_step + column * run->column_step] = finish_common(
            sums[BLOCK_COLUMNS * r + c] + start, multiplier, right, rounding);
      }
    }
  }
}

static void kws_dsp_dense(const run_t *run) {
  run_pairs(run, 1);
}

static void kws_dsp_product(const run_t *run) {
  run_pairs(run, 0);
}

static void kws_dsp_row(const kws_fully_connected_t *p, const int16_t *panel,
                        int32_t groups, int8_t *y) {
  for (int32_t o = 0; o + 1 < p->outputs; o += 2) {
    int32_t sums[BLOCK_COLUMNS];
    sum_mixed(panel, 1, p->weights + 4 * groups * o, groups, sums);
    for (int32_t c = o; c < o + 2; ++c) {
      const int32_t right = -p->shift[c];
      y[c] = finish_common(sums[c - o] + p->bias[c], p->multiplier[c], right,
                           (2 * p->output_zero_point + 1) * (1 << (right - 1)));
    }
  }
}

#endif

/* sums[2 * r + c] = sum over `groups` groups of 4 of panel row r times column c of two
 * mixed ones. */
static void sum_mixed(const int16_t *panel, int32_t rows, const int8_t *pair,
                      int32_t groups, int32_t *sums) {
  memset(sums, 0, (size_t)(rows * BLOCK_COLUMNS) * sizeof *sums);
  for (int32_t g = 0; g < groups; ++g) {
    uint32_t columns[2][2]; /* of halves: even and odd inputs */
    for (int i = 0; i < 2; ++i) {
      uint32_t mixed;
      memcpy(&mixed, pair + 4 * i, sizeof mixed);
      columns[0][i] = even_bytes(mixed);
      /* The second column's are one less where the first's are negative. */
      columns[1][i] = add_odd_bytes((columns[0][i] >> 15) & 0x00010001u, mixed);
    }
    for (int32_t r = 0; r < rows; ++r) {
      uint32_t row[2];
      memcpy(row, panel, sizeof row);
      panel += 4;
      for (int c = 0; c < BLOCK_COLUMNS; ++c) {
        int32_t *sum = &sums[BLOCK_COLUMNS * r + c];
        *sum = dual_multiply_add(row[0], columns[c][0], *sum);
        *sum = dual_multiply_add(row[1], columns[c][1], *sum);
      }
    }
    pair += 4 * BLOCK_COLUMNS;
  }
}

/* sums[2 * r + c] = sum over `groups` groups of 4 of panel row r times pair row c. */
static void sum_block(const int16_t *panel, const int8_t *pair, int32_t groups,
                      int32_t *sums) {
  memset(sums, 0, BLOCK_ROWS * BLOCK_COLUMNS * sizeof *sums);
  for (int32_t g = 0; g < groups; ++g) {
    for (int r = 0; r < BLOCK_ROWS; ++r) {
      uint32_t row[2];
      memcpy(row, panel, sizeof row);
      panel += 4;
      for (int c = 0; c < BLOCK_COLUMNS; ++c) {
        uint32_t column;
        memcpy(&column, pair + 4 * c, sizeof column);
        int32_t *sum = &sums[BLOCK_COLUMNS * r + c];
        *sum = dual_multiply_add(row[0], even_bytes(column), *sum);
        *sum = dual_multiply_add(row[1], odd_bytes(column), *sum);
      }
    }
    pair += 4 * BLOCK_COLUMNS;
  }
}

/* ---- Panels and pairs ---- */

static inline uint32_t load_word(const int8_t *x) {
  uint32_t word;
  memcpy(&word, x, sizeof word);
  return word;
}

/* To an aligned place. */
static inline void store_word(uint32_t word, int16_t *to) {
  memcpy(__builtin_assume_aligned(to, 4), &word, sizeof word);
}

static inline uint32_t load_pair(const int16_t *from) {
  uint32_t word;
  memcpy(&word, __builtin_assume_aligned(from, 4), sizeof word);
  return word;
}

/* The last n < 4 elements of a row, padded with zeros. */
static inline uint32_t load_rest(const int8_t *x, int32_t n) {
  uint32_t word = (uint8_t)x[0];
  if (n > 1) word |= (uint32_t)(uint8_t)x[1] << 8;
  if (n > 2) word |= (uint32_t)(uint8_t)x[2] << 16;
  return word;
}

/* Row `row` of a panel of `rows` (a constant): x, padded with zeros to a group of 4. */
static inline __attribute__((always_inline)) void widen(const int8_t *x, int32_t n,
                                                        int32_t row, int32_t rows,
                                                        int16_t *restrict panel) {
  panel += 4 * row;
#pragma GCC unroll 2
  for (const int8_t *end = x + n / 4 * 4; x < end; x += 4) {
    const uint32_t bytes = load_word(x);
    store_word(even_bytes(bytes), panel);
    store_word(odd_bytes(bytes), panel + 2);
    panel += 4 * rows;
  }
  if (n % 4 != 0) {
    const uint32_t rest = load_rest(x, n % 4);
    store_word(even_bytes(rest), panel);
    store_word(odd_bytes(rest), panel + 2);
  }
}

/* The same less a zero point. Returns the sum. */
static inline __attribute__((always_inline)) int32_t
widen_less(const int8_t *x, int32_t n, int32_t zero_point, int32_t row, int32_t rows,
           int16_t *restrict panel) {
  const uint32_t offset = PAIR(-zero_point);
  const uint32_t ones = PAIR(1);
  int32_t sum = 0;
  panel += 4 * row;
  for (const int8_t *end = x + n / 4 * 4; x < end; x += 4) {
    const uint32_t bytes = load_word(x);
    const uint32_t even = add_even_bytes(offset, bytes);
    const uint32_t odd = add_odd_bytes(offset, bytes);
    sum = dual_multiply_add(even, ones, sum);
    sum = dual_multiply_add(odd, ones, sum);
    store_word(even, panel);
    store_word(odd, panel + 2);
    panel += 4 * rows;
  }
  if (n % 4 != 0) {
    int16_t rest[4] = {0, 0, 0, 0}; /* elements 0, 2, 1, 3 */
    for (int32_t k = 0; k < n % 4; ++k) {
      const int32_t value = x[k] - zero_point;
      rest[(k >> 1) | ((k & 1) << 1)] = (int16_t)value;
      sum += value;
    }
    memcpy(panel, rest, sizeof rest);
  }
  return sum;
}

/* Two rows of n bytes, four bytes of each in turn, padded with zeros. */
static void pack_pair(const int8_t *row0, const int8_t *row1, int32_t n, int8_t *pair) {
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) {
    memcpy(pair + 2 * i, row0 + i, 4);
    memcpy(pair + 2 * i + 4, row1 + i, 4);
  }
  if (i < n) {
    memset(pair + 2 * i, 0, 8);
    for (int32_t k = i; k < n; ++k) {
      pair[i + k] = row0[k];
      pair[i + k + 4] = row1[k];
    }
  }
}

/* Rows of n bytes (a multiple of 4), stride n, packed in place by pairs. */
static void pack_in_place(int8_t *rows, int32_t count, int32_t n, int8_t *temporary) {
  for (int32_t r = 0; r < count; r += 2) {
    int8_t *pair = rows + r * n;
    memcpy(temporary, pair, 2 * (size_t)n);
    pack_pair(temporary, temporary + n, n, pair);
  }
}

/* ---- FULLY_CONNECTED ---- */

/* Up to 3 rows of one output. */
static void finish_column(const int32_t *sums, int32_t rows,
                          const kws_fully_connected_t *p, int32_t output, int8_t *y,
                          int32_t row_step) {
  for (int32_t r = 0; r < rows; ++r) {
    const int32_t value = kws_requantize(sums[BLOCK_COLUMNS * r] + p->bias[output],
                                         p->multiplier[output], p->shift[output]) +
                          p->output_zero_point;
    y[r * row_step] = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
  }
}

static void fully_connected(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, int32_t row_step,
                            int32_t output_step, int16_t *panel) {
  const int32_t inputs = p->inputs;
  const int32_t outputs = p->outputs;
  const int32_t groups = (inputs + 3) / 4;
  int32_t sums[BLOCK_ROWS * BLOCK_COLUMNS];
  while (rows > 0) {
    const int32_t block = rows < BLOCK_ROWS ? 1 : BLOCK_ROWS;
    int32_t o = 0;
    if (block == 1) {
      widen(x, inputs, 0, 1, panel);
    } else {
      for (int32_t r = 0; r < BLOCK_ROWS; ++r) {
        widen(x + r * inputs, inputs, r, BLOCK_ROWS, panel);
      }
    }
    if (p->ordinary && outputs >= BLOCK_COLUMNS) {
      if (block == BLOCK_ROWS) {
        const run_t run = {.panel = panel,
                           .pair = p->weights,
                           .pair_bytes = 8 * groups,
                           .pairs = outputs / BLOCK_COLUMNS,
                           .y = y,
                           .row_step = row_step,
                           .column_step = output_step,
                           .start = p->bias,
                           .multiplier.array = p->multiplier,
                           .shift.array = p->shift,
                           .rounding = 2 * p->output_zero_point + 1};
        kws_dsp_dense(&run);
        o = outputs - outputs % BLOCK_COLUMNS;
      } else if (output_step == 1) {
        kws_dsp_row(p, panel, groups, y);
        o = outputs - outputs % BLOCK_COLUMNS;
      }
    }
    for (; o < outputs; o += BLOCK_COLUMNS) {
      sum_mixed(panel, block, p->weights + 4 * groups * o, groups, sums);
      for (int32_t c = 0; c < kws_min(outputs - o, BLOCK_COLUMNS); ++c) {
        finish_column(sums + c, block, p, o + c, y + (o + c) * output_step, row_step);
      }
    }
    x += block * inputs;
    y += block * row_step;
    rows -= block;
  }
}

void kws_fully_connected_s8(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, void *scratch) {
  fully_connected(p, x, rows, y, p->outputs, 1, scratch);
}

void kws_fully_connected_transposed_s8(const kws_fully_connected_t *p, const int8_t *x,
                                       int32_t rows, int8_t *y, int32_t y_stride,
                                       void *scratch) {
  fully_connected(p, x, rows, y, 1, y_stride, scratch);
}

/* ---- DEPTHWISE_CONV_2D ---- */

#if defined(__ARM_FEATURE_DSP)

/* Channels of a pixel, 4 at a time, as far as shifts are to the right; p has 4 or more,
 * and the clamp is int8's own. Returns how many are done.
 *   r0 taps, r1 weights, r2-r5 sums of 4 channels, r11 p, r12 channel
 *   on the stack: all taps, their end but for an odd one, y, channels, rounding
 * The bytes of two taps come as halves (PKHBT, PKHTB) that SXTB16 widens to pairs, as
 * their weights lie: 17 instructions for 8 MACs. */
int32_t kws_dsp_depthwise(const kws_fully_connected_t *p, const int8_t *const *taps,
                          int8_t *y);
_Static_assert(offsetof(kws_fully_connected_t, weights) == 4 &&
                   offsetof(kws_fully_connected_t, output_zero_point) == 20,
               "the assembly knows where they lie");

/* r6 multiplier, r10 right shift - 1 in its low byte, lr rounding. SMMULR is the first
 * rounding, of twice the sum; the half that the second one adds comes last, doubled and
 * with the zero point. */
#define FINISH_CHANNEL(sum, multiplier, offset)   \
  "  lsl " sum ", " sum                           \
  ", #1\n"                                        \
  "  smmulr " multiplier ", " sum ", " multiplier \
  "\n"                                            \
  "  add " multiplier ", " multiplier ", " sum    \
  ", asr #31\n"                                   \
  "  asr " multiplier ", " multiplier             \
  ", r10\n"                                       \
  "  add " multiplier ", " multiplier             \
  ", lr\n"                                        \
  "  ssat " multiplier ", #8, " multiplier        \
  ", asr #1\n"                                    \
  "  strb " multiplier ", [r0, #" offset "]\n"

#define NEXT_SHIFT "  lsr r10, #8\n"
#define FINISH_CHANNELS           \
  FINISH_CHANNEL("r2", "r6", "0") \
  NEXT_SHIFT                      \
  FINISH_CHANNEL("r3", "r7", "1") \
  NEXT_SHIFT                      \
  FINISH_CHANNEL("r4", "r8", "2") \
  NEXT_SHIFT                      \
  FINISH_CHANNEL("r5", "r9", "3")

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_depthwise, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_depthwise\n"
    "  .type kws_dsp_depthwise, %function\n"
    "  .thumb_func\n"
    "kws_dsp_depthwise:\n"
    "  push {r3-r11, lr}\n"
    "  sub sp, #24\n"
    "  mov r11, r0\n"
    "  ldrh r3, [r11]\n"
    "  ldrh r4, [r11, #2]\n"
    "  ldrsh r5, [r11, #20]\n"
    "  bic r3, r3, #1\n"
    "  bic r4, r4, #3\n"
    "  add r5, r5, r5\n"
    "  add r3, r1, r3, lsl #2\n"
    "  add r5, #1\n"
    "  strd r1, r3, [sp]\n"
    "  strd r2, r4, [sp, #8]\n"
    "  str r5, [sp, #16]\n"
    "  ldr r1, [r11, #4]\n"
    "  mov r12, #0\n"
    "1:\n"
    "  ldrd r0, lr, [sp]\n"
    "  ldr r6, [r11, #8]\n"
    "  add r6, r6, r12, lsl #2\n"
    "  ldm r6, {r2-r5}\n"
    "  cmp r0, lr\n"
    "  beq 3f\n"
    "2:\n"
    "  ldrd r6, r7, [r0], #8\n"
    "  ldr r6, [r6, r12]\n"
    "  ldr r7, [r7, r12]\n"
    "  pkhbt r8, r6, r7, lsl #16\n"
    "  pkhtb r7, r7, r6, asr #16\n"
    "  ldrd r9, r10, [r1], #8\n"
    "  sxtb16 r6, r8\n"
    "  sxtb16 r8, r8, ror #8\n"
    "  smlad r2, r6, r9, r2\n"
    "  smlad r3, r8, r10, r3\n"
    "  ldrd r9, r10, [r1], #8\n"
    "  sxtb16 r6, r7\n"
    "  sxtb16 r8, r7, ror #8\n"
    "  smlad r4, r6, r9, r4\n"
    "  smlad r5, r8, r10, r5\n"
    "  cmp r0, lr\n"
    "  bne 2b\n"
    "3:\n"
    "  ldrh r6, [r11]\n"
    "  lsls r6, #31\n"
    "  beq 4f\n"
    "  ldr r6, [r0]\n"
    "  ldr r6, [r6, r12]\n"
    "  ldrd r8, r9, [r1], #8\n"
    "  sxtb16 r7, r6\n"
    "  sxtb16 r6, r6, ror #8\n"
    "  smlabb r2, r7, r8, r2\n"
    "  smlatt r4, r7, r8, r4\n"
    "  smlabb r3, r6, r9, r3\n"
    "  smlatt r5, r6, r9, r5\n"
    "4:\n"
    "  ldrd r0, r10, [r11, #12]\n"
    "  ldr r10, [r10, r12]\n" /* four shifts */
    "  mvn r10, r10\n"
    "  tst r10, #0x80808080\n"
    "  bne 5f\n"
    "  add r0, r0, r12, lsl #2\n"
    "  ldm r0, {r6-r9}\n"
    "  ldr r0, [sp, #8]\n"
    "  ldr lr, [sp, #16]\n"
    "  add r0, r12\n" FINISH_CHANNELS
    "  ldr r6, [sp, #12]\n"
    "  add r12, #4\n"
    "  cmp r12, r6\n"
    "  bne 1b\n"
    "5:\n"
    "  mov r0, r12\n"
    "  add sp, #24\n"
    "  pop {r3-r11, pc}\n"
    "  .size kws_dsp_depthwise, . - kws_dsp_depthwise\n"
    "  .popsection\n");

#endif

/* The sum of one channel's products. */
static int32_t sum_channel(const kws_fully_connected_t *p, const int8_t *const *taps,
                           int32_t channel) {
  const int8_t *weights = p->weights + 8 * p->inputs * (channel / 4);
  const int32_t i = channel % 4;
  int32_t sum = 0;
  int32_t count = p->inputs;
  for (; count > 1; count -= 2, taps += 2, weights += 16) {
    int16_t pair[2];
    memcpy(pair, weights + 4 * i, sizeof pair);
    sum += taps[0][channel] * pair[0] + taps[1][channel] * pair[1];
  }
  if (count > 0) {
    int16_t last[4]; /* of channels 0, 2, 1, 3 */
    memcpy(last, weights, sizeof last);
    sum += taps[0][channel] * last[(i >> 1) | ((i & 1) << 1)];
  }
  return sum;
}

#if !defined(__ARM_FEATURE_DSP)

static int32_t kws_dsp_depthwise(const kws_fully_connected_t *p,
                                 const int8_t *const *taps, int8_t *y) {
  const int32_t end = p->outputs / 4 * 4;
  for (int32_t c = 0; c < end; ++c) {
    const int8_t *shift = p->shift + c;
    if (c % 4 == 0 && (shift[0] & shift[1] & shift[2] & shift[3]) >= 0) return c;
    const int32_t sum = p->bias[c] + sum_channel(p, taps, c);
    const int32_t product = kws_high_multiply(sum, p->multiplier[c]) + (sum >> 31);
    const int32_t rounding = 2 * p->output_zero_point + 1;
    const int32_t value = ((product >> (-*shift - 1)) + rounding) >> 1;
    y[c] = (int8_t)kws_clamp(value, INT8_MIN, INT8_MAX);
  }
  return end;
}

#endif

void kws_depthwise_pixel(const kws_fully_connected_t *p, const int8_t *const *taps,
                         int8_t *y) {
  int32_t c = 0;
  if (p->outputs >= 4 && p->activation_min == INT8_MIN &&
      p->activation_max == INT8_MAX) {
    c = kws_dsp_depthwise(p, taps, y);
  }
  for (; c < p->outputs; ++c) {
    const int32_t sum = p->bias[c] + sum_channel(p, taps, c);
    const int32_t value =
        kws_requantize(sum, p->multiplier[c], p->shift[c]) + p->output_zero_point;
    y[c] = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
  }
}

/* ---- BATCH_MATMUL ---- */

static inline int8_t finish_product(const kws_batch_matmul_t *p, int32_t accumulator) {
  const int32_t value =
      kws_requantize(accumulator, p->multiplier, p->shift) + p->output_zero_point;
  return (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
}

/* One block's sums to y; corrections are -zb * sum of each row of a. */
static void finish_block(const kws_batch_matmul_t *p, const int32_t *sums,
                         const int32_t *corrections, int32_t rows, int32_t columns,
                         int8_t *y, int32_t y_stride) {
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t c = 0; c < columns; ++c) {
      y[r * y_stride + c] =
          finish_product(p, sums[BLOCK_COLUMNS * r + c] + corrections[r]);
    }
  }
}

/* Up to 3 rows of a, stride a_stride, to the panel; the other rows repeat the first. */
static void widen_block(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                        int32_t rows, int32_t n, int16_t *panel, int32_t *corrections) {
  for (int32_t r = 0; r < BLOCK_ROWS; ++r) {
    const int8_t *row = a + (r < rows ? r * a_stride : 0);
    corrections[r] =
        -p->b_zero_point * widen_less(row, n, p->a_zero_point, r, BLOCK_ROWS, panel);
  }
}

/* May kws_dsp_product do it? */
static int is_common(const kws_batch_matmul_t *p) {
  return p->shift < 0 && p->shift >= -LARGEST_RIGHT_SHIFT &&
         p->activation_min == INT8_MIN && p->activation_max == INT8_MAX;
}

/* finish_product where it is common; rounding = (2 * zero point + 1) << (right - 1). */
static inline int32_t finish_down(int32_t sum, int32_t multiplier, int32_t right,
                                  int32_t rounding) {
  const int32_t product = kws_multiply_high_add(rounding, 2 * sum, multiplier);
  return kws_saturate((product + (sum >> 31)) >> right);
}

/* One row of a uses each element of b once: nothing is packed. */

/* What finish_down takes; right is 0 where it isn't common. Read once: y may be any
 * memory, as far as a compiler knows. */
typedef struct {
  int32_t multiplier, right, rounding;
} down_t;

static inline down_t down_of(const kws_batch_matmul_t *p) {
  const int32_t right = is_common(p) ? -p->shift : 0;
  const int32_t rounding =
      right > 0 ? (2 * p->output_zero_point + 1) * (1 << (right - 1)) : 0;
  return (down_t){p->multiplier, right, rounding};
}

static inline __attribute__((always_inline)) int8_t
finish_one(const kws_batch_matmul_t *p, down_t down, int32_t sum) {
  if (down.right == 0) return finish_product(p, sum);
  return (int8_t)finish_down(sum, down.multiplier, down.right, down.rounding);
}

/* Two rows of b at a time. */
static __attribute__((noinline)) void row_by_rows(const kws_batch_matmul_t *p,
                                                  const int8_t *a, const int8_t *b,
                                                  int32_t b_stride, int32_t n,
                                                  int32_t inner, int8_t *y,
                                                  int16_t *panel) {
  const int32_t start =
      -p->b_zero_point * widen_less(a, inner, p->a_zero_point, 0, 1, panel);
  const int32_t whole = inner / 4 * 4, rest = inner % 4;
  const down_t down = down_of(p);
  for (; n > 0; n -= 2, b += 2 * b_stride, y += 2) {
    const int8_t *row0 = b, *row1 = n > 1 ? b + b_stride : b;
    const int16_t *at = panel;
    int32_t sum0 = start, sum1 = start;
    for (const int16_t *end = panel + whole; at < end; at += 4, row0 += 4, row1 += 4) {
      const uint32_t even = load_pair(at), odd = load_pair(at + 2);
      const uint32_t bytes0 = load_word(row0), bytes1 = load_word(row1);
      sum0 = dual_multiply_add(even, even_bytes(bytes0), sum0);
      sum1 = dual_multiply_add(even, even_bytes(bytes1), sum1);
      sum0 = dual_multiply_add(odd, odd_bytes(bytes0), sum0);
      sum1 = dual_multiply_add(odd, odd_bytes(bytes1), sum1);
    }
    if (rest != 0) {
      const uint32_t even = load_pair(at), odd = load_pair(at + 2);
      const uint32_t bytes0 = load_rest(row0, rest), bytes1 = load_rest(row1, rest);
      sum0 = dual_multiply_add(even, even_bytes(bytes0), sum0);
      sum1 = dual_multiply_add(even, even_bytes(bytes1), sum1);
      sum0 = dual_multiply_add(odd, odd_bytes(bytes0), sum0);
      sum1 = dual_multiply_add(odd, odd_bytes(bytes1), sum1);
    }
    y[0] = finish_one(p, down, sum0);
    if (n > 1) y[1] = finish_one(p, down, sum1);
  }
}

/* Rows i and i + 2 of four columns, times a pair of a. */
static inline __attribute__((always_inline)) void sum_pair_of_rows(uint32_t row0,
                                                                   uint32_t row2,
                                                                   uint32_t pair,
                                                                   int32_t *sums) {
  const uint32_t low = low_halves(row0, row2);
  const uint32_t high = high_halves(row0, row2);
  sums[0] = dual_multiply_add(pair, even_bytes(low), sums[0]);
  sums[1] = dual_multiply_add(pair, odd_bytes(low), sums[1]);
  sums[2] = dual_multiply_add(pair, even_bytes(high), sums[2]);
  sums[3] = dual_multiply_add(pair, odd_bytes(high), sums[3]);
}

/* Four columns of b at a time. */
static __attribute__((noinline)) void row_by_columns(const kws_batch_matmul_t *p,
                                                     const int8_t *a, const int8_t *b,
                                                     int32_t b_stride, int32_t n,
                                                     int32_t inner, int8_t *y,
                                                     int16_t *panel) {
  const int32_t start =
      -p->b_zero_point * widen_less(a, inner, p->a_zero_point, 0, 1, panel);
  const down_t down = down_of(p);
  for (int32_t c = 0; c < n; c += 4) {
    const int32_t columns = kws_min(n - c, 4);
    const int8_t *row = b + c;
    const int16_t *at = panel;
    int32_t sums[4] = {start, start, start, start};
    int32_t left = inner;
    if (columns == 4) {
      for (; left >= 4; left -= 4, at += 4, row += 4 * b_stride) {
        sum_pair_of_rows(load_word(row), load_word(row + 2 * b_stride), load_pair(at),
                         sums);
        sum_pair_of_rows(load_word(row + b_stride), load_word(row + 3 * b_stride),
                         load_pair(at + 2), sums);
      }
    }
    for (; left > 0; left -= 4, at += 4) {
      uint32_t rows[4] = {0, 0, 0, 0};
      for (int32_t i = 0; i < kws_min(left, 4); ++i, row += b_stride) {
        memcpy(&rows[i], row, (size_t)columns);
      }
      sum_pair_of_rows(rows[0], rows[2], load_pair(at), sums);
      sum_pair_of_rows(rows[1], rows[3], load_pair(at + 2), sums);
    }
    for (int32_t i = 0; i < columns; ++i) y[c + i] = finish_one(p, down, sums[i]);
  }
}

/* A panel against `columns` packed rows, gap bytes between the pairs. */
static void panel_product(const kws_batch_matmul_t *p, const int16_t *panel,
                          const int32_t *corrections, int32_t rows, const int8_t *pair,
                          int32_t gap, int32_t columns, int32_t groups, int8_t *y,
                          int32_t y_stride) {
  int32_t c = 0;
  if (rows != 2 && columns >= BLOCK_COLUMNS && is_common(p)) {
    const int32_t right = -p->shift;
    const run_t run = {.panel = panel,
                       .pair = pair,
                       .pair_bytes = 8 * groups,
                       .gap = gap,
                       .pairs = columns / BLOCK_COLUMNS,
                       .y = y,
                       .row_step = rows == 1 ? 0 : y_stride,
                       .column_step = 1,
                       .start = corrections,
                       .multiplier.value = p->multiplier,
                       .shift.right = right,
                       .rounding = (2 * p->output_zero_point + 1) * (1 << (right - 1))};
    kws_dsp_product(&run);
    c = columns - columns % BLOCK_COLUMNS;
    pair += c / BLOCK_COLUMNS * (8 * groups + gap);
  }
  int32_t sums[BLOCK_ROWS * BLOCK_COLUMNS];
  for (; c < columns; c += BLOCK_COLUMNS) {
    sum_block(panel, pair, groups, sums);
    pair += 8 * groups + gap;
    finish_block(p, sums, corrections, rows, kws_min(columns - c, BLOCK_COLUMNS), y + c,
                 y_stride);
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch) {
  const int32_t groups = (inner + 3) / 4;
  int16_t *panel = scratch;
  int8_t *pair = (int8_t *)(panel + 4 * BLOCK_ROWS * groups);
  int32_t corrections[BLOCK_ROWS];
  for (int32_t r = 0; r < m; r += BLOCK_ROWS) {
    const int32_t rows = kws_min(m - r, BLOCK_ROWS);
    if (rows == 1) {
      row_by_rows(p, a + r * a_stride, b_rows, b_stride, n, inner, y + r * y_stride,
                  panel);
      break;
    }
    widen_block(p, a + r * a_stride, a_stride, rows, inner, panel, corrections);
    for (int32_t c = 0; c < n; c += BLOCK_COLUMNS) {
      const int32_t columns = kws_min(n - c, BLOCK_COLUMNS);
      const int8_t *b = b_rows + c * b_stride;
      pack_pair(b, columns > 1 ? b + b_stride : b, inner, pair);
      panel_product(p, panel, corrections, rows, pair, 0, columns, groups,
                    y + r * y_stride + c, y_stride);
    }
  }
}

/* Rows i and i + 2 of four columns as pairs; returns where the next ones go. */
static inline __attribute__((always_inline)) int16_t *pack_rows(uint32_t row0,
                                                                uint32_t row2,
                                                                int16_t *packed) {
  const uint32_t low = low_halves(row0, row2);
  const uint32_t high = high_halves(row0, row2);
#if defined(__ARM_FEATURE_DSP)
  /* One store, which compilers don't find. */
  __asm volatile(
      "  sxtb16 r8, %[low]\n"
      "  sxtb16 r9, %[low], ror #8\n"
      "  sxtb16 r10, %[high]\n"
      "  sxtb16 r11, %[high], ror #8\n"
      "  stmia.w %[packed]!, {r8-r11}\n"
      : [packed] "+r"(packed)
      : [low] "r"(low), [high] "r"(high)
      : "r8", "r9", "r10", "r11", "memory");
  return packed;
#else
  store_word(even_bytes(low), packed);
  store_word(odd_bytes(low), packed + 2);
  store_word(even_bytes(high), packed + 4);
  store_word(odd_bytes(high), packed + 6);
  return packed + 8;
#endif
}

/* Up to four columns of b, in pairs of rows as a panel has its inputs: for each 4 rows,
 * 0 and 2 of each column, then 1 and 3. */
static void pack_columns(const int8_t *b, int32_t stride, int32_t inner,
                         int32_t columns, int16_t *packed) {
  if (columns == 4) {
    for (; inner >= 4; inner -= 4, b += 4 * stride) {
      packed = pack_rows(load_word(b), load_word(b + 2 * stride), packed);
      packed = pack_rows(load_word(b + stride), load_word(b + 3 * stride), packed);
    }
  }
  for (; inner > 0; inner -= 4) {
    uint32_t rows[4] = {0, 0, 0, 0};
    for (int32_t i = 0; i < kws_min(inner, 4); ++i, b += stride) {
      memcpy(&rows[i], b, (size_t)columns);
    }
    packed = pack_rows(rows[0], rows[2], packed);
    packed = pack_rows(rows[1], rows[3], packed);
  }
}

/* Rows of a panel against four packed columns. */
typedef struct {
  const int16_t *packed; /* 0 */
  int32_t multiplier;    /* 4 */
  int32_t right;         /* 8: 1..LARGEST_RIGHT_SHIFT */
  int32_t rounding;      /* 12: half and zero point */
  int8_t *y;             /* 16 */
  const int32_t *start;  /* 20: the rows' corrections */
  int32_t y_stride;      /* 24 */
  const int16_t *panel;  /* 28: row after row */
  int32_t row_bytes;     /* 32: of the panel, a multiple of 16 */
  int32_t rows;          /* 36: 1.. */
} columns_t;

/* sums[c] = a row of a panel times column c of four. */
static void sum_columns(const int16_t *panel, const int16_t *packed, int32_t bytes,
                        int32_t *sums) {
  memset(sums, 0, 4 * sizeof *sums);
  for (int32_t k = 0; k < bytes / 4; ++k, panel += 2, packed += 8) {
    for (int c = 0; c < 4; ++c) {
      sums[c] += panel[0] * packed[2 * c] + panel[1] * packed[2 * c + 1];
    }
  }
}

#if defined(__ARM_FEATURE_DSP)

/* r0 panel, r1 packed, r2-r5 sums, r6 r7 four of a row, r8-r11 those of the columns,
 * r12 the row's end, lr rows; columns_t lies on the stack. */
void kws_dsp_columns(const columns_t *run);
_Static_assert(offsetof(columns_t, y) == 16 && offsetof(columns_t, rows) == 36,
               "the assembly knows where they lie");

#define FOUR_COLUMNS(pair)    \
  "  ldmia.w r1!, {r8-r11}\n" \
  "  smlad r2, " pair         \
  ", r8, r2\n"                \
  "  smlad r3, " pair         \
  ", r9, r3\n"                \
  "  smlad r4, " pair         \
  ", r10, r4\n"               \
  "  smlad r5, " pair ", r11, r5\n"
#define FOUR_BY_FOUR "  ldrd r6, r7, [r0], #8\n" FOUR_COLUMNS("r6") FOUR_COLUMNS("r7")
#define FINISH_FOURTH(sum, offset) \
  "  lsl " sum ", " sum            \
  ", #1\n"                         \
  "  smmlar r6, " sum              \
  ", r8, r10\n"                    \
  "  add r6, r6, " sum             \
  ", asr #31\n"                    \
  "  asr r6, r6, r9\n"             \
  "  ssat r6, #8, r6\n"            \
  "  strb r6, [r11, #" offset "]\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_columns, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_columns\n"
    "  .type kws_dsp_columns, %function\n"
    "  .thumb_func\n"
    "kws_dsp_columns:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, #36\n"
    "  ldmia.w r0!, {r1-r7}\n"
    "  stmia.w sp, {r1-r7}\n"
    "  ldmia.w r0, {r0, r6, lr}\n"
    "  str r6, [sp, #28]\n"
    "  mov r12, r0\n"
    "1:\n"
    "  ldr r6, [sp, #20]\n"
    "  ldr r7, [sp, #28]\n"
    "  ldr r2, [r6], #4\n"
    "  str r6, [sp, #20]\n"
    "  add r12, r7\n"
    "  mov r3, r2\n"
    "  mov r4, r2\n"
    "  mov r5, r2\n"
    "2:\n" FOUR_BY_FOUR FOUR_BY_FOUR
    "  cmp r0, r12\n"
    "  bne 2b\n"
    "  ldmia.w sp, {r1, r8-r11}\n" FINISH_FOURTH("r2", "0") FINISH_FOURTH("r3", "1")
        FINISH_FOURTH("r4", "2") FINISH_FOURTH("r5", "3")
    "  ldr r6, [sp, #24]\n"
    "  add r11, r6\n"
    "  str r11, [sp, #16]\n"
    "  subs lr, #1\n"
    "  bne 1b\n"
    "  add sp, #36\n"
    "  pop {r4-r11, pc}\n"
    "  .size kws_dsp_columns, . - kws_dsp_columns\n"
    "  .popsection\n");

#else

static void kws_dsp_columns(const columns_t *run) {
  for (int32_t r = 0; r < run->rows; ++r) {
    int32_t sums[4];
    sum_columns(run->panel + r * run->row_bytes / 2, run->packed, run->row_bytes, sums);
    for (int c = 0; c < 4; ++c) {
      run->y[r * run->y_stride + c] = finish_common(
          sums[c] + run->start[r], run->multiplier, run->right, run->rounding);
    }
  }
}

#endif

void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch) {
  enum { ROWS = 4 };
  const int32_t row = KWS_ROUND_UP(inner, 8);
  int16_t *packed = scratch;
  int16_t *panel = packed + 4 * row;
  if (m == 1) {
    row_by_columns(p, a, b, b_stride, n, inner, y, panel);
    return;
  }
  int32_t corrections[ROWS];
  const int common = is_common(p);
  const int32_t right = common ? -p->shift : 1;
  columns_t run = {.packed = packed,
                   .multiplier = p->multiplier,
                   .right = right,
                   .rounding = (2 * p->output_zero_point + 1) * (1 << (right - 1)),
                   .start = corrections,
                   .y_stride = y_stride,
                   .panel = panel,
                   .row_bytes = 2 * row};
  if (inner != row) { /* what follows the last of them is read */
    memset(scratch, 0, KWS_BATCH_MATMUL_COLUMNS_SCRATCH_BYTES((size_t)inner));
  }
  for (; m > 0; m -= ROWS, a += ROWS * a_stride, y += ROWS * y_stride) {
    run.rows = kws_min(m, ROWS);
    for (int32_t r = 0; r < run.rows; ++r) {
      corrections[r] =
          -p->b_zero_point *
          widen_less(a + r * a_stride, inner, p->a_zero_point, 0, 1, panel + row * r);
    }
    for (int32_t c = 0; c < n; c += 4) {
      const int32_t columns = kws_min(n - c, 4);
      pack_columns(b + c, b_stride, inner, columns, packed);
      run.y = y + c;
      if (common && columns == 4) {
        kws_dsp_columns(&run);
        continue;
      }
      for (int32_t r = 0; r < run.rows; ++r) {
        int32_t sums[4];
        sum_columns(panel + row * r, packed, 2 * row, sums);
        for (int32_t i = 0; i < columns; ++i) {
          run.y[r * y_stride + i] = finish_product(p, sums[i] + corrections[r]);
        }
      }
    }
  }
}

/* ---- Linear attention ---- */

/* Four columns of S: newest and oldest product of an element in one SMLAD. */
static void move_columns(const kws_linear_term_t *moving, const kws_linear_term_t *end,
                         const uint32_t *values, int32_t *columns) {
  const uint32_t value0 = values[0], value1 = values[1];
  const uint32_t value2 = values[2], value3 = values[3];
  for (; moving < end; ++moving) {
    const uint32_t keys = (uint32_t)moving->value;
    int32_t *row = columns + moving->offset;
    row[0] = dual_multiply_add(keys, value0, row[0]);
    row[1] = dual_multiply_add(keys, value1, row[1]);
    row[2] = dual_multiply_add(keys, value2, row[2]);
    row[3] = dual_multiply_add(keys, value3, row[3]);
  }
}

/* Queries times two columns of S, its zero point not taken away. */
static void ask_columns(const kws_batch_matmul_t *p, const kws_linear_term_t *asking,
                        const kws_linear_term_t *end, const int32_t *columns,
                        int32_t *asked) {
  const int32_t multiplier = p->multiplier, right = -p->shift;
  const int32_t rounding = (2 * p->output_zero_point + 1) * (1 << (right - 1));
  int32_t asked0 = 0, asked1 = 0;
  for (; asking < end; ++asking) {
    const int32_t query = asking->value;
    const int32_t *row = columns + asking->offset;
    asked0 += query * finish_down(row[0], multiplier, right, rounding);
    asked1 += query * finish_down(row[1], multiplier, right, rounding);
  }
  asked[0] = asked0;
  asked[1] = asked1;
}

void kws_linear_columns(const kws_linear_attention_t *p,
                        const kws_linear_term_t *moving, int32_t moving_count,
                        const kws_linear_term_t *asking, int32_t asking_count,
                        const uint32_t *values, int32_t *columns, int8_t *mixed) {
  const int32_t width = p->width;
  const int common = is_common(&p->state);
  const kws_linear_term_t *end = asking + asking_count;
  int32_t correction = 0;
  for (const kws_linear_term_t *term = asking; term < end; ++term) {
    correction -= term->value;
  }
  correction *= p->state.output_zero_point;
  for (int32_t c = 0; c < width; c += 4, columns += 4 * width) {
    int32_t asked[4] = {0, 0, 0, 0};
    move_columns(moving, moving + moving_count, values + c, columns);
    if (common) {
      ask_columns(&p->state, asking, end, columns, asked);
      ask_columns(&p->state, asking, end, columns + 2, asked + 2);
    } else {
      for (const kws_linear_term_t *term = asking; term < end; ++term) {
        const int32_t *row = columns + term->offset;
        for (int32_t i = 0; i < 4; ++i) {
          asked[i] += term->value * finish_product(&p->state, row[i]);
        }
      }
    }
    const int32_t part = kws_min(width - c, 4);
    for (int32_t i = 0; i < part; ++i) {
      mixed[c + i] = finish_product(&p->mix, asked[i] + correction);
    }
  }
}

/* ---- Attention ---- */

void kws_attention_prepare(const kws_attention_t *p, int8_t *k, int8_t *v_transposed,
                           void *scratch) {
  const int32_t width = p->heads * p->head_dim;
  const int32_t tokens = p->tokens;
  if (tokens % 2 != 0) memset(k + tokens * width, 0, (size_t)width);
  pack_in_place(k, tokens, width, scratch);
  pack_in_place(v_transposed, width, KWS_ATTENTION_V_STRIDE(tokens), scratch);
}

void kws_attention_rows_s8(const kws_attention_t *p, const int8_t *q, int32_t rows,
                           const int8_t *k, const int8_t *v_transposed, int8_t *out,
                           void *scratch) {
  const int32_t tokens = p->tokens;
  const int32_t head_dim = p->head_dim;
  const int32_t width = p->heads * head_dim;
  const int32_t stride = KWS_ATTENTION_V_STRIDE(tokens);
  int16_t *q_panel = scratch;
  int16_t *p_panel = q_panel + BLOCK_ROWS * head_dim;
  int8_t *scores = (int8_t *)(p_panel + BLOCK_ROWS * stride);
  int32_t corrections[BLOCK_ROWS];
  for (; rows > 0; rows -= BLOCK_ROWS) {
    const int32_t block = kws_min(rows, BLOCK_ROWS);
    for (int32_t column = 0; column < width; column += head_dim) {
      widen_block(&p->scores, q + column, width, block, head_dim, q_panel, corrections);
      /* A head's columns of a pair of K's rows are 2 * head_dim bytes together. */
      panel_product(&p->scores, q_panel, corrections, block, k + 2 * column,
                    2 * (width - head_dim), tokens, head_dim / 4, scores, stride);
      for (int32_t r = 0; r < block; ++r) {
        int8_t *row = scores + r * stride;
        if (p->score_table) kws_table_s8(p->score_table, row, tokens, row);
        kws_softmax_row(&p->softmax, row, tokens, row);
      }
      widen_block(&p->values, scores, stride, block, tokens, p_panel, corrections);
      panel_product(&p->values, p_panel, corrections, block,
                    v_transposed + column * stride, 0, head_dim, stride / 4,
                    out + column, width);
    }
    q += block * width;
    out += block * width;
  }
}

/* ---- SOFTMAX ---- */

/* The larger of each pair of bytes. */
static inline uint32_t larger_bytes(uint32_t a, uint32_t b) {
  uint32_t result;
#if defined(__ARM_FEATURE_DSP)
  __asm(
      "ssub8 %0, %1, %2\n"
      "  sel %0, %1, %2\n"
      : "=&r"(result)
      : "r"(a), "r"(b)
      : "cc");
#else
  result = 0;
  for (int32_t bit = 0; bit < 32; bit += 8) {
    const int8_t x = (int8_t)(a >> bit), y = (int8_t)(b >> bit);
    result |= (uint32_t)(uint8_t)(x > y ? x : y) << bit;
  }
#endif
  return result;
}

/* largest - x of each byte, all of which are at most `largest`. */
static inline uint32_t steps_below(uint32_t largest, uint32_t x) {
#if defined(__ARM_FEATURE_DSP)
  uint32_t result;
  __asm("usub8 %0, %1, %2" : "=r"(result) : "r"(largest), "r"(x) : "cc");
  return result;
#else
  uint32_t result = 0;
  for (int32_t bit = 0; bit < 32; bit += 8) {
    result |= (((largest >> bit) - (x >> bit)) & 0xffu) << bit;
  }
  return result;
#endif
}

/* Nothing is negative, so TFLM's two roundings are one: see kernels_common.c. */
static inline int8_t share_of(int32_t exponential, int32_t reciprocal,
                              uint64_t rounding, int32_t shift) {
  const uint64_t product =
      rounding + (uint64_t)(uint32_t)exponential * (uint32_t)reciprocal;
  return (int8_t)kws_saturate((int32_t)((uint32_t)(product >> 32) >> shift) +
                              KWS_SOFTMAX_ZERO_POINT);
}

/* As in kernels_common.c, four elements at a time. */
void kws_softmax_row(const kws_softmax_t *p, const int8_t *x, int32_t columns,
                     int8_t *y) {
  const int32_t whole = columns & ~3;
  const int32_t *const table = p->exp_table;
  int32_t largest = INT8_MIN;
  uint32_t four = 0x80808080u;
  for (int32_t c = 0; c < whole; c += 4) four = larger_bytes(four, load_word(x + c));
  for (int32_t bit = 0; bit < 32; bit += 8) {
    const int8_t value = (int8_t)(four >> bit);
    largest = value > largest ? value : largest;
  }
  for (int32_t c = whole; c < columns; ++c) largest = x[c] > largest ? x[c] : largest;
  four = (uint32_t)(uint8_t)largest * 0x01010101u;
  uint32_t sum = 0; /* Q12.19 */
  for (int32_t c = 0; c < whole; c += 4) {
    const uint32_t steps = steps_below(four, load_word(x + c));
    sum += ((uint32_t)table[steps & 0xffu] + 2048u) >> 12;
    sum += ((uint32_t)table[(steps >> 8) & 0xffu] + 2048u) >> 12;
    sum += ((uint32_t)table[(steps >> 16) & 0xffu] + 2048u) >> 12;
    sum += ((uint32_t)table[steps >> 24] + 2048u) >> 12;
  }
  for (int32_t c = whole; c < columns; ++c) {
    sum += ((uint32_t)table[largest - x[c]] + 2048u) >> 12;
  }
  int32_t exponent;
  const int32_t reciprocal = kws_softmax_reciprocal(sum, &exponent);
  const uint64_t rounding = 0x40000000u + (UINT64_C(0x40000000) << exponent);
  const int32_t shift = exponent - 1;
  for (int32_t c = 0; c < whole; c += 4) {
    const uint32_t steps = steps_below(four, load_word(x + c));
    y[c] = share_of(table[steps & 0xffu], reciprocal, rounding, shift);
    y[c + 1] = share_of(table[(steps >> 8) & 0xffu], reciprocal, rounding, shift);
    y[c + 2] = share_of(table[(steps >> 16) & 0xffu], reciprocal, rounding, shift);
    y[c + 3] = share_of(table[steps >> 24], reciprocal, rounding, shift);
  }
  for (int32_t c = whole; c < columns; ++c) {
    y[c] = share_of(table[largest - x[c]], reciprocal, rounding, shift);
  }
}

/* ---- Element-wise ---- */

/* The last requantisation of ADD and MUL: to the right, no clamp of its own. */
typedef struct {
  int32_t multiplier;
  int32_t rounding; /* half and zero point */
  int32_t right;    /* 1..22 */
} output_t;

static inline output_t output_of(int32_t multiplier, int32_t shift,
                                 int32_t zero_point) {
  const int32_t right = -shift;
  const output_t result = {multiplier, (2 * zero_point + 1) * (1 << (right - 1)),
                           right};
  return result;
}

/* Of half of `twice`. */
static inline int8_t finish_element(output_t o, int32_t twice) {
  const int32_t value = kws_multiply_high_add(o.rounding, twice, o.multiplier);
  return (int8_t)kws_saturate((value + (twice >> 31)) >> o.right);
}

/* Does the common path do it? */
static int is_ordinary(int32_t shift, int32_t low, int32_t high) {
  return shift < 0 && shift >= -LARGEST_RIGHT_SHIFT && low == INT8_MIN &&
         high == INT8_MAX;
}

/* The input of ADD whose scale is not the larger. TFLM shifts it left by 20 and
 * requantises: round(x * 2^20 * multiplier / 2^31), then a shift to the right. */
typedef struct {
  int32_t constant; /* -zero point * 2^21 */
  int32_t multiplier, half, right;
} scaled_t;

static inline int32_t scale_element(scaled_t s, int32_t x) {
  const int32_t value = x * (1 << 21) + s.constant;
  return (kws_multiply_high_add(s.half, value, s.multiplier) + (value >> 31)) >>
         s.right;
}

/* ADD of two inputs of y's shape: `unit` has multiplier 1/2 and no shift, so it is
 * unit * 2^20 + constant. */
static inline void add_same_shape(output_t o, scaled_t s, const int8_t *x,
                                  const int8_t *unit, int32_t constant, int32_t n,
                                  int8_t *y) {
  for (const int8_t *end = y + n; y < end;) {
    const int32_t term = 2 * scale_element(s, *x++);
    *y++ = finish_element(o, constant + *unit++ * (1 << 20) + term);
  }
}

static int is_scaled(int32_t shift) {
  return shift < 0 && shift >= -LARGEST_RIGHT_SHIFT;
}

static inline scaled_t scaled_of(int32_t zero_point, int32_t multiplier,
                                 int32_t shift) {
  const scaled_t result = {-zero_point * (1 << 21), multiplier, 1 << (-shift - 1),
                           -shift};
  return result;
}

void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  if (p->x1_factor != 0) {
    kws_add_linear_s8(p, shape, x1, x2, y);
    return;
  }
  const kws_add_t q = *p;
  const kws_broadcast_t s = kws_flatten(shape);
  const int unit1 = kws_is_unit(q.x1_multiplier, q.x1_shift) && is_scaled(q.x2_shift);
  const int unit2 = kws_is_unit(q.x2_multiplier, q.x2_shift) && is_scaled(q.x1_shift);
  const int same_shape = s.rows == 1 && s.x1_column_step == 1 && s.x2_column_step == 1;
  if (!is_ordinary(q.output_shift, q.activation_min, q.activation_max) ||
      !(unit1 || unit2) || !same_shape || q.subtract) {
    kws_add_any_s8(p, shape, x1, x2, y);
    return;
  }
  const output_t o =
      output_of(q.output_multiplier, q.output_shift, q.output_zero_point);
  if (unit1) {
    add_same_shape(o, scaled_of(q.x2_zero_point, q.x2_multiplier, q.x2_shift), x2, x1,
                   -q.x1_zero_point * (1 << 20), s.columns, y);
  } else {
    add_same_shape(o, scaled_of(q.x1_zero_point, q.x1_multiplier, q.x1_shift), x1, x2,
                   -q.x2_zero_point * (1 << 20), s.columns, y);
  }
}

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y) {
  const kws_mul_t q = *p;
  kws_broadcast_t s = kws_flatten(shape);
  if (!is_ordinary(q.output_shift, q.activation_min, q.activation_max)) {
    kws_mul_any_s8(p, shape, x1, x2, y);
    return;
  }
  const output_t o =
      output_of(q.output_multiplier, q.output_shift, q.output_zero_point);
  int32_t zero_point1 = q.x1_zero_point, zero_point2 = q.x2_zero_point;
  if (s.x1_column_step == 0) { /* one value for the row comes second */
    const int8_t *x = x1;
    const int32_t row_step = s.x1_row_step, column_step = s.x1_column_step;
    x1 = x2;
    s.x1_row_step = s.x2_row_step;
    s.x1_column_step = s.x2_column_step;
    x2 = x;
    s.x2_row_step = row_step;
    s.x2_column_step = column_step;
    zero_point1 = q.x2_zero_point;
    zero_point2 = q.x1_zero_point;
  }
  for (int32_t r = 0; r < s.rows; ++r) {
    if (s.x2_column_step != 0) {
#pragma GCC unroll 4
      for (int32_t c = 0; c < s.columns; ++c) {
        y[c] = finish_element(o, (x1[c] - zero_point1) * (2 * x2[c] - 2 * zero_point2));
      }
    } else {
      const int32_t factor = 2 * (*x2 - zero_point2), less = -zero_point1 * factor;
      const int32_t step = s.x1_column_step;
      if (step != 0) {
#pragma GCC unroll 4
        for (int32_t c = 0; c < s.columns; ++c) {
          y[c] = finish_element(o, x1[c] * factor + less);
        }
      } else {
        const int8_t value = finish_element(o, *x1 * factor + less);
        for (int32_t c = 0; c < s.columns; ++c) y[c] = value;
      }
    }
    x1 += s.x1_row_step;
    x2 += s.x2_row_step;
    y += s.columns;
  }
}

/* ---- Sums ---- */

int32_t kws_sum_s8(const int8_t *x, int32_t n) {
  enum { WORDS = 255 }; /* of 128s, that 16-bit lanes hold */
  int32_t sum = 0;
  for (; n >= 4;) {
    const int32_t words = kws_min(n / 4, WORDS);
    uint32_t even = 0, odd = 0;
    for (const int8_t *end = x + 4 * words; x < end; x += 4) {
      const uint32_t four = load_word(x);
      even = add_even_bytes(even, four);
      odd = add_odd_bytes(odd, four);
    }
    sum = dual_multiply_add(even, PAIR(1), sum);
    sum = dual_multiply_add(odd, PAIR(1), sum);
    n -= 4 * words;
  }
  for (; n > 0; --n) sum += *x++;
  return sum;
}

void kws_sum_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int32_t *sums) {
  int32_t c = 0;
  for (; c + 4 <= columns && rows <= 255; c += 4) {
    uint32_t even = 0, odd = 0;
    for (const int8_t *at = x + c, *end = x + rows * columns; at < end; at += columns) {
      const uint32_t four = load_word(at);
      even = add_even_bytes(even, four);
      odd = add_odd_bytes(odd, four);
    }
    sums[c] = (int16_t)even;
    sums[c + 1] = (int16_t)odd;
    sums[c + 2] = (int16_t)(even >> 16);
    sums[c + 3] = (int16_t)(odd >> 16);
  }
  for (; c < columns; ++c) {
    int32_t sum = 0;
    for (const int8_t *at = x + c, *end = x + rows * columns; at < end; at += columns) {
      sum += *at;
    }
    sums[c] = sum;
  }
}

#endif
