/* Matrix products and attention with SMLAD: Cortex-M4, M7, M33. See kws_kernels.h.
 *
 * All products go through one block of 3 rows by 2 columns. Activations are widened to
 * 16 bits once per row, in the order that SXTB16 gives (bytes 0, 2, then 1, 3), three
 * rows interleaved: a "panel". The other operand's rows come in pairs, four bytes of
 * each in turn, laid so offline (weight_layout.py) or by pack_pair below. So the inner
 * loop walks two pointers, and needs 20 instructions for 24 MACs.
 */
#include "kernels_internal.h"

#if defined(KWS_CORE_DSP)

#include <string.h>

#define BLOCK_ROWS 3
#define BLOCK_COLUMNS 2

/* Two signed 16-bit values in a word. */
#define PAIR(value) (((uint32_t)(value)&0xffffu) | ((uint32_t)(value) << 16))

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

static inline int32_t dual_multiply_add(uint32_t a, uint32_t b, int32_t sum) {
  int32_t result;
  __asm("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

/* sums[2 * r + c] = sum over `groups` groups of 4 of panel row r times pair row c.
 * Assembly because the block needs all 14 registers, which neither compiler manages.
 *   r0 panel, r1 pair, r2-r7 sums, r8 r9 a row's 4 values, r10-r12 lr the columns' */
void kws_dsp_block(const int16_t *panel, const int8_t *pair, int32_t groups,
                   int32_t *sums);

#define ROW(column0, column1)                      \
  "  ldrd r8, r9, [r0], #8\n"                      \
  "  smlad " column0 ", r8, r12, " column0 "\n"    \
  "  smlad " column0 ", r9, r10, " column0 "\n"    \
  "  smlad " column1 ", r8, lr, " column1 "\n"     \
  "  smlad " column1 ", r9, r11, " column1 "\n"
#define GROUP                     \
  "  ldrd r10, r11, [r1], #8\n"   \
  "  sxtb16 r12, r10\n"           \
  "  sxtb16 r10, r10, ror #8\n"   \
  "  sxtb16 lr, r11\n"            \
  "  sxtb16 r11, r11, ror #8\n"   \
  ROW("r2", "r3") ROW("r4", "r5") ROW("r6", "r7")

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_dsp_block, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_dsp_block\n"
    "  .type kws_dsp_block, %function\n"
    "  .thumb_func\n"
    "kws_dsp_block:\n"
    "  push {r3-r11, lr}\n"
    "  add r12, r1, r2, lsl #3\n" /* end of the pair */
    "  bic r3, r2, #3\n"
    "  add r3, r1, r3, lsl #3\n" /* end of the groups taken four at a time */
    "  push {r3, r12}\n"
    "  mov r2, #0\n"
    "  mov r4, #0\n"
    "  mov r5, #0\n"
    "  mov r6, #0\n"
    "  mov r7, #0\n"
    "  cmp r1, r3\n"
    "  mov r3, #0\n"
    "  beq 2f\n"
    "1:\n" GROUP GROUP GROUP GROUP
    "  ldr r8, [sp]\n"
    "  cmp r1, r8\n"
    "  bne 1b\n"
    "2:\n"
    "  ldr r8, [sp, #4]\n"
    "  cmp r1, r8\n"
    "  beq 3f\n" GROUP
    "  b 2b\n"
    "3:\n"
    "  ldr r8, [sp, #8]\n"
    "  stm r8, {r2-r7}\n"
    "  add sp, sp, #8\n"
    "  pop {r3-r11, pc}\n"
    "  .size kws_dsp_block, . - kws_dsp_block\n"
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

static inline int32_t dual_multiply_add(uint32_t a, uint32_t b, int32_t sum) {
  return sum + (int16_t)a * (int16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
}

static void kws_dsp_block(const int16_t *panel, const int8_t *pair, int32_t groups,
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
        *sum = dual_multiply_add(row[0], add_even_bytes(0, column), *sum);
        *sum = dual_multiply_add(row[1], add_odd_bytes(0, column), *sum);
      }
    }
    pair += 4 * BLOCK_COLUMNS;
  }
}

#endif

/* ---- Panels and pairs ------------------------------------------------------------ */

/* Row `row` of a panel: x - zero_point, padded with zeros to a group of 4.
 * Returns the sum. */
static int32_t widen(const int8_t *x, int32_t n, int32_t zero_point, int32_t row,
                     int16_t *panel) {
  const uint32_t offset = PAIR(-zero_point);
  const uint32_t ones = PAIR(1);
  int32_t sum = 0;
  panel += 4 * row;
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) {
    uint32_t bytes;
    uint32_t halves[2];
    memcpy(&bytes, x + i, sizeof bytes);
    halves[0] = add_even_bytes(offset, bytes);
    halves[1] = add_odd_bytes(offset, bytes);
    sum = dual_multiply_add(halves[0], ones, sum);
    sum = dual_multiply_add(halves[1], ones, sum);
    memcpy(panel, halves, sizeof halves);
    panel += 4 * BLOCK_ROWS;
  }
  if (i < n) {
    int16_t rest[4] = {0, 0, 0, 0}; /* elements 0, 2, 1, 3 */
    for (int32_t k = 0; i + k < n; ++k) {
      const int32_t value = x[i + k] - zero_point;
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
    memcpy(temporary, pair, (size_t)(2 * n));
    pack_pair(temporary, temporary + n, n, pair);
  }
}

/* ---- FULLY_CONNECTED ---------------------------------------------------------------- */

/* Up to 3 rows of one output. */
static inline void finish_column(const int32_t *sums, int32_t rows, int32_t bias,
                                 int32_t multiplier, int32_t shift,
                                 const kws_fully_connected_t *p, int8_t *y,
                                 int32_t row_step) {
  const int32_t zero_point = p->output_zero_point;
  const int32_t low = p->activation_min;
  const int32_t high = p->activation_max;
  if (shift < 0) {
    const int32_t right = -1 - shift;
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t product = kws_high_multiply(sums[BLOCK_COLUMNS * r] + bias, multiplier);
      const int32_t value = (((product + (product >> 31)) >> right) + 1) >> 1;
      y[r * row_step] = (int8_t)kws_clamp(value + zero_point, low, high);
    }
  } else {
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t value =
          kws_requantize(sums[BLOCK_COLUMNS * r] + bias, multiplier, shift);
      y[r * row_step] = (int8_t)kws_clamp(value + zero_point, low, high);
    }
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
    const int32_t block = kws_min(rows, BLOCK_ROWS);
    for (int32_t r = 0; r < block; ++r) widen(x + r * inputs, inputs, 0, r, panel);
    for (int32_t r = block; r < BLOCK_ROWS; ++r) widen(x, inputs, 0, r, panel);
    const int8_t *pair = p->weights;
    for (int32_t o = 0; o < outputs; o += BLOCK_COLUMNS) {
      kws_dsp_block(panel, pair, groups, sums);
      pair += 4 * BLOCK_COLUMNS * groups;
      finish_column(sums, block, p->bias[o], p->multiplier[o], p->shift[o], p,
                    y + o * output_step, row_step);
      if (o + 1 < outputs) {
        finish_column(sums + 1, block, p->bias[o + 1], p->multiplier[o + 1],
                      p->shift[o + 1], p, y + (o + 1) * output_step, row_step);
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

void kws_fully_connected_transposed_s8(const kws_fully_connected_t *p,
                                       const int8_t *x, int32_t rows, int8_t *y,
                                       int32_t y_stride, void *scratch) {
  fully_connected(p, x, rows, y, 1, y_stride, scratch);
}

/* ---- BATCH_MATMUL --------------------------------------------------------------------- */

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
    corrections[r] = -p->b_zero_point * widen(row, n, p->a_zero_point, r, panel);
  }
}

/* A panel against `columns` packed rows, pair_step bytes between pairs. */
static void panel_product(const kws_batch_matmul_t *p, const int16_t *panel,
                          const int32_t *corrections, int32_t rows, const int8_t *pair,
                          int32_t pair_step, int32_t columns, int32_t groups, int8_t *y,
                          int32_t y_stride) {
  int32_t sums[BLOCK_ROWS * BLOCK_COLUMNS];
  for (int32_t c = 0; c < columns; c += BLOCK_COLUMNS) {
    kws_dsp_block(panel, pair, groups, sums);
    pair += pair_step;
    finish_block(p, sums, corrections, rows, kws_min(columns - c, BLOCK_COLUMNS), y + c,
                 y_stride);
  }
}

void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a,
                         int32_t a_stride, const int8_t *b_rows, int32_t b_stride,
                         int32_t m, int32_t n, int32_t inner, int8_t *y,
                         int32_t y_stride, void *scratch) {
  const int32_t groups = (inner + 3) / 4;
  int16_t *panel = scratch;
  int8_t *pair = (int8_t *)(panel + 4 * BLOCK_ROWS * groups);
  int32_t corrections[BLOCK_ROWS];
  int32_t sums[BLOCK_ROWS * BLOCK_COLUMNS];
  for (int32_t r = 0; r < m; r += BLOCK_ROWS) {
    const int32_t rows = kws_min(m - r, BLOCK_ROWS);
    widen_block(p, a + r * a_stride, a_stride, rows, inner, panel, corrections);
    for (int32_t c = 0; c < n; c += BLOCK_COLUMNS) {
      const int32_t columns = kws_min(n - c, BLOCK_COLUMNS);
      const int8_t *b = b_rows + c * b_stride;
      pack_pair(b, columns > 1 ? b + b_stride : b, inner, pair);
      kws_dsp_block(panel, pair, groups, sums);
      finish_block(p, sums, corrections, rows, columns, y + r * y_stride + c, y_stride);
    }
  }
}

/* ---- Attention ------------------------------------------------------------------------- */

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
      panel_product(&p->scores, q_panel, corrections, block, k + 2 * column, 2 * width,
                    tokens, head_dim / 4, scores, stride);
      for (int32_t r = 0; r < block; ++r) {
        int8_t *row = scores + r * stride;
        if (p->score_table) kws_table_s8(p->score_table, row, tokens, row);
        kws_softmax_row(&p->softmax, row, tokens, row);
      }
      widen_block(&p->values, scores, stride, block, tokens, p_panel, corrections);
      panel_product(&p->values, p_panel, corrections, block,
                    v_transposed + column * stride, 2 * stride, head_dim, stride / 4,
                    out + column, width);
    }
    q += block * width;
    out += block * width;
  }
}

#endif
