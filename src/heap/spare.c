/* SPDX-License-Identifier: MIT */
#include "spare.h"

/* Take entry `at` out; the order of the others is their age. */
static struct fh_spare remove_at(struct fh_heap *heap, unsigned at)
{
    struct fh_spare spare = heap->spares[at];
    heap->spare_runs--;
    heap->spare_pools -= spare.pools;
    for (; at < heap->spare_runs; at++)
        heap->spares[at] = heap->spares[at + 1];
    return spare;
}

static void release_oldest(struct fh_heap *heap)
{
    struct fh_spare spare = remove_at(heap, 0);
    fh_arena_release(heap->region, spare.pool_index, spare.pools);
}

static bool is_aligned(const struct fh_heap *heap, const struct fh_spare *spare,
                       unsigned align_pools)
{
    uintptr_t address = (uintptr_t)fh_arena_pool_address(heap->region, spare->pool_index);
    return (address >> FH_POOL_SHIFT) % align_pools == 0;
}

bool fh_spare_claim(struct fh_heap *heap, unsigned pools, unsigned align_pools, struct fh_run *run)
{
    for (unsigned at = heap->spare_runs; at-- > 0;) {
        const struct fh_spare *spare = &heap->spares[at];
        if (spare->pools == pools &&
            (align_pools == 1 || is_aligned(heap, spare, align_pools))) {
            run->pool_index = remove_at(heap, at).pool_index;
            run->zeroed = false;
            return true;
        }
    }
    if (pools == 1)
        return fh_arena_claim(heap->region, 1, align_pools, run);
    return fh_arena_claim_near(heap->region, &heap->large_arena, pools, align_pools, run);
}

void fh_spare_release(struct fh_heap *heap, size_t pool_index, unsigned pools)
{
    if (pools > FH_SPARE_POOLS) {
        fh_arena_release(heap->region, pool_index, pools);
        return;
    }
    while (heap->spare_runs == FH_SPARE_RUNS || heap->spare_pools + pools > FH_SPARE_POOLS)
        release_oldest(heap);
    heap->spares[heap->spare_runs++] = (struct fh_spare){(uint32_t)pool_index, pools};
    heap->spare_pools += pools;
}

void fh_spare_drain(struct fh_heap *heap)
{
    while (heap->spare_runs > 0)
        release_oldest(heap);
}
