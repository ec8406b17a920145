/* SPDX-License-Identifier: MIT */
/* pool/hole.h: the pages found are those without a live block, block by block; who makes them holes
 * loses no other byte, and all of the pool can be used again. */
#include "modules.h"

#include <string.h>

#include "bits.h"
#include "hole.h"
#include "os.h"
#include "size_class.h"

enum { TAG = 0x1000, ID = 5, DIRT = 0x5A, SETS = 12, WALK_STEPS = 60 };

static const size_t page_sizes[] = {4096, 16384, 65536, 1 << 20};
enum { PAGE_SIZES = sizeof page_sizes / sizeof *page_sizes };

/* The pool, and which of its blocks, by number, the test holds: all that are live. */
static struct fh_pool *pool;
static char *start;
static bool held[FH_POOL_BLOCKS_MAX];
static uint32_t held_count;
static uint64_t chance = 1;

static unsigned pages_of_pool(void)
{
    return (unsigned)(((size_t)pool->pools << FH_POOL_SHIFT) / FH_CARVE_BYTES);
}

/* In memory that is not zero. */
static void new_pool(unsigned class_index)
{
    if (pool == NULL) {
        pool = new_descriptors();
        start = new_pool_memory();
    }
    memset(pool, 0, FH_SPAN_POOLS * sizeof *pool);
    memset(start, DIRT, (size_t)FH_SPAN_POOLS << FH_POOL_SHIFT);
    memset(held, 0, sizeof held);
    held_count = 0;
    fh_pool_start(pool, start, class_index, false, TAG, ID);
    pool->zeroed = true; /* so that it shows whether that is taken back */
}

/* ---- Holding blocks -----------------------------------------------------------------------------
 */

static struct fh_block *block_numbered(uint32_t number)
{
    return (struct fh_block *)(void *)(start + (size_t)number * pool->block_bytes);
}

static int fill_of(uint32_t number)
{
    return (int)(number * 31 + 7) & 0xFF;
}

/* Hold all these blocks, each written to from its first byte to its last. */
static void hold(struct fh_block *blocks)
{
    while (blocks != NULL) {
        struct fh_block *next = blocks->next;
        CHECK(fh_pool_has_block_at(pool, blocks));
        uint32_t number = (uint32_t)((size_t)((char *)blocks - start) / pool->block_bytes);
        CHECK(!held[number]);
        held[number] = true;
        held_count++;
        memset(blocks, fill_of(number), pool->block_bytes);
        blocks = next;
    }
}

static bool hold_more(void)
{
    struct fh_block *blocks = fh_pool_take_local(pool);
    if (blocks == NULL)
        blocks = fh_pool_carve(pool);
    hold(blocks);
    return blocks != NULL;
}

static void drop(uint32_t number)
{
    CHECK(held[number]);
    held[number] = false;
    held_count--;
    struct fh_block *block = block_numbered(number);
    block->next = pool->local;
    pool->local = block;
    pool->countdown--;
}

static void drop_all_but(uint32_t kept)
{
    for (uint32_t number = 0; number < pool->capacity; number++)
        if (held[number] && number != kept)
            drop(number);
}

/* Of each block the same chance to stay, in no order. */
static void drop_by_chance(uint32_t stay_one_in)
{
    uint32_t shift = random_below(&chance, pool->capacity);
    for (uint32_t i = 0; i < pool->capacity; i++) {
        uint32_t number = (i * 7919 + shift) % pool->capacity;
        if (held[number] && random_below(&chance, stay_one_in) != 0)
            drop(number);
    }
}

static void check_held(void)
{
    for (uint32_t number = 0; number < pool->capacity; number++) {
        const char *bytes = (const char *)block_numbered(number);
        if (held[number])
            CHECK(bytes[0] == (char)fill_of(number) &&
                  memcmp(bytes, bytes + 1, pool->block_bytes - 1) == 0);
    }
    check_pool(pool);
    CHECK(fh_pool_live(pool) == held_count && blocks_out(pool) == held_count);
}

/* Every block can be had, each once and with all its bytes. */
static void check_all_can_be_held(void)
{
    while (hold_more())
        check_pool(pool);
    CHECK(held_count == pool->capacity && pool->carved == pool->capacity && pool->holes == 0);
    check_held();
}

/* ---- What must be found, block by block ---------------------------------------------------------
 */

static bool touches(uint32_t number, unsigned page)
{
    size_t begin = (size_t)number * pool->block_bytes;
    return begin < (page + (size_t)1) * FH_CARVE_BYTES &&
           begin + pool->block_bytes > (size_t)page * FH_CARVE_BYTES;
}

static bool starts_in(uint32_t number, unsigned page)
{
    return (size_t)number * pool->block_bytes / FH_CARVE_BYTES == page;
}

struct census {
    unsigned live, carved, uncarved, starting, in_holes;
};

static struct census census_of(unsigned page)
{
    struct census census = {0};
    for (uint32_t number = 0; number < pool->capacity; number++) {
        if (!touches(number, page))
            continue;
        size_t first_page = (size_t)number * pool->block_bytes / FH_CARVE_BYTES;
        census.live += held[number];
        census.carved += number < pool->frontier;
        census.uncarved += number >= pool->frontier;
        census.starting += starts_in(number, page);
        census.in_holes += pool->holes >> first_page & 1;
    }
    return census;
}

/* What no block has touched is the tail; a page inside one block is in the hole that has its start.
 */
static bool expected_page(unsigned page)
{
    struct census census = census_of(page);
    if (census.carved == 0)
        return !pool->tail_purged;
    if (census.live > 0 || census.uncarved > 0)
        return false;
    return (pool->holes >> page & 1) == 0 && (census.starting > 0 || census.in_holes == 0);
}

static uint64_t expected_holes(size_t page_bytes)
{
    uint64_t expected = 0;
    unsigned group = (unsigned)(page_bytes / FH_CARVE_BYTES);
    for (unsigned first = 0; first + group <= pages_of_pool(); first += group) {
        bool whole = true;
        for (unsigned page = first; page < first + group; page++)
            whole = whole && expected_page(page);
        for (unsigned page = first; page < first + group && whole; page++)
            expected |= (uint64_t)1 << page;
    }
    return expected;
}

/* ---- Making holes as a purger does --------------------------------------------------------------
 */

static void purge(uint64_t pages, size_t page_bytes)
{
    unsigned group = (unsigned)(page_bytes / FH_CARVE_BYTES);
    for (unsigned page = 0; page < pages_of_pool(); page += group)
        if (pages >> page & 1)
            CHECK(fh_os_purge(start + (size_t)page * FH_CARVE_BYTES, page_bytes));
}

static void check_purged(uint64_t pages)
{
    for (unsigned page = 0; page < pages_of_pool(); page++)
        if (pages >> page & 1)
            CHECK(is_zero(start + (size_t)page * FH_CARVE_BYTES, FH_CARVE_BYTES));
}

/* Or holes are larger than the page that the pool counts in. */
static bool has_small_pages(void)
{
    return fh_os_page_bytes() <= FH_CARVE_BYTES;
}

/* Find them, make them, give them back. Pages of more than the system's are still whole ones. */
static uint64_t make_holes(size_t page_bytes)
{
    size_t system_bytes = fh_os_page_bytes();
    page_bytes = page_bytes < system_bytes ? system_bytes : page_bytes;
    uint64_t pages = fh_pool_find_holes(pool, page_bytes);
    CHECK(pages == expected_holes(page_bytes));
    if (pages == 0)
        return 0;
    fh_pool_make_holes(pool, pages);
    CHECK(!pool->zeroed && pool->tail_purged);
    check_held();
    purge(pages, page_bytes);
    check_purged(pages);
    check_held();
    return pages;
}

static uint64_t make_all_holes(void)
{
    return make_holes(FH_CARVE_BYTES);
}

static void hold_all(unsigned class_index)
{
    new_pool(class_index);
    while (hold_more())
        ;
    CHECK(held_count == pool->capacity);
}

/* ---- Which pages --------------------------------------------------------------------------------
 */

TEST(the_first_block_of_a_page_is_the_first_that_starts_there_or_later)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        new_pool(class_index);
        for (unsigned page = 0; page <= pages_of_pool(); page++) {
            uint32_t first = 0;
            while (first < pool->capacity &&
                   (size_t)first * pool->block_bytes < (size_t)page * FH_CARVE_BYTES)
                first++;
            CHECK(fh_pool_first_in_page(pool, page) == first);
        }
    }
}

TEST(one_live_block_keeps_just_the_pages_that_it_touches)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        for (uint32_t i = 0; i < 9; i++) {
            hold_all(class_index);
            uint32_t kept = i == 8 ? pool->capacity - 1 : pool->capacity * i / 8;
            drop_all_but(kept);
            uint64_t pages = make_all_holes();
            for (unsigned page = 0; page < pages_of_pool(); page++)
                CHECK(!has_small_pages() || (pages >> page & 1) == !touches(kept, page));
            check_all_can_be_held();
        }
    }
}

TEST(a_pool_that_is_all_live_has_no_hole)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        hold_all(class_index);
        pool->tail_purged = true; /* but for what no block reaches */
        CHECK(fh_pool_find_holes(pool, FH_CARVE_BYTES) == 0);
    }
}

TEST(a_pool_without_a_live_block_is_holes_but_for_the_page_at_the_frontier)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        new_pool(class_index);
        for (unsigned carves = 1; pool->frontier < pool->capacity; carves++) {
            new_pool(class_index);
            for (unsigned i = 0; i < carves; i++)
                CHECK(hold_more());
            drop_all_but(pool->capacity);
            size_t frontier_bytes = (size_t)pool->frontier * pool->block_bytes;
            unsigned mixed = (unsigned)(frontier_bytes / FH_CARVE_BYTES);
            bool is_mixed = pool->frontier < pool->capacity && frontier_bytes % FH_CARVE_BYTES != 0;
            uint64_t pages = make_all_holes();
            for (unsigned page = 0; page < pages_of_pool(); page++)
                CHECK(!has_small_pages() || (pages >> page & 1) == !(is_mixed && page == mixed));
            check_all_can_be_held();
        }
    }
}

TEST(the_rest_that_was_never_touched_is_given_back_once)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        new_pool(class_index);
        CHECK(hold_more());
        uint64_t rest = expected_holes(FH_CARVE_BYTES);
        CHECK(make_all_holes() == rest || !has_small_pages());
        CHECK(pool->holes == 0 && fh_pool_find_holes(pool, FH_CARVE_BYTES) == 0);
        check_all_can_be_held();
        new_pool(class_index);
        pool->tail_purged = true;
        CHECK(hold_more() && fh_pool_find_holes(pool, FH_CARVE_BYTES) == 0);
    }
}

TEST(any_set_of_live_blocks_has_the_holes_that_a_look_at_each_block_finds)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        for (struct bound bound = at_most(SETS); more(&bound);) {
            new_pool(class_index);
            uint32_t carved = random_below(&chance, pool->capacity) + 1;
            while (pool->frontier < carved && hold_more())
                ;
            drop_by_chance(2 + random_below(&chance, pool->capacity));
            (void)make_all_holes();
            check_all_can_be_held();
        }
}

TEST(holes_are_whole_pages_of_the_system)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        for (struct bound bound = at_most(SETS); more(&bound);) {
            hold_all(class_index);
            drop_by_chance(pool->capacity);
            uint64_t before = fh_pool_find_holes(pool, FH_CARVE_BYTES);
            for (int i = 0; i < PAGE_SIZES; i++) {
                uint64_t pages = fh_pool_find_holes(pool, page_sizes[i]);
                CHECK(pages == expected_holes(page_sizes[i]) && (pages & ~before) == 0);
            }
            (void)make_holes(page_sizes[bound.step % PAGE_SIZES]);
            check_all_can_be_held();
        }
}

TEST(a_page_larger_than_a_pool_is_never_a_hole)
{
    new_pool(1);
    CHECK(hold_more());
    drop_all_but(pool->capacity);
    CHECK(fh_pool_find_holes(pool, 2 * (size_t)FH_SPAN_POOLS << FH_POOL_SHIFT) == 0);
    CHECK(fh_pool_find_holes(pool, 1 << 20) == 0 && fh_pool_find_holes(pool, 1 << 21) == 0);
}

/* Of what was given back nothing is found again, but for pages inside a block that stays on the
 * list since its first page has a live one, too: nothing tells whether it was used in between. */
TEST(a_second_look_finds_nothing_new)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        for (struct bound bound = at_most(SETS); more(&bound);) {
            hold_all(class_index);
            drop_by_chance(pool->capacity);
            (void)make_all_holes();
            uint64_t again = fh_pool_find_holes(pool, FH_CARVE_BYTES);
            CHECK(again == expected_holes(FH_CARVE_BYTES));
            for (uint64_t left = again; left != 0 && has_small_pages(); left &= left - 1)
                CHECK(census_of(fh_lowest_bit(left)).starting == 0);
            check_all_can_be_held();
        }
}

/* ---- What becomes of them -----------------------------------------------------------------------
 */

TEST(blocks_of_holes_are_the_last_to_be_handed_out)
{
    new_pool(2);
    CHECK(hold_more());
    while (pool->frontier < pool->capacity / 2)
        CHECK(hold_more());
    drop_all_but(0);
    uint64_t pages = make_all_holes() & fh_low_bits(pages_of_pool() / 2);
    CHECK(pool->holes == pages);
    if (pages == 0)
        modules_skip("a pool is one page");
    hold(fh_pool_take_local(pool));
    while (pool->frontier < pool->capacity)
        CHECK(hold_more() && pool->holes == pages); /* first what was never carved */
    for (; pages != 0; pages &= pages - 1) {
        CHECK(pool->holes == pages); /* then the lowest hole */
        CHECK(hold_more());
    }
    check_all_can_be_held();
}

/* Taking, freeing and making holes in any order, so that looks come upon holes carved in part. */
TEST(holes_come_and_go_and_every_live_block_keeps_its_bytes)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        new_pool(class_index);
        for (struct bound bound = at_most(WALK_STEPS); more(&bound);) {
            for (uint32_t takes = random_below(&chance, 8); takes > 0 && hold_more(); takes--)
                ;
            drop_by_chance(1 + random_below(&chance, pool->capacity));
            (void)make_holes(page_sizes[random_below(&chance, 4) / 2]);
        }
        check_all_can_be_held();
    }
}
