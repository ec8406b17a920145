/* SPDX-License-Identifier: MIT */
/* A collection from its begin to its end.
 *
 *   begin     busy goes from 0 to 1 by who collects; the world stops
 *   phases    those of gc_phases.h, one after the other, for all slots; in free mode threads that
 *             have stopped take the part of their own slot if they come in time
 *   hand out  garbage goes to the slots whose threads run, which drop it when the world goes on;
 *             that of other slots, and all if a finalizer has to run, to the collector's
 *   drop      weak references' callbacks, finalizers, a second look at what these resurrected, with
 *             the world stopped again; then clear() and the collection's reference of each
 *   end       busy goes down by one for each thread that is done, to 0
 *
 * While busy is not 0 no collection begins. So garbage is what its list says until it is dropped,
 * whatever the code of types does meanwhile.
 */
#include "gc_phases.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include "cache.h"
#include "weak.h"

static struct fh_slot *first_slot(fh_space *space)
{
    /* acquire: the slot, as whoever listed it left it; its other end is in fh_slot_claim(). */
    return at_load_acquire(&space->slots);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Phases ---- */

enum { SPINS_MAX = 2000, YIELD_EACH = 256 };

static inline void spin_once(unsigned spins)
{
    if (spins % YIELD_EACH == YIELD_EACH - 1)
        (void)sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static inline uint32_t phase_of(uint64_t turn)
{
    return (uint32_t)(turn % FH_GC_TURN_ONE);
}

/* True: the slot's part of the phase is the caller's to run. Nobody gets it twice, since turns only
 * rise. Number and phase are one word: of the two apart, the one could be of the turn before, for
 * which nobody has claimed the part of a slot that is new. */
static bool claim_part(struct fh_slot *slot, uint64_t turn)
{
    uint64_t last = at_load_relaxed(&slot->gc.turn); /* a guess: the CAS checks it */
    /* Relaxed: what the phase works on came with the load of the turn. */
    return last < turn && at_cas_relaxed(&slot->gc.turn, &last, turn);
}

static void run_claimed(struct fh_gc *gc, struct fh_slot *slot, uint64_t turn)
{
    fh_gc_run_part(gc, slot, phase_of(turn));
    /* release: what the part did, to the acquire in run_phase(); acquire for who is last. */
    (void)at_fetch_sub_acq_rel(&gc->unfinished, 1);
}

static void wait_for_parts(struct fh_gc *gc)
{
    /* acquire: what others did; its other end is in run_claimed(). */
    if (at_load_acquire(&gc->unfinished) == 0)
        return;
    uint64_t begun_ns = now_ns();
    for (unsigned spins = 0; at_load_acquire(&gc->unfinished) != 0; spins++)
        spin_once(spins);
    gc->waited_ns += now_ns() - begun_ns;
}

static uint64_t next_turn(struct fh_gc *gc, uint32_t phase)
{
    uint64_t turn = at_load_relaxed(&gc->turn) / FH_GC_TURN_ONE * FH_GC_TURN_ONE;
    turn += FH_GC_TURN_ONE + phase;
    /* release: what the phase before did to all slots, to the acquire in fh_gc_help(). */
    at_store_release(&gc->turn, turn);
    return turn;
}

/* By the collector: the own slot's part first, then those that nobody has begun. */
static void run_phase(fh_space *space, struct fh_slot *own, uint32_t phase)
{
    struct fh_gc *gc = &space->gc;
    struct fh_slot *first = first_slot(space); /* a thread that comes meanwhile may list its own */
    uint32_t slot_count = 0;
    for (struct fh_slot *slot = first; slot != NULL; slot = slot->next)
        slot_count++;
    at_store_relaxed(&gc->unfinished, slot_count);
    uint64_t turn = next_turn(gc, phase);
    if (claim_part(own, turn))
        run_claimed(gc, own, turn);
    for (struct fh_slot *slot = first; slot != NULL; slot = slot->next)
        if (claim_part(slot, turn))
            run_claimed(gc, slot, turn);
    wait_for_parts(gc);
    bool is_left = false;
    for (struct fh_slot *slot = first; slot != NULL; slot = slot->next)
        is_left |= slot->gc.met_others;
    for (struct fh_slot *slot = first; slot != NULL && is_left; slot = slot->next)
        fh_gc_run_rest(gc, slot, phase);
}

/* Its thread goes on when the world does. */
static bool has_stopped(const struct fh_slot *slot)
{
    return at_load_relaxed(&slot->state) == FH_SLOT_STOPPED;
}

void fh_gc_help(struct fh_slot *slot)
{
    struct fh_gc *gc = &slot->space->gc;
    if (!has_stopped(slot))
        return;
    for (unsigned spins = 0; spins < SPINS_MAX && fh_space_is_stopping(slot->space); spins++) {
        /* acquire: what the collector did before it said so; its other end is in next_turn(). */
        uint64_t turn = at_load_acquire(&gc->turn);
        if (phase_of(turn) != FH_GC_NO_PHASE && claim_part(slot, turn)) {
            run_claimed(gc, slot, turn);
            spins = 0;
        }
        spin_once(spins);
    }
}

/* ---- Garbage is handed out ---- */

/* In front of another list, whose end is found by going through this one. */
static fh_object *join_garbage(fh_object *list, fh_object *behind)
{
    fh_object *last = list;
    if (list == NULL)
        return behind;
    for (fh_object *next; (next = fh_gc_next_garbage(last)) != NULL;)
        last = next;
    fh_gc_head_of(last)->word |= fh_gc_link_to(behind);
    return list;
}

static void take_garbage(struct fh_slot *own, struct fh_slot *slot)
{
    own->gc.garbage = join_garbage(slot->gc.garbage, own->gc.garbage);
    own->gc.calls = fh_weak_join(slot->gc.calls, own->gc.calls);
    slot->gc.garbage = NULL;
    slot->gc.calls = NULL;
}

static bool has_garbage(const struct fh_slot *slot)
{
    return slot->gc.garbage != NULL || slot->gc.calls != NULL;
}

/* Who has stopped comes to fh_gc_clear_garbage() when the world goes on. */
static void hand_out(fh_space *space, struct fh_slot *own, bool to_one)
{
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next) {
        if (slot == own || !has_garbage(slot))
            continue;
        if (to_one || !has_stopped(slot))
            take_garbage(own, slot);
        else
            (void)at_fetch_add_relaxed(&space->gc.busy, 1);
    }
}

/* ---- Garbage is dropped ---- */

static void clear_object(fh_object *object)
{
    if (object->type->clear != NULL)
        object->type->clear(object);
    fh_decref(object);
}

/* The list's objects are all held, so none goes before its turn. */
static void clear_list(fh_object *list)
{
    while (list != NULL) {
        fh_object *object = list;
        list = fh_gc_next_garbage(object);
        struct fh_gc_head *head = fh_gc_head_of(object);
        at_store_relaxed(&head->word, head->word & (FH_GC_TRACKED | FH_GC_FINALIZED));
        clear_object(object);
    }
}

static void run_calls(struct fh_slot *slot)
{
    struct fh_weak_call *calls = slot->gc.calls;
    slot->gc.calls = NULL;
    fh_weak_run(calls);
}

static fh_object *own_garbage(struct fh_slot *slot)
{
    fh_object *garbage = slot->gc.garbage;
    slot->gc.garbage = NULL;
    return garbage;
}

/* The thread is inside of a collection, at the code of types. */
static __thread bool is_inside __attribute__((tls_model("initial-exec")));

/* release: all that was done to the containers, to the acquire in begin(). */
static void leave(struct fh_gc *gc)
{
    (void)at_fetch_sub_acq_rel(&gc->busy, 1);
}

void fh_gc_clear_garbage(struct fh_slot *slot)
{
    if (!has_garbage(slot))
        return;
    struct fh_gc *gc = &slot->space->gc;
    fh_object *garbage = own_garbage(slot);
    bool was_inside = is_inside;
    is_inside = true;
    run_calls(slot);
    clear_list(garbage);
    is_inside = was_inside;
    leave(gc);
}

/* ---- Finalizers ---- */

static uint64_t run_finalizers(fh_object *garbage)
{
    uint64_t count = 0;
    for (; garbage != NULL; garbage = fh_gc_next_garbage(garbage))
        if (garbage->type->finalize != NULL && !fh_gc_set_finalized(garbage)) {
            garbage->type->finalize(garbage);
            count++;
        }
    return count;
}

static uint64_t stop(fh_space *space)
{
    uint64_t begun_ns = now_ns();
    while (!fh_space_stop(space))
        ; /* it was another's stop, of which this thread was one that waited */
    uint64_t stopped_ns = now_ns();
    space->gc.waited_ns += stopped_ns - begun_ns;
    return stopped_ns;
}

static void go_on(fh_space *space, uint64_t since_ns)
{
    uint64_t stopped_ns = now_ns() - since_ns;
    space->gc.stats.stop_ns += stopped_ns;
    if (stopped_ns > space->gc.stats.stop_ns_max)
        space->gc.stats.stop_ns_max = stopped_ns;
    fh_space_resume(space);
}

/* Returns what is garbage still, and counts what is not. */
static fh_object *finalize(fh_space *space, fh_object *garbage, uint64_t *resurrected_count)
{
    struct fh_gc *gc = &space->gc;
    struct fh_weak_call *calls = NULL;
    uint64_t finalized_count = run_finalizers(garbage);
    uint64_t since_ns = stop(space);
    gc->stats.finalized += finalized_count;
    garbage = fh_gc_judge_again(garbage, &calls, resurrected_count);
    gc->stats.resurrected += *resurrected_count;
    go_on(space, since_ns);
    fh_weak_run(calls);
    return garbage;
}

/* ---- Begin and end ---- */

static bool begin(struct fh_gc *gc)
{
    uint32_t idle = 0;
    /* acquire: what the collections before did; its other end is in leave(). */
    return at_cas_acquire(&gc->busy, &idle, 1);
}

static void run_phases(fh_space *space, struct fh_slot *own, unsigned generation)
{
    struct fh_gc *gc = &space->gc;
    gc->generation = generation;
    gc->is_shared = false;
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next) {
        gc->is_shared |= slot != own && has_stopped(slot);
        slot->gc.garbage_count = slot->gc.survivors_count = 0;
        slot->gc.garbage_finalizes = false;
    }
    for (uint32_t phase = FH_GC_COUNT; phase < FH_GC_PHASES_END; phase++)
        run_phase(space, own, phase);
    (void)next_turn(gc, FH_GC_NO_PHASE);
}

struct result {
    uint64_t garbage_count, survivors_count;
    bool finalizes;
};

static struct result sum_up(fh_space *space)
{
    struct result sum = {0, 0, false};
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next) {
        sum.garbage_count += slot->gc.garbage_count;
        sum.survivors_count += slot->gc.survivors_count;
        sum.finalizes |= slot->gc.garbage_finalizes;
    }
    return sum;
}

static void note(struct fh_gc *gc, unsigned generation, const struct result *result)
{
    gc->stats.generations[generation].collections++;
    gc->stats.generations[generation].survivors = result->survivors_count;
    for (unsigned g = 0; g <= generation; g++)
        gc->younger_count[g] = 0;
    if (generation < 2)
        gc->younger_count[generation + 1]++;
    if (generation == 1)
        gc->long_lived_pending += result->survivors_count;
    if (generation == 2) {
        gc->long_lived_pending = 0;
        gc->long_lived_total = result->survivors_count;
    }
}

/* What others keep for later is theirs again only when the world goes on. */
static void prune(fh_space *space, unsigned generation)
{
    fh_intern_prune(space);
    if (generation + 1 < FH_GC_GENERATIONS)
        return;
    fh_free_lists_clear_all(space);
    fh_slab_clear_all(space);
}

enum { WAITING_MAX_PART = 32, WAITING_MIN_PART = 128, RARITY_MAX = 8 };

/* Waiting for other threads shall take no more than a part of the time. Where it does, the young
 * generation is allowed to get larger, which costs memory, and what its objects have in the
 * processor's caches. */
static void adapt_rarity(struct fh_gc *gc)
{
    uint64_t since_last_ns = now_ns() - gc->ended_ns;
    if (gc->waited_ns > since_last_ns / WAITING_MAX_PART && gc->rarity < RARITY_MAX)
        gc->rarity = gc->rarity == 0 ? 2 : gc->rarity * 2;
    else if (gc->waited_ns < since_last_ns / WAITING_MIN_PART)
        gc->rarity /= 2;
    gc->waited_ns = 0;
}

static struct result find_garbage(fh_space *space, struct fh_slot *own, unsigned generation)
{
    uint64_t since_ns = stop(space);
    adapt_rarity(&space->gc);
    run_phases(space, own, generation);
    struct result result = sum_up(space);
    note(&space->gc, generation, &result);
    hand_out(space, own, result.finalizes);
    prune(space, generation);
    go_on(space, since_ns);
    space->gc.ended_ns = now_ns();
    return result;
}

/* The caller has begun it. */
static uint64_t collect(struct fh_slot *slot, unsigned generation)
{
    fh_space *space = slot->space;
    struct result result = find_garbage(space, slot, generation);
    fh_object *garbage = own_garbage(slot);
    uint64_t resurrected_count = 0;
    is_inside = true;
    run_calls(slot);
    if (result.finalizes)
        garbage = finalize(space, garbage, &resurrected_count);
    space->gc.stats.generations[generation].collected += result.garbage_count - resurrected_count;
    clear_list(garbage);
    is_inside = false;
    leave(&space->gc);
    return result.garbage_count - resurrected_count;
}

void fh_gc_collect_due(struct fh_slot *slot)
{
    struct fh_gc *gc = &slot->space->gc;
    if (begin(gc))
        (void)collect(slot, fh_gc_generation_due(gc));
    else
        slot->gc.limit_count = slot->gc.made_count + fh_gc_limit(gc);
}

void fh_gc_look(struct fh_slot *slot)
{
    if (!slot->gc.is_due)
        return;
    slot->gc.is_due = false;
    fh_gc_collect_due(slot);
}

enum { TRIES_MAX = 1000 };

/* In free mode another thread's collection may be under way: let it be over first. Not for ever:
 * its finalizers may take their time. */
static bool begin_after_others(struct fh_slot *slot)
{
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        if (begin(&slot->space->gc))
            return true;
        if (is_inside || !fh_space_is_free(slot->space))
            return false;
        (void)sched_yield();
        fh_object_look();
    }
    return false;
}

int64_t fh_gc_collect(int generation)
{
    struct fh_slot *slot = fh_slot_needed("fh_gc_collect", NULL);
    if (generation < 0 || generation >= FH_GC_GENERATIONS) {
        errno = EINVAL;
        return -1;
    }
    if (!is_inside)
        fh_object_look();
    if (!begin_after_others(slot)) {
        errno = EBUSY;
        return -1;
    }
    return (int64_t)collect(slot, (unsigned)generation);
}

/* What was handed out to threads that are gone is dropped by this one; what they had begun to drop
 * stays. */
void fh_gc_after_fork_child(fh_space *space)
{
    struct fh_slot *own = fh_slot_needed("fh_space_after_fork_child", space);
    for (struct fh_slot *slot = first_slot(space); slot != NULL; slot = slot->next)
        if (slot != own)
            take_garbage(own, slot);
    (void)next_turn(&space->gc, FH_GC_NO_PHASE);
    at_store_relaxed(&space->gc.busy, (uint32_t)is_inside + has_garbage(own));
    fh_gc_clear_garbage(own);
}
