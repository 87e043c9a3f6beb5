/* kws_push, kws_poll and all else of kws.h in any order, with pieces of any size: what
 * is kept, dropped and counted adds up, and the decisions on what was kept are those
 * that the same samples give a hop at a time. */
#include "fuzz.h"
#include "kws.h"
#include "kws_model.h"

enum { ROOM = 1 << 14, MOST = 1500, OPERATIONS = 60 };

/* Since the last start or reset: what was kept, and what was decided on it. */
static int16_t kept[ROOM];
static size_t kept_count;
static struct {
  kws_poll_t done;
  kws_event_t event;
  int8_t logits[KWS_MAX_LABELS];
} decisions[ROOM];
static size_t decided, again;
static uint64_t dropped; /* since the start */
static uint64_t earlier; /* samples from the start to the reset, whole milliseconds */

static uint64_t ticks;
static uint64_t counter(void) {
  return ticks += 3;
}

static void start(void) {
  CHECK(kws_init() == KWS_OK);
  kept_count = decided = 0;
  dropped = earlier = 0;
}

/* One kws_poll, and whether what it says is true. */
static kws_poll_t poll(int is_again) {
  kws_stats_t before, after;
  kws_event_t event;
  kws_stats(&before);
  memset(&event, 0x55, sizeof event);
  const kws_poll_t done = kws_poll(&event);
  kws_stats(&after);
  CHECK(after.inferences - before.inferences == (uint64_t)(done != KWS_IDLE));
  CHECK(after.events - before.events == (uint64_t)(done == KWS_HEARD));
  CHECK(after.samples == before.samples && after.overruns == before.overruns);
  if (done != KWS_HEARD) {
    CHECK(event.label == 0 && event.score == 0);
    CHECK(event.start_ms == 0 && event.time_ms == 0);
  } else {
    CHECK(event.label < kws_model_info.label_count);
    CHECK(event.start_ms <= event.time_ms && event.time_ms <= after.samples / 16);
    CHECK(event.score == kws_score(event.label));
    CHECK(event.score >= kws_threshold(event.label));
  }
  if (done == KWS_IDLE) return done;
  const size_t n = kws_model_info.label_count;
  if (!is_again) {
    CHECK(decided < ROOM);
    decisions[decided].done = done;
    decisions[decided].event = event;
    memcpy(decisions[decided++].logits, kws_last_logits(), n);
  } else {
    CHECK(again < decided && decisions[again].done == done);
    CHECK(memcmp(decisions[again].logits, kws_last_logits(), n) == 0);
    CHECK(decisions[again].event.label == event.label);
    CHECK(decisions[again].event.score == event.score);
    if (done == KWS_HEARD) {
      const kws_event_t *first = &decisions[again].event;
      CHECK(first->time_ms == event.time_ms + earlier / 16);
      CHECK(first->start_ms == event.start_ms + earlier / 16);
    }
    again++;
  }
  return done;
}

/* The samples that were kept once more, a hop at a time. */
static void compare(void) {
  uint16_t thresholds[KWS_MAX_LABELS];
  for (int i = 0; i < kws_model_info.label_count; i++) {
    thresholds[i] = kws_threshold(i);
  }
  while (poll(0) != KWS_IDLE) {
  }
  CHECK(kws_init() == KWS_OK);
  for (int i = 0; i < kws_model_info.label_count; i++) {
    kws_set_threshold(i, thresholds[i]);
  }
  again = 0;
  const size_t hop = kws_model_info.features->hop;
  for (size_t done = 0; done < kept_count; done += hop) {
    const size_t left = kept_count - done;
    CHECK(kws_push(kept + done, left < hop ? left : hop) == (left < hop ? left : hop));
    while (poll(1) != KWS_IDLE) {
    }
  }
  CHECK(again == decided);
}

static void push(size_t n, uint8_t kind, uint32_t *seed) {
  static int16_t made[MOST];
  sound(made, n, kind, seed);
  int16_t *const piece = exactly(made, n * sizeof *piece);
  const size_t some = kws_push(piece, n);
  CHECK(some <= n);
  memcpy(kept + kept_count, piece, some * sizeof *piece);
  kept_count += some;
  dropped += n - some;
  free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input_t input = {data, size};
  uint32_t seed = take8(&input);
  kws_set_counter(take8(&input) & 1 ? counter : NULL);
  start();
  kws_stats_t stats;
  for (int left = OPERATIONS; left > 0 && input.left > 0; left--) {
    const uint8_t operation = take8(&input);
    switch (operation & 15) {
      default: { /* a piece, as from a DMA */
        const size_t n = take16(&input) % (operation & 128 ? MOST : 200);
        if (kept_count + n <= ROOM) push(n, take8(&input), &seed);
        break;
      }
      case 8:
        poll(0);
        break;
      case 9:
      case 10:
        while (poll(0) != KWS_IDLE) {
        }
        break;
      case 11: {
        const uint32_t lost = (uint32_t)take16(&input) << (operation >> 4);
        kws_lost(lost);
        dropped += lost;
        break;
      }
      case 12:
        CHECK(kws_peak() <= 32768 && kws_microphone() <= KWS_MICROPHONE_CLIPPING);
        break;
      case 13: { /* from here on other settings: what was decided before, first */
        compare();
        const int label = (int)(operation >> 4) - 1;
        const uint16_t value = take16(&input);
        start();
        if (kws_set_threshold(label, value) == 0) {
          CHECK(label >= kws_model_info.detector->first_word);
          CHECK(kws_threshold(label) == value && value <= 32767);
        }
        break;
      }
      case 14: { /* what is in the ring goes; its time has passed */
        compare();
        start();
        push(take16(&input) % 90 * 16u, operation, &seed);
        for (int polls = operation >> 4; polls > 0; polls--) poll(0);
        kws_reset();
        CHECK(kws_last_logits() == NULL);
        earlier = kept_count;
        kept_count = decided = 0;
        break;
      }
      case 15:
        start();
        break;
    }
    kws_stats(&stats);
    CHECK(stats.samples == earlier + kept_count && stats.overruns == dropped);
  }
  compare();
  return 0;
}
