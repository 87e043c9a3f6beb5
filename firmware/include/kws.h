/* kws: the C API of the always-on loop (DESIGN D14). Static memory, no heap.
 *
 *   kws_init();                             // once
 *   kws_push(pcm, n);                       // from the microphone's interrupt or task
 *   while (kws_poll(&event)) { ... }        // from the main loop
 *
 * Features are computed once per frame into a ring; the model runs every hop.
 * kws_push may be called from an interrupt while kws_poll runs: one producer, one
 * consumer, no lock. Audio that does not fit is dropped and counted, never silent.
 */
#ifndef KWS_H
#define KWS_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
  KWS_OK = 0,
  KWS_ERROR_MODEL = 1,    /* the generated model's shapes don't fit the firmware */
  KWS_ERROR_SELFTEST = 2, /* the canned clip did not give the expected logits */
} kws_status_t;

typedef struct {
  uint16_t label;        /* index into kws_model_info.labels */
  uint16_t score;        /* smoothed posterior, Q15 */
  uint32_t time_ms;      /* end of the window that fired, since kws_init */
} kws_event_t;

typedef struct {
  uint32_t samples;      /* pushed and kept */
  uint32_t overruns;     /* samples dropped because the ring was full */
  uint32_t frames;       /* feature frames computed */
  uint32_t inferences;   /* model runs */
  uint32_t events;       /* words heard */
} kws_stats_t;

/* Check the model's shapes, clear all state. */
kws_status_t kws_init(void);

/* Forget all audio, features and detector state; counters stay. */
void kws_reset(void);

/* Hand over n mono samples, 16 kHz. Returns the number kept. Interrupt-safe. */
size_t kws_push(const int16_t *pcm, size_t n);

/* Work until the ring is empty or a word is heard. Returns 1 and fills *event when
 * a word is heard; 0 when there is no more audio. */
int kws_poll(kws_event_t *event);

/* Logits of the last model run (label_count int8), and whether there was one. */
const int8_t *kws_last_logits(void);

void kws_stats(kws_stats_t *out);

/* Run the canned clip through features and model; compare with the expectation. */
kws_status_t kws_selftest(void);

#endif
