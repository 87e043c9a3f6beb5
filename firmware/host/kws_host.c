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

size_t kws_host_transmit(const int16_t *pcm, size_t samples, uint32_t *sent,
                         size_t room) {
  const size_t products = kws_model_info.delta_count;
  size_t count = 0;
  for (size_t done = 0; done < samples;) {
    const size_t left = samples - done;
    done += kws_push(pcm + done, left < BLOCK_SAMPLES ? left : BLOCK_SAMPLES);
    kws_event_t event;
    while (kws_poll(&event) != KWS_IDLE) {
      if (count < room) kws_host_sent(sent + count * products, products);
      count++;
    }
  }
  return count;
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
