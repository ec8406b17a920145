/* SPDX-License-Identifier: MIT */
/* The malloc family of a reference point, on top of four functions.
 *
 * A reference point defines the four and includes this file at its end, so that the compiler can
 * inline them: an allocator that stands for a limit of speed should not pay for our layers.
 */
#ifndef FH_BENCH_FAMILY_H
#define FH_BENCH_FAMILY_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { FAMILY_ALIGN_BYTES = 16 };

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

#define INLINE static inline __attribute__((always_inline))

/* A block aligned to 16 of at least `bytes`, or NULL with ENOMEM. */
INLINE void *heap_take(size_t bytes);
/* The same, aligned to a power of two above 16; `bytes` is at most PTRDIFF_MAX. */
static void *heap_take_aligned(size_t alignment, size_t bytes);
INLINE void heap_free(void *block);
static size_t heap_usable_bytes(void *block);

#define EXPORT __attribute__((visibility("default")))

EXPORT void *malloc(size_t bytes);
EXPORT void free(void *block);
EXPORT void *calloc(size_t count, size_t bytes);
EXPORT void *realloc(void *block, size_t bytes);
EXPORT int posix_memalign(void **out, size_t alignment, size_t bytes);
EXPORT void *aligned_alloc(size_t alignment, size_t bytes);
EXPORT void *memalign(size_t alignment, size_t bytes);
EXPORT size_t malloc_usable_size(void *block);

void *malloc(size_t bytes)
{
    return heap_take(bytes);
}

void free(void *block)
{
    if (block != NULL)
        heap_free(block);
}

void *calloc(size_t count, size_t bytes)
{
    size_t total_bytes;
    if (__builtin_mul_overflow(count, bytes, &total_bytes))
        return no_memory();
    void *block = malloc(total_bytes);
    return block != NULL ? memset(block, 0, total_bytes) : NULL;
}

void *realloc(void *block, size_t bytes)
{
    if (block == NULL)
        return malloc(bytes);
    size_t old_bytes = heap_usable_bytes(block);
    if (bytes <= old_bytes && bytes >= old_bytes / 2)
        return block;
    void *moved = malloc(bytes);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, bytes < old_bytes ? bytes : old_bytes);
    heap_free(block);
    return moved;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    if (alignment <= FAMILY_ALIGN_BYTES)
        return malloc(bytes);
    if (bytes > PTRDIFF_MAX)
        return no_memory();
    return heap_take_aligned(alignment, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    return aligned_alloc(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    if (alignment % sizeof(void *) != 0)
        return EINVAL;
    int old_errno = errno;
    void *block = aligned_alloc(alignment, bytes);
    int error = block != NULL ? 0 : errno;
    errno = old_errno;
    if (error == 0)
        *out = block;
    return error;
}

size_t malloc_usable_size(void *block)
{
    return block != NULL ? heap_usable_bytes(block) : 0;
}

#endif
