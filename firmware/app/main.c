/* The firmware: boot, self-test, then listen. */
#include "image.h"
#include "kws.h"
#include "kws_board.h"
#include "listen.h"
#include "print.h"

int main(void) {
  kws_board_init();
  if (!image_complete()) { /* nothing else in flash can be trusted */
    kws_say("error", "reason=image");
    return KWS_EXIT_IMAGE;
  }
  const int status = listen_start("main", image_build());
  if (status != KWS_EXIT_OK) return status;
  if (kws_board_audio_start() != 0) {
    kws_say("error", "reason=audio");
    return KWS_EXIT_INPUT;
  }
  kws_board_watchdog_start();
  int more;
  do {
    more = kws_board_audio_wait();
    listen_work();
  } while (more);
  print_stats();
  print_last();
  return KWS_EXIT_OK;
}
