/* What boards with a real microphone share: from a complete half-buffer to kws_push,
 * sleep, the LED and the cycle counter. live.c is all of kws_board.h but for
 * kws_board_init and kws_board_audio_start; a board adds these and what is below.
 *
 * Its board_config.h defines
 *   BOARD_SETTLE_MS        audio that is thrown away after the start, until the
 *                          microphone and its DC offset have settled
 *   BOARD_CYCLES_PER_TICK  processor cycles in a step of board_ticks()
 */
#ifndef KWS_LIVE_H
#define KWS_LIVE_H

#include <stddef.h>
#include <stdint.h>

/* 10 ms: one feature hop. */
#define LIVE_HALF_BUFFER 160

/* --- what the board provides --- */

/* Switch the LED that shows a word. */
void board_led(int on);
/* Send one byte; wait while the transmitter is full. */
void board_put(char byte);
/* A free-running 32-bit counter that runs at least while the core is awake. */
uint32_t board_ticks(void);
/* The interrupt of the microphone's DMA. */
void kws_microphone_handler(void);

/* --- what live.c provides to that interrupt's handler --- */

/* When the handler starts, and when it ends: its time is not the model's. */
void live_enter(void);
void live_leave(void);
/* LIVE_HALF_BUFFER samples at 16 kHz have arrived; changed in place. */
void live_half_buffer(int16_t *samples);
/* The handler came so late that the DMA has overwritten half-buffers: count them. */
void live_lost(uint32_t half_buffers);

#endif
