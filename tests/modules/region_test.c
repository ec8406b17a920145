/* SPDX-License-Identifier: MIT */
/* arena/region.h: the one region, how it comes to be, and which addresses are its. */
#include "modules.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include "arena.h"
#include "freehold.h"
#include "os.h"

TEST(there_is_no_region_before_the_first_use)
{
    size_t pool_index;
    CHECK(fh_region_peek() == NULL && fh_region_bytes == 0);
    CHECK(!fh_region_find((uintptr_t)&pool_index, &pool_index));
    CHECK(!fh_region_find(0, &pool_index));
}

TEST(the_region_stays_the_one_it_is)
{
    struct fh_region *region = fh_region_get();
    CHECK(region != NULL && fh_region_get() == region && fh_region_peek() == region);
    CHECK(fh_region_base == region->base && fh_region_bytes == region->bytes);
    CHECK(fh_region_descriptors == region->descriptors);
}

TEST(the_parts_of_a_region_are_aligned_and_do_not_overlap)
{
    const struct fh_region *region = fh_region_get();
    uintptr_t arenas = (uintptr_t)region->arenas;
    uintptr_t heaps = (uintptr_t)region->heaps;
    uintptr_t descriptors = (uintptr_t)region->descriptors;
    size_t descriptor_bytes = (size_t)region->arenas_max * FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES;
    CHECK(region->base % FH_ARENA_BYTES == 0 && arenas % FH_CACHE_LINE_BYTES == 0);
    CHECK(heaps % FH_THEAP_BYTES == 0 && descriptors % FH_DESCRIPTOR_BYTES == 0);
    CHECK((uintptr_t)(region + 1) <= (uintptr_t)region->hints.level[2]);
    CHECK((uintptr_t)region->hints.level[2] + fh_hints_bytes(region->hints.members) <= arenas);
    CHECK(arenas + region->arenas_max * sizeof(struct fh_arena) <= heaps);
    CHECK(heaps + (size_t)region->heaps_max * FH_THEAP_BYTES <= descriptors);
    CHECK(descriptors + descriptor_bytes <= region->base);
    CHECK(region->hints.members >= region->arenas_max &&
          region->hints.members >= region->heaps_max);
}

TEST(every_address_of_the_region_is_found_and_its_neighbours_are_not)
{
    const struct fh_region *region = fh_region_get();
    size_t pools = region->bytes >> FH_POOL_SHIFT;
    size_t pool_index;
    for (size_t pool = 0; pool < pools; pool += pools / 997 + 1) {
        uintptr_t start = region->base + (pool << FH_POOL_SHIFT);
        CHECK(fh_region_find(start, &pool_index) && pool_index == pool);
        CHECK(fh_region_find(start + FH_POOL_BYTES - 1, &pool_index) && pool_index == pool);
    }
    CHECK(!fh_region_find(region->base - 1, &pool_index));
    CHECK(!fh_region_find(region->base + region->bytes, &pool_index));
    CHECK(!fh_region_find(0, &pool_index) && !fh_region_find(UINTPTR_MAX, &pool_index));
    CHECK(!fh_region_find((uintptr_t)region, &pool_index));
}

static struct fh_region *seen_by[4];

static void get_region(unsigned number, void *shared)
{
    (void)shared;
    seen_by[number] = fh_region_get();
    CHECK(fh_load_acquire_u64(&fh_region_bytes) == seen_by[number]->bytes);
}

TEST(threads_that_race_for_the_first_use_get_one_region)
{
    together(4, get_region, NULL);
    for (int i = 0; i < 4; i++)
        CHECK(seen_by[i] != NULL && seen_by[i] == fh_region_peek());
}

static void forget_copies(void)
{
    fh_region_base = (uint64_t)1 << 63;
    fh_region_bytes = 0;
}

static void get_the_region(void)
{
    CHECK(fh_region_get() != NULL);
}

static void check_that_no_block_is_inside(void)
{
    const struct fh_region *region = fh_region_get();
    for (size_t offset = 0; offset < region->bytes; offset += region->bytes / 64)
        CHECK(region->base + offset - fh_region_base >= fh_region_bytes);
    CHECK(0 - fh_region_base >= fh_region_bytes);
}

TEST(a_watched_region_stays_unknown_to_the_fast_paths_though_a_thread_is_late)
{
    CHECK(fh_region_get() != NULL);
    at_every_point(forget_copies, get_the_region, fh_region_watch, check_that_no_block_is_inside);
}

TEST(records_exist_from_the_moment_they_are_given_out)
{
    struct fh_region *region = new_region(5, 3, false);
    struct fh_run run;
    CHECK(!fh_region_has_arena(region, 0) && fh_region_next_arena(region, 0) == region->arenas_max);
    CHECK(fh_arenas_claim(region, 2, 1, &run));
    CHECK(fh_region_has_arena(region, 1) && !fh_region_has_arena(region, 2));
    region->extra_opened = 1;
    CHECK(fh_region_has_arena(region, 5) && !fh_region_has_arena(region, 6));
    CHECK(fh_region_next_arena(region, 0) == 0 && fh_region_next_arena(region, 1) == 1);
    CHECK(fh_region_next_arena(region, 2) == 5 && fh_region_next_arena(region, 6) == 8);
}

/* ---- Under limits ------------------------------------------------------------------------- */

static void limit_to(int resource, size_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    if (MODULES_SHADOWED)
        modules_skip("the sanitizer's own memory is over any limit");
    CHECK(setrlimit((__rlimit_resource_t)resource, &limit) == 0);
}

/* Fill the region and go on beyond it; each block is found, and can be freed. */
static size_t use_up(struct fh_region *region, size_t most)
{
    size_t extra = 0;
    struct fh_run run;
    for (size_t i = 0; i < most && fh_arena_claim(region, FH_ARENA_POOLS, 1, &run); i++) {
        char *start = fh_arena_pool_address(region, run.pool_index);
        size_t pool_index;
        CHECK(run.zeroed && (uintptr_t)start % FH_ARENA_BYTES == 0);
        CHECK(fh_region_find((uintptr_t)start + FH_ARENA_BYTES - 1, &pool_index));
        CHECK(pool_index == run.pool_index + FH_ARENA_POOLS - 1);
        start[0] = start[FH_ARENA_BYTES - 1] = 1;
        extra += (uintptr_t)start - region->base >= region->bytes;
    }
    return extra;
}

TEST(under_a_limit_on_address_space_extra_arenas_follow_the_region)
{
    limit_to(RLIMIT_AS, (size_t)256 << 20);
    struct fh_region *region = fh_region_get();
    CHECK(region != NULL && region->extra != NULL);
    CHECK(region->bytes <= (size_t)64 << 20);
    if (region->arenas_max == region->region_arenas)
        modules_skip("in this geometry the region already has every arena there can be");
    size_t most = 4 * region->region_arenas;
    size_t extra = use_up(region, most);
    CHECK(extra > 0 && extra < most);
    CHECK(fh_os_address_space_limit_bytes() == (size_t)256 << 20);
    check_region(region);
}

TEST(where_writable_reservations_are_refused_arenas_are_committed_one_by_one)
{
    limit_to(RLIMIT_DATA, (size_t)64 << 20);
    if (((size_t)1 << FH_REGION_SHIFT_MAX) < (size_t)64 << 20)
        modules_skip("so small a region is not refused");
    struct fh_region *region = fh_region_get();
    CHECK(region != NULL && region->commits);
    void *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = fh_raw_malloc(i * 300);
        CHECK(blocks[i] != NULL);
        *(char *)blocks[i] = 1;
    }
    CHECK(fh_raw_malloc((size_t)1 << 30) == NULL); /* over the limit */
    for (size_t i = 0; i < 100; i++)
        fh_raw_free(blocks[i]);
    check_region(region);
}

TEST(where_nothing_can_be_reserved_there_is_no_region_and_no_memory)
{
    limit_to(RLIMIT_AS, (size_t)1 << 12);
    CHECK(fh_region_get() == NULL && fh_raw_malloc(1) == NULL && fh_raw_malloc(1 << 20) == NULL);
}

TEST(a_commit_covers_whole_pages_around_what_is_named)
{
    struct fh_region *region = new_region(1, 0, true);
    char *start = (char *)region->base;
    CHECK(fh_region_commit(region, start + 100, 1) && start[0] == 0);
    CHECK(fh_region_commit(region, start + region->page_bytes - 1, 2));
    CHECK(start[2 * region->page_bytes - 1] == 0);
}
