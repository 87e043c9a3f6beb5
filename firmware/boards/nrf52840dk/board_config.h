/* nRF52840-DK, with a PDM microphone on P0.26 (clock) and P0.27 (data). */
#define BOARD_LED_PIN         13 /* LED1 */
#define BOARD_LED_ON          0
#define BOARD_TX_PIN          6 /* to the J-Link's serial port */
#define BOARD_RX_PIN          8 /* from it */
#define BOARD_PDM_CLK_PIN     26
#define BOARD_PDM_DIN_PIN     27

#define BOARD_GAIN            10 /* of the microphone: +20 dB */
#define BOARD_GAIN_ONE        1
#define BOARD_DC_SHIFT        10 /* 2.5 Hz */
#define BOARD_HAS_DCDC        1  /* the coil of its second regulator is on the board */
#define BOARD_SETTLE_MS       300
#define BOARD_CYCLES_PER_TICK 1
