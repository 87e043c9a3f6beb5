/* See kws_detector.h. */
#include "kws_detector.h"

#include <string.h>

enum { Q15_ONE = 32767 };

int kws_detector_spec_ok(const kws_detector_spec_t *spec) {
  if (spec->label_count < 2 || spec->label_count > KWS_MAX_LABELS ||
      spec->first_word > spec->label_count || spec->smoothing < 1 ||
      spec->smoothing > KWS_DETECTOR_MAX_SMOOTHING || spec->threshold == NULL ||
      spec->rearm == NULL || spec->exp_table == NULL || spec->history == NULL ||
      spec->exp_table[0] < Q15_ONE) {
    return 0;
  }
  for (int i = spec->first_word; i < spec->label_count; i++) {
    if (spec->rearm[i] < 1 || spec->rearm[i] > spec->threshold[i] ||
        spec->threshold[i] > Q15_ONE) {
      return 0;
    }
  }
  return 1;
}

void kws_detector_init(kws_detector_t *detector, const kws_detector_spec_t *spec) {
  memset(detector, 0, sizeof *detector);
  memset(spec->history, 0,
         (size_t)spec->smoothing * spec->label_count * sizeof *spec->history);
}

/* Integer softmax: exp(-scale * (max - logit)) from the table, over its sum, rounded.
 */
static void posteriors(const kws_detector_spec_t *spec, const int8_t *logits,
                       uint16_t *out) {
  int max = logits[0];
  for (int i = 1; i < spec->label_count; i++) {
    if (logits[i] > max) max = logits[i];
  }
  uint32_t sum = 0; /* at most KWS_MAX_LABELS * 65535: no overflow; at least Q15_ONE */
  for (int i = 0; i < spec->label_count; i++) sum += spec->exp_table[max - logits[i]];
  for (int i = 0; i < spec->label_count; i++) {
    const uint32_t exponential = spec->exp_table[max - logits[i]];
    out[i] = (uint16_t)((exponential * Q15_ONE + sum / 2) / sum);
  }
}

uint16_t kws_detector_score(const kws_detector_t *detector,
                            const kws_detector_spec_t *spec, int label) {
  return (uint16_t)((detector->sum[label] + spec->smoothing / 2u) / spec->smoothing);
}

void kws_detector_add(kws_detector_t *detector, const kws_detector_spec_t *spec,
                      const int8_t *logits) {
  uint16_t *row = spec->history + detector->oldest * spec->label_count;
  for (int i = 0; i < spec->label_count; i++) detector->sum[i] -= row[i];
  posteriors(spec, logits, row);
  for (int i = 0; i < spec->label_count; i++) detector->sum[i] += row[i];
  if (++detector->oldest == spec->smoothing) detector->oldest = 0;
}

int kws_detector_hear(kws_detector_t *detector, const kws_detector_spec_t *spec) {
  int heard = -1;
  uint16_t best = 0;
  for (int i = spec->first_word; i < spec->label_count; i++) {
    const uint16_t score = kws_detector_score(detector, spec, i);
    if (detector->wait[i] > 0) detector->wait[i]--;
    if (detector->disarmed[i] && score < spec->rearm[i]) detector->disarmed[i] = 0;
    if (detector->disarmed[i] || detector->wait[i] > 0) continue;
    if (score >= spec->threshold[i] && (heard < 0 || score > best)) {
      heard = i;
      best = score;
    }
  }
  if (heard >= 0) {
    detector->disarmed[heard] = 1;
    detector->wait[heard] = spec->refractory;
  }
  return heard;
}

int kws_detector_step(kws_detector_t *detector, const kws_detector_spec_t *spec,
                      const int8_t *logits) {
  kws_detector_add(detector, spec, logits);
  return kws_detector_hear(detector, spec);
}
