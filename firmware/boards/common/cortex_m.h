/* Registers that every Cortex-M has (Armv6-M, Armv7-M and Armv8-M manuals). */
#ifndef KWS_CORTEX_M_H
#define KWS_CORTEX_M_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define SYSTICK_CTRL      REGISTER(0xe000e010u)
#define NVIC_ISER0        REGISTER(0xe000e100u) /* write 1: enable interrupt 0..31 */
#define NVIC_ISER1        REGISTER(0xe000e104u) /* 32..63; from Armv7-M on */
#define NVIC_ICER0        REGISTER(0xe000e180u) /* write 1: disable it */
#define NVIC_ICER1        REGISTER(0xe000e184u)
#define NVIC_ICER2        REGISTER(0xe000e188u)
#define NVIC_ICPR0        REGISTER(0xe000e280u) /* write 1: forget that it is pending */
#define NVIC_ICPR1        REGISTER(0xe000e284u)
#define SCB_ICSR          REGISTER(0xe000ed04u) /* what is pending */
#define SCB_VTOR          REGISTER(0xe000ed08u) /* where the vectors are */
#define SCB_CPACR         REGISTER(0xe000ed88u) /* access to coprocessors */

#define MPU_CTRL REGISTER(0xe000ed94u) /* 0: off; ignored where there is none */

#define SCB_ICSR_PENDSTCLR (1u << 25) /* write 1: forget a pending SysTick */
#define SCB_ICSR_PENDSVCLR (1u << 27)

/* Cycle counter; not on Cortex-M0 and M0+. */
#define COREDEBUG_DEMCR        REGISTER(0xe000edfcu)
#define COREDEBUG_DEMCR_TRCENA (1u << 24)
#define DWT_CTRL               REGISTER(0xe0001000u)
#define DWT_CTRL_CYCCNTENA     (1u << 0)
#define DWT_CYCCNT             REGISTER(0xe0001004u)

#endif
