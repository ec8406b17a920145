/* SPDX-License-Identifier: MIT */
/* Spaces and the slots of their threads.
 *
 * A slot is what an attached thread has to itself: its owner id (what fh_object.owner says of the
 * objects it made), free lists, young containers, counters. In free mode each attached thread holds
 * one; in the gil modes there is one slot, whose holder is whoever holds the lock. So everything
 * below that says "the slot's holder" needs no atomic operation in either mode, and plain counts
 * under a lock are biased counts whose owner is the lock.
 *
 *   UNUSED    no space's
 *   FREE      no thread's: objects may still name it as their owner
 *   HELD      a thread is attached by it and runs
 *   STOPPED   its thread has stopped at a safe point, for a collection
 *   PARKED    its thread is inside of fh_space_park()
 *   BORROWED  another attached thread merges what was dropped of its objects (free mode), and will
 *             leave it FREE, or PARKED if it is BORROWED_PARKED
 *
 *   UNUSED or FREE -> HELD (attach)     HELD -> FREE (detach)       FREE -> UNUSED (space
 * destroyed) HELD -> PARKED (park)               PARKED -> HELD (unpark)     HELD -> STOPPED ->
 * HELD FREE -> BORROWED -> FREE            PARKED -> BORROWED_PARKED -> PARKED  (who queued there)
 *   BORROWED_PARKED -> BORROWED, or PARKED -> FREE  (its thread is back and has taken another one)
 *
 * Only while a slot is HELD or BORROWED are its objects' `local` counts written, and by one thread.
 * A thread that comes back and finds its slot borrowed takes another one: it does not wait, unless
 * memory is too short for that. Its objects are then those of a slot without a holder, like a
 * dead thread's: others count them in `shared`, and whoever takes the slot next becomes their
 * owner.
 *
 * Slots are never freed. An owner id is a place in the process's table of slots: never 0, and no
 * two slots of a process share one.
 */
#ifndef FH_OBJECT_SPACE_H
#define FH_OBJECT_SPACE_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <freehold/object.h>

#include "atoms.h"
#include "cache.h"
#include "gc.h"
#include "intern.h"

enum {
    FH_SLOT_UNUSED,
    FH_SLOT_FREE,
    FH_SLOT_HELD,
    FH_SLOT_STOPPED,
    FH_SLOT_PARKED,
    FH_SLOT_BORROWED,
    FH_SLOT_BORROWED_PARKED
};

enum {
    FH_OBJECT_SLOTS_MAX = 65536, /* of the process; owner ids are below */
    FH_OBJECT_TYPES_MAX = 1024,
    FH_OBJECT_LISTS_MAX = 64,
    FH_OBJECT_SLABS_MAX = 64
};

/* What fh_object_this_owner is in a thread that is not attached: no object's owner, so that its
 * counting takes the slow path, where it is named. */
#define FH_OWNER_NOBODY 0xfffffffeu

/* fh_type.index: those of the library are fixed, and counted in a slot's first chunk. */
enum {
    FH_TYPE_INDEX_OTHER = 0, /* what could not be counted by its type */
    FH_TYPE_INDEX_INT,
    FH_TYPE_INDEX_STRING,
    FH_TYPE_INDEX_LIST,
    FH_TYPE_INDEX_DICT,
    FH_TYPE_INDEX_WEAKREF,
    FH_TYPE_INDEX_FIRST_FREE,
    FH_TYPE_CHUNK = 64, /* of indexes, counted side by side */
};

/* fh_object.shared: a count in the upper 62 bits, and one of four states. */
enum {
    FH_SHARED_INIT = 0,   /* no other thread can find it but by a reference */
    FH_SHARED_WEAK = 1,   /* others may find it by a weak reference or the intern table */
    FH_SHARED_QUEUED = 2, /* its owner's queue has it, and with it one reference */
    FH_SHARED_MERGED = 3, /* the owner's count has been added: owner is FH_OWNER_NONE */
    FH_SHARED_STATE = 3,
    FH_SHARED_ONE = 4,
};

struct fh_dead_list { /* free list or slab list of one slot */
    void *head;
    uint32_t length;
};

struct fh_type_counts {
    uint64_t made, gone; /* by this slot's holders; others may read them */
};

struct fh_queued { /* count.c */
    struct fh_queued *next;
    fh_object *object;
};

struct fh_slot {
    /* The holder's. */
    uint32_t owner; /* never changes */
    fh_space *space;
    struct fh_gc_slot gc;
    struct fh_type_counts *counts[FH_OBJECT_TYPES_MAX / FH_TYPE_CHUNK]; /* made when needed */
    struct fh_type_counts first_counts[FH_TYPE_CHUNK];                  /* counts[0] */
    struct fh_dead_list free_lists[FH_OBJECT_LISTS_MAX];                /* by fh_free_list.index */
    struct fh_dead_list slabs[FH_OBJECT_SLABS_MAX];                     /* by fh_slab.index */
    struct fh_intern_node *unlinked; /* intern.c: dead ones, until the world is stopped */
    struct fh_queued *nodes;         /* for queueing without memory */
    uint32_t node_count;
    uint64_t stranded_count; /* references lost because there was no node; others may read it */
    int64_t ref_total;       /* debug build: references added less dropped; others may read it */

    /* Any thread's, on lines of their own. */
    _Alignas(64) uint32_t state;
    uint32_t asked; /* the holder is to come to fh_object_look(); counted in fh_object_attention */
    _Alignas(64) struct fh_queued *queue; /* objects with one reference each, dropped by others */
    struct fh_slot *next;                 /* of the space; fixed once it is listed */
};

struct fh_space {
    void *memory; /* that it lies in */
    fh_space_config config;
    fh_heap *heap;
    const fh_gil *gil; /* NULL in free mode */
    fh_gil gil_copy;
    struct fh_slot *slots;   /* listed by any thread, never taken out */
    uint32_t attached_count; /* threads, parked ones too */

    /* Stopping the world (free mode). `stopping` changes under the mutex; `changed` is told then,
     * and when a slot leaves HELD while it is set. */
    uint32_t stopping;
    pthread_mutex_t mutex;
    pthread_cond_t changed;

    struct fh_gc gc;
    struct fh_intern_table intern;
    struct fh_slab_space slabs[FH_OBJECT_SLABS_MAX];

    /* Of the debug build: all live objects, under the mutex; their header is the list's end. */
    pthread_mutex_t live_mutex;
    fh_object *live;
};

/* The calling thread's slot, NULL if it is not attached or parked; fh_object_this_owner is then
 * FH_OWNER_NOBODY, else the slot's. */
extern __thread struct fh_slot *fh_this_slot __attribute__((tls_model("initial-exec")));

/* The slots by owner id; ids up to fh_slots_count() have been given out. */
extern struct fh_slot *fh_slots[FH_OBJECT_SLOTS_MAX];
uint32_t fh_slots_count(void);

/* The types by index; NULL where there is none. */
extern fh_type *fh_types[FH_OBJECT_TYPES_MAX];
uint32_t fh_types_count(void); /* the highest index in use, and one */

/* A slot of the space that the caller now holds, though the world may be stopped. NULL: memory is
 * short, or there are too many. */
struct fh_slot *fh_slot_claim(fh_space *space);

/* The calling thread's slot; one that is not attached is named on stderr and ends the program. */
struct fh_slot *fh_slot_needed(const char *function, const void *object);

/* Zeroed bytes in *memory, which is to be freed; any alignment, though an allocator may have been
 * set for the raw domain, as debug hooks are. */
void *fh_aligned_zeros(size_t alignment, size_t bytes, void **memory);

static inline bool fh_space_is_free(const fh_space *space)
{
    return space->gil == NULL;
}

static inline bool fh_space_is_stopping(const fh_space *space)
{
    return at_load_relaxed(&space->stopping) != 0;
}

/* ---- Attention ---- */

/* The slot's holder comes to fh_object_look() at its next safe point. Any thread. */
void fh_slot_ask(struct fh_slot *slot);

/* By the holder: it has come. */
void fh_slot_heed(struct fh_slot *slot);

/* The calling thread itself is to come. */
void fh_space_ask_look(fh_space *space);

/* ---- Stopping the world: free mode; nothing in the gil modes ---- */

/* Wait until all other threads of the space have stopped at a safe point, are parked or detached.
 * False if another thread stopped the world first: the caller was stopped by it, and may look again
 * whether what it wanted is still to be done. */
bool fh_space_stop(fh_space *space);
void fh_space_resume(fh_space *space);

/* Between the two: merge what is in all queues. What is dead then is dealloc'ed by the caller's
 * fh_object_run_later(), after the world goes on. */
void fh_space_drain_all(fh_space *space);

/* The slot has just become HELD. True: it may stay so, if need be after the world was stopped, and
 * it was `back` meanwhile. False: another thread took or borrowed it then; the world goes on now.
 */
bool fh_slot_may_stay(struct fh_slot *slot, uint32_t back);

/* The slot, HELD, becomes FREE or PARKED, and what others have queued for it is merged: by its
 * holder before that, by whoever queues it after that. */
void fh_slot_leave(struct fh_slot *slot, uint32_t to);

/* By a holder at a safe point: stop if the world is being stopped. */
void fh_slot_stop_here(struct fh_slot *slot);

#endif
