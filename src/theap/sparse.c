/* SPDX-License-Identifier: MIT */
#include "sparse.h"

#include "arena.h"
#include "bits.h"
#include "hole.h"
#include "os.h"
#include "purge.h"
#include "shared.h"

/* What a pool is owned by while it is purged: no heap. Two purgers never have the same pool. */
enum { PURGER_ID = FH_THEAPS_MAX + 1 };

static const uint64_t purger;

static uint64_t purger_tag(void)
{
    return (uintptr_t)&purger;
}

static struct fh_pool *pool_numbered(const struct fh_region *region, size_t number)
{
    return (struct fh_pool *)(void *)(region->descriptors + (number << FH_DESCRIPTOR_SHIFT));
}

static uint32_t *stamp_of(const struct fh_region *region, size_t number)
{
    return &region->arenas[number >> FH_ARENA_POOL_SHIFT].freed_ms[number % FH_ARENA_POOLS];
}

/* ---- One pool ---------------------------------------------------------------------------------
 */

/* Return these pages, run by run. */
static size_t purge_pages(char *start, uint64_t pages)
{
    size_t bytes = 0;
    while (pages != 0) {
        unsigned first = fh_lowest_bit(pages);
        uint64_t after = ~(pages >> first);
        unsigned count = after == 0 ? 64 - first : fh_lowest_bit(after);
        if (fh_os_purge(start + (size_t)first * FH_CARVE_BYTES, (size_t)count * FH_CARVE_BYTES))
            bytes += (size_t)count * FH_CARVE_BYTES;
        pages &= ~(fh_low_bits(count) << first);
    }
    return bytes;
}

/* Of a pool that is purger_tag()'s. */
static size_t purge_holes(struct fh_region *region, struct fh_pool *pool)
{
    uint64_t pages = fh_pool_find_holes(pool, region->page_bytes);
    if (pages == 0)
        return 0;
    fh_pool_make_holes(pool, pages);
    return purge_pages((char *)pool->origin + FH_BLOCK_ALIGN_BYTES, pages);
}

static size_t purge_pool(struct fh_region *region, size_t number)
{
    struct fh_pool *pool = pool_numbered(region, number);
    if (!fh_pool_adopt(pool, purger_tag(), PURGER_ID))
        return 0;
    size_t bytes = purge_holes(region, pool);
    /* Relaxed: see fh_sparse_adopted(). */
    fh_store_relaxed_u32(stamp_of(region, number), fh_os_now_ms());
    enum fh_pool_event event = fh_pool_give_up(pool, PURGER_ID);
    if (event == FH_POOL_NOW_EMPTY)
        fh_shared_remove(region, pool);
    fh_shared_settle(region, pool, event == FH_POOL_NOW_SPARSE ? FH_POOL_NOW_SHARED : event);
    return bytes;
}

/* ---- Which pools ------------------------------------------------------------------------------
 */

/* [sparse-hint] The arena's hint is cleared before its word is read again, and fh_sparse_add()
 * writes the word before it reads the hint; all sequentially consistent. */
static void forget_arena(struct fh_region *region, uint32_t index)
{
    (void)fh_hints_clear(&region->hints, FH_HINTS_SPARSE, index);
    if (fh_load_seq_cst_u64(&region->arenas[index].sparse) != 0)
        fh_hints_set(&region->hints, FH_HINTS_SPARSE, index);
}

/* Take a pool off the list; false if somebody else did. */
static bool take(struct fh_region *region, uint32_t index, uint64_t bit)
{
    uint64_t *word = &region->arenas[index].sparse;
    /* Relaxed: a hint. Should the pool's word still be seen as it was before, the pool is passed
     * over until it is sparser yet. */
    if ((fh_fetch_and_relaxed_u64(word, ~bit) & bit) == 0)
        return false;
    (void)fh_fetch_add_relaxed_u64(&region->sparse_pools, ~(uint64_t)0); /* only to decide by */
    return true;
}

static bool is_old(const struct fh_region *region, size_t number, uint32_t age_ms)
{
    /* Relaxed: a stamp that is being renewed costs one purge too early. */
    return fh_os_now_ms() - fh_load_relaxed_u32(stamp_of(region, number)) >= age_ms;
}

/* Purge the sparse pools of an arena that are old enough, at most *pools of them. */
static size_t purge_arena(struct fh_region *region, uint32_t index, uint32_t age_ms,
                          unsigned *pools)
{
    size_t bytes = 0;
    uint64_t sparse = fh_load_relaxed_u64(&region->arenas[index].sparse); /* hints */
    for (uint64_t left = sparse; left != 0 && *pools > 0; left &= left - 1) {
        size_t number = ((size_t)index << FH_ARENA_POOL_SHIFT) + fh_lowest_bit(left);
        if (!is_old(region, number, age_ms) || !take(region, index, left & -left))
            continue;
        bytes += purge_pool(region, number);
        --*pools;
    }
    if (fh_load_relaxed_u64(&region->arenas[index].sparse) == 0) /* a guess */
        forget_arena(region, index);
    return bytes;
}

/* ---- Occasions --------------------------------------------------------------------------------
 */

static bool has_excess(const struct fh_region *region)
{
    /* Relaxed: an allowance, not a bound. */
    uint64_t allowed = FH_SPARSE_MIN_POOLS + fh_region_pools_in_use(region) / FH_SPARSE_PER_IN_USE +
                       fh_load_relaxed_u64(&region->retain_sparse);
    return fh_load_relaxed_u64(&region->sparse_pools) > allowed;
}

/* Some that have been sparse for a moment, in the next arena: one that is being freed whole will be
 * empty by then. */
static void purge_excess(struct fh_region *region)
{
    if (FH_LIKELY(!has_excess(region)))
        return;
    unsigned pools = FH_SPARSE_EXCESS_POOLS;
    /* Relaxed: only where to look, so that every arena has its turn. */
    uint32_t at = (uint32_t)fh_load_relaxed_u64(&region->sparse_cursor);
    uint32_t index = fh_hints_previous(&region->hints, FH_HINTS_SPARSE, at);
    if (index == FH_HINT_NONE)
        index = fh_hints_previous(&region->hints, FH_HINTS_SPARSE, FH_HINT_NONE);
    fh_store_relaxed_u64(&region->sparse_cursor, index);
    if (index != FH_HINT_NONE)
        (void)purge_arena(region, index, FH_SPARSE_MOMENT_MS, &pools);
}

void fh_sparse_add(struct fh_region *region, const struct fh_pool *pool)
{
    size_t number = fh_pool_number(region, pool);
    uint32_t index = (uint32_t)(number >> FH_ARENA_POOL_SHIFT);
    uint64_t bit = (uint64_t)1 << number % FH_ARENA_POOLS;
    /* [sparse-hint] seq_cst: the other end is in forget_arena(). */
    if ((fh_fetch_or_seq_cst_u64(&region->arenas[index].sparse, bit) & bit) == 0) {
        fh_store_relaxed_u32(stamp_of(region, number), fh_os_now_ms()); /* see is_old() */
        (void)fh_fetch_add_relaxed_u64(&region->sparse_pools, 1);       /* only to decide by */
    }
    fh_hints_set(&region->hints, FH_HINTS_SPARSE, index);
    purge_excess(region);
}

void fh_sparse_given_up(struct fh_region *region, const struct fh_pool *pool)
{
    size_t number = fh_pool_number(region, pool);
    uint32_t index = (uint32_t)(number >> FH_ARENA_POOL_SHIFT);
    if (has_excess(region) && take(region, index, (uint64_t)1 << number % FH_ARENA_POOLS))
        (void)purge_pool(region, number);
}

void fh_sparse_adopted(struct fh_region *region, const struct fh_pool *pool)
{
    if (FH_LIKELY(pool->holes == 0))
        return;
    uint32_t since_ms = fh_os_now_ms() -
                        /* Relaxed: a stamp that somebody is renewing tells as much. */
                        fh_load_relaxed_u32(stamp_of(region, fh_pool_number(region, pool)));
    if (since_ms < FH_REGRET_MS)
        /* Relaxed: an allowance. */
        (void)fh_fetch_add_relaxed_u64(&region->retain_sparse, FH_SPARSE_REGRET_POOLS);
}

/* An eighth less, as with free pools. */
static void allow_less(struct fh_region *region)
{
    uint64_t pools = fh_load_relaxed_u64(&region->retain_sparse);
    (void)fh_cas_relaxed_u64(&region->retain_sparse, &pools, pools - (pools + 7) / 8);
}

static size_t purge_old(struct fh_region *region, uint32_t age_ms, unsigned pools)
{
    size_t bytes = 0;
    uint32_t index = fh_hints_next(&region->hints, FH_HINTS_SPARSE, 0);
    while (index != FH_HINT_NONE && pools > 0) {
        bytes += purge_arena(region, index, age_ms, &pools);
        index = fh_hints_next(&region->hints, FH_HINTS_SPARSE, index + 1);
    }
    return bytes;
}

static size_t purge_by_age(struct fh_region *region, unsigned pools)
{
    uint64_t age_ms = fh_purge_decay_ms();
    return age_ms > UINT32_MAX ? 0 : purge_old(region, (uint32_t)age_ms, pools);
}

/* Relaxed: whoever gets the ticket; if it stops here, the next interval has another. */
static bool is_turn(struct fh_region *region)
{
    uint64_t due = fh_load_relaxed_u64(&region->sparse_is_due);
    return due != 0 && fh_cas_relaxed_u64(&region->sparse_is_due, &due, 0);
}

void fh_sparse_tick(struct fh_region *region)
{
    if (FH_LIKELY(!is_turn(region)))
        return;
    allow_less(region);
    (void)purge_by_age(region, FH_SPARSE_TICK_POOLS);
}

size_t fh_sparse_old(struct fh_region *region)
{
    if (is_turn(region))
        allow_less(region);
    return purge_by_age(region, ~0u);
}

size_t fh_sparse_trim(struct fh_region *region)
{
    size_t bytes = purge_old(region, 0, ~0u);
    for (size_t index = fh_region_next_arena(region, 0); index < region->arenas_max;
         index = fh_region_next_arena(region, index + 1)) {
        uint64_t used = fh_load_relaxed_u64(&region->arenas[index].used); /* a guess */
        for (; used != 0; used &= used - 1)
            bytes += purge_pool(region, (index << FH_ARENA_POOL_SHIFT) + fh_lowest_bit(used));
    }
    return bytes;
}
