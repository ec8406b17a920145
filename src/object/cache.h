/* SPDX-License-Identifier: MIT */
/* Recycling: free lists and slabs, behind what object.h says of them.
 *
 * Each is known by an index, given at its first use and the same for all spaces; a slot has a list
 * of dead objects for each index, which only its holder uses. What exceeds the indexes is not kept:
 * such a list stays empty, and the objects of such a slab are single blocks of the object domain.
 *
 * Slabs only: a slot whose list grows leaves batches of FH_SLAB_BATCH_COUNT objects to the space,
 * where slots whose list is empty look before they cut a new block. So threads that only make and
 * threads that only drop do with what lives at once and some batches.
 */
#ifndef FH_OBJECT_CACHE_H
#define FH_OBJECT_CACHE_H

#include <freehold/object.h>

/* Indexes of the library's own free lists; others begin behind them. */
enum {
    FH_LISTS_NONE,
    FH_LISTS_INT,
    FH_LISTS_LIST,
    FH_LISTS_DICT,
    FH_LISTS_ITEMS, /* lists' arrays of 4, 8 and 16 items: of the mem domain, not of obj */
    FH_LISTS_OWN_END = FH_LISTS_ITEMS + 3
};

enum { FH_SLAB_BLOCK_BYTES = 1000, FH_SLAB_BATCHES = 16, FH_SLAB_BATCH_COUNT = 512 };

/* A slab in one space. Zeros: nothing of it was ever taken. */
struct fh_slab_space {
    struct fh_slab_block *blocks;   /* all, newest first; atomic, pushed by any slot's holder */
    void *batches[FH_SLAB_BATCHES]; /* atomic: each a chain of dead objects, or NULL */
};

extern fh_free_list fh_int_list, fh_list_list, fh_dict_list, fh_items_lists[3];

/* The list or slab of an index, or NULL. */
fh_free_list *fh_free_list_at(uint32_t index);
fh_slab *fh_slab_at(uint32_t index);

struct fh_slab_counts {
    size_t blocks, kept; /* blocks, and the dead objects in all lists */
};

/* Of all slots of the space. With its world stopped. */
size_t fh_free_list_length_all(fh_space *space, uint32_t index);
struct fh_slab_counts fh_slab_count_all(fh_space *space, uint32_t index);
void fh_free_lists_clear_all(fh_space *space);
size_t fh_slab_clear_all(fh_space *space);

/* When nothing of the space lives and no thread is attached: give all of it back. */
void fh_cache_destroy(fh_space *space);

#endif
