/* Runs the features on an emulated Cortex-M and prints, over semihosting, one line:
 * most instructions of a frame, most stack bytes of a frame, then the features as hex.
 *
 * Needs TEST_COUNTER (address of the FPGAIO counter) and TEST_TICK_NS (its period).
 * With QEMU's -icount shift=8 an instruction takes 256 ns. */
#include "kws_features.h"

#define STACK_BYTES 8192
#define PAINT       0xA5

extern const kws_feature_spec_t test_features;
extern const int16_t test_samples[];
extern const uint32_t test_sample_count;

void reset(void);
void fault(void);
/* Compilers call these; there is no C library. */
void *memset(void *target, int value, size_t count);
void *memcpy(void *target, const void *source, size_t count);

static uint8_t stack[STACK_BYTES] __attribute__((aligned(8)));

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack + STACK_BYTES, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault};

static void semihosting(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void stop(uint32_t code) {
  const uint32_t arguments[2] = {0x20026, code};
  semihosting(0x20, arguments);
  for (;;) {
  }
}

void fault(void) {
  stop(3);
}

__attribute__((noinline)) void *memset(void *target, int value, size_t count) {
  volatile uint8_t *to = target;
  while (count-- > 0) {
    *to++ = (uint8_t)value;
  }
  return target;
}

__attribute__((noinline)) void *memcpy(void *target, const void *source, size_t count) {
  volatile uint8_t *to = target;
  const uint8_t *from = source;
  while (count-- > 0) {
    *to++ = *from++;
  }
  return target;
}

static char *hex(char *text, uint32_t value, int digits) {
  for (int i = digits - 1; i >= 0; i--) {
    *text++ = "0123456789abcdef"[(value >> (4 * i)) & 15];
  }
  *text = 0;
  return text;
}

static uint32_t counter(void) {
  return *(volatile uint32_t *)TEST_COUNTER;
}

static uint32_t instructions(uint32_t ticks) {
  return (ticks * TEST_TICK_NS + 128) / 256;
}

void reset(void) {
  static int8_t out[KWS_FEATURES_MAX_MEL_BINS];
  static char text[2 * KWS_FEATURES_MAX_MEL_BINS + 1];
  uint32_t most = 0;
  size_t most_stack = 0;
  *(volatile uint32_t *)0xE000ED88 |= 0xFU
                                      << 20;    /* FPU and MVE on, where there is one */
  *(volatile uint32_t *)(TEST_COUNTER + 4) = 0; /* no prescaler */
  const size_t frames = kws_features_frame_count(&test_features, test_sample_count);
  for (size_t frame = 0; frame < frames; frame++) {
    volatile uint8_t *const here = (volatile uint8_t *)__builtin_frame_address(0) - 256;
    for (volatile uint8_t *p = stack; p < here; p++) {
      *p = PAINT;
    }
    const uint32_t start = counter();
    kws_features_frame(&test_features, test_samples + frame * test_features.hop, out);
    const uint32_t spent = instructions(counter() - start);
    most = spent > most ? spent : most;
    volatile uint8_t *p = stack;
    while (*p == PAINT) {
      p++;
    }
    const size_t used = (size_t)(here + 256 - p);
    most_stack = used > most_stack ? used : most_stack;
    char *end = text;
    for (size_t i = 0; i < test_features.mel_bins; i++) {
      end = hex(end, (uint8_t)out[i], 2);
    }
    semihosting(4, text);
  }
  char *end = text;
  *end++ = ' ';
  end = hex(end, most, 8);
  *end++ = ' ';
  hex(end, (uint32_t)most_stack, 8);
  semihosting(4, text);
  stop(0);
}
