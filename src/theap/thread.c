/* SPDX-License-Identifier: MIT */
/* A heap id is free if it is in the hint set FH_HINTS_HEAPS, whose lowest level is the truth here:
 * who takes the bit out holds the heap. A heap that nobody holds has no pools, is busy, and is
 * otherwise as its last holder left it: so one that was never held, all zeros, is like any other.
 */
#include "thread.h"

#include <pthread.h>

#include "hints.h"
#include "holder.h"
#include "refill.h"
#include "spare.h"

const struct fh_theap fh_theap_none;
const struct fh_theap fh_theap_gone;

FH_THREAD_LOCAL const struct fh_theap *fh_theap_current = &fh_theap_none;

static uint32_t exit_key_plus_1; /* 0: no key yet */

/* ---- Hidden heaps -----------------------------------------------------------------------------
 */

static const struct fh_theap hidden; /* what the pointer of a traced thread points at: busy */

static FH_THREAD_LOCAL const struct fh_theap *own; /* its heap meanwhile */

/* A handler that finds the heap hidden shows and hides it for itself; one that finds it shown lets
 * it be. A thread without a heap may get one in the call, or in a handler, which hides it: then the
 * call goes on with a borrowed one. */
bool fh_theap_show(void)
{
    bool was_hidden = fh_theap_current == &hidden;
    if (was_hidden)
        fh_theap_current = own;
    FH_SIGNAL_FENCE();
    return was_hidden || fh_theap_current == &fh_theap_none;
}

void fh_theap_hide(bool was_hidden)
{
    const struct fh_theap *heap = fh_theap_current;
    if (!was_hidden || heap == &hidden || heap == &fh_theap_none || heap == &fh_theap_gone)
        return;
    own = heap;
    FH_SIGNAL_FENCE();
    fh_theap_current = &hidden;
}

/* ---- Heaps nobody holds -----------------------------------------------------------------------
 */

static struct fh_theap *claim_used(struct fh_region *region)
{
    uint32_t index = fh_hints_next(&region->hints, FH_HINTS_HEAPS, 0);
    for (; index != FH_HINT_NONE;
         index = fh_hints_next(&region->hints, FH_HINTS_HEAPS, index + 1)) {
        /* [heap-id] acquire: the heap as its last holder left it. */
        if (fh_hints_clear(&region->hints, FH_HINTS_HEAPS, index))
            return fh_theap_at(region, index);
    }
    return NULL;
}

static struct fh_theap *claim_new(struct fh_region *region)
{
    uint64_t index = fh_load_relaxed_u64(&region->heaps_opened); /* a guess: the CAS checks it */
    struct fh_theap *heap;
    do {
        if (index >= region->heaps_max)
            return NULL;
        heap = fh_theap_at(region, index);
        if (!fh_region_commit(region, heap, FH_THEAP_BYTES))
            return NULL;
        /* Relaxed: a heap nobody has held yet is all zeros. */
    } while (!fh_cas_relaxed_u64(&region->heaps_opened, &index, index + 1));
    heap->id = (uint32_t)index + 1;
    heap->region = region;
    return heap;
}

static struct fh_theap *claim_heap(void)
{
    struct fh_region *region = fh_region_get();
    if (region == NULL)
        return NULL;
    struct fh_theap *heap = claim_used(region);
    return heap != NULL ? heap : claim_new(region);
}

/* Of a busy heap that has no pools. */
static void release_drained(struct fh_theap *heap)
{
    /* [heap-id] release: the heap's fields, to the next claim_used(). */
    fh_hints_set(&heap->region->hints, FH_HINTS_HEAPS, heap->id - 1);
}

/* ---- Thread exit ------------------------------------------------------------------------------
 */

/* The key's destructor. A heap that is busy even now was left so by a siglongjmp out of a handler:
 * its lists may be half changed, so it is set aside for ever. */
static void leave_thread(void *heap_pointer)
{
    struct fh_theap *heap = heap_pointer;
    (void)fh_theap_show();
    if (fh_theap_of_thread() != heap || fh_theap_is_busy(heap))
        return;
    fh_theap_set_busy(heap);
    fh_holder_clear(heap);
    fh_theap_drain(heap);
    fh_theap_current = &fh_theap_gone;
    own = NULL;
    FH_SIGNAL_FENCE(); /* from here on a handler borrows, and the heap may be another thread's */
    release_drained(heap);
}

/* The key that runs leave_thread(). Several threads may make one at once; the first stays. */
static bool exit_key(pthread_key_t *key)
{
    uint64_t known = fh_load_relaxed_u32(&exit_key_plus_1); /* the number is all there is to it */
    if (known == 0) {
        pthread_key_t mine;
        if (pthread_key_create(&mine, leave_thread) != 0)
            return false;
        uint32_t found = 0;
        if (fh_cas_relaxed_u32(&exit_key_plus_1, &found, mine + 1))
            found = mine + 1;
        else
            (void)pthread_key_delete(mine);
        known = found;
    }
    *key = (pthread_key_t)(known - 1);
    return true;
}

/* Without a key (all are taken) the heap stays behind when the thread exits; it is then found as
 * those of killed threads are. */
static void drain_on_exit(struct fh_theap *heap)
{
    pthread_key_t key;
    if (exit_key(&key))
        (void)pthread_setspecific(key, heap);
}

/* ---- Entering and leaving ---------------------------------------------------------------------
 */

/* One instruction as a handler of this thread sees it: it may attach a heap at any moment. */
static bool attach(struct fh_theap *heap)
{
    void *none = (void *)(uintptr_t)&fh_theap_none;
    return fh_cas_acq_rel_ptr((void **)(uintptr_t)&fh_theap_current, &none, heap);
}

static struct fh_theap *attach_new(void)
{
    struct fh_theap *heap = claim_heap();
    if (heap == NULL)
        return NULL;
    if (attach(heap)) {
        fh_holder_set(heap);
        drain_on_exit(heap); /* may call calloc, which borrows: the heap is busy */
    }
    return heap; /* not attached: a handler was first, and this one is borrowed */
}

struct fh_theap *fh_theap_enter(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (!fh_theap_is_busy(heap)) {
        fh_theap_set_busy(heap);
        return heap;
    }
    return heap == &fh_theap_none ? attach_new() : claim_heap();
}

/* A handler may have hidden the heap since fh_theap_enter() found it, where it was not hidden. */
void fh_theap_leave(struct fh_theap *heap)
{
    if (fh_theap_of_thread() == heap || own == heap) {
        fh_theap_set_idle(heap);
        return;
    }
    fh_theap_release(heap);
}

void fh_theap_drain(struct fh_theap *heap)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        fh_theap_drain_class(heap, class_index);
    fh_spare_drain(heap);
}

void fh_theap_release(struct fh_theap *heap)
{
    fh_theap_drain(heap);
    release_drained(heap);
}
