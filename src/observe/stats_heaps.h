/* SPDX-License-Identifier: MIT */
/* What may be known at any time of the heaps that fh_heap_create() made. */
#ifndef FH_OBSERVE_STATS_HEAPS_H
#define FH_OBSERVE_STATS_HEAPS_H

#include <stdbool.h>
#include <stddef.h>

/* SIZE_MAX for what cannot be known now: of the gil modes all of it unless the calling thread holds
 * the lock; of a free heap its large blocks, and what is in parts that others are in just now. */
struct fh_stats_heap {
    const void *address;
    const char *mode;
    size_t small_blocks; /* live ones, and the bytes in them */
    size_t small_bytes;
    size_t arenas_bytes;
    size_t large_blocks;
    size_t large_bytes;
};

void fh_stats_each_heap(void (*visit)(void *context, const struct fh_stats_heap *heap),
                        void *context);

#endif
