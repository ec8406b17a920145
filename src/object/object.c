/* SPDX-License-Identifier: MIT */
/* Objects: their making and their end. */
#include "end.h"

#include <errno.h>
#include <string.h>

#include "begin.h"
#include "builtin_end.h"
#include "count.h"
#include "weak.h"

enum { DEPTH_MAX = 50 }; /* dealloc calls inside of each other */

static __thread unsigned depth;
static __thread fh_object *later; /* dead objects beyond it */

/* ---- Memory ---- */

void *fh_object_no_memory(size_t bytes)
{
    const fh_space_config *config = &fh_slot_needed("fh_object_new", NULL)->space->config;
    if (config->out_of_memory != NULL)
        config->out_of_memory(config->context, bytes);
    errno = ENOMEM;
    return NULL;
}

/* 0: more than there can be. */
static size_t bytes_of(const fh_type *type, size_t count)
{
    size_t items, bytes;
    if (__builtin_mul_overflow(count, type->item_bytes, &items) ||
        __builtin_add_overflow(items, type->basic_bytes, &bytes) || bytes > PTRDIFF_MAX - 32)
        return 0;
    return (bytes + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
}

static size_t head_bytes(const fh_type *type)
{
    return fh_type_has_head(type) ? sizeof(struct fh_gc_head) : 0;
}

static void *take_memory(fh_type *type, size_t bytes)
{
    void *memory = type->alloc != NULL ? type->alloc(type, bytes) : fh_obj_malloc(bytes);
    return memory != NULL ? memory : fh_object_no_memory(bytes);
}

static void free_memory(fh_type *type, void *memory, size_t bytes)
{
    if (type->free != NULL)
        type->free(type, memory, bytes);
    else
        fh_obj_free(memory);
}

static size_t object_bytes(const fh_object *object)
{
    const fh_type *type = object->type;
    return bytes_of(type, type->item_bytes != 0 ? ((const fh_var_object *)object)->count : 0);
}

void fh_object_free_memory(fh_object *object)
{
    fh_type *type = object->type;
    size_t head = head_bytes(type);
    void *memory = (char *)object - head;
    if (type->free == NULL)
        fh_obj_free(memory); /* it need not know how many bytes */
    else
        type->free(type, memory, head + object_bytes(object));
}

/* ---- Making ---- */

static bool has_zeros(const fh_type *type)
{
    return type->weak_offset != 0 || fh_type_has_head(type);
}

/* Of so many bytes, with its head. */
static fh_object *make(fh_type *type, size_t bytes)
{
    struct fh_slot *slot = fh_slot_needed("fh_object_new", type);
    size_t head = head_bytes(type);
    char *memory = bytes == 0 ? fh_object_no_memory(SIZE_MAX) : take_memory(type, head + bytes);
    if (memory == NULL)
        return NULL;
    if (has_zeros(type))
        memset(memory, 0, head + bytes);
    fh_object *object = (fh_object *)(void *)(memory + head);
    if ((type->flags & FH_TYPE_GC) != 0 && !fh_gc_enroll(slot, &slot->gc, object, 0)) {
        free_memory(type, memory, head + bytes);
        return fh_object_no_memory(head + bytes);
    }
    return fh_object_begin(fh_this_slot, object, type);
}

fh_object *fh_object_new_var(fh_type *type, size_t count)
{
    fh_object *object = make(type, bytes_of(type, count));
    if (object != NULL && type->item_bytes != 0)
        ((fh_var_object *)object)->count = count;
    return object;
}

fh_object *fh_object_new(fh_type *type)
{
    return fh_object_new_var(type, 0);
}

fh_object *fh_object_init(fh_object *object, fh_type *type)
{
    if (object == NULL)
        return NULL;
    if (fh_type_has_head(type)) { /* there is none in front of the caller's memory */
        errno = EINVAL;
        return NULL;
    }
    if (type->weak_offset != 0)
        *fh_weak_place(object, type) = NULL;
    return fh_object_begin(fh_slot_needed("fh_object_init", object), object, type);
}

fh_object *fh_object_init_var(fh_var_object *object, fh_type *type, size_t count)
{
    fh_object *made = fh_object_init((fh_object *)object, type);
    if (made != NULL)
        object->count = count;
    return made;
}

/* ---- Another size ---- */

/* Others may be looking at it, to compare. */
static bool is_interned(const fh_object *object)
{
    return object->type == &fh_string_type && at_load_relaxed(&fh_string_of(object)->interned) != 0;
}

static bool may_resize(const fh_object *object)
{
    fh_type *type = object->type;
    return type->item_bytes != 0 && fh_refcount(object) == 1 && !is_interned(object) &&
           !((type->flags & FH_TYPE_GC) != 0 && fh_gc_has_flag(object, FH_GC_TRACKED)) &&
           (type->weak_offset == 0 || *fh_weak_place(object, type) == NULL);
}

/* As realloc(), for types with memory of their own too. */
static void *move_memory(fh_type *type, void *memory, size_t old_bytes, size_t new_bytes)
{
    if (type->alloc == NULL) {
        void *moved = fh_obj_realloc(memory, new_bytes);
        return moved != NULL ? moved : fh_object_no_memory(new_bytes);
    }
    void *moved = take_memory(type, new_bytes);
    if (moved == NULL)
        return NULL;
    memcpy(moved, memory, old_bytes < new_bytes ? old_bytes : new_bytes);
    free_memory(type, memory, old_bytes);
    return moved;
}

/* Its text is another one from now on. */
static void end_text(struct fh_string *string)
{
    string->hash = 0;
    string->text[string->base.count] = 0;
}

fh_object *fh_object_resize(fh_object *object, size_t count)
{
    if (!may_resize(object)) {
        errno = EINVAL;
        return NULL;
    }
    fh_type *type = object->type;
    size_t head = head_bytes(type), old = object_bytes(object), bytes = bytes_of(type, count);
    if (bytes == 0)
        return fh_object_no_memory(SIZE_MAX);
    fh_debug_hide(object);
    char *moved = move_memory(type, (char *)object - head, head + old, head + bytes);
    if (moved != NULL)
        object = (fh_object *)(void *)(moved + head);
    fh_debug_show(object);
    if (moved == NULL)
        return NULL;
    if (has_zeros(type) && bytes > old)
        memset((char *)object + old, 0, bytes - old);
    if ((type->flags & FH_TYPE_GC) != 0)
        fh_gc_moved(object);
    ((fh_var_object *)object)->count = count;
    if (type == &fh_string_type)
        end_text(fh_string_of(object));
    return object;
}

/* ---- The end ----
 *
 * Who finds an object dead has it alone, and untracks it before anything else runs. It waits in the
 * thread's list if others' ends are nested too deeply here, linked through `shared`: as a count
 * below 0 and MERGED, so that it stays dead to readers of its weak block. `local` keeps whether it
 * was tracked.
 */

static bool untrack(fh_object *object)
{
    if ((object->type->flags & FH_TYPE_GC) == 0 || !fh_gc_has_flag(object, FH_GC_TRACKED))
        return false;
    fh_gc_unset_flag(object, FH_GC_TRACKED);
    return true;
}

static int64_t link_to(fh_object *object)
{
    return -(int64_t)(uintptr_t)object | FH_SHARED_MERGED;
}

static fh_object *link_of(int64_t shared)
{
    return (fh_object *)(uintptr_t)(-(shared & ~(int64_t)FH_SHARED_STATE));
}

static void put_off(fh_object *object, bool was_tracked)
{
    at_store_relaxed(&object->owner, FH_OWNER_NONE);
    at_store_relaxed(&object->local, (uint32_t)was_tracked);
    at_store_relaxed(&object->shared, link_to(later));
    later = object;
}

void fh_object_end_later(fh_object *object)
{
    put_off(object, untrack(object));
}

/* Once in its life. False if it lives on. */
static bool finalize(fh_object *object, bool was_tracked)
{
    if (fh_gc_has_flag(object, FH_GC_FINALIZED))
        return true;
    fh_gc_set_flag(object, FH_GC_FINALIZED);
    fh_object_revive(object);
    if (was_tracked)
        fh_gc_set_flag(object, FH_GC_TRACKED);
    object->type->finalize(object);
    if (!fh_object_drop(object))
        return false;
    untrack(object);
    return true;
}

static void end_any(fh_object *object, bool was_tracked)
{
    fh_type *type = object->type;
    if (type->finalize != NULL && !finalize(object, was_tracked))
        return;
    struct fh_weak_block *block = type->weak_offset != 0 ? fh_weak_end(object) : NULL;
    if ((type->flags & FH_TYPE_GC) != 0)
        fh_gc_dead(&fh_this_slot->gc, object);
    if (type->dealloc != NULL)
        type->dealloc(object);
    fh_debug_hide(object);
    fh_slot_count_gone(fh_this_slot, type);
    if (block == NULL || fh_weak_bury(block))
        fh_object_free_memory(object);
}

static void end(fh_object *object, bool was_tracked)
{
    depth++;
    if (object->type == &fh_list_type)
        fh_list_end(object);
    else
        end_any(object, was_tracked);
    depth--;
}

static fh_object *take_later(bool *was_tracked)
{
    fh_object *object = later;
    later = link_of(at_load_relaxed(&object->shared));
    *was_tracked = object->local != 0;
    at_store_relaxed(&object->local, 0u);
    at_store_relaxed(&object->shared, (int64_t)FH_SHARED_MERGED);
    return object;
}

void fh_object_run_later(void)
{
    if (depth > 0)
        return; /* the outermost end comes to it */
    while (later != NULL) {
        bool was_tracked;
        fh_object *object = take_later(&was_tracked);
        end(object, was_tracked);
    }
}

void fh_object_end(fh_object *object)
{
    if (fh_builtin_end(object))
        return;
    bool was_tracked = untrack(object);
    if (depth >= DEPTH_MAX) {
        put_off(object, was_tracked);
        return;
    }
    end(object, was_tracked);
    if (__builtin_expect(later != NULL, 0))
        fh_object_run_later();
}

/* ---- Immortal ---- */

void fh_object_make_immortal(fh_object *object)
{
    if (fh_object_is_immortal(object))
        return;
    struct fh_slot *slot = fh_slot_needed("fh_object_make_immortal", object);
    fh_debug_forget(object);
    /* relaxed: the only holder passes it on, and what comes after this. */
    at_store_relaxed(&object->owner, FH_OWNER_IMMORTAL);
    fh_slot_count_gone(slot, object->type);
}

int fh_object_is_immortal(const fh_object *object)
{
    return at_load_relaxed(&object->owner) == FH_OWNER_IMMORTAL;
}
