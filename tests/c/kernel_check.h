/* What the generated kernel cases call, and what runs them. */
#ifndef KERNEL_CHECK_H
#define KERNEL_CHECK_H

#include "kws_kernels.h"

/* Compares; prints every case that differs (first position, got, wanted, how many).
 * Returns 1 where something differs. */
int kernel_check(const char *name, const int8_t *got, const int8_t *wanted, size_t n);

/* Generated: runs every case, returns how many failed. */
int kernel_cases(void);

#endif
