/* SPDX-License-Identifier: MIT */
/* Lists: a header, from a free list, and an array of items from the mem domain with room to grow.
 * Arrays of the first three sizes that a growing list passes through are kept in free lists too.
 *
 * Always: count <= allocated, and the items below count are references or NULL. Whatever leaves a
 * list is dropped when that holds again, since dropping runs anybody's code.
 */
#include <errno.h>
#include <string.h>

#include "builtin_end.h"
#include "count.h"
#include "end.h"

/* What a list that grows goes through at each eighth of its items. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { ITEM_BYTES = sizeof(void *), DOUBLING_BYTES_MAX = 8192 };
enum { LIST_CAP = 80, MEMORY_BYTES = sizeof(struct fh_gc_head) + sizeof(struct fh_list) };

fh_free_list fh_list_list = {
    .name = "FhListObjects",
    .object_bytes = MEMORY_BYTES,
    .cap = LIST_CAP,
    .index = FH_LISTS_LIST,
};

static struct fh_list *its(const fh_object *list)
{
    return (struct fh_list *)(uintptr_t)list;
}

/* ---- Arrays -----------------------------------------------------------------------------------
 */

#define ITEMS_LIST(number, count)                                                                  \
    {                                                                                              \
        .name = "FhListItems", .object_bytes = (count)*ITEM_BYTES, .cap = LIST_CAP,                \
        .index = FH_LISTS_ITEMS + (number)                                                         \
    }

fh_free_list fh_items_lists[3] = {ITEMS_LIST(0, 4), ITEMS_LIST(1, 8), ITEMS_LIST(2, 16)};

static inline bool is_kept(size_t allocated)
{
    return allocated == 4 || allocated == 8 || allocated == 16;
}

static inline struct fh_dead_list *kept_of(struct fh_slot *slot, size_t allocated)
{
    return &slot->free_lists[FH_LISTS_ITEMS + allocated / 8];
}

/* NULL is no array. `slot` may be NULL, for a thread that is not attached. */
static inline void give_items(struct fh_slot *slot, fh_object **items, size_t allocated)
{
    if (items == NULL || (is_kept(allocated) && slot != NULL &&
                          fh_dead_list_give(kept_of(slot, allocated), items, LIST_CAP)))
        return;
    fh_mem_free(items);
}

/* Into an array of a kept size, larger than the list's own. */
static inline bool move_items(struct fh_slot *slot, struct fh_list *list, size_t allocated)
{
    fh_object **items = fh_dead_list_take(kept_of(slot, allocated));
    if (items == NULL && (items = fh_mem_malloc(allocated * ITEM_BYTES)) == NULL)
        return false;
    if (list->items != NULL)
        memcpy(items, list->items, list->count * ITEM_BYTES);
    give_items(slot, list->items, list->allocated);
    list->items = items;
    list->allocated = allocated;
    return true;
}

/* ---- Room -------------------------------------------------------------------------------------
 */

static int growth = FH_LIST_GROWTH_39; /* atomic */

int fh_list_set_growth(int rule)
{
    if (rule != FH_LIST_GROWTH_38 && rule != FH_LIST_GROWTH_39) {
        errno = EINVAL;
        return -1;
    }
    at_store_relaxed(&growth, rule); /* nothing comes with it */
    return 0;
}

/* For how many items there will be room when there are to be so many, at least one. */
static size_t room_for(size_t count)
{
    if (at_load_relaxed(&growth) == FH_LIST_GROWTH_39)
        return (count + (count >> 3) + 6) & ~(size_t)3;
    return count + (count >> 3) + (count < 9 ? 3 : 6);
}

static int no_room(size_t count)
{
    fh_object_no_memory(count > SIZE_MAX / ITEM_BYTES ? SIZE_MAX : count * ITEM_BYTES);
    return -1;
}

/* What an array takes. Beyond 16 items, and if it is a multiple of 4 as growing makes them, that is
 * 2^n bytes, or the next quarter of 2^n where it would be much: so a list that grows by an eighth
 * each time has to move only now and then. */
static inline size_t array_bytes(size_t allocated)
{
    size_t bytes = allocated * ITEM_BYTES;
    if (allocated <= 16 || allocated % 4 != 0)
        return bytes;
    int quarter = bytes > DOUBLING_BYTES_MAX ? 2 : 0;
    size_t step = (size_t)1 << (63 - __builtin_clzll(bytes - 1) - quarter);
    return (bytes + step - 1) & ~(step - 1);
}

ALWAYS_INLINE bool try_room(struct fh_list *list, size_t allocated)
{
    if (allocated > PTRDIFF_MAX / ITEM_BYTES / 2)
        return false;
    size_t bytes = array_bytes(allocated);
    if (list->items == NULL || bytes != array_bytes(list->allocated)) {
        fh_object **items = fh_mem_realloc(list->items, bytes);
        if (items == NULL)
            return false;
        list->items = items;
    }
    list->allocated = allocated;
    return true;
}

ALWAYS_INLINE int set_room(struct fh_list *list, size_t allocated)
{
    return try_room(list, allocated) ? 0 : no_room(allocated);
}

/* Room for one item more. */
ALWAYS_INLINE int grow(struct fh_list *list)
{
    struct fh_slot *slot = fh_this_slot;
    size_t count = list->count + 1;
    if (count <= list->allocated)
        return 0;
    size_t room = room_for(count);
    if (is_kept(room) && slot != NULL)
        return move_items(slot, list, room) ? 0 : no_room(room);
    return set_room(list, room);
}

static void shrink_to_nothing(struct fh_list *list)
{
    give_items(fh_this_slot, list->items, list->allocated);
    list->items = NULL;
    list->allocated = 0;
}

/* After items left: an array of which less than half is used becomes smaller. That it stays where
 * memory is short is no failure. */
static void shrink(struct fh_list *list)
{
    int before = errno;
    if (list->count == 0)
        shrink_to_nothing(list);
    else if (list->count < list->allocated / 2 && !try_room(list, room_for(list->count)))
        errno = before;
}

/* ---- Making -----------------------------------------------------------------------------------
 */

void *fh_list_alloc(fh_type *type, size_t bytes)
{
    (void)type;
    return fh_recycle_take(fh_this_slot, FH_LISTS_LIST, bytes);
}

void fh_list_free(fh_type *type, void *memory, size_t bytes)
{
    (void)type;
    (void)bytes;
    fh_recycle_give(fh_this_slot, FH_LISTS_LIST, memory, LIST_CAP);
}

static struct fh_list *new_empty(void)
{
    struct fh_slot *slot = fh_this_slot;
    char *memory = fh_recycle_take(slot, FH_LISTS_LIST, MEMORY_BYTES);
    if (memory == NULL)
        return fh_object_no_memory(MEMORY_BYTES);

    struct fh_list *list = (struct fh_list *)(memory + sizeof(struct fh_gc_head));
    if (!fh_gc_enroll(slot, &slot->gc, &list->base, FH_GC_TRACKED)) {
        fh_obj_free(memory);
        return fh_object_no_memory(MEMORY_BYTES);
    }
    fh_builtin_begin(slot, &list->base, &fh_list_type, FH_TYPE_INDEX_LIST);
    list->count = 0;
    list->items = NULL;
    list->allocated = 0;
    return list;
}

fh_object *fh_list_new(size_t count)
{
    struct fh_list *list = new_empty();
    if (list == NULL || count == 0)
        return &list->base;
    if (set_room(list, count) != 0) {
        fh_decref(&list->base);
        return NULL;
    }
    memset(list->items, 0, count * ITEM_BYTES);
    list->count = count;
    return &list->base;
}

/* ---- The collector's ----------------------------------------------------------------------------
 */

/* From the rear, as CPython does: the first items are often the oldest. */
static void drop_items(fh_object **items, size_t count)
{
    uint32_t owner = fh_object_this_owner;
    while (count > 0) {
        fh_object *item = items[--count];
        if (item != NULL)
            owner = fh_object_drop_as(owner, item);
    }
}

/* As object.c does it for any type, with what is known of this one. */
void fh_list_end(fh_object *object)
{
    struct fh_list *list = its(object);
    fh_gc_dead(&fh_this_slot->gc, object);
    drop_items(list->items, list->count);
    struct fh_slot *slot = fh_this_slot; /* which an item's end may have changed */
    give_items(slot, list->items, list->allocated);
    fh_debug_hide(object);
    fh_count_one(&slot->first_counts[FH_TYPE_INDEX_LIST].gone);
    fh_recycle_give(slot, FH_LISTS_LIST, fh_gc_head_of(object), LIST_CAP);
}

static void list_clear(fh_object *self)
{
    struct fh_list *list = its(self);
    fh_object **items = list->items;
    size_t count = list->count, allocated = list->allocated;
    list->items = NULL;
    list->count = list->allocated = 0;
    drop_items(items, count);
    give_items(fh_this_slot, items, allocated);
}

static int list_traverse(fh_object *self, fh_visit visit, void *context)
{
    struct fh_list *list = its(self);
    int result = 0;
    for (size_t i = 0; i < list->count && result == 0; i++)
        if (list->items[i] != NULL)
            result = visit(list->items[i], context);
    return result;
}

fh_type fh_list_type = {
    .name = "list",
    .basic_bytes = sizeof(struct fh_list),
    .flags = FH_TYPE_GC,
    .alloc = fh_list_alloc,
    .free = fh_list_free,
    .traverse = list_traverse,
    .clear = list_clear,
    .index = FH_TYPE_INDEX_LIST,
};

/* ---- Items --------------------------------------------------------------------------------------
 */

size_t fh_list_count(const fh_object *list)
{
    return its(list)->count;
}

size_t fh_list_allocated(const fh_object *list)
{
    return its(list)->allocated;
}

fh_object *fh_list_get(const fh_object *list, size_t index)
{
    if (index < its(list)->count)
        return its(list)->items[index];
    errno = EINVAL;
    return NULL;
}

int fh_list_set(fh_object *list, size_t index, fh_object *item)
{
    fh_object *old = item;
    int result = -1;
    if (index < its(list)->count) {
        old = its(list)->items[index];
        its(list)->items[index] = item;
        result = 0;
    }
    fh_xdecref(old);
    if (result != 0)
        errno = EINVAL;
    return result;
}

static __attribute__((noinline)) int append_slowly(struct fh_list *list, fh_object *item)
{
    if (grow(list) != 0)
        return -1;
    list->items[list->count++] = fh_new_ref(item);
    return 0;
}

int fh_list_append(fh_object *object, fh_object *item)
{
    struct fh_list *list = its(object);
    size_t count = list->count;
    if (__builtin_expect(count >= list->allocated, 0))
        return append_slowly(list, item);
    /* The count comes last, when nothing else is kept in registers: so this needs no stack frame.
     */
    list->items[count] = item;
    list->count = count + 1;
    fh_incref(item);
    return 0;
}

int fh_list_insert(fh_object *object, size_t index, fh_object *item)
{
    struct fh_list *list = its(object);
    if (grow(list) != 0)
        return -1;
    if (index > list->count)
        index = list->count;
    fh_object **at = &list->items[index];
    memmove(at + 1, at, (list->count - index) * ITEM_BYTES);
    *at = fh_new_ref(item);
    list->count++;
    return 0;
}

/* ---- Deleting -----------------------------------------------------------------------------------
 */

enum { FEW_ITEMS = 16 };

/* Take out the items, which somebody has a copy of. */
static void take_out(struct fh_list *list, size_t begin, size_t end)
{
    memmove(&list->items[begin], &list->items[end], (list->count - end) * ITEM_BYTES);
    list->count -= end - begin;
    shrink(list);
}

int fh_list_delete(fh_object *object, size_t begin, size_t end)
{
    struct fh_list *list = its(object);
    fh_object *few[FEW_ITEMS], **gone = few;
    if (begin > end || end > list->count) {
        errno = EINVAL;
        return -1;
    }
    size_t count = end - begin;
    if (count > FEW_ITEMS && (gone = fh_mem_malloc(count * ITEM_BYTES)) == NULL)
        return no_room(count);
    if (count > 0) {
        memcpy(gone, &list->items[begin], count * ITEM_BYTES);
        take_out(list, begin, end);
        drop_items(gone, count);
    }
    if (gone != few)
        fh_mem_free(gone);
    return 0;
}
