/* The five functions of <string.h> that compilers and the firmware call. Words where
 * both pointers are aligned alike: a Cortex-M0 has no unaligned access. */
#include <string.h>

#include <stdint.h>

#undef memcpy
#undef memmove
#undef memset

/* Copying words through these types may alias anything. Four words are one LDM and one
 * STM. */
typedef uint32_t __attribute__((may_alias)) word_t;
typedef struct __attribute__((may_alias)) {
  uint32_t words[4];
} block_t;

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  uint8_t *t = to;
  const uint8_t *f = from;
  if ((((uintptr_t)t ^ (uintptr_t)f) & 3) == 0) {
    for (; n > 0 && ((uintptr_t)t & 3) != 0; n--) *t++ = *f++;
    for (; n >= 16; n -= 16, t += 16, f += 16) *(block_t *)t = *(const block_t *)f;
    for (; n >= 4; n -= 4, t += 4, f += 4) *(word_t *)t = *(const word_t *)f;
  }
  for (; n > 0; n--) *t++ = *f++;
  return to;
}

void *memmove(void *to, const void *from, size_t n) {
  /* memcpy above goes upwards, so it serves whenever `to` lies below `from`. */
  if ((uintptr_t)to <= (uintptr_t)from) return memcpy(to, from, n);
  uint8_t *t = (uint8_t *)to + n;
  const uint8_t *f = (const uint8_t *)from + n;
  for (; n > 0; n--) *--t = *--f;
  return to;
}

void *memset(void *to, int value, size_t n) {
  uint8_t *t = to;
  const uint32_t word = 0x01010101u * (uint8_t)value;
  for (; n > 0 && ((uintptr_t)t & 3) != 0; n--) *t++ = (uint8_t)value;
  for (; n >= 4; n -= 4, t += 4) *(word_t *)t = word;
  for (; n > 0; n--) *t++ = (uint8_t)value;
  return to;
}

int memcmp(const void *a, const void *b, size_t n) {
  const uint8_t *left = a;
  const uint8_t *right = b;
  for (; n > 0; n--, left++, right++) {
    if (*left != *right) return *left - *right;
  }
  return 0;
}

size_t strlen(const char *text) {
  size_t n = 0;
  while (text[n] != '\0') n++;
  return n;
}
