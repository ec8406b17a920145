/* SPDX-License-Identifier: MIT */
/* Holes: pages of a pool in which no block is live.
 *
 * A pool with few live blocks may be spread over many pages, of which most hold nothing. Its owner
 * takes the blocks that start in such pages off its list again, as if they had never been carved;
 * then nobody reads or writes there, and the pages can go back to the system. They are carved anew
 * once all else of the pool is used up. */
#ifndef FH_POOL_HOLE_H
#define FH_POOL_HOLE_H

#include "pool.h"

enum { FH_POOL_PAGES_MAX = (FH_SPAN_POOLS << FH_POOL_SHIFT) / FH_CARVE_BYTES };

static_assert(FH_POOL_PAGES_MAX <= 64, "the pages of a pool fit one word");

/* Owner: the pages (bit n is page n of FH_CARVE_BYTES) that have no live block, are in no hole yet,
 * and make whole pages of page_bytes. */
uint64_t fh_pool_find_holes(const struct fh_pool *pool, size_t page_bytes);

/* Owner: make these pages holes. What is in them is lost from now on. */
void fh_pool_make_holes(struct fh_pool *pool, uint64_t pages);

#endif
