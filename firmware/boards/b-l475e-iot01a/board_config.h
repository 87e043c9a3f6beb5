/* B-L475E-IOT01A, "Discovery kit for IoT node". */
#define BOARD_GAIN            12 /* of the microphone: +21.6 dB */
#define BOARD_SETTLE_MS       300
#define BOARD_CYCLES_PER_TICK 1
