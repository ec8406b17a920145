/* SPDX-License-Identifier: MIT */
/* theap/spare.h: the free runs that a heap keeps at hand. */
#include "modules.h"

#include "freehold.h"
#include "spare.h"
#include "thread.h"

/* What the arenas count as claimed and no spare run has. */
static size_t pools_in_use(const struct fh_theap *heap)
{
    return claimed_pools(heap->region) - heap->spare_pools;
}

static size_t claim(struct fh_theap *heap, unsigned pools, unsigned align_pools)
{
    struct fh_run run;
    CHECK(fh_spare_claim(heap, pools, align_pools, &run));
    uintptr_t start = (uintptr_t)fh_arena_pool_address(heap->region, run.pool_index);
    CHECK((start >> FH_POOL_SHIFT) % align_pools == 0);
    return run.pool_index;
}

TEST(a_released_run_is_at_hand_and_claimed_again)
{
    struct fh_theap *heap = fh_theap_enter();
    struct fh_run run;
    CHECK(fh_spare_claim(heap, 1, 1, &run) && run.zeroed);
    size_t first = run.pool_index;
    fh_spare_release(heap, first, 1);
    CHECK(heap->spare_runs == 1 && heap->spare_pools == 1 && pools_in_use(heap) == 0);
    check_heap(heap);
    CHECK(fh_spare_claim(heap, 1, 1, &run) && run.pool_index == first && !run.zeroed);
    CHECK(heap->spare_runs == 0 && heap->spare_pools == 0);
    check_heap(heap);
}

TEST(runs_that_touch_become_one_within_an_arena)
{
    struct fh_theap *heap = fh_theap_enter();
    size_t first = claim(heap, FH_ARENA_POOLS, 1);
    size_t second = claim(heap, FH_ARENA_POOLS, 1);
    CHECK(first % FH_ARENA_POOLS == 0 && second == first + FH_ARENA_POOLS);
    fh_spare_release(heap, first + FH_ARENA_POOLS - 1, 1);
    fh_spare_release(heap, second, 1); /* touches, but in another arena */
    CHECK(heap->spare_runs == 2);
    fh_spare_release(heap, second + 1, 1);
    CHECK(heap->spare_runs == 2 && heap->spares[1].pool_index == second &&
          heap->spares[1].pools == 2);
    fh_spare_release(heap, first + FH_ARENA_POOLS - 2, 1);
    CHECK(heap->spare_runs == 2 && heap->spare_pools == 4);
    check_heap(heap);
}

TEST(the_smallest_run_that_serves_is_split_from_its_front)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("an arena has too few pools");
    struct fh_theap *heap = fh_theap_enter();
    size_t at = claim(heap, FH_ARENA_POOLS, 1);
    fh_spare_release(heap, at, 6);
    fh_spare_release(heap, at + 8, 3);
    fh_spare_release(heap, at + 12, 2);
    CHECK(claim(heap, 3, 1) == at + 8);
    CHECK(claim(heap, 1, 1) == at + 12 && claim(heap, 1, 1) == at + 13);
    CHECK(claim(heap, 4, 4) == at && heap->spare_runs == 1 && heap->spare_pools == 2);
    check_heap(heap);
}

TEST(a_run_at_hand_that_is_not_aligned_does_not_serve)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("an arena has too few pools");
    struct fh_theap *heap = fh_theap_enter();
    size_t at = claim(heap, FH_ARENA_POOLS, 1);
    fh_spare_release(heap, at + 1, 4);
    size_t aligned = claim(heap, 2, 2);
    CHECK(aligned % 2 == 0 && aligned >= at + FH_ARENA_POOLS && heap->spare_pools == 4);
}

TEST(a_block_grows_over_the_run_behind_it_or_into_the_arena)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("an arena has too few pools");
    struct fh_theap *heap = fh_theap_enter();
    size_t at = claim(heap, 8, 8);
    fh_spare_release(heap, at + 4, 4);
    CHECK(fh_spare_extend(heap, at, 4, 3) && heap->spare_pools == 1);
    CHECK(heap->spares[0].pool_index == at + 7);
    CHECK(!fh_spare_extend(heap, at, 7, 2)); /* one pool at hand, the next in the arena: not both */
    CHECK(fh_spare_extend(heap, at, 7, 1) && heap->spare_runs == 0);
    CHECK(fh_spare_extend(heap, at, 8, 8) && pools_in_use(heap) == 16);
    CHECK(!fh_spare_extend(heap, at, 16, FH_ARENA_POOLS));
    check_heap(heap);
}

TEST(a_heap_keeps_so_many_pools_in_so_many_runs_and_the_newest)
{
    struct fh_theap *heap = fh_theap_enter();
    uint64_t state = 4;
    enum { RUNS = 60 };
    size_t first[RUNS];
    unsigned pools[RUNS];
    for (int i = 0; i < RUNS; i++) {
        pools[i] = 1 + random_below(&state, FH_ARENA_POOLS);
        first[i] = claim(heap, pools[i], 1);
    }
    CHECK(heap->spare_runs == 0);
    for (int i = 0; i < RUNS; i++) {
        fh_spare_release(heap, first[i], pools[i]);
        check_heap(heap);
        if (pools[i] > FH_SPARE_POOLS)
            continue;
        const struct fh_spare *newest = &heap->spares[heap->spare_runs - 1];
        CHECK(newest->pool_index <= first[i]);
        CHECK(newest->pool_index + newest->pools >= first[i] + pools[i]);
    }
    CHECK(pools_in_use(heap) == 0);
    fh_spare_drain(heap);
    CHECK(heap->spare_runs == 0 && claimed_pools(heap->region) == 0);
    check_region(heap->region);
}

TEST(a_flush_leaves_nothing_at_hand)
{
    fh_raw_free(fh_raw_malloc(1));
    const struct fh_theap *heap = fh_theap_of_thread();
    fh_raw_free(fh_raw_malloc(2 * FH_BLOCK_MAX_BYTES));
    CHECK(heap->spare_runs > 0);
    fh_thread_flush();
    CHECK(heap->spare_runs == 0 && claimed_pools(heap->region) == 0);
}

TEST(a_random_walk_never_hands_out_a_pool_twice)
{
    enum { SLOTS = 12 };
    size_t first[SLOTS] = {0};
    unsigned pools[SLOTS] = {0};
    struct fh_theap *heap = fh_theap_enter();
    static bool held[1 << 16];
    uint64_t state = 8;
    for (struct bound bound = at_most(30000); more(&bound);) {
        uint32_t slot = random_below(&state, SLOTS);
        bool releases = pools[slot] != 0;
        if (!releases) {
            pools[slot] = 1 + random_below(&state, FH_ARENA_POOLS);
            first[slot] =
                claim(heap, pools[slot], 1u << random_below(&state, FH_ARENA_POOL_SHIFT + 1));
        }
        for (size_t i = first[slot]; i < first[slot] + pools[slot]; i++) {
            CHECK(held[i] == releases);
            held[i] = !releases;
        }
        if (releases) {
            fh_spare_release(heap, first[slot], pools[slot]);
            pools[slot] = 0;
        }
        if (bound.step % 100 == 0)
            check_heap(heap);
    }
    check_region(heap->region);
}
