/* SPDX-License-Identifier: MIT */
/* theap/shared.h: finding pools that anybody may adopt, through hints that may be stale. */
#include "modules.h"

#include "arena.h"
#include "freehold.h"
#include "shared.h"
#include "thread.h"

enum { CLASS = 5, OTHER_CLASS = 6 };

/* A pool of the class with one block out, which its heap has given up: shared. */
struct lone_block {
    struct fh_block *block;
    struct fh_pool *pool;
};

static struct lone_block new_shared(unsigned class_index)
{
    struct fh_theap *heap = fh_theap_enter();
    struct fh_run run;
    CHECK(fh_arena_claim(heap->region, fh_class_pools(class_index), 1, &run));
    struct fh_pool *pool = (struct fh_pool *)(void *)(heap->region->descriptors +
                                                      (run.pool_index << FH_DESCRIPTOR_SHIFT));
    fh_pool_start(pool, fh_arena_pool_address(heap->region, run.pool_index), class_index,
                  run.zeroed, fh_theap_tag(heap), heap->id);
    struct fh_block *block = fh_pool_carve(pool);
    if (block->next != NULL)
        fh_pool_put_back(pool, block->next);
    block->next = NULL;
    fh_shared_settle(heap->region, pool, fh_pool_give_up(pool, heap->id));
    fh_theap_leave(heap);
    CHECK(fh_word_is_shared(pool->word));
    return (struct lone_block){block, pool};
}

static struct fh_pool *adopt(unsigned class_index)
{
    struct fh_theap *heap = fh_theap_enter();
    struct fh_pool *pool = fh_shared_adopt(heap, class_index);
    fh_theap_leave(heap);
    return pool;
}

static void give_up(struct fh_pool *pool)
{
    struct fh_theap *heap = fh_theap_enter();
    fh_shared_settle(heap->region, pool, fh_pool_give_up(pool, heap->id));
    fh_theap_leave(heap);
}

static uint64_t hints_of(const struct fh_pool *pool, unsigned class_index)
{
    const struct fh_region *region = fh_region_peek();
    return region->arenas[fh_pool_number(region, pool) >> FH_ARENA_POOL_SHIFT].shared[class_index];
}

static bool hinted(const struct fh_pool *pool, unsigned class_index)
{
    size_t number = fh_pool_number(fh_region_peek(), pool);
    return hints_of(pool, class_index) >> number % FH_ARENA_POOLS & 1;
}

/* As a thread would that was stopped before it set the hint, and goes on too late. */
static void set_stale_hint(struct fh_pool *pool, unsigned class_index)
{
    uint8_t true_class = pool->class_index;
    pool->class_index = (uint8_t)class_index;
    fh_shared_add(fh_region_peek(), pool);
    pool->class_index = true_class;
}

TEST(a_shared_pool_is_hinted_at_and_an_adopted_one_is_not)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct lone_block lone = new_shared(class_index);
        CHECK(hinted(lone.pool, class_index));
        check_region(fh_region_peek());
        CHECK(adopt(class_index) == lone.pool);
        CHECK(!hinted(lone.pool, class_index) && adopt(class_index) == NULL);
        CHECK(lone.pool->owner == fh_theap_tag(fh_theap_of_thread()));
        give_up(lone.pool);
    }
    check_region(fh_region_peek());
}

TEST(pools_of_low_arenas_are_adopted_first)
{
    enum { POOLS = 2 * FH_ARENA_POOLS };
    struct lone_block lone[POOLS];
    for (int i = 0; i < POOLS; i++)
        lone[i] = new_shared(CLASS);
    for (int i = 0; i < POOLS; i++)
        CHECK(adopt(CLASS) == lone[i].pool);
    CHECK(adopt(CLASS) == NULL);
}

TEST(a_shared_pool_whose_last_block_is_freed_loses_its_hint_and_goes_back)
{
    struct lone_block lone = new_shared(CLASS);
    fh_raw_free(lone.block);
    CHECK(lone.pool->word == 0 && !hinted(lone.pool, CLASS));
    CHECK(claimed_pools(fh_region_peek()) == 0);
    CHECK(fh_hints_next(&fh_region_peek()->hints, CLASS, 0) == FH_HINT_NONE);
}

TEST(a_stale_hint_is_taken_away)
{
    struct lone_block lone = new_shared(CLASS);
    fh_raw_free(lone.block);
    set_stale_hint(lone.pool, CLASS);
    CHECK(adopt(CLASS) == NULL && !hinted(lone.pool, CLASS));
    CHECK(fh_hints_next(&fh_region_peek()->hints, CLASS, 0) == FH_HINT_NONE);
}

TEST(a_hint_at_a_pool_in_use_is_taken_away_and_the_next_one_followed)
{
    struct lone_block first = new_shared(CLASS);
    CHECK(adopt(CLASS) == first.pool);
    struct lone_block second = new_shared(CLASS);
    set_stale_hint(first.pool, CLASS);
    CHECK(adopt(CLASS) == second.pool && !hinted(first.pool, CLASS));
    give_up(first.pool);
    give_up(second.pool);
    check_region(fh_region_peek());
}

TEST(a_pool_of_another_class_behind_a_stale_hint_is_shared_again)
{
    struct lone_block lone = new_shared(OTHER_CLASS);
    set_stale_hint(lone.pool, CLASS);
    CHECK(adopt(CLASS) == NULL);
    CHECK(!hinted(lone.pool, CLASS) && hinted(lone.pool, OTHER_CLASS));
    CHECK(fh_word_is_shared(lone.pool->word) && lone.pool->owner == 0);
    check_region(fh_region_peek());
    CHECK(adopt(OTHER_CLASS) == lone.pool);
}

TEST(an_empty_word_of_hints_loses_its_arena)
{
    struct lone_block lone = new_shared(CLASS);
    const struct fh_region *region = fh_region_peek();
    CHECK(fh_hints_has(&region->hints, CLASS, 0));
    region->arenas[0].shared[CLASS] = 0; /* as a thread leaves it that is killed in between */
    CHECK(adopt(CLASS) == NULL && !fh_hints_has(&region->hints, CLASS, 0));
    fh_shared_add(fh_region_peek(), lone.pool);
    CHECK(adopt(CLASS) == lone.pool);
}

TEST(a_search_follows_a_bounded_number_of_stale_hints)
{
    struct lone_block last = new_shared(CLASS);
    CHECK(adopt(CLASS) == last.pool); /* so that its place is taken */
    struct fh_region *region = fh_region_peek();
    struct fh_run run;
    enum { ARENAS = 200 };
    CHECK(fh_arenas_claim(region, ARENAS, 1, &run));
    size_t first = run.pool_index >> FH_ARENA_POOL_SHIFT;
    for (uint32_t arena = (uint32_t)first; arena < first + ARENAS; arena++) {
        region->arenas[arena].shared[CLASS] = fh_low_bits(FH_ARENA_POOLS);
        fh_hints_set(&region->hints, CLASS, arena);
    }
    CHECK(adopt(CLASS) == NULL);
    size_t left = 0;
    for (size_t arena = first; arena < first + ARENAS; arena++)
        left += (size_t)__builtin_popcountll(region->arenas[arena].shared[CLASS]);
    CHECK(left < (size_t)ARENAS * FH_ARENA_POOLS && left >= (size_t)ARENAS * FH_ARENA_POOLS - 128);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { SHARED_POOLS = 100, ADOPTERS = 4 };

/* In the owner's `holes`: of a page that no pool of this class has. */
static const uint64_t seen_here = (uint64_t)1 << 63;

struct adoption {
    struct lone_block lone[SHARED_POOLS];
    uint64_t adopted;
};

static void adopt_until_none(unsigned number, void *shared)
{
    struct adoption *adoption = shared;
    struct fh_pool *pool;
    (void)number;
    while ((pool = adopt(CLASS)) != NULL) {
        CHECK(pool->owner == fh_theap_tag(fh_theap_of_thread()) && pool->holes == 0);
        pool->holes = seen_here; /* plain: a second adopter's would be reported as a race */
        __atomic_fetch_add(&adoption->adopted, 1, __ATOMIC_RELAXED);
    }
}

TEST(each_shared_pool_is_adopted_by_one_of_the_threads_that_want_it)
{
    static struct adoption adoption;
    for (int i = 0; i < SHARED_POOLS; i++)
        adoption.lone[i] = new_shared(CLASS);
    together(ADOPTERS, adopt_until_none, &adoption);
    CHECK(adoption.adopted == SHARED_POOLS);
    for (int i = 0; i < SHARED_POOLS; i++)
        CHECK(adoption.lone[i].pool->holes == seen_here);
}

/* Some free the last blocks while others adopt and share again: every pool goes back once. */
static void free_or_adopt(unsigned number, void *shared)
{
    struct adoption *adoption = shared;
    for (int i = (int)number; number < 2 && i < SHARED_POOLS; i += 2)
        fh_raw_free(adoption->lone[i].block);
    for (struct bound bound = at_most(2000); number >= 2 && more(&bound);) {
        struct fh_pool *pool = adopt(CLASS);
        if (pool != NULL)
            give_up(pool);
    }
}

TEST(pools_freed_while_they_are_adopted_go_back_to_their_arenas)
{
    static struct adoption adoption;
    for (struct bound bound = at_most(20); more(&bound);) {
        for (int i = 0; i < SHARED_POOLS; i++)
            adoption.lone[i] = new_shared(CLASS);
        together(4, free_or_adopt, &adoption);
        CHECK(claimed_pools(fh_region_peek()) == 0);
        check_region(fh_region_peek());
    }
}

/* ---- At every point ----------------------------------------------------------------------- */

static struct lone_block watched;

static void begin_in_use_with_a_stale_hint(void)
{
    watched = new_shared(CLASS);
    CHECK(adopt(CLASS) == watched.pool);
    set_stale_hint(watched.pool, CLASS);
}

static void begin_with_an_empty_word(void)
{
    watched = new_shared(CLASS);
    CHECK(adopt(CLASS) == watched.pool);
    fh_hints_set(&fh_region_peek()->hints, CLASS, 0);
}

static void begin_shared(void)
{
    watched = new_shared(CLASS);
}

static void adopt_watched(void)
{
    struct fh_pool *pool = adopt(CLASS);
    CHECK(pool == NULL || pool == watched.pool);
}

static void give_up_watched(void)
{
    struct fh_theap *owner = (struct fh_theap *)(uintptr_t)watched.pool->owner;
    fh_shared_settle(owner->region, watched.pool, fh_pool_give_up(watched.pool, owner->id));
}

static void free_watched(void)
{
    fh_raw_free(watched.block);
}

static void check_and_end(void)
{
    check_region(fh_region_peek());
    if (watched.pool->owner != 0)
        give_up_watched();
    check_region(fh_region_peek());
    if (watched.pool->word != 0)
        free_watched();
    CHECK(claimed_pools(fh_region_peek()) == 0);
}

TEST(a_pool_shared_amid_a_search_is_hinted_at)
{
    at_every_point(begin_in_use_with_a_stale_hint, adopt_watched, give_up_watched, check_and_end);
    at_every_point(begin_with_an_empty_word, adopt_watched, give_up_watched, check_and_end);
}

static void check_freed(void)
{
    if (watched.pool->owner != 0)
        give_up_watched();
    CHECK(watched.pool->word == 0 && claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

TEST(a_last_block_freed_amid_an_adoption_is_not_lost)
{
    at_every_point(begin_shared, adopt_watched, free_watched, check_freed);
    at_every_point(begin_shared, free_watched, adopt_watched, check_freed);
}
