/* SPDX-License-Identifier: MIT */
/* Every field read here is one that others write while we look: each by itself is whole, and the
 * sums are exact when nobody else is inside the allocator. What would not fit together (a pool that
 * becomes another's between two looks) is cut to what fits. */
#include "stats.h"

#include <errno.h>
#include <string.h>

#include "bits.h"
#include "freehold/trace.h"
#include "theap.h"
#include "thread.h"

/* Where in its arenas a walk is. */
struct walk {
    struct fh_sums *sums;
    const struct fh_region *region;
    size_t huge_arenas; /* of a huge block, still to come */
    size_t huge_pools;
    size_t huge_bytes; /* usable ones */
};

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

static const struct fh_pool *pool_numbered(const struct fh_region *region, size_t number)
{
    return (const struct fh_pool *)(const void *)(region->descriptors +
                                                  (number << FH_DESCRIPTOR_SHIFT));
}

/* ---- A pool -----------------------------------------------------------------------------------
 */

/* Blocks that are with callers or ready in a bin. What others freed and nobody collected is not. */
static size_t live_blocks(const struct fh_pool *pool)
{
    uint64_t word = fh_load_relaxed_u64(&pool->word);
    size_t carved = fh_load_own_u32(&pool->carved);
    size_t credits = fh_word_credits(word);
    size_t freed = FH_ACTIVE_CREDITS - credits; /* when ACTIVE */
    size_t live;
    switch (fh_word_state(word)) {
    case FH_ACTIVE:
        live = fh_pool_live(pool) - smaller(freed, fh_pool_live(pool));
        break;
    case FH_FULL: /* threshold - credits of capacity are available */
        live = fh_load_own_u32(&pool->capacity) - fh_load_own_u32(&pool->threshold) + credits;
        break;
    case FH_FREE:
        live = 0;
        break;
    default:
        live = fh_word_shared_live(word, fh_load_own_u32(&pool->capacity));
    }
    return smaller(live, carved); /* the current pool counts one too many */
}

/* The class alone decides all sizes: one field, so that they belong together. */
static size_t add_blocks(struct fh_sums *sums, const struct fh_pool *pool, size_t room)
{
    unsigned class_index = fh_load_own_u8(&pool->class_index);
    size_t pools = class_index < FH_CLASSES ? fh_class_pools(class_index) : 0;
    if (pools == 0 || pools > room) {
        sums->spare_bytes += FH_POOL_BYTES; /* on its way from one use to the next */
        return 1;
    }
    size_t block_bytes = fh_class_block_bytes(class_index);
    size_t capacity = fh_class_capacity(class_index);
    size_t live = smaller(live_blocks(pool), capacity);
    sums->classes[class_index].pools++;
    sums->classes[class_index].live_blocks += live;
    sums->allocated_blocks += live;
    sums->allocated_bytes += live * block_bytes;
    sums->available_bytes += (capacity - live) * block_bytes;
    sums->quantization_bytes += (pools << FH_POOL_SHIFT) - capacity * block_bytes;
    *(pools == 1 ? &sums->small_pool_bytes : &sums->span_bytes) += pools << FH_POOL_SHIFT;
    return pools;
}

/* A large or huge block, or a part of one that fills so many pools. */
static void add_whole_pools(struct fh_sums *sums, size_t pools, size_t usable_bytes)
{
    size_t bytes = pools << FH_POOL_SHIFT;
    sums->large_bytes += usable_bytes;
    sums->allocated_bytes += usable_bytes;
    sums->quantization_bytes += bytes - usable_bytes;
}

static size_t add_large(struct fh_sums *sums, const struct fh_pool *pool, size_t room)
{
    size_t pools = smaller(fh_load_own_u32(&pool->pools), room);
    pools = pools == 0 ? 1 : pools;
    size_t usable_bytes = fh_load_own_u64(&pool->usable_bytes);
    add_whole_pools(sums, pools, smaller(usable_bytes, pools << FH_POOL_SHIFT));
    sums->large_pool_bytes += pools << FH_POOL_SHIFT;
    sums->large_blocks++;
    sums->allocated_blocks++;
    return pools;
}

/* ---- An arena ---------------------------------------------------------------------------------
 */

static void add_free(struct fh_sums *sums, uint64_t free_pools, uint64_t dirty)
{
    sums->retained_bytes += (size_t)__builtin_popcountll(free_pools & dirty) << FH_POOL_SHIFT;
    sums->purged_bytes += (size_t)__builtin_popcountll(free_pools & ~dirty) << FH_POOL_SHIFT;
}

/* The next arena of a huge block. Behind what the block has touched nothing is in use. */
static void add_huge(struct walk *walk, uint64_t dirty)
{
    size_t pools = smaller(walk->huge_pools, FH_ARENA_POOLS);
    size_t usable_bytes = smaller(walk->huge_bytes, pools << FH_POOL_SHIFT);
    add_whole_pools(walk->sums, pools, usable_bytes);
    walk->sums->huge_pool_bytes += pools << FH_POOL_SHIFT;
    add_free(walk->sums, fh_low_bits(FH_ARENA_POOLS) & ~fh_low_bits((unsigned)pools), dirty);
    walk->huge_arenas--;
    walk->huge_pools -= pools;
    walk->huge_bytes -= usable_bytes;
}

static void begin_huge(struct walk *walk, const struct fh_pool *pool)
{
    walk->huge_pools = fh_load_own_u32(&pool->pools);
    walk->huge_arenas = (walk->huge_pools + FH_ARENA_POOLS - 1) >> FH_ARENA_POOL_SHIFT;
    walk->huge_arenas = walk->huge_arenas == 0 ? 1 : walk->huge_arenas;
    walk->huge_bytes = fh_load_own_u64(&pool->usable_bytes);
    walk->sums->large_blocks++;
    walk->sums->allocated_blocks++;
}

/* Count what begins at this pool, of `room` claimed ones. Returns how many pools that are. */
static size_t add_run(struct walk *walk, const struct fh_pool *pool, size_t room)
{
    switch (fh_load_own_u8(&pool->kind)) {
    case FH_POOL_BLOCKS:
        return add_blocks(walk->sums, pool, room);
    case FH_POOL_LARGE:
        return add_large(walk->sums, pool, room);
    case FH_POOL_CLASSIC:
        walk->sums->classic_bytes += FH_POOL_BYTES;
        return 1;
    default:
        walk->sums->spare_bytes += FH_POOL_BYTES;
        return 1;
    }
}

static void add_used(struct walk *walk, size_t index, uint64_t used)
{
    const struct fh_pool *first = pool_numbered(walk->region, index << FH_ARENA_POOL_SHIFT);
    for (uint64_t left = used; left != 0;) {
        unsigned at = fh_lowest_bit(left);
        uint64_t behind = ~(left >> at);
        size_t room = behind == 0 ? 64 - at : fh_lowest_bit(behind);
        size_t pools = add_run(walk, first + at, room);
        left &= ~(fh_low_bits((unsigned)pools) << at);
    }
}

static bool holds_huge(const struct walk *walk, size_t index, uint64_t used)
{
    const struct fh_pool *pool = pool_numbered(walk->region, index << FH_ARENA_POOL_SHIFT);
    return used == fh_low_bits(FH_ARENA_POOLS) && fh_load_own_u8(&pool->kind) == FH_POOL_HUGE;
}

static void add_pools(struct walk *walk, size_t index, uint64_t used, uint64_t dirty)
{
    if (walk->huge_arenas == 0 && holds_huge(walk, index, used))
        begin_huge(walk, pool_numbered(walk->region, index << FH_ARENA_POOL_SHIFT));
    if (walk->huge_arenas > 0) {
        add_huge(walk, dirty);
        return;
    }
    add_free(walk->sums, ~used & fh_low_bits(FH_ARENA_POOLS), dirty);
    add_used(walk, index, used);
}

static void add_arena(struct walk *walk, size_t index)
{
    const struct fh_arena *arena = &walk->region->arenas[index];
    struct fh_sums *sums = walk->sums;
    sums->arenas_opened++;
    if (fh_load_acquire_u64(&arena->start) == 0) { /* [arena-open] acquire */
        walk->huge_arenas = 0;
        return;
    }
    uint64_t used = fh_load_relaxed_u64(&arena->used);
    add_pools(walk, index, used, fh_load_relaxed_u64(&arena->dirty));
    sums->arena_count++;
    sums->metadata_bytes += sizeof *arena;
    sums->metadata_bytes += (size_t)__builtin_popcountll(used) << FH_DESCRIPTOR_SHIFT;
}

struct fh_sums fh_stats_sum(void)
{
    struct fh_sums sums = {0};
    const struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return sums;
    struct walk walk = {.sums = &sums, .region = region};
    for (size_t index = fh_region_next_arena(region, 0); index < region->arenas_max;
         index = fh_region_next_arena(region, index + 1))
        add_arena(&walk, index);
    sums.mapped_bytes = sums.arena_count << FH_ARENA_SHIFT;
    sums.active_bytes = sums.small_pool_bytes + sums.span_bytes + sums.large_pool_bytes +
                        sums.huge_pool_bytes + sums.classic_bytes;
    sums.heap_count = fh_load_relaxed_u64(&region->heaps_opened);
    sums.metadata_bytes += sums.heap_count * FH_THEAP_BYTES;
    return sums;
}

/* ---- What is ready ----------------------------------------------------------------------------
 */

static size_t length_of(const struct fh_block *blocks)
{
    size_t length = 0;
    for (; blocks != NULL; blocks = blocks->next)
        length++;
    return length;
}

/* As live_blocks() counts them, one of a current pool may be none: by its lists it is known. */
static size_t counted_too_many(const struct fh_pool *pool)
{
    if (pool == NULL)
        return 0;
    size_t counted = live_blocks(pool);
    size_t freed = FH_ACTIVE_CREDITS - fh_word_credits(fh_load_relaxed_u64(&pool->word));
    size_t out = fh_load_own_u32(&pool->carved) - length_of(pool->local);
    out -= smaller(freed, out);
    return counted - smaller(out, counted);
}

static struct fh_ready ready_in(struct fh_theap *heap)
{
    struct fh_ready ready = {{0}};
    if (fh_theap_is_busy(heap))
        return ready;
    fh_theap_set_busy(heap);
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        ready.blocks[class_index] = length_of(heap->ready[class_index].list) +
                                    counted_too_many(heap->bins[class_index].current);
    fh_theap_set_idle(heap);
    return ready;
}

struct fh_ready fh_stats_ready(void)
{
    bool was_hidden = fh_theap_show();
    struct fh_ready ready = ready_in(fh_theap_of_thread());
    fh_theap_hide(was_hidden);
    return ready;
}

/* ---- The interface ----------------------------------------------------------------------------
 */

/* Never more than were counted. */
static size_t ready_of(const struct fh_sums *sums, const struct fh_ready *ready,
                       unsigned class_index)
{
    return smaller(ready->blocks[class_index], sums->classes[class_index].live_blocks);
}

size_t fh_stats_ready_bytes(const struct fh_sums *sums, const struct fh_ready *ready)
{
    size_t bytes = 0;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        bytes += ready_of(sums, ready, class_index) * fh_class_block_bytes(class_index);
    return bytes;
}

size_t fh_allocated_blocks(void)
{
    struct fh_sums sums = fh_stats_sum();
    struct fh_ready ready = fh_stats_ready();
    size_t blocks = sums.allocated_blocks;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        blocks -= ready_of(&sums, &ready, class_index);
    return blocks;
}

fh_class_stats fh_stats_class(const struct fh_sums *sums, const struct fh_ready *ready,
                              unsigned class_index)
{
    const struct fh_class_sums *class = &sums->classes[class_index];
    size_t blocks = class->pools * fh_class_capacity(class_index);
    size_t live = class->live_blocks - ready_of(sums, ready, class_index);
    return (fh_class_stats){
        .block_bytes = fh_class_block_bytes(class_index),
        .pools = class->pools,
        .live_blocks = live,
        .free_blocks = blocks - live,
        .pool_bytes = class->pools * fh_class_pools(class_index) << FH_POOL_SHIFT,
    };
}

size_t fh_stats_classes(fh_class_stats *out, size_t count)
{
    struct fh_sums sums = fh_stats_sum();
    struct fh_ready ready = fh_stats_ready();
    for (unsigned class_index = 0; class_index < smaller(count, FH_CLASSES); class_index++)
        out[class_index] = fh_stats_class(&sums, &ready, class_index);
    return FH_CLASSES;
}

static size_t reserved_bytes(const struct fh_region *region)
{
    if (region == NULL)
        return 0;
    return region->base + region->bytes - (uintptr_t)region;
}

static void fill_in(fh_stats *stats, const struct fh_sums *sums)
{
    stats->allocated_bytes = sums->allocated_bytes;
    stats->active_bytes = sums->active_bytes;
    stats->retained_bytes = sums->retained_bytes;
    stats->mapped_bytes = sums->mapped_bytes;
    stats->metadata_bytes = sums->metadata_bytes;
    stats->arena_count = sums->arena_count;
    stats->heap_count = sums->heap_count;
    stats->spare_bytes = sums->spare_bytes;
    stats->purged_bytes = sums->purged_bytes;
    stats->small_pool_bytes = sums->small_pool_bytes;
    stats->span_bytes = sums->span_bytes;
    stats->large_pool_bytes = sums->large_pool_bytes;
    stats->huge_pool_bytes = sums->huge_pool_bytes;
    stats->classic_bytes = sums->classic_bytes;
    stats->available_bytes = sums->available_bytes;
    stats->quantization_bytes = sums->quantization_bytes;
    stats->allocated_blocks = sums->allocated_blocks;
    stats->large_blocks = sums->large_blocks;
}

static void fill_in_pages(fh_stats *stats, const struct fh_region *region)
{
    struct fh_resident resident;
    bool known = fh_stats_resident(region, &resident);
    stats->resident_bytes = known ? resident.arena_bytes : FH_STATS_UNKNOWN;
    stats->metadata_resident_bytes = known ? resident.metadata_bytes : FH_STATS_UNKNOWN;
    stats->reserved_bytes = reserved_bytes(region);
    stats->trace_bytes = fh_trace_overhead();
}

/* A program that was built with a shorter struct has no use for the rest, nor the wait for it. */
int fh_get_stats(fh_stats *out)
{
    size_t first_bytes = offsetof(fh_stats, spare_bytes);
    if (out == NULL || out->struct_bytes < first_bytes) {
        errno = EINVAL;
        return -1;
    }
    fh_stats all = {.struct_bytes = out->struct_bytes};
    struct fh_sums sums = fh_stats_sum();
    struct fh_ready ready = fh_stats_ready();
    fill_in(&all, &sums);
    all.ready_bytes = fh_stats_ready_bytes(&sums, &ready);
    if (out->struct_bytes > first_bytes)
        fill_in_pages(&all, fh_region_peek());
    memcpy(out, &all, smaller(out->struct_bytes, sizeof all));
    return 0;
}
