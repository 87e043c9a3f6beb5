/* int8 kernels of the native engine, bit-exact to TensorFlow Lite Micro (D3).
 *
 * One interface, three cores. The variant is chosen when the firmware is built:
 *   portable  plain C, no 64-bit division: Cortex-M0+ and the host
 *   dsp       SMLAD (__ARM_FEATURE_DSP): Cortex-M4, M7, M33
 *   mve       Helium (__ARM_FEATURE_MVE): Cortex-M55, M85
 * Define KWS_CORE_PORTABLE, KWS_CORE_DSP or KWS_CORE_MVE to choose by hand.
 *
 * Parameters are constants that the code generator prepared
 * (kws/graph/quantized_math.py): zero points, multipliers, shifts, and biases into
 * which the input's zero point is folded. Nothing is checked here (D12): shapes and
 * ranges are checked where the model is emitted.
 *
 * Conventions
 *   - Activations are int8_t, row-major [rows, columns]; a row is a token.
 *   - `multiplier` is Q0.31 in [2^30, 2^31) (or 0); `shift` is TFLM's: positive is a
 *     left shift, negative a right shift, -31..30.
 *   - `scratch` is 4-byte aligned and its content does not survive the call. Its
 *     size is given by the KWS_..._SCRATCH_BYTES macro next to the kernel; the same
 *     formulas in Python are in kws/graph/weight_layout.py. They do not depend on
 *     the core.
 *   - Buffers may be unaligned except where said; inputs and outputs must not
 *     overlap except where said.
 */
#ifndef KWS_KERNELS_H
#define KWS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kws_core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Weight layout that this build's kernels read. A model emitted for another one does
 * not compile, and says for which. */
#define KWS_LAYOUT_PORTABLE 0
#define KWS_LAYOUT_DSP      1
#define KWS_LAYOUT_MVE      2
#if defined(KWS_CORE_MVE)
#define KWS_WEIGHT_LAYOUT KWS_LAYOUT_MVE
#elif defined(KWS_CORE_DSP)
#define KWS_WEIGHT_LAYOUT KWS_LAYOUT_DSP
#else
#define KWS_WEIGHT_LAYOUT KWS_LAYOUT_PORTABLE
#endif

#define KWS_ROUND_UP(n, multiple) ((((n) + (multiple) - 1) / (multiple)) * (multiple))

/* ---- FULLY_CONNECTED ---- */

/* y[r, o] = clamp(requantise(bias[o] + sum_i weights[o, i] * x[r, i]) + zero point).
 * Per tensor is written as per channel: the generator repeats the multiplier. No sum
 * may reach 2^30 in magnitude (quantized_math.fold_bias checks it). Rows in multiples
 * of 3 (dsp) and of 2 (portable) waste nothing. No weight is -128. */
typedef struct {
  uint16_t inputs;           /* columns of x, 1..65535 */
  uint16_t outputs;          /* columns of y, 1..65535 */
  const int8_t *weights;     /* weight_layout.layout(w [outputs, inputs], core);
                              * 4-byte aligned for dsp and mve */
  const int32_t *bias;       /* [outputs] bias - input_zero_point * sum_i w[o, i] */
  const int32_t *multiplier; /* [outputs] */
  const int8_t *shift;       /* [outputs] */
  int16_t output_zero_point; /* -128..127 */
  int8_t activation_min;     /* fused clamp, -128..127 */
  int8_t activation_max;
  uint8_t ordinary; /* 1 promises: shifts of -22..-1, a clamp to int8's own range,
                     * sums below 2^23 in magnitude (quantized_math.is_ordinary). 0
                     * promises nothing, and is slower. */
} kws_fully_connected_t;

/* Widened activations of a block of rows. */
#define KWS_FULLY_CONNECTED_SCRATCH_BYTES(inputs) (8 * KWS_ROUND_UP(inputs, 4))

/* rows of x [rows, inputs] -> y [rows, outputs]. */
void kws_fully_connected_s8(const kws_fully_connected_t *p, const int8_t *x,
                            int32_t rows, int8_t *y, void *scratch);

/* The same, written transposed: element (r, o) goes to y[o * y_stride + r]. The way
 * to make the V that kws_attention_* reads (y_stride = KWS_ATTENTION_V_STRIDE).
 * To continue at row r0, pass x + r0 * inputs and y + r0. */
void kws_fully_connected_transposed_s8(const kws_fully_connected_t *p, const int8_t *x,
                                       int32_t rows, int8_t *y, int32_t y_stride,
                                       void *scratch);

/* ---- CONV_2D (NHWC, batch 1, no groups) ---- */

/* A row of patches at a time is gathered and multiplied by `product`, whose inputs =
 * filter_height * filter_width * input_channels and outputs = output channels; its
 * weights are the filter [out, height, width, in] flattened, then laid out. */
typedef struct {
  uint16_t input_height, input_width, input_channels;
  uint16_t output_height, output_width;
  uint8_t filter_height, filter_width;
  uint8_t stride_height, stride_width;
  uint8_t dilation_height, dilation_width;
  uint8_t pad_top, pad_left; /* as TFLM computes them for SAME; 0 for VALID */
  int8_t input_zero_point;   /* fills the padding */
  kws_fully_connected_t product;
} kws_conv_2d_t;

/* Patches gathered at a time. */
#define KWS_CONV_2D_BLOCK 12
#define KWS_CONV_2D_SCRATCH_BYTES(inputs)          \
  (KWS_ROUND_UP(KWS_CONV_2D_BLOCK * (inputs), 4) + \
   KWS_FULLY_CONNECTED_SCRATCH_BYTES(inputs))

/* Output rows first_row .. first_row + rows - 1 (rows of the image: time frames) ->
 * y [rows, output_width, outputs]. x is the whole input image. */
void kws_conv_2d_s8(const kws_conv_2d_t *p, const int8_t *x, int32_t first_row,
                    int32_t rows, int8_t *y, void *scratch);

/* ---- DEPTHWISE_CONV_2D (NHWC, batch 1, multiplier 1) ---- */

/* Channel by channel,
 *   y[r, c, k] = clamp(requantise(bias[k] + sum of weights[k, fr, fc] *
 *                x[r * stride_height - pad_top + fr * dilation_height,
 *                  c * stride_width - pad_left + fc * dilation_width, k])
 *                + zero point)
 * `taps` has the channels as outputs and filter_height * filter_width as inputs; its
 * weights are weight_layout.depthwise_layout(w [channels, filter_height *
 * filter_width], core), from -127 up, 4-byte aligned for dsp and mve; otherwise as in
 * kws_fully_connected_t. */
typedef struct {
  uint16_t input_height, input_width;
  uint16_t output_height, output_width;
  uint8_t filter_height, filter_width;
  uint8_t stride_height, stride_width;
  uint8_t dilation_height, dilation_width;
  uint8_t pad_top, pad_left; /* as TFLM computes them for SAME; 0 for VALID */
  int8_t input_zero_point;   /* fills the padding */
  kws_fully_connected_t taps;
} kws_depthwise_conv_2d_t;

/* Where each tap reads (a pointer), and a pixel of padding. */
#define KWS_DEPTHWISE_CONV_2D_SCRATCH_BYTES(taps, channels) \
  (8 * (taps) + KWS_ROUND_UP(channels, 4))

/* Output rows first_row .. first_row + rows - 1 (rows of the image: time frames) ->
 * y [rows, output_width, channels]. x is the whole input image. `scratch` is aligned
 * for a pointer: to 8 bytes on a 64-bit host.
 *
 * One token of a stream is an image of filter_height rows and width 1 that gives one
 * row: x [filter_height, channels], oldest first. */
void kws_depthwise_conv_2d_s8(const kws_depthwise_conv_2d_t *p, const int8_t *x,
                              int32_t first_row, int32_t rows, int8_t *y,
                              void *scratch);

/* ---- BATCH_MATMUL, one matrix ---- */

/* y[m, n] = clamp(requantise(sum_k (a[m, k] - za) * (b[n, k] - zb)) + zero point). */
typedef struct {
  int16_t a_zero_point;
  int16_t b_zero_point;
  int32_t multiplier;
  int8_t shift;
  int8_t activation_min;
  int8_t activation_max;
  int16_t output_zero_point;
} kws_batch_matmul_t;

#define KWS_BATCH_MATMUL_SCRATCH_BYTES(inner) (8 * KWS_ROUND_UP(inner, 4))

/* a [m, inner] with rows a_stride apart; b is given with its inner axis contiguous:
 * b_rows [n, inner] with rows b_stride apart (TFLite's adj_y = true). Where the graph
 * has adj_x = true, transpose with kws_transpose_s8 first.
 * inner: 1..16384. y [m, n] has rows y_stride apart. */
void kws_batch_matmul_s8(const kws_batch_matmul_t *p, const int8_t *a, int32_t a_stride,
                         const int8_t *b_rows, int32_t b_stride, int32_t m, int32_t n,
                         int32_t inner, int8_t *y, int32_t y_stride, void *scratch);

#define KWS_BATCH_MATMUL_COLUMNS_SCRATCH_BYTES(inner) (16 * KWS_ROUND_UP(inner, 8))

/* The same of b [inner, n], rows b_stride apart (adj_y = false), 1..8192. */
void kws_batch_matmul_columns_s8(const kws_batch_matmul_t *p, const int8_t *a,
                                 int32_t a_stride, const int8_t *b, int32_t b_stride,
                                 int32_t m, int32_t n, int32_t inner, int8_t *y,
                                 int32_t y_stride, void *scratch);

/* x [rows, columns] -> y: element (r, c) goes to y[c * y_stride + r]. */
void kws_transpose_s8(const int8_t *x, int32_t rows, int32_t columns, int8_t *y,
                      int32_t y_stride);

/* ---- SOFTMAX ---- */

/* exp_table[d] = exp(-d * beta * scale) in Q0.31 for a difference of d int8 steps
 * below the row's largest, 0 beyond TFLM's diff_min
 * (quantized_math.softmax_exp_table). Output scale 1/256, zero point -128. */
typedef struct {
  const int32_t *exp_table; /* [256] */
} kws_softmax_t;

/* x [rows, columns] -> y [rows, columns]; y may be x. columns: 1..511; TFLM's last
 * shift is of 32 bits or more, so undefined, where more elements are alike. */
void kws_softmax_s8(const kws_softmax_t *p, const int8_t *x, int32_t rows,
                    int32_t columns, int8_t *y);

/* ---- Attention: Q.K^T -> (table) -> SOFTMAX -> P.V, a few rows at a time ---- */

/* No tokens x tokens matrix is ever stored. Usage per inference:
 *   K  [KWS_ATTENTION_K_BYTES]: written by kws_fully_connected_s8, [tokens, width]
 *   VT [KWS_ATTENTION_V_BYTES]: written by kws_fully_connected_transposed_s8,
 *      [width, KWS_ATTENTION_V_STRIDE(tokens)]
 *   kws_attention_prepare(p, K, VT, scratch);         rewrites K and VT in place
 *   kws_attention_rows_s8(p, Q, rows, K, VT, out, scratch);   any number of times
 * with width = heads * head_dim, head h in columns h * head_dim ... of Q, K, V and
 * out. `scratch` carries state from prepare to rows: keep it untouched between. */
typedef struct {
  uint16_t tokens;           /* rows of K and V, 1..511 */
  uint16_t heads;            /* 1.. */
  uint16_t head_dim;         /* a multiple of 4 */
  kws_batch_matmul_t scores; /* a = Q, b = K */
  const int8_t *score_table; /* [256] applied to the scores (e.g. a MUL by
                              * 1/sqrt(d) between the two), or NULL */
  kws_softmax_t softmax;
  kws_batch_matmul_t values; /* a = P (zero point -128), b = V */
} kws_attention_t;

#define KWS_ATTENTION_V_STRIDE(tokens)       KWS_ROUND_UP(tokens, 4)
#define KWS_ATTENTION_K_BYTES(tokens, width) (KWS_ROUND_UP(tokens, 2) * (width))
#define KWS_ATTENTION_V_BYTES(tokens, width) (KWS_ATTENTION_V_STRIDE(tokens) * (width))
/* Row sums of K and VT; three score rows widened to 16 bits; three Q rows widened;
 * two rows for packing. */
#define KWS_ATTENTION_SCRATCH_BYTES(tokens, heads, head_dim)                         \
  (4 * (tokens) * (heads) + 4 * (heads) * (head_dim) + 9 * KWS_ROUND_UP(tokens, 4) + \
   6 * (head_dim) +                                                                  \
   2 * (KWS_ROUND_UP(tokens, 4) > (heads) * (head_dim) ? KWS_ROUND_UP(tokens, 4)     \
                                                       : (heads) * (head_dim)))

void kws_attention_prepare(const kws_attention_t *p, int8_t *k, int8_t *v_transposed,
                           void *scratch);

/* q [rows, width] -> out [rows, width]; out may be q. K and VT 4-byte aligned. */
void kws_attention_rows_s8(const kws_attention_t *p, const int8_t *q, int32_t rows,
                           const int8_t *k, const int8_t *v_transposed, int8_t *out,
                           void *scratch);

/* ---- Element-wise, two inputs ---- */

/* y [rows, columns]; element (r, c) reads x1[r * x1_row_step + c * x1_column_step].
 *   same shape: row_step = columns, column_step = 1
 *   a row for all rows: 0, 1;   a column (one value per row): 1, 0;   a scalar: 0, 0 */
typedef struct {
  int32_t rows, columns;
  int32_t x1_row_step, x1_column_step;
  int32_t x2_row_step, x2_column_step;
} kws_broadcast_t;

/* ADD and SUB: TFLM's left shift of 20. For SUB the generator sets subtract = 1. Where
 * it found factors that give TFLM's result for all pairs of inputs, it is
 *   saturate((x1 * x1_factor + x2 * x2_factor + offset) >> KWS_LINEAR_SHIFT)
 * without overflow, and the clamp is int8's own; x1_factor = 0: it found none. */
#define KWS_LINEAR_SHIFT 23

typedef struct {
  int16_t x1_zero_point, x2_zero_point, output_zero_point;
  int8_t x1_shift, x2_shift, output_shift; /* <= 0 */
  int32_t x1_multiplier, x2_multiplier, output_multiplier;
  int8_t subtract;
  int8_t activation_min, activation_max;
  int32_t x1_factor, x2_factor, offset;
} kws_add_t;

/* y may be x1 or x2 where that input has y's shape. */
void kws_add_s8(const kws_add_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y);

typedef struct {
  int16_t x1_zero_point, x2_zero_point, output_zero_point;
  int8_t output_shift;
  int32_t output_multiplier;
  int8_t activation_min, activation_max;
} kws_mul_t;

void kws_mul_s8(const kws_mul_t *p, const kws_broadcast_t *shape, const int8_t *x1,
                const int8_t *x2, int8_t *y);

/* SQUARED_DIFFERENCE: TFLM's left shift of 7; subtract and clamps are not read. */
void kws_squared_difference_s8(const kws_add_t *p, const kws_broadcast_t *shape,
                               const int8_t *x1, const int8_t *x2, int8_t *y);

/* ---- Element-wise, one input ---- */

/* y[i] = table[x[i] + 128]: any chain of TANH, LOGISTIC, RSQRT, HARD_SWISH, RELU,
 * QUANTIZE and arithmetic with scalar constants is one table
 * (quantized_math.compose_tables). y may be x. */
void kws_table_s8(const int8_t *table, const int8_t *x, int32_t n, int8_t *y);

/* ---- MEAN ---- */

/* Integer sums of `count` elements, then one requantisation
 * (quantized_math.mean_parameters); keep_dims only changes the shape. */
typedef struct {
  int32_t count;
  int16_t input_zero_point, output_zero_point;
  int32_t multiplier;
  int8_t shift;
} kws_mean_t;

/* Over the last axis: x [rows, count] -> y [rows]. */
void kws_mean_columns_s8(const kws_mean_t *p, const int8_t *x, int32_t rows, int8_t *y);

/* Over the rows (tokens): x [count, columns] -> y [columns]. */
#define KWS_MEAN_ROWS_SCRATCH_BYTES(columns) (4 * (columns))
void kws_mean_rows_s8(const kws_mean_t *p, const int8_t *x, int32_t columns, int8_t *y,
                      void *scratch);

/* ---- Linear attention on a stream ---- */

/* One head: y = phi(q) S / (1 + phi(q) z), S and z sums over the last tokens of
 * features times values, and of features. */
typedef struct {
  uint16_t width;           /* of keys, values and queries, 1..4095 */
  kws_batch_matmul_t state; /* S: a = keys, b = values; no sum of a window reaches 2^30
                             * in magnitude */
  kws_mean_t mean;          /* z */
  kws_batch_matmul_t mix;   /* a = queries, b = S */
  kws_batch_matmul_t weigh; /* a = queries, b = z */
  const int8_t *inverse;    /* [256] of what `weigh` makes: 1 / (1 + it) */
  kws_mul_t scale;          /* x1 = mixed, x2 = that inverse */
} kws_linear_attention_t;

/* Sums of 32 bits: z [width]; S [columns / 4][width][4]. All 0 before the first token.
 */
#define KWS_LINEAR_ATTENTION_STATE_BYTES(width) \
  (4 * (width) * (1 + KWS_ROUND_UP(width, 4)))
#define KWS_LINEAR_ATTENTION_SCRATCH_BYTES(width) \
  (16 * (width) + 4 * KWS_ROUND_UP(width, 4))

/* A token: key and value join the sums, those of the token that leaves the window are
 * taken away (before the first token: rows of zero points), and query asks.
 * `sums` is 4-byte aligned. */
void kws_linear_attention_step_s8(const kws_linear_attention_t *p, const int8_t *key,
                                  const int8_t *oldest_key, const int8_t *value,
                                  const int8_t *oldest_value, const int8_t *query,
                                  void *sums, int8_t *y, void *scratch);

/* ---- CONCATENATION and copies ----
 * ------------------------------------------------------------- TFLM's int8
 * CONCATENATION copies (equal scales). A part on the last axis of a row-major tensor is
 * rows apart: element (r, c) goes to y[r * y_stride + c]. */
void kws_copy_rows_s8(const int8_t *x, int32_t rows, int32_t columns, int8_t *y,
                      int32_t y_stride);

#ifdef __cplusplus
}
#endif

#endif
