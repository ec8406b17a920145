/* SPDX-License-Identifier: MIT */
/* Reference counts beyond the inline fast path, and the queues of a slot.
 *
 * An object's references are `local` plus the count in `shared`. Its owner, the holder of the slot
 * that it was made by, counts in `local` without atomic operations; everybody else in `shared`.
 *
 *   INIT, WEAK   the count is that of others, 0 or more; never below, since who would take it below
 *                drops a reference that `local` counts, and gives that to the owner's queue
 * instead: QUEUED       the owner's queue holds one reference; the count may be below 0 MERGED
 * owner is FH_OWNER_NONE and `local` is 0: the count is all there is
 *
 *   INIT -> WEAK                   fh_object_may_be_found()
 *   INIT or WEAK -> QUEUED         fh_object_decref_shared(): count 0, a reference less
 *   any -> MERGED                  fh_object_last_local(): the owner's count is 0
 *   QUEUED or MERGED -> MERGED     the queue is drained: local added, the queue's reference dropped
 *
 * The object goes when the owner finds its last local reference gone and `shared` INIT with count
 * 0: no other thread can come by any more, so a load is enough. Or by the CAS that makes `shared`
 * MERGED with count 0. Nobody else ever touches it then, but readers of its weak block.
 */
#ifndef FH_OBJECT_COUNT_H
#define FH_OBJECT_COUNT_H

#include "space.h"

/* A new reference to an object that may be going at this moment; false if it is. It must have been
 * said to fh_object_may_be_found(), and its memory must be kept by whoever calls (see weak.h). */
bool fh_object_try_incref(fh_object *object);

/* By a holder of a reference: from now on others may find the object and try. */
void fh_object_may_be_found(fh_object *object);

/* One reference less. True if it was the last: then the caller alone has the object. */
bool fh_object_drop(fh_object *object);

/* As fh_decref(), for many in a row: `owner` is fh_object_this_owner, which stays in a register.
 * Returns what it is from then on, since the end of an object may have changed it. */
#if defined(FH_REF_DEBUG)
static inline uint32_t fh_object_drop_as(uint32_t owner, fh_object *object)
{
    (void)owner;
    fh_decref(object);
    return fh_object_this_owner;
}
#else
static inline uint32_t fh_object_drop_as(uint32_t owner, fh_object *object)
{
    if (__builtin_expect(at_load_relaxed(&object->owner) != owner, 0)) {
        fh_object_decref_shared(object);
        return fh_object_this_owner;
    }
    uint32_t left = object->local - 1;
    at_store_relaxed(&object->local, left);
    if (__builtin_expect(left != 0, 1))
        return owner;
    fh_object_last_local(object);
    return fh_object_this_owner;
}
#endif

/* The last reference was dropped, and yet there shall be one again: the caller's. */
void fh_object_revive(fh_object *object);

/* Is it dead, as fh_object_try_incref() sees it? */
static inline bool fh_shared_is_dead(int64_t shared)
{
    return (shared & FH_SHARED_STATE) == FH_SHARED_MERGED && shared <= FH_SHARED_MERGED;
}

/* By the holder: merge what others have queued. Runs no code of types: what dies waits for
 * fh_object_run_later(). */
void fh_queue_drain(struct fh_slot *slot);

/* Drain a slot without a holder, if there is something in its queue; by an attached thread. */
void fh_queue_settle(struct fh_slot *slot);

/* So many nodes that references can be queued for a while without memory. False: memory is short.
 */
bool fh_queue_stock(struct fh_slot *slot);
void fh_queue_unstock(struct fh_slot *slot);

#endif
