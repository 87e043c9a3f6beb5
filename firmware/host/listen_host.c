/* See listen_host.h. Beside silent_board.c: text goes into a buffer, the counter is
 * this thread's processor time in nanoseconds. */
#define _POSIX_C_SOURCE 200112L
#include "listen_host.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kws.h"
#include "kws_board.h"
#include "listen.h"
#include "print.h"

enum { BLOCK_SAMPLES = 160 };

static char text[1 << 16];
static size_t length;

void kws_board_write(const char *more) {
  const size_t n = strlen(more);
  if (n > sizeof text - length) return;
  memcpy(text + length, more, n);
  length += n;
}

uint64_t kws_board_ticks(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

_Noreturn void kws_board_restart(void) {
  exit(KWS_EXIT_OK);
}

int kws_listen_start(void) {
  return listen_start("listen", 0);
}

void kws_listen_feed(const int16_t *pcm, size_t n) {
  for (size_t done = 0; done < n;) {
    const size_t left = n - done;
    done += kws_push(pcm + done, left < BLOCK_SAMPLES ? left : BLOCK_SAMPLES);
    listen_work();
  }
}

void kws_listen_end(void) {
  print_last();
}

size_t kws_listen_text(const char **out) {
  const size_t n = length;
  *out = text;
  length = 0;
  return n;
}
