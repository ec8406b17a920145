/* SPDX-License-Identifier: MIT */
/* Heaps and threads: a heap of one's own, a borrowed one, giving them back. */
#ifndef FH_HEAP_THREAD_H
#define FH_HEAP_THREAD_H

#include "heap.h"

/* The heap whose id is index + 1. */
static inline struct fh_heap *fh_heap_at(const struct fh_region *region, uint64_t index)
{
    return (struct fh_heap *)(void *)(region->heaps + index * FH_HEAP_BYTES);
}

/* A heap for the rest of this call, busy: the thread's own, made now if it has none yet, or a
 * borrowed one where that is in use or gone. NULL if memory is short. */
struct fh_heap *fh_heap_enter(void);

/* The end of the call. */
void fh_heap_leave(struct fh_heap *heap);

/* Give all pools of a busy heap to whoever needs them. */
void fh_heap_drain(struct fh_heap *heap);

/* The same, and the heap itself too: to whoever needs one. */
void fh_heap_release(struct fh_heap *heap);

#endif
