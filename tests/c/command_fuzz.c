/* Commands from a PC, mutated: firmware/app/command.c under sanitizers.
 *
 *   command_fuzz SEEDS SEED COUNT   SEEDS: a file of commands, one a line, no frames
 *
 * Half of the mutants get a right frame, so that what is behind the CRC is reached; the
 * other half must be refused, unless a frame is right by chance. Prints how often each
 * answer came. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "kws.h"
#include "kws_board.h"
#include "kws_model.h"

enum { MAX_SEEDS = 64, MAX_BYTES = 400 };

static uint64_t state;
static int32_t gain = 10;
static jmp_buf started_again;
static char said[1 << 14];
static size_t said_bytes;
static const char *const answers[] = {"ok", "frame", "unknown", "range", "none"};
static uint64_t counts[6];

static uint32_t below(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return n == 0 ? 0 : (uint32_t)(state >> 33) % n;
}

void kws_board_write(const char *text) {
  const size_t n = strlen(text);
  if (n >= 480 || said_bytes + n >= sizeof said) exit(20);
  memcpy(said + said_bytes, text, n + 1);
  said_bytes += n;
}
uint64_t kws_board_ticks(void) {
  return 0;
}
uint64_t kws_board_ticks_to_cost(uint64_t spent) {
  return spent;
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
int32_t kws_board_gain(void) {
  return gain;
}
int kws_board_set_gain(int32_t value) {
  if (value < 1) exit(21);
  if (value > 100) return -1;
  gain = value;
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

/* Whether the bytes are one line with a right CRC at its end. */
static int right(const char *line, size_t n) {
  char crc[6];
  if (n < 6 || memchr(line, '\n', n) != NULL || memchr(line, '\r', n) != NULL) return 0;
  snprintf(crc, sizeof crc, " %04X", crc16(line, n - 5));
  return memcmp(line + n - 5, crc, 5) == 0;
}

static size_t mutate(char *line, size_t n) {
  for (uint32_t left = below(4); left > 0; left--) {
    const uint32_t at = below((uint32_t)n + 1);
    switch (below(6)) {
      case 0: /* a bit */
        if (at < n) line[at] ^= (char)(1 << below(8));
        break;
      case 1: /* any byte, or a digit */
        if (at < n) line[at] = (char)(below(2) ? '0' + below(10) : below(256));
        break;
      case 2: /* one more */
        if (n < MAX_BYTES - 32) {
          memmove(line + at + 1, line + at, n - at);
          line[at] = (char)(below(2) ? " =#9\n\r\0k"[below(8)] : (char)below(256));
          n++;
        }
        break;
      case 3: /* a part is gone */
        if (at < n) {
          const size_t gone = 1 + below((uint32_t)(n - at));
          memmove(line + at, line + at + gone, n - at - gone);
          n -= gone;
        }
        break;
      case 4: { /* a part twice */
        const size_t some = below((uint32_t)(n - at) + 1);
        if (n + some < MAX_BYTES - 32) {
          memmove(line + at + some, line + at, n - at);
          n += some;
        }
        break;
      }
      default: /* its end is gone */
        n = at;
    }
  }
  return n;
}

/* Up to a restart, if there is one. */
static void take(const char *piece, size_t n) {
  if (setjmp(started_again) == 0) command_feed(piece, n);
}

static void feed(const char *line, size_t n) {
  for (size_t done = 0; done < n;) {
    const size_t some = 1 + below((uint32_t)(n - done));
    char *piece = malloc(some); /* exactly, so that a read past it is seen */
    memcpy(piece, line + done, some);
    take(piece, some);
    free(piece);
    done += some;
  }
}

static void check(void) {
  const kws_detector_spec_t *spec = kws_model_info.detector;
  if (command_verbosity < 0 || command_verbosity > 2 || gain < 1 || gain > 100)
    exit(22);
  for (int i = spec->first_word; i < spec->label_count; i++) {
    if (kws_threshold(i) < spec->rearm[i] || kws_threshold(i) > 32767) exit(23);
  }
}

int main(int argc, char **argv) {
  static char seeds[MAX_SEEDS][MAX_BYTES];
  uint32_t seed_count = 0;
  if (argc != 4) return 2;
  FILE *file = fopen(argv[1], "r");
  if (file == NULL) return 2;
  while (seed_count < MAX_SEEDS && fgets(seeds[seed_count], 100, file) != NULL) {
    seeds[seed_count][strcspn(seeds[seed_count], "\n")] = '\0';
    seed_count++;
  }
  fclose(file);
  state = strtoull(argv[2], NULL, 10);
  if (kws_init() != KWS_OK || seed_count == 0) return 3;
  for (uint64_t left = strtoull(argv[3], NULL, 10); left > 0; left--) {
    static char line[MAX_BYTES + 1];
    const char *seed = seeds[below(seed_count)];
    const int reframed = below(2);
    size_t n = (size_t)snprintf(line, sizeof line, "kws %s #%u", seed, below(10100));
    if (reframed) n = mutate(line, n);
    n += (size_t)snprintf(line + n, sizeof line - n, " %04X", crc16(line, n));
    if (!reframed) n = mutate(line, n);
    const int valid = right(line, n);
    said_bytes = 0;
    said[0] = '\0';
    feed("\n", 1); /* whatever the one before has left */
    said_bytes = 0;
    said[0] = '\0';
    line[n] = '\n';
    feed(line, n + 1);
    check();
    const char *status = NULL;
    for (const char *at = said; (at = strstr(at, " status=")) != NULL; at++)
      status = at;
    if (status == NULL) {
      counts[4]++;
      continue;
    }
    int known = 0;
    for (int i = 0; i < 4; i++) {
      const size_t size = strlen(answers[i]);
      if (strncmp(status + 8, answers[i], size) == 0 && status[8 + size] == ' ') {
        counts[i]++;
        known = 1;
        /* Nothing is obeyed whose last line has no right frame. */
        if (i != 1 && !valid && memchr(line, '\n', n) == NULL &&
            memchr(line, '\r', n) == NULL)
          exit(24);
      }
    }
    if (!known) exit(25);
  }
  for (int i = 0; i < 5; i++)
    printf("%s %llu\n", answers[i], (unsigned long long)counts[i]);
  return 0;
}
