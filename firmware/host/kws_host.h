/* What the shared library on a PC adds to the firmware: loops over clips and over a
 * stream. kws/deploy/host.py reads the declarations from here: no macros in them. */
#ifndef KWS_HOST_H
#define KWS_HOST_H

#include <stddef.h>
#include <stdint.h>

#include "kws.h"

/* kws_init's status. */
int kws_host_start(void);

/* What each product that skips transmitted in the last decision; at most `room`.
 * Returns how many products there are. */
size_t kws_host_sent(uint32_t *sent, size_t room);

/* The logits of the last decision on each clip, int8 [clips][labels], and what each
 * product that skips transmitted in it, uint32 [clips][products]. Returns 0, or 1 if a
 * clip gave none. */
int kws_host_logits(const int16_t *pcm, size_t clips, size_t samples, size_t labels,
                    int8_t *out, uint32_t *sent);

/* The same from features, int8 [clips][frames][mel_bins], each clip from a reset. */
void kws_host_step(const int8_t *features, size_t clips, size_t frames, size_t labels,
                   int8_t *out, uint32_t *sent);

/* Stream on, from wherever it stands. What each product that skips transmitted from one
 * decision to the next, uint32 [decisions][products]. Returns how many decisions were
 * made, of which `room` are stored. */
size_t kws_host_transmit(const int16_t *pcm, size_t samples, uint32_t *sent,
                         size_t room);

/* Stream on. Returns how many events were heard, of which `room` are stored. */
size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room);

#endif
