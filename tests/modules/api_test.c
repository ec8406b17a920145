/* SPDX-License-Identifier: MIT */
/* api/api.c: the functions about the allocator as a whole. */
#include "modules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "freehold.h"
#include "thread.h"

TEST(the_version_is_that_of_the_header)
{
    char version[40];
    (void)snprintf(version, sizeof version, "%d.%d.%d", FH_VERSION_MAJOR, FH_VERSION_MINOR,
                   FH_VERSION_PATCH);
    CHECK(strcmp(fh_version(), version) == 0);
}

TEST(before_the_first_block_nothing_is_owned_trimmed_or_flushed)
{
    CHECK(fh_owns(&errno) == 0 && fh_owns(NULL) == 0 && fh_usable_size(NULL) == 0);
    CHECK(fh_trim() == 0);
    fh_thread_flush();
    CHECK(fh_region_peek() == NULL);
}

TEST(all_of_a_block_is_owned_and_the_stack_is_not)
{
    int local;
    const size_t sizes[] = {1, 500, FH_BLOCK_MAX_BYTES, 2 * (size_t)FH_ARENA_BYTES};
    for (int i = 0; i < 4; i++) {
        char *block = fh_raw_malloc(sizes[i]);
        CHECK(fh_owns(block) == 1 && fh_owns(block + sizes[i] - 1) == 1);
        CHECK(fh_usable_size(block) >= sizes[i]);
        fh_raw_free(block);
        CHECK(fh_owns(block) == 1); /* it is about address space */
    }
    CHECK(fh_owns(&local) == 0 && fh_usable_size(&local) == 0);
    CHECK(fh_owns(fh_theap_of_thread()) == 0);
}

static size_t retained_bytes(void)
{
    fh_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_get_stats(&stats) == 0);
    return stats.retained_bytes;
}

TEST(a_trim_returns_every_free_page_and_says_how_much)
{
    void *blocks[50];
    for (size_t i = 0; i < 50; i++) {
        blocks[i] = fh_raw_malloc(i * 40);
        memset(blocks[i], 1, i * 40);
    }
    for (size_t i = 0; i < 50; i++)
        fh_raw_free(blocks[i]);
    CHECK(fh_trim() >= FH_POOL_BYTES);
    CHECK(retained_bytes() == 0 && claimed_pools(fh_region_peek()) == 0 && fh_trim() == 0);
    check_region(fh_region_peek());
}

TEST(a_trim_leaves_live_blocks_alone)
{
    char *blocks[200];
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = fh_raw_malloc(i * 7 + 1);
        memset(blocks[i], (int)i, i * 7 + 1);
    }
    (void)fh_trim();
    for (size_t i = 0; i < 200; i++) {
        CHECK(blocks[i][0] == (char)i && blocks[i][i * 7] == (char)i);
        fh_raw_free(blocks[i]);
    }
}

TEST(a_flush_lets_other_threads_have_the_pools_and_the_thread_go_on)
{
    void *block = fh_raw_malloc(100);
    const struct fh_pool *pool = fh_theap_pool_of(block);
    CHECK(fh_word_state(pool->word) == FH_ACTIVE);
    fh_thread_flush();
    CHECK(fh_word_is_shared(pool->word) && pool->owner == 0);
    void *next = fh_raw_malloc(100);
    CHECK(fh_theap_pool_of(next) == pool); /* adopted again */
    fh_raw_free(block);
    fh_raw_free(next);
    check_heap(fh_theap_of_thread());
}

TEST(a_flush_inside_a_call_does_nothing)
{
    fh_raw_free(fh_raw_malloc(100));
    struct fh_theap *heap = fh_theap_enter();
    size_t claimed = claimed_pools(heap->region);
    fh_thread_flush();
    CHECK(claimed_pools(heap->region) == claimed && fh_theap_is_busy(heap));
    fh_theap_leave(heap);
}

TEST(statistics_need_the_size_of_the_callers_struct)
{
    fh_stats stats = {0};
    errno = 0;
    CHECK(fh_get_stats(&stats) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(fh_get_stats(NULL) == -1 && errno == EINVAL);
    stats.struct_bytes = sizeof stats;
    CHECK(fh_get_stats(&stats) == 0 && stats.arena_count == 0);
    void *block = fh_raw_malloc(10);
    CHECK(fh_get_stats(&stats) == 0 && stats.arena_count == 1 && stats.heap_count == 1);
    CHECK(stats.struct_bytes == sizeof stats && stats.allocated_bytes >= 10);
    CHECK(stats.active_bytes == FH_POOL_BYTES && stats.mapped_bytes == FH_ARENA_BYTES);
    fh_raw_free(block);
}

struct future_stats {
    fh_stats stats;
    size_t unknown;
};

TEST(what_is_beyond_the_known_struct_stays_unset)
{
    struct future_stats future = {.stats = {.struct_bytes = sizeof future}, .unknown = 77};
    CHECK(fh_get_stats(&future.stats) == 0 && future.unknown == 77);
}
