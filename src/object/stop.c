/* SPDX-License-Identifier: MIT */
/* Stopping the world, and slots that become held or are let go while it is.
 *
 * `stopping` is written before the slots' states are read, and a slot's state before `stopping` is
 * read, all sequentially consistent: so either who stops the world sees that a thread runs, or the
 * thread sees that it is to stop. Collections wait; nothing else does.
 */
#include <sched.h>

#include "count.h"
#include "end.h"

enum { SPINS_MAX = 2000 }; /* some 20 us: most threads are at a safe point by then */

/* ---- One's own slot ---- */

static void tell(fh_space *space)
{
    pthread_mutex_lock(&space->mutex);
    pthread_cond_broadcast(&space->changed);
    pthread_mutex_unlock(&space->mutex);
}

static void wait_for_the_world(fh_space *space)
{
    pthread_mutex_lock(&space->mutex);
    pthread_cond_broadcast(&space->changed);
    while (fh_space_is_stopping(space))
        pthread_cond_wait(&space->changed, &space->mutex);
    pthread_mutex_unlock(&space->mutex);
}

/* The world may go on, and others queue for the slot and find it HELD, just before it is `back`. So
 * its holder comes back to it, but if somebody else has it, who looks at the queue after that.
 * Ends: each round is somebody's stop of the world. */
bool fh_slot_may_stay(struct fh_slot *slot, uint32_t back)
{
    fh_space *space = slot->space;
    uint32_t found;
    do {
        if (at_load_seq_cst(&space->stopping) == 0)
            return true;
        at_store_seq_cst(&slot->state, back);
        wait_for_the_world(space);
        found = back;
    } while (at_cas_seq_cst(&slot->state, &found, (uint32_t)FH_SLOT_HELD));
    return false;
}

/* Nothing is left to do for the slot that was let go. Else it is held again, if this thread is the
 * one to do it. */
static bool is_settled(struct fh_slot *slot, uint32_t to)
{
    if (at_load_seq_cst(&slot->space->stopping) != 0) {
        tell(slot->space); /* and who resumes it settles the slot */
        return true;
    }
    if (at_load_seq_cst(&slot->queue) == NULL && at_load_seq_cst(&slot->asked) == 0)
        return true;
    return !at_cas_seq_cst(&slot->state, &to, (uint32_t)FH_SLOT_HELD) ||
           !fh_slot_may_stay(slot, to);
}

void fh_slot_leave(struct fh_slot *slot, uint32_t to)
{
    uint32_t state = to;
    do {
        fh_slot_heed(slot);
        fh_queue_drain(slot);
        fh_object_run_later();
        /* release: all that the holder wrote, to who takes or borrows the slot. */
        at_store_seq_cst(&slot->state, state);
    } while (!is_settled(slot, to));
}

void fh_slot_stop_here(struct fh_slot *slot)
{
    fh_space *space = slot->space;
    /* Sequentially consistent: after fh_slot_heed(). */
    if (at_load_seq_cst(&space->stopping) == 0)
        return;
    pthread_mutex_lock(&space->mutex);
    if (fh_space_is_stopping(space)) {
        /* release: the slot's objects, to who stops the world. */
        at_store_seq_cst(&slot->state, (uint32_t)FH_SLOT_STOPPED);
        pthread_cond_broadcast(&space->changed);
        pthread_mutex_unlock(&space->mutex);
        fh_gc_help(slot);
        pthread_mutex_lock(&space->mutex);
        while (fh_space_is_stopping(space))
            pthread_cond_wait(&space->changed, &space->mutex);
        at_store_seq_cst(&slot->state, (uint32_t)FH_SLOT_HELD);
    }
    pthread_mutex_unlock(&space->mutex);
    fh_gc_clear_garbage(slot);
}

void fh_object_look(void)
{
    struct fh_slot *slot = fh_this_slot;
    if (slot == NULL)
        return; /* some other thread's matter */
    fh_slot_heed(slot);
    fh_slot_stop_here(slot);
    fh_queue_drain(slot);
    fh_object_run_later();
    if (fh_intern_is_due(slot->space))
        fh_intern_tend(slot->space);
    fh_gc_look(slot);
}

/* ---- Everybody's ---- */

/* acquire: the slots, from list() in slot.c; and what their holders wrote, as in fh_slot_leave()
 * and fh_slot_stop_here(). */
static bool all_stopped(fh_space *space, bool ask)
{
    bool all = true;
    for (struct fh_slot *slot = at_load_seq_cst(&space->slots); slot != NULL; slot = slot->next) {
        if (slot == fh_this_slot || at_load_seq_cst(&slot->state) != FH_SLOT_HELD)
            continue;
        all = false;
        if (ask)
            fh_slot_ask(slot);
    }
    return all;
}

static bool begin_stop(fh_space *space)
{
    pthread_mutex_lock(&space->mutex);
    bool is_first = !fh_space_is_stopping(space);
    if (is_first)
        at_store_seq_cst(&space->stopping, 1u);
    pthread_mutex_unlock(&space->mutex);
    return is_first;
}

static void wait_for_all(fh_space *space)
{
    for (unsigned spins = 0; spins < SPINS_MAX; spins++)
        if (all_stopped(space, false))
            return;
    pthread_mutex_lock(&space->mutex);
    while (!all_stopped(space, false))
        pthread_cond_wait(&space->changed, &space->mutex);
    pthread_mutex_unlock(&space->mutex);
}

bool fh_space_stop(fh_space *space)
{
    if (!fh_space_is_free(space))
        return true;
    struct fh_slot *mine = fh_slot_needed("fh_space_stop", space);
    if (!begin_stop(space)) {
        fh_slot_stop_here(mine);
        /* Who queued what while this slot was STOPPED has asked nobody. */
        if (at_load_seq_cst(&mine->queue) != NULL)
            fh_slot_ask(mine);
        return false;
    }
    if (!all_stopped(space, true))
        wait_for_all(space);
    return true;
}

/* Slots that were let go while the world was stopped: is_settled() left them to this. */
static void settle_all(fh_space *space)
{
    for (struct fh_slot *slot = at_load_seq_cst(&space->slots); slot != NULL; slot = slot->next)
        fh_queue_settle(slot);
    fh_object_run_later();
}

void fh_space_resume(fh_space *space)
{
    if (!fh_space_is_free(space))
        return;
    pthread_mutex_lock(&space->mutex);
    at_store_seq_cst(&space->stopping, 0u);
    pthread_cond_broadcast(&space->changed);
    pthread_mutex_unlock(&space->mutex);
    settle_all(space);
}

void fh_space_drain_all(fh_space *space)
{
    for (struct fh_slot *slot = at_load_seq_cst(&space->slots); slot != NULL; slot = slot->next)
        fh_queue_drain(slot);
}
