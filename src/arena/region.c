/* SPDX-License-Identifier: MIT */
#include "region.h"

#include "bits.h"
#include "os.h"

/* As bases far from all blocks, and from NULL. */
#define NO_BASE      ((uint64_t)1 << 63)
#define WATCHED_BASE (NO_BASE + 1)

uint64_t fh_region_base = NO_BASE;
uint64_t fh_region_bytes;
void *fh_region_descriptors;

static void *published; /* struct fh_region * */

/* Where the parts of a reservation lie, as offsets from its start. */
struct layout {
    uint32_t region_arenas, arenas_max, heaps_max, hint_members, extra_entries;
    size_t hints, process, records, extra, heaps, descriptors, metadata_bytes, total_bytes;
};

enum {
    METADATA_ALIGN_BYTES = 1 << 16, /* the largest page there is */
};

static size_t place(size_t *end, size_t bytes)
{
    size_t start = *end;
    *end = fh_round_up(start + bytes, METADATA_ALIGN_BYTES);
    return start;
}

static uint32_t power_of_two_at_least(uint32_t value)
{
    uint32_t power = 64;
    while (power < value)
        power *= 2;
    return power;
}

/* How many arenas there may ever be beside those of the region. Where no limit is known and a
 * region four times as large was refused, what is left is hardly more than that, or other threads
 * have it that try the same; 64 times as much is generous, and leaves room for the tries. */
static size_t most_extra_arenas(uint32_t region_arenas, size_t limit_bytes)
{
    return limit_bytes != SIZE_MAX ? limit_bytes / FH_ARENA_BYTES : (size_t)region_arenas * 64;
}

/* limit_bytes: of address space, SIZE_MAX for none. */
static struct layout lay_out(unsigned region_shift, size_t limit_bytes)
{
    bool limited = limit_bytes != SIZE_MAX || region_shift < FH_REGION_SHIFT_MAX;
    struct layout at = {.region_arenas = (uint32_t)1 << (region_shift - FH_ARENA_SHIFT)};
    at.arenas_max = at.region_arenas;
    if (limited) {
        size_t most = at.region_arenas + most_extra_arenas(at.region_arenas, limit_bytes);
        at.arenas_max = most < FH_ARENAS_MAX ? (uint32_t)most : FH_ARENAS_MAX;
        at.extra_entries = power_of_two_at_least(2 * at.arenas_max);
    }
    at.heaps_max = limited ? FH_THEAPS_LIMITED : FH_THEAPS_MAX;
    at.hint_members = at.arenas_max > at.heaps_max ? at.arenas_max : at.heaps_max;

    size_t end = 0;
    at.hints = fh_round_up(sizeof(struct fh_region), FH_CACHE_LINE_BYTES);
    (void)place(&end, at.hints + fh_hints_bytes(at.hint_members));
    at.process = place(&end, sizeof(uint64_t));
    at.extra = place(&end, at.extra_entries * sizeof(uint64_t));
    at.records = place(&end, at.arenas_max * sizeof(struct fh_arena));
    at.heaps = place(&end, (size_t)at.heaps_max * FH_THEAP_BYTES);
    at.descriptors = place(&end, (size_t)at.arenas_max * FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES);
    at.metadata_bytes = end;
    at.total_bytes = end + FH_ARENA_BYTES + ((size_t)at.region_arenas << FH_ARENA_SHIFT);
    return at;
}

static void fill_in(struct fh_region *region, const struct layout *at, bool commits)
{
    char *start = (char *)region;
    region->base = fh_round_up((uintptr_t)start + at->metadata_bytes, FH_ARENA_BYTES);
    region->bytes = (size_t)at->region_arenas << FH_ARENA_SHIFT;
    region->descriptors = start + at->descriptors;
    region->heaps = start + at->heaps;
    region->arenas = (struct fh_arena *)(void *)(start + at->records);
    region->extra = at->extra_entries == 0 ? NULL : (uint64_t *)(void *)(start + at->extra);
    region->extra_mask = at->extra_entries - 1;
    region->region_arenas = at->region_arenas;
    region->arenas_max = at->arenas_max;
    region->heaps_max = at->heaps_max;
    region->commits = commits;
    region->page_bytes = fh_os_page_bytes();
    if (fh_os_wipe_on_fork(start + at->process, region->page_bytes))
        region->process = (uint64_t *)(void *)(start + at->process);
    fh_hints_place(&region->hints, start + at->hints, at->hint_members);
}

static struct fh_region *map_region(const struct layout *at)
{
    struct fh_region *region = fh_os_map(at->total_bytes);
    bool commits = region == NULL;
    if (commits)
        region = fh_os_reserve(at->total_bytes);
    if (region == NULL)
        return NULL;
    /* What stands before the records is small; records, heaps and descriptors are committed with
     * the arenas and heaps they belong to. */
    if (commits && !fh_os_commit(region, at->records)) {
        (void)fh_os_unmap(region, at->total_bytes);
        return NULL;
    }
    fh_os_hide_from_core((char *)region + at->records, at->total_bytes - at->records);
    fh_os_prefer_small_pages(region, at->metadata_bytes);
    fill_in(region, at, commits);
    return region;
}

static struct fh_region *create(size_t *total_bytes)
{
    size_t limit_bytes = fh_os_address_space_limit_bytes();
    for (unsigned shift = FH_REGION_SHIFT_MAX; shift >= FH_REGION_SHIFT_MIN; shift -= 2) {
        if (limit_bytes != SIZE_MAX && (size_t)1 << shift > limit_bytes / 4)
            continue;
        struct layout at = lay_out(shift, limit_bytes);
        struct fh_region *region = map_region(&at);
        *total_bytes = at.total_bytes;
        if (region != NULL)
            return region;
    }
    return NULL;
}

/* Any number of threads may do this at once: they all write the same, and whoever is late, after
 * the region came to be watched, writes nothing. [region] release: the copies are settled before
 * this thread hands out a block. Descriptors and base come before the size that makes them count.
 */
static struct fh_region *copy_for_fast_path(struct fh_region *region)
{
    bool is_missing = fh_load_acquire_u64(&fh_region_bytes) == 0; /* [region] acquire: see below */
    if (FH_UNLIKELY(is_missing)) {
        uint64_t no_base = NO_BASE, no_bytes = 0;
        fh_store_relaxed_ptr(&fh_region_descriptors, region->descriptors);
        (void)fh_cas_relaxed_u64(&fh_region_base, &no_base, region->base);
        (void)fh_cas_release_u64(&fh_region_bytes, &no_bytes, region->bytes);
    }
    return region;
}

/* One byte where no block is: not 0, which would be filled in. Relaxed: who still sees the region
 * is right as well. */
void fh_region_watch(void)
{
    fh_store_relaxed_u64(&fh_region_base, WATCHED_BASE);
    fh_store_relaxed_u64(&fh_region_bytes, 1);
}

struct fh_region *fh_region_peek(void)
{
    /* [region] acquire: the region's fields, from the CAS in fh_region_get(). */
    return fh_load_acquire_ptr(&published);
}

struct fh_region *fh_region_get(void)
{
    struct fh_region *region = fh_region_peek();
    if (FH_LIKELY(region != NULL))
        return copy_for_fast_path(region);

    size_t total_bytes = 0;
    region = create(&total_bytes);
    if (region == NULL) { /* perhaps because threads that were quicker have all there is */
        region = fh_region_peek();
        return region == NULL ? NULL : copy_for_fast_path(region);
    }
    void *first = NULL;
    /* [region] release: passes fill_in() to whoever peeks. */
    if (fh_cas_acq_rel_ptr(&published, &first, region))
        return copy_for_fast_path(region);
    (void)fh_os_unmap(region, total_bytes);
    return copy_for_fast_path(fh_region_peek());
}

bool fh_region_has_arena(const struct fh_region *region, size_t index)
{
    /* Relaxed: the counts only grow, and a record says itself whether its arena may be used. */
    if (index < region->region_arenas)
        return index < fh_load_relaxed_u64(&region->arenas_opened);
    return index - region->region_arenas < fh_load_relaxed_u64(&region->extra_opened);
}

size_t fh_region_next_arena(const struct fh_region *region, size_t index)
{
    if (index < region->region_arenas && !fh_region_has_arena(region, index))
        index = region->region_arenas;
    return fh_region_has_arena(region, index) ? index : region->arenas_max;
}

bool fh_region_commit(const struct fh_region *region, void *start, size_t bytes)
{
    uintptr_t mask = region->page_bytes - 1;
    char *first = (char *)((uintptr_t)start & ~mask);
    size_t whole_pages = fh_round_up((uintptr_t)start + bytes - (uintptr_t)first, mask + 1);
    if (region->commits && !fh_os_commit(first, whole_pages))
        return false;
    fh_os_show_in_core(first, whole_pages);
    return true;
}

void fh_region_prefer_pages(const struct fh_region *region, bool huge)
{
    void *start = (void *)region->base;
    if (huge)
        fh_os_prefer_huge_pages(start, region->bytes);
    else
        fh_os_prefer_small_pages(start, region->bytes);
}

/* ---- Extra arenas ----------------------------------------------------------------------------
 *
 * An open-addressed table, twice as large as there can be arenas: the arena's number (address >>
 * FH_ARENA_SHIFT) in the upper 40 bits of an entry, its index + 1 in the lower. An entry is written
 * whole, and is complete in itself; one that was removed may be written again.
 */

enum { INDEX_BITS = 24 };

#define REMOVED (~(uint64_t)0 << INDEX_BITS) /* the number of no address */

static uint32_t extra_slot(const struct fh_region *region, uintptr_t number)
{
    return (uint32_t)((number * 0x9E3779B97F4A7C15u) >> 40) & region->extra_mask;
}

/* Relaxed, in these three: who looks for an entry holds a block of that arena, and so comes after
 * [arena-open]; or has a stray pointer. */

void fh_region_add_extra(struct fh_region *region, uintptr_t start, uint32_t index)
{
    uint64_t number = start >> FH_ARENA_SHIFT;
    uint64_t entry = number << INDEX_BITS | (index + 1u);
    uint32_t slot = extra_slot(region, number);
    uint64_t found = fh_load_relaxed_u64(&region->extra[slot]);
    /* Half of the slots are free, so this ends. */
    while ((found != 0 && found != REMOVED) ||
           !fh_cas_relaxed_u64(&region->extra[slot], &found, entry)) {
        if (found == 0 || found == REMOVED)
            continue; /* another arena was removed here, or the slot was never used */
        slot = (slot + 1) & region->extra_mask;
        found = fh_load_relaxed_u64(&region->extra[slot]);
    }
}

/* The slot of the entry, or FH_HINT_NONE. */
static uint32_t find_slot(const struct fh_region *region, uintptr_t number, uint64_t *entry)
{
    uint32_t slot = extra_slot(region, number);
    for (uint32_t looked = 0; looked <= region->extra_mask; looked++) {
        *entry = fh_load_relaxed_u64(&region->extra[slot]);
        if (*entry == 0)
            return FH_HINT_NONE;
        if (*entry >> INDEX_BITS == number)
            return slot;
        slot = (slot + 1) & region->extra_mask;
    }
    return FH_HINT_NONE;
}

void fh_region_remove_extra(struct fh_region *region, uintptr_t start)
{
    uint64_t entry;
    uint32_t slot = find_slot(region, start >> FH_ARENA_SHIFT, &entry);
    if (slot != FH_HINT_NONE)
        fh_store_relaxed_u64(&region->extra[slot], REMOVED);
}

static uint32_t find_extra(const struct fh_region *region, uintptr_t number)
{
    uint64_t entry;
    if (find_slot(region, number, &entry) == FH_HINT_NONE)
        return FH_HINT_NONE;
    return (uint32_t)(entry & fh_low_bits(INDEX_BITS)) - 1;
}

bool fh_region_find(uintptr_t address, size_t *pool_index)
{
    struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return false;
    if (address - region->base < region->bytes) {
        *pool_index = (address - region->base) >> FH_POOL_SHIFT;
        return true;
    }
    if (region->extra == NULL)
        return false;
    uint32_t arena = find_extra(region, address >> FH_ARENA_SHIFT);
    if (arena == FH_HINT_NONE)
        return false;
    *pool_index =
        ((size_t)arena << FH_ARENA_POOL_SHIFT) + (address % FH_ARENA_BYTES >> FH_POOL_SHIFT);
    return true;
}
