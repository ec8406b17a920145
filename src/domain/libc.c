/* SPDX-License-Identifier: MIT */
/* The program's malloc as an allocator of a domain: libc's in most programs, and Freehold's own
 * family where that has taken libc's place. The one file of the library that calls malloc, and only
 * where a program asks for it (FREEHOLD_MALLOC=malloc): to find out whose fault something is.
 */
#include <stdlib.h>

#include "domain.h"

static size_t at_least_one(size_t bytes)
{
    return bytes == 0 ? 1 : bytes;
}

static void *libc_malloc(void *context, size_t bytes)
{
    (void)context;
    return malloc(at_least_one(bytes));
}

static void *libc_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return count == 0 || bytes == 0 ? calloc(1, 1) : calloc(count, bytes);
}

static void *libc_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return realloc(block, at_least_one(bytes));
}

static void libc_free(void *context, void *block)
{
    (void)context;
    free(block);
}

const fh_allocator fh_libc_allocator = {NULL, libc_malloc, libc_calloc, libc_realloc, libc_free};
