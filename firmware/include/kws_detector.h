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

#define KWS_DETECTOR_MAX_SMOOTHING 16

typedef struct {
  uint16_t label_count;
  uint16_t first_word;         /* labels below this one (silence, unknown) never fire */
  uint16_t hop_frames;         /* feature frames between two decisions */
  uint16_t smoothing;          /* decisions averaged, 1..KWS_DETECTOR_MAX_SMOOTHING */
  uint16_t refractory;         /* decisions */
  const uint16_t *threshold;   /* label_count, Q15 posterior (32767 = 1) */
  const uint16_t *rearm;       /* label_count, Q15 posterior */
  const uint16_t *exp_table;   /* 256: exp(-scale*d) in Q15 for d = max - logit, int8 steps */
} kws_detector_spec_t;

#endif
