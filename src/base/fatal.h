/* SPDX-License-Identifier: MIT */
/* The end of a program that gave us a bad pointer. */
#ifndef FH_BASE_FATAL_H
#define FH_BASE_FATAL_H

#include "compiler.h"

/* Write "freehold: <function>(<address>): <what>" to stderr and abort. Allocates nothing and uses
 * no stdio, so it may be called anywhere, also in a signal handler. */
FH_NORETURN FH_COLD void fh_fatal_pointer(const char *function, const void *address,
                                          const char *what);

#endif
