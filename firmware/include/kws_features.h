/* Fixed-point log-mel features (DESIGN D1, D7): one source for board and Python.
 *
 * Integers only. Streaming and clip give the same bits: a frame depends on its own
 * `window` samples and on nothing before it.
 */
#ifndef KWS_FEATURES_H
#define KWS_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#define KWS_FEATURES_MAX_FFT 512
#define KWS_FEATURES_MAX_MEL_BINS 80

/* One feature specification. The tables are generated on the host by
 * kws/features/tables.py from the recipe: no libm on the board. */
typedef struct kws_feature_spec kws_feature_spec_t;

#endif
