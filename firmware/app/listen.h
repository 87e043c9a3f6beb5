/* What the firmware does between the microphone and the serial port; the same code
 * listens on a PC (kws listen). */
#ifndef KWS_LISTEN_H
#define KWS_LISTEN_H

#include <stdint.h>

/* Boot line, kws_init, self-test; see print_boot. Returns KWS_EXIT_OK or why not
 * (kws_board.h). */
int listen_start(const char *app, uint32_t build);

/* The watchdog is fed where new audio has arrived, and nowhere else: a loop that hangs
 * and a microphone that stands still are the same silence.
 *
 * Work on the audio that has arrived; print what is heard, and once in a second of
 * audio how things are (`kws beat`). */
void listen_work(void);

#endif
