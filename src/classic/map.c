/* SPDX-License-Identifier: MIT */
#include "map.h"

#include <assert.h>

#include "atomic.h"
#include "bits.h"
#include "os.h"

enum {
    ADDRESS_BITS = 48, /* what a program can have unless it asks the system for more */
    GRANULE_SHIFT = 18,
    GRANULE_BYTES = 1 << GRANULE_SHIFT,
    LEVEL_BITS = (ADDRESS_BITS - GRANULE_SHIFT) / 3,
    FANOUT = 1 << LEVEL_BITS,

    /* A word: the heap's address without its zeros, above an offset in 0..GRANULE_BYTES. */
    OFFSET_BITS = GRANULE_SHIFT + 1,
    HEAP_SHIFT = 12, /* heaps begin at pages */
};

static_assert(3 * LEVEL_BITS + GRANULE_SHIFT == ADDRESS_BITS, "three equal levels");
static_assert(ADDRESS_BITS - HEAP_SHIFT + OFFSET_BITS <= 64, "a word holds both");

struct entry {
    uint64_t lower; /* 0, or [0, offset) is the heap's */
    uint64_t upper; /* 0, or [offset, GRANULE_BYTES) is */
};

static void *root[FANOUT]; /* of arrays of FANOUT pointers to arrays of FANOUT entries */

/* ---- Words ------------------------------------------------------------------------------------
 */

static uint64_t word_of(const struct fh_classic *heap, size_t offset)
{
    return heap == NULL ? 0 : (uint64_t)(uintptr_t)heap >> HEAP_SHIFT << OFFSET_BITS | offset;
}

static struct fh_classic *heap_in(uint64_t word)
{
    return (struct fh_classic *)(uintptr_t)(word >> OFFSET_BITS << HEAP_SHIFT);
}

static size_t offset_in(uint64_t word)
{
    return word & (((uint64_t)1 << OFFSET_BITS) - 1);
}

/* ---- Nodes ------------------------------------------------------------------------------------
 */

static size_t index_at(uint64_t granule, unsigned level)
{
    return granule >> (level * LEVEL_BITS) & (FANOUT - 1);
}

static struct entry *entry_of(uint64_t granule)
{
    if (granule >> (ADDRESS_BITS - GRANULE_SHIFT) != 0)
        return NULL;
    /* [classic-node] acquire: the node reads as zeros, or as what was put in since. */
    void **middle = fh_load_acquire_ptr(&root[index_at(granule, 2)]);
    if (middle == NULL)
        return NULL;
    struct entry *leaf = fh_load_acquire_ptr(&middle[index_at(granule, 1)]);
    return leaf == NULL ? NULL : &leaf[index_at(granule, 0)];
}

/* The node that *at leads to, made now if there is none; NULL without memory. */
static void *node_at(void **at, size_t bytes)
{
    void *node = fh_load_acquire_ptr(at); /* [classic-node] acquire */
    if (node != NULL)
        return node;
    size_t whole_bytes = fh_round_up(bytes, fh_os_page_bytes());
    void *made = fh_os_map(whole_bytes);
    /* [classic-node] release: passes the node, all zeros, to whoever follows *at. */
    if (made == NULL || fh_cas_acq_rel_ptr(at, &node, made))
        return made;
    fh_os_unmap(made, whole_bytes); /* another thread was first */
    return fh_load_acquire_ptr(at); /* [classic-node] acquire */
}

static bool make_entry(uint64_t granule)
{
    if (granule >> (ADDRESS_BITS - GRANULE_SHIFT) != 0)
        return false;
    void **middle = node_at(&root[index_at(granule, 2)], FANOUT * sizeof(void *));
    return middle != NULL &&
           node_at(&middle[index_at(granule, 1)], FANOUT * sizeof(struct entry)) != NULL;
}

/* ---- Arenas -----------------------------------------------------------------------------------
 */

/* [classic-arena] release: a thread that finds the heap here finds it filled in. */
static void put(uint64_t *word, uint64_t value)
{
    fh_store_release_u64(word, value);
}

/* Write the words of all granules that the range touches; their nodes are there. */
static void put_all(uint64_t start, size_t bytes, const struct fh_classic *heap)
{
    uint64_t end = start + bytes;
    for (uint64_t granule = start >> GRANULE_SHIFT; granule << GRANULE_SHIFT < end; granule++) {
        uint64_t granule_start = granule << GRANULE_SHIFT;
        struct entry *entry = entry_of(granule);
        if (granule_start + GRANULE_BYTES > end)
            put(&entry->lower, word_of(heap, (size_t)(end - granule_start)));
        else
            put(&entry->upper,
                word_of(heap, start > granule_start ? (size_t)(start - granule_start) : 0));
    }
}

bool fh_map_add(uintptr_t start, size_t bytes, struct fh_classic *heap)
{
    uint64_t last = ((uint64_t)start + bytes - 1) >> GRANULE_SHIFT;
    for (uint64_t granule = (uint64_t)start >> GRANULE_SHIFT; granule <= last; granule++)
        if (!make_entry(granule))
            return false; /* the nodes made so far are for whoever comes next */
    put_all(start, bytes, heap);
    return true;
}

void fh_map_remove(uintptr_t start, size_t bytes)
{
    put_all(start, bytes, NULL);
}

/* Read like this the words of two arenas that meet in a granule are told apart. */
bool fh_map_has_all(uintptr_t start, size_t bytes, const struct fh_classic *heap)
{
    const struct entry *entry = entry_of((uint64_t)start >> GRANULE_SHIFT);
    if (entry == NULL)
        return false;
    size_t offset = start & (GRANULE_BYTES - 1);
    uint64_t upper = fh_load_acquire_u64(&entry->upper); /* [classic-arena] acquire */
    uint64_t lower = fh_load_acquire_u64(&entry->lower); /* [classic-arena] acquire */
    return (upper != 0 && heap_in(upper) == heap && offset >= offset_in(upper)) ||
           (lower != 0 && heap_in(lower) == heap && offset + bytes <= offset_in(lower));
}

struct fh_classic *fh_map_find(uintptr_t address)
{
    struct entry *entry = entry_of((uint64_t)address >> GRANULE_SHIFT);
    if (entry == NULL)
        return NULL;
    size_t offset = address & (GRANULE_BYTES - 1);
    uint64_t upper = fh_load_acquire_u64(&entry->upper); /* [classic-arena] acquire */
    if (upper != 0 && offset >= offset_in(upper))
        return heap_in(upper);
    uint64_t lower = fh_load_acquire_u64(&entry->lower); /* [classic-arena] acquire */
    return lower != 0 && offset < offset_in(lower) ? heap_in(lower) : NULL;
}
