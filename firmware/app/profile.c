/* Profiling: the canned clip through the loop, piece by piece, and what it cost.
 *
 * Built twice: as it is for the exact total, with -DKWS_PROFILE for the split over the
 * operators (their marks cost a little, and keep the compiler from merging calls).
 * A piece is what one decision looks back on, and a stream of its own.
 */
#include <stddef.h>
#include <string.h>

#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { MAX_OPERATORS = 512, MAX_PRODUCTS = 128 };

static uint64_t sent[MAX_PRODUCTS]; /* by the delta products, over all pieces */

#ifdef KWS_PROFILE
static uint64_t spent[MAX_OPERATORS]; /* [0]: everything outside the network */
static uint64_t last_ticks, mark_ticks;

void kws_profile_mark(uint16_t operator_done) {
  const uint64_t elapsed = kws_board_ticks() - last_ticks;
  if (operator_done < MAX_OPERATORS && elapsed > mark_ticks) {
    spent[operator_done] += elapsed - mark_ticks;
  }
  last_ticks = kws_board_ticks();
}

/* What a mark itself costs is taken off every operator. */
static void calibrate(void) {
  kws_profile_mark(0);
  const uint64_t before = spent[0];
  kws_profile_mark(0);
  mark_ticks = spent[0] - before;
  memset(spent, 0, sizeof spent);
}

static void print_operators(void) {
  for (uint32_t i = 1; i < MAX_OPERATORS; i++) {
    if (spent[i] == 0) continue;
    print_begin("operator");
    print_u64("index", i);
    print_u64("cost", kws_board_ticks_to_cost(spent[i]));
    print_end();
  }
}
#else
static void calibrate(void) {}
static void print_operators(void) {}
#endif

static void count_sent(void) {
  for (uint32_t i = 0; i < kws_model_info.delta_count && i < MAX_PRODUCTS; i++) {
    sent[i] += *kws_model_info.delta[i].sent;
  }
}

static void print_sent(void) {
  for (uint32_t i = 0; i < kws_model_info.delta_count && i < MAX_PRODUCTS; i++) {
    print_begin("sent");
    print_u64("index", i);
    print_u64("count", sent[i]);
    print_end();
  }
}

int main(void) {
  kws_board_init();
  print_boot("profile", 0);
  if (kws_init() != KWS_OK) {
    kws_say("error", "reason=model");
    return KWS_EXIT_MODEL;
  }
  kws_set_counter(kws_board_ticks);
  calibrate();
  const kws_feature_spec_t *features = kws_model_info.features;
  const uint32_t piece =
      features->window + (kws_model_info.frames - 1u) * features->hop;
  for (uint32_t start = 0; start + piece <= kws_selftest_clip_samples; start += piece) {
    kws_reset();
    kws_selftest_feed(start, piece);
    count_sent();
  }
  const int8_t *logits = kws_last_logits();
  if (logits == NULL ||
      memcmp(logits, kws_selftest_logits, kws_model_info.label_count) != 0) {
    kws_say("selftest", "failed");
    return KWS_EXIT_SELFTEST;
  }
  kws_say("selftest", "ok");
  print_operators();
  print_sent();
  print_stats();
  print_last();
  return KWS_EXIT_OK;
}
