/* Raspberry Pi Pico 2: what the RP2350 has of its own; the rest is common/rp2.c. */
#include "board_config.h"
#include "kws_board.h"
#include "live.h"
#include "rp2.h"
#include "rp2350.h"

extern const uint8_t kws_image_end[];

enum {
  UNCACHED = 0x04000000, /* from flash's address to the same without the cache */
  ALL = 0xff,            /* of the divider's bits */
};

const char *kws_board_reset_reason(void) {
  if ((WATCHDOG_REASON & WATCHDOG_REASON_TIMER) != 0) return "watchdog";
  if ((WATCHDOG_REASON & WATCHDOG_REASON_FORCE) != 0) return "software";
  const uint32_t chip = POWMAN_CHIP_RESET; /* which of these came last */
  const uint32_t power = POWMAN_CHIP_RESET_HAD_POR | POWMAN_CHIP_RESET_HAD_BOR;
  if ((chip & power) != 0) return "power";
  return (chip & POWMAN_CHIP_RESET_HAD_RUN_LOW) != 0 ? "pin" : "";
}

uint32_t board_ticks(void) {
  return DWT_CYCCNT;
}

/* 150 MHz / 6 = 25 MHz, in whatever way the boot ROM has found to read this flash. A
 * divider counts from the next access on: one that no cache answers. */
void rp2_slow_flash(void) {
  QMI_M0_TIMING =
      (QMI_M0_TIMING & ~QMI_M0_TIMING_CLKDIV(ALL)) | QMI_M0_TIMING_CLKDIV(6);
  (void)*(const volatile uint8_t *)(kws_image_end + UNCACHED);
  __asm volatile("dsb" ::: "memory");
}

/* The timers are not used. */
void rp2_start_ticks(void) {
  TICKS_WATCHDOG_CYCLES = 12;
  TICKS_WATCHDOG_CTRL = TICKS_WATCHDOG_CTRL_ENABLE;
  COREDEBUG_DEMCR |= COREDEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= DWT_CTRL_CYCCNTENA;
}
