/* SPDX-License-Identifier: MIT */
/* The three domains: where their calls go.
 *
 * Each domain has one pointer. NULL, as all are at first: calls go straight to the threads' heaps.
 * Else it points at an allocator that is never changed after it was published, so that a call sees
 * one that belongs together, whoever sets another one meanwhile. Once there are heaps as objects,
 * mem's and obj's are never NULL again: the bottom knows of the current heap, and whose a block is.
 */
#ifndef FH_DOMAIN_DOMAIN_H
#define FH_DOMAIN_DOMAIN_H

#include <stdbool.h>

#include "atomic.h"
#include "freehold.h"
#include "heap.h"
#include "theap.h"

enum {
    FH_DOMAINS = 3,
    FH_DOMAIN_HEAPS = 1, /* in the pointer to an allocator: there are heaps */
};

/* const fh_allocator *[], with that bit */
extern void *fh_domain_allocators[FH_DOMAINS] FH_HIDDEN;

/* What mem and obj lead to once there are heaps. */
extern const fh_allocator fh_domain_bottom FH_HIDDEN;

/* While not 0, what this thread frees by way of an allocator is deferred. */
extern FH_THREAD_LOCAL uint32_t fh_domain_defers FH_HIDDEN;

/* Do calls go anywhere but straight to the threads' heaps? A guess: it may change at any time. */
FH_ALWAYS_INLINE bool fh_domain_is_replaced(fh_domain domain)
{
    return FH_UNLIKELY(fh_load_own_ptr(&fh_domain_allocators[domain]) != NULL);
}

/* The program's malloc. */
extern const fh_allocator fh_libc_allocator FH_HIDDEN;

/* The allocator to call, which stays for ever. */
const fh_allocator *fh_domain_allocator(fh_domain domain);

/* Back to the library's own, as fh_set_allocator(). */
int fh_domain_set_own(fh_domain domain);

/* Is it the library's own, with nobody's on top? */
bool fh_domain_is_own(fh_domain domain);

/* The lock that the calling thread must hold to call this allocator of mem or obj, if it is one of
 * the library's and leads to a gil-assert heap; otherwise NULL. */
const fh_gil *fh_domain_gil(const fh_allocator *allocator);

/* From now on mem and obj know of heaps. */
void fh_domain_know_heaps(void);

/* ---- The bottom of mem and obj ----------------------------------------------------------------
 */

FH_ALWAYS_INLINE void *fh_bottom_malloc(size_t bytes)
{
    struct fh_heap *heap = fh_heap_of_thread;
    return heap == NULL ? fh_theap_malloc(bytes) : fh_heap_take(heap, bytes);
}

FH_ALWAYS_INLINE void *fh_bottom_calloc(size_t bytes)
{
    struct fh_heap *heap = fh_heap_of_thread;
    return heap == NULL ? fh_theap_calloc(bytes) : fh_heap_take_zeroed(heap, bytes);
}

FH_ALWAYS_INLINE void *fh_bottom_realloc(void *block, size_t bytes)
{
    return fh_heap_resize(fh_heap_of_thread, block, bytes);
}

FH_ALWAYS_INLINE void fh_bottom_free(void *block)
{
    struct fh_heap *heap = fh_heap_of_thread;
    if (heap != NULL && FH_LIKELY(fh_classic_owns_in_region(heap->direct, block)))
        fh_classic_free_own(heap->direct, block);
    else
        fh_heap_give(block);
}

#endif
