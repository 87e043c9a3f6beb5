/* What a board with an RP2040 or RP2350 adds to rp2.c: how its chip differs. */
#ifndef KWS_RP2_H
#define KWS_RP2_H

/* Nothing runs from flash any more, but it is still read: before clk_sys rises to
 * BOARD_CLOCK_HZ, make its clock slow enough for any flash. */
void rp2_slow_flash(void);
/* Give the watchdog, and a timer that is used, their microseconds from the crystal. */
void rp2_start_ticks(void);

#endif
