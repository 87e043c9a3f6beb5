/* See kws_host.h. */
#include "kws_host.h"

#include <string.h>

#include "kws_model.h"

enum { BLOCK_SAMPLES = 160 };

int kws_host_start(void) {
  return (int)kws_init();
}

size_t kws_host_sent(uint32_t *sent, size_t room) {
  const size_t count = kws_model_info.delta_count;
  for (size_t i = 0; i < count && i < room; i++) {
    *sent++ = *kws_model_info.delta[i].sent;
  }
  return count;
}

int kws_host_logits(const int16_t *pcm, size_t clips, size_t samples, size_t labels,
                    int8_t *out, uint32_t *sent) {
  kws_event_t event;
  for (size_t clip = 0; clip < clips; clip++) {
    kws_reset();
    for (size_t done = 0; done < samples;) {
      done += kws_push(pcm + clip * samples + done, samples - done);
      while (kws_poll(&event) != KWS_IDLE) {
      }
    }
    const int8_t *logits = kws_last_logits();
    if (logits == NULL) return 1;
    memcpy(out + clip * labels, logits, labels);
    sent += kws_host_sent(sent, kws_model_info.delta_count);
  }
  return 0;
}

void kws_host_step(const int8_t *features, size_t clips, size_t frames, size_t labels,
                   int8_t *out, uint32_t *sent) {
  const size_t mel_bins = kws_model_info.mel_bins;
  for (size_t clip = 0; clip < clips; clip++) {
    kws_model_reset();
    kws_model_step(features + clip * frames * mel_bins, frames, out + clip * labels);
    sent += kws_host_sent(sent, kws_model_info.delta_count);
  }
}

size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room) {
  size_t count = 0;
  for (size_t done = 0; done < samples;) {
    const size_t left = samples - done;
    done += kws_push(pcm + done, left < BLOCK_SAMPLES ? left : BLOCK_SAMPLES);
    kws_event_t event;
    kws_poll_t polled;
    while ((polled = kws_poll(&event)) != KWS_IDLE) {
      if (polled != KWS_HEARD) continue;
      if (count < room) events[count] = event;
      count++;
    }
  }
  return count;
}

size_t kws_host_decide(const int16_t *pcm, size_t samples, int8_t *logits,
                       uint64_t *time_ms, uint32_t *sent, int32_t *heard, size_t room) {
  const size_t labels = kws_model_info.label_count;
  const size_t products = kws_model_info.delta_count;
  const kws_feature_spec_t *spec = kws_model_info.features;
  size_t count = 0;
  for (size_t done = 0; done < samples;) {
    const size_t left = samples - done;
    done += kws_push(pcm + done, left < BLOCK_SAMPLES ? left : BLOCK_SAMPLES);
    kws_event_t event;
    kws_poll_t polled;
    while ((polled = kws_poll(&event)) != KWS_IDLE) {
      if (count < room) {
        kws_stats_t stats;
        kws_stats(&stats);
        memcpy(logits + count * labels, kws_last_logits(), labels);
        time_ms[count] = (spec->window + (stats.frames - 1) * spec->hop) / 16;
        kws_host_sent(sent + count * products, products);
        heard[count] = polled == KWS_HEARD ? (int32_t)event.label : -1;
      }
      count++;
    }
  }
  return count;
}

int kws_host_sums(const int8_t *logits, size_t n, uint16_t smoothing, uint32_t *sums,
                  uint16_t *highest) {
  uint16_t history[KWS_DETECTOR_MAX_SMOOTHING * KWS_MAX_LABELS];
  kws_detector_spec_t spec = *kws_model_info.detector;
  const size_t labels = spec.label_count;
  spec.smoothing = smoothing;
  spec.history = history;
  if (!kws_detector_spec_ok(&spec)) return 1;
  kws_detector_t detector;
  kws_detector_init(&detector, &spec);
  for (size_t i = 0; i < n; i++) {
    kws_detector_add(&detector, &spec, logits + i * labels);
    memcpy(sums + i * labels, detector.sum, labels * sizeof *sums);
    highest[i] = 0;
    for (int word = spec.first_word; word < spec.label_count; word++) {
      const uint16_t score = kws_detector_score(&detector, &spec, word);
      if (score > highest[i]) highest[i] = score;
    }
  }
  return 0;
}

/* `skipped` decisions at which every word is below its rearm and its threshold. */
static void pass(kws_detector_t *detector, const kws_detector_spec_t *spec,
                 size_t skipped) {
  for (int i = spec->first_word; i < spec->label_count; i++) {
    const uint16_t wait = detector->wait[i];
    detector->wait[i] = wait > skipped ? (uint16_t)(wait - skipped) : 0;
    detector->disarmed[i] = 0;
  }
}

size_t kws_host_hear(const uint32_t *sums, const uint16_t *highest, size_t n,
                     uint16_t smoothing, uint16_t refractory, const uint16_t *threshold,
                     const uint16_t *rearm, uint32_t *decision, uint16_t *label,
                     uint16_t *score, size_t room) {
  uint16_t history[KWS_DETECTOR_MAX_SMOOTHING * KWS_MAX_LABELS];
  kws_detector_spec_t spec = *kws_model_info.detector;
  const size_t labels = spec.label_count;
  spec.smoothing = smoothing;
  spec.refractory = refractory;
  spec.threshold = threshold;
  spec.rearm = rearm;
  spec.history = history;
  if (!kws_detector_spec_ok(&spec)) return SIZE_MAX;
  kws_detector_t detector;
  kws_detector_init(&detector, &spec);
  uint16_t lowest = UINT16_MAX; /* of the words' rearms, which no threshold is below */
  for (size_t i = spec.first_word; i < labels; i++) {
    if (rearm[i] < lowest) lowest = rearm[i];
  }
  size_t count = 0, skipped = 0;
  for (size_t i = 0; i < n; i++) {
    if (highest[i] < lowest) {
      skipped++;
      continue;
    }
    if (skipped > 0) pass(&detector, &spec, skipped);
    skipped = 0;
    memcpy(detector.sum, sums + i * labels, labels * sizeof *sums);
    const int heard = kws_detector_hear(&detector, &spec);
    if (heard < 0) continue;
    if (count < room) {
      decision[count] = (uint32_t)i;
      label[count] = (uint16_t)heard;
      score[count] = kws_detector_score(&detector, &spec, heard);
    }
    count++;
  }
  return count;
}
