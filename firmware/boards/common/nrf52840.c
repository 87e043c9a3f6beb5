/* Boards with an nRF52840 and a PDM microphone: clock, UART, microphone, LED.
 *
 * Their board_config.h gives the pins (32 * port + pin) and the gain. The PDM block
 * makes 16 kHz samples by itself (1.28 MHz / 80) and its EasyDMA writes them into one
 * of two half-buffers while the other is handed over.
 */
#include "nrf52840.h"

#include "board_config.h"
#include "kws_board.h"
#include "live.h"

/* EasyDMA writes words. */
static _Alignas(4) int16_t halves[2][LIVE_HALF_BUFFER];
static uint32_t started; /* half-buffers that EasyDMA has begun */

static void pin_write(uint32_t pin, int high) {
  const uint32_t bit = 1u << (pin % 32);
  if (pin < 32 && high) {
    P0_OUTSET = bit;
  } else if (pin < 32) {
    P0_OUTCLR = bit;
  } else if (high) {
    P1_OUTSET = bit;
  } else {
    P1_OUTCLR = bit;
  }
}

static void pin_configure(uint32_t pin, uint32_t configuration) {
  if (pin < 32) {
    P0_PIN_CNF(pin) = configuration;
  } else {
    P1_PIN_CNF(pin - 32) = configuration;
  }
}

static void pin_output(uint32_t pin, int high) {
  pin_write(pin, high);
  pin_configure(pin, P0_PIN_CNF_DIR_OUTPUT | P0_PIN_CNF_INPUT_DISCONNECT);
}

void board_led(int on) {
  pin_write(BOARD_LED_PIN, on ? BOARD_LED_ON : !BOARD_LED_ON);
}

uint32_t board_ticks(void) {
  return DWT_CYCCNT;
}

void board_put(char byte) {
  UART0_EVENTS_TXDRDY = 0;
  UART0_TXD = (uint8_t)byte;
  while (UART0_EVENTS_TXDRDY == 0) {
  }
}

void kws_board_init(void) {
  /* From revision 3 on the debug port is open only where UICR and, after every reset,
   * the firmware say so; nrfx does the same (system_nrf52_approtect.h). */
  APPROTECT_DISABLE = UICR_APPROTECT;
  COREDEBUG_DEMCR |= COREDEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= DWT_CTRL_CYCCNTENA;
  NVMC_ICACHECNF = NVMC_ICACHECNF_CACHEEN_ENABLED;
  /* The crystal: the internal oscillator is off by up to 8 %. */
  const uint32_t crystal = CLOCK_HFCLKSTAT_SRC_XTAL | CLOCK_HFCLKSTAT_STATE_RUNNING;
  CLOCK_TASKS_HFCLKSTART = 1;
  while ((CLOCK_HFCLKSTAT & crystal) != crystal) {
  }
  pin_output(BOARD_LED_PIN, !BOARD_LED_ON);
  pin_output(BOARD_TX_PIN, 1);
  UART0_ENABLE = 0; /* pins can't change while it is on */
  UART0_PSEL_TXD = BOARD_TX_PIN;
  UART0_BAUDRATE = UART0_BAUDRATE_BAUDRATE_BAUD115200;
  UART0_ENABLE = UART0_ENABLE_ENABLE_ENABLED;
  UART0_TASKS_STARTTX = 1;
}

int kws_board_audio_start(void) {
#ifdef BOARD_MICROPHONE_POWER_PIN
  pin_output(BOARD_MICROPHONE_POWER_PIN, 1);
#endif
  pin_output(BOARD_PDM_CLK_PIN, 0);
  pin_configure(BOARD_PDM_DIN_PIN, P0_PIN_CNF_INPUT_CONNECT);
  PDM_PSEL_CLK = BOARD_PDM_CLK_PIN;
  PDM_PSEL_DIN = BOARD_PDM_DIN_PIN;
  PDM_PDMCLKCTRL = PDM_PDMCLKCTRL_FREQ_1280K;
  PDM_RATIO = PDM_RATIO_RATIO_RATIO80;
  PDM_MODE = PDM_MODE_OPERATION_MONO | PDM_MODE_EDGE_LEFTFALLING;
  PDM_GAINL = BOARD_PDM_GAIN;
  PDM_GAINR = BOARD_PDM_GAIN;
  PDM_SAMPLE_PTR = (uint32_t)(uintptr_t)halves[0];
  PDM_SAMPLE_MAXCNT = LIVE_HALF_BUFFER;
  PDM_EVENTS_STARTED = 0;
  PDM_INTENSET = PDM_INTENSET_STARTED_SET;
  PDM_ENABLE = PDM_ENABLE_ENABLE_ENABLED;
  NVIC_ISER0 = 1u << PDM_IRQ;
  PDM_TASKS_START = 1;
  return 0;
}

/* STARTED: EasyDMA has taken over the address of the next half-buffer and fills it, so
 * the one before is complete, and its address may be set for the time after. END says
 * the same of the one before; whether it comes earlier or later is not specified, so
 * nothing depends on it. (The last sample is read long after this starts.) */
void kws_microphone_handler(void) {
  live_enter();
  if (PDM_EVENTS_STARTED != 0) {
    PDM_EVENTS_STARTED = 0;
    (void)PDM_EVENTS_STARTED; /* the cleared event reaches the interrupt controller */
    int16_t *const other = halves[(started + 1) % 2];
    PDM_SAMPLE_PTR = (uint32_t)(uintptr_t)other;
    if (started > 0) live_half_buffer(other);
    started++;
  }
  live_leave();
}
