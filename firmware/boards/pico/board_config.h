/* Raspberry Pi Pico with an electret microphone's amplifier on GP26 (ADC0). */
#define BOARD_GAIN      16 /* of the 12-bit converter: its full scale becomes int16's */
#define BOARD_SETTLE_MS 500
/* board_ticks() counts microseconds. */
#define BOARD_CYCLES_PER_TICK 125
