/* SPDX-License-Identifier: MIT */
/* theap/heap.h: sizes, zeros, alignment, realloc, and what a bad pointer is told. */
#include "modules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "freehold.h"
#include "thread.h"

/* Around every boundary between classes, pools and arenas. */
static size_t size_at(unsigned index)
{
    static const size_t bounds[] = {FH_SMALL_MAX_BYTES, FH_BLOCK_MAX_BYTES,
                                    FH_POOL_BYTES,      (size_t)3 * FH_POOL_BYTES,
                                    FH_ARENA_BYTES,     (size_t)5 * FH_ARENA_BYTES / 2};
    enum { BOUNDS = sizeof bounds / sizeof *bounds };
    if (index < 3 * BOUNDS)
        return bounds[index / 3] + index % 3 - 1;
    static const size_t small[] = {0, 1, 15, 16, 17, 100, 255, 256, 257, 700};
    return index - 3 * BOUNDS < sizeof small / sizeof *small ? small[index - 3 * BOUNDS] : SIZE_MAX;
}

static void fill(unsigned char *block, size_t bytes, unsigned seed)
{
    for (size_t at = 0; at < bytes; at++)
        block[at] = (unsigned char)(at * 31 + seed);
}

static bool intact(const unsigned char *block, size_t bytes, unsigned seed)
{
    for (size_t at = 0; at < bytes; at++)
        if (block[at] != (unsigned char)(at * 31 + seed))
            return false;
    return true;
}

/* ---- Sizes -------------------------------------------------------------------------------- */

TEST(every_size_up_to_the_largest_class_has_a_block_of_its_class)
{
    for (size_t bytes = 0; bytes <= FH_BLOCK_MAX_BYTES; bytes++) {
        unsigned char *block = fh_theap_malloc(bytes);
        CHECK(block != NULL && (uintptr_t)block % FH_BLOCK_ALIGN_BYTES == 0);
        CHECK(fh_theap_usable_bytes(block) == fh_class_block_bytes(fh_class_of(bytes)));
        CHECK(fh_theap_pool_of(block)->class_index == fh_class_of(bytes));
        fh_theap_free(block);
    }
    check_heap(fh_theap_of_thread());
}

TEST(any_address_inside_a_block_leads_to_its_pool)
{
    for (unsigned class_index = 1; class_index < FH_CLASSES; class_index++) {
        size_t bytes = fh_class_block_bytes(class_index);
        char *blocks[64];
        for (unsigned i = 0; i < 64; i++) {
            blocks[i] = fh_theap_malloc(bytes);
            const struct fh_pool *pool = fh_theap_pool_of(blocks[i]);
            CHECK(fh_theap_pool_of(blocks[i] + bytes - 1) == pool);
            CHECK(fh_pool_has_block_at(pool, blocks[i]));
        }
        for (unsigned i = 0; i < 64; i++)
            fh_theap_free(blocks[i]);
    }
}

TEST(strangers_have_no_pool_and_no_size)
{
    char local;
    fh_theap_free(fh_theap_malloc(1));
    CHECK(fh_theap_pool_of(&local) == NULL && fh_theap_usable_bytes(&local) == 0);
    CHECK(fh_theap_pool_of(NULL) == NULL && fh_theap_usable_bytes(NULL) == 0);
    CHECK(fh_theap_pool_of(fh_theap_of_thread()) == NULL);
}

/* ---- Zeros and alignment ------------------------------------------------------------------ */

static void check_zeros(size_t bytes)
{
    enum { BLOCKS = 70 };
    unsigned char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = fh_theap_calloc(bytes);
        CHECK(blocks[i] != NULL && is_zero(blocks[i], bytes));
        memset(blocks[i], 0xFF, fh_theap_usable_bytes(blocks[i]));
    }
    for (int i = 0; i < BLOCKS; i++)
        fh_theap_free(blocks[i]);
}

TEST(zeroed_blocks_are_zero_fresh_used_and_adopted)
{
    for (int round = 0; round < 4; round++) {
        for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
            check_zeros(fh_class_block_bytes(class_index));
            check_zeros(fh_class_block_bytes(class_index) - 1);
        }
        if (round % 2 == 1)
            fh_thread_flush();
    }
}

TEST(every_power_of_two_is_an_alignment_of_every_size)
{
    for (size_t alignment = 1; alignment <= 2 * (size_t)FH_ARENA_BYTES; alignment *= 2)
        for (unsigned index = 0; size_at(index) != SIZE_MAX; index++) {
            size_t bytes = size_at(index);
            unsigned char *block = fh_theap_aligned(alignment, bytes);
            CHECK(block != NULL && (uintptr_t)block % alignment == 0);
            CHECK(fh_theap_usable_bytes(block) >= bytes && fh_theap_usable_bytes(block) > 0);
            if (bytes > 0)
                block[0] = block[bytes - 1] = 1;
            fh_theap_free(block);
        }
    check_region(fh_region_peek());
}

/* ---- Resizing ----------------------------------------------------------------------------- */

TEST(resizing_between_any_two_sizes_keeps_the_content)
{
    for (unsigned from = 0; size_at(from) != SIZE_MAX; from++)
        for (unsigned to = 0; size_at(to) != SIZE_MAX; to++) {
            size_t old_bytes = size_at(from), bytes = size_at(to);
            unsigned char *block = fh_theap_malloc(old_bytes);
            CHECK(block != NULL);
            size_t checked = old_bytes < bytes ? old_bytes : bytes;
            checked = checked < 70000 ? checked : 70000;
            fill(block, checked, to);
            block = fh_theap_realloc(block, bytes == 0 ? 1 : bytes);
            CHECK(block != NULL && fh_theap_usable_bytes(block) >= bytes);
            CHECK(intact(block, checked, to));
            fh_theap_free(block);
        }
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

TEST(a_huge_block_moved_by_the_system_keeps_all_of_its_content)
{
    size_t bytes = 3 * (size_t)FH_ARENA_BYTES - 5000;
    unsigned char *block = fh_raw_malloc(bytes);
    fill(block, bytes, 1);
    void *behind = fh_raw_malloc(2 * (size_t)FH_ARENA_BYTES); /* so that it cannot stay */
    unsigned char *moved = fh_theap_realloc(block, 2 * bytes);
    CHECK(moved != NULL && moved != block && intact(moved, bytes, 1));
    unsigned char *smaller = fh_theap_realloc(moved, bytes - FH_ARENA_BYTES);
    CHECK(smaller != NULL && intact(smaller, bytes - FH_ARENA_BYTES, 1));
    fh_theap_free(smaller);
    fh_theap_free(behind);
    check_region(fh_region_peek());
}

TEST(a_block_stays_while_the_size_is_at_least_half_of_it)
{
    for (unsigned class_index = 2; class_index < FH_CLASSES; class_index++) {
        size_t block_bytes = fh_class_block_bytes(class_index);
        void *block = fh_theap_malloc(block_bytes);
        for (size_t bytes = block_bytes; bytes >= block_bytes / 2; bytes -= bytes / 64 + 1)
            CHECK(fh_theap_realloc(block, bytes) == block);
        void *moved = fh_theap_realloc(block, block_bytes / 2 - 1);
        CHECK(moved != block && fh_theap_usable_bytes(moved) < block_bytes);
        fh_theap_free(moved);
    }
}

TEST(a_resize_that_fails_leaves_the_block)
{
    for (unsigned index = 0; size_at(index) != SIZE_MAX; index++) {
        size_t bytes = size_at(index);
        unsigned char *block = fh_theap_malloc(bytes);
        fill(block, bytes, 3);
        errno = 0;
        CHECK(fh_theap_realloc(block, PTRDIFF_MAX) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_theap_realloc(block, SIZE_MAX) == NULL && errno == ENOMEM);
        CHECK(intact(block, bytes, 3));
        fh_theap_free(block);
    }
}

/* ---- What a bad pointer is told ----------------------------------------------------------- */

static void free_it(void *address)
{
    fh_theap_free(address);
}

static void resize_it(void *address)
{
    (void)fh_theap_realloc(address, 100);
}

static void check_report(void (*run)(void *address), const void *address, const char *function,
                         const char *what)
{
    char text[300];
    (void)snprintf(text, sizeof text, "freehold: %s(0x%016lx): %s\n", function,
                   (unsigned long)(uintptr_t)address, what);
    check_aborts(run, (void *)(uintptr_t)address, text);
}

static const char stranger[] = "not memory of this allocator";
static const char dead[] = "not a live block (freed twice?)";
static const char inside[] = "inside a block, not its start";
static const char not_live[] = "not a live block of this allocator";

TEST(freeing_a_strangers_memory_is_reported)
{
    char local[64];
    check_report(free_it, local, "free", stranger); /* there is no region yet */
    fh_theap_free(fh_theap_malloc(1));
    check_report(free_it, local, "free", stranger);
    check_report(free_it, (void *)16, "free", stranger);
    check_report(free_it, (void *)UINTPTR_MAX, "free", stranger);
    check_report(free_it, fh_theap_of_thread(), "free", stranger);
    check_report(resize_it, local, "realloc", not_live);
}

TEST(freeing_where_nothing_was_ever_allocated_is_reported)
{
    fh_theap_free(fh_theap_malloc(1));
    const struct fh_region *region = fh_region_peek();
    const char *last = (const char *)region->base + region->bytes - FH_BLOCK_ALIGN_BYTES;
    check_report(free_it, last, "free", dead);
    check_report(resize_it, last, "realloc", not_live);
}

TEST(freeing_a_large_block_twice_is_reported)
{
    const size_t sizes[] = {FH_BLOCK_MAX_BYTES + 1, 2 * (size_t)FH_POOL_BYTES,
                            2 * (size_t)FH_ARENA_BYTES};
    for (int i = 0; i < 3; i++) {
        void *block = fh_raw_malloc(sizes[i]);
        fh_theap_free(block);
        check_report(free_it, block, "free", dead);
        check_report(resize_it, block, "realloc", not_live);
    }
}

TEST(freeing_a_block_whose_pool_is_gone_is_reported)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index += 5) {
        void *block = fh_theap_malloc(fh_class_block_bytes(class_index));
        fh_theap_free(block);
        fh_thread_flush();
        check_report(free_it, block, "free", dead);
        check_report(resize_it, block, "realloc", not_live);
    }
}

TEST(freeing_the_inside_of_a_large_block_is_reported)
{
    char *large = fh_raw_malloc(2 * (size_t)FH_POOL_BYTES);
    char *huge = fh_raw_malloc(2 * (size_t)FH_ARENA_BYTES);
    check_report(free_it, large + 16, "free", inside);
    check_report(free_it, huge + FH_POOL_BYTES - 16, "free", inside);
    check_report(free_it, large + FH_POOL_BYTES, "free", dead); /* no block begins in that pool */
    fh_theap_free(large);
    fh_theap_free(huge);
}
