/* Counts the instructions of each kernel under QEMU's -icount: one line each,
 *   name instructions units
 * where a unit is a multiply-accumulate or, for element-wise kernels, an element.
 * The data are arbitrary; no kernel's path depends on them but by a few percent. */
#include "board_config.h"
#include "kws_kernels.h"
#include "semihosting.h"

_Noreturn void kws_board_exit(int code);
_Noreturn void kws_board_exit(int code) {
  semihosting_exit(code);
}
void kws_board_write(const char *text);
void kws_board_write(const char *text) {
  semihosting_write0(text);
}

#define COUNTER            (*(volatile uint32_t *)(BOARD_FPGAIO + 0x18))
#define PRESCALE           (*(volatile uint32_t *)(BOARD_FPGAIO + 0x1c))
#define NS_PER_INSTRUCTION 256u

enum { TOKENS = 98, DIM = 64, MEL = 40, HIDDEN = 256 };

static int8_t x[TOKENS * HIDDEN] __attribute__((aligned(4)));
static int8_t x2[TOKENS * DIM] __attribute__((aligned(4)));
static int8_t y[TOKENS * HIDDEN] __attribute__((aligned(4)));
static int8_t weights[HIDDEN * DIM] __attribute__((aligned(4)));
static int8_t k[KWS_ATTENTION_K_BYTES(TOKENS, DIM)] __attribute__((aligned(4)));
static int8_t v[KWS_ATTENTION_V_BYTES(TOKENS, DIM)] __attribute__((aligned(4)));
static int32_t scratch[4096];
static int32_t bias[HIDDEN];
static int32_t multiplier[HIDDEN];
static int8_t shift[HIDDEN];
static int32_t exp_table[256];
static int8_t table[256];

static uint32_t seed = 1;

static int8_t any(void) {
  seed = seed * 1664525u + 1013904223u;
  return (int8_t)(seed >> 24);
}

static void fill(int8_t *to, size_t n) {
  for (size_t i = 0; i < n; ++i) to[i] = any();
}

static void print_number(uint32_t value) {
  char digits[12];
  char *at = digits + sizeof digits - 1;
  *at = '\0';
  do {
    *--at = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  semihosting_write0(at);
}

static uint32_t begun;

static void begin(void) {
  begun = COUNTER;
}

static void end(const char *name, uint32_t units) {
  const uint32_t ticks = COUNTER - begun;
  const uint32_t instructions =
      (uint32_t)(((uint64_t)ticks * BOARD_TICK_NS) / NS_PER_INSTRUCTION);
  semihosting_write0(name);
  semihosting_write0(" ");
  print_number(instructions);
  semihosting_write0(" ");
  print_number(units);
  semihosting_write0("\n");
}

static kws_fully_connected_t product(uint16_t inputs, uint16_t outputs) {
  return (kws_fully_connected_t){.inputs = inputs,
                                 .outputs = outputs,
                                 .weights = weights,
                                 .bias = bias,
                                 .multiplier = multiplier,
                                 .shift = shift,
                                 .output_zero_point = 3,
                                 .activation_min = -128,
                                 .activation_max = 127,
                                 .ordinary = 1};
}

int main(void) {
  PRESCALE = 0;
  fill(x, sizeof x);
  fill(x2, sizeof x2);
  fill(weights, sizeof weights);
  fill(k, sizeof k);
  fill(v, sizeof v);
  fill(table, sizeof table);
  for (int i = 0; i < HIDDEN; ++i) {
    bias[i] = 50 * any();
    multiplier[i] = 1518500250;
    shift[i] = -9;
    exp_table[i] = i < 128 ? INT32_MAX >> (i / 8) : 0;
  }

  kws_fully_connected_t p = product(DIM, DIM);
  begin();
  kws_fully_connected_s8(&p, x, TOKENS, y, scratch);
  end("fully_connected_98x64x64", TOKENS * DIM * DIM);
  begin();
  kws_fully_connected_transposed_s8(&p, x, TOKENS, v, KWS_ATTENTION_V_STRIDE(TOKENS),
                                    scratch);
  end("fully_connected_transposed_98x64x64", TOKENS * DIM * DIM);
  p = product(48, 96);
  begin();
  kws_fully_connected_s8(&p, x, 49, y, scratch);
  end("fully_connected_49x48x96", 49 * 48 * 96);
  p = product(HIDDEN, DIM);
  begin();
  kws_fully_connected_s8(&p, x, TOKENS, y, scratch);
  end("fully_connected_98x256x64", TOKENS * HIDDEN * DIM);
  p = product(DIM, 12);
  begin();
  kws_fully_connected_s8(&p, x, 1, y, scratch);
  end("fully_connected_1x64x12", DIM * 12);

  const kws_conv_2d_t stem = {.input_height = TOKENS,
                              .input_width = MEL,
                              .input_channels = 1,
                              .output_height = TOKENS / 2,
                              .output_width = MEL / 4,
                              .filter_height = 5,
                              .filter_width = 5,
                              .stride_height = 2,
                              .stride_width = 4,
                              .dilation_height = 1,
                              .dilation_width = 1,
                              .pad_top = 1,
                              .pad_left = 0,
                              .input_zero_point = -4,
                              .product = product(25, 16)};
  begin();
  kws_conv_2d_s8(&stem, x, 0, TOKENS / 2, y, scratch);
  end("conv_2d_stem_5x5x16", TOKENS / 2 * (MEL / 4) * 25 * 16);

  /* One token of a stream; the depthwise stem of a DS-CNN, as it is and halving. */
  kws_depthwise_conv_2d_t depthwise = {.input_height = 5,
                                       .input_width = 1,
                                       .output_height = 1,
                                       .output_width = 1,
                                       .filter_height = 5,
                                       .filter_width = 1,
                                       .stride_height = 1,
                                       .stride_width = 1,
                                       .dilation_height = 1,
                                       .dilation_width = 1,
                                       .input_zero_point = -4,
                                       .taps = product(5, 48)};
  begin();
  kws_depthwise_conv_2d_s8(&depthwise, x, 0, 1, y, scratch);
  end("depthwise_conv_2d_token_5x48", 5 * 48);
  depthwise.input_height = depthwise.filter_height = 15;
  depthwise.taps = product(15, 64);
  begin();
  kws_depthwise_conv_2d_s8(&depthwise, x, 0, 1, y, scratch);
  end("depthwise_conv_2d_token_15x64", 15 * 64);
  depthwise.taps = product(9, DIM);
  depthwise.filter_height = depthwise.filter_width = 3;
  depthwise.pad_top = depthwise.pad_left = 1;
  depthwise.input_height = depthwise.output_height = 25;
  depthwise.input_width = depthwise.output_width = 5;
  begin();
  kws_depthwise_conv_2d_s8(&depthwise, x, 0, 25, y, scratch);
  end("depthwise_conv_2d_25x5x64_3x3", 25 * 5 * DIM * 9);
  depthwise.stride_height = depthwise.stride_width = 2;
  depthwise.output_height = 13;
  depthwise.output_width = 3;
  begin();
  kws_depthwise_conv_2d_s8(&depthwise, x, 0, 13, y, scratch);
  end("depthwise_conv_2d_25x5x64_3x3_by_2", 13 * 3 * DIM * 9);

  const kws_batch_matmul_t matmul = {.a_zero_point = 3,
                                     .b_zero_point = -7,
                                     .multiplier = 1518500250,
                                     .shift = -9,
                                     .activation_min = -128,
                                     .activation_max = 127,
                                     .output_zero_point = 5};
  begin();
  kws_batch_matmul_s8(&matmul, x, DIM, x2, DIM, TOKENS, TOKENS, DIM, y, TOKENS,
                      scratch);
  end("batch_matmul_98x98x64", TOKENS * TOKENS * DIM);

  /* The read-out of a stream: 4 queries' shares of 24 tokens, which add up to 1. */
  static int8_t shares[4 * 24];
  for (int32_t i = 0; i < 4 * 24; ++i) shares[i] = (int8_t)(2 * (i % 12) - 128);
  kws_batch_matmul_t pooling = matmul;
  pooling.a_zero_point = -128;
  begin();
  kws_batch_matmul_columns_s8(&pooling, shares, 24, x2, 48, 4, 48, 24, y, 48, scratch);
  end("batch_matmul_columns_4x48x24", 4 * 48 * 24);

  kws_attention_t attention = {.tokens = TOKENS,
                               .heads = 1,
                               .head_dim = DIM,
                               .scores = matmul,
                               .softmax = {exp_table},
                               .values = matmul};
  attention.values.a_zero_point = -128;
  begin();
  kws_attention_prepare(&attention, k, v, scratch);
  kws_attention_rows_s8(&attention, x, TOKENS, k, v, y, scratch);
  end("attention_98x64", 2 * TOKENS * TOKENS * DIM);

  begin();
  kws_softmax_s8(&attention.softmax, x, TOKENS, TOKENS, y);
  end("softmax_98x98", TOKENS * TOKENS);

  const kws_broadcast_t shape = {TOKENS, DIM, DIM, 1, DIM, 1};
  const kws_add_t add = {.x1_zero_point = 3,
                         .x2_zero_point = -9,
                         .output_zero_point = 1,
                         .x1_shift = 0,
                         .x2_shift = -1,
                         .output_shift = -18,
                         .x1_multiplier = 1 << 30,
                         .x2_multiplier = 1518500250,
                         .output_multiplier = 1318500250,
                         .activation_min = -128,
                         .activation_max = 127};
  begin();
  kws_add_s8(&add, &shape, x, x2, y);
  end("add_98x64", TOKENS * DIM);
  const kws_broadcast_t column = {TOKENS, DIM, DIM, 1, 1, 0};
  begin();
  kws_add_s8(&add, &column, x, x2, y);
  end("add_98x64_to_98x1", TOKENS * DIM);
  const kws_add_t linear_add = {
      .x1_factor = 1 << 22, .x2_factor = 1 << 21, .offset = 1 << 22};
  begin();
  kws_add_s8(&linear_add, &shape, x, x2, y);
  end("linear_add_98x64", TOKENS * DIM);
  begin();
  kws_add_s8(&linear_add, &column, x, x2, y);
  end("linear_add_98x64_to_98x1", TOKENS * DIM);
  const kws_mul_t mul = {.output_shift = -7,
                         .output_multiplier = 1318500250,
                         .activation_min = -128,
                         .activation_max = 127};
  begin();
  kws_mul_s8(&mul, &shape, x, x2, y);
  end("mul_98x64", TOKENS * DIM);
  begin();
  kws_table_s8(table, x, TOKENS * DIM, y);
  end("table_98x64", TOKENS * DIM);
  const kws_mean_t mean = {.count = TOKENS, .multiplier = 1318500250, .shift = -6};
  begin();
  kws_mean_rows_s8(&mean, x, DIM, y, scratch);
  end("mean_rows_98x64", TOKENS * DIM);

  /* A token of one head; half of the features and queries are 0. */
  enum { WIDTH = 32 };
  static int32_t sums[KWS_LINEAR_ATTENTION_STATE_BYTES(WIDTH) / 4];
  const kws_linear_attention_t linear = {.width = WIDTH,
                                         .state = matmul,
                                         .mean = mean,
                                         .mix = matmul,
                                         .weigh = matmul,
                                         .inverse = table,
                                         .scale = mul};
  for (int i = 0; i < 3 * WIDTH; i += 2) x[i] = (int8_t)matmul.a_zero_point;
  begin();
  kws_linear_attention_step_s8(&linear, x, x + WIDTH, x2, x2 + WIDTH, x + 2 * WIDTH,
                               sums, y, scratch);
  end("linear_attention_step_32", 3 * WIDTH * WIDTH + WIDTH);
  return 0;
}
