/* Runs the generated kernel cases on the host or on a board (kws_board.h); the exit
 * code is 0 where every case equals TFLM. */
#include "kernel_check.h"

#if defined(__arm__)
#include "semihosting.h"

/* cortex_m.c leaves here after main. */
_Noreturn void kws_board_exit(int code);
_Noreturn void kws_board_exit(int code) {
  semihosting_exit(code);
}
void kws_board_write(const char *text);
void kws_board_write(const char *text) {
  semihosting_write0(text);
}
static void print(const char *text) {
  semihosting_write0(text);
}
#else
#include <stdio.h>
static void print(const char *text) {
  fputs(text, stdout);
}
#endif

static int cases;

static void print_number(int value) {
  char digits[12];
  char *at = digits + sizeof digits - 1;
  unsigned rest = value < 0 ? 0u - (unsigned)value : (unsigned)value;
  *at = '\0';
  do {
    *--at = (char)('0' + rest % 10);
    rest /= 10;
  } while (rest > 0);
  if (value < 0) *--at = '-';
  print(at);
}

int kernel_check(const char *name, const int8_t *got, const int8_t *wanted, size_t n) {
  size_t first = n;
  int differ = 0;
  ++cases;
  for (size_t i = 0; i < n; ++i) {
    if (got[i] == wanted[i]) continue;
    if (differ++ == 0) first = i;
  }
  if (differ == 0) return 0;
  print("FAIL ");
  print(name);
  print(": ");
  print_number(differ);
  print(" of ");
  print_number((int)n);
  print(" differ, first at ");
  print_number((int)first);
  print(": got ");
  print_number(got[first]);
  print(", wanted ");
  print_number(wanted[first]);
  print("\n");
  return 1;
}

int main(void) {
  const int failed = kernel_cases();
  print_number(cases - failed);
  print(" of ");
  print_number(cases);
  print(" kernel cases equal TFLM\n");
  return failed != 0;
}
