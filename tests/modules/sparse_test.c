/* SPDX-License-Identifier: MIT */
/* theap/sparse.h: pools with few live blocks lose their other pages, and nobody loses a block. */
#include "modules.h"

#include <string.h>
#include <sys/mman.h>

#include "arena.h"
#include "freehold.h"
#include "os.h"
#include "purge.h"
#include "shared.h"
#include "sparse.h"
#include "thread.h"

enum {
    BLOCK_BYTES = (int)FH_BLOCK_MAX_BYTES < 4096 ? (int)FH_BLOCK_MAX_BYTES : 80,
    POOL_BLOCKS = FH_POOL_BYTES / BLOCK_BYTES,
    POOLS_MAX = 160,
    ALLOWED_POOLS = 30,
    AN_HOUR_MS = 3600000,
    MINIMAL_POOLS = 5,
};

static const uint64_t never_ms = (uint64_t)1 << 32; /* the least that is */
static const bool has_pages = (int)FH_POOL_BYTES >
                              (int)FH_CARVE_BYTES; /* in a pool, that can be holes */

/* Pools of which all blocks were taken, and those that are kept of each: one. */
static struct {
    unsigned char *kept[POOLS_MAX];
    struct fh_pool *pools[POOLS_MAX];
    unsigned count;
} here;

static struct fh_region *region(void)
{
    return fh_region_peek();
}

/* ---- Making pools sparse ------------------------------------------------------------------------
 */

static int fill_of(unsigned i)
{
    return (int)(i * 37 + 1) & 0xFF;
}

static void check_kept(void)
{
    for (unsigned i = 0; i < here.count; i++)
        for (size_t at = 0; here.kept[i] != NULL && at < BLOCK_BYTES; at++)
            CHECK(here.kept[i][at] == fill_of(i));
}

/* Blocks that are not kept, in a list, each written to all over. */
struct rest {
    struct fh_block *blocks;
};

static void add_to_rest(struct rest *rest, void *memory)
{
    struct fh_block *block = memory;
    memset(block, 0xEE, BLOCK_BYTES);
    block->next = rest->blocks;
    rest->blocks = block;
}

static void free_rest(void *argument)
{
    struct rest *rest = argument;
    while (rest->blocks != NULL) {
        struct fh_block *next = rest->blocks->next;
        fh_raw_free(rest->blocks);
        rest->blocks = next;
    }
}

/* Take blocks until a pool is begun that is not the last one. */
static struct fh_pool *take_from_new_pool(struct rest *rest, unsigned char **first)
{
    struct fh_pool *last = here.count == 0 ? NULL : here.pools[here.count - 1];
    for (;;) {
        unsigned char *block = fh_raw_malloc(BLOCK_BYTES);
        CHECK(block != NULL);
        if (fh_theap_pool_of(block) != last) {
            *first = block;
            return fh_theap_pool_of(block);
        }
        add_to_rest(rest, block);
    }
}

/* So many pools more, full but for the last. The block that is kept of each is the first, one that
 * reaches from the first page into the second, or one further up. */
static struct rest fill_pools(unsigned pools)
{
    struct rest rest = {NULL};
    for (; pools > 0; pools--, here.count++) {
        unsigned char *block;
        CHECK(here.count < POOLS_MAX);
        here.pools[here.count] = take_from_new_pool(&rest, &block);
        unsigned skips[] = {0, POOL_BLOCKS / 16, POOL_BLOCKS * 3 / 4};
        for (unsigned skip = skips[here.count % 3]; skip > 0; skip--) {
            add_to_rest(&rest, block);
            block = fh_raw_malloc(BLOCK_BYTES);
        }
        CHECK(fh_theap_pool_of(block) == here.pools[here.count]);
        here.kept[here.count] = memset(block, fill_of(here.count), BLOCK_BYTES);
    }
    return rest;
}

static void free_rest_elsewhere(struct rest rest)
{
    elsewhere(free_rest, &rest);
}

static void make_sparse(unsigned pools)
{
    struct rest rest = fill_pools(pools);
    fh_thread_flush();
    free_rest_elsewhere(rest);
}

static void free_kept(void)
{
    for (unsigned i = 0; i < here.count; i++)
        fh_raw_free(here.kept[i]);
    memset(&here, 0, sizeof here);
    fh_thread_flush();
}

/* ---- Looking ------------------------------------------------------------------------------------
 */

static size_t resident_bytes_of(const struct fh_pool *pool)
{
    size_t page_bytes = fh_os_page_bytes();
    unsigned char resident[FH_POOL_BYTES / 4096];
    char *start = fh_arena_pool_address(region(), fh_pool_number(region(), pool));
    size_t bytes = 0;
    if (page_bytes > FH_POOL_BYTES)
        return FH_POOL_BYTES;
    CHECK(mincore(start, FH_POOL_BYTES, resident) == 0);
    for (size_t i = 0; i < FH_POOL_BYTES / page_bytes; i++)
        bytes += resident[i] & 1 ? page_bytes : 0;
    return bytes;
}

static size_t resident_bytes(void)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < here.count; i++)
        bytes += resident_bytes_of(here.pools[i]);
    return bytes;
}

/* All that a purged pool of one live block may keep. */
static size_t purged_bytes(void)
{
    size_t two_pages = 2 * fh_os_page_bytes();
    return two_pages < FH_POOL_BYTES ? two_pages : FH_POOL_BYTES;
}

static size_t full_bytes(unsigned pools)
{
    return (size_t)pools * FH_POOL_BYTES;
}

static bool is_hinted(const struct fh_pool *pool)
{
    size_t number = fh_pool_number(region(), pool);
    return region()->arenas[number >> FH_ARENA_POOL_SHIFT].sparse >> number % FH_ARENA_POOLS & 1;
}

static unsigned hinted_count(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < here.count; i++)
        count += is_hinted(here.pools[i]);
    return count;
}

static uint64_t allowed_pools(void)
{
    return FH_SPARSE_MIN_POOLS + fh_region_pools_in_use(region()) / FH_SPARSE_PER_IN_USE +
           region()->retain_sparse;
}

static void check_all(void)
{
    check_kept();
    check_region(region());
}

/* Pools age, and pass the time at which somebody looks. */
static void age(uint32_t ms)
{
    for (size_t i = fh_region_next_arena(region(), 0); i < region()->arenas_max;
         i = fh_region_next_arena(region(), i + 1))
        for (unsigned pool = 0; pool < FH_ARENA_POOLS; pool++)
            region()->arenas[i].freed_ms[pool] -= ms;
    region()->sparse_is_due = 1;
}

/* So many sparse pools, and one for some in use, may keep their pages from now on. */
static void allow(unsigned pools)
{
    CHECK(fh_region_get() != NULL);
    region()->retain_sparse = (uint64_t)pools - FH_SPARSE_MIN_POOLS;
}

/* ---- Becoming sparse ----------------------------------------------------------------------------
 */

TEST(pools_that_others_empty_are_hinted_at)
{
    make_sparse(MINIMAL_POOLS);
    for (unsigned i = 0; i < here.count; i++)
        CHECK(is_hinted(here.pools[i]) && fh_word_state(here.pools[i]->word) > FH_SHARED);
    CHECK(region()->sparse_pools == MINIMAL_POOLS);
    CHECK(fh_hints_next(&region()->hints, FH_HINTS_SPARSE, 0) != FH_HINT_NONE);
    check_all();
}

TEST(pools_that_their_owner_empties_are_hinted_at_once_it_has_given_them_up)
{
    struct rest rest = fill_pools(MINIMAL_POOLS);
    free_rest(&rest);
    fh_thread_flush();
    CHECK(region()->sparse_pools == MINIMAL_POOLS && hinted_count() == MINIMAL_POOLS);
    check_all();
}

TEST(pools_with_many_live_blocks_are_not)
{
    struct rest rest = fill_pools(MINIMAL_POOLS + 1);
    fh_thread_flush(); /* only the last, just begun, is sparse */
    CHECK(region()->sparse_pools <= 1 && hinted_count() == region()->sparse_pools);
    CHECK(!is_hinted(here.pools[0]));
    free_rest(&rest);
    check_all();
}

TEST(a_sparse_pool_that_is_empty_goes_back_and_its_hint_is_stale)
{
    make_sparse(MINIMAL_POOLS);
    free_kept();
    CHECK(claimed_pools(region()) == 0 && region()->sparse_pools == MINIMAL_POOLS);
    check_all();
    CHECK(fh_sparse_trim(region()) == 0);
    CHECK(region()->sparse_pools == 0);
    CHECK(fh_hints_next(&region()->hints, FH_HINTS_SPARSE, 0) == FH_HINT_NONE);
    check_all();
}

/* ---- Too many -----------------------------------------------------------------------------------
 */

static unsigned hinted_among(unsigned from, unsigned end)
{
    unsigned count = 0;
    for (unsigned i = from; i < end; i++)
        count += is_hinted(here.pools[i]);
    return count;
}

TEST(of_more_than_the_allowance_those_that_have_been_so_for_a_moment_lose_their_pages)
{
    const unsigned half = POOLS_MAX / 2;
    allow(POOLS_MAX);
    struct rest first = fill_pools(half), second = fill_pools(half);
    fh_thread_flush();
    free_rest_elsewhere(first);
    CHECK(hinted_among(0, half - 1) == half - 1);
    age(FH_SPARSE_MOMENT_MS);
    allow(ALLOWED_POOLS);
    free_rest_elsewhere(second);
    unsigned old = hinted_among(0, half - 1); /* each free looks at one arena, old pools or not */
    CHECK(old <= half / 2 && region()->sparse_pools == hinted_count());
    unsigned keep = hinted_count();
    CHECK(resident_bytes() <= full_bytes(keep) + (here.count - keep) * purged_bytes());
    check_all();
}

TEST(of_more_than_the_allowance_one_that_its_owner_gives_up_loses_its_pages_at_once)
{
    allow(1);
    struct rest rest = fill_pools(MINIMAL_POOLS);
    free_rest(&rest);
    fh_thread_flush();
    CHECK(hinted_count() == allowed_pools() && region()->sparse_pools == allowed_pools());
    CHECK(resident_bytes() <= full_bytes(1) + (MINIMAL_POOLS - 1) * purged_bytes());
    check_all();
}

TEST(as_many_as_the_allowance_keep_them)
{
    allow(ALLOWED_POOLS);
    make_sparse(ALLOWED_POOLS);
    CHECK(region()->sparse_pools == ALLOWED_POOLS);
    CHECK(resident_bytes() >= full_bytes(ALLOWED_POOLS - 1)); /* the last is hardly begun */
    for (unsigned i = 0; i < here.count; i++)
        CHECK(here.pools[i]->holes == 0);
    check_all();
}

/* ---- By age -------------------------------------------------------------------------------------
 */

TEST(what_stays_sparse_for_the_decay_time_loses_its_pages)
{
    make_sparse(MINIMAL_POOLS);
    size_t before = resident_bytes();
    fh_purge_configure(AN_HOUR_MS, FH_RETAIN_MIN_POOLS);
    age(AN_HOUR_MS / 2);
    fh_sparse_tick(region());
    CHECK(resident_bytes() == before && hinted_count() == MINIMAL_POOLS);
    age(AN_HOUR_MS / 2);
    fh_sparse_tick(region());
    CHECK(hinted_count() == 0 && region()->sparse_pools == 0);
    CHECK(resident_bytes() <= MINIMAL_POOLS * purged_bytes());
    CHECK(!has_pages || resident_bytes() < before || fh_os_page_bytes() > FH_CARVE_BYTES);
    check_all();
}

TEST(whoever_comes_by_a_slow_path_looks_at_what_is_old)
{
    make_sparse(MINIMAL_POOLS);
    age(FH_DECAY_MS);
    fh_raw_free(fh_raw_malloc(BLOCK_BYTES / 2)); /* of another class: there is no pool yet */
    CHECK(hinted_count() == 0 && resident_bytes() <= MINIMAL_POOLS * purged_bytes());
    check_all();
}

TEST(one_look_purges_a_bounded_number)
{
    allow(POOLS_MAX);
    make_sparse(FH_SPARSE_TICK_POOLS + MINIMAL_POOLS);
    CHECK(hinted_count() == FH_SPARSE_TICK_POOLS + MINIMAL_POOLS);
    age(FH_DECAY_MS);
    fh_sparse_tick(region());
    CHECK(hinted_count() == MINIMAL_POOLS && region()->sparse_pools == MINIMAL_POOLS);
    age(0);
    fh_sparse_tick(region());
    CHECK(hinted_count() == 0);
    check_all();
}

TEST(a_look_is_due_when_one_at_free_pools_was)
{
    make_sparse(MINIMAL_POOLS);
    age(FH_DECAY_MS);
    region()->sparse_is_due = 0;
    fh_sparse_tick(region());
    CHECK(hinted_count() == MINIMAL_POOLS);
    region()->next_purge_ms = (uint64_t)1 << 32 | (uint32_t)(fh_os_now_ms() - 1);
    fh_purge_tick(region());
    fh_sparse_tick(region());
    CHECK(hinted_count() == 0 && region()->sparse_is_due == 0);
    check_all();
}

TEST(a_purge_of_all_that_is_old_has_no_such_bound)
{
    allow(POOLS_MAX);
    make_sparse(FH_SPARSE_TICK_POOLS + MINIMAL_POOLS);
    fh_purge_configure(AN_HOUR_MS, FH_RETAIN_MIN_POOLS);
    CHECK(fh_sparse_old(region()) == 0 && hinted_count() == here.count);
    age(AN_HOUR_MS);
    size_t young = fh_pool_number(region(), here.pools[7]);
    region()->arenas[young >> FH_ARENA_POOL_SHIFT].freed_ms[young % FH_ARENA_POOLS] +=
        AN_HOUR_MS / 2;
    size_t before = resident_bytes();
    size_t returned = fh_sparse_old(region());
    CHECK(hinted_count() == 1 && is_hinted(here.pools[7]));
    CHECK(before - resident_bytes() <= returned && returned <= full_bytes(here.count));
    check_all();
}

TEST(nothing_is_ever_old_if_the_decay_time_is_never)
{
    fh_purge_configure(never_ms, FH_RETAIN_MIN_POOLS);
    make_sparse(MINIMAL_POOLS);
    age(AN_HOUR_MS);
    fh_sparse_tick(region());
    CHECK(fh_sparse_old(region()) == 0 && hinted_count() == MINIMAL_POOLS);
    fh_purge_configure(AN_HOUR_MS, FH_RETAIN_MIN_POOLS);
    age(0);
    fh_sparse_tick(region());
    CHECK(hinted_count() == 0);
    check_all();
}

/* ---- On request ---------------------------------------------------------------------------------
 */

TEST(a_trim_returns_what_it_says)
{
    make_sparse(MINIMAL_POOLS);
    size_t before = resident_bytes();
    size_t returned = fh_sparse_trim(region());
    CHECK(resident_bytes() <= MINIMAL_POOLS * purged_bytes());
    CHECK(before - resident_bytes() <= returned && returned <= full_bytes(MINIMAL_POOLS));
    CHECK((returned > 0) == (has_pages && fh_os_page_bytes() < FH_POOL_BYTES));
    CHECK(region()->sparse_pools == 0);
    CHECK(fh_sparse_trim(region()) == 0);
    check_all();
}

/* Free the blocks in the lower half of each pool; the others are left. */
static struct rest free_lower_halves(struct rest rest)
{
    struct rest lower = {NULL}, upper = {NULL};
    while (rest.blocks != NULL) {
        struct fh_block *block = rest.blocks;
        struct rest *to = (uintptr_t)block % FH_POOL_BYTES < FH_POOL_BYTES / 2 ? &lower : &upper;
        rest.blocks = block->next;
        block->next = to->blocks;
        to->blocks = block;
    }
    free_rest_elsewhere(lower);
    return upper;
}

TEST(a_trim_returns_the_pages_of_shared_pools_that_are_not_sparse)
{
    struct rest rest = fill_pools(2);
    fh_thread_flush();
    rest = free_lower_halves(rest);
    struct fh_pool *pool = here.pools[0];
    CHECK(fh_word_state(pool->word) == FH_SHARED && !is_hinted(pool));
    size_t before = resident_bytes_of(pool);
    (void)fh_sparse_trim(region());
    CHECK(fh_word_state(pool->word) == FH_SHARED && pool->owner == 0);
    CHECK(resident_bytes_of(pool) <= before / 2 + 2 * fh_os_page_bytes());
    check_all();
    free_rest(&rest);
    check_all();
}

TEST(a_trim_leaves_full_pools_and_those_of_heaps_alone)
{
    struct rest rest = fill_pools(2); /* the second is the heap's current one */
    uint64_t words[] = {here.pools[0]->word, here.pools[1]->word};
    CHECK(fh_sparse_trim(region()) == 0);
    CHECK(here.pools[0]->word == words[0] && here.pools[1]->word == words[1]);
    free_rest(&rest);
    check_all();
}

/* ---- Used again ---------------------------------------------------------------------------------
 */

/* What is left of the pools' capacity, in blocks: as many as there can be without a new pool. */
static unsigned room(void)
{
    unsigned blocks = 0;
    for (unsigned i = 0; i < here.count; i++)
        blocks += here.pools[i]->capacity - blocks_out(here.pools[i]);
    return blocks;
}

static void check_used_in_full(void *(*take)(void))
{
    size_t pools = claimed_pools(region());
    struct rest rest = {NULL};
    for (unsigned left = room(); left > 0; left--)
        add_to_rest(&rest, take());
    CHECK(claimed_pools(region()) == pools);
    for (unsigned i = 0; i < here.count; i++)
        CHECK(here.pools[i]->carved == here.pools[i]->capacity && here.pools[i]->holes == 0);
    check_all();
    free_rest(&rest);
    check_all();
}

static void *take_any(void)
{
    return fh_raw_malloc(BLOCK_BYTES);
}

static void *take_zeroed(void)
{
    void *block = fh_raw_calloc(1, BLOCK_BYTES);
    CHECK(is_zero(block, BLOCK_BYTES));
    return block;
}

TEST(purged_pools_are_adopted_and_used_in_full)
{
    make_sparse(MINIMAL_POOLS);
    (void)fh_sparse_trim(region());
    check_used_in_full(take_any);
}

/* The pages that went read as zeros, but the blocks that reach into them from others do not. */
TEST(zeroed_blocks_of_purged_pools_are_zero)
{
    make_sparse(MINIMAL_POOLS);
    (void)fh_sparse_trim(region());
    check_used_in_full(take_zeroed);
    fh_thread_flush();
    (void)fh_sparse_trim(region()); /* these pools have been holes before */
    check_used_in_full(take_zeroed);
}

/* Purge, and use them again so much later; returns how many had holes. */
static unsigned purge_and_use(uint32_t later_ms)
{
    unsigned with_holes = 0;
    make_sparse(MINIMAL_POOLS);
    (void)fh_sparse_trim(region());
    region()->retain_sparse = 0;
    for (unsigned i = 0; i < here.count; i++)
        with_holes += here.pools[i]->holes != 0;
    age(later_ms);
    check_used_in_full(take_any);
    CHECK((with_holes > 0) == (has_pages && fh_os_page_bytes() < FH_POOL_BYTES));
    return with_holes;
}

TEST(purged_pools_that_are_needed_at_once_raise_the_allowance)
{
    bool raised = false;
    for (int i = 0; i < 20 && !raised; i++) { /* this thread may have to wait for its turn */
        free_kept();
        unsigned with_holes = purge_and_use(0);
        raised = region()->retain_sparse == FH_SPARSE_REGRET_POOLS * with_holes;
    }
    CHECK(raised);
}

TEST(time_lowers_the_allowance)
{
    CHECK(fh_region_get() != NULL);
    region()->retain_sparse = 20;
    age(0);
    fh_sparse_tick(region());
    CHECK(region()->retain_sparse == 17);
    for (int i = 0; i < 40; i++) {
        age(0);
        fh_sparse_tick(region());
    }
    CHECK(region()->retain_sparse == 0);
}

TEST(purged_pools_that_are_needed_only_later_were_purged_rightly)
{
    (void)purge_and_use(FH_REGRET_MS);
    CHECK(region()->retain_sparse == 0);
}

TEST(pools_that_were_not_purged_are_not_regretted)
{
    make_sparse(MINIMAL_POOLS);
    check_used_in_full(take_any);
    CHECK(region()->retain_sparse == 0);
}

/* ---- Among threads ------------------------------------------------------------------------------
 */

enum { CONTEST_POOLS = 12, ROUNDS = 30, FREERS = 2 };

struct contest {
    struct rest rests[FREERS];
    unsigned freers_left;
};

/* Freers take some, too, so that pools are adopted between two purges; these they write to. */
static void free_or_purge(unsigned number, void *shared)
{
    struct contest *contest = shared;
    if (number >= FREERS) {
        do
            (void)fh_sparse_trim(region());
        while (__atomic_load_n(&contest->freers_left, __ATOMIC_ACQUIRE) > 0);
        return;
    }
    struct rest *rest = &contest->rests[number];
    for (unsigned i = 0; rest->blocks != NULL; i++) {
        struct fh_block *block = rest->blocks;
        rest->blocks = block->next;
        fh_raw_free(block);
        if (i % 16 == 15)
            add_to_rest(rest, fh_raw_malloc(BLOCK_BYTES));
    }
    __atomic_sub_fetch(&contest->freers_left, 1, __ATOMIC_RELEASE);
}

/* Alternately, so that both free blocks of each pool. */
static void deal(struct contest *contest, struct rest rest)
{
    *contest = (struct contest){.freers_left = FREERS};
    for (unsigned i = 0; rest.blocks != NULL; i++) {
        struct fh_block *block = rest.blocks;
        rest.blocks = block->next;
        block->next = contest->rests[i % FREERS].blocks;
        contest->rests[i % FREERS].blocks = block;
    }
}

TEST(pools_are_purged_while_their_blocks_are_freed_and_taken)
{
    static struct contest contest;
    for (struct bound bound = at_most(ROUNDS); more(&bound);) {
        deal(&contest, fill_pools(CONTEST_POOLS));
        fh_thread_flush();
        together(FREERS + 2, free_or_purge, &contest);
        check_all();
        free_kept();
        CHECK(claimed_pools(region()) == 0);
        check_all();
    }
}

/* The last blocks of each pool go as others purge it: each pool goes back once. */
static void free_kept_or_purge(unsigned number, void *shared)
{
    (void)shared;
    for (unsigned i = number; number < FREERS && i < here.count; i += FREERS)
        fh_raw_free(here.kept[i]);
    for (unsigned i = 0; number >= FREERS && i < 4; i++)
        (void)fh_sparse_trim(region());
}

TEST(pools_that_are_emptied_while_they_are_purged_go_back_once)
{
    for (struct bound bound = at_most(ROUNDS); more(&bound);) {
        make_sparse(CONTEST_POOLS);
        together(FREERS + 2, free_kept_or_purge, NULL);
        memset(&here, 0, sizeof here);
        CHECK(claimed_pools(region()) == 0);
        check_all();
    }
}

/* ---- At every point -----------------------------------------------------------------------------
 */

#if defined(FH_ATOMICS_SCHED)
static const bool interrupts = true;
#else
static const bool interrupts = false;
#endif

static struct rest left;      /* blocks that are neither kept nor freed yet */
static unsigned purgers_seen; /* in the middle of a purge */

static bool is_nearly_sparse(const struct fh_pool *pool)
{
    uint64_t word = pool->word;
    return fh_word_state(word) == FH_SHARED && fh_word_credits(word) == 1;
}

/* Three pools of which the second is one free short of being sparse. */
static void begin_with_one_nearly_sparse(void)
{
    struct rest rest = fill_pools(3), going = {NULL};
    const struct fh_pool *nearly = here.pools[1];
    uint32_t to_free = nearly->capacity - fh_pool_level_end(nearly->capacity, 0) - 1;
    while (rest.blocks != NULL) {
        struct fh_block *block = rest.blocks;
        rest.blocks = block->next;
        bool stays = fh_theap_pool_of(block) == nearly && to_free == 0;
        to_free -= fh_theap_pool_of(block) == nearly && !stays;
        struct rest *to = stays ? &left : &going;
        block->next = to->blocks;
        to->blocks = block;
    }
    fh_thread_flush();
    free_rest_elsewhere(going);
    CHECK(is_nearly_sparse(nearly) && is_hinted(here.pools[0]) && !is_hinted(nearly));
}

static void begin_with_two_sparse(void)
{
    make_sparse(2);
}

static void trim_watched(void)
{
    (void)fh_sparse_trim(region());
}

static void free_one_left(void)
{
    struct fh_block *block = left.blocks;
    left.blocks = block->next;
    fh_raw_free(block);
}

/* Who purges owns the pool meanwhile, and is no heap that there can be. */
static void look_for_purger(const struct fh_pool *pool)
{
    if (fh_word_state(pool->word) != FH_ACTIVE)
        return;
    purgers_seen++;
    CHECK(fh_word_owner(pool->word) > FH_THEAPS_MAX);
    CHECK(pool->owner < (uintptr_t)region()->heaps ||
          pool->owner >= (uintptr_t)region()->heaps + (size_t)FH_THEAPS_MAX * FH_THEAP_BYTES);
}

static void free_one_kept(void)
{
    look_for_purger(here.pools[0]);
    fh_raw_free(here.kept[0]);
    here.kept[0] = NULL;
}

static void take_some(void)
{
    look_for_purger(here.pools[0]);
    for (int i = 0; i < 3; i++)
        add_to_rest(&left, take_any());
}

static void check_and_end(void)
{
    check_all();
    check_heap(fh_theap_of_thread());
    free_rest(&left);
    free_kept();
    CHECK(claimed_pools(region()) == 0);
    check_all();
    (void)fh_sparse_trim(region()); /* takes the stale hints away */
    CHECK(region()->sparse_pools == 0);
}

TEST(a_pool_that_becomes_sparse_amid_a_purge_is_hinted_at)
{
    at_every_point(begin_with_one_nearly_sparse, trim_watched, free_one_left, check_and_end);
    at_every_point(begin_with_one_nearly_sparse, free_one_left, trim_watched, check_and_end);
}

TEST(a_last_block_freed_amid_a_purge_is_not_lost)
{
    at_every_point(begin_with_two_sparse, trim_watched, free_one_kept, check_and_end);
    at_every_point(begin_with_two_sparse, free_one_kept, trim_watched, check_and_end);
}

TEST(two_purges_at_once_share_the_pools)
{
    at_every_point(begin_with_two_sparse, trim_watched, trim_watched, check_and_end);
}

TEST(a_heap_that_looks_for_room_amid_a_purge_never_shares_a_pool_with_it)
{
    at_every_point(begin_with_two_sparse, trim_watched, take_some, check_and_end);
    at_every_point(begin_with_two_sparse, take_some, trim_watched, check_and_end);
}

TEST(who_purges_a_pool_owns_it_and_is_no_heap)
{
    if (!interrupts)
        modules_skip("here nothing comes amid a purge");
    at_every_point(begin_with_two_sparse, trim_watched, free_one_kept, check_and_end);
    CHECK(purgers_seen > 0);
}
