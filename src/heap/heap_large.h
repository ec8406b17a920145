/* SPDX-License-Identifier: MIT */
/* A heap's large blocks: those over its threshold.
 *
 * Each is a block of the threads' heaps with a header at its start; what the caller gets lies
 * behind the header. Threads' blocks are handed out at their starts only, so an address right
 * behind such a header can be nothing else.
 *
 * So that they can be found again, each has a slot in its heap's table. A slot holds the address of
 * a block's header, or is free and in a list:
 *
 *   never used -- taken --> block <-- taken, freed --> free
 *
 * Slots are in levels, each twice as large as the one before, mapped when first needed and given
 * back with the heap. Any thread may call anything here but what says otherwise; lock-free. A
 * thread that stops inside withholds a slot or a block.
 */
#ifndef FH_HEAP_HEAP_LARGE_H
#define FH_HEAP_HEAP_LARGE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fh_heap;
struct fh_pool;

enum { FH_LARGE_LEVELS = 22 };

struct fh_large_table {
    uint64_t free;  /* the newest free slot's number + 1, 0 if there is none, | turn << 32 */
    uint64_t taken; /* slots ever taken */
    void *levels[FH_LARGE_LEVELS];
};

struct fh_large_header {
    struct fh_heap *heap;
    size_t bytes;  /* usable ones and this header */
    uint64_t mark; /* of a live block: says by its address that this is a header */
    uint32_t slot;
    uint32_t unused[9];
};

enum {
    FH_LARGE_HEADER_BYTES = sizeof(struct fh_large_header),
    FH_LARGE_BYTES_MIN = 256 + FH_LARGE_HEADER_BYTES, /* no block of the threads' is smaller that
                                                         is a large one */
};

static_assert(sizeof(struct fh_large_header) == 64, "a whole cache line");

/* A block of `bytes`, at most PTRDIFF_MAX, aligned to 16. NULL if memory is short, or the heap's
 * limit is reached. */
void *fh_large_take(struct fh_heap *heap, size_t bytes, bool zeroed);

/* The header of the live large block at this address; NULL if there is none. */
struct fh_large_header *fh_large_at(const void *address);

/* Does a block of the threads' heaps start here, in this pool? */
bool fh_large_starts_block(const struct fh_pool *pool, const void *start);

size_t fh_large_usable_bytes(const struct fh_large_header *header);

void fh_large_give(struct fh_large_header *header);

/* Resize it, perhaps moving it; NULL, with nothing changed, as fh_large_take(). */
void *fh_large_resize_block(struct fh_large_header *header, size_t bytes);

/* While no other thread is inside: call `visit` for each until it says false; then false. */
bool fh_large_each(const struct fh_large_table *table,
                   bool (*visit)(void *context, struct fh_large_header *header), void *context);

/* Give all blocks and levels back; the table is then all zeros. */
void fh_large_end(struct fh_large_table *table);

#endif
