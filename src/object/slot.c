/* SPDX-License-Identifier: MIT */
/* The process's table of slots, and how a thread gets one. */
#include "space.h"

#include <stdio.h>
#include <stdlib.h>

#include "count.h"

struct fh_slot *fh_slots[FH_OBJECT_SLOTS_MAX];
static uint32_t last_owner; /* the highest id given out */

__thread struct fh_slot *fh_this_slot;
__thread uint32_t fh_object_this_owner = FH_OWNER_NOBODY;
uint32_t fh_object_attention;

uint32_t fh_slots_count(void)
{
    uint32_t last = at_load_relaxed(&last_owner);
    return last < FH_OBJECT_SLOTS_MAX ? last + 1 : FH_OBJECT_SLOTS_MAX;
}

struct fh_slot *fh_slot_needed(const char *function, const void *object)
{
    struct fh_slot *slot = fh_this_slot;
    if (__builtin_expect(slot != NULL, 1))
        return slot;
    fprintf(stderr, "freehold: %s(%p): the thread is not attached to a space\n", function, object);
    abort();
}

/* ---- Claiming ---- */

/* From `from`, if it is that. The acquire takes over from whoever left it (fh_slot_leave(),
 * fh_queue_settle()): all of the slot's plain fields and its objects' counts. */
static bool take(struct fh_slot *slot, uint32_t from)
{
    return at_load_relaxed(&slot->state) == from &&
           at_cas_seq_cst(&slot->state, &from, (uint32_t)FH_SLOT_HELD);
}

static struct fh_slot *take_free(fh_space *space)
{
    /* acquire: the slot that a CAS in list() put there, with its `next`. */
    struct fh_slot *slot = at_load_acquire(&space->slots);
    while (slot != NULL && !take(slot, FH_SLOT_FREE))
        slot = slot->next;
    return slot;
}

static struct fh_slot *take_unused(void)
{
    uint32_t count = fh_slots_count();
    for (uint32_t owner = 1; owner < count; owner++) {
        /* acquire: the slot's fields, from publish(). */
        struct fh_slot *slot = at_load_acquire(&fh_slots[owner]);
        if (slot != NULL && take(slot, FH_SLOT_UNUSED))
            return slot;
    }
    return NULL;
}

/* Give it an id, held. False if there is none left. */
static bool publish(struct fh_slot *slot)
{
    uint32_t owner = at_load_relaxed(&last_owner);
    do {
        if (owner + 1 >= FH_OBJECT_SLOTS_MAX)
            return false;
    } while (!at_cas_relaxed(&last_owner, &owner, owner + 1));
    slot->owner = owner + 1;
    /* release: the slot's fields, to take_unused(). */
    at_store_release(&fh_slots[owner + 1], slot);
    return true;
}

void *fh_aligned_zeros(size_t alignment, size_t bytes, void **memory)
{
    char *start = fh_raw_calloc(1, bytes + alignment);
    *memory = start;
    return start == NULL ? NULL : start + (alignment - (uintptr_t)start % alignment);
}

static struct fh_slot *make_slot(void)
{
    void *memory;
    struct fh_slot *slot = fh_aligned_zeros(_Alignof(struct fh_slot), sizeof *slot, &memory);
    if (slot == NULL)
        return NULL;
    slot->state = FH_SLOT_HELD;
    slot->counts[0] = slot->first_counts;
    if (!fh_queue_stock(slot) || !publish(slot)) {
        fh_queue_unstock(slot);
        fh_raw_free(memory);
        return NULL;
    }
    return slot;
}

static void list(fh_space *space, struct fh_slot *slot)
{
    slot->space = space;
    slot->next = at_load_relaxed(&space->slots);
    /* sequentially consistent: passes `next` on to who goes through the list; and comes before this
     * thread's look at `stopping` in fh_slot_may_stay(): who stops the world finds the slot, or
     * this thread finds that it does. */
    while (!at_cas_seq_cst(&space->slots, &slot->next, slot))
        ;
}

struct fh_slot *fh_slot_claim(fh_space *space)
{
    struct fh_slot *slot = take_free(space);
    if (slot != NULL)
        return slot;
    slot = take_unused();
    if (slot == NULL)
        slot = make_slot();
    if (slot != NULL)
        list(space, slot);
    return slot;
}

/* ---- Attention ----
 *
 * All sequentially consistent: what is to be seen (a queue, `stopping`) was written before the slot
 * is asked, also where another thread's asking stands for it; and is read after the holder heeds.
 * So either the holder sees it, or it is still asked.
 */

void fh_slot_ask(struct fh_slot *slot)
{
    if (at_load_seq_cst(&slot->asked) == 0 && at_exchange_seq_cst(&slot->asked, 1u) == 0)
        at_fetch_add_relaxed(&fh_object_attention, 1u); /* a count; `asked` has the order */
}

void fh_slot_heed(struct fh_slot *slot)
{
    if (at_load_relaxed(&slot->asked) != 0 && at_exchange_seq_cst(&slot->asked, 0u) != 0)
        at_fetch_sub_relaxed(&fh_object_attention, 1u);
}

void fh_space_ask_look(fh_space *space)
{
    fh_slot_ask(fh_slot_needed("fh_space_ask_look", space));
}
