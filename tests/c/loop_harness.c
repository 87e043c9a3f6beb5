/* The always-on loop on the host: a raw int16 file in, decisions out.
 *
 *   loop_harness FILE chunk SEED   random chunk sizes, polled after each
 *   loop_harness FILE clips N      every N samples one kws_reset; logits only
 *   loop_harness FILE thread SEED  a producer thread beside the polling one
 *   loop_harness FILE flood N      all samples pushed N at a time, polled at the end;
 *                                  7 more are reported as lost
 *   loop_harness FILE listen N     app/listen.c, which has listened to N samples
 * already loop_harness FILE overrun N    N samples lost, a gigasample at a time, then
 * polled loop_harness - selftest 0
 */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../firmware/src/kws.c" /* so that its clock can be set */
#include "kws_board.h"
#include "listen.h"
#include "print.h"

static int16_t *samples;
static size_t count;
static unsigned long number;
static volatile int producer_done;

void kws_board_write(const char *text) {
  fputs(text, stdout);
}
uint64_t kws_board_ticks(void) {
  return 0;
}
_Noreturn void kws_board_restart(void) {
  exit(9);
}

static void print_logits(void) {
  printf("logits");
  for (int i = 0; i < kws_model_info.label_count; i++) {
    printf(" %d", kws_last_logits()[i]);
  }
  printf("\n");
}

/* kws_poll returns after each decision, and says truly what it has done. */
static void poll_all(void) {
  static const kws_event_t none;
  for (;;) {
    const uint64_t decisions = stats.inferences, events = stats.events;
    kws_event_t event;
    memset(&event, 0x55, sizeof event);
    const kws_poll_t done = kws_poll(&event);
    const int heard = done == KWS_HEARD;
    if (stats.inferences - decisions != (done != KWS_IDLE)) exit(6);
    if (stats.events - events != (uint64_t)heard) exit(7);
    if (!heard && (event.label != none.label || event.score != none.score ||
                   event.start_ms != none.start_ms || event.time_ms != none.time_ms)) {
      exit(8);
    }
    if (done == KWS_IDLE) return;
    print_logits();
    if (heard) {
      printf("event %u %" PRIu64 " %" PRIu64 " %u\n", event.label, event.start_ms,
             event.time_ms, event.score);
    }
  }
}

static size_t random_below(size_t n) {
  number = number * 6364136223846793005ul + 1442695040888963407ul;
  return (size_t)(number >> 33) % n;
}

static void *produce(void *unused) {
  (void)unused;
  for (size_t done = 0; done < count;) {
    size_t n = 1 + random_below(700);
    if (n > count - done) n = count - done;
    /* What did not fit is offered again: it counts as an overrun, but none is lost. */
    const size_t kept = kws_push(samples + done, n);
    done += kept;
    if (kept < n) sched_yield();
  }
  producer_done = 1;
  return NULL;
}

/* Its status, or 10 where it left a trace. */
static int selftest(void) {
  static const kws_stats_t none;
  const kws_status_t status = kws_selftest();
  kws_stats_t found;
  memset(&found, 0, sizeof found);
  kws_stats(&found);
  const int trace = memcmp(&found, &none, sizeof none) != 0 || kws_peak() != 0 ||
                    kws_last_logits() != NULL;
  return status == KWS_OK && trace ? 10 : (int)status;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  number = strtoul(argv[3], NULL, 10);
  if (strcmp(argv[2], "selftest") == 0) return selftest();
  FILE *file = fopen(argv[1], "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) return 2;
  count = (size_t)ftell(file) / sizeof *samples;
  rewind(file);
  samples = malloc(count * sizeof *samples);
  if (samples == NULL || fread(samples, sizeof *samples, count, file) != count)
    return 2;
  fclose(file);
  if (kws_init() != KWS_OK) return 3;
  if (kws_push(NULL, 0) != 0) return 6;
  const int none[] = {-1, kws_model_info.label_count}; /* before and after the labels */
  for (int i = 0; i < 2; i++) {
    if (kws_score(none[i]) != 0 || kws_threshold(none[i]) != 0) return 7;
  }

  if (strcmp(argv[2], "chunk") == 0) {
    for (size_t done = 0; done < count;) {
      size_t n = random_below(random_below(4) == 0 ? kws_model_info.ring_samples : 300);
      if (n > count - done) n = count - done;
      /* A copy of exactly n samples, so that the sanitizer sees a read past its end. */
      int16_t *chunk = malloc(n * sizeof *chunk + 1);
      memcpy(chunk, samples + done, n * sizeof *chunk);
      if (kws_push(chunk, n) != n) return 4;
      free(chunk);
      poll_all();
      done += n;
    }
  } else if (strcmp(argv[2], "clips") == 0) {
    for (size_t done = 0; done + number <= count; done += number) {
      kws_reset();
      printf("clip\n");
      for (size_t at = 0; at < number; at += 160) {
        kws_push(samples + done + at, number - at < 160 ? number - at : 160);
        poll_all();
      }
    }
  } else if (strcmp(argv[2], "thread") == 0) {
    pthread_t producer;
    if (pthread_create(&producer, NULL, produce, NULL) != 0) return 5;
    while (!producer_done) poll_all();
    pthread_join(producer, NULL);
    poll_all();
  } else if (strcmp(argv[2], "flood") == 0) {
    size_t kept = 0;
    for (size_t done = 0; done < count; done += number) {
      kept += kws_push(samples + done, count - done < number ? count - done : number);
    }
    kws_lost(7);
    poll_all();
    printf("kept %zu\n", kept);
  } else if (strcmp(argv[2], "listen") == 0) {
    if (listen_start("listen", 0) != KWS_EXIT_OK) return 5;
    ring_head = ring_tail = (uint32_t)number;
    samples_consumed = number;
    for (size_t done = 0; done < count; done += 160) {
      kws_push(samples + done, count - done < 160 ? count - done : 160);
      listen_work();
    }
    print_stats();
    print_last();
  } else if (strcmp(argv[2], "overrun") == 0) {
    for (size_t left = number; left > 0;) {
      const size_t some = left < 1000000000 ? left : 1000000000;
      kws_lost(some);
      poll_all();
      left -= some;
    }
  } else {
    return 2;
  }
  kws_stats_t found;
  kws_stats(&found);
  printf("stats %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
         found.samples, found.overruns, found.frames, found.inferences, found.events);
  free(samples);
  return 0;
}
