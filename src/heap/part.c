/* SPDX-License-Identifier: MIT */
/* Entering and leaving the parts of a heap.
 *
 * A thread begins at the part that it had last, of whichever heap. So threads that meet in a part
 * spread, each to one of its own, and there are never more parts than calls that were made at once.
 */
#include "heap.h"

/* Passes over parts of which some are busy, in which nobody else gets on. Who is inside of one and
 * running is out of it by then. */
enum { UNCHANGED_MAX = 64 };

static FH_THREAD_LOCAL uint32_t last_part;

static bool try_enter(struct fh_heap_part *part)
{
    uint64_t turns = fh_load_relaxed_u64(&part->busy); /* a guess: the CAS checks it */
    if (turns % 2 != 0)
        return false;
    /* [part] acquire: the part's engine, as the one before left it. */
    return fh_cas_acquire_u64(&part->busy, &turns, turns | 1);
}

bool fh_part_try_enter(struct fh_heap_part *part)
{
    if (!try_enter(part))
        return false;
    fh_classic_drain_if_any(fh_part_classic(part));
    return true;
}

void fh_part_leave(struct fh_heap_part *part)
{
    /* [part] release: the part's engine. */
    fh_store_release_u64(&part->busy, fh_load_own_u64(&part->busy) + 1);
}

/* After a look at it, which is no turn. */
static void leave_as_it_was(struct fh_heap_part *part)
{
    /* [part] release: the part's engine. */
    fh_store_release_u64(&part->busy, fh_load_own_u64(&part->busy) - 1);
}

bool fh_part_make(struct fh_heap *heap, struct fh_heap_part *part)
{
    struct fh_classic_config config = heap->classic;
    part->heap = heap;
    config.user = part;
    fh_store_own_ptr(&part->classic, fh_classic_create(&config));
    return fh_part_classic(part) != NULL;
}

/* The first idle one from the thread's last on, of those that were ever entered. */
static struct fh_heap_part *enter_idle(struct fh_heap *heap, uint32_t count)
{
    uint32_t index = last_part < count ? last_part : 0;
    for (uint32_t tried = 0; tried < count; tried++) {
        if (try_enter(&heap->parts[index])) {
            last_part = index;
            return &heap->parts[index];
        }
        index = index + 1 < count ? index + 1 : 0;
    }
    return NULL;
}

/* All others are busy. Others may be quicker to enter the part that is added; at most parts_max
 * times. */
static struct fh_heap_part *enter_another(struct fh_heap *heap)
{
    uint64_t count = fh_load_relaxed_u64(&heap->parts_count); /* a guess: the CAS checks it */
    while (count < heap->parts_max) {
        /* Relaxed: parts that nobody has entered are all zeros. */
        if (!fh_cas_relaxed_u64(&heap->parts_count, &count, count + 1))
            continue;
        if (try_enter(&heap->parts[count])) {
            last_part = (uint32_t)count;
            return &heap->parts[count];
        }
        count++;
    }
    return NULL;
}

static FH_NOINLINE struct fh_heap_part *enter_any(struct fh_heap *heap, uint32_t count)
{
    struct fh_heap_part *part = enter_idle(heap, count);
    if (part == NULL)
        part = enter_another(heap);
    if (part == NULL)
        return NULL;
    if (fh_part_classic(part) == NULL && !fh_part_make(heap, part)) {
        fh_part_leave(part);
        return NULL;
    }
    fh_classic_drain_if_any(fh_part_classic(part));
    return part;
}

struct fh_heap_part *fh_part_enter(struct fh_heap *heap)
{
    uint32_t count = (uint32_t)fh_load_relaxed_u64(&heap->parts_count); /* where to look */
    struct fh_heap_part *part = &heap->parts[last_part];
    if (FH_LIKELY(last_part < count && fh_part_classic(part) != NULL && fh_part_try_enter(part)))
        return part;
    return enter_any(heap, count);
}

/* ---- All of them ------------------------------------------------------------------------------
 */

struct pass {
    bool (*run)(void *context, struct fh_classic *classic);
    void *context;
    bool met_busy; /* a part that somebody is in, or stopped in, or was interrupted in */
};

static bool run_in(struct fh_heap *heap, struct fh_heap_part *part, struct pass *pass)
{
    bool enters = heap->mode == FH_OBJ_FREE;
    if (enters && !try_enter(part)) {
        pass->met_busy = true;
        return true;
    }
    struct fh_classic *classic = fh_part_classic(part);
    bool goes_on = classic == NULL || pass->run(pass->context, classic);
    if (enters && goes_on)
        leave_as_it_was(part);
    else if (enters)
        fh_part_leave(part);
    return goes_on;
}

static bool run_in_each(struct fh_heap *heap, struct pass *pass)
{
    uint64_t count =
        fh_load_relaxed_u64(&heap->parts_count); /* who comes later is not waited for */
    for (uint64_t index = 0; index < count; index++)
        if (!run_in(heap, &heap->parts[index], pass))
            return false;
    return true;
}

bool fh_part_each(struct fh_heap *heap, bool (*run)(void *context, struct fh_classic *classic),
                  void *context)
{
    struct pass pass = {.run = run, .context = context};
    return run_in_each(heap, &pass);
}

/* Of all parts. It only grows: two equal sums mean that none has changed. */
static uint64_t turns_of(const struct fh_heap *heap)
{
    uint64_t turns = 0;
    uint64_t count = fh_load_relaxed_u64(&heap->parts_count); /* others were never entered */
    for (uint64_t index = 0; index < count; index++)
        turns += fh_load_relaxed_u64(&heap->parts[index].busy) >> 1; /* a count */
    return turns;
}

bool fh_part_each_again(struct fh_heap *heap,
                        bool (*run)(void *context, struct fh_classic *classic), void *context)
{
    uint64_t turns = turns_of(heap);
    for (unsigned unchanged = 0; unchanged < UNCHANGED_MAX; unchanged++) {
        struct pass pass = {.run = run, .context = context};
        if (!run_in_each(heap, &pass))
            return false;
        uint64_t before = turns;
        turns = turns_of(heap);
        if (!pass.met_busy)
            return true;
        if (turns != before)
            unchanged = 0;
    }
    return true;
}
