/* The features' dearest loops for a Cortex-M0+: products of 32 bits from four of 16, as
 * in features_internal.h, with the same bits. Assembly because compilers spill half of
 * it: there are eight low registers, which alone can be multiplied. */
#include "features_internal.h"

#if defined(__ARM_ARCH_6M__)

/* Each value times the twiddle's upper and lower halves, P and Q of the cosine, R and S
 * of the sine:
 *   r0 r1 products, r2 P, r3 R, r4 Q, r5 S, r6 real, r7 imaginary, r8 r9 the value's
 *   upper halves, r10 r11 its lower ones, r12 its address, lr step;
 *   on the stack: end of the values, twiddle, first value, span, r8-r11, ... */
#define PRODUCT(of, by) \
  "  mov r0, " of       \
  "\n"                  \
  "  muls r0, " by ", r0\n"
#define ADD(to, of, by)        PRODUCT(of, by) "  adds " to ", " to ", r0\n"
#define SUBTRACT(from, of, by) PRODUCT(of, by) "  subs " from ", " from ", r0\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_turns, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_turns\n"
    "  .type kws_m0_turns, %function\n"
    "  .thumb_func\n"
    "kws_m0_turns:\n" /* values, twiddles, blocks, step; count */
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  sub sp, #16\n"
    "  mov lr, r3\n"
    "  muls r2, r3, r2\n"
    "  str r1, [sp, #4]\n"
    "  str r0, [sp, #8]\n"
    "  str r2, [sp, #12]\n"
    "1:\n" /* a twiddle */
    "  ldr r7, [sp, #4]\n"
    "  ldmia r7!, {r2, r3}\n"
    "  adds r7, #28\n"
    "  str r7, [sp, #4]\n"
    "  sxth r4, r2\n"
    "  asrs r2, r2, #15\n"
    "  adds r2, #1\n"
    "  asrs r2, r2, #1\n"
    "  sxth r5, r3\n"
    "  asrs r3, r3, #15\n"
    "  adds r3, #1\n"
    "  asrs r3, r3, #1\n"
    "  ldr r0, [sp, #8]\n"
    "  mov r12, r0\n"
    "  ldr r1, [sp, #12]\n"
    "  adds r1, r0, r1\n"
    "  str r1, [sp, #0]\n"
    "  adds r0, #8\n"
    "  str r0, [sp, #8]\n"
    "2:\n" /* a value */
    "  mov r7, r12\n"
    "  ldmia r7!, {r0, r1}\n"
    "  sxth r6, r0\n"
    "  mov r10, r6\n"
    "  subs r0, r0, r6\n"
    "  asrs r0, r0, #16\n"
    "  mov r8, r0\n"
    "  sxth r7, r1\n"
    "  mov r11, r7\n"
    "  subs r1, r1, r7\n"
    "  asrs r1, r1, #16\n"
    "  mov r9, r1\n"
    "  muls r6, r4, r6\n"
    "  muls r7, r5, r7\n"
    "  adds r6, r6, r7\n"
    "  asrs r6, r6, #16\n"
    "  muls r0, r2, r0\n"
    "  muls r1, r3, r1\n"
    "  adds r7, r0, r1\n" ADD("r6", "r8", "r4") ADD("r6", "r9", "r5")
        ADD("r6", "r10", "r2") ADD("r6", "r11", "r3")
    "  asrs r6, r6, #16\n"
    "  adds r6, r6, r7\n"
    "  mov r7, r11\n"
    "  muls r7, r4, r7\n" SUBTRACT("r7", "r10", "r5")
    "  asrs r7, r7, #16\n" ADD("r7", "r9", "r4") SUBTRACT("r7", "r8", "r5")
        ADD("r7", "r11", "r2") SUBTRACT("r7", "r10", "r3")
    "  asrs r7, r7, #16\n" ADD("r7", "r9", "r2") SUBTRACT("r7", "r8", "r3")
    "  mov r0, r12\n"
    "  stmia r0!, {r6, r7}\n"
    "  add r12, lr\n"
    "  ldr r0, [sp, #0]\n"
    "  cmp r12, r0\n"
    "  bne 2b\n"
    "  ldr r0, [sp, #52]\n"
    "  subs r0, #1\n"
    "  str r0, [sp, #52]\n"
    "  bne 1b\n"
    "  add sp, #16\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "  .size kws_m0_turns, . - kws_m0_turns\n"
    "  .popsection\n");

/* a, b, c, d -> their DFT, each pair of sums and differences in place: x - y first,
 * then x + y = 2 x - (x - y). r0 a's address, then with r7 d; r1 r2 a, r3 r4 b, r5 r6
 * c; r8 step - 8, r10 the address kept, r11 a value kept, r12 end */
#define DIFFERENCE_AND_SUM(x, y) \
  "  subs " y ", " x ", " y      \
  "\n"                           \
  "  adds " x ", " x ", " x      \
  "\n"                           \
  "  subs " x ", " x ", " y "\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_butterflies, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_butterflies\n"
    "  .type kws_m0_butterflies, %function\n"
    "  .thumb_func\n"
    "kws_m0_butterflies:\n" /* values, step */
    "  push {r4-r7, lr}\n"
    "  mov r5, r8\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r5-r7}\n"
    "  adds r2, r0, r1\n"
    "  mov r12, r2\n"
    "  subs r1, #8\n"
    "  mov r8, r1\n"
    "1:\n"
    "  mov r10, r0\n"
    "  ldmia r0!, {r1, r2}\n"
    "  add r0, r8\n"
    "  ldmia r0!, {r3, r4}\n"
    "  add r0, r8\n"
    "  ldmia r0!, {r5, r6}\n"
    "  add r0, r8\n"
    "  ldr r7, [r0, #4]\n"
    "  ldr r0, [r0]\n"
    "  asrs r1, r1, #1\n"
    "  asrs r2, r2, #1\n" DIFFERENCE_AND_SUM("r1", "r5") DIFFERENCE_AND_SUM("r2", "r6")
        DIFFERENCE_AND_SUM("r3", "r0") DIFFERENCE_AND_SUM("r4", "r7")
            DIFFERENCE_AND_SUM("r1", "r3") DIFFERENCE_AND_SUM("r2", "r4")
                DIFFERENCE_AND_SUM("r5", "r7") DIFFERENCE_AND_SUM("r6", "r0")
    /* a + b + c + d in r1 r2, a - b + c - d in r3 r4; of the others the one is r5 r0,
     * the other r7 r6 */
    "  mov r11, r0\n"
    "  mov r0, r10\n"
    "  stmia r0!, {r1, r2}\n"
    "  add r0, r8\n"
    "  mov r2, r11\n"
    "  str r5, [r0]\n"
    "  str r2, [r0, #4]\n"
    "  adds r0, #8\n"
    "  add r0, r8\n"
    "  stmia r0!, {r3, r4}\n"
    "  add r0, r8\n"
    "  str r7, [r0]\n"
    "  str r6, [r0, #4]\n"
    "  mov r0, r10\n"
    "  adds r0, #8\n"
    "  cmp r0, r12\n"
    "  bne 1b\n"
    "  pop {r5-r7}\n"
    "  mov r8, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "  .size kws_m0_butterflies, . - kws_m0_butterflies\n"
    "  .popsection\n");

/* Of bins k and points - k: see kws_features_power. As above, but that sums may not
 * fit. r12 bin k, lr bin points - k; on the stack: twiddle, even part, end */
#define BOTH(to, first, by, second, by_second, sign) \
  PRODUCT(first, by)                                 \
  "  mov " to ", r0\n" PRODUCT(second, by_second) "  " sign " " to ", " to ", r0\n"
/* (to + r1) >> 16, where the sum may take 33 bits */
#define SHIFT_SUM(to, label) \
  "  adds " to ", " to       \
  ", r1\n"                   \
  "  bvc " label             \
  "f\n"                      \
  "  asrs r0, " to           \
  ", #31\n"                  \
  "  lsls r0, r0, #17\n"     \
  "  asrs " to ", " to       \
  ", #16\n"                  \
  "  subs " to ", " to       \
  ", r0\n"                   \
  "  movs r0, #1\n"          \
  "  lsls r0, r0, #16\n"     \
  "  subs " to ", " to       \
  ", r0\n"                   \
  "  b " label "1f\n" label  \
  ":\n"                      \
  "  asrs " to ", " to ", #16\n" label "1:\n"
/* re^2 + im^2, low word and high word to r4 and r5 */
#define POWER(re, im)          \
  "  sxth r4, " re             \
  "\n"                         \
  "  subs " re ", " re         \
  ", r4\n"                     \
  "  asrs " re ", " re         \
  ", #16\n"                    \
  "  sxth r5, " im             \
  "\n"                         \
  "  subs " im ", " im         \
  ", r5\n"                     \
  "  asrs " im ", " im         \
  ", #16\n"                    \
  "  mov r6, r4\n"             \
  "  muls r6, r4, r6\n"        \
  "  mov r7, r5\n"             \
  "  muls r7, r5, r7\n"        \
  "  adds r6, r6, r7\n"        \
  "  muls r4, " re             \
  ", r4\n"                     \
  "  muls r5, " im             \
  ", r5\n"                     \
  "  adds r4, r4, r5\n"        \
  "  muls " re ", " re ", " re \
  "\n"                         \
  "  muls " im ", " im ", " im \
  "\n"                         \
  "  adds r5, " re ", " im     \
  "\n"                         \
  "  asrs r7, r4, #15\n"       \
  "  lsls r4, r4, #17\n"       \
  "  adds r4, r4, r6\n"        \
  "  adcs r5, r7\n"

__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_powers, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_powers\n"
    "  .type kws_m0_powers, %function\n"
    "  .thumb_func\n"
    "kws_m0_powers:\n" /* bin 1, bin points - 1, twiddles, end of the first */
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  sub sp, #16\n"
    "  mov r12, r0\n"
    "  mov lr, r1\n"
    "  str r2, [sp, #0]\n"
    "  str r3, [sp, #12]\n"
    "1:\n"
    "  mov r6, r12\n"
    "  mov r7, lr\n"
    "  ldmia r6!, {r0, r1}\n"
    "  ldmia r7!, {r2, r3}\n"
    "  adds r4, r0, r2\n"
    "  asrs r4, r4, #1\n"
    "  str r4, [sp, #4]\n"
    "  subs r5, r1, r3\n"
    "  asrs r5, r5, #1\n"
    "  str r5, [sp, #8]\n"
    "  subs r0, r0, r2\n"
    "  adds r1, r1, r3\n"
    "  ldr r7, [sp, #0]\n"
    "  ldmia r7!, {r2, r3}\n"
    "  str r7, [sp, #0]\n"
    "  sxth r4, r2\n"
    "  subs r2, r2, r4\n"
    "  asrs r2, r2, #16\n"
    "  sxth r5, r3\n"
    "  subs r3, r3, r5\n"
    "  asrs r3, r3, #16\n"
    "  sxth r6, r0\n"
    "  mov r10, r6\n"
    "  subs r0, r0, r6\n"
    "  asrs r0, r0, #16\n"
    "  mov r8, r0\n"
    "  sxth r7, r1\n"
    "  mov r11, r7\n"
    "  subs r1, r1, r7\n"
    "  asrs r1, r1, #16\n"
    "  mov r9, r1\n"
    "  muls r6, r4, r6\n"
    "  muls r7, r5, r7\n"
    "  adds r6, r6, r7\n"
    "  asrs r6, r6, #16\n"
    "  muls r0, r2, r0\n"
    "  muls r1, r3, r1\n"
    "  adds r7, r0, r1\n" ADD("r6", "r10", "r2") ADD("r6", "r11", "r3")
        BOTH("r1", "r8", "r4", "r9", "r5", "adds") SHIFT_SUM("r6", "3")
    "  adds r6, r6, r7\n"
    "  mov r7, r11\n"
    "  muls r7, r4, r7\n" SUBTRACT("r7", "r10", "r5")
    "  asrs r7, r7, #16\n" ADD("r7", "r11", "r2") SUBTRACT("r7", "r10", "r3")
        BOTH("r1", "r9", "r4", "r8", "r5", "subs") SHIFT_SUM("r7", "5")
            ADD("r7", "r9", "r2") SUBTRACT("r7", "r8", "r3")
    "  ldr r0, [sp, #4]\n"
    "  ldr r1, [sp, #8]\n"
    "  adds r2, r0, r7\n"
    "  subs r3, r1, r6\n"
    "  subs r0, r0, r7\n"
    "  adds r1, r1, r6\n" POWER("r2", "r3")
    "  mov r7, r12\n"
    "  stmia r7!, {r4, r5}\n"
    "  mov r12, r7\n" POWER("r0", "r1")
    "  mov r7, lr\n"
    "  stmia r7!, {r4, r5}\n"
    "  subs r7, #16\n"
    "  mov lr, r7\n"
    "  ldr r0, [sp, #12]\n"
    "  cmp r12, r0\n"
    "  beq 2f\n"
    "  b 1b\n"
    "2:\n"
    "  add sp, #16\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "  .size kws_m0_powers, . - kws_m0_powers\n"
    "  .popsection\n");

/* Of each bin the upper half of low * w, then all of high * w:
 *   r0 bins, r1 low, r2 high, r4 r5 halves of w, r3 r6 r7 of products; r8 r9 rising,
 *   r10 r11 total, r12 the bins' end, lr weights */
__asm(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .pushsection .text.kws_m0_segment, \"ax\", %progbits\n"
    "  .align 2\n"
    "  .global kws_m0_segment\n"
    "  .type kws_m0_segment, %function\n"
    "  .thumb_func\n"
    "kws_m0_segment:\n" /* bins, their end, weights, sums */
    "  push {r3-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  mov r12, r1\n"
    "  mov lr, r2\n"
    "  movs r3, #0\n"
    "  mov r8, r3\n"
    "  mov r9, r3\n"
    "  mov r10, r3\n"
    "  mov r11, r3\n"
    "1:\n"
    "  ldmia r0!, {r1, r2}\n"
    "  mov r3, lr\n"
    "  ldmia r3!, {r4}\n"
    "  mov lr, r3\n"
    "  mov r3, r10\n"
    "  adds r3, r3, r1\n"
    "  mov r10, r3\n"
    "  mov r3, r11\n"
    "  adcs r3, r2\n"
    "  mov r11, r3\n"
    "  uxth r5, r4\n"
    "  lsrs r4, r4, #16\n"
    "  uxth r6, r1\n"
    "  lsrs r1, r1, #16\n"
    "  mov r3, r6\n"
    "  muls r3, r5, r3\n"
    "  lsrs r3, r3, #16\n"
    "  mov r7, r1\n"
    "  muls r7, r5, r7\n"
    "  adds r7, r7, r3\n"
    "  uxth r3, r7\n"
    "  lsrs r7, r7, #16\n"
    "  muls r6, r4, r6\n"
    "  adds r6, r6, r3\n"
    "  lsrs r6, r6, #16\n"
    "  muls r1, r4, r1\n"
    "  adds r1, r1, r7\n"
    "  adds r1, r1, r6\n"
    "  uxth r6, r2\n"
    "  lsrs r2, r2, #16\n"
    "  mov r3, r6\n"
    "  muls r3, r5, r3\n"
    "  uxth r7, r3\n"
    "  lsrs r3, r3, #16\n"
    "  muls r5, r2, r5\n"
    "  adds r5, r5, r3\n"
    "  uxth r3, r5\n"
    "  lsrs r5, r5, #16\n"
    "  muls r6, r4, r6\n"
    "  adds r6, r6, r3\n"
    "  lsls r3, r6, #16\n"
    "  orrs r3, r7\n"
    "  lsrs r6, r6, #16\n"
    "  muls r2, r4, r2\n"
    "  adds r2, r2, r5\n"
    "  adds r2, r2, r6\n"
    "  movs r7, #0\n"
    "  adds r3, r3, r1\n"
    "  adcs r2, r7\n"
    "  mov r7, r8\n"
    "  adds r7, r7, r3\n"
    "  mov r8, r7\n"
    "  mov r7, r9\n"
    "  adcs r7, r2\n"
    "  mov r9, r7\n"
    "  cmp r0, r12\n"
    "  bne 1b\n"
    "  ldr r5, [sp, #16]\n"
    "  mov r1, r8\n"
    "  mov r2, r9\n"
    "  mov r3, r10\n"
    "  mov r4, r11\n"
    "  stmia r5!, {r1, r2, r3, r4}\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r3-r7, pc}\n"
    "  .size kws_m0_segment, . - kws_m0_segment\n"
    "  .popsection\n");

#endif
