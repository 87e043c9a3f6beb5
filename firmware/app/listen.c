/* See listen.h. */
#include "listen.h"

#include "command.h"
#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { BEAT_SAMPLES = 16000, MOST_READS = 8 };

static uint64_t next_beat;
static uint64_t fed_at; /* samples that had arrived at the watchdog's last feed */

int listen_start(const char *app, uint32_t build) {
  print_boot(app, build);
  if (kws_init() != KWS_OK) {
    kws_say("error", "reason=model");
    return KWS_EXIT_MODEL;
  }
  if (kws_selftest() != KWS_OK) {
    kws_say("selftest", "failed");
    return KWS_EXIT_SELFTEST;
  }
  kws_say("selftest", "ok");
  kws_set_counter(kws_board_ticks);
  next_beat = BEAT_SAMPLES;
  return KWS_EXIT_OK;
}

static void beat(const kws_stats_t *stats) {
  if (command_verbosity >= VERBOSITY_BEATS) print_beat(stats);
  if (kws_board_stack_size() > 0 && kws_board_stack_used() == kws_board_stack_size()) {
    kws_say("error", "reason=stack"); /* the canary is dead */
    kws_board_exit(KWS_EXIT_STACK);
  }
}

/* What follows from the audio that has arrived, and how much it is. */
static void look_at_the_clock(void) {
  kws_stats_t stats;
  kws_stats(&stats);
  if (stats.samples != fed_at) {
    fed_at = stats.samples;
    kws_board_watchdog_feed();
  }
  /* Dropped samples are time too: a board that is too slow still has a heartbeat. */
  const uint64_t arrived = stats.samples + stats.overruns;
  if (arrived < next_beat) return;
  next_beat = arrived + BEAT_SAMPLES;
  beat(&stats);
}

/* As much as a board's buffer holds at most: who sends without a pause stops neither
 * the audio nor the watchdog's feed. */
static void obey_commands(void) {
  char bytes[16];
  for (int left = MOST_READS; left > 0; left--) {
    const size_t n = kws_board_read(bytes, sizeof bytes);
    if (n == 0) return;
    command_feed(bytes, n);
  }
}

void listen_work(void) {
  kws_event_t event;
  kws_poll_t done;
  do { /* a model that is slower than its hop is never idle */
    obey_commands();
    done = kws_poll(&event);
    if (done != KWS_IDLE && command_verbosity >= VERBOSITY_DECISIONS) print_decision();
    if (done == KWS_HEARD) {
      kws_board_show_event();
      print_event(&event);
    }
    look_at_the_clock();
  } while (done != KWS_IDLE);
}
