/* Raspberry Pi Pico with an electret microphone's amplifier on GP26 (ADC0). */
#define BOARD_GAIN      16 /* of the 12-bit converter: its full scale becomes int16's */
#define BOARD_GAIN_ONE  1
#define BOARD_DC_SHIFT  12 /* 2.5 Hz at 64 kHz */
#define BOARD_SETTLE_MS 500
/* board_ticks() counts microseconds. */
#define BOARD_CYCLES_PER_TICK 125
