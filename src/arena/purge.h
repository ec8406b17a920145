/* SPDX-License-Identifier: MIT */
/* Giving free pools back to the system, at two occasions.
 *
 * Age: a pool that stays free for FH_DECAY_MS is purged by whichever thread next comes by a slow
 * path.
 *
 * Number: a program that frees much and then idles comes by no more. So at most FH_RETAIN_MIN_POOLS
 * free pools stay resident, and one for every 8 in use; who releases one too many purges some,
 * highest arenas first. If such a pool is claimed again soon that was a mistake, and more may stay
 * from then on (retain_pools); this allowance shrinks again as time passes. */
#ifndef FH_ARENA_PURGE_H
#define FH_ARENA_PURGE_H

#include <stddef.h>
#include <stdint.h>

#include "region.h"

/* Return the pages of free pools that have been free for age_ms, at most `runs` runs of them.
 * Returns the bytes returned. Any thread, any time; several at once share the work. */
size_t fh_purge(struct fh_region *region, uint32_t age_ms, unsigned runs);

/* To be called now and then from slow paths: if it is time, one caller purges a bounded amount. */
void fh_purge_tick(struct fh_region *region);

/* All that is old enough, however much, for a thread that has time. Returns the bytes returned. */
size_t fh_purge_old(struct fh_region *region);

/* To be called after a release: purge some if too many free pools are resident. */
void fh_purge_excess(struct fh_region *region);

/* Other values than FH_DECAY_MS and FH_RETAIN_MIN_POOLS from now on; no pool is old enough for an
 * age of more than 32 bits. */
void fh_purge_configure(uint64_t decay_ms, uint64_t retain_min_pools);

/* The decay time in force. */
uint64_t fh_purge_decay_ms(void);

/* Pools that were purged as too many have been claimed again. */
void fh_purge_regret(struct fh_region *region, unsigned pools);

#endif
