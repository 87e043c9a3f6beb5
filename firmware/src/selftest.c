/* Boot self-test: the canned clip through the whole loop (see kws.h). */
#include <string.h>

#include "kws.h"
#include "kws_model.h"

/* G.711 mu-law to 16-bit PCM, as in ITU-T G.191's ulaw_expand (14-bit range, << 2). */
static int16_t mulaw_decode(uint8_t code) {
  const int inverted = ~code & 0xff;
  const int exponent = (inverted >> 4) & 7;
  const int magnitude = ((((inverted & 15) << 3) + 0x84) << exponent) - 0x84;
  return (int16_t)(inverted & 0x80 ? -magnitude : magnitude);
}

void kws_selftest_feed(uint32_t start, uint32_t n) {
  kws_event_t event;
  int16_t chunk[160];
  for (uint32_t done = 0; done < n;) {
    const uint32_t left = n - done;
    const uint32_t some = left < 160 ? left : 160;
    for (uint32_t i = 0; i < some; i++) {
      chunk[i] = mulaw_decode(kws_selftest_clip[start + done + i]);
    }
    kws_push(chunk, some);
    while (kws_poll(&event) != KWS_IDLE) {
    }
    done += some;
  }
}

kws_status_t kws_selftest(void) {
  const kws_status_t status = kws_init();
  if (status != KWS_OK) return status;
  kws_selftest_feed(0, kws_selftest_clip_samples);
  const int8_t *logits = kws_last_logits();
  const int same = logits != NULL &&
                   memcmp(logits, kws_selftest_logits, kws_model_info.label_count) == 0;
  kws_init();
  return same ? KWS_OK : KWS_ERROR_SELFTEST;
}
