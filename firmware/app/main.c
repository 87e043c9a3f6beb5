/* The firmware: boot, self-test, then listen. */
#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

static void print_event(const kws_event_t *event) {
  print_begin("event");
  print_text("word", kws_model_info.labels[event->label]);
  print_u64("start_ms", event->start_ms);
  print_u64("time_ms", event->time_ms);
  print_q15("score", event->score);
  print_end();
}

int main(void) {
  kws_board_init();
  print_boot("main");
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
  if (kws_board_audio_start() != 0) {
    kws_board_write("kws error reason=audio\n");
    return KWS_EXIT_INPUT;
  }
  int more;
  do {
    more = kws_board_audio_wait();
    kws_event_t event;
    while (kws_poll(&event)) print_event(&event);
  } while (more);
  print_stats();
  kws_board_write("kws end\n");
  return KWS_EXIT_OK;
}
