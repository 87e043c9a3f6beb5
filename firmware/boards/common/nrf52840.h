/* Registers of the nRF52840 that the firmware uses.
 * SVD: nrf52840.svd
 * tests/test_svd.py compares every line with that file: NAME is PERIPHERAL_REGISTER,
 * PERIPHERAL_REGISTER_FIELD or PERIPHERAL_REGISTER_FIELD_VALUE. */
#ifndef KWS_NRF52840_H
#define KWS_NRF52840_H

#include "cortex_m.h"

#define POWER_RESETREAS               REGISTER(0x40000400u)
#define POWER_RESETREAS_RESETPIN      (1u << 0)
#define POWER_RESETREAS_DOG           (1u << 1)
#define POWER_RESETREAS_SREQ          (1u << 2)
#define POWER_RESETREAS_LOCKUP        (1u << 3)
#define POWER_DCDCEN                  REGISTER(0x40000578u)
#define POWER_DCDCEN_DCDCEN_ENABLED   (1u << 0)

#define CLOCK_TASKS_HFCLKSTART        REGISTER(0x40000000u)
#define CLOCK_HFCLKSTAT               REGISTER(0x4000040cu)
#define CLOCK_HFCLKSTAT_SRC_XTAL      (1u << 0)
#define CLOCK_HFCLKSTAT_STATE_RUNNING (1u << 16)

/* From revision 3 (build code F0) on; not in that SVD. Other revisions ignore it. */
#define APPROTECT_DISABLE                    REGISTER(0x40000558u)
#define UICR_APPROTECT                       REGISTER(0x10001208u)

#define NVMC_ICACHECNF                       REGISTER(0x4001e540u)
#define NVMC_ICACHECNF_CACHEEN_ENABLED       (1u << 0)

#define P0_OUTSET                            REGISTER(0x50000508u)
#define P0_OUTCLR                            REGISTER(0x5000050cu)
#define P0_PIN_CNF(n)                        REGISTER(0x50000700u + 0x4u * (n))
#define P1_OUTSET                            REGISTER(0x50000808u)
#define P1_OUTCLR                            REGISTER(0x5000080cu)
#define P1_PIN_CNF(n)                        REGISTER(0x50000a00u + 0x4u * (n))
#define P0_PIN_CNF_DIR_OUTPUT                (1u << 0)
#define P0_PIN_CNF_INPUT_CONNECT             (0u << 1)
#define P0_PIN_CNF_INPUT_DISCONNECT          (1u << 1)
#define P0_PIN_CNF_PULL_PULLUP               (3u << 2)

#define WDT_TASKS_START                      REGISTER(0x40010000u)
#define WDT_CRV                              REGISTER(0x40010504u)
#define WDT_RREN                             REGISTER(0x40010508u)
#define WDT_RREN_RR0_ENABLED                 (1u << 0)
#define WDT_CONFIG                           REGISTER(0x4001050cu)
#define WDT_CONFIG_SLEEP_RUN                 (1u << 0)
#define WDT_CONFIG_HALT_PAUSE                (0u << 3)
#define WDT_RR(n)                            REGISTER(0x40010600u + 0x4u * (n))
#define WDT_RR_RR_RELOAD                     (0x6e524635u << 0)

#define UARTE0_TASKS_STARTRX                 REGISTER(0x40002000u)
#define UARTE0_EVENTS_ENDRX                  REGISTER(0x40002110u)
#define UARTE0_SHORTS_ENDRX_STARTRX          (1u << 5)
#define UARTE0_INTENSET_ENDRX_SET            (1u << 4)
#define UARTE0_RXD_PTR                       REGISTER(0x40002534u)
#define UARTE0_RXD_MAXCNT                    REGISTER(0x40002538u)
#define UARTE0_TASKS_STOPRX                  REGISTER(0x40002004u)
#define UARTE0_TASKS_STARTTX                 REGISTER(0x40002008u)
#define UARTE0_TASKS_STOPTX                  REGISTER(0x4000200cu)
#define UARTE0_EVENTS_ENDTX                  REGISTER(0x40002120u)
#define UARTE0_SHORTS                        REGISTER(0x40002200u)
#define UARTE0_INTENSET                      REGISTER(0x40002304u)
#define UARTE0_INTENSET_ENDTX_SET            (1u << 8)
#define UARTE0_INTENCLR                      REGISTER(0x40002308u)
#define UARTE0_ENABLE                        REGISTER(0x40002500u)
#define UARTE0_ENABLE_ENABLE_ENABLED         (8u << 0)
#define UARTE0_PSEL_RTS                      REGISTER(0x40002508u)
#define UARTE0_PSEL_RTS_CONNECT_DISCONNECTED (1u << 31)
#define UARTE0_PSEL_TXD                      REGISTER(0x4000250cu)
#define UARTE0_PSEL_CTS                      REGISTER(0x40002510u)
#define UARTE0_PSEL_CTS_CONNECT_DISCONNECTED (1u << 31)
#define UARTE0_PSEL_RXD                      REGISTER(0x40002514u)
#define UARTE0_PSEL_RXD_CONNECT_DISCONNECTED (1u << 31)
#define UARTE0_BAUDRATE                      REGISTER(0x40002524u)
#define UARTE0_BAUDRATE_BAUDRATE_BAUD115200  (0x01d60000u << 0)
#define UARTE0_TXD_PTR                       REGISTER(0x40002544u)
#define UARTE0_TXD_MAXCNT                    REGISTER(0x40002548u)
#define UARTE0_CONFIG                        REGISTER(0x4000256cu)
#define UARTE0_UART0_IRQ                     2

#define USBD_ENABLE                          REGISTER(0x40027500u)
#define USBD_USBPULLUP                       REGISTER(0x40027504u)

#define PDM_TASKS_START                      REGISTER(0x4001d000u)
#define PDM_TASKS_STOP                       REGISTER(0x4001d004u)
#define PDM_EVENTS_STARTED                   REGISTER(0x4001d100u)
#define PDM_INTENSET                         REGISTER(0x4001d304u)
#define PDM_INTENSET_STARTED_SET             (1u << 0)
#define PDM_INTENCLR                         REGISTER(0x4001d308u)
#define PDM_ENABLE                           REGISTER(0x4001d500u)
#define PDM_ENABLE_ENABLE_ENABLED            (1u << 0)
#define PDM_PDMCLKCTRL                       REGISTER(0x4001d504u)
#define PDM_PDMCLKCTRL_FREQ_1280K            (0x0a000000u << 0)
#define PDM_MODE                             REGISTER(0x4001d508u)
#define PDM_MODE_OPERATION_MONO              (1u << 0)
#define PDM_MODE_EDGE_LEFTFALLING            (0u << 1)
#define PDM_GAINL                            REGISTER(0x4001d518u)
#define PDM_GAINL_GAINL_DEFAULTGAIN          (0x28u << 0)
#define PDM_GAINR                            REGISTER(0x4001d51cu)
#define PDM_GAINR_GAINR_DEFAULTGAIN          (0x28u << 0)
#define PDM_RATIO                            REGISTER(0x4001d520u)
#define PDM_RATIO_RATIO_RATIO80              (1u << 0)
#define PDM_PSEL_CLK                         REGISTER(0x4001d540u)
#define PDM_PSEL_DIN                         REGISTER(0x4001d544u)
#define PDM_SAMPLE_PTR                       REGISTER(0x4001d560u)
#define PDM_SAMPLE_MAXCNT                    REGISTER(0x4001d564u)
#define PDM_IRQ                              29

#endif
