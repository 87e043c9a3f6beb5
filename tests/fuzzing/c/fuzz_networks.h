/* The networks that are fuzzed: fuzz_networks.c, by c_targets.py. */
#ifndef FUZZ_NETWORKS_H
#define FUZZ_NETWORKS_H

#include "kws_model.h"

typedef struct {
  const kws_model_info_t *info;
  void (*reset)(void);
  void (*step)(const int8_t *new_frames, uint32_t n, int8_t *logits);
} fuzz_network_t;

extern const fuzz_network_t fuzz_networks[];
extern const unsigned fuzz_networks_count;

#endif
