/* A model that is listened to for long (tools/soak.py): every decision's logits go to
 * the file logits.raw, and counters are moved to where they wrap, as presets.raw says.
 *
 * It stands between the loop and the emitted model, whose two functions are renamed;
 * all other files are the firmware's own. Files are semihosting's, on a PC those of
 * soak_host.c. */
#include <string.h>

#include "kws_model.h"
#include "semihosting.h"

void emitted_model_reset(void);
void emitted_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits);

/* kws_init before the self-test, in it and behind it: then the board listens. */
enum { RESETS_AT_BOOT = 3 };

/* What is added to a variable: its address, how much, its bytes. */
typedef struct {
  uint64_t address, add, size;
} preset_t;

static uint32_t resets, frames_due;
static int file = -1, preset;

void kws_model_reset(void) {
  emitted_model_reset();
  frames_due = kws_model_info.first_frames;
  resets++;
}

static void add(const preset_t *to) {
  void *const at = (void *)(uintptr_t)to->address;
  uint64_t wide;
  uint32_t narrow;
  if (to->size == sizeof wide) {
    memcpy(&wide, at, sizeof wide);
    wide += to->add;
    memcpy(at, &wide, sizeof wide);
  } else {
    memcpy(&narrow, at, sizeof narrow);
    narrow += (uint32_t)to->add;
    memcpy(at, &narrow, sizeof narrow);
  }
}

/* The microphone's interrupt moves some of them too. */
static void apply_presets(void) {
  preset_t all[32];
  const int presets = semihosting_open("presets.raw", "r");
  const size_t bytes = semihosting_read(presets, all, sizeof all);
#ifdef __arm__
  __asm volatile("cpsid i" ::: "memory");
#endif
  for (size_t i = 0; i < bytes / sizeof all[0]; i++) add(&all[i]);
#ifdef __arm__
  __asm volatile("cpsie i" ::: "memory");
#endif
  semihosting_close(presets);
}

void kws_model_step(const int8_t *new_frames, uint32_t n, int8_t *logits) {
  if (!preset && resets >= RESETS_AT_BOOT) {
    preset = 1;
    apply_presets();
  }
  emitted_model_step(new_frames, n, logits);
  if (--frames_due > 0) return; /* the loop hands over one frame at a time */
  frames_due = kws_model_info.step_frames;
  if (file < 0) file = semihosting_open("logits.raw", "w");
  semihosting_write(file, logits, kws_model_info.label_count);
}
