/* SPDX-License-Identifier: MIT */
#include "large.h"

#include "arena.h"
#include "bits.h"
#include "limit.h"
#include "os.h"
#include "shared.h"
#include "spare.h"
#include "thread.h"

enum {
    USABLE_STEP_BYTES = 4096
}; /* finer than pools, so that nobody is lured into touching more */

static size_t pools_for(size_t bytes)
{
    return (bytes + FH_POOL_BYTES - 1) >> FH_POOL_SHIFT;
}

static size_t arenas_for(size_t pools)
{
    return (pools + FH_ARENA_POOLS - 1) >> FH_ARENA_POOL_SHIFT;
}

static size_t units_of(size_t alignment, unsigned shift)
{
    return alignment >> shift == 0 ? 1 : alignment >> shift;
}

static void describe(struct fh_pool *pool, char *start, enum fh_pool_kind kind, size_t bytes)
{
    pool->origin = (uintptr_t)start - FH_BLOCK_ALIGN_BYTES;
    fh_store_own_u32(&pool->pools, (uint32_t)pools_for(bytes));
    fh_store_own_u64(&pool->usable_bytes, fh_round_up(bytes, USABLE_STEP_BYTES));
    fh_store_own_u8(&pool->kind, (uint8_t)kind);
}

/* After a change of size in place. What a huge block no longer needs of its last arena it has
 * touched all the same, and so goes on counting in `pools`. */
static void describe_resized(struct fh_pool *pool, enum fh_pool_kind kind, uint32_t pools_before,
                             size_t bytes)
{
    describe(pool, (char *)pool->origin + FH_BLOCK_ALIGN_BYTES, kind, bytes);
    size_t last_end = arenas_for(pools_for(bytes)) << FH_ARENA_POOL_SHIFT;
    uint32_t touched = pools_before < last_end ? pools_before : (uint32_t)last_end;
    if (kind == FH_POOL_HUGE && touched > fh_load_own_u32(&pool->pools))
        fh_store_own_u32(&pool->pools, touched);
}

/* A heap for a claim: the thread's own if it is idle, or made now, as a thread may have only large
 * blocks; NULL inside a handler. */
static struct fh_theap *heap_for_claim(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    return fh_theap_is_busy(heap) && heap != &fh_theap_none ? NULL : fh_theap_enter();
}

/* Inside a handler, which leaves the heap alone. */
static bool claim_without_heap(struct fh_region *region, unsigned pools, unsigned align_pools,
                               struct fh_run *run)
{
    struct fh_appeal appeal = {0};
    bool claimed = fh_arena_claim(region, pools, align_pools, run);
    while (!claimed && fh_limit_appeal(region, pools, &appeal))
        claimed = fh_arena_claim(region, pools, align_pools, run);
    return claimed;
}

static bool claim_pools(struct fh_region *region, unsigned pools, unsigned align_pools,
                        struct fh_run *run)
{
    struct fh_theap *heap = heap_for_claim();
    if (heap == NULL)
        return claim_without_heap(region, pools, align_pools, run);
    bool claimed = fh_spare_claim(heap, pools, align_pools, run);
    fh_theap_leave(heap);
    return claimed;
}

static void release_pools(struct fh_region *region, size_t number, unsigned pools)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (fh_theap_is_busy(heap)) {
        fh_arena_release(region, number, pools);
        return;
    }
    fh_theap_set_busy(heap);
    fh_spare_release(heap, number, pools);
    fh_theap_set_idle(heap);
}

static bool extend_pools(struct fh_region *region, size_t number, unsigned pools, unsigned more)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (fh_theap_is_busy(heap))
        return fh_arena_extend(region, number, pools, more);
    fh_theap_set_busy(heap);
    bool extended = fh_spare_extend(heap, number, pools, more);
    fh_theap_set_idle(heap);
    return extended;
}

static void give_up_caches(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (fh_theap_is_busy(heap))
        return;
    fh_theap_set_busy(heap);
    fh_theap_drain(heap);
    fh_theap_set_idle(heap);
}

static bool claim_arenas(struct fh_region *region, size_t arenas, size_t align_arenas,
                         struct fh_run *run)
{
    struct fh_appeal appeal = {0};
    if (FH_LIKELY(fh_arenas_claim(region, arenas, align_arenas, run)))
        return true;
    if (fh_limit_find() == NULL)
        return false;
    give_up_caches();
    bool claimed = false;
    while (!claimed && fh_limit_appeal(region, (uint64_t)arenas << FH_ARENA_POOL_SHIFT, &appeal))
        claimed = fh_arenas_claim(region, arenas, align_arenas, run);
    return claimed;
}

static bool extend_arenas(struct fh_region *region, size_t number, size_t arenas, size_t more)
{
    uint64_t more_pools = (uint64_t)more << FH_ARENA_POOL_SHIFT;
    if (fh_arenas_extend(region, number, arenas, more))
        return true;
    if (!fh_limit_refuses(region, more_pools))
        return false;
    give_up_caches();
    (void)fh_limit_make_room(region, more_pools);
    return fh_arenas_extend(region, number, arenas, more);
}

static bool claim(struct fh_region *region, size_t bytes, size_t alignment, struct fh_run *run)
{
    size_t pools = pools_for(bytes);
    if (pools <= FH_ARENA_POOLS && alignment <= FH_ARENA_BYTES)
        return claim_pools(region, (unsigned)pools, (unsigned)units_of(alignment, FH_POOL_SHIFT),
                           run);
    return claim_arenas(region, arenas_for(pools), units_of(alignment, FH_ARENA_SHIFT), run);
}

void *fh_large_malloc(size_t bytes, size_t alignment, bool *zeroed)
{
    struct fh_region *region = fh_region_get();
    struct fh_run run;
    if (region == NULL || bytes > PTRDIFF_MAX || alignment > PTRDIFF_MAX ||
        !claim(region, bytes, alignment, &run))
        return NULL;
    char *start = fh_arena_pool_address(region, run.pool_index);
    bool huge = pools_for(bytes) > FH_ARENA_POOLS || alignment > FH_ARENA_BYTES;
    struct fh_pool *pool =
        (struct fh_pool *)(void *)(region->descriptors + (run.pool_index << FH_DESCRIPTOR_SHIFT));
    describe(pool, start, huge ? FH_POOL_HUGE : FH_POOL_LARGE, bytes);
    *zeroed = run.zeroed;
    return start;
}

void fh_large_free(struct fh_pool *pool)
{
    struct fh_region *region = fh_region_peek();
    size_t number = fh_pool_number(region, pool);
    uint32_t pools = fh_load_own_u32(&pool->pools);
    bool huge = fh_load_own_u8(&pool->kind) == FH_POOL_HUGE;
    fh_store_own_u8(&pool->kind, FH_POOL_NONE);
    if (huge)
        fh_arenas_release(region, number, arenas_for(pools), pools);
    else
        release_pools(region, number, pools);
}

static bool resize_pools(struct fh_region *region, size_t number, uint32_t pools, size_t wanted)
{
    if (wanted > FH_ARENA_POOLS)
        return false;
    if (wanted > pools)
        return number % FH_ARENA_POOLS + wanted <= FH_ARENA_POOLS &&
               extend_pools(region, number, pools, (unsigned)wanted - pools);
    if (wanted < pools)
        release_pools(region, number + wanted, pools - (unsigned)wanted);
    return true;
}

static bool resize_arenas(struct fh_region *region, size_t number, uint32_t pools, size_t wanted)
{
    size_t arenas = arenas_for(pools);
    size_t wanted_arenas = arenas_for(wanted);
    if (wanted <= FH_ARENA_POOLS)
        return false; /* no longer huge: it shall move to where it wastes less */
    if (wanted_arenas > arenas)
        return extend_arenas(region, number, arenas, wanted_arenas - arenas);
    size_t kept = wanted_arenas << FH_ARENA_POOL_SHIFT;
    if (wanted_arenas < arenas)
        fh_arenas_release(region, number + kept, arenas - wanted_arenas, pools - kept);
    return true;
}

bool fh_large_resize(struct fh_pool *pool, size_t bytes)
{
    struct fh_region *region = fh_region_peek();
    size_t number = fh_pool_number(region, pool);
    uint32_t pools = fh_load_own_u32(&pool->pools);
    enum fh_pool_kind kind = fh_load_own_u8(&pool->kind);
    size_t wanted = pools_for(bytes);
    bool done = kind == FH_POOL_HUGE ? resize_arenas(region, number, pools, wanted)
                                     : resize_pools(region, number, pools, wanted);
    if (done)
        describe_resized(pool, kind, pools, bytes);
    return done;
}

bool fh_large_move(struct fh_pool *from, struct fh_pool *to, size_t bytes)
{
    if (fh_load_own_u8(&from->kind) != FH_POOL_HUGE || fh_load_own_u8(&to->kind) != FH_POOL_HUGE)
        return false;
    char *source = (char *)from->origin + FH_BLOCK_ALIGN_BYTES;
    char *target = (char *)to->origin + FH_BLOCK_ALIGN_BYTES;
    return fh_os_move(source, target, fh_round_up(bytes, FH_POOL_BYTES));
}
