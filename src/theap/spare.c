/* SPDX-License-Identifier: MIT */
#include "spare.h"

#include "holder.h"
#include "limit.h"
#include "purge.h"
#include "thread.h"

/* Take entry `at` out; the order of the others is their age. */
static struct fh_spare remove_at(struct fh_theap *heap, unsigned at)
{
    struct fh_spare spare = heap->spares[at];
    heap->spare_runs--;
    heap->spare_pools -= spare.pools;
    for (; at < heap->spare_runs; at++)
        heap->spares[at] = heap->spares[at + 1];
    return spare;
}

/* Take the first pools of entry `at`; all of them if there are no more. */
static void take_front(struct fh_theap *heap, unsigned at, unsigned pools)
{
    struct fh_spare *spare = &heap->spares[at];
    if (spare->pools == pools) {
        (void)remove_at(heap, at);
        return;
    }
    spare->pool_index += pools;
    spare->pools -= pools;
    heap->spare_pools -= pools;
}

static void release_oldest(struct fh_theap *heap)
{
    struct fh_spare spare = remove_at(heap, 0);
    fh_arena_release(heap->region, spare.pool_index, spare.pools);
}

static bool is_aligned(const struct fh_theap *heap, const struct fh_spare *spare,
                       unsigned align_pools)
{
    if (align_pools == 1)
        return true;
    uintptr_t address = (uintptr_t)fh_arena_pool_address(heap->region, spare->pool_index);
    return (address >> FH_POOL_SHIFT) % align_pools == 0;
}

/* The smallest run that serves, of equal ones the newest; FH_SPARE_RUNS if none does. */
static unsigned best_fit(const struct fh_theap *heap, unsigned pools, unsigned align_pools)
{
    unsigned best = FH_SPARE_RUNS;
    for (unsigned at = heap->spare_runs; at-- > 0;) {
        const struct fh_spare *spare = &heap->spares[at];
        if (spare->pools >= pools && is_aligned(heap, spare, align_pools) &&
            (best == FH_SPARE_RUNS || spare->pools < heap->spares[best].pools))
            best = at;
    }
    return best;
}

static bool claim_from_arenas(struct fh_theap *heap, unsigned pools, unsigned align_pools,
                              struct fh_run *run)
{
    if (pools == 1)
        return fh_arena_claim(heap->region, 1, align_pools, run);
    return fh_arena_claim_near(heap->region, &heap->large_arena, pools, align_pools, run);
}

/* Refused: if that may be for the limit, give up all that the heap keeps, and try again as long as
 * that is of use. */
static FH_COLD bool claim_at_limit(struct fh_theap *heap, unsigned pools, unsigned align_pools,
                                   struct fh_run *run)
{
    struct fh_appeal appeal = {0};
    bool claimed = false;
    if (fh_limit_find() == NULL)
        return false;
    fh_theap_drain(heap);
    while (!claimed && fh_limit_appeal(heap->region, pools, &appeal))
        claimed = claim_from_arenas(heap, pools, align_pools, run);
    return claimed;
}

bool fh_spare_claim(struct fh_theap *heap, unsigned pools, unsigned align_pools, struct fh_run *run)
{
    unsigned at = best_fit(heap, pools, align_pools);
    if (at < FH_SPARE_RUNS) {
        run->pool_index = heap->spares[at].pool_index;
        run->zeroed = false;
        take_front(heap, at, pools);
        return true;
    }
    if (pools > 1)
        fh_purge_tick(heap->region); /* for threads that have only large blocks */
    fh_holder_tick(heap);
    return FH_LIKELY(claim_from_arenas(heap, pools, align_pools, run)) ||
           claim_at_limit(heap, pools, align_pools, run);
}

bool fh_spare_extend(struct fh_theap *heap, size_t pool_index, unsigned pools, unsigned more)
{
    for (unsigned at = 0; at < heap->spare_runs; at++) {
        if (heap->spares[at].pool_index == pool_index + pools && heap->spares[at].pools >= more) {
            take_front(heap, at, more);
            return true;
        }
    }
    if (FH_LIKELY(fh_arena_extend(heap->region, pool_index, pools, more)))
        return true;
    if (!fh_limit_refuses(heap->region, more))
        return false;
    fh_spare_drain(heap);
    (void)fh_limit_make_room(heap->region, more);
    return fh_arena_extend(heap->region, pool_index, pools, more);
}

/* Two runs side by side in one arena. */
static bool adjoins(size_t first, size_t first_pools, size_t second)
{
    return first + first_pools == second && second % FH_ARENA_POOLS != 0;
}

/* The run, together with those at hand that touch it, which are taken out. */
static struct fh_spare merged(struct fh_theap *heap, struct fh_spare run)
{
    for (unsigned at = heap->spare_runs; at-- > 0;) {
        struct fh_spare spare = heap->spares[at];
        bool before = adjoins(spare.pool_index, spare.pools, run.pool_index);
        if (before || adjoins(run.pool_index, run.pools, spare.pool_index)) {
            (void)remove_at(heap, at);
            run.pool_index = before ? spare.pool_index : run.pool_index;
            run.pools += spare.pools;
        }
    }
    return run;
}

void fh_spare_release(struct fh_theap *heap, size_t pool_index, unsigned pools)
{
    if (pools > FH_SPARE_POOLS) {
        fh_arena_release(heap->region, pool_index, pools);
        return;
    }
    while (heap->spare_runs > 0 &&
           (heap->spare_runs == FH_SPARE_RUNS || heap->spare_pools + pools > FH_SPARE_POOLS))
        release_oldest(heap);
    struct fh_spare run = merged(heap, (struct fh_spare){(uint32_t)pool_index, pools});
    heap->spares[heap->spare_runs++] = run;
    heap->spare_pools += run.pools;
}

void fh_spare_drain(struct fh_theap *heap)
{
    while (heap->spare_runs > 0)
        release_oldest(heap);
}
