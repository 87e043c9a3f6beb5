/* Is the whole image in flash? `kws build` writes the CRC-32 of code and model behind
 * them (section .seal); where programming was interrupted, it does not match. */
#ifndef KWS_IMAGE_H
#define KWS_IMAGE_H

#include <stdint.h>

int image_complete(void);

/* That CRC: what tells this image from another. */
uint32_t image_build(void);

#endif
