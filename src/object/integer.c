/* SPDX-License-Identifier: MIT */
/* Integers of 64 bits. Those from -5 to 256 are there before the program begins, one object each
 * for all spaces; others come from a free list. A slab would be a little faster, but gives memory
 * back in a stopped world alone; what is beyond the list's cap goes back at once.
 */
#include "builtin_end.h"
#include "end.h"

fh_free_list fh_int_list = {
    .name = "FhIntObjects",
    .object_bytes = sizeof(struct fh_int),
    .cap = FH_INT_LIST_CAP,
    .index = FH_LISTS_INT,
};

void *fh_int_alloc(fh_type *type, size_t bytes)
{
    (void)type;
    return fh_recycle_take(fh_this_slot, FH_LISTS_INT, bytes);
}

void fh_int_free(fh_type *type, void *memory, size_t bytes)
{
    (void)type;
    (void)bytes;
    fh_recycle_give(fh_this_slot, FH_LISTS_INT, memory, FH_INT_LIST_CAP);
}

fh_type fh_int_type = {
    .name = "int",
    .basic_bytes = sizeof(struct fh_int),
    .alloc = fh_int_alloc,
    .free = fh_int_free,
    .index = FH_TYPE_INDEX_INT,
};

/* ---- Small ones -------------------------------------------------------------------------------
 */

#define SMALL(number)                                                                              \
    {                                                                                              \
        .base = {.owner = FH_OWNER_IMMORTAL, .type = &fh_int_type}, .value = (number)              \
    }
#define SMALL_4(n)  SMALL(n), SMALL((n) + 1), SMALL((n) + 2), SMALL((n) + 3)
#define SMALL_16(n) SMALL_4(n), SMALL_4((n) + 4), SMALL_4((n) + 8), SMALL_4((n) + 12)
#define SMALL_64(n) SMALL_16(n), SMALL_16((n) + 16), SMALL_16((n) + 32), SMALL_16((n) + 48)

enum { SMALL_COUNT = FH_SMALL_INT_MAX - FH_SMALL_INT_MIN + 1 };

static struct fh_int small[] = {SMALL_4(-5),   SMALL(-1),     SMALL_64(0), SMALL_64(64),
                                SMALL_64(128), SMALL_64(192), SMALL(256)};

_Static_assert(sizeof small == SMALL_COUNT * sizeof small[0], "one for each number");

static inline fh_object *begin(struct fh_slot *slot, struct fh_int *integer, int64_t value)
{
    fh_builtin_begin(slot, &integer->base, &fh_int_type, FH_TYPE_INDEX_INT);
    integer->value = value;
    return &integer->base;
}

static __attribute__((noinline)) fh_object *new_slowly(struct fh_slot *slot, int64_t value)
{
    struct fh_int *integer = fh_obj_malloc(sizeof *integer);
    return integer != NULL ? begin(slot, integer, value) : fh_object_no_memory(sizeof *integer);
}

fh_object *fh_int_new(int64_t value)
{
    uint64_t index = (uint64_t)value - (uint64_t)FH_SMALL_INT_MIN;
    if (index < SMALL_COUNT)
        return &small[index].base;
    struct fh_slot *slot = fh_this_slot;
    struct fh_int *integer = fh_dead_list_take(&slot->free_lists[FH_LISTS_INT]);
    return __builtin_expect(integer != NULL, 1) ? begin(slot, integer, value)
                                                : new_slowly(slot, value);
}

int64_t fh_int_value(const fh_object *integer)
{
    return ((const struct fh_int *)integer)->value;
}
