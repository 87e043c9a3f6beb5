/* One line of the protocol that kws/deploy/monitor.py reads: `kws <kind> key=value
 * ...`. Values with spaces, quotes or backslashes are quoted, the latter two escaped by
 * a backslash; a control character becomes `?`. */
#ifndef KWS_PRINT_H
#define KWS_PRINT_H

#include <stdint.h>

void print_begin(const char *kind);
void print_text(const char *key, const char *value);
void print_u64(const char *key, uint64_t value);
void print_q15(const char *key, uint16_t value); /* 0.000 .. 1.000 */
void print_end(void);

/* The boot line, and the counters with `total / count` turned into costs. */
void print_boot(const char *app);
void print_stats(void);

#endif
