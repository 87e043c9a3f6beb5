/* The seam between the loop and an engine: what a generated model provides.
 *
 * `kws emit` writes one C file that defines these symbols (native engine), or glue
 * around an interpreter (tflm engine). Nothing else in the firmware knows which.
 */
#ifndef KWS_MODEL_H
#define KWS_MODEL_H

#include <stdint.h>

#include "kws_detector.h"
#include "kws_features.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A microphone's DMA may hand over this many samples at a time. */
#define KWS_MAX_HALF_BUFFER 320

/* What the ring must hold: what arrives between two decisions (`hop` samples). */
#define KWS_MIN_RING_SAMPLES(hop) ((hop) + 2 * KWS_MAX_HALF_BUFFER)

/* A product that skips what its delta encoding holds (kws_delta.h). */
typedef struct {
  char kind; /* of its input: X, Q, K, P, O, M, H, F, C, E or R */
  uint8_t layer;
  uint16_t macs;        /* multiply-accumulates per transmitted element */
  uint32_t elements;    /* of its input in one model run */
  const uint32_t *sent; /* of those, transmitted in the last run; on a stream, in all
                           runs from one decision to the next */
} kws_delta_operator_t;

typedef struct {
  const char *name;          /* recipe name */
  const char *hash;          /* first 16 hex digits of the bundle's hash */
  const char *const *labels; /* label_count names, logit order */
  uint16_t label_count;      /* 2..KWS_MAX_LABELS */
  uint16_t mel_bins;         /* elements per feature frame */
  uint16_t frames;           /* feature frames that a decision looks back on */
  uint16_t first_frames;     /* new ones that the first decision waits for */
  uint16_t step_frames;      /* new ones that each later decision waits for */
  uint32_t arena_bytes;      /* static working memory of the model */
  uint32_t weights_bytes;    /* constant data of the model */
  int16_t *ring;             /* audio that arrives while the model runs */
  uint32_t ring_samples;     /* a power of two, at least KWS_MIN_RING_SAMPLES(hop) */
  const kws_feature_spec_t *features;
  const kws_detector_spec_t *detector;
  uint16_t delta_count; /* 0 where nothing is skipped */
  const kws_delta_operator_t *delta;
  int (*init)(void); /* sets up the engine, returns 0 when it can run; or NULL */
} kws_model_info_t;

extern const kws_model_info_t kws_model_info;

/* The network takes a stream of feature frames and keeps what it needs of them itself.
 *
 * A stream starts with kws_model_reset, which forgets all that lives from one step to
 * the next: frames, rings, references and sums of delta encodings. It must come before
 * the first step, and after kws_model_info.init.
 *
 * kws_model_step takes the next n frames of the stream, n * mel_bins int8, oldest
 * first. A decision is complete with the first_frames-th frame since the reset, and
 * then with every step_frames-th; the call that brings that frame writes logits
 * (label_count int8). n may be anything: how a stream is cut into calls changes no bit.
 * A call that completes no decision leaves the logits of the one before, and of several
 * the last one's stay; before the first decision they mean nothing. No error paths, no
 * heap, bounded time. */
void kws_model_reset(void);
void kws_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits);

/* Profiling. Generated code says KWS_MARK(n) when its n-th operator is done, and
 * KWS_MARK(0) when it starts. Nothing, unless built with -DKWS_PROFILE (app/profile.c).
 */
#ifdef KWS_PROFILE
void kws_profile_mark(uint16_t operator_done);
#define KWS_MARK(n) kws_profile_mark(n)
#else
#define KWS_MARK(n) ((void)0)
#endif

/* Boot self-test: a canned clip (G.711 mu-law, 16 kHz) and the logits it must give. */
extern const uint8_t kws_selftest_clip[];
extern const uint32_t kws_selftest_clip_samples;
extern const int8_t kws_selftest_logits[];

#ifdef __cplusplus
}
#endif

#endif
