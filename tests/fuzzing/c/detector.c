/* The detector with any settings and any logits, against its plain reading: posteriors
 * averaged over a window, one state per word. */
#include "fuzz.h"
#include "kws_detector.h"

enum { STEPS = 96, ONE = 32767 };

static void posteriors(const kws_detector_spec_t *spec, const int8_t *logits,
                       uint16_t *out) {
  int max = -128;
  for (int i = 0; i < spec->label_count; i++) {
    if (logits[i] > max) max = logits[i];
  }
  uint64_t sum = 0;
  for (int i = 0; i < spec->label_count; i++) sum += spec->exp_table[max - logits[i]];
  for (int i = 0; i < spec->label_count; i++) {
    const uint64_t own = spec->exp_table[max - logits[i]];
    out[i] = (uint16_t)((own * ONE + sum / 2) / sum);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input_t input = {data, size};
  const uint16_t labels = take8(&input) % 64, smoothing = take8(&input) % 20;
  uint16_t exp_table[256], threshold[64], rearm[64];
  const uint8_t shape = take8(&input);
  for (int i = 0; i < 256; i++) {
    const uint32_t steep = (uint32_t)(i * (1 + shape % 32));
    exp_table[i] = (uint16_t)(steep < ONE ? ONE - steep : 0);
  }
  if (shape & 128) exp_table[0] = take16(&input);
  if (shape & 64) exp_table[take8(&input)] = take16(&input);
  const kws_detector_spec_t all = {
      .label_count = labels,
      .first_word = take8(&input) % 66,
      .smoothing = smoothing,
      .refractory = shape & 32 ? take16(&input) : take8(&input) % 8,
  };
  for (int i = 0; i < 64; i++) {
    threshold[i] = rearm[i] = ONE / 2;
    if (shape & 32 || i >= 8) continue;
    threshold[i] = take16(&input);
    rearm[i] = (uint16_t)(threshold[i] - take8(&input));
  }
  /* Exactly as large as they have to be. */
  kws_detector_spec_t spec = all;
  uint16_t *const own_exp = exactly(exp_table, sizeof exp_table);
  uint16_t *const own_threshold = exactly(threshold, labels * sizeof *threshold);
  uint16_t *const own_rearm = exactly(rearm, labels * sizeof *rearm);
  const size_t room = (size_t)labels * smoothing;
  uint16_t *const history = malloc(room * sizeof *history);
  spec.exp_table = own_exp;
  spec.threshold = own_threshold;
  spec.rearm = own_rearm;
  spec.history = history;

  if (kws_detector_spec_ok(&spec)) {
    kws_detector_t detector;
    kws_detector_init(&detector, &spec);
    int8_t *const logits = malloc(labels);
    static uint16_t past[STEPS][64];
    uint32_t quiet[64] = {0}; /* decisions since the word was heard */
    uint8_t heard_before[64] = {0}, fell[64] = {0};
    for (int step = 0; step < STEPS && input.left > 0; step++) {
      for (int i = 0; i < labels; i++) logits[i] = (int8_t)take8(&input);
      const int heard = kws_detector_step(&detector, &spec, logits);
      posteriors(&spec, logits, past[step]);
      int best = -1;
      uint16_t best_score = 0;
      for (int i = 0; i < labels; i++) {
        uint32_t sum = 0;
        for (int back = 0; back < smoothing && back <= step; back++) {
          sum += past[step - back][i];
        }
        const uint16_t score = (uint16_t)((sum + smoothing / 2u) / smoothing);
        CHECK(kws_detector_score(&detector, &spec, i) == score && score <= ONE);
        if (i < spec.first_word) continue;
        quiet[i]++;
        if (score < rearm[i]) fell[i] = 1;
        const int armed = !heard_before[i] || (fell[i] && quiet[i] >= spec.refractory);
        if (armed && score >= threshold[i] && (best < 0 || score > best_score)) {
          best = i;
          best_score = score;
        }
      }
      CHECK(heard == best);
      if (heard >= 0) {
        heard_before[heard] = 1;
        quiet[heard] = 0;
        fell[heard] = 0;
      }
    }
    free(logits);
  } else {
    int wrong = labels < 2 || labels > KWS_MAX_LABELS || smoothing < 1 ||
                smoothing > KWS_DETECTOR_MAX_SMOOTHING || spec.first_word > labels ||
                exp_table[0] < ONE;
    for (int i = spec.first_word; i < labels; i++) {
      wrong |= rearm[i] < 1 || rearm[i] > threshold[i] || threshold[i] > ONE;
    }
    CHECK(wrong);
  }
  free(own_exp);
  free(own_threshold);
  free(own_rearm);
  free(history);
  return 0;
}
