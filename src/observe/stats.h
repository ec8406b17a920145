/* SPDX-License-Identifier: MIT */
/* Sums over all arenas and pools, read while others go on.
 *
 * Each pool is looked at once and counted in exactly one part, with figures that follow from each
 * other. So what the comments below say of sums holds at any time, however the pools change
 * meanwhile.
 */
#ifndef FH_OBSERVE_STATS_H
#define FH_OBSERVE_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "freehold/stats.h"
#include "region.h"

struct fh_class_sums {
    size_t pools; /* a span is one */
    size_t live_blocks;
};

struct fh_sums {
    /* mapped = active + spare + retained + purged */
    size_t mapped_bytes;
    size_t active_bytes; /* small_pool + span + large_pool + huge_pool + classic */
    size_t spare_bytes;  /* claimed, and no block is there: runs that threads keep at hand */
    size_t retained_bytes;
    size_t purged_bytes;

    size_t small_pool_bytes;
    size_t span_bytes;
    size_t large_pool_bytes;
    size_t huge_pool_bytes; /* what such blocks may have touched */
    size_t classic_bytes;

    /* allocated + available + quantization = active - classic */
    size_t allocated_bytes;
    size_t available_bytes;
    size_t quantization_bytes; /* behind a pool's last block, and a large block's end */
    size_t allocated_blocks;
    size_t large_bytes; /* of allocated_bytes, what is in blocks of whole pools */
    size_t large_blocks;

    size_t metadata_bytes;
    size_t arena_count;
    size_t arenas_opened; /* indices given out: those of arenas that were vacated, too */
    size_t heap_count;
    struct fh_class_sums classes[FH_CLASSES];
};

/* All zero while there is no region. */
struct fh_sums fh_stats_sum(void);

/* How many of each class's live blocks are ready in the calling thread's bins; none if the thread
 * is inside another call, or has no heap. */
struct fh_ready {
    size_t blocks[FH_CLASSES];
};

struct fh_ready fh_stats_ready(void);

/* Of the sums' live blocks, those that are ready; and one class. */
size_t fh_stats_ready_bytes(const struct fh_sums *sums, const struct fh_ready *ready);
fh_class_stats fh_stats_class(const struct fh_sums *sums, const struct fh_ready *ready,
                              unsigned class_index);

/* ---- stats_resident.c -------------------------------------------------------------------------
 */

struct fh_resident {
    size_t arena_bytes;
    size_t metadata_bytes;
};

enum fh_resident_method {
    FH_RESIDENT_SCAN,    /* the kernel looks for present pages that are not the page of zeros */
    FH_RESIDENT_MINCORE, /* counts a page that was only ever read, too */
};

/* How much of the region is in memory. False if the system does not say, or not truly. Touches no
 * page. */
bool fh_stats_resident_by(enum fh_resident_method method, const struct fh_region *region,
                          struct fh_resident *resident);

/* By the first method that works; all zero for NULL. */
bool fh_stats_resident(const struct fh_region *region, struct fh_resident *resident);

/* ---- stats_report.c ---------------------------------------------------------------------------
 */

enum { FH_STATS_BUFFER_BYTES = 512 }; /* on the stack, perhaps a handler's */

/* As fh_malloc_stats() and fh_stats_json(), with `room` bytes of memory: what fits there is written
 * at once. */
int fh_stats_write_text(int fd, char *buffer, size_t room);
int fh_stats_write_json(int fd, char *buffer, size_t room);

/* What the environment asks for: "json" has fh_stats_json() called at exit, anything else that is
 * not empty fh_malloc_stats(), for stderr. At most once, before there are other threads. */
void fh_stats_start(const char *value);

#endif
