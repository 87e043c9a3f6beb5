/* See decimate.h. */
#include "decimate.h"

#include <string.h>

/* A low-pass at 7.6 kHz (windowed sinc, Kaiser 3.5), Q15, its first half: the second
 * mirrors it. The sum of magnitudes is 1.76, so 32 bits hold every sum. */
static const int16_t half_filter[DECIMATE_TAPS / 2] = {
    -45, -39, -1,   54,    96,    90,   23,   -82,  -169, -175, -74,
    103, 265, 308,  173,   -104,  -389, -511, -352, 64,   554,  840,
    691, 65,  -811, -1492, -1487, -482, 1480, 3956, 6236, 7601};

static int16_t filtered(const int16_t *line) {
  int32_t sum = 1 << 14;
  for (int i = 0; i < DECIMATE_TAPS / 2; i++) {
    sum += half_filter[i] * (line[i] + line[DECIMATE_TAPS - 1 - i]);
  }
  sum >>= 15;
  return (int16_t)(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
}

void decimate(decimate_t *state, const int16_t *in, int16_t *out, int outputs) {
  for (int i = 0; i < outputs; i++) {
    memmove(state->line, state->line + DECIMATE_FACTOR,
            (DECIMATE_TAPS - DECIMATE_FACTOR) * sizeof *state->line);
    memcpy(state->line + DECIMATE_TAPS - DECIMATE_FACTOR, in + DECIMATE_FACTOR * i,
           DECIMATE_FACTOR * sizeof *state->line);
    out[i] = filtered(state->line);
  }
}
