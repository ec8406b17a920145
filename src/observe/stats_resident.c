/* SPDX-License-Identifier: MIT */
/* How much of the region is in memory, as the kernel has it.
 *
 * PAGEMAP_SCAN (Linux 6.7) finds ranges of present pages, without the one page of zeros that all
 * memory shares which was only ever read: just what smaps calls Rss. Where it is missing, or /proc
 * is, mincore() asks page by page, and counts such pages too. Some sandboxes' mincore() calls all
 * pages resident; so it is first asked about one that nobody has touched.
 *
 * Only what was opened is looked at, not the whole reservation. A range that is unmapped while we
 * look counts as none.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bits.h"
#include "stats.h"

/* ---- PAGEMAP_SCAN -----------------------------------------------------------------------------
 *
 * As the kernel's linux/fs.h has it, which older systems' headers do not.
 */

struct scanned {
    uint64_t start, end, categories;
};

struct scan {
    uint64_t bytes, flags, start, end, walk_end, found, found_max, pages_max;
    uint64_t inverted, all_of, any_of, returned;
};

enum { PAGE_PRESENT = 1 << 3, PAGE_OF_ZEROS = 1 << 5, FOUND_MAX = 16 };

#define SCAN_PAGES _IOWR('f', 16, struct scan)

/* A part of a range: *start goes up to where the kernel stopped. */
static bool scan_on(int pagemap, uint64_t *start, uint64_t end, size_t *resident_bytes)
{
    struct scanned found[FOUND_MAX];
    struct scan scan = {
        .bytes = sizeof scan,
        .start = *start,
        .end = end,
        .found = (uintptr_t)found,
        .found_max = FOUND_MAX,
        .inverted = PAGE_OF_ZEROS,
        .all_of = PAGE_PRESENT | PAGE_OF_ZEROS,
        .returned = PAGE_PRESENT,
    };
    int count = ioctl(pagemap, SCAN_PAGES, &scan);
    if (count < 0 || scan.walk_end <= *start)
        return false;
    for (int i = 0; i < count; i++)
        *resident_bytes += found[i].end - found[i].start;
    *start = scan.walk_end;
    return true;
}

static bool scan_range(int pagemap, uintptr_t start, size_t bytes, size_t *resident_bytes)
{
    uint64_t at = start;
    while (at < start + bytes)
        if (!scan_on(pagemap, &at, start + bytes, resident_bytes))
            return false;
    return true;
}

/* ---- mincore() --------------------------------------------------------------------------------
 */

enum { PAGES_AT_ONCE = 512 };

static void ask_range(size_t page_bytes, uintptr_t start, size_t bytes, size_t *resident_bytes)
{
    unsigned char pages[PAGES_AT_ONCE];
    size_t chunk_bytes = PAGES_AT_ONCE * page_bytes;
    for (size_t at = 0; at < bytes; at += chunk_bytes) {
        size_t asked_bytes = bytes - at < chunk_bytes ? bytes - at : chunk_bytes;
        if (mincore((void *)(start + at), asked_bytes, pages) != 0) /* NOLINT: an address of ours */
            continue;
        for (size_t page = 0; page * page_bytes < asked_bytes; page++)
            *resident_bytes += (pages[page] & 1) * page_bytes;
    }
}

/* The page behind all heaps that there may ever be, but for the last; false if it is in use. */
static bool says_the_truth(const struct fh_region *region)
{
    uintptr_t last = (uintptr_t)region->heaps + ((size_t)region->heaps_max - 1) * FH_THEAP_BYTES;
    uintptr_t page = last & ~(uintptr_t)(region->page_bytes - 1);
    size_t opened_bytes = (size_t)fh_load_relaxed_u64(&region->heaps_opened) * FH_THEAP_BYTES;
    size_t resident_bytes = 0;
    if ((uintptr_t)region->heaps + opened_bytes <= page)
        ask_range(region->page_bytes, page, region->page_bytes, &resident_bytes);
    return resident_bytes == 0;
}

/* ---- What there is to look at -----------------------------------------------------------------
 */

struct look {
    int pagemap; /* -1: mincore() */
    bool failed;
    size_t page_bytes;
};

static size_t resident_in(struct look *look, const void *start, size_t bytes)
{
    size_t resident_bytes = 0;
    uintptr_t mask = look->page_bytes - 1;
    uintptr_t first = (uintptr_t)start & ~mask;
    size_t whole_bytes = fh_round_up((uintptr_t)start + bytes - first, look->page_bytes);
    if (bytes == 0)
        return 0;
    if (look->pagemap < 0)
        ask_range(look->page_bytes, first, whole_bytes, &resident_bytes);
    else if (!scan_range(look->pagemap, first, whole_bytes, &resident_bytes))
        look->failed = true;
    return resident_bytes;
}

/* How many arenas' records and descriptors to look at: all up to the last that was given out. */
static size_t arenas_described(const struct fh_region *region)
{
    size_t extra = fh_load_relaxed_u64(&region->extra_opened);
    return extra == 0 ? fh_load_relaxed_u64(&region->arenas_opened) : region->region_arenas + extra;
}

static size_t resident_metadata(struct look *look, const struct fh_region *region)
{
    size_t before_records = (size_t)((const char *)region->arenas - (const char *)region);
    size_t heaps = fh_load_relaxed_u64(&region->heaps_opened);
    size_t arenas = arenas_described(region);
    return resident_in(look, region, before_records) +
           resident_in(look, region->arenas, arenas * sizeof(struct fh_arena)) +
           resident_in(look, region->heaps, heaps * FH_THEAP_BYTES) +
           resident_in(look, region->descriptors,
                       arenas << FH_ARENA_POOL_SHIFT << FH_DESCRIPTOR_SHIFT);
}

static size_t resident_arenas(struct look *look, const struct fh_region *region)
{
    size_t opened = fh_load_relaxed_u64(&region->arenas_opened);
    size_t extra = fh_load_relaxed_u64(&region->extra_opened);
    size_t bytes = resident_in(look, (const void *)region->base, opened << FH_ARENA_SHIFT);
    for (size_t i = 0; i < extra; i++) {
        const struct fh_arena *arena = &region->arenas[region->region_arenas + i];
        uintptr_t start = (uintptr_t)fh_load_relaxed_u64(&arena->start); /* only to ask about */
        if (start != 0)
            bytes += resident_in(look, (const void *)start, FH_ARENA_BYTES); /* NOLINT: as above */
    }
    return bytes;
}

/* ---- The interface ----------------------------------------------------------------------------
 */

static bool look_at(struct look *look, const struct fh_region *region, struct fh_resident *resident)
{
    resident->metadata_bytes = resident_metadata(look, region);
    resident->arena_bytes = resident_arenas(look, region);
    return !look->failed;
}

static bool scan_all(const struct fh_region *region, struct fh_resident *resident)
{
    struct look look = {.page_bytes = region->page_bytes};
    look.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (look.pagemap < 0)
        return false;
    bool done = look_at(&look, region, resident);
    close(look.pagemap);
    return done;
}

bool fh_stats_resident_by(enum fh_resident_method method, const struct fh_region *region,
                          struct fh_resident *resident)
{
    int saved_errno = errno;
    struct look look = {.pagemap = -1, .page_bytes = region->page_bytes};
    bool done = method == FH_RESIDENT_SCAN
                    ? scan_all(region, resident)
                    : says_the_truth(region) && look_at(&look, region, resident);
    errno = saved_errno;
    return done;
}

bool fh_stats_resident(const struct fh_region *region, struct fh_resident *resident)
{
    memset(resident, 0, sizeof *resident);
    return region == NULL || fh_stats_resident_by(FH_RESIDENT_SCAN, region, resident) ||
           fh_stats_resident_by(FH_RESIDENT_MINCORE, region, resident);
}
