/* See web_host.h. */
#include "web_host.h"

#include <stddef.h>

#include "kws.h"
#include "kws_model.h"

#define EXPORT(name) __attribute__((export_name(#name))) name

static int16_t samples[KWS_FEATURES_MAX_WINDOW];
static kws_event_t event;
static uint64_t frames; /* that the loop had computed before the last web_hear */

static kws_stats_t stats(void) {
  kws_stats_t now;
  kws_stats(&now);
  return now;
}

int32_t EXPORT(web_start)(void) {
  frames = 0;
  const kws_status_t status = kws_init();
  return (int32_t)(status == KWS_OK ? kws_selftest() : status);
}

int16_t *EXPORT(web_samples)(void) {
  return samples;
}

uint32_t EXPORT(web_room)(void) {
  return kws_model_info.features->hop;
}

uint32_t EXPORT(web_hear)(uint32_t n) {
  uint32_t done = 0;
  kws_push(samples, n < web_room() ? n : web_room());
  /* At most one decision is due, so after it there is nothing to poll for. */
  const kws_poll_t polled = kws_poll(&event);
  if (polled != KWS_IDLE) done |= WEB_DECIDED;
  if (polled == KWS_HEARD) done |= WEB_HEARD;
  const uint64_t now = stats().frames;
  if (now != frames) done |= WEB_FRAME;
  frames = now;
  return done;
}

void EXPORT(web_lost)(uint32_t n) {
  kws_lost(n);
}

const int8_t *EXPORT(web_frame)(void) {
  return kws_last_frame();
}

const int8_t *EXPORT(web_logits)(void) {
  return kws_last_logits();
}

uint32_t EXPORT(web_score)(uint32_t of) {
  return kws_score((int)of);
}

uint32_t EXPORT(web_event_label)(void) {
  return event.label;
}

uint32_t EXPORT(web_event_score)(void) {
  return event.score;
}

uint64_t EXPORT(web_event_time_ms)(void) {
  return event.time_ms;
}

/* The page's model is emitted with thresholds in memory that may be written
 * (kws.emit.native.sources, tunable): a board's are constants. */
static uint16_t *thresholds(void) {
  return (uint16_t *)(uintptr_t)kws_model_info.detector->threshold;
}

static int is_word(uint32_t of) {
  const kws_detector_spec_t *spec = kws_model_info.detector;
  return of >= spec->first_word && of < spec->label_count;
}

int32_t EXPORT(web_set_threshold)(uint32_t of, uint32_t value) {
  if (!is_word(of) || value > INT16_MAX || value < kws_model_info.detector->rearm[of]) {
    return 0;
  }
  thresholds()[of] = (uint16_t)value;
  return 1;
}

uint32_t EXPORT(web_peak)(void) {
  return kws_peak();
}

uint64_t EXPORT(web_samples_lost)(void) {
  return stats().overruns;
}

uint32_t EXPORT(web_delta_count)(void) {
  return kws_model_info.delta_count;
}

uint32_t EXPORT(web_delta_kind)(uint32_t of) {
  return (uint8_t)kws_model_info.delta[of].kind;
}

uint32_t EXPORT(web_delta_layer)(uint32_t of) {
  return kws_model_info.delta[of].layer;
}

uint32_t EXPORT(web_delta_macs)(uint32_t of) {
  return kws_model_info.delta[of].macs;
}

uint32_t EXPORT(web_delta_elements)(uint32_t of) {
  return kws_model_info.delta[of].elements;
}

uint32_t EXPORT(web_delta_sent)(uint32_t of) {
  return *kws_model_info.delta[of].sent;
}
