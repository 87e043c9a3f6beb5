/* The firmware's loop for a page in a browser: compiled to WebAssembly, without a
 * library and without an import (kws/deploy/web.py, kws/emit/web/app.js). Every
 * function here is an export of the module; addresses are into its memory. */
#ifndef KWS_WEB_HOST_H
#define KWS_WEB_HOST_H

#include <stdint.h>

/* What web_hear has done; any of them together. */
enum { WEB_FRAME = 1, WEB_DECIDED = 2, WEB_HEARD = 4 };

/* Start a stream: kws_init and the self-test, a kws_status_t. Thresholds stay. */
int32_t web_start(void);

/* Where the next samples are put, and how many fit. */
int16_t *web_samples(void);
uint32_t web_room(void);

/* Hear n of them, at most web_room(): so few that at most one frame of features, and so
 * one decision, is complete. */
uint32_t web_hear(uint32_t n);

/* Count n samples that nobody had time for: kws_lost. */
void web_lost(uint32_t n);

const int8_t *web_frame(void);   /* [mel bins] after WEB_FRAME */
const int8_t *web_logits(void);  /* [labels] after WEB_DECIDED */
uint32_t web_score(uint32_t of); /* smoothed posterior of a label, Q15 */

/* The word after WEB_HEARD. */
uint32_t web_event_label(void);
uint32_t web_event_score(void);
uint64_t web_event_time_ms(void);

/* Set a word's threshold, Q15. Returns 1, or 0 for what the detector refuses: below the
 * word's rearm, above 1, or a label that is no word. */
int32_t web_set_threshold(uint32_t of, uint32_t value);

/* The largest magnitude of a sample since the last call. */
uint32_t web_peak(void);

uint64_t web_samples_lost(void);

/* The products that skip (kws_delta_operator_t), and what each transmitted in the last
 * decision. */
uint32_t web_delta_count(void);
uint32_t web_delta_kind(uint32_t of);
uint32_t web_delta_layer(uint32_t of);
uint32_t web_delta_macs(uint32_t of);
uint32_t web_delta_elements(uint32_t of);
uint32_t web_delta_sent(uint32_t of);

#endif
