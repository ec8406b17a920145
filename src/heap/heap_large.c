/* SPDX-License-Identifier: MIT */
#include "heap_large.h"

#include <string.h>

#include "bits.h"
#include "heap.h"
#include "os.h"
#include "theap.h"

enum {
    LEVEL_SHIFT = 9, /* slots of the first level */
    TURN_SHIFT = 32,
};

#define MARK ((uint64_t)0x9E3779B97F4A7C15) /* any number that no program is likely to store */

/* ---- Slots ------------------------------------------------------------------------------------
 *
 * In a slot: 0, a header's address, or, of a free one, the next free slot's number + 1 and a bit
 * that no address has.
 */

static unsigned level_of(uint32_t slot)
{
    return fh_log2_floor((slot >> LEVEL_SHIFT) + 1);
}

static size_t level_bytes(unsigned level)
{
    return fh_round_up(sizeof(uint64_t) << (LEVEL_SHIFT + level), fh_os_page_bytes());
}

static uint64_t *slot_at(const struct fh_large_table *table, uint32_t slot)
{
    unsigned level = level_of(slot);
    uint32_t first = ((1u << level) - 1) << LEVEL_SHIFT;
    /* [large-level] acquire: the level reads as zeros, or as what was put in since. */
    uint64_t *slots = fh_load_acquire_ptr(&table->levels[level]);
    return &slots[slot - first];
}

/* The level is there from now on; false without memory. */
static bool make_level(struct fh_large_table *table, unsigned level)
{
    void *found = fh_load_acquire_ptr(&table->levels[level]); /* [large-level] acquire */
    if (found != NULL)
        return true;
    void *made = fh_os_map(level_bytes(level));
    if (made == NULL)
        return false;
    /* [large-level] release: passes the level, all zeros. */
    if (!fh_cas_acq_rel_ptr(&table->levels[level], &found, made))
        fh_os_unmap(made, level_bytes(level)); /* another thread was first */
    return true;
}

static bool take_new_slot(struct fh_large_table *table, uint32_t *slot)
{
    uint64_t taken = fh_load_relaxed_u64(&table->taken); /* a guess: the CAS checks it */
    do {
        unsigned level = level_of((uint32_t)taken);
        if (level >= FH_LARGE_LEVELS || !make_level(table, level))
            return false;
        *slot = (uint32_t)taken;
    } while (!fh_cas_relaxed_u64(&table->taken, &taken, taken + 1)); /* a number that is ours */
    return true;
}

/* The turn in the head changes with each slot that is freed, so that a head that was read before
 * its slot was taken and freed again is no longer the head. */
static bool take_free_slot(struct fh_large_table *table, uint32_t *slot)
{
    for (;;) {
        /* [large-slot] acquire: the slot's link to the next. */
        uint64_t head = fh_load_acquire_u64(&table->free);
        if ((uint32_t)head == 0)
            return false;
        *slot = (uint32_t)head - 1;
        uint64_t next = fh_load_relaxed_u64(slot_at(table, *slot)) >> 1; /* the CAS checks it */
        uint64_t after = head >> TURN_SHIFT << TURN_SHIFT | (uint32_t)next;
        if (fh_cas_acquire_u64(&table->free, &head, after))
            return true;
    }
}

static bool take_slot(struct fh_large_table *table, uint32_t *slot)
{
    return take_free_slot(table, slot) || take_new_slot(table, slot);
}

static void give_slot(struct fh_large_table *table, uint32_t slot)
{
    uint64_t *at = slot_at(table, slot);
    uint64_t head = fh_load_relaxed_u64(&table->free); /* a guess: the CAS checks it */
    uint64_t after;
    do {
        fh_store_relaxed_u64(at, (uint64_t)(uint32_t)head << 1 | 1);
        after = ((head >> TURN_SHIFT) + 1) << TURN_SHIFT | (slot + 1);
        /* [large-slot] release: the link. */
    } while (!fh_cas_release_u64(&table->free, &head, after));
}

/* ---- Headers ----------------------------------------------------------------------------------
 */

static uint64_t mark_of(const struct fh_large_header *header)
{
    return (uint64_t)(uintptr_t)header ^ MARK;
}

static void *block_of(struct fh_large_header *header)
{
    return header + 1;
}

/* What a request takes of the heap's limit. */
static size_t bytes_for(size_t bytes)
{
    return fh_round_up(bytes == 0 ? 1 : bytes, FH_BLOCK_ALIGN_BYTES) + FH_LARGE_HEADER_BYTES;
}

static void fill_in(struct fh_large_header *header, struct fh_heap *heap, size_t bytes,
                    uint32_t slot)
{
    header->heap = heap;
    header->bytes = bytes;
    header->slot = slot;
    header->mark = mark_of(header);
    fh_store_relaxed_u64(slot_at(&heap->large, slot), (uintptr_t)header); /* no other looks there */
}

bool fh_large_starts_block(const struct fh_pool *pool, const void *start)
{
    switch (fh_load_own_u8(&pool->kind)) {
    case FH_POOL_BLOCKS:
        return fh_pool_has_block_at(pool, start);
    case FH_POOL_LARGE:
    case FH_POOL_HUGE:
        return (uintptr_t)start == pool->origin + FH_BLOCK_ALIGN_BYTES;
    default:
        return false;
    }
}

struct fh_large_header *fh_large_at(const void *address)
{
    const struct fh_pool *pool = fh_address_pool(address);
    uintptr_t start = (uintptr_t)address - FH_LARGE_HEADER_BYTES;
    struct fh_large_header *header = (struct fh_large_header *)start;
    bool may_be = pool != NULL && (fh_load_own_u8(&pool->kind) != FH_POOL_BLOCKS ||
                                   fh_load_own_u32(&pool->block_bytes) >= FH_LARGE_BYTES_MIN);
    if (!may_be || !fh_large_starts_block(pool, header))
        return NULL;
    return header->mark == mark_of(header) ? header : NULL;
}

size_t fh_large_usable_bytes(const struct fh_large_header *header)
{
    return header->bytes - FH_LARGE_HEADER_BYTES;
}

/* ---- Blocks -----------------------------------------------------------------------------------
 */

static struct fh_large_header *take_memory(size_t bytes, bool zeroed)
{
    return zeroed ? fh_theap_calloc(bytes) : fh_theap_malloc(bytes);
}

void *fh_large_take(struct fh_heap *heap, size_t wanted_bytes, bool zeroed)
{
    size_t bytes = bytes_for(wanted_bytes);
    uint32_t slot;
    if (!fh_heap_reserve(heap, bytes))
        return NULL;
    if (!take_slot(&heap->large, &slot))
        goto unreserve;
    struct fh_large_header *header = take_memory(bytes, zeroed);
    if (header == NULL)
        goto give_slot_back;
    fill_in(header, heap, bytes, slot);
    return block_of(header);

give_slot_back:
    give_slot(&heap->large, slot);
unreserve:
    fh_heap_unreserve(heap, bytes);
    return NULL;
}

/* The slot first: who stops in between withholds the block, and nobody finds what is no block. */
void fh_large_give(struct fh_large_header *header)
{
    struct fh_heap *heap = header->heap;
    size_t bytes = header->bytes;
    uint32_t slot = header->slot;
    header->mark = 0;
    give_slot(&heap->large, slot);
    fh_theap_free(header);
    fh_heap_unreserve(heap, bytes);
}

/* Meanwhile it is nobody's: its old place may be somebody's next block before the call ends. */
static struct fh_large_header *resize(struct fh_large_header *header, size_t bytes)
{
    struct fh_heap *heap = header->heap;
    size_t before = header->bytes;
    uint32_t slot = header->slot;
    header->mark = 0;
    fh_store_relaxed_u64(slot_at(&heap->large, slot), 0); /* as in fill_in() */
    struct fh_large_header *resized = fh_theap_realloc(header, bytes);
    if (resized == NULL)
        fill_in(header, heap, before, slot);
    else
        fill_in(resized, heap, bytes, slot);
    return resized;
}

/* What is more is reserved before, what is less given back after. */
void *fh_large_resize_block(struct fh_large_header *header, size_t wanted_bytes)
{
    struct fh_heap *heap = header->heap;
    size_t before = header->bytes;
    size_t bytes = bytes_for(wanted_bytes);
    if (bytes > before && !fh_heap_reserve(heap, bytes - before))
        return NULL;
    struct fh_large_header *resized = resize(header, bytes);
    size_t left = resized == NULL ? before : bytes;
    size_t reserved = bytes > before ? bytes : before;
    fh_heap_unreserve(heap, reserved - left);
    return resized == NULL ? NULL : block_of(resized);
}

/* ---- All of them ------------------------------------------------------------------------------
 */

bool fh_large_each(const struct fh_large_table *table,
                   bool (*visit)(void *context, struct fh_large_header *header), void *context)
{
    uint64_t taken = fh_load_relaxed_u64(&table->taken); /* nobody else is inside */
    for (uint32_t slot = 0; slot < taken; slot++) {
        uint64_t found = fh_load_relaxed_u64(slot_at(table, slot));
        bool is_block = found != 0 && (found & 1) == 0;
        if (is_block && !visit(context, (struct fh_large_header *)(uintptr_t)found))
            return false;
    }
    return true;
}

static bool end_block(void *context, struct fh_large_header *header)
{
    (void)context;
    header->mark = 0;
    fh_theap_free(header);
    return true;
}

void fh_large_end(struct fh_large_table *table)
{
    (void)fh_large_each(table, end_block, NULL);
    for (unsigned level = 0; level < FH_LARGE_LEVELS; level++)
        if (table->levels[level] != NULL)
            fh_os_unmap(table->levels[level], level_bytes(level));
    memset(table, 0, sizeof *table);
}
