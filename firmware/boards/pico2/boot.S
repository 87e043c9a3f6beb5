/* What the RP2350's boot ROM wants of the first 256 bytes of flash: a stack and where to
 * start, as a vector table has them (datasheet 5.9.3.3: it is at the image's start where
 * no item says otherwise), and within the first 4 KB a block that says
 * what the image is (5.9.5.1, the smallest one for Arm). The other vectors are in RAM.
 */
  .syntax unified
  .thumb
  .section .boot, "a"
  .balign 4
  .word kws_stack_top
  .word kws_reset_handler
  .org 64
block:
  .word 0xffffded3      /* a block starts */
  .byte 0x42, 1         /* item IMAGE_TYPE, 1 word: */
  .hword 0x1021         /*   RP2350, Arm, secure, executable */
  .byte 0xff            /* the last item ... */
  .hword 1              /*   ... after 1 word */
  .byte 0
  .word 0               /* the next block is this one: there is no other */
  .word 0xab123579      /* it ends */
  .org 256
