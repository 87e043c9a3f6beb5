/* Time by operator on a PC; kws/deploy/profile.py reads the declarations from here: no
 * macros in them. */
#ifndef KWS_PROFILE_HOST_H
#define KWS_PROFILE_HOST_H

#include <stdint.h>

/* Nanoseconds of each operator since the last reset, by its number in KWS_MARK. */
const uint64_t *kws_profile_spent(void);

void kws_profile_reset(void);

#endif
