/* A line of the protocol with any texts and numbers in it: it ends once, is never
 * longer than its place, holds no control character, and its frame is right. */
#include "print.h"

#include "fuzz.h"
#include "kws_board.h"

enum { LINE_BYTES = 480 };

static int written;

uint64_t kws_board_ticks(void) {
  return 0;
}
_Noreturn void kws_board_restart(void) {
  abort();
}

void kws_board_write(const char *text) {
  const size_t n = strlen(text);
  CHECK(n > 12 && n < LINE_BYTES && text[n - 1] == '\n');
  const char *mark = text + n - 1;
  while (mark > text && *mark != '#') mark--;
  CHECK(mark > text && mark[-1] == ' ');
  char frame[16];
  unsigned sequence = 0;
  const char *at = mark + 1;
  for (; *at >= '0' && *at <= '9'; at++)
    sequence = sequence * 10 + (unsigned)(*at - '0');
  CHECK(at > mark + 1 && at <= mark + 5 && sequence < 10000);
  snprintf(frame, sizeof frame, " %04X\n", print_crc(text, (size_t)(at - text)));
  CHECK(strcmp(at, frame) == 0);
  int quoted = 0;
  for (const char *c = text; c < mark; c++) {
    CHECK((uint8_t)*c >= ' ');
    if (*c == '\\') {
      CHECK(quoted);
      c++;
    } else if (*c == '"') {
      quoted = !quoted;
    }
  }
  if (n < LINE_BYTES - 16) CHECK(!quoted); /* one that is too long is cut */
  written++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input_t input = {data, size};
  written = 0;
  print_begin("beat");
  for (int left = take8(&input) % 8; left > 0; left--) {
    const uint8_t what = take8(&input);
    if (what % 5 == 0) print_u64("n", (uint64_t)take16(&input) << what % 49);
    if (what % 5 == 1) print_q15("q", take16(&input) & INT16_MAX);
    if (what % 5 == 2) print_hex("h", (uint32_t)take16(&input) << what % 17);
    if (what % 5 >= 3) {
      const size_t n = what < input.left ? what : input.left;
      char *text = malloc(n + 1);
      memcpy(text, input.at, n);
      text[n] = '\0';
      input.at += n;
      input.left -= n;
      print_text("t", text);
      free(text);
    }
  }
  print_end();
  CHECK(written == 1);
  return 0;
}
