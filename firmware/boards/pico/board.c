/* Raspberry Pi Pico: what the RP2040 has of its own; the rest is common/rp2.c. */
#include "board_config.h"
#include "kws_board.h"
#include "live.h"
#include "rp2.h"
#include "rp2040.h"

const char *kws_board_reset_reason(void) {
  if ((WATCHDOG_REASON & WATCHDOG_REASON_TIMER) != 0) return "watchdog";
  if ((WATCHDOG_REASON & WATCHDOG_REASON_FORCE) != 0) return "software";
  const uint32_t chip = VREG_AND_CHIP_RESET_CHIP_RESET; /* which of these came last */
  if ((chip & VREG_AND_CHIP_RESET_CHIP_RESET_HAD_POR) != 0) return "power";
  return (chip & VREG_AND_CHIP_RESET_CHIP_RESET_HAD_RUN) != 0 ? "pin" : "";
}

uint32_t board_ticks(void) {
  return TIMER_TIMERAWL; /* microseconds; an M0+ has no cycle counter */
}

void rp2_slow_flash(void) {
  SSI_SSIENR = 0;
  SSI_BAUDR = 4; /* at most 31 MHz */
  SSI_SSIENR = 1;
}

void rp2_start_ticks(void) {
  WATCHDOG_TICK = WATCHDOG_TICK_CYCLES(12) | WATCHDOG_TICK_ENABLE;
}
