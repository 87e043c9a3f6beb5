/* MPS3 AN547 in QEMU, secure state. */
#define BOARD_FPGAIO     0x59302000u
#define BOARD_TICK_NS    50u /* FPGAIO counter: 20 MHz */
#define BOARD_SYSTICK_HZ 32000000u
