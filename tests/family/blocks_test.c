/* SPDX-License-Identifier: MIT */
/* What holds for every block, whatever its size: alignment, room, contents, and no overlap. */
#include "family.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SIZES_TRIED 5001

/* Sizes at which some class or kind of block may end, and a few that lie far from any border. */
static const size_t interesting_bytes[] = {
    1,     15,        16,        17,      64,      500,      512,      513,      1000,
    4095,  4096,      4097,      8 * KIB, 10000,   16 * KIB, 32 * KIB, 33 * KIB, 64 * KIB,
    65537, 100 * KIB, 256 * KIB, 1 * MIB, 3 * MIB, 4 * MIB,  5 * MIB,  9 * MIB,  40 * MIB,
};
#define INTERESTING_COUNT (sizeof interesting_bytes / sizeof interesting_bytes[0])

static int is_zero(const char *from, size_t bytes)
{
    return bytes == 0 || (from[0] == 0 && memcmp(from, from + 1, bytes - 1) == 0);
}

TEST(every_size_is_aligned_and_writable_to_its_usable_end)
{
    static char *blocks[SIZES_TRIED];
    for (size_t bytes = 0; bytes < SIZES_TRIED; bytes++) {
        blocks[bytes] = malloc(bytes);
        CHECK(blocks[bytes] != NULL && (uintptr_t)blocks[bytes] % 16 == 0);
        CHECK(malloc_usable_size(blocks[bytes]) >= bytes);
        family_fill(blocks[bytes], malloc_usable_size(blocks[bytes]), bytes);
    }
    for (size_t bytes = 0; bytes < SIZES_TRIED; bytes++) {
        CHECK(family_intact(blocks[bytes], malloc_usable_size(blocks[bytes]), bytes));
        free(blocks[bytes]);
    }
}

TEST(the_usable_end_of_large_blocks_is_writable)
{
    enum { copies = 3 };
    char *blocks[INTERESTING_COUNT][copies];
    for (size_t i = 0; i < INTERESTING_COUNT * copies; i++) {
        char *block = malloc(interesting_bytes[i / copies]);
        CHECK(block != NULL && malloc_usable_size(block) >= interesting_bytes[i / copies]);
        family_fill(block, malloc_usable_size(block), i);
        blocks[i / copies][i % copies] = block;
    }
    for (size_t i = 0; i < INTERESTING_COUNT * copies; i++) {
        char *block = blocks[i / copies][i % copies];
        CHECK(family_intact(block, malloc_usable_size(block), i));
        free(block);
    }
}

/* ---- Alignment ------------------------------------------------------------------------------ */

/* Three blocks at once, so that none is aligned just because it comes first; edges written only. */
static void try_alignment(size_t alignment, size_t bytes)
{
    enum { copies = 3, edge = 16 };
    char *blocks[copies];
    for (size_t i = 0; i < copies; i++) {
        blocks[i] = aligned_alloc(alignment, bytes);
        CHECK(blocks[i] != NULL && (uintptr_t)blocks[i] % alignment == 0);
        size_t usable = malloc_usable_size(blocks[i]);
        CHECK(usable >= bytes);
        if (usable < 2 * edge)
            continue;
        family_fill(blocks[i], edge, i);
        family_fill(blocks[i] + usable - edge, edge, i + copies);
    }
    for (size_t i = 0; i < copies; i++) {
        size_t usable = malloc_usable_size(blocks[i]);
        if (usable >= 2 * edge) {
            CHECK(family_intact(blocks[i], edge, i));
            CHECK(family_intact(blocks[i] + usable - edge, edge, i + copies));
        }
        free(blocks[i]);
    }
}

TEST(every_alignment_to_64_mib_holds)
{
    for (size_t alignment = 1; alignment <= 64 * MIB; alignment *= 2) {
        const size_t sizes[] = {0,
                                1,
                                24,
                                100,
                                alignment - 1,
                                alignment,
                                alignment + 1,
                                3 * alignment / 2,
                                3 * alignment + 5,
                                5000,
                                70000,
                                5 * MIB};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            try_alignment(alignment, sizes[i]);
    }
}

TEST(every_size_holds_every_alignment_to_a_page)
{
    for (size_t bytes = 0; bytes < SIZES_TRIED; bytes += 7) {
        for (size_t alignment = 16; alignment <= 8 * KIB; alignment *= 2)
            try_alignment(alignment, bytes);
    }
}

TEST(an_aligned_block_is_resized_and_freed_like_any_other)
{
    size_t before = family_resident_bytes();
    for (size_t round = 0; round < 300; round++) {
        size_t alignment = (size_t)16 << round % 17;
        size_t bytes = 100 + round * 1031;
        char *block = memalign(alignment, bytes);
        CHECK(block != NULL && (uintptr_t)block % alignment == 0);
        family_fill(block, bytes, round);
        block = realloc(block, 2 * bytes);
        CHECK(block != NULL && family_intact(block, bytes, round));
        family_fill(block, 2 * bytes, round);
        block = realloc(block, bytes / 2);
        CHECK(block != NULL && family_intact(block, bytes / 2, round));
        free(block);
    }
    CHECK(family_resident_bytes() < before + 32 * MIB); /* of 90 MiB taken and moved */
}

/* ---- Contents ------------------------------------------------------------------------------- */

/* Full checks cost time, so a block that stayed where it was has its ends checked only. */
static char *resize_checked(char *block, size_t old_bytes, size_t new_bytes, uint64_t seed)
{
    uintptr_t old_address = (uintptr_t)block;
    size_t kept = old_bytes < new_bytes ? old_bytes : new_bytes;
    block = realloc(block, new_bytes);
    CHECK(block != NULL && malloc_usable_size(block) >= new_bytes);
    if ((uintptr_t)block != old_address)
        CHECK(family_intact(block, kept, seed));
    else
        CHECK(family_intact(block, kept < 64 ? kept : 64, seed));
    return block;
}

TEST(realloc_keeps_contents_over_every_size_in_steps_of_one)
{
    enum { last = 40000 };
    char expected[last];
    family_fill(expected, last, 3);
    char *block = malloc(1);
    block[0] = expected[0];
    for (size_t bytes = 2; bytes <= last; bytes++) {
        block = resize_checked(block, bytes - 1, bytes, 3);
        block[bytes - 1] = expected[bytes - 1];
    }
    CHECK(memcmp(block, expected, last) == 0);
    for (size_t bytes = last - 1; bytes > 0; bytes--)
        block = resize_checked(block, bytes + 1, bytes, 3);
    CHECK(block[0] == expected[0]);
    free(block);
}

TEST(realloc_keeps_contents_while_growing_to_64_mib_and_back)
{
    size_t sizes[200];
    size_t count = 0;
    for (size_t bytes = 1; bytes < 64 * MIB; bytes += bytes / 4 + 1)
        sizes[count++] = bytes;
    sizes[count++] = 64 * MIB;
    char *block = malloc(1);
    family_fill(block, 1, 4);
    for (size_t i = 1; i < count; i++) {
        block = realloc(block, sizes[i]);
        CHECK(block != NULL && family_intact(block, sizes[i - 1], 4));
        family_fill(block, sizes[i], 4);
    }
    for (size_t i = count - 1; i > 0; i--) {
        block = realloc(block, sizes[i - 1]);
        CHECK(block != NULL && family_intact(block, sizes[i - 1], 4));
    }
    free(block);
}

static void realloc_walk(size_t slot_count, size_t steps, size_t max_bytes)
{
    struct {
        char *block;
        size_t bytes;
    } slots[64] = {{NULL, 0}};
    uint64_t state = max_bytes;
    for (size_t step = 0; step < steps; step++) {
        size_t i = family_random(&state, slot_count);
        size_t bytes = family_random_bytes(&state, max_bytes);
        size_t kept = bytes < slots[i].bytes ? bytes : slots[i].bytes;
        char *block = realloc(slots[i].block, bytes);
        CHECK(block != NULL && family_intact(block, kept, i));
        family_fill(block, bytes, i);
        slots[i].block = block;
        slots[i].bytes = bytes;
    }
    for (size_t i = 0; i < slot_count; i++) {
        CHECK(family_intact(slots[i].block, slots[i].bytes, i));
        free(slots[i].block);
    }
}

TEST(realloc_keeps_contents_on_a_random_walk)
{
    realloc_walk(64, 20000, 1 * KIB);
    realloc_walk(64, 10000, 128 * KIB);
    realloc_walk(16, 150, 64 * MIB);
}

static void *free_all(void *argument)
{
    char **blocks = argument;
    for (size_t i = 0; blocks[i] != NULL; i++)
        free(blocks[i]);
    return NULL;
}

/* Dirty blocks go back, here or on another thread; calloc of the same size must not show the dirt.
 */
static void calloc_after_dirt(size_t bytes, int elsewhere)
{
    enum { count = 12 };
    char *blocks[count + 1] = {NULL};
    for (size_t i = 0; i < count && (i < 3 || i * bytes < 8 * MIB); i++) {
        blocks[i] = malloc(bytes);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], 0xa5, malloc_usable_size(blocks[i]));
    }
    if (elsewhere)
        family_join(family_thread(free_all, blocks));
    else
        free_all(blocks);
    for (size_t i = 0; i < count && blocks[i] != NULL; i++) {
        blocks[i] = calloc(1, bytes);
        CHECK(blocks[i] != NULL && is_zero(blocks[i], bytes));
        memset(blocks[i], 0x5a, bytes);
    }
    free_all(blocks);
}

TEST(calloc_is_zero_on_reused_memory_of_every_size)
{
    for (size_t bytes = 1; bytes < SIZES_TRIED; bytes++)
        calloc_after_dirt(bytes, bytes % 250 == 0);
    for (size_t i = 0; i < INTERESTING_COUNT; i++) {
        calloc_after_dirt(interesting_bytes[i], 0);
        calloc_after_dirt(interesting_bytes[i], 1);
    }
}

TEST(calloc_is_zero_where_larger_and_smaller_blocks_were)
{
    uint64_t state = 5;
    char *blocks[32] = {NULL};
    for (size_t step = 0; step < 4000; step++) {
        size_t i = family_random(&state, 32);
        size_t bytes = family_random_bytes(&state, step % 50 == 0 ? 6 * MIB : 100 * KIB);
        free(blocks[i]);
        blocks[i] = step % 2 == 0 ? malloc(bytes) : calloc(bytes, 1);
        CHECK(blocks[i] != NULL && (step % 2 == 0 || is_zero(blocks[i], bytes)));
        memset(blocks[i], 0xa5, malloc_usable_size(blocks[i]));
    }
    for (size_t i = 0; i < 32; i++)
        free(blocks[i]);
}

/* ---- No overlap ----------------------------------------------------------------------------- */

/* Four threads fill and empty slots of all sizes, some of them each other's; between the rounds all
 * stand still while one looks at every live interval. */
enum { threads = 4, slots_each = 1500, slot_total = threads * slots_each, rounds = 8 };

struct interval {
    char *start;
    char *end;
};
static struct interval slots[slot_total];
static pthread_barrier_t standstill;

static int by_start(const void *left, const void *right)
{
    const struct interval *a = left;
    const struct interval *b = right;
    return (a->start > b->start) - (a->start < b->start);
}

static void check_intervals(void)
{
    static struct interval sorted[slot_total];
    size_t count = 0;
    for (size_t i = 0; i < slot_total; i++) {
        if (slots[i].start != NULL)
            sorted[count++] = slots[i];
    }
    CHECK(count > slot_total / 4); /* or there is nothing to see */
    qsort(sorted, count, sizeof sorted[0], by_start);
    for (size_t i = 1; i < count; i++)
        CHECK(sorted[i - 1].end <= sorted[i].start);
}

static void toggle_slot(struct interval *slot, uint64_t *state)
{
    if (slot->start != NULL) {
        free(slot->start);
        slot->start = NULL;
        return;
    }
    size_t max_bytes = family_random(state, 400) == 0 ? 64 * MIB : 64 * KIB;
    size_t bytes = family_random_bytes(state, max_bytes);
    size_t alignment = (size_t)16 << family_random(state, 9);
    slot->start = family_random(state, 4) == 0 ? aligned_alloc(alignment, bytes) : malloc(bytes);
    CHECK(slot->start != NULL);
    slot->end = slot->start + malloc_usable_size(slot->start);
}

static void *fill_and_empty(void *argument)
{
    size_t self = (size_t)(uintptr_t)argument;
    uint64_t state = self;
    for (size_t round = 0; round < rounds; round++) {
        size_t first = (self + round) % threads * slots_each; /* each round another's slots */
        for (size_t step = 0; step < 2 * slots_each; step++)
            toggle_slot(&slots[first + family_random(&state, slots_each)], &state);
        pthread_barrier_wait(&standstill);
        if (self == 0)
            check_intervals();
        pthread_barrier_wait(&standstill);
    }
    return NULL;
}

TEST(live_blocks_never_overlap)
{
    unsigned long running[threads];
    CHECK(pthread_barrier_init(&standstill, NULL, threads) == 0);
    for (size_t i = 0; i < threads; i++)
        running[i] = family_thread(fill_and_empty, (void *)(uintptr_t)i);
    for (size_t i = 0; i < threads; i++)
        family_join(running[i]);
    for (size_t i = 0; i < slot_total; i++)
        free(slots[i].start);
}

/* What a huge block touched and gave up by shrinking in place is not clean. */
TEST(calloc_is_zero_where_a_huge_block_had_shrunk)
{
    char *huge = malloc(10 * MIB);
    CHECK(huge != NULL);
    memset(huge, 7, 10 * MIB);
    huge = realloc(huge, 5 * MIB);
    CHECK(huge != NULL);
    free(huge);
    for (int i = 0; i < 100; i++) { /* kept, so that all of that memory comes up again */
        char *block = calloc(1, 300000);
        CHECK(block != NULL && is_zero(block, 300000));
    }
}

/* Over memory in which every few megabytes have one small hole, large blocks come and go for ever.
 */
TEST(large_blocks_over_fragmented_memory_use_no_new_addresses_each_time)
{
    enum { HELD = 140 * 64, BLOCK_BYTES = 60000, PAIRS = 20000 };
    static char *held[HELD];
    for (size_t i = 0; i < HELD; i++)
        held[i] = malloc(BLOCK_BYTES);
    for (size_t i = 0; i < HELD; i += 64)
        free(held[i]);
    uintptr_t lowest = UINTPTR_MAX;
    uintptr_t highest = 0;
    for (int i = 0; i < PAIRS; i++) {
        char *first = malloc(2 * MIB);
        char *second = malloc(3 * MIB);
        CHECK(first != NULL && second != NULL);
        lowest = (uintptr_t)second < lowest ? (uintptr_t)second : lowest;
        highest = (uintptr_t)second > highest ? (uintptr_t)second : highest;
        free(first);
        free(second);
    }
    CHECK(highest - lowest < 64 * MIB);
}

static const struct family_test tests[] = {
    ENTRY(every_size_is_aligned_and_writable_to_its_usable_end),
    ENTRY(the_usable_end_of_large_blocks_is_writable),
    ENTRY(every_alignment_to_64_mib_holds),
    ENTRY(every_size_holds_every_alignment_to_a_page),
    ENTRY(an_aligned_block_is_resized_and_freed_like_any_other),
    ENTRY(realloc_keeps_contents_over_every_size_in_steps_of_one),
    ENTRY(realloc_keeps_contents_while_growing_to_64_mib_and_back),
    ENTRY(realloc_keeps_contents_on_a_random_walk),
    ENTRY(calloc_is_zero_on_reused_memory_of_every_size),
    ENTRY(calloc_is_zero_where_larger_and_smaller_blocks_were),
    ENTRY(calloc_is_zero_where_a_huge_block_had_shrunk),
    ENTRY(large_blocks_over_fragmented_memory_use_no_new_addresses_each_time),
    ENTRY(live_blocks_never_overlap),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
