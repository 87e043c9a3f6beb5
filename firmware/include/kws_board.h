/* The port surface: what a board provides, and all that it provides.
 *
 * Besides these functions a board brings a start-up (boards/common/cortex_m.c serves
 * every Cortex-M) and a board.toml. See boards/README.md.
 */
#ifndef KWS_BOARD_H
#define KWS_BOARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the firmware ends with, where it can end at all (an emulator's exit status). */
enum {
  KWS_EXIT_OK = 0,
  KWS_EXIT_MODEL = 10,    /* kws_init refused the generated model */
  KWS_EXIT_SELFTEST = 11, /* the canned clip did not give the expected logits */
  KWS_EXIT_INPUT = 12,    /* an argument or a file is missing or unusable */
  KWS_EXIT_IMAGE = 13,    /* flash does not hold the whole image */
  KWS_EXIT_CLOCK = 14,    /* a clock of the board did not start */
  KWS_EXIT_STACK = 15,    /* the stack reached its end */
  KWS_EXIT_FAULT = 20,    /* a fault handler or an unexpected interrupt ran */
};

/* Clocks, counters, the channel that kws_board_write uses. Called once, first. */
void kws_board_init(void);

/* Why the board started, in a word: power, pin, watchdog, software, lockup, wake; ""
 * where the part can't tell. Once kws_board_init is done. */
const char *kws_board_reset_reason(void);

/* Start the microphone: from now on every half-buffer that its DMA completes is handed
 * to kws_push from an interrupt. Returns 0, or -1 when there is no microphone. */
int kws_board_audio_start(void);

/* Wait until audio has arrived. Returns 0 when no more can come (end of a file),
 * else 1. A real board sleeps (WFI) here and returns 1 for ever. */
int kws_board_audio_wait(void);

/* From the start on the board is reset where it isn't fed for KWS_WATCHDOG_S seconds.
 * Does nothing where there is no watchdog. */
enum { KWS_WATCHDOG_S = 8 };
void kws_board_watchdog_start(void);
void kws_board_watchdog_feed(void);

/* Write text (NUL-terminated) to the serial port, the debugger or the emulator. */
void kws_board_write(const char *text);

/* Take up to n bytes of what the PC has sent. Returns how many; 0: nothing has come, an
 * answer would have to wait for text that is on its way, or there is nothing that it
 * could come by. */
size_t kws_board_read(char *to, size_t n);

/* Gain of the microphone: a multiple of its samples. 0: this board has none to set. */
int32_t kws_board_gain(void);
/* Returns 0, or -1 where it is out of range. */
int kws_board_set_gain(int32_t gain);

/* Start again from reset, once all text is out. */
__attribute__((noreturn)) void kws_board_restart(void);

/* Stop with one of the codes above. A real board sleeps for ever, its LED on. */
__attribute__((noreturn)) void kws_board_exit(int code);

/* A word was heard: show it. A real board lights its LED for half a second. */
void kws_board_show_event(void);

/* A free-running counter of executed instructions (emulators) or cycles (DWT), in its
 * own ticks; a difference of two reads is turned into instructions or cycles by
 * kws_board_ticks_to_cost. Time spent in the audio interrupt is not counted. */
uint64_t kws_board_ticks(void);
uint64_t kws_board_ticks_to_cost(uint64_t ticks);

/* Deepest use of the stack since reset, in bytes, and its size: painted at reset. Equal
 * where the paint at its end (the canary) is gone. */
uint32_t kws_board_stack_used(void);
uint32_t kws_board_stack_size(void);

/* --- what the program provides to the board (app/print.c) --- */

/* What a fault handler finds. */
typedef struct {
  /* 2 NMI, 3 HardFault, 4 to 6 its kinds, 16 and up an interrupt nobody expected. */
  uint32_t exception;
  uint32_t pc, lr;                  /* where it happened; 0 where that can't be known */
  uint32_t cfsr, hfsr, mmfar, bfar; /* what happened; 0 on Armv6-M, which can't tell */
  int overflow;                     /* the stack is full: lr is the nearest return */
} kws_fault_t;

/* Tell the fault. The board stops afterwards. */
void kws_fault(const kws_fault_t *fault);

/* Print the line `kws <kind> <rest>`, as a board does whose clock did not start. */
void kws_say(const char *kind, const char *rest);

#ifdef __cplusplus
}
#endif

#endif
