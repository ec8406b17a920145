/* SPDX-License-Identifier: MIT */
/* The beginning and the end of objects of the library's own types, without looking into the type.
 */
#ifndef FH_OBJECT_BUILTIN_END_H
#define FH_OBJECT_BUILTIN_END_H

#include "begin.h"
#include "builtin.h"
#include "recycle.h"

/* As fh_object_begin(), of a type with that index below FH_TYPE_INDEX_FIRST_FREE. */
static inline void fh_builtin_begin(struct fh_slot *slot, fh_object *object, fh_type *type,
                                    unsigned index)
{
    object->owner = slot->owner;
    object->local = 1;
    object->shared = FH_SHARED_INIT;
    object->type = type;
    fh_count_one(&slot->first_counts[index].made);
    fh_debug_begin(slot, object);
}

/* The end of an integer or a string, to which nothing but memory belongs: no head, no finalizer, no
 * weak references, and nothing to drop. False of other objects. */
static inline bool fh_builtin_end(fh_object *object)
{
    struct fh_slot *slot = fh_this_slot;
    if (object->type == &fh_int_type) {
        fh_debug_hide(object);
        fh_count_one(&slot->first_counts[FH_TYPE_INDEX_INT].gone);
        fh_recycle_give(slot, FH_LISTS_INT, object, FH_INT_LIST_CAP);
        return true;
    }
    if (object->type == &fh_string_type) {
        fh_debug_hide(object);
        fh_count_one(&slot->first_counts[FH_TYPE_INDEX_STRING].gone);
        fh_string_end(object);
        return true;
    }
    return false;
}

#endif
