/* One line of the protocol that kws/deploy/monitor.py reads:
 *
 *   kws <kind> key=value ... #<sequence> <CRC-16>
 *
 * Values with spaces, quotes or backslashes are quoted, the latter two escaped by a
 * backslash; a control character becomes `?`. The sequence counts lines from 0 to 9999
 * and round again; the CRC (CCITT, from ffff, 4 hex digits) is of all before it but the
 * space. So a reader knows which lines are whole, and how many it has missed. */
#ifndef KWS_PRINT_H
#define KWS_PRINT_H

#include <stddef.h>
#include <stdint.h>

#include "kws.h"

uint16_t print_crc(const char *text, size_t n);

void print_begin(const char *kind);
void print_text(const char *key, const char *value);
void print_u64(const char *key, uint64_t value);
void print_q15(const char *key, uint16_t value); /* 0.000 .. 1.000 */
void print_hex(const char *key, uint32_t value); /* 8 digits */
void print_end(void);

/* A word that was heard. */
void print_event(const kws_event_t *event);

/* How things are since the last beat: level, costs, what delta pruning skipped in the
 * last model run. Names the model too: whoever connects later has missed the boot. */
void print_beat(const kws_stats_t *stats);

/* The boot line: which model, which firmware, why it started. `build` tells one image
 * from another (0: none). And the counters with `total / count` turned into costs. */
void print_boot(const char *app, uint32_t build);
void print_stats(void);

/* How the firmware is set, and a label's threshold (none for what is no word). */
void print_state(int verbosity);
void print_threshold(int label);

/* What the last decision is for. */
void print_decision(void);

/* `kws end`: nothing comes any more. */
void print_last(void);

#endif
