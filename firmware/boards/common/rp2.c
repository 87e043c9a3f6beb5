/* Boards with an RP2040 or RP2350: text on GP0 (UART0), an electret microphone with its
 * amplifier on GP26 (ADC0), LED on GP25. Both chips have the same UART, converter, DMA,
 * PLLs and watchdog, at other addresses; board_config.h names the header of registers,
 * and rp2.h says what a board adds.
 *
 * The ADC was chosen over I2S through PIO for its simplicity: three wires and no
 * program for the PIO. It samples at 64 kHz, paced by its own divider; decimate.c makes
 * 16 kHz of it. One DMA channel fills the half-buffers; when one is full, a second
 * channel sends it to the other, and round again: the DMA stays in these two even where
 * no interrupt is ever served (a debugger has stopped the core). How far the second
 * channel has come says how many were filled: an interrupt only says that some were.
 */
#include "rp2.h"

#include "board_config.h"
#include BOARD_REGISTERS
#include "decimate.h"
#include "kws_board.h"
#include "live.h"

enum {
  HALF_RAW = DECIMATE_FACTOR * LIVE_HALF_BUFFER,
  ADC_MIDDLE = 2048, /* of 12 bits: the amplifier rests at half its supply */
  LED = 25,
  UART_FIFO = 32,
  UART_DIVIDER = 6 * 64 + 33, /* 12 MHz / (16 * 115200) = 6.51, in 64ths */
  SLEEP_DIVIDER = 8,          /* the UART wants clk_sys faster than 3/5 of its clock */
  CHANNEL_1 = 1 << 1,         /* bit of DMA_INTS0 */
  TURNS = 32,                 /* of half-buffers, until their count begins anew */
  TURNS_BITS = 7,             /* ... in bytes, of addresses of four */
};

static volatile uint16_t raw[2][HALF_RAW];
/* Where channel 0 goes on. Channel 1 reads them in turn: its address wraps at their
 * size, so they are aligned to it. */
#define FOUR raw[1], raw[0], raw[1], raw[0]
static _Alignas(1 << TURNS_BITS) volatile uint16_t *const go_on[TURNS] = {
    FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR};
static uint32_t completed; /* half-buffers, those that were lost included */
static int16_t wide[HALF_RAW];
static decimate_t decimator;

void board_led(int on) {
  if (on) {
    SIO_GPIO_OUT_SET = 1u << LED;
  } else {
    SIO_GPIO_OUT_CLR = 1u << LED;
  }
}

/* The interrupt comes when the FIFO, full now, is half empty. */
void board_send(void) {
  const char *at;
  while ((UART0_UARTFR & UART0_UARTFR_TXFF) == 0 && live_text(&at) > 0) {
    UART0_UARTDR = (uint8_t)*at;
    live_sent(1);
  }
  UART0_UARTIMSC = UART0_UARTIMSC_RXIM | UART0_UARTIMSC_RTIM |
                   (live_text(&at) > 0 ? UART0_UARTIMSC_TXIM : 0);
}

/* The interrupt comes when the FIFO is half full, or has waited. */
void board_receive(void) {
  for (int left = UART_FIFO; left > 0 && (UART0_UARTFR & UART0_UARTFR_RXFE) == 0;
       left--) {
    const uint32_t byte = UART0_UARTDR;
    if ((byte & (UART0_UARTDR_FE | UART0_UARTDR_BE)) == 0) live_received((uint8_t)byte);
  }
}

/* What still runs, of clk_sys, are the converter's FIFO, its DMA and the UART's
 * registers. A divider may change at any time. */
void board_sleep(void) {
  CLOCKS_CLK_SYS_DIV = CLOCKS_CLK_SYS_DIV_INT(SLEEP_DIVIDER);
  __asm volatile("dsb\n wfi" ::: "memory");
  CLOCKS_CLK_SYS_DIV = CLOCKS_CLK_SYS_DIV_INT(1);
}

int board_sending(void) {
  return (UART0_UARTFR & UART0_UARTFR_BUSY) != 0;
}

/* Interrupts from 32 on are in a second register, which an M0+ lacks. */
static void let_in(uint32_t interrupt) {
  if (interrupt < 32) {
    NVIC_ISER0 = 1u << interrupt;
  } else {
    NVIC_ISER1 = 1u << (interrupt - 32);
  }
}

/* Take blocks out of reset. */
static int reset_blocks(uint32_t blocks) {
  RESETS_RESET |= blocks;
  RESETS_RESET &= ~blocks;
  return live_wait(&RESETS_RESET_DONE, blocks, blocks);
}

/* 1, or 0 where something did not start; the ring oscillator then goes on. */
static int clock_init(void) {
  /* After a debugger's reset clk_sys may still come from the PLL: back to clk_ref. */
  CLOCKS_CLK_SYS_CTRL = 0;
  if (!live_wait(&CLOCKS_CLK_SYS_SELECTED, 0xffffffffu, 1)) return 0;
  /* The 12 MHz crystal; it has 47 * 256 cycles (1 ms) to start. */
  XOSC_STARTUP = 47;
  XOSC_CTRL = XOSC_CTRL_FREQ_RANGE_1_15MHZ | XOSC_CTRL_ENABLE_ENABLE;
  if (!live_wait(&XOSC_STATUS, XOSC_STATUS_STABLE, XOSC_STATUS_STABLE)) return 0;
  CLOCKS_CLK_REF_CTRL = CLOCKS_CLK_REF_CTRL_SRC_XOSC_CLKSRC;
  if (!live_wait(&CLOCKS_CLK_REF_SELECTED, 0xffffffffu, 1u << 2)) return 0;
  if (!reset_blocks(RESETS_RESET_PLL_SYS | RESETS_RESET_PLL_USB)) return 0;
  /* 12 MHz * 125 / BOARD_PLL_DIVIDER = clk_sys; 12 MHz * 100 / (5 * 5) = 48 MHz. */
  PLL_SYS_CS = 1;
  PLL_SYS_FBDIV_INT = 125;
  PLL_SYS_PWR &= ~(PLL_SYS_PWR_PD | PLL_SYS_PWR_VCOPD);
  PLL_USB_CS = 1;
  PLL_USB_FBDIV_INT = 100;
  PLL_USB_PWR &= ~(PLL_SYS_PWR_PD | PLL_SYS_PWR_VCOPD);
  if (!live_wait(&PLL_SYS_CS, PLL_SYS_CS_LOCK, PLL_SYS_CS_LOCK)) return 0;
  if (!live_wait(&PLL_USB_CS, PLL_SYS_CS_LOCK, PLL_SYS_CS_LOCK)) return 0;
  PLL_SYS_PRIM =
      PLL_SYS_PRIM_POSTDIV1(BOARD_PLL_DIVIDER / 2) | PLL_SYS_PRIM_POSTDIV2(2);
  PLL_SYS_PWR &= ~PLL_SYS_PWR_POSTDIVPD;
  PLL_USB_PRIM = PLL_SYS_PRIM_POSTDIV1(5) | PLL_SYS_PRIM_POSTDIV2(5);
  PLL_USB_PWR &= ~PLL_SYS_PWR_POSTDIVPD;
  rp2_slow_flash();
  CLOCKS_CLK_SYS_CTRL = CLOCKS_CLK_SYS_CTRL_AUXSRC_CLKSRC_PLL_SYS;
  CLOCKS_CLK_SYS_CTRL = CLOCKS_CLK_SYS_CTRL_AUXSRC_CLKSRC_PLL_SYS |
                        CLOCKS_CLK_SYS_CTRL_SRC_CLKSRC_CLK_SYS_AUX;
  if (!live_wait(&CLOCKS_CLK_SYS_SELECTED, 0xffffffffu, 1u << 1)) return 0;
  CLOCKS_CLK_ADC_CTRL =
      CLOCKS_CLK_ADC_CTRL_AUXSRC_CLKSRC_PLL_USB | CLOCKS_CLK_ADC_CTRL_ENABLE;
  rp2_start_ticks();
  return 1;
}

void kws_board_init(void) {
  const int clocks = clock_init();
  /* From the crystal: clk_sys changes (board_sleep). */
  CLOCKS_CLK_PERI_CTRL = (clocks ? CLOCKS_CLK_PERI_CTRL_AUXSRC_XOSC_CLKSRC
                                 : CLOCKS_CLK_PERI_CTRL_AUXSRC_CLK_SYS) |
                         CLOCKS_CLK_PERI_CTRL_ENABLE;
  const int blocks =
      reset_blocks(RESETS_RESET_IO_BANK0 | RESETS_RESET_PADS_BANK0 | BOARD_TIMER |
                   RESETS_RESET_UART0 | RESETS_RESET_ADC | RESETS_RESET_DMA);
  board_led(0);
  SIO_GPIO_OE_SET = 1u << LED;
  IO_BANK0_GPIO25_CTRL = IO_BANK0_GPIO25_CTRL_FUNCSEL(5); /* its processors' GPIO */
  PADS_BANK0_GPIO25 =
      PADS_BANK0_GPIO0_DRIVE_4MA; /* the RP2350 isolates a pad until this is written */
  IO_BANK0_GPIO0_CTRL = IO_BANK0_GPIO0_CTRL_FUNCSEL_UART0_TX;
  IO_BANK0_GPIO1_CTRL = IO_BANK0_GPIO1_CTRL_FUNCSEL_UART0_RX;
  PADS_BANK0_GPIO0 = PADS_BANK0_GPIO0_DRIVE_4MA;
  PADS_BANK0_GPIO1 = PADS_BANK0_GPIO1_PUE | PADS_BANK0_GPIO1_IE; /* may be open */
  const uint32_t divider = clocks ? UART_DIVIDER : BOARD_UART_SLOW_DIVIDER;
  UART0_UARTIBRD = divider / 64;
  UART0_UARTFBRD = divider % 64;
  UART0_UARTLCR_H = UART0_UARTLCR_H_WLEN(3) | UART0_UARTLCR_H_FEN;
  UART0_UARTCR = UART0_UARTCR_UARTEN | UART0_UARTCR_TXE | UART0_UARTCR_RXE;
  let_in(UART0_IRQ_IRQ);
  if (!clocks || !blocks) live_stop();
}

/* SYSRESETREQ resets the core alone: DMA and watchdog would go on, and what the chip
 * has noted of its last reset would be told for this one. */
void board_reset(void) {
  PSM_WDSEL = BOARD_WATCHDOG_RESETS; /* all but the two oscillators */
  WATCHDOG_CTRL = WATCHDOG_CTRL_TRIGGER;
}

void kws_board_watchdog_start(void) {
  PSM_WDSEL = BOARD_WATCHDOG_RESETS;
  WATCHDOG_LOAD = KWS_WATCHDOG_S * BOARD_WATCHDOG_HZ;
  WATCHDOG_CTRL = WATCHDOG_CTRL_ENABLE | WATCHDOG_CTRL_PAUSE_JTAG |
                  WATCHDOG_CTRL_PAUSE_DBG0 | WATCHDOG_CTRL_PAUSE_DBG1;
}

void kws_board_watchdog_feed(void) {
  WATCHDOG_LOAD = KWS_WATCHDOG_S * BOARD_WATCHDOG_HZ;
}

int kws_board_audio_start(void) {
  PADS_BANK0_GPIO26 = PADS_BANK0_GPIO26_OD; /* neither output, input nor pulls */
  ADC_CS = ADC_CS_EN;
  if (!live_wait(&ADC_CS, ADC_CS_READY, ADC_CS_READY)) return -1;
  ADC_FCS = ADC_FCS_EN | ADC_FCS_DREQ_EN | ADC_FCS_THRESH(1);
  ADC_DIV = ADC_DIV_INT(749); /* 48 MHz / 750 = 64 kHz */

  DMA_CH1_READ_ADDR = (uint32_t)(uintptr_t)go_on;
  DMA_CH1_WRITE_ADDR = (uint32_t)(uintptr_t)&DMA_CH0_AL2_WRITE_ADDR_TRIG;
  DMA_CH1_TRANS_COUNT = 1;
  /* Chained to itself: to none. Not started yet. */
  DMA_CH1_AL1_CTRL =
      DMA_CH0_CTRL_TRIG_EN | DMA_CH0_CTRL_TRIG_DATA_SIZE_SIZE_WORD |
      DMA_CH0_CTRL_TRIG_INCR_READ | DMA_CH0_CTRL_TRIG_RING_SIZE(TURNS_BITS) |
      DMA_CH0_CTRL_TRIG_CHAIN_TO(1) | DMA_CH0_CTRL_TRIG_TREQ_SEL_PERMANENT;
  DMA_CH0_READ_ADDR = (uint32_t)(uintptr_t)&ADC_FIFO;
  DMA_CH0_WRITE_ADDR = (uint32_t)(uintptr_t)raw[0];
  DMA_CH0_TRANS_COUNT = HALF_RAW;
  /* Channel 1's interrupt: its address is then past the half-buffer that is full. */
  DMA_INTS0 = CHANNEL_1;
  DMA_INTE0 = CHANNEL_1;
  let_in(DMA_IRQ_0_IRQ);
  DMA_CH0_CTRL_TRIG = DMA_CH0_CTRL_TRIG_EN | DMA_CH0_CTRL_TRIG_DATA_SIZE_SIZE_HALFWORD |
                      DMA_CH0_CTRL_TRIG_INCR_WRITE | DMA_CH0_CTRL_TRIG_CHAIN_TO(1) |
                      DMA_CH0_CTRL_TRIG_TREQ_SEL(BOARD_DREQ_ADC);
  ADC_CS = ADC_CS_EN | ADC_CS_AINSEL(0) | ADC_CS_START_MANY;
  return 0;
}

static void half_complete(const volatile uint16_t *half) {
  for (int i = 0; i < HALF_RAW; i++) wide[i] = live_sample(half[i] - ADC_MIDDLE);
  decimate(&decimator, wide, wide, LIVE_HALF_BUFFER);
  live_half_buffer(wide);
}

/* Half-buffers that were filled since the last one that was handed over. */
static uint32_t filled(void) {
  const uint32_t at = DMA_CH1_READ_ADDR - (uint32_t)(uintptr_t)go_on;
  return (at / sizeof go_on[0] - completed) % TURNS;
}

void board_microphone(void) {
  if (DMA_INTS0 == 0) return;
  DMA_INTS0 = CHANNEL_1;
  const uint32_t n = filled();
  if (n == 0) return;          /* it came while the last one was looked for */
  if (n > 1) live_lost(n - 1); /* so late that they are written over already */
  completed += n;
  half_complete(raw[(completed - 1) % 2]);
}
