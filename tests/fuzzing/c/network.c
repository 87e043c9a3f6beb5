/* The emitted C of a network, its steps cut in pieces of any size: no bit depends on
 * the cuts, a reset leaves nothing, and no product sends more than it has. */
#include "fuzz.h"
#include "fuzz_networks.h"

static const kws_model_info_t *info;
static int8_t *frames;
static uint32_t sent_first[256];

/* Frames of a kind: like silence, held, wandering, anything. */
static uint32_t make(input_t *input) {
  const uint32_t bins = info->mel_bins;
  const uint32_t past = take8(input) % (info->step_frames + 2u);
  const uint32_t n = info->first_frames + past - (past == 1) * 2;
  uint32_t seed = take16(input);
  uint8_t kind = 0, left = 0;
  frames = malloc(n * bins + 1);
  for (uint32_t t = 0; t < n; t++) {
    if (left == 0) {
      kind = take8(input);
      left = 1 + take8(input) % 32;
    }
    left--;
    for (uint32_t m = 0; m < bins; m++) {
      const int before = t > 0 ? frames[(t - 1) * bins + m] : 0;
      seed = seed * 1664525u + 1013904223u;
      const int noise = (int8_t)(seed >> 24);
      int value = (int8_t)kind;
      if (kind % 4 == 1) value = before + (noise >> (kind >> 5));
      if (kind % 4 == 2) value = noise;
      if (kind % 4 == 3) value = noise < 0 ? -128 : 127;
      frames[t * bins + m] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
  }
  for (uint32_t i = 0; i < n * bins && input->left > 64; i++) {
    frames[i] = (int8_t)take8(input);
  }
  return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input_t input = {data, size};
  const fuzz_network_t *network = &fuzz_networks[take8(&input) % fuzz_networks_count];
  info = network->info;
  const size_t labels = info->label_count, bins = info->mel_bins;
  const uint32_t n = make(&input);
  int8_t first[KWS_MAX_LABELS] = {0}, then[KWS_MAX_LABELS] = {0};
  network->reset();
  network->step(frames, n, first);
  CHECK(info->delta_count <= sizeof sent_first / sizeof *sent_first);
  /* A stream's first decision counts from the reset. */
  const uint32_t first_frames = info->first_frames, step = info->step_frames;
  const uint32_t runs = n < first_frames + step ? 1 + first_frames / step : 1;
  for (uint32_t i = 0; i < info->delta_count; i++) {
    sent_first[i] = *info->delta[i].sent;
    CHECK(n < first_frames || sent_first[i] <= runs * info->delta[i].elements);
  }
  network->reset();
  for (uint32_t done = 0; done < n;) {
    const uint32_t wanted = 1 + take8(&input) % 64u;
    const uint32_t some = wanted < n - done ? wanted : n - done;
    int8_t *piece = exactly(frames + done * bins, some * bins);
    network->step(piece, some, then);
    free(piece);
    done += some;
  }
  if (n >= first_frames) {
    CHECK(memcmp(first, then, labels) == 0);
    for (uint32_t i = 0; i < info->delta_count; i++) {
      CHECK(*info->delta[i].sent == sent_first[i]);
    }
  }
  free(frames);
  return 0;
}
