/* SPDX-License-Identifier: MIT */
/* The beginning of objects, inline for the types that the library brings; and who counts them. */
#ifndef FH_OBJECT_BEGIN_H
#define FH_OBJECT_BEGIN_H

#include "debug.h"
#include "end.h"
#include "space.h"

/* In front of containers, and of what must remember that its finalizer has run. */
static inline bool fh_type_has_head(const fh_type *type)
{
    return (type->flags & FH_TYPE_GC) != 0 || type->finalize != NULL;
}

/* Where objects of the type are counted in the slot; makes the place, and the type known. */
struct fh_type_counts *fh_slot_new_counts(struct fh_slot *slot, fh_type *type);

/* One thread writes it at a time; others may read it. */
static inline void fh_count_one(uint64_t *count)
{
    at_store_relaxed(count, *count + 1);
}

static inline void fh_slot_count_made(struct fh_slot *slot, fh_type *type)
{
    uint32_t index = at_load_relaxed(&type->index);
    struct fh_type_counts *chunk = slot->counts[index / FH_TYPE_CHUNK];
    if (__builtin_expect(index == 0 || chunk == NULL, 0))
        fh_count_one(&fh_slot_new_counts(slot, type)->made);
    else
        fh_count_one(&chunk[index % FH_TYPE_CHUNK].made);
}

static inline void fh_slot_count_gone(struct fh_slot *slot, fh_type *type)
{
    uint32_t index = at_load_relaxed(&type->index);
    struct fh_type_counts *chunk = slot->counts[index / FH_TYPE_CHUNK];
    if (__builtin_expect(chunk == NULL, 0))
        fh_count_one(&fh_slot_new_counts(slot, type)->gone);
    else
        fh_count_one(&chunk[index % FH_TYPE_CHUNK].gone);
}

/* The memory becomes an object with one reference, the slot's holder's. */
static inline fh_object *fh_object_begin(struct fh_slot *slot, fh_object *object, fh_type *type)
{
    object->owner = slot->owner;
    object->local = 1;
    object->shared = FH_SHARED_INIT;
    object->type = type;
    fh_slot_count_made(slot, type);
    fh_debug_begin(slot, object);
    return object;
}

#endif
