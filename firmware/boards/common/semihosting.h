/* Arm semihosting: files, text and exit status by way of the emulator or debugger. */
#ifndef KWS_SEMIHOSTING_H
#define KWS_SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

/* mode: "r" or "w" (binary). Returns a handle, or -1. */
int semihosting_open(const char *path, const char *mode);
/* Returns the number of bytes read; 0 at the end of the file. */
size_t semihosting_read(int handle, void *to, size_t bytes);
/* Returns 0 when all bytes were written. */
int semihosting_write(int handle, const void *from, size_t bytes);
void semihosting_close(int handle);
void semihosting_write0(const char *text);
/* The command line, arguments separated by spaces. Returns 0, or -1. */
int semihosting_command_line(char *to, size_t bytes);
_Noreturn void semihosting_exit(int code);

#endif
