/* What the fuzzing targets share: an input as a sequence of small numbers, and a check
 * that ends the run. Each target is one LLVMFuzzerTestOneInput; libFuzzer calls it, or
 * replay.c with the files that it is given. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                \
    }                                                                         \
  } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
  const uint8_t *at;
  size_t left;
} input_t;

/* Zeros after its end. */
static inline uint8_t take8(input_t *input) {
  if (input->left == 0) return 0;
  input->left--;
  return *input->at++;
}

static inline uint16_t take16(input_t *input) {
  const uint16_t low = take8(input);
  return (uint16_t)(low | take8(input) << 8);
}

/* A copy of exactly n bytes, so that a read past its end is seen. */
static inline void *exactly(const void *from, size_t n) {
  void *copy = malloc(n);
  CHECK(copy != NULL || n == 0);
  if (n > 0) memcpy(copy, from, n);
  return copy;
}

/* n samples of a kind of sound, made from a byte and a seed: silence, a constant, the
 * two ends of the range in turn, noise. */
static inline void sound(int16_t *out, size_t n, uint8_t kind, uint32_t *seed) {
  for (size_t i = 0; i < n; i++) {
    *seed = *seed * 1664525u + 1013904223u;
    const int16_t noise = (int16_t)(*seed >> 16);
    switch (kind & 7) {
      case 0:
        out[i] = 0;
        break;
      case 1:
        out[i] = (int16_t)(kind << 8);
        break;
      case 2:
        out[i] = (i >> (kind >> 4)) & 1 ? INT16_MAX : INT16_MIN;
        break;
      case 3:
        out[i] = (int16_t)(i * (size_t)kind * 64);
        break;
      default:
        out[i] = (int16_t)(noise >> (kind >> 4));
        break;
    }
  }
}

#endif
