/* From logits to events: posterior smoothing, threshold, refractory, re-arm.
 *
 * A small state machine with one state per word. A word is heard when its smoothed
 * posterior reaches its threshold while it is armed; it is armed again only after
 * the posterior has fallen below `rearm` and `refractory` decisions have passed.
 * Other words are not blocked meanwhile.
 */
#ifndef KWS_DETECTOR_H
#define KWS_DETECTOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KWS_DETECTOR_MAX_SMOOTHING 16

/* Largest number of labels that the loop and the detector reserve memory for. */
#define KWS_MAX_LABELS 48

typedef struct {
  uint16_t label_count;
  uint16_t first_word;       /* labels below this one (silence, unknown) never fire */
  uint16_t smoothing;        /* decisions averaged, 1..KWS_DETECTOR_MAX_SMOOTHING */
  uint16_t refractory;       /* decisions */
  const uint16_t *threshold; /* label_count, Q15 posterior (32767 = 1) */
  const uint16_t *rearm;     /* label_count, Q15 posterior: 1..threshold of a word */
  const uint16_t
      *exp_table;    /* 256: exp(-scale*d) in Q15 for d = max - logit, int8 steps */
  uint16_t *history; /* [smoothing][label_count]: memory for the last posteriors, Q15 */
} kws_detector_spec_t;

typedef struct {
  uint32_t sum[KWS_MAX_LABELS];  /* of the last `smoothing` posteriors */
  uint16_t wait[KWS_MAX_LABELS]; /* decisions left of the refractory time */
  uint8_t disarmed[KWS_MAX_LABELS];
  uint16_t oldest; /* row of history that the next decision replaces */
} kws_detector_t;

/* 1 if every field of the spec is in its range and no table is missing, else 0. A word
 * whose rearm is 0 would be heard once and never again. */
int kws_detector_spec_ok(const kws_detector_spec_t *spec);

/* Every word armed; the decisions before the first count as posterior 0, so a word
 * needs more than one decision to be heard when smoothing is above 1 and its threshold
 * above 1 / smoothing. */
void kws_detector_init(kws_detector_t *detector, const kws_detector_spec_t *spec);

/* One decision. logits: label_count int8.
 * Returns the label that is heard, -1 for none. Where several words qualify, the one
 * with the highest smoothed posterior; the others stay armed for the next decision. */
int kws_detector_step(kws_detector_t *detector, const kws_detector_spec_t *spec,
                      const int8_t *logits);

/* The two halves of a step, for a PC that tries many settings on the same logits: the
 * sums of the last posteriors, and what is heard of them. */
void kws_detector_add(kws_detector_t *detector, const kws_detector_spec_t *spec,
                      const int8_t *logits);
int kws_detector_hear(kws_detector_t *detector, const kws_detector_spec_t *spec);

/* Smoothed posterior of a label after the last decision, Q15 (0..32767). */
uint16_t kws_detector_score(const kws_detector_t *detector,
                            const kws_detector_spec_t *spec, int label);

#ifdef __cplusplus
}
#endif

#endif
