/* Engine tflm: what `kws emit --engine tflm` generates, and what runs it.
 *
 * The generated files are the model (model_data.cc), its operators (kws_operators.cc)
 * and its tables (kws_model.c). This folder runs them with TensorFlow Lite Micro behind
 * kws_model.h, so that features, loop and detector do not know the difference.
 */
#ifndef KWS_TFLM_H
#define KWS_TFLM_H

#include <stdint.h>

#include "kws_delta.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A FULLY_CONNECTED, in the graph's order of them. */
typedef struct {
  const kws_delta_fully_connected_t *product; /* NULL: TFLM's own kernel */
  uint16_t rows;                              /* tokens */
  uint32_t *sent;                             /* elements transmitted in the last run */
} kws_tflm_fully_connected_t;

/* A BATCH_MATMUL, in the graph's order of them. */
typedef struct {
  const kws_delta_batch_matmul_t *product; /* NULL: TFLM's own kernel */
  uint8_t transposed;                      /* b is stored [columns, inner] (adj_y) */
  int16_t key_threshold; /* 0..255 where b is K and held too; -1: as it is */
  uint32_t *sent;
  uint32_t *key_sent; /* NULL where b is not held */
} kws_tflm_batch_matmul_t;

typedef struct {
  const unsigned char *model; /* the .tflite, 16-byte aligned */
  uint8_t *arena;             /* 16-byte aligned */
  uint32_t arena_bytes;
  uint32_t inputs;    /* int8 elements of the model's input */
  uint32_t outputs;   /* and of its output */
  uint16_t variables; /* resource variables: what a step of a stream keeps */
  uint16_t fully_connected_count;
  uint16_t batch_matmul_count;
  const kws_tflm_fully_connected_t *fully_connected; /* NULL: all stock */
  const kws_tflm_batch_matmul_t *batch_matmul;
} kws_tflm_model_t;

/* In kws_model.c. */
extern const kws_tflm_model_t kws_tflm_model;

/* kws_model_info.init: make the interpreter and plan the arena. Returns 0 when the
 * model can run; what is wrong otherwise is printed. Called again it does nothing. */
int kws_tflm_init(void);

/* Forget what is kept from step to step. */
void kws_tflm_reset(void);

/* Run the network once: `inputs` int8 features -> `outputs` int8 logits. The window in
 * kws_model.c calls it (kws_window.h). */
void kws_tflm_run(const int8_t *features, int8_t *logits);

#ifdef __cplusplus
}

namespace tflite {
class MicroOpResolver;
}
struct TFLMRegistration;

/* In kws_operators.cc: the model's operators and no others; nullptr on failure. */
const tflite::MicroOpResolver *kws_tflm_operators();

/* In delta.cc: kernels that skip where kws_tflm_model says so, and are TFLM's own where
 * it does not. */
const TFLMRegistration &kws_tflm_fully_connected();
const TFLMRegistration &kws_tflm_batch_matmul();
#endif

#endif
