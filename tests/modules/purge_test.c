/* SPDX-License-Identifier: MIT */
/* arena/purge.h: free pools lose their pages, and nobody loses a block to it. */
#include "modules.h"

#include <string.h>

#include "arena.h"
#include "bits.h"
#include "os.h"
#include "purge.h"

enum { ARENAS = 4, ANY_NUMBER = 1000, AN_HOUR_MS = 3600000 };

static struct fh_region *dirty_region(void)
{
    struct fh_region *region = new_region(ARENAS, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, ARENAS, 1, &run));
    memset((char *)region->base, 1, region->bytes);
    return region;
}

TEST(what_is_free_and_dirty_is_returned_and_reads_as_zeros)
{
    struct fh_region *region = dirty_region();
    fh_arena_release(region, 0, 1);
    fh_arena_release(region, FH_ARENA_POOLS, FH_ARENA_POOLS);
    CHECK(fh_purge(region, 0, ANY_NUMBER) == (size_t)(1 + FH_ARENA_POOLS) << FH_POOL_SHIFT);
    CHECK(is_zero(fh_arena_pool_address(region, 0), FH_POOL_BYTES));
    CHECK(is_zero(fh_arena_pool_address(region, FH_ARENA_POOLS), FH_ARENA_BYTES));
    CHECK(*fh_arena_pool_address(region, 1) == 1); /* in use */
    CHECK(region->arenas[0].dirty == 0 && region->arenas[1].dirty == 0);
    CHECK(claimed_pools(region) == (ARENAS - 1) * FH_ARENA_POOLS - 1);
    CHECK(fh_hints_next(&region->hints, FH_HINTS_DIRTY, 0) == FH_HINT_NONE);
    CHECK(fh_purge(region, 0, ANY_NUMBER) == 0);
    check_region(region);
}

TEST(a_purged_run_is_known_to_be_zero)
{
    struct fh_region *region = dirty_region();
    struct fh_run run;
    fh_arena_release(region, 0, FH_ARENA_POOLS);
    (void)fh_purge(region, 0, ANY_NUMBER);
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == 0 && run.zeroed);
}

TEST(what_is_younger_than_the_age_stays)
{
    struct fh_region *region = dirty_region();
    fh_arena_release(region, 0, FH_ARENA_POOLS);
    CHECK(fh_purge(region, AN_HOUR_MS, ANY_NUMBER) == 0);
    CHECK(region->arenas[0].dirty == fh_low_bits(FH_ARENA_POOLS));
    CHECK(fh_hints_has(&region->hints, FH_HINTS_DIRTY, 0));
    region->arenas[0].freed_ms[1] -= AN_HOUR_MS;
    CHECK(fh_purge(region, AN_HOUR_MS, ANY_NUMBER) == FH_POOL_BYTES);
    CHECK((region->arenas[0].dirty >> 1 & 1) == 0 && (region->arenas[0].dirty & 1) == 1);
    check_region(region);
}

TEST(a_look_returns_no_more_runs_than_it_may_and_the_next_goes_on)
{
    struct fh_region *region = dirty_region();
    unsigned runs = 0;
    for (size_t pool = 0; pool < ARENAS * FH_ARENA_POOLS; pool += 2, runs++)
        fh_arena_release(region, pool, 1);
    for (unsigned i = 0; i < runs; i++)
        CHECK(fh_purge(region, 0, 1) == FH_POOL_BYTES);
    CHECK(fh_purge(region, 0, 1) == 0);
    check_region(region);
}

/* Every pattern of free pools in an arena, as far as they can be told apart by their edges. */
TEST(every_free_run_of_an_arena_is_found)
{
    struct fh_region *region = dirty_region();
    uint64_t state = 5;
    for (int i = 0; i < 300; i++) {
        uint64_t pattern = (uint64_t)random_below(&state, ~0u) << 32 | random_below(&state, ~0u);
        pattern &= i % 2 == 0 ? pattern >> 1 : ~(uint64_t)0;
        pattern &= fh_low_bits(FH_ARENA_POOLS);
        for (uint64_t left = pattern; left != 0; left &= left - 1)
            fh_arena_release(region, fh_lowest_bit(left), 1);
        CHECK(fh_purge(region, 0, ANY_NUMBER) == (size_t)__builtin_popcountll(pattern)
                                                     << FH_POOL_SHIFT);
        for (uint64_t left = pattern; left != 0; left &= left - 1)
            CHECK(fh_arena_claim_at(region, fh_lowest_bit(left), 1));
    }
}

/* As when the system refuses to take the pages: what stays dirty must stay findable, though another
 * purge came by while the run was claimed. */
TEST(a_run_that_stays_dirty_is_hinted_at_again)
{
    struct fh_region *region = dirty_region();
    fh_arena_release(region, 0, 1);
    CHECK(fh_arena_claim_at(region, 0, 1));
    CHECK(fh_purge(region, 0, ANY_NUMBER) == 0);
    fh_arena_release_clean(region, 0, 1);
    check_region(region);
    CHECK(fh_purge(region, 0, ANY_NUMBER) == FH_POOL_BYTES);
}

/* ---- Too many ----------------------------------------------------------------------------- */

enum { MANY_POOLS = 2 * FH_RETAIN_MIN_POOLS, MANY_ARENAS = MANY_POOLS / FH_ARENA_POOLS };

/* All in use, and only the least allowance to retain free pools. */
static struct fh_region *strict_region(void)
{
    struct fh_region *region = new_region(MANY_ARENAS, 0, false);
    struct fh_run run;
    region->retain_pools = 0;
    CHECK(fh_arenas_claim(region, MANY_ARENAS, 1, &run));
    return region;
}

static uint64_t allowed_pools(const struct fh_region *region)
{
    return FH_RETAIN_MIN_POOLS + fh_region_pools_in_use(region) / FH_RETAIN_PER_IN_USE +
           region->retain_pools;
}

TEST(more_than_the_allowance_is_returned_at_once_from_the_highest_arenas)
{
    struct fh_region *region = strict_region();
    for (size_t i = 0; i < MANY_ARENAS; i++) {
        fh_arena_release(region, i << FH_ARENA_POOL_SHIFT, FH_ARENA_POOLS);
        CHECK(fh_region_retained_pools(region) <= allowed_pools(region));
    }
    CHECK(fh_region_retained_pools(region) > FH_RETAIN_MIN_POOLS - FH_ARENA_POOLS);
    CHECK(region->arenas[0].dirty != 0 && region->arenas[MANY_ARENAS - 1].dirty == 0);
    CHECK(region->arenas[MANY_ARENAS - 1].regretted == fh_low_bits(FH_ARENA_POOLS));
    check_region(region);
}

/* Release all and return what is too many; claim all again, so many ms later. */
static uint64_t return_and_claim(struct fh_region *region, uint32_t later_ms)
{
    struct fh_run run;
    fh_arenas_release(region, 0, MANY_ARENAS, MANY_POOLS);
    while (fh_region_retained_pools(region) > allowed_pools(region))
        fh_purge_excess(region); /* bounded work each */
    uint64_t returned = MANY_POOLS - fh_region_retained_pools(region);
    for (size_t i = 0; i < MANY_ARENAS; i++)
        for (size_t pool = 0; pool < FH_ARENA_POOLS; pool++)
            region->arenas[i].freed_ms[pool] = fh_os_now_ms() - later_ms;
    CHECK(fh_arenas_claim(region, MANY_ARENAS, 1, &run) && fh_region_retained_pools(region) == 0);
    check_region(region);
    return returned;
}

TEST(what_was_returned_too_early_raises_the_allowance_and_time_lowers_it)
{
    struct fh_region *region = strict_region();
    uint64_t returned = return_and_claim(region, 0);
    CHECK(returned > 0 && region->retain_pools == 2 * returned);
    CHECK(return_and_claim(region, 0) == 0); /* all of it may stay now */
    region->next_purge_ms = (uint64_t)1 << 32 | (uint32_t)(fh_os_now_ms() - 1);
    fh_purge_tick(region);
    CHECK(region->retain_pools == 2 * returned - (2 * returned + 7) / 8);
}

TEST(what_is_needed_again_only_later_was_returned_rightly)
{
    struct fh_region *region = strict_region();
    CHECK(return_and_claim(region, AN_HOUR_MS) > 0 && region->retain_pools == 0);
}

/* ---- In time ------------------------------------------------------------------------------ */

/* A tick at a deadline that is over, or just not yet. */
static void tick(struct fh_region *region, bool over)
{
    uint32_t at_ms = fh_os_now_ms() + (over ? 0 : FH_PURGE_INTERVAL_MS);
    region->next_purge_ms = (uint64_t)1 << 32 | at_ms;
    fh_purge_tick(region);
}

TEST(a_tick_purges_what_decayed_and_sets_the_next_deadline)
{
    struct fh_region *region = dirty_region();
    fh_arena_release(region, 0, 1);
    tick(region, true);
    CHECK(region->arenas[0].dirty == 1); /* not old enough */
    uint32_t left_ms = (uint32_t)region->next_purge_ms - fh_os_now_ms();
    CHECK(left_ms <= FH_PURGE_INTERVAL_MS || left_ms > (uint32_t)-AN_HOUR_MS);
    region->arenas[0].freed_ms[0] -= FH_DECAY_MS;
    tick(region, true);
    CHECK(region->arenas[0].dirty == 0);
    check_region(region);
}

TEST(between_deadlines_a_tick_does_nothing)
{
    bool waited = false;
    for (int i = 0; i < 20 && !waited; i++) { /* this thread may have to wait for its turn */
        struct fh_region *region = dirty_region();
        fh_arena_release(region, 0, 1);
        region->arenas[0].freed_ms[0] -= FH_DECAY_MS;
        tick(region, false);
        waited = region->arenas[0].dirty == 1;
    }
    CHECK(waited);
}

TEST(a_release_ticks_and_the_first_tick_of_all_only_sets_the_deadline)
{
    struct fh_region *region = dirty_region();
    CHECK(region->next_purge_ms == 0);
    fh_arena_release(region, 0, 1);
    region->arenas[0].freed_ms[0] -= AN_HOUR_MS;
    CHECK(region->next_purge_ms != 0 && region->arenas[0].dirty == 1);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { CLAIMS = 4000 };

struct contest {
    struct fh_region *region;
    uint64_t claimers_left;
    uint64_t purged_bytes;
};

static void write_and_check(const struct fh_region *region, const struct fh_run *run,
                            unsigned pools, uint64_t mark)
{
    char *start = fh_arena_pool_address(region, run->pool_index);
    for (size_t at = 0; at < (size_t)pools << FH_POOL_SHIFT; at += 1024) {
        uint64_t *word = (uint64_t *)(void *)(start + at);
        CHECK(!run->zeroed || *word == 0);
        *word = mark;
    }
    for (size_t at = 0; at < (size_t)pools << FH_POOL_SHIFT; at += 1024)
        CHECK(*(uint64_t *)(void *)(start + at) == mark);
}

static void claim_and_release(struct contest *contest, uint64_t mark)
{
    uint64_t state = mark;
    struct fh_run run;
    for (struct bound bound = at_most(SIZE_MAX); more(&bound);) {
        unsigned pools = 1 + random_below(&state, FH_ARENA_POOLS);
        if (bound.step > CLAIMS && fh_load_relaxed_u64(&contest->purged_bytes) > 0)
            break;
        if (!fh_arena_claim(contest->region, pools, 1, &run))
            continue;
        write_and_check(contest->region, &run, pools, mark);
        fh_arena_release(contest->region, run.pool_index, pools);
    }
    __atomic_fetch_sub(&contest->claimers_left, 1, __ATOMIC_SEQ_CST);
}

static void contend(unsigned number, void *shared)
{
    struct contest *contest = shared;
    if (number < 2) {
        claim_and_release(contest, number + 1);
        return;
    }
    while (fh_load_seq_cst_u64(&contest->claimers_left) != 0)
        (void)fh_fetch_add_relaxed_u64(&contest->purged_bytes, fh_purge(contest->region, 0, 2));
}

TEST(a_purge_never_takes_pages_that_somebody_claimed)
{
    struct contest contest = {new_region(2, 0, false), 2, 0};
    together(4, contend, &contest);
    CHECK(contest.purged_bytes > 0 && claimed_pools(contest.region) == 0);
    check_region(contest.region);
    (void)fh_purge(contest.region, 0, ANY_NUMBER);
    CHECK(contest.region->arenas[0].dirty == 0 && contest.region->arenas[1].dirty == 0);
}

/* ---- At every point ----------------------------------------------------------------------- */

static struct fh_region *watched;

static void begin_with_a_stale_hint(void)
{
    watched = dirty_region();
    fh_hints_set(&watched->hints, FH_HINTS_DIRTY, 0);
}

static void purge_watched(void)
{
    (void)fh_purge(watched, 0, ANY_NUMBER);
}

static void release_one(void)
{
    fh_arena_release(watched, 0, 1);
}

static void check_watched(void)
{
    check_region(watched);
}

TEST(a_release_amid_a_purge_is_hinted_at)
{
    at_every_point(begin_with_a_stale_hint, purge_watched, release_one, check_watched);
}

static void begin_with_a_run(void)
{
    watched = dirty_region();
    fh_arena_release(watched, 0, FH_ARENA_POOLS);
}

static void claim_one(void)
{
    (void)fh_arena_claim_at(watched, 1, 1);
}

TEST(a_claim_amid_a_purge_leaves_every_hint_true)
{
    at_every_point(begin_with_a_run, purge_watched, claim_one, check_watched);
    at_every_point(begin_with_a_run, purge_watched, purge_watched, check_watched);
}
