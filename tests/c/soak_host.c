/* The firmware's listening loop on a PC for hours (tools/soak.py): raw int16 samples
 * from stdin, what a board would print to stdout. */
#include <stdio.h>
#include <stdlib.h>

#include "listen_host.h"
#include "print.h"
#include "semihosting.h"

static FILE *files[4];
static int opened;

int semihosting_open(const char *path, const char *mode) {
  files[opened] = fopen(path, mode);
  if (files[opened] == NULL) exit(3);
  return opened++;
}

size_t semihosting_read(int handle, void *to, size_t bytes) {
  return fread(to, 1, bytes, files[handle]);
}

int semihosting_write(int handle, const void *from, size_t bytes) {
  if (fwrite(from, 1, bytes, files[handle]) != bytes) exit(4);
  return 0;
}

void semihosting_close(int handle) {
  fclose(files[handle]);
}

static void tell(void) {
  const char *text;
  const size_t n = kws_listen_text(&text);
  if (fwrite(text, 1, n, stdout) != n) exit(5);
}

int main(void) {
  static int16_t samples[16000];
  const int status = kws_listen_start();
  tell();
  if (status != 0) return status;
  for (size_t n; (n = fread(samples, sizeof samples[0], 16000, stdin)) > 0;) {
    kws_listen_feed(samples, n);
    tell();
  }
  print_stats();
  kws_listen_end();
  tell();
  return 0;
}
