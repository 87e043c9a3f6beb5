/* What a PC says of kws_board.h wherever the firmware's loop runs there: no stack to
 * measure, no watchdog, no LED, nobody who sends. Time, text and restarts are its
 * caller's. */
#include <stdlib.h>

#include "kws_board.h"

int32_t kws_silent_gain; /* 0: a microphone without one */

uint64_t kws_board_ticks_to_cost(uint64_t ticks) {
  return ticks;
}

uint32_t kws_board_stack_used(void) {
  return 0;
}

uint32_t kws_board_stack_size(void) {
  return 0;
}

const char *kws_board_reset_reason(void) {
  return "";
}

_Noreturn void kws_board_exit(int code) {
  exit(code); /* a stack of no size has no canary: not reached */
}

void kws_board_show_event(void) {}
void kws_board_watchdog_feed(void) {}

size_t kws_board_read(char *to, size_t n) {
  (void)to;
  (void)n;
  return 0;
}

int32_t kws_board_gain(void) {
  return kws_silent_gain;
}

int kws_board_set_gain(int32_t gain) {
  if (kws_silent_gain == 0 || gain < 1 || gain > 100) return -1;
  kws_silent_gain = gain;
  return 0;
}
