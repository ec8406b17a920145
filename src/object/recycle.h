/* SPDX-License-Identifier: MIT */
/* The short paths of recycling, for the types whose list is known when the library is compiled.
 *
 * Always, as the slot's holder sees it: length == how many objects hang on head, each linked to the
 * next by its second word.
 */
#ifndef FH_OBJECT_RECYCLE_H
#define FH_OBJECT_RECYCLE_H

#include "cache.h"
#include "space.h"

static inline void **fh_dead_next(void *memory)
{
    return (void **)memory + 1;
}

static inline void *fh_dead_list_take(struct fh_dead_list *list)
{
    void *memory = list->head;
    if (__builtin_expect(memory != NULL, 1)) {
        list->head = *fh_dead_next(memory);
        list->length--;
    }
    return memory;
}

static inline bool fh_dead_list_give(struct fh_dead_list *list, void *memory, uint32_t cap)
{
    if (__builtin_expect(list->length >= cap, 0))
        return false;
    *fh_dead_next(memory) = list->head;
    list->head = memory;
    list->length++;
    return true;
}

/* From the list of that index, else from the object domain; NULL if memory is short. */
static inline void *fh_recycle_take(struct fh_slot *slot, uint32_t index, size_t bytes)
{
    void *memory = fh_dead_list_take(&slot->free_lists[index]);
    return __builtin_expect(memory != NULL, 1) ? memory : fh_obj_malloc(bytes);
}

static inline void fh_recycle_give(struct fh_slot *slot, uint32_t index, void *memory, uint32_t cap)
{
    if (!fh_dead_list_give(&slot->free_lists[index], memory, cap))
        fh_obj_free(memory);
}

#endif
