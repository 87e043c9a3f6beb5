/* What the PC may tell a board, in the protocol's own framing (print.h):
 *
 *   kws query #5 CRC4                      `kws state`, and each word's threshold
 *   kws verbosity level=0 #6 CRC4          0: words; 1: beats too; 2: every decision
 *   kws threshold label=2 value=850 #7 ..  of a word, in thousandths, until the restart
 *   kws gain value=10 #8 ..                of the microphone, where the board has one
 *   kws selftest #9 ..                     restart: boot line, self-test
 *
 * Each line that starts with `kws ` is answered by `kws reply to=5 status=...`: ok, or
 * frame (its CRC is wrong), unknown, range, absent (this board has none). */
#ifndef KWS_COMMAND_H
#define KWS_COMMAND_H

#include <stddef.h>

enum { VERBOSITY_WORDS, VERBOSITY_BEATS, VERBOSITY_DECISIONS };

/* What is told unasked. */
extern int command_verbosity;

/* Obey the lines that are complete now; a line may come in any pieces. One that is too
 * long is dropped. */
void command_feed(const char *bytes, size_t n);

#endif
