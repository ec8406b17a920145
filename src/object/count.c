/* SPDX-License-Identifier: MIT */
/* Counting what is not the calling thread's, and the queues through which owners hear of it. */
#include "count.h"

#include "debug.h"
#include "end.h"

enum { NODES_STOCKED = 16, NODES_KEPT = 256 };

static const uint32_t LOCAL_SPILL = 1u << 31;

/* ---- One more ---- */

/* `local` is at its end: half of it is counted in `shared` from now on. */
static void spill(fh_object *object)
{
    at_fetch_add_relaxed(&object->shared, (int64_t)LOCAL_SPILL * FH_SHARED_ONE);
    at_store_relaxed(&object->local, LOCAL_SPILL);
}

void fh_object_incref_shared(fh_object *object)
{
    uint32_t owner = at_load_relaxed(&object->owner);
    if (owner == FH_OWNER_IMMORTAL)
        return;
    if (owner == fh_slot_needed("fh_incref", object)->owner)
        spill(object);
    else
        at_fetch_add_relaxed(&object->shared, (int64_t)FH_SHARED_ONE); /* there is one: it stays */
}

static bool try_own(fh_object *object)
{
    uint32_t local = object->local;
    if (local == 0)
        return false; /* in the gil modes: it is going */
    if (local == UINT32_MAX)
        spill(object);
    else
        at_store_relaxed(&object->local, local + 1);
    fh_debug_count(1);
    return true;
}

bool fh_object_try_incref(fh_object *object)
{
    uint32_t owner = at_load_relaxed(&object->owner);
    if (owner == FH_OWNER_IMMORTAL)
        return true;
    if (owner == fh_slot_needed("fh_weakref_get", object)->owner)
        return try_own(object);
    int64_t shared = at_load_relaxed(&object->shared);
    do {
        if (fh_shared_is_dead(shared))
            return false;
        /* relaxed: the count itself decides between this and the last drop; what the object holds
         * was published before its weak block was. */
    } while (!at_cas_relaxed(&object->shared, &shared, shared + FH_SHARED_ONE));
    fh_debug_count(1);
    return true;
}

/* In the gil modes nobody looks for it without the lock. */
void fh_object_may_be_found(fh_object *object)
{
    if (at_load_relaxed(&object->owner) == FH_OWNER_IMMORTAL ||
        !fh_space_is_free(fh_slot_needed("fh_weakref_new", object)->space))
        return;
    int64_t shared = at_load_relaxed(&object->shared);
    do {
        if ((shared & FH_SHARED_STATE) != FH_SHARED_INIT)
            return;
        /* relaxed: it is a bit of the count's own word, which the owner looks at when `local` is 0.
         * The caller's reference keeps that from being now. */
    } while (!at_cas_relaxed(&object->shared, &shared, shared | FH_SHARED_WEAK));
}

/* ---- Nodes ---- */

bool fh_queue_stock(struct fh_slot *slot)
{
    while (slot->node_count < NODES_STOCKED) {
        struct fh_queued *node = fh_raw_malloc(sizeof *node);
        if (node == NULL)
            return false;
        node->next = slot->nodes;
        slot->nodes = node;
        slot->node_count++;
    }
    return true;
}

void fh_queue_unstock(struct fh_slot *slot)
{
    while (slot->nodes != NULL) {
        struct fh_queued *next = slot->nodes->next;
        fh_raw_free(slot->nodes);
        slot->nodes = next;
    }
    slot->node_count = 0;
}

static struct fh_queued *take_node(struct fh_slot *slot)
{
    struct fh_queued *node = slot->nodes;
    if (node == NULL)
        return fh_raw_malloc(sizeof *node);
    slot->nodes = node->next;
    slot->node_count--;
    return node;
}

static void give_node(struct fh_slot *slot, struct fh_queued *node)
{
    if (slot->node_count >= NODES_KEPT) {
        fh_raw_free(node);
        return;
    }
    node->next = slot->nodes;
    slot->nodes = node;
    slot->node_count++;
}

/* ---- Merging ---- */

/* The object's owner becomes NONE. False if it is immortal: its only holder may make it so at any
 * time, since the queue's reference is nobody's. */
static bool disown(fh_object *object)
{
    uint32_t owner = at_load_relaxed(&object->owner);
    return owner != FH_OWNER_IMMORTAL && at_cas_relaxed(&object->owner, &owner, FH_OWNER_NONE);
}

/* Drop the queue's reference, and add the owner's count if that has not been done. By the holder of
 * the owner's slot, or who has borrowed it. True if it was the last reference. */
static bool merge_queued(fh_object *object)
{
    int64_t shared = at_load_relaxed(&object->shared), merged, local = -1;
    if ((shared & FH_SHARED_STATE) != FH_SHARED_MERGED) {
        /* Before the CAS: after that the object may go at any time. */
        if (!disown(object))
            return false;
        local += object->local;
        at_store_relaxed(&object->local, 0u);
    } else if (at_load_relaxed(&object->owner) == FH_OWNER_IMMORTAL) {
        return false;
    }
    do {
        merged = (shared + local * FH_SHARED_ONE) | FH_SHARED_MERGED;
        /* release: this thread's uses, to who drops the last reference. acquire: theirs. */
    } while (!at_cas_acq_rel(&object->shared, &shared, merged));
    return merged == FH_SHARED_MERGED;
}

/* The owner has no local reference left. True if there is none at all. */
static bool merge_own(fh_object *object)
{
    /* acquire: the uses of other threads that dropped theirs, from drop_shared(). */
    int64_t shared = at_load_acquire(&object->shared), merged;
    if (shared == FH_SHARED_INIT)
        return true;
    at_store_relaxed(&object->owner, FH_OWNER_NONE);
    do {
        merged = shared | FH_SHARED_MERGED;
        /* release and acquire: as in merge_queued(). */
    } while (!at_cas_acq_rel(&object->shared, &shared, merged));
    return merged == FH_SHARED_MERGED;
}

/* ---- Queues ---- */

void fh_queue_drain(struct fh_slot *slot)
{
    /* Sequentially consistent: after fh_slot_heed(). */
    if (at_load_seq_cst(&slot->queue) == NULL)
        return;
    /* acquire: the nodes, from push(). */
    struct fh_queued *node = at_exchange_seq_cst(&slot->queue, NULL);
    while (node != NULL) {
        struct fh_queued *next = node->next;
        if (merge_queued(node->object))
            fh_object_end_later(node->object);
        give_node(fh_this_slot, node);
        node = next;
    }
}

static bool borrow(struct fh_slot *slot, uint32_t *borrowed)
{
    uint32_t state = at_load_seq_cst(&slot->state);
    if (state != FH_SLOT_FREE && state != FH_SLOT_PARKED)
        return false; /* its holder, or who has borrowed it, looks after it lets go */
    *borrowed = state == FH_SLOT_FREE ? FH_SLOT_BORROWED : FH_SLOT_BORROWED_PARKED;
    /* acquire: the slot's counts, from who held it last. */
    return at_cas_seq_cst(&slot->state, &state, *borrowed);
}

static void give_back(struct fh_slot *slot, uint32_t borrowed)
{
    uint32_t state = borrowed;
    uint32_t back = state == FH_SLOT_BORROWED ? FH_SLOT_FREE : FH_SLOT_PARKED;
    /* release: the merged counts, to who holds it next. If its thread has come back meanwhile and
     * has taken another slot, this one is nobody's. */
    if (!at_cas_seq_cst(&slot->state, &state, back))
        at_store_seq_cst(&slot->state, (uint32_t)FH_SLOT_FREE);
}

static bool is_unsettled(struct fh_slot *slot)
{
    return at_load_seq_cst(&slot->queue) != NULL || at_load_seq_cst(&slot->asked) != 0;
}

/* The last look at the queue comes after the slot was given back, and each push before a look at
 * the slot's state; all of these are sequentially consistent. So either this sees what was pushed,
 * or who pushed it sees that the slot has no holder. */
void fh_queue_settle(struct fh_slot *slot)
{
    uint32_t borrowed;
    while (is_unsettled(slot) && borrow(slot, &borrowed)) {
        fh_slot_heed(slot);
        fh_queue_drain(slot);
        give_back(slot, borrowed);
    }
}

static void push(struct fh_slot *slot, struct fh_queued *node)
{
    node->next = at_load_relaxed(&slot->queue);
    /* release: the node, to fh_queue_drain(). */
    while (!at_cas_seq_cst(&slot->queue, &node->next, node))
        ;
    if (at_load_seq_cst(&slot->state) == FH_SLOT_HELD)
        fh_slot_ask(slot);
    fh_queue_settle(slot);
}

/* ---- One less ---- */

/* *shared says that this is one of the references that `local` counts. As there is one until the
 * CAS, and `owner` changes only when `local` is 0 or in QUEUED, `owner`, read before the CAS, is
 * right if the CAS finds *shared unchanged. */
static bool give_to_owner(fh_object *object, uint32_t owner, int64_t *shared)
{
    struct fh_slot *mine = fh_this_slot;
    struct fh_queued *node = take_node(mine);
    if (node == NULL) {
        fh_object_no_memory(sizeof *node);
        at_store_relaxed(&mine->stranded_count, mine->stranded_count + 1);
        return true;
    }
    node->object = object;
    /* release: this thread's uses, to who merges it; and `owner` was read before it. */
    if (!at_cas_release(&object->shared, shared, (int64_t)FH_SHARED_QUEUED)) {
        give_node(mine, node);
        return false;
    }
    push(at_load_relaxed(&fh_slots[owner]), node);
    return true;
}

/* By who is not the owner. True if it was the last reference. */
static bool drop_shared(fh_object *object)
{
    uint32_t owner = at_load_relaxed(&object->owner);
    if (owner == FH_OWNER_IMMORTAL)
        return false;
    fh_slot_needed("fh_decref", object);
    int64_t shared = at_load_relaxed(&object->shared);
    for (;;) {
        if (shared == FH_SHARED_INIT || shared == FH_SHARED_WEAK) {
            if (give_to_owner(object, owner, &shared))
                return false;
            /* release: this thread's uses of the object, to who drops the last reference. acquire:
             * theirs, if that is this thread. */
        } else if (at_cas_acq_rel(&object->shared, &shared, shared - FH_SHARED_ONE)) {
            return shared - FH_SHARED_ONE == FH_SHARED_MERGED;
        }
    }
}

bool fh_object_drop(fh_object *object)
{
    if (at_load_relaxed(&object->owner) != fh_object_this_owner)
        return drop_shared(object);
    uint32_t left = object->local - 1;
    at_store_relaxed(&object->local, left);
    return left == 0 && merge_own(object);
}

void fh_object_revive(fh_object *object)
{
    if (at_load_relaxed(&object->owner) == fh_object_this_owner)
        at_store_relaxed(&object->local, 1u);
    else
        at_fetch_add_relaxed(&object->shared, (int64_t)FH_SHARED_ONE);
}

void fh_object_decref_shared(fh_object *object)
{
    if (drop_shared(object))
        fh_object_end(object);
    else
        fh_object_run_later(); /* what a borrowed slot's queue had */
}

void fh_object_last_local(fh_object *object)
{
    if (merge_own(object))
        fh_object_end(object);
}

/* ---- As functions ---- */

void fh_object_incref(fh_object *object)
{
    fh_xincref(object);
}

void fh_object_decref(fh_object *object)
{
    fh_xdecref(object);
}

int64_t fh_refcount(const fh_object *object)
{
    if (at_load_relaxed(&object->owner) == FH_OWNER_IMMORTAL)
        return INT64_MAX;
    int64_t others = at_load_relaxed(&object->shared) >> 2; /* keeps the sign */
    return (int64_t)at_load_relaxed(&object->local) + others;
}
