/* SPDX-License-Identifier: MIT */
/* Free lists and slabs: see cache.h. */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

#include "begin.h"
#include "recycle.h"

/* ---- Indexes ----------------------------------------------------------------------------------
 *
 * An index is a place in a registry, taken by CAS; index 0 is "none yet". Who comes late finds its
 * list there already, so no place is lost to a race.
 */

static void *lists[FH_OBJECT_LISTS_MAX] = {
    [FH_LISTS_INT] = &fh_int_list,
    [FH_LISTS_LIST] = &fh_list_list,
    [FH_LISTS_DICT] = &fh_dict_list,
    [FH_LISTS_ITEMS] = &fh_items_lists[0],
    [FH_LISTS_ITEMS + 1] = &fh_items_lists[1],
    [FH_LISTS_ITEMS + 2] = &fh_items_lists[2],
};
static void *slabs[FH_OBJECT_SLABS_MAX];

static_assert(FH_OBJECT_LISTS_MAX == FH_OBJECT_SLABS_MAX, "one bound for both registries");

static bool register_at(void **place, void *what)
{
    void *there = NULL;
    /* Release: passes the contents of the list or slab to the acquire in registered_at(). */
    return at_cas_release(place, &there, what) || there == what;
}

/* FH_OBJECT_LISTS_MAX if all places are taken. */
static __attribute__((noinline)) uint32_t register_in(void **registry, void *what, uint32_t *index)
{
    uint32_t found = 1;
    while (found < FH_OBJECT_LISTS_MAX && !register_at(&registry[found], what))
        found++;
    at_store_relaxed(index, found); /* all threads store the same */
    return found;
}

static inline uint32_t index_in(void **registry, void *what, uint32_t *index)
{
    uint32_t known = at_load_relaxed(index); /* nothing else comes with it */
    return __builtin_expect(known != 0, 1) ? known : register_in(registry, what, index);
}

static void *registered_at(void **registry, uint32_t index)
{
    /* Acquire: from register_at(). */
    return at_load_acquire(&registry[index]);
}

fh_free_list *fh_free_list_at(uint32_t index)
{
    return registered_at(lists, index);
}

fh_slab *fh_slab_at(uint32_t index)
{
    return registered_at(slabs, index);
}

/* ---- Free lists ------------------------------------------------------------------------------ */

static struct fh_slot *first_slot(fh_space *space)
{
    return at_load_acquire(&space->slots); /* from whoever listed the slot */
}

/* The calling slot's part of it, or NULL. */
static inline struct fh_dead_list *part_of(const fh_free_list *list)
{
    fh_free_list *own = (fh_free_list *)(uintptr_t)list;
    uint32_t index = index_in(lists, own, &own->index);
    return index < FH_OBJECT_LISTS_MAX ? &fh_this_slot->free_lists[index] : NULL;
}

void *fh_free_list_take(fh_free_list *list)
{
    struct fh_dead_list *part = part_of(list);
    return part != NULL ? fh_dead_list_take(part) : NULL;
}

int fh_free_list_give(fh_free_list *list, void *memory)
{
    struct fh_dead_list *part = part_of(list);
    return part != NULL && fh_dead_list_give(part, memory, list->cap);
}

size_t fh_free_list_length(const fh_free_list *list)
{
    const struct fh_dead_list *part = part_of(list);
    return part != NULL ? part->length : 0;
}

static size_t clear_part(struct fh_dead_list *part, void (*free)(void *memory))
{
    size_t count = part->length;
    for (void *memory; (memory = fh_dead_list_take(part)) != NULL;)
        free(memory);
    return count;
}

static bool has_arrays(uint32_t index)
{
    return index >= FH_LISTS_ITEMS && index < FH_LISTS_OWN_END;
}

size_t fh_free_list_clear(fh_free_list *list)
{
    struct fh_dead_list *part = part_of(list);
    return part != NULL ? clear_part(part, fh_obj_free) : 0;
}

size_t fh_free_list_length_all(fh_space *space, uint32_t index)
{
    size_t count = 0;
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next)
        count += slot->free_lists[index].length;
    return count;
}

void fh_free_lists_clear_all(fh_space *space)
{
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next)
        for (uint32_t index = 1; index < FH_OBJECT_LISTS_MAX; index++)
            clear_part(&slot->free_lists[index], has_arrays(index) ? fh_mem_free : fh_obj_free);
}

/* ---- Slabs: blocks ----------------------------------------------------------------------------
 *
 * Dead objects of a slab are linked by their first word, which may be at any address: objects of 12
 * bytes are a word apart only now and then.
 */

struct fh_slab_block {
    struct fh_slab_block *next;
};

static void *next_of(const void *object)
{
    void *next;
    memcpy(&next, object, sizeof next);
    return next;
}

static void set_next(void *object, void *next)
{
    memcpy(object, &next, sizeof next);
}

static size_t block_bytes(const fh_slab *slab)
{
    return slab->block_bytes != 0 ? slab->block_bytes : FH_SLAB_BLOCK_BYTES;
}

static size_t header_bytes(const fh_slab *slab)
{
    size_t least = sizeof(struct fh_slab_block);
    return slab->header_bytes > least ? slab->header_bytes : least;
}

size_t fh_slab_capacity(const fh_slab *slab)
{
    return (block_bytes(slab) - header_bytes(slab)) / slab->object_bytes;
}

/* Link the objects of a block from its rear to its front, so that they are taken last one first. */
static void *link_objects(const fh_slab *slab, struct fh_slab_block *block)
{
    char *object = (char *)block + header_bytes(slab);
    set_next(object, NULL);
    for (size_t left = fh_slab_capacity(slab) - 1; left > 0; left--) {
        set_next(object + slab->object_bytes, object);
        object += slab->object_bytes;
    }
    return object;
}

static void push_block(struct fh_slab_space *in, struct fh_slab_block *block)
{
    block->next = at_load_relaxed(&in->blocks); /* a guess: the CAS checks it */
    /* Release: passes block->next to who walks through the blocks, while the world is stopped. Ends
     * because a failed CAS means that another push succeeded. */
    while (!at_cas_release(&in->blocks, &block->next, block))
        ;
}

static bool add_block(const fh_slab *slab, struct fh_slab_space *in, struct fh_dead_list *list)
{
    struct fh_slab_block *block = fh_raw_malloc(block_bytes(slab));
    if (block == NULL)
        return false;
    list->head = link_objects(slab, block);
    list->length = (uint32_t)fh_slab_capacity(slab);
    push_block(in, block);
    return true;
}

/* ---- Slabs: batches ---------------------------------------------------------------------------
 */

static void *last_of(void *chain, uint32_t *length)
{
    *length = 1;
    for (void *next; (next = next_of(chain)) != NULL; chain = next)
        ++*length;
    return chain;
}

static bool put_in(void **place, void *chain)
{
    void *empty = NULL;
    /* Release: passes the chain's links, and the last use of its objects, to the acquire in
     * take_batch(). */
    return at_cas_release(place, &empty, chain);
}

static void put_on_top(void **place, void *chain)
{
    uint32_t length;
    void *last = last_of(chain, &length);
    void *below = at_load_relaxed(place); /* a guess: the CAS checks it */
    do {
        set_next(last, below);
        /* Release: as in put_in(), and what is below comes with it. Ends because a failed CAS means
         * that another thread put or took a batch. */
    } while (!at_cas_release(place, &below, chain));
}

/* Leave all that the slot has to others. In the gil modes there are none. */
static __attribute__((noinline)) void leave_batch(struct fh_slab_space *in, struct fh_slot *slot,
                                                  struct fh_dead_list *list)
{
    if (!fh_space_is_free(slot->space))
        return;
    void *chain = list->head;
    *list = (struct fh_dead_list){NULL, 0};
    for (unsigned i = 0; i < FH_SLAB_BATCHES; i++)
        if (put_in(&in->batches[i], chain))
            return;
    put_on_top(&in->batches[slot->owner % FH_SLAB_BATCHES], chain);
}

static bool take_batch(struct fh_slab_space *in, struct fh_dead_list *list)
{
    for (unsigned i = 0; i < FH_SLAB_BATCHES; i++) {
        if (at_load_relaxed(&in->batches[i]) == NULL) /* the exchange checks it */
            continue;
        /* Acquire: from put_in() and put_on_top(). */
        list->head = at_exchange_acquire(&in->batches[i], NULL);
        if (list->head != NULL) {
            last_of(list->head, &list->length);
            return true;
        }
    }
    return false;
}

static __attribute__((noinline)) bool refill(fh_slab *slab, struct fh_slot *slot, uint32_t index)
{
    struct fh_slab_space *in = &slot->space->slabs[index];
    return take_batch(in, &slot->slabs[index]) || add_block(slab, in, &slot->slabs[index]);
}

/* ---- Slabs: objects ---------------------------------------------------------------------------
 */

static __attribute__((noinline)) void *single_object(const fh_slab *slab)
{
    void *memory = fh_obj_malloc(slab->object_bytes);
    return memory != NULL ? memory : fh_object_no_memory(slab->object_bytes);
}

void *fh_slab_take(fh_slab *slab)
{
    struct fh_slot *slot = fh_this_slot;
    uint32_t index = index_in(slabs, slab, &slab->index);
    if (index >= FH_OBJECT_SLABS_MAX)
        return single_object(slab);

    struct fh_dead_list *list = &slot->slabs[index];
    if (list->head == NULL && !refill(slab, slot, index))
        return fh_object_no_memory(block_bytes(slab));
    void *object = list->head;
    list->head = next_of(object);
    list->length--;
    return object;
}

void fh_slab_give(fh_slab *slab, void *memory)
{
    struct fh_slot *slot = fh_this_slot;
    uint32_t index = index_in(slabs, slab, &slab->index);
    if (index >= FH_OBJECT_SLABS_MAX) {
        fh_obj_free(memory);
        return;
    }
    struct fh_dead_list *list = &slot->slabs[index];
    set_next(memory, list->head);
    list->head = memory;
    if (++list->length % FH_SLAB_BATCH_COUNT == 0)
        leave_batch(&slot->space->slabs[index], slot, list);
}

/* ---- Slabs: giving blocks back ----------------------------------------------------------------
 *
 * With the world stopped. The blocks' addresses are sorted; then the dead objects of each are
 * counted in all lists; blocks all of whose objects are dead go, and before them their objects go
 * from the lists.
 */

struct sorted_block {
    char *block;
    size_t dead_count;
};

struct clearing {
    const fh_slab *slab;
    struct fh_slab_space *in;
    struct sorted_block *sorted;
    size_t block_count;
};

static size_t count_blocks(const struct fh_slab_space *in)
{
    size_t count = 0;
    for (const struct fh_slab_block *block = in->blocks; block != NULL; block = block->next)
        count++;
    return count;
}

static int by_address(const void *left, const void *right)
{
    uintptr_t one = (uintptr_t)((const struct sorted_block *)left)->block;
    uintptr_t other = (uintptr_t)((const struct sorted_block *)right)->block;
    return (one > other) - (one < other);
}

static bool sort_blocks(struct clearing *clearing)
{
    size_t count = count_blocks(clearing->in);
    struct sorted_block *sorted = fh_raw_calloc(count, sizeof *sorted);
    if (sorted == NULL)
        return false;
    struct sorted_block *next = sorted;
    for (struct fh_slab_block *block = clearing->in->blocks; block != NULL; block = block->next)
        (next++)->block = (char *)block;
    qsort(sorted, count, sizeof *sorted, by_address);
    clearing->sorted = sorted;
    clearing->block_count = count;
    return true;
}

/* The last block that does not lie behind the object. */
static struct sorted_block *block_of(const struct clearing *clearing, const void *object)
{
    size_t low = 0, high = clearing->block_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)clearing->sorted[middle].block <= (uintptr_t)object)
            low = middle;
        else
            high = middle;
    }
    return &clearing->sorted[low];
}

static bool goes(const struct clearing *clearing, const struct sorted_block *block)
{
    return block->dead_count == fh_slab_capacity(clearing->slab);
}

static void count_dead(struct clearing *clearing, void **chain, uint32_t *length)
{
    (void)length;
    for (void *object = *chain; object != NULL; object = next_of(object))
        block_of(clearing, object)->dead_count++;
}

/* Leave those objects whose block stays, in their order. */
static void keep_others(struct clearing *clearing, void **chain, uint32_t *length)
{
    void *kept = NULL, *next;
    *length = 0;
    for (void *object = *chain; object != NULL; object = next) {
        next = next_of(object);
        if (goes(clearing, block_of(clearing, object)))
            continue;
        if (kept != NULL)
            set_next(kept, object);
        else
            *chain = object;
        kept = object;
        ++*length;
    }
    if (kept != NULL)
        set_next(kept, NULL);
    else
        *chain = NULL;
}

static void for_each_chain(fh_space *space, uint32_t index, struct clearing *clearing,
                           void (*what)(struct clearing *clearing, void **chain, uint32_t *length))
{
    uint32_t length;
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next)
        what(clearing, &slot->slabs[index].head, &slot->slabs[index].length);
    for (unsigned i = 0; i < FH_SLAB_BATCHES; i++)
        what(clearing, &clearing->in->batches[i], &length);
}

static size_t free_dead_blocks(struct clearing *clearing)
{
    size_t bytes = 0;
    struct fh_slab_block **link = &clearing->in->blocks;
    for (struct fh_slab_block *block; (block = *link) != NULL;) {
        if (!goes(clearing, block_of(clearing, block))) {
            link = &block->next;
            continue;
        }
        *link = block->next;
        fh_raw_free(block);
        bytes += block_bytes(clearing->slab);
    }
    return bytes;
}

static size_t clear_slab(fh_space *space, const fh_slab *slab, uint32_t index)
{
    struct clearing clearing = {.slab = slab, .in = &space->slabs[index]};
    if (clearing.in->blocks == NULL || !sort_blocks(&clearing))
        return 0;
    for_each_chain(space, index, &clearing, count_dead);
    for_each_chain(space, index, &clearing, keep_others);
    size_t bytes = free_dead_blocks(&clearing);
    fh_raw_free(clearing.sorted);
    return bytes;
}

size_t fh_slab_clear(fh_slab *slab)
{
    uint32_t index = index_in(slabs, slab, &slab->index);
    return index < FH_OBJECT_SLABS_MAX ? clear_slab(fh_this_slot->space, slab, index) : 0;
}

size_t fh_slab_clear_all(fh_space *space)
{
    size_t bytes = 0;
    for (uint32_t index = 1; index < FH_OBJECT_SLABS_MAX && fh_slab_at(index) != NULL; index++)
        bytes += clear_slab(space, fh_slab_at(index), index);
    return bytes;
}

/* ---- All of a space ---------------------------------------------------------------------------
 */

static void add_length(struct clearing *clearing, void **chain, uint32_t *length)
{
    (void)length;
    for (void *object = *chain; object != NULL; object = next_of(object))
        clearing->block_count++; /* here: of objects */
}

struct fh_slab_counts fh_slab_count_all(fh_space *space, uint32_t index)
{
    struct clearing counting = {.in = &space->slabs[index]};
    for_each_chain(space, index, &counting, add_length);
    return (struct fh_slab_counts){count_blocks(counting.in), counting.block_count};
}

static void free_blocks(struct fh_slab_space *in)
{
    for (struct fh_slab_block *block = in->blocks, *next; block != NULL; block = next) {
        next = block->next;
        fh_raw_free(block);
    }
    *in = (struct fh_slab_space){0};
}

void fh_cache_destroy(fh_space *space)
{
    fh_free_lists_clear_all(space);
    for (uint32_t index = 1; index < FH_OBJECT_SLABS_MAX; index++)
        free_blocks(&space->slabs[index]);
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next)
        memset(slot->slabs, 0, sizeof slot->slabs);
}
