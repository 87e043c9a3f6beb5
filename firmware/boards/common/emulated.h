/* What the emulated boards share beyond kws_board.h: arguments and files. */
#ifndef KWS_EMULATED_H
#define KWS_EMULATED_H

#include <stdint.h>

/* The value of the argument `name=value`, or NULL. */
const char *emulated_argument(const char *name);
/* The same as a number; `missing` if absent or not a decimal number below 2^31. */
uint32_t emulated_argument_u32(const char *name, uint32_t missing);

#endif
