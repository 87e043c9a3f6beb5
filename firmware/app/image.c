/* See image.h. */
#include "image.h"

extern const uint8_t kws_image_start[], kws_image_end[]; /* boards/common/link.ld */

/* Written by kws/deploy/elf.py once the image is linked. */
__attribute__((section(".seal"), used)) const volatile uint32_t kws_image_crc =
    0xffffffffu;

uint32_t image_build(void) {
  return kws_image_crc;
}

/* CRC-32 as in zip (reflected 0x04c11db7), four bits at a time. */
int image_complete(void) {
  static const uint32_t table[16] = {
      0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
      0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
      0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
  uint32_t crc = 0xffffffffu;
  for (const uint8_t *at = kws_image_start; at < kws_image_end; at++) {
    crc ^= *at;
    crc = (crc >> 4) ^ table[crc & 15];
    crc = (crc >> 4) ^ table[crc & 15];
  }
  return (crc ^ 0xffffffffu) == kws_image_crc;
}
