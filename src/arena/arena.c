/* SPDX-License-Identifier: MIT */
#include "arena.h"

#include "bits.h"
#include "grow.h"
#include "limit.h"
#include "os.h"
#include "purge.h"

static uint64_t all_pools(void)
{
    return fh_low_bits(FH_ARENA_POOLS);
}

static uint64_t run_bits(unsigned first, unsigned pools)
{
    return fh_low_bits(pools) << first;
}

char *fh_arena_pool_address(const struct fh_region *region, size_t pool_index)
{
    /* Relaxed: whoever knows a claimed pool has been past [arena-open]. */
    uint64_t start = fh_load_relaxed_u64(&region->arenas[pool_index >> FH_ARENA_POOL_SHIFT].start);
    return (char *)start + ((pool_index % FH_ARENA_POOLS) << FH_POOL_SHIFT);
}

/* ---- Hints about an arena ---------------------------------------------------------------------
 */

/* Hints are set when pools are released, and stay when they are claimed: taking them away and
 * putting them back on every call would make one cache line everybody's. Who finds one stale takes
 * it away. */

/* The arena was found full (ROOM) or in use (EMPTY). [arena-hint] seq_cst: the hint is cleared
 * before the word is read again, and after_release() writes the word before it reads the hint. */
static void forget(struct fh_region *region, unsigned set, uint32_t index, uint64_t at_most)
{
    (void)fh_hints_clear(&region->hints, set, index);
    uint64_t free_pools = ~fh_load_seq_cst_u64(&region->arenas[index].used) & all_pools();
    if (free_pools > at_most)
        fh_hints_set(&region->hints, set, index);
}

static void forget_room(struct fh_region *region, uint32_t index)
{
    forget(region, FH_HINTS_ROOM, index, 0);
}

static void forget_empty(struct fh_region *region, uint32_t index)
{
    forget(region, FH_HINTS_EMPTY, index, all_pools() - 1);
}

/* Call after bits were cleared in `used`. Sets what is missing also when an earlier thread died
 * before it could. */
static void after_release(struct fh_region *region, uint32_t index, uint64_t after)
{
    fh_hints_set(&region->hints, FH_HINTS_ROOM, index);
    if (after == 0)
        fh_hints_set(&region->hints, FH_HINTS_EMPTY, index);
}

/* ---- How much is free and resident ------------------------------------------------------------
 */

static uint64_t count_bits(uint64_t bits)
{
    return (uint64_t)__builtin_popcountll(bits);
}

/* `pools` more are in use, of which so many were retained; or fewer, if they are negative. Relaxed:
 * numbers, which pass nothing. */
static void count(struct fh_region *region, uint64_t pools, uint64_t retained)
{
    (void)fh_fetch_add_relaxed_u64(&region->pool_counts, (pools << 32) - retained);
}

/* The same for a claim: false, and nothing is counted, if that is over the limit. */
static bool count_claimed(struct fh_region *region, uint64_t pools, uint64_t retained)
{
    if (FH_UNLIKELY(fh_limit_find() != NULL))
        return fh_limit_count(region, pools, retained);
    count(region, pools, retained);
    return true;
}

/* These bits are claimed, and counted. Relaxed: they change in `regretted` only while their pools
 * are claimed, here by this thread. */
static void note_regret(struct fh_region *region, struct fh_arena *arena, uint64_t bits)
{
    uint64_t regretted = fh_load_relaxed_u64(&arena->regretted) & bits;
    if (FH_UNLIKELY(regretted != 0)) {
        (void)fh_fetch_and_relaxed_u64(&arena->regretted, ~regretted);
        /* One stamp speaks for all: they were purged as one run or soon after each other. */
        uint32_t since_ms =
            fh_os_now_ms() - fh_load_relaxed_u32(&arena->freed_ms[fh_lowest_bit(regretted)]);
        if (since_ms < FH_REGRET_MS)
            fh_purge_regret(region, (unsigned)count_bits(regretted));
    }
}

/* Which of these bits, claimed by this thread, are dirty. Relaxed: they change only while their
 * pools are claimed. */
static uint64_t dirty_among(struct fh_arena *arena, uint64_t bits)
{
    return fh_load_relaxed_u64(&arena->dirty) & bits;
}

/* Clear `bits`, which this thread holds but which are not counted as in use, and say so. */
static void release_bits(struct fh_region *region, uint32_t index, uint64_t bits)
{
    struct fh_arena *arena = &region->arenas[index];
    bool dirty = dirty_among(arena, bits) != 0;
    /* [arena-run] release: this thread's last use of the memory, its descriptors and the dirty bits
     * come before the next claim. seq_cst for [arena-hint]. */
    uint64_t before = fh_fetch_and_seq_cst_u64(&arena->used, ~bits);
    after_release(region, index, before & ~bits);
    /* [dirty-hint] seq_cst: the hint is read after the words are written; the other end is
     * purge.c's forget(). */
    if (dirty)
        fh_hints_set(&region->hints, FH_HINTS_DIRTY, index);
}

/* Bits just claimed: count them, or give them back if that is over the limit. */
static bool settle_claim(struct fh_region *region, uint32_t index, uint64_t bits, bool *zeroed)
{
    struct fh_arena *arena = &region->arenas[index];
    uint64_t dirty = dirty_among(arena, bits);
    if (!count_claimed(region, count_bits(bits), count_bits(dirty))) {
        release_bits(region, index, bits);
        return false;
    }
    note_regret(region, arena, bits);
    *zeroed = dirty == 0;
    return true;
}

/* ---- Runs inside an arena ---------------------------------------------------------------------
 */

/* Multiples of align_pools, as bits. */
static uint64_t aligned_starts(unsigned align_pools)
{
    return align_pools >= 64 ? 1 : ~(uint64_t)0 / fh_low_bits(align_pools);
}

/* Claim in this arena; false if it has no such run (or is not open yet), or not within the limit.
 */
static bool claim_in(struct fh_region *region, uint32_t index, unsigned pools, unsigned align_pools,
                     struct fh_run *run)
{
    struct fh_arena *arena = &region->arenas[index];
    /* [arena-open] acquire: the arena's memory is usable, and in the table of extra arenas. */
    if (fh_load_acquire_u64(&arena->start) == 0)
        return false;
    uint64_t used = fh_load_relaxed_u64(&arena->used); /* a guess: the CAS checks it */
    for (;;) {
        uint64_t fits = fh_runs_of_ones(~used & all_pools(), pools) & aligned_starts(align_pools);
        if (fits == 0) {
            if (used == all_pools())
                forget_room(region, index);
            return false;
        }
        uint64_t dirty = fh_load_relaxed_u64(&arena->dirty); /* a preference */
        unsigned first = fh_lowest_bit((fits & dirty) != 0 ? fits & dirty : fits);
        uint64_t bits = run_bits(first, pools);
        if (fh_limit_refuses(region, count_bits(bits & ~dirty)))
            return false;
        run->pool_index = ((size_t)index << FH_ARENA_POOL_SHIFT) + first;
        /* [arena-run] acquire: the memory as its last holder left it, dirty bits and descriptors
         * too. */
        if (fh_cas_acquire_u64(&arena->used, &used, used | bits))
            return settle_claim(region, index, bits, &run->zeroed);
    }
}

/* As fh_grow(); of each arena so many pools are in use, and counted first, so that no arena is
 * opened in vain. */
static bool grow_counted(struct fh_region *region, size_t arenas, size_t align_arenas,
                         unsigned pools, uint32_t *index)
{
    if (!count_claimed(region, (uint64_t)arenas * pools, 0))
        return false;
    if (fh_grow(region, arenas, align_arenas, fh_low_bits(pools), index))
        return true;
    count(region, -((uint64_t)arenas * pools), 0);
    return false;
}

/* In a new arena. */
static bool claim_new(struct fh_region *region, unsigned pools, struct fh_run *run)
{
    uint32_t index;
    if (!grow_counted(region, 1, 1, pools, &index))
        return false;
    run->pool_index = (size_t)index << FH_ARENA_POOL_SHIFT;
    run->zeroed = true;
    if (pools < FH_ARENA_POOLS)
        fh_hints_set(&region->hints, FH_HINTS_ROOM, index);
    return true;
}

/* In one of the first `arenas` arenas of a hint set. */
static bool claim_hinted(struct fh_region *region, unsigned set, size_t arenas, unsigned pools,
                         unsigned align_pools, struct fh_run *run)
{
    uint32_t index = fh_hints_next(&region->hints, set, 0);
    for (; index != FH_HINT_NONE && arenas > 0; arenas--) {
        if (claim_in(region, index, pools, align_pools, run))
            return true;
        if (set == FH_HINTS_EMPTY)
            forget_empty(region, index);
        index = fh_hints_next(&region->hints, set, index + 1);
    }
    return false;
}

/* The searches are bounded while the system gives more; only then every arena has its turn. */
bool fh_arena_claim(struct fh_region *region, unsigned pools, unsigned align_pools,
                    struct fh_run *run)
{
    bool part = pools < FH_ARENA_POOLS;
    unsigned set = part ? (unsigned)FH_HINTS_ROOM : (unsigned)FH_HINTS_EMPTY;
    return claim_hinted(region, set, FH_CLAIM_ARENAS, pools, align_pools, run) ||
           (part &&
            claim_hinted(region, FH_HINTS_EMPTY, FH_CLAIM_ARENAS, pools, align_pools, run)) ||
           claim_new(region, pools, run) ||
           (!fh_limit_refuses(region, pools) &&
            claim_hinted(region, set, SIZE_MAX, pools, align_pools, run));
}

bool fh_arena_claim_near(struct fh_region *region, uint32_t *near, unsigned pools,
                         unsigned align_pools, struct fh_run *run)
{
    if (fh_region_has_arena(region, *near) && claim_in(region, *near, pools, align_pools, run))
        return true;
    if (!fh_arena_claim(region, pools, align_pools, run))
        return false;
    *near = (uint32_t)(run->pool_index >> FH_ARENA_POOL_SHIFT);
    return true;
}

bool fh_arena_withhold(struct fh_region *region, size_t pool_index, unsigned pools)
{
    uint32_t index = (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT);
    uint64_t bits = run_bits((unsigned)(pool_index % FH_ARENA_POOLS), pools);
    struct fh_arena *arena = &region->arenas[index];
    uint64_t used = fh_load_relaxed_u64(&arena->used); /* a guess: the CAS checks it */
    do {
        if ((used & bits) != 0)
            return false;
        /* [arena-run] acquire, as in claim_in(). */
    } while (!fh_cas_acquire_u64(&arena->used, &used, used | bits));
    return true;
}

void fh_arena_restore(struct fh_region *region, size_t pool_index, unsigned pools,
                      unsigned purged_pools)
{
    count(region, 0, purged_pools);
    release_bits(region, (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT),
                 run_bits((unsigned)(pool_index % FH_ARENA_POOLS), pools));
}

bool fh_arena_claim_at(struct fh_region *region, size_t pool_index, unsigned pools)
{
    bool zeroed;
    return fh_arena_withhold(region, pool_index, pools) &&
           settle_claim(region, (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT),
                        run_bits((unsigned)(pool_index % FH_ARENA_POOLS), pools), &zeroed);
}

bool fh_arena_extend(struct fh_region *region, size_t pool_index, unsigned pools, unsigned more)
{
    if (pool_index % FH_ARENA_POOLS + pools + more > FH_ARENA_POOLS)
        return false;
    return fh_arena_claim_at(region, pool_index + pools, more);
}

static void stamp(struct fh_arena *arena, unsigned first, unsigned pools)
{
    uint32_t now_ms = fh_os_now_ms();
    for (unsigned pool = first; pool < first + pools; pool++)
        fh_store_relaxed_u32(&arena->freed_ms[pool], now_ms); /* a purge may be looking */
}

/* The end of a claim that was counted. */
static void count_and_release(struct fh_region *region, uint32_t index, uint64_t bits)
{
    uint64_t dirty = dirty_among(&region->arenas[index], bits);
    count(region, -count_bits(bits), -count_bits(dirty));
    release_bits(region, index, bits);
}

void fh_arena_release_clean(struct fh_region *region, size_t pool_index, unsigned pools)
{
    count_and_release(region, (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT),
                      run_bits((unsigned)(pool_index % FH_ARENA_POOLS), pools));
}

static void release_dirty(struct fh_region *region, uint32_t index, uint64_t bits, uint64_t dirty)
{
    struct fh_arena *arena = &region->arenas[index];
    /* Relaxed: these bits change only while their pools are claimed, here by this thread. */
    if ((fh_load_relaxed_u64(&arena->dirty) & dirty) != dirty)
        (void)fh_fetch_or_seq_cst_u64(&arena->dirty, dirty); /* [arena-run] release, with `used` */
    count_and_release(region, index, bits);
}

void fh_arena_release(struct fh_region *region, size_t pool_index, unsigned pools)
{
    uint32_t index = (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT);
    unsigned first = (unsigned)(pool_index % FH_ARENA_POOLS);
    stamp(&region->arenas[index], first, pools);
    release_dirty(region, index, run_bits(first, pools), run_bits(first, pools));
    fh_purge_excess(region);
    fh_purge_tick(region);
}

/* ---- Runs of whole arenas ---------------------------------------------------------------------
 */

/* Arenas just claimed, not counted yet. */
static void release_whole(struct fh_region *region, uint32_t first, uint32_t arenas)
{
    for (uint32_t index = first; index < first + arenas; index++)
        release_bits(region, index, all_pools());
}

/* The arena that begins at `start`. One whose memory was given back may have been opened again
 * elsewhere since anybody looked, so who has claimed it looks once more: it stays where it is from
 * then on. */
static bool claim_whole(struct fh_region *region, uint32_t index, uintptr_t start)
{
    struct fh_arena *arena = &region->arenas[index];
    uint64_t used = 0;
    /* [arena-open] acquire and [arena-run] acquire, as in claim_in(). */
    if (fh_load_acquire_u64(&arena->start) != start ||
        !fh_cas_acquire_u64(&arena->used, &used, all_pools()))
        return false;
    if (fh_load_relaxed_u64(&arena->start) == start)
        return true;
    release_whole(region, index, 1);
    return false;
}

/* Claim [first, first + arenas), which begin at `start`, one by one, lowest first; all or nothing.
 * Of two threads that want overlapping runs the one that is further up goes on, so somebody
 * succeeds. Counts nothing. */
static bool claim_arenas_at(struct fh_region *region, uint32_t first, uintptr_t start,
                            size_t arenas)
{
    uint32_t index = first;
    while (index < first + arenas && claim_whole(region, index, start)) {
        start += FH_ARENA_BYTES;
        index++;
    }
    if (index == first + arenas)
        return true;
    release_whole(region, first, index - first);
    return false;
}

/* Arenas just claimed: count them, or give all back if that is over the limit. */
static bool settle_arenas(struct fh_region *region, uint32_t first, size_t arenas, bool *zeroed)
{
    uint64_t dirty_pools = 0;
    for (uint32_t index = first; index < first + arenas; index++)
        dirty_pools += count_bits(dirty_among(&region->arenas[index], all_pools()));
    if (!count_claimed(region, (uint64_t)arenas << FH_ARENA_POOL_SHIFT, dirty_pools)) {
        release_whole(region, first, (uint32_t)arenas);
        return false;
    }
    for (uint32_t index = first; index < first + arenas; index++)
        note_regret(region, &region->arenas[index], all_pools());
    *zeroed = dirty_pools == 0;
    return true;
}

static uint64_t start_of(const struct fh_region *region, uint32_t index)
{
    /* [arena-open] acquire, as in claim_in(). */
    return fh_load_acquire_u64(&region->arenas[index].start);
}

/* How many arenas from `first` on look empty and lie one behind the other, at most `wanted`. */
static size_t empty_arenas_from(const struct fh_region *region, uint32_t first, size_t wanted)
{
    size_t found = 0;
    while (found < wanted && fh_region_has_arena(region, first + found) &&
           start_of(region, first + (uint32_t)found) ==
               start_of(region, first) + (found << FH_ARENA_SHIFT) &&
           /* a guess: the claim checks it */
           fh_load_relaxed_u64(&region->arenas[first + found].used) == 0)
        found++;
    return found;
}

bool fh_arenas_claim(struct fh_region *region, size_t arenas, size_t align_arenas,
                     struct fh_run *run)
{
    uint32_t index = fh_hints_next(&region->hints, FH_HINTS_EMPTY, 0);
    while (index != FH_HINT_NONE) { /* each arena at most once */
        size_t found = 0;
        uint64_t start = start_of(region, index); /* 0: not seen to be open, though the hint is */
        bool aligned = start != 0 && (start >> FH_ARENA_SHIFT) % align_arenas == 0;
        if (aligned)
            found = empty_arenas_from(region, index, arenas);
        if (found == arenas && claim_arenas_at(region, index, start, arenas)) {
            run->pool_index = (size_t)index << FH_ARENA_POOL_SHIFT;
            return settle_arenas(region, index, arenas, &run->zeroed);
        }
        if (aligned && found == 0)
            forget_empty(region, index);
        uint32_t skip = !aligned || align_arenas > 1 ? 1 : (uint32_t)found + 1;
        index = fh_hints_next(&region->hints, FH_HINTS_EMPTY, index + skip);
    }
    if (!grow_counted(region, arenas, align_arenas, FH_ARENA_POOLS, &index))
        return false;
    run->pool_index = (size_t)index << FH_ARENA_POOL_SHIFT;
    run->zeroed = true;
    return true;
}

bool fh_arenas_extend(struct fh_region *region, size_t pool_index, size_t arenas, size_t more)
{
    uint32_t last = (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT) + (uint32_t)arenas - 1;
    uintptr_t end = start_of(region, last) + FH_ARENA_BYTES;
    bool zeroed;
    if (!fh_region_has_arena(region, last + 1) || start_of(region, last + 1) != end ||
        empty_arenas_from(region, last + 1, more) != more)
        return false;
    return claim_arenas_at(region, last + 1, end, more) &&
           settle_arenas(region, last + 1, more, &zeroed);
}

void fh_arenas_release(struct fh_region *region, size_t pool_index, size_t arenas,
                       size_t touched_pools)
{
    uint32_t first = (uint32_t)(pool_index >> FH_ARENA_POOL_SHIFT);
    for (uint32_t index = first; index < first + arenas; index++) {
        unsigned touched =
            touched_pools < FH_ARENA_POOLS ? (unsigned)touched_pools : FH_ARENA_POOLS;
        touched_pools -= touched;
        stamp(&region->arenas[index], 0, touched);
        release_dirty(region, index, all_pools(), fh_low_bits(touched));
    }
    fh_purge_excess(region);
    fh_purge_tick(region);
}
