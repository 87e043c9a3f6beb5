/* Counts the instructions of one row of FULLY_CONNECTED, dense and by delta, against
 * the number of transmitted elements, under QEMU's -icount. One line each: inputs
 * outputs steps transmitted instructions rows, where transmitted is -1 for the dense
 * kernel, and steps is 1 for the rows of a stream, one a call. Changes are of CHANGE
 * int8 steps. */
#include "board_config.h"
#include "kws_delta.h"
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

enum { ROWS = 96, MOST = 192, CHANGE = 16, THRESHOLD = 8 };

static int8_t x[ROWS * MOST] __attribute__((aligned(8)));
static int8_t y[ROWS * MOST] __attribute__((aligned(8)));
static int8_t weights[MOST * MOST] __attribute__((aligned(8)));
static int32_t state[KWS_DELTA_FULLY_CONNECTED_STATE_BYTES(MOST, MOST) / 4];
static int32_t scratch[6 * MOST];
static int32_t kept[KWS_DELTA_STEP_STATE_BYTES(MOST, MOST) / 4];
static int32_t bias[MOST];
static int32_t multiplier[MOST];
static int8_t shift[MOST];

static void print_number(int32_t value) {
  char digits[13];
  char *at = digits + sizeof digits - 1;
  uint32_t rest = value < 0 ? (uint32_t)-value : (uint32_t)value;
  *at = '\0';
  do {
    *--at = (char)('0' + rest % 10);
    rest /= 10;
  } while (rest > 0);
  if (value < 0) *--at = '-';
  semihosting_write0(at);
  semihosting_write0(" ");
}

static void print_line(int32_t inputs, int32_t outputs, int32_t steps, int32_t sent,
                       uint32_t ticks) {
  const uint64_t ns = (uint64_t)ticks * BOARD_TICK_NS;
  print_number(inputs);
  print_number(outputs);
  print_number(steps);
  print_number(sent);
  print_number((int32_t)(ns / NS_PER_INSTRUCTION));
  print_number(ROWS);
  semihosting_write0("\n");
}

/* Rows of which each differs from the one before in `sent` elements, spread evenly. */
static void fill_rows(int32_t inputs, int32_t sent) {
  for (int32_t i = 0; i < inputs; ++i) {
    const int32_t moves = (i + 1) * sent / inputs - i * sent / inputs;
    for (int32_t row = 0; row < ROWS; ++row) {
      x[row * inputs + i] = (int8_t)(row & moves ? i - 64 + CHANGE : i - 64);
    }
  }
}

static kws_delta_fully_connected_t product(int32_t inputs, int32_t outputs) {
  return (kws_delta_fully_connected_t){.product = {.inputs = (uint16_t)inputs,
                                                   .outputs = (uint16_t)outputs,
                                                   .weights = weights,
                                                   .bias = bias,
                                                   .multiplier = multiplier,
                                                   .shift = shift,
                                                   .activation_min = -128,
                                                   .activation_max = 127,
                                                   .ordinary = 1},
                                       .columns = weights,
                                       .threshold = THRESHOLD};
}

static void measure(int32_t inputs, int32_t outputs) {
  kws_delta_fully_connected_t p = product(inputs, outputs);
  uint32_t begun = COUNTER;
  kws_fully_connected_s8(&p.product, x, ROWS, y, scratch);
  print_line(inputs, outputs, 0, -1, COUNTER - begun);
  p.product.weights = NULL;
  for (int32_t eighth = 0; eighth <= 8; ++eighth) {
    const int32_t sent = inputs * eighth / 8;
    uint32_t counted = 0;
    fill_rows(inputs, sent);
    kws_delta_fully_connected_s8(&p, x, 1, 0, 1, y, outputs, 1, state, scratch,
                                 &counted);
    begun = COUNTER;
    /* Row 1 is the first; rows begin at an odd one, so every row changes. */
    kws_delta_fully_connected_s8(&p, x + inputs, 0, 1, ROWS - 1, y, outputs, 1, state,
                                 scratch, &counted);
    kws_delta_fully_connected_s8(&p, x, 0, ROWS, 1, y, outputs, 1, state, scratch,
                                 &counted);
    print_line(inputs, outputs, 0, sent, COUNTER - begun);
  }
}

static void measure_steps(int32_t inputs, int32_t outputs) {
  kws_delta_fully_connected_t p = product(inputs, outputs);
  uint32_t begun = COUNTER;
  for (int32_t row = 0; row < ROWS; ++row) {
    kws_fully_connected_s8(&p.product, x + row * inputs, 1, y, scratch);
  }
  print_line(inputs, outputs, 1, -1, COUNTER - begun);
  p.product.weights = NULL;
  for (int32_t eighth = 0; eighth <= 8; ++eighth) {
    const int32_t sent = inputs * eighth / 8;
    uint32_t counted = 0;
    fill_rows(inputs, sent);
    kws_delta_step_s8(&p, x + (ROWS - 1) * inputs, 1, y, kept, scratch, &counted);
    begun = COUNTER;
    for (int32_t row = 0; row < ROWS; ++row) {
      kws_delta_step_s8(&p, x + row * inputs, 0, y, kept, scratch, &counted);
    }
    print_line(inputs, outputs, 1, sent, COUNTER - begun);
  }
}

int main(void) {
  PRESCALE = 0;
  for (int32_t i = 0; i < MOST; ++i) {
    multiplier[i] = 0x5a000000;
    shift[i] = -9;
    for (int32_t j = 0; j < MOST; ++j) {
      weights[i * MOST + j] = (int8_t)((i * 37 + j * 91) % 255 - 127);
    }
  }
  measure(64, 64);
  measure(64, 104);      /* as Q.K^T of 99 tokens */
  measure(104, 64);      /* as P.V */
  measure_steps(48, 96); /* an MLP's two */
  measure_steps(96, 48);
  measure_steps(192, 48); /* the read-out */
  return 0;
}
