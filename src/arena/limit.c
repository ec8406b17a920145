/* SPDX-License-Identifier: MIT */
#include "limit.h"

#include <errno.h>

#include "purge.h"

enum { RETRIES_MAX = 16 };

/* Of the calling thread. */
enum {
    ASKING = 1, /* inside the program's function */
    EXEMPT = 2  /* that accepted: the next claim is made without a limit */
};

static FH_THREAD_LOCAL uint32_t state;

void *fh_limit_published;

void fh_limit_publish(const struct fh_limit *limit)
{
    /* [limit] release: its fields, which may be another thread's. */
    fh_store_release_ptr(&fh_limit_published, (void *)(uintptr_t)limit);
}

/* ---- Counting ---------------------------------------------------------------------------------
 */

static uint64_t sum_of(uint64_t pool_counts)
{
    return (pool_counts >> 32) + (uint32_t)pool_counts;
}

static uint64_t pools_allowed(void)
{
    const struct fh_limit *limit = fh_limit_find();
    return limit == NULL ? UINT64_MAX : limit->pools;
}

uint64_t fh_limit_counted_pools(const struct fh_region *region)
{
    return sum_of(fh_load_relaxed_u64(&region->pool_counts)); /* a snapshot */
}

bool fh_limit_count(struct fh_region *region, uint64_t pools, uint64_t retained)
{
    uint64_t allowed = pools_allowed();
    uint64_t counts = fh_load_relaxed_u64(&region->pool_counts); /* a guess: the CAS checks it */
    uint64_t after;
    do {
        after = counts + (pools << 32) - retained;
        if (sum_of(after) > allowed && (state & EXEMPT) == 0)
            return false;
        /* Relaxed: numbers, which pass nothing. */
    } while (!fh_cas_relaxed_u64(&region->pool_counts, &counts, after));
    if (sum_of(after) > allowed)
        state &= ~(uint32_t)EXEMPT;
    return true;
}

bool fh_limit_refuses_more(const struct fh_region *region, uint64_t pools)
{
    return (state & EXEMPT) == 0 && fh_limit_counted_pools(region) + pools > pools_allowed();
}

/* ---- Before a call fails ----------------------------------------------------------------------
 */

bool fh_limit_make_room(struct fh_region *region, uint64_t pools)
{
    if (!fh_limit_refuses(region, pools))
        return false;
    (void)fh_purge(region, 0, ~0u);
    return true;
}

static fh_limit_answer ask(const struct fh_limit *limit, size_t bytes)
{
    if (limit->function == NULL || (state & ASKING) != 0)
        return FH_LIMIT_REFUSE;
    int saved_errno = errno;
    state |= ASKING;
    fh_limit_answer answer = limit->function(limit->context, bytes);
    state &= ~(uint32_t)ASKING;
    errno = saved_errno;
    return answer;
}

/* Purging is of no use to what is over the limit by itself. */
static bool purge_at_first(struct fh_region *region, const struct fh_limit *limit, uint64_t pools,
                           struct fh_appeal *appeal)
{
    if (appeal->turns > 0)
        return false;
    appeal->turns++;
    if (pools > limit->pools)
        return false;
    (void)fh_purge(region, 0, ~0u);
    return true;
}

bool fh_limit_appeal(struct fh_region *region, uint64_t pools, struct fh_appeal *appeal)
{
    const struct fh_limit *limit = fh_limit_find();
    state &= ~(uint32_t)EXEMPT; /* the function accepted, but the system did not */
    if (limit == NULL)
        return false; /* it was the system */
    if (purge_at_first(region, limit, pools, appeal))
        return true;
    if (appeal->turns++ > RETRIES_MAX)
        return false;
    if (!fh_limit_refuses(region, pools))
        return true; /* somebody freed some just now */
    fh_limit_answer answer = ask(limit, (size_t)pools << FH_POOL_SHIFT);
    if (answer == FH_LIMIT_ACCEPT)
        state |= EXEMPT;
    return answer == FH_LIMIT_ACCEPT || answer == FH_LIMIT_RETRY;
}
