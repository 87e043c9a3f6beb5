/* See live.h. */
#include "live.h"

#include "board_config.h"
#include "kws.h"
#include "kws_board.h"

/* The DC offset follows slowly: a high-pass at 16000 / (2 pi 2^DC_SHIFT) = 2.5 Hz. */
enum { DC_SHIFT = 10, LED_HALF_BUFFERS = 50, SETTLE_SAMPLES = 16 * BOARD_SETTLE_MS };

static int32_t dc; /* times 2^DC_SHIFT */
static uint32_t settled_samples;
static volatile uint32_t halves_arrived;
static volatile uint32_t led_left; /* half-buffers until the LED goes out */

static uint64_t ticks_total;
static uint32_t ticks_last;
static uint64_t interrupt_ticks; /* spent in the microphone's interrupt */
static uint64_t interrupt_start;

/* The counter in 64 bits. It wraps after 53 s (80 MHz) or later; while audio arrives it
 * is read every 10 ms. Called with the interrupt off, or from it. */
static uint64_t read_ticks(void) {
  const uint32_t now = board_ticks();
  ticks_total += now - ticks_last;
  ticks_last = now;
  return ticks_total;
}

static uint32_t interrupts_off(void) {
  uint32_t before;
  __asm volatile("mrs %0, primask\n cpsid i" : "=r"(before)::"memory");
  return before;
}

static void interrupts_restore(uint32_t before) {
  __asm volatile("msr primask, %0" ::"r"(before) : "memory");
}

uint64_t kws_board_ticks(void) {
  const uint32_t before = interrupts_off();
  const uint64_t ticks = read_ticks() - interrupt_ticks;
  interrupts_restore(before);
  return ticks;
}

uint64_t kws_board_ticks_to_cost(uint64_t ticks) {
  return ticks * BOARD_CYCLES_PER_TICK;
}

void live_enter(void) {
  interrupt_start = read_ticks();
}

void live_leave(void) {
  interrupt_ticks += read_ticks() - interrupt_start;
}

static void remove_dc(int16_t *samples) {
  for (int i = 0; i < LIVE_HALF_BUFFER; i++) {
    const int32_t sample = samples[i] - (dc >> DC_SHIFT);
    dc += sample;
    samples[i] = (int16_t)(sample > 32767 ? 32767 : sample < -32768 ? -32768 : sample);
  }
}

void live_half_buffer(int16_t *samples) {
  remove_dc(samples);
  if (settled_samples < SETTLE_SAMPLES) {
    settled_samples += LIVE_HALF_BUFFER;
  } else {
    kws_push(samples, LIVE_HALF_BUFFER);
  }
  if (led_left > 0 && --led_left == 0) board_led(0);
  halves_arrived++;
}

void live_lost(uint32_t half_buffers) {
  kws_lost(half_buffers * LIVE_HALF_BUFFER);
}

int kws_board_audio_wait(void) {
  static uint32_t halves_seen;
  /* With interrupts masked, WFI still wakes on one that is pending: none is missed
   * between the test and the sleep. */
  __asm volatile("cpsid i" ::: "memory");
  while (halves_seen == halves_arrived) {
    __asm volatile("wfi\n cpsie i\n isb\n cpsid i" ::: "memory");
  }
  halves_seen = halves_arrived;
  __asm volatile("cpsie i" ::: "memory");
  return 1;
}

void kws_board_show_event(void) {
  const uint32_t before = interrupts_off();
  led_left = LED_HALF_BUFFERS;
  board_led(1);
  interrupts_restore(before);
}

void kws_board_write(const char *text) {
  for (; *text != '\0'; text++) {
    if (*text == '\n') board_put('\r');
    board_put(*text);
  }
}

_Noreturn void kws_board_exit(int code) {
  (void)code; /* the line before has told why */
  interrupts_off();
  board_led(1);
  for (;;) __asm volatile("wfi");
}
