/* SPDX-License-Identifier: MIT */
/* arena/arena.h: runs of pools and of arenas, alone against exact expectations and among threads.
 */
#include "modules.h"

#include <string.h>

#include "arena.h"
#include "bits.h"
#include "purge.h"

enum { ARENAS = 3, POOLS = ARENAS * FH_ARENA_POOLS };

/* Which pools of a region the test holds. */
struct held {
    bool pool[64 * FH_ARENA_POOLS];
};

static void hold(const struct fh_region *region, struct held *held, size_t first, size_t pools)
{
    for (size_t i = first; i < first + pools; i++) {
        CHECK(i < ((size_t)region->arenas_max << FH_ARENA_POOL_SHIFT) && !held->pool[i]);
        held->pool[i] = true;
    }
}

/* The words of all arenas are what the test holds, and the hints are true to them. */
static void check_held(const struct fh_region *region, const struct held *held)
{
    for (size_t i = fh_region_next_arena(region, 0); i < region->arenas_max;
         i = fh_region_next_arena(region, i + 1))
        for (unsigned bit = 0; bit < FH_ARENA_POOLS; bit++)
            CHECK((region->arenas[i].used >> bit & 1) ==
                  held->pool[(i << FH_ARENA_POOL_SHIFT) + bit]);
    check_region(region);
}

/* ---- Runs inside an arena ----------------------------------------------------------------- */

static size_t runs_that_fit(unsigned pools, unsigned align_pools)
{
    return (FH_ARENA_POOLS - pools) / fh_round_up(pools, align_pools) + 1;
}

static void claim_until_exhausted(unsigned pools, unsigned align_pools)
{
    static struct held held;
    struct fh_region *region = new_region(ARENAS, 0, false);
    struct fh_run run;
    size_t runs = 0;
    memset(&held, 0, sizeof held);
    while (fh_arena_claim(region, pools, align_pools, &run)) {
        uintptr_t start = (uintptr_t)fh_arena_pool_address(region, run.pool_index);
        CHECK(start == region->base + (run.pool_index << FH_POOL_SHIFT));
        CHECK(start % ((uintptr_t)align_pools << FH_POOL_SHIFT) == 0 && run.zeroed);
        CHECK(run.pool_index % FH_ARENA_POOLS + pools <= FH_ARENA_POOLS);
        hold(region, &held, run.pool_index, pools);
        runs++;
    }
    CHECK(runs == ARENAS * runs_that_fit(pools, align_pools));
    check_held(region, &held);
}

TEST(claims_of_every_length_and_alignment_fill_the_region_exactly)
{
    for (unsigned pools = 1; pools <= FH_ARENA_POOLS; pools++)
        for (unsigned align_pools = 1; align_pools <= FH_ARENA_POOLS; align_pools *= 2)
            claim_until_exhausted(pools, align_pools);
}

TEST(the_lowest_arena_with_room_comes_first_and_in_it_resident_pools)
{
    struct fh_region *region = new_region(ARENAS, 0, false);
    struct fh_run run;
    for (size_t i = 0; i < POOLS; i++)
        CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == i);
    fh_arena_release_clean(region, FH_ARENA_POOLS, 1); /* in the second arena */
    fh_arena_release(region, FH_ARENA_POOLS + 1, 1);
    CHECK(fh_arena_claim(region, 1, 1, &run));
    CHECK(run.pool_index == FH_ARENA_POOLS + 1 && !run.zeroed);
    fh_arena_release_clean(region, 0, 1);
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == 0 && run.zeroed);
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == FH_ARENA_POOLS && run.zeroed);
    CHECK(!fh_arena_claim(region, 1, 1, &run));
}

TEST(a_released_run_is_dirty_and_a_clean_one_is_not)
{
    struct fh_region *region = new_region(1, 0, false);
    struct fh_run run;
    CHECK(fh_arena_claim(region, FH_ARENA_POOLS, 1, &run) && run.zeroed);
    fh_arena_release(region, 1, FH_ARENA_POOLS - 1);
    CHECK(region->arenas[0].used == 1);
    CHECK(region->arenas[0].dirty == (fh_low_bits(FH_ARENA_POOLS) & ~(uint64_t)1));
    fh_arena_release_clean(region, 0, 1);
    CHECK(region->arenas[0].used == 0 && (region->arenas[0].dirty & 1) == 0);
    check_region(region);
    CHECK(fh_arena_claim(region, FH_ARENA_POOLS, 1, &run) && !run.zeroed);
}

TEST(a_run_is_extended_over_free_pools_and_not_over_others)
{
    struct fh_region *region = new_region(2, 0, false);
    struct fh_run run;
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == 0);
    CHECK(fh_arena_extend(region, 0, 1, FH_ARENA_POOLS - 1));
    CHECK(region->arenas[0].used == fh_low_bits(FH_ARENA_POOLS));
    CHECK(!fh_arena_extend(region, 0, FH_ARENA_POOLS, 1)); /* the arena ends there */
    fh_arena_release(region, 1, FH_ARENA_POOLS - 1);
    CHECK(fh_arena_claim_at(region, FH_ARENA_POOLS - 1, 1));
    CHECK(!fh_arena_claim_at(region, FH_ARENA_POOLS - 1, 1));
    CHECK(!fh_arena_extend(region, 0, 1, FH_ARENA_POOLS - 1));
    check_region(region);
}

TEST(a_claim_near_an_arena_is_served_there_as_long_as_it_has_room)
{
    struct fh_region *region = new_region(3, 0, false);
    struct fh_run run;
    uint32_t near = 2; /* not open yet */
    CHECK(fh_arena_claim_near(region, &near, FH_ARENA_POOLS, 1, &run) && near == 0);
    CHECK(fh_arena_claim_near(region, &near, 1, 1, &run) && near == 1);
    CHECK(run.pool_index == FH_ARENA_POOLS);
    fh_arena_release(region, 0, FH_ARENA_POOLS); /* lower, but not near */
    CHECK(fh_arena_claim_near(region, &near, FH_ARENA_POOLS - 1, 1, &run) && near == 1);
    CHECK(fh_arena_claim_near(region, &near, 1, 1, &run) && near == 0 && !run.zeroed);
    check_region(region);
}

TEST(stale_hints_at_arenas_in_use_are_taken_away_and_true_ones_followed)
{
    struct fh_region *region = new_region(3, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 3, 1, &run));
    fh_arena_release(region, 2 * FH_ARENA_POOLS, FH_ARENA_POOLS);
    for (uint32_t i = 0; i < 2; i++) {
        fh_hints_set(&region->hints, FH_HINTS_ROOM, i);
        fh_hints_set(&region->hints, FH_HINTS_EMPTY, i);
    }
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == 2 * FH_ARENA_POOLS);
    fh_arena_release(region, run.pool_index, 1);
    CHECK(fh_arena_claim(region, FH_ARENA_POOLS, 1, &run));
    CHECK(run.pool_index == 2 * FH_ARENA_POOLS);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(!fh_hints_has(&region->hints, FH_HINTS_ROOM, i));
        CHECK(!fh_hints_has(&region->hints, FH_HINTS_EMPTY, i));
    }
}

/* ---- Runs of whole arenas ----------------------------------------------------------------- */

static void claim_arenas_until_exhausted(uint32_t all, size_t arenas, size_t align_arenas)
{
    static struct held held;
    struct fh_region *region = new_region(all, 0, false);
    struct fh_run run;
    size_t runs = 0;
    memset(&held, 0, sizeof held);
    while (fh_arenas_claim(region, arenas, align_arenas, &run)) {
        uintptr_t start = (uintptr_t)fh_arena_pool_address(region, run.pool_index);
        CHECK(start % (align_arenas << FH_ARENA_SHIFT) == 0 && run.zeroed);
        hold(region, &held, run.pool_index, arenas << FH_ARENA_POOL_SHIFT);
        runs++;
    }
    /* The base is a multiple of every alignment tried. */
    size_t expected = all < arenas ? 0 : (all - arenas) / fh_round_up(arenas, align_arenas) + 1;
    CHECK(runs == expected);
    check_held(region, &held);
}

TEST(claims_of_whole_arenas_fill_the_region_exactly)
{
    for (uint32_t all = 4; all <= 13; all += 3)
        for (size_t arenas = 1; arenas <= all + 1; arenas++)
            for (size_t align_arenas = 1; align_arenas <= 4; align_arenas *= 2)
                claim_arenas_until_exhausted(all, arenas, align_arenas);
}

TEST(arenas_skipped_for_alignment_serve_others)
{
    struct fh_region *region = new_region(8, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 1, 1, &run) && run.pool_index == 0);
    CHECK(fh_arenas_claim(region, 2, 4, &run) && run.pool_index == 4 * FH_ARENA_POOLS);
    CHECK(claimed_pools(region) == 3 * FH_ARENA_POOLS);
    CHECK(fh_arenas_claim(region, 3, 1, &run) && run.pool_index == FH_ARENA_POOLS && run.zeroed);
    check_region(region);
}

TEST(a_run_of_arenas_grows_over_empty_ones)
{
    struct fh_region *region = new_region(6, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 6, 1, &run));
    fh_arenas_release(region, 2 * FH_ARENA_POOLS, 4, 0);
    CHECK(fh_arena_claim_at(region, 4 * FH_ARENA_POOLS, 1));
    CHECK(!fh_arenas_extend(region, 0, 2, 3)); /* one of them has a pool in use */
    CHECK(claimed_pools(region) == 2 * FH_ARENA_POOLS + 1);
    CHECK(fh_arenas_extend(region, 0, 2, 2));
    CHECK(!fh_arenas_extend(region, 5 * FH_ARENA_POOLS, 1, 1)); /* the region ends there */
    CHECK(claimed_pools(region) == 4 * FH_ARENA_POOLS + 1);
    check_region(region);
}

TEST(only_what_was_touched_of_a_run_of_arenas_becomes_dirty)
{
    struct fh_region *region = new_region(3, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 3, 1, &run));
    fh_arenas_release(region, 0, 3, FH_ARENA_POOLS + 1);
    CHECK(region->arenas[0].dirty == fh_low_bits(FH_ARENA_POOLS));
    CHECK(region->arenas[1].dirty == 1 && region->arenas[2].dirty == 0);
    check_region(region);
    CHECK(fh_arenas_claim(region, 1, 1, &run) && run.pool_index == 0 && !run.zeroed);
    CHECK(fh_arenas_claim(region, 1, 1, &run) && !run.zeroed);
    CHECK(fh_arenas_claim(region, 1, 1, &run) && run.zeroed);
}

/* ---- Random walks ------------------------------------------------------------------------- */

struct walk_run {
    size_t first, pools;
};

enum { WALK_RUNS = 40, WALK_ARENAS = 8 };

/* Of a run that it just claimed, exclusively, a thread marks the words that are its own. */
static void mark_run(const struct fh_region *region, const struct walk_run *run, uint64_t mark)
{
    for (size_t i = 0; i < run->pools; i++)
        *(uint64_t *)(void *)fh_arena_pool_address(region, run->first + i) = mark;
}

static void check_marks(const struct fh_region *region, const struct walk_run *run, uint64_t mark)
{
    for (size_t i = 0; i < run->pools; i++)
        CHECK(*(uint64_t *)(void *)fh_arena_pool_address(region, run->first + i) == mark);
}

static bool claim_random(struct fh_region *region, struct walk_run *taken, uint64_t *state)
{
    struct fh_run run;
    bool whole = random_below(state, 8) == 0;
    unsigned count = 1 + random_below(state, whole ? 3 : FH_ARENA_POOLS);
    unsigned align = 1u << random_below(state, whole ? 2 : FH_ARENA_POOL_SHIFT + 1);
    if (whole ? !fh_arenas_claim(region, count, align, &run)
              : !fh_arena_claim(region, count, align, &run))
        return false;
    taken->first = run.pool_index;
    taken->pools = whole ? (size_t)count << FH_ARENA_POOL_SHIFT : count;
    CHECK((run.pool_index >> (whole ? FH_ARENA_POOL_SHIFT : 0)) % align == 0);
    for (size_t i = 0; run.zeroed && i < taken->pools; i++)
        CHECK(is_zero(fh_arena_pool_address(region, taken->first + i), 64));
    return true;
}

static void release_run(struct fh_region *region, const struct walk_run *run)
{
    if (run->pools <= FH_ARENA_POOLS)
        fh_arena_release(region, run->first, (unsigned)run->pools);
    else
        fh_arenas_release(region, run->first, run->pools >> FH_ARENA_POOL_SHIFT, run->pools);
}

/* One more pool behind a run, or its last pool given back. */
static void resize_random(struct fh_region *region, struct walk_run *run, uint64_t *state)
{
    if (run->pools >= FH_ARENA_POOLS)
        return;
    if (random_below(state, 2) == 0 && run->pools > 1) {
        fh_arena_release(region, run->first + run->pools - 1, 1);
        run->pools--;
    } else if (fh_arena_extend(region, run->first, (unsigned)run->pools, 1)) {
        run->pools++;
    }
}

static void walk(struct fh_region *region, uint64_t mark, size_t steps)
{
    struct walk_run runs[WALK_RUNS] = {{0, 0}};
    uint64_t state = mark;
    for (struct bound bound = at_most(steps); more(&bound);) {
        struct walk_run *run = &runs[random_below(&state, WALK_RUNS)];
        if (run->pools == 0) {
            if (!claim_random(region, run, &state))
                continue;
        } else {
            check_marks(region, run, mark);
            resize_random(region, run, &state);
            if (random_below(&state, 2) == 0) {
                release_run(region, run);
                run->pools = 0;
            }
        }
        mark_run(region, run, mark);
    }
    for (size_t i = 0; i < WALK_RUNS; i++)
        if (runs[i].pools != 0)
            release_run(region, &runs[i]);
}

TEST(a_random_walk_leaves_every_pool_free_and_every_hint_true)
{
    struct fh_region *region = new_region(WALK_ARENAS, 0, false);
    walk(region, 1, 20000);
    CHECK(claimed_pools(region) == 0);
    check_region(region);
}

static void walk_among_others(unsigned number, void *shared)
{
    walk(shared, number + 1, 20000);
}

TEST(threads_never_hold_the_same_pool_and_leave_every_hint_true)
{
    struct fh_region *region = new_region(WALK_ARENAS, 0, false);
    together(4, walk_among_others, region);
    CHECK(claimed_pools(region) == 0);
    check_region(region);
}

static void contend_for_the_last(unsigned number, void *shared)
{
    struct fh_region *region = shared;
    struct fh_run run;
    uint64_t mark = number + 1;
    for (struct bound bound = at_most(30000); more(&bound);) {
        if (!fh_arena_claim(region, FH_ARENA_POOLS, 1, &run))
            continue;
        struct walk_run all = {run.pool_index, FH_ARENA_POOLS};
        mark_run(region, &all, mark);
        check_marks(region, &all, mark);
        fh_arena_release(region, run.pool_index, FH_ARENA_POOLS);
    }
}

TEST(a_region_with_one_arena_is_never_lost_between_threads_that_want_it)
{
    struct fh_region *region = new_region(1, 0, false);
    struct fh_run run;
    together(3, contend_for_the_last, region);
    CHECK(claimed_pools(region) == 0);
    check_region(region);
    CHECK(fh_arena_claim(region, FH_ARENA_POOLS, 1, &run));
}

/* ---- At every point ----------------------------------------------------------------------- */

static struct fh_region *watched;
static bool claimed;

static void begin_full(void)
{
    struct fh_run run;
    watched = new_region(2, 0, false);
    CHECK(fh_arenas_claim(watched, 2, 1, &run));
    fh_hints_set(&watched->hints, FH_HINTS_ROOM, 0); /* stale, as hints are that nobody followed */
    fh_hints_set(&watched->hints, FH_HINTS_EMPTY, 0);
}

static void claim_pool(void)
{
    struct fh_run run;
    claimed = fh_arena_claim(watched, 1, 1, &run);
}

static void claim_arena(void)
{
    struct fh_run run;
    claimed = fh_arena_claim(watched, FH_ARENA_POOLS, 1, &run);
}

static void claim_both(void)
{
    struct fh_run run;
    claimed = fh_arenas_claim(watched, 2, 1, &run);
}

static void release_pool(void)
{
    fh_arena_release(watched, 0, 1);
}

static void release_arena(void)
{
    fh_arena_release(watched, 0, FH_ARENA_POOLS);
}

static void check_watched(void)
{
    check_region(watched);
}

TEST(a_release_amid_a_claim_that_finds_nothing_is_hinted_at)
{
    at_every_point(begin_full, claim_pool, release_pool, check_watched);
    at_every_point(begin_full, claim_pool, release_arena, check_watched);
    at_every_point(begin_full, claim_arena, release_arena, check_watched);
    at_every_point(begin_full, claim_both, release_arena, check_watched);
}

static void begin_empty(void)
{
    begin_full();
    fh_arenas_release(watched, 0, 2, FH_ARENA_POOLS);
}

static void claim_in_second(void)
{
    CHECK(fh_arena_claim_at(watched, FH_ARENA_POOLS, 1) || claimed_pools(watched) > 0);
}

static void check_all_or_nothing(void)
{
    size_t by_both = claimed ? 2 * FH_ARENA_POOLS : 0;
    CHECK(claimed_pools(watched) == by_both || claimed_pools(watched) == by_both + 1);
    check_region(watched);
}

TEST(a_claim_of_arenas_that_meets_another_takes_all_or_nothing)
{
    at_every_point(begin_empty, claim_both, claim_in_second, check_all_or_nothing);
}

static void purge_all(void)
{
    (void)fh_purge(watched, 0, 1000);
}

static void claim_beside(void)
{
    purge_all(); /* forgets that what is claimed just now is dirty */
    claim_in_second();
}

TEST(arenas_given_back_by_a_claim_that_failed_are_hinted_at_as_before)
{
    at_every_point(begin_empty, claim_both, claim_beside, check_all_or_nothing);
}
