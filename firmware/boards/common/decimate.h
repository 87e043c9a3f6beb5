/* From 64 kHz to 16 kHz, for microphones that are sampled faster than needed. */
#ifndef KWS_DECIMATE_H
#define KWS_DECIMATE_H

#include <stdint.h>

#define DECIMATE_FACTOR 4
#define DECIMATE_TAPS   64

/* The last samples of the block before; zero at the start. */
typedef struct {
  int16_t line[DECIMATE_TAPS];
} decimate_t;

/* in: 4 * outputs samples at 64 kHz. out: `outputs` samples at 16 kHz; may be `in`.
 * Flat to 6 kHz (0.1 dB), -1.5 dB at 7 kHz; what would fold into 0..7 kHz is at least
 * 42 dB down (tests/test_boards.py computes it from the coefficients). */
void decimate(decimate_t *state, const int16_t *in, int16_t *out, int outputs);

#endif
