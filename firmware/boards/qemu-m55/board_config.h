/* MPS3 AN547 in QEMU, secure state. */
#define BOARD_FPGAIO      0x59302000u
#define BOARD_TICK_NS     50u /* FPGAIO counter: 20 MHz */
#define BOARD_SYSTICK_HZ  32000000u
#define BOARD_WATCHDOG    0x5802e000u
#define BOARD_WATCHDOG_HZ 32000u
