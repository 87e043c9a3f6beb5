/* A sliding window of feature frames: what kws_model.h asks of a network that sees all
 * its frames at once and keeps nothing from one run to the next.
 *
 *   static int8_t frames[98 * 40];
 *   static uint16_t count;
 *   static const kws_window_t window = {frames, &count, 98, 16, 40};
 *
 *   void kws_model_reset(void) { kws_window_reset(&window); }
 *   void kws_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits) {
 *     while (kws_window_fill(&window, &new_frames, &n)) network(frames, logits);
 *   }
 */
#ifndef KWS_WINDOW_H
#define KWS_WINDOW_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int8_t *frames;  /* [size][mel_bins], oldest first; 4-byte aligned it is faster */
  uint16_t *count; /* frames that are there */
  uint16_t size;   /* frames that the network sees */
  uint16_t step;   /* of those, new ones in each run but the first: 1..size */
  uint16_t mel_bins;
} kws_window_t;

static inline void kws_window_reset(const kws_window_t *window) {
  *window->count = 0;
}

/* Moves frames in until the window is full, and counts them off. Returns 1 when it is:
 * the network's turn; 0 when no frames are left. Those that the network has seen for
 * the last time go when the next ones come. */
static inline int kws_window_fill(const kws_window_t *window, const int8_t **new_frames,
                                  uint32_t *n) {
  if (*n == 0) return 0;
  uint32_t count = *window->count;
  if (count == window->size) {
    count -= window->step;
    memmove(window->frames, window->frames + (uint32_t)window->step * window->mel_bins,
            count * window->mel_bins);
  }
  const uint32_t room = window->size - count;
  const uint32_t taken = *n < room ? *n : room;
  memcpy(window->frames + count * window->mel_bins, *new_frames,
         taken * window->mel_bins);
  *new_frames += taken * window->mel_bins;
  *n -= taken;
  *window->count = (uint16_t)(count + taken);
  return taken == room;
}

#ifdef __cplusplus
}
#endif

#endif
