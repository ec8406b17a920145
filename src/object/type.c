/* SPDX-License-Identifier: MIT */
/* Types get an index when their first object is made, by which slots count their objects. */
#include "begin.h"
#include "builtin.h"
#include "weak.h"

fh_type *fh_types[FH_OBJECT_TYPES_MAX] = {
    [FH_TYPE_INDEX_INT] = &fh_int_type,         [FH_TYPE_INDEX_STRING] = &fh_string_type,
    [FH_TYPE_INDEX_LIST] = &fh_list_type,       [FH_TYPE_INDEX_DICT] = &fh_dict_type,
    [FH_TYPE_INDEX_WEAKREF] = &fh_weakref_type,
};

static uint32_t used_count; /* indexes given out beyond the fixed ones */

uint32_t fh_types_count(void)
{
    uint32_t count = at_load_relaxed(&used_count) + FH_TYPE_INDEX_FIRST_FREE;
    return count < FH_OBJECT_TYPES_MAX ? count : FH_OBJECT_TYPES_MAX;
}

/* 0 if there are too many. Two threads may give out two: one of these stays without a type. */
static uint32_t new_index(void)
{
    uint32_t used = at_load_relaxed(&used_count);
    do {
        if (used + FH_TYPE_INDEX_FIRST_FREE >= FH_OBJECT_TYPES_MAX)
            return FH_TYPE_INDEX_OTHER;
    } while (!at_cas_relaxed(&used_count, &used, used + 1));
    return used + FH_TYPE_INDEX_FIRST_FREE;
}

static uint32_t index_of(fh_type *type)
{
    uint32_t index = at_load_relaxed(&type->index), mine;
    if (index != 0 || (mine = new_index()) == 0)
        return index;
    if (!at_cas_relaxed(&type->index, &index, mine))
        return index;
    /* release: the type's fields, to who reads statistics. */
    at_store_release(&fh_types[mine], type);
    return mine;
}

struct fh_type_counts *fh_slot_new_counts(struct fh_slot *slot, fh_type *type)
{
    uint32_t index = index_of(type);
    struct fh_type_counts **at = &slot->counts[index / FH_TYPE_CHUNK];
    if (*at == NULL) {
        /* release: the zeros, to who reads statistics. */
        at_store_release(at, fh_raw_calloc(FH_TYPE_CHUNK, sizeof **at));
    }
    return *at != NULL ? &(*at)[index % FH_TYPE_CHUNK] : slot->first_counts;
}
