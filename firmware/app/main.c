/* The firmware: boot, self-test, then listen. */
#include "image.h"
#include "kws.h"
#include "kws_board.h"
#include "listen.h"
#include "print.h"

int main(void) {
  kws_board_init();
  if (!image_complete()) { /* nothing else in flash can be trusted */
    kws_board_write("kws error reason=image\n");
    return KWS_EXIT_IMAGE;
  }
  const int status = listen_start("main");
  if (status != KWS_EXIT_OK) return status;
  if (kws_board_audio_start() != 0) {
    kws_board_write("kws error reason=audio\n");
    return KWS_EXIT_INPUT;
  }
  int more;
  do {
    more = kws_board_audio_wait();
    listen_work();
  } while (more);
  print_stats();
  kws_board_write("kws end\n");
  return KWS_EXIT_OK;
}
