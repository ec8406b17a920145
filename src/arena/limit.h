/* SPDX-License-Identifier: MIT */
/* The limit on pools that are in use, or free and resident: what freehold/limit.h promises.
 *
 * Always, unless the limit was lowered or the program's function accepted more:
 *
 *   pools in use + free resident pools, both halves of region->pool_counts, <= limit->pools
 *
 * Only claims add to the sum, so they alone are checked, by the CAS that counts them: who claims a
 * run takes it first, then counts it or gives it back as it was. A new arena is counted before it
 * is opened. A purge counts nothing until it has returned the pages.
 *
 * A claim that was refused is tried again after an appeal: the first purges all free pools, the
 * others ask the program's function. With no limit all this is one relaxed load a claim.
 */
#ifndef FH_ARENA_LIMIT_H
#define FH_ARENA_LIMIT_H

#include "freehold/limit.h"
#include "region.h"

/* Never changes once it is published, and stays for ever. */
struct fh_limit {
    size_t bytes; /* as it was set, not 0 */
    uint64_t pools;
    fh_limit_function *function; /* NULL: refuse */
    void *context;
    struct fh_limit *older; /* for api/limits.c: those known before */
};

/* How far an appeal has come; 0 at first. */
struct fh_appeal {
    unsigned turns;
};

extern void *fh_limit_published FH_HIDDEN; /* const struct fh_limit *; NULL: none */

/* The limit, or NULL. */
static inline const struct fh_limit *fh_limit_find(void)
{
    if (FH_LIKELY(fh_load_own_ptr(&fh_limit_published) == NULL)) /* nothing to follow */
        return NULL;
    /* [limit] acquire: its fields. */
    return fh_load_acquire_ptr(&fh_limit_published);
}

/* From now on this one; NULL for none. */
void fh_limit_publish(const struct fh_limit *limit);

/* The sum. */
uint64_t fh_limit_counted_pools(const struct fh_region *region);

/* Count pools as in use, of which so many were retained; false if that is over the limit, and
 * nothing is counted. */
bool fh_limit_count(struct fh_region *region, uint64_t pools, uint64_t retained);

/* Would the limit refuse so many more pools now? A guess. */
bool fh_limit_refuses_more(const struct fh_region *region, uint64_t pools);

static inline bool fh_limit_refuses(const struct fh_region *region, uint64_t pools)
{
    return FH_UNLIKELY(fh_limit_find() != NULL) && fh_limit_refuses_more(region, pools);
}

/* If it would: purge all free pools; then a claim may be worth another try. */
bool fh_limit_make_room(struct fh_region *region, uint64_t pools);

/* A claim of so many pools has failed: is it worth another try? The thread's own caches should have
 * been given up before. Calls the program's function, so anything may have changed afterwards. */
bool fh_limit_appeal(struct fh_region *region, uint64_t pools, struct fh_appeal *appeal);

#endif
