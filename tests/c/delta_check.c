/* FULLY_CONNECTED by delta against plain loops: extreme values, every kind of
 * threshold, odd sizes, blocks of rows of any length, resets between them, both
 * kernels. Prints "ok", or what differs. */
#include "kws_delta.h"

#include <string.h>

#include "../../firmware/src/kernels_internal.h"

#if defined(__arm__)
#include "semihosting.h"

/* cortex_m.c leaves here after main. */
_Noreturn void kws_board_exit(int code);
_Noreturn void kws_board_exit(int code) {
  semihosting_exit(code);
}
void kws_board_write(const char *text);
void kws_board_write(const char *text) {
  semihosting_write0(text);
}
#define say semihosting_write0
#else
#include <stdio.h>
#define say(text) fputs(text, stdout)
#endif

enum { ROWS = 40, MOST = 70 };

static int8_t x[ROWS * MOST];
static int8_t held[MOST];
static uint8_t resets[ROWS];
static int8_t y[ROWS * MOST], expected[ROWS * MOST];
static int8_t weights[MOST * MOST] __attribute__((aligned(8)));
static int8_t columns[MOST * KWS_DELTA_COLUMNS(MOST)] __attribute__((aligned(8)));
static int32_t bias[MOST], multiplier[MOST];
static int8_t shift[MOST];
static int32_t state[KWS_DELTA_FULLY_CONNECTED_STATE_BYTES(MOST, MOST) / 4];
static int32_t scratch[KWS_DELTA_FULLY_CONNECTED_DENSE_SCRATCH_BYTES(MOST) / 4 + 1];

static uint32_t seed = 1;

static int32_t any(int32_t below) {
  seed = seed * 1664525u + 1013904223u;
  return (int32_t)((seed >> 8) % (uint32_t)below);
}

/* Rows that change now and then; a quarter of the changes jump to an end of the range.
 * The middle third changes much, so that the dense kernel takes over and back. */
static void fill(int32_t inputs) {
  for (int32_t i = 0; i < ROWS * inputs; ++i) {
    const int32_t row = i / inputs;
    const int32_t value = any(8) ? any(256) - 128 : any(2) ? 127 : -128;
    const int32_t moves = any(row >= ROWS / 3 && row < 2 * ROWS / 3 ? 1 : 12) == 0;
    const int32_t near =
        row == 0 ? value : kws_clamp(x[i - inputs] + any(7) - 3, -128, 127);
    x[i] = (int8_t)(moves ? value : near);
  }
  for (int32_t i = 0; i < MOST * MOST; ++i) {
    weights[i] = (int8_t)(any(16) ? any(256) - 128 : -128);
  }
}

/* Plain loops; returns what is transmitted. */
static uint32_t reference(const kws_delta_fully_connected_t *p, int32_t row_step,
                          int32_t output_step) {
  const int32_t inputs = p->product.inputs;
  uint32_t sent = 0;
  int32_t since_reset = 0;
  for (int32_t row = 0; row < ROWS; ++row, ++since_reset) {
    if (resets[row]) {
      memset(held, 0, sizeof held);
      since_reset = 0;
    }
    for (int32_t i = 0; i < inputs; ++i) {
      const int32_t delta = x[row * inputs + i] - held[i];
      const int32_t moves = delta > p->threshold || -delta > p->threshold;
      if (moves || since_reset < p->dense_rows) {
        held[i] = x[row * inputs + i];
        ++sent;
      }
    }
    for (int32_t o = 0; o < p->product.outputs; ++o) {
      int32_t sum = bias[o];
      for (int32_t i = 0; i < inputs; ++i) sum += held[i] * weights[o * inputs + i];
      const int32_t value =
          kws_requantize(sum, multiplier[o], shift[o]) + p->product.output_zero_point;
      expected[row * row_step + o * output_step] = (int8_t)kws_clamp(
          value, p->product.activation_min, p->product.activation_max);
    }
  }
  return sent;
}

/* The same rows, each a step of a stream, against what was expected of them: by the
 * kernel of the product's weights, where it has them, else by that of its columns. */
static int check_steps(const kws_delta_fully_connected_t *product,
                       uint32_t expected_sent) {
  kws_delta_fully_connected_t one = *product;
  if (one.product.weights != NULL) one.columns = NULL;
  const kws_delta_fully_connected_t *p = &one;
  const int32_t inputs = p->product.inputs, outputs = p->product.outputs;
  uint32_t sent = 0;
  memset(state, 0x55, sizeof state);
  memset(y, 0, sizeof y);
  for (int32_t row = 0; row < ROWS; ++row) {
    kws_delta_step_s8(p, x + row * inputs, resets[row], y + row * outputs, state,
                      scratch, &sent);
  }
  return sent != expected_sent || memcmp(y, expected, sizeof y) != 0;
}

static int check(int32_t inputs, int32_t outputs, int32_t threshold, int32_t dense_rows,
                 int with_dense, int transposed, int common) {
  fill(inputs);
  for (int32_t o = 0; o < outputs; ++o) {
    bias[o] = any(20000) - 10000;
    multiplier[o] = (1 << 30) + any(1 << 30);
    shift[o] = (int8_t)(common ? -8 - any(4) : any(2) ? 0 : -23);
    for (int32_t i = 0; i < inputs; ++i) {
      columns[i * KWS_DELTA_STRIDE(outputs) + o] =
          (int8_t)((uint8_t)weights[o * inputs + i] ^ KWS_DELTA_FLIP);
    }
  }
  const kws_delta_fully_connected_t p = {
      .product = {.inputs = (uint16_t)inputs,
                  .outputs = (uint16_t)outputs,
                  .weights = with_dense ? weights : NULL,
                  .bias = bias,
                  .multiplier = multiplier,
                  .shift = shift,
                  .output_zero_point = (int16_t)(any(256) - 128),
                  .activation_min = (int8_t)(common ? -128 : -100),
                  .activation_max = 127,
                  .ordinary = (uint8_t)common},
      .columns = columns,
      .threshold = (uint8_t)threshold,
      .dense_rows = (uint8_t)dense_rows};
  const int32_t row_step = transposed ? 1 : outputs;
  const int32_t output_step = transposed ? ROWS : 1;
  memset(y, 0, sizeof y);
  memset(expected, 0, sizeof expected);
  memset(state, 0x55, sizeof state); /* a reset reads nothing of it */
  memset(resets, 0, sizeof resets);
  uint32_t sent = 0;
  int32_t block, first_row = 0;
  for (int32_t row = 0; row < ROWS; row += block) {
    block = kws_min(1 + any(20), ROWS - row);
    const int reset = row == 0 || any(4) == 0;
    resets[row] = (uint8_t)reset;
    /* Endless rows need not be counted. */
    first_row = reset ? 0 : kws_min(first_row, dense_rows);
    kws_delta_fully_connected_s8(&p, x + row * inputs, reset, first_row, block,
                                 y + row * row_step, row_step, output_step, state,
                                 scratch, &sent);
    first_row += block;
  }
  if (reference(&p, row_step, output_step) != sent ||
      memcmp(y, expected, sizeof y) != 0) {
    return 1;
  }
  return transposed || dense_rows > 1 ? 0 : check_steps(&p, sent);
}

/* A convolution on a stream: 4 rows a step and 1 that is kept, of 7 pixels of 3
 * channels; windows of 3 x 2, 2 apart. */
enum { STEPS = 60, HEIGHT = 5, WIDTH = 7, CHANNELS = 3, KEPT = 1, OUTPUTS = 5 };
enum { PITCH = WIDTH * CHANNELS, WINDOW = HEIGHT * PITCH, PATCH = 3 * 2 * CHANNELS };
enum { DOWN = 2, ACROSS = 3, POSITIONS = DOWN * ACROSS };

static int8_t window[WINDOW];
static int32_t
    conv_state[KWS_DELTA_CONV_2D_COLUMNS_STATE_BYTES(POSITIONS, OUTPUTS, WINDOW) / 4];
static union {
  int64_t aligned;
  int8_t sparse[2 * KWS_DELTA_CONV_2D_SCRATCH_BYTES(WINDOW, PATCH, 3)];
  int8_t dense[KWS_CONV_2D_SCRATCH_BYTES(PATCH)];
} conv_scratch;

static void plain_conv(const kws_fully_connected_t *p, int8_t *to) {
  for (int32_t at = 0; at < POSITIONS; ++at) {
    const int8_t *corner =
        window + at / ACROSS * 2 * PITCH + at % ACROSS * 2 * CHANNELS;
    for (int32_t o = 0; o < OUTPUTS; ++o) {
      int32_t sum = bias[o];
      for (int32_t i = 0; i < PATCH; ++i) {
        const int32_t row = i / (2 * CHANNELS), rest = i % (2 * CHANNELS);
        sum += corner[row * PITCH + rest] * weights[o * PATCH + i];
      }
      const int32_t value =
          kws_requantize(sum, multiplier[o], shift[o]) + p->output_zero_point;
      *to++ = (int8_t)kws_clamp(value, p->activation_min, p->activation_max);
    }
  }
}

/* moves: 1 in so many elements; none of them in some steps. */
static int check_conv(int with_columns, int common, int32_t moves) {
  for (int32_t o = 0; o < OUTPUTS; ++o) {
    bias[o] = any(20000) - 10000;
    multiplier[o] = (1 << 30) + any(1 << 30);
    shift[o] = (int8_t)(common ? -8 - any(4) : any(2) ? 0 : -23);
    for (int32_t i = 0; i < PATCH; ++i) {
      weights[o * PATCH + i] = (int8_t)(any(256) - 128);
      columns[i * KWS_DELTA_STRIDE(OUTPUTS) + o] =
          (int8_t)((uint8_t)weights[o * PATCH + i] ^ KWS_DELTA_FLIP);
    }
  }
  const kws_delta_conv_2d_t p = {
      .conv = {.input_height = HEIGHT,
               .input_width = WIDTH,
               .input_channels = CHANNELS,
               .output_height = DOWN,
               .output_width = ACROSS,
               .filter_height = 3,
               .filter_width = 2,
               .stride_height = 2,
               .stride_width = 2,
               .dilation_height = 1,
               .dilation_width = 1,
               .product = {.inputs = PATCH,
                           .outputs = OUTPUTS,
                           .weights = with_columns ? NULL : weights,
                           .bias = bias,
                           .multiplier = multiplier,
                           .shift = shift,
                           .output_zero_point = (int16_t)(any(256) - 128),
                           .activation_min = (int8_t)(common ? -128 : -100),
                           .activation_max = 127,
                           .ordinary = (uint8_t)common}},
      .columns = with_columns ? columns : NULL,
      .looks_back = 2};
  memset(conv_state, 0x55, sizeof conv_state); /* a reset reads nothing of it */
  for (int32_t step = 0; step < STEPS; ++step) {
    const int reset = step == 0 || any(20) == 0;
    const int32_t still = any(3) == 0;
    int32_t moved = 0;
    memcpy(window, window + (HEIGHT - KEPT) * PITCH, KEPT * PITCH);
    for (int32_t i = KEPT * PITCH; i < WINDOW; ++i) {
      const int32_t moves_now = !still && any(moves) == 0;
      const int32_t value = moves_now ? any(256) - 128 : window[i];
      moved += value != window[i];
      window[i] = (int8_t)value;
    }
    if (reset) moved = WINDOW;
    kws_delta_conv_2d_step_s8(&p, window, moved, reset, y, conv_state, &conv_scratch);
    plain_conv(&p.conv.product, expected);
    if (memcmp(y, expected, POSITIONS * OUTPUTS) != 0) return 1;
  }
  return 0;
}

static int check_convs(void) {
  for (int32_t moves = 1; moves <= 64; moves *= 4) {
    for (int common = 0; common < 2; ++common) {
      if (check_conv(1, common, moves)) return 1;
      /* The dense kernel of the core dsp reads another layout. */
      if (KWS_WEIGHT_LAYOUT == KWS_LAYOUT_DSP) continue;
      if (check_conv(0, common, moves)) return 1;
    }
  }
  return 0;
}

int main(void) {
  static const int32_t thresholds[] = {0, 1, 9, 63, 64, 126, 127, 128, 200, 255};
  static const int32_t sizes[] = {1, 3, 4, 15, 16, 20, 33, 64, MOST};
  /* The dense kernel of the core dsp reads another layout. */
  const int dense_kinds = KWS_WEIGHT_LAYOUT == KWS_LAYOUT_DSP ? 1 : 2;
  for (int32_t t = 0; t < (int32_t)(sizeof thresholds / sizeof *thresholds); ++t) {
    for (int32_t s = 0; s < (int32_t)(sizeof sizes / sizeof *sizes); ++s) {
      const int32_t outputs = sizes[(s + t) % (int32_t)(sizeof sizes / sizeof *sizes)];
      for (int kind = 0; kind < 4 * dense_kinds; ++kind) {
        if (check(sizes[s], outputs, thresholds[t], 1 + s % 2, kind / 4, kind & 1,
                  kind & 2)) {
          say("differs\n");
          return 1;
        }
      }
    }
  }
  if (check_convs()) {
    say("a convolution differs\n");
    return 1;
  }
  say("ok\n");
  return 0;
}
