/* SPDX-License-Identifier: MIT */
/* The debug build: who lives, how many references there are, and which object has fewer than none.
 */
#include "debug.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "count.h"
#include "end.h"

#if defined(FH_REF_DEBUG)

/* ---- All live objects: a ring, whose head is the space's `live`; none if that is NULL ---- */

static fh_space *lock_live(fh_object *object)
{
    fh_space *space = fh_slot_needed("fh_object_new", object)->space;
    pthread_mutex_lock(&space->live_mutex);
    return space;
}

void fh_debug_show(fh_object *object)
{
    fh_space *space = lock_live(object);
    fh_object *next = space->live != NULL ? space->live : object;
    object->debug_next = next;
    object->debug_previous = next == object ? object : next->debug_previous;
    object->debug_previous->debug_next = object;
    next->debug_previous = object;
    space->live = object;
    pthread_mutex_unlock(&space->live_mutex);
}

void fh_debug_hide(fh_object *object)
{
    fh_space *space = lock_live(object);
    if (object->debug_next == object) {
        space->live = NULL;
    } else {
        object->debug_next->debug_previous = object->debug_previous;
        object->debug_previous->debug_next = object->debug_next;
        if (space->live == object)
            space->live = object->debug_next;
    }
    pthread_mutex_unlock(&space->live_mutex);
}

/* ---- The sum ---- */

static void add(struct fh_slot *slot, int64_t references)
{
    at_store_relaxed(&slot->ref_total, slot->ref_total + references);
}

void fh_debug_count(int64_t references)
{
    add(fh_this_slot, references);
}

void fh_debug_begin(struct fh_slot *slot, fh_object *object)
{
    add(slot, 1);
    fh_debug_show(object);
}

void fh_debug_forget(fh_object *object)
{
    add(fh_this_slot, -fh_refcount(object));
    fh_debug_hide(object);
}

int64_t fh_ref_total(void)
{
    int64_t total = 0;
    fh_space *space = fh_slot_needed("fh_ref_total", NULL)->space;
    /* acquire: the slots, from list() in slot.c. */
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next)
        total += at_load_relaxed(&slot->ref_total);
    return total;
}

static int write_one(int fd, const fh_object *object)
{
    return dprintf(fd, "%p [%" PRId64 "] %s\n", (const void *)object, fh_refcount(object),
                   object->type->name);
}

int fh_ref_write_all(int fd)
{
    fh_space *space = lock_live(NULL);
    fh_object *object = space->live;
    int written = 0;
    while (object != NULL && written >= 0) {
        written = write_one(fd, object);
        object = object->debug_next != space->live ? object->debug_next : NULL;
    }
    pthread_mutex_unlock(&space->live_mutex);
    return written < 0 ? -1 : 0;
}

/* ---- Counting ---- */

static const uint32_t DEAD_BYTES = 0xdddddddd; /* what the debug hooks fill freed memory with */

__attribute__((noreturn, cold)) static void fail(const fh_object *object, const char *file,
                                                 int line)
{
    fprintf(stderr, "%s:%d: fh_decref: Assertion failed: object has negative ref count\n", file,
            line);
    if (object->owner == DEAD_BYTES)
        fprintf(stderr, "<object at %p is freed>\n", (const void *)object);
    else
        fprintf(stderr,
                "object address  : %p\nobject refcount : %" PRId64
                "\nobject type     : %p\nobject type name: %s\n",
                (const void *)object, fh_refcount(object) - 1, (const void *)object->type,
                object->type == NULL ? "NULL" : object->type->name);
    fprintf(stderr, "\nFatal Freehold error: fh_object_assert_failed\n");
    abort();
}

void fh_object_incref_at(fh_object *object, const char *file, int line)
{
    (void)file, (void)line;
    if (fh_object_is_immortal(object))
        return;
    add(fh_slot_needed("fh_incref", object), 1);
    if (object->owner == fh_object_this_owner && object->local != UINT32_MAX)
        at_store_relaxed(&object->local, object->local + 1);
    else
        fh_object_incref_shared(object);
}

void fh_object_decref_at(fh_object *object, const char *file, int line)
{
    if (fh_object_is_immortal(object))
        return;
    add(fh_slot_needed("fh_decref", object), -1);
    if (fh_refcount(object) <= 0)
        fail(object, file, line);
    if (at_load_relaxed(&object->owner) != fh_object_this_owner)
        fh_object_decref_shared(object);
    else if (fh_object_drop(object))
        fh_object_end(object);
}

#else

int64_t fh_ref_total(void)
{
    errno = ENOTSUP;
    return -1;
}

int fh_ref_write_all(int fd)
{
    (void)fd;
    errno = ENOTSUP;
    return -1;
}

#endif
