/* The always-on loop: audio ring -> feature frames -> model -> detector.
 * See kws.h. Everything here is static; nothing here can fail after kws_init. */
#include "kws.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#endif

#include "kws_model.h"

/* One producer (kws_push) owns `head`, one consumer (kws_poll) owns `tail`. Both only
 * grow and wrap at 2^32; their difference is the number of samples in the ring.
 * Aligned 32-bit loads and stores are single accesses on every core; the fences order
 * them with the samples. (Not _Atomic: clang makes library calls of it on Cortex-M0.)
 * The samples themselves are in the model's `ring`. */
static volatile uint32_t ring_head;
static volatile uint32_t ring_tail;
static volatile uint32_t samples_dropped; /* written by the producer only */
static uint32_t dropped_seen; /* of these, what the consumer has counted in 64 bits */

static inline uint32_t load_acquire(const volatile uint32_t *index) {
  const uint32_t value = *index;
  atomic_thread_fence(memory_order_acquire);
  return value;
}

static inline void store_release(volatile uint32_t *index, uint32_t value) {
  atomic_thread_fence(memory_order_release);
  *index = value;
}

/* The samples of the frame being filled, and the features of the last one. */
static int16_t frame[KWS_FEATURES_MAX_WINDOW];
static uint32_t frame_fill;
static _Alignas(4) int8_t features[KWS_FEATURES_MAX_MEL_BINS]; /* copied by words */

static uint32_t frames_due; /* until the model's next decision */
static int8_t logits[KWS_MAX_LABELS];
static int has_logits;
static kws_detector_t detector;
/* The model's, or a copy of it with thresholds that were set. */
static const kws_detector_spec_t *detector_spec;
static kws_detector_spec_t own_spec;
static uint16_t own_thresholds[KWS_MAX_LABELS];
static uint64_t samples_consumed; /* the clock: 16 per millisecond */
static uint64_t stream_start;     /* of it, at the last reset */

static uint16_t peak; /* largest magnitude since kws_peak */

/* Of the samples since kws_microphone. */
static struct {
  int64_t sum;
  uint32_t samples, clipped;
  int16_t low, high;
} heard;
enum {
  QUIET_SPAN = 32,     /* from the lowest to the highest sample: -66 dB of full scale */
  QUIET_OFFSET = 256,  /* without sound, from where it is an offset */
  LARGE_OFFSET = 8192, /* with sound: a quarter of the range is lost */
};

static kws_stats_t stats;
static uint64_t undecided_ticks; /* of the steps in between */
static kws_counter_t counter;
static uint64_t counter_cost; /* ticks between two reads with nothing in between */

static int model_fits(void) {
  const kws_model_info_t *model = &kws_model_info;
  const kws_feature_spec_t *spec = model->features;
  return kws_detector_spec_ok(model->detector) &&
         model->detector->label_count == model->label_count && model->mel_bins >= 1 &&
         model->mel_bins <= KWS_FEATURES_MAX_MEL_BINS &&
         spec->mel_bins == model->mel_bins && spec->hop >= 1 &&
         spec->hop <= spec->window && spec->window <= KWS_FEATURES_MAX_WINDOW &&
         model->first_frames >= 1 && model->step_frames >= 1 &&
         model->step_frames <= model->frames &&
         (model->ring_samples & (model->ring_samples - 1)) == 0 &&
         model->ring_samples >=
             KWS_MIN_RING_SAMPLES((uint32_t)model->step_frames * spec->hop);
}

kws_status_t kws_init(void) {
  if (!model_fits()) return KWS_ERROR_MODEL;
  if (kws_model_info.init != NULL && kws_model_info.init() != 0) return KWS_ERROR_MODEL;
  ring_head = 0;
  ring_tail = 0;
  samples_dropped = 0;
  dropped_seen = 0;
  samples_consumed = 0;
  peak = 0;
  memset(&heard, 0, sizeof heard);
  memset(&stats, 0, sizeof stats);
  detector_spec = kws_model_info.detector;
  kws_reset();
  return KWS_OK;
}

void kws_set_counter(kws_counter_t new_counter) {
  counter = new_counter;
  counter_cost = 0;
  if (counter != NULL) {
    const uint64_t start = counter();
    counter_cost = counter() - start;
  }
}

void kws_reset(void) {
  /* The consumer's side of the ring: drop what is in it; its time has passed too. */
  const uint32_t head = load_acquire(&ring_head);
  samples_consumed += head - ring_tail;
  store_release(&ring_tail, head);
  stream_start = samples_consumed;
  frame_fill = 0;
  frames_due = kws_model_info.first_frames;
  has_logits = 0;
  kws_model_reset();
  kws_detector_init(&detector, detector_spec);
}

static int is_label(int label) {
  return label >= 0 && label < detector_spec->label_count;
}

uint16_t kws_threshold(int label) {
  return is_label(label) ? detector_spec->threshold[label] : 0;
}

int kws_set_threshold(int label, uint16_t threshold) {
  if (label < detector_spec->first_word || label >= detector_spec->label_count ||
      threshold < detector_spec->rearm[label] || threshold > INT16_MAX) {
    return -1;
  }
  if (detector_spec != &own_spec) {
    own_spec = *detector_spec;
    memcpy(own_thresholds, own_spec.threshold,
           own_spec.label_count * sizeof *own_thresholds);
    own_spec.threshold = own_thresholds;
    detector_spec = &own_spec;
  }
  own_thresholds[label] = threshold;
  return 0;
}

size_t kws_push(const int16_t *pcm, size_t n) {
  if (n == 0) return 0; /* of a NULL, which memcpy may not get */
  int16_t *const ring = kws_model_info.ring;
  const uint32_t ring_samples = kws_model_info.ring_samples;
  const uint32_t head = ring_head;
  const uint32_t tail = load_acquire(&ring_tail);
  const uint32_t space = ring_samples - (head - tail);
  const uint32_t kept = n < space ? (uint32_t)n : space;
  const uint32_t start = head & (ring_samples - 1);
  const uint32_t to_end = ring_samples - start;
  const uint32_t first = kept < to_end ? kept : to_end;
  memcpy(ring + start, pcm, first * sizeof *pcm);
  memcpy(ring, pcm + first, (kept - first) * sizeof *pcm);
  store_release(&ring_head, head + kept);
  if (kept < n) samples_dropped += (uint32_t)(n - kept);
  return kept;
}

void kws_lost(size_t n) {
  samples_dropped += (uint32_t)n;
}

/* Take up to n samples out of the ring. Returns how many there were. */
static uint32_t ring_take(int16_t *out, uint32_t n) {
  const int16_t *const ring = kws_model_info.ring;
  const uint32_t ring_samples = kws_model_info.ring_samples;
  const uint32_t head = load_acquire(&ring_head);
  const uint32_t tail = ring_tail;
  const uint32_t taken = n < head - tail ? n : head - tail;
  const uint32_t start = tail & (ring_samples - 1);
  const uint32_t to_end = ring_samples - start;
  const uint32_t first = taken < to_end ? taken : to_end;
  memcpy(out, ring + start, first * sizeof *out);
  memcpy(out + first, ring, (taken - first) * sizeof *out);
  store_release(&ring_tail, tail + taken);
  return taken;
}

/* Lowest, highest and sum of n samples, n from 1 to a window's. */
static __attribute__((noinline)) void extremes(const int16_t *samples, uint32_t n,
                                               int32_t *low, int32_t *high,
                                               int32_t *sum) {
  int32_t least = samples[0], most = least, all = 0;
  uint32_t i = 0;
#if defined(__ARM_FEATURE_SIMD32)
  /* Two at a time: the greater, and the smaller, by the flags of a difference that
   * does not saturate, since they are those of the exact one. */
  if (n >= 2) {
    int16x2_t lows, highs;
    memcpy(&lows, samples, sizeof lows);
    highs = lows;
    for (; i + 2 <= n; i += 2) {
      int16x2_t pair;
      memcpy(&pair, samples + i, sizeof pair);
      all = __smlad(pair, 0x00010001, all);
      (void)__ssub16(pair, highs);
      highs = (int16x2_t)__sel((uint8x4_t)pair, (uint8x4_t)highs);
      (void)__ssub16(lows, pair);
      lows = (int16x2_t)__sel((uint8x4_t)pair, (uint8x4_t)lows);
    }
    least = (int16_t)lows < lows >> 16 ? (int16_t)lows : lows >> 16;
    most = (int16_t)highs > highs >> 16 ? (int16_t)highs : highs >> 16;
  }
#endif
  for (; i < n; i++) {
    const int32_t value = samples[i];
    if (value < least) least = value;
    if (value > most) most = value;
    all += value;
  }
  *low = least;
  *high = most;
  *sum = all;
}

/* What is new in the frame, for the level meter and the microphone's test. */
static void meter(const int16_t *samples, uint32_t n) {
  if (n == 0) return;
  if (heard.samples >= 1u << 31) memset(&heard, 0, sizeof heard); /* nobody has asked */
  int32_t low, high, sum;
  extremes(samples, n, &low, &high, &sum);
  if (high == INT16_MAX || low < -32766) {
    for (uint32_t i = 0; i < n; i++) {
      heard.clipped +=
          (uint32_t)(samples[i] + 32766) > 65532u; /* 32767, under -32766 */
    }
  }
  if (high > peak) peak = (uint16_t)high;
  if (-low > peak) peak = (uint16_t)-low;
  if (heard.samples == 0 || low < heard.low) heard.low = (int16_t)low;
  if (heard.samples == 0 || high > heard.high) heard.high = (int16_t)high;
  heard.sum += sum;
  heard.samples += n;
}

kws_microphone_t kws_microphone(void) {
  const uint32_t n = heard.samples, clipped = heard.clipped;
  const int32_t low = heard.low, high = heard.high;
  const int64_t sum = heard.sum < 0 ? -heard.sum : heard.sum;
  memset(&heard, 0, sizeof heard);
  if (n == 0) return KWS_MICROPHONE_NONE;
  if (low == high) return low == 0 ? KWS_MICROPHONE_ZEROS : KWS_MICROPHONE_STUCK;
  if (clipped >= n / 1000 + 1) return KWS_MICROPHONE_CLIPPING;
  const int quiet = high - low < QUIET_SPAN;
  const int64_t offset = quiet ? QUIET_OFFSET : LARGE_OFFSET;
  if (sum >= offset * n) return KWS_MICROPHONE_OFFSET;
  return quiet ? KWS_MICROPHONE_QUIET : KWS_MICROPHONE_OK;
}

static void count_dropped(void) {
  const uint32_t dropped = samples_dropped;
  stats.overruns += dropped - dropped_seen;
  dropped_seen = dropped;
}

static uint64_t ticks(void) {
  return counter != NULL ? counter() : 0;
}

/* Ticks since `start`, less what reading the counter costs. */
static __attribute__((noinline)) uint64_t ticks_since(uint64_t start) {
  const uint64_t elapsed = ticks() - start;
  return elapsed > counter_cost ? elapsed - counter_cost : 0;
}

/* The features of the full frame; its overlap with the next one stays. */
static void finish_frame(void) {
  const kws_feature_spec_t *spec = kws_model_info.features;
  const uint64_t start = ticks();
  kws_features_frame(spec, frame, features);
  stats.feature_ticks += ticks_since(start);
  frame_fill = spec->window - spec->hop;
  memmove(frame, frame + spec->hop, frame_fill * sizeof *frame);
  stats.frames++;
}

/* The step that a decision is complete with. */
static kws_poll_t decide(kws_event_t *event) {
  const kws_model_info_t *model = &kws_model_info;
  const uint64_t start = ticks();
  kws_model_step(features, 1, logits);
  const uint64_t elapsed = ticks_since(start);
  stats.model_ticks += elapsed;
  if (elapsed > stats.model_ticks_max) stats.model_ticks_max = elapsed;
  has_logits = 1;
  stats.inferences++;
  const int label = kws_detector_step(&detector, detector_spec, logits);
  if (label < 0) return KWS_DECIDED;
  const uint32_t length =
      model->features->window + (model->frames - 1u) * model->features->hop;
  event->label = (uint16_t)label;
  event->score = kws_detector_score(&detector, detector_spec, label);
  event->time_ms = samples_consumed / 16;
  /* A model may decide before it has heard all that it could look back on. */
  const uint64_t start_sample = samples_consumed - stream_start < length
                                    ? stream_start
                                    : samples_consumed - length;
  event->start_ms = start_sample / 16;
  stats.events++;
  return KWS_HEARD;
}

static kws_poll_t poll(kws_event_t *event) {
  const uint32_t window = kws_model_info.features->window;
  *event = (kws_event_t){0};
  count_dropped();
  for (;;) {
    const uint32_t taken = ring_take(frame + frame_fill, window - frame_fill);
    meter(frame + frame_fill, taken);
    frame_fill += taken;
    samples_consumed += taken;
    if (frame_fill < window) return KWS_IDLE;
    finish_frame();
    if (--frames_due == 0) {
      frames_due = kws_model_info.step_frames;
      return decide(event);
    }
    const uint64_t start = ticks();
    kws_model_step(features, 1, logits);
    undecided_ticks += ticks_since(start);
  }
}

/* Ticks spent in features and network. */
static uint64_t inside(void) {
  return stats.feature_ticks + stats.model_ticks + undecided_ticks;
}

kws_poll_t kws_poll(kws_event_t *event) {
  const uint64_t before = inside();
  const uint64_t start = ticks();
  const kws_poll_t done = poll(event);
  const uint64_t all = ticks_since(start), theirs = inside() - before;
  if (all > theirs) stats.loop_ticks += all - theirs;
  return done;
}

const int8_t *kws_last_logits(void) {
  return has_logits ? logits : NULL;
}

uint16_t kws_score(int label) {
  if (!is_label(label)) return 0;
  return kws_detector_score(&detector, kws_model_info.detector, label);
}

const int8_t *kws_last_frame(void) {
  return features;
}

uint16_t kws_peak(void) {
  const uint16_t level = peak;
  peak = 0;
  return level;
}

void kws_stats(kws_stats_t *out) {
  count_dropped();
  stats.samples = samples_consumed + (load_acquire(&ring_head) - ring_tail);
  *out = stats;
}
