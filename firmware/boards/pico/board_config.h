/* Raspberry Pi Pico with an electret microphone's amplifier on GP26 (ADC0). */
#define BOARD_REGISTERS "rp2040.h"
#define BOARD_GAIN      16 /* of the 12-bit converter: its full scale becomes int16's */
#define BOARD_GAIN_ONE  1
#define BOARD_DC_SHIFT  12 /* 2.5 Hz at 64 kHz */
#define BOARD_SETTLE_MS 500
#define BOARD_PLL_DIVIDER 12 /* 12 MHz * 125 / (6 * 2) = 125 MHz */
#define BOARD_UART_SLOW_DIVIDER \
  (3 * 64 + 34) /* from the ring oscillator, 6.5 MHz or so */
#define BOARD_TIMER           RESETS_RESET_TIMER
#define BOARD_DREQ_ADC        36
#define BOARD_WATCHDOG_RESETS 0x1fffc
/* It counts twice a microsecond (erratum RP2040-E1), in 24 bits: 8.3 s at most. */
#define BOARD_WATCHDOG_HZ 2000000
/* board_ticks() counts microseconds. */
#define BOARD_CYCLES_PER_TICK 125
