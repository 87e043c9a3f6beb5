/* B-L475E-IOT01A: 80 MHz from the MSI oscillator, text to the ST-Link's serial port,
 * one of the two MEMS microphones through the DFSDM.
 *
 * 80 MHz / 50 = 1.6 MHz clock the microphone; a sinc4 filter over 25 bits makes 64 kHz
 * of it, decimate.c 16 kHz. DMA writes round and round through two half-buffers. The
 * MSI oscillator alone is off by up to 3 %; it is locked to the board's 32,768 Hz
 * crystal (122 times that is 0.06 % less than 4 MHz).
 */
#include "board_config.h"
#include "decimate.h"
#include "kws_board.h"
#include "live.h"
#include "stm32l475.h"

enum {
  HALF_RAW = DECIMATE_FACTOR * LIVE_HALF_BUFFER,
  PIECE = 5,     /* samples between two looks at the receiver: about 40 us */
  PLL = 3,       /* RCC_CFGR_SW, SWS */
  ALTERNATE = 2, /* GPIO MODER; 1 = output, reset value 3 = analog */
  HALVES = DMA1_ISR_HTIF4 | DMA1_ISR_TCIF4
};

/* What the DFSDM gives: 24 bits of sample over 8 bits of channel number. */
static volatile int32_t raw[2][HALF_RAW];
static int16_t wide[DECIMATE_FACTOR * PIECE], samples[LIVE_HALF_BUFFER];
static decimate_t decimator;

static uint32_t reset_flags;

const char *kws_board_reset_reason(void) {
  if ((reset_flags & RCC_CSR_IWDGRSTF) != 0) return "watchdog";
  if ((reset_flags & RCC_CSR_SFTRSTF) != 0) return "software";
  if ((reset_flags & RCC_CSR_BORRSTF) != 0) return "power"; /* at power-on too */
  return (reset_flags & RCC_CSR_PINRSTF) != 0 ? "pin" : ""; /* each reset pulls it */
}

void board_led(int on) {
  GPIOB_BSRR = on ? GPIOB_BSRR_BS14 : GPIOB_BSRR_BR14;
}

uint32_t board_ticks(void) {
  return DWT_CYCCNT;
}

void board_send(void) {
  const char *at;
  while ((USART1_ISR & USART1_ISR_TXE) != 0 && live_text(&at) > 0) {
    USART1_TDR = (uint8_t)*at;
    live_sent(1);
  }
  if (live_text(&at) > 0) {
    USART1_CR1 |= USART1_CR1_TXEIE;
  } else {
    USART1_CR1 &= ~USART1_CR1_TXEIE;
  }
}

void board_receive(void) {
  const uint32_t status = USART1_ISR;
  if ((status & USART1_ISR_RXNE) != 0) live_received((uint8_t)USART1_RDR);
  if ((status & USART1_ISR_ORE) != 0) USART1_ICR = USART1_ICR_ORECF; /* one was lost */
}

int board_sending(void) {
  return (USART1_ISR & USART1_ISR_TC) == 0;
}

/* Lock the MSI oscillator to the 32,768 Hz crystal, which may take two seconds to start
 * (at 4 MHz, one wait is about two). 0: it did not, and MSI runs as it likes. */
static int msi_lock(void) {
  RCC_APB1ENR1 |= RCC_APB1ENR1_PWREN;
  (void)RCC_APB1ENR1;
  PWR_CR1 |= PWR_CR1_DBP; /* the crystal's register is write-protected */
  RCC_BDCR |= RCC_BDCR_LSEON;
  if (!live_wait(&RCC_BDCR, RCC_BDCR_LSERDY, RCC_BDCR_LSERDY) &&
      !live_wait(&RCC_BDCR, RCC_BDCR_LSERDY, RCC_BDCR_LSERDY)) {
    return 0;
  }
  RCC_CR |= RCC_CR_MSIPLLEN;
  return 1;
}

/* 80 MHz: MSI (4 MHz after reset) times 40, divided by 2. 0: it stays at 4 MHz. */
static int clock_init(void) {
  FLASH_ACR = FLASH_ACR_LATENCY(4) | FLASH_ACR_PRFTEN | FLASH_ACR_ICEN | FLASH_ACR_DCEN;
  if (!live_wait(&FLASH_ACR, FLASH_ACR_LATENCY(7), FLASH_ACR_LATENCY(4))) return 0;
  RCC_PLLCFGR = RCC_PLLCFGR_PLLSRC(1) | RCC_PLLCFGR_PLLM(0) | RCC_PLLCFGR_PLLN(40) |
                RCC_PLLCFGR_PLLR(0) | RCC_PLLCFGR_PLLREN;
  RCC_CR |= RCC_CR_PLLON;
  if (!live_wait(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) return 0;
  RCC_CFGR = (RCC_CFGR & ~RCC_CFGR_SW(3)) | RCC_CFGR_SW(PLL);
  return live_wait(&RCC_CFGR, RCC_CFGR_SWS(3), RCC_CFGR_SWS(PLL));
}

void kws_board_init(void) {
  reset_flags = RCC_CSR;
  RCC_CSR = reset_flags | RCC_CSR_RMVF; /* the next start's are its own */
  const int locked = msi_lock(), fast = clock_init();
  COREDEBUG_DEMCR |= COREDEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= DWT_CTRL_CYCCNTENA;
  RCC_AHB1SMENR &= ~RCC_AHB1SMENR_FLASHSMEN; /* asleep, only DMA to RAM goes on */
  RCC_AHB2ENR |= RCC_AHB2ENR_GPIOBEN | RCC_AHB2ENR_GPIOEEN;
  RCC_APB2ENR |= RCC_APB2ENR_USART1EN;
  (void)RCC_APB2ENR; /* two cycles until the clocks run */
  /* PB14: LED2. PB6, PB7: USART1_TX, USART1_RX (AF7). */
  GPIOB_AFRL = (GPIOB_AFRL & ~(GPIOB_AFRL_AFRL6(15) | GPIOB_AFRL_AFRL7(15))) |
               GPIOB_AFRL_AFRL6(7) | GPIOB_AFRL_AFRL7(7);
  GPIOB_MODER = (GPIOB_MODER & ~(GPIOB_MODER_MODER6(3) | GPIOB_MODER_MODER7(3) |
                                 GPIOB_MODER_MODER14(3))) |
                GPIOB_MODER_MODER6(ALTERNATE) | GPIOB_MODER_MODER7(ALTERNATE) |
                GPIOB_MODER_MODER14(1);
  board_led(0);
  USART1_BRR = fast ? 694 : 35; /* 80 MHz or 4 MHz / 115200 */
  USART1_CR1 = USART1_CR1_TE | USART1_CR1_RE | USART1_CR1_RXNEIE | USART1_CR1_UE;
  NVIC_ISER1 = 1u << (USART1_IRQ - 32);
  if (!fast) live_stop();
  if (!locked) kws_say("clock", "crystal=none error_percent=3");
}

/* The keys of IWDG_KR. Its clock, 32 kHz / 256, runs by itself and is off by 10 %. */
enum { IWDG_START = 0xcccc, IWDG_UNLOCK = 0x5555, IWDG_FEED = 0xaaaa, IWDG_HZ = 125 };

void kws_board_watchdog_start(void) {
  DBGMCU_APB1_FZR1 |= DBGMCU_APB1_FZR1_DBG_IWDG_STOP; /* while a debugger halts */
  IWDG_KR = IWDG_START;
  IWDG_KR = IWDG_UNLOCK;
  IWDG_PR = 6; /* by 256 */
  IWDG_RLR = KWS_WATCHDOG_S * IWDG_HZ - 1;
  (void)live_wait(&IWDG_SR, 7, 0); /* until its clock has taken them over */
  IWDG_KR = IWDG_FEED;
}

void kws_board_watchdog_feed(void) {
  IWDG_KR = IWDG_FEED;
}

/* Round and round through `raw`. */
static void dma_start(void) {
  DMA1_CCR4 = 0;
  DMA1_IFCR = DMA1_IFCR_CGIF4;
  DMA1_CNDTR4 = 2 * HALF_RAW;
  DMA1_CCR4 = DMA1_CCR4_PL(2) | DMA1_CCR4_MSIZE(2) | DMA1_CCR4_PSIZE(2) |
              DMA1_CCR4_MINC | DMA1_CCR4_CIRC | DMA1_CCR4_HTIE | DMA1_CCR4_TCIE |
              DMA1_CCR4_TEIE;
  DMA1_CCR4 |= DMA1_CCR4_EN;
}

int kws_board_audio_start(void) {
  RCC_AHB1ENR |= RCC_AHB1ENR_DMA1EN;
  RCC_APB2ENR |= RCC_APB2ENR_DFSDMEN;
  (void)RCC_APB2ENR;
  /* PE9: DFSDM1_CKOUT, PE7: DFSDM1_DATIN2 (AF6). */
  GPIOE_AFRL = (GPIOE_AFRL & ~GPIOE_AFRL_AFRL7(15)) | GPIOE_AFRL_AFRL7(6);
  GPIOE_AFRH = (GPIOE_AFRH & ~GPIOE_AFRH_AFRH9(15)) | GPIOE_AFRH_AFRH9(6);
  GPIOE_MODER = (GPIOE_MODER & ~(GPIOE_MODER_MODER7(3) | GPIOE_MODER_MODER9(3))) |
                GPIOE_MODER_MODER7(ALTERNATE) | GPIOE_MODER_MODER9(ALTERNATE);

  DMA1_CSELR = DMA1_CSELR & ~DMA1_CSELR_C4S(15); /* request 0: DFSDM filter 0 */
  DMA1_CPAR4 = (uint32_t)(uintptr_t)&DFSDM_DFSDM0_RDATAR;
  DMA1_CMAR4 = (uint32_t)(uintptr_t)raw;
  dma_start();
  NVIC_ISER0 = 1u << DMA1_CHANNEL4_IRQ;

  /* The divider first: it can't change while the DFSDM is on. Channel 2 reads its own
   * pin at the rising edge, by the clock that the DFSDM gives out. */
  DFSDM_CHCFG0R1 = DFSDM_CHCFG0R1_CKOUTDIV(49);
  DFSDM_CHCFG0R1 |= DFSDM_CHCFG0R1_DFSDMEN;
  DFSDM_CHCFG2R1 = DFSDM_CHCFG2R1_SITP(0) | DFSDM_CHCFG2R1_SPICKSEL(1);
  DFSDM_CHCFG2R1 |= DFSDM_CHCFG2R1_CHEN;
  DFSDM_DFSDM0_FCR =
      DFSDM_DFSDM0_FCR_FORD(4) | DFSDM_DFSDM0_FCR_FOSR(24) | DFSDM_DFSDM0_FCR_IOSR(0);
  /* FAST: a conversion every 25 bits, the filter running on. */
  DFSDM_DFSDM0_CR1 = DFSDM_DFSDM0_CR1_RCH(2) | DFSDM_DFSDM0_CR1_RDMAEN |
                     DFSDM_DFSDM0_CR1_RCONT | DFSDM_DFSDM0_CR1_FAST;
  DFSDM_DFSDM0_CR1 |= DFSDM_DFSDM0_CR1_DFEN;
  DFSDM_DFSDM0_CR1 |= DFSDM_DFSDM0_CR1_RSWSTART;
  return 0;
}

/* All of it takes a millisecond, and the receiver holds one byte of 87 us. */
static void half_complete(const volatile int32_t *half) {
  for (int at = 0; at < LIVE_HALF_BUFFER; at += PIECE) {
    for (int i = 0; i < DECIMATE_FACTOR * PIECE; i++) {
      wide[i] = live_sample(*half++ >> 8);
    }
    decimate(&decimator, wide, samples + at, PIECE);
    board_receive();
  }
  live_half_buffer(samples);
}

void board_microphone(void) {
  if ((DFSDM_DFSDM0_ISR & DFSDM_DFSDM0_ISR_ROVRF) != 0) { /* the DMA came too late */
    DFSDM_DFSDM0_ICR = DFSDM_DFSDM0_ICR_CLRROVRF;
    live_lost(1);
  }
  const uint32_t flags = DMA1_ISR & (HALVES | DMA1_ISR_TEIF4);
  DMA1_IFCR = flags;                   /* the same bits; one that came since stays */
  if ((flags & DMA1_ISR_TEIF4) != 0) { /* a bus error has switched the channel off */
    dma_start();
    live_lost(2);
  } else if (flags == HALVES) {
    live_lost(2); /* each half has been overwritten, or is being overwritten */
  } else if (flags != 0) {
    half_complete(raw[(flags & DMA1_ISR_TCIF4) != 0]);
  }
}
