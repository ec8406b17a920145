/* SPDX-License-Identifier: MIT */
/* The classic engine: pymalloc's own algorithms, for a heap whose callers hold a lock.
 *
 * An arena is cut into pools, a pool into blocks of one size, and the pool's header stands at its
 * start. One caller at a time is the contract, so nothing here is atomic, thread-local or locked,
 * and for the same calls a heap hands out the same blocks as CPython does, address by address
 * (tests/classic compares them).
 *
 *   fresh -- taken --> used -- last free block taken --> full
 *                        ^ <-- a block freed ------------+       used: in its class's list
 *   empty -- taken ------+                                       full: in no list
 *     ^ <-- last live block freed -- used                        empty: in its arena's list
 *
 * Always: live_count + length(free_list) == carved blocks <= those that fit; and a pool with a live
 * block has an empty free_list only if it is full. Blocks never handed out come after all others.
 *
 * What another thread may do without the lock: ask whose an address is (fh_classic_of), and free a
 * block later (fh_classic_free_deferred).
 */
#ifndef FH_CLASSIC_CLASSIC_H
#define FH_CLASSIC_CLASSIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool.h"
#include "region.h"

enum {
    FH_CLASSIC_SLOT_SHIFT = 3, /* slots of 8 bytes; with blocks aligned to 16, every other one */
    FH_CLASSIC_SLOTS = 512 >> FH_CLASSIC_SLOT_SHIFT,
    FH_CLASSIC_POOL_BYTES_MIN = 4 << 10,
    FH_CLASSIC_POOL_BYTES_MAX = 64 << 10,
    FH_CLASSIC_ARENA_BYTES_MIN = 256 << 10, /* what map.h can tell apart */
    FH_CLASSIC_POOLS_MIN = 4,
    FH_CLASSIC_POOLS_MAX = 256, /* of an arena */
    FH_CLASSIC_ARENAS_FIRST = 16,
};

/* At the end of a free list: there are blocks that were never handed out. */
#define FH_CLASSIC_MORE ((struct fh_block *)(uintptr_t)1)

/* A pool's header. */
struct fh_classic_pool {
    struct fh_block *free_list;   /* ends in NULL if all blocks were carved, else FH_CLASSIC_MORE */
    struct fh_classic_pool *next; /* in its class's list, or among its arena's empty pools */
    struct fh_classic_pool *previous; /* in its class's list; unset in the first */
    uint32_t live_count;
    uint32_t arena_index;
    uint16_t slot;         /* of its class's list */
    uint16_t block_bytes;  /* 0: never used */
    uint32_t carve_offset; /* of the first block that was never handed out or listed */
    uint32_t carve_max;    /* the last offset at which a block fits */
};

static_assert(sizeof(struct fh_classic_pool) == (sizeof(void *) == 8 ? 48 : 32),
              "as large as CPython's, so that as many blocks fit");
static_assert(sizeof(struct fh_classic_pool) % 16 == 0, "the first block is aligned");

struct fh_classic_arena {
    uintptr_t address; /* 0: no arena now */
    char *fresh;       /* the first pool never used */
    struct fh_classic_pool *empty;
    struct fh_classic_arena *next; /* among the usable ones, or among those without memory */
    struct fh_classic_arena *previous;
    uint32_t free_count; /* pools that are empty or fresh */
    uint32_t pool_count;
    uint32_t emptied_ms; /* when its last block was freed; only if the heap's spare arenas decay */
};

/* Where arenas come from: any address, never one that is in use. */
struct fh_classic_source {
    void *ctx;
    void *(*alloc)(void *ctx, size_t bytes); /* NULL: no memory */
    void (*free)(void *ctx, void *memory, size_t bytes);
};

struct fh_classic_config {
    uint32_t alignment_bytes; /* 8 or 16 */
    uint32_t threshold_bytes; /* 256 or 512: the largest request served */
    uint32_t pool_bytes;      /* a power of two */
    uint32_t arena_bytes;     /* a power of two, 4 to 256 pools */
    uint32_t spare_arenas; /* an arena of free pools is kept if so few other usable ones follow */
    uint32_t arenas_max;   /* 0: no limit */
    uint32_t decay_ms;     /* for so long; 0: for ever */
    bool unmaps;           /* an arena's pages go back to the system before it goes */
    struct fh_classic_source source; /* all zero: the system */
    void *user;                      /* whose heap it is, for those below and whoever finds it */
    bool (*admit)(void *user, size_t bytes);  /* may another arena be had? NULL: always */
    void (*closed)(void *user, size_t bytes); /* one that was admitted is gone */
};

#define FH_CLASSIC_KEEP_ALL UINT32_MAX /* spare_arenas: no arena ever goes */

struct fh_classic {
    /* What each call reads. */
    size_t slot_mask;
    uintptr_t pool_mask;
    size_t threshold_bytes;
    uint64_t region_base; /* the region's, or all zero if no arena comes from it */
    uint64_t region_bytes;
    const char *descriptors;
    struct fh_classic_pool
        *used[FH_CLASSIC_SLOTS]; /* never NULL: `none` if there is no such pool */
    struct fh_classic_pool none; /* always without a free block */

    /* Arenas: see usable.h. */
    struct fh_classic_arena *usable;
    struct fh_classic_arena *unused;
    struct fh_classic_arena *arenas;
    uint32_t arenas_capacity;
    uint32_t arenas_current;
    uint64_t arenas_total; /* ever had */
    uint32_t arenas_highwater;
    uint32_t looked_ms; /* when spare arenas were last looked at, if they decay */
    uint32_t changes;   /* calls that arenas and pools are being changed by, one inside another */
    struct fh_classic_arena *last_with[FH_CLASSIC_POOLS_MAX + 1];

    struct fh_classic_config config;

    /* Any thread. */
    uint64_t deferred FH_CACHE_LINE_ALIGNED; /* address of the block freed last without the lock */
};

/* ---- Heaps ----------------------------------------------------------------------------------- */

/* As CPython from 3.10 on: 16, 512, 16 KiB, 1 MiB, one spare arena. */
struct fh_classic_config fh_classic_default_config(void);

/* Do the sizes fit each other? */
bool fh_classic_is_valid(const struct fh_classic_config *config);

/* NULL with errno EINVAL if they do not, ENOMEM if the system refuses. */
struct fh_classic *fh_classic_create(const struct fh_classic_config *config);

/* Give everything back, live blocks too. No thread may use the heap or its blocks any more. */
void fh_classic_destroy(struct fh_classic *heap);

/* The heap in whose arenas this address lies, or NULL. Never reads what is there; wait-free; any
 * thread. A heap's answer for the addresses of its live blocks stays the same. */
struct fh_classic *fh_classic_of(const void *address);

/* ---- Blocks, by the holder of the lock ------------------------------------------------------- */

/* Requests above it are not for this heap; fh_classic_malloc() must not be called for them. */
FH_ALWAYS_INLINE bool fh_classic_serves(const struct fh_classic *heap, size_t bytes)
{
    return bytes <= heap->threshold_bytes;
}

void *fh_classic_malloc_slow(struct fh_classic *heap, size_t slot);

/* Hand out the first block of a class's first pool. If it was the pool's last, the list goes on
 * without the pool. That is often a matter of chance, and a wrong guess would cost the processor
 * more than the rest of the call; hence a conditional move and no branch. */
FH_ALWAYS_INLINE void *fh_classic_take_first(struct fh_classic *heap, struct fh_classic_pool *pool,
                                             size_t slot)
{
    struct fh_block *block = pool->free_list;
    struct fh_block *next = block->next;
    struct fh_classic_pool *after = pool->next; /* loaded in any case, or there is a branch */
    pool->live_count++;
    pool->free_list = next;
    heap->used[slot] = __builtin_expect_with_probability(next == NULL, 1, 0.5) ? after : pool;
    return block;
}

/* A block for a request that the heap serves; 0 bytes counts as 1. NULL if there is no memory. */
FH_ALWAYS_INLINE void *fh_classic_malloc(struct fh_classic *heap, size_t bytes)
{
    size_t slot = ((bytes - (bytes != 0)) >> FH_CLASSIC_SLOT_SHIFT) & heap->slot_mask;
    struct fh_classic_pool *pool = heap->used[slot];
    struct fh_block *block = pool->free_list;
    if (FH_UNLIKELY((uintptr_t)block <= (uintptr_t)FH_CLASSIC_MORE))
        return fh_classic_malloc_slow(heap, slot);
    return fh_classic_take_first(heap, pool, slot);
}

/* Does the descriptor of the address's pool name the heap? The address must be a block's, of this
 * heap or another's: elsewhere in the region there may be no descriptors. */
FH_ALWAYS_INLINE bool fh_classic_owns_in_region(const struct fh_classic *heap, const void *address)
{
    uint64_t offset = (uintptr_t)address - heap->region_base;
    if (FH_UNLIKELY(offset >= heap->region_bytes))
        return false;
    const char *descriptor = heap->descriptors + (offset >> FH_POOL_SHIFT << FH_DESCRIPTOR_SHIFT);
    return fh_load_own_ptr(&((const struct fh_pool *)(const void *)descriptor)->classic) == heap;
}

/* Does the address lie in an arena of this heap? Any thread, as fh_classic_of(). */
bool fh_classic_owns(const struct fh_classic *heap, const void *address);

FH_ALWAYS_INLINE struct fh_classic_pool *fh_classic_pool_of(const struct fh_classic *heap,
                                                            const void *block)
{
    return (struct fh_classic_pool *)((uintptr_t)block & heap->pool_mask);
}

/* The pool that holds any address; NULL outside the heap's pools, and where an arena that is not
 * aligned begins or ends with a part of one. Reads nothing there. */
const struct fh_classic_pool *fh_classic_find_pool(const struct fh_classic *heap,
                                                   const void *address);

bool fh_classic_free_slow(struct fh_classic *heap, void *memory);
void fh_classic_is_empty(struct fh_classic *heap, struct fh_classic_pool *pool);

/* Put a pool in front of its class's list. */
FH_ALWAYS_INLINE void fh_classic_link_first(struct fh_classic *heap, struct fh_classic_pool *pool)
{
    struct fh_classic_pool **used = &heap->used[pool->slot];
    pool->next = *used;
    (*used)->previous = pool; /* `none` has the field too, and nobody reads it there */
    *used = pool;
}

FH_ALWAYS_INLINE void fh_classic_free_own(struct fh_classic *heap, void *memory)
{
    struct fh_classic_pool *pool = fh_classic_pool_of(heap, memory);
    struct fh_block *block = memory;
    struct fh_block *before = pool->free_list;
    block->next = before;
    pool->free_list = block;
    uint32_t live_count = --pool->live_count;
    if (before == NULL)
        fh_classic_link_first(heap, pool);
    else if (FH_UNLIKELY(live_count == 0))
        fh_classic_is_empty(heap, pool);
}

/* False, with nothing done, if the block is not of this heap: NULL, for one. */
FH_ALWAYS_INLINE bool fh_classic_free(struct fh_classic *heap, void *memory)
{
    if (FH_UNLIKELY(!fh_classic_owns_in_region(heap, memory)))
        return fh_classic_free_slow(heap, memory);
    fh_classic_free_own(heap, memory);
    return true;
}

enum fh_classic_outcome {
    FH_CLASSIC_FOREIGN,   /* not a block of this heap; nothing was done */
    FH_CLASSIC_RESIZED,   /* *block is the block now */
    FH_CLASSIC_ELSEWHERE, /* not in this heap: too large, or no memory. *block is as it was; the
                             caller may copy it to where there is room, and free it here */
};

/* Resize *block. In place if that wastes no more than a quarter of it, as CPython does. */
enum fh_classic_outcome fh_classic_realloc(struct fh_classic *heap, void **block, size_t bytes);

/* How many bytes of a live block may be used; 0 if it is not of this heap. */
size_t fh_classic_usable_bytes(const struct fh_classic *heap, const void *block);

/* ---- Without the lock ------------------------------------------------------------------------ */

/* Put a block of this heap on the list of those to be freed. Any thread, lock-free. */
void fh_classic_defer(struct fh_classic *heap, void *block);

/* The same of whichever heap it is; false if it is no heap's. */
bool fh_classic_free_deferred(void *block);

/* By the holder: free what is on that list. Returns how many blocks that were. It is done without
 * being asked before the heap takes another arena. */
size_t fh_classic_drain(struct fh_classic *heap);

/* The same where it is done on each call and there is seldom anything. */
FH_ALWAYS_INLINE void fh_classic_drain_if_any(struct fh_classic *heap)
{
    if (FH_UNLIKELY(fh_load_relaxed_u64(&heap->deferred) != 0)) /* else it comes next time */
        (void)fh_classic_drain(heap);
}

/* By the holder: how many blocks are on it. */
size_t fh_classic_deferred_count(const struct fh_classic *heap);

/* By the holder, in a handler: did it interrupt a call in which arenas or pools change? Otherwise
 * they can be looked at. */
FH_ALWAYS_INLINE bool fh_classic_is_changing(const struct fh_classic *heap)
{
    return heap->changes != 0;
}

/* By the holder: is there no live block? In time proportional to its arenas. */
bool fh_classic_is_unused(const struct fh_classic *heap);

/* By the holder: give back the spare arenas whose time is over. Done now and then without being
 * asked. */
void fh_classic_decay(struct fh_classic *heap);

/* By the holder: give back all arenas without a live block, unless all are to be kept. */
void fh_classic_trim(struct fh_classic *heap);

#endif
