/* SPDX-License-Identifier: MIT */
/* observe/stats.h against what a test itself knows. */
#include "modules.h"

#include <string.h>

#include "arena.h"
#include "freehold.h"
#include "large.h"
#include "stats.h"
#include "thread.h"

static void check_equal(const struct fh_sums *sums, size_t blocks, size_t bytes)
{
    CHECK(sums->allocated_blocks == blocks && sums->allocated_bytes == bytes);
    CHECK(sums->active_bytes >= bytes && sums->mapped_bytes == sums->arena_count * FH_ARENA_BYTES);
    CHECK(sums->active_bytes + sums->retained_bytes <= sums->mapped_bytes);
}

TEST(without_a_region_every_sum_is_zero)
{
    struct fh_sums sums = fh_stats_sum();
    CHECK(is_zero(&sums, sizeof sums) && fh_region_peek() == NULL);
}

/* A flush first, so that nothing is ready in a bin. */
TEST(blocks_are_counted_exactly)
{
    enum { BLOCKS = 2000 };
    static void *blocks[BLOCKS];
    uint64_t state = 6;
    size_t count = 0, bytes = 0;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = fh_raw_malloc(random_below(&state, FH_BLOCK_MAX_BYTES / 4));
        CHECK(blocks[i] != NULL);
        count++;
        bytes += fh_usable_size(blocks[i]);
        if (random_below(&state, 3) == 0) {
            bytes -= fh_usable_size(blocks[i]);
            count--;
            fh_raw_free(blocks[i]);
            blocks[i] = NULL;
        }
    }
    fh_thread_flush();
    struct fh_sums sums = fh_stats_sum();
    check_equal(&sums, count, bytes);
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
    fh_thread_flush();
    sums = fh_stats_sum();
    check_equal(&sums, 0, 0);
    CHECK(sums.active_bytes == 0);
}

TEST(ready_blocks_count_as_allocated_and_freed_ones_do_not)
{
    void *block = fh_raw_malloc(16);
    struct fh_sums sums = fh_stats_sum();
    size_t carved = fh_theap_pool_of(block)->carved;
    CHECK(sums.allocated_blocks == carved);
    fh_raw_free(block);
    sums = fh_stats_sum();
    CHECK(sums.allocated_blocks == carved || sums.allocated_blocks == carved - 1);
    CHECK(sums.active_bytes == FH_POOL_BYTES);
}

TEST(large_blocks_are_counted_apart)
{
    char *large = fh_raw_malloc(FH_BLOCK_MAX_BYTES + 1);
    char *huge = fh_raw_malloc(2 * (size_t)FH_ARENA_BYTES - 1);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.large_blocks == 2 && sums.allocated_blocks == 2);
    CHECK(sums.large_bytes == fh_usable_size(large) + fh_usable_size(huge));
    CHECK(sums.allocated_bytes == sums.large_bytes);
    CHECK(sums.active_bytes == FH_POOL_BYTES + 2 * (size_t)FH_ARENA_BYTES ||
          sums.active_bytes == fh_usable_size(large) + 2 * (size_t)FH_ARENA_BYTES);
    fh_raw_free(large);
    fh_raw_free(huge);
    sums = fh_stats_sum();
    CHECK(sums.large_blocks == 0 && sums.large_bytes == 0 && sums.allocated_bytes == 0);
}

TEST(free_pools_are_retained_until_they_are_returned)
{
    fh_raw_free(fh_raw_malloc(2 * (size_t)FH_POOL_BYTES));
    fh_thread_flush();
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 2 * (size_t)FH_POOL_BYTES);
    CHECK(fh_trim() == 2 * (size_t)FH_POOL_BYTES);
    sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 0 && sums.active_bytes == 0 && sums.arena_count == 1);
}

static void allocate_once(void *argument)
{
    (void)argument;
    fh_raw_free(fh_raw_malloc(1));
}

TEST(a_pool_in_use_again_is_not_retained)
{
    fh_raw_free(fh_raw_malloc(2 * (size_t)FH_POOL_BYTES));
    fh_thread_flush();
    void *block = fh_raw_malloc(2 * (size_t)FH_POOL_BYTES);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 0 && sums.active_bytes == 2 * (size_t)FH_POOL_BYTES);
    fh_raw_free(block);
}

TEST(heaps_are_counted_once_however_many_threads_used_them)
{
    allocate_once(NULL);
    CHECK(fh_stats_sum().heap_count == 1);
    for (int i = 0; i < 5; i++)
        elsewhere(allocate_once, NULL);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.heap_count == 2 && sums.metadata_bytes >= 2 * FH_THEAP_BYTES);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { HELD = 40 };

static uint64_t allocating; /* threads that still allocate */

static void read_or_allocate(unsigned number, void *shared)
{
    uint64_t state = number;
    void *blocks[HELD] = {NULL};
    (void)shared;
    if (number == 0) {
        while (fh_load_seq_cst_u64(&allocating) != 0) {
            struct fh_sums sums = fh_stats_sum();
            CHECK(sums.allocated_bytes <= sums.mapped_bytes && sums.heap_count <= 8);
        }
        return;
    }
    for (struct bound bound = at_most(20000); more(&bound);) {
        void **slot = &blocks[random_below(&state, HELD)];
        fh_raw_free(*slot);
        uint32_t most = random_below(&state, 50) == 0 ? 3 * FH_POOL_BYTES : 500;
        *slot = fh_raw_malloc(random_below(&state, most));
    }
    for (int i = 0; i < HELD; i++)
        fh_raw_free(blocks[i]);
    (void)__atomic_fetch_sub(&allocating, 1, __ATOMIC_SEQ_CST);
}

TEST(sums_taken_while_others_allocate_stay_within_what_is_mapped)
{
    allocating = 2;
    together(3, read_or_allocate, NULL);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.allocated_blocks == 0 && sums.active_bytes == 0);
}
