/* See listen.h. */
#include "listen.h"

#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { BEAT_SAMPLES = 16000 };

static uint32_t next_beat;

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

void listen_work(void) {
  kws_event_t event;
  while (kws_poll(&event)) {
    kws_board_show_event();
    print_event(&event);
  }
  kws_stats_t stats;
  kws_stats(&stats);
  /* Dropped samples are time too: a board that is too slow still has a heartbeat. */
  const uint32_t arrived = stats.samples + stats.overruns;
  if ((int32_t)(arrived - next_beat) < 0) return;
  next_beat = arrived + BEAT_SAMPLES;
  print_beat(&stats);
}
