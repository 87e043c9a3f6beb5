/* kws: the C API of the always-on loop (DESIGN D14). Static memory, no heap.
 *
 *   kws_init();                             // once
 *   kws_push(pcm, n);                       // from the microphone's interrupt or task
 *   while (kws_poll(&event)) { ... }        // from the main loop
 *
 * Features are computed once per frame into a window; the model runs every hop. The
 * ring holds what arrives meanwhile: a model that keeps up takes no longer than its
 * hop, so a hop of samples and two half-buffers of the microphone's DMA are enough. The
 * generated model brings the ring and the window (kws_model.h), sized for its hop.
 * kws_push may be called from an interrupt while kws_poll runs: one producer, one
 * consumer, no lock. Audio that does not fit is dropped and counted, never silent.
 */
#ifndef KWS_H
#define KWS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  KWS_OK = 0,
  KWS_ERROR_MODEL = 1,    /* the generated model's tables don't fit the firmware, or
                           * its engine can't be set up */
  KWS_ERROR_SELFTEST = 2, /* the canned clip did not give the expected logits */
} kws_status_t;

typedef struct {
  uint16_t label;    /* index into kws_model_info.labels */
  uint16_t score;    /* smoothed posterior, Q15 */
  uint32_t start_ms; /* start of the window that fired, since kws_init */
  uint32_t time_ms;  /* end of that window. Samples that were dropped don't count */
} kws_event_t;

/* Since kws_init. `samples` wraps after 74 hours, the others later. */
typedef struct {
  uint32_t samples;         /* pushed and kept */
  uint32_t overruns;        /* samples dropped because the ring was full */
  uint32_t frames;          /* feature frames computed */
  uint32_t inferences;      /* model runs */
  uint32_t events;          /* words heard */
  uint64_t feature_ticks;   /* counter ticks spent in all feature frames */
  uint64_t model_ticks;     /* counter ticks spent in all model runs */
  uint64_t model_ticks_max; /* counter ticks of the longest model run */
} kws_stats_t;

/* A free-running counter (cycles, instructions, timer ticks). */
typedef uint64_t (*kws_counter_t)(void);

/* Check the model's shapes, clear all state and counters. Not while audio arrives. */
kws_status_t kws_init(void);

/* Measure features and model with this counter from now on; NULL (the default) = don't.
 * What reading the counter costs is measured here and taken off. */
void kws_set_counter(kws_counter_t counter);

/* Forget all audio, features and detector state; counters and the clock stay. Called by
 * the side that polls. The first decision comes again when `frames` frames are
 * complete, so one clip of that length is exactly one model run. */
void kws_reset(void);

/* Hand over n mono samples, 16 kHz. Returns the number kept. Interrupt-safe. */
size_t kws_push(const int16_t *pcm, size_t n);

/* Count n samples that were lost before they could be handed over: a DMA that went over
 * what nobody had taken. Called by the side that pushes. */
void kws_lost(size_t n);

/* Work until the ring is empty or a word is heard. Returns 1 and fills *event when
 * a word is heard; 0 when there is no more audio. */
int kws_poll(kws_event_t *event);

/* Logits of the last model run (label_count int8); NULL if none since kws_reset. */
const int8_t *kws_last_logits(void);

void kws_stats(kws_stats_t *out);

/* The largest magnitude of a sample since the last call (0..32768): a level meter. */
uint16_t kws_peak(void);

/* Run the canned clip through ring, features and model; compare the logits with the
 * expectation. Calls kws_init before and after, so it leaves no trace. At boot only. */
kws_status_t kws_selftest(void);

/* Feed samples [start, start + n) of the canned clip and poll until they are done. */
void kws_selftest_feed(uint32_t start, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
