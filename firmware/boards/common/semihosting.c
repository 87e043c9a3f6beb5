/* See semihosting.h; numbers from Arm's "Semihosting for AArch32 and AArch64". */
#include "semihosting.h"

#include <string.h>

enum {
  SYS_OPEN = 0x01,
  SYS_CLOSE = 0x02,
  SYS_WRITE0 = 0x04,
  SYS_WRITE = 0x05,
  SYS_READ = 0x06,
  SYS_GET_CMDLINE = 0x15,
  SYS_EXIT_EXTENDED = 0x20,
  STOPPED_APPLICATION_EXIT = 0x20026,
  MODE_READ_BINARY = 1,
  MODE_WRITE_BINARY = 5,
};

static uintptr_t call(uintptr_t operation, const void *argument) {
  register uintptr_t r0 __asm("r0") = operation;
  register const void *r1 __asm("r1") = argument;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

int semihosting_open(const char *path, const char *mode) {
  const uintptr_t block[3] = {(uintptr_t)path,
                              mode[0] == 'w' ? MODE_WRITE_BINARY : MODE_READ_BINARY,
                              strlen(path)};
  return (int)call(SYS_OPEN, block);
}

size_t semihosting_read(int handle, void *to, size_t bytes) {
  const uintptr_t block[3] = {(uintptr_t)handle, (uintptr_t)to, bytes};
  const uintptr_t missing = call(SYS_READ, block); /* bytes NOT read; -1 on error */
  return missing <= bytes ? bytes - missing : 0;
}

int semihosting_write(int handle, const void *from, size_t bytes) {
  const uintptr_t block[3] = {(uintptr_t)handle, (uintptr_t)from, bytes};
  return call(SYS_WRITE, block) == 0 ? 0 : -1;
}

void semihosting_close(int handle) {
  const uintptr_t block[1] = {(uintptr_t)handle};
  call(SYS_CLOSE, block);
}

void semihosting_write0(const char *text) {
  call(SYS_WRITE0, text);
}

int semihosting_command_line(char *to, size_t bytes) {
  uintptr_t block[2] = {(uintptr_t)to, bytes};
  return call(SYS_GET_CMDLINE, block) == 0 ? 0 : -1;
}

_Noreturn void semihosting_exit(int code) {
  const uintptr_t block[2] = {STOPPED_APPLICATION_EXIT, (uintptr_t)code};
  for (;;) call(SYS_EXIT_EXTENDED, block);
}
