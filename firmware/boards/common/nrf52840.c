/* Boards with an nRF52840 and a PDM microphone: clock, UART, microphone, LED.
 *
 * Their board_config.h gives the pins (32 * port + pin), the gain, and whether there is
 * a coil for the DC/DC regulator. The PDM block makes 16 kHz samples by itself (1.28
 * MHz / 80) and its EasyDMA writes them into one of two half-buffers while the other is
 * handed over. A timer counts the half-buffers that EasyDMA begins, for an interrupt
 * only says that it has begun some.
 */
#include "nrf52840.h"

#include "board_config.h"
#include "kws_board.h"
#include "live.h"

/* EasyDMA writes words. */
static _Alignas(4) int16_t halves[2][LIVE_HALF_BUFFER];
static uint32_t started; /* half-buffers that EasyDMA has begun, in time or not */
static uint32_t turns;   /* how often an interrupt was in time for one of them */
static _Alignas(4) volatile uint8_t incoming[4]; /* a byte that EasyDMA has taken in */
static uint32_t sending; /* bytes of text that EasyDMA is sending */

static uint32_t reset_flags;

/* A bootloader that clears the flags makes "power" of all of them. */
const char *kws_board_reset_reason(void) {
  if ((reset_flags & POWER_RESETREAS_DOG) != 0) return "watchdog";
  if ((reset_flags & POWER_RESETREAS_LOCKUP) != 0) return "lockup";
  if ((reset_flags & POWER_RESETREAS_SREQ) != 0) return "software";
  if ((reset_flags & POWER_RESETREAS_RESETPIN) != 0) return "pin";
  return reset_flags == 0 ? "power" : "wake";
}

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

void board_send(void) {
  if (sending > 0) {
    if (UARTE0_EVENTS_ENDTX == 0) return;
    UARTE0_EVENTS_ENDTX = 0;
    (void)UARTE0_EVENTS_ENDTX; /* the cleared event reaches the interrupt controller */
    live_sent(sending);
  }
  const char *at;
  sending = live_text(&at);
  if (sending == 0) return;
  UARTE0_TXD_PTR = (uint32_t)(uintptr_t)at;
  UARTE0_TXD_MAXCNT = sending;
  UARTE0_TASKS_STARTTX = 1;
}

/* One byte a transfer, which the short starts again: at 115,200 baud the next one takes
 * 87 us to come. */
void board_receive(void) {
  if (UARTE0_EVENTS_ENDRX == 0) return;
  UARTE0_EVENTS_ENDRX = 0;
  (void)UARTE0_EVENTS_ENDRX; /* the cleared event reaches the interrupt controller */
  live_received(incoming[0]);
}

int board_sending(void) {
  return sending > 0;
}

/* What a bootloader has used: Arduino's hands over with the USB device connected, and a
 * serial port with flow control would wait for ever. */
static void take_over(void) {
  UARTE0_INTENCLR = 0xffffffffu;
  UARTE0_SHORTS = 0;
  UARTE0_TASKS_STOPRX = 1;
  UARTE0_TASKS_STOPTX = 1;
  UARTE0_ENABLE = 0; /* pins can't change while it is on */
  UARTE0_CONFIG = 0; /* no flow control, no parity, one stop bit */
  UARTE0_PSEL_RTS = UARTE0_PSEL_RTS_CONNECT_DISCONNECTED;
  UARTE0_PSEL_CTS = UARTE0_PSEL_CTS_CONNECT_DISCONNECTED;
  PDM_INTENCLR = 0xffffffffu;
  PDM_TASKS_STOP = 1;
  PDM_ENABLE = 0;
  USBD_USBPULLUP = 0;
  USBD_ENABLE = 0;
}

void kws_board_init(void) {
  /* From revision 3 on the debug port is open only where UICR and, after every reset,
   * the firmware say so; nrfx does the same (system_nrf52_approtect.h). */
  APPROTECT_DISABLE = UICR_APPROTECT;
  reset_flags = POWER_RESETREAS;
  POWER_RESETREAS = reset_flags; /* cleared by ones: the next start's are its own */
  take_over();
  COREDEBUG_DEMCR |= COREDEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= DWT_CTRL_CYCCNTENA;
  NVMC_ICACHECNF = NVMC_ICACHECNF_CACHEEN_ENABLED;
#ifdef BOARD_HAS_DCDC
  POWER_DCDCEN = POWER_DCDCEN_DCDCEN_ENABLED;
#endif
  pin_output(BOARD_LED_PIN, !BOARD_LED_ON);
  pin_output(BOARD_TX_PIN, 1);
  pin_configure(BOARD_RX_PIN, P0_PIN_CNF_INPUT_CONNECT | P0_PIN_CNF_PULL_PULLUP);
  UARTE0_PSEL_TXD = BOARD_TX_PIN;
  UARTE0_PSEL_RXD = BOARD_RX_PIN;
  UARTE0_RXD_PTR = (uint32_t)(uintptr_t)incoming;
  UARTE0_RXD_MAXCNT = 1;
  UARTE0_SHORTS = UARTE0_SHORTS_ENDRX_STARTRX;
  UARTE0_BAUDRATE = UARTE0_BAUDRATE_BAUDRATE_BAUD115200;
  UARTE0_EVENTS_ENDTX = 0;
  UARTE0_EVENTS_ENDRX = 0;
  UARTE0_INTENSET = UARTE0_INTENSET_ENDTX_SET | UARTE0_INTENSET_ENDRX_SET;
  UARTE0_ENABLE = UARTE0_ENABLE_ENABLE_ENABLED;
  NVIC_ISER0 = 1u << UARTE0_UART0_IRQ;
  UARTE0_TASKS_STARTRX = 1;
  /* The crystal: the internal oscillator is off by up to 8 %. */
  const uint32_t crystal = CLOCK_HFCLKSTAT_SRC_XTAL | CLOCK_HFCLKSTAT_STATE_RUNNING;
  CLOCK_TASKS_HFCLKSTART = 1;
  if (!live_wait(&CLOCK_HFCLKSTAT, crystal, crystal)) live_stop();
}

/* It counts the 32,768 Hz clock, which it starts by itself. */
void kws_board_watchdog_start(void) {
  WDT_CONFIG = WDT_CONFIG_SLEEP_RUN | WDT_CONFIG_HALT_PAUSE;
  WDT_CRV = KWS_WATCHDOG_S * 32768u - 1;
  WDT_RREN = WDT_RREN_RR0_ENABLED;
  WDT_TASKS_START = 1;
}

void kws_board_watchdog_feed(void) {
  WDT_RR(0) = WDT_RR_RR_RELOAD;
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
  PDM_GAINL = PDM_GAINL_GAINL_DEFAULTGAIN; /* 0 dB: BOARD_GAIN comes in live_sample, */
  PDM_GAINR = PDM_GAINR_GAINR_DEFAULTGAIN; /* when the DC offset is off */
  PDM_SAMPLE_PTR = (uint32_t)(uintptr_t)halves[0];
  PDM_SAMPLE_MAXCNT = LIVE_HALF_BUFFER;
  PDM_EVENTS_STARTED = 0;
  TIMER1_TASKS_STOP = 1;
  TIMER1_TASKS_CLEAR = 1;
  TIMER1_MODE = TIMER1_MODE_MODE_LOWPOWERCOUNTER;
  TIMER1_BITMODE = TIMER1_BITMODE_BITMODE_32BIT;
  TIMER1_TASKS_START = 1;
  PPI_CH_EEP = (uint32_t)(uintptr_t)&PDM_EVENTS_STARTED;
  PPI_CH_TEP = (uint32_t)(uintptr_t)&TIMER1_TASKS_COUNT;
  PPI_CHENSET = PPI_CHENSET_CH0_SET;
  PDM_INTENSET = PDM_INTENSET_STARTED_SET;
  PDM_ENABLE = PDM_ENABLE_ENABLE_ENABLED;
  NVIC_ISER0 = 1u << PDM_IRQ;
  PDM_TASKS_START = 1;
  return 0;
}

/* STARTED: EasyDMA has taken over the address of the next half-buffer and fills it, so
 * the one before is complete, and its address may be set for the time after. END says
 * the same of the one before; whether it comes earlier or later is not specified, so
 * nothing depends on it. (The last sample is read long after this starts.)
 *
 * Too late, EasyDMA has begun the same half-buffer again, and written over what it had;
 * the other one is older and whole. */
void board_microphone(void) {
  if (PDM_EVENTS_STARTED == 0) return;
  PDM_EVENTS_STARTED = 0;
  (void)PDM_EVENTS_STARTED; /* the cleared event reaches the interrupt controller */
  TIMER1_TASKS_CAPTURE(0) = 1;
  const uint32_t now = TIMER1_CC(0);
  const uint32_t begun = now - started;
  started = now;
  if (begun == 0) return; /* it came while the last one was looked for */
  int16_t *const other = halves[(turns + 1) % 2];
  PDM_SAMPLE_PTR = (uint32_t)(uintptr_t)other;
  if (turns++ > 0) {
    for (int i = 0; i < LIVE_HALF_BUFFER; i++) {
      if (i == LIVE_HALF_BUFFER / 2) board_receive(); /* 87 us are soon over */
      other[i] = live_sample(other[i]);
    }
    live_half_buffer(other);
  }
  if (begun > 1) live_lost(begun - 1);
}
