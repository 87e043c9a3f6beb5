/* kws: the C API of the always-on loop (DESIGN D14). Static memory, no heap.
 *
 *   kws_init();                             // once
 *   kws_push(pcm, n);                       // from the microphone's interrupt or task
 *
 *   for (;;) {                              // the main loop
 *     const kws_poll_t done = kws_poll(&event);
 *     if (done == KWS_HEARD) ...            // event says what and when
 *     if (done == KWS_IDLE) ...             // sleep until there is more audio
 *   }
 *
 * Features are computed once per frame and handed to the model, which decides every
 * hop. The ring holds what arrives meanwhile: a model that keeps up takes no longer
 * than its hop, so a hop of samples and two half-buffers of the microphone's DMA are
 * enough. The generated model brings the ring (kws_model.h), sized for its hop.
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
  uint64_t start_ms; /* start of what the decision looked back on (no earlier than the
                      * last kws_reset), since kws_init */
  uint64_t time_ms;  /* its end. Samples that were dropped don't count */
} kws_event_t;

/* What kws_poll has done. */
typedef enum {
  KWS_IDLE = 0,    /* all audio that had arrived is used: wait for more */
  KWS_DECIDED = 1, /* the model has decided, and no word was heard */
  KWS_HEARD = 2,   /* the model has decided, and *event is the word that was heard */
} kws_poll_t;

/* Since kws_init. None of them wraps in a device's life. */
typedef struct {
  uint64_t samples;         /* pushed and kept */
  uint64_t overruns;        /* samples dropped because the ring was full */
  uint64_t frames;          /* feature frames computed */
  uint64_t inferences;      /* decisions of the model */
  uint64_t events;          /* words heard */
  uint64_t feature_ticks;   /* counter ticks spent in all feature frames */
  uint64_t model_ticks;     /* counter ticks spent in all steps that decided */
  uint64_t model_ticks_max; /* counter ticks of the longest of those */
  uint64_t loop_ticks;      /* counter ticks of kws_poll around both: samples taken out
                             * of the ring, the level meter, the detector */
} kws_stats_t;

/* Stack, in bytes, of kws_poll and kws_selftest, which compute features and network on
 * their caller's; a thread's own start and interrupts that run on it come on top. */
#define KWS_STACK_BYTES 3072

/* A free-running counter (cycles, instructions, timer ticks). */
typedef uint64_t (*kws_counter_t)(void);

/* Check the model's shapes, clear all state and counters. Not while audio arrives.
 * Comes before everything but kws_push; where it fails, nothing else may be called. */
kws_status_t kws_init(void);

/* Measure features and model with this counter from now on; NULL (the default) = don't.
 * What reading the counter costs is measured here and taken off. */
void kws_set_counter(kws_counter_t counter);

/* Forget all audio, and the model's and the detector's state; counters and the clock
 * stay. Called by the side that polls. The first decision comes again when first_frames
 * frames are complete (kws_model.h). */
void kws_reset(void);

/* Hand over n mono samples, 16 kHz. Returns the number kept. Interrupt-safe. Of no
 * samples pcm may be NULL. */
size_t kws_push(const int16_t *pcm, size_t n);

/* Count n samples that were lost before they could be handed over: a DMA that went over
 * what nobody had taken. Called by the side that pushes. */
void kws_lost(size_t n);

/* Work on the audio that has arrived, up to the next decision of the model at most: it
 * returns after each one, so that a caller whose model is slower than its hop, and
 * never idle, still has its turn. *event is the word after KWS_HEARD, else all zero. */
kws_poll_t kws_poll(kws_event_t *event);

/* Logits of the last decision (label_count int8); NULL if none since kws_reset. */
const int8_t *kws_last_logits(void);

/* Smoothed posterior of a label after the last decision, Q15 (0..32767): what is
 * compared with the word's threshold. 0 before the first, and of what is no label.
 * Called by the side that polls. */
uint16_t kws_score(int label);

/* Features of the last frame (mel_bins int8); they mean nothing before the first. */
const int8_t *kws_last_frame(void);

/* The posterior from which a word is heard, Q15 (0 of what is no label);
 * kws_set_threshold changes it until kws_init, and returns -1 where the label is no
 * word, or the threshold below its rearm or above 32767. Called by the side that polls.
 */
uint16_t kws_threshold(int label);
int kws_set_threshold(int label, uint16_t threshold);

/* Called by the side that polls. */
void kws_stats(kws_stats_t *out);

/* The largest magnitude of a sample since the last call (0..32768): a level meter. */
uint16_t kws_peak(void);

/* What the samples since the last call say of the microphone. Called by the side that
 * polls, about once a second. A board that takes the DC offset off makes zeros of a
 * sample that is stuck. */
typedef enum {
  KWS_MICROPHONE_OK = 0,
  KWS_MICROPHONE_NONE,     /* not one sample */
  KWS_MICROPHONE_ZEROS,    /* zeros alone */
  KWS_MICROPHONE_STUCK,    /* one other value alone */
  KWS_MICROPHONE_OFFSET,   /* a constant with next to no sound on it, or a large one */
  KWS_MICROPHONE_QUIET,    /* less than the noise of a microphone that works */
  KWS_MICROPHONE_CLIPPING, /* a thousandth of the samples, or more, at full scale */
} kws_microphone_t;
kws_microphone_t kws_microphone(void);

/* Run the canned clip through ring, features and model; compare the logits with the
 * expectation. Calls kws_init before and after, so it leaves no trace. At boot only. */
kws_status_t kws_selftest(void);

/* Feed samples [start, start + n) of the canned clip and poll until they are used. */
void kws_selftest_feed(uint32_t start, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
