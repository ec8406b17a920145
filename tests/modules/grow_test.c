/* SPDX-License-Identifier: MIT */
/* arena/grow.h: opening arenas in the region and beyond it. */
#include "modules.h"

#include "arena.h"
#include "bits.h"
#include "grow.h"

#define ALL fh_low_bits(FH_ARENA_POOLS)

static uint64_t start_of(const struct fh_region *region, uint32_t index)
{
    return region->arenas[index].start;
}

TEST(arenas_open_one_behind_the_other_until_the_region_ends)
{
    struct fh_region *region = new_region(4, 0, false);
    uint32_t first;
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(fh_grow(region, 1, 1, ALL, &first) && first == i);
        CHECK(start_of(region, i) == region->base + ((uint64_t)i << FH_ARENA_SHIFT));
        CHECK(region->arenas[i].used == ALL);
    }
    CHECK(!fh_grow(region, 1, 1, ALL, &first));
    CHECK(region->arenas_opened == 4);
}

TEST(a_growth_that_does_not_fit_consumes_nothing)
{
    struct fh_region *region = new_region(4, 0, false);
    uint32_t first;
    CHECK(!fh_grow(region, 5, 1, ALL, &first) && region->arenas_opened == 0);
    CHECK(fh_grow(region, 1, 1, ALL, &first));
    CHECK(!fh_grow(region, 2, 4, ALL, &first) && !fh_grow(region, SIZE_MAX, 1, ALL, &first));
    CHECK(region->arenas_opened == 1);
    CHECK(fh_grow(region, 3, 1, ALL, &first) && first == 1);
}

TEST(an_arena_opened_in_passing_is_empty_and_hinted_at)
{
    struct fh_region *region = new_region(8, 0, false);
    uint32_t first;
    CHECK(fh_grow(region, 1, 1, ALL, &first));
    CHECK(fh_grow(region, 2, 4, ALL, &first) && first == 4);
    for (uint32_t i = 1; i < 4; i++) {
        CHECK(start_of(region, i) != 0 && region->arenas[i].used == 0);
        CHECK(fh_hints_has(&region->hints, FH_HINTS_EMPTY, i));
        CHECK(fh_hints_has(&region->hints, FH_HINTS_ROOM, i));
    }
    CHECK(!fh_hints_has(&region->hints, FH_HINTS_EMPTY, 4));
}

TEST(committed_arenas_are_usable_and_so_is_what_describes_them)
{
    struct fh_region *region = new_region(4, 0, true);
    uint32_t first;
    size_t stride = (size_t)FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES;
    for (uint32_t i = 0; i < 4; i += 2) {
        CHECK(fh_grow(region, 2, 1, ALL, &first) && first == i);
        CHECK(is_zero((char *)start_of(region, first), 2 * FH_ARENA_BYTES));
        CHECK(is_zero(region->descriptors + first * stride, 2 * stride));
        CHECK(is_zero(region->arenas[first].shared, sizeof region->arenas[first].shared));
    }
}

TEST(beyond_the_region_extra_arenas_have_indices_and_mappings_of_their_own)
{
    struct fh_region *region = new_region(2, 6, false);
    uint32_t first;
    CHECK(fh_grow(region, 2, 1, ALL, &first) && first == 0);
    CHECK(fh_grow(region, 2, 2, ALL, &first) && first == 2);
    CHECK(start_of(region, 2) % (2 * FH_ARENA_BYTES) == 0);
    CHECK(start_of(region, 3) == start_of(region, 2) + FH_ARENA_BYTES);
    CHECK(start_of(region, 2) - region->base >= region->bytes);
    CHECK(is_zero((char *)start_of(region, 2), 2 * FH_ARENA_BYTES));
    CHECK(!fh_grow(region, 5, 1, ALL, &first) && region->extra_opened == 2);
    CHECK(fh_grow(region, 4, 1, ALL, &first) && first == 4);
    CHECK(!fh_grow(region, 1, 1, ALL, &first));
}

TEST(a_growth_too_large_for_what_is_left_of_the_region_goes_beyond_it)
{
    struct fh_region *region = new_region(2, 4, false);
    uint32_t first;
    CHECK(fh_grow(region, 3, 1, ALL, &first) && first == 2);
    CHECK(fh_grow(region, 1, 1, ALL, &first) && first == 0);
    CHECK(fh_region_next_arena(region, 0) == 0 && fh_region_next_arena(region, 1) == 2);
}

TEST(extra_arenas_serve_claims_as_others_do)
{
    struct fh_region *region = new_region(1, 3, false);
    struct fh_run run;
    for (unsigned i = 0; i < 4; i++) {
        CHECK(fh_arena_claim(region, FH_ARENA_POOLS, 1, &run));
        CHECK(run.pool_index == (size_t)i << FH_ARENA_POOL_SHIFT);
        *fh_arena_pool_address(region, run.pool_index) = 1;
    }
    CHECK(!fh_arena_claim(region, 1, 1, &run));
    fh_arena_release(region, 3 * FH_ARENA_POOLS, FH_ARENA_POOLS);
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index == 3 * FH_ARENA_POOLS);
    check_region(region);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { ARENAS = 60, EXTRA = 20 };

struct growth {
    struct fh_region *region;
    unsigned opened_by[ARENAS + EXTRA]; /* thread + 1 */
};

static void grow_all(unsigned number, void *shared)
{
    struct growth *growth = shared;
    uint32_t first;
    size_t arenas = number % 2 + 1;
    while (fh_grow(growth->region, arenas, arenas, ALL, &first))
        for (uint32_t i = first; i < first + arenas; i++) {
            CHECK(growth->opened_by[i] == 0); /* nobody else writes to it, or a race is reported */
            growth->opened_by[i] = number + 1;
        }
}

TEST(threads_that_grow_at_once_open_every_arena_once)
{
    static struct growth growth;
    growth.region = new_region(ARENAS, EXTRA, false);
    together(4, grow_all, &growth);
    for (uint32_t i = 0; i < ARENAS + EXTRA; i++) {
        /* Not opened by anybody: skipped for alignment, thus empty, or the odd one at an end. */
        uint64_t used = growth.region->arenas[i].used;
        CHECK(growth.opened_by[i] != 0 ? used == ALL : used == 0);
    }
    CHECK(growth.region->arenas_opened == ARENAS);
    CHECK(growth.region->extra_opened == EXTRA);
}

/* ---- Vacating ---------------------------------------------------------------------------------
 */

/* So many extra arenas, one by one, of a region without others; all empty again. */
static struct fh_region *with_empty_extra_arenas(uint32_t extra)
{
    struct fh_region *region = new_region(1, extra, false);
    struct fh_run runs[16];
    CHECK(extra < 16);
    for (uint32_t i = 0; i <= extra; i++)
        CHECK(fh_arenas_claim(region, 1, 1, &runs[i]) && runs[i].zeroed);
    for (uint32_t i = 1; i <= extra; i++) {
        *(char *)start_of(region, i) = 1;
        fh_arenas_release(region, runs[i].pool_index, 1, FH_ARENA_POOLS);
    }
    return region;
}

TEST(vacating_returns_the_addresses_of_empty_extra_arenas)
{
    struct fh_region *region = with_empty_extra_arenas(6);
    struct fh_run run;
    CHECK(fh_arena_claim(region, 1, 1, &run) && run.pool_index >> FH_ARENA_POOL_SHIFT == 1);
    CHECK(fh_grow_vacate(region) == 5 && fh_grow_vacate(region) == 0);
    CHECK(start_of(region, 0) != 0 && start_of(region, 1) != 0);
    for (uint32_t i = 2; i <= 6; i++) {
        CHECK(start_of(region, i) == 0 && region->arenas[i].used == ALL);
        CHECK(fh_hints_has(&region->hints, FH_HINTS_VACANT, i));
    }
    CHECK(fh_region_pools_in_use(region) == FH_ARENA_POOLS + 1);
    CHECK(fh_region_retained_pools(region) == FH_ARENA_POOLS - 1);
}

TEST(vacant_indices_serve_again_as_far_as_they_adjoin)
{
    struct fh_region *region = with_empty_extra_arenas(6);
    struct fh_run kept, run;
    CHECK(fh_arenas_claim(region, 1, 1, &kept) && kept.pool_index >> FH_ARENA_POOL_SHIFT == 1);
    CHECK(fh_grow_vacate(region) == 5);
    CHECK(fh_arenas_claim(region, 4, 1, &run) && run.zeroed);
    uint32_t first = (uint32_t)(run.pool_index >> FH_ARENA_POOL_SHIFT);
    CHECK(first == 2 && region->extra_opened == 6);
    CHECK(is_zero((char *)start_of(region, first), 4 * FH_ARENA_BYTES));
    CHECK(!fh_arenas_claim(region, 2, 1, &run)); /* one index is left, and no new one */
    CHECK(fh_arenas_claim(region, 1, 1, &run) && run.pool_index >> FH_ARENA_POOL_SHIFT == 6);
}

TEST(a_growth_that_finds_no_index_vacates_by_itself)
{
    struct fh_region *region = with_empty_extra_arenas(6);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 6, 1, &run) && run.zeroed);
    CHECK(region->extra_opened == 6);
    for (uint32_t i = 1; i < 6; i++)
        CHECK(start_of(region, i + 1) == start_of(region, i) + FH_ARENA_BYTES);
}

static bool region_finds(const struct fh_region *region, uint64_t start, uint32_t index)
{
    uint32_t slot = 0;
    for (; slot <= region->extra_mask; slot++)
        if (region->extra[slot] == (start >> FH_ARENA_SHIFT << 24 | (index + 1)))
            return true;
    return false;
}

TEST(the_table_of_extra_arenas_never_fills_up)
{
    struct fh_region *region = new_region(1, 6, false);
    const uint64_t step = FH_ARENA_BYTES;
    for (uint64_t start = step; start < 3000 * step; start += step) {
        fh_region_add_extra(region, start, 3);
        fh_region_add_extra(region, start + 10000 * step, 4);
        CHECK(region_finds(region, start, 3));
        fh_region_remove_extra(region, start);
        CHECK(!region_finds(region, start, 3));
        CHECK(region_finds(region, start + 10000 * step, 4));
        fh_region_remove_extra(region, start + 10000 * step);
        fh_region_remove_extra(region, start); /* harmless */
    }
}

static void claim_and_vacate(unsigned number, void *region_pointer)
{
    struct fh_region *region = region_pointer;
    struct bound bound = at_most(2000);
    while (more(&bound)) {
        struct fh_run run;
        size_t arenas = 1 + number % 3;
        if (!fh_arenas_claim(region, arenas, 1, &run))
            continue;
        char *start = fh_arena_pool_address(region, run.pool_index);
        for (size_t i = 0; i < arenas; i++) {
            CHECK(start[i * FH_ARENA_BYTES] == 0 || !run.zeroed);
            start[i * FH_ARENA_BYTES] = (char)(number + 1);
        }
        if (number == 0)
            (void)fh_grow_vacate(region);
        for (size_t i = 0; i < arenas; i++)
            CHECK(start[i * FH_ARENA_BYTES] == (char)(number + 1));
        fh_arenas_release(region, run.pool_index, arenas, arenas * FH_ARENA_POOLS);
    }
}

TEST(nobody_loses_an_arena_to_who_vacates)
{
    struct fh_region *region = new_region(1, 8, false);
    together(4, claim_and_vacate, region);
    (void)fh_grow_vacate(region);
    for (uint32_t i = 1; i < 9; i++)
        CHECK(start_of(region, i) == 0);
}
