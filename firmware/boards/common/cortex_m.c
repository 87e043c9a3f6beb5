/* Start-up of every Cortex-M: vector table, memory, FPU, stack paint, faults. */
#include "cortex_m.h"

#include "kws_board.h"

int main(void);

/* From the linker script. The stack is the first thing in RAM and grows towards its
 * start, so an overflow faults instead of overwriting data. */
extern uint32_t kws_stack_bottom[], kws_stack_top[];
extern uint32_t kws_data_start[], kws_data_end[], kws_data_load[];
extern uint32_t kws_bss_start[], kws_bss_end[];
extern void (*const kws_constructors_start[])(void);
extern void (*const kws_constructors_end[])(void);
extern const uint8_t kws_text_start[], kws_text_end[];

#define STACK_PAINT 0xdeadc0deu
/* The frame could not be stacked (MSTKERR, STKERR), or the limit was reached (STKOF).
 */
#define CFSR_STACK (1u << 4 | 1u << 12 | 1u << 20)

void kws_reset_handler(void);
void kws_start(void);
void kws_fault_handler(void);
void kws_fault_report(const uint32_t *frame, uint32_t exception);

/* A board with interrupts of its own defines these; unused ones end in the fault
 * handler. */
void kws_systick_handler(void) __attribute__((weak, alias("kws_fault_handler")));
void kws_interrupt_handler(void) __attribute__((weak, alias("kws_fault_handler")));

typedef void (*handler_t)(void);
typedef union {
  uint32_t *stack;
  handler_t handler;
} vector_t;

#define FAULT {.handler = kws_fault_handler}
/* The 16 exceptions of the architecture and 48 interrupts. Of these a board enables its
 * microphone's and its serial port's; one handler looks at both. */
__attribute__((section(".vectors"), used)) static const vector_t vectors[64] = {
    [0] = {.stack = kws_stack_top},
    [1] = {.handler = kws_reset_handler},
    [2 ... 14] = FAULT,
    [15] = {.handler = kws_systick_handler},
    [16 ... 63] = {.handler = kws_interrupt_handler},
};

#if __ARM_ARCH >= 7
#define LET_IN "msr basepri, r0\n msr faultmask, r0\n"
#else
#define LET_IN ""
#endif
#if __ARM_ARCH >= 8
#define NO_LIMIT "msr msplim, r0\n"
#else
#define NO_LIMIT ""
#endif

/* A bootloader may have left interrupts on, masked or pending, and another stack in
 * use, with a limit of its own. In the section of its name, as kws_start is: a board
 * that copies itself to RAM runs these from flash. */
__attribute__((naked, used)) void kws_reset_handler(void) {
  __asm volatile(
      "cpsid i\n"
      "movs r0, #0\n"
      "msr control, r0\n"
      "isb\n" LET_IN NO_LIMIT
      "ldr r0, =kws_stack_top\n"
      "msr msp, r0\n"
      "bl kws_start\n");
}

/* A store below the stack is a fault at once, whatever lies there (on the RP2040 the
 * flash's interface): the core has a limit for it, or the MPU makes the lowest bytes
 * read-only. They can still be read, for the paint. */
#if __ARM_ARCH >= 8
#define GUARD_BYTES 0u
static void guard_stack(void) {
  __asm volatile("msr msplim, %0" ::"r"(kws_stack_bottom));
}
#else
#if __ARM_ARCH >= 7
#define GUARD_EXPONENT 5
#else
#define GUARD_EXPONENT 8
#endif
#define GUARD_BYTES (1u << GUARD_EXPONENT)
static void guard_stack(void) {
  MPU_RBAR = (uint32_t)(uintptr_t)kws_stack_bottom | MPU_RBAR_VALID;
  MPU_RASR = MPU_RASR_READ_ONLY | MPU_RASR_BYTES(GUARD_EXPONENT);
  MPU_CTRL = MPU_CTRL_ON;
  __asm volatile("dsb\n isb" ::: "memory");
}
#endif

/* Runs on the bare stack before any C object is initialised. */
__attribute__((section(".text.kws_reset_handler"), used)) void kws_start(void) {
  MPU_CTRL = 0; /* its regions are not this firmware's */
  __asm volatile("dsb\n isb" ::: "memory");
  SYSTICK_CTRL = 0;
  NVIC_ICER0 = 0xffffffffu;
  NVIC_ICPR0 = 0xffffffffu;
#if __ARM_ARCH >= 7
  NVIC_ICER1 = 0xffffffffu;
  NVIC_ICPR1 = 0xffffffffu;
  NVIC_ICER2 = 0xffffffffu;
#endif
  SCB_ICSR = SCB_ICSR_PENDSTCLR | SCB_ICSR_PENDSVCLR;
#if __ARM_ARCH >= 7
  SCB_SHCSR = SCB_SHCSR_FAULTS; /* so that the exception's number tells */
#endif
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  SCB_CPACR |= 0xfu << 20; /* CP10 and CP11: FPU and MVE registers */
  __asm volatile("dsb\n isb" ::: "memory");
#endif
  for (volatile uint32_t *word = kws_bss_start; word < kws_bss_end; word++) *word = 0;
  const uint32_t *load = kws_data_load;
  for (volatile uint32_t *word = kws_data_start; word < kws_data_end; word++) {
    *word = *load++;
  }
  SCB_VTOR = (uint32_t)(uintptr_t)vectors;
  __asm volatile("dsb\n cpsie i" ::: "memory");
  uint32_t *here = __builtin_frame_address(0);
  for (volatile uint32_t *word = kws_stack_bottom; word < here - 16; word++) {
    *word = STACK_PAINT;
  }
  guard_stack();
  /* Of static C++ objects: this project has none, a linked library may. */
  for (void (*const *make)(void) = kws_constructors_start; make < kws_constructors_end;
       make++) {
    (*make)();
  }
  kws_board_exit(main());
}

uint32_t kws_board_stack_used(void) {
  const uint32_t *word = kws_stack_bottom;
  while (word < kws_stack_top && *word == STACK_PAINT) word++;
  return (uint32_t)((uintptr_t)kws_stack_top - (uintptr_t)word);
}

uint32_t kws_board_stack_size(void) {
  return (uint32_t)((uintptr_t)kws_stack_top - (uintptr_t)kws_stack_bottom);
}

/* The stack may be what is broken: report from a fresh one. */
__attribute__((naked, used)) void kws_fault_handler(void) {
  __asm volatile(
      "mrs r0, msp\n"
      "mrs r1, ipsr\n"
      "ldr r2, =kws_stack_top\n"
      "msr msp, r2\n"
      "bl kws_fault_report\n");
}

/* An image without app/print.c, as of a kernel's test. */
__attribute__((weak)) void kws_fault(const kws_fault_t *fault) {
  (void)fault;
  kws_board_write("\nkws fault\n");
}

/* The first word on a full stack that looks like a return address. The report has used
 * the other end of it. */
static uint32_t nearest_return(void) {
  for (const uint32_t *word = kws_stack_bottom; word < kws_stack_top; word++) {
    const uint8_t *at = (const uint8_t *)(uintptr_t)(*word - 1);
    if ((*word & 1) != 0 && at >= kws_text_start && at < kws_text_end) return *word;
  }
  return 0;
}

/* `frame` is where the core stacked r0-r3, r12, lr, pc, xpsr; after a stack overflow
 * it lies outside the stack, or in its guard, and is not read. */
void kws_fault_report(const uint32_t *frame, uint32_t exception) {
  static int reported;
  if (reported++) kws_board_exit(KWS_EXIT_FAULT); /* telling it is what failed */
  kws_fault_t fault = {.exception = exception & 0x1ff};
#if __ARM_ARCH >= 7
  fault.cfsr = SCB_CFSR;
  fault.hfsr = SCB_HFSR;
  fault.mmfar = SCB_MMFAR;
  fault.bfar = SCB_BFAR;
#endif
  fault.overflow = frame < kws_stack_bottom + GUARD_BYTES / 4 ||
                   frame + 8 > kws_stack_top || (fault.cfsr & CFSR_STACK) != 0;
  if (fault.overflow) {
    fault.lr = nearest_return();
  } else {
    fault.pc = frame[6];
    fault.lr = frame[5];
  }
  kws_fault(&fault);
  kws_board_exit(KWS_EXIT_FAULT);
}
