/* SPDX-License-Identifier: MIT */
/* Spaces: made, entered and left by threads, destroyed. */
#include "space.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "count.h"
#include "end.h"

/* What a thread knows of its attaching. */
static __thread struct {
    fh_space *space;
    unsigned attached, parked; /* how often */
    bool is_leaving;           /* inside of let_go(), where code of types may run */
    struct fh_slot *slot;      /* its own, also while it is parked */
    fh_heap *heap_before;
    size_t gil_times; /* while parked */
} mine;

/* ---- A thread that ends while attached ---- */

static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;

static void at_exit_of_thread(void *space)
{
    (void)space;
    while (mine.parked > 0)
        fh_space_unpark();
    while (mine.attached > 0)
        fh_space_detach();
}

static void make_exit_key(void)
{
    (void)pthread_key_create(&exit_key, at_exit_of_thread);
}

/* ---- Going in and out ---- */

static void hold(struct fh_slot *slot)
{
    mine.slot = slot;
    fh_this_slot = slot;
    fh_object_this_owner = slot->owner;
    mine.heap_before = fh_heap_set_current(mine.space->heap);
}

static void let_go(uint32_t to)
{
    mine.is_leaving = true;
    fh_slot_leave(mine.slot, to);
    mine.is_leaving = false;
    fh_this_slot = NULL;
    fh_object_this_owner = FH_OWNER_NOBODY;
    fh_heap_set_current(mine.heap_before);
}

/* What was queued while nobody held the slot, and was not settled. */
static void catch_up(void)
{
    fh_queue_drain(mine.slot);
    fh_object_run_later();
}

static struct fh_slot *claim(fh_space *space)
{
    struct fh_slot *slot;
    do
        slot = fh_slot_claim(space);
    while (slot != NULL && !fh_slot_may_stay(slot, FH_SLOT_FREE));
    return slot;
}

/* Of the gil modes: the one that there is. */
static struct fh_slot *enter(fh_space *space)
{
    if (fh_space_is_free(space))
        return claim(space);
    fh_gil_acquire(space->gil);
    struct fh_slot *slot = space->slots;
    /* relaxed: the lock passes all that there is to pass. */
    at_store_relaxed(&slot->state, (uint32_t)FH_SLOT_HELD);
    return slot;
}

int fh_space_attach(fh_space *space)
{
    if (mine.attached > 0 && (mine.space != space || mine.parked > 0)) {
        errno = EBUSY;
        return -1;
    }
    if (mine.attached++ > 0)
        return 0;
    pthread_once(&exit_once, make_exit_key);
    struct fh_slot *slot = pthread_setspecific(exit_key, space) == 0 ? enter(space) : NULL;
    if (slot == NULL) {
        mine.attached = 0;
        errno = ENOMEM;
        return -1;
    }
    mine.space = space;
    at_fetch_add_relaxed(&space->attached_count, 1u);
    hold(slot);
    catch_up();
    return 0;
}

/* The lock goes last: in the gil modes it keeps the space until then. */
static void detach_last(fh_space *space)
{
    const fh_gil *gil = space->gil;
    let_go(FH_SLOT_FREE);
    mine.attached = 0;
    mine.space = NULL;
    (void)pthread_setspecific(exit_key, NULL);
    /* release: this thread's last look at the space, to who destroys it. */
    at_fetch_sub_acq_rel(&space->attached_count, 1u);
    if (gil != NULL)
        fh_gil_release(gil);
}

void fh_space_detach(void)
{
    if (mine.attached == 0 || mine.parked > 0)
        return;
    if (mine.attached > 1)
        mine.attached--;
    else if (!mine.is_leaving)
        detach_last(mine.space);
}

fh_space *fh_space_current(void)
{
    return mine.space;
}

/* ---- Parking ---- */

void fh_space_park(void)
{
    if (mine.attached == 0 || mine.is_leaving)
        return;
    if (mine.parked > 0) {
        mine.parked++;
        return;
    }
    let_go(FH_SLOT_PARKED);
    mine.parked = 1;
    if (!fh_space_is_free(mine.space))
        mine.gil_times = fh_gil_save(mine.space->gil);
}

/* It is borrowed, or was just now: leave it to the borrower, or to whoever comes. */
static void abandon(struct fh_slot *slot)
{
    uint32_t borrowed, parked;
    do {
        borrowed = FH_SLOT_BORROWED_PARKED;
        parked = FH_SLOT_PARKED;
    } while (!at_cas_seq_cst(&slot->state, &borrowed, (uint32_t)FH_SLOT_BORROWED) &&
             !at_cas_seq_cst(&slot->state, &parked, (uint32_t)FH_SLOT_FREE));
}

/* The thread's slot held again, or if another thread merges what was dropped of its objects,
 * another slot. */
static struct fh_slot *unpark_slot(struct fh_slot *slot)
{
    for (;;) {
        uint32_t state = FH_SLOT_PARKED;
        /* acquire: the merged counts, from who has borrowed it; see give_back() in count.c. */
        if (at_cas_seq_cst(&slot->state, &state, (uint32_t)FH_SLOT_HELD)) {
            if (fh_slot_may_stay(slot, FH_SLOT_PARKED))
                return slot;
            continue;
        }
        struct fh_slot *other = claim(mine.space);
        if (other != NULL) {
            abandon(slot);
            return other;
        }
        sched_yield(); /* no memory for another one: wait for the borrower */
    }
}

void fh_space_unpark(void)
{
    if (mine.parked == 0 || --mine.parked > 0)
        return;
    if (fh_space_is_free(mine.space)) {
        hold(unpark_slot(mine.slot));
    } else {
        fh_gil_restore(mine.space->gil, mine.gil_times);
        at_store_relaxed(&mine.slot->state, (uint32_t)FH_SLOT_HELD); /* as in enter() */
        hold(mine.slot);
    }
    catch_up();
}

/* ---- Making one ---- */

static const fh_gil *gil_of(const fh_space_config *config)
{
    return config->heap != NULL ? fh_heap_get_gil(config->heap) : config->gil;
}

/* In the gil modes the one slot is there from the start. */
static bool prepare(fh_space *space, const fh_space_config *config)
{
    const fh_gil *gil = gil_of(config);
    space->config = *config;
    space->heap = config->heap != NULL ? config->heap : fh_heap_default();
    if (gil != NULL) {
        space->gil_copy = *gil;
        space->gil = &space->gil_copy;
    }
    pthread_mutex_init(&space->mutex, NULL);
    pthread_mutex_init(&space->live_mutex, NULL);
    pthread_cond_init(&space->changed, NULL);
    struct fh_slot *slot = fh_slot_claim(space);
    if (slot != NULL)
        at_store_seq_cst(&slot->state, (uint32_t)FH_SLOT_FREE);
    return slot != NULL;
}

fh_space *fh_space_create(const fh_space_config *config)
{
    static const fh_space_config zeros = {.struct_bytes = sizeof zeros};
    if (config == NULL)
        config = &zeros;
    if (config->struct_bytes != sizeof *config) {
        errno = EINVAL;
        return NULL;
    }
    void *memory;
    fh_space *space = fh_aligned_zeros(_Alignof(struct fh_space), sizeof *space, &memory);
    if (space == NULL)
        return NULL;
    space->memory = memory;
    if (!prepare(space, config)) {
        fh_raw_free(memory);
        errno = ENOMEM;
        return NULL;
    }
    return space;
}

/* ---- Destroying one ---- */

static bool somebody_is_there(fh_space *space)
{
    /* acquire: the last look at the space of threads that have left it, from detach_last(). */
    return mine.attached > 0 || at_load_acquire(&space->attached_count) != 0;
}

/* The slot may serve another space. Its id and its nodes stay. */
static void clear_slot(struct fh_slot *slot)
{
    fh_slot_heed(slot);
    fh_gc_slot_destroy(&slot->gc);
    for (unsigned i = 1; i < FH_OBJECT_TYPES_MAX / FH_TYPE_CHUNK; i++)
        fh_raw_free(slot->counts[i]);
    memset(slot->counts, 0, sizeof slot->counts);
    memset(slot->first_counts, 0, sizeof slot->first_counts);
    memset(slot->free_lists, 0, sizeof slot->free_lists);
    memset(slot->slabs, 0, sizeof slot->slabs);
    memset(&slot->gc, 0, sizeof slot->gc);
    slot->counts[0] = slot->first_counts;
    slot->stranded_count = 0;
    slot->ref_total = 0;
    slot->space = NULL;
    /* release: all of this, to who takes the slot. */
    at_store_seq_cst(&slot->state, (uint32_t)FH_SLOT_UNUSED);
}

static void free_space(fh_space *space)
{
    for (struct fh_slot *slot = space->slots, *next; slot != NULL; slot = next) {
        next = slot->next;
        clear_slot(slot);
    }
    pthread_mutex_destroy(&space->mutex);
    pthread_mutex_destroy(&space->live_mutex);
    pthread_cond_destroy(&space->changed);
    fh_raw_free(space->memory);
}

int fh_space_destroy(fh_space *space)
{
    if (somebody_is_there(space)) {
        errno = EBUSY;
        return -1;
    }
    if (fh_space_attach(space) != 0)
        return -1;
    (void)fh_gc_collect(FH_GC_GENERATIONS - 1);
    bool is_empty = fh_space_live_objects() == 0;
    if (is_empty) {
        fh_intern_destroy(space);
        fh_cache_destroy(space);
    }
    fh_space_detach();
    if (!is_empty) {
        errno = EBUSY;
        return -1;
    }
    free_space(space);
    return 0;
}

/* ---- fork ---- */

/* Relaxed: there is one thread. */
static void forget_threads(fh_space *space)
{
    bool is_mine = mine.space == space;
    at_store_relaxed(&space->attached_count, (uint32_t)is_mine);
    at_store_relaxed(&space->stopping, 0u);
    for (struct fh_slot *slot = space->slots; slot != NULL; slot = slot->next) {
        if (is_mine && slot == mine.slot) {
            if (mine.parked > 0) /* another thread may have borrowed it */
                at_store_relaxed(&slot->state, (uint32_t)FH_SLOT_PARKED);
            continue;
        }
        at_store_relaxed(&slot->state, (uint32_t)FH_SLOT_FREE);
        fh_slot_heed(slot);
    }
}

/* A thread that is gone may have been between a slot's `asked` and this. */
static void count_attention(void)
{
    uint32_t asked_count = 0, count = fh_slots_count();
    for (uint32_t owner = 1; owner < count; owner++) {
        const struct fh_slot *slot = at_load_relaxed(&fh_slots[owner]);
        asked_count += slot != NULL && at_load_relaxed(&slot->asked) != 0;
    }
    at_store_relaxed(&fh_object_attention, asked_count);
}

/* By an attached thread: what the others left undone. */
static void tidy_after_threads(fh_space *space)
{
    for (struct fh_slot *slot = space->slots; slot != NULL; slot = slot->next)
        fh_queue_settle(slot);
    fh_object_run_later();
    fh_gc_after_fork_child(space);
}

static void tidy_while_parked(fh_space *space)
{
    unsigned parked = mine.parked;
    mine.parked = 1;
    fh_space_unpark();
    tidy_after_threads(space);
    fh_space_park();
    mine.parked = parked;
}

void fh_space_after_fork_child(fh_space *space)
{
    pthread_mutex_init(&space->mutex, NULL);
    pthread_mutex_init(&space->live_mutex, NULL);
    pthread_cond_init(&space->changed, NULL);
    if (!fh_space_is_free(space))
        fh_gil_after_fork_child(space->gil);
    forget_threads(space);
    count_attention();
    if (mine.parked > 0 && mine.space == space) {
        tidy_while_parked(space);
    } else if (fh_space_attach(space) == 0) {
        tidy_after_threads(space);
        fh_space_detach();
    }
}
