/* The firmware's listening loop (app/listen.c) on a PC; kws/deploy/live.py reads the
 * declarations from here: no macros in them. */
#ifndef KWS_LISTEN_HOST_H
#define KWS_LISTEN_HOST_H

#include <stddef.h>
#include <stdint.h>

/* listen_start's status. */
int kws_listen_start(void);

void kws_listen_feed(const int16_t *pcm, size_t n);
void kws_listen_end(void);

/* What was written since the last call; returns its length. */
size_t kws_listen_text(const char **text);

#endif
