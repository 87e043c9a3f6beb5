/* See live.h. */
#include "live.h"

#include "board_config.h"
#include "cortex_m.h"
#include "kws.h"
#include "kws_board.h"

enum {
  LED_HALF_BUFFERS = 50,
  SETTLE_SAMPLES = 16 * BOARD_SETTLE_MS,
  TEXT_BYTES = 1024,      /* a power of two; a beat takes about 200 */
  RECEIVED_BYTES = 128,   /* a power of two; a command has 80 at most */
  MAX_GAIN = 100,         /* times 24 bits of sample stays within 32 */
  WAIT_TURNS = 1000000,   /* about 8 cycles each */
  FLUSH_TURNS = 10000000, /* seconds: TEXT_BYTES take 0.09 */
  FLASH_TURNS = 500000,   /* a part of a second, whatever the clock */
};

static int32_t dc; /* times 2^BOARD_DC_SHIFT */
static uint32_t settled_samples;
static volatile uint32_t halves_arrived;
static volatile uint32_t led_left; /* half-buffers until the LED goes out */

static uint64_t ticks_total;
static uint32_t ticks_last;
static uint64_t interrupt_ticks; /* spent in interrupts */

/* Both only grow. kws_board_write moves the head; the tail moves with interrupts off.
 */
static char text[TEXT_BYTES];
static volatile uint32_t text_head, text_tail;

/* Both only grow: the interrupt moves the head, kws_board_read the tail. */
static uint8_t received[RECEIVED_BYTES];
static volatile uint32_t received_head, received_tail;

static volatile int32_t gain_change; /* from BOARD_GAIN */

/* The counter in 64 bits. It wraps after 28 s (150 MHz) or later; while audio arrives
 * it is read every 10 ms. Called with the interrupt off, or from it. */
static uint64_t read_ticks(void) {
  const uint32_t now = board_ticks();
  ticks_total += now - ticks_last;
  ticks_last = now;
  return ticks_total;
}

/* What is in a ring is there before its head moves, and read before its tail does: the
 * compiler keeps only volatile accesses in order. */
static inline void in_order(void) {
  __asm volatile("" ::: "memory");
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

/* The microphone's and the serial port's; their time is not the model's. */
void kws_interrupt_handler(void) {
  const uint64_t start = read_ticks();
  board_receive();
  board_microphone();
  board_send();
  interrupt_ticks += read_ticks() - start;
}

static int16_t saturated(int32_t sample) {
  return (int16_t)(sample > 32767 ? 32767 : sample < -32768 ? -32768 : sample);
}

int32_t kws_board_gain(void) {
  return BOARD_GAIN + gain_change;
}

int kws_board_set_gain(int32_t gain) {
  if (gain < 1 || gain > MAX_GAIN) return -1;
  gain_change = gain - BOARD_GAIN;
  return 0;
}

/* The offset goes before the gain: times the gain, it alone could fill int16. */
int16_t live_sample(int32_t raw) {
  const int32_t sample = raw - (dc >> BOARD_DC_SHIFT);
  dc += sample;
  return saturated(sample * kws_board_gain() / BOARD_GAIN_ONE);
}

void live_half_buffer(const int16_t *samples) {
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

__attribute__((weak)) void board_sleep(void) {
  __asm volatile("wfi" ::: "memory");
}

int kws_board_audio_wait(void) {
  static uint32_t halves_seen;
  /* With interrupts masked, WFI still wakes on one that is pending: none is missed
   * between the test and the sleep. */
  __asm volatile("cpsid i" ::: "memory");
  while (halves_seen == halves_arrived) {
    board_sleep();
    __asm volatile("cpsie i\n isb\n cpsid i" ::: "memory");
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

uint32_t live_text(const char **at) {
  const uint32_t from = text_tail % TEXT_BYTES;
  const uint32_t waits = text_head - text_tail, to_end = TEXT_BYTES - from;
  *at = text + from;
  return waits < to_end ? waits : to_end;
}

void live_sent(uint32_t n) {
  text_tail += n;
}

void live_received(uint8_t byte) {
  if (received_head - received_tail == RECEIVED_BYTES) return;
  received[received_head % RECEIVED_BYTES] = byte;
  in_order();
  received_head++;
}

/* Nothing while text waits: answers are longer than commands, and who sends without a
 * pause would keep the loop in put(). */
size_t kws_board_read(char *to, size_t n) {
  size_t taken = 0;
  if (text_head != text_tail) return 0;
  for (; taken < n && received_tail != received_head; taken++) {
    in_order();
    to[taken] = (char)received[received_tail % RECEIVED_BYTES];
    in_order();
    received_tail++;
  }
  return taken;
}

static void send(void) {
  const uint32_t before = interrupts_off();
  board_send();
  interrupts_restore(before);
}

/* Waits where the ring is full, and nowhere else. */
static void put(char byte) {
  while (text_head - text_tail == TEXT_BYTES) send();
  text[text_head % TEXT_BYTES] = byte;
  in_order();
  text_head++;
}

void kws_board_write(const char *string) {
  for (; *string != '\0'; string++) {
    if (*string == '\n') put('\r');
    put(*string);
  }
  send();
}

/* Interrupts are off. */
static void flush(void) {
  for (uint32_t turns = FLUSH_TURNS; turns > 0; turns--) {
    board_send();
    if (text_head == text_tail && !board_sending()) break;
  }
}

__attribute__((weak)) void board_reset(void) {
  SCB_AIRCR = SCB_AIRCR_RESET;
}

_Noreturn void kws_board_restart(void) {
  interrupts_off();
  flush();
  board_reset();
  for (;;) __asm volatile("dsb");
}

/* The text goes out first; then nothing may wake the core: WFI does not sleep while an
 * enabled interrupt is pending, masked or not. */
_Noreturn void kws_board_exit(int code) {
  (void)code; /* the line before has told why */
  interrupts_off();
  board_led(1);
  flush();
  NVIC_ICER0 = 0xffffffffu;
  NVIC_ICPR0 = 0xffffffffu;
#if __ARM_ARCH >= 7
  NVIC_ICER1 = 0xffffffffu;
  NVIC_ICPR1 = 0xffffffffu;
#endif
  for (;;) board_sleep();
}

int live_wait(const volatile uint32_t *reg, uint32_t mask, uint32_t value) {
  for (uint32_t turns = WAIT_TURNS; turns > 0; turns--) {
    if ((*reg & mask) == value) return 1;
  }
  return 0;
}

/* The LED first: the serial port's clock may be what did not start. */
_Noreturn void live_stop(void) {
  for (int flash = 0; flash < 24; flash++) {
    board_led(flash % 8 < 6 && flash % 2 == 0); /* three, and a pause */
    for (volatile uint32_t turns = FLASH_TURNS; turns > 0; turns--) {
    }
  }
  kws_say("error", "reason=clock");
  kws_board_exit(KWS_EXIT_CLOCK);
}
