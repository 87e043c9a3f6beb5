/* nRF52840-DK, with a PDM microphone on P0.26 (clock) and P0.27 (data). */
#define BOARD_LED_PIN         13 /* LED1 */
#define BOARD_LED_ON          0
#define BOARD_TX_PIN          6 /* to the J-Link's serial port */
#define BOARD_PDM_CLK_PIN     26
#define BOARD_PDM_DIN_PIN     27

#define BOARD_PDM_GAIN        0x50u /* +20 dB; 0x28 is 0 dB, steps of 0.5 dB */
#define BOARD_SETTLE_MS       300
#define BOARD_CYCLES_PER_TICK 1
