/* Whatever comes in by the serial port, in pieces of any size: every line that comes
 * back is whole, nothing is obeyed whose frame is wrong, no setting leaves its range.
 *
 * The first byte says how the rest is cut into pieces, and whether its lines get a
 * right frame first, so that what is behind the CRC is reached. */
#include <setjmp.h>

#include "command.h"
#include "fuzz.h"
#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { MOST = 4096, LINE_BYTES = 480 };

extern int32_t kws_silent_gain; /* silent_board.c's */
static jmp_buf started_again;
static int obeyed; /* answers that are not "status=frame" since the last line */

uint64_t kws_board_ticks(void) {
  return 0;
}
_Noreturn void kws_board_restart(void) {
  longjmp(started_again, 1);
}

/* The CRC bit by bit, as its definition reads. */
static uint16_t crc16(const char *text, size_t n) {
  uint16_t crc = 0xffff;
  for (size_t i = 0; i < n; i++) {
    crc ^= (uint16_t)((uint8_t)text[i] << 8);
    for (int bit = 0; bit < 8; bit++) {
      crc = (uint16_t)(crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
    }
  }
  return crc;
}

/* Whether the bytes end with the right CRC. */
static int right(const char *line, size_t n) {
  char crc[6];
  if (n < 6) return 0;
  snprintf(crc, sizeof crc, " %04X", crc16(line, n - 5));
  return memcmp(line + n - 5, crc, 5) == 0;
}

void kws_board_write(const char *text) {
  const size_t n = strlen(text);
  CHECK(n > 10 && n < LINE_BYTES && text[n - 1] == '\n');
  CHECK(memchr(text, '\n', n - 1) == NULL && right(text, n - 1));
  if (strncmp(text, "kws reply ", 10) == 0 && strstr(text, " status=frame ") == NULL) {
    obeyed++;
  }
}

/* Up to a restart, if there is one: a board then starts with no line begun. */
static void take(const char *piece, size_t n) {
  if (setjmp(started_again) == 0) {
    command_feed(piece, n);
  } else {
    command_feed("\n", 1);
  }
}

static void feed(const char *line, size_t n, size_t most) {
  for (size_t done = 0; done < n;) {
    const size_t some = n - done < most ? n - done : most;
    take(line + done, some);
    done += some;
  }
}

static void check(void) {
  const kws_detector_spec_t *spec = kws_model_info.detector;
  CHECK(command_verbosity >= 0 && command_verbosity <= 2);
  CHECK(kws_board_gain() >= 0 && kws_board_gain() <= 100);
  for (int i = spec->first_word; i < spec->label_count; i++) {
    CHECK(kws_threshold(i) >= spec->rearm[i] && kws_threshold(i) <= 32767);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > MOST) return 0;
  const int framed = data[0] & 1;
  const size_t most = 1 + (data[0] >> 2);
  kws_silent_gain = data[0] & 2 ? 10 : 0;
  CHECK(kws_init() == KWS_OK);
  take("\n", 1); /* whatever the one before has left */
  const char *at = (const char *)data + 1, *const end = (const char *)data + size;
  while (at < end) {
    size_t n = 0;
    while (at + n < end && at[n] != '\n' && at[n] != '\r') n++;
    static char made[MOST + 16];
    memcpy(made, at, n);
    at += n + 1;
    if (framed) {
      n += (size_t)snprintf(made + n, 16, " #7");
      n += (size_t)snprintf(made + n, 16, " %04X", crc16(made, n));
    }
    char *line = exactly(made, n);
    obeyed = 0;
    feed(line, n, most);
    CHECK(obeyed == 0); /* not before its end */
    take("\n", 1);
    CHECK(obeyed <= right(line, n));
    free(line);
    check();
  }
  return 0;
}
