/* Registers of the nRF52840 that the firmware uses.
 * SVD: nrf52840.svd
 * tests/test_svd.py compares every line with that file: NAME is PERIPHERAL_REGISTER,
 * PERIPHERAL_REGISTER_FIELD or PERIPHERAL_REGISTER_FIELD_VALUE. */
#ifndef KWS_NRF52840_H
#define KWS_NRF52840_H

#include "cortex_m.h"

#define CLOCK_TASKS_HFCLKSTART        REGISTER(0x40000000u)
#define CLOCK_HFCLKSTAT               REGISTER(0x4000040cu)
#define CLOCK_HFCLKSTAT_SRC_XTAL      (1u << 0)
#define CLOCK_HFCLKSTAT_STATE_RUNNING (1u << 16)

/* From revision 3 (build code F0) on; not in that SVD. Other revisions ignore it. */
#define APPROTECT_DISABLE                  REGISTER(0x40000558u)
#define UICR_APPROTECT                     REGISTER(0x10001208u)

#define NVMC_ICACHECNF                     REGISTER(0x4001e540u)
#define NVMC_ICACHECNF_CACHEEN_ENABLED     (1u << 0)

#define P0_OUTSET                          REGISTER(0x50000508u)
#define P0_OUTCLR                          REGISTER(0x5000050cu)
#define P0_PIN_CNF(n)                      REGISTER(0x50000700u + 0x4u * (n))
#define P1_OUTSET                          REGISTER(0x50000808u)
#define P1_OUTCLR                          REGISTER(0x5000080cu)
#define P1_PIN_CNF(n)                      REGISTER(0x50000a00u + 0x4u * (n))
#define P0_PIN_CNF_DIR_OUTPUT              (1u << 0)
#define P0_PIN_CNF_INPUT_CONNECT           (0u << 1)
#define P0_PIN_CNF_INPUT_DISCONNECT        (1u << 1)

#define UART0_TASKS_STARTTX                REGISTER(0x40002008u)
#define UART0_EVENTS_TXDRDY                REGISTER(0x4000211cu)
#define UART0_ENABLE                       REGISTER(0x40002500u)
#define UART0_ENABLE_ENABLE_ENABLED        (4u << 0)
#define UART0_PSEL_TXD                     REGISTER(0x4000250cu)
#define UART0_TXD                          REGISTER(0x4000251cu)
#define UART0_BAUDRATE                     REGISTER(0x40002524u)
#define UART0_BAUDRATE_BAUDRATE_BAUD115200 (0x01d7e000u << 0)

#define PDM_TASKS_START                    REGISTER(0x4001d000u)
#define PDM_EVENTS_STARTED                 REGISTER(0x4001d100u)
#define PDM_INTENSET                       REGISTER(0x4001d304u)
#define PDM_INTENSET_STARTED_SET           (1u << 0)
#define PDM_ENABLE                         REGISTER(0x4001d500u)
#define PDM_ENABLE_ENABLE_ENABLED          (1u << 0)
#define PDM_PDMCLKCTRL                     REGISTER(0x4001d504u)
#define PDM_PDMCLKCTRL_FREQ_1280K          (0x0a000000u << 0)
#define PDM_MODE                           REGISTER(0x4001d508u)
#define PDM_MODE_OPERATION_MONO            (1u << 0)
#define PDM_MODE_EDGE_LEFTFALLING          (0u << 1)
#define PDM_GAINL                          REGISTER(0x4001d518u)
#define PDM_GAINR                          REGISTER(0x4001d51cu)
#define PDM_RATIO                          REGISTER(0x4001d520u)
#define PDM_RATIO_RATIO_RATIO80            (1u << 0)
#define PDM_PSEL_CLK                       REGISTER(0x4001d540u)
#define PDM_PSEL_DIN                       REGISTER(0x4001d544u)
#define PDM_SAMPLE_PTR                     REGISTER(0x4001d560u)
#define PDM_SAMPLE_MAXCNT                  REGISTER(0x4001d564u)
#define PDM_IRQ                            29

#endif
