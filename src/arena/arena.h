/* SPDX-License-Identifier: MIT */
/* Arenas: runs of pools for whoever needs some, from and to any thread.
 *
 * A run is some adjacent pools of one arena; a long run is some adjacent whole arenas. The truth
 * about a pool is its bit in the arena's word `used`; what the hint sets say is only where to look
 * first.
 *
 *   free --claim: CAS sets its bit--> claimed --release: its bit is cleared--> free, dirty
 *   free, dirty --purge: claim, return the pages, clear dirty, release--> free, reads as zeros
 *
 * The lowest arena with room is taken, so that high ones drain; in it, resident pools before
 * others. Any thread may call anything here at any time. A thread that stops inside withholds what
 * it claimed and nothing else. Searches are bounded: FH_CLAIM_ARENAS arenas with room, as many
 * empty ones, then a new one is opened; only if that fails all are searched. A claim that would go
 * over the limit (limit.h) fails as if the system gave no more.
 */
#ifndef FH_ARENA_ARENA_H
#define FH_ARENA_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "region.h"

enum { FH_CLAIM_ARENAS = 64 };

struct fh_run {
    size_t pool_index;
    bool zeroed; /* every byte reads as zero */
};

/* The first byte of a pool that is claimed. */
char *fh_arena_pool_address(const struct fh_region *region, size_t pool_index);

/* Claim `pools` (1..FH_ARENA_POOLS) adjacent pools, the first at an address that is a multiple of
 * align_pools (a power of two, 1..FH_ARENA_POOLS) pools. False if the system gives no more memory.
 */
bool fh_arena_claim(struct fh_region *region, unsigned pools, unsigned align_pools,
                    struct fh_run *run);

/* The same, but first in the arena *near, which is then where the run is. For large blocks: those
 * of different threads stay out of each other's way, and can grow in place. */
bool fh_arena_claim_near(struct fh_region *region, uint32_t *near, unsigned pools,
                         unsigned align_pools, struct fh_run *run);

/* Claim `more` pools directly after a claimed run of `pools`; false if one of them is in use. */
bool fh_arena_extend(struct fh_region *region, size_t pool_index, unsigned pools, unsigned more);

/* Give a run back, or a part of one. */
void fh_arena_release(struct fh_region *region, size_t pool_index, unsigned pools);

/* Claim just these pools if they are free, and release them without a new stamp. */
bool fh_arena_claim_at(struct fh_region *region, size_t pool_index, unsigned pools);
void fh_arena_release_clean(struct fh_region *region, size_t pool_index, unsigned pools);

/* For a purge: the same, but in between they count as free, so it needs no room under a limit. Of
 * those that were dirty, so many are no longer. */
bool fh_arena_withhold(struct fh_region *region, size_t pool_index, unsigned pools);
void fh_arena_restore(struct fh_region *region, size_t pool_index, unsigned pools,
                      unsigned purged_pools);

/* The same for runs of whole arenas; align_arenas is a power of two. `touched_pools`, from the
 * run's start, may have been written to; the rest was never touched and stays clean. */
bool fh_arenas_claim(struct fh_region *region, size_t arenas, size_t align_arenas,
                     struct fh_run *run);
bool fh_arenas_extend(struct fh_region *region, size_t pool_index, size_t arenas, size_t more);
void fh_arenas_release(struct fh_region *region, size_t pool_index, size_t arenas,
                       size_t touched_pools);

#endif
