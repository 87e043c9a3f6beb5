/* B-L475E-IOT01A, "Discovery kit for IoT node". */
#define BOARD_GAIN 12 /* of the microphone: +21.6 dB */
/* A sinc4 over 25 bits reaches 25^4 = 390,625: 12 times int16's range. */
#define BOARD_GAIN_ONE        12
#define BOARD_DC_SHIFT        12 /* 2.5 Hz at 64 kHz */
#define BOARD_SETTLE_MS       300
#define BOARD_CYCLES_PER_TICK 1
