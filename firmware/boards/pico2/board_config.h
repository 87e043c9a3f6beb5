/* Raspberry Pi Pico 2 with an electret microphone's amplifier on GP26 (ADC0). */
#define BOARD_REGISTERS "rp2350.h"
#define BOARD_GAIN      16 /* of the 12-bit converter: its full scale becomes int16's */
#define BOARD_GAIN_ONE  1
#define BOARD_DC_SHIFT  12 /* 2.5 Hz at 64 kHz */
#define BOARD_SETTLE_MS 500
#define BOARD_PLL_DIVIDER 10 /* 12 MHz * 125 / (5 * 2) = 150 MHz */
#define BOARD_UART_SLOW_DIVIDER \
  (5 * 64 + 62)                 /* from the ring oscillator, 11 MHz or so */
#define BOARD_TIMER           0 /* its core counts cycles */
#define BOARD_DREQ_ADC        48
#define BOARD_WATCHDOG_RESETS 0x1fffff3
#define BOARD_WATCHDOG_HZ     1000000
#define BOARD_CYCLES_PER_TICK 1
