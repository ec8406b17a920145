/* SPDX-License-Identifier: MIT */
/* The classic engine: pymalloc's behaviour one by one. tests/classic compares it with CPython. */
#include "modules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "arena.h"
#include "bits.h"
#include "classic.h"
#include "freehold.h"
#include "map.h"
#include "os.h"
#include "report.h"

enum {
    HEADER_BYTES = sizeof(struct fh_classic_pool),
    SMALL_POOL_BYTES = 4 << 10,
    SMALL_ARENA_BYTES = 256 << 10,
    SMALL_ARENA_POOLS = SMALL_ARENA_BYTES / SMALL_POOL_BYTES,
};

/* ---- Heaps and a source of arenas -------------------------------------------------------------
 */

enum { PLACES = 64, PLACE_BYTES = 2 << 20 };

/* Arenas at places of its own, each `offset_bytes` behind a boundary of 2 MiB. */
struct places {
    char *start;
    size_t offset_bytes;
    size_t limit; /* arenas at most; then it fails */
    size_t in_use;
    bool taken[PLACES];
};

static void *take_place(void *ctx, size_t bytes)
{
    struct places *places = ctx;
    size_t i = 0;
    if (places->in_use == places->limit)
        return NULL;
    while (places->taken[i])
        CHECK(++i < PLACES);
    places->taken[i] = true;
    places->in_use++;
    char *arena = places->start + i * PLACE_BYTES + places->offset_bytes;
    memset(arena, 0xEE, bytes);
    return arena;
}

static void give_place(void *ctx, void *memory, size_t bytes)
{
    struct places *places = ctx;
    size_t i = (size_t)((char *)memory - places->start) / PLACE_BYTES;
    CHECK(bytes >= SMALL_ARENA_BYTES && i < PLACES && places->taken[i]);
    places->taken[i] = false;
    places->in_use--;
}

static struct places places_at(size_t offset_bytes)
{
    size_t bytes = (size_t)(PLACES + 2) * PLACE_BYTES;
    void *memory = fh_os_map(bytes);
    CHECK(memory != NULL);
    uintptr_t start = ((uintptr_t)memory + PLACE_BYTES - 1) & ~((uintptr_t)PLACE_BYTES - 1);
    return (struct places){.start = (char *)start, .offset_bytes = offset_bytes, .limit = PLACES};
}

static struct fh_classic_source source_of(struct places *places)
{
    return (struct fh_classic_source){places, take_place, give_place};
}

/* The geometry of the older releases: small, so that much happens soon. */
static struct fh_classic_config small_config(void)
{
    struct fh_classic_config config = fh_classic_default_config();
    config.pool_bytes = SMALL_POOL_BYTES;
    config.arena_bytes = SMALL_ARENA_BYTES;
    return config;
}

static struct fh_classic *new_heap(const struct fh_classic_config *config)
{
    struct fh_classic *heap = fh_classic_create(config);
    CHECK(heap != NULL);
    return heap;
}

static struct fh_classic *small_heap(struct places *places, uint32_t spare_arenas)
{
    struct fh_classic_config config = small_config();
    config.source = source_of(places);
    config.spare_arenas = spare_arenas;
    return new_heap(&config);
}

static void print_finding(void *ctx, const char *what, const void *where)
{
    (void)ctx;
    fprintf(stderr, "%s: %p\n", what, where);
}

static void check_classic(const struct fh_classic *heap)
{
    struct fh_classic_totals totals;
    CHECK(fh_classic_check(heap, print_finding, NULL) == 0);
    fh_classic_sum(heap, &totals);
    CHECK(totals.in_use_bytes + totals.available_bytes + totals.free_pools_bytes +
              totals.header_bytes + totals.quantization_bytes + totals.alignment_bytes ==
          totals.arenas_bytes);
}

static void *take(struct fh_classic *heap, size_t bytes)
{
    void *block = fh_classic_malloc(heap, bytes);
    CHECK(block != NULL && (uintptr_t)block % heap->config.alignment_bytes == 0);
    CHECK(fh_classic_of(block) == heap && fh_classic_usable_bytes(heap, block) >= bytes);
    return block;
}

static void give(struct fh_classic *heap, void *block)
{
    CHECK(fh_classic_free(heap, block));
}

/* A pool's worth of blocks of 512 bytes, a whole arena's if `count` is so large. */
static void take_all(struct fh_classic *heap, void **blocks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        blocks[i] = take(heap, 512);
}

enum { PER_POOL = (SMALL_POOL_BYTES - HEADER_BYTES) / 512 }; /* blocks of 512 in a small pool */

/* ---- Blocks in a pool -------------------------------------------------------------------------
 */

static void fill_a_pool(const struct fh_classic_config *config, size_t bytes)
{
    struct fh_classic *heap = new_heap(config);
    size_t block_bytes = fh_round_up(bytes, config->alignment_bytes);
    size_t capacity = (config->pool_bytes - HEADER_BYTES) / block_bytes;
    char *first = take(heap, bytes);
    CHECK(((uintptr_t)first & (config->pool_bytes - 1)) == HEADER_BYTES);
    CHECK(fh_classic_usable_bytes(heap, first) == block_bytes);
    for (size_t i = 1; i < capacity; i++)
        CHECK(take(heap, bytes) == first + i * block_bytes);
    char *next = take(heap, bytes);
    CHECK(next == (char *)fh_classic_pool_of(heap, first) + config->pool_bytes + HEADER_BYTES);
    fh_classic_destroy(heap);
}

TEST(blocks_follow_the_header_in_order_in_every_geometry_and_class)
{
    static const struct {
        uint32_t alignment_bytes, threshold_bytes, pool_bytes, arena_bytes;
    } geometries[] = {{8, 256, 4 << 10, 256 << 10},
                      {8, 512, 4 << 10, 256 << 10},
                      {16, 512, 16 << 10, 1 << 20},
                      {16, 256, 64 << 10, 256 << 10}};
    for (size_t i = 0; i < sizeof geometries / sizeof *geometries; i++) {
        struct fh_classic_config config = fh_classic_default_config();
        config.alignment_bytes = geometries[i].alignment_bytes;
        config.threshold_bytes = geometries[i].threshold_bytes;
        config.pool_bytes = geometries[i].pool_bytes;
        config.arena_bytes = geometries[i].arena_bytes;
        for (size_t bytes = 1; bytes <= config.threshold_bytes; bytes += 7)
            fill_a_pool(&config, bytes);
        fill_a_pool(&config, config.threshold_bytes);
    }
}

TEST(a_geometry_whose_parts_do_not_fit_is_refused)
{
    struct fh_classic_config good = fh_classic_default_config();
    struct fh_classic_config bad[10];
    for (size_t i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].alignment_bytes = 32;
    bad[1].threshold_bytes = 500;
    bad[2].pool_bytes = 5000;
    bad[3].pool_bytes = 2 << 10;
    bad[4].pool_bytes = 128 << 10;
    bad[5].arena_bytes = 128 << 10;
    bad[6].arena_bytes = 3 << 18;
    bad[7].pool_bytes = 4 << 10, bad[7].arena_bytes = 2 << 20;
    bad[8].source.alloc = take_place;
    bad[9].source.free = give_place;
    for (size_t i = 0; i < 10; i++) {
        errno = 0;
        CHECK(fh_classic_create(&bad[i]) == NULL && errno == EINVAL);
    }
    fh_classic_destroy(new_heap(&good));
}

TEST(a_request_of_no_bytes_takes_a_block_of_the_smallest_class)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = new_heap(&config);
    char *none = take(heap, 0);
    CHECK(fh_classic_usable_bytes(heap, none) == 16 && take(heap, 0) == none + 16);
    CHECK(fh_classic_serves(heap, 0) && fh_classic_serves(heap, 512));
    CHECK(!fh_classic_serves(heap, 513));
    fh_classic_destroy(heap);
}

TEST(the_block_freed_last_is_taken_first)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = new_heap(&config);
    void *blocks[100];
    for (int i = 0; i < 100; i++)
        blocks[i] = take(heap, 48);
    for (int i = 0; i < 100; i += 3)
        give(heap, blocks[i]);
    for (int i = 99; i >= 0; i -= 3)
        CHECK(take(heap, 40) == blocks[i]);
    CHECK(take(heap, 48) == (char *)blocks[99] + 48); /* and only then one never used */
    check_classic(heap);
    fh_classic_destroy(heap);
}

TEST(a_page_is_not_touched_before_a_block_in_it_is_needed)
{
    struct places places = places_at(0);
    struct fh_classic_config config = fh_classic_default_config();
    config.source = source_of(&places);
    struct fh_classic *heap = new_heap(&config);
    unsigned char *pool = (unsigned char *)fh_classic_pool_of(heap, take(heap, 32));
    for (size_t i = FH_CARVE_BYTES; i < config.arena_bytes; i++)
        CHECK(pool[i] == 0xEE);
    while ((unsigned char *)take(heap, 32) < pool + FH_CARVE_BYTES - 64)
        ;
    CHECK(pool[FH_CARVE_BYTES] == 0xEE);
    fh_classic_destroy(heap);
}

/* ---- Pools ------------------------------------------------------------------------------------
 */

TEST(a_free_into_a_full_pool_puts_it_in_front)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    void *blocks[5 * PER_POOL];
    take_all(heap, blocks, 5 * PER_POOL);
    CHECK(heap->used[62] == &heap->none); /* full pools are in no list */
    give(heap, blocks[0]);
    give(heap, blocks[2 * PER_POOL]);
    give(heap, blocks[2 * PER_POOL + 1]);
    give(heap, blocks[PER_POOL]);
    give(heap, blocks[1]); /* its pool stays where it is */
    CHECK(fh_classic_check(heap, print_finding, NULL) == 0);
    CHECK(take(heap, 512) == blocks[PER_POOL]);
    CHECK(take(heap, 512) == blocks[2 * PER_POOL + 1]);
    CHECK(take(heap, 512) == blocks[2 * PER_POOL]);
    CHECK(take(heap, 512) == blocks[1] && take(heap, 512) == blocks[0]);
    check_classic(heap);
    fh_classic_destroy(heap);
}

TEST(an_empty_pool_serves_any_class_and_the_one_emptied_last_comes_first)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    void *blocks[4 * PER_POOL];
    take_all(heap, blocks, 4 * PER_POOL);
    for (int i = 0; i < 2 * PER_POOL; i++)
        give(heap, blocks[i]);
    check_classic(heap);
    char *second = (char *)fh_classic_pool_of(heap, blocks[PER_POOL]);
    CHECK(take(heap, 100) == second + HEADER_BYTES);
    CHECK(take(heap, 100) == second + HEADER_BYTES + 112);
    CHECK(take(heap, 200) == (char *)fh_classic_pool_of(heap, blocks[0]) + HEADER_BYTES);
    check_classic(heap);
    fh_classic_destroy(heap);
}

TEST(a_pool_that_comes_back_to_its_class_keeps_its_order)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    void *blocks[3];
    take_all(heap, blocks, 3);
    give(heap, blocks[0]);
    give(heap, blocks[2]);
    give(heap, blocks[1]);
    CHECK(heap->used[62] == &heap->none);
    CHECK(take(heap, 512) == blocks[1] && take(heap, 512) == blocks[2]);
    CHECK(take(heap, 512) == blocks[0] && take(heap, 512) == (char *)blocks[2] + 512);
    fh_classic_destroy(heap);
}

/* ---- Arenas -----------------------------------------------------------------------------------
 */

enum { PER_ARENA = SMALL_ARENA_POOLS * PER_POOL };

TEST(the_next_pool_comes_from_the_arena_with_the_fewest_free_ones)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    static void *blocks[3 * PER_ARENA];
    take_all(heap, blocks, 3 * PER_ARENA);
    CHECK(places.in_use == 3 && heap->usable == NULL);
    static const int emptied[3] = {7, 3, 5}; /* pools of each arena */
    for (int arena = 0; arena < 3; arena++)
        for (int i = 0; i < emptied[arena] * PER_POOL; i++) {
            give(heap, blocks[arena * PER_ARENA + i]);
            CHECK(i % 64 != 0 || fh_classic_check(heap, print_finding, NULL) == 0);
        }
    static const int order[] = {1, 1, 1, 2, 2, 2, 2, 2, 0};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        char *block = take(heap, 16 * (i + 1));
        CHECK((size_t)(block - places.start) / PLACE_BYTES == (size_t)order[i]);
    }
    check_classic(heap);
    fh_classic_destroy(heap);
    CHECK(places.in_use == 0);
}

static void arenas_left(uint32_t spare_arenas, size_t expected)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, spare_arenas);
    static void *blocks[5 * PER_ARENA];
    take_all(heap, blocks, 5 * PER_ARENA);
    for (size_t i = 0; i < 5 * PER_ARENA; i++)
        give(heap, blocks[i]);
    check_classic(heap);
    CHECK(places.in_use == expected && heap->arenas_current == expected);
    CHECK(heap->arenas_highwater == 5 && heap->arenas_total == 5);
    take(heap, 512);
    CHECK(heap->arenas_total == (expected == 0 ? 6 : 5));
    fh_classic_destroy(heap);
}

TEST(an_arena_goes_back_when_all_its_pools_are_free_and_enough_others_are_usable)
{
    arenas_left(0, 0);
    arenas_left(1, 1);
    arenas_left(3, 3);
    arenas_left(9, 5);
}

TEST(records_of_arenas_are_used_again_and_their_vector_grows)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 0);
    static void *blocks[40 * PER_ARENA];
    take_all(heap, blocks, 16 * PER_ARENA);
    CHECK(heap->arenas_capacity == 16);
    take_all(heap, blocks + 16 * PER_ARENA, 24 * PER_ARENA);
    CHECK(heap->arenas_capacity == 64 && places.in_use == 40);
    for (size_t i = 3 * PER_ARENA; i < 5 * PER_ARENA; i++)
        give(heap, blocks[i]);
    CHECK(places.in_use == 38 && heap->unused == &heap->arenas[4]);
    take_all(heap, blocks, 1);
    CHECK(heap->arenas[4].address != 0 && heap->unused == &heap->arenas[3]);
    check_classic(heap);
    fh_classic_destroy(heap);
    CHECK(places.in_use == 0);
}

TEST(an_arena_that_is_not_aligned_loses_a_pool_and_is_found_exactly)
{
    static const size_t offsets[] = {0, 16, 4096, 200 << 10, (256 << 10) - 16, 300 << 10};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct places places = places_at(offsets[i]);
        struct fh_classic_config config = fh_classic_default_config();
        config.source = source_of(&places);
        struct fh_classic *heap = new_heap(&config);
        void *block = take(heap, 1);
        char *arena = places.start + offsets[i];
        bool aligned = offsets[i] % config.pool_bytes == 0;
        CHECK(heap->arenas[0].pool_count == (aligned ? 64 : 63));
        CHECK(fh_classic_of(arena - 1) == NULL && fh_classic_of(arena) == heap);
        CHECK(fh_classic_of(arena + config.arena_bytes - 1) == heap);
        CHECK(fh_classic_of(arena + config.arena_bytes) == NULL);
        check_classic(heap);
        give(heap, block);
        fh_classic_destroy(heap);
        CHECK(fh_classic_of(arena) == NULL && places.in_use == 0);
    }
}

TEST(without_memory_for_an_arena_a_request_gets_nothing_and_all_else_goes_on)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    static void *blocks[PER_ARENA];
    places.limit = 0;
    CHECK(fh_classic_malloc(heap, 512) == NULL);
    places.limit = 1;
    take_all(heap, blocks, PER_ARENA);
    CHECK(fh_classic_malloc(heap, 512) == NULL && fh_classic_malloc(heap, 16) == NULL);
    check_classic(heap);
    void *block = blocks[7];
    CHECK(fh_classic_realloc(heap, &block, 16) == FH_CLASSIC_RESIZED && block == blocks[7]);
    give(heap, block);
    CHECK(take(heap, 512) == block);
    check_classic(heap);
    fh_classic_destroy(heap);
}

TEST(a_limit_on_arenas_is_kept)
{
    struct fh_classic_config config = small_config();
    config.arenas_max = 2;
    struct fh_classic *heap = new_heap(&config);
    static void *blocks[2 * PER_ARENA];
    take_all(heap, blocks, 2 * PER_ARENA);
    CHECK(fh_classic_malloc(heap, 512) == NULL && heap->arenas_current == 2);
    give(heap, blocks[0]);
    CHECK(take(heap, 512) == blocks[0]);
    fh_classic_destroy(heap);
}

/* ---- Resizing ---------------------------------------------------------------------------------
 */

TEST(a_block_is_resized_in_place_unless_a_quarter_can_be_saved)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = new_heap(&config);
    for (size_t old_bytes = 16; old_bytes <= 512; old_bytes += 16)
        for (size_t bytes = 0; bytes <= 512; bytes++) {
            char *old = take(heap, old_bytes);
            void *block = old;
            memset(old, 0x5A, old_bytes);
            CHECK(fh_classic_realloc(heap, &block, bytes) == FH_CLASSIC_RESIZED);
            bool in_place = bytes <= old_bytes && 4 * bytes > 3 * old_bytes;
            CHECK((block == old) == in_place);
            for (size_t i = 0; i < bytes && i < old_bytes; i++)
                CHECK(((char *)block)[i] == 0x5A);
            CHECK(fh_classic_usable_bytes(heap, block) >= bytes);
            give(heap, block);
        }
    check_classic(heap);
    fh_classic_destroy(heap);
}

TEST(what_the_heap_cannot_resize_is_left_to_the_caller)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = new_heap(&config);
    void *block = take(heap, 100), *same = block;
    CHECK(fh_classic_realloc(heap, &block, 513) == FH_CLASSIC_ELSEWHERE && block == same);
    char stranger[64];
    void *strange = stranger;
    CHECK(fh_classic_realloc(heap, &strange, 10) == FH_CLASSIC_FOREIGN && strange == stranger);
    CHECK(!fh_classic_free(heap, stranger) && !fh_classic_free(heap, NULL));
    CHECK(fh_classic_usable_bytes(heap, stranger) == 0);
    give(heap, block);
    fh_classic_destroy(heap);
}

/* ---- Whose an address is ----------------------------------------------------------------------
 */

TEST(each_heap_knows_its_own_blocks_and_no_others)
{
    struct places places = places_at(64 << 10);
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *one = new_heap(&config), *other = new_heap(&config);
    struct fh_classic *third = small_heap(&places, 1);
    struct fh_classic *heaps[3] = {one, other, third};
    void *blocks[3] = {take(one, 8), take(other, 8), take(third, 8)};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            CHECK(fh_classic_owns(heaps[i], blocks[k]) == (i == k));
            CHECK(i == k || !fh_classic_free(heaps[i], blocks[k]));
        }
    void *raw = fh_theap_malloc(100);
    CHECK(fh_classic_of(raw) == NULL && fh_classic_of(NULL) == NULL && fh_classic_of(one) == NULL);
    CHECK(fh_classic_of((void *)UINTPTR_MAX) == NULL && fh_classic_of(&places) == NULL);
    CHECK(fh_classic_of((void *)((uintptr_t)1 << 48 | (uintptr_t)blocks[2])) == NULL);
    fh_theap_free(raw);
    for (int i = 0; i < 3; i++)
        fh_classic_destroy(heaps[i]);
    for (int i = 0; i < 3; i++)
        CHECK(fh_classic_of(blocks[i]) == NULL);
}

static void *raw_arena(void *ctx, size_t bytes)
{
    (void)ctx;
    return fh_theap_malloc(bytes + 1000); /* large: whole pools of the region */
}

static void free_raw_arena(void *ctx, void *memory, size_t bytes)
{
    (void)ctx, (void)bytes;
    fh_theap_free(memory);
}

TEST(arenas_from_a_source_may_lie_in_the_region)
{
    struct fh_classic_config config = small_config();
    config.source = (struct fh_classic_source){NULL, raw_arena, free_raw_arena};
    struct fh_classic *heap = new_heap(&config);
    static void *blocks[3 * PER_ARENA];
    take_all(heap, blocks, 2 * PER_ARENA);
    CHECK(fh_region_find((uintptr_t)blocks[0], &(size_t){0}));
    check_classic(heap);
    for (int i = 0; i < 2 * PER_ARENA; i++)
        give(heap, blocks[i]);
    fh_classic_destroy(heap);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
}

static void skip_unless_arenas_fit_the_region(void)
{
    size_t bytes = FH_ARENA_BYTES;
    if (bytes < SMALL_ARENA_BYTES)
        modules_skip("the region's arenas are smaller than a heap's");
}

TEST(arenas_are_runs_of_the_regions_pools_and_go_back_as_such)
{
    skip_unless_arenas_fit_the_region();
    struct fh_classic_config config = small_config();
    struct fh_classic *heap = new_heap(&config);
    static void *blocks[3 * PER_ARENA];
    take_all(heap, blocks, 3 * PER_ARENA);
    struct fh_region *region = fh_region_peek();
    CHECK(claimed_pools(region) == 3 * (size_t)SMALL_ARENA_BYTES / FH_POOL_BYTES);
    CHECK((heap->arenas[1].address & (SMALL_ARENA_BYTES - 1)) == 0);
    CHECK(fh_theap_pool_of(blocks[0])->kind == FH_POOL_CLASSIC);
    check_classic(heap);
    for (int i = 0; i < PER_ARENA; i++) /* then one of three is free, but the last usable one */
        give(heap, blocks[i]);
    CHECK(claimed_pools(region) == 3 * (size_t)SMALL_ARENA_BYTES / FH_POOL_BYTES);
    for (int i = PER_ARENA; i < 2 * PER_ARENA; i++)
        give(heap, blocks[i]);
    CHECK(claimed_pools(region) == 2 * (size_t)SMALL_ARENA_BYTES / FH_POOL_BYTES);
    fh_classic_destroy(heap);
    CHECK(claimed_pools(region) == 0);
    CHECK(fh_theap_pool_of(blocks[0])->kind == FH_POOL_NONE);
    check_region(region);
}

TEST(arenas_outside_the_regions_reservation_are_found_too)
{
    skip_unless_arenas_fit_the_region();
    if (MODULES_SHADOWED)
        modules_skip("the limit would hit the sanitizer first");
    struct rlimit limit = {(rlim_t)256 << 20, (rlim_t)256 << 20};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0); /* else the region would hardly be used up */
    struct fh_region *region = fh_region_get();
    CHECK(region != NULL && region->extra != NULL);
    fh_store_relaxed_u64(&region->arenas_opened, region->region_arenas); /* all in use */
    struct fh_classic_config config = small_config();
    struct fh_classic *heap = new_heap(&config);
    void *block = take(heap, 100);
    CHECK((uintptr_t)block - region->base >= region->bytes);
    CHECK(fh_classic_usable_bytes(heap, block) == 112);
    give(heap, block);
    CHECK(take(heap, 100) == block);
    check_classic(heap);
    fh_classic_destroy(heap);
    CHECK(fh_classic_of(block) == NULL && claimed_pools(region) == 0);
}

TEST(one_may_ask_about_addresses_where_nothing_is_accessible)
{
    if (MODULES_SHADOWED)
        modules_skip("the limit would hit the sanitizer first");
    struct rlimit limit = {(rlim_t)64 << 20, (rlim_t)64 << 20};
    CHECK(setrlimit(RLIMIT_DATA, &limit) == 0); /* now arenas are committed one by one */
    struct fh_region *region = fh_region_get();
    if (region == NULL || !region->commits)
        modules_skip("the limit is not kept for this region");
    struct fh_classic_config config = small_config();
    struct fh_classic *heap = new_heap(&config);
    void *block = take(heap, 100);
    for (uintptr_t at = region->base; at - region->base < region->bytes; at += region->bytes / 64)
        CHECK(fh_classic_of((void *)(at + region->bytes / 64 - 1)) == NULL);
    CHECK(fh_classic_of(block) == heap);
    fh_classic_destroy(heap);
}

static void free_as_raw(void *block)
{
    fh_theap_free(block);
}

static void resize_as_raw(void *block)
{
    fh_theap_realloc(block, 1000);
}

TEST(a_block_of_a_classic_heap_freed_without_its_heap_ends_the_program)
{
    skip_unless_arenas_fit_the_region();
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = new_heap(&config);
    void *block = take(heap, 100);
    static const char why[] = "not a live block of this domain, but in a heap with a lock";
    char text[200];
    snprintf(text, sizeof text, "freehold: free(0x%016llx): %s\n",
             (unsigned long long)(uintptr_t)block, why);
    check_aborts(free_as_raw, block, text);
    snprintf(text, sizeof text, "freehold: realloc(0x%016llx): %s\n",
             (unsigned long long)(uintptr_t)block, why);
    check_aborts(resize_as_raw, block, text);
    CHECK(fh_theap_usable_bytes(block) == 0);
    fh_classic_destroy(heap);
}

/* ---- The map ----------------------------------------------------------------------------------
 */

enum { GRANULE_BYTES = 256 << 10 };

/* Heaps are only numbers here. */
static struct fh_classic *numbered(uintptr_t number)
{
    return (struct fh_classic *)(number << 12);
}

TEST(two_neighbours_share_a_granule_of_the_map)
{
    uintptr_t start = ((uintptr_t)1 << 40) - GRANULE_BYTES - 4096, middle = start + GRANULE_BYTES;
    CHECK(fh_map_add(start, GRANULE_BYTES, numbered(1)));
    CHECK(fh_map_add(middle, 5 * GRANULE_BYTES + 16, numbered(2)));
    CHECK(fh_map_find(start - 1) == NULL && fh_map_find(start) == numbered(1));
    CHECK(fh_map_find(middle - 1) == numbered(1) && fh_map_find(middle) == numbered(2));
    for (uintptr_t at = middle; at < middle + 5 * GRANULE_BYTES + 16; at += 4096)
        CHECK(fh_map_find(at) == numbered(2));
    CHECK(fh_map_find(middle + 5 * GRANULE_BYTES + 15) == numbered(2));
    CHECK(fh_map_find(middle + 5 * GRANULE_BYTES + 16) == NULL);
    fh_map_remove(start, GRANULE_BYTES);
    CHECK(fh_map_find(middle - 1) == NULL && fh_map_find(middle) == numbered(2));
    fh_map_remove(middle, 5 * GRANULE_BYTES + 16);
    CHECK(fh_map_find(middle) == NULL && fh_map_find(middle + 5 * GRANULE_BYTES) == NULL);
}

TEST(an_address_beyond_the_map_is_refused)
{
    uintptr_t end = (uintptr_t)1 << 48;
    CHECK(!fh_map_add(end, GRANULE_BYTES, numbered(1)));
    CHECK(!fh_map_add(end - 4096, GRANULE_BYTES, numbered(1)));
    CHECK(fh_map_find(end - 1) == NULL);
    CHECK(fh_map_add(end - GRANULE_BYTES, GRANULE_BYTES, numbered(1)));
    CHECK(fh_map_find(end - 1) == numbered(1) && fh_map_find(end) == NULL);
}

/* Neighbours that share granules, each other one's; all in nodes that nobody made yet. */
static void add_and_remove(unsigned number, void *shared)
{
    uintptr_t mine = (uintptr_t)1 << 44 | ((uintptr_t)number * (GRANULE_BYTES + 64) + 16);
    (void)shared;
    for (struct bound bound = at_most(2000); more(&bound);) {
        CHECK(fh_map_add(mine, GRANULE_BYTES + 64, numbered(number + 1)));
        CHECK(fh_map_find(mine) == numbered(number + 1));
        CHECK(fh_map_find(mine + GRANULE_BYTES + 63) == numbered(number + 1));
        struct fh_classic *after = fh_map_find(mine + GRANULE_BYTES + 64);
        CHECK(after == NULL || after == numbered(number + 2));
        fh_map_remove(mine, GRANULE_BYTES + 64);
        CHECK(fh_map_find(mine) == NULL);
    }
}

TEST(threads_add_and_remove_neighbours_at_once)
{
    together(4, add_and_remove, NULL);
}

/* ---- Reports ----------------------------------------------------------------------------------
 */

struct text {
    char written[4096];
    size_t bytes;
};

static void write_text(void *ctx, const char *text, size_t bytes)
{
    struct text *to = ctx;
    CHECK(to->bytes + bytes < sizeof to->written);
    memcpy(to->written + to->bytes, text, bytes);
    to->bytes += bytes;
}

/* Worked out by hand: 1021, 340 and 31 blocks fit a pool, 63 pools an arena. */
static const char golden[] = "Small block threshold = 512, in 32 size classes.\n"
                             "\n"
                             "class   size   num pools   blocks in use  avail blocks\n"
                             "-----   ----   ---------   -------------  ------------\n"
                             "    0     16           1              27           994\n"
                             "    2     48           4            1300            60\n"
                             "   31    512          65            2000            15\n"
                             "\n"
                             "# arenas allocated total           =                    2\n"
                             "# arenas reclaimed                 =                    0\n"
                             "# arenas highwater mark            =                    2\n"
                             "# arenas allocated current         =                    2\n"
                             "2 arenas * 1048576 bytes/arena     =            2,097,152\n"
                             "\n"
                             "# bytes in allocated blocks        =            1,086,832\n"
                             "# bytes in available blocks        =               26,464\n"
                             "56 unused pools * 16384 bytes      =              917,504\n"
                             "# bytes lost to pool headers       =                3,360\n"
                             "# bytes lost to quantization       =               30,224\n"
                             "# bytes lost to arena alignment    =               32,768\n"
                             "Total                              =            2,097,152\n";

TEST(statistics_read_as_cpythons)
{
    struct places places = places_at(4096);
    struct fh_classic_config config = fh_classic_default_config();
    config.source = source_of(&places);
    struct fh_classic *heap = new_heap(&config);
    for (int i = 0; i < 2000; i++) {
        take(heap, 500);
        if (i < 1300)
            take(heap, 48);
        if (i < 27)
            take(heap, i == 0 ? 0 : 9);
    }
    struct text text = {.bytes = 0};
    fh_classic_stats_text(heap, write_text, &text);
    if (strcmp(text.written, golden) != 0)
        fprintf(stderr, "%s", text.written);
    CHECK(strcmp(text.written, golden) == 0);
    check_classic(heap);
    fh_classic_destroy(heap);
}

struct seen {
    size_t blocks, bytes, limit;
};

static bool see(void *ctx, void *block, size_t bytes)
{
    struct seen *seen = ctx;
    memset(block, 0x33, bytes); /* it is nobody's link */
    seen->blocks++;
    seen->bytes += bytes;
    return seen->blocks < seen->limit;
}

TEST(every_live_block_is_visited_once)
{
    struct places places = places_at(16);
    struct fh_classic *heap = small_heap(&places, 1);
    static void *blocks[2000];
    uint64_t state = 9;
    for (int i = 0; i < 2000; i++)
        blocks[i] = take(heap, 1 + random_below(&state, 512));
    for (int i = 0; i < 2000; i += 2)
        give(heap, blocks[i]);
    struct seen seen = {.limit = SIZE_MAX};
    struct fh_classic_totals totals;
    fh_classic_sum(heap, &totals);
    CHECK(fh_classic_visit(heap, see, &seen) && seen.blocks == 1000 && totals.live_blocks == 1000);
    CHECK(seen.bytes == totals.in_use_bytes);
    for (int i = 1; i < 2000; i += 2)
        CHECK(*(char *)blocks[i] == 0x33);
    seen = (struct seen){.limit = 10};
    CHECK(!fh_classic_visit(heap, see, &seen) && seen.blocks == 10);
    check_classic(heap);
    fh_classic_destroy(heap);
}

static size_t findings(const struct fh_classic *heap)
{
    return fh_classic_check(heap, NULL, NULL);
}

TEST(what_is_damaged_is_found)
{
    struct places places = places_at(0);
    struct fh_classic *heap = small_heap(&places, 1);
    static void *blocks[3 * PER_ARENA];
    take_all(heap, blocks, 3 * PER_ARENA);
    for (int i = 0; i < 3 * PER_POOL + 2; i++)
        give(heap, blocks[i]);
    give(heap, blocks[PER_ARENA]); /* of a pool that was full */
    for (int i = 0; i < 2 * PER_POOL; i++)
        give(heap, blocks[2 * PER_ARENA + i]);
    CHECK(findings(heap) == 0);
    struct fh_classic_pool *pool = fh_classic_pool_of(heap, blocks[PER_ARENA]);
    struct fh_block *link = blocks[PER_ARENA];

#define DAMAGE(what, value)                                                                        \
    do {                                                                                           \
        __typeof__(what) before = (what);                                                          \
        (what) = (value);                                                                          \
        CHECK(findings(heap) > 0);                                                                 \
        (what) = before;                                                                           \
        CHECK(findings(heap) == 0);                                                                \
    } while (0)
    DAMAGE(pool->live_count, pool->live_count + 1);
    DAMAGE(pool->free_list, NULL);
    DAMAGE(pool->block_bytes, 256);
    DAMAGE(pool->slot, 60);
    DAMAGE(pool->arena_index, 2);
    DAMAGE(pool->carve_offset, pool->carve_offset + 8);
    DAMAGE(link->next, link);                       /* in circles */
    DAMAGE(link->next, (struct fh_block *)&places); /* astray */
    DAMAGE(heap->used[62], &heap->none);            /* lost */
    DAMAGE(heap->used[60], pool);                   /* in two lists */
    DAMAGE(heap->usable, heap->usable->next);       /* an arena lost */
    DAMAGE(heap->usable->free_count, 9);            /* out of order */
    DAMAGE(heap->last_with[2], NULL);
    DAMAGE(heap->last_with[7], heap->usable);
    DAMAGE(heap->arenas_current, 4);
    DAMAGE(heap->unused, NULL);
    DAMAGE(heap->arenas[0].empty, NULL);
#undef DAMAGE
    fh_map_remove((uintptr_t)places.start, SMALL_ARENA_BYTES);
    CHECK(findings(heap) > 0);
    CHECK(fh_map_add((uintptr_t)places.start, SMALL_ARENA_BYTES, heap) && findings(heap) == 0);
    fh_classic_destroy(heap);
}

/* ---- By chance --------------------------------------------------------------------------------
 */

enum { SLOTS = 3000 };

struct slot {
    unsigned char *block;
    size_t bytes;
    unsigned char mark;
};

static void check_slot(const struct slot *slot, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        CHECK(slot->block[i] == slot->mark);
}

static void fill_slot(struct slot *slot, unsigned char *block, size_t bytes, unsigned char mark)
{
    *slot = (struct slot){block, bytes, mark};
    memset(block, mark, bytes);
}

static void one_step(struct fh_classic *heap, struct slot *slot, uint64_t *state)
{
    size_t bytes = random_below(state, heap->config.threshold_bytes + 1);
    unsigned char mark = (unsigned char)random_below(state, 256);
    if (slot->block == NULL) {
        fill_slot(slot, take(heap, bytes), bytes, mark);
    } else if (random_below(state, 3) == 0) {
        void *block = slot->block;
        CHECK(fh_classic_realloc(heap, &block, bytes) == FH_CLASSIC_RESIZED);
        slot->block = block;
        check_slot(slot, bytes < slot->bytes ? bytes : slot->bytes);
        fill_slot(slot, block, bytes, mark);
    } else {
        check_slot(slot, slot->bytes);
        give(heap, slot->block);
        slot->block = NULL;
    }
}

static size_t live_slots(const struct slot *slots)
{
    size_t live = 0;
    for (int i = 0; i < SLOTS; i++)
        live += slots[i].block != NULL;
    return live;
}

static void by_chance(const struct fh_classic_config *config)
{
    static struct slot slots[SLOTS];
    struct fh_classic *heap = new_heap(config);
    struct fh_classic_totals totals;
    uint64_t state = config->pool_bytes + config->alignment_bytes;
    memset(slots, 0, sizeof slots);
    for (struct bound bound = at_most(30000); more(&bound);) {
        one_step(heap, &slots[random_below(&state, SLOTS)], &state);
        if (bound.step % 5000 == 0)
            check_classic(heap);
    }
    fh_classic_sum(heap, &totals);
    CHECK(totals.live_blocks == live_slots(slots));
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].block != NULL)
            give(heap, slots[i].block);
    check_classic(heap);
    fh_classic_sum(heap, &totals);
    CHECK(totals.live_blocks == 0 && totals.in_use_bytes == 0);
    CHECK(totals.arenas_current <= 1);
    fh_classic_destroy(heap);
}

TEST(by_chance_in_every_geometry_all_that_must_hold_holds)
{
    struct places places = places_at(48);
    struct fh_classic_config config = fh_classic_default_config();
    by_chance(&config);
    config = small_config();
    by_chance(&config);
    config.alignment_bytes = 8;
    config.source = source_of(&places);
    by_chance(&config);
    config.threshold_bytes = 256;
    config.pool_bytes = 64 << 10;
    by_chance(&config);
    CHECK(places.in_use == 0);
}

/* ---- Threads without the lock -----------------------------------------------------------------
 */

enum { PASSED = 4096 };

static void *passed[PASSED]; /* each NULL or a block that any thread may free */

/* Thread 0 has the lock: it allocates, drains, and frees. The others free what they find. */
static void pass_and_free(unsigned number, void *shared)
{
    struct fh_classic *heap = shared;
    uint64_t state = number + 1;
    for (struct bound bound = at_most(number == 0 ? 40000 : 200000); more(&bound);) {
        void **place = &passed[random_below(&state, PASSED)];
        void *block = number == 0 ? take(heap, 1 + random_below(&state, 512)) : NULL;
        if (block != NULL)
            memset(block, 1, 8);
        block = __atomic_exchange_n(place, block, __ATOMIC_ACQ_REL);
        if (block == NULL)
            continue;
        CHECK(fh_classic_of(block) == heap);
        if (number != 0)
            memset(block, 2, 16);
        CHECK(number == 0 ? fh_classic_free(heap, block) : fh_classic_free_deferred(block));
        if (number == 0 && bound.step % 64 == 0)
            fh_classic_drain(heap);
    }
}

TEST(blocks_freed_without_the_lock_come_back_when_the_holder_drains)
{
    struct places places = places_at(100 << 10);
    struct fh_classic *heap = small_heap(&places, 1);
    together(4, pass_and_free, heap);
    fh_classic_drain(heap);
    for (int i = 0; i < PASSED; i++)
        CHECK(fh_classic_free_deferred(passed[i] == NULL ? take(heap, 40) : passed[i]));
    struct fh_classic_totals totals;
    fh_classic_sum(heap, &totals);
    CHECK(totals.live_blocks == PASSED);
    CHECK(fh_classic_drain(heap) == PASSED && fh_classic_drain(heap) == 0);
    fh_classic_sum(heap, &totals);
    CHECK(totals.live_blocks == 0 && places.in_use == 1);
    check_classic(heap);
    int stranger;
    CHECK(!fh_classic_free_deferred(&stranger) && !fh_classic_free_deferred(NULL));
    fh_classic_destroy(heap);
}

/* Thread 0 makes arenas come and go; the others ask about all addresses of the region's start. */
static void ask_meanwhile(unsigned number, void *shared)
{
    struct fh_classic *heap = shared;
    uint64_t state = number;
    static void *blocks[2 * PER_ARENA];
    for (struct bound bound = at_most(number == 0 ? 100 : 100000); more(&bound);) {
        uintptr_t at = heap->region_base + random_below(&state, 4 * SMALL_ARENA_BYTES);
        struct fh_classic *found = number == 0 ? NULL : fh_classic_of((void *)at);
        CHECK(found == NULL || found == heap);
        if (number != 0)
            continue;
        take_all(heap, blocks, 2 * PER_ARENA);
        for (int i = 0; i < 2 * PER_ARENA; i++)
            give(heap, blocks[i]);
    }
}

TEST(anyone_may_ask_whose_an_address_is_while_arenas_come_and_go)
{
    struct fh_classic_config config = small_config();
    config.spare_arenas = 0;
    struct fh_classic *heap = new_heap(&config);
    together(3, ask_meanwhile, heap);
    CHECK(heap->arenas_current == 0 && heap->arenas_total > 1);
    fh_classic_destroy(heap);
}
