/* SPDX-License-Identifier: MIT */
/* Cycle collection: containers, their cells, and what a slot and a space keep of them.
 *
 * In front of each container is a head of two words. The first points at the container's cell, the
 * second has its flags and, during a collection, a count or a link. A cell is a word of a chunk
 * that points back at the object. So a generation is a list of chunks, not of objects: to make and
 * to drop a container touches no other one, and nobody needs a lock to go through all of them.
 *
 *   cell:  0              a hole: its container went, by another thread or in an older generation
 *          next | 1       free, in its slot's list (next may be 0)
 *          object         a container's, from its making until its end, tracked or not
 *
 *   word:  count or link (multiples of 16) | flags
 *          TRACKED        the collector may traverse it
 *          FINALIZED      its finalizer has run
 *          CANDIDATE      in the generations that are collected now; then the rest is its count
 *          REACHED        a candidate that something else than candidates refers to, at whatever
 *                         distance; then the rest links those that are yet to be traversed
 *
 * A candidate that is not REACHED when all has been traversed is garbage. It stays a candidate, and
 * is held by a reference of the collection's, until it has been cleared.
 *
 * Cells and chunks belong to the slot by which the container was made. Its holder uses them without
 * atomic operations; other threads store 0 into the cell of a container whose end they are. While
 * the world is stopped all of it belongs to those who collect.
 */
#ifndef FH_OBJECT_GC_H
#define FH_OBJECT_GC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <freehold/object.h>

#include "atoms.h"

struct fh_slot;
struct fh_weak_call;

enum { FH_GC_GENERATIONS = 3, FH_GC_CHUNK_BYTES = 4096 };

enum {
    FH_GC_TRACKED = 1,
    FH_GC_FINALIZED = 2,
    FH_GC_CANDIDATE = 4,
    FH_GC_REACHED = 8,
    FH_GC_FLAGS = 15,
    FH_GC_ONE = 16, /* of the count */
};

struct fh_gc_head {
    uintptr_t *cell; /* the slot's holder's; others once its object is theirs alone */
    uintptr_t word;
};

_Static_assert(sizeof(struct fh_gc_head) == 16, "objects stay aligned to 16 bytes");

/* What a slot has. Zeros are a slot without containers. */
struct fh_gc_slot {
    uintptr_t free_cells; /* first free cell | 1; nothing above 1: none */
    int64_t made_count;   /* containers made less gone, not below 0, since the last collection */
    int64_t limit_count;  /* beyond it a collection may be due */
    bool is_due;          /* free mode: its holder is on its way to run one */
    struct fh_gc_chunk *chunks[FH_GC_GENERATIONS]; /* of an older one, the first has room, if any */
    struct fh_gc_chunk *searched;                  /* where to look for holes next */

    /* Of the collection that runs. */
    fh_object *garbage; /* linked through their words */
    struct fh_weak_call *calls;
    uint64_t garbage_count, survivors_count;
    bool garbage_finalizes; /* some of it has a finalizer to run */
    bool met_others;        /* the last part run left something to do */
    uint64_t turn;          /* the last phase that was begun for this slot; atomic */
};

/* What a space has. Zeros are one whose thresholds are the built-in ones. */
struct fh_gc {
    uint32_t busy; /* atomic: collections, and threads that drop garbage; one starts at 0 only */
    uint32_t is_off, has_thresholds; /* changed while the world is stopped */
    unsigned thresholds[FH_GC_GENERATIONS];
    unsigned younger_count[FH_GC_GENERATIONS]; /* by g: collections of g - 1 since g's last */
    uint64_t long_lived_pending, long_lived_total;
    fh_gc_stats stats;

    /* The phases of a collection, in which all slots have a part. */
    _Alignas(64) uint64_t turn; /* atomic: counts them, and in the lowest bits says which it is */
    uint32_t generation;
    uint32_t unfinished; /* atomic: slots whose part is not done */
    bool is_shared;      /* other threads had to be stopped, and may take part */

    /* How rarely: the first threshold counts so many times, 1 or more, while threads have to be
     * stopped. 0 is 1. */
    uint32_t rarity;
    uint64_t ended_ns, waited_ns; /* the last one; in it, the collector for other threads */
};

static inline struct fh_gc_head *fh_gc_head_of(const fh_object *object)
{
    return (struct fh_gc_head *)(uintptr_t)object - 1;
}

static inline bool fh_gc_is_container(const fh_object *object)
{
    return (object->type->flags & FH_TYPE_GC) != 0;
}

/* A new container, its head not yet initialised: give it a cell. With FH_GC_TRACKED for `flags` it
 * is whole already, else 0. May run a collection in the gil modes, before that. False if memory is
 * short; then nothing was done. */
bool fh_gc_enroll_slowly(struct fh_slot *slot, fh_object *object, uintptr_t flags);

/* The container's end: no reference is left, its finalizer has run, and dealloc comes after this.
 * From here on its head is the caller's. */
static inline void fh_gc_dead(struct fh_gc_slot *gc, fh_object *object);

/* The container was moved in memory, its head with it. Relaxed, like all that writes to cells: who
 * reads those of others is a collector, and what it sees comes by way of the stop. */
static inline void fh_gc_moved(fh_object *object)
{
    at_store_relaxed(fh_gc_head_of(object)->cell, (uintptr_t)object);
}

static inline bool fh_gc_has_flag(const fh_object *object, uintptr_t flag)
{
    return (at_load_relaxed(&fh_gc_head_of(object)->word) & flag) != 0;
}

/* Plain in effect: track, untrack and finalize are for who has the object alone. Relaxed since a
 * collector looks at flags of objects that are others' (see fh_gc_is_garbage()). */
static inline void fh_gc_set_flag(fh_object *object, uintptr_t flag)
{
    struct fh_gc_head *head = fh_gc_head_of(object);
    at_store_relaxed(&head->word, head->word | flag);
}

static inline void fh_gc_unset_flag(fh_object *object, uintptr_t flag)
{
    struct fh_gc_head *head = fh_gc_head_of(object);
    at_store_relaxed(&head->word, head->word & ~flag);
}

/* Returns whether it was set before. */
static inline bool fh_gc_set_finalized(fh_object *object)
{
    bool was_set = fh_gc_has_flag(object, FH_GC_FINALIZED);
    fh_gc_set_flag(object, FH_GC_FINALIZED);
    return was_set;
}

/* Within a collection, after marking: is it garbage? Not once it is cleared. */
static inline bool fh_gc_is_garbage(const fh_object *object)
{
    uintptr_t word = at_load_relaxed(&fh_gc_head_of(object)->word);
    return (word & (FH_GC_CANDIDATE | FH_GC_REACHED)) == FH_GC_CANDIDATE;
}

/* ---- Chunks: in the header for the inline functions below ---- */

struct fh_gc_chunk {
    struct fh_gc_slot *young_of; /* whose free cells its cells become; NULL: an older generation */
    struct fh_gc_chunk *next;
    void *memory;       /* what fh_raw_free() takes */
    uint32_t count;     /* of an older generation: cells in use from the first on, with holes; in a
                           collection, of a young one: garbage */
    uint32_t has_holes; /* a hint for the holder; set by others */
    uintptr_t cells[];
};

enum {
    FH_GC_CHUNK_CELLS = (FH_GC_CHUNK_BYTES - sizeof(struct fh_gc_chunk)) / sizeof(uintptr_t),
};

static inline struct fh_gc_chunk *fh_gc_chunk_of(const uintptr_t *cell)
{
    return (struct fh_gc_chunk *)((uintptr_t)cell & ~(uintptr_t)(FH_GC_CHUNK_BYTES - 1));
}

static inline void fh_gc_take_cell(struct fh_gc_slot *gc, fh_object *object, uintptr_t flags)
{
    uintptr_t *cell = (uintptr_t *)(gc->free_cells - 1);
    struct fh_gc_head *head = fh_gc_head_of(object);
    gc->free_cells = *cell;
    at_store_relaxed(cell, (uintptr_t)object);
    head->cell = cell;
    head->word = flags;
}

static inline bool fh_gc_enroll(struct fh_slot *slot, struct fh_gc_slot *gc, fh_object *object,
                                uintptr_t flags)
{
    int64_t made_count = gc->made_count + 1;
    if (__builtin_expect(made_count > gc->limit_count || gc->free_cells <= 1, 0))
        return fh_gc_enroll_slowly(slot, object, flags);
    gc->made_count = made_count;
    fh_gc_take_cell(gc, object, flags);
    return true;
}

/* Relaxed, all three: see fh_gc_moved(). A 0 is all that its reader asks for, and the hint may come
 * late: a collection looks at every cell. */
static inline void fh_gc_leave_hole(struct fh_gc_chunk *chunk, uintptr_t *cell)
{
    at_store_relaxed(cell, 0);
    if (at_load_relaxed(&chunk->has_holes) == 0)
        at_store_relaxed(&chunk->has_holes, 1);
}

static inline void fh_gc_dead(struct fh_gc_slot *gc, fh_object *object)
{
    uintptr_t *cell = fh_gc_head_of(object)->cell;
    struct fh_gc_chunk *chunk = fh_gc_chunk_of(cell);
    if (gc->made_count > 0)
        gc->made_count--;
    if (__builtin_expect(chunk->young_of != gc, 0)) {
        fh_gc_leave_hole(chunk, cell);
        return;
    }
    at_store_relaxed(cell, gc->free_cells | 1);
    gc->free_cells = (uintptr_t)cell | 1;
}

/* ---- For space.c ---- */

/* By fh_object_look(): run a collection that is due. Not inside of a callback of a type. */
void fh_gc_look(struct fh_slot *slot);

/* By a thread that has stopped for a collection, instead of just waiting: help with it as long as
 * there is something to do. Returns when it is time to sleep until the world goes on. */
void fh_gc_help(struct fh_slot *slot);

/* By a thread whom the world's stop has just let go: drop what is garbage of its slot. Runs code of
 * types. */
void fh_gc_clear_garbage(struct fh_slot *slot);

/* In a forked child: collections of other threads are gone. */
void fh_gc_after_fork_child(fh_space *space);

/* Give a slot's chunks back: its space goes, no container lives. */
void fh_gc_slot_destroy(struct fh_gc_slot *gc);

#endif
