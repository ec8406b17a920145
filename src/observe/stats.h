/* SPDX-License-Identifier: MIT */
/* Sums over all arenas and pools, read while others go on. */
#ifndef FH_OBSERVE_STATS_H
#define FH_OBSERVE_STATS_H

#include <stddef.h>

struct fh_sums {
    size_t allocated_bytes;
    size_t allocated_blocks;
    size_t active_bytes;
    size_t large_bytes; /* of allocated_bytes, what is in blocks of whole pools */
    size_t large_blocks;
    size_t retained_bytes;
    size_t mapped_bytes;
    size_t metadata_bytes;
    size_t arena_count;
    size_t heap_count;
};

/* All zero while there is no region. */
struct fh_sums fh_stats_sum(void);

#endif
