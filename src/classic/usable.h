/* SPDX-License-Identifier: MIT */
/* The arenas of a classic heap, and which of them the next pool comes from.
 *
 * Usable arenas, those with a free pool, are in a list that ascends by how many they have: pools
 * come from the first, so that the last drain and can go back. last_with[n] is the last of those
 * with n free pools, NULL if there is none; thus a change by one finds its new place at once.
 *
 * Records are in a vector, which grows by doubling and then moves. It grows only when no arena is
 * usable and no record is left, so that no list leads into it.
 */
#ifndef FH_CLASSIC_USABLE_H
#define FH_CLASSIC_USABLE_H

#include "classic.h"

/* A pool with no live block: fresh, or as its last one left it. NULL if there is no memory. */
struct fh_classic_pool *fh_usable_take(struct fh_classic *heap);

/* Take a pool back whose last live block was freed. May give its arena back. */
void fh_usable_give(struct fh_classic *heap, struct fh_classic_pool *pool);

/* Give back those without a live block, unless all are to be kept. */
void fh_usable_release_empty(struct fh_classic *heap);

/* Look whether the time of spare arenas is over, if there is one. Done whenever a pool comes or
 * goes.
 */
void fh_usable_decay(struct fh_classic *heap);

/* Give all arenas and the vector back. */
void fh_usable_release_all(struct fh_classic *heap);

#endif
