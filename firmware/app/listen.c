/* See listen.h. */
#include "listen.h"

#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { BEAT_SAMPLES = 16000 };

static uint64_t next_beat;

int listen_start(const char *app) {
  print_boot(app);
  if (kws_init() != KWS_OK) {
    kws_board_write("kws error reason=model\n");
    return KWS_EXIT_MODEL;
  }
  if (kws_selftest() != KWS_OK) {
    kws_board_write("kws selftest failed\n");
    return KWS_EXIT_SELFTEST;
  }
  kws_board_write("kws selftest ok\n");
  kws_set_counter(kws_board_ticks);
  next_beat = BEAT_SAMPLES;
  return KWS_EXIT_OK;
}

static void beat_if_due(void) {
  kws_stats_t stats;
  kws_stats(&stats);
  /* Dropped samples are time too: a board that is too slow still has a heartbeat. */
  const uint64_t arrived = stats.samples + stats.overruns;
  if (arrived < next_beat) return;
  next_beat = arrived + BEAT_SAMPLES;
  print_beat(&stats);
}

void listen_work(void) {
  kws_event_t event;
  kws_poll_t done;
  do { /* a model that is slower than its hop is never idle */
    done = kws_poll(&event);
    if (done == KWS_HEARD) {
      kws_board_show_event();
      print_event(&event);
    }
    beat_if_due();
  } while (done != KWS_IDLE);
}
