/* SPDX-License-Identifier: MIT */
/* Growth takes indices by one CAS on arenas_opened, after the memory behind them was made usable
 * and before anybody can see them: an arena may be used once its `start` is set, which is the last
 * step. A thread that stops in between withholds the arenas it took and nothing else. Extra arenas
 * have indices of their own, above those of the region.
 *
 * Vacating takes an empty extra arena as any claim does, whole, so that nobody is in it; then its
 * address is forgotten, its memory unmapped, and its index put into the set of vacant ones. To
 * everybody else it looks like an arena in use. An index is taken from the set by who clears its
 * bit. A thread that stops in between withholds one arena.
 */
#include "grow.h"

#include "arena.h"
#include "bits.h"
#include "os.h"

/* Publish one arena. `used`: what its opener has claimed. Until its last step the arena looks like
 * one in use, also to a claim that saw the start it had before it was vacated. */
static void open_arena(struct fh_region *region, uint32_t index, uintptr_t start, uint64_t used)
{
    struct fh_arena *arena = &region->arenas[index];
    fh_store_relaxed_u64(&arena->used, fh_low_bits(FH_ARENA_POOLS)); /* as in vacate() */
    /* [arena-open] release: `used`, the committed memory, the entry in the table of extra arenas.
     */
    fh_store_release_u64(&arena->start, start);
    /* [arena-open] release: the same and `start`, to who saw an earlier one. seq_cst for
     * [arena-hint], as in release_bits(). */
    (void)fh_fetch_and_seq_cst_u64(&arena->used, used);
    if (used == 0) {
        fh_hints_set(&region->hints, FH_HINTS_ROOM, index);
        fh_hints_set(&region->hints, FH_HINTS_EMPTY, index);
    }
}

static bool commit_metadata(struct fh_region *region, uint64_t index, size_t arenas)
{
    size_t stride = (size_t)FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES;
    return fh_region_commit(region, &region->arenas[index], arenas * sizeof(struct fh_arena)) &&
           fh_region_commit(region, region->descriptors + index * stride, arenas * stride);
}

static bool commit_arenas(struct fh_region *region, uint64_t index, size_t arenas)
{
    return commit_metadata(region, index, arenas) &&
           fh_region_commit(region, (char *)region->base + (index << FH_ARENA_SHIFT),
                            arenas << FH_ARENA_SHIFT);
}

/* The first index >= opened whose address is aligned. */
static uint64_t aligned_index(const struct fh_region *region, uint64_t opened, size_t align_arenas)
{
    uint64_t number = region->base >> FH_ARENA_SHIFT;
    return fh_round_up(number + opened, align_arenas) - number;
}

/* Inside the region. Arenas skipped for alignment are opened as empty ones. */
static bool grow_region(struct fh_region *region, size_t arenas, size_t align_arenas, uint64_t used,
                        uint32_t *first)
{
    uint64_t opened = fh_load_relaxed_u64(&region->arenas_opened); /* a guess: the CAS checks it */
    uint64_t index;
    do {
        index = aligned_index(region, opened, align_arenas);
        if (index >= region->region_arenas || arenas > region->region_arenas - index)
            return false;
        /* Committing twice does no harm, so it may come before the CAS that decides whose it is. */
        if (!commit_arenas(region, opened, index - opened + arenas))
            return false;
        /* Relaxed: the index alone passes nothing; open_arena() does. */
    } while (!fh_cas_relaxed_u64(&region->arenas_opened, &opened, index + arenas));
    for (uint64_t i = opened; i < index + arenas; i++)
        open_arena(region, (uint32_t)i, region->base + (i << FH_ARENA_SHIFT), i < index ? 0 : used);
    *first = (uint32_t)index;
    return true;
}

/* Address space of its own, aligned; the slack is given back. */
static char *map_aligned(size_t bytes, size_t align_bytes)
{
    char *start = fh_os_map(bytes + align_bytes);
    if (start == NULL)
        return NULL;
    char *aligned = (char *)fh_round_up((uintptr_t)start, align_bytes);
    size_t before = (size_t)(aligned - start);
    if (before != 0)
        (void)fh_os_unmap(start, before); /* refused: it stays unused */
    (void)fh_os_unmap(aligned + bytes, align_bytes - before);
    return aligned;
}

/* Adjacent indices of arenas that were vacated, their metadata committed. */
static bool take_vacant_indices(struct fh_region *region, size_t arenas, uint64_t *index)
{
    const struct fh_hints *hints = &region->hints;
    uint32_t first = fh_hints_next(hints, FH_HINTS_VACANT, 0);
    while (first != FH_HINT_NONE) {
        uint32_t taken = 0;
        /* [vacant] acquire: the record as who vacated it left it. */
        while (taken < arenas && fh_hints_clear(hints, FH_HINTS_VACANT, first + taken))
            taken++;
        *index = first;
        if (taken == arenas)
            return true;
        for (uint32_t back = 0; back < taken; back++)
            fh_hints_set(hints, FH_HINTS_VACANT, first + back); /* [vacant] release, as found */
        first = fh_hints_next(hints, FH_HINTS_VACANT, first + taken + 1);
    }
    return false;
}

static bool take_new_indices(struct fh_region *region, size_t arenas, uint64_t *index)
{
    size_t most = region->arenas_max - region->region_arenas;
    uint64_t opened = fh_load_relaxed_u64(&region->extra_opened); /* a guess: the CAS checks it */
    do {
        if (arenas > most || opened > most - arenas)
            return false;
        *index = region->region_arenas + opened;
        if (!commit_metadata(region, *index, arenas))
            return false;
        /* Relaxed, as in grow_region(). */
    } while (!fh_cas_relaxed_u64(&region->extra_opened, &opened, opened + arenas));
    return true;
}

/* Beyond the region: a mapping of their own. */
static bool grow_extra(struct fh_region *region, size_t arenas, size_t align_arenas, uint64_t used,
                       uint32_t *first)
{
    uint64_t index;
    if (region->extra == NULL || arenas > region->arenas_max || align_arenas > region->arenas_max)
        return false;
    size_t bytes = arenas << FH_ARENA_SHIFT;
    char *start = map_aligned(bytes, align_arenas << FH_ARENA_SHIFT);
    if (start == NULL)
        return false;
    if (!take_vacant_indices(region, arenas, &index) && !take_new_indices(region, arenas, &index)) {
        (void)fh_os_unmap(start, bytes);
        return false;
    }
    for (size_t i = 0; i < arenas; i++) {
        uintptr_t at = (uintptr_t)start + (i << FH_ARENA_SHIFT);
        fh_region_add_extra(region, at, (uint32_t)(index + i));
        open_arena(region, (uint32_t)(index + i), at, used);
    }
    *first = (uint32_t)index;
    return true;
}

/* ---- Vacating ---------------------------------------------------------------------------------
 */

/* Unmap an arena that this thread withholds whole. */
static bool unmap_claimed(struct fh_region *region, uint32_t index)
{
    struct fh_arena *arena = &region->arenas[index];
    uintptr_t start = (uintptr_t)fh_load_relaxed_u64(&arena->start); /* ours, since the claim */
    fh_region_remove_extra(region, start);
    if (!fh_os_unmap((void *)start, FH_ARENA_BYTES)) { /* NOLINT: where it was mapped */
        fh_region_add_extra(region, start, index);
        return false;
    }
    uint64_t dirty = fh_load_relaxed_u64(&arena->dirty); /* as `start` */
    /* Relaxed, all: a claim that still sees the start finds all pools in use. [vacant] passes the
     * rest on; the count passes nothing. */
    fh_store_relaxed_u64(&arena->start, 0);
    fh_store_relaxed_u64(&arena->dirty, 0);
    fh_store_relaxed_u64(&arena->regretted, 0);
    (void)fh_fetch_add_relaxed_u64(&region->pool_counts, -(uint64_t)__builtin_popcountll(dirty));
    return true;
}

static bool vacate(struct fh_region *region, uint32_t index)
{
    size_t pool_index = (size_t)index << FH_ARENA_POOL_SHIFT;
    if (!fh_arena_withhold(region, pool_index, FH_ARENA_POOLS))
        return false;
    if (!unmap_claimed(region, index)) {
        fh_arena_restore(region, pool_index, FH_ARENA_POOLS, 0);
        return false;
    }
    /* [vacant] release: the record, to take_vacant_indices(). */
    fh_hints_set(&region->hints, FH_HINTS_VACANT, index);
    return true;
}

size_t fh_grow_vacate(struct fh_region *region)
{
    size_t vacated = 0;
    uint32_t index = fh_hints_next(&region->hints, FH_HINTS_EMPTY, region->region_arenas);
    for (; index != FH_HINT_NONE; index = fh_hints_next(&region->hints, FH_HINTS_EMPTY, index + 1))
        vacated += vacate(region, index);
    return vacated;
}

bool fh_grow(struct fh_region *region, size_t arenas, size_t align_arenas, uint64_t used,
             uint32_t *first)
{
    return grow_region(region, arenas, align_arenas, used, first) ||
           grow_extra(region, arenas, align_arenas, used, first) ||
           (fh_grow_vacate(region) > 0 && grow_extra(region, arenas, align_arenas, used, first));
}
