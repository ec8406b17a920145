/* SPDX-License-Identifier: MIT */
/* The region: all address space that is ours, and everything we know about it.
 *
 * One reservation, made at first use and published by one CAS; whoever loses that race unmaps its
 * own. Zero is the valid first state of all of it, so nothing is initialised and nobody waits.
 *
 *     | region, hints | arena records | heaps | pool descriptors |   arena 0 | arena 1 | …
 *
 * Nothing here is ever unmapped, and a record, descriptor or heap stays one: an index or a pointer
 * to it can be followed at any time, whatever has happened to the memory it describes.
 *
 * How much address space: 1 TiB, or by quarters less if the system refuses; under a limit on
 * address space (RLIMIT_AS) a quarter of it, so that the program keeps some. Once the region is
 * used up, arenas are mapped one by one ("extra"), and found through a table on the far side of the
 * range check. Where writable reservations are refused (strict overcommit) the region is
 * inaccessible at first, and committed arena by arena.
 */
#ifndef FH_ARENA_REGION_H
#define FH_ARENA_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomic.h"
#include "config.h"
#include "hints.h"

/* What is known of one arena. Its pools' states are bits: pool n is bit n.
 *
 *   used   claimed by somebody. Claims set bits by CAS, releases clear them.
 *   dirty  free and resident, or in use and perhaps not zero. Set before the bit in `used` is
 * cleared; cleared only by a purge, which has claimed the pool.
 */
struct fh_arena {
    uint64_t start; /* address; 0 until the arena may be used */
    uint64_t used;
    uint64_t dirty;
    uint64_t regretted; /* free pools that went to the system because there were too many */
    uint64_t sparse;    /* hints: pools with few live blocks, see theap/sparse.h */
    uint64_t unused[3];
    uint32_t freed_ms[FH_ARENA_POOLS]; /* when the pool was last freed; written by who frees it */
    uint64_t shared[FH_CLASSES];       /* hints: pools of each class that anybody may adopt */
} FH_CACHE_LINE_ALIGNED;

struct fh_region {
    uintptr_t base; /* of arena 0 */
    size_t bytes;   /* the part after base, without extra arenas */
    char *descriptors;
    char *heaps;
    struct fh_arena *arenas;
    uint64_t *extra;        /* table of extra arenas, see fh_region_find(); NULL: none can be */
    uint32_t extra_mask;    /* its entries - 1 */
    uint32_t region_arenas; /* arenas in [base, base + bytes) */
    uint32_t arenas_max;    /* with extra ones */
    uint32_t heaps_max;
    bool commits;      /* reserved without access */
    uint64_t *process; /* which process this is: a number never used before, 0 at first and just
                          after a fork; NULL: the system does not tell of forks */
    size_t page_bytes;
    struct fh_hints hints;

    /* Any thread. */
    uint64_t arenas_opened
        FH_CACHE_LINE_ALIGNED; /* arenas of the region below this are given out */
    uint64_t extra_opened;     /* so many from index region_arenas on, too */
    uint64_t heaps_opened;
    uint64_t next_purge_ms; /* 0: never purged yet */
    uint64_t purge_cursor;  /* arena at which the next purge goes on */
    uint64_t processes;     /* how many numbers *process has had */
    uint64_t survivor; /* the *process in which the one thread that came through the fork has said
                          which heap it has */
    uint64_t holders_are_due; /* 1: it is time to look for heaps of dead threads */
    uint64_t holders_cursor;  /* heap at which the next look goes on */

    /* Any thread; written whenever a pool is claimed or released. */
    uint64_t pool_counts FH_CACHE_LINE_ALIGNED; /* how many are retained (free and resident), plus
                                                   how many are in use << 32 */
    uint64_t retain_pools;                      /* more that may be retained; see purge.h */

    /* Any thread; written when a pool becomes sparse or is none any more, see theap/sparse.h. */
    uint64_t sparse_pools FH_CACHE_LINE_ALIGNED; /* how many are hinted at */
    uint64_t retain_sparse;                      /* more that may keep their pages */
    uint64_t sparse_cursor; /* arena below which to go on when there are too many */
    uint64_t sparse_is_due; /* 1: it is time to look at their age */
};

/* Copies of the region's fields for the fast path. Until there is a region, no bytes at an address
 * that no block is near make every address a stranger, whichever of the two a free sees first.
 * Settled: see base/atomic.h. */
extern uint64_t fh_region_base FH_HIDDEN;
extern uint64_t fh_region_bytes FH_HIDDEN;
extern void *fh_region_descriptors FH_HIDDEN;

/* The region, made now if there is none; NULL if the system refuses even a small one. */
struct fh_region *fh_region_get(void);

/* From now on the copies above name no block, so that every free takes the slow path; those that
 * other threads have begun by then may not. */
void fh_region_watch(void);

/* The region if there is one. */
struct fh_region *fh_region_peek(void);

/* Which pool (counted over all arenas) holds this address? False for a stranger. Never reads what
 * the address points at; wait-free. */
bool fh_region_find(uintptr_t address, size_t *pool_index);

/* Has the record of arena `index` been given out (and so may be read)? */
bool fh_region_has_arena(const struct fh_region *region, size_t index);

/* The lowest index >= `index` of which that holds, or arenas_max. */
size_t fh_region_next_arena(const struct fh_region *region, size_t index);

/* How many free pools are resident, give or take a few. */
static inline uint32_t fh_region_retained_pools(const struct fh_region *region)
{
    return (uint32_t)fh_load_relaxed_u64(&region->pool_counts); /* only to decide by */
}

/* How many pools are claimed. */
static inline uint32_t fh_region_pools_in_use(const struct fh_region *region)
{
    return (uint32_t)(fh_load_relaxed_u64(&region->pool_counts) >> 32); /* only to decide by */
}

/* Begin to use a part of the reservation: make it usable, where it is not from the start, and
 * visible in core dumps. */
bool fh_region_commit(const struct fh_region *region, void *start, size_t bytes);

/* Have the kernel use huge pages for blocks wherever it can, or nowhere; else it does as the
 * machine is set up. Not for extra arenas. */
void fh_region_prefer_pages(const struct fh_region *region, bool huge);

/* Remember that extra arena `index` lies at `start`. */
void fh_region_add_extra(struct fh_region *region, uintptr_t start, uint32_t index);

/* Forget it; it holds no block. */
void fh_region_remove_extra(struct fh_region *region, uintptr_t start);

#endif
