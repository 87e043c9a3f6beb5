/* Features with Helium (MVE integer): Cortex-M55, M85. See features_internal.h.
 *
 * A vector holds two complex values in the FFT. VQDMLADH and its kin are a complex
 * multiplication that sums two products in 64 bits before it keeps the high word of
 * twice the sum; half of that is features.c's rounding.
 */
#include "features_internal.h"

#if defined(KWS_FEATURES_MVE)

#include <arm_mve.h>

#define LANES  4
#define POINTS 256

/* ---- FFT of 480 samples, windowed, in 512 points ---- */

/* The first or second sample of four neighbouring pairs, times the window. `input` is
 * the butterfly's: they are 64 pairs apart. */
#define WINDOWED_RE(samples, rows, input)                                      \
  vmulhq_s32(vshllbq_n_s16(vld1q_s16((samples) + (POINTS / 2) * (input)), 16), \
             vldrwq_gather_base_s32(rows, 8 * (input)))
#define WINDOWED_IM(samples, rows, input)                                      \
  vmulhq_s32(vshlltq_n_s16(vld1q_s16((samples) + (POINTS / 2) * (input)), 16), \
             vldrwq_gather_base_s32(rows, 8 * (input) + 4))

/* Four neighbouring blocks of the first stage. Their rows in the window's table and
 * their places in the buffer are 16 blocks of 32 bytes apart: the lowest digit becomes
 * the highest. Real parts first: there are 8 vector registers. */
static inline __attribute__((always_inline)) void first_stage_4(const int16_t *samples,
                                                                const int32_t *windows,
                                                                int has_fourth,
                                                                int32_t *out) {
  const uint32x4_t apart = vmulq_n_u32(vidupq_n_u32(0, 1), 16 * 32);
  const uint32x4_t rows = vaddq_n_u32(apart, (uint32_t)windows);
  const uint32x4_t places = vaddq_n_u32(apart, (uint32_t)out);
  int32x4_t even = WINDOWED_RE(samples, rows, 0);
  int32x4_t sum = WINDOWED_RE(samples, rows, 2);
  const int32x4_t even_r = vsubq_s32(even, sum);
  even = vaddq_s32(even, sum);
  int32x4_t odd_r = WINDOWED_RE(samples, rows, 1);
  sum = odd_r;
  if (has_fourth) {
    const int32x4_t fourth = WINDOWED_RE(samples, rows, 3);
    sum = vaddq_s32(odd_r, fourth);
    odd_r = vsubq_s32(odd_r, fourth);
  }
  vstrwq_scatter_base_s32(places, 0, vaddq_s32(even, sum));
  vstrwq_scatter_base_s32(places, 16, vsubq_s32(even, sum));
  __asm volatile("" ::: "memory"); /* no sooner */
  even = WINDOWED_IM(samples, rows, 0);
  sum = WINDOWED_IM(samples, rows, 2);
  const int32x4_t even_i = vsubq_s32(even, sum);
  even = vaddq_s32(even, sum);
  int32x4_t odd_i = WINDOWED_IM(samples, rows, 1);
  sum = odd_i;
  if (has_fourth) {
    const int32x4_t fourth = WINDOWED_IM(samples, rows, 3);
    sum = vaddq_s32(odd_i, fourth);
    odd_i = vsubq_s32(odd_i, fourth);
  }
  vstrwq_scatter_base_s32(places, 4, vaddq_s32(even, sum));
  vstrwq_scatter_base_s32(places, 20, vsubq_s32(even, sum));
  vstrwq_scatter_base_s32(places, 8, vaddq_s32(even_r, odd_i));
  vstrwq_scatter_base_s32(places, 24, vsubq_s32(even_r, odd_i));
  vstrwq_scatter_base_s32(places, 12, vsubq_s32(even_i, odd_r));
  vstrwq_scatter_base_s32(places, 28, vaddq_s32(even_i, odd_r));
}

/* value * (cosine - i sine) / 2. */
static inline int32x4_t turn(int32x4_t value, int32x4_t w) {
  int32x4_t turned; /* the intrinsics would want its content before */
  __asm(
      "vqdmladh.s32 %q0, %q1, %q2\n"
      "  vqdmlsdhx.s32 %q0, %q1, %q2\n"
      "  vshr.s32 %q0, %q0, #1"
      : "=&w"(turned)
      : "w"(value), "w"(w));
  return turned;
}

/* Two neighbouring butterflies of each block of 4 * quarter complex values. */
static inline __attribute__((always_inline)) void stage_2(int32_t *buffer,
                                                          int32_t quarter,
                                                          const int32_t *twiddles,
                                                          uint32x4_t rows) {
  const int32x4_t w1 = vldrwq_gather_offset_s32(twiddles + 6, rows);
  const int32x4_t w2 = vldrwq_gather_offset_s32(twiddles, rows);
  const int32x4_t w3 = vldrwq_gather_offset_s32(twiddles + 3, rows);
  int32_t *a = buffer;
  for (int32_t blocks = POINTS / 4 / quarter; blocks > 0; blocks--) {
    const int32x4_t half = vshrq_n_s32(vld1q_s32(a), 1);
    const int32x4_t b = turn(vld1q_s32(a + 2 * quarter), w1);
    const int32x4_t c = turn(vld1q_s32(a + 4 * quarter), w2);
    const int32x4_t d = turn(vld1q_s32(a + 6 * quarter), w3);
    const int32x4_t even_sum = vaddq_s32(half, c), even = vsubq_s32(half, c);
    const int32x4_t odd_sum = vaddq_s32(b, d), odd = vsubq_s32(b, d);
    vst1q_s32(a, vaddq_s32(even_sum, odd_sum));
    vst1q_s32(a + 2 * quarter, vcaddq_rot270_s32(even, odd));
    vst1q_s32(a + 4 * quarter, vsubq_s32(even_sum, odd_sum));
    vst1q_s32(a + 6 * quarter, vcaddq_rot90_s32(even, odd));
    a += 8 * quarter;
  }
}

static inline __attribute__((always_inline)) const int32_t *stage(
    int32_t *buffer, int32_t quarter, const int32_t *twiddles) {
  /* Cosine and sine of neighbouring rows of 9 words: bytes 0, 4, 36, 40. */
  uint32x4_t rows = vidupq_n_u32(0, 4);
  rows = vaddq_u32(rows, vmulq_n_u32(vshrq_n_u32(rows, 3), 28));
  for (int32_t k = 0; k < quarter; k += 2, twiddles += 18) {
    stage_2(buffer + 2 * k, quarter, twiddles, rows);
  }
  return twiddles;
}

void kws_features_fft_512(const kws_feature_spec_t *spec, const int16_t *samples,
                          int32_t *buffer) {
  const int32_t *windows = spec->windows;
  const uint8_t *order = spec->order;
  for (int32_t n = 0; n < 48; n += LANES) {
    first_stage_4(samples + 2 * n, windows + 8 * order[n], 1, buffer + 8 * order[n]);
  }
  for (int32_t n = 48; n < 64; n += LANES) {
    first_stage_4(samples + 2 * n, windows + 8 * order[n], 0, buffer + 8 * order[n]);
  }
  const int32_t *w = stage(buffer, 4, spec->twiddles);
  w = stage(buffer, 16, w);
  stage(buffer, 64, w);
}

/* ---- The real signal's power spectrum ---- */

/* re^2 + im^2 of two complex values, in 64 bits. Squares are positive and their sum is
 * below 2^63: no carry passes from one to the other. */
static inline int32x4_t power_2(int32x4_t value) {
  const int32x4_t re = vreinterpretq_s32_s64(vmullbq_int_s32(value, value));
  const int32x4_t im = vreinterpretq_s32_s64(vmulltq_int_s32(value, value));
  int32x4_t sum;
  __asm("vadci.i32 %q0, %q1, %q2" : "=w"(sum) : "w"(re), "w"(im));
  return sum;
}

/* From both ends to the middle, two bins each. The first and the last bin, and the
 * middle one, are special. */
void kws_features_power(const kws_feature_spec_t *spec, int32_t *buffer) {
  const size_t points = spec->fft_size / 2U;
  const int32_t re = buffer[0], im = buffer[1];
  const int32_t middle_r = buffer[points], middle_i = buffer[points + 1];
  const int32_t *w = spec->split;
  const uint32x4_t backwards = vddupq_n_u32(3, 1);
  const uint64x2_t two_backwards = vreinterpretq_u64_u32(vddupq_n_u32(8, 4));
  int32_t *a = buffer;
  int32_t *b = buffer + 2 * points - 2;
  buffer[2 * points] = re;
  buffer[2 * points + 1] = im;
  for (size_t k = 0; k < points / 2; k += 2, a += 4, b -= 4, w += 4) {
    const int32x4_t low = vld1q_s32(a);
    /* i times the conjugates of the high bins */
    const int32x4_t high = vldrwq_gather_shifted_offset_s32(b, backwards);
    const int32x4_t even = vhcaddq_rot270_s32(low, high);
    const int32x4_t odd = vcaddq_rot90_s32(low, high);
    const int32x4_t turned = turn(odd, vld1q_s32(w));
    vst1q_s32(a, power_2(vcaddq_rot270_s32(even, turned)));
    vstrdq_scatter_offset_s64(
        (int64_t *)(void *)b, two_backwards,
        vreinterpretq_s64_s32(power_2(vcaddq_rot90_s32(even, turned))));
  }
  kws_features_store_power(buffer, re + im, 0);
  kws_features_store_power(buffer + 2 * points, re - im, 0);
  kws_features_store_power(buffer + points, middle_r, middle_i);
}

/* ---- Mel and logarithm ---- */

/* One segment of the mel bank: the sum of its bins times a rising weight / 2^32, and
 * `before` plus the sum of its bins times the falling one. */
typedef struct {
  uint64_t rising, falling;
} segment_t;

static inline segment_t mel_segment(const uint32_t *bins, const uint32_t *weights,
                                    int32_t count, uint64_t before) {
  const uint32x4_t low_words = vidupq_n_u32(0, 8);
  const uint32x4_t high_words = vidupq_n_u32(4, 8);
  uint64_t rising, low = before; /* in two registers each, the first one even */
  uint32_t high;
  __asm volatile(
      "  mov %Q[rising], #0\n"
      "  mov %R[rising], #0\n"
      "  mov %[high], #0\n"
      "  wlstp.32 lr, %[count], 2f\n"
      "1:\n"
      "  vldrw.u32 q0, [%[bins], %q[low_words]]\n"
      "  vldrw.u32 q1, [%[weights]], #16\n"
      "  vmulh.u32 q2, q0, q1\n"
      "  vaddlva.u32 %Q[low], %R[low], q0\n"
      "  vldrw.u32 q0, [%[bins], %q[high_words]]\n"
      "  vaddlva.u32 %Q[rising], %R[rising], q2\n"
      "  vmlaldava.u32 %Q[rising], %R[rising], q0, q1\n"
      "  vaddva.u32 %[high], q0\n"
      "  add %[bins], #32\n"
      "  letp lr, 1b\n"
      "2:\n"
      : [rising] "=&r"(rising), [low] "+&r"(low), [high] "=&Te"(high),
        [bins] "+&r"(bins), [weights] "+&r"(weights)
      : [count] "r"(count), [low_words] "w"(low_words), [high_words] "w"(high_words)
      : "lr", "q0", "q1", "q2", "memory");
  const segment_t sums = {rising, low + ((uint64_t)high << 32) - rising};
  return sums;
}

/* round(ln(value) / scale) + zero_point, clamped, of four values. `offset` takes
 * log2 of the value's fraction, less leading zeros. */
static inline void log_4(const uint64_t *values, const kws_feature_spec_t *spec,
                         uint64_t offset, int8_t *out, uint32_t count) {
  const uint32x4x2_t words = vld2q_u32((const uint32_t *)(const void *)values);
  const uint32x4_t low = words.val[0], high = words.val[1];
  uint32x4_t zeros = vclzq_u32(high);
  zeros = vaddq_u32(zeros, vmulq_u32(vshrq_n_u32(zeros, 5), vclzq_u32(low)));
  const int32x4_t left = vreinterpretq_s32_u32(zeros);
  uint32x4_t mantissa =
      vorrq_u32(vshlq_u32(high, left), vshlq_u32(low, vsubq_n_s32(left, 32)));
  const uint32x4_t index = vandq_u32(vshrq_n_u32(mantissa, 24), vdupq_n_u32(127));
  const uint32x4_t fraction =
      vmovlbq_u16(vreinterpretq_u16_u32(vshrq_n_u32(mantissa, 8)));
  const uint32x4_t base = vldrhq_gather_shifted_offset_u32(spec->log_table, index);
  const uint32x4_t next = vldrhq_gather_shifted_offset_u32(spec->log_table + 1, index);
  const uint32x4_t part = vshrq_n_u32(vmulq_u32(vsubq_u32(next, base), fraction), 8);
  const int32x4_t log2 =
      vreinterpretq_s32_u32(vsubq_u32(vaddq_u32(vshlq_n_u32(base, 8), part),
                                      vshlq_n_u32(zeros, KWS_FEATURES_LOG2_BITS)));
  /* log2 * multiplier + offset: low words, the carry, high words. */
  const int32_t multiplier = (int32_t)spec->log_multiplier;
  const uint32x4_t sum_low = vaddq_n_u32(
      vreinterpretq_u32_s32(vmulq_n_s32(log2, multiplier)), (uint32_t)offset);
  int32x4_t sum = vmulhq_s32(log2, vdupq_n_s32(multiplier));
  sum = vaddq_n_s32(sum, (int32_t)(offset >> 32));
  const mve_pred16_t no_carry = vcmpcsq_n_u32(sum_low, (uint32_t)offset);
  sum = vaddq_n_s32(sum, 1);
  sum = vsubq_m_s32(sum, sum, vdupq_n_s32(1), no_carry);
  sum = vshrq_n_s32(sum, KWS_FEATURES_LOG_SHIFT - 32);
  /* 64 leading zeros: the value is 0 */
  sum = vsubq_s32(sum, vreinterpretq_s32_u32(vshlq_n_u32(vshrq_n_u32(zeros, 6), 30)));
  sum = vminq_s32(vmaxq_s32(sum, vdupq_n_s32(INT8_MIN)), vdupq_n_s32(INT8_MAX));
  vstrbq_p_s32(out, sum, vctp32q(count));
}

void kws_features_mel(const kws_feature_spec_t *spec, const uint32_t *bins,
                      int8_t *out) {
  const uint64_t offset = kws_features_fraction_offset(spec);
  const uint8_t *counts = spec->segment_bins;
  const uint32_t *weights = spec->mel_weights;
  uint64_t values[LANES];
  bins += 2 * (size_t)spec->first_bin;
  segment_t segment = mel_segment(bins, weights, *counts, 0);
  for (int32_t left = spec->mel_bins; left > 0; left -= LANES, out += LANES) {
    for (int32_t i = 0; i < LANES && i < left; i++) {
      bins += 2 * *counts;
      weights += *counts++;
      segment = mel_segment(bins, weights, *counts, segment.rising);
      values[i] = segment.falling;
    }
    log_4(values, spec, offset, out, (uint32_t)left);
  }
}

#endif
