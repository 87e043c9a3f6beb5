/* See print.h. */
#include "print.h"

#include <stddef.h>
#include <string.h>

#include "kws_board.h"
#include "kws_model.h"

enum { SCHEMA_VERSION = 1, LINE_BYTES = 480, FRAME_BYTES = 11 };

static char line[LINE_BYTES];
static size_t length, limit = LINE_BYTES - 2 - FRAME_BYTES;
static uint32_t sequence;

/* A line that is too long is cut, never overrun; its frame has room. */
static void append(const char *text) {
  for (; *text != '\0' && length < limit; text++) {
    line[length++] = *text;
  }
}

/* Four bits at a time: 0x1021 is the polynomial. */
uint16_t print_crc(const char *text, size_t n) {
  static const uint16_t table[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5,
                                     0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b,
                                     0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
  uint32_t crc = 0xffff;
  for (; n > 0; n--, text++) {
    const uint32_t byte = (uint8_t)*text;
    crc = (crc << 4 ^ table[(crc >> 12 ^ byte >> 4) & 15]) & 0xffff;
    crc = (crc << 4 ^ table[(crc >> 12 ^ byte) & 15]) & 0xffff;
  }
  return (uint16_t)crc;
}

void print_begin(const char *kind) {
  length = 0;
  append("kws ");
  append(kind);
}

static void append_key(const char *key) {
  append(" ");
  append(key);
  append("=");
}

void print_text(const char *key, const char *value) {
  int quote = *value == '\0';
  for (const char *at = value; *at != '\0'; at++) {
    quote |= *at == ' ' || *at == '"' || *at == '\\' || (*at > 0 && *at < ' ');
  }
  append_key(key);
  if (quote) append("\"");
  for (; *value != '\0'; value++) {
    const char text[2] = {*value, '\0'};
    if (*value == '"' || *value == '\\') append("\\");
    append(*value > 0 && *value < ' ' ? "?" : text);
  }
  if (quote) append("\"");
}

static void append_u64(uint64_t value) {
  char digits[21];
  size_t at = sizeof digits - 1;
  digits[at] = '\0';
  do {
    digits[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  append(digits + at);
}

void print_u64(const char *key, uint64_t value) {
  append_key(key);
  append_u64(value);
}

void print_q15(const char *key, uint16_t value) {
  const uint32_t thousandths = ((uint32_t)value * 1000 + 16383) / 32767;
  char digits[6] = {
      (char)('0' + thousandths / 1000),     '.',
      (char)('0' + thousandths / 100 % 10), (char)('0' + thousandths / 10 % 10),
      (char)('0' + thousandths % 10),       '\0'};
  append_key(key);
  append(digits);
}

/* The last `digits` of them. */
static void append_hex(uint32_t value, int digits, const char *alphabet) {
  for (int i = digits - 1; i >= 0; i--) {
    const char text[2] = {alphabet[value >> 4 * i & 15], '\0'};
    append(text);
  }
}

void print_hex(const char *key, uint32_t value) {
  append_key(key);
  append_hex(value, 8, "0123456789abcdef");
}

void print_end(void) {
  limit = LINE_BYTES - 2;
  append(" #");
  append_u64(sequence);
  const uint16_t crc = print_crc(line, length);
  append(" ");
  append_hex(crc, 4, "0123456789ABCDEF");
  limit = LINE_BYTES - 2 - FRAME_BYTES;
  sequence = sequence < 9999 ? sequence + 1 : 0;
  line[length++] = '\n';
  line[length] = '\0';
  kws_board_write(line);
}

void kws_say(const char *kind, const char *rest) {
  print_begin(kind);
  append(" ");
  append(rest);
  print_end();
}

void print_event(const kws_event_t *event) {
  print_begin("event");
  print_text("word", kws_model_info.labels[event->label]);
  print_u64("start_ms", event->start_ms);
  print_u64("time_ms", event->time_ms);
  print_q15("score", event->score);
  print_end();
}

static struct {
  uint64_t frames, inferences, feature_ticks, model_ticks;
} last_beat;
static uint32_t build_number;

static void print_build(void) {
  if (build_number != 0) print_hex("build", build_number);
}

/* In the middle of whatever was written. */
void kws_fault(const kws_fault_t *fault) {
  kws_board_write("\n");
  print_begin("fault");
  print_u64("exception", fault->exception);
  print_hex("pc", fault->pc);
  print_hex("lr", fault->lr);
  print_hex("cfsr", fault->cfsr);
  print_hex("hfsr", fault->hfsr);
  print_hex("mmfar", fault->mmfar);
  print_hex("bfar", fault->bfar);
  if (fault->overflow) print_text("stack", "overflow");
  print_build();
  print_end();
}

/* Which firmware this is. */
static void print_identity(void) {
#ifdef KWS_BOARD /* given by kws/deploy/build.py; not on a PC */
  print_text("version", KWS_VERSION);
  print_text("board", KWS_BOARD);
  print_u64("clock_hz", KWS_CLOCK_HZ);
#endif
  print_build();
  const char *reason = kws_board_reset_reason();
  if (*reason != '\0') print_text("reset", reason);
}

void print_state(int verbosity) {
  print_begin("state");
  print_text("hash", kws_model_info.hash);
  print_u64("schema", SCHEMA_VERSION);
  print_identity();
  print_u64("verbosity", (uint64_t)verbosity);
  if (kws_board_gain() > 0) print_u64("gain", (uint64_t)kws_board_gain());
  print_end();
}

void print_threshold(int label) {
  if (label < kws_model_info.detector->first_word) return;
  print_begin("threshold");
  print_u64("label", (uint64_t)label);
  print_text("word", kws_model_info.labels[label]);
  print_q15("value", kws_threshold(label));
  print_end();
}

void print_decision(void) {
  int best = 0;
  for (int i = 1; i < kws_model_info.label_count; i++) {
    if (kws_score(i) > kws_score(best)) best = i;
  }
  print_begin("decision");
  print_text("word", kws_model_info.labels[best]);
  print_q15("score", kws_score(best));
  print_end();
}

void print_boot(const char *app, uint32_t build) {
  build_number = build;
  memset(&last_beat, 0, sizeof last_beat);
  print_begin("boot");
  print_text("name", kws_model_info.name);
  print_text("hash", kws_model_info.hash);
  print_u64("schema", SCHEMA_VERSION);
  print_text("app", app);
  print_u64("labels", kws_model_info.label_count);
  print_u64("arena", kws_model_info.arena_bytes);
  print_u64("weights", kws_model_info.weights_bytes);
  print_identity();
  print_end();
}

static uint64_t mean(uint64_t ticks, uint64_t count) {
  return count > 0 ? kws_board_ticks_to_cost((ticks + count / 2) / count) : 0;
}

/* By kws_microphone_t. */
static const char *const microphone[] = {"ok",     "none",  "zeros",   "stuck",
                                         "offset", "quiet", "clipping"};

void print_beat(const kws_stats_t *stats) {
  const uint64_t frames = stats->frames - last_beat.frames;
  const uint64_t inferences = stats->inferences - last_beat.inferences;
  uint64_t macs = 0, macs_dense = 0;
  for (uint32_t i = 0; i < kws_model_info.delta_count; i++) {
    const kws_delta_operator_t *product = &kws_model_info.delta[i];
    macs += (uint64_t)product->macs * *product->sent;
    macs_dense += (uint64_t)product->macs * product->elements;
  }
  print_begin("beat");
  print_text("hash", kws_model_info.hash);
  print_u64("schema", SCHEMA_VERSION);
  print_u64("time_ms", (stats->samples + stats->overruns) / 16);
  print_u64("peak", kws_peak());
  print_u64("overruns", stats->overruns);
  print_u64("inferences", stats->inferences);
  print_u64("frame_cost", mean(stats->feature_ticks - last_beat.feature_ticks, frames));
  print_u64("cost", mean(stats->model_ticks - last_beat.model_ticks, inferences));
  print_u64("macs", macs);
  print_u64("macs_dense", macs_dense);
  print_u64("stack", kws_board_stack_used());
  print_u64("stack_size", kws_board_stack_size());
  print_text("mic", microphone[kws_microphone()]);
  print_end();
  last_beat.frames = stats->frames;
  last_beat.inferences = stats->inferences;
  last_beat.feature_ticks = stats->feature_ticks;
  last_beat.model_ticks = stats->model_ticks;
}

void print_stats(void) {
  kws_stats_t stats;
  kws_stats(&stats);
  print_begin("stats");
  print_u64("samples", stats.samples);
  print_u64("overruns", stats.overruns);
  print_u64("frames", stats.frames);
  print_u64("inferences", stats.inferences);
  print_u64("events", stats.events);
  print_u64("stack", kws_board_stack_used());
  print_u64("stack_size", kws_board_stack_size());
  print_u64("instructions_per_frame", mean(stats.feature_ticks, stats.frames));
  print_u64("instructions_per_inference", mean(stats.model_ticks, stats.inferences));
  print_u64("instructions_per_inference_max",
            kws_board_ticks_to_cost(stats.model_ticks_max));
  print_u64("loop_instructions_per_frame", mean(stats.loop_ticks, stats.frames));
  print_end();
}

void print_last(void) {
  print_begin("end");
  print_end();
}
