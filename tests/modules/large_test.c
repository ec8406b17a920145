/* SPDX-License-Identifier: MIT */
/* theap/large.h: blocks of whole pools and of whole arenas. */
#include "modules.h"

#include <string.h>

#include "arena.h"
#include "freehold.h"
#include "large.h"
#include "os.h"
#include "thread.h"

static const size_t arena_bytes = FH_ARENA_BYTES, pool_bytes = FH_POOL_BYTES;

static char *new_block(size_t bytes, size_t alignment)
{
    bool zeroed;
    char *block = fh_large_malloc(bytes, alignment, &zeroed);
    CHECK(block != NULL && (uintptr_t)block % alignment == 0);
    CHECK(!zeroed || is_zero(block, bytes));
    return block;
}

static void free_block(void *block)
{
    fh_large_free(fh_theap_pool_of(block));
}

static size_t pools_of(size_t bytes)
{
    return (bytes + pool_bytes - 1) / pool_bytes;
}

/* In use by blocks: what the thread keeps at hand is not. */
static size_t pools_in_use(void)
{
    const struct fh_theap *heap = fh_theap_of_thread();
    return claimed_pools(fh_region_peek()) - heap->spare_pools;
}

static void fill(char *block, size_t bytes, unsigned seed)
{
    for (size_t at = 0; at < bytes; at += 512)
        block[at] = (char)(at / 512 * 7 + seed);
    block[bytes - 1] = (char)seed;
}

static bool intact(const char *block, size_t bytes, unsigned seed)
{
    for (size_t at = 0; at + 1 < bytes; at += 512)
        if (block[at] != (char)(at / 512 * 7 + seed))
            return false;
    return true;
}

TEST(a_large_block_takes_the_pools_it_needs_and_no_more)
{
    for (size_t bytes = FH_BLOCK_MAX_BYTES + 1; bytes <= arena_bytes; bytes += pool_bytes / 3) {
        char *block = new_block(bytes, 1);
        const struct fh_pool *pool = fh_theap_pool_of(block);
        CHECK(pool->kind == FH_POOL_LARGE && pool->pools == pools_of(bytes));
        CHECK((uintptr_t)block % pool_bytes == 0 && pools_in_use() == pools_of(bytes));
        CHECK(fh_theap_usable_bytes(block) >= bytes);
        CHECK(fh_theap_usable_bytes(block) <= pool->pools * pool_bytes);
        fill(block, fh_theap_usable_bytes(block), 1);
        free_block(block);
        CHECK(pools_in_use() == 0 && pool->kind == FH_POOL_NONE);
    }
    check_region(fh_region_peek());
}

TEST(a_huge_block_takes_whole_arenas)
{
    for (size_t bytes = arena_bytes + 1; bytes < 4 * arena_bytes; bytes += arena_bytes / 2 + 5) {
        char *block = new_block(bytes, 1);
        const struct fh_pool *pool = fh_theap_pool_of(block);
        CHECK(pool->kind == FH_POOL_HUGE && (uintptr_t)block % arena_bytes == 0);
        CHECK(pools_in_use() == (bytes + arena_bytes - 1) / arena_bytes * FH_ARENA_POOLS);
        fill(block, bytes, 2);
        free_block(block);
        CHECK(pools_in_use() == 0);
        check_region(fh_region_peek());
    }
}

TEST(every_power_of_two_is_an_alignment)
{
    char *blocks[3];
    const size_t sizes[3] = {1, pool_bytes + 1, 2 * arena_bytes + 1};
    for (size_t alignment = 1; alignment <= 8 * arena_bytes; alignment *= 2) {
        for (int i = 0; i < 3; i++) {
            blocks[i] = new_block(sizes[i], alignment);
            fill(blocks[i], sizes[i], 3);
        }
        for (int i = 0; i < 3; i++)
            free_block(blocks[i]);
    }
    CHECK(pools_in_use() == 0);
    check_region(fh_region_peek());
}

TEST(what_cannot_be_had_is_refused_and_nothing_is_consumed)
{
    bool zeroed;
    free_block(new_block(pool_bytes, 1));
    size_t opened = fh_region_peek()->arenas_opened;
    CHECK(fh_large_malloc((size_t)PTRDIFF_MAX + 1, 1, &zeroed) == NULL);
    CHECK(fh_large_malloc(PTRDIFF_MAX, 1, &zeroed) == NULL);
    CHECK(fh_large_malloc(SIZE_MAX, 1, &zeroed) == NULL);
    CHECK(fh_large_malloc(1, (size_t)PTRDIFF_MAX + 1, &zeroed) == NULL);
    CHECK(fh_large_malloc(fh_region_peek()->bytes + 1, 1, &zeroed) == NULL);
    CHECK(fh_region_peek()->arenas_opened == opened && pools_in_use() == 0);
}

TEST(a_block_shrinks_in_place_and_gives_the_rest_back)
{
    char *block = new_block(arena_bytes, 1);
    fill(block, arena_bytes, 4);
    for (size_t pools = FH_ARENA_POOLS; pools-- > 1;) {
        CHECK(fh_large_resize(fh_theap_pool_of(block), pools * pool_bytes));
        CHECK(pools_in_use() == pools && fh_theap_usable_bytes(block) == pools * pool_bytes);
    }
    CHECK(intact(block, pool_bytes, 4));
    free_block(block);
    CHECK(pools_in_use() == 0);
}

TEST(a_block_grows_in_place_until_its_arena_ends_or_a_neighbour_begins)
{
    char *block = new_block(pool_bytes, 1);
    fill(block, pool_bytes, 5);
    size_t pools = 1;
    while (fh_large_resize(fh_theap_pool_of(block), (pools + 1) * pool_bytes))
        pools++;
    CHECK(pools == FH_ARENA_POOLS && pools_in_use() == pools && intact(block, pool_bytes, 5));
    CHECK(fh_large_resize(fh_theap_pool_of(block), pool_bytes));
    char *neighbour = new_block(pool_bytes, 1);
    CHECK(neighbour == block + pool_bytes);
    CHECK(!fh_large_resize(fh_theap_pool_of(block), 2 * pool_bytes));
    CHECK(fh_theap_usable_bytes(block) == pool_bytes);
    free_block(neighbour);
    CHECK(fh_large_resize(fh_theap_pool_of(block), 2 * pool_bytes));
    free_block(block);
}

TEST(a_huge_block_is_resized_in_place_arena_by_arena)
{
    char *block = new_block(2 * arena_bytes, 1);
    struct fh_pool *pool = fh_theap_pool_of(block);
    fill(block, 2 * arena_bytes, 6);
    CHECK(fh_large_resize(pool, 4 * arena_bytes) == false); /* nothing is open behind it */
    free_block(new_block(2 * arena_bytes, 1));
    CHECK(fh_large_resize(pool, 3 * arena_bytes + 1) && pools_in_use() == 4 * FH_ARENA_POOLS);
    CHECK(intact(block, 2 * arena_bytes, 6));
    CHECK(fh_large_resize(pool, arena_bytes + 1) && pools_in_use() == 2 * FH_ARENA_POOLS);
    CHECK(!fh_large_resize(pool, arena_bytes)); /* no longer huge */
    CHECK(!fh_large_resize(pool, PTRDIFF_MAX));
    CHECK(intact(block, arena_bytes, 6));
    free_block(block);
    CHECK(pools_in_use() == 0);
    check_region(fh_region_peek());
}

TEST(the_content_of_a_huge_block_moves_without_a_copy)
{
    size_t bytes = 2 * arena_bytes;
    char *from = new_block(bytes, 1), *to = new_block(2 * bytes, 1);
    fill(from, bytes, 7);
    if (!fh_large_move(fh_theap_pool_of(from), fh_theap_pool_of(to), bytes))
        modules_skip("this kernel does not move pages and keep the addresses");
    CHECK(intact(to, bytes, 7) && is_zero(from, bytes) && is_zero(to + bytes, bytes));
    char *large = new_block(arena_bytes, 1);
    CHECK(!fh_large_move(fh_theap_pool_of(to), fh_theap_pool_of(large), arena_bytes));
    CHECK(!fh_large_move(fh_theap_pool_of(large), fh_theap_pool_of(to), arena_bytes));
}

TEST(a_block_freed_and_taken_again_is_not_taken_for_zero)
{
    for (size_t bytes = FH_BLOCK_MAX_BYTES + 1; bytes < 3 * arena_bytes; bytes += arena_bytes / 3)
        for (int round = 0; round < 3; round++) {
            char *block = fh_raw_calloc(1, bytes);
            CHECK(block != NULL && is_zero(block, bytes));
            memset(block, 1, bytes);
            fh_raw_free(block);
        }
}

TEST(inside_a_call_large_blocks_come_straight_from_the_arenas)
{
    struct fh_theap *heap = fh_theap_enter();
    char *block = new_block(pool_bytes + 1, 1);
    CHECK(claimed_pools(heap->region) == 2);
    CHECK(fh_large_resize(fh_theap_pool_of(block), 1));
    CHECK(claimed_pools(heap->region) == 1);
    free_block(block);
    CHECK(claimed_pools(heap->region) == 0 && heap->spare_runs == 0);
    fh_theap_leave(heap);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { SLOTS = 8 };

static char *slots[SLOTS]; /* each NULL or a block whose first bytes are its address */

static void swap_blocks(unsigned number, void *shared)
{
    uint64_t state = number + 1;
    (void)shared;
    for (struct bound bound = at_most(5000); more(&bound);) {
        size_t most = random_below(&state, 8) == 0 ? 3 * arena_bytes : 4 * pool_bytes;
        size_t bytes = FH_BLOCK_MAX_BYTES + 1 + random_below(&state, (uint32_t)most);
        char *block = fh_raw_malloc(bytes);
        if (block != NULL && random_below(&state, 2) == 0)
            block = fh_raw_realloc(block, bytes / 2 + FH_BLOCK_MAX_BYTES);
        if (block != NULL)
            *(uintptr_t *)(void *)block = (uintptr_t)block;
        char *other =
            __atomic_exchange_n(&slots[random_below(&state, SLOTS)], block, __ATOMIC_ACQ_REL);
        CHECK(other == NULL || *(uintptr_t *)(void *)other == (uintptr_t)other);
        fh_raw_free(other);
    }
}

TEST(threads_pass_large_blocks_to_each_other_and_none_is_lost)
{
    together(4, swap_blocks, NULL);
    for (int i = 0; i < SLOTS; i++)
        fh_raw_free(slots[i]);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}
