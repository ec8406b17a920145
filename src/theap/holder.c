/* SPDX-License-Identifier: MIT */
#include "holder.h"

#include "bits.h"
#include "os.h"
#include "thread.h"

enum { THREAD_BITS = 22, PROCESS_BITS = 16, TURN_SHIFT = THREAD_BITS + PROCESS_BITS };

static uint64_t holder_word(uint64_t turn, uint64_t process, uint32_t thread)
{
    return turn << TURN_SHIFT | process << THREAD_BITS | thread;
}

static uint64_t turn_of(uint64_t holder)
{
    return holder >> TURN_SHIFT;
}

static uint64_t process_of(uint64_t holder)
{
    return holder >> THREAD_BITS & fh_low_bits(PROCESS_BITS);
}

static uint32_t thread_of(uint64_t holder)
{
    return (uint32_t)(holder & fh_low_bits(THREAD_BITS));
}

/* ---- Which process ----------------------------------------------------------------------------
 */

/* Of a process that has no number yet: the first one, or a child since its fork. */
static uint64_t number_process(struct fh_region *region)
{
    /* Relaxed, both: numbers, which pass nothing. They come round after 65535 forks of forks. */
    uint64_t number = fh_fetch_add_relaxed_u64(&region->processes, 1) % fh_low_bits(PROCESS_BITS);
    uint64_t none = 0;
    return fh_cas_relaxed_u64(region->process, &none, number + 1) ? number + 1 : none;
}

static uint64_t process_now(struct fh_region *region)
{
    uint64_t process = fh_load_relaxed_u64(region->process); /* as above */
    return process != 0 ? process : number_process(region);
}

/* ---- Whose heap -------------------------------------------------------------------------------
 */

/* The calling thread, as a holder; without a thread if it is unclear which one it is. */
static void set_holder(struct fh_theap *heap, uint64_t process)
{
    uint32_t process_id, thread;
    if (!fh_os_identify_thread(&process_id, &thread) || thread >> THREAD_BITS != 0)
        thread = 0;
    fh_store_own_u32(&heap->holder_process, process_id);
    uint64_t turn = turn_of(fh_load_relaxed_u64(&heap->holder)) + 1; /* our own last write */
    /* [holder] release: which process, to examine(). */
    fh_store_release_u64(&heap->holder, holder_word(turn, process, thread));
}

void fh_holder_set(struct fh_theap *heap)
{
    if (heap->region->process != NULL)
        set_holder(heap, process_now(heap->region));
}

void fh_holder_clear(struct fh_theap *heap)
{
    uint64_t turn = turn_of(fh_load_relaxed_u64(&heap->holder)); /* our own last write */
    /* Relaxed: an economy. Who still finds the old holder finds the heap busy, or held anew. */
    fh_store_relaxed_u64(&heap->holder, holder_word(turn, 0, 0));
}

bool fh_holder_has_thread(const struct fh_theap *heap)
{
    return thread_of(fh_load_relaxed_u64(&heap->holder)) != 0; /* a snapshot */
}

/* Our own heap in a process that did not set it: we are the thread that forked. */
static void survive(struct fh_theap *heap, uint64_t process)
{
    set_holder(heap, process);
    /* [survivor] release: the heap's new holder, before anybody of old is taken for dead. */
    fh_store_release_u64(&heap->region->survivor, process);
}

/* ---- The dead ---------------------------------------------------------------------------------
 */

static bool is_dead(const struct fh_theap *heap, uint64_t holder, uint64_t process)
{
    if (thread_of(holder) == 0)
        return false;
    if (process_of(holder) == process)
        return fh_os_thread_is_gone(fh_load_own_u32(&heap->holder_process), thread_of(holder));
    /* [survivor] acquire: the new holder of the heap that only seems to be dead; the CAS in
     * examine() then fails. */
    return fh_load_acquire_u64(&heap->region->survivor) == process;
}

/* True if it was a dead thread's, and is now anybody's. */
static bool examine(struct fh_theap *heap, uint64_t process)
{
    /* [holder] acquire: which process, from set_holder(). */
    uint64_t holder = fh_load_acquire_u64(&heap->holder);
    if (!is_dead(heap, holder, process))
        return false;
    /* Relaxed: only one gets it; what the dead thread wrote, the system passes on with the news of
     * its end. */
    if (!fh_cas_relaxed_u64(&heap->holder, &holder, holder_word(turn_of(holder), 0, 0)))
        return false;
    if (fh_theap_is_busy(heap))
        return false; /* set aside */
    fh_theap_set_busy(heap);
    fh_theap_release(heap);
    return true;
}

/* Examine `heaps` of them from the cursor on, all round; drain a few of the dead. */
static void look(struct fh_region *region, uint64_t process, uint64_t heaps, unsigned drained_max)
{
    uint64_t opened = fh_load_relaxed_u64(&region->heaps_opened); /* new ones are not dead yet */
    uint64_t at = fh_load_relaxed_u64(&region->holders_cursor);   /* any start will do */
    for (; heaps > 0 && drained_max > 0; heaps--, at++) {
        at = at < opened ? at : 0;
        if (examine(fh_theap_at(region, at), process))
            drained_max--;
    }
    fh_store_relaxed_u64(&region->holders_cursor, at);
}

/* May this thread judge others? Not where it takes itself for another. */
static bool may_judge(void)
{
    uint32_t process_id, thread;
    return fh_os_identify_thread(&process_id, &thread);
}

/* Relaxed: whoever gets the ticket; if it stops here, the next interval has another. */
static bool is_turn(struct fh_region *region)
{
    uint64_t due = fh_load_relaxed_u64(&region->holders_are_due);
    return FH_UNLIKELY(due != 0) && fh_cas_relaxed_u64(&region->holders_are_due, &due, 0);
}

void fh_holder_tick(struct fh_theap *heap)
{
    struct fh_region *region = heap->region;
    uint64_t opened = fh_load_relaxed_u64(&region->heaps_opened); /* see look() */
    if (region->process == NULL || opened < 2)
        return;
    uint64_t process = process_now(region);
    if (heap == fh_theap_of_thread() && process_of(fh_load_relaxed_u64(&heap->holder)) != process)
        survive(heap, process);
    if (is_turn(region) && may_judge())
        look(region, process, opened < FH_DEAD_LOOKED ? opened : FH_DEAD_LOOKED, FH_DEAD_DRAINED);
}

void fh_holder_release_dead(struct fh_region *region)
{
    if (region->process == NULL || !may_judge())
        return;
    look(region, process_now(region), fh_load_relaxed_u64(&region->heaps_opened), ~0u);
}
