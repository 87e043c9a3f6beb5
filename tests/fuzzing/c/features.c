/* Feature extraction with the smallest, the usual and the largest specification, and
 * any samples: a clip is its frames, each by its own samples alone. */
#include "fuzz.h"
#include "kws_features.h"

/* fuzz_features.c, by tools/fuzz.py from kws.features.tables. */
extern const kws_feature_spec_t *const fuzz_features[];
extern const unsigned fuzz_features_count;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input_t input = {data, size};
  const kws_feature_spec_t *spec = fuzz_features[take8(&input) % fuzz_features_count];
  const size_t hops = take8(&input) % 3, more = take8(&input) % spec->hop;
  const size_t n = spec->window + hops * spec->hop + more - (hops == 0 && more > 9);
  uint32_t seed = take8(&input);
  int16_t *const samples = malloc(n * sizeof *samples);
  for (size_t done = 0; done < n;) {
    const uint8_t kind = take8(&input);
    const size_t some = 1 + take8(&input) * 2u;
    const size_t fits = some < n - done ? some : n - done;
    sound(samples + done, fits, kind, &seed);
    done += fits;
  }
  for (size_t i = 0; i < n && input.left >= 2; i++) {
    samples[i] = (int16_t)take16(&input);
  }
  const size_t frames = kws_features_frame_count(spec, n);
  CHECK(frames == (n < spec->window ? 0 : 1 + (n - spec->window) / spec->hop));
  int8_t *const clip = malloc(frames * spec->mel_bins + 1);
  kws_features_clip(spec, samples, n, clip);
  for (size_t frame = 0; frame < frames; frame++) {
    int16_t *own = exactly(samples + frame * spec->hop, spec->window * sizeof *samples);
    int8_t *out = malloc(spec->mel_bins);
    kws_features_frame(spec, own, out);
    CHECK(memcmp(out, clip + frame * spec->mel_bins, spec->mel_bins) == 0);
    for (int m = 0; m < spec->mel_bins; m++) CHECK(out[m] >= spec->floor);
    free(own);
    free(out);
  }
  free(samples);
  free(clip);
  return 0;
}
