/* MPS2 AN505 in QEMU, secure state. */
#define BOARD_FPGAIO      0x50302000u
#define BOARD_TICK_NS     50u /* FPGAIO counter: 20 MHz */
#define BOARD_SYSTICK_HZ  20000000u
#define BOARD_WATCHDOG    0x5002e000u
#define BOARD_WATCHDOG_HZ 32000u
