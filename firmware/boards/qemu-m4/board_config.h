/* MPS2 AN386 in QEMU. */
#define BOARD_FPGAIO     0x40028000u
#define BOARD_TICK_NS    40u /* FPGAIO counter: 25 MHz */
#define BOARD_SYSTICK_HZ 25000000u
