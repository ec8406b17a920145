/* SPDX-License-Identifier: MIT */
/* What a classic heap holds: figures, CPython's text of them, every block, and whether all is well.
 *
 * By the holder of the heap's lock; in time proportional to its pools. Nothing here allocates.
 * Blocks on the deferred list count as live until they are drained.
 */
#ifndef FH_CLASSIC_REPORT_H
#define FH_CLASSIC_REPORT_H

#include "classic.h"

struct fh_classic_class {
    size_t pools; /* with at least one live block */
    size_t live_blocks;
    size_t free_blocks;
};

/* The bytes from in_use_bytes on add up to arenas_bytes. */
struct fh_classic_totals {
    uint64_t arenas_total; /* ever had */
    size_t arenas_current;
    size_t arenas_highwater;
    size_t arenas_bytes;
    size_t live_blocks;
    size_t free_pools;
    size_t in_use_bytes;       /* in live blocks */
    size_t available_bytes;    /* in the free blocks of pools with live ones */
    size_t free_pools_bytes;   /* in pools without a live block */
    size_t header_bytes;       /* of pools with one */
    size_t quantization_bytes; /* behind the last block of such pools */
    size_t alignment_bytes;    /* of arenas that do not begin at a pool's boundary */
    struct fh_classic_class classes[FH_CLASSIC_SLOTS];
};

/* How many size classes the heap has, and the size of one of them. */
unsigned fh_classic_classes(const struct fh_classic *heap);
size_t fh_classic_class_bytes(const struct fh_classic *heap, unsigned class_index);

void fh_classic_sum(const struct fh_classic *heap, struct fh_classic_totals *totals);

/* What sys._debugmallocstats() of CPython says of pymalloc, to the letter, piece by piece. */
typedef void fh_classic_write(void *ctx, const char *text, size_t bytes);
void fh_classic_stats_text(const struct fh_classic *heap, fh_classic_write *write, void *ctx);

/* Call `visit` for each live block with its usable bytes, until it says false. It must not allocate
 * or free in this heap. Returns false if it said so. */
typedef bool fh_classic_visitor(void *ctx, void *block, size_t bytes);
bool fh_classic_visit(const struct fh_classic *heap, fh_classic_visitor *visit, void *ctx);

/* Look at everything that must hold, and call `report` for each thing that does not. Returns how
 * many that are. */
typedef void fh_classic_reporter(void *ctx, const char *what, const void *where);
size_t fh_classic_check(const struct fh_classic *heap, fh_classic_reporter *report, void *ctx);

#endif
