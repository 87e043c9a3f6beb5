/* What boards with a real microphone share: from raw samples to kws_push, text out of a
 * ring, sleep, the LED and the cycle counter. live.c is all of kws_board.h but for
 * kws_board_init and kws_board_audio_start; a board adds these and what is below.
 *
 * Its board_config.h defines
 *   BOARD_SETTLE_MS        audio that is thrown away after the start, until the
 *                          microphone and its DC offset have settled
 *   BOARD_GAIN             of a raw sample, once its DC offset is off ...
 *   BOARD_GAIN_ONE         ... where raw samples of this many times int16's range come
 *   BOARD_DC_SHIFT         the high-pass that takes the offset off is at
 *                          raw rate / (2 pi 2^BOARD_DC_SHIFT)
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
/* Hand over to the transmitter what it can take of the text that waits (live_text,
 * live_sent), and see to it that its interrupt asks for more. Called with interrupts
 * off or from an interrupt, at any time. */
void board_send(void);
/* Whether the transmitter still has something to send. */
int board_sending(void);
/* Hand over to live_received what the serial port has taken in. Called from an
 * interrupt, which need not be its own. */
void board_receive(void);
/* If a half-buffer of the microphone's DMA is complete, hand it over. Called from an
 * interrupt, which need not be the DMA's. */
void board_microphone(void);
/* A free-running 32-bit counter that runs at least while the core is awake. */
uint32_t board_ticks(void);
/* Wait for an interrupt (WFI), as cheaply as the part can while its microphone and
 * serial port go on. Called with interrupts masked; back at full speed when it returns.
 * A board that has nothing to add leaves it out. */
void board_sleep(void);
/* Reset the part. A board where SYSRESETREQ does that leaves it out. */
void board_reset(void);

/* --- what live.c provides to the board --- */

/* A raw sample without its DC offset, times the gain, as far as int16 holds it. Every
 * raw sample goes through this, in order. */
int16_t live_sample(int32_t raw);
/* LIVE_HALF_BUFFER such samples at 16 kHz have arrived. */
void live_half_buffer(const int16_t *samples);
/* Half-buffers were lost: the DMA has overwritten them, or stood still. */
void live_lost(uint32_t half_buffers);

/* The text that waits, in one piece from *at; 0 where there is none. */
uint32_t live_text(const char **at);
/* The first n bytes of it are sent, or somewhere else. */
void live_sent(uint32_t n);

/* A byte has come; where so many come that the loop, or the text that answers them, has
 * no time for them, it is lost (a command's CRC then tells). */
void live_received(uint8_t byte);

/* Wait until (*reg & mask) == value: a second or so, then 0. At start-up only. */
int live_wait(const volatile uint32_t *reg, uint32_t mask, uint32_t value);
/* At the end of kws_board_init, where a clock did not start without which nothing
 * works: the LED flashes in threes, then the serial port says so. */
_Noreturn void live_stop(void);

#endif
