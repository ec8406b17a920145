/* SPDX-License-Identifier: MIT */
/* A purge claims a run like anybody who wants memory, returns its pages, and releases it; only the
 * counts do not know. So it needs no lock against allocation, and a purger that stops withholds one
 * run. */
#include "purge.h"

#include "arena.h"
#include "bits.h"
#include "os.h"

/* Options of the process, not of a region: they are known before there is one. Each is read by
 * itself. */
static uint64_t decay_ms = FH_DECAY_MS;
static uint64_t retain_min_pools = FH_RETAIN_MIN_POOLS;

void fh_purge_configure(uint64_t new_decay_ms, uint64_t new_retain_min_pools)
{
    fh_store_own_u64(&decay_ms, new_decay_ms);
    fh_store_own_u64(&retain_min_pools, new_retain_min_pools);
}

uint64_t fh_purge_decay_ms(void)
{
    return fh_load_own_u64(&decay_ms);
}

/* Pools that are free, resident and old enough. */
static uint64_t purgeable(struct fh_arena *arena, uint32_t age_ms, uint64_t *free_dirty)
{
    uint32_t now_ms = fh_os_now_ms();
    /* seq_cst for [dirty-hint]. */
    uint64_t dirty = fh_load_seq_cst_u64(&arena->dirty);
    *free_dirty = dirty & ~fh_load_seq_cst_u64(&arena->used);
    uint64_t old = 0;
    for (uint64_t left = *free_dirty; left != 0; left &= left - 1) {
        unsigned pool = fh_lowest_bit(left);
        /* Relaxed: a stamp that is being renewed costs one purge too early. */
        if (now_ms - fh_load_relaxed_u32(&arena->freed_ms[pool]) >= age_ms)
            old |= (uint64_t)1 << pool;
    }
    return old;
}

/* Purge the lowest run in `old`; `excess` says why. Returns its bytes, 0 if somebody took it or the
 * system refuses. */
static size_t purge_run(struct fh_region *region, uint32_t index, uint64_t old, bool excess)
{
    unsigned first = fh_lowest_bit(old);
    uint64_t after = ~(old >> first);
    unsigned pools = after == 0 ? 64 - first : fh_lowest_bit(after);
    size_t pool_index = ((size_t)index << FH_ARENA_POOL_SHIFT) + first;
    if (!fh_arena_withhold(region, pool_index, pools))
        return 0;
    size_t bytes = (size_t)pools << FH_POOL_SHIFT;
    uint64_t bits = fh_low_bits(pools) << first;
    struct fh_arena *arena = &region->arenas[index];
    bool done = fh_os_purge(fh_arena_pool_address(region, pool_index), bytes);
    uint64_t purged = 0;
    /* Relaxed, both: the release of the run passes them on. */
    if (done && excess)
        (void)fh_fetch_or_relaxed_u64(&arena->regretted, bits);
    if (done)
        purged = fh_fetch_and_relaxed_u64(&arena->dirty, ~bits) & bits;
    fh_arena_restore(region, pool_index, pools, (unsigned)__builtin_popcountll(purged));
    return done ? bytes : 0;
}

/* [dirty-hint] The hint is cleared before the words are read again; a release writes them before it
 * reads the hint; all sequentially consistent. */
static void forget(struct fh_region *region, uint32_t index)
{
    uint64_t free_dirty;
    (void)fh_hints_clear(&region->hints, FH_HINTS_DIRTY, index);
    (void)purgeable(&region->arenas[index], 0, &free_dirty);
    if (free_dirty != 0)
        fh_hints_set(&region->hints, FH_HINTS_DIRTY, index);
}

static size_t purge_arena(struct fh_region *region, uint32_t index, uint32_t age_ms, bool excess,
                          unsigned *runs)
{
    size_t bytes = 0;
    uint64_t free_dirty;
    uint64_t old = purgeable(&region->arenas[index], age_ms, &free_dirty);
    while (old != 0 && *runs > 0) {
        size_t returned = purge_run(region, index, old, excess);
        bytes += returned;
        --*runs;
        uint64_t rest = old & (old + (old & -old)); /* without its lowest run */
        old = rest & purgeable(&region->arenas[index], age_ms, &free_dirty);
    }
    if (free_dirty == 0)
        forget(region, index);
    return bytes;
}

size_t fh_purge(struct fh_region *region, uint32_t age_ms, unsigned runs)
{
    size_t bytes = 0;
    /* Relaxed: only where to begin, so that every arena has its turn. */
    uint32_t from = (uint32_t)fh_load_relaxed_u64(&region->purge_cursor);
    for (int half = 0; half < 2 && runs > 0;
         half++) { /* from the cursor up, then from 0 up to it */
        uint32_t end = half == 0 ? FH_HINT_NONE : from;
        uint32_t index = fh_hints_next(&region->hints, FH_HINTS_DIRTY, half == 0 ? from : 0);
        while (index < end && runs > 0) {
            bytes += purge_arena(region, index, age_ms, false, &runs);
            fh_store_relaxed_u64(&region->purge_cursor, index);
            index = fh_hints_next(&region->hints, FH_HINTS_DIRTY, index + 1);
        }
    }
    return bytes;
}

/* ---- Too many ---------------------------------------------------------------------------------
 */

static bool has_excess(const struct fh_region *region)
{
    /* Relaxed: an allowance, not a bound. */
    uint64_t allowed = fh_load_own_u64(&retain_min_pools) +
                       fh_region_pools_in_use(region) / FH_RETAIN_PER_IN_USE +
                       fh_load_relaxed_u64(&region->retain_pools);
    return fh_region_retained_pools(region) > allowed;
}

void fh_purge_excess(struct fh_region *region)
{
    unsigned runs = FH_EXCESS_RUNS;
    uint32_t index = FH_HINT_NONE;
    while (FH_UNLIKELY(has_excess(region)) && runs > 0) {
        index = fh_hints_previous(&region->hints, FH_HINTS_DIRTY, index);
        if (index == FH_HINT_NONE)
            return;
        (void)purge_arena(region, index, 0, true, &runs);
    }
}

void fh_purge_regret(struct fh_region *region, unsigned pools)
{
    (void)fh_fetch_add_relaxed_u64(&region->retain_pools, 2u * (uint64_t)pools);
}

/* An eighth less. If others do so too, or regret, one of them counts; no matter. */
static void allow_less(struct fh_region *region)
{
    uint64_t pools = fh_load_relaxed_u64(&region->retain_pools);
    (void)fh_cas_relaxed_u64(&region->retain_pools, &pools, pools - (pools + 7) / 8);
}

/* Is it time, and this caller's turn? *next_ms holds when, 0 at first. */
static bool is_turn(uint64_t *next_ms)
{
    enum { KNOWN = 1 }; /* in bit 32: tells a deadline of 0 ms from none */
    uint32_t now_ms = fh_os_now_ms();
    uint64_t next = fh_load_relaxed_u64(next_ms);
    /* Unsigned, so that a deadline that nobody came by for weeks has passed too. */
    uint32_t left_ms = (uint32_t)next - now_ms;
    if (next != 0 && left_ms > 0 && left_ms <= FH_PURGE_INTERVAL_MS)
        return false;
    uint64_t later = (uint64_t)KNOWN << 32 | (uint32_t)(now_ms + FH_PURGE_INTERVAL_MS);
    /* Relaxed: a ticket that passes nothing. If the winner stops here, the next interval has
     * another. */
    return fh_cas_relaxed_u64(next_ms, &next, later) && next != 0;
}

static size_t purge_by_age(struct fh_region *region, unsigned runs)
{
    uint64_t age_ms = fh_purge_decay_ms();
    return age_ms > UINT32_MAX ? 0 : fh_purge(region, (uint32_t)age_ms, runs);
}

/* What one caller does when it is time, whatever it may purge. */
static bool begin_turn(struct fh_region *region)
{
    if (!is_turn(&region->next_purge_ms))
        return false;
    allow_less(region);
    fh_store_relaxed_u64(&region->sparse_is_due, 1); /* tickets that pass nothing, as above */
    fh_store_relaxed_u64(&region->holders_are_due, 1);
    return true;
}

void fh_purge_tick(struct fh_region *region)
{
    if (begin_turn(region))
        (void)purge_by_age(region, FH_PURGE_RUNS);
}

size_t fh_purge_old(struct fh_region *region)
{
    (void)begin_turn(region);
    return purge_by_age(region, ~0u);
}
