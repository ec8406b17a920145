/* SPDX-License-Identifier: MIT */
/* Weak references. */
#include "weak.h"

#include <errno.h>

#include "begin.h"
#include "count.h"
#include "end.h"

enum { PRUNE_FIRST = 16 };

struct weakref {
    fh_object base;
    struct fh_weak_block *own;    /* its weak_offset */
    struct fh_weak_block *target; /* never NULL once it is made */
};

static int traverse_nothing(fh_object *self, fh_visit visit, void *context)
{
    (void)self, (void)visit, (void)context;
    return 0;
}

static void dealloc_weakref(fh_object *self)
{
    struct weakref *weakref = (struct weakref *)self;
    if (weakref->target != NULL)
        fh_weak_block_drop(weakref->target);
}

/* A container, of nothing, so that a collection knows which of them are garbage. */
fh_type fh_weakref_type = {
    .name = "weakref",
    .basic_bytes = sizeof(struct weakref),
    .flags = FH_TYPE_GC,
    .weak_offset = offsetof(struct weakref, own),
    .dealloc = dealloc_weakref,
    .traverse = traverse_nothing,
    .index = FH_TYPE_INDEX_WEAKREF,
};

/* ---- Blocks ---- */

static struct fh_weak_block *new_block(fh_object *object)
{
    struct fh_weak_block *block = fh_raw_calloc(1, sizeof *block);
    if (block == NULL)
        return fh_object_no_memory(sizeof *block);
    block->target = object;
    block->references = 1;
    block->prune_count = PRUNE_FIRST;
    return block;
}

struct fh_weak_block *fh_weak_block_of(fh_object *object)
{
    struct fh_weak_block **place = fh_weak_place(object, object->type);
    /* acquire: the block's fields, from whose CAS below put it there. */
    struct fh_weak_block *block = at_load_acquire(place), *mine = NULL;
    if (block == NULL) {
        if ((mine = new_block(object)) == NULL)
            return NULL;
        fh_object_may_be_found(object);
        if (at_cas_acq_rel(place, &block, mine)) /* release: its fields, to the load above */
            block = mine;
        else
            fh_raw_free(mine);
    }
    at_fetch_add_relaxed(&block->references, 1u); /* the object has one as long as it lives */
    return block;
}

void fh_weak_block_drop(struct fh_weak_block *block)
{
    /* release: this holder's uses of it, to who frees it. acquire: the others'. */
    if (at_fetch_sub_acq_rel(&block->references, 1u) == 1)
        fh_raw_free(block);
}

fh_object *fh_weak_block_get(struct fh_weak_block *block)
{
    if (!fh_weak_enter(&block->word))
        return NULL;
    fh_object *object = block->target;
    bool found = fh_object_try_incref(object);
    if (fh_weak_leave(&block->word))
        fh_object_free_memory(object);
    return found ? object : NULL;
}

/* ---- Callbacks ---- */

static void push_calls(struct fh_weak_block *block, struct fh_weak_call *first,
                       struct fh_weak_call *last)
{
    last->next = at_load_relaxed(&block->calls);
    /* release: the calls, to take_calls(). */
    while (!at_cas_release(&block->calls, &last->next, first))
        ;
}

static struct fh_weak_call *take_calls(struct fh_weak_block *block)
{
    return at_exchange_acquire(&block->calls, NULL); /* acquire: from push_calls() */
}

static void free_call(struct fh_weak_call *call)
{
    fh_weak_block_drop(call->weakref);
    fh_raw_free(call);
}

static bool is_over(const struct fh_weak_call *call)
{
    return (at_load_relaxed(&call->weakref->word.word) & FH_WEAK_DEAD) != 0;
}

/* Free the calls of weak references that are gone: a target that outlives many of them must not
 * gather these for ever. The caller has the target, so its end does not come meanwhile. */
static void prune(struct fh_weak_block *block)
{
    struct fh_weak_call *call = take_calls(block), *first = NULL, *last = NULL;
    uint32_t kept = 0;
    while (call != NULL) {
        struct fh_weak_call *next = call->next;
        if (is_over(call)) {
            free_call(call);
        } else {
            call->next = first;
            first = call;
            last = last == NULL ? call : last;
            kept++;
        }
        call = next;
    }
    if (first != NULL)
        push_calls(block, first, last);
    at_store_relaxed(&block->call_count, kept); /* two who prune at once may miscount */
    at_store_relaxed(&block->prune_count, 2 * kept + PRUNE_FIRST);
}

static int add_call(fh_object *weakref, struct fh_weak_block *block, fh_weak_callback callback,
                    void *context)
{
    struct fh_weak_call *call = fh_raw_malloc(sizeof *call);
    if (call == NULL) {
        fh_object_no_memory(sizeof *call);
        return -1;
    }
    if ((call->weakref = fh_weak_block_of(weakref)) == NULL) {
        fh_raw_free(call);
        return -1;
    }
    call->held = NULL;
    call->callback = callback;
    call->context = context;
    push_calls(block, call, call);
    uint32_t count = at_fetch_add_relaxed(&block->call_count, 1u) + 1;
    if (count >= at_load_relaxed(&block->prune_count))
        prune(block);
    return 0;
}

/* Of those taken, newest first, which is the order that they are made in: keep what is to be made,
 * each with its weak reference. */
static struct fh_weak_call *hold_calls(struct fh_weak_call *call,
                                       bool (*is_garbage)(const fh_object *weakref))
{
    struct fh_weak_call *first = NULL, **end = &first;
    while (call != NULL) {
        struct fh_weak_call *next = call->next;
        call->held = is_garbage != NULL && !is_over(call) && is_garbage(call->weakref->target)
                         ? NULL
                         : fh_weak_block_get(call->weakref);
        if (call->held == NULL) {
            free_call(call);
        } else {
            *end = call;
            end = &call->next;
        }
        call = next;
    }
    *end = NULL;
    return first;
}

struct fh_weak_call *fh_weak_join(struct fh_weak_call *list, struct fh_weak_call *behind)
{
    struct fh_weak_call **end = &list;
    while (*end != NULL)
        end = &(*end)->next;
    *end = behind;
    return list;
}

void fh_weak_run(struct fh_weak_call *call)
{
    while (call != NULL) {
        struct fh_weak_call *next = call->next;
        call->callback(call->held, call->context);
        fh_decref(call->held);
        free_call(call);
        call = next;
    }
}

/* ---- The target's end ---- */

struct fh_weak_block *fh_weak_end(fh_object *object)
{
    struct fh_weak_block *block = *fh_weak_place(object, object->type);
    if (block == NULL)
        return NULL;
    fh_weak_die(&block->word);
    if (at_load_relaxed(&block->calls) != NULL)
        fh_weak_run(hold_calls(take_calls(block), NULL));
    return block;
}

bool fh_weak_bury(struct fh_weak_block *block)
{
    bool is_mine = fh_weak_bury_word(&block->word);
    fh_weak_block_drop(block);
    return is_mine;
}

void fh_weak_clear(fh_object *object, bool (*is_garbage)(const fh_object *weakref),
                   struct fh_weak_call **calls)
{
    struct fh_weak_block **place = fh_weak_place(object, object->type), *block = *place;
    if (object->type->weak_offset == 0 || block == NULL)
        return;
    *place = NULL;
    fh_weak_die(&block->word); /* never buried: nobody is inside, or comes */
    *calls = fh_weak_join(hold_calls(take_calls(block), is_garbage), *calls);
    fh_weak_block_drop(block);
}

/* ---- Weak references ---- */

fh_object *fh_weakref_new(fh_object *target, fh_weak_callback callback, void *context)
{
    if (target->type->weak_offset == 0) {
        errno = EINVAL;
        return NULL;
    }
    struct weakref *weakref = (struct weakref *)fh_object_new(&fh_weakref_type);
    if (weakref == NULL)
        return NULL;
    weakref->target = fh_weak_block_of(target);
    if (weakref->target == NULL ||
        (callback != NULL && add_call(&weakref->base, weakref->target, callback, context) != 0)) {
        fh_decref(&weakref->base);
        errno = ENOMEM;
        return NULL;
    }
    fh_gc_track(&weakref->base);
    return &weakref->base;
}

fh_object *fh_weakref_get(fh_object *weakref)
{
    return fh_weak_block_get(((struct weakref *)weakref)->target);
}
