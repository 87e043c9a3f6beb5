/* Products over token rows that skip what did not change (DESIGN D2, docs/delta.md).
 *
 * Along the rows of a tensor every element keeps the value that was last transmitted;
 * a row transmits an element where |x - held| > threshold, and only there does the
 * held value move. The first `dense_rows` rows after a reset are transmitted whole. A
 * product keeps its 32-bit sums from row to row and adds what was transmitted:
 *
 *   sums[o] += (x - held)[i] * weights[i][o]      for each transmitted i
 *
 * Sums are exact, so they equal the dense product of the held row: with threshold 0
 * every result equals kws_kernels.h's, bit for bit.
 *
 * Rows are handed over in order, in any number of calls, for as long as a stream lasts;
 * `state` must not be touched between. A call with `reset` forgets what `state` holds,
 * and its first row is row 0; `first_row` counts on from there. `sent` adds up
 * transmitted elements, rows that are transmitted whole counting whole; who reads it
 * sets it to 0. Conventions of kws_kernels.h hold.
 */
#ifndef KWS_DELTA_H
#define KWS_DELTA_H

#include "kws_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of a matrix that is read by rows of its inputs: padded, so that kernels
 * take eight at a time. */
#define KWS_DELTA_COLUMNS(n) KWS_ROUND_UP(n, 8)

/* From row to row of it; the last one is followed by as much as is missing to
 * KWS_DELTA_COLUMNS. */
#define KWS_DELTA_STRIDE(n) KWS_ROUND_UP(n, 4)

/* But for Helium, weights read by rows of their inputs have 128 added, modulo 256: as
 * unsigned bytes they fit the lanes of a multiplication. */
#if KWS_WEIGHT_LAYOUT != KWS_LAYOUT_MVE
#define KWS_DELTA_FLIP 0x80u
#else
#define KWS_DELTA_FLIP 0u
#endif

/* Applies it to x [n]: 4-byte aligned, n a multiple of 4. */
void kws_delta_flip(int8_t *x, int32_t n);

/* A transmitted element, and where the row that it is multiplied with lies. */
typedef struct {
  int32_t offset;
  int32_t delta; /* -255..255 */
} kws_delta_change_t;

/* And an entry that ends the list. */
#define KWS_DELTA_LIST_BYTES(inputs) (8 * ((inputs) + 1))

/* ---- FULLY_CONNECTED ---- */

typedef struct {
  /* Its weights are for the dense kernel, which takes over while rows transmit so much
   * that it is cheaper; NULL where flash is dearer than that. */
  kws_fully_connected_t product;
  /* int8 [inputs][KWS_DELTA_STRIDE(outputs)], padded with zeros, every byte XOR
   * KWS_DELTA_FLIP; 8-byte aligned (weight_layout.delta_layout). On a stream NULL, and
   * the product has weights, where rows are dense or not at all. */
  const int8_t *columns;
  uint8_t threshold;  /* 0..255 */
  uint8_t dense_rows; /* 1.. */
} kws_delta_fully_connected_t;

/* Rows after which the choice between the two is made anew, by how much the rows before
 * transmitted. */
#define KWS_DELTA_BLOCK 6

/* 4-byte aligned. Sums, how they are requantised, what is held. */
#define KWS_DELTA_FULLY_CONNECTED_STATE_BYTES(inputs, outputs) \
  (16 + 16 * KWS_DELTA_COLUMNS(outputs) + 2 * KWS_ROUND_UP(inputs, 4))
/* Without dense weights; and with them. */
#define KWS_DELTA_FULLY_CONNECTED_SCRATCH_BYTES(inputs) KWS_DELTA_LIST_BYTES(inputs)
#define KWS_DELTA_FULLY_CONNECTED_DENSE_SCRATCH_BYTES(inputs) \
  (KWS_ROUND_UP(KWS_DELTA_BLOCK * (inputs), 4) +              \
   KWS_FULLY_CONNECTED_SCRATCH_BYTES(inputs))

/* Rows first_row .. first_row + rows - 1: x is the first of them, and element (r, o) of
 * them goes to y[r * row_step + o * output_step]; one of the steps is 1, and row_step
 * is otherwise the number of outputs. reset: 1 to start anew, else 0. first_row matters
 * below p->dense_rows only: where rows are endless, any from there on will do. */
void kws_delta_fully_connected_s8(const kws_delta_fully_connected_t *p, const int8_t *x,
                                  int reset, int32_t first_row, int32_t rows, int8_t *y,
                                  int32_t row_step, int32_t output_step, void *state,
                                  void *scratch, uint32_t *sent);

/* ---- FULLY_CONNECTED on a stream, a row a step ---- */

/* 4-byte aligned. What is held, the last outputs; with columns, also its sums. */
#define KWS_DELTA_STEP_DENSE_STATE_BYTES(inputs, outputs) \
  (KWS_ROUND_UP(inputs, 4) + KWS_ROUND_UP(outputs, 4))
#define KWS_DELTA_STEP_STATE_BYTES(inputs, outputs) \
  (KWS_DELTA_STEP_DENSE_STATE_BYTES(inputs, outputs) + 4 * KWS_DELTA_COLUMNS(outputs))
#define KWS_DELTA_STEP_SCRATCH_BYTES(inputs) \
  KWS_DELTA_LIST_BYTES(KWS_ROUND_UP(inputs, 4))

/* The next row of a stream, x [inputs] -> y [outputs]: by its columns, or where it has
 * none, by the dense kernel. reset: 1 to forget what `state` holds and transmit the row
 * whole, else 0; p->dense_rows is not read. A row that transmits nothing costs the
 * comparisons, and its outputs are those of the row before. */
void kws_delta_step_s8(const kws_delta_fully_connected_t *p, const int8_t *x, int reset,
                       int8_t *y, void *state, void *scratch, uint32_t *sent);

/* What an encoding holds, by itself: the next row of a stream, x [n] -> y [n]. held
 * [n], 4-byte aligned, is kept from step to step; reset as above. Returns what was
 * transmitted. */
int32_t kws_delta_hold_s8(const int8_t *x, int32_t n, int32_t threshold, int reset,
                          int8_t *y, int8_t *held, uint32_t *sent);

/* ---- CONV_2D on a stream ---- */

typedef struct {
  kws_conv_2d_t conv; /* without padding */
  /* Its weights as those of kws_delta_fully_connected_t, a patch's elements being the
   * inputs; the product's are NULL then. NULL: the other way round, it only skips
   * steps. */
  const int8_t *columns;
  uint8_t looks_back; /* steps without change after which the window is as before */
} kws_delta_conv_2d_t;

/* 4-byte aligned. All outputs; with columns, also the sums of each position and the
 * window [height * width * channels] that they are of. */
#define KWS_DELTA_CONV_2D_STATE_BYTES(positions, outputs) \
  (4 + KWS_ROUND_UP((positions) * (outputs), 4))
#define KWS_DELTA_CONV_2D_COLUMNS_STATE_BYTES(positions, outputs, window) \
  (KWS_DELTA_CONV_2D_STATE_BYTES(positions, outputs) +                    \
   4 * (positions) * KWS_DELTA_COLUMNS(outputs) + KWS_ROUND_UP(window, 4))
/* With columns; without, KWS_CONV_2D_SCRATCH_BYTES(patch). */
#define KWS_DELTA_CONV_2D_SCRATCH_BYTES(window, patch, filter_height) \
  (KWS_DELTA_LIST_BYTES(window) + KWS_DELTA_LIST_BYTES(patch) + 4 * (filter_height))

/* The rows of a step, those that are kept of the past in front: x as kws_conv_2d_s8
 * takes it, all of whose rows are computed -> y. Windows are compared exactly, so the
 * bits are that kernel's. moved: elements that moved since the step before. */
void kws_delta_conv_2d_step_s8(const kws_delta_conv_2d_t *p, const int8_t *x,
                               int32_t moved, int reset, int8_t *y, void *state,
                               void *scratch);

/* ---- BATCH_MATMUL, one matrix ---- */

/* For an interpreter that runs Q.K^T and P.V one after the other; the attention below
 * is the same two products, row by row. */
typedef struct {
  kws_batch_matmul_t product;
  uint16_t rows;       /* of a and y */
  uint16_t inner;      /* columns of a, rows of b */
  uint16_t columns;    /* of b and y */
  uint16_t stride;     /* from row to row of b: a multiple of 4, at least columns */
  uint8_t threshold;   /* 0..255, of a */
  uint16_t dense_rows; /* 1.. */
} kws_delta_batch_matmul_t;

/* 4-byte aligned. */
#define KWS_DELTA_BATCH_MATMUL_STATE_BYTES(inner, columns)       \
  (8 + 4 * KWS_DELTA_COLUMNS(columns) + KWS_ROUND_UP(inner, 4) + \
   KWS_DELTA_LIST_BYTES(inner))

/* a [rows, inner] times b [inner, columns], rows `stride` apart and 4-byte aligned,
 * with KWS_DELTA_FLIP applied -> y [rows, columns]. Up to four bytes behind b may be
 * read, and make no difference. Row 0 of each call starts anew. */
void kws_delta_batch_matmul_s8(const kws_delta_batch_matmul_t *p, const int8_t *a,
                               const int8_t *b, int8_t *y, void *state, uint32_t *sent);

/* ---- Attention ---- */

/* As kws_attention_t, of one or several heads; but here K is transposed and V is not:
 *   KT [width, KWS_DELTA_COLUMNS(tokens)], V [tokens, width]; both 4-byte aligned.
 * Four bytes behind V may be read, and make no difference.
 * K and V must be complete before the first row of Q. */
typedef struct {
  kws_attention_t attention;
  int16_t query_threshold; /* 0..255 */
  int16_t key_threshold;   /* 0..255, or -1: K is taken as it is */
  int16_t share_threshold; /* 0..255; of P, softmax's output */
  uint16_t dense_rows;
} kws_delta_attention_t;

/* What is transmitted of each, all heads together. */
typedef struct {
  uint32_t query, key, share;
} kws_delta_attention_sent_t;

/* Per head: sums and held row of Q.K^T and of P.V, and what their zero points take
 * away. Then a row of scores and a list. */
#define KWS_DELTA_ATTENTION_STATE_BYTES(tokens, heads, head_dim)                     \
  ((heads) * (5 * KWS_DELTA_COLUMNS(tokens) + 5 * KWS_DELTA_COLUMNS(head_dim) + 8) + \
   KWS_DELTA_COLUMNS(tokens) +                                                       \
   KWS_DELTA_LIST_BYTES((tokens) > (head_dim) ? (tokens) : (head_dim)))

/* Replaces K by what its encoding holds, clears the padding, and applies
 * KWS_DELTA_FLIP to both; v may be NULL. */
void kws_delta_attention_prepare(const kws_delta_attention_t *p, int8_t *k_transposed,
                                 int8_t *v, kws_delta_attention_sent_t *sent);

/* Rows first_row .. of Q [rows, width] -> out [rows, width]; out may be q. reset and
 * first_row as above. */
void kws_delta_attention_rows_s8(const kws_delta_attention_t *p, const int8_t *q,
                                 int reset, int32_t first_row, int32_t rows,
                                 const int8_t *k_transposed, const int8_t *v,
                                 int8_t *out, void *state,
                                 kws_delta_attention_sent_t *sent);

#ifdef __cplusplus
}
#endif

#endif
