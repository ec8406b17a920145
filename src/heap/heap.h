/* SPDX-License-Identifier: MIT */
/* Heaps as objects: classic engines, with whoever may call them.
 *
 * A heap has parts, each a classic engine of its own, which one caller at a time may use. In the
 * gil modes there is one part, and the caller has seen to it that it is alone. In a free heap
 * whoever comes takes a part that is not busy, or adds one:
 *
 *   idle -- enter: one CAS --> busy -- leave: one store --> idle, one turn later
 *
 * so that nobody ever waits for a part. A block goes back to its part; if that is busy, onto the
 * part's list of deferred blocks, which the next caller frees. A thread that stops in a part leaves
 * it busy for ever: the heap goes on without it.
 *
 * Zero is a valid first state of all of a heap but its configuration: a part is made by whoever
 * enters it first. Heaps are type-stable: one that was destroyed is used for another later. Large
 * blocks: heap_large.h.
 */
#ifndef FH_HEAP_HEAP_H
#define FH_HEAP_HEAP_H

#include <errno.h>

#include "classic.h"
#include "freehold/heap.h"
#include "heap_large.h"
#include "theap.h"

enum { FH_HEAP_PARTS_MAX = 4096 }; /* of a free heap: calls at once */

struct fh_heap_part {
    uint64_t busy; /* odd: somebody is inside; twice the turns that changed something in it */
    void *classic; /* struct fh_classic *; NULL: not made yet */
    struct fh_heap *heap;
} FH_CACHE_LINE_ALIGNED;

struct fh_heap {
    /* What each call reads; settled when the heap is made. */
    size_t direct_below;       /* gil-assert: requests below go straight to `direct`; otherwise 0 */
    struct fh_classic *direct; /* gil-assert: the part's engine; otherwise one without arenas */
    size_t threshold_bytes;    /* 0: the default heap */
    fh_obj_mode mode;
    uint32_t parts_max;
    fh_gil gil;
    struct fh_classic_config classic;
    size_t arenas_max;
    size_t limit_bytes;
    bool brought_no_source;
    struct fh_heap *older; /* made before this one; see fh_heap_each() */

    /* Any thread. */
    uint64_t live FH_CACHE_LINE_ALIGNED; /* 0: destroyed */
    uint64_t arenas;                     /* if there is a limit to them */
    uint64_t reserved_bytes;             /* if there is one: of arenas and large blocks */
    uint64_t parts_count;                /* those from here on were never entered */
    struct fh_large_table large;
    struct fh_heap_part parts[];
};

/* The calling thread's current heap; NULL: the default one. */
extern FH_THREAD_LOCAL struct fh_heap *fh_heap_of_thread FH_HIDDEN;

/* ---- Making: heap.c --------------------------------------------------------------------------
 */

/* As fh_heap_create(), which has the domains' calls come here too. */
struct fh_heap *fh_heap_make(const fh_heap_config *config);

/* Call `visit` for each heap but the default one, until it says false; then false. A heap that is
 * destroyed meanwhile must not be looked into. */
bool fh_heap_each(bool (*visit)(void *context, struct fh_heap *heap), void *context);

/* NULL stands for the default heap, which is not a heap in this sense. */
FH_ALWAYS_INLINE bool fh_heap_is_default(const struct fh_heap *heap)
{
    return heap == NULL || heap->threshold_bytes == 0;
}

/* Whoever keeps blocks that the program freed is told before a heap is destroyed. */
struct fh_heap_watcher {
    void (*ends)(struct fh_heap *heap);
};

extern void *fh_heap_watcher FH_HIDDEN; /* const struct fh_heap_watcher *; NULL: nobody */

/* Count bytes to the heap's limit: false if that is reached. */
bool fh_heap_reserve(struct fh_heap *heap, size_t bytes);
void fh_heap_unreserve(struct fh_heap *heap, size_t bytes);

/* ---- Parts: part.c ---------------------------------------------------------------------------
 */

/* A part that was idle, with an engine and nothing deferred in it; NULL if there is no memory for
 * one more. */
struct fh_heap_part *fh_part_enter(struct fh_heap *heap);

/* This one, which has an engine; false if it is busy. */
bool fh_part_try_enter(struct fh_heap_part *part);

void fh_part_leave(struct fh_heap_part *part);

FH_ALWAYS_INLINE struct fh_classic *fh_part_classic(const struct fh_heap_part *part)
{
    return fh_load_own_ptr(&part->classic);
}

/* Make the part's engine; false without memory. */
bool fh_part_make(struct fh_heap *heap, struct fh_heap_part *part);

/* Call `run` for the engine of each part that is not busy, inside the part, until it says false;
 * then false. In the gil modes the caller holds the lock. */
bool fh_part_each(struct fh_heap *heap, bool (*run)(void *context, struct fh_classic *classic),
                  void *context);

/* The same, again and again, where parts were busy and others got on: until nobody else has changed
 * anything in any part for some passes. Only visits that end it are turns, and each call has few,
 * so that others complete calls as long as it goes on. */
bool fh_part_each_again(struct fh_heap *heap,
                        bool (*run)(void *context, struct fh_classic *classic), void *context);

/* While no other thread is inside: did anybody stop in it? */
FH_ALWAYS_INLINE bool fh_part_is_busy(const struct fh_heap_part *part)
{
    return fh_load_relaxed_u64(&part->busy) % 2 != 0; /* nobody changes it */
}

/* ---- Sources of arenas: source.c -------------------------------------------------------------
 */

/* Where the arenas of a heap come from; all zeros: the shared arenas. */
struct fh_classic_source fh_source_of(const fh_arena_allocator *brought);

/* Of heaps that brought none: an arena more, or less. */
void fh_source_count_arena(void);
void fh_source_uncount_arena(void);

/* ---- Addresses: address.c --------------------------------------------------------------------
 */

/* The pool of the threads' heaps, or the classic arena, that holds the address; NULL for a
 * stranger. Reads nothing at the address. */
struct fh_pool *fh_address_pool(const void *address);

/* The pool of a block, if it lies in the region: NULL says nothing. */
FH_ALWAYS_INLINE struct fh_pool *fh_address_pool_in_region(const void *block)
{
    uint64_t offset = (uintptr_t)block - fh_load_settled_u64(&fh_region_base);
    return FH_UNLIKELY(offset >= fh_load_settled_u64(&fh_region_bytes))
               ? NULL
               : fh_theap_pool_at_offset(offset);
}

/* Of blocks that are no heap's, too small to be a heap's large ones? */
FH_ALWAYS_INLINE bool fh_pool_is_of_threads(const struct fh_pool *pool)
{
    return fh_load_own_u8(&pool->kind) == FH_POOL_BLOCKS &&
           fh_load_own_u32(&pool->block_bytes) < FH_LARGE_BYTES_MIN;
}

/* The heap's part in whose arenas the address lies, or NULL. */
struct fh_heap_part *fh_address_part(const void *address);

/* As fh_theap_usable_bytes(), for blocks of heaps too. */
size_t fh_address_usable_bytes(const void *block);

/* Is it in memory of Freehold's, or of a source that gave it to a heap? */
bool fh_address_is_known(const void *address);

/* Does a block start here that callers may have? */
bool fh_address_is_block(const void *address);

/* What blocks at this address are aligned to. */
size_t fh_address_alignment(const void *address);

/* ---- Blocks: block.c -------------------------------------------------------------------------
 */

/* Any mode, any size up to PTRDIFF_MAX, the default heap too. NULL with ENOMEM. */
void *fh_heap_take_slow(struct fh_heap *heap, size_t bytes);
void *fh_heap_take_zeroed(struct fh_heap *heap, size_t bytes);

/* Whatever block it is. */
void fh_heap_give(void *block);

/* The same of a thread that does not hold the lock that may belong to it. */
void fh_heap_give_deferred(void *block);

/* As fh_heap_realloc() of any block; `heap` is for new ones. */
void *fh_heap_resize(struct fh_heap *heap, void *block, size_t bytes);

/* With a heap, not the default one. */
FH_ALWAYS_INLINE void *fh_heap_take(struct fh_heap *heap, size_t bytes)
{
    if (FH_UNLIKELY(bytes >= heap->direct_below))
        return fh_heap_take_slow(heap, bytes);
    void *block = fh_classic_malloc(heap->direct, bytes);
    if (FH_UNLIKELY(block == NULL))
        errno = ENOMEM;
    return block;
}

#endif
