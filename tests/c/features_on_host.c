/* Reads int16 samples from stdin, writes their features to stdout: emitted tables and
 * firmware C, without Python. Linked with the output of kws.features.c_source. */
#include <stdio.h>
#include <stdlib.h>

#include "kws_features.h"

extern const kws_feature_spec_t test_features;

int main(void) {
  static int16_t samples[1 << 20];
  const size_t n =
      fread(samples, sizeof samples[0], sizeof samples / sizeof samples[0], stdin);
  /* Heap blocks of the exact size, so that ASan sees any access beyond them. */
  int16_t *exact = malloc((n ? n : 1) * sizeof *exact);
  const size_t bytes =
      kws_features_frame_count(&test_features, n) * test_features.mel_bins;
  int8_t *out = malloc(bytes ? bytes : 1);
  if (exact == NULL || out == NULL) {
    return 2;
  }
  for (size_t i = 0; i < n; i++) {
    exact[i] = samples[i];
  }
  kws_features_clip(&test_features, exact, n, out);
  const size_t written = fwrite(out, 1, bytes, stdout);
  free(exact);
  free(out);
  return written == bytes ? 0 : 1;
}
