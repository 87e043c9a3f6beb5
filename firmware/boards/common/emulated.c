/* kws_board.h on QEMU's MPS2 and MPS3 machines.
 *
 * The microphone is a file of raw int16 samples, read through semihosting in
 * half-buffers of 160 samples (10 ms), as a DMA would fill them: while one half is
 * being filled, the other, complete one is handed to kws_push from the interrupt.
 *
 * Arguments (name=value):
 *   audio=FILE  the samples
 *   commands=FILE  what a PC would send, from the start of the audio on
 *   pace=N      a half-buffer completes every N executed instructions, by the SysTick
 *               interrupt, whatever the firmware is doing: too slow a model drops
 *               samples. N = 0 (or absent): whenever the firmware has nothing to do.
 *
 * Time is virtual: QEMU runs with `-icount shift=8`, so one instruction is 256 ns and
 * every counter below counts instructions exactly.
 */
#include "emulated.h"

#include <string.h>

#include "board_config.h" /* the board's own: addresses and clocks */
#include "cortex_m.h"
#include "kws.h"
#include "kws_board.h"
#include "semihosting.h"

#define FPGAIO_CLK100HZ  REGISTER(BOARD_FPGAIO + 0x14)
#define FPGAIO_COUNTER   REGISTER(BOARD_FPGAIO + 0x18)
#define FPGAIO_PRESCALE  REGISTER(BOARD_FPGAIO + 0x1c)
#define WATCHDOG_LOAD    REGISTER(BOARD_WATCHDOG + 0x0) /* CMSDK, Arm DDI 0479 */
#define WATCHDOG_CONTROL REGISTER(BOARD_WATCHDOG + 0x8)
#define WATCHDOG_CLEAR   REGISTER(BOARD_WATCHDOG + 0xc)
#define SYSTICK_CONTROL  REGISTER(0xe000e010u)
#define SYSTICK_RELOAD   REGISTER(0xe000e014u)
#define SYSTICK_VALUE    REGISTER(0xe000e018u)

enum { NS_PER_INSTRUCTION = 256, HALF_BUFFER = 160, MAX_ARGUMENTS = 512 };

static char arguments[MAX_ARGUMENTS];

#define RESTART_MARK 0x6b777321u
static uint32_t restart_mark __attribute__((section(".noinit")));
static int restarted;
static int commands = -1; /* semihosting handle */

static int16_t halves[2][HALF_BUFFER];
static size_t half_bytes[2];
static int filling;    /* the half that the "DMA" is filling */
static int audio = -1; /* semihosting handle */
static uint32_t pace;  /* instructions per half-buffer; 0 = on demand */
static volatile int audio_ended;
static volatile uint32_t halves_arrived;
static uint64_t interrupt_ticks; /* spent in the audio interrupt */

void kws_systick_handler(void);

void kws_board_init(void) {
  restarted = restart_mark == RESTART_MARK;
  restart_mark = 0;
  /* Two NULs at least stay at the end: they close the last argument and the list. */
  semihosting_command_line(arguments, sizeof arguments - 2);
  for (size_t i = 0; i < sizeof arguments; i++) {
    if (arguments[i] == ' ') arguments[i] = '\0';
  }
  FPGAIO_PRESCALE = 0;
  FPGAIO_CLK100HZ = 0;
  FPGAIO_COUNTER = 0;
}

/* These machines have no register that tells; RAM is kept over a reset. */
const char *kws_board_reset_reason(void) {
  return restarted ? "software" : "power";
}

/* Of the first start alone: a command to restart would come again and again. */
size_t kws_board_read(char *to, size_t n) {
  return commands < 0 ? 0 : semihosting_read(commands, to, n);
}

int32_t kws_board_gain(void) {
  return 0;
}

int kws_board_set_gain(int32_t gain) {
  (void)gain;
  return -1;
}

_Noreturn void kws_board_restart(void) {
  restart_mark = RESTART_MARK;
  SCB_AIRCR = SCB_AIRCR_RESET;
  for (;;) __asm volatile("dsb");
}

void kws_board_write(const char *text) {
  semihosting_write0(text);
}

void kws_board_show_event(void) {} /* no LED */

_Noreturn void kws_board_exit(int code) {
  semihosting_exit(code);
}

/* The fine counter wraps after minutes of instructions; the 100 Hz one says how often.
 */
static uint64_t raw_ticks(void) {
  const uint32_t fine = FPGAIO_COUNTER;
  const uint64_t coarse =
      (uint64_t)FPGAIO_CLK100HZ * (1000000000u / BOARD_TICK_NS / 100);
  return ((coarse - fine + 0x80000000u) & ~(uint64_t)0xffffffffu) + fine;
}

uint64_t kws_board_ticks(void) {
  /* interrupt_ticks changes only by an interrupt: read again if one came between. */
  for (;;) {
    const uint64_t before = *(volatile uint64_t *)&interrupt_ticks;
    const uint64_t now = raw_ticks();
    if (before == *(volatile uint64_t *)&interrupt_ticks) return now - before;
  }
}

uint64_t kws_board_ticks_to_cost(uint64_t ticks) {
  return (ticks * BOARD_TICK_NS + NS_PER_INSTRUCTION / 2) / NS_PER_INSTRUCTION;
}

const char *emulated_argument(const char *name) {
  const size_t length = strlen(name);
  for (const char *at = arguments; *at != '\0'; at += strlen(at) + 1) {
    if (memcmp(at, name, length) == 0 && at[length] == '=') return at + length + 1;
  }
  return NULL;
}

uint32_t emulated_argument_u32(const char *name, uint32_t missing) {
  const char *text = emulated_argument(name);
  if (text == NULL || *text == '\0') return missing;
  uint32_t value = 0;
  for (; *text != '\0'; text++) {
    if (*text < '0' || *text > '9' || value > (0x7fffffffu - 9) / 10) return missing;
    value = value * 10 + (uint32_t)(*text - '0');
  }
  return value;
}

/* Fill the other half, hand over the complete one. */
static void half_complete(void) {
  const int complete = filling;
  filling = 1 - filling;
  half_bytes[filling] = semihosting_read(audio, halves[filling], sizeof halves[0]);
  kws_push(halves[complete], half_bytes[complete] / sizeof(int16_t));
  if (half_bytes[filling] < sizeof(int16_t)) {
    SYSTICK_CONTROL = 0;
    audio_ended = 1;
  }
  halves_arrived++;
}

void kws_systick_handler(void) {
  const uint64_t start = raw_ticks();
  half_complete();
  interrupt_ticks += raw_ticks() - start;
}

int kws_board_audio_start(void) {
  const char *path = emulated_argument("audio");
  if (path == NULL) return -1;
  audio = semihosting_open(path, "r");
  if (audio < 0) return -1;
  half_bytes[filling] = semihosting_read(audio, halves[filling], sizeof halves[0]);
  const char *told = emulated_argument("commands");
  if (told != NULL && !restarted) commands = semihosting_open(told, "r");
  pace = emulated_argument_u32("pace", 0);
  if (pace == 0) return 0;
  /* SysTick counts 24 bits at BOARD_SYSTICK_HZ of virtual time. */
  const uint64_t reload =
      (uint64_t)pace * NS_PER_INSTRUCTION * (BOARD_SYSTICK_HZ / 1000) / 1000000 - 1;
  if (reload == 0 || reload > 0xffffff) return -1;
  SYSTICK_RELOAD = (uint32_t)reload;
  SYSTICK_VALUE = 0;
  SYSTICK_CONTROL = 7; /* processor clock, interrupt, on */
  return 0;
}

/* Half as long as on a real board: its clock's 32 bits end soon in the emulator's slow
 * time. Its first alarm is the NMI, so that the fault line says where the loop hung; a
 * second one would reset. Not where audio waits for the firmware: time stands still. */
void kws_board_watchdog_start(void) {
  if (pace == 0) return;
  const uint64_t ns = (uint64_t)pace * 100 * KWS_WATCHDOG_S / 2 * NS_PER_INSTRUCTION;
  WATCHDOG_LOAD = (uint32_t)(ns / 1000 * (BOARD_WATCHDOG_HZ / 1000) / 1000);
  WATCHDOG_CONTROL = 3; /* alarm and reset */
}

void kws_board_watchdog_feed(void) {
  WATCHDOG_CLEAR = 1;
}

int kws_board_audio_wait(void) {
  if (pace == 0) {
    if (!audio_ended) half_complete();
    return !audio_ended;
  }
  static uint32_t halves_seen;
  /* With interrupts masked, WFI still wakes on one that is pending: none is missed
   * between the test and the sleep. */
  __asm volatile("cpsid i" ::: "memory");
  while (halves_seen == halves_arrived && !audio_ended) {
    __asm volatile("wfi\n cpsie i\n isb\n cpsid i" ::: "memory");
  }
  halves_seen = halves_arrived;
  const int more = !audio_ended;
  __asm volatile("cpsie i" ::: "memory");
  return more;
}
