/* SPDX-License-Identifier: MIT */
/* The raw domain: CPython's contract over heaps. Where C leaves a choice the domains do what
 * CPython does; the malloc family (api/override.c) does what glibc does. */
#include "freehold.h"

#include <errno.h>

#include "bits.h"
#include "heap.h"

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

void *fh_raw_malloc(size_t bytes)
{
    return fh_heap_malloc(bytes);
}

void *fh_raw_calloc(size_t count, size_t bytes)
{
    size_t product;
    if (__builtin_mul_overflow(count, bytes, &product))
        return no_memory();
    return fh_heap_calloc(product);
}

void *fh_raw_realloc(void *block, size_t bytes)
{
    if (block == NULL)
        return fh_heap_malloc(bytes);
    return fh_heap_realloc(block, bytes == 0 ? 1 : bytes);
}

void fh_raw_free(void *block)
{
    fh_heap_free(block);
}

void *fh_raw_aligned_alloc(size_t alignment, size_t bytes)
{
    if (!fh_is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return fh_heap_aligned(alignment, bytes);
}
