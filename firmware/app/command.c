/* See command.h. */
#include "command.h"

#include <stdint.h>
#include <string.h>

#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"
#include "print.h"

enum { COMMAND_BYTES = 80, MAX_DIGITS = 6, NO_SEQUENCE = 10000 };

int command_verbosity = VERBOSITY_BEATS;

static char command[COMMAND_BYTES]; /* NUL-terminated once it is complete */
static size_t length;
static int too_long;

/* `n` decimal digits up to `end`, which is not read. Returns -1 where they aren't. */
static int32_t number(const char *at, const char *end) {
  int32_t value = 0;
  if (at == end || end - at > MAX_DIGITS) return -1;
  for (; at < end; at++) {
    if (*at < '0' || *at > '9') return -1;
    value = value * 10 + (*at - '0');
  }
  return value;
}

/* The value of ` key=`, -1 where there is no such or no number. */
static int32_t value_of(const char *key) {
  const size_t size = strlen(key);
  for (const char *at = command; *at != '\0'; at++) {
    if (*at != ' ' || strlen(at) < size + 2) continue;
    if (memcmp(at + 1, key, size) != 0 || at[size + 1] != '=') continue;
    const char *const start = at + size + 2;
    const char *end = start;
    while (*end != '\0' && *end != ' ') end++;
    return number(start, end);
  }
  return -1;
}

static int is(const char *verb) {
  const size_t size = strlen(verb);
  return strlen(command) >= 4 + size && memcmp(command + 4, verb, size) == 0 &&
         (command[4 + size] == '\0' || command[4 + size] == ' ');
}

/* Take ` #sequence CRC4` off the end. Returns the sequence, or NO_SEQUENCE. */
static int32_t unframe(void) {
  if (length < 12) return NO_SEQUENCE;
  char *const crc = command + length - 5;
  uint32_t given = 0;
  for (int i = 1; i <= 4; i++) {
    const char digit = crc[i];
    if (digit >= '0' && digit <= '9') {
      given = given << 4 | (uint32_t)(digit - '0');
    } else if (digit >= 'A' && digit <= 'F') {
      given = given << 4 | (uint32_t)(digit - 'A' + 10);
    } else {
      return NO_SEQUENCE;
    }
  }
  if (*crc != ' ' || given != print_crc(command, (size_t)(crc - command))) {
    return NO_SEQUENCE;
  }
  char *mark = crc;
  while (mark > command && *mark != '#') mark--;
  if (mark == command || mark[-1] != ' ') return NO_SEQUENCE;
  const int32_t sequence = number(mark + 1, crc);
  if (sequence < 0 || sequence >= NO_SEQUENCE) return NO_SEQUENCE;
  mark[-1] = '\0';
  return sequence;
}

static const char *threshold(void) {
  const int32_t label = value_of("label"), value = value_of("value");
  if (label < 0 || value < 0 || value > 1000) return "range";
  return kws_set_threshold((int)label, (uint16_t)((value * 32767 + 500) / 1000)) == 0
             ? "ok"
             : "range";
}

static const char *gain(void) {
  const int32_t value = value_of("value");
  if (kws_board_gain() == 0) return "absent";
  return value > 0 && kws_board_set_gain(value) == 0 ? "ok" : "range";
}

static const char *verbosity(void) {
  const int32_t level = value_of("level");
  if (level < VERBOSITY_WORDS || level > VERBOSITY_DECISIONS) return "range";
  command_verbosity = (int)level;
  return "ok";
}

static const char *query(void) {
  print_state(command_verbosity);
  for (int i = 0; i < kws_model_info.label_count; i++) print_threshold(i);
  return "ok";
}

static void obey(void) {
  int restart = 0;
  const int32_t sequence = unframe();
  const char *status = "unknown";
  if (sequence == NO_SEQUENCE) {
    status = "frame";
  } else if (is("query")) {
    status = query();
  } else if (is("verbosity")) {
    status = verbosity();
  } else if (is("threshold")) {
    status = threshold();
  } else if (is("gain")) {
    status = gain();
  } else if (is("selftest")) {
    status = "ok";
    restart = 1;
  }
  print_begin("reply");
  if (sequence != NO_SEQUENCE) print_u64("to", (uint64_t)sequence);
  print_text("status", status);
  print_end();
  if (restart) kws_board_restart();
}

void command_feed(const char *bytes, size_t n) {
  for (; n > 0; n--, bytes++) {
    if (*bytes != '\n' && *bytes != '\r') {
      if (length < COMMAND_BYTES - 1) {
        command[length++] = *bytes;
      } else {
        too_long = 1;
      }
      continue;
    }
    command[length] = '\0';
    /* A line that is noise, or meant for somebody else, gets no answer. */
    if (!too_long && length >= 4 && memcmp(command, "kws ", 4) == 0) obey();
    length = 0;
    too_long = 0;
  }
}
