/* Arduino Nano 33 BLE Sense (Rev1 and Rev2): its own PDM microphone. */
#define BOARD_LED_PIN              13 /* the orange one, beside the USB socket */
#define BOARD_LED_ON               1
#define BOARD_TX_PIN               35 /* P1.03, the pin labelled TX1 */
#define BOARD_RX_PIN               42 /* P1.10, the pin labelled RX0 */
#define BOARD_MICROPHONE_POWER_PIN 17
#define BOARD_PDM_CLK_PIN          26
#define BOARD_PDM_DIN_PIN          25

#define BOARD_GAIN                 10 /* of the microphone: +20 dB */
#define BOARD_GAIN_ONE             1
#define BOARD_DC_SHIFT             10 /* 2.5 Hz */
#define BOARD_SETTLE_MS            300
#define BOARD_CYCLES_PER_TICK      1
