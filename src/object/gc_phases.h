/* SPDX-License-Identifier: MIT */
/* The phases of a collection, each for one slot, while the world is stopped.
 *
 *   COUNT     containers of the generation and the younger ones become candidates, with a count of
 *             all references to them
 *   SUBTRACT  what candidates refer to loses that reference from its count: what is left comes from
 *             outside
 *   MARK      candidates with a count left are REACHED, and all that these refer to
 *   SWEEP     what was reached moves on to the next generation; the rest is listed as garbage
 *
 * Each phase needs the one before to be over for all slots. The parts of a phase, one for each
 * slot, may run at the same time. In SUBTRACT and MARK they then look at the objects of their own
 * slot alone; if any of them met those of another, one thread does what is left, for all slots.
 */
#ifndef FH_OBJECT_GC_PHASES_H
#define FH_OBJECT_GC_PHASES_H

#include "space.h"

enum {
    FH_GC_NO_PHASE, /* between collections */
    FH_GC_COUNT,
    FH_GC_SUBTRACT,
    FH_GC_MARK,
    FH_GC_SWEEP,
    FH_GC_PHASES_END,
    FH_GC_TURN_ONE = 8, /* fh_gc.turn: so much for each phase, and which one it is */
};

/* The part of `slot`; says in met_others whether something is left. */
void fh_gc_run_part(struct fh_gc *gc, struct fh_slot *slot, uint32_t phase);

/* What is left of it, once all parts have run, and while nothing else runs. */
void fh_gc_run_rest(struct fh_gc *gc, struct fh_slot *slot, uint32_t phase);

/* What is left of garbage, a list, after finalizers ran: what of it can be reached again is no
 * candidate any more. Returns the list of the rest, to which no weak reference leads any more, not
 * even one that was made since. While the world is stopped. */
fh_object *fh_gc_judge_again(fh_object *garbage, struct fh_weak_call **calls,
                             uint64_t *resurrected_count);

/* ---- Words ---- */

/* An object in the rest of a word: multiples of 8, shifted clear of the flags. */
static inline uintptr_t fh_gc_link_to(const fh_object *object)
{
    return (uintptr_t)object << 1;
}

static inline fh_object *fh_gc_link_of(uintptr_t word)
{
    return (fh_object *)((word & ~(uintptr_t)FH_GC_FLAGS) >> 1);
}

static inline fh_object *fh_gc_next_garbage(const fh_object *object)
{
    return fh_gc_link_of(fh_gc_head_of(object)->word);
}

/* ---- Cells and chunks ---- */

/* A container's cell has neither 0 nor a link. */
static inline bool fh_gc_has_object(uintptr_t cell)
{
    return cell != 0 && (cell & 1) == 0;
}

/* How many cells of it may have an object. */
static inline uint32_t fh_gc_cells_in_use(const struct fh_gc_chunk *chunk)
{
    return chunk->young_of != NULL ? (uint32_t)FH_GC_CHUNK_CELLS : chunk->count;
}

/* ---- When (gc.c), and the collection itself (gc_collect.c) ---- */

/* Beyond how many containers made a slot's collection is due. */
int64_t fh_gc_limit(const struct fh_gc *gc);

/* Which generation's turn it is. */
unsigned fh_gc_generation_due(const struct fh_gc *gc);

/* Collect that generation, unless a collection is under way. */
void fh_gc_collect_due(struct fh_slot *slot);

#endif
