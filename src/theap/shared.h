/* SPDX-License-Identifier: MIT */
/* Shared pools: where to find those that any heap may adopt.
 *
 * A pool's own word says whether it is shared; here are hints about it, a bit per pool in its
 * arena's record, one word a class, and a hint set of arenas above those words. A hint may be
 * stale: whoever follows it tries the pool's word, and takes the hint away if the pool is not
 * shared.
 */
#ifndef FH_THEAP_SHARED_H
#define FH_THEAP_SHARED_H

#include "theap.h"

/* Say that a pool is shared. After the transition. */
void fh_shared_add(struct fh_region *region, struct fh_pool *pool);

/* Say that a pool is not shared any more. After the transition. */
void fh_shared_remove(struct fh_region *region, struct fh_pool *pool);

/* Do what a transition has left to do: hint at the pool, or give it back to its arena. */
void fh_shared_settle(struct fh_region *region, struct fh_pool *pool, enum fh_pool_event event);

/* Adopt a shared pool of the class, preferring low arenas; NULL if none is found. Pools of other
 * classes, met through stale hints and adopted by mistake, are shared again. */
struct fh_pool *fh_shared_adopt(struct fh_theap *heap, unsigned class_index);

/* The index of a pool's descriptor over all arenas. */
size_t fh_pool_number(const struct fh_region *region, const struct fh_pool *pool);

#endif
