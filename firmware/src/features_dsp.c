/* Features with the DSP extension: Cortex-M4, M7, M33. See features_internal.h.
 *
 * Assembly, because a butterfly needs 13 registers, and half of every 64-bit sum isn't
 * wanted: compilers take half as many instructions again. The same products and sums as
 * in features.c, rounded at the same places.
 */
#include "features_internal.h"

#if defined(KWS_FEATURES_DSP)

#define BEGIN(name)            \
  "  .syntax unified\n"        \
  "  .thumb\n"                 \
  "  .pushsection .text." name \
  ", \"ax\", %progbits\n"      \
  "  .align 2\n"               \
  "  .global " name            \
  "\n"                         \
  "  .type " name              \
  ", %function\n"              \
  "  .thumb_func\n" name ":\n"
#define END(name)               \
  "  .size " name ", . - " name \
  "\n"                          \
  "  .popsection\n"

/* x, y to x + y, x - y; and to x - y, x + y. */
#define SUM_DIFFERENCE(x, y) \
  "  add " x ", " x ", " y   \
  "\n"                       \
  "  sub " y ", " x ", " y ", lsl #1\n"
#define DIFFERENCE_SUM(x, y) \
  "  sub " x ", " x ", " y   \
  "\n"                       \
  "  add " y ", " x ", " y ", lsl #1\n"

/* The end of a 4-point DFT: sums and differences of its inputs to its outputs. */
#define OUTPUTS(even_sum_r, even_sum_i, even_r, even_i, odd_sum_r, odd_sum_i, odd_r, \
                odd_i)                                                               \
  SUM_DIFFERENCE(even_sum_r, odd_sum_r) /* outputs 0 and 2 */                        \
  SUM_DIFFERENCE(even_sum_i, odd_sum_i)                                              \
  SUM_DIFFERENCE(even_r, odd_i) /* 1 and 3: the imaginary parts' registers ... */    \
  DIFFERENCE_SUM(even_i, odd_r) /* ... change places */

/* ---- Window and the first two stages, of 480 samples and 512 points ----
 *
 * r0 samples, r1 Hann window, r2 buffer, r3 twiddles of the second stage.
 * For each of 16 groups of 16 complex values: four blocks of the first stage, of
 * samples that are far apart, and on their outputs four butterflies of the second. LDR
 * reads a pair of samples at any even address. */

/* A pair of samples, 16 j + 64 q pairs on, times the window in registers. */
#define PAIR(j, q, multiply_low, low, multiply_high, high) \
  "  ldr lr, [r0, #(64 * " #j " + 256 * " #q               \
  ")]\n"                                                   \
  "  " multiply_low " " low                                \
  "\n"                                                     \
  "  " multiply_high " " high "\n"

/* The even inputs: differences in r5 and r6, sums in r9 and r10. */
#define EVEN(j) \
  "  ldm r1!, {r5-r12}\n" \
  PAIR(j, 0, "smulwb", "r5, r5, lr", "smulwt", "r6, r6, lr") \
  PAIR(j, 2, "smlawb", "r9, r9, lr, r5", "smlawt", "r10, r10, lr, r6") \
  "  rsb r5, r9, r5, lsl #1\n" \
  "  rsb r6, r10, r6, lsl #1\n"
#define BLOCK(j)                                                         \
  EVEN(j)                                                                \
  PAIR(j, 1, "smulwb", "r7, r7, lr", "smulwt", "r8, r8, lr")             \
  PAIR(j, 3, "smlawb", "r11, r11, lr, r7", "smlawt", "r12, r12, lr, r8") \
  "  rsb r7, r11, r7, lsl #1\n"                                          \
  "  rsb r8, r12, r8, lsl #1\n"                                          \
  "  add r3, r9, r11\n"                                                  \
  "  sub r9, r9, r11\n"                                                  \
  "  add r4, r10, r12\n"                                                 \
  "  sub r10, r10, r12\n"                                                \
  "  sub r11, r5, r8\n"                                                  \
  "  add r5, r5, r8\n"                                                   \
  "  add r12, r6, r7\n"                                                  \
  "  sub r6, r6, r7\n"                                                   \
  "  stm r2!, {r3-r6, r9-r12}\n"

/* The fourth pair is beyond the window: one odd input, which is added at once. */
#define LAST_BLOCK                                                    \
  EVEN(3)                                                             \
  PAIR(3, 1, "smlawb", "r3, r7, lr, r9", "smlawt", "r4, r8, lr, r10") \
  "  smlawb r12, r7, lr, r6\n"                                        \
  "  smlawt r7, r8, lr, r5\n"                                         \
  "  rsb r9, r3, r9, lsl #1\n"                                        \
  "  rsb r10, r4, r10, lsl #1\n"                                      \
  "  rsb r8, r12, r6, lsl #1\n"                                       \
  "  rsb r11, r7, r5, lsl #1\n"                                       \
  "  stm r2!, {r3, r4, r7-r12}\n"

/* Second stage. r2 is at the group's end; r0, r1 and r12 hold the cosine and sine of
 * 1/16 turn and minus the sine, r11 the cosine of 1/8. */
#define AT(k)         "[r2, #(8 * (" #k ") - 128)]"
#define LOAD(r, i, k) "  ldrd " r ", " i ", " AT(k) "\n"

/* value * (cosine - i sine) / 2: v0 and v1 to `re` and v1. */
#define TURN(v0, v1, cosine, sine, minus_sine, low, re) \
  "  smull " low ", " re ", " v0 ", " cosine            \
  "\n"                                                  \
  "  smlal " low ", " re ", " v1 ", " sine              \
  "\n"                                                  \
  "  smull " low ", " v1 ", " v1 ", " cosine            \
  "\n"                                                  \
  "  smlal " low ", " v1 ", " v0 ", " minus_sine "\n"
/* 1/8 turn: sum and difference first. The 64-bit sums are the same. 3/8: negated. */
#define EIGHTH(v0, v1, sum)    \
  "  add " sum ", " v0 ", " v1 \
  "\n"                         \
  "  sub " v1 ", " v1 ", " v0  \
  "\n"                         \
  "  smmul " v0 ", " sum       \
  ", r11\n"                    \
  "  smmul " v1 ", " v1 ", r11\n"
/* By nearly 1 (2^31 - 1), in `one`. */
#define HALVE(v0, v1, one)       \
  "  smmul " v0 ", " v0 ", " one \
  "\n"                           \
  "  smmul " v1 ", " v1 ", " one "\n"

/* a / 2 + c and a / 2 - c: in a, and (t, cr). */
#define EVEN_TURNED(ar, ai, cr, ci, t) \
  "  rsb " t ", " cr ", " ar           \
  ", asr #1\n"                         \
  "  add " ar ", " cr ", " ar          \
  ", asr #1\n"                         \
  "  rsb " cr ", " ci ", " ai          \
  ", asr #1\n"                         \
  "  add " ai ", " ci ", " ai ", asr #1\n"
#define ODD_TURNED(br, bi, dr, di) SUM_DIFFERENCE(br, dr) SUM_DIFFERENCE(bi, di)
#define STORE(ar, ai, br, bi, t, cr, dr, di, at0, at1, at2, at3) \
  OUTPUTS(ar, ai, t, cr, br, bi, dr, di)                         \
  "  strd " t ", " cr ", " at1                                   \
  "\n"                                                           \
  "  strd " br ", " bi ", " at2                                  \
  "\n"                                                           \
  "  strd " di ", " dr ", " at3                                  \
  "\n"                                                           \
  "  strd " ar ", " ai ", " at0 "\n"

#define SECOND_0 \
  "  mvn r9, #0x80000000\n" \
  LOAD("r3", "r4", 4) HALVE("r3", "r4", "r9") \
  LOAD("r5", "r6", 8) HALVE("r5", "r6", "r9") \
  LOAD("r7", "r8", 12) \
  "  smmla r7, r7, r9, r3\n" \
  "  smmla r8, r8, r9, r4\n" \
  "  rsb r3, r7, r3, lsl #1\n" \
  "  rsb r4, r8, r4, lsl #1\n" \
  LOAD("r9", "r10", 0) EVEN_TURNED("r9", "r10", "r5", "r6", "lr") \
  STORE("r9", "r10", "r7", "r8", "lr", "r5", "r3", "r4", AT(0), AT(4), AT(8), AT(12))
#define SECOND_1 \
  LOAD("r3", "r4", 5) TURN("r3", "r4", "r0", "r1", "r12", "r9", "r5") \
  LOAD("r3", "r6", 9) EIGHTH("r3", "r6", "r9") \
  LOAD("r7", "r8", 13) \
  "  smull r9, r10, r7, r1\n" \
  "  smlal r9, r10, r8, r0\n" \
  "  rsb r7, r7, #0\n" \
  "  smull r9, r8, r8, r1\n" \
  "  smlal r9, r8, r7, r0\n" \
  LOAD("r7", "r9", 1) EVEN_TURNED("r7", "r9", "r3", "r6", "lr") \
  ODD_TURNED("r5", "r4", "r10", "r8") \
  STORE("r7", "r9", "r5", "r4", "lr", "r3", "r10", "r8", AT(1), AT(5), AT(9), AT(13))
#define SECOND_2 \
  LOAD("r3", "r4", 6) EIGHTH("r3", "r4", "r9") \
  "  mvn r9, #0x80000000\n" \
  LOAD("r5", "r6", 10) \
  "  smmul r6, r6, r9\n" /* the real part */ \
  "  rsb r9, r9, #0\n" \
  "  smmul r5, r5, r9\n" \
  LOAD("r7", "r8", 14) \
  "  add r9, r7, r8\n" \
  "  sub r8, r8, r7\n" \
  "  rsb r9, r9, #0\n" \
  "  smmla r7, r8, r11, r3\n" \
  "  smmla r8, r9, r11, r4\n" \
  "  rsb r3, r7, r3, lsl #1\n" \
  "  rsb r4, r8, r4, lsl #1\n" \
  LOAD("r9", "r10", 2) EVEN_TURNED("r9", "r10", "r6", "r5", "lr") \
  STORE("r9", "r10", "r7", "r8", "lr", "r6", "r3", "r4", AT(2), AT(6), AT(10), AT(14))
#define SECOND_3      \
  LOAD("r3", "r4", 7) \
  "  smull r9, r5, r3, r1\n" \
  "  smlal r9, r5, r4, r0\n" \
  "  rsb r3, r3, #0\n" \
  "  smull r9, r4, r4, r1\n" \
  "  smlal r9, r4, r3, r0\n" \
  LOAD("r3", "r6", 11) \
  "  add r9, r3, r6\n" \
  "  sub r6, r6, r3\n" \
  "  rsb r9, r9, #0\n" \
  "  smmul r6, r6, r11\n" /* the real part */ \
  "  smmul r3, r9, r11\n" \
  LOAD("r7", "r8", 15) \
  "  rsb r7, r7, #0\n" \
  "  smull r9, r10, r7, r0\n" \
  "  smlal r9, r10, r8, r12\n" \
  "  rsb r8, r8, #0\n" \
  "  smull r9, r8, r8, r0\n" \
  "  smlal r9, r8, r7, r12\n" \
  LOAD("r7", "r9", 3) EVEN_TURNED("r7", "r9", "r6", "r3", "lr") \
  ODD_TURNED("r5", "r4", "r10", "r8") \
  STORE("r7", "r9", "r5", "r4", "lr", "r6", "r10", "r8", AT(3), AT(7), AT(11), AT(15))

/* A group's samples are 4 pairs after those of the group before, and after four groups
 * 1 pair after those of the first. On the stack: 0 samples, 4 window, 8 the second
 * stage's cosines and sines, 24 the samples' end. */
void kws_features_dsp_start(const int16_t *samples, const int32_t *hann,
                            int32_t *buffer, const int32_t *twiddles);
__asm(BEGIN("kws_features_dsp_start")
      "  push {r4-r11, lr}\n"
      "  sub sp, #28\n"
      "  ldr r6, [r3, #(4 * 9)]\n"
      "  ldrd r4, r5, [r3, #(4 * 15)]\n"
      "  ldr r7, [r3, #(4 * 17)]\n"
      "  add r8, r0, #64\n"
      "  add r9, sp, #8\n"
      "  stm r9, {r4-r8}\n"
      "1:\n" BLOCK(0) BLOCK(1) BLOCK(2) LAST_BLOCK
      "  strd r0, r1, [sp]\n"
      "  add r3, sp, #8\n"
      "  ldm r3, {r0, r1, r11, r12}\n" SECOND_1 SECOND_3 SECOND_2 SECOND_0
      "  ldrd r0, r1, [sp]\n"
      "  ldr r3, [sp, #24]\n"
      "  add r0, #16\n"
      "  cmp r0, r3\n"
      "  blo 1b\n"
      "  sub r0, #(64 - 4)\n"
      "  sub r3, #(64 - 16)\n"
      "  cmp r0, r3\n"
      "  bne 1b\n"
      "  add sp, #28\n"
      "  pop {r4-r11, pc}\n" END("kws_features_dsp_start"));

/* ---- Stages 3 and 4 ----
 *
 * r0 the buffer, r1 the twiddles, r2 where r0 ends. All addresses are in reach of r0,
 * which is at the third input at first and then at the second. */
#define STAGE_BUTTERFLY(quarter) \
  "  ldm r1!, {r7-r12}\n" \
  "  ldrd r3, r4, [r0]\n" /* input 2 */ \
  TURN("r3", "r4", "r7", "r8", "r9", "r5", "r6") \
  "  ldrd r3, r7, [r0, #(8 * " quarter ")]\n" /* input 3 */ \
  TURN("r3", "r7", "r10", "r11", "r12", "r5", "r8") \
  "  ldm r1!, {r9-r11}\n" \
  "  ldrd r3, r12, [r0, #(-8 * " quarter ")]!\n" /* input 1 */ \
  TURN("r3", "r12", "r9", "r10", "r11", "r5", "lr") \
  "  ldrd r3, r9, [r0, #(-8 * " quarter ")]\n" /* input 0 */ \
  EVEN_TURNED("r3", "r9", "r6", "r4", "r5") \
  ODD_TURNED("lr", "r12", "r8", "r7") \
  OUTPUTS("r3", "r9", "r5", "r6", "lr", "r12", "r8", "r7") \
  "  strd r3, r9, [r0, #(-8 * " quarter ")]\n" \
  "  strd r5, r6, [r0], #(8 * " quarter " + 8)\n" \
  "  strd lr, r12, [r0, #-8]\n" \
  "  strd r7, r8, [r0, #(8 * " quarter " - 8)]\n"

void kws_features_dsp_end(int32_t *buffer, const int32_t *twiddles);
/* On the stack: the buffer. */
__asm(BEGIN("kws_features_dsp_end")
      "  push {r0, r4-r11, lr}\n"
      "  add r0, #(16 * 16)\n"
      "1:\n"
      "  add r2, r0, #(8 * 16)\n"
      "2:\n" STAGE_BUTTERFLY("16") STAGE_BUTTERFLY("16")
      "  cmp r0, r2\n"
      "  bne 2b\n"
      "  sub r1, #(36 * 16)\n"
      "  add r0, #(24 * 16)\n"
      "  ldr r3, [sp]\n"
      "  add r2, r3, #2048\n"
      "  cmp r0, r2\n"
      "  blo 1b\n"
      "  add r1, #(36 * 16)\n"
      "  add r0, r3, #(16 * 64)\n"
      "  add r2, r0, #(8 * 64)\n"
      "3:\n" STAGE_BUTTERFLY("64") STAGE_BUTTERFLY("64")
      STAGE_BUTTERFLY("64") STAGE_BUTTERFLY("64")
      "  cmp r0, r2\n"
      "  bne 3b\n"
      "  pop {r0, r4-r11, pc}\n" END("kws_features_dsp_end"));

void kws_features_fft_512(const kws_feature_spec_t *spec, const int16_t *samples,
                          int32_t *buffer) {
  kws_features_dsp_start(samples, spec->windows, buffer, spec->twiddles);
  kws_features_dsp_end(buffer, spec->twiddles + 36);
}

/* ---- The real signal's power spectrum ----
 *
 * r0 bin k and r1 bin points - k, from both ends to the middle, r2 cosines and sines.
 */
#define SPLIT_BIN(cosine, sine)                  \
  "  ldrd r3, r4, [r0]\n"                        \
  "  ldrd r5, r6, [r1]\n"                        \
  "  add r9, r3, r5\n" /* twice the even part */ \
  "  sub r3, r3, r5\n" /* the odd part */        \
  "  sub r10, r4, r6\n"                          \
  "  add r4, r4, r6\n"                           \
  "  smull r5, r11, r3, " cosine                 \
  "\n"                                           \
  "  smlal r5, r11, r4, " sine                   \
  "\n"                                           \
  "  rsb " sine ", " sine                        \
  ", #0\n"                                       \
  "  smull r5, r4, r4, " cosine                  \
  "\n"                                           \
  "  smlal r5, r4, r3, " sine                    \
  "\n"                                           \
  "  add r3, r4, r9, asr #1\n"                   \
  "  rsb r4, r4, r9, asr #1\n"                   \
  "  rsb r5, r11, r10, asr #1\n"                 \
  "  add r6, r11, r10, asr #1\n"                 \
  "  smull r7, r8, r3, r3\n"                     \
  "  smlal r7, r8, r5, r5\n"                     \
  "  strd r7, r8, [r0], #8\n"                    \
  "  smull r7, r8, r4, r4\n"                     \
  "  smlal r7, r8, r6, r6\n"                     \
  "  strd r7, r8, [r1], #-8\n"

/* Four bins a turn; it starts at the second of them, since there are 3 too many. */
void kws_features_dsp_power(int32_t *low, int32_t *high, const int32_t *split);
__asm(BEGIN("kws_features_dsp_power")
      "  push {r4-r11, lr}\n"
      "  ldrd r12, lr, [r2], #8\n"
      "  b 2f\n"
      "1:\n"
      "  ldm r2!, {r7, r8, r12, lr}\n" SPLIT_BIN("r7", "r8")
      "2:\n" SPLIT_BIN("r12", "lr")
      "  ldm r2!, {r7, r8, r12, lr}\n" SPLIT_BIN("r7", "r8") SPLIT_BIN("r12", "lr")
      "  cmp r0, r1\n"
      "  bne 1b\n"
      "  pop {r4-r11, pc}\n" END("kws_features_dsp_power"));

void kws_features_power(const kws_feature_spec_t *spec, int32_t *buffer) {
  const size_t points = spec->fft_size / 2;
  const int32_t re = buffer[0], im = buffer[1];
  kws_features_dsp_power(buffer + 2, buffer + 2 * points - 2, spec->split + 2);
  kws_features_store_power(buffer, re + im, 0);
  kws_features_store_power(buffer + 2 * points, re - im, 0);
  kws_features_store_power(buffer + points, buffer[points], buffer[points + 1]);
}

/* ---- Mel and logarithm ---- */

/* What the assembly keeps on the stack; the numbers are its offsets. */
typedef struct {
  const uint16_t *table; /* 0: log_table less 128 entries */
  uint32_t multiplier;   /* 4 */
  uint32_t offset_low;   /* 8 */
  uint32_t offset_high;  /* 12 */
  uint32_t counts; /* 16: address of the segment's count, less that of its output */
  int8_t *out;     /* 20 */
  int8_t *end;     /* 24 */
} mel_t;

/* A bin: its value to the total in r3 and r4, and that times a weight / 2^32 to the
 * rising sum in r5 and r6. */
#define MEL_BIN(low, high, weight)         \
  "  adds r3, r3, " low                    \
  "\n"                                     \
  "  adc r4, r4, " high                    \
  "\n"                                     \
  "  umull lr, " low ", " low ", " weight  \
  "\n"                                     \
  "  umaal r5, " low ", " high ", " weight \
  "\n"                                     \
  "  add r6, r6, " low "\n"

/* r0 bins, r1 weights, r2 bins left in the segment; the total starts with the last
 * segment's rising sum. At its end, `total - rising` is the triangle's sum. */
void kws_features_dsp_mel(const uint32_t *bins, const uint32_t *weights,
                          const mel_t *mel, uint32_t unused, uint64_t rising);
__asm(BEGIN("kws_features_dsp_mel")
      "  push {r4-r11, lr}\n"
      "  ldrd r3, r4, [sp, #36]\n"
      "  sub sp, #28\n"
      "  ldm r2, {r5-r11}\n"
      "  stm sp, {r5-r11}\n"
      "1:\n"
      "  ldrd r7, r8, [sp, #16]\n"
      "  ldrb r2, [r7, r8]\n"
      "  movs r5, #0\n"
      "  movs r6, #0\n"
      "  lsrs r2, r2, #1\n"
      "  bcc 2f\n"
      "  ldrd r7, r8, [r0], #8\n"
      "  ldr r11, [r1], #4\n"
      MEL_BIN("r7", "r8", "r11")
      "2:\n"
      "  cbz r2, 4f\n"
      "3:\n"
      "  ldm r0!, {r7-r10}\n"
      "  ldrd r11, r12, [r1], #8\n"
      MEL_BIN("r7", "r8", "r11") MEL_BIN("r9", "r10", "r12")
      "  subs r2, #1\n"
      "  bne 3b\n"
      "4:\n"
      "  subs r7, r3, r5\n"
      "  sbcs r8, r4, r6\n"
      "  mov r3, r5\n"
      "  mov r4, r6\n"
      "  beq 7f\n" /* the high word is 0 */
      "  clz r9, r8\n"
      "  lsl r8, r8, r9\n"
      "  rsb r10, r9, #32\n"
      "  lsr r7, r7, r10\n"
      "  orr r8, r8, r7\n"
      "5:\n" /* r8 mantissa, r9 leading zeros */
      "  ldm sp, {r7, r10-r12}\n"
      "  lsr lr, r8, #24\n"
      "  ldr lr, [r7, lr, lsl #1]\n" /* two entries */
      "  ubfx r8, r8, #8, #16\n"
      "  uxth r7, lr\n"
      "  rsb lr, r7, lr, lsr #16\n"
      "  mul r8, r8, lr\n"
      "  lsr r8, r8, #8\n"
      "  add r8, r8, r7, lsl #8\n"
      "  sub r8, r8, r9, lsl #23\n" /* less leading zeros: negative */
      "  smlal r11, r12, r8, r10\n"
      "  ssat r8, #8, r12, asr #14\n"
      "6:\n"
      "  ldrd r11, r12, [sp, #20]\n"
      "  strb r8, [r11], #1\n"
      "  str r11, [sp, #20]\n"
      "  cmp r11, r12\n"
      "  bne 1b\n"
      "  add sp, #28\n"
      "  pop {r4-r11, pc}\n"
      "7:\n"
      "  clz r9, r7\n"
      "  lsl r8, r7, r9\n"
      "  add r9, #32\n"
      "  cmp r7, #0\n"
      "  bne 5b\n"
      "  mvn r8, #127\n"
      "  b 6b\n"
      END("kws_features_dsp_mel"));

void kws_features_mel(const kws_feature_spec_t *spec, const uint32_t *bins,
                      int8_t *out) {
  const uint32_t *weight = spec->mel_weights;
  uint64_t rising = 0;
  bins += 2 * (size_t)spec->first_bin;
  for (size_t left = spec->segment_bins[0]; left > 0; left--, bins += 2) {
    rising += (uint64_t)bins[1] * *weight + (((uint64_t)bins[0] * *weight) >> 32);
    weight++;
  }
  const uint64_t offset = kws_features_fraction_offset(spec);
  const mel_t mel = {
      .counts = (uint32_t)spec->segment_bins + 1 - (uint32_t)out,
      .out = out,
      .end = out + spec->mel_bins,
      .table = spec->log_table - 128,
      .multiplier = spec->log_multiplier,
      .offset_low = (uint32_t)offset,
      .offset_high = (uint32_t)(offset >> 32),
  };
  kws_features_dsp_mel(bins, weight, &mel, 0, rising);
}

#endif
