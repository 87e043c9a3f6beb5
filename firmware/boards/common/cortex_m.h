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
#define SCB_SHCSR         REGISTER(0xe000ed24u) /* faults with handlers of their own */
#define SCB_CFSR          REGISTER(0xe000ed28u) /* what a fault was; from Armv7-M on */
#define SCB_HFSR          REGISTER(0xe000ed2cu)
#define SCB_MMFAR         REGISTER(0xe000ed34u) /* address of a MemManage fault */
#define SCB_BFAR          REGISTER(0xe000ed38u) /* address of a bus fault */
#define SCB_AIRCR         REGISTER(0xe000ed0cu) /* reset */
#define SCB_CPACR         REGISTER(0xe000ed88u) /* access to coprocessors */

/* Writes are ignored where there is no MPU. Of Armv6-M and Armv7-M. */
#define MPU_CTRL         REGISTER(0xe000ed94u) /* 0: off */
#define MPU_RBAR         REGISTER(0xe000ed9cu) /* address of a region, and its number */
#define MPU_RASR         REGISTER(0xe000eda0u) /* its size and who may access it */

#define SCB_AIRCR_RESET  0x05fa0004u /* the key, and SYSRESETREQ */
#define SCB_SHCSR_FAULTS (7u << 16)  /* MemManage, bus, usage */
#define MPU_CTRL_ON      5u          /* for privileged code the rest stays as it is */
#define MPU_RBAR_VALID   (1u << 4)   /* with the region's number, 0 */
#define MPU_RASR_READ_ONLY (6u << 24 | 1u << 28) /* nor executable */
#define MPU_RASR_BYTES(exponent) \
  (((exponent) - 1u) << 1 | 1u) /* on; 2^exponent bytes */

#define SCB_ICSR_PENDSTCLR (1u << 25) /* write 1: forget a pending SysTick */
#define SCB_ICSR_PENDSVCLR (1u << 27)

/* Cycle counter; not on Cortex-M0 and M0+. */
#define COREDEBUG_DEMCR        REGISTER(0xe000edfcu)
#define COREDEBUG_DEMCR_TRCENA (1u << 24)
#define DWT_CTRL               REGISTER(0xe0001000u)
#define DWT_CTRL_CYCCNTENA     (1u << 0)
#define DWT_CYCCNT             REGISTER(0xe0001004u)

#endif
