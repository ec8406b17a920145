/* SPDX-License-Identifier: MIT */
/* Pools of which few blocks are live, that nobody owns: pages of theirs without a live block go
 * back to the system (pool/hole.h). As with free pools (arena/purge.h) at two occasions:
 *
 * Age: a pool that stays sparse for the decay time loses its empty pages to whichever thread next
 * comes by a slow path.
 *
 * Number: at most FH_SPARSE_MIN_POOLS sparse pools, and one for every FH_SPARSE_PER_IN_USE in use,
 * keep them. Who makes one too many sparse by a free purges some that have been so for a moment,
 * arena by arena; the owner that lets go of one purges that one. If such a pool is soon allocated
 * from again that was a mistake, and more may keep theirs from then on.
 *
 * Who purges adopts the pool meanwhile, like a heap that wants to allocate. So it needs no lock,
 * and if it stops it withholds one pool. */
#ifndef FH_THEAP_SPARSE_H
#define FH_THEAP_SPARSE_H

#include "pool.h"
#include "region.h"

/* The pool, shared and hinted at, has become sparse, or sparser. Purges some if there are too many.
 */
void fh_sparse_add(struct fh_region *region, const struct fh_pool *pool);

/* The caller has added the pool as its owner, who let go of it: likely all that it would free for
 * now. Purges this one if there are too many. */
void fh_sparse_given_up(struct fh_region *region, const struct fh_pool *pool);

/* To be called now and then from slow paths: one caller purges a bounded number after each time
 * that fh_purge_tick() had somebody look at the age of free pools. */
void fh_sparse_tick(struct fh_region *region);

/* All that is old enough, however much, for a thread that has time. Returns the bytes returned. */
size_t fh_sparse_old(struct fh_region *region);

/* The caller has adopted this pool to allocate from it. */
void fh_sparse_adopted(struct fh_region *region, const struct fh_pool *pool);

/* Purge all shared pools, sparse or not. Returns the bytes returned. */
size_t fh_sparse_trim(struct fh_region *region);

#endif
