/* SPDX-License-Identifier: MIT */
/* Every field read here is one that others write while we look: each by itself is whole, and the
 * sums are exact when nobody else is inside the allocator. */
#include "stats.h"

#include "bits.h"
#include "theap.h"

static const struct fh_pool *pool_numbered(const struct fh_region *region, size_t number)
{
    return (const struct fh_pool *)(const void *)(region->descriptors +
                                                  (number << FH_DESCRIPTOR_SHIFT));
}

/* Blocks that are with callers or ready in a bin. What others freed and nobody collected is not. */
static size_t live_blocks(const struct fh_pool *pool)
{
    uint64_t word = fh_load_relaxed_u64(&pool->word);
    size_t carved = fh_load_own_u32(&pool->carved);
    size_t credits = fh_word_credits(word);
    size_t live;
    switch (fh_word_state(word)) {
    case FH_ACTIVE:
        live = fh_pool_live(pool) - (FH_ACTIVE_CREDITS - credits);
        break;
    case FH_FULL: /* threshold - credits of capacity are available */
        live = fh_load_own_u32(&pool->capacity) - fh_load_own_u32(&pool->threshold) + credits;
        break;
    case FH_SHARED:
        live = credits;
        break;
    default:
        live = 0;
    }
    return live <= carved ? live : carved; /* the current pool counts one too many */
}

static void add_pool(struct fh_sums *sums, const struct fh_pool *pool)
{
    size_t blocks = 1;
    size_t block_bytes = fh_load_own_u64(&pool->usable_bytes);
    size_t pools = fh_load_own_u32(&pool->pools);
    switch (fh_load_own_u8(&pool->kind)) {
    case FH_POOL_BLOCKS:
        blocks = live_blocks(pool);
        block_bytes = fh_load_own_u32(&pool->block_bytes);
        break;
    case FH_POOL_LARGE:
    case FH_POOL_HUGE:
        sums->large_bytes += block_bytes;
        sums->large_blocks++;
        break;
    default:
        return;
    }
    sums->active_bytes += pools << FH_POOL_SHIFT;
    sums->allocated_bytes += blocks * block_bytes;
    sums->allocated_blocks += blocks;
}

static void add_arena(struct fh_sums *sums, const struct fh_region *region, size_t index)
{
    const struct fh_arena *arena = &region->arenas[index];
    if (fh_load_acquire_u64(&arena->start) == 0) /* [arena-open] acquire */
        return;
    uint64_t used = fh_load_relaxed_u64(&arena->used);
    uint64_t dirty = fh_load_relaxed_u64(&arena->dirty);
    sums->arena_count++;
    sums->retained_bytes += (size_t)__builtin_popcountll(dirty & ~used) << FH_POOL_SHIFT;
    sums->metadata_bytes += sizeof *arena;
    for (uint64_t left = used; left != 0; left &= left - 1) {
        size_t number = (index << FH_ARENA_POOL_SHIFT) + fh_lowest_bit(left);
        add_pool(sums, pool_numbered(region, number));
        sums->metadata_bytes += FH_DESCRIPTOR_BYTES;
    }
}

struct fh_sums fh_stats_sum(void)
{
    struct fh_sums sums = {0};
    const struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return sums;
    for (size_t index = fh_region_next_arena(region, 0); index < region->arenas_max;
         index = fh_region_next_arena(region, index + 1))
        add_arena(&sums, region, index);
    sums.mapped_bytes = sums.arena_count << FH_ARENA_SHIFT;
    sums.heap_count = fh_load_relaxed_u64(&region->heaps_opened);
    sums.metadata_bytes += sums.heap_count * FH_THEAP_BYTES;
    return sums;
}
