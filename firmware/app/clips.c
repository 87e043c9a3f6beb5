/* Evaluation in an emulator: many clips, the last decision of each to a file.
 *
 * Arguments: clips=FILE  concatenated clips of raw int16 samples
 *            samples=N   samples in each clip (enough for one decision)
 *            logits=FILE receives label_count int8 per clip
 *            sent=FILE   receives delta_count uint32 per clip: transmitted elements
 *            steps=FILE  receives 2 uint32 per decision: instructions of the features
 *                        since the one before, and of the model
 * Every clip goes through the same ring, features and model as live audio.
 */
#include <stddef.h>

#include "emulated.h"
#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"
#include "semihosting.h"

static int16_t block[KWS_MIN_RING_SAMPLES(0)]; /* fits every ring */

static int stop(const char *reason) {
  print_begin("error");
  print_text("reason", reason);
  print_end();
  return KWS_EXIT_INPUT;
}

/* What a decision cost. Returns 0, or 1. On its own, so that it takes no stack while
 * the model runs, whose depth is measured. */
static __attribute__((noinline)) int write_step(int file) {
  static kws_stats_t before;
  kws_stats_t now;
  kws_stats(&now);
  const uint64_t features = now.feature_ticks - before.feature_ticks;
  const uint64_t model = now.model_ticks - before.model_ticks;
  const uint32_t cost[2] = {(uint32_t)kws_board_ticks_to_cost(features),
                            (uint32_t)kws_board_ticks_to_cost(model)};
  before = now;
  return file < 0 ? 0 : semihosting_write(file, cost, sizeof cost);
}

/* Feed one clip. Returns 1 when it was whole, 0 at the end of the file, -1 when what a
 * decision cost can't be written. */
static int feed(int clips, uint32_t samples, int steps) {
  kws_reset();
  while (samples > 0) {
    const uint32_t space = sizeof block / sizeof block[0];
    const size_t bytes = (samples < space ? samples : space) * sizeof block[0];
    if (semihosting_read(clips, block, bytes) != bytes) return 0;
    const size_t n = bytes / sizeof block[0];
    kws_push(block, n);
    kws_event_t event;
    while (kws_poll(&event) != KWS_IDLE) {
      if (write_step(steps) != 0) return -1;
    }
    samples -= n;
  }
  return 1;
}

/* What the products that skip transmitted for this clip. Returns 0, or 1. */
static int write_sent(int file) {
  for (uint32_t i = 0; file >= 0 && i < kws_model_info.delta_count; i++) {
    const uint32_t sent = *kws_model_info.delta[i].sent;
    if (semihosting_write(file, &sent, sizeof sent) != 0) return 1;
  }
  return 0;
}

int main(void) {
  kws_board_init();
  print_boot("clips", 0);
  if (kws_init() != KWS_OK) {
    kws_say("error", "reason=model");
    return KWS_EXIT_MODEL;
  }
  kws_set_counter(kws_board_ticks);
  const char *clips_path = emulated_argument("clips");
  const char *logits_path = emulated_argument("logits");
  const uint32_t samples = emulated_argument_u32("samples", 0);
  if (clips_path == NULL || logits_path == NULL || samples == 0) {
    return stop("expected clips=FILE samples=N logits=FILE");
  }
  const int clips = semihosting_open(clips_path, "r");
  const int logits = semihosting_open(logits_path, "w");
  if (clips < 0 || logits < 0) return stop("cannot open the files");
  const char *sent_path = emulated_argument("sent");
  const int sent = sent_path == NULL ? -1 : semihosting_open(sent_path, "w");
  const char *steps_path = emulated_argument("steps");
  const int steps = steps_path == NULL ? -1 : semihosting_open(steps_path, "w");
  uint32_t count = 0;
  int whole;
  for (; (whole = feed(clips, samples, steps)) > 0; count++) {
    if (kws_last_logits() == NULL) return stop("the clip is shorter than the window");
    if (semihosting_write(logits, kws_last_logits(), kws_model_info.label_count) != 0) {
      return stop("cannot write the logits");
    }
    if (write_sent(sent) != 0) return stop("cannot write what was sent");
  }
  if (whole < 0) return stop("cannot write what a decision cost");
  semihosting_close(logits);
  if (steps >= 0) semihosting_close(steps);
  if (sent >= 0) semihosting_close(sent);
  print_begin("clips");
  print_u64("count", count);
  print_end();
  print_stats();
  print_last();
  return KWS_EXIT_OK;
}
