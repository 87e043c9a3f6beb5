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

/* Stream on, from wherever it stands. Returns how many events were heard, of which
 * `room` are stored. */
size_t kws_host_detect(const int16_t *pcm, size_t samples, kws_event_t *events,
                       size_t room);

/* Stream on. Returns how many decisions were made, of which `room` are stored: their
 * logits, int8 [decisions][labels]; the end of what each looked back on; what each
 * product that skips transmitted since the decision before, uint32
 * [decisions][products]; and the label of the word that was heard, or -1. */
size_t kws_host_decide(const int16_t *pcm, size_t samples, int8_t *logits,
                       uint64_t *time_ms, uint32_t *sent, int32_t *heard, size_t room);

/* The detector's sums after each of n decisions, uint32 [n][labels], with another
 * smoothing than the model's, and the highest smoothed posterior of a word, Q15 [n].
 * From a reset on. Returns 0, or 1 if there is no such smoothing. */
int kws_host_sums(const int8_t *logits, size_t n, uint16_t smoothing, uint32_t *sums,
                  uint16_t *highest);

/* What the detector hears of kws_host_sums' n decisions with other settings: threshold
 * and rearm are Q15 [labels]. Returns how many words were heard, of which `room` are
 * stored: at which decision, which label, its score. SIZE_MAX if the detector refuses
 * the settings. Keeps nothing, so threads may share the library. */
size_t kws_host_hear(const uint32_t *sums, const uint16_t *highest, size_t n,
                     uint16_t smoothing, uint16_t refractory, const uint16_t *threshold,
                     const uint16_t *rearm, uint32_t *decision, uint16_t *label,
                     uint16_t *score, size_t room);

#endif
