/* B-L475E-IOT01A: 80 MHz from the MSI oscillator, text to the ST-Link's serial port,
 * one of the two MEMS microphones through the DFSDM.
 *
 * 80 MHz / 50 = 1.6 MHz clock the microphone; a sinc4 filter over 25 bits makes 64 kHz
 * of it, decimate.c 16 kHz. DMA writes round and round through two half-buffers. The
 * sample rate is as exact as the MSI oscillator: about 1 %.
 */
#include "board_config.h"
#include "decimate.h"
#include "kws_board.h"
#include "live.h"
#include "stm32l475.h"

enum {
  HALF_RAW = DECIMATE_FACTOR * LIVE_HALF_BUFFER,
  PLL = 3,      /* RCC_CFGR_SW, SWS */
  ALTERNATE = 2 /* GPIO MODER; 1 = output, reset value 3 = analog */
};

/* What the DFSDM gives: 24 bits of sample over 8 bits of channel number. */
static volatile int32_t raw[2][HALF_RAW];
static int16_t wide[HALF_RAW];
static decimate_t decimator;

void board_led(int on) {
  GPIOB_BSRR = on ? GPIOB_BSRR_BS14 : GPIOB_BSRR_BR14;
}

uint32_t board_ticks(void) {
  return DWT_CYCCNT;
}

void board_put(char byte) {
  while ((USART1_ISR & USART1_ISR_TXE) == 0) {
  }
  USART1_TDR = (uint8_t)byte;
}

/* 80 MHz: MSI (4 MHz after reset) times 40, divided by 2. */
static void clock_init(void) {
  FLASH_ACR = FLASH_ACR_LATENCY(4) | FLASH_ACR_PRFTEN | FLASH_ACR_ICEN | FLASH_ACR_DCEN;
  while ((FLASH_ACR & FLASH_ACR_LATENCY(7)) != FLASH_ACR_LATENCY(4)) {
  }
  RCC_PLLCFGR = RCC_PLLCFGR_PLLSRC(1) | RCC_PLLCFGR_PLLM(0) | RCC_PLLCFGR_PLLN(40) |
                RCC_PLLCFGR_PLLR(0) | RCC_PLLCFGR_PLLREN;
  RCC_CR |= RCC_CR_PLLON;
  while ((RCC_CR & RCC_CR_PLLRDY) == 0) {
  }
  RCC_CFGR = (RCC_CFGR & ~RCC_CFGR_SW(3)) | RCC_CFGR_SW(PLL);
  while ((RCC_CFGR & RCC_CFGR_SWS(3)) != RCC_CFGR_SWS(PLL)) {
  }
}

void kws_board_init(void) {
  clock_init();
  COREDEBUG_DEMCR |= COREDEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= DWT_CTRL_CYCCNTENA;
  RCC_AHB2ENR |= RCC_AHB2ENR_GPIOBEN | RCC_AHB2ENR_GPIOEEN;
  RCC_APB2ENR |= RCC_APB2ENR_USART1EN;
  (void)RCC_APB2ENR; /* two cycles until the clocks run */
  /* PB14: LED2. PB6: USART1_TX (AF7). */
  GPIOB_AFRL = (GPIOB_AFRL & ~GPIOB_AFRL_AFRL6(15)) | GPIOB_AFRL_AFRL6(7);
  GPIOB_MODER = (GPIOB_MODER & ~(GPIOB_MODER_MODER6(3) | GPIOB_MODER_MODER14(3))) |
                GPIOB_MODER_MODER6(ALTERNATE) | GPIOB_MODER_MODER14(1);
  board_led(0);
  USART1_BRR = 694; /* 80 MHz / 115200 */
  USART1_CR1 = USART1_CR1_TE | USART1_CR1_UE;
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
  DMA1_CNDTR4 = 2 * HALF_RAW;
  DMA1_IFCR = DMA1_IFCR_CGIF4;
  DMA1_CCR4 = DMA1_CCR4_PL(2) | DMA1_CCR4_MSIZE(2) | DMA1_CCR4_PSIZE(2) |
              DMA1_CCR4_MINC | DMA1_CCR4_CIRC | DMA1_CCR4_HTIE | DMA1_CCR4_TCIE;
  DMA1_CCR4 |= DMA1_CCR4_EN;
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

/* Full scale of a sinc4 over 25 bits is 25^4 = 390,625: int16's full scale times 12, so
 * a gain of 12 takes the sample as it is. */
static int16_t with_gain(int32_t word) {
  const int32_t sample = (word >> 8) * BOARD_GAIN / 12;
  return (int16_t)(sample > 32767 ? 32767 : sample < -32768 ? -32768 : sample);
}

void kws_microphone_handler(void) {
  live_enter();
  const uint32_t both = DMA1_ISR_HTIF4 | DMA1_ISR_TCIF4;
  const uint32_t flags = DMA1_ISR & both;
  DMA1_IFCR = flags; /* the same bits; one that came since stays */
  if (flags == both) {
    live_lost(2); /* each half has been overwritten, or is being overwritten */
  } else if (flags != 0) {
    const volatile int32_t *half = raw[(flags & DMA1_ISR_TCIF4) != 0];
    for (int i = 0; i < HALF_RAW; i++) wide[i] = with_gain(half[i]);
    decimate(&decimator, wide, wide, LIVE_HALF_BUFFER);
    live_half_buffer(wide);
  }
  live_leave();
}
