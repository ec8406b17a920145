/* SPDX-License-Identifier: MIT */
/* Threads' heaps (theaps): the pools that one thread allocates from, and the fast paths. In this
 * folder they are just heaps.
 *
 * A heap is a type-stable struct in a dense array, found by one thread-local pointer. Per class it
 * has a bin (blocks ready to pop), the pool they come from, and two short lists of further pools:
 *
 *   - current: the bin's blocks are all of this pool, and what its owner frees of it is ready again
 *     at once: the next malloc has the block that is still in the cache, and blocks that stay lie
 *     side by side, not in between what others were freed from. One live block more than there are
 *     is counted, so that it is never found empty.
 *   - queued: pools with at least `threshold` free blocks, or adopted ones. At most FH_QUEUED_MAX,
 *     spans counted as their pools.
 *   - waiting: pools that were full until this heap freed a block of theirs. At most
 * FH_WAITING_MAX. A waiting pool is queued once it has `threshold` free blocks; until then it is
 * not allocated from, so that nearly full pools do not change hands on every call.
 *
 * busy: said of a heap while its thread is inside. A call that finds it busy is in a signal handler
 * that interrupted another call, or in a thread without a heap of its own; it borrows a heap, and
 * frees as any other thread would. The two static heaps below, and all that nobody holds, are
 * always busy.
 *
 * malloc with a block in the bin and a free by the owner are wait-free and have no atomic
 * operation; a free by another thread is one CAS on the pool's word, see pool/pool.h.
 */
#ifndef FH_THEAP_THEAP_H
#define FH_THEAP_THEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compiler.h"
#include "pool.h"
#include "region.h"
#include "size_class.h"

struct fh_bin {
    struct fh_pool *current;
    struct fh_pool *queued;  /* newest first */
    struct fh_pool *waiting; /* newest first */
    struct fh_pool *oldest_queued;
    struct fh_pool *oldest_waiting;
    uint16_t queued_count;
    uint16_t waiting_count;
    uint8_t zeroed; /* the blocks that were carved last read as zero but for their first word */
};

/* A run of free pools kept at hand, see spare.h. */
struct fh_spare {
    uint32_t pool_index;
    uint32_t pools;
};

struct fh_theap {
    struct fh_sink ready[FH_CLASSES]; /* first: found without adding an offset; their countdowns
                                         decide nothing */
    size_t fast_below; /* requests below this may take the fast path: FH_SMALL_MAX_BYTES, a power of
                          two, or 0: none may, the heap is busy */
    uint32_t id;
    struct fh_region *region;
    uint32_t large_arena; /* where its last large block came from */
    uint32_t spare_runs;
    uint32_t spare_pools;
    uint32_t queued_pools;                 /* of all classes together */
    uint32_t queued_in_a_row;              /* pools since a bin last needed one */
    uint64_t queued_classes;               /* bit n: class n has a pool queued */
    struct fh_spare spares[FH_SPARE_RUNS]; /* oldest first */
    struct fh_bin bins[FH_CLASSES];
    uint64_t holder;         /* which thread's own heap it is, see holder.h */
    uint32_t holder_process; /* of which process; settled before `holder` names a thread */
};

static_assert(sizeof(struct fh_theap) <= FH_THEAP_BYTES, "heaps lie FH_THEAP_BYTES apart");

/* The heap of a thread that has none yet, and of one that gave its own back on exit. */
extern const struct fh_theap fh_theap_none FH_HIDDEN, fh_theap_gone FH_HIDDEN;

extern FH_THREAD_LOCAL const struct fh_theap *fh_theap_current FH_HIDDEN;

/* ---- Every call seen --------------------------------------------------------------------------
 *
 * A tracer is told of every block, at no cost while there is none: with a tracer each thread's
 * pointer stays at a heap that is always busy, and the region looks empty to a free, so that all
 * calls take the slow paths; these ask whether there is one.
 */

struct fh_theap_tracer {
    /* At a multiple of `alignment`, a power of two, perhaps zero-filled; as for all below, `caller`
     * is where the program called. NULL with ENOMEM. */
    void *(*allocate)(size_t alignment, size_t bytes, bool zeroed, const void *caller);
    void *(*resize)(void *memory, size_t bytes, const void *caller);
    void (*release)(void *memory);
};

/* From now on, for good. It must never change. Of a thread that has a heap already, and is not the
 * caller, the tracer is told from its first call that is not on the fast path, or is a free. */
void fh_theap_set_tracer(const struct fh_theap_tracer *tracer);

/* With a tracer, at the end of a call that was on the fast path at first: hide the idle heap. */
void fh_theap_hide_if_traced(void);

/* The calls as they are without a tracer, for the tracer. */
void *fh_theap_untraced_allocate(size_t alignment, size_t bytes, bool zeroed);
void *fh_theap_untraced_resize(void *memory, size_t bytes);
void fh_theap_untraced_release(void *memory);

/* Where a program called the function that this stands in, if that is the first of ours or the
 * compiler made jumps of the calls in between. */
#define FH_THEAP_CALLER() __builtin_extract_return_addr(__builtin_return_address(0))

FH_ALWAYS_INLINE struct fh_theap *fh_theap_of_thread(void)
{
    return (struct fh_theap *)(uintptr_t)fh_theap_current; /* busy heaps are not written to */
}

/* What pools know a heap by. */
FH_ALWAYS_INLINE uint64_t fh_theap_tag(const struct fh_theap *heap)
{
    return (uintptr_t)heap;
}

FH_ALWAYS_INLINE bool fh_theap_is_busy(const struct fh_theap *heap)
{
    return heap->fast_below == 0;
}

/* The fences are for handlers of this thread: what happens in between they see only when busy. */
FH_ALWAYS_INLINE void fh_theap_set_busy(struct fh_theap *heap)
{
    heap->fast_below = 0;
    FH_SIGNAL_FENCE();
}

FH_ALWAYS_INLINE void fh_theap_set_idle(struct fh_theap *heap)
{
    FH_SIGNAL_FENCE();
    heap->fast_below = FH_SMALL_MAX_BYTES;
}

/* Set busy an idle heap; false if it is not. A handler in between leaves it as it was. */
FH_ALWAYS_INLINE bool fh_theap_try_set_busy(struct fh_theap *heap)
{
    return FH_TEST_AND_CLEAR_BIT(&heap->fast_below, FH_SMALL_SHIFT);
}

/* The same on the fast paths. What the guard against handlers costs there can be measured: without
 * it (the option FH_SIGNAL_GUARD) everything works but malloc in a handler. */
#if !defined(FH_SIGNAL_GUARD)
#define FH_SIGNAL_GUARD 1
#endif

FH_ALWAYS_INLINE void fh_theap_guard(struct fh_theap *heap)
{
    if (FH_SIGNAL_GUARD)
        fh_theap_set_busy(heap);
}

FH_ALWAYS_INLINE void fh_theap_unguard(struct fh_theap *heap)
{
    if (FH_SIGNAL_GUARD)
        fh_theap_set_idle(heap);
}

FH_ALWAYS_INLINE bool fh_theap_try_guard(struct fh_theap *heap)
{
    return !FH_SIGNAL_GUARD || fh_theap_try_set_busy(heap);
}

/* ---- Off the fast path ------------------------------------------------------------------------
 */

/* The heap, busy, has no block of this class ready: find one. Ends the call: the heap is not busy
 * any more. NULL with ENOMEM. */
void *fh_theap_refill(struct fh_theap *heap, unsigned class_index);

/* The same for the class whose ready blocks lie at this offset of the heap. */
void *fh_theap_refill_at(struct fh_theap *heap, size_t offset);

/* Any size, any state of the thread's heap. NULL with ENOMEM. */
void *fh_theap_malloc_slow(size_t bytes);

/* The heap is busy, and a local free has counted the pool's countdown down to 0. Ends the call. */
void fh_theap_countdown_ended(struct fh_theap *heap, struct fh_pool *pool);

/* A free of a block in a pool that this thread's heap once filled. */
void fh_theap_free_home(struct fh_theap *heap, struct fh_pool *pool, struct fh_block *block);

/* A free that has something to decide, or is of anything but a block that starts in a pool of
 * blocks. */
void fh_theap_free_other(struct fh_pool *pool, void *memory);

/* A free of an address outside the region: NULL, an extra arena's block, a stranger. */
void fh_theap_free_outside(void *memory);

/* ---- The fast paths ---------------------------------------------------------------------------
 */

static_assert(sizeof(struct fh_sink) == FH_BLOCK_ALIGN_BYTES,
              "of a small class, the offset of the ready blocks is the size, rounded up");

FH_ALWAYS_INLINE struct fh_block **fh_theap_ready_at(struct fh_theap *heap, size_t offset)
{
    return (struct fh_block **)(void *)((char *)heap + offset);
}

/* A ready block of the class whose ready blocks lie at this offset of the heap, or whatever it
 * takes; the heap is idle. */
FH_ALWAYS_INLINE void *fh_theap_take_at(struct fh_theap *heap, size_t offset)
{
    fh_theap_guard(heap);
    struct fh_block *block = *fh_theap_ready_at(heap, offset);
    if (FH_UNLIKELY(block == NULL))
        return fh_theap_refill_at(heap, offset);
    FH_HIDE_VALUE(offset); /* the address in both accesses, not in an instruction before them */
    *fh_theap_ready_at(heap, offset) = block->next;
    __builtin_prefetch(block->next, 1); /* the next malloc pops it, and its caller writes to it */
    fh_theap_unguard(heap);
    return block;
}

FH_ALWAYS_INLINE void *fh_theap_take(struct fh_theap *heap, size_t class_index)
{
    return fh_theap_take_at(heap, class_index * sizeof heap->ready[0]);
}

/* bytes <= FH_SMALL_MAX_BYTES */
FH_ALWAYS_INLINE size_t fh_theap_ready_offset(size_t bytes)
{
    return (bytes + FH_BLOCK_ALIGN_BYTES - 1) & ~(size_t)(FH_BLOCK_ALIGN_BYTES - 1);
}

FH_ALWAYS_INLINE void *fh_theap_malloc(size_t bytes)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(bytes >= heap->fast_below)) /* too large, or busy */
        return fh_theap_malloc_slow(bytes);
    return fh_theap_take_at(heap, fh_theap_ready_offset(bytes));
}

FH_ALWAYS_INLINE struct fh_pool *fh_theap_pool_at_offset(uint64_t offset)
{
    char *descriptors = fh_load_settled_ptr(&fh_region_descriptors);
    return (struct fh_pool *)(void *)(descriptors +
                                      (offset >> FH_POOL_SHIFT << FH_DESCRIPTOR_SHIFT));
}

/* A free by a thread that does not own the pool. */
FH_ALWAYS_INLINE void fh_theap_free_not_owner(struct fh_theap *heap, struct fh_pool *pool,
                                              void *memory)
{
    if (FH_UNLIKELY(fh_load_own_u64(&pool->home) == fh_theap_tag(heap)))
        fh_theap_free_home(heap, pool, memory);
    else if (FH_UNLIKELY(!fh_pool_free_remote(pool, memory)))
        fh_theap_free_other(pool, memory);
}

FH_ALWAYS_INLINE bool owns(const struct fh_theap *heap, const struct fh_pool *pool)
{
    return fh_load_own_u64(&pool->owner) == fh_theap_tag(heap);
}

FH_ALWAYS_INLINE void fh_theap_free_in_pool(struct fh_pool *pool, void *memory)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(!owns(heap, pool) || !fh_theap_try_guard(heap))) {
        fh_theap_free_not_owner(heap, pool, memory);
        return;
    }
    if (FH_SIGNAL_GUARD &&
        FH_UNLIKELY(!owns(heap, pool))) { /* a handler came in between and gave the pool up */
        fh_theap_unguard(heap);
        fh_theap_free_not_owner(heap, pool, memory);
        return;
    }
    struct fh_block *block = memory;
    struct fh_sink *sink = pool->sink;
    block->next = sink->list;
    sink->list = block;
    uint32_t countdown = fh_load_own_u32(&sink->countdown) - 1;
    fh_store_own_u32(&sink->countdown, countdown);
    if (FH_UNLIKELY(countdown == 0)) {
        fh_theap_countdown_ended(heap, pool);
        return;
    }
    fh_theap_unguard(heap);
}

FH_ALWAYS_INLINE void fh_theap_free(void *memory)
{
    uint64_t offset = (uintptr_t)memory - fh_load_settled_u64(&fh_region_base);
    if (FH_UNLIKELY(offset >= fh_load_settled_u64(&fh_region_bytes))) {
        fh_theap_free_outside(memory);
        return;
    }
    fh_theap_free_in_pool(fh_theap_pool_at_offset(offset), memory);
}

/* ---- The rest of the family -------------------------------------------------------------------
 */

/* Zero-filled; any size, any state of the thread's heap. */
void *fh_theap_calloc_slow(size_t bytes);

/* Zero-filled. */
FH_ALWAYS_INLINE void *fh_theap_calloc(size_t bytes)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(bytes >= heap->fast_below))
        return fh_theap_calloc_slow(bytes);
    size_t class_index = fh_class_of_small(bytes);
    fh_theap_guard(heap);
    struct fh_block *block = heap->ready[class_index].list;
    if (FH_UNLIKELY(block == NULL)) {
        fh_theap_unguard(heap);
        return fh_theap_calloc_slow(bytes);
    }
    heap->ready[class_index].list = block->next;
    fh_theap_unguard(heap);
    return __builtin_memset(block, 0, bytes < FH_BLOCK_ALIGN_BYTES ? FH_BLOCK_ALIGN_BYTES : bytes);
}

/* At a multiple of `alignment`, a power of two. */
void *fh_theap_aligned(size_t alignment, size_t bytes);

/* The same for a function that is not left by a jump: it says who called it. */
void *fh_theap_aligned_for(size_t alignment, size_t bytes, const void *caller);

/* As fh_raw_realloc() for a live block and bytes > 0. */
void *fh_theap_realloc(void *memory, size_t bytes);

/* The pool that holds this address, span and large block included (their first); NULL for a
 * stranger. */
struct fh_pool *fh_theap_pool_of(const void *memory);

size_t fh_theap_usable_bytes_slow(const void *memory);

/* How many bytes the live block may use; 0 for NULL and strangers. */
FH_ALWAYS_INLINE size_t fh_theap_usable_bytes(const void *memory)
{
    uint64_t offset = (uintptr_t)memory - fh_load_settled_u64(&fh_region_base);
    if (FH_LIKELY(offset < fh_load_settled_u64(&fh_region_bytes))) {
        const struct fh_pool *pool = fh_theap_pool_at_offset(offset);
        if (FH_LIKELY(fh_load_own_u8(&pool->kind) == FH_POOL_BLOCKS))
            return fh_load_own_u32(&pool->block_bytes);
    }
    return fh_theap_usable_bytes_slow(memory);
}

#endif
